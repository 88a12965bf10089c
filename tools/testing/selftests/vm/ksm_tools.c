// SPDX-License-Identifier: GPL-2.0
/* vm: --nodes 2 --swap 256M */
/*
 * What ksmstat and ksm-run (tools/vm) make of it.  They are looked for beside
 * this program, then where commands are.
 */
#include <libgen.h>
#include <sys/prctl.h>
#include "ksm_lib.h"

#define NR	512UL

struct run {
	int status;		/* as exit() had it; 127: no such program */
	char out[8192], err[1024];
};

static void read_all(int fd, char *buf, size_t size)
{
	size_t had = 0;
	ssize_t more;

	while ((more = read(fd, buf + had, size - 1 - had)) > 0)
		had += more;
	buf[had] = '\0';
	close(fd);
}

static struct run run(const char *program, const char *args)
{
	char command[256];
	int out[2], err[2], status;
	struct run run;
	pid_t pid;

	snprintf(command, sizeof(command), "PATH=.:$PATH exec %s %s", program,
		 args);
	CHECK(!pipe(out) && !pipe(err));
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		dup2(out[1], STDOUT_FILENO);
		dup2(err[1], STDERR_FILENO);
		execl("/bin/sh", "sh", "-c", command, NULL);
		_exit(127);
	}
	close(out[1]);
	close(err[1]);
	read_all(out[0], run.out, sizeof(run.out));
	read_all(err[0], run.err, sizeof(run.err));
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status));
	run.status = WEXITSTATUS(status);
	if (run.status == 127 && strstr(run.err, "not found"))
		ksm_skip("%s is not there", program);
	return run;
}

static struct run run_well(const char *program, const char *args)
{
	struct run done = run(program, args);

	if (done.status || done.err[0])
		FAIL("%s %s: status %d, %s", program, args, done.status,
		     done.err);
	return done;
}

static size_t lines(const char *text)
{
	size_t nr = 0;

	while ((text = strchr(text, '\n'))) {
		text++;
		nr++;
	}
	return nr;
}

/* One line of what was wrong, and nothing else. */
static void check_refused(const char *program, const char *args, int status)
{
	struct run done = run(program, args);

	if (done.status != status || lines(done.err) != 1 || done.out[0])
		FAIL("%s %s: status %d, %s%s", program, args, done.status,
		     done.err, done.out);
}

/* The first number of this name in an object, from there on. */
static double json(const char *text, const char *key)
{
	char name[64];

	snprintf(name, sizeof(name), "\"%s\": ", key);
	text = strstr(text, name);
	if (!text)
		FAIL("no %s in what ksmstat says", key);
	if (!strncmp(text + strlen(name), "null", 4))
		return -1;
	return atof(text + strlen(name));
}

static char *settled(void)
{
	char *area = mergeable_area(NR, 100, 4);

	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	return area;
}

static void whole_system(void)
{
	char *area = settled();
	struct run done = run_well("ksmstat", "--json");

	CHECK_EQ(lines(done.out), 1);
	CHECK_EQ(json(done.out, "saved_bytes"), (NR - 4) * PAGE_SIZE);
	CHECK_EQ(json(done.out, "shared_bytes"), 4 * PAGE_SIZE);
	CHECK_GE(json(done.out, "metadata_bytes"), NR * 8);
	CHECK_GE(NR * 80 + 65536, json(done.out, "metadata_bytes"));
	CHECK_EQ(json(done.out, "full_scans"), ksm_get("full_scans"));
	CHECK_EQ(json(done.out, "migrated_per_second") >= 0,
		 ksm_has("pages_migrated"));
	/* In MiB, for people */
	done = run_well("ksmstat", "");
	CHECK_EQ(lines(done.out), 2);
	CHECK(strstr(done.out, "SAVED"));
	CHECK(strstr(done.out, "     2.0 "));
	VERIFY(area, NR, 100, 4);
}

static double since_boot(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

/* What has happened from one line of ksmstat to another. */
struct events {
	double at;		/* seconds since boot: when the last line was made */
	double unmerged, merged, scanned;
};

static void next_line(FILE *ksmstat, struct events *e)
{
	double from = e->at, took;
	char line[2048];

	CHECK(fgets(line, sizeof(line), ksmstat));
	e->at = json(line, "seconds_since_boot");
	took = e->at - from;
	e->unmerged += json(line, "unmerged_per_second") * took;
	e->merged += json(line, "merged_per_second") * took;
	e->scanned += json(line, "scanned_per_second") * took;
}

/* To the end of an interval that has not begun yet. */
static void next_lines(FILE *ksmstat, struct events *e)
{
	double now = since_boot(), from;

	do {
		from = e->at;
		next_line(ksmstat, e);
		CHECK(e->at - from > 0.45);
	} while (from < now);
}

static void rates(void)
{
	struct events e = { since_boot() };
	char *area = settled();
	FILE *ksmstat;

	CHECK_EQ(lines(run_well("ksmstat", "-j 0.1 3").out), 3);
	ksmstat = popen("PATH=.:$PATH exec ksmstat -j 0.5", "r");
	CHECK(ksmstat);
	next_line(ksmstat, &e);
	/* The first line says what has happened since boot */
	e = (struct events){ e.at };
	fill_area(area, NR / 2, 1000, NR / 2);
	next_lines(ksmstat, &e);
	ksm_note("%.1f pages unmerged", e.unmerged);
	CHECK_GE(e.unmerged + 0.5, NR / 2);
	/* Nothing is counted again when it is seen to be gone */
	ksm_scan(2);
	next_lines(ksmstat, &e);
	CHECK_GE(NR / 2 + 8, e.unmerged);
	CHECK_GE(0.5, e.merged);
	CHECK_EQ(count_ksm(area, NR), NR / 2);
	/* And back: what is merged while ksmd runs */
	fill_area(area, NR / 2, 100, 4);
	WAIT_FOR(count_ksm(area, NR) == NR);
	next_lines(ksmstat, &e);
	ksm_note("%.1f pages merged, %.0f scanned", e.merged, e.scanned);
	CHECK_GE(e.merged + 0.5, NR / 2);
	CHECK_GE(NR / 2 + 8, e.merged);
	CHECK_GE(e.scanned, 3 * NR);
	/* It ends when nobody reads what it says */
	pclose(ksmstat);
}

static void processes(void)
{
	char *area = settled(), find[64], *mine;
	struct run done = run_well("ksmstat", "-p --json");

	snprintf(find, sizeof(find), "{\"pid\": %d, ", getpid());
	mine = strstr(done.out, find);
	CHECK(mine);
	CHECK_EQ(json(mine, "merged_bytes"), NR * PAGE_SIZE);
	CHECK_EQ(json(mine, "zero_bytes"), 0);
	CHECK_EQ(json(mine, "known_bytes"), NR * PAGE_SIZE);
	CHECK_EQ(json(mine, "profit_bytes"),
		 proc_ksm(getpid(), "ksm_process_profit"));
	CHECK(strstr(mine, "\"command\": \"ksm_tools\""));
	done = run_well("ksmstat", "-p");
	CHECK(strstr(done.out, "ksm_tools"));
	/* Orders for a terminal, quotes, a letter of two bytes, and half of one */
	CHECK(!prctl(PR_SET_NAME, "\033[7m\"\\\303\251\303"));
	done = run_well("ksmstat", "-p --json");
	CHECK(strstr(done.out, "\"\\u001b[7m\\\"\\\\\303\251\\ufffd\""));
	done = run_well("ksmstat", "-p");
	CHECK(strstr(done.out, "?[7m\"\\\303\251?"));
	VERIFY(area, NR, 100, 4);
}

/* stock: does not tell: refused in one line */
static void nodes(void)
{
	int node[2];
	struct run done;
	char *area;

	need_nodes(node, 2);
	if (!ksm_has("pages_shared_nodes")) {
		check_refused("ksmstat", "-n", 1);
		return;
	}
	area = settled();
	move_all(area, 4, node[1]);
	done = run_well("ksmstat", "-n --json");
	CHECK_EQ(json(done.out, "shared_bytes"), 0);
	CHECK_EQ(json(strrchr(done.out, '{'), "shared_bytes"), 4 * PAGE_SIZE);
}

/* stock: has none: refused in one line */
static void domains(void)
{
	struct run done;
	char *mine, find[32];

	if (!ksm_has("merge_domain")) {
		check_refused("ksmstat", "-d", 1);
		return;
	}
	CHECK(!ksm_write("merge_domain", "process", 7));
	settled();
	snprintf(find, sizeof(find), "\"domain\": \"%d\"", getpid());
	done = run_well("ksmstat", "-d -j");
	mine = strstr(done.out, find);
	CHECK(mine);
	CHECK_EQ(json(done.out, "saved_bytes"), (NR - 4) * PAGE_SIZE);
	CHECK_EQ(json(done.out, "shared_bytes"), 4 * PAGE_SIZE);
}

static void bad_options(void)
{
	static const char * const bad[] = {
		"-x", "-xp", "--nonsense", "--json=1", "-pn", "-p -d", "0", "-1", "abc", "1x",
		"nan", "inf", "''", "1 0", "1 1.5", "1 x", "1 2 3",
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		check_refused("ksmstat", bad[i], 2);
	CHECK(strstr(run("ksmstat", "-xp").err, "option: -x "));
	check_refused("ksm-run", "", 2);
	check_refused("ksm-run", "-x", 2);
	check_refused("ksm-run", "/no/such/program", 127);
	check_refused("ksm-run", "/etc/passwd", 126);
	check_refused("ksmstat", "1 1 >/dev/full", 1);
}

static void runs_programs(void)
{
	struct run done;

	/* The program, what it starts, and what that starts */
	done = run_well("ksm-run", "sh -c './ksm_tools --offered'");
	CHECK(!strcmp(done.out, "1\n"));
	done = run_well("ksm-run", "echo one 'two  three'");
	CHECK(!strcmp(done.out, "one two  three\n"));
	CHECK_EQ(run("ksm-run", "sh -c 'exit 42'").status, 42);
}

static const struct ksm_test tests[] = {
	{ "whole_system", whole_system },
	{ "rates", rates },
	{ "processes", processes },
	{ "nodes", nodes },
	{ "domains", domains },
	{ "bad_options", bad_options },
	{ "runs_programs", runs_programs },
};

int main(int argc, char **argv)
{
	char *self = realpath("/proc/self/exe", NULL);

	if (!self || chdir(dirname(self)))
		return KSFT_FAIL;
	if (argc == 2 && !strcmp(argv[1], "--offered"))
		return printf("%d\n", prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0)) < 0;
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
