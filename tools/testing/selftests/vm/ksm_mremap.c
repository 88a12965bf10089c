// SPDX-License-Identifier: GPL-2.0
/* vm: --nodes 2 --swap 256M */
/* stock-fails: moved */
/* stock-fails: moved_onto_own_end */
/* stock-fails: grown_and_shrunk */
/* stock-fails: left_behind */
/* stock-fails: moved_by_a_child */
/* stock-fails: moved_while_migrated */
/*
 * mremap() leaves merged pages merged, and found: pitfall 13.
 *
 * stock: expected failure: unmerges whatever it moves, unless it is swapped out
 */
#include "ksm_lib.h"

#define NR	64

static int nodes[2];

static char *start(uint64_t seed, char **second)
{
	need_nodes(nodes, 2);
	memcg_enter();
	return merged_pairs(NR, seed, second);
}

static char *free_range(size_t nr)
{
	char *range = mmap(NULL, nr * PAGE_SIZE, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(range != MAP_FAILED);
	return range;
}

static void move_area_to(char *area, size_t nr, char *to)
{
	CHECK(mremap(area, nr * PAGE_SIZE, nr * PAGE_SIZE,
		     MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
}

/* All mappings are found: the pages move at the first call, with all of them. */
static void follow(char *area, size_t nr, char *second)
{
	for (int round = 0; round < 2; round++) {
		move_all(area, nr, nodes[round]);
		CHECK_EQ(count_same(getpid(), area, getpid(), second, nr), nr);
	}
}

/* As merged as before, with ksmd at rest, and good for everything else. */
static void still_merged(char *area, size_t nr, char *second, uint64_t seed)
{
	CHECK_EQ(count_ksm(area, nr), nr);
	CHECK_EQ(count_same(getpid(), area, getpid(), second, nr), nr);
	for (size_t i = 0; i < nr; i++)
		CHECK_EQ(page_mapcount(pfn(area + i * PAGE_SIZE)), 2);
	follow(area, nr, second);
	VERIFY(area, nr, seed, NR);
	VERIFY(second, nr, seed, NR);
}

/* Swapped out and in again; a scan finds that all is well; then written to. */
static void end_of(char *area, size_t nr, char *second, uint64_t seed)
{
	CHECK(memcg_swap_out(area, nr));
	VERIFY(area, nr, seed, NR);
	VERIFY(second, nr, seed, NR);
	ksm_settle();
	still_merged(area, nr, second, seed);

	for (size_t i = 0; i < nr; i += 2)
		fill_page(area + i * PAGE_SIZE, seed + 10000 + i);
	for (size_t i = 0; i < nr; i++)
		CHECK(page_is(area + i * PAGE_SIZE,
			      i % 2 ? seed + i : seed + 10000 + i));
	VERIFY(second, nr, seed, NR);
	CHECK(!madvise(area, nr * PAGE_SIZE, MADV_UNMERGEABLE));
	CHECK_EQ(count_ksm(area, nr), 0);
	CHECK(page_is(area + PAGE_SIZE, seed + 1));
	VERIFY(second, nr, seed, NR);
	ksm_set("run", 2);
	CHECK_EQ(ksm_get("pages_shared"), 0);
	VERIFY(second, nr, seed, NR);
}

static void moved(void)
{
	char *second, *area = start(1000, &second), *home = area;
	char *to = free_range(NR);

	move_area_to(area, NR, to);
	still_merged(to, NR, second, 1000);
	/* Back, and halves of it elsewhere. */
	move_area_to(to, NR, home);
	still_merged(home, NR, second, 1000);
	to = free_range(2 * NR);
	move_area_to(home + NR / 2 * PAGE_SIZE, NR / 2,
		     to + NR * PAGE_SIZE);
	still_merged(home, NR / 2, second, 1000);
	CHECK_EQ(count_ksm(to + NR * PAGE_SIZE, NR / 2), NR / 2);
	VERIFY(to + NR * PAGE_SIZE, NR / 2, 1000 + NR / 2, NR);
	follow(to + NR * PAGE_SIZE, NR / 2, second + NR / 2 * PAGE_SIZE);
	move_area_to(home, NR / 2, to + NR / 2 * PAGE_SIZE);
	still_merged(to + NR / 2 * PAGE_SIZE, NR, second, 1000);
	end_of(to + NR / 2 * PAGE_SIZE, NR, second, 1000);
}

/* So that old and new place are in one area, and have each other's offsets. */
static void moved_onto_own_end(void)
{
	char *second, *area = start(2000, &second);
	char *to = free_range(2 * NR);

	/* The first half goes where it continues the second one. */
	move_area_to(area, NR, to);
	move_area_to(to, NR / 2, to + NR * PAGE_SIZE);
	CHECK_EQ(count_ksm(to + NR / 2 * PAGE_SIZE, NR), NR);
	VERIFY(to + NR * PAGE_SIZE, NR / 2, 2000, NR);
	VERIFY(to + NR / 2 * PAGE_SIZE, NR / 2, 2000 + NR / 2, NR);
	follow(to + NR * PAGE_SIZE, NR / 2, second);
	follow(to + NR / 2 * PAGE_SIZE, NR / 2, second + NR / 2 * PAGE_SIZE);
	/* What was there first now has new pages. */
	CHECK(mmap(to, NR / 2 * PAGE_SIZE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == to);
	fill_area(to, NR / 2, 2500, NR);
	CHECK(!madvise(to, NR / 2 * PAGE_SIZE, MADV_MERGEABLE));
	ksm_settle();
	follow(to + NR * PAGE_SIZE, NR / 2, second);
	VERIFY(to, NR / 2, 2500, NR);
	VERIFY(to + NR * PAGE_SIZE, NR / 2, 2000, NR);
	end_of(to + NR * PAGE_SIZE, NR / 2, second, 2000);
}

static void grown_and_shrunk(void)
{
	char *second, *area = start(3000, &second);
	char *to = free_range(2 * NR);

	CHECK(mremap(area, NR * PAGE_SIZE, 2 * NR * PAGE_SIZE,
		     MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
	still_merged(to, NR, second, 3000);
	fill_area(to + NR * PAGE_SIZE, NR, 3500, NR);
	area = free_range(NR);
	CHECK(mremap(to, 2 * NR * PAGE_SIZE, NR / 2 * PAGE_SIZE,
		     MREMAP_MAYMOVE | MREMAP_FIXED, area) == area);
	still_merged(area, NR / 2, second, 3000);
	end_of(area, NR / 2, second, 3000);
}

/* MREMAP_DONTUNMAP: the old place stays an area, and is used again. */
static void left_behind(void)
{
	char *second, *area = start(4000, &second);
	char *to = free_range(NR);

	CHECK(mremap(area, NR * PAGE_SIZE, NR * PAGE_SIZE,
		     MREMAP_MAYMOVE | MREMAP_FIXED | 4 /* DONTUNMAP */, to) ==
	      to);
	still_merged(to, NR, second, 4000);
	CHECK(!read_byte(area));
	fill_area(area, NR, 4500, NR);
	still_merged(to, NR, second, 4000);
	ksm_settle();
	still_merged(to, NR, second, 4000);
	VERIFY(area, NR, 4500, NR);
	end_of(to, NR, second, 4000);
	VERIFY(area, NR, 4500, NR);
}

static void peer_remaps(struct peer *me, void *arg)
{
	char *to = free_range(NR);

	move_area_to(arg, NR, to);
	CHECK_EQ(count_ksm(to, NR), NR);
	peer_send(me, (long)to);
	peer_recv(me);
	VERIFY(to, NR, 5000, NR);
}

static void moved_by_a_child(void)
{
	char *second, *area = start(5000, &second), *theirs;
	struct peer child;

	peer_start(&child, peer_remaps, area);
	theirs = (char *)peer_recv(&child);
	for (int pass = 0; pass < 2; pass++) {
		CHECK_EQ(count_same(getpid(), area, child.pid, theirs, NR), NR);
		follow(area, NR, second);
		CHECK_EQ(count_same(getpid(), area, child.pid, theirs, NR), NR);
		ksm_settle();
	}
	peer_send(&child, 0);
	peer_join(&child);
	end_of(area, NR, second, 5000);
}

/* The entries that move are of pages that are swapped out. */
static void moved_when_out(void)
{
	char *second, *area = start(6000, &second);
	char *to = free_range(NR);

	CHECK(memcg_swap_out(area, NR));
	move_area_to(area, NR, to);
	CHECK_EQ(count_swapped(to, NR), NR);
	VERIFY(to, NR, 6000, NR);
	VERIFY(second, NR, 6000, NR);
	ksm_settle();
	still_merged(to, NR, second, 6000);
	/* Out, moved, and scanned while they are out. */
	CHECK(memcg_swap_out(to, NR));
	move_area_to(to, NR, area);
	ksm_settle();
	VERIFY(area, NR, 6000, NR);
	VERIFY(second, NR, 6000, NR);
	ksm_settle();
	still_merged(area, NR, second, 6000);
	end_of(area, NR, second, 6000);
}

/* Migration entries move, ksmd runs, and nothing gets lost. */
static void moved_while_migrated(void)
{
	char *second, *area = start(7000, &second);
	char *to = free_range(2 * NR);
	double end = ksm_now() + 3;
	struct mover m;
	long rounds;

	ksm_set("run", 1);
	mover_start(&m, second, NR, nodes);
	for (rounds = 0; ksm_now() < end; rounds++) {
		char *next = to + rounds % 2 * NR * PAGE_SIZE;

		move_area_to(area, NR, next);
		area = next;
		VERIFY(area, NR, 7000, NR);
		CHECK_EQ(count_ksm(area, NR), NR);
	}
	mover_stop(&m);
	ksm_note("%ld times, while %ld pages moved", rounds, m.moved);
	CHECK_GE(m.moved, NR);
	ksm_set("run", 0);
	still_merged(area, NR, second, 7000);
	end_of(area, NR, second, 7000);
}

static const struct ksm_test tests[] = {
	{ "moved", moved },
	{ "moved_onto_own_end", moved_onto_own_end },
	{ "grown_and_shrunk", grown_and_shrunk },
	{ "left_behind", left_behind },
	{ "moved_by_a_child", moved_by_a_child },
	{ "moved_when_out", moved_when_out },
	{ "moved_while_migrated", moved_while_migrated },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
