// SPDX-License-Identifier: GPL-2.0-only
/*
 * KSM: stable nodes, each of which stands for one KSM page.
 *
 * A node knows where its page is but holds no reference to it: the page is
 * freed when its last mapping goes, and nobody tells KSM.  It may also be
 * migrated at any moment.  get_ksm_page() is where a node meets its page
 * again, or turns out to have outlived it.
 *
 * The idea that the folio lock is enough for KSM pages to be migrated, and
 * the form of get_ksm_page(), come from Hugh Dickins, "ksm: make KSM page
 * migration possible", 2013.
 */
#include <linux/init.h>
#include <linux/memory.h>
#include <linux/pagemap.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include "internal.h"
#include "ksm_internal.h"

#define CREATE_TRACE_POINTS
#include <trace/events/ksm.h>

struct ksm_knobs ksm_knobs = {
	.run			= IS_ENABLED(CONFIG_SYSFS) ? KSM_STOP : KSM_MERGE,
	.max_page_sharing	= 256,
	.merge_across_nodes	= true,
	.relocate		= true,
	.scan_threads		= 1,
	.pages_to_scan		= 100,
	.sleep_millisecs	= 20,
	.prune_millisecs	= 2000,
	.smart_scan		= true,
};

struct ksm_counters ksm_counters;
bool ksm_given_up;
DECLARE_RWSEM(ksm_control_lock);

static struct kmem_cache *ksm_node_cache;
static struct kmem_cache *ksm_mapping_cache;

/* ------------------------------------------------------ from node to page */

/* What folio->mapping of a node's page holds. */
static void *ksm_page_mapping(const struct ksm_stable_node *node)
{
	return (void *)((unsigned long)node | PAGE_MAPPING_KSM);
}

/**
 * folio_stable_node - the node of a KSM page
 * @folio: any folio; the caller keeps it from being freed
 *
 * Context: any.  Stable only while the folio is locked.
 * Return: the node; NULL if it is not a KSM page, or one that KSM has let go.
 */
struct ksm_stable_node *folio_stable_node(const struct folio *folio)
{
	unsigned long mapping = (unsigned long)READ_ONCE(folio->mapping);

	if ((mapping & PAGE_MAPPING_FLAGS) != PAGE_MAPPING_KSM)
		return NULL;
	return (struct ksm_stable_node *)(mapping & ~PAGE_MAPPING_FLAGS);
}

/*
 * The page is gone: nothing finds the node any more.  Its records are dropped,
 * and stop counting, as the scan comes to those whose they are.
 */
static void ksm_retire(struct ksm_stable_node *node)
{
	unsigned long kpfn;

	spin_lock(&node->lock);
	kpfn = node->kpfn;
	WRITE_ONCE(node->kpfn, kpfn | KSM_PFN_GONE);
	spin_unlock(&node->lock);

	if (!(kpfn & KSM_PFN_GONE))
		trace_ksm_remove_ksm_page(kpfn);
	if (ksm_index_remove(node))
		ksm_put_node(node);
}

/*
 * The page's count is zero: it is being freed, reclaimed or moved, by somebody
 * who may have been preempted, or who has more to do first (reclaim frees in
 * batches).  Spin a little, then leave the CPU to him if the caller insists.
 */
static bool ksm_wait_for_count(unsigned int *tries, enum ksm_get how)
{
	if (++*tries < 100) {
		cpu_relax();
		return true;
	}
	if (how != KSM_GET_LOCK)
		return false;
	schedule_timeout_uninterruptible(1);
	return true;
}

/*
 * What a reference promises: that the page is the node's, or was until the last
 * mapping went (ksm_let_go()), and that it stays where it is.
 */
static void ksm_check_held(struct ksm_stable_node *node, struct folio *folio)
{
	unsigned long kpfn;
	void *mapping;

	if (!IS_ENABLED(CONFIG_KSM_DEBUG))
		return;
	mapping = READ_ONCE(folio->mapping);
	kpfn = READ_ONCE(node->kpfn);
	ksm_window(KSM_WINDOW_GET_HELD);
	WARN_ON_ONCE(mapping != ksm_page_mapping(node) &&
		     mapping != (void *)PAGE_MAPPING_KSM);
	/* Unless it is just coming back here: then the pfn is late */
	if (kpfn == folio_pfn(folio))
		WARN_ON_ONCE((READ_ONCE(node->kpfn) & ~KSM_PFN_GONE) != kpfn);
}

/**
 * get_ksm_page - from a stable node to its page
 * @node: the caller holds a reference to it
 * @how: whether the page is to be locked, and whether to wait for that
 *
 * The node holds no reference to the page, so between looking where it is and
 * taking a reference it may be freed, given out again for something else, or
 * moved.  What tells is whether the page's mapping still points to the node:
 *
 * - It does, and we have a reference: then it is the node's page, and stays
 *   so until we drop the reference.  Migration freezes the count before it
 *   hands the mapping over, and that fails while there is our reference.
 *
 * - It does, but the count is zero: the page is being freed, or reclaim or
 *   migration has frozen it.  Its mapping will change, or its count rise.
 *
 * - It does not: the page was freed or moved.  Migration stores the new pfn
 *   and counts the move before it clears the old page's mapping, so whoever
 *   sees that mapping cleared and then reads @moves sees it changed, and goes
 *   where the page has gone.  A pfn alone would not do: a page that moved
 *   twice may be back where it was.  If there was no move, the page is gone,
 *   for good, and the node is retired.
 *
 * RCU keeps the memory map in place while we look at a page that we do not
 * hold: hotremove retires the nodes of its range and waits for a grace period
 * (ksm_memory_callback()).
 *
 * Nobody waits for the folio lock with a reference held: he who has the lock
 * may be migration, waiting for the reference to go.
 *
 * Context: may sleep with KSM_GET_LOCK.  No spin lock held.
 * Return: the folio with a reference, locked unless KSM_GET_NOLOCK; NULL if
 * the page is gone; -EBUSY if it is locked (KSM_GET_TRYLOCK) or its count is
 * frozen for longer (all but KSM_GET_LOCK).
 */
struct folio *get_ksm_page(struct ksm_stable_node *node, enum ksm_get how)
{
	void *mapping = ksm_page_mapping(node);
	unsigned long kpfn, moves;
	unsigned int tries = 0;
	struct folio *folio;

again:
	rcu_read_lock();
	/* Pairs with the release of node->moves in ksm_migrate_page() */
	moves = smp_load_acquire(&node->moves);
	/* folio->mapping depends on it: pairs with the release of the pfn */
	kpfn = READ_ONCE(node->kpfn);
	if (kpfn & KSM_PFN_GONE) {
		rcu_read_unlock();
		return NULL;
	}
	folio = pfn_folio(kpfn);
	ksm_window(KSM_WINDOW_GET_PFN);
	if (READ_ONCE(folio->mapping) != mapping)
		goto gone;
	ksm_window(KSM_WINDOW_GET_MAPPING);
	if (!folio_try_get(folio)) {
		rcu_read_unlock();
		if (!ksm_wait_for_count(&tries, how))
			return ERR_PTR(-EBUSY);
		goto again;
	}
	ksm_window(KSM_WINDOW_GET_REF);
	/* folio_try_get() is a full barrier: it was ours when we got it, or not */
	if (READ_ONCE(folio->mapping) != mapping) {
		folio_put(folio);
		goto gone;
	}
	rcu_read_unlock();
	ksm_check_held(node, folio);

	if (how == KSM_GET_NOLOCK)
		return folio;
	if (!folio_trylock(folio)) {
		if (how == KSM_GET_TRYLOCK) {
			folio_put(folio);
			return ERR_PTR(-EBUSY);
		}
		folio_put_wait_locked(folio, TASK_UNINTERRUPTIBLE);
		goto again;
	}
	/* With the lock, ksm_let_go() cannot have been, or it has been */
	if (READ_ONCE(folio->mapping) == mapping)
		return folio;
	folio_unlock(folio);
	folio_put(folio);
	goto again;

gone:
	ksm_window(KSM_WINDOW_GET_GONE);
	/* Pairs with the release of the old mapping in ksm_migrate_page() */
	smp_rmb();
	if (READ_ONCE(node->moves) != moves) {
		rcu_read_unlock();
		goto again;
	}
	rcu_read_unlock();
	ksm_retire(node);
	return NULL;
}

#ifdef CONFIG_MIGRATION
/**
 * ksm_migrate_page - a KSM page has moved: let its node know
 * @to: the new page, which has the old one's mapping and content already
 * @from: the old page, its count frozen
 *
 * After this the old page belongs to nobody.  Its mapping keeps the flag bits,
 * for migration goes on treating it as the anonymous page it was.
 *
 * Context: both folios locked, interrupts may be off.  Takes no lock.
 */
void ksm_migrate_page(struct folio *to, struct folio *from)
{
	struct ksm_stable_node *node = folio_stable_node(from);
	int old_nid = folio_nid(from), new_nid = folio_nid(to);

	VM_WARN_ON_FOLIO(!folio_test_locked(from), from);
	VM_WARN_ON_FOLIO(!folio_test_locked(to), to);
	VM_WARN_ON_FOLIO(folio_ref_count(from), from);

	if (!node)
		return;
	VM_WARN_ON_FOLIO(node->kpfn != folio_pfn(from), from);

	/*
	 * Each store is seen after those before it.  get_ksm_page() has the
	 * other halves.
	 */
	ksm_window(KSM_WINDOW_MIGRATE_PFN);
	/* Whoever goes to the new page finds its mapping set */
	smp_store_release(&node->kpfn, folio_pfn(to));
	ksm_window(KSM_WINDOW_MIGRATE_MOVES);
	/* Whoever sees that there was a move sees where to */
	smp_store_release(&node->moves, node->moves + 1);
	ksm_window(KSM_WINDOW_MIGRATE_MAPPING);
	/* Whoever sees the old page without its node sees that it has moved */
	smp_store_release(&from->mapping, (void *)PAGE_MAPPING_KSM);

	atomic_long_inc(&ksm_counters.migrated);
	trace_ksm_migrate_page(folio_pfn(from), folio_pfn(to),
			       READ_ONCE(node->nr_mappings), old_nid, new_nid);
	if (new_nid != old_nid && !READ_ONCE(ksm_knobs.merge_across_nodes))
		ksm_index_moved(node);
}
#endif /* CONFIG_MIGRATION */

/* ---------------------------------------------------------- life and death */

/**
 * ksm_new_node - a node for a page that is about to become a KSM page
 * @key: of the page
 *
 * Context: may sleep.
 * Return: the node with one reference, the caller's; NULL without memory.
 */
struct ksm_stable_node *ksm_new_node(const struct ksm_key *key)
{
	struct ksm_stable_node *node;

	/*
	 * One node saves a page or more, so it may dip into the reserves
	 * rather than wait for memory that merging is about to free.
	 */
	node = kmem_cache_zalloc(ksm_node_cache, GFP_KERNEL | __GFP_HIGH);
	if (!node)
		return NULL;
	node->kpfn = KSM_PFN_GONE;
	node->key = *key;
	ksm_get_domain(key->domain);
	refcount_set(&node->refs, 1);
	spin_lock_init(&node->lock);
	INIT_HLIST_HEAD(&node->mappings);
	INIT_LIST_HEAD(&node->siblings);
	INIT_LIST_HEAD(&node->all);
	atomic_long_add(KSM_HASHED_BYTES(*node), &ksm_counters.metadata);
	return node;
}

/**
 * ksm_put_node - drop a reference to a node
 * @node: not to be used by the caller any more
 *
 * Context: not a hard interrupt.  Lookups under RCU may still see the node.
 */
void ksm_put_node(struct ksm_stable_node *node)
{
	if (!refcount_dec_and_test(&node->refs))
		return;
	atomic_long_sub(KSM_HASHED_BYTES(*node), &ksm_counters.metadata);
	ksm_put_domain(node->key.domain);
	kfree_rcu(node, rcu);
}

/**
 * ksm_make_stable - turn a page into the KSM page of a node
 * @folio: small; new, or anonymous, write-protected everywhere, and not
 *	exclusive to anybody
 * @node: new; searches that find it already find it without a page
 *
 * Context: the folio locked.
 */
void ksm_make_stable(struct folio *folio, struct ksm_stable_node *node)
{
	VM_WARN_ON_FOLIO(!folio_test_locked(folio), folio);
	VM_WARN_ON_FOLIO(folio_test_large(folio), folio);

	/* Pairs with the dependency of those who look what page this is */
	smp_store_release(&folio->mapping, ksm_page_mapping(node));
	VM_WARN_ON_FOLIO(PageAnonExclusive(&folio->page), folio);
	/* get_ksm_page() must not see the pfn without the mapping */
	smp_store_release(&node->kpfn, folio_pfn(folio));
}

/**
 * ksm_let_go - a KSM page that nobody maps goes its way without KSM
 * @folio: the page, which somebody may still refer to
 * @node: its node
 *
 * Context: the folio locked.
 */
void ksm_let_go(struct folio *folio, struct ksm_stable_node *node)
{
	WRITE_ONCE(folio->mapping, (void *)PAGE_MAPPING_KSM);
	ksm_retire(node);
}

/* ---------------------------------------------------------- mapping records */

/**
 * ksm_new_mapping - allocate a mapping record
 *
 * Context: may sleep.
 * Return: the record, to be given to ksm_link_mapping() or
 * ksm_free_mapping(); NULL without memory.
 */
struct ksm_mapping *ksm_new_mapping(void)
{
	return kmem_cache_alloc(ksm_mapping_cache,
				GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN);
}

/**
 * ksm_free_mapping - free a record that is not linked
 * @mapping: the record, may be NULL
 */
void ksm_free_mapping(struct ksm_mapping *mapping)
{
	if (mapping)
		kmem_cache_free(ksm_mapping_cache, mapping);
}

/**
 * ksm_free_mappings - free many of them, for less than one by one
 * @mappings: records that are not linked
 * @nr: how many; may be 0
 */
void ksm_free_mappings(void **mappings, unsigned int nr)
{
	kmem_cache_free_bulk(ksm_mapping_cache, nr, mappings);
}

static void ksm_list_mapping(struct ksm_mapping *mapping,
			     struct ksm_stable_node *node)
{
	bool first;

	mapping->node = node;
	refcount_inc(&node->refs);

	spin_lock(&node->lock);
	hlist_add_head(&mapping->link, &node->mappings);
	first = !node->nr_mappings;
	WRITE_ONCE(node->nr_mappings, node->nr_mappings + 1);
	spin_unlock(&node->lock);

	ksm_count_mapping(node->key.domain, first, 1);
}

/* The caller inherits the record's reference to the node. */
static void ksm_unlist_mapping(struct ksm_mapping *mapping, struct folio *folio)
{
	struct ksm_stable_node *node = mapping->node;
	bool last, full;

	spin_lock(&node->lock);
	hlist_del(&mapping->link);
	full = node->nr_mappings == ksm_knobs.max_page_sharing;
	WRITE_ONCE(node->nr_mappings, node->nr_mappings - 1);
	last = !node->nr_mappings;
	spin_unlock(&node->lock);
	if (full)
		ksm_index_roomy(node);

	ksm_count_mapping(node->key.domain, last, -1);
	if (folio && last && !folio_mapped(folio))
		ksm_let_go(folio, node);
}

/**
 * ksm_link_mapping - let the rmap find a mapping of a KSM page
 * @mapping: a new record
 * @node: the page's node
 * @anon_vma: that the mapping's area is linked to, kept alive by the caller
 * @pgoff: of the page in @anon_vma
 *
 * Context: the page locked.
 */
void ksm_link_mapping(struct ksm_mapping *mapping,
		      struct ksm_stable_node *node,
		      struct anon_vma *anon_vma, pgoff_t pgoff)
{
	get_anon_vma(anon_vma);
	mapping->anon_vma = anon_vma;
	mapping->pgoff = pgoff;
	mapping->fingerprint = node->key.fingerprint;
	ksm_list_mapping(mapping, node);
}

/**
 * ksm_move_mapping - a mapping has gone from one KSM page to another
 * @mapping: its record
 * @folio: the old page
 * @node: the new page's node
 *
 * Context: both pages locked.
 */
void ksm_move_mapping(struct ksm_mapping *mapping, struct folio *folio,
		      struct ksm_stable_node *node)
{
	struct ksm_stable_node *old = mapping->node;

	ksm_unlist_mapping(mapping, folio);
	ksm_list_mapping(mapping, node);
	ksm_put_node(old);
}

/**
 * ksm_unlink_mapping - forget a mapping of a KSM page
 * @mapping: a linked record, whose own mapping is gone; on success it is the
 *	caller's to free
 * @drop: at what cost
 *
 * Context: no folio lock held; may sleep, and unless @drop is KSM_DROP_TRY no
 * folio reference held either.
 * Return: false if it has to stay, and nothing has changed.
 */
bool ksm_unlink_mapping(struct ksm_mapping *mapping, enum ksm_drop drop)
{
	struct ksm_stable_node *node = mapping->node;
	struct folio *folio = get_ksm_page(node, drop == KSM_DROP_TRY ?
						 KSM_GET_TRYLOCK : KSM_GET_LOCK);

	if (IS_ERR(folio))
		return false;
	if (folio && ksm_mapping_needed(mapping, folio, NULL)) {
		folio_unlock(folio);
		folio_put(folio);
		return false;
	}

	ksm_unlist_mapping(mapping, folio);
	if (folio) {
		folio_unlock(folio);
		folio_put(folio);
	}
	put_anon_vma(mapping->anon_vma);
	ksm_put_node(node);
	return true;
}

/* ------------------------------------------------------------------ sweeps */

/*
 * Is there no reason to think that the page is gone?  A page that is the
 * node's now may be gone in a moment; but a look without a reference is in
 * nobody's way, and a reference is: isolate_migratepages_block() passes over
 * anonymous pages that have one too many, and then CMA's allocation fails.
 */
static bool ksm_page_seen(struct ksm_stable_node *node)
{
	struct folio *folio;
	unsigned long kpfn;
	bool seen = false;

	/* RCU keeps the memory map in place, as in get_ksm_page() */
	rcu_read_lock();
	kpfn = READ_ONCE(node->kpfn);
	if (!(kpfn & KSM_PFN_GONE)) {
		folio = pfn_folio(kpfn);
		seen = folio_ref_count(folio) &&
		       READ_ONCE(folio->mapping) == ksm_page_mapping(node);
	}
	rcu_read_unlock();
	return seen;
}

static int ksm_prune_node(struct ksm_stable_node *node, void *unused)
{
	struct folio *folio;

	if (ksm_page_seen(node))
		return 0;
	folio = get_ksm_page(node, KSM_GET_NOLOCK);
	if (!IS_ERR_OR_NULL(folio))
		folio_put(folio);
	return 0;
}

/**
 * ksm_prune - retire the nodes whose page is gone
 *
 * A node is found to be stale when a record of it is dropped or a search
 * comes by; this is for those that neither happens to.
 *
 * Context: may sleep.
 */
void ksm_prune(void)
{
	ksm_index_for_each(ksm_prune_node, NULL);
}

/* Let go of a page that is not mapped, even if somebody still refers to it. */
static int ksm_retire_unmapped(struct ksm_stable_node *node, void *unused)
{
	struct folio *folio = get_ksm_page(node, KSM_GET_LOCK);

	if (!folio)
		return 0;
	if (!folio_mapped(folio))
		ksm_let_go(folio, node);
	folio_unlock(folio);
	folio_put(folio);
	return 0;
}

static int ksm_count_node(struct ksm_stable_node *node, void *arg)
{
	unsigned long *counts = arg, kpfn;

	/* RCU keeps the memory map in place, as in get_ksm_page() */
	rcu_read_lock();
	kpfn = READ_ONCE(node->kpfn);
	if (!(kpfn & KSM_PFN_GONE) && READ_ONCE(node->nr_mappings))
		counts[pfn_to_nid(kpfn)]++;
	rcu_read_unlock();
	return 0;
}

/**
 * ksm_count_by_nid - how many KSM pages there are on each NUMA node
 * @counts: for nr_node_ids numbers, all of them 0
 *
 * Context: may sleep.
 */
void ksm_count_by_nid(unsigned long *counts)
{
	ksm_index_for_each(ksm_count_node, counts);
}

/* ----------------------------------------- knobs that stop the world of KSM */

/**
 * ksm_lock_unshared - lock out scanning if nothing is shared
 *
 * For the knobs on which it depends where a KSM page belongs.
 *
 * Context: may sleep.
 * Return: 0 with ksm_control_lock held for write; -EBUSY if there are KSM
 * pages; -EINTR if killed.
 */
int ksm_lock_unshared(void)
{
	if (down_write_killable(&ksm_control_lock))
		return -EINTR;
	ksm_reap(KSM_REAP_OLD);
	ksm_index_for_each(ksm_retire_unmapped, NULL);
	if (ksm_index_empty())
		return 0;
	up_write(&ksm_control_lock);
	return -EBUSY;
}

/**
 * ksm_set_run - start ksmd, stop it, or stop it and unmerge everything
 * @run: one of enum ksm_run
 *
 * The writer of KSM_UNMERGE is the OOM killer's first choice while he asks
 * for the memory that unmerging takes.  If that fails, what has been unmerged
 * stays so, ksmd is stopped, and he may try again.
 *
 * Context: may sleep for long with KSM_UNMERGE.
 * Return: 0, -ENOMEM, -EINTR, or -ERESTARTSYS.
 */
int ksm_set_run(unsigned int run)
{
	int err = 0;

	if (down_write_killable(&ksm_control_lock))
		return -EINTR;
	if (ksm_knobs.run != run) {
		WRITE_ONCE(ksm_knobs.run, run);
		/* A pass, and its candidates, outlive a stop: they go on later */
		if (run == KSM_UNMERGE) {
			ksm_abandon_pass();
			set_current_oom_origin();
			err = ksm_unmerge_all();
			clear_current_oom_origin();
		}
		if (err) {
			WRITE_ONCE(ksm_knobs.run, KSM_STOP);
		} else if (run == KSM_UNMERGE) {
			ksm_index_for_each(ksm_retire_unmapped, NULL);
			ksm_reap(KSM_REAP_OLD);
			ksm_free_reserve();
			atomic_long_set(&ksm_counters.full_scans, 0);
		}
		if (run == KSM_MERGE)
			WRITE_ONCE(ksm_given_up, false);
		else if (run == KSM_UNMERGE && !err)
			WRITE_ONCE(ksm_given_up, true);
		/* What ksmd would have looked at again, if it is to rest now */
		ksm_reap_later();
	}
	up_write(&ksm_control_lock);
	ksm_wake();
	return err;
}

/* --------------------------------------------------------- memory hotremove */

#ifdef CONFIG_MEMORY_HOTREMOVE
static int ksm_retire_offlined(struct ksm_stable_node *node, void *arg)
{
	const struct memory_notify *offlined = arg;
	unsigned long kpfn = READ_ONCE(node->kpfn);

	if (kpfn >= offlined->start_pfn &&
	    kpfn < offlined->start_pfn + offlined->nr_pages)
		ksm_retire(node);
	return 0;
}

/*
 * The range is offline: its pages have been moved or freed, and the memory map
 * may go next.  Nodes that still point there are stale.  ksmd may be at work,
 * even here: whoever has read such a node's pfn is in an RCU read section.
 */
static int ksm_memory_callback(struct notifier_block *self,
			       unsigned long action, void *arg)
{
	if (action == MEM_GOING_OFFLINE)
		ksm_free_frames();
	if (action == MEM_OFFLINE) {
		ksm_index_for_each(ksm_retire_offlined, arg);
		synchronize_rcu();
	}
	return NOTIFY_OK;
}
#endif /* CONFIG_MEMORY_HOTREMOVE */

/* -------------------------------------------------------------------- init */

static int __init ksm_init(void)
{
	int err;

	ksm_node_cache = KMEM_CACHE(ksm_stable_node, SLAB_PANIC);
	ksm_mapping_cache = KMEM_CACHE(ksm_mapping, SLAB_PANIC);

	ksm_fingerprint_init();
	ksm_record_init();
	err = ksm_index_init();
	if (!err)
		err = ksm_candidates_init();
	if (!err)
		err = ksm_domain_init();
	if (!err)
		err = ksm_registry_init();
	if (!err)
		err = ksm_scan_init();
	if (!err)
		err = ksm_sysfs_init();
	if (err) {
		pr_err("ksm: not available, error %d\n", err);
		return err;
	}
#ifdef CONFIG_MEMORY_HOTREMOVE
	hotplug_memory_notifier(ksm_memory_callback, KSM_CALLBACK_PRI);
#endif
	return 0;
}
subsys_initcall(ksm_init);
