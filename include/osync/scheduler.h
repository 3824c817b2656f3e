/* The scheduler: finds tables and their leaders in ZooKeeper, hands their partitions to collectors, receives rows, and
 * writes them to the sink exactly once.
 *
 * It serves CreateSyncTask, DeleteSyncTask, RecoverSyncTask, RetrySyncTask, VerifySyncTask, TaskStatus and SendData on
 * its port. All calls and callbacks on the loop's thread. The process ignores SIGPIPE (signal(SIGPIPE, SIG_IGN)), since
 * libuv writes to sockets that a peer may have closed. */
#ifndef OSYNC_SCHEDULER_H
#define OSYNC_SCHEDULER_H

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

typedef struct osync_scheduler osync_scheduler_t;

typedef struct osync_scheduler_config {
    size_t size;                     /* set by osync_scheduler_config_init */
    const char *host;                /* to listen on ("0.0.0.0" is all interfaces) */
    int port;                        /* 0 picks a free one */
    const char *advertised_endpoint; /* "host:port" that collectors send to; NULL: host and port, with 0.0.0.0 replaced
                                        by the address that the machine uses towards ZooKeeper */
    const char *zk_cluster;          /* "host:port,..."; required */
    const char *zk_root_path;        /* "/openmldb" */
    const char *zk_cert;             /* "user:password" (digest); "" is none */
    uint32_t zk_session_timeout_ms;  /* 5000 */
    const char *state_dir;       /* holds checkpoint.db, made if it isn't there; required unless `checkpoint` is set */
    uint32_t check_period_ms;    /* 10000: a collector that is silent for twice as long is replaced */
    uint32_t request_timeout_ms; /* of AddSyncTask and HoldLog: 5000 */
    uint32_t hold_period_ms;     /* how often collectors that could take over are asked to hold the log; 0: 30000,
                                    or three check periods, if that is longer */
    uint64_t max_body_size;      /* bytes of one RPC message that is accepted or sent: 64 MiB */
    const char *hadoop_conf_dir; /* NULL: HADOOP_CONF_DIR */
    const char *hadoop_user;     /* NULL: HADOOP_USER_NAME, else the process's user */
    const char *default_fs;      /* for a dest without a scheme; NULL: fs.defaultFS of the Hadoop configuration */
    const char *csv_timezone;    /* IANA name; NULL: the machine's */
    uint64_t roll_bytes;         /* a file is committed when it holds as much: 128 MiB */
    uint32_t roll_interval_ms;   /* 60000: a file is committed this long after its first row at the latest */
    uint32_t worker_threads;     /* that encode: 4 */
    osync_checkpoint_t
        *checkpoint;           /* NULL: SQLite in state_dir; else borrowed, and must outlive the scheduler. Then
                                  state_dir is only where tasks of OpenMLDB's SyncTool are looked for; NULL: nowhere */
    osync_sink_make make_sink; /* makes the sinks that tasks write to, and may know other schemes than hdfs, webhdfs
                                  and file; NULL: libosync's own. The scheduler closes them */
    void *make_sink_arg;       /* of make_sink */
    /* Who writes the staged files of collectors of ours (docs/delivery.md): "auto", they themselves, and the scheduler
     * when they can't; "direct", they themselves or nobody; "proxy", the scheduler. NULL: "auto". */
    const char *data_path;
    /* Bytes of rows in SendData that are worked on at the same time: 64 MiB. Beyond it requests wait for their turn, up
     * to max_bytes_waiting, 64 MiB; beyond that they are answered "send it again". */
    uint64_t max_bytes_in_flight;
    uint64_t max_bytes_waiting;
} osync_scheduler_config_t;

/* `size`: sizeof *config. Sets it and the defaults that are named above. */
OSYNC_API void osync_scheduler_config_init(osync_scheduler_config_t *config, size_t size);

/* Makes a scheduler on the caller's loop; strings are copied. It does nothing before osync_scheduler_start.
 * OSYNC_ECONFIG names the field that is missing or out of range. */
OSYNC_API int osync_scheduler_new(osync_scheduler_t **out, uv_loop_t *loop, const osync_scheduler_config_t *config,
                                  osync_error_t *err);
/* Opens the checkpoint, takes up the stored tasks and listens. ZooKeeper and HDFS may come later. Fails if the state's
 * folder or the port can't be used (OSYNC_ECONFLICT: another scheduler has it); then it can only be closed. */
OSYNC_API int osync_scheduler_start(osync_scheduler_t *scheduler, osync_error_t *err);
/* The port it listens on (of use if the configuration's was 0). */
OSYNC_API int osync_scheduler_port(const osync_scheduler_t *scheduler);
/* Ends everything in an orderly way (staged rows that aren't committed are read again next time), frees the scheduler,
 * then calls cb (may be NULL). May be called from a callback, once. NULL is fine if cb is NULL. */
OSYNC_API void osync_scheduler_close(osync_scheduler_t *scheduler, void (*cb)(void *arg), void *arg);

/* Gives the tasks of a checkpoint that no scheduler has open back to OpenMLDB's SyncTool: writes
 * `dir`/<tid>/<pid>.progress with the committed points, and then calls the checkpoint "checkpoint.db.exported.<ms>", so
 * that the tasks have one owner. (The other way needs no call: a scheduler takes over what it finds in its state_dir.)
 * `state_dir` is as in the configuration. Non-zero: `cb` is never called; else exactly once, on the loop's thread.
 * Files are written on the loop's thread. It can be done again after a failure. */
typedef void (*osync_scheduler_export_cb)(void *arg, int status, const osync_error_t *err);
OSYNC_API int osync_scheduler_export_progress(uv_loop_t *loop, const char *state_dir, const char *dir,
                                              osync_scheduler_export_cb cb, void *arg, osync_error_t *err);

#ifdef __cplusplus
}
#endif
#endif
