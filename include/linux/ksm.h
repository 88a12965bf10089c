/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the rest of the kernel calls of KSM, which keeps one write-protected
 * copy of anonymous pages that are the same and maps it everywhere.
 */
#ifndef __LINUX_KSM_H
#define __LINUX_KSM_H

#include <linux/mm.h>
#include <linux/mm_types.h>
#include <linux/rmap.h>
#include <linux/sched.h>
#include <linux/sched/coredump.h>

struct list_head;

#ifdef CONFIG_KSM

/* Taking part: which mm and which areas, from start to exit. */
int ksm_madvise(struct vm_area_struct *area, unsigned long from,
		unsigned long to, int advice, unsigned long *flags);
int ksm_enable_merge_any(struct mm_struct *mm);
int ksm_disable_merge_any(struct mm_struct *mm);
void ksm_add_vma(struct vm_area_struct *area);
int __ksm_enter(struct mm_struct *mm);
void __ksm_exit(struct mm_struct *mm);
int ksm_disable(struct mm_struct *mm);

/* Swap-in, reverse mapping, migration and memory failure of KSM pages. */
struct folio *ksm_might_need_to_copy(struct folio *swapcache,
				     struct vm_area_struct *area,
				     unsigned long address);
void rmap_walk_ksm(struct folio *kfolio, struct rmap_walk_control *control);
void ksm_migrate_page(struct folio *to, struct folio *from);
void collect_procs_ksm(struct folio *kfolio, struct page *kpage,
		       struct list_head *victims, int force_early);

long ksm_process_profit(struct mm_struct *mm);

/* Entries with the kernel's zero page that KSM, not a read fault, has made. */
extern atomic_long_t ksm_zero_pages;

/**
 * is_ksm_zero_pte - has KSM put the zero page here?
 * @pte: a present entry
 *
 * An entry of the zero page has no use for its dirty bit: KSM marks with it
 * the ones that it made, so that they can be counted and undone.
 *
 * Return: true if so.
 */
static inline bool is_ksm_zero_pte(pte_t pte)
{
	return pte_dirty(pte) && is_zero_pfn(pte_pfn(pte));
}

static inline void ksm_map_zero_page(struct mm_struct *mm)
{
	atomic_long_inc(&mm->ksm_zero_pages);
	atomic_long_inc(&ksm_zero_pages);
}

static inline void ksm_might_map_zero_page(struct mm_struct *mm, pte_t pte)
{
	if (is_ksm_zero_pte(pte))
		ksm_map_zero_page(mm);
}

static inline void ksm_might_unmap_zero_page(struct mm_struct *mm, pte_t pte)
{
	if (!is_ksm_zero_pte(pte))
		return;
	atomic_long_dec(&mm->ksm_zero_pages);
	atomic_long_dec(&ksm_zero_pages);
}

static inline long mm_ksm_zero_pages(struct mm_struct *mm)
{
	return atomic_long_read(&mm->ksm_zero_pages);
}

/**
 * ksm_mm_init - give a new mm its own counters
 * @mm: just allocated, perhaps as a copy of its parent
 *
 * The zero pages that a child inherits are counted as fork copies them.
 */
static inline void ksm_mm_init(struct mm_struct *mm)
{
	mm->ksm_merging_pages = 0;
	mm->ksm_rmap_items = 0;
	atomic_long_set(&mm->ksm_zero_pages, 0);
}

/**
 * ksm_fork - let a child take part if its parent does
 * @mm: the child
 * @parent: whose areas it has just got a copy of
 *
 * Best effort: a child that cannot be registered works, but stays unmerged.
 */
static inline void ksm_fork(struct mm_struct *mm, struct mm_struct *parent)
{
	if (test_bit(MMF_VM_MERGEABLE, &parent->flags))
		__ksm_enter(mm);
}

static inline int ksm_execve(struct mm_struct *mm)
{
	return test_bit(MMF_VM_MERGE_ANY, &mm->flags) ? __ksm_enter(mm) : 0;
}

static inline void ksm_exit(struct mm_struct *mm)
{
	if (test_bit(MMF_VM_MERGEABLE, &mm->flags))
		__ksm_exit(mm);
}

#else /* !CONFIG_KSM */

static inline int ksm_madvise(struct vm_area_struct *area, unsigned long from,
			      unsigned long to, int advice,
			      unsigned long *flags)
{
	return 0;
}

static inline int ksm_disable(struct mm_struct *mm)
{
	return 0;
}

static inline int ksm_execve(struct mm_struct *mm)
{
	return 0;
}

static inline struct folio *ksm_might_need_to_copy(struct folio *swapcache,
						   struct vm_area_struct *area,
						   unsigned long address)
{
	return swapcache;
}

static inline void ksm_add_vma(struct vm_area_struct *area) { }
static inline void ksm_might_map_zero_page(struct mm_struct *mm, pte_t pte) { }
static inline void ksm_might_unmap_zero_page(struct mm_struct *mm, pte_t pte) { }
static inline void ksm_mm_init(struct mm_struct *mm) { }
static inline void ksm_fork(struct mm_struct *mm, struct mm_struct *parent) { }
static inline void ksm_exit(struct mm_struct *mm) { }
static inline void rmap_walk_ksm(struct folio *kfolio,
				 struct rmap_walk_control *control) { }
static inline void ksm_migrate_page(struct folio *to, struct folio *from) { }
static inline void collect_procs_ksm(struct folio *kfolio, struct page *kpage,
				     struct list_head *victims,
				     int force_early) { }

#endif /* CONFIG_KSM */
#endif /* __LINUX_KSM_H */
