// SPDX-License-Identifier: GPL-2.0
/* vm: --nodes 2 --swap 256M */
/* stock-fails: protected_before_merge */
/* stock-fails: soft_dirty */
/* stock-fails: others_are_merged */
/* stock-fails: others_than_huge_are_merged */
/*
 * Pages that somebody has a claim to: pinned, locked in memory, or watched
 * through userfaultfd and soft-dirty bits.
 */
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include "ksm_lib.h"

#define NR	32

/* ---- pitfall 8: pinned pages ---- */

/* As the kernel's gup_test driver has them. */
struct pin_request {
	uint64_t addr;
	uint64_t size;
	uint32_t flags;
};

#define PIN_WRITE	1
#define PIN_FAST	2
#define PIN_START	_IOW('g', 7, struct pin_request)
#define PIN_STOP	_IO('g', 8)
#define PIN_READ	_IOW('g', 9, uint64_t)

static int open_gup_test(void)
{
	int fd = open("/sys/kernel/debug/gup_test", O_RDWR);

	if (fd < 0)
		ksm_skip("no gup_test in debugfs");
	return fd;
}

static void pin_area(int fd, char *area, size_t nr, int flags)
{
	struct pin_request request = {
		(unsigned long)area, nr * PAGE_SIZE, flags,
	};

	if (ioctl(fd, PIN_START, &request))
		FAIL("cannot pin: errno %d", errno);
}

/* What whoever has pinned the pages sees is what is mapped. */
static void pinned_is_mapped(int fd, const char *area, size_t nr)
{
	static char seen[NR * PAGE_SIZE];
	uint64_t to = (unsigned long)seen;

	CHECK(!ioctl(fd, PIN_READ, &to));
	CHECK(!memcmp(seen, area, nr * PAGE_SIZE));
}

static void pinned(int flags)
{
	char *area = map_pages(NR), *free;
	int fd = open_gup_test();

	fill_area(area, NR, 100, 2);
	pin_area(fd, area, NR, flags);
	CHECK(!madvise(area, NR * PAGE_SIZE, MADV_MERGEABLE));
	free = mergeable_area(NR, 100, 2);
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), 0);
	CHECK_EQ(count_ksm(free, NR), NR);
	fill_area(area, NR, 200, NR);
	pinned_is_mapped(fd, area, NR);
	VERIFY(free, NR, 100, 2);

	/* Let go, they are pages like others. */
	fill_area(area, NR, 100, 2);
	CHECK(!ioctl(fd, PIN_STOP));
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	VERIFY(area, NR, 100, 2);
}

static void pinned_to_write(void)
{
	pinned(PIN_WRITE);
}

static void pinned_to_read(void)
{
	pinned(0);
}

/* Pinning a KSM page for long takes it out of sharing, even to read. */
static void pinned_after_merge(void)
{
	static const int flags[] = { 0, PIN_WRITE, PIN_FAST,
				     PIN_FAST | PIN_WRITE };
	char *area = mergeable_area(NR, 300, 2);
	int fd = open_gup_test();

	for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
		ksm_settle();
		CHECK_EQ(count_ksm(area, NR), NR);
		pin_area(fd, area, NR / 2, flags[i]);
		CHECK_EQ(count_ksm(area, NR / 2), 0);
		ksm_settle();
		CHECK_EQ(count_ksm(area, NR / 2), 0);
		fill_area(area, NR / 2, 400, NR);
		pinned_is_mapped(fd, area, NR / 2);
		VERIFY(area + NR / 2 * PAGE_SIZE, NR / 2, 300, 2);
		fill_area(area, NR / 2, 300, 2);
		CHECK(!ioctl(fd, PIN_STOP));
	}
	VERIFY(area, NR, 300, 2);
}

/* Fast pins take no lock that ksmd could wait for. */
static void pinned_in_a_race(void)
{
	char *area = mergeable_area(NR, 500, 1);
	double end = ksm_now() + 4;
	long cow = vm_event("cow_ksm");
	int fd = open_gup_test(), rounds = 0;

	ksm_scan(2);
	for (; ksm_now() < end; rounds++) {
		pin_area(fd, area, NR, rounds % 4 ? PIN_FAST | PIN_WRITE : PIN_FAST);
		for (size_t i = 0; i < NR; i++)
			write_byte(area + i * PAGE_SIZE, rounds);
		pinned_is_mapped(fd, area, NR);
		if (rounds % 2)
			usleep(rounds % 5 * 1000);
		for (size_t i = 0; i < NR; i++)
			fill_page(area + i * PAGE_SIZE, 500);
		pinned_is_mapped(fd, area, NR);
		CHECK(!ioctl(fd, PIN_STOP));
		/* Some of the time there is, for ksmd to merge. */
		if (rounds % 8 == 0)
			BECOMES(count_ksm(area, NR) > NR / 2, 0.2);
	}
	ksm_note("%d rounds, %ld KSM pages copied", rounds,
		 vm_event("cow_ksm") - cow);
	CHECK_GE(vm_event("cow_ksm") - cow, 1);
	VERIFY(area, NR, 500, 1);
}

/* A page in a pipe is the page, not a copy. */
static void spliced(void)
{
	char *area = map_pages(NR), *free, page[PAGE_SIZE];
	struct iovec iov = { area, 4 * PAGE_SIZE };
	int fds[2];

	fill_area(area, NR, 600, 1);
	CHECK(!pipe(fds));
	CHECK(vmsplice(fds[1], &iov, 1, 0) == 4 * PAGE_SIZE);
	CHECK(!madvise(area, NR * PAGE_SIZE, MADV_MERGEABLE));
	free = mergeable_area(NR, 600, 1);
	ksm_settle();
	CHECK_EQ(count_ksm(area, 4), 0);
	CHECK_EQ(count_ksm(area + 4 * PAGE_SIZE, NR - 4), NR - 4);
	for (size_t i = 0; i < 4; i++) {
		CHECK(read(fds[0], page, PAGE_SIZE) == PAGE_SIZE);
		CHECK(page_is(page, 600));
	}
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	VERIFY(area, NR, 600, 1);
	VERIFY(free, NR, 600, 1);

	/* A KSM page in the pipe stays what it was when it is written to. */
	CHECK(vmsplice(fds[1], &iov, 1, 0) == 4 * PAGE_SIZE);
	fill_area(area, 4, 700, 4);
	for (size_t i = 0; i < 4; i++) {
		CHECK(read(fds[0], page, PAGE_SIZE) == PAGE_SIZE);
		CHECK(page_is(page, 600) || page_is(page, 700 + i));
	}
	VERIFY(area, 4, 700, 4);
	VERIFY(free, NR, 600, 1);
}

/* ---- pitfall 10: locked memory ---- */

static void one_locked(bool lock_first)
{
	char *locked, *plain;
	long before;

	ksm_scan(0);
	before = locked_pages();
	/* Which of the two is merged into the other is ksmd's affair. */
	locked = map_pages(NR);
	plain = map_pages(NR);
	if (!lock_first) {
		char *other = locked;

		locked = plain;
		plain = other;
	}
	fill_area(locked, NR, 800, NR);
	fill_area(plain, NR, 800, NR);
	CHECK(!mlock(locked, NR * PAGE_SIZE));
	CHECK(!madvise(locked, NR * PAGE_SIZE, MADV_MERGEABLE));
	CHECK(!madvise(plain, NR * PAGE_SIZE, MADV_MERGEABLE));
	ksm_settle();
	CHECK_EQ(count_ksm(locked, NR), NR);
	CHECK_EQ(ksm_get("pages_shared"), NR);
	locked_becomes(before + NR);
	for (size_t i = 0; i < NR; i++)
		CHECK(unevictable(plain + i * PAGE_SIZE));
	CHECK_GE(smaps_kb(locked, "Locked"), 1);
	CHECK_EQ(smaps_kb(plain, "Locked"), 0);

	CHECK(!munmap(locked, NR * PAGE_SIZE));
	locked_becomes(before);
	for (size_t i = 0; i < NR; i++)
		WAIT_FOR(!unevictable(plain + i * PAGE_SIZE));
	VERIFY(plain, NR, 800, NR);
}

static void locked_into_plain(void)
{
	one_locked(true);
}

static void plain_into_locked(void)
{
	one_locked(false);
}

static void both_locked(void)
{
	char *a, *b;
	long before;

	before = locked_pages();
	a = mergeable_area(NR, 900, NR);
	b = mergeable_area(NR, 900, NR);
	CHECK(!mlock(a, NR * PAGE_SIZE));
	CHECK(!mlock(b, NR * PAGE_SIZE));
	ksm_settle();
	CHECK_EQ(count_ksm(a, NR), NR);
	/* One page each, and what went away is not counted any more. */
	locked_becomes(before + NR);
	CHECK(!munlock(b, NR * PAGE_SIZE));
	for (size_t i = 0; i < NR; i++)
		CHECK_EQ(pfn(a + i * PAGE_SIZE), pfn(b + i * PAGE_SIZE));
	VERIFY(a, NR, 900, NR);
	ksm_set("run", 2);
	VERIFY(a, NR, 900, NR);
	CHECK(!munmap(a, NR * PAGE_SIZE));
	ksm_settle();
	locked_becomes(before);
	VERIFY(b, NR, 900, NR);
}

/* A merged page that one of them has locked is not swapped out. */
static void locked_stays(void)
{
	char *locked, *plain;

	memcg_enter();
	locked = mergeable_area(NR, 1000, NR);
	plain = mergeable_area(NR, 1000, NR);
	CHECK(!mlock(locked, NR * PAGE_SIZE));
	ksm_settle();
	CHECK_EQ(count_ksm(locked, NR), NR);
	for (int i = 0; i < 10; i++) {
		memcg_stat("anon");
		memcg_write("memory.reclaim", "256K");
		CHECK_EQ(count_swapped(locked, NR), 0);
	}
	VERIFY(locked, NR, 1000, NR);
	VERIFY(plain, NR, 1000, NR);
}

/* ---- pitfall 9: watched pages ---- */

static int watch(char *area, size_t nr)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range = { (unsigned long)area, nr * PAGE_SIZE },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		ksm_skip("no userfaultfd");
	api.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP;
	if (ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &reg))
		ksm_skip("no write protection by userfaultfd");
	return fd;
}

static void protect(int fd, char *area, size_t nr, bool on)
{
	struct uffdio_writeprotect wp = {
		.range = { (unsigned long)area, nr * PAGE_SIZE },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	CHECK(!ioctl(fd, UFFDIO_WRITEPROTECT, &wp));
}

static size_t count_protected(const char *area, size_t nr)
{
	size_t found = 0;

	for (size_t i = 0; i < nr; i++)
		found += !!(pagemap_own(area + i * PAGE_SIZE) & PM_UFFD_WP);
	return found;
}

struct writes {
	char *area;
	size_t done;
};

static void *write_all(void *arg)
{
	struct writes *w = arg;

	for (size_t i = 0; i < NR; i++) {
		write_byte(w->area + i * PAGE_SIZE, 1);
		write_now(w->done, i + 1);
	}
	return NULL;
}

/* Every page's first write is told, merged or not. */
static void every_write_is_told(int fd, char *area)
{
	struct writes w = { area };
	struct uffd_msg msg;
	pthread_t thread;

	CHECK(!pthread_create(&thread, NULL, write_all, &w));
	for (size_t i = 0; i < NR; i++) {
		struct pollfd poll_fd = { fd, POLLIN };

		if (poll(&poll_fd, 1, 5000 * ksm_slow()) != 1)
			FAIL("a write to page %zu went unnoticed", i);
		CHECK(read(fd, &msg, sizeof(msg)) == sizeof(msg));
		CHECK_EQ(msg.event, UFFD_EVENT_PAGEFAULT);
		CHECK_EQ(msg.arg.pagefault.address & -PAGE_SIZE,
			 area + i * PAGE_SIZE);
		CHECK_EQ(read_now(w.done), i);
		protect(fd, area + i * PAGE_SIZE, 1, false);
	}
	pthread_join(thread, NULL);
}

static void protected_after_merge(void)
{
	char *area = mergeable_area(NR, 1100, 1);
	int fd = watch(area, NR);

	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	protect(fd, area, NR, true);
	CHECK_EQ(count_protected(area, NR), NR);
	ksm_settle();
	CHECK_EQ(count_protected(area, NR), NR);
	/* Taking the merge back is no write of the application's. */
	ksm_set("run", 2);
	CHECK_EQ(count_ksm(area, NR), 0);
	CHECK_EQ(count_protected(area, NR), NR);
	VERIFY(area, NR, 1100, 1);
	every_write_is_told(fd, area);
}

/* stock: expected failure: merging drops the marker */
static void protected_before_merge(void)
{
	char *area = map_pages(NR);
	int fd = watch(area, NR);

	fill_area(area, NR, 1200, 1);
	protect(fd, area, NR, true);
	CHECK(!madvise(area, NR * PAGE_SIZE, MADV_MERGEABLE));
	ksm_settle();
	ksm_note("%zu of %d pages merged", count_ksm(area, NR), NR);
	CHECK_EQ(count_protected(area, NR), NR);
	VERIFY(area, NR, 1200, 1);
	every_write_is_told(fd, area);
}

static size_t count_soft_dirty(const char *area, size_t nr)
{
	size_t found = 0;

	for (size_t i = 0; i < nr; i++)
		found += !!(pagemap_own(area + i * PAGE_SIZE) & PM_SOFT_DIRTY);
	return found;
}

/* stock: expected failure: merging drops the marker */
/* What was written since the last look is told at the next one. */
static void soft_dirty(void)
{
	char *area = map_pages(NR);

	fill_area(area, NR, 1, NR);
	CHECK_EQ(file_print("/proc/self/clear_refs", "4"), 0);
	if (count_soft_dirty(area, NR))
		ksm_skip("no soft-dirty bits");
	fill_area(area, NR / 2, 1300, 1);
	if (count_soft_dirty(area, NR) != NR / 2)
		ksm_skip("no soft-dirty bits");
	CHECK(!madvise(area, NR * PAGE_SIZE, MADV_MERGEABLE));
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR / 2), NR / 2);
	CHECK_EQ(count_soft_dirty(area, NR / 2), NR / 2);
	VERIFY(area, NR / 2, 1300, 1);

	CHECK_EQ(file_print("/proc/self/clear_refs", "4"), 0);
	CHECK_EQ(count_soft_dirty(area, NR), 0);
	fill_page(area, 1300);
	CHECK_EQ(count_soft_dirty(area, NR), 1);
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR / 2), NR / 2);
	CHECK_EQ(count_soft_dirty(area, 1), 1);
	VERIFY(area, NR / 2, 1300, 1);
	VERIFY(area + NR / 2 * PAGE_SIZE, NR / 2, 1 + NR / 2, NR);
}

#define OTHERS	64UL

static void merged_without_copies(void)
{
	long copies;

	ksm_settle();
	copies = vm_event("cow_ksm");
	ksm_scan(4);
	ksm_settle();
	CHECK_EQ(ksm_get("pages_shared"), OTHERS);
	CHECK_EQ(ksm_get("pages_sharing"), OTHERS);
	CHECK_EQ(vm_event("cow_ksm"), copies);
}

/*
 * One of three is in a pipe, the lowest in memory: the other two are merged all
 * the same, and stay so.
 */
/* stock: expected failure: what was merged is taken apart again */
static void others_are_merged(void)
{
	char *area = mergeable_area(3 * OTHERS, 9000, OTHERS), *in_pipe[OTHERS];
	unsigned long *at = pfns(area, 3 * OTHERS);
	int fd[2];

	CHECK(!pipe(fd));
	CHECK_GE(fcntl(fd[1], F_SETPIPE_SZ, OTHERS * PAGE_SIZE),
		 OTHERS * PAGE_SIZE);
	for (size_t i = 0; i < OTHERS; i++) {
		size_t lowest = i;

		for (size_t j = i; j < 3 * OTHERS; j += OTHERS)
			if (at[j] < at[lowest])
				lowest = j;
		in_pipe[i] = area + lowest * PAGE_SIZE;
		CHECK_EQ(vmsplice(fd[1], &(struct iovec){ in_pipe[i], PAGE_SIZE },
				  1, 0), PAGE_SIZE);
	}
	free(at);
	merged_without_copies();
	for (size_t i = 0; i < 3 * OTHERS; i++) {
		char *page = area + i * PAGE_SIZE;

		CHECK_EQ(is_ksm(page), page != in_pipe[i % OTHERS]);
	}
	VERIFY(area, 3 * OTHERS, 9000, OTHERS);
}

/* The same with pages of a huge page, of which another part is in a pipe. */
/* stock: expected failure, the same */
static void others_than_huge_are_merged(void)
{
	char *above = map_pages(OTHERS), *huge = map_huge(1);
	char *below = map_pages(OTHERS);
	struct iovec vec = { huge + OTHERS * PAGE_SIZE, PAGE_SIZE };
	int fd[2];

	fill_area(above, OTHERS, 9100, OTHERS);
	fill_area(huge, HUGE_PAGES, 9100, HUGE_PAGES);
	fill_area(below, OTHERS, 9100, OTHERS);
	CHECK(!pipe(fd));
	CHECK_EQ(vmsplice(fd[1], &vec, 1, 0), PAGE_SIZE);
	CHECK(!madvise(above, OTHERS * PAGE_SIZE, MADV_MERGEABLE));
	CHECK(!madvise(huge, HUGE_PAGES * PAGE_SIZE, MADV_MERGEABLE));
	CHECK(!madvise(below, OTHERS * PAGE_SIZE, MADV_MERGEABLE));
	merged_without_copies();
	CHECK_EQ(count_ksm(above, OTHERS), OTHERS);
	CHECK_EQ(count_ksm(huge, HUGE_PAGES), 0);
	CHECK_EQ(count_ksm(below, OTHERS), OTHERS);
	VERIFY(above, OTHERS, 9100, OTHERS);
	VERIFY(huge, HUGE_PAGES, 9100, HUGE_PAGES);
	VERIFY(below, OTHERS, 9100, OTHERS);
}

static const struct ksm_test tests[] = {
	{ "pinned_to_write", pinned_to_write },
	{ "pinned_to_read", pinned_to_read },
	{ "pinned_after_merge", pinned_after_merge },
	{ "pinned_in_a_race", pinned_in_a_race },
	{ "spliced", spliced },
	{ "locked_into_plain", locked_into_plain },
	{ "plain_into_locked", plain_into_locked },
	{ "both_locked", both_locked },
	{ "locked_stays", locked_stays },
	{ "protected_after_merge", protected_after_merge },
	{ "protected_before_merge", protected_before_merge },
	{ "soft_dirty", soft_dirty },
	{ "others_are_merged", others_are_merged },
	{ "others_than_huge_are_merged", others_than_huge_are_merged },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
