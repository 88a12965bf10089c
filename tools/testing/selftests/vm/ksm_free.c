// SPDX-License-Identifier: GPL-2.0
/* vm: --nodes 2 --swap 256M */
/* stock-fails: joined_after_free */
/*
 * MADV_FREE on KSM pages: what one gives up, others go on needing.
 */
#include "ksm_lib.h"

#define NR	128

/* Memory pressure may take what was given up, and nothing else. */
static void check_after_pressure(char *freed, char *kept, uint64_t seed)
{
	CHECK(memcg_swap_out(kept, NR));
	VERIFY(kept, NR, seed, NR);
	for (size_t i = 0; i < NR; i++)
		CHECK(page_is(freed + i * PAGE_SIZE, seed + i) ||
		      !read_byte(freed + i * PAGE_SIZE));
}

/*
 * pitfall 6: the last one gives the page up, and before it is gone another is merged
 * into it.
 *
 * stock: expected failure: the page stays clean and lazily freed, and reclaim
 * drops it from under the one who has joined
 */
static void joined_after_free(void)
{
	char *kept, *freed;

	memcg_enter();
	freed = merged_pairs(NR, 2000, &kept);
	fill_area(kept, NR, 7000, NR);
	CHECK(!madvise(freed, NR * PAGE_SIZE, MADV_FREE));
	fill_area(kept, NR, 2000, NR);
	ksm_settle();
	CHECK_EQ(count_ksm(kept, NR), NR);
	CHECK_EQ(pfn(kept), pfn(freed));
	check_after_pressure(freed, kept, 2000);
}

static const struct ksm_test tests[] = {
	{ "joined_after_free", joined_after_free },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
