/* Direct writing (docs/delivery.md), the part that a task has in it: the grant of its scheduler, the stage that writes
 * (stage.c), the staged file that is being reported, and the way back to rows in attachments when writing fails. */
#ifndef OSYNC_COLLECTOR_DIRECT_H
#define OSYNC_COLLECTOR_DIRECT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "collector/internal.h"
#include "collector/places.h"
#include "collector/stage.h"

typedef struct osync__direct {
    char stager[OSYNC__ID_SIZE]; /* this task's alone; a new one gets a new folder */
    bool asked;                  /* the SendData that is open, or the last one, said that it would write */
    bool refused;                /* the scheduler took such a one and granted nothing */

    Openmldb__Datasync__StageGrant *grant; /* NULL: none */
    osync__place_t *place;                 /* of the grant */
    osync__stage_t *stage;                 /* NULL until there are rows */
    unsigned stages;                       /* that aren't closed yet */
    /* A whole file, which the stage has no part in any more. Once it was sent it is the scheduler's: only he knows
     * whether it was published (A13). */
    osync__staged_t file;
    bool has_file, sent;

    unsigned failures;     /* without a committed file in between */
    uint32_t delay;        /* the last pause after one */
    uint64_t retry_at;     /* monotonic ms: nothing is staged before it */
    uint64_t proxy_until;  /* likewise: rows go in attachments */
    bool maybe_fenced;     /* the folder was gone: a failure, if the next answer grants the same again */
    osync_error_t problem; /* code 0: none */
} osync__direct_t;

/* True if the next SendData is to say that it would write. */
bool osync__direct_wants(const osync__task_t *t);
/* True if packs[0] is to go in a SendData: in attachments, or it has no rows and nothing before it is staged. */
bool osync__direct_leaves_pack(const osync__task_t *t);
/* True if the scheduler is to be asked now. */
bool osync__direct_asks(const osync__task_t *t);
/* Gives packs to the stage, and takes the file that is whole out of it. */
void osync__direct_feed(osync__task_t *t);
/* True if it has rows, or points, that were read and not accepted. */
bool osync__direct_has_rows(const osync__task_t *t);
/* Where they end; NULL if there are none. */
const osync__buf_t *osync__direct_end_point(const osync__task_t *t);

/* Bytes of rows and CSV that wait to be written. */
uint64_t osync__direct_memory(const osync__task_t *t);

/* A SendData that asked was answered; `grant` may be NULL. */
void osync__direct_answered(osync__task_t *t, const Openmldb__Datasync__StageGrant *grant, bool taken);
/* The file was committed. */
void osync__direct_committed(osync__task_t *t);
/* What is staged is void: it is read again. */
void osync__direct_void(osync__task_t *t);
/* The same, at the end of the task; nothing is staged any more. */
void osync__direct_end(osync__task_t *t);

#endif
