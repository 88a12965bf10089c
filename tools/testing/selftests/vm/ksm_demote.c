// SPDX-License-Identifier: GPL-2.0
/* vm: --nodes 2 --cpus 1 */
/*
 * Reclaim moves KSM pages to slower memory instead of throwing them out.
 */
#include <glob.h>
#include "ksm_lib.h"

#define NR	512UL

static int nodes[2];

/* Is there memory of several tiers? */
static bool tiered(void)
{
	glob_t tiers = {};
	bool several;

	glob("/sys/devices/virtual/memory_tiering/memory_tier[0-9]*", 0, NULL,
	     &tiers);
	several = tiers.gl_pathc >= 2;
	globfree(&tiers);
	return several;
}

/* By whoever reclaims memory. */
static long demotions(void)
{
	return vm_event("pgdemote_direct") + vm_event("pgdemote_kswapd");
}

static void demoted(void)
{
	char *area, *second;
	long before;

	need_nodes(nodes, 2);
	if (!tiered())
		ksm_skip("all memory is of one tier");
	memcg_enter();
	area = merged_pairs(NR, 1000, &second);
	move_all(area, NR, nodes[0]);
	CHECK(!knob_override("/sys/kernel/mm/numa/demotion_enabled", "true"));
	before = demotions();
	/* What was used lately gets a second chance. */
	WAIT_FOR((memcg_stat("anon"), memcg_write("memory.reclaim", "512K"),
		  count_on_node(area, NR, nodes[1]) == NR));
	ksm_note("reclaim: %zu of %zu moved to the slower node, %ld pages in all",
		 count_on_node(area, NR, nodes[1]), NR,
		 demotions() - before);
	/* Each processor keeps some that it has not added yet. */
	CHECK_GE(demotions() - before, NR - 128);
	CHECK_EQ(count_ksm(area, NR), NR);
	CHECK_EQ(count_same(getpid(), area, getpid(), second, NR), NR);
	VERIFY(area, NR, 1000, NR);
	VERIFY(second, NR, 1000, NR);

	/* Found there, and moved back. */
	second = mergeable_area(NR, 1000, NR);
	ksm_settle();
	CHECK_EQ(count_same(getpid(), area, getpid(), second, NR), NR);
	move_all(area, NR, nodes[0]);
	VERIFY(area, NR, 1000, NR);
}

static const struct ksm_test tests[] = {
	{ "demoted", demoted },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
