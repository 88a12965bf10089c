// SPDX-License-Identifier: GPL-2.0-only
/*
 * KSM: what becomes of the pages of a batch.
 *
 * None of them is held any more.  For those few that are worth merging there
 * are jobs, of which as many as possible are then done together.
 */
#include <linux/bitfield.h>
#include "ksm_internal.h"

static struct ksm_spot ksm_spot_of(struct ksm_batch *batch,
				   const struct ksm_found *found)
{
	return (struct ksm_spot) {
		.kmm = batch->kmm,
		.addr = found->addr,
		.pfn = found->pfn,
		.nid = found->nid,
	};
}

static struct ksm_key ksm_key_of(struct ksm_batch *batch,
				 const struct ksm_found *found)
{
	return ksm_make_key(found->fingerprint, batch->kmm->domain, found->nid);
}

/* ------------------------------------------------------- what a page is to be merged with */

static struct ksm_job *ksm_add_job(struct ksm_batch *batch,
				   enum ksm_job_kind kind,
				   const struct ksm_spot *spot,
				   const struct ksm_key *key)
{
	struct ksm_job *job = &batch->jobs[batch->nr_jobs++];

	*job = (struct ksm_job) {
		.kind = kind,
		.spot = *spot,
		.key = *key,
	};
	ksm_get_mm(job->spot.kmm);
	return job;
}

/* The job that is to make the KSM page of a key. */
static struct ksm_job *ksm_find_share(struct ksm_batch *batch,
				      const struct ksm_key *key)
{
	struct ksm_job *job;

	for (job = batch->jobs; job < batch->jobs + batch->nr_jobs; job++)
		if (job->kind == KSM_JOB_SHARE &&
		    !memcmp(&job->key, key, sizeof(*key)))
			return job;
	return NULL;
}

/* What becomes of the candidate that a page looks like. */
enum ksm_met {
	KSM_MET_KEEP,		/* it waits for others */
	KSM_MET_REPLACE,	/* this page is a better one */
	KSM_MET_PAIR,		/* both are to be one KSM page */
};

/*
 * Are the two worth merging?  One that somebody has pinned must not be in the
 * way of others: look before anything is touched.
 */
static enum ksm_met ksm_judge(struct ksm_spot *ours, struct ksm_spot *theirs,
			      u64 fingerprint)
{
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
	/* One of them has been moved since it was found */
	if (ours->nid != theirs->nid && !ksm_knobs.merge_across_nodes)
		return ours->nid == nid ? KSM_MET_REPLACE : KSM_MET_KEEP;
	return KSM_MET_PAIR;
}

/*
 * Have the lock of another mm until the batch is done with.  Never wait for it,
 * and leave some for others.
 */
static bool ksm_lock_other(struct ksm_batch *batch, struct ksm_mm *kmm)
{
	unsigned int i;

	for (i = 0; i < batch->nr_others; i++)
		if (batch->others[i] == kmm)
			return true;
	if (i == KSM_BATCH_OTHERS || !mutex_trylock(&kmm->lock))
		return false;
	ksm_get_mm(kmm);
	batch->others[batch->nr_others++] = kmm;
	return true;
}

static void ksm_unlock_others(struct ksm_batch *batch)
{
	while (batch->nr_others) {
		struct ksm_mm *kmm = batch->others[--batch->nr_others];

		mutex_unlock(&kmm->lock);
		ksm_put_mm(kmm);
	}
}

/*
 * Make one of the two, or a copy of it, a KSM page, and map it in the place of the
 * other too.
 *
 * That the page higher in memory stays, if it is not copied, is what compaction
 * would make of it: it moves pages to the end of a zone, to empty the page blocks
 * before.
 */
static void ksm_add_pair(struct ksm_batch *batch, struct ksm_found *found,
			 const struct ksm_spot *ours,
			 const struct ksm_spot *theirs,
			 const struct ksm_key *key)
{
	bool ours_stays = ours->nid == theirs->nid && ours->pfn > theirs->pfn;
	struct ksm_job *stays, *goes;

	stays = ksm_add_job(batch, KSM_JOB_SHARE, ours_stays ? ours : theirs,
			    key);
	goes = ksm_add_job(batch, KSM_JOB_MERGE, ours_stays ? theirs : ours,
			   key);
	goes->first = stays;
	if (!ours_stays)
		goes->found = found;
}

static void ksm_add_merge(struct ksm_batch *batch, struct ksm_found *found,
			  struct ksm_stable_node *node, struct ksm_job *first)
{
	struct ksm_key key = ksm_key_of(batch, found);
	struct ksm_spot spot = ksm_spot_of(batch, found);
	struct ksm_job *job = ksm_add_job(batch, KSM_JOB_MERGE, &spot, &key);

	job->node = node;
	job->first = first;
	job->found = found;
}

static void ksm_meet(struct ksm_batch *batch, struct ksm_found *found,
		     struct ksm_spot *theirs, const struct ksm_key *key)
{
	struct ksm_spot ours = ksm_spot_of(batch, found);

	if (theirs->kmm == ours.kmm && theirs->addr == ours.addr)
		return;
	if (theirs->kmm != ours.kmm && !ksm_lock_other(batch, theirs->kmm)) {
		if (ksm_mm_dying(theirs->kmm->mm))
			ksm_candidate_set(key, &ours);
		else
			found->err = -EBUSY;
		return;
	}
	/*
	 * Its process may have gone elsewhere since it was found.  Ours stays
	 * where it is until the batch is done with: there are keys that say so.
	 */
	if (theirs->kmm != ours.kmm &&
	    (!ksm_settle_domain(theirs->kmm) ||
	     theirs->kmm->domain != ours.kmm->domain)) {
		ksm_candidate_set(key, &ours);
		return;
	}
	switch (ksm_judge(&ours, theirs, found->fingerprint)) {
	case KSM_MET_PAIR:
		ksm_add_pair(batch, found, &ours, theirs, key);
		break;
	case KSM_MET_REPLACE:
		ksm_candidate_set(key, &ours);
		break;
	case KSM_MET_KEEP:
		break;
	}
}

/* There is no KSM page like it, or none that it can be merged into. */
static void ksm_match_candidate(struct ksm_batch *batch,
				struct ksm_found *found)
{
	struct ksm_key key = ksm_key_of(batch, found);
	struct ksm_job *first = ksm_find_share(batch, &key);
	struct ksm_spot spot;

	if (first) {
		ksm_add_merge(batch, found, NULL, first);
	} else if (!ksm_seen_twice(ksm_filter_mark(batch, found->fingerprint))) {
		return;
	} else if (ksm_candidate_find(&key, &spot)) {
		ksm_meet(batch, found, &spot, &key);
		ksm_put_mm(spot.kmm);
	} else {
		spot = ksm_spot_of(batch, found);
		ksm_candidate_set(&key, &spot);
	}
}

/*
 * Who makes pages that are different and have the same fingerprint keeps ksmd
 * from merging his own, and not from getting on: after some of them, and some
 * more for the pages it has, nothing is looked for that an mm's pages could be
 * merged with.  With every pass that is a little forgotten.  By chance there is
 * not one such pair.
 */
#define KSM_COLLISIONS		64	/* for any mm */
#define KSM_COLLISION_PAGES	64	/* for one more */
#define KSM_COLLISION_PASSES	16	/* in which they are forgotten, about */

/**
 * ksm_collides - do too many pages of an mm look like others but are not?
 * @kmm: the mm
 *
 * Context: @kmm->lock held.
 * Return: true if they are not to be merged for now.
 */
bool ksm_collides(const struct ksm_mm *kmm)
{
	return kmm->collisions >= KSM_COLLISIONS + kmm->mm->ksm_rmap_items /
						   KSM_COLLISION_PAGES;
}

/**
 * ksm_forget_collisions - an mm's pass begins
 * @kmm: the mm
 *
 * Context: @kmm->lock held.
 */
void ksm_forget_collisions(struct ksm_mm *kmm)
{
	kmm->collisions -= DIV_ROUND_UP(kmm->collisions, KSM_COLLISION_PASSES);
}

/* A page that has not changed since the last pass. */
static void ksm_match(struct ksm_batch *batch, struct ksm_found *found)
{
	struct ksm_key key = ksm_key_of(batch, found);
	struct ksm_spot spot = ksm_spot_of(batch, found);
	struct ksm_stable_node *node;

	if (ksm_collides(batch->kmm))
		return;
	if (READ_ONCE(ksm_knobs.use_zero_pages) &&
	    ksm_is_zero_fingerprint(found->fingerprint) &&
	    !mm_forbids_zeropage(batch->kmm->mm)) {
		ksm_add_job(batch, KSM_JOB_ZERO, &spot, &key);
		return;
	}
	node = ksm_index_find(&key);
	if (node)
		ksm_add_merge(batch, found, node, NULL);
	else
		ksm_match_candidate(batch, found);
}

/* A KSM page that is to be given up for another of its content. */
static void ksm_match_fold(struct ksm_batch *batch, struct ksm_found *found)
{
	struct ksm_spot spot = ksm_spot_of(batch, found);
	u64 *word = ksm_word(batch->kmm, found->addr, false);
	struct ksm_mapping *mapping = word ? ksm_word_mapping(*word) : NULL;
	struct ksm_stable_node *node;
	struct ksm_job *job;

	/* The mm may have gone to another domain since it was collected */
	if (!mapping || mapping->node->key.domain != batch->kmm->domain)
		return;
	node = ksm_index_find_fold(mapping->node);
	if (!node)
		return;
	job = ksm_add_job(batch, KSM_JOB_FOLD, &spot, &mapping->node->key);
	job->node = node;
	job->found = found;
}

/* ------------------------------------------------------------------------ doing the jobs */

static bool ksm_job_before(const struct ksm_job *job,
			   const struct ksm_job *other)
{
	if (job->spot.kmm != other->spot.kmm)
		return job->spot.kmm < other->spot.kmm;
	return job->spot.addr < other->spot.addr;
}

/*
 * Put in order the jobs that make KSM pages, or all others that can be done:
 * most of them are already.  Returns how many.
 */
static unsigned int ksm_order_jobs(struct ksm_batch *batch, bool share)
{
	struct ksm_job **order = batch->order, *job;
	unsigned int nr = 0, at;
	bool is_share;

	for (job = batch->jobs; job < batch->jobs + batch->nr_jobs; job++) {
		is_share = job->kind == KSM_JOB_SHARE;
		if (job->err || is_share != share)
			continue;
		for (at = nr++; at && ksm_job_before(job, order[at - 1]); at--)
			order[at] = order[at - 1];
		order[at] = job;
	}
	return nr;
}

/* Those that make KSM pages, or all others. */
static void ksm_do_some(struct ksm_batch *batch, bool share)
{
	unsigned int nr = ksm_order_jobs(batch, share), from, to;
	struct ksm_job **order = batch->order;

	for (from = 0; from < nr; from = to) {
		for (to = from + 1; to < nr; to++)
			if (order[to]->spot.kmm != order[from]->spot.kmm)
				break;
		ksm_do_jobs(order[from]->spot.kmm, order + from, to - from);
	}
}

/* Those that wait for a KSM page: has it come to be? */
static void ksm_take_first(struct ksm_batch *batch)
{
	struct ksm_job *job;

	for (job = batch->jobs; job < batch->jobs + batch->nr_jobs; job++) {
		if (!job->first)
			continue;
		if (job->first->err) {
			job->err = -ESTALE;
			continue;
		}
		job->node = job->first->node;
		refcount_inc(&job->node->refs);
	}
}

/*
 * A page that was to become a KSM page, and the one that is equal to it in the
 * job behind.  If the one has not, the other waits for a better one; if nobody
 * has joined it, it is not to be left shared alone.
 */
static void ksm_settle_share(struct ksm_job *share)
{
	const struct ksm_job *other = share + 1;

	if (share->err) {
		ksm_candidate_set(&share->key, &other->spot);
		return;
	}
	ksm_candidate_drop(&share->key);
	if (READ_ONCE(share->node->nr_mappings) < 2)
		ksm_break_spot(&share->spot, 1);
}

/*
 * Is a page what it was found as, and in nobody's hands any more?  It may have
 * been moved since.
 */
static bool ksm_find_again(struct ksm_batch *batch, struct ksm_found *found)
{
	struct ksm_spot spot = ksm_spot_of(batch, found);

	if (!ksm_look_again(&spot, found->fingerprint))
		return false;
	found->pfn = spot.pfn;
	found->nid = spot.nid;
	return true;
}

/* How often to try again what did not work for other reasons than room. */
#define KSM_MATCH_TRIES		3

/* A page that could not be merged as it was tried, but may be otherwise. */
static void ksm_match_again(struct ksm_batch *batch, struct ksm_found *found,
			    bool progress)
{
	int err = found->err;

	found->err = 0;
	switch (err) {
	case -ENOSPC:
		if (!progress)
			return;
		break;
	case -EBUSY:
		/* Not all mms can be locked at once */
		if (progress)
			break;
		fallthrough;
	case -ESTALE:
	case -EAGAIN:
	case -EILSEQ:
	case -EHWPOISON:
		if (found->tries++ == KSM_MATCH_TRIES)
			return;
		break;
	default:
		return;
	}
	if (ksm_collides(batch->kmm))
		return;
	if (found->kind == KSM_FOUND_FOLD)
		ksm_match_fold(batch, found);
	else if (err == -EILSEQ || err == -EHWPOISON)
		ksm_match_candidate(batch, found);
	else if (err != -EAGAIN || ksm_find_again(batch, found))
		ksm_match(batch, found);
}

/*
 * Do what there is to be done.  There may be new jobs then, but not for ever:
 * pages are tried again a few times, and those for which there was no room as
 * long as others are merged.
 */
static void ksm_run_jobs(struct ksm_batch *batch)
{
	bool progress = false;
	struct ksm_job *job;
	unsigned int i;

	ksm_do_some(batch, true);
	ksm_take_first(batch);
	ksm_do_some(batch, false);

	for (job = batch->jobs; job < batch->jobs + batch->nr_jobs; job++) {
		if (job->kind == KSM_JOB_SHARE)
			ksm_settle_share(job);
		else if (!job->err)
			progress = true;
		if (job->err == -EILSEQ) {
			batch->kmm->collisions++;
			if (job->node)
				ksm_index_turn(job->node);
		}
		if (job->found)
			job->found->err = job->err;
	}
	for (job = batch->jobs; job < batch->jobs + batch->nr_jobs; job++) {
		if (job->node)
			ksm_put_node(job->node);
		ksm_put_mm(job->spot.kmm);
	}
	batch->nr_jobs = 0;
	/* Nothing is to be done in their mms now: let others at them */
	ksm_unlock_others(batch);
	for (i = 0; i < batch->nr; i++)
		ksm_match_again(batch, &batch->found[i], progress);
}

/* ------------------------------------------------------------------------- the pages */

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

/* For how many passes has a page kept still that was last seen so? */
static unsigned int ksm_still(u64 last, const struct ksm_found *found)
{
	unsigned int still = FIELD_GET(KSM_WORD_STILL, last);

	if (!(last & KSM_WORD_PAGE) ||
	    (last & KSM_WORD_FINGERPRINT) != found->fingerprint)
		return 0;
	/* Its entry was clean and is not: somebody has written the same to it */
	if ((last & KSM_WORD_WATCHED) && !found->watched)
		return KSM_STILL_REWRITTEN;
	/* That was long ago */
	if ((last & KSM_WORD_WATCHED) && still == KSM_STILL_REWRITTEN)
		return KSM_STILL_WATCH;
	return still < KSM_STILL_WATCH ? still + 1 : still;
}

static void ksm_scan_page(struct ksm_batch *batch, struct ksm_found *found)
{
	struct ksm_mm *kmm = batch->kmm;
	u64 *word = ksm_word(kmm, found->addr, true);
	u64 last, fingerprint = found->fingerprint;
	struct ksm_mapping *mapping;
	unsigned long still;

	if (!word)
		return;
	ksm_seen(ksm_filter_mark(batch, fingerprint));
	last = ksm_last_seen(*word);
	/* It was merged when we last looked, and has been written to since */
	mapping = ksm_word_mapping(*word);
	if (mapping && !ksm_drop_word(kmm, word, KSM_DROP_TRY)) {
		mapping->fingerprint = fingerprint;
		return;
	}

	still = ksm_still(last, found);
	ksm_set_word(kmm, word, fingerprint | KSM_WORD_PAGE |
				FIELD_PREP(KSM_WORD_STILL, still) |
				(found->watched ? KSM_WORD_WATCHED : 0) |
				(last & (KSM_WORD_AGE | KSM_WORD_SKIPS)));
	if (still)
		ksm_match(batch, found);
}

/* How many such pages come one after another from here on?  0 if not the first. */
static unsigned long ksm_foreign_run(const struct ksm_batch *batch,
				     const struct ksm_found *first)
{
	const struct ksm_found *found = first, *end = batch->found + batch->nr;
	unsigned long addr = first->addr;

	if (first > batch->found && first[-1].kind == KSM_FOUND_FOREIGN &&
	    first[-1].addr + PAGE_SIZE == addr)
		return 0;
	while (found < end && found->kind == KSM_FOUND_FOREIGN &&
	       found->addr == addr) {
		addr += PAGE_SIZE;
		found++;
	}
	return found - first;
}

/*
 * A KSM page of a domain that the mm has left.  What was in it is known to have
 * kept still: the next pass may merge it with what it finds in the new domain.
 */
static void ksm_leave_page(struct ksm_batch *batch, struct ksm_found *found)
{
	u64 *word = ksm_word(batch->kmm, found->addr, false);
	struct ksm_mapping *mapping = word ? ksm_word_mapping(*word) : NULL;
	unsigned long run = ksm_foreign_run(batch, found);
	struct ksm_spot spot = ksm_spot_of(batch, found);
	u64 known;

	if (run)
		ksm_break_spot(&spot, run);
	if (!mapping)
		return;
	known = mapping->fingerprint | KSM_WORD_PAGE;
	if (ksm_drop_word(batch->kmm, word, KSM_DROP_TRY))
		ksm_set_word(batch->kmm, word, known);
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

static void ksm_process_found(struct ksm_batch *batch, struct ksm_found *found)
{
	const struct ksm_spot spot = ksm_spot_of(batch, found);
	struct ksm_mm *kmm = batch->kmm;
	u64 *word;

	if (found->kind == KSM_FOUND_PAGE) {
		ksm_scan_page(batch, found);
		return;
	}
	if (found->kind == KSM_FOUND_FOREIGN) {
		ksm_leave_page(batch, found);
		return;
	}
	word = ksm_word(kmm, found->addr, found->kind == KSM_FOUND_KSM);
	if (!word)
		return;
	switch (found->kind) {
	case KSM_FOUND_KNOWN:
		if (*word & KSM_WORD_PAGE)
			ksm_match(batch, found);
		break;
	case KSM_FOUND_KSM:
		if (ksm_drop_word(kmm, word, KSM_DROP_TRY))
			ksm_adopt(&spot);
		break;
	case KSM_FOUND_FOLD:
		ksm_match_fold(batch, found);
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

	batch->nr_jobs = 0;
	batch->nr_others = 0;
	for (i = 0; i < batch->nr; i++) {
		batch->found[i].err = 0;
		batch->found[i].tries = 0;
		ksm_window(KSM_WINDOW_FOUND);
		ksm_process_found(batch, &batch->found[i]);
		cond_resched();
	}
	do {
		ksm_run_jobs(batch);
	} while (batch->nr_jobs);
	ksm_unlock_others(batch);
	atomic_long_add(batch->scanned, &ksm_counters.scanned);
	atomic_long_add(batch->unchanged, &ksm_counters.unchanged);
	atomic_long_add(batch->skipped, &ksm_counters.skipped);
}
