// SPDX-License-Identifier: GPL-2.0-only
/*
 * KSM: which of the pages that are not merged may have an equal.
 *
 * Of pages that are not merged, two things are looked up by their fingerprint:
 *
 * - the candidates of this pass: one page for each content that looks as if
 *   it were there twice;
 * - the filter, which says whether it looks so: made in one pass and asked in
 *   the next, of about 4 bytes a page.  It keeps unique pages, nearly all of
 *   them as a rule, out of the table of candidates, which costs more.
 *
 * Both are a guess, as everything that goes by fingerprints (ksm_index.c).
 */
#include <linux/prefetch.h>
#include <linux/rhashtable.h>
#include <linux/slab.h>
#include "internal.h"
#include "ksm_internal.h"

/* ------------------------------------------------------------------- the filter */

/**
 * struct ksm_filter - which fingerprints were seen, and which of them twice
 * @words: of 32 pairs of bits, one for "seen" and one for "seen again"; two
 *	words stand together, of this pass and of the last one, by the number of
 *	the pass.  Several may write to those of this pass at a time
 * @nr: number of such twos
 *
 * A Bloom filter: a fingerprint has three pairs, all of them in one word.  It
 * was seen before if all three have been seen.
 */
struct ksm_filter {
	atomic64_t (*words)[2];
	u32 nr;
};

#define KSM_FILTER_MIN		512UL	/* twos */
#define KSM_FILTER_PAGES	9	/* for two of them */
#define KSM_PAIR_SHIFT		5

static struct ksm_filter ksm_filter;

/* Which of its words are this pass's: its number, as far as that matters. */
static unsigned int ksm_filter_pass;

static unsigned long ksm_filter_bytes(const struct ksm_filter *filter)
{
	return filter->words ? filter->nr * sizeof(*filter->words) : 0;
}

static void ksm_filter_free(struct ksm_filter *filter)
{
	atomic_long_sub(ksm_filter_bytes(filter), &ksm_counters.metadata);
	kvfree(filter->words);
	filter->words = NULL;
}

/* Words that this pass has to itself. */
static void ksm_filter_clear(struct ksm_filter *filter)
{
	u32 at;

	for (at = 0; at < filter->nr; at++) {
		atomic64_set(&filter->words[at][ksm_filter_pass & 1], 0);
		if (!(at % SZ_64K))
			cond_resched();
	}
}

/*
 * What the last pass has seen, in a filter of another size.  Each word gets
 * whatever those have in which its fingerprints were looked for.  Without them,
 * every page may have been there twice.
 */
static void ksm_filter_carry(struct ksm_filter *filter,
			     const struct ksm_filter *old)
{
	const unsigned int last = ~ksm_filter_pass & 1;
	u32 at, from, to;
	s64 word;

	for (at = 0; at < filter->nr; at++) {
		word = old->words ? 0 : -1;
		if (old->words) {
			from = div_u64((u64)at * old->nr, filter->nr);
			to = div_u64((u64)(at + 1) * old->nr - 1, filter->nr);
			for (; from <= to; from++)
				word |= atomic64_read(&old->words[from][last]);
		}
		atomic64_set(&filter->words[at][last], word);
		if (!(at % SZ_64K))
			cond_resched();
	}
}

/* Without memory there is no filter, and every page may become a candidate. */
static void ksm_filter_renew(struct ksm_filter *filter, unsigned long pages)
{
	struct ksm_filter old = *filter;
	u32 nr = clamp(2 * pages / KSM_FILTER_PAGES, KSM_FILTER_MIN,
		       INT_MAX / sizeof(*filter->words));

	/* Is the old one about as large? */
	if (filter->words && filter->nr >= nr && filter->nr <= nr + nr / 8) {
		ksm_filter_clear(filter);
		return;
	}
	filter->words = kvcalloc(nr, sizeof(*filter->words),
				 GFP_KERNEL | __GFP_NOWARN |
				 __GFP_RETRY_MAYFAIL);
	filter->nr = nr;
	if (filter->words)
		ksm_filter_carry(filter, &old);
	atomic_long_add(ksm_filter_bytes(filter), &ksm_counters.metadata);
	ksm_filter_free(&old);
}

/* The low half of what is used tells the words, the rest the pairs in them. */
static atomic64_t *ksm_filter_words(const struct ksm_filter *filter,
				    u64 fingerprint)
{
	u32 at = fingerprint >> KSM_FINGERPRINT_SHIFT;

	return filter->words[reciprocal_scale(at, filter->nr)];
}

/* The bits of "seen" of its three pairs.  Those of "seen again" are one up. */
static u64 ksm_filter_bits(u64 fingerprint)
{
	const u64 pair = BIT(KSM_PAIR_SHIFT) - 1;
	u64 at = fingerprint >> (64 - 3 * KSM_PAIR_SHIFT);

	return BIT_ULL(2 * (at & pair)) |
	       BIT_ULL(2 * (at >> KSM_PAIR_SHIFT & pair)) |
	       BIT_ULL(2 * (at >> 2 * KSM_PAIR_SHIFT));
}

static bool ksm_seen_again(const atomic64_t *words, u64 seen)
{
	u64 again = seen << 1;

	return (atomic64_read(&words[~ksm_filter_pass & 1]) & again) == again;
}

/**
 * ksm_seen_twice - did perhaps two pages of the last pass have it?
 * @mark: ksm_filter_mark() of a page that has not changed since
 *
 * Return: false only if there were no two.
 */
bool ksm_seen_twice(u64 mark)
{
	if (!ksm_filter.words)
		return true;
	return ksm_seen_again(ksm_filter_words(&ksm_filter, mark),
			      ksm_filter_bits(mark));
}

/**
 * ksm_seen_soon - have the filter at hand when ksm_seen() is called
 * @mark: that it will be called with
 *
 * The filter is larger than the caches as soon as there are some GiB to scan.
 *
 * Context: a pass goes on.
 */
void ksm_seen_soon(u64 mark)
{
	if (ksm_filter.words)
		prefetchw(ksm_filter_words(&ksm_filter, mark));
}

/**
 * ksm_seen - a page of this pass is known by this mark
 * @mark: ksm_filter_mark() of the page
 *
 * Context: between ksm_candidates_start_pass() and ksm_candidates_end_pass().
 * Return: as ksm_seen_twice().
 */
bool ksm_seen(u64 mark)
{
	u64 seen = ksm_filter_bits(mark);
	atomic64_t *words, *word;
	s64 old, new;

	if (!ksm_filter.words)
		return true;
	words = ksm_filter_words(&ksm_filter, mark);
	word = &words[ksm_filter_pass & 1];
	old = atomic64_read(word);
	/* Of two at a time that see the same, one sees it again */
	do {
		new = old | ((old & seen) == seen ? seen << 1 : seen);
	} while (new != old && !atomic64_try_cmpxchg_relaxed(word, &old, new));
	return ksm_seen_again(words, seen);
}

/* --------------------------------------------------------------- the candidates */

/**
 * struct ksm_candidate - a page that others may be merged with
 * @key: the page's
 * @spot: where it was found; holds a reference to the mm
 * @hash: place in the table
 */
struct ksm_candidate {
	struct ksm_key key;
	struct ksm_spot spot;
	struct rhash_head hash;
};

static const struct rhashtable_params ksm_candidate_params = {
	.key_len		= sizeof(struct ksm_key),
	.key_offset		= offsetof(struct ksm_candidate, key),
	.head_offset		= offsetof(struct ksm_candidate, hash),
	.hashfn			= ksm_hash_key,
};

static DEFINE_SPINLOCK(ksm_candidate_lock);
static struct rhashtable ksm_candidate_table;

static struct ksm_candidate *ksm_candidate_lookup(const struct ksm_key *key)
{
	lockdep_assert_held(&ksm_candidate_lock);
	return rhashtable_lookup_fast(&ksm_candidate_table, key,
				      ksm_candidate_params);
}

static void ksm_candidate_free(void *ptr, void *unused)
{
	struct ksm_candidate *candidate = ptr;

	ksm_put_mm(candidate->spot.kmm);
	atomic_long_sub(KSM_HASHED_BYTES(*candidate), &ksm_counters.metadata);
	kfree(candidate);
}

/**
 * ksm_candidate_find - the candidate of a key
 * @key: of the page that looks for another
 * @spot: set to where the candidate was, with a reference to the mm
 *
 * Return: true if there is one.
 */
bool ksm_candidate_find(const struct ksm_key *key, struct ksm_spot *spot)
{
	struct ksm_candidate *candidate;

	spin_lock(&ksm_candidate_lock);
	candidate = ksm_candidate_lookup(key);
	if (candidate) {
		*spot = candidate->spot;
		ksm_get_mm(spot->kmm);
	}
	spin_unlock(&ksm_candidate_lock);
	return candidate;
}

/**
 * ksm_candidate_set - make a page the candidate of its key
 * @key: the page's
 * @spot: where it is; takes the place of an earlier one
 *
 * Without memory nothing happens: the page has its chance in the next pass.
 *
 * Context: may sleep.
 */
void ksm_candidate_set(const struct ksm_key *key, const struct ksm_spot *spot)
{
	struct ksm_candidate *fresh, *candidate;
	struct ksm_mm *unused = spot->kmm;

	fresh = kmalloc(sizeof(*fresh), GFP_KERNEL | __GFP_NORETRY |
					__GFP_NOWARN);
	ksm_get_mm(spot->kmm);

	spin_lock(&ksm_candidate_lock);
	candidate = ksm_candidate_lookup(key);
	if (candidate) {
		unused = candidate->spot.kmm;
		candidate->spot = *spot;
	} else if (fresh) {
		fresh->key = *key;
		fresh->spot = *spot;
		if (!rhashtable_insert_fast(&ksm_candidate_table, &fresh->hash,
					    ksm_candidate_params)) {
			atomic_long_add(KSM_HASHED_BYTES(*fresh),
					&ksm_counters.metadata);
			fresh = NULL;
			unused = NULL;
		}
	}
	spin_unlock(&ksm_candidate_lock);

	ksm_put_mm(unused);
	kfree(fresh);
}

/**
 * ksm_candidate_drop - a key's candidate has been merged
 * @key: there may be no candidate
 *
 * Context: may sleep.
 */
void ksm_candidate_drop(const struct ksm_key *key)
{
	struct ksm_candidate *candidate;

	spin_lock(&ksm_candidate_lock);
	candidate = ksm_candidate_lookup(key);
	if (candidate)
		rhashtable_remove_fast(&ksm_candidate_table, &candidate->hash,
				       ksm_candidate_params);
	spin_unlock(&ksm_candidate_lock);
	if (candidate)
		ksm_candidate_free(candidate, NULL);
}

/**
 * ksm_candidates_init - make their table, as it is before any pass
 *
 * Return: 0 or -ENOMEM.
 */
int ksm_candidates_init(void)
{
	return rhashtable_init(&ksm_candidate_table, &ksm_candidate_params);
}

/* -------------------------------------------------------------------- the passes */

/**
 * ksm_candidates_start_pass - a pass over all memory begins
 * @pages: about as many as it will look at
 *
 * Context: may sleep; no scanning in parallel.
 */
void ksm_candidates_start_pass(unsigned long pages)
{
	ksm_filter_pass++;
	ksm_filter_renew(&ksm_filter, pages);
}

/**
 * ksm_candidates_end_pass - a pass is over, or abandoned: forget its candidates
 *
 * Context: may sleep; no scanning in parallel.
 */
void ksm_candidates_end_pass(void)
{
	if (!atomic_read(&ksm_candidate_table.nelems))
		return;
	rhashtable_free_and_destroy(&ksm_candidate_table, ksm_candidate_free,
				    NULL);
	/* Cannot fail: what it needs at least it asks for with __GFP_NOFAIL */
	WARN_ON_ONCE(ksm_candidates_init());
}

/**
 * ksm_candidates_idle - give back what a next pass can make anew
 *
 * Context: may sleep; no scanning in parallel.
 */
void ksm_candidates_idle(void)
{
	ksm_candidates_end_pass();
	ksm_filter_free(&ksm_filter);
}
