/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the samepage merging tests share.
 *
 * A test program is a table of functions.  Each function runs in a process of
 * its own, at the head of a process group that is killed when it ends, with
 * every knob of /sys/kernel/mm/ksm at a known value and nothing merged.  A
 * check that does not hold ends the process, and with it the test; no test
 * has to clean up after itself.
 *
 * Environment: KSM_TEST_SLOW=N multiplies every deadline (slow kernels).
 * KSM_TEST_JITTER=1 has the test stand still at checks now and then, for up to
 * 0.3 s, as on a host with more to do: what then fails counts on a quiet one.
 * Arguments: names of the tests to run; all of them when there are none.
 */
#ifndef _KSM_LIB_H
#define _KSM_LIB_H

#include <errno.h>
#include <fcntl.h>
#include <linux/kernel-page-flags.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>
#include "kselftest.h"

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE	67
#define PR_GET_MEMORY_MERGE	68
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE		25
#endif
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE		0x08
#endif

#ifndef BIT_ULL
#define BIT_ULL(nr)		(1ULL << (nr))
#endif

#define PAGE_SIZE		4096UL

/* Memory policies, so that no libnuma is needed. */
#define KSM_MPOL_BIND		2
#define KSM_MPOL_MF_MOVE	2
#define KSM_MPOL_MF_MOVE_ALL	4

/* ---- lib_run.c: running tests, checks, knobs ---- */

struct ksm_test {
	const char *name;
	void (*fn)(void);
};

/* What each of them may take, before it counts as hanging. */
extern double ksm_test_seconds;

int ksm_run_tests(int argc, char **argv, const struct ksm_test *tests,
		  int nr_tests);

__noreturn __printf(3, 4)
void ksm_fail(const char *file, int line, const char *fmt, ...);
__noreturn __printf(1, 2) void ksm_skip(const char *fmt, ...);
__printf(1, 2) void ksm_note(const char *fmt, ...);

void ksm_check_eq(const char *file, int line, const char *left, long l,
		  const char *right, long r);
void ksm_check_ge(const char *file, int line, const char *left, long l,
		  const char *right, long r);

/* Stands still by chance, with KSM_TEST_JITTER.  Changes no page. */
void ksm_jitter(void);

#define FAIL(...)	ksm_fail(__FILE__, __LINE__, __VA_ARGS__)
#define CHECK(cond)							\
	do {								\
		ksm_jitter();						\
		if (!(cond))						\
			FAIL("not so: %s (errno %d)", #cond, errno);	\
	} while (0)
#define CHECK_EQ(l, r)							\
	ksm_check_eq(__FILE__, __LINE__, #l, (long)(l), #r, (long)(r))
#define CHECK_GE(l, r)							\
	ksm_check_ge(__FILE__, __LINE__, #l, (long)(l), #r, (long)(r))
/* The call is to fail with this errno. */
#define CHECK_ERRNO(call, err)						\
	do {								\
		ksm_jitter();						\
		errno = 0;						\
		if ((long)(call) != -1 || errno != (err))		\
			FAIL("%s: errno %d, not %s", #call, errno, #err); \
	} while (0)

/* Times are in seconds of CLOCK_MONOTONIC. */
double ksm_now(void);
double ksm_slow(void);
/*
 * What is to be met by chance is looked for until then, whether it has been met
 * or not; and if it has not, for a minute more.
 */
bool ksm_goes_on(double end, bool met);

/* Does the condition come true within these seconds? */
#define BECOMES(cond, seconds)						\
({									\
	double end_ = ksm_now() + (seconds) * ksm_slow();		\
	bool ok_, late_;						\
									\
	/* The clock first, for there to be a look after the deadline */ \
	while (late_ = ksm_now() >= end_, !(ok_ = !!(cond)) && !late_)	\
		usleep(5000);						\
	ksm_jitter();							\
	ok_;								\
})
/* Long: on a busy host each TLB flush waits for a processor to get its turn. */
#define WAIT_FOR(cond)							\
	do {								\
		if (!BECOMES(cond, 60))					\
			FAIL("still not so after the deadline: %s", #cond); \
	} while (0)

/* Knobs: all of them live in /sys/kernel/mm/ksm. */
bool ksm_has(const char *knob);
long ksm_get(const char *knob);
void ksm_set(const char *knob, long value);
int ksm_write(const char *knob, const char *data, size_t len);	/* 0, -errno */
int ksm_read(const char *knob, char *buf, size_t size);
const char *ksm_as_found(const char *knob);

void ksm_scan(int passes);	/* ksmd runs, and goes on running */
void ksm_one_pass(void);	/* or the rest of one that has begun */
void ksmd_lies_down(void);	/* waits until it sleeps between two scans */
void ksm_settle(void);		/* ksmd merges what it can, then stops */
void ksm_merge_in_place(void);	/* what is merged stays where one of it was */

/* Write to some other knob; it gets its old value back after the test. */
int knob_override(const char *path, const char *value);
/*
 * Put the system to sleep, as far as everybody is frozen; the kernel's test mode
 * lets them go on at once.  Skips the test without that.
 */
void suspend_and_resume(void);

int file_write(const char *path, const char *data, size_t len);
__printf(2, 3) int file_print(const char *path, const char *fmt, ...);
ssize_t file_read(const char *path, char *buf, size_t size);
long file_long(const char *path);		/* fails the test */
long file_field(const char *path, const char *field);	/* -1: no such */
long vm_event(const char *field);	/* of /proc/vmstat */

/* ---- lib_mem.c: memory, its content, where it is ---- */

char *map_pages(size_t nr);
void touch_pages(char *area, size_t nr);
/* Pages in huge pages, as many as there are to be; else the test is skipped. */
#define HUGE_PAGES		512UL
#define HUGE_SIZE		(HUGE_PAGES * PAGE_SIZE)
char *map_huge(size_t nr_huge);
/* Room for one, touched: true if a huge page is what came. */
bool fault_huge(char **room);
long huge_kb(const void *addr);
size_t free_pages(void);
/* Uses up memory, in huge pages if it can, until no more than this is free. */
void leave_free(size_t nr);
void fill_page(void *page, uint64_t seed);
bool page_is(const void *page, uint64_t seed);
bool all_zero(const char *area, size_t nr);	/* pages */
/* References to all of them; the pipe's ends are to be closed, or read. */
void hold_in_pipe(char *area, size_t nr, int ends[2]);
/* Page i holds the content of seed + i % distinct. */
void fill_area(char *area, size_t nr, uint64_t seed, size_t distinct);
void verify_at(const char *file, int line, const char *area, size_t nr,
	       uint64_t seed, size_t distinct);
#define VERIFY(area, nr, seed, distinct)				\
	verify_at(__FILE__, __LINE__, area, nr, seed, distinct)
char *mergeable_area(size_t nr, uint64_t seed, size_t distinct);
/* Unique content, and every page merged with its like in a second area. */
char *merged_pairs(size_t nr, uint64_t seed, char **second);
/* One access that the compiler does not move, repeat or leave out. */
#define read_byte(addr)		__atomic_load_n((char *)(addr), __ATOMIC_RELAXED)
#define write_byte(addr, value)						\
	__atomic_store_n((char *)(addr), (value), __ATOMIC_RELAXED)
#define read_now(variable)	__atomic_load_n(&(variable), __ATOMIC_ACQUIRE)
#define write_now(variable, value)					\
	__atomic_store_n(&(variable), (value), __ATOMIC_RELEASE)

#define PM_SOFT_DIRTY		BIT_ULL(55)
#define PM_EXCLUSIVE		BIT_ULL(56)
#define PM_UFFD_WP		BIT_ULL(57)
#define PM_SWAPPED		BIT_ULL(62)
#define PM_PRESENT		BIT_ULL(63)

uint64_t pagemap_own(const void *addr);
unsigned long pfn_of(pid_t pid, const void *addr);	/* 0: not present */
unsigned long pfn(const void *addr);
/* Of every page of an area, at once; the caller frees them. */
unsigned long *pfns_of(pid_t pid, const char *area, size_t nr);
unsigned long *pfns(const char *area, size_t nr);
/* How many pages of one are at the same place as those of the other. */
size_t count_same(pid_t pid, const char *area, pid_t other_pid,
		  const char *other, size_t nr);
uint64_t page_flags(unsigned long pfn);
long page_mapcount(unsigned long pfn);
bool unevictable(const void *addr);
bool in_swap_cache(const void *addr);
long locked_pages(void);		/* of everybody */
void locked_becomes(long expect);	/* with ksmd's help; stopped then */
bool is_ksm(const void *addr);
size_t count_ksm(const char *area, size_t nr);
size_t count_swapped(const char *area, size_t nr);

/* One line of the smaps entry of the area at addr; -1 if there is none. */
long smaps_kb(const void *addr, const char *field);
bool smaps_flag(const void *addr, const char *flag);

long proc_ksm(pid_t pid, const char *field);
long proc_merging(pid_t pid);

/* Nodes with memory, numbered as they come; fewer ends in a skip. */
int need_nodes(int *nodes, int nr);
int node_of(const void *addr);
size_t count_on_node(char *area, size_t nr, int node);
/*
 * move_pages(2) to one node; what the call returned, or -errno.  Status tells
 * where the pages are then, or what was wrong with them.
 */
long move_to_node(pid_t pid, char **pages, int *status, size_t nr, int node,
		  int flags);
/* Move until everything has arrived, trying again a few times. */
void move_area(char *area, size_t nr, int node);
/* All of what this process maps there, at the first call. */
void move_all(char *area, size_t nr, int node);
int bind_area(char *area, size_t nr, int node, int flags);

/* A thread that moves an area from one node to the other and back. */
struct mover {
	char *area;
	size_t nr;
	int nodes[2];
	long calls, moved;	/* to be read when it has stopped */
	bool stop;
	pthread_t thread;
};

void mover_start(struct mover *m, char *area, size_t nr, const int *nodes);
void mover_stop(struct mover *m);

/* ---- lib_proc.c: other processes and control groups ---- */

/* Of a process that there is one of, by its name; fails the test. */
pid_t pid_of(const char *comm);
long cpu_time(const char *comm);	/* what it has had of a CPU, in ns */

struct peer {
	pid_t pid;
	int in, out;
};

/* Both sides talk through their struct peer; fn returning is success. */
void peer_start(struct peer *p, void (*fn)(struct peer *me, void *arg),
		void *arg);
void peer_send(struct peer *p, long value);
long peer_recv(struct peer *p);
long peer_recv_within(struct peer *p, int seconds);
void peer_join(struct peer *p);		/* it must succeed */
int peer_status(struct peer *p);	/* as waitpid() tells it */

/* A control group of its own for the test (cgroup v2, memory). */
void memcg_enter(void);
int memcg_control(const char *controller);	/* one more of them */
int memcg_write(const char *file, const char *value);
long memcg_get(const char *file);
long memcg_stat(const char *field);
void memcg_wait_empty(void);	/* all have lost their memory, too */
void memcg_remove(void);
double memcg_reclaim(const char *amount);	/* the seconds it took */
/* Push this group's memory out; true if all these pages are in swap then. */
bool memcg_swap_out(const char *area, size_t nr);

#endif
