/* Where snapshot, log and fail-overs meet: random histories of a partition with two replicas, read by the real reader
 * through real links, binlogs and RocksDB checkpoints. Puts and deletes whose order in RocksDB and in the log differ,
 * overwrites, expiry, snapshots, purges, torn tails, a leader that moves and loses its tail; the reader is rewound,
 * and handed from one replica to the other, at any row. Audited by event: each put that the last leader's log holds
 * came out exactly once, unless something replaced it before it could be read; and the reader refuses only what it
 * must.
 *
 * OSYNC_HISTORIES=n and OSYNC_SEED=s run the histories of seeds s to s+n-1; one that fails names its seed, which fails
 * alone as well. OSYNC_TRACE=1 prints what happens. OSYNC_TMP: a folder for the files, best in memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <rocksdb/c.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../tablet/log_writer.h"
#include "../tablet/row_builder.h"
#include "base/error.h"
#include "base/sys.h"
#include "collector/links.h"
#include "format/binlog.h"
#include "format/row.h"
#include "format/snapshot.h"
#include "osync/log.h"
#include "osync/reader.h"

enum {
    PKS = 5,
    STAMPS = 5,
    MAX_OPS = 96,
    MAX_OUT = 4 * MAX_OPS,
    MAX_SNAPSHOTS = 4, /* of a replica, the newest ones */
    MAX_TICKS = 280,   /* minutes: the clocks of a history begin as long ago */
    LAT_TTL = 2,
};

/* ---- what a history is made of ---- */

typedef enum kind { PUT, DELETE, DELETE_WIDE, OTHER_INDEX } kind_t;

/* An event. Its id (the place in `ops`) is the order in which leaders have applied them, and stands in a put's row. */
typedef struct op {
    kind_t kind;
    int pk, stamp; /* a delete takes the stamps from `stamp` down to `above`, exclusive */
    int above;
    uint64_t term; /* 0: it never came into a log */
} op_t;

typedef struct state {
    int row[PKS][STAMPS + 1]; /* op that put it, or -1 */
} state_t;

typedef struct snap {
    state_t state;
    int tick;
    bool flying[MAX_OPS]; /* applied, but not logged, when it was made */
    int complete;         /* log entries that were applied then, without a gap */
    bool written;
} snap_t;

typedef struct replica {
    char dir[320];
    int number;
    log_writer_t writer;
    bool open, torn; /* torn: op log[n_log] is written half */
    int torn_op;
    int log[MAX_OPS]; /* op of log index i+1 */
    int n_log;
    int first;     /* index of the oldest entry that was written here */
    int n_applied; /* a follower's: entries */
    state_t state;
    snap_t snaps[MAX_SNAPSHOTS];
    int n_snaps;
    int generation; /* of the files: 1 more when the partition is made anew */
} replica_t;

/* A collector's folder beside a replica. */
typedef struct folder {
    char dir[320], binlog[340], snapshot[340];
    osync__links_t links;
    int generation; /* of the replica's files that are linked */
    bool has_snapshot;
} folder_t;

/* What is committed: a point, what was delivered before it, and the log that it stands on. */
typedef struct commit {
    osync__buf_t point;
    int n_out;
    int seen[MAX_OPS];
    int n_seen;
    int lineage_from;
} commit_t;

typedef struct counts {
    uint64_t histories, rows, events, lost_events, excused, resumes, traversing, other_snapshot, other_replica,
        failovers, rewinds, cuts, waits, diverged, gaps, refused, purges, snapshots;
} counts_t;

typedef struct world {
    uint64_t seed, random;
    char dir[300];
    osync_table_t *table;
    int ttl; /* OPENMLDB__TYPE__TTLTYPE__..., -1: none */
    int start_stamp;
    bool with_snapshots;
    int roll_percent; /* how often a log file ends */
    bool clock_lies;  /* files look older than they are now and then */
    time_t zero;
    int tick;
    op_t ops[MAX_OPS];
    int n_ops, max_ops;
    int flying[3], n_flying;
    replica_t replicas[2];
    int leader;
    uint64_t term;
    folder_t folders[2];
    int at; /* the replica that is read */
    osync_reader_t *reader;
    int out[MAX_OUT], n_out;
    int max_tail; /* of all windows */
    commit_t committed;
    counts_t n;
} world_t;

static bool tracing;

static void trace(const world_t *w, const char *fmt, ...) OSYNC_PRINTF(2, 3);
static void trace(const world_t *w, const char *fmt, ...) {
    if (!tracing) return;
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "%3d  ", w->tick);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
}

/* Histories run in processes of their own, where cmocka's asserts lead nowhere. */
static void give_up(const world_t *w, const char *fmt, ...) OSYNC_PRINTF(2, 3) __attribute__((noreturn));
static void give_up(const world_t *w, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "seed %llu: ", (unsigned long long)w->seed);
    vfprintf(stderr, fmt, ap);
    fprintf(stderr, "\n  (OSYNC_SEED=%llu OSYNC_HISTORIES=1 OSYNC_TRACE=1)\n", (unsigned long long)w->seed);
    va_end(ap);
    exit(1);
}
#define MUST(w, x)                                                                                                     \
    do {                                                                                                               \
        if (!(x)) give_up(w, "line %d: %s", __LINE__, #x);                                                             \
    } while (0)

static unsigned rnd(world_t *w, int n) {
    uint64_t z = (w->random += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (unsigned)((z ^ z >> 31) % (unsigned)n);
}

static bool chance(world_t *w, int percent) {
    return (int)rnd(w, 100) < percent;
}

static const char *pk_name(int pk) {
    static const char *const names[PKS] = {"a", "ab", "b", "", "abc"};
    return names[pk];
}

/* Stamp 1 is long ago, the others are far ahead. */
static uint64_t ts_of(int stamp) {
    return stamp == 1 ? 1000 : 4102444800000u + (uint64_t)stamp;
}

static bool absolute_ttl(const world_t *w) {
    return w->ttl == OPENMLDB__TYPE__TTLTYPE__kAbsoluteTime || w->ttl == OPENMLDB__TYPE__TTLTYPE__kAbsOrLat;
}

static Openmldb__Common__ColumnDesc column_desc[3], *columns[3];

static osync_table_t *make_table(int ttl_type) {
    static char names[3][3] = {"k", "ts", "id"};
    static const int types[3] = {OPENMLDB__TYPE__DATA_TYPE__kString, OPENMLDB__TYPE__DATA_TYPE__kTimestamp,
                                 OPENMLDB__TYPE__DATA_TYPE__kBigInt};
    static char index_name[] = "idx0";
    static char *col_names[] = {names[0]};
    Openmldb__Api__TableMeta meta = OPENMLDB__API__TABLE_META__INIT;
    Openmldb__Common__ColumnKey key = OPENMLDB__COMMON__COLUMN_KEY__INIT, *keys[] = {&key};
    Openmldb__Common__TTLSt ttl = OPENMLDB__COMMON__TTLST__INIT;
    osync_table_t *table = NULL;
    osync_error_t err = {0};
    for (int i = 0; i < 3; i++) {
        openmldb__common__column_desc__init(&column_desc[i]);
        column_desc[i].name = names[i];
        column_desc[i].has_data_type = true;
        column_desc[i].data_type = (Openmldb__Type__DataType)types[i];
        columns[i] = &column_desc[i];
    }
    key.index_name = index_name;
    key.n_col_name = 1;
    key.col_name = col_names;
    key.ts_name = names[1];
    if (ttl_type >= 0) {
        key.ttl = &ttl;
        ttl.has_ttl_type = ttl.has_abs_ttl = ttl.has_lat_ttl = true;
        ttl.ttl_type = (Openmldb__Type__TTLType)ttl_type;
        ttl.abs_ttl = 1;
        ttl.lat_ttl = LAT_TTL;
    }
    meta.n_column_desc = 3;
    meta.column_desc = columns;
    meta.n_column_key = 1;
    meta.column_key = keys;
    meta.has_storage_mode = true;
    meta.storage_mode = OPENMLDB__COMMON__STORAGE_MODE__kSSD;
    if (osync__table_from_meta(&table, &meta, &err)) {
        fprintf(stderr, "table: %s\n", err.message);
        exit(1);
    }
    return table;
}

/* ---- the tablet's files ---- */

static time_t time_of(const world_t *w, int tick) {
    return w->zero + 60 * (time_t)tick;
}

static void set_time(const world_t *w, const char *path, time_t at) {
    struct timespec times[2] = {{.tv_sec = at}, {.tv_sec = at}};
    MUST(w, utimensat(AT_FDCWD, path, times, 0) == 0);
}

static void log_path(const world_t *w, const replica_t *r, unsigned number, char *out, size_t size) {
    int n = snprintf(out, size, "%s/binlog/%08u.log", r->dir, number);
    MUST(w, n > 0 && (size_t)n < size);
}

/* The log's last file, or one before it. */
static void stamp_log(world_t *w, const replica_t *r, size_t before_last) {
    char path[400];
    int tick = w->clock_lies && chance(w, 40) ? w->tick - 30 : w->tick;
    if (r->writer.n_files <= before_last) return;
    log_path(w, r, r->writer.files[r->writer.n_files - 1 - before_last].number, path, sizeof path);
    set_time(w, path, time_of(w, tick));
}

static void roll_log(world_t *w, replica_t *r) {
    osync_error_t err = {0};
    MUST(w, log_writer_roll(&r->writer, &err) == 0);
    stamp_log(w, r, 1);
    stamp_log(w, r, 0);
}

static void encode_row(const world_t *w, int op, osync__buf_t *out) {
    osync_error_t err = {0};
    const op_t *o = &w->ops[op];
    const char *pk = pk_name(o->pk);
    cell_t cells[3] = {{.str = pk, .len = strlen(pk)}, {.i = (int64_t)ts_of(o->stamp)}, {.i = op}};
    MUST(w, row_build(columns, 3, 1, cells, out, &err) == 0);
}

static void encode_entry(const world_t *w, int op, uint64_t log_index, osync__buf_t *out) {
    const op_t *o = &w->ops[op];
    osync__buf_t value = {0};
    uint8_t pk[8];
    size_t pk_len = strlen(pk_name(o->pk));
    memcpy(pk, pk_name(o->pk), pk_len);
    Openmldb__Api__LogEntry e = OPENMLDB__API__LOG_ENTRY__INIT;
    Openmldb__Api__Dimension d = OPENMLDB__API__DIMENSION__INIT, *dims[] = {&d};
    char ts_name[] = "ts";
    e.has_term = e.has_log_index = true;
    e.term = o->term;
    e.log_index = log_index;
    d.has_key = d.has_idx = true;
    d.key = (ProtobufCBinaryData){.data = pk, .len = pk_len};
    d.idx = o->kind == OTHER_INDEX;
    e.n_dimensions = 1;
    e.dimensions = dims;
    if (o->kind == DELETE || o->kind == DELETE_WIDE) {
        e.has_method_type = true;
        e.method_type = OPENMLDB__API__METHOD_TYPE__kDelete;
        e.has_ts = o->stamp < STAMPS;
        e.ts = ts_of(o->stamp);
        e.has_end_ts = o->above > 0;
        e.end_ts = o->above > 0 ? ts_of(o->above) : 0;
        if (o->kind == DELETE_WIDE) {
            e.n_dimensions = 0;
            e.ts_name = ts_name;
        }
    } else {
        encode_row(w, op, &value);
        e.has_value = e.has_ts = true;
        e.value = (ProtobufCBinaryData){.data = value.data, .len = value.len};
        e.ts = 1000 + (uint64_t)op;
    }
    out->len = 0;
    MUST(w, osync__buf_reserve(out, openmldb__api__log_entry__get_packed_size(&e)) == 0);
    out->len = openmldb__api__log_entry__pack(&e, out->data);
    osync__buf_free(&value);
}

static void open_files(world_t *w, replica_t *r) {
    char path[400];
    osync_error_t err = {0};
    (void)snprintf(path, sizeof path, "%s/snapshot", r->dir);
    MUST(w, osync__mkdirs(path, &err) == 0);
    (void)snprintf(path, sizeof path, "%s/binlog", r->dir);
    MUST(w, osync__mkdirs(path, &err) == 0);
    MUST(w, log_writer_open(&r->writer, path, 1 << 30, NULL, NULL, &err) == 0);
    r->open = true;
}

/* Files, state and snapshots are gone; what follows is a new partition. */
static void make_anew(world_t *w, replica_t *r) {
    osync_error_t err = {0};
    if (r->open) log_writer_close(&r->writer);
    MUST(w, osync__rmtree(r->dir, &err) == 0);
    r->torn = false;
    r->n_log = r->n_applied = r->n_snaps = 0;
    r->first = 1;
    r->generation++;
    memset(&r->state, -1, sizeof r->state);
    open_files(w, r);
}

static void finish_torn(world_t *w, replica_t *r) {
    osync_error_t err = {0};
    if (!r->torn) return;
    r->torn = false;
    MUST(w, log_writer_flush(&r->writer, &err) == 0);
    r->log[r->n_log++] = r->torn_op;
    stamp_log(w, r, 0);
}

/* What was written half stays so: the tablet ends the file behind the entry before it, and begins another. */
static void restart_log(world_t *w, replica_t *r) {
    r->torn = false;
    r->writer.pending.len = 0;
    if (r->writer.n_files > 0) roll_log(w, r);
}

/* Appends op as entry `index`; half of it only if `torn`. */
static void write_entry(world_t *w, replica_t *r, int op, bool torn) {
    osync_error_t err = {0};
    osync__buf_t payload = {0};
    finish_torn(w, r);
    if (r->writer.n_files > 0 && chance(w, w->roll_percent)) roll_log(w, r);
    encode_entry(w, op, (uint64_t)r->n_log + 1, &payload);
    MUST(w, log_writer_append(&r->writer, (uint64_t)r->n_log + 1, payload.data, payload.len, &err) == 0);
    osync__buf_free(&payload);
    if (torn) {
        const osync__buf_t *p = &r->writer.pending;
        size_t half = 1 + rnd(w, (int)p->len - 1);
        MUST(w, pwrite(r->writer.fd, p->data, half, (off_t)r->writer.size) == (ssize_t)half);
        r->torn = true;
        r->torn_op = op;
    } else {
        MUST(w, log_writer_flush(&r->writer, &err) == 0);
        r->log[r->n_log++] = op;
    }
    stamp_log(w, r, 0);
}

static bool hits(const op_t *del, const op_t *put) {
    return (del->kind == DELETE_WIDE || del->pk == put->pk) && del->stamp >= put->stamp && put->stamp > del->above;
}

static void apply(const world_t *w, state_t *s, int op) {
    const op_t *o = &w->ops[op];
    if (o->kind == PUT) s->row[o->pk][o->stamp] = op;
    if (o->kind != DELETE && o->kind != DELETE_WIDE) return;
    for (int pk = 0; pk < PKS; pk++)
        for (int stamp = 1; stamp <= STAMPS; stamp++)
            if (hits(o, &(op_t){.pk = pk, .stamp = stamp})) s->row[pk][stamp] = -1;
}

/* ---- snapshots ---- */

/* Compaction drops some of the rows that have expired. */
static void compact(world_t *w, state_t *s) {
    for (int pk = 0; pk < PKS; pk++)
        for (int stamp = STAMPS, k = 0; stamp > 0; stamp--) {
            if (s->row[pk][stamp] < 0) continue;
            uint64_t now = (uint64_t)time(NULL) * 1000;
            if (osync__ttl_expired(&w->table->ttl, now, ts_of(stamp), (uint64_t)++k) && chance(w, 50))
                s->row[pk][stamp] = -1;
        }
}

static void take_snapshot(world_t *w, replica_t *r) {
    bool leads = r == &w->replicas[w->leader];
    if (r->n_snaps == MAX_SNAPSHOTS) memmove(r->snaps, r->snaps + 1, (size_t)--r->n_snaps * sizeof *r->snaps);
    snap_t *s = &r->snaps[r->n_snaps++];
    *s = (snap_t){.state = r->state, .tick = w->tick, .complete = leads ? r->n_log : r->n_applied};
    for (int i = 0; leads && i < w->n_flying; i++) s->flying[w->flying[i]] = true;
    if (leads && r->torn) s->flying[r->torn_op] = true;
    compact(w, &s->state);
    w->n.snapshots++;
    trace(w, "replica %d: snapshot, complete up to %d", r->number, s->complete);
}

/* Everything that was applied before it is logged: what the reader's caller waits a minute for. */
static bool settled(const replica_t *r, const snap_t *s) {
    for (int op = 0; op < MAX_OPS; op++) {
        bool logged = !s->flying[op];
        for (int i = 0; i < r->n_log && !logged; i++) logged = r->log[i] == op;
        if (!logged) return false;
    }
    return true;
}

static rocksdb_options_t *plain_options(void) {
    rocksdb_options_t *o = rocksdb_options_create();
    rocksdb_options_set_create_if_missing(o, 1);
    rocksdb_options_set_create_missing_column_families(o, 1);
    rocksdb_options_set_manifest_preallocation_size(o, 4096);
    rocksdb_options_set_stats_dump_period_sec(o, 0);
    rocksdb_options_set_stats_persist_period_sec(o, 0);
    rocksdb_options_set_write_buffer_size(o, 1 << 16);
    return o;
}

static void write_rocksdb(const world_t *w, const state_t *s, const char *dir) {
    char *text = NULL;
    rocksdb_comparator_t *comparator = osync__key_comparator();
    rocksdb_options_t *plain = plain_options(), *keyed = plain_options();
    rocksdb_options_set_comparator(keyed, comparator);
    const char *names[] = {"default", "idx0"};
    const rocksdb_options_t *options[] = {plain, keyed};
    rocksdb_column_family_handle_t *cf[2];
    rocksdb_t *db = rocksdb_open_column_families(plain, dir, 2, names, options, cf, &text);
    MUST(w, !text);
    rocksdb_writeoptions_t *wo = rocksdb_writeoptions_create();
    rocksdb_writeoptions_disable_WAL(wo, 1);
    for (int pk = 0; pk < PKS; pk++)
        for (int stamp = 1; stamp <= STAMPS; stamp++) {
            if (s->row[pk][stamp] < 0) continue;
            osync__buf_t key = {0}, value = {0};
            MUST(w, osync__key_encode(w->table, pk_name(pk), strlen(pk_name(pk)), ts_of(stamp), &key) == 0);
            encode_row(w, s->row[pk][stamp], &value);
            rocksdb_put_cf(db, wo, cf[1], (const char *)key.data, key.len, (const char *)value.data, value.len, &text);
            MUST(w, !text);
            osync__buf_free(&key);
            osync__buf_free(&value);
        }
    rocksdb_flushoptions_t *fo = rocksdb_flushoptions_create();
    rocksdb_flush_cf(db, fo, cf[1], &text);
    MUST(w, !text);
    rocksdb_flushoptions_destroy(fo);
    rocksdb_writeoptions_destroy(wo);
    rocksdb_column_family_handle_destroy(cf[0]);
    rocksdb_column_family_handle_destroy(cf[1]);
    rocksdb_close(db);
    rocksdb_options_destroy(plain);
    rocksdb_options_destroy(keyed);
    rocksdb_comparator_destroy(comparator);
}

/* Makes it the snapshot that the replica's MANIFEST names. The offset there lags, or runs ahead. */
static void write_snapshot(world_t *w, replica_t *r, snap_t *s, int skew) {
    char name[16], path[400], text[160];
    struct tm tm;
    time_t at = time_of(w, s->tick);
    osync_error_t err = {0};
    if (s->written) return;
    s->written = true;
    gmtime_r(&at, &tm);
    (void)strftime(name, sizeof name, "%Y%m%d%H%M", &tm);
    (void)snprintf(path, sizeof path, "%s/snapshot/%s", r->dir, name);
    MUST(w, osync__mkdirs(path, &err) == 0);
    write_rocksdb(w, &s->state, path);
    (void)snprintf(path, sizeof path, "%s/snapshot/%s/CURRENT", r->dir, name);
    set_time(w, path, at + 20);
    int offset = s->complete + skew;
    (void)snprintf(text, sizeof text, "offset: %d\nname: \"%s\"\ncount: 1\nterm: 1\n", offset < 0 ? 0 : offset, name);
    (void)snprintf(path, sizeof path, "%s/snapshot/MANIFEST", r->dir);
    (void)unlink(path); /* it is linked elsewhere */
    MUST(w, osync__write_file(path, text, strlen(text), &err) == 0);
    set_time(w, path, at + 30);
}

/* ---- what happens at the tablets ---- */

static void close_reader(world_t *w) {
    osync_reader_close(w->reader);
    w->reader = NULL;
}

static bool is_prefix(const replica_t *a, const replica_t *of) {
    return a->n_log <= of->n_log && memcmp(a->log, of->log, (size_t)a->n_log * sizeof *a->log) == 0;
}

static int new_op(world_t *w) {
    op_t *o = &w->ops[w->n_ops];
    *o = (op_t){.pk = (int)rnd(w, PKS), .stamp = 1 + (int)rnd(w, STAMPS)};
    int kind = (int)rnd(w, 100);
    if (kind < 6) o->kind = OTHER_INDEX;
    if (kind >= 6 && kind < 20) {
        o->kind = kind < 9 ? DELETE_WIDE : DELETE;
        if (chance(w, 50)) {
            o->stamp = STAMPS;
        } else {
            o->above = o->stamp - 1;
        }
    }
    return w->n_ops++;
}

/* A leader applies, and then appends, several at a time, so that the orders differ. */
static void leader_step(world_t *w) {
    replica_t *r = &w->replicas[w->leader];
    if (w->n_ops < w->max_ops && w->n_flying < 3 && (w->n_flying == 0 || chance(w, 50))) {
        int op = new_op(w);
        apply(w, &r->state, op);
        w->flying[w->n_flying++] = op;
    } else if (w->n_flying > 0) {
        int i = (int)rnd(w, w->n_flying), op = w->flying[i];
        w->flying[i] = w->flying[--w->n_flying];
        w->ops[op].term = w->term;
        write_entry(w, r, op, chance(w, 8));
        trace(w, "replica %d: entry %d is op %d (%s %s %d), term %d%s", r->number, r->n_log + r->torn, op,
              (const char *[]){"put", "delete", "delete all", "other index"}[w->ops[op].kind], pk_name(w->ops[op].pk),
              w->ops[op].stamp, (int)w->term, r->torn ? ", half" : "");
    }
}

/* A follower appends, and then applies, one after the other. */
static void follower_step(world_t *w) {
    replica_t *leader = &w->replicas[w->leader], *r = &w->replicas[!w->leader];
    if (!is_prefix(r, leader)) return;
    finish_torn(w, r);
    if (r->n_applied < r->n_log) {
        apply(w, &r->state, r->log[r->n_applied++]);
        return;
    }
    if (r->n_log == leader->n_log) return;
    write_entry(w, r, leader->log[r->n_log], chance(w, 5));
    trace(w, "replica %d: follows up to %d", r->number, r->n_log);
}

static void apply_all(world_t *w, replica_t *r) {
    memset(&r->state, -1, sizeof r->state);
    for (r->n_applied = 0; r->n_applied < r->n_log; r->n_applied++) apply(w, &r->state, r->log[r->n_applied]);
}

/* The other replica leads on; what it doesn't have is lost, unless its own tail is what comes back. */
static void fail_over(world_t *w) {
    restart_log(w, &w->replicas[w->leader]);
    apply_all(w, &w->replicas[w->leader]);
    w->leader = !w->leader;
    w->term++;
    w->n_flying = 0;
    replica_t *r = &w->replicas[w->leader];
    if (r->torn || chance(w, 30)) restart_log(w, r);
    apply_all(w, r);
    w->n.failovers++;
    trace(w, "replica %d leads with %d entries, term %d; the other had %d", r->number, r->n_log, (int)w->term,
          w->replicas[!w->leader].n_log);
}

/* The tablet removes what its newest snapshot makes unnecessary. */
static void purge(world_t *w, replica_t *r) {
    osync_error_t err = {0};
    if (r->n_snaps == 0 || r->torn) return;
    MUST(w, log_writer_purge(&r->writer, (uint64_t)r->snaps[r->n_snaps - 1].complete, &err) == 0);
    w->n.purges++;
    trace(w, "replica %d: purged", r->number);
}

/* A replica that was left behind gets the partition anew: all of the log, or a snapshot and what follows it. */
static void bring_up_to_date(world_t *w) {
    replica_t *leader = &w->replicas[w->leader], *r = &w->replicas[!w->leader];
    if (is_prefix(r, leader)) return;
    if (w->at == r->number) close_reader(w); /* who reads there is handed elsewhere */
    make_anew(w, r);
    int skip = w->with_snapshots && chance(w, 20) ? (int)rnd(w, leader->n_log + 1) : 0;
    int upto = skip + (int)rnd(w, leader->n_log - skip + 1);
    for (int i = 0; i < upto; i++) {
        if (i >= skip)
            write_entry(w, r, leader->log[i], false);
        else
            r->log[r->n_log++] = leader->log[i];
    }
    r->first = skip + 1;
    apply_all(w, r);
    if (skip > 0) { /* the leader's snapshot, under the leader's name */
        if (r->writer.n_files == 0) roll_log(w, r);
        snap_t *s = &r->snaps[r->n_snaps++];
        *s = (snap_t){.tick = w->tick, .complete = skip};
        memset(&s->state, -1, sizeof s->state);
        for (int i = 0; i < skip; i++) apply(w, &s->state, leader->log[i]);
    }
    trace(w, "replica %d: made anew with entries %d to %d", r->number, r->first, r->n_log);
}

/* ---- the reader ---- */

static void wipe(world_t *w, folder_t *f) {
    osync_error_t err = {0};
    MUST(w, osync__rmtree(f->dir, &err) == 0);
    f->links.lowest = 0;
    f->has_snapshot = false;
}

static Openmldb__Datasync__SyncPoint *unpack(const world_t *w, const void *point, size_t len) {
    Openmldb__Datasync__SyncPoint *p = openmldb__datasync__sync_point__unpack(NULL, len, point);
    MUST(w, p);
    return p;
}

static void free_point(Openmldb__Datasync__SyncPoint *p) {
    openmldb__datasync__sync_point__free_unpacked(p, NULL);
}

/* Everything read so far is committed. */
static void commit(world_t *w) {
    const replica_t *r = &w->replicas[w->at];
    commit_t *c = &w->committed;
    const void *point;
    size_t len;
    osync_error_t err = {0};
    int rc = osync_reader_point(w->reader, &point, &len, &err);
    if (rc) give_up(w, "point: %s", err.message);
    c->point.len = 0;
    MUST(w, osync__buf_append(&c->point, point, len) == 0);
    c->n_out = w->n_out;
    Openmldb__Datasync__SyncPoint *p = unpack(w, point, len);
    int seen = p->offset > 0 ? (int)p->offset - 1 : 0;
    for (size_t i = 0; i < p->n_ranges; i++) {
        int base = (int)p->ranges[i]->window_base, tail = (int)p->ranges[i]->window_tail;
        if (tail > seen) seen = tail;
        if (i == 0 || base + 1 < c->lineage_from) c->lineage_from = base + 1;
        if (tail > w->max_tail) w->max_tail = tail;
    }
    free_point(p);
    MUST(w, seen <= r->n_log);
    memcpy(c->seen, r->log, (size_t)seen * sizeof *c->seen);
    c->n_seen = seen;
}

static void begin_anew(world_t *w) {
    w->committed.point.len = 0;
    w->committed.n_out = w->committed.n_seen = 0;
    w->committed.lineage_from = 1;
    w->n_out = w->max_tail = 0;
}

static uint64_t newest_term(const world_t *w, const replica_t *r) {
    return r->n_log > 0 ? w->ops[r->log[r->n_log - 1]].term : 0;
}

/* How the opening has to end: 0, or one of the errors. */
typedef struct expected {
    bool success, wait, diverged, gap;
    int next; /* success: log index it has to go on with; 0 is any */
} expected_t;

/* The oldest entry that is linked; 0: none. *hole: a file in the middle was purged before it was linked. */
static int oldest_linked(const world_t *w, bool *hole) {
    osync__binlog_t *log = NULL;
    const osync__log_file_t *files;
    osync_error_t err = {0};
    MUST(w, osync__binlog_open(&log, w->folders[w->at].binlog, &err) == 0);
    int oldest = (int)osync__binlog_oldest(log);
    size_t n = osync__binlog_files(log, &files);
    *hole = n > 0 && files[n - 1].number - files[0].number + 1 != n;
    osync__binlog_close(log);
    return oldest;
}

static expected_t expect(world_t *w) {
    const replica_t *r = &w->replicas[w->at];
    const commit_t *c = &w->committed;
    expected_t x = {0};
    bool hole;
    int oldest = oldest_linked(w, &hole);
    x.gap = hole;
    if (c->point.len == 0) {
        x.wait = oldest == 0 && w->folders[w->at].has_snapshot;
        x.success = !x.wait;
        x.gap |= oldest > 1 || (oldest == 0 && r->first > 1);
        return x;
    }
    Openmldb__Datasync__SyncPoint *p = unpack(w, c->point.data, c->point.len);
    bool follows = p->type == OPENMLDB__DATASYNC__SYNC_TYPE__kBINLOG, other = !follows;
    int common = 0, need = follows ? (int)p->offset : MAX_OPS;
    while (common < c->n_seen && common < r->n_log && c->seen[common] == r->log[common]) common++;
    uint64_t term = c->n_seen > 0 ? w->ops[c->seen[c->n_seen - 1]].term : 0;
    for (size_t i = 0; i < p->n_ranges; i++)
        if ((int)p->ranges[i]->window_base + 1 < need) need = (int)p->ranges[i]->window_base + 1;
    if (common == c->n_seen) {
        x.success = true;
        if (follows && p->n_ranges == 0) x.next = (int)p->offset;
    } else if (newest_term(w, r) <= term) {
        x.wait = true;
    } else if (p->n_ranges > 0) {
        x.diverged = true;
    } else {
        /* It must go on behind the last common entry, if that can be known. */
        x.success = common > 0 && common >= (int)p->last_tail;
        x.next = common + 1;
        x.diverged = !x.success || common < oldest || common < c->lineage_from;
    }
    /* The entry before the next is proof of its own. */
    x.gap |= oldest > need || (follows && oldest > 1 && oldest >= need) || (other && oldest > 1);
    x.wait |= oldest == 0;
    free_point(p);
    return x;
}

/* A third of the histories hold their windows in memory, a third in the scratch database, and the others move there
 * with the second key or so. */
static size_t window_memory(const world_t *w, size_t usual) {
    const size_t memory[] = {usual, 0, 2100};
    return memory[w->seed % 3];
}

/* As a collector does: links, then the reader, and what isn't needed any more is dropped once that is open. Returns
 * the reader's error. */
static int open_reader(world_t *w) {
    replica_t *r = &w->replicas[w->at];
    folder_t *f = &w->folders[w->at];
    commit_t *c = &w->committed;
    osync_reader_config_t config;
    char name[256], data[400], scratch[400];
    uint64_t made;
    osync_error_t err = {0};
    bool traverses = true;
    Openmldb__Datasync__SyncPoint *p = NULL;
    if (c->point.len > 0) {
        p = unpack(w, c->point.data, c->point.len);
        traverses = p->type == OPENMLDB__DATASYNC__SYNC_TYPE__kSNAPSHOT;
    }
    if (f->generation != r->generation || c->point.len == 0) wipe(w, f);
    f->generation = r->generation;
    if (traverses && !f->has_snapshot && w->with_snapshots && r->n_snaps > 0) {
        snap_t *s = &r->snaps[r->n_snaps - 1];
        finish_torn(w, r);
        while (!settled(r, s) && r == &w->replicas[w->leader] && w->n_flying > 0) {
            leader_step(w);
            finish_torn(w, r);
        }
        if (!settled(r, s)) { /* nor will it ever be */
            r->n_snaps--;
            if (p) free_point(p);
            return open_reader(w);
        }
        write_snapshot(w, r, s, (int)rnd(w, 7) - 3);
    }
    int rc = osync__links_all(&f->links, traverses, true, &err);
    if (!rc && p && chance(w, 50)) rc = osync__links_release(&f->links, p, &err);
    if (rc) give_up(w, "links: %s", err.message);
    (void)snprintf(data, sizeof data, "%s/data", f->snapshot);
    (void)snprintf(scratch, sizeof scratch, "%s/scratch", f->dir);
    f->has_snapshot = osync__links_snapshot_info(&f->links, name, sizeof name, &made, &err) == 0;
    osync_reader_config_init(&config, sizeof config);
    config.binlog_dir = f->binlog;
    config.snapshot_dir = f->has_snapshot ? data : NULL;
    config.snapshot_name = f->has_snapshot ? name : NULL;
    config.scratch_dir = scratch;
    config.start_ts = w->start_stamp > 0 ? ts_of(w->start_stamp) : 0;
    config.point = c->point.data;
    config.point_len = c->point.len;
    config.window_memory = window_memory(w, config.window_memory);
    expected_t x = expect(w);
    err.message[0] = 0;
    rc = osync_reader_open(&w->reader, w->table, &config, &err);
    trace(w, "reader at replica %d, %s: %d %s", w->at,
          c->point.len == 0 ? "from scratch"
          : traverses       ? "in the traverse"
                            : "in the log",
          rc, err.message);
    bool good = rc == 0                 ? x.success
                : rc == OSYNC_EAGAIN    ? x.wait
                : rc == OSYNC_EDIVERGED ? x.diverged
                                        : rc == OSYNC_EGAP && x.gap;
    if (!good)
        give_up(w, "tick %d: opening ends with %s (%s); expected:%s%s%s%s", w->tick,
                rc ? osync_err_name(rc) : "success", err.message, x.success ? " success" : "", x.wait ? " waiting" : "",
                x.diverged ? " diverged" : "", x.gap ? " gap" : "");
    if (rc == 0) {
        uint64_t before = c->n_seen > 0 ? (uint64_t)c->n_seen : 0;
        const void *point;
        size_t len;
        rc = osync_reader_point(w->reader, &point, &len, &err);
        if (rc) give_up(w, "point: %s", err.message);
        Openmldb__Datasync__SyncPoint *q = unpack(w, point, len);
        uint64_t base, tail;
        osync_reader_window(w->reader, &base, &tail);
        trace(w, "%zu ranges, the first with the window (%d, %d]", q->n_ranges, (int)base, (int)tail);
        if (x.next > 0 && !traverses && (int)q->offset != x.next)
            give_up(w, "tick %d: goes on with entry %d instead of %d", w->tick, (int)q->offset, x.next);
        if (q->type == OPENMLDB__DATASYNC__SYNC_TYPE__kBINLOG && p && !traverses && q->offset <= before) w->n.cuts++;
        if (p && p->snapshot_id && q->snapshot_id && strcmp(p->snapshot_id, q->snapshot_id)) w->n.other_snapshot++;
        for (size_t i = 0; i < q->n_ranges; i++)
            if ((int)q->ranges[i]->window_tail > w->max_tail) w->max_tail = (int)q->ranges[i]->window_tail;
        free_point(q);
        if (p && chance(w, 50) && osync__links_release(&f->links, p, &err)) give_up(w, "release: %s", err.message);
        if (!traverses) f->has_snapshot = false;
    }
    if (p) free_point(p);
    return rc;
}

/* Reads on from what is committed; what came after it is given up. Refused for good, it begins anew. */
static void resume(world_t *w) {
    w->n_out = w->committed.n_out;
    int rc = open_reader(w);
    w->n.resumes++;
    if (w->reader) {
        osync_reader_progress_t progress;
        osync_reader_progress(w->reader, &progress);
        w->n.traversing += progress.traversing;
    }
    if (rc == OSYNC_EAGAIN) {
        w->n.waits++;
    } else if (rc) {
        w->n.diverged += rc == OSYNC_EDIVERGED;
        w->n.gaps += rc == OSYNC_EGAP;
        begin_anew(w);
        /* A snapshot needs a file that began before it, and after another one. */
        replica_t *r = &w->replicas[w->at];
        if (rc == OSYNC_EGAP && r->n_log > 0 && !r->torn) restart_log(w, r);
    } else if (chance(w, 70)) {
        commit(w);
    }
}

static void take_row(world_t *w, const osync_reader_row_t *row) {
    osync__row_t view;
    osync_error_t err = {0};
    if (osync__row_open(&view, w->table, row->value, row->value_len, &err)) give_up(w, "row: %s", err.message);
    int64_t id = osync__row_int(&view, 2, OPENMLDB__TYPE__DATA_TYPE__kBigInt);
    MUST(w, id >= 0 && id < w->n_ops && w->n_out < MAX_OUT);
    const op_t *o = &w->ops[id];
    MUST(w, o->kind == PUT && row->ts == ts_of(o->stamp) && row->pk_len == strlen(pk_name(o->pk)) &&
                !memcmp(row->pk, pk_name(o->pk), row->pk_len));
    if (absolute_ttl(w) && o->stamp == 1) give_up(w, "put %d had expired", (int)id);
    if (o->stamp < w->start_stamp) give_up(w, "put %d is older than start_ts", (int)id);
    trace(w, "row of op %d from the %s", (int)id, row->phase == OSYNC_PHASE_SNAPSHOT ? "snapshot" : "log");
    w->out[w->n_out++] = (int)id;
    w->n.rows++;
}

/* False at the log's end. */
static bool read_row(world_t *w) {
    osync_reader_row_t row;
    osync_error_t err = {0};
    const replica_t *r = &w->replicas[w->at];
    int rc = osync_reader_next(w->reader, &row, &err);
    if (rc == OSYNC_EOF) {
        if (osync__links_binlog(&w->folders[w->at].links, &err)) give_up(w, "links: %s", err.message);
        rc = osync_reader_next(w->reader, &row, &err);
    }
    if (rc == OSYNC_EOF) return false;
    bool hole = false;
    if (rc == OSYNC_EGAP) (void)oldest_linked(w, &hole);
    if (hole || (rc == OSYNC_EGAP && r->first > 1 && w->max_tail == 0)) {
        /* Or there was nothing when the reader began, and it was told to expect entry 1. */
        close_reader(w);
        begin_anew(w);
        w->n.gaps++;
        return false;
    }
    if (rc) give_up(w, "next: %s", err.message);
    if (chance(w, 15))
        osync_reader_unread(w->reader); /* it comes again, and a point before it leads to it */
    else
        take_row(w, &row);
    return true;
}

/* Handed out: to the same replica or the other one, the collector's folder kept or lost. */
static void hand_out(world_t *w, int to, bool wiped) {
    close_reader(w);
    if (to != w->at) w->n.other_replica++;
    w->at = to;
    if (wiped) wipe(w, &w->folders[to]);
    resume(w);
}

static void reader_step(world_t *w) {
    osync_error_t err = {0};
    osync_reader_progress_t progress = {0};
    int what = (int)rnd(w, 100);
    if (w->reader) osync_reader_progress(w->reader, &progress);
    int rows = progress.traversing ? 35 : 60; /* what happens in the traverse is the most interesting */
    if (!w->reader) {
        int often = w->committed.point.len > 0 ? 50 : 20;
        if (what < often) hand_out(w, what < often / 5 ? !w->leader : w->leader, what % 3 == 0);
    } else if (what < rows) {
        for (int n = progress.traversing ? 1 : 1 + (int)rnd(w, 4); n > 0 && read_row(w);) n--;
    } else if (what < rows + 10) {
        commit(w);
        if (chance(w, 30)) {
            folder_t *f = &w->folders[w->at];
            Openmldb__Datasync__SyncPoint *p = unpack(w, w->committed.point.data, w->committed.point.len);
            if (osync__links_release(&f->links, p, &err)) give_up(w, "release: %s", err.message);
            free_point(p);
        }
    } else if (what < 80) {
        if (chance(w, 75)) commit(w);
        w->n.rewinds++;
        if (progress.traversing && chance(w, 30)) take_snapshot(w, &w->replicas[w->at]);
        hand_out(w, w->at, chance(w, 40));
    } else if (what < 93) {
        if (chance(w, 75)) commit(w);
        if (progress.traversing && chance(w, 50)) take_snapshot(w, &w->replicas[!w->at]);
        hand_out(w, !w->at, chance(w, 60));
    } else { /* a hold beside the other replica */
        replica_t *r = &w->replicas[!w->at];
        folder_t *f = &w->folders[!w->at];
        if (f->generation == r->generation && osync__links_binlog(&f->links, &err)) give_up(w, "hold: %s", err.message);
    }
}

/* ---- a history ---- */

/* May the put be missing, given the log that has survived? `at`: log index of an op, 0 if it isn't there. Nothing that
 * was logged behind every window is an excuse. */
static bool excused(const world_t *w, int put, const int *at) {
    const op_t *p = &w->ops[put];
    bool newer[STAMPS + 1] = {false};
    int n = 0;
    if ((absolute_ttl(w) && p->stamp == 1) || p->stamp < w->start_stamp) return true;
    if (at[put] > w->max_tail) return false;
    for (int x = 0; x < w->n_ops; x++) {
        const op_t *o = &w->ops[x];
        if (x == put || at[x] == 0 || at[x] > w->max_tail || o->kind == OTHER_INDEX) continue;
        bool replaces = o->kind == PUT ? o->pk == p->pk && o->stamp == p->stamp : hits(o, p);
        if (replaces && (at[x] > at[put] || x > put)) return true;
        if (o->kind == PUT && o->pk == p->pk && o->stamp > p->stamp) newer[o->stamp] = true;
    }
    for (int i = 1; i <= STAMPS; i++) n += newer[i];
    if (n < LAT_TTL) return false;
    return w->ttl == OPENMLDB__TYPE__TTLTYPE__kLatestTime || w->ttl == OPENMLDB__TYPE__TTLTYPE__kAbsOrLat ||
           (w->ttl == OPENMLDB__TYPE__TTLTYPE__kAbsAndLat && p->stamp == 1);
}

static void audit(world_t *w) {
    const replica_t *leader = &w->replicas[w->leader];
    int at[MAX_OPS] = {0}, times[MAX_OPS] = {0};
    for (int i = 0; i < leader->n_log; i++) at[leader->log[i]] = i + 1;
    for (int i = 0; i < w->n_out; i++) times[w->out[i]]++;
    for (int o = 0; o < w->n_ops; o++) {
        const op_t *p = &w->ops[o];
        if (p->kind != PUT) continue;
        w->n.events++;
        w->n.lost_events += at[o] == 0;
        if (times[o] > 1) give_up(w, "put %d (%s, %d) came %d times", o, pk_name(p->pk), p->stamp, times[o]);
        if (times[o] > 0 || at[o] == 0) continue;
        if (!excused(w, o, at)) give_up(w, "put %d (%s, %d; entry %d) is lost", o, pk_name(p->pk), p->stamp, at[o]);
        w->n.excused++;
    }
}

/* `random`: with TTL, mode 1, no snapshots, or a lying clock now and then; else nothing happens by itself. */
static void make_world(world_t *w, const char *top, uint64_t seed, bool random) {
    static const int ttls[] = {OPENMLDB__TYPE__TTLTYPE__kAbsoluteTime, OPENMLDB__TYPE__TTLTYPE__kLatestTime,
                               OPENMLDB__TYPE__TTLTYPE__kAbsAndLat, OPENMLDB__TYPE__TTLTYPE__kAbsOrLat};
    static char source[2][2][340];
    *w = (world_t){.seed = seed, .random = seed, .ttl = -1, .term = 1, .with_snapshots = true};
    (void)snprintf(w->dir, sizeof w->dir, "%s/%llu", top, (unsigned long long)seed);
    if (random) {
        if (chance(w, 45)) w->ttl = ttls[rnd(w, 4)];
        if (chance(w, 10)) w->start_stamp = 2 + (int)rnd(w, 2);
        w->with_snapshots = chance(w, 90);
        w->max_ops = 8 + (int)rnd(w, 72);
        w->roll_percent = 20;
        /* Which rows a TTL that counts them has dropped can't be told, so that nothing guards against a clock then. */
        w->clock_lies = chance(w, 10) && (w->ttl < 0 || w->ttl == OPENMLDB__TYPE__TTLTYPE__kAbsoluteTime);
    }
    w->table = make_table(w->ttl);
    w->zero = (time(NULL) / 60 - MAX_TICKS - 10) * 60;
    for (int i = 0; i < 2; i++) {
        replica_t *r = &w->replicas[i];
        folder_t *f = &w->folders[i];
        r->number = i;
        (void)snprintf(r->dir, sizeof r->dir, "%s/t%d", w->dir, i);
        (void)snprintf(f->dir, sizeof f->dir, "%s/c%d", w->dir, i);
        (void)snprintf(f->binlog, sizeof f->binlog, "%s/binlog", f->dir);
        (void)snprintf(f->snapshot, sizeof f->snapshot, "%s/snapshot", f->dir);
        make_anew(w, r);
    }
    for (int i = 0; i < 2; i++) {
        folder_t *f = &w->folders[i];
        (void)snprintf(source[i][0], sizeof source[i][0], "%s/snapshot", w->replicas[i].dir);
        (void)snprintf(source[i][1], sizeof source[i][1], "%s/binlog", w->replicas[i].dir);
        f->links = (osync__links_t){.snapshot_source = source[i][0], .binlog_source = source[i][1], .dir = f->dir};
        f->generation = w->replicas[i].generation;
    }
    begin_anew(w);
}

static void free_world(world_t *w) {
    osync_error_t err = {0};
    close_reader(w);
    for (int i = 0; i < 2; i++) log_writer_close(&w->replicas[i].writer);
    osync_table_free(w->table);
    osync__buf_free(&w->committed.point);
    MUST(w, osync__rmtree(w->dir, &err) == 0);
}

static void one_history(const char *top, uint64_t seed, counts_t *sum) {
    static world_t w;
    make_world(&w, top, seed, true);
    trace(&w, "ttl type %d, start stamp %d, snapshots: %d, lying clock: %d", w.ttl, w.start_stamp, w.with_snapshots,
          w.clock_lies);
    int begin = (int)rnd(&w, 140), actions = begin + 25 + (int)rnd(&w, 40);
    for (w.tick = 1; w.tick < actions; w.tick++) {
        int what = (int)rnd(&w, 1000);
        if (w.tick == begin || (w.tick > begin && w.tick < begin + 20 && what < 100))
            take_snapshot(&w, &w.replicas[w.tick == begin ? w.leader : (int)rnd(&w, 2)]);
        else if (w.tick == begin + 1 && what < 700)
            hand_out(&w, w.leader, true);
        else if (w.tick < begin && what < 700) /* rows to begin with */
            what < 400 ? leader_step(&w) : follower_step(&w);
        else if (what < 330)
            leader_step(&w);
        else if (what < 530)
            follower_step(&w);
        else if (what < 580)
            take_snapshot(&w, &w.replicas[rnd(&w, 2)]);
        else if (what < 605)
            purge(&w, &w.replicas[rnd(&w, 2)]);
        else if (what < 616)
            fail_over(&w);
        else if (what < 640)
            bring_up_to_date(&w);
        else if (w.tick > begin)
            reader_step(&w);
    }
    /* All is written, the leader has it, and the reader comes to the end. */
    while (w.n_flying > 0) leader_step(&w);
    finish_torn(&w, &w.replicas[w.leader]);
    w.tick++;
    if (w.with_snapshots && chance(&w, 20)) take_snapshot(&w, &w.replicas[w.leader]);
    if (w.reader) commit(&w);
    for (int i = 0; i < 8 && (!w.reader || i == 0); i++) {
        hand_out(&w, w.leader, i == 0 && chance(&w, 30));
        if (w.reader) break;
        /* An entry of its own term tells that this replica leads; a new snapshot has a file that began before it. */
        w.max_ops = w.n_ops < MAX_OPS ? w.n_ops + 1 : MAX_OPS;
        leader_step(&w);
        while (w.n_flying > 0) leader_step(&w);
        finish_torn(&w, &w.replicas[w.leader]);
        w.tick++;
        w.with_snapshots = true;
        take_snapshot(&w, &w.replicas[w.leader]);
        w.tick++;
    }
    while (w.reader && read_row(&w)) {
    }
    if (w.reader)
        audit(&w);
    else
        w.n.refused++; /* no base can be proven to the end */
    w.n.histories++;
    free_world(&w);
    for (size_t i = 0; i < sizeof w.n / sizeof(uint64_t); i++) ((uint64_t *)sum)[i] += ((uint64_t *)&w.n)[i];
}

/* Runs them in several processes. Returns whether all were well. */
static bool run_histories(const char *top, uint64_t first, uint64_t n, counts_t *sum) {
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t workers = cpus > 0 ? 2 * (uint64_t)cpus : 2; /* RocksDB makes them wait now and then */
    bool good = true;
    if (workers > n) workers = n;
    counts_t *shared =
        mmap(NULL, (size_t)workers * sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(shared != MAP_FAILED);
    fflush(NULL);
    for (uint64_t i = 0; i < workers; i++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid > 0) continue;
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (uint64_t h = i; h < n; h += workers) one_history(top, first + h, &shared[i]);
        exit(0);
    }
    for (uint64_t i = 0; i < workers; i++) {
        int status;
        assert_true(wait(&status) > 0);
        good &= WIFEXITED(status) && WEXITSTATUS(status) == 0;
    }
    for (uint64_t i = 0; i < workers; i++)
        for (size_t k = 0; k < sizeof *sum / sizeof(uint64_t); k++) ((uint64_t *)sum)[k] += ((uint64_t *)&shared[i])[k];
    munmap(shared, (size_t)workers * sizeof *shared);
    return good;
}

static uint64_t number_from(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text && *text ? strtoull(text, NULL, 10) : otherwise;
}

static char top_dir[256];

/* The first test: RocksDB's threads wouldn't survive the fork. */
static void test_histories(void **state) {
    (void)state;
    counts_t c = {0};
    uint64_t n = number_from("OSYNC_HISTORIES", 300), seed = number_from("OSYNC_SEED", 1), begin = osync__mono_ms();
    assert_true(run_histories(top_dir, seed, n, &c));
    assert_int_equal(c.histories, n);
    print_message("%llu histories from seed %llu in %llu s: %llu puts (%llu lost with a leader, %llu replaced before "
                  "they were read), %llu rows; %llu snapshots, %llu purges, %llu fail-overs; %llu resumes: %llu in the "
                  "traverse, %llu in "
                  "another snapshot, %llu at another replica, %llu behind a lost tail, %llu that had to wait; refused: "
                  "%llu diverged, %llu gaps, %llu to the end. None lost, none twice\n",
                  (unsigned long long)c.histories, (unsigned long long)seed,
                  (unsigned long long)(osync__mono_ms() - begin) / 1000, (unsigned long long)c.events,
                  (unsigned long long)c.lost_events, (unsigned long long)c.excused, (unsigned long long)c.rows,
                  (unsigned long long)c.snapshots, (unsigned long long)c.purges, (unsigned long long)c.failovers,
                  (unsigned long long)c.resumes, (unsigned long long)c.traversing, (unsigned long long)c.other_snapshot,
                  (unsigned long long)c.other_replica, (unsigned long long)c.cuts, (unsigned long long)c.waits,
                  (unsigned long long)c.diverged, (unsigned long long)c.gaps, (unsigned long long)c.refused);
    if (n < 100) return;
    assert_true(c.resumes > 4 * n && c.traversing > n && c.other_snapshot > n / 4 && c.other_replica > n);
    assert_true(c.failovers > n / 4 && c.cuts > n / 10 && c.waits > n / 2 && c.diverged > n / 10 && c.gaps > n / 50);
    assert_true(c.refused < n / 10);
}

/* ---- single stories ---- */

enum { NOBODY = -1 };

static world_t *story(uint64_t number) {
    static world_t w;
    make_world(&w, top_dir, number, false);
    w.tick = 1;
    return &w;
}

/* A put, or a delete of one row, as op `n_ops`; logged at both replicas, or at one of them. Applied by all of those. */
static int event(world_t *w, kind_t kind, int pk, int stamp, int only) {
    int op = w->n_ops++;
    w->ops[op] = (op_t){.kind = kind, .pk = pk, .stamp = stamp, .above = stamp - 1, .term = w->term};
    for (int i = 0; i < 2; i++) {
        if (only != NOBODY && only != i) continue;
        write_entry(w, &w->replicas[i], op, false);
        apply(w, &w->replicas[i].state, op);
    }
    w->tick++;
    return op;
}

/* Links and opens at a replica, with nothing in its collector's folder yet. Returns the reader's error. */
static int open_at(world_t *w, int replica, const osync__buf_t *point, osync_error_t *err) {
    folder_t *f = &w->folders[replica];
    char name[256], data[400], scratch[400];
    uint64_t made;
    osync_reader_config_t config;
    close_reader(w);
    w->at = replica;
    wipe(w, f);
    *err = (osync_error_t){0};
    assert_int_equal(osync__links_all(&f->links, true, true, err), 0);
    (void)snprintf(data, sizeof data, "%s/data", f->snapshot);
    (void)snprintf(scratch, sizeof scratch, "%s/scratch", f->dir);
    bool snapshot = osync__links_snapshot_info(&f->links, name, sizeof name, &made, err) == 0;
    osync_reader_config_init(&config, sizeof config);
    config.binlog_dir = f->binlog;
    config.snapshot_dir = snapshot ? data : NULL;
    config.snapshot_name = snapshot ? name : NULL;
    config.scratch_dir = scratch;
    config.point = point->data;
    config.point_len = point->len;
    config.pauses = true;
    return osync_reader_open(&w->reader, w->table, &config, err);
}

static void open_well(world_t *w, int replica, const osync__buf_t *point) {
    osync_error_t err;
    if (open_at(w, replica, point, &err)) fail_msg("%s", err.message);
}

static void open_fails(world_t *w, int replica, const osync__buf_t *point, int code, const char *const words[]) {
    osync_error_t err;
    assert_int_equal(open_at(w, replica, point, &err), code);
    for (; *words; words++)
        if (!strstr(err.message, *words)) fail_msg("\"%s\" isn't in: %s", *words, err.message);
}
#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* The next rows are those of these events, in this order; -1 ends them: no more at the end. */
static void expect_rows(world_t *w, const int *events) {
    osync_reader_row_t row;
    osync_error_t err = {0};
    for (; *events >= 0; events++) {
        int rc = osync_reader_next(w->reader, &row, &err);
        if (rc) fail_msg("no row of event %d: %s", *events, rc == OSYNC_EOF ? "end" : err.message);
        int n = w->n_out;
        take_row(w, &row);
        assert_int_equal(w->out[n], *events);
    }
    if (*events == -1) assert_int_equal(osync_reader_next(w->reader, &row, &err), OSYNC_EOF);
}
#define ROWS(...)       ((const int[]){__VA_ARGS__, -1})
#define FIRST_ROWS(...) ((const int[]){__VA_ARGS__, -2})

static void save_point(world_t *w, osync__buf_t *point) {
    const void *p;
    size_t len;
    osync_error_t err = {0};
    if (osync_reader_point(w->reader, &p, &len, &err)) fail_msg("point: %s", err.message);
    point->len = 0;
    assert_int_equal(osync__buf_append(point, p, len), 0);
}

/* Why the end of a window must be the entry that was read. Key a/2 is in the snapshot, and is overwritten in the
 * window, so that the traverse leaves it out; the fail-over loses the overwriting, and a/2 is back. Who goes on
 * nevertheless, with the window cut to what is left of it, never delivers it. */
static void test_lost_window(void **state) {
    world_t *w = story(1000001);
    osync__buf_t point = {0}, cut = {0};
    (void)state;
    int a = event(w, PUT, 0, 2, NOBODY), b = event(w, PUT, 2, 2, NOBODY);
    for (int i = 0; i < 2; i++) roll_log(w, &w->replicas[i]);
    w->tick++;
    int c = event(w, PUT, 2, 3, NOBODY);
    take_snapshot(w, &w->replicas[0]);
    write_snapshot(w, &w->replicas[0], &w->replicas[0].snaps[0], 0);
    w->tick++;
    (void)event(w, PUT, 0, 2, 0);
    open_well(w, 0, &point);
    expect_rows(w, FIRST_ROWS(b)); /* it has passed a/2 */
    save_point(w, &point);
    w->term++;
    int d = event(w, PUT, 1, 1, 1);
    open_fails(w, 1, &point, OSYNC_EDIVERGED,
               WORDS("diverged", "entries 4 to 4 (up to term 1)", "the same is 3 (of term 1)", "create --restart"));

    Openmldb__Datasync__SyncPoint *p = unpack(w, point.data, point.len);
    assert_int_equal(p->n_ranges, 1);
    assert_int_equal(p->ranges[0]->window_base, 2);
    assert_int_equal(p->ranges[0]->window_tail, 4);
    assert_true(p->ranges[0]->has_tail_crc && p->ranges[0]->tail_term == 1);
    p->ranges[0]->window_tail = p->last_tail = 3;
    p->ranges[0]->has_tail_crc = false;
    assert_int_equal(osync__buf_reserve(&cut, openmldb__datasync__sync_point__get_packed_size(p)), 0);
    cut.len = openmldb__datasync__sync_point__pack(p, cut.data);
    free_point(p);
    open_well(w, 1, &cut);
    expect_rows(w, ROWS(c, d));
    for (int i = 0; i < w->n_out; i++) assert_int_not_equal(w->out[i], a);
    osync__buf_free(&point);
    osync__buf_free(&cut);
    free_world(w);
}

/* The same behind the window: what it left out stays left out, so that a fail-over that reaches back into it is final
 * even if much was read since. */
static void test_lost_window_later(void **state) {
    world_t *w = story(1000002);
    osync__buf_t point = {0};
    (void)state;
    (void)event(w, PUT, 0, 2, NOBODY);
    int b = event(w, PUT, 0, 2, 0), c = 0;
    open_well(w, 0, &point);
    expect_rows(w, ROWS(b));
    for (int i = 0; i < 3; i++) {
        c = event(w, PUT, 1, 1 + i, 0);
        expect_rows(w, ROWS(c));
    }
    save_point(w, &point);
    w->term++;
    (void)event(w, PUT, 2, 1, 1);
    open_fails(w, 1, &point, OSYNC_EDIVERGED,
               WORDS("entries 2 to 5", "the same is 1 (of term 1)", "up to 2 were not delivered"));
    osync__buf_free(&point);
    free_world(w);
}

static char warned[1024];

static void keep_warning(osync_log_level_t level, const char *message, void *arg) {
    (void)level;
    (void)arg;
    (void)snprintf(warned, sizeof warned, "%s", message);
}

/* Behind the window, each put comes once whatever is around it: it goes on where the logs have parted, waits for a log
 * that lags, and tells a log that comes back from the dead. */
static void test_lost_tail(void **state) {
    world_t *w = story(1000003);
    osync__buf_t point = {0}, second = {0};
    int e[12];
    (void)state;
    e[1] = event(w, PUT, 0, 1, NOBODY);
    open_well(w, 0, &point);
    for (int i = 2; i <= 6; i++) e[i] = event(w, PUT, i % 3, i - 1, i <= 4 ? NOBODY : 0);
    expect_rows(w, ROWS(e[1], e[2], e[3], e[4], e[5], e[6]));
    save_point(w, &point);

    /* The other one leads, but nothing shows that yet: entry 6 may only be late. */
    open_fails(w, 1, &point, OSYNC_EAGAIN, WORDS("waiting for the log to reach entry 6", "ends with entry 4"));
    w->term = 2;
    e[7] = event(w, PUT, 3, 1, 1);
    osync_log_set(keep_warning, NULL, OSYNC_LOG_WARN);
    open_well(w, 1, &point);
    osync_log_set(NULL, NULL, OSYNC_LOG_ERROR);
    assert_non_null(strstr(warned, "lost log entries 5 to 6 (up to term 1)"));
    expect_rows(w, ROWS(e[7]));
    e[8] = event(w, PUT, 3, 2, 1);
    e[9] = event(w, PUT, 3, 3, 1);
    expect_rows(w, ROWS(e[8], e[9])); /* entries 6 and 7 */
    save_point(w, &second);

    /* An operator makes the first one lead again, with the tail that was thought lost. */
    open_fails(w, 0, &second, OSYNC_EAGAIN, WORDS("waiting for the log to reach entry 7"));
    w->term = 3;
    e[10] = event(w, PUT, 4, 1, 0);
    open_well(w, 0, &second);
    expect_rows(w, ROWS(e[10])); /* entry 7; 5 and 6 were delivered before */
    save_point(w, &point);
    /* And nobody goes back to the second. */
    open_fails(w, 1, &point, OSYNC_EAGAIN, WORDS("left behind by a fail-over"));

    /* One term, one leader, one entry: what isn't so can't be mended. */
    Openmldb__Datasync__SyncPoint *p = unpack(w, point.data, point.len);
    p->last_crc++;
    point.len = openmldb__datasync__sync_point__pack(p, point.data);
    free_point(p);
    open_fails(w, 0, &point, OSYNC_EDIVERGED, WORDS("entry 7", "another one than was read", "create --restart"));
    osync__buf_free(&point);
    osync__buf_free(&second);
    free_world(w);
}

/* Where the logs have parted isn't retained: it can't be known what else differs. */
static void test_lost_tail_unknown(void **state) {
    world_t *w = story(1000004);
    osync__buf_t point = {0};
    char path[400];
    (void)state;
    int a = event(w, PUT, 0, 1, NOBODY);
    open_well(w, 0, &point);
    int b = event(w, PUT, 0, 2, NOBODY), c = event(w, PUT, 0, 3, 0);
    expect_rows(w, ROWS(a, b, c));
    save_point(w, &point);
    w->term = 2;
    roll_log(w, &w->replicas[1]);
    (void)event(w, PUT, 1, 1, 1);
    (void)event(w, PUT, 1, 2, 1);
    log_path(w, &w->replicas[1], 0, path, sizeof path);
    assert_int_equal(unlink(path), 0);
    open_fails(w, 1, &point, OSYNC_EDIVERGED, WORDS("no entry before it that is known", "the oldest one is 3"));
    osync__buf_free(&point);
    free_world(w);
}

/* A purged log is never gone on with: what is missing is named, and it goes on once that is there again. */
static void test_purged(void **state) {
    world_t *w = story(1000005);
    osync__buf_t point = {0};
    char path[4][400], away[4][400];
    int e[12], n = 0;
    (void)state;
    e[n] = event(w, PUT, 0, 1, 0);
    open_well(w, 0, &point);
    expect_rows(w, ROWS(e[0]));
    save_point(w, &point);
    for (int file = 1; file < 4; file++) {
        roll_log(w, &w->replicas[0]);
        for (int i = 0; i < 2; i++) e[++n] = event(w, PUT, file, 1 + i, 0);
    }
    for (unsigned i = 0; i < 3; i++) {
        log_path(w, &w->replicas[0], i, path[i], sizeof path[i]);
        log_path(w, &w->replicas[1], 90 + i, away[i], sizeof away[i]);
        assert_int_equal(rename(path[i], away[i]), 0);
    }
    open_fails(w, 0, &point, OSYNC_EGAP,
               WORDS("entries 2 to 5 are needed and gone", "retained is 6", "retry", "create --restart"));
    assert_false(osync_err_retriable(OSYNC_EGAP));
    for (int i = 2; i > 0; i--) assert_int_equal(rename(away[i], path[i]), 0);
    /* Entry 1 is gone still, but entry 2 is of the term that was read, so that it is the same log. */
    open_well(w, 0, &point);
    expect_rows(w, ROWS(e[1], e[2], e[3], e[4], e[5], e[6]));
    osync__buf_free(&point);
    free_world(w);
}

/* MANIFEST's offset lags behind the checkpoint, or is ahead of it, and decides nothing. */
static void test_offset_skew(void **state) {
    (void)state;
    for (int skew = -6; skew <= 6; skew += 2) {
        world_t *w = story(1000100 + (uint64_t)(skew + 6));
        osync__buf_t point = {0};
        int e[10];
        e[1] = event(w, PUT, 0, 1, 0);
        e[2] = event(w, PUT, 1, 1, 0);
        (void)event(w, DELETE, 0, 1, 0);
        roll_log(w, &w->replicas[0]);
        e[4] = event(w, PUT, 1, 2, 0);
        w->tick++;
        take_snapshot(w, &w->replicas[0]);
        w->tick++;
        e[5] = event(w, PUT, 2, 1, 0);
        e[6] = event(w, PUT, 1, 1, 0);
        write_snapshot(w, &w->replicas[0], &w->replicas[0].snaps[0], skew);
        open_well(w, 0, &point);
        expect_rows(w, ROWS(e[4], e[5], e[6]));
        osync__buf_free(&point);
        free_world(w);
    }
}

/* A clock that was set back makes a file look as if it had ended before the snapshot. Its last put shows that it
 * hadn't: the snapshot has the key, but with the value from before. */
static void test_clock_set_back(void **state) {
    world_t *w = story(1000009);
    replica_t *r = &w->replicas[0];
    osync__buf_t point = {0};
    char path[400];
    (void)state;
    (void)event(w, PUT, 0, 2, 0);
    roll_log(w, r);
    w->tick = 40;
    take_snapshot(w, r);
    w->tick++;
    int b = event(w, PUT, 0, 2, 0);
    roll_log(w, r);
    log_path(w, r, 1, path, sizeof path);
    set_time(w, path, time_of(w, 20));
    int c = event(w, PUT, 1, 1, 0);
    write_snapshot(w, r, &r->snaps[0], 0);
    open_well(w, 0, &point);
    expect_rows(w, ROWS(b, c));
    free_world(w);
}

/* A traverse goes on at a replica without a snapshot if its log has everything. */
static void test_traverse_ends_in_the_log(void **state) {
    world_t *w = story(1000006);
    osync__buf_t point = {0};
    (void)state;
    int a = event(w, PUT, 0, 1, NOBODY), b = event(w, PUT, 1, 1, NOBODY);
    for (int i = 0; i < 2; i++) roll_log(w, &w->replicas[i]);
    int c = event(w, PUT, 2, 1, NOBODY);
    w->tick++;
    take_snapshot(w, &w->replicas[0]);
    write_snapshot(w, &w->replicas[0], &w->replicas[0].snaps[0], 0);
    open_well(w, 0, &point);
    expect_rows(w, FIRST_ROWS(a));
    save_point(w, &point);
    open_well(w, 1, &point);
    expect_rows(w, ROWS(b, c));
    osync__buf_free(&point);
    free_world(w);
}

/* A snapshot beside an empty log says nothing about where its rows end. */
static void test_snapshot_without_log(void **state) {
    world_t *w = story(1000007);
    osync__buf_t point = {0};
    (void)state;
    w->n_ops = 1;
    w->ops[0] = (op_t){.kind = PUT, .pk = 0, .stamp = 1, .term = 1};
    apply(w, &w->replicas[0].state, 0);
    take_snapshot(w, &w->replicas[0]);
    write_snapshot(w, &w->replicas[0], &w->replicas[0].snaps[0], 0);
    open_fails(w, 0, &point, OSYNC_EAGAIN, WORDS("waiting for the first entry in the log"));
    free_world(w);
}

/* Rows that are left out cost time too: it says so now and then, and can be resumed there. */
static void test_pauses_while_rows_are_left_out(void **state) {
    enum { ENTRIES = 20000 };
    world_t *w = story(1000008);
    replica_t *r = &w->replicas[0];
    osync_error_t err = {0};
    osync__buf_t point = {0}, payload = {0};
    int pauses = 0, rc;
    (void)state;
    w->n_ops = 2;
    w->ops[0] = (op_t){.kind = OTHER_INDEX, .pk = 0, .stamp = 1, .term = 1};
    w->ops[1] = (op_t){.kind = PUT, .pk = 0, .stamp = 2, .term = 1};
    for (int i = 1; i <= ENTRIES; i++) {
        encode_entry(w, i == ENTRIES, (uint64_t)i, &payload);
        assert_int_equal(log_writer_append(&r->writer, (uint64_t)i, payload.data, payload.len, &err), 0);
    }
    assert_int_equal(log_writer_flush(&r->writer, &err), 0);
    osync_reader_row_t row;
    open_well(w, 0, &point);
    while ((rc = osync_reader_next(w->reader, &row, &err)) == OSYNC_EAGAIN) {
        pauses++;
        save_point(w, &point);
        open_well(w, 0, &point);
    }
    assert_int_equal(rc, 0);
    assert_int_equal(row.offset, ENTRIES);
    assert_in_range(pauses, 2, ENTRIES / 1000);
    assert_int_equal(osync_reader_next(w->reader, &row, &err), OSYNC_EOF);
    osync__buf_free(&point);
    osync__buf_free(&payload);
    free_world(w);
}

int main(void) {
    const char *tmp = getenv("OSYNC_TMP");
    osync_error_t err = {0};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_histories),
        cmocka_unit_test(test_lost_window),
        cmocka_unit_test(test_lost_window_later),
        cmocka_unit_test(test_lost_tail),
        cmocka_unit_test(test_lost_tail_unknown),
        cmocka_unit_test(test_purged),
        cmocka_unit_test(test_offset_skew),
        cmocka_unit_test(test_clock_set_back),
        cmocka_unit_test(test_traverse_ends_in_the_log),
        cmocka_unit_test(test_snapshot_without_log),
        cmocka_unit_test(test_pauses_while_rows_are_left_out),
    };
    setenv("TZ", "UTC0", 1);
    tzset();
    tracing = getenv("OSYNC_TRACE") != NULL;
    if (tracing) osync_log_set(osync_log_stderr, NULL, OSYNC_LOG_DEBUG);
    (void)snprintf(top_dir, sizeof top_dir, "%s/osync-seams-XXXXXX",
                   tmp                             ? tmp
                   : access("/dev/shm", W_OK) == 0 ? "/dev/shm"
                                                   : "/tmp");
    if (!mkdtemp(top_dir)) {
        perror(top_dir);
        return 1;
    }
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    if (osync__rmtree(top_dir, &err)) fprintf(stderr, "%s\n", err.message);
    return rc;
}
