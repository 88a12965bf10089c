// SPDX-License-Identifier: GPL-2.0
/* vm: --nodes 2 --swap 256M */
/*
 * Several threads that scan: how many there are, what they share, and what is
 * done to them and to those whose memory they scan meanwhile.
 */
#include <dirent.h>
#include "ksm_lib.h"

#define MMS	4
#define NR	512UL		/* pages of each */
#define CPUS	"/sys/devices/system/cpu/"

/* ---- the threads ---- */

static long possible_cpus(void)
{
	char buf[64];
	char *dash;

	CHECK_GE(file_read(CPUS "possible", buf, sizeof(buf)), 1);
	dash = strchr(buf, '-');
	return dash ? atoi(dash + 1) + 1 : 1;
}

static void need_threads(int nr)
{
	if (!ksm_has("scan_threads"))
		ksm_skip("ksmd scans alone here");
	if (possible_cpus() < nr)
		ksm_skip("one thread for each CPU, and fewer than %d", nr);
	ksm_set("scan_threads", nr);
}

/* How many helpers does ksmd have?  One that has ended is seen a little longer. */
static int count_helpers(void)
{
	struct dirent *entry;
	int nr = 0;
	DIR *proc;

	proc = opendir("/proc");
	CHECK(proc);
	while ((entry = readdir(proc))) {
		char path[300], name[32];

		snprintf(path, sizeof(path), "/proc/%s/comm", entry->d_name);
		nr += atoi(entry->d_name) &&
		      file_read(path, name, sizeof(name)) > 0 &&
		      !strncmp(name, "ksmd/", 5);
	}
	closedir(proc);
	return nr;
}

static long wakeups_of(const char *comm)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/status", pid_of(comm));
	return file_field(path, "voluntary_ctxt_switches");
}

static void check_errno(const char *value, int err)
{
	if (ksm_write("scan_threads", value, strlen(value)) != -err)
		FAIL("\"%s\" is not refused with errno %d", value, err);
}

static void knob(void)
{
	static const char * const nonsense[] = {
		"0", "-1", "", "x", "1 2", "2x", "0x2", "\xff", "4294967297",
		"18446744073709551617",
	};
	char over[32];

	need_threads(1);
	CHECK(!strcmp(ksm_as_found("scan_threads"), "1"));
	WAIT_FOR(!count_helpers());
	for (long nr = 1; nr <= possible_cpus(); nr++) {
		ksm_set("scan_threads", nr);
		CHECK_EQ(ksm_get("scan_threads"), nr);
		WAIT_FOR(count_helpers() == nr - 1);
		for (size_t i = 0; i < ARRAY_SIZE(nonsense); i++)
			check_errno(nonsense[i], nonsense[i][0] ? EINVAL : 0);
		CHECK_EQ(ksm_get("scan_threads"), nr);
	}
	snprintf(over, sizeof(over), "%ld", possible_cpus() + 1);
	check_errno(over, EINVAL);
	CHECK_EQ(ksm_get("scan_threads"), possible_cpus());
	ksm_set("scan_threads", 1);
	WAIT_FOR(!count_helpers());
}

/* A second one is kept on the second node. */
static void spread_over_nodes(void)
{
	char path[64], line[256], where[64] = "";
	int nodes[2];
	FILE *status;

	need_nodes(nodes, 2);
	need_threads(2);
	snprintf(path, sizeof(path), "/proc/%d/status", pid_of("ksmd/1"));
	status = fopen(path, "r");
	CHECK(status);
	while (fgets(line, sizeof(line), status))
		sscanf(line, "Cpus_allowed_list: %63s", where);
	fclose(status);
	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/cpulist",
		 nodes[1]);
	CHECK_GE(file_read(path, line, sizeof(line)), 1);
	line[strcspn(line, "\n")] = '\0';
	if (strcmp(where, line))
		FAIL("on CPU %s, while those of the node are %s", where, line);
}

/* ---- what they scan ---- */

/* In two halves, of which every other process has the second one first. */
struct content {
	size_t nr, distinct;
	uint64_t seed;
	bool turned;
};

/* Says when it is ready, and looks at its pages whenever it is told. */
static void hold_pages(struct peer *me, void *arg)
{
	const struct content *c = arg;
	const size_t nr = c->nr / 2, distinct = c->distinct / 2;
	char *area = map_pages(2 * nr), *half[2];

	for (int i = 0; i < 2; i++) {
		half[i] = area + (i ^ c->turned) * nr * PAGE_SIZE;
		fill_area(half[i], nr, c->seed + i * distinct, distinct);
	}
	CHECK(!madvise(area, 2 * nr * PAGE_SIZE, MADV_MERGEABLE));
	do {
		for (int i = 0; i < 2; i++)
			VERIFY(half[i], nr, c->seed + i * distinct, distinct);
		peer_send(me, 1);
	} while (peer_recv(me));
}

static void start_holders(struct peer *peers, int nr, const struct content *c,
			  bool alike)
{
	for (int i = 0; i < nr; i++) {
		struct content own = *c;

		own.turned = i % 2;
		if (!alike)
			own.seed += i * c->nr;
		peer_start(&peers[i], hold_pages, &own);
	}
	for (int i = 0; i < nr; i++)
		peer_recv(&peers[i]);
}

static void look_at_holders(struct peer *peers, int nr)
{
	for (int i = 0; i < nr; i++)
		peer_send(&peers[i], 1);
	for (int i = 0; i < nr; i++)
		peer_recv(&peers[i]);
}

static void end_holders(struct peer *peers, int nr)
{
	look_at_holders(peers, nr);
	for (int i = 0; i < nr; i++) {
		peer_send(&peers[i], 0);
		peer_join(&peers[i]);
	}
}

/* Passes of two threads look at each page once, and both of them do. */
static void scan_exactly(int mms, size_t nr)
{
	const struct content c = { .nr = nr, .distinct = nr, .seed = 100 };
	struct peer peers[MMS];
	long scanned, before;

	need_threads(2);
	start_holders(peers, mms, &c, false);
	ksm_one_pass();
	before = cpu_time("ksmd/1");
	for (int i = 0; i < 10; i++) {
		scanned = ksm_get("pages_scanned");
		ksm_one_pass();
		CHECK_EQ(ksm_get("pages_scanned") - scanned, mms * nr);
	}
	CHECK_GE(cpu_time("ksmd/1"), before + 1);
	CHECK_EQ(ksm_get("pages_unshared"), mms * nr);
	end_holders(peers, mms);
}

static void each_page_once(void)
{
	scan_exactly(MMS, NR);
}

static void each_page_of_one_mm_once(void)
{
	scan_exactly(1, MMS * NR);
}

/* ksmd, asleep for long, scans one portion and is then at @scanned. */
static void scan_portion(long scanned)
{
	static long calls;

	ksm_set("sleep_millisecs", 2000000 + calls++);
	WAIT_FOR(ksm_get("pages_scanned") == scanned);
	ksmd_lies_down();
	CHECK_EQ(ksm_get("pages_scanned"), scanned);
}

/*
 * pages_to_scan is for all of them together, to the page.  Passes are
 * interrupted wherever it may be, and end with their last page.
 */
static void portions(void)
{
	const struct content c = { .nr = NR, .distinct = NR, .seed = 100 };
	struct peer peers[MMS];
	long scanned, passes, end;

	need_threads(2);
	start_holders(peers, MMS, &c, false);
	ksm_one_pass();
	/* In the sleep after a scan, not in that for want of one */
	ksm_set("pages_to_scan", 0);
	ksm_set("run", 1);
	ksmd_lies_down();
	ksm_set("pages_to_scan", 777);
	scanned = ksm_get("pages_scanned");
	passes = ksm_get("full_scans");
	for (int pass = 0; pass < 3; pass++) {
		end = scanned + MMS * NR;
		while (scanned < end) {
			CHECK_EQ(ksm_get("full_scans"), passes + pass);
			scanned = scanned + 777 < end ? scanned + 777 : end;
			scan_portion(scanned);
		}
		WAIT_FOR(ksm_get("full_scans") == passes + pass + 1);
	}
	end_holders(peers, MMS);
}

/* All of what is equal, whoever has looked at it. */
static void merge_all(int mms, size_t nr, size_t distinct)
{
	const struct content c = { .nr = nr, .distinct = distinct, .seed = 7 };
	struct peer peers[MMS];
	long scans;

	need_threads(2);
	start_holders(peers, mms, &c, true);
	scans = ksm_get("full_scans");
	ksm_set("run", 1);
	if (!BECOMES(ksm_get("pages_shared") == (long)distinct &&
		     ksm_get("pages_sharing") == (long)(mms * nr - distinct),
		     20))
		FAIL("%ld pages shared, %ld sharing after %ld passes",
		     ksm_get("pages_shared"), ksm_get("pages_sharing"),
		     ksm_get("full_scans") - scans);
	ksm_note("merged after %ld passes", ksm_get("full_scans") - scans);
	look_at_holders(peers, mms);
	ksm_scan(3);
	CHECK_EQ(ksm_get("pages_shared"), distinct);
	CHECK_EQ(ksm_get("stable_node_dups"), 0);
	end_holders(peers, mms);
}

/*
 * pitfall 27: two threads want each other's pages all the time, and each holds
 * what the other wants.  Did they wait, they would wait for ever.
 */
static void merge_between_mms(void)
{
	for (double end = ksm_now() + 3; ksm_now() < end; ksm_set("run", 2))
		merge_all(2, MMS * NR / 2, MMS * NR / 2);
}

static void merge_between_many(void)
{
	merge_all(MMS, NR, NR);
}

static void merge_within_one(void)
{
	merge_all(1, MMS * NR, MMS * NR / 2);
}

/*
 * pitfall 27: few contents, so that two threads want the same merged pages, one
 * while it holds the other.  Did they wait, they would wait for ever.
 */
static void merge_few_contents(void)
{
	ksm_set("max_page_sharing", 100000);
	merge_all(MMS, NR, 2);
}

/* ---- how much they scan ---- */

/* For little work nobody else is woken, and for none nobody at all. */
static void helpers_rest(void)
{
	const struct content c = { .nr = NR, .distinct = NR, .seed = 100 };
	struct peer peers[MMS];
	long wakeups;

	need_threads(2);
	start_holders(peers, MMS, &c, false);
	ksm_set("pages_to_scan", 100);
	ksm_scan(1);
	wakeups = wakeups_of("ksmd/1");
	ksm_scan(2);
	CHECK_EQ(wakeups_of("ksmd/1"), wakeups);

	ksm_set("pages_to_scan", 2000);
	WAIT_FOR(wakeups_of("ksmd/1") > wakeups);
	end_holders(peers, MMS);
	/* What they had to do still is done when run has changed */
	ksm_set("run", 0);
	ksm_set("run", 1);
	usleep(200000 * ksm_slow());
	wakeups = wakeups_of("ksmd/1");
	CHECK(!BECOMES(wakeups_of("ksmd/1") > wakeups, 0.5));
}

/* ---- what is done to them ---- */

/* Pages that merge, in mms that are all looked at, at full speed. */
static void start_scanning(struct peer *peers)
{
	const struct content c = { .nr = NR, .distinct = NR / 2, .seed = 300 };

	need_threads(2);
	start_holders(peers, MMS, &c, true);
	ksm_set("pages_to_scan", 1000000);
	ksm_set("run", 1);
}

static void threads_come_and_go(void)
{
	double end = ksm_now() + 3 * ksm_slow();
	struct peer peers[MMS];
	long scans, turns = 0;

	start_scanning(peers);
	scans = ksm_get("full_scans");
	while (ksm_now() < end) {
		ksm_set("scan_threads", 1 + turns++ % 2);
		usleep(rand() % 5000);
	}
	ksm_note("%ld times, in %ld passes", turns,
		 ksm_get("full_scans") - scans);
	CHECK_GE(ksm_get("full_scans"), scans + 1);
	ksm_set("scan_threads", 1);
	WAIT_FOR(!count_helpers());
	WAIT_FOR(ksm_get("pages_shared") == NR / 2 &&
		 ksm_get("pages_sharing") == MMS * NR - NR / 2);
	end_holders(peers, MMS);
}

static void stopped_in_mid_pass(void)
{
	struct peer peers[MMS];
	double start, longest = 0;
	long scanned;

	start_scanning(peers);
	for (int i = 0; i < 20; i++) {
		WAIT_FOR(ksm_get("pages_sharing"));
		usleep(rand() % 20000);
		start = ksm_now();
		ksm_set("run", i % 2 ? 2 : 0);
		longest = ksm_now() - start > longest ?
			  ksm_now() - start : longest;
		scanned = ksm_get("pages_scanned");
		if (i % 2) {
			CHECK_EQ(ksm_get("pages_shared"), 0);
			CHECK_EQ(ksm_get("pages_sharing"), 0);
		}
		usleep(1000);
		CHECK_EQ(ksm_get("pages_scanned"), scanned);
		look_at_holders(peers, MMS);
		ksm_set("run", 1);
	}
	ksm_note("stopped within %.3f s", longest);
	end_holders(peers, MMS);
}

/* A child shares what is merged, has some of it for itself, and leaves. */
static void come_and_go(char *area)
{
	char *own = mergeable_area(NR / 2, 300, NR / 2);

	usleep(rand() % 20000);
	for (size_t i = 0; i < NR; i += 7)
		fill_page(area + i * PAGE_SIZE, 5000 + i);
	usleep(rand() % 20000);
	for (size_t i = 0; i < NR; i += 7)
		CHECK(page_is(area + i * PAGE_SIZE, 5000 + i));
	VERIFY(own, NR / 2, 300, NR / 2);
	_exit(0);
}

/* pitfall 16: exits and forks while two threads are inside */
static void exits_and_forks(void)
{
	double end = ksm_now() + 5 * ksm_slow();
	struct peer peers[MMS];
	int status, forks = 0;
	long scans;
	char *area;

	start_scanning(peers);
	area = mergeable_area(NR, 300, NR / 2);
	scans = ksm_get("full_scans");
	fflush(stdout);
	while (ksm_goes_on(end, ksm_get("full_scans") >= scans + 2)) {
		for (int i = 0; i < 4; i++) {
			pid_t pid = fork();

			CHECK(pid >= 0);
			if (!pid) {
				srand(++forks);
				come_and_go(area);
			}
			forks++;
		}
		for (int i = 0; i < 4; i++) {
			CHECK(wait(&status) > 0);
			CHECK_EQ(status, 0);
		}
	}
	/* However fast they come, passes end. */
	ksm_note("%d forks, %ld passes", forks,
		 ksm_get("full_scans") - scans);
	CHECK_GE(ksm_get("full_scans"), scans + 2);
	VERIFY(area, NR, 300, NR / 2);
	CHECK(!munmap(area, NR * PAGE_SIZE));
	end_holders(peers, MMS);
	WAIT_FOR(!ksm_get("pages_shared") && !ksm_get("pages_sharing") &&
		 !ksm_get("pages_unshared") && !ksm_get("metadata_bytes"));
}

/* pitfall 29: the system goes to sleep while all of them are at work */
static void frozen_for_suspend(void)
{
	struct peer peers[MMS];
	long scans;

	start_scanning(peers);
	for (int i = 0; i < 5; i++) {
		suspend_and_resume();
		scans = ksm_get("full_scans");
		WAIT_FOR(ksm_get("full_scans") > scans);
	}
	end_holders(peers, MMS);
}

/* A thread loses its CPU, and works all the same, then and later. */
static void cpu_goes_away(void)
{
	const char *online = CPUS "cpu1/online";
	struct peer peers[MMS];
	long before, scans;

	if (access(online, W_OK))
		ksm_skip("no CPU that can be taken away");
	start_scanning(peers);
	for (int i = 0; i < 6; i++) {
		CHECK(!knob_override(online, i % 2 ? "1" : "0"));
		before = cpu_time("ksmd/1");
		scans = ksm_get("full_scans");
		WAIT_FOR(cpu_time("ksmd/1") > before &&
			 ksm_get("full_scans") > scans + 1);
	}
	end_holders(peers, MMS);
}

static const struct ksm_test tests[] = {
	{ "knob", knob },
	{ "spread_over_nodes", spread_over_nodes },
	{ "each_page_once", each_page_once },
	{ "each_page_of_one_mm_once", each_page_of_one_mm_once },
	{ "portions", portions },
	{ "merge_between_mms", merge_between_mms },
	{ "merge_between_many", merge_between_many },
	{ "merge_within_one", merge_within_one },
	{ "merge_few_contents", merge_few_contents },
	{ "helpers_rest", helpers_rest },
	{ "threads_come_and_go", threads_come_and_go },
	{ "stopped_in_mid_pass", stopped_in_mid_pass },
	{ "exits_and_forks", exits_and_forks },
	{ "frozen_for_suspend", frozen_for_suspend },
	{ "cpu_goes_away", cpu_goes_away },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
