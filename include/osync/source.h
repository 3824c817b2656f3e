/* The table source interface: where a partition's files are on this machine and what its rows look like. By itself a
 * collector asks the TabletServer that the scheduler names (GetTableStatus, GetTableSchema); a process that has the
 * tables itself, such as a TabletServer's sidecar, brings a source of its own (examples/sidecar.c).
 *
 * The collector makes all calls on its loop's thread; the first may come from inside osync_collector_start, and
 * osync_collector_close may be called from inside any of them. Many questions are open at a time, one of each task.
 *
 * Callbacks: if a call returns non-zero (an OSYNC_E... code), its callback is never called. Otherwise it is called
 * exactly once, on the loop's thread, never from inside the call; osync_collector_close waits for it. `err` is valid
 * during the callback only, NULL on success, and may be NULL on failure too.
 *
 * A failure is the reason that the scheduler and its users are shown. One that osync_err_retriable calls retriable
 * makes the collector ask again after a pause. With any other, or an answer that can't be used, a task that is being
 * handed out is refused, and one that is stored is FAILED until it is handed out anew. */
#ifndef OSYNC_SOURCE_H
#define OSYNC_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "osync/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct osync_source osync_source_t;

/* What is asked for; valid during the call only. */
typedef struct osync_source_partition {
    uint32_t tid, pid;
    const char *tablet; /* "host:port" of the TabletServer, as the scheduler has found it in ZooKeeper; "" is none */
} osync_source_partition_t;

/* Both paths are absolute and on the file system of the collector's data_dir, since it hard-links what is there. The
 * snapshot's folder may be one that doesn't exist yet; the binlog's exists. */
typedef struct osync_source_files {
    size_t size;              /* sizeof(osync_source_files_t) */
    const char *snapshot_dir; /* holds MANIFEST and what it names */
    const char *binlog_dir;   /* holds NNNNNNNN.log */
    bool memory;              /* a memory table, whose snapshot is an .sdb file; else a RocksDB checkpoint */
} osync_source_files_t;

/* `files` and what it points to are valid during the callback only; NULL on failure. */
typedef void (*osync_source_files_cb)(void *arg, int status, const osync_source_files_t *files,
                                      const osync_error_t *err);
/* `meta`: serialized api::TableMeta with every schema version that a row may have. Valid during the callback only. */
typedef void (*osync_source_meta_cb)(void *arg, int status, const void *meta, size_t len, const osync_error_t *err);

typedef struct osync_source_ops {
    size_t size; /* sizeof(osync_source_ops_t) */
    /* Where the files are. Asked when a task or a hold begins, after a restart, and again when files are missing. */
    int (*files)(osync_source_t *source, const osync_source_partition_t *partition, osync_source_files_cb cb,
                 void *arg);
    /* What the rows look like. Asked after `files` (not of a hold, whose rows aren't read), and again when a row has a
     * schema version that wasn't known. */
    int (*meta)(osync_source_t *source, const osync_source_partition_t *partition, osync_source_meta_cb cb, void *arg);
    /* The collector doesn't want the answer of the call that was made with this `arg` any more: its callback comes
     * soon, with OSYNC_ECANCELED or as it is. An `arg` that isn't known is ignored. NULL: the answer is waited for. */
    void (*cancel)(osync_source_t *source, void *arg);
} osync_source_ops_t;

/* The head of every source; an implementation embeds it as its first member. It must outlive the collector that uses
 * it, and several collectors of one loop may share one. */
struct osync_source {
    const osync_source_ops_t *ops;
};

#ifdef __cplusplus
}
#endif
#endif
