// SPDX-License-Identifier: GPL-2.0
/*
 * Prints the rate of the time stamp counter in kHz, as the kernel parameter tsc_early_khz= wants it: a virtual
 * machine emulated on a busy one cannot find it out reliably.
 */
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

static double nanoseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e9 + now.tv_nsec;
}

int main(void)
{
	const struct timespec pause = { .tv_nsec = 500000000 };
	double time = nanoseconds();
	unsigned long long count = __rdtsc();

	nanosleep(&pause, NULL);
	count = __rdtsc() - count;
	time = nanoseconds() - time;
	printf("%.0f\n", count / time * 1e6);
	return 0;
}
