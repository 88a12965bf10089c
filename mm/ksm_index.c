// SPDX-License-Identifier: GPL-2.0-only
/*
 * KSM: finding pages of equal content.
 *
 * Three things are looked up by the fingerprint of a page:
 *
 * - the stable nodes, for as long as they live;
 * - the candidates of this pass: one page for each content that looks as if
 *   it were there twice;
 * - the filter, which says whether it looks so: made in one pass and asked in
 *   the next, of one to two bytes a page.  It keeps unique pages, nearly all
 *   of them as a rule, out of the candidate table, which costs more.
 *
 * What is found here is a guess.  Pages are equal when their bytes are, and
 * that is decided in ksm_merge.c, while nobody can write to them.
 */
#include <linux/hash.h>
#include <linux/prefetch.h>
#include <linux/rhashtable.h>
#include <linux/slab.h>
#include "internal.h"
#include "ksm_internal.h"

/*
 * Most nodes of one key that a search looks at.  More are there only if many
 * KSM pages of one content are full, and then those with room come first, or
 * if somebody makes fingerprints collide, and then it is his loss.
 */
#define KSM_SEARCH_MAX	16

/**
 * ksm_make_key - under which a page is filed and found
 * @fingerprint: the page's
 * @domain: of the mm in which it is
 * @nid: the NUMA node it is on
 *
 * Return: the key.
 */
struct ksm_key ksm_make_key(u64 fingerprint, struct ksm_domain *domain,
			    int nid)
{
	return (struct ksm_key) {
		.fingerprint = fingerprint,
		.domain = domain,
		.nid = ksm_knobs.merge_across_nodes ? NUMA_NO_NODE : nid,
	};
}

/* The fingerprint is a keyed hash already: spread it and be done. */
static u32 ksm_hash_key(const void *data, u32 len, u32 seed)
{
	const struct ksm_key *key = data;

	return (u32)(key->fingerprint >> 32) ^ seed ^ (u32)key->nid ^
	       hash_ptr(key->domain, 32);
}

/* -------------------------------------------------------------- stable nodes */

static const struct rhashtable_params ksm_node_params = {
	.key_len		= sizeof(struct ksm_key),
	.key_offset		= offsetof(struct ksm_stable_node, key),
	.head_offset		= offsetof(struct ksm_stable_node, hash),
	.hashfn			= ksm_hash_key,
	.automatic_shrinking	= true,
};

/* Guards the table, the rings behind it and the list of all nodes. */
static DEFINE_SPINLOCK(ksm_index_lock);
static struct rhashtable ksm_node_table;
static LIST_HEAD(ksm_all_nodes);
static unsigned long ksm_nr_nodes;
static DEFINE_MUTEX(ksm_sweep_mutex);

/* Nodes whose page has gone to another NUMA node, and how many are on the way. */
static LLIST_HEAD(ksm_moved_nodes);
static struct llist_node *ksm_moved_in_hand;	/* index lock */
static atomic_t ksm_nr_moved = ATOMIC_INIT(0);

/* The newest node of a key.  Index lock or RCU. */
static struct ksm_stable_node *ksm_first_node(const struct ksm_key *key)
{
	return rhashtable_lookup_fast(&ksm_node_table, key, ksm_node_params);
}

/*
 * Keep count of the contents that several nodes share, and of these nodes,
 * when a node comes to or goes from one that also has @siblings.
 */
static void ksm_count_chain(struct list_head *siblings, int sign)
{
	bool pair;

	if (!siblings)
		return;
	pair = list_empty(siblings);
	if (pair)
		atomic_long_add(sign, &ksm_counters.chains);
	atomic_long_add(pair ? 2 * sign : sign, &ksm_counters.dups);
}

/* File a node as the first of its key. */
static int ksm_file_node(struct ksm_stable_node *node)
{
	struct ksm_stable_node *first = ksm_first_node(&node->key);
	int err;

	if (first)
		err = rhashtable_replace_fast(&ksm_node_table, &first->hash,
					      &node->hash, ksm_node_params);
	else
		err = rhashtable_insert_fast(&ksm_node_table, &node->hash,
					     ksm_node_params);
	if (err)
		return err;
	node->filed = true;
	node->first = true;
	if (first) {
		first->first = false;
		ksm_count_chain(&first->siblings, 1);
		list_add_tail(&node->siblings, &first->siblings);
	}
	return 0;
}

static void ksm_unfile_node(struct ksm_stable_node *node)
{
	struct ksm_stable_node *next = NULL;

	if (!node->filed)
		return;
	if (!list_empty(&node->siblings))
		next = list_next_entry(node, siblings);
	if (node->first && next)
		rhashtable_replace_fast(&ksm_node_table, &node->hash,
					&next->hash, ksm_node_params);
	else if (node->first)
		rhashtable_remove_fast(&ksm_node_table, &node->hash,
				       ksm_node_params);
	if (node->first && next)
		next->first = true;
	list_del_init(&node->siblings);
	ksm_count_chain(next ? &next->siblings : NULL, -1);
	node->first = false;
	node->filed = false;
}

/**
 * ksm_index_add - let searches find a node
 * @node: new; the index takes a reference
 * @nid: NUMA node that its page is on
 *
 * Context: may be under a folio lock.
 * Return: 0, or an error when memory is short.
 */
int ksm_index_add(struct ksm_stable_node *node, int nid)
{
	int err;

	node->key = ksm_make_key(node->key.fingerprint, node->key.domain, nid);
	spin_lock(&ksm_index_lock);
	err = ksm_file_node(node);
	if (!err) {
		refcount_inc(&node->refs);
		list_add_tail(&node->all, &ksm_all_nodes);
		ksm_nr_nodes++;
	}
	spin_unlock(&ksm_index_lock);
	return err;
}

/**
 * ksm_index_remove - let no search find a node any more
 * @node: may have been removed already
 *
 * Return: true if the caller now owns the reference that was the index's.
 */
bool ksm_index_remove(struct ksm_stable_node *node)
{
	bool listed;

	spin_lock(&ksm_index_lock);
	listed = !list_empty(&node->all);
	if (listed) {
		ksm_unfile_node(node);
		list_del_init(&node->all);
		ksm_nr_nodes--;
	}
	spin_unlock(&ksm_index_lock);
	return listed;
}

/**
 * ksm_index_roomy - a KSM page that was full can take more mappings again
 * @node: its node
 *
 * Searches look at a few nodes of a key: this one comes first from now on.
 *
 * Context: may be under a folio lock.
 */
void ksm_index_roomy(struct ksm_stable_node *node)
{
	spin_lock(&ksm_index_lock);
	if (node->filed && !node->first) {
		ksm_unfile_node(node);
		/* Takes the place of another, for which no memory is needed */
		WARN_ON_ONCE(ksm_file_node(node));
	}
	spin_unlock(&ksm_index_lock);
}

/**
 * ksm_index_moved - a node's page has gone to another NUMA node
 * @node: to be filed anew before the next search
 *
 * Context: any, that of ksm_migrate_page().
 */
void ksm_index_moved(struct ksm_stable_node *node)
{
	if (test_and_set_bit(0, &node->moved_queued))
		return;
	refcount_inc(&node->refs);
	/* Counted first: a search that does not see it came before the move */
	atomic_inc(&ksm_nr_moved);
	llist_add(&node->moved, &ksm_moved_nodes);
}

/* File one moved node under where it is now.  False if memory was short. */
static bool ksm_refile_node(struct ksm_stable_node *node)
{
	unsigned long kpfn;
	int err = 0;

	/* RCU: the page may be gone, its memory map must not (get_ksm_page()) */
	rcu_read_lock();
	kpfn = READ_ONCE(node->kpfn);
	if (!(kpfn & KSM_PFN_GONE) && !list_empty(&node->all)) {
		ksm_unfile_node(node);
		node->key = ksm_make_key(node->key.fingerprint,
					 node->key.domain, pfn_to_nid(kpfn));
		err = ksm_file_node(node);
	}
	rcu_read_unlock();
	return !err;
}

/*
 * File a moved node anew.  If memory is short for that it is queued again, and
 * waits for the next search.
 */
static void ksm_refile_entry(struct llist_node *entry)
{
	struct ksm_stable_node *node;

	node = llist_entry(entry, struct ksm_stable_node, moved);
	clear_bit(0, &node->moved_queued);
	/* A move that we do not see queues the node again */
	smp_mb__after_atomic();
	if (!ksm_refile_node(node))
		ksm_index_moved(node);
	atomic_dec(&ksm_nr_moved);
	ksm_put_node(node);
}

/*
 * File anew all nodes that have moved before this is called: what is left in
 * hand, and what has been queued since.  Some at a time, to let others at the
 * lock.
 */
static void ksm_refile_moved(void)
{
	struct llist_node *entry;
	bool queue_taken = false, done = false;
	int budget;

	while (unlikely(atomic_read(&ksm_nr_moved)) && !done) {
		spin_lock(&ksm_index_lock);
		for (budget = 64; budget && !done; budget--) {
			if (!ksm_moved_in_hand && !queue_taken) {
				ksm_moved_in_hand = llist_del_all(&ksm_moved_nodes);
				queue_taken = true;
			}
			entry = ksm_moved_in_hand;
			done = !entry;
			if (entry) {
				ksm_moved_in_hand = entry->next;
				ksm_refile_entry(entry);
			}
		}
		spin_unlock(&ksm_index_lock);
		cond_resched();
	}
}

/* ----------------------------------------------------------- folding and searching */

/*
 * Several KSM pages of one content come from max_page_sharing and from
 * migration to another NUMA node.  When their mappings would fit into fewer
 * pages, those with the fewest are given up, mapping by mapping, as ksmd
 * comes by.
 */
#define KSM_FOLD_NODES	1024	/* of a key, that are looked at */
#define KSM_FOLD_TURNS	64	/* in which one of them is picked */

/* The number of this pass. */
static unsigned int ksm_pass;

/**
 * ksm_folding - are a page's mappings to be moved to others in this pass?
 * @node: the page's
 *
 * Return: true if they are.
 */
bool ksm_folding(const struct ksm_stable_node *node)
{
	return READ_ONCE(node->fold_pass) == READ_ONCE(ksm_pass) &&
	       !READ_ONCE(node->collides);
}

static bool ksm_node_has_room(struct ksm_stable_node *node)
{
	return READ_ONCE(node->nr_mappings) <
	       READ_ONCE(ksm_knobs.max_page_sharing);
}

/* Does a node count when its mappings and those of others are summed up? */
static bool ksm_may_be_folded(const struct ksm_stable_node *node)
{
	return node->nr_mappings && !READ_ONCE(node->collides);
}

/*
 * Of the nodes that are to be folded or are not: the one with the fewest
 * mappings, or with the most.
 */
static struct ksm_stable_node *ksm_pick(struct ksm_stable_node *first,
					bool folding, bool fewest)
{
	struct ksm_stable_node *node = first, *picked = NULL;
	int looks = KSM_FOLD_NODES;
	bool fewer;

	do {
		if (!ksm_may_be_folded(node) || ksm_folding(node) != folding)
			goto next;
		fewer = picked && node->nr_mappings < picked->nr_mappings;
		if (!picked || fewer == fewest)
			picked = node;
next:
		node = list_next_entry(node, siblings);
	} while (node != first && --looks);
	return picked;
}

static void ksm_mark_fold(struct ksm_stable_node *node, bool fold)
{
	/* Mappings come and go meanwhile: there may be none left to pick */
	if (node)
		WRITE_ONCE(node->fold_pass, fold ? ksm_pass : 0);
}

/* Decide for the nodes of one key.  Index lock held. */
static void ksm_plan_fold(struct ksm_stable_node *first)
{
	unsigned long mappings = 0, nodes = 0, keep, turns;
	struct ksm_stable_node *node = first;
	int looks = KSM_FOLD_NODES;

	do {
		if (ksm_may_be_folded(node)) {
			mappings += node->nr_mappings;
			nodes++;
		}
		node = list_next_entry(node, siblings);
	} while (node != first && --looks);

	keep = DIV_ROUND_UP(mappings, ksm_knobs.max_page_sharing);
	if (nodes <= keep)
		return;
	if (keep > KSM_FOLD_TURNS) {
		/* Give up those with the fewest, more of them in later passes */
		for (turns = min(nodes - keep, KSM_FOLD_TURNS); turns; turns--)
			ksm_mark_fold(ksm_pick(first, false, true), true);
		return;
	}
	/* Give up all but those with the most */
	node = first;
	looks = KSM_FOLD_NODES;
	do {
		if (ksm_may_be_folded(node))
			ksm_mark_fold(node, true);
		node = list_next_entry(node, siblings);
	} while (node != first && --looks);
	while (keep--)
		ksm_mark_fold(ksm_pick(first, true, false), false);
}

static int ksm_plan_fold_at(struct ksm_stable_node *node, void *unused)
{
	spin_lock(&ksm_index_lock);
	/* Once for each key that has more than one */
	if (node->first && !list_empty(&node->siblings))
		ksm_plan_fold(node);
	spin_unlock(&ksm_index_lock);
	return 0;
}

/**
 * ksm_index_plan_folds - choose the KSM pages to be given up in this pass
 *
 * Context: may sleep.
 */
void ksm_index_plan_folds(void)
{
	if (atomic_long_read(&ksm_counters.chains))
		ksm_index_for_each(ksm_plan_fold_at, NULL);
}

/**
 * ksm_index_find - a KSM page with room that looks like this one
 * @key: of the page
 *
 * Context: may sleep.
 * Return: a node with a reference, NULL if there is none.  Its page may be
 * gone, locked, of other content or full by the time it is looked at.
 */
struct ksm_stable_node *ksm_index_find(const struct ksm_key *key)
{
	struct ksm_stable_node *first, *node, *found = NULL;
	int looks = KSM_SEARCH_MAX;

	ksm_refile_moved();
	/* Nearly always there is none: see that without the lock */
	if (!ksm_first_node(key))
		return NULL;

	spin_lock(&ksm_index_lock);
	first = ksm_first_node(key);
	node = first;
	while (node && looks--) {
		if (ksm_node_has_room(node) && !ksm_folding(node)) {
			refcount_inc(&node->refs);
			found = node;
			break;
		}
		node = list_next_entry(node, siblings);
		if (node == first)
			break;
	}
	spin_unlock(&ksm_index_lock);
	return found;
}

/**
 * ksm_index_find_fold - to which page may a mapping of this one be moved?
 * @node: that is folding
 *
 * Context: may sleep.
 * Return: the fullest node of the same key that has room, with a reference;
 * NULL if there is none.
 */
struct ksm_stable_node *ksm_index_find_fold(struct ksm_stable_node *node)
{
	struct ksm_stable_node *other, *found = NULL;
	int looks = KSM_FOLD_NODES;

	ksm_refile_moved();
	spin_lock(&ksm_index_lock);
	list_for_each_entry(other, &node->siblings, siblings) {
		if (!looks--)
			break;
		if (!ksm_folding(other) && ksm_node_has_room(other) &&
		    (!found || other->nr_mappings > found->nr_mappings))
			found = other;
	}
	if (found)
		refcount_inc(&found->refs);
	spin_unlock(&ksm_index_lock);
	return found;
}

/* ------------------------------------------------------------------------ sweeps */

/**
 * ksm_index_empty - is there no stable node at all?
 *
 * Return: true if there is none.
 */
bool ksm_index_empty(void)
{
	return !READ_ONCE(ksm_nr_nodes);
}

/**
 * ksm_index_for_each - visit every node that was there when it began
 * @visit: called with a reference held for it, and no lock; an error ends it
 * @arg: passed on to it
 *
 * Visited nodes go to the end of the list, as new ones do, so it needs to
 * take the first one only as many times as there are nodes.
 *
 * Context: may sleep.  One sweep at a time.
 * Return: 0, or what @visit has returned.
 */
int ksm_index_for_each(int (*visit)(struct ksm_stable_node *node, void *arg),
		       void *arg)
{
	struct ksm_stable_node *node;
	unsigned long nr;
	int err = 0;

	mutex_lock(&ksm_sweep_mutex);
	ksm_refile_moved();
	for (nr = READ_ONCE(ksm_nr_nodes); nr && !err; nr--) {
		spin_lock(&ksm_index_lock);
		node = list_first_entry_or_null(&ksm_all_nodes,
						struct ksm_stable_node, all);
		if (node) {
			list_move_tail(&node->all, &ksm_all_nodes);
			refcount_inc(&node->refs);
		}
		spin_unlock(&ksm_index_lock);
		if (!node)
			break;
		err = visit(node, arg);
		ksm_put_node(node);
		cond_resched();
	}
	mutex_unlock(&ksm_sweep_mutex);
	return err;
}

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
		atomic64_set(&filter->words[at][ksm_pass & 1], 0);
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
	const unsigned int last = ~ksm_pass & 1;
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

	return (atomic64_read(&words[~ksm_pass & 1]) & again) == again;
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
 * Context: between ksm_index_start_pass() and ksm_index_end_pass().
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
	word = &words[ksm_pass & 1];
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

static int ksm_candidates_init(void)
{
	return rhashtable_init(&ksm_candidate_table, &ksm_candidate_params);
}

/* -------------------------------------------------------------------- the passes */

/**
 * ksm_index_start_pass - a pass over all memory begins
 *
 * Context: may sleep; no scanning in parallel.
 */
void ksm_index_start_pass(void)
{
	ksm_pass++;
	ksm_filter_renew(&ksm_filter, ksm_expected_pages());
}

/**
 * ksm_index_end_pass - a pass is over, or abandoned: forget its candidates
 *
 * Context: may sleep; no scanning in parallel.
 */
void ksm_index_end_pass(void)
{
	if (!atomic_read(&ksm_candidate_table.nelems))
		return;
	rhashtable_free_and_destroy(&ksm_candidate_table, ksm_candidate_free,
				    NULL);
	/* Cannot fail: what it needs at least it asks for with __GFP_NOFAIL */
	WARN_ON_ONCE(ksm_candidates_init());
}

/**
 * ksm_index_idle - give back what a next pass can make anew
 *
 * Context: may sleep; no scanning in parallel.
 */
void ksm_index_idle(void)
{
	ksm_index_end_pass();
	ksm_filter_free(&ksm_filter);
}

/**
 * ksm_index_init - at boot, once
 *
 * Return: 0 or -ENOMEM.
 */
int __init ksm_index_init(void)
{
	int err;

	err = rhashtable_init(&ksm_node_table, &ksm_node_params);
	return err ? err : ksm_candidates_init();
}
