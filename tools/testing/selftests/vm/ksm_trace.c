// SPDX-License-Identifier: GPL-2.0
/* vm: --nodes 2 --swap 256M */
/* stock-fails: migration */
/*
 * The trace events: they are there, they are hit, and they say what they
 * always said.
 */
#include <regex.h>
#include <sys/mount.h>
#include "ksm_lib.h"

#define OWN_TRACING	"/tmp/ksm_test_tracing"

#define POINTER		"(0x)?[0-9a-f]+"
#define NUMBER		"[0-9]+"
#define PFN		"[0-9]{1,12}"	/* -1 is longer */
#define ERROR		"-?[0-9]+"

static const struct event {
	const char *name;
	const char *text;
	bool since_ours;	/* not in Linux 6.12 */
} events[] = {
	{ "ksm_start_scan", "seq " NUMBER " rmap size " NUMBER },
	{ "ksm_stop_scan", "seq " NUMBER " rmap size " NUMBER },
	{ "ksm_enter", "mm " POINTER },
	{ "ksm_exit", "mm " POINTER },
	{ "ksm_merge_one_page",
	  "ksm pfn " NUMBER " rmap_item " POINTER " mm " POINTER
	  " error " ERROR },
	{ "ksm_merge_with_ksm_page",
	  "(ksm )?pfn " NUMBER " rmap_item " POINTER " mm " POINTER
	  " error " ERROR },
	{ "ksm_remove_ksm_page", "pfn " PFN },
	{ "ksm_remove_rmap_item",
	  "pfn " PFN " rmap_item " POINTER " mm " POINTER },
	{ "ksm_migrate_page",
	  "old_pfn " PFN " new_pfn " PFN
	  " sharers 2 old_nid " NUMBER " new_nid " NUMBER, true },
	{ "ksm_advisor",
	  "ksm scan time " NUMBER " pages_to_scan " NUMBER
	  " cpu percent " NUMBER },
};

static const char *tracing;

static const char *trace_path(const char *file)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s", tracing, file);
	return path;
}

static void need_tracing(void)
{
	tracing = "/sys/kernel/tracing";
	if (!access(trace_path("events"), F_OK))
		return;
	tracing = OWN_TRACING;
	mkdir(tracing, 0700);
	if (access(trace_path("events"), F_OK) &&
	    mount("none", tracing, "tracefs", 0, NULL))
		ksm_skip("no tracefs");
}

/* Lines of this event, all of which must look as they are to. */
static long count_lines(const struct event *event)
{
	char pattern[256], line[512];
	long found = 0;
	regex_t good;
	FILE *f;

	snprintf(pattern, sizeof(pattern), ": %s: %s\n$", event->name,
		 event->text);
	CHECK(!regcomp(&good, pattern, REG_EXTENDED | REG_NOSUB));
	snprintf(pattern, sizeof(pattern), ": %s:", event->name);
	f = fopen(trace_path("trace"), "r");
	CHECK(f);
	while (fgets(line, sizeof(line), f)) {
		if (line[0] == '#' || !strstr(line, pattern))
			continue;
		if (regexec(&good, line, 0, NULL, 0))
			FAIL("unexpected: %s", line);
		found++;
	}
	fclose(f);
	regfree(&good);
	return found;
}

static void start_tracing(void)
{
	need_tracing();
	for (size_t i = 0; i < ARRAY_SIZE(events); i++) {
		char path[64];

		snprintf(path, sizeof(path), "events/ksm/%s/enable",
			 events[i].name);
		if (knob_override(trace_path(path), "1") &&
		    !events[i].since_ours)
			FAIL("no event %s", events[i].name);
	}
	file_write(trace_path("trace"), "", 0);
	close(open(trace_path("trace"), O_WRONLY | O_TRUNC));
	file_print(trace_path("tracing_on"), "1");
	/* Idle passes would fill the buffer. */
	ksm_set("sleep_millisecs", 20);
}

static void check_seen(const char *name, long least)
{
	for (size_t i = 0; i < ARRAY_SIZE(events); i++)
		if (!strcmp(events[i].name, name)) {
			long found = count_lines(&events[i]);

			ksm_note("%s: %ld", name, found);
			CHECK_GE(found, least);
			return;
		}
	FAIL("no event %s in the table", name);
}

static void peer_merging(struct peer *me, void *arg)
{
	char *area = mergeable_area(8, 1, 1);

	peer_send(me, 0);
	peer_recv(me);
	VERIFY(area, 8, 1, 1);
}

static void life_of_a_page(void)
{
	struct peer peer;

	start_tracing();
	peer_start(&peer, peer_merging, NULL);
	peer_recv(&peer);
	check_seen("ksm_enter", 1);
	ksm_settle();
	CHECK_EQ(ksm_get("pages_shared"), 1);
	CHECK_EQ(ksm_get("pages_sharing"), 7);
	check_seen("ksm_start_scan", 3);
	check_seen("ksm_stop_scan", 3);
	check_seen("ksm_merge_with_ksm_page", 7);
	peer_send(&peer, 0);
	peer_join(&peer);
	check_seen("ksm_exit", 1);
	ksm_set("run", 2);
	check_seen("ksm_remove_ksm_page", 1);
}

/* This one is for the zero page. */
static void empty_page(void)
{
	char *area = map_pages(8);

	start_tracing();
	ksm_set("use_zero_pages", 1);
	memset(area, 0, 8 * PAGE_SIZE);
	CHECK(!madvise(area, 8 * PAGE_SIZE, MADV_MERGEABLE));
	ksm_settle();
	CHECK_EQ(proc_ksm(getpid(), "ksm_zero_pages"), 8);
	check_seen("ksm_merge_one_page", 8);
	CHECK(all_zero(area, 8));
}

/* The node is found stale before its mappings have gone from the lists. */
static void stale_node(void)
{
	char *area, *more;

	start_tracing();
	area = mergeable_area(8, 10, 1);
	ksm_settle();
	CHECK_EQ(count_ksm(area, 8), 8);
	fill_area(area, 8, 20, 8);
	more = mergeable_area(8, 10, 1);
	ksm_settle();
	CHECK_EQ(count_ksm(more, 8), 8);
	check_seen("ksm_remove_ksm_page", 1);
	check_seen("ksm_remove_rmap_item", 1);
	VERIFY(area, 8, 20, 8);
	VERIFY(more, 8, 10, 1);
}

/* What went where: the same as /proc/PID/pagemap says. */
static void check_move(const char *area, unsigned long from, int from_nid,
		       int to_nid)
{
	char text[128], line[512];
	bool found = false;
	FILE *f;

	snprintf(text, sizeof(text),
		 "old_pfn %lu new_pfn %lu sharers 2 old_nid %d new_nid %d\n",
		 from, pfn(area), from_nid, to_nid);
	f = fopen(trace_path("trace"), "r");
	CHECK(f);
	while (!found && fgets(line, sizeof(line), f))
		found = strstr(line, text);
	fclose(f);
	if (!found)
		FAIL("no event says %s", text);
}

/* stock: expected failure: there is no such event */
static void migration(void)
{
	unsigned long *from;
	char *area, *second;
	int nodes[2];

	need_nodes(nodes, 2);
	area = merged_pairs(16, 40, &second);
	move_all(area, 16, nodes[0]);
	from = pfns(area, 16);
	start_tracing();
	move_all(area, 16, nodes[1]);
	for (size_t i = 0; i < 16; i++)
		check_move(area + i * PAGE_SIZE, from[i], nodes[0], nodes[1]);
	check_seen("ksm_migrate_page", 16);
	free(from);
}

static void advisor(void)
{
	start_tracing();
	mergeable_area(64, 30, 64);
	CHECK_EQ(ksm_write("advisor_mode", "scan-time", 9), 0);
	ksm_scan(3);
	check_seen("ksm_advisor", 1);
}

static const struct ksm_test tests[] = {
	{ "life_of_a_page", life_of_a_page },
	{ "empty_page", empty_page },
	{ "stale_node", stale_node },
	{ "migration", migration },
	{ "advisor", advisor },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
