/* Reads the rows of one partition from its files: a snapshot (of a disk table a RocksDB checkpoint, of a memory table
 * an .sdb file) and a binlog.
 *
 * Nothing here needs a running TabletServer, and nothing writes to the files that are read. The rule by which the two
 * phases fit together (the replayed window) is in docs/delivery.md. All calls block: use a reader from a worker thread,
 * one thread at a time. */
#ifndef OSYNC_READER_H
#define OSYNC_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "osync/table.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct osync_reader osync_reader_t;

typedef enum osync_phase {
    OSYNC_PHASE_ALL,      /* what a full sync delivers: snapshot and log joined by the replayed window */
    OSYNC_PHASE_SNAPSHOT, /* the plain traverse of the base index, TTL applied */
    OSYNC_PHASE_BINLOG,   /* every put with a dimension of index 0 in the retained log */
} osync_phase_t;

typedef enum osync_base {
    OSYNC_BASE_AUTO,   /* the newest log file that provably began before the snapshot */
    OSYNC_BASE_OLDEST, /* trust that the oldest retained entry precedes the snapshot (copied files, whose times prove
                          nothing) */
} osync_base_t;

typedef struct osync_reader_config {
    size_t size; /* sizeof(osync_reader_config_t), set by osync_reader_config_init */
    osync_phase_t phase;
    osync_base_t base;
    const char *binlog_dir; /* holds NNNNNNNN.log; required unless phase is SNAPSHOT. May be absent or empty. */
    /* NULL: there is no snapshot. Disk table: the checkpoint's own folder (holds CURRENT). Memory table: the .sdb file.
     */
    const char *snapshot_dir;
    /* Its name in MANIFEST; of a checkpoint the local minute it was made in (12 digits). Needed by BASE_AUTO. */
    const char *snapshot_name;
    uint64_t snapshot_offset, snapshot_count; /* memory table: of the same MANIFEST */
    /* Folder for the window's scratch databases, made if it isn't there. The reader removes what it makes below it, not
     * the folder. Required for ALL. */
    const char *scratch_dir;
    uint64_t from;     /* BINLOG: first log index wanted; 0 is the oldest retained */
    uint64_t start_ts; /* rows whose base index ts is below are left out; 0 is all */
    /* ALL: a sync point (osync_reader_point) to go on from; NULL is the beginning. */
    const void *point;
    size_t point_len;
    const volatile int *cancel; /* NULL, or set to non-zero from any thread: open and next end with OSYNC_ECANCELED */
    bool pauses; /* osync_reader_next ends with OSYNC_EAGAIN now and then while it leaves many rows out */
    /* ALL: bytes of a replayed window that are held in memory; a larger window goes to scratch_dir. */
    size_t window_memory;
} osync_reader_config_t;

typedef struct osync_reader_row {
    osync_phase_t phase; /* SNAPSHOT or BINLOG */
    uint64_t offset;     /* log index; 0: SNAPSHOT of a disk table */
    const void *pk;      /* key of the base index: arbitrary bytes */
    size_t pk_len;
    uint64_t ts;       /* of the base index: milliseconds, or what the ts column holds */
    const void *value; /* the encoded row, decompressed */
    size_t value_len;
} osync_reader_row_t;

typedef struct osync_snapshot_name {
    char name[256];         /* of the checkpoint's folder, or of the .sdb file, in `dir` */
    uint64_t offset, count; /* for snapshot_offset and snapshot_count of the configuration */
} osync_snapshot_name_t;

/* Reads which snapshot is the current one from the MANIFEST in a partition's snapshot folder. OSYNC_ENOENT: there is
 * no MANIFEST, hence no snapshot. OSYNC_ECORRUPT: it isn't a MANIFEST. OSYNC_ETOOBIG: it is too large to be one. */
OSYNC_API int osync_snapshot_name(osync_snapshot_name_t *out, const char *dir, osync_error_t *err);

/* `size`: sizeof *config. Sets it and zeroes the rest: phase ALL, base AUTO, nothing named. */
OSYNC_API void osync_reader_config_init(osync_reader_config_t *config, size_t size);

/* Opens the files, finds the base and replays the window. `table` is borrowed and must outlive the reader; everything
 * else in `config` is borrowed during the call, but for `cancel`. *out is set on success only; osync_reader_close frees
 * it. Errors: OSYNC_EGAP (no base can be proven, or the log doesn't reach back far enough), OSYNC_EDIVERGED (it isn't
 * the log that was read before: a fail-over has lost what can't be done without), OSYNC_EAGAIN (it hasn't come as far
 * as what was read before: a replica that lags; or a replica that has nothing but a snapshot yet), OSYNC_ECORRUPT,
 * OSYNC_EIO, OSYNC_ENOENT, with the file and the offset in the message; OSYNC_ENOTSUP (the snapshot's keys have another
 * form than the sync point says), OSYNC_ETOOBIG (a limit, named), OSYNC_EINVAL (a field that the phase needs isn't
 * set), OSYNC_ECANCELED, OSYNC_ENOMEM. */
OSYNC_API int osync_reader_open(osync_reader_t **out, const osync_table_t *table, const osync_reader_config_t *config,
                                osync_error_t *err);
/* Frees the reader and what it made in `scratch_dir`. NULL is fine. */
OSYNC_API void osync_reader_close(osync_reader_t *reader);

/* The next row; what *row points to is valid until the next call on this reader. OSYNC_EOF: nothing more for now; a log
 * that grows later gives more when asked again. OSYNC_EAGAIN, only with `pauses`: no row so far, ask again; a sync
 * point can be taken in between. After any other error (those of osync_reader_open) the reader can only be closed. */
OSYNC_API int osync_reader_next(osync_reader_t *reader, osync_reader_row_t *row, osync_error_t *err);
/* Takes back the row of the last successful osync_reader_next: the next call gives it again. Once per row. */
OSYNC_API void osync_reader_unread(osync_reader_t *reader);

/* The sync point after the last row (a serialized SyncPoint): a reader opened with it goes on with the next one. Valid
 * until the next call on this reader. What the last row pointed to isn't valid after it. Only for OSYNC_PHASE_ALL, else
 * OSYNC_EINVAL; in the traverse it reads ahead, with the errors of osync_reader_next. */
OSYNC_API int osync_reader_point(osync_reader_t *reader, const void **point, size_t *len, osync_error_t *err);

typedef struct osync_reader_progress {
    bool traversing;        /* rows still come from the snapshot */
    uint64_t snapshot_rows; /* RocksDB's estimate of its rows, or a memory table's number; 0 is not known */
    uint64_t next;          /* next log index wanted; 0 while traversing */
    uint64_t tail;          /* newest log index seen when the log was last looked at */
} osync_reader_progress_t;

/* How far it is; reads nothing. */
OSYNC_API void osync_reader_progress(const osync_reader_t *reader, osync_reader_progress_t *out);

/* The window of a reader opened with OSYNC_PHASE_ALL: entries up to `base` came from the snapshot alone, those of
 * (base, tail] are the window. */
OSYNC_API void osync_reader_window(const osync_reader_t *reader, uint64_t *base, uint64_t *tail);

#ifdef __cplusplus
}
#endif
#endif
