// SPDX-License-Identifier: GPL-2.0-only
/*
 * KSM: giving those who share a page pages of their own again.
 */
#include <linux/highmem.h>
#include <linux/hugetlb.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/pagewalk.h>
#include <linux/rmap.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/vmstat.h>
#include <asm/tlbflush.h>
#include "internal.h"
#include "ksm_internal.h"

/* Pages that are given up at a time: meanwhile their page table is locked. */
#define KSM_BREAK_PAGES		32

/**
 * struct ksm_broken - a page that is given up for one of one's own
 * @addr: its address
 * @pte: the entry that maps it
 * @folio: the page of one's own; once that is mapped, the one given up; NULL
 *	if that was the zero page
 */
struct ksm_broken {
	unsigned long addr;
	pte_t pte;
	struct folio *folio;
};

/**
 * struct ksm_break - some pages of one page table that are given up
 * @vma: their area
 * @pmd: through which their page table is found
 * @next: address at which to go on
 * @fault: what is at @next takes a fault
 * @nr: how many of @pages are used
 * @pages: the pages
 */
struct ksm_break {
	struct vm_area_struct *vma;
	pmd_t *pmd;
	unsigned long next;
	bool fault;
	unsigned int nr;
	struct ksm_broken pages[KSM_BREAK_PAGES];
};

static bool ksm_pte_is_merged(struct vm_area_struct *vma, unsigned long addr,
			      pte_t pte)
{
	struct page *page;
	swp_entry_t entry;

	if (pte_present(pte)) {
		if (is_ksm_zero_pte(pte))
			return true;
		page = vm_normal_page(vma, addr, pte);
		/* Nobody will ever read from a poisoned one again */
		return page && PageKsm(page) && !PageHWPoison(page);
	}
	if (pte_none(pte))
		return false;
	entry = pte_to_swp_entry(pte);
	return is_migration_entry(entry) &&
	       folio_test_ksm(pfn_swap_entry_folio(entry));
}

/*
 * Is it clear what the fault would do that gives up a merged page?  Not if NUMA
 * balancing waits for one.
 */
static bool ksm_pte_is_simple(struct vm_area_struct *vma, pte_t pte)
{
	return pte_present(pte) &&
	       (!pte_protnone(pte) || !vma_is_accessible(vma));
}

/*
 * Collect entries that KSM has made and that are simple.  Stop when there are
 * enough, at the end of a page table, before the first that is not simple, or
 * where there is a reason not to go on.
 */
static int ksm_find_merged(pmd_t *pmdp, unsigned long addr, unsigned long end,
			   struct mm_walk *walk)
{
	struct ksm_break *batch = walk->private;
	pmd_t pmd = pmdp_get_lockless(pmdp);
	pte_t *start, *ptep, pte;
	spinlock_t *ptl;	/* of the page table */

	cond_resched();
	batch->next = addr;
	if (signal_pending(current) || ksm_mm_dying(walk->mm))
		return -EINTR;
	if (!pmd_present(pmd) || pmd_leaf(pmd))
		return 0;
	start = pte_offset_map_lock(walk->mm, pmdp, addr, &ptl);
	if (!start)
		return 0;
	batch->pmd = pmdp;
	for (ptep = start; addr < end; ptep++, addr += PAGE_SIZE) {
		pte = ptep_get(ptep);
		if (!ksm_pte_is_merged(walk->vma, addr, pte))
			continue;
		batch->next = addr;
		batch->fault = !ksm_pte_is_simple(walk->vma, pte);
		if (batch->fault || batch->nr == KSM_BREAK_PAGES)
			break;
		batch->pages[batch->nr].addr = addr;
		batch->pages[batch->nr++].pte = pte;
	}
	pte_unmap_unlock(start, ptl);
	return batch->nr || batch->fault;
}

static const struct mm_walk_ops ksm_find_merged_ops = {
	.pmd_entry = ksm_find_merged,
	.walk_lock = PGWALK_RDLOCK,
};

static const struct mm_walk_ops ksm_find_merged_write_ops = {
	.pmd_entry = ksm_find_merged,
	.walk_lock = PGWALK_WRLOCK,
};

/* Who says on which node the area's pages are to be, if anybody does. */
static bool ksm_has_policy(struct vm_area_struct *vma)
{
#ifdef CONFIG_NUMA
	return vma->vm_policy || current->mempolicy ||
	       (vma->vm_ops && vma->vm_ops->get_policy);
#else
	return false;
#endif
}

/*
 * To do without the pages that come after the first is no reason to kill
 * anybody: giving up the first may make room for them.  Nor is it if ksmd does
 * this, whom nobody has asked and who comes again.
 */
static gfp_t ksm_haste(unsigned int nr)
{
	return nr || (current->flags & PF_KTHREAD) ?
	       __GFP_NORETRY | __GFP_NOWARN : 0;
}

static int ksm_charge(struct folio *folio, struct mm_struct *mm,
		      unsigned int nr)
{
	/* ksmd is held up by nobody's limit unless it is reached */
	if ((current->flags & PF_KTHREAD) &&
	    !mem_cgroup_charge(folio, mm, GFP_NOWAIT))
		return 0;
	return mem_cgroup_charge(folio, mm, GFP_KERNEL | ksm_haste(nr));
}

/* Pages for the first of the batch, at least for one if there is memory. */
static unsigned int ksm_alloc_pages(struct ksm_break *batch, struct page **own)
{
	struct folio *folio;
	unsigned int i;

	if (!ksm_has_policy(batch->vma))
		return alloc_pages_bulk_array(GFP_HIGHUSER_MOVABLE |
					      ksm_haste(0), batch->nr, own);
	for (i = 0; i < batch->nr; i++) {
		folio = vma_alloc_folio(GFP_HIGHUSER_MOVABLE | ksm_haste(i), 0,
					batch->vma, batch->pages[i].addr,
					false);
		if (!folio)
			break;
		own[i] = folio_page(folio, 0);
	}
	return i;
}

/*
 * Get pages as a fault would get each of them; if memory is short, then not
 * for all of the batch.
 */
static int ksm_alloc_batch(struct ksm_break *batch)
{
	struct page *own[KSM_BREAK_PAGES] = { };
	unsigned int i, nr = ksm_alloc_pages(batch, own);
	struct folio *folio;

	for (i = 0; i < nr; i++) {
		folio = page_folio(own[i]);
		if (ksm_charge(folio, batch->vma->vm_mm, i))
			break;
		folio_throttle_swaprate(folio, GFP_KERNEL);
		batch->pages[i].folio = folio;
	}
	batch->nr = i;
	for (; i < nr; i++)
		put_page(own[i]);
	return batch->nr ? 0 : -ENOMEM;
}

/* Release what the batch has not mapped, and what it has replaced. */
static void ksm_free_batch(struct ksm_break *batch)
{
	struct folio *folio;
	unsigned int i;

	for (i = 0; i < batch->nr; i++) {
		folio = batch->pages[i].folio;
		if (!folio)
			continue;
		free_swap_cache(folio);
		folio_put(folio);
	}
}

static pte_t *ksm_ptep_of(struct ksm_break *batch, pte_t *start,
			  struct ksm_broken *page)
{
	return start + ((page->addr - batch->pages->addr) >> PAGE_SHIFT);
}

/*
 * The same entry, but perhaps of another page, which somebody has pinned: the
 * KSM page may have been freed and its memory used again since it was seen.
 */
static bool ksm_still_merged(pte_t pte)
{
	return is_zero_pfn(pte_pfn(pte)) || PageKsm(pte_page(pte));
}

static bool ksm_copy(struct ksm_broken *page, struct vm_area_struct *vma)
{
	struct page *own = folio_page(page->folio, 0);

	if (is_zero_pfn(pte_pfn(page->pte)))
		clear_user_highpage(own, page->addr);
	else if (copy_mc_user_highpage(own, pte_page(page->pte), page->addr,
				       vma))
		return false;
	/* Orders the content before the entry that maps it */
	__folio_mark_uptodate(page->folio);
	return true;
}

/*
 * Copy up to the first that has changed.  Nobody writes to a KSM page, and it
 * stays what and where it is while it is mapped here and the page table is
 * locked, so no reference is needed.  Returns how many have been copied.
 */
static unsigned int ksm_copy_batch(struct ksm_break *batch, pte_t *start)
{
	struct ksm_broken *page = batch->pages, *end = page + batch->nr;
	pte_t pte;

	for (; page < end; page++) {
		batch->next = page->addr;
		pte = ptep_get(ksm_ptep_of(batch, start, page));
		/* That it has been read meanwhile does not matter */
		if (!pte_present(pte) ||
		    !pte_same(pte_mkyoung(pte), pte_mkyoung(page->pte)) ||
		    !ksm_still_merged(pte))
			break;
		if (!ksm_copy(page, batch->vma)) {
			batch->fault = true;
			break;
		}
		batch->next += PAGE_SIZE;
	}
	return page - batch->pages;
}

/*
 * The entry of the page of one's own: not writable, for nobody has asked to
 * write.  What userfaultfd and soft-dirty have noted is about the address.
 */
static pte_t ksm_own_pte(struct ksm_broken *page, struct vm_area_struct *vma)
{
	pte_t pte = mk_pte(folio_page(page->folio, 0), vma->vm_page_prot);

	pte = pte_sw_mkyoung(pte);
	if (pte_soft_dirty(page->pte))
		pte = pte_mksoft_dirty(pte);
	if (pte_uffd_wp(page->pte))
		pte = pte_mkuffd_wp(pte);
	return pte;
}

/* Map the page of one's own; the other is to be released when that is safe. */
static void ksm_map_own(struct ksm_broken *page, struct vm_area_struct *vma,
			pte_t *ptep)
{
	struct mm_struct *mm = vma->vm_mm;
	struct folio *kfolio;

	folio_add_new_anon_rmap(page->folio, vma, page->addr, RMAP_EXCLUSIVE);
	folio_add_lru_vma(page->folio, vma);
	set_pte_at(mm, page->addr, ptep, ksm_own_pte(page, vma));
	update_mmu_cache(vma, page->addr, ptep);

	if (is_zero_pfn(pte_pfn(page->pte))) {
		ksm_might_unmap_zero_page(mm, page->pte);
		inc_mm_counter(mm, MM_ANONPAGES);
		page->folio = NULL;
		return;
	}
	kfolio = page_folio(pte_page(page->pte));
	/* Once it is not mapped any more, others may take it for theirs alone */
	folio_remove_rmap_pte(kfolio, folio_page(kfolio, 0), vma);
	page->folio = kfolio;
	count_vm_event(COW_KSM);
}

/*
 * Replace the entries of the first @nr.  All are cleared, and gone from every
 * TLB, before one is set: nobody may go on reading the old page when somebody
 * can write to the new one.
 */
static void ksm_replace_batch(struct ksm_break *batch, pte_t *start,
			      unsigned int nr)
{
	struct ksm_broken *page, *end = batch->pages + nr;
	struct vm_area_struct *vma = batch->vma;

	for (page = batch->pages; page < end; page++) {
		flush_cache_page(vma, page->addr, pte_pfn(page->pte));
		ptep_get_and_clear(vma->vm_mm, page->addr,
				   ksm_ptep_of(batch, start, page));
	}
	flush_tlb_range(vma, batch->pages->addr, end[-1].addr + PAGE_SIZE);
	for (page = batch->pages; page < end; page++)
		ksm_map_own(page, vma, ksm_ptep_of(batch, start, page));
}

/*
 * Give up the pages of a batch, as the fault of a reader who wants each for
 * himself would.  batch->next is where it has changed meanwhile, if it has.
 */
static int ksm_break_batch(struct ksm_break *batch)
{
	struct mm_struct *mm = batch->vma->vm_mm;
	struct mmu_notifier_range range;
	unsigned long first = batch->pages->addr;
	spinlock_t *ptl;	/* of the page table */
	unsigned int done;
	pte_t *ptep;

	batch->fault = false;
	if (ksm_alloc_batch(batch))
		return -ENOMEM;
	ksm_window(KSM_WINDOW_BREAK);
	mmu_notifier_range_init(&range, MMU_NOTIFY_CLEAR, 0, mm, first,
				batch->pages[batch->nr - 1].addr + PAGE_SIZE);
	mmu_notifier_invalidate_range_start(&range);
	batch->next = first;
	ptep = pte_offset_map_lock(mm, batch->pmd, first, &ptl);
	if (ptep) {
		done = ksm_copy_batch(batch, ptep);
		if (done)
			ksm_replace_batch(batch, ptep, done);
		pte_unmap_unlock(ptep, ptl);
	}
	mmu_notifier_invalidate_range_end(&range);
	ksm_free_batch(batch);
	return 0;
}

/**
 * ksm_break - give a range of an area pages of its own again
 * @vma: the area
 * @start: start of the range
 * @end: its end
 * @lock_vma: mmap_lock is held for write, and faults under the area's own
 *	lock must be kept out as well
 *
 * Each KSM page is given up as in the fault that a reader who wants the page
 * for himself would take: many at a time, or by such a fault where that does
 * not work.  A fault may have to be repeated, for example while the page is
 * migrated, so each address is looked at until it is none of ours.
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
	struct ksm_break batch;
	vm_fault_t fault;
	int found;

	if (!vma->anon_vma)
		return 0;
	batch.vma = vma;
	while (start < end) {
		if (ksm_mm_dying(vma->vm_mm))
			return 0;
		if (signal_pending(current))
			return -ERESTARTSYS;
		batch.nr = 0;
		batch.fault = false;
		found = walk_page_range_vma(vma, start, end, ops, &batch);
		if (!found)
			return 0;
		if (batch.nr && ksm_break_batch(&batch))
			return -ENOMEM;
		start = batch.next;
		if (!batch.fault)
			continue;
		fault = handle_mm_fault(vma, start, FAULT_FLAG_UNSHARE |
					FAULT_FLAG_REMOTE, NULL);
		if (fault & VM_FAULT_OOM)
			return -ENOMEM;
		/* A page that has been poisoned meanwhile, say */
		if (fault & VM_FAULT_ERROR)
			start += PAGE_SIZE;
	}
	return 0;
}

/**
 * ksm_break_spot - undo a merge that did not work out
 * @spot: the place
 * @nr: how many pages there
 *
 * Context: may sleep.
 */
void ksm_break_spot(const struct ksm_spot *spot, unsigned long nr)
{
	unsigned long addr = spot->addr, end = addr + nr * PAGE_SIZE, stop;
	struct mm_struct *mm = spot->kmm->mm;
	struct vm_area_struct *vma;

	mmap_read_lock(mm);
	for (; addr < end; addr = stop) {
		vma = ksm_find_vma(mm, addr);
		stop = vma ? min(end, vma->vm_end) : addr + PAGE_SIZE;
		if (vma && ksm_break(vma, addr, stop, false))
			break;
	}
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

/**
 * ksm_forget_mms - drop what is remembered of all mms
 *
 * Once the pages are gone: until then it would have to be found out for each
 * record whether a mapping needs it.  Those that one does need stay.
 *
 * Context: ksm_control_lock held, nobody scans, one at a time; may sleep.
 * Return: 0, or -ERESTARTSYS with part of the work done.
 */
int ksm_forget_mms(void)
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
 * Records that are needed even so, by somebody who is exiting, stay until the
 * reaper has seen him gone.
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
