/* What osync/alloc.h promises: all memory of libosync's own comes from the hook and goes back to it, and when it has
 * none, a call ends with OSYNC_ENOMEM, has lost nothing, and can be made again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <limits.h>
#include <stdatomic.h>
#include <unistd.h>
#include <uv.h>

#include "golden_rows.h"
#include "osync/alloc.h"
#include "osync/checkpoint.h"
#include "osync/client.h"
#include "osync/collector.h"
#include "osync/config.h"
#include "osync/csv.h"
#include "osync/reader.h"
#include "osync/row.h"
#include "osync/scheduler.h"
#include "osync/sink.h"
#include "osync/stream.h"

/* --- the allocator --- */

/* Before each block: a block that didn't come from here, or that libc's free is given, doesn't go unnoticed. */
typedef struct head {
    uint64_t magic;
    size_t size;
} head_t;

enum { MAGIC = 0x6f73796e };

static atomic_long blocks;   /* alive */
static atomic_long asked;    /* allocations so far */
static atomic_long failing;  /* which of them fails; 0: none */
static atomic_bool from_now; /* those after it too */

static bool fails(void) {
    long n = atomic_fetch_add(&asked, 1) + 1, at = atomic_load(&failing);
    return at > 0 && (n == at || (n > at && atomic_load(&from_now)));
}

static void *counting_malloc(size_t size) {
    if (fails()) return NULL;
    head_t *h = malloc(sizeof *h + size);
    if (!h) return NULL;
    *h = (head_t){.magic = MAGIC, .size = size};
    atomic_fetch_add(&blocks, 1);
    return h + 1;
}

static void *counting_calloc(size_t n, size_t size) {
    if (size && n > (SIZE_MAX - sizeof(head_t)) / size) return NULL;
    void *p = counting_malloc(n * size);
    if (p) memset(p, 0, n * size);
    return p;
}

static head_t *head_of(void *p) {
    head_t *h = (head_t *)p - 1;
    assert_true(h->magic == MAGIC);
    return h;
}

static void counting_free(void *p) {
    head_t *h = head_of(p);
    h->magic = 0;
    atomic_fetch_sub(&blocks, 1);
    free(h);
}

static void *counting_realloc(void *p, size_t size) {
    void *out = counting_malloc(size);
    if (!p || !out) return out;
    size_t old = head_of(p)->size;
    memcpy(out, p, old < size ? old : size);
    counting_free(p);
    return out;
}

/* Runs it with the first allocation failing, the second, and so on, until it needs no more; and again with all after
 * that one failing too, of which every seventh will do. With `background` what fails may be something that is tried
 * again. Returns how many allocations it makes. */
static long fail_each(int (*run)(void *arg), void *arg, bool background) {
    long count = 0;
    for (int all = 0; all < 2; all++) {
        for (long n = 1;; n += all ? 7 : 1) {
            long before = atomic_load(&blocks);
            atomic_store(&from_now, all);
            atomic_store(&asked, 0);
            atomic_store(&failing, n);
            int rc = run(arg);
            atomic_store(&failing, 0);
            if (atomic_load(&blocks) != before)
                fail_msg("%ld blocks are left when allocation %ld has failed", atomic_load(&blocks) - before, n);
            if (atomic_load(&asked) < n) {
                assert_int_equal(rc, 0);
                break;
            }
            count += !all;
            if (rc != OSYNC_ENOMEM && !(rc == 0 && background))
                fail_msg("%s when allocation %ld has failed", osync_err_name(rc), n);
        }
    }
    return count;
}

static int checked(int rc, const osync_error_t *err) {
    if (!rc) return 0;
    assert_int_equal(err->code, rc);
    assert_true(err->message[0]);
    return rc;
}

/* --- tables and rows --- */

typedef struct bytes {
    uint8_t *data;
    size_t len;
} bytes_t;

/* With libc's memory: it isn't what is counted. */
static bytes_t golden_file(const char *name) {
    char path[1024];
    bytes_t out = {.data = malloc(1 << 20)};
    (void)snprintf(path, sizeof path, "%s/%s", golden(), name);
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("%s can't be read", path);
    assert_non_null(out.data);
    out.len = fread(out.data, 1, 1 << 20, f);
    (void)fclose(f);
    return out;
}

static int make_meta(void *arg) {
    const bytes_t *meta = arg;
    osync_table_t *table = NULL;
    osync_error_t err = {0};
    int rc = checked(osync_table_from_meta(&table, meta->data, meta->len, &err), &err);
    osync_table_free(table);
    return rc;
}

static int make_info(void *arg) {
    const bytes_t *info = arg;
    osync_table_t *table = NULL;
    osync_error_t err = {0};
    int rc = checked(osync_table_from_info(&table, info->data, info->len, &err), &err);
    osync_table_free(table);
    return rc;
}

static void tables(void **state) {
    static const char *const names[] = {"case9_added_columns", "case2b_inner_many_ts", "case10_partitions"};
    char path[128];
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        (void)snprintf(path, sizeof path, "%s/table_meta.pb", names[i]);
        bytes_t meta = golden_file(path);
        assert_true(fail_each(make_meta, &meta, false) > 20);
        free(meta.data);
    }
    bytes_t info = golden_file("case10_partitions/table_info.pb");
    assert_true(fail_each(make_info, &info, false) > 20);
    free(info.data);
}

typedef struct encoding {
    const osync_table_t *table;
    const uint8_t *value;
    size_t len;
} encoding_t;

/* A row that doesn't fit leaves the text as it was. */
static int encode(void *arg) {
    const encoding_t *e = arg;
    osync_csv_t *csv = NULL;
    osync_csv_config_t config;
    osync_error_t err = {0};
    size_t before = 0, after = 0;
    osync_csv_config_init(&config, sizeof config);
    config.timezone = "Europe/Berlin";
    int rc = checked(osync_csv_new(&csv, e->table, &config, &err), &err);
    for (int i = 0; !rc && i < 3; i++) {
        (void)osync_csv_data(csv, &before);
        rc = checked(osync_csv_add(csv, e->value, e->len, &err), &err);
        (void)osync_csv_data(csv, &after);
        assert_true(rc ? after == before : after > before);
    }
    osync_csv_free(csv);
    return rc;
}

static void check_encoding(const osync_table_t *table, const uint8_t *value, size_t len, const json_t *entry,
                           void *arg) {
    encoding_t e = {.table = table, .value = value, .len = len};
    osync_cell_t cells[32];
    osync_error_t err = {0};
    size_t *left = arg, n = osync_table_columns(table);
    (void)entry;
    atomic_store(&asked, 0);
    assert_true(n <= sizeof cells / sizeof cells[0]);
    assert_int_equal(osync_row_cells(cells, n, table, value, len, &err), 0);
    assert_int_equal(atomic_load(&asked), 0); /* cells point into the row */
    if (*left == 0) return;
    --*left;
    assert_true(fail_each(encode, &e, false) >= 4);
}

static void rows(void **state) {
    size_t encodings = 50; /* more of the same would show nothing new */
    (void)state;
    assert_true(each_golden_row(check_encoding, &encodings) > 500);
    assert_int_equal(encodings, 0);
}

/* --- the reader --- */

typedef struct reading {
    char binlog[512], snapshot[2048], scratch[128];
    osync_snapshot_name_t name;
    osync_phase_t phase;
    osync_table_t *table;
} reading_t;

/* Reads some rows, or all. `point` is where to begin, and becomes where it ended. */
static int read_rows(const reading_t *r, int most, bytes_t *point) {
    osync_reader_config_t c;
    osync_reader_t *reader = NULL;
    osync_reader_row_t row;
    osync_error_t err = {0};
    const void *p = NULL;
    size_t len = 0;
    osync_reader_config_init(&c, sizeof c);
    c.phase = r->phase;
    c.base = OSYNC_BASE_OLDEST;
    c.binlog_dir = r->binlog;
    c.snapshot_dir = r->name.name[0] ? r->snapshot : NULL;
    c.snapshot_name = r->name.name;
    c.scratch_dir = r->scratch;
    c.point = point->data;
    c.point_len = point->len;
    int rc = checked(osync_reader_open(&reader, r->table, &c, &err), &err);
    for (int n = 0; !rc && n < most; n++) rc = osync_reader_next(reader, &row, &err);
    if (rc == OSYNC_EOF) rc = 0;
    if (!checked(rc, &err) && r->phase == OSYNC_PHASE_ALL) {
        rc = checked(osync_reader_point(reader, &p, &len, &err), &err);
        if (!rc) {
            point->data = realloc(point->data, len);
            assert_non_null(point->data);
            memcpy(point->data, p, point->len = len);
        }
    }
    osync_reader_close(reader);
    return rc;
}

static int read_through(void *arg) {
    bytes_t point = {0};
    int rc = read_rows(arg, 70, &point);
    if (!rc) rc = read_rows(arg, INT_MAX, &point);
    free(point.data);
    return rc;
}

static void check_reading(const char *table, const char *partition, osync_phase_t phase) {
    reading_t r = {.phase = phase};
    char path[1024];
    osync_error_t err = {0};
    (void)snprintf(path, sizeof path, "%s/table_meta.pb", table);
    bytes_t meta = golden_file(path);
    assert_int_equal(osync_table_from_meta(&r.table, meta.data, meta.len, &err), 0);
    (void)snprintf(r.binlog, sizeof r.binlog, "%s/%s/%s/binlog", golden(), table, partition);
    (void)snprintf(path, sizeof path, "%s/%s/%s/snapshot", golden(), table, partition);
    int rc = osync_snapshot_name(&r.name, path, &err);
    assert_true(!rc || rc == OSYNC_ENOENT);
    (void)snprintf(r.snapshot, sizeof r.snapshot, "%s/%s", path, r.name.name);
    /* Hundreds of databases, each synced several times: better where that costs nothing. */
    (void)snprintf(r.scratch, sizeof r.scratch, "%s/osync-alloc-XXXXXX",
                   access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    assert_non_null(mkdtemp(r.scratch));
    assert_true(fail_each(read_through, &r, false) > 10);
    assert_int_equal(rmdir(r.scratch), 0); /* also after a failure nothing is left */
    osync_table_free(r.table);
    free(meta.data);
}

static void readers(void **state) {
    (void)state;
    check_reading("case4b_binlog_only", "db/42_0", OSYNC_PHASE_BINLOG);
    check_reading("case1_simple", "db/1_0", OSYNC_PHASE_SNAPSHOT);
    check_reading("case3_snapshot_binlog_rolled", "db/3_0", OSYNC_PHASE_ALL);
}

/* --- what lives on a loop --- */

typedef struct world {
    uv_loop_t loop;
    char folder[64];
} world_t;

static void set_up(world_t *w) {
    assert_int_equal(uv_loop_init(&w->loop), 0);
    (void)snprintf(w->folder, sizeof w->folder, "/tmp/osync-alloc-XXXXXX");
    assert_non_null(mkdtemp(w->folder));
}

static void tear_down(world_t *w) {
    char command[128];
    assert_int_equal(uv_run(&w->loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&w->loop), 0);
    (void)snprintf(command, sizeof command, "rm -r %s", w->folder);
    assert_int_equal(system(command), 0);
}

static void run(world_t *w) {
    (void)uv_run(&w->loop, UV_RUN_DEFAULT);
}

static int file_sink(void *arg) {
    world_t *w = arg;
    osync_sink_t *sink = NULL;
    osync_error_t err = {0};
    int rc = checked(osync_file_sink_new(&sink, &w->loop, 2, &err), &err);
    if (sink) sink->ops->close(sink, NULL, NULL);
    run(w);
    return rc;
}

static int webhdfs_sink(void *arg) {
    world_t *w = arg;
    osync_sink_t *sink = NULL;
    osync_webhdfs_config_t config;
    osync_error_t err = {0};
    osync_webhdfs_config_init(&config, sizeof config);
    config.address = "127.0.0.1:1";
    config.user = "someone";
    int rc = checked(osync_webhdfs_sink_new(&sink, &w->loop, &config, &err), &err);
    if (sink) sink->ops->close(sink, NULL, NULL);
    run(w);
    return rc;
}

static int checkpoint(void *arg) {
    world_t *w = arg;
    osync_checkpoint_t *store = NULL;
    osync_error_t err = {0};
    char path[128];
    (void)snprintf(path, sizeof path, "%s/checkpoint/checkpoint.db", w->folder);
    int rc = checked(osync_sqlite_checkpoint_new(&store, &w->loop, path, &err), &err);
    if (store) store->ops->close(store, NULL, NULL);
    run(w);
    return rc;
}

static int collector(void *arg) {
    world_t *w = arg;
    osync_collector_t *c = NULL;
    osync_collector_config_t config;
    osync_error_t err = {0};
    osync_collector_config_init(&config, sizeof config);
    config.endpoint = "127.0.0.1:0";
    config.data_dir = w->folder;
    int rc = checked(osync_collector_new(&c, &w->loop, &config, &err), &err);
    if (!rc) rc = checked(osync_collector_start(c, &err), &err);
    osync_collector_close(c, NULL, NULL);
    run(w);
    return rc;
}

static int scheduler(void *arg) {
    world_t *w = arg;
    osync_scheduler_t *s = NULL;
    osync_scheduler_config_t config;
    osync_error_t err = {0};
    osync_scheduler_config_init(&config, sizeof config);
    config.host = "127.0.0.1";
    config.advertised_endpoint = "127.0.0.1:1";
    config.zk_cluster = "127.0.0.1:1";
    config.state_dir = w->folder;
    config.csv_timezone = "UTC";
    int rc = checked(osync_scheduler_new(&s, &w->loop, &config, &err), &err);
    if (!rc) rc = checked(osync_scheduler_start(s, &err), &err);
    osync_scheduler_close(s, NULL, NULL);
    run(w);
    return rc;
}

static int config(void *arg) {
    osync_config_t *c = NULL;
    osync_error_t err = {0};
    char value[128];
    const world_t *w = arg;
    (void)snprintf(value, sizeof value, "%s/data", w->folder);
    int rc = checked(osync_config_new(&c, OSYNC_CONFIG_COLLECTOR, &err), &err);
    if (!rc) rc = checked(osync_config_set(c, "collector_datadir", value, "test", &err), &err);
    if (!rc) assert_string_equal(osync_config_collector(c)->data_dir, value);
    osync_config_free(c);
    return rc;
}

static int client(void *arg) {
    world_t *w = arg;
    osync_client_t *c = NULL;
    osync_client_config_t config;
    osync_error_t err = {0};
    osync_client_config_init(&config, sizeof config);
    config.scheduler = "127.0.0.1:1";
    int rc = checked(osync_client_new(&c, &w->loop, &config, &err), &err);
    osync_client_close(c, NULL, NULL);
    run(w);
    return rc;
}

typedef struct stream {
    osync_stream_t *stream;
    int status;
} stream_t;

static void end_stream(stream_t *s, int status) {
    s->status = status;
    osync_stream_close(s->stream, NULL, NULL);
}

static void on_committed(void *arg, int status, const osync_error_t *err) {
    (void)err;
    if (!status) end_stream(arg, 0);
}

static void on_appended(void *arg, int status, const osync_error_t *err) {
    stream_t *s = arg;
    (void)err;
    if (status) return; /* on_trouble tells the rest */
    int rc = osync_stream_commit(s->stream, on_committed, s);
    if (rc) end_stream(s, rc);
}

static void on_ready(void *arg, const void *position, size_t len) {
    stream_t *s = arg;
    (void)position;
    (void)len;
    int rc = osync_stream_append(s->stream, "a row\n", 6, 1, "6", 1, on_appended, s);
    if (rc) end_stream(s, rc);
}

/* It would go on by itself when there is memory again. */
static void on_trouble(void *arg, bool permanent, const osync_error_t *err) {
    (void)permanent;
    end_stream(arg, err->code);
}

static int stream(void *arg) {
    static int number; /* of runs: each has a stream of its own */
    world_t *w = arg;
    stream_t s = {0};
    osync_stream_config_t config;
    osync_error_t err = {0};
    char state[128], dest[128];
    (void)snprintf(state, sizeof state, "%s/%d/state.db", w->folder, ++number);
    (void)snprintf(dest, sizeof dest, "file://%s/%d", w->folder, number);
    osync_stream_config_init(&config, sizeof config);
    config.dest = dest;
    config.name = "stream";
    config.state = state;
    config.on_ready = on_ready;
    config.on_trouble = on_trouble;
    config.arg = &s;
    int rc = checked(osync_stream_open(&s.stream, &w->loop, &config, &err), &err);
    run(w);
    return rc ? rc : s.status;
}

static void objects(void **state) {
    static int (*const lives[])(void *arg) = {config, file_sink, webhdfs_sink, checkpoint,
                                              client, stream,    collector,    scheduler};
    (void)state;
    for (size_t i = 0; i < sizeof lives / sizeof lives[0]; i++) {
        world_t w = {0};
        set_up(&w);
        assert_true(fail_each(lives[i], &w, true) > 1);
        assert_int_equal(atomic_load(&blocks), 0);
        tear_down(&w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables),
        cmocka_unit_test(rows),
        cmocka_unit_test(readers),
        cmocka_unit_test(objects),
    };
    if (osync_alloc_set(counting_malloc, counting_calloc, counting_realloc, counting_free)) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
