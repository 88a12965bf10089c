// SPDX-License-Identifier: GPL-2.0
/* vm: --nodes 2 --swap 256M */
/* stock-fails: collision_is_folded */
/* stock-fails: counted_by_node */
/*
 * merge_across_nodes: pages merge with those of their own node only, or with
 * any; and what becomes of that when they move.
 */
#include "ksm_lib.h"

#define NR	64

static int nodes[2];

static char *area_on(int node, uint64_t seed, size_t distinct)
{
	char *area = map_pages(NR);

	CHECK_EQ(bind_area(area, NR, node, 0), 0);
	fill_area(area, NR, seed, distinct);
	for (size_t i = 0; i < NR; i++)
		CHECK_EQ(node_of(area + i * PAGE_SIZE), node);
	CHECK(!madvise(area, NR * PAGE_SIZE, MADV_MERGEABLE));
	return area;
}

static void start(int across)
{
	need_nodes(nodes, 2);
	if (!ksm_has("merge_across_nodes"))
		ksm_skip("no merge_across_nodes");
	ksm_set("merge_across_nodes", across);
}

static void check_on(const char *area, int node)
{
	for (size_t i = 0; i < NR; i++)
		CHECK_EQ(node_of(area + i * PAGE_SIZE), node);
}

static size_t count_common(const char *one, const char *other)
{
	return count_same(getpid(), one, getpid(), other, NR);
}

static void across(void)
{
	char *a, *b;

	start(1);
	a = area_on(nodes[0], 100, NR);
	b = area_on(nodes[1], 100, NR);
	ksm_settle();
	CHECK_EQ(count_common(a, b), NR);
	CHECK_EQ(ksm_get("pages_shared"), NR);
	CHECK_EQ(ksm_get("pages_sharing"), NR);
	VERIFY(a, NR, 100, NR);
	VERIFY(b, NR, 100, NR);
}

static void apart(void)
{
	const size_t distinct = 8;
	char *a, *b;

	start(0);
	a = area_on(nodes[0], 200, distinct);
	b = area_on(nodes[1], 200, distinct);
	ksm_settle();
	CHECK_EQ(count_ksm(a, NR), NR);
	CHECK_EQ(count_ksm(b, NR), NR);
	CHECK_EQ(count_common(a, b), 0);
	check_on(a, nodes[0]);
	check_on(b, nodes[1]);
	CHECK_EQ(ksm_get("pages_shared"), 2 * distinct);
	CHECK_EQ(ksm_get("pages_sharing"), 2 * (NR - distinct));
	VERIFY(a, NR, 200, distinct);
	VERIFY(b, NR, 200, distinct);

	/* Turned around, with the same areas, and once more. */
	ksm_set("run", 2);
	ksm_set("merge_across_nodes", 1);
	ksm_settle();
	CHECK_EQ(count_common(a, b), NR);
	CHECK_EQ(ksm_get("pages_shared"), distinct);
	ksm_set("run", 2);
	ksm_set("merge_across_nodes", 0);
	ksm_settle();
	CHECK_EQ(count_ksm(a, NR), NR);
	VERIFY(a, NR, 200, distinct);
	VERIFY(b, NR, 200, distinct);
}

/* Unique on each node: there is nothing to merge, equal or not. */
static void no_partner_here(void)
{
	char *a, *b;

	start(0);
	a = area_on(nodes[0], 300, NR);
	b = area_on(nodes[1], 300, NR);
	ksm_settle();
	CHECK_EQ(count_ksm(a, NR), 0);
	CHECK_EQ(count_ksm(b, NR), 0);
	CHECK_EQ(ksm_get("pages_shared"), 0);

	/* It comes over. */
	move_area(b, NR, nodes[0]);
	ksm_settle();
	CHECK_EQ(count_common(a, b), NR);
	CHECK_EQ(count_ksm(a, NR), NR);
	check_on(a, nodes[0]);
	VERIFY(a, NR, 300, NR);
	VERIFY(b, NR, 300, NR);
}

/* A KSM page belongs to the node it is on, not to that it was made on. */
static void moved_page_is_found(void)
{
	const size_t distinct = 16;
	char *area, *here, *there;

	start(0);
	area = area_on(nodes[0], 400, distinct);
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	move_area(area, NR, nodes[1]);
	CHECK_EQ(count_ksm(area, NR), NR);

	here = area_on(nodes[0], 400, distinct);
	there = area_on(nodes[1], 400, distinct);
	ksm_settle();
	CHECK_EQ(count_common(area, there), NR);
	CHECK_EQ(count_common(area, here), 0);
	CHECK_EQ(count_ksm(here, NR), NR);
	check_on(here, nodes[0]);
	check_on(there, nodes[1]);
	CHECK_EQ(ksm_get("pages_shared"), 2 * distinct);
	CHECK_EQ(ksm_get("pages_sharing"), 3 * NR - 2 * distinct);
	VERIFY(area, NR, 400, distinct);
	VERIFY(here, NR, 400, distinct);
	VERIFY(there, NR, 400, distinct);
}

/* Two KSM pages of one content meet on one node, and become one again. */
/* stock: expected failure: both stay, as a chain */
static void collision_is_folded(void)
{
	const size_t distinct = 16;
	char *a, *b;

	start(0);
	a = area_on(nodes[0], 500, distinct);
	b = area_on(nodes[1], 500, distinct);
	ksm_settle();
	CHECK_EQ(ksm_get("pages_shared"), 2 * distinct);
	move_area(a, NR, nodes[1]);
	CHECK_EQ(count_common(a, b), 0);
	VERIFY(a, NR, 500, distinct);

	ksm_set("run", 1);
	WAIT_FOR(count_common(a, b) == NR &&
		 ksm_get("pages_shared") == (long)distinct);
	ksm_set("run", 0);
	CHECK_EQ(ksm_get("pages_sharing"), 2 * NR - distinct);
	check_on(a, nodes[1]);
	VERIFY(a, NR, 500, distinct);
	VERIFY(b, NR, 500, distinct);

	/* And apart: nothing of it is left on the old node. */
	fill_area(b, NR, 600, NR);
	move_area(a, NR, nodes[0]);
	ksm_settle();
	CHECK_EQ(count_ksm(a, NR), NR);
	VERIFY(a, NR, 500, distinct);
	VERIFY(b, NR, 600, NR);
}

/* Back and forth under a running ksmd; in the end everything is in place. */
static void moved_while_scanned(void)
{
	const size_t distinct = 16;
	double end = ksm_now() + 3;
	int rounds = 0;
	char *a, *b;

	start(0);
	a = area_on(nodes[0], 700, distinct);
	b = area_on(nodes[1], 700, distinct);
	ksm_scan(3);
	for (; ksm_now() < end; rounds++) {
		/* A kernel whose ksmd is in the way may leave some behind. */
		bind_area(a, NR, nodes[rounds % 2], KSM_MPOL_MF_MOVE_ALL);
		bind_area(b, NR, nodes[!(rounds % 2)], KSM_MPOL_MF_MOVE_ALL);
		VERIFY(a, NR, 700, distinct);
		VERIFY(b, NR, 700, distinct);
	}
	ksm_note("%d rounds", rounds);
	ksm_set("run", 0);
	move_area(a, NR, nodes[0]);
	bind_area(b, NR, nodes[1], 0);
	for (size_t i = 0; i < NR; i++)		/* pages of its own, there */
		fill_page(b + i * PAGE_SIZE, 700 + i % distinct);
	ksm_settle();
	WAIT_FOR(count_ksm(a, NR) == NR && count_ksm(b, NR) == NR);
	check_on(a, nodes[0]);
	check_on(b, nodes[1]);
	CHECK_EQ(count_common(a, b), 0);
	VERIFY(a, NR, 700, distinct);
	VERIFY(b, NR, 700, distinct);
	ksm_set("run", 1);
	WAIT_FOR(ksm_get("pages_shared") == 2 * (long)distinct);
	ksm_set("run", 0);
	CHECK_EQ(ksm_get("pages_sharing"), 2 * (NR - distinct));
	ksm_set("run", 2);
	CHECK_EQ(count_ksm(a, NR), 0);
	CHECK_EQ(count_ksm(b, NR), 0);
	CHECK_EQ(ksm_get("pages_shared"), 0);
	VERIFY(a, NR, 700, distinct);
	VERIFY(b, NR, 700, distinct);
}

static long shared_on(int node)
{
	char buf[512], name[16], *at;

	if (ksm_read("pages_shared_nodes", buf, sizeof(buf)) <= 0)
		FAIL("no pages_shared_nodes");
	snprintf(name, sizeof(name), "N%d=", node);
	at = strstr(buf, name);
	if (!at)
		FAIL("no %s in %s", name, buf);
	return strtol(at + strlen(name), NULL, 10);
}

/* stock: expected failure: nothing tells where KSM pages are */
static void counted_by_node(void)
{
	char *area, *second;
	struct stat st;

	start(1);
	area = merged_pairs(NR, 900, &second);
	move_all(area, NR, nodes[0]);
	CHECK_EQ(shared_on(nodes[0]), NR);
	CHECK_EQ(shared_on(nodes[1]), 0);
	move_all(area, NR / 4, nodes[1]);
	CHECK_EQ(shared_on(nodes[0]), NR - NR / 4);
	CHECK_EQ(shared_on(nodes[1]), NR / 4);
	CHECK(!munmap(second, NR * PAGE_SIZE));
	CHECK(!munmap(area, NR / 4 * PAGE_SIZE));
	ksm_settle();
	CHECK_EQ(shared_on(nodes[0]), NR - NR / 4);
	CHECK_EQ(shared_on(nodes[1]), 0);
	/* It looks at every KSM page: not for everybody to ask. */
	CHECK(!stat("/sys/kernel/mm/ksm/pages_shared_nodes", &st));
	CHECK_EQ(st.st_mode & 0777, 0400);
}

static const struct ksm_test tests[] = {
	{ "across", across },
	{ "apart", apart },
	{ "no_partner_here", no_partner_here },
	{ "moved_page_is_found", moved_page_is_found },
	{ "collision_is_folded", collision_is_folded },
	{ "moved_while_scanned", moved_while_scanned },
	{ "counted_by_node", counted_by_node },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
