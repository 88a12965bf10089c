// SPDX-License-Identifier: GPL-2.0
/* vm: --nodes 2 --swap 256M */
/* stock-fails: split_areas_cost */
/*
 * KSM pages go to swap and come back, moved, forked and rewritten meanwhile.
 */
#include <sys/swap.h>
#include "ksm_lib.h"

#define NR	256
#define DISTINCT	64

static char *merged_area(uint64_t seed)
{
	char *area = mergeable_area(NR, seed, DISTINCT);

	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	return area;
}

static void merged_again(char *area, uint64_t seed)
{
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	CHECK_EQ(ksm_get("pages_shared"), DISTINCT);
	CHECK_EQ(ksm_get("pages_sharing"), NR - DISTINCT);
	VERIFY(area, NR, seed, DISTINCT);
}

static void out_and_in(void)
{
	char *area;
	long copies;

	memcg_enter();
	area = merged_area(100);
	for (int round = 0; round < 3; round++) {
		CHECK(memcg_swap_out(area, NR));
		copies = vm_event("ksm_swpin_copy");
		VERIFY(area, NR, 100, DISTINCT);
		CHECK_EQ(count_swapped(area, NR), 0);
		/* pitfall 14: one page cannot serve several places */
		CHECK_GE(vm_event("ksm_swpin_copy") - copies, 1);
		merged_again(area, 100);
	}
	/* Written to, not read. */
	CHECK(memcg_swap_out(area, NR));
	for (size_t i = 0; i < NR; i += 2)
		fill_page(area + i * PAGE_SIZE, 1000 + i);
	for (size_t i = 0; i < NR; i++)
		CHECK(page_is(area + i * PAGE_SIZE,
			      i % 2 ? 100 + i % DISTINCT : 1000 + i));
}

/* The counters do not wait for the pages to come back. */
static void counters_when_out(void)
{
	char *area;

	memcg_enter();
	area = merged_area(150);
	CHECK(memcg_swap_out(area, NR));
	ksm_set("run", 1);
	WAIT_FOR(!ksm_get("pages_shared") && !ksm_get("pages_sharing"));
	ksm_set("run", 0);
	CHECK_EQ(proc_merging(getpid()), 0);
	VERIFY(area, NR, 150, DISTINCT);
	merged_again(area, 150);
}

static void peer_with_copy(struct peer *me, void *arg)
{
	char *area = arg;

	while (peer_recv(me))
		peer_send(me, count_swapped(area, NR));
	for (size_t i = 0; i < NR; i += 2)
		fill_page(area + i * PAGE_SIZE, 3000 + i);
	for (size_t i = 0; i < NR; i++)
		CHECK(page_is(area + i * PAGE_SIZE,
			      i % 2 ? 200 + i % DISTINCT : 3000 + i));
}

/* pitfall 12: children that were never scanned let go of the pages too */
static void children(void)
{
	struct peer early, late;
	char *area;

	memcg_enter();
	area = merged_area(200);
	peer_start(&early, peer_with_copy, area);
	CHECK(memcg_swap_out(area, NR));
	peer_send(&early, 1);
	CHECK_EQ(peer_recv(&early), NR);
	/* This one has nothing but swap entries. */
	peer_start(&late, peer_with_copy, area);
	peer_send(&early, 0);
	peer_join(&early);
	VERIFY(area, NR, 200, DISTINCT);
	peer_send(&late, 0);
	peer_join(&late);
	VERIFY(area, NR, 200, DISTINCT);
	merged_again(area, 200);
}

/* pitfall 6: brought back by a reader, then dirtied through the page table */
static void dirty_after_swapin(void)
{
	char *area;

	memcg_enter();
	area = map_pages(NR);
	fill_area(area, NR, 300, NR);
	for (int round = 0; round < 3; round++) {
		uint64_t seed = 400 + round * 100;

		CHECK(memcg_swap_out(area, NR));
		for (size_t i = 0; i < NR; i++)
			read_byte(area + i * PAGE_SIZE);
		fill_area(area, NR, seed, DISTINCT);
		CHECK(!madvise(area, NR * PAGE_SIZE, MADV_MERGEABLE));
		ksm_settle();
		CHECK_EQ(count_ksm(area, NR), NR);
		CHECK(memcg_swap_out(area, NR));
		VERIFY(area, NR, seed, DISTINCT);
	}
}

/* pitfall 6: given up with MADV_FREE, written again, merged, reclaimed */
static void rewritten_after_free(void)
{
	char *area;

	memcg_enter();
	area = map_pages(NR);
	fill_area(area, NR, 700, NR);
	CHECK(!madvise(area, NR * PAGE_SIZE, MADV_FREE));
	fill_area(area, NR, 800, DISTINCT);
	CHECK(!madvise(area, NR * PAGE_SIZE, MADV_MERGEABLE));
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	CHECK(memcg_swap_out(area, NR));
	VERIFY(area, NR, 800, DISTINCT);
}

/* One sharer gives the page up, the others still want what is in it. */
static void given_up_by_one(void)
{
	const size_t quarter = NR / 4;
	char *area;

	memcg_enter();
	area = merged_area(900);	/* DISTINCT is a quarter */
	CHECK(!madvise(area, quarter * PAGE_SIZE, MADV_FREE));
	CHECK(memcg_swap_out(area + quarter * PAGE_SIZE, NR - quarter));
	VERIFY(area + quarter * PAGE_SIZE, NR - quarter, 900, DISTINCT);
	for (size_t i = 0; i < quarter; i++)
		CHECK(page_is(area + i * PAGE_SIZE, 900 + i) ||
		      all_zero(area + i * PAGE_SIZE, 1));
	fill_area(area, quarter, 900, DISTINCT);
	merged_again(area, 900);
}

/* pitfall 13: merged, moved elsewhere, and still it can be swapped out */
static void moved_area(void)
{
	char *area, *to;

	memcg_enter();
	area = merged_area(1000);
	to = mmap(NULL, 2 * NR * PAGE_SIZE, PROT_NONE,
		  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(to != MAP_FAILED);
	for (int round = 0; round < 4; round++) {
		char *target = to + round % 2 * NR * PAGE_SIZE;

		CHECK(mremap(area, NR * PAGE_SIZE, NR * PAGE_SIZE,
			     MREMAP_MAYMOVE | MREMAP_FIXED, target) == target);
		area = target;
		VERIFY(area, NR, 1000, DISTINCT);
		/* At once, and after ksmd has been there. */
		if (round >= 2)
			merged_again(area, 1000);
		CHECK(memcg_swap_out(area, NR));
		VERIFY(area, NR, 1000, DISTINCT);
		merged_again(area, 1000);
	}
}

/* pitfall 13: the first half moves to behind the second, in one area */
static void moved_onto_own_end(void)
{
	const size_t half = NR / 2;
	char *area, *room, *tail;

	memcg_enter();
	room = mmap(NULL, 2 * NR * PAGE_SIZE, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(room != MAP_FAILED);
	area = mmap(room, NR * PAGE_SIZE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	CHECK(area == room);
	madvise(area, NR * PAGE_SIZE, MADV_NOHUGEPAGE);
	fill_area(area, NR, 1100, DISTINCT);
	CHECK(!madvise(area, NR * PAGE_SIZE, MADV_MERGEABLE));
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);

	tail = area + NR * PAGE_SIZE;
	CHECK(mremap(area, half * PAGE_SIZE, half * PAGE_SIZE,
		     MREMAP_MAYMOVE | MREMAP_FIXED, tail) == tail);
	area += half * PAGE_SIZE;
	VERIFY(area, NR, 1100, DISTINCT);
	CHECK(memcg_swap_out(area, NR));
	VERIFY(area, NR, 1100, DISTINCT);
	merged_again(area, 1100);
	CHECK(memcg_swap_out(area, NR));
	VERIFY(area, NR, 1100, DISTINCT);
}

static void unmerged_when_out(void)
{
	char *area;

	memcg_enter();
	area = merged_area(1200);
	CHECK(memcg_swap_out(area, NR));
	CHECK(!madvise(area, NR / 2 * PAGE_SIZE, MADV_UNMERGEABLE));
	ksm_set("run", 2);
	VERIFY(area, NR, 1200, DISTINCT);
	CHECK_EQ(count_ksm(area, NR), 0);
	CHECK_EQ(ksm_get("pages_shared"), 0);
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR / 2), 0);
	CHECK_EQ(count_ksm(area + NR / 2 * PAGE_SIZE, NR / 2), NR / 2);
	VERIFY(area, NR, 1200, DISTINCT);
}

/* Every page comes back by force. */
static void swap_switched_off(void)
{
	char line[256], device[128] = "";
	char *area;
	FILE *f;

	f = fopen("/proc/swaps", "r");
	if (f && fgets(line, sizeof(line), f) && fgets(line, sizeof(line), f))
		sscanf(line, "%127s", device);
	if (!device[0])
		ksm_skip("no swap");
	fclose(f);

	memcg_enter();
	area = merged_area(1300);
	CHECK(memcg_swap_out(area, NR));
	CHECK(!swapoff(device));
	CHECK(!swapon(device, 0));
	CHECK_EQ(count_swapped(area, NR), 0);
	VERIFY(area, NR, 1300, DISTINCT);
	merged_again(area, 1300);
}

/*
 * Reclaim takes KSM pages away from their sharers, but the pipe holds them: so
 * they stay in the swap cache, where their sharers find them again.
 */
static void leave_in_swap_cache(char *area, int ends[2])
{
	hold_in_pipe(area, NR, ends);
	CHECK(memcg_swap_out(area, NR));
}

/* Is one sharer of each page here, and the page in the swap cache for the rest? */
static bool shared_from_swap_cache(char *area)
{
	size_t cached = 0;

	for (size_t i = 0; i < DISTINCT; i++)
		cached += is_ksm(area + i * PAGE_SIZE) &&
			  in_swap_cache(area + i * PAGE_SIZE);
	return cached == DISTINCT && count_swapped(area, NR) == NR - DISTINCT;
}

/* That is where migration, reclaim and swap-in meet. */
static void migrated_in_swap_cache(void)
{
	int nodes[2], status[DISTINCT], ends[2];
	char *area, *pages[DISTINCT];

	need_nodes(nodes, 2);
	memcg_enter();
	area = merged_area(1400);
	leave_in_swap_cache(area, ends);
	VERIFY(area, DISTINCT, 1400, DISTINCT);
	close(ends[0]);
	close(ends[1]);
	CHECK(shared_from_swap_cache(area));

	for (size_t i = 0; i < DISTINCT; i++)
		pages[i] = area + i * PAGE_SIZE;
	for (int round = 0; round < 4; round++) {
		CHECK_GE(move_to_node(0, pages, status, DISTINCT,
				      nodes[round % 2], KSM_MPOL_MF_MOVE_ALL),
			 0);
		for (size_t i = 0; i < DISTINCT; i++)
			CHECK_EQ(status[i], nodes[round % 2]);
		CHECK(shared_from_swap_cache(area));
		VERIFY(area, DISTINCT, 1400, DISTINCT);
	}
	/* The others get it out of the swap cache, where it is now. */
	VERIFY(area, NR, 1400, DISTINCT);
	CHECK_EQ(count_ksm(area, NR), NR);
	for (size_t i = DISTINCT; i < NR; i++)
		CHECK_EQ(pfn(area + i * PAGE_SIZE),
			 pfn(area + (i - DISTINCT) * PAGE_SIZE));
	fill_area(area, NR, 1700, NR);
	VERIFY(area, NR, 1700, NR);
}

/* When all merging is given up, what comes out of the swap cache is one's own. */
static void given_up_in_swap_cache(void)
{
	char *area, *in_pipe = map_pages(NR);
	int ends[2];

	memcg_enter();
	area = merged_area(1500);
	leave_in_swap_cache(area, ends);
	ksm_set("run", 2);
	VERIFY(area, NR / 2, 1500, DISTINCT);
	ksm_set("run", 0);
	VERIFY(area, NR, 1500, DISTINCT);
	CHECK_EQ(count_ksm(area, NR), 0);
	CHECK_EQ(ksm_get("pages_shared"), 0);
	fill_area(area, NR, 1700, NR);
	for (size_t i = 0; i < NR; i++)
		CHECK_EQ(read(ends[0], in_pipe + i * PAGE_SIZE, PAGE_SIZE),
			 (long)PAGE_SIZE);
	VERIFY(in_pipe, NR, 1500, DISTINCT);
	VERIFY(area, NR, 1700, NR);
}

/* ksmd, reclaim, writers and children, all at once. */
static void everything_at_once(void)
{
	double end = ksm_now() + 4;
	int status, rounds = 0;
	char *area;

	memcg_enter();
	area = mergeable_area(NR, 1600, DISTINCT);
	ksm_scan(2);
	fflush(stdout);
	if (!fork()) {
		while (ksm_now() < end)
			memcg_write("memory.reclaim", "1M");
		_exit(0);
	}
	for (; ksm_now() < end; rounds++) {
		VERIFY(area, NR, 1600, DISTINCT);
		for (size_t i = rounds % 3; i < NR; i += 3)
			fill_page(area + i * PAGE_SIZE, 1600 + i % DISTINCT);
		if (rounds % 8)
			continue;
		if (!fork()) {
			VERIFY(area, NR, 1600, DISTINCT);
			_exit(0);
		}
		CHECK(wait(&status) > 0 && !status);
	}
	CHECK(wait(&status) > 0 && !status);
	VERIFY(area, NR, 1600, DISTINCT);
	ksm_set("run", 1);
	WAIT_FOR(count_ksm(area, NR) == NR);
	merged_again(area, 1600);
}

/*
 * How long reclaim works until the last of so many pages is out, with so many
 * sharers.  Looking at the areas takes the longer the more there are, and is
 * not counted.
 */
static double time_out(uint64_t seed, bool split)
{
	/* On a slow kernel it is not about time */
	const size_t pages = ksm_slow() > 1 ? 3 : 100, nr = pages * 200;
	char *area = mergeable_area(nr, seed, pages);
	double took = 0;

	ksm_settle();
	CHECK_EQ(count_ksm(area, nr), nr);
	for (size_t i = 0; split && i < nr; i += 2)
		CHECK(!mprotect(area + i * PAGE_SIZE, PAGE_SIZE, PROT_READ));
	WAIT_FOR((took += memcg_reclaim("1M"), count_swapped(area, nr) == nr));
	VERIFY(area, nr, seed, pages);
	CHECK(!munmap(area, nr * PAGE_SIZE));
	return took;
}

/* pitfall 15: many areas on one anon_vma do not make it slower */
/* stock: expected failure: every walk goes through the whole anon_vma */
static void split_areas_cost(void)
{
	memcg_enter();
	/* A host that is busy elsewhere adds something, but not every time. */
	for (int i = 0; i < 3; i++) {
		double whole = time_out(3000, false);
		double split = time_out(4000, true);

		ksm_note("pages of 200 sharers out in %.3f s, from areas of their own in %.3f s",
			 whole, split);
		if (split <= 2 * whole + 0.2 * ksm_slow())
			return;
	}
	FAIL("cost grows with the number of areas");
}

static const struct ksm_test tests[] = {
	{ "out_and_in", out_and_in },
	{ "counters_when_out", counters_when_out },
	{ "children", children },
	{ "dirty_after_swapin", dirty_after_swapin },
	{ "rewritten_after_free", rewritten_after_free },
	{ "given_up_by_one", given_up_by_one },
	{ "moved_area", moved_area },
	{ "moved_onto_own_end", moved_onto_own_end },
	{ "unmerged_when_out", unmerged_when_out },
	{ "swap_switched_off", swap_switched_off },
	{ "migrated_in_swap_cache", migrated_in_swap_cache },
	{ "given_up_in_swap_cache", given_up_in_swap_cache },
	{ "everything_at_once", everything_at_once },
	{ "split_areas_cost", split_areas_cost },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
