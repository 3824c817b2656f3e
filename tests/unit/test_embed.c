/* The collector in a process that has its own loop and its own tables: a scripted table source in the place of the
 * TabletServer, several collectors on one loop, and closing at every moment that an embedder can choose. The scheduler
 * is scripted too. What must come out is what the reader gives. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#include "base/buf.h"
#include "base/sys.h"
#include "data_sync.pb-c.h"
#include "fmt.h"
#include "net/rpc.h"
#include "osync/collector.h"
#include "osync/log.h"
#include "osync/reader.h"
#include "tablet.pb-c.h"

enum { LONG_MS = 20000, COLLECTORS = 2, HELD = 8, QUESTIONS = 16 };

typedef struct world world_t;

/* What the source does with a question. */
typedef enum answer {
    GOOD,
    SILENT,
    REFUSE,
    REFUSE_POSITIVE,
    FAIL, /* with w->fail_code */
    FAIL_POSITIVE,
    FAIL_WITHOUT_TEXT,
    FILES_NULL,
    SIZE_0,
    SNAPSHOT_NULL,
    BINLOG_NULL,
    SNAPSHOT_RELATIVE,
    BINLOG_RELATIVE,
    BINLOG_MISSING,
    BINLOG_FILE,
    PATH_TOO_LONG,
    META_NULL,
    META_EMPTY,
    META_GARBAGE,
    META_OLD, /* doesn't know the newest columns */
} answer_t;

typedef struct question {
    osync_source_files_cb files;
    osync_source_meta_cb meta;
    void *arg;
    uint32_t pid;
    bool canceled;
} question_t;

typedef struct test_source {
    osync_source_t head;
    world_t *w;
    answer_t files, meta;
    int fail_code;
    question_t open[QUESTIONS];
    size_t n_open;
    int asked_files, asked_meta, answered, canceled;
    uint32_t tid;
    char tablet[64]; /* of the newest question */
    /* Closes w->c[0]. */
    bool close_inside, close_before_answer, close_after_answer;
} test_source_t;

/* What the scheduler has of one partition. */
typedef struct stream {
    osync__buf_t rows, end;
    int finished, packs;
    bool failed;
    char reason[1100];
} stream_t;

struct world {
    uv_loop_t loop;
    uv_timer_t tick;
    char top[64], table[128], data[COLLECTORS][128];
    osync__rpc_server_t *scheduler;
    osync__rpc_client_t *client;
    char endpoint[64];
    test_source_t source;
    osync_collector_config_t config;
    osync_collector_t *c[COLLECTORS];
    int open; /* parts that are to close */
    uint32_t tid;
    osync__buf_t meta, old_meta;
    stream_t streams[COLLECTORS]; /* by pid */
    bool hold;                    /* takes packs, but doesn't answer */
    osync__rpc_call_t *held[HELD];
    size_t n_held;
    const char *token;        /* of the next AddSyncTask */
    int calls, answers, code; /* AddSyncTask, HoldLog */
    char msg[1100];
    int after_close; /* what the callback of a close has still to do */
};

/* ---- closing ---- */

static void on_closed(void *arg) {
    ((world_t *)arg)->open--;
}

static void close_collector(world_t *w, int n) {
    osync_collector_t *c = w->c[n];
    if (!c) return;
    w->c[n] = NULL;
    w->open++;
    osync_collector_close(c, on_closed, w);
}

#define RUN_UNTIL(w, condition)                                                                                        \
    do {                                                                                                               \
        uint64_t until_ = osync__mono_ms() + LONG_MS;                                                                  \
        while (!(condition)) {                                                                                         \
            if (osync__mono_ms() > until_)                                                                             \
                fail_msg("waited in vain for %s (answer %d %s, reason %s)", #condition, (w)->code, (w)->msg,           \
                         (w)->streams[0].reason);                                                                      \
            uv_run(&(w)->loop, UV_RUN_ONCE);                                                                           \
        }                                                                                                              \
    } while (0)

static void stop(world_t *w, int n) {
    close_collector(w, n);
    RUN_UNTIL(w, w->open == 0);
}

/* ---- the source ---- */

static int ask(test_source_t *s, const osync_source_partition_t *p, osync_source_files_cb files,
               osync_source_meta_cb meta, void *arg) {
    answer_t a = files ? s->files : s->meta;
    s->asked_files += files != NULL;
    s->asked_meta += meta != NULL;
    s->tid = p->tid;
    (void)snprintf(s->tablet, sizeof s->tablet, "%s", p->tablet);
    if (a == REFUSE) return OSYNC_EAGAIN;
    if (a == REFUSE_POSITIVE) return 7;
    assert_true(s->n_open < QUESTIONS);
    s->open[s->n_open++] = (question_t){.files = files, .meta = meta, .arg = arg, .pid = p->pid};
    if (s->close_inside) close_collector(s->w, 0);
    return 0;
}

static int source_files(osync_source_t *source, const osync_source_partition_t *partition, osync_source_files_cb cb,
                        void *arg) {
    return ask((test_source_t *)source, partition, cb, NULL, arg);
}

static int source_meta(osync_source_t *source, const osync_source_partition_t *partition, osync_source_meta_cb cb,
                       void *arg) {
    return ask((test_source_t *)source, partition, NULL, cb, arg);
}

static void source_cancel(osync_source_t *source, void *arg) {
    test_source_t *s = (test_source_t *)source;
    for (size_t i = 0; i < s->n_open; i++)
        if (s->open[i].arg == arg) {
            assert_false(s->open[i].canceled);
            s->open[i].canceled = true;
        }
    s->canceled++;
}

static const osync_source_ops_t source_ops = {
    .size = sizeof(osync_source_ops_t), .files = source_files, .meta = source_meta, .cancel = source_cancel};
static const osync_source_ops_t patient_ops = {
    .size = sizeof(osync_source_ops_t), .files = source_files, .meta = source_meta};

static void answer_files(test_source_t *s, const question_t *q) {
    char snapshot[160], binlog[160], file[160];
    static char too_long[5000];
    (void)snprintf(snapshot, sizeof snapshot, "%s/snapshot", s->w->table);
    (void)snprintf(binlog, sizeof binlog, "%s/binlog/", s->w->table);
    (void)snprintf(file, sizeof file, "%s/snapshot/MANIFEST", s->w->table);
    memset(too_long, 'x', sizeof too_long - 1);
    too_long[0] = '/';
    osync_source_files_t f = {.size = sizeof f, .snapshot_dir = snapshot, .binlog_dir = binlog};
    if (s->files == SIZE_0) f.size = 0;
    if (s->files == SNAPSHOT_NULL) f.snapshot_dir = NULL;
    if (s->files == BINLOG_NULL) f.binlog_dir = NULL;
    if (s->files == SNAPSHOT_RELATIVE) f.snapshot_dir = "snapshot";
    if (s->files == BINLOG_RELATIVE) f.binlog_dir = "";
    if (s->files == BINLOG_MISSING) f.binlog_dir = "/there/is/none";
    if (s->files == BINLOG_FILE) f.binlog_dir = file;
    if (s->files == PATH_TOO_LONG) f.binlog_dir = too_long;
    q->files(q->arg, 0, s->files == FILES_NULL ? NULL : &f, NULL);
}

static void answer_meta(test_source_t *s, const question_t *q) {
    const osync__buf_t *meta = s->meta == META_OLD ? &s->w->old_meta : &s->w->meta;
    if (s->meta == META_OLD) s->meta = GOOD; /* the next time */
    if (s->meta == META_NULL)
        q->meta(q->arg, 0, NULL, 100, NULL);
    else if (s->meta == META_EMPTY)
        q->meta(q->arg, 0, "", 0, NULL);
    else if (s->meta == META_GARBAGE)
        q->meta(q->arg, 0, "\x0a\xff\xff\xff\xff\xff", 6, NULL);
    else
        q->meta(q->arg, 0, meta->data, meta->len, NULL);
}

/* Answers all that are open, one after the other; new questions may come meanwhile. */
static void answer_questions(test_source_t *s) {
    for (size_t i = 0; i < s->n_open;) {
        question_t q = s->open[i];
        answer_t a = q.files ? s->files : s->meta;
        osync_error_t err = {.code = q.canceled ? OSYNC_ECANCELED : s->fail_code};
        if (a == SILENT && !q.canceled) {
            i++;
            continue;
        }
        s->open[i] = s->open[--s->n_open];
        s->answered++;
        if (s->close_before_answer) close_collector(s->w, 0);
        (void)snprintf(err.message, sizeof err.message, "the source says no");
        int status = q.canceled || a == FAIL ? err.code : a == FAIL_POSITIVE ? 7 : a == FAIL_WITHOUT_TEXT ? -3 : 0;
        const osync_error_t *why = a == FAIL_WITHOUT_TEXT ? NULL : &err;
        if (status && q.files)
            q.files(q.arg, status, NULL, why);
        else if (status)
            q.meta(q.arg, status, NULL, 0, why);
        else if (q.files)
            answer_files(s, &q);
        else
            answer_meta(s, &q);
        if (s->close_after_answer) close_collector(s->w, 0);
    }
}

static void on_tick(uv_timer_t *timer) {
    answer_questions(&((world_t *)timer->data)->source);
}

/* ---- the scheduler ---- */

static void pack_point(osync__buf_t *b, const Openmldb__Datasync__SyncPoint *p) {
    b->len = 0;
    assert_int_equal(osync__buf_reserve(b, openmldb__datasync__sync_point__get_packed_size(p)), 0);
    b->len = openmldb__datasync__sync_point__pack(p, b->data);
}

static void reply(world_t *w, osync__rpc_call_t *call, bool resume) {
    const Openmldb__Datasync__SendDataRequest *q = (const void *)osync__rpc_request(call);
    stream_t *s = &w->streams[q->pid];
    Openmldb__Datasync__SendDataResponse r = OPENMLDB__DATASYNC__SEND_DATA_RESPONSE__INIT;
    Openmldb__Datasync__GeneralResponse g = OPENMLDB__DATASYNC__GENERAL_RESPONSE__INIT;
    r.response = &g;
    g.has_code = 1;
    g.code = resume ? -1 : 0;
    Openmldb__Datasync__SyncPoint *end = openmldb__datasync__sync_point__unpack(NULL, s->end.len, s->end.data);
    r.committed_point = end;
    if (resume) r.resume_point = end;
    osync__rpc_reply(call, &r.base);
    openmldb__datasync__sync_point__free_unpacked(end, NULL);
}

static void on_send(osync__rpc_call_t *call, void *arg) {
    world_t *w = arg;
    const Openmldb__Datasync__SendDataRequest *q = (const void *)osync__rpc_request(call);
    osync__buf_t start = {0};
    size_t len;
    const uint8_t *rows = osync__rpc_attachment(call, &len);
    assert_true(q->tid == w->tid && q->pid < COLLECTORS);
    stream_t *s = &w->streams[q->pid];
    s->failed = q->report->failed;
    (void)snprintf(s->reason, sizeof s->reason, "%s", q->report->reason ? q->report->reason : "");
    pack_point(&start, q->start_point);
    bool elsewhere = s->end.len > 0 && (s->end.len != start.len || memcmp(s->end.data, start.data, start.len));
    osync__buf_free(&start);
    if (!elsewhere) {
        assert_int_equal(osync__buf_append(&s->rows, rows, len), 0);
        pack_point(&s->end, q->next_point);
        s->packs += q->count > 0;
        s->finished += q->finished;
        if (w->hold && (q->count > 0 || q->finished)) {
            assert_true(w->n_held < HELD);
            w->held[w->n_held++] = call;
            return;
        }
    }
    reply(w, call, elsewhere);
}

static void let_go(world_t *w) {
    w->hold = false;
    for (size_t i = 0; i < w->n_held; i++) reply(w, w->held[i], false);
    w->n_held = 0;
}

static const osync__rpc_method_t methods[] = {
    {"openmldb.datasync.SyncTool", "SendData", &openmldb__datasync__send_data_request__descriptor,
     &openmldb__datasync__send_data_response__descriptor, on_send},
};

/* ---- the world ---- */

/* A golden table as the embedder's. */
static void use_table(world_t *w, uint32_t tid, const char *name) {
    const char *golden = getenv("OSYNC_GOLDEN");
    assert_non_null(golden);
    w->tid = tid;
    w->meta.len = w->old_meta.len = 0;
    assert_int_equal(osync__read_file(fmt("%s/%s/table_meta.pb", golden, name), 1 << 20, &w->meta, NULL), 0);
    Openmldb__Api__TableMeta *m = openmldb__api__table_meta__unpack(NULL, w->meta.len, w->meta.data);
    assert_non_null(m);
    Openmldb__Api__TableMeta old = *m;
    old.n_added_column_desc = old.n_schema_versions = 0;
    assert_int_equal(osync__buf_reserve(&w->old_meta, openmldb__api__table_meta__get_packed_size(&old)), 0);
    w->old_meta.len = openmldb__api__table_meta__pack(&old, w->old_meta.data);
    openmldb__api__table_meta__free_unpacked(m, NULL);
    assert_int_equal(system(fmt("rm -rf %s && cp -a %s/%s/db/%u_0 %s", w->table, golden, name, tid, w->table)), 0);
}

static int make_world(void **state) {
    world_t *w = calloc(1, sizeof *w);
    osync_error_t err = {0};
    (void)snprintf(w->top, sizeof w->top, "/tmp/osync-embed-XXXXXX");
    if (!mkdtemp(w->top)) return -1;
    (void)snprintf(w->table, sizeof w->table, "%s/table", w->top);
    for (int n = 0; n < COLLECTORS; n++) (void)snprintf(w->data[n], sizeof w->data[n], "%s/data-%d", w->top, n);
    uv_loop_init(&w->loop);
    uv_timer_init(&w->loop, &w->tick);
    w->tick.data = w;
    uv_timer_start(&w->tick, on_tick, 5, 5);
    w->source = (test_source_t){.head.ops = &source_ops, .w = w};
    osync__rpc_server_config_t server = {.host = "127.0.0.1", .methods = methods, .n_methods = 1, .arg = w};
    if (osync__rpc_server_new(&w->loop, &server, &w->scheduler, &err)) fail_msg("%s", err.message);
    (void)snprintf(w->endpoint, sizeof w->endpoint, "127.0.0.1:%d", osync__rpc_server_port(w->scheduler));
    osync__rpc_client_config_t client = {0};
    assert_int_equal(osync__rpc_client_new(&w->loop, &client, &w->client, &err), 0);
    osync_collector_config_init(&w->config, sizeof w->config);
    w->config.endpoint = "127.0.0.1:0";
    w->config.snapshot_settle_ms = 0;
    w->config.heartbeat_ms = 100;
    w->config.worker_threads = 2;
    w->config.max_pack_size = 400;
    w->config.source = &w->source.head;
    w->token = "token";
    use_table(w, 3, "case3_snapshot_binlog_rolled");
    *state = w;
    return 0;
}

static void on_handle_closed(uv_handle_t *h) {
    on_closed(h->data);
}

static int drop_world(void **state) {
    world_t *w = *state;
    w->source.close_inside = false;
    for (int n = 0; n < COLLECTORS; n++) close_collector(w, n);
    RUN_UNTIL(w, w->open == 0);
    assert_int_equal(w->source.n_open, 0);
    let_go(w);
    w->open = 3;
    osync__rpc_server_close(w->scheduler, on_closed, w);
    osync__rpc_client_close(w->client, on_closed, w);
    uv_close((uv_handle_t *)&w->tick, on_handle_closed);
    uv_run(&w->loop, UV_RUN_DEFAULT); /* ends: nothing of a collector is left on the loop */
    assert_int_equal(w->open, 0);
    assert_int_equal(uv_loop_close(&w->loop), 0);
    for (int n = 0; n < COLLECTORS; n++) {
        osync__buf_free(&w->streams[n].rows);
        osync__buf_free(&w->streams[n].end);
    }
    osync__buf_free(&w->meta);
    osync__buf_free(&w->old_meta);
    osync__rmtree(w->top, NULL);
    free(w);
    return 0;
}

static void make(world_t *w, int n) {
    osync_error_t err = {0};
    w->config.data_dir = w->data[n];
    if (osync_collector_new(&w->c[n], &w->loop, &w->config, &err)) fail_msg("%s", err.message);
}

static void start(world_t *w, int n) {
    osync_error_t err = {0};
    make(w, n);
    if (osync_collector_start(w->c[n], &err)) fail_msg("%s", err.message);
}

static void on_answer(void *arg, int status, const ProtobufCMessage *m, const osync_error_t *err) {
    world_t *w = arg;
    const Openmldb__Datasync__GeneralResponse *r = (const void *)m;
    w->answers++;
    w->code = status ? status : r->code;
    (void)snprintf(w->msg, sizeof w->msg, "%s", status ? err->message : r->msg ? r->msg : "");
}

static void on_hold_answer(void *arg, int status, const ProtobufCMessage *m, const osync_error_t *err) {
    const Openmldb__Datasync__HoldLogResponse *r = (const void *)m;
    on_answer(arg, status, status ? NULL : &r->response->base, err);
}

static void call(world_t *w, int n, const char *method, const ProtobufCMessage *request,
                 const ProtobufCMessageDescriptor *response, osync__rpc_cb cb) {
    osync_error_t err = {0};
    uv_update_time(&w->loop); /* what the test did before took its time, which is no time-out's */
    int rc =
        osync__rpc_call(w->client, fmt("127.0.0.1:%d", osync_collector_port(w->c[n])),
                        "openmldb.datasync.DataCollector", method, request, NULL, 0, response, 0, cb, w, NULL, &err);
    if (rc) fail_msg("%s", err.message);
    w->calls++;
}

/* AddSyncTask to collector n, for the partition of that number; the answer comes later. */
static void send_add(world_t *w, int n, Openmldb__Datasync__SyncMode mode) {
    char token[16], dest[] = "/dest", tablet[] = "10.1.2.3:9527";
    Openmldb__Datasync__AddSyncTaskRequest r = OPENMLDB__DATASYNC__ADD_SYNC_TASK_REQUEST__INIT;
    Openmldb__Datasync__SyncPoint beginning = OPENMLDB__DATASYNC__SYNC_POINT__INIT;
    (void)snprintf(token, sizeof token, "%s", w->token);
    r.has_tid = r.has_pid = r.has_mode = r.has_osync = r.osync = 1;
    r.tid = w->tid;
    r.pid = (uint32_t)n;
    r.mode = mode;
    r.sync_point = &beginning;
    r.tablet_endpoint = tablet;
    r.des_endpoint = w->endpoint;
    r.token = token;
    r.dest = dest;
    call(w, n, "AddSyncTask", &r.base, &openmldb__datasync__general_response__descriptor, on_answer);
}

static void send_hold(world_t *w, int n) {
    char task[] = "task", tablet[] = "";
    Openmldb__Datasync__HoldLogRequest r = OPENMLDB__DATASYNC__HOLD_LOG_REQUEST__INIT;
    r.has_tid = r.has_pid = 1;
    r.tid = w->tid;
    r.pid = (uint32_t)n;
    r.task_id = task;
    r.tablet_endpoint = tablet;
    call(w, n, "HoldLog", &r.base, &openmldb__datasync__hold_log_response__descriptor, on_hold_answer);
}

static void add(world_t *w, int n, Openmldb__Datasync__SyncMode mode) {
    send_add(w, n, mode);
    RUN_UNTIL(w, w->answers == w->calls);
}

static void add_ok(world_t *w, int n, Openmldb__Datasync__SyncMode mode) {
    add(w, n, mode);
    if (w->code) fail_msg("AddSyncTask: %s", w->msg);
}

#define FULL       OPENMLDB__DATASYNC__SYNC_MODE__kFull
#define CONTINUOUS OPENMLDB__DATASYNC__SYNC_MODE__kFullAndContinuous

/* Each row once, in the reader's order. */
static void assert_complete(world_t *w, int n) {
    osync_table_t *table = NULL;
    osync_reader_t *reader = NULL;
    osync_reader_row_t row;
    osync_reader_config_t c;
    osync_error_t err = {0};
    osync__buf_t rows = {0};
    char binlog[160], snapshot[300], scratch[160], name[64] = "", line[256];
    (void)snprintf(binlog, sizeof binlog, "%s/binlog", w->table);
    (void)snprintf(scratch, sizeof scratch, "%s/scratch", w->top);
    FILE *f = fopen(fmt("%s/snapshot/MANIFEST", w->table), "r");
    while (f && fgets(line, sizeof line, f)) (void)sscanf(line, "name: \"%63[0-9]", name);
    if (f) fclose(f);
    (void)snprintf(snapshot, sizeof snapshot, "%s/snapshot/%s", w->table, name);
    osync_reader_config_init(&c, sizeof c);
    c.binlog_dir = binlog;
    c.scratch_dir = scratch;
    c.snapshot_dir = name[0] ? snapshot : NULL;
    c.snapshot_name = name;
    if (osync_table_from_meta(&table, w->meta.data, w->meta.len, &err)) fail_msg("%s", err.message);
    if (osync_reader_open(&reader, table, &c, &err)) fail_msg("%s", err.message);
    int rc;
    while ((rc = osync_reader_next(reader, &row, &err)) == 0)
        assert_int_equal(osync__buf_append(&rows, row.value, row.value_len), 0);
    if (rc != OSYNC_EOF) fail_msg("%s", err.message);
    osync_reader_close(reader);
    osync_table_free(table);
    assert_true(rows.len > 0);
    assert_int_equal(w->streams[n].rows.len, rows.len);
    assert_memory_equal(w->streams[n].rows.data, rows.data, rows.len);
    osync__buf_free(&rows);
}

static void forget(world_t *w) {
    for (int n = 0; n < COLLECTORS; n++) {
        w->streams[n].rows.len = w->streams[n].end.len = 0;
        w->streams[n].finished = w->streams[n].packs = 0;
    }
}

static bool exists(const char *path) {
    return access(path, F_OK) == 0;
}

/* ---- the table source ---- */

static void rows_come_from_the_source(void **state) {
    world_t *w = *state;
    start(w, 0);
    add_ok(w, 0, FULL);
    RUN_UNTIL(w, w->streams[0].finished);
    assert_complete(w, 0);
    assert_int_equal(w->source.tid, 3);
    assert_string_equal(w->source.tablet, "10.1.2.3:9527");
    assert_int_equal(w->source.asked_files, 1);
    assert_int_equal(w->source.asked_meta, 1);
}

static void newer_schema_is_asked_for(void **state) {
    world_t *w = *state;
    use_table(w, 9, "case9_added_columns");
    w->source.meta = META_OLD;
    start(w, 0);
    add_ok(w, 0, FULL);
    RUN_UNTIL(w, w->streams[0].finished);
    assert_complete(w, 0);
    assert_int_equal(w->source.asked_meta, 2);
    assert_int_equal(w->source.asked_files, 1);
}

static void answers_that_cannot_be_used(void **state) {
    world_t *w = *state;
    static const struct {
        answer_t files, meta;
        const char *says;
    } cases[] = {
        {REFUSE, GOOD, "can't be asked where the files are"},
        {REFUSE_POSITIVE, GOOD, "can't be asked where the files are"},
        {GOOD, REFUSE, "can't be asked what the rows look like"},
        {FAIL, GOOD, "the source says no"},
        {GOOD, FAIL, "the source says no"},
        {FAIL_POSITIVE, GOOD, "failed with 7"},
        {FAIL_WITHOUT_TEXT, GOOD, "input/output error"},
        {GOOD, FAIL_WITHOUT_TEXT, "input/output error"},
        {FILES_NULL, GOOD, "files NULL"},
        {SIZE_0, GOOD, "wrong size"},
        {SNAPSHOT_NULL, GOOD, "snapshot_dir '(NULL)', which isn't an absolute path"},
        {BINLOG_NULL, GOOD, "binlog_dir '(NULL)', which isn't an absolute path"},
        {SNAPSHOT_RELATIVE, GOOD, "snapshot_dir 'snapshot', which isn't an absolute path"},
        {BINLOG_RELATIVE, GOOD, "binlog_dir '', which isn't an absolute path"},
        {BINLOG_MISSING, GOOD, "/there/is/none: No such file or directory"},
        {BINLOG_FILE, GOOD, "MANIFEST: Not a directory"},
        {PATH_TOO_LONG, GOOD, "a binlog_dir of 4999 bytes"},
        {GOOD, META_NULL, "without a table's description"},
        {GOOD, META_EMPTY, "without a table's description"},
        {GOOD, META_GARBAGE, "description (TableMeta) can't be used"},
    };
    w->source.fail_code = OSYNC_ENOENT;
    start(w, 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        w->source.files = cases[i].files;
        w->source.meta = cases[i].meta;
        add(w, 0, FULL);
        assert_int_equal(w->code, -1);
        if (!strstr(w->msg, cases[i].says)) fail_msg("case %zu: %s", i, w->msg);
        assert_false(exists(fmt("%s/3-0", w->data[0])));
    }
    w->source.files = w->source.meta = GOOD;
    add_ok(w, 0, FULL);
    RUN_UNTIL(w, w->streams[0].finished);
    assert_complete(w, 0);
}

/* Of a stored task: what waiting can mend is asked again, anything else makes it FAILED. */
static void stored_task_and_a_source_that_fails(void **state) {
    world_t *w = *state;
    w->hold = true;
    start(w, 0);
    add_ok(w, 0, CONTINUOUS);
    RUN_UNTIL(w, w->n_held == 1);
    stop(w, 0);
    let_go(w);
    w->source.files = FAIL;
    w->source.fail_code = OSYNC_EAGAIN;
    start(w, 0);
    RUN_UNTIL(w, strstr(w->streams[0].reason, "the source says no"));
    assert_false(w->streams[0].failed);
    int asked = w->source.asked_files;
    RUN_UNTIL(w, w->source.asked_files > asked);
    w->source.fail_code = OSYNC_ENOENT;
    RUN_UNTIL(w, w->streams[0].failed);
    assert_non_null(strstr(w->streams[0].reason, "the source says no"));
    w->source.files = GOOD;
    stop(w, 0);
    start(w, 0);
    RUN_UNTIL(w, !w->streams[0].failed && w->streams[0].reason[0] == 0 && w->streams[0].packs > 3);
}

static void hold_asks_the_source(void **state) {
    world_t *w = *state;
    start(w, 0);
    send_hold(w, 0);
    RUN_UNTIL(w, w->answers == w->calls);
    if (w->code) fail_msg("%s", w->msg);
    assert_int_equal(w->source.asked_meta, 0);
    assert_true(exists(fmt("%s/3-0/binlog", w->data[0])));
    assert_false(exists(fmt("%s/3-0/snapshot", w->data[0])));
    w->source.files = FAIL;
    w->source.fail_code = OSYNC_ENOENT;
    send_hold(w, 0);
    RUN_UNTIL(w, w->answers == w->calls);
    assert_int_equal(w->code, -1);
    assert_string_equal(w->msg, "the source says no");
    w->source.files = REFUSE;
    send_hold(w, 0);
    RUN_UNTIL(w, w->answers == w->calls);
    assert_int_equal(w->code, -1);
    w->source.files = GOOD;
    send_hold(w, 0);
    RUN_UNTIL(w, w->answers == w->calls);
    assert_int_equal(w->code, 0);
}

static void bad_sources_are_refused(void **state) {
    world_t *w = *state;
    osync_error_t err = {0};
    osync_source_t source = {0};
    osync_source_ops_t ops = {0};
    w->config.source = &source;
    w->config.data_dir = w->data[0];
    assert_int_equal(osync_collector_new(&w->c[0], &w->loop, &w->config, &err), OSYNC_ECONFIG);
    source.ops = &ops;
    assert_int_equal(osync_collector_new(&w->c[0], &w->loop, &w->config, &err), OSYNC_ECONFIG);
    assert_non_null(strstr(err.message, "size"));
    ops.size = sizeof ops;
    ops.files = source_files;
    assert_int_equal(osync_collector_new(&w->c[0], &w->loop, &w->config, &err), OSYNC_ECONFIG);
    assert_non_null(strstr(err.message, "meta"));
    assert_null(w->c[0]);
}

/* ---- several on one loop ---- */

static void two_collectors_on_one_loop(void **state) {
    world_t *w = *state;
    start(w, 0);
    start(w, 1);
    assert_true(osync_collector_port(w->c[0]) != osync_collector_port(w->c[1]));
    send_add(w, 0, FULL);
    send_add(w, 1, FULL);
    RUN_UNTIL(w, w->streams[0].finished && w->streams[1].finished);
    assert_int_equal(w->answers, 2);
    assert_complete(w, 0);
    assert_complete(w, 1);
}

/* One is closed in the middle of its packs; the other doesn't notice. */
static void closing_one_of_two(void **state) {
    world_t *w = *state;
    w->hold = true;
    start(w, 0);
    start(w, 1);
    send_add(w, 0, CONTINUOUS);
    send_add(w, 1, FULL);
    RUN_UNTIL(w, w->n_held == 2 && w->answers == 2);
    close_collector(w, 0);
    let_go(w);
    RUN_UNTIL(w, w->streams[1].finished);
    assert_complete(w, 1);
    RUN_UNTIL(w, w->open == 0);
    assert_true(exists(fmt("%s/3-0/task.progress", w->data[0])));
}

static void one_data_folder_for_two(void **state) {
    world_t *w = *state;
    osync_error_t err = {0};
    start(w, 0);
    w->config.data_dir = w->data[0];
    assert_int_equal(osync_collector_new(&w->c[1], &w->loop, &w->config, &err), 0);
    assert_int_equal(osync_collector_start(w->c[1], &err), OSYNC_ECONFIG);
    assert_non_null(strstr(err.message, w->data[0]));
    stop(w, 1);
    add_ok(w, 0, FULL);
    RUN_UNTIL(w, w->streams[0].finished);
    assert_complete(w, 0);
}

/* ---- closing ---- */

/* Again and again while a pack is under way, whose rows were taken and whose answer is never read. */
static void closing_with_a_pack_under_way(void **state) {
    world_t *w = *state;
    int rounds = 0;
    for (; !w->streams[0].finished; rounds++) {
        assert_true(rounds < 1000);
        w->hold = true;
        start(w, 0);
        if (rounds == 0) add_ok(w, 0, FULL);
        RUN_UNTIL(w, w->n_held > 0);
        stop(w, 0);
        let_go(w);
    }
    assert_true(rounds > 5);
    assert_complete(w, 0);
}

static void restart_in_callback(void *arg) {
    world_t *w = arg;
    w->open--;
    if (w->after_close-- > 0) start(w, 0); /* its folder and its port are free */
}

static void starting_again_in_the_callback_of_close(void **state) {
    world_t *w = *state;
    w->hold = true;
    start(w, 0);
    char endpoint[64];
    (void)snprintf(endpoint, sizeof endpoint, "127.0.0.1:%d", osync_collector_port(w->c[0]));
    w->config.endpoint = endpoint;
    add_ok(w, 0, FULL);
    RUN_UNTIL(w, w->n_held > 0);
    w->after_close = 1;
    w->open++;
    osync_collector_t *c = w->c[0];
    w->c[0] = NULL;
    osync_collector_close(c, restart_in_callback, w);
    assert_int_equal(w->open, 1); /* never from inside */
    RUN_UNTIL(w, w->open == 0);
    let_go(w);
    RUN_UNTIL(w, w->streams[0].finished);
    assert_complete(w, 0);
}

static void close_other_in_callback(void *arg) {
    world_t *w = arg;
    w->open--;
    close_collector(w, 1);
}

static void closing_another_in_the_callback_of_close(void **state) {
    world_t *w = *state;
    start(w, 0);
    start(w, 1);
    add_ok(w, 1, CONTINUOUS);
    osync_collector_t *c = w->c[0];
    w->c[0] = NULL;
    w->open++;
    osync_collector_close(c, close_other_in_callback, w);
    RUN_UNTIL(w, w->open == 0);
    assert_null(w->c[1]);
}

static void on_close_timer(uv_timer_t *timer) {
    close_collector(timer->data, 0);
}

/* In the iteration in which it was made, started, given a task, or asked. */
static void closing_by_a_timer(void **state) {
    world_t *w = *state;
    uv_timer_t timer;
    uv_timer_init(&w->loop, &timer);
    timer.data = w;
    for (uint64_t ms = 0; ms < 30; ms++) {
        forget(w);
        start(w, 0);
        send_add(w, 0, CONTINUOUS);
        uv_timer_start(&timer, on_close_timer, ms, 0);
        RUN_UNTIL(w, !w->c[0] && w->open == 0);
        RUN_UNTIL(w, w->answers == w->calls); /* one way or another */
        assert_int_equal(w->source.n_open, 0);
        osync__rmtree(w->data[0], NULL);
    }
    timer.data = w;
    w->open++;
    uv_close((uv_handle_t *)&timer, on_handle_closed);
    RUN_UNTIL(w, w->open == 0);
}

static void closing_without_a_start(void **state) {
    world_t *w = *state;
    make(w, 0);
    close_collector(w, 0);
    assert_int_equal(w->open, 1);
    RUN_UNTIL(w, w->open == 0);
    make(w, 0);
    assert_int_equal(osync_collector_port(w->c[0]), 0);
    uv_run(&w->loop, UV_RUN_NOWAIT);
    stop(w, 0);
    assert_false(exists(w->data[0]));
}

static void closing_after_a_start_that_failed(void **state) {
    world_t *w = *state;
    osync_error_t err = {0};
    w->config.endpoint = w->endpoint; /* the scheduler's */
    make(w, 0);
    assert_int_not_equal(osync_collector_start(w->c[0], &err), 0);
    assert_non_null(strstr(err.message, w->endpoint));
    stop(w, 0);
    w->config.endpoint = "127.0.0.1:0";
    assert_int_equal(symlink("/there/is/none", w->data[1]), 0);
    make(w, 1);
    assert_int_not_equal(osync_collector_start(w->c[1], &err), 0);
    assert_non_null(strstr(err.message, w->data[1]));
    stop(w, 1);
    start(w, 0); /* nothing of them is in its way */
}

static void closing_cancels_questions(void **state) {
    world_t *w = *state;
    w->source.files = SILENT;
    start(w, 0);
    send_add(w, 0, FULL);
    RUN_UNTIL(w, w->source.n_open == 1);
    stop(w, 0);
    assert_int_equal(w->source.canceled, 1);
    RUN_UNTIL(w, w->answers == 1);
    assert_int_equal(w->code, -1);
    w->source.files = GOOD;
    w->source.meta = SILENT;
    start(w, 0);
    send_add(w, 0, FULL);
    RUN_UNTIL(w, w->source.asked_meta == 1);
    stop(w, 0);
    assert_int_equal(w->source.canceled, 2);
    w->source.files = SILENT;
    start(w, 0);
    send_hold(w, 0);
    RUN_UNTIL(w, w->source.n_open == 1);
    stop(w, 0);
    assert_int_equal(w->source.canceled, 3);
}

static void closing_waits_for_a_source_without_cancel(void **state) {
    world_t *w = *state;
    w->source.head.ops = &patient_ops;
    w->source.files = SILENT;
    start(w, 0);
    send_add(w, 0, FULL);
    RUN_UNTIL(w, w->source.n_open == 1);
    close_collector(w, 0);
    for (int i = 0; i < 20; i++) {
        uv_run(&w->loop, UV_RUN_ONCE);
        assert_int_equal(w->open, 1);
    }
    w->source.files = GOOD;
    RUN_UNTIL(w, w->open == 0);
}

static void a_newer_hand_out_cancels_the_question(void **state) {
    world_t *w = *state;
    w->source.files = SILENT;
    start(w, 0);
    send_add(w, 0, FULL);
    RUN_UNTIL(w, w->source.n_open == 1);
    w->token = "newer";
    send_add(w, 0, FULL);
    RUN_UNTIL(w, w->answers == 1);
    assert_int_equal(w->code, -1);
    assert_int_equal(w->source.canceled, 1);
    w->source.files = GOOD;
    RUN_UNTIL(w, w->answers == 2);
    assert_int_equal(w->code, 0);
    RUN_UNTIL(w, w->streams[0].finished);
    assert_complete(w, 0);
}

/* From inside `files`, before its callback, and behind it: of a hand-out, a hold, and what is stored. */
static void closing_from_the_source(void **state) {
    world_t *w = *state;
    for (int how = 0; how < 3; how++)
        for (int what = 0; what < 4; what++) {
            w->source.close_inside = how == 0 && what != 3;
            w->source.close_before_answer = how == 1 && what != 3;
            w->source.close_after_answer = how == 2 && what != 3;
            forget(w);
            start(w, 0);
            if (what == 1) {
                send_hold(w, 0);
                RUN_UNTIL(w, !w->c[0] && w->open == 0);
            } else if (what < 3) {
                w->source.meta = what == 0 ? GOOD : SILENT;
                send_add(w, 0, CONTINUOUS);
                RUN_UNTIL(w, !w->c[0] && w->open == 0);
            } else { /* a stored task asks as soon as the collector starts */
                osync_error_t err = {0};
                w->hold = true;
                add_ok(w, 0, CONTINUOUS);
                RUN_UNTIL(w, w->n_held == 1);
                stop(w, 0);
                let_go(w);
                w->source.close_inside = how == 0;
                w->source.close_before_answer = how == 1;
                w->source.close_after_answer = how == 2;
                make(w, 0);
                int rc = osync_collector_start(w->c[0], &err);
                assert_int_equal(rc, how == 0 ? OSYNC_ECANCELED : 0);
                RUN_UNTIL(w, !w->c[0] && w->open == 0);
            }
            RUN_UNTIL(w, w->answers == w->calls);
            assert_int_equal(w->source.n_open, 0);
            w->source.meta = GOOD;
            osync__rmtree(w->data[0], NULL);
        }
}

/* From inside a call that is then refused: nobody else would go on with the end. */
static int close_and_refuse(osync_source_t *source, const osync_source_partition_t *partition, osync_source_files_cb cb,
                            void *arg) {
    (void)partition;
    (void)cb;
    (void)arg;
    close_collector(((test_source_t *)source)->w, 0);
    return OSYNC_EAGAIN;
}

static void closing_from_a_question_that_is_refused(void **state) {
    world_t *w = *state;
    osync_source_ops_t ops = source_ops;
    ops.files = close_and_refuse;
    w->source.head.ops = &ops;
    start(w, 0);
    send_add(w, 0, FULL);
    RUN_UNTIL(w, !w->c[0] && w->open == 0);
    start(w, 0);
    send_hold(w, 0);
    RUN_UNTIL(w, !w->c[0] && w->open == 0);
    RUN_UNTIL(w, w->answers == w->calls);
}

#define T(f) cmocka_unit_test_setup_teardown(f, make_world, drop_world)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(rows_come_from_the_source),
        T(newer_schema_is_asked_for),
        T(answers_that_cannot_be_used),
        T(stored_task_and_a_source_that_fails),
        T(hold_asks_the_source),
        T(bad_sources_are_refused),
        T(two_collectors_on_one_loop),
        T(closing_one_of_two),
        T(one_data_folder_for_two),
        T(closing_with_a_pack_under_way),
        T(starting_again_in_the_callback_of_close),
        T(closing_another_in_the_callback_of_close),
        T(closing_by_a_timer),
        T(closing_without_a_start),
        T(closing_after_a_start_that_failed),
        T(closing_cancels_questions),
        T(closing_waits_for_a_source_without_cancel),
        T(a_newer_hand_out_cancels_the_question),
        T(closing_from_the_source),
        T(closing_from_a_question_that_is_refused),
    };
    if (getenv("OSYNC_TEST_LOG")) osync_log_set(osync_log_stderr, NULL, OSYNC_LOG_DEBUG);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
