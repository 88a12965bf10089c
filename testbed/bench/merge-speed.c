// SPDX-License-Identifier: GPL-2.0
/*
 * What merging costs: every other page has one of 64 contents, from run = 1 until all of these are merged.
 * With more than one processor a thread is active on each, so that the program's memory is in use there.
 * usage: merge-speed MIB
 * prints:
 *   page      ns for each page that gets merged
 *   flushes   of other processors' TLBs for each
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "bench.h"

#define CONTENTS	64
#define TRACING		"/sys/kernel/tracing/"
#define TLB_FLUSH	TRACING "events/tlb/tlb_flush/"
#define SEND_IPI	"reason == 4"	/* TLB_REMOTE_SEND_IPI of the kernel */

static bool over;

static void *be_active(void *cpu)
{
	pin(0, (long)cpu);
	stand_back(true);
	while (!read_now(over))
		;
	return NULL;
}

static void count_flushes(void)
{
	put(TLB_FLUSH "filter", SEND_IPI);
	put(TLB_FLUSH "enable", "1");
	put(TRACING "trace", "");
}

/* The trace buffer of a processor: what it holds, and what it held once */
static long events_on(long cpu)
{
	char path[128], line[128];
	long value, sum = 0;
	FILE *file;

	snprintf(path, sizeof(path), TRACING "per_cpu/cpu%ld/stats", cpu);
	file = fopen(path, "re");
	need(file);
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "entries: %ld", &value) == 1 || sscanf(line, "overrun: %ld", &value) == 1)
			sum += value;
	fclose(file);
	return sum;
}

int main(int argc, char **argv)
{
	static const long minimums[] = { 1 };
	long cpus = sysconf(_SC_NPROCESSORS_ONLN), cpu, mib, pages, page, flushes = 0;
	pthread_t thread;
	double took;
	char *area;

	arguments(argc, argv, "MIB", minimums, &mib);
	pages = mib * PAGES_PER_MIB;
	area = map_pages(pages);
	for (page = 0; page < pages; page++)
		fill_page(area + page * PAGE_SIZE, page % 2 ? page / 2 % CONTENTS : CONTENTS + page);
	offer(area, pages);
	prepare();
	for (cpu = 0; cpus > 1 && cpu < cpus; cpu++)
		need(!pthread_create(&thread, NULL, be_active, (void *)cpu));
	if (cpus > 1)
		count_flushes();
	took = merge(pages / 2);
	figure("page", took / (pages / 2) * 1e9);
	for (cpu = 0; cpus > 1 && cpu < cpus; cpu++)
		flushes += events_on(cpu);
	if (cpus > 1)
		figure("flushes", (double)flushes / (pages / 2));
	write_now(over, true);
	return 0;
}
