// SPDX-License-Identifier: GPL-2.0
/*
 * Other processes that take part in a test, and a control group to put it in.
 */
#include <dirent.h>
#include <poll.h>
#include <sys/mount.h>
#include "ksm_lib.h"

pid_t pid_of(const char *comm)
{
	struct dirent *entry;
	pid_t found = 0;
	DIR *proc;

	proc = opendir("/proc");
	CHECK(proc);
	while (!found && (entry = readdir(proc))) {
		char path[300], name[32];

		snprintf(path, sizeof(path), "/proc/%s/comm", entry->d_name);
		if (!atoi(entry->d_name) ||
		    file_read(path, name, sizeof(name)) <= 0)
			continue;
		name[strcspn(name, "\n")] = '\0';
		if (!strcmp(name, comm))
			found = atoi(entry->d_name);
	}
	closedir(proc);
	CHECK(found);
	return found;
}

long cpu_time(const char *comm)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/schedstat", pid_of(comm));
	return file_long(path);
}

void peer_start(struct peer *p, void (*fn)(struct peer *me, void *arg),
		void *arg)
{
	int to[2], from[2];

	CHECK(!pipe(to) && !pipe(from));
	fflush(stdout);
	p->pid = fork();
	CHECK(p->pid >= 0);
	if (!p->pid) {
		struct peer me = { getppid(), to[0], from[1] };

		close(to[1]);
		close(from[0]);
		fn(&me, arg);
		_exit(0);
	}
	close(to[0]);
	close(from[1]);
	p->in = from[0];
	p->out = to[1];
}

void peer_send(struct peer *p, long value)
{
	CHECK(write(p->out, &value, sizeof(value)) == sizeof(value));
}

long peer_recv(struct peer *p)
{
	return peer_recv_within(p, 120);
}

long peer_recv_within(struct peer *p, int seconds)
{
	struct pollfd fd = { p->in, POLLIN };
	long value = 0;

	if (poll(&fd, 1, 1000 * seconds * ksm_slow()) != 1)
		FAIL("process %d does not answer", p->pid);
	if (read(p->in, &value, sizeof(value)) != sizeof(value))
		FAIL("process %d is gone", p->pid);
	return value;
}

int peer_status(struct peer *p)
{
	int status;

	close(p->in);
	close(p->out);
	CHECK(waitpid(p->pid, &status, 0) == p->pid);
	return status;
}

void peer_join(struct peer *p)
{
	int status = peer_status(p);

	if (!WIFEXITED(status) || WEXITSTATUS(status))
		FAIL("process %d ended with status %#x", p->pid, status);
}

/* ---- control group ---- */

#define CGROUP_OWN	"/tmp/ksm_test_cgroup"
#define CGROUP_NAME	"ksm_test"

/* Where cgroup v2 is, or NULL. */
static const char *cgroup_root(void)
{
	static char root[128];
	char line[512], at[128], type[32];
	FILE *f;

	root[0] = '\0';
	f = fopen("/proc/mounts", "r");
	if (!f)
		return NULL;
	while (!root[0] && fgets(line, sizeof(line), f))
		if (sscanf(line, "%*s %127s %31s", at, type) == 2 &&
		    !strcmp(type, "cgroup2"))
			snprintf(root, sizeof(root), "%s", at);
	fclose(f);
	return root[0] ? root : NULL;
}

static const char *memcg_path(const char *file)
{
	static char path[256];

	snprintf(path, sizeof(path), "%s/" CGROUP_NAME "/%s", cgroup_root(),
		 file);
	return path;
}

int memcg_control(const char *controller)
{
	char control[160];

	snprintf(control, sizeof(control), "%s/cgroup.subtree_control",
		 cgroup_root());
	return file_print(control, "+%s", controller);
}

void memcg_enter(void)
{
	if (!cgroup_root()) {
		mkdir(CGROUP_OWN, 0700);
		if (mount("none", CGROUP_OWN, "cgroup2", 0, NULL) ||
		    !cgroup_root())
			ksm_skip("no cgroup v2");
	}
	if (memcg_control("memory"))
		ksm_skip("no memory control groups");
	if (mkdir(memcg_path(""), 0700) && errno != EEXIST)
		ksm_skip("cannot make a control group: errno %d", errno);
	CHECK_EQ(file_print(memcg_path("cgroup.procs"), "%d", getpid()), 0);
}

int memcg_write(const char *file, const char *value)
{
	return file_write(memcg_path(file), value, strlen(value));
}

long memcg_get(const char *file)
{
	return file_long(memcg_path(file));
}

long memcg_stat(const char *field)
{
	return file_field(memcg_path("memory.stat"), field);
}

/* A process leaves it after it has given back its memory. */
void memcg_wait_empty(void)
{
	WAIT_FOR(!file_field(memcg_path("cgroup.events"), "populated"));
}

/* Called when everybody in it is dead; the last may still be going. */
void memcg_remove(void)
{
	const char *root = cgroup_root();

	if (!root || access(memcg_path(""), F_OK))
		return;
	if (!BECOMES(!rmdir(memcg_path("")), 5))
		ksm_note("control group stays behind: errno %d", errno);
	if (!strcmp(root, CGROUP_OWN))
		umount(CGROUP_OWN);
}

double memcg_reclaim(const char *amount)
{
	double took;

	if (file_field("/proc/meminfo", "SwapTotal") <= 0)
		ksm_skip("no swap");
	/*
	 * Reading the statistics brings them up to date, two seconds before
	 * reclaim would notice that there is anything.
	 */
	memcg_stat("anon");
	took = -ksm_now();
	memcg_write("memory.reclaim", amount);
	return took + ksm_now();
}

bool memcg_swap_out(const char *area, size_t nr)
{
	/* Reclaim ages pages first, and says EAGAIN when it gets less. */
	return BECOMES((memcg_reclaim("256K"), count_swapped(area, nr) == nr),
		       10);
}
