/* Direct writing of one partition (docs/delivery.md, "Direct writing"; libosync/collector/stage.c, direct.c and send.c,
 * libosync/delivery/, libosync/scheduler/direct.c and send.c), for Spin: a collector stages files, the scheduler
 * publishes them. What it says and what it leaves out: README.md. commit.pml shows that the steps of a commit are right
 * among several owners; here there is one scheduler, which dies at any step, and what is asked is whether somebody else
 * may stage.
 *
 * Names in brackets are those of libosync/base/failpoint.def: the step of the code that a step here stands for.
 *
 * Rows are numbers, a file holds one or two of them. Each start of a collector, and each hand-out to it, is a stager of
 * its own. The one that lost the partition is a zombie, and may be as slow as it likes. A request to the sink is done
 * and answered in one step; or it gets no answer and is done at any later time, or never; or it is done now and once
 * more later. A report gets no answer, and comes later, or never; its repetition comes all the same, so it may come
 * twice.
 *
 * Bounds (-D): ROWS, INCS incarnations, NAMES staged names, HANDOUTS, TMO answers that don't come, CRASHES of the
 * scheduler, DEATHS of collectors, DUPS requests to the sink that are done twice, ROWS_TOO (rows that the collector
 * sends by way of the scheduler). Mutants: see README.md; each leaves one rule out. REACH: fails when all rows are
 * committed after every fault. */
#ifndef ROWS
#define ROWS 2
#endif
#ifndef INCS
#define INCS 4
#endif
#ifndef NAMES
#define NAMES 4
#endif
#ifndef HANDOUTS
#define HANDOUTS 2
#endif
#ifndef TMO
#define TMO 1
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef DUPS
#define DUPS 0
#endif
#ifndef ROWS_TOO
#define ROWS_TOO 0
#endif
#define B(i) (1 << (i))

mtype = { /* the steps, by their names in libosync/base/failpoint.def */
    direct_create, direct_finish, stage_remove, send_staged,
    take_cas, take_mkdirs, fence_rename, forget_cas, settle_cas, label, prepare_cas, publish_rename, commit_cas,
    /* and how they go */
    _done, _no_answer, _dies, _and_again_later
};

/* Answers of the sink. NONE: unknown. */
#define OK 1
#define REFUSED 2
#define NONE 3
#define LATE 2 /* reports under way that nobody waits for */
#define NO 99  /* no point */

/* ---- the sink ---- */

#define FOLDER 1
#define BLOCKED 2
byte place[INCS + 1]; /* <incarnation>: its folder, or the empty file that blocks the name; its tomb is there then */

/* Staged files by name. Where: in their incarnation's folder, or in its tomb. */
#define PART 1
#define WHOLE 2
#define TOMB_PART 3
#define TOMB_WHOLE 4
byte st[NAMES];
byte file_id[NAMES]; /* how often a file of this name was made: another file each time */
byte t_inc[NAMES], t_who[NAMES], t_from[NAMES], t_to[NAMES];
byte slot[ROWS]; /* final names: a staged name + 1 */

/* Requests under way whose senders don't wait any more. */
byte late_put, late_finish, late_remove, late_publish;

/* ---- the store ---- */

byte inc = 0, n = 0, pos = 0; /* the incarnation, the next file, the committed point */
byte pt = 0, pf = 0;          /* prepared: staged name + 1, file id */
byte fenced = 0;              /* incarnations that need no fence any more */

/* ---- the scheduler's memory ---- */

byte tok = 0;    /* stored, too */
byte taken = 0;  /* up to where rows were taken */
byte last = NO;  /* where the last request began */
byte holder = 0; /* the stager whom this incarnation is granted to */
bit ready = 0;

/* ---- requests and answers ---- */

#define NOTHING 0
#define DONE 1
#define AGAIN 2  /* not taken; with a grant, or without one */
#define RESUME 3 /* read again from `ans_end` on */
#define OVER 4   /* another token */
#define ASK 0    /* a sign of life: no file */
#define ROW 100  /* a row in an attachment */

typedef send_t { byte what, tok, who, inc, start }; /* what: ASK, ROW, or a staged name + 1. tok 0: there is none */
send_t req[2];     /* of each collector, waited for */
send_t late[LATE];
byte ans[2], ans_end[2], ans_inc[2]; /* ans_inc 0: no grant */
byte add_tok[2], add_point[2];       /* AddSyncTask, on its way */

/* ---- what the properties are about ---- */

byte published; /* rows that were visible ever */
byte next_inc = 1, next_name = 0, next_who = 1, handouts = 0;
byte tmo = TMO, s_crashes = CRASHES, c_crashes = DEATHS, dups = DUPS, rows_too = ROWS_TOO;

#define COMPLETE(p) ((published & (B(p) - 1)) == B(p) - 1)

inline rows(a, z) {
    k = a;
    do
    :: k < z ->
        assert(!(published & B(k))); /* no row twice */
        published = published | B(k);
        k++
    :: else -> break
    od;
    k = 0
}

/* ---- what the sink does ---- */

inline do_create(t) { /* never overwriting, never making the folder */
    if
    :: place[t_inc[t]] == FOLDER && st[t] == 0 ->
        st[t] = PART;
        file_id[t]++;
        assert(!ready || inc != t_inc[t] || holder == t_who[t]); /* nothing of who was given up, where others write */
        res = OK
    :: else -> res = REFUSED
    fi
}

/* A write that is running when its folder is fenced ends well, in the tomb. */
inline do_finish(t) {
    if
    :: st[t] == PART -> st[t] = WHOLE; res = OK
    :: st[t] == TOMB_PART -> st[t] = TOMB_WHOLE; res = OK
    :: else -> res = REFUSED
    fi
}

inline do_remove(t) {
    if
    :: st[t] == PART || st[t] == WHOLE -> st[t] = 0
    :: else
    fi;
    res = OK
}

inline do_publish(t) {
    if
    :: (st[t] == PART || st[t] == WHOLE) && slot[n] == 0 ->
        assert(st[t] == WHOLE); /* no partial file is ever visible */
        slot[n] = t + 1;
        rows(t_from[t], t_to[t]);
        st[t] = 0;
        res = OK
    :: else -> res = REFUSED
    fi
}

inline do_fence(i) { /* one step takes the folder away from all that is under way, and its name is blocked */
    if
    :: place[i] == FOLDER ->
        k = 0;
        do
        :: k < NAMES ->
            if
            :: t_inc[k] == i && (st[k] == PART || st[k] == WHOLE) -> st[k] = st[k] + 2
            :: else
            fi;
            k++
        :: else -> break
        od;
        k = 0
    :: else
    fi;
    place[i] = BLOCKED
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
    byte t, k, res;
end:
    do
    :: atomic {
        late_put != 0 ->
        pick(late_put, t);
        late_put = late_put & ~B(t);
        printf("late: direct_create %d\n", t);
        do_create(t);
        if
        :: res == OK -> late_finish = late_finish | B(t)
        :: else
        fi;
        t = 0;
        res = 0
    }
    :: atomic {
        late_finish != 0 ->
        pick(late_finish, t);
        late_finish = late_finish & ~B(t);
        printf("late: direct_finish %d\n", t);
        do_finish(t);
        t = 0;
        res = 0
    }
    :: atomic {
        late_remove != 0 ->
        pick(late_remove, t);
        late_remove = late_remove & ~B(t);
        printf("late: stage_remove %d\n", t);
        do_remove(t);
        t = 0;
        res = 0
    }
    :: atomic {
        late_publish != 0 ->
        pick(late_publish, t);
        late_publish = late_publish & ~B(t);
        printf("late: publish_rename %d\n", t);
        do_publish(t);
        t = 0;
        res = 0
    }
    od
}

/* ---- the scheduler ---- */

#define SAYS(step, how) printf("scheduler, incarnation %d: %e %e\n", inc, step, how)

#define DIE ready = 0; goto start
/* It dies before a step or after it, and starts again; or the answer to it doesn't come. */
#define STEP(step, now)                                                                                                \
    if                                                                                                                 \
    :: now; SAYS(step, _done)                                                                                          \
    :: s_crashes > 0 -> s_crashes--; SAYS(step, _dies); DIE                                                            \
    :: s_crashes > 0 -> s_crashes--; now; SAYS(step, _done); SAYS(step, _dies); DIE                                    \
    fi
#define CAS(step, now)                                                                                                 \
    if                                                                                                                 \
    :: now; SAYS(step, _done)                                                                                          \
    :: tmo > 0 -> tmo--; now; SAYS(step, _no_answer); goto trouble                                                     \
    :: s_crashes > 0 -> s_crashes--; SAYS(step, _dies); DIE                                                            \
    :: s_crashes > 0 -> s_crashes--; now; SAYS(step, _done); SAYS(step, _dies); DIE                                    \
    fi
#define COMMIT(to) n++; pos = to; pt = 0; pf = 0; assert(COMPLETE(pos))

inline answer(to, what) {
    if
    :: to < 2 ->
        ans[to] = what;
        ans_end[to] = taken;
        ans_inc[to] = (ready && holder != 0 && holder == r.who -> inc : 0)
    :: else
    fi
}

#ifdef NO_INCARNATION_CHECK
#define GRANTED true
#else
#define GRANTED (r.inc == inc && holder == r.who)
#endif
/* osync__sched_on_send. Leaves in t what is to be adopted, and in regrant whether another incarnation is needed. */
inline handle(c) {
    if
    :: r.tok != tok -> answer(c, OVER)
    :: r.tok == tok && !ready -> answer(c, AGAIN)
    :: r.tok == tok && ready && r.what == ASK ->
        if
#ifndef SAME_INCARNATION
        :: holder != 0 && holder != r.who -> regrant = 1; ready = 0
#endif
        :: else -> holder = r.who
        fi;
        answer(c, AGAIN)
    :: r.tok == tok && ready && r.what == ROW ->
        if
        :: r.start == taken -> taken++; last = r.start; answer(c, DONE)
        :: r.start != taken && r.start == last && r.start + 1 == taken -> answer(c, DONE)
        :: else -> answer(c, RESUME)
        fi
    :: r.tok == tok && ready && r.what != ASK && r.what != ROW ->
        if
        :: r.start == last && t_to[r.what - 1] == taken -> answer(c, DONE) /* it was committed, and answered */
#ifndef NO_START_CHECK
        :: r.start != taken && !(r.start == last && t_to[r.what - 1] == taken) -> answer(c, RESUME)
        :: r.start == taken && !GRANTED -> answer(c, AGAIN)
#else
        :: !(r.start == last && t_to[r.what - 1] == taken) && !GRANTED -> answer(c, AGAIN)
#endif
        :: else -> t = r.what; by = c
        fi
    fi
}

inline clear(r) { r.what = 0; r.tok = 0; r.who = 0; r.inc = 0; r.start = 0 }
inline copy(from, into) {
    into.what = from.what; into.tok = from.tok; into.who = from.who; into.inc = from.inc; into.start = from.start
}

/* What it has staged itself, of rows in attachments, becomes a file. commit.pml shows how. */
inline commit_own() {
    if
    :: taken > pos -> slot[n] = NAMES + 1; rows(pos, taken); COMMIT(taken)
    :: else
    fi
}

inline hand_out(c) {
    handouts++;
    tok = handouts;
    add_tok[c] = tok;
    add_point[c] = pos;
    taken = pos; /* osync__delivery_rewind */
    last = NO;
    printf("scheduler: hands out token %d to %d from %d\n", tok, c, pos)
}

active proctype Scheduler() {
    send_t r;
    byte t, k, i, res, by;
    bit regrant, yes;

start: /* a new process remembers nothing but what is stored */
    atomic {
        t = 0; k = 0; i = 0; res = 0; by = 2; regrant = 0; yes = 0; clear(r);
        holder = 0
    };
trouble: /* steps 1 and 6 */
    atomic {
        if
        :: t != 0 && by < 2 -> copy(req[by], r); ready = 0; answer(by, AGAIN); clear(req[by])
        :: else
        fi;
        ready = 0; t = 0; regrant = 0; by = 2; clear(r);
        taken = pos; last = NO;
        if
        :: next_inc > INCS -> goto over
        :: else
        fi;
        holder = 0;
        STEP(take_cas, inc = next_inc; next_inc++);
        STEP(take_mkdirs, place[inc] = FOLDER)
    };
    do
    :: atomic {
        fenced != B(inc) - 2 ->
        i = 1;
        do
        :: fenced & B(i) -> i++
        :: else -> break
        od;
        STEP(fence_rename, do_fence(i)); /* with [block_create] */
        fenced = fenced | B(i);
        i = 0
    }
    :: atomic { fenced == B(inc) - 2 -> break }
    od;
    atomic {
        if /* decided by the tomb, and by the file's identity */
        :: pt != 0 && st[pt - 1] >= TOMB_PART && file_id[pt - 1] == pf -> CAS(forget_cas, pt = 0; pf = 0)
        :: pt != 0 && !(st[pt - 1] >= TOMB_PART && file_id[pt - 1] == pf) -> CAS(settle_cas, COMMIT(t_to[pt - 1]))
        :: else
        fi;
        k = 0;
        do
        :: k < NAMES -> /* [tomb_remove] */
            if
            :: st[k] >= TOMB_PART -> st[k] = 0
            :: else
            fi;
            k++
        :: else -> break
        od;
        k = 0;
        taken = pos;
        ready = 1
    };

end_work:
    do
    :: atomic { req[0].tok != 0 -> copy(req[0], r); handle(0); if :: t == 0 -> clear(req[0]) :: else fi; break }
    :: atomic { req[1].tok != 0 -> copy(req[1], r); handle(1); if :: t == 0 -> clear(req[1]) :: else fi; break }
    :: atomic { late[0].tok != 0 -> copy(late[0], r); handle(2); clear(late[0]); break }
    :: atomic { late[1].tok != 0 -> copy(late[1], r); handle(2); clear(late[1]); break }
    :: atomic { taken > pos -> commit_own() }
    :: atomic { handouts < HANDOUTS && pos < ROWS -> hand_out(0) }
    :: atomic { handouts < HANDOUTS && pos < ROWS -> hand_out(1) }
    :: atomic { s_crashes > 0 -> s_crashes--; printf("scheduler: dies\n"); DIE }
    :: atomic { pos == ROWS -> goto over }
    od;
    if
    :: regrant -> goto trouble
    :: t == 0 -> goto end_work
    :: else
    fi;

    /* A whole staged file: steps 3 to 5 (osync__delivery_adopt). */
#ifndef ADOPT_OPEN
    atomic { commit_own(); t = t - 1 };
#else
    t = t - 1;
#endif
    atomic {
        printf("scheduler: adopts file %d\n", t);
        yes = (place[inc] == FOLDER && t_inc[t] == inc && st[t] == WHOLE);
#ifdef TRUST_REPORT
        yes = 1;
#else
#if !defined(NO_START_CHECK) && !defined(REMOVE_REPORTED)
        assert(yes); /* what is adopted is there: what is over disturbs nobody */
#endif
        if
        :: !yes -> t = t + 1; goto trouble
        :: else
        fi;
#endif
        pf = 0;
        k = file_id[t];
        t = t + 1;
        if
        :: true /* [label], and a look at its length and id */
        :: tmo > 0 -> tmo--; k = 0; SAYS(label, _no_answer); goto trouble
        :: s_crashes > 0 -> s_crashes--; printf("scheduler: dies\n"); DIE
        fi
    };
    atomic { CAS(prepare_cas, pt = t; pf = k); k = 0 };
    atomic {
        if
        :: do_publish(t - 1); SAYS(publish_rename, _done)
        :: tmo > 0 -> tmo--; late_publish = late_publish | B(t - 1); res = NONE; SAYS(publish_rename, _no_answer)
        :: s_crashes > 0 ->
            s_crashes--;
            late_publish = late_publish | B(t - 1);
            SAYS(publish_rename, _dies);
            DIE
        :: dups > 0 ->
            dups--;
            do_publish(t - 1);
            late_publish = late_publish | B(t - 1);
            SAYS(publish_rename, _and_again_later)
        fi;
        if
        :: res != OK -> res = 0; goto trouble
        :: else -> res = 0
        fi
    };
    atomic {
        yes = 0;
        CAS(commit_cas, COMMIT(t_to[t - 1]));
        last = t_from[t - 1];
        taken = pos;
        if
        :: by < 2 && req[by].tok != 0 && req[by].what == t ->
            copy(req[by], r);
            answer(by, DONE);
            clear(req[by])
        :: else
        fi;
        clear(r);
        t = 0;
        by = 2
    };
    goto end_work;
over:
    skip
}

/* ---- a collector ---- */

#define SAY(step, file, how) printf("collector %d, stager %d, file %d: %e %e\n", me, who, file, step, how)

inline put_late() {
    if
    :: late[0].tok == 0 -> copy(req[me], late[0])
    :: late[0].tok != 0 && late[1].tok == 0 -> copy(req[me], late[1])
    :: true /* it is lost */
    fi
}

/* A file that nobody was told of is removed, if it works. */
inline drop(t) {
    if
    :: t != 0 ->
        if
        :: do_remove(t - 1); SAY(stage_remove, t - 1, _done)
        :: tmo > 0 -> tmo--; late_remove = late_remove | B(t - 1); SAY(stage_remove, t - 1, _no_answer)
        fi;
        t = 0;
        res = 0
    :: else
    fi
}

/* The open file and the reported one are given up; the rows are read again. */
inline void_all() {
    drop(open);
    drop(ahead);
#ifndef REMOVE_REPORTED
    if
    :: cur != 0 && !told -> drop(cur)
    :: else
    fi;
#else
    drop(cur);
#endif
    cur = 0;
    told = 0
}

inline forget() { open = 0; made = 0; ahead = 0; cur = 0; told = 0; sent = 0; granted = 0; ans[me] = NOTHING }

inline take_back_request() {
    if
    :: req[me].tok != 0 -> put_late(); clear(req[me])
    :: else
    fi
}

proctype Collector(byte me) {
    byte my_tok, who, point, granted, res, at, t;
    byte open, ahead, cur; /* staged names + 1: being written, written and not yet reported, to be reported */
    bit made, told, sent;
end_wait:
    do
    /* A hand-out makes another stager of it; what the former one had is left to the scheduler. */
    :: atomic {
        add_tok[me] != 0 ->
        take_back_request();
        forget();
        my_tok = add_tok[me];
        point = add_point[me];
        add_tok[me] = 0;
        add_point[me] = 0;
        who = next_who;
        next_who++
    }
    :: atomic {
        my_tok != 0 && c_crashes > 0 ->
        c_crashes--;
        printf("collector %d: dies\n", me);
        take_back_request();
        if
        :: open != 0 && !made -> late_put = late_put | B(open - 1)
        :: open != 0 && made -> late_finish = late_finish | B(open - 1)
        :: true
        fi;
        forget();
        who = next_who;
        next_who++
    }
    /* The next file: behind the reported one, if there is one. */
    :: atomic {
        my_tok != 0 && granted != 0 && open == 0 && ahead == 0 && next_name < NAMES &&
            (cur != 0 -> t_to[cur - 1] : point) < ROWS ->
        at = (cur != 0 -> t_to[cur - 1] : point);
        t = next_name;
        t_inc[t] = granted;
        t_who[t] = who;
        t_from[t] = at;
        if
        :: t_to[t] = at + 1
        :: at + 2 <= ROWS -> t_to[t] = at + 2
        fi;
        at = 0;
        open = t + 1;
        t = 0;
        next_name++
    }
    :: atomic {
        open != 0 && !made ->
        if
        :: do_create(open - 1); SAY(direct_create, open - 1, _done)
        :: tmo > 0 -> tmo--; late_put = late_put | B(open - 1); res = NONE; SAY(direct_create, open - 1, _no_answer)
        :: dups > 0 ->
            dups--;
            do_create(open - 1);
            late_put = late_put | B(open - 1);
            SAY(direct_create, open - 1, _and_again_later)
        fi;
        if
        :: res == OK -> made = 1
        :: res == REFUSED -> open = 0; granted = 0
        :: else -> drop(open); granted = 0 /* a name is used once */
        fi;
        res = 0
    }
    :: atomic {
        open != 0 && made ->
        if
        :: do_finish(open - 1); SAY(direct_finish, open - 1, _done)
        :: tmo > 0 ->
            tmo--;
            late_finish = late_finish | B(open - 1);
            res = NONE;
            SAY(direct_finish, open - 1, _no_answer)
        fi;
        made = 0;
        if
        :: res == OK && cur == 0 -> cur = open; open = 0
        :: res == OK && cur != 0 -> ahead = open; open = 0
        :: else -> drop(open); granted = 0
        fi;
        res = 0
    }
    /* [send_staged], or a sign of life that asks for a grant [send_data], or a row */
    :: atomic {
        my_tok != 0 && !sent && (cur != 0 || granted == 0) && point < ROWS ->
        if
        :: cur != 0 ->
            req[me].what = cur; req[me].start = t_from[cur - 1]; req[me].inc = t_inc[cur - 1]; told = 1;
            SAY(send_staged, cur - 1, _done)
        :: cur == 0 && granted == 0 && open == 0 -> req[me].what = ASK
        :: cur == 0 && granted == 0 && open == 0 && rows_too > 0 ->
            rows_too--;
            req[me].what = ROW;
            req[me].start = point
        fi;
        req[me].tok = my_tok;
        req[me].who = who;
        sent = 1
    }
    :: atomic {
        sent && ans[me] == NOTHING && tmo > 0 -> /* the same is sent again */
        tmo--;
        printf("collector %d: no answer to its request\n", me);
        take_back_request();
#ifdef REMOVE_REPORTED
        void_all();
#endif
        sent = 0
    }
    /* The scheduler's end of the connection is gone with it. */
    :: atomic { sent && req[me].tok == 0 && ans[me] == NOTHING -> sent = 0 }
    :: atomic {
        sent && ans[me] != NOTHING ->
        if
        :: ans[me] == OVER -> drop(open); drop(ahead); forget(); my_tok = 0
        :: ans[me] == DONE && cur != 0 ->
            point = t_to[cur - 1];
            cur = ahead;
            ahead = 0;
            told = 0
        :: ans[me] == DONE && cur == 0 -> point = ans_end[me]
        :: ans[me] == RESUME -> void_all(); made = 0; point = ans_end[me]
        :: ans[me] == AGAIN && ans_inc[me] != granted -> void_all(); made = 0; point = ans_end[me]
        :: ans[me] == AGAIN && ans_inc[me] == granted && granted == 0 -> point = ans_end[me]
        :: else /* the same again */
        fi;
        granted = (ans[me] == OVER -> 0 : ans_inc[me]);
        if
        :: granted == 0 && (open != 0 || ahead != 0 || cur != 0) -> void_all(); made = 0
        :: else
        fi;
        ans[me] = NOTHING;
        ans_end[me] = 0;
        ans_inc[me] = 0;
        sent = 0
    }
    od
}

init {
    atomic {
        run Collector(0);
        run Collector(1)
    };
#ifdef REACH
end_all:
    pos == ROWS && tmo == 0 && s_crashes == 0 && c_crashes == 0 && dups == 0 && rows_too == 0 && handouts == HANDOUTS ->
    assert(false)
#endif
}
