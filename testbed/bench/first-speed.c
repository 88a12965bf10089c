// SPDX-License-Identifier: GPL-2.0
/*
 * How fast fresh pages are scanned for the first time.
 * usage: first-speed MIB TIMES
 * prints:
 *   first   pages/s: the median of so many first passes, each over memory that has just been written
 *
 * One such pass is short: where the host takes the processor away for some milliseconds in the midst of it, that shows.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include "bench.h"

int main(int argc, char **argv)
{
	static const long minimums[] = { 1, 1 };
	long values[2], pages, i;
	double *took;
	char *area;

	arguments(argc, argv, "MIB TIMES", minimums, values);
	pages = values[0] * PAGES_PER_MIB;
	took = calloc(values[1], sizeof(*took));
	need(took);
	prepare();
	for (i = 0; i < values[1]; i++) {
		area = map_pages(pages);
		fill_pages(area, pages, pages);
		offer(area, pages);
		took[i] = pass();
		stop(2);
		need(!munmap(area, pages * PAGE_SIZE));
	}
	figure("first", pages / median(took, values[1]));
	return 0;
}
