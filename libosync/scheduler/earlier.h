/* What a destination holds of sync tasks: files part-<task id>-<pid>-<n>.csv, whose labels say which table's they are.
 * It is only read here. Loop thread only. */
#ifndef OSYNC_SCHEDULER_EARLIER_H
#define OSYNC_SCHEDULER_EARLIER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"
#include "osync/sink.h"
#include "scheduler/scheduler.pb-c.h"

typedef struct osync__earlier_task {
    char id[37];
    uint64_t files;
    bool ours;                            /* a label names the table that is looked for, and this task */
    bool foreign;                         /* a label names another table */
    Osync__Scheduler__TaskRecord *record; /* the newest that was found; not NULL if `ours` */
    UT_hash_handle hh;                    /* by id */
} osync__earlier_task_t;

/* One partition of one task. */
typedef struct osync__earlier_part {
    struct osync__earlier_key {
        char id[40];
        uint32_t pid;
    } key;
    osync__earlier_task_t *task;
    uint64_t newest, oldest; /* the largest and the smallest n */
    UT_hash_handle hh;
} osync__earlier_part_t;

typedef struct osync__earlier_file {
    osync__earlier_part_t *part;
    uint64_t n;
} osync__earlier_file_t;

typedef struct osync__earlier {
    osync__earlier_task_t *tasks;
    osync__earlier_part_t *parts;
    osync__earlier_file_t *files; /* with OSYNC__EARLIER_FILES: of the tasks that are `ours` */
    size_t n_files;
    size_t n_ours; /* tasks */
    uint64_t ours_files;
} osync__earlier_t;

/* Room for "<dest>/part-<task id>-<pid>-<n>.csv". */
enum { OSYNC__EARLIER_PATH = 2560 };

enum {
    OSYNC__EARLIER_FILES = 1,
    OSYNC__EARLIER_RECORDS = 2, /* `record` is the newest of all partitions'; else of one of them */
};

/* `found` is the receiver's, to be freed; NULL unless status is 0. */
typedef void (*osync__earlier_cb)(void *arg, int status, osync__earlier_t *found, const osync_error_t *err);

/* A non-zero return: the callback is never called; else exactly once, never from inside the call. A destination that
 * isn't there holds nothing. A file without a label of ours isn't counted for any table. */
int osync__earlier_find(osync_sink_t *sink, const char *path, const char *db, const char *name, int flags,
                        osync__earlier_cb cb, void *arg);
void osync__earlier_free(osync__earlier_t *found);
const osync__earlier_part_t *osync__earlier_part(const osync__earlier_t *found, const char *id, uint32_t pid);

/* The name of a committed file: "part-<task id>-<pid>-<n>.csv" in just the form in which delivery writes it. */
bool osync__earlier_parse(const char *name, char id[37], uint32_t *pid, uint64_t *n);
void osync__earlier_path(char out[OSYNC__EARLIER_PATH], const char *dest, const char *id, uint32_t pid, uint64_t n);
/* The record in a file's label, if it is a label of this task's file; the caller's to free. */
Osync__Scheduler__TaskRecord *osync__earlier_record(const void *label, size_t len, const char *id, uint32_t pid,
                                                    uint64_t n);

#endif
