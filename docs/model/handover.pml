/* The hand-over of one partition between the scheduler and two collectors (libosync/scheduler/send.c and assign.c,
 * libosync/collector/task.c), for Spin. What it says and what it leaves out: README.md.
 *
 * Points are numbers of rows: the rows from 0 to ROWS-1 are a full sync. The delivery below is only what it promises
 * (commit.pml shows why it holds): what was taken is committed some time, or is gone back to the committed point. The
 * readers are only what they promise, too: from a point that its links cover, a collector gets the rows that follow.
 *
 * Bounds (-D): ROWS, HANDOUTS, TMO SendData or AddSyncTask whose answers don't come (they are done later, or never),
 * CRASHES of each daemon, TROUBLES (the delivery goes back to the committed point).
 * ORIGINAL: collectors that can't rewind and let go of what they were told is done.
 * PURGE: the TabletServer may remove its log at any time: then only links have the rows. */
#ifndef ROWS
#define ROWS 3
#endif
#ifndef HANDOUTS
#define HANDOUTS 3
#endif
#ifndef TMO
#define TMO 1
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef TROUBLES
#define TROUBLES 1
#endif
#define LATE 2  /* requests under way that nobody waits for */
#define NO 99   /* no point */

/* ---- requests and answers ---- */

/* Answers. */
#define NOTHING 0
#define DONE 1
#define AGAIN 2  /* not taken: send it again */
#define RESUME 3 /* read again from `resume` on */
#define DELETE 4
#define REFUSED 5 /* token not match, without more */

typedef send_t { bit there; byte tok, start, next; bit fin };
send_t req[2];      /* of each collector, waited for */
send_t late[LATE];
byte ans[2], ans_cp[2], ans_resume[2];
chan add0 = [HANDOUTS] of { byte, byte }; /* AddSyncTask: token, point */
chan add1 = [HANDOUTS] of { byte, byte };
chan add_ans = [4] of { byte, bit };      /* token, taken */

/* ---- the scheduler ---- */

byte tok = 0, cp = 0;  /* stored */
bit success = 0, unassigned = 1;
byte end = 0, last = NO; /* what was taken; where the last request began */
bit handing = 0, heard = 0, works = 0;
bit proved = 0; /* the collector that has it now has sent rows: it can read from the committed point on */
send_t work;
byte work_of;          /* who waits for it: 0, 1; 2: nobody any more */
byte staged[ROWS], committed[ROWS];

/* ---- the collectors: what is on their disks ---- */

bit has[2];          /* a stored task */
byte c_tok[2], c_cp[2];
byte from[2];        /* links cover the rows from here on */
bit purged = 0;
byte tmo = TMO, s_crashes = CRASHES, c_crashes = CRASHES, troubles = TROUBLES, handouts = 0;

#define COVERS(c) (has[c] && from[c] <= cp)

#define clear(r) r.there = 0; r.tok = 0; r.start = 0; r.next = 0; r.fin = 0
#define fill(r) r.there = 1; r.tok = c_tok[me]; r.start = point; r.next = next; r.fin = fin

/* ---- the scheduler's steps ---- */

inline answer(to, what, whose) {
    if
    :: to < 2 ->
        ans[to] = what;
        ans_cp[to] = (whose -> cp : NO);
        ans_resume[to] = end
    :: else
    fi
}

/* Back to the committed point: a failure of the destination, or a new hand-out. */
inline rewind() {
    k = 0;
    do
    :: k < ROWS -> staged[k] = 0; k++
    :: else -> break
    od;
    k = 0;
#ifndef KEEP_END
    end = cp;
#endif
    last = NO
}

inline commit() {
    k = cp;
    do
    :: k < end -> committed[k] = committed[k] + staged[k]; staged[k] = 0; k++
    :: else -> break
    od;
    cp = end;
    k = 0;
    do
    :: k < ROWS -> assert(committed[k] == (k < cp -> 1 : 0)); assert(staged[k] == 0 || k >= cp); k++
    :: else -> break
    od;
    k = 0;
    printf("scheduler: commits %d\n", cp)
}

/* osync__sched_on_send */
inline handle(r, who) {
    if
    :: success && !(works && r.tok == tok) ->
        if
        :: r.tok == tok && r.fin && r.next == end -> answer(who, DONE, 1)
        :: else -> answer(who, DELETE, 0)
        fi
    :: !(success && !(works && r.tok == tok)) && r.tok != tok ->
        /* Until the new collector has shown that it can read on, the former one keeps its links. */
        if
#if defined(DELETE_AT_ONCE)
        :: false
#elif defined(DELETE_WHEN_ACCEPTED)
        :: handing || unassigned -> answer(who, REFUSED, 0)
#else
        :: !proved -> answer(who, REFUSED, 0)
#endif
        :: else -> answer(who, DELETE, 0)
        fi
    :: !(success && !(works && r.tok == tok)) && r.tok == tok ->
        heard = 1;
        if
        :: works && work.start == r.start && work.next == r.next && work.fin == r.fin ->
            answer(work_of, AGAIN, 1);
            work_of = who
        :: works && !(work.start == r.start && work.next == r.next && work.fin == r.fin) -> answer(who, AGAIN, 1)
        :: !works && r.start != end && !(last == r.start && r.next == end) ->
#ifdef NO_START_CHECK
            works = 1; work.start = r.start; work.next = r.next; work.fin = r.fin; work_of = who
#else
            answer(who, RESUME, 1)
#endif
        :: !works && r.start != end && last == r.start && r.next == end && !r.fin -> answer(who, DONE, 1)
        :: !works && r.start != end && last == r.start && r.next == end && r.fin ->
            works = 1; work.start = end; work.next = end; work.fin = 1; work_of = who
        :: !works && r.start == end && r.start == r.next && !r.fin -> answer(who, DONE, 1)
        :: else ->
            works = 1; work.start = r.start; work.next = r.next; work.fin = r.fin; work_of = who
        fi
    fi
}

inline end_work(what) {
    answer(work_of, what, 1);
    works = 0; work.start = 0; work.next = 0; work.fin = 0; work_of = 0
}

inline hand_out(ch) {
    handouts++;
    tok = handouts; /* [record_put] before it is sent */
    heard = 0;
    proved = 0;
    unassigned = 0;
    handing = 1;
    rewind();
    ch ! tok, cp; /* [add_task] */
    printf("scheduler: hands out token %d from %d\n", tok, cp)
}

active proctype Scheduler() {
    byte k, t;
    bit taken;
end_wait:
    do
    /* SendData; what `handle` answers is [send_answer] */
    :: atomic { req[0].there -> handle(req[0], 0); req[0].there = 0 }
    :: atomic { req[1].there -> handle(req[1], 1); req[1].there = 0 }
    :: atomic { late[0].there -> handle(late[0], 2); clear(late[0]) }
    :: atomic { late[1].there -> handle(late[1], 2); clear(late[1]) }
    /* on_appended */
    :: atomic {
        works && work.next > work.start ->
        k = work.start;
        do
        :: k < work.next -> staged[k] = staged[k] + 1; k++
        :: else -> break
        od;
        k = 0;
        last = work.start;
        proved = 1;
        end = work.next;
        work.start = end; /* what is left is to commit it */
        printf("scheduler: takes rows up to %d\n", end);
        if
#ifdef ORIGINAL
#ifdef ANSWER_EARLY
        :: !work.fin -> end_work(DONE)
#endif
#else
        :: !work.fin -> end_work(DONE)
#endif
#ifdef FINISH_EARLY
        :: work.fin -> success = 1; end_work(DONE)
#endif
        :: else
        fi
    }
    /* on_flushed; then the state is stored, then it is answered */
    :: atomic {
        works && work.next == work.start && end == cp ->
        if
        :: work.fin -> success = 1 /* [record_put] */
        :: else
        fi;
        end_work(DONE)
    }
    :: atomic { end > cp -> commit() } /* [commit_cas] */
    :: atomic {
        troubles > 0 && cp < ROWS ->
        troubles--;
        rewind();
        printf("scheduler: the destination goes back to %d\n", cp);
        if
        :: works -> end_work(AGAIN)
        :: else
        fi
    }
    :: atomic {
        s_crashes > 0 ->
        s_crashes--;
        rewind();
        end = cp;
        works = 0; work.start = 0; work.next = 0; work.fin = 0; work_of = 0;
        handing = 0; heard = 0; proved = 0; unassigned = 1;
        if
        :: tok > 0 -> unassigned = 0
        :: else
        fi;
        printf("scheduler: dies\n")
    }
    /* the collector was silent, or the last hand-out failed */
    :: atomic { !success && !works && !handing && handouts < HANDOUTS -> hand_out(add0) }
    :: atomic { !success && !works && !handing && handouts < HANDOUTS -> hand_out(add1) }
    :: atomic {
        add_ans ? t, taken ->
        if
        :: handing && t == tok -> handing = 0; unassigned = !taken && !heard
        :: else
        fi;
        t = 0;
        taken = 0
    }
    /* no answer came */
    :: atomic { handing && tmo > 0 -> tmo--; handing = 0; unassigned = !heard }
    od
}

/* ---- a collector ---- */

inline drop_links() {
    /* Links that nobody else has are dropped only after the end. */
    assert(cp == 0 || cp == ROWS || !purged || !COVERS(me) || COVERS(1 - me));
    has[me] = 0; /* [task_unlink, folder_remove] */
    c_tok[me] = 0;
    c_cp[me] = 0;
    from[me] = 0;
    runs = 0;
    point = 0;
    next = NO;
    printf("collector %d: removes its folder\n", me)
}

inline take_over(p) { /* link_work */
    if
    :: has[me] && p != 0 -> skip /* the links of the task before are of use */
    :: else -> from[me] = (purged && p != 0 -> ROWS : p) /* from the beginning, any snapshot will do */
    fi;
    has[me] = 1; /* [log_link, file_rename] */
    c_tok[me] = t;
    c_cp[me] = p;
    point = p;
    next = NO;
    runs = 1;
    sent = 0;
    ans[me] = NOTHING;
    req[me].there = 0; /* the call of the task before is canceled */
    add_ans ! t, 1 /* [add_answer] */
}

inline put_late() {
    if
    :: !late[0].there -> fill(late[0])
    :: late[0].there && !late[1].there -> fill(late[1])
    :: else
    fi
}

proctype Collector(byte me; chan adds) {
    byte point, next = NO, t, p;
    bit runs, sent, fin;
end_wait:
    do
    :: atomic {
#ifdef LATE_ADD
        nempty(adds) ->
        if
        :: adds ? t, p
        :: len(adds) > 1 -> adds ? t, p; adds ! t, p; adds ? t, p
        fi;
#else
        adds ? t, p ->
#endif
        take_over(p);
        t = 0; p = 0; fin = 0
    }
    /* A pack of one or two rows; the last one ends the sync. What its links don't cover it can't read, and says so. */
    :: atomic {
        runs && next == NO && from[me] <= point ->
        if
        :: point + 1 <= ROWS -> next = point + 1
        :: point + 2 <= ROWS -> next = point + 2
        :: point == ROWS -> next = ROWS
        fi;
        fin = (next == ROWS)
    }
    :: atomic {
        runs && next != NO && !sent ->
        sent = 1;
        fill(req[me]) /* [send_data] */
    }
    /* The answer doesn't come: the request is with the scheduler, or still under way. */
    :: atomic {
        runs && sent && tmo > 0 ->
        tmo--;
        if
        :: req[me].there -> req[me].there = 0; put_late()
        :: else
        fi;
        ans[me] = NOTHING;
        sent = 0;
        if
        :: works && work_of == me -> work_of = 2
        :: else
        fi
    }
    /* take_answer */
    :: atomic {
        runs && sent && ans[me] != NOTHING ->
        sent = 0;
        if
        :: ans[me] == DELETE -> drop_links()
        :: else ->
            if
#ifdef RELEASE_ALWAYS
            :: ans_cp[me] != NO && ans_cp[me] > c_cp[me] -> c_cp[me] = ans_cp[me]
#else
            :: ans_cp[me] != NO && ans_cp[me] > c_cp[me] && ans[me] != AGAIN ->
                c_cp[me] = ans_cp[me] /* stored, then [log_unlink] */
#endif
            :: ans[me] == DONE || ans[me] == RESUME /* not yet */
            :: else
            fi;
            if
#ifndef ORIGINAL
            :: ans[me] == RESUME -> point = ans_resume[me]; next = NO
#endif
            :: ans[me] == DONE ->
                point = next;
                next = NO;
#if defined(ORIGINAL) || defined(RELEASE_TAKEN)
                c_cp[me] = point;
#endif
                if
                :: fin -> drop_links()
                :: else
                fi
            :: else
            fi;
            fin = 0
        fi;
        ans[me] = NOTHING;
        if
        :: has[me] && from[me] < c_cp[me] ->
            from[me] = c_cp[me];
            assert(from[me] <= cp); /* only what is committed is let go of, */
#ifndef ORIGINAL
            assert(!runs || from[me] <= point) /* and what isn't read any more */
#endif
        :: else
        fi
    }
    :: atomic {
        has[me] && c_crashes > 0 ->
        c_crashes--;
        if
        :: req[me].there -> req[me].there = 0; put_late()
        :: else
        fi;
        if
        :: works && work_of == me -> work_of = 2
        :: else
        fi;
        ans[me] = NOTHING;
        sent = 0;
        fin = 0;
        point = c_cp[me];
        next = NO;
        runs = 1
    }
    /* The scheduler's end of the connection is gone with it. */
    :: atomic {
        runs && sent && !req[me].there && ans[me] == NOTHING && !(works && work_of == me) ->
        sent = 0
    }
    od
}

#ifdef PURGE
active proctype Tablet() { atomic { purged = 1 } }
#endif

init {
    atomic {
        run Collector(0, add0);
        run Collector(1, add1)
    };
#ifdef REACH
    success && cp == ROWS && tmo == 0 && s_crashes == 0 && c_crashes == 0 && troubles == 0 -> assert(false)
#endif
}
