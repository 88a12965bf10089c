// SPDX-License-Identifier: GPL-2.0
/* vm: --swap 256M */
/*
 * Those who would keep ksmd busy: a scan takes time in proportion to the pages
 * that there are, whoever made them.  (pitfall 32)
 */
#include "ksm_lib.h"

#define FINGERPRINT	"/sys/kernel/debug/ksm/fingerprint"

static void at_full_speed(void)
{
	ksm_set("sleep_millisecs", 0);
	ksm_set("pages_to_scan", 10000000);
}

/*
 * Seconds of ksmd for a pass, once it is known what there is; the least of
 * some.  What is written to in between, the same as before, is read again.
 */
static double pass_seconds(int passes, char *written, size_t nr)
{
	double took, least = 0;
	long began;

	at_full_speed();
	ksm_scan(4);
	ksm_one_pass();
	for (int i = 0; i < passes; i++) {
		for (char *page = written; page < written + nr * PAGE_SIZE;
		     page += PAGE_SIZE)
			write_byte(page, read_byte(page));
		began = cpu_time("ksmd");
		ksm_one_pass();
		took = (cpu_time("ksmd") - began) / 1e9;
		if (!i || took < least)
			least = took;
	}
	return least;
}

/* ---- pages that look alike ---- */

#define P1	0x9e3779b185ebca87ULL
#define P2	0xc2b2ae3d27d4eb4fULL

static uint64_t xxh_round(uint64_t acc, uint64_t word)
{
	acc += word * P2;
	return (acc << 31 | acc >> 33) * P1;
}

/* Two words of one of the sums: the second puts right what the first did. */
static void collide_xxh64(uint64_t *page, uint64_t number, uint64_t seed)
{
	uint64_t start = seed + P1 + P2, inverse = P2;

	for (int i = 0; i < 6; i++)
		inverse *= 2 - P2 * inverse;
	page[0] = number;
	page[4] = (xxh_round(start, 0) - xxh_round(start, number)) * inverse;
}

/*
 * The polynomial of the CRC may be added to what is summed up, anywhere.  What
 * one sum gets more, another gets less, for the plain sum's sake.
 */
static void collide_crc(uint64_t *page, uint64_t number)
{
	const uint64_t poly = 1 | 0x82f63b78ULL << 1;

	for (int bit = 0; bit < 32; bit++)
		page[4 * bit + !(number >> bit & 1)] = poly;
}

static void need_to_know_fingerprints(void)
{
	if (access(FINGERPRINT, R_OK))
		ksm_skip("how fingerprints are made is not known");
}

/* Different pages, all of which have the same fingerprint. */
static void fill_colliding(char *area, size_t nr, size_t from)
{
	char buf[64], kind[16];
	unsigned long long seed;
	int fields;

	need_to_know_fingerprints();
	CHECK_GE(file_read(FINGERPRINT, buf, sizeof(buf)), 1);
	fields = sscanf(buf, "%15s %llx", kind, &seed);
	CHECK_EQ(fields, 2);
	for (size_t i = 0; i < nr; i++) {
		uint64_t *page = (uint64_t *)(area + i * PAGE_SIZE);

		memset(page, 0, PAGE_SIZE);
		if (!strcmp(kind, "crc"))
			collide_crc(page, from + i);
		else
			collide_xxh64(page, from + i, seed);
	}
}

/* In a process of its own, as ksmd remembers for a while who it has trouble with. */
static void unique_and_colliding(struct peer *me, void *arg)
{
	const size_t nr = ksm_slow() > 1 ? 4096 : 32768;
	char *area = map_pages(nr);

	fill_area(area, nr, 1, nr);
	CHECK(!madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE));
	peer_send(me, 1e9 * pass_seconds(10, area, nr));
	fill_colliding(area, nr, 0);
	peer_send(me, 1e9 * pass_seconds(10, area, nr));
	CHECK_EQ(ksm_get("pages_sharing"), 0);
	/* Nothing came of it, but nothing was lost either */
	for (size_t i = 0; i < nr; i += 97) {
		uint64_t page[PAGE_SIZE / sizeof(uint64_t)];

		fill_colliding((char *)page, 1, i);
		CHECK(!memcmp(page, area + i * PAGE_SIZE, PAGE_SIZE));
	}
}

/*
 * A pass over pages that are all different and look all the same takes no more
 * than twice as long as one over pages that look different.  What the host takes
 * away while it is busy elsewhere counts, but not every time.
 */
static void collisions_cost_little(void)
{
	struct peer peer;

	need_to_know_fingerprints();
	ksm_set("smart_scan", 0);
	for (int i = 0; i < 3; i++) {
		long unique, colliding;

		peer_start(&peer, unique_and_colliding, NULL);
		unique = peer_recv(&peer);
		colliding = peer_recv(&peer);
		peer_join(&peer);
		ksm_note("a pass takes %.1f ms, or %.1f ms", unique / 1e6,
			 colliding / 1e6);
		if (colliding <= 2 * unique)
			return;
	}
	FAIL("collisions are expensive");
}

/* Pages of one fingerprint, merged before ksmd has had enough of them. */
static void colliding_pages_stay_apart(void)
{
	const size_t nr = 40;
	char *area = map_pages(nr), *twin = map_pages(nr);
	size_t pairs = 0;

	fill_colliding(area, nr, 1000);
	fill_colliding(twin, nr, 1000);
	CHECK(!madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE));
	CHECK(!madvise(twin, nr * PAGE_SIZE, MADV_MERGEABLE));
	ksm_settle();
	pairs = count_same(getpid(), area, getpid(), twin, nr);
	ksm_note("%zu of %zu are merged", pairs, nr);
	CHECK(!memcmp(area, twin, nr * PAGE_SIZE));
	for (size_t i = 0; i < nr; i++)
		for (size_t j = 0; j < i; j++) {
			CHECK(memcmp(area + i * PAGE_SIZE, area + j * PAGE_SIZE,
				     PAGE_SIZE));
			CHECK(pfn(area + i * PAGE_SIZE) !=
			      pfn(area + j * PAGE_SIZE));
		}
	ksm_set("run", 2);
	CHECK(!memcmp(area, twin, nr * PAGE_SIZE));
}

/*
 * Pages that are in the swap cache, clean, and may be written to without a fault:
 * the disk of the tests is so fast that a page that nobody else has goes past the
 * swap cache, unless it is read ahead, as the third is after two that a child has.
 */
static char *read_ahead(size_t nr)
{
	char *area = map_pages(nr);
	size_t cached = 0;
	pid_t child;

	fill_area(area, nr, 1, nr);
	child = fork();
	CHECK(child >= 0);
	if (!child) {
		pause();
		_exit(0);
	}
	for (size_t i = 0; i < nr; i++)
		if (i % 4 > 1)
			fill_page(area + i * PAGE_SIZE, i);
	CHECK(memcg_swap_out(area, nr));
	for (size_t i = 0; i < nr; i++)
		read_byte(area + i * PAGE_SIZE);
	for (size_t i = 2; i < nr; i += 4)
		cached += in_swap_cache(area + i * PAGE_SIZE);
	ksm_note("%zu of %zu pages were read ahead", cached, nr / 4);
	CHECK_GE(cached, nr / 8);
	return area;
}

/*
 * pitfall 6: clean in the swap cache, then dirtied through the page table; ksmd
 * cleans the entry to compare pages, and they differ.  What has been written
 * must go to swap all the same.
 */
static void different_after_swapin(void)
{
	const size_t nr = 256;
	char *area, *same = map_pages(nr);

	need_to_know_fingerprints();
	fill_colliding(same, nr, 2000);
	memcg_enter();
	area = read_ahead(nr);
	memcpy(area, same, nr * PAGE_SIZE);
	CHECK(!madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE));
	ksm_settle();
	CHECK_EQ(count_ksm(area, nr), 0);
	CHECK(memcg_swap_out(area, nr));
	CHECK(!memcmp(area, same, nr * PAGE_SIZE));
}

static char *colliding_area(size_t nr, size_t number)
{
	char *area = map_pages(nr);

	for (size_t i = 0; i < nr; i++)
		fill_colliding(area + i * PAGE_SIZE, 1, number);
	CHECK(!madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE));
	return area;
}

/* A page finds its like, though one that only looks like it was merged since. */
static void found_behind_another(void)
{
	char *first, *other, *late;

	ksm_set("smart_scan", 0);
	first = colliding_area(2, 1);
	ksm_settle();
	other = colliding_area(2, 2);
	ksm_settle();
	CHECK_EQ(count_ksm(first, 2) + count_ksm(other, 2), 4);
	late = colliding_area(1, 1);
	ksm_settle();
	CHECK_EQ(count_same(getpid(), late, getpid(), first, 1), 1);
	CHECK_EQ(ksm_get("pages_sharing"), 3);
	CHECK(!memcmp(late, first, PAGE_SIZE));
}

static void peer_collides(struct peer *me, void *arg)
{
	const size_t nr = 2048;
	char *area = map_pages(nr);

	fill_colliding(area, nr, 0);
	CHECK(!madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE));
	peer_send(me, 0);
	peer_recv(me);
}

/* What one does to himself does not keep others from merging. */
static void others_are_merged(void)
{
	const size_t nr = 512;
	struct peer peer;
	char *area;

	need_to_know_fingerprints();
	peer_start(&peer, peer_collides, NULL);
	peer_recv(&peer);
	ksm_scan(4);
	area = mergeable_area(nr, 100, 16);
	ksm_settle();
	CHECK_EQ(count_ksm(area, nr), nr);
	CHECK_EQ(ksm_get("pages_sharing"), nr - 16);
	VERIFY(area, nr, 100, 16);
	peer_send(&peer, 0);
	peer_join(&peer);
}

/* ---- those who come and go ---- */

static void churn(struct peer *me, void *arg)
{
	const size_t nr = 64;
	char *area = map_pages(nr), *moved;
	uint64_t turn;

	peer_send(me, 0);
	for (turn = 1;; turn++) {
		fill_area(area, nr, turn * nr, nr);
		CHECK(!madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE));
		if (!fork()) {
			fill_page(area, turn);
			_exit(0);
		}
		CHECK(!madvise(area, nr / 2 * PAGE_SIZE, MADV_UNMERGEABLE));
		moved = mremap(area, nr * PAGE_SIZE, nr * PAGE_SIZE,
			       MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
		if (moved != MAP_FAILED) {
			munmap(area, nr * PAGE_SIZE);
			area = moved;
		}
		CHECK(!munmap(area, nr * PAGE_SIZE));
		area = map_pages(nr);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
}

/* The others are scanned, and what is remembered of those who left is little. */
static void churn_stops_nobody(void)
{
	const size_t nr = 1024, churners = ksm_slow() > 1 ? 1 : 3;
	bool counted = ksm_has("metadata_bytes");
	long scans, bytes, most = 0;
	struct peer peer[3];
	double end;
	char *area;

	bytes = counted ? ksm_get("metadata_bytes") : 0;
	area = mergeable_area(nr, 100, 8);
	at_full_speed();
	for (size_t i = 0; i < churners; i++) {
		peer_start(&peer[i], churn, NULL);
		peer_recv(&peer[i]);
	}
	scans = ksm_get("full_scans");
	ksm_scan(4);
	WAIT_FOR(count_ksm(area, nr) == nr);
	end = ksm_now() + 3;
	while (ksm_now() < end || ksm_get("full_scans") < scans + 10) {
		usleep(20000);
		if (counted && ksm_get("metadata_bytes") > most)
			most = ksm_get("metadata_bytes");
	}
	scans = ksm_get("full_scans") - scans;
	ksm_note("%ld passes, at most %ld bytes of metadata", scans, most);
	/* 64 bytes for each mapping of ours, 64 pages of theirs and a child's */
	CHECK_GE(bytes + 64 * (long)nr + 512 * 1024, most);
	VERIFY(area, nr, 100, 8);
	for (size_t i = 0; i < churners; i++) {
		kill(peer[i].pid, SIGKILL);
		waitpid(peer[i].pid, NULL, 0);
	}
	ksm_scan(3);
	ksm_set("run", 2);
	CHECK(!munmap(area, nr * PAGE_SIZE));
	ksm_set("run", 1);
	if (counted)
		WAIT_FOR(ksm_get("metadata_bytes") <= bytes + 64 * 1024);
}

/* ---- odd address spaces ---- */

static double pass_over(size_t nr, bool apart)
{
	char *area = map_pages(2 * nr);
	double took;

	CHECK(!madvise(area, 2 * nr * PAGE_SIZE, MADV_MERGEABLE));
	for (size_t i = 0; i < nr; i++) {
		if (apart)
			CHECK(!mprotect(area + (2 * i + 1) * PAGE_SIZE,
					PAGE_SIZE, PROT_NONE));
		fill_page(area + (apart ? 2 * i : i) * PAGE_SIZE, i + 1);
	}
	took = pass_seconds(12, NULL, 0);
	CHECK(!munmap(area, 2 * nr * PAGE_SIZE));
	return took;
}

/* Many areas of a page each, and as many pages in one. */
static void many_areas(void)
{
	const size_t nr = ksm_slow() > 1 ? 1000 : 30000;

	knob_override("/proc/sys/vm/max_map_count", "200000");
	for (int i = 0; i < 3; i++) {
		double together = pass_over(nr, false);
		double apart = pass_over(nr, true);

		ksm_note("a pass takes %.1f ms, in areas of their own %.1f ms",
			 together * 1e3, apart * 1e3);
		if (apart <= together * 30 + 0.05 * ksm_slow())
			return;
	}
	FAIL("areas are expensive");
}

/* Nearly all that can be mapped, and nearly nothing in it. */
static void sparse(void)
{
	const size_t huge = (size_t)(1ULL << 40), nr = 64;
	double alone, with;
	size_t mapped = 0;
	char *area;

	if (!huge)
		ksm_skip("there are no such addresses");
	area = mergeable_area(nr, 1, nr);
	alone = pass_seconds(5, NULL, 0);
	/* 1 TiB at a time, up to where addresses end */
	for (int i = 0; i < 120; i++) {
		char *room = mmap(NULL, huge, PROT_NONE, MAP_PRIVATE |
				  MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

		if (room == MAP_FAILED)
			break;
		CHECK(!mprotect(room + huge / 2, PAGE_SIZE,
				PROT_READ | PROT_WRITE));
		fill_page(room + huge / 2, 1000 + i);
		CHECK(!madvise(room, huge, MADV_MERGEABLE));
		mapped++;
	}
	CHECK_GE(mapped, 16);
	with = pass_seconds(5, NULL, 0);
	ksm_note("a pass takes %.2f ms, with %zu TiB of nothing %.2f ms",
		 alone * 1e3, mapped, with * 1e3);
	CHECK_GE(0.05 * ksm_slow() * 1e6, with * 1e6);
	VERIFY(area, nr, 1, nr);
}

static void hold_one_page(int in)
{
	char *page = mergeable_area(1, 77, 1);
	char byte;

	while (read(in, &byte, 1) > 0)
		;
	_exit(!page_is(page, 77));
}

/* A page each. */
static void many_processes(void)
{
	const int nr = ksm_slow() > 1 ? 200 : 2000;
	int ends[2], status, bad = 0;
	double took;

	knob_override("/proc/sys/kernel/threads-max", "30000");
	knob_override("/proc/sys/kernel/pid_max", "32768");
	ksm_set("max_page_sharing", 20000);
	at_full_speed();
	CHECK(!pipe(ends));
	for (int i = 0; i < nr; i++) {
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (!pid) {
			close(ends[1]);
			hold_one_page(ends[0]);
		}
	}
	ksm_scan(3);
	WAIT_FOR(ksm_get("pages_sharing") == nr - 1);
	took = pass_seconds(5, NULL, 0);
	ksm_note("a pass takes %.1f ms for %d processes", took * 1e3, nr);
	CHECK_GE(nr * 100 * ksm_slow(), took * 1e6);
	close(ends[1]);
	while (wait(&status) > 0)
		bad += status != 0;
	CHECK_EQ(bad, 0);
}

static const struct ksm_test tests[] = {
	{ "collisions_cost_little", collisions_cost_little },
	{ "colliding_pages_stay_apart", colliding_pages_stay_apart },
	{ "different_after_swapin", different_after_swapin },
	{ "found_behind_another", found_behind_another },
	{ "others_are_merged", others_are_merged },
	{ "churn_stops_nobody", churn_stops_nobody },
	{ "many_areas", many_areas },
	{ "sparse", sparse },
	{ "many_processes", many_processes },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
