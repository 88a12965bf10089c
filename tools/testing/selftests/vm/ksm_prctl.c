// SPDX-License-Identifier: GPL-2.0
/*
 * prctl(2): a whole process takes part, its children do, and what it becomes.
 */
#include "ksm_lib.h"

#define NR	32

static long merge_any(long arg)
{
	return prctl(PR_SET_MEMORY_MERGE, arg, 0, 0, 0);
}

static long merges_any(void)
{
	return prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0);
}

static void arguments(void)
{
	CHECK_EQ(merges_any(), 0);
	CHECK_ERRNO(prctl(PR_SET_MEMORY_MERGE, 1, 1, 0, 0), EINVAL);
	CHECK_ERRNO(prctl(PR_SET_MEMORY_MERGE, 1, 0, 1, 0), EINVAL);
	CHECK_ERRNO(prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 1), EINVAL);
	CHECK_ERRNO(prctl(PR_SET_MEMORY_MERGE, 0, -1, -1, -1), EINVAL);
	CHECK_EQ(merges_any(), 0);
	CHECK_ERRNO(prctl(PR_GET_MEMORY_MERGE, 1, 0, 0, 0), EINVAL);
	CHECK_ERRNO(prctl(PR_GET_MEMORY_MERGE, 0, 1, 0, 0), EINVAL);
	CHECK_ERRNO(prctl(PR_GET_MEMORY_MERGE, 0, 0, 1, 0), EINVAL);
	CHECK_ERRNO(prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 1), EINVAL);

	CHECK_EQ(merge_any(0), 0);	/* it is off already */
	CHECK_EQ(merge_any(1), 0);
	CHECK_EQ(merges_any(), 1);
	CHECK_EQ(merge_any(1), 0);
	CHECK_ERRNO(prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 1), EINVAL);
	CHECK_EQ(merges_any(), 1);
	CHECK_EQ(merge_any(0), 0);
	CHECK_EQ(merges_any(), 0);
	CHECK_EQ(merge_any(12345), 0);	/* anything but 0 */
	CHECK_EQ(merges_any(), 1);
}

static char *plain_area(uint64_t seed)
{
	char *area = map_pages(NR);

	fill_area(area, NR, seed, 2);
	return area;
}

static void areas_join(void)
{
	char *before = plain_area(10), *after, *shared, *heap;

	CHECK_EQ(merge_any(1), 0);
	after = plain_area(10);
	CHECK(smaps_flag(before, "mg"));
	CHECK(smaps_flag(after, "mg"));
	shared = mmap(NULL, NR * PAGE_SIZE, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(shared != MAP_FAILED);
	fill_area(shared, NR, 10, 2);
	CHECK(!smaps_flag(shared, "mg"));

	heap = sbrk(2 * NR * PAGE_SIZE);
	CHECK(heap != (void *)-1);
	heap = (char *)(((unsigned long)heap + PAGE_SIZE - 1) & -PAGE_SIZE);
	CHECK(smaps_flag(heap, "mg"));
	fill_area(heap, NR, 10, 2);

	ksm_settle();
	CHECK_EQ(count_ksm(before, NR), NR);
	CHECK_EQ(count_ksm(after, NR), NR);
	CHECK_EQ(count_ksm(heap, NR), NR);
	CHECK_EQ(count_ksm(shared, NR), 0);
	CHECK_EQ(pfn(before), pfn(heap));
	CHECK_GE(proc_merging(getpid()), 3 * NR);
	VERIFY(before, NR, 10, 2);
	VERIFY(after, NR, 10, 2);
	VERIFY(heap, NR, 10, 2);
}

static void off_unmerges(void)
{
	char *area = plain_area(20), *advised = mergeable_area(NR, 20, 2);

	CHECK_EQ(merge_any(1), 0);
	ksm_scan(4);
	WAIT_FOR(count_ksm(area, NR) == NR && count_ksm(advised, NR) == NR);
	CHECK_EQ(merge_any(0), 0);	/* ksmd goes on running */
	CHECK_EQ(count_ksm(area, NR), 0);
	CHECK_EQ(count_ksm(advised, NR), 0);
	CHECK(!smaps_flag(area, "mg"));
	CHECK(!smaps_flag(advised, "mg"));
	VERIFY(area, NR, 20, 2);
	VERIFY(advised, NR, 20, 2);
	CHECK(!smaps_flag(plain_area(21), "mg"));
	WAIT_FOR(!proc_merging(getpid()) && !ksm_get("pages_shared"));

	CHECK_EQ(merge_any(1), 0);
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	VERIFY(area, NR, 20, 2);
}

/* One area is taken out by madvise(2), the process stays in. */
static void exception(void)
{
	char *area = plain_area(30), *more;

	CHECK_EQ(merge_any(1), 0);
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	CHECK(!madvise(area, NR * PAGE_SIZE, MADV_UNMERGEABLE));
	CHECK_EQ(count_ksm(area, NR), 0);
	CHECK_EQ(merges_any(), 1);
	more = plain_area(30);
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), 0);
	CHECK_EQ(count_ksm(more, NR), NR);
	VERIFY(area, NR, 30, 2);
	VERIFY(more, NR, 30, 2);
}

static void inherited_by_fork(void)
{
	char *area = plain_area(40);
	int status;

	CHECK_EQ(merge_any(1), 0);
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	if (!fork()) {
		char *own = plain_area(42);

		CHECK_EQ(merges_any(), 1);
		CHECK(smaps_flag(own, "mg"));
		CHECK_EQ(count_ksm(area, NR), NR);
		CHECK_EQ(proc_ksm(getpid(), "ksm_merging_pages"), 0);
		ksm_settle();
		CHECK_EQ(count_ksm(own, NR), NR);
		CHECK_EQ(count_ksm(area, NR), NR);
		/* pitfall 19: and it leaves again by itself */
		CHECK_EQ(merge_any(0), 0);
		CHECK_EQ(count_ksm(own, NR), 0);
		CHECK_EQ(count_ksm(area, NR), 0);
		VERIFY(own, NR, 42, 2);
		VERIFY(area, NR, 40, 2);
		_exit(0);
	}
	CHECK(wait(&status) > 0 && !status);
	CHECK_EQ(merges_any(), 1);
	CHECK_EQ(count_ksm(area, NR), NR);
	VERIFY(area, NR, 40, 2);
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
}

/* What a new program finds; it has nothing to do but tell. */
static int after_exec(const char *expect)
{
	char *area;

	CHECK_EQ(merges_any(), atoi(expect));
	area = plain_area(50);
	CHECK_EQ(smaps_flag(area, "mg"), atoi(expect));
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), atoi(expect) ? NR : 0);
	VERIFY(area, NR, 50, 2);
	return 0;
}

static void run_new_program(const char *expect)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		execl("/proc/self/exe", "ksm_prctl", "after-exec", expect,
		      NULL);
		_exit(99);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK_EQ(status, 0);
}

static void inherited_by_exec(void)
{
	/* An advised area is a thing of the old program. */
	char *area = mergeable_area(NR, 51, 2);

	run_new_program("0");
	CHECK_EQ(merge_any(1), 0);
	run_new_program("1");
	CHECK_EQ(merge_any(0), 0);
	/* ksm_settle() in the new program wants somebody to be registered. */
	CHECK(!madvise(area, NR * PAGE_SIZE, MADV_MERGEABLE));
	run_new_program("0");
	VERIFY(area, NR, 51, 2);
}

/* pitfalls 16, 19: registered at fork, gone at exec or exit, again and again */
static void fork_exec_exit(void)
{
	char *area = plain_area(60);
	double end = ksm_now() + 3;
	int status, rounds = 0;

	CHECK_EQ(merge_any(1), 0);
	ksm_scan(3);
	for (; ksm_now() < end; rounds++) {
		pid_t pid = rounds % 2 ? vfork() : fork();

		if (!pid) {
			execl("/proc/self/exe", "ksm_prctl", "nothing", NULL);
			_exit(99);
		}
		CHECK(pid > 0);
		if (rounds % 3 == 0)
			kill(pid, SIGKILL);
		CHECK(waitpid(pid, &status, 0) == pid);
		CHECK(!status || (WIFSIGNALED(status) && rounds % 3 == 0));
	}
	ksm_note("%d processes", rounds);
	VERIFY(area, NR, 60, 2);
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
}

static const struct ksm_test tests[] = {
	{ "arguments", arguments },
	{ "areas_join", areas_join },
	{ "off_unmerges", off_unmerges },
	{ "exception", exception },
	{ "inherited_by_fork", inherited_by_fork },
	{ "inherited_by_exec", inherited_by_exec },
	{ "fork_exec_exit", fork_exec_exit },
};

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "after-exec"))
		return after_exec(argv[2]);
	if (argc == 2 && !strcmp(argv[1], "nothing"))
		return 0;
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
