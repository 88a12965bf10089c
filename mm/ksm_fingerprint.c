// SPDX-License-Identifier: GPL-2.0-only
/*
 * KSM: the fingerprint of a page, 64 bits that tell most pages apart.
 *
 * Every page is read whole in nearly every pass, so this is what ksmd does most
 * of the time.  A processor that computes CRC-32C in one instruction does it
 * about as fast as memory is read, if several sums are under way at once: each
 * instruction has to wait for the last one of its own sum only.
 *
 * A CRC is linear, and no key helps against who wants to make pages of the same
 * fingerprint.  He never makes others share what is not equal, for bytes decide
 * on that; but he may keep them from sharing what is.  What it costs is bounded
 * (ksm_collides()).
 */
#include <linux/highmem.h>
#include <linux/init.h>
#include <linux/jump_label.h>
#include <linux/prefetch.h>
#include <linux/random.h>
#include <linux/seq_file.h>
#include <linux/timex.h>
#include <linux/xxhash.h>
#include "ksm_internal.h"

static u64 ksm_fingerprint_seed __ro_after_init;
static u64 ksm_zero_fingerprint __ro_after_init;

/* ----------------------------------------------------------- the instruction */

#if defined(CONFIG_X86_64)
#include <asm/asm.h>
#include <asm/cpufeature.h>

static bool __init ksm_cpu_has_crc(void)
{
	return boot_cpu_has(X86_FEATURE_XMM4_2);
}

/* Takes and returns 64 bits, of which the high ones are 0. */
static __always_inline u64 ksm_crc(u64 crc, u64 word)
{
	asm("crc32q %1, %0" : "+r" (crc) : ASM_INPUT_RM(word));
	return crc;
}
#elif defined(CONFIG_ARM64)
#include <linux/cpufeature.h>

static bool __init ksm_cpu_has_crc(void)
{
	return cpus_have_final_cap(ARM64_HAS_CRC32);
}

static __always_inline u64 ksm_crc(u64 crc, u64 word)
{
	asm(".arch_extension crc\n\tcrc32cx %w0, %w0, %x1"
	    : "+r" (crc) : "r" (word));
	return crc;
}
#else
static bool __init ksm_cpu_has_crc(void)
{
	return false;
}

static __always_inline u64 ksm_crc(u64 crc, u64 word)
{
	return 0;
}
#endif

static DEFINE_STATIC_KEY_FALSE(ksm_use_crc);

/* ------------------------------------------------------------ the fingerprint */

/*
 * Four sums, each of every fourth word, mixed into one.  Pages that differ in a
 * single word, as many do, differ in a single CRC, which is 32 bits for the 64
 * of the word: the plain sum of all words always tells these apart.
 */
static u64 ksm_sum_crc(const u64 *word, const u64 *next)
{
	const u64 *end = word + PAGE_SIZE / sizeof(*word);
	const long ahead = next - word;
	u64 a = 0, b = 0, c = 0, d = 0, plain = 0;
	u64 sums[3];

	for (; word < end; word += 8) {
		/* By itself the processor reads ahead to the end of a page */
		prefetch(word + ahead);
		a = ksm_crc(a, word[0]);
		b = ksm_crc(b, word[1]);
		c = ksm_crc(c, word[2]);
		d = ksm_crc(d, word[3]);
		plain += word[0] + word[1] + word[2] + word[3];
		a = ksm_crc(a, word[4]);
		b = ksm_crc(b, word[5]);
		c = ksm_crc(c, word[6]);
		d = ksm_crc(d, word[7]);
		plain += word[4] + word[5] + word[6] + word[7];
	}
	sums[0] = a << 32 | b;
	sums[1] = c << 32 | d;
	sums[2] = plain;
	return xxh64(sums, sizeof(sums), ksm_fingerprint_seed);
}

static u64 ksm_sum_xxh(const u64 *word, const u64 *next)
{
	return xxh64(word, PAGE_SIZE, ksm_fingerprint_seed);
}

/**
 * ksm_fingerprint_ahead - of a page's content
 * @page: need not be locked, nor keep still
 * @next: the page that is to be read after this one, or the same page
 *
 * Context: any.
 * Return: the fingerprint, its KSM_FINGERPRINT_SHIFT low bits zero.
 */
u64 ksm_fingerprint_ahead(struct page *page, struct page *next)
{
	void *content = kmap_local_page(page), *ahead = kmap_local_page(next);
	u64 sum;

	if (static_branch_likely(&ksm_use_crc))
		sum = ksm_sum_crc(content, ahead);
	else
		sum = ksm_sum_xxh(content, ahead);
	kunmap_local(ahead);
	kunmap_local(content);
	return sum >> KSM_FINGERPRINT_SHIFT << KSM_FINGERPRINT_SHIFT;
}

/**
 * ksm_is_zero_fingerprint - is it that of an empty page?
 * @fingerprint: of some page
 *
 * Return: true if it is.
 */
bool ksm_is_zero_fingerprint(u64 fingerprint)
{
	return fingerprint == ksm_zero_fingerprint;
}

/**
 * ksm_fingerprint_show - how fingerprints are made, for debugfs
 * @seq: the file: "crc" or "xxh64", and the key
 * @unused: not used
 *
 * Return: 0.
 */
int ksm_fingerprint_show(struct seq_file *seq, void *unused)
{
	seq_printf(seq, "%s %#llx\n",
		   static_key_enabled(&ksm_use_crc) ? "crc" : "xxh64",
		   ksm_fingerprint_seed);
	return 0;
}

/* The shortest of some times that it takes, in cycles. */
static cycles_t __init ksm_time_sum(u64 (*sum)(const u64 *word,
					       const u64 *next))
{
	const u64 *content = page_address(ZERO_PAGE(0));
	cycles_t start, took, shortest = 0;
	u64 result;
	int i;

	for (i = 0; i < 8; i++) {
		start = get_cycles();
		result = sum(content, content);
		OPTIMIZER_HIDE_VAR(result);
		took = get_cycles() - start;
		if (!i || took < shortest)
			shortest = took;
	}
	return shortest;
}

/**
 * ksm_fingerprint_init - at boot, once, before the first fingerprint
 */
void __init ksm_fingerprint_init(void)
{
	ksm_fingerprint_seed = get_random_u64();
	/* Where the processor is emulated, the instruction may be slow */
	if (ksm_cpu_has_crc() &&
	    ksm_time_sum(ksm_sum_crc) <= ksm_time_sum(ksm_sum_xxh))
		static_branch_enable(&ksm_use_crc);
	ksm_zero_fingerprint = ksm_fingerprint(ZERO_PAGE(0));
}
