// SPDX-License-Identifier: GPL-2.0-only
/*
 * KSM: ksmd and its passes.
 *
 * A batch of pages is collected under mmap_lock, fingerprinted without any
 * lock, and let go again, so that neither a fault nor a migration waits for
 * long.  Only then is it decided what to do with each of them.
 */
#include <linux/freezer.h>
#include <linux/kthread.h>
#include <linux/slab.h>
#include <linux/swap.h>
#include <trace/events/ksm.h>
#include "ksm_internal.h"

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
	batch->skipped = 0;
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
