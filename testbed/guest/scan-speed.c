// SPDX-License-Identifier: GPL-2.0
/*
 * How fast pages that are all different are scanned once KSM knows them, and what it keeps for each.
 * usage: scan-speed MIB PASSES
 * prints: pages/s of the steady state, bytes of record for each page (0 where the kernel does not say)
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static long get(const char *knob)
{
	char path[128];
	long value = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/sys/kernel/mm/ksm/%s", knob);
	file = fopen(path, "r");
	if (!file)
		return 0;
	if (fscanf(file, "%ld", &value) != 1)
		value = 0;
	fclose(file);
	return value;
}

static void set(const char *knob, const char *value)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "/sys/kernel/mm/ksm/%s", knob);
	fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, value, strlen(value)) < 0) {
		perror(path);
		exit(1);
	}
	close(fd);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static double wait_for_pass(long pass)
{
	while (get("full_scans") < pass)
		usleep(2000);
	return now();
}

int main(int argc, char **argv)
{
	size_t pages, words = 4096 / sizeof(uint64_t), i;
	uint64_t *area, x = 88172645463325252ULL;
	long passes, first;
	double began;

	if (argc != 3 || atol(argv[1]) < 1 || atol(argv[2]) < 1) {
		fprintf(stderr, "usage: scan-speed MIB PASSES\n");
		return 2;
	}
	pages = atol(argv[1]) << 8;
	passes = atol(argv[2]);
	area = mmap(NULL, pages << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	for (i = 0; i < pages * words; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		area[i] = x;
	}
	if (madvise(area, pages << 12, MADV_MERGEABLE)) {
		perror("MADV_MERGEABLE");
		return 1;
	}
	set("smart_scan", "0");
	set("sleep_millisecs", "0");
	set("pages_to_scan", "100000");
	set("run", "1");
	/* The first passes get to know the pages, and one may have begun before they were there. */
	first = get("full_scans") + 4;
	began = wait_for_pass(first);
	printf("%.0f", pages * passes / (wait_for_pass(first + passes) - began));
	printf(" %.1f\n", (double)get("metadata_bytes") / pages);
	return 0;
}
