// SPDX-License-Identifier: GPL-2.0-only
/*
 * KSM: which address spaces and which of their areas take part.
 *
 * An mm is registered by its first MADV_MERGEABLE, by
 * prctl(PR_SET_MEMORY_MERGE), or by a fork or exec of such a process, and
 * leaves when it exits or when a scan finds no mergeable area in it.
 */
#include <linux/mman.h>
#include <linux/rhashtable.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <trace/events/ksm.h>
#include "internal.h"
#include "ksm_internal.h"

static const struct rhashtable_params ksm_mm_params = {
	.key_len		= sizeof_field(struct ksm_mm, mm),
	.key_offset		= offsetof(struct ksm_mm, mm),
	.head_offset		= offsetof(struct ksm_mm, hash),
	.automatic_shrinking	= true,
};

/*
 * ksm_mm_lock guards all of these.  From the cursor on are the mms that nobody
 * has begun to scan in this pass: none when it is the list's head, as it is
 * between two passes.
 */
static DEFINE_SPINLOCK(ksm_mm_lock);
static struct rhashtable ksm_mm_table;
static LIST_HEAD(ksm_mm_list);
static LIST_HEAD(ksm_dead_list);
static unsigned long ksm_nr_dead;	/* also those that are off the list */
static struct list_head *ksm_cursor = &ksm_mm_list;
static LIST_HEAD(ksm_begun_list);
static unsigned long ksm_sweep;

/* ---------------------------------------------------------------- the objects */

/**
 * ksm_get_mm - take a reference to a registered mm
 * @kmm: to which there is a reference already
 */
void ksm_get_mm(struct ksm_mm *kmm)
{
	refcount_inc(&kmm->refs);
}

/**
 * ksm_put_mm - drop a reference to a registered mm
 * @kmm: may be NULL
 *
 * Context: may sleep.
 */
void ksm_put_mm(struct ksm_mm *kmm)
{
	if (!kmm || !refcount_dec_and_test(&kmm->refs))
		return;
	WARN_ON_ONCE(!xa_empty(&kmm->chunks));
	atomic_long_sub(sizeof(*kmm), &ksm_counters.metadata);
	ksm_put_domain(kmm->domain);
	mmdrop(kmm->mm);
	kfree(kmm);
}

/* Is it registered, and alive?  ksm_mm_lock held. */
static bool ksm_mm_listed(struct ksm_mm *kmm)
{
	return rhashtable_lookup_fast(&ksm_mm_table, &kmm->mm,
				      ksm_mm_params) == kmm;
}

/* ksm_mm_lock held; the caller inherits the registry's reference. */
static void ksm_unlink_mm(struct ksm_mm *kmm)
{
	if (ksm_cursor == &kmm->link)
		ksm_cursor = kmm->link.next;
	list_del_init(&kmm->link);
	list_del_init(&kmm->begun);
	rhashtable_remove_fast(&ksm_mm_table, &kmm->hash, ksm_mm_params);
}

/**
 * __ksm_enter - register an mm
 * @mm: not registered; MMF_VM_MERGEABLE says so
 *
 * Context: may sleep; mmap_lock of @mm held for write, or nobody else knows it.
 * Return: 0 or -ENOMEM.
 */
int __ksm_enter(struct mm_struct *mm)
{
	struct ksm_mm *kmm = kzalloc(sizeof(*kmm), GFP_KERNEL);
	bool first;
	int err;

	if (!kmm)
		return -ENOMEM;
	mmgrab(mm);
	kmm->mm = mm;
	refcount_set(&kmm->refs, 1);
	INIT_LIST_HEAD(&kmm->begun);
	kmm->nid = NUMA_NO_NODE;
	mutex_init(&kmm->lock);
	xa_init(&kmm->chunks);

	/*
	 * Behind the cursor: a process that execs or exits soon is never
	 * looked at, and a pass ends however fast new ones come.
	 */
	spin_lock(&ksm_mm_lock);
	first = list_empty(&ksm_mm_list);
	err = rhashtable_insert_fast(&ksm_mm_table, &kmm->hash, ksm_mm_params);
	if (!err)
		list_add_tail(&kmm->link, ksm_cursor);
	spin_unlock(&ksm_mm_lock);
	if (err) {
		mmdrop(mm);
		kfree(kmm);
		return -ENOMEM;
	}

	atomic_long_add(sizeof(*kmm), &ksm_counters.metadata);
	set_bit(MMF_VM_MERGEABLE, &mm->flags);
	if (first)
		ksm_wake();
	trace_ksm_enter(mm);
	return 0;
}

/**
 * __ksm_exit - an mm is about to lose its page tables
 * @mm: its last user is gone, or an exec has failed before it had one
 *
 * Whoever is inside the mm holds its mmap_lock, and whoever comes later finds
 * it dying, so one turn of that lock is all the waiting there is.  What is
 * remembered of the mm is cleared away later, by somebody who has the time.
 *
 * Context: may sleep.
 */
void __ksm_exit(struct mm_struct *mm)
{
	bool untouched = false, dead;
	struct ksm_mm *kmm;

	spin_lock(&ksm_mm_lock);
	kmm = rhashtable_lookup_fast(&ksm_mm_table, &mm, ksm_mm_params);
	if (kmm) {
		ksm_unlink_mm(kmm);
		/*
		 * Nobody else has it, nobody has ever scanned it, and none of
		 * the dead has left a record for its sake: that is judged
		 * once its page tables are gone.
		 */
		untouched = refcount_read(&kmm->refs) == 1 &&
			    xa_empty(&kmm->chunks) && !ksm_nr_dead;
		if (!untouched) {
			list_add_tail(&kmm->link, &ksm_dead_list);
			WRITE_ONCE(ksm_nr_dead, ksm_nr_dead + 1);
		}
	}
	dead = ksm_nr_dead;
	spin_unlock(&ksm_mm_lock);

	if (untouched) {
		ksm_put_mm(kmm);
	} else if (kmm) {
		ksm_window(KSM_WINDOW_EXIT);
		/* An exec that fails holds the lock: then nobody is inside */
		if (!atomic_read(&mm->mm_users)) {
			mmap_write_lock(mm);
			mmap_write_unlock(mm);
		}
	}
	if (dead)
		ksm_reap_later();
	trace_ksm_exit(mm);
}

/**
 * ksm_unregister - drop an mm in which a scan has found no mergeable area
 * @kmm: the caller has a reference of his own, and has made it forget
 *
 * MMF_VM_MERGE_ANY stays: the process may just not have mapped anything yet,
 * and ksm_add_vma() registers the mm again when it does.
 *
 * Context: the mm's mmap_lock held, so that no area is becoming mergeable.
 */
void ksm_unregister(struct ksm_mm *kmm)
{
	bool listed;

	spin_lock(&ksm_mm_lock);
	/* __ksm_exit() may have been faster */
	listed = ksm_mm_listed(kmm);
	if (listed) {
		ksm_unlink_mm(kmm);
		clear_bit(MMF_VM_MERGEABLE, &kmm->mm->flags);
	}
	spin_unlock(&ksm_mm_lock);
	if (listed)
		ksm_put_mm(kmm);
}

/**
 * ksm_take_dead_mms - the mms that have exited, to be cleared away
 * @dead: gets them, with the registry's references
 */
void ksm_take_dead_mms(struct list_head *dead)
{
	spin_lock(&ksm_mm_lock);
	list_splice_init(&ksm_dead_list, dead);
	spin_unlock(&ksm_mm_lock);
}

/**
 * ksm_bury_mm - nothing is remembered of an mm any more
 * @kmm: on a list that ksm_take_dead_mms() has filled
 *
 * Context: may sleep.
 */
void ksm_bury_mm(struct ksm_mm *kmm)
{
	spin_lock(&ksm_mm_lock);
	list_del_init(&kmm->link);
	WRITE_ONCE(ksm_nr_dead, ksm_nr_dead - 1);
	spin_unlock(&ksm_mm_lock);
	ksm_put_mm(kmm);
}

/**
 * ksm_return_dead_mms - give back what could not be cleared away yet
 * @dead: list of them
 */
void ksm_return_dead_mms(struct list_head *dead)
{
	spin_lock(&ksm_mm_lock);
	list_splice_tail_init(dead, &ksm_dead_list);
	spin_unlock(&ksm_mm_lock);
}

/* -------------------------------------------------------- the order of scanning */

/* Among how many mms to look for one on the thread's own NUMA node. */
#define KSM_NODE_LOOKS	16

/**
 * ksm_sweep_mms - begin to go through all registered mms with ksm_next_mm()
 *
 * Context: one sweep at a time.
 */
void ksm_sweep_mms(void)
{
	ksm_sweep++;
}

/**
 * ksm_next_mm - go through all registered mms
 * @kmm: the one before, whose reference is dropped; NULL to begin
 *
 * Those registered meanwhile are met as well, and none is met twice: if @kmm
 * has left the list, those it was met after are passed over.
 *
 * Context: may sleep.
 * Return: the next with a reference, NULL at the end.
 */
struct ksm_mm *ksm_next_mm(struct ksm_mm *kmm)
{
	struct ksm_mm *next;

	spin_lock(&ksm_mm_lock);
	if (kmm && ksm_mm_listed(kmm))
		next = kmm;
	else
		next = list_entry(&ksm_mm_list, struct ksm_mm, link);
	list_for_each_entry_continue(next, &ksm_mm_list, link)
		if (next->sweep != ksm_sweep)
			break;
	if (list_entry_is_head(next, &ksm_mm_list, link)) {
		next = NULL;
	} else {
		next->sweep = ksm_sweep;
		ksm_get_mm(next);
	}
	spin_unlock(&ksm_mm_lock);
	ksm_put_mm(kmm);
	return next;
}

/* Of those that have been begun, that with the fewest threads at it. */
static struct ksm_mm *ksm_begun_mm(void)
{
	struct ksm_mm *kmm, *picked = NULL;

	list_for_each_entry(kmm, &ksm_begun_list, begun)
		if (!picked || kmm->scanners < picked->scanners)
			picked = kmm;
	return picked;
}

/*
 * Begin with the next mm, or if there is one on this node close by, with that:
 * it changes places with those that it overtakes.
 */
static struct ksm_mm *ksm_begin_mm(int nid)
{
	struct ksm_mm *kmm, *picked;
	int looks = KSM_NODE_LOOKS;

	if (ksm_cursor == &ksm_mm_list)
		return NULL;
	kmm = list_entry(ksm_cursor, struct ksm_mm, link);
	picked = kmm;
	list_for_each_entry_from(kmm, &ksm_mm_list, link) {
		if (nid == NUMA_NO_NODE || !looks--)
			break;
		if (READ_ONCE(kmm->nid) == nid) {
			picked = kmm;
			break;
		}
	}
	if (ksm_cursor == &picked->link)
		ksm_cursor = picked->link.next;
	else
		list_move_tail(&picked->link, ksm_cursor);
	list_add_tail(&picked->begun, &ksm_begun_list);
	return picked;
}

/*
 * One at which nobody is, though it has been begun; else the next one; and when
 * there are no more, one at which others are, to help them.
 */
static struct ksm_mm *ksm_pick_mm(int nid)
{
	struct ksm_mm *begun = ksm_begun_mm();

	if (begun && !begun->scanners)
		return begun;
	return ksm_begin_mm(nid) ?: begun;
}

/**
 * ksm_cursor_mm - the mm of which a thread is to scan the next batch
 * @kmm: that of the batch before, if it was this thread's; NULL if not
 * @nid: NUMA node the thread would like the mm's pages to be on, or
 *	NUMA_NO_NODE
 *
 * Context: may sleep.
 * Return: the mm, the same for as long as it has more, with a reference that
 * @kmm's becomes, for ksm_cursor_leave() to drop; NULL if there is none in
 * this pass.
 */
struct ksm_mm *ksm_cursor_mm(struct ksm_mm *kmm, int nid)
{
	struct ksm_mm *done = NULL;

	spin_lock(&ksm_mm_lock);
	if (kmm && list_empty(&kmm->begun)) {
		kmm->scanners--;
		done = kmm;
		kmm = NULL;
	}
	if (!kmm) {
		kmm = ksm_pick_mm(nid);
		if (kmm) {
			kmm->scanners++;
			ksm_get_mm(kmm);
		}
	}
	spin_unlock(&ksm_mm_lock);
	ksm_put_mm(done);
	return kmm;
}

/**
 * ksm_cursor_leave - a thread scans no more for now
 * @kmm: at which it was, from ksm_cursor_mm(); may be NULL
 *
 * Context: may sleep.
 */
void ksm_cursor_leave(struct ksm_mm *kmm)
{
	if (!kmm)
		return;
	spin_lock(&ksm_mm_lock);
	kmm->scanners--;
	spin_unlock(&ksm_mm_lock);
	ksm_put_mm(kmm);
}

/**
 * ksm_cursor_start - begin a pass with the first mm
 */
void ksm_cursor_start(void)
{
	spin_lock(&ksm_mm_lock);
	ksm_cursor = ksm_mm_list.next;
	spin_unlock(&ksm_mm_lock);
}

/**
 * ksm_cursor_reset - leave the pass that is going on
 *
 * Context: ksm_control_lock held for write.
 */
void ksm_cursor_reset(void)
{
	struct ksm_mm *kmm, *next;

	spin_lock(&ksm_mm_lock);
	ksm_cursor = &ksm_mm_list;
	list_for_each_entry_safe(kmm, next, &ksm_begun_list, begun) {
		list_del_init(&kmm->begun);
		/* Nobody scans: the next pass begins with its first page */
		kmm->scan_addr = 0;
	}
	spin_unlock(&ksm_mm_lock);
}

/**
 * ksm_cursor_begun - is there more to scan of an mm in this pass?
 * @kmm: from ksm_cursor_mm(), since when others may have scanned its end
 *
 * Context: @kmm->lock held; it may still exit at any time.
 * Return: true if so.
 */
bool ksm_cursor_begun(struct ksm_mm *kmm)
{
	return !list_empty_careful(&kmm->begun);
}

/**
 * ksm_cursor_done - an mm has been scanned to its end
 * @kmm: the mm; it may have exited
 *
 * Context: @kmm->lock held.
 */
void ksm_cursor_done(struct ksm_mm *kmm)
{
	spin_lock(&ksm_mm_lock);
	list_del_init(&kmm->begun);
	spin_unlock(&ksm_mm_lock);
}

/**
 * ksm_cursor_at_end - has every mm been scanned to its end in this pass?
 *
 * Return: true if so, also between two passes.  Then only threads that have
 * not finished their last batch have anything left to do.
 */
bool ksm_cursor_at_end(void)
{
	bool at_end;

	spin_lock(&ksm_mm_lock);
	at_end = ksm_cursor == &ksm_mm_list && list_empty(&ksm_begun_list);
	spin_unlock(&ksm_mm_lock);
	return at_end;
}

/**
 * ksm_have_mm - is anybody registered?
 *
 * Return: true if so, at this moment.
 */
bool ksm_have_mm(void)
{
	return !list_empty_careful(&ksm_mm_list);
}

/**
 * ksm_have_dead_mm - is anything left of those who have exited?
 *
 * Return: true if so, at this moment.
 */
bool ksm_have_dead_mm(void)
{
	return READ_ONCE(ksm_nr_dead);
}

/**
 * ksm_expected_pages - how many pages a pass will look at
 *
 * As many of an mm as the last pass did, or all its anonymous pages if that
 * was before its time.
 *
 * Return: an estimate, for the size of tables.
 */
unsigned long ksm_expected_pages(void)
{
	unsigned long pages = 0;
	struct ksm_mm *kmm;

	spin_lock(&ksm_mm_lock);
	list_for_each_entry(kmm, &ksm_mm_list, link)
		pages += READ_ONCE(kmm->mm->ksm_rmap_items) ?:
			 get_mm_counter(kmm->mm, MM_ANONPAGES);
	spin_unlock(&ksm_mm_lock);
	return pages;
}

/**
 * ksm_mm_dying - must the mm's page tables be left alone?
 * @mm: pinned by the caller
 *
 * Context: mmap_lock held.  While it is, the page tables of an mm that was not
 * dying are not torn down, though their pages may be taken away meanwhile.
 * Return: true once its last user is gone or the OOM reaper is at work in it.
 */
bool ksm_mm_dying(struct mm_struct *mm)
{
	return !atomic_read(&mm->mm_users) ||
	       test_bit(MMF_UNSTABLE, &mm->flags);
}

/**
 * ksm_mm_torn_down - are the page tables of a dying mm gone?
 * @mm: pinned by the caller
 *
 * Return: true if they are.
 */
bool ksm_mm_torn_down(struct mm_struct *mm)
{
	/* The last thing that exit_mmap() does is to forget the areas */
	return mtree_empty(&mm->mm_mt);
}

/**
 * ksm_find_vma - the mergeable area at an address
 * @mm: the address space
 * @addr: the address
 *
 * Context: mmap_lock held.
 * Return: the area, which has an anon_vma; NULL if there is none.
 */
struct vm_area_struct *ksm_find_vma(struct mm_struct *mm, unsigned long addr)
{
	struct vm_area_struct *vma = NULL;

	if (!ksm_mm_dying(mm))
		vma = vma_lookup(mm, addr);
	if (vma && (vma->vm_flags & VM_MERGEABLE) && vma->anon_vma)
		return vma;
	return NULL;
}

/**
 * ksm_process_profit - what merging saves a process, less what it costs
 * @mm: its address space
 *
 * Return: bytes, negative if the records take more than is saved.
 */
long ksm_process_profit(struct mm_struct *mm)
{
	long saved = mm->ksm_merging_pages + mm_ksm_zero_pages(mm);
	struct ksm_mm *kmm;
	long cost = 0;

	spin_lock(&ksm_mm_lock);
	kmm = rhashtable_lookup_fast(&ksm_mm_table, &mm, ksm_mm_params);
	if (kmm)
		cost = sizeof(*kmm) + READ_ONCE(kmm->metadata);
	spin_unlock(&ksm_mm_lock);
	return saved * (long)PAGE_SIZE - cost;
}

/* ------------------------------------------------------------------- the areas */

/* Memory that is shared, is not made of ordinary pages, or bears tags. */
static bool ksm_vma_can_merge(struct vm_area_struct *vma)
{
	vm_flags_t never = VM_SHARED | VM_MAYSHARE | VM_SPECIAL | VM_HUGETLB |
			   VM_DROPPABLE | VM_SHADOW_STACK;

#if defined(VM_SAO)		/* powerpc: strong access ordering */
	never |= VM_SAO;
#elif defined(VM_SPARC_ADI)	/* sparc: version tags */
	never |= VM_SPARC_ADI;
#endif
	return !(vma->vm_flags & never) && !vma_is_dax(vma);
}

static void ksm_join(struct vm_area_struct *vma)
{
	if (!(vma->vm_flags & VM_MERGEABLE) && ksm_vma_can_merge(vma))
		vm_flags_set(vma, VM_MERGEABLE);
}

static int ksm_leave(struct vm_area_struct *vma)
{
	int err;

	if (!(vma->vm_flags & VM_MERGEABLE))
		return 0;
	err = ksm_break(vma, vma->vm_start, vma->vm_end, true);
	if (!err)
		vm_flags_clear(vma, VM_MERGEABLE);
	return err;
}

static void ksm_join_all(struct mm_struct *mm)
{
	VMA_ITERATOR(vmi, mm, 0);
	struct vm_area_struct *vma;

	for_each_vma(vmi, vma)
		ksm_join(vma);
}

static int ksm_leave_all(struct mm_struct *mm)
{
	VMA_ITERATOR(vmi, mm, 0);
	struct vm_area_struct *vma;
	int err = 0;

	for_each_vma(vmi, vma) {
		err = ksm_leave(vma);
		if (err)
			break;
	}
	return err;
}

/**
 * ksm_add_vma - a new area of a process of which all memory takes part
 * @area: not yet visible to others
 *
 * Context: mmap_lock held for write.
 */
void ksm_add_vma(struct vm_area_struct *area)
{
	struct mm_struct *mm = area->vm_mm;

	if (!test_bit(MMF_VM_MERGE_ANY, &mm->flags))
		return;
	ksm_join(area);
	/* A scan may have found nothing to do here, and dropped the mm */
	if (!test_bit(MMF_VM_MERGEABLE, &mm->flags))
		__ksm_enter(mm);
}

/**
 * ksm_enable_merge_any - all memory of a process takes part, now and later
 * @mm: of the process
 *
 * Context: mmap_lock held for write.
 * Return: 0 or -ENOMEM.
 */
int ksm_enable_merge_any(struct mm_struct *mm)
{
	int err = 0;

	if (test_bit(MMF_VM_MERGE_ANY, &mm->flags))
		return 0;
	if (!test_bit(MMF_VM_MERGEABLE, &mm->flags))
		err = __ksm_enter(mm);
	if (!err) {
		set_bit(MMF_VM_MERGE_ANY, &mm->flags);
		ksm_join_all(mm);
	}
	return err;
}

/**
 * ksm_disable_merge_any - undo ksm_enable_merge_any(), and unmerge all
 * @mm: of the process
 *
 * Context: mmap_lock held for write.
 * Return: 0; -ENOMEM or -ERESTARTSYS, and all memory goes on taking part.
 */
int ksm_disable_merge_any(struct mm_struct *mm)
{
	int err;

	if (!test_bit(MMF_VM_MERGE_ANY, &mm->flags))
		return 0;
	err = ksm_leave_all(mm);
	if (err)
		ksm_join_all(mm);
	else
		clear_bit(MMF_VM_MERGE_ANY, &mm->flags);
	return err;
}

/**
 * ksm_disable - unmerge all of an mm, however it came to take part
 * @mm: that must not have KSM pages from now on
 *
 * Context: mmap_lock held for write.
 * Return: 0, -ENOMEM or -ERESTARTSYS.
 */
int ksm_disable(struct mm_struct *mm)
{
	mmap_assert_write_locked(mm);

	if (test_bit(MMF_VM_MERGE_ANY, &mm->flags))
		return ksm_disable_merge_any(mm);
	if (test_bit(MMF_VM_MERGEABLE, &mm->flags))
		return ksm_leave_all(mm);
	return 0;
}

/**
 * ksm_madvise - MADV_MERGEABLE and MADV_UNMERGEABLE for a range of an area
 * @area: the area
 * @from: start of the range
 * @to: its end
 * @advice: which of the two
 * @flags: what is to become the range's vm_flags
 *
 * Memory that cannot take part ignores the advice, as it always has.
 *
 * Context: mmap_lock held for write.
 * Return: 0, -ENOMEM or -ERESTARTSYS.
 */
int ksm_madvise(struct vm_area_struct *area, unsigned long from,
		unsigned long to, int advice, unsigned long *flags)
{
	struct mm_struct *mm = area->vm_mm;
	int err = 0;

	switch (advice) {
	case MADV_MERGEABLE:
		if ((*flags & VM_MERGEABLE) || !ksm_vma_can_merge(area))
			break;
		if (!test_bit(MMF_VM_MERGEABLE, &mm->flags))
			err = __ksm_enter(mm);
		if (!err)
			*flags |= VM_MERGEABLE;
		break;
	case MADV_UNMERGEABLE:
		if (!(*flags & VM_MERGEABLE))
			break;
		err = ksm_break(area, from, to, true);
		if (!err)
			*flags &= ~VM_MERGEABLE;
		break;
	}
	return err;
}
EXPORT_SYMBOL_GPL(ksm_madvise);

/**
 * ksm_registry_init - at boot, once
 *
 * Return: 0 or -ENOMEM.
 */
int __init ksm_registry_init(void)
{
	return rhashtable_init(&ksm_mm_table, &ksm_mm_params);
}
