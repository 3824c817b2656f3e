/* Direct writing (docs/delivery.md), the part that writes: packs of rows become staged files in a folder of a sink.
 * Encoding runs on the pool, writing on the loop, both beside each other and beside the reading of the next pack. Knows
 * nothing of tasks, grants and RPC: whoever has a stage reports the files, which nobody else knows of before.
 *
 * A name is used once. A file has the columns of one table description. Whatever fails ends the stage: its owner closes
 * it and reads again. Loop thread only. */
#ifndef OSYNC_COLLECTOR_STAGE_H
#define OSYNC_COLLECTOR_STAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/pool.h"
#include "base/sys.h"
#include "collector/budget.h"
#include "collector/feed.h"
#include "collector/places.h"

typedef struct osync__stage osync__stage_t;

typedef struct osync__stage_config {
    uv_loop_t *loop;
    osync__pool_t *pool;
    osync__place_t *place;     /* shared */
    osync__budget_t *budget;   /* is told what encoding costs; NULL: nobody is */
    const char *folder;        /* it is there, and never made; copied */
    const char *timezone;      /* of the CSV; NULL: the machine's; copied */
    uint64_t roll_bytes;       /* a file is ended when it holds as much, */
    uint32_t roll_interval_ms; /* and this long after its first row */
    /* A pack can be taken, a file is whole, or the stage has failed. Never from inside of a call. */
    void (*changed)(void *arg);
    void *arg;
} osync__stage_config_t;

/* A file that is whole, or, without bytes, only the point that was reached. */
typedef struct osync__staged {
    char attempt[OSYNC__ID_SIZE]; /* its name */
    uint64_t rows, bytes;
    osync__buf_t next; /* serialized SyncPoint where it ends */
    bool finished;     /* it ends a full sync */
} osync__staged_t;

void osync__staged_clear(osync__staged_t *staged);

int osync__stage_new(const osync__stage_config_t *config, osync__stage_t **out);
/* Ends it. What is under way is waited for, not the network; then `closed` (never from inside). A file that wasn't
 * taken is removed, if that is possible. */
void osync__stage_close(osync__stage_t *stage, void (*closed)(void *arg), void *arg);

/* True if it takes a pack now. */
bool osync__stage_has_room(const osync__stage_t *stage);
/* Takes what is in `pack`, whose rows `table` describes (it is shared). */
void osync__stage_add(osync__stage_t *stage, osync__pack_t *pack, osync_table_t *table);
/* Where the newest pack that it holds ends; NULL if it holds none. */
const osync__buf_t *osync__stage_point(const osync__stage_t *stage);
/* Ends the file that is open, as soon as what it holds is written. */
void osync__stage_flush(osync__stage_t *stage);

/* Takes the file that is whole out; the next one goes on. False: there is none. */
bool osync__stage_take(osync__stage_t *stage, osync__staged_t *out);

typedef enum osync__stage_failure {
    OSYNC__STAGE_GOES_ON,
    OSYNC__STAGE_SINK,   /* a call of the sink has failed */
    OSYNC__STAGE_ENCODER /* the next rows can't be encoded; all before them was taken out */
} osync__stage_failure_t;
/* `err` is set if it has failed. */
osync__stage_failure_t osync__stage_failed(const osync__stage_t *stage, osync_error_t *err);

typedef struct osync__stage_size {
    uint64_t rows, bytes; /* of the file that is being written, or is whole */
    uint64_t memory;      /* bytes of rows and CSV that wait to be written */
} osync__stage_size_t;
void osync__stage_size(const osync__stage_t *stage, osync__stage_size_t *out);

#endif
