// SPDX-License-Identifier: GPL-2.0-only
/*
 * KSM: making one page of two that are equal.
 *
 * To merge is to take a page away from a process that may be writing to it,
 * or have told a device to.  The order of things is what keeps its content:
 *
 *	try to lock the page that goes
 *	try to lock the page that stays (a KSM page, nobody writes to it)
 *	write-protect it: clear the entry, look whether somebody has a
 *		reference that is not a mapping, put it back read-only, and
 *		flush the TLB before the page table lock is let go
 *	compare the bytes, which from here on cannot change; or, where there
 *		is no KSM page yet, copy them into the frame that is to be one
 *	replace the entry if it is still the same
 *
 * Nothing else makes pages equal: not a fingerprint, nor an index.
 *
 * Pages that are near each other go through these steps together, as a group,
 * so that they have two TLB flushes in common.
 */
#include <linux/hugetlb.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/mmu_notifier.h>
#include <linux/pagewalk.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include <trace/events/ksm.h>
#include <asm/tlbflush.h>
#include "internal.h"
#include "ksm_internal.h"

atomic_long_t ksm_zero_pages = ATOMIC_LONG_INIT(0);

/* ------------------------------------------------------------- looking at a page */

/* The anonymous page at an address, with a reference. */
static struct page *ksm_get_page_at(struct vm_area_struct *vma,
				    unsigned long addr)
{
	struct folio_walk fw;
	struct page *page = NULL;
	struct folio *folio = folio_walk_start(&fw, vma, addr, 0);

	if (!folio)
		return NULL;
	if (folio_test_anon(folio) && !folio_is_zone_device(folio) &&
	    !PageHWPoison(fw.page)) {
		folio_get(folio);
		page = fw.page;
	}
	folio_walk_end(&fw, vma);
	return page;
}

/* Are there references besides the mappings, the swap cache and @ours? */
static bool ksm_folio_busy(struct folio *folio, int ours)
{
	int expected = folio_mapcount(folio) + ours;

	if (folio_test_swapcache(folio))
		expected += folio_nr_pages(folio);
	return folio_ref_count(folio) != expected;
}

/*
 * Merging came to nothing.  The page may have changed, and its entry, cleaned
 * on the way, does not tell: it is to be read again.
 */
static void ksm_doubt(u64 *word)
{
	if (*word & KSM_WORD_PAGE)
		*word &= ~KSM_WORD_WATCHED;
}

/**
 * ksm_look_again - is a page still what it was when it was found?
 * @spot: where it was; its kmm->lock is held; told where the page is now
 * @fingerprint: that it had
 *
 * Only looks, so that nothing has to be undone for a page that cannot be
 * merged: one that has changed, is merged already, or is in somebody's hands.
 *
 * Context: may sleep.
 * Return: true if merging it is likely to succeed.
 */
bool ksm_look_again(struct ksm_spot *spot, u64 fingerprint)
{
	struct mm_struct *mm = spot->kmm->mm;
	struct vm_area_struct *vma;
	struct page *page = NULL;
	struct folio *folio;
	bool good = false;
	u64 *word = ksm_word(spot->kmm, spot->addr, false);

	/* Not if it was forgotten or merged since it was found */
	if (!word || !(*word & KSM_WORD_PAGE))
		return false;
	mmap_read_lock(mm);
	vma = ksm_find_vma(mm, spot->addr);
	if (vma)
		page = ksm_get_page_at(vma, spot->addr);
	if (page) {
		folio = page_folio(page);
		spot->pfn = page_to_pfn(page);
		spot->nid = page_to_nid(page);
		if (!folio_test_lru(folio))
			lru_add_drain();
		good = !folio_test_ksm(folio) && !ksm_folio_busy(folio, 1) &&
		       ksm_fingerprint(page) == fingerprint;
		folio_put(folio);
	}
	mmap_read_unlock(mm);
	if (!good)
		ksm_doubt(word);
	return good;
}

/* ---------------------------------------------------------------------- the groups */

/*
 * As many pages as are locked at a time: a fault or a migration that needs one
 * of them waits for all.
 */
#define KSM_GROUP_PAGES		32

/*
 * Secondary MMUs lose all that they map between the first and the last page of
 * a group.  That is worth it for a gap of one page, but not for a large one.
 */
#define KSM_NOTIFY_STEP		(2 * PAGE_SIZE)

/**
 * struct ksm_group - jobs that are done together
 * @vma: the area of all of them, mmap_lock held for reading; may be NULL
 * @jobs: in the order of their addresses, all in one page table
 * @nr: how many
 * @start: address of the first of those without an error
 * @end: end of the last one; 0 if there is none
 */
struct ksm_group {
	struct vm_area_struct *vma;
	struct ksm_job **jobs;
	unsigned int nr;
	unsigned long start;
	unsigned long end;
};

/*
 * The job after @job that nothing has gone wrong with; the first if @job is
 * NULL, and NULL after the last.
 */
static struct ksm_job **ksm_next_job(struct ksm_group *group,
				     struct ksm_job **job)
{
	struct ksm_job **end = group->jobs + group->nr;

	for (job = job ? job + 1 : group->jobs; job < end; job++)
		if (!(*job)->err)
			return job;
	return NULL;
}

/* ------------------------------------------------------- locking what takes part */

/*
 * The KSM page that others are to be merged into, with a reference and locked.
 *
 * Its last user may have called MADV_FREE, which makes it clean and is no
 * business of those who join now: dirty, reclaim keeps it.
 *
 * One that memory failure has struck may still be there, for those who map it.
 */
static struct folio *ksm_get_kfolio(struct ksm_stable_node *node)
{
	struct folio *kfolio = get_ksm_page(node, KSM_GET_TRYLOCK);

	if (!kfolio)
		return ERR_PTR(-ESTALE);
	if (IS_ERR(kfolio))
		return kfolio;
	if (PageHWPoison(&kfolio->page)) {
		folio_unlock(kfolio);
		folio_put(kfolio);
		return ERR_PTR(-EHWPOISON);
	}
	if (!folio_test_dirty(kfolio))
		folio_mark_dirty(kfolio);
	return kfolio;
}

/* Either may have been migrated since it was looked up. */
static bool ksm_may_meet(struct folio *folio, struct folio *kfolio)
{
	return ksm_knobs.merge_across_nodes ||
	       folio_nid(folio) == folio_nid(kfolio);
}

/*
 * Lock the KSM page of a job, if no earlier job of the group has, and see
 * whether there is room for one more.
 */
static int ksm_hold_kpage(struct ksm_group *group, struct ksm_job *job)
{
	unsigned int i, joining = 0;
	struct folio *kfolio;

	for (i = 0; group->jobs[i] != job; i++) {
		struct ksm_job *other = group->jobs[i];

		if (other->node != job->node || !other->kpage)
			continue;
		job->kpage = other->kpage;
		joining += !other->err;
	}
	if (!job->kpage) {
		kfolio = ksm_get_kfolio(job->node);
		if (IS_ERR(kfolio))
			return PTR_ERR(kfolio);
		job->kpage = &kfolio->page;
		job->locked_kpage = true;
	}
	if (job->node->nr_mappings + joining >= ksm_knobs.max_page_sharing)
		return -ENOSPC;
	return 0;
}

/*
 * Lock the page at a job's address, which must be a KSM page if that is to be
 * folded, and must not else.  If it is part of a large folio, that is split if
 * there is something to gain, which the fingerprint tells: the reference that
 * we hold goes with the page, and is the only one that a split allows.  It may
 * take long, and is not done while other pages are held: then the job is to
 * begin another group.
 */
static int ksm_hold_page(struct ksm_group *group, struct ksm_job *job)
{
	struct page *page = ksm_get_page_at(group->vma, job->spot.addr);
	bool fold = job->kind == KSM_JOB_FOLD;
	struct folio *folio;
	int err;

	if (!page)
		return -ENOENT;
	folio = page_folio(page);
	err = -EAGAIN;
	if (!folio_trylock(folio))
		goto out_put;
	err = -EEXIST;
	if (folio_test_ksm(folio) != fold)
		goto out_unlock;
	err = -ERESTART;
	if (folio_test_large(folio) && group->end)
		goto out_unlock;
	err = -EAGAIN;
	if (folio_test_large(folio) &&
	    (ksm_fingerprint(page) != job->key.fingerprint ||
	     split_huge_page(page)))
		goto out_unlock;
	job->folio = page_folio(page);
	if (!folio_test_lru(job->folio))
		lru_add_drain();
	return 0;

out_unlock:
	folio_unlock(folio);
out_put:
	folio_put(folio);
	return err;
}

/* Is the record of this page, and may it go to another KSM page? */
static bool ksm_may_fold(struct ksm_group *group, struct ksm_job *job)
{
	struct ksm_mapping *mapping = ksm_word_mapping(*job->word);

	/* The record goes with this mapping, and must not leave others behind */
	return folio_stable_node(job->folio) == mapping->node &&
	       ksm_mapping_fits(mapping, group->vma, job->spot.addr) &&
	       !ksm_mapping_needed(mapping, job->folio, group->vma);
}

/* Is the page merged, if it is to be folded, and is it not, if not? */
static bool ksm_job_due(struct ksm_job *job)
{
	if (job->kind == KSM_JOB_FOLD)
		return ksm_word_mapping(*job->word);
	return *job->word & KSM_WORD_PAGE;
}

/*
 * Is the KSM page to be a copy?  If fork has given the page, or a swap entry that
 * leads to it, to others, it is in any case: they may belong to other domains, and
 * fork gives it to a child before it keeps the parent from writing to it, by a
 * flush of the TLB that comes last.
 */
static bool ksm_copies(struct folio *folio)
{
	return READ_ONCE(ksm_knobs.relocate) || folio_mapcount(folio) > 1 ||
	       folio_test_swapcache(folio);
}

/* A place for the copy.  Without relocate that comes to be needed now and then. */
static int ksm_supply_frame(struct ksm_job *job)
{
	struct folio *kfolio = ksm_new_frame(job->spot.nid);

	if (!kfolio)
		return READ_ONCE(ksm_knobs.relocate) ? -ENOMEM : 0;
	job->kpage = &kfolio->page;
	job->locked_kpage = true;
	return 0;
}

/* Let the page go that was locked for a job. */
static void ksm_put_kpage(struct ksm_job *job)
{
	unlock_page(job->kpage);
	put_page(job->kpage);
	job->kpage = NULL;
	job->locked_kpage = false;
}

/* Allocate what a job needs, before there are locks. */
static int ksm_supply(struct ksm_job *job)
{
	job->word = ksm_word(job->spot.kmm, job->spot.addr, false);
	if (!job->word || !ksm_job_due(job))
		return -EEXIST;
	if (job->kind == KSM_JOB_FOLD || job->kind == KSM_JOB_ZERO)
		return 0;
	job->mapping = ksm_new_mapping();
	if (job->kind == KSM_JOB_SHARE)
		job->node = ksm_new_node(&job->key);
	if (!job->mapping || !job->node)
		return -ENOMEM;
	return job->kind == KSM_JOB_SHARE ? ksm_supply_frame(job) : 0;
}

/* Lock the pages of a job, if it is still to be done. */
static int ksm_hold(struct ksm_group *group, struct ksm_job *job)
{
	int err;

	if (!group->vma)
		return -ENOENT;
	if (!ksm_job_due(job))
		return -EEXIST;
	err = ksm_hold_page(group, job);
	if (!err && job->kind == KSM_JOB_ZERO)
		job->kpage = ZERO_PAGE(job->spot.addr);
	else if (!err && job->kind != KSM_JOB_SHARE)
		err = ksm_hold_kpage(group, job);
	if (err)
		return err;
	switch (job->kind) {
	case KSM_JOB_ZERO:
		return mm_forbids_zeropage(job->spot.kmm->mm) ? -EFAULT : 0;
	case KSM_JOB_FOLD:
		if (!ksm_may_fold(group, job))
			return -EAGAIN;
		fallthrough;
	case KSM_JOB_MERGE:
		return ksm_may_meet(job->folio, page_folio(job->kpage)) ?
		       0 : -EAGAIN;
	default:
		return 0;
	}
}

/* Does a job go with those that the group has? */
static bool ksm_joins(struct ksm_group *group, struct ksm_job *job)
{
	struct ksm_job *last = group->jobs[group->nr - 1];

	if (!group->vma || job->spot.addr >= group->vma->vm_end ||
	    group->nr == KSM_GROUP_PAGES)
		return false;
	/* Folds may be of one page, which is locked once */
	if (job->kind == KSM_JOB_FOLD || last->kind == KSM_JOB_FOLD)
		return false;
	if (job->spot.addr >> PMD_SHIFT != last->spot.addr >> PMD_SHIFT)
		return false;
	return !mm_has_notifiers(group->vma->vm_mm) ||
	       job->spot.addr - last->spot.addr <= KSM_NOTIFY_STEP;
}

/* ----------------------------------------------------------- changing the entries */

/* The page table of a group, locked: the entry of its first address. */
static pte_t *ksm_lock_table(struct ksm_group *group, spinlock_t **ptl)
{
	struct mm_struct *mm = group->vma->vm_mm;
	pmd_t *pmd = mm_find_pmd(mm, group->start);

	/* Takes care of a pmd that is, or becomes, a huge page's */
	return pmd ? pte_offset_map_lock(mm, pmd, group->start, ptl) : NULL;
}

/* The entry of a job; @start is that of the group's first address. */
static pte_t *ksm_job_pte(struct ksm_group *group, struct ksm_job *job,
			  pte_t *start)
{
	return start + ((job->spot.addr - group->start) >> PAGE_SHIFT);
}

/* No processor uses the entries of a group any more as they were. */
static void ksm_flush(struct ksm_group *group)
{
	/* Spares processors that are idle */
	if (group->end - group->start == PAGE_SIZE)
		flush_tlb_page(group->vma, group->start);
	else
		flush_tlb_range(group->vma, group->start, group->end);
}

/*
 * From the cleared entry on, nobody takes a reference through it: GUP-fast
 * looks at the entry again after it has taken one, and finds it changed.  So
 * the count that we see tells of all the others, and clearing the exclusive
 * mark makes those who come for a pin later ask for a copy of their own.
 *
 * Processors that have the old entry in their TLB go on writing to the page
 * until it is flushed.  Until then the page table lock keeps faults from
 * copying the page, and the folio lock keeps reclaim from writing it out: both
 * would go by an entry that says that nobody writes to it any more.
 */
static int ksm_protect(struct ksm_group *group, struct ksm_job *job,
		       pte_t *ptep, bool *flush)
{
	struct vm_area_struct *vma = group->vma;
	struct folio *folio = job->folio;
	bool exclusive = PageAnonExclusive(&folio->page);
	pte_t pte = ptep_get(ptep);

	if (!pte_present(pte) || pte_pfn(pte) != folio_pfn(folio))
		return -EAGAIN;
	if (!pte_write(pte) && !pte_dirty(pte) && !exclusive &&
	    !mm_tlb_flush_pending(vma->vm_mm)) {
		job->pte = pte;
		return 0;
	}

	flush_cache_page(vma, job->spot.addr, pte_pfn(pte));
	pte = ptep_get_and_clear(vma->vm_mm, job->spot.addr, ptep);
	/* Pairs with the atomic operation by which GUP-fast takes a reference */
	smp_mb();
	if (ksm_folio_busy(folio, 1) ||
	    (exclusive && folio_try_share_anon_rmap_pte(folio, &folio->page))) {
		set_pte_at(vma->vm_mm, job->spot.addr, ptep, pte);
		return -EAGAIN;
	}
	/* The only note that it must be written out before it may be dropped */
	if (pte_dirty(pte))
		folio_mark_dirty(folio);
	set_pte_at(vma->vm_mm, job->spot.addr, ptep,
		   pte_wrprotect(pte_mkclean(pte)));
	job->pte = ptep_get(ptep);
	*flush = true;
	return 0;
}

/* Let nobody write to the pages of a group any more. */
static void ksm_protect_all(struct ksm_group *group)
{
	struct ksm_job **job = NULL;
	bool flush = false;
	spinlock_t *ptl;	/* of the page table */
	pte_t *start = ksm_lock_table(group, &ptl);

	while ((job = ksm_next_job(group, job)))
		(*job)->err = start ? ksm_protect(group, *job,
						  ksm_job_pte(group, *job, start),
						  &flush) : -EAGAIN;
	if (!start)
		return;
	if (flush)
		ksm_flush(group);
	pte_unmap_unlock(start, ptl);
}

/*
 * The entry that maps the page that stays.  What userfaultfd and soft-dirty
 * have noted in the old one is about the address, not about the page.
 */
static pte_t ksm_new_pte(struct ksm_group *group, struct ksm_job *job)
{
	pgprot_t prot = group->vma->vm_page_prot;
	pte_t pte;

	if (job->kind == KSM_JOB_ZERO)
		/* Dirty: see is_ksm_zero_pte() */
		pte = pte_mkdirty(pte_mkspecial(pfn_pte(page_to_pfn(job->kpage),
							prot)));
	else
		pte = mk_pte(job->kpage, prot);
	if (pte_soft_dirty(job->pte))
		pte = pte_mksoft_dirty(pte);
	if (pte_uffd_wp(job->pte))
		pte = pte_mkuffd_wp(pte);
	return pte;
}

/* The old entry is gone from all TLBs: map the other page. */
static void ksm_map_kpage(struct ksm_group *group, struct ksm_job *job,
			  pte_t *ptep)
{
	struct vm_area_struct *vma = group->vma;
	struct mm_struct *mm = vma->vm_mm;

	if (job->kind == KSM_JOB_ZERO) {
		ksm_map_zero_page(mm);
		/* The zero page is nobody's anonymous page */
		dec_mm_counter(mm, MM_ANONPAGES);
	} else {
		get_page(job->kpage);
		folio_add_anon_rmap_pte(page_folio(job->kpage), job->kpage, vma,
					job->spot.addr, RMAP_NONE);
	}
	set_pte_at(mm, job->spot.addr, ptep, ksm_new_pte(group, job));
	folio_remove_rmap_pte(job->folio, &job->folio->page, vma);
	/* The mapping's reference; ours keeps the folio */
	folio_put(job->folio);
}

/* Map the KSM pages, the same in every byte, instead of the pages of a group. */
static void ksm_replace_all(struct ksm_group *group)
{
	struct vm_area_struct *vma = group->vma;
	bool flush = false;
	struct ksm_job **job = NULL;
	spinlock_t *ptl;	/* of the page table */
	pte_t *start, *ptep;

	start = ksm_lock_table(group, &ptl);
	while ((job = ksm_next_job(group, job))) {
		if (!(*job)->kpage)
			continue;
		ptep = start ? ksm_job_pte(group, *job, start) : NULL;
		if (!ptep || !pte_same(ptep_get(ptep), (*job)->pte)) {
			(*job)->err = -EAGAIN;
			continue;
		}
		flush_cache_page(vma, (*job)->spot.addr, pte_pfn((*job)->pte));
		ptep_get_and_clear(vma->vm_mm, (*job)->spot.addr, ptep);
		flush = true;
	}
	if (!start)
		return;
	if (flush)
		ksm_flush(group);
	while ((job = ksm_next_job(group, job)))
		if ((*job)->kpage)
			ksm_map_kpage(group, *job,
				      ksm_job_pte(group, *job, start));
	pte_unmap_unlock(start, ptl);
}

/* ----------------------------------------------------------------------- the steps */

/* Enter a mapping of a KSM page, which is locked, in the books. */
static void ksm_record(struct ksm_group *group, struct ksm_job *job,
		       struct anon_vma *anon_vma)
{
	ksm_link_mapping(job->mapping, job->node, anon_vma,
			 linear_page_index(group->vma, job->spot.addr));
	ksm_word_set_mapping(job->spot.kmm, job->word, job->mapping);
}

/*
 * Charge somebody for the copy of a page.  As a rule the page goes, and he is
 * charged for no more than before: that must not fail.  If fork has given it to
 * others, it stays.
 */
static int ksm_charge_copy(struct ksm_job *job, struct mm_struct *mm)
{
	struct folio *kfolio = page_folio(job->kpage);

	if (folio_mapcount(job->folio) > 1)
		return mem_cgroup_charge(kfolio, mm, GFP_NOWAIT | __GFP_NOWARN);
	mem_cgroup_replace_folio(job->folio, kfolio);
	return 0;
}

/* Make a copy of a page the KSM page, that is to be mapped instead. */
static int ksm_share_copy(struct ksm_group *group, struct ksm_job *job)
{
	struct folio *kfolio = page_folio(job->kpage);
	struct vm_area_struct *vma = group->vma;
	int err;

	if (!ksm_may_meet(job->folio, kfolio))
		return -EAGAIN;
	if (copy_mc_user_highpage(job->kpage, &job->folio->page, job->spot.addr,
				  vma))
		return -EAGAIN;
	err = ksm_index_add(job->node, folio_nid(kfolio));
	if (err)
		return err;
	folio_mark_uptodate(kfolio);
	kfolio->index = linear_page_index(vma, job->spot.addr);
	ksm_window(KSM_WINDOW_SHARE);
	ksm_make_stable(kfolio, job->node);
	err = ksm_charge_copy(job, vma->vm_mm);
	if (err)
		return err;
	folio_mark_dirty(kfolio);
	folio_add_lru(kfolio);
	return 0;
}

/* Is it still mapped where we have found it, and nowhere else? */
static bool ksm_maps_alone(struct ksm_group *group, struct ksm_job *job)
{
	spinlock_t *ptl;	/* of the page table */
	pte_t *start = ksm_lock_table(group, &ptl), *ptep;
	bool alone;

	if (!start)
		return false;
	ptep = ksm_job_pte(group, job, start);
	alone = pte_same(ptep_get(ptep), job->pte) &&
		folio_mapcount(job->folio) == 1;
	pte_unmap_unlock(start, ptl);
	return alone;
}

/*
 * Make a page the KSM page.  It is off the LRU: those who walk the rmap of an
 * ordinary page without its lock find it there, and have a reference.
 *
 * The record goes by the anon_vma the page belongs to, which reaches all
 * processes that fork may come to share it with, rather than by that of this
 * area, which may reach only some of them.
 */
static int ksm_share_in_place(struct ksm_group *group, struct ksm_job *job)
{
	struct folio *folio = job->folio;
	struct anon_vma *anon_vma = folio_anon_vma(folio);
	int err;

	if (!ksm_maps_alone(group, job) || ksm_folio_busy(folio, 2))
		return -EAGAIN;
	err = ksm_index_add(job->node, folio_nid(folio));
	if (err)
		return err;
	ksm_window(KSM_WINDOW_SHARE);
	ksm_make_stable(folio, job->node);
	/* Reclaim drops a clean page: this one is to be written out instead */
	folio_mark_dirty(folio);
	ksm_record(group, job, anon_vma);
	return 0;
}

/* Make a page, or a copy of it, a KSM page that others may be merged into. */
static int ksm_share(struct ksm_group *group, struct ksm_job *job)
{
	struct folio *folio = job->folio;
	int err;

	if (ksm_fingerprint(&folio->page) != job->key.fingerprint)
		return -EAGAIN;
	if (ksm_copies(folio))
		return job->kpage ? ksm_share_copy(group, job) : -EAGAIN;
	if (job->kpage)
		ksm_put_kpage(job);
	if (!folio_isolate_lru(folio))
		return -EAGAIN;
	err = ksm_share_in_place(group, job);
	folio_putback_lru(folio);
	if (!err)
		folio_mark_accessed(folio);
	return err;
}

/*
 * Is a page equal to the one that is to be mapped instead?  One that still has
 * the fingerprint by which it was found, and is not, will be found so again.
 */
static int ksm_compare(struct ksm_job *job)
{
	struct page *page = &job->folio->page;

	if (pages_identical(page, job->kpage))
		return 0;
	if (ksm_fingerprint(page) != job->key.fingerprint)
		return -EAGAIN;
	if (job->kind == KSM_JOB_FOLD)
		WRITE_ONCE(ksm_word_mapping(*job->word)->node->collides, true);
	return -EILSEQ;
}

/* Are the pages equal, now that nobody writes to them? */
static void ksm_compare_all(struct ksm_group *group)
{
	struct ksm_job **job = NULL;

	while ((job = ksm_next_job(group, job))) {
		/* Where caches go by virtual addresses, ours may be out of date */
		flush_anon_page(group->vma, &(*job)->folio->page,
				(*job)->spot.addr);
		(*job)->err = (*job)->kind == KSM_JOB_SHARE ?
			      ksm_share(group, *job) : ksm_compare(*job);
	}
}

/* Note what has been merged. */
static void ksm_note(struct ksm_group *group, struct ksm_job *job)
{
	switch (job->kind) {
	case KSM_JOB_SHARE:
		if (!job->kpage)
			break;
		fallthrough;
	case KSM_JOB_MERGE:
		ksm_record(group, job, group->vma->anon_vma);
		break;
	case KSM_JOB_FOLD:
		ksm_move_mapping(ksm_word_mapping(*job->word), job->folio,
				 job->node);
		break;
	case KSM_JOB_ZERO:
		ksm_set_word(job->spot.kmm, job->word, 0);
		break;
	default:
		break;
	}
}

/* Those who read traces know one error, and that no KSM page is a new one. */
static void ksm_trace(struct ksm_job *job)
{
	unsigned long pfn = job->kpage ? page_to_pfn(job->kpage) :
					 folio_pfn(job->folio);
	struct mm_struct *mm = job->spot.kmm->mm;
	int err = job->err ? -EFAULT : 0;

	switch (job->kind) {
	case KSM_JOB_ZERO:
		trace_ksm_merge_one_page(pfn, job->word, mm, err);
		break;
	case KSM_JOB_SHARE:
		trace_ksm_merge_with_ksm_page(NULL, pfn, job->mapping, mm, err);
		break;
	case KSM_JOB_MERGE:
		trace_ksm_merge_with_ksm_page(job->kpage, pfn, job->mapping,
					      mm, err);
		break;
	default:
		break;
	}
}

/*
 * A copy that was to be the KSM page, but is not mapped: others may have found
 * its node, and wait for the lock.
 */
static void ksm_let_go_copy(struct ksm_job *job)
{
	struct folio *kfolio = page_folio(job->kpage);

	if (job->kind == KSM_JOB_SHARE && job->err && folio_stable_node(kfolio))
		ksm_let_go(kfolio, job->node);
}

/* Unlock the pages of a group, and give back what was not needed. */
static void ksm_let_go_all(struct ksm_group *group)
{
	unsigned int i;

	/* Those that are locked in memory no more wait for that to be noted */
	if (group->vma && (group->vma->vm_flags & VM_LOCKED))
		lru_add_drain();
	for (i = 0; i < group->nr; i++) {
		struct ksm_job *job = group->jobs[i];

		if (!job->folio)
			continue;
		ksm_trace(job);
		if (!folio_mapped(job->folio))
			folio_free_swap(job->folio);
		folio_unlock(job->folio);
		ksm_release_frame(job->folio);
	}
	for (i = 0; i < group->nr; i++) {
		struct ksm_job *job = group->jobs[i];

		if (job->locked_kpage) {
			ksm_let_go_copy(job);
			ksm_put_kpage(job);
		}
	}
}

static void ksm_work(struct ksm_group *group)
{
	struct mmu_notifier_range range;
	struct ksm_job **job = NULL;

	ksm_window(KSM_WINDOW_PROTECT);
	mmu_notifier_range_init(&range, MMU_NOTIFY_CLEAR, 0, group->vma->vm_mm,
				group->start, group->end);
	mmu_notifier_invalidate_range_start(&range);
	ksm_protect_all(group);
	ksm_compare_all(group);
	ksm_window(KSM_WINDOW_REPLACE);
	ksm_replace_all(group);
	mmu_notifier_invalidate_range_end(&range);
	while ((job = ksm_next_job(group, job)))
		ksm_note(group, *job);
}

/* The first jobs, as many as go together.  Returns how many. */
static unsigned int ksm_do_group(struct ksm_mm *kmm, struct ksm_job **jobs,
				 unsigned int nr)
{
	struct ksm_group group = { .jobs = jobs };
	struct ksm_job *job;

	mmap_read_lock(kmm->mm);
	group.vma = ksm_find_vma(kmm->mm, jobs[0]->spot.addr);
	do {
		job = jobs[group.nr];
		if (!job->err)
			job->err = ksm_hold(&group, job);
		if (job->err == -ERESTART) {
			job->err = 0;
			break;
		}
		group.nr++;
		if (job->err)
			continue;
		if (!group.end)
			group.start = job->spot.addr;
		group.end = job->spot.addr + PAGE_SIZE;
	} while (group.nr < nr && ksm_joins(&group, jobs[group.nr]));
	if (group.end)
		ksm_work(&group);
	ksm_let_go_all(&group);
	mmap_read_unlock(kmm->mm);
	return group.nr;
}

/**
 * ksm_do_jobs - merge pages of one mm
 * @kmm: the mm, its lock held
 * @jobs: in the order of their addresses; each is told in its @err how it went
 * @nr: how many
 *
 * The errors: of the KSM page, -ESTALE if it is gone, -ENOSPC if it is full,
 * -EHWPOISON, or -EBUSY if somebody else has locked it; of the page, -ENOENT,
 * -EFAULT, -EAGAIN if it is in somebody's hands or has changed, -EILSEQ if it has
 * the fingerprint but is not equal, or -EEXIST if it is or will be found to be a
 * KSM page itself; -ENOMEM.
 *
 * Context: may sleep.
 */
void ksm_do_jobs(struct ksm_mm *kmm, struct ksm_job **jobs, unsigned int nr)
{
	unsigned int i;

	for (i = 0; i < nr; i++)
		jobs[i]->err = ksm_supply(jobs[i]);
	for (i = 0; i < nr; i += ksm_do_group(kmm, jobs + i, nr - i))
		cond_resched();
	for (i = 0; i < nr; i++) {
		if (!jobs[i]->err)
			continue;
		ksm_free_mapping(jobs[i]->mapping);
		if (jobs[i]->word)
			ksm_doubt(jobs[i]->word);
	}
}

/**
 * ksm_adopt - record a mapping of a KSM page that fork or swap-in has made
 * @spot: where it is; its kmm->lock is held, and its word is 0
 *
 * Such mappings are not held to max_page_sharing.
 *
 * Context: may sleep.
 */
void ksm_adopt(const struct ksm_spot *spot)
{
	u64 *word = ksm_word(spot->kmm, spot->addr, true);
	struct ksm_mapping *mapping = word ? ksm_new_mapping() : NULL;
	struct mm_struct *mm = spot->kmm->mm;
	struct ksm_stable_node *node = NULL;
	struct vm_area_struct *vma;
	struct folio *folio;
	struct page *page;

	if (!mapping)
		return;
	mmap_read_lock(mm);
	vma = ksm_find_vma(mm, spot->addr);
	page = vma ? ksm_get_page_at(vma, spot->addr) : NULL;
	if (page) {
		folio = page_folio(page);
		if (folio_test_ksm(folio) && folio_trylock(folio)) {
			node = folio_stable_node(folio);
			if (node && node->key.domain != spot->kmm->domain)
				node = NULL;
			if (node) {
				ksm_link_mapping(mapping, node, vma->anon_vma,
						 linear_page_index(vma, spot->addr));
				ksm_word_set_mapping(spot->kmm, word, mapping);
				trace_ksm_merge_with_ksm_page(page,
							      page_to_pfn(page),
							      mapping, mm, 0);
			}
			folio_unlock(folio);
		}
		folio_put(folio);
	}
	mmap_read_unlock(mm);
	if (!node)
		ksm_free_mapping(mapping);
}
