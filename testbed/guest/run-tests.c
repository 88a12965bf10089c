// SPDX-License-Identifier: GPL-2.0
/*
 * In a guest: runs test programs one after the other and marks in the output where each begins and ends.
 * usage: run-tests [NAME=VALUE]... (SECONDS PROGRAM)...
 * It needs nothing of the guest's root, which is of another architecture perhaps.
 */
#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void set_run(const char *value)
{
	int fd = open("/sys/kernel/mm/ksm/run", O_WRONLY);

	if (fd < 0 || write(fd, value, 1) < 0)
		perror("run");
	close(fd);
}

/* Some start themselves again by a relative name. */
static void become(char *path)
{
	char *folder = dirname(strdup(path)), program[256];

	snprintf(program, sizeof(program), "./%s", basename(path));
	setpgid(0, 0);
	dup2(1, 2);
	if (!chdir(folder))
		execl(program, program, NULL);
	perror(path);
	_exit(126);
}

/* As timeout(1) would: 124 if it had to be told to end, and five seconds later it is not asked. */
static int run(char *path, double seconds)
{
	double end = now() + seconds;
	int status, told = 0;
	pid_t pid = fork();

	if (!pid)
		become(path);
	while (waitpid(pid, &status, WNOHANG) != pid) {
		if (now() > end) {
			kill(-pid, told++ ? SIGKILL : SIGTERM);
			end += 5;
		}
		usleep(2000);
	}
	if (told)
		return 124;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int main(int argc __attribute__((unused)), char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (argv++; *argv && strchr(*argv, '='); argv++)
		putenv(*argv);
	for (; argv[0] && argv[1]; argv += 2) {
		char *name = strdup(basename(strdupa(argv[1])));
		double began = now();
		int status;

		printf("#begin %s\n", name);
		status = run(argv[1], atof(argv[0]));
		printf("\n#end %s %d %.0f\n", name, status, 1000 * (now() - began));
		free(name);
		/* The next one finds nothing merged and ksmd at rest, whatever this one left behind. */
		set_run("2");
		set_run("0");
	}
	return 0;
}
