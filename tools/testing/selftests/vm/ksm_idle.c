// SPDX-License-Identifier: GPL-2.0
/* vm: --nodes 2 --swap 256M */
/* stock-fails: not_read_again backs_off huge_not_read_again huge_written_in_time */
/*
 * Pages that nobody writes to are not read again, and those that are written to
 * lose nothing by it.
 */
#include <pthread.h>
#include "ksm_lib.h"

#define NR	512

static void rewrite_all(char *area, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		write_byte(area + i * PAGE_SIZE, read_byte(area + i * PAGE_SIZE));
}

/* Others have no dirty bit, or migration entries have no room for one. */
static void need_dirty_bit(void)
{
	CHECK(ksm_has("pages_unchanged"));
#ifndef __x86_64__
	ksm_skip("every page is read in each pass on this architecture");
#endif
}

/* stock: expected failure: there is no pages_unchanged */
static void not_read_again(void)
{
	char *area = mergeable_area(NR, 1000, NR);
	long unchanged, scanned;

	need_dirty_bit();
	ksm_scan(12);
	ksm_set("run", 0);
	unchanged = ksm_get("pages_unchanged");
	scanned = ksm_get("pages_scanned");
	ksm_scan(70);
	ksm_set("run", 0);
	unchanged = ksm_get("pages_unchanged") - unchanged;
	scanned = ksm_get("pages_scanned") - scanned;
	ksm_note("%ld pages scanned, %ld unchanged", scanned, unchanged);
	CHECK_GE(unchanged, scanned * 3 / 4);
	CHECK_GE(scanned * 127 / 128, unchanged);

	/* Every one is written to: all are read. */
	ksm_one_pass();
	rewrite_all(area, NR);
	unchanged = ksm_get("pages_unchanged");
	ksm_one_pass();
	CHECK_EQ(ksm_get("pages_unchanged"), unchanged);
	VERIFY(area, NR, 1000, NR);
}

/*
 * What is written again with what it had is watched when its turn comes, and
 * not before.  So many places are there for every turn to have one of them.
 */
static void backs_off(void)
{
	const size_t places = 64, nr = places * 16;
	char *area[64];
	long unchanged;

	need_dirty_bit();
	area[0] = map_pages(places * 64);
	CHECK(!madvise(area[0], places * 64 * PAGE_SIZE, MADV_MERGEABLE));
	for (size_t i = 0; i < places; i++) {
		area[i] = area[0] + i * 64 * PAGE_SIZE;
		fill_area(area[i], 16, 1500 + i * 16, 16);
	}
	ksm_scan(12);
	ksm_set("run", 0);
	for (size_t i = 0; i < places; i++)
		rewrite_all(area[i], 16);
	ksm_one_pass();
	unchanged = ksm_get("pages_unchanged");
	for (int pass = 0; pass < 20; pass++)
		ksm_one_pass();
	unchanged = ksm_get("pages_unchanged") - unchanged;
	ksm_note("%ld of %zu pages unchanged", unchanged, 20 * nr);
	CHECK_GE(20 * nr / 3, unchanged);

	for (int pass = 0; pass < 64; pass++)
		ksm_one_pass();
	unchanged = ksm_get("pages_unchanged");
	ksm_one_pass();
	CHECK_GE(ksm_get("pages_unchanged"), unchanged + nr * 3 / 4);
	for (size_t i = 0; i < places; i++)
		VERIFY(area[i], 16, 1500 + i * 16, 16);
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

/* A page that is alone, and at address 0, is let go of like any other. */
static void first_of_all(void)
{
	char *lowest, *other;

	if (knob_override("/proc/sys/vm/mmap_min_addr", "0"))
		ksm_skip("no mmap_min_addr");
	lowest = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE |
		      MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	CHECK(lowest != MAP_FAILED);
	fill_page(lowest, 7000);
	CHECK(!madvise(lowest, PAGE_SIZE, MADV_MERGEABLE));
	ksm_scan(80);
	ksm_set("run", 0);
	other = mergeable_area(1, 7000, 1);
	ksm_settle();
	CHECK_EQ(count_ksm(lowest, 1), 1);
	CHECK_EQ(count_ksm(other, 1), 1);
	CHECK(page_is(lowest, 7000));
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
				(unsigned long)area + i * PAGE_SIZE), PAGE_SIZE);
	}
	ksm_scan(70);
	ksm_set("run", 0);
	CHECK_EQ(count_ksm(area, NR), NR);
	for (size_t i = 0; i < NR; i++)
		CHECK(page_is(area + i * PAGE_SIZE, 6000 + i / 2));
}

static void write_after_free(char *area, uint64_t seed)
{
	ksm_scan(3);
	CHECK(!madvise(area, NR * PAGE_SIZE, MADV_FREE));
	fill_area(area, NR, seed, NR);
	ksm_scan(40);	/* as many as it takes until the note is taken */
	ksm_set("run", 0);
	CHECK(memcg_swap_out(area, NR));
	VERIFY(area, NR, seed, NR);
}

/*
 * pitfall 6: that the page was written to after MADV_FREE is noted in the entry
 * only, and reclaim drops it if ksmd takes the note away.
 */
static void written_after_free(void)
{
	memcg_enter();
	write_after_free(mergeable_area(NR, 7000, NR), 8000);
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
	for (double end = ksm_now() + 4; ksm_goes_on(end, swapped); rounds++) {
		fill_area(area, NR, 10000 + rounds, NR);
		memcg_reclaim("512K");
		swapped += count_swapped(area, NR);
		VERIFY(area, NR, 10000 + rounds, NR);
	}
	ksm_note("%ld rounds, %ld pages were swapped out", rounds, swapped);
	CHECK_GE(swapped, 1);
}

/* The same after MADV_FREE, which takes the note away, too. */
static void freed_and_reclaimed(void)
{
	long rounds = 0, swapped = 0;
	char *area;

	memcg_enter();
	area = mergeable_area(NR, 9000, NR);
	ksm_set("pages_to_scan", 10000);
	ksm_set("sleep_millisecs", 0);
	ksm_set("run", 1);
	for (double end = ksm_now() + 4; ksm_goes_on(end, swapped); rounds++) {
		CHECK(!madvise(area, NR * PAGE_SIZE, MADV_FREE));
		fill_area(area, NR, 20000 + rounds, NR);
		usleep(rounds % 8 * 10000);
		memcg_reclaim("1M");
		swapped += count_swapped(area, NR);
		VERIFY(area, NR, 20000 + rounds, NR);
	}
	ksm_note("%ld rounds, %ld pages were swapped out", rounds, swapped);
	CHECK_GE(swapped, 1);
}

struct writer {
	char *area;
	bool count, stop;
	long laps, lost;
};

static long *counter(char *area, size_t page)
{
	return (long *)(area + page * PAGE_SIZE + PAGE_SIZE / 2);
}

/*
 * Counts in every page while it is to, and sees whether one misses a step.  In
 * between it stays on its processor, which goes on taking the entries for dirty.
 */
static void *count_laps(void *arg)
{
	struct writer *w = arg;

	while (!read_now(w->stop)) {
		if (!read_now(w->count))
			continue;
		for (size_t i = 0; i < NR; i++) {
			long *at = counter(w->area, i);

			if (__atomic_load_n(at, __ATOMIC_RELAXED) != w->laps)
				w->lost++;
			__atomic_store_n(at, w->laps + 1, __ATOMIC_RELAXED);
		}
		w->laps++;
	}
	return NULL;
}

/* Pages have time to be taken for still, and count while they are taken away. */
static void count_and_reclaim(char *area)
{
	long out = vm_event("pswpout"), swapped = 0;
	struct writer w = { .area = area };
	pthread_t thread;

	for (size_t i = 0; i < NR; i++)
		*counter(area, i) = 0;
	ksm_set("pages_to_scan", 10000);
	ksm_set("sleep_millisecs", 0);
	ksm_set("smart_scan", 0);
	ksm_set("run", 1);
	CHECK(!pthread_create(&thread, NULL, count_laps, &w));
	/* The writer has them back before they could be counted in the area */
	for (double end = ksm_now() + 4; ksm_goes_on(end, swapped);
	     usleep(100000)) {
		write_now(w.count, true);
		memcg_reclaim("512K");
		write_now(w.count, false);
		swapped = vm_event("pswpout") - out;
	}
	write_now(w.stop, true);
	CHECK(!pthread_join(thread, NULL));
	ksm_note("%ld laps, %ld pages were swapped out", w.laps, swapped);
	CHECK_GE(swapped, 1);
	CHECK_EQ(w.lost, 0);
	for (size_t i = 0; i < NR; i++)
		CHECK_EQ(*counter(area, i), w.laps);
}

/*
 * pitfall 6: a processor that still takes the entry for a dirty one writes while
 * ksmd cleans it and reclaim takes the page away.
 */
static void written_while_reclaimed(void)
{
	memcg_enter();
	count_and_reclaim(mergeable_area(NR, 30000, NR));
}

static char *huge_area(size_t nr_huge, uint64_t seed)
{
	char *area = map_huge(nr_huge);

	fill_area(area, nr_huge * HUGE_PAGES, seed, nr_huge * HUGE_PAGES);
	CHECK(!madvise(area, nr_huge * HUGE_SIZE, MADV_MERGEABLE));
	return area;
}

/* stock: expected failure: there is no pages_unchanged */
static void huge_not_read_again(void)
{
	const size_t nr = 2 * HUGE_PAGES;
	long unchanged, scanned;
	char *area = huge_area(2, 40000);

	need_dirty_bit();
	ksm_scan(12);
	ksm_set("run", 0);
	ksm_one_pass();
	unchanged = ksm_get("pages_unchanged");
	scanned = ksm_get("pages_scanned");
	for (int pass = 0; pass < 20; pass++)
		ksm_one_pass();
	unchanged = ksm_get("pages_unchanged") - unchanged;
	scanned = ksm_get("pages_scanned") - scanned;
	ksm_note("%ld pages scanned, %ld unchanged", scanned, unchanged);
	CHECK_GE(unchanged, scanned * 3 / 4);
	CHECK_EQ(huge_kb(area), 2 * HUGE_SIZE / 1024);

	/* One is written to: those it shares the mark with are read, the
	 * others are not.
	 */
	write_byte(area + 5 * PAGE_SIZE, read_byte(area + 5 * PAGE_SIZE));
	unchanged = ksm_get("pages_unchanged");
	ksm_one_pass();
	unchanged = ksm_get("pages_unchanged") - unchanged;
	CHECK_GE(HUGE_PAGES, unchanged);
	CHECK_GE(unchanged, HUGE_PAGES * 3 / 4);
	VERIFY(area, nr, 40000, nr);
}

/* stock: expected failure: takes a pass more */
static void huge_written_in_time(void)
{
	char *area = huge_area(2, 50000);

	ksm_scan(20);
	ksm_set("run", 0);
	CHECK_EQ(count_ksm(area, 2 * HUGE_PAGES), 0);
	fill_page(area + 300 * PAGE_SIZE, 50005);
	for (int pass = 0; pass < 3; pass++)
		ksm_one_pass();
	CHECK(is_ksm(area + 5 * PAGE_SIZE));
	CHECK_EQ(pfn(area + 5 * PAGE_SIZE), pfn(area + 300 * PAGE_SIZE));
	for (size_t i = 0; i < 2 * HUGE_PAGES; i++)
		CHECK(page_is(area + i * PAGE_SIZE,
			      50000 + (i == 300 ? 5 : i)));
}

/* pitfall 6: the same for the entry of a huge page. */
static void huge_written_after_free(void)
{
	memcg_enter();
	write_after_free(huge_area(NR / HUGE_PAGES, 70000), 80000);
}

/* The same as above; the huge page is split when it is first swapped out. */
static void huge_written_while_reclaimed(void)
{
	memcg_enter();
	count_and_reclaim(huge_area(NR / HUGE_PAGES, 60000));
}

static const struct ksm_test tests[] = {
	{ "not_read_again", not_read_again },
	{ "backs_off", backs_off },
	{ "written_in_time", written_in_time },
	{ "others_join", others_join },
	{ "first_of_all", first_of_all },
	{ "written_by_the_kernel", written_by_the_kernel },
	{ "written_after_free", written_after_free },
	{ "written_and_reclaimed", written_and_reclaimed },
	{ "freed_and_reclaimed", freed_and_reclaimed },
	{ "written_while_reclaimed", written_while_reclaimed },
	{ "huge_not_read_again", huge_not_read_again },
	{ "huge_written_in_time", huge_written_in_time },
	{ "huge_written_after_free", huge_written_after_free },
	{ "huge_written_while_reclaimed", huge_written_while_reclaimed },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
