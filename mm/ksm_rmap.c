// SPDX-License-Identifier: GPL-2.0-only
/*
 * KSM: from a KSM page to its mappings.
 *
 * Each record names an anon_vma and the page's offset in it.  Its interval
 * tree knows which areas have that offset: the one that was merged, wherever
 * mremap() has moved it and however mprotect() has cut it up, and those that
 * fork has made of it since.
 */
#include <linux/mm.h>
#include <linux/rmap.h>
#include <linux/sched/signal.h>
#include "internal.h"
#include "ksm_internal.h"

/* As the caller of an rmap walk wants it: wait for the lock, or give up. */
static bool ksm_lock_anon_vma(struct anon_vma *anon_vma,
			      struct rmap_walk_control *control)
{
	if (anon_vma_trylock_read(anon_vma))
		return true;
	if (control->try_lock) {
		control->contended = true;
		return false;
	}
	anon_vma_lock_read(anon_vma);
	return true;
}

/* Visit the mappings one record leads to.  False when the walk is over. */
static bool ksm_walk_mapping(struct folio *kfolio, struct ksm_mapping *mapping,
			     struct rmap_walk_control *control)
{
	struct anon_vma *anon_vma = mapping->anon_vma;
	struct anon_vma_chain *avc;
	bool go_on = true;

	if (!ksm_lock_anon_vma(anon_vma, control))
		return false;
	anon_vma_interval_tree_foreach(avc, &anon_vma->rb_root, mapping->pgoff,
				       mapping->pgoff) {
		struct vm_area_struct *vma = avc->vma;
		unsigned long addr = vma_address(vma, mapping->pgoff, 1);

		cond_resched();
		if (control->invalid_vma &&
		    control->invalid_vma(vma, control->arg))
			continue;
		if (!control->rmap_one(kfolio, vma, addr, control->arg) ||
		    (control->done && control->done(kfolio))) {
			go_on = false;
			break;
		}
	}
	anon_vma_unlock_read(anon_vma);
	return go_on;
}

/**
 * rmap_walk_ksm - call a function for each mapping of a KSM page
 * @kfolio: the page
 * @control: the function and its options, see rmap_walk()
 *
 * An area that is reached through several records is visited several times,
 * which those who walk take in their stride.
 *
 * Context: @kfolio locked, which keeps its records still; may sleep.
 */
void rmap_walk_ksm(struct folio *kfolio, struct rmap_walk_control *control)
{
	struct ksm_stable_node *node = folio_stable_node(kfolio);
	struct ksm_mapping *mapping;

	VM_WARN_ON_FOLIO(!folio_test_ksm(kfolio), kfolio);
	VM_WARN_ON_FOLIO(!folio_test_locked(kfolio), kfolio);

	if (!node)
		return;
	hlist_for_each_entry(mapping, &node->mappings, link) {
		cond_resched();
		if (!ksm_walk_mapping(kfolio, mapping, control))
			return;
	}
}

/**
 * ksm_linked - does an rmap walk of an anon_vma come to an area?
 * @vma: the area
 * @anon_vma: only compared with, so it need not exist any more
 *
 * Context: the area's mmap_lock or own lock held; or that of its anon_vma, if
 * something has been found to be mapped in it: while fork links a new area it
 * holds neither.
 * Return: true if so.
 */
bool ksm_linked(struct vm_area_struct *vma, const struct anon_vma *anon_vma)
{
	struct anon_vma_chain *avc;

	/* In most cases */
	if (vma->anon_vma == anon_vma)
		return true;
	list_for_each_entry(avc, &vma->anon_vma_chain, same_vma)
		if (avc->anon_vma == anon_vma)
			return true;
	return false;
}

/**
 * ksm_mapping_fits - does a record lead to a mapping?
 * @mapping: the record
 * @vma: the area, which may have been moved since the record was made
 * @addr: the mapping's address in it
 *
 * Context: as for ksm_linked().
 * Return: true if it does.
 */
bool ksm_mapping_fits(const struct ksm_mapping *mapping,
		      struct vm_area_struct *vma, unsigned long addr)
{
	return mapping->pgoff == linear_page_index(vma, addr) &&
	       ksm_linked(vma, mapping->anon_vma);
}

/**
 * ksm_rmap_finds - would an rmap walk find a mapping that is about to be made?
 * @kfolio: the KSM page
 * @vma: the area
 * @addr: the address
 *
 * Context: @kfolio locked; for @vma as for ksm_linked().
 * Return: true if so; false also if KSM has let the page go.
 */
bool ksm_rmap_finds(struct folio *kfolio, struct vm_area_struct *vma,
		    unsigned long addr)
{
	struct ksm_stable_node *node = folio_stable_node(kfolio);
	struct ksm_mapping *mapping;

	if (!node)
		return false;
	hlist_for_each_entry(mapping, &node->mappings, link)
		if (ksm_mapping_fits(mapping, vma, addr))
			return true;
	return false;
}

/*
 * Is there another record that leads to an area?  Their root is locked.  Gives
 * up, and says no, when the looks are used up.
 */
static bool ksm_found_otherwise(struct ksm_mapping *mapping,
				struct vm_area_struct *vma, int *looks)
{
	struct ksm_mapping *other;

	hlist_for_each_entry(other, &mapping->node->mappings, link) {
		if (--*looks < 0)
			return false;
		if (other != mapping && other->pgoff == mapping->pgoff &&
		    ksm_linked(vma, other->anon_vma))
			return true;
	}
	return false;
}

/**
 * ksm_maps - is a KSM page mapped at an address?
 * @kfolio: the page
 * @vma: an area, kept by its mmap_lock or the lock of its anon_vma
 * @addr: in the area
 *
 * An entry that is being changed looks empty to those who do not wait for its
 * lock, as this does.
 *
 * Context: @kfolio locked; does not sleep.
 * Return: true if it is; a migration entry does not count.
 */
bool ksm_maps(struct folio *kfolio, struct vm_area_struct *vma,
	      unsigned long addr)
{
	DEFINE_FOLIO_VMA_WALK(walk, kfolio, vma, addr, PVMW_SYNC);

	if (!page_vma_mapped_walk(&walk))
		return false;
	page_vma_mapped_walk_done(&walk);
	return true;
}

/*
 * Areas that ksm_mapping_needed() looks at, of those that fork has made of one,
 * and records for all of them.  It may hold up every fork of the family, and
 * whoever makes areas and records must not make ksmd do nothing else.
 */
#define KSM_NEEDED_AREAS	4096
#define KSM_NEEDED_LOOKS	65536

/**
 * ksm_mapping_needed - would a mapping be lost without a record?
 * @mapping: the record
 * @kfolio: the KSM page
 * @except: area whose mapping does not count, may be NULL
 *
 * A child that fork has made, and that has not been scanned yet, is found only
 * through the record of its parent, even if that has given up the page or
 * exited.
 *
 * Context: @kfolio locked; may sleep.
 * Return: true if so, or if it takes too long to tell.
 */
bool ksm_mapping_needed(struct ksm_mapping *mapping, struct folio *kfolio,
			const struct vm_area_struct *except)
{
	struct anon_vma *anon_vma = mapping->anon_vma;
	int areas = KSM_NEEDED_AREAS, looks = KSM_NEEDED_LOOKS;
	struct anon_vma_chain *avc;
	bool needed = false;

	if (!folio_mapped(kfolio))
		return false;
	anon_vma_lock_read(anon_vma);
	anon_vma_interval_tree_foreach(avc, &anon_vma->rb_root, mapping->pgoff,
				       mapping->pgoff) {
		struct vm_area_struct *vma = avc->vma;

		cond_resched();
		if (--areas < 0 ||
		    (vma != except &&
		     ksm_maps(kfolio, vma,
			      vma_address(vma, mapping->pgoff, 1)) &&
		     !ksm_found_otherwise(mapping, vma, &looks))) {
			needed = true;
			break;
		}
	}
	anon_vma_unlock_read(anon_vma);
	return needed;
}

#ifdef CONFIG_MEMORY_FAILURE
/* The threads to be told of an error that a process sees through one record. */
static void ksm_collect_victims(struct ksm_mapping *mapping,
				struct folio *kfolio, struct page *kpage,
				struct list_head *victims, int force_early)
{
	struct anon_vma *anon_vma = mapping->anon_vma;
	struct task_struct *process, *victim;
	struct anon_vma_chain *avc;

	anon_vma_lock_read(anon_vma);
	rcu_read_lock();
	for_each_process(process) {
		victim = task_early_kill(process, force_early);
		if (!victim)
			continue;
		anon_vma_interval_tree_foreach(avc, &anon_vma->rb_root,
					       mapping->pgoff, mapping->pgoff) {
			struct vm_area_struct *vma = avc->vma;
			unsigned long addr = vma_address(vma, mapping->pgoff, 1);

			/* Not those that have got a page of their own since */
			if (vma->vm_mm == victim->mm &&
			    ksm_maps(kfolio, vma, addr))
				add_to_kill_ksm(victim, kpage, vma, victims,
						addr);
		}
	}
	rcu_read_unlock();
	anon_vma_unlock_read(anon_vma);
}

/**
 * collect_procs_ksm - list the processes that a memory error concerns
 * @kfolio: the KSM page
 * @kpage: the same
 * @victims: the list
 * @force_early: of memory_failure()
 *
 * Context: @kfolio locked; may sleep.
 */
void collect_procs_ksm(struct folio *kfolio, struct page *kpage,
		       struct list_head *victims, int force_early)
{
	struct ksm_stable_node *node = folio_stable_node(kfolio);
	struct ksm_mapping *mapping;

	if (!node)
		return;
	hlist_for_each_entry(mapping, &node->mappings, link)
		ksm_collect_victims(mapping, kfolio, kpage, victims,
				    force_early);
}
#endif /* CONFIG_MEMORY_FAILURE */
