// SPDX-License-Identifier: GPL-2.0
/*
 * The files in /sys/kernel/mm/ksm: modes, defaults, what they take and what
 * they refuse.
 */
#include "ksm_lib.h"

#define INT_TOP		"2147483647"
#define UINT_TOP	"4294967295"
#define UINT_OVER	"4294967296"
#define ULONG_TOP	"18446744073709551615"
#define ULONG_OVER	"18446744073709551616"

struct knob {
	const char *name;
	const char *start;		/* default of a fresh kernel */
	const char *good[4];
	const char *bad[6];		/* besides what nothing takes */
	int overflow;			/* errno for what no integer holds */
};

static const struct knob knobs[] = {
	{ "run", "0", { "0", "1", "2", "0" },
	  { "3", "4", "8", UINT_TOP, UINT_OVER }, EINVAL },
	{ "pages_to_scan", "100", { "0", "1", UINT_TOP, "100" },
	  { UINT_OVER }, EINVAL },
	{ "scan_threads", "1", { "1" }, { "0", UINT_TOP, UINT_OVER }, EINVAL },
	{ "sleep_millisecs", "20", { "0", "1", UINT_TOP, "20" },
	  { UINT_OVER }, EINVAL },
	{ "merge_across_nodes", "1", { "0", "1" },
	  { "2", UINT_OVER }, ERANGE },
	{ "max_page_sharing", "256", { "2", "3", INT_TOP, "256" },
	  { "0", "1" }, ERANGE },
	{ "use_zero_pages", "0", { "1", "0" }, { "2", "o" }, EINVAL },
	{ "smart_scan", "1", { "0", "1" }, { "2", "o" }, EINVAL },
	{ "stable_node_chains_prune_millisecs", "2000",
	  { "0", "1", UINT_TOP, "2000" }, { UINT_OVER }, EINVAL },
	{ "advisor_max_cpu", "70", { "1", "100", "70" }, {}, EINVAL },
	{ "advisor_min_pages_to_scan", "500", { "0", "1", ULONG_TOP, "500" },
	  {}, EINVAL },
	{ "advisor_max_pages_to_scan", "30000",
	  { "1", "70000", ULONG_TOP, "30000" }, {}, EINVAL },
	{ "advisor_target_scan_time", "200", { "1", "2", ULONG_TOP, "200" },
	  { "0" }, EINVAL },
};

/* Nothing takes these. */
static const char * const nonsense[] = {
	"\n", " ", "\t\n", "-1", "-", "+", "x", "a1", " 1", "\xff\xfe",
	"\x01\x02\x03", ".5", "#0",
};

/* Numbers followed by something; the yes/no knobs look no further. */
static const char * const trailing[] = {
	"1 2", "1x", "1\n2", "1\n\n", "1.0", "0x10", "1,", "1\t\n", "10e3", "none",
};

static const char * const counters[] = {
	"pages_scanned", "pages_shared", "pages_sharing", "pages_unshared",
	"pages_volatile", "pages_skipped", "ksm_zero_pages", "full_scans",
	"stable_node_chains", "stable_node_dups", "general_profit",
};

static bool yes_no(const struct knob *knob)
{
	return !strcmp(knob->name, "use_zero_pages") ||
	       !strcmp(knob->name, "smart_scan");
}

static bool is_there(const struct knob *knob)
{
	return (strcmp(knob->name, "merge_across_nodes") &&
		strcmp(knob->name, "scan_threads")) || ksm_has(knob->name);
}

static long mode_of(const char *file)
{
	char path[128];
	struct stat st;

	snprintf(path, sizeof(path), "/sys/kernel/mm/ksm/%s", file);
	if (stat(path, &st))
		FAIL("no %s", file);
	return st.st_mode & 07777;
}

static void modes(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(knobs); i++)
		if (is_there(&knobs[i]))
			CHECK_EQ(mode_of(knobs[i].name), 0644);
	CHECK_EQ(mode_of("advisor_mode"), 0644);
	for (size_t i = 0; i < ARRAY_SIZE(counters); i++) {
		CHECK_EQ(mode_of(counters[i]), 0444);
		/* Not for root either. */
		CHECK_EQ(ksm_write(counters[i], "1", 1), -EACCES);
	}
}

static void defaults(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(knobs); i++)
		if (is_there(&knobs[i]) &&
		    strcmp(ksm_as_found(knobs[i].name), knobs[i].start))
			FAIL("%s was %s at the start", knobs[i].name,
			     ksm_as_found(knobs[i].name));
	CHECK(!strcmp(ksm_as_found("advisor_mode"), "none"));
}

/* Every file is one line with one number, after nothing was merged at all. */
static void formats(void)
{
	char buf[128], *end;

	for (size_t i = 0; i < ARRAY_SIZE(knobs) + ARRAY_SIZE(counters); i++) {
		const char *name = i < ARRAY_SIZE(knobs) ? knobs[i].name :
				   counters[i - ARRAY_SIZE(knobs)];

		if (i < ARRAY_SIZE(knobs) && !is_there(&knobs[i]))
			continue;
		CHECK_GE(ksm_read(name, buf, sizeof(buf)), 2);
		strtol(buf, &end, 10);
		if (end == buf || strcmp(end, "\n"))
			FAIL("%s reads: %s", name, buf);
	}
	CHECK_GE(ksm_read("advisor_mode", buf, sizeof(buf)), 1);
	CHECK(!strcmp(buf, "[none] scan-time\n"));
}

static void check_value(const char *name, const char *value)
{
	char buf[128];

	CHECK_GE(ksm_read(name, buf, sizeof(buf)), 1);
	buf[strcspn(buf, "\n")] = '\0';
	if (strcmp(buf, value))
		FAIL("%s is %s, not %s", name, buf, value);
}

static void put(const char *name, const char *value, int expect)
{
	int err = ksm_write(name, value, strlen(value));

	if (err != -expect)
		FAIL("writing \"%s\" to %s: errno %d, not %d", value, name,
		     -err, expect);
}

static void good_values(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(knobs); i++) {
		const struct knob *knob = &knobs[i];
		char line[64];

		if (!is_there(knob))
			continue;
		for (size_t j = 0; j < 4 && knob->good[j]; j++) {
			put(knob->name, knob->good[j], 0);
			check_value(knob->name, knob->good[j]);
			snprintf(line, sizeof(line), "%s\n", knob->good[j]);
			put(knob->name, line, 0);
			check_value(knob->name, knob->good[j]);
		}
	}
	/* Words that mean yes and no. */
	for (size_t i = 0; i < ARRAY_SIZE(knobs); i++) {
		if (!yes_no(&knobs[i]))
			continue;
		put(knobs[i].name, "y", 0);
		check_value(knobs[i].name, "1");
		put(knobs[i].name, "off\n", 0);
		check_value(knobs[i].name, "0");
	}
}

/* pitfall 31 */
static void bad_values(void)
{
	static const char * const over[] = {
		ULONG_OVER, "99999999999999999999999999999999999999",
	};

	for (size_t i = 0; i < ARRAY_SIZE(knobs); i++) {
		const struct knob *knob = &knobs[i];
		char before[64];

		if (!is_there(knob))
			continue;
		CHECK_GE(ksm_read(knob->name, before, sizeof(before)), 1);
		before[strcspn(before, "\n")] = '\0';
		for (size_t j = 0; j < ARRAY_SIZE(nonsense); j++) {
			put(knob->name, nonsense[j], EINVAL);
			check_value(knob->name, before);
		}
		for (size_t j = 0; j < 6 && knob->bad[j]; j++) {
			put(knob->name, knob->bad[j], EINVAL);
			check_value(knob->name, before);
		}
		for (size_t j = 0; j < ARRAY_SIZE(trailing); j++) {
			if (yes_no(knob))
				break;
			put(knob->name, trailing[j], EINVAL);
			check_value(knob->name, before);
		}
		for (size_t j = 0; j < ARRAY_SIZE(over); j++) {
			if (yes_no(knob))
				break;
			put(knob->name, over[j], knob->overflow);
			check_value(knob->name, before);
		}
		/* No data, no change. */
		CHECK_EQ(ksm_write(knob->name, "", 0), 0);
		check_value(knob->name, before);
	}
}

static void long_values(void)
{
	static char huge[5000];

	memset(huge, '1', sizeof(huge));
	for (size_t i = 0; i < ARRAY_SIZE(knobs); i++) {
		if (!is_there(&knobs[i]) || yes_no(&knobs[i]))
			continue;
		/* sysfs takes a page at most; whatever it says, no change. */
		CHECK(ksm_write(knobs[i].name, huge, sizeof(huge)) < 0);
		huge[4000] = '\0';
		CHECK(ksm_write(knobs[i].name, huge, 4000) < 0);
		huge[4000] = '1';
	}
	CHECK_EQ(ksm_get("run"), 0);
	CHECK_EQ(ksm_get("max_page_sharing"), 256);
	CHECK_EQ(ksm_get("pages_to_scan"), 1000);
}

static void fixed_while_shared(void)
{
	const size_t nr = 32;
	char *area = mergeable_area(nr, 1, 4);

	ksm_settle();
	CHECK_EQ(count_ksm(area, nr), nr);
	put("max_page_sharing", "2", EBUSY);
	put("max_page_sharing", "1000", EBUSY);
	put("max_page_sharing", "1", EINVAL);
	put("max_page_sharing", "256", 0);	/* as it is */
	check_value("max_page_sharing", "256");
	if (ksm_has("merge_across_nodes")) {
		put("merge_across_nodes", "0", EBUSY);
		put("merge_across_nodes", "2", EINVAL);
		put("merge_across_nodes", "1", 0);
		check_value("merge_across_nodes", "1");
	}
	CHECK_EQ(count_ksm(area, nr), nr);

	put("run", "2", 0);
	put("max_page_sharing", "8", 0);
	check_value("max_page_sharing", "8");
	if (ksm_has("merge_across_nodes")) {
		put("merge_across_nodes", "0", 0);
		check_value("merge_across_nodes", "0");
		put("merge_across_nodes", "1", 0);
	}
	ksm_settle();
	CHECK_EQ(count_ksm(area, nr), nr);
	VERIFY(area, nr, 1, 4);
}

static void advisor(void)
{
	static const char * const wrong[] = {
		"\n", "scan", "scan-time2", "scan_time", "none scan-time",
		"[none]", "1", "0", " none", "NONE", "\xff",
	};

	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		put("advisor_mode", wrong[i], EINVAL);
		check_value("advisor_mode", "[none] scan-time");
	}
	put("advisor_min_pages_to_scan", "777", 0);
	put("advisor_mode", "scan-time\n", 0);
	check_value("advisor_mode", "none [scan-time]");
	/* Its own from now on, beginning with the lower limit. */
	check_value("pages_to_scan", "777");
	put("pages_to_scan", "200", EINVAL);
	check_value("pages_to_scan", "777");
	put("advisor_mode", "nonsense", EINVAL);
	put("advisor_mode", "scan-time", 0);
	check_value("advisor_mode", "none [scan-time]");
	put("advisor_mode", "none", 0);
	check_value("advisor_mode", "[none] scan-time");
	check_value("pages_to_scan", "100");
	put("pages_to_scan", "200", 0);
	put("advisor_mode", "none\n", 0);
	check_value("pages_to_scan", "200");
}

/* A new sleep_millisecs does not wait for the old one to pass. */
static void sleep_is_cut_short(void)
{
	char *area = mergeable_area(16, 1, 16);
	long scans;

	ksm_scan(1);
	ksm_set("sleep_millisecs", 3600 * 1000);
	usleep(100000);
	scans = ksm_get("full_scans");
	CHECK(!BECOMES(ksm_get("full_scans") > scans + 1, 0.5));
	ksm_set("sleep_millisecs", 1);
	WAIT_FOR(ksm_get("full_scans") > scans + 3);
	VERIFY(area, 16, 1, 16);
}

static void only_root_writes(void)
{
	int status;

	if (!fork()) {
		char buf[64];

		CHECK(!setgid(65534) && !setuid(65534));
		for (size_t i = 0; i < ARRAY_SIZE(knobs); i++) {
			if (!is_there(&knobs[i]))
				continue;
			CHECK_GE(ksm_read(knobs[i].name, buf, sizeof(buf)), 1);
			CHECK_EQ(ksm_write(knobs[i].name, "1", 1), -EACCES);
		}
		CHECK_EQ(ksm_write("advisor_mode", "none", 4), -EACCES);
		CHECK(file_read("/proc/1/ksm_stat", buf, sizeof(buf)) < 0);
		_exit(0);
	}
	CHECK(wait(&status) > 0 && !status);
}

/* Everybody turns every knob while pages are merged and unmerged. */
static void turned_all_at_once(void)
{
	const size_t nr = 64;
	char *area = mergeable_area(nr, 70, 4);
	double end = ksm_now() + 4;
	int status;

	fflush(stdout);
	for (int child = 0; child < 4; child++) {
		if (fork())
			continue;
		srand(child);
		while (ksm_now() < end) {
			const struct knob *knob =
				&knobs[rand() % ARRAY_SIZE(knobs)];
			const char *value = knob->good[rand() % 4];
			const char *mode = rand() % 2 ? "none" : "scan-time";

			/* ULONG_TOP pages at a time are too many to wait for */
			if (value && strlen(value) < 6 && is_there(knob))
				ksm_write(knob->name, value, strlen(value));
			ksm_write("advisor_mode", mode, strlen(mode));
			ksm_write("run", rand() % 2 ? "1" : "2", 1);
		}
		_exit(0);
	}
	while (ksm_now() < end) {
		VERIFY(area, nr, 70, 4);
		fill_page(area + nr / 2 * PAGE_SIZE, 70 + nr / 2 % 4);
	}
	for (int child = 0; child < 4; child++)
		CHECK(wait(&status) > 0 && !status);

	/* If it is 2 by now, that would do nothing */
	ksm_set("run", 0);
	ksm_set("run", 2);
	CHECK_EQ(ksm_get("pages_shared"), 0);
	CHECK_EQ(ksm_get("pages_sharing"), 0);
	CHECK_EQ(count_ksm(area, nr), 0);
	put("advisor_mode", "none", 0);
	put("max_page_sharing", "256", 0);
	ksm_set("pages_to_scan", 1000);
	ksm_set("sleep_millisecs", 0);
	ksm_set("smart_scan", 0);
	ksm_settle();
	CHECK_EQ(count_ksm(area, nr), nr);
	CHECK_EQ(ksm_get("pages_shared"), 4);
	VERIFY(area, nr, 70, 4);
}

static const struct ksm_test tests[] = {
	{ "modes", modes },
	{ "defaults", defaults },
	{ "formats", formats },
	{ "good_values", good_values },
	{ "bad_values", bad_values },
	{ "long_values", long_values },
	{ "fixed_while_shared", fixed_while_shared },
	{ "advisor", advisor },
	{ "sleep_is_cut_short", sleep_is_cut_short },
	{ "only_root_writes", only_root_writes },
	{ "turned_all_at_once", turned_all_at_once },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
