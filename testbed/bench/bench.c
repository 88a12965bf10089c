// SPDX-License-Identifier: GPL-2.0
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "bench.h"

#define WORDS	(PAGE_SIZE / sizeof(uint64_t))

/* ---- what goes in and out ---- */

static bool number(const char *text, long minimum, long *value)
{
	char *end;

	*value = strtol(text, &end, 10);
	return *text && !*end && *value >= minimum && *value <= 100000000;
}

void arguments(int argc, char **argv, const char *names, const long *minimums, long *values)
{
	int wanted = *names != '\0', i;
	const char *at;

	for (at = names; *at; at++)
		wanted += *at == ' ';
	for (i = 0; argc == wanted + 1 && i < wanted; i++)
		if (!number(argv[i + 1], minimums[i], &values[i]))
			break;
	if (argc == wanted + 1 && i == wanted)
		return;
	fprintf(stderr, "usage: %s %s\n", program_invocation_short_name, names);
	exit(2);
}

void fail(const char *format, ...)
{
	va_list args;

	fprintf(stderr, "%s: ", program_invocation_short_name);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

void figure(const char *name, double value)
{
	printf("%s %.*f\n", name, value < 100 ? 4 : 0, value);
	fflush(stdout);
}

void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		fail("%s: %m", path);
	close(fd);
}

static const char *knob_path(const char *knob)
{
	static char path[128];

	snprintf(path, sizeof(path), "/sys/kernel/mm/ksm/%s", knob);
	return path;
}

bool has(const char *knob)
{
	return !access(knob_path(knob), F_OK);
}

long get(const char *knob)
{
	const char *path = knob_path(knob);
	char text[32] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		fail("%s: %m", path);
	close(fd);
	return atol(text);
}

void set(const char *knob, long value)
{
	char text[32];

	snprintf(text, sizeof(text), "%ld", value);
	put(knob_path(knob), text);
}

/* ---- time ---- */

static double clock_seconds(clockid_t clock)
{
	struct timespec time;

	need(!clock_gettime(clock, &time));
	return time.tv_sec + time.tv_nsec / 1e9;
}

double now(void)
{
	return clock_seconds(CLOCK_MONOTONIC);
}

double own_time(void)
{
	return clock_seconds(CLOCK_PROCESS_CPUTIME_ID);
}

static int compare(const void *one, const void *two)
{
	double a = *(const double *)one, b = *(const double *)two;

	return (a > b) - (a < b);
}

double median(double *values, size_t nr)
{
	qsort(values, nr, sizeof(*values), compare);
	return (values[(nr - 1) / 2] + values[nr / 2]) / 2;
}

/* What /proc says of a process: its name and its state. */
static bool read_stat(const char *pid, char name[32], char *state)
{
	char path[300];
	FILE *file;
	int got;

	snprintf(path, sizeof(path), "/proc/%s/stat", pid);
	file = fopen(path, "re");
	if (!file)
		return false;
	got = fscanf(file, "%*d (%31[^)]) %c", name, state);
	fclose(file);
	return got == 2;
}

static pid_t find_process(const char *wanted)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	char name[32], state;
	pid_t pid = 0;

	need(proc);
	while (!pid && (entry = readdir(proc)))
		if (read_stat(entry->d_name, name, &state) && !strcmp(name, wanted))
			pid = atoi(entry->d_name);
	closedir(proc);
	if (!pid)
		fail("there is no %s", wanted);
	return pid;
}

pid_t ksmd(void)
{
	static pid_t pid;

	if (!pid)
		pid = find_process("ksmd");
	return pid;
}

void pin(pid_t pid, int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	need(!sched_setaffinity(pid, sizeof(cpus), &cpus));
}

void stand_back(bool back)
{
	const struct sched_param none = { 0 };

	need(!sched_setscheduler(0, back ? SCHED_IDLE : SCHED_OTHER, &none));
}

/* ---- memory ---- */

char *map_pages(size_t nr)
{
	char *area = mmap(NULL, nr * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	need(area != MAP_FAILED);
	return area;
}

/* Contents in no order that would make it easy to find one among others (the mixer of splitmix64) */
static uint64_t mix(uint64_t seed)
{
	seed = (seed + 1) * 0x9e3779b97f4a7c15ULL;
	seed = (seed ^ seed >> 30) * 0xbf58476d1ce4e5b9ULL;
	seed = (seed ^ seed >> 27) * 0x94d049bb133111ebULL;
	return seed ^ seed >> 31;
}

static uint64_t word_of(uint64_t first, size_t i)
{
	return first + i * 0xd1342543de82ef95ULL;
}

void fill_page(char *page, uint64_t seed)
{
	uint64_t *word = (uint64_t *)page, first = mix(seed);
	size_t i;

	for (i = 0; i < WORDS; i++)
		word[i] = word_of(first, i);
}

bool page_is(const char *page, uint64_t seed)
{
	const uint64_t *word = (const uint64_t *)page;
	uint64_t first = mix(seed);
	size_t i;

	for (i = 0; i < WORDS; i++)
		if (word[i] != word_of(first, i))
			return false;
	return true;
}

void fill_pages(char *area, size_t nr, size_t distinct)
{
	size_t i;

	for (i = 0; i < nr; i++)
		fill_page(area + i * PAGE_SIZE, i % distinct);
}

void rewrite(char *page)
{
	write_now(*page, read_now(*page));
}

void offer(char *area, size_t nr)
{
	need(!madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE));
}

/* ---- scanning ---- */

/* Longer than anything takes.  Another number for a sleep that has begun ends it, which starts a pass. */
#define REST_MSECS	100000000
#define ALL_PAGES	1000000000

static long rest = REST_MSECS;

static void end_rest(void)
{
	rest ^= 1;
	set("sleep_millisecs", rest);
}

static bool resting(void)
{
	char pid[16], name[32], state = 0;

	snprintf(pid, sizeof(pid), "%d", ksmd());
	return read_stat(pid, name, &state) && state == 'S';
}

void stop(long run)
{
	set("run", run);
	/* From the sleep between two scans to the one that run = 1 ends */
	end_rest();
	while (!resting())
		usleep(1000);
}

void prepare(void)
{
	set("smart_scan", 0);
	set("pages_to_scan", ALL_PAGES);
	stop(2);
}

/*
 * The caller stands back while ksmd works, and hardly gets anything of the only processor; when ksmd has gone to
 * sleep it runs at once.  That takes less time, and tells it better, than to look again and again.
 */
double pass(void)
{
	long passes = get("full_scans");
	double began, ended;

	stand_back(true);
	began = now();
	if (get("run") == 1)
		end_rest();
	else
		set("run", 1);
	/* A pass that has been counted may have something to do yet; a wish for the next one would be lost. */
	while (get("full_scans") <= passes || !resting())
		if (now() > began + 300)
			fail("no full scan in 300 s");
	ended = now();
	stand_back(false);
	return ended - began;
}

double merge(long pages)
{
	double took = 0;
	long merged = 0;
	int i;

	for (i = 0; i < 12 && merged < pages; i++) {
		took += pass();
		merged = get("pages_shared") + get("pages_sharing");
	}
	if (merged < pages)
		fail("%ld pages merged of %ld", merged, pages);
	return took;
}

void full_speed(void)
{
	long scanned = get("pages_scanned");

	set("sleep_millisecs", 0);
	/* On some kernels even the value that it has already would wait for the end of a pass. */
	if (get("run") != 1)
		set("run", 1);
	while (get("pages_scanned") == scanned)
		usleep(1000);
}

/* What the kernel has subtracted from the memory that merging saves: its records of pages. */
long record_bytes(void)
{
	return get("pages_sharing") * PAGE_SIZE - get("general_profit");
}
