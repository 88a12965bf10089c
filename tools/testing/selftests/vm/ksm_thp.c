// SPDX-License-Identifier: GPL-2.0
/*
 * Huge pages and large folios: split where something matches, and only there.
 */
#include <sys/uio.h>
#include "ksm_lib.h"

#define THP		"/sys/kernel/mm/transparent_hugepage/"
#define HUGE_KB		(HUGE_SIZE / 1024)

static char *huge_area(size_t nr_huge, uint64_t seed, size_t distinct)
{
	char *area = map_huge(nr_huge);

	/* khugepaged is not to put together again what is taken apart */
	CHECK(!madvise(area, nr_huge * HUGE_SIZE, MADV_NOHUGEPAGE));
	fill_area(area, nr_huge * HUGE_PAGES, seed, distinct);
	CHECK(!madvise(area, nr_huge * HUGE_SIZE, MADV_MERGEABLE));
	CHECK_EQ(huge_kb(area), nr_huge * HUGE_KB);
	return area;
}

static void unique_stays_huge(void)
{
	const size_t nr = 2 * HUGE_PAGES;
	char *area = huge_area(2, 1000, nr);

	ksm_scan(6);
	ksm_set("run", 0);
	CHECK_EQ(huge_kb(area), 2 * HUGE_KB);
	CHECK_EQ(ksm_get("pages_shared"), 0);
	CHECK_EQ(ksm_get("pages_unshared"), nr);
	VERIFY(area, nr, 1000, nr);
}

/* pitfall 21: one page in one of three has its like elsewhere */
static void match_splits_one(void)
{
	const size_t nr = 3 * HUGE_PAGES, at = HUGE_PAGES + 77;
	char *area = huge_area(3, 3000, nr), *plain;

	plain = mergeable_area(2, 3000 + at, 1);
	CHECK(!munmap(plain + PAGE_SIZE, PAGE_SIZE));
	ksm_settle();
	CHECK(is_ksm(plain));
	CHECK_EQ(pfn(plain), pfn(area + at * PAGE_SIZE));
	CHECK_EQ(count_ksm(area, nr), 1);
	CHECK_EQ(huge_kb(area), 2 * HUGE_KB);
	CHECK_EQ(ksm_get("pages_shared"), 1);
	CHECK_EQ(ksm_get("pages_sharing"), 1);
	VERIFY(area, nr, 3000, nr);
	CHECK(page_is(plain, 3000 + at));
	fill_page(area + at * PAGE_SIZE, 1);
	CHECK(page_is(plain, 3000 + at));
}

static void equal_inside(void)
{
	char *area = huge_area(2, 5000, 2 * HUGE_PAGES);

	/* The second one is left alone, the first has two pages alike. */
	fill_page(area + 300 * PAGE_SIZE, 5005);
	ksm_scan(3);
	WAIT_FOR(is_ksm(area + 5 * PAGE_SIZE) &&
		 is_ksm(area + 300 * PAGE_SIZE));
	ksm_set("run", 0);
	CHECK_EQ(pfn(area + 5 * PAGE_SIZE), pfn(area + 300 * PAGE_SIZE));
	CHECK_EQ(count_ksm(area, 2 * HUGE_PAGES), 2);
	CHECK_EQ(huge_kb(area), HUGE_KB);
	for (size_t i = 0; i < 2 * HUGE_PAGES; i++)
		CHECK(page_is(area + i * PAGE_SIZE,
			      5000 + (i == 300 ? 5 : i)));
}

static void equal_throughout(void)
{
	const size_t nr = 2 * HUGE_PAGES;
	char *area = huge_area(2, 7000, HUGE_PAGES);

	ksm_scan(3);
	WAIT_FOR(count_ksm(area, nr) == nr);
	ksm_set("run", 0);
	CHECK_EQ(huge_kb(area), 0);
	CHECK_EQ(ksm_get("pages_shared"), HUGE_PAGES);
	CHECK_EQ(ksm_get("pages_sharing"), HUGE_PAGES);
	VERIFY(area, nr, 7000, HUGE_PAGES);
	ksm_set("run", 2);
	CHECK_EQ(count_ksm(area, nr), 0);
	VERIFY(area, nr, 7000, HUGE_PAGES);
}

static size_t count_zero(const char *area, size_t nr)
{
	size_t found = 0;

	for (size_t i = 0; i < nr; i++) {
		unsigned long at = pfn(area + i * PAGE_SIZE);

		found += at && page_flags(at) & BIT_ULL(KPF_ZERO_PAGE);
	}
	return found;
}

/*
 * A huge page of nothing becomes zero pages.  Some of them are the doing of
 * the split, and not counted as KSM's.
 */
static void empty_huge_page(void)
{
	char *area = map_huge(1);

	memset(area, 0, HUGE_SIZE);
	ksm_set("use_zero_pages", 1);
	CHECK(!madvise(area, HUGE_SIZE, MADV_MERGEABLE));
	ksm_scan(3);
	WAIT_FOR(count_zero(area, HUGE_PAGES) == HUGE_PAGES);
	ksm_set("run", 0);
	CHECK_EQ(huge_kb(area), 0);
	CHECK_GE(HUGE_PAGES, proc_ksm(getpid(), "ksm_zero_pages"));
	CHECK(all_zero(area, HUGE_PAGES));
	ksm_set("run", 2);
	CHECK_EQ(proc_ksm(getpid(), "ksm_zero_pages"), 0);
	CHECK(all_zero(area, HUGE_PAGES));
}

/* pitfall 21: somebody holds the huge page, it cannot be split, all is well */
static void held_while_split(void)
{
	char *area = huge_area(1, 9000, HUGE_PAGES), *plain;
	char back[PAGE_SIZE];
	struct iovec iov;
	int fds[2];

	CHECK(!pipe(fds));
	iov = (struct iovec) { area + 9 * PAGE_SIZE, PAGE_SIZE };
	CHECK(vmsplice(fds[1], &iov, 1, 0) == PAGE_SIZE);
	plain = mergeable_area(8, 9100, 8);
	ksm_settle();
	/* Nothing of it could be merged, or what could was not this page. */
	CHECK(!is_ksm(area + 9 * PAGE_SIZE));
	VERIFY(area, HUGE_PAGES, 9000, HUGE_PAGES);
	VERIFY(plain, 8, 9100, 8);
	CHECK(read(fds[0], back, PAGE_SIZE) == PAGE_SIZE);
	CHECK(page_is(back, 9009));
	ksm_set("run", 1);
	WAIT_FOR(count_ksm(plain, 8) == 8 &&
		 count_ksm(area + 100 * PAGE_SIZE, 8) == 8);
	VERIFY(area, HUGE_PAGES, 9000, HUGE_PAGES);
	VERIFY(plain, 8, 9100, 8);
}

/* Mapped by pages: a part of the huge page is gone, or protected. */
static void mapped_by_pages(void)
{
	const size_t nr = HUGE_PAGES;
	char *area = huge_area(2, 11000, 2 * nr), *plain;

	CHECK(!munmap(area + 10 * PAGE_SIZE, PAGE_SIZE));
	CHECK(!mprotect(area + (nr + 10) * PAGE_SIZE, PAGE_SIZE, PROT_READ));
	plain = mergeable_area(nr / 2, 11000 + nr, nr / 2);
	ksm_scan(3);
	WAIT_FOR(count_ksm(plain, nr / 2) == nr / 2);
	ksm_settle();
	CHECK_EQ(count_ksm(area + nr * PAGE_SIZE, nr / 2), nr / 2);
	CHECK_EQ(count_ksm(area + nr * PAGE_SIZE, nr), nr / 2);
	VERIFY(plain, nr / 2, 11000 + nr, nr / 2);
	VERIFY(area, 10, 11000, nr);
	VERIFY(area + 11 * PAGE_SIZE, nr - 11, 11011, nr);
	VERIFY(area + nr * PAGE_SIZE, nr, 11000 + nr, nr);
}

/* ---- large folios that are not huge pages ---- */

static bool is_large(const char *addr)
{
	uint64_t flags = page_flags(pfn(addr));

	return flags & (BIT_ULL(KPF_COMPOUND_HEAD) | BIT_ULL(KPF_COMPOUND_TAIL));
}

static void large_folios(void)
{
	static const int sizes[] = { 16, 64, 256 };
	int tried = 0;

	for (size_t s = 0; s < ARRAY_SIZE(sizes); s++) {
		size_t in_folio = sizes[s] * 1024 / PAGE_SIZE;
		char path[128], *area, *plain;
		uint64_t seed = 13000 + s * 1000;

		snprintf(path, sizeof(path), THP "hugepages-%dkB/enabled",
			 sizes[s]);
		if (knob_override(path, "madvise"))
			continue;
		/* One huge page's room, which a huge page cannot have. */
		area = map_huge(1);
		CHECK(!madvise(area, HUGE_SIZE, MADV_DONTNEED));
		CHECK(!munmap(area, PAGE_SIZE));
		area += in_folio * PAGE_SIZE;
		fill_area(area, 2 * in_folio, seed, 2 * in_folio);
		if (!is_large(area) || !is_large(area + in_folio * PAGE_SIZE))
			continue;
		tried++;
		CHECK(!madvise(area, 2 * in_folio * PAGE_SIZE, MADV_MERGEABLE));
		plain = mergeable_area(1, seed + in_folio + 1, 1);
		ksm_settle();
		/* The first keeps its form, the second had to be split. */
		CHECK(is_ksm(plain));
		CHECK_EQ(pfn(plain), pfn(area + (in_folio + 1) * PAGE_SIZE));
		CHECK_EQ(count_ksm(area, 2 * in_folio), 1);
		CHECK(is_large(area));
		VERIFY(area, 2 * in_folio, seed, 2 * in_folio);
		CHECK(page_is(plain, seed + in_folio + 1));
		knob_override(path, "never");
		ksm_set("run", 2);
	}
	if (!tried)
		ksm_skip("no large folios to be had");
}

/* ---- huge pages made of merged memory ---- */

/*
 * Room for a huge page, in small ones, and a second area with the like of the
 * first few.  A page that occurs twice in the range cannot be collapsed.
 */
static char *collapsible(uint64_t seed, size_t merged, char **other)
{
	char *area = map_huge(1);

	CHECK(!madvise(area, HUGE_SIZE, MADV_DONTNEED));
	CHECK(!madvise(area, HUGE_SIZE, MADV_NOHUGEPAGE));
	fill_area(area, HUGE_PAGES, seed, HUGE_PAGES);
	CHECK(!madvise(area, HUGE_SIZE, MADV_MERGEABLE));
	*other = mergeable_area(merged, seed, merged);
	return area;
}

/* pitfall 21 */
static void collapsed_on_demand(void)
{
	const size_t merged = 100;
	char *other, *area = collapsible(20000, merged, &other);

	ksm_settle();
	CHECK_EQ(count_ksm(area, HUGE_PAGES), merged);
	CHECK(!madvise(area, HUGE_SIZE, MADV_HUGEPAGE));
	CHECK(!madvise(area, HUGE_SIZE, MADV_COLLAPSE));
	CHECK(!madvise(area, HUGE_SIZE, MADV_NOHUGEPAGE));
	CHECK_EQ(huge_kb(area), HUGE_KB);
	CHECK_EQ(count_ksm(area, HUGE_PAGES), 0);
	CHECK_EQ(count_ksm(other, merged), merged);
	VERIFY(area, HUGE_PAGES, 20000, HUGE_PAGES);
	VERIFY(other, merged, 20000, merged);

	/* ksmd finds the pages again, and takes the huge page apart. */
	ksm_scan(3);
	WAIT_FOR(count_ksm(area, HUGE_PAGES) == merged);
	ksm_set("run", 0);
	CHECK_EQ(ksm_get("pages_shared"), merged);
	CHECK_EQ(ksm_get("pages_sharing"), merged);
	VERIFY(area, HUGE_PAGES, 20000, HUGE_PAGES);
	VERIFY(other, merged, 20000, merged);
}

/* pitfall 21: khugepaged puts together what ksmd takes apart */
static void against_khugepaged(void)
{
	const size_t merged = 20;
	char *area, *other;
	long before;
	double end;

	if (knob_override(THP "khugepaged/scan_sleep_millisecs", "1") ||
	    knob_override(THP "khugepaged/alloc_sleep_millisecs", "1") ||
	    knob_override(THP "khugepaged/pages_to_scan", "4096"))
		ksm_skip("no khugepaged");
	area = collapsible(30000, merged, &other);
	CHECK(!madvise(area, HUGE_SIZE, MADV_HUGEPAGE));
	before = vm_event("thp_collapse_alloc");
	ksm_scan(2);
	WAIT_FOR(vm_event("thp_collapse_alloc") > before);
	end = ksm_now() + 3;
	for (size_t round = 0; ksm_now() < end; round++) {
		VERIFY(area, HUGE_PAGES, 30000, HUGE_PAGES);
		VERIFY(other, merged, 30000, merged);
		fill_page(area + round % merged * PAGE_SIZE,
			  30000 + round % merged);
	}
	ksm_note("%ld collapses, %ld splits",
		 vm_event("thp_collapse_alloc") - before,
		 vm_event("thp_split_page"));
	CHECK(!madvise(area, HUGE_SIZE, MADV_NOHUGEPAGE));
	WAIT_FOR(count_ksm(area, HUGE_PAGES) == merged);
	VERIFY(area, HUGE_PAGES, 30000, HUGE_PAGES);
	VERIFY(other, merged, 30000, merged);
}

static const struct ksm_test tests[] = {
	{ "unique_stays_huge", unique_stays_huge },
	{ "match_splits_one", match_splits_one },
	{ "equal_inside", equal_inside },
	{ "equal_throughout", equal_throughout },
	{ "empty_huge_page", empty_huge_page },
	{ "held_while_split", held_while_split },
	{ "mapped_by_pages", mapped_by_pages },
	{ "large_folios", large_folios },
	{ "collapsed_on_demand", collapsed_on_demand },
	{ "against_khugepaged", against_khugepaged },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
