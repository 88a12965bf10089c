// SPDX-License-Identifier: GPL-2.0
/*
 * How much faster two threads scan the memory of two processes than one does.
 * usage: thread-speed MIB PASSES
 * prints:
 *   gain   pages/s with two, as a multiple of that with one; - if the kernel cannot have two
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "bench.h"

#define PROCESSES	2

static void start_child(long pages, int number)
{
	char *area, word = 0;
	int ready[2];

	need(!pipe(ready));
	if (!fork()) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		area = map_pages(pages);
		/* All contents are different, here and in the other. */
		for (long page = 0; page < pages; page++)
			fill_page(area + page * PAGE_SIZE, page * PROCESSES + number);
		offer(area, pages);
		need(write(ready[1], &word, 1) == 1);
		for (;;)
			pause();
	}
	need(read(ready[0], &word, 1) == 1);
}

/* Of time that passes: processors at work at once is what counts here. */
static double time_of_passes(long threads, long passes)
{
	double *took = calloc(passes, sizeof(*took));
	long i;

	need(took);
	set("scan_threads", threads);
	for (i = 0; i < passes; i++) {
		double began = now();

		pass();
		took[i] = now() - began;
	}
	return median(took, passes);
}

int main(int argc, char **argv)
{
	static const long minimums[] = { 1, 1 };
	double one;
	long values[2];
	int i;

	arguments(argc, argv, "MIB PASSES", minimums, values);
	if (!has("scan_threads")) {
		puts("gain -");
		return 0;
	}
	for (i = 0; i < PROCESSES; i++)
		start_child(values[0] * PAGES_PER_MIB / PROCESSES, i);
	prepare();
	for (i = 0; i < 3; i++)
		pass();
	one = time_of_passes(1, values[1]);
	figure("gain", one / time_of_passes(2, values[1]));
	return 0;
}
