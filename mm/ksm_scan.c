// SPDX-License-Identifier: GPL-2.0-only
/*
 * KSM: ksmd, which walks the registered areas.
 *
 * A batch of pages is collected under mmap_lock, fingerprinted without any
 * lock, and let go again, so that neither a fault nor a migration waits for
 * long.  Only then is it decided what to do with each of them; the few that
 * are worth merging are looked up again, one at a time.
 */
#include <linux/bitfield.h>
#include <linux/freezer.h>
#include <linux/hugetlb.h>
#include <linux/kthread.h>
#include <linux/mmu_notifier.h>
#include <linux/pagewalk.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <trace/events/ksm.h>
#include "internal.h"
#include "ksm_internal.h"

/* ------------------------------------------------------------ collecting a batch */

#define KSM_BATCH_PAGES		64
#define KSM_BATCH_ENTRIES	8192	/* looked at under one mmap_lock */
#define KSM_STRETCH_SHIFT	(PAGE_SHIFT + 5) /* under one page table lock */
#define KSM_WATCH_PASSES	6	/* for which pages must have kept still */
#define KSM_WATCH_PAGES		16	/* for which a TLB flush is worth while */
#define KSM_READ_PASSES		32	/* in one of which a page is read anyway */

/**
 * enum ksm_found_kind - what a batch is to do about a page
 * @KSM_FOUND_PAGE: an anonymous page, held by a reference until it has been
 *	fingerprinted
 * @KSM_FOUND_KNOWN: an anonymous page that was not read, because nobody has
 *	written to it or because smart scan leaves it alone, but that another
 *	may be like, by what is remembered of it
 * @KSM_FOUND_KSM: a KSM page there is no right record for
 * @KSM_FOUND_FOLD: a KSM page that is to be given up for another
 * @KSM_FOUND_SWAPPED: swapped out, but there is a record of a KSM page
 * @KSM_FOUND_GONE: no page of ours any more
 */
enum ksm_found_kind {
	KSM_FOUND_PAGE,
	KSM_FOUND_KNOWN,
	KSM_FOUND_KSM,
	KSM_FOUND_FOLD,
	KSM_FOUND_SWAPPED,
	KSM_FOUND_GONE,
};

/**
 * struct ksm_found - a page of a batch
 * @addr: where it was found
 * @kind: what it is
 * @page: the page of KSM_FOUND_PAGE, as long as the batch holds it; the rest
 *	is for that and KSM_FOUND_KNOWN
 * @pfn: its number
 * @nid: its NUMA node
 * @watched: a write to the page, after it has been read, marks its entry
 * @dirty: for this, its entry would have to be cleaned
 * @fingerprint: of its content
 */
struct ksm_found {
	unsigned long addr;
	enum ksm_found_kind kind;
	struct page *page;
	unsigned long pfn;
	int nid;
	bool watched;
	bool dirty;
	u64 fingerprint;
};

/**
 * struct ksm_batch - some pages of one mm
 * @kmm: the mm
 * @watches: clean entries tell which pages nobody has written to
 * @turn: number of the pass; pages take turns in being read anyway
 * @nr: how many of @found are used
 * @entries: page table entries looked at
 * @scanned: pages that count as scanned
 * @unchanged: of these, those that are known without being read
 * @limit: how many of them are enough
 * @next: address at which the next batch begins
 * @found: the pages
 */
struct ksm_batch {
	struct ksm_mm *kmm;
	bool watches;
	unsigned long turn;
	unsigned int nr;
	unsigned int entries;
	unsigned int scanned;
	unsigned int unchanged;
	unsigned int limit;
	unsigned long next;
	struct ksm_found found[KSM_BATCH_PAGES];
};

static bool ksm_batch_full(struct ksm_batch *batch)
{
	return batch->nr == KSM_BATCH_PAGES ||
	       batch->scanned >= batch->limit ||
	       batch->entries >= KSM_BATCH_ENTRIES;
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

	if (!READ_ONCE(ksm_knobs.smart_scan) || !(*word & KSM_WORD_PAGE))
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
 * The TLB must be flushed before the page table lock is let go.  A processor
 * that still takes the entry for a dirty one writes without marking it, and
 * reclaim, which goes by the mark, then writes the page out before that
 * processor has stopped writing to it (set_tlb_ubc_flush_pending()).  The flush
 * costs those who use the memory more than reading a page costs ksmd: so pages
 * are watched where all that is read of a stretch keeps still, and several at a
 * time, or else when it is time to read the stretch anyway.
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

/* Is it time to read a page that is watched?  In one pass of 32 or so it is. */
static bool ksm_page_due(struct ksm_batch *batch, unsigned long addr, u64 word)
{
	unsigned int due = ((addr >> KSM_STRETCH_SHIFT) + batch->turn) %
			   KSM_READ_PASSES, skips = 0;

	/* The more of them it misses, the more of the others will do */
	if (READ_ONCE(ksm_knobs.smart_scan))
		skips = ksm_skips_for_age(FIELD_GET(KSM_WORD_AGE, word));
	return due <= skips;
}

/* The entry is clean; is the page what the word says? */
static bool ksm_page_known(struct ksm_batch *batch, struct folio *folio,
			   unsigned long addr, const u64 *word)
{
	return ksm_page_still(word) && (*word & KSM_WORD_WATCHED) &&
	       !folio_maybe_dma_pinned(folio) &&
	       !ksm_page_due(batch, addr, *word);
}

/*
 * A page that is not read.  Only if there may be something for it to be merged
 * with it is looked at more closely.
 */
static void ksm_collect_known(struct ksm_batch *batch, struct page *page,
			      unsigned long addr, u64 word)
{
	u64 fingerprint = word & KSM_WORD_FINGERPRINT;
	struct ksm_found *found;

	if (!ksm_seen(fingerprint) &&
	    !(READ_ONCE(ksm_knobs.use_zero_pages) &&
	      ksm_is_zero_fingerprint(fingerprint)))
		return;
	found = ksm_found(batch, KSM_FOUND_KNOWN, addr);
	found->fingerprint = fingerprint;
	found->pfn = page_to_pfn(page);
	found->nid = page_to_nid(page);
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

/*
 * A present page, under the page table lock; @clean if its entry says that
 * nobody has written to it.  Returns what was found if the page is to be read.
 */
static struct ksm_found *ksm_collect_page(struct ksm_batch *batch,
					  struct vm_area_struct *vma,
					  struct page *page, unsigned long addr,
					  u64 *word, bool clean)
{
	struct folio *folio = page ? page_folio(page) : NULL;
	struct ksm_mapping *mapping;

	if (!folio || !folio_test_anon(folio) || folio_is_zone_device(folio) ||
	    PageHWPoison(page) || ksm_page_has_tags(page)) {
		if (word && *word)
			ksm_found(batch, KSM_FOUND_GONE, addr);
		return NULL;
	}

	if (word && !folio_test_ksm(folio) && ksm_skip_page(word)) {
		atomic_long_inc(&ksm_counters.skipped);
		ksm_collect_known(batch, page, addr, *word);
		return NULL;
	}

	batch->scanned++;
	if (folio_test_ksm(folio)) {
		mapping = word ? ksm_word_mapping(*word) : NULL;
		if (!mapping || mapping->node != folio_stable_node(folio) ||
		    !ksm_mapping_fits(mapping, vma, addr))
			ksm_found(batch, KSM_FOUND_KSM, addr);
		else if (ksm_folding(mapping->node))
			ksm_found(batch, KSM_FOUND_FOLD, addr);
		return NULL;
	}
	if (clean && ksm_page_known(batch, folio, addr, word)) {
		batch->unchanged++;
		ksm_collect_known(batch, page, addr, *word);
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

static int ksm_collect_huge(struct ksm_batch *batch, pmd_t *pmdp,
			    struct vm_area_struct *vma, unsigned long addr,
			    unsigned long end)
{
	struct page *page;
	spinlock_t *ptl;	/* of the page table */
	pmd_t pmd;

	ptl = pmd_lock(vma->vm_mm, pmdp);
	pmd = pmdp_get(pmdp);
	/* Not huge any more, or being migrated: the next pass will see */
	if (!pmd_present(pmd) || !pmd_leaf(pmd))
		goto unlock;
	page = vm_normal_page_pmd(vma, addr & PMD_MASK, pmd);
	for (; addr < end && !ksm_batch_full(batch); addr += PAGE_SIZE) {
		batch->entries++;
		ksm_collect_page(batch, vma, page ? page +
				 ((addr & ~PMD_MASK) >> PAGE_SHIFT) : NULL,
				 addr, ksm_word(batch->kmm, addr, false), false);
	}
	end = addr;
unlock:
	spin_unlock(ptl);
	batch->next = end;
	return ksm_batch_full(batch);
}

/* An entry, under the page table lock. */
static void ksm_collect_pte(struct ksm_batch *batch, struct vm_area_struct *vma,
			    pte_t pte, unsigned long addr, u64 *word)
{
	bool clean = batch->watches && !pte_dirty(pte);
	struct ksm_found *found;
	struct page *page;

	batch->entries++;
	if (!pte_present(pte)) {
		ksm_collect_nothing(batch, pte, addr, word);
		return;
	}
	page = vm_normal_page(vma, addr, pte);
	found = ksm_collect_page(batch, vma, page, addr, word, clean);
	if (!found || !batch->watches ||
	    folio_maybe_dma_pinned(page_folio(page)))
		return;
	found->watched = clean;
	found->dirty = !clean && ksm_page_still(word) >= KSM_WATCH_PASSES &&
		       !(*word & KSM_WORD_WATCHED);
}

/* How many entries of a stretch to clean, if it were to be watched? */
static unsigned int ksm_stretch_dirty(struct ksm_batch *batch,
				      struct ksm_found *found)
{
	unsigned int dirty = 0;

	for (; found < batch->found + batch->nr; found++) {
		if (found->kind != KSM_FOUND_PAGE)
			continue;
		/* Written to lately, or pinned */
		if (!found->watched && !found->dirty)
			return 0;
		dirty += found->dirty;
	}
	return dirty;
}

/* Clean those entries of a stretch that should be; @ptep is that of @addr. */
static void ksm_watch_stretch(struct ksm_batch *batch,
			      struct vm_area_struct *vma, pte_t *ptep,
			      unsigned long addr, struct ksm_found *found)
{
	unsigned long end = addr;

	for (; found < batch->found + batch->nr; found++) {
		if (!found->dirty)
			continue;
		end = found->addr + PAGE_SIZE;
		clear_young_dirty_ptes(vma, found->addr, ptep +
				       ((found->addr - addr) >> PAGE_SHIFT), 1,
				       CYDP_CLEAR_DIRTY);
		folio_mark_dirty(page_folio(found->page));
		found->watched = true;
	}
	flush_tlb_range(vma, addr, end);
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
	unsigned int dirty;
	pte_t *start, *ptep;
	spinlock_t *ptl;	/* of the page table */

	start = pte_offset_map_lock(vma->vm_mm, pmdp, addr, &ptl);
	if (!start) {
		batch->next = end;
		return 0;
	}
	for (ptep = start; addr < end && !ksm_batch_full(batch);
	     ptep++, addr += PAGE_SIZE) {
		ksm_collect_pte(batch, vma, ptep_get(ptep), addr, word);
		if (word)
			word++;
	}
	dirty = ksm_stretch_dirty(batch, found);
	if (dirty >= KSM_WATCH_PAGES ||
	    (dirty && ksm_page_due(batch, first, 0)))
		ksm_watch_stretch(batch, vma, start, first, found);
	pte_unmap_unlock(start, ptl);
	batch->next = addr;
	return ksm_batch_full(batch);
}

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
	if (IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE) && pmd_leaf(pmd))
		return ksm_collect_huge(batch, pmdp, walk->vma, addr, end);

	for (; addr < end; addr = stop) {
		stop = min(end - 1, addr | (BIT(KSM_STRETCH_SHIFT) - 1)) + 1;
		if (ksm_collect_stretch(batch, pmdp, walk->vma, addr, stop))
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

/*
 * Collect the next pages of an mm, and forget those that have gone since the
 * last pass.  Returns whether there are more.
 */
static bool ksm_collect(struct ksm_batch *batch)
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
	if (ksm_mm_dying(mm))
		goto unlock;

	batch->watches = ksm_mm_watches(mm);
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

static void ksm_fingerprint_batch(struct ksm_batch *batch)
{
	struct ksm_found *found;

	for (found = batch->found; found < batch->found + batch->nr; found++) {
		if (found->kind != KSM_FOUND_PAGE)
			continue;
		found->fingerprint = ksm_fingerprint(found->page);
		put_page(found->page);
	}
}

/* ------------------------------------------------------- what to do with a page */

/* Is it like a KSM page?  Then map that. */
static bool ksm_try_stable(const struct ksm_spot *spot,
			   const struct ksm_key *key)
{
	struct ksm_stable_node *node;
	int err = -ESTALE, tries = 3;

	/* A node that turned out to be stale or full is not found again */
	while ((err == -ESTALE || err == -ENOSPC) && tries--) {
		node = ksm_index_find(key);
		if (!node)
			return false;
		err = ksm_merge(spot, node);
		ksm_put_node(node);
	}
	return !err;
}

/* What becomes of the candidate that a page looks like. */
enum ksm_met {
	KSM_MET_KEEP,		/* it waits for others */
	KSM_MET_REPLACE,	/* this page is a better one */
	KSM_MET_DROP,		/* both are one KSM page now, or none is good */
};

/*
 * Make one of the two a KSM page, and map it in the place of the other too.
 * One that somebody has pinned must not be in the way of others: look before
 * anything is touched.
 *
 * That the page higher in memory stays is what compaction would make of it:
 * it moves pages to the end of a zone, to empty the page blocks before.
 */
static enum ksm_met ksm_meet(struct ksm_spot *ours, struct ksm_spot *theirs,
			     u64 fingerprint)
{
	const struct ksm_spot *stays = theirs, *goes = ours;
	struct ksm_stable_node *node;
	int nid = ours->nid;

	/* Shared by fork: nothing to gain */
	if (ours->pfn == theirs->pfn)
		return KSM_MET_KEEP;
	if (!ksm_look_again(ours, fingerprint))
		return KSM_MET_KEEP;
	if (!ksm_look_again(theirs, fingerprint))
		return KSM_MET_REPLACE;
	if (ours->pfn == theirs->pfn)
		return KSM_MET_KEEP;
	if (ours->nid != theirs->nid) {
		/* One of them has been moved since it was found */
		if (!ksm_knobs.merge_across_nodes)
			return ours->nid == nid ? KSM_MET_REPLACE : KSM_MET_KEEP;
	} else if (ours->pfn > theirs->pfn) {
		swap(stays, goes);
	}

	node = ksm_share(stays, fingerprint);
	if (!node)
		return stays == ours ? KSM_MET_KEEP : KSM_MET_REPLACE;
	/* If that page has changed: do not leave the other one shared alone */
	if (ksm_merge(goes, node))
		ksm_break_spot(stays);
	ksm_put_node(node);
	return KSM_MET_DROP;
}

/* Never wait for a second mm's lock. */
static enum ksm_met ksm_try_candidate(const struct ksm_spot *spot,
				      struct ksm_spot *theirs, u64 fingerprint)
{
	struct ksm_spot ours = *spot;
	enum ksm_met met;

	if (theirs->kmm == spot->kmm)
		return theirs->addr == spot->addr ? KSM_MET_KEEP :
			ksm_meet(&ours, theirs, fingerprint);
	if (!mutex_trylock(&theirs->kmm->lock))
		return KSM_MET_REPLACE;
	met = ksm_meet(&ours, theirs, fingerprint);
	mutex_unlock(&theirs->kmm->lock);
	return met;
}

/* A page that has not changed since the last pass. */
static void ksm_try_merge(const struct ksm_spot *spot, struct ksm_found *found)
{
	enum ksm_met met = KSM_MET_REPLACE;
	struct ksm_spot theirs;
	struct ksm_key key;

	if (READ_ONCE(ksm_knobs.use_zero_pages) &&
	    ksm_is_zero_fingerprint(found->fingerprint) &&
	    !ksm_merge_zero(spot, found->fingerprint))
		return;

	key = ksm_make_key(found->fingerprint, found->nid);
	if (ksm_try_stable(spot, &key))
		return;
	if (!ksm_seen_twice(found->fingerprint))
		return;
	if (ksm_candidate_find(&key, &theirs)) {
		met = ksm_try_candidate(spot, &theirs, found->fingerprint);
		ksm_put_mm(theirs.kmm);
	}
	if (met == KSM_MET_DROP)
		ksm_candidate_drop(&key);
	else if (met == KSM_MET_REPLACE)
		ksm_candidate_set(&key, spot);
}

/*
 * What was last seen of a page, in the form of a word.  One that has been
 * merged was seen as what it was merged into, unless it has been looked at
 * since then and its record had to stay.
 */
static u64 ksm_last_seen(u64 word)
{
	struct ksm_mapping *mapping = ksm_word_mapping(word);

	if (mapping)
		return mapping->fingerprint | KSM_WORD_PAGE;
	/* New: this counts as its first visit, for smart scan */
	if (!word && READ_ONCE(ksm_knobs.smart_scan))
		return FIELD_PREP(KSM_WORD_AGE, 1);
	return word;
}

static void ksm_scan_page(const struct ksm_spot *spot, struct ksm_found *found)
{
	struct ksm_mm *kmm = spot->kmm;
	u64 *word = ksm_word(kmm, found->addr, true);
	u64 last, fingerprint = found->fingerprint;
	struct ksm_mapping *mapping;
	unsigned long still = 0;

	if (!word)
		return;
	ksm_seen(fingerprint);
	last = ksm_last_seen(*word);
	/* It was merged when we last looked, and has been written to since */
	mapping = ksm_word_mapping(*word);
	if (mapping && !ksm_drop_word(kmm, word, KSM_DROP_TRY)) {
		mapping->fingerprint = fingerprint;
		return;
	}

	if ((last & KSM_WORD_PAGE) &&
	    (last & KSM_WORD_FINGERPRINT) == fingerprint)
		still = min(FIELD_GET(KSM_WORD_STILL, last) + 1,
			    FIELD_MAX(KSM_WORD_STILL));
	/* Its entry was clean and is not: that it is the same says little */
	if (still && (last & KSM_WORD_WATCHED) && !found->watched)
		still = 1;
	ksm_set_word(kmm, word, fingerprint | KSM_WORD_PAGE |
				FIELD_PREP(KSM_WORD_STILL, still) |
				(found->watched ? KSM_WORD_WATCHED : 0) |
				(last & (KSM_WORD_AGE | KSM_WORD_SKIPS)));
	if (still)
		ksm_try_merge(spot, found);
}

/* A mapping that is swapped out: is there still a page it may come back to? */
static void ksm_check_swapped(struct ksm_mm *kmm, u64 *word)
{
	struct ksm_mapping *mapping = ksm_word_mapping(*word);
	struct folio *folio = NULL;

	if (mapping)
		folio = get_ksm_page(mapping->node, KSM_GET_NOLOCK);
	if (!folio)
		ksm_drop_word(kmm, word, KSM_DROP_TRY);
	else if (!IS_ERR(folio))
		folio_put(folio);
}

static void ksm_process_found(struct ksm_mm *kmm, struct ksm_found *found)
{
	const struct ksm_spot spot = {
		.kmm = kmm,
		.addr = found->addr,
		.pfn = found->pfn,
		.nid = found->nid,
	};
	u64 *word;

	if (found->kind == KSM_FOUND_PAGE) {
		ksm_scan_page(&spot, found);
		return;
	}
	word = ksm_word(kmm, found->addr, found->kind == KSM_FOUND_KSM);
	if (!word)
		return;
	switch (found->kind) {
	case KSM_FOUND_KNOWN:
		if (*word & KSM_WORD_PAGE)
			ksm_try_merge(&spot, found);
		break;
	case KSM_FOUND_KSM:
		if (ksm_drop_word(kmm, word, KSM_DROP_TRY))
			ksm_adopt(&spot);
		break;
	case KSM_FOUND_FOLD:
		ksm_fold(&spot);
		break;
	case KSM_FOUND_SWAPPED:
		ksm_check_swapped(kmm, word);
		break;
	default:
		ksm_drop_word(kmm, word, KSM_DROP_TRY);
	}
}

static void ksm_process_batch(struct ksm_batch *batch)
{
	unsigned int i;

	for (i = 0; i < batch->nr; i++) {
		ksm_window(KSM_WINDOW_FOUND);
		ksm_process_found(batch->kmm, &batch->found[i]);
		cond_resched();
	}
	atomic_long_add(batch->scanned, &ksm_counters.scanned);
	atomic_long_add(batch->unchanged, &ksm_counters.unchanged);
}

/* --------------------------------------------------------------------- the passes */

/* For ksmd alone, under ksm_control_lock. */
static struct ksm_batch *ksm_batch;
static unsigned long ksm_last_prune;
static bool ksm_in_pass;

static void ksm_start_pass(void)
{
	trace_ksm_start_scan(atomic_long_read(&ksm_counters.full_scans),
			     atomic_long_read(&ksm_counters.tracked));
	ksm_advisor_start_pass();
	/* Pages that wait for their LRU list have a reference too many */
	lru_add_drain_all();
	ksm_index_start_pass();
	ksm_index_plan_folds();
	ksm_cursor_start();
	ksm_in_pass = true;
}

/* Whoever waits for full_scans to change then sees all that the pass has done. */
static void ksm_end_pass(void)
{
	ksm_in_pass = false;
	ksm_advisor_end_pass();
	ksm_index_end_pass();
	ksm_reap(KSM_REAP_OLD);
	if (time_after(jiffies, ksm_last_prune +
		       msecs_to_jiffies(READ_ONCE(ksm_knobs.prune_millisecs)))) {
		ksm_prune();
		ksm_last_prune = jiffies;
	}
	trace_ksm_stop_scan(atomic_long_read(&ksm_counters.full_scans),
			    atomic_long_read(&ksm_counters.tracked));
	atomic_long_inc(&ksm_counters.full_scans);
}

/**
 * ksm_abandon_pass - the next scan begins a new pass
 *
 * Context: ksm_control_lock held for write.
 */
void ksm_abandon_pass(void)
{
	ksm_in_pass = false;
	ksm_cursor_reset();
	ksm_index_idle();
}

/* Scan a batch of one mm.  Returns how many pages of the budget that took. */
static unsigned int ksm_scan_mm(struct ksm_mm *kmm, unsigned int limit)
{
	struct ksm_batch *batch = ksm_batch;
	bool more;

	mutex_lock(&kmm->lock);
	batch->kmm = kmm;
	batch->turn = atomic_long_read(&ksm_counters.full_scans);
	batch->nr = 0;
	batch->entries = 0;
	batch->scanned = 0;
	batch->unchanged = 0;
	batch->limit = limit;
	more = ksm_collect(batch);
	ksm_fingerprint_batch(batch);
	ksm_process_batch(batch);
	mutex_unlock(&kmm->lock);

	if (!more)
		ksm_cursor_advance(kmm);
	return batch->scanned;
}

static bool ksm_should_scan(void)
{
	return READ_ONCE(ksm_knobs.run) == KSM_MERGE && ksm_have_mm();
}

/* Scan so many pages, or to the end of the pass if that comes first. */
static void ksm_scan(unsigned int pages)
{
	struct ksm_mm *kmm;
	unsigned int took;

	while (!freezing(current)) {
		/*
		 * A pass ends with its last page, not later: who waits for
		 * the end of one wants the pages looked at after he came.
		 */
		kmm = ksm_cursor_mm();
		if (!kmm) {
			if (ksm_in_pass) {
				ksm_end_pass();
				return;
			}
			if (!pages || !ksm_have_mm())
				return;
			ksm_start_pass();
			continue;
		}
		if (!pages || rwsem_is_contended(&ksm_control_lock)) {
			ksm_put_mm(kmm);
			return;
		}
		cond_resched();
		took = ksm_scan_mm(kmm, pages);
		ksm_put_mm(kmm);
		pages -= min(pages, took);
	}
}

/* --------------------------------------------------------------------------- ksmd */

static DECLARE_WAIT_QUEUE_HEAD(ksm_wait);

/**
 * ksm_wake - there may be something for ksmd to do, or a knob has changed
 *
 * Context: any.
 */
void ksm_wake(void)
{
	wake_up_interruptible(&ksm_wait);
}

/* Is the sleep that has begun still as long as it should be? */
static bool ksm_sleep_changed(unsigned int msecs)
{
	return READ_ONCE(ksm_knobs.sleep_millisecs) != msecs ||
	       kthread_should_stop();
}

static int ksmd(void *unused)
{
	unsigned int msecs;

	set_freezable();
	set_user_nice(current, 5);

	while (!kthread_should_stop()) {
		/*
		 * With sleep_millisecs 0 the wait below sees to neither: and
		 * he who has waited for the lock must get a CPU, if there is
		 * only one, before it is taken again.
		 */
		try_to_freeze();
		cond_resched();

		down_read(&ksm_control_lock);
		if (ksm_should_scan())
			ksm_scan(READ_ONCE(ksm_knobs.pages_to_scan));
		if (!ksm_have_mm()) {
			if (ksm_in_pass)
				ksm_end_pass();
			ksm_index_idle();
		}
		up_read(&ksm_control_lock);

		if (!ksm_should_scan()) {
			wait_event_freezable(ksm_wait, ksm_should_scan() ||
					     kthread_should_stop());
			continue;
		}
		msecs = READ_ONCE(ksm_knobs.sleep_millisecs);
		wait_event_freezable_timeout(ksm_wait, ksm_sleep_changed(msecs),
					     msecs_to_jiffies(msecs));
	}
	return 0;
}

/**
 * ksm_scan_init - at boot, once: start ksmd
 *
 * Return: 0 or an error.
 */
int __init ksm_scan_init(void)
{
	struct task_struct *thread;

	ksm_batch = kzalloc(sizeof(*ksm_batch), GFP_KERNEL);
	if (!ksm_batch)
		return -ENOMEM;
	thread = kthread_run(ksmd, NULL, "ksmd");
	return PTR_ERR_OR_ZERO(thread);
}
