/* One question of a task or a hold to the table source, and the check of what it answers: an embedder's source may be
 * wrong. What the answer is for is the asker's business. Loop thread only. */
#ifndef OSYNC_COLLECTOR_ASK_H
#define OSYNC_COLLECTOR_ASK_H

#include <stdbool.h>
#include <stdint.h>

#include "osync/source.h"
#include "osync/table.h"

typedef struct osync__ask {
    osync_source_t *source; /* borrowed */
    /* What the last answers were; whoever takes one out puts NULL in its place. */
    char *snapshot_dir, *binlog_dir;
    bool memory;
    osync_table_t *table;

    bool open; /* a question, until its `done` */
    bool inside, canceled;
    void (*done)(void *arg, int rc, osync_error_t *err);
    void *arg;
} osync__ask_t;

/* OSYNC_ECONFIG: it can't be asked. */
int osync__ask_check(const osync_source_t *source, osync_error_t *err);

/* Both as the source's own calls: `done` is never called if they fail, else once. One question at a time. */
int osync__ask_files(osync__ask_t *ask, const osync_source_partition_t *partition,
                     void (*done)(void *arg, int rc, osync_error_t *err), void *arg, osync_error_t *err);
int osync__ask_meta(osync__ask_t *ask, const osync_source_partition_t *partition,
                    void (*done)(void *arg, int rc, osync_error_t *err), void *arg, osync_error_t *err);
/* `done` still comes. Nothing is open: nothing happens. */
void osync__ask_cancel(osync__ask_t *ask);
/* Frees what was answered. Nothing may be open. */
void osync__ask_clear(osync__ask_t *ask);

#endif
