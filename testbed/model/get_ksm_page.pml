/*
 * get_ksm_page() against whoever moves, reclaims, frees and reuses the page.
 *
 * There are a few page frames, one stable node, and the one KSM page it stands
 * for, which one page table entry maps.  Each statement is one access to memory
 * that others may see; what is in an atomic block is one instruction, or done
 * under the page table lock or the lock of the swap cache.  All see the stores
 * of one in the order he made them: that is what the barriers in ksm.c are for.
 *
 * What is proven, for all interleavings:
 *
 *	held	whoever got a page from get_ksm_page() holds the node's page, it
 *		is where the node says, and stays so until he lets it go;
 *	stale	a node is retired only when its page is gone, or let go, for good;
 *	locked	migration does not fail because of one who waits for the lock that
 *		migration holds.
 *
 * Each of the macros that begin with MUTANT_ takes out one thing that this
 * rests on; spin must then find a counterexample (see the script beside this).
 */
#define FRAMES		3
#define MOVES		2	/* away, and back to the same frame */
#define GONE		255	/* KSM_PFN_GONE */

/* folio->mapping: none, our node, another's, and KSM's flag bits alone */
mtype = { NOBODY, NODE, OTHER, LET_GO };
/* The entry: present, migration entry, swap entry, none */
mtype = { PRESENT, MIGRATING, SWAPPED, NONE };

typedef frame {
	byte count;		/* folio->_refcount */
	mtype mapping;
	bool locked;
	bool swapcache;
	bool free;
};

frame f[FRAMES];
byte kpfn;			/* node->kpfn */
byte moves;			/* node->moves */
mtype pte = PRESENT;
byte mapped;			/* the frame that the entry maps */
/* Only assertions read these: is there the KSM page; the frame it is about to be in. */
bool alive = true;
byte arriving = GONE;
/* Is somebody waiting for a lock with a reference to that page held? */
bool waiting;

/* The count was dropped to zero: the page goes back to where pages come from. */
inline free_frame(n)
{
	f[n].mapping = NOBODY;
	f[n].free = true;
}

/* folio_put() */
inline put(n)
{
	atomic {
		assert(f[n].count > 0);
		f[n].count--;
		last = (f[n].count == 0);
		if
		:: last && f[n].mapping == NODE -> alive = false
		:: else
		fi
	}
	if
	:: last -> free_frame(n)
	:: else
	fi;
	last = false
}

inline allocate(n)
{
	atomic {
		if
		:: f[0].free -> n = 0
		:: f[1].free -> n = 1
		:: f[2].free -> n = 2
		fi;
		f[n].free = false;
		f[n].count = 1
	}
}

inline retire()
{
	assert(!alive);		/* stale */
	kpfn = GONE
}

/*
 * The page is the node's: where that says or, as seen by one whose pfn is from
 * before the page left this frame, where it will say in a moment.  Or the page
 * has been let go, unmapped.
 */
inline held(n)
{
	assert((f[n].mapping == NODE && (kpfn == n || arriving == n)) ||
	       (f[n].mapping == LET_GO && !alive))
}

/* get_ksm_page(); got is GONE if there is no page, or it is busy. */
inline get_ksm_page(lock)
{
	skip;
again:
	seen = moves;
	got = kpfn;
	if
	:: got == GONE -> goto done
	:: else
	fi;
	if
	:: f[got].mapping != NODE -> goto gone
	:: else
	fi;
	atomic {
		if
		:: f[got].count == 0 -> goto frozen
		:: else -> f[got].count++
		fi
	}
#ifndef MUTANT_SECOND_CHECK
	if
	:: f[got].mapping != NODE -> put(got); goto gone
	:: else
	fi;
#endif
	if
	:: !lock -> goto done
	:: else
	fi;
	atomic {
		if
		:: f[got].locked -> goto contended
		:: else -> f[got].locked = true
		fi
	}
	if
	:: f[got].mapping == NODE -> goto done
	:: else
	fi;
	f[got].locked = false;
	put(got);
	goto again;

contended:
#ifdef MUTANT_WAIT_WITH_REFERENCE
	waiting = true;
	atomic { !f[got].locked -> f[got].locked = true };
	waiting = false;
	goto done;
#else
	/* folio_put_wait_locked() */
	put(got);
	!f[got].locked;
	goto again;
#endif

frozen:
	/* Somebody else's turn */
	if
	:: lock -> (f[got].count != 0 || f[got].mapping != NODE); goto again
	:: !lock -> got = GONE; goto done
	fi;

gone:
#ifndef MUTANT_MOVES
	if
	:: seen != moves -> goto again
	:: else
	fi;
#else
	/* By the pfn alone: but a page that moved twice may be back */
	if
	:: kpfn != got -> goto again
	:: else
	fi;
#endif
	retire();
	got = GONE;
done:
	skip
}

/* A search: takes a reference, looks at the content, lets go. */
proctype search()
{
	byte got, seen;
	bool last;

	get_ksm_page(false);
	if
	:: got != GONE ->
		held(got);
		held(got);	/* still */
		put(got)
	:: else
	fi
}

/* One who drops a record: waits for the lock, and lets an unmapped page go. */
proctype drop_record()
{
	byte got, seen;
	bool last;

	get_ksm_page(true);
	if
	:: got != GONE ->
		assert(f[got].mapping == NODE && kpfn == got);
		assert(f[got].locked);
		if
		:: pte == NONE || pte == SWAPPED ->
			/* folio_mapped() is false, and stays so: no new mapping without the lock */
			atomic { f[got].mapping = LET_GO; alive = false };
			retire()
		:: else ->
			assert(f[got].mapping == NODE && kpfn == got)
		fi;
		f[got].locked = false;
		put(got)
	:: else
	fi
}

/* migrate_pages(): __folio_migrate_mapping() between unmapping and mapping again. */
proctype migration()
{
	byte from, to, turns;
	bool last, ok;

	do
	:: turns == MOVES -> break
	:: break
	:: turns < MOVES ->
		turns++;
		/* Found in the page table, isolated from its LRU list */
		atomic {
			if
			:: pte == PRESENT -> from = mapped; f[from].count++
			:: else -> break
			fi
		}
		atomic { !f[from].locked -> f[from].locked = true };
		atomic {
			if
			:: pte == PRESENT -> pte = MIGRATING; f[from].count--
			:: else
			fi
		}
		allocate(to);
		f[to].locked = true;
		atomic {
			ok = (f[from].mapping == NODE) && (f[from].count == 1 + f[from].swapcache);
			if
#ifndef MUTANT_FREEZE
			:: ok -> f[from].count = 0
#endif
			:: else
			fi
		}
		assert(ok || !waiting);		/* locked */
		if
		:: ok ->
			f[to].swapcache = f[from].swapcache;
			f[to].count = f[to].count + f[to].swapcache;
			atomic { f[to].mapping = f[from].mapping; arriving = to };
			/* ksm_migrate_page() */
#ifdef MUTANT_STORES_SWAPPED
			f[from].mapping = LET_GO;
			atomic { kpfn = to; arriving = GONE };
			moves++;
#else
			atomic { kpfn = to; arriving = GONE };
			moves++;
			f[from].mapping = LET_GO;
#endif
			f[from].swapcache = false;
#ifndef MUTANT_FREEZE
			f[from].count = 1
#else
			atomic { f[from].count = f[from].count - f[to].swapcache }
#endif
		:: else
		fi;
		/* Map again: the new page, or the old one if it could not be moved */
		atomic {
			if
			:: pte == MIGRATING ->
				if
				:: ok -> mapped = to
				:: else
				fi;
				f[mapped].count++;
				pte = PRESENT
			:: else
			fi
		}
		f[to].locked = false;
		put(to);
		f[from].locked = false;
		put(from);
		from = 0; to = 0; ok = false
	od
}

/* Reclaim: into the swap cache, out of the page table, and away. */
proctype reclaim()
{
	byte n;
	bool last, ok;

	atomic {
		if
		:: pte == PRESENT -> n = mapped; f[n].count++
		:: else -> goto end
		fi
	}
	atomic { !f[n].locked -> f[n].locked = true };
	atomic {
		if
		:: f[n].mapping == NODE && !f[n].swapcache -> f[n].swapcache = true; f[n].count++
		:: else
		fi
	}
	atomic {
		if
		:: pte == PRESENT && mapped == n && f[n].swapcache -> pte = SWAPPED; f[n].count--
		:: else
		fi
	}
	/* __remove_mapping() */
	atomic {
		ok = f[n].swapcache && f[n].count == 2 && pte == SWAPPED;
		if
		:: ok -> f[n].count = 0
		:: else
		fi
	}
	if
	:: ok ->
		/* It has second thoughts, or takes the page away */
		if
		:: f[n].count = 2; f[n].locked = false; put(n)
		:: atomic {
			f[n].swapcache = false;
			alive = (f[n].mapping == NODE -> false : alive)
		   };
		   f[n].locked = false;
		   free_frame(n)
		fi
	:: else ->
		f[n].locked = false;
		put(n)
	fi;
end:
	skip
}

/* A fault finds the page in the swap cache; and the mapping goes in the end. */
proctype user()
{
	byte n;
	bool last;

	if
	:: atomic { pte == SWAPPED ->
		if
		:: f[0].swapcache && f[0].count > 0 -> n = 0; f[0].count++
		:: f[1].swapcache && f[1].count > 0 -> n = 1; f[1].count++
		:: f[2].swapcache && f[2].count > 0 -> n = 2; f[2].count++
		:: else -> goto unmap
		fi }
	   atomic { !f[n].locked -> f[n].locked = true };
	   atomic {
		if
		:: pte == SWAPPED && f[n].swapcache && f[n].mapping == NODE ->
			pte = PRESENT; mapped = n; f[n].count++
		:: else
		fi
	   }
	   f[n].locked = false;
	   put(n)
	:: true
	fi;
unmap:
	atomic {
		if
		:: pte == PRESENT -> pte = NONE; n = mapped
		:: pte == SWAPPED || pte == MIGRATING -> pte = NONE; goto end
		:: else -> goto end
		fi
	}
	put(n);
end:
	skip
}

/* Frames are given out again, also as the KSM page of another node. */
proctype reuse()
{
	byte n;
	bool last;

	if
	:: allocate(n);
	   f[n].mapping = OTHER;
	   put(n)
	:: true
	fi
}

init {
	atomic {
		f[0].count = 1;
		f[0].mapping = NODE;
		f[1].free = true;
		f[1].mapping = NOBODY;
		f[2].free = true;
		f[2].mapping = NOBODY;
#ifdef DROP_RECORD
		run drop_record();
#else
		run search();
#endif
		run migration();
		run reclaim();
		run user();
		run reuse()
	}
}
