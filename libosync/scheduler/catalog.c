/* The catalog in ZooKeeper. Reads what the nameserver and the collectors write; writes nothing. */
#include "scheduler/catalog.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "nameserver.pb-c.h"
#include "zk/zk.h"

enum { PATH_SIZE = 1024, GETS_AT_ONCE = 32, ENDPOINT_SIZE = 512 };

typedef struct zk_catalog {
    osync__catalog_t base;
    osync__zk_t *zk;
    char *root;
    void (*closed)(void *arg);
    void *closed_arg;
} zk_catalog_t;

/* A search through all tables: a list, then that many gets, a few at a time. */
typedef struct find {
    zk_catalog_t *catalog;
    char *db, *name;
    char **tids;
    size_t n, next, open;
    int status; /* of the first failure */
    osync_error_t err;
    void *info; /* of the table, once found */
    size_t info_len;
    osync__catalog_table_cb cb;
    void *arg;
} find_t;

typedef struct ask {
    zk_catalog_t *catalog;
    char *name;
    bool second;
    osync__catalog_list_cb list_cb;
    osync__catalog_name_cb name_cb;
    void *arg;
} ask_t;

static int path_of(const zk_catalog_t *c, char out[PATH_SIZE], const char *folder, const char *leaf) {
    int n = snprintf(out, PATH_SIZE, "%s%s%s%s", c->root, folder, leaf ? "/" : "", leaf ? leaf : "");
    return n < 0 || n >= PATH_SIZE ? OSYNC_EINVAL : 0;
}

static void find_free(find_t *f) {
    if (!f) return;
    for (size_t i = 0; i < f->n; i++) osync__free(f->tids[i]);
    osync__free(f->tids);
    osync__free(f->info);
    osync__free(f->db);
    osync__free(f->name);
    osync__free(f);
}

static void find_step(find_t *f);

static void find_failed(find_t *f, int status, const osync_error_t *err) {
    if (f->status) return;
    f->status = status;
    if (err)
        f->err = *err;
    else
        osync__err(&f->err, status, "%s", osync_strerror(status));
}

static void on_find_get(void *arg, int status, const void *data, size_t len, const osync_error_t *err) {
    find_t *f = arg;
    f->open--;
    if (status == 0 && !f->info && !f->status) {
        Openmldb__Nameserver__TableInfo *info =
            openmldb__nameserver__table_info__unpack(&osync__protobuf_allocator, len, data);
        /* A node that doesn't parse is not the table that is looked for; another one may be. */
        if (!info)
            osync__log(OSYNC_LOG_WARN, "zookeeper: a node below %s/table/db_table_data is not a TableInfo",
                       f->catalog->root);
        if (info && strcmp(info->db ? info->db : "", f->db) == 0 && info->name && strcmp(info->name, f->name) == 0) {
            f->info = osync__malloc(len ? len : 1);
            if (f->info) {
                memcpy(f->info, data, len);
                f->info_len = len;
            } else {
                find_failed(f, OSYNC_ENOMEM, NULL);
            }
        }
        if (info) openmldb__nameserver__table_info__free_unpacked(info, &osync__protobuf_allocator);
    } else if (status && status != OSYNC_ENOENT) { /* dropped since the list: not found */
        find_failed(f, status, err);
    }
    find_step(f);
}

static void find_step(find_t *f) {
    while (!f->status && !f->info && f->next < f->n && f->open < GETS_AT_ONCE) {
        char path[PATH_SIZE];
        int rc = path_of(f->catalog, path, "/table/db_table_data", f->tids[f->next++]);
        if (!rc) rc = osync__zk_get(f->catalog->zk, path, on_find_get, f);
        if (rc)
            find_failed(f, rc, NULL);
        else
            f->open++;
    }
    if (f->open > 0) return;
    if (f->info) {
        f->cb(f->arg, 0, f->info, f->info_len, NULL);
    } else {
        if (!f->status) f->status = osync__err(&f->err, OSYNC_ENOENT, "table %s.%s doesn't exist", f->db, f->name);
        f->cb(f->arg, f->status, NULL, 0, &f->err);
    }
    find_free(f);
}

static void on_find_list(void *arg, int status, const char *const *names, size_t n, const osync_error_t *err) {
    find_t *f = arg;
    if (status && status != OSYNC_ENOENT) find_failed(f, status, err);
    if (!status && n > 0) {
        f->tids = osync__calloc(n, sizeof *f->tids);
        if (!f->tids) find_failed(f, OSYNC_ENOMEM, NULL);
        for (size_t i = 0; f->tids && i < n; i++) {
            f->tids[i] = osync__strdup(names[i]);
            if (!f->tids[i]) {
                find_failed(f, OSYNC_ENOMEM, NULL);
                break;
            }
            f->n++;
        }
    }
    find_step(f);
}

static int zkc_find(osync__catalog_t *base, const char *db, const char *name, osync__catalog_table_cb cb, void *arg) {
    zk_catalog_t *c = (zk_catalog_t *)base;
    char path[PATH_SIZE];
    int rc = path_of(c, path, "/table/db_table_data", NULL);
    if (rc) return rc;
    find_t *f = osync__calloc(1, sizeof *f);
    if (!f) return OSYNC_ENOMEM;
    f->catalog = c;
    f->db = osync__strdup(db);
    f->name = osync__strdup(name);
    f->cb = cb;
    f->arg = arg;
    rc = !f->db || !f->name ? OSYNC_ENOMEM : osync__zk_list(c->zk, path, on_find_list, f);
    if (rc) find_free(f);
    return rc;
}

static int zkc_get(osync__catalog_t *base, uint32_t tid, osync__catalog_table_cb cb, void *arg) {
    zk_catalog_t *c = (zk_catalog_t *)base;
    char path[PATH_SIZE], leaf[16];
    snprintf(leaf, sizeof leaf, "%" PRIu32, tid);
    int rc = path_of(c, path, "/table/db_table_data", leaf);
    return rc ? rc : osync__zk_get(c->zk, path, cb, arg);
}

static void on_collectors(void *arg, int status, const char *const *names, size_t n, const osync_error_t *err) {
    ask_t *a = arg;
    if (status == OSYNC_ENOENT)
        a->list_cb(a->arg, 0, NULL, 0, NULL);
    else
        a->list_cb(a->arg, status, names, n, err);
    osync__free(a);
}

static int zkc_collectors(osync__catalog_t *base, osync__catalog_list_cb cb, void *arg) {
    zk_catalog_t *c = (zk_catalog_t *)base;
    char path[PATH_SIZE];
    int rc = path_of(c, path, "/sync_tool/collector", NULL);
    if (rc) return rc;
    ask_t *a = osync__calloc(1, sizeof *a);
    if (!a) return OSYNC_ENOMEM;
    *a = (ask_t){.catalog = c, .list_cb = cb, .arg = arg};
    rc = osync__zk_list(c->zk, path, on_collectors, a);
    if (rc) osync__free(a);
    return rc;
}

static void ask_free(ask_t *a) {
    osync__free(a->name);
    osync__free(a);
}

static void on_resolve(void *arg, int status, const void *data, size_t len, const osync_error_t *err) {
    ask_t *a = arg;
    zk_catalog_t *c = a->catalog;
    if (status == 0 && len > 0 && len < ENDPOINT_SIZE) {
        char endpoint[ENDPOINT_SIZE];
        memcpy(endpoint, data, len);
        endpoint[len] = '\0';
        a->name_cb(a->arg, 0, endpoint, NULL);
        ask_free(a);
        return;
    }
    int rc = status == 0 || status == OSYNC_ENOENT ? 0 : status;
    if (!rc && !a->second) { /* then what the server itself has written */
        char path[PATH_SIZE];
        a->second = true;
        rc = path_of(c, path, "/map/names", a->name);
        if (!rc) rc = osync__zk_get(c->zk, path, on_resolve, a);
        if (!rc) return;
        err = NULL;
    }
    osync_error_t own;
    if (rc && !err) {
        osync__err(&own, rc, "name %s: %s", a->name, osync_strerror(rc));
        err = &own;
    }
    a->name_cb(a->arg, rc, rc ? NULL : a->name, rc ? err : NULL);
    ask_free(a);
}

static int zkc_resolve(osync__catalog_t *base, const char *name, osync__catalog_name_cb cb, void *arg) {
    zk_catalog_t *c = (zk_catalog_t *)base;
    char path[PATH_SIZE];
    int rc = path_of(c, path, "/map/sdkendpoints", name);
    if (rc) return rc;
    ask_t *a = osync__calloc(1, sizeof *a);
    if (!a) return OSYNC_ENOMEM;
    *a = (ask_t){.catalog = c, .name = osync__strdup(name), .name_cb = cb, .arg = arg};
    rc = a->name ? osync__zk_get(c->zk, path, on_resolve, a) : OSYNC_ENOMEM;
    if (rc) ask_free(a);
    return rc;
}

static int zkc_local_address(osync__catalog_t *base, char *out, size_t size) {
    return osync__zk_local_address(((zk_catalog_t *)base)->zk, out, size);
}

static void on_zk_closed(void *arg) {
    zk_catalog_t *c = arg;
    void (*closed)(void *) = c->closed;
    void *closed_arg = c->closed_arg;
    osync__free(c->root);
    osync__free(c);
    closed(closed_arg);
}

static void zkc_close(osync__catalog_t *base, void (*cb)(void *arg), void *arg) {
    zk_catalog_t *c = (zk_catalog_t *)base;
    c->closed = cb;
    c->closed_arg = arg;
    osync__zk_close(c->zk, on_zk_closed, c);
}

static const osync__catalog_ops_t zk_catalog_ops = {
    .find = zkc_find,
    .get = zkc_get,
    .collectors = zkc_collectors,
    .resolve = zkc_resolve,
    .local_address = zkc_local_address,
    .close = zkc_close,
};

int osync__zk_catalog_new(uv_loop_t *loop, const osync__zk_catalog_config_t *config, osync__catalog_t **out,
                          osync_error_t *err) {
    int rc = OSYNC_ENOMEM;
    zk_catalog_t *c = osync__calloc(1, sizeof *c);
    if (c) c->root = osync__strdup(config->root);
    if (!c || !c->root) {
        osync__err(err, rc, "zookeeper catalog: out of memory");
        goto fail;
    }
    size_t len = strlen(c->root);
    while (len > 0 && c->root[len - 1] == '/') c->root[--len] = '\0';
    c->base.ops = &zk_catalog_ops;
    osync__zk_config_t zk = {.cluster = config->cluster,
                             .session_timeout_ms = config->session_timeout_ms,
                             .auth_schema = "digest",
                             .cert = config->cert};
    rc = osync__zk_new(loop, &zk, &c->zk, err);
    if (rc) goto fail;
    *out = &c->base;
    return 0;
fail:
    if (c) osync__free(c->root);
    osync__free(c);
    return rc;
}
