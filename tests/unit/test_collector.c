/* The collector between a scripted TabletServer and a scripted scheduler, on tables that OpenMLDB's own storage code
 * wrote. What must come out is what the reader gives (test_reader.c holds the reader to it). No ZooKeeper here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <uv.h>

#include "../tablet/log_writer.h"
#include "base/sys.h"
#include "data_sync.pb-c.h"
#include "fmt.h"
#include "format/binlog.h"
#include "net/rpc.h"
#include "osync/collector.h"
#include "osync/csv.h"
#include "osync/log.h"
#include "osync/reader.h"
#include "tablet.pb-c.h"

enum { LONG_MS = 20000, NEVER_MS = 600000 };

typedef Openmldb__Datasync__SyncPoint point_t;
typedef Openmldb__Datasync__SendDataRequest send_t;

typedef struct world {
    uv_loop_t loop;
    uv_timer_t tick;
    char top[64], source[128], data[128];
    osync__rpc_server_t *peers; /* TabletServer and scheduler */
    osync__rpc_client_t *client;
    osync_collector_t *collector;
    osync_collector_config_t config;
    char endpoint[64];
    int open; /* parts that are to close */

    /* TabletServer */
    Openmldb__Api__TableMeta *meta;
    uint32_t tid;
    bool unknown_table, memory_table, tablet_refuses;
    osync__rpc_call_t *held_status; /* answered by the test */
    bool hold_status;
    int status_calls, schema_calls;
    bool old_schema; /* the first answer doesn't know the newer columns */

    /* scheduler: what it took, as ours does it */
    osync__buf_t rows;
    osync__buf_t end;       /* where the next rows begin */
    osync__buf_t committed; /* told with each answer, if not empty */
    size_t committed_rows;  /* bytes of rows up to there */
    bool commit_at_once;
    int requests, packs, beats, finished, waited;
    uint64_t largest_pack, smallest_count;
    char token[64]; /* of the newest request */
    char state[32], reason[1100];
    bool failed;
    /* Returns true if it has seen to the call itself. */
    bool (*script)(struct world *w, osync__rpc_call_t *call, const send_t *r);
    osync__rpc_call_t *held;
    const char *only; /* as_ours */
    int most, taken, resumes;
    osync__buf_t last_start;
    int step;
    osync__buf_t seen; /* of the script */

    /* direct writing: the folder that is granted, and what came of it; `rows` are CSV then */
    char incarnation[33], stager[33];
    uint64_t roll_bytes;
    uint32_t roll_ms;
    int incarnations, reports, adopted;
    size_t attached;     /* bytes of rows in attachments */
    bool withheld, lose; /* nothing is granted; every other answer to a report is lost */

    /* AddSyncTask, HoldLog */
    int answers, code;
    char msg[1100];
    uint64_t first, last, pinned;
} world_t;

/* While it is set, nothing can be stored or linked in this process. */
static volatile int disk_full;

int fsync(int fd) {
    if (!disk_full) return (int)syscall(SYS_fsync, fd);
    errno = ENOSPC;
    return -1;
}

int link(const char *from, const char *to) {
    if (!disk_full) return (int)syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
    errno = ENOSPC;
    return -1;
}

static bool exists(const char *path) {
    return access(path, F_OK) == 0;
}

static void pack_point(osync__buf_t *b, const point_t *p) {
    b->len = 0;
    assert_int_equal(osync__buf_reserve(b, openmldb__datasync__sync_point__get_packed_size(p)), 0);
    b->len = openmldb__datasync__sync_point__pack(p, b->data);
}

static void copy(osync__buf_t *to, const osync__buf_t *from) {
    to->len = 0;
    assert_int_equal(osync__buf_append(to, from->data, from->len), 0);
}

static bool same(const osync__buf_t *a, const osync__buf_t *b) {
    return a->len == b->len && !memcmp(a->data, b->data, a->len);
}

/* ---- the TabletServer ---- */

static void answer_status(world_t *w, osync__rpc_call_t *call) {
    char snapshot[160], binlog[160];
    Openmldb__Api__GetTableStatusResponse r = OPENMLDB__API__GET_TABLE_STATUS_RESPONSE__INIT;
    Openmldb__Api__TableStatus s = OPENMLDB__API__TABLE_STATUS__INIT, *all[] = {&s};
    const Openmldb__Api__GetTableStatusRequest *q = (const void *)osync__rpc_request(call);
    if (w->tablet_refuses) {
        osync__rpc_fail(call, OSYNC__BRPC_EINTERNAL, "not today");
        return;
    }
    (void)snprintf(snapshot, sizeof snapshot, "%s/snapshot/", w->source);
    (void)snprintf(binlog, sizeof binlog, "%s/.//binlog/", w->source);
    r.has_code = 1;
    s.has_tid = s.has_pid = s.has_storage_mode = 1;
    s.tid = q->tid;
    s.pid = q->pid;
    s.storage_mode = w->memory_table ? OPENMLDB__COMMON__STORAGE_MODE__kMemory : OPENMLDB__COMMON__STORAGE_MODE__kSSD;
    if (!w->memory_table) {
        s.snapshot_path = snapshot;
        s.binlog_path = binlog;
    }
    if (!w->unknown_table) {
        r.n_all_table_status = 1;
        r.all_table_status = all;
    }
    osync__rpc_reply(call, &r.base);
}

static void on_status(osync__rpc_call_t *call, void *arg) {
    world_t *w = arg;
    w->status_calls++;
    if (w->hold_status && !w->held_status)
        w->held_status = call;
    else
        answer_status(w, call);
}

static void on_schema(osync__rpc_call_t *call, void *arg) {
    world_t *w = arg;
    Openmldb__Api__GetTableSchemaResponse r = OPENMLDB__API__GET_TABLE_SCHEMA_RESPONSE__INIT;
    r.has_code = 1;
    r.table_meta = w->meta;
    if (w->schema_calls++ == 0 && w->old_schema) {
        Openmldb__Api__TableMeta old = *w->meta;
        old.n_added_column_desc = old.n_schema_versions = 0;
        r.table_meta = &old;
        osync__rpc_reply(call, &r.base);
        return;
    }
    osync__rpc_reply(call, &r.base);
}

/* ---- the scheduler ---- */

typedef struct answer {
    int code;
    const char *msg;
    bool delete_task, silent; /* silent: no committed_point */
    const osync__buf_t *resume;
    Openmldb__Datasync__StageGrant *stage;
} answer_t;

static void reply(world_t *w, osync__rpc_call_t *call, answer_t a) {
    char msg[256];
    Openmldb__Datasync__SendDataResponse r = OPENMLDB__DATASYNC__SEND_DATA_RESPONSE__INIT;
    Openmldb__Datasync__GeneralResponse g = OPENMLDB__DATASYNC__GENERAL_RESPONSE__INIT;
    r.response = &g;
    g.has_code = 1;
    g.code = a.code;
    (void)snprintf(msg, sizeof msg, "%s", a.msg ? a.msg : "");
    if (a.msg) g.msg = msg;
    r.has_delete_task = r.delete_task = a.delete_task;
    r.stage = a.stage;
    if (a.resume) r.resume_point = openmldb__datasync__sync_point__unpack(NULL, a.resume->len, a.resume->data);
    if (w->committed.len > 0 && !a.silent)
        r.committed_point = openmldb__datasync__sync_point__unpack(NULL, w->committed.len, w->committed.data);
    osync__rpc_reply(call, &r.base);
    if (r.resume_point) openmldb__datasync__sync_point__free_unpacked(r.resume_point, NULL);
    if (r.committed_point) openmldb__datasync__sync_point__free_unpacked(r.committed_point, NULL);
}

static void commit(world_t *w) {
    copy(&w->committed, &w->end);
    w->committed_rows = w->rows.len;
}

/* Takes the rows; fails the test if they don't follow on what was taken before. */
static void take(world_t *w, osync__rpc_call_t *call, const send_t *r) {
    osync__buf_t start = {0};
    size_t len = 0;
    const uint8_t *rows = osync__rpc_attachment(call, &len);
    pack_point(&start, r->start_point);
    if (w->end.len > 0) assert_true(same(&start, &w->end));
    osync__buf_free(&start);
    uint64_t count = 0;
    for (size_t at = 0; at < len; count++) {
        assert_true(len - at >= 6);
        at += osync__get_u32le(rows + at + 2);
        assert_true(at <= len);
    }
    assert_int_equal(count, r->count);
    assert_int_equal(osync__buf_append(&w->rows, rows, len), 0);
    pack_point(&w->end, r->next_point);
    if (r->count > 1 && len > w->largest_pack) w->largest_pack = len;
    if (w->commit_at_once || r->finished) commit(w);
    if (r->finished) w->finished++;
}

static void on_send(osync__rpc_call_t *call, void *arg) {
    world_t *w = arg;
    const send_t *r = (const void *)osync__rpc_request(call);
    size_t len;
    w->requests++;
    (void)osync__rpc_attachment(call, &len);
    (void)snprintf(w->token, sizeof w->token, "%s", r->token);
    assert_non_null(r->report);
    (void)snprintf(w->state, sizeof w->state, "%s", r->report->state);
    (void)snprintf(w->reason, sizeof w->reason, "%s", r->report->reason ? r->report->reason : "");
    w->failed = r->report->failed;
    if (r->count > 0)
        w->packs++;
    else if (!r->finished)
        w->beats++;
    if (w->script && w->script(w, call, r)) return;
    take(w, call, r);
    reply(w, call, (answer_t){0});
}

/* As our scheduler does it: `only` is the partition's token, and no more than `most` packs are taken. */
static bool as_ours(world_t *w, osync__rpc_call_t *call, const send_t *r) {
    osync__buf_t start = {0}, next = {0};
    pack_point(&start, r->start_point);
    pack_point(&next, r->next_point);
    bool repeat = r->count > 0 && same(&start, &w->last_start) && same(&next, &w->end);
    if (w->only && strcmp(r->token, w->only)) {
        reply(w, call, (answer_t){.code = -1, .msg = "outdated token", .delete_task = true});
    } else if (repeat) {
        reply(w, call, (answer_t){0});
    } else if (w->end.len > 0 && !same(&start, &w->end)) {
        w->resumes++;
        reply(w, call, (answer_t){.code = -1, .msg = "go on elsewhere", .resume = &w->end});
    } else if (w->most > 0 && w->taken == w->most && r->count > 0) {
        reply(w, call, (answer_t){.code = -1, .msg = "not now"});
    } else {
        copy(&w->last_start, &start);
        take(w, call, r);
        w->taken += r->count > 0;
        reply(w, call, (answer_t){0});
    }
    osync__buf_free(&start);
    osync__buf_free(&next);
    return true;
}

static const osync__rpc_method_t methods[] = {
    {"openmldb.api.TabletServer", "GetTableStatus", &openmldb__api__get_table_status_request__descriptor,
     &openmldb__api__get_table_status_response__descriptor, on_status},
    {"openmldb.api.TabletServer", "GetTableSchema", &openmldb__api__get_table_schema_request__descriptor,
     &openmldb__api__get_table_schema_response__descriptor, on_schema},
    {"openmldb.datasync.SyncTool", "SendData", &openmldb__datasync__send_data_request__descriptor,
     &openmldb__datasync__send_data_response__descriptor, on_send},
};

/* ---- the world ---- */

static void on_tick(uv_timer_t *t) {
    (void)t; /* so that waiting ends */
}

static void shell(const char *command) {
    assert_int_equal(system(command), 0);
}

static const char *golden(void) {
    const char *dir = getenv("OSYNC_GOLDEN");
    assert_non_null(dir);
    return dir;
}

/* A table of the golden ones as the tablet's folder. */
static void use_table(world_t *w, const char *name, const char *partition) {
    osync__buf_t b = {0};
    assert_int_equal(osync__read_file(fmt("%s/%s/table_meta.pb", golden(), name), 1 << 20, &b, NULL), 0);
    if (w->meta) openmldb__api__table_meta__free_unpacked(w->meta, NULL);
    w->meta = openmldb__api__table_meta__unpack(NULL, b.len, b.data);
    assert_non_null(w->meta);
    osync__buf_free(&b);
    shell(fmt("rm -rf %s && cp -a %s/%s/%s %s", w->source, golden(), name, partition, w->source));
}

static int make_world(void **state) {
    world_t *w = calloc(1, sizeof *w);
    osync_error_t err = {0};
    (void)snprintf(w->top, sizeof w->top, "/tmp/osync-collector-XXXXXX");
    if (!mkdtemp(w->top)) return -1;
    (void)snprintf(w->source, sizeof w->source, "%s/tablet", w->top);
    (void)snprintf(w->data, sizeof w->data, "%s/data", w->top);
    uv_loop_init(&w->loop);
    uv_timer_init(&w->loop, &w->tick);
    uv_timer_start(&w->tick, on_tick, 10, 10);
    osync__rpc_server_config_t server = {.host = "127.0.0.1",
                                         .max_body_size = 64 << 20,
                                         .json_style = OSYNC__JSON_BRPC,
                                         .methods = methods,
                                         .n_methods = sizeof methods / sizeof methods[0],
                                         .arg = w};
    if (osync__rpc_server_new(&w->loop, &server, &w->peers, &err)) fail_msg("%s", err.message);
    (void)snprintf(w->endpoint, sizeof w->endpoint, "127.0.0.1:%d", osync__rpc_server_port(w->peers));
    osync__rpc_client_config_t client = {.max_body_size = 64 << 20};
    assert_int_equal(osync__rpc_client_new(&w->loop, &client, &w->client, &err), 0);
    osync_collector_config_init(&w->config, sizeof w->config);
    w->config.endpoint = "127.0.0.1:0";
    w->config.data_dir = w->data;
    w->config.snapshot_settle_ms = 0;
    w->config.heartbeat_ms = 200;
    w->config.worker_threads = 2;
    w->tid = 3;
    use_table(w, "case3_snapshot_binlog_rolled", "db/3_0");
    *state = w;
    return 0;
}

static void on_closed(void *arg) {
    ((world_t *)arg)->open--;
}

static void stop_collector(world_t *w) {
    if (!w->collector) return;
    w->open++;
    osync_collector_close(w->collector, on_closed, w);
    w->collector = NULL;
    while (w->open > 0) uv_run(&w->loop, UV_RUN_ONCE);
}

static void on_tick_closed(uv_handle_t *h) {
    ((world_t *)h->data)->open--;
}

static int drop_world(void **state) {
    world_t *w = *state;
    if (w->held) reply(w, w->held, (answer_t){0});
    if (w->held_status) answer_status(w, w->held_status);
    stop_collector(w);
    w->open = 3;
    osync__rpc_server_close(w->peers, on_closed, w);
    osync__rpc_client_close(w->client, on_closed, w);
    w->tick.data = w;
    uv_close((uv_handle_t *)&w->tick, on_tick_closed);
    uv_run(&w->loop, UV_RUN_DEFAULT);
    assert_int_equal(w->open, 0);
    assert_int_equal(uv_loop_close(&w->loop), 0);
    if (w->meta) openmldb__api__table_meta__free_unpacked(w->meta, NULL);
    osync__buf_free(&w->rows);
    osync__buf_free(&w->end);
    osync__buf_free(&w->committed);
    osync__buf_free(&w->seen);
    osync__buf_free(&w->last_start);
    osync__rmtree(w->top, NULL);
    free(w);
    return 0;
}

static void start_collector(world_t *w) {
    osync_error_t err = {0};
    if (osync_collector_new(&w->collector, &w->loop, &w->config, &err)) fail_msg("%s", err.message);
    if (osync_collector_start(w->collector, &err)) fail_msg("%s", err.message);
}

#define RUN_UNTIL(w, condition)                                                                                        \
    do {                                                                                                               \
        uint64_t until_ = osync__mono_ms() + LONG_MS;                                                                  \
        while (!(condition)) {                                                                                         \
            if (osync__mono_ms() > until_)                                                                             \
                fail_msg("waited in vain for %s (state %s, reason %s, AddSyncTask %d %s)", #condition, (w)->state,     \
                         (w)->reason, (w)->code, (w)->msg);                                                            \
            uv_run(&(w)->loop, UV_RUN_ONCE);                                                                           \
        }                                                                                                              \
    } while (0)

/* Lets everything run for a while, to see that something does not happen. */
static void run_for(world_t *w, uint64_t ms) {
    uint64_t until = osync__mono_ms() + ms;
    while (osync__mono_ms() < until) uv_run(&w->loop, UV_RUN_ONCE);
}

static void on_added(void *arg, int status, const ProtobufCMessage *m, const osync_error_t *err) {
    world_t *w = arg;
    const Openmldb__Datasync__GeneralResponse *r = (const void *)m;
    w->answers++;
    w->code = status ? status : r->code;
    (void)snprintf(w->msg, sizeof w->msg, "%s", status ? err->message : r->msg ? r->msg : "");
}

typedef struct hand_out {
    const char *token;
    int mode;
    bool original, direct;
    uint32_t pid;
    uint64_t start_ts;
    const osync__buf_t *point;
} hand_out_t;

/* Sends AddSyncTask; the answer comes later. */
static void send_add(world_t *w, hand_out_t h) {
    char token[64], dest[] = "/dest";
    osync_error_t err = {0};
    Openmldb__Datasync__AddSyncTaskRequest r = OPENMLDB__DATASYNC__ADD_SYNC_TASK_REQUEST__INIT;
    point_t beginning = OPENMLDB__DATASYNC__SYNC_POINT__INIT;
    (void)snprintf(token, sizeof token, "%s", h.token ? h.token : "token");
    r.has_tid = r.has_pid = r.has_mode = r.has_osync = r.has_start_ts = 1;
    r.tid = w->tid;
    r.pid = h.pid;
    r.mode = (Openmldb__Datasync__SyncMode)h.mode;
    r.osync = !h.original;
    r.has_direct = r.direct = h.direct;
    r.start_ts = h.start_ts;
    r.sync_point = h.point ? openmldb__datasync__sync_point__unpack(NULL, h.point->len, h.point->data) : &beginning;
    r.tablet_endpoint = r.des_endpoint = w->endpoint;
    r.token = token;
    r.dest = dest;
    uv_update_time(&w->loop); /* what the test did before took its time, which is no time-out's */
    int rc = osync__rpc_call(w->client, fmt("127.0.0.1:%d", osync_collector_port(w->collector)),
                             "openmldb.datasync.DataCollector", "AddSyncTask", &r.base, NULL, 0,
                             &openmldb__datasync__general_response__descriptor, LONG_MS, on_added, w, NULL, &err);
    if (rc) fail_msg("%s", err.message);
    if (h.point) openmldb__datasync__sync_point__free_unpacked(r.sync_point, NULL);
}

static void add(world_t *w, hand_out_t h) {
    int before = w->answers;
    send_add(w, h);
    RUN_UNTIL(w, w->answers > before);
}

static void add_ok(world_t *w, hand_out_t h) {
    add(w, h);
    if (w->code) fail_msg("AddSyncTask: %s", w->msg);
}

static void on_held(void *arg, int status, const ProtobufCMessage *m, const osync_error_t *err) {
    world_t *w = arg;
    const Openmldb__Datasync__HoldLogResponse *r = (const void *)m;
    w->answers++;
    w->code = status ? status : r->response->code;
    (void)snprintf(w->msg, sizeof w->msg, "%s", status ? err->message : r->response->msg ? r->response->msg : "");
    w->first = status ? 0 : r->first_entry;
    w->last = status ? 0 : r->last_entry;
    w->pinned = status ? 0 : r->pinned_bytes;
}

typedef struct hold_out {
    uint32_t pid;
    const osync__buf_t *committed;
    bool release;
    const char *task;
} hold_out_t;

/* HoldLog, and waits for its answer. */
static void ask_hold(world_t *w, hold_out_t h) {
    char task[64];
    osync_error_t err = {0};
    int before = w->answers;
    Openmldb__Datasync__HoldLogRequest r = OPENMLDB__DATASYNC__HOLD_LOG_REQUEST__INIT;
    (void)snprintf(task, sizeof task, "%s", h.task ? h.task : "task");
    r.has_tid = r.has_pid = r.has_release = 1;
    r.tid = w->tid;
    r.pid = h.pid;
    r.task_id = task;
    r.release = h.release;
    r.tablet_endpoint = w->endpoint;
    if (h.committed) r.committed = openmldb__datasync__sync_point__unpack(NULL, h.committed->len, h.committed->data);
    uv_update_time(&w->loop); /* what the test did before took its time, which is no time-out's */
    int rc = osync__rpc_call(w->client, fmt("127.0.0.1:%d", osync_collector_port(w->collector)),
                             "openmldb.datasync.DataCollector", "HoldLog", &r.base, NULL, 0,
                             &openmldb__datasync__hold_log_response__descriptor, LONG_MS, on_held, w, NULL, &err);
    if (rc) fail_msg("%s", err.message);
    if (r.committed) openmldb__datasync__sync_point__free_unpacked(r.committed, NULL);
    RUN_UNTIL(w, w->answers > before);
}

static void hold_ok(world_t *w, hold_out_t h) {
    ask_hold(w, h);
    if (w->code) fail_msg("HoldLog: %s", w->msg);
}

/* All rows that the reader gives; `from`: the puts from that log entry on. */
static void expect_from(world_t *w, osync__buf_t *rows, uint64_t start_ts, uint64_t from) {
    osync_table_t *table = NULL;
    osync_reader_t *reader = NULL;
    osync_reader_row_t row;
    osync_reader_config_t c;
    osync_error_t err = {0};
    osync__buf_t meta = {0};
    char binlog[160], snapshot[300], scratch[160], name[64] = "";
    assert_int_equal(osync__buf_reserve(&meta, openmldb__api__table_meta__get_packed_size(w->meta)), 0);
    meta.len = openmldb__api__table_meta__pack(w->meta, meta.data);
    assert_int_equal(osync_table_from_meta(&table, meta.data, meta.len, &err), 0);
    (void)snprintf(binlog, sizeof binlog, "%s/binlog", w->source);
    (void)snprintf(scratch, sizeof scratch, "%s/scratch", w->top);
    FILE *f = fopen(fmt("%s/snapshot/MANIFEST", w->source), "r");
    if (f) {
        char line[256];
        while (fgets(line, sizeof line, f)) (void)sscanf(line, "name: \"%63[0-9]", name);
        fclose(f);
    }
    (void)snprintf(snapshot, sizeof snapshot, "%s/snapshot/%s", w->source, name);
    osync_reader_config_init(&c, sizeof c);
    c.binlog_dir = binlog;
    c.scratch_dir = scratch;
    c.snapshot_dir = name[0] ? snapshot : NULL;
    c.snapshot_name = name;
    c.start_ts = start_ts;
    c.phase = from > 0 ? OSYNC_PHASE_BINLOG : OSYNC_PHASE_ALL;
    c.from = from;
    if (osync_reader_open(&reader, table, &c, &err)) fail_msg("%s", err.message);
    int rc;
    while ((rc = osync_reader_next(reader, &row, &err)) == 0)
        assert_int_equal(osync__buf_append(rows, row.value, row.value_len), 0);
    if (rc != OSYNC_EOF) fail_msg("%s", err.message);
    osync_reader_close(reader);
    osync_table_free(table);
    osync__buf_free(&meta);
    assert_true(rows->len > 0);
}

/* What must come out. */
static void expect_rows(world_t *w, osync__buf_t *rows, uint64_t start_ts) {
    expect_from(w, rows, start_ts, 0);
}

static void assert_complete(world_t *w) {
    osync__buf_t expected = {0};
    expect_rows(w, &expected, 0);
    assert_int_equal(w->rows.len, expected.len);
    assert_memory_equal(w->rows.data, expected.data, expected.len);
    osync__buf_free(&expected);
}

static bool complete(world_t *w, size_t len) {
    return w->rows.len >= len;
}

static size_t expected_len(world_t *w) {
    osync__buf_t expected = {0};
    expect_rows(w, &expected, 0);
    size_t len = expected.len;
    osync__buf_free(&expected);
    return len;
}

static void run_until_complete(world_t *w) {
    size_t len = expected_len(w);
    RUN_UNTIL(w, complete(w, len));
}

static const char *folder(world_t *w) {
    return fmt("%s/%u-0", w->data, w->tid);
}

/* ---- delivery ---- */

static void full_sync(void **state) {
    world_t *w = *state;
    start_collector(w);
    add_ok(w, (hand_out_t){0});
    RUN_UNTIL(w, w->finished && !exists(folder(w)));
    assert_complete(w);
    int requests = w->requests;
    run_for(w, 500);
    assert_int_equal(w->requests, requests); /* it has ended */
    assert_int_equal(w->finished, 1);
}

static void small_packs(void **state) {
    world_t *w = *state;
    w->config.max_pack_size = 400;
    start_collector(w);
    add_ok(w, (hand_out_t){0});
    RUN_UNTIL(w, w->finished);
    assert_complete(w);
    assert_true(w->largest_pack <= 400);
    assert_true(w->packs > 10);
}

static void test_defect_12_large_row_goes_alone(void **state) {
    world_t *w = *state;
    w->tid = 1;
    use_table(w, "case1_simple", "db/1_0"); /* rows of up to 130,000 bytes */
    w->config.max_pack_size = 4096;
    start_collector(w);
    add_ok(w, (hand_out_t){0});
    RUN_UNTIL(w, w->finished);
    assert_complete(w);
    assert_true(w->largest_pack <= 4096);
}

static void row_beyond_max_body_size_is_named(void **state) {
    world_t *w = *state;
    w->tid = 1;
    use_table(w, "case1_simple", "db/1_0");
    w->config.max_pack_size = 4096;
    w->config.max_body_size = 100000;
    start_collector(w);
    add_ok(w, (hand_out_t){0});
    RUN_UNTIL(w, w->failed);
    assert_string_equal(w->state, "failed");
    assert_non_null(strstr(w->reason, "max_body_size"));
    assert_non_null(strstr(w->reason, "100000"));
    assert_non_null(strstr(w->reason, "hex"));
    assert_true(w->rows.len > 0);                     /* those before it came */
    assert_true(exists(fmt("%s/binlog", folder(w)))); /* what it needs is kept */
}

static void no_snapshot(void **state) {
    world_t *w = *state;
    w->tid = 42;
    use_table(w, "case4b_binlog_only", "db/42_0");
    start_collector(w);
    add_ok(w, (hand_out_t){0});
    RUN_UNTIL(w, w->finished);
    assert_complete(w);
}

static void empty_table_finishes(void **state) {
    world_t *w = *state;
    w->tid = 42;
    use_table(w, "case4b_binlog_only", "db/42_0");
    shell(fmt("rm -f %s/binlog/*", w->source));
    start_collector(w);
    add_ok(w, (hand_out_t){0});
    RUN_UNTIL(w, w->finished);
    assert_int_equal(w->rows.len, 0);
}

static void start_ts_leaves_older_rows_out(void **state) {
    world_t *w = *state;
    osync__buf_t expected = {0}, all = {0};
    expect_rows(w, &all, 0);
    expect_rows(w, &expected, 1700000000030);
    assert_true(expected.len < all.len);
    start_collector(w);
    add_ok(w, (hand_out_t){.mode = 1, .start_ts = 1700000000030});
    RUN_UNTIL(w, complete(w, expected.len));
    run_for(w, 300);
    assert_int_equal(w->rows.len, expected.len);
    assert_memory_equal(w->rows.data, expected.data, expected.len);
    assert_int_equal(w->finished, 0);
    osync__buf_free(&expected);
    osync__buf_free(&all);
}

static bool idle_beat(world_t *w, osync__rpc_call_t *call, const send_t *r) {
    (void)call;
    if (r->count > 0) w->step = 0;
    if (r->count == 0 && !strcmp(r->report->state, "following")) {
        osync__buf_t a = {0}, b = {0};
        pack_point(&a, r->start_point);
        pack_point(&b, r->next_point);
        if (same(&a, &b)) w->step++;
        osync__buf_free(&a);
        osync__buf_free(&b);
    }
    return false;
}

static void continuous_sync_reports_and_goes_on(void **state) {
    world_t *w = *state;
    size_t len;
    /* The last file comes later; with this heartbeat only inotify can be what notices it. */
    w->config.heartbeat_ms = NEVER_MS;
    shell(fmt("mv %s/binlog/00000005.log %s/later", w->source, w->top));
    len = expected_len(w);
    start_collector(w);
    add_ok(w, (hand_out_t){.mode = 2});
    RUN_UNTIL(w, complete(w, len));
    run_for(w, 200);
    assert_int_equal(w->rows.len, len);
    shell(fmt("mv %s/later %s/binlog/00000005.log", w->top, w->source));
    len = expected_len(w);
    RUN_UNTIL(w, complete(w, len));
    assert_complete(w);
    assert_int_equal(w->finished, 0);
    assert_string_equal(w->state, "following");
}

/* Appends to a file that is linked and was empty: defect 8. */
static void test_defect_8_file_that_fills_later(void **state) {
    world_t *w = *state;
    w->config.heartbeat_ms = NEVER_MS;
    shell(fmt("cp %s/binlog/00000005.log %s/later && : > %s/binlog/00000005.log", w->source, w->top, w->source));
    size_t len = expected_len(w);
    start_collector(w);
    add_ok(w, (hand_out_t){.mode = 2});
    RUN_UNTIL(w, complete(w, len));
    shell(fmt("cat %s/later >> %s/binlog/00000005.log", w->top, w->source));
    run_until_complete(w);
    assert_complete(w);
}

static void heartbeats(void **state) {
    world_t *w = *state;
    w->config.heartbeat_ms = 30;
    w->script = idle_beat;
    start_collector(w);
    add_ok(w, (hand_out_t){.mode = 2});
    RUN_UNTIL(w, w->step >= 5);
    assert_complete(w);
}

/* ---- answers ---- */

/* The first answer to the second pack gets lost: the request is kept and never answered in time. */
static bool lose_second(world_t *w, osync__rpc_call_t *call, const send_t *r) {
    size_t len;
    const uint8_t *rows = osync__rpc_attachment(call, &len);
    if (r->count == 0 || w->packs < 2 || w->step == 2) return false;
    osync__buf_t now = {0};
    pack_point(&now, r->next_point);
    assert_int_equal(osync__buf_append(&now, rows, len), 0);
    if (w->step++ == 0) {
        copy(&w->seen, &now);
        take(w, call, r); /* it was taken; only the answer doesn't come */
        w->held = call;
        osync__buf_free(&now);
        return true;
    }
    assert_true(same(&now, &w->seen)); /* the same again, so that it can be told */
    osync__buf_free(&now);
    reply(w, call, (answer_t){0});
    return true;
}

static void lost_answer_repeats_the_same(void **state) {
    world_t *w = *state;
    w->config.request_timeout_ms = 300;
    w->config.max_pack_size = 1000;
    w->script = lose_second;
    start_collector(w);
    add_ok(w, (hand_out_t){0});
    RUN_UNTIL(w, w->finished);
    assert_int_equal(w->step, 2);
    assert_complete(w);
}

static bool not_now(world_t *w, osync__rpc_call_t *call, const send_t *r) {
    (void)r;
    if (w->step++ >= 3) return false;
    reply(w, call, (answer_t){.code = -1, .msg = "recovering"});
    return true;
}

static void refused_for_now_is_tried_again(void **state) {
    world_t *w = *state;
    w->script = not_now;
    start_collector(w);
    add_ok(w, (hand_out_t){0});
    RUN_UNTIL(w, w->finished);
    assert_complete(w);
}

/* After the third pack, everything again from the first committed point. */
static bool rewind_once(world_t *w, osync__rpc_call_t *call, const send_t *r) {
    if (w->packs == 1 && r->count > 0 && w->step == 0) {
        take(w, call, r);
        commit(w);
        w->step = 1;
        reply(w, call, (answer_t){0});
        return true;
    }
    if (w->packs < 4 || w->step != 1) return false;
    w->step = 2;
    w->rows.len = w->committed_rows;
    copy(&w->end, &w->committed);
    reply(w, call, (answer_t){.code = -1, .msg = "again", .resume = &w->committed});
    return true;
}

static void resume_point_rewinds(void **state) {
    world_t *w = *state;
    w->config.max_pack_size = 500;
    w->script = rewind_once;
    start_collector(w);
    add_ok(w, (hand_out_t){0});
    RUN_UNTIL(w, w->finished);
    assert_int_equal(w->step, 2);
    assert_complete(w);
}

static bool delete_third(world_t *w, osync__rpc_call_t *call, const send_t *r) {
    if (w->packs < 3) return false;
    (void)r;
    reply(w, call, (answer_t){.code = -1, .msg = "gone", .delete_task = true});
    return true;
}

static void delete_task_removes_it(void **state) {
    world_t *w = *state;
    w->config.max_pack_size = 500;
    w->script = delete_third;
    start_collector(w);
    add_ok(w, (hand_out_t){.mode = 2});
    RUN_UNTIL(w, w->packs == 3 && !exists(folder(w)));
    run_for(w, 500);
    assert_int_equal(w->packs, 3);
    /* Its place is free. */
    w->script = NULL;
    w->rows.len = w->end.len = 0;
    add_ok(w, (hand_out_t){.mode = 0});
    RUN_UNTIL(w, w->finished);
    assert_complete(w);
}

static bool hold_first_of_a(world_t *w, osync__rpc_call_t *call, const send_t *r) {
    if (!strcmp(r->token, "a") && !w->held) {
        w->held = call;
        return true;
    }
    if (w->step == 1) assert_string_equal(r->token, "b"); /* defect 35: only one chain a partition */
    return false;
}

/* The answer to the old token's request says "delete" when the new token's task is there. */
static void test_defect_36_outdated_reply(void **state) {
    world_t *w = *state;
    w->script = hold_first_of_a;
    start_collector(w);
    add_ok(w, (hand_out_t){.token = "a", .mode = 2});
    RUN_UNTIL(w, w->held);
    add_ok(w, (hand_out_t){.token = "b", .mode = 2});
    w->step = 1;
    reply(w, w->held, (answer_t){.code = -1, .msg = "outdated token", .delete_task = true});
    w->held = NULL;
    run_until_complete(w);
    assert_complete(w);
    run_for(w, 500);
    assert_true(exists(folder(w)));
    assert_string_equal(w->token, "b");
}

/* ---- AddSyncTask ---- */

static void same_token(void **state) {
    world_t *w = *state;
    start_collector(w);
    add_ok(w, (hand_out_t){.mode = 2});
    add(w, (hand_out_t){.mode = 2});
    assert_int_equal(w->code, -1);
    assert_string_equal(w->msg, "why send a same task?");
}

static void refused_tables(void **state) {
    world_t *w = *state;
    start_collector(w);
    w->unknown_table = true;
    add(w, (hand_out_t){0});
    assert_int_equal(w->code, -1);
    assert_string_equal(w->msg, "table status is not valid: ");
    w->unknown_table = false;
    w->memory_table = true;
    add(w, (hand_out_t){0});
    assert_int_equal(w->code, -1);
    assert_memory_equal(w->msg, "table status is not valid: ", 27);
    assert_non_null(strstr(w->msg, "--db_root_path must name"));
    w->memory_table = false;
    w->tablet_refuses = true;
    add(w, (hand_out_t){0});
    assert_int_equal(w->code, -1);
    assert_memory_equal(w->msg, "get table status from tablet server failed, maybe table doesn't exist: ", 71);
    assert_non_null(strstr(w->msg, "not today"));
    assert_false(exists(folder(w)));
    assert_int_equal(w->requests, 0);
    /* Defect 38: a failed hand-out leaves nothing; the same token may come again. */
    w->tablet_refuses = false;
    add_ok(w, (hand_out_t){0});
    RUN_UNTIL(w, w->finished);
    assert_complete(w);
}

static void test_defect_34_schema_is_checked(void **state) {
    world_t *w = *state;
    start_collector(w);
    Openmldb__Api__TableMeta *meta = w->meta;
    w->meta = NULL;
    add(w, (hand_out_t){0});
    w->meta = meta;
    assert_int_equal(w->code, -1);
    assert_non_null(strstr(w->msg, "get table schema from tablet server failed"));
    assert_false(exists(folder(w)));
}

/* A row of a schema version that is newer than what the tablet answered first: it is asked again. */
static void newer_schema_is_fetched(void **state) {
    world_t *w = *state;
    w->tid = 9;
    use_table(w, "case9_added_columns", "db/9_0");
    w->old_schema = true;
    start_collector(w);
    add_ok(w, (hand_out_t){0});
    RUN_UNTIL(w, w->finished);
    assert_true(w->schema_calls >= 2);
    assert_complete(w);
}

static void other_file_system_is_refused(void **state) {
    world_t *w = *state;
    char other[] = "/dev/shm/osync-collector-XXXXXX";
    assert_non_null(mkdtemp(other));
    w->config.data_dir = other;
    start_collector(w);
    add(w, (hand_out_t){0});
    assert_int_equal(w->code, -1);
    assert_non_null(strstr(w->msg, "Invalid cross-device link"));
    assert_non_null(strstr(w->msg, w->source));
    assert_non_null(strstr(w->msg, other));
    assert_false(exists(fmt("%s/3-0", other)));
    stop_collector(w);
    osync__rmtree(other, NULL);
}

/* A tablet that doesn't answer for one partition holds up no other. */
static void test_defect_37_slow_tablet(void **state) {
    world_t *w = *state;
    w->hold_status = true;
    start_collector(w);
    send_add(w, (hand_out_t){.pid = 1});
    RUN_UNTIL(w, w->held_status);
    add_ok(w, (hand_out_t){.pid = 0});
    assert_int_equal(w->answers, 1);
    RUN_UNTIL(w, w->finished);
    assert_complete(w);
}

/* While the tablet is silent, a newer hand-out takes the place of the one that waits. */
static void newer_hand_out_replaces_a_waiting_one(void **state) {
    world_t *w = *state;
    w->hold_status = true;
    start_collector(w);
    send_add(w, (hand_out_t){.token = "a"});
    RUN_UNTIL(w, w->held_status);
    send_add(w, (hand_out_t){.token = "b"});
    RUN_UNTIL(w, w->finished);
    assert_int_equal(w->answers, 2);
    assert_string_equal(w->token, "b");
    assert_complete(w);
}

/* A hand-out that fails leaves the task that is there as it was. */
static void failed_hand_out_keeps_the_old_task(void **state) {
    world_t *w = *state;
    start_collector(w);
    w->config.max_pack_size = 500;
    add_ok(w, (hand_out_t){.token = "a", .mode = 2});
    w->unknown_table = true;
    add(w, (hand_out_t){.token = "b", .mode = 2});
    assert_int_equal(w->code, -1);
    run_until_complete(w);
    assert_complete(w);
    assert_string_equal(w->token, "a");
}

/* The scheduler deletes the old task while the new one's tablet is silent, which then fails: what is stored is taken up
 * again, and ends as it would have ended. */
static void deleted_while_another_is_set_up(void **state) {
    world_t *w = *state;
    w->script = as_ours;
    w->config.max_pack_size = 500;
    start_collector(w);
    add_ok(w, (hand_out_t){.token = "a", .mode = 2});
    RUN_UNTIL(w, w->taken >= 2);
    w->hold_status = true;
    send_add(w, (hand_out_t){.token = "b", .mode = 2});
    RUN_UNTIL(w, w->held_status);
    w->only = "b";
    int requests = w->requests;
    RUN_UNTIL(w, w->requests > requests);
    run_for(w, 300);
    assert_true(exists(fmt("%s/task.progress", folder(w)))); /* for token b */
    w->unknown_table = true;
    answer_status(w, w->held_status);
    w->held_status = NULL;
    w->hold_status = false;
    RUN_UNTIL(w, w->answers == 2);
    assert_int_equal(w->code, -1);
    RUN_UNTIL(w, !exists(folder(w)));
}

/* The old task's links serve the new token: files that the tablet has purged since. */
static void new_token_goes_on_with_the_old_links(void **state) {
    world_t *w = *state;
    osync__buf_t expected = {0}, point = {0};
    w->config.max_pack_size = 500;
    w->commit_at_once = true;
    w->script = as_ours;
    w->most = 2;
    expect_rows(w, &expected, 0);
    start_collector(w);
    add_ok(w, (hand_out_t){.token = "a", .mode = 2});
    RUN_UNTIL(w, w->taken == 2);
    shell(fmt("rm -rf %s/snapshot/* && rm -f %s/binlog/0000000[0-3].log", w->source, w->source));
    copy(&point, &w->end);
    add_ok(w, (hand_out_t){.token = "b", .mode = 2, .point = &point});
    w->only = "b";
    w->most = 0;
    RUN_UNTIL(w, complete(w, expected.len));
    assert_int_equal(w->rows.len, expected.len);
    assert_memory_equal(w->rows.data, expected.data, expected.len);
    assert_string_equal(w->token, "b");
    osync__buf_free(&point);
    osync__buf_free(&expected);
}

/* ---- restart ---- */

/* What the collector finds in its folder is enough, whatever the scheduler has kept meanwhile. */
static void resumes_after_a_restart(void **state) {
    world_t *w = *state;
    w->config.max_pack_size = 300;
    w->script = as_ours;
    int restarts = 0;
    for (; !w->finished; restarts++) {
        w->most = w->taken + 2;
        start_collector(w);
        if (restarts == 0) add_ok(w, (hand_out_t){0});
        RUN_UNTIL(w, w->taken == w->most || w->finished);
        if (restarts % 2 == 0) commit(w); /* half of the time more was taken than is committed */
        run_for(w, 20 * (unsigned)(restarts % 3));
        stop_collector(w);
        if (w->finished) break;
        assert_true(exists(fmt("%s/task.progress", folder(w))));
        if (restarts % 3 == 2) { /* the scheduler restarts too, and forgets what isn't committed */
            w->rows.len = w->committed_rows;
            copy(&w->end, &w->committed);
            w->last_start.len = 0;
        }
    }
    assert_true(restarts >= 5);
    assert_true(w->resumes > 0);
    assert_int_equal(w->finished, 1);
    assert_complete(w);
}

static bool wait_for_tablet(world_t *w, osync__rpc_call_t *call, const send_t *r) {
    if (r->report->reason && strstr(r->report->reason, "not today")) w->step++;
    return as_ours(w, call, r);
}

static void stored_task_waits_for_its_tablet(void **state) {
    world_t *w = *state;
    w->config.max_pack_size = 300;
    w->config.heartbeat_ms = 50;
    w->commit_at_once = true;
    w->script = wait_for_tablet;
    w->most = 2;
    start_collector(w);
    add_ok(w, (hand_out_t){0});
    RUN_UNTIL(w, w->taken == 2);
    stop_collector(w);
    shell(fmt("mkdir -p %s/scratch/window-7", folder(w))); /* as after SIGKILL */
    w->tablet_refuses = true;
    w->most = 0;
    start_collector(w);
    RUN_UNTIL(w, w->step >= 3);
    assert_string_equal(w->state, "linking");
    assert_false(w->failed);
    w->tablet_refuses = false;
    RUN_UNTIL(w, w->finished || !exists(fmt("%s/scratch/window-7", folder(w))));
    assert_false(w->finished); /* it doesn't stay until the task ends */
    RUN_UNTIL(w, w->finished);
    assert_complete(w);
}

/* A garbage task.progress (of the original, which writes it in place) neither stops the collector nor is removed. */
static void test_defect_17_unreadable_progress(void **state) {
    world_t *w = *state;
    shell(fmt("mkdir -p %s/7-0/binlog %s/8-0/binlog %s/9-0/binlog", w->data, w->data, w->data));
    shell(fmt(": > %s/7-0/task.progress; echo garbage > %s/8-0/task.progress", w->data, w->data));
    start_collector(w);
    add_ok(w, (hand_out_t){0});
    RUN_UNTIL(w, w->finished);
    assert_complete(w);
    assert_true(exists(fmt("%s/7-0/task.progress", w->data)));
    assert_true(exists(fmt("%s/8-0/binlog", w->data)));
    assert_false(exists(fmt("%s/9-0", w->data))); /* was never promised */
}

static void original_scheduler_commits_by_answering(void **state) {
    world_t *w = *state;
    w->config.max_pack_size = 500;
    start_collector(w);
    add_ok(w, (hand_out_t){.mode = 2, .original = true});
    run_until_complete(w);
    assert_complete(w);
    assert_int_equal(w->committed.len, 0); /* it told nothing */
    /* Only the files from the last entry's on are needed then. */
    RUN_UNTIL(w, !exists(fmt("%s/binlog/00000004.log", folder(w))));
    assert_true(exists(fmt("%s/binlog/00000005.log", folder(w))));
    assert_false(exists(fmt("%s/snapshot", folder(w))));
}

/* ---- folders of the original's collector ---- */

/* As the original leaves it: a task.progress without our additions, and links that weren't made in one step. */
static void put_original(world_t *w, const osync__buf_t *point) {
    osync_error_t err = {0};
    osync__buf_t b = {0};
    char token[] = "token", dest[] = "/dest";
    Openmldb__Datasync__AddSyncTaskRequest r = OPENMLDB__DATASYNC__ADD_SYNC_TASK_REQUEST__INIT;
    r.has_tid = r.has_pid = r.has_mode = 1;
    r.tid = w->tid;
    r.mode = OPENMLDB__DATASYNC__SYNC_MODE__kFull;
    r.sync_point = openmldb__datasync__sync_point__unpack(NULL, point->len, point->data);
    r.tablet_endpoint = r.des_endpoint = w->endpoint;
    r.token = token;
    r.dest = dest;
    assert_int_equal(osync__buf_reserve(&b, openmldb__datasync__add_sync_task_request__get_packed_size(&r)), 0);
    b.len = openmldb__datasync__add_sync_task_request__pack(&r, b.data);
    shell(fmt("mkdir -p %s/snapshot/data %s/binlog", folder(w), folder(w)));
    shell(fmt("ln %s/snapshot/MANIFEST %s/snapshot/; ln %s/binlog/*.log %s/binlog/", w->source, folder(w), w->source,
              folder(w)));
    shell(fmt("ln %s/snapshot/2*/* %s/snapshot/data/", w->source, folder(w)));
    if (osync__write_file(fmt("%s/task.progress", folder(w)), b.data, b.len, &err)) fail_msg("%s", err.message);
    openmldb__datasync__sync_point__free_unpacked(r.sync_point, NULL);
    osync__buf_free(&b);
}

static void point_of_the_original(osync__buf_t *out, const char *pk, uint64_t ts) {
    point_t p = OPENMLDB__DATASYNC__SYNC_POINT__INIT;
    p.has_pk = p.has_ts = pk != NULL;
    p.pk = (ProtobufCBinaryData){pk ? strlen(pk) : 0, (uint8_t *)(uintptr_t)pk};
    p.ts = ts;
    pack_point(out, &p);
}

static void folder_of_the_original_that_is_half_linked(void **state) {
    world_t *w = *state;
    osync__buf_t point = {0};
    point_of_the_original(&point, NULL, 0);
    put_original(w, &point);
    shell(fmt("rm %s/snapshot/data/*.sst", folder(w))); /* it was killed there */
    start_collector(w);
    RUN_UNTIL(w, w->finished);
    assert_complete(w);
    osync__buf_free(&point);
}

/* What is before the point was sent, up to MANIFEST's offset. */
static void traverse_of_the_original_goes_on(void **state) {
    world_t *w = *state;
    osync__buf_t point = {0}, logged = {0};
    unsigned long long offset = 0;
    FILE *f = fopen(fmt("%s/snapshot/MANIFEST", w->source), "r");
    for (char line[256]; fgets(line, sizeof line, f);) (void)sscanf(line, "offset: %llu", &offset);
    fclose(f);
    assert_true(offset > 0);
    expect_from(w, &logged, 0, offset + 1);
    point_of_the_original(&point, "\xff\xff\xff", 0); /* all of it */
    put_original(w, &point);
    copy(&w->end, &point);
    shell(fmt("rm -rf %s/snapshot/*", w->source)); /* the tablet has another one by now */
    start_collector(w);
    RUN_UNTIL(w, w->finished);
    assert_int_equal(w->rows.len, logged.len);
    assert_memory_equal(w->rows.data, logged.data, logged.len);
    osync__buf_free(&point);
    osync__buf_free(&logged);
}

static void traverse_of_the_original_needs_its_links(void **state) {
    world_t *w = *state;
    osync__buf_t point = {0};
    point_of_the_original(&point, "a", 5);
    start_collector(w);
    add(w, (hand_out_t){.token = "b", .mode = 2, .point = &point});
    assert_int_equal(w->code, -1);
    assert_non_null(strstr(w->msg, "only the links in its own folder are of that snapshot"));
    RUN_UNTIL(w, !exists(folder(w)));
    stop_collector(w);
    /* Nor are those of a task of ours. */
    w->script = as_ours;
    w->config.max_pack_size = 300;
    w->most = 1;
    start_collector(w);
    add_ok(w, (hand_out_t){.token = "a", .mode = 2});
    RUN_UNTIL(w, w->taken == 1);
    add(w, (hand_out_t){.token = "b", .mode = 2, .point = &point});
    assert_int_equal(w->code, -1);
    osync__buf_free(&point);
}

/* A collector of the original that had the task before has not kept `osync`. */
static void what_the_answers_say_of_the_scheduler_counts(void **state) {
    world_t *w = *state;
    w->config.max_pack_size = 500;
    w->script = as_ours;
    start_collector(w);
    point_of_the_original(&w->committed, NULL, 0);
    add_ok(w, (hand_out_t){.mode = 2, .original = true});
    run_until_complete(w);
    run_for(w, 300);
    assert_true(exists(fmt("%s/binlog/00000000.log", folder(w)))); /* taken isn't committed */
    commit(w);
    RUN_UNTIL(w, !exists(fmt("%s/binlog/00000004.log", folder(w))));
    assert_complete(w);
}

/* ---- links ---- */

static void release_follows_the_commit(void **state) {
    world_t *w = *state;
    w->config.max_pack_size = 500;
    start_collector(w);
    add_ok(w, (hand_out_t){.mode = 2});
    run_until_complete(w);
    run_for(w, 300);
    /* Nothing is committed: everything is kept. */
    assert_true(exists(fmt("%s/binlog/00000000.log", folder(w))));
    assert_true(exists(fmt("%s/snapshot/data/CURRENT", folder(w))));
    commit(w);
    RUN_UNTIL(w, !exists(fmt("%s/binlog/00000004.log", folder(w))));
    assert_true(exists(fmt("%s/binlog/00000005.log", folder(w))));
    assert_false(exists(fmt("%s/snapshot", folder(w))));
    /* Defect 43: the tablet still has them, and they aren't linked again. */
    run_for(w, 500);
    assert_false(exists(fmt("%s/binlog/00000004.log", folder(w))));
    assert_complete(w);
}

/* Nobody takes rows for a while, in which the tablet goes on writing and purging: what isn't read yet is linked all the
 * same. */
static void new_files_are_linked_while_rows_wait(void **state) {
    world_t *w = *state;
    size_t len = expected_len(w);
    w->config.max_pack_size = 300;
    w->config.heartbeat_ms = NEVER_MS; /* inotify tells */
    w->script = as_ours;
    w->most = 1;
    shell(fmt("mkdir %s/later && mv %s/binlog/0000000[45].log %s/later", w->top, w->source, w->top));
    start_collector(w);
    add_ok(w, (hand_out_t){.mode = 2});
    RUN_UNTIL(w, w->packs >= 3); /* refused twice: the packs that are ready wait */
    shell(fmt("mv %s/later/00000004.log %s/binlog", w->top, w->source));
    RUN_UNTIL(w, exists(fmt("%s/binlog/00000004.log", folder(w))));
    shell(fmt("mv %s/later/00000005.log %s/binlog && rm %s/binlog/00000004.log", w->top, w->source, w->source));
    w->most = 0;
    RUN_UNTIL(w, complete(w, len));
    assert_false(w->failed);
    assert_string_equal(w->reason, "");
}

/* The same when inotify doesn't tell: it looks now and then. */
static void new_files_are_linked_after_a_failure(void **state) {
    world_t *w = *state;
    w->tid = 1;
    use_table(w, "case1_simple", "db/1_0");
    w->config.max_pack_size = 4096;
    w->config.max_body_size = 100000;
    w->config.heartbeat_ms = 50;
    start_collector(w);
    add_ok(w, (hand_out_t){.mode = 2});
    RUN_UNTIL(w, w->failed);
    shell(fmt(": > %s/binlog/00000077.log", w->source));
    RUN_UNTIL(w, exists(fmt("%s/binlog/00000077.log", folder(w))));
    assert_non_null(strstr(w->reason, "max_body_size")); /* what is told stays the reason */
}

/* A partition without a snapshot, whose log is the first entry of w's many times. */
static void long_log(world_t *w, const char *to, uint64_t entries) {
    osync_error_t err = {0};
    osync__binlog_t *from = NULL;
    osync__log_record_t record;
    log_writer_t writer;
    uint8_t payload[4096];
    assert_int_equal(osync__mkdirs(fmt("%s/binlog", to), &err), 0);
    assert_int_equal(osync__binlog_open(&from, fmt("%s/binlog", w->source), &err), 0);
    assert_int_equal(osync__binlog_next(from, &record, &err), 0);
    Openmldb__Api__LogEntry *e = openmldb__api__log_entry__unpack(NULL, record.len, record.payload);
    osync__binlog_close(from);
    assert_int_equal(log_writer_open(&writer, fmt("%s/binlog", to), UINT64_MAX, NULL, NULL, &err), 0);
    for (e->log_index = 1; e->log_index <= entries; e->log_index++) {
        assert_in_range(openmldb__api__log_entry__get_packed_size(e), 1, sizeof payload);
        size_t len = openmldb__api__log_entry__pack(e, payload);
        assert_int_equal(log_writer_append(&writer, e->log_index, payload, len, &err), 0);
        if (e->log_index % 1000 == 0) assert_int_equal(log_writer_flush(&writer, &err), 0);
    }
    assert_int_equal(log_writer_flush(&writer, &err), 0);
    log_writer_close(&writer);
    openmldb__api__log_entry__free_unpacked(e, NULL);
}

static bool count_replaying(world_t *w, osync__rpc_call_t *call, const send_t *r) {
    if (r->pid == 1 && r->report->log_tail > 0) w->taken++; /* its reader is open */
    if (r->pid == 1 && !strcmp(r->report->state, "replaying")) w->step++;
    reply(w, call, (answer_t){.code = r->count > 0 ? -1 : 0, .msg = "not now"});
    return true;
}

/* A hand-out is answered while another partition's long replay is under way, although there is one worker only. */
static void long_replay_holds_up_nobody(void **state) {
    world_t *w = *state;
    w->config.worker_threads = 1;
    w->config.heartbeat_ms = 10;
    w->script = count_replaying;
    char small[sizeof w->source];
    memcpy(small, w->source, sizeof small);
    long_log(w, fmt("%s/long", w->top), 400000);
    (void)snprintf(w->source, sizeof w->source, "%s/long", w->top);
    start_collector(w);
    add_ok(w, (hand_out_t){.token = "long", .pid = 1, .mode = 2});
    RUN_UNTIL(w, w->step > 0);
    memcpy(w->source, small, sizeof small);
    add_ok(w, (hand_out_t){.token = "small", .mode = 2});
    int replaying = w->step;
    RUN_UNTIL(w, w->step > replaying);
    assert_int_equal(w->taken, 0);
    RUN_UNTIL(w, w->taken > 0);
}

static bool count_waiting(world_t *w, osync__rpc_call_t *call, const send_t *r) {
    (void)call;
    if (!strcmp(r->report->state, "waiting")) {
        assert_non_null(strstr(r->report->reason, "waits"));
        assert_int_equal(w->packs, 0);
        w->step++;
    }
    return false;
}

static void young_snapshot_is_let_alone(void **state) {
    world_t *w = *state;
    uint64_t began = osync__mono_ms();
    w->config.snapshot_settle_ms = 2000;
    w->config.heartbeat_ms = 50;
    w->script = count_waiting;
    /* Half of the binlog comes while it waits, as what was applied before the checkpoint may. */
    shell(fmt("touch %s/snapshot/MANIFEST; mv %s/binlog/00000005.log %s/later", w->source, w->source, w->top));
    start_collector(w);
    add_ok(w, (hand_out_t){0});
    RUN_UNTIL(w, w->step >= 1);
    shell(fmt("mv %s/later %s/binlog/00000005.log", w->top, w->source));
    RUN_UNTIL(w, w->finished);
    assert_true(osync__mono_ms() - began >= 2000);
    assert_complete(w);
}

static void test_defect_28_broken_log_is_reported(void **state) {
    world_t *w = *state;
    w->tid = 7;
    use_table(w, "case7_broken_binlog", "payload_flip/7_0");
    shell(fmt("rm -rf %s/snapshot", w->source));
    w->config.heartbeat_ms = 50;
    start_collector(w);
    add_ok(w, (hand_out_t){.mode = 2});
    RUN_UNTIL(w, w->failed);
    assert_non_null(strstr(w->reason, ".log"));
    assert_int_equal(w->finished, 0);
    int beats = w->beats;
    RUN_UNTIL(w, w->beats >= beats + 3); /* it goes on saying so */
    assert_true(exists(folder(w)));
}

static void recreated_partition_is_reported(void **state) {
    world_t *w = *state;
    start_collector(w);
    add_ok(w, (hand_out_t){.mode = 2});
    run_until_complete(w);
    shell(
        fmt("cp %s/binlog/00000005.log %s/x && mv %s/x %s/binlog/00000005.log", w->source, w->top, w->top, w->source));
    RUN_UNTIL(w, w->failed);
    assert_non_null(strstr(w->reason, "re-created"));
    /* A new hand-out from the beginning takes what is there now. */
    w->rows.len = w->end.len = 0;
    add_ok(w, (hand_out_t){.token = "again"});
    RUN_UNTIL(w, w->finished);
    assert_complete(w);
}

/* ---- holds ---- */

/* A point in the log, before entry `next`, that says what the entry before it is. */
static void log_point(world_t *w, uint64_t next, osync__buf_t *out) {
    osync_error_t err = {0};
    osync__binlog_t *log = NULL;
    osync__log_record_t record;
    point_t p = OPENMLDB__DATASYNC__SYNC_POINT__INIT;
    p.type = OPENMLDB__DATASYNC__SYNC_TYPE__kBINLOG;
    p.has_offset = p.has_last_term = p.has_last_crc = 1;
    p.offset = next;
    assert_int_equal(osync__binlog_open(&log, fmt("%s/binlog", w->source), &err), 0);
    assert_int_equal(osync__binlog_seek(log, next - 1, &err), 0);
    assert_int_equal(osync__binlog_next(log, &record, &err), 0);
    p.last_term = record.term;
    p.last_crc = osync__crc32c(0, record.payload, record.len);
    osync__binlog_close(log);
    pack_point(out, &p);
}

static void purge(world_t *w, int from, int to) {
    for (int i = from; i <= to; i++) assert_int_equal(unlink(fmt("%s/binlog/%08d.log", w->source, i)), 0);
}

static bool holds_log(world_t *w, int number) {
    return exists(fmt("%s/binlog/%08d.log", folder(w), number));
}

/* First entries of the six log files: 1, 61, 133, 134, 156, 171. */
static void hold_links_and_releases(void **state) {
    world_t *w = *state;
    osync__buf_t point = {0};
    w->config.heartbeat_ms = 30;
    shell(fmt("mv %s/binlog/00000005.log %s/later", w->source, w->top));
    start_collector(w);
    hold_ok(w, (hold_out_t){0});
    assert_int_equal(w->first, 1);
    assert_int_equal(w->last, 170);
    assert_int_equal(w->pinned, 0);
    assert_false(exists(fmt("%s/snapshot", folder(w))));
    /* Between two requests it looks by itself. */
    shell(fmt("mv %s/later %s/binlog/00000005.log", w->top, w->source));
    RUN_UNTIL(w, holds_log(w, 5));
    log_point(w, 156, &point);
    purge(w, 0, 4);
    hold_ok(w, (hold_out_t){.committed = &point});
    assert_false(holds_log(w, 2));
    assert_true(holds_log(w, 3));
    assert_int_equal(w->first, 134);
    assert_true(w->last > 171);
    assert_true(w->pinned > 0);
    assert_int_equal(w->requests, 0); /* it sends nothing */
    /* That of an earlier task is none of its business. */
    hold_ok(w, (hold_out_t){.release = true, .task = "another"});
    assert_true(exists(folder(w)));
    hold_ok(w, (hold_out_t){.release = true});
    assert_false(exists(folder(w)));
    hold_ok(w, (hold_out_t){.release = true});
    osync__buf_free(&point);
}

/* The log here is of a later leader and lacks what was read last: nobody knows yet how far back they part. */
static void hold_keeps_what_a_diverged_log_needs(void **state) {
    world_t *w = *state;
    osync__buf_t point = {0};
    log_point(w, 156, &point);
    point_t *p = openmldb__datasync__sync_point__unpack(NULL, point.len, point.data);
    start_collector(w);
    p->last_crc++;
    pack_point(&point, p);
    hold_ok(w, (hold_out_t){.committed = &point});
    assert_true(holds_log(w, 0));
    p->offset = 100000; /* behind its end */
    pack_point(&point, p);
    hold_ok(w, (hold_out_t){.committed = &point});
    assert_true(holds_log(w, 0));
    log_point(w, 156, &point);
    hold_ok(w, (hold_out_t){.committed = &point});
    assert_false(holds_log(w, 0));
    openmldb__datasync__sync_point__free_unpacked(p, NULL);
    osync__buf_free(&point);
}

static void hold_survives_a_restart_and_expires(void **state) {
    world_t *w = *state;
    struct stat before, after;
    w->config.heartbeat_ms = 30;
    shell(fmt("mv %s/binlog/00000005.log %s/later", w->source, w->top));
    start_collector(w);
    hold_ok(w, (hold_out_t){0});
    stop_collector(w);
    assert_int_equal(stat(fmt("%s/hold.progress", folder(w)), &before), 0);
    purge(w, 0, 2);
    shell(fmt("mv %s/later %s/binlog/00000005.log", w->top, w->source));
    start_collector(w);
    RUN_UNTIL(w, holds_log(w, 5));
    assert_true(holds_log(w, 0));
    stop_collector(w);
    /* A restart isn't a request: it was last asked for long ago. */
    assert_int_equal(stat(fmt("%s/hold.progress", folder(w)), &after), 0);
    assert_int_equal(before.st_mtim.tv_sec, after.st_mtim.tv_sec);
    assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
    shell(fmt("touch -d '1 hour ago' %s/hold.progress", folder(w)));
    w->config.hold_expire_ms = 2 * 3600 * 1000;
    start_collector(w);
    run_for(w, 200);
    assert_true(holds_log(w, 0));
    stop_collector(w);
    w->config.hold_expire_ms = 3600 * 1000;
    start_collector(w);
    RUN_UNTIL(w, !exists(folder(w)));
    stop_collector(w);
    w->config.hold_expire_ms = 300;
    start_collector(w);
    hold_ok(w, (hold_out_t){0});
    for (int i = 0; i < 5; i++) { /* asked for again and again, it lives */
        run_for(w, 100);
        hold_ok(w, (hold_out_t){0});
        assert_true(exists(folder(w)));
    }
    RUN_UNTIL(w, !exists(folder(w)));
}

static void unreadable_hold_is_removed(void **state) {
    world_t *w = *state;
    shell(fmt("mkdir -p %s/7-0/binlog && echo garbage > %s/7-0/hold.progress", w->data, w->data));
    start_collector(w);
    assert_false(exists(fmt("%s/7-0", w->data)));
    hold_ok(w, (hold_out_t){0});
}

/* The leader moves here: what the tablet has purged meanwhile is there. */
static void held_links_serve_a_hand_out(void **state) {
    world_t *w = *state;
    osync__buf_t expected = {0}, point = {0};
    expect_rows(w, &expected, 0);
    /* Elsewhere, the first rows are delivered. */
    w->config.max_pack_size = 500;
    w->commit_at_once = true;
    w->script = as_ours;
    w->most = 3;
    start_collector(w);
    add_ok(w, (hand_out_t){.token = "a", .mode = 2});
    RUN_UNTIL(w, w->taken == 3);
    w->only = "b";
    RUN_UNTIL(w, !exists(folder(w)));
    copy(&point, &w->end);

    do hold_ok(w, (hold_out_t){.committed = &point});
    while (w->first == 0); /* the task is ending */
    purge(w, 0, 4);
    w->most = 0;
    int answers = w->answers;
    w->hold_status = true;
    send_add(w, (hand_out_t){.token = "b", .mode = 2, .point = &point});
    RUN_UNTIL(w, w->held_status);
    hold_ok(w, (hold_out_t){.committed = &point}); /* says quietly that there is a task */
    assert_int_equal(w->first, 0);
    w->hold_status = false;
    answer_status(w, w->held_status);
    w->held_status = NULL;
    RUN_UNTIL(w, w->answers == answers + 2);
    assert_int_equal(w->code, 0);
    assert_true(exists(fmt("%s/task.progress", folder(w))));
    assert_false(exists(fmt("%s/hold.progress", folder(w))));
    RUN_UNTIL(w, complete(w, expected.len));
    assert_int_equal(w->rows.len, expected.len);
    assert_memory_equal(w->rows.data, expected.data, expected.len);
    /* A release that comes late doesn't touch the task. */
    hold_ok(w, (hold_out_t){.release = true});
    assert_true(exists(folder(w)));
    hold_ok(w, (hold_out_t){.committed = &point});
    assert_true(exists(fmt("%s/task.progress", folder(w))));
    osync__buf_free(&point);
    osync__buf_free(&expected);
}

static void failed_hand_out_keeps_the_hold(void **state) {
    world_t *w = *state;
    osync__buf_t point = {0};
    log_point(w, 100, &point);
    start_collector(w);
    hold_ok(w, (hold_out_t){.committed = &point});
    purge(w, 0, 2);
    /* Before the hold has ended, and after. */
    w->unknown_table = true;
    add(w, (hand_out_t){.token = "a", .mode = 2, .point = &point});
    assert_int_equal(w->code, -1);
    w->unknown_table = false;
    disk_full = 1;
    add(w, (hand_out_t){.token = "b", .mode = 2, .point = &point});
    disk_full = 0;
    assert_int_equal(w->code, -1);
    assert_non_null(strstr(w->msg, "No space left"));
    assert_true(holds_log(w, 1));
    hold_ok(w, (hold_out_t){.committed = &point});
    assert_int_equal(w->first, 61);
    osync__buf_free(&point);
}

/* A follower whose tablet doesn't answer keeps what it has. */
static void hold_waits_for_its_tablet(void **state) {
    world_t *w = *state;
    start_collector(w);
    hold_ok(w, (hold_out_t){0});
    w->tablet_refuses = true;
    ask_hold(w, (hold_out_t){0});
    assert_int_equal(w->code, -1);
    assert_non_null(strstr(w->msg, "not today"));
    assert_int_equal(w->first, 1);
    assert_true(holds_log(w, 0));
    w->tablet_refuses = false;
    hold_ok(w, (hold_out_t){0});
}

/* ---- the budget ---- */

/* It links everything and delivers one pack, and then nobody takes rows. */
static void stuck_task(world_t *w, bool commits) {
    w->config.max_pack_size = 300;
    w->config.heartbeat_ms = 50;
    w->commit_at_once = commits;
    w->script = as_ours;
    w->most = 1;
    start_collector(w);
    add_ok(w, (hand_out_t){.token = "a", .mode = 2});
    RUN_UNTIL(w, w->taken == 1 && w->packs >= 3);
}

static void too_much_pinned_is_given_up(void **state) {
    world_t *w = *state;
    osync__buf_t expected = {0};
    expect_rows(w, &expected, 0);
    w->config.max_pinned_bytes = 1;
    w->config.min_free_percent = 0;
    stuck_task(w, true);
    run_for(w, 200);
    assert_true(holds_log(w, 0)); /* nothing is pinned */
    shell(fmt("cp -a %s/binlog %s/copy", w->source, w->top));
    purge(w, 0, 3);
    RUN_UNTIL(w, w->failed);
    RUN_UNTIL(w, !exists(fmt("%s/binlog", folder(w))));
    assert_false(exists(fmt("%s/snapshot", folder(w))));
    assert_non_null(strstr(w->reason, "--max_pinned_bytes allows 1"));
    assert_non_null(strstr(w->reason, "to 155 of the log")); /* what is missing */
    assert_non_null(strstr(w->reason, "retry"));
    assert_non_null(strstr(w->reason, "create --restart"));
    /* It stays so, and links nothing more. */
    int beats = w->beats;
    RUN_UNTIL(w, w->beats >= beats + 4);
    assert_true(w->failed);
    assert_false(exists(fmt("%s/binlog", folder(w))));
    /* The files come back, as copies: a new hand-out goes on with them. */
    shell(fmt("rm -rf %s/binlog && mv %s/copy %s/binlog", w->source, w->top, w->source));
    osync__buf_t point = {0};
    copy(&point, &w->committed);
    copy(&w->end, &w->committed);
    w->rows.len = w->committed_rows;
    w->most = 0;
    add_ok(w, (hand_out_t){.token = "b", .mode = 2, .point = &point});
    RUN_UNTIL(w, complete(w, expected.len));
    assert_int_equal(w->rows.len, expected.len);
    assert_memory_equal(w->rows.data, expected.data, expected.len);
    RUN_UNTIL(w, !w->failed);
    osync__buf_free(&point);
    osync__buf_free(&expected);
}

/* What the disk is full of isn't ours; then a snapshot that the tablet has replaced is, and its log is all there. */
static void full_disk_is_ours_only_if_links_pin(void **state) {
    world_t *w = *state;
    w->config.min_free_percent = 100;
    stuck_task(w, false);
    run_for(w, 300);
    assert_false(w->failed);
    shell(fmt("rm -rf %s/snapshot", w->source));
    RUN_UNTIL(w, w->failed);
    assert_non_null(strstr(w->reason, "less than --min_free_percent (100)"));
    assert_non_null(strstr(w->reason, "still has the log that is needed: `retry` goes on"));
    assert_false(exists(fmt("%s/snapshot", folder(w))));
}

static void get(world_t *w, const char *path, char *out, size_t size);

static void hold_is_given_up_first(void **state) {
    world_t *w = *state;
    char text[8192];
    w->config.min_free_percent = 100;
    w->config.heartbeat_ms = 300;
    start_collector(w);
    w->script = as_ours;
    w->most = 1;
    w->config.max_pack_size = 300;
    add_ok(w, (hand_out_t){.token = "a", .mode = 2});
    hold_ok(w, (hold_out_t){.pid = 1});
    get(w, "/status", text, sizeof text);
    assert_non_null(strstr(text, "[hold 3-1]"));
    assert_non_null(strstr(text, "holds: 1"));
    assert_non_null(strstr(text, "entries: 1 to "));
    assert_non_null(strstr(text, "free: "));
    get(w, "/status?format=json", text, sizeof text);
    assert_non_null(strstr(text, "\"holds\": ["));
    assert_non_null(strstr(text, "\"first_entry\": 1"));
    assert_non_null(strstr(text, "\"min_free_percent\": 100"));
    /* Two partitions never share files; here they do, but for this one. */
    shell(fmt("cp %s/3-1/binlog/00000000.log %s/x && mv %s/x %s/3-1/binlog/00000000.log", w->data, w->top, w->top,
              w->data));
    purge(w, 0, 0);
    RUN_UNTIL(w, !exists(fmt("%s/3-1", w->data)));
    assert_true(holds_log(w, 0));
    assert_false(w->failed);
    RUN_UNTIL(w, w->failed); /* that wasn't enough */
    assert_false(holds_log(w, 0));
}

/* ---- a full disk ---- */

static void full_disk_is_waited_for(void **state) {
    world_t *w = *state;
    osync__buf_t before = {0}, after = {0};
    size_t len = expected_len(w);
    w->config.max_pack_size = 300;
    w->config.heartbeat_ms = 50;
    shell(fmt("mkdir %s/later && mv %s/binlog/00000005.log %s/later", w->top, w->source, w->top));
    start_collector(w);
    disk_full = 1;
    add(w, (hand_out_t){.mode = 2});
    assert_int_equal(w->code, -1);
    assert_non_null(strstr(w->msg, "No space left"));
    assert_false(exists(folder(w)));
    disk_full = 0;
    add_ok(w, (hand_out_t){.mode = 2});
    RUN_UNTIL(w, w->packs >= 2);
    assert_int_equal(osync__read_file(fmt("%s/task.progress", folder(w)), 1 << 20, &before, NULL), 0);
    disk_full = 1;
    commit(w);
    RUN_UNTIL(w, strstr(w->reason, "No space left"));
    assert_false(w->failed);
    assert_int_equal(osync__read_file(fmt("%s/task.progress", folder(w)), 1 << 20, &after, NULL), 0);
    assert_true(same(&before, &after));
    assert_false(exists(fmt("%s/task.progress.tmp", folder(w))));
    /* Nor can a new log file be linked. */
    shell(fmt("mv %s/later/00000005.log %s/binlog", w->top, w->source));
    RUN_UNTIL(w, strstr(w->reason, "link '"));
    assert_false(w->failed);
    disk_full = 0;
    RUN_UNTIL(w, complete(w, len));
    RUN_UNTIL(w, !strcmp(w->reason, ""));
    commit(w);
    RUN_UNTIL(w, !exists(fmt("%s/snapshot", folder(w))));
    assert_complete(w);
    osync__buf_free(&before);
    osync__buf_free(&after);
}

/* The tablet's files were put there anew, with the same content: FAILED, and a new hand-out goes on with them, since
 * term and checksum tell that it is the same log. */
static void copied_partition_goes_on_when_handed_out_again(void **state) {
    world_t *w = *state;
    osync__buf_t expected = {0}, point = {0};
    expect_rows(w, &expected, 0);
    stuck_task(w, true);
    copy(&point, &w->committed);
    shell(fmt("cp -a %s/binlog %s/copy && rm -rf %s/binlog && mv %s/copy %s/binlog", w->source, w->top, w->source,
              w->top, w->source));
    w->most = 0;
    RUN_UNTIL(w, w->failed);
    assert_non_null(strstr(w->reason, "re-created"));
    copy(&w->end, &w->committed);
    w->rows.len = w->committed_rows;
    add_ok(w, (hand_out_t){.token = "b", .mode = 2, .point = &point});
    RUN_UNTIL(w, complete(w, expected.len));
    assert_int_equal(w->rows.len, expected.len);
    assert_memory_equal(w->rows.data, expected.data, expected.len);
    osync__buf_free(&point);
    osync__buf_free(&expected);
}

/* ---- the rest ---- */

static void data_folder_belongs_to_one(void **state) {
    world_t *w = *state;
    osync_collector_t *second = NULL;
    osync_error_t err = {0};
    start_collector(w);
    assert_int_equal(osync_collector_new(&second, &w->loop, &w->config, &err), 0);
    assert_int_equal(osync_collector_start(second, &err), OSYNC_ECONFIG);
    assert_non_null(strstr(err.message, w->data));
    w->open++;
    osync_collector_close(second, on_closed, w);
    while (w->open > 0) uv_run(&w->loop, UV_RUN_ONCE);
}

static void get(world_t *w, const char *path, char *out, size_t size) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)osync_collector_port(w->collector))};
    size_t len = 0;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    const char *request = fmt("GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path);
    assert_int_equal(write(fd, request, strlen(request)), (ssize_t)strlen(request));
    for (bool end = false; !end;) {
        uv_run(&w->loop, UV_RUN_ONCE);
        ssize_t n = recv(fd, out + len, size - 1 - len, MSG_DONTWAIT);
        end = n == 0;
        if (n > 0) len += (size_t)n;
        if (n < 0) assert_true(errno == EAGAIN);
    }
    out[len] = 0;
    close(fd);
}

/* ---- limits ---- */

/* The scheduler takes nothing of task "a"; `step` counts that, `waited` the reports of task "b" that it waits. */
static bool not_from_a(world_t *w, osync__rpc_call_t *call, const send_t *r) {
    if (!strcmp(r->token, "b")) {
        w->waited += !strcmp(w->state, "waiting") && strstr(w->reason, "max_traverses");
        return false;
    }
    w->step += r->count > 0;
    reply(w, call, (answer_t){.code = -1, .msg = "not now", .silent = true});
    return true;
}

/* A table with many rows that are in its snapshot alone; a pack for each row. */
static void use_snapshot(world_t *w) {
    w->tid = 301;
    use_table(w, "case11_seam_overlap", "db/301_0");
    shell(fmt("touch -d 2000-01-01 %s/binlog/00000000.log", w->source)); /* so the next one is the base */
    w->config.max_pack_size = 1;
}

static void b_and_then_a_get_through(world_t *w) {
    RUN_UNTIL(w, w->finished == 1);
    assert_string_equal(w->token, "b");
    assert_complete(w);
    w->script = NULL;
    w->rows.len = w->end.len = w->committed.len = 0;
    RUN_UNTIL(w, w->finished == 2);
    assert_complete(w);
}

static void stalled_traverse_makes_room(void **state) {
    world_t *w = *state;
    use_snapshot(w);
    w->config.max_traverses = 1;
    w->script = not_from_a;
    start_collector(w);
    add_ok(w, (hand_out_t){.token = "a"});
    RUN_UNTIL(w, w->step > 0);
    add_ok(w, (hand_out_t){.token = "b", .pid = 1});
    RUN_UNTIL(w, w->waited > 0);
    assert_int_equal(w->packs, w->step); /* none of b's: one snapshot at a time */
    b_and_then_a_get_through(w);
}

static void stalled_rows_make_room(void **state) {
    world_t *w = *state;
    w->config.max_pack_size = 400;
    w->config.max_bytes_in_flight = 1; /* one pack at a time, of whichever task */
    w->script = not_from_a;
    start_collector(w);
    add_ok(w, (hand_out_t){.token = "a"});
    RUN_UNTIL(w, w->step > 0);
    add_ok(w, (hand_out_t){.token = "b", .pid = 1});
    b_and_then_a_get_through(w);
}

static bool nothing(world_t *w, osync__rpc_call_t *call, const send_t *r) {
    w->step += r->count > 0;
    reply(w, call, (answer_t){.code = -1, .msg = "not now"});
    return true;
}

static unsigned long long number_in(const char *text, const char *name) {
    const char *at = strstr(text, fmt("\"%s\": ", name));
    assert_non_null(at);
    return strtoull(strchr(at, ':') + 1, NULL, 10);
}

static void bytes_in_flight_are_limited(void **state) {
    enum { PARTITIONS = 6, PACK = 256, LIMIT = 4 * PACK }; /* PACK: the buffer of one row */
    world_t *w = *state;
    char text[16384];
    use_snapshot(w);
    w->config.max_bytes_in_flight = LIMIT;
    w->config.heartbeat_ms = 5000; /* nobody makes room meanwhile */
    w->script = nothing;
    start_collector(w);
    for (uint32_t pid = 0; pid < PARTITIONS; pid++) add_ok(w, (hand_out_t){.token = fmt("%u", pid), .pid = pid});
    RUN_UNTIL(w, w->step >= 3);
    run_for(w, 200);
    get(w, "/status?format=json", text, sizeof text);
    /* All of them would hold 12. A worker may be told only afterwards that a row is larger than it was let read. */
    assert_in_range(number_in(text, "bytes_in_flight"), LIMIT - PACK, LIMIT + 4 * PACK);
    assert_int_equal(number_in(text, "max_bytes_in_flight"), LIMIT);
    assert_int_equal(number_in(text, "traverses"), PARTITIONS);
}

static void large_row_has_the_budget_to_itself(void **state) {
    world_t *w = *state;
    w->tid = 1;
    use_table(w, "case1_simple", "db/1_0"); /* rows of up to 130,000 bytes */
    w->config.max_pack_size = 4096;
    w->config.max_bytes_in_flight = 4096;
    start_collector(w);
    add_ok(w, (hand_out_t){0});
    RUN_UNTIL(w, w->finished);
    assert_complete(w);
}

static void reading_keeps_its_rate(void **state) {
    world_t *w = *state;
    w->config.max_pack_size = 400;
    size_t len = expected_len(w);
    w->config.max_read_rate = len;
    start_collector(w);
    add_ok(w, (hand_out_t){0});
    uint64_t start = osync__mono_ms();
    RUN_UNTIL(w, w->finished);
    assert_in_range(osync__mono_ms() - start, 500, LONG_MS); /* at least the rows themselves: 1,000, less the credit */
    assert_complete(w);
}

static void who_waits_for_its_turn_can_end(void **state) {
    world_t *w = *state;
    use_snapshot(w);
    w->config.max_traverses = 1;
    w->config.max_read_rate = 1; /* one job, and then for ever */
    w->config.heartbeat_ms = 5000;
    w->script = not_from_a;
    start_collector(w);
    add_ok(w, (hand_out_t){.token = "a"});
    add_ok(w, (hand_out_t){.token = "b", .pid = 1});
    RUN_UNTIL(w, w->waited > 0);
    add_ok(w, (hand_out_t){.token = "c", .pid = 1}); /* takes the place of b */
    stop_collector(w);
}

static void status_page(void **state) {
    world_t *w = *state;
    char text[8192];
    start_collector(w);
    add_ok(w, (hand_out_t){.mode = 2});
    run_until_complete(w);
    RUN_UNTIL(w, !strcmp(w->state, "following"));
    get(w, "/status", text, sizeof text);
    assert_non_null(strstr(text, "200 OK"));
    assert_non_null(strstr(text, "text/plain"));
    assert_non_null(strstr(text, "[3-0]"));
    assert_non_null(strstr(text, "state: following"));
    assert_non_null(strstr(text, "version: "));
    get(w, "/status?format=json", text, sizeof text);
    assert_non_null(strstr(text, "application/json"));
    assert_non_null(strstr(text, "\"state\": \"following\""));
    assert_non_null(strstr(text, "\"linked_files\": "));
}

static void bad_configuration(void **state) {
    world_t *w = *state;
    osync_error_t err = {0};
    osync_collector_t *c = NULL;
    w->config.max_pack_size = w->config.max_body_size + 1;
    assert_int_equal(osync_collector_new(&c, &w->loop, &w->config, &err), OSYNC_ECONFIG);
    w->config.max_pack_size = 1;
    w->config.endpoint = "nowhere";
    assert_int_equal(osync_collector_new(&c, &w->loop, &w->config, &err), 0);
    assert_int_equal(osync_collector_start(c, &err), OSYNC_ECONFIG);
    assert_non_null(strstr(err.message, "nowhere"));
    w->collector = c;
}

static bool hold_all(world_t *w, osync__rpc_call_t *call, const send_t *r) {
    (void)r;
    if (w->held) return false;
    w->held = call;
    return true;
}

/* Closing in the middle of everything, at many moments: nothing is used after it was freed (the sanitizers watch), and
 * the loop ends. */
static void closing_at_any_moment(void **state) {
    world_t *w = *state;
    w->config.max_pack_size = 200;
    for (int i = 0; i < 40; i++) {
        w->script = i % 3 == 0 ? hold_all : NULL;
        w->hold_status = i % 5 == 4;
        w->end.len = 0;
        start_collector(w);
        send_add(w, (hand_out_t){.token = fmt("t%d", i), .mode = 2});
        for (int k = 0; k < i * 3; k++) uv_run(&w->loop, UV_RUN_NOWAIT);
        if (i % 4 == 1) send_add(w, (hand_out_t){.token = fmt("u%d", i), .mode = 2});
        for (int k = 0; k < i; k++) uv_run(&w->loop, UV_RUN_ONCE);
        stop_collector(w);
        if (w->held) reply(w, w->held, (answer_t){.delete_task = true});
        if (w->held_status) answer_status(w, w->held_status);
        w->held = w->held_status = NULL;
        w->end.len = 0;
        if (i % 2) osync__rmtree(folder(w), NULL);
    }
}

/* ---- direct writing ---- */

/* The rows as CSV. */
static void add_csv(world_t *w, const uint8_t *rows, size_t len, osync__buf_t *out) {
    osync_table_t *table = NULL;
    osync_csv_t *csv = NULL;
    osync_csv_config_t config;
    osync_error_t err = {0};
    osync__buf_t meta = {0};
    assert_int_equal(osync__buf_reserve(&meta, openmldb__api__table_meta__get_packed_size(w->meta)), 0);
    meta.len = openmldb__api__table_meta__pack(w->meta, meta.data);
    assert_int_equal(osync_table_from_meta(&table, meta.data, meta.len, &err), 0);
    osync_csv_config_init(&config, sizeof config);
    config.timezone = "UTC";
    assert_int_equal(osync_csv_new(&csv, table, &config, &err), 0);
    for (size_t at = 0, size; at < len; at += size) {
        size = osync__get_u32le(rows + at + 2);
        if (osync_csv_add(csv, rows + at, size, &err)) fail_msg("%s", err.message);
    }
    size_t text_len;
    const char *text = osync_csv_data(csv, &text_len);
    assert_int_equal(osync__buf_append(out, text, text_len), 0);
    osync_csv_free(csv);
    osync_table_free(table);
    osync__buf_free(&meta);
}

/* w->rows, as CSV, against what must come out. */
static bool all_csv(world_t *w) {
    osync__buf_t rows = {0}, csv = {0};
    expect_rows(w, &rows, 0);
    add_csv(w, rows.data, rows.len, &csv);
    bool all = w->rows.len >= csv.len;
    if (all) {
        assert_int_equal(w->rows.len, csv.len);
        assert_memory_equal(w->rows.data, csv.data, csv.len);
    }
    osync__buf_free(&rows);
    osync__buf_free(&csv);
    return all;
}

/* A new folder; the one before is fenced. */
static void new_incarnation(world_t *w) {
    if (w->incarnation[0])
        assert_int_equal(rename(fmt("%s/%s", w->top, w->incarnation), fmt("%s/%s.fenced", w->top, w->incarnation)), 0);
    (void)snprintf(w->incarnation, sizeof w->incarnation, "%032d", ++w->incarnations);
    assert_int_equal(mkdir(fmt("%s/%s", w->top, w->incarnation), 0700), 0);
}

static size_t staged_now(const world_t *w) {
    char line[32] = "";
    FILE *f = popen(fmt("ls %s/%s | wc -l", w->top, w->incarnation), "r");
    assert_non_null(f);
    assert_non_null(fgets(line, sizeof line, f));
    pclose(f);
    return (size_t)atoi(line);
}

/* The file of the report becomes a committed one. */
static void adopt(world_t *w, const send_t *r) {
    osync__buf_t content = {0}, start = {0};
    const char *path = fmt("%s/%s/%s", w->top, r->staged->incarnation, r->staged->attempt);
    assert_int_equal(strlen(r->staged->attempt), 32);
    assert_int_equal(osync__read_file(path, 1 << 24, &content, NULL), 0);
    assert_int_equal(content.len, r->staged->bytes);
    uint64_t lines = 0;
    for (size_t i = 0; i < content.len; i++) lines += content.data[i] == '\n';
    assert_int_equal(lines, r->count);
    assert_int_equal(osync__buf_append(&w->rows, content.data, content.len), 0);
    assert_int_equal(rename(path, fmt("%s/part-%d", w->top, ++w->adopted)), 0);
    pack_point(&start, r->start_point);
    copy(&w->last_start, &start);
    pack_point(&w->end, r->next_point);
    commit(w);
    if (r->finished) w->finished++;
    osync__buf_free(&content);
    osync__buf_free(&start);
}

/* As our scheduler does it; `w->withheld`: nothing is granted. */
static bool direct(world_t *w, osync__rpc_call_t *call, const send_t *r) {
    osync__buf_t start = {0}, next = {0};
    char target[] = "file://", zone[] = "UTC";
    Openmldb__Datasync__StageGrant g = OPENMLDB__DATASYNC__STAGE_GRANT__INIT;
    size_t len;
    const uint8_t *rows = osync__rpc_attachment(call, &len);
    pack_point(&start, r->start_point);
    pack_point(&next, r->next_point);
    if (!w->incarnation[0]) new_incarnation(w);
    char *dir = strdup(fmt("%s/%s", w->top, w->incarnation));
    g.incarnation = w->incarnation;
    g.folder = dir;
    g.target = target;
    g.csv_timezone = zone;
    g.has_roll_bytes = g.has_roll_interval_ms = 1;
    g.roll_bytes = w->roll_bytes;
    g.roll_interval_ms = w->roll_ms;
    bool repeat = r->count > 0 && same(&start, &w->last_start) && same(&next, &w->end);
    answer_t a = {.stage = r->report->stager && !w->withheld ? &g : NULL};
    if (r->report->stager) {
        assert_int_equal(strlen(r->report->stager), 32);
        (void)snprintf(w->stager, sizeof w->stager, "%s", r->report->stager);
    }
    if (r->staged) {
        assert_int_equal(len, 0);
        assert_non_null(r->report->stager);
        w->reports++;
    }
    if (w->end.len > 0 && !repeat && !same(&start, &w->end)) {
        w->resumes++;
        a = (answer_t){.code = -1, .msg = "go on elsewhere", .resume = &w->end, .stage = a.stage};
    } else if (!repeat && r->staged && strcmp(r->staged->incarnation, w->incarnation)) {
        a = (answer_t){.code = -1, .msg = "it is fenced", .resume = &w->end, .stage = a.stage};
    } else if (!repeat && r->staged) {
        adopt(w, r);
    } else if (!repeat) {
        w->attached += len;
        add_csv(w, rows, len, &w->rows);
        copy(&w->last_start, &start);
        copy(&w->end, &next);
        commit(w);
        w->finished += r->finished;
    }
    bool lost = w->lose && r->staged && w->reports % 2;
    if (lost)
        osync__rpc_fail(call, OSYNC__BRPC_EINTERNAL, "the answer is lost");
    else
        reply(w, call, a);
    free(dir);
    osync__buf_free(&start);
    osync__buf_free(&next);
    return true;
}

static void start_direct(world_t *w) {
    w->script = direct;
    w->config.max_pack_size = 400;
    w->config.heartbeat_ms = 50;
    w->roll_bytes = 1000;
    w->roll_ms = NEVER_MS;
    start_collector(w);
}

/* Rows come in files alone, each reported once. */
static void direct_writing(void **state) {
    world_t *w = *state;
    start_direct(w);
    add_ok(w, (hand_out_t){.direct = true});
    RUN_UNTIL(w, w->finished && !exists(folder(w)));
    assert_true(all_csv(w));
    assert_int_equal(w->attached, 0);
    assert_int_equal(w->reports, w->adopted);
    assert_true(w->adopted > 3);
    assert_int_equal(staged_now(w), 0);
}

static void direct_writing_needs_both_sides(void **state) {
    world_t *w = *state;
    start_direct(w);
    add_ok(w, (hand_out_t){0});
    RUN_UNTIL(w, w->finished && !exists(folder(w)));
    assert_int_equal(w->stager[0], 0);
    stop_collector(w);
    w->rows.len = w->end.len = w->last_start.len = 0;
    w->config.data_path = "proxy";
    start_direct(w);
    add_ok(w, (hand_out_t){.direct = true});
    RUN_UNTIL(w, w->finished == 2);
    assert_int_equal(w->stager[0], 0);
    assert_true(all_csv(w));
    assert_int_equal(w->adopted, 0);
}

/* The same file is reported until there is an answer. */
static void direct_lost_answers(void **state) {
    world_t *w = *state;
    w->lose = true;
    start_direct(w);
    add_ok(w, (hand_out_t){.direct = true});
    RUN_UNTIL(w, w->finished && !exists(folder(w)));
    assert_true(all_csv(w));
    assert_int_equal(w->reports, 2 * w->adopted);
    assert_int_equal(w->resumes, 0);
}

/* Rows are staged, and not reported yet: then the folder is another one, and it is no fault of this collector's. */
static void direct_fenced(void **state) {
    world_t *w = *state;
    start_direct(w);
    w->roll_bytes = 1 << 20;
    w->roll_ms = 300;
    add_ok(w, (hand_out_t){.mode = 2, .direct = true});
    for (int i = 0; i < 3; i++) {
        RUN_UNTIL(w, w->incarnation[0] && staged_now(w) > 0);
        new_incarnation(w);
        run_for(w, (unsigned)i * 100);
    }
    RUN_UNTIL(w, all_csv(w));
    assert_int_equal(w->attached, 0);
    assert_string_equal(w->reason, "");
    assert_int_equal(staged_now(w), 0);
}

/* A report comes too late: what it tells of is fenced, and its rows are read again. */
static bool fence_reports(world_t *w, osync__rpc_call_t *call, const send_t *r) {
    if (r->staged && w->step++ % 2 == 0) {
        if (w->end.len == 0) pack_point(&w->end, r->start_point);
        new_incarnation(w);
    }
    return direct(w, call, r);
}

static void direct_report_is_void(void **state) {
    world_t *w = *state;
    start_direct(w);
    w->script = fence_reports;
    add_ok(w, (hand_out_t){.direct = true});
    RUN_UNTIL(w, w->finished && !exists(folder(w)));
    assert_true(all_csv(w));
    assert_int_equal(w->attached, 0);
    assert_true(w->step > w->adopted);
}

/* What isn't granted any more is removed, as nobody was told of it, and its rows go in attachments. */
static void direct_grant_ends(void **state) {
    world_t *w = *state;
    start_direct(w);
    w->roll_bytes = 1 << 20;
    add_ok(w, (hand_out_t){.mode = 2, .direct = true});
    RUN_UNTIL(w, w->incarnation[0] && staged_now(w) > 0);
    w->withheld = true;
    RUN_UNTIL(w, all_csv(w));
    assert_true(w->attached > 0);
    assert_int_equal(w->adopted, 0);
    RUN_UNTIL(w, staged_now(w) == 0);
}

/* It can't write: after some tries its rows go in attachments, and it says why. */
static void direct_writing_fails(void **state) {
    world_t *w = *state;
    start_direct(w);
    new_incarnation(w);
    assert_int_equal(rmdir(fmt("%s/%s", w->top, w->incarnation)), 0);
    shell(fmt(": > %s/%s", w->top, w->incarnation));
    add_ok(w, (hand_out_t){.mode = 2, .direct = true});
    RUN_UNTIL(w, all_csv(w));
    assert_true(w->attached > 0);
    RUN_UNTIL(w, strstr(w->reason, "this collector can't write to file://: "));
    assert_non_null(strstr(w->reason, "; its rows go by way of the scheduler"));
}

/* Rows before an error are delivered first. */
static void direct_rows_before_an_error(void **state) {
    world_t *w = *state;
    size_t lengths[2];
    w->tid = 1;
    use_table(w, "case1_simple", "db/1_0");
    w->config.max_body_size = 100000;
    for (int proxy = 0; proxy < 2; proxy++) {
        start_direct(w);
        w->roll_bytes = 1 << 20;
        add_ok(w, (hand_out_t){.direct = !proxy});
        RUN_UNTIL(w, w->failed);
        assert_int_equal(w->attached > 0, proxy);
        lengths[proxy] = w->rows.len;
        stop_collector(w);
        osync__rmtree(folder(w), NULL);
        w->failed = false;
        w->rows.len = w->end.len = w->last_start.len = w->committed.len = 0;
    }
    assert_true(lengths[0] > 0);
    assert_int_equal(lengths[0], lengths[1]);
}

/* No two starts of a collector write in one folder. */
static void direct_stager_is_new_with_each_start(void **state) {
    world_t *w = *state;
    char before[sizeof w->stager];
    start_direct(w);
    w->roll_bytes = 1 << 20;
    add_ok(w, (hand_out_t){.mode = 2, .direct = true});
    RUN_UNTIL(w, w->incarnation[0] && staged_now(w) > 0);
    memcpy(before, w->stager, sizeof before);
    stop_collector(w);
    new_incarnation(w);
    start_direct(w);
    w->roll_ms = 100;
    RUN_UNTIL(w, strcmp(w->stager, before) != 0); /* the stored task knows that it may write */
    RUN_UNTIL(w, all_csv(w));
    assert_int_equal(w->attached, 0);
}

static void direct_closing_at_any_moment(void **state) {
    world_t *w = *state;
    for (int i = 0; i < 40; i++) {
        start_direct(w);
        w->lose = i % 3 == 0;
        w->withheld = i % 7 == 6;
        send_add(w, (hand_out_t){.token = fmt("t%d", i), .mode = 2, .direct = true});
        for (int k = 0; k < i * 6; k++) uv_run(&w->loop, UV_RUN_NOWAIT);
        if (i % 4 == 1) send_add(w, (hand_out_t){.token = fmt("u%d", i), .mode = 2, .direct = true});
        for (int k = 0; k < 2 * i; k++) uv_run(&w->loop, UV_RUN_ONCE);
        if (i % 5 == 4) new_incarnation(w);
        for (int k = 0; k < i; k++) uv_run(&w->loop, UV_RUN_ONCE);
        stop_collector(w);
        w->rows.len = w->end.len = w->last_start.len = w->committed.len = 0;
        osync__rmtree(folder(w), NULL);
    }
}

#define T(f) cmocka_unit_test_setup_teardown(f, make_world, drop_world)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(full_sync),
        T(small_packs),
        T(test_defect_12_large_row_goes_alone),
        T(row_beyond_max_body_size_is_named),
        T(no_snapshot),
        T(empty_table_finishes),
        T(start_ts_leaves_older_rows_out),
        T(continuous_sync_reports_and_goes_on),
        T(test_defect_8_file_that_fills_later),
        T(heartbeats),
        T(lost_answer_repeats_the_same),
        T(refused_for_now_is_tried_again),
        T(resume_point_rewinds),
        T(delete_task_removes_it),
        T(test_defect_36_outdated_reply),
        T(same_token),
        T(refused_tables),
        T(test_defect_34_schema_is_checked),
        T(newer_schema_is_fetched),
        T(other_file_system_is_refused),
        T(test_defect_37_slow_tablet),
        T(newer_hand_out_replaces_a_waiting_one),
        T(failed_hand_out_keeps_the_old_task),
        T(deleted_while_another_is_set_up),
        T(new_token_goes_on_with_the_old_links),
        T(resumes_after_a_restart),
        T(stored_task_waits_for_its_tablet),
        T(test_defect_17_unreadable_progress),
        T(original_scheduler_commits_by_answering),
        T(folder_of_the_original_that_is_half_linked),
        T(traverse_of_the_original_goes_on),
        T(traverse_of_the_original_needs_its_links),
        T(what_the_answers_say_of_the_scheduler_counts),
        T(release_follows_the_commit),
        T(new_files_are_linked_while_rows_wait),
        T(new_files_are_linked_after_a_failure),
        T(long_replay_holds_up_nobody),
        T(young_snapshot_is_let_alone),
        T(test_defect_28_broken_log_is_reported),
        T(recreated_partition_is_reported),
        T(hold_links_and_releases),
        T(hold_keeps_what_a_diverged_log_needs),
        T(hold_survives_a_restart_and_expires),
        T(unreadable_hold_is_removed),
        T(held_links_serve_a_hand_out),
        T(failed_hand_out_keeps_the_hold),
        T(hold_waits_for_its_tablet),
        T(too_much_pinned_is_given_up),
        T(full_disk_is_ours_only_if_links_pin),
        T(hold_is_given_up_first),
        T(full_disk_is_waited_for),
        T(copied_partition_goes_on_when_handed_out_again),
        T(data_folder_belongs_to_one),
        T(stalled_traverse_makes_room),
        T(stalled_rows_make_room),
        T(bytes_in_flight_are_limited),
        T(large_row_has_the_budget_to_itself),
        T(reading_keeps_its_rate),
        T(who_waits_for_its_turn_can_end),
        T(status_page),
        T(bad_configuration),
        T(closing_at_any_moment),
        T(direct_writing),
        T(direct_writing_needs_both_sides),
        T(direct_lost_answers),
        T(direct_fenced),
        T(direct_report_is_void),
        T(direct_grant_ends),
        T(direct_writing_fails),
        T(direct_rows_before_an_error),
        T(direct_stager_is_new_with_each_start),
        T(direct_closing_at_any_moment),
    };
    if (getenv("OSYNC_TEST_LOG")) osync_log_set(osync_log_stderr, NULL, OSYNC_LOG_DEBUG);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
