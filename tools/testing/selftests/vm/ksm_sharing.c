// SPDX-License-Identifier: GPL-2.0
/*
 * max_page_sharing: one KSM page has so many sharers and no more; beyond it
 * there are other pages of the same content.  (pitfall 30)
 */
#include "ksm_lib.h"

/* How many different pages these mappings are of, none with more sharers. */
static size_t count_pages(const char *area, size_t nr, size_t max_sharers)
{
	unsigned long *at = pfns(area, nr);
	size_t different = 0;

	for (size_t i = 0; i < nr; i++) {
		size_t before = 0, sharers = 0;

		for (size_t j = 0; j < nr; j++) {
			sharers += at[j] == at[i];
			before += at[j] == at[i] && j < i;
		}
		CHECK_EQ(page_mapcount(at[i]), sharers);
		CHECK_GE(max_sharers, sharers);
		different += !before;
	}
	free(at);
	return different;
}

static void bounded(void)
{
	static const long limits[] = { 2, 3, 10 };
	const size_t nr = 100;
	char *area = mergeable_area(nr, 1, 1);

	for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
		size_t least = (nr + limits[i] - 1) / limits[i], pages, merged;

		ksm_set("run", 2);
		ksm_set("max_page_sharing", limits[i]);
		ksm_scan(3);
		/* One may find no second to make a page with. */
		WAIT_FOR(count_ksm(area, nr) >= nr - 1);
		ksm_set("run", 0);
		merged = count_ksm(area, nr);
		pages = count_pages(area, nr, limits[i]);
		ksm_note("limit %ld: %zu mappings of %zu pages", limits[i],
			 merged, pages);
		CHECK_GE(pages, least);
		CHECK_GE(2 * least, pages);
		CHECK_EQ(ksm_get("pages_shared"), pages - (nr - merged));
		CHECK_EQ(ksm_get("pages_sharing"),
			 merged - ksm_get("pages_shared"));
		CHECK_EQ(ksm_get("stable_node_chains"), 1);
		CHECK_EQ(ksm_get("stable_node_dups"), ksm_get("pages_shared"));
		VERIFY(area, nr, 1, 1);
	}
	ksm_set("run", 2);
	CHECK_EQ(ksm_get("stable_node_chains"), 0);
	CHECK_EQ(ksm_get("stable_node_dups"), 0);
	VERIFY(area, nr, 1, 1);
}

/* Nobody is at the limit: no chains. */
static void below_limit(void)
{
	const size_t nr = 64;
	char *area = mergeable_area(nr, 10, 4);

	ksm_set("max_page_sharing", 16);
	ksm_settle();
	CHECK_EQ(count_ksm(area, nr), nr);
	CHECK_EQ(ksm_get("pages_shared"), 4);
	CHECK_EQ(ksm_get("stable_node_chains"), 0);
	CHECK_EQ(ksm_get("stable_node_dups"), 0);
	VERIFY(area, nr, 10, 4);
}

static void several_contents(void)
{
	const size_t nr = 120, distinct = 3;
	char *area = mergeable_area(nr, 20, distinct);

	ksm_set("max_page_sharing", 10);
	ksm_scan(3);
	WAIT_FOR(count_ksm(area, nr) == nr);
	ksm_set("run", 0);
	CHECK_EQ(ksm_get("stable_node_chains"), distinct);
	CHECK_GE(ksm_get("stable_node_dups"), nr / 10);
	CHECK_EQ(ksm_get("stable_node_dups"), ksm_get("pages_shared"));
	count_pages(area, nr, 10);
	VERIFY(area, nr, 20, distinct);
}

/* A later page finds room where a sharer has left. */
static void room_is_found(void)
{
	const size_t nr = 40;
	char *area = mergeable_area(nr, 30, 1), *more;
	size_t pages;

	ksm_set("max_page_sharing", 10);
	ksm_scan(3);
	WAIT_FOR(count_ksm(area, nr) == nr);
	ksm_set("run", 0);
	pages = ksm_get("pages_shared");
	/* Everybody is left with a few. */
	for (size_t i = 0; i < nr; i++)
		if (i % 10 > 5)
			fill_page(area + i * PAGE_SIZE, 1000 + i);
	ksm_settle();
	more = mergeable_area(8, 30, 1);
	ksm_settle();
	CHECK_EQ(count_ksm(more, 8), 8);
	CHECK_GE(pages, ksm_get("pages_shared"));
	for (size_t i = 0; i < 8; i++)
		CHECK_GE(10, page_mapcount(pfn(more + i * PAGE_SIZE)));
	VERIFY(more, 8, 30, 1);
	for (size_t i = 0; i < nr; i++)
		CHECK(page_is(area + i * PAGE_SIZE,
			      i % 10 > 5 ? 1000 + i : 30));
}

/* However many others there are of the same content. */
static void room_is_found_in_any(void)
{
	const size_t nr = 100;
	char *area = mergeable_area(nr, 70, 1);

	ksm_set("max_page_sharing", 2);
	ksm_scan(3);
	WAIT_FOR(count_ksm(area, nr) == nr);
	for (size_t i = 0; i < nr; i += 9) {
		fill_page(area + i * PAGE_SIZE, 70);
		WAIT_FOR(is_ksm(area + i * PAGE_SIZE));
	}
	ksm_set("run", 0);
	CHECK_EQ(ksm_get("pages_shared"), nr / 2);
	CHECK_EQ(ksm_get("pages_sharing"), nr / 2);
	CHECK_EQ(count_pages(area, nr, 2), nr / 2);
	VERIFY(area, nr, 70, 1);
}

/* A fork may go over the limit; what is merged by a scan may not. */
static void forked(void)
{
	const size_t nr = 20;
	char *area = mergeable_area(nr, 40, 1), *more;
	int status;

	ksm_set("max_page_sharing", 10);
	ksm_scan(3);
	WAIT_FOR(count_ksm(area, nr) == nr);
	ksm_set("run", 0);
	if (!fork()) {
		CHECK_EQ(count_ksm(area, nr), nr);
		ksm_settle();
		CHECK_EQ(count_ksm(area, nr), nr);
		more = mergeable_area(6, 40, 1);
		ksm_settle();
		CHECK_EQ(count_ksm(more, 6), 6);
		for (size_t i = 0; i < 6; i++)
			CHECK_GE(10, page_mapcount(pfn(more + i * PAGE_SIZE)));
		fill_area(area, nr, 41, nr);
		VERIFY(area, nr, 41, nr);
		VERIFY(more, 6, 40, 1);
		_exit(0);
	}
	CHECK(wait(&status) > 0 && !status);
	CHECK_EQ(count_ksm(area, nr), nr);
	VERIFY(area, nr, 40, 1);
	ksm_settle();
	count_pages(area, nr, 10);
	VERIFY(area, nr, 40, 1);
}

/* The default, and more mappings than it. */
static void default_limit(void)
{
	const size_t nr = 600;
	char *area = mergeable_area(nr, 50, 1);

	ksm_scan(3);
	WAIT_FOR(count_ksm(area, nr) == nr);
	ksm_set("run", 0);
	CHECK_GE(ksm_get("pages_shared"), 3);
	CHECK_GE(4, ksm_get("pages_shared"));
	for (size_t i = 0; i < nr; i++)
		CHECK_GE(256, page_mapcount(pfn(area + i * PAGE_SIZE)));
	CHECK_EQ(ksm_get("stable_node_chains"), 1);
	VERIFY(area, nr, 50, 1);
	/* A higher one can be set when nothing is shared. */
	ksm_set("run", 2);
	ksm_set("max_page_sharing", 1000);
	ksm_settle();
	CHECK_EQ(ksm_get("pages_shared"), 1);
	CHECK_EQ(page_mapcount(pfn(area)), nr);
	CHECK_EQ(ksm_get("stable_node_chains"), 0);
	VERIFY(area, nr, 50, 1);
}

/* Pages of a chain whose sharers are gone are given up. */
static void chain_shrinks(void)
{
	const size_t nr = 60;
	char *area = mergeable_area(nr, 60, 1);

	ksm_set("stable_node_chains_prune_millisecs", 10);
	ksm_set("max_page_sharing", 5);
	ksm_scan(3);
	WAIT_FOR(count_ksm(area, nr) == nr);
	CHECK_GE(ksm_get("stable_node_dups"), nr / 5);
	CHECK(!munmap(area + 5 * PAGE_SIZE, (nr - 10) * PAGE_SIZE));
	/* Somebody has to come by for stock to look at the chain. */
	WAIT_FOR(({
		char *more = mergeable_area(1, 60, 1);

		usleep(20000);
		CHECK(page_is(more, 60));
		munmap(more, PAGE_SIZE);
		ksm_get("stable_node_dups") <= 10;
	}));
	VERIFY(area, 5, 60, 1);
	VERIFY(area + (nr - 5) * PAGE_SIZE, 5, 60, 1);
}

static const struct ksm_test tests[] = {
	{ "bounded", bounded },
	{ "below_limit", below_limit },
	{ "several_contents", several_contents },
	{ "room_is_found", room_is_found },
	{ "room_is_found_in_any", room_is_found_in_any },
	{ "forked", forked },
	{ "default_limit", default_limit },
	{ "chain_shrinks", chain_shrinks },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
