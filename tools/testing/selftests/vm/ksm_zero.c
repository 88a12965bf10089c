// SPDX-License-Identifier: GPL-2.0
/* stock-fails: areas_not_forked */
/*
 * use_zero_pages: empty pages become the zero page, and are counted for as
 * long as they are that.
 */
#include "ksm_lib.h"

#define NR	64

/* What there was before this test; a kernel that miscounts once, keeps it. */
static long before = -1;

/* Written to, with nothing: pages of their own, all zero. */
static char *empty_pages(size_t nr)
{
	char *area = map_pages(nr);

	if (before < 0)
		before = ksm_get("ksm_zero_pages");
	for (size_t i = 0; i < nr; i++)
		write_byte(area + i * PAGE_SIZE, 0);
	CHECK(!madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE));
	return area;
}

static char *zeroed_area(void)
{
	char *area;

	ksm_set("use_zero_pages", 1);
	area = empty_pages(NR);
	ksm_settle();
	return area;
}

static bool on_zero_page(const char *addr)
{
	unsigned long at = pfn(addr);

	return at && page_flags(at) & BIT_ULL(KPF_ZERO_PAGE);
}

static size_t count_zero(const char *area, size_t nr)
{
	size_t found = 0;

	for (size_t i = 0; i < nr; i++)
		found += on_zero_page(area + i * PAGE_SIZE);
	return found;
}

static void check_empty(const char *area, size_t nr)
{
	for (size_t i = 0; i < nr * PAGE_SIZE; i++)
		if (area[i])
			FAIL("byte %zu is %d", i, area[i]);
}

static long all_zero_pages(void)
{
	return ksm_get("ksm_zero_pages") - before;
}

/* Of this process, which is the only one. */
static void check_count(long expect)
{
	CHECK_EQ(all_zero_pages(), expect);
	CHECK_EQ(proc_ksm(getpid(), "ksm_zero_pages"), expect);
}

static void become_zero_page(void)
{
	char *area = zeroed_area();

	check_count(NR);
	CHECK_EQ(count_zero(area, NR), NR);
	CHECK_EQ(count_ksm(area, NR), 0);
	CHECK_EQ(ksm_get("pages_shared"), 0);
	CHECK_EQ(ksm_get("pages_sharing"), 0);
	CHECK_EQ(proc_merging(getpid()), 0);
	CHECK_GE(ksm_get("general_profit"), NR / 2 * PAGE_SIZE);
	CHECK_GE((NR + before) * PAGE_SIZE, ksm_get("general_profit"));
	CHECK_GE(proc_ksm(getpid(), "ksm_process_profit"), NR / 2 * PAGE_SIZE);
	check_empty(area, NR);
	/* Looking does not change anything. */
	check_count(NR);
}

static void off_by_default(void)
{
	char *area = empty_pages(NR), *more;

	ksm_settle();
	check_count(0);
	CHECK_EQ(count_zero(area, NR), 0);
	CHECK_EQ(count_ksm(area, NR), NR);
	CHECK_EQ(ksm_get("pages_shared"), 1);
	CHECK_EQ(ksm_get("pages_sharing"), NR - 1);

	/* The knob is for what is merged from now on. */
	ksm_set("use_zero_pages", 1);
	more = empty_pages(NR);
	ksm_settle();
	check_count(NR);
	CHECK_EQ(count_zero(more, NR), NR);
	CHECK_EQ(count_ksm(area, NR), NR);
	ksm_set("use_zero_pages", 0);
	ksm_settle();
	check_count(NR);
	CHECK_EQ(count_zero(more, NR), NR);
	check_empty(area, NR);
	check_empty(more, NR);
}

/* Pages with one byte set are not empty, wherever it is. */
static void almost_empty(void)
{
	char *area = map_pages(NR);

	before = ksm_get("ksm_zero_pages");
	ksm_set("use_zero_pages", 1);
	for (size_t i = 0; i < NR; i++)
		area[i * PAGE_SIZE + i * (PAGE_SIZE - 1) / (NR - 1)] = i + 1;
	CHECK(!madvise(area, NR * PAGE_SIZE, MADV_MERGEABLE));
	ksm_settle();
	check_count(0);
	for (size_t i = 0; i < NR; i++)
		for (size_t j = 0; j < PAGE_SIZE; j++)
			CHECK_EQ(area[i * PAGE_SIZE + j],
				 j == i * (PAGE_SIZE - 1) / (NR - 1) ? i + 1 :
								       0);
}

static void written_to(void)
{
	char *area = zeroed_area();

	for (size_t i = 0; i < NR; i += 2) {
		fill_page(area + i * PAGE_SIZE, i);
		check_count(NR - i / 2 - 1);
	}
	for (size_t i = 0; i < NR; i++) {
		if (i % 2 == 0)
			CHECK(page_is(area + i * PAGE_SIZE, i));
		else
			check_empty(area + i * PAGE_SIZE, 1);
	}
	/* Empty once more. */
	for (size_t i = 0; i < NR; i += 2)
		memset(area + i * PAGE_SIZE, 0, PAGE_SIZE);
	ksm_settle();
	check_count(NR);
	check_empty(area, NR);
}

static void given_up(void)
{
	char *area = zeroed_area();

	CHECK(!madvise(area, 8 * PAGE_SIZE, MADV_DONTNEED));
	check_count(NR - 8);
	check_empty(area, NR);		/* now an ordinary zero page */
	check_count(NR - 8);
	CHECK(!munmap(area + 8 * PAGE_SIZE, 8 * PAGE_SIZE));
	check_count(NR - 16);
	CHECK(mmap(area + 16 * PAGE_SIZE, 8 * PAGE_SIZE,
		   PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
	      area + 16 * PAGE_SIZE);
	check_count(NR - 24);
	CHECK(!mprotect(area + 24 * PAGE_SIZE, 8 * PAGE_SIZE, PROT_READ));
	CHECK(!mprotect(area + 32 * PAGE_SIZE, 8 * PAGE_SIZE, PROT_NONE));
	check_count(NR - 24);
	CHECK(!mprotect(area + 24 * PAGE_SIZE, 16 * PAGE_SIZE,
			PROT_READ | PROT_WRITE));
	check_count(NR - 24);
	check_empty(area + 24 * PAGE_SIZE, NR - 24);
	CHECK(!munmap(area, NR * PAGE_SIZE));
	check_count(0);
}

/* Whether mremap() unmerges or not, the count is that of the pages. */
static void moved(void)
{
	char *area = zeroed_area(), *to;

	to = mmap(NULL, NR * PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
		  -1, 0);
	CHECK(to != MAP_FAILED);
	CHECK(mremap(area, NR * PAGE_SIZE, NR * PAGE_SIZE,
		     MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
	check_count(count_zero(to, NR));
	check_empty(to, NR);
	ksm_settle();
	check_count(NR);
	CHECK_EQ(count_zero(to, NR), NR);
	CHECK(!munmap(to, NR * PAGE_SIZE));
	check_count(0);
}

/* pitfall 22: a child has the zero pages it inherits, and takes them along */
static void forked(void)
{
	char *area = zeroed_area();
	int status;

	if (!fork()) {
		CHECK_EQ(proc_ksm(getpid(), "ksm_zero_pages"), NR);
		CHECK_EQ(all_zero_pages(), 2 * NR);
		CHECK_EQ(count_zero(area, NR), NR);
		fill_area(area, NR / 2, 1, NR);
		CHECK_EQ(proc_ksm(getpid(), "ksm_zero_pages"), NR / 2);
		CHECK_EQ(all_zero_pages(), NR + NR / 2);
		check_empty(area + NR / 2 * PAGE_SIZE, NR / 2);
		CHECK(!munmap(area + NR / 2 * PAGE_SIZE, PAGE_SIZE));
		CHECK_EQ(all_zero_pages(), NR + NR / 2 - 1);
		_exit(0);
	}
	CHECK(wait(&status) > 0 && !status);
	check_count(NR);
	check_empty(area, NR);

	/* And one that is killed. */
	pid_t pid = fork();

	if (!pid) {
		pause();
		_exit(0);
	}
	CHECK_EQ(all_zero_pages(), 2 * NR);
	kill(pid, SIGKILL);
	CHECK(waitpid(pid, NULL, 0) == pid);
	WAIT_FOR(all_zero_pages() == NR);
	check_count(NR);
}

/* pitfall 22: but not those it does not inherit */
/* stock: expected failure: the child starts with the parent's count */
static void areas_not_forked(void)
{
	char *area = zeroed_area(), *wiped = empty_pages(NR);
	int status;

	CHECK(!madvise(area, NR * PAGE_SIZE, MADV_DONTFORK));
	CHECK(!madvise(wiped, NR * PAGE_SIZE, MADV_WIPEONFORK));
	ksm_settle();
	check_count(2 * NR);
	if (!fork()) {
		CHECK_EQ(proc_ksm(getpid(), "ksm_zero_pages"), 0);
		CHECK_EQ(all_zero_pages(), 2 * NR);
		_exit(0);
	}
	CHECK(wait(&status) > 0);
	check_count(2 * NR);
	CHECK(!status);
}

static void unmerged(void)
{
	char *area = zeroed_area();

	CHECK(!madvise(area, NR / 2 * PAGE_SIZE, MADV_UNMERGEABLE));
	check_count(NR / 2);
	CHECK_EQ(count_zero(area, NR / 2), 0);
	check_empty(area, NR);
	ksm_set("run", 2);
	check_count(0);
	CHECK_EQ(count_zero(area, NR), 0);
	check_empty(area, NR);
	ksm_settle();
	check_count(NR / 2);
	check_empty(area, NR);
}

/* A whole process turns merging off. */
static void turned_off(void)
{
	char *area;

	ksm_set("use_zero_pages", 1);
	CHECK(!prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0));
	area = empty_pages(NR);
	ksm_settle();
	CHECK_EQ(count_zero(area, NR), NR);
	CHECK_GE(all_zero_pages(), NR);
	CHECK(!prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0));
	check_count(0);
	CHECK_EQ(count_zero(area, NR), 0);
	check_empty(area, NR);
}

/* Collapsed to a huge page, the zero pages are gone. */
static void collapsed_away(void)
{
	char *area = map_huge(1);
	long count;

	before = ksm_get("ksm_zero_pages");
	CHECK(!madvise(area, HUGE_PAGES * PAGE_SIZE, MADV_DONTNEED));
	CHECK(!madvise(area, HUGE_PAGES * PAGE_SIZE, MADV_NOHUGEPAGE));
	for (size_t i = 0; i < HUGE_PAGES; i++)
		if (i < NR)
			write_byte(area + i * PAGE_SIZE, 0);
		else
			fill_page(area + i * PAGE_SIZE, i);
	ksm_set("use_zero_pages", 1);
	CHECK(!madvise(area, HUGE_PAGES * PAGE_SIZE, MADV_MERGEABLE));
	ksm_settle();
	check_count(NR);
	CHECK(!madvise(area, HUGE_PAGES * PAGE_SIZE, MADV_HUGEPAGE));
	if (madvise(area, HUGE_PAGES * PAGE_SIZE, MADV_COLLAPSE))
		ksm_skip("not collapsed: errno %d", errno);
	count = count_zero(area, HUGE_PAGES);
	CHECK_EQ(count, huge_kb(area) ? 0 : NR);
	check_count(count);
	check_empty(area, NR);
	for (size_t i = NR; i < HUGE_PAGES; i++)
		CHECK(page_is(area + i * PAGE_SIZE, i));
}

static const struct ksm_test tests[] = {
	{ "become_zero_page", become_zero_page },
	{ "off_by_default", off_by_default },
	{ "almost_empty", almost_empty },
	{ "written_to", written_to },
	{ "given_up", given_up },
	{ "moved", moved },
	{ "forked", forked },
	{ "areas_not_forked", areas_not_forked },
	{ "unmerged", unmerged },
	{ "turned_off", turned_off },
	{ "collapsed_away", collapsed_away },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
