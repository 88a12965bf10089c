// SPDX-License-Identifier: GPL-2.0
/* vm: --nodes 2 --hotplug 256M --swap 256M */
/* stock-fails: storm */
/*
 * Everything at once: processes that do with their memory whatever one can do,
 * while it is merged, and moved, and taken away.  All of them know what has to
 * be in each page, and in the end nothing is left behind.
 *
 * KSM_STORM_SECONDS=N makes it last so long (30, or 60 on a slow kernel), and
 * KSM_STORM_SEED=N makes the same choices again, as far as they depend on
 * nothing else.
 */
#include <dirent.h>
#include <glob.h>
#include <sys/uio.h>
#include "ksm_lib.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif

#define WORKERS		4
#define NR		384UL
#define CONTENTS	12	/* that there are, besides empty pages */
#define MEMORY		"/sys/devices/system/memory/"
#define WINDOWS		"/sys/kernel/debug/ksm/windows/"

/* Shared by all processes. */
static struct board {
	bool stop;		/* the disturbers first, */
	bool leave;		/* then the workers */
	unsigned int seed;
	int disk;		/* for direct I/O; -1: there is none */
	pid_t pid[WORKERS];
	char *area[WORKERS];
	long ops[WORKERS];
	long moves[WORKERS];	/* of the area, by mremap() */
} *board;

static int nodes[2];

/* ---- a worker ---- */

struct worker {
	int id;
	char *slot[2];		/* where the area can be */
	int at;			/* in which of them it is */
	uint64_t seed[NR];	/* of each page; 0: it is empty */
	unsigned int random;
	pid_t child;
};

static unsigned int pick(struct worker *w, unsigned int below)
{
	w->random = w->random * 1664525 + 1013904223;
	return (w->random >> 8) % below;
}

static char *page_of(struct worker *w, size_t i)
{
	return w->slot[w->at] + i * PAGE_SIZE;
}

static void check_page(struct worker *w, size_t i)
{
	if (w->seed[i] ? page_is(page_of(w, i), w->seed[i]) :
			 all_zero(page_of(w, i), 1))
		return;
	FAIL("worker %d: page %zu is not %ld", w->id, i, (long)w->seed[i]);
}

static void check_all(struct worker *w)
{
	for (size_t i = 0; i < NR; i++)
		check_page(w, i);
}

static void write_some(struct worker *w)
{
	for (int n = pick(w, 16); n; n--) {
		size_t i = pick(w, NR);

		w->seed[i] = 1 + pick(w, CONTENTS);
		fill_page(page_of(w, i), w->seed[i]);
	}
}

static void write_one_byte(struct worker *w)
{
	size_t i = pick(w, NR);

	/* What it is already: copied all the same. */
	write_byte(page_of(w, i), read_byte(page_of(w, i)));
	check_page(w, i);
}

static void check_some(struct worker *w)
{
	for (int n = pick(w, 32); n; n--)
		check_page(w, pick(w, NR));
}

/* A part of the area: some pages from @first on. */
static size_t pick_part(struct worker *w, size_t *first)
{
	*first = pick(w, NR);
	return 1 + pick(w, NR - *first);
}

static void reserve(char *slot)
{
	CHECK(mmap(slot, NR * PAGE_SIZE, PROT_NONE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == slot);
}

static void move_area_away(struct worker *w)
{
	char *from = w->slot[w->at], *to = w->slot[!w->at];

	/* Not if it has come to consist of several areas. */
	if (mremap(from, NR * PAGE_SIZE, NR * PAGE_SIZE,
		   MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED) {
		CHECK_EQ(errno, EFAULT);
		return;
	}
	board->moves[w->id]++;
	reserve(from);
	w->at = !w->at;
	write_now(board->area[w->id], to);
}

static void protect(struct worker *w)
{
	size_t first, nr = pick_part(w, &first);

	CHECK(!mprotect(page_of(w, first), nr * PAGE_SIZE, PROT_READ));
	check_some(w);
	CHECK(!mprotect(page_of(w, first), nr * PAGE_SIZE,
			PROT_READ | PROT_WRITE));
}

static void advise(struct worker *w)
{
	size_t first, nr = pick_part(w, &first);

	CHECK(!madvise(page_of(w, first), nr * PAGE_SIZE, MADV_UNMERGEABLE));
	check_some(w);
	CHECK(!madvise(page_of(w, first), nr * PAGE_SIZE, MADV_MERGEABLE));
}

static void page_out(struct worker *w)
{
	size_t first, nr = pick_part(w, &first);

	/* Not what is locked, nor what others share. */
	madvise(page_of(w, first), nr * PAGE_SIZE, MADV_PAGEOUT);
}

static void lock(struct worker *w)
{
	size_t first, nr = pick_part(w, &first);

	CHECK(!mlock(page_of(w, first), nr * PAGE_SIZE));
	check_some(w);
	CHECK(!munlock(page_of(w, first), nr * PAGE_SIZE));
}

static void drop(struct worker *w)
{
	size_t i = pick(w, NR);

	CHECK(!madvise(page_of(w, i), PAGE_SIZE, MADV_DONTNEED));
	w->seed[i] = 0;
	if (pick(w, 2))
		memset(page_of(w, i), 0, PAGE_SIZE);
}

/* The pages are in a pipe for a while. */
static void splice_some(struct worker *w)
{
	static char back[4 * PAGE_SIZE];
	size_t first = pick(w, NR - 4);
	struct iovec vec = { page_of(w, first), 4 * PAGE_SIZE };
	int fd[2];

	CHECK(!pipe(fd));
	CHECK_EQ(vmsplice(fd[1], &vec, 1, 0), 4 * PAGE_SIZE);
	usleep(pick(w, 2000));
	for (size_t got = 0; got < sizeof(back);) {
		ssize_t n = read(fd[0], back + got, sizeof(back) - got);

		CHECK(n > 0);
		got += n;
	}
	CHECK(!memcmp(back, page_of(w, first), sizeof(back)));
	close(fd[0]);
	close(fd[1]);
}

/* The disk takes these pages, and gives them back to others. */
static void direct_io(struct worker *w)
{
	const size_t nr = 4, size = nr * PAGE_SIZE;
	size_t from = pick(w, NR - nr), to = pick(w, NR - nr);

	if (board->disk < 0)
		return;
	CHECK_EQ(pwrite(board->disk, page_of(w, from), size, w->id * size),
		 size);
	CHECK_EQ(pread(board->disk, page_of(w, to), size, w->id * size), size);
	memmove(w->seed + to, w->seed + from, nr * sizeof(w->seed[0]));
	for (size_t i = to; i < to + nr; i++)
		check_page(w, i);
}

static void reap_child(struct worker *w)
{
	int status;

	if (!w->child)
		return;
	CHECK_EQ(waitpid(w->child, &status, 0), w->child);
	CHECK_EQ(status, 0);
	w->child = 0;
}

static void fork_one(struct worker *w)
{
	reap_child(w);
	fflush(stdout);
	w->child = fork();
	CHECK(w->child >= 0);
	if (w->child)
		return;
	w->random += getpid();
	check_all(w);
	write_some(w);
	if (pick(w, 2))
		usleep(pick(w, 100000));
	write_some(w);
	check_all(w);
	_exit(0);
}

static void (*const ops[])(struct worker *w) = {
	write_some, write_some, write_one_byte, check_some, check_some,
	move_area_away, protect, advise, page_out, lock, drop, splice_some,
	direct_io, fork_one, reap_child,
};

static void work(int id)
{
	struct worker w = { .id = id, .random = board->seed + 7919 * id };

	for (int i = 0; i < 2; i++) {
		w.slot[i] = map_pages(NR);
		if (i)
			reserve(w.slot[i]);
	}
	CHECK(!madvise(w.slot[0], NR * PAGE_SIZE, MADV_MERGEABLE));
	write_now(board->area[id], w.slot[0]);
	while (!read_now(board->leave)) {
		ops[pick(&w, ARRAY_SIZE(ops))](&w);
		board->ops[id]++;
		/* Time to be merged, now and then. */
		if (!pick(&w, 20))
			usleep(pick(&w, 100000));
	}
	reap_child(&w);
	check_all(&w);
}

/* ---- what is done to them ---- */

struct disturber {
	const char *name;
	void (*fn)(struct disturber *d);
	const char *needs;	/* a file that not every kernel has */
	unsigned int random;
	long done;
	pthread_t thread;
};

static unsigned int choose(struct disturber *d, unsigned int below)
{
	d->random = d->random * 1664525 + 1013904223;
	return (d->random >> 8) % below;
}

static void move_pages_of_one(struct disturber *d)
{
	int id = choose(d, WORKERS), status[NR];
	char *area = read_now(board->area[id]), *pages[NR];
	int node = nodes[choose(d, 2)];

	for (size_t i = 0; i < NR; i++)
		pages[i] = area + i * PAGE_SIZE;
	move_to_node(board->pid[id], pages, status, NR, node,
		     KSM_MPOL_MF_MOVE_ALL);
	for (size_t i = 0; i < NR; i++)
		d->done += status[i] == node;
}

static void migrate_one(struct disturber *d)
{
	int from = choose(d, 2);
	unsigned long old = 1UL << nodes[from], new = 1UL << nodes[!from];

	if (syscall(SYS_migrate_pages, board->pid[choose(d, WORKERS)], 64,
		    &old, &new) >= 0)
		d->done++;
	usleep(50000);
}

/*
 * A block can be taken away with a poisoned page in it.  If that is said to be
 * sound again meanwhile, it is put on a list of free pages that is then left
 * behind, on any kernel; if it is not, the block does not come back.
 *
 * Nor does compaction see that the block it is in has been taken away, on any
 * kernel, and goes by what is no struct page any more.  With both in a loop and
 * nothing merged that takes half a minute to crash where these are poisoned.
 */
static pthread_mutex_t memory_lock = PTHREAD_MUTEX_INITIALIZER;

static void compact(struct disturber *d)
{
	pthread_mutex_lock(&memory_lock);
	d->done += !file_write("/proc/sys/vm/compact_memory", "1", 1);
	pthread_mutex_unlock(&memory_lock);
	usleep(200000);
}

/* Good pages, which are moved away, and can be used again afterwards. */
static void soft_offline(struct disturber *d)
{
	int id = choose(d, WORKERS);
	char *area = read_now(board->area[id]);
	unsigned long at;

	pthread_mutex_lock(&memory_lock);
	at = pfn_of(board->pid[id], area + choose(d, NR) * PAGE_SIZE);
	if (at && !file_print(MEMORY "soft_offline_page", "%#lx",
			      at * PAGE_SIZE)) {
		d->done++;
		/* Not while somebody has a reference, for whatever reason. */
		WAIT_FOR(!file_print("/sys/kernel/debug/hwpoison/unpoison-pfn",
				     "%lu", at));
	}
	pthread_mutex_unlock(&memory_lock);
	usleep(20000);
}

static bool block_has(long block, const char *file, const char *text)
{
	char path[128], buf[64];

	snprintf(path, sizeof(path), MEMORY "memory%ld/%s", block, file);
	return file_read(path, buf, sizeof(buf)) > 0 &&
	       !strncmp(buf, text, strlen(text));
}

static long pick_block(struct disturber *d)
{
	struct dirent *entry;
	long block, picked = -1;
	int nr = 0;
	DIR *dir = opendir(MEMORY);

	while (dir && (entry = readdir(dir)))
		if (sscanf(entry->d_name, "memory%ld", &block) == 1 &&
		    block_has(block, "valid_zones", "Movable") &&
		    !choose(d, ++nr))
			picked = block;
	if (dir)
		closedir(dir);
	return picked;
}

/*
 * Emptied by a process that is stopped when it takes too long; which is soon,
 * once it has succeeded.
 */
static void take_block_away(struct disturber *d)
{
	long block = pick_block(d);
	double patience = ksm_now() + (d->done ? choose(d, 10) :
				       60 * ksm_slow());
	char path[128];
	int status;
	pid_t pid;

	if (block < 0) {
		usleep(500000);
		return;
	}
	snprintf(path, sizeof(path), MEMORY "memory%ld/state", block);
	pthread_mutex_lock(&memory_lock);
	pid = fork();
	if (!pid)
		_exit(!!file_write(path, "offline", 7));
	while (waitpid(pid, &status, WNOHANG) != pid) {
		if (ksm_now() > patience)
			kill(pid, SIGKILL);
		usleep(50000);
	}
	if (block_has(block, "state", "offline")) {
		d->done++;
		usleep(100000);
		CHECK_EQ(file_write(path, "online_movable", 14), 0);
	}
	pthread_mutex_unlock(&memory_lock);
	usleep(300000);
}

static void turn_knobs(struct disturber *d)
{
	static const int runs[] = { 1, 1, 1, 1, 0, 2 };

	ksm_set("run", runs[choose(d, ARRAY_SIZE(runs))]);
	ksm_set("use_zero_pages", choose(d, 2));
	ksm_set("smart_scan", !choose(d, 4));
	/* If there can be two. */
	ksm_write("scan_threads", choose(d, 2) ? "1" : "2", 1);
	d->done++;
	usleep(choose(d, 400000));
}

/* Half of the moments in which a race can be lost last long, for a while. */
static void widen_windows(struct disturber *d)
{
	glob_t names;

	d->done++;
	if (!glob(WINDOWS "*", 0, NULL, &names)) {
		for (size_t i = 0; i < names.gl_pathc; i++)
			if (choose(d, 2))
				file_write(names.gl_pathv[i], "300", 3);
		usleep(1000000);
		for (size_t i = 0; i < names.gl_pathc; i++)
			file_write(names.gl_pathv[i], "4", 1);
	}
	globfree(&names);
	usleep(100000);
}

static void *disturb(void *arg)
{
	struct disturber *d = arg;

	while (!read_now(board->stop))
		d->fn(d);
	return NULL;
}

static struct disturber disturbers[] = {
	{ "move_pages: pages moved", move_pages_of_one },
	{ "migrate_pages", migrate_one },
	{ "compaction", compact },
	{ "soft-offlined pages", soft_offline, MEMORY "soft_offline_page" },
	{ "blocks taken away", take_block_away, MEMORY "block_size_bytes" },
	{ "turns of the knobs", turn_knobs },
	{ "windows", widen_windows },
};

static bool possible(const struct disturber *d)
{
	return !d->needs || !access(d->needs, F_OK);
}

/* ---- the storm ---- */

/* Memory with the manners of a disk. */
static int open_disk(void)
{
	long id = file_long("/sys/class/zram-control/hot_add");
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/sys/block/zram%ld/disksize", id);
	CHECK_EQ(file_write(path, "16M", 3), 0);
	snprintf(path, sizeof(path), "/dev/zram%ld", id);
	fd = open(path, O_RDWR | O_DIRECT);
	CHECK(fd >= 0);
	return fd;
}

static void start_workers(void)
{
	fflush(stdout);
	for (int id = 0; id < WORKERS; id++) {
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (!pid) {
			work(id);
			fflush(stdout);
			_exit(0);
		}
		board->pid[id] = pid;
	}
	for (int id = 0; id < WORKERS; id++)
		WAIT_FOR(read_now(board->area[id]));
}

static void nothing_left(void)
{
	ksm_set("run", 0);
	WAIT_FOR(!ksm_get("pages_shared") && !ksm_get("pages_sharing"));
	WAIT_FOR(!ksm_get("ksm_zero_pages"));
	WAIT_FOR(!ksm_get("pages_unshared"));
	CHECK_EQ(ksm_get("stable_node_chains"), 0);
	CHECK_EQ(ksm_get("stable_node_dups"), 0);
	if (ksm_has("metadata_bytes"))
		WAIT_FOR(!ksm_get("metadata_bytes"));
}

static double storm_seconds(void)
{
	const char *wanted = getenv("KSM_STORM_SECONDS");

	if (wanted)
		return atoi(wanted);
	return ksm_slow() > 1 ? 60 : 30;
}

static bool all_have_been_at_it(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(disturbers); i++)
		if (possible(&disturbers[i]) && !read_now(disturbers[i].done))
			return false;
	return true;
}

/* stock: expected failure: ksm_zero_pages does not come back to zero */
static void storm(void)
{
	const char *seed = getenv("KSM_STORM_SEED");
	double end = ksm_now() + storm_seconds();
	int status;

	need_nodes(nodes, 2);
	board = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(board != MAP_FAILED);
	board->seed = seed ? atoi(seed) : getpid() * 31 + time(NULL);
	ksm_note("seed %u", board->seed);
	board->disk = access("/sys/class/zram-control/hot_add", R_OK) ?
		      -1 : open_disk();
	ksm_set("pages_to_scan", 2000);
	ksm_set("sleep_millisecs", 1);
	ksm_set("max_page_sharing", 16);
	ksm_set("run", 1);
	start_workers();
	for (size_t i = 0; i < ARRAY_SIZE(disturbers); i++) {
		if (!possible(&disturbers[i]))
			continue;
		disturbers[i].random = board->seed + 104729 * (i + 1);
		CHECK(!pthread_create(&disturbers[i].thread, NULL, disturb,
				      &disturbers[i]));
	}
	while (ksm_goes_on(end, all_have_been_at_it())) {
		for (int id = 0; id < WORKERS; id++)
			if (waitpid(board->pid[id], &status, WNOHANG))
				FAIL("worker %d: status %#x", id, status);
		usleep(100000);
	}
	write_now(board->stop, true);
	for (size_t i = 0; i < ARRAY_SIZE(disturbers); i++)
		if (possible(&disturbers[i]))
			pthread_join(disturbers[i].thread, NULL);
	write_now(board->leave, true);
	for (int id = 0; id < WORKERS; id++) {
		CHECK_EQ(waitpid(board->pid[id], &status, 0), board->pid[id]);
		CHECK_EQ(status, 0);
		ksm_note("worker %d did %ld things, moved %ld times", id,
			 board->ops[id], board->moves[id]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(disturbers); i++)
		ksm_note("%s: %ld", disturbers[i].name, disturbers[i].done);
	CHECK(all_have_been_at_it());
	nothing_left();
}

static const struct ksm_test tests[] = {
	{ "storm", storm },
};

int main(int argc, char **argv)
{
	ksm_test_seconds += 60 + storm_seconds();
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
