// SPDX-License-Identifier: GPL-2.0
/* vm: --nodes 2 --swap 128M */
/*
 * Memory that is not to be had, in the midst of whatever KSM does: what was
 * asked for may fail, but no byte is wrong, nothing is left over, and afterwards
 * all works as before.
 *
 * The kernel's fault injection is for those kernels only that were built with
 * it: the debug kernels.
 */
#include <signal.h>
#include <sys/mman.h>
#include "ksm_lib.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif

#define DEBUG		"/sys/kernel/debug/"
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
				execl("/bin/true", "true", NULL);
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

static void run_with(const char *kind, int percent)
{
	double end = ksm_now() + 6;
	pid_t pid[WORKERS], ksmd = pid_of("ksmd");
	long failed = 0, ops = 0;
	int status, refused = 0;

	inject(kind, percent);
	for (int i = 0; i < WORKERS; i++) {
		pid[i] = fork();
		CHECK(pid[i] >= 0);
		if (!pid[i])
			work(i);
	}
	let_fail(ksmd, "1");
	ksm_set("run", 1);
	while (ksm_now() < end) {
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
		ops += board->ops[i];
		failed += board->failed[i];
	}
	ksm_note("%s at %d%%: %ld of %ld calls failed, run = 2 %d times", kind,
		 percent, failed, ops, refused);
	CHECK_GE(ops, 20);
}

static void survive(const char *kind)
{
	char path[64];
	long bytes;

	snprintf(path, sizeof(path), DEBUG "%s/probability", kind);
	if (access(path, W_OK) || access("/proc/self/make-it-fail", W_OK))
		ksm_skip("no fault injection");
	need_nodes(board->nodes, 2);
	ksm_set("use_zero_pages", 1);
	bytes = ksm_get("metadata_bytes");
	run_with(kind, 1);
	board->stop = false;
	run_with(kind, 10);

	/* All is well again, and nothing is left */
	ksm_set("run", 2);
	CHECK_EQ(ksm_get("pages_shared"), 0);
	CHECK_EQ(ksm_get("pages_sharing"), 0);
	CHECK_EQ(ksm_get("pages_unshared"), 0);
	CHECK_EQ(ksm_get("pages_volatile"), 0);
	WAIT_FOR(ksm_get("metadata_bytes") <= bytes);
	char *area = mergeable_area(NR, 900, 4);

	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	CHECK_EQ(ksm_get("pages_sharing"), NR - 4);
	VERIFY(area, NR, 900, 4);
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

static const struct ksm_test tests[] = {
	{ "slab_fails", slab_fails },
	{ "pages_fail", pages_fail },
	{ "usercopy_fails", usercopy_fails },
};

int main(int argc, char **argv)
{
	board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
