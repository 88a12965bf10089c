// SPDX-License-Identifier: GPL-2.0
/*
 * How much faster two threads scan the memory of some processes than one does, if each page is written to, with
 * what it has already, between two passes.
 * usage: thread-speed MIB PASSES PROCESSES
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

struct child {
	int ask, answer;	/* pipes */
};

static struct child *children;
static long processes;

static void tell(int fd)
{
	char word = 0;

	need(write(fd, &word, 1) == 1);
}

static void hear(int fd)
{
	char word;

	need(read(fd, &word, 1) == 1);
}

static void live(int ask, int answer, long pages, int number)
{
	char *area = map_pages(pages);
	long page;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* All contents are different, here and in the others. */
	for (page = 0; page < pages; page++)
		fill_page(area + page * PAGE_SIZE, page * processes + number);
	offer(area, pages);
	for (;;) {
		tell(answer);
		hear(ask);
		for (page = 0; page < pages; page++)
			rewrite(area + page * PAGE_SIZE);
	}
}

static void start_child(long pages, int number)
{
	int ask[2], answer[2];

	need(!pipe(ask) && !pipe(answer));
	if (!fork())
		live(ask[0], answer[1], pages, number);
	children[number].ask = ask[1];
	children[number].answer = answer[0];
	hear(answer[0]);
}

static void rewrite_all(void)
{
	long i;

	for (i = 0; i < processes; i++)
		tell(children[i].ask);
	for (i = 0; i < processes; i++)
		hear(children[i].answer);
}

/* Of time that passes: processors at work at once is what counts here. */
static double time_of_passes(long threads, long passes)
{
	double *took = calloc(passes, sizeof(*took));
	long i;

	need(took);
	set("scan_threads", threads);
	for (i = 0; i < passes; i++) {
		rewrite_all();
		took[i] = pass();
	}
	return median(took, passes);
}

int main(int argc, char **argv)
{
	static const long minimums[] = { 1, 1, 1 };
	double one;
	long values[3];
	int i;

	arguments(argc, argv, "MIB PASSES PROCESSES", minimums, values);
	if (!has("scan_threads")) {
		puts("gain -");
		return 0;
	}
	processes = values[2];
	children = calloc(processes, sizeof(*children));
	need(children);
	for (i = 0; i < processes; i++)
		start_child(values[0] * PAGES_PER_MIB / processes, i);
	prepare();
	for (i = 0; i < 3; i++)
		pass();
	one = time_of_passes(1, values[1]);
	figure("gain", one / time_of_passes(2, values[1]));
	return 0;
}
