/* Memory-table snapshots: what the file's reader promises, and that a memory table's file and log become one stream of
 * rows, each once, in thousands of random histories, however often the reading begins anew. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <snappy-c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "../tablet/log_writer.h"
#include "base/error.h"
#include "base/sys.h"
#include "data_sync.pb-c.h"
#include "format/sdb.h"
#include "format/table.h"
#include "osync/reader.h"

enum { FULL = 1, FIRST, MIDDLE, LAST, END };
enum { PLAIN, ZLIB, SNAPPY, N_FORMS };
static const char *const suffixes[] = {"", ".zlib.zlib", ".snappy.snappy"};
enum { MIB = 1 << 20, FRAME_HEAD = 64 };

/* ---- a file in the making ---- */

typedef struct stream {
    int form;
    osync__buf_t bytes; /* the blocks */
    uint64_t records;
} stream_t;

static size_t block_of(const stream_t *s) {
    return s->form == PLAIN ? 4096 : MIB;
}

static size_t header_of(const stream_t *s) {
    return s->form == PLAIN ? 7 : 9;
}

static void fill(osync__buf_t *b, size_t n, int with) {
    assert_int_equal(osync__buf_reserve(b, n + 1), 0);
    memset(b->data + b->len, with, n);
    b->len += n;
}

static void add_physical(stream_t *s, unsigned type, const void *data, size_t len) {
    uint8_t h[9] = {0}, t = (uint8_t)type;
    osync__put_u32le(h + 4, (uint32_t)len);
    h[header_of(s) - 1] = t;
    uint32_t crc = osync__crc32c(osync__crc32c(0, &t, 1), data, len);
    osync__put_u32le(h, (crc >> 15 | crc << 17) + 0xa282ead8u);
    assert_int_equal(osync__buf_append(&s->bytes, h, header_of(s)), 0);
    assert_int_equal(osync__buf_append(&s->bytes, len ? data : "", len), 0);
}

static void fill_block(stream_t *s) {
    size_t left = block_of(s) - s->bytes.len % block_of(s);
    if (left < header_of(s)) fill(&s->bytes, left, s->form == PLAIN ? 0 : 0xee);
}

static void add_record(stream_t *s, const void *data, size_t len) {
    const uint8_t *p = data;
    bool first = true, last = false;
    for (; !last; first = false) {
        fill_block(s);
        size_t room = block_of(s) - s->bytes.len % block_of(s) - header_of(s);
        size_t n = len < room ? len : room;
        last = n == len;
        add_physical(s, first ? (last ? FULL : FIRST) : last ? LAST : MIDDLE, p, n);
        p += n;
        len -= n;
    }
    s->records++;
}

static void add_end(stream_t *s) {
    fill_block(s);
    add_physical(s, END, NULL, 0);
    if (s->form != PLAIN && s->bytes.len % MIB) fill(&s->bytes, MIB - s->bytes.len % MIB, 0);
}

/* The file's bytes. Frees the stream. */
static osync__buf_t pack(stream_t *s) {
    osync__buf_t out = {0};
    if (s->form == PLAIN) {
        out = s->bytes;
        *s = (stream_t){0};
        return out;
    }
    for (size_t at = 0; at < s->bytes.len; at += MIB) {
        size_t head = out.len, room = 2 * MIB;
        uLongf deflated = room;
        fill(&out, FRAME_HEAD, 0);
        assert_int_equal(osync__buf_reserve(&out, room), 0);
        uint8_t *to = out.data + out.len;
        if (s->form == ZLIB) {
            assert_int_equal(compress(to, &deflated, s->bytes.data + at, MIB), Z_OK);
            room = deflated;
        } else {
            assert_int_equal(snappy_compress((char *)s->bytes.data + at, MIB, (char *)to, &room), SNAPPY_OK);
        }
        osync__put_u32le(out.data + head, (uint32_t)room);
        out.data[head + 4] = (uint8_t)s->form;
        out.len += room;
    }
    osync__buf_free(&s->bytes);
    *s = (stream_t){0};
    return out;
}

static void write_file(const char *path, const void *data, size_t len) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

typedef struct world {
    char dir[64], path[200];
} world_t;

static int setup(void **state) {
    world_t *w = calloc(1, sizeof *w);
    (void)snprintf(w->dir, sizeof w->dir, "/tmp/osync-sdb-XXXXXX");
    *state = w;
    return w && mkdtemp(w->dir) ? 0 : -1;
}

static int teardown(void **state) {
    world_t *w = *state;
    int rc = osync__rmtree(w->dir, NULL);
    free(w);
    return rc;
}

static osync__sdb_t *open_file(world_t *w, int form, const osync__buf_t *bytes) {
    osync__sdb_t *sdb = NULL;
    osync_error_t err = {0};
    (void)snprintf(w->path, sizeof w->path, "%s/202304111600.sdb%s", w->dir, suffixes[form]);
    write_file(w->path, bytes->data, bytes->len);
    if (osync__sdb_open(&sdb, w->path, &err)) fail_msg("%s", err.message);
    return sdb;
}

/* A LogEntry with so much of it as a file's reader looks at. */
static osync__buf_t entry(uint64_t index, size_t size) {
    Openmldb__Api__LogEntry e = OPENMLDB__API__LOG_ENTRY__INIT;
    osync__buf_t value = {0}, out = {0};
    fill(&value, size, (int)(index % 251));
    e.has_term = e.has_log_index = e.has_value = 1;
    e.term = 3;
    e.log_index = index;
    e.value = (ProtobufCBinaryData){.data = value.data, .len = value.len};
    assert_int_equal(osync__buf_reserve(&out, openmldb__api__log_entry__get_packed_size(&e)), 0);
    out.len = openmldb__api__log_entry__pack(&e, out.data);
    osync__buf_free(&value);
    return out;
}

static void add_entry(stream_t *s, uint64_t index, size_t size) {
    osync__buf_t e = entry(index, size);
    add_record(s, e.data, e.len);
    osync__buf_free(&e);
}

/* ---- the file ---- */

/* The worked example of the format: its bytes, and its end record's. */
static void golden_bytes(void **state) {
    static const uint8_t bytes[] = {
        0x37, 0xd3, 0xfb, 0x03, 0x32, 0x00, 0x01, 0x08, 0x01, 0x10, 0x01, 0x1a, 0x00, 0x22, 0x19, 0x01,
        0x01, 0x19, 0x00, 0x00, 0x00, 0xfa, 0x2a, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x14, 0x68, 0x65, 0x6c, 0x6c, 0x6f, 0x28, 0xfb, 0xd8, 0xd0, 0xfa, 0xf6, 0x30, 0x32,
        0x08, 0x0a, 0x04, 0x6b, 0x65, 0x79, 0x31, 0x10, 0x00, 0xf0, 0xb9, 0x1d, 0x31, 0x00, 0x00, 0x05,
    };
    osync__buf_t file = {0};
    osync__log_record_t rec;
    osync_error_t err = {0};
    assert_int_equal(osync__buf_append(&file, bytes, sizeof bytes), 0);
    osync__sdb_t *sdb = open_file(*state, PLAIN, &file);
    assert_int_equal(osync__sdb_next(sdb, &rec, &err), 0);
    assert_int_equal(rec.log_index, 1);
    assert_int_equal(rec.term, 1);
    assert_int_equal(rec.len, 50);
    assert_int_equal(rec.at, 0);
    assert_memory_equal(rec.payload, bytes + 7, 50);
    assert_int_equal(osync__sdb_next(sdb, &rec, &err), OSYNC_EOF);
    assert_int_equal(osync__sdb_next(sdb, &rec, &err), OSYNC_EOF);
    osync__sdb_close(sdb);
    osync__buf_free(&file);
}

/* Entries that end right before, at and behind the place where a head has no room any more, and larger than a block. */
static void every_entry_once(void **state) {
    for (int form = 0; form < N_FORMS; form++) {
        stream_t s = {.form = form};
        size_t block = block_of(&s), sizes[64], n = 0;
        for (size_t d = 0; d < 24; d++) sizes[n++] = block - 40 + d;
        sizes[n++] = 0;
        sizes[n++] = 3 * block;
        sizes[n++] = 5;
        for (size_t i = 0; i < n; i++) {
            /* Each begins with a block: what is before it fills one up. */
            size_t used = s.bytes.len % block;
            if (used > 0 && block - used > 100) add_entry(&s, 2 * i + 1, block - used - 60);
            add_entry(&s, 2 * i + 2, sizes[i]);
        }
        uint64_t expected = s.records, got = 0;
        add_end(&s);
        osync__buf_t file = pack(&s);
        assert_int_equal(osync__buf_append(&file, form == PLAIN ? "rubbish" : "", form == PLAIN ? 7 : 0), 0);
        osync__sdb_t *sdb = open_file(*state, form, &file);
        osync__log_record_t rec;
        osync_error_t err = {0};
        int rc;
        while (!(rc = osync__sdb_next(sdb, &rec, &err))) {
            got++;
            if (rec.log_index % 2) continue;
            osync__buf_t e = entry(rec.log_index, sizes[rec.log_index / 2 - 1]);
            assert_int_equal(rec.len, e.len);
            assert_memory_equal(rec.payload, e.data, e.len);
            osync__buf_free(&e);
        }
        if (rc != OSYNC_EOF) fail_msg("%s", err.message);
        assert_int_equal(got, expected);
        osync__sdb_close(sdb);
        osync__buf_free(&file);
    }
}

static int read_all(osync__sdb_t *sdb, uint64_t *n, osync_error_t *err) {
    osync__log_record_t rec;
    int rc;
    for (*n = 0; !(rc = osync__sdb_next(sdb, &rec, err)); ++*n) assert_true(rec.log_index > 0);
    return rc;
}

/* Wherever the file is cut, and whatever byte of it is another one, that is said: no entry is lost without a word. */
static void damage_is_an_error(void **state) {
    world_t *w = *state;
    for (int form = 0; form < N_FORMS; form++) {
        stream_t s = {.form = form};
        uint64_t n;
        for (uint64_t i = 1; i <= 6; i++) add_entry(&s, i, 1500);
        add_end(&s);
        osync__buf_t file = pack(&s);
        size_t step = file.len > 20000 ? 997 : 1;
        for (size_t at = 0; at < file.len; at += step) {
            osync_error_t err = {0};
            osync__buf_t cut = {.data = file.data, .len = at};
            osync__sdb_t *sdb = open_file(w, form, &cut);
            assert_int_equal(read_all(sdb, &n, &err), OSYNC_ECORRUPT);
            assert_non_null(strstr(err.message, w->path));
            osync__sdb_close(sdb);
            if (form != PLAIN && at >= FRAME_HEAD) continue; /* behind the end record is room for anything */
            file.data[at] ^= 0x10;
            sdb = open_file(w, form, &file);
            int rc = read_all(sdb, &n, &err);
            /* The unused end of a plain block means nothing. */
            if (rc != OSYNC_ECORRUPT && !(rc == OSYNC_EOF && n == 6)) fail_msg("form %d, byte %zu: %d", form, at, rc);
            if (form != PLAIN || at % 4096 < 4000) assert_int_equal(rc, OSYNC_ECORRUPT);
            osync__sdb_close(sdb);
            file.data[at] ^= 0x10;
        }
        osync__buf_free(&file);
    }
}

static void refused(world_t *w, stream_t *s, const char *word) {
    osync_error_t err = {0};
    uint64_t n;
    int form = s->form;
    osync__buf_t file = pack(s);
    osync__sdb_t *sdb = open_file(w, form, &file);
    assert_int_equal(read_all(sdb, &n, &err), OSYNC_ECORRUPT);
    if (!strstr(err.message, word)) fail_msg("%s", err.message);
    osync__sdb_close(sdb);
    osync__buf_free(&file);
}

static void order_and_kinds_are_checked(void **state) {
    for (int form = 0; form < N_FORMS; form++) {
        stream_t s = {.form = form};
        add_entry(&s, 5, 10);
        add_entry(&s, 5, 10);
        add_end(&s);
        refused(*state, &s, "don't ascend");
        s.form = form;
        add_entry(&s, 0, 10);
        add_end(&s);
        refused(*state, &s, "no log_index");
        s.form = form;
        add_physical(&s, MIDDLE, "abc", 3);
        add_end(&s);
        refused(*state, &s, "out of order");
        s.form = form;
        add_physical(&s, FIRST, "abc", 3);
        add_end(&s);
        refused(*state, &s, "out of order");
        s.form = form;
        add_record(&s, "\x0f", 1);
        add_end(&s);
        refused(*state, &s, "isn't a LogEntry");
        s.form = form;
        add_physical(&s, 7, "abc", 3);
        add_end(&s);
        refused(*state, &s, "unknown type");
    }
}

/* ---- file and log, as one stream of rows ---- */

enum { HISTORIES = 250, MAX_ENTRIES = 300, KEYS = 6 };

typedef struct event {
    enum { ROW, OTHER, DELETE_KEY, DELETE_ALL } kind; /* OTHER: a put without a key of index 0 */
    int key;
    uint64_t ts, end; /* DELETE_: start and end */
    bool start_given;
    int delivered;
} event_t;

typedef struct history {
    char dir[64], binlog[100], scratch[100], sdb[256], name[64];
    unsigned seed;
    log_writer_t log;
    event_t events[MAX_ENTRIES + 1]; /* by log index */
    uint64_t n, offset, count, first_tail;
    bool has_snapshot, opened;
    int snapshots;
    osync_table_t *table;
    osync_reader_t *reader;
    osync__buf_t point;
} history_t;

static unsigned rnd(history_t *h, unsigned n) {
    h->seed = h->seed * 1103515245u + 12345u;
    return (h->seed >> 8) % n;
}

static bool takes_away(const history_t *h, uint64_t delete_at, const event_t *row) {
    const event_t *d = &h->events[delete_at];
    if (d->kind != DELETE_ALL && (d->kind != DELETE_KEY || d->key != row->key)) return false;
    return (!d->start_given || row->ts <= d->ts) && row->ts > d->end;
}

/* Taken away by an entry behind it, up to `until`? */
static bool is_deleted(const history_t *h, uint64_t index, uint64_t until) {
    for (uint64_t j = index + 1; j <= until; j++)
        if (takes_away(h, j, &h->events[index])) return true;
    return false;
}

static osync__buf_t encode(const history_t *h, uint64_t index) {
    const event_t *x = &h->events[index];
    Openmldb__Api__LogEntry e = OPENMLDB__API__LOG_ENTRY__INIT;
    Openmldb__Api__Dimension dims[2], *list[2] = {&dims[0], &dims[1]};
    uint8_t key[8], value[8];
    osync__buf_t out = {0};
    int len = snprintf((char *)key, sizeof key, "k%d", x->key);
    osync__put_u64le(value, index);
    for (int i = 0; i < 2; i++) {
        openmldb__api__dimension__init(&dims[i]);
        dims[i].has_key = dims[i].has_idx = 1;
        dims[i].key = (ProtobufCBinaryData){.data = key, .len = (size_t)len};
        dims[i].idx = (uint32_t)(1 - i);
    }
    e.has_term = e.has_log_index = 1;
    e.term = 1;
    e.log_index = index;
    e.dimensions = x->kind == DELETE_KEY ? list + 1 : list;
    e.n_dimensions = x->kind == ROW ? 2 : x->kind == DELETE_ALL ? 0 : 1;
    if (x->kind >= DELETE_KEY) {
        e.has_method_type = 1;
        e.method_type = OPENMLDB__API__METHOD_TYPE__kDelete;
        e.has_end_ts = x->end > 0;
        e.end_ts = x->end;
    } else {
        e.has_value = 1;
        e.value = (ProtobufCBinaryData){.data = value, .len = sizeof value};
    }
    e.has_ts = x->kind < DELETE_KEY || x->start_given;
    e.ts = x->ts;
    assert_int_equal(osync__buf_reserve(&out, openmldb__api__log_entry__get_packed_size(&e)), 0);
    out.len = openmldb__api__log_entry__pack(&e, out.data);
    return out;
}

static void append(history_t *h, unsigned n) {
    osync_error_t err = {0};
    for (unsigned i = 0; i < n && h->n < MAX_ENTRIES; i++) {
        event_t *x = &h->events[++h->n];
        unsigned what = rnd(h, 20);
        *x = (event_t){.key = (int)rnd(h, KEYS), .ts = 1 + rnd(h, 5), .kind = ROW};
        if (what == 0) *x = (event_t){.kind = DELETE_KEY, .key = x->key};
        if (what == 1)
            *x = (event_t){.kind = DELETE_KEY, .key = x->key, .start_given = true, .ts = 4, .end = rnd(h, 3)};
        if (what == 2 && rnd(h, 4) == 0) *x = (event_t){.kind = DELETE_ALL};
        if (what == 3) x->kind = OTHER;
        osync__buf_t e = encode(h, h->n);
        assert_int_equal(log_writer_append(&h->log, h->n, e.data, e.len, &err), 0);
        osync__buf_free(&e);
        if (rnd(h, 15) == 0) assert_int_equal(log_writer_roll(&h->log, &err), 0);
    }
    if (h->log.fd >= 0) assert_int_equal(log_writer_flush(&h->log, &err), 0);
}

/* As the tablet makes it; some rows that are deleted from index 0 keep their other dimension. */
static void make_snapshot(history_t *h) {
    stream_t s = {.form = (int)rnd(h, 12) ? PLAIN : 1 + (int)rnd(h, 2)};
    uint64_t offset =
        h->has_snapshot ? h->offset + rnd(h, (unsigned)(h->n - h->offset) + 1) : rnd(h, (unsigned)h->n + 1);
    if (offset < h->n && rnd(h, 3)) offset = h->n;
    h->offset = offset;
    for (uint64_t i = 1; i <= offset; i++) {
        event_t *x = &h->events[i], real = *x;
        if (x->kind >= DELETE_KEY) continue;
        if (x->kind == ROW && is_deleted(h, i, offset)) {
            if (i % 3) continue;
            x->kind = OTHER;
        }
        osync__buf_t e = encode(h, i);
        add_record(&s, e.data, e.len);
        osync__buf_free(&e);
        *x = real;
    }
    h->count = s.records;
    int form = s.form;
    add_end(&s);
    osync__buf_t file = pack(&s);
    (void)snprintf(h->name, sizeof h->name, "%d.sdb%s", ++h->snapshots, suffixes[form]);
    (void)snprintf(h->sdb, sizeof h->sdb, "%s/%s", h->dir, h->name);
    write_file(h->sdb, file.data, file.len);
    osync__buf_free(&file);
    h->has_snapshot = true;
}

static void open_reader(history_t *h) {
    osync_reader_config_t c;
    osync_error_t err = {0};
    uint64_t base;
    osync_reader_config_init(&c, sizeof c);
    c.binlog_dir = h->binlog;
    c.snapshot_dir = h->has_snapshot ? h->sdb : NULL;
    c.snapshot_name = h->has_snapshot ? h->name : NULL;
    c.snapshot_offset = h->offset;
    c.snapshot_count = h->count;
    c.scratch_dir = h->scratch;
    c.point = h->point.data;
    c.point_len = h->point.len;
    if (osync_reader_open(&h->reader, h->table, &c, &err)) fail_msg("seed %u: %s", h->seed, err.message);
    if (h->opened) return;
    osync_reader_window(h->reader, &base, &h->first_tail);
    assert_int_equal(base, h->offset);
    h->opened = true;
}

static void close_reader(history_t *h) {
    const void *point;
    size_t len;
    osync_error_t err = {0};
    h->point.len = 0;
    if (osync_reader_point(h->reader, &point, &len, &err)) fail_msg("point: %s", err.message);
    assert_int_equal(osync__buf_append(&h->point, point, len), 0);
    osync_reader_close(h->reader);
    h->reader = NULL;
}

static bool traverses(const history_t *h) {
    Openmldb__Datasync__SyncPoint *p = openmldb__datasync__sync_point__unpack(NULL, h->point.len, h->point.data);
    assert_non_null(p);
    bool yes = p->type == OPENMLDB__DATASYNC__SYNC_TYPE__kSNAPSHOT;
    openmldb__datasync__sync_point__free_unpacked(p, NULL);
    return yes;
}

static void deliver(history_t *h, const osync_reader_row_t *row) {
    assert_int_equal(row->value_len, 8);
    uint64_t index = osync__get_u64le(row->value);
    assert_in_range(index, 1, h->n);
    assert_int_equal(row->offset, index);
    assert_int_equal(row->ts, h->events[index].ts);
    if (h->events[index].kind != ROW || h->events[index].delivered++ || is_deleted(h, index, h->first_tail))
        fail_msg("entry %llu is delivered, and must not be", (unsigned long long)index);
}

/* Reads up to `most` rows. True: it came to the end. */
static bool read_some(history_t *h, unsigned most) {
    osync_reader_row_t row;
    osync_error_t err = {0};
    for (unsigned i = 0; i < most; i++) {
        int rc = osync_reader_next(h->reader, &row, &err);
        if (rc == OSYNC_EOF) return true;
        if (rc) fail_msg("%s", err.message);
        if (rnd(h, 8) == 0) { /* taken back, and perhaps for good */
            osync_reader_unread(h->reader);
            if (rnd(h, 2)) return false;
            assert_int_equal(osync_reader_next(h->reader, &row, &err), 0);
        }
        deliver(h, &row);
    }
    return false;
}

static void one_history(unsigned seed, int *in_file, int *others) {
    history_t *h = calloc(1, sizeof *h);
    osync_error_t err = {0};
    Openmldb__Api__TableMeta meta = OPENMLDB__API__TABLE_META__INIT;
    Openmldb__Common__ColumnDesc column = OPENMLDB__COMMON__COLUMN_DESC__INIT, *columns[] = {&column};
    char name[] = "c";
    assert_non_null(h);
    h->seed = seed * 2654435761u;
    column.name = name;
    column.has_data_type = 1;
    column.data_type = OPENMLDB__TYPE__DATA_TYPE__kBigInt;
    meta.name = meta.db = name;
    meta.n_column_desc = 1;
    meta.column_desc = columns;
    meta.has_storage_mode = 1;
    meta.storage_mode = OPENMLDB__COMMON__STORAGE_MODE__kMemory;
    if (osync__table_from_meta(&h->table, &meta, &err)) fail_msg("%s", err.message);
    /* RocksDB syncs each of its files when it makes them, and a power cut is none of this test's business. */
    (void)snprintf(h->dir, sizeof h->dir, "%s/osync-sdb-XXXXXX", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    assert_non_null(mkdtemp(h->dir));
    (void)snprintf(h->binlog, sizeof h->binlog, "%s/binlog", h->dir);
    (void)snprintf(h->scratch, sizeof h->scratch, "%s/scratch", h->dir);
    assert_int_equal(mkdir(h->binlog, 0700), 0);
    assert_int_equal(log_writer_open(&h->log, h->binlog, 1 << 30, NULL, NULL, &err), 0);
    append(h, 40 + rnd(h, 160));
    if (rnd(h, 8)) make_snapshot(h);
    if (h->has_snapshot && rnd(h, 2)) assert_int_equal(log_writer_purge(&h->log, h->offset, &err), 0);
    append(h, rnd(h, 60));
    for (bool end = false; !end;) {
        open_reader(h);
        end = read_some(h, rnd(h, 9) ? rnd(h, 15) : 1000);
        close_reader(h);
        uint64_t before = h->n;
        if (rnd(h, 3) == 0) append(h, rnd(h, 40));
        if (end && h->n < MAX_ENTRIES / 2) append(h, 20);
        if (h->n > before) end = false;
        if (h->n > 0 && rnd(h, 4) == 0) {
            make_snapshot(h);
            *others += traverses(h);
        }
        *in_file += traverses(h);
    }
    for (uint64_t i = 1; i <= h->n; i++) {
        const event_t *x = &h->events[i];
        if (x->kind == ROW && !x->delivered && !is_deleted(h, i, h->n))
            fail_msg("seed %u: entry %llu is lost", seed, (unsigned long long)i);
    }
    log_writer_close(&h->log);
    osync_table_free(h->table);
    osync__buf_free(&h->point);
    assert_int_equal(osync__rmtree(h->dir, &err), 0);
    free(h);
}

static void random_histories(void **state) {
    (void)state;
    int in_file = 0, others = 0;
    for (unsigned seed = 1; seed <= HISTORIES; seed++) one_history(seed, &in_file, &others);
    printf("%d histories of memory tables; begun anew in a file %d times, %d of them in another one\n", HISTORIES,
           in_file, others);
    assert_in_range(in_file, HISTORIES, INT32_MAX);
    assert_in_range(others, HISTORIES / 6, INT32_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(golden_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(every_entry_once, setup, teardown),
        cmocka_unit_test_setup_teardown(damage_is_an_error, setup, teardown),
        cmocka_unit_test_setup_teardown(order_and_kinds_are_checked, setup, teardown),
        cmocka_unit_test(random_histories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
