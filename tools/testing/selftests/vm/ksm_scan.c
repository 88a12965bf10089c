// SPDX-License-Identifier: GPL-2.0
/* stock-fails: skipped_pages_merge */
/* stock-fails: frozen_for_suspend */
/*
 * How much ksmd scans, what it skips, and what the advisor makes of it.
 */
#include "ksm_lib.h"

#define NR	256

static void old_pages_are_skipped(void)
{
	char *area = mergeable_area(NR, 1000, NR);
	long skipped, scanned, scans;

	/* Off: every page, every time. */
	ksm_scan(10);
	skipped = ksm_get("pages_skipped");
	ksm_scan(5);
	CHECK_EQ(ksm_get("pages_skipped"), skipped);

	ksm_set("smart_scan", 1);
	ksm_scan(15);
	/* In this order: any number of passes may end between two of them */
	skipped = ksm_get("pages_skipped");
	scans = ksm_get("full_scans");
	scanned = ksm_get("pages_scanned");
	ksm_scan(40);
	ksm_set("run", 0);
	scans = ksm_get("full_scans") - scans;
	skipped = ksm_get("pages_skipped") - skipped;
	scanned = ksm_get("pages_scanned") - scanned;
	ksm_note("%ld passes, %ld pages scanned, %ld skipped", scans, scanned,
		 skipped);
	/* Most of them by now: eight times out of nine. */
	CHECK_GE(skipped, scans * NR / 2);
	CHECK_GE(scans * NR / 2, scanned);
	VERIFY(area, NR, 1000, NR);
}

/* What changes gets another chance. */
static void changed_pages_merge(void)
{
	char *area = mergeable_area(NR, 1000, NR);

	ksm_set("smart_scan", 1);
	ksm_scan(30);
	fill_area(area, NR, 3000, 2);
	WAIT_FOR(count_ksm(area, NR) == NR);
	VERIFY(area, NR, 3000, 2);
}

/* Old pages are still found by new ones, sooner or later. */
/* stock: expected failure: two may for ever be looked at in different passes */
static void skipped_pages_merge(void)
{
	char *area = mergeable_area(NR, 1000, NR), *more;

	ksm_set("smart_scan", 1);
	ksm_scan(30);
	more = mergeable_area(NR, 1000, NR);
	WAIT_FOR(count_ksm(more, NR) == NR && count_ksm(area, NR) == NR);
	VERIFY(area, NR, 1000, NR);
	VERIFY(more, NR, 1000, NR);
}

static void merged_are_not_skipped(void)
{
	char *area = mergeable_area(NR, 2000, 4);
	long skipped;

	ksm_set("smart_scan", 1);
	ksm_scan(4);
	WAIT_FOR(count_ksm(area, NR) == NR);
	skipped = ksm_get("pages_skipped");
	ksm_scan(20);
	CHECK_EQ(ksm_get("pages_skipped"), skipped);
	VERIFY(area, NR, 2000, 4);
}

/* pages_to_scan pages, sleep_millisecs of sleep. */
static void pace_is_kept(void)
{
	char *area = mergeable_area(NR, 4000, NR);
	double start, took;
	long scanned;

	ksm_set("pages_to_scan", 10);
	ksm_set("sleep_millisecs", 50);
	ksm_scan(1);
	start = ksm_now();
	scanned = ksm_get("pages_scanned");
	usleep(1500000);
	scanned = ksm_get("pages_scanned") - scanned;
	took = ksm_now() - start;
	ksm_note("%ld pages in %.2f s", scanned, took);
	CHECK_GE(10 * (took / 0.05 + 2), scanned);
	/* A slow machine may do less, but does something. */
	CHECK_GE(scanned, 10 * (took / 0.05) / 10 / ksm_slow());

	/* What it has begun is done when run has changed */
	ksm_set("run", 0);
	ksm_set("pages_to_scan", 0);
	ksm_set("run", 1);
	scanned = ksm_get("pages_scanned");
	CHECK(!BECOMES(ksm_get("pages_scanned") != scanned, 0.3));
	VERIFY(area, NR, 4000, NR);
}

static void ksmd_rests(void)
{
	double end = ksm_now() + 20 * ksm_slow();
	long switches, before = 0;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/status", pid_of("ksmd"));
	/* The pass that finds everything gone, and one more. */
	do {
		switches = before;
		usleep(200000 * ksm_slow());
		before = file_field(path, "voluntary_ctxt_switches");
		CHECK_GE(before, 1);
	} while (before != switches && ksm_now() < end);
	CHECK(!BECOMES(file_field(path, "voluntary_ctxt_switches") -
		       switches > 2, 1));
}

/* pitfall 29: nobody has anything to merge, ksmd does not even wake up */
static void nothing_to_do(void)
{
	char *area = mergeable_area(NR, 5000, NR);

	ksm_scan(2);
	CHECK(!munmap(area, NR * PAGE_SIZE));
	ksmd_rests();

	/* But it does once there is something. */
	area = mergeable_area(NR, 5000, 2);
	WAIT_FOR(count_ksm(area, NR) == NR);
	VERIFY(area, NR, 5000, 2);
}

/* Nor when what is gone had long been given up, or was merged away. */
static void nothing_left(void)
{
	char *given_up = mergeable_area(NR, 5100, NR);
	char *empty = map_pages(NR);

	memset(empty, 0, NR * PAGE_SIZE);
	CHECK(!madvise(empty, NR * PAGE_SIZE, MADV_MERGEABLE));
	ksm_set("use_zero_pages", 1);
	ksm_scan(3);
	CHECK_EQ(ksm_get("ksm_zero_pages"), NR);
	CHECK(!madvise(given_up, NR * PAGE_SIZE, MADV_DONTNEED));
	ksm_scan(3);
	CHECK(!munmap(given_up, NR * PAGE_SIZE));
	CHECK(!munmap(empty, NR * PAGE_SIZE));
	ksmd_rests();
	if (ksm_has("metadata_bytes"))
		CHECK_EQ(ksm_get("metadata_bytes"), 0);
}

static void peer_of_pages(struct peer *me, void *arg)
{
	mergeable_area(NR, 5200, NR);
	peer_send(me, 0);
	peer_recv(me);
}

/* A pass ends when there is nobody left, not when the next one comes. */
static void pass_ends_with_the_last(void)
{
	struct peer peer;
	char *area;
	long scans;

	ksm_set("pages_to_scan", 1);
	ksm_set("sleep_millisecs", 300);
	peer_start(&peer, peer_of_pages, NULL);
	peer_recv(&peer);
	scans = ksm_get("pages_scanned");
	ksm_set("run", 1);
	WAIT_FOR(ksm_get("pages_scanned") > scans);
	scans = ksm_get("full_scans");
	peer_send(&peer, 0);
	peer_join(&peer);
	WAIT_FOR(ksm_get("full_scans") > scans);

	scans = ksm_get("full_scans");
	area = mergeable_area(NR, 5300, NR);
	CHECK(!BECOMES(ksm_get("full_scans") != scans, 1));
	VERIFY(area, NR, 5300, NR);
}

/*
 * pitfall 29: the system goes to sleep, however busy ksmd is.
 */
/* stock: expected failure: never comes by where it would freeze */
static void frozen_for_suspend(void)
{
	char *area = mergeable_area(NR, 5500, NR);
	long scans;

	ksm_set("pages_to_scan", 10000);
	for (long sleep = 0; sleep < 3; sleep++) {
		ksm_set("sleep_millisecs", sleep * 500);
		ksm_scan(1);
		suspend_and_resume();
		scans = ksm_get("full_scans");
		WAIT_FOR(ksm_get("full_scans") > scans);
	}
	VERIFY(area, NR, 5500, NR);
}

/* ksmd works for a while and rests for a while, and is never at both pages. */
static void on_and_off(void)
{
	const size_t nr = 256;
	char *area = map_pages(nr);

	fill_area(area, nr, 11000, nr);
	fill_page(area + (nr - 1) * PAGE_SIZE, 11000);
	CHECK(!madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE));
	ksm_set("smart_scan", 0);
	ksm_set("pages_to_scan", 10);
	ksm_set("sleep_millisecs", 20);
	WAIT_FOR((ksm_set("run", 1), usleep(60000), ksm_set("run", 0),
		  ksm_get("pages_sharing") == 1));
	CHECK(is_ksm(area) && is_ksm(area + (nr - 1) * PAGE_SIZE));
	CHECK_GE(ksm_get("full_scans"), 1);
}

/* ---- the advisor ---- */

static void advisor_adapts(void)
{
	/* On a slow kernel a pass uses much of a CPU, and one page a time is left. */
	const size_t nr = 512 / ksm_slow();
	char *area = mergeable_area(nr, 6000, nr);
	const char *mode = "scan-time";

	ksm_set("sleep_millisecs", 1);
	ksm_set("advisor_min_pages_to_scan", 50);
	ksm_set("advisor_max_pages_to_scan", 4000);
	CHECK_EQ(ksm_write("advisor_mode", mode, strlen(mode)), 0);
	CHECK_EQ(ksm_get("pages_to_scan"), 50);
	ksm_scan(1);
	WAIT_FOR(ksm_get("pages_to_scan") != 50);
	for (int pass = 0; pass < 10; pass++) {
		ksm_scan(1);
		CHECK_GE(4000, ksm_get("pages_to_scan"));
		CHECK_GE(ksm_get("pages_to_scan"), 1);
	}
	/* A lower limit is obeyed after the next pass. */
	ksm_set("advisor_max_pages_to_scan", 300);
	ksm_scan(2);
	WAIT_FOR(ksm_get("pages_to_scan") <= 300);
	ksm_scan(3);
	CHECK_GE(300, ksm_get("pages_to_scan"));
	CHECK_EQ(ksm_write("advisor_mode", "none", 4), 0);
	CHECK_EQ(ksm_get("pages_to_scan"), 100);
	ksm_scan(2);
	CHECK_EQ(ksm_get("pages_to_scan"), 100);
	VERIFY(area, nr, 6000, nr);
}

/* With the advisor at work merging is as good as without. */
static void advisor_merges(void)
{
	char *area = mergeable_area(NR, 9000, 8);

	CHECK_EQ(ksm_write("advisor_mode", "scan-time", 9), 0);
	ksm_set("smart_scan", 1);
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	CHECK_EQ(ksm_get("pages_shared"), 8);
	CHECK_EQ(ksm_get("pages_sharing"), NR - 8);
	VERIFY(area, NR, 9000, 8);
}

static const struct ksm_test tests[] = {
	{ "old_pages_are_skipped", old_pages_are_skipped },
	{ "changed_pages_merge", changed_pages_merge },
	{ "skipped_pages_merge", skipped_pages_merge },
	{ "merged_are_not_skipped", merged_are_not_skipped },
	{ "pace_is_kept", pace_is_kept },
	{ "nothing_to_do", nothing_to_do },
	{ "nothing_left", nothing_left },
	{ "pass_ends_with_the_last", pass_ends_with_the_last },
	{ "frozen_for_suspend", frozen_for_suspend },
	{ "on_and_off", on_and_off },
	{ "advisor_adapts", advisor_adapts },
	{ "advisor_merges", advisor_merges },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
