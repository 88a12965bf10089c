// SPDX-License-Identifier: GPL-2.0
/*
 * Moves KSM pages with 1 to 200 sharers to the other NUMA node and back, some times, while ksmd is at rest.
 * usage: migrate-speed PAGES ROUNDS
 * prints: pages that were where they should be after each move, of how many; seconds
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MOST 200
#define MOVE_ALL 4

/* Page number `page` has so many sharers: one has 200, two have 100, and so on down to many that have few. */
static size_t sharers(size_t page)
{
	return 1 + (MOST - 1) / (1 + page % MOST);
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

static long get(const char *knob)
{
	char path[128];
	long value = -1;
	FILE *file;

	snprintf(path, sizeof(path), "/sys/kernel/mm/ksm/%s", knob);
	file = fopen(path, "r");
	if (!file || fscanf(file, "%ld", &value) != 1) {
		perror(path);
		exit(1);
	}
	fclose(file);
	return value;
}

static void fill(char *at, size_t page)
{
	uint64_t *word = (uint64_t *)at;
	size_t i;

	for (i = 0; i < 4096 / sizeof(*word); i++)
		word[i] = (page + 1) * 0x9e3779b97f4a7c15ULL + i;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	size_t pages, rounds, total = 0, page, copy, round, moved = 0, failed = 0;
	void **first;
	int *target, *status;
	char *area, *at;
	double seconds = 0, began;
	long deadline;

	if (argc != 3 || atol(argv[1]) < 1 || atol(argv[2]) < 1) {
		fprintf(stderr, "usage: migrate-speed PAGES ROUNDS\n");
		return 2;
	}
	pages = atol(argv[1]);
	rounds = atol(argv[2]);
	/* One with a single sharer needs a second to be merged with, which then goes away. */
	for (page = 0; page < pages; page++)
		total += sharers(page) + (sharers(page) == 1);
	area = mmap(NULL, total << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	first = calloc(pages, sizeof(*first));
	target = calloc(pages, sizeof(*target));
	status = calloc(pages, sizeof(*status));
	if (area == MAP_FAILED || !first || !target || !status) {
		perror("memory");
		return 1;
	}
	for (page = 0, at = area; page < pages; page++) {
		first[page] = at;
		for (copy = 0; copy < sharers(page) + (sharers(page) == 1); copy++, at += 4096)
			fill(at, page);
	}
	set("max_page_sharing", "256");
	set("merge_across_nodes", "1");
	set("smart_scan", "0");
	set("sleep_millisecs", "0");
	set("pages_to_scan", "10000");
	if (madvise(area, total << 12, MADV_MERGEABLE)) {
		perror("MADV_MERGEABLE");
		return 1;
	}
	set("run", "1");
	for (deadline = 0; get("pages_shared") < (long)pages || get("pages_sharing") < (long)(total - pages); deadline++) {
		if (deadline > 12000) {
			fprintf(stderr, "migrate-speed: %ld pages of %zu merged\n", get("pages_shared"), pages);
			return 1;
		}
		usleep(10000);
	}
	set("run", "0");
	for (page = 0; page < pages; page++)
		if (sharers(page) == 1)
			madvise((char *)first[page] + 4096, 4096, MADV_DONTNEED);

	for (round = 0; round < rounds; round++) {
		for (page = 0; page < pages; page++)
			target[page] = (round + 1) % 2;
		began = now();
		if (syscall(SYS_move_pages, 0, pages, first, target, status, MOVE_ALL) < 0) {
			perror("move_pages");
			return 1;
		}
		seconds += now() - began;
		syscall(SYS_move_pages, 0, pages, first, NULL, status, 0);
		for (page = 0; page < pages; page++) {
			moved += status[page] == target[page];
			failed += status[page] != target[page];
		}
	}
	for (page = 0, at = area; page < pages; page++) {
		char expected[4096];

		fill(expected, page);
		for (copy = 0; copy < sharers(page) + (sharers(page) == 1); copy++, at += 4096)
			if (memcmp(at, expected, 4096) && !(sharers(page) == 1 && copy == 1)) {
				fprintf(stderr, "migrate-speed: page %zu has lost its content\n", page);
				return 1;
			}
	}
	printf("%zu %zu %.3f\n", moved, moved + failed, seconds);
	return 0;
}
