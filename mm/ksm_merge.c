// SPDX-License-Identifier: GPL-2.0-only
/*
 * KSM: making one page of two that are equal.
 *
 * To merge is to take a page away from a process that may be writing to it,
 * or have told a device to.  The order of things is what keeps its content:
 *
 *	lock the page that stays (it is a KSM page, nobody writes to it)
 *	try to lock the page that goes
 *	write-protect it: clear the entry, flush the TLB, and only then look
 *		whether somebody has a reference that is not a mapping
 *	compare the bytes, which from here on cannot change
 *	replace the entry if it is still the same
 *
 * Nothing else makes pages equal: not a fingerprint, nor an index.
 */
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

/* ------------------------------------------------- a mapping that is worked on */

/**
 * struct ksm_target - a mapping that is worked on
 * @vma: its area, mmap_lock held for reading
 * @addr: its address
 * @folio: the page found there: small, locked, with one reference of ours
 * @pte: the entry, once it is write-protected
 */
struct ksm_target {
	struct vm_area_struct *vma;
	unsigned long addr;
	struct folio *folio;
	pte_t pte;
};

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

static void ksm_put_target(struct ksm_target *target)
{
	folio_unlock(target->folio);
	folio_put(target->folio);
}

/*
 * Lock the page at an address, which must be a KSM page, or must not.  If it
 * is part of a large folio, that is split if there is something to gain, which
 * the fingerprint tells: the reference that we hold goes with the page, and is
 * the only one that a split allows.
 */
static int ksm_get_target(struct ksm_target *target, struct mm_struct *mm,
			  unsigned long addr, bool ksm, u64 fingerprint)
{
	struct page *page;

	target->addr = addr;
	target->vma = ksm_find_vma(mm, addr);
	if (!target->vma)
		return -ENOENT;
	page = ksm_get_page_at(target->vma, addr);
	if (!page)
		return -ENOENT;
	target->folio = page_folio(page);
	if (!folio_trylock(target->folio)) {
		folio_put(target->folio);
		return -EAGAIN;
	}
	if (folio_test_ksm(target->folio) != ksm) {
		ksm_put_target(target);
		return -EEXIST;
	}
	if (folio_test_large(target->folio) &&
	    (ksm_fingerprint(page) != fingerprint || split_huge_page(page))) {
		ksm_put_target(target);
		return -EAGAIN;
	}
	target->folio = page_folio(page);
	return 0;
}

/* The target's entry, locked, if it still maps the page. */
static pte_t *ksm_lock_pte(struct ksm_target *target, spinlock_t **ptl)
{
	struct mm_struct *mm = target->vma->vm_mm;
	pmd_t *pmd = mm_find_pmd(mm, target->addr);
	pte_t *ptep, pte;

	if (!pmd)
		return NULL;
	/* Takes care of a pmd that is, or becomes, a huge page's */
	ptep = pte_offset_map_lock(mm, pmd, target->addr, ptl);
	if (!ptep)
		return NULL;
	pte = ptep_get(ptep);
	if (pte_present(pte) && pte_pfn(pte) == folio_pfn(target->folio))
		return ptep;
	pte_unmap_unlock(ptep, *ptl);
	return NULL;
}

static void ksm_notify_start(struct ksm_target *target,
			     struct mmu_notifier_range *range)
{
	mmu_notifier_range_init(range, MMU_NOTIFY_CLEAR, 0,
				target->vma->vm_mm, target->addr,
				target->addr + PAGE_SIZE);
	mmu_notifier_invalidate_range_start(range);
}

/* Are there references besides the mappings, the swap cache and ours? */
static bool ksm_folio_busy(struct folio *folio)
{
	int expected = folio_mapcount(folio) + 1;

	if (folio_test_swapcache(folio))
		expected += folio_nr_pages(folio);
	return folio_ref_count(folio) != expected;
}

/*
 * From the cleared and flushed entry on, nobody takes a reference through it:
 * GUP-fast looks at the entry again after it has taken one, and finds it gone.
 * So the count that we see tells of all the others, and clearing the exclusive
 * mark makes those who come for a pin later ask for a copy of their own.
 */
static bool ksm_protect_pte(struct ksm_target *target, pte_t *ptep)
{
	struct vm_area_struct *vma = target->vma;
	struct folio *folio = target->folio;
	bool exclusive = PageAnonExclusive(&folio->page);
	pte_t pte = ptep_get(ptep);

	if (!pte_write(pte) && !pte_dirty(pte) && !exclusive &&
	    !mm_tlb_flush_pending(vma->vm_mm)) {
		target->pte = pte;
		return true;
	}

	flush_cache_page(vma, target->addr, pte_pfn(pte));
	pte = ptep_clear_flush(vma, target->addr, ptep);
	if (ksm_folio_busy(folio) ||
	    (exclusive && folio_try_share_anon_rmap_pte(folio, &folio->page))) {
		set_pte_at(vma->vm_mm, target->addr, ptep, pte);
		return false;
	}
	/* The only note that it must be written out before it may be dropped */
	if (pte_dirty(pte))
		folio_mark_dirty(folio);
	pte = pte_wrprotect(pte_mkclean(pte));
	set_pte_at(vma->vm_mm, target->addr, ptep, pte);
	target->pte = pte;
	return true;
}

/* Let nobody write to the target's page any more. */
static int ksm_protect(struct ksm_target *target)
{
	struct mmu_notifier_range range;
	spinlock_t *ptl;	/* of the page table */
	pte_t *ptep;
	int err = -EAGAIN;

	if (!folio_test_lru(target->folio))
		lru_add_drain();

	ksm_window(KSM_WINDOW_PROTECT);
	ksm_notify_start(target, &range);
	ptep = ksm_lock_pte(target, &ptl);
	if (ptep) {
		if (ksm_protect_pte(target, ptep))
			err = 0;
		pte_unmap_unlock(ptep, ptl);
	}
	mmu_notifier_invalidate_range_end(&range);
	return err;
}

/*
 * The entry that maps the page that stays.  What userfaultfd and soft-dirty
 * have noted in the old one is about the address, not about the page.
 */
static pte_t ksm_new_pte(struct ksm_target *target, struct page *kpage)
{
	pgprot_t prot = target->vma->vm_page_prot;
	pte_t pte;

	if (is_zero_pfn(page_to_pfn(kpage)))
		/* Dirty: see is_ksm_zero_pte() */
		pte = pte_mkdirty(pte_mkspecial(pfn_pte(page_to_pfn(kpage),
							prot)));
	else
		pte = mk_pte(kpage, prot);
	if (pte_soft_dirty(target->pte))
		pte = pte_mksoft_dirty(pte);
	if (pte_uffd_wp(target->pte))
		pte = pte_mkuffd_wp(pte);
	return pte;
}

/* Map @kpage, the same in every byte, instead of the target's page. */
static int ksm_replace(struct ksm_target *target, struct page *kpage)
{
	struct vm_area_struct *vma = target->vma;
	struct folio *folio = target->folio;
	struct mmu_notifier_range range;
	int err = -EAGAIN;
	spinlock_t *ptl;	/* of the page table */
	pte_t *ptep;

	ksm_window(KSM_WINDOW_REPLACE);
	ksm_notify_start(target, &range);
	ptep = ksm_lock_pte(target, &ptl);
	if (!ptep)
		goto out;
	if (!pte_same(ptep_get(ptep), target->pte))
		goto unlock;

	if (is_zero_pfn(page_to_pfn(kpage))) {
		ksm_map_zero_page(vma->vm_mm);
		/* The zero page is nobody's anonymous page */
		dec_mm_counter(vma->vm_mm, MM_ANONPAGES);
	} else {
		get_page(kpage);
		folio_add_anon_rmap_pte(page_folio(kpage), kpage, vma,
					target->addr, RMAP_NONE);
	}
	flush_cache_page(vma, target->addr, pte_pfn(target->pte));
	ptep_clear_flush(vma, target->addr, ptep);
	set_pte_at(vma->vm_mm, target->addr, ptep, ksm_new_pte(target, kpage));

	folio_remove_rmap_pte(folio, &folio->page, vma);
	if (!folio_mapped(folio))
		folio_free_swap(folio);
	/* The mapping's reference; ours keeps the folio */
	folio_put(folio);
	err = 0;
unlock:
	pte_unmap_unlock(ptep, ptl);
out:
	mmu_notifier_invalidate_range_end(&range);
	return err;
}

/* --------------------------------------------------------------------- merging */

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
		return ERR_PTR(-EBUSY);
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

/* The word of a page, unless it was forgotten or merged since it was found. */
static u64 *ksm_unmerged_word(const struct ksm_spot *spot)
{
	u64 *word = ksm_word(spot->kmm, spot->addr, false);

	return word && (*word & KSM_WORD_PAGE) ? word : NULL;
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
	u64 *word = ksm_unmerged_word(spot);

	if (!word)
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
		good = !folio_test_ksm(folio) && !ksm_folio_busy(folio) &&
		       ksm_fingerprint(page) == fingerprint;
		folio_put(folio);
	}
	mmap_read_unlock(mm);
	if (!good)
		ksm_doubt(word);
	return good;
}

/* Enter a mapping of a KSM page, which is locked, in the books. */
static void ksm_record(const struct ksm_spot *spot, u64 *word,
		       struct ksm_mapping *mapping,
		       struct ksm_stable_node *node, struct anon_vma *anon_vma,
		       pgoff_t pgoff)
{
	ksm_link_mapping(mapping, node, anon_vma, pgoff);
	ksm_word_set_mapping(spot->kmm, word, mapping);
}

/**
 * ksm_merge - map a KSM page instead of a page that is equal to it
 * @spot: where that page is; its kmm->lock is held
 * @node: the KSM page, with a reference to the node
 *
 * Context: may sleep.
 * Return: 0; -ESTALE if the KSM page is gone and -ENOSPC if it is full, so
 * that another may be tried; -EBUSY, -EAGAIN, -ENOENT, -ENOMEM for this pass,
 * or -EEXIST if the page is or will be found to be a KSM page itself.
 */
int ksm_merge(const struct ksm_spot *spot, struct ksm_stable_node *node)
{
	struct mm_struct *mm = spot->kmm->mm;
	struct ksm_target target;
	struct ksm_mapping *mapping;
	struct folio *kfolio;
	u64 *word;
	int err;

	word = ksm_unmerged_word(spot);
	if (!word)
		return -EEXIST;
	mapping = ksm_new_mapping();
	if (!mapping)
		return -ENOMEM;

	mmap_read_lock(mm);
	kfolio = ksm_get_kfolio(node);
	if (IS_ERR(kfolio)) {
		err = PTR_ERR(kfolio);
		goto out_mmap;
	}
	err = -ENOSPC;
	if (node->nr_mappings >= ksm_knobs.max_page_sharing)
		goto out_kfolio;
	err = ksm_get_target(&target, mm, spot->addr, false,
			     node->key.fingerprint);
	if (err)
		goto out_kfolio;
	err = -EAGAIN;
	if (!ksm_may_meet(target.folio, kfolio))
		goto out_target;
	err = ksm_protect(&target);
	if (err)
		goto out_target;
	err = -EAGAIN;
	if (!pages_identical(&target.folio->page, &kfolio->page))
		goto out_target;
	err = ksm_replace(&target, &kfolio->page);
	if (err)
		goto out_target;

	ksm_record(spot, word, mapping, node, target.vma->anon_vma,
		   linear_page_index(target.vma, spot->addr));
out_target:
	trace_ksm_merge_with_ksm_page(&kfolio->page, folio_pfn(kfolio),
				      mapping, mm, err);
	ksm_put_target(&target);
out_kfolio:
	folio_unlock(kfolio);
	folio_put(kfolio);
out_mmap:
	mmap_read_unlock(mm);
	if (err) {
		ksm_free_mapping(mapping);
		ksm_doubt(word);
	}
	return err;
}

/**
 * ksm_share - turn a page into a KSM page, that others may be merged into
 * @spot: where the page is; its kmm->lock is held
 * @fingerprint: that it must have
 *
 * The record goes by the anon_vma the page belongs to, which reaches all
 * processes that fork has shared it with, rather than by that of this area,
 * which may reach only some of them.
 *
 * Context: may sleep.
 * Return: the node with a reference, or NULL.
 */
struct ksm_stable_node *ksm_share(const struct ksm_spot *spot, u64 fingerprint)
{
	struct mm_struct *mm = spot->kmm->mm;
	struct ksm_stable_node *node = NULL;
	struct ksm_mapping *mapping;
	struct ksm_target target;
	struct anon_vma *anon_vma;
	int err;
	u64 *word = ksm_unmerged_word(spot);

	if (!word)
		return NULL;
	mapping = ksm_new_mapping();
	node = ksm_new_node(fingerprint);
	err = -ENOMEM;
	if (!mapping || !node)
		goto out_free;

	mmap_read_lock(mm);
	err = ksm_get_target(&target, mm, spot->addr, false, fingerprint);
	if (err)
		goto out_mmap;
	err = ksm_protect(&target);
	if (err)
		goto out_target;
	err = -EAGAIN;
	if (ksm_fingerprint(&target.folio->page) != fingerprint)
		goto out_target;
	/*
	 * Whoever has a reference may be about to walk the rmap without the
	 * lock, as that of an ordinary page.
	 */
	if (ksm_folio_busy(target.folio))
		goto out_target;
	err = ksm_index_add(node, folio_nid(target.folio));
	if (err)
		goto out_target;

	anon_vma = folio_anon_vma(target.folio);
	ksm_window(KSM_WINDOW_SHARE);
	ksm_make_stable(target.folio, node);
	folio_mark_accessed(target.folio);
	/* Reclaim drops a clean page: this one is to be written out instead */
	folio_mark_dirty(target.folio);
	ksm_record(spot, word, mapping, node, anon_vma,
		   linear_page_index(target.vma, spot->addr));
out_target:
	trace_ksm_merge_with_ksm_page(NULL, folio_pfn(target.folio), mapping,
				      mm, err);
	ksm_put_target(&target);
out_mmap:
	mmap_read_unlock(mm);
out_free:
	if (err) {
		ksm_free_mapping(mapping);
		ksm_doubt(word);
		if (node)
			ksm_put_node(node);
		node = NULL;
	}
	return node;
}

/**
 * ksm_merge_zero - map the kernel's zero page instead of an empty page
 * @spot: where the page is; its kmm->lock is held
 * @fingerprint: of empty pages
 *
 * Context: may sleep.
 * Return: 0 or an error.
 */
int ksm_merge_zero(const struct ksm_spot *spot, u64 fingerprint)
{
	struct page *zero = ZERO_PAGE(spot->addr);
	struct mm_struct *mm = spot->kmm->mm;
	struct ksm_target target;
	u64 *word;
	int err;

	mmap_read_lock(mm);
	err = -EFAULT;
	if (mm_forbids_zeropage(mm))
		goto out_mmap;
	err = ksm_get_target(&target, mm, spot->addr, false, fingerprint);
	if (err)
		goto out_mmap;
	err = ksm_protect(&target);
	if (err)
		goto out_target;
	err = -EAGAIN;
	if (pages_identical(&target.folio->page, zero))
		err = ksm_replace(&target, zero);
out_target:
	ksm_put_target(&target);
	word = ksm_word(spot->kmm, spot->addr, false);
	trace_ksm_merge_one_page(page_to_pfn(zero), word, mm, err);
	if (err && word)
		ksm_doubt(word);
	else if (word)
		ksm_set_word(spot->kmm, word, 0);
out_mmap:
	mmap_read_unlock(mm);
	return err;
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
			if (node) {
				ksm_record(spot, word, mapping, node,
					   vma->anon_vma,
					   linear_page_index(vma, spot->addr));
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

/* Map @kfolio instead of the KSM page that the record is of. */
static void ksm_fold_into(struct ksm_target *target,
			  struct ksm_mapping *mapping, struct folio *kfolio,
			  struct ksm_stable_node *node)
{
	struct ksm_stable_node *old = mapping->node;

	if (folio_stable_node(target->folio) != old ||
	    node->nr_mappings >= ksm_knobs.max_page_sharing)
		return;
	if (!ksm_may_meet(target->folio, kfolio))
		return;
	/* The record goes with this mapping, and must not leave others behind */
	if (!ksm_mapping_fits(mapping, target->vma, target->addr) ||
	    ksm_mapping_needed(mapping, target->folio, target->vma))
		return;
	if (ksm_protect(target) ||
	    !pages_identical(&target->folio->page, &kfolio->page))
		return;
	if (!ksm_replace(target, &kfolio->page))
		ksm_move_mapping(mapping, target->folio, node);
}

/**
 * ksm_fold - map another KSM page of the same content, to give this one up
 * @spot: where it is mapped, and recorded; its kmm->lock is held
 *
 * Context: may sleep.
 */
void ksm_fold(const struct ksm_spot *spot)
{
	u64 *word = ksm_word(spot->kmm, spot->addr, false);
	struct ksm_mapping *mapping = word ? ksm_word_mapping(*word) : NULL;
	struct mm_struct *mm = spot->kmm->mm;
	struct ksm_stable_node *node;
	struct ksm_target target;
	struct folio *kfolio;

	node = mapping ? ksm_index_find_fold(mapping->node) : NULL;
	if (!node)
		return;
	mmap_read_lock(mm);
	kfolio = ksm_get_kfolio(node);
	if (!IS_ERR(kfolio)) {
		if (!ksm_get_target(&target, mm, spot->addr, true,
				    node->key.fingerprint)) {
			ksm_fold_into(&target, mapping, kfolio, node);
			ksm_put_target(&target);
		}
		folio_unlock(kfolio);
		folio_put(kfolio);
	}
	mmap_read_unlock(mm);
	ksm_put_node(node);
}

/* --------------------------------------------------------------------- swap-in */

/* May a page of the swap cache be mapped here as it is? */
static bool ksm_fits(struct folio *folio, struct vm_area_struct *area,
		     unsigned long address)
{
	struct anon_vma *anon_vma;

	/*
	 * A KSM page fits where its rmap leads; but where merging has been
	 * given up it is not wanted any more.
	 */
	if (folio_test_ksm(folio))
		return (area->vm_flags & VM_MERGEABLE) &&
		       READ_ONCE(ksm_knobs.run) != KSM_UNMERGE &&
		       ksm_rmap_finds(folio, area, address);
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
