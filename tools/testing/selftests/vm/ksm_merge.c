// SPDX-License-Identifier: GPL-2.0
/* stock-fails: kpageflags */
/*
 * Merging, counting what was merged, and taking it apart again.
 */
#include <pthread.h>
#include "ksm_lib.h"

/* Records for so many pages, in bytes: the stock kernel's, and some rounding. */
#define RECORDS(nr)	((long)(nr) * 64 + 4 * (long)PAGE_SIZE)

static void identical_pages(void)
{
	const size_t nr = 64;
	char *area = mergeable_area(nr, 1, 1);
	long profit;

	ksm_settle();
	CHECK_EQ(ksm_get("pages_shared"), 1);
	CHECK_EQ(ksm_get("pages_sharing"), nr - 1);
	CHECK_EQ(count_ksm(area, nr), nr);
	for (size_t i = 0; i < nr; i++)
		CHECK_EQ(pfn(area + i * PAGE_SIZE), pfn(area));
	CHECK_EQ(page_mapcount(pfn(area)), nr);
	CHECK_EQ(proc_merging(getpid()), nr);
	CHECK_EQ(smaps_kb(area, "KSM"), nr * PAGE_SIZE / 1024);
	profit = ksm_get("general_profit");
	CHECK_GE(profit, (long)((nr - 1) * PAGE_SIZE) - RECORDS(nr));
	CHECK_GE((nr - 1) * PAGE_SIZE, profit);
	VERIFY(area, nr, 1, 1);
}

/* stock: expected failure: KPF_KSM is set for every anonymous page */
static void kpageflags(void)
{
	char *area = mergeable_area(8, 50, 1), *plain = map_pages(1);

	fill_page(plain, 50);
	ksm_settle();
	CHECK_EQ(count_ksm(area, 8), 8);
	CHECK(page_flags(pfn(area)) & BIT_ULL(KPF_KSM));
	CHECK(page_flags(pfn(area)) & BIT_ULL(KPF_ANON));
	CHECK(page_flags(pfn(plain)) & BIT_ULL(KPF_ANON));
	CHECK(!(page_flags(pfn(plain)) & BIT_ULL(KPF_KSM)));
	VERIFY(area, 8, 50, 1);
}

static void groups_of_pages(void)
{
	const size_t nr = 256, distinct = 16;
	char *area = mergeable_area(nr, 100, distinct);
	unsigned long *at;

	ksm_settle();
	CHECK_EQ(ksm_get("pages_shared"), distinct);
	CHECK_EQ(ksm_get("pages_sharing"), nr - distinct);
	at = pfns(area, nr);
	for (size_t i = 0; i < nr; i++)
		for (size_t j = 0; j < distinct; j++)
			CHECK_EQ(at[i] == at[j], i % distinct == j);
	VERIFY(area, nr, 100, distinct);
}

static void unique_pages(void)
{
	const size_t nr = 128;
	char *area = mergeable_area(nr, 200, nr);

	ksm_scan(3);
	WAIT_FOR(ksm_get("pages_unshared") == (long)nr &&
		 !ksm_get("pages_volatile"));
	ksm_set("run", 0);
	CHECK_EQ(ksm_get("pages_shared"), 0);
	CHECK_EQ(ksm_get("pages_sharing"), 0);
	CHECK_EQ(count_ksm(area, nr), 0);
	CHECK_GE(0, ksm_get("general_profit"));
	CHECK_EQ(proc_merging(getpid()), 0);
	VERIFY(area, nr, 200, nr);
}

/* Pages that differ in their last, or first, byte only are not the same. */
static void almost_identical(void)
{
	const size_t nr = 64;
	char *area = map_pages(nr);

	fill_area(area, nr, 1, 1);
	for (size_t i = 0; i < nr; i++)
		area[i * PAGE_SIZE + (i % 2 ? 0 : PAGE_SIZE - 1)] = 100 + i;
	CHECK(!madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE));
	ksm_settle();
	CHECK_EQ(ksm_get("pages_sharing"), 0);
	CHECK_EQ(count_ksm(area, nr), 0);
	for (size_t i = 0; i < nr; i++)
		CHECK_EQ(area[i * PAGE_SIZE + (i % 2 ? 0 : PAGE_SIZE - 1)],
			 (char)(100 + i));
}

struct changing {
	char *area;
	size_t nr;
	bool stop;
};

static void *keep_changing(void *arg)
{
	struct changing *c = arg;
	uint64_t n = 0;

	while (!read_now(c->stop))
		for (size_t i = 0; i < c->nr; i++)
			write_byte(c->area + i * PAGE_SIZE, n++);
	return NULL;
}

static void volatile_pages(void)
{
	struct changing c = { .nr = 64 };
	pthread_t thread;

	c.area = mergeable_area(c.nr, 300, c.nr);
	CHECK(!pthread_create(&thread, NULL, keep_changing, &c));
	ksm_scan(3);
	WAIT_FOR(ksm_get("pages_volatile") >= (long)c.nr / 2);
	CHECK_EQ(ksm_get("pages_sharing"), 0);
	write_now(c.stop, true);
	pthread_join(thread, NULL);
	/* At rest they are candidates like any other. */
	WAIT_FOR(ksm_get("pages_unshared") == (long)c.nr);
	ksm_set("run", 0);
}

static void peer_merges(struct peer *me, void *arg)
{
	const size_t nr = 32;
	char *area = mergeable_area(nr, 400, nr);

	peer_send(me, (long)area);
	peer_recv(me);
	VERIFY(area, nr, 400, nr);
	CHECK_EQ(count_ksm(area, nr), nr);
	CHECK_EQ(proc_merging(getpid()), nr);
	peer_send(me, 0);

	/* Every second process writes, to every second page. */
	peer_recv(me);
	if ((long)arg % 2)
		for (size_t i = 0; i < nr; i += 2)
			fill_page(area + i * PAGE_SIZE, 1000 + i + (long)arg);
	peer_send(me, 0);
	peer_recv(me);
	for (size_t i = 0; i < nr; i++) {
		bool mine = (long)arg % 2 && i % 2 == 0;

		CHECK(page_is(area + i * PAGE_SIZE,
			      mine ? 1000 + i + (long)arg : 400 + i));
		CHECK_EQ(is_ksm(area + i * PAGE_SIZE), !mine);
	}
}

static void across_processes(void)
{
	const size_t nr = 32, peers = 4;
	struct peer peer[4];
	char *area[4];

	for (size_t p = 0; p < peers; p++) {
		peer_start(&peer[p], peer_merges, (void *)p);
		area[p] = (char *)peer_recv(&peer[p]);
	}
	ksm_settle();
	CHECK_EQ(ksm_get("pages_shared"), nr);
	CHECK_EQ(ksm_get("pages_sharing"), nr * (peers - 1));
	for (size_t p = 0; p < peers; p++)
		CHECK_EQ(count_same(peer[p].pid, area[p], peer[0].pid, area[0],
				    nr), nr);
	for (int step = 0; step < 2; step++) {
		for (size_t p = 0; p < peers; p++)
			peer_send(&peer[p], 0);
		for (size_t p = 0; p < peers; p++)
			peer_recv(&peer[p]);
	}
	for (size_t p = 0; p < peers; p++)
		peer_send(&peer[p], 0);
	for (size_t p = 0; p < peers; p++)
		peer_join(&peer[p]);

	/* All of them are gone: so are the pages. */
	ksm_set("run", 1);
	WAIT_FOR(!ksm_get("pages_shared") && !ksm_get("pages_sharing"));
}

static void scan_counters(void)
{
	const size_t nr = 100;
	char *area = mergeable_area(nr, 500, nr);
	long scans, scanned;

	ksm_scan(2);
	/* In this order: any number of passes may end between the two */
	scanned = ksm_get("pages_scanned");
	scans = ksm_get("full_scans");
	WAIT_FOR(ksm_get("full_scans") >= scans + 5);
	/* The pass under way at the start may have been counted already. */
	CHECK_GE(ksm_get("pages_scanned") - scanned, 4 * nr);

	ksm_set("run", 0);
	scans = ksm_get("full_scans");
	scanned = ksm_get("pages_scanned");
	CHECK(!BECOMES(ksm_get("full_scans") != scans ||
		       ksm_get("pages_scanned") != scanned, 0.3));

	/* Once started again it goes on where it was. */
	ksm_set("run", 1);
	WAIT_FOR(ksm_get("full_scans") > scans);
	CHECK_GE(ksm_get("pages_scanned"), scanned + 1);
	VERIFY(area, nr, 500, nr);
}

static void ksm_stat_lines(void)
{
	static const char * const fields[] = {
		"ksm_rmap_items", "ksm_zero_pages", "ksm_merging_pages",
		"ksm_process_profit",
	};
	const size_t nr = 128, distinct = 2;
	char *area = mergeable_area(nr, 600, distinct);
	char buf[512], *line;
	long saved;

	ksm_settle();
	CHECK_GE(file_read("/proc/self/ksm_stat", buf, sizeof(buf)), 1);
	line = strtok(buf, "\n");
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		CHECK(line && !strncmp(line, fields[i], strlen(fields[i])));
		CHECK_EQ(line[strlen(fields[i])], ' ');
		line = strtok(NULL, "\n");
	}

	CHECK_EQ(proc_ksm(getpid(), "ksm_rmap_items"), nr);
	CHECK_EQ(proc_ksm(getpid(), "ksm_merging_pages"), nr);
	CHECK_EQ(proc_merging(getpid()), nr);
	CHECK_EQ(proc_ksm(getpid(), "ksm_zero_pages"), 0);
	saved = nr * PAGE_SIZE;
	CHECK_GE(proc_ksm(getpid(), "ksm_process_profit"),
		 saved - RECORDS(nr));
	CHECK_GE(saved - 1, proc_ksm(getpid(), "ksm_process_profit"));

	/* The child has merged nothing yet, and the parent loses nothing. */
	if (!fork()) {
		CHECK_EQ(proc_merging(getpid()), 0);	/* pitfall 19 */
		CHECK_EQ(proc_ksm(getpid(), "ksm_rmap_items"), 0);
		VERIFY(area, nr, 600, distinct);
		_exit(0);
	}
	int status;

	CHECK(wait(&status) > 0 && !status);
	CHECK_EQ(proc_merging(getpid()), nr);
	VERIFY(area, nr, 600, distinct);
}

static void copy_on_write(void)
{
	const size_t nr = 64;
	char *area = mergeable_area(nr, 700, 4);
	long cow;

	ksm_settle();
	CHECK_EQ(count_ksm(area, nr), nr);
	cow = vm_event("cow_ksm");
	for (size_t i = 0; i < nr; i += 2) {
		area[i * PAGE_SIZE + i] ^= 1;
		CHECK(!is_ksm(area + i * PAGE_SIZE));
		CHECK(is_ksm(area + (i + 1) * PAGE_SIZE));
	}
	CHECK_EQ(vm_event("cow_ksm") - cow, nr / 2);
	/* A second write has nothing left to copy. */
	for (size_t i = 0; i < nr; i += 2)
		area[i * PAGE_SIZE + i] ^= 1;
	CHECK_EQ(vm_event("cow_ksm") - cow, nr / 2);
	VERIFY(area, nr, 700, 4);

	/* And with the old content back they merge once more. */
	ksm_settle();
	CHECK_EQ(count_ksm(area, nr), nr);
	CHECK_EQ(ksm_get("pages_shared"), 4);
	CHECK_EQ(ksm_get("pages_sharing"), nr - 4);
	VERIFY(area, nr, 700, 4);
}

static void last_mapping_written(void)
{
	const size_t nr = 2;
	char *area = mergeable_area(nr, 750, 1);

	ksm_settle();
	CHECK_EQ(count_ksm(area, nr), nr);
	/* Only one is left, and it is still nobody's to write to in place. */
	CHECK(!munmap(area + PAGE_SIZE, PAGE_SIZE));
	CHECK_EQ(page_mapcount(pfn(area)), 1);
	fill_page(area, 751);
	CHECK(!is_ksm(area));
	CHECK(page_is(area, 751));
	ksm_set("run", 1);
	WAIT_FOR(!ksm_get("pages_shared") && !ksm_get("pages_sharing"));
	CHECK(page_is(area, 751));
}

static void unmerge_part(void)
{
	const size_t nr = 90, part = 30;
	char *area = mergeable_area(nr, 800, 3);
	char *middle = area + part * PAGE_SIZE;

	ksm_settle();
	CHECK_EQ(count_ksm(area, nr), nr);
	CHECK(!madvise(middle, part * PAGE_SIZE, MADV_UNMERGEABLE));
	CHECK_EQ(count_ksm(area, part), part);
	CHECK_EQ(count_ksm(middle, part), 0);
	CHECK_EQ(count_ksm(middle + part * PAGE_SIZE, part), part);
	CHECK(smaps_flag(area, "mg"));
	CHECK(!smaps_flag(middle, "mg"));
	CHECK_EQ(smaps_kb(middle, "KSM"), 0);
	VERIFY(area, nr, 800, 3);

	/* It stays out of it. */
	ksm_settle();
	CHECK_EQ(count_ksm(middle, part), 0);
	CHECK_EQ(ksm_get("pages_shared"), 3);
	CHECK_EQ(ksm_get("pages_sharing"), nr - part - 3);
	CHECK_EQ(proc_merging(getpid()), nr - part);

	CHECK(!madvise(middle, part * PAGE_SIZE, MADV_MERGEABLE));
	ksm_settle();
	CHECK_EQ(count_ksm(area, nr), nr);
	VERIFY(area, nr, 800, 3);
}

static void peer_unmerged(struct peer *me, void *arg)
{
	const size_t nr = 64;
	char *area = mergeable_area(nr, 900, 8);

	peer_send(me, 0);
	while (peer_recv(me)) {
		VERIFY(area, nr, 900, 8);
		peer_send(me, count_ksm(area, nr));
	}
}

static long peer_count(struct peer *p)
{
	peer_send(p, 1);
	return peer_recv(p);
}

/* run = 2, over and over, from a stopped and from a running ksmd. */
static void unmerge_all(void)
{
	const size_t nr = 64;
	struct peer peer;
	char *area;

	peer_start(&peer, peer_unmerged, NULL);
	peer_recv(&peer);
	area = mergeable_area(nr, 900, 8);
	for (int round = 0; round < 4; round++) {
		if (round % 2)
			ksm_settle();
		else
			ksm_scan(4);
		WAIT_FOR(count_ksm(area, nr) == nr &&
			 peer_count(&peer) == (long)nr);
		CHECK_EQ(ksm_get("pages_shared"), 8);
		CHECK_EQ(ksm_get("pages_sharing"), 2 * nr - 8);

		ksm_set("run", 2);
		CHECK_EQ(ksm_get("run"), 2);
		CHECK_EQ(count_ksm(area, nr), 0);
		CHECK_EQ(peer_count(&peer), 0);
		CHECK_EQ(ksm_get("pages_shared"), 0);
		CHECK_EQ(ksm_get("pages_sharing"), 0);
		CHECK_EQ(ksm_get("pages_unshared"), 0);
		CHECK_EQ(ksm_get("pages_volatile"), 0);
		CHECK_EQ(proc_merging(getpid()), 0);
		CHECK_EQ(proc_ksm(getpid(), "ksm_rmap_items"), 0);
		CHECK_GE(0, ksm_get("general_profit"));
		CHECK_GE(ksm_get("general_profit"), -RECORDS(0));
		VERIFY(area, nr, 900, 8);

		ksm_set("run", 2);	/* pitfall 28: once more is no harm */
		CHECK_EQ(count_ksm(area, nr), 0);
		CHECK(smaps_flag(area, "mg"));
	}
	peer_send(&peer, 0);
	peer_join(&peer);
}

/* pitfall 28: what madvise() has unmerged, a scan in parallel leaves alone */
static void unmerge_against_scan(void)
{
	const size_t nr = 64, rounds = 20;
	char *area = mergeable_area(nr, 950, 2);
	char *other = mergeable_area(8, 950, 2);
	size_t merged = 0;

	ksm_scan(1);
	for (size_t round = 0; round < rounds; round++) {
		if (BECOMES(count_ksm(area, nr) > nr / 2, 5))
			merged++;
		CHECK(!madvise(area, nr * PAGE_SIZE, MADV_UNMERGEABLE));
		CHECK_EQ(count_ksm(area, nr), 0);
		if (round % 4 == 0)
			ksm_scan(2);
		CHECK_EQ(count_ksm(area, nr), 0);
		VERIFY(area, nr, 950, 2);
		CHECK(!madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE));
	}
	CHECK_EQ(merged, rounds);
	VERIFY(other, 8, 950, 2);
}

/* ---- writers against the merge ---- */

#define RACE_PAGES	48
#define RACE_SECONDS	4

struct writer {
	char *area;
	int slot;
	unsigned int seed;
	long lost;
};

static bool race_over;

static uint64_t *race_word(struct writer *w, size_t page)
{
	return (uint64_t *)(w->area + page * PAGE_SIZE) + w->slot;
}

/*
 * Write the same number to every page, look whether it stays there, and give
 * ksmd a chance to find the pages equal before the next one.
 */
static void *write_rounds(void *arg)
{
	struct writer *w = arg;
	uint64_t n = 0;

	while (!read_now(race_over)) {
		n++;
		for (size_t i = 0; i < RACE_PAGES; i++)
			write_now(*race_word(w, i), n);
		for (int look = 0; look < 2; look++) {
			for (size_t i = 0; i < RACE_PAGES; i++)
				w->lost += read_now(*race_word(w, i)) != n;
			if (!look)
				usleep(rand_r(&w->seed) % 30000);
		}
		/* One page after the other is changed while being merged. */
		for (size_t i = 0; i < RACE_PAGES; i++)
			for (int burst = 0; burst < 50; burst++) {
				write_now(*race_word(w, i), ++n);
				w->lost += read_now(*race_word(w, i)) != n;
			}
	}
	return NULL;
}

/* pitfall 7: no write is lost between the comparison and the merge */
static void writers_against_merge(void)
{
	char *area = mergeable_area(RACE_PAGES, 970, 1);
	struct writer writer[3];
	pthread_t thread[3];
	long cow = vm_event("cow_ksm");

	ksm_scan(1);
	for (int i = 0; i < 3; i++) {
		writer[i] = (struct writer) {
			.area = area, .slot = i, .seed = i,
		};
		CHECK(!pthread_create(&thread[i], NULL, write_rounds,
				      &writer[i]));
	}
	sleep(RACE_SECONDS);
	WAIT_FOR(vm_event("cow_ksm") > cow);
	write_now(race_over, true);
	for (int i = 0; i < 3; i++) {
		pthread_join(thread[i], NULL);
		CHECK_EQ(writer[i].lost, 0);
	}
	ksm_note("%ld writes to merged pages", vm_event("cow_ksm") - cow);

	/* What was not written to is as it was, and all of it merges. */
	for (size_t i = 0; i < RACE_PAGES; i++)
		fill_page(area + i * PAGE_SIZE, 970);
	ksm_settle();
	CHECK_EQ(count_ksm(area, RACE_PAGES), RACE_PAGES);
	VERIFY(area, RACE_PAGES, 970, 1);
}

/* The kernel writes into user memory too: read(2) into merged pages. */
static void kernel_writes(void)
{
	const size_t nr = 16;
	char *area = mergeable_area(nr, 990, 1);
	char page[PAGE_SIZE];
	int fds[2];

	fill_page(page, 991);
	ksm_settle();
	CHECK_EQ(count_ksm(area, nr), nr);
	CHECK(!pipe(fds));
	for (size_t i = 0; i < nr; i += 2) {
		CHECK(write(fds[1], page, PAGE_SIZE) == PAGE_SIZE);
		CHECK(read(fds[0], area + i * PAGE_SIZE, PAGE_SIZE) ==
		      PAGE_SIZE);
		CHECK(!is_ksm(area + i * PAGE_SIZE));
	}
	for (size_t i = 0; i < nr; i++)
		CHECK(page_is(area + i * PAGE_SIZE, 990 + (i % 2 == 0)));
}

/* Written with what was there: merged again as soon as it is looked at. */
static void same_again(void)
{
	const size_t nr = 64;
	char *area = mergeable_area(nr, 9000, 4);

	ksm_settle();
	ksm_one_pass();
	CHECK_EQ(count_ksm(area, nr), nr);
	for (size_t i = 0; i < nr; i += 3)
		fill_page(area + i * PAGE_SIZE, 9000 + i % 4);
	CHECK_EQ(count_ksm(area, nr), nr - (nr + 2) / 3);
	ksm_one_pass();
	CHECK_EQ(count_ksm(area, nr), nr);
	CHECK_EQ(ksm_get("pages_shared"), 4);
	VERIFY(area, nr, 9000, 4);
}

/* A child still needs the records: that does not hold up the new content. */
static void rewritten_after_fork(void)
{
	const size_t nr = 64;
	char *area = mergeable_area(nr, 9100, 4);
	pid_t child;

	ksm_settle();
	ksm_one_pass();
	CHECK_EQ(count_ksm(area, nr), nr);
	child = fork();
	if (!child) {
		pause();
		_exit(0);
	}
	fill_area(area, nr, 9200, 4);
	/* Seen in the first, merged in the second. */
	ksm_one_pass();
	ksm_one_pass();
	CHECK_EQ(count_ksm(area, nr), nr);
	VERIFY(area, nr, 9200, 4);
}

static const struct ksm_test tests[] = {
	{ "identical_pages", identical_pages },
	{ "kpageflags", kpageflags },
	{ "groups_of_pages", groups_of_pages },
	{ "unique_pages", unique_pages },
	{ "almost_identical", almost_identical },
	{ "volatile_pages", volatile_pages },
	{ "across_processes", across_processes },
	{ "scan_counters", scan_counters },
	{ "ksm_stat_lines", ksm_stat_lines },
	{ "copy_on_write", copy_on_write },
	{ "last_mapping_written", last_mapping_written },
	{ "unmerge_part", unmerge_part },
	{ "unmerge_all", unmerge_all },
	{ "unmerge_against_scan", unmerge_against_scan },
	{ "writers_against_merge", writers_against_merge },
	{ "kernel_writes", kernel_writes },
	{ "same_again", same_again },
	{ "rewritten_after_fork", rewritten_after_fork },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
