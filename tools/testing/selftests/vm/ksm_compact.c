// SPDX-License-Identifier: GPL-2.0
/* vm: --mem 768M */
/*
 * Memory full of KSM pages is compacted, by order and for huge pages.
 */
#include <glob.h>
#include "ksm_lib.h"

#define ROOM	6144	/* pages that others may need */

static bool compact_all(void)
{
	bool done = false;
	glob_t nodes;

	if (!file_print("/proc/sys/vm/compact_memory", "1"))
		return true;
	if (glob("/sys/devices/system/node/node*/compact", 0, NULL, &nodes))
		return false;
	for (size_t i = 0; i < nodes.gl_pathc; i++)
		done |= !file_print(nodes.gl_pathv[i], "1");
	globfree(&nodes);
	return done;
}

static void fill_pairs(char *area, size_t from, size_t to, uint64_t seed)
{
	for (size_t i = from; i < to; i++)
		fill_page(area + i * PAGE_SIZE, seed + i / 2);
}

/*
 * Pairs of pages that lie side by side become one page each: half of the
 * memory is free then, a page here and a page there.
 */
static void merge_pairs(char *area, size_t nr)
{
	CHECK(!madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE));
	ksm_set("pages_to_scan", 10000);
	ksm_scan(2);
	WAIT_FOR(ksm_get("pages_sharing") >= (long)nr / 2);
	ksm_set("run", 0);
	CHECK_EQ(count_ksm(area, nr), nr);
}

static char *scattered(size_t nr, uint64_t seed)
{
	char *area = map_pages(nr);

	fill_pairs(area, 0, nr, seed);
	merge_pairs(area, nr);
	return area;
}

static size_t count_pairs(const char *area, size_t nr)
{
	unsigned long *at = pfns(area, nr);
	size_t pairs = 0;

	for (size_t i = 0; i < nr; i += 2)
		pairs += at[i] && at[i] == at[i + 1];
	free(at);
	return pairs;
}

/*
 * As long as ksmd runs.  What it could not lock, for it was being moved, may have
 * come to be another KSM page of the same content, until it folds the two.
 */
static void wait_for_pairs(const char *area, size_t nr)
{
	WAIT_FOR(count_ksm(area, nr) == nr && count_pairs(area, nr) == nr / 2);
	WAIT_FOR(ksm_get("pages_shared") == (long)nr / 2 &&
		 ksm_get("pages_sharing") == (long)nr / 2);
}

static void check_scattered(const char *area, size_t nr, uint64_t seed)
{
	for (size_t i = 0; i < nr; i++)
		if (!page_is(area + i * PAGE_SIZE, seed + i / 2))
			FAIL("page %zu has lost its content", i);
	/* kcompactd may have some of them in its hands just now. */
	WAIT_FOR(count_pairs(area, nr) == nr / 2);
	WAIT_FOR(count_ksm(area, nr) == nr);
	CHECK_EQ(ksm_get("pages_shared"), nr / 2);
	CHECK_EQ(ksm_get("pages_sharing"), nr / 2);
}

static size_t count_moved(const char *area, size_t nr, const unsigned long *at)
{
	unsigned long *now = pfns(area, nr);
	size_t moved = 0;

	for (size_t i = 0; i < nr; i++)
		moved += now[i] != at[i];
	free(now);
	return moved;
}

/*
 * Compaction moves pages from one end of memory to the other: for some of
 * them to be at the right end, they are laid out all over it.
 */
static void on_order(void)
{
	const size_t nr = ksm_slow() > 1 ? 4096 : 6144, parts = 8;
	char *area = map_pages(nr), *more, *hog[8];
	size_t moved, size[8];
	unsigned long *at;

	for (size_t i = 0; i < parts; i++) {
		fill_pairs(area, i * nr / parts, (i + 1) * nr / parts, 1000);
		size[i] = free_pages() / (parts + 1 - i);
		if (!size[i])
			ksm_skip("too little memory");
		hog[i] = map_pages(size[i]);
		madvise(hog[i], size[i] * PAGE_SIZE, MADV_NOHUGEPAGE);
		touch_pages(hog[i], size[i]);
	}
	merge_pairs(area, nr);
	at = pfns(area, nr);
	for (size_t i = 0; i < parts; i++)
		CHECK(!munmap(hog[i], size[i] * PAGE_SIZE));
	if (!compact_all())
		ksm_skip("no compaction");
	moved = count_moved(area, nr, at);
	ksm_note("%zu of %zu mappings were moved", moved, nr);
	CHECK_GE(moved, nr / 50);
	check_scattered(area, nr, 1000);

	/* Found where they are now. */
	more = mergeable_area(64, 1000, 64);
	ksm_set("run", 1);
	for (size_t i = 0; i < 64; i++)
		WAIT_FOR(pfn(more + i * PAGE_SIZE) ==
			 pfn(area + 2 * i * PAGE_SIZE));
	ksm_set("run", 0);
	VERIFY(more, 64, 1000, 64);
}

/* Most of the memory, or what of it a slow kernel can be asked to go through. */
static size_t most_pages(void)
{
	return ksm_slow() > 1 ? 8192 : 28672;
}

/* Over and over, with ksmd at it and somebody writing. */
static void under_a_running_ksmd(void)
{
	const size_t nr = 4096;
	char *area = scattered(nr, 10000);
	double end = ksm_now() + 4;
	int status, rounds = 0;

	ksm_set("run", 1);
	fflush(stdout);
	if (!fork()) {
		while (ksm_now() < end)
			if (!compact_all())
				_exit(4);
		_exit(0);
	}
	for (; ksm_now() < end; rounds++)
		for (size_t i = rounds % 16; i < nr; i += 16) {
			CHECK(page_is(area + i * PAGE_SIZE, 10000 + i / 2));
			fill_page(area + i * PAGE_SIZE, 10000 + i / 2);
		}
	CHECK(wait(&status) > 0);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 4)
		ksm_skip("no compaction");
	CHECK(!status);
	wait_for_pairs(area, nr);
	ksm_set("run", 0);
	check_scattered(area, nr, 10000);
}

/*
 * Direct compaction: what is free is between KSM pages, and huge pages are to
 * be made of it, while ksmd runs.
 */
static void for_huge_pages(void)
{
	static const char defrag[] =
		"/sys/kernel/mm/transparent_hugepage/defrag";
	const size_t nr = most_pages();
	size_t moved, got = 0, tries = 0;
	char *area, *room;
	long success;
	unsigned long *at;

	map_huge(1);	/* or there are none, which skips the test */
	leave_free(nr + ROOM);
	area = scattered(nr, 30000);
	at = pfns(area, nr);
	/* Take the huge pages that are there without doing anything. */
	CHECK(!knob_override(defrag, "never"));
	while (fault_huge(&room))
		;
	CHECK(!munmap(room, HUGE_SIZE));

	/*
	 * What khugepaged keeps free is more than is free now, and then memory
	 * is reclaimed, of which none can be, before anybody compacts it.
	 */
	CHECK(!knob_override("/proc/sys/vm/min_free_kbytes", "8192"));
	CHECK(!knob_override(defrag, "always"));
	success = vm_event("compact_success");
	ksm_set("run", 1);
	WAIT_FOR(({
		tries++;
		if (fault_huge(&room))
			got++;
		else
			CHECK(!munmap(room, HUGE_SIZE));
		got >= 4 && count_moved(area, nr, at) >= HUGE_PAGES;
	}));
	ksm_set("run", 0);
	success = vm_event("compact_success") - success;
	moved = count_moved(area, nr, at);
	ksm_note("%zu huge pages at %zu attempts, %ld compactions, %zu mappings moved",
		 got, tries, success, moved);
	ksm_settle();
	check_scattered(area, nr, 30000);
}

/* kcompactd by itself, when memory has come to consist of small pieces. */
static void proactively(void)
{
	static const char knob[] = "/proc/sys/vm/compaction_proactiveness";
	const size_t nr = most_pages();
	unsigned long *at;
	char *area;

	map_huge(1);	/* or there are none, which skips the test */
	CHECK(!knob_override(knob, "0"));
	leave_free(nr + ROOM);
	area = scattered(nr, 50000);
	at = pfns(area, nr);
	CHECK(!knob_override(knob, "100"));
	WAIT_FOR(count_moved(area, nr, at) >= HUGE_PAGES);
	CHECK(!knob_override(knob, "0"));
	ksm_note("proactive compaction: %zu mappings moved",
		 count_moved(area, nr, at));
	check_scattered(area, nr, 50000);
}

static const struct ksm_test tests[] = {
	{ "on_order", on_order },
	{ "under_a_running_ksmd", under_a_running_ksmd },
	{ "for_huge_pages", for_huge_pages },
	{ "proactively", proactively },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
