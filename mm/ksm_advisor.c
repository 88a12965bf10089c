// SPDX-License-Identifier: GPL-2.0
/*
 * How fast to scan: the scan-time advisor.
 *
 * The admin says how long a pass over all registered memory ought to take and
 * how much of a CPU may be used for it.  At the end of every pass the advisor
 * sets pages_to_scan for the next one from what the last one took.
 */
#include <linux/ksm.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/minmax.h>
#include <linux/mutex.h>

#include <trace/events/ksm.h>

#include "ksm_internal.h"

/* What pages_to_scan falls back to when no advisor sets it. */
#define PAGES_TO_SCAN_DEFAULT	100

/* A pass is never held below this use of a CPU, whatever max_cpu says. */
#define MIN_CPU_PERCENT		10

/* One percent of a CPU, in ns of CPU time for each second. */
#define NSEC_PER_PERCENT	(NSEC_PER_SEC / 100)

/* Percent by which the newest measurement moves the average. */
#define NEWEST_WEIGHT		30

struct ksm_advisor ksm_advisor = {
	.mode = KSM_ADVISOR_NONE,
	.max_cpu = 70,
	.min_pages_to_scan = 500,
	.max_pages_to_scan = 30000,
	.target_scan_time = 200,
};

/**
 * struct pass - what the advisor knows of the passes
 * @underway: it saw this pass begin; not so if it was switched on later
 * @began: time at which this pass began
 * @cpu_before: CPU time that scanning had taken by then, in ns
 * @last_secs: duration of the pass before this one, 0 if not known
 * @trend: moving average of the durations, each in percent of the one before
 */
struct pass {
	bool underway;
	ktime_t began;
	u64 cpu_before;
	u64 last_secs;
	u64 trend;
};

static struct pass pass;

/*
 * Guards pass, ksm_advisor.mode, and writes of ksm_knobs.pages_to_scan, which
 * belongs to the admin in one mode and to the advisor in the other.
 */
static DEFINE_MUTEX(advisor_lock);

/* Never 0, and small enough to be multiplied with any u32. */
static u64 ratio_in_percent(u64 value, u64 base)
{
	value = min_t(u64, value, U32_MAX) * 100;
	return clamp_t(u64, div64_u64(value, base), 1, U32_MAX);
}

/*
 * Were everything proportional, a pass that took twice the time aimed at would
 * need twice the pages between two sleeps.  The trend corrects this for
 * memory that grows or shrinks.
 */
static u64 pages_for_target(unsigned int pages, u64 secs, u64 trend)
{
	u64 target = READ_ONCE(ksm_advisor.target_scan_time);
	u64 wanted;

	wanted = div64_u64((u64)pages * 100, ratio_in_percent(target, secs));
	return div_u64(min_t(u64, wanted, U32_MAX) * trend, 100);
}

/* Keeps @wanted where the next pass will use an allowed share of a CPU. */
static u64 limit_cpu(u64 wanted, unsigned int pages, unsigned int cpu_percent)
{
	u64 most = (u64)pages * READ_ONCE(ksm_advisor.max_cpu);
	u64 least = (u64)pages * MIN_CPU_PERCENT;

	/* Several threads may use more percents than there are pages */
	most = max(div_u64(most, cpu_percent), 1);
	least = max(div_u64(least, cpu_percent), 1);

	return max(min(wanted, most), least);
}

/**
 * ksm_advise - how many pages to look at between two sleeps in the next pass
 * @pages: how many they were in the last one
 * @secs: how long that took, 1 at least
 * @trend: moving average of the durations, in percent of the one before
 * @cpu_percent: what it used of a CPU, 1 at least
 *
 * Context: any.
 * Return: that number, not more than the admin allows; may be 0.
 */
u64 ksm_advise(unsigned int pages, u64 secs, u64 trend,
	       unsigned int cpu_percent)
{
	u64 wanted = pages_for_target(pages, secs, trend);

	wanted = limit_cpu(wanted, pages, cpu_percent);
	return min_t(u64, wanted, READ_ONCE(ksm_advisor.max_pages_to_scan));
}

static void set_pages_to_scan(u64 pages)
{
	/* With 0 pages no pass would ever end, and none be judged again. */
	WRITE_ONCE(ksm_knobs.pages_to_scan, clamp_t(u64, pages, 1, UINT_MAX));
}

static void judge_pass(void)
{
	unsigned int pages = READ_ONCE(ksm_knobs.pages_to_scan);
	u64 elapsed_ns = ktime_to_ns(ktime_sub(ktime_get(), pass.began));
	u64 cpu_ns = ksm_scan_runtime() - pass.cpu_before;
	u64 secs = max_t(u64, div_u64(elapsed_ns, NSEC_PER_SEC), 1);
	unsigned int cpu_percent;
	u64 newest;

	cpu_percent = clamp_t(u64, div64_u64(cpu_ns, secs * NSEC_PER_PERCENT),
			      1, UINT_MAX);

	newest = ratio_in_percent(secs, pass.last_secs ?: secs);
	pass.trend = div_u64(pass.trend * (100 - NEWEST_WEIGHT) +
			     newest * NEWEST_WEIGHT, 100);
	pass.last_secs = secs;

	set_pages_to_scan(ksm_advise(pages, secs, pass.trend, cpu_percent));

	trace_ksm_advisor(secs, READ_ONCE(ksm_knobs.pages_to_scan), cpu_percent);
}

/**
 * ksm_advisor_start_pass - a pass over all registered memory begins
 *
 * Context: ksm_control_lock held.
 */
void ksm_advisor_start_pass(void)
{
	mutex_lock(&advisor_lock);
	if (ksm_advisor.mode == KSM_ADVISOR_SCAN_TIME) {
		pass.underway = true;
		pass.began = ktime_get();
		pass.cpu_before = ksm_scan_runtime();
	}
	mutex_unlock(&advisor_lock);
}

/**
 * ksm_advisor_end_pass - that pass is over: set the speed of the next
 *
 * Does nothing if the advisor is off, or was switched on in the middle of the
 * pass and so cannot know how long it took.
 *
 * Context: ksm_control_lock held.
 */
void ksm_advisor_end_pass(void)
{
	mutex_lock(&advisor_lock);
	if (pass.underway)
		judge_pass();
	pass.underway = false;
	mutex_unlock(&advisor_lock);
}

/**
 * ksm_advisor_set_mode - choose who sets pages_to_scan
 * @mode: the advisor to be used from now on
 *
 * A change of mode sets pages_to_scan to where the new mode starts from.
 */
void ksm_advisor_set_mode(enum ksm_advisor_mode mode)
{
	mutex_lock(&advisor_lock);
	if (ksm_advisor.mode != mode) {
		WRITE_ONCE(ksm_advisor.mode, mode);
		pass = (struct pass){};
		set_pages_to_scan(mode == KSM_ADVISOR_NONE ?
				  PAGES_TO_SCAN_DEFAULT :
				  READ_ONCE(ksm_advisor.min_pages_to_scan));
	}
	mutex_unlock(&advisor_lock);
}

/**
 * ksm_advisor_set_pages - the admin's own choice of pages_to_scan
 * @pages: how many pages to look at between two sleeps
 *
 * Return: 0, or -EINVAL while an advisor makes that choice.
 */
int ksm_advisor_set_pages(unsigned int pages)
{
	int err = -EINVAL;

	mutex_lock(&advisor_lock);
	if (ksm_advisor.mode == KSM_ADVISOR_NONE) {
		WRITE_ONCE(ksm_knobs.pages_to_scan, pages);
		err = 0;
	}
	mutex_unlock(&advisor_lock);
	return err;
}
