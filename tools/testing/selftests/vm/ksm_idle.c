// SPDX-License-Identifier: GPL-2.0
/* vm: --nodes 2 --swap 256M */
/* stock-fails: not_read_again */
/*
 * Pages that nobody writes to are not read again, and those that are written to
 * lose nothing by it.
 */
#include "ksm_lib.h"

#define NR	512

/* stock: expected failure: there is no pages_unchanged */
static void not_read_again(void)
{
	char *area = mergeable_area(NR, 1000, NR);
	long unchanged, scanned;

	CHECK(ksm_has("pages_unchanged"));
	ksm_scan(12);
	ksm_set("run", 0);
	unchanged = ksm_get("pages_unchanged");
	scanned = ksm_get("pages_scanned");
	ksm_scan(40);
	ksm_set("run", 0);
	unchanged = ksm_get("pages_unchanged") - unchanged;
	scanned = ksm_get("pages_scanned") - scanned;
	ksm_note("%ld pages scanned, %ld unchanged", scanned, unchanged);
	CHECK_GE(unchanged, scanned * 3 / 4);
	CHECK_GE(scanned * 63 / 64, unchanged);

	/* Every one is written to: all are read, once. */
	ksm_one_pass();
	for (size_t i = 0; i < NR; i++)
		write_byte(area + i * PAGE_SIZE, read_byte(area + i * PAGE_SIZE));
	unchanged = ksm_get("pages_unchanged");
	ksm_one_pass();
	CHECK_EQ(ksm_get("pages_unchanged"), unchanged);
	for (int pass = 0; pass < 12; pass++)
		ksm_one_pass();
	unchanged = ksm_get("pages_unchanged");
	ksm_one_pass();
	CHECK_GE(ksm_get("pages_unchanged"), unchanged + NR * 3 / 4);
	VERIFY(area, NR, 1000, NR);
}

/* What was written is found in the passes that it takes, and not later. */
static void written_in_time(void)
{
	char *area = mergeable_area(NR, 2000, NR);

	ksm_scan(20);
	ksm_set("run", 0);
	CHECK_EQ(count_ksm(area, NR), 0);
	for (size_t i = 0; i < NR; i++)
		fill_page(area + i * PAGE_SIZE, 3000 + i / 2);
	for (int pass = 0; pass < 3; pass++)
		ksm_one_pass();
	CHECK_EQ(count_ksm(area, NR), NR);
	for (size_t i = 0; i < NR; i++)
		CHECK(page_is(area + i * PAGE_SIZE, 3000 + i / 2));
}

/* Equal to a page that has not been read for long. */
static void others_join(void)
{
	char *area = mergeable_area(NR, 4000, NR), *more;

	ksm_scan(20);
	more = mergeable_area(NR, 4000, NR);
	ksm_settle();
	CHECK_EQ(count_same(getpid(), more, getpid(), area, NR), NR);
	VERIFY(area, NR, 4000, NR);
	VERIFY(more, NR, 4000, NR);
}

/* The kernel writes without a trace in the page table. */
static void written_by_the_kernel(void)
{
	char *area = mergeable_area(NR, 5000, NR), page[PAGE_SIZE];
	int mem = open("/proc/self/mem", O_RDWR);

	CHECK_GE(mem, 0);
	ksm_scan(20);
	ksm_set("run", 0);
	for (size_t i = 0; i < NR; i++) {
		fill_page(page, 6000 + i / 2);
		CHECK_EQ(pwrite(mem, page, PAGE_SIZE,
				(long)area + i * PAGE_SIZE), PAGE_SIZE);
	}
	ksm_scan(70);
	ksm_set("run", 0);
	CHECK_EQ(count_ksm(area, NR), NR);
	for (size_t i = 0; i < NR; i++)
		CHECK(page_is(area + i * PAGE_SIZE, 6000 + i / 2));
}

/*
 * pitfall 6: that the page was written to after MADV_FREE is noted in the entry
 * only, and reclaim drops it if ksmd takes the note away.
 */
static void written_after_free(void)
{
	char *area;

	memcg_enter();
	area = mergeable_area(NR, 7000, NR);
	ksm_scan(3);
	CHECK(!madvise(area, NR * PAGE_SIZE, MADV_FREE));
	fill_area(area, NR, 8000, NR);
	ksm_scan(12);	/* as many as it takes until the note is taken */
	ksm_set("run", 0);
	memcg_swap_out(area, NR);
	VERIFY(area, NR, 8000, NR);
}

/* Written to all the time, and pushed out to swap, while ksmd looks. */
static void written_and_reclaimed(void)
{
	long rounds = 0, swapped = 0;
	char *area;

	memcg_enter();
	area = mergeable_area(NR, 9000, NR);
	ksm_set("pages_to_scan", 10000);
	ksm_set("sleep_millisecs", 0);
	ksm_set("run", 1);
	for (double end = ksm_now() + 4; ksm_now() < end; rounds++) {
		fill_area(area, NR, 10000 + rounds, NR);
		memcg_reclaim("512K");
		swapped += count_swapped(area, NR);
		VERIFY(area, NR, 10000 + rounds, NR);
	}
	ksm_note("%ld rounds, %ld pages were swapped out", rounds, swapped);
	CHECK_GE(swapped, 1);
}

static const struct ksm_test tests[] = {
	{ "not_read_again", not_read_again },
	{ "written_in_time", written_in_time },
	{ "others_join", others_join },
	{ "written_by_the_kernel", written_by_the_kernel },
	{ "written_after_free", written_after_free },
	{ "written_and_reclaimed", written_and_reclaimed },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
