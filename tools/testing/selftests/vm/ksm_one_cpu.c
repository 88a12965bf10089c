// SPDX-License-Identifier: GPL-2.0
/* vm: --nodes 2 --cpus 1 */
/*
 * A single processor, which ksmd has to leave to those it works for.
 */
#include "ksm_lib.h"

#define NR	512

/*
 * Without a sleep between them ksmd goes from one scan to the next; but not
 * before whoever waits to change a knob has had his turn.
 */
static void knobs_get_through(void)
{
	char *area = mergeable_area(NR, 100, NR);
	double end = ksm_now() + 3, start, longest = 0;
	int rounds = 0;

	ksm_set("sleep_millisecs", 0);
	ksm_set("pages_to_scan", 10000);
	for (; ksm_now() < end; rounds++) {
		start = ksm_now();
		ksm_set("run", rounds % 2);
		longest = ksm_now() - start > longest ? ksm_now() - start :
							longest;
		usleep(1000 * (rounds % 7));
	}
	ksm_note("%d changes of run, the longest took %.3f s", rounds, longest);
	CHECK_GE(rounds, 10);
	VERIFY(area, NR, 100, NR);
}

/*
 * pitfall 5: ksmd, which preempts everybody here, finds pages whose count
 * migration has frozen when it was preempted, and waits for the count to
 * change.  It has to sleep meanwhile, or it waits for ever.
 */
static void waiting_lets_others_run(void)
{
	char *area = mergeable_area(NR, 200, NR / 4);
	struct sched_param first = { .sched_priority = 1 };
	struct sched_param none = { .sched_priority = 0 };
	pid_t ksmd = pid_of("ksmd");
	struct mover m;
	int nodes[2];
	long scans;

	need_nodes(nodes, 2);
	ksm_scan(4);
	mover_start(&m, area, NR, nodes);
	CHECK(!sched_setscheduler(ksmd, SCHED_FIFO, &first));
	scans = ksm_get("full_scans");
	/* Sharers come, so that KSM pages are looked up, and go. */
	for (double end = ksm_now() + 3; ksm_now() < end;) {
		char *more = mergeable_area(NR / 4, 200, NR / 4);

		usleep(20000);
		VERIFY(more, NR / 4, 200, NR / 4);
		CHECK(!munmap(more, NR / 4 * PAGE_SIZE));
	}
	scans = ksm_get("full_scans") - scans;
	mover_stop(&m);
	CHECK(!sched_setscheduler(ksmd, SCHED_OTHER, &none));
	ksm_note("%ld scans, %ld moves of %ld pages", scans, m.calls, m.moved);
	/* That they go on is the point: on a slow kernel it is one move. */
	CHECK_GE(scans, 1);
	CHECK_GE(m.moved, NR / 2);
	ksm_settle();
	CHECK_EQ(ksm_get("pages_shared"), NR / 4);
	CHECK_EQ(count_ksm(area, NR), NR);
	VERIFY(area, NR, 200, NR / 4);
}

static const struct ksm_test tests[] = {
	{ "knobs_get_through", knobs_get_through },
	{ "waiting_lets_others_run", waiting_lets_others_run },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
