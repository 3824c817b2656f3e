/* The rows of one task, in packs: opens the reader on what is linked, and reads. Blocking; one thread at a time. What
 * follows from a pack, or from a failure, is the task's business (task.c). */
#ifndef OSYNC_COLLECTOR_FEED_H
#define OSYNC_COLLECTOR_FEED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "collector/links.h"
#include "osync/collector.h"
#include "osync/reader.h"
#include "osync/table.h"

typedef struct osync__pack {
    osync__buf_t rows, next; /* next: serialized SyncPoint */
    uint64_t count;
    bool finished;
} osync__pack_t;

void osync__pack_clear(osync__pack_t *pack);

typedef struct osync__feed {
    /* Set by the task; borrowed but for two. */
    const osync_collector_config_t *config;
    const volatile int *cancel;
    osync__links_t links;
    uint64_t link_seen;    /* monotonic ms when the snapshot had been linked */
    osync_table_t *table;  /* owned */
    bool memory;           /* a memory table */
    bool full;             /* ends at the log's end */
    uint64_t start_ts;     /* rows before it are left out */
    size_t token_len;      /* a message holds one besides its rows */
    osync__buf_t from;     /* the serialized SyncPoint where the reader opens, owned */
    uint64_t rows_at_most; /* 0: no limit. Rows that could be read before an error go out first */
    bool look_for_files;   /* before it reads on */
    uint64_t room;         /* bytes of rows that it may read */

    /* What came of it. */
    osync_reader_t *reader; /* NULL: not open */
    uint64_t wait_ms;       /* open: the snapshot is too young, and this is how long; nothing was opened */
    osync__pack_t pack;     /* fill: also after a failure, then without a point */
    bool met_end;
    uint64_t needs; /* fill: 0, or the next row has so many bytes, more than there is room for */
    osync_reader_progress_t progress;

    char *binlog_dir, *data_dir, *scratch_dir;
    bool relinked; /* a snapshot that can't be opened, at the beginning of its traverse */
} osync__feed_t;

/* `dir`: the task's folder. */
int osync__feed_init(osync__feed_t *feed, const osync_collector_config_t *config, const char *dir,
                     const volatile int *cancel);
void osync__feed_free(osync__feed_t *feed);

int osync__feed_open(osync__feed_t *feed, osync_error_t *err);
/* Rows into `pack`, until it is full, the log's end is met, or the time for one pack is up. A failure closes the
 * reader. */
int osync__feed_fill(osync__feed_t *feed, osync_error_t *err);
void osync__feed_close(osync__feed_t *feed);

#endif
