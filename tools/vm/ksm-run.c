// SPDX-License-Identifier: GPL-2.0
/*
 * ksm-run - start a program whose memory, and that of its children, may be
 * merged: all of it, as with MADV_MERGEABLE
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE	67
#endif

int main(int argc, char **argv)
{
	if (argc >= 2 && (!strcmp(argv[1], "-h") || !strcmp(argv[1], "--help"))) {
		puts("usage: ksm-run PROGRAM [ARGUMENT]...");
		return 0;
	}
	if (argc < 2 || argv[1][0] == '-') {
		fputs("usage: ksm-run PROGRAM [ARGUMENT]...\n", stderr);
		return 2;
	}
	if (prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0)) {
		fprintf(stderr, "ksm-run: memory cannot be offered for merging: %s\n",
			errno == EINVAL ? "the kernel has no KSM, or is older than Linux 6.4" :
			strerror(errno));
		return 125;
	}
	execvp(argv[1], argv + 1);
	fprintf(stderr, "ksm-run: %s: %s\n", argv[1], strerror(errno));
	/* As a shell has it */
	return errno == ENOENT ? 127 : 126;
}
