// SPDX-License-Identifier: GPL-2.0-only
/*
 * KSM: pages that come back from swap.
 */
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include "internal.h"
#include "ksm_internal.h"

/* May a page of the swap cache be mapped here as it is? */
static bool ksm_fits(struct folio *folio, struct vm_area_struct *area,
		     unsigned long address)
{
	struct ksm_stable_node *node;
	struct anon_vma *anon_vma;

	/*
	 * A KSM page fits where its rmap leads; but where merging has been
	 * given up it is not wanted any more.  And whoever faults may have left
	 * the page's domain while it was swapped out: only a scan tells.
	 */
	if (folio_test_ksm(folio)) {
		node = folio_stable_node(folio);
		return node && !node->key.domain &&
		       (area->vm_flags & VM_MERGEABLE) &&
		       READ_ONCE(ksm_knobs.run) != KSM_UNMERGE &&
		       !READ_ONCE(ksm_given_up) &&
		       ksm_rmap_finds(folio, area, address);
	}
	anon_vma = folio_anon_vma(folio);
	if (!anon_vma)
		return true;
	/*
	 * Else the rmap would look for it elsewhere.  Not mapped, it does not
	 * keep its anon_vma alive: that may be gone.
	 */
	return folio->index == linear_page_index(area, address) &&
	       ksm_linked(area, anon_vma);
}

/**
 * ksm_might_need_to_copy - can a page from the swap cache be mapped here?
 * @swapcache: the page, locked
 * @area: in which the fault was
 * @address: at which it was
 *
 * Sharers of a KSM page that was swapped out have its swap entry in common,
 * but the page that is read in for one of them is an ordinary one, of that
 * one's anon_vma and offset.  The others get copies, and may be merged again.
 *
 * Context: mmap_lock or the area's lock held; may sleep.
 * Return: @swapcache; a locked copy with a reference of its own; NULL without
 * memory; -EHWPOISON if what would be copied is poisoned.
 */
struct folio *ksm_might_need_to_copy(struct folio *swapcache,
				     struct vm_area_struct *area,
				     unsigned long address)
{
	struct page *source = folio_page(swapcache, 0);
	struct folio *copy;

	if (folio_test_large(swapcache) || ksm_fits(swapcache, area, address))
		return swapcache;
	if (PageHWPoison(source))
		return ERR_PTR(-EHWPOISON);
	/* The caller reports what went wrong with the read */
	if (!folio_test_uptodate(swapcache))
		return swapcache;

	copy = vma_alloc_folio(GFP_HIGHUSER_MOVABLE, 0, area, address, false);
	if (!copy)
		return NULL;
	if (mem_cgroup_charge(copy, area->vm_mm, GFP_KERNEL)) {
		folio_put(copy);
		return NULL;
	}
	if (copy_mc_user_highpage(folio_page(copy, 0), source, address, area)) {
		folio_put(copy);
		return ERR_PTR(-EHWPOISON);
	}
	folio_set_dirty(copy);
	__folio_mark_uptodate(copy);
	__folio_set_locked(copy);
#ifdef CONFIG_SWAP
	count_vm_event(KSM_SWPIN_COPY);
#endif
	return copy;
}
