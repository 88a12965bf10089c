// SPDX-License-Identifier: GPL-2.0
/* stock-fails: hard_failure_copied */
/*
 * Memory failure: a KSM page that may fail is moved and nobody notices; one
 * that has failed takes its users along, and nobody else.  (pitfall 24)
 */
#include <setjmp.h>
#include "ksm_lib.h"

#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE	101
#endif
#ifndef MADV_HWPOISON
#define MADV_HWPOISON		100
#endif

#define SOFT_OFFLINE	"/sys/devices/system/memory/soft_offline_page"
#define NR	32

static void make_sound(unsigned long pfn)
{
	file_print("/sys/kernel/debug/hwpoison/unpoison-pfn", "%lu", pfn);
}

static bool poisoned(unsigned long pfn)
{
	return page_flags(pfn) & BIT_ULL(KPF_HWPOISON);
}

static void peer_sharing(struct peer *me, void *arg)
{
	char *area = mergeable_area(NR, (long)arg, NR);

	peer_send(me, (long)area);
	peer_recv(me);
	VERIFY(area, NR, (long)arg, NR);
	CHECK_EQ(count_ksm(area, NR), NR);
}

static void moved_all(char *area, pid_t pid, char *theirs, size_t i,
		      unsigned long from)
{
	CHECK(pfn(area + i * PAGE_SIZE) != from);
	CHECK_EQ(pfn(area + i * PAGE_SIZE),
		 pfn_of(pid, theirs + i * PAGE_SIZE));
	CHECK(poisoned(from));
	make_sound(from);
}

static void soft_offline(void)
{
	struct peer peer;
	char *area, *theirs;

	if (access(SOFT_OFFLINE, W_OK))
		ksm_skip("no " SOFT_OFFLINE);
	peer_start(&peer, peer_sharing, (void *)100);
	theirs = (char *)peer_recv(&peer);
	area = mergeable_area(NR, 100, NR);
	ksm_settle();
	CHECK_EQ(ksm_get("pages_shared"), NR);
	for (size_t i = 0; i < NR / 2; i++) {
		unsigned long from = pfn(area + i * PAGE_SIZE);

		if (madvise(area + i * PAGE_SIZE, PAGE_SIZE,
			    MADV_SOFT_OFFLINE)) {
			if (errno == EINVAL)
				ksm_skip("no memory failure handling");
			FAIL("page %zu: errno %d", i, errno);
		}
		moved_all(area, peer.pid, theirs, i, from);
	}
	for (size_t i = NR / 2; i < NR; i++) {
		unsigned long from = pfn(area + i * PAGE_SIZE);

		CHECK_EQ(file_print(SOFT_OFFLINE, "%#lx", from * PAGE_SIZE), 0);
		moved_all(area, peer.pid, theirs, i, from);
	}
	ksm_note("soft-offline: %d of %d moved, for all who map them", NR, NR);
	CHECK_EQ(count_ksm(area, NR), NR);
	CHECK_EQ(ksm_get("pages_shared"), NR);
	CHECK_EQ(ksm_get("pages_sharing"), NR);
	VERIFY(area, NR, 100, NR);
	peer_send(&peer, 0);
	peer_join(&peer);

	/* Still found by others. */
	theirs = mergeable_area(NR, 100, NR);
	ksm_settle();
	for (size_t i = 0; i < NR; i++)
		CHECK_EQ(pfn(theirs + i * PAGE_SIZE),
			 pfn(area + i * PAGE_SIZE));
	VERIFY(theirs, NR, 100, NR);
}

/* With ksmd looking at the very pages. */
static void soft_offline_scanned(void)
{
	char *area = mergeable_area(NR, 200, 4);
	double end = ksm_now() + 2;
	int moved = 0, tries;

	ksm_scan(4);
	for (tries = 0; ksm_goes_on(end, moved); tries++) {
		char *page = area + moved % NR * PAGE_SIZE;
		unsigned long from = pfn(page);

		if (madvise(page, PAGE_SIZE, MADV_SOFT_OFFLINE)) {
			if (errno == EINVAL)
				ksm_skip("no memory failure handling");
			CHECK(errno == EBUSY || errno == EAGAIN ||
			      errno == EIO);
			continue;
		}
		CHECK(pfn(page) != from);
		make_sound(from);
		moved++;
		VERIFY(area, NR, 200, 4);
	}
	ksm_note("soft-offline with ksmd at it: %d moved at %d attempts", moved,
		 tries);
	CHECK_GE(moved, 1);
	WAIT_FOR(count_ksm(area, NR) == NR);
	VERIFY(area, NR, 200, 4);
}

/* ---- pages that have failed ---- */

static sigjmp_buf back;
static int signal_code;
static void *signal_addr;

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	signal_code = info->si_code;
	signal_addr = info->si_addr;
	siglongjmp(back, 1);
}

static void catch_sigbus(void)
{
	struct sigaction action = {
		.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO,
	};

	signal_code = 0;
	CHECK(!sigaction(SIGBUS, &action, NULL));
}

static void need_hwpoison(void)
{
	char *page = map_pages(1);
	unsigned long from;

	fill_page(page, 1);
	from = pfn(page);
	if (madvise(page, PAGE_SIZE, MADV_SOFT_OFFLINE))
		ksm_skip("no memory failure handling");
	make_sound(from);
}

static void check_others(char *area, uint64_t seed, size_t lost)
{
	for (size_t i = 0; i < NR; i++)
		if (i != lost)
			CHECK(page_is(area + i * PAGE_SIZE, seed + i));
}

/* Whose page it is that has failed. */
static void peer_early(struct peer *me, void *arg)
{
	char *area = mergeable_area(NR, (long)arg, NR);

	CHECK(!prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
	catch_sigbus();
	if (!sigsetjmp(back, 1)) {
		peer_send(me, (long)area);
		peer_recv(me);
		FAIL("was not told");
	}
	CHECK_EQ(signal_code, BUS_MCEERR_AO);
	CHECK_EQ(signal_addr, area + 7 * PAGE_SIZE);
	peer_send(me, signal_code);
	check_others(area, (long)arg, 7);
}

static void peer_late(struct peer *me, void *arg)
{
	char *area = mergeable_area(NR, (long)arg, NR);

	CHECK(!prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_LATE, 0, 0));
	catch_sigbus();
	peer_send(me, (long)area);
	peer_recv(me);
	check_others(area, (long)arg, 7);
	CHECK_EQ(signal_code, 0);
	if (!sigsetjmp(back, 1)) {
		read_byte(area + 7 * PAGE_SIZE);
		FAIL("the page can still be read");
	}
	CHECK_EQ(signal_code, BUS_MCEERR_AR);
	CHECK_EQ((unsigned long)signal_addr & -PAGE_SIZE,
		 area + 7 * PAGE_SIZE);
	peer_send(me, signal_code);
	/* A new page in its place, and life goes on. */
	CHECK(!madvise(area + 7 * PAGE_SIZE, PAGE_SIZE, MADV_DONTNEED));
	fill_page(area + 7 * PAGE_SIZE, (long)arg + 7);
	VERIFY(area, NR, (long)arg, NR);
}

static void peer_failing(struct peer *me, void *arg)
{
	char *area = mergeable_area(NR, (long)arg, NR);

	catch_sigbus();
	peer_send(me, (long)area);
	peer_recv(me);
	if (!sigsetjmp(back, 1)) {
		if (madvise(area + 7 * PAGE_SIZE, PAGE_SIZE, MADV_HWPOISON))
			FAIL("cannot poison: errno %d", errno);
		read_byte(area + 7 * PAGE_SIZE);
		FAIL("the page can still be read");
	}
	CHECK(signal_code == BUS_MCEERR_AR || signal_code == BUS_MCEERR_AO);
	peer_send(me, signal_code);
	check_others(area, (long)arg, 7);
}

static void hard_failure(void)
{
	struct peer early, late, failing;
	unsigned long bad;
	char *area;

	need_hwpoison();
	peer_start(&early, peer_early, (void *)300);
	peer_recv(&early);
	peer_start(&late, peer_late, (void *)300);
	peer_recv(&late);
	peer_start(&failing, peer_failing, (void *)300);
	area = (char *)peer_recv(&failing);
	ksm_settle();
	CHECK_EQ(ksm_get("pages_shared"), NR);
	CHECK_EQ(ksm_get("pages_sharing"), 2 * NR);
	bad = pfn_of(failing.pid, area + 7 * PAGE_SIZE);

	peer_send(&failing, 0);
	peer_recv(&failing);
	peer_recv(&early);
	peer_send(&late, 0);
	peer_recv(&late);
	CHECK(poisoned(bad));
	peer_join(&early);
	peer_join(&late);
	peer_join(&failing);

	/* The content merges again, to a sound page. */
	area = mergeable_area(NR, 300, NR);
	mergeable_area(NR, 300, NR);
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	for (size_t i = 0; i < NR; i++)
		CHECK(!poisoned(pfn(area + i * PAGE_SIZE)));
	VERIFY(area, NR, 300, NR);
	make_sound(bad);
}

/* pitfall 12: a child that was never scanned is told as well */
static void peer_forked(struct peer *me, void *arg)
{
	char *area = arg;

	CHECK(!prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
	catch_sigbus();
	if (!sigsetjmp(back, 1)) {
		peer_send(me, 0);
		peer_recv(me);
		FAIL("was not told");
	}
	CHECK_EQ(signal_code, BUS_MCEERR_AO);
	CHECK_EQ(signal_addr, area + 7 * PAGE_SIZE);
	check_others(area, 500, 7);
	peer_send(me, 0);
}

static void hard_failure_forked(void)
{
	struct peer child, failing;
	unsigned long bad;
	char *area;

	need_hwpoison();
	area = mergeable_area(NR, 500, NR);
	peer_start(&failing, peer_failing, (void *)500);
	peer_recv(&failing);
	CHECK(!prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_LATE, 0, 0));
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	bad = pfn(area + 7 * PAGE_SIZE);
	peer_start(&child, peer_forked, area);
	peer_recv(&child);
	peer_send(&failing, 0);
	peer_recv(&failing);
	peer_recv(&child);
	peer_join(&child);
	peer_join(&failing);
	check_others(area, 500, 7);
	catch_sigbus();
	if (!sigsetjmp(back, 1)) {
		read_byte(area + 7 * PAGE_SIZE);
		FAIL("the page can still be read");
	}
	CHECK_EQ(signal_code, BUS_MCEERR_AR);
	CHECK(!munmap(area, NR * PAGE_SIZE));
	make_sound(bad);
}

/* He who has written to it since has a page of his own, which is sound. */
/* stock: expected failure: goes by the records, whatever is mapped there now */
static void hard_failure_copied(void)
{
	struct peer failing;
	unsigned long bad;
	char *area;

	need_hwpoison();
	area = mergeable_area(NR, 600, NR);
	peer_start(&failing, peer_failing, (void *)600);
	peer_recv(&failing);
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	bad = pfn(area + 7 * PAGE_SIZE);
	fill_page(area + 7 * PAGE_SIZE, 607);
	CHECK(pfn(area + 7 * PAGE_SIZE) != bad);

	CHECK(!prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
	catch_sigbus();
	if (!sigsetjmp(back, 1)) {
		peer_send(&failing, 0);
		peer_recv(&failing);
		peer_join(&failing);
	}
	make_sound(bad);
	CHECK_EQ(signal_code, 0);
	VERIFY(area, NR, 600, NR);
}

static const struct ksm_test tests[] = {
	{ "soft_offline", soft_offline },
	{ "soft_offline_scanned", soft_offline_scanned },
	{ "hard_failure", hard_failure },
	{ "hard_failure_forked", hard_failure_forked },
	{ "hard_failure_copied", hard_failure_copied },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
