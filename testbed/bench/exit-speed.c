// SPDX-License-Identifier: GPL-2.0
/*
 * How much longer the exit of a process takes for having been scanned, with nothing merged.
 * usage: exit-speed MIB
 * prints:
 *   of-unmarked   the time, as a multiple of what it takes if the process had offered nothing
 */
#include <sys/wait.h>
#include <unistd.h>
#include "bench.h"

#define PASSES	3

static long pages;

/* Says when it has its memory, and ends when it is told to. */
static void child(bool offers, int say, int told)
{
	char *area = map_pages(pages), word = 0;

	fill_pages(area, pages, pages);
	if (offers)
		offer(area, pages);
	need(write(say, &word, 1) == 1);
	_exit(read(told, &word, 1) != 0);
}

static double exit_time(bool scanned)
{
	int say[2], tell[2], status, i;
	double began;
	pid_t pid;
	char word;

	need(!pipe(say) && !pipe(tell));
	pid = fork();
	need(pid >= 0);
	if (!pid) {
		close(tell[1]);
		child(scanned, say[1], tell[0]);
	}
	need(read(say[0], &word, 1) == 1);
	for (i = 0; scanned && i < PASSES; i++)
		pass();
	began = now();
	close(tell[1]);
	need(waitpid(pid, &status, 0) == pid && !status);
	began = now() - began;
	close(tell[0]);
	close(say[0]);
	close(say[1]);
	return began;
}

int main(int argc, char **argv)
{
	static const long minimums[] = { 1 };
	double unmarked;
	long mib;

	arguments(argc, argv, "MIB", minimums, &mib);
	pages = mib * PAGES_PER_MIB;
	prepare();
	/* The first of all pays for what the kernel then has ready. */
	exit_time(false);
	unmarked = exit_time(false);
	figure("of-unmarked", exit_time(true) / unmarked);
	return 0;
}
