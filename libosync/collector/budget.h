/* Who may hold how much: a line of holders before a limited amount, of bytes in flight (packs of rows, CSV) or of
 * places (snapshots that are open). First come, first served, whatever is asked for. The line of bytes also keeps the
 * pace: while reading has cost more bytes or more CPU time than it may, nobody is served.
 *
 * Nothing is allocated and nothing blocks. Loop thread only. */
#ifndef OSYNC_COLLECTOR_BUDGET_H
#define OSYNC_COLLECTOR_BUDGET_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

/* Embedded in whoever holds; zero but for `turn` and `arg`. */
typedef struct osync__holder {
    /* What it waited for is its own now. Called out of another holder's calls: it notes that, or starts a timer, and
     * does no more. */
    void (*turn)(void *arg);
    void *arg;
    uint64_t held;
    /* The budget's: */
    uint64_t wanted, since; /* since: monotonic ms when it came into the line */
    uint64_t foreseen;      /* of the job under way */
    bool waits, paced;      /* paced: a job is under way */
    struct osync__holder *prev, *next;
} osync__holder_t;

typedef struct osync__budget {
    uint64_t limit;
    bool one_beyond;        /* the first of the line that holds nothing is served beyond the limit too, one at a time */
    uint64_t max_read_rate; /* bytes a second; 0: no limit */
    uint32_t max_cpu_percent; /* of one core; 0: no limit */
    /* Its own: */
    uint64_t used;
    osync__holder_t *line;         /* first to be served first */
    const osync__holder_t *beyond; /* who is served beyond the limit */
    const osync__holder_t *asking;
    unsigned under_way; /* paced jobs */
    uint64_t ready_ns;  /* monotonic: nobody is served before it */
    uv_timer_t timer;
} osync__budget_t;

/* Limits are set by the caller before. `loop` NULL: without pace. */
void osync__budget_init(osync__budget_t *budget, uv_loop_t *loop);
/* Nobody waits or holds any more. `closed` (from uv_close, only if there is a loop) gets the timer, whose `data` is
 * `arg`. */
void osync__budget_close(osync__budget_t *budget, uv_close_cb closed, void *arg);

/* Asks for `amount` (0: it is for the pace alone). True: it is held now. False: the holder is in the line, and `turn`
 * tells; to be asked once until then. */
bool osync__budget_take(osync__budget_t *budget, osync__holder_t *holder, uint64_t amount);
/* Holds more without asking (what has become of something that was held: a row larger than a pack, CSV of rows):
 * whoever comes next waits for it. */
void osync__budget_charge(osync__budget_t *budget, osync__holder_t *holder, uint64_t amount);
/* Gives back; the line goes on. */
void osync__budget_give(osync__budget_t *budget, osync__holder_t *holder, uint64_t amount);
/* Leaves the line; what is held stays held. */
void osync__budget_leave(osync__budget_t *budget, osync__holder_t *holder);

/* The job for which `holder` was served is done, and has cost so much: the pace pays it back by waiting. To be called
 * once for each take of a budget with a pace that was served, with zeros if there was no job. */
void osync__budget_done(osync__budget_t *budget, osync__holder_t *holder, uint64_t read_bytes, uint64_t cpu_ns);
/* What something else has cost that nobody had to ask for, as encoding. */
void osync__budget_spent(osync__budget_t *budget, uint64_t read_bytes, uint64_t cpu_ns);

/* How long the first of the line has waited, in ms; 0: nobody waits. */
uint64_t osync__budget_waited(const osync__budget_t *budget);

#endif
