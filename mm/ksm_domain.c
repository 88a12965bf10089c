// SPDX-License-Identifier: GPL-2.0-only
/*
 * KSM: who may share pages with whom.
 *
 * Sharing tells: a write that takes long says that somebody else has the same
 * page.  So the admin may keep users, cgroups or processes apart: pages are
 * merged only within a domain, of which a page is part through the process in
 * which it is found.  The domain is part of the key under which pages are
 * looked for (struct ksm_key), so what belongs to different domains never
 * meets.
 *
 * A process may go to another domain at any time, and does not tell.  ksmd looks
 * before each batch; from then on, pages of the old domain that it still maps
 * are given up as they are found (KSM_FOUND_FOREIGN).
 */
#include <linux/cgroup.h>
#include <linux/cred.h>
#include <linux/memcontrol.h>
#include <linux/pid.h>
#include <linux/random.h>
#include <linux/rhashtable.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/user_namespace.h>
#include "ksm_internal.h"

/**
 * struct ksm_tenant - what makes a domain this one and no other
 * @kind: enum ksm_domain_kind
 * @uid: of a user: a process that may act as another, too, is not the same
 *	tenant as that one's others
 * @euid: the same
 * @suid: the same
 * @id: of a user, the address of the user namespace; of a cgroup, its number;
 *	of a process, one that no other has had
 *
 * No padding: the hash table compares all of it.
 */
struct ksm_tenant {
	u32 kind;
	u32 uid;
	u32 euid;
	u32 suid;
	u64 id;
};

/**
 * struct ksm_domain - those who may share pages with each other
 * @tenant: who they are
 * @hash: finds this by @tenant.  ksm_domain_lock.
 * @all: place in the list of all domains.  ksm_domain_lock.
 * @refs: those of mms and of stable nodes; the last is dropped under
 *	ksm_domain_lock
 * @user_ns: of a user, with a reference, so that no other has its address
 * @pid: of a process, as the initial namespace knows it, for the admin
 * @salt: keeps the fingerprints of different domains apart in the filter
 * @shared: KSM pages with at least one recorded mapping
 * @sharing: recorded mappings beyond the first of each
 */
struct ksm_domain {
	struct ksm_tenant tenant;
	struct rhash_head hash;
	struct list_head all;
	refcount_t refs;
	struct user_namespace *user_ns;
	pid_t pid;
	u64 salt;
	atomic_long_t shared;
	atomic_long_t sharing;
};

static const struct rhashtable_params ksm_domain_params = {
	.key_len		= sizeof(struct ksm_tenant),
	.key_offset		= offsetof(struct ksm_domain, tenant),
	.head_offset		= offsetof(struct ksm_domain, hash),
	.automatic_shrinking	= true,
};

static DEFINE_SPINLOCK(ksm_domain_lock);
static struct rhashtable ksm_domain_table;
static LIST_HEAD(ksm_all_domains);

/* ------------------------------------------------------------ whose an mm is */

#ifdef CONFIG_MEMCG
/* RCU.  A child that is only being forked is in no cgroup of its own yet. */
static struct task_struct *ksm_owner(struct mm_struct *mm)
{
	struct task_struct *owner = rcu_dereference(mm->owner);

	return owner && READ_ONCE(owner->__state) != TASK_NEW ? owner : NULL;
}

static bool ksm_is_user(struct mm_struct *mm, struct ksm_tenant *tenant)
{
	struct task_struct *owner = ksm_owner(mm);
	const struct cred *cred;

	if (!owner)
		return false;
	cred = __task_cred(owner);
	tenant->uid = __kuid_val(cred->uid);
	tenant->euid = __kuid_val(cred->euid);
	tenant->suid = __kuid_val(cred->suid);
	tenant->id = (unsigned long)cred->user_ns;
	return true;
}

static bool ksm_is_cgroup(struct mm_struct *mm, struct ksm_tenant *tenant)
{
	struct task_struct *owner = ksm_owner(mm);

	if (!owner)
		return false;
	tenant->id = cgroup_id(mem_cgroup_from_task(owner)->css.cgroup);
	return true;
}

static pid_t ksm_pid(struct mm_struct *mm)
{
	struct task_struct *owner;
	pid_t pid;

	rcu_read_lock();
	owner = ksm_owner(mm);
	pid = owner ? task_tgid_nr(owner) : 0;
	rcu_read_unlock();
	return pid;
}
#else
static bool ksm_is_user(struct mm_struct *mm, struct ksm_tenant *tenant)
{
	return false;
}

static bool ksm_is_cgroup(struct mm_struct *mm, struct ksm_tenant *tenant)
{
	return false;
}

static pid_t ksm_pid(struct mm_struct *mm)
{
	return 0;
}
#endif /* CONFIG_MEMCG */

/* The same for as long as the mm is registered. */
static bool ksm_is_process(struct ksm_mm *kmm, struct ksm_tenant *tenant)
{
	static atomic64_t last = ATOMIC64_INIT(0);

	if (kmm->domain && kmm->domain->tenant.kind == KSM_DOMAIN_PROCESS)
		*tenant = kmm->domain->tenant;
	else
		tenant->id = atomic64_inc_return(&last);
	return true;
}

/* RCU, for what @tenant refers to.  False if nobody is left in the mm. */
static bool ksm_identify(struct ksm_mm *kmm, struct ksm_tenant *tenant)
{
	*tenant = (struct ksm_tenant) { .kind = ksm_knobs.merge_domain };
	switch (tenant->kind) {
	case KSM_DOMAIN_USER:
		return ksm_is_user(kmm->mm, tenant);
	case KSM_DOMAIN_CGROUP:
		return ksm_is_cgroup(kmm->mm, tenant);
	default:
		return ksm_is_process(kmm, tenant);
	}
}

/* ---------------------------------------------------------------- the domains */

static struct ksm_domain *ksm_new_domain(struct mm_struct *mm)
{
	struct ksm_domain *domain = kzalloc(sizeof(*domain), GFP_KERNEL);

	if (!domain)
		return NULL;
	refcount_set(&domain->refs, 1);
	domain->pid = ksm_pid(mm);
	domain->salt = get_random_u64();
	return domain;
}

/*
 * The domain of a tenant, which @fresh becomes if there is none.  RCU.
 * Returns it with a reference, or NULL if memory is short.
 */
static struct ksm_domain *ksm_file_domain(const struct ksm_tenant *tenant,
					  struct ksm_domain *fresh)
{
	struct ksm_domain *domain;

	fresh->tenant = *tenant;
	spin_lock(&ksm_domain_lock);
	domain = rhashtable_lookup_fast(&ksm_domain_table, tenant,
					ksm_domain_params);
	if (domain) {
		refcount_inc(&domain->refs);
	} else if (!rhashtable_insert_fast(&ksm_domain_table, &fresh->hash,
					   ksm_domain_params)) {
		domain = fresh;
		list_add_tail(&domain->all, &ksm_all_domains);
		if (tenant->kind == KSM_DOMAIN_USER)
			domain->user_ns = get_user_ns((struct user_namespace *)
						      (unsigned long)tenant->id);
		atomic_long_add(KSM_HASHED_BYTES(*domain),
				&ksm_counters.metadata);
	}
	spin_unlock(&ksm_domain_lock);
	return domain;
}

/**
 * ksm_get_domain - take a reference to a domain
 * @domain: to which there is a reference already; NULL for that of the system
 *
 * Return: @domain.
 */
struct ksm_domain *ksm_get_domain(struct ksm_domain *domain)
{
	if (domain)
		refcount_inc(&domain->refs);
	return domain;
}

/**
 * ksm_put_domain - drop a reference to a domain
 * @domain: may be NULL
 *
 * Context: any but hard interrupts.
 */
void ksm_put_domain(struct ksm_domain *domain)
{
	if (!domain || !refcount_dec_and_lock(&domain->refs, &ksm_domain_lock))
		return;
	rhashtable_remove_fast(&ksm_domain_table, &domain->hash,
			       ksm_domain_params);
	list_del(&domain->all);
	spin_unlock(&ksm_domain_lock);
	atomic_long_sub(KSM_HASHED_BYTES(*domain), &ksm_counters.metadata);
	put_user_ns(domain->user_ns);
	kfree(domain);
}

static bool ksm_move_in(struct ksm_mm *kmm)
{
	struct ksm_domain *domain = NULL, *fresh = ksm_new_domain(kmm->mm);
	struct ksm_tenant tenant;

	if (!fresh)
		return false;
	rcu_read_lock();
	if (ksm_identify(kmm, &tenant))
		domain = ksm_file_domain(&tenant, fresh);
	rcu_read_unlock();
	if (domain != fresh)
		kfree(fresh);
	if (!domain)
		return false;
	ksm_put_domain(kmm->domain);
	kmm->domain = domain;
	return true;
}

/**
 * ksm_settle_domain - see to it that an mm is in the domain where it belongs
 * @kmm: the mm; kmm->domain is right for this moment
 *
 * Context: @kmm->lock held; may sleep.
 * Return: false if that cannot be told, because nobody is left in the mm or
 * memory is short.  Then it must not be scanned.
 */
bool ksm_settle_domain(struct ksm_mm *kmm)
{
	struct ksm_tenant tenant;
	bool alive;

	if (ksm_knobs.merge_domain == KSM_DOMAIN_SYSTEM) {
		ksm_put_domain(kmm->domain);
		kmm->domain = NULL;
		return true;
	}
	rcu_read_lock();
	alive = ksm_identify(kmm, &tenant);
	rcu_read_unlock();
	if (alive && kmm->domain &&
	    !memcmp(&tenant, &kmm->domain->tenant, sizeof(tenant)))
		return true;
	return alive && ksm_move_in(kmm);
}

/**
 * ksm_domain_salt - what to mix into fingerprints for the filter
 * @domain: of the page
 *
 * Return: a number that is the same for all pages of the domain.
 */
u64 ksm_domain_salt(const struct ksm_domain *domain)
{
	return domain ? domain->salt : 0;
}

/**
 * ksm_count_mapping - a mapping of a KSM page has come or gone
 * @domain: of the page
 * @first: it is the only one
 * @sign: 1 or -1
 *
 * Context: any.
 */
void ksm_count_mapping(struct ksm_domain *domain, bool first, int sign)
{
	atomic_long_add(sign, first ? &ksm_counters.shared :
				      &ksm_counters.sharing);
	if (domain)
		atomic_long_add(sign, first ? &domain->shared :
					      &domain->sharing);
}

/* --------------------------------------------------------- what the admin sees */

/**
 * ksm_has_domains - can mms be told apart in this way?
 * @kind: in which
 *
 * Return: false if this kernel does not know, for want of memory cgroups.
 */
bool ksm_has_domains(enum ksm_domain_kind kind)
{
	switch (kind) {
	case KSM_DOMAIN_USER:
		/* Only with them does an mm know whose it is */
		return IS_ENABLED(CONFIG_MEMCG);
	case KSM_DOMAIN_CGROUP:
		return !mem_cgroup_disabled();
	default:
		return true;
	}
}

#ifdef CONFIG_DEBUG_FS
static void ksm_show_tenant(struct seq_file *seq,
			    const struct ksm_domain *domain)
{
	const struct ksm_tenant *tenant = &domain->tenant;

	switch (tenant->kind) {
	case KSM_DOMAIN_USER:
		seq_printf(seq, "user %u:%u", domain->user_ns->ns.inum,
			   tenant->uid);
		if (tenant->euid != tenant->uid || tenant->suid != tenant->uid)
			seq_printf(seq, "/%u/%u", tenant->euid, tenant->suid);
		break;
	case KSM_DOMAIN_CGROUP:
		seq_printf(seq, "cgroup %llu", tenant->id);
		break;
	default:
		seq_printf(seq, "process %d", domain->pid);
	}
}

static void *ksm_domains_start(struct seq_file *seq, loff_t *pos)
{
	spin_lock(&ksm_domain_lock);
	return seq_list_start_head(&ksm_all_domains, *pos);
}

static void *ksm_domains_next(struct seq_file *seq, void *at, loff_t *pos)
{
	return seq_list_next(at, &ksm_all_domains, pos);
}

static void ksm_domains_stop(struct seq_file *seq, void *at)
{
	spin_unlock(&ksm_domain_lock);
}

static int ksm_domains_show(struct seq_file *seq, void *at)
{
	struct ksm_domain *domain = list_entry(at, struct ksm_domain, all);

	if (at == &ksm_all_domains) {
		seq_puts(seq, "domain id pages_shared pages_sharing\n");
		return 0;
	}
	ksm_show_tenant(seq, domain);
	seq_printf(seq, " %ld %ld\n", atomic_long_read(&domain->shared),
		   atomic_long_read(&domain->sharing));
	return 0;
}

/* For debugfs. */
const struct seq_operations ksm_domains_sops = {
	.start	= ksm_domains_start,
	.next	= ksm_domains_next,
	.stop	= ksm_domains_stop,
	.show	= ksm_domains_show,
};
#endif /* CONFIG_DEBUG_FS */

/**
 * ksm_domain_init - at boot, once
 *
 * Return: 0 or -ENOMEM.
 */
int __init ksm_domain_init(void)
{
	return rhashtable_init(&ksm_domain_table, &ksm_domain_params);
}
