// SPDX-License-Identifier: GPL-2.0
/*
 * Moves the memory of processes, pages they share included, from one NUMA node to another.
 * usage: migrate FROM TO PID...
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	unsigned long from, to;
	int i, failed = 0;

	if (argc < 4) {
		fprintf(stderr, "usage: migrate FROM TO PID...\n");
		return 2;
	}
	from = 1UL << atoi(argv[1]);
	to = 1UL << atoi(argv[2]);
	for (i = 3; i < argc; i++) {
		/* Positive: so many pages stayed behind, pinned or in use at that moment. */
		long left = syscall(SYS_migrate_pages, atoi(argv[i]), 8 * sizeof(from), &from, &to);

		if (left < 0) {
			fprintf(stderr, "migrate: process %s: %m\n", argv[i]);
			failed = 1;
		}
	}
	return failed;
}
