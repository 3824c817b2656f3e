/* The checkpoint store in a SQLite file: one table of keys and values on one worker thread of its own. What waits while
 * a transaction runs goes into the next one together (group commit); each request still has an outcome of its own.
 * Nothing is known here about what the values mean. */
#include <limits.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <string.h>
#include <utlist.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/failpoint.h"
#include "base/pool.h"
#include "base/sys.h"
#include "osync/checkpoint.h"

enum {
    MAX_KEY = 512,
    MAX_VALUE = 1024 * 1024,
    SCHEMA_VERSION = 1, /* in the file's user_version */
};

enum op { OP_GET, OP_CAS, OP_LIST };

typedef struct request {
    enum op op;
    char *key;
    void *expected; /* NULL: the key must not exist */
    size_t expected_len;
    void *value; /* OP_CAS: NULL removes; OP_GET: the answer */
    size_t len;
    osync_checkpoint_entry_t *entries; /* OP_LIST's answer */
    size_t n_entries;
    int status;
    union {
        osync_checkpoint_cb cas;
        osync_checkpoint_get_cb get;
        osync_checkpoint_list_cb list;
    } cb;
    void *arg;
    struct request *prev, *next;
} request_t;

enum statement { ST_BEGIN, ST_COMMIT, ST_ROLLBACK, ST_GET, ST_LIST, ST_INSERT, ST_UPDATE, ST_DELETE, N_STATEMENTS };

static const char *const statement_sql[N_STATEMENTS] = {
    [ST_BEGIN] = "BEGIN IMMEDIATE",
    [ST_COMMIT] = "COMMIT",
    [ST_ROLLBACK] = "ROLLBACK",
    [ST_GET] = "SELECT value FROM kv WHERE key = ?1",
    /* Keys are ASCII, so every key that begins with the prefix sorts before the prefix and the last code point. */
    [ST_LIST] = "SELECT key, value FROM kv WHERE key >= ?1 AND key < ?1 || char(1114111) ORDER BY key",
    [ST_INSERT] = "INSERT INTO kv(key, value) VALUES(?1, ?2) ON CONFLICT DO NOTHING",
    [ST_UPDATE] = "UPDATE kv SET value = ?2 WHERE key = ?1 AND value = ?3",
    [ST_DELETE] = "DELETE FROM kv WHERE key = ?1 AND value = ?3",
};

typedef struct store {
    osync_checkpoint_t head;
    osync__pool_t *pool;
    osync__job_t job;
    bool job_under_way;
    bool closing;
    void (*closed)(void *arg);
    void *closed_arg;
    request_t *queued; /* of the loop's thread */
    /* The worker's, while a job is under way. */
    request_t *batch;
    osync_error_t batch_error; /* of a whole batch that failed */
    char *path;
    sqlite3 *db;
    sqlite3_stmt *statements[N_STATEMENTS];
} store_t;

static int code_of(int sqlite_code) {
    switch (sqlite_code & 0xff) {
    case SQLITE_NOMEM:
        return OSYNC_ENOMEM;
    case SQLITE_FULL:
        return OSYNC_ENOSPC;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return OSYNC_ECORRUPT;
    case SQLITE_PERM:
    case SQLITE_READONLY:
    case SQLITE_AUTH:
        return OSYNC_EPERM;
    case SQLITE_TOOBIG:
        return OSYNC_ETOOBIG;
    default:
        return OSYNC_EIO;
    }
}

static int db_error(osync_error_t *err, store_t *s, const char *what) {
    int sqlite_code = sqlite3_extended_errcode(s->db);
    const char *hint = "";
    if ((sqlite_code & 0xff) == SQLITE_FULL) hint = "; free some space on its file system";
    if ((sqlite_code & 0xff) == SQLITE_BUSY) hint = "; another process has it open";
    return osync__err(err, code_of(sqlite_code), "checkpoint %s: %s: %s (SQLite code %d)%s", s->path, what,
                      sqlite3_errmsg(s->db), sqlite_code, hint);
}

/* Worker */

static int run(store_t *s, enum statement which) {
    int rc = sqlite3_step(s->statements[which]);
    int reset = sqlite3_reset(s->statements[which]);
    return rc == SQLITE_DONE || rc == SQLITE_ROW ? 0 : reset ? reset : rc;
}

static int bind_blob(sqlite3_stmt *st, int at, const void *data, size_t len) {
    return sqlite3_bind_blob(st, at, len ? data : "", (int)len, SQLITE_STATIC);
}

static void *copy_of(const void *data, size_t len) {
    char *p = osync__malloc(len + 1);
    if (!p) return NULL;
    if (len) memcpy(p, data, len);
    p[len] = 0;
    return p;
}

static int do_get(store_t *s, request_t *r) {
    sqlite3_stmt *st = s->statements[ST_GET];
    int rc = sqlite3_bind_text(st, 1, r->key, -1, SQLITE_STATIC);
    if (!rc) rc = sqlite3_step(st);
    if (rc == SQLITE_ROW) {
        r->len = (size_t)sqlite3_column_bytes(st, 0);
        r->value = copy_of(sqlite3_column_blob(st, 0), r->len);
        r->status = r->value ? 0 : OSYNC_ENOMEM;
        rc = SQLITE_DONE;
    } else {
        r->status = OSYNC_ENOENT;
    }
    sqlite3_reset(st);
    return rc == SQLITE_DONE ? 0 : rc;
}

static int add_entry(request_t *r, sqlite3_stmt *st) {
    size_t n = r->n_entries;
    if ((n & (n - 1)) == 0) { /* the room doubles at every power of two */
        void *more = osync__realloc(r->entries, (n ? 2 * n : 1) * sizeof r->entries[0]);
        if (!more) return OSYNC_ENOMEM;
        r->entries = more;
    }
    const char *key = (const char *)sqlite3_column_text(st, 0);
    size_t len = (size_t)sqlite3_column_bytes(st, 1);
    osync_checkpoint_entry_t e = {.key = key ? osync__strdup(key) : NULL, .len = len};
    e.value = copy_of(sqlite3_column_blob(st, 1), len);
    r->entries[r->n_entries++] = e;
    return e.key && e.value ? 0 : OSYNC_ENOMEM;
}

static int do_list(store_t *s, request_t *r) {
    sqlite3_stmt *st = s->statements[ST_LIST];
    int rc = sqlite3_bind_text(st, 1, r->key, -1, SQLITE_STATIC);
    if (!rc) rc = sqlite3_step(st);
    for (; rc == SQLITE_ROW && !r->status; rc = sqlite3_step(st)) r->status = add_entry(r, st);
    sqlite3_reset(st);
    return rc == SQLITE_DONE || r->status ? 0 : rc;
}

/* The whole value is compared, so a store that was lost and rebuilt can't look like the old one (A9). */
static int do_cas(store_t *s, request_t *r) {
    if (!r->expected && !r->value) {
        int rc = do_get(s, r);
        if (!rc && r->status != OSYNC_ENOMEM) r->status = r->status == OSYNC_ENOENT ? 0 : OSYNC_ECONFLICT;
        return rc;
    }
    enum statement which = !r->expected ? ST_INSERT : r->value ? ST_UPDATE : ST_DELETE;
    sqlite3_stmt *st = s->statements[which];
    int rc = sqlite3_bind_text(st, 1, r->key, -1, SQLITE_STATIC);
    if (!rc && r->value) rc = bind_blob(st, 2, r->value, r->len);
    if (!rc && r->expected) rc = bind_blob(st, 3, r->expected, r->expected_len);
    if (!rc) rc = run(s, which);
    if (!rc) r->status = sqlite3_changes(s->db) == 1 ? 0 : OSYNC_ECONFLICT;
    sqlite3_clear_bindings(st);
    return rc;
}

static int do_batch(store_t *s) {
    static int (*const handlers[])(store_t *,
                                   request_t *) = {[OP_GET] = do_get, [OP_CAS] = do_cas, [OP_LIST] = do_list};
    if (run(s, ST_BEGIN)) return db_error(&s->batch_error, s, "begin");
    request_t *r;
    bool changes = false;
    DL_FOREACH(s->batch, r) {
        if (handlers[r->op](s, r)) return db_error(&s->batch_error, s, r->key);
        changes = changes || r->op == OP_CAS;
    }
    if (changes) OSYNC__BEFORE(sqlite_commit);
    int rc = run(s, ST_COMMIT) ? db_error(&s->batch_error, s, "commit") : 0;
    if (changes) OSYNC__AFTER(sqlite_commit);
    return rc;
}

static void work(osync__job_t *job) {
    store_t *s = job->arg;
    s->batch_error.code = 0;
    /* A batch is done as a whole or not at all, so its error is everybody's. */
    if (do_batch(s) && !sqlite3_get_autocommit(s->db)) (void)run(s, ST_ROLLBACK);
}

static void db_close(store_t *s) {
    for (int i = 0; i < N_STATEMENTS; i++) sqlite3_finalize(s->statements[i]);
    sqlite3_close(s->db);
    s->db = NULL;
}

static void work_close(osync__job_t *job) {
    OSYNC__BEFORE(sqlite_close);
    db_close(job->arg);
    OSYNC__AFTER(sqlite_close);
}

/* Loop */

static void request_free(request_t *r) {
    for (size_t i = 0; i < r->n_entries; i++) {
        osync__free((void *)(uintptr_t)r->entries[i].key);
        osync__free((void *)(uintptr_t)r->entries[i].value);
    }
    osync__free(r->entries);
    osync__free(r->key);
    osync__free(r->expected);
    osync__free(r->value);
    osync__free(r);
}

static void answer(store_t *s, request_t *r, const osync_error_t *batch_error) {
    osync_error_t err = {0};
    if (batch_error->code) {
        err = *batch_error;
    } else if (r->status == OSYNC_ECONFLICT) {
        osync__err(&err, r->status, "checkpoint %s: %s holds another value than expected: another owner has changed it",
                   s->path, r->key);
    } else if (r->status) {
        osync__err(&err, r->status, "checkpoint %s: %s: %s", s->path, r->key, osync_strerror(r->status));
    }
    const osync_error_t *e = err.code ? &err : NULL;
    if (r->op == OP_CAS)
        r->cb.cas(r->arg, err.code, e);
    else if (r->op == OP_GET)
        r->cb.get(r->arg, err.code, e ? NULL : r->value, e ? 0 : r->len, e);
    else
        r->cb.list(r->arg, err.code, e ? NULL : r->entries, e ? 0 : r->n_entries, e);
}

static void next_batch(store_t *s);

static void work_done(osync__job_t *job) {
    store_t *s = job->arg;
    request_t *batch = s->batch, *r, *tmp;
    osync_error_t err = s->batch_error;
    s->batch = NULL;
    s->job_under_way = false;
    next_batch(s); /* works while the callbacks run */
    DL_FOREACH_SAFE(batch, r, tmp) {
        DL_DELETE(batch, r);
        answer(s, r, &err);
        request_free(r);
    }
    if (!s->job_under_way) next_batch(s);
}

static void on_pool_closed(void *arg) {
    store_t *s = arg;
    void (*closed)(void *) = s->closed;
    void *closed_arg = s->closed_arg;
    osync__free(s->path);
    osync__free(s);
    if (closed) closed(closed_arg);
}

static void close_done(osync__job_t *job) {
    store_t *s = job->arg;
    osync__pool_close(s->pool, on_pool_closed, s);
}

static void next_batch(store_t *s) {
    if (s->job_under_way) return;
    if (s->queued) {
        s->batch = s->queued;
        s->queued = NULL;
        s->job = (osync__job_t){.work = work, .done = work_done, .arg = s};
    } else if (s->closing) {
        s->job = (osync__job_t){.work = work_close, .done = close_done, .arg = s};
    } else {
        return;
    }
    s->job_under_way = true;
    osync__pool_submit(s->pool, &s->job);
}

static int submit(store_t *s, const request_t *from, const char *key) {
    if (s->closing) return OSYNC_ECLOSED;
    size_t key_len = strnlen(key, MAX_KEY + 1);
    if (key_len > MAX_KEY || from->len > MAX_VALUE || from->expected_len > MAX_VALUE) return OSYNC_ETOOBIG;
    for (size_t i = 0; i < key_len; i++)
        if ((unsigned char)key[i] >= 0x80) return OSYNC_EINVAL;
    request_t *r = osync__malloc(sizeof *r);
    if (!r) return OSYNC_ENOMEM;
    *r = *from;
    r->key = osync__strdup(key);
    r->expected = from->expected ? copy_of(from->expected, from->expected_len) : NULL;
    r->value = from->value ? copy_of(from->value, from->len) : NULL;
    if (!r->key || (from->expected && !r->expected) || (from->value && !r->value)) {
        request_free(r);
        return OSYNC_ENOMEM;
    }
    DL_APPEND(s->queued, r);
    next_batch(s);
    return 0;
}

static int store_get(osync_checkpoint_t *store, const char *key, osync_checkpoint_get_cb cb, void *arg) {
    if (!*key) return OSYNC_EINVAL;
    return submit((store_t *)store, &(request_t){.op = OP_GET, .cb.get = cb, .arg = arg}, key);
}

static int store_list(osync_checkpoint_t *store, const char *prefix, osync_checkpoint_list_cb cb, void *arg) {
    return submit((store_t *)store, &(request_t){.op = OP_LIST, .cb.list = cb, .arg = arg}, prefix);
}

static int store_cas(osync_checkpoint_t *store, const char *key, const void *expected, size_t expected_len,
                     const void *value, size_t len, osync_checkpoint_cb cb, void *arg) {
    if (!*key) return OSYNC_EINVAL;
    request_t r = {.op = OP_CAS, .cb.cas = cb, .arg = arg};
    r.expected = (void *)(uintptr_t)expected;
    r.expected_len = expected ? expected_len : 0;
    r.value = (void *)(uintptr_t)value;
    r.len = value ? len : 0;
    return submit((store_t *)store, &r, key);
}

static void store_close(osync_checkpoint_t *store, void (*cb)(void *arg), void *arg) {
    store_t *s = (store_t *)store;
    s->closing = true;
    s->closed = cb;
    s->closed_arg = arg;
    next_batch(s);
}

static const osync_checkpoint_ops_t store_ops = {.size = sizeof(osync_checkpoint_ops_t),
                                                 .get = store_get,
                                                 .cas = store_cas,
                                                 .list = store_list,
                                                 .close = store_close};

/* Opening */

static int make_folder(const char *path, osync_error_t *err) {
    const char *slash = strrchr(path, '/');
    char *dir = slash == path ? osync__strdup("/")
                : slash       ? osync__strndup(path, (size_t)(slash - path))
                              : osync__strdup(".");
    if (!dir) return osync__err(err, OSYNC_ENOMEM, "checkpoint %s: out of memory", path);
    int rc = osync__mkdirs(dir, err);
    osync__free(dir);
    return rc ? osync__err_wrap(err, err, "checkpoint %s", path) : 0;
}

/* The file's name, and the names of the folders above it, must survive a power cut as its content does. Those folders
 * may have been made just now; one that we may not even open was not. */
static int sync_names(const char *path, osync_error_t *err) {
    char *dir = osync__strdup(path), *slash;
    int rc = dir ? 0 : osync__err(err, OSYNC_ENOMEM, "checkpoint %s: out of memory", path);
    if (!rc && !strchr(dir, '/')) rc = osync__fsync_dir(".", err);
    for (bool own = true; !rc && (slash = strrchr(dir, '/')); own = false) {
        *slash = 0;
        rc = osync__fsync_dir(*dir ? dir : "/", err);
        if (rc == OSYNC_EPERM && !own) rc = 0;
    }
    osync__free(dir);
    return rc;
}

static int db_exec(store_t *s, const char *sql, osync_error_t *err) {
    if (sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK) return 0;
    if ((sqlite3_errcode(s->db) & 0xff) == SQLITE_BUSY)
        return osync__err(err, OSYNC_ECONFLICT, "checkpoint %s is in use by another process: only one may have it open",
                          s->path);
    return db_error(err, s, sql);
}

static int db_version(store_t *s, int *out, osync_error_t *err) {
    sqlite3_stmt *st = NULL;
    if (sqlite3_prepare_v2(s->db, "PRAGMA user_version", -1, &st, NULL) || sqlite3_step(st) != SQLITE_ROW) {
        sqlite3_finalize(st);
        return db_error(err, s, "read its version");
    }
    *out = sqlite3_column_int(st, 0);
    sqlite3_finalize(st);
    return 0;
}

static int db_open(store_t *s, osync_error_t *err) {
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    int version = 0, rc = 0;
    OSYNC__BEFORE(sqlite_open);
    rc = sqlite3_open_v2(s->path, &s->db, flags, NULL);
    OSYNC__AFTER(sqlite_open);
    if (rc) return db_error(err, s, "open");
    sqlite3_extended_result_codes(s->db, 1);
    /* Exclusive before WAL, so that no shared memory file is used; the lock is taken by the first transaction and kept:
     * a second scheduler can't work on this store (A15). */
    if ((rc = db_exec(s, "PRAGMA locking_mode = EXCLUSIVE", err)) ||
        (rc = db_exec(s, "PRAGMA journal_mode = WAL", err)) || (rc = db_exec(s, "PRAGMA synchronous = FULL", err)) ||
        (rc = db_exec(s, "BEGIN EXCLUSIVE", err)) || (rc = db_version(s, &version, err)))
        return rc;
    if (version != 0 && version != SCHEMA_VERSION)
        return osync__err(
            err, OSYNC_ENOTSUP,
            "checkpoint %s has schema version %d, this program knows %d: it was written by another version", s->path,
            version, SCHEMA_VERSION);
    if (version == 0) {
        OSYNC__BEFORE(sqlite_schema);
        rc = db_exec(s,
                     "CREATE TABLE kv(key TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;"
                     "PRAGMA user_version = 1",
                     err);
    }
    if (!rc) rc = db_exec(s, "COMMIT", err);
    if (version == 0) OSYNC__AFTER(sqlite_schema);
    if (rc) return rc;
    OSYNC__BEFORE(sqlite_dirsync);
    rc = sync_names(s->path, err);
    OSYNC__AFTER(sqlite_dirsync);
    if (rc) return rc;
    for (int i = 0; i < N_STATEMENTS; i++)
        if (sqlite3_prepare_v3(s->db, statement_sql[i], -1, SQLITE_PREPARE_PERSISTENT, &s->statements[i], NULL))
            return db_error(err, s, statement_sql[i]);
    return 0;
}

int osync_sqlite_checkpoint_new(osync_checkpoint_t **out, uv_loop_t *loop, const char *path, osync_error_t *err) {
    _Static_assert(SCHEMA_VERSION == 1, "db_open writes the version as a literal");
    int rc = 0;
    store_t *s = NULL;
    if (!path || !*path) return osync__err(err, OSYNC_EINVAL, "checkpoint: no path");
    s = osync__calloc(1, sizeof *s);
    if (!s || !(s->path = osync__strdup(path))) {
        rc = osync__err(err, OSYNC_ENOMEM, "checkpoint: out of memory");
        goto done;
    }
    s->head.ops = &store_ops;
    if ((rc = make_folder(path, err)) || (rc = db_open(s, err)) || (rc = osync__pool_new(loop, 1, &s->pool, err)))
        goto done;
    *out = &s->head;
    s = NULL;
done:
    if (s) {
        if (s->db) db_close(s);
        osync__free(s->path);
        osync__free(s);
    }
    return rc;
}
