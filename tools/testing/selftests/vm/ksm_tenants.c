// SPDX-License-Identifier: GPL-2.0
/* vm: --nodes 2 --swap 256M */
/*
 * pitfall 32: what a tenant finds out about another, a stranger by user, by control
 * group and as a process, from the time that writing to a page takes.  With
 * merge_domain system he can tell what the other has, as on stock; with any other
 * his answers are no better than chance.
 */
#include "ksm_lib.h"

#define TRIALS		1000UL
#define SAMPLES		64UL	/* of times of which it is known what they mean */
#define SECRETS		1000	/* seeds */
#define OTHERS		5000
#define OWN		9000

/* In which trials does the victim have what the spy has? */
static bool has[TRIALS];

static void toss(void)
{
	unsigned int random = 1;

	for (size_t i = 0; i < TRIALS; i++) {
		size_t j = (random >> 8) % (i + 1);

		random = random * 1664525 + 1013904223;
		has[i] = has[j];
		has[j] = i % 2;
	}
}

static void be_victim(struct peer *me, void *arg)
{
	char *area = map_pages(TRIALS);

	CHECK(!setresuid(1001, 1001, 1001));
	for (size_t i = 0; i < TRIALS; i++)
		fill_page(area + i * PAGE_SIZE, (has[i] ? SECRETS : OTHERS) + i);
	CHECK(!madvise(area, TRIALS * PAGE_SIZE, MADV_MERGEABLE));
	peer_send(me, 0);
	peer_recv(me);
	for (size_t i = 0; i < TRIALS; i++)
		CHECK(page_is(area + i * PAGE_SIZE,
			      (has[i] ? SECRETS : OTHERS) + i));
}

static double time_of_write(char *page)
{
	double start;

	/* It is to be about the page, and not about the TLB */
	(void)read_byte(page);
	start = ksm_now();
	write_byte(page, 1);
	return ksm_now() - start;
}

static int by_size(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static double median_time(char *area)
{
	double time[SAMPLES];

	for (size_t i = 0; i < SAMPLES; i++)
		time[i] = time_of_write(area + i * PAGE_SIZE);
	qsort(time, SAMPLES, sizeof(*time), by_size);
	return time[SAMPLES / 2];
}

/* He needs nobody's help to find out what is slow: his own pages are merged. */
static void be_spy(struct peer *me, void *arg)
{
	char *guesses, *merged, *unique;
	double slow, fast, time;
	long right = 0;

	memcg_enter();
	CHECK(!setresuid(1002, 1002, 1002));
	guesses = mergeable_area(TRIALS, SECRETS, TRIALS);
	merged = mergeable_area(2 * SAMPLES, OWN, SAMPLES);
	unique = mergeable_area(SAMPLES, OWN + SAMPLES, SAMPLES);
	peer_send(me, 0);
	peer_recv(me);
	slow = median_time(merged);
	fast = median_time(unique);
	ksm_note("a write takes %.1f us, to a merged page %.1f us",
		 1e6 * fast, 1e6 * slow);
	CHECK(slow > 2 * fast);
	for (size_t i = 0; i < TRIALS; i++) {
		time = time_of_write(guesses + i * PAGE_SIZE);
		/* Nearer to the one than to the other, in proportion */
		right += has[i] == (time * time > slow * fast);
	}
	peer_send(me, right);
}

static long right_guesses(const char *domain)
{
	struct peer victim, spy;
	long right;

	if (ksm_has("merge_domain"))
		CHECK(!ksm_write("merge_domain", domain, strlen(domain)));
	else if (strcmp(domain, "system"))
		ksm_skip("no merge_domain");
	toss();
	peer_start(&victim, be_victim, NULL);
	peer_recv(&victim);
	peer_start(&spy, be_spy, NULL);
	peer_recv(&spy);
	ksm_settle();
	peer_send(&spy, 0);
	right = peer_recv(&spy);
	peer_join(&spy);
	peer_send(&victim, 0);
	peer_join(&victim);
	ksm_note("%ld of %lu guesses are right", right, TRIALS);
	return right;
}

static void known_in_a_system(void)
{
	CHECK_GE(right_guesses("system"), TRIALS * 9 / 10);
}

/* By chance there are more in one of a thousand runs. */
static void no_better_than_chance(const char *domain)
{
	CHECK_GE(TRIALS * 55 / 100, right_guesses(domain));
}

static void hidden_from_users(void)
{
	no_better_than_chance("user");
}

static void hidden_from_groups(void)
{
	no_better_than_chance("cgroup");
}

static void hidden_from_processes(void)
{
	no_better_than_chance("process");
}

static const struct ksm_test tests[] = {
	{ "known_in_a_system", known_in_a_system },
	{ "hidden_from_users", hidden_from_users },
	{ "hidden_from_groups", hidden_from_groups },
	{ "hidden_from_processes", hidden_from_processes },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
