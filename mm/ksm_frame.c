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
 * others push them out in no order that anybody can tell (Oliverio et al.,
 * "Secure Page Fusion with VUsion", 2017).
 */
#include <linux/memcontrol.h>
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

/* Frames of this period and of the last one; slots are changed atomically. */
static struct folio *ksm_kept[2][KSM_KEPT_FRAMES];
static unsigned int ksm_period;

static void ksm_free_kept(unsigned int period)
{
	struct folio *folio;
	int i;

	for (i = 0; i < KSM_KEPT_FRAMES; i++) {
		folio = xchg(&ksm_kept[period & 1][i], NULL);
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

	ksm_free_kept(period + 1);
	WRITE_ONCE(ksm_period, period + 1);
	if (ksm_any_kept(period))
		queue_delayed_work(system_unbound_wq, &ksm_frames_work,
				   KSM_KEPT_TIME);
}

/**
 * ksm_free_frames - give back all frames that are kept
 *
 * They cannot be moved.
 *
 * Context: any.
 */
void ksm_free_frames(void)
{
	ksm_free_kept(0);
	ksm_free_kept(1);
}

/**
 * ksm_new_frame - a page that is to be a KSM page
 * @nid: NUMA node it is to be on
 *
 * Context: may sleep.
 * Return: the page with a reference, locked, and charged to nobody; NULL
 * without memory.
 */
struct folio *ksm_new_frame(int nid)
{
	/* It takes the place of two, so it may dip into the reserves */
	const gfp_t gfp = GFP_HIGHUSER_MOVABLE | __GFP_THISNODE | __GFP_HIGH |
			  __GFP_NORETRY | __GFP_NOWARN;
	struct folio *folio = __folio_alloc_node(gfp, 0, nid);

	if (!folio)
		return NULL;
	__folio_set_locked(folio);
	__folio_set_swapbacked(folio);
	return folio;
}

/*
 * May a page be kept, which makes it one that cannot be moved?  Not where CMA or
 * hotremove want, and not if it is still a KSM page: somebody could come to map
 * it again.
 */
static bool ksm_may_keep(struct folio *folio)
{
	struct page *page = folio_page(folio, 0);

	return !folio_mapped(folio) && !folio_test_swapcache(folio) &&
	       !folio_stable_node(folio) && !is_migrate_cma_page(page) &&
	       !is_migrate_isolate_page(page);
}

/* Take a page that nobody uses any more from those who keep account of it. */
static bool ksm_strip(struct folio *folio)
{
	if (!ksm_may_keep(folio) || !folio_isolate_lru(folio))
		return false;
	/* The reference that comes with this is not needed */
	folio_put(folio);
	if (folio_ref_count(folio) != 1) {
		folio_get(folio);
		folio_putback_lru(folio);
		return false;
	}
	mem_cgroup_uncharge(folio);
	folio_clear_active(folio);
	folio_clear_unevictable(folio);
	return true;
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
	if (READ_ONCE(ksm_knobs.relocate) && ksm_strip(folio)) {
		folio = ksm_keep(folio);
		queue_delayed_work(system_unbound_wq, &ksm_frames_work,
				   KSM_KEPT_TIME);
	}
	if (folio)
		folio_put(folio);
}
