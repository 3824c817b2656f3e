/* The scheduler against a scripted catalog, scripted collectors and the file sink. What a ZooKeeper, a real collector
 * and HDFS do with it is in tests/e2e. A number in a name is that of a defect of OpenMLDB's own sync tool that must not
 * exist here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/sys.h"
#include "row_builder.h"
#include "scheduler/internal.h"

enum { MAX_TABLES = 4, MAX_COLLECTORS = 3, MAX_ADDS = 256, WAIT_MS = 20000 };

#define BIGINT OPENMLDB__TYPE__DATA_TYPE__kBigInt
#define STRING OPENMLDB__TYPE__DATA_TYPE__kString
#define INT    OPENMLDB__TYPE__DATA_TYPE__kInt

#define APPEND    OPENMLDB__DATASYNC__CREATE_START__kStartAppend
#define RESTART   OPENMLDB__DATASYNC__CREATE_START__kStartRestart
#define CONTINUE  OPENMLDB__DATASYNC__CREATE_START__kStartContinue
#define AT_POINTS OPENMLDB__DATASYNC__CREATE_START__kStartAtPoints

/* ---- what the tests run on ---- */

typedef struct table {
    uint32_t tid;
    const char *name;
    unsigned partitions;
    int mode; /* storage */
    unsigned columns;
    const char *leader; /* NULL: none */
    bool dead;          /* is_alive of the leader */
    bool reversed;      /* partitions in descending order, with a dead former leader in front */
    bool dropped;
    const char *follower; /* NULL: none */
} table_t;

typedef struct add {
    uint32_t tid, pid;
    char token[64], tablet[64], to[64], dest[256];
    uint64_t point; /* 0: the beginning */
    bool osync, direct, has_start_ts;
    uint64_t start_ts;
    int mode, collector;
} add_t;

typedef struct hold {
    uint32_t tid, pid;
    char task_id[40], tablet[64];
    uint64_t committed;
    bool release;
    int collector;
} hold_t;

struct env;
typedef struct collector {
    struct env *env;
    osync__rpc_server_t *server;
    char endpoint[64];
    bool registered, hold;
    int code;
    osync__rpc_call_t *held;
} collector_t;

typedef struct catalog {
    osync__catalog_t base;
    struct env *env;
} catalog_t;

typedef struct env {
    uv_loop_t loop;
    char dir[64];
    osync_scheduler_t *s;
    osync__rpc_client_t *client;
    collector_t collectors[MAX_COLLECTORS];
    add_t adds[MAX_ADDS];
    size_t n_adds;
    hold_t holds[MAX_ADDS];
    size_t n_holds;
    table_t tables[MAX_TABLES];
    bool away; /* the catalog */
    bool hold_writes, sink_down;
    size_t catalog_calls;
    osync_scheduler_config_t config;
    const char *local;
    bool ended;
} env_t;

static void on_flag(void *arg) {
    *(bool *)arg = true;
}

static void on_late(uv_timer_t *t) {
    *(bool *)t->data = true;
}

/* Runs the loop until the condition holds, or fails. */
#define WAIT(env, condition)                                                                                           \
    do {                                                                                                               \
        bool late_ = false;                                                                                            \
        uv_timer_t timer_;                                                                                             \
        uv_timer_init(&(env)->loop, &timer_);                                                                          \
        timer_.data = &late_;                                                                                          \
        uv_timer_start(&timer_, on_late, WAIT_MS, 0);                                                                  \
        while (!(condition) && !late_) uv_run(&(env)->loop, UV_RUN_ONCE);                                              \
        uv_close((uv_handle_t *)&timer_, NULL);                                                                        \
        uv_run(&(env)->loop, UV_RUN_NOWAIT);                                                                           \
        if (late_) fail_msg("waited too long for: %s", #condition);                                                    \
    } while (0)

static void run_for(env_t *e, uint64_t ms) {
    uint64_t until = osync__mono_ms() + ms;
    WAIT(e, osync__mono_ms() >= until);
}

/* ---- the catalog ---- */

typedef struct question {
    uv_timer_t timer;
    env_t *env;
    osync__catalog_table_cb table_cb;
    osync__catalog_list_cb list_cb;
    osync__catalog_name_cb name_cb;
    void *arg;
    char db[32], name[64];
    uint32_t tid;
} question_t;

static size_t open_questions;

static void on_question_closed(uv_handle_t *h) {
    free(h->data);
    open_questions--;
}

static void make_info(const table_t *t, osync__buf_t *out) {
    Openmldb__Nameserver__TableInfo info = OPENMLDB__NAMESERVER__TABLE_INFO__INIT;
    Openmldb__Common__ColumnDesc columns[3], *base[3], *added[1];
    Openmldb__Common__ColumnKey key = OPENMLDB__COMMON__COLUMN_KEY__INIT, *keys[] = {&key};
    Openmldb__Common__VersionPair pair = OPENMLDB__COMMON__VERSION_PAIR__INIT, *pairs[] = {&pair};
    Openmldb__Nameserver__TablePartition partitions[8], *partition_pointers[8];
    Openmldb__Nameserver__PartitionMeta metas[8][3], *meta_pointers[8][3];
    char names[3][4] = {"c0", "c1", "c2"}, index[] = "i0", db[] = "db1", *cols[] = {names[0]}, old[] = "10.9.9.9:1";
    static const int types[] = {BIGINT, STRING, INT};
    for (size_t i = 0; i < 3; i++) {
        columns[i] = (Openmldb__Common__ColumnDesc)OPENMLDB__COMMON__COLUMN_DESC__INIT;
        columns[i].name = names[i];
        columns[i].has_data_type = 1;
        columns[i].data_type = (Openmldb__Type__DataType)types[i];
        base[i] = &columns[i];
    }
    added[0] = &columns[2];
    key.index_name = index;
    key.n_col_name = 1;
    key.col_name = cols;
    pair.has_id = pair.has_field_count = 1;
    pair.id = 2;
    pair.field_count = 3;
    for (unsigned i = 0; i < t->partitions; i++) {
        unsigned pid = t->reversed ? t->partitions - 1 - i : i;
        size_t n = 0;
        partitions[i] = (Openmldb__Nameserver__TablePartition)OPENMLDB__NAMESERVER__TABLE_PARTITION__INIT;
        partitions[i].pid = pid;
        for (size_t m = 0; m < 3; m++) {
            metas[i][m] = (Openmldb__Nameserver__PartitionMeta)OPENMLDB__NAMESERVER__PARTITION_META__INIT;
            meta_pointers[i][m] = &metas[i][m];
        }
        if (t->reversed) {
            metas[i][n].endpoint = old;
            metas[i][n].is_leader = 1;
            metas[i][n].has_is_alive = 1;
            metas[i][n++].is_alive = 0;
        }
        metas[i][n].endpoint = (char *)(uintptr_t)(t->leader ? t->leader : "127.0.0.1:1");
        metas[i][n].is_leader = t->leader != NULL;
        metas[i][n].has_is_alive = 1;
        metas[i][n++].is_alive = !t->dead;
        if (t->follower) {
            metas[i][n].endpoint = (char *)(uintptr_t)t->follower;
            metas[i][n].has_is_alive = 1;
            metas[i][n++].is_alive = 1;
        }
        partitions[i].n_partition_meta = n;
        partitions[i].partition_meta = meta_pointers[i];
        partition_pointers[i] = &partitions[i];
    }
    info.name = (char *)(uintptr_t)t->name;
    info.db = db;
    info.has_tid = 1;
    info.tid = t->tid;
    info.n_table_partition = t->partitions;
    info.table_partition = partition_pointers;
    info.n_column_desc = 2;
    info.column_desc = base;
    info.n_column_key = 1;
    info.column_key = keys;
    info.n_added_column_desc = t->columns > 2;
    info.added_column_desc = added;
    info.n_schema_versions = t->columns > 2;
    info.schema_versions = pairs;
    info.has_storage_mode = 1;
    info.storage_mode = (Openmldb__Common__StorageMode)t->mode;
    size_t len = openmldb__nameserver__table_info__get_packed_size(&info);
    assert_int_equal(osync__buf_reserve(out, len), 0);
    out->len = openmldb__nameserver__table_info__pack(&info, out->data);
}

static void on_question(uv_timer_t *timer) {
    question_t *q = timer->data;
    env_t *e = q->env;
    osync_error_t err;
    int rc = e->away ? osync__err(&err, OSYNC_ECONN, "connection loss") : 0;
    if (q->table_cb) {
        const table_t *t = NULL;
        osync__buf_t info = {0};
        for (size_t i = 0; i < MAX_TABLES && !t; i++) {
            const table_t *c = &e->tables[i];
            if (!c->name || c->dropped) continue;
            if (*q->name ? strcmp(q->db, "db1") == 0 && strcmp(c->name, q->name) == 0 : c->tid == q->tid) t = c;
        }
        if (!rc && !t) rc = osync__err(&err, OSYNC_ENOENT, "no node");
        if (!rc) make_info(t, &info);
        q->table_cb(q->arg, rc, info.data, info.len, rc ? &err : NULL);
        osync__buf_free(&info);
    } else if (q->list_cb) {
        const char *names[MAX_COLLECTORS];
        size_t n = 0;
        for (size_t i = 0; i < MAX_COLLECTORS; i++)
            if (e->collectors[i].registered) names[n++] = e->collectors[i].endpoint;
        q->list_cb(q->arg, rc, names, rc ? 0 : n, rc ? &err : NULL);
    } else {
        q->name_cb(q->arg, rc, "127.0.0.1:4444", rc ? &err : NULL); /* every name is the same machine */
    }
    uv_close((uv_handle_t *)timer, on_question_closed);
}

static question_t *question(osync__catalog_t *base, void *arg) {
    question_t *q = calloc(1, sizeof *q);
    q->env = ((catalog_t *)base)->env;
    q->env->catalog_calls++;
    q->arg = arg;
    uv_timer_init(&q->env->loop, &q->timer);
    q->timer.data = q;
    uv_timer_start(&q->timer, on_question, 0, 0);
    open_questions++;
    return q;
}

static int catalog_find(osync__catalog_t *base, const char *db, const char *name, osync__catalog_table_cb cb,
                        void *arg) {
    question_t *q = question(base, arg);
    snprintf(q->db, sizeof q->db, "%s", db);
    snprintf(q->name, sizeof q->name, "%s", *name ? name : "?");
    q->table_cb = cb;
    return 0;
}

static int catalog_get(osync__catalog_t *base, uint32_t tid, osync__catalog_table_cb cb, void *arg) {
    question_t *q = question(base, arg);
    q->tid = tid;
    q->table_cb = cb;
    return 0;
}

static int catalog_collectors(osync__catalog_t *base, osync__catalog_list_cb cb, void *arg) {
    question(base, arg)->list_cb = cb;
    return 0;
}

static int catalog_resolve(osync__catalog_t *base, const char *name, osync__catalog_name_cb cb, void *arg) {
    question(base, arg)->name_cb = cb;
    return 0;
}

static int catalog_local(osync__catalog_t *base, char *out, size_t size) {
    snprintf(out, size, "%s", ((catalog_t *)base)->env->local);
    return 0;
}

typedef struct ending {
    uv_timer_t timer;
    osync__catalog_t *catalog;
    void (*cb)(void *arg);
    void *arg;
} ending_t;

static void on_ending_closed(uv_handle_t *h) {
    free(h->data);
}

/* Open questions are answered first. */
static void on_ending(uv_timer_t *timer) {
    ending_t *x = timer->data;
    if (open_questions > 0) return;
    uv_timer_stop(timer);
    free(x->catalog);
    x->cb(x->arg);
    uv_close((uv_handle_t *)timer, on_ending_closed);
}

static void catalog_close(osync__catalog_t *base, void (*cb)(void *arg), void *arg) {
    ending_t *x = calloc(1, sizeof *x);
    x->catalog = base;
    x->cb = cb;
    x->arg = arg;
    uv_timer_init(&((catalog_t *)base)->env->loop, &x->timer);
    x->timer.data = x;
    uv_timer_start(&x->timer, on_ending, 0, 1);
}

static const osync__catalog_ops_t catalog_ops = {catalog_find,    catalog_get,   catalog_collectors,
                                                 catalog_resolve, catalog_local, catalog_close};

/* ---- collectors ---- */

static uint64_t point_number(const Openmldb__Datasync__SyncPoint *p) {
    return p && p->type == OPENMLDB__DATASYNC__SYNC_TYPE__kBINLOG ? p->offset : 0;
}

static void on_add(osync__rpc_call_t *call, void *arg) {
    collector_t *c = arg;
    env_t *e = c->env;
    const Openmldb__Datasync__AddSyncTaskRequest *r =
        (const Openmldb__Datasync__AddSyncTaskRequest *)osync__rpc_request(call);
    assert_true(e->n_adds < MAX_ADDS);
    add_t *a = &e->adds[e->n_adds++];
    *a = (add_t){.tid = r->tid,
                 .pid = r->pid,
                 .point = point_number(r->sync_point),
                 .osync = r->osync,
                 .direct = r->direct,
                 .has_start_ts = r->has_start_ts,
                 .start_ts = r->start_ts,
                 .mode = (int)r->mode,
                 .collector = (int)(c - e->collectors)};
    snprintf(a->token, sizeof a->token, "%s", r->token);
    snprintf(a->tablet, sizeof a->tablet, "%s", r->tablet_endpoint);
    snprintf(a->to, sizeof a->to, "%s", r->des_endpoint);
    snprintf(a->dest, sizeof a->dest, "%s", r->dest);
    if (c->hold && !c->held)
        c->held = call;
    else
        osync__sched_reply_general(call, c->code, c->code ? "refused by stub" : NULL);
}

static void on_hold(osync__rpc_call_t *call, void *arg) {
    collector_t *c = arg;
    env_t *e = c->env;
    const Openmldb__Datasync__HoldLogRequest *r = (const Openmldb__Datasync__HoldLogRequest *)osync__rpc_request(call);
    Openmldb__Datasync__GeneralResponse general = OPENMLDB__DATASYNC__GENERAL_RESPONSE__INIT;
    Openmldb__Datasync__HoldLogResponse response = OPENMLDB__DATASYNC__HOLD_LOG_RESPONSE__INIT;
    assert_true(e->n_holds < MAX_ADDS);
    hold_t *h = &e->holds[e->n_holds++];
    *h = (hold_t){.tid = r->tid,
                  .pid = r->pid,
                  .committed = point_number(r->committed),
                  .release = r->release,
                  .collector = (int)(c - e->collectors)};
    snprintf(h->task_id, sizeof h->task_id, "%s", r->task_id);
    snprintf(h->tablet, sizeof h->tablet, "%s", r->tablet_endpoint);
    general.has_code = response.has_first_entry = response.has_last_entry = 1;
    response.response = &general;
    response.first_entry = 11;
    response.last_entry = 22;
    osync__rpc_reply(call, &response.base);
}

/* The last one is as the original's: it doesn't know HoldLog. */
static const osync__rpc_method_t collector_methods[] = {
    {"openmldb.datasync.DataCollector", "AddSyncTask", &openmldb__datasync__add_sync_task_request__descriptor,
     &openmldb__datasync__general_response__descriptor, on_add},
    {"openmldb.datasync.DataCollector", "HoldLog", &openmldb__datasync__hold_log_request__descriptor,
     &openmldb__datasync__hold_log_response__descriptor, on_hold},
};

static add_t *last_add(env_t *e, uint32_t tid, uint32_t pid) {
    for (size_t i = e->n_adds; i-- > 0;)
        if (e->adds[i].tid == tid && e->adds[i].pid == pid) return &e->adds[i];
    return NULL;
}

typedef struct pack {
    uint32_t tid, pid;
    const char *token; /* NULL: of the last AddSyncTask */
    uint64_t start, next;
    uint64_t first_row;
    size_t rows;                           /* in the attachment */
    int64_t count;                         /* -1: as many */
    bool finished, original, failed, wide; /* wide: rows of schema version 2 */
    const char *reason;
    size_t cut;         /* bytes missing at the end */
    const char *stager; /* asks for a grant */
    uint64_t staged_rows;
    const char *incarnation, *attempt; /* of a file that it has written; NULL: none */
    uint64_t bytes;
} pack_t;

typedef struct reply {
    bool done;
    int status, code;
    char msg[2048];
    bool delete_task, has_committed, has_resume;
    uint64_t committed, resume;
    bool granted, required;
    char incarnation[40], folder[256], target[32], timezone[32];
    uint64_t roll_bytes, roll_interval_ms;
    size_t namenodes;
    osync__buf_t rows; /* of the request, lent until the reply comes */
} reply_t;

static void on_reply(void *arg, int status, const ProtobufCMessage *m, const osync_error_t *err) {
    reply_t *r = arg;
    osync__buf_free(&r->rows);
    r->done = true;
    r->status = status;
    if (status) {
        snprintf(r->msg, sizeof r->msg, "%s", err->message);
        return;
    }
    if (m->descriptor == &openmldb__datasync__general_response__descriptor) {
        const Openmldb__Datasync__GeneralResponse *g = (const Openmldb__Datasync__GeneralResponse *)m;
        r->code = g->code;
        snprintf(r->msg, sizeof r->msg, "%s", g->msg ? g->msg : "");
        return;
    }
    const Openmldb__Datasync__SendDataResponse *s = (const Openmldb__Datasync__SendDataResponse *)m;
    r->code = s->response->code;
    snprintf(r->msg, sizeof r->msg, "%s", s->response->msg ? s->response->msg : "");
    r->delete_task = s->delete_task;
    r->has_committed = s->committed_point != NULL;
    r->has_resume = s->resume_point != NULL;
    r->committed = point_number(s->committed_point);
    r->resume = point_number(s->resume_point);
    if (!s->stage) return;
    r->granted = true;
    r->required = s->stage->required;
    snprintf(r->incarnation, sizeof r->incarnation, "%s", s->stage->incarnation);
    snprintf(r->folder, sizeof r->folder, "%s", s->stage->folder);
    snprintf(r->target, sizeof r->target, "%s", s->stage->target);
    snprintf(r->timezone, sizeof r->timezone, "%s", s->stage->csv_timezone);
    r->roll_bytes = s->stage->roll_bytes;
    r->roll_interval_ms = s->stage->roll_interval_ms;
    r->namenodes = s->stage->n_namenodes;
}

static const char *endpoint(env_t *e) {
    static char text[32];
    snprintf(text, sizeof text, "127.0.0.1:%d", osync_scheduler_port(e->s));
    return text;
}

static void call(env_t *e, const char *method, const ProtobufCMessage *m, const void *data, size_t len,
                 const ProtobufCMessageDescriptor *type, osync__rpc_cb cb, void *arg) {
    osync_error_t err = {0};
    int rc = osync__rpc_call(e->client, endpoint(e), "openmldb.datasync.SyncTool", method, m, data, len, type, 60000,
                             cb, arg, NULL, &err);
    if (rc) fail_msg("%s: %s", method, err.message);
}

static void set_point(Openmldb__Datasync__SyncPoint *p, uint64_t n) {
    openmldb__datasync__sync_point__init(p);
    p->type = n ? OPENMLDB__DATASYNC__SYNC_TYPE__kBINLOG : OPENMLDB__DATASYNC__SYNC_TYPE__kSNAPSHOT;
    p->has_offset = n != 0;
    p->offset = n;
}

static void send_async(env_t *e, const pack_t *p, reply_t *reply) {
    Openmldb__Datasync__SendDataRequest r = OPENMLDB__DATASYNC__SEND_DATA_REQUEST__INIT;
    Openmldb__Datasync__CollectorReport report = OPENMLDB__DATASYNC__COLLECTOR_REPORT__INIT;
    Openmldb__Datasync__StagedFile staged = OPENMLDB__DATASYNC__STAGED_FILE__INIT;
    Openmldb__Datasync__SyncPoint start, next;
    char state[] = "following";
    osync__buf_t rows = {0};
    add_t *a = last_add(e, p->tid, p->pid);
    static const int types[] = {BIGINT, STRING, INT};
    for (size_t i = 0; i < p->rows; i++) {
        char text[32];
        size_t size;
        snprintf(text, sizeof text, "row %llu", (unsigned long long)(p->first_row + i));
        row_value_t values[] = {{.bits = p->first_row + i}, {.text = text, .text_len = strlen(text)}, {.bits = 7}};
        uint8_t *row = row_build(types, values, p->wide ? 3 : 2, p->wide ? 2 : 1, &size);
        assert_int_equal(osync__buf_append(&rows, row, size), 0);
        free(row);
    }
    *reply = (reply_t){0};
    set_point(&start, p->start);
    set_point(&next, p->next);
    r.has_tid = r.has_pid = r.has_count = r.has_finished = 1;
    r.tid = p->tid;
    r.pid = p->pid;
    r.start_point = &start;
    r.next_point = &next;
    r.count = p->count == -1 ? p->rows : (uint64_t)p->count;
    r.finished = p->finished;
    r.token = (char *)(uintptr_t)(p->token ? p->token : a ? a->token : "none");
    report.state = state;
    report.has_failed = 1;
    report.failed = p->failed;
    report.reason = (char *)(uintptr_t)p->reason;
    report.stager = (char *)(uintptr_t)p->stager;
    report.has_staged_rows = p->staged_rows > 0;
    report.staged_rows = p->staged_rows;
    staged.incarnation = (char *)(uintptr_t)p->incarnation;
    staged.attempt = (char *)(uintptr_t)p->attempt;
    staged.has_bytes = 1;
    staged.bytes = p->bytes;
    if (p->incarnation || p->attempt) r.staged = &staged;
    if (!p->original) r.report = &report;
    reply->rows = rows;
    call(e, "SendData", &r.base, rows.data, rows.len - p->cut, &openmldb__datasync__send_data_response__descriptor,
         on_reply, reply);
}

static reply_t send_pack(env_t *e, pack_t p) {
    reply_t reply;
    send_async(e, &p, &reply);
    WAIT(e, reply.done);
    assert_int_equal(reply.status, 0);
    return reply;
}

/* Rows first..first+n-1 as [start, next) of ours; the answer must be plain success. */
static reply_t feed(env_t *e, uint32_t tid, uint32_t pid, uint64_t start, uint64_t next, uint64_t first, size_t n) {
    reply_t r = send_pack(
        e, (pack_t){.tid = tid, .pid = pid, .start = start, .next = next, .first_row = first, .rows = n, .count = -1});
    assert_string_equal(r.msg, "");
    assert_int_equal(r.code, 0);
    return r;
}

typedef struct begin {
    Openmldb__Datasync__CreateStart start;
    const char *task_id;
    size_t n_points;
    uint32_t pids[4];
    uint64_t points[4];
} begin_t;

static void create_at(env_t *e, const char *name, int mode, const char *dest, const begin_t *begin, reply_t *reply) {
    Openmldb__Datasync__CreateSyncTaskRequest r = OPENMLDB__DATASYNC__CREATE_SYNC_TASK_REQUEST__INIT;
    Openmldb__Datasync__PartitionPoint points[4], *pointers[4];
    Openmldb__Datasync__SyncPoint sync_points[4];
    char db[] = "db1";
    *reply = (reply_t){0};
    r.has_start = begin->start != OPENMLDB__DATASYNC__CREATE_START__kStartWarn;
    r.start = begin->start;
    r.task_id = (char *)(uintptr_t)begin->task_id;
    r.n_points = begin->n_points;
    r.points = pointers;
    for (size_t i = 0; i < begin->n_points; i++) {
        openmldb__datasync__partition_point__init(&points[i]);
        set_point(&sync_points[i], begin->points[i]);
        points[i].has_pid = 1;
        points[i].pid = begin->pids[i];
        points[i].point = &sync_points[i];
        pointers[i] = &points[i];
    }
    r.db = db;
    r.name = (char *)(uintptr_t)name;
    r.has_mode = mode >= 0;
    r.mode = (Openmldb__Datasync__SyncMode)(mode < 0 ? 0 : mode);
    r.dest = (char *)(uintptr_t)dest;
    r.has_start_ts = 1;
    r.start_ts = 77;
    call(e, "CreateSyncTask", &r.base, NULL, 0, &openmldb__datasync__general_response__descriptor, on_reply, reply);
}

static void create_async(env_t *e, const char *name, int mode, const char *dest, reply_t *reply) {
    create_at(e, name, mode, dest, &(begin_t){.n_points = 0}, reply);
}

static reply_t create(env_t *e, const char *name, int mode, const char *dest) {
    reply_t reply;
    create_async(e, name, mode, dest, &reply);
    WAIT(e, reply.done);
    assert_int_equal(reply.status, 0);
    return reply;
}

static void create_ok(env_t *e, const char *name, int mode) {
    char dest[128];
    snprintf(dest, sizeof dest, "file://%s/out/%s/", e->dir, name);
    reply_t r = create(e, name, mode, dest);
    assert_string_equal(r.msg, "");
    assert_int_equal(r.code, 0);
}

/* Into out/<name>. */
static reply_t create_begin(env_t *e, const char *name, begin_t begin) {
    char dest[128];
    reply_t reply;
    snprintf(dest, sizeof dest, "file://%s/out/%s", e->dir, name);
    create_at(e, name, 2, dest, &begin, &reply);
    WAIT(e, reply.done);
    assert_int_equal(reply.status, 0);
    return reply;
}

static void recover_async(env_t *e, const char *name, const char *task_id, bool start_over, reply_t *reply) {
    Openmldb__Datasync__RecoverSyncTaskRequest r = OPENMLDB__DATASYNC__RECOVER_SYNC_TASK_REQUEST__INIT;
    char db[] = "db1", dest[128];
    snprintf(dest, sizeof dest, "file://%s/out/%s", e->dir, name);
    *reply = (reply_t){0};
    r.db = db;
    r.name = (char *)(uintptr_t)name;
    r.dest = dest;
    r.task_id = (char *)(uintptr_t)task_id;
    r.has_start_over = r.start_over = start_over;
    call(e, "RecoverSyncTask", &r.base, NULL, 0, &openmldb__datasync__general_response__descriptor, on_reply, reply);
}

static reply_t recover(env_t *e, const char *name, const char *task_id, bool start_over) {
    reply_t reply;
    recover_async(e, name, task_id, start_over, &reply);
    WAIT(e, reply.done);
    assert_int_equal(reply.status, 0);
    return reply;
}

static reply_t retry(env_t *e, const char *name) {
    Openmldb__Datasync__RetrySyncTaskRequest r = OPENMLDB__DATASYNC__RETRY_SYNC_TASK_REQUEST__INIT;
    char db[] = "db1";
    reply_t reply = {0};
    r.db = db;
    r.name = (char *)(uintptr_t)name;
    call(e, "RetrySyncTask", &r.base, NULL, 0, &openmldb__datasync__general_response__descriptor, on_reply, &reply);
    WAIT(e, reply.done);
    assert_int_equal(reply.status, 0);
    return reply;
}

static reply_t delete_task(env_t *e, const char *name) {
    Openmldb__Datasync__DeleteSyncTaskRequest r = OPENMLDB__DATASYNC__DELETE_SYNC_TASK_REQUEST__INIT;
    char db[] = "db1";
    reply_t reply = {0};
    r.db = db;
    r.name = (char *)(uintptr_t)name;
    call(e, "DeleteSyncTask", &r.base, NULL, 0, &openmldb__datasync__general_response__descriptor, on_reply, &reply);
    WAIT(e, reply.done);
    return reply;
}

/* ---- TaskStatus ---- */

typedef struct shown {
    uint32_t tid, pid;
    char status[16], info[1024], collector[64], dest[128], token[64];
    bool has_point, additions;
    uint64_t count, point;
} shown_t;

typedef struct status {
    bool done;
    int code;
    size_t n;
    shown_t tasks[16];
} status_t;

static void on_task_status(void *arg, int rc, const ProtobufCMessage *m, const osync_error_t *err) {
    status_t *st = arg;
    st->done = true;
    assert_int_equal(rc, 0);
    const Openmldb__Datasync__TaskStatusResponse *r = (const Openmldb__Datasync__TaskStatusResponse *)m;
    st->code = r->response->code;
    assert_int_equal(r->n_task, r->n_readableinfo);
    assert_true(r->n_task <= 16);
    st->n = r->n_task;
    for (size_t i = 0; i < r->n_task; i++) {
        const Openmldb__Datasync__AddSyncTaskRequest *p = r->task[i]->progress;
        shown_t *x = &st->tasks[i];
        x->tid = p->tid;
        x->pid = p->pid;
        x->count = r->task[i]->count;
        x->has_point = p->sync_point != NULL;
        x->point = point_number(p->sync_point);
        x->additions = p->has_osync || (p->sync_point && (p->sync_point->snapshot_name || p->sync_point->n_ranges));
        snprintf(x->status, sizeof x->status, "%s", r->task[i]->status);
        snprintf(x->info, sizeof x->info, "%s", r->readableinfo[i]);
        snprintf(x->collector, sizeof x->collector, "%s", r->task[i]->data_collector ? r->task[i]->data_collector : "");
        snprintf(x->dest, sizeof x->dest, "%s", p->dest);
        snprintf(x->token, sizeof x->token, "%s", p->token ? p->token : "");
    }
}

static status_t status(env_t *e, bool clear_all) {
    Openmldb__Datasync__TaskStatusRequest r = OPENMLDB__DATASYNC__TASK_STATUS_REQUEST__INIT;
    status_t st = {0};
    r.has_clear_all = r.clear_all = clear_all;
    call(e, "TaskStatus", &r.base, NULL, 0, &openmldb__datasync__task_status_response__descriptor, on_task_status, &st);
    WAIT(e, st.done);
    return st;
}

static shown_t shown(env_t *e, uint32_t tid, uint32_t pid) {
    status_t st = status(e, false);
    for (size_t i = 0; i < st.n; i++)
        if (st.tasks[i].tid == tid && st.tasks[i].pid == pid) return st.tasks[i];
    return (shown_t){0};
}

#define WAIT_STATUS(e, tid, pid, wanted)                                                                               \
    do {                                                                                                               \
        uint64_t until_ = osync__mono_ms() + WAIT_MS;                                                                  \
        while (strcmp(shown(e, tid, pid).status, wanted) != 0) {                                                       \
            if (osync__mono_ms() > until_) fail_msg("still %s, not %s", shown(e, tid, pid).status, wanted);            \
            run_for(e, 5);                                                                                             \
        }                                                                                                              \
    } while (0)

/* ---- output ---- */

typedef struct output {
    char **lines;
    size_t n, files;
} output_t;

static int compare_lines(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static output_t read_output(env_t *e, const char *name) {
    char folder[160], path[512];
    output_t out = {0};
    snprintf(folder, sizeof folder, "%s/out/%s", e->dir, name);
    DIR *d = opendir(folder);
    if (!d) return out;
    for (struct dirent *x; (x = readdir(d));) {
        if (x->d_name[0] == '.' || x->d_name[0] == '_') continue;
        osync__buf_t b = {0};
        osync_error_t err;
        snprintf(path, sizeof path, "%s/%s", folder, x->d_name);
        if (osync__read_file(path, 1 << 20, &b, &err)) fail_msg("%s", err.message);
        out.files++;
        size_t columns = 0;
        for (char *line = strtok((char *)b.data, "\n"); line; line = strtok(NULL, "\n")) {
            size_t here = 1;
            for (const char *c = line; *c; c++) here += *c == ',';
            assert_true(columns == 0 || columns == here); /* one file has one schema */
            columns = here;
            out.lines = realloc(out.lines, (out.n + 1) * sizeof *out.lines);
            out.lines[out.n++] = strdup(line);
        }
        osync__buf_free(&b);
    }
    closedir(d);
    if (out.n) qsort(out.lines, out.n, sizeof *out.lines, compare_lines);
    return out;
}

static void free_output(output_t *out);

static void expect_file_count(env_t *e, const char *name, size_t n) {
    output_t out = read_output(e, name);
    assert_int_equal(out.files, n);
    free_output(&out);
}

static void free_output(output_t *out) {
    for (size_t i = 0; i < out->n; i++) free(out->lines[i]);
    free(out->lines);
}

/* Exactly the rows 0..n-1, each once. */
static void expect_rows(env_t *e, const char *name, size_t n) {
    output_t out = read_output(e, name);
    assert_int_equal(out.n, n);
    for (size_t i = 0; i < n; i++) {
        char line[64];
        bool found = false;
        snprintf(line, sizeof line, "%zu,\"row %zu\"", i, i);
        for (size_t j = 0; j < n && !found; j++) found = strncmp(out.lines[j], line, strlen(line)) == 0;
        if (!found) fail_msg("row %zu is missing", i);
    }
    free_output(&out);
}

/* ---- a sink that can be slow or down ---- */

static const osync_sink_ops_t *real_ops;
static osync_sink_ops_t test_ops;
static env_t *test_env;
static struct {
    osync_sink_file_t *file;
    const void *data;
    size_t len;
    osync_sink_cb cb;
    void *arg;
} held_write;

static int sink_write(osync_sink_file_t *file, const void *data, size_t len, osync_sink_cb cb, void *arg) {
    if (!test_env->hold_writes || held_write.cb) return real_ops->write(file, data, len, cb, arg);
    held_write.file = file;
    held_write.data = data;
    held_write.len = len;
    held_write.cb = cb;
    held_write.arg = arg;
    return 0;
}

static void release_write(void) {
    osync_sink_cb cb = held_write.cb;
    held_write.cb = NULL;
    test_env->hold_writes = false;
    if (cb) assert_int_equal(real_ops->write(held_write.file, held_write.data, held_write.len, cb, held_write.arg), 0);
}

static int sink_rename(osync_sink_t *sink, const char *from, const char *to, osync_sink_cb cb, void *arg) {
    return test_env->sink_down ? OSYNC_EIO : real_ops->rename(sink, from, to, cb, arg);
}

static int sink_mkdirs(osync_sink_t *sink, const char *path, osync_sink_cb cb, void *arg) {
    return test_env->sink_down ? OSYNC_EIO : real_ops->mkdirs(sink, path, cb, arg);
}

static int sink_remove(osync_sink_t *sink, const char *path, bool recursive, osync_sink_cb cb, void *arg) {
    return test_env->sink_down ? OSYNC_EIO : real_ops->remove(sink, path, recursive, cb, arg);
}

static int make_sink(void *arg, osync_sink_t **out, uv_loop_t *loop, const char *scheme, const char *authority,
                     osync_error_t *err) {
    if (strcmp(scheme, "file") != 0) return osync__err(err, OSYNC_ENOTSUP, "%s:// is not supported", scheme);
    int rc = osync_file_sink_new(out, loop, 2, err);
    if (rc) return rc;
    real_ops = (*out)->ops;
    test_ops = *real_ops;
    test_ops.write = sink_write;
    test_ops.rename = sink_rename;
    test_ops.mkdirs = sink_mkdirs;
    test_ops.remove = sink_remove;
    (*out)->ops = &test_ops;
    return 0;
}

/* ---- set-up ---- */

static void start(env_t *e) {
    osync_error_t err = {0};
    catalog_t *c = calloc(1, sizeof *c);
    c->base.ops = &catalog_ops;
    c->env = e;
    osync__scheduler_parts_t parts = {.catalog = &c->base};
    if (osync__scheduler_new(&e->s, &e->loop, &e->config, &parts, &err) || osync_scheduler_start(e->s, &err))
        fail_msg("%s", err.message);
    WAIT(e, e->s->loaded);
}

static void stop(env_t *e) {
    e->ended = false;
    osync_scheduler_close(e->s, on_flag, &e->ended);
    WAIT(e, e->ended);
    e->s = NULL;
}

static void all_ready(env_t *e) {
    for (osync__task_t *t = e->s->tasks; t; t = t->hh.next)
        for (size_t i = 0; i < t->n_subs; i++) WAIT(e, t->subs[i].ready);
}

static void restart(env_t *e) {
    stop(e);
    start(e);
    all_ready(e);
}

static void to_stderr(osync_log_level_t level, const char *message, void *arg) {
    fprintf(stderr, "%d %s\n", (int)level, message);
}

static env_t *new_env(uint32_t check_ms) {
    env_t *e = calloc(1, sizeof *e);
    osync_error_t err = {0};
    if (getenv("OSYNC_TEST_LOG")) osync_log_set(to_stderr, NULL, OSYNC_LOG_DEBUG);
    uv_loop_init(&e->loop);
    test_env = e;
    snprintf(e->dir, sizeof e->dir, "/tmp/osync-scheduler-XXXXXX");
    assert_non_null(mkdtemp(e->dir));
    for (int i = 0; i < MAX_COLLECTORS; i++) {
        collector_t *c = &e->collectors[i];
        osync__rpc_server_config_t config = {.host = "127.0.0.1",
                                             .max_body_size = 1 << 20,
                                             .methods = collector_methods,
                                             .n_methods = i == MAX_COLLECTORS - 1 ? 1 : 2,
                                             .arg = c};
        c->env = e;
        c->registered = i == 0;
        if (osync__rpc_server_new(&e->loop, &config, &c->server, &err)) fail_msg("%s", err.message);
        snprintf(c->endpoint, sizeof c->endpoint, "127.0.0.1:%d", osync__rpc_server_port(c->server));
    }
    osync__rpc_client_config_t client = {.max_body_size = 64 << 20};
    if (osync__rpc_client_new(&e->loop, &client, &e->client, &err)) fail_msg("%s", err.message);
    e->tables[0] = (table_t){.tid = 5, .name = "t1", .partitions = 1, .mode = 2, .leader = "127.0.0.1:9999"};
    e->tables[1] = (table_t){.tid = 6, .name = "t2", .partitions = 2, .mode = 3, .leader = "127.0.0.1:9999"};
    e->local = "127.0.0.1";
    osync_scheduler_config_init(&e->config, sizeof e->config);
    e->config.host = "127.0.0.1";
    e->config.state_dir = e->dir;
    e->config.check_period_ms = check_ms;
    e->config.request_timeout_ms = 5000;
    e->config.csv_timezone = "UTC";
    e->config.make_sink = make_sink;
    start(e);
    return e;
}

static void on_walk(uv_handle_t *h, void *arg) {
    fprintf(stderr, "left open: %s%s\n", uv_handle_type_name(h->type), uv_is_closing(h) ? " (closing)" : "");
}

static void end_env(env_t *e) {
    bool client = false, servers[MAX_COLLECTORS] = {false};
    if (e->s) stop(e);
    for (int i = 0; i < MAX_COLLECTORS; i++) {
        if (e->collectors[i].held) osync__sched_reply_general(e->collectors[i].held, 0, NULL);
        osync__rpc_server_close(e->collectors[i].server, on_flag, &servers[i]);
    }
    osync__rpc_client_close(e->client, on_flag, &client);
    WAIT(e, client && servers[0] && servers[1] && servers[2]);
    uv_run(&e->loop, UV_RUN_NOWAIT);
    if (uv_loop_close(&e->loop)) {
        uv_walk(&e->loop, on_walk, NULL);
        fail_msg("the loop still has handles");
    }
    osync_error_t err;
    if (osync__rmtree(e->dir, &err)) fail_msg("%s", err.message);
    free(e);
    test_env = NULL;
}

enum { NEVER = 600000 };

static bool work_of(env_t *e, uint32_t tid, uint32_t pid) {
    osync__task_t *t = NULL;
    HASH_FIND(hh, e->s->tasks, &tid, sizeof tid, t);
    return t && osync__sched_task_sub(t, pid)->work;
}

/* ---- tests ---- */

static void a_full_sync_from_create_to_end(void **state) {
    env_t *e = new_env(1000);
    create_ok(e, "t2", 0);
    assert_int_equal(e->n_adds, 2);
    char expected[128];
    for (uint32_t pid = 0; pid < 2; pid++) {
        add_t *a = last_add(e, 6, pid);
        assert_true(a->osync && a->has_start_ts && a->mode == 0 && a->start_ts == 77 && a->point == 0);
        assert_int_equal(strlen(a->token), 36);
        assert_string_equal(a->tablet, "127.0.0.1:9999");
        assert_string_equal(a->to, endpoint(e));
        snprintf(expected, sizeof expected, "file://%s/out/t2", e->dir);
        assert_string_equal(a->dest, expected); /* without the trailing '/' */
    }
    shown_t x = shown(e, 6, 1);
    assert_string_equal(x.status, "INIT");
    assert_string_equal(x.collector, e->collectors[0].endpoint);
    assert_string_equal(x.token, last_add(e, 6, 1)->token);
    assert_true(x.has_point && x.point == 0 && x.count == 0 && !x.additions);
    assert_true(strncmp(x.info, "lastUpdateTime=", 15) == 0 && strstr(x.info, ";progressPath=/"));

    reply_t r = feed(e, 6, 0, 0, 10, 0, 4);
    assert_true(r.has_committed && r.committed == 0 && !r.has_resume && !r.delete_task);
    x = shown(e, 6, 0);
    assert_string_equal(x.status, "RUNNING");
    assert_true(x.count == 0 && x.point == 0); /* taken, not committed */
    r = send_pack(
        e, (pack_t){
               .tid = 6, .pid = 0, .start = 10, .next = 14, .first_row = 4, .rows = 2, .count = -1, .finished = true});
    assert_int_equal(r.code, 0);
    assert_int_equal(r.committed, 14);
    x = shown(e, 6, 0);
    assert_string_equal(x.status, "SUCCESS");
    assert_true(x.count == 6 && x.point == 14);
    feed(e, 6, 1, 0, 3, 6, 3);
    r = send_pack(e, (pack_t){.tid = 6, .pid = 1, .start = 3, .next = 3, .finished = true});
    assert_int_equal(r.code, 0);
    assert_int_equal(r.committed, 3);
    WAIT(e, e->s->tasks == NULL);
    assert_int_equal(status(e, false).n, 0);
    expect_rows(e, "t2", 9);
    char path[160];
    snprintf(path, sizeof path, "%s/out/t2/_osync", e->dir);
    DIR *d = opendir(path);
    size_t left = 0;
    for (struct dirent *entry; d && (entry = readdir(d));) left += entry->d_name[0] != '.';
    if (d) closedir(d);
    assert_int_equal(left, 0);
    /* and the table can be synced again */
    assert_int_equal(create_begin(e, "t2", (begin_t){.start = APPEND}).code, 0);
    end_env(e);
}

static void defect_21_a_restart_neither_loses_nor_repeats(void **state) {
    env_t *e = new_env(NEVER);
    create_ok(e, "t1", 2);
    char token[64];
    snprintf(token, sizeof token, "%s", last_add(e, 5, 0)->token);
    feed(e, 5, 0, 0, 5, 0, 5);
    restart(e);                     /* nothing was committed */
    assert_int_equal(e->n_adds, 1); /* the token still holds: nobody is asked again */
    reply_t r = send_pack(e, (pack_t){.tid = 5, .start = 5, .next = 8, .first_row = 5, .rows = 3, .count = -1});
    assert_true(r.code == -1 && r.has_resume && r.resume == 0 && r.has_committed && r.committed == 0 && !r.delete_task);
    feed(e, 5, 0, 0, 6, 0, 6);
    e->config.roll_interval_ms = 1;
    restart(e);
    feed(e, 5, 0, 0, 6, 0, 6);
    WAIT(e, shown(e, 5, 0).count == 6); /* committed by the roll interval */
    r = send_pack(e, (pack_t){.tid = 5, .start = 6, .next = 6});
    assert_int_equal(r.committed, 6);
    restart(e);
    shown_t x = shown(e, 5, 0);
    assert_string_equal(x.token, token);
    assert_string_equal(x.collector, e->collectors[0].endpoint); /* 53: nothing is forgotten */
    assert_true(x.count == 6 && x.point == 6);
    assert_string_equal(x.status, "RUNNING");
    feed(e, 5, 0, 6, 9, 6, 3);
    WAIT(e, shown(e, 5, 0).count == 9);
    expect_rows(e, "t1", 9);
    end_env(e);
}

static void a_checkpoint_of_ones_own(void **state) {
    env_t *e = new_env(NEVER);
    char path[160], none[160];
    osync_error_t err;
    snprintf(path, sizeof path, "%s/own.db", e->dir);
    snprintf(none, sizeof none, "%s/none", e->dir);
    stop(e);
    assert_int_equal(osync_sqlite_checkpoint_new(&e->config.checkpoint, &e->loop, path, &err), 0);
    e->config.state_dir = NULL;
    start(e);
    create_ok(e, "t1", 2);
    feed(e, 5, 0, 0, 6, 0, 6);
    e->config.roll_interval_ms = 1;
    e->config.state_dir = none; /* where SyncTool's tasks would be, nothing else */
    restart(e);
    feed(e, 5, 0, 0, 6, 0, 6);
    WAIT(e, shown(e, 5, 0).count == 6);
    stop(e);
    assert_int_equal(rmdir(none), 0); /* empty */
    bool closed = false;
    e->config.checkpoint->ops->close(e->config.checkpoint, on_flag, &closed);
    WAIT(e, closed);
    expect_rows(e, "t1", 6);
    e->config.checkpoint = NULL;
    osync_scheduler_t *s = NULL;
    e->config.state_dir = "";
    assert_int_equal(osync_scheduler_new(&s, &e->loop, &e->config, &err), OSYNC_ECONFIG);
    end_env(e);
}

static void defect_22_a_repeated_request_is_taken_once(void **state) {
    env_t *e = new_env(NEVER);
    create_ok(e, "t1", 0);
    pack_t p = {.tid = 5, .start = 0, .next = 3, .rows = 3, .count = -1};
    assert_int_equal(send_pack(e, p).code, 0);
    assert_int_equal(send_pack(e, p).code, 0); /* the answer was lost */
    pack_t q = {.tid = 5, .start = 3, .next = 5, .first_row = 3, .rows = 2, .count = -1};
    e->hold_writes = true;
    reply_t first, second, third;
    send_async(e, &q, &first);
    WAIT(e, work_of(e, 5, 0));
    send_async(e, &q, &second); /* while the first is worked on */
    run_for(e, 20);
    assert_false(first.done || second.done);
    send_async(e, &q, &third);
    WAIT(e, second.done); /* its place was taken */
    assert_true(second.code == -1 && !second.delete_task && !second.has_resume);
    pack_t other = q;
    other.next = 6;
    reply_t busy = send_pack(e, other);
    assert_true(busy.code == -1 && !busy.delete_task && !busy.has_resume);
    release_write();
    WAIT(e, first.done && third.done);
    assert_int_equal(first.code, 0);
    assert_int_equal(third.code, 0);
    pack_t end = {.tid = 5, .start = 5, .next = 5, .finished = true};
    assert_int_equal(send_pack(e, end).code, 0);
    assert_int_equal(send_pack(e, end).code, 0);
    expect_rows(e, "t1", 5);
    /* after the end only the same end is known */
    reply_t r = send_pack(e, q);
    assert_string_equal(
        r.msg, "java.lang.IllegalStateException: task is not init or running, ignore this request. st: SUCCESS");
    assert_true(r.delete_task && r.code == -1);
    restart(e); /* also by the next run */
    assert_int_equal(send_pack(e, end).code, 0);
    end_env(e);
}

static void unknown_and_outdated_collectors_are_told_so(void **state) {
    env_t *e = new_env(NEVER);
    create_ok(e, "t1", 0);
    reply_t r = send_pack(e, (pack_t){.tid = 999, .original = true});
    assert_string_equal(r.msg, "com._4paradigm.openmldb.synctool.IgnorableException: can't find sync task, tid: 999");
    assert_true(r.code == -1 && r.delete_task);
    r = send_pack(e, (pack_t){.tid = 5, .pid = 7});
    assert_string_equal(r.msg,
                        "com._4paradigm.openmldb.synctool.IgnorableException: can't find sync task, tid: 5, pid: 7");
    assert_true(r.code == -1 && r.delete_task);
    r = send_pack(e, (pack_t){.tid = 5, .token = "nope"});
    assert_string_equal(r.msg,
                        "com._4paradigm.openmldb.synctool.IgnorableException: token not match, ignore this request");
    assert_true(r.code == -1 && !r.delete_task); /* whoever it is: his links may be all that is left of the log */
    send_pack(e, (pack_t){.tid = 5});
    r = send_pack(e, (pack_t){.tid = 5, .token = "nope"});
    assert_true(r.code == -1 && r.delete_task);
    r = send_pack(e, (pack_t){.tid = 5, .token = ""});
    assert_true(r.code == -1 && r.delete_task);
    end_env(e);
}

static void an_original_collector_is_told_done_only_about_committed_rows(void **state) {
    env_t *e = new_env(NEVER);
    create_ok(e, "t1", 2);
    pack_t p = {.tid = 5, .start = 0, .next = 12345, .rows = 3, .count = -1, .original = true};
    reply_t r = send_pack(e, p);
    assert_true(r.code == 0 && !r.has_committed && !r.delete_task);
    expect_rows(e, "t1", 3); /* C1: in published files before the answer */
    r = send_pack(e, p);     /* the answer was lost */
    assert_int_equal(r.code, 0);
    r = send_pack(e, (pack_t){.tid = 5, .start = 0, .next = 12346, .rows = 1, .count = -1, .original = true});
    assert_string_equal(r.msg,
                        "java.lang.IllegalArgumentException: start point type: kSNAPSHOT\n != current point type: "
                        "kBINLOG\noffset: 12345\n");
    assert_true(r.code == -1 && r.delete_task && !r.has_resume);
    r = send_pack(e, (pack_t){.tid = 5, .start = 12345, .next = 12346, .rows = 0, .count = 2, .original = true});
    assert_string_equal(r.msg, "java.lang.IllegalStateException: attachment data is null");
    assert_true(r.delete_task);
    r = send_pack(e, (pack_t){.tid = 5, .start = 12345, .next = 12345, .original = true});
    assert_int_equal(r.code, 0);
    expect_rows(e, "t1", 3);
    restart(e); /* between commit and answer */
    r = send_pack(e, p);
    assert_true(r.code == 0 && !r.delete_task);
    r = send_pack(e, (pack_t){.tid = 5, .start = 0, .next = 12346, .rows = 1, .count = -1, .original = true});
    assert_true(r.code == -1 && r.delete_task);
    expect_rows(e, "t1", 3);
    end_env(e);
}

static void a_silent_collector_is_replaced_from_the_committed_point(void **state) {
    env_t *e = new_env(100);
    create_ok(e, "t1", 2);
    e->collectors[1].registered = true;
    char token[64];
    snprintf(token, sizeof token, "%s", last_add(e, 5, 0)->token);
    feed(e, 5, 0, 0, 4, 0, 4);
    WAIT(e, e->n_adds == 2);
    add_t *a = last_add(e, 5, 0);
    assert_string_not_equal(a->token, token);
    assert_int_equal(a->collector, 1); /* not the one that has just failed */
    assert_int_equal(a->point, 0);     /* what was staged is read again */
    WAIT_STATUS(e, 5, 0, "RUNNING");
    pack_t former = {.tid = 5, .token = token, .start = 4, .next = 5, .first_row = 4, .rows = 1, .count = -1};
    reply_t r = send_pack(e, former);
    assert_true(r.code == -1 && !r.delete_task); /* it keeps its links until the next one reads */
    send_pack(e, (pack_t){.tid = 5});
    r = send_pack(e, former);
    assert_true(r.code == -1 && r.delete_task); /* the former one has lost it */
    feed(e, 5, 0, 0, 6, 0, 6);
    r = send_pack(e, (pack_t){.tid = 5, .start = 6, .next = 6, .finished = true});
    assert_int_equal(r.code, 0);
    WAIT(e, !e->s->tasks);
    expect_rows(e, "t1", 6);
    end_env(e);
}

static void defect_27_a_task_that_never_began_is_handed_out_again(void **state) {
    env_t *e = new_env(50);
    create_ok(e, "t1", 2);
    assert_string_equal(shown(e, 5, 0).status, "INIT");
    WAIT(e, e->n_adds >= 2);
    WAIT_STATUS(e, 5, 0, "RUNNING");
    end_env(e);
}

static void defect_29_a_failed_reassignment_is_tried_again(void **state) {
    env_t *e = new_env(50);
    create_ok(e, "t1", 2);
    char token[64];
    snprintf(token, sizeof token, "%s", last_add(e, 5, 0)->token);
    e->collectors[0].registered = false;
    WAIT_STATUS(e, 5, 0, "REASSIGNING"); /* waiting can mend it */
    WAIT(e, strstr(shown(e, 5, 0).info, ";reason=waits for a leader with a collector: java.lang.RuntimeException: "
                                        "can't find data collectors in zk"));
    assert_string_equal(shown(e, 5, 0).status, "REASSIGNING");
    e->collectors[1].registered = true;
    e->collectors[1].code = -1;
    WAIT_STATUS(e, 5, 0, "FAILED"); /* a refusal may be for good */
    shown_t x = shown(e, 5, 0);
    assert_non_null(
        strstr(x.info, ";reason=java.lang.RuntimeException: add sync task failed, code: -1, msg: refused by stub"));
    /* Nobody else has the partition yet: the former collector is not told to drop its links. */
    pack_t former = {.tid = 5, .token = token, .start = 0, .next = 1, .rows = 1, .count = -1};
    reply_t r = send_pack(e, former);
    assert_true(r.code == -1 && !r.delete_task);
    restart(e); /* 53: still FAILED, with its reason, and still tried again */
    assert_string_equal(shown(e, 5, 0).status, "FAILED");
    e->collectors[1].code = 0;
    WAIT_STATUS(e, 5, 0, "RUNNING");
    r = send_pack(e, former);
    assert_true(r.code == -1 && !r.delete_task);
    assert_non_null(strstr(shown(e, 5, 0).info, ";reason=handed to collector"));
    assert_non_null(strstr(shown(e, 5, 0).info, "which hasn't sent anything to 127.0.0.1:"));
    send_pack(e, (pack_t){.tid = 5});
    r = send_pack(e, former);
    assert_true(r.code == -1 && r.delete_task);
    end_env(e);
}

static void defect_29_without_zookeeper_nothing_fails(void **state) {
    env_t *e = new_env(50);
    create_ok(e, "t1", 2);
    feed(e, 5, 0, 0, 4, 0, 4);
    e->away = true;
    WAIT_STATUS(e, 5, 0, "REASSIGNING");
    size_t calls = e->catalog_calls;
    WAIT(e, e->catalog_calls > calls + 3);
    shown_t x = shown(e, 5, 0);
    assert_string_equal(x.status, "REASSIGNING");
    assert_non_null(strstr(x.info, "waits for ZooKeeper"));
    feed(e, 5, 0, 4, 5, 4, 1); /* the collector had only been slow */
    assert_string_equal(shown(e, 5, 0).status, "RUNNING");
    e->away = false;
    end_env(e);
}

static void defect_31_tables_with_different_destinations_survive_a_restart(void **state) {
    env_t *e = new_env(NEVER);
    create_ok(e, "t1", 0);
    create_ok(e, "t2", 0);
    feed(e, 5, 0, 0, 2, 0, 2);
    restart(e);
    feed(e, 5, 0, 0, 2, 0, 2);
    feed(e, 6, 0, 0, 3, 0, 3);
    assert_int_equal(send_pack(e, (pack_t){.tid = 5, .start = 2, .next = 2, .finished = true}).code, 0);
    assert_int_equal(send_pack(e, (pack_t){.tid = 6, .start = 3, .next = 3, .finished = true}).code, 0);
    expect_rows(e, "t1", 2);
    expect_rows(e, "t2", 3);
    end_env(e);
}

static void defect_25_finished_tables_end_and_the_check_goes_on(void **state) {
    env_t *e = new_env(300);
    e->tables[2] = (table_t){.tid = 7, .name = "t3", .partitions = 1, .mode = 2, .leader = "127.0.0.1:9999"};
    create_ok(e, "t1", 0);
    create_ok(e, "t3", 0);
    create_ok(e, "t2", 2);
    assert_int_equal(send_pack(e, (pack_t){.tid = 5, .next = 0, .finished = true}).code, 0);
    assert_int_equal(send_pack(e, (pack_t){.tid = 7, .next = 0, .finished = true}).code, 0);
    WAIT(e, HASH_COUNT(e->s->tasks) == 1);
    size_t n = e->n_adds;
    WAIT(e, e->n_adds > n + 1); /* the third is still watched */
    end_env(e);
}

static void defect_26_a_table_under_creation_is_not_done(void **state) {
    env_t *e = new_env(20);
    e->collectors[0].hold = true;
    reply_t r;
    char dest[128];
    snprintf(dest, sizeof dest, "file://%s/out/t1", e->dir);
    create_async(e, "t1", 0, dest, &r);
    WAIT(e, e->collectors[0].held);
    run_for(e, 150);
    assert_false(r.done);
    assert_int_equal(status(e, false).n, 1);
    assert_string_equal(create(e, "t1", 0, dest).msg, "sync task already exists(creating or created)");
    /* the collector may be quicker than its answer */
    assert_int_equal(send_pack(e, (pack_t){.tid = 5, .next = 0, .finished = true}).code, 0);
    run_for(e, 100);
    assert_int_equal(status(e, false).n, 1);
    osync__sched_reply_general(e->collectors[0].held, 0, NULL);
    e->collectors[0].held = NULL;
    WAIT(e, r.done);
    assert_int_equal(r.code, 0);
    WAIT(e, !e->s->tasks);
    end_env(e);
}

static void create_says_why_not(void **state) {
    env_t *e = new_env(NEVER);
    char dest[128];
    snprintf(dest, sizeof dest, "file://%s/out/x", e->dir);
    e->tables[2] = (table_t){.tid = 7, .name = "mem", .partitions = 1, .mode = 0, .leader = "127.0.0.1:9999"};
    e->tables[3] = (table_t){.tid = 8, .name = "far", .partitions = 1, .mode = 2, .leader = "127.0.0.9:9999"};
    assert_string_equal(create(e, "nosuch", 0, dest).msg, "table db1.nosuch doesn't exist"); /* 45 */
    assert_string_equal(create(e, "mem", 0, dest).msg,
                        "the table's storage mode in ZooKeeper is kUnknown: only kMemory, kSSD and kHDD are known");
    assert_string_equal(create(e, "t1", -1, dest).msg, "java.lang.IllegalStateException: mode is required");
    assert_string_equal(create(e, "far", 0, dest).msg,
                        "java.lang.RuntimeException: can't find living data collector in host: 127.0.0.9");
    e->tables[3].leader = NULL;
    assert_string_equal(create(e, "far", 0, dest).msg, "java.util.NoSuchElementException");
    e->tables[3].leader = "127.0.0.1:9999";
    e->tables[3].dead = true; /* 48: is_alive counts */
    assert_string_equal(create(e, "far", 0, dest).msg, "the leader of partition 0, 127.0.0.1:9999, isn't alive");
    e->collectors[0].registered = false;
    assert_string_equal(create(e, "t1", 0, dest).msg, "java.lang.RuntimeException: can't find data collectors in zk");
    e->collectors[0].registered = true;
    assert_string_equal(create(e, "t1", 0, "").msg,
                        "java.lang.IllegalArgumentException: Can not create a Path from an empty string");
    assert_non_null(strstr(create(e, "t1", 0, "out/x").msg, "must be an absolute path"));
    assert_non_null(strstr(create(e, "t1", 0, "file:///out/../x").msg, "'..'"));
    assert_non_null(strstr(create(e, "t1", 0, "s3://bucket/x").msg, "s3:// is not supported"));
    assert_non_null(strstr(create(e, "t1", 0, "/x").msg, "fs.defaultFS"));
    e->sink_down = true;
    assert_non_null(strstr(create(e, "t1", 0, dest).msg, "create hdfs tunnel failed"));
    e->sink_down = false;
    e->away = true;
    assert_non_null(strstr(create(e, "t1", 0, dest).msg, "connection loss"));
    e->away = false;
    assert_int_equal(status(e, false).n, 0);
    assert_int_equal(e->n_adds, 0);
    create_ok(e, "t1", 0);
    assert_string_equal(create(e, "t1", 0, dest).msg, "sync task already exists(creating or created)");
    end_env(e);
}

static void defects_38_46_a_refused_create_is_taken_back_whole(void **state) {
    env_t *e = new_env(NEVER);
    char dest[128];
    snprintf(dest, sizeof dest, "file://%s/out/t2", e->dir);
    e->collectors[0].code = -1;
    reply_t r = create(e, "t2", 0, dest);
    assert_int_equal(r.code, -1);
    assert_string_equal(r.msg, "java.lang.RuntimeException: add sync task failed, code: -1, msg: refused by stub");
    assert_int_equal(status(e, false).n, 0);
    r = send_pack(e, (pack_t){.tid = 6, .pid = 0}); /* one that had begun is told */
    assert_true(r.delete_task);
    restart(e);
    assert_null(e->s->tasks);
    e->collectors[0].code = 0;
    create_ok(e, "t2", 0);
    end_env(e);
}

/* Whether it can be read, its collector says: OpenMLDB's own can't. */
static void a_memory_table_is_handed_out_like_any(void **state) {
    env_t *e = new_env(NEVER);
    char dest[128];
    snprintf(dest, sizeof dest, "file://%s/out/mem", e->dir);
    e->tables[2] = (table_t){.tid = 7, .name = "mem", .partitions = 1, .mode = 1, .leader = "127.0.0.1:9999"};
    e->collectors[0].code = -1;
    assert_string_equal(create(e, "mem", 0, dest).msg,
                        "java.lang.RuntimeException: add sync task failed, code: -1, msg: refused by stub");
    assert_int_equal(status(e, false).n, 0);
    e->collectors[0].code = 0;
    create_ok(e, "mem", 2);
    end_env(e);
}

static void defect_44_delete(void **state) {
    env_t *e = new_env(NEVER);
    create_ok(e, "t1", 2);
    create_ok(e, "t2", 2);
    feed(e, 5, 0, 0, 3, 0, 3);
    reply_t r = delete_task(e, "nosuch");
    assert_int_equal(r.code, -1);
    assert_string_equal(r.msg, "table db1.nosuch doesn't exist and has no sync task");
    e->tables[0].dropped = true; /* a dropped table's task can still be deleted */
    r = delete_task(e, "t1");
    assert_int_equal(r.code, 0);
    assert_string_equal(r.msg, "");
    assert_int_equal(status(e, false).n, 2);
    r = send_pack(e, (pack_t){.tid = 5, .start = 3, .next = 4, .first_row = 3, .rows = 1, .count = -1});
    assert_true(r.delete_task);
    expect_rows(e, "t1", 0); /* uncommitted rows are not published later */
    e->tables[0].dropped = false;
    r = delete_task(e, "t1"); /* as the original: there is a table */
    assert_int_equal(r.code, 0);
    status_t st = status(e, true);
    assert_true(st.code == 0 && st.n == 0);
    assert_int_equal(status(e, false).n, 0);
    restart(e);
    assert_null(e->s->tasks);
    end_env(e);
}

static void a_delete_that_is_interrupted_goes_on(void **state) {
    env_t *e = new_env(NEVER);
    create_ok(e, "t1", 2);
    e->hold_writes = true;
    reply_t sent, deleted = {0};
    pack_t p = {.tid = 5, .start = 0, .next = 3, .rows = 3, .count = -1};
    send_async(e, &p, &sent);
    WAIT(e, held_write.cb);
    e->sink_down = true;
    Openmldb__Datasync__DeleteSyncTaskRequest r = OPENMLDB__DATASYNC__DELETE_SYNC_TASK_REQUEST__INIT;
    char db[] = "db1", name[] = "t1";
    r.db = db;
    r.name = name;
    call(e, "DeleteSyncTask", &r.base, NULL, 0, &openmldb__datasync__general_response__descriptor, on_reply, &deleted);
    run_for(e, 100);
    release_write();
    run_for(e, 100);
    assert_false(deleted.done); /* not before it is fenced */
    char dest[128];
    snprintf(dest, sizeof dest, "file://%s/out/t1", e->dir);
    assert_non_null(strstr(create(e, "t1", 0, dest).msg, "still being removed"));
    stop(e);
    WAIT(e, deleted.done && sent.done);
    start(e);
    assert_int_equal(status(e, false).n, 0);
    e->sink_down = false;
    WAIT(e, !e->s->tasks);
    expect_rows(e, "t1", 0);
    create_ok(e, "t1", 0);
    end_env(e);
}

static void a_delete_that_takes_long_is_answered(void **state) {
    env_t *e = new_env(NEVER);
    create_ok(e, "t1", 2);
    e->s->remove_answer_ms = 100;
    e->sink_down = true;
    reply_t deleted = {0};
    Openmldb__Datasync__DeleteSyncTaskRequest r = OPENMLDB__DATASYNC__DELETE_SYNC_TASK_REQUEST__INIT;
    char db[] = "db1", name[] = "t1";
    r.db = db;
    r.name = name;
    for (int i = 0; i < 2; i++) { /* asked again, it says the same */
        deleted = (reply_t){0};
        call(e, "DeleteSyncTask", &r.base, NULL, 0, &openmldb__datasync__general_response__descriptor, on_reply,
             &deleted);
        WAIT(e, deleted.done);
        assert_int_equal(deleted.code, -1);
        assert_non_null(strstr(deleted.msg, "the removal of its sync task goes on by itself"));
    }
    assert_int_equal(e->s->n_deletes, 0);
    e->sink_down = false;
    WAIT(e, !e->s->tasks);
    create_ok(e, "t1", 0);
    end_env(e);
}

static void packs_that_lie_are_refused_and_named(void **state) {
    env_t *e = new_env(NEVER);
    create_ok(e, "t1", 2);
    reply_t r = send_pack(e, (pack_t){.tid = 5, .next = 3, .rows = 2, .count = 3});
    assert_true(r.code == -1 && !r.delete_task);
    assert_non_null(strstr(r.msg, "tid 5 pid 0: the pack says that it holds 3 rows"));
    shown_t x = shown(e, 5, 0);
    assert_string_equal(x.status, "FAILED");
    assert_non_null(strstr(x.info, ";reason=tid 5 pid 0: the pack says that it holds 3 rows"));
    r = send_pack(e, (pack_t){.tid = 5, .next = 3, .rows = 2, .count = 1});
    assert_non_null(strstr(r.msg, "holds 1 rows"));
    r = send_pack(e, (pack_t){.tid = 5, .next = 3, .rows = 2, .count = 0});
    assert_non_null(strstr(r.msg, "holds 0 rows"));
    r = send_pack(e, (pack_t){.tid = 5, .next = 3, .rows = 3, .count = 3, .cut = 2});
    assert_non_null(strstr(r.msg, "row 3 of 3 in the pack"));
    assert_string_equal(shown(e, 5, 0).status, "FAILED");
    feed(e, 5, 0, 0, 3, 0, 3);
    assert_string_equal(shown(e, 5, 0).status, "RUNNING");
    assert_int_equal(send_pack(e, (pack_t){.tid = 5, .start = 3, .next = 3, .finished = true}).code, 0);
    expect_rows(e, "t1", 3);
    end_env(e);
}

static void a_collector_that_says_it_failed(void **state) {
    env_t *e = new_env(NEVER);
    create_ok(e, "t1", 2);
    reply_t r = send_pack(e, (pack_t){.tid = 5, .failed = true, .reason = "binlog a=1;b: gap"});
    assert_int_equal(r.code, 0);
    shown_t x = shown(e, 5, 0);
    assert_string_equal(x.status, "FAILED");
    assert_non_null(strstr(x.info, ";reason=binlog a:1,b: gap")); /* the helper splits at ';' and '=' */
    restart(e);
    assert_string_equal(shown(e, 5, 0).status, "FAILED");
    r = send_pack(e, (pack_t){.tid = 5, .reason = "waits for a snapshot"});
    assert_int_equal(r.code, 0);
    x = shown(e, 5, 0);
    assert_string_equal(x.status, "RUNNING");
    assert_non_null(strstr(x.info, ";reason=waits for a snapshot"));
    end_env(e);
}

static void defects_14_15_a_column_that_is_added_arrives(void **state) {
    env_t *e = new_env(NEVER);
    create_ok(e, "t1", 2);
    feed(e, 5, 0, 0, 3, 0, 3);
    pack_t p = {.tid = 5, .start = 3, .next = 5, .first_row = 3, .rows = 2, .count = -1, .wide = true};
    reply_t r = send_pack(e, p);
    assert_true(r.code == -1 && !r.delete_task && !r.has_resume);
    shown_t x = shown(e, 5, 0);
    assert_string_equal(x.status, "RUNNING");
    assert_non_null(strstr(x.info, "waits for the table's description"));
    e->tables[0].columns = 3;
    assert_int_equal(send_pack(e, p).code, 0);
    feed(e, 5, 0, 5, 7, 5, 2); /* an old row: the new column is null */
    assert_int_equal(send_pack(e, (pack_t){.tid = 5, .start = 7, .next = 7, .finished = true}).code, 0);
    output_t out = read_output(e, "t1"); /* checks that no file has two schemas */
    assert_int_equal(out.n, 7);
    assert_int_equal(out.files, 2);
    assert_string_equal(out.lines[2], "2,\"row 2\"");
    assert_string_equal(out.lines[3], "3,\"row 3\",7");
    assert_string_equal(out.lines[6], "6,\"row 6\",null");
    free_output(&out);
    end_env(e);
}

static void defect_39_a_slow_write_holds_up_nobody_else(void **state) {
    env_t *e = new_env(NEVER);
    create_ok(e, "t2", 0);
    e->hold_writes = true;
    reply_t slow;
    pack_t p = {.tid = 6, .pid = 0, .next = 3, .rows = 3, .count = -1};
    send_async(e, &p, &slow);
    WAIT(e, held_write.cb);
    e->hold_writes = false;
    assert_int_equal(status(e, false).n, 2);
    feed(e, 6, 1, 0, 2, 3, 2);
    create_ok(e, "t1", 0);
    assert_int_equal(delete_task(e, "t1").code, 0);
    assert_false(slow.done);
    release_write();
    WAIT(e, slow.done);
    assert_int_equal(slow.code, 0);
    end_env(e);
}

static void memory_for_rows_in_work_is_bounded(void **state) {
    env_t *e = new_env(NEVER);
    e->tables[1].partitions = 3;
    create_ok(e, "t2", 2);
    e->s->max_work_bytes = e->s->max_waiting_bytes = 80; /* three rows of 26 bytes fit, more don't, not even as CSV */
    e->hold_writes = true;
    reply_t slow, waiting;
    pack_t p = {.tid = 6, .pid = 0, .next = 3, .rows = 3, .count = -1};
    send_async(e, &p, &slow);
    WAIT(e, held_write.cb);
    p.pid = 1;
    p.first_row = 3;
    send_async(e, &p, &waiting);
    WAIT(e, work_of(e, 6, 1));
    p.pid = 2;
    p.first_row = 6;
    reply_t r = send_pack(e, p);
    assert_true(r.code == -1 && !r.delete_task && !r.has_resume);
    assert_non_null(strstr(r.msg, "too many rows are waiting"));
    run_for(e, 20);
    assert_false(slow.done || waiting.done);
    release_write();
    WAIT(e, slow.done && waiting.done);
    assert_true(slow.code == 0 && waiting.code == 0);
    assert_int_equal(send_pack(e, p).code, 0);
    assert_true(e->s->work_bytes == 0 && e->s->waiting_bytes == 0);
    for (uint32_t pid = 0; pid < 3; pid++)
        assert_int_equal(send_pack(e, (pack_t){.tid = 6, .pid = pid, .start = 3, .next = 3, .finished = true}).code, 0);
    expect_rows(e, "t2", 9);
    end_env(e);
}

static void a_destination_that_is_away_is_waited_for(void **state) {
    env_t *e = new_env(NEVER);
    create_ok(e, "t1", 2);
    feed(e, 5, 0, 0, 2, 0, 2);
    stop(e);
    e->sink_down = true;
    start(e);
    WAIT(e, shown(e, 5, 0).tid == 5 && strstr(shown(e, 5, 0).info, "reason=destination"));
    reply_t r = send_pack(e, (pack_t){.tid = 5, .start = 2, .next = 3, .first_row = 2, .rows = 1, .count = -1});
    assert_true(r.code == -1 && !r.delete_task && !r.has_resume);
    assert_non_null(strstr(r.msg, "isn't ready"));
    e->sink_down = false;
    all_ready(e);
    feed(e, 5, 0, 0, 4, 0, 4);
    assert_int_equal(send_pack(e, (pack_t){.tid = 5, .start = 4, .next = 4, .finished = true}).code, 0);
    expect_rows(e, "t1", 4);
    end_env(e);
}

static void defect_48_hosts(void **state) {
    char host[OSYNC__HOST_SIZE];
    osync__host_of("127.0.0.1:80", host);
    assert_string_equal(host, "127.0.0.1");
    osync__host_of("[fe80::1]:80", host);
    assert_string_equal(host, "fe80::1");
    osync__host_of("fe80::1:80", host);
    assert_string_equal(host, "fe80::1");
    env_t *e = new_env(NEVER);
    const char *names[] = {"localhost", "127.0.0.1", "localhost"};
    bool known = false;
    int rc = osync__hosts_lookup(e->s->hosts, names, 3, on_flag, &known);
    assert_int_equal(rc, 0);
    WAIT(e, known);
    assert_int_equal(osync__hosts_lookup(e->s->hosts, names, 3, on_flag, &known), 1);
    assert_true(osync__hosts_same(e->s->hosts, "localhost", "127.0.0.1"));
    assert_true(osync__hosts_same(e->s->hosts, "::1", "127.0.0.1"));
    assert_true(osync__hosts_same(e->s->hosts, "LocalHost", "localhost"));
    assert_true(osync__hosts_same(e->s->hosts, "::ffff:10.0.0.1", "10.0.0.1"));
    assert_false(osync__hosts_same(e->s->hosts, "127.0.0.9", "127.0.0.1"));
    assert_false(osync__hosts_same(e->s->hosts, "other.invalid", "127.0.0.1"));
    /* a leader under another name, partitions in another order, a dead former leader in the list, a server name */
    e->tables[1].leader = "localhost:9999";
    e->tables[1].reversed = true;
    create_ok(e, "t2", 2);
    assert_string_equal(last_add(e, 6, 1)->tablet, "localhost:9999");
    e->tables[0].leader = "17"; /* use_name */
    create_ok(e, "t1", 2);
    assert_string_equal(last_add(e, 5, 0)->tablet, "127.0.0.1:4444");
    end_env(e);
}

static void collectors_share_the_partitions(void **state) {
    env_t *e = new_env(NEVER);
    e->collectors[1].registered = true;
    e->tables[1].partitions = 4;
    create_ok(e, "t2", 2);
    int n[MAX_COLLECTORS] = {0};
    for (size_t i = 0; i < e->n_adds; i++) n[e->adds[i].collector]++;
    assert_true(n[0] == 2 && n[1] == 2);
    end_env(e);
}

static void defect_49_the_address_that_collectors_are_told(void **state) {
    env_t *e = new_env(NEVER);
    stop(e);
    e->config.host = "0.0.0.0";
    e->local = "10.1.2.3";
    start(e);
    create_ok(e, "t1", 2);
    char expected[64];
    snprintf(expected, sizeof expected, "10.1.2.3:%d", osync_scheduler_port(e->s));
    assert_string_equal(last_add(e, 5, 0)->to, expected);
    stop(e);
    e->config.advertised_endpoint = "sync.example:8848";
    start(e);
    create_ok(e, "t2", 2);
    assert_string_equal(last_add(e, 6, 1)->to, "sync.example:8848");
    end_env(e);
}

static void defect_54_destinations_are_checked(void **state) {
    static const struct {
        const char *dest, *target, *error;
    } cases[] = {
        {"/a/b", "hdfs://ns1/a/b", NULL},
        {"/a//b/", "hdfs://ns1/a/b", NULL},
        {"hdfs://nn:8020/x", "hdfs://nn:8020/x", NULL},
        {"HDFS://nn:8020/x", "hdfs://nn:8020/x", NULL},
        {"webhdfs://nn:9870/x/", "webhdfs://nn:9870/x", NULL},
        {"file:///tmp/x", "file:///tmp/x", NULL},
        {"a/b", NULL, "absolute path"},
        {"/", NULL, "root folder"},
        {"/a/./b", NULL, "not allowed"},
        {"/a/..", NULL, "not allowed"},
        {"hdfs:///x", "hdfs://ns1/x", NULL},
        {"webhdfs:///x", NULL, "host is missing"},
        {"hdfs://nn:8020", NULL, "must be absolute"},
        {"file://other/x", NULL, "has no host"},
        {"hdfs://me@nn/x", NULL, "not supported"},
        {"ftp://h/x", NULL, "ftp:// is not supported"},
        {"/a\nb", NULL, "control character"},
    };
    uv_loop_t loop;
    uv_loop_init(&loop);
    osync__sinks_t *sinks;
    osync__sinks_config_t config = {.default_fs = "hdfs://ns1"};
    assert_int_equal(osync__sinks_new(&loop, &config, &sinks), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        osync_error_t err = {0};
        char *target = NULL;
        int rc = osync__dest_resolve(sinks, cases[i].dest, &target, &err);
        if (cases[i].target) {
            if (rc) fail_msg("%s: %s", cases[i].dest, err.message);
            assert_string_equal(target, cases[i].target);
        } else if (!rc || !strstr(err.message, cases[i].error)) {
            fail_msg("%s: %s", cases[i].dest, rc ? err.message : "accepted");
        }
        free(target);
    }
    /* A maker of its own knows more schemes, and what their hosts mean. */
    osync_error_t other = {0};
    char *target = NULL;
    bool closed = false;
    osync__sinks_close(sinks, on_flag, &closed);
    config.make = make_sink;
    assert_int_equal(osync__sinks_new(&loop, &config, &sinks), 0);
    assert_int_equal(osync__dest_resolve(sinks, "S3+x://bucket//a", &target, &other), 0);
    assert_string_equal(target, "s3+x://bucket/a");
    free(target);
    assert_int_equal(osync__dest_resolve(sinks, "mem:///a", &target, &other), 0);
    assert_string_equal(target, "mem:///a");
    free(target);
    target = NULL;
    assert_int_equal(osync__dest_resolve(sinks, "3s://b/a", &target, &other), OSYNC_ENOTSUP);
    assert_int_equal(osync__dest_resolve(sinks, "seventeen.letters://b/a", &target, &other), OSYNC_ENOTSUP);

    char long_dest[2100] = "hdfs://nn:8020/"; /* longer than delivery takes */
    memset(long_dest + strlen(long_dest), 'x', 2050);
    osync_error_t too_long = {0};
    char *none = NULL;
    assert_int_equal(osync__dest_resolve(sinks, long_dest, &none, &too_long), OSYNC_EINVAL);
    assert_non_null(strstr(too_long.message, "longer than 2048 bytes"));
    closed = false;
    osync__sinks_close(sinks, on_flag, &closed);
    assert_true(closed);
    uv_loop_close(&loop);
}

static void where_a_sink_is_can_be_told_to_others(void **state) {
    static const struct {
        const char *target, *fs, *namenode;
    } cases[] = {{"webhdfs://nn:9871/x", "webhdfs://nn:9871", "nn:9871"},
                 {"webhdfs://nn/x", "webhdfs://nn", "nn:9870"},
                 {"hdfs://nn:8020/x", "hdfs://nn:8020", "nn:9870"},
                 {"file:///x", "file://", NULL}};
    uv_loop_t loop;
    uv_loop_init(&loop);
    osync__sinks_t *sinks;
    char conf[] = "/tmp/osync-scheduler-XXXXXX"; /* without any file */
    assert_non_null(mkdtemp(conf));
    osync__sinks_config_t config = {.hadoop_user = "writer", .hadoop_conf_dir = conf};
    bool closed = false;
    assert_int_equal(osync__sinks_new(&loop, &config, &sinks), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        osync_error_t err = {0};
        osync_sink_t *sink;
        osync__sinks_place_t place;
        const char *path;
        if (osync__sinks_get(sinks, cases[i].target, &sink, &path, &err)) fail_msg("%s", err.message);
        osync__sinks_place(sinks, sink, &place);
        assert_string_equal(place.fs, cases[i].fs);
        assert_int_equal(place.n_namenodes, cases[i].namenode != NULL);
        if (cases[i].namenode) assert_string_equal(place.namenodes[0], cases[i].namenode);
        if (cases[i].namenode) assert_string_equal(place.user, "writer");
        osync__sinks_put(sinks, sink);
    }
    osync__sinks_close(sinks, on_flag, &closed);
    while (!closed) uv_run(&loop, UV_RUN_ONCE);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(rmdir(conf), 0);
    assert_int_equal(uv_loop_close(&loop), 0);
}

static void points_as_the_original_prints_them(void **state) {
    uint8_t pk[] = {'a', '"', '\\', '\n', 0, 0xe4, '\''};
    Openmldb__Datasync__SyncPoint p = OPENMLDB__DATASYNC__SYNC_POINT__INIT;
    osync__buf_t text = {0};
    p.type = OPENMLDB__DATASYNC__SYNC_TYPE__kSNAPSHOT;
    p.has_pk = p.has_ts = 1;
    p.pk = (ProtobufCBinaryData){sizeof pk, pk};
    p.ts = 1011;
    p.snapshot_name = (char *)(uintptr_t) "ours";
    assert_int_equal(osync__sched_point_text(&text, &p), 0);
    assert_int_equal(osync__buf_append(&text, "", 1), 0);
    assert_string_equal((char *)text.data, "type: kSNAPSHOT\npk: \"a\\\"\\\\\\n\\000\\344\\'\"\nts: 1011\n");
    osync__buf_free(&text);
}

/* ---- HTTP ---- */

typedef struct http {
    uv_tcp_t tcp;
    uv_connect_t connect;
    uv_write_t write;
    const char *request;
    char answer[8192];
    size_t n;
    bool done;
} http_t;

static void on_http_alloc(uv_handle_t *h, size_t size, uv_buf_t *buf) {
    http_t *x = h->data;
    *buf = uv_buf_init(x->answer + x->n, (unsigned)(sizeof x->answer - 1 - x->n));
}

static void on_http_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf) {
    http_t *x = s->data;
    if (n > 0)
        x->n += (size_t)n;
    else if (n < 0)
        x->done = true;
}

static void on_http_connected(uv_connect_t *c, int rc) {
    http_t *x = c->data;
    uv_buf_t buf = uv_buf_init((char *)(uintptr_t)x->request, (unsigned)strlen(x->request));
    assert_int_equal(rc, 0);
    uv_write(&x->write, (uv_stream_t *)&x->tcp, &buf, 1, NULL);
    uv_read_start((uv_stream_t *)&x->tcp, on_http_alloc, on_http_read);
}

/* The request must ask for the connection to be closed. */
static http_t *http(env_t *e, const char *request) {
    http_t *x = calloc(1, sizeof *x);
    struct sockaddr_in to;
    x->request = request;
    uv_ip4_addr("127.0.0.1", osync_scheduler_port(e->s), &to);
    uv_tcp_init(&e->loop, &x->tcp);
    x->tcp.data = x->connect.data = x;
    uv_tcp_connect(&x->connect, &x->tcp, (const struct sockaddr *)&to, on_http_connected);
    WAIT(e, x->done);
    uv_close((uv_handle_t *)&x->tcp, NULL);
    uv_run(&e->loop, UV_RUN_NOWAIT);
    return x;
}

static void the_helper_and_the_page(void **state) {
    env_t *e = new_env(NEVER);
    http_t *x = http(e, "GET /openmldb.datasync.SyncTool/TaskStatus HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                        "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
    assert_non_null(strstr(x->answer, "\r\n\r\n{\n  \"response\": {\n    \"code\": 0\n  }\n}"));
    free(x);
    char body[256], request[512];
    int n = snprintf(
        body, sizeof body,
        "{\"db\": \"db1\", \"name\": \"t1\", \"mode\": 0, \"start_ts\": 0, \"dest\": \"file://%s/out/t1\"}", e->dir);
    snprintf(request, sizeof request,
             "POST /openmldb.datasync.SyncTool/CreateSyncTask HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
             "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
             n, body);
    x = http(e, request);
    assert_non_null(strstr(x->answer, "\r\n\r\n{\n  \"code\": 0\n}"));
    free(x);
    feed(e, 5, 0, 0, 3, 0, 3);
    x = http(e, "GET /openmldb.datasync.SyncTool/TaskStatus HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
    assert_non_null(
        strstr(x->answer,
               "  \"task\": [{\n    \"progress\": {\n      \"tid\": 5,\n      \"pid\": 0,\n      \"mode\": \"kFull\",\n"
               "      \"startTs\": \"0\",\n      \"syncPoint\": {\n        \"type\": \"kSNAPSHOT\"\n      },\n"));
    assert_non_null(strstr(x->answer, "\"count\": \"0\",\n    \"status\": \"RUNNING\"\n"));
    assert_non_null(strstr(x->answer, "\"readableInfo\": [\"lastUpdateTime\\u003d"));
    free(x);
    x = http(e, "GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_non_null(strstr(x->answer, "text/plain"));
    assert_non_null(strstr(x->answer, "db1.t1 tid 5"));
    assert_non_null(strstr(x->answer, "partition 0: RUNNING following, rows 0 committed 3 staged"));
    assert_null(strstr(x->answer, last_add(e, 5, 0)->token));
    free(x);
    x = http(e, "GET /status?format=json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    json_t *page = json_loads(strstr(x->answer, "\r\n\r\n") + 4, 0, NULL);
    assert_non_null(page);
    json_t *sub = json_array_get(json_object_get(json_array_get(json_object_get(page, "tasks"), 0), "partitions"), 0);
    assert_int_equal(json_integer_value(json_object_get(sub, "staged_rows")), 3);
    assert_string_equal(json_string_value(json_object_get(sub, "status")), "RUNNING");
    json_decref(page);
    free(x);
    end_env(e);
}

/* ---- where a task begins ---- */

static void commit(env_t *e, uint32_t tid, uint32_t pid, uint64_t start, uint64_t next, uint64_t first, size_t n) {
    feed(e, tid, pid, start, next, first, n);
    for (uint64_t until = osync__mono_ms() + WAIT_MS; shown(e, tid, pid).point != next; run_for(e, 5))
        if (osync__mono_ms() > until)
            fail_msg("partition %u is still at %llu", pid, (unsigned long long)shown(e, tid, pid).point);
}

static env_t *new_env_that_commits(uint32_t check_ms) {
    env_t *e = new_env(check_ms);
    stop(e);
    e->config.roll_interval_ms = 1;
    start(e);
    return e;
}

/* A scheduler without any memory of its tasks. */
static void lose_state(env_t *e) {
    char path[160];
    static const char *const suffixes[] = {"", "-wal", "-shm"};
    stop(e);
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/checkpoint.db%s", e->dir, suffixes[i]);
        (void)unlink(path);
    }
    start(e);
    assert_null(e->s->tasks);
}

static void id_of(env_t *e, uint32_t tid, char id[37]) {
    osync__task_t *t = NULL;
    HASH_FIND(hh, e->s->tasks, &tid, sizeof tid, t);
    assert_non_null(t);
    memcpy(id, t->id, 37);
}

static void write_text(env_t *e, const char *name) {
    char path[320];
    snprintf(path, sizeof path, "%s/out/%s", e->dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("99,\"row 99\"\n", f);
    fclose(f);
}

static void create_beside_earlier_rows_warns(void **state) {
    env_t *e = new_env_that_commits(NEVER);
    char id[37];
    create_ok(e, "t1", 2);
    id_of(e, 5, id);
    commit(e, 5, 0, 0, 3, 0, 3);
    assert_int_equal(delete_task(e, "t1").code, 0);
    reply_t r = create_begin(e, "t1", (begin_t){.n_points = 0});
    assert_int_equal(r.code, 0);
    assert_non_null(strstr(r.msg, "warning: file:///"));
    assert_non_null(strstr(r.msg, "holds 1 files of db1.t1 already"));
    assert_non_null(strstr(r.msg, id));
    assert_non_null(strstr(r.msg, "--append") && strstr(r.msg, "--restart") && strstr(r.msg, "--continue"));
    assert_int_equal(last_add(e, 5, 0)->point, 0);
    assert_int_equal(delete_task(e, "t1").code, 0);
    r = create_begin(e, "t1", (begin_t){.start = APPEND});
    assert_true(r.code == 0 && !*r.msg);
    assert_int_equal(delete_task(e, "t1").code, 0);
    /* another table may write to the same folder: no warning */
    char dest[128];
    snprintf(dest, sizeof dest, "file://%s/out/t1", e->dir);
    r = create(e, "t2", 2, dest);
    assert_true(r.code == 0 && !*r.msg);
    end_env(e);
}

static void restart_removes_the_tables_own_files_only(void **state) {
    env_t *e = new_env_that_commits(NEVER);
    char dest[128], name[160], other[37];
    snprintf(dest, sizeof dest, "file://%s/out/t1", e->dir);
    create_ok(e, "t1", 2);
    commit(e, 5, 0, 0, 3, 0, 3);
    commit(e, 5, 0, 3, 6, 3, 3);
    assert_int_equal(delete_task(e, "t1").code, 0);
    assert_int_equal(create(e, "t2", 2, dest).code, 0); /* another table in the same folder */
    id_of(e, 6, other);
    commit(e, 6, 1, 0, 2, 50, 2);
    create_begin(e, "t1", (begin_t){.start = APPEND}); /* a second earlier task */
    char id[37];
    id_of(e, 5, id);
    commit(e, 5, 0, 0, 4, 0, 4);
    assert_int_equal(delete_task(e, "t1").code, 0);
    snprintf(name, sizeof name, "t1/part-%s-00000-0000000007.csv", id); /* a copy without a label */
    write_text(e, name);
    write_text(e, "t1/notes.csv");
    snprintf(name, sizeof name, "%s/out/t1/_osync/%s/0/0123", e->dir, id); /* of a scheduler that is gone */
    osync_error_t err;
    assert_int_equal(osync__mkdirs(name, &err), 0);
    reply_t r = create_begin(e, "t1", (begin_t){.start = RESTART});
    assert_int_equal(r.code, 0);
    assert_non_null(strstr(r.msg, "1 files with names of earlier sync tasks of this table were left"));
    assert_int_equal(last_add(e, 5, 0)->point, 0);
    commit(e, 5, 0, 0, 3, 0, 3);
    output_t out = read_output(e, "t1");
    assert_int_equal(out.n, 3 + 2 + 2); /* ours anew, the other table's, the two that aren't ours */
    free_output(&out);
    snprintf(name, sizeof name, "%s/out/t1/_osync/%s", e->dir, id);
    assert_int_not_equal(access(name, F_OK), 0);
    /* a task that is here isn't touched, though its table was made again */
    e->tables[0].tid = 15;
    r = create_begin(e, "t1", (begin_t){.start = RESTART});
    assert_int_equal(r.code, -1);
    assert_non_null(strstr(r.msg, "still writes there: delete it first"));
    expect_file_count(e, "t1", 4);
    end_env(e);
}

static void continue_goes_on_where_the_files_end(void **state) {
    env_t *e = new_env_that_commits(NEVER);
    char id[37], again[37];
    reply_t r = create_begin(e, "t2", (begin_t){.start = CONTINUE});
    assert_int_equal(r.code, -1);
    assert_non_null(strstr(r.msg, "there is nothing to go on from"));
    create_ok(e, "t2", 2);
    id_of(e, 6, id);
    commit(e, 6, 0, 0, 4, 0, 2);
    commit(e, 6, 0, 4, 6, 2, 2);
    assert_int_equal(delete_task(e, "t2").code, 0);
    r = create_begin(e, "t2", (begin_t){.start = CONTINUE}); /* A11 */
    assert_int_equal(r.code, -1);
    assert_non_null(strstr(r.msg, "there is no file of partition 1 of task"));
    assert_non_null(strstr(r.msg, "--start-over"));
    assert_int_equal(status(e, false).n, 0);
    assert_int_equal(e->n_adds, 2);
    assert_int_equal(recover(e, "t2", NULL, true).code, 0);
    id_of(e, 6, again);
    assert_string_equal(again, id);
    assert_int_equal(last_add(e, 6, 0)->point, 6);
    assert_int_equal(last_add(e, 6, 1)->point, 0);
    commit(e, 6, 1, 0, 9, 4, 3);
    assert_int_equal(delete_task(e, "t2").code, 0);
    r = create_begin(e, "t2", (begin_t){.start = CONTINUE});
    assert_string_equal(r.msg, "");
    id_of(e, 6, again);
    assert_string_equal(again, id);
    assert_int_equal(last_add(e, 6, 0)->point, 6);
    assert_int_equal(last_add(e, 6, 1)->point, 9);
    assert_int_equal(shown(e, 6, 0).count, 4); /* the labels' totals */
    commit(e, 6, 0, 6, 8, 7, 1);
    expect_rows(e, "t2", 8);
    restart(e);
    assert_int_equal(shown(e, 6, 0).point, 8);
    osync__task_t *t = e->s->tasks;
    assert_false(t->rebuild); /* its records are all there */
    assert_int_equal(delete_task(e, "t2").code, 0);
    e->tables[1].tid = 16; /* dropped and made again: another log */
    r = create_begin(e, "t2", (begin_t){.start = CONTINUE});
    assert_int_equal(r.code, -1);
    assert_non_null(strstr(r.msg, "(tid 6, now 16)"));
    end_env(e);
}

static void several_earlier_tasks_are_named(void **state) {
    env_t *e = new_env_that_commits(NEVER);
    char first[37], second[37], again[37];
    create_ok(e, "t1", 2);
    id_of(e, 5, first);
    commit(e, 5, 0, 0, 3, 0, 3);
    assert_int_equal(delete_task(e, "t1").code, 0);
    assert_int_equal(create_begin(e, "t1", (begin_t){.start = APPEND}).code, 0);
    id_of(e, 5, second);
    commit(e, 5, 0, 0, 7, 0, 3);
    assert_int_equal(delete_task(e, "t1").code, 0);
    reply_t r = create_begin(e, "t1", (begin_t){.start = CONTINUE});
    assert_int_equal(r.code, -1);
    assert_non_null(strstr(r.msg, first));
    assert_non_null(strstr(r.msg, second));
    assert_non_null(strstr(r.msg, "choose one with --task"));
    r = create_begin(e, "t1", (begin_t){.start = CONTINUE, .task_id = "00000000-0000-0000-0000-000000000000"});
    assert_int_equal(r.code, -1);
    assert_non_null(strstr(r.msg, "no task 00000000"));
    assert_int_equal(create_begin(e, "t1", (begin_t){.task_id = first}).code, -1); /* says not what for */
    assert_int_equal(create_begin(e, "t1", (begin_t){.start = CONTINUE, .task_id = first}).code, 0);
    id_of(e, 5, again);
    assert_string_equal(again, first);
    assert_int_equal(last_add(e, 5, 0)->point, 3);
    end_env(e);
}

static void a_new_task_begins_at_given_points(void **state) {
    env_t *e = new_env_that_commits(NEVER);
    begin_t begin = {.start = AT_POINTS, .n_points = 1, .pids = {1}, .points = {30}};
    reply_t r = create_begin(e, "t2", begin);
    assert_int_equal(r.code, -1);
    assert_non_null(strstr(r.msg, "there is none for 0"));
    begin = (begin_t){.start = AT_POINTS, .n_points = 3, .pids = {0, 1, 7}, .points = {20, 30, 1}};
    r = create_begin(e, "t2", begin);
    assert_int_equal(r.code, -1);
    assert_non_null(strstr(r.msg, "a point for partition 7, which the table doesn't have"));
    begin = (begin_t){.start = AT_POINTS, .n_points = 3, .pids = {0, 1, 0}, .points = {20, 30, 1}};
    r = create_begin(e, "t2", begin);
    assert_non_null(strstr(r.msg, "two points for partition 0"));
    begin = (begin_t){.n_points = 2, .pids = {0, 1}, .points = {20, 30}};
    assert_int_equal(create_begin(e, "t2", begin).code, -1);
    begin.start = AT_POINTS;
    assert_int_equal(create_begin(e, "t2", begin).code, 0);
    assert_int_equal(last_add(e, 6, 0)->point, 20);
    assert_int_equal(last_add(e, 6, 1)->point, 30);
    restart(e);
    assert_int_equal(shown(e, 6, 1).point, 30);
    commit(e, 6, 1, 30, 33, 0, 3);
    expect_rows(e, "t2", 3);
    end_env(e);
}

static void points_are_shown_exactly(void **state) {
    env_t *e = new_env(NEVER);
    create_ok(e, "t1", 2);
    http_t *x = http(e, "POST /openmldb.datasync.SyncTool/TaskStatus HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                        "Content-Type: application/json\r\nContent-Length: 16\r\n\r\n{\"points\": true}");
    assert_non_null(strstr(x->answer, "\"points\": [\"0800\"]"));
    free(x);
    end_env(e);
}

/* ---- the checkpoint is lost ---- */

static void recover_takes_a_task_up_from_its_files(void **state) {
    env_t *e = new_env_that_commits(NEVER);
    char id[37], again[37];
    e->config.csv_timezone = "Asia/Shanghai";
    restart(e);
    create_ok(e, "t2", 2);
    id_of(e, 6, id);
    commit(e, 6, 0, 0, 4, 0, 2);
    commit(e, 6, 1, 0, 5, 2, 2);
    commit(e, 6, 1, 5, 7, 4, 1);
    feed(e, 6, 0, 4, 5, 5, 1); /* may be committed or not */
    e->config.csv_timezone = "UTC";
    reply_t r = recover(e, "t2", NULL, false);
    assert_int_equal(r.code, -1); /* it is here */
    lose_state(e);
    e->away = true;
    assert_int_equal(recover(e, "t2", NULL, false).code, -1);
    e->away = false;
    r = recover(e, "t2", NULL, false);
    assert_int_equal(r.code, 0);
    id_of(e, 6, again);
    assert_string_equal(again, id);
    assert_non_null(strstr(r.msg, id));
    add_t *a = last_add(e, 6, 1);
    assert_true(a->mode == 2 && a->has_start_ts && a->start_ts == 77 && a->point == 7);
    assert_string_equal(e->s->tasks->timezone, "Asia/Shanghai");
    if (last_add(e, 6, 0)->point == 4) commit(e, 6, 0, 4, 5, 5, 1);
    assert_int_equal(last_add(e, 6, 0)->point <= 5, 1);
    commit(e, 6, 1, 7, 8, 6, 1);
    expect_rows(e, "t2", 7);
    assert_int_equal(shown(e, 6, 0).count + shown(e, 6, 1).count, 7);
    /* without a collector it is here again all the same, and waits */
    lose_state(e);
    e->collectors[0].registered = false;
    assert_int_equal(recover(e, "t2", NULL, false).code, 0);
    assert_string_equal(shown(e, 6, 1).status, "REASSIGNING");
    assert_non_null(strstr(shown(e, 6, 1).info, "can't find data collectors"));
    lose_state(e);
    e->collectors[0].registered = true;
    e->collectors[0].code = -1;
    assert_int_equal(recover(e, "t2", NULL, false).code, 0);
    assert_string_equal(shown(e, 6, 1).status, "FAILED");
    assert_int_equal(shown(e, 6, 1).point, 8);
    end_env(e);
}

static void a_recovery_survives_the_end_of_the_process(void **state) {
    env_t *e = new_env_that_commits(100);
    reply_t r;
    create_ok(e, "t2", 2);
    commit(e, 6, 0, 0, 4, 0, 2);
    commit(e, 6, 1, 0, 5, 2, 2);
    lose_state(e);
    e->collectors[0].hold = true; /* it isn't answered */
    recover_async(e, "t2", NULL, false, &r);
    WAIT(e, e->collectors[0].held);
    stop(e);
    WAIT(e, r.done);
    assert_true(r.status != 0 || r.code != 0);
    osync__sched_reply_general(e->collectors[0].held, 0, NULL);
    e->collectors[0].held = NULL;
    e->collectors[0].hold = false;
    size_t n = e->n_adds;
    start(e);
    all_ready(e);
    assert_int_equal(shown(e, 6, 0).point, 4);
    assert_int_equal(shown(e, 6, 1).point, 5);
    WAIT(e, !e->s->tasks->rebuild);
    WAIT(e, e->n_adds >= n + 2); /* handed out by itself */
    commit(e, 6, 0, 4, 5, 4, 1);
    expect_rows(e, "t2", 5);
    end_env(e);
}

/* ---- retry ---- */

static void retry_starts_what_has_failed_again(void **state) {
    env_t *e = new_env_that_commits(NEVER);
    create_ok(e, "t2", 2);
    commit(e, 6, 0, 0, 4, 0, 2);
    assert_string_equal(retry(e, "t2").msg, "no partition is FAILED");
    assert_int_equal(retry(e, "t1").code, -1);
    send_pack(e, (pack_t){.tid = 6, .pid = 0, .start = 4, .next = 4, .failed = true, .reason = "the log has a gap"});
    char token[64];
    snprintf(token, sizeof token, "%s", last_add(e, 6, 0)->token);
    size_t n = e->n_adds;
    reply_t r = retry(e, "t2");
    assert_int_equal(r.code, 0);
    assert_string_equal(r.msg, "starts again: partition 0");
    WAIT(e, e->n_adds == n + 1);
    assert_string_not_equal(last_add(e, 6, 0)->token, token);
    assert_int_equal(last_add(e, 6, 0)->point, 4);
    WAIT_STATUS(e, 6, 0, "RUNNING");
    /* A destination in which somebody else's file has the next name. */
    char id[37], name[160];
    id_of(e, 6, id);
    snprintf(name, sizeof name, "t2/part-%s-00000-0000000001.csv", id);
    write_text(e, name);
    feed(e, 6, 0, 4, 6, 2, 2);
    WAIT_STATUS(e, 6, 0, "FAILED");
    assert_non_null(strstr(shown(e, 6, 0).info, "reason=destination: "));
    r = retry(e, "t2"); /* nothing has changed */
    assert_int_equal(r.code, 0);
    WAIT_STATUS(e, 6, 0, "FAILED");
    char path[320];
    snprintf(path, sizeof path, "%s/out/%s", e->dir, name);
    assert_int_equal(unlink(path), 0);
    n = e->n_adds;
    assert_int_equal(retry(e, "t2").code, 0);
    WAIT(e, e->n_adds == n + 1);
    assert_int_equal(last_add(e, 6, 0)->point, 4);
    commit(e, 6, 0, 4, 6, 2, 2);
    assert_string_equal(shown(e, 6, 0).status, "RUNNING");
    expect_rows(e, "t2", 4);
    end_env(e);
}

static void a_reason_is_not_masked(void **state) {
    env_t *e = new_env_that_commits(400);
    create_ok(e, "t1", 2);
    commit(e, 5, 0, 0, 2, 0, 2);
    e->sink_down = true;
    pack_t p = {.tid = 5, .start = 2, .next = 3, .first_row = 2, .rows = 1, .count = -1};
    assert_int_equal(send_pack(e, p).code, 0);
    size_t n = e->n_adds;
    WAIT(e, strstr(shown(e, 5, 0).info, "reason=destination"));
    run_for(e, 1500); /* several check periods of silence: HDFS is what is waited for */
    assert_non_null(strstr(shown(e, 5, 0).info, "reason=destination"));
    assert_string_equal(shown(e, 5, 0).status, "RUNNING");
    assert_int_equal(e->n_adds, n);
    e->sink_down = false;
    all_ready(e);
    /* A failure's own reason stays while ZooKeeper can't be asked for another collector. */
    reply_t r =
        send_pack(e, (pack_t){.tid = 5, .start = 2, .next = 2, .failed = true, .reason = "the log has diverged"});
    if (r.has_resume) /* what was staged may have been committed by its retry */
        send_pack(
            e,
            (pack_t){.tid = 5, .start = r.resume, .next = r.resume, .failed = true, .reason = "the log has diverged"});
    e->away = true;
    run_for(e, 1500);
    shown_t x = shown(e, 5, 0);
    assert_string_equal(x.status, "FAILED");
    assert_non_null(strstr(x.info, "reason=the log has diverged"));
    e->away = false;
    end_env(e);
}

/* ---- holds ---- */

static hold_t *last_hold(env_t *e, int collector) {
    for (size_t i = e->n_holds; i-- > 0;)
        if (e->holds[i].collector == collector) return &e->holds[i];
    return NULL;
}

static void followers_hold_the_log(void **state) {
    env_t *e = new_env_that_commits(NEVER);
    e->collectors[1].registered = e->collectors[2].registered = true; /* of one machine */
    e->collectors[1].code = e->collectors[2].code = -1;
    e->tables[0].follower = "127.0.0.1:7777";
    e->s->hold_period_ms = 30;
    char id[37];
    do { /* whoever is chosen first */
        delete_task(e, "t1");
    } while (create_begin(e, "t1", (begin_t){.start = APPEND}).code != 0);
    assert_int_equal(last_add(e, 5, 0)->collector, 0);
    id_of(e, 5, id);
    WAIT(e, last_hold(e, 1));
    hold_t *h = last_hold(e, 1);
    assert_true(h->tid == 5 && h->pid == 0 && !h->release && h->committed == 0);
    assert_string_equal(h->task_id, id);
    assert_string_equal(h->tablet, "127.0.0.1:7777");
    assert_null(last_hold(e, 0)); /* it has the log anyway */
    WAIT(e, e->s->hold_unknown);  /* the third doesn't know the call, and isn't asked again for long */
    commit(e, 5, 0, 0, 4, 0, 2);
    WAIT(e, last_hold(e, 1)->committed == 4);
    http_t *x = http(e, "GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    char text[128];
    snprintf(text, sizeof text, "log held by %s: entries 11 to 22", e->collectors[1].endpoint);
    assert_non_null(strstr(x->answer, text));
    free(x);
    e->tables[0].follower = NULL; /* it is gone; but the leader is on that machine too */
    WAIT(e, strcmp(last_hold(e, 1)->tablet, "127.0.0.1:9999") == 0);
    e->tables[0].leader = "127.0.0.9:9999"; /* on none that has a collector */
    WAIT(e, last_hold(e, 1)->release);
    e->tables[0].follower = "127.0.0.1:7777";
    WAIT(e, !last_hold(e, 1)->release);
    assert_int_equal(delete_task(e, "t1").code, 0);
    WAIT(e, last_hold(e, 1)->release);
    end_env(e);
}

static bool holds_at(env_t *e, int collector, uint32_t tid) {
    osync__task_t *t = NULL;
    HASH_FIND(hh, e->s->tasks, &tid, sizeof tid, t);
    const osync__hold_t *h = t ? osync__sched_hold_of(&t->subs[0], e->collectors[collector].endpoint) : NULL;
    return h && h->last_entry > 0;
}

/* Until the condition holds, the collector that has the partition shows that it lives. */
#define ALIVE_UNTIL(e, condition)                                                                                      \
    for (uint64_t until_ = osync__mono_ms() + WAIT_MS; !(condition); run_for(e, 5)) {                                  \
        send_pack(e, (pack_t){.tid = 5, .start = 4, .next = 4});                                                       \
        if (osync__mono_ms() > until_) fail_msg("waited too long for: %s", #condition);                                \
    }

static void a_standby_holds_the_log_and_takes_over(void **state) {
    env_t *e = new_env_that_commits(100);
    e->s->hold_period_ms = 30;
    create_ok(e, "t1", 2);
    commit(e, 5, 0, 0, 4, 0, 4);
    e->collectors[1].registered = true;
    ALIVE_UNTIL(e, holds_at(e, 1, 5));
    assert_string_equal(last_hold(e, 1)->tablet, "127.0.0.1:9999");
    assert_null(last_hold(e, 0));
    size_t n = e->n_holds;
    e->collectors[1].registered = false; /* its session is lost for a moment */
    ALIVE_UNTIL(e, !holds_at(e, 1, 5));
    e->collectors[1].registered = true;
    ALIVE_UNTIL(e, holds_at(e, 1, 5));
    for (size_t i = n; i < e->n_holds; i++) assert_false(e->holds[i].release); /* it keeps its links meanwhile */
    WAIT(e, last_add(e, 5, 0)->collector == 1);                                /* now it is silent */
    assert_int_equal(last_add(e, 5, 0)->point, 4);
    send_pack(e, (pack_t){.tid = 5, .start = 4, .next = 4});
    ALIVE_UNTIL(e, holds_at(e, 0, 5));      /* the former one stands by */
    assert_false(last_hold(e, 1)->release); /* the hold has become the task */
    end_env(e);
}

static json_t *collectors_of(env_t *e) {
    http_t *x = http(e, "GET /openmldb.datasync.SyncTool/Collectors HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    json_t *list = json_loads(strstr(x->answer, "\r\n\r\n") + 4, 0, NULL);
    assert_non_null(list);
    free(x);
    return list;
}

static json_t *collector_of(env_t *e, json_t *list, int collector) {
    json_t *all = json_object_get(list, "collectors");
    for (size_t i = 0; i < json_array_size(all); i++) {
        json_t *x = json_array_get(all, i);
        if (!strcmp(json_string_value(json_object_get(x, "endpoint")), e->collectors[collector].endpoint)) return x;
    }
    return NULL;
}

static bool is_text(json_t *object, const char *key, const char *expected) {
    const char *text = json_string_value(json_object_get(object, key));
    return expected ? text && !strcmp(text, expected) : !text;
}

static uint64_t seen_of(json_t *object) {
    const char *text = json_string_value(json_object_get(object, "lastSeen"));
    return text ? strtoull(text, NULL, 10) : 0;
}

static void the_list_of_collectors(void **state) {
    uint64_t begin = osync__wall_ms();
    env_t *e = new_env(NEVER);
    e->collectors[2].registered = true; /* doesn't know HoldLog */
    json_t *list = collectors_of(e);
    assert_int_equal(json_array_size(json_object_get(list, "collectors")), 2);
    json_t *x = collector_of(e, list, 0);
    assert_true(is_text(x, "host", "127.0.0.1") && is_text(x, "kind", "osync"));
    assert_true(json_is_true(json_object_get(x, "registered")) && !json_object_get(x, "tasks"));
    assert_in_range(seen_of(x), begin, osync__wall_ms()); /* it was asked */
    assert_true(is_text(collector_of(e, list, 2), "kind", "original"));
    json_decref(list);
    e->collectors[2].registered = false;
    create_ok(e, "t2", 2);
    e->collectors[0].registered = false;
    list = collectors_of(e);
    assert_int_equal(json_array_size(json_object_get(list, "collectors")), 2);
    x = collector_of(e, list, 2); /* it was heard of */
    assert_true(json_is_false(json_object_get(x, "registered")) && !json_object_get(x, "tasks") && seen_of(x) > 0);
    x = collector_of(e, list, 0);
    assert_true(json_is_false(json_object_get(x, "registered")));
    json_t *tasks = json_object_get(x, "tasks");
    assert_int_equal(json_array_size(tasks), 2);
    assert_string_equal(json_string_value(json_array_get(tasks, 0)), "6-0");
    assert_string_equal(json_string_value(json_array_get(tasks, 1)), "6-1");
    json_decref(list);
    e->away = true; /* ZooKeeper */
    list = collectors_of(e);
    assert_true(json_integer_value(json_object_get(json_object_get(list, "response"), "code")) == -1);
    assert_non_null(strstr(json_string_value(json_object_get(json_object_get(list, "response"), "msg")), "ZooKeeper"));
    x = collector_of(e, list, 0);
    assert_true(x && !json_object_get(x, "registered") && is_text(x, "kind", "osync"));
    json_decref(list);
    e->away = false;
    restart(e); /* what it was told before is forgotten, what was stored isn't */
    list = collectors_of(e);
    assert_int_equal(json_array_size(json_object_get(list, "collectors")), 1);
    x = collector_of(e, list, 0);
    assert_true(is_text(x, "kind", NULL) && seen_of(x) == 0 && json_array_size(json_object_get(x, "tasks")) == 2);
    json_decref(list);
    send_pack(e, (pack_t){.tid = 6, .pid = 1, .original = true});
    list = collectors_of(e);
    assert_true(is_text(collector_of(e, list, 0), "kind", "original"));
    json_decref(list);
    end_env(e);
}

/* ---- tasks of OpenMLDB's SyncTool ---- */

static char *path_in(env_t *e, const char *fmt, ...) OSYNC_PRINTF(2, 3);
static char *path_in(env_t *e, const char *fmt, ...) {
    static char out[4][512];
    static int turn;
    char *path = out[turn++ % 4];
    int n = snprintf(path, 512, "%s/", e->dir);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(path + n, 512 - (size_t)n, fmt, ap);
    va_end(ap);
    return path;
}

static void put_file(env_t *e, const char *path, const void *data, size_t len) {
    osync_error_t err;
    char folder[512];
    snprintf(folder, sizeof folder, "%.*s", (int)(strrchr(path, '/') - path), path);
    if (osync__mkdirs(folder, &err) || osync__write_file(path, data, len, &err)) fail_msg("%s", err.message);
}

static void copy_fixture(env_t *e, const char *fixture, const char *path) {
    osync__buf_t b = {0};
    osync_error_t err;
    char from[256];
    snprintf(from, sizeof from, "fixtures/synctool/%s", fixture);
    if (osync__read_file(from, 1 << 20, &b, &err)) fail_msg("%s", err.message);
    put_file(e, path, b.data, b.len);
    osync__buf_free(&b);
}

static void expect_same_file(const char *path, const char *fixture) {
    osync__buf_t a = {0}, b = {0};
    osync_error_t err;
    char from[256];
    snprintf(from, sizeof from, "fixtures/synctool/%s", fixture);
    if (osync__read_file(from, 1 << 20, &b, &err) || osync__read_file(path, 1 << 20, &a, &err))
        fail_msg("%s", err.message);
    assert_int_equal(a.len, b.len);
    assert_memory_equal(a.data, b.data, a.len);
    osync__buf_free(&a);
    osync__buf_free(&b);
}

typedef struct progress {
    uint32_t tid, pid;
    int mode;
    uint64_t point;
    const char *dest;
} progress_t;

static char token_of_pid[2][37] = {"00000000-1111-4222-8333-444444444440", "00000000-1111-4222-8333-444444444441"};

/* As SyncTool keeps it, in the folder of the state. */
static char *put_progress(env_t *e, progress_t p, const char *suffix) {
    Openmldb__Datasync__AddSyncTaskRequest r = OPENMLDB__DATASYNC__ADD_SYNC_TASK_REQUEST__INIT;
    Openmldb__Datasync__SyncPoint point;
    char tablet[] = "127.0.0.1:9999", des[] = "127.0.0.1:8848", dest[256];
    uint8_t bytes[1024];
    snprintf(dest, sizeof dest, "file://%s/out/%s", e->dir, p.dest ? p.dest : "t2");
    set_point(&point, p.point);
    r.has_tid = r.has_pid = r.has_mode = 1;
    r.tid = p.tid;
    r.pid = p.pid;
    r.mode = (Openmldb__Datasync__SyncMode)p.mode;
    r.sync_point = &point;
    r.tablet_endpoint = tablet;
    r.des_endpoint = des;
    r.token = token_of_pid[p.pid];
    r.dest = dest;
    size_t len = openmldb__datasync__add_sync_task_request__get_packed_size(&r);
    size_t at = len > 0x7f ? 2 : 1;
    assert_true(len < sizeof bytes - at);
    bytes[0] = (uint8_t)(len > 0x7f ? len | 0x80 : len);
    bytes[1] = (uint8_t)(len >> 7);
    openmldb__datasync__add_sync_task_request__pack(&r, bytes + at);
    char *path = path_in(e, "%u/%u.progress%s", p.tid, p.pid, suffix);
    put_file(e, path, bytes, len + at);
    return path;
}

/* What is in the folder of the state and begins with that name and a '.'; 0 or 1. */
static size_t set_aside(env_t *e, const char *name, char out[512]) {
    size_t n = 0;
    char begin[64];
    snprintf(begin, sizeof begin, "%s.", name);
    DIR *d = opendir(e->dir);
    for (struct dirent *x; (x = readdir(d));) {
        if (strncmp(x->d_name, begin, strlen(begin)) != 0) continue;
        snprintf(out, 512, "%s/%.250s", e->dir, x->d_name);
        n++;
    }
    closedir(d);
    return n;
}

static osync__sub_t *sub_of(env_t *e, uint32_t tid, uint32_t pid) {
    osync__task_t *t = NULL;
    HASH_FIND(hh, e->s->tasks, &tid, sizeof tid, t);
    return t ? osync__sched_task_sub(t, pid) : NULL;
}

static const char *waits_for(env_t *e, uint32_t tid) {
    static char why[1400];
    return osync__sched_import_waits(e->s, tid, why, sizeof why) ? why : "";
}

typedef struct exported {
    bool done;
    int status;
    osync_error_t err;
} exported_t;

static void on_exported(void *arg, int status, const osync_error_t *err) {
    exported_t *x = arg;
    x->done = true;
    x->status = status;
    if (status) x->err = *err;
}

static exported_t export_to(env_t *e, const char *folder) {
    exported_t x = {0};
    x.status = osync_scheduler_export_progress(&e->loop, e->config.state_dir, path_in(e, "%s", folder), on_exported, &x,
                                               &x.err);
    if (x.status == 0) WAIT(e, x.done);
    return x;
}

static void progress_files_of_the_original_come_in_and_go_out_unchanged(void **state) {
    static const struct {
        const char *fixture, *file;
    } files[] = {{"progress_16_0_new.bin", "16/0.progress"},
                 {"progress_16_1_new.bin", "16/1.progress"},
                 {"progress_10_0_after_packs.bin", "10/0.progress"},
                 {"progress_16_0_after_reassign.bin", "17/0.progress"}}; /* of another table: it is left alone */
    env_t *e = new_env(NEVER);
    char gone[512];
    stop(e);
    e->sink_down = true; /* their dest is a folder of the whole machine */
    e->config.default_fs = "file:///";
    e->tables[2] = (table_t){.tid = 16, .name = "t_2p", .partitions = 2, .mode = 3, .leader = "127.0.0.1:46528"};
    e->tables[3] = (table_t){.tid = 10, .name = "t_all", .partitions = 1, .mode = 2, .leader = "127.0.0.1:46528"};
    for (size_t i = 0; i < 4; i++) copy_fixture(e, files[i].fixture, path_in(e, "%s", files[i].file));
    copy_fixture(e, "0.progress.finished.1795397692252", path_in(e, "9/0.progress.finished.1795397692252"));
    start(e);
    WAIT(e, set_aside(e, "10", gone) == 1 && set_aside(e, "16", gone) == 1);
    assert_string_equal(shown(e, 16, 0).token, "95e597fc-5a71-410a-87fb-aa99be3caa05");
    assert_string_equal(shown(e, 16, 1).token, "ffb9a067-6256-485f-bcc6-1a8059897688");
    assert_string_equal(shown(e, 16, 1).status, "RUNNING");
    assert_string_equal(shown(e, 16, 1).dest, "/st/t_2p");
    osync__task_t *t = sub_of(e, 16, 0)->task;
    assert_true(t->mode == 1 && t->has_start_ts && t->start_ts == 1681200000000);
    assert_string_equal(t->name, "t_2p");
    static const uint8_t point[] = {0x08, 0x00, 0x12, 0x03, 'p', 'k', '7', 0x18, 0xef, 0x07};
    const osync__buf_t *first = &sub_of(e, 10, 0)->first;
    assert_int_equal(first->len, sizeof point);
    assert_memory_equal(first->data, point, sizeof point);
    assert_int_equal(HASH_COUNT(e->s->tasks), 2);
    assert_non_null(strstr(waits_for(e, 17), "17/0.progress (100 bytes) can't be read: its tid isn't that of its "));
    stop(e);
    assert_int_equal(export_to(e, "back").status, 0);
    for (size_t i = 0; i < 3; i++) expect_same_file(path_in(e, "back/%s", files[i].file), files[i].fixture);
    assert_int_equal(set_aside(e, "checkpoint.db", gone), 1);
    e->n_adds = 0;
    start(e); /* nothing is left */
    assert_null(e->s->tasks);
    end_env(e);
}

static void a_task_of_the_original_goes_on_where_it_stood(void **state) {
    env_t *e = new_env(NEVER);
    char gone[512], folder[80], id[37], again[37];
    stop(e);
    put_progress(e, (progress_t){.tid = 6, .pid = 0, .mode = 0, .point = 4}, "");
    put_progress(e, (progress_t){.tid = 6, .pid = 1, .mode = 0, .point = 3}, ".finished.1795397692251");
    put_progress(e, (progress_t){.tid = 6, .pid = 1, .mode = 0, .point = 9}, ".finished.1795397692252");
    e->away = true;
    start(e);
    pack_t p = {.tid = 6, .token = token_of_pid[0], .start = 4, .next = 7, .rows = 3, .count = -1, .original = true};
    reply_t r = send_pack(e, p); /* before the table is known */
    assert_true(r.code == -1 && !r.delete_task);
    assert_non_null(strstr(r.msg, "is not taken over yet"));
    assert_non_null(strstr(create(e, "t2", 0, "file:///tmp/never").msg, "ZooKeeper can't be asked"));
    e->away = false;
    assert_non_null(strstr(create(e, "t2", 0, "file:///tmp/never").msg, "is not taken over yet"));
    assert_non_null(strstr(delete_task(e, "t2").msg, "is not taken over yet"));
    osync__sched_import_go_on(e->s);
    WAIT(e, set_aside(e, "6", gone) == 1);
    all_ready(e);
    id_of(e, 6, id);
    assert_string_equal(shown(e, 6, 0).status, "RUNNING");
    assert_string_equal(shown(e, 6, 1).status, "SUCCESS");
    assert_true(shown(e, 6, 0).point == 4 && shown(e, 6, 1).point == 9);
    r = send_pack(e, p);
    assert_string_equal(r.msg, "");
    assert_int_equal(e->n_adds, 0); /* the collector that had it has it */
    restart(e);
    r = send_pack(e, (pack_t){.tid = 6, .token = token_of_pid[0], .start = 7, .next = 7, .original = true});
    assert_string_equal(r.msg, "");
    assert_int_equal(shown(e, 6, 0).point, 7);
    /* As if the process had ended before the folder got its other name. */
    stop(e);
    snprintf(folder, sizeof folder, "%s/6", e->dir);
    assert_int_equal(rename(gone, folder), 0);
    start(e);
    all_ready(e);
    assert_int_equal(set_aside(e, "6", gone), 1);
    id_of(e, 6, again);
    assert_string_equal(again, id);
    assert_int_equal(shown(e, 6, 0).point, 7);
    /* Another state of the folder isn't this task's. */
    stop(e);
    put_progress(e, (progress_t){.tid = 6, .pid = 0, .mode = 0, .point = 50}, "");
    put_progress(e, (progress_t){.tid = 6, .pid = 1, .mode = 0, .point = 50}, "");
    start(e);
    all_ready(e);
    assert_non_null(strstr(waits_for(e, 6), id));
    assert_int_equal(shown(e, 6, 0).point, 7);
    r = send_pack(e, (pack_t){.tid = 6,
                              .token = token_of_pid[0],
                              .start = 7,
                              .next = 8,
                              .first_row = 3,
                              .rows = 1,
                              .count = -1,
                              .finished = true,
                              .original = true});
    assert_string_equal(r.msg, "");
    expect_rows(e, "t2", 4);
    end_env(e);
}

static void a_table_of_the_original_is_taken_over_whole_or_not_at_all(void **state) {
    static const char ten[10];
    env_t *e = new_env(100);
    char gone[512];
    stop(e);
    put_progress(e, (progress_t){.tid = 6, .pid = 0, .mode = 2, .point = 4}, "");
    put_file(e, path_in(e, "6/1.progress"), "", 0); /* SyncTool writes them in place: its end cut it short */
    put_progress(e, (progress_t){.tid = 5, .pid = 0, .mode = 2, .point = 4, .dest = "t1"}, "");
    put_progress(e, (progress_t){.tid = 5, .pid = 1, .mode = 2, .point = 4, .dest = "t1"}, "");
    put_progress(e, (progress_t){.tid = 77, .pid = 0, .mode = 2, .point = 4}, "");
    start(e);
    WAIT(e, strstr(waits_for(e, 5), "progress of 2 partitions, and table db1.t1 has 1"));
    WAIT(e, strstr(waits_for(e, 77), "no table with tid 77 in ZooKeeper"));
    assert_non_null(strstr(waits_for(e, 6), "6/1.progress (0 bytes) can't be read"));
    assert_null(e->s->tasks);
    for (uint32_t tid = 5; tid < 7; tid++) {
        reply_t r =
            send_pack(e, (pack_t){.tid = tid, .token = token_of_pid[0], .start = 4, .next = 5, .rows = 1, .count = -1});
        assert_true(r.code == -1 && !r.delete_task);
    }
    http_t *x = http(e, "GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_non_null(strstr(x->answer, "/77: not taken over yet: there is no table"));
    free(x);
    put_file(e, path_in(e, "6/1.progress"), ten, sizeof ten);
    WAIT(e, strstr(waits_for(e, 6), "(10 bytes)"));
    put_progress(e, (progress_t){.tid = 6, .pid = 1, .mode = 1, .point = 8}, "");
    WAIT(e, strstr(waits_for(e, 6), "mode, start_ts or dest differ"));
    assert_int_equal(unlink(path_in(e, "6/1.progress")), 0);
    WAIT(e, strstr(waits_for(e, 6), "there is no progress of partition 1"));
    put_progress(e, (progress_t){.tid = 6, .pid = 1, .mode = 2, .point = 8}, "");
    WAIT(e, set_aside(e, "6", gone) == 1);
    assert_string_equal(waits_for(e, 6), "");
    assert_int_equal(unlink(path_in(e, "5/1.progress")), 0);
    WAIT(e, set_aside(e, "5", gone) == 1);
    assert_int_equal(rename(path_in(e, "77"), path_in(e, "77.old")), 0);
    WAIT(e, *waits_for(e, 77) == '\0');
    all_ready(e);
    WAIT(e, last_add(e, 6, 0) && last_add(e, 6, 1) && last_add(e, 5, 0)); /* their collectors are silent */
    assert_true(last_add(e, 6, 0)->point == 4 && last_add(e, 6, 1)->point == 8);
    assert_string_not_equal(last_add(e, 6, 0)->token, token_of_pid[0]);
    end_env(e);
}

static void a_task_of_the_original_that_is_deleted_does_not_come_back(void **state) {
    env_t *e = new_env(NEVER);
    char gone[512];
    stop(e);
    put_progress(e, (progress_t){.tid = 6, .pid = 0, .mode = 2, .point = 4}, "");
    put_progress(e, (progress_t){.tid = 6, .pid = 1, .mode = 2}, "");
    start(e);
    WAIT(e, set_aside(e, "6", gone) == 1);
    all_ready(e);
    assert_int_equal(delete_task(e, "t2").code, 0);
    stop(e);
    start(e);
    assert_true(!e->s->tasks && !e->s->imports);
    end_env(e);
}

static void tasks_go_to_the_original_and_come_back(void **state) {
    env_t *e = new_env_that_commits(NEVER);
    char gone[512], token[64];
    create_ok(e, "t1", 2);
    create_ok(e, "t2", 0);
    commit(e, 5, 0, 0, 4, 0, 4);
    commit(e, 6, 0, 0, 3, 0, 3);
    pack_t p = {.tid = 6, .pid = 1, .next = 9, .first_row = 3, .rows = 1, .count = -1, .finished = true};
    assert_int_equal(send_pack(e, p).code, 0);
    snprintf(token, sizeof token, "%s", last_add(e, 5, 0)->token);
    exported_t x = export_to(e, "back");
    assert_int_equal(x.status, OSYNC_ECONFLICT); /* the scheduler runs */
    stop(e);
    put_file(e, path_in(e, "back/5/0.progress"), "x", 1);
    x = export_to(e, "back");
    assert_int_equal(x.status, OSYNC_EEXIST);
    assert_non_null(strstr(x.err.message, "back/5/0.progress is there already"));
    assert_int_equal(unlink(path_in(e, "back/5/0.progress")), 0);
    assert_int_equal(export_to(e, "back").status, 0);                    /* what the first try has written is fine */
    assert_int_equal(access(path_in(e, "back/6/1.progress"), F_OK), -1); /* done */
    assert_int_equal(export_to(e, "back").status, OSYNC_ENOENT);
    start(e);
    assert_null(e->s->tasks);
    stop(e);
    assert_int_equal(rename(path_in(e, "back/5"), path_in(e, "5")), 0);
    assert_int_equal(rename(path_in(e, "back/6"), path_in(e, "6")), 0);
    start(e);
    WAIT(e, set_aside(e, "5", gone) == 1 && set_aside(e, "6", gone) == 1);
    all_ready(e);
    assert_string_equal(shown(e, 5, 0).token, token);
    assert_string_equal(shown(e, 6, 1).status, "SUCCESS");
    commit(e, 5, 0, 4, 6, 4, 2);
    expect_rows(e, "t1", 6);
    expect_rows(e, "t2", 4);
    end_env(e);
}

static void what_is_not_settled_is_not_exported(void **state) {
    env_t *e = new_env_that_commits(NEVER);
    create_ok(e, "t1", 2);
    commit(e, 5, 0, 0, 4, 0, 4);
    e->sink_down = true; /* the next file is prepared, and can't be published */
    feed(e, 5, 0, 4, 6, 4, 2);
    WAIT(e, !sub_of(e, 5, 0)->ready);
    stop(e);
    exported_t x = export_to(e, "back");
    assert_int_equal(x.status, OSYNC_EAGAIN);
    assert_non_null(strstr(x.err.message, "how far partition 0 of db1.t1 has come"));
    e->sink_down = false;
    start(e);
    all_ready(e);
    stop(e);
    assert_int_equal(export_to(e, "back").status, 0);
    start(e);
    end_env(e);
}

/* ---- direct writing ---- */

#define STAGER_1 "11111111111111111111111111111111"
#define STAGER_2 "22222222222222222222222222222222"

static env_t *direct_env(const char *data_path) {
    env_t *e = new_env(NEVER);
    stop(e);
    e->config.data_path = data_path;
    start(e);
    return e;
}

/* As a collector does it: rows first..first+n-1 under a new name in the folder of the grant. Fills the names of `p`. */
static void stage(const char *folder, uint64_t first, size_t n, char attempt[33], pack_t *p) {
    char path[400];
    osync__random_hex(attempt, 16);
    snprintf(path, sizeof path, "%s/%s", folder, attempt);
    FILE *f = fopen(path, "wx");
    assert_non_null(f);
    int bytes = 0;
    for (uint64_t i = first; i < first + n; i++)
        bytes += fprintf(f, "%llu,\"row %llu\"\n", (unsigned long long)i, (unsigned long long)i);
    assert_int_equal(fclose(f), 0);
    p->attempt = attempt;
    p->bytes = (uint64_t)bytes;
    p->count = (int64_t)n;
}

static reply_t ask(env_t *e, const char *stager, uint64_t at) {
    return send_pack(e, (pack_t){.tid = 5, .start = at, .next = at, .stager = stager});
}

/* Stages and reports [start, next) in the folder of `grant`. */
static reply_t write_itself(env_t *e, const reply_t *grant, uint64_t start, uint64_t next, bool finished) {
    char attempt[33];
    pack_t p = {.tid = 5,
                .start = start,
                .next = next,
                .stager = STAGER_1,
                .incarnation = grant->incarnation,
                .finished = finished};
    stage(grant->folder, start, next - start, attempt, &p);
    reply_t r = send_pack(e, p);
    assert_string_equal(r.msg, "");
    assert_int_equal(r.code, 0);
    assert_int_equal(r.committed, next);
    return r;
}

static const char *data_path_shown(env_t *e, uint64_t *staged_rows) {
    static char path[16];
    http_t *x = http(e, "GET /status?format=json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    json_t *page = json_loads(strstr(x->answer, "\r\n\r\n") + 4, 0, NULL);
    json_t *sub = json_array_get(json_object_get(json_array_get(json_object_get(page, "tasks"), 0), "partitions"), 0);
    snprintf(path, sizeof path, "%s", json_string_value(json_object_get(sub, "data_path")));
    *staged_rows = (uint64_t)json_integer_value(json_object_get(sub, "staged_rows"));
    json_decref(page);
    free(x);
    return path;
}

static void a_collector_writes_the_files_itself(void **state) {
    env_t *e = direct_env("auto");
    stop(e);
    e->config.make_sink = NULL;
    start(e);
    create_ok(e, "t1", 0);
    assert_true(last_add(e, 5, 0)->direct);
    reply_t r = send_pack(e, (pack_t){.tid = 5}); /* who doesn't ask isn't told */
    assert_true(r.code == 0 && !r.granted);
    r = ask(e, STAGER_1, 0);
    assert_int_equal(r.code, 0);
    assert_true(r.granted && !r.required && r.roll_bytes == 128 << 20 && r.roll_interval_ms == 60000);
    assert_string_equal(r.target, "file://");
    assert_string_equal(r.timezone, "UTC");
    assert_int_equal(r.namenodes, 0);
    reply_t again = ask(e, STAGER_1, 0);
    assert_string_equal(again.folder, r.folder);
    assert_string_equal(again.incarnation, r.incarnation);
    again = send_pack(e, (pack_t){.tid = 5, .token = "nope", .stager = STAGER_1});
    assert_true(again.code == -1 && !again.granted);

    char attempt[33];
    uint64_t staged;
    pack_t p = {.tid = 5, .start = 0, .next = 4, .stager = STAGER_1, .incarnation = r.incarnation};
    send_pack(e, (pack_t){.tid = 5, .stager = STAGER_1, .staged_rows = 3});
    assert_string_equal(data_path_shown(e, &staged), "direct");
    assert_int_equal(staged, 3);
    stage(r.folder, 0, 4, attempt, &p);
    again = send_pack(e, p);
    assert_string_equal(again.msg, "");
    assert_true(again.code == 0 && again.has_committed && again.committed == 4 && again.granted);
    expect_rows(e, "t1", 4);
    again = send_pack(e, p); /* the answer was lost */
    assert_true(again.code == 0 && again.committed == 4);
    p.next = 5; /* A14: a late report of an earlier attempt */
    again = send_pack(e, p);
    assert_true(again.code == -1 && again.has_resume && again.resume == 4);
    expect_rows(e, "t1", 4);
    /* in turns with rows in attachments, which are a file of their own */
    feed(e, 5, 0, 4, 7, 4, 3);
    assert_string_equal(data_path_shown(e, &staged), "proxy");
    assert_int_equal(staged, 3);
    write_itself(e, &r, 7, 9, false);
    expect_rows(e, "t1", 9);
    expect_file_count(e, "t1", 3);
    r = write_itself(e, &r, 9, 12, true);
    assert_false(r.granted); /* it is over */
    assert_string_equal(shown(e, 5, 0).status, "SUCCESS");
    expect_rows(e, "t1", 12);
    end_env(e);
}

static void two_repeats_of_a_report_are_one_file(void **state) {
    env_t *e = direct_env("direct");
    create_ok(e, "t1", 0);
    reply_t r = ask(e, STAGER_1, 0), first, second;
    assert_true(r.granted && r.required);
    char attempt[33], other[33];
    pack_t p = {.tid = 5, .start = 0, .next = 4, .stager = STAGER_1, .incarnation = r.incarnation}, q = p;
    stage(r.folder, 0, 4, attempt, &p);
    stage(r.folder, 0, 4, other, &q);
    send_async(e, &p, &first);
    WAIT(e, work_of(e, 5, 0));
    reply_t busy = send_pack(e, q); /* another file with the same rows */
    assert_true(first.done || (busy.code == -1 && !busy.has_resume));
    send_async(e, &p, &second);
    WAIT(e, first.done && second.done);
    assert_true(first.code == 0 && second.code == 0 && second.committed == 4);
    expect_rows(e, "t1", 4);
    end_env(e);
}

static void another_start_gets_another_folder(void **state) {
    env_t *e = direct_env("direct");
    create_ok(e, "t1", 0);
    reply_t former = ask(e, STAGER_1, 0);
    write_itself(e, &former, 0, 3, false);
    char attempt[33];
    pack_t late = {.tid = 5, .start = 3, .next = 6, .stager = STAGER_1, .incarnation = former.incarnation};
    stage(former.folder, 3, 3, attempt, &late);
    reply_t r = ask(e, STAGER_2, 3);
    assert_true(r.code == -1 && !r.granted && !r.has_resume);
    all_ready(e);
    r = ask(e, STAGER_2, 3);
    assert_true(r.code == 0 && r.granted);
    assert_string_not_equal(r.incarnation, former.incarnation);
    char path[400];
    snprintf(path, sizeof path, "%s/%s", former.folder, attempt);
    assert_int_not_equal(access(path, F_OK), 0); /* the fence has taken it away */
    reply_t told = send_pack(e, late);
    assert_true(told.code == -1 && told.has_resume && told.resume == 3 && !told.granted);
    reply_t still = ask(e, STAGER_2, 3); /* and a late report doesn't take the folder away */
    assert_string_equal(still.incarnation, r.incarnation);
    /* A restart of the scheduler fences what it had granted. */
    pack_t mine = {.tid = 5, .start = 3, .next = 6, .stager = STAGER_2, .incarnation = r.incarnation};
    stage(r.folder, 3, 3, attempt, &mine);
    restart(e);
    snprintf(path, sizeof path, "%s/%s", r.folder, attempt);
    assert_int_not_equal(access(path, F_OK), 0);
    told = send_pack(e, mine);
    assert_true(told.code == -1 && told.has_resume && told.resume == 3 && told.granted);
    assert_string_not_equal(told.incarnation, r.incarnation);
    expect_rows(e, "t1", 3);
    end_env(e);
}

static void staged_files_that_lie_are_refused(void **state) {
    env_t *e = direct_env("auto");
    stop(e);
    e->config.make_sink = NULL;
    start(e);
    create_ok(e, "t1", 0);
    reply_t r = ask(e, STAGER_1, 0), told;
    char attempt[33], path[400];
    pack_t good = {.tid = 5, .start = 0, .next = 4, .stager = STAGER_1, .incarnation = r.incarnation}, p;
    stage(r.folder, 0, 4, attempt, &good);
    static const char *const names[] = {"",
                                        "abc",
                                        "../../../../t1",
                                        "1111111111111111111111111111111g",
                                        "111111111111111111111111111111111",
                                        "11111111111111111111111111111/.1"};
    for (size_t i = 0; i < 4 * sizeof names / sizeof *names + 6; i++) {
        const char *name = names[i / 4 % (sizeof names / sizeof *names)];
        p = good;
        switch (i < 4 * sizeof names / sizeof *names ? i % 3 : i - 4 * sizeof names / sizeof *names + 3) {
        case 0:
            p.attempt = name;
            break;
        case 1:
            p.incarnation = name;
            break;
        case 2:
            p.stager = name;
            break;
        case 3:
            p.stager = NULL;
            break;
        case 4:
            p.count = 0;
            break;
        case 5:
            p.count = (int64_t)p.bytes + 1;
            break;
        case 6:
            p.bytes = UINT64_MAX;
            break;
        case 7:
            p.rows = 1; /* and an attachment */
            break;
        default:
            p.next = 0;
            break;
        }
        told = send_pack(e, p);
        assert_true(told.code == -1 && told.msg[0] && !told.delete_task);
        expect_rows(e, "t1", 0);
    }
    p = good;
    p.original = true; /* whoever has no report */
    told = send_pack(e, p);
    assert_true(told.code == -1 && !told.granted);
    told = ask(e, STAGER_1, 0);
    assert_string_equal(told.incarnation, r.incarnation); /* nothing has happened */
    /* Another length than there is, a file that isn't there, and once more: then its rows go by way of the scheduler.
     */
    for (int i = 0; i < 3; i++) {
        p = good;
        r = ask(e, STAGER_1, 0);
        assert_true(r.granted);
        p.incarnation = r.incarnation;
        stage(r.folder, 0, 4, attempt, &p);
        snprintf(path, sizeof path, "%s/%s", r.folder, attempt);
        if (i == 1)
            assert_int_equal(unlink(path), 0);
        else
            p.bytes++;
        told = send_pack(e, p);
        assert_true(told.code == -1 && !told.granted && !told.has_resume);
        all_ready(e);
    }
    told = ask(e, STAGER_1, 0);
    assert_true(told.code == 0 && !told.granted);
    feed(e, 5, 0, 0, 4, 0, 4);
    uint64_t staged;
    assert_string_equal(data_path_shown(e, &staged), "proxy");
    e->s->tasks->subs[0].proxy_until = osync__mono_ms(); /* later */
    told = ask(e, STAGER_1, 4);
    assert_true(told.granted);
    write_itself(e, &told, 4, 6, true);
    expect_rows(e, "t1", 6);
    end_env(e);
}

static void the_data_path_is_kept(void **state) {
    env_t *e = direct_env("auto"); /* with sinks of the program's own, which collectors don't have */
    create_ok(e, "t1", 2);
    assert_false(last_add(e, 5, 0)->direct);
    assert_false(ask(e, STAGER_1, 0).granted);
    stop(e);
    e->config.data_path = "proxy";
    e->config.make_sink = NULL;
    start(e);
    all_ready(e);
    assert_false(ask(e, STAGER_1, 0).granted);
    reply_t r = send_pack(e, (pack_t){.tid = 5,
                                      .next = 1,
                                      .count = 1,
                                      .stager = STAGER_1,
                                      .incarnation = STAGER_2,
                                      .attempt = STAGER_2,
                                      .bytes = 5});
    assert_true(r.code == -1 && r.has_resume && r.resume == 0);
    feed(e, 5, 0, 0, 3, 0, 3);
    r = send_pack(e, (pack_t){.tid = 5, .start = 3, .next = 3, .finished = true});
    stop(e);
    e->config.data_path = "direct";
    start(e);
    create_ok(e, "t2", 2);
    assert_true(last_add(e, 6, 0)->direct);
    pack_t rows = {.tid = 6, .next = 2, .rows = 2, .count = -1};
    r = send_pack(e, rows); /* this one doesn't know direct writing, or may not */
    assert_true(r.code == -1 && r.has_resume && r.resume == 0);
    assert_non_null(strstr(shown(e, 6, 0).info, "data_path is direct"));
    rows.original = true; /* an original collector can't */
    assert_int_equal(send_pack(e, rows).code, 0);
    expect_rows(e, "t2", 2);
    rows.original = false;
    rows.pid = 1;
    rows.stager = STAGER_1;
    r = send_pack(e, rows);
    assert_true(r.code == -1 && r.has_resume && r.granted);
    end_env(e);
}

static void closing_in_the_middle_of_everything(void **state) {
    env_t *e = new_env(NEVER);
    create_ok(e, "t2", 2);
    e->hold_writes = true;
    reply_t sent, asked, creating;
    pack_t p = {.tid = 6, .pid = 0, .next = 3, .rows = 3, .count = -1},
           q = {.tid = 6, .pid = 1, .next = 3, .rows = 3, .count = -1};
    char dest[128];
    snprintf(dest, sizeof dest, "file://%s/out/t1", e->dir);
    e->collectors[0].hold = true;
    create_async(e, "t1", 0, dest, &creating);
    WAIT(e, e->collectors[0].held);
    send_async(e, &p, &sent);
    WAIT(e, held_write.cb);
    send_async(e, &q, &asked);
    WAIT(e, work_of(e, 6, 1));
    release_write();
    stop(e);
    WAIT(e, sent.done && asked.done && creating.done);
    e->collectors[0].hold = false;
    start(e); /* what had been begun goes on */
    all_ready(e);
    assert_int_equal(status(e, false).n, 3);
    end_env(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_sync_from_create_to_end),
        cmocka_unit_test(defect_21_a_restart_neither_loses_nor_repeats),
        cmocka_unit_test(a_checkpoint_of_ones_own),
        cmocka_unit_test(defect_22_a_repeated_request_is_taken_once),
        cmocka_unit_test(unknown_and_outdated_collectors_are_told_so),
        cmocka_unit_test(an_original_collector_is_told_done_only_about_committed_rows),
        cmocka_unit_test(a_silent_collector_is_replaced_from_the_committed_point),
        cmocka_unit_test(defect_27_a_task_that_never_began_is_handed_out_again),
        cmocka_unit_test(defect_29_a_failed_reassignment_is_tried_again),
        cmocka_unit_test(defect_29_without_zookeeper_nothing_fails),
        cmocka_unit_test(defect_31_tables_with_different_destinations_survive_a_restart),
        cmocka_unit_test(defect_25_finished_tables_end_and_the_check_goes_on),
        cmocka_unit_test(defect_26_a_table_under_creation_is_not_done),
        cmocka_unit_test(create_says_why_not),
        cmocka_unit_test(defects_38_46_a_refused_create_is_taken_back_whole),
        cmocka_unit_test(a_memory_table_is_handed_out_like_any),
        cmocka_unit_test(defect_44_delete),
        cmocka_unit_test(a_delete_that_is_interrupted_goes_on),
        cmocka_unit_test(a_delete_that_takes_long_is_answered),
        cmocka_unit_test(packs_that_lie_are_refused_and_named),
        cmocka_unit_test(a_collector_that_says_it_failed),
        cmocka_unit_test(defects_14_15_a_column_that_is_added_arrives),
        cmocka_unit_test(defect_39_a_slow_write_holds_up_nobody_else),
        cmocka_unit_test(memory_for_rows_in_work_is_bounded),
        cmocka_unit_test(a_destination_that_is_away_is_waited_for),
        cmocka_unit_test(defect_48_hosts),
        cmocka_unit_test(collectors_share_the_partitions),
        cmocka_unit_test(defect_49_the_address_that_collectors_are_told),
        cmocka_unit_test(defect_54_destinations_are_checked),
        cmocka_unit_test(where_a_sink_is_can_be_told_to_others),
        cmocka_unit_test(points_as_the_original_prints_them),
        cmocka_unit_test(the_helper_and_the_page),
        cmocka_unit_test(create_beside_earlier_rows_warns),
        cmocka_unit_test(restart_removes_the_tables_own_files_only),
        cmocka_unit_test(continue_goes_on_where_the_files_end),
        cmocka_unit_test(several_earlier_tasks_are_named),
        cmocka_unit_test(a_new_task_begins_at_given_points),
        cmocka_unit_test(points_are_shown_exactly),
        cmocka_unit_test(recover_takes_a_task_up_from_its_files),
        cmocka_unit_test(a_recovery_survives_the_end_of_the_process),
        cmocka_unit_test(retry_starts_what_has_failed_again),
        cmocka_unit_test(a_reason_is_not_masked),
        cmocka_unit_test(followers_hold_the_log),
        cmocka_unit_test(a_standby_holds_the_log_and_takes_over),
        cmocka_unit_test(the_list_of_collectors),
        cmocka_unit_test(progress_files_of_the_original_come_in_and_go_out_unchanged),
        cmocka_unit_test(a_task_of_the_original_goes_on_where_it_stood),
        cmocka_unit_test(a_table_of_the_original_is_taken_over_whole_or_not_at_all),
        cmocka_unit_test(a_task_of_the_original_that_is_deleted_does_not_come_back),
        cmocka_unit_test(tasks_go_to_the_original_and_come_back),
        cmocka_unit_test(what_is_not_settled_is_not_exported),
        cmocka_unit_test(a_collector_writes_the_files_itself),
        cmocka_unit_test(two_repeats_of_a_report_are_one_file),
        cmocka_unit_test(another_start_gets_another_folder),
        cmocka_unit_test(staged_files_that_lie_are_refused),
        cmocka_unit_test(the_data_path_is_kept),
        cmocka_unit_test(closing_in_the_middle_of_everything),
    };
    if (getenv("OSYNC_TEST")) cmocka_set_test_filter(getenv("OSYNC_TEST"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
