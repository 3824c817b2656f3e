/* A pool of worker threads of the library's own. libuv's pool has four threads that are shared with name look-ups and
 * with the embedder; a long traverse there would hold up everybody. */
#ifndef OSYNC_BASE_POOL_H
#define OSYNC_BASE_POOL_H

#include <uv.h>

#include "osync/error.h"

typedef struct osync__pool osync__pool_t;

/* Embedded in the caller's own struct; memory is the caller's until `done` has run. */
typedef struct osync__job {
    void (*work)(struct osync__job *job); /* on a worker */
    void (*done)(struct osync__job *job); /* on the loop's thread, always, exactly once */
    void *arg;                            /* the caller's */
    uint64_t cpu_ns;                      /* CPU time that `work` has taken */
    struct osync__job *next;              /* the pool's */
} osync__job_t;

/* Starts `threads` workers. Keeps the loop alive only while a job is under way. */
int osync__pool_new(uv_loop_t *loop, unsigned threads, osync__pool_t **out, osync_error_t *err);
/* Queues a job; jobs start in order. Loop thread only. */
void osync__pool_submit(osync__pool_t *pool, osync__job_t *job);
/* Runs what is queued, then ends the threads; `closed` runs on the loop's thread, after which the pool is freed. */
void osync__pool_close(osync__pool_t *pool, void (*closed)(void *arg), void *arg);

#endif
