/* The sink interface: a place for files that supports what delivery needs, namely create-once staging, labels, atomic
 * rename that never overwrites, and atomic rename of folders (the fence). libosync brings two, WebHDFS and file; an
 * embedder may bring another by filling in an osync_sink_ops_t.
 *
 * Paths are absolute within the sink, UTF-8, without a scheme ("/warehouse/t1/part-0.csv").
 *
 * Callbacks: if a call returns non-zero, its callback is never called. Otherwise it is called exactly once, on the
 * loop's thread, never from inside the call, with OSYNC_ECANCELED if the sink was closed meanwhile. `err` is valid
 * during the callback only and NULL on success. */
#ifndef OSYNC_SINK_H
#define OSYNC_SINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "osync/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct osync_sink osync_sink_t;
typedef struct osync_sink_file osync_sink_file_t;

typedef struct osync_sink_stat {
    bool is_dir;
    uint64_t length;  /* bytes */
    uint64_t file_id; /* never given to another file of this sink: HDFS's fileId, a local file's inode number */
} osync_sink_stat_t;

typedef void (*osync_sink_cb)(void *arg, int status, const osync_error_t *err);
typedef void (*osync_sink_stat_cb)(void *arg, int status, const osync_sink_stat_t *stat, const osync_error_t *err);
/* names[i] is an entry's name without its folder. */
typedef void (*osync_sink_list_cb)(void *arg, int status, const char *const *names, size_t n, const osync_error_t *err);
/* len 0: the file's end. */
typedef void (*osync_sink_read_cb)(void *arg, int status, const void *data, size_t len, const osync_error_t *err);
typedef void (*osync_sink_label_cb)(void *arg, int status, const void *label, size_t len, const osync_error_t *err);

/* What the status of a mutation means: 0: done, and durable. OSYNC_ENOENT, OSYNC_EEXIST: refused, nothing was changed
 * *by this request* (but an earlier duplicate of it may have been done). Everything else: unknown, it may have been
 * done or may still be done later. */
typedef struct osync_sink_ops {
    size_t size; /* sizeof(osync_sink_ops_t) */

    /* Makes a folder and its parents; one that is there is fine. */
    int (*mkdirs)(osync_sink_t *sink, const char *path, osync_sink_cb cb, void *arg);

    /* Begins a new file. The parent must exist (it is never made) and the name must be free; whether it is may be found
     * only when the file is finished. *out is valid until finish or abort has called back; also after a failure one of
     * them is due. One call on a file at a time, except abort, which may come whenever finish hasn't called back. */
    int (*create)(osync_sink_t *sink, const char *path, osync_sink_file_t **out, osync_sink_cb cb, void *arg);
    /* Appends; `data` is the caller's until the callback. The callback is the backpressure: it comes when the sink
     * can take more. */
    int (*write)(osync_sink_file_t *file, const void *data, size_t len, osync_sink_cb cb, void *arg);
    /* Ends the file and makes it durable; frees `file` before the callback. */
    int (*finish)(osync_sink_file_t *file, osync_sink_cb cb, void *arg);
    /* Stops writing and frees `file`; what was written may stay under its staged name. An outstanding write's callback
     * comes first, with OSYNC_ECANCELED. Never fails. */
    void (*abort)(osync_sink_file_t *file, osync_sink_cb cb, void *arg);

    /* OSYNC_ENOENT if there is nothing. */
    int (*stat)(osync_sink_t *sink, const char *path, osync_sink_stat_cb cb, void *arg);
    /* Attaches `label` (up to 144 KiB of arbitrary bytes) to a file, in the place of one that it has; it stays with the
     * file through renames. OSYNC_ETOOBIG if this sink can't hold that much, OSYNC_ENOTSUP if it can't hold labels at
     * all. */
    int (*set_label)(osync_sink_t *sink, const char *path, const void *label, size_t len, osync_sink_cb cb, void *arg);
    /* OSYNC_ENOENT if there is no such file, or it has no label. */
    int (*get_label)(osync_sink_t *sink, const char *path, osync_sink_label_cb cb, void *arg);
    /* Atomic, of a file or a folder; never overwrites and never moves *into* a folder. OSYNC_ENOENT: source missing;
     * OSYNC_EEXIST: target there. */
    int (*rename)(osync_sink_t *sink, const char *from, const char *to, osync_sink_cb cb, void *arg);
    /* A path that isn't there is fine. */
    int (*remove)(osync_sink_t *sink, const char *path, bool recursive, osync_sink_cb cb, void *arg);
    /* OSYNC_ENOENT if there is no such folder. */
    int (*list)(osync_sink_t *sink, const char *path, osync_sink_list_cb cb, void *arg);
    /* A logged mutation on `path` that changes nothing: when it is answered, everything that was read before is known
     * to be durable (rule A12 of docs/delivery.md). */
    int (*barrier)(osync_sink_t *sink, const char *path, osync_sink_cb cb, void *arg);

    /* `len` bytes (1 to 8 MiB) of a file from `offset` on; fewer only at its end, none from there on. OSYNC_ENOENT if
     * there is no such file. `data` is valid during the callback only. */
    int (*read)(osync_sink_t *sink, const char *path, uint64_t offset, size_t len, osync_sink_read_cb cb, void *arg);

    /* Cancels what is under way and frees the sink; no other callback after this one. */
    void (*close)(osync_sink_t *sink, void (*cb)(void *arg), void *arg);
} osync_sink_ops_t;

/* The head of every sink; an implementation embeds it as its first member. */
struct osync_sink {
    const osync_sink_ops_t *ops;
};
/* The head of every file being written. */
struct osync_sink_file {
    osync_sink_t *sink;
};

/* Makes a sink of a destination's "scheme://authority". `arg` is whoever's the function is; `authority` is "" if there
 * is none; the rest as in osync_file_sink_new. */
typedef int (*osync_sink_make)(void *arg, osync_sink_t **out, uv_loop_t *loop, const char *scheme,
                               const char *authority, osync_error_t *err);

/* The local file system: `file://`. Blocking calls run on `threads` workers of its own, at least 1 (OSYNC_EINVAL).
 * ops->close frees *out. */
OSYNC_API int osync_file_sink_new(osync_sink_t **out, uv_loop_t *loop, unsigned threads, osync_error_t *err);

typedef struct osync_webhdfs_config {
    size_t size; /* set by osync_webhdfs_config_init */
    /* webhdfs://: "host:port" of the NameNode's HTTP server, or of several, separated by commas; NULL: found by
     * `authority` */
    const char *address;
    /* hdfs://: "host:port" or nameservice, looked up in the Hadoop configuration; NULL: fs.defaultFS */
    const char *authority;
    /* holds core-site.xml and hdfs-site.xml; NULL: HADOOP_CONF_DIR, and if that is unset, none */
    const char *hadoop_conf_dir;
    const char *user;            /* user.name; NULL: HADOOP_USER_NAME, else the process's user */
    uint32_t connect_timeout_ms; /* 10000 */
    uint32_t request_timeout_ms; /* 60000: of an answer; of a transfer, the longest time without progress */
} osync_webhdfs_config_t;

/* `size`: sizeof *config. Sets it and the time-outs, and the rest to NULL. */
OSYNC_API void osync_webhdfs_config_init(osync_webhdfs_config_t *config, size_t size);
/* HDFS by WebHDFS: `hdfs://`, `webhdfs://`. Strings are copied. Nothing is sent before the first call. OSYNC_ECONFIG:
 * no NameNode's address can be made of the configuration. ops->close frees *out. */
OSYNC_API int osync_webhdfs_sink_new(osync_sink_t **out, uv_loop_t *loop, const osync_webhdfs_config_t *config,
                                     osync_error_t *err);

#ifdef __cplusplus
}
#endif
#endif
