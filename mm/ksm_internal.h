/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the files of KSM share: the objects, who may change which field, and
 * the few functions one file offers another.
 *
 * Direction of calls: scan -> collect, match and reap -> candidates, merge
 * (-> frame) and unmerge -> records -> stable nodes with their index, rmap and
 * domains.  All of them may ask the registry which mms there are, and what
 * becomes of them; it calls ksm_break() when an area leaves.  From below come
 * only kicks: ksm_wake() and ksm_reap_later().  sysfs stands outside, and so do
 * ksm_set_run() and the like in ksm.c, which it calls.
 *
 * Locks, outermost first:
 *
 *	ksm_control_lock	read: scanning; write: run, scan_threads and the
 *				knobs that may only change while nothing is
 *				shared
 *	  ksm_sweep_mutex	one sweep over all stable nodes at a time, in
 *				the memory notifier without the one above
 *	  advisor_lock		nothing is taken under it
 *	  ksm_mm.lock		records of one mm.  Others, some at a time, are
 *				only ever tried, never waited for
 *	    mm->mmap_lock	one mm at a time
 *	      folio lock	merging takes those of 32 pages and of the KSM
 *				pages they are merged into, all of them by
 *				trying only; frames that are to be KSM pages
 *				are locked before mmap_lock: nobody has them
 *		anon_vma lock
 *		  page table lock
 *	ksm_mm_lock, index lock, candidate lock, ksm_stable_node.lock
 *				spin locks, innermost, never nested
 *	  ksm_domain_lock	but for this one, which is inside of any
 *
 * ksmd holds ksm_control_lock for its helpers too, and lets it go when they
 * have finished.
 *
 * ksm_migrate_page() runs with both folio locks held and perhaps with
 * interrupts off, so it takes no lock at all.  __ksm_exit() waits for whoever
 * is inside the mm by taking its mmap_lock: all work on an mm's page tables
 * is done under mmap_lock, after a look at ksm_mm_dying().
 */
#ifndef __MM_KSM_INTERNAL_H
#define __MM_KSM_INTERNAL_H

#include <linux/bits.h>
#include <linux/hash.h>
#include <linux/ksm.h>
#include <linux/list.h>
#include <linux/llist.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/oom.h>
#include <linux/refcount.h>
#include <linux/rhashtable-types.h>
#include <linux/rwsem.h>
#include <linux/seq_file.h>
#include <linux/xarray.h>

/**
 * enum ksm_window - moments in which others may come by
 *
 * Each is between two steps of which the code claims that whatever happens
 * meanwhile does no harm.
 *
 * @KSM_WINDOW_GET_PFN: get_ksm_page() knows the pfn, and looks at the mapping
 * @KSM_WINDOW_GET_MAPPING: the mapping is the node; now for a reference
 * @KSM_WINDOW_GET_REF: it has a reference, and looks at the mapping again
 * @KSM_WINDOW_GET_HELD: the reference is to the right page, which it holds still
 * @KSM_WINDOW_GET_GONE: the mapping was another: has the page moved?
 * @KSM_WINDOW_MIGRATE_PFN: ksm_migrate_page() is about to store the pfn,
 * @KSM_WINDOW_MIGRATE_MOVES: to count the move,
 * @KSM_WINDOW_MIGRATE_MAPPING: to clear the old mapping
 * @KSM_WINDOW_SHARE: a node is filed before its page belongs to it
 * @KSM_WINDOW_PROTECT: a page was found, and is to be write-protected
 * @KSM_WINDOW_REPLACE: two pages were equal, and one is to be replaced
 * @KSM_WINDOW_FOUND: a batch was collected, and nothing of it is held
 * @KSM_WINDOW_BREAK: KSM pages are to be given up, and nothing is held
 * @KSM_WINDOW_EXIT: an mm is marked as exiting, and scanners may be inside
 */
enum ksm_window {
	KSM_WINDOW_GET_PFN,
	KSM_WINDOW_GET_MAPPING,
	KSM_WINDOW_GET_REF,
	KSM_WINDOW_GET_HELD,
	KSM_WINDOW_GET_GONE,
	KSM_WINDOW_MIGRATE_PFN,
	KSM_WINDOW_MIGRATE_MOVES,
	KSM_WINDOW_MIGRATE_MAPPING,
	KSM_WINDOW_SHARE,
	KSM_WINDOW_PROTECT,
	KSM_WINDOW_REPLACE,
	KSM_WINDOW_FOUND,
	KSM_WINDOW_BREAK,
	KSM_WINDOW_EXIT,
};

void ksm_window_wait(enum ksm_window window);

/**
 * ksm_window - mark such a moment; CONFIG_KSM_DEBUG makes it long
 * @window: which
 *
 * Context: any.
 */
static inline void ksm_window(enum ksm_window window)
{
	if (IS_ENABLED(CONFIG_KSM_DEBUG))
		ksm_window_wait(window);
}

/* ------------------------------------------------------------------ knobs */

/* What has been written to /sys/kernel/mm/ksm/run. */
enum ksm_run {
	KSM_STOP,
	KSM_MERGE,
	KSM_UNMERGE,
};

/* What has been written to /sys/kernel/mm/ksm/advisor_mode. */
enum ksm_advisor_mode {
	KSM_ADVISOR_NONE,
	KSM_ADVISOR_SCAN_TIME,
};

/**
 * enum ksm_domain_kind - within what pages are merged
 *
 * What has been written to /sys/kernel/mm/ksm/merge_domain.
 *
 * @KSM_DOMAIN_SYSTEM: everywhere
 * @KSM_DOMAIN_USER: the processes of a user, in one user namespace
 * @KSM_DOMAIN_CGROUP: a memory cgroup, without those below it
 * @KSM_DOMAIN_PROCESS: one address space
 */
enum ksm_domain_kind {
	KSM_DOMAIN_SYSTEM,
	KSM_DOMAIN_USER,
	KSM_DOMAIN_CGROUP,
	KSM_DOMAIN_PROCESS,
};

/**
 * struct ksm_knobs - what the admin has set
 * @run: one of enum ksm_run; changed under ksm_control_lock for write
 * @max_page_sharing: most mappings that merging gives one KSM page; changed
 *	under ksm_control_lock for write, while nothing is shared
 * @merge_across_nodes: may pages of different NUMA nodes be merged; changed
 *	like @max_page_sharing
 * @relocate: make KSM pages in fresh frames; READ_ONCE/WRITE_ONCE
 * @merge_domain: one of enum ksm_domain_kind, within which pages are merged;
 *	changed like @max_page_sharing
 * @scan_threads: how many threads scan, ksmd being one of them; changed under
 *	ksm_control_lock for write
 * @pages_to_scan: pages they look at, all together, between two sleeps
 * @sleep_millisecs: how long it sleeps
 * @prune_millisecs: least time between two sweeps for stale stable nodes
 * @use_zero_pages: map empty pages to the kernel's zero page
 * @smart_scan: visit pages that never merged less often
 *
 * Fields without a rule are read and written with READ_ONCE/WRITE_ONCE and
 * take effect when they are next looked at.
 */
struct ksm_knobs {
	enum ksm_run run;
	unsigned int max_page_sharing;
	bool merge_across_nodes;
	unsigned int merge_domain;
	bool relocate;
	unsigned int scan_threads;

	unsigned int pages_to_scan;
	unsigned int sleep_millisecs;
	unsigned int prune_millisecs;
	bool use_zero_pages;
	bool smart_scan;
};

extern struct ksm_knobs ksm_knobs;
extern struct rw_semaphore ksm_control_lock;

/* All has been unmerged, and run was not 1 since; changed like ksm_knobs.run */
extern bool ksm_given_up;

/**
 * struct ksm_counters - what KSM tells the admin about itself
 * @full_scans: passes over all registered memory; 0 again after run = 2
 * @scanned: pages looked at since boot
 * @skipped: pages that smart scan passed over since boot
 * @unchanged: pages scanned since boot that were known to be unchanged, and
 *	not read
 * @tracked: pages there is a record for now, merged or not
 * @unshared: of these, pages unchanged since the last pass but still alone
 * @shared: KSM pages with at least one recorded mapping
 * @sharing: recorded mappings beyond the first of each KSM page
 * @chains: contents that more than one KSM page holds
 * @dups: KSM pages that hold such a content
 * @migrated: KSM pages that migration has moved since boot
 * @metadata: bytes that all records and indexes take now
 */
struct ksm_counters {
	atomic_long_t full_scans;
	atomic_long_t scanned;
	atomic_long_t skipped;
	atomic_long_t unchanged;
	atomic_long_t tracked;
	atomic_long_t unshared;
	atomic_long_t shared;
	atomic_long_t sharing;
	atomic_long_t chains;
	atomic_long_t dups;
	atomic_long_t migrated;
	atomic_long_t metadata;
};

extern struct ksm_counters ksm_counters;

/* ------------------------------------------------------- objects: merging */

/**
 * struct ksm_key - what pages must have in common to be looked at together
 * @fingerprint: ksm_fingerprint() of the content
 * @domain: those who may share it; NULL if that is the whole system
 * @nid: NUMA node, or NUMA_NO_NODE while pages are merged across nodes
 *
 * No padding: the hash tables compare all of it.
 */
struct ksm_key {
	u64 fingerprint;
	struct ksm_domain *domain;
	long nid;
};

/* The fingerprint is a keyed hash already: spread it and be done. */
static inline u32 ksm_hash_key(const void *data, u32 len, u32 seed)
{
	const struct ksm_key *key = data;

	return (u32)(key->fingerprint >> 32) ^ seed ^ (u32)key->nid ^
	       hash_ptr(key->domain, 32);
}

/**
 * struct ksm_stable_node - stands for one KSM page
 * @kpfn: where the page is now; with KSM_PFN_GONE set, where it was before the
 *	node was retired.  Written by ksm_migrate_page() and ksm_retire(), read
 *	without a lock; see get_ksm_page()
 * @moves: how often migration has moved the page; written with @kpfn, so
 *	that a page which comes back to an old pfn is not mistaken for gone
 * @key: under which the index files the node, with a reference to the domain.
 *	Set for good, but for the NUMA node, which is written under the index
 *	lock.
 * @filed: the index finds the node.  Index lock.
 * @first: the index's table holds the node, and the others of its key stand
 *	behind it in @siblings.  Index lock.
 * @refs: one of the index, one of every mapping record, one of the queue of
 *	moved nodes, and those of whoever looks at the node
 * @lock: guards @mappings and @nr_mappings
 * @nr_mappings: how many records @mappings holds; read without a lock where
 *	a wrong guess costs no more than a second look
 * @fold_pass: the pass in which the page's mappings are to be moved to others
 *	of its content; see ksm_folding()
 * @collides: the page is not equal to others of its key, and never folded
 * @mappings: records of the page's mappings.  Changed with @lock held and,
 *	while the page exists, with the page locked as well: so holding either
 *	of them keeps the list still
 * @hash: place in the index's table.  Index lock.
 * @siblings: ring of the nodes of one key, the newest first.  Index lock.
 * @all: place in the list of all nodes, for sweeps.  Index lock.
 * @rcu: for freeing, when the node has left that list
 * @moved: place in the queue of nodes whose page changed its NUMA node
 * @moved_queued: bit 0: the node is in that queue
 *
 * The page points back with folio->mapping.
 */
struct ksm_stable_node {
	unsigned long kpfn;
	unsigned long moves;
	struct ksm_key key;
	bool filed;
	bool first;
	bool collides;
	unsigned int fold_pass;
	refcount_t refs;
	spinlock_t lock;	/* @mappings, @nr_mappings */
	unsigned int nr_mappings;
	struct hlist_head mappings;
	struct rhash_head hash;
	struct list_head siblings;
	union {
		struct list_head all;
		struct rcu_head rcu;
	};
	struct llist_node moved;
	unsigned long moved_queued;
};

#define KSM_PFN_GONE	BIT(BITS_PER_LONG - 1)

/**
 * struct ksm_mapping - record of one mapping of a KSM page
 * @node: the KSM page; the record holds a reference to the node
 * @anon_vma: through which the mapping and its later forks are found; the
 *	record holds a reference to it
 * @pgoff: the page's offset in @anon_vma, the same for all these mappings
 *	and unchanged by split, merge and move of their areas
 * @fingerprint: of what was last seen at the address: of the KSM page, or of
 *	another that is there now, while the record is still needed.
 *	ksm_mm.lock of the ksm_mm it belongs to.
 * @link: in node->mappings
 *
 * It belongs to the ksm_mm that found it: struct ksm_chunk points to it.
 */
struct ksm_mapping {
	struct ksm_stable_node *node;
	struct anon_vma *anon_vma;
	pgoff_t pgoff;
	u64 fingerprint;
	struct hlist_node link;
};

/* ------------------------------------------------------ objects: scanning */

/* The low bits of a fingerprint are free. */
#define KSM_FINGERPRINT_SHIFT	14

/*
 * What is remembered of a page fits in 8 bytes.  A word is one of
 *
 * - 0: nothing is known
 * - the address of a struct ksm_mapping with KSM_WORD_MAPPING set: the page
 *   is merged
 * - KSM_WORD_PAGE, the page's fingerprint of the last pass, in how many passes
 *   it has been the same, and how often it has been looked at to no avail
 */
#define KSM_WORD_MAPPING	BIT_ULL(0)
#define KSM_WORD_PAGE		BIT_ULL(1)
#define KSM_WORD_WATCHED	BIT_ULL(2)	/* its entry was clean when read */
#define KSM_WORD_AGE		GENMASK_ULL(6, 3)
#define KSM_WORD_SKIPS		GENMASK_ULL(10, 7)
#define KSM_WORD_STILL		GENMASK_ULL(13, 11)	/* passes; alone, if any */
#define KSM_WORD_FINGERPRINT	GENMASK_ULL(63, KSM_FINGERPRINT_SHIFT)

/*
 * What is in KSM_WORD_STILL of a page that has kept still for long, and of one
 * that was watched and has been written to, with what it had already.
 */
#define KSM_STILL_WATCH		6
#define KSM_STILL_REWRITTEN	7

#define KSM_CHUNK_PAGES		64
#define KSM_CHUNK_SHIFT		(PAGE_SHIFT + 6)

/**
 * struct ksm_chunk - what KSM remembers of 64 pages of address space
 * @words: one for each page, see KSM_WORD_*
 */
struct ksm_chunk {
	u64 words[KSM_CHUNK_PAGES];
};

/**
 * struct ksm_mm - an address space that takes part
 * @mm: the address space, held with mmgrab() as long as this object lives
 * @refs: one of the registry, and those of scanners and candidates
 * @link: in the list of those to scan or of those that have exited.
 *	ksm_mm_lock.
 * @hash: finds this by @mm.  ksm_mm_lock.
 * @begun: in the list of those that have been begun in this pass, and not
 *	scanned to their end.  Changed under ksm_mm_lock; a thread that scans
 *	takes the mm off it with @lock held as well
 * @scanners: how many threads are at it.  ksm_mm_lock.
 * @nid: NUMA node on which its pages were found lately; written under @lock,
 *	read without
 * @sweep: the last sweep over all mms that has been here.  ksm_mm_lock.
 * @lingers: the mm has exited, and left records that others need.  Of who has
 *	taken it from the list of those that have.
 * @lock: guards the fields below and the mm's counters of KSM.  Taken before
 *	mmap_lock; whoever holds one may only try a second one.
 * @chunks: struct ksm_chunk by address >> KSM_CHUNK_SHIFT
 * @domain: with whom it may share, as of the last ksm_settle_domain(), with a
 *	reference; NULL if that is the whole system, or not known yet
 * @scan_addr: where scanning goes on; reset when nobody scans
 * @collisions: how many of its pages were found lately by the fingerprint of
 *	others that they are not equal to
 * @metadata: bytes of @chunks and of the records they point to; written
 *	under @lock, read without
 */
struct ksm_mm {
	struct mm_struct *mm;
	refcount_t refs;
	struct list_head link;
	struct rhash_head hash;
	struct list_head begun;
	unsigned int scanners;
	int nid;

	unsigned long sweep;
	bool lingers;

	struct mutex lock;	/* @chunks and all below */
	struct xarray chunks;
	struct ksm_domain *domain;
	unsigned long scan_addr;
	unsigned int collisions;
	long metadata;
};

/* -------------------------------------------------- ksm.c: stable nodes */

/* What get_ksm_page() is to do about the folio lock. */
enum ksm_get {
	KSM_GET_NOLOCK,
	KSM_GET_TRYLOCK,
	KSM_GET_LOCK,
};

/**
 * enum ksm_drop - at what cost a record of a mapping may be dropped
 * @KSM_DROP_TRY: those whose page can be locked at once
 * @KSM_DROP_WAIT: waits for the lock
 *
 * Whatever the cost, a record through which alone a mapping is found stays
 * (ksm_mapping_needed()).
 */
enum ksm_drop {
	KSM_DROP_TRY,
	KSM_DROP_WAIT,
};

struct folio *get_ksm_page(struct ksm_stable_node *node, enum ksm_get how);
struct ksm_stable_node *folio_stable_node(const struct folio *folio);
struct ksm_stable_node *ksm_new_node(const struct ksm_key *key);
void ksm_put_node(struct ksm_stable_node *node);
void ksm_make_stable(struct folio *folio, struct ksm_stable_node *node);
void ksm_let_go(struct folio *folio, struct ksm_stable_node *node);
struct ksm_mapping *ksm_new_mapping(void);
void ksm_free_mapping(struct ksm_mapping *mapping);
void ksm_free_mappings(void **mappings, unsigned int nr);
void ksm_link_mapping(struct ksm_mapping *mapping,
		      struct ksm_stable_node *node,
		      struct anon_vma *anon_vma, pgoff_t pgoff);
void ksm_move_mapping(struct ksm_mapping *mapping, struct folio *folio,
		      struct ksm_stable_node *node);
bool ksm_unlink_mapping(struct ksm_mapping *mapping, enum ksm_drop drop);
void ksm_prune(void);
void ksm_count_by_nid(unsigned long *counts);
int ksm_set_run(unsigned int run);
int ksm_lock_unshared(void);

/* ----------------------------------------------- ksm_registry.c: who */

int ksm_registry_init(void);
void ksm_sweep_mms(void);
struct ksm_mm *ksm_next_mm(struct ksm_mm *kmm);
struct ksm_mm *ksm_cursor_mm(struct ksm_mm *kmm, int nid);
void ksm_cursor_leave(struct ksm_mm *kmm);
void ksm_cursor_start(void);
void ksm_cursor_reset(void);
bool ksm_cursor_begun(struct ksm_mm *kmm);
void ksm_cursor_done(struct ksm_mm *kmm);
bool ksm_cursor_at_end(void);
void ksm_unregister(struct ksm_mm *kmm);
void ksm_take_dead_mms(struct list_head *dead);
void ksm_bury_mm(struct ksm_mm *kmm);
void ksm_return_dead_mms(struct list_head *dead);
bool ksm_have_mm(void);
bool ksm_have_dead_mm(void);
bool ksm_mm_torn_down(struct mm_struct *mm);
unsigned long ksm_expected_pages(void);
void ksm_get_mm(struct ksm_mm *kmm);
void ksm_put_mm(struct ksm_mm *kmm);
bool ksm_mm_dying(struct mm_struct *mm);
struct vm_area_struct *ksm_find_vma(struct mm_struct *mm, unsigned long addr);

/* ----------------------------------- ksm_scan.c: ksmd and its helpers */

int ksm_scan_init(void);
void ksm_wake(void);
void ksm_abandon_pass(void);
u64 ksm_scan_runtime(void);
int ksm_set_threads(unsigned int nr);

/* ------------------------------- ksm_record.c: what is remembered */

/**
 * ksm_word_mapping - the record of a merged page
 * @word: the page's
 *
 * Return: the record, NULL if the page is not known to be merged.
 */
static inline struct ksm_mapping *ksm_word_mapping(u64 word)
{
	if (!(word & KSM_WORD_MAPPING))
		return NULL;
	return (struct ksm_mapping *)(unsigned long)(word & ~KSM_WORD_MAPPING);
}

void ksm_record_init(void);
u64 *ksm_word(struct ksm_mm *kmm, unsigned long addr, bool create);
void ksm_set_word(struct ksm_mm *kmm, u64 *word, u64 value);
void ksm_word_set_mapping(struct ksm_mm *kmm, u64 *word,
			  struct ksm_mapping *mapping);
bool ksm_drop_word(struct ksm_mm *kmm, u64 *word, enum ksm_drop drop);
bool ksm_remembers(struct ksm_mm *kmm, unsigned long start, unsigned long end);
unsigned long ksm_forget(struct ksm_mm *kmm, unsigned long start,
			 unsigned long end, enum ksm_drop drop,
			 unsigned int *looks);

/* ---------------------- ksm_reap.c: what mms leave that have exited */

/**
 * enum ksm_reap - which mms that have exited are to be looked at
 * @KSM_REAP_NEW: those that have exited lately
 * @KSM_REAP_OLD: also those that had left what others needed
 */
enum ksm_reap {
	KSM_REAP_NEW,
	KSM_REAP_OLD,
};

void ksm_reap(enum ksm_reap which);
void ksm_reap_later(void);

/* ---------------------------- ksm_fingerprint.c: pages in 64 bits */

void ksm_fingerprint_init(void);
u64 ksm_fingerprint_ahead(struct page *page, struct page *next);
bool ksm_is_zero_fingerprint(u64 fingerprint);
int ksm_fingerprint_show(struct seq_file *seq, void *unused);

/**
 * ksm_fingerprint - of a page's content, if it is not known what is read next
 * @page: need not be locked, nor keep still
 *
 * Context: any.
 * Return: as ksm_fingerprint_ahead().
 */
static inline u64 ksm_fingerprint(struct page *page)
{
	return ksm_fingerprint_ahead(page, page);
}

/* ---------------------------------------- ksm_index.c: KSM pages of a content */

/* What an object in an rhashtable costs: itself, and about two buckets. */
#define KSM_HASHED_BYTES(object)	(sizeof(object) + 2 * sizeof(void *))

int ksm_index_init(void);
struct ksm_key ksm_make_key(u64 fingerprint, struct ksm_domain *domain,
			    int nid);
int ksm_index_add(struct ksm_stable_node *node, int nid);
bool ksm_index_remove(struct ksm_stable_node *node);
struct ksm_stable_node *ksm_index_find(const struct ksm_key *key);
void ksm_index_turn(struct ksm_stable_node *node);
struct ksm_stable_node *ksm_index_find_fold(struct ksm_stable_node *node);
void ksm_index_plan_folds(void);
bool ksm_folding(const struct ksm_stable_node *node);
void ksm_index_moved(struct ksm_stable_node *node);
bool ksm_index_empty(void);
int ksm_index_for_each(int (*visit)(struct ksm_stable_node *node, void *arg),
		       void *arg);
void ksm_index_roomy(struct ksm_stable_node *node);
void ksm_index_start_pass(void);

/* ------------------------ ksm_candidate.c: who may have an equal */

/**
 * struct ksm_spot - a place that holds a page
 * @kmm: the address space; a spot that is handed out holds a reference to it
 * @addr: the page's address in it
 * @pfn: the page that was found there, perhaps another by now
 * @nid: its NUMA node
 */
struct ksm_spot {
	struct ksm_mm *kmm;
	unsigned long addr;
	unsigned long pfn;
	int nid;
};

int ksm_candidates_init(void);
void ksm_seen_soon(u64 mark);
bool ksm_seen(u64 mark);
bool ksm_seen_twice(u64 mark);
bool ksm_candidate_find(const struct ksm_key *key, struct ksm_spot *spot);
void ksm_candidate_set(const struct ksm_key *key, const struct ksm_spot *spot);
void ksm_candidate_drop(const struct ksm_key *key);
void ksm_candidates_start_pass(unsigned long pages);
void ksm_candidates_end_pass(void);
void ksm_candidates_idle(void);

/* ------------------------------------- ksm_merge.c, ksm_unmerge.c */

/* What is to become of a page. */
enum ksm_job_kind {
	KSM_JOB_SHARE,		/* it, or a copy of it, becomes a KSM page */
	KSM_JOB_MERGE,		/* a KSM page of its content is mapped instead */
	KSM_JOB_ZERO,		/* the same with the kernel's zero page */
	KSM_JOB_FOLD,		/* it is a KSM page: another is mapped instead */
};

/**
 * struct ksm_job - a page that is to be merged
 * @kind: how
 * @spot: where it is; holds a reference to the mm
 * @key: of its content
 * @node: the KSM page; holds a reference to the node.  KSM_JOB_SHARE makes it
 * @err: how it went, see ksm_do_jobs()
 * @first: the job that makes the KSM page, if that is still to be done
 * @found: the page in a batch, so that it can be tried again; may be NULL
 * @word: what is remembered of the page; this and the rest is for ksm_merge.c
 * @mapping: record of the mapping that is to be
 * @folio: the page, with a reference and locked
 * @kpage: the page that is mapped instead; NULL if a page becomes a KSM page
 *	where it is
 * @locked_kpage: this job has a reference to @kpage, and has locked it
 * @pte: the page's entry, write-protected
 */
struct ksm_job {
	enum ksm_job_kind kind;
	struct ksm_spot spot;
	struct ksm_key key;
	struct ksm_stable_node *node;
	int err;
	struct ksm_job *first;
	struct ksm_found *found;

	u64 *word;
	struct ksm_mapping *mapping;
	struct folio *folio;
	struct page *kpage;
	bool locked_kpage;
	pte_t pte;
};

void ksm_do_jobs(struct ksm_mm *kmm, struct ksm_job **jobs, unsigned int nr);
bool ksm_look_again(struct ksm_spot *spot, u64 fingerprint);
void ksm_adopt(const struct ksm_spot *spot);
int ksm_break(struct vm_area_struct *vma, unsigned long start,
	      unsigned long end, bool lock_vma);
void ksm_break_spot(const struct ksm_spot *spot, unsigned long nr);
int ksm_forget_mms(void);
int ksm_unmerge_all(void);

/* ------------------- ksm_collect.c, ksm_match.c: pages of a batch */

#define KSM_BATCH_PAGES		64
#define KSM_BATCH_OTHERS	8

/**
 * enum ksm_found_kind - what a batch is to do about a page
 * @KSM_FOUND_PAGE: an anonymous page, held by a reference until it has been
 *	fingerprinted
 * @KSM_FOUND_KNOWN: an anonymous page that was not read, because nobody has
 *	written to it or because smart scan leaves it alone, but that another
 *	may be like, by what is remembered of it
 * @KSM_FOUND_KSM: a KSM page there is no right record for
 * @KSM_FOUND_FOLD: a KSM page that is to be given up for another
 * @KSM_FOUND_FOREIGN: a KSM page of a domain that the mm is not part of
 * @KSM_FOUND_SWAPPED: swapped out, but there is a record of a KSM page
 * @KSM_FOUND_GONE: no page of ours any more
 */
enum ksm_found_kind {
	KSM_FOUND_PAGE,
	KSM_FOUND_KNOWN,
	KSM_FOUND_KSM,
	KSM_FOUND_FOLD,
	KSM_FOUND_FOREIGN,
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
 * @locked: its folio is locked until the TLB is flushed
 * @fingerprint: of its content
 * @err: why it has not been merged yet, see ksm_do_jobs()
 * @tries: how often it has been tried again
 */
struct ksm_found {
	unsigned long addr;
	enum ksm_found_kind kind;
	struct page *page;
	unsigned long pfn;
	int nid;
	bool watched;
	bool dirty;
	bool locked;
	u64 fingerprint;
	int err;
	unsigned int tries;
};

/**
 * struct ksm_batch - some pages of one mm
 * @kmm: the mm
 * @watches: clean entries tell which pages nobody has written to
 * @smart_scan: as the knob was when it was begun
 * @use_zero_pages: the same
 * @collides: its pages are not merged, see ksm_collides()
 * @salt: of the mm's domain
 * @turn: number of the pass; pages take turns in being read anyway
 * @due: how many passes ago it was the turn of those that are looked at
 * @nr: how many of @found are used
 * @entries: page table entries looked at
 * @scanned: pages that count as scanned
 * @unchanged: of these, those that are known without being read
 * @skipped: pages that smart scan has left alone
 * @limit: how many of them are enough
 * @next: address at which the next batch begins
 * @found: the pages
 * @jobs: what is to be done about them; of two that are to be one page, each
 *	has a job
 * @nr_jobs: how many of @jobs are used
 * @order: room for putting them in order
 * @others: mms of which the batch holds the lock, besides @kmm's
 * @nr_others: how many
 */
struct ksm_batch {
	struct ksm_mm *kmm;
	bool watches;
	bool smart_scan;
	bool use_zero_pages;
	bool collides;
	u64 salt;
	unsigned long turn;
	unsigned int due;
	unsigned int nr;
	unsigned int entries;
	unsigned int scanned;
	unsigned int unchanged;
	unsigned int skipped;
	unsigned int limit;
	unsigned long next;
	struct ksm_found found[KSM_BATCH_PAGES];
	struct ksm_job jobs[2 * KSM_BATCH_PAGES];
	unsigned int nr_jobs;
	struct ksm_job *order[2 * KSM_BATCH_PAGES];
	struct ksm_mm *others[KSM_BATCH_OTHERS];
	unsigned int nr_others;
};

/**
 * ksm_filter_mark - what the filter knows a page of a batch by
 * @batch: of which it is
 * @fingerprint: the page's
 *
 * Return: the fingerprint, as no other domain has it.
 */
static inline u64 ksm_filter_mark(const struct ksm_batch *batch,
				  u64 fingerprint)
{
	return fingerprint ^ batch->salt;
}

bool ksm_collect(struct ksm_batch *batch);
void ksm_fingerprint_batch(struct ksm_batch *batch);
void ksm_process_batch(struct ksm_batch *batch);
bool ksm_collides(const struct ksm_mm *kmm);
void ksm_forget_collisions(struct ksm_mm *kmm);

/* --------------------------- ksm_frame.c: where KSM pages live */

struct folio *ksm_new_frame(int nid);
void ksm_release_frame(struct folio *folio);
void ksm_free_reserve(void);
void ksm_free_frames(void);

/* --------------------------- ksm_domain.c: who may share with whom */

int ksm_domain_init(void);
struct ksm_domain *ksm_get_domain(struct ksm_domain *domain);
void ksm_put_domain(struct ksm_domain *domain);
bool ksm_settle_domain(struct ksm_mm *kmm);
u64 ksm_domain_salt(const struct ksm_domain *domain);
void ksm_count_mapping(struct ksm_domain *domain, bool first, int sign);
bool ksm_has_domains(enum ksm_domain_kind kind);

extern const struct seq_operations ksm_domains_sops;

/* ------------------------------------------- ksm_rmap.c: the mappings */

bool ksm_linked(struct vm_area_struct *vma, const struct anon_vma *anon_vma);
bool ksm_mapping_fits(const struct ksm_mapping *mapping,
		      struct vm_area_struct *vma, unsigned long addr);
bool ksm_maps(struct folio *kfolio, struct vm_area_struct *vma,
	      unsigned long addr);
bool ksm_rmap_finds(struct folio *kfolio, struct vm_area_struct *vma,
		    unsigned long addr);
bool ksm_mapping_needed(struct ksm_mapping *mapping, struct folio *kfolio,
			const struct vm_area_struct *except);

/* ----------------------------------------------------- ksm_advisor.c */

/**
 * struct ksm_advisor - what the admin asks of the advisor
 * @mode: which one; changed by ksm_advisor_set_mode()
 * @max_cpu: percent of a CPU that all threads together may use
 * @min_pages_to_scan: where the scan-time advisor starts
 * @max_pages_to_scan: how far it goes
 * @target_scan_time: seconds that a pass ought to take, at least 1
 *
 * All are read and written with READ_ONCE/WRITE_ONCE.
 */
struct ksm_advisor {
	enum ksm_advisor_mode mode;
	unsigned int max_cpu;
	unsigned long min_pages_to_scan;
	unsigned long max_pages_to_scan;
	unsigned long target_scan_time;
};

extern struct ksm_advisor ksm_advisor;

void ksm_advisor_start_pass(void);
void ksm_advisor_end_pass(void);
void ksm_advisor_set_mode(enum ksm_advisor_mode mode);
int ksm_advisor_set_pages(unsigned int pages);
u64 ksm_advise(unsigned int pages, u64 secs, u64 trend,
	       unsigned int cpu_percent);

/* ------------------------------------------------------- ksm_sysfs.c */

int ksm_parse_knob(const char *name, const char *buf, unsigned long *value);

#ifdef CONFIG_SYSFS
int ksm_sysfs_init(void);
#else
static inline int ksm_sysfs_init(void)
{
	return 0;
}
#endif

#endif /* __MM_KSM_INTERNAL_H */
