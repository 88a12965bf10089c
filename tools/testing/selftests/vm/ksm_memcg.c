// SPDX-License-Identifier: GPL-2.0
/*
 * Memory control groups: who is charged for a merged page, and what happens
 * when there is no memory to take it apart.
 */
#include <poll.h>
#include "ksm_lib.h"

#define NR	2048

static long anon_pages(void)
{
	long bytes = memcg_stat("anon");

	CHECK_GE(bytes, 0);
	return bytes / (long)PAGE_SIZE;
}

/* pitfall 26: one is charged for the page, nobody for the duplicates */
static void duplicates_uncharged(void)
{
	long empty, full, merged;
	char *area;

	memcg_enter();
	empty = anon_pages();
	area = mergeable_area(NR, 100, 32);
	/* What each processor has counted is added up every other second */
	WAIT_FOR((full = anon_pages()) - empty >= NR);
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	WAIT_FOR((merged = anon_pages()) <= full - (NR - 32 - 8));
	ksm_note("%ld pages charged, %ld before the merge", merged, full);
	CHECK_GE(merged - empty, 32);

	/* Whoever writes pays for his copy. */
	fill_area(area, NR / 2, 500, NR);
	WAIT_FOR(anon_pages() - merged >= NR / 2 - 8);
	VERIFY(area + NR / 2 * PAGE_SIZE, NR / 2, 100, 32);
	CHECK(!munmap(area, NR * PAGE_SIZE));
	ksm_scan(0);
	WAIT_FOR(anon_pages() <= empty + 40);
}

static void peer_in_group(struct peer *me, void *arg)
{
	char *area;

	if (arg)
		memcg_enter();
	area = mergeable_area(NR, 200, NR);
	peer_send(me, 0);
	peer_recv(me);
	VERIFY(area, NR, 200, NR);
	CHECK_EQ(count_ksm(area, NR), NR);
	peer_send(me, 0);
	peer_recv(me);
	VERIFY(area, NR, 200, NR);
	CHECK_EQ(count_ksm(area, NR), NR);
}

/* Pages of a group, and of somebody outside it who goes away first. */
static void across_groups(void)
{
	struct peer inside, outside;
	long charged;

	peer_start(&inside, peer_in_group, "inside");
	peer_recv(&inside);
	peer_start(&outside, peer_in_group, NULL);
	peer_recv(&outside);
	ksm_set("pages_to_scan", 10000);
	ksm_settle();
	CHECK_EQ(ksm_get("pages_shared"), NR);
	CHECK_EQ(ksm_get("pages_sharing"), NR);
	charged = anon_pages();
	ksm_note("the group is charged %ld of %d pages", charged, NR);
	CHECK_GE(NR + 64, charged);
	peer_send(&inside, 0);
	peer_recv(&inside);
	peer_send(&outside, 0);
	peer_recv(&outside);
	peer_send(&outside, 0);
	peer_join(&outside);
	peer_send(&inside, 0);
	peer_join(&inside);
}

/* ---- pitfall 28: taking it apart needs memory ---- */

/* Room for a quarter of what is merged. */
static void leave_little_room(void)
{
	char limit[32];

	memcg_write("memory.swap.max", "0");
	snprintf(limit, sizeof(limit), "%ld",
		 memcg_get("memory.current") + NR / 4 * (long)PAGE_SIZE);
	CHECK_EQ(memcg_write("memory.max", limit), 0);
}

static void leave_all_room(void)
{
	CHECK_EQ(memcg_write("memory.max", "max"), 0);
}

struct limited {
	bool killable;
	bool unmerges;		/* or somebody else does it for him */
};

/* Without room there is not even memory to open a file: just do it. */
static void peer_limited(struct peer *me, void *arg)
{
	struct limited *how = arg;
	int err = 0;
	char *area;

	memcg_enter();
	if (!how->killable)
		CHECK_EQ(file_print("/proc/self/oom_score_adj", "-1000"), 0);
	area = mergeable_area(NR, 300, 8);
	peer_send(me, 0);

	peer_recv(me);
	if (how->unmerges &&
	    madvise(area, NR * PAGE_SIZE, MADV_UNMERGEABLE))
		err = errno;
	peer_send(me, err);

	peer_recv(me);
	VERIFY(area, NR, 300, 8);
	if (err) {
		CHECK(err == ENOMEM || err == EAGAIN);
		/* What is still merged is still registered. */
		CHECK_GE(count_ksm(area, NR), 1);
		CHECK(smaps_flag(area + (NR - 1) * PAGE_SIZE, "mg"));
		/* With room it works. */
		CHECK(!madvise(area, NR * PAGE_SIZE, MADV_UNMERGEABLE));
		CHECK_EQ(count_ksm(area, NR), 0);
	}
	peer_send(me, 0);

	peer_recv(me);
	CHECK_EQ(count_ksm(area, NR), 0);
	VERIFY(area, NR, 300, 8);
}

static void start_limited(struct peer *peer, struct limited *how)
{
	ksm_set("max_page_sharing", NR);
	peer_start(peer, peer_limited, how);
	peer_recv(peer);
	ksm_set("pages_to_scan", 10000);
	ksm_settle();
	CHECK_EQ(ksm_get("pages_shared"), 8);
	CHECK_EQ(ksm_get("pages_sharing"), NR - 8);
	leave_little_room();
	peer_send(peer, 0);
}

/* Either it is told, or it is dead; in both cases all can be taken apart. */
static void unmerged_in_the_end(void)
{
	ksm_set("run", 2);
	CHECK_EQ(ksm_get("pages_shared"), 0);
	CHECK_EQ(ksm_get("pages_sharing"), 0);
}

/* Nobody there to be killed: the error comes back. */
static void madvise_fails(void)
{
	struct limited how = { .unmerges = true };
	struct peer peer;
	long err;

	start_limited(&peer, &how);
	err = peer_recv(&peer);
	ksm_note("madvise() said: %s", err ? strerror(err) : "nothing");
	CHECK(err);
	leave_all_room();
	peer_send(&peer, 0);
	peer_recv(&peer);
	peer_send(&peer, 0);
	peer_join(&peer);
	unmerged_in_the_end();
}

/* It is killed, for nobody else could be; or is told before that. */
static void madvise_killed(void)
{
	struct limited how = { .killable = true, .unmerges = true };
	struct pollfd answer = { .events = POLLIN };
	struct peer peer;
	int status;

	start_limited(&peer, &how);
	answer.fd = peer.in;
	CHECK_EQ(poll(&answer, 1, 20000 * ksm_slow()), 1);
	if (answer.revents & POLLIN)
		CHECK(peer_recv(&peer));
	leave_all_room();
	kill(peer.pid, SIGKILL);
	status = peer_status(&peer);
	CHECK_EQ(status, SIGKILL);
	unmerged_in_the_end();
}

/* run = 2 by somebody outside, for a group that has no room. */
static void run_2_fails(void)
{
	struct limited how = {};
	struct peer peer;
	char *area;
	int err;

	start_limited(&peer, &how);
	peer_recv(&peer);
	err = ksm_write("run", "2", 1);
	ksm_note("run = 2 said: %s", err ? strerror(-err) : "nothing");
	CHECK_EQ(err, -ENOMEM);
	/* It gave up: ksmd stands still, what is merged stays so. */
	CHECK_EQ(ksm_get("run"), 0);
	CHECK_GE(ksm_get("pages_sharing"), 1);
	leave_all_room();
	peer_send(&peer, 0);
	peer_recv(&peer);
	unmerged_in_the_end();
	peer_send(&peer, 0);
	peer_join(&peer);

	/* And ksmd can be started as ever. */
	area = mergeable_area(16, 400, 1);
	ksm_settle();
	CHECK_EQ(count_ksm(area, 16), 16);
	VERIFY(area, 16, 400, 1);
}

static const struct ksm_test tests[] = {
	{ "duplicates_uncharged", duplicates_uncharged },
	{ "across_groups", across_groups },
	{ "madvise_fails", madvise_fails },
	{ "madvise_killed", madvise_killed },
	{ "run_2_fails", run_2_fails },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
