// SPDX-License-Identifier: GPL-2.0
/* vm: --nodes 2 --mem 1G --swap 256M --timeout 2000 */
/*
 * What others have written to bring kernels down, with all its memory offered to
 * KSM: stress-ng and trinity.
 *
 * KSM_STORM_SECONDS=N makes each last so long (10 on a debug kernel, else 3).
 */
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include "ksm_lib.h"

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE	67
#endif

#define NR	256UL
#define ROOM	"/tmp/ksm_fuzz"
#define FIGURES	ROOM "/figures"

static int seconds(void)
{
	const char *long_run = getenv("KSM_STORM_SECONDS");

	if (long_run)
		return atoi(long_run);
	return ksm_slow() > 1 ? 10 : 3;
}

/* Does not return. */
static void be_program(char *const argv[], uid_t uid)
{
	int null = open("/dev/null", O_RDWR);

	/* What it kills by number or by group is its own */
	CHECK(!setpgid(0, 0));
	mkdir(ROOM, 0777);
	CHECK(!chmod(ROOM, 0777));
	CHECK(!chdir(ROOM));
	CHECK(!prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0));
	if (uid)
		CHECK(!setgid(uid) && !setuid(uid));
	dup2(null, 0);
	dup2(null, 1);
	dup2(null, 2);
	execvp(argv[0], argv);
	_exit(127);
}

/*
 * Returns its wait status, and the most pages that were shared meanwhile.  When
 * it has had its time, and done what it was to do, it is ended.
 */
static int wait_for_program(pid_t pid, double limit, bool (*enough)(void),
			    long *most)
{
	double end = ksm_now() + limit;
	int status;

	while (waitpid(pid, &status, WNOHANG) != pid) {
		if (!ksm_goes_on(end, !enough || enough()))
			kill(-pid, SIGKILL);
		if (ksm_get("pages_sharing") > *most)
			*most = ksm_get("pages_sharing");
		usleep(50000);
	}
	kill(-pid, SIGKILL);
	return status;
}

static int fuzz(char *const argv[], uid_t uid, double limit,
		bool (*enough)(void))
{
	char *area = mergeable_area(NR, 100, 16);
	long scans, most = 0;
	int status;
	pid_t pid;

	ksm_set("pages_to_scan", 5000);
	ksm_set("use_zero_pages", 1);
	ksm_set("smart_scan", 1);
	if (ksm_has("scan_threads"))
		ksm_set("scan_threads", 2);
	ksm_scan(1);
	scans = ksm_get("full_scans");
	pid = fork();
	CHECK(pid >= 0);
	if (!pid)
		be_program(argv, uid);
	status = wait_for_program(pid, limit, enough, &most);
	/* What is in swap by now is not there to be merged */
	VERIFY(area, NR, 100, 16);
	ksm_scan(6);
	ksm_note("%ld passes, at most %ld pages shared",
		 ksm_get("full_scans") - scans, most);
	CHECK_EQ(count_ksm(area, NR), NR);
	VERIFY(area, NR, 100, 16);
	/* Those who were killed may take a while to let go of what they shared */
	WAIT_FOR(!ksm_write("run", "2", 1) && !ksm_write("run", "0", 1) &&
		 !ksm_get("pages_shared") && !ksm_get("pages_sharing"));
	VERIFY(area, NR, 100, 16);
	return status;
}

/* Has this version of it such a thing? */
static bool has_stressor(const char *family)
{
	FILE *f = popen("stress-ng --stressors 2>/dev/null", "r");
	bool found = false;
	char name[64];

	CHECK(f);
	while (fscanf(f, "%63s", name) == 1)
		found |= !strcmp(name, family);
	pclose(f);
	return found;
}

static void run_family(const char *family, char *place)
{
	char option[32], timeout[16];
	char *const argv[] = {
		"stress-ng", option, "2", "--timeout", timeout, "--quiet",
		"--temp-path", place, "--oomable", "--pathological",
		"--metrics-brief", "--yaml", FIGURES, NULL
	};
	int status;

	if (!has_stressor(family))
		ksm_skip("no stress-ng, or no %s in it", family);
	snprintf(option, sizeof(option), "--%s", family);
	snprintf(timeout, sizeof(timeout), "%d", seconds());
	unlink(FIGURES);
	status = fuzz(argv, 0, 3 * seconds() + 60 * ksm_slow(), NULL);
	if (!access(FIGURES, R_OK))
		ksm_note("%ld operations in %d s",
			 file_field(FIGURES, "      bogo-ops"), seconds());
	if (!WIFEXITED(status))
		FAIL("stress-ng ended with status %#x", status);
	switch (WEXITSTATUS(status)) {
	case 0:
		return;
	case 2:
		/* It poisons pages of its own, and counts that as a failure */
		if (!strcmp(family, "madvise"))
			return;
		break;
	case 3:
	case 4:
		ksm_skip("stress-ng cannot do that here");
	}
	FAIL("stress-ng exits with %d", WEXITSTATUS(status));
}

#define STRESS(name, family)						\
	static void name(void) { run_family(family, ROOM); }

STRESS(stress_ksm, "ksm")
STRESS(stress_madvise, "madvise")
STRESS(stress_mremap, "mremap")
STRESS(stress_fork, "fork")
STRESS(stress_vm, "vm")
STRESS(stress_userfaultfd, "userfaultfd")
STRESS(stress_migrate, "migrate")
STRESS(stress_mlock, "mlock")
STRESS(stress_numa, "numa")
STRESS(stress_bad_altstack, "bad-altstack")
STRESS(stress_oom_pipe, "oom-pipe")

/* Swap files are not to be had in memory itself, as the other files here are. */
static void stress_swap(void)
{
	char disk[64], command[64];
	long zram;

	if (access("/usr/sbin/mke2fs", X_OK) ||
	    access("/sys/class/zram-control/hot_add", R_OK))
		ksm_skip("no mke2fs, or no zram");
	zram = file_long("/sys/class/zram-control/hot_add");
	snprintf(disk, sizeof(disk), "/sys/block/zram%ld/disksize", zram);
	CHECK(!file_print(disk, "64M"));
	mkdir(ROOM, 0777);
	mkdir(ROOM "/disk", 0777);
	snprintf(command, sizeof(command), "mke2fs -q /dev/zram%ld", zram);
	CHECK(!system(command));
	snprintf(disk, sizeof(disk), "/dev/zram%ld", zram);
	if (mount(disk, ROOM "/disk", "ext2", 0, NULL))
		ksm_skip("no ext2: errno %d", errno);
	run_family("swap", ROOM "/disk");
	WAIT_FOR(!umount(ROOM "/disk"));
}

/* What trinity says of each time it comes to an end by itself. */
static long calls_made(void)
{
	FILE *f = fopen(ROOM "/said", "re");
	long calls = 0, one;
	char line[256], *ran;

	while (f && fgets(line, sizeof(line), f)) {
		ran = strstr(line, "Ran ");
		if (ran && sscanf(ran, "Ran %ld syscalls", &one) == 1)
			calls += one;
	}
	if (f)
		fclose(f);
	return calls;
}

/* As many as each time is to make. */
static long calls_wanted(void)
{
	return 50 * (seconds() < 100 ? seconds() : 100);
}

static bool enough_calls(void)
{
	return calls_made() >= calls_wanted();
}

/*
 * Calls with arguments at random.  It may well bring itself to an end; and it does
 * so at once if it is to make sockets, where there are few kinds of them.
 */
static void random_calls(void)
{
	/* What it does before the first call takes a while */
	const double limit = seconds() + 8 * ksm_slow();
	char command[128];
	char *const argv[] = { "sh", "-c", command, NULL };

	if (access("/usr/bin/trinity", X_OK))
		ksm_skip("no trinity");
	snprintf(command, sizeof(command),
		 "while :; do trinity -q -l off -C 4 -g vm --disable-fds=sockets -N %ld >>said; done",
		 calls_wanted());
	fuzz(argv, 65534, limit, enough_calls);
	ksm_note("%ld calls in %.0f s or more", calls_made(), limit);
	CHECK(enough_calls());
}

static const struct ksm_test tests[] = {
	{ "stress_ksm", stress_ksm },
	{ "stress_madvise", stress_madvise },
	{ "stress_mremap", stress_mremap },
	{ "stress_fork", stress_fork },
	{ "stress_vm", stress_vm },
	{ "stress_userfaultfd", stress_userfaultfd },
	{ "stress_migrate", stress_migrate },
	{ "stress_mlock", stress_mlock },
	{ "stress_swap", stress_swap },
	{ "stress_numa", stress_numa },
	{ "stress_bad_altstack", stress_bad_altstack },
	{ "stress_oom_pipe", stress_oom_pipe },
	{ "random_calls", random_calls },
};

int main(int argc, char **argv)
{
	ksm_test_seconds = 4 * seconds() + 180;
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
