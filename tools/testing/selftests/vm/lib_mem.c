// SPDX-License-Identifier: GPL-2.0
/*
 * Memory with known content, and where the kernel has put it.
 */
#include <sys/sysinfo.h>
#include "ksm_lib.h"

#define WORDS	(PAGE_SIZE / sizeof(uint64_t))

char *map_pages(size_t nr)
{
	char *area = mmap(NULL, nr * PAGE_SIZE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(area != MAP_FAILED);
	madvise(area, nr * PAGE_SIZE, MADV_NOHUGEPAGE);
	return area;
}

void touch_pages(char *area, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		area[i * PAGE_SIZE] = 1;
}

char *map_huge(size_t nr_huge)
{
	size_t size = nr_huge * HUGE_SIZE, align = HUGE_SIZE;
	char *area = mmap(NULL, size + align, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *start = (char *)(((unsigned long)area + align - 1) & -align);

	CHECK(area != MAP_FAILED);
	/* Nothing but what was asked for stays mapped. */
	if (start > area)
		CHECK(!munmap(area, start - area));
	if (start < area + align)
		CHECK(!munmap(start + size, area + align - start));
	if (madvise(start, size, MADV_HUGEPAGE))
		ksm_skip("no transparent huge pages");
	touch_pages(start, nr_huge * HUGE_PAGES);
	if (huge_kb(start) != (long)size / 1024)
		ksm_skip("no huge pages to be had");
	return start;
}

bool fault_huge(char **room)
{
	long before = vm_event("thp_fault_alloc");
	char *area = map_pages(2 * HUGE_PAGES);

	CHECK(!madvise(area, 2 * HUGE_SIZE, MADV_HUGEPAGE));
	*room = (char *)(((unsigned long)area + HUGE_SIZE - 1) & -HUGE_SIZE);
	**room = 1;
	return vm_event("thp_fault_alloc") > before;
}

long huge_kb(const void *addr)
{
	return smaps_kb(addr, "AnonHugePages");
}

size_t free_pages(void)
{
	struct sysinfo info;

	CHECK(!sysinfo(&info));
	return info.freeram * info.mem_unit / PAGE_SIZE;
}

void leave_free(size_t nr)
{
	size_t free, taken;
	char *area;

	/* What others give back meanwhile is taken, too */
	while ((free = free_pages()) >= nr + HUGE_PAGES) {
		taken = (free - nr) / HUGE_PAGES * HUGE_PAGES;
		area = map_pages(taken);
		madvise(area, taken * PAGE_SIZE, MADV_HUGEPAGE);
		touch_pages(area, taken);
	}
}

/* No two words of one page are alike, nor the same word of two seeds. */
static uint64_t word_of(uint64_t seed, size_t i)
{
	return (seed + 1) * 0x9e3779b97f4a7c15ULL + i * 0xd1342543de82ef95ULL;
}

void fill_page(void *page, uint64_t seed)
{
	uint64_t *word = page;

	for (size_t i = 0; i < WORDS; i++)
		word[i] = word_of(seed, i);
}

bool page_is(const void *page, uint64_t seed)
{
	const uint64_t *word = page;

	for (size_t i = 0; i < WORDS; i++)
		if (word[i] != word_of(seed, i))
			return false;
	return true;
}

bool all_zero(const char *area, size_t nr)
{
	return !*area && !memcmp(area, area + 1, nr * PAGE_SIZE - 1);
}

void hold_in_pipe(char *area, size_t nr, int ends[2])
{
	struct iovec held = { area, nr * PAGE_SIZE };

	CHECK(!pipe(ends));
	CHECK_GE(fcntl(ends[1], F_SETPIPE_SZ, nr * PAGE_SIZE), 1);
	CHECK_EQ(vmsplice(ends[1], &held, 1, 0), (long)(nr * PAGE_SIZE));
}

void fill_area(char *area, size_t nr, uint64_t seed, size_t distinct)
{
	for (size_t i = 0; i < nr; i++)
		fill_page(area + i * PAGE_SIZE, seed + i % distinct);
}

void verify_at(const char *file, int line, const char *area, size_t nr,
	       uint64_t seed, size_t distinct)
{
	for (size_t i = 0; i < nr; i++)
		if (!page_is(area + i * PAGE_SIZE, seed + i % distinct))
			ksm_fail(file, line, "page %zu of %zu has lost its content",
				 i, nr);
}

char *mergeable_area(size_t nr, uint64_t seed, size_t distinct)
{
	char *area = map_pages(nr);

	fill_area(area, nr, seed, distinct);
	CHECK(!madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE));
	return area;
}

/* ---- pagemap, kpageflags, kpagecount ---- */

static int open_table(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		FAIL("cannot open %s: errno %d", path, errno);
	return fd;
}

static uint64_t entry_of(int fd, unsigned long index)
{
	uint64_t entry = 0;

	if (pread(fd, &entry, sizeof(entry), index * sizeof(entry)) !=
	    sizeof(entry))
		FAIL("no entry %#lx: errno %d", index, errno);
	return entry;
}

static uint64_t read_entry(const char *path, unsigned long index)
{
	int fd = open_table(path);
	uint64_t entry = entry_of(fd, index);

	close(fd);
	return entry;
}

static uint64_t pagemap_of(pid_t pid, const void *addr)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	return read_entry(path, (unsigned long)addr / PAGE_SIZE);
}

/* Kept open, as it is asked most; a child has a table of its own. */
uint64_t pagemap_own(const void *addr)
{
	static pid_t owner;
	static int fd;

	if (owner != getpid()) {
		if (owner)
			close(fd);
		fd = open_table("/proc/self/pagemap");
		owner = getpid();
	}
	return entry_of(fd, (unsigned long)addr / PAGE_SIZE);
}

static unsigned long pfn_in(uint64_t entry)
{
	return entry & PM_PRESENT ? entry & ((1ULL << 55) - 1) : 0;
}

unsigned long pfn_of(pid_t pid, const void *addr)
{
	return pfn_in(pagemap_of(pid, addr));
}

unsigned long pfn(const void *addr)
{
	return pfn_in(pagemap_own(addr));
}

static uint64_t *entries_of(pid_t pid, const char *area, size_t nr)
{
	size_t size = nr * sizeof(uint64_t);
	uint64_t *entry = malloc(size);
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	fd = open_table(path);
	CHECK(entry);
	CHECK(pread(fd, entry, size, (unsigned long)area / PAGE_SIZE *
		    sizeof(*entry)) == (ssize_t)size);
	close(fd);
	return entry;
}

unsigned long *pfns_of(pid_t pid, const char *area, size_t nr)
{
	uint64_t *entry = entries_of(pid, area, nr);
	unsigned long *at = calloc(nr, sizeof(*at));

	CHECK(at);
	for (size_t i = 0; i < nr; i++)
		at[i] = pfn_in(entry[i]);
	free(entry);
	return at;
}

unsigned long *pfns(const char *area, size_t nr)
{
	return pfns_of(getpid(), area, nr);
}

size_t count_same(pid_t pid, const char *area, pid_t other_pid,
		  const char *other, size_t nr)
{
	unsigned long *one = pfns_of(pid, area, nr);
	unsigned long *two = pfns_of(other_pid, other, nr);
	size_t same = 0;

	for (size_t i = 0; i < nr; i++)
		same += one[i] && one[i] == two[i];
	free(one);
	free(two);
	return same;
}

uint64_t page_flags(unsigned long pfn)
{
	return read_entry("/proc/kpageflags", pfn);
}

long page_mapcount(unsigned long pfn)
{
	return read_entry("/proc/kpagecount", pfn);
}

bool unevictable(const void *addr)
{
	return page_flags(pfn(addr)) & BIT_ULL(KPF_UNEVICTABLE);
}

bool in_swap_cache(const void *addr)
{
	return page_flags(pfn(addr)) & BIT_ULL(KPF_SWAPCACHE);
}

/* Every processor has some that it has not told the others of. */
long locked_pages(void)
{
	char nothing[8];

	file_read("/proc/sys/vm/stat_refresh", nothing, sizeof(nothing));
	return vm_event("nr_mlock");
}

/* The kernel counts in batches, too; ksmd empties these with every pass. */
void locked_becomes(long expect)
{
	ksm_scan(2);
	if (!BECOMES(locked_pages() == expect, 20))
		FAIL("%ld pages are locked, not %ld", locked_pages(), expect);
	ksm_set("run", 0);
}

size_t count_swapped(const char *area, size_t nr)
{
	uint64_t *entry = entries_of(getpid(), area, nr);
	size_t found = 0;

	for (size_t i = 0; i < nr; i++)
		found += !!(entry[i] & PM_SWAPPED);
	free(entry);
	return found;
}

/* ---- what /proc/PID tells ---- */

/* The rest of the line that begins with the field, for the area at addr. */
static bool smaps_line(const void *addr, const char *field, char *rest,
		       size_t size)
{
	unsigned long start, end, at = (unsigned long)addr;
	size_t len = strlen(field);
	bool here = false, found = false;
	char line[512];
	FILE *f;

	f = fopen("/proc/self/smaps", "r");
	CHECK(f);
	while (!found && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2) {
			here = at >= start && at < end;
			continue;
		}
		if (!here || strncmp(line, field, len) || line[len] != ':')
			continue;
		snprintf(rest, size, "%s", line + len + 1);
		found = true;
	}
	fclose(f);
	return found;
}

/*
 * KB of KSM pages in the areas that lie in this range, or -1 if one of them
 * reaches beyond it.
 */
static long ksm_kb_between(unsigned long from, unsigned long to)
{
	unsigned long start, end;
	bool here = false;
	long sum = 0, kb;
	char line[512];
	FILE *f;

	f = fopen("/proc/self/smaps", "r");
	CHECK(f);
	while (sum >= 0 && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2) {
			here = start < to && end > from;
			if (here && (start < from || end > to))
				sum = -1;
		} else if (here && sscanf(line, "KSM: %ld kB", &kb) == 1) {
			sum += kb;
		}
	}
	fclose(f);
	return sum;
}

/*
 * The KSM line of smaps is to be trusted; KPF_KSM is not, as Linux 6.12 sets
 * it for every anonymous page.  A range that is not an area of its own is
 * made one for as long as it takes to read that line.
 */
size_t count_ksm(const char *area, size_t nr)
{
	unsigned long from = (unsigned long)area, to = from + nr * PAGE_SIZE;
	long kb = ksm_kb_between(from, to);

	if (kb < 0) {
		CHECK(!madvise((void *)area, nr * PAGE_SIZE, MADV_DONTDUMP));
		kb = ksm_kb_between(from, to);
		CHECK(!madvise((void *)area, nr * PAGE_SIZE, MADV_DODUMP));
		CHECK_GE(kb, 0);
	}
	return kb * 1024 / PAGE_SIZE;
}

bool is_ksm(const void *addr)
{
	return count_ksm((char *)((unsigned long)addr & -PAGE_SIZE), 1);
}

long smaps_kb(const void *addr, const char *field)
{
	char rest[512];

	if (!smaps_line(addr, field, rest, sizeof(rest)))
		return -1;
	return strtol(rest, NULL, 10);
}

bool smaps_flag(const void *addr, const char *flag)
{
	char rest[512], *word;

	if (!smaps_line(addr, "VmFlags", rest, sizeof(rest)))
		return false;
	for (word = strtok(rest, "\n "); word; word = strtok(NULL, "\n "))
		if (!strcmp(word, flag))
			return true;
	return false;
}

long proc_ksm(pid_t pid, const char *field)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ksm_stat", pid);
	return file_field(path, field);
}

long proc_merging(pid_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ksm_merging_pages", pid);
	return file_long(path);
}

/* ---- NUMA ---- */

int need_nodes(int *nodes, int nr)
{
	char buf[128], *at = buf;
	int found = 0;

	if (file_read("/sys/devices/system/node/has_memory", buf,
		      sizeof(buf)) <= 0)
		ksm_skip("no NUMA");
	while (*at && *at != '\n') {
		int first = strtol(at, &at, 10), last = first;

		if (*at == '-')
			last = strtol(at + 1, &at, 10);
		for (int node = first; node <= last; node++, found++)
			if (found < nr)
				nodes[found] = node;
		if (*at == ',')
			at++;
	}
	if (found < nr)
		ksm_skip("%d NUMA nodes needed, %d found", nr, found);
	return found;
}

static void nodes_of(pid_t pid, char **pages, int *status, size_t nr)
{
	CHECK(!syscall(SYS_move_pages, pid, nr, pages, NULL, status, 0));
}

int node_of(const void *addr)
{
	char *page = (char *)addr;
	int status = -1;

	nodes_of(0, &page, &status, 1);
	return status;
}

size_t count_on_node(char *area, size_t nr, int node)
{
	char **pages = calloc(nr, sizeof(*pages));
	int *status = calloc(nr, sizeof(*status));
	size_t found = 0;

	CHECK(pages && status);
	for (size_t i = 0; i < nr; i++)
		pages[i] = area + i * PAGE_SIZE;
	nodes_of(0, pages, status, nr);
	for (size_t i = 0; i < nr; i++)
		found += status[i] == node;
	free(pages);
	free(status);
	return found;
}

/*
 * move_pages(2) stores no status for pages that it did not move, nor for
 * some that it did when others failed: ask where they are.
 */
long move_to_node(pid_t pid, char **pages, int *status, size_t nr, int node,
		  int flags)
{
	int *nodes = calloc(nr, sizeof(*nodes));
	long ret;

	CHECK(nodes);
	for (size_t i = 0; i < nr; i++)
		nodes[i] = node;
	ret = syscall(SYS_move_pages, pid, nr, pages, nodes, status, flags);
	if (ret < 0)
		ret = -errno;
	else if (ret > 0)
		nodes_of(pid, pages, status, nr);
	free(nodes);
	return ret;
}

void move_area(char *area, size_t nr, int node)
{
	char **pages = calloc(nr, sizeof(*pages));
	int *status = calloc(nr, sizeof(*status));
	size_t left = nr;

	CHECK(pages && status);
	for (size_t i = 0; i < nr; i++)
		pages[i] = area + i * PAGE_SIZE;
	for (int tries = 0; left && tries < 20; tries++) {
		CHECK_GE(move_to_node(0, pages, status, nr, node,
				      KSM_MPOL_MF_MOVE_ALL), 0);
		nodes_of(0, pages, status, nr);
		left = 0;
		for (size_t i = 0; i < nr; i++)
			left += status[i] != node;
	}
	CHECK_EQ(left, 0);
	free(pages);
	free(status);
}

int bind_area(char *area, size_t nr, int node, int flags)
{
	unsigned long mask[16] = {};

	mask[node / 64] |= 1UL << node % 64;
	if (syscall(SYS_mbind, area, nr * PAGE_SIZE, KSM_MPOL_BIND, mask,
		    sizeof(mask) * 8, flags))
		return -errno;
	return 0;
}

void move_all(char *area, size_t nr, int node)
{
	char **pages = calloc(nr, sizeof(*pages));
	int *status = calloc(nr, sizeof(*status));

	CHECK(pages && status);
	for (size_t i = 0; i < nr; i++)
		pages[i] = area + i * PAGE_SIZE;
	CHECK_EQ(move_to_node(0, pages, status, nr, node,
			      KSM_MPOL_MF_MOVE_ALL), 0);
	for (size_t i = 0; i < nr; i++)
		CHECK_EQ(status[i], node);
	free(pages);
	free(status);
}

char *merged_pairs(size_t nr, uint64_t seed, char **second)
{
	char *area = mergeable_area(nr, seed, nr);

	*second = mergeable_area(nr, seed, nr);
	ksm_settle();
	CHECK_EQ(count_ksm(area, nr), nr);
	CHECK_EQ(count_ksm(*second, nr), nr);
	return area;
}

static void *keep_moving(void *arg)
{
	struct mover *m = arg;
	char **pages = calloc(m->nr, sizeof(*pages));
	int *status = calloc(m->nr, sizeof(*status));

	for (size_t i = 0; i < m->nr; i++)
		pages[i] = m->area + i * PAGE_SIZE;
	for (; !read_now(m->stop); m->calls++) {
		int node = m->nodes[m->calls % 2];

		move_to_node(0, pages, status, m->nr, node,
			     KSM_MPOL_MF_MOVE_ALL);
		for (size_t i = 0; i < m->nr; i++)
			m->moved += status[i] == node;
	}
	free(pages);
	free(status);
	return NULL;
}

void mover_start(struct mover *m, char *area, size_t nr, const int *nodes)
{
	*m = (struct mover) {
		.area = area, .nr = nr, .nodes = { nodes[0], nodes[1] },
	};
	CHECK(!pthread_create(&m->thread, NULL, keep_moving, m));
}

void mover_stop(struct mover *m)
{
	write_now(m->stop, true);
	pthread_join(m->thread, NULL);
}
