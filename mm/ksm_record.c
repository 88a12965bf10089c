// SPDX-License-Identifier: GPL-2.0-only
/*
 * KSM: what is remembered of each page, from one pass to the next.
 */
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <trace/events/ksm.h>
#include "internal.h"
#include "ksm_internal.h"

static struct kmem_cache *ksm_chunk_cache;

static void ksm_account(struct ksm_mm *kmm, long bytes)
{
	WRITE_ONCE(kmm->metadata, kmm->metadata + bytes);
	atomic_long_add(bytes, &ksm_counters.metadata);
}

static unsigned long ksm_chunk_index(unsigned long addr)
{
	return addr >> KSM_CHUNK_SHIFT;
}

static unsigned int ksm_word_index(unsigned long addr)
{
	return (addr >> PAGE_SHIFT) % KSM_CHUNK_PAGES;
}

/*
 * The first chunk at or behind an index, for addresses below @end.  All of them
 * are marked, for it is a mark that is found without looking at each empty slot.
 */
#define KSM_CHUNK_THERE		XA_MARK_0

static struct ksm_chunk *ksm_next_chunk(struct ksm_mm *kmm,
					unsigned long *index, unsigned long end)
{
	return xa_find(&kmm->chunks, index, ksm_chunk_index(end - 1),
		       KSM_CHUNK_THERE);
}

/**
 * ksm_word - what is remembered of a page
 * @kmm: the address space
 * @addr: the page's address
 * @create: make room for it if there is none
 *
 * Context: @kmm->lock held, as for as long as the word is used; may sleep.
 * Return: the word, NULL if there is none, or no memory for it.
 */
u64 *ksm_word(struct ksm_mm *kmm, unsigned long addr, bool create)
{
	struct ksm_chunk *chunk = xa_load(&kmm->chunks, ksm_chunk_index(addr));

	if (!chunk && create) {
		chunk = kmem_cache_zalloc(ksm_chunk_cache, GFP_KERNEL |
					  __GFP_NORETRY | __GFP_NOWARN);
		if (!chunk)
			return NULL;
		if (xa_err(xa_store(&kmm->chunks, ksm_chunk_index(addr), chunk,
				    GFP_KERNEL | __GFP_NOWARN))) {
			kmem_cache_free(ksm_chunk_cache, chunk);
			return NULL;
		}
		xa_set_mark(&kmm->chunks, ksm_chunk_index(addr),
			    KSM_CHUNK_THERE);
		ksm_account(kmm, sizeof(*chunk));
	}
	return chunk ? &chunk->words[ksm_word_index(addr)] : NULL;
}

/* Does the word count in pages_unshared? */
static bool ksm_word_unshared(u64 word)
{
	return !(word & KSM_WORD_MAPPING) && (word & KSM_WORD_STILL);
}

/**
 * ksm_set_word - change a word, and whatever counts such words
 * @kmm: the address space
 * @word: the page's
 * @value: what it is to be, see KSM_WORD_*
 *
 * Context: @kmm->lock held.
 */
void ksm_set_word(struct ksm_mm *kmm, u64 *word, u64 value)
{
	int unshared = ksm_word_unshared(value) - ksm_word_unshared(*word);
	int tracked = !!value - !!*word;

	if (unshared)
		atomic_long_add(unshared, &ksm_counters.unshared);
	if (tracked) {
		atomic_long_add(tracked, &ksm_counters.tracked);
		kmm->mm->ksm_rmap_items += tracked;
	}
	*word = value;
}

/**
 * ksm_word_set_mapping - the page has been merged
 * @kmm: the address space
 * @word: the page's, not of a merged page up to now
 * @mapping: the linked record
 *
 * Context: @kmm->lock held.
 */
void ksm_word_set_mapping(struct ksm_mm *kmm, u64 *word,
			  struct ksm_mapping *mapping)
{
	WARN_ON_ONCE(ksm_word_mapping(*word));
	ksm_set_word(kmm, word, (unsigned long)mapping | KSM_WORD_MAPPING);
	kmm->mm->ksm_merging_pages++;
	ksm_account(kmm, sizeof(*mapping));
}

/* Forget a page; its record, if it is a merged one, is then to be freed. */
static bool ksm_clear_word(struct ksm_mm *kmm, u64 *word, enum ksm_drop drop)
{
	struct ksm_mapping *mapping = ksm_word_mapping(*word);

	if (mapping) {
		unsigned long kpfn = READ_ONCE(mapping->node->kpfn) &
				     ~KSM_PFN_GONE;

		if (!ksm_unlink_mapping(mapping, drop))
			return false;
		trace_ksm_remove_rmap_item(kpfn, mapping, kmm->mm);
		kmm->mm->ksm_merging_pages--;
		ksm_account(kmm, -(long)sizeof(*mapping));
	}
	ksm_set_word(kmm, word, 0);
	return true;
}

/**
 * ksm_drop_word - forget a page
 * @kmm: the address space
 * @word: the page's; 0 on success
 * @drop: at what cost, if it is a merged one
 *
 * Context: @kmm->lock held; may sleep; no folio reference held unless @drop is
 * KSM_DROP_TRY.
 * Return: false if the record has to stay.
 */
bool ksm_drop_word(struct ksm_mm *kmm, u64 *word, enum ksm_drop drop)
{
	struct ksm_mapping *mapping = ksm_word_mapping(*word);

	if (!ksm_clear_word(kmm, word, drop))
		return false;
	ksm_free_mapping(mapping);
	return true;
}

static void ksm_free_chunk(struct ksm_mm *kmm, unsigned long index,
			   struct ksm_chunk *chunk)
{
	xa_erase(&kmm->chunks, index);
	kmem_cache_free(ksm_chunk_cache, chunk);
	ksm_account(kmm, -(long)sizeof(*chunk));
}

/* Those words of a chunk that stand for pages of a range, and how many. */
static u64 *ksm_words_of(struct ksm_chunk *chunk, unsigned long index,
			 unsigned long start, unsigned long end,
			 unsigned int *nr)
{
	unsigned int first = 0, last = KSM_CHUNK_PAGES - 1;

	if (index == ksm_chunk_index(start))
		first = ksm_word_index(start);
	if (index == ksm_chunk_index(end - 1))
		last = ksm_word_index(end - 1);
	*nr = last - first + 1;
	return chunk->words + first;
}

static bool ksm_chunk_empty(struct ksm_chunk *chunk)
{
	return !memchr_inv(chunk->words, 0, sizeof(chunk->words));
}

/**
 * ksm_remembers - is there anything for ksm_forget() to do in a range?
 * @kmm: the address space
 * @start: first address
 * @end: first address beyond
 *
 * Context: @kmm->lock held.
 * Return: true if so.
 */
bool ksm_remembers(struct ksm_mm *kmm, unsigned long start, unsigned long end)
{
	struct ksm_chunk *chunk;
	unsigned long index;
	unsigned int nr;
	u64 *words;

	if (start >= end)
		return false;
	for (index = ksm_chunk_index(start);
	     (chunk = ksm_next_chunk(kmm, &index, end)); index++) {
		words = ksm_words_of(chunk, index, start, end, &nr);
		if (memchr_inv(words, 0, nr * sizeof(*words)) ||
		    ksm_chunk_empty(chunk))
			return true;
	}
	return false;
}

/* What it costs to drop a record, in words that are not of merged pages. */
#define KSM_RECORD_LOOKS	64

/* Those that have to stay are left.  Returns how many looks it took. */
static unsigned int ksm_forget_words(struct ksm_mm *kmm, u64 *word,
				     unsigned int nr, enum ksm_drop drop)
{
	void *cleared[KSM_CHUNK_PAGES];
	unsigned int nr_cleared = 0, took = 0;
	struct ksm_mapping *mapping;

	for (; nr; nr--, word++) {
		mapping = ksm_word_mapping(*word);
		took += mapping ? KSM_RECORD_LOOKS : 1;
		if (*word && ksm_clear_word(kmm, word, drop) && mapping)
			cleared[nr_cleared++] = mapping;
	}
	ksm_free_mappings(cleared, nr_cleared);
	return took;
}

/**
 * ksm_forget - drop what is remembered of a range
 * @kmm: the address space
 * @start: first address
 * @end: first address beyond
 * @drop: at what cost; records that have to stay are left
 * @looks: after how many words to stop, one with a record counting for many;
 *	is reduced by what it took.  May be NULL, for all of them
 *
 * Context: @kmm->lock held; may sleep; no folio reference held unless @drop
 * is KSM_DROP_TRY.
 * Return: where it has stopped: @end if it is through.
 */
unsigned long ksm_forget(struct ksm_mm *kmm, unsigned long start,
			 unsigned long end, enum ksm_drop drop,
			 unsigned int *looks)
{
	struct ksm_chunk *chunk;
	unsigned int nr, took;
	unsigned long index;
	u64 *words;

	if (start >= end)
		return end;
	for (index = ksm_chunk_index(start);
	     (chunk = ksm_next_chunk(kmm, &index, end)); index++) {
		if (looks && !*looks)
			return index << KSM_CHUNK_SHIFT;
		words = ksm_words_of(chunk, index, start, end, &nr);
		took = ksm_forget_words(kmm, words, nr, drop);
		if (ksm_chunk_empty(chunk))
			ksm_free_chunk(kmm, index, chunk);
		if (looks)
			*looks -= min(*looks, took);
		cond_resched();
	}
	return end;
}

/**
 * ksm_record_init - at boot, once
 */
void __init ksm_record_init(void)
{
	ksm_chunk_cache = KMEM_CACHE(ksm_chunk, SLAB_PANIC);
}
