// SPDX-License-Identifier: GPL-2.0
/* vm: --mem 512M --append cma=64M */
/* stock-fails: while_scanned */
/*
 * KSM pages make room in the memory that CMA has lent out.
 */
#include "ksm_lib.h"

#define CMA		"/sys/kernel/debug/cma/reserved/"
#define HELD		"/sys/kernel/debug/ksm/windows/get_held"
#define LEFT		28672		/* pages; more than half of them are CMA's */

struct cma {
	unsigned long first, end;
	long count;		/* pages that are lent out or free */
};

/* Leaves so little memory that CMA's is lent to movable pages. */
static struct cma lent_out(void)
{
	struct cma cma;

	if (access(CMA "alloc", W_OK))
		ksm_skip("no CMA: boot with cma=64M");
	cma.first = file_long(CMA "base_pfn");
	cma.end = cma.first + file_long(CMA "count");
	cma.count = file_long(CMA "count") - file_long(CMA "used");
	leave_free(LEFT);
	return cma;
}

static bool in_the_way(const struct cma *cma, unsigned long pfn)
{
	return pfn >= cma->first && pfn < cma->end;
}

static size_t nr_in_the_way(const struct cma *cma, char *area, size_t nr)
{
	unsigned long *at = pfns(area, nr);
	size_t found = 0;

	for (size_t i = 0; i < nr; i++)
		found += in_the_way(cma, at[i]);
	free(at);
	return found;
}

/*
 * Pairs of pages, of which both halves are to some part in CMA's memory.  Frames
 * that the last test has left may have come free only now, and are taken first:
 * an area that got those stays, and the next one is looked at.
 */
static char *pairs_in_the_way(const struct cma *cma, size_t nr)
{
	char *area;

	do {
		area = map_pages(nr);
		fill_area(area, nr, 1000, nr / 2);
	} while (nr_in_the_way(cma, area, nr / 2) < nr / 20 ||
		 nr_in_the_way(cma, area + nr / 2 * PAGE_SIZE, nr / 2) < nr / 20);
	return area;
}

/* All of it is wanted at once. */
static void take_back(const struct cma *cma)
{
	CHECK_EQ(file_print(CMA "alloc", "%ld", cma->count), 0);
}

static void give_back(const struct cma *cma)
{
	CHECK_EQ(file_print(CMA "free", "%ld", cma->count), 0);
}

static void make_room(bool scanned)
{
	const size_t nr = 8192;
	size_t asked = 0, moved = 0, left = 0;
	struct cma cma = lent_out();
	unsigned long *at, *now;
	char *area;

	/* Pages that were merged where they are: some of them are in its way */
	ksm_merge_in_place();
	area = pairs_in_the_way(&cma, nr);
	CHECK(!madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE));
	ksm_settle();
	CHECK_EQ(count_ksm(area, nr), nr);
	if (scanned) {
		/* Each pass looks what has become of all of KSM's pages. */
		ksm_set("stable_node_chains_prune_millisecs", 0);
		ksm_set("pages_to_scan", 100000);
		/* Whoever holds one, with CONFIG_KSM_DEBUG, does so for long. */
		knob_override(HELD, "1000");
		ksm_set("run", 1);
		usleep(50000);
	}
	at = pfns(area, nr);
	take_back(&cma);
	now = pfns(area, nr);
	give_back(&cma);
	ksm_set("run", 0);
	for (size_t i = 0; i < nr; i++) {
		bool was = in_the_way(&cma, at[i]);

		asked += was;
		moved += was && now[i] && now[i] != at[i];
		left += in_the_way(&cma, now[i]);
	}
	ksm_note("CMA: %zu of %zu mappings moved out of its way", moved, asked);
	CHECK_GE(asked, nr / 20);
	CHECK_EQ(moved, asked);
	CHECK_EQ(left, 0);
	CHECK_EQ(count_ksm(area, nr), nr);
	CHECK_EQ(ksm_get("pages_shared"), nr / 2);
	CHECK_EQ(ksm_get("pages_sharing"), nr / 2);
	VERIFY(area, nr, 1000, nr / 2);
	free(at);
	free(now);
}

static void at_rest(void)
{
	make_room(false);
}

/*
 * An anonymous page with a reference too many looks pinned, and is passed over:
 * ksmd at full speed needs none to a page that is merged already.
 */
/* stock: expected failure: takes one to every page it looks at */
static void while_scanned(void)
{
	make_room(true);
}

/*
 * The frames that a merge has left are not free for a second or two, but they are
 * in nobody's way.
 */
static void frames_just_left(void)
{
	const size_t nr = 8192;
	struct cma cma = lent_out();
	char *area = pairs_in_the_way(&cma, nr);

	CHECK(!madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE));
	ksm_settle();
	take_back(&cma);
	give_back(&cma);
	CHECK_EQ(count_ksm(area, nr), nr);
	VERIFY(area, nr, 1000, nr / 2);
}

static const struct ksm_test tests[] = {
	{ "at_rest", at_rest },
	{ "while_scanned", while_scanned },
	{ "frames_just_left", frames_just_left },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
