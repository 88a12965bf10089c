// SPDX-License-Identifier: GPL-2.0-only
/*
 * KSM: ksmd, its helpers, and the passes they make.
 *
 * A batch of pages is collected under mmap_lock, fingerprinted without any
 * lock, and let go again, so that neither a fault nor a migration waits for
 * long.  Only then is it decided what to do with each of them.
 *
 * ksmd alone begins and ends a pass, sleeps and freezes.  Its helpers scan when
 * it calls them, and have finished when it goes on to something else: whatever
 * ksmd does by itself, nobody scans meanwhile.
 */
#include <linux/cpumask.h>
#include <linux/freezer.h>
#include <linux/kthread.h>
#include <linux/nodemask.h>
#include <linux/sched/cputime.h>
#include <linux/slab.h>
#include <linux/swap.h>
#include <trace/events/ksm.h>
#include "ksm_internal.h"

/* --------------------------------------------------------------------- the passes */

/* For ksmd alone, under ksm_control_lock. */
static unsigned long ksm_last_prune;
static unsigned long ksm_pass_pages;	/* about as many as it will look at */
static bool ksm_in_pass;

static void ksm_start_pass(void)
{
	trace_ksm_start_scan(atomic_long_read(&ksm_counters.full_scans),
			     atomic_long_read(&ksm_counters.tracked));
	ksm_advisor_start_pass();
	/* Pages that wait for their LRU list have a reference too many */
	lru_add_drain_all();
	ksm_pass_pages = ksm_expected_pages();
	ksm_candidates_start_pass(ksm_pass_pages);
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
	ksm_candidates_end_pass();
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
	ksm_candidates_idle();
}

/* ------------------------------------------------------------------- the threads */

/* For fewer pages than this a thread is not worth waking. */
#define KSM_THREAD_PAGES	256

/**
 * struct ksm_thread - one of those that scan
 * @link: in the list of them
 * @task: the thread
 * @worker: runs @work; not ksmd's
 * @work: queued when ksmd calls
 * @batch: what it is scanning
 */
struct ksm_thread {
	struct list_head link;
	struct task_struct *task;
	struct kthread_worker worker;
	struct kthread_work work;
	struct ksm_batch batch;
};

/* ksmd is the first.  ksm_control_lock. */
static LIST_HEAD(ksm_threads);
static u64 ksm_past_runtime;	/* of those that are no more */

/* What ksmd and the helpers it has called may still scan, and how many they are. */
static atomic_t ksm_budget;
static unsigned int ksm_sharers;

/*
 * A part of the budget: more than a thread will need for a batch, as long as
 * there is enough for all.
 */
static unsigned int ksm_take_share(void)
{
	int left = atomic_read(&ksm_budget);
	unsigned int share;

	do {
		share = max((unsigned int)left / ksm_sharers,
			    min((unsigned int)left, KSM_BATCH_PAGES));
	} while (share &&
		 !atomic_try_cmpxchg(&ksm_budget, &left, left - share));
	return share;
}

/* Somebody wants ksm_control_lock, or the system to go to sleep. */
static bool ksm_must_pause(void)
{
	struct ksm_thread *leader = list_first_entry(&ksm_threads,
						     struct ksm_thread, link);

	return rwsem_is_contended(&ksm_control_lock) ||
	       freezing(leader->task);
}

/*
 * Scan a batch of one mm.  Others may scan the next one while this one is being
 * fingerprinted: whatever is remembered of its pages may change meanwhile.
 */
static void ksm_scan_batch(struct ksm_batch *batch, struct ksm_mm *kmm,
			   unsigned int limit)
{
	batch->kmm = kmm;
	batch->turn = atomic_long_read(&ksm_counters.full_scans);
	batch->nr = 0;
	batch->entries = 0;
	batch->scanned = 0;
	batch->unchanged = 0;
	batch->skipped = 0;
	batch->limit = limit;

	mutex_lock(&kmm->lock);
	/* Others may have been here first, and for long */
	if (!ksm_must_pause() && ksm_cursor_begun(kmm) && !ksm_collect(batch))
		ksm_cursor_done(kmm);
	if (batch->nr && batch->found[0].kind <= KSM_FOUND_KNOWN)
		WRITE_ONCE(kmm->nid, batch->found[0].nid);
	mutex_unlock(&kmm->lock);

	ksm_fingerprint_batch(batch);
	ksm_window(KSM_WINDOW_FOUND);

	mutex_lock(&kmm->lock);
	/* Nothing must be remembered of it any more if it has been reaped */
	if (ksm_mm_dying(kmm->mm))
		batch->nr = 0;
	ksm_process_batch(batch);
	mutex_unlock(&kmm->lock);
}

/* Scan, with others, until the budget or the pass comes to its end. */
static void ksm_scan_share(struct ksm_thread *thread)
{
	struct ksm_batch *batch = &thread->batch;
	struct ksm_mm *kmm = NULL;
	unsigned int share;

	while (!ksm_must_pause()) {
		share = ksm_take_share();
		if (!share)
			break;
		/* For one thread the order of the mms stays as it is */
		kmm = ksm_cursor_mm(kmm, ksm_sharers > 1 ? numa_node_id() :
							   NUMA_NO_NODE);
		if (!kmm)
			break;
		cond_resched();
		ksm_scan_batch(batch, kmm, share);
		atomic_add(share - min(share, batch->scanned), &ksm_budget);
	}
	ksm_cursor_leave(kmm);
}

static void ksm_help(struct kthread_work *work)
{
	ksm_scan_share(container_of(work, struct ksm_thread, work));
}

/* As many helpers as there is work for.  What they are told is told first. */
static void ksm_call_helpers(struct ksm_thread *leader, unsigned int pages)
{
	unsigned long wanted = min(pages, ksm_pass_pages) / KSM_THREAD_PAGES;
	struct ksm_thread *helper = leader;
	unsigned int nr;

	ksm_sharers = clamp(wanted, 1UL, ksm_knobs.scan_threads);
	atomic_set(&ksm_budget, pages);
	nr = ksm_sharers - 1;
	list_for_each_entry_continue(helper, &ksm_threads, link) {
		if (!nr--)
			break;
		kthread_queue_work(&helper->worker, &helper->work);
	}
}

/* One that has not begun yet need not. */
static void ksm_await_helpers(struct ksm_thread *leader)
{
	struct ksm_thread *helper = leader;

	list_for_each_entry_continue(helper, &ksm_threads, link)
		kthread_cancel_work_sync(&helper->work);
}

/*
 * Scan so many pages, or to the end of the pass if that comes first.  A pass
 * ends with its last page, not later: who waits for the end of one wants the
 * pages looked at after he came.
 */
static void ksm_scan(struct ksm_thread *leader, unsigned int pages)
{
	if (!ksm_in_pass) {
		if (!pages)
			return;
		ksm_start_pass();
	}
	ksm_call_helpers(leader, pages);
	ksm_scan_share(leader);
	ksm_await_helpers(leader);
	/* They may have had too large a share */
	ksm_scan_share(leader);
	if (ksm_cursor_at_end())
		ksm_end_pass();
}

/* ------------------------------------------------------------- how many there are */

/* They are spread over the nodes that have processors. */
static int ksm_helper_nid(unsigned int nr)
{
	unsigned int nodes = num_node_state(N_CPU);
	int nid;

	/* On the only node they go where they like */
	if (nodes < 2)
		return NUMA_NO_NODE;
	nr %= nodes;
	for_each_node_state(nid, N_CPU)
		if (!nr--)
			return nid;
	return NUMA_NO_NODE;
}

/*
 * Keep a thread on its node, as far as it may run there.  When that loses its
 * last processor the scheduler lets the thread run elsewhere.
 */
static void ksm_keep_on_node(struct task_struct *task, int nid)
{
	cpumask_var_t cpus;

	if (nid == NUMA_NO_NODE || !alloc_cpumask_var(&cpus, GFP_KERNEL))
		return;
	if (cpumask_and(cpus, cpumask_of_node(nid), task->cpus_ptr))
		set_cpus_allowed_ptr(task, cpus);
	free_cpumask_var(cpus);
}

/* ksm_control_lock held for write, as in the next. */
static int ksm_add_helper(void)
{
	unsigned int nr = ksm_knobs.scan_threads;
	int nid = ksm_helper_nid(nr);
	struct ksm_thread *helper;
	struct task_struct *task;

	helper = kvzalloc_node(sizeof(*helper), GFP_KERNEL, nid);
	if (!helper)
		return -ENOMEM;
	kthread_init_worker(&helper->worker);
	kthread_init_work(&helper->work, ksm_help);
	task = kthread_create_on_node(kthread_worker_fn, &helper->worker, nid,
				      "ksmd/%u", nr);
	if (IS_ERR(task)) {
		kvfree(helper);
		return PTR_ERR(task);
	}
	helper->task = task;
	ksm_keep_on_node(task, nid);
	set_user_nice(task, 5);
	list_add_tail(&helper->link, &ksm_threads);
	WRITE_ONCE(ksm_knobs.scan_threads, nr + 1);
	wake_up_process(task);
	return 0;
}

static void ksm_remove_helper(void)
{
	struct ksm_thread *helper = list_last_entry(&ksm_threads,
						    struct ksm_thread, link);

	list_del(&helper->link);
	WRITE_ONCE(ksm_knobs.scan_threads, ksm_knobs.scan_threads - 1);
	ksm_past_runtime += task_sched_runtime(helper->task);
	kthread_stop(helper->task);
	kvfree(helper);
}

/**
 * ksm_set_threads - how many threads are to scan
 * @nr: 1 for ksmd alone, the others are its helpers
 *
 * Context: may sleep.
 * Return: 0; -EINVAL for more than there may be CPUs; -ENOMEM or -EINTR, and
 * there are as many as before.
 */
int ksm_set_threads(unsigned int nr)
{
	unsigned int before;
	int err = 0;

	if (nr > num_possible_cpus())
		return -EINVAL;
	if (down_write_killable(&ksm_control_lock))
		return -EINTR;
	before = ksm_knobs.scan_threads;
	while (ksm_knobs.scan_threads < nr && !err)
		err = ksm_add_helper();
	if (err)
		nr = before;
	while (ksm_knobs.scan_threads > nr)
		ksm_remove_helper();
	up_write(&ksm_control_lock);
	return err;
}

/**
 * ksm_scan_runtime - CPU time that scanning has taken
 *
 * Context: ksm_control_lock held.
 * Return: that of all threads since boot, in ns.
 */
u64 ksm_scan_runtime(void)
{
	u64 runtime = ksm_past_runtime;
	struct ksm_thread *thread;

	list_for_each_entry(thread, &ksm_threads, link)
		runtime += task_sched_runtime(thread->task);
	return runtime;
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

static bool ksm_should_scan(void)
{
	return READ_ONCE(ksm_knobs.run) == KSM_MERGE && ksm_have_mm();
}

/* Is the sleep that has begun still as long as it should be? */
static bool ksm_sleep_changed(unsigned int msecs)
{
	return READ_ONCE(ksm_knobs.sleep_millisecs) != msecs ||
	       kthread_should_stop();
}

static int ksmd(void *arg)
{
	struct ksm_thread *leader = arg;
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
			ksm_scan(leader, READ_ONCE(ksm_knobs.pages_to_scan));
		if (!ksm_have_mm()) {
			if (ksm_in_pass)
				ksm_end_pass();
			ksm_candidates_idle();
			ksm_free_reserve();
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
	struct ksm_thread *thread;
	struct task_struct *task;

	thread = kvzalloc(sizeof(*thread), GFP_KERNEL);
	if (!thread)
		return -ENOMEM;
	task = kthread_create(ksmd, thread, "ksmd");
	if (IS_ERR(task)) {
		kvfree(thread);
		return PTR_ERR(task);
	}
	thread->task = task;
	list_add(&thread->link, &ksm_threads);
	wake_up_process(task);
	return 0;
}
