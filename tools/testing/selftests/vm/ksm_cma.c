// SPDX-License-Identifier: GPL-2.0
/* vm: --mem 512M --append cma=64M --timeout 300 */
/* stock-fails: while_scanned */
/*
 * KSM pages make room in the memory that CMA has lent out.
 */
#include "ksm_lib.h"

#define CMA		"/sys/kernel/debug/cma/reserved/"
#define HELD		"/sys/kernel/debug/ksm/windows/get_held"
#define LEFT		28672		/* pages; more than half of them are CMA's */

/* CMA's memory is lent to movable pages when other memory becomes scarce. */
static void make_room(bool scanned)
{
	const size_t nr = 8192;
	size_t asked = 0, moved = 0, left = 0;
	unsigned long first, end, *at, *now;
	long count;
	char *area;

	if (access(CMA "alloc", W_OK))
		ksm_skip("no CMA: boot with cma=64M");
	first = file_long(CMA "base_pfn");
	end = first + file_long(CMA "count");
	count = file_long(CMA "count") - file_long(CMA "used");
	leave_free(LEFT);
	/* Pages that were merged where they are: some of them are in its way */
	ksm_merge_in_place();
	area = mergeable_area(nr, 1000, nr / 2);
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
	CHECK_EQ(file_print(CMA "alloc", "%ld", count), 0);
	now = pfns(area, nr);
	CHECK_EQ(file_print(CMA "free", "%ld", count), 0);
	ksm_set("run", 0);
	for (size_t i = 0; i < nr; i++) {
		bool in_the_way = at[i] >= first && at[i] < end;

		asked += in_the_way;
		moved += in_the_way && now[i] && now[i] != at[i];
		left += now[i] >= first && now[i] < end;
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

static const struct ksm_test tests[] = {
	{ "at_rest", at_rest },
	{ "while_scanned", while_scanned },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
