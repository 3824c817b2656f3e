/* The audit of a destination, over a sink in memory whose files can be made wrong in every way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above */
#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "base/error.h"
#include "data_sync.pb-c.h"
#include "delivery/record.h"
#include "scheduler/audit.h"
#include "scheduler/earlier.h"
#include "scheduler/scheduler.pb-c.h"

#define A "aaaaaaaa-0000-4000-8000-000000000001"
#define B "bbbbbbbb-0000-4000-8000-000000000002"
#define C "cccccccc-0000-4000-8000-000000000003"

enum { MAX_FILES = 128 };

/* ---- a sink in memory: what the audit needs of one ---- */

typedef struct mem_file {
    char name[128]; /* empty: not there */
    bool is_dir, has_label;
    osync__label_t label;
    const char *raw_label; /* instead of it */
    char content[256];
    bool vanishes; /* after it was listed */
} mem_file_t;

typedef struct answer {
    void *cb, *arg;
    int kind, status;
    osync_error_t err;
    const mem_file_t *file;
    uint64_t offset;
    size_t len;
    struct answer *next;
} answer_t;

static uv_loop_t loop;
static osync__pool_t *pool;
static uv_idle_t idle;
static answer_t *waiting;
static mem_file_t files[MAX_FILES];
static const char *hidden[4]; /* below _osync */
static unsigned fails;        /* so many calls fail from now on */
static int fails_with;
static unsigned calls;
static size_t chunk; /* what a read gives at most; 0: what it is asked for */
static char *lines;
static osync__audit_result_t result;
static bool ended;

static void give(answer_t *w) {
    const osync_error_t *err = w->status ? &w->err : NULL;
    const char *names[MAX_FILES];
    osync__buf_t label = {0};
    size_t n = 0;
    switch (w->kind) {
    case 'l':
        for (size_t i = 0; i < MAX_FILES; i++)
            if (*files[i].name) names[n++] = files[i].name;
        ((osync_sink_list_cb)w->cb)(w->arg, w->status, w->status ? NULL : names, w->status ? 0 : n, err);
        break;
    case 'o':
        while (hidden[n]) n++;
        ((osync_sink_list_cb)w->cb)(w->arg, w->status, w->status ? NULL : hidden, w->status ? 0 : n, err);
        break;
    case 'a':
        if (!w->status && w->file->raw_label)
            osync__buf_append(&label, w->file->raw_label, strlen(w->file->raw_label));
        else if (!w->status)
            osync__label_pack(&w->file->label, &label);
        ((osync_sink_label_cb)w->cb)(w->arg, w->status, label.data, label.len, err);
        osync__buf_free(&label);
        break;
    case 's': {
        osync_sink_stat_t st = {0};
        if (!w->status) st = (osync_sink_stat_t){.is_dir = w->file->is_dir, .length = strlen(w->file->content)};
        ((osync_sink_stat_cb)w->cb)(w->arg, w->status, w->status ? NULL : &st, err);
        break;
    }
    default: {
        size_t all = w->status ? 0 : strlen(w->file->content);
        n = w->offset < all ? all - (size_t)w->offset : 0;
        if (n > w->len) n = w->len;
        if (chunk && n > chunk) n = chunk;
        ((osync_sink_read_cb)w->cb)(w->arg, w->status, w->status ? NULL : w->file->content + w->offset, n, err);
    }
    }
    free(w);
}

static void on_idle(uv_idle_t *handle) {
    answer_t *w = waiting;
    if (!w) {
        uv_idle_stop(handle);
        return;
    }
    waiting = w->next;
    give(w);
}

static int later(int kind, const char *path, void *cb, void *arg, uint64_t offset, size_t len) {
    answer_t *w = calloc(1, sizeof *w), **last = &waiting;
    const char *name = strrchr(path, '/') + 1;
    *w = (answer_t){.cb = cb, .arg = arg, .kind = kind, .offset = offset, .len = len};
    calls++;
    if (fails) {
        fails--;
        w->status = osync__err(&w->err, fails_with, "the sink is in a bad mood");
    } else if (kind == 'o' && !hidden[0]) {
        w->status = osync__err(&w->err, OSYNC_ENOENT, "no such folder");
    } else if (kind != 'l' && kind != 'o') {
        for (size_t i = 0; i < MAX_FILES; i++)
            if (strcmp(files[i].name, name) == 0 && !files[i].vanishes) w->file = &files[i];
        if (!w->file || (kind == 'a' && !w->file->has_label && !w->file->raw_label))
            w->status = osync__err(&w->err, OSYNC_ENOENT, "%s: none", path);
    }
    while (*last) last = &(*last)->next;
    *last = w;
    uv_idle_start(&idle, on_idle);
    return 0;
}

static int mem_list(osync_sink_t *sink, const char *path, osync_sink_list_cb cb, void *arg) {
    assert_non_null(sink);
    assert_true(strcmp(path, "/d") == 0 || strcmp(path, "/d/_osync") == 0);
    return later(strcmp(path, "/d") == 0 ? 'l' : 'o', path, (void *)cb, arg, 0, 0);
}

static int mem_label(osync_sink_t *sink, const char *path, osync_sink_label_cb cb, void *arg) {
    assert_non_null(sink);
    return later('a', path, (void *)cb, arg, 0, 0);
}

static int mem_stat(osync_sink_t *sink, const char *path, osync_sink_stat_cb cb, void *arg) {
    assert_non_null(sink);
    return later('s', path, (void *)cb, arg, 0, 0);
}

static int mem_read(osync_sink_t *sink, const char *path, uint64_t offset, size_t len, osync_sink_read_cb cb,
                    void *arg) {
    assert_non_null(sink);
    return later('r', path, (void *)cb, arg, offset, len);
}

static const osync_sink_ops_t mem_ops = {
    .size = sizeof mem_ops, .list = mem_list, .get_label = mem_label, .stat = mem_stat, .read = mem_read};
static osync_sink_t mem = {.ops = &mem_ops};

/* ---- what is in it ---- */

static void point(osync__buf_t *out, uint64_t offset, uint64_t term) {
    Openmldb__Datasync__SyncPoint p = OPENMLDB__DATASYNC__SYNC_POINT__INIT;
    uint8_t bytes[64];
    p.type = offset ? OPENMLDB__DATASYNC__SYNC_TYPE__kBINLOG : OPENMLDB__DATASYNC__SYNC_TYPE__kSNAPSHOT;
    p.has_offset = offset != 0;
    p.offset = offset;
    p.has_last_term = term != 0;
    p.last_term = term;
    assert_int_equal(osync__buf_set(out, bytes, openmldb__datasync__sync_point__pack(&p, bytes)), 0);
}

static void task_info(osync__label_t *l, const char *name, uint64_t created_ms) {
    Osync__Scheduler__TaskRecord r = OSYNC__SCHEDULER__TASK_RECORD__INIT;
    uint8_t bytes[256];
    r.task_id = l->task_id;
    r.db = (char *)(uintptr_t) "db";
    r.name = (char *)(uintptr_t)name;
    r.mode = 2;
    r.dest = r.target = (char *)(uintptr_t) "";
    r.has_created_ms = 1;
    r.created_ms = created_ms;
    assert_int_equal(osync__buf_set(&l->task, bytes, osync__scheduler__task_record__pack(&r, bytes)), 0);
}

/* File n of a partition: of n + 1 rows, from point 100*n to 100*n + 100. */
static mem_file_t *put(const char *id, uint32_t pid, uint64_t n) {
    char path[OSYNC__EARLIER_PATH];
    mem_file_t *f = files;
    while (*f->name) f++;
    assert_true(f < files + MAX_FILES - 1);
    osync__earlier_path(path, "", id, pid, n);
    assert_true(strlen(path) < sizeof f->name);
    memcpy(f->name, path + 1, strlen(path));
    for (uint64_t i = 0; i <= n; i++) strcat(f->content, "1,\"a\\\"\\n\",null\n");
    osync__label_t *l = &f->label;
    f->has_label = true;
    (void)snprintf(l->task_id, sizeof l->task_id, "%s", id);
    memset(l->attempt, 'a', OSYNC__ID_SIZE - 1);
    l->pid = pid;
    l->n = n;
    l->rows = n + 1;
    l->bytes = strlen(f->content);
    l->has_totals = true;
    l->total_files = n + 1;
    l->total_rows = (n + 1) * (n + 2) / 2;
    l->total_bytes = l->total_rows * (l->bytes / (n + 1));
    point(&l->start, 100 * n, 1);
    point(&l->end, 100 * n + 100, 1);
    assert_int_equal(osync__buf_set(&l->text, "db.t", 5), 0);
    task_info(l, "t", 1700000000000);
    return f;
}

static void put_some(const char *id, uint32_t pid, uint64_t from, uint64_t until) {
    for (uint64_t n = from; n < until; n++) put(id, pid, n);
}

static void drop(mem_file_t *f) {
    osync__label_free(&f->label);
    *f = (mem_file_t){0};
}

static mem_file_t *get(const char *id, uint32_t pid, uint64_t n) {
    char path[OSYNC__EARLIER_PATH];
    osync__earlier_path(path, "", id, pid, n);
    for (mem_file_t *f = files; f < files + MAX_FILES; f++)
        if (strcmp(f->name, path + 1) == 0) return f;
    return NULL;
}

/* ---- an audit ---- */

static osync__audit_t *audit;

static bool has_task(void *arg, const char *id) {
    assert_null(arg);
    return strcmp(id, A) == 0;
}

static void done(void *arg, const osync__audit_result_t *r) {
    osync__buf_t text = {0};
    assert_null(arg);
    assert_false(ended);
    ended = true;
    result = *r;
    for (size_t i = 0; i < r->n_lines; i++) osync__buf_printf(&text, "%s\n", r->lines[i]);
    osync__buf_append(&text, "", 1);
    free(lines);
    lines = (char *)text.data;
    result.lines = NULL;
}

static void begin(bool quick) {
    osync__audit_config_t config = {.loop = &loop,
                                    .pool = pool,
                                    .sink = &mem,
                                    .dest = "/d",
                                    .db = "db",
                                    .name = "t",
                                    .quick = quick,
                                    .has_task = has_task,
                                    .done = done};
    assert_int_equal(osync__audit_new(&config, &audit), 0);
    ended = false;
}

/* The checkpoint says that the first `next` files of the partition, as put() makes them, are committed. */
static void know(const char *id, uint32_t pid, uint64_t next, uint64_t offset, bool rebuilding) {
    osync__record_t r = {.next = next, .files = next, .rows = next * (next + 1) / 2, .rebuilding = rebuilding};
    osync__buf_t bytes = {0};
    osync_error_t err = {0};
    r.bytes = r.rows * strlen("1,\"a\\\"\\n\",null\n");
    memset(r.incarnation, '1', OSYNC__ID_SIZE - 1);
    memset(r.owner, '2', OSYNC__ID_SIZE - 1);
    point(&r.point, offset, 1);
    assert_int_equal(osync__record_pack(&r, id, pid, &bytes), 0);
    assert_int_equal(osync__audit_know(audit, id, pid, bytes.data, bytes.len, &err), 0);
    osync__buf_free(&bytes);
    osync__record_free(&r);
}

static void run(void) {
    osync__audit_run(audit);
    assert_false(ended);
    while (uv_run(&loop, UV_RUN_DEFAULT)) {
    }
    assert_true(ended);
}

static void audit_all(bool quick) {
    begin(quick);
    run();
    assert_int_equal(result.status, 0);
}

#define SAYS(text)                                                                                                     \
    do {                                                                                                               \
        if (!strstr(lines, text)) fail_msg("not in the report: %s\n%s", text, lines);                                  \
    } while (0)
#define SAYS_NOT(text)                                                                                                 \
    do {                                                                                                               \
        if (strstr(lines, text)) fail_msg("in the report: %s\n%s", text, lines);                                       \
    } while (0)
#define FOUND(missing, bad)                                                                                            \
    do {                                                                                                               \
        if (result.holes != (missing) || result.wrong != (bad)) fail_msg("other than found:\n%s", lines);              \
    } while (0)

static int setup(void **state) {
    (void)state;
    memset(files, 0, sizeof files);
    memset(hidden, 0, sizeof hidden);
    fails = calls = 0;
    chunk = 0;
    lines = NULL;
    if (uv_loop_init(&loop) || uv_idle_init(&loop, &idle) || osync__pool_new(&loop, 1, &pool, NULL)) return -1;
    return 0;
}

static int teardown(void **state) {
    (void)state;
    osync__pool_close(pool, NULL, NULL);
    uv_close((uv_handle_t *)&idle, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    for (size_t i = 0; i < MAX_FILES; i++) drop(&files[i]);
    free(lines);
    return uv_loop_close(&loop);
}

/* ---- the tests ---- */

static void nothing_is_wrong(void **state) {
    (void)state;
    put_some(A, 0, 0, 5);
    put_some(A, 1, 0, 1);
    for (chunk = 0; chunk < 20; chunk = chunk * 4 + 1) { /* a row may be cut anywhere */
        audit_all(false);
        FOUND(0, 0);
        assert_int_equal(result.files, 6);
        assert_int_equal(result.rows, 16);
        assert_int_equal(result.bytes, 16 * 15);
        SAYS("task " A ": mode 2, created 2023-11-14 22:13:20 UTC\n"
             "  partition 0: files 0 to 4; 5 files, 15 rows, 225 bytes: nothing is missing\n"
             "  partition 1: files 0 to 0; 1 files, 1 rows, 15 bytes: nothing is missing\n");
        SAYS("\n6 files, 16 rows, 240 bytes; 0 files are missing, 0 are wrong\n");
        SAYS_NOT("note");
    }
    calls = 0;
    audit_all(true); /* the same without the content */
    FOUND(0, 0);
    assert_int_equal(result.rows, 16);
    assert_int_equal(calls, 2 + 2 * 6);
    SAYS("not read");
}

static void what_a_consumer_took_is_no_hole(void **state) {
    (void)state;
    put_some(A, 0, 3, 5);
    begin(false);
    know(A, 0, 5, 500, false);
    know(A, 1, 7, 700, false); /* all of it was taken */
    know(A, 2, 0, 0, false);   /* there was nothing yet */
    run();
    FOUND(0, 0);
    SAYS("partition 0: files 3 to 4; 3 older ones were removed by a consumer; 2 files, 9 rows");
    SAYS("partition 1: all 7 files, with 28 rows, were removed by a consumer");
    SAYS_NOT("partition 2");
}

static void missing_files_are_named(void **state) {
    (void)state;
    put_some(A, 0, 0, 2);
    put_some(A, 0, 3, 4);
    put_some(A, 0, 6, 8);
    begin(false);
    know(A, 0, 10, 1000, false);
    run();
    FOUND(5, 0);
    SAYS("hole: part-" A "-00000-0000000002.csv is missing, with 3 rows\n");
    SAYS("hole: part-" A "-00000-0000000004.csv to part-" A
         "-00000-0000000005.csv are missing (2 files), with 11 rows\n");
    SAYS("hole: part-" A "-00000-0000000008.csv to part-" A
         "-00000-0000000009.csv are missing (2 files): the checkpoint");
    SAYS("5 files are missing, 0 are wrong");
}

static void a_file_is_what_its_label_says(void **state) {
    (void)state;
    static const struct {
        const char *content, *says;
    } cases[] = {
        {"1,\"a\",null\n", "has 1 rows, and its label says 3"},
        {"1,\"a\",null\n1,\"b\",null\n1,\"c\",nul", "ends in the middle of a row, after 2 rows"},
        {"1,\"a\",null\n1,\"b,null\n1,\"c\",null\n", "what comes after 1 rows is not CSV"},
        {"1,\"a\",null\n\n1,\"c\",null\n", "what comes after 1 rows is not CSV"},
        {"1,\"a\",null\n1,\"\xc3\xa4\",null\n1,\"c\",null\n", "what comes after 1 rows is not CSV"},
        {"", "has 0 bytes, and its label says"},
    };
    put_some(A, 0, 0, 5);
    mem_file_t *f = get(A, 0, 2);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        (void)snprintf(f->content, sizeof f->content, "%s", cases[i].content);
        audit_all(false);
        FOUND(0, 1);
        SAYS(cases[i].says);
        SAYS("wrong: part-" A "-00000-0000000002.csv");
        if (strlen(f->content) == 0 || strlen(f->content) == f->label.bytes) continue;
        audit_all(true); /* its length alone tells as much */
        FOUND(0, 1);
        SAYS("and its label says 45");
    }
    /* as long as it should be, and other rows */
    (void)snprintf(f->content, sizeof f->content, "1,\"a\",null\n1,\"a\",null\n1,\"a\",null\n1,\"a\",null\n1");
    f->content[44] = '\n';
    f->content[45] = 0;
    assert_int_equal(strlen(f->content), f->label.bytes);
    audit_all(false);
    FOUND(0, 1);
    audit_all(true);
    FOUND(0, 0);
}

static void labels_must_fit_each_other(void **state) {
    (void)state;
    put_some(A, 0, 0, 5);
    mem_file_t *f = get(A, 0, 2);
    f->label.n = 3;
    audit_all(false);
    FOUND(0, 1);
    SAYS("wrong: part-" A "-00000-0000000002.csv has the label of part-" A "-00000-0000000003.csv");
    f->label.n = 2;
    f->label.pid = 1;
    audit_all(false);
    FOUND(0, 1);
    f->label.pid = 0;
    (void)snprintf(f->label.task_id, sizeof f->label.task_id, "%s", B);
    audit_all(false);
    FOUND(0, 1);
    SAYS("has the label of part-" B);
    (void)snprintf(f->label.task_id, sizeof f->label.task_id, "%s", A);
    f->label.rows++;
    audit_all(false);
    FOUND(0, 1);
    f->label.rows--;
    f->label.total_rows += 7; /* as if a file had gone and the others were renamed */
    audit_all(false);
    FOUND(0, 2); /* the one after it doesn't fit either */
    SAYS("has 13 rows, 90 bytes and 3 files by its label, and by the files before it 6, 90 and 3");
    f->label.total_rows -= 7;
    point(&f->label.start, 150, 1);
    audit_all(false);
    FOUND(0, 1);
    SAYS("begins before the end of the file before it");
    point(&f->label.start, 250, 1); /* rows were left out */
    audit_all(false);
    FOUND(0, 0);
    SAYS("note: 1 files begin behind the end");
    point(&f->label.start, 150, 2); /* a new leader has lost the log's end */
    audit_all(false);
    FOUND(0, 0);
    assert_int_equal(osync__buf_set(&f->label.start, "?", 1), 0);
    audit_all(false);
    FOUND(0, 1);
    SAYS("doesn't say where it begins");
    f->has_label = false;
    audit_all(false);
    FOUND(0, 1);
    SAYS("0000000002.csv has no label\n");
    f->raw_label = "nonsense";
    audit_all(false);
    FOUND(0, 1);
    SAYS("has a label that isn't one of libosync");
    f->is_dir = true;
    audit_all(false);
    FOUND(0, 1);
    SAYS("is a folder");
    /* the first file must begin the totals */
    drop(f);
    put(A, 0, 2);
    get(A, 0, 0)->label.total_rows = 2;
    audit_all(false);
    assert_true(result.wrong > 0);
}

static void the_checkpoint_is_compared(void **state) {
    (void)state;
    put_some(A, 0, 0, 5);
    begin(false);
    know(A, 0, 5, 500, false);
    run();
    FOUND(0, 0);
    SAYS_NOT("note");
    begin(false);
    know(A, 0, 5, 520, false);
    run();
    FOUND(0, 0);
    SAYS("note: the committed point has moved on behind the newest file");
    begin(false);
    know(A, 0, 4, 400, false); /* committed since the record was read */
    run();
    FOUND(0, 0);
    begin(false);
    know(A, 0, 5, 480, false);
    run();
    FOUND(0, 1);
    SAYS("0000000004.csv ends behind the committed point");
    begin(false);
    know(A, 0, 6, 600, false);
    run();
    FOUND(1, 0);
    begin(false);
    know(A, 0, 9, 900, true); /* it doesn't know yet where it was */
    run();
    FOUND(0, 0);
    put(A, 0, 5)->label.total_rows++;
    get(A, 0, 5)->label.rows++;
    begin(true);
    know(A, 0, 6, 600, false);
    run();
    FOUND(0, 1);
    SAYS("has 22 rows, 315 bytes and 6 files by its label, and by the checkpoint 21, 315 and 6");
    drop(get(A, 0, 5));
    get(A, 0, 4)->label.has_totals = false; /* of an older version */
    begin(false);
    know(A, 0, 5, 500, false);
    run();
    FOUND(0, 0);
    get(A, 0, 4)->label.has_totals = true;
    osync_error_t err = {0};
    begin(false);
    assert_int_equal(osync__audit_know(audit, A, 0, "?", 1, &err), OSYNC_ECORRUPT);
    osync__audit_free(audit);
}

static void strange_names(void **state) {
    (void)state;
    put_some(A, 0, 0, 2);
    (void)snprintf(files[10].name, sizeof files[10].name, "part-" A "-00000-0000000001.csv.copy");
    (void)snprintf(files[11].name, sizeof files[11].name, "part-" C "-00000-1.csv");
    (void)snprintf(files[12].name, sizeof files[12].name, "notes.txt");
    (void)snprintf(files[13].name, sizeof files[13].name, "_SUCCESS");
    hidden[0] = A;
    hidden[1] = C;
    audit_all(false);
    FOUND(0, 1);
    SAYS("wrong: part-" A "-00000-0000000001.csv.copy has the name of no file");
    SAYS("note: notes.txt is not a file of libosync");
    SAYS("2 names are not of files");
    SAYS("leftover: /d/_osync/" C);
    SAYS_NOT("_osync/" A);
    SAYS_NOT("_SUCCESS");
    /* one that nobody has labelled, with a name like ours */
    mem_file_t *f = put(B, 3, 7);
    f->has_label = false;
    audit_all(false);
    FOUND(0, 2);
    SAYS("task " B ": no file has a label of libosync");
}

static void other_tables_are_left_alone(void **state) {
    (void)state;
    put_some(A, 0, 0, 2);
    put_some(B, 0, 0, 3);
    put_some(C, 0, 4, 5);
    for (uint64_t n = 0; n < 3; n++) task_info(&get(B, 0, n)->label, "other", 1);
    get(B, 0, 0)->has_label = false; /* whose it is shows only later */
    drop(get(B, 0, 1));
    mem_file_t *f = get(C, 0, 4); /* of a version that put no record into labels */
    f->label.task.len = 0;
    assert_int_equal(osync__buf_set(&f->label.text, "db.t2", 6), 0);
    audit_all(false);
    FOUND(0, 0);
    assert_int_equal(result.files, 2);
    SAYS("files are of other tables");
    SAYS_NOT(B);
    SAYS_NOT(C);
    assert_int_equal(osync__buf_set(&f->label.text, "db.t", 5), 0);
    audit_all(false);
    assert_int_equal(result.files, 3);
    SAYS("task " C);
    task_info(&get(A, 0, 1)->label, "other", 1); /* in the middle of a task */
    audit_all(false);
    FOUND(0, 1);
    SAYS("has a label that names another table");
}

static void several_tasks(void **state) {
    (void)state;
    put_some(A, 0, 0, 3);
    put_some(A, 1, 0, 3);
    put_some(B, 0, 3, 5);
    put_some(B, 1, 4, 5); /* behind the end of the other */
    for (uint64_t n = 3; n < 5; n++)
        for (uint32_t pid = 0; pid < 2; pid++)
            if (get(B, pid, n)) task_info(&get(B, pid, n)->label, "t", 1800000000000);
    audit_all(false);
    SAYS("note: 2 partitions go on where an earlier task has ended");
    SAYS_NOT("rows may be in the files of both");
    put_some(C, 1, 0, 2);
    for (uint64_t n = 0; n < 2; n++) task_info(&get(C, 1, n)->label, "t", 1900000000000);
    audit_all(false);
    SAYS("in 1 cases (as in partition 1 of task " C ") one doesn't begin where another one ends");
}

static void files_that_go_meanwhile(void **state) {
    (void)state;
    put_some(A, 0, 0, 6);
    get(A, 0, 0)->vanishes = get(A, 0, 2)->vanishes = get(A, 0, 3)->vanishes = true;
    audit_all(false);
    FOUND(0, 0);
    assert_int_equal(result.files, 3);
    SAYS("note: 3 files were removed while this ran");
}

static void many_problems_are_counted(void **state) {
    (void)state;
    put_some(A, 0, 0, 15);
    for (uint64_t n = 0; n < 15; n++) {
        get(A, 0, n)->label.rows += 5; /* the number of rows, and the totals, don't fit */
        get(A, 0, n)->label.total_files = 0;
    }
    audit_all(false);
    FOUND(0, 15);
    SAYS("    and 10 more like these\n");
}

static void trouble_is_waited_for(void **state) {
    (void)state;
    put_some(A, 0, 0, 2);
    /* each call in turn fails twice */
    audit_all(false);
    unsigned all = calls;
    assert_int_equal(all, 1 + 2 * 3 + 1);
    for (unsigned skip = 0; skip < 3; skip++) {
        fails = 2 + skip;
        fails_with = OSYNC_EAGAIN;
        audit_all(false);
        FOUND(0, 0);
        assert_int_equal(result.files, 2);
    }
    fails = 1000;
    begin(false);
    run();
    assert_int_equal(result.status, OSYNC_EAGAIN);
    assert_non_null(strstr(result.err.message, "bad mood"));
    fails = 1;
    fails_with = OSYNC_EPERM;
    begin(false);
    run();
    assert_int_equal(result.status, OSYNC_EPERM);
    fails = 0;
}

static void stop(uv_timer_t *timer) {
    osync__audit_cancel(audit);
    uv_close((uv_handle_t *)timer, NULL);
}

static void an_end_is_not_waited_for(void **state) {
    (void)state;
    uv_timer_t timer;
    put_some(A, 0, 0, 2);
    fails = 1000; /* it is in one of the pauses */
    fails_with = OSYNC_EAGAIN;
    begin(false);
    uv_timer_init(&loop, &timer);
    uv_timer_start(&timer, stop, 5, 0);
    uint64_t before = uv_hrtime();
    run();
    assert_int_equal(result.status, OSYNC_ECANCELED);
    assert_in_range((uv_hrtime() - before) / 1000000, 0, 90);
    fails = 0;
    begin(false); /* and one while it works */
    calls = 0;
    osync__audit_run(audit);
    while (calls < 3) uv_run(&loop, UV_RUN_ONCE);
    osync__audit_cancel(audit);
    while (uv_run(&loop, UV_RUN_DEFAULT)) {
    }
    assert_true(ended);
    assert_true(result.status == OSYNC_ECANCELED || result.status == 0);
}

static void an_empty_place(void **state) {
    (void)state;
    audit_all(false);
    FOUND(0, 0);
    assert_int_equal(result.files, 0);
    fails = 1;
    fails_with = OSYNC_ENOENT; /* no such folder */
    audit_all(false);
    SAYS("there is no folder /d");
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    static const struct CMUnitTest tests[] = {
        T(nothing_is_wrong),
        T(what_a_consumer_took_is_no_hole),
        T(missing_files_are_named),
        T(a_file_is_what_its_label_says),
        T(labels_must_fit_each_other),
        T(the_checkpoint_is_compared),
        T(strange_names),
        T(other_tables_are_left_alone),
        T(several_tasks),
        T(files_that_go_meanwhile),
        T(many_problems_are_counted),
        T(trouble_is_waited_for),
        T(an_end_is_not_waited_for),
        T(an_empty_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
