// SPDX-License-Identifier: GPL-2.0
/* stock-fails: stays_off_the_device */
/* stock-fails: zero_pages_are_counted */
/*
 * Memory that a device sees through page tables of its own, as a guest of KVM
 * or a GPU does: the kernel's test_hmm driver plays the device.  (pitfall 11)
 *
 * The driver remembers the pages it has been given, and forgets one only when
 * an MMU notifier says so.
 */
#include <sys/ioctl.h>
#include "ksm_lib.h"

#define NR	32

/* As in the driver's test_hmm_uapi.h. */
struct mirror_command {
	uint64_t addr;
	uint64_t buffer;
	uint64_t pages;
	uint64_t copied;
	uint64_t faults;
};

#define MIRROR_READ	_IOWR('H', 0, struct mirror_command)
#define MIRROR_WRITE	_IOWR('H', 1, struct mirror_command)
#define MIRROR_MOVE	_IOWR('H', 2, struct mirror_command)

static int open_mirror(void)
{
	int fd = open("/dev/hmm_dmirror0", O_RDWR);

	if (fd < 0)
		ksm_skip("no test_hmm driver");
	return fd;
}

static void mirror(int fd, unsigned long request, const char *area,
		   char *buffer, size_t nr)
{
	struct mirror_command command = {
		.addr = (unsigned long)area,
		.buffer = (unsigned long)buffer,
		.pages = nr,
	};
	int err;

	/* It gives up when the first try took a second */
	WAIT_FOR(!(err = ioctl(fd, request, &command)) || errno != EBUSY);
	if (err)
		FAIL("the device does not reach the memory: errno %d", errno);
	CHECK_EQ(command.copied, nr);
}

static void device_write(int fd, char *area, size_t nr, uint64_t seed,
			 size_t distinct)
{
	char *buffer = map_pages(nr);

	fill_area(buffer, nr, seed, distinct);
	mirror(fd, MIRROR_WRITE, area, buffer, nr);
	CHECK(!munmap(buffer, nr * PAGE_SIZE));
}

static void device_sees(int fd, const char *area, size_t nr, uint64_t seed,
			size_t distinct)
{
	char *buffer = map_pages(nr);

	mirror(fd, MIRROR_READ, area, buffer, nr);
	VERIFY(buffer, nr, seed, distinct);
	CHECK(!munmap(buffer, nr * PAGE_SIZE));
}

/* What the device may write to before the merge it may not afterwards. */
static void written_after_merge(void)
{
	int fd = open_mirror();
	char *area = map_pages(NR), *other;

	device_write(fd, area, NR, 100, 4);
	VERIFY(area, NR, 100, 4);
	CHECK(!madvise(area, NR * PAGE_SIZE, MADV_MERGEABLE));
	other = mergeable_area(NR, 100, 4);
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);

	device_write(fd, area, NR, 200, NR);
	VERIFY(area, NR, 200, NR);
	VERIFY(other, NR, 100, 4);
	device_sees(fd, other, NR, 100, 4);
}

/* The page that merging gives up is soon somebody else's. */
static void read_after_merge(void)
{
	int fd = open_mirror();
	char *area = mergeable_area(NR, 300, 4), *others;

	device_sees(fd, area, NR, 300, 4);
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	others = map_pages(NR * 64);
	fill_area(others, NR * 64, 400, NR * 64);
	device_sees(fd, area, NR, 300, 4);

	/* And so is the one that unmerging gives up. */
	ksm_set("run", 2);
	CHECK_EQ(count_ksm(area, NR), 0);
	fill_area(area, NR, 500, NR);
	device_sees(fd, area, NR, 500, NR);
	VERIFY(others, NR * 64, 400, NR * 64);
}

/* The zero page is read by everybody, and written to by nobody. */
static void zero_page(void)
{
	int fd = open_mirror();
	char *area = map_pages(NR), *buffer = map_pages(NR), *other;

	mirror(fd, MIRROR_WRITE, area, buffer, NR);
	CHECK(!madvise(area, NR * PAGE_SIZE, MADV_MERGEABLE));
	ksm_set("use_zero_pages", 1);
	ksm_settle();
	CHECK_EQ(ksm_get("ksm_zero_pages"), NR);
	device_write(fd, area, NR, 600, NR);
	VERIFY(area, NR, 600, NR);
	other = map_pages(NR);
	CHECK(all_zero(other, NR));
}

/* Merged and written to, over and over: what was written last is there. */
static void written_while_merging(void)
{
	int fd = open_mirror();
	char *area = map_pages(NR), *other;
	double end = ksm_now() + 3;
	long rounds = 0, merged = 0;

	device_write(fd, area, NR, 700, 1);
	CHECK(!madvise(area, NR * PAGE_SIZE, MADV_MERGEABLE));
	other = mergeable_area(NR, 700, 1);
	ksm_set("smart_scan", 0);
	ksm_scan(3);
	for (; ksm_now() < end; rounds++) {
		device_write(fd, area, NR, 701 + rounds, NR);
		VERIFY(area, NR, 701 + rounds, NR);
		device_write(fd, area, NR, 700, 1);
		/* Not every time: it is the writes that are to hit a merge. */
		if (rounds % 4 == 0)
			BECOMES(count_ksm(area, NR) > NR / 2, 0.1);
		merged += count_ksm(area, NR);
		VERIFY(area, NR, 700, 1);
		VERIFY(other, NR, 700, 1);
	}
	ksm_note("%ld rounds, %ld merged pages written to", rounds, merged);
	CHECK_GE(merged, 1);
}

/*
 * To memory of its own, into which the processor cannot look.  Returns how many
 * pages have gone there.
 */
static long move_to_device(int fd, char *area, size_t nr)
{
	char *buffer = map_pages(nr);
	struct mirror_command command = {
		.addr = (unsigned long)area,
		.buffer = (unsigned long)buffer,
		.pages = nr,
	};

	/* The driver goes on to read all of them from there. */
	if (ioctl(fd, MIRROR_MOVE, &command) && errno != ENOENT)
		FAIL("the device cannot be given memory: errno %d", errno);
	CHECK(!munmap(buffer, nr * PAGE_SIZE));
	return command.copied;
}

/* ksmd goes on comparing a KSM page, so that cannot go there. */
/* stock: expected failure: it goes, and ksmd oopses when it comes by */
static void stays_off_the_device(void)
{
	int fd = open_mirror();
	char *area = mergeable_area(NR, 800, 4), *plain, *more;
	unsigned long *before, *after;

	plain = map_pages(NR);
	fill_area(plain, NR, 900, NR);
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	CHECK_EQ(move_to_device(fd, plain, NR), NR);
	before = pfns(area, NR);
	move_to_device(fd, area, NR);
	after = pfns(area, NR);
	CHECK(!memcmp(before, after, NR * sizeof(*before)));

	more = mergeable_area(NR, 800, 4);
	ksm_settle();
	CHECK_EQ(ksm_get("pages_shared"), 4);
	CHECK_EQ(count_ksm(more, NR), NR);
	device_write(fd, area, NR, 850, NR);
	VERIFY(area, NR, 850, NR);
	VERIFY(more, NR, 800, 4);
	VERIFY(plain, NR, 900, NR);
}

/* pitfall 22: a page of the device in place of one of KSM's zero pages */
/* stock: expected failure: counts it for ever */
static void zero_pages_are_counted(void)
{
	int fd = open_mirror();
	char *area = map_pages(NR);

	memset(area, 0, NR * PAGE_SIZE);
	CHECK(!madvise(area, NR * PAGE_SIZE, MADV_MERGEABLE));
	ksm_set("use_zero_pages", 1);
	ksm_settle();
	CHECK_EQ(ksm_get("ksm_zero_pages"), NR);
	CHECK_EQ(move_to_device(fd, area, NR), NR);
	CHECK_EQ(ksm_get("ksm_zero_pages"), 0);
	CHECK_EQ(proc_ksm(getpid(), "ksm_zero_pages"), 0);
	CHECK(all_zero(area, NR));
}

static const struct ksm_test tests[] = {
	{ "written_after_merge", written_after_merge },
	{ "read_after_merge", read_after_merge },
	{ "zero_page", zero_page },
	{ "written_while_merging", written_while_merging },
	{ "stays_off_the_device", stays_off_the_device },
	{ "zero_pages_are_counted", zero_pages_are_counted },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
