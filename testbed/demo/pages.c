// SPDX-License-Identifier: GPL-2.0
/*
 * Where the KSM pages of processes are in physical memory, and how many have moved since a look before: what
 * pagemap, kpageflags and kpagecount say, the same on every kernel.
 * usage: pages save FILE PID...     remembers where each process maps which KSM page
 *        pages moved FILE PID...    prints how many of those pages are somewhere else now
 *        pages count FIRST LAST     prints how many KSM pages there are in a range of page frames
 */
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE 4096UL
#define KPF_KSM (1ULL << 21)
#define PM_PRESENT (1ULL << 63)
#define PM_PFN ((1ULL << 55) - 1)

/* A KSM page that a process maps. */
struct mapping {
	uint64_t pid, address, pfn;
};

static struct mapping *mappings;
static size_t nr_mappings;

/* Of every page frame: its flags, and how many times it is mapped. */
static uint64_t *flags, *counts;
static size_t nr_pfns;

/* Reads it all at once: it ends where memory does. */
static uint64_t *read_all(const char *path)
{
	const size_t piece = 1 << 16;
	int fd = open(path, O_RDONLY);
	uint64_t *values = NULL;
	size_t length = 0;
	ssize_t got;

	if (fd < 0)
		err(1, "%s", path);
	do {
		values = realloc(values, (length + piece) * sizeof(*values));
		if (!values)
			err(1, "realloc");
		got = read(fd, values + length, piece * sizeof(*values));
		if (got < 0)
			err(1, "%s", path);
		length += got / sizeof(*values);
	} while (got);
	close(fd);
	nr_pfns = length;
	return values;
}

/*
 * Linux 6.12 as it is sets the flag for every anonymous page, so this asks for more than one mapping, too: none
 * of the programs shares anonymous pages with a child.
 */
static int is_ksm(uint64_t pfn)
{
	return pfn < nr_pfns && (flags[pfn] & KPF_KSM) && counts[pfn] > 1;
}

static void add_mapping(uint64_t pid, uint64_t address, uint64_t pfn)
{
	/* Room is doubled at each power of two. */
	if (!(nr_mappings & (nr_mappings - 1))) {
		mappings = realloc(mappings, (nr_mappings ? 2 * nr_mappings : 1) * sizeof(*mappings));
		if (!mappings)
			err(1, "realloc");
	}
	mappings[nr_mappings++] = (struct mapping){ pid, address, pfn };
}

static void look_at_area(uint64_t pid, int pagemap, uint64_t start, uint64_t end)
{
	static uint64_t entries[8192];
	size_t i, count;
	ssize_t got;

	while (start < end) {
		count = (end - start) / PAGE;
		if (count > 8192)
			count = 8192;
		got = pread(pagemap, entries, count * sizeof(*entries), start / PAGE * sizeof(*entries));
		if (got <= 0)
			return;
		count = got / sizeof(*entries);
		for (i = 0; i < count; i++)
			if ((entries[i] & PM_PRESENT) && is_ksm(entries[i] & PM_PFN))
				add_mapping(pid, start + i * PAGE, entries[i] & PM_PFN);
		start += count * PAGE;
	}
}

static void look_at(const char *pid)
{
	char path[64], line[4200];
	uint64_t start, end;
	int pagemap;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%s/pagemap", pid);
	pagemap = open(path, O_RDONLY);
	snprintf(path, sizeof(path), "/proc/%s/maps", pid);
	maps = fopen(path, "r");
	if (pagemap < 0 || !maps)
		err(1, "process %s", pid);
	while (fgets(line, sizeof(line), maps))
		if (sscanf(line, "%lx-%lx", &start, &end) == 2 && !strstr(line, "[vsyscall]"))
			look_at_area(strtoull(pid, NULL, 10), pagemap, start, end);
	fclose(maps);
	close(pagemap);
}

static void save(const char *file)
{
	FILE *out = fopen(file, "w");

	if (!out || fwrite(mappings, sizeof(*mappings), nr_mappings, out) != nr_mappings || fclose(out))
		err(1, "%s", file);
}

static int by_place(const void *a, const void *b)
{
	const struct mapping *x = a, *y = b;

	if (x->pid != y->pid)
		return x->pid < y->pid ? -1 : 1;
	return x->address < y->address ? -1 : x->address > y->address;
}

/*
 * A page has moved when a process that mapped it maps a KSM page elsewhere that was none before: a page merged
 * anew with another one that was there already has not moved.
 */
static size_t moved(const char *file)
{
	enum { WAS_KSM = 1, COUNTED = 2 };
	unsigned char *seen = calloc(nr_pfns, 1);
	struct mapping old, *now;
	FILE *in = fopen(file, "r");
	size_t count = 0;

	if (!in || !seen)
		err(1, "%s", file);
	while (fread(&old, sizeof(old), 1, in) == 1)
		if (old.pfn < nr_pfns)
			seen[old.pfn] |= WAS_KSM;
	rewind(in);
	while (fread(&old, sizeof(old), 1, in) == 1) {
		now = bsearch(&old, mappings, nr_mappings, sizeof(*mappings), by_place);
		if (!now || seen[now->pfn] || old.pfn >= nr_pfns || (seen[old.pfn] & COUNTED))
			continue;
		seen[old.pfn] |= COUNTED;
		count++;
	}
	return count;
}

int main(int argc, char **argv)
{
	size_t pfn, count = 0;
	int i;

	if (argc < 4)
		errx(2, "usage: pages save|moved FILE PID..., or pages count FIRST LAST");
	flags = read_all("/proc/kpageflags");
	counts = read_all("/proc/kpagecount");
	if (!strcmp(argv[1], "count")) {
		for (pfn = strtoul(argv[2], NULL, 0); pfn <= strtoul(argv[3], NULL, 0); pfn++)
			count += is_ksm(pfn);
		printf("%zu\n", count);
		return 0;
	}
	for (i = 3; i < argc; i++)
		look_at(argv[i]);
	qsort(mappings, nr_mappings, sizeof(*mappings), by_place);
	if (!strcmp(argv[1], "save"))
		save(argv[2]);
	else if (!strcmp(argv[1], "moved"))
		printf("%zu\n", moved(argv[2]));
	else
		errx(2, "no such thing to do: %s", argv[1]);
	return 0;
}
