// SPDX-License-Identifier: GPL-2.0-only
/*
 * KSM: finding the KSM pages of a content.
 *
 * Stable nodes are looked up by the fingerprint of their page for as long as
 * they live.
 *
 * What is found here is a guess.  Pages are equal when their bytes are, and
 * that is decided in ksm_merge.c, while nobody can write to them.
 */
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

/* The NUMA node of a key, for a page that is on this one. */
static long ksm_key_nid(int nid)
{
	return ksm_knobs.merge_across_nodes ? NUMA_NO_NODE : nid;
}

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
		.nid = ksm_key_nid(nid),
	};
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

/* Where a search begins: the newest node of a key, as a rule.  Index lock or RCU. */
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

	node->key.nid = ksm_key_nid(nid);
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
		WRITE_ONCE(node->key.nid, ksm_key_nid(pfn_to_nid(kpfn)));
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
 * ksm_index_start_pass - a pass over all memory begins
 *
 * What was to be folded in the last one is no more.
 *
 * Context: no scanning in parallel.
 */
void ksm_index_start_pass(void)
{
	WRITE_ONCE(ksm_pass, ksm_pass + 1);
}

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
 * ksm_index_turn - let searches find another node of the key first
 * @node: whose page a search has found to differ from what it looks like
 *
 * Whoever makes pages that only look like those of others has the newest node,
 * which would keep everybody from finding what is behind it.
 *
 * Context: may sleep.
 */
void ksm_index_turn(struct ksm_stable_node *node)
{
	struct ksm_stable_node *next;

	spin_lock(&ksm_index_lock);
	next = list_next_entry(node, siblings);
	if (node->first && next != node &&
	    !rhashtable_replace_fast(&ksm_node_table, &node->hash, &next->hash,
				     ksm_node_params)) {
		node->first = false;
		next->first = true;
	}
	spin_unlock(&ksm_index_lock);
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

/**
 * ksm_index_init - at boot, once
 *
 * Return: 0 or -ENOMEM.
 */
int __init ksm_index_init(void)
{
	return rhashtable_init(&ksm_node_table, &ksm_node_params);
}
