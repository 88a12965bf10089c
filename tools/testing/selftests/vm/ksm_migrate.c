// SPDX-License-Identifier: GPL-2.0
/* vm: --nodes 2 --swap 256M */
/* stock-fails: counted */
/* stock-fails: pingpong_complete */
/*
 * KSM pages move between NUMA nodes, and stay what they are.
 */
#include "ksm_lib.h"

static int nodes[2];

struct group {
	char *area;
	size_t sharers;
	uint64_t seed;
	unsigned long before;
};

static int other_node(int node)
{
	return node == nodes[0] ? nodes[1] : nodes[0];
}

/* All of a group's mappings are of one KSM page, and it has no others. */
static void check_group(const struct group *g)
{
	unsigned long *at = pfns(g->area, g->sharers);

	CHECK_EQ(count_ksm(g->area, g->sharers), g->sharers);
	for (size_t i = 1; i < g->sharers; i++)
		CHECK_EQ(at[i], at[0]);
	CHECK_EQ(page_mapcount(at[0]), g->sharers);
	free(at);
	VERIFY(g->area, g->sharers, g->seed, 1);
}

static const size_t sharers[] = { 1, 2, 3, 7, 20, 64, 150, 200 };

#define GROUPS		(ARRAY_SIZE(sharers) * 2)

static void make_groups(struct group *g, uint64_t seed)
{
	for (size_t i = 0; i < GROUPS; i++) {
		size_t nr = sharers[i % ARRAY_SIZE(sharers)];

		g[i] = (struct group) {
			.area = mergeable_area(nr == 1 ? 2 : nr, seed + i, 1),
			.sharers = nr,
			.seed = seed + i,
		};
	}
	ksm_settle();
	for (size_t i = 0; i < GROUPS; i++) {
		if (g[i].sharers == 1)
			CHECK(!munmap(g[i].area + PAGE_SIZE, PAGE_SIZE));
		check_group(&g[i]);
		g[i].before = pfn(g[i].area);
	}
}

/* One call for one page of every group takes all of them along. */
static void move_groups(struct group *g, int node)
{
	int status[GROUPS];
	char *pages[GROUPS];

	for (size_t i = 0; i < GROUPS; i++)
		pages[i] = g[i].area + (g[i].sharers / 2) * PAGE_SIZE;
	CHECK_EQ(move_to_node(0, pages, status, GROUPS, node,
			      KSM_MPOL_MF_MOVE_ALL), 0);
	for (size_t i = 0; i < GROUPS; i++)
		CHECK_EQ(status[i], node);
}

static void sharers_follow(void)
{
	struct group g[GROUPS];
	long shared, sharing;

	need_nodes(nodes, 2);
	make_groups(g, 1000);
	shared = ksm_get("pages_shared");
	sharing = ksm_get("pages_sharing");
	for (int round = 0; round < 2; round++) {
		int node = nodes[round % 2];

		move_groups(g, other_node(node));
		move_groups(g, node);
		for (size_t i = 0; i < GROUPS; i++) {
			CHECK_EQ(node_of(g[i].area), node);
			check_group(&g[i]);
		}
	}
	/* ksmd was at rest, and did not need to do anything. */
	CHECK_EQ(ksm_get("pages_shared"), shared);
	CHECK_EQ(ksm_get("pages_sharing"), sharing);
}

/* pitfalls 1, 2, 3: the index finds a page where it is now */
static void found_where_it_is(void)
{
	struct group g[GROUPS];
	long elsewhere = 0;
	char *more;

	need_nodes(nodes, 2);
	make_groups(g, 2000);
	move_groups(g, nodes[1]);
	move_groups(g, nodes[0]);
	/* Some may have come back to where they were */
	for (size_t i = 0; i < GROUPS; i++)
		elsewhere += g[i].before != pfn(g[i].area);
	CHECK_GE(elsewhere, 1);
	more = mergeable_area(GROUPS, 2000, GROUPS);
	ksm_settle();
	for (size_t i = 0; i < GROUPS; i++) {
		CHECK_EQ(pfn(more + i * PAGE_SIZE), pfn(g[i].area));
		CHECK_EQ(page_mapcount(pfn(g[i].area)), g[i].sharers + 1);
	}
	VERIFY(more, GROUPS, 2000, GROUPS);
	CHECK_EQ(ksm_get("pages_shared"), GROUPS);

	/* The mappings are known: the page goes on with the new one too. */
	move_groups(g, nodes[1]);
	for (size_t i = 0; i < GROUPS; i++)
		CHECK_EQ(pfn(more + i * PAGE_SIZE), pfn(g[i].area));
	CHECK(!munmap(more, GROUPS * PAGE_SIZE));
	for (size_t i = 0; i < GROUPS; i++)
		check_group(&g[i]);
}

static void copied_after_move(void)
{
	const size_t nr = 64;
	char *area;

	need_nodes(nodes, 2);
	area = mergeable_area(nr, 3000, 4);
	ksm_settle();
	move_area(area, nr, nodes[1]);
	move_area(area, nr, nodes[0]);
	for (size_t i = 0; i < nr; i += 3) {
		fill_page(area + i * PAGE_SIZE, 3100 + i);
		CHECK(!is_ksm(area + i * PAGE_SIZE));
	}
	for (size_t i = 0; i < nr; i++)
		CHECK(page_is(area + i * PAGE_SIZE,
			      i % 3 ? 3000 + i % 4 : 3100 + i));
	/* Taken apart as a whole, wherever the pages are. */
	ksm_set("run", 2);
	CHECK_EQ(count_ksm(area, nr), 0);
	CHECK_EQ(ksm_get("pages_shared"), 0);
	for (size_t i = 0; i < nr; i++)
		CHECK(page_is(area + i * PAGE_SIZE,
			      i % 3 ? 3000 + i % 4 : 3100 + i));
}

/* The new file: as many as were moved. */
/* stock: expected failure: there is no pages_migrated */
static void counted(void)
{
	struct group g[GROUPS];
	long before;

	need_nodes(nodes, 2);
	CHECK(ksm_has("pages_migrated"));
	make_groups(g, 4000);
	move_groups(g, nodes[0]);
	before = ksm_get("pages_migrated");
	move_groups(g, nodes[1]);
	CHECK_EQ(ksm_get("pages_migrated") - before, GROUPS);
	/* They are there already. */
	move_groups(g, nodes[1]);
	CHECK_EQ(ksm_get("pages_migrated") - before, GROUPS);
	move_groups(g, nodes[0]);
	CHECK_EQ(ksm_get("pages_migrated") - before, 2 * GROUPS);
	for (size_t i = 0; i < GROUPS; i++)
		check_group(&g[i]);
}

/* ---- with other processes ---- */

#define PEER_PAGES	64

static void peer_sharing(struct peer *me, void *arg)
{
	char *area = mergeable_area(PEER_PAGES, (long)arg, PEER_PAGES);

	peer_send(me, (long)area);
	while (peer_recv(me)) {
		VERIFY(area, PEER_PAGES, (long)arg, PEER_PAGES);
		peer_send(me, count_ksm(area, PEER_PAGES));
	}
	VERIFY(area, PEER_PAGES, (long)arg, PEER_PAGES);
}

static void ask_peer(struct peer *p, long expect)
{
	peer_send(p, 1);
	CHECK_EQ(peer_recv(p), expect);
}

static void end_peer(struct peer *p)
{
	peer_send(p, 0);
	peer_join(p);
}

/* pitfall 25: what others share stays unless MPOL_MF_MOVE_ALL is said */
static void without_move_all(void)
{
	char *pages[PEER_PAGES], *area, *theirs;
	unsigned long at[PEER_PAGES];
	int status[PEER_PAGES], away;
	struct peer peer;

	need_nodes(nodes, 2);
	area = mergeable_area(PEER_PAGES, 5000, PEER_PAGES);
	peer_start(&peer, peer_sharing, (void *)5000);
	theirs = (char *)peer_recv(&peer);
	ksm_settle();
	move_area(area, PEER_PAGES, nodes[0]);
	away = nodes[1];
	for (size_t i = 0; i < PEER_PAGES; i++) {
		pages[i] = area + i * PAGE_SIZE;
		at[i] = pfn(pages[i]);
	}
	CHECK_EQ(count_same(getpid(), area, peer.pid, theirs, PEER_PAGES),
		 PEER_PAGES);
	move_to_node(0, pages, status, PEER_PAGES, away, KSM_MPOL_MF_MOVE);
	for (size_t i = 0; i < PEER_PAGES; i++) {
		CHECK_EQ(status[i], -EACCES);
		CHECK_EQ(pfn(pages[i]), at[i]);
	}
	bind_area(area, PEER_PAGES, away, KSM_MPOL_MF_MOVE);
	for (size_t i = 0; i < PEER_PAGES; i++)
		CHECK_EQ(pfn(pages[i]), at[i]);
	CHECK_EQ(count_ksm(area, PEER_PAGES), PEER_PAGES);
	ask_peer(&peer, PEER_PAGES);
	end_peer(&peer);
	VERIFY(area, PEER_PAGES, 5000, PEER_PAGES);
}

static void check_together(char *area, char *theirs, pid_t pid, int node)
{
	for (size_t i = 0; i < PEER_PAGES; i++)
		CHECK_EQ(node_of(area + i * PAGE_SIZE), node);
	CHECK_EQ(count_same(getpid(), area, pid, theirs, PEER_PAGES),
		 PEER_PAGES);
	CHECK_EQ(count_ksm(area, PEER_PAGES), PEER_PAGES);
	VERIFY(area, PEER_PAGES, 5100, PEER_PAGES);
}

/* move_pages(2) on another process, mbind(2), migrate_pages(2) */
static void every_call(void)
{
	int status[PEER_PAGES];
	unsigned long from, to;
	char *pages[PEER_PAGES], *area, *theirs;
	struct peer peer;

	need_nodes(nodes, 2);
	area = mergeable_area(PEER_PAGES, 5100, PEER_PAGES);
	peer_start(&peer, peer_sharing, (void *)5100);
	theirs = (char *)peer_recv(&peer);
	ksm_settle();
	move_area(area, PEER_PAGES, nodes[0]);
	check_together(area, theirs, peer.pid, nodes[0]);

	for (size_t i = 0; i < PEER_PAGES; i++)
		pages[i] = theirs + i * PAGE_SIZE;
	CHECK_EQ(move_to_node(peer.pid, pages, status, PEER_PAGES, nodes[1],
			      KSM_MPOL_MF_MOVE_ALL), 0);
	check_together(area, theirs, peer.pid, nodes[1]);

	CHECK_EQ(bind_area(area, PEER_PAGES, nodes[0], KSM_MPOL_MF_MOVE_ALL),
		 0);
	check_together(area, theirs, peer.pid, nodes[0]);

	from = 1UL << nodes[0];
	to = 1UL << nodes[1];
	CHECK_GE(syscall(SYS_migrate_pages, peer.pid, sizeof(from) * 8, &from,
			 &to), 0);
	check_together(area, theirs, peer.pid, nodes[1]);
	ksm_note("move_pages, mbind, migrate_pages: %d of %d moved by each",
		 PEER_PAGES, PEER_PAGES);
	ask_peer(&peer, PEER_PAGES);
	end_peer(&peer);
}

/* Four processes and their pages, which are the same content in each. */
#define CROWD		4

static void crowd(struct peer *peer, char **area, long seed)
{
	for (int p = 0; p < CROWD; p++) {
		peer_start(&peer[p], peer_sharing, (void *)seed);
		area[p] = (char *)peer_recv(&peer[p]);
	}
	ksm_settle();
	for (int p = 0; p < CROWD; p++)
		ask_peer(&peer[p], PEER_PAGES);
}

/* Back and forth with ksmd at full speed; what did not move at once. */
static long pingpong(struct peer *peer, char **area, double seconds,
		     long *moves)
{
	double end = ksm_now() + seconds;
	char *pages[PEER_PAGES];
	int status[PEER_PAGES];
	long left = 0;

	ksm_set("pages_to_scan", 100000);
	ksm_scan(1);
	for (*moves = 0; ksm_now() < end; ++*moves) {
		int who = *moves % CROWD, node = nodes[*moves % 2];

		for (size_t i = 0; i < PEER_PAGES; i++)
			pages[i] = area[who] + i * PAGE_SIZE;
		CHECK_GE(move_to_node(peer[who].pid, pages, status, PEER_PAGES,
				      node, KSM_MPOL_MF_MOVE_ALL), 0);
		for (size_t i = 0; i < PEER_PAGES; i++)
			left += status[i] != node;
	}
	return left;
}

static void check_crowd(struct peer *peer, char **area)
{
	long shared = PEER_PAGES, sharing = PEER_PAGES * (CROWD - 1);

	ksm_set("pages_to_scan", 1000);
	ksm_settle();
	CHECK_EQ(ksm_get("pages_shared"), shared);
	CHECK_EQ(ksm_get("pages_sharing"), sharing);
	for (int p = 0; p < CROWD; p++) {
		ask_peer(&peer[p], PEER_PAGES);
		CHECK_EQ(proc_merging(peer[p].pid), PEER_PAGES);
		CHECK_EQ(count_same(peer[p].pid, area[p], peer[0].pid, area[0],
				    PEER_PAGES), PEER_PAGES);
	}
}

/* pitfalls 1, 2, 3 */
static void pingpong_keeps_sharing(void)
{
	struct peer peer[CROWD];
	char *area[CROWD];
	long moves, left;

	need_nodes(nodes, 2);
	crowd(peer, area, 6000);
	left = pingpong(peer, area, 4, &moves);
	ksm_note("%ld moves of %d pages, %ld pages left behind", moves,
		 PEER_PAGES, left);
	CHECK_GE(moves, 2);
	check_crowd(peer, area);
	for (int p = 0; p < CROWD; p++)
		end_peer(&peer[p]);
}

/*
 * pitfalls 33, 34: ksmd does not keep pages from moving.  The kernel tries
 * a page ten times; nothing that ksmd does may last so long.
 */
/* stock: expected failure: waits for page locks with a reference held */
static void pingpong_complete(void)
{
	struct peer peer[CROWD];
	char *area[CROWD];
	long moves, left;

	need_nodes(nodes, 2);
	crowd(peer, area, 6200);
	left = pingpong(peer, area, 4, &moves);
	ksm_note("%ld moves of %d pages, %ld pages left behind", moves,
		 PEER_PAGES, left);
	CHECK_EQ(left, 0);
	check_crowd(peer, area);
	for (int p = 0; p < CROWD; p++)
		end_peer(&peer[p]);
}

/*
 * pitfall 34: the records of mappings outlive migration entries.  Were one
 * dropped, the page would be pinned to its place by a mapping nobody finds,
 * which shows as soon as ksmd stops.
 */
static void records_survive(void)
{
	struct peer peer[CROWD];
	char *area[CROWD];
	char *pages[PEER_PAGES];
	int status[PEER_PAGES];
	long moves;

	need_nodes(nodes, 2);
	crowd(peer, area, 6400);
	for (int round = 0; round < 5; round++) {
		int node = nodes[round % 2];

		pingpong(peer, area, 0.5, &moves);
		/* Give a scan that lost a record the time to add it again. */
		ksm_scan(2);
		ksm_set("run", 0);
		for (size_t i = 0; i < PEER_PAGES; i++)
			pages[i] = area[0] + i * PAGE_SIZE;
		CHECK_EQ(move_to_node(peer[0].pid, pages, status, PEER_PAGES,
				      node, KSM_MPOL_MF_MOVE_ALL), 0);
		for (size_t i = 0; i < PEER_PAGES; i++)
			CHECK_EQ(status[i], node);
		for (int p = 0; p < CROWD; p++)
			ask_peer(&peer[p], PEER_PAGES);
	}
	for (int p = 0; p < CROWD; p++)
		end_peer(&peer[p]);
}

/* pitfalls 1, 3: sharers write, unmap, fork and die as the page moves */
static void sharers_come_and_go(void)
{
	double end = ksm_now() + 4;
	struct mover m;
	int rounds = 0;
	char *moving;

	need_nodes(nodes, 2);
	moving = mergeable_area(64, 7000, 8);
	ksm_scan(4);
	mover_start(&m, moving, 64, nodes);
	for (; ksm_now() < end; rounds++) {
		char *area = mergeable_area(m.nr, 7000, 8);
		int status;

		for (int wait = 0; wait < 50 && !is_ksm(area); wait++)
			usleep(1000);
		if (!fork()) {
			VERIFY(area, m.nr, 7000, 8);
			for (size_t i = 0; i < m.nr; i += 2)
				fill_page(m.area + i * PAGE_SIZE, 7100 + i);
			for (size_t i = 0; i < m.nr; i++)
				CHECK(page_is(m.area + i * PAGE_SIZE, i % 2 ?
					      7000 + i % 8 : 7100 + i));
			_exit(0);
		}
		for (size_t i = rounds % 2; i < m.nr; i += 2)
			fill_page(area + i * PAGE_SIZE, 7200 + i);
		VERIFY(m.area, m.nr, 7000, 8);
		for (size_t i = 0; i < m.nr; i++)
			CHECK(page_is(area + i * PAGE_SIZE,
				      i % 2 == rounds % 2 ? 7200 + i :
							    7000 + i % 8));
		CHECK(wait(&status) > 0 && !status);
		CHECK(!munmap(area, m.nr * PAGE_SIZE));
	}
	mover_stop(&m);
	ksm_note("%d rounds, %ld moves", rounds, m.calls);
	CHECK_GE(m.calls, 2);
	ksm_settle();
	CHECK_EQ(ksm_get("pages_shared"), 8);
	CHECK_EQ(ksm_get("pages_sharing"), m.nr - 8);
	VERIFY(m.area, m.nr, 7000, 8);
}

/* run = 2 while the pages move: all of them are taken apart (pitfall 34) */
static void unmerged_while_moving(void)
{
	struct mover m;
	char *moving;

	need_nodes(nodes, 2);
	moving = mergeable_area(128, 8000, 16);
	mover_start(&m, moving, 128, nodes);
	/* Between finding a page and giving it up, where there is such a knob */
	knob_override("/sys/kernel/debug/ksm/windows/break", "1000");
	for (int round = 0; round < 30; round++) {
		ksm_scan(3);
		WAIT_FOR(ksm_get("pages_sharing") >= (long)m.nr / 2);
		ksm_set("run", 2);
		CHECK_EQ(count_ksm(m.area, m.nr), 0);
		CHECK_EQ(ksm_get("pages_shared"), 0);
		CHECK_EQ(ksm_get("pages_sharing"), 0);
		VERIFY(m.area, m.nr, 8000, 16);
	}
	mover_stop(&m);
	ksm_settle();
	CHECK_EQ(count_ksm(m.area, m.nr), m.nr);
	VERIFY(m.area, m.nr, 8000, 16);
}

static const struct ksm_test tests[] = {
	{ "sharers_follow", sharers_follow },
	{ "found_where_it_is", found_where_it_is },
	{ "copied_after_move", copied_after_move },
	{ "counted", counted },
	{ "without_move_all", without_move_all },
	{ "every_call", every_call },
	{ "pingpong_keeps_sharing", pingpong_keeps_sharing },
	{ "pingpong_complete", pingpong_complete },
	{ "records_survive", records_survive },
	{ "sharers_come_and_go", sharers_come_and_go },
	{ "unmerged_while_moving", unmerged_while_moving },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
