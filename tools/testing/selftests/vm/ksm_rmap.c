// SPDX-License-Identifier: GPL-2.0
/* vm: --nodes 2 --swap 256M */
/* stock-fails: split_areas_cost */
/*
 * From a KSM page to its mappings: forked, moved, split and orphaned ones.
 * Migration shows whether all of them are found: a page with a mapping that
 * nobody finds does not move.
 */
#include "ksm_lib.h"

#define NR	64

static int nodes[2];

static void same_pages(char *area, pid_t pid, char *theirs)
{
	CHECK_EQ(count_same(getpid(), area, pid, theirs, NR), NR);
}

struct family {
	char *area;
	uint64_t seed;
	int depth;
};

static void peer_child(struct peer *me, void *arg)
{
	struct family *f = arg;
	struct family next = { f->area, f->seed, f->depth - 1 };
	struct peer child;

	if (f->depth)
		peer_start(&child, peer_child, &next);
	peer_send(me, f->depth ? peer_recv(&child) : getpid());
	peer_recv(me);
	VERIFY(f->area, NR, f->seed, NR);
	CHECK_EQ(count_ksm(f->area, NR), NR);
	if (f->depth) {
		peer_send(&child, 0);
		peer_join(&child);
	}
}

/* pitfall 12: a child and a grandchild that ksmd has never seen */
static void forked_follow(void)
{
	struct family f = { .seed = 100, .depth = 1 };
	struct peer child;
	pid_t grandchild;
	char *second;

	need_nodes(nodes, 2);
	f.area = merged_pairs(NR, f.seed, &second);
	peer_start(&child, peer_child, &f);
	grandchild = peer_recv(&child);
	for (int round = 0; round < 4; round++) {
		move_all(f.area, NR, nodes[round % 2]);
		same_pages(f.area, child.pid, f.area);
		same_pages(f.area, grandchild, f.area);
		for (size_t i = 0; i < NR; i++)
			CHECK_EQ(page_mapcount(pfn(f.area + i * PAGE_SIZE)), 6);
	}
	peer_send(&child, 0);
	peer_join(&child);
	VERIFY(f.area, NR, 100, NR);
	VERIFY(second, NR, 100, NR);
}

/* A child whose parent is gone talks through a page that all share. */
struct board {
	pid_t pid;
	char *area;
	bool look, good;
};

static void peer_merges_and_forks(struct peer *me, void *arg)
{
	struct board *board = arg;
	char *second;

	board->area = merged_pairs(NR, 200, &second);
	if (!fork()) {
		write_now(board->pid, getpid());
		while (!read_now(board->look))
			usleep(1000);
		VERIFY(board->area, NR, 200, NR);
		VERIFY(second, NR, 200, NR);
		write_now(board->good, true);
		pause();
	}
	while (!read_now(board->pid))
		usleep(1000);
}

/*
 * pitfalls 12, 18: whoever had the pages merged is dead, a child maps them.
 * With ksmd at rest the records are those of the dead.
 */
static void orphans(bool scan)
{
	char *pages[NR];
	struct peer parent;
	struct board *board;
	int status[NR];

	need_nodes(nodes, 2);
	board = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(board != MAP_FAILED);
	peer_start(&parent, peer_merges_and_forks, board);
	peer_join(&parent);
	if (scan)
		ksm_settle();
	for (size_t i = 0; i < NR; i++)
		pages[i] = board->area + i * PAGE_SIZE;
	for (int round = 0; round < 4; round++) {
		int node = nodes[round % 2];

		/* One may be in somebody's hands; lost, it would never move */
		WAIT_FOR(!move_to_node(board->pid, pages, status, NR, node,
				       KSM_MPOL_MF_MOVE_ALL));
		for (size_t i = 0; i < NR; i++) {
			CHECK_EQ(status[i], node);
			CHECK_EQ(page_mapcount(pfn_of(board->pid, pages[i])),
				 2);
		}
	}
	write_now(board->look, true);
	WAIT_FOR(read_now(board->good));
}

static void orphans_follow(void)
{
	orphans(false);
}

static void adopted_orphans_follow(void)
{
	orphans(true);
}

/* pitfall 13: the area is cut in pieces after the merge, and joined again */
static void split_areas(void)
{
	char *area, *second;

	need_nodes(nodes, 2);
	area = merged_pairs(NR, 400, &second);
	for (size_t i = 0; i < NR; i += 2)
		CHECK(!mprotect(area + i * PAGE_SIZE, PAGE_SIZE, PROT_READ));
	move_all(area, NR, nodes[0]);
	move_all(area, NR, nodes[1]);
	same_pages(area, getpid(), second);
	/* Merged while in pieces. */
	ksm_set("run", 2);
	ksm_settle();
	move_all(area, NR, nodes[0]);
	CHECK(!mprotect(area, NR * PAGE_SIZE, PROT_READ | PROT_WRITE));
	move_all(area, NR, nodes[1]);
	same_pages(area, getpid(), second);
	VERIFY(area, NR, 400, NR);
	VERIFY(second, NR, 400, NR);
	/* Parts of it unmapped. */
	CHECK(!munmap(area + NR / 2 * PAGE_SIZE, PAGE_SIZE));
	CHECK(!munmap(area, PAGE_SIZE));
	move_all(second, NR, nodes[0]);
	VERIFY(area + PAGE_SIZE, NR / 2 - 1, 401, NR);
	VERIFY(second, NR, 400, NR);
}

/* pitfall 13: the area moves after the merge, and again before the next */
static void moved_areas(void)
{
	char *area, *second, *to;

	need_nodes(nodes, 2);
	area = merged_pairs(NR, 500, &second);
	to = mmap(NULL, NR * PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
		  -1, 0);
	CHECK(to != MAP_FAILED);
	CHECK(mremap(area, NR * PAGE_SIZE, NR * PAGE_SIZE,
		     MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
	VERIFY(to, NR, 500, NR);
	move_all(to, NR, nodes[0]);
	move_all(second, NR, nodes[1]);
	VERIFY(to, NR, 500, NR);

	ksm_settle();
	CHECK_EQ(count_ksm(to, NR), NR);
	same_pages(to, getpid(), second);
	move_all(to, NR, nodes[0]);
	move_all(to, NR, nodes[1]);
	same_pages(to, getpid(), second);

	/* Half of it goes back to where it was. */
	CHECK(mremap(to, NR / 2 * PAGE_SIZE, NR / 2 * PAGE_SIZE,
		     MREMAP_MAYMOVE | MREMAP_FIXED, area) == area);
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR / 2), NR / 2);
	move_all(second, NR, nodes[0]);
	move_all(second, NR, nodes[1]);
	for (size_t i = 0; i < NR; i++)
		CHECK_EQ(pfn(second + i * PAGE_SIZE),
			 pfn((i < NR / 2 ? area : to) + i * PAGE_SIZE));
	VERIFY(area, NR / 2, 500, NR);
	VERIFY(to + NR / 2 * PAGE_SIZE, NR / 2, 500 + NR / 2, NR);
	VERIFY(second, NR, 500, NR);
	for (size_t i = 0; i < NR / 2; i++)
		fill_page(area + i * PAGE_SIZE, 5000 + i);
	VERIFY(area, NR / 2, 5000, NR);
	VERIFY(second, NR, 500, NR);
}

static void peer_remaps(struct peer *me, void *arg)
{
	char *area = arg, *to;

	to = mmap(NULL, NR * PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
		  -1, 0);
	CHECK(to != MAP_FAILED);
	CHECK(mremap(area, NR * PAGE_SIZE, NR * PAGE_SIZE,
		     MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
	peer_send(me, 0);
	peer_recv(me);
	VERIFY(to, NR, 600, NR);
	for (size_t i = 0; i < NR; i += 2)
		fill_page(to + i * PAGE_SIZE, 6000 + i);
	for (size_t i = 0; i < NR; i++)
		CHECK(page_is(to + i * PAGE_SIZE, i % 2 ? 600 + i : 6000 + i));
}

/* pitfalls 12, 13: a child that was never scanned moves its mapping */
static void child_moves_area(void)
{
	char *area, *second;
	struct peer child;

	need_nodes(nodes, 2);
	area = merged_pairs(NR, 600, &second);
	peer_start(&child, peer_remaps, area);
	peer_recv(&child);
	for (int round = 0; round < 4; round++)
		move_all(area, NR, nodes[round % 2]);
	peer_send(&child, 0);
	peer_join(&child);
	VERIFY(area, NR, 600, NR);
	VERIFY(second, NR, 600, NR);
}

static void peer_short_lived(struct peer *me, void *arg)
{
	char *inherited = arg;

	fill_area(inherited, NR, 700, NR);
	CHECK(!madvise(inherited, NR * PAGE_SIZE, MADV_MERGEABLE));
	peer_send(me, 0);
	peer_recv(me);
}

/* pitfall 18: merged in a child's anon_vma, which is freed with the child */
static void anon_vmas_go(void)
{
	char *area, *later = map_pages(NR);

	need_nodes(nodes, 2);
	area = mergeable_area(NR, 700, NR);
	for (int round = 0; round < 12; round++) {
		struct peer child;

		peer_start(&child, peer_short_lived, later);
		peer_recv(&child);
		ksm_settle();
		CHECK_EQ(count_ksm(area, NR), NR);
		if (round % 3 == 0)
			ksm_set("run", 1);
		if (round % 3 == 1)
			kill(child.pid, SIGKILL);
		else
			peer_send(&child, 0);
		CHECK(waitpid(child.pid, NULL, 0) == child.pid);
		/* Against a running ksmd it may take more than one attempt. */
		move_area(area, NR, nodes[0]);
		move_area(area, NR, nodes[1]);
		VERIFY(area, NR, 700, NR);
		close(child.in);
		close(child.out);
	}
}

/* Idle page tracking asks every mapping whether the page was used. */
static void idle_tracking(void)
{
	static const char bitmap[] = "/sys/kernel/mm/page_idle/bitmap";
	char *area, *second, *page[2];
	uint64_t word;
	off_t offset;
	int fd, bit;

	fd = open(bitmap, O_RDWR);
	if (fd < 0)
		ksm_skip("no idle page tracking");
	area = merged_pairs(NR, 800, &second);
	page[0] = area + 5 * PAGE_SIZE;
	page[1] = second + 5 * PAGE_SIZE;
	offset = pfn(page[0]) / 64 * 8;
	bit = pfn(page[0]) % 64;
	for (int round = 0; round < 4; round++) {
		word = 1ULL << bit;
		CHECK(pwrite(fd, &word, 8, offset) == 8);
		CHECK(pread(fd, &word, 8, offset) == 8);
		CHECK(word >> bit & 1);
		/* The TLB does not know about it: have it flushed. */
		CHECK(!mprotect(page[round % 2], PAGE_SIZE, PROT_NONE));
		CHECK(!mprotect(page[round % 2], PAGE_SIZE,
				PROT_READ | PROT_WRITE));
		CHECK(page_is(page[round % 2], 805));
		CHECK(pread(fd, &word, 8, offset) == 8);
		CHECK(!(word >> bit & 1));
	}
	close(fd);
}

/* ---- pitfall 15: the price of many areas on one anon_vma ---- */

#define COST_PAGES	100UL
#define COST_SHARERS	200

/* On a slow kernel it is not about time. */
static size_t cost_pages(void)
{
	return ksm_slow() > 1 ? COST_PAGES / 32 : COST_PAGES;
}

static double time_of_move(char *area)
{
	char *pages[COST_PAGES];
	int status[COST_PAGES];
	size_t nr = cost_pages();
	double start;

	move_area(area, nr, nodes[1]);
	start = ksm_now();
	for (size_t i = 0; i < nr; i++)
		pages[i] = area + i * PAGE_SIZE;
	CHECK_EQ(move_to_node(0, pages, status, nr, nodes[0],
			      KSM_MPOL_MF_MOVE_ALL), 0);
	for (size_t i = 0; i < nr; i++)
		CHECK_EQ(status[i], nodes[0]);
	return ksm_now() - start;
}

/* stock: expected failure: every walk goes through the whole anon_vma */
static void split_areas_cost(void)
{
	const size_t contents = cost_pages(), nr = contents * COST_SHARERS;
	char *area;

	need_nodes(nodes, 2);
	area = mergeable_area(nr, 900, contents);
	ksm_settle();
	CHECK_EQ(ksm_get("pages_shared"), contents);
	CHECK_EQ(ksm_get("pages_sharing"), nr - contents);
	/* A host that is busy elsewhere adds something, but not every time. */
	for (int i = 0; i < 3; i++) {
		double whole, split;

		CHECK(!mprotect(area, nr * PAGE_SIZE, PROT_READ | PROT_WRITE));
		whole = time_of_move(area);
		for (size_t p = 0; p < nr; p += 2)
			CHECK(!mprotect(area + p * PAGE_SIZE, PAGE_SIZE,
					PROT_READ));
		split = time_of_move(area);
		ksm_note("moved %zu pages of %d sharers in %.3f s, in %zu areas %.3f s",
			 contents, COST_SHARERS, whole, nr, split);
		VERIFY(area, nr, 900, contents);
		if (split <= 2 * whole + 0.2 * ksm_slow())
			return;
	}
	FAIL("cost grows with the number of areas");
}

static void peer_advises(struct peer *me, void *arg)
{
	char *area = arg, *second;

	CHECK(!madvise(area, NR * PAGE_SIZE, MADV_MERGEABLE));
	second = map_pages(NR);
	CHECK_EQ(bind_area(second, NR, nodes[1], 0), 0);
	fill_area(second, NR, 800, NR);
	CHECK(!madvise(second, NR * PAGE_SIZE, MADV_MERGEABLE));
	peer_send(me, (long)second);
	peer_recv(me);
	VERIFY(area, NR, 800, NR);
	VERIFY(second, NR, 800, NR);
}

/*
 * Only the child has offered memory, which the parent still shares with it by
 * fork: the parent is not to map KSM pages.
 */
static void not_without_advice(void)
{
	char *above = map_pages(2 * NR), *area = map_pages(NR);
	struct peer child;

	need_nodes(nodes, 2);
	CHECK_EQ(bind_area(area, NR, nodes[0], 0), 0);
	fill_area(area, NR, 800, NR);
	/*
	 * Of two pages on different nodes the one that is met first stays:
	 * here, that of both.
	 */
	ksm_merge_in_place();
	CHECK_GE(above, area);
	CHECK(!munmap(above, 2 * NR * PAGE_SIZE));
	peer_start(&child, peer_advises, area);
	if ((char *)peer_recv(&child) < area)
		ksm_skip("memory is mapped in another order");
	ksm_settle();
	CHECK_EQ(ksm_get("pages_shared"), NR);
	CHECK_EQ(ksm_get("pages_sharing"), NR);
	CHECK_EQ(count_ksm(area, NR), 0);
	move_all(area, NR, nodes[1]);
	move_all(area, NR, nodes[0]);

	ksm_set("run", 2);
	CHECK_EQ(ksm_get("pages_shared"), 0);
	CHECK_EQ(ksm_get("pages_sharing"), 0);
	CHECK_EQ(count_ksm(area, NR), 0);
	move_all(area, NR, nodes[1]);
	peer_send(&child, 0);
	peer_join(&child);
	VERIFY(area, NR, 800, NR);
}

static const struct ksm_test tests[] = {
	{ "forked_follow", forked_follow },
	{ "orphans_follow", orphans_follow },
	{ "adopted_orphans_follow", adopted_orphans_follow },
	{ "split_areas", split_areas },
	{ "moved_areas", moved_areas },
	{ "child_moves_area", child_moves_area },
	{ "anon_vmas_go", anon_vmas_go },
	{ "idle_tracking", idle_tracking },
	{ "split_areas_cost", split_areas_cost },
	{ "not_without_advice", not_without_advice },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
