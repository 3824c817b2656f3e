/* The reader against random histories: puts and deletes whose order in RocksDB and in the log differ, snapshots at any
 * moment, resumes at any row, on the same snapshot and on another one. Every put must come out once, unless something
 * replaced it. Then the golden tables, resumed after each row. Real files, real reader. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <glob.h>
#include <rocksdb/c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../tablet/log_writer.h"
#include "../tablet/row_builder.h"
#include "base/sys.h"
#include "format/row.h"
#include "format/snapshot.h"
#include "osync/reader.h"

enum { MAX_OPS = 24, PKS = 3, STAMPS = 3 };

typedef struct op {
    bool is_delete, wide;
    int pk;
    uint64_t ts, end; /* a put's ts; a delete's range start >= t > end */
} op_t;

/* One step of a history: an operation reaches RocksDB, or the log. */
typedef struct step {
    bool append;
    int op;
} step_t;

typedef struct world {
    char dir[64];
    unsigned seed;
    osync_table_t *table;
    Openmldb__Common__ColumnDesc *columns[3];
    op_t ops[MAX_OPS];
    int n_ops;
    step_t steps[2 * MAX_OPS];
    int n_steps;
    int log[MAX_OPS]; /* op of log index i+1 */
    int n_log;
    log_writer_t writer;
    int rolled_at[MAX_OPS]; /* entries before each roll */
    int n_rolls;
    int delivered[MAX_OPS];
    int resumes, moves;
} world_t;

static unsigned rnd(world_t *w, unsigned n) {
    w->seed = w->seed * 1103515245u + 12345u;
    return (w->seed >> 16) % n;
}

static const char *pk_name(int pk) {
    static const char *const names[PKS] = {"a", "ab", "b"};
    return names[pk];
}

static Openmldb__Common__ColumnDesc column_desc[3];
static Openmldb__Common__ColumnKey index_key;

static void make_table(world_t *w) {
    static char names[3][3] = {"k", "ts", "id"};
    static const int types[3] = {OPENMLDB__TYPE__DATA_TYPE__kString, OPENMLDB__TYPE__DATA_TYPE__kTimestamp,
                                 OPENMLDB__TYPE__DATA_TYPE__kBigInt};
    static char index_name[] = "idx0";
    static char *col_names[] = {names[0]};
    Openmldb__Api__TableMeta meta = OPENMLDB__API__TABLE_META__INIT;
    Openmldb__Common__ColumnKey *keys[] = {&index_key};
    osync_error_t err = {0};
    for (int i = 0; i < 3; i++) {
        openmldb__common__column_desc__init(&column_desc[i]);
        column_desc[i].name = names[i];
        column_desc[i].has_data_type = true;
        column_desc[i].data_type = (Openmldb__Type__DataType)types[i];
        w->columns[i] = &column_desc[i];
    }
    openmldb__common__column_key__init(&index_key);
    index_key.index_name = index_name;
    index_key.n_col_name = 1;
    index_key.col_name = col_names;
    index_key.ts_name = names[1];
    meta.n_column_desc = 3;
    meta.column_desc = w->columns;
    meta.n_column_key = 1;
    meta.column_key = keys;
    meta.has_storage_mode = true;
    meta.storage_mode = OPENMLDB__COMMON__STORAGE_MODE__kSSD;
    assert_int_equal(osync__table_from_meta(&w->table, &meta, &err), 0);
}

/* ---- histories ---- */

static void make_ops(world_t *w) {
    w->n_ops = 4 + (int)rnd(w, MAX_OPS - 4);
    for (int i = 0; i < w->n_ops; i++) {
        op_t *o = &w->ops[i];
        *o = (op_t){.pk = (int)rnd(w, PKS), .ts = 1 + rnd(w, STAMPS)};
        unsigned kind = rnd(w, 100);
        o->is_delete = kind < 15;
        if (!o->is_delete) continue;
        o->wide = kind < 3;
        if (kind < 8)
            o->ts = UINT64_MAX;
        else
            o->end = o->ts - 1;
    }
}

/* A leader applies, then appends, several at a time, so that the orders differ; a follower appends, then applies. */
static void leader_steps(world_t *w) {
    int flying[3], n = 0, next = 0;
    w->n_steps = 0;
    while (next < w->n_ops || n > 0) {
        if (next < w->n_ops && n < 3 && rnd(w, 100) < 55) {
            w->steps[w->n_steps++] = (step_t){false, next};
            flying[n++] = next++;
        } else if (n > 0) {
            int i = (int)rnd(w, (unsigned)n);
            w->steps[w->n_steps++] = (step_t){true, flying[i]};
            flying[i] = flying[--n];
        }
    }
}

static bool hits(const op_t *del, const op_t *put) {
    return (del->wide || del->pk == put->pk) && del->ts >= put->ts && put->ts > del->end;
}

/* A put may be missing if something that isn't before it in both orders replaced it. */
static bool excused(const world_t *w, int put, const int *at) {
    for (int x = 0; x < w->n_ops; x++) {
        if (x == put) continue;
        const op_t *o = &w->ops[x], *p = &w->ops[put];
        bool replaces = o->is_delete ? hits(o, p) : o->pk == p->pk && o->ts == p->ts;
        if (replaces && (at[x] > at[put] || x > put)) return true;
    }
    return false;
}

/* ---- files ---- */

static void encode_row(world_t *w, int op, osync__buf_t *out) {
    osync_error_t err = {0};
    const char *pk = pk_name(w->ops[op].pk);
    cell_t cells[3] = {{.str = pk, .len = strlen(pk)}, {.i = (int64_t)w->ops[op].ts}, {.i = op}};
    assert_int_equal(row_build(w->columns, 3, 1, cells, out, &err), 0);
}

/* Writes op's entry into the log. */
static void write_entry(world_t *w, int op, uint64_t log_index) {
    const op_t *o = &w->ops[op];
    osync_error_t err = {0};
    osync__buf_t value = {0}, payload = {0};
    uint8_t pk[8];
    size_t pk_len = strlen(pk_name(o->pk));
    memcpy(pk, pk_name(o->pk), pk_len);
    Openmldb__Api__LogEntry e = OPENMLDB__API__LOG_ENTRY__INIT;
    Openmldb__Api__Dimension d = OPENMLDB__API__DIMENSION__INIT, *dims[] = {&d};
    char ts_name[] = "ts";
    e.has_term = e.has_log_index = true;
    e.term = 1;
    e.log_index = log_index;
    d.has_key = d.has_idx = true;
    d.key = (ProtobufCBinaryData){.data = pk, .len = pk_len};
    e.n_dimensions = 1;
    e.dimensions = dims;
    if (o->is_delete) {
        e.has_method_type = true;
        e.method_type = OPENMLDB__API__METHOD_TYPE__kDelete;
        e.has_ts = o->ts != UINT64_MAX;
        e.ts = o->ts;
        e.has_end_ts = o->end > 0;
        e.end_ts = o->end;
        if (o->wide) {
            e.n_dimensions = 0;
            e.ts_name = ts_name;
        }
    } else {
        encode_row(w, op, &value);
        e.has_value = e.has_ts = true;
        e.value = (ProtobufCBinaryData){.data = value.data, .len = value.len};
        e.ts = 1000 + (uint64_t)op;
    }
    assert_int_equal(osync__buf_reserve(&payload, openmldb__api__log_entry__get_packed_size(&e)), 0);
    payload.len = openmldb__api__log_entry__pack(&e, payload.data);
    assert_int_equal(log_writer_append(&w->writer, e.log_index, payload.data, payload.len, &err), 0);
    osync__buf_free(&value);
    osync__buf_free(&payload);
}

static void append_entry(world_t *w, int op) {
    osync_error_t err = {0};
    w->log[w->n_log++] = op;
    write_entry(w, op, (uint64_t)w->n_log);
    assert_int_equal(log_writer_flush(&w->writer, &err), 0);
    if (rnd(w, 100) < 20) {
        w->rolled_at[w->n_rolls++] = w->n_log;
        assert_int_equal(log_writer_roll(&w->writer, &err), 0);
    }
}

/* The state of RocksDB after the first `n` steps, as a checkpoint in `dir`. Returns how many log entries were applied
 * without a gap. */
static int write_checkpoint(world_t *w, const step_t *steps, int n, const char *dir) {
    int state[PKS][STAMPS + 1];
    bool applied[MAX_OPS] = {false};
    char *text = NULL;
    memset(state, -1, sizeof state);
    for (int i = 0; i < n; i++) {
        if (steps[i].append) continue;
        const op_t *o = &w->ops[steps[i].op];
        applied[steps[i].op] = true;
        if (!o->is_delete)
            state[o->pk][o->ts] = steps[i].op;
        else
            for (int pk = 0; pk < PKS; pk++)
                for (uint64_t ts = 1; ts <= STAMPS; ts++)
                    if (hits(o, &(op_t){.pk = pk, .ts = ts})) state[pk][ts] = -1;
    }
    rocksdb_comparator_t *comparator = osync__key_comparator();
    rocksdb_options_t *plain = rocksdb_options_create(), *keyed = rocksdb_options_create();
    rocksdb_options_set_create_if_missing(plain, 1);
    rocksdb_options_set_create_missing_column_families(plain, 1);
    rocksdb_options_set_comparator(keyed, comparator);
    const char *names[] = {"default", "idx0"};
    const rocksdb_options_t *options[] = {plain, keyed};
    rocksdb_column_family_handle_t *cf[2];
    rocksdb_t *db = rocksdb_open_column_families(plain, dir, 2, names, options, cf, &text);
    assert_null(text);
    rocksdb_writeoptions_t *wo = rocksdb_writeoptions_create();
    rocksdb_writeoptions_disable_WAL(wo, 1);
    for (int pk = 0; pk < PKS; pk++)
        for (int ts = 1; ts <= STAMPS; ts++) {
            if (state[pk][ts] < 0) continue;
            osync__buf_t key = {0}, value = {0};
            assert_int_equal(osync__key_encode(w->table, pk_name(pk), strlen(pk_name(pk)), (uint64_t)ts, &key), 0);
            encode_row(w, state[pk][ts], &value);
            rocksdb_put_cf(db, wo, cf[1], (const char *)key.data, key.len, (const char *)value.data, value.len, &text);
            assert_null(text);
            osync__buf_free(&key);
            osync__buf_free(&value);
        }
    rocksdb_flushoptions_t *fo = rocksdb_flushoptions_create();
    rocksdb_flush_cf(db, fo, cf[1], &text);
    assert_null(text);
    rocksdb_flushoptions_destroy(fo);
    rocksdb_writeoptions_destroy(wo);
    rocksdb_column_family_handle_destroy(cf[0]);
    rocksdb_column_family_handle_destroy(cf[1]);
    rocksdb_close(db);
    rocksdb_options_destroy(plain);
    rocksdb_options_destroy(keyed);
    rocksdb_comparator_destroy(comparator);
    int complete = 0;
    while (complete < w->n_log && applied[w->log[complete]]) complete++;
    return complete;
}

/* Makes the files that began before the snapshot look like it: the one before each was last written long ago. */
static void age_files(world_t *w, int complete) {
    for (int i = 0; i < w->n_rolls; i++) {
        char path[128];
        (void)snprintf(path, sizeof path, "%s/binlog/%08d.log", w->dir, i);
        time_t at = time(NULL) - (w->rolled_at[i] <= complete ? 7200 : 0);
        struct timespec times[2] = {{.tv_sec = at}, {.tv_sec = at}};
        assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    }
}

/* ---- reading ---- */

static void take_row(world_t *w, const osync_reader_row_t *row) {
    osync__row_t view;
    osync_error_t err = {0};
    if (osync__row_open(&view, w->table, row->value, row->value_len, &err)) fail_msg("%s", err.message);
    int64_t id = osync__row_int(&view, 2, OPENMLDB__TYPE__DATA_TYPE__kBigInt);
    assert_in_range(id, 0, w->n_ops - 1);
    w->delivered[id]++;
}

typedef struct snapshot {
    char dir[128], name[16];
    const step_t *steps;
    int n;
} snapshot_t;

static osync_reader_t *open_at(world_t *w, const snapshot_t *s, const osync__buf_t *point) {
    char binlog[128], scratch[128];
    osync_reader_config_t c;
    osync_reader_t *r = NULL;
    osync_error_t err = {0};
    (void)snprintf(binlog, sizeof binlog, "%s/binlog", w->dir);
    (void)snprintf(scratch, sizeof scratch, "%s/scratch", w->dir);
    osync_reader_config_init(&c);
    c.binlog_dir = binlog;
    c.snapshot_dir = s ? s->dir : NULL;
    c.snapshot_name = s ? s->name : NULL;
    c.scratch_dir = scratch;
    c.point = point->data;
    c.point_len = point->len;
    if (osync_reader_open(&r, w->table, &c, &err)) fail_msg("open: %s", err.message);
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

static void fail_history(world_t *w, unsigned seed, int op, const char *what) {
    fail_msg("seed %u: put %d (%s, %llu) %s", seed, op, pk_name(w->ops[op].pk), (unsigned long long)w->ops[op].ts,
             what);
}

static void one_history(unsigned seed, bool with_snapshot, int *resumes, int *moves) {
    world_t w = {.seed = seed};
    osync_error_t err = {0};
    osync__buf_t point = {0};
    step_t follower[2 * MAX_OPS];
    snapshot_t snaps[2];
    int at[MAX_OPS], n_follower = 0;
    char path[128];
    (void)snprintf(w.dir, sizeof w.dir, "/tmp/osync-reader-XXXXXX");
    assert_non_null(mkdtemp(w.dir));
    (void)snprintf(path, sizeof path, "%s/binlog", w.dir);
    assert_int_equal(osync__mkdirs(path, &err), 0);
    make_table(&w);
    make_ops(&w);
    leader_steps(&w);
    assert_int_equal(log_writer_open(&w.writer, path, 1 << 30, NULL, NULL, &err), 0);

    /* Up to `opened` steps are in the log when reading begins; each snapshot must be covered by then. */
    int checkpoint = (int)rnd(&w, (unsigned)w.n_steps + 1), opened = checkpoint;
    bool pending[MAX_OPS] = {false};
    for (int i = 0; i < checkpoint; i++) pending[w.steps[i].op] = !w.steps[i].append;
    for (bool any = true; any && opened < w.n_steps;) {
        any = false;
        for (int o = 0; o < w.n_ops; o++) any |= pending[o];
        if (any && w.steps[opened].append) pending[w.steps[opened].op] = false;
        opened += any;
    }
    opened += (int)rnd(&w, (unsigned)(w.n_steps - opened) + 1);
    int step = 0;
    for (; step < opened; step++)
        if (w.steps[step].append) append_entry(&w, w.steps[step].op);
    for (int i = 0; i < w.n_log; i++)
        for (int append = 1; append >= 0; append--) follower[n_follower++] = (step_t){append, w.log[i]};

    time_t now = time(NULL);
    struct tm tm;
    for (int i = 0; i < 2; i++) {
        snapshot_t *s = &snaps[i];
        bool leader = i == 0 || rnd(&w, 2);
        s->steps = leader ? w.steps : follower;
        s->n = i == 0   ? checkpoint
               : leader ? (int)rnd(&w, (unsigned)checkpoint + 1)
                        : (int)rnd(&w, (unsigned)n_follower + 1);
        (void)snprintf(s->dir, sizeof s->dir, "%s/snapshot-%d", w.dir, i);
        localtime_r(&now, &tm);
        (void)strftime(s->name, sizeof s->name, "%Y%m%d%H%M", &tm);
    }
    int complete[2] = {0, 0}, current = 0;
    for (int i = 0; with_snapshot && i < 2; i++)
        complete[i] = write_checkpoint(&w, snaps[i].steps, snaps[i].n, snaps[i].dir);
    age_files(&w, with_snapshot ? complete[0] : 0);

    osync_reader_t *r = open_at(&w, with_snapshot ? &snaps[0] : NULL, &point);
    bool done = false;
    while (!done) {
        osync_reader_row_t row;
        unsigned what = rnd(&w, 100);
        if (what < 20 && step < w.n_steps) {
            if (w.steps[step].append) append_entry(&w, w.steps[step].op);
            step++;
            age_files(&w, with_snapshot ? complete[current] : 0);
        } else if (what < 40) { /* go on in a new reader; now and then in the other snapshot */
            save_point(r, &point);
            osync_reader_close(r);
            if (with_snapshot && what < 25 && w.moves < 6) {
                current = !current;
                w.moves++;
                age_files(&w, complete[current]);
            }
            w.resumes++;
            r = open_at(&w, with_snapshot ? &snaps[current] : NULL, &point);
        } else {
            int rc = osync_reader_next(r, &row, &err);
            if (rc == OSYNC_EOF)
                done = step == w.n_steps;
            else if (rc)
                fail_msg("seed %u: next: %s", seed, err.message);
            else if (what < 50)
                osync_reader_unread(r); /* it comes again, and a point before it leads to it */
            else
                take_row(&w, &row);
        }
    }
    osync_reader_close(r);
    for (int i = 0; i < w.n_log; i++) at[w.log[i]] = i;
    for (int o = 0; o < w.n_ops; o++) {
        if (w.ops[o].is_delete) continue;
        if (w.delivered[o] > 1) fail_history(&w, seed, o, "came twice");
        if (w.delivered[o] == 0 && !excused(&w, o, at)) fail_history(&w, seed, o, "is lost");
    }
    *resumes += w.resumes;
    *moves += w.moves;
    log_writer_close(&w.writer);
    osync_table_free(w.table);
    osync__buf_free(&point);
    assert_int_equal(osync__rmtree(w.dir, &err), 0);
}

static unsigned histories(void) {
    const char *n = getenv("OSYNC_HISTORIES");
    return n ? (unsigned)strtoul(n, NULL, 10) : 100;
}

static void test_histories(void **state) {
    int resumes = 0, moves = 0;
    (void)state;
    for (unsigned seed = 1; seed <= histories(); seed++) one_history(seed, true, &resumes, &moves);
    print_message("%u histories, %d resumes, %d of them in another snapshot: none lost, none twice\n", histories(),
                  resumes, moves);
    assert_true(resumes > 100 && moves > 50);
}

static void test_histories_without_snapshot(void **state) {
    int resumes = 0, moves = 0;
    (void)state;
    for (unsigned seed = 1; seed <= histories(); seed++) one_history(seed, false, &resumes, &moves);
    print_message("%u histories without a snapshot, %d resumes: none lost, none twice\n", histories(), resumes);
}

/* ---- golden tables ---- */

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
    osync_reader_config_init(&c);
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
    g.has_snapshot = !osync_snapshot_name((char *)path.data, &g.name, &err);
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

/* Rows that are left out cost time too: it says so now and then, and can be resumed there. */
static void test_pauses_while_rows_are_left_out(void **state) {
    enum { ENTRIES = 20000 };
    world_t w = {.seed = 1};
    osync_error_t err = {0};
    osync__buf_t point = {0};
    golden_t g = {0};
    int pauses = 0, rc;
    (void)state;
    (void)snprintf(w.dir, sizeof w.dir, "/tmp/osync-reader-XXXXXX");
    assert_non_null(mkdtemp(w.dir));
    (void)snprintf(g.binlog, sizeof g.binlog, "%s/binlog", w.dir);
    (void)snprintf(g.scratch, sizeof g.scratch, "%s/scratch", w.dir);
    assert_int_equal(osync__mkdirs(g.binlog, &err), 0);
    make_table(&w);
    assert_int_equal(log_writer_open(&w.writer, g.binlog, 1 << 30, NULL, NULL, &err), 0);
    w.ops[0] = (op_t){.pk = 0, .ts = 1};
    w.ops[1] = (op_t){.pk = 0, .ts = 2};
    for (int i = 1; i <= ENTRIES; i++) write_entry(&w, i == ENTRIES, (uint64_t)i);
    assert_int_equal(log_writer_flush(&w.writer, &err), 0);
    g.table = w.table;
    g.start_ts = 2;
    osync_reader_row_t row;
    osync_reader_t *r = open_golden(&g, &point, true);
    while ((rc = osync_reader_next(r, &row, &err)) == OSYNC_EAGAIN) {
        pauses++;
        save_point(r, &point);
        osync_reader_close(r);
        r = open_golden(&g, &point, true);
    }
    assert_int_equal(rc, 0);
    assert_int_equal(row.offset, ENTRIES);
    assert_in_range(pauses, 2, ENTRIES / 1000);
    assert_int_equal(osync_reader_next(r, &row, &err), OSYNC_EOF);
    osync_reader_close(r);
    log_writer_close(&w.writer);
    osync_table_free(w.table);
    osync__buf_free(&point);
    assert_int_equal(osync__rmtree(w.dir, &err), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_resumed_after_each_row),
        cmocka_unit_test(test_pauses_while_rows_are_left_out),
        cmocka_unit_test(test_histories),
        cmocka_unit_test(test_histories_without_snapshot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
