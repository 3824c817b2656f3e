/* The commit protocol of one partition (docs/delivery.md, libosync/delivery/), for Spin. What it says and what it
 * leaves out: README.md. It is not the code: it has no points, bytes or time-outs, only the order of the steps.
 *
 * Names in brackets are those of libosync/base/failpoint.def: the step of the code that a step here stands for.
 *
 * Rows are numbers, a file holds one or two of them, so that boundaries differ from attempt to attempt. Two owners run
 * side by side: whoever isn't the last to take over is a zombie, and may be as slow as it likes. A request is done and
 * answered in one step, since a slow answer is a slow owner; or it gets no answer and is done at any later time, or
 * never; or it is done now and once more at any later time.
 *
 * Bounds (-D): ROWS, INCS incarnations, NAMES staged names, TMO answers that don't come, CRASHES, DUPS requests done
 * twice, CONSUME files that a consumer removes (any; OLD_ONLY: never a partition's newest).
 * Worlds: LOST: the store loses its record, once. ELSEWHERE: the second owner has a store of its own, which is empty.
 * FOREIGN: somebody makes a folder with a final name. REMOVE: the second owner ends the partition (step 7).
 * Mutants: see README.md; each leaves one rule out. REACH: fails when a partition ends well after every fault. */
#ifndef ROWS
#define ROWS 2
#endif
#ifndef INCS
#define INCS 3
#endif
#ifndef NAMES
#define NAMES 3
#endif
#ifndef TMO
#define TMO 1
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef DUPS
#define DUPS 0
#endif
#ifndef CONSUME
#define CONSUME 0
#endif
#ifdef ELSEWHERE
#define STORES 2
#define S me
#else
#define STORES 1
#define S 0
#endif
#if defined(LOST) || defined(ELSEWHERE)
#define REBUILD
#ifdef BOTH_LOST
#define LOST_STORE true
#else
#define LOST_STORE (lost || S == 1)
#endif
#endif
#define B(i) (1 << (i))

mtype = { /* the steps, by their names in libosync/base/failpoint.def */
    take_cas, take_mkdirs, stage_create, stage_finish, prepare_cas, publish_rename, commit_cas, fence_rename,
    block_create, revived_remove, others_cas, claim_create,
    forget_cas, settle_cas, adopt_cas, rebuilt_cas, erase_cas,
    /* and how they go */
    _done, _no_answer, _dies, _twice, _and_again_later, _refused
};

/* Answers. NO: refused, nothing was changed. NONE: unknown. */
#define OK 1
#define NO 2
#define NONE 3

/* ---- the sink ---- */

#define FOLDER 1
#define FILE 2
byte place[INCS + 1]; /* <incarnation>: its folder, or the empty file that blocks the name */
byte tomb[INCS + 1];  /* <incarnation>.fenced */

/* Staged files by name. Where: in their incarnation's folder, or in its tomb. */
#define PART 1
#define WHOLE 2
#define TOMB_PART 3
#define TOMB_WHOLE 4
byte st[NAMES];
byte file_id[NAMES]; /* how often a file of this name was made: another file each time */
byte t_inc[NAMES], t_n[NAMES], t_from[NAMES], t_to[NAMES]; /* its name and its label */

#define A_FOLDER 255
byte slot[ROWS];    /* final names: a staged name + 1 */
byte slot_id[ROWS]; /* whose file it is */
byte claim[STORES]; /* the claim of a store that was rebuilt: its number */

/* Requests under way whose senders don't wait any more, by what they name. */
byte late_mkdirs, late_put, late_finish, late_publish, late_fence;

/* ---- the store ---- */

typedef record_t {
    bit there;
    byte inc, gen;    /* gen counts take-overs */
    byte n, pos;      /* the next file, the committed point */
    byte pt, pf;     /* prepared: staged name + 1, file id */
    byte former;      /* incarnations that are over */
    byte blocked;     /* of them those that need no fence any more */
    bit rebuilding;
    byte own;         /* its claim's number; 0: it was never rebuilt */
    byte knows;       /* UNORDERED_CLAIMS only: the other's claim */
};
record_t s[STORES];

/* ---- what the properties are about ---- */

byte published; /* rows that were visible ever */
byte next_inc = 1, next_name = 0;
byte tmo = TMO, crashes = CRASHES, dups = DUPS, consume = CONSUME;
bit lost = 0, removing = 0, removed = 0;

inline rows(from, to) {
    k = from;
    do
    :: k < to ->
        assert(!(published & B(k))); /* no row twice */
        published = published | B(k);
        k++
    :: else -> break
    od;
    k = 0
}
/* No gap below the committed point. */
#define COMPLETE(p) ((published & (B(p) - 1)) == B(p) - 1)

/* ---- what the sink does ---- */

inline do_mkdirs(i) { /* [take_mkdirs] */
    if
    :: place[i] == FILE -> res = NO
    :: else -> place[i] = FOLDER; res = OK
    fi
}

inline do_create(t) { /* [stage_create] never overwriting, never making the folder */
    if
#ifdef REUSE_NAME
    :: place[t_inc[t]] == FOLDER && st[t] <= WHOLE -> st[t] = PART; file_id[t]++; res = OK
#else
    :: place[t_inc[t]] == FOLDER && st[t] == 0 -> st[t] = PART; file_id[t]++; res = OK
#endif
    :: else -> res = NO
    fi
}

/* A write that is running when its folder is fenced ends well, in the tomb; its label doesn't. */
inline do_finish(t) { /* [stage_write, stage_finish, label] and the look at its path */
    if
    :: st[t] == PART -> st[t] = WHOLE; res = OK
    :: st[t] == TOMB_PART -> st[t] = TOMB_WHOLE; res = NO
    :: else -> res = NO
    fi
}

inline do_publish(t) { /* [publish_rename] */
    if
    :: (st[t] == PART || st[t] == WHOLE) && slot[t_n[t]] == 0 ->
        assert(st[t] == WHOLE); /* no partial file is ever visible */
        assert(!removed);       /* nothing comes after the end of a partition */
        slot[t_n[t]] = t + 1;
        slot_id[t_n[t]] = file_id[t];
        rows(t_from[t], t_to[t]);
        st[t] = 0;
        res = OK
#ifdef PLAIN_RENAME
    :: (st[t] == PART || st[t] == WHOLE) && slot[t_n[t]] == A_FOLDER -> st[t] = 0; res = OK /* it is inside */
#endif
    :: else -> res = NO
    fi
}

inline do_fence(i) { /* [fence_rename] one step takes the folder away from all that is under way */
    if
    :: place[i] != 0 && tomb[i] == 0 ->
        tomb[i] = place[i];
        place[i] = 0;
        k = 0;
        do
        :: k < NAMES && t_inc[k] == i && (st[k] == PART || st[k] == WHOLE) -> st[k] = st[k] + 2; k++
        :: k < NAMES && !(t_inc[k] == i && (st[k] == PART || st[k] == WHOLE)) -> k++
        :: k == NAMES -> break
        od;
        k = 0;
        res = OK
    :: else -> res = NO
    fi
}

/* All staged files of incarnation i below `low` to `high` go with their folder. */
inline do_drop(i, low, high) {
    k = 0;
    do
    :: k < NAMES && t_inc[k] == i && st[k] >= low && st[k] <= high -> st[k] = 0; k++
    :: k < NAMES && !(t_inc[k] == i && st[k] >= low && st[k] <= high) -> k++
    :: k == NAMES -> break
    od;
    k = 0
}

/* Any of the bits in mask. */
inline pick(mask, x) {
    x = 0;
    do
    :: !(mask & B(x)) -> x++
    :: (mask & B(x)) && (mask >> (x + 1)) -> x++
    :: mask & B(x) -> break
    od
}

active proctype Late() {
    byte i, k, res;
end:
    do
    :: atomic {
        late_mkdirs != 0 ->
        pick(late_mkdirs, i);
        late_mkdirs = late_mkdirs & ~B(i);
        printf("late: take_mkdirs\n");
        do_mkdirs(i);
        i = 0;
        res = 0
    }
    :: atomic {
        late_put != 0 ->
        pick(late_put, i);
        late_put = late_put & ~B(i);
        printf("late: stage_create\n");
        do_create(i);
        if
        :: res == OK -> late_finish = late_finish | B(i)
        :: else
        fi;
        i = 0;
        res = 0
    }
    :: atomic {
        late_finish != 0 ->
        pick(late_finish, i);
        late_finish = late_finish & ~B(i);
        printf("late: stage_finish\n");
        do_finish(i);
        i = 0;
        res = 0
    }
    :: atomic {
        late_publish != 0 ->
        pick(late_publish, i);
        late_publish = late_publish & ~B(i);
        printf("late: publish_rename\n");
        do_publish(i);
        i = 0;
        res = 0
    }
    :: atomic {
        late_fence != 0 ->
        pick(late_fence, i);
        late_fence = late_fence & ~B(i);
        printf("late: fence_rename\n");
        do_fence(i);
        i = 0;
        res = 0
    }
    od
}

/* ---- an owner ---- */

#define SAY(step, how) printf("owner %d, incarnation %d: %e %e\n", me, inc, step, how)

/* One mutation on the sink; `later` puts it among the late ones. A process that dies while it waits knows no more than
 * one that dies before; so this is also each crash between two calls. The last way: it is done, the connection breaks,
 * and whoever stands between sends it again; the second answer is the one that comes. */
#define CALL(step, now, later, copy)                                                                                   \
    atomic {                                                                                                           \
        if                                                                                                             \
        :: now; SAY(step, _done)                                                                                       \
        :: tmo > 0 -> tmo--; later; res = NONE; SAY(step, _no_answer)                                                  \
        :: crashes > 0 -> crashes--; later; SAY(step, _dies); goto start                                               \
        :: dups > 0 -> dups--; now; copy; SAY(step, _and_again_later)                                                  \
        :: dups > 0 -> dups--; now; now; SAY(step, _twice)                                                             \
        fi                                                                                                             \
    }

/* A compare-and-set of the whole record. Each value names its incarnation, which only one owner writes; so the value is
 * the expected one if the incarnation is. An answer that is lost leads back to reading the record. */
#ifdef VERSION_CAS
#define MINE (s[S].there && s[S].gen == gen)
#else
#ifdef NO_TAKE
#define MINE (s[S].there && s[S].gen == gen) /* counts all changes in this mutant */
#else
#define MINE (s[S].there && s[S].inc == inc)
#endif
#endif
#ifdef NO_TAKE
#define CHANGED s[S].inc = inc; s[S].gen++; gen = s[S].gen; s[S].former = former
#else
#define CHANGED skip
#endif
#define COMMIT(t) s[S].n = n + 1; s[S].pos = t_to[t]; s[S].pt = 0; s[S].pf = 0; assert(COMPLETE(s[S].pos))
#define CAS(step, value)                                                                                               \
    atomic {                                                                                                           \
        if                                                                                                             \
        :: !MINE -> res = NO; SAY(step, _refused)                                                                      \
        :: MINE -> value; CHANGED; res = OK; SAY(step, _done)                                                          \
        :: MINE && tmo > 0 -> tmo--; value; CHANGED; res = NONE; SAY(step, _no_answer)                                 \
        :: MINE && crashes > 0 -> crashes--; value; CHANGED; SAY(step, _dies); goto start                              \
        fi                                                                                                             \
    }
/* An owner with another store goes on with this partition: its claim is newer. Of two equal numbers the larger random
 * part is, which is the store's here. */
#if STORES == 1
#define REPLACED false
#define NEWEST_CLAIM 1
#elif defined(UNORDERED_CLAIMS)
#define REPLACED (claim[1 - S] > s[S].knows && (!rebuilding || claimed_alone))
#define NEWEST_CLAIM 1
#else
#define REPLACED (claim[1 - S] > own || (claim[1 - S] == own && own != 0 && S == 0))
#define NEWEST_CLAIM (claim[1 - S] + 1)
#endif
/* The prepared file lies in its tomb. */
#ifdef NO_FILE_ID
#define ENTOMBED (st[pt - 1] >= TOMB_PART)
#else
#define ENTOMBED (st[pt - 1] >= TOMB_PART && file_id[pt - 1] == pf)
#endif
#define UNLESS_OK(where)                                                                                               \
    if                                                                                                                 \
    :: res != OK -> goto where                                                                                         \
    :: else -> res = 0                                                                                                 \
    fi

inline look_for_others() {
    atomic {
        if
        :: REPLACED -> goto over
        :: else
        fi;
        k = former;
#ifndef NO_OTHERS
        i = 1;
        do
        :: i <= INCS ->
            if
            :: i != inc && (place[i] != 0 || tomb[i] != 0) && !(former & B(i)) ->
                former = former | B(i);
                left = left | B(i)
            :: else
            fi;
            i++
        :: else -> break
        od;
        i = 0;
#endif
#ifdef UNORDERED_CLAIMS
        if
        :: rebuilding && k == former && s[S].knows >= claim[1 - S] -> claimed_alone = 1
        :: rebuilding && !claimed_alone && s[S].knows < claim[1 - S] ->
            s[S].knows = claim[1 - S];
            goto again
        :: else
        fi;
#endif
        t = (k != former);
        k = 0
    };
    if
    :: t -> t = 0; CAS(others_cas, s[S].former = former); UNLESS_OK(again)
    :: else
    fi
}

/* The number of the newest final name that is there + 1, or 0. */
inline newest(x) {
    atomic {
        k = 0;
        do
        :: k < ROWS ->
            if
            :: slot[k] != 0 -> x = k + 1
            :: else
            fi;
            k++
        :: else -> break
        od;
        k = 0
    }
}

proctype Owner(byte me) {
    byte inc, gen, former, left, cleaned, n, pos, pt, pf, i, t, k, res;
    byte own;
    bit unused, made, owned, rebuilding, claimed, claimed_alone, yes;

start: /* a new process remembers nothing */
    atomic {
#ifdef REMOVE
        if
        :: me == 1 -> removing = 1
        :: else
        fi;
#endif
        inc = 0; gen = 0; cleaned = 0; unused = 0; made = 0; owned = 0; claimed = 0; claimed_alone = 0
    };

again: /* step 1: the record is read, and taken over. To be refused here and to read again is one more turn. */
    atomic {
        former = 0; left = 0; n = 0; pos = 0; pt = 0; pf = 0; own = 0; rebuilding = 0;
        i = 0; t = 0; k = 0; res = 0; yes = 0;
        if
        :: owned && s[S].inc != inc -> goto over /* another owner has taken over */
        :: !owned && removing && me == 0 -> goto over /* the task's own record says that it is to end */
        :: s[S].there && s[S].pos == ROWS && s[S].pt == 0 -> goto over
        :: else
        fi;
#ifndef NO_TAKE
        if
        :: unused && s[S].inc == inc -> res = OK /* nothing was staged in it: it needs no fence */
        :: else ->
#endif
            if
            :: next_inc > INCS -> goto over
            :: else
            fi;
            former = s[S].former;
            if
            :: s[S].inc != 0 -> former = former | B(s[S].inc)
            :: else
            fi;
            inc = next_inc;
            next_inc++;
            unused = 1;
            made = 0;
            owned = 1;
#ifdef NO_TAKE
            gen = s[S].gen;
            s[S].there = 1;
            res = OK
#else
            s[S].inc = inc; /* [take_cas] */
            s[S].gen++;
            gen = s[S].gen;
            s[S].former = former;
#ifdef REBUILD
            if
            :: !s[S].there && LOST_STORE -> s[S].rebuilding = 1
            :: else
            fi;
#endif
            s[S].there = 1;
            if
            :: res = OK; SAY(take_cas, _done)
            :: tmo > 0 -> tmo--; res = NONE; SAY(take_cas, _no_answer)
            :: crashes > 0 -> crashes--; SAY(take_cas, _dies); goto start
            fi
        fi;
        if
        :: res != OK -> goto again
        :: else
        fi;
        former = s[S].former;
#endif
        left = former & ~(s[S].blocked | cleaned);
        n = s[S].n;
        pos = s[S].pos;
        pt = s[S].pt;
        pf = s[S].pf;
        rebuilding = s[S].rebuilding;
        own = s[S].own;
        res = 0
    };

    if
    :: !made ->
        CALL(take_mkdirs, do_mkdirs(inc), late_mkdirs = late_mkdirs | B(inc), late_mkdirs = late_mkdirs | B(inc));
#ifndef MKDIRS_AGAIN
        unused = (res == OK); /* its name is sent once, too: else a late one could bring a folder back that is in use */
#endif
        UNLESS_OK(again);
        made = 1
    :: else
    fi;

#ifndef NO_CLAIM
    /* The claim comes before the look for others, and the folder of a new incarnation before the look for claims: so
     * either the other store's owner sees the claim, or his folder is seen here. It is newer than all others. */
    if
    :: rebuilding && own == 0 ->
        own = NEWEST_CLAIM;
        CAS(others_cas, s[S].own = own);
        UNLESS_OK(again)
    :: else
    fi;
    if
    :: rebuilding && !claimed ->
        atomic {
            claim[S] = own; /* with [claim_finish], or [claim_barrier] if it was there already */
            if
            :: claimed = 1; SAY(claim_create, _done)
            :: tmo > 0 -> tmo--; SAY(claim_create, _no_answer); goto again
            :: crashes > 0 -> crashes--; SAY(claim_create, _dies); goto start
            fi
        }
    :: else
    fi;
#endif

#ifdef LIST_BEFORE_FENCE
    if
    :: rebuilding -> newest(t)
    :: else
    fi;
#endif
#ifdef LOOK_BEFORE_FENCE
    if
    :: pt != 0 -> yes = (slot[n] == pt && slot_id[n] == pf)
    :: else
    fi;
#endif
#ifdef ONE_LOOK
    look_for_others();
#endif

fence: /* step 6 */
    do
    :: left != 0 ->
        atomic {
            i = 1;
            do
            :: !(left & B(i)) -> i++
            :: else -> break
            od
        };
        CALL(fence_rename, do_fence(i), late_fence = late_fence | B(i), late_fence = late_fence | B(i));
#ifndef NO_WAIT
        if
        :: res == NONE -> goto again
        :: else /* NO: it was fenced before, and then [fence_barrier]; or the folder was never made */
        fi;
#endif
        if
        :: place[i] == FOLDER -> atomic { place[i] = 0; do_drop(i, PART, WHOLE); SAY(revived_remove, _done) }
        :: else
        fi;
        atomic {
            if
            :: place[i] == FOLDER -> goto again
            :: else -> place[i] = FILE /* with [block_finish] */
            fi;
            if
            :: SAY(block_create, _done)
            :: crashes > 0 -> crashes--; SAY(block_create, _dies); goto start
            fi
        };
        atomic { left = left & ~B(i); i = 0; res = 0 }
    :: else -> break
    od;

#ifndef ONE_LOOK
    /* Others that the record doesn't know, until there are none. After the fence: what we fence and clean is older than
     * a claim that comes after this look, so nothing is taken away from its owner. */
    look_for_others();
    if
    :: left != 0 -> goto fence
    :: else
    fi;
#endif

#ifdef REMOVE
    if /* step 7; the late requests of all incarnations find no folder */
    :: me == 1 ->
        atomic {
            i = 1;
            do
            :: i <= INCS -> place[i] = 0; tomb[i] = 0; do_drop(i, PART, TOMB_WHOLE); i++ /* [erase_folder] */
            :: else -> break
            od;
            i = 0;
            if
            :: true
            :: crashes > 0 -> crashes--; goto start
            fi
        };
        CAS(erase_cas, s[S].pos = ROWS; s[S].pt = 0; s[S].inc = 0); /* here: nobody takes it over any more */
        UNLESS_OK(again);
        removed = 1;
        goto over
    :: else
    fi;
#endif

#ifdef REBUILD
    /* After the fence nothing is published: the newest file tells where to go on. [rebuilt_barrier] */
    if
    :: rebuilding ->
        atomic {
#ifndef LIST_BEFORE_FENCE
            newest(t);
#endif
            n = t;
            if
            :: t == 0 -> pos = 0 /* the operator says so: start over */
            :: else -> pos = t_to[slot[t - 1] - 1]
            fi;
            t = 0
        };
        CAS(rebuilt_cas, s[S].n = n; s[S].pos = pos; s[S].rebuilding = 0; assert(COMPLETE(pos)));
        UNLESS_OK(again);
        rebuilding = 0
    :: else
    fi;
#endif

settle: /* Decided by the tomb, and by the file's identity; never by the final name's absence. */
#ifdef EARLY_CLEAN
    atomic {
        i = 1;
        do
        :: i <= INCS ->
            if
            :: former & B(i) -> tomb[i] = 0; do_drop(i, TOMB_PART, TOMB_WHOLE)
            :: else
            fi;
            i++
        :: else -> break
        od;
        i = 0
    };
#endif
    if
    :: pt == 0 -> goto look
    :: else
    fi;
    atomic {
#if defined(BY_FINAL_NAME)
        yes = (slot[n] != 0)
#elif !defined(LOOK_BEFORE_FENCE)
        if
        :: ENTOMBED -> yes = 0
        :: else ->
            if
            :: slot[n] == pt && slot_id[n] == pf -> yes = 1
            :: slot[n] == 0 && tomb[t_inc[pt - 1]] == FOLDER -> yes = 1 /* and a consumer has removed it */
            :: slot[n] == 0 && tomb[t_inc[pt - 1]] != FOLDER ->
                assert(!MINE || REPLACED); /* "somebody has cleaned _osync": nobody has */
                goto over
#ifdef NAME_IS_OURS
            :: else -> yes = 1
#else
            :: else -> goto look
#endif
            fi
        fi
#else
        skip
#endif
    };
    if
    :: yes ->
        CAS(settle_cas, COMMIT(pt - 1)) /* after [settle_barrier] */
    :: else ->
        CAS(forget_cas, s[S].pt = 0; s[S].pf = 0)
    fi;
    UNLESS_OK(again);
    atomic {
        yes = 0;
        pt = 0;
        pf = 0;
        n = s[S].n;
        pos = s[S].pos
    };

look: /* the next slot: after a loss of the store, a file of ours may be there */
    if
    :: pos == ROWS -> goto done
    :: else
    fi;
    atomic {
        if
        :: slot[n] == 0 && pt != 0 -> goto settle
        :: slot[n] == 0 && pt == 0 -> goto clean
        :: slot[n] == A_FOLDER -> goto over /* FAILED, and says so */
        :: slot[n] != 0 && slot[n] != A_FOLDER && t_from[slot[n] - 1] == pos -> t = slot[n] - 1
        :: else ->
            assert(!MINE || REPLACED); /* FAILED: "its label doesn't continue the committed point" */
            goto over
        fi
    };
    CAS(adopt_cas, COMMIT(t)); /* after [adopt_barrier] */
    UNLESS_OK(again);
    atomic { pt = 0; pf = 0; n = s[S].n; pos = s[S].pos; t = 0 };
    goto look;

clean: /* only now, when the record holds what the tombs told. It is stored with the next compare-and-set. */
    atomic {
        i = 1;
        do
        :: i <= INCS ->
            if
            :: (former & ~s[S].blocked) & B(i) -> /* [tomb_remove] */
                tomb[i] = 0;
                do_drop(i, TOMB_PART, TOMB_WHOLE);
                cleaned = cleaned | B(i)
            :: else
            fi;
            i++
        :: else -> break
        od;
        i = 0
    };

work: /* steps 2 and 3: a name used once, in the folder of this incarnation */
    if
    :: pos == ROWS -> goto done
    :: else
    fi;
    atomic {
#ifdef REUSE_NAME
        if
        :: inc - 1 < NAMES -> t = inc - 1
        :: else -> goto over
        fi;
        if
        :: t_inc[t] == 0 || t_n[t] != n ->
#else
        if
        :: next_name == NAMES -> goto over
        :: else ->
            t = next_name;
            next_name++;
#endif
            t_inc[t] = inc;
            t_n[t] = n;
            t_from[t] = pos;
            if
            :: t_to[t] = pos + 1
            :: pos + 2 <= ROWS -> t_to[t] = pos + 2
            fi
#ifdef REUSE_NAME
        :: else
#endif
        fi;
        unused = 0
    };
    CALL(stage_create, do_create(t), late_put = late_put | B(t), late_put = late_put | B(t));
#ifdef REUSE_NAME
    if
    :: res == NONE -> goto work
    :: else
    fi;
#endif
    UNLESS_OK(again);
    CALL(stage_finish, do_finish(t), late_finish = late_finish | B(t), late_put = late_put | B(t));
#ifdef REUSE_NAME
    if
    :: res == NONE -> goto work
    :: else
    fi;
#endif
    UNLESS_OK(again);
    pf = file_id[t];
    CAS(prepare_cas, s[S].pt = t + 1; s[S].pf = pf; s[S].blocked = s[S].blocked | cleaned); /* step 4 */
    UNLESS_OK(again);
    /* step 5 */
    CALL(publish_rename, do_publish(t), late_publish = late_publish | B(t), late_publish = late_publish | B(t));
#ifdef REFUSED_IS_FAILED
    if
    :: res == NO ->
        CAS(forget_cas, s[S].pt = 0; s[S].pf = 0);
        UNLESS_OK(again);
        goto work
    :: else
    fi;
#endif
    UNLESS_OK(again); /* whatever isn't plain success is unknown */
    CAS(commit_cas, COMMIT(t));
    UNLESS_OK(again);
    atomic { n = s[S].n; pos = s[S].pos; pf = 0; t = 0 };
    goto work;

done:
#ifdef REACH
    assert(tmo > 0 || crashes > 0 || dups > 0 || consume > 0);
#endif
    skip;
over:
    skip
}

/* ---- the world around ---- */

#if CONSUME > 0
active proctype Consumer() {
    byte k;
end:
    do
    :: atomic {
        consume > 0 ->
        k = 0;
        do
        :: k < ROWS - 1 -> k++
        :: break
        od;
        if
#ifdef OLD_ONLY
        :: k + 1 < ROWS && slot[k] != 0 && slot[k + 1] != 0 -> consume--; slot[k] = 0; slot_id[k] = 0
#else
        :: slot[k] != 0 -> consume--; slot[k] = 0; slot_id[k] = 0
#endif
        :: else
        fi;
        k = 0
    }
    od
}
#endif

#ifdef LOST
active proctype Loss() {
    atomic {
        if
        :: s[0].there ->
            lost = 1;
            s[0].there = 0; s[0].inc = 0; s[0].gen = 0; s[0].n = 0; s[0].pos = 0; s[0].pt = 0; s[0].pf = 0;
            s[0].former = 0; s[0].blocked = 0; s[0].rebuilding = 0; s[0].own = 0
        :: true
        fi
    }
}
#endif

#ifdef FOREIGN
active proctype Foreigner() {
    atomic {
        if
        :: slot[0] == 0 -> slot[0] = A_FOLDER
        :: true
        fi
    }
}
#endif

init {
    atomic {
        run Owner(0);
        run Owner(1)
    }
}
