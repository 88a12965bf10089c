// SPDX-License-Identifier: GPL-2.0
/*
 * Processes end, are killed and reaped while ksmd is at their memory.
 * (pitfalls 16, 17, 20)
 */
#include "ksm_lib.h"

#define NR	48

#ifndef SYS_process_mrelease
#define SYS_process_mrelease	448
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open		434
#endif

/* Someone with memory that merges with everybody else's; ends somehow. */
static void live_and_die(unsigned int seed)
{
	char *area;

	if (rand_r(&seed) % 2 && prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0))
		_exit(1);
	area = mergeable_area(NR, 100, 4);
	usleep(rand_r(&seed) % 8000);
	VERIFY(area, NR, 100, 4);
	switch (rand_r(&seed) % 5) {
	case 0:
		munmap(area, NR * PAGE_SIZE);
		break;
	case 1:
		fill_area(area, NR, 200, NR);
		VERIFY(area, NR, 200, NR);
		break;
	case 2:
		madvise(area, NR * PAGE_SIZE, MADV_UNMERGEABLE);
		VERIFY(area, NR, 100, 4);
		break;
	case 3:
		if (!fork()) {
			VERIFY(area, NR, 100, 4);
			_exit(0);
		}
		break;
	case 4:
		execl("/bin/true", "true", NULL);
		break;
	}
	_exit(0);
}

static void check_survivor(char *area)
{
	VERIFY(area, NR, 100, 4);
	ksm_set("pages_to_scan", 1000);
	ksm_settle();
	WAIT_FOR((ksm_scan(2), ksm_get("pages_shared") == 4 &&
		  ksm_get("pages_sharing") == NR - 4));
	CHECK_EQ(count_ksm(area, NR), NR);
	CHECK_EQ(proc_merging(getpid()), NR);
	VERIFY(area, NR, 100, 4);
}

static void short_lives(void)
{
	char *area = mergeable_area(NR, 100, 4);
	double end = ksm_now() + 5 * ksm_slow();
	int born = 0, alive = 0, status;

	ksm_set("pages_to_scan", 20000);
	ksm_scan(1);
	fflush(stdout);
	while (ksm_now() < end || alive) {
		if (alive < 6 && ksm_now() < end) {
			pid_t pid = fork();

			CHECK(pid >= 0);
			if (!pid)
				live_and_die(born);
			born++;
			alive++;
			if (born % 3 == 0) {
				usleep(born % 11 * 500);
				kill(pid, SIGKILL);
			}
			continue;
		}
		CHECK(wait(&status) > 0);
		alive--;
		if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
			CHECK_EQ(status, 0);
	}
	ksm_note("%d processes", born);
	CHECK_GE(born, 20);
	check_survivor(area);
}

static void peer_lives_on(struct peer *me, void *arg)
{
	char *area = mergeable_area((long)arg, 100, 4);

	peer_send(me, (long)area);
	pause();
}

/* pitfall 17: its memory is taken away while it is still there */
static void reaped_early(void)
{
	char *area = mergeable_area(NR, 100, 4);
	double end = ksm_now() + 4;
	int rounds = 0, reaped = 0;

	ksm_set("pages_to_scan", 20000);
	ksm_scan(2);
	for (; ksm_now() < end; rounds++) {
		struct peer peer;
		int pidfd;

		peer_start(&peer, peer_lives_on, (void *)512L);
		peer_recv(&peer);
		pidfd = syscall(SYS_pidfd_open, peer.pid, 0);
		CHECK(pidfd >= 0);
		usleep(rounds % 16 * 1000);
		kill(peer.pid, SIGKILL);
		if (!syscall(SYS_process_mrelease, pidfd, 0))
			reaped++;
		else
			CHECK(errno == ESRCH || errno == EAGAIN);
		close(pidfd);
		CHECK_EQ(peer_status(&peer), SIGKILL);
		VERIFY(area, NR, 100, 4);
	}
	ksm_note("%d processes, %d of them reaped", rounds, reaped);
	CHECK_GE(rounds, 2);
	CHECK_GE(reaped, 1);
	check_survivor(area);
}

#define EXITS	20

static int by_size(const void *one, const void *other)
{
	double a = *(const double *)one, b = *(const double *)other;

	return (a > b) - (a < b);
}

/*
 * pitfall 16: exit waits for a scan of this mm at most, not for others.  The
 * host is in the way of some, now and then.
 */
static void exit_is_quick(void)
{
	const size_t large = 4096;
	char *area = mergeable_area(large, 5000, large);
	double took[EXITS];

	ksm_set("pages_to_scan", 1000000);
	ksm_scan(1);
	for (int round = 0; round < EXITS; round++) {
		struct peer peer;

		peer_start(&peer, peer_lives_on, (void *)64L);
		peer_recv(&peer);
		usleep(round * 3000);
		took[round] = -ksm_now();
		kill(peer.pid, SIGKILL);
		peer_status(&peer);
		took[round] += ksm_now();
	}
	qsort(took, EXITS, sizeof(*took), by_size);
	ksm_note("exits took %.4f s, the longest %.4f s", took[EXITS / 2],
		 took[EXITS - 1]);
	CHECK(took[EXITS / 2] < 0.1 * ksm_slow());
	VERIFY(area, large, 5000, large);
}

/* Dead with ksmd at rest; everything goes when it is told to unmerge. */
static void dead_at_rest(void)
{
	char *area = mergeable_area(NR, 100, 4);
	struct peer peer[3];

	for (int p = 0; p < 3; p++) {
		peer_start(&peer[p], peer_lives_on, (void *)64L);
		peer_recv(&peer[p]);
	}
	ksm_settle();
	CHECK_EQ(ksm_get("pages_shared"), 4);
	for (int p = 0; p < 3; p++) {
		kill(peer[p].pid, SIGKILL);
		peer_status(&peer[p]);
	}
	VERIFY(area, NR, 100, 4);
	ksm_set("run", 2);
	CHECK_EQ(ksm_get("pages_shared"), 0);
	CHECK_EQ(ksm_get("pages_sharing"), 0);
	CHECK_EQ(ksm_get("pages_unshared"), 0);
	CHECK_EQ(ksm_get("pages_volatile"), 0);
	VERIFY(area, NR, 100, 4);
	check_survivor(area);
}

/* Unmerging everything while they die. */
static void dead_while_unmerging(void)
{
	char *area = mergeable_area(NR, 100, 4);
	double end = ksm_now() + 3;
	int rounds = 0;

	for (; ksm_now() < end; rounds++) {
		struct peer peer[3];

		for (int p = 0; p < 3; p++) {
			peer_start(&peer[p], peer_lives_on, (void *)256L);
			peer_recv(&peer[p]);
		}
		ksm_scan(3);
		for (int p = 0; p < 3; p++)
			kill(peer[p].pid, SIGKILL);
		ksm_set("run", 2);
		for (int p = 0; p < 3; p++)
			peer_status(&peer[p]);
		CHECK_EQ(count_ksm(area, NR), 0);
		VERIFY(area, NR, 100, 4);
	}
	ksm_note("%d rounds", rounds);
	check_survivor(area);
}

static const struct ksm_test tests[] = {
	{ "short_lives", short_lives },
	{ "reaped_early", reaped_early },
	{ "exit_is_quick", exit_is_quick },
	{ "dead_at_rest", dead_at_rest },
	{ "dead_while_unmerging", dead_while_unmerging },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
