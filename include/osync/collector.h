/* The collector: reads the partitions of one machine's TabletServers and sends their rows to a scheduler.
 *
 * It registers itself in ZooKeeper below <root>/sync_tool/collector, listens for AddSyncTask, hard-links what it reads,
 * and goes on with its tasks after a restart. Several may share a loop, each with an endpoint and a data_dir of its
 * own. All calls and callbacks on the loop's thread.
 *
 * libuv writes to sockets without MSG_NOSIGNAL: a process that embeds a collector ignores SIGPIPE. */
#ifndef OSYNC_COLLECTOR_H
#define OSYNC_COLLECTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "osync/error.h"
#include "osync/sink.h"
#include "osync/source.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct osync_collector osync_collector_t;

typedef struct osync_collector_config {
    size_t size;                    /* set by osync_collector_config_init */
    const char *endpoint;           /* "host:port" to listen on and to register; its host is the TabletServer's */
    const char *zk_cluster;         /* "host:port,..."; NULL or "": not registered in ZooKeeper */
    const char *zk_root_path;       /* "/openmldb" */
    const char *zk_auth_schema;     /* "digest" */
    const char *zk_cert;            /* "user:password"; "" is none */
    uint32_t zk_session_timeout_ms; /* 2000 */
    const char *data_dir;           /* links and progress; on the TabletServer's data file system */
    const char *db_root_path;       /* the TabletServer's folders of memory tables, "a,b,..."; "": these are refused */
    uint64_t max_pack_size;         /* bytes of rows in one SendData: 1 MiB; a larger row goes alone */
    uint64_t max_body_size;         /* bytes of one RPC message that is accepted or sent: 64 MiB */
    uint32_t request_timeout_ms;    /* of every RPC: 20000 */
    uint32_t heartbeat_ms;          /* longest time without a SendData: 5000 */
    uint32_t snapshot_settle_ms;    /* a snapshot is read when it is at least this old (docs/delivery.md): 60000 */
    uint32_t worker_threads;        /* that read, and as many that replay logs: 4 */
    /* Links keep files that the TabletServer has deleted. When they hold more than max_pinned_bytes (0: no limit), or
     * when less than min_free_percent of the file system is free and they hold any, the tasks that hold most give
     * their links up and fail. */
    uint64_t max_pinned_bytes; /* 0 */
    uint32_t min_free_percent; /* 5 */
    uint32_t hold_expire_ms;   /* the log of a follower is held this long after the scheduler last asked: 86400000 */
    /* Where the tables are (osync/source.h). NULL: what the TabletServers answer. Borrowed until the collector is
     * closed. */
    osync_source_t *source;
    /* Bytes of rows that are read but not yet taken by a scheduler or a sink, of all partitions together: 64 MiB. One
     * pack at a time is read beyond it, so that a row of any size gets through. */
    uint64_t max_bytes_in_flight;
    uint32_t max_traverses;   /* snapshots that are read at the same time: 8 */
    uint64_t max_read_rate;   /* bytes a second that are read from snapshots and logs; 0: no limit */
    uint32_t max_cpu_percent; /* of one core, for reading and encoding; 0: no limit */
    /* Who writes the staged files (docs/delivery.md): "auto", this collector if the scheduler says that it may, and the
     * scheduler if that fails; "proxy", always the scheduler. NULL: "auto". */
    const char *data_path;
    const char *hadoop_conf_dir; /* for writing staged files; NULL: HADOOP_CONF_DIR */
    const char *hadoop_user;     /* likewise; NULL: the scheduler's */
    osync_sink_make make_sink;   /* likewise: makes the sinks, as in osync/scheduler.h; NULL: libosync's own */
    void *make_sink_arg;         /* of make_sink */
} osync_collector_config_t;

/* `size`: sizeof *config. Sets it and the defaults that are named above. */
OSYNC_API void osync_collector_config_init(osync_collector_config_t *config, size_t size);

/* Makes a collector on the caller's loop; strings are copied. It does nothing before osync_collector_start.
 * OSYNC_ECONFIG names the field that is missing or out of range. */
OSYNC_API int osync_collector_new(osync_collector_t **out, uv_loop_t *loop, const osync_collector_config_t *config,
                                  osync_error_t *err);
/* Listens, takes up its stored tasks, connects to ZooKeeper and registers (and again whenever the session is lost).
 * ZooKeeper and the TabletServers may come later. Fails if the data folder or the port can't be used (OSYNC_ECONFIG:
 * another collector has the folder); then it can only be closed. OSYNC_ECANCELED: a call of its source has closed it
 * meanwhile. */
OSYNC_API int osync_collector_start(osync_collector_t *collector, osync_error_t *err);
/* The port it listens on (of use if the endpoint's was 0). */
OSYNC_API int osync_collector_port(const osync_collector_t *collector);
/* Ends everything in an orderly way, keeps the stored tasks, frees the collector, then calls cb (may be NULL), never
 * from inside this call: by then its port and its data folder can be used again. To be called once, whether it was
 * started or not, also from a callback or from inside a source's call; what still waits for a source is canceled and
 * waited for. The loop must run until cb has been called. NULL is fine if cb is NULL. */
OSYNC_API void osync_collector_close(osync_collector_t *collector, void (*cb)(void *arg), void *arg);

#ifdef __cplusplus
}
#endif
#endif
