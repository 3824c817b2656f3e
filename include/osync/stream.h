/* A stream: bytes of the caller's, put on HDFS or a local folder in whole files, each exactly once, whatever is killed
 * and when. It is what the scheduler uses for every partition, for anything else that has a position to go on from.
 *
 * The caller appends records, each with the position that follows it (opaque bytes: an offset in a log, a cursor). A
 * committed file and the position at its end become durable in one step, so that after any crash the stream says at
 * which position the committed files end, and the caller goes on from there. What was appended behind that position is
 * gone, and appended again.
 *
 *     osync_stream_config_init(&config, sizeof config);
 *     config.dest = "hdfs://namenode/warehouse/clicks";
 *     config.state = "/var/lib/clicks.db";
 *     config.name = "clicks";
 *     config.on_ready = go_on; (from `position`)
 *     osync_stream_open(&stream, loop, &config, &err);
 *     osync_stream_append(stream, record, len, 1, position, position_len, on_taken, arg);
 *     osync_stream_commit(stream, on_committed, arg);
 *     osync_stream_close(stream, on_closed, arg);
 *
 * Callbacks: if a call returns non-zero, its callback is never called. Otherwise it is called exactly once, on the
 * loop's thread, never from inside the call, with OSYNC_ECANCELED if the stream was closed meanwhile. All calls on the
 * loop's thread. How it is done: docs/delivery.md.
 *
 * The files are called <name>-<number><suffix>, the number has ten digits and counts from 0. Readers leave names that
 * begin with '_' or '.' alone: <dest>/_osync/<name> is where files are written before they appear. Consumers may take
 * committed files away; if they leave the newest one, the checkpoint may be lost. To end a stream for good, remove that
 * folder and the checkpoint. */
#ifndef OSYNC_STREAM_H
#define OSYNC_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "osync/checkpoint.h"
#include "osync/error.h"
#include "osync/sink.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    OSYNC_POSITION_MAX = 64 << 10,     /* bytes of a position */
    OSYNC_STREAM_NAME_MAX = 100,       /* bytes of a stream's name */
    OSYNC_STREAM_APPEND_MAX = 64 << 20 /* bytes of one append */
};

typedef struct osync_stream osync_stream_t;
typedef void (*osync_stream_cb)(void *arg, int status, const osync_error_t *err);

typedef struct osync_stream_config {
    size_t size; /* set by osync_stream_config_init */
    /* Where the files go: "hdfs://[namenode]/path", "webhdfs://host:port/path", "file:///path", or a bare path on the
     * Hadoop configuration's fs.defaultFS. With `sink`: an absolute path within it. Required. */
    const char *dest;
    /* Of the stream within `dest` and the checkpoint, in every file's name: 1 to OSYNC_STREAM_NAME_MAX bytes of
     * [A-Za-z0-9._-], not beginning with '_' or '.'. One process at a time has a stream open: a second one takes it
     * over, and the first learns it by OSYNC_ECONFLICT. Required. */
    const char *name;
    /* The checkpoint: a SQLite file's path, made if it isn't there. Required unless `checkpoint` is set. If it is lost,
     * the stream finds out from its newest file where it was, which has both its positions as a label. (Where they
     * don't fit, the log says so, and only the checkpoint knows: extended attributes on ext4 hold 4 KiB, on HDFS, XFS,
     * btrfs and tmpfs any position.) An older copy must not be put in its place: then rather none. */
    const char *state;
    osync_sink_t *sink;             /* NULL: made for `dest`; else borrowed, and must outlive the stream */
    osync_checkpoint_t *checkpoint; /* NULL: SQLite in `state`; else borrowed, likewise. One may serve many streams */
    const char *hadoop_conf_dir;    /* NULL: HADOOP_CONF_DIR */
    const char *hadoop_user;        /* NULL: HADOOP_USER_NAME, else the process's user */
    const char *suffix;             /* of the files' names: '.' and up to 31 letters, digits, '.'; or NULL, "" */
    uint64_t roll_bytes;            /* a file is committed when it holds as much: 128 MiB */
    uint32_t roll_interval_ms;      /* 60000: and this long after its first record at the latest */
    const void *start;              /* the position of a stream that has none yet: NULL is an empty one */
    size_t start_len;
    /* Records can be appended: after the open, and again after trouble. `position` is where the committed files end;
     * what was appended behind it is gone and must be appended again. Required. */
    void (*on_ready)(void *arg, const void *position, size_t len);
    /* The stream can't go on for now: calls are refused with OSYNC_EAGAIN until on_ready comes. Comes again with each
     * try that fails. With `permanent` nothing goes on by itself: close it (err's code OSYNC_ECONFLICT: another owner
     * has taken it over; else what is in the way, and how to mend it). May be NULL. */
    void (*on_trouble)(void *arg, bool permanent, const osync_error_t *err);
    /* A file was committed: everything before `position` is in committed files. May be NULL. */
    void (*on_commit)(void *arg, const void *position, size_t len);
    void *arg; /* of the three */
} osync_stream_config_t;

/* `size`: sizeof *config. Sets it and the defaults that are named above. */
OSYNC_API void osync_stream_config_init(osync_stream_config_t *config, size_t size);

/* Opens a stream on the caller's loop; strings and `start` are copied. Recovery goes on by itself, again and again
 * while sink or checkpoint are away, and ends in on_ready. OSYNC_ECONFIG or OSYNC_EINVAL name the field that is missing
 * or wrong; OSYNC_ECONFLICT: `state` is open already. Opens `state` on the calling thread. *out is the caller's:
 * osync_stream_close. After a failure what was opened is closed as the loop runs on. */
OSYNC_API int osync_stream_open(osync_stream_t **out, uv_loop_t *loop, const osync_stream_config_t *config,
                                osync_error_t *err);

/* Appends `len` bytes that hold `records` records (counted, nothing more) and moves to `position`. They stay together
 * in one file. `data` is the caller's until `cb`, which is the backpressure; one append at a time. cb's status 0:
 * taken, committed later. OSYNC_EAGAIN: see on_trouble. len 0 only moves the position. Non-zero: OSYNC_EAGAIN (not
 * ready, or an append is under way), OSYNC_ETOOBIG (data or position), OSYNC_EINVAL (no cb), OSYNC_ECLOSED,
 * OSYNC_ENOMEM. */
OSYNC_API int osync_stream_append(osync_stream_t *stream, const void *data, size_t len, uint64_t records,
                                  const void *position, size_t position_len, osync_stream_cb cb, void *arg);
/* Commits what was taken, now: ends the file that is being written. cb when it is committed, at once if there is
 * nothing; OSYNC_EAGAIN: see on_trouble. Non-zero: as osync_stream_append; any number may be under way. */
OSYNC_API int osync_stream_commit(osync_stream_t *stream, osync_stream_cb cb, void *arg);

/* The committed position: of use after the first on_ready. NULL and *len 0 if the start was empty. Valid until the loop
 * goes on. */
OSYNC_API const void *osync_stream_position(const osync_stream_t *stream, size_t *len);

typedef struct osync_stream_totals {
    uint64_t records, bytes, files;          /* committed, since the stream began */
    uint64_t pending_records, pending_bytes; /* taken, not yet committed */
} osync_stream_totals_t;
OSYNC_API void osync_stream_totals(const osync_stream_t *stream, osync_stream_totals_t *out);

/* Ends the stream without committing what is pending (call osync_stream_commit before, and wait), frees it, then calls
 * cb (may be NULL). Once; may be called from a callback. Open callbacks come first, but not those of the configuration.
 * What its own sink has under way is waited for for 2 s. NULL is fine if cb is NULL. */
OSYNC_API void osync_stream_close(osync_stream_t *stream, void (*cb)(void *arg), void *arg);

#ifdef __cplusplus
}
#endif
#endif
