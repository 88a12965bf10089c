// SPDX-License-Identifier: GPL-2.0
/* vm: --nodes 2 --swap 256M */
/* stock-fails: nobody_left */
/*
 * What a process that has exited leaves to those who forked from it.
 */
#include "ksm_lib.h"

#define NR	64

static int nodes[2];

/* Shared between the processes of a test. */
struct family {
	char *area;
	pid_t child;
	bool look, good;
};

static struct family *new_family(void)
{
	struct family *family = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(family != MAP_FAILED);
	return family;
}

static void child_of(struct family *family)
{
	write_now(family->child, getpid());
	while (!read_now(family->look))
		usleep(1000);
	VERIFY(family->area, NR, 1000, NR);
	write_now(family->good, true);
	pause();
}

/* Has pages, waits until they are merged, forks, and exits when told to. */
static void parent(struct peer *me, void *arg)
{
	struct family *family = arg;

	family->area = mergeable_area(NR, 1000, NR);
	peer_send(me, 0);
	peer_recv(me);
	if (!fork())
		child_of(family);
	while (!read_now(family->child))
		usleep(1000);
	peer_send(me, 0);
	peer_recv(me);
}

/*
 * pitfalls 12, 18: a page has two records: one is stale, because its owner has
 * written, the other is the dead parent's, and leads to the child.  That there
 * are no more mappings than records does not make the second one dispensable.
 */
static void stale_record_beside(void)
{
	struct family *family = new_family();
	char *pages[NR], *mine;
	struct peer peer;
	int status[NR];

	need_nodes(nodes, 2);
	peer_start(&peer, parent, family);
	peer_recv(&peer);
	mine = mergeable_area(NR, 1000, NR);
	ksm_settle();
	CHECK_EQ(count_ksm(mine, NR), NR);
	peer_send(&peer, 0);
	peer_recv(&peer);
	fill_area(mine, NR, 5000, NR);
	peer_send(&peer, 0);
	peer_join(&peer);
	/* Time for whatever clears away after the dead */
	sleep(1);

	for (size_t i = 0; i < NR; i++)
		pages[i] = family->area + i * PAGE_SIZE;
	for (int round = 0; round < 4; round++) {
		CHECK_EQ(move_to_node(family->child, pages, status, NR,
				      nodes[round % 2],
				      KSM_MPOL_MF_MOVE_ALL), 0);
		for (size_t i = 0; i < NR; i++)
			CHECK_EQ(status[i], nodes[round % 2]);
	}
	write_now(family->look, true);
	WAIT_FOR(read_now(family->good));
	VERIFY(mine, NR, 5000, NR);
}

/*
 * With ksmd at rest the parent exits, then the child, which was never scanned:
 * nobody needs the parent's records any more.
 *
 * stock: expected failure: only a scan drops them
 */
static void nobody_left(void)
{
	struct family *family = new_family();
	struct peer peer;
	char *mine;

	peer_start(&peer, parent, family);
	peer_recv(&peer);
	mine = mergeable_area(NR, 1000, NR);
	ksm_settle();
	CHECK_EQ(ksm_get("pages_shared"), NR);
	peer_send(&peer, 0);
	peer_recv(&peer);
	CHECK(!munmap(mine, NR * PAGE_SIZE));
	peer_send(&peer, 0);
	peer_join(&peer);
	/* Time to find that the child needs the parent's records */
	sleep(1);
	CHECK_EQ(ksm_get("pages_sharing"), NR);
	write_now(family->look, true);
	WAIT_FOR(read_now(family->good));
	CHECK(!kill(family->child, SIGKILL));
	WAIT_FOR(ksm_get("pages_sharing") == 0);
	CHECK_EQ(ksm_get("run"), 0);
}

static const struct ksm_test tests[] = {
	{ "stale_record_beside", stale_record_beside },
	{ "nobody_left", nobody_left },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
