/* An audit of the committed files of one table in one destination: is the row of files of each partition whole, and is
 * each file what its label says? It reads only, one file at a time, so that it needs little memory however much there
 * is. Knows nothing of the scheduler's objects. Loop thread only; rows are counted on the pool. */
#ifndef OSYNC_SCHEDULER_AUDIT_H
#define OSYNC_SCHEDULER_AUDIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "base/pool.h"
#include "osync/sink.h"

typedef struct osync__audit osync__audit_t;

typedef struct osync__audit_result {
    int status; /* 0: it was carried through, whatever it has found; else `err` says why not */
    osync_error_t err;
    char **lines; /* the report */
    size_t n_lines;
    uint64_t files, rows, bytes; /* that are there */
    uint64_t holes;              /* files that are missing between others, or behind them */
    uint64_t wrong;              /* files that are not what they should be */
} osync__audit_result_t;

typedef struct osync__audit_config {
    uv_loop_t *loop;
    osync__pool_t *pool; /* borrowed, as the sink is */
    osync_sink_t *sink;
    const char *dest; /* the folder, absolute within the sink */
    const char *db, *name;
    bool quick; /* the content isn't read */
    bool (*has_task)(void *arg,
                     const char *id); /* whether whoever asks has this task; its staged files are no leftovers */
    void (*done)(void *arg, const osync__audit_result_t *result); /* the audit is freed after it */
    void *arg;
} osync__audit_config_t;

/* Strings are copied. */
int osync__audit_new(const osync__audit_config_t *config, osync__audit_t **out);
/* A partition's record in the checkpoint store (delivery/record.h), read before the audit begins: what it says is
 * committed must be there. */
int osync__audit_know(osync__audit_t *audit, const char *task_id, uint32_t pid, const void *record, size_t len,
                      osync_error_t *err);
/* `done` comes once, never from inside. */
void osync__audit_run(osync__audit_t *audit);
/* Ends one that runs, soon: `done` comes with OSYNC_ECANCELED. Calls on the sink that are under way are waited for. */
void osync__audit_cancel(osync__audit_t *audit);
/* Of one that was never run. */
void osync__audit_free(osync__audit_t *audit);

#endif
