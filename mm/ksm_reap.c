// SPDX-License-Identifier: GPL-2.0-only
/*
 * KSM: clearing away what is remembered of mms that have exited.
 *
 * Not all at once: a record may be needed to find a child's mapping of its page
 * (ksm_mapping_needed()), and is looked at again until that has gone too.  After
 * run = 2 the living may have such records, for the sake of the dead.
 */
#include <linux/sched.h>
#include <linux/workqueue.h>
#include "internal.h"
#include "ksm_internal.h"

/* Drop what is left of one mm.  Returns whether that was all. */
static bool ksm_reap_mm(struct ksm_mm *kmm)
{
	mutex_lock(&kmm->lock);
	ksm_forget(kmm, 0, ULONG_MAX, KSM_DROP_WAIT, NULL);
	mutex_unlock(&kmm->lock);
	cond_resched();
	return xa_empty(&kmm->chunks);
}

/**
 * ksm_reap - drop what is remembered of mms that have exited
 * @which: of which
 *
 * Context: may sleep; ksm_control_lock held.
 */
void ksm_reap(enum ksm_reap which)
{
	struct ksm_mm *kmm, *next;
	bool again = false;
	LIST_HEAD(dead);

	ksm_take_dead_mms(&dead);
	/* As long as one has page tables, what others have left may be needed */
	list_for_each_entry(kmm, &dead, link)
		if (!ksm_mm_torn_down(kmm->mm))
			again = true;
	list_for_each_entry_safe(kmm, next, &dead, link) {
		if (!ksm_mm_torn_down(kmm->mm) ||
		    (which == KSM_REAP_NEW && kmm->lingers))
			continue;
		kmm->lingers = true;
		if (ksm_reap_mm(kmm))
			ksm_bury_mm(kmm);
	}
	ksm_return_dead_mms(&dead);
	if (again)
		ksm_reap_later();
}

/* How long the last turn of the work took, in jiffies. */
static unsigned long ksm_reap_took;

static void ksm_reap_work_fn(struct work_struct *work);
static DECLARE_DELAYED_WORK(ksm_reap_work, ksm_reap_work_fn);

/**
 * ksm_reap_later - the same, from a context that has no time for it
 *
 * A little later, so that the page tables of those who exit are gone by then,
 * and so that the work never takes more than a twentieth of a CPU.
 *
 * Context: any.
 */
void ksm_reap_later(void)
{
	queue_delayed_work(system_unbound_wq, &ksm_reap_work,
			   HZ / 50 + 20 * READ_ONCE(ksm_reap_took));
}

static void ksm_reap_again_fn(struct work_struct *work)
{
	ksm_reap_later();
}

/*
 * While ksmd is at rest: those for whose sake something was left need not take
 * part in merging, and then nobody says when they go.
 */
static DECLARE_DELAYED_WORK(ksm_reap_again_work, ksm_reap_again_fn);

/* Have the living had to keep records, for the sake of the dead? */
static bool ksm_kept_by_the_living(void)
{
	return ksm_given_up && atomic_long_read(&ksm_counters.shared);
}

static void ksm_reap_work_fn(struct work_struct *work)
{
	unsigned long start;
	bool scanning, left;

	down_read(&ksm_control_lock);
	/* Whoever had it may have had it for long */
	start = jiffies;
	/* The old ones are ksmd's to look at again, unless it is at rest */
	scanning = ksm_knobs.run == KSM_MERGE && ksm_have_mm();
	ksm_reap(scanning ? KSM_REAP_NEW : KSM_REAP_OLD);
	if (ksm_kept_by_the_living())
		ksm_forget_mms();
	if (!scanning)
		ksm_prune();
	left = ksm_have_dead_mm() || ksm_kept_by_the_living();
	up_read(&ksm_control_lock);
	WRITE_ONCE(ksm_reap_took, jiffies - start);
	if (!scanning && left)
		queue_delayed_work(system_unbound_wq, &ksm_reap_again_work,
				   5 * HZ);
	/* If ksmd is in the way it sees for itself that nobody is left */
	if (!ksm_have_mm() && down_write_trylock(&ksm_control_lock)) {
		ksm_candidates_idle();
		ksm_free_reserve();
		up_write(&ksm_control_lock);
	}
}
