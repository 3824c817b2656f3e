/* ZooKeeper's client, marshalled onto a uv loop: libzookeeper_mt's threads come back by uv_async. It connects by
 * itself, and again with a new session when one expires. Loop thread only. */
#ifndef OSYNC_ZK_ZK_H
#define OSYNC_ZK_ZK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "osync/error.h"

typedef struct osync__zk osync__zk_t;

typedef struct osync__zk_config {
    const char *cluster; /* "host:port,host:port" */
    uint32_t session_timeout_ms;
    const char *auth_schema; /* "digest" */
    const char *cert;        /* "user:password"; NULL or "": none. With it, nodes are made with CREATOR_ALL */
    /* A session has begun (connected true, also after each expiry: ephemeral nodes must be made again) or the
     * connection is lost (false). May be NULL. */
    void (*on_session)(void *arg, bool connected);
    void *arg;
} osync__zk_config_t;

typedef void (*osync__zk_cb)(void *arg, int status, const osync_error_t *err);
typedef void (*osync__zk_get_cb)(void *arg, int status, const void *data, size_t len, const osync_error_t *err);
typedef void (*osync__zk_list_cb)(void *arg, int status, const char *const *names, size_t n, const osync_error_t *err);

/* Strings are copied. Starts connecting; a cluster that can't be reached is not an error here. */
int osync__zk_new(uv_loop_t *loop, const osync__zk_config_t *config, osync__zk_t **out, osync_error_t *err);
bool osync__zk_connected(const osync__zk_t *zk);

/* Each: non-zero return means that the callback is never called; else exactly once, on the loop's thread, never from
 * inside the call. Before the first connection a
 * call waits for it, for a session timeout at most; later, without a connection, the callback comes with OSYNC_ECONN.
 * OSYNC_ENOENT: no such node; OSYNC_EEXIST: it exists. */
int osync__zk_get(osync__zk_t *zk, const char *path, osync__zk_get_cb cb, void *arg);
int osync__zk_list(osync__zk_t *zk, const char *path, osync__zk_list_cb cb, void *arg);
/* Makes missing parents (persistent, empty). */
int osync__zk_create(osync__zk_t *zk, const char *path, const void *data, size_t len, bool ephemeral, osync__zk_cb cb,
                     void *arg);
int osync__zk_set(osync__zk_t *zk, const char *path, const void *data, size_t len, osync__zk_cb cb, void *arg);
int osync__zk_remove(osync__zk_t *zk, const char *path, osync__zk_cb cb, void *arg);
/* Registers an ephemeral node with `data`, taking it over from a dead session of the same owner: a node that is there,
 * holds the same data and belongs to another session is removed first. */
int osync__zk_register(osync__zk_t *zk, const char *path, const void *data, size_t len, osync__zk_cb cb, void *arg);
/* The local address of the connection to ZooKeeper ("10.0.0.5"), or OSYNC_ECONN. */
int osync__zk_local_address(const osync__zk_t *zk, char *out, size_t size);

/* Open calls come back with OSYNC_ECANCELED, then `cb`. */
void osync__zk_close(osync__zk_t *zk, void (*cb)(void *arg), void *arg);

#endif
