// SPDX-License-Identifier: GPL-2.0
/*
 * How long page faults take in a process whose memory is scanned at full speed meanwhile, on another processor.
 * usage: fault-wait MIB FAULTS
 * prints:
 *   p99, max   microseconds
 */
#include <stdlib.h>
#include <sys/mman.h>
#include "bench.h"

#define STRIDE	7919	/* a prime: the faults come by everywhere */

static double fault(char *page)
{
	double began;

	need(!madvise(page, PAGE_SIZE, MADV_DONTNEED));
	began = now();
	write_now(*page, 1);
	return now() - began;
}

int main(int argc, char **argv)
{
	static const long minimums[] = { 1, 100 };
	long values[2], pages, faults, i;
	double *took;
	char *area;

	arguments(argc, argv, "MIB FAULTS", minimums, values);
	pages = values[0] * PAGES_PER_MIB;
	faults = values[1];
	took = calloc(faults, sizeof(*took));
	need(took);
	area = map_pages(pages);
	fill_pages(area, pages, pages);
	offer(area, pages);
	prepare();
	for (i = 0; i < 3; i++)
		pass();

	pin(0, 0);
	pin(ksmd(), 1);
	full_speed();
	for (i = 0; i < faults; i++) {
		long page = i * STRIDE % pages;

		took[i] = fault(area + page * PAGE_SIZE);
		/* Not one of many empty ones, to be merged with each other */
		fill_page(area + page * PAGE_SIZE, pages + page);
	}
	set("run", 0);
	median(took, faults);
	figure("p99", took[faults - 1 - faults / 100] * 1e6);
	figure("max", took[faults - 1] * 1e6);
	return 0;
}
