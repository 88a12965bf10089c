// SPDX-License-Identifier: GPL-2.0
/* vm: --nodes 2 --swap 256M */
/*
 * Memory that is not to be had, in the midst of whatever KSM does: what was
 * asked for may fail, but no byte is wrong, nothing is left over, and afterwards
 * all works as before.
 *
 * The kernel's fault injection is for those kernels only that were built with
 * it: the debug kernels.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include "ksm_lib.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif

#define DEBUG		"/sys/kernel/debug/"
#define TUNABLES	"GLIBC_TUNABLES"
#define WORKERS		3
#define NR		128UL

static struct board {
	bool stop;
	long ops[WORKERS], failed[WORKERS];
	int nodes[2];
} *board;

/* ---- those to whom it happens ---- */

static void let_fail(pid_t pid, const char *on)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/make-it-fail", pid);
	/* It may happen to this, too */
	while (file_write(path, on, 1))
		;
}

static unsigned int pick(unsigned int *random, unsigned int below)
{
	*random = *random * 1664525 + 1013904223;
	return (*random >> 8) % below;
}

/*
 * This program, in memory.  The files of the guest come over 9p, which takes the
 * number of one for free when it has no memory, or is killed, while it tells the
 * host that it is to be closed, or open; and with that number no file can be
 * opened ever after (EINVAL).  So nobody to whom that happens opens or closes any.
 */
static int program;

static void load_program(void)
{
	int self = open("/proc/self/exe", O_RDONLY);
	struct stat stat;

	program = memfd_create("true", MFD_CLOEXEC);
	CHECK(self >= 0 && program >= 0 && !fstat(self, &stat));
	for (off_t left = stat.st_size; left; ) {
		ssize_t sent = sendfile(program, self, NULL, left);

		CHECK(sent > 0);
		left -= sent;
	}
	close(self);
}

static void become_true(void)
{
	char *const args[] = { "true", NULL };

	fexecve(program, args, args + 1);
}

/* Whatever comes of a call, the content is what it was. */
static bool try_call(unsigned int what, char *area, unsigned int *random)
{
	char *pages[NR], *moved;
	int status[NR], err = 0;
	pid_t pid;

	switch (what) {
	case 0:
		err = madvise(area, NR * PAGE_SIZE, MADV_MERGEABLE);
		break;
	case 1:
		err = madvise(area + pick(random, NR / 2) * PAGE_SIZE,
			      NR / 2 * PAGE_SIZE, MADV_UNMERGEABLE);
		break;
	case 2:
		err = madvise(area, NR * PAGE_SIZE, MADV_PAGEOUT);
		break;
	case 3:
		for (size_t i = 0; i < NR; i++)
			pages[i] = area + i * PAGE_SIZE;
		err = syscall(__NR_move_pages, 0, NR, pages, NULL, status, 0);
		for (size_t i = 0; i < NR; i++)
			status[i] = board->nodes[pick(random, 2)];
		err |= syscall(__NR_move_pages, 0, NR, pages, status, status,
			       KSM_MPOL_MF_MOVE_ALL);
		break;
	case 4:
		pid = fork();
		if (!pid) {
			for (size_t i = 0; i < NR; i += 3)
				fill_page(area + i * PAGE_SIZE, i);
			if (pick(random, 2))
				become_true();
			_exit(0);
		}
		err = pid < 0 || waitpid(pid, NULL, 0) != pid;
		break;
	case 5:
		err = prctl(PR_SET_MEMORY_MERGE, pick(random, 2), 0, 0, 0);
		break;
	case 6:
		err = mprotect(area + pick(random, NR) * PAGE_SIZE, PAGE_SIZE,
			       PROT_READ);
		while (mprotect(area, NR * PAGE_SIZE, PROT_READ | PROT_WRITE))
			err = -1;
		break;
	default:
		moved = mmap(NULL, NR * PAGE_SIZE, PROT_NONE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		err = moved == MAP_FAILED;
		if (!err)
			munmap(moved, NR * PAGE_SIZE);
	}
	return !err;
}

static void work(int id)
{
	unsigned int random = id + 1, turn;
	char *area = map_pages(NR);

	fill_area(area, NR, 1, 24);
	madvise(area, NR * PAGE_SIZE, MADV_MERGEABLE);
	let_fail(getpid(), "1");
	for (turn = 0; !read_now(board->stop); turn++) {
		size_t at = pick(&random, NR);

		if (!try_call(pick(&random, 8), area, &random))
			board->failed[id]++;
		board->ops[id]++;
		if (!page_is(area + at * PAGE_SIZE, 1 + at % 24))
			FAIL("page %zu is not what it was", at);
		fill_page(area + at * PAGE_SIZE, 1 + at % 24);
		/* Let ksmd merge something */
		usleep(pick(&random, 4) * 1000);
	}
	let_fail(getpid(), "0");
	VERIFY(area, NR, 1, 24);
	fill_area(area, NR, 500, NR);
	VERIFY(area, NR, 500, NR);
	_exit(0);
}

/* ---- making it happen ---- */

static void inject(const char *kind, int percent)
{
	static const struct {
		const char *name, *value;
	} settings[] = {
		{ "times", "-1" }, { "interval", "1" }, { "space", "0" },
		{ "verbose", "0" }, { "task-filter", "1" },
		{ "ignore-gfp-wait", "0" }, { "ignore-gfp-highmem", "0" },
		{ "min-order", "0" },
	};
	char path[128], value[16];

	for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
		snprintf(path, sizeof(path), DEBUG "%s/%s", kind,
			 settings[i].name);
		knob_override(path, settings[i].value);
	}
	snprintf(path, sizeof(path), DEBUG "%s/probability", kind);
	snprintf(value, sizeof(value), "%d", percent);
	CHECK(!knob_override(path, value));
}

#define ENOUGH	20	/* calls, however slow the kernel is */

static long calls(void)
{
	long ops = 0;

	for (int i = 0; i < WORKERS; i++)
		ops += read_now(board->ops[i]);
	return ops;
}

static void run_with(const char *kind, int percent)
{
	double end = ksm_now() + 6, latest = end + 20 * ksm_slow();
	pid_t pid[WORKERS], ksmd = pid_of("ksmd");
	int status, refused = 0;
	long failed = 0;

	inject(kind, percent);
	board->stop = false;
	for (int i = 0; i < WORKERS; i++) {
		board->ops[i] = 0;
		board->failed[i] = 0;
		pid[i] = fork();
		CHECK(pid[i] >= 0);
		if (!pid[i])
			work(i);
	}
	let_fail(ksmd, "1");
	ksm_set("run", 1);
	while (ksm_now() < end || (calls() < ENOUGH && ksm_now() < latest)) {
		usleep(100000 * ksm_slow());
		/* Unmerging is asked for by one who may fail, too */
		let_fail(getpid(), "1");
		if (ksm_write("run", "2", 1))
			refused++;
		ksm_write("run", "1", 1);
		let_fail(getpid(), "0");
	}
	let_fail(ksmd, "0");
	write_now(board->stop, true);
	for (int i = 0; i < WORKERS; i++) {
		CHECK(waitpid(pid[i], &status, 0) == pid[i]);
		if (status)
			FAIL("worker %d ended with status %#x", i, status);
		failed += board->failed[i];
	}
	ksm_note("%s at %d%%: %ld of %ld calls failed, run = 2 %d times", kind,
		 percent, failed, calls(), refused);
	CHECK_GE(calls(), ENOUGH);
}

/* Nothing is left, and merging is as good as ever. */
static void all_is_well(long bytes)
{
	char *area;

	/* Where it has been 2 for a while that would do nothing */
	ksm_set("run", 0);
	ksm_set("run", 2);
	CHECK_EQ(ksm_get("pages_shared"), 0);
	CHECK_EQ(ksm_get("pages_sharing"), 0);
	CHECK_EQ(ksm_get("pages_unshared"), 0);
	CHECK_EQ(ksm_get("pages_volatile"), 0);
	WAIT_FOR(ksm_get("metadata_bytes") <= bytes);
	area = mergeable_area(NR, 900, 4);
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	CHECK_EQ(ksm_get("pages_sharing"), NR - 4);
	VERIFY(area, NR, 900, 4);
}

static void need_injection(const char *kind)
{
	char path[64];

	snprintf(path, sizeof(path), DEBUG "%s/probability", kind);
	if (access(path, W_OK) || access("/proc/self/make-it-fail", W_OK))
		ksm_skip("no fault injection");
}

static void survive(const char *kind)
{
	long bytes;

	need_injection(kind);
	need_nodes(board->nodes, 2);
	load_program();
	ksm_set("use_zero_pages", 1);
	bytes = ksm_get("metadata_bytes");
	run_with(kind, 1);
	run_with(kind, 10);

	all_is_well(bytes);
}

static void slab_fails(void)
{
	survive("failslab");
}

static void pages_fail(void)
{
	survive("fail_page_alloc");
}

static void usercopy_fails(void)
{
	survive("fail_usercopy");
}

/* ---- one fault, in each place there is ---- */

/*
 * How many allocations, or accesses to user memory, are left until one fails; 0:
 * it has, or none will.  The calls count, too.
 */
static void set_fail_nth(int fd, long nth)
{
	char text[24];
	int len = snprintf(text, sizeof(text), "%ld", nth);

	while (pwrite(fd, text, len, 0) != len)
		;
}

static bool has_failed(int fd)
{
	char first;

	return pread(fd, &first, 1, 0) == 1 && first == '0';
}

/* A child has what its parent had, and after run = 2 nothing of it is merged. */
static void wait_and_look(const char *area, int *go)
{
	char byte;

	close(go[1]);
	if (read(go[0], &byte, 1))
		_exit(3);
	for (size_t i = 0; i < NR; i++)
		if (!page_is(area + i * PAGE_SIZE, 700 + i % 8))
			_exit(2);
	_exit(count_ksm(area, NR) ? 1 : 0);
}

#define MOST_CHILDREN	1000

/*
 * pitfall 19: one allocation of a fork fails, each in its turn.  If there is a
 * child even so, it takes part or not, but it has no part in what is given up.
 */
static void every_step_of_fork(void)
{
	int fail_nth = open("/proc/thread-self/fail-nth", O_RDWR);
	static pid_t child[MOST_CHILDREN];
	long nth = 0, children = 0, bytes;
	int go[2], status;
	bool injected;
	char *area;
	pid_t pid;

	need_injection("failslab");
	CHECK_GE(fail_nth, 0);
	inject("failslab", 0);
	inject("fail_page_alloc", 0);
	area = mergeable_area(NR, 700, 8);
	bytes = ksm_get("metadata_bytes");
	ksm_settle();
	CHECK(!pipe(go));
	do {
		set_fail_nth(fail_nth, ++nth);
		pid = fork();
		if (!pid)
			wait_and_look(area, go);
		injected = has_failed(fail_nth);
		set_fail_nth(fail_nth, 0);
		CHECK(pid > 0 || injected);
		CHECK(children < MOST_CHILDREN);
		if (pid > 0)
			child[children++] = pid;
	} while (injected);
	ksm_note("%ld allocations, of which %ld are not needed for a child",
		 nth - 1, children - 1);
	CHECK_GE(nth, 20);
	CHECK_EQ(count_ksm(area, NR), NR);
	ksm_set("run", 2);
	CHECK_EQ(count_ksm(area, NR), 0);
	close(go[1]);
	while (children--) {
		CHECK(waitpid(child[children], &status, 0) == child[children]);
		CHECK_EQ(status, 0);
	}
	close(go[0]);
	VERIFY(area, NR, 700, 8);
	CHECK(!munmap(area, NR * PAGE_SIZE));
	all_is_well(bytes);
}

/* ---- no room ---- */

#define ROOMY	1024UL		/* pages of a worker: together they are too many */

/* A part at a time, and until that is merged no more: it would be too much at once. */
static char *roomy_area(void)
{
	char *area = map_pages(ROOMY);

	CHECK(!madvise(area, ROOMY * PAGE_SIZE, MADV_MERGEABLE));
	for (char *part = area; part < area + ROOMY * PAGE_SIZE;
	     part += NR * PAGE_SIZE) {
		fill_area(part, NR, 1, 8);
		while (count_ksm(part, NR) < NR) {
			usleep(10000 * ksm_slow());
			/* What is swapped out is not merged */
			for (size_t i = 0; i < NR; i++)
				read_now(part[i * PAGE_SIZE]);
		}
	}
	return area;
}

/* Merged they have room enough, and until they do something about it. */
static void work_without_room(int id, unsigned int random)
{
	char *pages[NR], *area;
	int status[NR];
	pid_t pid;

	memcg_enter();
	area = roomy_area();
	board->ops[id]++;
	switch (pick(&random, 6)) {
	case 0:
		fill_area(area, ROOMY, 50, ROOMY);
		break;
	case 1:
		madvise(area, ROOMY * PAGE_SIZE, MADV_UNMERGEABLE);
		break;
	case 2:
		pid = fork();
		fill_area(area, ROOMY, 60, ROOMY);
		if (!pid)
			_exit(0);
		waitpid(pid, NULL, 0);
		break;
	case 3:
		for (size_t i = 0; i < NR; i++) {
			pages[i] = area + i * PAGE_SIZE;
			status[i] = board->nodes[pick(&random, 2)];
		}
		syscall(__NR_move_pages, 0, NR, pages, status, status,
			KSM_MPOL_MF_MOVE_ALL);
		madvise(area, ROOMY * PAGE_SIZE, MADV_PAGEOUT);
		break;
	case 4:
		become_true();
		break;
	}
	_exit(0);
}

static pid_t start_without_room(int id, unsigned int random)
{
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (!pid)
		work_without_room(id, random);
	return pid;
}

/*
 * OOM kills and a full swap in the midst of merging, unmerging, fork, exec, exit
 * and migration, in a control group that has room for little that is not merged.
 */
static void killed_in_the_middle(void)
{
	double end = ksm_now() + (ksm_slow() > 1 ? 40 : 10);
	char *area = mergeable_area(NR, 800, 8);
	unsigned int random = 1, turns = 0, refused = 0;
	long bytes, killed = 0;
	pid_t pid[WORKERS];
	int status;

	need_nodes(board->nodes, 2);
	load_program();
	bytes = ksm_get("metadata_bytes");
	ksm_set("pages_to_scan", 10000);
	ksm_set("sleep_millisecs", 1);
	ksm_set("smart_scan", 0);
	ksm_set("run", 1);
	for (int i = 0; i < WORKERS; i++) {
		board->ops[i] = 0;
		pid[i] = start_without_room(i, random++);
	}
	WAIT_FOR(!memcg_write("memory.max", "7M"));
	memcg_write("memory.swap.max", "1M");
	while (ksm_goes_on(end, killed && calls())) {
		usleep(20000);
		/*
		 * Whom it is done to has no room for it.  Not when it is late:
		 * they may need longer for a turn than there is between two.
		 */
		if (!(++turns % 32) && (ksm_now() < end || calls()))
			refused += !!ksm_write("run", "2", 1);
		ksm_write("run", "1", 1);
		for (int i = 0; i < WORKERS; i++) {
			if (waitpid(pid[i], &status, WNOHANG) != pid[i])
				continue;
			/* libc says 127 if a new program cannot be set up */
			if (status == SIGKILL)
				killed++;
			else if (status && status != 127 << 8)
				FAIL("worker %d ended with status %#x", i,
				     status);
			pid[i] = start_without_room(i, random++);
		}
	}
	for (int i = 0; i < WORKERS; i++) {
		kill(pid[i], SIGKILL);
		CHECK(waitpid(pid[i], &status, 0) == pid[i]);
	}
	ksm_note("%ld killed in %ld turns, run = 2 refused %u times", killed,
		 calls(), refused);
	CHECK_GE(killed, 1);
	CHECK_GE(calls(), 1);
	/* A killed one's child may still run, or be on its way out */
	memcg_wait_empty();
	VERIFY(area, NR, 800, 8);
	CHECK(!munmap(area, NR * PAGE_SIZE));
	all_is_well(bytes);
}

static const struct ksm_test tests[] = {
	{ "slab_fails", slab_fails },
	{ "pages_fail", pages_fail },
	{ "usercopy_fails", usercopy_fails },
	{ "every_step_of_fork", every_step_of_fork },
	{ "killed_in_the_middle", killed_in_the_middle },
};

int main(int argc, char **argv)
{
	if (argc && !strcmp(argv[0], "true"))
		return 0;
	/*
	 * He for whom the kernel cannot write to the rseq area, after a fork, say, as
	 * it gets no page for the copy, is killed: SIGSEGV.  So there is none.
	 */
	if (!getenv(TUNABLES) && !access("/proc/self/make-it-fail", F_OK)) {
		setenv(TUNABLES, "glibc.pthread.rseq=0", 1);
		execv("/proc/self/exe", argv);
	}
	board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
