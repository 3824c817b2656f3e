/* Where the scheduler learns of tables, collectors and names: a few questions, so that a test can answer them. The real
 * one asks ZooKeeper (docs/formats.md, ZooKeeper). Loop thread only. */
#ifndef OSYNC_SCHEDULER_CATALOG_H
#define OSYNC_SCHEDULER_CATALOG_H

#include <stddef.h>
#include <uv.h>

#include "osync/error.h"

typedef struct osync__catalog osync__catalog_t;

/* `info` is a serialized nameserver::TableInfo, valid during the callback only. OSYNC_ENOENT: there is no such table.
 */
typedef void (*osync__catalog_table_cb)(void *arg, int status, const void *info, size_t len, const osync_error_t *err);
typedef void (*osync__catalog_list_cb)(void *arg, int status, const char *const *names, size_t n,
                                       const osync_error_t *err);
typedef void (*osync__catalog_name_cb)(void *arg, int status, const char *endpoint, const osync_error_t *err);

/* Each: a non-zero return means that the callback is never called; else exactly once, never from inside the call.
 * OSYNC_ECONN, OSYNC_ETIMEOUT: the catalog can't be reached now, which says nothing about what was asked for. */
typedef struct osync__catalog_ops {
    int (*find)(osync__catalog_t *catalog, const char *db, const char *name, osync__catalog_table_cb cb, void *arg);
    int (*get)(osync__catalog_t *catalog, uint32_t tid, osync__catalog_table_cb cb, void *arg);
    /* Endpoints of the collectors that are alive; no such folder is an empty list. */
    int (*collectors)(osync__catalog_t *catalog, osync__catalog_list_cb cb, void *arg);
    /* The endpoint behind a server name; the name itself if nothing is known of it. */
    int (*resolve)(osync__catalog_t *catalog, const char *name, osync__catalog_name_cb cb, void *arg);
    /* This machine's address towards the catalog, or OSYNC_ECONN. */
    int (*local_address)(osync__catalog_t *catalog, char *out, size_t size);
    /* Open calls come back with OSYNC_ECANCELED, then `cb`. */
    void (*close)(osync__catalog_t *catalog, void (*cb)(void *arg), void *arg);
} osync__catalog_ops_t;

struct osync__catalog {
    const osync__catalog_ops_t *ops;
};

typedef struct osync__zk_catalog_config {
    const char *cluster;
    const char *root; /* "/openmldb" */
    const char *cert;
    uint32_t session_timeout_ms;
} osync__zk_catalog_config_t;

int osync__zk_catalog_new(uv_loop_t *loop, const osync__zk_catalog_config_t *config, osync__catalog_t **out,
                          osync_error_t *err);

#endif
