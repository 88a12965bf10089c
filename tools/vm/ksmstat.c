// SPDX-License-Identifier: GPL-2.0
/*
 * ksmstat - what samepage merging does and saves, as vmstat is for memory
 *
 * Reads what the kernel offers: all of it is there since Linux 6.12 where
 * nothing else is said, and the rest is shown as "-" where it is missing.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdnoreturn.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>
#include <wctype.h>

#define KSM		"/sys/kernel/mm/ksm/"
#define DOMAINS		"/sys/kernel/debug/ksm/domains"
#define HEADER_EVERY	20
#define KIB		1024.0
#define MIB		(1024.0 * 1024.0)

static double page_size;
static bool json;

static noreturn void die(int status, const char *fmt, ...)
{
	va_list args;

	fflush(stdout);
	fputs("ksmstat: ", stderr);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	exit(status);
}

static void *grow(void *array, size_t size)
{
	array = realloc(array, size);
	if (!array)
		die(1, "out of memory");
	return array;
}

/* ---- files ---- */

/* A number, or NAN if there is no such file, or it is not for us. */
static double number_in(const char *path)
{
	FILE *file = fopen(path, "re");
	double value = NAN;

	if (!file)
		return NAN;
	if (fscanf(file, "%lf", &value) != 1)
		value = NAN;
	fclose(file);
	return value;
}

static double ksm(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), KSM "%s", name);
	return number_in(path);
}

struct field {
	const char *name;
	double *value;
};

/* The numbers after some names, in a file of such lines; NAN if there is none. */
static void read_fields(const char *path, const struct field *fields)
{
	const struct field *field;
	char line[256], key[64];
	double value;
	FILE *file;

	for (field = fields; field->name; field++)
		*field->value = NAN;
	file = fopen(path, "re");
	if (!file)
		return;
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%63s %lf", key, &value) != 2)
			continue;
		for (field = fields; field->name; field++)
			if (!strcmp(key, field->name))
				*field->value = value;
	}
	fclose(file);
}

/* The name of a process; it may hold anything but a new line and a null. */
static bool comm_of(int pid, char *comm, size_t size)
{
	char path[64];
	FILE *file;
	bool read;

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	file = fopen(path, "re");
	if (!file)
		return false;
	read = fgets(comm, size, file);
	fclose(file);
	if (read)
		comm[strcspn(comm, "\n")] = '\0';
	return read;
}

/* All processes, one a call: 0 is the end. */
static int next_pid(DIR *proc)
{
	struct dirent *entry;

	while ((entry = readdir(proc)))
		if (isdigit((unsigned char)entry->d_name[0]))
			return atoi(entry->d_name);
	return 0;
}

static DIR *open_proc(void)
{
	DIR *proc = opendir("/proc");

	if (!proc)
		die(1, "/proc: %s", strerror(errno));
	return proc;
}

#define KTHREADD	2

/* Seconds of a processor that a thread of the kernel has had; of others none. */
static double kthread_seconds(int pid)
{
	double user, system;
	int parent;
	char path[64];
	FILE *file;
	int fields;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = fopen(path, "re");
	if (!file)
		return 0;
	fields = fscanf(file, "%*d (%*[^)]) %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lf %lf",
			&parent, &user, &system);
	fclose(file);
	return fields == 3 && parent == KTHREADD ? (user + system) / sysconf(_SC_CLK_TCK) : 0;
}

/* Of ksmd and its helpers, ksmd/1 and so on. */
static double ksmd_seconds(void)
{
	DIR *proc = open_proc();
	double seconds = 0;
	int pid;

	while ((pid = next_pid(proc))) {
		char comm[64];

		if (comm_of(pid, comm, sizeof(comm)) &&
		    (!strcmp(comm, "ksmd") || !strncmp(comm, "ksmd/", 5)))
			seconds += kthread_seconds(pid);
	}
	closedir(proc);
	return seconds;
}

static double since_boot(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

/* ---- tables ---- */

struct column {
	const char *head;	/* NULL: only in JSON */
	const char *key;
	int width;		/* negative: text, to the left */
	int decimals;
	double unit;		/* in which people read it */
};

struct cell {
	double number;		/* NAN: not known */
	const char *text;
};

static struct cell plain(double number)
{
	return (struct cell){ .number = number };
}

static struct cell text(const char *text)
{
	return (struct cell){ .text = text };
}

static void print_head(const struct column *columns)
{
	const char *space = "";

	for (; columns->key; columns++) {
		if (!columns->head)
			continue;
		printf("%s%*s", space, columns->width, columns->head);
		space = " ";
	}
	putchar('\n');
}

/*
 * The next character of a process's name, which may hold anything, and end in the
 * midst of one: its bytes, at least one, and 0xfffd for what is none.
 */
static size_t next_char(const char *string, wchar_t *c)
{
	mbstate_t state = { 0 };
	size_t bytes = mbrtowc(c, string, MB_CUR_MAX, &state);

	if (bytes && bytes <= MB_CUR_MAX)
		return bytes;
	*c = 0xfffd;
	return 1;
}

static void print_string(const char *string)
{
	size_t bytes;
	wchar_t c;

	putchar('"');
	for (; *string; string += bytes) {
		bytes = next_char(string, &c);
		if (c == '"' || c == '\\')
			printf("\\%c", (char)c);
		else if (c < ' ' || c == 0x7f || c == 0xfffd)
			printf("\\u%04x", (unsigned int)c);
		else
			fwrite(string, 1, bytes, stdout);
	}
	putchar('"');
}

/* For a terminal, which must not take it for orders. */
static const char *printable(const char *string)
{
	static char safe[256];
	size_t bytes, at = 0;
	wchar_t c;

	for (; *string && at + MB_CUR_MAX < sizeof(safe); string += bytes) {
		bytes = next_char(string, &c);
		if (c != 0xfffd && iswprint(c)) {
			memcpy(safe + at, string, bytes);
			at += bytes;
		} else {
			safe[at++] = '?';
		}
	}
	safe[at] = '\0';
	return safe;
}

static void print_object(const struct column *columns, const struct cell *cells)
{
	const char *comma = "";

	putchar('{');
	for (; columns->key; columns++, cells++) {
		printf("%s\"%s\": ", comma, columns->key);
		comma = ", ";
		if (cells->text)
			print_string(cells->text);
		else if (isnan(cells->number))
			fputs("null", stdout);
		else
			printf("%.15g", cells->number);
	}
	putchar('}');
}

static void print_line(const struct column *columns, const struct cell *cells)
{
	const char *space = "";

	for (; columns->key; columns++, cells++) {
		if (!columns->head)
			continue;
		fputs(space, stdout);
		space = " ";
		if (cells->text)
			printf("%*s", columns->width, printable(cells->text));
		else if (isnan(cells->number))
			printf("%*s", columns->width, "-");
		else
			printf("%*.*f", columns->width, columns->decimals,
			       cells->number / columns->unit);
	}
	putchar('\n');
}

/* A table of its own each time, as opposed to a line. */
static void print_rows(const struct column *columns, const struct cell *cells,
		       size_t rows)
{
	size_t width = 0;

	while (columns[width].key)
		width++;
	if (!json)
		print_head(columns);
	else
		putchar('[');
	for (size_t row = 0; row < rows; row++, cells += width) {
		if (json) {
			fputs(row ? ", " : "", stdout);
			print_object(columns, cells);
		} else {
			print_line(columns, cells);
		}
	}
	if (json)
		puts("]");
}

/* ---- the system ---- */

struct sample {
	double when;		/* seconds since boot */
	double shared, sharing, zero, profit, metadata;
	double scanned, skipped, unchanged, migrated, cow, passes;
	double cpu;
};

static const struct column system_columns[] = {
	{ "SAVED", "saved_bytes", 8, 1, MIB },
	{ "SHARED", "shared_bytes", 7, 1, MIB },
	{ "META", "metadata_bytes", 6, 2, MIB },
	{ "MERGE/s", "merged_per_second", 7, 0, 1 },
	{ "UNMRG/s", "unmerged_per_second", 7, 0, 1 },
	{ "SCAN/s", "scanned_per_second", 8, 0, 1 },
	{ "UNCH%", "unchanged_percent", 5, 1, 1 },
	{ "MIGR/s", "migrated_per_second", 6, 0, 1 },
	{ "CPU%", "ksmd_cpu_percent", 5, 1, 1 },
	{ "PASSES", "full_scans", 6, 0, 1 },
	{ NULL, "skipped_per_second", 0, 0, 1 },
	{ NULL, "seconds_since_boot", 0, 0, 1 },
	{ }
};

static struct sample take_sample(void)
{
	struct sample s = {
		.when = since_boot(),
		.shared = ksm("pages_shared"),
		.sharing = ksm("pages_sharing"),
		.zero = ksm("ksm_zero_pages"),
		.profit = ksm("general_profit"),
		.metadata = ksm("metadata_bytes"),
		.scanned = ksm("pages_scanned"),
		.skipped = ksm("pages_skipped"),
		.unchanged = ksm("pages_unchanged"),
		.migrated = ksm("pages_migrated"),
		.passes = ksm("full_scans"),
		.cpu = ksmd_seconds(),
	};
	const struct field fields[] = { { "cow_ksm", &s.cow }, { } };

	read_fields("/proc/vmstat", fields);
	if (isnan(s.sharing))
		die(1, "this kernel has no samepage merging: no " KSM);
	if (isnan(s.zero))
		s.zero = 0;
	/* What the profit is less than what is saved */
	if (isnan(s.metadata))
		s.metadata = (s.sharing + s.zero) * page_size - s.profit;
	return s;
}

/*
 * Merges are not counted, but what is merged is, and so are the pages that are
 * copied out of it: at once, while they count as merged until ksmd comes by.
 * What goes without having been copied has been unmapped.
 */
static double unmerged_by(double copied, double more)
{
	static double noticed_later;
	double unmapped = fmax(0, -more - noticed_later - copied);

	noticed_later = fmax(0, noticed_later + copied + fmin(0, more));
	return copied + unmapped;
}

static void print_system(const struct sample *last, const struct sample *s,
			 bool with_head)
{
	double seconds = s->when - last->when;
	double more = s->shared + s->sharing + s->zero -
		      last->shared - last->sharing - last->zero;
	double unmerged = last->when ? unmerged_by(s->cow - last->cow, more) :
				       s->cow;
	double scanned = s->scanned - last->scanned;
	double per = seconds > 0 ? 1 / seconds : NAN;
	const struct cell cells[] = {
		plain((s->sharing + s->zero) * page_size),
		plain(s->shared * page_size),
		plain(s->metadata),
		plain(fmax(0, more) * per),
		plain(unmerged * per),
		plain(scanned * per),
		plain(scanned ? 100 * (s->unchanged - last->unchanged) /
				scanned : NAN),
		plain((s->migrated - last->migrated) * per),
		/* A helper that has gone takes its time with it */
		plain(100 * fmax(0, s->cpu - last->cpu) * per),
		plain(s->passes),
		plain((s->skipped - last->skipped) * per),
		plain(s->when),
	};

	if (json) {
		print_object(system_columns, cells);
		putchar('\n');
		return;
	}
	if (with_head)
		print_head(system_columns);
	print_line(system_columns, cells);
}

static void show_system(void)
{
	static struct sample last;	/* at first: boot, when all was 0 */
	static unsigned long lines;
	struct sample s = take_sample();

	print_system(&last, &s, !lines ||
		     (isatty(STDOUT_FILENO) && lines % HEADER_EVERY == 0));
	last = s;
	lines++;
}

/* ---- processes ---- */

struct process {
	int pid;
	char comm[64];
	double known, merged, zero, profit;
};

static const struct column process_columns[] = {
	{ "PID", "pid", 7, 0, 1 },
	{ "PROFIT", "profit_bytes", 10, 0, KIB },
	{ "MERGED", "merged_bytes", 10, 0, KIB },
	{ "ZERO", "zero_bytes", 10, 0, KIB },
	{ "COST", "metadata_bytes", 8, 0, KIB },
	{ "KNOWN", "known_bytes", 10, 0, KIB },
	{ "COMMAND", "command", -7, 0, 1 },
	{ }
};

static int by_profit(const void *left, const void *right)
{
	const struct process *l = left, *r = right;

	if (l->profit != r->profit)
		return l->profit < r->profit ? 1 : -1;
	return l->pid - r->pid;
}

/* True if it takes part. */
static bool read_process(struct process *p, int pid)
{
	struct field fields[] = {
		{ "ksm_rmap_items", &p->known },
		{ "ksm_zero_pages", &p->zero },
		{ "ksm_merging_pages", &p->merged },
		{ "ksm_process_profit", &p->profit },
		{ }
	};
	char path[64];

	p->pid = pid;
	snprintf(path, sizeof(path), "/proc/%d/ksm_stat", pid);
	read_fields(path, fields);
	return (p->known > 0 || p->zero > 0 || p->merged > 0) &&
	       comm_of(pid, p->comm, sizeof(p->comm));
}

static void show_processes(void)
{
	enum { WIDTH = sizeof(process_columns) / sizeof(*process_columns) - 1 };
	struct process *processes = NULL;
	struct cell *cells;
	DIR *proc = open_proc();
	size_t nr = 0, room = 0;
	int pid;

	while ((pid = next_pid(proc))) {
		if (nr == room) {
			room = 2 * room + 64;
			processes = grow(processes, room * sizeof(*processes));
		}
		nr += read_process(&processes[nr], pid);
	}
	closedir(proc);
	if (nr)
		qsort(processes, nr, sizeof(*processes), by_profit);
	cells = grow(NULL, (nr + 1) * WIDTH * sizeof(*cells));
	for (size_t i = 0; i < nr; i++) {
		const struct process *p = &processes[i];
		double saved = (p->merged + p->zero) * page_size;
		const struct cell row[WIDTH] = {
			plain(p->pid),
			plain(p->profit),
			plain(p->merged * page_size),
			plain(p->zero * page_size),
			plain(saved - p->profit),
			plain(p->known * page_size),
			text(p->comm),
		};

		memcpy(&cells[i * WIDTH], row, sizeof(row));
	}
	print_rows(process_columns, cells, nr);
	free(cells);
	free(processes);
}

/* ---- nodes ---- */

static const struct column node_columns[] = {
	{ "NODE", "node", 4, 0, 1 },
	{ "SHARED", "shared_bytes", 9, 1, MIB },
	{ }
};

static void show_nodes(void)
{
	static const char path[] = KSM "pages_shared_nodes";
	FILE *file = fopen(path, "re");
	struct cell *cells = NULL;
	size_t nr = 0;
	double pages;
	int node;

	if (!file && errno == ENOENT)
		die(1, "this kernel does not count merged pages by node");
	if (!file)
		die(1, "%s: %s", path, strerror(errno));
	while (fscanf(file, " N%d=%lf", &node, &pages) == 2) {
		cells = grow(cells, 2 * (nr + 1) * sizeof(*cells));
		cells[2 * nr] = plain(node);
		cells[2 * nr + 1] = plain(pages * page_size);
		nr++;
	}
	fclose(file);
	print_rows(node_columns, cells, nr);
	free(cells);
}

/* ---- domains ---- */

static const struct column domain_columns[] = {
	{ "SAVED", "saved_bytes", 9, 1, MIB },
	{ "SHARED", "shared_bytes", 8, 1, MIB },
	{ "KIND", "kind", -8, 0, 1 },
	{ "DOMAIN", "domain", -6, 0, 1 },
	{ }
};

static int by_saved(const void *left, const void *right)
{
	const struct cell *l = left, *r = right;

	return l->number < r->number ? 1 : l->number > r->number ? -1 : 0;
}

static void show_domains(void)
{
	enum { WIDTH = sizeof(domain_columns) / sizeof(*domain_columns) - 1 };
	FILE *file = fopen(DOMAINS, "re");
	struct cell *cells = NULL;
	double shared, sharing;
	char kind[16], id[64];
	size_t nr = 0;

	if (!file && errno == ENOENT)
		die(1, "this kernel has no merge domains, or no debugfs is mounted: no " DOMAINS);
	if (!file)
		die(1, DOMAINS ": %s", strerror(errno));
	/* What the columns are called */
	if (fscanf(file, "%*[^\n]") == EOF)
		die(1, DOMAINS ": nothing in it");
	while (fscanf(file, "%15s %63s %lf %lf", kind, id, &shared,
		      &sharing) == 4) {
		const struct cell row[WIDTH] = {
			plain(sharing * page_size),
			plain(shared * page_size),
			text(strdup(kind)),
			text(strdup(id)),
		};

		if (!row[2].text || !row[3].text)
			die(1, "out of memory");
		cells = grow(cells, (nr + 1) * sizeof(row));
		memcpy(&cells[nr++ * WIDTH], row, sizeof(row));
	}
	fclose(file);
	if (nr)
		qsort(cells, nr, WIDTH * sizeof(*cells), by_saved);
	print_rows(domain_columns, cells, nr);
	for (size_t i = 0; i < nr; i++) {
		free((char *)cells[i * WIDTH + 2].text);
		free((char *)cells[i * WIDTH + 3].text);
	}
	free(cells);
}

/* ---- the command line ---- */

static const char usage[] =
"usage: ksmstat [-p | -n | -d] [--json] [INTERVAL [COUNT]]\n"
"what samepage merging does: since boot, then every INTERVAL seconds\n"
"  -p, --processes  by process: what merging saves and costs, in KiB\n"
"  -n, --nodes      by NUMA node: merged pages, in MiB\n"
"  -d, --domains    by merge domain: merged and saved, in MiB\n"
"  -j, --json       an object, or an array of them, each time; in bytes\n"
"  -h, --help       this\n";

static double positive(const char *what, const char *argument, double least)
{
	char *end;
	double value;

	errno = 0;
	value = strtod(argument, &end);
	if (errno || end == argument || *end || !(value >= least) ||
	    value > 1e9)
		die(2, "not %s: %s", what, argument);
	return value;
}

static void sleep_for(double seconds)
{
	struct timespec left = {
		.tv_sec = (time_t)seconds,
		.tv_nsec = (long)((seconds - floor(seconds)) * 1e9),
	};

	while (nanosleep(&left, &left) && errno == EINTR)
		;
}

static void choose(void (**show)(void), void (*wanted)(void))
{
	if (*show)
		die(2, "only one of -p, -n and -d");
	*show = wanted;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "processes", no_argument, NULL, 'p' },
		{ "nodes", no_argument, NULL, 'n' },
		{ "domains", no_argument, NULL, 'd' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ }
	};
	double interval = 0, count = 1;
	void (*show)(void) = NULL;
	int option;

	opterr = 0;
	setlocale(LC_CTYPE, "C.UTF-8");
	page_size = sysconf(_SC_PAGESIZE);
	while ((option = getopt_long(argc, argv, "pndjh", options, NULL)) != -1) {
		switch (option) {
		case 'p':
			choose(&show, show_processes);
			break;
		case 'n':
			choose(&show, show_nodes);
			break;
		case 'd':
			choose(&show, show_domains);
			break;
		case 'j':
			json = true;
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		default:
			if (strncmp(argv[optind - 1], "--", 2))
				die(2, "no such option: -%c (see --help)",
				    optopt);
			die(2, "no such option: %s (see --help)",
			    argv[optind - 1]);
		}
	}
	if (argc - optind > 2)
		die(2, "too much: %s (see --help)", argv[optind + 2]);
	if (optind < argc) {
		interval = positive("an interval in seconds", argv[optind],
				    0.001);
		count = INFINITY;
	}
	if (optind + 1 < argc) {
		count = positive("a count", argv[optind + 1], 1);
		if (count != floor(count))
			die(2, "not a count: %s", argv[optind + 1]);
	}
	if (!show)
		show = show_system;
	for (double i = 0; i < count; i++) {
		if (i)
			sleep_for(interval);
		show();
		if (fflush(stdout))
			die(1, "cannot write: %s", strerror(errno));
	}
	return 0;
}
