// SPDX-License-Identifier: GPL-2.0
/* vm: --mem 640M */
/* not on a debug kernel: a measurement, and a long one */
/*
 * Memory full of KSM pages yields as many huge pages as memory full of
 * ordinary ones does.
 */
#include "ksm_lib.h"

#define RESERVE		(12UL << 20)	/* not to be filled */

static size_t below(size_t end)
{
	static uint64_t state = 88172645463325252ULL;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state % end;
}

static unsigned int *shuffled(size_t nr)
{
	unsigned int *order = malloc(nr * sizeof(*order));

	CHECK(order);
	for (size_t i = 0; i < nr; i++) {
		size_t j = below(i + 1);

		order[i] = order[j];
		order[j] = i;
	}
	return order;
}

/* What is not the test's own to lay out: the page cache, and who knows what. */
static void settle_memory(void)
{
	CHECK(!file_print("/proc/sys/vm/drop_caches", "3"));
	CHECK(!file_print("/proc/sys/vm/compact_memory", "1"));
}

/*
 * Pages laid out at random of which each has one equal: half of them goes.
 * What is free then is filled in the same way, until no more than that is left.
 */
static void fill_with_ksm_pages(size_t leave)
{
	long have = 0;

	ksm_set("pages_to_scan", 20000);
	for (uint64_t seed = 1; free_pages() > leave + HUGE_PAGES;
	     seed += 1ULL << 32) {
		size_t nr = free_pages() - RESERVE / PAGE_SIZE;
		unsigned int *order;
		char *area;

		if (nr / 2 > free_pages() - leave)
			nr = 2 * (free_pages() - leave);
		nr &= ~1UL;
		area = map_pages(nr);
		order = shuffled(nr);
		for (size_t i = 0; i < nr; i++)
			fill_page(area + order[i] * PAGE_SIZE, seed + i / 2);
		free(order);
		CHECK(!madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE));
		have += nr / 2;
		ksm_set("run", 1);
		if (!BECOMES(ksm_get("pages_sharing") >= have, 120))
			FAIL("merged %ld of %ld", ksm_get("pages_sharing"),
			     have);
	}
	ksm_set("run", 0);
	CHECK_EQ(ksm_get("pages_shared"), have);
}

/* Ordinary pages, with as many holes at random between them. */
static void fill_with_anon_pages(size_t leave)
{
	size_t nr = free_pages() - RESERVE / PAGE_SIZE;
	char *area = map_pages(nr);
	unsigned int *order = shuffled(nr);

	for (size_t i = 0; i < nr; i++)
		fill_page(area + order[i] * PAGE_SIZE, 1 + i);
	for (size_t i = 0; i < nr && free_pages() < leave; i++)
		CHECK(!madvise(area + order[i] * PAGE_SIZE, PAGE_SIZE,
			       MADV_DONTNEED));
	free(order);
}

/* How many huge pages can be had, by those who wait for them? */
static size_t count_huge(void)
{
	size_t got = 0;

	/*
	 * Compaction that has just failed is put off for up to 64 times.  When
	 * there is next to nothing left the OOM killer would come.
	 */
	for (int failed = 0; failed < 200 && free_pages() > 3000;) {
		char *room;

		if (fault_huge(&room)) {
			failed = 0;
			got++;
		} else {
			failed++;
			CHECK(!madvise(room, PAGE_SIZE, MADV_DONTNEED));
		}
	}
	return got;
}

struct job {
	void (*fill)(size_t leave);
	size_t leave;
};

static void peer_counting(struct peer *me, void *arg)
{
	struct job *job = arg;

	settle_memory();
	job->fill(job->leave);
	ksm_note("%zu pages free", free_pages());
	peer_send(me, count_huge());
}

static long yield_of(void (*fill)(size_t leave), size_t leave)
{
	struct job job = { fill, leave };
	struct peer peer;
	long got;

	peer_start(&peer, peer_counting, &job);
	got = peer_recv_within(&peer, 300);
	peer_join(&peer);
	ksm_set("run", 2);
	ksm_set("run", 0);
	return got;
}

static void huge_pages(void)
{
	size_t leave;
	long anon, ksm;

	map_huge(1);	/* or there are none, which skips the test */
	CHECK(!knob_override("/sys/kernel/mm/transparent_hugepage/defrag",
			     "always"));
	CHECK(!knob_override("/proc/sys/vm/min_free_kbytes", "4096"));
	/* What falls out of memory does not come back. */
	CHECK(!knob_override("/proc/sys/vm/swappiness", "0"));
	settle_memory();
	leave = free_pages() * 2 / 10;
	anon = yield_of(fill_with_anon_pages, leave);
	ksm = yield_of(fill_with_ksm_pages, leave);
	ksm_note("huge pages from memory that is 80 %% full: %ld of ordinary pages, %ld of KSM's",
		 anon, ksm);
	CHECK_GE(ksm * 10, anon * 9);
}

static const struct ksm_test tests[] = {
	{ "huge_pages", huge_pages },
};

int main(int argc, char **argv)
{
	ksm_test_seconds = 300;
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
