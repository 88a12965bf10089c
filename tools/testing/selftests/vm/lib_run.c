// SPDX-License-Identifier: GPL-2.0
/*
 * Running the tests of one program: a process for each, the knobs before and
 * after it, its result as a line of TAP.
 */
#include <stdarg.h>
#include <time.h>
#include "ksm_lib.h"

#define KSM_DIR		"/sys/kernel/mm/ksm/"

double ksm_test_seconds = 180;

static bool jitters;

/*
 * The knobs with the values every test starts from, in the order in which
 * they can be written: max_page_sharing and merge_across_nodes want nothing
 * merged, pages_to_scan wants no advisor.
 */
static struct knob {
	const char *name;
	const char *start;
	char found[32];
} knobs[] = {
	{ "merge_across_nodes", "1" },
	{ "max_page_sharing", "256" },
	{ "merge_domain", "system" },
	{ "relocate", "1" },
	{ "advisor_mode", "none" },
	{ "advisor_max_cpu", "70" },
	{ "advisor_min_pages_to_scan", "500" },
	{ "advisor_max_pages_to_scan", "30000" },
	{ "advisor_target_scan_time", "200" },
	{ "scan_threads", "1" },
	{ "pages_to_scan", "1000" },
	{ "sleep_millisecs", "0" },
	{ "use_zero_pages", "0" },
	{ "smart_scan", "0" },
	{ "stable_node_chains_prune_millisecs", "2000" },
	{ "run", "0" },
};

double ksm_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

double ksm_slow(void)
{
	const char *slow = getenv("KSM_TEST_SLOW");
	double n = slow ? atof(slow) : 1;

	return n > 1 ? n : 1;
}

/*
 * One in three windows of 4 ms is for standing still.  Nothing is kept about it:
 * some processes may not write to any page of theirs.
 */
void ksm_jitter(void)
{
	static const int ms[] = { 1, 1, 2, 5, 10, 20, 50, 300 };
	uint64_t chance;

	if (!jitters)
		return;
	chance = ((uint64_t)(ksm_now() * 1000 / 4) << 16 | (getpid() & 0xffff)) *
		 0x9e3779b97f4a7c15ULL;
	chance ^= chance >> 32;
	if (!(chance % 3))
		usleep(1000 * ms[chance / 3 % ARRAY_SIZE(ms)]);
}

bool ksm_goes_on(double end, bool met)
{
	double now = ksm_now();

	return now < end || (!met && now < end + 60 * ksm_slow());
}

static void say(const char *prefix, const char *fmt, va_list args)
{
	char line[512];

	vsnprintf(line, sizeof(line), fmt, args);
	ksft_print_msg("%s%s\n", prefix, line);
	fflush(stdout);
}

void ksm_note(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say("", fmt, args);
	va_end(args);
}

void ksm_fail(const char *file, int line, const char *fmt, ...)
{
	char where[64];
	va_list args;

	snprintf(where, sizeof(where), "%s:%d: ", strrchr(file, '/') ?
		 strrchr(file, '/') + 1 : file, line);
	va_start(args, fmt);
	say(where, fmt, args);
	va_end(args);
	_exit(KSFT_FAIL);
}

void ksm_skip(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say("skipped: ", fmt, args);
	va_end(args);
	_exit(KSFT_SKIP);
}

void ksm_check_eq(const char *file, int line, const char *left, long l,
		  const char *right, long r)
{
	ksm_jitter();
	if (l != r)
		ksm_fail(file, line, "%s is %ld, but %s is %ld", left, l,
			 right, r);
}

void ksm_check_ge(const char *file, int line, const char *left, long l,
		  const char *right, long r)
{
	ksm_jitter();
	if (l < r)
		ksm_fail(file, line, "%s is %ld, less than %s, %ld", left, l,
			 right, r);
}

/* ---- files ---- */

int file_write(const char *path, const char *data, size_t len)
{
	int fd = open(path, O_WRONLY);
	ssize_t done;
	int err = 0;

	if (fd < 0)
		return -errno;
	done = write(fd, data, len);
	if (done < 0)
		err = -errno;
	else if ((size_t)done != len)
		err = -EIO;
	close(fd);
	return err;
}

int file_print(const char *path, const char *fmt, ...)
{
	char buf[256];
	va_list args;
	int len;

	va_start(args, fmt);
	len = vsnprintf(buf, sizeof(buf), fmt, args);
	va_end(args);
	return file_write(path, buf, len);
}

ssize_t file_read(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY);
	size_t len = 0;
	ssize_t got;

	if (fd < 0)
		return -errno;
	while ((got = read(fd, buf + len, size - 1 - len)) > 0)
		len += got;
	if (got < 0)
		got = -errno;
	close(fd);
	buf[len] = '\0';
	return got < 0 ? got : (ssize_t)len;
}

long file_long(const char *path)
{
	char buf[64];

	if (file_read(path, buf, sizeof(buf)) <= 0)
		FAIL("cannot read %s: errno %d", path, errno);
	return strtol(buf, NULL, 10);
}

/* Lines of "name value" or "name: value". */
long file_field(const char *path, const char *field)
{
	size_t len = strlen(field);
	long value = -1;
	char line[256];
	FILE *f;

	f = fopen(path, "r");
	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f)) {
		if (strncmp(line, field, len))
			continue;
		if (line[len] != ' ' && line[len] != ':' && line[len] != '\t')
			continue;
		value = strtol(line + len + 1, NULL, 10);
		break;
	}
	fclose(f);
	return value;
}

long vm_event(const char *field)
{
	long value = file_field("/proc/vmstat", field);

	if (value < 0)
		FAIL("no %s in /proc/vmstat", field);
	return value;
}

/* ---- knobs ---- */

static const char *knob_path(const char *knob)
{
	static char path[128];

	snprintf(path, sizeof(path), KSM_DIR "%s", knob);
	return path;
}

bool ksm_has(const char *knob)
{
	return !access(knob_path(knob), F_OK);
}

long ksm_get(const char *knob)
{
	return file_long(knob_path(knob));
}

int ksm_read(const char *knob, char *buf, size_t size)
{
	return file_read(knob_path(knob), buf, size);
}

int ksm_write(const char *knob, const char *data, size_t len)
{
	return file_write(knob_path(knob), data, len);
}

void ksm_set(const char *knob, long value)
{
	char buf[32];
	int err;

	snprintf(buf, sizeof(buf), "%ld", value);
	err = ksm_write(knob, buf, strlen(buf));
	if (err)
		FAIL("writing %ld to %s: %s", value, knob, strerror(-err));
}

const char *ksm_as_found(const char *knob)
{
	for (size_t i = 0; i < ARRAY_SIZE(knobs); i++)
		if (!strcmp(knobs[i].name, knob))
			return knobs[i].found;
	return NULL;
}

void ksm_scan(int passes)
{
	long from = ksm_get("full_scans");

	ksm_set("run", 1);
	WAIT_FOR(ksm_get("full_scans") >= from + passes);
}

void ksm_merge_in_place(void)
{
	if (ksm_has("relocate"))
		ksm_set("relocate", 0);
}

/*
 * A page is looked at, found unchanged in the next pass, and merged in that
 * one or the one after; the first pass counted may have begun before.  The
 * others are for pages that somebody held for a moment.
 */
void ksm_settle(void)
{
	ksm_scan(6);
	ksm_set("run", 0);
}

/* What it waits for within a scan is no such sleep. */
void ksmd_lies_down(void)
{
	static pid_t ksmd;
	char path[64], stat[512];

	if (!ksmd)
		ksmd = pid_of("ksmd");
	snprintf(path, sizeof(path), "/proc/%d/stat", ksmd);
	WAIT_FOR(file_read(path, stat, sizeof(stat)) > 0 &&
		 !strncmp(strchr(stat, ')'), ") S", 3));
}

/*
 * What ksmd does between two sleeps ends with a pass, if there is a lot it may
 * look at; and it sleeps until it is woken.  Let it lie down, then end that
 * sleep by a new value: it waits for 1 in run then.
 */
void ksm_one_pass(void)
{
	static int calls;
	long from;

	ksm_set("run", 0);
	ksm_set("pages_to_scan", 1000000);
	ksmd_lies_down();
	ksm_set("sleep_millisecs", 1000000 + calls++);
	ksmd_lies_down();
	from = ksm_get("full_scans");
	ksm_set("run", 1);
	WAIT_FOR(ksm_get("full_scans") > from);
	ksm_set("run", 0);
	ksmd_lies_down();
	CHECK_EQ(ksm_get("full_scans"), from + 1);
}

/* ---- knobs of others ---- */

#define MAX_OVERRIDES	16

/* Shared with the tests, as these end without a word. */
static struct override {
	char path[128];
	char value[64];
} *overrides;

/* The value itself, or what is in brackets where several are offered. */
static int read_value(const char *path, char *value, size_t size)
{
	char buf[256], *from = buf;
	ssize_t len = file_read(path, buf, sizeof(buf));

	if (len < 0)
		return len;
	if (strchr(buf, '['))
		from = strchr(buf, '[') + 1;
	from[strcspn(from, "]\n")] = '\0';
	snprintf(value, size, "%.*s", (int)size - 1, from);
	return 0;
}

int knob_override(const char *path, const char *value)
{
	struct override *o = overrides;
	int err;

	while (o->path[0] && strcmp(o->path, path))
		CHECK(++o < overrides + MAX_OVERRIDES);
	if (!o->path[0]) {
		err = read_value(path, o->value, sizeof(o->value));
		if (err)
			return err;
		snprintf(o->path, sizeof(o->path), "%s", path);
	}
	return file_write(path, value, strlen(value));
}

void suspend_and_resume(void)
{
	double start;

	if (knob_override("/sys/power/pm_test", "freezer"))
		ksm_skip("no /sys/power/pm_test");
	CHECK(!knob_override("/sys/module/suspend/parameters/pm_test_delay",
			     "0"));
	/* Otherwise it would be half a minute until it gives up. */
	CHECK(!knob_override("/sys/power/pm_freeze_timeout", "20000"));
	start = ksm_now();
	CHECK_EQ(file_print("/sys/power/state", "freeze"), 0);
	ksm_note("asleep and awake again in %.2f s", ksm_now() - start);
}

static void undo_overrides(void)
{
	for (struct override *o = overrides;
	     o < overrides + MAX_OVERRIDES && o->path[0]; o++) {
		file_write(o->path, o->value, strlen(o->value));
		o->path[0] = '\0';
	}
}

/* ---- all the knobs, before and after ---- */

static void save_knobs(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(knobs); i++)
		read_value(knob_path(knobs[i].name), knobs[i].found,
			   sizeof(knobs[i].found));
}

static bool put_knobs(bool as_found)
{
	bool good = true;

	for (size_t i = 0; i < ARRAY_SIZE(knobs); i++) {
		struct knob *knob = &knobs[i];
		const char *value = as_found ? knob->found : knob->start;
		int err;

		if (!knob->found[0] || !ksm_has(knob->name))
			continue;
		/* Under scan-time pages_to_scan is the advisor's. */
		if (as_found && !strcmp(knob->name, "pages_to_scan") &&
		    strcmp(ksm_as_found("advisor_mode"), "none"))
			continue;
		err = ksm_write(knob->name, value, strlen(value));
		if (err) {
			ksft_print_msg("cannot write %s to %s: %s\n", value,
				       knob->name, strerror(-err));
			good = false;
		}
	}
	return good;
}

/* Nothing merged, ksmd at rest. */
static bool unmerge_everything(void)
{
	ksm_write("run", "0", 1);
	return BECOMES(!ksm_write("run", "2", 1) &&
		       !ksm_write("run", "0", 1) &&
		       !ksm_get("pages_shared") && !ksm_get("pages_sharing"),
		       20);
}

/* ---- tests ---- */

static int wait_for_test(pid_t pid)
{
	double end = ksm_now() + ksm_test_seconds * ksm_slow();
	int status;

	while (waitpid(pid, &status, WNOHANG) != pid) {
		if (ksm_now() > end) {
			ksft_print_msg("takes too long\n");
			kill(-pid, SIGKILL);
			waitpid(pid, &status, 0);
			return KSFT_FAIL;
		}
		usleep(5000);
	}
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	ksft_print_msg("ended by signal %d\n", WTERMSIG(status));
	return KSFT_FAIL;
}

static int run_test(const struct ksm_test *test)
{
	int result;
	pid_t pid;

	if (!unmerge_everything() || !put_knobs(false)) {
		ksft_print_msg("pages are merged by somebody else\n");
		return KSFT_FAIL;
	}

	fflush(stdout);
	pid = fork();
	if (!pid) {
		setpgid(0, 0);
		test->fn();
		fflush(stdout);
		_exit(KSFT_PASS);
	}
	if (pid < 0)
		return KSFT_FAIL;
	setpgid(pid, pid);
	result = wait_for_test(pid);
	kill(-pid, SIGKILL);
	while (waitpid(-1, NULL, 0) > 0)
		;
	memcg_remove();
	undo_overrides();
	return result;
}

static bool wanted(const char *name, int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], name))
			return true;
	return argc < 2;
}

int ksm_run_tests(int argc, char **argv, const struct ksm_test *tests,
		  int nr_tests)
{
	int nr = 0;

	ksft_print_header();
	if (access(KSM_DIR "run", W_OK))
		ksft_exit_skip("no " KSM_DIR "run that can be written\n");
	for (int i = 0; i < nr_tests; i++)
		nr += wanted(tests[i].name, argc, argv);
	ksft_set_plan(nr);
	/* Grandchildren must be gone before the next test begins. */
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	overrides = mmap(NULL, MAX_OVERRIDES * sizeof(*overrides),
			 PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			 -1, 0);
	if (overrides == MAP_FAILED)
		ksft_exit_fail_msg("out of memory\n");
	save_knobs();
	jitters = getenv("KSM_TEST_JITTER");

	for (int i = 0; i < nr_tests; i++) {
		double start = ksm_now();
		int result;

		if (!wanted(tests[i].name, argc, argv))
			continue;
		result = run_test(&tests[i]);
		ksft_print_msg("%s: %.2f s\n", tests[i].name,
			       ksm_now() - start);
		ksft_test_result_report(result == KSFT_SKIP ? KSFT_SKIP :
					result ? KSFT_FAIL : KSFT_PASS,
					"%s\n", tests[i].name);
		fflush(stdout);
	}

	unmerge_everything();
	if (!put_knobs(true))
		ksft_exit_fail_msg("the knobs are not as they were\n");
	if (ksft_get_xskip_cnt() == nr) {
		ksft_print_cnts();
		exit(KSFT_SKIP);
	}
	ksft_finished();
}
