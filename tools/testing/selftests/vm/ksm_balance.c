// SPDX-License-Identifier: GPL-2.0
/* vm: --nodes 2 --swap 256M */
/* stock-fails: one_user_is_followed */
/*
 * KSM pages follow those who use them: NUMA balancing, and control groups
 * whose nodes are changed.
 */
#include "ksm_lib.h"

#define NR	256UL

static int nodes[2];

/* KSM pages that nobody maps but this area. */
static char *alone(uint64_t seed)
{
	char *second, *area = merged_pairs(NR, seed, &second);

	CHECK(!munmap(second, NR * PAGE_SIZE));
	return area;
}

static void run_on_node(int node)
{
	char path[64], buf[64];
	cpu_set_t cpus;

	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/cpulist",
		 node);
	CHECK(file_read(path, buf, sizeof(buf)) > 0);
	if (buf[0] < '0' || buf[0] > '9')
		ksm_skip("node %d has no processor", node);
	CPU_ZERO(&cpus);
	CPU_SET(atoi(buf), &cpus);
	CHECK(!sched_setaffinity(0, sizeof(cpus), &cpus));
}

/*
 * pitfall 25: a page with one user follows him to the other node, as an
 * anonymous one does; one that several share stays.
 */
/* stock: expected failure: KSM pages are passed over, whoever maps them */
static void one_user_is_followed(void)
{
	char *own, *shared, *second, *plain;
	size_t moved;

	need_nodes(nodes, 2);
	own = alone(1000);
	shared = merged_pairs(NR, 2000, &second);
	plain = map_pages(NR);
	fill_area(plain, NR, 3000, NR);
	move_all(own, NR, nodes[0]);
	move_all(shared, NR, nodes[0]);
	move_all(plain, NR, nodes[0]);

	run_on_node(nodes[1]);
	if (knob_override("/proc/sys/kernel/numa_balancing", "1"))
		ksm_skip("no NUMA balancing");
	moved = 0;
	BECOMES(({
		VERIFY(own, NR, 1000, NR);
		VERIFY(shared, NR, 2000, NR);
		VERIFY(plain, NR, 3000, NR);
		moved = count_on_node(own, NR, nodes[1]);
		moved == NR && count_on_node(plain, NR, nodes[1]) == NR;
	}), 30);
	ksm_note("NUMA balancing: of %zu each, moved %zu with one user, %zu plain, %zu shared",
		 NR, moved, count_on_node(plain, NR, nodes[1]),
		 count_on_node(shared, NR, nodes[1]));
	CHECK_EQ(count_on_node(plain, NR, nodes[1]), NR);
	CHECK_EQ(moved, NR);
	CHECK_EQ(count_on_node(shared, NR, nodes[0]), NR);
	CHECK_EQ(count_ksm(own, NR), NR);
	CHECK_EQ(count_ksm(shared, NR), NR);

	/* A KSM page is nobody's to write to, whatever the fault was for. */
	fill_area(own, NR, 1100, NR);
	CHECK_EQ(count_ksm(own, NR), 0);
	VERIFY(own, NR, 1100, NR);
}

/* A group's nodes are changed: its memory follows, shared or not. */
static void cpuset_mems(void)
{
	char *own, *shared, *second, mems[16];
	unsigned long mask;

	need_nodes(nodes, 2);
	own = alone(4000);
	shared = merged_pairs(NR, 5000, &second);
	memcg_enter();
	if (memcg_control("cpuset"))
		ksm_skip("no cpusets");
	snprintf(mems, sizeof(mems), "%d", nodes[0]);
	CHECK_EQ(memcg_write("cpuset.mems", mems), 0);
	mask = 1UL << nodes[0];
	CHECK(!syscall(SYS_set_mempolicy, KSM_MPOL_BIND, &mask, 64));
	move_all(own, NR, nodes[0]);
	move_all(shared, NR, nodes[0]);

	for (int round = 1; round <= 3; round++) {
		int node = nodes[round % 2];

		snprintf(mems, sizeof(mems), "%d", node);
		CHECK_EQ(memcg_write("cpuset.mems", mems), 0);
		/* Done by a kernel thread. */
		WAIT_FOR(count_on_node(own, NR, node) == NR &&
			 count_on_node(shared, NR, node) == NR);
		CHECK_EQ(count_same(getpid(), shared, getpid(), second, NR),
			 NR);
	}
	ksm_note("cpuset.mems: %zu of %zu moved, three times", 2 * NR, 2 * NR);
	CHECK_EQ(count_ksm(own, NR), NR);
	CHECK_EQ(count_ksm(shared, NR), NR);
	VERIFY(own, NR, 4000, NR);
	VERIFY(shared, NR, 5000, NR);
	VERIFY(second, NR, 5000, NR);
}

static const struct ksm_test tests[] = {
	{ "one_user_is_followed", one_user_is_followed },
	{ "cpuset_mems", cpuset_mems },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
