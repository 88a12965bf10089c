// SPDX-License-Identifier: GPL-2.0
/*
 * madvise(2): which areas take part in merging, and which never do.
 */
#include <pthread.h>
#include "ksm_lib.h"

static void advice_is_kept(void)
{
	const size_t nr = 9;
	char *area = map_pages(nr), *middle = area + 3 * PAGE_SIZE;

	CHECK(!smaps_flag(area, "mg"));
	CHECK(!madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE));
	CHECK(!madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE));
	CHECK(smaps_flag(area, "mg"));
	CHECK(!madvise(middle, 3 * PAGE_SIZE, MADV_UNMERGEABLE));
	CHECK(!madvise(middle, 3 * PAGE_SIZE, MADV_UNMERGEABLE));
	CHECK(smaps_flag(area, "mg"));
	CHECK(!smaps_flag(middle, "mg"));
	CHECK(smaps_flag(area + 6 * PAGE_SIZE, "mg"));
	CHECK(!madvise(area, nr * PAGE_SIZE, MADV_UNMERGEABLE));
	CHECK(!smaps_flag(area, "mg"));
	/* Nothing was ever written there; it is still usable. */
	fill_area(area, nr, 1, nr);
	VERIFY(area, nr, 1, nr);
}

static void bad_ranges(void)
{
	const size_t nr = 6;
	char *area = map_pages(nr);

	CHECK_ERRNO(madvise(area + 1, PAGE_SIZE, MADV_MERGEABLE), EINVAL);
	CHECK_ERRNO(madvise(area, -PAGE_SIZE, MADV_MERGEABLE), EINVAL);
	CHECK_ERRNO(madvise(area + 1, PAGE_SIZE, MADV_UNMERGEABLE), EINVAL);
	CHECK(!madvise(area, 0, MADV_MERGEABLE));
	CHECK(!smaps_flag(area, "mg"));

	/* A gap is reported, and what lies around it is done. */
	CHECK(!munmap(area + 2 * PAGE_SIZE, 2 * PAGE_SIZE));
	CHECK_ERRNO(madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE), ENOMEM);
	CHECK(smaps_flag(area, "mg"));
	CHECK(smaps_flag(area + 4 * PAGE_SIZE, "mg"));
	CHECK_ERRNO(madvise(area, nr * PAGE_SIZE, MADV_UNMERGEABLE), ENOMEM);
	CHECK(!smaps_flag(area, "mg"));
	CHECK(!smaps_flag(area + 4 * PAGE_SIZE, "mg"));
}

/* The advice is given while ksmd stands still, and holds later. */
static void advice_before_run(void)
{
	const size_t nr = 32;
	char *area = map_pages(nr);

	CHECK_EQ(ksm_get("run"), 0);
	CHECK(!madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE));
	ksm_set("run", 1);
	fill_area(area, nr, 10, 2);
	ksm_settle();
	CHECK_EQ(count_ksm(area, nr), nr);
	/* Everything taken back and given again: ksmd may have let us go. */
	CHECK(!madvise(area, nr * PAGE_SIZE, MADV_UNMERGEABLE));
	ksm_set("run", 1);
	CHECK(!BECOMES(count_ksm(area, nr), 0.2));
	CHECK(!madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE));
	ksm_settle();
	CHECK_EQ(count_ksm(area, nr), nr);
	VERIFY(area, nr, 10, 2);
}

/* ---- pitfall 23: areas that never take part ---- */

/* The advice is accepted, and ignored. */
static void check_left_out(void *area, size_t len)
{
	CHECK(!madvise(area, len, MADV_MERGEABLE));
	CHECK(!smaps_flag(area, "mg"));
	CHECK(!madvise(area, len, MADV_UNMERGEABLE));
}

static void check_never_merged(char *area, size_t nr, uint64_t seed)
{
	char *witness;

	fill_area(area, nr, seed, 1);
	check_left_out(area, nr * PAGE_SIZE);
	madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE);
	witness = mergeable_area(4, seed, 1);
	ksm_settle();
	CHECK_EQ(count_ksm(witness, 4), 4);
	CHECK_EQ(count_ksm(area, nr), 0);
	CHECK_EQ(ksm_get("pages_sharing"), 3);
	VERIFY(area, nr, seed, 1);
}

static void shared_memory(void)
{
	const size_t nr = 16;
	char *area = mmap(NULL, nr * PAGE_SIZE, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(area != MAP_FAILED);
	check_never_merged(area, nr, 20);
}

static int file_of(size_t nr, uint64_t seed)
{
	int fd = memfd_create("ksm_test", 0);
	char page[PAGE_SIZE];

	CHECK(fd >= 0);
	fill_page(page, seed);
	for (size_t i = 0; i < nr; i++)
		CHECK(write(fd, page, PAGE_SIZE) == PAGE_SIZE);
	return fd;
}

static void shared_file(void)
{
	const size_t nr = 16;
	char *area = mmap(NULL, nr * PAGE_SIZE, PROT_READ | PROT_WRITE,
			  MAP_SHARED, file_of(nr, 30), 0);

	CHECK(area != MAP_FAILED);
	check_never_merged(area, nr, 30);
}

/* A private file mapping takes part with the pages that were written to. */
static void private_file(void)
{
	const size_t nr = 16;
	char *area = mmap(NULL, nr * PAGE_SIZE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE, file_of(nr, 40), 0);

	CHECK(area != MAP_FAILED);
	CHECK(!madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE));
	CHECK(smaps_flag(area, "mg"));
	for (size_t i = 0; i < nr / 2; i++)
		fill_page(area + i * PAGE_SIZE, 41);
	VERIFY(area + nr / 2 * PAGE_SIZE, nr / 2, 40, 1);
	ksm_settle();
	CHECK_EQ(count_ksm(area, nr / 2), nr / 2);
	CHECK_EQ(count_ksm(area + nr / 2 * PAGE_SIZE, nr / 2), 0);
	VERIFY(area, nr / 2, 41, 1);
	VERIFY(area + nr / 2 * PAGE_SIZE, nr / 2, 40, 1);
}

static void hugetlb_pages(void)
{
	static const char knob[] =
		"/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
	const size_t size = HUGE_PAGES * PAGE_SIZE;
	char *area;

	if (knob_override(knob, "2"))
		ksm_skip("no hugetlb");
	area = mmap(NULL, size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	if (area == MAP_FAILED)
		ksm_skip("no huge page to be had");
	check_never_merged(area, HUGE_PAGES, 50);
}

static void droppable(void)
{
	const size_t nr = 16;
	char *area = mmap(NULL, nr * PAGE_SIZE, PROT_READ | PROT_WRITE,
			  MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);

	if (area == MAP_FAILED)
		ksm_skip("no MAP_DROPPABLE");
	check_never_merged(area, nr, 60);
}

/* [vvar] is PFNMAP and IO, [vdso] is DONTEXPAND. */
static void special_mappings(void)
{
	unsigned long start, end;
	char line[256];
	int found = 0;
	FILE *f;

	f = fopen("/proc/self/maps", "r");
	CHECK(f);
	while (fgets(line, sizeof(line), f)) {
		if (!strstr(line, "[vvar]") && !strstr(line, "[vdso]"))
			continue;
		CHECK(sscanf(line, "%lx-%lx", &start, &end) == 2);
		check_left_out((void *)start, end - start);
		found++;
	}
	fclose(f);
	if (!found)
		ksm_skip("no special mappings");
}

/* ---- changes to areas that take part ---- */

static void not_inherited(void)
{
	const size_t nr = 16;
	char *area = mergeable_area(nr, 70, 1);
	char *wiped = mergeable_area(nr, 70, 1);
	int status;

	CHECK(!madvise(area, nr * PAGE_SIZE, MADV_DONTFORK));
	CHECK(!madvise(wiped, nr * PAGE_SIZE, MADV_WIPEONFORK));
	ksm_settle();
	CHECK_EQ(count_ksm(area, nr), nr);
	CHECK_EQ(count_ksm(wiped, nr), nr);
	if (!fork()) {
		CHECK_ERRNO(madvise(area, PAGE_SIZE, MADV_MERGEABLE), ENOMEM);
		CHECK(all_zero(wiped, nr));
		fill_area(wiped, nr, 71, 1);
		VERIFY(wiped, nr, 71, 1);
		_exit(0);
	}
	CHECK(wait(&status) > 0 && !status);
	CHECK_EQ(count_ksm(area, nr), nr);
	CHECK_EQ(count_ksm(wiped, nr), nr);
	VERIFY(area, nr, 70, 1);
	VERIFY(wiped, nr, 70, 1);
}

static void pages_go_away(void)
{
	const size_t nr = 64;
	char *area = mergeable_area(nr, 80, 2);

	ksm_settle();
	CHECK_EQ(count_ksm(area, nr), nr);
	CHECK(!munmap(area + 48 * PAGE_SIZE, 16 * PAGE_SIZE));
	CHECK(!madvise(area + 32 * PAGE_SIZE, 16 * PAGE_SIZE, MADV_DONTNEED));
	CHECK(all_zero(area + 32 * PAGE_SIZE, 16));
	/* Other content in the place of merged pages. */
	CHECK(mmap(area, 16 * PAGE_SIZE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == area);
	fill_area(area, 16, 81, 16);
	VERIFY(area + 16 * PAGE_SIZE, 16, 80, 2);

	ksm_settle();
	CHECK_EQ(count_ksm(area + 16 * PAGE_SIZE, 16), 16);
	CHECK_EQ(ksm_get("pages_shared"), 2);
	CHECK_EQ(ksm_get("pages_sharing"), 14);
	CHECK_EQ(proc_merging(getpid()), 16);
	VERIFY(area, 16, 81, 16);
	VERIFY(area + 16 * PAGE_SIZE, 16, 80, 2);

	CHECK(!munmap(area, 48 * PAGE_SIZE));
	ksm_set("run", 1);
	WAIT_FOR(!ksm_get("pages_shared") && !ksm_get("pages_sharing"));
}

static void protection_changes(void)
{
	const size_t nr = 32;
	char *area = mergeable_area(nr, 90, 2);

	/* Merging goes on in memory that cannot be written to. */
	CHECK(!mprotect(area, nr * PAGE_SIZE, PROT_READ));
	ksm_settle();
	CHECK_EQ(count_ksm(area, nr), nr);
	VERIFY(area, nr, 90, 2);
	CHECK(!mprotect(area, nr * PAGE_SIZE, PROT_NONE));
	ksm_settle();
	/* Write access does not make a merged page writable. */
	CHECK(!mprotect(area, nr * PAGE_SIZE, PROT_READ | PROT_WRITE));
	VERIFY(area, nr, 90, 2);
	for (size_t i = 0; i < nr; i += 2)
		fill_page(area + i * PAGE_SIZE, 92);
	for (size_t i = 0; i < nr; i++)
		CHECK(page_is(area + i * PAGE_SIZE, i % 2 ? 91 : 92));
}

struct replaced {
	char *area;
	size_t nr;
	bool stop;
};

static void *replace(void *arg)
{
	struct replaced *r = arg;
	static const int flags[] = {
		MAP_SHARED | MAP_ANONYMOUS, MAP_PRIVATE | MAP_ANONYMOUS,
	};

	for (int n = 0; !read_now(r->stop); n++) {
		if (mmap(r->area, r->nr * PAGE_SIZE, PROT_READ | PROT_WRITE,
			 flags[n % 2] | MAP_FIXED, -1, 0) != r->area)
			return "mmap failed";
		fill_area(r->area, r->nr, 101, 1);
		madvise(r->area, r->nr * PAGE_SIZE, MADV_MERGEABLE);
		usleep(n % 7 * 1000);
		for (size_t i = 0; i < r->nr; i++)
			if (!page_is(r->area + i * PAGE_SIZE, 101))
				return "content lost";
		munmap(r->area + r->nr / 2 * PAGE_SIZE, PAGE_SIZE);
		mprotect(r->area, PAGE_SIZE, PROT_READ);
	}
	return NULL;
}

/* pitfall 20: between two looks of ksmd the area has become another one */
static void areas_replaced(void)
{
	struct replaced r = { .nr = 32 };
	double end = ksm_now() + 3;
	pthread_t thread;
	void *wrong;
	char *area;

	r.area = map_pages(r.nr);
	area = mergeable_area(r.nr, 101, 1);
	ksm_scan(1);
	CHECK(!pthread_create(&thread, NULL, replace, &r));
	while (ksm_now() < end) {
		VERIFY(area, r.nr, 101, 1);
		usleep(2000);
	}
	write_now(r.stop, true);
	pthread_join(thread, &wrong);
	if (wrong)
		FAIL("%s", (char *)wrong);
	WAIT_FOR(count_ksm(area, r.nr) == r.nr);
	VERIFY(area, r.nr, 101, 1);
}

static const struct ksm_test tests[] = {
	{ "advice_is_kept", advice_is_kept },
	{ "bad_ranges", bad_ranges },
	{ "advice_before_run", advice_before_run },
	{ "shared_memory", shared_memory },
	{ "shared_file", shared_file },
	{ "private_file", private_file },
	{ "hugetlb_pages", hugetlb_pages },
	{ "droppable", droppable },
	{ "special_mappings", special_mappings },
	{ "not_inherited", not_inherited },
	{ "pages_go_away", pages_go_away },
	{ "protection_changes", protection_changes },
	{ "areas_replaced", areas_replaced },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
