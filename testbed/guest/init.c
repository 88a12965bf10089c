// SPDX-License-Identifier: GPL-2.0
/*
 * The first process of a guest: builds a root file system out of the host's, read-only, with a tmpfs laid
 * over it, runs one command in it, and reports the command's exit status.
 *
 * Kernel parameters it understands (they arrive as its environment):
 *   testbed_job=FILE     on the host: directory, then the arguments, each ended by a NUL byte
 *   testbed_root=TYPE    9p or hostfs
 *   testbed_ports=A,B,C  devices for standard output, standard error and the report
 *   testbed_swap=BYTES   of zram swap
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

enum { OUT, ERR, REPORT, PORTS };

static int port[PORTS] = { -1, -1, -1 };

/* Ends the guest: the host takes a missing report for a failure. */
static void __attribute__((noreturn)) power_off(void)
{
	sync();
	reboot(RB_POWER_OFF);
	_exit(1);
}

static void __attribute__((noreturn, format(printf, 1, 2))) die(const char *format, ...)
{
	char text[512];
	va_list args;
	int error = errno;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	dprintf(port[ERR] >= 0 ? port[ERR] : 2, "testbed: in the guest: %s: %s\n", text, strerror(error));
	power_off();
}

static void mount_or_die(const char *type, const char *where, const char *options)
{
	mkdir(where, 0755);
	if (mount(type, where, type, 0, options))
		die("mount %s", where);
}

static void mount_if_known(const char *type, const char *where, const char *options)
{
	mkdir(where, 0755);
	mount(type, where, type, 0, options);
}

static void put(const char *file, const char *text)
{
	int fd = open(file, O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		die("write %s", file);
	close(fd);
}

static int open_raw(const char *path)
{
	int fd = open(path, O_WRONLY | O_NOCTTY | O_CLOEXEC);
	struct termios raw;

	if (fd >= 0 && !tcgetattr(fd, &raw)) {
		cfmakeraw(&raw);
		tcsetattr(fd, TCSANOW, &raw);
	}
	return fd;
}

static void read_line(const char *path, char *text, size_t size)
{
	FILE *file = fopen(path, "re");

	if (!file || !fgets(text, size, file))
		*text = '\0';
	text[strcspn(text, "\n")] = '\0';
	if (file)
		fclose(file);
}

/* Ports named by a path are used as they are; others are virtio-serial ports of that name. */
static int open_port(const char *name)
{
	const char *class = "/sys/class/virtio-ports";
	struct dirent *entry;
	char path[300], text[64];
	DIR *ports;
	int fd = -1;

	if (*name == '/')
		return open_raw(name);
	ports = opendir(class);
	while (ports && fd < 0 && (entry = readdir(ports))) {
		snprintf(path, sizeof(path), "%s/%s/name", class, entry->d_name);
		read_line(path, text, sizeof(text));
		if (strcmp(text, name))
			continue;
		snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
		fd = open_raw(path);
	}
	if (ports)
		closedir(ports);
	return fd;
}

static void open_ports(void)
{
	char *names = getenv("testbed_ports"), *name;
	int i, attempt;

	for (i = OUT; i < PORTS; i++) {
		name = strsep(&names, ",");
		/* The names of virtio ports come in after the device itself. */
		for (attempt = 0; name && port[i] < 0 && attempt < 500; attempt++) {
			port[i] = open_port(name);
			if (port[i] < 0)
				usleep(10000);
		}
		if (port[i] < 0)
			die("open port %s", name ? name : "(none)");
	}
}

/* Host below, tmpfs above, the kernel's own file systems where programs look for them. */
static void build_root(void)
{
	const char *type = getenv("testbed_root");

	mount_or_die("tmpfs", "/top", "mode=755");
	mkdir("/host", 0755);
	mkdir("/root", 0755);
	mkdir("/top/upper", 0755);
	mkdir("/top/work", 0755);
	if (type && !strcmp(type, "9p")) {
		/* Buffers of that size, for each request, are to be had in memory that is in pieces, too */
		if (mount("root", "/host", "9p", MS_RDONLY,
			  "trans=virtio,version=9p2000.L,msize=32768,cache=loose"))
			die("mount the host's root");
	} else if (mount("none", "/host", "hostfs", MS_RDONLY, "/")) {
		die("mount the host's root");
	}
	if (mount("root", "/root", "overlay", 0, "lowerdir=/host,upperdir=/top/upper,workdir=/top/work"))
		die("mount the overlay");
	if (mount("/proc", "/root/proc", NULL, MS_MOVE, NULL) ||
	    mount("/sys", "/root/sys", NULL, MS_MOVE, NULL) ||
	    mount("/dev", "/root/dev", NULL, MS_MOVE, NULL))
		die("move mounts");
	if (chdir("/root") || mount(".", "/", NULL, MS_MOVE, NULL) || chroot("."))
		die("enter the root");
	mount_or_die("tmpfs", "/run", "mode=755");
	mount_or_die("tmpfs", "/dev/shm", "mode=1777");
	mount_if_known("devpts", "/dev/pts", "mode=620,ptmxmode=666");
	mount_if_known("debugfs", "/sys/kernel/debug", NULL);
	mount_if_known("tracefs", "/sys/kernel/tracing", NULL);
	mount_if_known("cgroup2", "/sys/fs/cgroup", NULL);
	symlink("/proc/self/fd", "/dev/fd");
	symlink("/proc/self/fd/0", "/dev/stdin");
	symlink("/proc/self/fd/1", "/dev/stdout");
	symlink("/proc/self/fd/2", "/dev/stderr");
}

/* The others, if the command line had only one started (testbed/vm-qemu.sh says why). */
static void start_processors(void)
{
	char path[64];
	int cpu;

	for (cpu = 1; cpu < 64; cpu++) {
		snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
		if (access(path, W_OK))
			break;
		put(path, "1");
	}
}

static void lo_up(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request))
		die("bring up lo");
	close(fd);
}

/* A swap area is a page with its version and last page at byte 1024 and a signature in its last bytes. */
static void zram_swap(void)
{
	const char *bytes = getenv("testbed_swap");
	unsigned int header[2] = { 1 };
	int fd;

	if (!bytes)
		return;
	put("/sys/block/zram0/disksize", bytes);
	header[1] = strtoull(bytes, NULL, 10) / 4096 - 1;
	fd = open("/dev/zram0", O_WRONLY);
	if (fd < 0 || pwrite(fd, header, sizeof(header), 1024) < 0 || pwrite(fd, "SWAPSPACE2", 10, 4086) < 0 ||
	    fsync(fd))
		die("write the swap header");
	close(fd);
	if (swapon("/dev/zram0", 0))
		die("swapon");
}

/* Reads the job; returns its arguments, the directory in front of them. */
static char **read_job(void)
{
	static char text[1 << 17], *words[4096];
	const char *file = getenv("testbed_job");
	size_t length = 0, count = 0, i;
	ssize_t got;
	int fd;

	fd = file ? open(file, O_RDONLY | O_CLOEXEC) : -1;
	if (fd < 0)
		die("open the job");
	while ((got = read(fd, text + length, sizeof(text) - 1 - length)) > 0)
		length += got;
	close(fd);
	for (i = 0; i < length && count < 4095; i += strlen(text + i) + 1)
		words[count++] = text + i;
	if (count < 2 || got < 0)
		die("read the job");
	return words;
}

static pid_t start(char **job, const int out[2], const int err[2])
{
	static char *const environment[] = {
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/bash", "LANG=C.UTF-8", "TERM=dumb",
		NULL
	};
	const char *root = getenv("testbed_root");
	pid_t pid = fork();

	if (pid)
		return pid;
	setsid();
	dup2(open("/dev/null", O_RDONLY), 0);
	dup2(out[1], 1);
	dup2(err[1], 2);
	if (chdir(job[0]))
		fprintf(stderr, "testbed: in the guest: cd %s: %s\n", job[0], strerror(errno));
	environ = (char **)environment;
	/* Some hosts of User Mode Linux cannot do without; some static programs of i386 crash with it. */
	if (root && !strcmp(root, "hostfs"))
		setenv("GLIBC_TUNABLES", "glibc.pthread.rseq=0", 1);
	execvp(job[1], job + 1);
	fprintf(stderr, "testbed: in the guest: %s: %s\n", job[1], strerror(errno));
	_exit(errno == ENOENT ? 127 : 126);
}

static void copy(const char *bytes, ssize_t length, int fd)
{
	ssize_t done;

	for (; length > 0; bytes += done, length -= done) {
		done = write(fd, bytes, length);
		if (done < 0)
			return;
	}
}

/* Passes on what can be read now; false when the pipe has come to its end. */
static int relay(int from, int to)
{
	static char buffer[1 << 16];
	ssize_t got = read(from, buffer, sizeof(buffer));

	if (got > 0)
		copy(buffer, got, to);
	return got > 0;
}

/*
 * Relays output until the command is over, whoever else still holds its pipes; those are killed then, and
 * what they had said is passed on.
 */
static int run(char **job)
{
	int out[2], err[2], status = 0, over = 0;
	pid_t command, pid;

	if (pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
		die("pipe");
	command = start(job, out, err);
	if (command < 0)
		die("fork");
	close(out[1]);
	close(err[1]);
	while (out[0] >= 0 || err[0] >= 0) {
		struct pollfd polled[2] = { { out[0], POLLIN, 0 }, { err[0], POLLIN, 0 } };
		int ready = poll(polled, 2, 100);

		if (ready > 0 && polled[OUT].revents && !relay(out[0], port[OUT])) {
			close(out[0]);
			out[0] = -1;
		}
		if (ready > 0 && polled[ERR].revents && !relay(err[0], port[ERR])) {
			close(err[0]);
			err[0] = -1;
		}
		while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
			if (pid != command)
				continue;
			over = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
			command = 0;
			kill(-1, SIGKILL);
		}
	}
	while (command && (pid = waitpid(-1, &status, 0)) > 0) {
		if (pid != command)
			continue;
		over = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
		command = 0;
	}
	return over;
}

/* Has a kernel that looks for leaks look now: only what is some seconds old is ever reported, at the second look. */
static void look_for_leaks(void)
{
	const char *kmemleak = "/sys/kernel/debug/kmemleak";
	int fd = open(kmemleak, O_WRONLY);
	int look;

	if (fd < 0)
		return;
	sleep(5);
	for (look = 0; look < 2; look++)
		if (write(fd, "scan", 4) < 0)
			break;
	close(fd);
	fd = open(kmemleak, O_RDONLY);
	if (fd >= 0) {
		int log = open("/dev/kmsg", O_WRONLY);
		char line[256];
		FILE *report = fdopen(fd, "r");

		while (report && fgets(line, sizeof(line), report))
			dprintf(log, "%s", line);
	}
}

int main(void)
{
	int status;

	umask(022);
	mount_or_die("proc", "/proc", NULL);
	mount_or_die("sysfs", "/sys", NULL);
	/* The kernel may have mounted it already. */
	mount_if_known("devtmpfs", "/dev", NULL);
	start_processors();
	open_ports();
	build_root();
	lo_up();
	zram_swap();
	status = run(read_job());
	look_for_leaks();
	dprintf(port[REPORT], "%d\n", status);
	tcdrain(port[OUT]);
	tcdrain(port[ERR]);
	tcdrain(port[REPORT]);
	power_off();
}
