/* The admin client: what an operator asks of a scheduler (osync-syncd, or OpenMLDB's SyncTool for the first three).
 *
 * Requests go over the loop to "host:port" as HTTP with JSON, the way the helper's do. Answers are given as JSON text,
 * as the scheduler sent it: docs/formats.md has the members of the page, and those of the others are in
 * libosync/format/proto/data_sync.proto.
 *
 * Callbacks: if a call returns non-zero, its callback is never called. Otherwise it is called exactly once, on the
 * loop's thread, never from inside the call. status 0: done, and `json` is the answer (`len` bytes and a NUL, valid
 * during the callback only). Otherwise `err` says what went wrong, and `json` is NULL but for one case:
 *   OSYNC_ERPC      the scheduler has refused, in `err` with its own words; `json` is its answer if that is JSON
 *   OSYNC_ECONN     there was no connection, or it broke during a call that changes nothing
 *   OSYNC_EUNKNOWN  it broke after the request had gone, or what came is no answer: the request may have been done
 *   OSYNC_ETIMEOUT  no answer in time; what was asked for may be done, or going on
 *   OSYNC_ETOOBIG   the answer is larger than 64 MiB
 *   OSYNC_ECANCELED the client was closed meanwhile
 * A request is never sent twice, and each has a connection of its own. Calls return OSYNC_EINVAL for an argument that
 * is missing or isn't UTF-8. All calls on the loop's thread; strings that are given are copied. */
#ifndef OSYNC_CLIENT_H
#define OSYNC_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "osync/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct osync_client osync_client_t;
typedef void (*osync_client_cb)(void *arg, int status, const char *json, size_t len, const osync_error_t *err);

typedef struct osync_client_config {
    size_t size;              /* set by osync_client_config_init */
    const char *scheduler;    /* "host:port": "127.0.0.1:8848" */
    uint32_t timeout_ms;      /* of an answer: 120000; 0: none */
    uint32_t long_timeout_ms; /* of one that takes a look at many files (create with `start`, recover, verify): 24 h */
} osync_client_config_t;

/* `size`: sizeof *config. Sets it and the defaults that are named above. */
OSYNC_API void osync_client_config_init(osync_client_config_t *config, size_t size);
/* Sends nothing. OSYNC_ECONFIG: `scheduler` isn't host:port. The caller closes *out. */
OSYNC_API int osync_client_new(osync_client_t **out, uv_loop_t *loop, const osync_client_config_t *config,
                               osync_error_t *err);
/* Ends what is under way (callbacks come, with OSYNC_ECANCELED, not from inside the call), frees the client, then calls
 * cb (may be NULL). May be called from a callback, once. NULL is fine if cb is NULL. */
OSYNC_API void osync_client_close(osync_client_t *client, void (*cb)(void *arg), void *arg);

typedef enum osync_mode {
    OSYNC_MODE_FULL = 0,        /* the table as it is; ends by itself */
    OSYNC_MODE_INCREMENTAL = 1, /* rows from a timestamp on, and everything that is put later */
    OSYNC_MODE_CONTINUOUS = 2,  /* the table as it is, and everything that is put later */
} osync_mode_t;

typedef enum osync_create_start {
    OSYNC_START_DEFAULT,  /* refuses nothing, warns in the answer if `dest` holds rows of the table already */
    OSYNC_START_APPEND,   /* all rows again, beside them */
    OSYNC_START_RESTART,  /* the table's own files are removed first */
    OSYNC_START_CONTINUE, /* goes on where the files of the earlier task end */
    OSYNC_START_POINTS,   /* a new task that begins at `points` */
} osync_create_start_t;

typedef struct osync_create_options {
    size_t size; /* set by osync_create_options_init */
    osync_mode_t mode;
    uint64_t start_ts; /* OSYNC_MODE_INCREMENTAL: of the base index, milliseconds */
    const char *dest;  /* "hdfs://[namenode]/path", "webhdfs://host:port/path", "file:///path", or a path; required */
    osync_create_start_t start;
    const char *task_id; /* OSYNC_START_CONTINUE: which, if `dest` holds files of several tasks; NULL */
    const char *points;  /* OSYNC_START_POINTS: the JSON that osync_client_points gave; NULL */
} osync_create_options_t;

/* `size`: sizeof *options. Sets it, mode full, the rest zero. */
OSYNC_API void osync_create_options_init(osync_create_options_t *options, size_t size);

/* CreateSyncTask. `db` and `table` name an online table. */
OSYNC_API int osync_client_create(osync_client_t *client, const char *db, const char *table,
                                  const osync_create_options_t *options, osync_client_cb cb, void *arg,
                                  osync_error_t *err);
/* DeleteSyncTask: ends the sync; committed files stay. */
OSYNC_API int osync_client_delete(osync_client_t *client, const char *db, const char *table, osync_client_cb cb,
                                  void *arg, osync_error_t *err);
/* What every task and partition is doing: the scheduler's page, GET /status?format=json. Only osync-syncd has it. */
OSYNC_API int osync_client_status(osync_client_t *client, osync_client_cb cb, void *arg, osync_error_t *err);
/* TaskStatus in OpenMLDB's own form, as its helper prints it. */
OSYNC_API int osync_client_task_status(osync_client_t *client, osync_client_cb cb, void *arg, osync_error_t *err);
/* Collectors: where they are, what each has and keeps for others, when it was last heard of. */
OSYNC_API int osync_client_collectors(osync_client_t *client, osync_client_cb cb, void *arg, osync_error_t *err);
/* RetrySyncTask: starts what is FAILED again, from its committed point. */
OSYNC_API int osync_client_retry(osync_client_t *client, const char *db, const char *table, osync_client_cb cb,
                                 void *arg, osync_error_t *err);
/* VerifySyncTask: is a file of `dest` missing, or not what its label says? `quick` doesn't read the rows. The answer
 * has the report; OSYNC_ERPC, with the same, if something is missing. */
OSYNC_API int osync_client_verify(osync_client_t *client, const char *db, const char *table, const char *dest,
                                  bool quick, osync_client_cb cb, void *arg, osync_error_t *err);
/* RecoverSyncTask: takes a task up whose checkpoint is lost, from its files' labels. `task_id` NULL: there is only one.
 * `start_over`: partitions without any file begin anew. */
OSYNC_API int osync_client_recover(osync_client_t *client, const char *db, const char *table, const char *dest,
                                   const char *task_id, bool start_over, osync_client_cb cb, void *arg,
                                   osync_error_t *err);
/* The committed points of a table's task, as a JSON array for osync_create_options_t's `points`: exact once the task is
 * at rest. OSYNC_ENOENT: it has no task. OSYNC_EAGAIN: they aren't known yet. */
OSYNC_API int osync_client_points(osync_client_t *client, const char *db, const char *table, osync_client_cb cb,
                                  void *arg, osync_error_t *err);

#ifdef __cplusplus
}
#endif
#endif
