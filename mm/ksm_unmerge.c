// SPDX-License-Identifier: GPL-2.0-only
/*
 * KSM: giving those who share a page pages of their own again.
 */
#include <linux/mm.h>
#include <linux/pagewalk.h>
#include <linux/rmap.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include "internal.h"
#include "ksm_internal.h"

static bool ksm_pte_is_merged(struct vm_area_struct *vma, unsigned long addr,
			      pte_t pte)
{
	struct page *page;
	swp_entry_t entry;

	if (pte_present(pte)) {
		if (is_ksm_zero_pte(pte))
			return true;
		page = vm_normal_page(vma, addr, pte);
		return page && PageKsm(page);
	}
	if (pte_none(pte))
		return false;
	entry = pte_to_swp_entry(pte);
	return is_migration_entry(entry) &&
	       folio_test_ksm(pfn_swap_entry_folio(entry));
}

/*
 * Stop at the first entry that KSM has made, or where there is a reason not to
 * go on; walk->private is set to the address.
 */
static int ksm_find_merged(pmd_t *pmdp, unsigned long addr, unsigned long end,
			   struct mm_walk *walk)
{
	pmd_t pmd = pmdp_get_lockless(pmdp);
	pte_t *start, *ptep;
	spinlock_t *ptl;	/* of the page table */
	int found = 0;

	cond_resched();
	if (signal_pending(current) || ksm_mm_dying(walk->mm)) {
		*(unsigned long *)walk->private = addr;
		return -EINTR;
	}
	if (!pmd_present(pmd) || pmd_leaf(pmd))
		return 0;
	start = pte_offset_map_lock(walk->mm, pmdp, addr, &ptl);
	if (!start)
		return 0;
	for (ptep = start; addr < end; ptep++, addr += PAGE_SIZE) {
		if (!ksm_pte_is_merged(walk->vma, addr, ptep_get(ptep)))
			continue;
		*(unsigned long *)walk->private = addr;
		found = 1;
		break;
	}
	pte_unmap_unlock(start, ptl);
	return found;
}

static const struct mm_walk_ops ksm_find_merged_ops = {
	.pmd_entry = ksm_find_merged,
	.walk_lock = PGWALK_RDLOCK,
};

static const struct mm_walk_ops ksm_find_merged_write_ops = {
	.pmd_entry = ksm_find_merged,
	.walk_lock = PGWALK_WRLOCK,
};

/**
 * ksm_break - give a range of an area pages of its own again
 * @vma: the area
 * @start: start of the range
 * @end: its end
 * @lock_vma: mmap_lock is held for write, and faults under the area's own
 *	lock must be kept out as well
 *
 * Each KSM page is broken by the fault that a reader who wants the page for
 * himself would take.  A fault may have to be repeated, for example while the
 * page is migrated, so each address is looked at until it is none of ours.
 *
 * What KSM remembers of the pages is left for the next scan to find outdated.
 *
 * Context: mmap_lock held; may sleep, and allocates memory.
 * Return: 0; -ENOMEM; -ERESTARTSYS if a signal came.
 */
int ksm_break(struct vm_area_struct *vma, unsigned long start,
	      unsigned long end, bool lock_vma)
{
	const struct mm_walk_ops *ops = lock_vma ? &ksm_find_merged_write_ops :
						   &ksm_find_merged_ops;
	vm_fault_t fault;
	int found;

	if (!vma->anon_vma)
		return 0;
	while (start < end) {
		if (ksm_mm_dying(vma->vm_mm))
			return 0;
		if (signal_pending(current))
			return -ERESTARTSYS;
		found = walk_page_range_vma(vma, start, end, ops, &start);
		if (!found)
			return 0;
		if (found < 0)
			continue;
		fault = handle_mm_fault(vma, start, FAULT_FLAG_UNSHARE |
					FAULT_FLAG_REMOTE, NULL);
		if (fault & VM_FAULT_OOM)
			return -ENOMEM;
		/* A poisoned page, say: nobody will ever read from it again */
		if (fault & VM_FAULT_ERROR)
			start += PAGE_SIZE;
	}
	return 0;
}

/**
 * ksm_break_spot - undo a merge that did not work out
 * @spot: the place
 *
 * Context: may sleep.
 */
void ksm_break_spot(const struct ksm_spot *spot)
{
	struct mm_struct *mm = spot->kmm->mm;
	struct vm_area_struct *vma;

	mmap_read_lock(mm);
	vma = ksm_find_vma(mm, spot->addr);
	if (vma)
		ksm_break(vma, spot->addr, spot->addr + PAGE_SIZE, false);
	mmap_read_unlock(mm);
}

/* All areas of an mm that take part. */
static int ksm_unmerge_mm(struct ksm_mm *kmm)
{
	struct mm_struct *mm = kmm->mm;
	struct vm_area_struct *vma;
	struct vma_iterator vmi;
	int err = 0;

	mmap_read_lock(mm);
	/* The tree of areas of a dying mm may be half gone */
	if (!ksm_mm_dying(mm)) {
		vma_iter_init(&vmi, mm, 0);
		for_each_vma(vmi, vma) {
			if (!(vma->vm_flags & VM_MERGEABLE))
				continue;
			err = ksm_break(vma, vma->vm_start, vma->vm_end, false);
			if (err)
				break;
		}
	}
	mmap_read_unlock(mm);
	return err;
}

/**
 * struct ksm_user - somebody who maps a KSM page
 * @mm: his address space, with a reference to its users; NULL if there is none
 * @addr: the page's address in it
 */
struct ksm_user {
	struct mm_struct *mm;
	unsigned long addr;
};

static bool ksm_take_user(struct folio *kfolio, struct vm_area_struct *vma,
			  unsigned long addr, void *arg)
{
	struct ksm_user *user = arg;

	if (!ksm_maps(kfolio, vma, addr) || ksm_mm_dying(vma->vm_mm) ||
	    !mmget_not_zero(vma->vm_mm))
		return true;
	user->mm = vma->vm_mm;
	user->addr = addr;
	return false;
}

/* Somebody who maps the page of a node. */
static struct ksm_user ksm_find_user(struct ksm_stable_node *node)
{
	struct ksm_user user = { .mm = NULL };
	struct rmap_walk_control control = {
		.rmap_one	= ksm_take_user,
		.arg		= &user,
	};
	struct folio *kfolio = get_ksm_page(node, KSM_GET_LOCK);

	if (kfolio) {
		rmap_walk_ksm(kfolio, &control);
		folio_unlock(kfolio);
		folio_put(kfolio);
	}
	return user;
}

/*
 * A KSM page may also be mapped in areas that do not take part: by those who
 * have shared a page by fork with somebody who does.
 */
static int ksm_unmerge_node(struct ksm_stable_node *node, void *unused)
{
	struct ksm_user user, last = { .mm = NULL };
	struct vm_area_struct *vma;
	int err = 0;

	while (!err) {
		user = ksm_find_user(node);
		if (!user.mm)
			break;
		/* A poisoned page, say, that cannot be broken */
		if (user.mm == last.mm && user.addr == last.addr) {
			mmput_async(user.mm);
			break;
		}
		last = user;
		mmap_read_lock(user.mm);
		vma = vma_lookup(user.mm, user.addr);
		if (vma)
			err = ksm_break(vma, user.addr, user.addr + PAGE_SIZE,
					false);
		mmap_read_unlock(user.mm);
		/* To take it down, if it comes to that, is for others to do */
		mmput_async(user.mm);
		cond_resched();
	}
	return err;
}

/* All that take part.  A child that is forked meanwhile joins the end of the list. */
static int ksm_unmerge_mms(void)
{
	struct ksm_mm *kmm;
	int err = 0;

	ksm_sweep_mms();
	for (kmm = ksm_next_mm(NULL); kmm; kmm = ksm_next_mm(kmm)) {
		mutex_lock(&kmm->lock);
		err = ksm_unmerge_mm(kmm);
		mutex_unlock(&kmm->lock);
		if (err) {
			ksm_put_mm(kmm);
			break;
		}
		cond_resched();
	}
	return err;
}

/*
 * Once the pages are gone: until then it would have to be found out for each
 * record whether a mapping needs it.
 */
static int ksm_forget_mms(void)
{
	struct ksm_mm *kmm;

	ksm_sweep_mms();
	for (kmm = ksm_next_mm(NULL); kmm; kmm = ksm_next_mm(kmm)) {
		if (signal_pending(current)) {
			ksm_put_mm(kmm);
			return -ERESTARTSYS;
		}
		mutex_lock(&kmm->lock);
		ksm_forget(kmm, 0, ULONG_MAX, KSM_DROP_WAIT, NULL);
		kmm->scan_addr = 0;
		mutex_unlock(&kmm->lock);
		cond_resched();
	}
	return 0;
}

/**
 * ksm_unmerge_all - give everybody pages of his own again, forget everything
 *
 * Records that are needed even so, by somebody who is exiting, stay.
 *
 * Context: ksm_control_lock held for write; may sleep for long.
 * Return: 0; -ENOMEM or -ERESTARTSYS, with part of the work done.
 */
int ksm_unmerge_all(void)
{
	int err, forget_err;

	err = ksm_unmerge_mms();
	if (!err)
		err = ksm_index_for_each(ksm_unmerge_node, NULL);
	forget_err = ksm_forget_mms();
	return err ?: forget_err;
}
