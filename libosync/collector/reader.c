/* The rows of one partition from its files. "Reading" of docs/delivery.md in code: how snapshot and log fit together
 * without a row lost or twice. The files' formats are in format/; the window's storage is window.c. */
#include "osync/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/alloc.h"
#include "base/config.h"
#include "base/error.h"
#include "base/sys.h"
#include "collector/lineage.h"
#include "collector/window.h"
#include "data_sync.pb-c.h"
#include "format/binlog.h"
#include "format/row.h"
#include "format/sdb.h"
#include "format/snapshot.h"

enum {
    MAX_RANGES = 8,            /* how often a traverse may go on in another snapshot */
    MAX_ROW = 256 << 20,       /* bytes of one decompressed row */
    WINDOW_MEMORY = 8 << 20,   /* bytes of a window's keys that are held in memory */
    PROBES = 1000,             /* puts before the base that must be explained (find_base) */
    PROBE_BYTES = 16 << 20,    /* of the file before the base that are looked at for them */
    BASE_MARGIN_S = 1,         /* a file must have begun this long before the snapshot's minute */
    SNAPSHOT_MAX_S = 6 * 3600, /* a snapshot is finished at most this long after its minute began */
    ZONE_STEP_S = 15 * 60,     /* time zones differ by multiples of it */
    ZONE_MAX_S = 15 * 3600,
    MAX_MANIFEST = 64 << 10, /* bytes */
    PAUSE_AFTER = 4096,      /* rows left out one after the other */
    KEEP_MEMORY = 4 << 20,   /* bytes; what a larger row needed is given back with the next one */
};

/* Keys from `from` on (up to the next range's) were read from a snapshot with this base and this window. */
typedef struct range {
    osync__buf_t from; /* encoded key; empty: from the beginning */
    osync__buf_t from_pk;
    uint64_t from_ts;
    uint64_t base, tail;                /* F and E */
    osync__position_t at_base, at_tail; /* next is base+1, tail+1 */
    osync__window_t *window;
} range_t;

typedef enum stage { TRAVERSE, FOLLOW } stage_t;

struct osync_reader {
    const osync_table_t *table; /* &form */
    bool memory;                /* a memory table */
    osync_table_t form;         /* a shallow copy, with the key form that the snapshot has */
    osync_phase_t phase;
    uint64_t start_ts;
    const volatile int *cancel;
    bool pauses;
    uint64_t now; /* wall clock when it was opened: TTL is judged by one time a pass */
    size_t window_memory;
    char *scratch_dir, *snapshot_dir, *snapshot_name;
    char snapshot_id[OSYNC__SNAPSHOT_ID];

    stage_t stage;
    osync__binlog_t *log;
    osync__snapshot_t *snapshot;
    osync__sdb_t *sdb; /* a memory table's snapshot */
    range_t ranges[MAX_RANGES];
    size_t n_ranges;
    uint64_t last_tail; /* the largest tail of the ranges, also of those that aren't needed any more */
    uint64_t tail_seen;

    /* traverse */
    osync__entry_t entry; /* read but not delivered yet, if `pending` */
    bool pending;
    osync__buf_t pk; /* of the entry before, to count rows of one pk */
    bool have_pk;
    uint64_t k;
    osync__buf_t inflated;
    /* of a memory table */
    uint64_t sdb_offset, sdb_count; /* MANIFEST's */
    uint64_t sdb_records;           /* read */
    bool sdb_done;

    /* log, and a memory table's traverse */
    osync__position_t at, before; /* after the last record, and before it (for unread) */
    osync__lineage_t lineage;
    osync__buf_t key;

    bool unread, have_row;
    osync_reader_row_t row;
    osync__buf_t point;
};

static int canceled(const osync_reader_t *r, osync_error_t *err) {
    return r->cancel && __atomic_load_n(r->cancel, __ATOMIC_RELAXED)
               ? osync__err(err, OSYNC_ECANCELED, "reading was canceled")
               : 0;
}

static bool has_snapshot(const osync_reader_t *r) {
    return r->snapshot || r->sdb;
}

static void close_snapshot(osync_reader_t *r) {
    osync__snapshot_close(r->snapshot);
    osync__sdb_close(r->sdb);
    r->snapshot = NULL;
    r->sdb = NULL;
}

/* ---- LogEntry ---- */

/* An error about a record begins with where it is. */
static int at_record(const osync_reader_t *r, const osync__log_record_t *rec, int rc, osync_error_t *err) {
    unsigned long long at = (unsigned long long)rec->at, index = (unsigned long long)rec->log_index;
    if (!err) return rc;
    if (rec->file == OSYNC__SDB_FILE)
        return osync__err_wrap(err, err, "memory-table snapshot %s, offset %llu: entry %llu", r->snapshot_dir, at,
                               index);
    return osync__err_wrap(err, err, "binlog file %08u.log, offset %llu: entry %llu", rec->file, at, index);
}

/* What an entry does to the base index. */
typedef struct effect {
    enum { NOTHING, PUT, DELETE } kind;
    const uint8_t *pk; /* DELETE: NULL is every pk */
    size_t pk_len;
    uint64_t ts;          /* PUT */
    const uint8_t *value; /* PUT: decompressed */
    size_t value_len;
    uint64_t start, end; /* DELETE: start >= ts > end */
} effect_t;

static bool names_ts(const osync_reader_t *r, const osync__log_entry_t *e) {
    return e->ts_name.data && e->ts_name.len == strlen(r->table->ts_name) &&
           memcmp(e->ts_name.data, r->table->ts_name, e->ts_name.len) == 0;
}

static int effect_of(osync_reader_t *r, const osync__log_record_t *rec, effect_t *out, osync_error_t *err) {
    const osync__log_entry_t *e = &rec->entry;
    /* One logical row is logged in several partitions: only the one with a dimension of index 0 has its key. Old
     * entries without dimensions have it in pk. */
    osync__span_t key = e->has_dimensions || e->pk.len == 0 ? e->base_key : e->pk;
    out->kind = NOTHING;
    if (!e->well_formed)
        return at_record(r, rec, osync__err(err, OSYNC_ECORRUPT, "it doesn't parse as a LogEntry"), err);
    out->pk = key.data;
    out->pk_len = key.len;
    if (e->is_delete) {
        /* Without a key it goes to every index whose ts is made by the clock, or is the column that it names. */
        bool wide = !key.data && !e->has_dimensions && (r->table->ts_column == OSYNC__AUTO_TS || names_ts(r, e));
        if (!key.data && !wide) return 0;
        out->kind = DELETE;
        out->start = e->has_ts ? e->ts : UINT64_MAX;
        out->end = e->has_end_ts ? e->end_ts : 0;
        return 0;
    }
    if (!key.data) return 0;
    if (r->inflated.cap > KEEP_MEMORY) osync__buf_free(&r->inflated);
    int rc = e->value.data ? osync__row_uncompress(r->table, e->value.data, e->value.len, MAX_ROW, &r->inflated,
                                                   &out->value, &out->value_len, err)
                           : osync__err(err, OSYNC_ECORRUPT, "a put without a value");
    if (!rc) rc = osync__row_base_ts(r->table, out->value, out->value_len, e->has_ts ? e->ts : 0, &out->ts, err);
    if (rc) return at_record(r, rec, rc, err);
    out->kind = PUT;
    return 0;
}

static int key_of(osync_reader_t *r, const void *pk, size_t pk_len, uint64_t ts, osync_error_t *err) {
    r->key.len = 0;
    int rc = osync__key_encode(r->table, pk, pk_len, ts, &r->key);
    return rc ? osync__err(err, rc, "key: out of memory") : 0;
}

/* ---- the same log? ---- */

static int lost_for_good(const osync_reader_t *r, const osync__position_t *at, const osync__position_t *common,
                         uint64_t end, osync_error_t *err) {
    unsigned long long index = (unsigned long long)at->next - 1, term = (unsigned long long)at->term;
    if (common->next == 0)
        return osync__err(
            err, OSYNC_EDIVERGED,
            "the log has diverged: a fail-over has lost entry %llu (of term %llu), which was read earlier, "
            "and no entry before it that is known to be the same is retained (the oldest one is %llu)",
            index, term, (unsigned long long)osync__binlog_oldest(r->log));
    return osync__err(
        err, OSYNC_EDIVERGED,
        "the log has diverged: a fail-over has lost entries %llu to %llu (up to term %llu) after they were "
        "read; the last one that is the same is %llu (of term %llu). Rows that were replaced by entries "
        "up to %llu were not delivered, and some of them are back now",
        (unsigned long long)common->next, index, term, (unsigned long long)common->next - 1,
        (unsigned long long)common->term, (unsigned long long)end);
}

/* For a place in a window, or its end: everything that was read stands on it. If the log has parted before it, nobody
 * can go on: keys were left out because of entries that are lost now, and passed by. */
static int require_same_log(osync_reader_t *r, const osync__position_t *at, osync_error_t *err) {
    osync__verdict_t verdict;
    osync__position_t common;
    osync_error_t why = {0};
    int rc = osync__log_compare(r->log, at, &verdict, &why, err);
    if (rc || verdict == OSYNC__LOG_SAME) return rc;
    if (verdict == OSYNC__LOG_BEHIND) return osync__err(err, OSYNC_EAGAIN, "%s", why.message);
    rc = osync__log_common(r->log, &r->lineage, at, r->cancel, &common, err);
    return rc ? rc : lost_for_good(r, at, &common, r->last_tail, err);
}

/* For r->at in the log phase, behind all windows. There each put comes once, so that it goes on where the logs have
 * parted, unless that is in a window. */
static int go_on_in_same_log(osync_reader_t *r, osync_error_t *err) {
    osync__verdict_t verdict;
    osync__position_t common;
    osync_error_t why = {0};
    int rc = osync__log_compare(r->log, &r->at, &verdict, &why, err);
    if (rc || verdict == OSYNC__LOG_SAME) return rc;
    if (verdict == OSYNC__LOG_BEHIND) return osync__err(err, OSYNC_EAGAIN, "%s", why.message);
    rc = osync__log_common(r->log, &r->lineage, &r->at, r->cancel, &common, err);
    if (rc) return rc;
    if (common.next <= r->last_tail) return lost_for_good(r, &r->at, &common, r->last_tail, err);
    osync__log(OSYNC_LOG_WARN,
               "a fail-over has lost log entries %llu to %llu (up to term %llu) after they were read: their rows are "
               "delivered and stay in the files; going on behind entry %llu (of term %llu)",
               (unsigned long long)common.next, (unsigned long long)r->at.next - 1, (unsigned long long)r->at.term,
               (unsigned long long)common.next - 1, (unsigned long long)common.term);
    osync__lineage_cut(&r->lineage, &r->at, &common);
    r->at = common;
    return 0;
}

/* The entries from `from` on are needed. */
static int require_retained(osync_reader_t *r, uint64_t from, osync_error_t *err) {
    uint64_t oldest = osync__binlog_oldest(r->log);
    if (oldest <= from) return 0;
    return osync__err(err, OSYNC_EGAP, "log entries %llu to %llu are needed and gone: the oldest one retained is %llu",
                      (unsigned long long)from, (unsigned long long)oldest - 1, (unsigned long long)oldest);
}

/* ---- the window ---- */

static int open_window(osync_reader_t *r, size_t i, osync_error_t *err) {
    char dir[4096];
    range_t *g = &r->ranges[i];
    if (g->window) return 0;
    if ((size_t)snprintf(dir, sizeof dir, "%s/window-%zu", r->scratch_dir, i) >= sizeof dir)
        return osync__err(err, OSYNC_ETOOBIG, "path is too long: %s", r->scratch_dir);
    int rc = 0;
    /* A log that doesn't reach the window's end isn't worth the replay. */
    if (g->tail > r->tail_seen) rc = require_same_log(r, &g->at_tail, err);
    if (!rc) rc = osync__window_new(&g->window, r->table, dir, r->window_memory, err);
    if (!rc && g->tail > g->base) rc = osync__binlog_seek(r->log, g->base + 1, err);
    for (uint64_t j = g->base; !rc && j < g->tail;) {
        osync__log_record_t rec;
        effect_t f;
        rc = canceled(r, err);
        if (!rc) rc = osync__binlog_next(r->log, &rec, err);
        if (rc == OSYNC_EOF)
            rc = osync__err(err, OSYNC_EAGAIN,
                            "waiting for the log to reach entry %llu, up to which it was read earlier: it ends with "
                            "entry %llu",
                            (unsigned long long)g->tail, (unsigned long long)j);
        if (!rc) rc = effect_of(r, &rec, &f, err);
        if (rc) break;
        j = rec.log_index;
        if (j == g->tail) {
            osync__position_t tail = osync__position_behind(&rec);
            if (!g->at_tail.known)
                g->at_tail = tail;
            else if (tail.term != g->at_tail.term || tail.crc != g->at_tail.crc)
                rc = require_same_log(r, &g->at_tail, err);
            if (rc) break;
            if (tail.term != g->at_tail.term || tail.crc != g->at_tail.crc) {
                rc = osync__err(err, OSYNC_EAGAIN, "log entry %llu has changed while it was read",
                                (unsigned long long)j);
                break;
            }
        }
        if (f.kind == PUT && !r->memory) { /* a memory table's puts replace nothing */
            rc = key_of(r, f.pk, f.pk_len, f.ts, err);
            if (!rc) rc = osync__window_put(g->window, r->key.data, r->key.len, j, err);
        } else if (f.kind == DELETE) {
            rc = osync__window_delete(g->window, f.pk, f.pk_len, f.start, f.end, j, err);
        }
    }
    return rc ? rc : osync__window_ready(g->window, err);
}

static void drop_ranges(osync_reader_t *r) {
    for (size_t i = 0; i < r->n_ranges; i++) {
        osync__window_free(r->ranges[i].window);
        osync__buf_free(&r->ranges[i].from);
        osync__buf_free(&r->ranges[i].from_pk);
    }
    memset(r->ranges, 0, sizeof r->ranges);
    r->n_ranges = 0;
}

static const range_t *range_of(const osync_reader_t *r, const void *key, size_t len) {
    size_t i = r->n_ranges - 1;
    while (i > 0 && osync__key_compare(key, len, r->ranges[i].from.data, r->ranges[i].from.len) < 0) i--;
    return &r->ranges[i];
}

/* ---- the base F ---- */

/* The latest moment that the minute in the snapshot's name can mean, given that its CURRENT was written afterwards; 0
 * if none. The name is the tablet's local time: first this machine's own zone is tried (both sides of a clock change,
 * the earlier counts), then every other. */
static time_t snapshot_began(const char *name, time_t current_mtime) {
    struct tm tm = {0};
    int year, month, day, hour, minute, used = 0;
    if (sscanf(name, "%4d%2d%2d%2d%2d%n", &year, &month, &day, &hour, &minute, &used) != 5 || used != 12 || name[12])
        return 0;
    time_t best = 0;
    for (int dst = 0; dst <= 1; dst++) {
        tm =
            (struct tm){.tm_year = year - 1900, .tm_mon = month - 1, .tm_mday = day, .tm_hour = hour, .tm_min = minute};
        tm.tm_isdst = dst;
        time_t t = mktime(&tm);
        if (tm.tm_hour != hour || tm.tm_min != minute) continue; /* no such time on this side */
        if (t == (time_t)-1 || t > current_mtime || current_mtime - t > SNAPSHOT_MAX_S) continue;
        if (!best || t < best) best = t;
    }
    if (best) return best;
    tm = (struct tm){.tm_year = year - 1900, .tm_mon = month - 1, .tm_mday = day, .tm_hour = hour, .tm_min = minute};
    time_t utc = timegm(&tm), zone = utc - current_mtime;
    zone = zone > 0 ? (zone + ZONE_STEP_S - 1) / ZONE_STEP_S * ZONE_STEP_S : zone / ZONE_STEP_S * ZONE_STEP_S;
    if (zone > ZONE_MAX_S || zone < -ZONE_MAX_S) return 0;
    return utc - zone;
}

/* Did file i of the log begin before that moment? Its first entry did, if the file was born before, or if the file
 * before it was written last before. */
static bool began_before(const osync__log_file_t *files, size_t i, time_t moment) {
    struct statx x;
    moment -= BASE_MARGIN_S;
    if (!statx(AT_FDCWD, files[i].path, 0, STATX_BTIME, &x) && (x.stx_mask & STATX_BTIME) &&
        x.stx_btime.tv_sec < moment)
        return true;
    if (i == 0 || files[i].number != files[i - 1].number + 1) return false;
    return !statx(AT_FDCWD, files[i - 1].path, 0, STATX_MTIME, &x) && (x.stx_mask & STATX_MTIME) &&
           x.stx_mtime.tv_sec < moment;
}

/* One of the last operations before the base. */
typedef struct probe {
    osync__buf_t key; /* PUT: the encoded key */
    effect_t f;
    osync__buf_t pk;
    uint64_t index;
    uint32_t crc; /* PUT: of the decompressed value */
} probe_t;

static void free_probes(probe_t *p, size_t n) {
    for (size_t i = 0; p && i < n; i++) {
        osync__buf_free(&p[i].key);
        osync__buf_free(&p[i].pk);
    }
    osync__free(p);
}

/* Is the absence of a put explained by a later operation among the probes? */
static bool explained(const probe_t *ring, size_t first, size_t n, size_t i) {
    const probe_t *p = &ring[(first + i) % PROBES];
    for (size_t m = i + 1; m < n; m++) {
        const probe_t *q = &ring[(first + m) % PROBES];
        bool same_pk =
            !q->f.pk || (q->pk.len == p->pk.len && (p->pk.len == 0 || !memcmp(q->pk.data, p->pk.data, p->pk.len)));
        if (q->f.kind == DELETE && same_pk && q->f.start >= p->f.ts && p->f.ts > q->f.end) return true;
        if (q->f.kind == PUT && q->key.len == p->key.len && !memcmp(q->key.data, p->key.data, p->key.len)) return true;
    }
    return false;
}

/* Does the snapshot hold the row of this put? */
static int in_snapshot(osync_reader_t *r, const probe_t *p, osync__buf_t *value, bool *yes, osync_error_t *err) {
    const uint8_t *row;
    size_t len;
    *yes = false;
    value->len = 0;
    int rc = osync__snapshot_get(r->snapshot, p->key.data, p->key.len, value, err);
    if (rc) return rc == OSYNC_ENOENT ? 0 : rc;
    rc = osync__row_uncompress(r->table, value->data, value->len, MAX_ROW, &r->inflated, &row, &len, err);
    if (!rc) *yes = osync__crc32c(0, row, len) == p->crc;
    return rc;
}

/* Goes to where the last PROBE_BYTES before file f begin, which may be several files back: small ones, and empty ones
 * that a tablet leaves that starts again and again. */
static int seek_probes(osync_reader_t *r, const osync__log_file_t *files, size_t f, osync_error_t *err) {
    uint64_t left = PROBE_BYTES;
    struct stat st;
    for (size_t i = f; i-- > 0;) {
        if (stat(files[i].path, &st)) return osync__err_errno(err, errno, "stat %s", files[i].path);
        uint64_t size = (uint64_t)st.st_size;
        if (size >= left || i == 0 || files[i - 1].number + 1 != files[i].number)
            return osync__binlog_seek_near_end(r->log, files[i].number, size < left ? size : left, err);
        left -= size;
    }
    return 0;
}

/* A clock that was set back can make a file look older than it is. So the last puts before the base must be in the
 * snapshot, or a later put, delete or TTL must explain why they aren't. Also learns term and crc of entry F. Needs the
 * range's window. `f`: the file that begins with entry F+1, not the first. */
static int check_base(osync_reader_t *r, range_t *g, const osync__log_file_t *files, size_t f, bool *good,
                      osync_error_t *err) {
    int rc = 0;
    size_t first = 0, n = 0;
    osync__buf_t value = {0};
    probe_t *ring = osync__calloc(PROBES, sizeof *ring);
    if (!ring) return osync__err(err, OSYNC_ENOMEM, "out of memory");
    *good = true;
    rc = seek_probes(r, files, f, err);
    while (!rc) {
        osync__log_record_t rec;
        probe_t *p = &ring[(first + n) % PROBES];
        rc = osync__binlog_next(r->log, &rec, err);
        if (rc == OSYNC_EOF || (!rc && rec.log_index > g->base)) {
            rc = 0;
            break;
        }
        if (!rc) rc = effect_of(r, &rec, &p->f, err);
        if (rc) goto done;
        g->at_base = osync__position_behind(&rec);
        if (p->f.kind == NOTHING) continue;
        p->index = rec.log_index;
        if (p->f.kind == PUT) p->crc = osync__crc32c(0, p->f.value, p->f.value_len);
        p->pk.len = p->key.len = 0;
        if (p->f.pk && osync__buf_append(&p->pk, p->f.pk, p->f.pk_len)) rc = OSYNC_ENOMEM;
        if (!rc && p->f.kind == PUT) rc = osync__key_encode(r->table, p->f.pk, p->f.pk_len, p->f.ts, &p->key);
        if (rc) {
            osync__err(err, rc, "out of memory");
            goto done;
        }
        if (n < PROBES)
            n++;
        else
            first = (first + 1) % PROBES;
    }
    if (rc) goto done;
    if (g->at_base.next != g->base + 1) g->at_base = (osync__position_t){.next = g->base + 1};

    /* Which rows a TTL that counts them has dropped can't be told from here. */
    bool counts_rows = r->table->ttl.lat > 0 && r->table->ttl.type != OPENMLDB__TYPE__TTLTYPE__kAbsoluteTime;
    for (size_t i = 0; i < n && !counts_rows && *good; i++) {
        probe_t *p = &ring[(first + i) % PROBES];
        bool covered;
        if (p->f.kind != PUT || osync__ttl_expired(&r->table->ttl, r->now, p->f.ts, 0)) continue;
        rc = in_snapshot(r, p, &value, &covered, err);
        if (rc) goto done;
        if (covered || explained(ring, first, n, i)) continue;
        /* Keys aren't asked in order here, so the window's sequential answer can't be used. */
        rc = osync__window_touches(g->window, p->key.data, p->key.len, p->pk.len, p->f.ts, &covered, err);
        if (rc) goto done;
        *good = covered;
        if (!covered)
            osync__log(OSYNC_LOG_WARN,
                       "snapshot %s lacks the put of log entry %llu, which file times say is older: looking for a base "
                       "before entry %llu",
                       r->snapshot_name, (unsigned long long)p->index, (unsigned long long)g->base);
    }
    rc = 0;
done:
    osync__buf_free(&value);
    free_probes(ring, PROBES);
    return rc;
}

/* A memory table's snapshot has what was logged up to its offset, exactly. What lies before the next wanted entry isn't
 * needed from anywhere. */
static int find_memory_base(osync_reader_t *r, size_t i, osync_error_t *err) {
    range_t *g = &r->ranges[i];
    uint64_t oldest = osync__binlog_oldest(r->log);
    osync__log_record_t rec;
    g->base = r->sdb ? r->sdb_offset : 0;
    if (r->at.next > g->base + 1) g->base = r->at.next - 1;
    if (g->tail < g->base) g->tail = g->base; /* a replica that has a snapshot, and not yet a log up to it */
    if (oldest > g->base + 1)
        return osync__err(err, OSYNC_EGAP,
                          "log entries %llu to %llu are needed and gone: %s%s, and the binlog begins with entry %llu",
                          (unsigned long long)g->base + 1, (unsigned long long)oldest - 1,
                          r->sdb ? "they are not in snapshot " : "there is no snapshot", r->sdb ? r->snapshot_name : "",
                          (unsigned long long)oldest);
    g->at_base = (osync__position_t){.next = g->base + 1};
    int rc = 0;
    if (g->base > 0 && oldest > 0 && oldest <= g->base) {
        rc = osync__binlog_seek(r->log, g->base, err);
        if (!rc) rc = osync__binlog_next(r->log, &rec, err);
        if (!rc) g->at_base = osync__position_behind(&rec);
        if (rc == OSYNC_EOF) rc = 0;
    }
    g->at_tail = g->tail > g->base ? (osync__position_t){.next = g->tail + 1} : g->at_base;
    return rc ? rc : open_window(r, i, err);
}

/* Sets base, tail and window of a new range of the open snapshot. */
static int find_base(osync_reader_t *r, size_t i, osync_base_t rule, osync_error_t *err) {
    range_t *g = &r->ranges[i];
    const osync__log_file_t *files;
    struct stat st;
    char current[4096];

    int rc = osync__binlog_tail(r->log, &g->tail, err);
    if (rc || r->memory) return rc ? rc : find_memory_base(r, i, err);
    g->at_tail = (osync__position_t){.next = g->tail + 1};
    uint64_t oldest = osync__binlog_oldest(r->log);
    size_t n = osync__binlog_files(r->log, &files);

    /* A replica that got its data from another one has a snapshot, and nothing that tells where its log begins. */
    if (r->snapshot && rule != OSYNC_BASE_OLDEST && oldest == 0)
        return osync__err(err, OSYNC_EAGAIN,
                          "waiting for the first entry in the log: there is snapshot %s, and an empty log doesn't tell "
                          "what it holds",
                          r->snapshot_name);
    /* Without a snapshot, an empty log is expected to begin with entry 1; if it doesn't, that is a gap then. */
    if (!r->snapshot || rule == OSYNC_BASE_OLDEST) {
        if (!r->snapshot && oldest > 1)
            return osync__err(err, OSYNC_EGAP,
                              "there is no snapshot, and the binlog begins with entry %llu: entries 1 to %llu are gone",
                              (unsigned long long)oldest, (unsigned long long)(oldest - 1));
        g->base = oldest ? oldest - 1 : 0;
        g->at_base = (osync__position_t){.next = g->base + 1};
        return open_window(r, i, err);
    }
    (void)snprintf(current, sizeof current, "%s/CURRENT", r->snapshot_dir);
    if (stat(current, &st)) return osync__err_errno(err, errno, "stat %s", current);
    time_t moment = snapshot_began(r->snapshot_name, st.st_mtime);
    for (size_t f = n; f-- > 0;) {
        if (!files[f].has_entry) continue;
        uint64_t start = files[f].first - 1;
        uint32_t number = files[f].number;
        if (start > 0 && !(moment && began_before(files, f, moment))) continue;
        bool good = true;
        g->base = start;
        g->at_base = (osync__position_t){.next = start + 1};
        rc = open_window(r, i, err);
        if (rc) return rc;
        n = osync__binlog_files(r->log, &files); /* reading may have listed the folder again */
        for (f = 0; f < n && files[f].number < number;) f++;
        if (start > 0 && f > 0) rc = check_base(r, g, files, f, &good, err);
        if (rc || good) return rc;
        osync__window_free(g->window);
        g->window = NULL;
        n = osync__binlog_files(r->log, &files);
        if (f > n) f = n;
    }
    return osync__err(err, OSYNC_EGAP,
                      "binlog too short: no retained file is proven to have begun before snapshot %s (the oldest "
                      "retained entry is %llu); a newer snapshot mends that",
                      r->snapshot_name, (unsigned long long)oldest);
}

/* ---- sync points ---- */

static int set_range_start(osync_reader_t *r, range_t *g, const void *pk, size_t len, uint64_t ts) {
    int rc = osync__buf_append(&g->from_pk, pk, len);
    g->from_ts = ts;
    return rc ? rc : osync__key_encode(r->table, pk, len, ts, &g->from);
}

static int take_ranges(osync_reader_t *r, const Openmldb__Datasync__SyncPoint *p, osync_error_t *err) {
    if (p->n_ranges > MAX_RANGES)
        return osync__err(err, OSYNC_ECORRUPT, "sync point with %zu ranges; at most %d are possible", p->n_ranges,
                          MAX_RANGES);
    for (size_t i = 0; i < p->n_ranges; i++) {
        const Openmldb__Datasync__SyncRange *m = p->ranges[i];
        range_t *g = &r->ranges[r->n_ranges++];
        if (i > 0 && set_range_start(r, g, m->pk.data, m->pk.len, m->ts))
            return osync__err(err, OSYNC_ENOMEM, "sync point: out of memory");
        g->base = m->window_base;
        g->tail = m->window_tail;
        g->at_base = (osync__position_t){
            .next = g->base + 1, .term = m->base_term, .crc = m->base_crc, .known = m->has_base_crc};
        g->at_tail = (osync__position_t){
            .next = g->tail + 1, .term = m->tail_term, .crc = m->tail_crc, .known = m->has_tail_crc};
        if (g->tail > r->last_tail) r->last_tail = g->tail;
        if (g->tail < g->base) return osync__err(err, OSYNC_ECORRUPT, "sync point: a window that ends before its base");
    }
    return 0;
}

/* Where the log phase begins: after the least base of all ranges. */
static osync__position_t log_start(const osync_reader_t *r) {
    const range_t *least = &r->ranges[0];
    for (size_t i = 1; i < r->n_ranges; i++)
        if (r->ranges[i].base < least->base) least = &r->ranges[i];
    return least->at_base;
}

static int require_same_range(osync_reader_t *r, const range_t *g, osync_error_t *err) {
    return require_same_log(r, g->at_tail.known ? &g->at_tail : &g->at_base, err);
}

/* The ranges of a sync point, but for the last one if `but_last`: its window's replay shows it. What was read last
 * comes first: a replica that was left behind after that is waited for, though it has parted from what was read before.
 */
static int require_same_ranges(osync_reader_t *r, bool but_last, osync_error_t *err) {
    size_t newest = 0, n = r->n_ranges;
    for (size_t i = 1; i < n; i++)
        if (r->ranges[i].tail > r->ranges[newest].tail) newest = i;
    int rc = require_same_range(r, &r->ranges[newest], err);
    for (size_t i = 0; !rc && i + but_last < n; i++)
        if (i != newest) rc = require_same_range(r, &r->ranges[i], err);
    return rc;
}

/* The log phase begins: every window is needed, since a key's range decides. */
static int begin_follow(osync_reader_t *r, osync_error_t *err) {
    int rc = 0;
    for (size_t i = 0; !rc && i < r->n_ranges; i++) rc = open_window(r, i, err);
    if (!rc && r->n_ranges == 0) rc = go_on_in_same_log(r, err); /* else the windows' ends have shown it */
    if (!rc) rc = osync__binlog_seek(r->log, r->at.next, err);
    r->stage = FOLLOW;
    return rc;
}

/* Positions the traverse at (pk, ts), inclusive, and counts the rows of that pk that are newer. */
static int seek_traverse(osync_reader_t *r, const void *pk, size_t len, uint64_t ts, osync_error_t *err) {
    osync__buf_t from = {0};
    int rc = osync__key_encode(r->table, pk, len, UINT64_MAX, &from);
    if (rc) osync__err(err, rc, "key: out of memory");
    if (!rc) rc = osync__snapshot_seek(r->snapshot, from.data, from.len, err);
    from.len = 0;
    if (!rc) rc = osync__key_encode(r->table, pk, len, ts, &from);
    while (!rc) {
        rc = canceled(r, err);
        if (!rc) rc = osync__snapshot_next(r->snapshot, &r->entry, err);
        if (rc) break;
        if (osync__key_compare(r->entry.key, r->entry.key_len, from.data, from.len) >= 0) {
            r->pending = true;
            break;
        }
        r->k++;
        r->have_pk = true;
    }
    if (rc == OSYNC_EOF) rc = 0;
    if (!rc && r->have_pk && osync__buf_append(&r->pk, pk, len)) rc = osync__err(err, OSYNC_ENOMEM, "out of memory");
    osync__buf_free(&from);
    return rc;
}

static int open_snapshot(osync_reader_t *r, osync_error_t *err) {
    if (!r->snapshot_dir) return 0;
    if (r->memory) {
        int failed = osync__file_id(r->snapshot_dir, r->snapshot_id, err);
        return failed ? failed : osync__sdb_open(&r->sdb, r->snapshot_dir, err);
    }
    int rc = osync__snapshot_id(r->snapshot_dir, r->snapshot_id, err);
    if (!rc) rc = osync__snapshot_open(&r->snapshot, r->table, r->snapshot_dir, err);
    if (!rc) r->form.multi_ts = osync__snapshot_multi_ts(r->snapshot);
    return rc;
}

static int start_fresh(osync_reader_t *r, osync_base_t rule, osync_error_t *err) {
    r->n_ranges = 1;
    r->at = (osync__position_t){.next = 1};
    int rc = find_base(r, 0, rule, err);
    if (rc) return rc;
    r->last_tail = r->ranges[0].tail;
    if (!has_snapshot(r)) return begin_follow(r, err);
    r->stage = TRAVERSE;
    return r->memory ? 0 : osync__snapshot_seek(r->snapshot, NULL, 0, err);
}

/* A memory table's rows are told by their log index, so that another file needs no range of keys. */
static int continue_in_other_sdb(osync_reader_t *r, osync_base_t rule, osync_error_t *err) {
    int rc = find_base(r, 0, rule, err);
    if (r->ranges[0].tail > r->last_tail) r->last_tail = r->ranges[0].tail;
    return rc;
}

/* The traverse goes on at (pk, ts) in another snapshot than it began in; or in none, if the log has everything. */
static int continue_in_other_snapshot(osync_reader_t *r, const Openmldb__Datasync__SyncPoint *p, osync_base_t rule,
                                      osync_error_t *err) {
    if (!r->snapshot && p->has_multi_ts) r->form.multi_ts = p->multi_ts;
    if (p->has_multi_ts && p->multi_ts != (protobuf_c_boolean)r->table->multi_ts)
        return osync__err(err, OSYNC_ENOTSUP, "the base index's keys have another form than when the traverse began");
    range_t *last = &r->ranges[r->n_ranges - 1];
    osync__buf_t key = {0};
    int rc = osync__key_encode(r->table, p->pk.data, p->pk.len, p->ts, &key);
    bool nothing_read =
        !rc && last->from.len == key.len && (key.len == 0 || !memcmp(last->from.data, key.data, key.len));
    osync__buf_free(&key);
    if (rc) return osync__err(err, rc, "key: out of memory");
    size_t i = r->n_ranges - 1;
    if (!nothing_read) {
        if (r->n_ranges == MAX_RANGES)
            return osync__err(err, OSYNC_EGAP, "the traverse has gone on in %d snapshots already: start anew",
                              MAX_RANGES);
        i = r->n_ranges++;
        if (set_range_start(r, &r->ranges[i], p->pk.data, p->pk.len, p->ts))
            return osync__err(err, OSYNC_ENOMEM, "sync point: out of memory");
    }
    rc = find_base(r, i, rule, err);
    if (r->ranges[i].tail > r->last_tail) r->last_tail = r->ranges[i].tail;
    return rc;
}

static void take_lineage(osync_reader_t *r, const Openmldb__Datasync__SyncPoint *p) {
    osync__lineage_t *l = &r->lineage;
    for (size_t i = 0; i < p->n_earlier_terms && i < OSYNC__MAX_TERMS; i++) {
        const Openmldb__Datasync__SyncTerm *m = p->earlier_terms[i];
        l->earlier[l->n_earlier++] = (osync__stretch_t){.term = m->term, .last = m->last};
    }
    for (size_t i = 0; i < p->n_lost_terms && i < OSYNC__MAX_TERMS; i++) {
        const Openmldb__Datasync__SyncTerm *m = p->lost_terms[i];
        l->lost[l->n_lost++] = (osync__stretch_t){.term = m->term, .first = m->first, .last = m->last};
    }
}

/* In the log phase. */
static int follow_from(osync_reader_t *r, const Openmldb__Datasync__SyncPoint *p, osync_error_t *err) {
    r->at = (osync__position_t){.next = p->has_offset && p->offset > 0 ? p->offset : 1,
                                .term = p->last_term,
                                .crc = p->last_crc,
                                .known = p->has_last_crc};
    take_lineage(r, p);
    if (p->last_tail > r->last_tail) r->last_tail = p->last_tail;
    uint64_t need = r->n_ranges > 0 ? log_start(r).next : r->at.next;
    int rc = require_retained(r, need < r->at.next ? need : r->at.next, err);
    if (!rc && r->n_ranges > 0) rc = require_same_ranges(r, true, err);
    /* A point of an earlier version doesn't say what the windows' ends were. */
    if (!rc && r->n_ranges > 0 && !r->ranges[0].at_tail.known) rc = require_same_log(r, &r->at, err);
    return rc ? rc : begin_follow(r, err);
}

static int start_at(osync_reader_t *r, const Openmldb__Datasync__SyncPoint *p, osync_base_t rule, osync_error_t *err) {
    if (r->memory && (p->has_pk || p->n_ranges > 1))
        return osync__err(err, OSYNC_ENOTSUP, "the sync point is of a disk table, and this is a memory table");
    if (p->type == OPENMLDB__DATASYNC__SYNC_TYPE__kBINLOG) {
        close_snapshot(r);
        if (p->has_multi_ts)
            r->form.multi_ts = p->multi_ts; /* the ranges are compared in the form that the traverse had */
    }
    int rc = take_ranges(r, p, err);
    if (rc) return rc;
    if (p->type == OPENMLDB__DATASYNC__SYNC_TYPE__kBINLOG) return follow_from(r, p, err);
    if (p->n_ranges == 0) {
        if (p->has_pk)
            return osync__err(err, OSYNC_ENOTSUP,
                              "a sync point in the middle of a snapshot that doesn't say which one it was: start anew");
        return start_fresh(r, rule, err);
    }
    r->at = (osync__position_t){.next = p->has_offset && p->offset > 0 ? p->offset : 1};
    bool same_snapshot = p->snapshot_id && has_snapshot(r) && !strcmp(p->snapshot_id, r->snapshot_id);
    rc = require_retained(r, log_start(r).next, err);
    if (!rc) rc = require_same_ranges(r, same_snapshot, err);
    if (!rc)
        rc = same_snapshot ? open_window(r, r->n_ranges - 1, err)
             : r->memory   ? continue_in_other_sdb(r, rule, err)
                           : continue_in_other_snapshot(r, p, rule, err);
    r->stage = TRAVERSE;
    if (rc) return rc;
    if (!has_snapshot(r)) {
        r->at = log_start(r);
        return begin_follow(r, err);
    }
    if (r->memory) return 0;
    if (!p->has_pk) return osync__snapshot_seek(r->snapshot, NULL, 0, err);
    return seek_traverse(r, p->pk.data, p->pk.len, p->ts, err);
}

/* ---- open and close ---- */

int osync_snapshot_name(osync_snapshot_name_t *out, const char *dir, osync_error_t *err) {
    char path[4096];
    osync__buf_t text = {0};
    osync__manifest_t m;
    osync_error_t why = {0};
    if ((size_t)snprintf(path, sizeof path, "%s/MANIFEST", dir) >= sizeof path)
        return osync__err(err, OSYNC_ETOOBIG, "path is too long: %s", dir);
    int rc = osync__read_file(path, MAX_MANIFEST, &text, err);
    if (!rc) {
        rc = osync__manifest_parse((const char *)text.data, text.len, &m, &why);
        if (rc)
            osync__err_wrap(err, &why, "%s", path);
        else
            *out = (osync_snapshot_name_t){.offset = m.offset, .count = m.count};
        if (!rc) memcpy(out->name, m.name, sizeof out->name);
    }
    osync__buf_free(&text);
    return rc;
}

static const osync_reader_config_t defaults = {.window_memory = WINDOW_MEMORY};

void osync_reader_config_init(osync_reader_config_t *config, size_t size) {
    osync__config_init(config, size, &defaults, sizeof *config);
}

static char *copy_string(const char *s, int *rc) {
    char *copy = s ? osync__strdup(s) : NULL;
    if (s && !copy) *rc = OSYNC_ENOMEM;
    return copy;
}

static int open_point(osync_reader_t *r, const osync_reader_config_t *c, osync_error_t *err) {
    if (!c->point || c->point_len == 0) return start_fresh(r, c->base, err);
    osync__unpacking_t u;
    Openmldb__Datasync__SyncPoint *p =
        openmldb__datasync__sync_point__unpack(osync__unpacking_init(&u), c->point_len, c->point);
    if (!p && u.no_memory) return osync__err(err, OSYNC_ENOMEM, "out of memory for a sync point");
    if (!p) return osync__err(err, OSYNC_ECORRUPT, "the sync point to go on from doesn't parse");
    int rc = start_at(r, p, c->base, err);
    openmldb__datasync__sync_point__free_unpacked(p, &osync__protobuf_allocator);
    return rc;
}

/* What can be done about an error that no waiting mends. */
static int advise(int rc, osync_error_t *err) {
    osync_error_t cause;
    if (!err || (rc != OSYNC_EGAP && rc != OSYNC_EDIVERGED)) return rc;
    cause = *err;
    return osync__err(err, rc, "%s; %s", cause.message,
                      rc == OSYNC_EGAP
                          ? "`retry` goes on once that is mended, `create --restart` begins a new sync from "
                            "scratch"
                          : "`create --restart` begins a new sync from scratch");
}

int osync_reader_open(osync_reader_t **out, const osync_table_t *table, const osync_reader_config_t *config,
                      osync_error_t *err) {
    osync_reader_config_t own = defaults, *c = &own;
    int rc = osync__config_take(&own, sizeof own, config, "osync_reader_config_init", err);
    if (rc) return rc;
    if (c->phase == OSYNC_PHASE_SNAPSHOT ? !c->snapshot_dir : !c->binlog_dir)
        return osync__err(err, OSYNC_EINVAL, "a reader of this phase needs a %s folder",
                          c->phase == OSYNC_PHASE_SNAPSHOT ? "snapshot" : "binlog");
    if (c->phase == OSYNC_PHASE_ALL && !c->scratch_dir)
        return osync__err(err, OSYNC_EINVAL, "a reader of all phases needs a scratch folder");
    if (c->snapshot_dir && c->base == OSYNC_BASE_AUTO && c->phase == OSYNC_PHASE_ALL && !c->snapshot_name)
        return osync__err(err, OSYNC_EINVAL, "to find the base, the snapshot's name is needed");
    osync_reader_t *r = osync__calloc(1, sizeof *r);
    if (!r) return osync__err(err, OSYNC_ENOMEM, "reader: out of memory");
    r->form = *table;
    r->table = &r->form;
    r->memory = table->storage_mode == OPENMLDB__COMMON__STORAGE_MODE__kMemory;
    r->sdb_offset = c->snapshot_offset;
    r->sdb_count = c->snapshot_count;
    r->phase = c->phase;
    r->start_ts = c->start_ts;
    r->cancel = c->cancel;
    r->pauses = c->pauses;
    r->window_memory = c->window_memory;
    r->now = osync__wall_ms();
    r->scratch_dir = copy_string(c->scratch_dir, &rc);
    r->snapshot_dir = copy_string(c->snapshot_dir, &rc);
    r->snapshot_name = copy_string(c->snapshot_name, &rc);
    if (rc) osync__err(err, rc, "reader: out of memory");
    if (!rc && c->phase != OSYNC_PHASE_BINLOG) rc = open_snapshot(r, err);
    if (!rc && c->phase != OSYNC_PHASE_SNAPSHOT) rc = osync__binlog_open(&r->log, c->binlog_dir, err);
    if (!rc && r->log) rc = osync__binlog_tail(r->log, &r->tail_seen, err);
    if (!rc) switch (c->phase) {
        case OSYNC_PHASE_ALL:
            rc = open_point(r, c, err);
            break;
        case OSYNC_PHASE_SNAPSHOT:
            rc = r->memory ? 0 : osync__snapshot_seek(r->snapshot, NULL, 0, err);
            break;
        case OSYNC_PHASE_BINLOG:
            r->stage = FOLLOW;
            rc = osync__binlog_seek(r->log, c->from, err);
            break;
        }
    if (rc)
        osync_reader_close(r);
    else
        *out = r;
    return advise(rc, err);
}

void osync_reader_close(osync_reader_t *r) {
    if (!r) return;
    drop_ranges(r);
    close_snapshot(r);
    osync__binlog_close(r->log);
    osync__buf_free(&r->pk);
    osync__buf_free(&r->inflated);
    osync__buf_free(&r->key);
    osync__buf_free(&r->point);
    osync__free(r->scratch_dir);
    osync__free(r->snapshot_dir);
    osync__free(r->snapshot_name);
    osync__free(r);
}

/* ---- rows ---- */

/* Before a further row is looked at. */
static int may_go_on(const osync_reader_t *r, uint64_t left_out, osync_error_t *err) {
    if (r->pauses && left_out == PAUSE_AFTER) return osync__err(err, OSYNC_EAGAIN, "many rows are left out: ask again");
    return canceled(r, err);
}

/* The traverse's next row, or OSYNC_EOF at the snapshot's end. */
static int next_traversed(osync_reader_t *r, osync_error_t *err) {
    for (uint64_t left_out = 0;; left_out++) {
        osync__entry_t *e = &r->entry;
        bool covered = false;
        int rc = may_go_on(r, left_out, err);
        if (!rc && !r->pending) rc = osync__snapshot_next(r->snapshot, e, err);
        if (rc) return rc;
        r->pending = false;

        bool same = r->have_pk && r->pk.len == e->pk_len && (e->pk_len == 0 || !memcmp(r->pk.data, e->key, e->pk_len));
        r->k = same ? r->k + 1 : 1;
        if (!same) {
            r->pk.len = 0;
            r->have_pk = true;
            if (osync__buf_append(&r->pk, e->key, e->pk_len)) return osync__err(err, OSYNC_ENOMEM, "out of memory");
        }
        if (osync__ttl_expired(&r->table->ttl, r->now, e->ts, r->k) || e->ts < r->start_ts) continue;
        if (r->n_ranges > 0)
            rc = osync__window_covers(r->ranges[r->n_ranges - 1].window, e->key, e->key_len, e->pk_len, e->ts, &covered,
                                      err);
        if (rc) return rc;
        if (covered) continue;

        const uint8_t *value;
        size_t len;
        if (r->inflated.cap > KEEP_MEMORY) osync__buf_free(&r->inflated);
        rc = osync__row_uncompress(r->table, e->value, e->value_len, MAX_ROW, &r->inflated, &value, &len, err);
        if (rc) return rc;
        r->row = (osync_reader_row_t){.phase = OSYNC_PHASE_SNAPSHOT,
                                      .pk = e->key,
                                      .pk_len = e->pk_len,
                                      .ts = e->ts,
                                      .value = value,
                                      .value_len = len};
        return 0;
    }
}

static int check_end(osync_reader_t *r, osync_error_t *err) {
    if (r->sdb_done || r->sdb_records == r->sdb_count) return OSYNC_EOF;
    return osync__err(err, OSYNC_ECORRUPT,
                      "memory-table snapshot %s holds %llu records, and its MANIFEST says %llu: they don't belong "
                      "together",
                      r->snapshot_dir, (unsigned long long)r->sdb_records, (unsigned long long)r->sdb_count);
}

static void put_row(osync_reader_t *r, osync_phase_t phase, uint64_t index, const effect_t *f) {
    r->row = (osync_reader_row_t){.phase = phase,
                                  .offset = index,
                                  .pk = f->pk,
                                  .pk_len = f->pk_len,
                                  .ts = f->ts,
                                  .value = f->value,
                                  .value_len = f->value_len};
}

/* The next row of a memory table's snapshot, or OSYNC_EOF at its end. */
static int next_stored(osync_reader_t *r, osync_error_t *err) {
    for (uint64_t left_out = 0;; left_out++) {
        osync__log_record_t rec;
        effect_t f;
        bool gone = false;
        int rc = may_go_on(r, left_out, err);
        if (!rc) rc = r->sdb_done ? OSYNC_EOF : osync__sdb_next(r->sdb, &rec, err);
        if (rc) return rc == OSYNC_EOF ? check_end(r, err) : rc;
        if (rec.log_index >
            r->sdb_offset) { /* the file of the next MANIFEST, which isn't written yet: the log has it */
            r->sdb_done = true;
            return OSYNC_EOF;
        }
        r->sdb_records++;
        if (rec.log_index < r->at.next) continue;
        rc = effect_of(r, &rec, &f, err);
        if (!rc && f.kind == DELETE) rc = at_record(r, &rec, osync__err(err, OSYNC_ECORRUPT, "it isn't a put"), err);
        if (rc) return rc;
        r->before = r->at;
        r->at = (osync__position_t){.next = rec.log_index + 1};
        if (f.kind != PUT || f.ts < r->start_ts || osync__ttl_expired(&r->table->ttl, r->now, f.ts, 0)) continue;
        if (r->n_ranges > 0) rc = osync__window_deletes(r->ranges[0].window, f.pk, f.pk_len, f.ts, 0, &gone, err);
        if (rc) return rc;
        if (gone) continue;
        put_row(r, OSYNC_PHASE_SNAPSHOT, rec.log_index, &f);
        return 0;
    }
}

/* Is entry `index`, a put of `key`, delivered by the log, or is its row in what the snapshots have given? */
static int log_delivers(osync_reader_t *r, const effect_t *f, uint64_t index, bool *yes, osync_error_t *err) {
    *yes = true;
    if (r->phase == OSYNC_PHASE_BINLOG) {
        *yes = f->ts >= r->start_ts;
        return 0;
    }
    if (f->ts < r->start_ts || osync__ttl_expired(&r->table->ttl, r->now, f->ts, 0)) {
        *yes = false;
        return 0;
    }
    if (r->n_ranges == 0) return 0;
    if (r->memory) {
        bool gone = false;
        int failed = index > r->ranges[0].tail
                         ? 0
                         : osync__window_deletes(r->ranges[0].window, f->pk, f->pk_len, f->ts, index, &gone, err);
        *yes = !gone;
        return failed;
    }
    int rc = key_of(r, f->pk, f->pk_len, f->ts, err);
    if (rc) return rc;
    const range_t *g = range_of(r, r->key.data, r->key.len);
    if (index <= g->base)
        *yes = false;
    else if (index <= g->tail)
        rc = osync__window_is_last(g->window, r->key.data, r->key.len, f->pk_len, f->ts, index, yes, err);
    return rc;
}

static int next_logged(osync_reader_t *r, osync_error_t *err) {
    for (uint64_t left_out = 0;; left_out++) {
        osync__log_record_t rec;
        effect_t f;
        bool yes = false;
        int rc = may_go_on(r, left_out, err);
        if (!rc) rc = osync__binlog_next(r->log, &rec, err);
        if (!rc) rc = effect_of(r, &rec, &f, err);
        if (rc) return rc;
        if (r->n_ranges > 0 && rec.log_index > r->last_tail) drop_ranges(r);
        if (f.kind == PUT && !osync__lineage_was_read(&r->lineage, &rec))
            rc = log_delivers(r, &f, rec.log_index, &yes, err);
        if (rc) return rc;
        osync__lineage_read(&r->lineage, &r->at, &rec);
        r->before = r->at;
        r->at = osync__position_behind(&rec);
        if (rec.log_index > r->tail_seen) r->tail_seen = rec.log_index;
        if (!yes) continue;
        put_row(r, OSYNC_PHASE_BINLOG, rec.log_index, &f);
        return 0;
    }
}

int osync_reader_next(osync_reader_t *r, osync_reader_row_t *row, osync_error_t *err) {
    int rc = 0;
    if (r->unread) {
        r->unread = false;
        *row = r->row;
        return 0;
    }
    r->have_row = false;
    if (r->stage == TRAVERSE) {
        rc = r->memory ? next_stored(r, err) : next_traversed(r, err);
        if (rc == OSYNC_EOF && r->phase == OSYNC_PHASE_ALL) {
            r->at = log_start(r);
            close_snapshot(r);
            rc = begin_follow(r, err);
            if (!rc) rc = next_logged(r, err);
        }
    } else {
        rc = next_logged(r, err);
    }
    if (rc) return advise(rc, err);
    r->have_row = true;
    *row = r->row;
    return 0;
}

void osync_reader_unread(osync_reader_t *r) {
    if (r->have_row) r->unread = true;
}

static void pack_term(Openmldb__Datasync__SyncTerm *m, const osync__stretch_t *s) {
    openmldb__datasync__sync_term__init(m);
    m->has_term = m->has_last = true;
    m->term = s->term;
    m->last = s->last;
    m->has_first = s->first > 0;
    m->first = s->first;
}

static int pack_point(osync_reader_t *r, Openmldb__Datasync__SyncPoint *p, osync_error_t *err) {
    Openmldb__Datasync__SyncRange ranges[MAX_RANGES], *list[MAX_RANGES];
    Openmldb__Datasync__SyncTerm terms[2 * OSYNC__MAX_TERMS], *earlier[OSYNC__MAX_TERMS], *lost[OSYNC__MAX_TERMS];
    size_t n = 0;
    for (size_t i = 0; i < r->lineage.n_earlier; i++) {
        if (r->lineage.earlier[i].last + 1 >= p->offset) continue; /* known since the row that was taken back */
        pack_term(&terms[n], &r->lineage.earlier[i]);
        earlier[p->n_earlier_terms++] = &terms[n++];
    }
    for (size_t i = 0; i < r->lineage.n_lost; i++) {
        pack_term(&terms[n], &r->lineage.lost[i]);
        lost[p->n_lost_terms++] = &terms[n++];
    }
    p->earlier_terms = earlier;
    p->lost_terms = lost;
    bool with_ranges = r->n_ranges > 0 && (r->stage == TRAVERSE || p->offset <= r->last_tail);
    for (size_t i = 0; with_ranges && i < r->n_ranges; i++) {
        const range_t *g = &r->ranges[i];
        openmldb__datasync__sync_range__init(&ranges[i]);
        if (i > 0) {
            ranges[i].has_pk = ranges[i].has_ts = true;
            ranges[i].pk = (ProtobufCBinaryData){.data = g->from_pk.data, .len = g->from_pk.len};
            ranges[i].ts = g->from_ts;
        }
        ranges[i].has_window_base = ranges[i].has_window_tail = true;
        ranges[i].window_base = g->base;
        ranges[i].window_tail = g->tail;
        ranges[i].has_base_term = ranges[i].has_base_crc = g->at_base.known;
        ranges[i].base_term = g->at_base.term;
        ranges[i].base_crc = g->at_base.crc;
        ranges[i].has_tail_term = ranges[i].has_tail_crc = g->at_tail.known;
        ranges[i].tail_term = g->at_tail.term;
        ranges[i].tail_crc = g->at_tail.crc;
        list[i] = &ranges[i];
        p->n_ranges = i + 1;
    }
    p->ranges = list;
    p->has_multi_ts = with_ranges;
    p->multi_ts = r->form.multi_ts;
    r->point.len = 0;
    size_t size = openmldb__datasync__sync_point__get_packed_size(p);
    if (osync__buf_reserve(&r->point, size)) return osync__err(err, OSYNC_ENOMEM, "sync point: out of memory");
    r->point.len = openmldb__datasync__sync_point__pack(p, r->point.data);
    return 0;
}

int osync_reader_point(osync_reader_t *r, const void **point, size_t *len, osync_error_t *err) {
    Openmldb__Datasync__SyncPoint p;
    openmldb__datasync__sync_point__init(&p);
    int rc = 0;
    if (r->phase != OSYNC_PHASE_ALL)
        return osync__err(err, OSYNC_EINVAL, "only a reader of all phases has sync points");

    bool unread_traversed = r->unread && r->row.phase == OSYNC_PHASE_SNAPSHOT;
    if (r->stage == TRAVERSE && !r->memory && !unread_traversed && !r->pending) {
        /* The point names the next entry, so it has to be seen. */
        rc = osync__snapshot_next(r->snapshot, &r->entry, err);
        r->have_row = false; /* what the row pointed to is gone */
        if (!rc) r->pending = true;
        if (rc && rc != OSYNC_EOF) return rc;
    }
    if (r->stage == TRAVERSE && r->memory) {
        p.type = OPENMLDB__DATASYNC__SYNC_TYPE__kSNAPSHOT;
        p.has_offset = true;
        p.offset = r->unread ? r->before.next : r->at.next;
        p.snapshot_name = r->snapshot_name;
        p.snapshot_id = r->snapshot_id;
    } else if (r->stage == TRAVERSE && (unread_traversed || r->pending)) {
        p.type = OPENMLDB__DATASYNC__SYNC_TYPE__kSNAPSHOT;
        const osync__entry_t *e = &r->entry;
        p.has_pk = p.has_ts = true;
        union {
            const uint8_t *from;
            uint8_t *to;
        } key = {.from = e->key}; /* protobuf-c has no const, and doesn't write */
        p.pk = (ProtobufCBinaryData){.data = key.to, .len = e->pk_len};
        p.ts = e->ts;
        p.snapshot_name = r->snapshot_name;
        p.snapshot_id = r->snapshot_id;
    } else {
        osync__position_t at = r->unread ? r->before : r->at;
        if (r->stage == TRAVERSE) at = log_start(r); /* the snapshot is at its end */
        p.type = OPENMLDB__DATASYNC__SYNC_TYPE__kBINLOG;
        p.has_offset = true;
        p.offset = at.next;
        p.has_last_term = p.has_last_crc = at.known;
        p.last_term = at.term;
        p.last_crc = at.crc;
        p.has_last_tail = r->last_tail > 0;
        p.last_tail = r->last_tail;
    }
    rc = pack_point(r, &p, err);
    *point = r->point.data;
    *len = r->point.len;
    return rc;
}

void osync_reader_progress(const osync_reader_t *r, osync_reader_progress_t *out) {
    *out = (osync_reader_progress_t){
        .traversing = r->stage == TRAVERSE,
        .snapshot_rows = r->snapshot ? osync__snapshot_estimate(r->snapshot)
                         : r->sdb    ? r->sdb_count
                                     : 0,
        .next = r->stage == TRAVERSE ? 0 : r->at.next,
        .tail = r->tail_seen,
    };
}

void osync_reader_window(const osync_reader_t *r, uint64_t *base, uint64_t *tail) {
    *base = r->n_ranges ? r->ranges[0].base : 0;
    *tail = r->n_ranges ? r->ranges[0].tail : 0;
}
