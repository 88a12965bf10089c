// SPDX-License-Identifier: GPL-2.0
/*
 * /sys/kernel/mm/ksm: what the admin sets and what KSM tells him.
 *
 * Every file is a line of the table at the end of this one: a number, a switch
 * or a counter that lives elsewhere, with its limits and with what is to be
 * done when it changes.
 */
#include <linux/init.h>
#include <linux/kobject.h>
#include <linux/kstrtox.h>
#include <linux/limits.h>
#include <linux/nodemask.h>
#include <linux/slab.h>
#include <linux/sysfs.h>

#include "ksm_internal.h"

/* How wide the number behind a file is. */
enum ksm_width {
	KSM_BOOL,
	KSM_UINT,
	KSM_ULONG,
};

/**
 * struct ksm_file - a file of the folder
 * @attr: what sysfs knows of it
 * @width: which of the pointers is meant
 * @flag: the switch it stands for
 * @uint: the number it stands for
 * @ulong: the number it stands for
 * @counter: the counter it shows
 * @sum: works out what it shows, where that is kept nowhere
 * @min: smallest number it takes
 * @max: largest number it takes
 * @type_max: if not 0, numbers above it earn ERANGE instead of EINVAL, as they
 *	always have in this file
 * @set: changes the number, where that takes more than a store; a number it
 *	refuses stays as it was
 */
struct ksm_file {
	struct kobj_attribute attr;
	enum ksm_width width;
	union {
		bool *flag;
		unsigned int *uint;
		unsigned long *ulong;
		atomic_long_t *counter;
		long (*sum)(void);
	};
	unsigned long min;
	unsigned long max;
	unsigned long type_max;
	int (*set)(const struct ksm_file *file, unsigned long value);
};

static const struct ksm_file *to_ksm_file(struct kobj_attribute *attr)
{
	return container_of(attr, struct ksm_file, attr);
}

/* -------------------------------------------------- numbers and switches */

static unsigned long get_number(const struct ksm_file *file)
{
	switch (file->width) {
	case KSM_BOOL:
		return READ_ONCE(*file->flag);
	case KSM_UINT:
		return READ_ONCE(*file->uint);
	default:
		return READ_ONCE(*file->ulong);
	}
}

static int set_number(const struct ksm_file *file, unsigned long value)
{
	switch (file->width) {
	case KSM_BOOL:
		WRITE_ONCE(*file->flag, value);
		break;
	case KSM_UINT:
		WRITE_ONCE(*file->uint, value);
		break;
	default:
		WRITE_ONCE(*file->ulong, value);
		break;
	}
	return 0;
}

/* A ksmd that sleeps long is to notice that it shall no longer. */
static int set_sleep(const struct ksm_file *file, unsigned long value)
{
	set_number(file, value);
	ksm_wake();
	return 0;
}

static int set_threads(const struct ksm_file *file, unsigned long value)
{
	return ksm_set_threads(value);
}

static int set_pages_to_scan(const struct ksm_file *file, unsigned long value)
{
	return ksm_advisor_set_pages(value);
}

/* For what merged pages depend on: not while there are any. */
static int set_unshared(const struct ksm_file *file, unsigned long value)
{
	int err;

	if (get_number(file) == value)
		return 0;
	err = ksm_lock_unshared();
	if (err)
		return err;
	set_number(file, value);
	up_write(&ksm_control_lock);
	return 0;
}

static ssize_t number_show(struct kobject *kobj, struct kobj_attribute *attr,
			   char *buf)
{
	return sysfs_emit(buf, "%lu\n", get_number(to_ksm_file(attr)));
}

/* What somebody writes, if it makes sense. */
static int parse_number(const struct ksm_file *file, const char *buf,
			unsigned long *value)
{
	int err = kstrtoul(buf, 10, value);

	if (!err && file->type_max && *value > file->type_max)
		err = -ERANGE;
	if (err == -ERANGE && file->type_max)
		return err;
	return err || *value < file->min || *value > file->max ? -EINVAL : 0;
}

static ssize_t number_store(struct kobject *kobj, struct kobj_attribute *attr,
			    const char *buf, size_t count)
{
	const struct ksm_file *file = to_ksm_file(attr);
	unsigned long value;

	return parse_number(file, buf, &value) ?: file->set(file, value) ?: count;
}

/* Switches also take y, n, on, off and their like. */
static ssize_t switch_store(struct kobject *kobj, struct kobj_attribute *attr,
			    const char *buf, size_t count)
{
	bool on;

	if (kstrtobool(buf, &on))
		return -EINVAL;
	set_number(to_ksm_file(attr), on);
	return count;
}

/* ------------------------------------------------------ run and advisor */

static ssize_t run_show(struct kobject *kobj, struct kobj_attribute *attr,
			char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(ksm_knobs.run));
}

static int set_run(const struct ksm_file *file, unsigned long value)
{
	return ksm_set_run(value);
}

/* All names there are, with that which is chosen in brackets. */
static ssize_t names_show(char *buf, const char *const *names, int nr,
			  int chosen)
{
	int i, len = 0;

	for (i = 0; i < nr; i++)
		len += sysfs_emit_at(buf, len, i == chosen ? "%s[%s]" : "%s%s",
				     i ? " " : "", names[i]);
	return len + sysfs_emit_at(buf, len, "\n");
}

static const char *const advisor_names[] = {
	[KSM_ADVISOR_NONE] = "none",
	[KSM_ADVISOR_SCAN_TIME] = "scan-time",
};

static ssize_t advisor_mode_show(struct kobject *kobj,
				 struct kobj_attribute *attr, char *buf)
{
	return names_show(buf, advisor_names, ARRAY_SIZE(advisor_names),
			  READ_ONCE(ksm_advisor.mode));
}

static ssize_t advisor_mode_store(struct kobject *kobj,
				  struct kobj_attribute *attr,
				  const char *buf, size_t count)
{
	int mode = sysfs_match_string(advisor_names, buf);

	if (mode < 0)
		return -EINVAL;
	ksm_advisor_set_mode(mode);
	return count;
}

static const char *const domain_names[] = {
	[KSM_DOMAIN_SYSTEM] = "system",
	[KSM_DOMAIN_USER] = "user",
	[KSM_DOMAIN_CGROUP] = "cgroup",
	[KSM_DOMAIN_PROCESS] = "process",
};

static ssize_t merge_domain_show(struct kobject *kobj,
				 struct kobj_attribute *attr, char *buf)
{
	return names_show(buf, domain_names, ARRAY_SIZE(domain_names),
			  READ_ONCE(ksm_knobs.merge_domain));
}

static ssize_t merge_domain_store(struct kobject *kobj,
				  struct kobj_attribute *attr,
				  const char *buf, size_t count)
{
	int kind = sysfs_match_string(domain_names, buf);

	if (kind < 0 || !ksm_has_domains(kind))
		return -EINVAL;
	return set_unshared(to_ksm_file(attr), kind) ?: count;
}

/* -------------------------------------------------------------- counters */

static ssize_t counter_show(struct kobject *kobj, struct kobj_attribute *attr,
			    char *buf)
{
	const struct ksm_file *file = to_ksm_file(attr);
	unsigned long value = atomic_long_read(file->counter);

	return sysfs_emit(buf, "%lu\n", value);
}

/* These may be below zero. */
static ssize_t sum_show(struct kobject *kobj, struct kobj_attribute *attr,
			char *buf)
{
	return sysfs_emit(buf, "%ld\n", to_ksm_file(attr)->sum());
}

/* The counters are read one after the other while ksmd changes them. */
static long volatile_pages(void)
{
	long pages = atomic_long_read(&ksm_counters.tracked) -
		     atomic_long_read(&ksm_counters.shared) -
		     atomic_long_read(&ksm_counters.sharing) -
		     atomic_long_read(&ksm_counters.unshared);

	return max(pages, 0L);
}

static long zero_pages(void)
{
	return atomic_long_read(&ksm_zero_pages);
}

static long profit(void)
{
	long saved = atomic_long_read(&ksm_counters.sharing) + zero_pages();

	return saved * (long)PAGE_SIZE -
	       atomic_long_read(&ksm_counters.metadata);
}

/* pages_shared by NUMA node, as in numa_stat of a memory cgroup. */
static ssize_t pages_shared_nodes_show(struct kobject *kobj,
				       struct kobj_attribute *attr, char *buf)
{
	unsigned long *counts;
	ssize_t len = 0;
	int nid;

	counts = kcalloc(nr_node_ids, sizeof(*counts), GFP_KERNEL);
	if (!counts)
		return -ENOMEM;
	ksm_count_by_nid(counts);
	for_each_node_state(nid, N_MEMORY)
		len += sysfs_emit_at(buf, len, "%sN%d=%lu", len ? " " : "",
				     nid, counts[nid]);
	kfree(counts);
	return len + sysfs_emit_at(buf, len, "\n");
}

/* ------------------------------------------------------------- the table */

#define KSM_NUMBER(_name, _width, _pointer, _value, _min, _max, _set)	\
	{								\
		.attr = __ATTR(_name, 0644, number_show, number_store),	\
		.width = _width, ._pointer = _value,			\
		.min = _min, .max = _max, .set = _set,			\
	}

#define KSM_SWITCH(_name, _value)					\
	{								\
		.attr = __ATTR(_name, 0644, number_show, switch_store),	\
		.width = KSM_BOOL, .flag = _value,			\
	}

#define KSM_COUNTER(_name, _counter)					\
	{								\
		.attr = __ATTR(_name, 0444, counter_show, NULL),	\
		.counter = &ksm_counters._counter,			\
	}

#define KSM_SUM(_name, _sum)						\
	{								\
		.attr = __ATTR(_name, 0444, sum_show, NULL),		\
		.sum = _sum,						\
	}

static struct ksm_file ksm_files[] = {
	{
		.attr = __ATTR(run, 0644, run_show, number_store),
		.max = KSM_UNMERGE, .set = set_run,
	},
	/* As many as there may ever be CPUs, which ksm_set_threads() knows */
	KSM_NUMBER(scan_threads, KSM_UINT, uint, &ksm_knobs.scan_threads,
		   1, UINT_MAX, set_threads),
	KSM_NUMBER(pages_to_scan, KSM_UINT, uint, &ksm_knobs.pages_to_scan,
		   0, UINT_MAX, set_pages_to_scan),
	KSM_NUMBER(sleep_millisecs, KSM_UINT, uint, &ksm_knobs.sleep_millisecs,
		   0, UINT_MAX, set_sleep),
	{
		.attr = __ATTR(max_page_sharing, 0644, number_show, number_store),
		.width = KSM_UINT, .uint = &ksm_knobs.max_page_sharing,
		.min = 2, .max = INT_MAX, .type_max = INT_MAX,
		.set = set_unshared,
	},
#ifdef CONFIG_NUMA
	{
		.attr = __ATTR(merge_across_nodes, 0644, number_show, number_store),
		.width = KSM_BOOL, .flag = &ksm_knobs.merge_across_nodes,
		.min = 0, .max = 1, .type_max = ULONG_MAX,
		.set = set_unshared,
	},
#endif
	{
		.attr = __ATTR_RW(merge_domain),
		.width = KSM_UINT, .uint = &ksm_knobs.merge_domain,
	},
	KSM_NUMBER(stable_node_chains_prune_millisecs, KSM_UINT, uint,
		   &ksm_knobs.prune_millisecs, 0, UINT_MAX, set_number),
	KSM_SWITCH(relocate, &ksm_knobs.relocate),
	KSM_SWITCH(use_zero_pages, &ksm_knobs.use_zero_pages),
	KSM_SWITCH(smart_scan, &ksm_knobs.smart_scan),

	{ .attr = __ATTR_RW(advisor_mode) },
	KSM_NUMBER(advisor_max_cpu, KSM_UINT, uint, &ksm_advisor.max_cpu,
		   0, UINT_MAX, set_number),
	KSM_NUMBER(advisor_min_pages_to_scan, KSM_ULONG, ulong,
		   &ksm_advisor.min_pages_to_scan, 0, ULONG_MAX, set_number),
	KSM_NUMBER(advisor_max_pages_to_scan, KSM_ULONG, ulong,
		   &ksm_advisor.max_pages_to_scan, 0, ULONG_MAX, set_number),
	KSM_NUMBER(advisor_target_scan_time, KSM_ULONG, ulong,
		   &ksm_advisor.target_scan_time, 1, ULONG_MAX, set_number),

	KSM_COUNTER(full_scans, full_scans),
	KSM_COUNTER(pages_scanned, scanned),
	KSM_COUNTER(pages_skipped, skipped),
	KSM_COUNTER(pages_unchanged, unchanged),
	KSM_COUNTER(pages_shared, shared),
	/* Looks at all of them: not for everybody */
	{ .attr = __ATTR_RO_MODE(pages_shared_nodes, 0400) },
	KSM_COUNTER(pages_sharing, sharing),
	KSM_COUNTER(pages_unshared, unshared),
	KSM_SUM(pages_volatile, volatile_pages),
	KSM_SUM(ksm_zero_pages, zero_pages),
	KSM_COUNTER(pages_migrated, migrated),
	KSM_COUNTER(stable_node_chains, chains),
	KSM_COUNTER(stable_node_dups, dups),
	KSM_COUNTER(metadata_bytes, metadata),
	KSM_SUM(general_profit, profit),
};

#if IS_ENABLED(CONFIG_KSM_KUNIT_TEST)
/**
 * ksm_parse_knob - what would be made of a write to a knob, for KUnit
 * @name: the knob's, one that takes numbers
 * @buf: what is written
 * @value: what was meant
 *
 * Return: 0, what the writer gets, or -ENOENT if there is no such knob.
 */
int ksm_parse_knob(const char *name, const char *buf, unsigned long *value)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(ksm_files); i++)
		if (!strcmp(ksm_files[i].attr.attr.name, name))
			return parse_number(&ksm_files[i], buf, value);
	return -ENOENT;
}
#endif

/* The same files as sysfs wants them, with a NULL at the end. */
static struct attribute *ksm_attrs[ARRAY_SIZE(ksm_files) + 1];

static const struct attribute_group ksm_folder = {
	.name = "ksm",
	.attrs = ksm_attrs,
};

/**
 * ksm_sysfs_init - make /sys/kernel/mm/ksm
 *
 * To be called when everything the files look at is ready.
 *
 * Return: 0 or a negative errno.
 */
int __init ksm_sysfs_init(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(ksm_files); i++)
		ksm_attrs[i] = &ksm_files[i].attr.attr;
	return sysfs_create_group(mm_kobj, &ksm_folder);
}
