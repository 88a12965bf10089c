// SPDX-License-Identifier: GPL-2.0
/* vm: --cpus 1 --swap 256M */
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
	double end = ksm_now() + 3 * ksm_slow(), start, longest = 0;
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

static void be_reclaimed(struct peer *me, void *arg)
{
	long rounds = 0, swapped = 0;
	char *area;

	memcg_enter();
	area = mergeable_area(NR, 200, NR / 2);
	peer_send(me, 0);
	peer_recv(me);
	for (double end = ksm_now() + 3;
	     ksm_goes_on(end, swapped >= (long)NR); rounds++) {
		memcg_reclaim("1M");
		swapped += count_swapped(area, NR);
		VERIFY(area, NR, 200, NR / 2);
	}
	ksm_note("%ld rounds, %ld mappings swapped out", rounds, swapped);
	peer_send(me, swapped);
}

/*
 * pitfall 5: reclaim keeps the pages that it is about to free, their count at
 * zero, until it is through with some more, and lets others run in between.
 * One of these is ksmd, which preempts everybody here, looks such a page up,
 * and waits for the count to change: it has to sleep, or it waits for ever.
 */
static void waiting_lets_others_run(void)
{
	struct sched_param first = { .sched_priority = 1 };
	struct sched_param none = { .sched_priority = 0 };
	pid_t ksmd = pid_of("ksmd");
	struct peer peer;
	long scans, swapped;

	peer_start(&peer, be_reclaimed, NULL);
	peer_recv(&peer);
	ksm_settle();
	CHECK_EQ(ksm_get("pages_shared"), NR / 2);
	ksm_set("pages_to_scan", NR);
	ksm_set("sleep_millisecs", 1);
	ksm_set("run", 1);
	CHECK(!sched_setscheduler(ksmd, SCHED_FIFO, &first));
	scans = ksm_get("full_scans");
	peer_send(&peer, 0);
	swapped = peer_recv(&peer);
	scans = ksm_get("full_scans") - scans;
	CHECK(!sched_setscheduler(ksmd, SCHED_OTHER, &none));
	CHECK_GE(swapped, NR);
	ksm_note("%ld scans", scans);
	CHECK_GE(scans, 1);
	peer_join(&peer);
}

static const struct ksm_test tests[] = {
	{ "knobs_get_through", knobs_get_through },
	{ "waiting_lets_others_run", waiting_lets_others_run },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
