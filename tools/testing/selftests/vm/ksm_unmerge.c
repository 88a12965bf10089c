// SPDX-License-Identifier: GPL-2.0
/* vm: --nodes 2 --swap 256M */
/*
 * Taking merged pages apart, many at a time: everybody gets a page of his own
 * with the same content, and everything that was noted about the address stays.
 */
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include "ksm_lib.h"

/* More than one page table, and not a multiple of what is done at a time. */
#define NR	1100UL

/* One of each: merged, empty, of its own, not there. */
enum { MERGED, EMPTY, UNIQUE, HOLE, KINDS };

static int kind_of(size_t i)
{
	/* Mostly merged, with runs of all lengths in between */
	return i % 7 && i % 67 < 50 ? MERGED : i % KINDS;
}

static size_t count_kind(int kind)
{
	size_t found = 0;

	for (size_t i = 0; i < NR; i++)
		found += kind_of(i) == kind;
	return found;
}

static char *mixed_area(uint64_t seed)
{
	char *area = map_pages(NR);

	CHECK(!madvise(area, NR * PAGE_SIZE, MADV_DONTNEED));
	for (size_t i = 0; i < NR; i++) {
		char *page = area + i * PAGE_SIZE;

		if (kind_of(i) == MERGED)
			fill_page(page, seed + i % 8);
		else if (kind_of(i) == EMPTY)
			write_byte(page, 0);
		else if (kind_of(i) == UNIQUE)
			fill_page(page, seed + 1000 + i);
	}
	return area;
}

static bool empty(const char *page)
{
	for (size_t i = 0; i < PAGE_SIZE; i++)
		if (page[i])
			return false;
	return true;
}

static void verify_mixed(const char *area, uint64_t seed)
{
	for (size_t i = 0; i < NR; i++) {
		const char *page = area + i * PAGE_SIZE;
		bool right;

		if (kind_of(i) == MERGED)
			right = page_is(page, seed + i % 8);
		else if (kind_of(i) == UNIQUE)
			right = page_is(page, seed + 1000 + i);
		else
			right = kind_of(i) == HOLE || empty(page);
		if (!right)
			FAIL("page %zu has not got its content", i);
	}
}

/*
 * A page of one's own: nobody else has it, and a write needs no other, not even
 * if somebody, here a pipe, has got hold of it meanwhile.
 */
static void verify_own(char *area)
{
	unsigned long *before = pfns(area, NR), *after;
	struct iovec some = { area, 6 * PAGE_SIZE };
	int pipes[2];

	for (size_t i = 0; i < 6; i++)
		CHECK(kind_of(i) == MERGED);
	CHECK(!pipe(pipes));
	CHECK_EQ(vmsplice(pipes[1], &some, 1, 0), some.iov_len);
	for (size_t i = 0; i < NR; i++) {
		if (kind_of(i) == HOLE) {
			CHECK_EQ(before[i], 0);
			continue;
		}
		CHECK_EQ(page_mapcount(before[i]), 1);
		write_byte(area + i * PAGE_SIZE,
			   read_byte(area + i * PAGE_SIZE));
	}
	after = pfns(area, NR);
	for (size_t i = 0; i < NR; i++)
		if (kind_of(i) != HOLE)
			CHECK_EQ(after[i], before[i]);
	free(before);
	free(after);
	close(pipes[0]);
	close(pipes[1]);
}

static void by_run(char *area)
{
	ksm_set("run", 2);
}

static void by_madvise(char *area)
{
	CHECK(!madvise(area, NR * PAGE_SIZE, MADV_UNMERGEABLE));
}

static void by_prctl(char *area)
{
	CHECK(!prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0));
}

/* What is counted besides the pages of this area, before and after. */
static void taken_apart(void (*unmerge)(char *area))
{
	long zero = ksm_get("ksm_zero_pages"), anon, cow;
	char *area;

	if (unmerge == by_prctl)
		CHECK(!prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0));
	ksm_set("use_zero_pages", 1);
	ksm_set("pages_to_scan", 10000);
	area = mixed_area(100);
	if (unmerge != by_prctl)
		CHECK(!madvise(area, NR * PAGE_SIZE, MADV_MERGEABLE));
	anon = smaps_kb(area, "Anonymous");
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), count_kind(MERGED));
	CHECK_GE(ksm_get("ksm_zero_pages") - zero, count_kind(EMPTY));

	cow = vm_event("cow_ksm");
	unmerge(area);
	CHECK_GE(vm_event("cow_ksm") - cow, count_kind(MERGED));
	if (unmerge != by_prctl)
		CHECK_EQ(vm_event("cow_ksm") - cow, count_kind(MERGED));
	CHECK_EQ(count_ksm(area, NR), 0);
	CHECK_EQ(ksm_get("ksm_zero_pages"), zero);
	CHECK_EQ(proc_ksm(getpid(), "ksm_zero_pages"), 0);
	CHECK_EQ(smaps_kb(area, "Anonymous"), anon);
	verify_own(area);
	verify_mixed(area, 100);
	/* Else it is for ksmd to find out that the records are outdated */
	if (unmerge != by_run)
		ksm_set("run", 1);
	WAIT_FOR(!ksm_get("pages_shared") && !ksm_get("pages_sharing"));
	/* ksmd may still be at the last of them */
	ksm_set("run", 0);
	CHECK_EQ(proc_merging(getpid()), 0);
}

static void by_run_2(void)
{
	taken_apart(by_run);
}

static void by_advice(void)
{
	taken_apart(by_madvise);
}

static void for_the_process(void)
{
	taken_apart(by_prctl);
}

static void peer_forked(struct peer *me, void *area)
{
	while (peer_recv(me)) {
		VERIFY(area, NR, 200, 8);
		peer_send(me, count_ksm(area, NR));
	}
}

/* A child has the same pages, and goes on having them, or gets its own. */
static void shared_by_fork(void)
{
	char *area = mergeable_area(NR, 200, 8);
	unsigned long *before;
	struct peer child;

	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	before = pfns(area, NR);
	peer_start(&child, peer_forked, area);
	by_madvise(area);
	CHECK_EQ(count_ksm(area, NR), 0);
	CHECK_EQ(count_same(child.pid, area, getpid(), area, NR), 0);
	for (size_t i = 0; i < NR; i++)
		CHECK_EQ(pfn_of(child.pid, area + i * PAGE_SIZE), before[i]);
	/* What the parent writes is no business of the child's */
	fill_area(area, NR, 300, NR);
	peer_send(&child, 1);
	CHECK_EQ(peer_recv(&child), NR);
	ksm_set("run", 2);
	peer_send(&child, 1);
	CHECK_EQ(peer_recv(&child), 0);
	VERIFY(area, NR, 300, NR);
	peer_send(&child, 0);
	peer_join(&child);
	free(before);
}

/* Whoever may not read a page gets one of his own even so. */
static void not_accessible(void)
{
	char *area = mergeable_area(NR, 400, 4);

	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	CHECK(!mprotect(area + 100 * PAGE_SIZE, 64 * PAGE_SIZE, PROT_NONE));
	CHECK(!mprotect(area + 300 * PAGE_SIZE, 64 * PAGE_SIZE, PROT_READ));
	ksm_set("run", 2);
	CHECK_EQ(count_ksm(area, NR), 0);
	CHECK(!mprotect(area, NR * PAGE_SIZE, PROT_READ | PROT_WRITE));
	VERIFY(area, NR, 400, 4);
	fill_area(area, NR, 500, NR);
	VERIFY(area, NR, 500, NR);
}

/* ---- what is noted about an address ---- */

static size_t count_marked(const char *area, size_t nr, uint64_t mark)
{
	size_t found = 0;

	for (size_t i = 0; i < nr; i++)
		found += !!(pagemap_own(area + i * PAGE_SIZE) & mark);
	return found;
}

/* Taking a merge back is no write; what merging has kept, it keeps. */
static void soft_dirty(void)
{
	char *area = mergeable_area(NR, 600, 1);
	size_t merged;

	CHECK_EQ(file_print("/proc/self/clear_refs", "4"), 0);
	fill_area(area, NR / 2, 600, 1);
	if (count_marked(area, NR, PM_SOFT_DIRTY) != NR / 2)
		ksm_skip("no soft-dirty bits");
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	merged = count_marked(area, NR, PM_SOFT_DIRTY);
	ksm_note("%zu of %lu marks are left by the merge", merged, NR / 2);
	ksm_set("run", 2);
	CHECK_EQ(count_ksm(area, NR), 0);
	CHECK_EQ(count_marked(area, NR / 2, PM_SOFT_DIRTY), merged);
	CHECK_EQ(count_marked(area, NR, PM_SOFT_DIRTY), merged);
}

/* pitfall 9: a part is write-protected, and stays so, and the rest is not */
static void partly_protected(void)
{
	char *area = mergeable_area(NR, 700, 2);
	char *part = area + 100 * PAGE_SIZE;
	const size_t nr = 450;
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP,
	};
	struct uffdio_register reg = {
		.range = { (unsigned long)part, nr * PAGE_SIZE },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	struct uffdio_writeprotect wp = {
		.range = { (unsigned long)part, nr / 2 * PAGE_SIZE },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) ||
	    ioctl(fd, UFFDIO_REGISTER, &reg))
		ksm_skip("no write protection by userfaultfd");
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	CHECK(!ioctl(fd, UFFDIO_WRITEPROTECT, &wp));
	by_madvise(area);
	CHECK_EQ(count_ksm(area, NR), 0);
	CHECK_EQ(count_marked(part, nr / 2, PM_UFFD_WP), nr / 2);
	CHECK_EQ(count_marked(area, NR, PM_UFFD_WP), nr / 2);
	VERIFY(area, NR, 700, 2);
	wp.mode = 0;
	CHECK(!ioctl(fd, UFFDIO_WRITEPROTECT, &wp));
	fill_area(area, NR, 800, NR);
	VERIFY(area, NR, 800, NR);
}

/* pitfall 10: who has locked it locks his own page, and nobody else's */
static void locked(void)
{
	char *locked, *plain;
	long before;

	mergeable_area(2, 890, 2);	/* for ksmd to have something to do */
	before = locked_pages();
	locked = mergeable_area(NR, 900, 8);
	plain = mergeable_area(NR, 900, 8);
	CHECK(!mlock(locked, NR * PAGE_SIZE));
	ksm_settle();
	CHECK_EQ(count_ksm(locked, NR), NR);
	CHECK_EQ(count_ksm(plain, NR), NR);
	by_madvise(locked);
	by_madvise(plain);
	CHECK_EQ(count_ksm(locked, NR), 0);
	locked_becomes(before + NR);
	for (size_t i = 0; i < NR; i++) {
		CHECK(unevictable(locked + i * PAGE_SIZE));
		CHECK(!unevictable(plain + i * PAGE_SIZE));
	}
	CHECK_EQ(smaps_kb(locked, "Locked"), NR * PAGE_SIZE / 1024);
	CHECK(!munlock(locked, NR * PAGE_SIZE));
	locked_becomes(before);
	VERIFY(locked, NR, 900, 8);
	VERIFY(plain, NR, 900, 8);
}

/* The area's memory policy says where the pages are to be. */
static void on_its_node(void)
{
	char *areas[2];
	int nodes[2];

	need_nodes(nodes, 2);
	for (int n = 0; n < 2; n++) {
		areas[n] = map_pages(NR);
		CHECK(!bind_area(areas[n], NR, nodes[n], KSM_MPOL_MF_MOVE));
		fill_area(areas[n], NR, 1000, 8);
		CHECK(!madvise(areas[n], NR * PAGE_SIZE, MADV_MERGEABLE));
	}
	ksm_settle();
	for (int n = 0; n < 2; n++)
		CHECK_EQ(count_ksm(areas[n], NR), NR);
	ksm_set("run", 2);
	for (int n = 0; n < 2; n++) {
		CHECK_EQ(count_ksm(areas[n], NR), 0);
		CHECK_EQ(count_on_node(areas[n], NR, nodes[n]), NR);
		VERIFY(areas[n], NR, 1000, 8);
	}
}

/* pitfall 26: the page is charged to him who gets it, whoever takes apart */
static void peer_charged(struct peer *me, void *arg)
{
	char *area;

	memcg_enter();
	area = mergeable_area(NR, 1100, 8);
	peer_send(me, 0);
	peer_recv(me);
	VERIFY(area, NR, 1100, 8);
	peer_send(me, count_ksm(area, NR));
	peer_recv(me);
}

static void who_is_charged(void)
{
	long merged, charged;
	struct peer peer;
	char *area;

	peer_start(&peer, peer_charged, NULL);
	peer_recv(&peer);
	area = mergeable_area(NR, 1100, 8);
	ksm_settle();
	CHECK_EQ(ksm_get("pages_sharing") + ksm_get("pages_shared"), 2 * NR);
	merged = memcg_stat("anon");
	ksm_set("run", 2);
	/* They lag behind: by 64 updates for a processor, and 64 for each */
	charged = memcg_stat("anon") - merged;
	ksm_note("%ld bytes more are charged", charged);
	CHECK_GE(charged, (NR - NR / 4) * PAGE_SIZE);
	CHECK_GE((NR + NR / 4) * PAGE_SIZE, charged);
	peer_send(&peer, 0);
	CHECK_EQ(peer_recv(&peer), 0);
	VERIFY(area, NR, 1100, 8);
	peer_send(&peer, 0);
	peer_join(&peer);
}

/* ---- while others are at work ---- */

#define CHANGED_NR	2048UL
#define CHANGED_AT	(PAGE_SIZE / 2)

enum { AS_BEFORE, WRITTEN_TO, DROPPED };

struct changes {
	char *area;
	char what[CHANGED_NR];
	bool begin, end;
};

/* Each page once, in no order. */
static void *change_all(void *arg)
{
	struct changes *c = arg;

	while (!read_now(c->begin))
		;
	for (size_t n = 0; n < CHANGED_NR && !read_now(c->end); n++) {
		size_t i = n * 1667 % CHANGED_NR;
		char *page = c->area + i * PAGE_SIZE;

		c->what[i] = n % 2 ? WRITTEN_TO : DROPPED;
		if (c->what[i] == WRITTEN_TO)
			write_byte(page + CHANGED_AT,
				   ~read_byte(page + CHANGED_AT));
		else
			CHECK(!madvise(page, PAGE_SIZE, MADV_DONTNEED));
	}
	return NULL;
}

/* What happens to a page while it is taken apart is not undone. */
static void changed_meanwhile(void)
{
	struct changes *c = calloc(1, sizeof(*c));
	char *area = mergeable_area(CHANGED_NR, 1200, 32);
	pthread_t thread;
	size_t changed;

	CHECK(c);
	c->area = area;
	ksm_set("pages_to_scan", 10000);
	for (int round = 0; round < 3; round++) {
		fill_area(area, CHANGED_NR, 1200, 32);
		ksm_settle();
		CHECK_EQ(count_ksm(area, CHANGED_NR), CHANGED_NR);
		memset(c->what, AS_BEFORE, sizeof(c->what));
		c->begin = false;
		c->end = false;
		CHECK(!pthread_create(&thread, NULL, change_all, c));
		write_now(c->begin, true);
		ksm_set("run", 2);
		write_now(c->end, true);
		pthread_join(thread, NULL);
		CHECK_EQ(count_ksm(area, CHANGED_NR), 0);
		changed = 0;
		for (size_t i = 0; i < CHANGED_NR; i++) {
			char *page = area + i * PAGE_SIZE;

			changed += c->what[i] != AS_BEFORE;
			if (c->what[i] == DROPPED) {
				if (!empty(page))
					FAIL("page %zu is back", i);
				continue;
			}
			if (c->what[i] == WRITTEN_TO)
				write_byte(page + CHANGED_AT,
					   ~read_byte(page + CHANGED_AT));
			if (!page_is(page, 1200 + i % 32))
				FAIL("page %zu is not as it was left", i);
		}
		ksm_note("%zu of %lu pages changed meanwhile", changed,
			 CHANGED_NR);
	}
	free(c);
}

#define RACE_NR		192UL
#define RACE_SECONDS	5
#define STABLE		2000
#define WRITTEN		3000

static bool race_over;
static int race_nodes[2];

/* Every write is there at the next look, and the page is whole. */
static void *race_writer(void *arg)
{
	char *area = arg;
	uint64_t seed = WRITTEN;

	while (!read_now(race_over)) {
		for (size_t i = 0; i < RACE_NR; i++) {
			char *page = area + i * PAGE_SIZE;

			if (!page_is(page, seed))
				FAIL("a write to page %zu is lost", i);
			fill_page(page, seed + 1);
		}
		seed++;
		usleep(20000);
	}
	return NULL;
}

/* What has been dropped does not come back, what came after it stays. */
static void *race_dropper(void *arg)
{
	char *area = arg;

	while (!read_now(race_over)) {
		size_t first = rand() % RACE_NR, nr = rand() % 40 + 1;

		if (first + nr > RACE_NR)
			nr = RACE_NR - first;
		CHECK(!madvise(area + first * PAGE_SIZE, nr * PAGE_SIZE,
			       MADV_DONTNEED));
		for (size_t i = first; i < first + nr; i++)
			CHECK(empty(area + i * PAGE_SIZE));
		fill_area(area + first * PAGE_SIZE, nr, STABLE, 1);
		for (size_t i = 0; i < RACE_NR; i++)
			CHECK(page_is(area + i * PAGE_SIZE, STABLE));
		usleep(5000);
	}
	return NULL;
}

static void *race_forker(void *arg)
{
	char *area = arg;
	int status;

	while (!read_now(race_over)) {
		pid_t child = fork();

		CHECK(child >= 0);
		if (!child) {
			for (size_t i = 0; i < RACE_NR; i++)
				if (!page_is(area + i * PAGE_SIZE,
					     STABLE + i % 4))
					_exit(1);
			_exit(0);
		}
		CHECK(waitpid(child, &status, 0) == child);
		CHECK_EQ(status, 0);
		usleep(10000);
	}
	return NULL;
}

static void *race_mover(void *arg)
{
	int turn = 0, status[RACE_NR];
	char *pages[RACE_NR];

	for (size_t i = 0; i < RACE_NR; i++)
		pages[i] = (char *)arg + i * PAGE_SIZE;
	while (!read_now(race_over)) {
		move_to_node(getpid(), pages, status, RACE_NR,
			     race_nodes[turn ^= 1], KSM_MPOL_MF_MOVE_ALL);
		usleep(1000);
	}
	return NULL;
}

/* pitfalls 20, 28, 34 */
static void against_everybody(void)
{
	void *(*others[])(void *) = { race_writer, race_dropper, race_forker,
				      race_mover };
	char *all = map_pages(4 * RACE_NR), *part[4];
	size_t size = RACE_NR * PAGE_SIZE;
	pthread_t threads[4];
	double end;
	int rounds;

	need_nodes(race_nodes, 2);
	for (int i = 0; i < 4; i++)
		part[i] = all + i * size;
	fill_area(part[0], RACE_NR, WRITTEN, 1);
	fill_area(part[1], RACE_NR, STABLE, 1);
	fill_area(part[2], RACE_NR, STABLE, 4);
	fill_area(part[3], RACE_NR, STABLE, 4);
	CHECK(!madvise(all, 4 * size, MADV_MERGEABLE));
	ksm_set("pages_to_scan", 10000);
	/* Between finding a page and giving it up, where there is such a knob */
	knob_override("/sys/kernel/debug/ksm/windows/break", "200");
	for (int i = 0; i < 4; i++)
		CHECK(!pthread_create(&threads[i], NULL, others[i], part[i]));

	end = ksm_now() + RACE_SECONDS;
	for (rounds = 0; rounds < 2 || ksm_now() < end; rounds++) {
		ksm_scan(2);
		WAIT_FOR(count_ksm(part[2], RACE_NR) >= RACE_NR / 2);
		if (rounds % 2)
			ksm_set("run", 2);
		else
			CHECK(!madvise(all, 4 * size, MADV_UNMERGEABLE));
		for (int i = 0; i < 4; i++)
			CHECK_EQ(count_ksm(part[i], RACE_NR), 0);
		VERIFY(part[2], RACE_NR, STABLE, 4);
		VERIFY(part[3], RACE_NR, STABLE, 4);
		if (rounds % 2 == 0)
			CHECK(!madvise(all, 4 * size, MADV_MERGEABLE));
	}
	ksm_note("%d rounds", rounds);
	write_now(race_over, true);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
}

/* ---- someone on his way out ---- */

#define EXITS	8
#define SHARED	64UL		/* pages: little to give up */

/* With more to give back, and that comes first. */
static void exit_slowly(int tell, size_t nr)
{
	char *area = map_pages(nr);

	madvise(area, nr * PAGE_SIZE, MADV_NOHUGEPAGE);
	touch_pages(area, nr);
	if (write(tell, "", 1) != 1)
		_exit(1);
	_exit(0);
}

/*
 * A child that nobody has ever scanned is found through its parent's records.  If
 * it is exiting while everything is given up, they have to stay: and go when the
 * child has gone, though ksmd no longer runs, and somebody has the page.
 */
static void someone_exits(void)
{
	char *area = map_pages(SHARED), byte;
	struct iovec page = { area, PAGE_SIZE };
	int tell[2], hold[2], status;
	long late = 0;
	pid_t pid;

	CHECK(!pipe(tell) && !pipe(hold));
	for (int i = 0; i < EXITS; i++) {
		fill_area(area, SHARED, 40, 8);
		CHECK(!madvise(area, SHARED * PAGE_SIZE, MADV_MERGEABLE));
		ksm_settle();
		CHECK_EQ(count_ksm(area, SHARED), SHARED);
		CHECK_EQ(vmsplice(hold[1], &page, 1, 0), PAGE_SIZE);
		fflush(stdout);
		pid = fork();
		CHECK(pid >= 0);
		/* The first takes longer than the reaper waits before it looks */
		if (!pid)
			exit_slowly(tell[1], (i ? 16384 : 57344) / ksm_slow());
		CHECK_EQ(read(tell[0], &byte, 1), 1);
		/* Later from one time to the next */
		usleep(i * 500 * ksm_slow());
		ksm_set("run", 2);
		late += !!ksm_get("pages_shared");
		if (i % 2)
			ksm_set("run", 0);
		CHECK_EQ(count_ksm(area, SHARED), 0);
		WAIT_FOR(!ksm_get("pages_shared") && !ksm_get("pages_sharing"));
		CHECK(waitpid(pid, &status, 0) == pid);
		CHECK_EQ(status, 0);
		for (size_t n = 0; n < PAGE_SIZE; n++)
			CHECK_EQ(read(hold[0], &byte, 1), 1);
		VERIFY(area, SHARED, 40, 8);
	}
	ksm_note("%ld of %d in the midst of an exit", late, EXITS);
	if (!late)
		ksm_skip("nothing had to stay");
}

static const struct ksm_test tests[] = {
	{ "by_run_2", by_run_2 },
	{ "by_advice", by_advice },
	{ "for_the_process", for_the_process },
	{ "shared_by_fork", shared_by_fork },
	{ "not_accessible", not_accessible },
	{ "soft_dirty", soft_dirty },
	{ "partly_protected", partly_protected },
	{ "locked", locked },
	{ "on_its_node", on_its_node },
	{ "who_is_charged", who_is_charged },
	{ "changed_meanwhile", changed_meanwhile },
	{ "against_everybody", against_everybody },
	{ "someone_exits", someone_exits },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
