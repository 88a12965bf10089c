// SPDX-License-Identifier: GPL-2.0
/* vm: --nodes 2 --hotplug 512M */
/* stock-fails: over_and_over */
/*
 * Memory that holds KSM pages is taken away, and comes back.
 */
#include <dirent.h>
#include <fcntl.h>
#include <glob.h>
#include <sys/time.h>
#include <sys/uio.h>
#include "ksm_lib.h"

#define MEMORY		"/sys/devices/system/memory/"
#define MAX_BLOCKS	256

static long blocks[MAX_BLOCKS];
static int nr_blocks;
static int node;

static unsigned long block_pages(void)
{
	char buf[64];

	CHECK_GE(file_read(MEMORY "block_size_bytes", buf, sizeof(buf)), 1);
	return strtoul(buf, NULL, 16) / PAGE_SIZE;
}

static void interrupt(int sig)
{
}

/*
 * The kernel tries for as long as it takes to empty a block, so that a page
 * which cannot be moved shows as EINTR.
 */
static int try_state(long block, const char *state, int seconds)
{
	struct sigaction action = { .sa_handler = interrupt };
	/* More than once: the first may come before the write */
	struct itimerval after = { { seconds, 0 }, { seconds, 0 } };
	struct itimerval never = { 0 };
	char path[128];
	int err;

	sigaction(SIGALRM, &action, NULL);
	snprintf(path, sizeof(path), MEMORY "memory%ld/state", block);
	setitimer(ITIMER_REAL, &after, NULL);
	err = file_write(path, state, strlen(state));
	setitimer(ITIMER_REAL, &never, NULL);
	return err;
}

static int set_state(long block, const char *state)
{
	int err = try_state(block, state, 10 * ksm_slow());

	if (err == -EINTR)
		FAIL("memory%ld cannot be emptied", block);
	return err;
}

static bool state_is(long block, const char *state)
{
	char path[128], buf[64];

	snprintf(path, sizeof(path), MEMORY "memory%ld/state", block);
	if (file_read(path, buf, sizeof(buf)) <= 0)
		return false;
	buf[strcspn(buf, "\n")] = '\0';
	return !strcmp(buf, state);
}

/* Blocks of this node that are all movable, as hotplugged ones are. */
static void find_blocks(void)
{
	char dir[128], path[300], zones[64];
	struct dirent *entry;
	DIR *d;

	nr_blocks = 0;
	snprintf(dir, sizeof(dir), "/sys/devices/system/node/node%d", node);
	d = opendir(dir);
	CHECK(d);
	while ((entry = readdir(d)) && nr_blocks < MAX_BLOCKS) {
		long block;

		if (sscanf(entry->d_name, "memory%ld", &block) != 1)
			continue;
		snprintf(path, sizeof(path), MEMORY "%s/valid_zones",
			 entry->d_name);
		if (file_read(path, zones, sizeof(zones)) <= 0)
			continue;
		if (!strncmp(zones, "Movable", 7) && state_is(block, "online"))
			blocks[nr_blocks++] = block;
	}
	closedir(d);
}

/* Whatever an earlier test left offline. */
static void online_everything(void)
{
	glob_t found;

	if (glob(MEMORY "memory[0-9]*", 0, NULL, &found))
		return;
	for (size_t i = 0; i < found.gl_pathc; i++) {
		long block = atol(strrchr(found.gl_pathv[i], '/') + 7);

		if (state_is(block, "offline"))
			set_state(block, "online_movable");
	}
	globfree(&found);
}

/* The last node, and the memory on it that can be taken away. */
static void need_blocks(void)
{
	int nodes[16] = {}, nr;

	online_everything();
	nr = need_nodes(nodes, 2);
	node = nodes[(nr > 16 ? 16 : nr) - 1];
	find_blocks();
	if (!nr_blocks)
		ksm_skip("no removable memory on node %d", node);
}

static size_t count_in_block(const char *area, size_t nr, long block)
{
	unsigned long *at = pfns(area, nr), pages = block_pages();
	size_t found = 0;

	for (size_t i = 0; i < nr; i++)
		found += at[i] / pages == (unsigned long)block;
	free(at);
	return found;
}

static size_t count_in_blocks(const char *area, size_t nr)
{
	size_t found = 0;

	for (int b = 0; b < nr_blocks; b++)
		found += count_in_block(area, nr, blocks[b]);
	return found;
}

static void offline_all(void)
{
	for (int i = 0; i < nr_blocks; i++) {
		/* A page may be busy for a moment. */
		if (!BECOMES(!set_state(blocks[i], "offline"), 20))
			FAIL("memory%ld does not go offline", blocks[i]);
		CHECK(state_is(blocks[i], "offline"));
	}
}

static void online_all(void)
{
	for (int i = 0; i < nr_blocks; i++)
		CHECK_EQ(set_state(blocks[i], "online_movable"), 0);
}

/* Filled on the memory that will go. */
static char *area_there(size_t nr, uint64_t seed, size_t distinct)
{
	char *area = map_pages(nr);

	CHECK_EQ(bind_area(area, nr, node, 0), 0);
	fill_area(area, nr, seed, distinct);
	CHECK_EQ(count_in_blocks(area, nr), nr);
	CHECK(!madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE));
	return area;
}

static void check_merged(char *area, size_t nr, uint64_t seed, size_t distinct)
{
	unsigned long *at = pfns(area, nr);

	CHECK_EQ(count_ksm(area, nr), nr);
	for (size_t i = distinct; i < nr; i++)
		CHECK_EQ(at[i], at[i % distinct]);
	free(at);
	VERIFY(area, nr, seed, distinct);
}

/* ksmd runs all the time. */
static void pages_move_out(void)
{
	const size_t nr = 1024, distinct = 128;
	char *area, *more;

	need_blocks();
	area = area_there(nr, 100, distinct);
	ksm_scan(4);
	WAIT_FOR(count_ksm(area, nr) == nr);
	CHECK_EQ(count_in_blocks(area, nr), nr);

	offline_all();
	CHECK_EQ(count_in_blocks(area, nr), 0);
	ksm_note("hotremove: %zu of %zu mappings moved out", nr, nr);
	ksm_settle();
	check_merged(area, nr, 100, distinct);
	CHECK_EQ(ksm_get("pages_shared"), distinct);
	CHECK_EQ(ksm_get("pages_sharing"), nr - distinct);

	/* The index knows them: more of the same content joins. */
	more = mergeable_area(distinct, 100, distinct);
	ksm_settle();
	CHECK_EQ(count_same(getpid(), more, getpid(), area, distinct),
		 distinct);
	CHECK_EQ(ksm_get("pages_shared"), distinct);
	VERIFY(more, distinct, 100, distinct);

	/* And back. */
	online_all();
	ksm_set("run", 1);
	move_area(area, nr, node);
	ksm_settle();
	check_merged(area, nr, 100, distinct);
	CHECK(!munmap(more, distinct * PAGE_SIZE));
	for (size_t i = 0; i < nr; i += 2)
		fill_page(area + i * PAGE_SIZE, 5000 + i);
	for (size_t i = 0; i < nr; i++)
		CHECK(page_is(area + i * PAGE_SIZE,
			      i % 2 ? 100 + i % distinct : 5000 + i));
}

/* While ksmd stands still nothing but migration itself can keep order. */
static void ksmd_at_rest(void)
{
	const size_t nr = 512, distinct = 64;
	char *area, *more;

	need_blocks();
	area = area_there(nr, 300, distinct);
	ksm_settle();
	offline_all();
	CHECK_EQ(count_in_blocks(area, nr), 0);
	check_merged(area, nr, 300, distinct);
	more = mergeable_area(distinct, 300, distinct);
	ksm_settle();
	CHECK_EQ(count_same(getpid(), more, getpid(), area, distinct),
		 distinct);
	CHECK_EQ(ksm_get("pages_shared"), distinct);
	VERIFY(more, distinct, 300, distinct);
	ksm_set("run", 2);
	CHECK_EQ(count_ksm(area, nr), 0);
	VERIFY(area, nr, 300, distinct);
	online_all();
}

static void peer_in_blocks(struct peer *me, void *arg)
{
	char *area;

	need_blocks();
	area = area_there(256, (long)arg, 64);
	peer_send(me, (long)area);
	peer_recv(me);
	VERIFY(area, 256, (long)arg, 64);
}

/*
 * pitfall 4: everybody who mapped the pages is dead, ksmd has not noticed
 * yet, and the memory goes away with the nodes pointing there.
 */
static void nodes_left_behind(void)
{
	const size_t nr = 256, distinct = 64;
	struct peer peer;
	char *area;

	need_blocks();
	peer_start(&peer, peer_in_blocks, (void *)700);
	peer_recv(&peer);
	ksm_settle();
	CHECK_EQ(ksm_get("pages_shared"), distinct);
	peer_send(&peer, 0);
	peer_join(&peer);
	offline_all();

	area = mergeable_area(nr, 700, distinct);
	ksm_settle();
	check_merged(area, nr, 700, distinct);
	CHECK_EQ(ksm_get("pages_shared"), distinct);
	CHECK_EQ(ksm_get("pages_sharing"), nr - distinct);
	online_all();
	ksm_settle();
	check_merged(area, nr, 700, distinct);
}

/*
 * Block after block goes and comes back, with other processes' pages in it.
 * pitfall 34: a record that a scan dropped when it met a migration entry is
 * not found again while ksmd waits for the memory to go.
 */
/* stock: expected failure: now and then a page cannot be moved any more */
static void over_and_over(void)
{
	const size_t nr = 256, distinct = 64;
	double end = ksm_now() + 6;
	struct peer peer;
	int rounds = 0, gone = 0;
	char *area;

	need_blocks();
	peer_start(&peer, peer_in_blocks, (void *)900);
	peer_recv(&peer);
	area = area_there(nr, 900, distinct);
	ksm_set("pages_to_scan", 10000);
	ksm_scan(3);
	for (; ksm_now() < end; rounds++) {
		long block = blocks[rounds % nr_blocks];

		if (!set_state(block, "offline")) {
			CHECK(BECOMES(!set_state(block, "online_movable"), 10));
			gone++;
		}
		move_area(area, nr, node);
		VERIFY(area, nr, 900, distinct);
	}
	ksm_note("hotremove with ksmd at it: %d of %d blocks at the first try",
		 gone, rounds);
	ksm_settle();
	check_merged(area, nr, 900, distinct);
	CHECK_EQ(ksm_get("pages_shared"), distinct);
	CHECK_EQ(ksm_get("pages_sharing"), 2 * nr - distinct);
	peer_send(&peer, 0);
	peer_join(&peer);
}

/* A page that somebody holds is in the way, so that the others move for nothing. */
static void fails_half_way(void)
{
	const size_t nr = 512, distinct = 128;
	char *area, *held;
	struct iovec page;
	size_t before;
	int ends[2];
	long block;

	need_blocks();
	held = map_pages(1);
	CHECK_EQ(bind_area(held, 1, node, 0), 0);
	fill_page(held, 1);
	page = (struct iovec){ held, PAGE_SIZE };
	CHECK(!pipe(ends));
	CHECK_EQ(vmsplice(ends[1], &page, 1, 0), (long)PAGE_SIZE);
	block = pfn(held) / block_pages();

	area = area_there(nr, 1500, distinct);
	ksm_scan(4);
	WAIT_FOR(count_ksm(area, nr) == nr);
	before = count_in_block(area, nr, block);
	for (int i = 0; i < 3; i++) {
		CHECK_EQ(try_state(block, "offline", ksm_slow()), -EINTR);
		CHECK(state_is(block, "online"));
		VERIFY(area, nr, 1500, distinct);
	}
	ksm_note("%zu mappings were in the block, %zu are left", before,
		 count_in_block(area, nr, block));
	CHECK_GE(before, 1);
	ksm_settle();
	check_merged(area, nr, 1500, distinct);
	CHECK_EQ(ksm_get("pages_shared"), distinct);
	CHECK_EQ(ksm_get("pages_sharing"), nr - distinct);

	close(ends[0]);
	close(ends[1]);
	CHECK(BECOMES(!set_state(block, "offline"), 20));
	CHECK_EQ(count_in_block(area, nr, block), 0);
	check_merged(area, nr, 1500, distinct);
	CHECK_EQ(set_state(block, "online_movable"), 0);
}

/*
 * pitfall 4: the whole device, with its memory map.  It cannot be plugged in
 * again from inside, so this is the last test.
 */
static void device_ejected(void)
{
	const size_t nr = 512, distinct = 64;
	struct peer peer;
	glob_t found;
	char *area;
	bool gone;

	need_blocks();
	if (glob("/sys/bus/acpi/devices/PNP0C80:*/eject", 0, NULL, &found))
		ksm_skip("no memory device that can be ejected");
	area = area_there(nr, 1100, distinct);
	peer_start(&peer, peer_in_blocks, (void *)1300);
	peer_recv(&peer);
	ksm_settle();
	peer_send(&peer, 0);
	peer_join(&peer);
	ksm_scan(1);

	offline_all();
	for (size_t i = 0; i < found.gl_pathc; i++)
		file_write(found.gl_pathv[i], "1", 1);
	globfree(&found);
	gone = BECOMES(({
		char path[128];

		snprintf(path, sizeof(path), MEMORY "memory%ld", blocks[0]);
		access(path, F_OK) != 0;
	}), 20);

	ksm_settle();
	check_merged(area, nr, 1100, distinct);
	CHECK_EQ(ksm_get("pages_shared"), distinct);
	CHECK_EQ(ksm_get("pages_sharing"), nr - distinct);
	ksm_set("run", 2);
	CHECK_EQ(count_ksm(area, nr), 0);
	VERIFY(area, nr, 1100, distinct);
	if (!gone)
		ksm_skip("the memory was not ejected");
}

static const struct ksm_test tests[] = {
	{ "pages_move_out", pages_move_out },
	{ "ksmd_at_rest", ksmd_at_rest },
	{ "nodes_left_behind", nodes_left_behind },
	{ "over_and_over", over_and_over },
	{ "fails_half_way", fails_half_way },
	{ "device_ejected", device_ejected },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
