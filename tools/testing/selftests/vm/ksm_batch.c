// SPDX-License-Identifier: GPL-2.0
/* stock-fails: few_flushes */
/*
 * Pages that are merged together: that they are, and that they need not be
 * alike in anything but their content.
 */
#include "ksm_lib.h"

#define TRACING		"/sys/kernel/tracing/"
#define TLB_FLUSH	TRACING "events/tlb/tlb_flush/"
#define SEND_IPI	"reason == 4"	/* TLB_REMOTE_SEND_IPI of the kernel */

#define TABLE_PAGES	512UL

/* ---- flushes ---- */

/* All that the trace buffers hold, and have held. */
static long nr_traced(void)
{
	char path[96];
	long cpu, cpus = sysconf(_SC_NPROCESSORS_CONF), sum = 0, value;

	for (cpu = 0; cpu < cpus; cpu++) {
		snprintf(path, sizeof(path), TRACING "per_cpu/cpu%ld/stats", cpu);
		value = file_field(path, "entries");
		CHECK_GE(value, 0);
		sum += value;
		value = file_field(path, "overrun");
		CHECK_GE(value, 0);
		sum += value;
	}
	return sum;
}

static void *be_active(void *arg)
{
	cpu_set_t cpu;

	CPU_ZERO(&cpu);
	CPU_SET((long)arg, &cpu);
	CHECK(!sched_setaffinity(0, sizeof(cpu), &cpu));
	nice(19);
	for (;;)
		sched_yield();
	return NULL;
}

/* stock: expected failure: two flushes for each page */
static void few_flushes(void)
{
	const size_t nr = 4 * TABLE_PAGES;
	long cpus = sysconf(_SC_NPROCESSORS_ONLN), cpu, flushes, merged;
	pthread_t thread;
	char *area;

	if (cpus < 2)
		ksm_skip("one CPU");
#ifndef __x86_64__
	ksm_skip("TLB flushes need not be interrupts on this architecture");
#endif
	if (access(TLB_FLUSH "enable", W_OK))
		ksm_skip("no trace event for TLB flushes");
	area = mergeable_area(nr, 100, 64);
	for (cpu = 0; cpu < cpus; cpu++)
		CHECK(!pthread_create(&thread, NULL, be_active, (void *)cpu));
	CHECK(!knob_override(TLB_FLUSH "filter", SEND_IPI));
	CHECK(!knob_override(TLB_FLUSH "enable", "1"));
	flushes = nr_traced();
	ksm_settle();
	flushes = nr_traced() - flushes;
	merged = ksm_get("pages_sharing");
	ksm_note("%ld pages merged with %ld flushes", merged, flushes);
	CHECK_EQ(merged, nr - 64);
	/* The other processors were told of it now and then. */
	CHECK_GE(flushes, 1);
	CHECK_GE(merged / 4, flushes);
	VERIFY(area, nr, 100, 64);
}

/* ---- neighbours that are different ---- */

/* Areas and page tables end in the midst of runs of equal pages. */
static void across_boundaries(void)
{
	const size_t nr = 3 * TABLE_PAGES + 37;
	char *area = map_pages(nr);
	size_t i, in_area = 0;

	fill_area(area, nr, 5000, 10);
	for (i = 0; i < nr; i += 61)
		CHECK(!mprotect(area + i * PAGE_SIZE, 11 * PAGE_SIZE, PROT_READ));
	/* Every 29th page does not take part; those are in no run. */
	CHECK(!madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE));
	for (i = 5; i < nr; i += 29)
		CHECK(!madvise(area + i * PAGE_SIZE, PAGE_SIZE,
			       MADV_UNMERGEABLE));
	for (i = 0; i < nr; i++)
		in_area += i % 29 != 5;
	ksm_settle();
	CHECK_EQ(count_ksm(area, nr), in_area);
	VERIFY(area, nr, 5000, 10);
	CHECK(!mprotect(area, nr * PAGE_SIZE, PROT_READ | PROT_WRITE));
	for (i = 0; i < nr; i += 2)
		fill_page(area + i * PAGE_SIZE, 7000 + i);
	for (i = 0; i < nr; i++)
		CHECK(page_is(area + i * PAGE_SIZE,
			      i % 2 ? 5000 + i % 10 : 7000 + i));
}

/* Of many equal neighbours, those that cannot be merged are in nobody's way. */
static void some_stay_behind(void)
{
	const size_t nr = 256;
	char *area = map_pages(nr);
	int ends[2];

	fill_area(area, nr, 300, 1);
	CHECK(!pipe(ends));
	CHECK(fcntl(ends[1], F_SETPIPE_SZ, (int)(64 * PAGE_SIZE)) > 0);
	/* The pipe has these pages by reference. */
	for (size_t i = 3; i < nr; i += 8) {
		struct iovec page = { area + i * PAGE_SIZE, PAGE_SIZE };

		CHECK_EQ(vmsplice(ends[1], &page, 1, 0), PAGE_SIZE);
	}
	CHECK(!madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE));
	ksm_settle();
	for (size_t i = 0; i < nr; i++)
		CHECK_EQ(is_ksm(area + i * PAGE_SIZE), i % 8 != 3);
	VERIFY(area, nr, 300, 1);
	close(ends[0]);
	close(ends[1]);
	ksm_settle();
	CHECK_EQ(count_ksm(area, nr), nr);
	VERIFY(area, nr, 300, 1);
}

/* A KSM page that fills up in the midst of a run, many times. */
static void small_pages_fill_up(void)
{
	const size_t nr = 300;
	char *area;

	ksm_set("max_page_sharing", 3);
	area = mergeable_area(nr, 900, 1);
	for (int pass = 0; pass < 3; pass++)
		ksm_one_pass();
	CHECK_EQ(count_ksm(area, nr), nr);
	CHECK_EQ(ksm_get("pages_shared"), nr / 3);
	CHECK_EQ(ksm_get("pages_sharing"), nr - nr / 3);
	for (size_t i = 0; i < nr; i++)
		CHECK_GE(3, page_mapcount(pfn(area + i * PAGE_SIZE)));
	VERIFY(area, nr, 900, 1);
}

/* ---- those who write meanwhile ---- */

#define WRITTEN		32UL	/* pages: one group */

struct writing {
	uint64_t *area;
	unsigned long turns;
	bool stop;
};

static uint64_t *first_word(struct writing *w, size_t i)
{
	return w->area + i * PAGE_SIZE / sizeof(*w->area);
}

/* A processor that sleeps flushes its TLB when it wakes up: do not sleep. */
static void spin(double seconds)
{
	double end = ksm_now() + seconds;

	while (ksm_now() < end)
		;
}

/*
 * The pages are like the KSM page most of the time, and then for a moment are
 * not: what is written in this moment is there until it is overwritten.
 */
static void *write_on(void *arg)
{
	struct writing *w = arg;
	uint64_t turn;

	for (turn = 1; !read_now(w->stop); turn++) {
		/* Own pages, in the TLB as writable */
		for (size_t i = 0; i < WRITTEN; i++)
			write_now(*first_word(w, i), 0);
		/* ksmd may come to them at any time from now on */
		spin(turn * 7919 % 1000 * 0.000001);
		for (size_t i = 0; i < WRITTEN; i++)
			write_now(*first_word(w, i), turn);
		for (int look = 0; look < 20; look++)
			for (size_t i = 0; i < WRITTEN; i++)
				CHECK_EQ(read_now(*first_word(w, i)), turn);
	}
	w->turns = turn;
	return NULL;
}

/*
 * pitfall 7: a processor that has the entry in its TLB goes on writing until
 * that is flushed: the bytes are compared later than that.  They and their
 * neighbours are merged as often as they look alike.
 */
static void no_write_is_lost(void)
{
	double end = ksm_now() + 4;
	char *others = map_pages(2);
	struct writing w = {
		.area = (uint64_t *)map_pages(WRITTEN),
	};
	pthread_t thread;
	long cow;

	/* Between comparing and replacing, where there is such a knob */
	knob_override("/sys/kernel/debug/ksm/windows/replace", "200");
	memset(others, 0, 2 * PAGE_SIZE);
	CHECK(!madvise(others, 2 * PAGE_SIZE, MADV_MERGEABLE));
	ksm_settle();
	CHECK_EQ(count_ksm(others, 2), 2);
	memset(w.area, 0, WRITTEN * PAGE_SIZE);
	CHECK(!madvise(w.area, WRITTEN * PAGE_SIZE, MADV_MERGEABLE));
	ksm_set("sleep_millisecs", 0);
	cow = vm_event("cow_ksm");
	CHECK(!pthread_create(&thread, NULL, write_on, &w));
	ksm_scan(1);
	while (ksm_now() < end)
		usleep(100000);
	write_now(w.stop, true);
	CHECK(!pthread_join(thread, NULL));
	cow = vm_event("cow_ksm") - cow;
	ksm_note("%ld passes, %lu turns, %ld pages taken back",
		 ksm_get("full_scans"), w.turns, cow);
	CHECK_GE(cow, 100);
}

static const struct ksm_test tests[] = {
	{ "few_flushes", few_flushes },
	{ "across_boundaries", across_boundaries },
	{ "some_stay_behind", some_stay_behind },
	{ "small_pages_fill_up", small_pages_fill_up },
	{ "no_write_is_lost", no_write_is_lost },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
