// SPDX-License-Identifier: GPL-2.0
/*
 * What it costs to take merged pages apart, every one of which has 63 like it; and what KSM keeps for them.
 * usage: break-speed MIB
 * prints:
 *   record    bytes that KSM keeps for each mapping of a merged page
 *   write     ns that the first write to one takes
 *   unmerge   ns that run = 2 takes for each
 */
#include "bench.h"

#define COPIES	64

static double write_all(char *area, long pages)
{
	double began = now();
	long page;

	for (page = 0; page < pages; page++)
		rewrite(area + page * PAGE_SIZE);
	return now() - began;
}

int main(int argc, char **argv)
{
	static const long minimums[] = { 1 };
	long mib, pages, contents;
	double began;
	char *area;

	arguments(argc, argv, "MIB", minimums, &mib);
	pages = mib * PAGES_PER_MIB;
	contents = pages / COPIES;
	area = map_pages(pages);
	fill_pages(area, pages, contents);
	offer(area, pages);
	prepare();
	merge(pages);
	figure("record", (double)record_bytes() / pages);

	stop(0);
	figure("write", write_all(area, pages) / pages * 1e9);
	merge(pages);
	began = now();
	set("run", 2);
	figure("unmerge", (now() - began) / pages * 1e9);
	return 0;
}
