// SPDX-License-Identifier: GPL-2.0-only
/*
 * KSM: in which page frame a KSM page lives.
 *
 * Whoever knows a frame of which a bit can be flipped from outside, and sees to
 * it that a page he shares with others lives there, changes what they read
 * (Razavi et al., "Flip Feng Shui", 2016).  So a KSM page is a copy in a frame
 * that the page allocator gives us, and not one of those that are merged.
 *
 * These must not come back to the one who had them, or to ksmd, as the next
 * frames that are allocated.  They are kept for a second or two, or until
 * others push them out in no order that anybody can tell.
 *
 * Nor are the page allocator's frames used as they come: it hands out those first
 * that were freed last, and whoever likes frees his where ksmd runs.  What it gives
 * goes into a reserve, and what has been there for nobody knows how long is used
 * (both after Oliverio et al., "Secure Page Fusion with VUsion", 2017).
 *
 * What is kept and what is in reserve are movable pages meanwhile, with nothing
 * in them, and in nobody's way.
 */
#include <linux/memcontrol.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/page-isolation.h>
#include <linux/random.h>
#include <linux/swap.h>
#include <linux/workqueue.h>
#include "internal.h"
#include "ksm_internal.h"

#define KSM_KEPT_FRAMES		128
#define KSM_KEPT_PROBES		8	/* for a slot that is free */
#define KSM_KEPT_TIME		HZ

static void ksm_frames_expire(struct work_struct *work);
static DECLARE_DELAYED_WORK(ksm_frames_work, ksm_frames_expire);

/*
 * Frames that were left in this period and in the last one, and the reserve; slots
 * are changed atomically.
 */
static struct folio *ksm_kept[3][KSM_KEPT_FRAMES];
static unsigned int ksm_period;

#define ksm_reserve	ksm_kept[2]

static void ksm_free_kept(struct folio **kept)
{
	struct folio *folio;
	int i;

	for (i = 0; i < KSM_KEPT_FRAMES; i++) {
		folio = xchg(&kept[i], NULL);
		if (folio)
			folio_put(folio);
	}
}

static bool ksm_any_kept(unsigned int period)
{
	int i;

	for (i = 0; i < KSM_KEPT_FRAMES; i++)
		if (READ_ONCE(ksm_kept[period & 1][i]))
			return true;
	return false;
}

/* The frames of the last period have been kept for a whole one. */
static void ksm_frames_expire(struct work_struct *work)
{
	unsigned int period = READ_ONCE(ksm_period);

	ksm_free_kept(ksm_kept[(period + 1) & 1]);
	WRITE_ONCE(ksm_period, period + 1);
	if (ksm_any_kept(period))
		queue_delayed_work(system_unbound_wq, &ksm_frames_work,
				   KSM_KEPT_TIME);
}

/**
 * ksm_free_reserve - give back the frames that KSM pages were to live in
 *
 * Context: any.
 */
void ksm_free_reserve(void)
{
	ksm_free_kept(ksm_reserve);
}

/**
 * ksm_free_frames - give back all frames that are kept or in reserve
 *
 * For memory hotremove, which would take the memory map of a bad one away.
 *
 * Context: any.
 */
void ksm_free_frames(void)
{
	ksm_free_kept(ksm_kept[0]);
	ksm_free_kept(ksm_kept[1]);
	ksm_free_reserve();
}

/* ------------------------------------------ frames that are in somebody's way */

/* Whoever wants the frame has it: without our reference it is free. */
static bool ksm_isolate_kept(struct page *page, isolate_mode_t mode)
{
	struct folio *folio = page_folio(page);
	struct folio **kept = &ksm_kept[0][0];
	int i;

	for (i = 0; i < ARRAY_SIZE(ksm_kept) * KSM_KEPT_FRAMES; i++)
		if (READ_ONCE(kept[i]) == folio &&
		    cmpxchg(&kept[i], folio, NULL) == folio) {
			folio_put(folio);
			return true;
		}
	return false;
}

/* Somebody looks at it just now; it is free when he has looked. */
static int ksm_migrate_kept(struct page *dst, struct page *src,
			    enum migrate_mode mode)
{
	return MIGRATEPAGE_SUCCESS;
}

static void ksm_putback_kept(struct page *page)
{
}

/*
 * Nothing in these frames is wanted, so there is nothing to move: compaction, CMA
 * and hotremove take them out of the way as the pages of a driver, and the
 * reference with which they do so is the last.
 */
static const struct movable_operations ksm_kept_ops = {
	.isolate_page	= ksm_isolate_kept,
	.migrate_page	= ksm_migrate_kept,
	.putback_page	= ksm_putback_kept,
};

/* -------------------------------------------------------------- coming and going */

/* As many nodes have a part of the reserve that is theirs alone. */
#define KSM_RESERVE_PARTS	4

static struct folio *ksm_alloc_frame(int nid)
{
	/* It takes the place of two, so it may dip into the reserves */
	gfp_t gfp = GFP_HIGHUSER_MOVABLE | __GFP_HIGH | __GFP_NORETRY |
		    __GFP_NOWARN;
	struct folio *folio;

	if (!ksm_knobs.merge_across_nodes)
		gfp |= __GFP_THISNODE;
	folio = __folio_alloc_node(gfp, 0, nid);
	if (folio)
		__folio_set_locked(folio);
	return folio;
}

/* One of the slots where a node's frames are. */
static struct folio **ksm_reserve_slot(int nid)
{
	const unsigned int slots = KSM_KEPT_FRAMES / KSM_RESERVE_PARTS;

	return &ksm_reserve[nid % KSM_RESERVE_PARTS * slots +
			    get_random_u32_below(slots)];
}

/*
 * Is a frame in memory that is being cleared out?  Who does that may have looked for
 * it already, while it was neither on the LRU nor kept.
 */
static bool ksm_isolated(struct folio *folio)
{
	return is_migrate_isolate_page(folio_page(folio, 0));
}

/* Put a locked frame into the reserve.  Returns what was in its place. */
static struct folio *ksm_put_in_reserve(struct folio *folio, int nid)
{
	struct folio **slot = ksm_reserve_slot(nid), *other;
	bool back;

	__SetPageMovable(folio_page(folio, 0), &ksm_kept_ops);
	folio_unlock(folio);
	/*
	 * Hotremove may have emptied the reserve just before; or it takes this
	 * from there, but not its memory map, see ksm_memory_callback().
	 */
	rcu_read_lock();
	other = xchg(slot, folio);
	back = ksm_isolated(folio) && cmpxchg(slot, folio, NULL) == folio;
	rcu_read_unlock();
	if (back)
		folio_put(folio);
	return other;
}

/*
 * Make a frame from the reserve a page like any other, and lock it.  Returns
 * false, and it is gone, if it is not good for a KSM page of a node.
 */
static bool ksm_take_from_reserve(struct folio *folio, int nid)
{
	/* Somebody may just have failed to isolate it */
	folio_lock(folio);
	folio->mapping = NULL;
	if (folio_nid(folio) == nid && !folio_test_hwpoison(folio) &&
	    !ksm_isolated(folio))
		return true;
	folio_unlock(folio);
	folio_put(folio);
	return false;
}

/* Without compaction, what is in reserve is in the way of CMA. */
static bool ksm_may_reserve(struct folio *folio, int nid)
{
	return IS_ENABLED(CONFIG_COMPACTION) && READ_ONCE(ksm_knobs.relocate) &&
	       folio_nid(folio) == nid && !ksm_isolated(folio);
}

/**
 * ksm_new_frame - a page that is to be a KSM page
 * @nid: NUMA node it is to be on; it may be on another only if pages are merged
 *	across nodes and this one has none
 *
 * Context: may sleep.
 * Return: the page with a reference, locked, and charged to nobody; NULL
 * without memory.
 */
struct folio *ksm_new_frame(int nid)
{
	struct folio *folio;

	do {
		folio = ksm_alloc_frame(nid);
		if (!folio)
			return NULL;
		if (!ksm_may_reserve(folio, nid))
			break;
		folio = ksm_put_in_reserve(folio, nid);
	} while (!folio || !ksm_take_from_reserve(folio, nid));
	/* From the reserve, it may be known to somebody who waits for its lock */
	folio_set_swapbacked(folio);
	return folio;
}

/*
 * Does nobody use a page any more?  If it is still a KSM page, somebody could come
 * to map it again.  Without compaction, what is kept is in the way of CMA.
 */
static bool ksm_may_keep(struct folio *folio)
{
	return !folio_mapped(folio) && !folio_test_swapcache(folio) &&
	       !folio_stable_node(folio) &&
	       (IS_ENABLED(CONFIG_COMPACTION) ||
		!is_migrate_cma_page(folio_page(folio, 0)));
}

/* Is a page whose LRU reference has been dropped ours alone, and ours to keep? */
static bool ksm_ours_alone(struct folio *folio)
{
	return folio_ref_count(folio) == 1 && !ksm_isolated(folio);
}

/*
 * Take a page that nobody uses any more from those who keep account of it.  Its
 * lock keeps out those who would isolate it before it is what it is to be.
 */
static bool ksm_strip(struct folio *folio)
{
	bool stripped = false;

	if (!folio_trylock(folio))
		return false;
	if (!ksm_may_keep(folio) || !folio_isolate_lru(folio))
		goto unlock;
	/* The reference that comes with this is not needed */
	folio_put(folio);
	stripped = ksm_ours_alone(folio);
	if (stripped) {
		mem_cgroup_uncharge(folio);
		folio_clear_active(folio);
		folio_clear_unevictable(folio);
		/* It is PG_isolated now */
		folio_clear_reclaim(folio);
		__SetPageMovable(folio_page(folio, 0), &ksm_kept_ops);
	} else {
		folio_get(folio);
		folio_putback_lru(folio);
	}
unlock:
	folio_unlock(folio);
	return stripped;
}

/* Returns what has to go for it, if anything has. */
static struct folio *ksm_keep(struct folio *folio)
{
	struct folio **kept = ksm_kept[READ_ONCE(ksm_period) & 1];
	unsigned int i, slot = get_random_u32_below(KSM_KEPT_FRAMES);

	for (i = 0; i < KSM_KEPT_PROBES; i++)
		if (!cmpxchg(&kept[(slot + i) % KSM_KEPT_FRAMES], NULL, folio))
			return NULL;
	return xchg(&kept[slot], folio);
}

/**
 * ksm_release_frame - drop the reference to a page that has been merged
 * @folio: the page, which may still be in use
 *
 * If that is the last one, the frame is not free at once.
 *
 * Context: may sleep.
 */
void ksm_release_frame(struct folio *folio)
{
	struct folio *pushed_out;

	if (!READ_ONCE(ksm_knobs.relocate) || !ksm_strip(folio)) {
		folio_put(folio);
		return;
	}
	pushed_out = ksm_keep(folio);
	if (pushed_out)
		folio_put(pushed_out);
	queue_delayed_work(system_unbound_wq, &ksm_frames_work, KSM_KEPT_TIME);
}
