/* Where files go: what a `dest` means, and one sink for each file system that is in use. Loop thread only. */
#ifndef OSYNC_SINK_SINKS_H
#define OSYNC_SINK_SINKS_H

#include "osync/sink.h"

typedef struct osync__sinks osync__sinks_t;

typedef struct osync__sinks_config {
    const char *hadoop_conf_dir; /* all three: may be NULL, see osync/scheduler.h; copied */
    const char *hadoop_user;
    const char *default_fs;
    /* "host:port,host:port": the HTTP servers of hdfs:// authorities that the Hadoop configuration doesn't know. NULL:
     * none; copied. */
    const char *namenodes;
    osync_sink_make make; /* NULL: libosync's own sinks */
    void *make_arg;
} osync__sinks_config_t;

int osync__sinks_new(uv_loop_t *loop, const osync__sinks_config_t *config, osync__sinks_t **out);
/* Makes "scheme://authority/path" of a dest; the caller frees *target. OSYNC_EINVAL, OSYNC_ECONFIG, OSYNC_ENOTSUP, in
 * plain words. */
int osync__dest_resolve(osync__sinks_t *sinks, const char *dest, char **target, osync_error_t *err);
/* The sink of a target, and the target's path within it (points into `target`). osync__sinks_put gives it back; the
 * last one closes it. */
int osync__sinks_get(osync__sinks_t *sinks, const char *target, osync_sink_t **out, const char **path,
                     osync_error_t *err);
/* How another process reaches the same file system: what the sink of a target was made of. All of it is the sink's. */
typedef struct osync__sinks_place {
    const char *fs;         /* "scheme://authority" */
    char *const *namenodes; /* "host:port" of their HTTP servers; of HDFS alone */
    size_t n_namenodes;
    const char *user; /* likewise; else NULL */
} osync__sinks_place_t;
void osync__sinks_place(const osync__sinks_t *sinks, const osync_sink_t *sink, osync__sinks_place_t *out);
void osync__sinks_put(osync__sinks_t *sinks, osync_sink_t *sink);
/* Closes every sink, whoever still has it: what is under way there ends with OSYNC_ECANCELED. Giving it back afterwards
 * is fine. */
void osync__sinks_cancel(osync__sinks_t *sinks);
/* Every sink must have been put, or canceled. `cb` may come from inside the call. */
void osync__sinks_close(osync__sinks_t *sinks, void (*cb)(void *arg), void *arg);

#endif
