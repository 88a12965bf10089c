// SPDX-License-Identifier: GPL-2.0
/*
 * /sys/kernel/debug/ksm: what is too long for sysfs, and what is for those who
 * work on KSM.
 *
 * domains lists the merge domains, and how much each shares.
 *
 * fingerprint tells how fingerprints are made, and with what key: for tests that
 * want pages to have the same one.
 *
 * windows/NAME is how many microseconds KSM waits, one time out of two, in the
 * moment of that name: see enum ksm_window.
 */
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/init.h>
#include <linux/minmax.h>
#include <linux/random.h>
#include "ksm_internal.h"

#ifdef CONFIG_KSM_DEBUG
/* Some are waited for with interrupts off. */
#define KSM_WINDOW_MAX_US	1000U

static const char * const ksm_window_names[] = {
	[KSM_WINDOW_GET_PFN]		= "get_pfn",
	[KSM_WINDOW_GET_MAPPING]	= "get_mapping",
	[KSM_WINDOW_GET_REF]		= "get_ref",
	[KSM_WINDOW_GET_HELD]		= "get_held",
	[KSM_WINDOW_GET_GONE]		= "get_gone",
	[KSM_WINDOW_MIGRATE_PFN]	= "migrate_pfn",
	[KSM_WINDOW_MIGRATE_MOVES]	= "migrate_moves",
	[KSM_WINDOW_MIGRATE_MAPPING]	= "migrate_mapping",
	[KSM_WINDOW_SHARE]		= "share",
	[KSM_WINDOW_PROTECT]		= "protect",
	[KSM_WINDOW_REPLACE]		= "replace",
	[KSM_WINDOW_FOUND]		= "found",
	[KSM_WINDOW_BREAK]		= "break",
	[KSM_WINDOW_EXIT]		= "exit",
};

static u32 ksm_window_us[ARRAY_SIZE(ksm_window_names)] = {
	[0 ... ARRAY_SIZE(ksm_window_names) - 1] = 4,
};

/**
 * ksm_window_wait - make a window wide, now and then
 * @window: which
 *
 * Context: any.
 */
void ksm_window_wait(enum ksm_window window)
{
	u32 us = READ_ONCE(ksm_window_us[window]);

	if (us && (get_random_u8() & 1))
		udelay(min(us, KSM_WINDOW_MAX_US));
}

static void __init ksm_windows_init(struct dentry *dir)
{
	int i;

	dir = debugfs_create_dir("windows", dir);
	for (i = 0; i < ARRAY_SIZE(ksm_window_names); i++)
		debugfs_create_u32(ksm_window_names[i], 0600, dir,
				   &ksm_window_us[i]);
}
#else
static void __init ksm_windows_init(struct dentry *dir)
{
}
#endif /* CONFIG_KSM_DEBUG */

DEFINE_SEQ_ATTRIBUTE(ksm_domains);
DEFINE_SHOW_ATTRIBUTE(ksm_fingerprint);

static int __init ksm_debug_init(void)
{
	struct dentry *dir = debugfs_create_dir("ksm", NULL);

	debugfs_create_file("domains", 0400, dir, NULL, &ksm_domains_fops);
	debugfs_create_file("fingerprint", 0400, dir, NULL,
			    &ksm_fingerprint_fops);
	ksm_windows_init(dir);
	return 0;
}
late_initcall(ksm_debug_init);
