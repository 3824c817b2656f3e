/* The reader on the golden tables, resumed after each row: the same rows as in one pass. How snapshot and log fit
 * together is test_seams.c's business. And the window's storage: the same answers wherever it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/sys.h"
#include "collector/window.h"
#include "format/snapshot.h"
#include "osync/reader.h"

typedef struct golden {
    char binlog[512], snapshot[1024], scratch[128];
    osync_snapshot_name_t name;
    bool has_snapshot;
    uint64_t start_ts;
    osync_table_t *table;
} golden_t;

static osync_reader_t *open_golden(const golden_t *g, const osync__buf_t *point, bool pauses) {
    osync_reader_config_t c;
    osync_reader_t *r = NULL;
    osync_error_t err = {0};
    osync_reader_config_init(&c, sizeof c);
    c.base = OSYNC_BASE_OLDEST;
    c.binlog_dir = g->binlog;
    c.snapshot_dir = g->has_snapshot ? g->snapshot : NULL;
    c.snapshot_name = g->has_snapshot ? g->name.name : NULL;
    c.scratch_dir = g->scratch;
    c.start_ts = g->start_ts;
    c.point = point->data;
    c.point_len = point->len;
    c.pauses = pauses;
    if (osync_reader_open(&r, g->table, &c, &err)) fail_msg("%s: %s", g->binlog, err.message);
    return r;
}

static void save_point(osync_reader_t *r, osync__buf_t *point) {
    const void *p;
    size_t len;
    osync_error_t err = {0};
    if (osync_reader_point(r, &p, &len, &err)) fail_msg("point: %s", err.message);
    point->len = 0;
    assert_int_equal(osync__buf_append(point, p, len), 0);
}

/* All rows, with a new reader after every `every` of them (0: one reader for all). Returns their number. */
static int read_golden(const golden_t *g, int every, osync__buf_t *out, uint64_t *middle_ts) {
    osync__buf_t point = {0};
    osync_error_t err = {0};
    osync_reader_row_t row;
    osync_reader_t *r = open_golden(g, &point, false);
    int n = 0, rc;
    while (!(rc = osync_reader_next(r, &row, &err))) {
        assert_int_equal(osync__buf_printf(out, "%d %llu %llu ", row.phase, (unsigned long long)row.offset,
                                           (unsigned long long)row.ts),
                         0);
        assert_int_equal(osync__buf_append(out, row.pk, row.pk_len), 0);
        assert_int_equal(osync__buf_append(out, row.value, row.value_len), 0);
        if (++n % 2) *middle_ts = row.ts;
        if (every == 0 || n % every) continue;
        save_point(r, &point);
        osync_reader_close(r);
        r = open_golden(g, &point, false);
    }
    if (rc != OSYNC_EOF) fail_msg("%s: %s", g->binlog, err.message);
    osync_reader_close(r);
    osync__buf_free(&point);
    return n;
}

/* `partition`: a folder <tid>_<pid> of a golden table. */
static int resume_golden(const char *partition) {
    golden_t g = {0};
    osync_error_t err = {0};
    osync__buf_t meta = {0}, straight = {0}, resumed = {0}, path = {0};
    uint64_t ts = 0;
    const char *suffix = strstr(partition, "case10_partitions") ? strrchr(partition, '_') + 1 : NULL;
    assert_int_equal(
        osync__buf_printf(&path, "%s/../../table_meta%s%s.pb", partition, suffix ? "_p" : "", suffix ? suffix : ""), 0);
    if (osync__read_file((char *)path.data, 1 << 20, &meta, &err)) fail_msg("%s", err.message);
    if (osync_table_from_meta(&g.table, meta.data, meta.len, &err)) fail_msg("%s: %s", partition, err.message);
    (void)snprintf(g.binlog, sizeof g.binlog, "%s/binlog", partition);
    path.len = 0;
    assert_int_equal(osync__buf_printf(&path, "%s/snapshot", partition), 0);
    g.has_snapshot = !osync_snapshot_name(&g.name, (char *)path.data, &err);
    (void)snprintf(g.snapshot, sizeof g.snapshot, "%s/snapshot/%s", partition, g.name.name);
    (void)snprintf(g.scratch, sizeof g.scratch, "/tmp/osync-reader-XXXXXX");
    assert_non_null(mkdtemp(g.scratch));
    int n, rows = 0;
    /* Odd passes leave out what is older than a row in the middle (mode 1). The last two have no log, so that the
     * traverse gives every row. */
    for (int pass = 0; pass < 4; pass++) {
        if (pass == 2) (void)snprintf(g.binlog, sizeof g.binlog, "%s/none", g.scratch);
        g.start_ts = pass % 2 ? ts : 0;
        straight.len = resumed.len = 0;
        n = read_golden(&g, 0, &straight, &ts);
        rows += n;
        assert_int_equal(read_golden(&g, n > 50 ? 7 : 1, &resumed, &ts), n);
        if (straight.len != resumed.len || (n && memcmp(straight.data, resumed.data, resumed.len)))
            fail_msg("%s, pass %d: other rows when it is resumed", partition, pass);
    }
    assert_int_equal(rmdir(g.scratch), 0); /* the reader has removed what it made */
    osync_table_free(g.table);
    osync__buf_free(&path);
    osync__buf_free(&meta);
    osync__buf_free(&straight);
    osync__buf_free(&resumed);
    return rows;
}

static void test_golden_resumed_after_each_row(void **state) {
    const char *top = getenv("OSYNC_GOLDEN");
    char pattern[512];
    glob_t found;
    int partitions = 0, rows = 0;
    (void)state;
    assert_non_null(top);
    (void)snprintf(pattern, sizeof pattern, "%s/case*/db*/*_*", top);
    assert_int_equal(glob(pattern, 0, NULL, &found), 0);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        rows += resume_golden(found.gl_pathv[i]);
        partitions++;
    }
    globfree(&found);
    print_message("%d partitions, %d rows\n", partitions, rows);
    assert_true(partitions >= 20 && rows > 500);
}

/* ---- the window ---- */

enum { WINDOW_PKS = 40, WINDOW_STAMPS = 25, WINDOW_OPS = 3000 };

static uint64_t random_below(uint64_t n) {
    static uint64_t x = 88172645463325252u;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x % n;
}

typedef struct window_op {
    bool is_put;
    int pk; /* of a delete: -1 is every pk */
    uint64_t ts, start, end;
} window_op_t;

static size_t window_pk(int pk, char *out, size_t size) {
    return (size_t)snprintf(out, size, "%.*s%d", pk % 3 * 20, "a long beginning of many keys, all alike", pk);
}

/* Whether an operation behind entry `after` takes the row away; `last`: the index of its last put. */
static bool window_deletes(const window_op_t *ops, size_t n, int pk, uint64_t ts, uint64_t after, uint64_t *last) {
    bool deleted = false;
    *last = 0;
    for (size_t i = 0; i < n; i++) {
        const window_op_t *o = &ops[i];
        if (o->is_put && o->pk == pk && o->ts == ts) *last = i + 1;
        if (!o->is_put && (o->pk == pk || o->pk < 0) && o->start >= ts && ts > o->end && i + 1 > after) deleted = true;
    }
    return deleted;
}

/* Each key, in the order that a traverse has. */
static void ask_window(osync__window_t *w, const osync_table_t *table, const window_op_t *ops, size_t n,
                       bool in_order) {
    osync__buf_t keys[WINDOW_PKS * WINDOW_STAMPS] = {0};
    int order[WINDOW_PKS * WINDOW_STAMPS], count = 0;
    char pk[64];
    for (int i = 0; i < WINDOW_PKS * WINDOW_STAMPS; i++) {
        size_t len = window_pk(i / WINDOW_STAMPS, pk, sizeof pk);
        assert_int_equal(osync__key_encode(table, pk, len, (uint64_t)(i % WINDOW_STAMPS), &keys[i]), 0);
        int at = count++;
        while (at > 0 &&
               osync__key_compare(keys[i].data, keys[i].len, keys[order[at - 1]].data, keys[order[at - 1]].len) < 0) {
            order[at] = order[at - 1];
            at--;
        }
        order[at] = i;
    }
    for (int i = 0; i < count; i++) {
        const osync__buf_t *key = &keys[order[i]];
        int of = order[i] / WINDOW_STAMPS;
        uint64_t ts = (uint64_t)(order[i] % WINDOW_STAMPS), last = 0, after = random_below(n + 1);
        size_t len = window_pk(of, pk, sizeof pk);
        bool answer = false, deleted = window_deletes(ops, n, of, ts, 0, &last);
        if (in_order) {
            assert_int_equal(osync__window_covers(w, key->data, key->len, len, ts, &answer, NULL), 0);
            assert_int_equal(answer, deleted || last > 0);
        }
        assert_int_equal(osync__window_touches(w, key->data, key->len, len, ts, &answer, NULL), 0);
        assert_int_equal(answer, deleted || last > 0);
        assert_int_equal(osync__window_deletes(w, pk, len, ts, after, &answer, NULL), 0);
        assert_int_equal(answer, window_deletes(ops, n, of, ts, after, &last));
        for (uint64_t index = last > 2 ? last - 2 : 1; index <= n && index <= last + 2; index++) {
            bool taken = window_deletes(ops, n, of, ts, index, &last);
            assert_int_equal(osync__window_is_last(w, key->data, key->len, len, ts, index, &answer, NULL), 0);
            assert_int_equal(answer, index == last && !taken);
        }
    }
    for (int i = 0; i < count; i++) osync__buf_free(&keys[i]);
}

/* In memory, in the scratch database from the first key on, and moved there in the middle. */
static void test_window_answers_the_same_wherever_it_is(void **state) {
    const size_t memory[] = {1 << 20, 0, 9000, 20000};
    static window_op_t ops[WINDOW_OPS];
    char dir[] = "/tmp/osync-window-XXXXXX", pk[64], scratch[128];
    (void)state;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(scratch, sizeof scratch, "%s/scratch", dir);
    osync_table_t table = {.name = pk};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) {
        osync__window_t *w = NULL;
        osync__buf_t key = {0};
        assert_int_equal(osync__window_new(&w, &table, scratch, memory[i], NULL), 0);
        for (size_t n = 0; n < WINDOW_OPS; n++) {
            window_op_t *o = &ops[n];
            *o = (window_op_t){.is_put = random_below(10) > 0,
                               .pk = (int)random_below(WINDOW_PKS / 2), /* the others have nothing of their own */
                               .ts = random_below(WINDOW_STAMPS / 2),
                               .end = random_below(WINDOW_STAMPS)};
            o->start = o->end + random_below(3);
            if (!o->is_put && random_below(100) == 0) o->pk = -1;
            size_t len = o->pk < 0 ? 0 : window_pk(o->pk, pk, sizeof pk);
            if (o->is_put) {
                key.len = 0;
                assert_int_equal(osync__key_encode(&table, pk, len, o->ts, &key), 0);
                assert_int_equal(osync__window_put(w, key.data, key.len, n + 1, NULL), 0);
            } else {
                assert_int_equal(osync__window_delete(w, o->pk < 0 ? NULL : pk, len, o->start, o->end, n + 1, NULL), 0);
            }
        }
        assert_int_equal(osync__window_ready(w, NULL), 0);
        assert_int_equal(access(scratch, F_OK) == 0, i > 0); /* a small window makes no database */
        ask_window(w, &table, ops, WINDOW_OPS, true);
        ask_window(w, &table, ops, WINDOW_OPS, false);
        osync__window_free(w);
        osync__buf_free(&key);
        assert_int_equal(access(scratch, F_OK), -1);
    }
    assert_int_equal(rmdir(dir), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_window_answers_the_same_wherever_it_is),
        cmocka_unit_test(test_golden_resumed_after_each_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
