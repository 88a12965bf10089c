// SPDX-License-Identifier: GPL-2.0
/* vm: --mem 5G */
/* not on a debug kernel: its own memory is in every gigabyte */
/*
 * KSM pages make room for a huge page of a gigabyte.
 */
#include "ksm_lib.h"

#define HUGE		"/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
#define GIGANTIC	"/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages"
#define GIGANTIC_PAGES	262144UL

static size_t count_between(const unsigned long *at, size_t nr,
			    unsigned long first, unsigned long end)
{
	size_t found = 0;

	for (size_t i = 0; i < nr; i++)
		found += at[i] >= first && at[i] < end;
	return found;
}

static char *merged(size_t nr, uint64_t seed, size_t parts, size_t hogs)
{
	char *area = map_pages(nr), value[16];
	size_t part = nr / parts;

	for (size_t p = 0; p < parts; p++) {
		fill_area(area + p * part * PAGE_SIZE, part,
			  seed + p * part / 2, part / 2);
		snprintf(value, sizeof(value), "%zu", (p + 1) * hogs);
		CHECK(!knob_override(HUGE, value));
	}
	CHECK(!madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE));
	ksm_settle();
	CHECK_EQ(count_ksm(area, nr), nr);
	CHECK(!knob_override(HUGE, "0"));
	return area;
}

/*
 * An area that has a part in every gigabyte.  Each page has one equal.
 *
 * What the kernel needs for itself to merge it is not to be there too: that it
 * still has from another one, merged before.
 */
static char *laid_out(size_t nr, size_t parts, uint64_t seed)
{
	char *before = merged(nr, seed + nr, parts, 0), *area;

	/* It keeps its place until then, or that is where the other comes to */
	CHECK(!madvise(before, nr * PAGE_SIZE, MADV_UNMERGEABLE));
	area = merged(nr, seed, parts,
		      free_pages() * 9 / 10 / HUGE_PAGES / parts);
	CHECK(!munmap(before, nr * PAGE_SIZE));
	return area;
}

static void check_laid_out(char *area, size_t nr, size_t parts, uint64_t seed)
{
	CHECK_EQ(count_ksm(area, nr), nr);
	CHECK_EQ(ksm_get("pages_shared"), nr / 2);
	CHECK_EQ(ksm_get("pages_sharing"), nr / 2);
	for (size_t p = 0; p < parts; p++) {
		size_t part = nr / parts;

		VERIFY(area + p * part * PAGE_SIZE, part, seed + p * part / 2,
		       part / 2);
	}
}

/*
 * Which gigabyte it is does not depend on us, nor whether the kernel has put
 * something of its own there: mappings that had to go from a whole one.
 */
static size_t make_room(size_t nr, size_t parts, uint64_t seed)
{
	char *area = laid_out(nr, parts, seed);
	unsigned long *at = pfns(area, nr), *now;
	size_t asked = 0, moved = 0, there = 0;

	CHECK(!knob_override(GIGANTIC, "1"));
	now = pfns(area, nr);
	for (unsigned long gb = 0; gb < 64; gb++) {
		unsigned long first = gb * GIGANTIC_PAGES;
		size_t before, after;

		before = count_between(at, nr, first, first + GIGANTIC_PAGES);
		after = count_between(now, nr, first, first + GIGANTIC_PAGES);
		if (before && !after)
			asked += before;
	}
	for (size_t i = 0; i < nr; i++) {
		moved += now[i] && now[i] != at[i];
		there += !!now[i];
	}
	ksm_note("gigantic page: %ld, %zu of %zu mappings moved out of its way",
		 file_long(GIGANTIC), moved, asked);
	CHECK_EQ(there, nr);
	CHECK_GE(moved, asked);
	check_laid_out(area, nr, parts, seed);
	/* Emptied in vain, if somebody had a page of it just then */
	if (file_long(GIGANTIC) != 1)
		asked = 0;
	CHECK(!knob_override(GIGANTIC, "0"));
	CHECK(!munmap(area, nr * PAGE_SIZE));
	ksm_set("run", 2);
	free(at);
	free(now);
	return asked;
}

static void gigantic_page(void)
{
	const size_t nr = 8192, parts = 8;

	if (access(GIGANTIC, W_OK))
		ksm_skip("no pages of this size");
	if (free_pages() < 4 * GIGANTIC_PAGES)
		ksm_skip("too little memory");
	/* Merged where it is, or it lies where there is room then */
	ksm_merge_in_place();
	for (int tries = 0; tries < 8; tries++)
		if (make_room(nr, parts, 1000 + tries * nr) >= nr / 20)
			return;
	FAIL("no gigabyte could be had where KSM pages were");
}

static const struct ksm_test tests[] = {
	{ "gigantic_page", gigantic_page },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
