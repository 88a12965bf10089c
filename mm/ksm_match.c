// SPDX-License-Identifier: GPL-2.0-only
/*
 * KSM: what becomes of the pages of a batch.
 *
 * None of them is held any more.  Those few that are worth merging are looked
 * up again.
 */
#include <linux/bitfield.h>
#include "ksm_internal.h"

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

/**
 * ksm_process_batch - decide about each page of a batch
 * @batch: collected, and its pages fingerprinted
 *
 * Context: the mm's kmm->lock held; may sleep.
 */
void ksm_process_batch(struct ksm_batch *batch)
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
