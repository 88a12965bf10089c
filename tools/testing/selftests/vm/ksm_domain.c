// SPDX-License-Identifier: GPL-2.0
/* vm: --nodes 2 --swap 256M */
/* stock-fails: chosen_by_name by_process by_user by_cgroup by_user_namespace */
/* stock-fails: uid_changes setuid_programs cgroup_changes */
/* stock-fails: child_leaves left_while_swapped no_room_to_leave */
/* stock-fails: shared_by_fork across_nodes listed not_for_everybody */
/* stock-fails: fresh_frames frames_are_kept */
/*
 * Who may share pages with whom, and in which frames those pages live.
 */
#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include "ksm_lib.h"

#define NR		64UL
#define DOMAINS		"/sys/kernel/debug/ksm/domains"

static void set_domain(const char *domain)
{
	int err = ksm_write("merge_domain", domain, strlen(domain));

	if (err)
		FAIL("merge_domain does not become %s: %s", domain,
		     strerror(-err));
}

/* ---- processes that are somebody ---- */

enum order {
	LEAVE,
	BE_UID,		/* for good */
	JOIN_GROUP,
	CHECK_CONTENT,
};

/**
 * struct somebody - a process with NR pages that nobody else in it has
 * @peer: the process
 * @uid: as whom it begins
 * @namespace: in a user namespace of its own
 * @area: where the pages are
 */
struct somebody {
	struct peer peer;
	uid_t uid;
	bool namespace;
	char *area;
};

static void be_in_namespace(void)
{
	char map[32];
	uid_t uid = getuid();

	CHECK(!unshare(CLONE_NEWUSER));
	snprintf(map, sizeof(map), "%u %u 1", uid, uid);
	CHECK(!file_write("/proc/self/uid_map", map, strlen(map)));
}

static void be_somebody(struct peer *me, void *arg)
{
	struct somebody *self = arg;
	char *area;
	long order;

	if (self->namespace)
		be_in_namespace();
	if (self->uid)
		CHECK(!setresuid(self->uid, self->uid, self->uid));
	area = mergeable_area(NR, 100, NR);
	peer_send(me, (long)area);
	while ((order = peer_recv(me)) != LEAVE) {
		if (order == BE_UID) {
			uid_t uid = peer_recv(me);

			CHECK(!setresuid(uid, uid, uid));
		} else if (order == JOIN_GROUP) {
			memcg_enter();
		}
		VERIFY(area, NR, 100, NR);
		peer_send(me, 0);
	}
	VERIFY(area, NR, 100, NR);
}

static void begin(struct somebody *s, int nr)
{
	for (int i = 0; i < nr; i++) {
		peer_start(&s[i].peer, be_somebody, &s[i]);
		s[i].area = (char *)peer_recv(&s[i].peer);
	}
}

static void order(struct somebody *s, enum order what)
{
	peer_send(&s->peer, what);
	peer_recv(&s->peer);
}

static void become(struct somebody *s, uid_t uid)
{
	peer_send(&s->peer, BE_UID);
	peer_send(&s->peer, uid);
	peer_recv(&s->peer);
}

static void end(struct somebody *s, int nr)
{
	for (int i = 0; i < nr; i++) {
		peer_send(&s[i].peer, LEAVE);
		peer_join(&s[i].peer);
	}
}

static size_t shared(const struct somebody *a, const struct somebody *b)
{
	return count_same(a->peer.pid, a->area, b->peer.pid, b->area, NR);
}

/* ---- the knob ---- */

static void shows(const char *expected)
{
	char buf[128];

	CHECK_GE(ksm_read("merge_domain", buf, sizeof(buf)), 1);
	if (strcmp(buf, expected))
		FAIL("merge_domain is %s", buf);
}

static void refuses(const char *value, size_t len, int err)
{
	CHECK_EQ(ksm_write("merge_domain", value, len), -err);
}

/* pitfall 31 */
static void chosen_by_name(void)
{
	char *area;

	CHECK(ksm_has("merge_domain"));
	shows("[system] user cgroup process\n");
	set_domain("user");
	shows("system [user] cgroup process\n");
	set_domain("cgroup\n");
	shows("system user [cgroup] process\n");
	set_domain("process");
	shows("system user cgroup [process]\n");
	refuses("", 0, 0);
	refuses("\n", 1, EINVAL);
	refuses("1", 1, EINVAL);
	refuses("users", 5, EINVAL);
	refuses("user group", 10, EINVAL);
	refuses("use", 3, EINVAL);
	refuses("user\0x", 6, 0);
	shows("system [user] cgroup process\n");

	area = mergeable_area(NR, 1, 4);
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	refuses("system", 6, EBUSY);
	refuses("process", 7, EBUSY);
	set_domain("user");
	shows("system [user] cgroup process\n");
	ksm_set("run", 2);
	set_domain("system");
	shows("[system] user cgroup process\n");
}

/* ---- who with whom: pitfall 32 ---- */

static void by_process(void)
{
	struct somebody s[2] = { };
	char *area, *twin;

	set_domain("process");
	begin(s, 2);
	area = mergeable_area(NR, 100, NR);
	twin = mergeable_area(NR, 100, NR);
	ksm_settle();
	CHECK_EQ(count_same(getpid(), area, getpid(), twin, NR), NR);
	CHECK_EQ(count_ksm(area, NR), NR);
	CHECK_EQ(shared(&s[0], &s[1]), 0);
	CHECK_EQ(count_same(getpid(), area, s[0].peer.pid, s[0].area, NR), 0);
	CHECK_EQ(ksm_get("pages_shared"), NR);
	CHECK_EQ(ksm_get("pages_sharing"), NR);
	end(s, 2);
	VERIFY(area, NR, 100, NR);
}

static void by_user(void)
{
	struct somebody s[5] = {
		{ .uid = 1000 }, { .uid = 1001 }, { .uid = 1000 },
		{ .uid = 1001 }, { .uid = 1002 },
	};

	set_domain("user");
	begin(s, 5);
	ksm_settle();
	CHECK_EQ(shared(&s[0], &s[2]), NR);
	CHECK_EQ(shared(&s[1], &s[3]), NR);
	CHECK_EQ(shared(&s[0], &s[1]), 0);
	CHECK_EQ(shared(&s[0], &s[4]), 0);
	CHECK_EQ(shared(&s[1], &s[4]), 0);
	CHECK_EQ(ksm_get("pages_shared"), 2 * NR);
	CHECK_EQ(ksm_get("pages_sharing"), 2 * NR);
	end(s, 5);
}

static void by_user_namespace(void)
{
	struct somebody s[4] = {
		{ .namespace = true }, { .namespace = true }, { }, { },
	};

	if (access("/proc/self/ns/user", F_OK))
		ksm_skip("no user namespaces");
	set_domain("user");
	begin(s, 4);
	ksm_settle();
	CHECK_EQ(shared(&s[2], &s[3]), NR);
	CHECK_EQ(shared(&s[0], &s[1]), 0);
	CHECK_EQ(shared(&s[0], &s[2]), 0);
	CHECK_EQ(shared(&s[1], &s[2]), 0);
	end(s, 4);
}

static void by_cgroup(void)
{
	struct somebody s[4] = { { .uid = 1000 }, { .uid = 1001 }, { }, { } };

	set_domain("cgroup");
	begin(s, 2);
	/* Only those who are forked later are in it, too */
	memcg_enter();
	begin(s + 2, 2);
	ksm_settle();
	CHECK_EQ(shared(&s[0], &s[1]), NR);
	CHECK_EQ(shared(&s[2], &s[3]), NR);
	CHECK_EQ(shared(&s[0], &s[2]), 0);
	end(s, 4);
}

/* ---- those who go elsewhere ---- */

static void uid_changes(void)
{
	struct somebody s[3] = {
		{ .uid = 0 }, { .uid = 0 }, { .uid = 1001 },
	};

	set_domain("user");
	begin(s, 3);
	ksm_settle();
	CHECK_EQ(shared(&s[0], &s[1]), NR);
	become(&s[1], 1001);
	/* The pass under way need not see it, the next one must */
	ksm_scan(2);
	CHECK_EQ(shared(&s[0], &s[1]), 0);
	ksm_settle();
	CHECK_EQ(shared(&s[1], &s[2]), NR);
	CHECK_EQ(shared(&s[0], &s[1]), 0);
	end(s, 3);
}

static void be_setuid_program(struct peer *me, void *arg)
{
	char *area;

	/* Root's work, at a user's request */
	CHECK(!setresuid(1000, (uid_t)(long)arg, (uid_t)(long)arg));
	area = mergeable_area(NR, 100, NR);
	peer_send(me, (long)area);
	peer_recv(me);
	VERIFY(area, NR, 100, NR);
}

/* Neither the user for whom it runs, nor as whom it acts, learns anything. */
static void setuid_programs(void)
{
	struct somebody s[2] = { { .uid = 1000 }, { .uid = 0 } };
	struct somebody program;

	set_domain("user");
	begin(s, 2);
	peer_start(&program.peer, be_setuid_program, (void *)0);
	program.area = (char *)peer_recv(&program.peer);
	ksm_settle();
	CHECK_EQ(shared(&program, &s[0]), 0);
	CHECK_EQ(shared(&program, &s[1]), 0);
	peer_send(&program.peer, 0);
	peer_join(&program.peer);
	end(s, 2);
}

static void cgroup_changes(void)
{
	struct somebody s[2] = { };

	set_domain("cgroup");
	begin(s, 2);
	ksm_settle();
	CHECK_EQ(shared(&s[0], &s[1]), NR);
	order(&s[1], JOIN_GROUP);
	ksm_scan(2);
	CHECK_EQ(shared(&s[0], &s[1]), 0);
	order(&s[1], CHECK_CONTENT);
	end(s, 2);
}

static void leave_as_child(struct peer *me, void *area)
{
	peer_recv(me);
	CHECK(!setresuid(1003, 1003, 1003));
	peer_send(me, 0);
	peer_recv(me);
	VERIFY((char *)area, NR, 100, NR);
	fill_area(area, NR, 300, NR);
	VERIFY((char *)area, NR, 300, NR);
}

/* A child inherits KSM pages, and takes them along. */
static void child_leaves(void)
{
	char *area, *twin;
	struct peer child;

	set_domain("user");
	area = mergeable_area(NR, 100, NR);
	twin = mergeable_area(NR, 100, NR);
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	peer_start(&child, leave_as_child, area);
	ksm_settle();
	CHECK_EQ(count_same(child.pid, area, getpid(), area, NR), NR);
	peer_send(&child, 0);
	peer_recv(&child);
	ksm_scan(2);
	CHECK_EQ(count_same(child.pid, area, getpid(), area, NR), 0);
	CHECK_EQ(count_same(getpid(), twin, getpid(), area, NR), NR);
	peer_send(&child, 0);
	peer_join(&child);
	VERIFY(area, NR, 100, NR);
	VERIFY(twin, NR, 100, NR);
}

static void read_as_another(struct peer *me, void *area)
{
	peer_recv(me);
	CHECK(!setresuid(1003, 1003, 1003));
	peer_send(me, 0);
	peer_recv(me);
	VERIFY((char *)area, NR, 100, NR);
	peer_send(me, 0);
	peer_recv(me);
}

static size_t count_present(pid_t pid, const char *area)
{
	unsigned long *at = pfns_of(pid, area, NR);
	size_t present = 0;

	for (size_t i = 0; i < NR; i++)
		present += !!at[i];
	free(at);
	return present;
}

/*
 * Somebody holds the KSM pages, so that they stay in the swap cache, where who
 * had them finds them again when he is somebody else.
 */
static void left_while_swapped(void)
{
	struct peer child;
	int ends[2];
	char *area;

	memcg_enter();
	set_domain("user");
	area = mergeable_area(NR, 100, NR);
	mergeable_area(NR, 100, NR);
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	peer_start(&child, read_as_another, area);
	ksm_settle();
	CHECK_EQ(count_same(child.pid, area, getpid(), area, NR), NR);

	hold_in_pipe(area, NR, ends);
	CHECK(BECOMES((memcg_reclaim("1M"), !count_present(getpid(), area) &&
		       !count_present(child.pid, area)), 20));
	VERIFY(area, NR, 100, NR);
	peer_send(&child, 0);
	peer_recv(&child);
	ksm_scan(3);
	peer_send(&child, 0);
	peer_recv(&child);
	CHECK_EQ(count_present(child.pid, area), NR);
	CHECK_EQ(count_same(child.pid, area, getpid(), area, NR), 0);
	close(ends[0]);
	close(ends[1]);
	peer_send(&child, 0);
	peer_join(&child);
	VERIFY(area, NR, 100, NR);
}

#define ROOMY	2048UL
#define ROOMY_CONTENTS	(ROOMY / 2)	/* which the child is to have, too */

/* One who shares pages with himself, and his child, who is not to. */
static void share_and_fork(struct peer *me, void *arg)
{
	int status, ready[2];
	char *area, byte;
	pid_t pid;

	CHECK(!pipe(ready));
	memcg_enter();
	area = mergeable_area(ROOMY, 200, ROOMY_CONTENTS);
	peer_send(me, (long)area);
	peer_recv(me);
	pid = fork();
	if (!pid) {
		/* What cannot be read is given up as the rest is */
		mprotect(area, ROOMY / 2 * PAGE_SIZE, PROT_NONE);
		if (write(ready[1], "", 1) == 1)
			pause();
		_exit(0);
	}
	CHECK(pid > 0);
	close(ready[1]);
	/* Without the memory that it needs for itself it would be killed */
	CHECK_EQ(read(ready[0], &byte, 1), 1);
	peer_send(me, pid);
	peer_recv(me);
	/* Nobody has been killed to make room */
	CHECK_EQ(waitpid(pid, &status, WNOHANG), 0);
	peer_send(me, 0);
	peer_recv(me);
	VERIFY(area, ROOMY, 200, ROOMY_CONTENTS);
	kill(pid, SIGKILL);
	CHECK_EQ(waitpid(pid, &status, 0), pid);
}

/* Without memory for pages of one's own one has to wait, and nobody is killed. */
static void no_room_to_leave(void)
{
	struct peer parent;
	char limit[32];
	char *area;
	pid_t pid;

	set_domain("process");
	peer_start(&parent, share_and_fork, NULL);
	area = (char *)peer_recv(&parent);
	ksm_settle();
	CHECK_EQ(ksm_get("pages_sharing"), ROOMY - ROOMY_CONTENTS);
	memcg_write("memory.swap.max", "0");
	snprintf(limit, sizeof(limit), "%ld", memcg_get("memory.current") +
		 ROOMY_CONTENTS / 4 * (long)PAGE_SIZE);
	CHECK_EQ(memcg_write("memory.max", limit), 0);
	peer_send(&parent, 0);
	pid = peer_recv(&parent);
	ksm_scan(6);
	CHECK_GE(count_same(pid, area, parent.pid, area, ROOMY), 1);
	peer_send(&parent, 0);
	peer_recv(&parent);

	CHECK_EQ(memcg_write("memory.max", "max"), 0);
	ksm_scan(3);
	CHECK_EQ(count_same(pid, area, parent.pid, area, ROOMY), 0);
	peer_send(&parent, 0);
	peer_join(&parent);
}

static void keep_as_child(struct peer *me, void *area)
{
	/* Takes no part at all */
	CHECK(!madvise(area, NR * PAGE_SIZE, MADV_UNMERGEABLE));
	CHECK(!setresuid(1003, 1003, 1003));
	peer_send(me, 0);
	peer_recv(me);
	VERIFY((char *)area, NR, 100, NR);
}

/*
 * Pages that fork has given to two, before they are merged in one of them with
 * what a third has: the other is not to map what they share.
 */
static void shared_by_fork(void)
{
	char *area, *twin;
	struct peer child;
	unsigned long *before, *after;

	set_domain("user");
	area = mergeable_area(NR, 100, NR);
	peer_start(&child, keep_as_child, area);
	peer_recv(&child);
	before = pfns_of(child.pid, area, NR);
	CHECK_EQ(count_same(child.pid, area, getpid(), area, NR), NR);
	twin = mergeable_area(NR, 100, NR);
	ksm_set("relocate", 0);
	ksm_settle();
	CHECK_EQ(count_same(getpid(), area, getpid(), twin, NR), NR);
	CHECK_EQ(count_ksm(area, NR), NR);
	CHECK_EQ(count_same(child.pid, area, getpid(), area, NR), 0);
	after = pfns_of(child.pid, area, NR);
	for (size_t i = 0; i < NR; i++)
		CHECK_EQ(before[i], after[i]);
	peer_send(&child, 0);
	peer_join(&child);
	VERIFY(area, NR, 100, NR);
	VERIFY(twin, NR, 100, NR);
}

/* All that can be moved, whoever else maps it. */
static void move_somebody(const struct somebody *s, int node)
{
	char *pages[NR];
	int status[NR];

	for (size_t i = 0; i < NR; i++)
		pages[i] = s->area + i * PAGE_SIZE;
	for (int try = 0; try < 20; try++)
		move_to_node(s->peer.pid, pages, status, NR, node,
			     KSM_MPOL_MF_MOVE_ALL);
}

/* Migration moves KSM pages to another key, but not to another domain. */
static void across_nodes(void)
{
	struct somebody s[4] = {
		{ .uid = 0 }, { .uid = 0 }, { .uid = 1001 }, { .uid = 1001 },
	};
	int nodes[2];

	need_nodes(nodes, 2);
	ksm_set("merge_across_nodes", 0);
	set_domain("user");
	begin(s, 4);
	for (int turn = 0; turn < 4; turn++) {
		ksm_scan(4);
		move_somebody(&s[turn], nodes[turn / 2 % 2]);
		ksm_scan(4);
		for (int i = 0; i < 2; i++)
			for (int j = 2; j < 4; j++)
				CHECK_EQ(shared(&s[i], &s[j]), 0);
	}
	/* All on one node in the end */
	for (int i = 0; i < 4; i++)
		move_somebody(&s[i], nodes[1]);
	ksm_settle();
	CHECK_EQ(shared(&s[0], &s[1]), NR);
	CHECK_EQ(shared(&s[2], &s[3]), NR);
	CHECK_EQ(shared(&s[0], &s[2]), 0);
	end(s, 4);
}

/* ---- what the admin sees ---- */

/* pages_shared and pages_sharing of the lines that begin so. */
static int listing(const char *begin, long *shared, long *sharing)
{
	int lines = 0;
	char line[128];
	FILE *f;

	f = fopen(DOMAINS, "r");
	CHECK(f);
	*shared = 0;
	*sharing = 0;
	while (fgets(line, sizeof(line), f)) {
		long a, b;

		if (strncmp(line, begin, strlen(begin)) ||
		    sscanf(line, "%*s %*s %ld %ld", &a, &b) != 2)
			continue;
		*shared += a;
		*sharing += b;
		lines++;
	}
	fclose(f);
	return lines;
}

static void listed(void)
{
	struct somebody s[4] = {
		{ .uid = 1000 }, { .uid = 1001 }, { .uid = 1001 },
		{ .uid = 1001 },
	};
	long shared, sharing, bytes = ksm_get("metadata_bytes");
	char name[64];
	struct stat st;

	CHECK(ksm_has("merge_domain"));
	if (stat(DOMAINS, &st))
		ksm_skip("no debugfs");
	CHECK_EQ(st.st_mode & 07777, 0400);
	CHECK_EQ(listing("user ", &shared, &sharing), 0);
	set_domain("user");
	begin(s, 4);
	ksm_settle();
	CHECK_EQ(listing("user ", &shared, &sharing), 2);
	CHECK_EQ(shared, NR);
	CHECK_EQ(sharing, 2 * NR);
	CHECK(!stat("/proc/self/ns/user", &st));
	snprintf(name, sizeof(name), "user %lu:1001 ", (long)st.st_ino);
	CHECK_EQ(listing(name, &shared, &sharing), 1);
	CHECK_EQ(sharing, 2 * NR);
	snprintf(name, sizeof(name), "user %lu:1000 ", (long)st.st_ino);
	CHECK_EQ(listing(name, &shared, &sharing), 1);
	CHECK_EQ(shared + sharing, 0);
	end(s, 4);
	ksm_set("run", 2);
	WAIT_FOR(listing("user ", &shared, &sharing) == 0);
	WAIT_FOR(ksm_get("metadata_bytes") <= bytes);

	ksm_set("run", 0);
	set_domain("process");
	begin(s, 4);
	ksm_scan(1);
	CHECK_EQ(listing("process ", &shared, &sharing), 4);
	snprintf(name, sizeof(name), "process %d ", s[2].peer.pid);
	CHECK_EQ(listing(name, &shared, &sharing), 1);
	end(s, 4);
}

/* ---- who may look, and who may steer ---- */

static void cannot_open(const char *path, int how, int err)
{
	int fd = open(path, how);

	if (fd >= 0 || errno != err)
		FAIL("%s can be opened, or errno %d is not %d", path, errno,
		     err);
}

static void look_around(pid_t other)
{
	static const char * const knobs[] = {
		"run", "pages_to_scan", "sleep_millisecs", "merge_domain",
		"relocate", "max_page_sharing", "merge_across_nodes",
		"use_zero_pages", "smart_scan", "advisor_mode", "scan_threads",
	};
	static const char * const counts[] = {
		"pages_shared", "pages_sharing", "full_scans", "general_profit",
	};
	char path[128];

	for (size_t i = 0; i < ARRAY_SIZE(knobs); i++) {
		if (!ksm_has(knobs[i]))	/* without NUMA, say */
			continue;
		snprintf(path, sizeof(path), "/sys/kernel/mm/ksm/%s", knobs[i]);
		cannot_open(path, O_WRONLY, EACCES);
		CHECK_GE(ksm_read(knobs[i], path, sizeof(path)), 1);
	}
	for (size_t i = 0; i < ARRAY_SIZE(counts); i++)
		CHECK_GE(ksm_read(counts[i], path, sizeof(path)), 1);
	cannot_open("/sys/kernel/mm/ksm/pages_shared_nodes", O_RDONLY, EACCES);
	cannot_open(DOMAINS, O_RDONLY, EACCES);
	cannot_open("/sys/kernel/debug/ksm/fingerprint", O_RDONLY, EACCES);
	/* Of his own he may know, of others he may not */
	CHECK_GE(proc_ksm(getpid(), "ksm_merging_pages"), 0);
	snprintf(path, sizeof(path), "/proc/%d/ksm_stat", other);
	cannot_open(path, O_RDONLY, EACCES);
	snprintf(path, sizeof(path), "/proc/%d/ksm_merging_pages", other);
	cannot_open(path, O_RDONLY, EACCES);
}

static void as_nobody(bool contained)
{
	pid_t pid, root = getpid();
	int status;

	pid = fork();
	if (!pid) {
		CHECK(!setresgid(65534, 65534, 65534) &&
		      !setresuid(65534, 65534, 65534));
		/* For others his /proc files are root's unless he is dumpable */
		CHECK(!prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
		if (contained)
			CHECK(!unshare(CLONE_NEWUSER | CLONE_NEWCGROUP |
				       CLONE_NEWNS) &&
			      file_print("/proc/self/uid_map", "0 65534 1") <= 0 &&
			      !getuid());
		look_around(root);
		_exit(0);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK_EQ(status, 0);
}

/* Neither a user nor root of a container reads others' figures or steers. */
static void not_for_everybody(void)
{
	CHECK(ksm_has("merge_domain"));
	as_nobody(false);
	if (access("/proc/self/ns/user", F_OK))
		ksm_skip("no user namespaces");
	as_nobody(true);
}

/* ---- frames ---- */

static bool among(unsigned long pfn, const unsigned long *pfns, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		if (pfns[i] == pfn)
			return true;
	return false;
}

/* stock: expected failure: the KSM page is one of those that are merged */
static void fresh_frames(void)
{
	/* So few that what they were in is kept, not handed out again */
	const size_t nr = 24;
	char *area = map_pages(nr), *twin = map_pages(nr);
	unsigned long *before, *others, *after;

	fill_area(area, nr, 100, nr);
	fill_area(twin, nr, 100, nr);
	before = pfns(area, nr);
	others = pfns(twin, nr);
	CHECK(!madvise(area, nr * PAGE_SIZE, MADV_MERGEABLE));
	CHECK(!madvise(twin, nr * PAGE_SIZE, MADV_MERGEABLE));
	ksm_settle();
	CHECK_EQ(count_same(getpid(), area, getpid(), twin, nr), nr);
	after = pfns(area, nr);
	for (size_t i = 0; i < nr; i++) {
		CHECK(!among(after[i], before, nr));
		CHECK(!among(after[i], others, nr));
	}
	VERIFY(area, nr, 100, nr);
	VERIFY(twin, nr, 100, nr);
}

static void keep_until_told(struct peer *me, void *area)
{
	peer_send(me, 0);
	peer_recv(me);
	VERIFY((char *)area, NR, 100, NR);
}

/*
 * What fork has given to another is not made a KSM page where it is: who knows
 * whether the one who had it before cannot write to it any more.
 */
static void forked_frames(void)
{
	char *area, *twin = map_pages(NR);
	unsigned long *before, *after;
	struct peer child;

	if (!ksm_has("relocate"))
		ksm_skip("no relocate");
	ksm_set("relocate", 0);
	/* So that those of the area are the higher ones, which are preferred */
	fill_area(twin, NR, 100, NR);
	area = mergeable_area(NR, 100, NR);
	before = pfns(area, NR);
	peer_start(&child, keep_until_told, area);
	peer_recv(&child);
	CHECK_EQ(count_same(child.pid, area, getpid(), area, NR), NR);
	CHECK(!madvise(twin, NR * PAGE_SIZE, MADV_MERGEABLE));
	ksm_settle();
	CHECK_EQ(count_same(child.pid, area, getpid(), twin, NR), NR);
	CHECK_EQ(count_same(getpid(), area, getpid(), twin, NR), NR);
	after = pfns(area, NR);
	for (size_t i = 0; i < NR; i++)
		CHECK(!among(after[i], before, NR));
	peer_send(&child, 0);
	peer_join(&child);
	VERIFY(area, NR, 100, NR);
	VERIFY(twin, NR, 100, NR);
}

static bool on_cpu(pid_t pid, int cpu)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	return !sched_setaffinity(pid, sizeof(one), &one);
}

static void anywhere(pid_t pid)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	for (int i = 0; i < sysconf(_SC_NPROCESSORS_CONF); i++)
		CPU_SET(i, &cpus);
	CHECK(!sched_setaffinity(pid, sizeof(cpus), &cpus));
}

/*
 * Those who fault next, on whatever processor, do not get the frames of what
 * has just been merged.
 */
static void frames_are_kept(void)
{
	char *area, *fresh;
	unsigned long *before, *after;
	size_t got = 0;

	/* What was kept for the tests before has its time, and makes room */
	sleep(3);
	area = map_pages(NR);
	fill_area(area, NR, 100, 1);
	before = pfns(area, NR);
	CHECK(!madvise(area, NR * PAGE_SIZE, MADV_MERGEABLE));
	ksm_settle();
	CHECK_EQ(count_ksm(area, NR), NR);
	fresh = map_pages(2 * NR);
	for (int cpu = 0; cpu < 2 && on_cpu(0, cpu); cpu++)
		touch_pages(fresh + cpu * NR * PAGE_SIZE, NR);
	anywhere(0);
	after = pfns(fresh, 2 * NR);
	for (size_t i = 0; i < 2 * NR; i++)
		got += after[i] && among(after[i], before, NR);
	ksm_note("%zu of %lu frames came back", got, NR);
	CHECK_GE(NR / 16, got);
	/* They do come back in the end, and nobody is charged for them */
	VERIFY(area, NR, 100, 1);
}

#define TRIALS	32UL
#define FREED	64UL

/*
 * Nor is a KSM page in a frame that somebody has just freed in front of ksmd, who
 * would then know, and choose, where it is.
 */
static void not_those_just_freed(void)
{
	char *others = mergeable_area(NR, 100, NR / 2), *area, *spare;
	unsigned long *freed;
	size_t chosen = 0;
	pid_t ksmd = pid_of("ksmd");

	ksm_settle();
	ksm_set("smart_scan", 0);
	area = map_pages(2 * TRIALS);
	CHECK(!madvise(area, 2 * TRIALS * PAGE_SIZE, MADV_MERGEABLE));
	CHECK(on_cpu(0, 0) && on_cpu(ksmd, 0));
	for (size_t i = 0; i < TRIALS; i++) {
		char *pair = area + 2 * i * PAGE_SIZE;

		fill_area(pair, 2, 500 + i, 1);
		ksm_one_pass();
		spare = map_pages(FREED);
		touch_pages(spare, FREED);
		freed = pfns(spare, FREED);
		CHECK(!munmap(spare, FREED * PAGE_SIZE));
		ksm_one_pass();
		CHECK_EQ(count_ksm(pair, 2), 2);
		chosen += among(pfn(pair), freed, FREED);
		free(freed);
	}
	anywhere(ksmd);
	anywhere(0);
	ksm_note("%zu of %lu frames had just been freed", chosen, TRIALS);
	CHECK_GE(TRIALS / 4, chosen);
	VERIFY(others, NR, 100, NR / 2);
}

static const struct ksm_test tests[] = {
	{ "chosen_by_name", chosen_by_name },
	{ "by_process", by_process },
	{ "by_user", by_user },
	{ "by_user_namespace", by_user_namespace },
	{ "by_cgroup", by_cgroup },
	{ "uid_changes", uid_changes },
	{ "setuid_programs", setuid_programs },
	{ "cgroup_changes", cgroup_changes },
	{ "child_leaves", child_leaves },
	{ "left_while_swapped", left_while_swapped },
	{ "no_room_to_leave", no_room_to_leave },
	{ "shared_by_fork", shared_by_fork },
	{ "across_nodes", across_nodes },
	{ "listed", listed },
	{ "not_for_everybody", not_for_everybody },
	{ "fresh_frames", fresh_frames },
	{ "forked_frames", forked_frames },
	{ "frames_are_kept", frames_are_kept },
	{ "not_those_just_freed", not_those_just_freed },
};

int main(int argc, char **argv)
{
	return ksm_run_tests(argc, argv, tests, ARRAY_SIZE(tests));
}
