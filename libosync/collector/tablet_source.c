#include "collector/tablet_source.h"

#include <stdbool.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/sys.h"
#include "collector/roots.h"
#include "tablet.pb-c.h"

#define TABLET_SERVICE "openmldb.api.TabletServer"

typedef struct request request_t;

typedef struct tablet_source {
    osync_source_t head;
    osync__tablet_source_config_t config;
    request_t *requests; /* that are open, by their callback's argument */
} tablet_source_t;

struct request {
    tablet_source_t *source;
    void *arg;
    osync_source_files_cb files_cb; /* one of the two */
    osync_source_meta_cb meta_cb;
    uint32_t tid, pid;
    char *tablet;
    uint64_t call_id;
    bool calling, canceled;
    osync__job_t job;
    int job_rc;
    osync_error_t job_err;
    /* of a memory table: its folder once it is found, and the last log entry that is in it */
    char *dir;
    uint64_t dir_tail, tablet_tail;
    UT_hash_handle hh;
};

static void ask_status(request_t *r);

/* ---- a request's beginning and end ---- */

static int begin(request_t **out, tablet_source_t *s, const osync_source_partition_t *partition, void *arg) {
    request_t *r = osync__calloc(1, sizeof *r);
    if (!r) return OSYNC_ENOMEM;
    r->source = s;
    r->tid = partition->tid;
    r->pid = partition->pid;
    r->arg = arg;
    r->tablet = osync__strdup(partition->tablet);
    if (r->tablet) HASH_ADD_PTR(s->requests, arg, r);
    if (!r->tablet || !r->hh.tbl) {
        osync__free(r->tablet);
        osync__free(r);
        return OSYNC_ENOMEM;
    }
    *out = r;
    return 0;
}

static void finish(request_t *r, const osync_source_files_t *files, const osync__buf_t *meta,
                   const osync_error_t *err) {
    HASH_DEL(r->source->requests, r); /* the callback may ask the next thing */
    int status = err ? err->code : 0;
    if (r->files_cb)
        r->files_cb(r->arg, status, files, err);
    else
        r->meta_cb(r->arg, status, meta ? meta->data : NULL, meta ? meta->len : 0, err);
    osync__free(r->tablet);
    osync__free(r->dir);
    osync__free(r);
}

/* A TabletServer, or who runs it, may mend anything while it is asked again. */
static void fail(request_t *r, osync_error_t *err) {
    if (!osync_err_retriable(err->code) && !r->canceled) err->code = OSYNC_EAGAIN;
    finish(r, NULL, NULL, err);
}

/* Between two steps; true if this was the end. */
static bool was_canceled(request_t *r) {
    osync_error_t err;
    if (!r->canceled) return false;
    osync__err(&err, OSYNC_ECANCELED, "the question to the TabletServer was canceled");
    fail(r, &err);
    return true;
}

/* ---- jobs ---- */

static void submit(request_t *r, void (*work)(osync__job_t *), void (*done)(osync__job_t *)) {
    r->job = (osync__job_t){.work = work, .done = done, .arg = r};
    osync__pool_submit(r->source->config.pool, &r->job);
}

static void no_work(osync__job_t *job) {
    (void)job;
}

static void on_refused(osync__job_t *job) {
    request_t *r = job->arg;
    fail(r, &r->job_err);
}

static void call(request_t *r, const char *method, const ProtobufCMessage *message,
                 const ProtobufCMessageDescriptor *response, osync__rpc_cb cb) {
    osync_error_t err;
    const osync__tablet_source_config_t *config = &r->source->config;
    int rc = osync__rpc_call(config->client, r->tablet, TABLET_SERVICE, method, message, NULL, 0, response,
                             config->request_timeout_ms, cb, r, &r->call_id, &err);
    r->calling = rc == 0;
    if (!rc) return;
    /* By way of the pool, since no callback may come from inside the source's call. */
    osync__err_wrap(&r->job_err, &err, "init tablet client failed: tablet_endpoint '%s'", r->tablet);
    submit(r, no_work, on_refused);
}

/* ---- files ---- */

static void find_work(osync__job_t *job) {
    request_t *r = job->arg;
    r->job_rc = osync__roots_find(r->source->config.db_root_path, r->tid, r->pid, r->tablet_tail, &r->dir, &r->dir_tail,
                                  &r->job_err);
}

static void on_found(osync__job_t *job) {
    request_t *r = job->arg;
    if (was_canceled(r)) return;
    if (r->job_rc)
        fail(r, &r->job_err);
    else
        ask_status(r);
}

static void answer_files(request_t *r, const char *snapshot, const char *binlog, bool memory) {
    osync_source_files_t files = {
        .size = sizeof files, .snapshot_dir = snapshot, .binlog_dir = binlog, .memory = memory};
    finish(r, &files, NULL, NULL);
}

static void take_memory(request_t *r, uint64_t tail) {
    osync_error_t err = {0};
    if (!r->dir) {
        r->tablet_tail = tail;
        submit(r, find_work, on_found);
        return;
    }
    char *snapshot = osync__format("%s/snapshot", r->dir), *binlog = osync__format("%s/binlog", r->dir);
    if (!snapshot || !binlog)
        osync__err(&err, OSYNC_ENOMEM, "out of memory");
    else if (tail < r->dir_tail)
        osync__roots_mismatch(binlog, r->dir_tail, tail, &err);
    if (err.code)
        fail(r, &err);
    else
        answer_files(r, snapshot, binlog, true);
    osync__free(snapshot);
    osync__free(binlog);
}

static bool is_memory(const Openmldb__Api__TableStatus *s) {
    return s->storage_mode == OPENMLDB__COMMON__STORAGE_MODE__kMemory;
}

/* What isn't fit for a task; NULL: it is. */
static const char *fault_of(const Openmldb__Api__TableStatus *s, const char *db_root_path) {
    if (!s) return "";
    if (s->storage_mode == OPENMLDB__COMMON__STORAGE_MODE__kUnknown) return "storage_mode is kUnknown";
    if (is_memory(s)) return db_root_path && *db_root_path ? NULL : OSYNC__ROOTS_MISSING;
    if (!s->snapshot_path || s->snapshot_path[0] != '/') return "snapshot_path isn't an absolute path";
    if (!s->binlog_path || s->binlog_path[0] != '/') return "binlog_path isn't an absolute path";
    return NULL;
}

static void on_status(void *arg, int status, const ProtobufCMessage *message, const osync_error_t *rpc_err) {
    request_t *r = arg;
    osync_error_t err = {0};
    const Openmldb__Api__GetTableStatusResponse *a =
        (const Openmldb__Api__GetTableStatusResponse *)(const void *)message;
    const Openmldb__Api__TableStatus *s = NULL;
    r->calling = false;
    if (was_canceled(r)) return;
    if (status || a->code) {
        osync__err(&err, status ? status : OSYNC_ERPC,
                   "get table status from tablet server failed, maybe table doesn't exist: %s",
                   status ? rpc_err->message : (a->msg ? a->msg : "no reason given"));
        fail(r, &err);
        return;
    }
    for (size_t i = 0; i < a->n_all_table_status; i++)
        if (a->all_table_status[i]->tid == r->tid && a->all_table_status[i]->pid == r->pid) s = a->all_table_status[i];
    const char *fault = fault_of(s, r->source->config.db_root_path);
    if (fault) {
        osync__err(&err, OSYNC_EAGAIN, "table status is not valid: %s", fault);
        fail(r, &err);
    } else if (is_memory(s)) {
        take_memory(r, s->offset);
    } else {
        answer_files(r, s->snapshot_path, s->binlog_path, false);
    }
}

static void ask_status(request_t *r) {
    Openmldb__Api__GetTableStatusRequest q = OPENMLDB__API__GET_TABLE_STATUS_REQUEST__INIT;
    q.has_tid = q.has_pid = q.has_need_schema = 1;
    q.tid = r->tid;
    q.pid = r->pid;
    call(r, "GetTableStatus", &q.base, &openmldb__api__get_table_status_response__descriptor, on_status);
}

static int tablet_files(osync_source_t *source, const osync_source_partition_t *partition, osync_source_files_cb cb,
                        void *arg) {
    request_t *r = NULL;
    int rc = begin(&r, (tablet_source_t *)source, partition, arg);
    if (rc) return rc;
    r->files_cb = cb;
    ask_status(r);
    return 0;
}

/* ---- meta ---- */

static void on_schema(void *arg, int status, const ProtobufCMessage *message, const osync_error_t *rpc_err) {
    request_t *r = arg;
    osync_error_t err = {0};
    osync__buf_t meta = {0};
    const Openmldb__Api__GetTableSchemaResponse *a =
        (const Openmldb__Api__GetTableSchemaResponse *)(const void *)message;
    r->calling = false;
    if (was_canceled(r)) return;
    if (status || a->code || !a->table_meta)
        osync__err(&err, status ? status : OSYNC_ERPC, "get table schema from tablet server failed: %s",
                   status   ? rpc_err->message
                   : a->msg ? a->msg
                            : "the answer holds no table_meta");
    else if (osync__buf_reserve(&meta, openmldb__api__table_meta__get_packed_size(a->table_meta)))
        osync__err(&err, OSYNC_ENOMEM, "out of memory");
    else
        meta.len = openmldb__api__table_meta__pack(a->table_meta, meta.data);
    if (err.code)
        fail(r, &err);
    else
        finish(r, NULL, &meta, NULL);
    osync__buf_free(&meta);
}

static int tablet_meta(osync_source_t *source, const osync_source_partition_t *partition, osync_source_meta_cb cb,
                       void *arg) {
    request_t *r = NULL;
    Openmldb__Api__GetTableSchemaRequest q = OPENMLDB__API__GET_TABLE_SCHEMA_REQUEST__INIT;
    int rc = begin(&r, (tablet_source_t *)source, partition, arg);
    if (rc) return rc;
    r->meta_cb = cb;
    q.has_tid = q.has_pid = 1;
    q.tid = (int32_t)r->tid;
    q.pid = (int32_t)r->pid;
    call(r, "GetTableSchema", &q.base, &openmldb__api__get_table_schema_response__descriptor, on_schema);
    return 0;
}

/* ---- the source ---- */

static void tablet_cancel(osync_source_t *source, void *arg) {
    tablet_source_t *s = (tablet_source_t *)source;
    request_t *r = NULL;
    HASH_FIND_PTR(s->requests, &arg, r);
    if (!r) return;
    r->canceled = true;
    if (r->calling) osync__rpc_cancel(s->config.client, r->call_id);
}

static const osync_source_ops_t tablet_ops = {
    .size = sizeof(osync_source_ops_t), .files = tablet_files, .meta = tablet_meta, .cancel = tablet_cancel};

int osync__tablet_source_new(osync_source_t **out, const osync__tablet_source_config_t *config, osync_error_t *err) {
    tablet_source_t *s = osync__calloc(1, sizeof *s);
    if (!s) return osync__err(err, OSYNC_ENOMEM, "out of memory");
    s->head.ops = &tablet_ops;
    s->config = *config;
    *out = &s->head;
    return 0;
}

void osync__tablet_source_free(osync_source_t *source) {
    osync__free(source);
}
