// SPDX-License-Identifier: GPL-2.0
/* stock-fails: small_while_unmerged */
/* stock-fails: profit_counts_records */
/* stock-fails: given_back */
/*
 * metadata_bytes, a new file: the memory that KSM's own records take.
 */
#include "ksm_lib.h"

#define NR		4096UL		/* 16 MiB */
#define UNMERGED	32		/* bytes for a page, at most */
#define ROUNDING	(64 << 10)

static long records(void)
{
	CHECK(ksm_has("metadata_bytes"));
	return ksm_get("metadata_bytes");
}

static char *unique_area(void)
{
	char *area = mergeable_area(NR, 1000, NR);

	ksm_set("pages_to_scan", 20000);
	ksm_scan(3);
	WAIT_FOR(ksm_get("pages_unshared") == (long)NR);
	ksm_set("run", 0);
	return area;
}

/* stock: expected failure: there is no metadata_bytes */
static void small_while_unmerged(void)
{
	long before = records(), bytes;
	char *area = unique_area();

	bytes = records() - before;
	ksm_note("%.1f bytes for a page that is not merged",
		 (double)bytes / NR);
	CHECK_GE(bytes, NR);
	CHECK_GE(NR * UNMERGED + ROUNDING, bytes);
	VERIFY(area, NR, 1000, NR);
}

/* stock: expected failure: there is no metadata_bytes */
static void profit_counts_records(void)
{
	char *area;

	records();
	area = unique_area();
	CHECK_EQ(ksm_get("pages_sharing"), 0);
	CHECK_GE(0, ksm_get("general_profit"));
	/* Nothing is saved: the profit is what the records cost. */
	CHECK_GE(-ksm_get("general_profit") + ROUNDING, records());
	CHECK_GE(records() + ROUNDING, -ksm_get("general_profit"));

	fill_area(area, NR, 2000, 100);
	ksm_set("max_page_sharing", 1000);
	ksm_scan(4);
	WAIT_FOR(ksm_get("pages_sharing") == (long)(NR - 100));
	ksm_set("run", 0);
	ksm_note("%.1f bytes for a page that is merged",
		 (double)records() / NR);
	CHECK_GE((NR - 100) * PAGE_SIZE, ksm_get("general_profit"));
	CHECK_GE(ksm_get("general_profit"),
		 (long)((NR - 100) * PAGE_SIZE) - records() - ROUNDING);
	VERIFY(area, NR, 2000, 100);
}

static void peer_recorded(struct peer *me, void *arg)
{
	char *area = mergeable_area(NR / 2, 5000, (long)arg);

	peer_send(me, 0);
	peer_recv(me);
	VERIFY(area, NR / 2, 5000, (long)arg);
}

/* stock: expected failure: there is no metadata_bytes */
static void given_back(void)
{
	long before = records(), peak;
	struct peer peer[2];
	char *area;

	for (int p = 0; p < 2; p++) {
		/* unique, and merged */
		peer_start(&peer[p], peer_recorded, (void *)(p ? 64 : NR / 2));
		peer_recv(&peer[p]);
	}
	ksm_set("pages_to_scan", 20000);
	ksm_scan(4);
	peak = records();
	CHECK_GE(peak, before + NR / 2);
	for (int p = 0; p < 2; p++) {
		peer_send(&peer[p], 0);
		peer_join(&peer[p]);
	}
	WAIT_FOR(records() <= before + ROUNDING / 16);

	/* Unmapped, advised against, unmerged as a whole. */
	area = unique_area();
	ksm_set("run", 1);
	CHECK(!munmap(area, NR * PAGE_SIZE));
	WAIT_FOR(records() <= before + ROUNDING / 16);
	area = unique_area();
	ksm_set("run", 1);
	CHECK(!madvise(area, NR * PAGE_SIZE, MADV_UNMERGEABLE));
	WAIT_FOR(records() <= before + ROUNDING / 16);
	CHECK(!madvise(area, NR * PAGE_SIZE, MADV_MERGEABLE));
	ksm_scan(3);
	WAIT_FOR(ksm_get("pages_unshared") == (long)NR);
	ksm_set("run", 2);
	WAIT_FOR(records() <= before + ROUNDING / 16);
	VERIFY(area, NR, 1000, NR);
}

/* Bytes and pages of one process, by the file that always was there. */
static void process_profit(void)
{
	char *area;
	long profit, items;

	area = unique_area();
	items = proc_ksm(getpid(), "ksm_rmap_items");
	profit = proc_ksm(getpid(), "ksm_process_profit");
	CHECK_EQ(items, NR);
	CHECK_GE(-1, profit);
	CHECK_GE(profit, -(long)NR * 64 - ROUNDING);
	VERIFY(area, NR, 1000, NR);
}

static const struct ksm_test tests[] = {
	{ "small_while_unmerged", small_while_unmerged },
	{ "profit_counts_records", profit_counts_records },
	{ "given_back", given_back },
	{ "process_profit", process_profit },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
