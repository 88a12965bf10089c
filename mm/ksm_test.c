// SPDX-License-Identifier: GPL-2.0-only
/*
 * KSM: what it decides, without processes and without ksmd.
 *
 * KUnit runs this while the kernel boots, when nobody takes part in merging yet
 * and ksmd is asleep: so nothing is locked that is said to be.
 */
#include <kunit/test.h>
#include <linux/bitfield.h>
#include <linux/highmem.h>
#include <linux/sched/mm.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include "ksm_internal.h"

#define WORDS	(PAGE_SIZE / sizeof(u64))

static long metadata(void)
{
	return atomic_long_read(&ksm_counters.metadata);
}

/* Not zero, and the same nowhere else. */
static u64 some_fingerprint(u64 number)
{
	return (number + 1) * 0x9e3779b97f4a7c15ULL >> KSM_FINGERPRINT_SHIFT <<
	       KSM_FINGERPRINT_SHIFT;
}

/* An mm that takes part as far as records, candidates and domains need it. */
static struct ksm_mm *some_mm(struct kunit *test)
{
	struct ksm_mm *kmm = kunit_kzalloc(test, sizeof(*kmm), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, kmm);
	kmm->mm = kunit_kzalloc(test, sizeof(*kmm->mm), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, kmm->mm);
	/* It is never freed by those who let go of it */
	refcount_set(&kmm->refs, 1000);
	mutex_init(&kmm->lock);
	xa_init(&kmm->chunks);
	return kmm;
}

/* ------------------------------------------------------------ fingerprints */

static struct page *some_page(struct kunit *test)
{
	void *content = kunit_kmalloc(test, 2 * PAGE_SIZE, GFP_KERNEL);
	struct page *page;

	KUNIT_ASSERT_NOT_NULL(test, content);
	page = virt_to_page(PTR_ALIGN(content, PAGE_SIZE));
	memset(page_address(page), 0, PAGE_SIZE);
	return page;
}

static void fingerprint_tells_apart(struct kunit *test)
{
	struct page *page = some_page(test);
	u64 *words = page_address(page), empty, changed, last = 0;
	unsigned int at, bit;

	empty = ksm_fingerprint(page);
	for (at = 0; at < WORDS; at++) {
		for (bit = 0; bit < 64; bit += 7) {
			words[at] = BIT_ULL(bit);
			changed = ksm_fingerprint(page);
			KUNIT_EXPECT_NE_MSG(test, changed, empty,
					    "bit %u of word %u", bit, at);
			KUNIT_EXPECT_NE_MSG(test, changed, last,
					    "bit %u of word %u", bit, at);
			last = changed;
		}
		words[at] = 0;
	}
	KUNIT_EXPECT_EQ(test, ksm_fingerprint(page), empty);
}

static void fingerprint_knows_order(struct kunit *test)
{
	struct page *page = some_page(test);
	u64 *words = page_address(page), before;
	unsigned int at;

	for (at = 0; at < WORDS; at++)
		words[at] = at;
	before = ksm_fingerprint(page);
	for (at = 1; at < WORDS; at++) {
		swap(words[0], words[at]);
		KUNIT_EXPECT_NE_MSG(test, ksm_fingerprint(page), before,
				    "words 0 and %u exchanged", at);
		swap(words[0], words[at]);
	}
	KUNIT_EXPECT_EQ(test, ksm_fingerprint(page), before);
}

static void fingerprint_is_of_content(struct kunit *test)
{
	struct page *page = some_page(test), *other = some_page(test);

	memset(page_address(page), 0x5a, PAGE_SIZE);
	memset(page_address(other), 0x5a, PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, ksm_fingerprint(page), ksm_fingerprint(other));
	/* What is read next makes no difference */
	KUNIT_EXPECT_EQ(test, ksm_fingerprint_ahead(page, ZERO_PAGE(0)),
			ksm_fingerprint(page));
	KUNIT_EXPECT_EQ_MSG(test, ksm_fingerprint(page) &
				  (BIT_ULL(KSM_FINGERPRINT_SHIFT) - 1), 0,
			    "low bits are in use");
	KUNIT_EXPECT_FALSE(test, ksm_is_zero_fingerprint(ksm_fingerprint(page)));
	memset(page_address(page), 0, PAGE_SIZE);
	KUNIT_EXPECT_TRUE(test, ksm_is_zero_fingerprint(ksm_fingerprint(page)));
}

static struct kunit_case fingerprint_cases[] = {
	KUNIT_CASE(fingerprint_tells_apart),
	KUNIT_CASE(fingerprint_knows_order),
	KUNIT_CASE(fingerprint_is_of_content),
	{}
};

static struct kunit_suite fingerprint_suite = {
	.name = "ksm-fingerprint",
	.test_cases = fingerprint_cases,
};

/* ------------------------------------------------------------ records */

#define BASE	((unsigned long)SZ_1G)
#define AT(nr)	(BASE + (nr) * PAGE_SIZE)

static void remember(struct kunit *test, struct ksm_mm *kmm, unsigned long addr)
{
	u64 *word = ksm_word(kmm, addr, true);

	KUNIT_ASSERT_NOT_NULL(test, word);
	ksm_set_word(kmm, word, KSM_WORD_PAGE | some_fingerprint(addr));
}

static bool known(struct ksm_mm *kmm, unsigned long addr)
{
	u64 *word = ksm_word(kmm, addr, false);

	return word && *word;
}

static void record_costs_little(struct kunit *test)
{
	struct ksm_mm *kmm = some_mm(test);
	long tracked = atomic_long_read(&ksm_counters.tracked);
	long before = metadata();
	unsigned int nr;

	KUNIT_EXPECT_NULL(test, ksm_word(kmm, BASE, false));
	for (nr = 0; nr < 1000; nr++)
		remember(test, kmm, AT(nr));
	KUNIT_EXPECT_EQ(test, kmm->mm->ksm_rmap_items, 1000);
	KUNIT_EXPECT_EQ(test, atomic_long_read(&ksm_counters.tracked),
			tracked + 1000);
	KUNIT_EXPECT_EQ(test, metadata() - before, kmm->metadata);
	KUNIT_EXPECT_LE(test, kmm->metadata, 1024 * 8);
	KUNIT_EXPECT_EQ(test, ksm_forget(kmm, 0, ULONG_MAX, KSM_DROP_WAIT, NULL),
			ULONG_MAX);
	KUNIT_EXPECT_EQ(test, kmm->mm->ksm_rmap_items, 0);
	KUNIT_EXPECT_EQ(test, atomic_long_read(&ksm_counters.tracked), tracked);
	KUNIT_EXPECT_EQ(test, metadata(), before);
	KUNIT_EXPECT_TRUE(test, xa_empty(&kmm->chunks));
}

/* Ranges that begin and end in the middle of what is kept together. */
static void record_ranges(struct kunit *test)
{
	static const struct { unsigned int first, end; } ranges[] = {
		{ 0, 1 }, { 63, 64 }, { 64, 65 }, { 63, 65 }, { 10, 140 },
		{ 0, 64 }, { 64, 128 }, { 1, 191 }, { 191, 192 }, { 0, 192 },
	};
	unsigned int i, nr;

	for (i = 0; i < ARRAY_SIZE(ranges); i++) {
		unsigned int first = ranges[i].first, end = ranges[i].end;
		struct ksm_mm *kmm = some_mm(test);

		KUNIT_EXPECT_FALSE(test, ksm_remembers(kmm, AT(first), AT(end)));
		for (nr = 0; nr < 192; nr++)
			remember(test, kmm, AT(nr));
		KUNIT_EXPECT_TRUE(test, ksm_remembers(kmm, AT(first), AT(end)));
		ksm_forget(kmm, AT(first), AT(end), KSM_DROP_WAIT, NULL);
		KUNIT_EXPECT_FALSE(test, ksm_remembers(kmm, AT(first), AT(end)));
		for (nr = 0; nr < 192; nr++)
			KUNIT_EXPECT_EQ_MSG(test, known(kmm, AT(nr)),
					    nr < first || nr >= end,
					    "page %u after %u..%u was forgotten",
					    nr, first, end);
		ksm_forget(kmm, 0, ULONG_MAX, KSM_DROP_WAIT, NULL);
	}
}

static void record_forgets_by_and_by(struct kunit *test)
{
	struct ksm_mm *kmm = some_mm(test);
	unsigned int nr, looks, turns = 0;
	unsigned long at = BASE, end = AT(640);

	for (nr = 0; nr < 640; nr++)
		remember(test, kmm, AT(nr));
	do {
		looks = 100;
		at = ksm_forget(kmm, at, end, KSM_DROP_WAIT, &looks);
		turns++;
	} while (at != end && turns < 100);
	KUNIT_EXPECT_EQ(test, at, end);
	/* Two chunks of 64 a turn */
	KUNIT_EXPECT_EQ(test, turns, 5);
	KUNIT_EXPECT_TRUE(test, xa_empty(&kmm->chunks));
}

static void record_counts_unshared(struct kunit *test)
{
	struct ksm_mm *kmm = some_mm(test);
	long before = atomic_long_read(&ksm_counters.unshared);
	u64 *word = ksm_word(kmm, BASE, true);
	u64 seen = KSM_WORD_PAGE | some_fingerprint(1);

	KUNIT_ASSERT_NOT_NULL(test, word);
	ksm_set_word(kmm, word, seen);
	KUNIT_EXPECT_EQ(test, atomic_long_read(&ksm_counters.unshared), before);
	ksm_set_word(kmm, word, seen | FIELD_PREP(KSM_WORD_STILL, 1));
	KUNIT_EXPECT_EQ(test, atomic_long_read(&ksm_counters.unshared),
			before + 1);
	ksm_set_word(kmm, word, seen | FIELD_PREP(KSM_WORD_STILL, 2));
	KUNIT_EXPECT_EQ(test, atomic_long_read(&ksm_counters.unshared),
			before + 1);
	KUNIT_EXPECT_TRUE(test, ksm_drop_word(kmm, word, KSM_DROP_TRY));
	KUNIT_EXPECT_EQ(test, atomic_long_read(&ksm_counters.unshared), before);
	ksm_forget(kmm, 0, ULONG_MAX, KSM_DROP_WAIT, NULL);
}

static struct kunit_case record_cases[] = {
	KUNIT_CASE(record_costs_little),
	KUNIT_CASE(record_ranges),
	KUNIT_CASE(record_forgets_by_and_by),
	KUNIT_CASE(record_counts_unshared),
	{}
};

static struct kunit_suite record_suite = {
	.name = "ksm-record",
	.test_cases = record_cases,
};

/* ------------------------------------------------------------ the index */

#define NODES	8

/**
 * struct index_test - what a test of the index has, and what was before
 * @nodes: that the index finds
 * @metadata: what counted as such
 * @chains: and as contents with several pages
 * @dups: and as those pages
 * @sharing: most mappings of a page
 * @across: pages are merged across nodes
 */
struct index_test {
	struct ksm_stable_node *nodes[NODES];
	long metadata;
	long chains;
	long dups;
	unsigned int sharing;
	bool across;
};

static int index_test_init(struct kunit *test)
{
	struct index_test *had = kunit_kzalloc(test, sizeof(*had), GFP_KERNEL);

	if (!had)
		return -ENOMEM;
	had->chains = atomic_long_read(&ksm_counters.chains);
	had->dups = atomic_long_read(&ksm_counters.dups);
	had->sharing = ksm_knobs.max_page_sharing;
	had->across = ksm_knobs.merge_across_nodes;
	ksm_index_start_pass();
	/* There is a filter, of no use to anybody else */
	ksm_candidates_start_pass(0);
	had->metadata = metadata();
	test->priv = had;
	return 0;
}

static void drop_node(struct kunit *test, unsigned int at)
{
	struct index_test *had = test->priv;

	if (!had->nodes[at])
		return;
	if (ksm_index_remove(had->nodes[at]))
		ksm_put_node(had->nodes[at]);
	ksm_put_node(had->nodes[at]);
	had->nodes[at] = NULL;
}

static void index_test_exit(struct kunit *test)
{
	struct index_test *had = test->priv;
	unsigned int at;

	for (at = 0; at < NODES; at++)
		drop_node(test, at);
	ksm_candidates_end_pass();
	KUNIT_EXPECT_EQ(test, metadata(), had->metadata);
	KUNIT_EXPECT_EQ(test, atomic_long_read(&ksm_counters.chains),
			had->chains);
	KUNIT_EXPECT_EQ(test, atomic_long_read(&ksm_counters.dups), had->dups);
	KUNIT_EXPECT_TRUE(test, ksm_index_empty());
	ksm_knobs.max_page_sharing = had->sharing;
	ksm_knobs.merge_across_nodes = had->across;
	ksm_candidates_idle();
}

/* A node that the index finds, with as many mappings. */
static struct ksm_stable_node *file_node(struct kunit *test, unsigned int at,
					 u64 fingerprint, int nid,
					 unsigned int mappings)
{
	struct index_test *had = test->priv;
	struct ksm_key key = ksm_make_key(fingerprint, NULL, nid);
	struct ksm_stable_node *node = ksm_new_node(&key);

	KUNIT_ASSERT_NOT_NULL(test, node);
	had->nodes[at] = node;
	node->nr_mappings = mappings;
	KUNIT_ASSERT_EQ(test, ksm_index_add(node, nid), 0);
	return node;
}

static struct ksm_stable_node *find(u64 fingerprint, int nid)
{
	struct ksm_key key = ksm_make_key(fingerprint, NULL, nid);
	struct ksm_stable_node *node = ksm_index_find(&key);

	if (node)
		ksm_put_node(node);
	return node;
}

static void index_finds_by_key(struct kunit *test)
{
	struct ksm_stable_node *one, *two;

	ksm_knobs.merge_across_nodes = true;
	KUNIT_EXPECT_NULL(test, find(some_fingerprint(1), 0));
	one = file_node(test, 0, some_fingerprint(1), 0, 2);
	two = file_node(test, 1, some_fingerprint(2), 0, 2);
	KUNIT_EXPECT_PTR_EQ(test, find(some_fingerprint(1), 0), one);
	KUNIT_EXPECT_PTR_EQ(test, find(some_fingerprint(2), 0), two);
	/* Wherever it is asked for */
	KUNIT_EXPECT_PTR_EQ(test, find(some_fingerprint(1), 1), one);
	drop_node(test, 0);
	KUNIT_EXPECT_NULL(test, find(some_fingerprint(1), 0));
	KUNIT_EXPECT_PTR_EQ(test, find(some_fingerprint(2), 0), two);
}

static void index_keeps_numa_nodes_apart(struct kunit *test)
{
	struct ksm_stable_node *here, *there;

	ksm_knobs.merge_across_nodes = false;
	here = file_node(test, 0, some_fingerprint(1), 0, 2);
	KUNIT_EXPECT_NULL(test, find(some_fingerprint(1), 1));
	there = file_node(test, 1, some_fingerprint(1), 1, 2);
	KUNIT_EXPECT_PTR_EQ(test, find(some_fingerprint(1), 0), here);
	KUNIT_EXPECT_PTR_EQ(test, find(some_fingerprint(1), 1), there);
}

static void index_passes_over_full_pages(struct kunit *test)
{
	struct ksm_stable_node *old, *new;
	struct index_test *had = test->priv;

	ksm_knobs.max_page_sharing = 4;
	old = file_node(test, 0, some_fingerprint(1), 0, 3);
	KUNIT_EXPECT_PTR_EQ(test, find(some_fingerprint(1), 0), old);
	old->nr_mappings = 4;
	KUNIT_EXPECT_NULL(test, find(some_fingerprint(1), 0));
	new = file_node(test, 1, some_fingerprint(1), 0, 1);
	KUNIT_EXPECT_PTR_EQ(test, find(some_fingerprint(1), 0), new);
	KUNIT_EXPECT_EQ(test, atomic_long_read(&ksm_counters.chains),
			had->chains + 1);
	KUNIT_EXPECT_EQ(test, atomic_long_read(&ksm_counters.dups),
			had->dups + 2);
	/* Of two with room, the one that is first */
	old->nr_mappings = 3;
	KUNIT_EXPECT_PTR_EQ(test, find(some_fingerprint(1), 0), new);
	ksm_index_roomy(old);
	KUNIT_EXPECT_PTR_EQ(test, find(some_fingerprint(1), 0), old);
	/* The other stays when the first goes */
	drop_node(test, 0);
	KUNIT_EXPECT_PTR_EQ(test, find(some_fingerprint(1), 0), new);
	KUNIT_EXPECT_EQ(test, atomic_long_read(&ksm_counters.chains),
			had->chains);
}

static struct kunit_case index_cases[] = {
	KUNIT_CASE(index_finds_by_key),
	KUNIT_CASE(index_keeps_numa_nodes_apart),
	KUNIT_CASE(index_passes_over_full_pages),
	{}
};

static struct kunit_suite index_suite = {
	.name = "ksm-index",
	.init = index_test_init,
	.exit = index_test_exit,
	.test_cases = index_cases,
};

/* ------------------------------------------------------------ folding */

/**
 * struct fold_case - pages of one content
 * @name: what is special about it
 * @limit: max_page_sharing
 * @nr: how many pages they are
 * @mappings: how many each page has
 * @fold: those that are to be given up, a bit each
 * @collide: those that are not equal to the others, a bit each
 */
struct fold_case {
	const char *name;
	unsigned int limit;
	unsigned int nr;
	unsigned int mappings[NODES];
	unsigned int fold;
	unsigned int collide;
};

static const struct fold_case fold_cases[] = {
	{ "one page", 256, 1, { 10 }, 0b0 },
	{ "two fit in one", 256, 2, { 100, 50 }, 0b10 },
	{ "the newer has more", 256, 2, { 50, 100 }, 0b01 },
	{ "together just as many as one may have", 150, 2, { 100, 50 }, 0b10 },
	{ "one too many", 149, 2, { 100, 50 }, 0b00 },
	{ "three fit in two", 128, 3, { 100, 50, 10 }, 0b100 },
	{ "three fit in one", 256, 3, { 100, 50, 10 }, 0b110 },
	{ "full ones stay", 4, 5, { 4, 4, 1, 1, 1 }, 0b11000 },
	{ "one without a mapping does not count", 256, 3, { 100, 0, 50 }, 0b100 },
	{ "one that collides is left alone", 256, 3, { 100, 50, 200 }, 0b10, 0b100 },
	{ "all but one collide", 256, 3, { 100, 50, 200 }, 0, 0b110 },
};

static void fold_decides(struct kunit *test)
{
	const struct fold_case *fold = test->param_value;
	struct ksm_stable_node *nodes[NODES], *into;
	unsigned int at;

	ksm_knobs.max_page_sharing = fold->limit;
	for (at = 0; at < fold->nr; at++) {
		nodes[at] = file_node(test, at, some_fingerprint(1), 0,
				      fold->mappings[at]);
		nodes[at]->collides = fold->collide & BIT(at);
	}
	ksm_index_start_pass();
	ksm_index_plan_folds();
	for (at = 0; at < fold->nr; at++) {
		bool wanted = fold->fold & BIT(at);

		KUNIT_EXPECT_EQ_MSG(test, ksm_folding(nodes[at]), wanted,
				    "page %u with %u mappings", at,
				    fold->mappings[at]);
		if (!wanted)
			continue;
		into = ksm_index_find_fold(nodes[at]);
		KUNIT_EXPECT_NOT_NULL(test, into);
		if (!into)
			continue;
		KUNIT_EXPECT_FALSE(test, ksm_folding(into));
		KUNIT_EXPECT_LT(test, into->nr_mappings, fold->limit);
		ksm_put_node(into);
	}
	/* No decision is for longer than a pass */
	ksm_index_start_pass();
	for (at = 0; at < fold->nr; at++)
		KUNIT_EXPECT_FALSE(test, ksm_folding(nodes[at]));
}

static void fold_case_name(const struct fold_case *fold, char *name)
{
	strscpy(name, fold->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(fold, fold_cases, fold_case_name);

static struct kunit_case fold_kunit_cases[] = {
	KUNIT_CASE_PARAM(fold_decides, fold_gen_params),
	{}
};

static struct kunit_suite fold_suite = {
	.name = "ksm-fold",
	.init = index_test_init,
	.exit = index_test_exit,
	.test_cases = fold_kunit_cases,
};

/* ------------------------------------------------------------ candidates and the filter */

static void filter_remembers_two_passes(struct kunit *test)
{
	const unsigned int nr = 400;
	unsigned int i, wrong = 0;

	/* Twice in this pass, and once */
	ksm_candidates_start_pass(0);
	for (i = 0; i < nr; i++) {
		ksm_seen(some_fingerprint(i));
		if (i % 2)
			ksm_seen(some_fingerprint(i));
	}
	ksm_candidates_start_pass(0);
	for (i = 0; i < nr; i++) {
		bool twice = ksm_seen_twice(some_fingerprint(i));

		if (i % 2)
			KUNIT_EXPECT_TRUE_MSG(test, twice, "%u is lost", i);
		else
			wrong += twice;
	}
	/* It may err to this side, but not often */
	KUNIT_EXPECT_LE(test, wrong, nr / 10);
	ksm_candidates_start_pass(0);
	for (i = 0, wrong = 0; i < nr; i++)
		wrong += ksm_seen_twice(some_fingerprint(i));
	KUNIT_EXPECT_EQ_MSG(test, wrong, 0, "remembered for too long");
}

static void candidates_last_a_pass(struct kunit *test)
{
	struct ksm_mm *kmm = some_mm(test);
	struct ksm_key key = ksm_make_key(some_fingerprint(1), NULL, 0);
	struct ksm_key other = ksm_make_key(some_fingerprint(2), NULL, 0);
	struct ksm_spot spot = { .kmm = kmm, .addr = BASE, .pfn = 7 }, found;

	KUNIT_EXPECT_FALSE(test, ksm_candidate_find(&key, &found));
	ksm_candidate_set(&key, &spot);
	KUNIT_EXPECT_FALSE(test, ksm_candidate_find(&other, &found));
	KUNIT_ASSERT_TRUE(test, ksm_candidate_find(&key, &found));
	ksm_put_mm(found.kmm);
	KUNIT_EXPECT_PTR_EQ(test, found.kmm, kmm);
	KUNIT_EXPECT_EQ(test, found.addr, BASE);
	/* A newer one takes its place */
	spot.addr = AT(5);
	ksm_candidate_set(&key, &spot);
	KUNIT_ASSERT_TRUE(test, ksm_candidate_find(&key, &found));
	ksm_put_mm(found.kmm);
	KUNIT_EXPECT_EQ(test, found.addr, AT(5));
	ksm_candidate_drop(&key);
	KUNIT_EXPECT_FALSE(test, ksm_candidate_find(&key, &found));
	ksm_candidate_set(&key, &spot);
	ksm_candidates_end_pass();
	KUNIT_EXPECT_FALSE(test, ksm_candidate_find(&key, &found));
	KUNIT_EXPECT_EQ_MSG(test, refcount_read(&kmm->refs), 1000,
			    "references to the mm");
}

static struct kunit_case candidate_cases[] = {
	KUNIT_CASE(filter_remembers_two_passes),
	KUNIT_CASE(candidates_last_a_pass),
	{}
};

static struct kunit_suite candidate_suite = {
	.name = "ksm-candidate",
	.init = index_test_init,
	.exit = index_test_exit,
	.test_cases = candidate_cases,
};

/* ------------------------------------------------------------ domains */

static int domain_test_init(struct kunit *test)
{
	test->priv = (void *)metadata();
	return 0;
}

static void domain_test_exit(struct kunit *test)
{
	ksm_knobs.merge_domain = KSM_DOMAIN_SYSTEM;
	KUNIT_EXPECT_EQ(test, metadata(), (long)test->priv);
}

static void leave_domain(struct ksm_mm *kmm)
{
	ksm_put_domain(kmm->domain);
	kmm->domain = NULL;
}

static void domain_system(struct kunit *test)
{
	struct ksm_mm *kmm = some_mm(test);

	KUNIT_EXPECT_TRUE(test, ksm_has_domains(KSM_DOMAIN_SYSTEM));
	KUNIT_EXPECT_TRUE(test, ksm_settle_domain(kmm));
	KUNIT_EXPECT_NULL(test, kmm->domain);
	KUNIT_EXPECT_EQ(test, ksm_domain_salt(NULL), 0);
}

static void domain_of_a_process(struct kunit *test)
{
	struct ksm_mm *one = some_mm(test), *two = some_mm(test);
	struct ksm_domain *first;
	struct ksm_key key, other;

	ksm_knobs.merge_domain = KSM_DOMAIN_PROCESS;
	KUNIT_EXPECT_TRUE(test, ksm_settle_domain(one));
	KUNIT_EXPECT_TRUE(test, ksm_settle_domain(two));
	KUNIT_EXPECT_NOT_NULL(test, one->domain);
	KUNIT_EXPECT_PTR_NE(test, one->domain, two->domain);
	KUNIT_EXPECT_NE(test, ksm_domain_salt(one->domain),
			ksm_domain_salt(two->domain));
	/* Pages of the same content have nothing in common */
	key = ksm_make_key(some_fingerprint(1), one->domain, 0);
	other = ksm_make_key(some_fingerprint(1), two->domain, 0);
	KUNIT_EXPECT_NE(test, memcmp(&key, &other, sizeof(key)), 0);
	/* And it stays the same */
	first = one->domain;
	KUNIT_EXPECT_TRUE(test, ksm_settle_domain(one));
	KUNIT_EXPECT_PTR_EQ(test, one->domain, first);
	leave_domain(one);
	leave_domain(two);
}

static void domain_of_a_user(struct kunit *test)
{
	struct ksm_mm *one = some_mm(test), *two = some_mm(test);

	if (!ksm_has_domains(KSM_DOMAIN_USER))
		kunit_skip(test, "an mm does not know whose it is");
#ifdef CONFIG_MEMCG
	rcu_assign_pointer(one->mm->owner, current);
	rcu_assign_pointer(two->mm->owner, current);
#endif
	ksm_knobs.merge_domain = KSM_DOMAIN_USER;
	KUNIT_EXPECT_TRUE(test, ksm_settle_domain(one));
	KUNIT_EXPECT_TRUE(test, ksm_settle_domain(two));
	KUNIT_EXPECT_NOT_NULL(test, one->domain);
	KUNIT_EXPECT_PTR_EQ(test, one->domain, two->domain);
	/* Another kind of domain is another domain */
	ksm_knobs.merge_domain = KSM_DOMAIN_PROCESS;
	KUNIT_EXPECT_TRUE(test, ksm_settle_domain(two));
	KUNIT_EXPECT_PTR_NE(test, one->domain, two->domain);
	leave_domain(one);
	leave_domain(two);
}

/* Nobody is left in it: so it may share with nobody. */
static void domain_of_nobody(struct kunit *test)
{
	struct ksm_mm *kmm = some_mm(test);

	ksm_knobs.merge_domain = KSM_DOMAIN_USER;
	KUNIT_EXPECT_FALSE(test, ksm_settle_domain(kmm));
	KUNIT_EXPECT_NULL(test, kmm->domain);
}

static struct kunit_case domain_cases[] = {
	KUNIT_CASE(domain_system),
	KUNIT_CASE(domain_of_a_process),
	KUNIT_CASE(domain_of_a_user),
	KUNIT_CASE(domain_of_nobody),
	{}
};

static struct kunit_suite domain_suite = {
	.name = "ksm-domain",
	.init = domain_test_init,
	.exit = domain_test_exit,
	.test_cases = domain_cases,
};

/* ------------------------------------------------------------ the advisor */

/**
 * struct advice - what a pass took, and what the next one is to do
 * @name: what is special about it
 * @pages: pages_to_scan
 * @secs: seconds the pass took
 * @trend: percent of the one before, on average
 * @cpu: percent of a CPU it used
 * @wanted: pages_to_scan of the next
 */
struct advice {
	const char *name;
	unsigned int pages;
	u64 secs;
	u64 trend;
	unsigned int cpu;
	u64 wanted;
};

/* A target of 200 s, at most 70 % of a CPU and 30000 pages */
static const struct advice advices[] = {
	{ "as long as it ought to", 1000, 200, 100, 20, 1000 },
	{ "twice as long", 1000, 400, 100, 20, 2000 },
	{ "half as long", 1000, 100, 100, 20, 500 },
	{ "memory grows", 1000, 200, 150, 20, 1500 },
	{ "memory shrinks", 1000, 200, 50, 20, 500 },
	{ "as much of a CPU as it may use", 1000, 2000, 100, 35, 2000 },
	{ "already more than it may use", 1000, 400, 100, 140, 500 },
	{ "never below a tenth of a CPU", 1000, 10, 100, 20, 500 },
	{ "no more pages than allowed", 20000, 400, 100, 20, 30000 },
	{ "more percents than pages", 1, 200, 100, 800, 1 },
	{ "hardly any time", 1000, 1, 100, 1, 10000 },
	{ "longer than there is a number for", 1000, U64_MAX, 100, 1, 30000 },
};

static void advisor_decides(struct kunit *test)
{
	const struct advice *advice = test->param_value;

	KUNIT_EXPECT_EQ(test, ksm_advise(advice->pages, advice->secs,
					 advice->trend, advice->cpu),
			advice->wanted);
}

static void advice_name(const struct advice *advice, char *name)
{
	strscpy(name, advice->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(advice, advices, advice_name);

static void advisor_owns_pages_to_scan(struct kunit *test)
{
	KUNIT_EXPECT_EQ(test, ksm_advisor_set_pages(123), 0);
	KUNIT_EXPECT_EQ(test, ksm_knobs.pages_to_scan, 123);
	ksm_advisor_set_mode(KSM_ADVISOR_SCAN_TIME);
	KUNIT_EXPECT_EQ(test, ksm_knobs.pages_to_scan,
			ksm_advisor.min_pages_to_scan);
	KUNIT_EXPECT_EQ(test, ksm_advisor_set_pages(123), -EINVAL);
	/* It has not seen this pass begin */
	ksm_advisor_end_pass();
	KUNIT_EXPECT_EQ(test, ksm_knobs.pages_to_scan,
			ksm_advisor.min_pages_to_scan);
	ksm_advisor_set_mode(KSM_ADVISOR_NONE);
	KUNIT_EXPECT_EQ(test, ksm_knobs.pages_to_scan, 100);
}

static struct kunit_case advisor_cases[] = {
	KUNIT_CASE_PARAM(advisor_decides, advice_gen_params),
	KUNIT_CASE(advisor_owns_pages_to_scan),
	{}
};

static struct kunit_suite advisor_suite = {
	.name = "ksm-advisor",
	.test_cases = advisor_cases,
};

/* ------------------------------------------------------------ knobs */

/**
 * struct written - what is written to a knob, and what comes of it
 * @knob: its name
 * @text: what is written
 * @err: 0, or what the writer gets
 * @value: what was meant, if it makes sense
 */
struct written {
	const char *knob;
	const char *text;
	int err;
	unsigned long value;
};

static const struct written writes[] = {
	{ "run", "0", 0, 0 },
	{ "run", "2\n", 0, 2 },
	{ "run", "3", -EINVAL },
	{ "run", "-1", -EINVAL },
	{ "run", "", -EINVAL },
	{ "run", "\n", -EINVAL },
	{ "run", "1 2", -EINVAL },
	{ "run", "0x1", -EINVAL },
	{ "run", "one", -EINVAL },
	{ "run", "\x01\x80", -EINVAL },
	{ "scan_threads", "0", -EINVAL },
	{ "scan_threads", "1", 0, 1 },
	{ "pages_to_scan", "4294967295", 0, UINT_MAX },
	{ "pages_to_scan", "+7", 0, 7 },
	{ "pages_to_scan", "99999999999999999999999", -EINVAL },
	{ "sleep_millisecs", "0", 0, 0 },
	{ "max_page_sharing", "1", -EINVAL },
	{ "max_page_sharing", "2", 0, 2 },
	{ "max_page_sharing", "2147483647", 0, INT_MAX },
	{ "max_page_sharing", "2147483648", -ERANGE },
	{ "advisor_target_scan_time", "0", -EINVAL },
	{ "advisor_target_scan_time", "1", 0, 1 },
	{ "advisor_max_cpu", "100", 0, 100 },
};

static void knob_understands(struct kunit *test)
{
	const struct written *written = test->param_value;
	unsigned long value = 0;

	KUNIT_EXPECT_EQ(test, ksm_parse_knob(written->knob, written->text,
					     &value), written->err);
	if (!written->err)
		KUNIT_EXPECT_EQ(test, value, written->value);
}

static void written_name(const struct written *written, char *name)
{
	snprintf(name, KUNIT_PARAM_DESC_SIZE, "%s: %*pE", written->knob,
		 (int)strlen(written->text), written->text);
}

KUNIT_ARRAY_PARAM(written, writes, written_name);

static struct kunit_case knob_cases[] = {
	KUNIT_CASE_PARAM(knob_understands, written_gen_params),
	{}
};

static struct kunit_suite knob_suite = {
	.name = "ksm-knob",
	.test_cases = knob_cases,
};

kunit_test_suites(&fingerprint_suite, &record_suite, &index_suite, &fold_suite,
		  &candidate_suite, &domain_suite, &advisor_suite, &knob_suite);

MODULE_DESCRIPTION("KUnit tests of samepage merging");
MODULE_LICENSE("GPL");
