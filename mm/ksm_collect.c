// SPDX-License-Identifier: GPL-2.0-only
/*
 * KSM: collecting the pages of a batch.
 *
 * Page tables are walked under mmap_lock, and under each page table's lock for
 * a few entries at a time, so that no fault waits for long.  Pages that are to
 * be read are held by a reference until that is done; what needs not be read is
 * only counted, unless it looks like another page.
 */
#include <linux/bitfield.h>
#include <linux/hugetlb.h>
#include <linux/mmu_notifier.h>
#include <linux/pagewalk.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include "internal.h"
#include "ksm_internal.h"

#define KSM_BATCH_ENTRIES	8192	/* looked at under one mmap_lock */
#define KSM_WATCH_PAGES		16	/* for which a TLB flush is worth while */
#define KSM_READ_PASSES		64	/* in one of which a page is read anyway */

static bool ksm_batch_enough(struct ksm_batch *batch)
{
	return batch->nr == KSM_BATCH_PAGES || batch->scanned >= batch->limit;
}

static bool ksm_batch_full(struct ksm_batch *batch)
{
	return ksm_batch_enough(batch) || batch->entries >= KSM_BATCH_ENTRIES;
}

static struct ksm_found *ksm_found(struct ksm_batch *batch,
				   enum ksm_found_kind kind, unsigned long addr)
{
	struct ksm_found *found = &batch->found[batch->nr++];

	found->kind = kind;
	found->addr = addr;
	found->page = NULL;
	found->watched = false;
	found->dirty = false;
	found->locked = false;
	return found;
}

/* For how many passes a page is left alone that has failed to merge so often. */
static unsigned int ksm_skips_for_age(unsigned int age)
{
	static const u8 skips[] = { 1, 1, 1, 1, 2, 2, 4, 4, 4 };

	return age < ARRAY_SIZE(skips) ? skips[age] : 8;
}

/* Smart scan: is it this page's turn to be left alone?  Counts its visits. */
static bool ksm_skip_page(u64 *word)
{
	unsigned int age, skips;
	bool skip = false;

	if (!(*word & KSM_WORD_PAGE))
		return false;

	age = FIELD_GET(KSM_WORD_AGE, *word);
	skips = FIELD_GET(KSM_WORD_SKIPS, *word);
	if (age >= 3) {
		skip = skips;
		skips = skip ? skips - 1 : ksm_skips_for_age(age);
	}
	if (age < FIELD_MAX(KSM_WORD_AGE))
		age++;
	*word &= ~(KSM_WORD_AGE | KSM_WORD_SKIPS);
	*word |= FIELD_PREP(KSM_WORD_AGE, age) |
		 FIELD_PREP(KSM_WORD_SKIPS, skips);
	return skip;
}

/* Does a page have tags beside its content, which merging it would lose? */
static bool ksm_page_has_tags(struct page *page)
{
#ifdef CONFIG_ARM64_MTE
	return page_mte_tagged(page);
#else
	return false;
#endif
}

/*
 * Where the processor marks the entry when somebody writes to a page, a page
 * that has kept still for some passes is watched: ksmd cleans the entry before it
 * reads the page once more, and for as long as the entry is clean there is no
 * need to read it again.  The folio must be told that it is dirty, or reclaim
 * takes it for clean.
 *
 * Until the TLB has been flushed, a processor that still takes the entry for a
 * dirty one writes without marking it.  Nobody may go by the mark so long.  Nor
 * should a fault wait for the flush, so it is done after the page table lock has
 * been let go.  What keeps the others away:
 *
 * - The folio lock.  Reclaim, which need not flush for a clean entry before it
 *   writes the page out (set_tlb_ubc_flush_pending()), migration, which makes of
 *   the mark one of its own, splitting a folio, and UFFDIO_MOVE take it before
 *   they touch the entry.  MADV_FREE, which takes the mark away, tries it if the
 *   folio is dirty, as it is by then, or is huge.  So does whoever takes the dirty
 *   mark from the folio.  Here it is only tried, too.
 * - mmap_lock, held for reading until the flush is over.  fork, mremap, mprotect
 *   and khugepaged take it for writing.
 * - Who unmaps the page, makes small entries of a huge one or breaks its sharing
 *   flushes whether the entry is clean or not.  The page does not come back to
 *   the address meanwhile, or its entry is a new one.
 * - page_referenced() and NUMA hints leave the mark alone.
 *
 * For the rest there is mm_tlb_flush_pending(), which makes those who find the
 * entry as they want it flush all the same.
 *
 * The flush costs those who use the memory more than reading a page costs ksmd:
 * so pages are watched where all that is read of a stretch keeps still, and
 * several at a time, or else when it is time to read the stretch anyway.  Only
 * then are pages watched again that were written to with what they had already.
 *
 * What devices, a virtual machine or the kernel itself write leaves no mark in
 * the entry: hence no pinned pages and no mm with secondary MMUs.  And another
 * page may have come to the address, with a clean entry, by mremap() or from
 * swap.  So every page is read now and then all the same.  To miss a change for
 * so long delays a merge, and no more.
 */
static bool ksm_mm_watches(struct mm_struct *mm)
{
#ifdef CONFIG_MIGRATION
	/* Migration would lose the mark */
	if (!migration_entry_supports_ad())
		return false;
#endif
	return IS_ENABLED(CONFIG_X86) && !mm_has_notifiers(mm);
}

/* For how many passes had the page kept still when it was last read? */
static unsigned int ksm_page_still(const u64 *word)
{
	if (!word || !(*word & KSM_WORD_PAGE))
		return 0;
	return FIELD_GET(KSM_WORD_STILL, *word);
}

/*
 * How many passes ago was it time to read what is at an address?  Pages take
 * turns, by stretches of so many bits of an address.
 */
static unsigned int ksm_turn(struct ksm_batch *batch, unsigned long addr,
			     unsigned int shift)
{
	return ((addr >> shift) + batch->turn) % KSM_READ_PASSES;
}

/* Is it time to read a page that is watched? */
static bool ksm_page_due(struct ksm_batch *batch, u64 word)
{
	unsigned int skips = 0;

	/* The more passes it misses, the more of the others will do */
	if (batch->smart_scan)
		skips = ksm_skips_for_age(FIELD_GET(KSM_WORD_AGE, word));
	return batch->due <= skips;
}

/* The entry is clean; is the page what the word says? */
static bool ksm_word_known(struct ksm_batch *batch, u64 word)
{
	const u64 known = KSM_WORD_PAGE | KSM_WORD_WATCHED;

	return (word & (known | KSM_WORD_MAPPING)) == known &&
	       (word & KSM_WORD_STILL) && !ksm_page_due(batch, word);
}

/* There may be something for a page to be merged with that is not read. */
static noinline void ksm_collect_seen(struct ksm_batch *batch,
				      struct page *page, unsigned long addr,
				      u64 fingerprint)
{
	struct ksm_found *found = ksm_found(batch, KSM_FOUND_KNOWN, addr);

	found->fingerprint = fingerprint;
	found->pfn = page_to_pfn(page);
	found->nid = page_to_nid(page);
}

/* A page that is not read, and in most cases not looked at more closely. */
static __always_inline void ksm_collect_known(struct ksm_batch *batch,
					      struct page *page,
					      unsigned long addr, u64 word)
{
	u64 fingerprint = word & KSM_WORD_FINGERPRINT;

	if ((ksm_seen(ksm_filter_mark(batch, fingerprint)) &&
	     !batch->collides) ||
	    (batch->use_zero_pages && ksm_is_zero_fingerprint(fingerprint)))
		ksm_collect_seen(batch, page, addr, fingerprint);
}

/* A page that is to be read. */
static struct ksm_found *ksm_collect_unread(struct ksm_batch *batch,
					    struct page *page,
					    unsigned long addr)
{
	struct ksm_found *found = ksm_found(batch, KSM_FOUND_PAGE, addr);

	get_page(page);
	found->page = page;
	found->pfn = page_to_pfn(page);
	found->nid = page_to_nid(page);
	return found;
}

/* An anonymous page, and not a KSM page: in one look. */
static __always_inline bool ksm_folio_unmerged(struct folio *folio)
{
	unsigned long mapping = (unsigned long)READ_ONCE(folio->mapping);

	return (mapping & PAGE_MAPPING_FLAGS) == PAGE_MAPPING_ANON;
}

/*
 * A page whose entry says that nobody has written to it: if it is what its word
 * says, that is all, as it is for most pages.
 */
static __always_inline bool ksm_pass_page(struct ksm_batch *batch,
					  struct page *page, unsigned long addr,
					  u64 *word)
{
	struct folio *folio = page_folio(page);

	if (!ksm_folio_unmerged(folio) || folio_is_zone_device(folio) ||
	    PageHWPoison(page) || ksm_page_has_tags(page) ||
	    folio_maybe_dma_pinned(folio))
		return false;
	if (batch->smart_scan && ksm_skip_page(word))
		batch->skipped++;
	ksm_collect_known(batch, page, addr, *word);
	return true;
}

/* So many pages have been passed over, and so many had been skipped before. */
static void ksm_count_passed(struct ksm_batch *batch, unsigned int passed,
			     unsigned int skipped)
{
	passed -= batch->skipped - skipped;
	batch->scanned += passed;
	batch->unchanged += passed;
}

/*
 * Pass over such pages from an entry on; returns how many.  This is all that
 * ksmd does where nobody writes, so it is apart from the rest, and short.
 */
static noinline unsigned int ksm_pass_over(struct ksm_batch *batch,
					   pte_t *ptep, unsigned long addr,
					   unsigned long end, u64 *word)
{
	unsigned int skipped = batch->skipped;
	pte_t *start = ptep, *stop, pte;

	stop = ptep + min((end - addr) >> PAGE_SHIFT,
			  (unsigned long)batch->limit - batch->scanned);
	for (; ptep < stop && batch->nr < KSM_BATCH_PAGES;
	     ptep++, word++, addr += PAGE_SIZE) {
		pte = ptep_get(ptep);
		if (!pte_present(pte) || pte_dirty(pte) ||
		    !ksm_word_known(batch, *word))
			break;
		/* No area that takes part maps memory without a struct page */
		if (pte_special(pte) ||
		    !ksm_pass_page(batch, pte_page(pte), addr, word))
			break;
	}
	ksm_count_passed(batch, ptep - start, skipped);
	return ptep - start;
}

/*
 * Has a KSM page been merged among those whom the mm has nothing to do with any
 * more?  It is mapped, and not unmapped before the page table lock is let go: so
 * its node is there.
 */
static bool ksm_is_foreign(struct ksm_mm *kmm, struct folio *kfolio)
{
	struct ksm_stable_node *node = folio_stable_node(kfolio);

	return node && node->key.domain != kmm->domain;
}

/* A KSM page: is there anything to be done about it? */
static void ksm_collect_kpage(struct ksm_batch *batch,
			      struct vm_area_struct *vma, struct folio *kfolio,
			      unsigned long addr, const u64 *word)
{
	struct ksm_mapping *mapping = word ? ksm_word_mapping(*word) : NULL;
	bool recorded = mapping && mapping->node == folio_stable_node(kfolio) &&
			ksm_mapping_fits(mapping, vma, addr);

	if (ksm_is_foreign(batch->kmm, kfolio))
		ksm_found(batch, KSM_FOUND_FOREIGN, addr);
	else if (!recorded)
		ksm_found(batch, KSM_FOUND_KSM, addr);
	else if (ksm_folding(mapping->node))
		ksm_found(batch, KSM_FOUND_FOLD, addr);
}

/*
 * A present page, under the page table lock.  Returns what was found if the page
 * is to be read.
 */
static struct ksm_found *ksm_collect_page(struct ksm_batch *batch,
					  struct vm_area_struct *vma,
					  struct page *page, unsigned long addr,
					  u64 *word)
{
	struct folio *folio = page ? page_folio(page) : NULL;

	if (!folio || !folio_test_anon(folio) || folio_is_zone_device(folio) ||
	    PageHWPoison(page) || ksm_page_has_tags(page)) {
		if (word && *word)
			ksm_found(batch, KSM_FOUND_GONE, addr);
		return NULL;
	}

	if (batch->smart_scan && word && !folio_test_ksm(folio) &&
	    ksm_skip_page(word)) {
		batch->skipped++;
		ksm_collect_known(batch, page, addr, *word);
		return NULL;
	}

	batch->scanned++;
	if (folio_test_ksm(folio)) {
		ksm_collect_kpage(batch, vma, folio, addr, word);
		return NULL;
	}
	/*
	 * Somebody is writing to merged pages.  End the batch, so that the next
	 * ones are looked at when we get to them, and found changed in this
	 * pass rather than in the next.
	 */
	if (word && (*word & KSM_WORD_MAPPING))
		batch->limit = batch->scanned;
	return ksm_collect_unread(batch, page, addr);
}

/* An entry without a page, under the page table lock. */
static void ksm_collect_nothing(struct ksm_batch *batch, pte_t pte,
				unsigned long addr, u64 *word)
{
	enum ksm_found_kind kind = KSM_FOUND_GONE;

	if (!word || !*word)
		return;
	if (!pte_none(pte)) {
		swp_entry_t entry = pte_to_swp_entry(pte);

		/* The page is on its way, and the mapping will be back */
		if (is_migration_entry(entry))
			return;
		/* It may come back from the swap cache as the same KSM page */
		if (!non_swap_entry(entry) && (*word & KSM_WORD_MAPPING))
			kind = KSM_FOUND_SWAPPED;
	}
	ksm_found(batch, kind, addr);
}

/* An entry, under the page table lock. */
static void ksm_collect_pte(struct ksm_batch *batch, struct vm_area_struct *vma,
			    pte_t pte, unsigned long addr, u64 *word)
{
	bool clean = batch->watches && !pte_dirty(pte);
	struct ksm_found *found;
	unsigned int still;
	struct page *page;

	if (!pte_present(pte)) {
		ksm_collect_nothing(batch, pte, addr, word);
		return;
	}
	page = vm_normal_page(vma, addr, pte);
	found = ksm_collect_page(batch, vma, page, addr, word);
	if (!found || !batch->watches ||
	    folio_maybe_dma_pinned(page_folio(page)))
		return;
	found->watched = clean;
	if (clean || (word && (*word & KSM_WORD_WATCHED)))
		return;
	still = ksm_page_still(word);
	found->dirty = still == KSM_STILL_WATCH ||
		       (still == KSM_STILL_REWRITTEN &&
			ksm_page_due(batch, *word));
}

/* Which entries of a stretch to clean: all that could be, or none? */
static bool ksm_stretch_dirty(struct ksm_batch *batch, struct ksm_found *found)
{
	unsigned int dirty = 0;
	bool still = true;

	for (; found < batch->found + batch->nr; found++) {
		if (found->kind != KSM_FOUND_PAGE)
			continue;
		/* Or else written to lately, or pinned */
		still = still && (found->watched || found->dirty);
		dirty += found->dirty;
	}
	return batch->due ? still && dirty >= KSM_WATCH_PAGES : dirty;
}

/*
 * Clean entries of a stretch; @ptep is that of @addr.  Those folios are left
 * locked; where that is not possible, the entry stays dirty for now.
 */
static void ksm_watch_stretch(struct ksm_batch *batch,
			      struct vm_area_struct *vma, pte_t *ptep,
			      unsigned long addr, struct ksm_found *found)
{
	struct folio *folio, *locked = NULL;
	bool pending = false;

	for (; found < batch->found + batch->nr; found++) {
		if (!found->dirty)
			continue;
		folio = page_folio(found->page);
		/* Several pages of a large folio come one after another */
		if (folio != locked) {
			found->locked = folio_trylock(folio);
			found->dirty = found->locked;
			if (!found->locked)
				continue;
			locked = folio;
		}
		if (!pending)
			inc_tlb_flush_pending(vma->vm_mm);
		pending = true;
		clear_young_dirty_ptes(vma, found->addr, ptep +
				       ((found->addr - addr) >> PAGE_SHIFT), 1,
				       CYDP_CLEAR_DIRTY);
		folio_mark_dirty(folio);
		found->watched = true;
	}
}

/*
 * No processor has those entries of a stretch that have been cleaned as dirty
 * ones any more.  Nobody waits for this: the page table lock has been let go.
 */
static void ksm_flush_stretch(struct ksm_batch *batch,
			      struct vm_area_struct *vma,
			      struct ksm_found *found)
{
	struct ksm_found *end = batch->found + batch->nr, *at;
	unsigned long from = ULONG_MAX, to = 0;

	for (at = found; at < end; at++) {
		if (!at->dirty)
			continue;
		from = min(from, at->addr);
		to = at->addr + PAGE_SIZE;
	}
	if (!to)
		return;
	flush_tlb_range(vma, from, to);
	dec_tlb_flush_pending(vma->vm_mm);
	for (at = found; at < end; at++)
		if (at->locked)
			folio_unlock(page_folio(at->page));
}

/*
 * A few entries, all of them of one chunk.  ksmd may do little else than this,
 * where pages are known, and a fault waits for the page table lock so long.
 */
static int ksm_collect_stretch(struct ksm_batch *batch, pmd_t *pmdp,
			       struct vm_area_struct *vma, unsigned long addr,
			       unsigned long end)
{
	struct ksm_found *found = batch->found + batch->nr;
	u64 *word = ksm_word(batch->kmm, addr, false);
	unsigned long first = addr;
	unsigned int passed;
	pte_t *start, *ptep;
	spinlock_t *ptl;	/* of the page table */
	bool dirty;

	batch->due = ksm_turn(batch, addr, KSM_CHUNK_SHIFT);
	/* All of it is to be read: in one batch, for there to be one flush */
	if (!batch->due && batch->nr) {
		batch->next = addr;
		return 1;
	}
	start = pte_offset_map_lock(vma->vm_mm, pmdp, addr, &ptl);
	if (!start) {
		batch->next = end;
		return 0;
	}
	for (ptep = start; addr < end && !ksm_batch_enough(batch);
	     ptep += passed, addr += passed * PAGE_SIZE) {
		passed = 0;
		if (batch->watches && word)
			passed = ksm_pass_over(batch, ptep, addr, end, word);
		if (!passed) {
			ksm_collect_pte(batch, vma, ptep_get(ptep), addr, word);
			passed = 1;
		}
		if (word)
			word += passed;
	}
	batch->entries += ptep - start;
	dirty = ksm_stretch_dirty(batch, found);
	if (dirty)
		ksm_watch_stretch(batch, vma, start, first, found);
	pte_unmap_unlock(start, ptl);
	if (dirty)
		ksm_flush_stretch(batch, vma, found);
	batch->next = addr;
	return ksm_batch_full(batch);
}

/* ------------------------------------------------------------------ huge pages */

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
/*
 * Is a huge page, at @addr, to be watched?  It has one mark for all of it: so if
 * nothing of it has been written to, and none of its pages is still to be read
 * because of that mark.
 */
static bool ksm_huge_still(struct ksm_batch *batch, unsigned long addr)
{
	const u64 known = KSM_WORD_PAGE | KSM_WORD_MAPPING | KSM_WORD_WATCHED;
	unsigned int i, still, most = KSM_STILL_WATCH;
	const u64 *word = NULL;

	if (!ksm_turn(batch, addr, HPAGE_PMD_SHIFT))
		most = KSM_STILL_REWRITTEN;
	for (i = 0; i < HPAGE_PMD_NR; i++, word++) {
		if (!(i % KSM_CHUNK_PAGES))
			word = ksm_word(batch->kmm, addr + i * PAGE_SIZE, false);
		if (!word || (*word & known) != KSM_WORD_PAGE)
			return false;
		still = ksm_page_still(word);
		if (still < KSM_STILL_WATCH || still > most)
			return false;
	}
	return true;
}

/*
 * Clean the entry of a huge page, whose folio is left locked until the TLB is
 * flushed.
 */
static struct folio *ksm_watch_huge(struct ksm_batch *batch, pmd_t *pmdp,
				    struct vm_area_struct *vma,
				    unsigned long addr, struct page *page)
{
	struct folio *folio = page ? page_folio(page) : NULL;
	pmd_t pmd = pmdp_get(pmdp);

	if (!folio || !folio_test_anon(folio) || !batch->watches ||
	    !pmd_dirty(pmd) || folio_maybe_dma_pinned(folio) ||
	    !ksm_huge_still(batch, addr) || !folio_trylock(folio))
		return NULL;
	folio_get(folio);
	inc_tlb_flush_pending(vma->vm_mm);
	/* Never seen as empty, which MADV_DONTNEED would believe */
	pmd = pmdp_invalidate_ad(vma, addr, pmdp);
	set_pmd_at(vma->vm_mm, addr, pmdp, pmd_mkclean(pmd));
	folio_mark_dirty(folio);
	return folio;
}

static void ksm_flush_huge(struct vm_area_struct *vma, unsigned long addr,
			   struct folio *folio)
{
	flush_pmd_tlb_range(vma, addr, addr + HPAGE_PMD_SIZE);
	dec_tlb_flush_pending(vma->vm_mm);
	folio_unlock(folio);
	folio_put(folio);
}

/* Some pages of a huge one, all of them of one chunk. */
static int ksm_collect_huge(struct ksm_batch *batch, pmd_t *pmdp,
			    struct vm_area_struct *vma, unsigned long addr,
			    unsigned long end)
{
	u64 *word = ksm_word(batch->kmm, addr, false);
	unsigned long first = addr;
	struct folio *watch = NULL;
	struct ksm_found *found;
	unsigned int skipped;
	struct page *page;
	spinlock_t *ptl;	/* of the page table */
	bool clean;
	pmd_t pmd;

	batch->due = ksm_turn(batch, addr, KSM_CHUNK_SHIFT);
	ptl = pmd_lock(vma->vm_mm, pmdp);
	pmd = pmdp_get(pmdp);
	/* Not huge any more, or being migrated: the next pass will see */
	if (!pmd_present(pmd) || !pmd_leaf(pmd)) {
		addr = end;
		goto unlock;
	}
	page = vm_normal_page_pmd(vma, addr & HPAGE_PMD_MASK, pmd);
	if (!(addr & ~HPAGE_PMD_MASK))
		watch = ksm_watch_huge(batch, pmdp, vma, addr, page);
	clean = batch->watches && (watch || !pmd_dirty(pmd));
	if (page)
		page += (addr & ~HPAGE_PMD_MASK) >> PAGE_SHIFT;
	for (; addr < end && !ksm_batch_enough(batch); addr += PAGE_SIZE) {
		batch->entries++;
		skipped = batch->skipped;
		found = NULL;
		if (clean && page && word && ksm_word_known(batch, *word) &&
		    ksm_pass_page(batch, page, addr, word))
			ksm_count_passed(batch, 1, skipped);
		else
			found = ksm_collect_page(batch, vma, page, addr, word);
		if (found)
			found->watched = clean &&
				!folio_maybe_dma_pinned(page_folio(page));
		if (page)
			page++;
		if (word)
			word++;
	}
unlock:
	spin_unlock(ptl);
	if (watch)
		ksm_flush_huge(vma, first, watch);
	batch->next = addr;
	return ksm_batch_full(batch);
}
#else
static int ksm_collect_huge(struct ksm_batch *batch, pmd_t *pmdp,
			    struct vm_area_struct *vma, unsigned long addr,
			    unsigned long end)
{
	batch->next = end;
	return 0;
}
#endif

static int ksm_collect_pmd(pmd_t *pmdp, unsigned long addr, unsigned long end,
			   struct mm_walk *walk)
{
	struct ksm_batch *batch = walk->private;
	pmd_t pmd = pmdp_get_lockless(pmdp);
	unsigned long stop;

	cond_resched();
	if (!pmd_present(pmd)) {
		batch->next = end;
		return 0;
	}
	for (; addr < end; addr = stop) {
		stop = min(end - 1, addr | (BIT(KSM_CHUNK_SHIFT) - 1)) + 1;
		if (pmd_leaf(pmd) ?
		    ksm_collect_huge(batch, pmdp, walk->vma, addr, stop) :
		    ksm_collect_stretch(batch, pmdp, walk->vma, addr, stop))
			return 1;
	}
	return 0;
}

/*
 * There are no pages from batch->next to @end: forget those that there were.
 * That takes a while, so a batch of pages ends here, and the next one begins
 * with it.  Returns whether there is more.
 */
static bool ksm_collect_gap(struct ksm_batch *batch, unsigned long end)
{
	unsigned int looks, left;

	if (ksm_remembers(batch->kmm, batch->next, end)) {
		if (batch->nr || ksm_batch_full(batch))
			return true;
		looks = KSM_BATCH_ENTRIES - batch->entries;
		left = looks;
		batch->next = ksm_forget(batch->kmm, batch->next, end,
					 KSM_DROP_TRY, &left);
		batch->entries += looks - left;
		if (batch->next < end)
			return true;
	}
	batch->next = max(end, batch->next);
	return false;
}

static int ksm_collect_hole(unsigned long addr, unsigned long end, int depth,
			    struct mm_walk *walk)
{
	struct ksm_batch *batch = walk->private;

	batch->next = addr;
	return ksm_collect_gap(batch, end);
}

static const struct mm_walk_ops ksm_collect_ops = {
	.pmd_entry = ksm_collect_pmd,
	.pte_hole = ksm_collect_hole,
	.walk_lock = PGWALK_RDLOCK,
};

/* One area.  Returns whether the batch is full. */
static bool ksm_collect_vma(struct ksm_batch *batch, struct vm_area_struct *vma)
{
	unsigned int first = batch->nr;
	bool full;

	full = walk_page_range_vma(vma, batch->next, vma->vm_end,
				   &ksm_collect_ops, batch);
	for (; first < batch->nr; first++) {
		struct ksm_found *found = &batch->found[first];

		if (!found->page)
			continue;
		flush_anon_page(vma, found->page, found->addr);
		flush_dcache_page(found->page);
	}
	return full;
}

/**
 * ksm_collect - the next pages of an mm
 * @batch: of which mm, and how many; gets the pages
 *
 * What is remembered of pages that have gone since the last pass is forgotten.
 *
 * Context: the mm's kmm->lock held; may sleep.
 * Return: true if there are more.
 */
bool ksm_collect(struct ksm_batch *batch)
{
	struct ksm_mm *kmm = batch->kmm;
	struct mm_struct *mm = kmm->mm;
	bool from_start = !kmm->scan_addr;
	bool mergeable = false;
	struct vm_area_struct *vma;
	struct vma_iterator vmi;
	bool more = false;

	batch->next = kmm->scan_addr;
	mmap_read_lock(mm);
	if (ksm_mm_dying(mm) || !ksm_settle_domain(kmm))
		goto unlock;

	if (from_start)
		ksm_forget_collisions(kmm);
	batch->collides = ksm_collides(kmm);
	batch->salt = ksm_domain_salt(kmm->domain);
	batch->watches = ksm_mm_watches(mm);
	batch->smart_scan = READ_ONCE(ksm_knobs.smart_scan);
	batch->use_zero_pages = READ_ONCE(ksm_knobs.use_zero_pages);
	vma_iter_init(&vmi, mm, kmm->scan_addr);
	for_each_vma(vmi, vma) {
		if (!(vma->vm_flags & VM_MERGEABLE))
			continue;
		mergeable = true;
		if (!vma->anon_vma)
			continue;
		cond_resched();
		more = ksm_batch_full(batch);
		if (more)
			goto unlock;
		more = ksm_collect_gap(batch, vma->vm_start);
		if (more)
			goto unlock;
		more = ksm_collect_vma(batch, vma) && batch->next < vma->vm_end;
		if (more)
			goto unlock;
		batch->next = vma->vm_end;
	}
	more = ksm_collect_gap(batch, ULONG_MAX);
	if (from_start && !more && !mergeable && xa_empty(&kmm->chunks))
		ksm_unregister(kmm);
unlock:
	kmm->scan_addr = more ? batch->next : 0;
	mmap_read_unlock(mm);
	return more;
}

/**
 * ksm_fingerprint_batch - read the pages of a batch, and let them go
 * @batch: collected
 *
 * Context: may sleep; no lock is needed.
 */
void ksm_fingerprint_batch(struct ksm_batch *batch)
{
	struct ksm_found *found, *end = batch->found + batch->nr;
	struct page *next;

	for (found = batch->found; found < end; found++) {
		if (found->kind != KSM_FOUND_PAGE)
			continue;
		next = found->page;
		if (found + 1 < end && found[1].page)
			next = found[1].page;
		found->fingerprint = ksm_fingerprint_ahead(found->page, next);
		ksm_seen_soon(ksm_filter_mark(batch, found->fingerprint));
		put_page(found->page);
	}
}
