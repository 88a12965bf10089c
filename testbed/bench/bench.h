/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the programs of `make bench` share.  Each prints lines of a figure's name and its value; a program
 * that cannot measure says why and ends with status 1, with bad arguments with status 2.
 */
#ifndef TESTBED_BENCH_H
#define TESTBED_BENCH_H

#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>
#include <sys/types.h>

#define PAGE_SIZE	4096UL
#define PAGES_PER_MIB	256UL

/* One access that the compiler neither moves nor leaves out. */
#define read_now(variable)		__atomic_load_n(&(variable), __ATOMIC_ACQUIRE)
#define write_now(variable, value)	__atomic_store_n(&(variable), (value), __ATOMIC_RELEASE)

/* The program and its arguments, each a number from its minimum on, into values; or one line, and the end. */
void arguments(int argc, char **argv, const char *names, const long *minimums, long *values);
void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *format, ...);
/* fail(), with what errno says */
#define need(condition)			do { if (!(condition)) fail("%s: %m", #condition); } while (0)
void figure(const char *name, double value);

/* Files, and the knobs among them: those of /sys/kernel/mm/ksm */
void put(const char *path, const char *text);
bool has(const char *knob);
long get(const char *knob);
void set(const char *knob, long value);

/* Seconds: that have passed, and that this program has had of a processor */
double now(void);
double own_time(void);
double median(double *values, size_t nr);
pid_t ksmd(void);
void pin(pid_t pid, int cpu);
/* The calling thread takes what others leave of its processor. */
void stand_back(bool back);

/* Memory: every page of a seed has the same content, every word of it another */
char *map_pages(size_t nr);
void fill_page(char *page, uint64_t seed);
bool page_is(const char *page, uint64_t seed);
/* Page i has the content of seed i % distinct. */
void fill_pages(char *area, size_t nr, size_t distinct);
/* Writes to the page, and leaves it as it was. */
void rewrite(char *page);
void offer(char *area, size_t nr);

/* Scanning: from prepare() on, ksmd makes one whole pass when told to, and then rests. */
void prepare(void);
void stop(long run);
/* Returns the seconds that it took. */
double pass(void);
/* As many passes as it takes until so many pages are merged with others. */
double merge(long pages);
void full_speed(void);
long record_bytes(void);

#endif
