// SPDX-License-Identifier: GPL-2.0
/*
 * What it costs to move KSM pages from one NUMA node to the other, while ksmd is at rest.
 * usage: migrate-speed PAGES SHARERS MOVED ROUNDS VMAS
 * Of PAGES that are mapped SHARERS times each (0: some 200 times, most a few times) the first MOVED are moved
 * ROUNDS times, there and back; mprotect(2) has cut the memory that maps them into VMAS areas (0: it is whole).
 * prints:
 *   moved, left   pages that were where they should be after a move, and that were not
 *   seconds       of a processor that the moves took
 *   page          ns for each page that moved
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "bench.h"

#define MOST		200
#define MOVE_ALL	4	/* MPOL_MF_MOVE_ALL */

static long pages, uniform, to_move;
static char *area;
static void **first;
static int *target, *status;

/* In the mixture one page of 200 has 200 sharers, one has 100, and so on down to many that have few. */
static long sharers(long page)
{
	return uniform ? uniform : 1 + (MOST - 1) / (1 + page % MOST);
}

/* One with a single sharer needs a second to be merged with, which then goes away. */
static long copies(long page)
{
	return sharers(page) + (sharers(page) == 1);
}

static long fill(void)
{
	long total = 0, page, copy;
	char *at;

	for (page = 0; page < pages; page++)
		total += copies(page);
	at = area = map_pages(total);
	for (page = 0; page < pages; page++) {
		first[page] = at;
		for (copy = 0; copy < copies(page); copy++, at += PAGE_SIZE)
			fill_page(at, page);
	}
	return total;
}

static void drop_seconds(void)
{
	long page;

	for (page = 0; page < pages; page++)
		if (sharers(page) == 1)
			need(!madvise((char *)first[page] + PAGE_SIZE, PAGE_SIZE, MADV_DONTNEED));
}

/* Every other page may not be written to. */
static void cut(long vmas)
{
	long i;

	for (i = 0; i < vmas; i += 2)
		need(!mprotect(area + i * PAGE_SIZE, PAGE_SIZE, PROT_READ));
}

static double move(int node)
{
	double began;
	long page;

	for (page = 0; page < to_move; page++)
		target[page] = node;
	began = own_time();
	need(syscall(SYS_move_pages, 0, to_move, first, target, status, MOVE_ALL) >= 0);
	return own_time() - began;
}

static long count_on(int node)
{
	long page, found = 0;

	need(!syscall(SYS_move_pages, 0, to_move, first, NULL, status, 0));
	for (page = 0; page < to_move; page++)
		found += status[page] == node;
	return found;
}

static void verify(void)
{
	long page, copy;

	for (page = 0; page < pages; page++)
		for (copy = 0; copy < sharers(page); copy++)
			if (!page_is((char *)first[page] + copy * PAGE_SIZE, page))
				fail("page %ld has lost its content", page);
}

int main(int argc, char **argv)
{
	static const long minimums[] = { 1, 0, 1, 1, 0 };
	long values[5], total, round, moved = 0;
	double seconds = 0;

	arguments(argc, argv, "PAGES SHARERS MOVED ROUNDS VMAS", minimums, values);
	pages = values[0];
	uniform = values[1];
	to_move = values[2] < pages ? values[2] : pages;
	first = calloc(pages, sizeof(*first));
	target = calloc(pages, sizeof(*target));
	status = calloc(pages, sizeof(*status));
	need(first && target && status);
	total = fill();
	offer(area, total);
	prepare();
	merge(total);
	stop(0);
	drop_seconds();
	cut(values[4] < total ? values[4] : total);
	for (round = 0; round < values[3]; round++) {
		int node = (round + 1) % 2;

		seconds += move(node);
		moved += count_on(node);
	}
	verify();
	figure("moved", moved);
	figure("left", values[3] * to_move - moved);
	figure("seconds", seconds);
	if (moved)
		figure("page", seconds / moved * 1e9);
	return 0;
}
