// SPDX-License-Identifier: GPL-2.0
/*
 * How fast pages are scanned once KSM knows them, if each that is not merged is written to, with what it has
 * already, between two passes; and what KSM keeps for a page.
 * usage: scan-speed MIB MERGED-PERCENT PASSES
 * prints:
 *   steady    pages/s of a pass, the first ones left out
 *   of-read   the same, as a part of what plain reading does
 *   idle      ns for each page of a pass, if nothing has been written since the one before
 *   record    bytes that KSM keeps for each page
 *   rest      milliseconds that run = 2 takes if nothing is merged and ksmd is at rest
 *   unmerge   the same, if ksmd is at work
 */
#include <stdlib.h>
#include "bench.h"

#define COPIES	16
#define READS	5

static char *area;
static size_t pages, merged_percent;

static bool is_merged(size_t page)
{
	return page % 100 < merged_percent;
}

/* Copies of one content are far apart. */
static long fill(void)
{
	size_t contents = pages * merged_percent / 100 / COPIES + 1, page;
	long merged = 0;

	for (page = 0; page < pages; page++) {
		if (is_merged(page))
			fill_page(area + page * PAGE_SIZE, merged++ % contents);
		else
			fill_page(area + page * PAGE_SIZE, pages + page);
	}
	return merged;
}

static void rewrite_all(void)
{
	size_t page;

	for (page = 0; page < pages; page++)
		if (!is_merged(page))
			rewrite(area + page * PAGE_SIZE);
}

static void leave_all(void)
{
}

typedef uint64_t vector __attribute__((vector_size(16)));

/* Fast enough to wait for nothing but the memory */
static double read_all(void)
{
	const vector *at = (const vector *)area, *end = at + pages * PAGE_SIZE / sizeof(*at);
	double began = now();
	static uint64_t seen;
	vector sum[4] = {};
	int i;

	for (; at < end; at += 4)
		for (i = 0; i < 4; i++)
			sum[i] ^= at[i];
	sum[0] ^= sum[1] ^ sum[2] ^ sum[3];
	write_now(seen, sum[0][0] ^ sum[0][1]);
	return now() - began;
}

static double unmerge(void)
{
	double began = now();

	set("run", 2);
	return now() - began;
}

/* The median of so many, after one to get used to it */
static double several(double (*one)(void), size_t nr, void (*between)(void))
{
	double *took = calloc(nr, sizeof(*took)), middle;
	size_t i;

	need(took);
	one();
	for (i = 0; i < nr; i++) {
		between();
		took[i] = one();
	}
	middle = median(took, nr);
	free(took);
	return middle;
}

int main(int argc, char **argv)
{
	static const long minimums[] = { 1, 0, 1 };
	long values[3], merged;
	double steady;
	int i;

	arguments(argc, argv, "MIB MERGED-PERCENT PASSES", minimums, values);
	pages = values[0] * PAGES_PER_MIB;
	merged_percent = values[1];
	area = map_pages(pages);
	merged = fill();
	offer(area, pages);
	prepare();

	pass();
	rewrite_all();
	pass();
	if (merged)
		merge(merged);
	steady = several(pass, values[2], rewrite_all);
	figure("steady", pages / steady);
	figure("of-read", several(read_all, READS, leave_all) / steady);
	/* ksmd has to see that they keep still */
	for (i = 0; i < 10; i++)
		pass();
	figure("idle", several(pass, values[2], leave_all) / pages * 1e9);
	figure("record", (double)record_bytes() / pages);
	if (merged)
		return 0;
	figure("rest", unmerge() * 1e3);
	stop(2);
	pass();
	pass();
	full_speed();
	figure("unmerge", unmerge() * 1e3);
	return 0;
}
