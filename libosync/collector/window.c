#include "collector/window.h"

#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/sys.h"
#include "collector/keymap.h"
#include "format/snapshot.h"

enum {
    WRITE_BUFFER = 8 << 20,    /* bytes of one memtable of the scratch database */
    CACHE = 4 << 20,           /* bytes of its block cache */
    PREALLOCATE = 64 << 10,    /* bytes of its MANIFEST; RocksDB would take 4 MiB at once */
    FATAL_LEVEL = 4,           /* rocksdb::InfoLogLevel */
    BATCH = 1000,              /* entries written at once */
    MAX_WIDE_DELETES = 100000, /* deletes without a key are kept in memory, 24 bytes each */
};

/* A delete of one pk's rows, as long as it is in memory. */
typedef struct pk_delete {
    uint64_t index, start, end;
    uint64_t earlier; /* 1 + the place of the delete of this pk before it; 0: it is the first */
} pk_delete_t;

/* A delete without a key: it applies to every pk. */
typedef struct wide_delete {
    uint64_t index, start, end;
} wide_delete_t;

struct osync__window {
    const osync_table_t *table;
    char *dir;
    size_t memory; /* limit of what is held in memory */

    /* While that holds everything. */
    osync__keymap_t puts;    /* base index key -> log index of its last put */
    osync__keymap_t pks;     /* pk -> 1 + the place of its last delete */
    pk_delete_t *pk_deletes; /* in log order */
    size_t n_pk_deletes, cap_pk_deletes;

    /* The scratch database, which has everything as soon as it is open. */
    rocksdb_comparator_t *comparator;
    rocksdb_options_t *options, *delete_options;
    rocksdb_block_based_table_options_t *table_options;
    rocksdb_cache_t *cache;
    rocksdb_t *db; /* base index key -> log index of its last put; NULL: not needed so far */
    /* <u32 BE pk length> <pk> <u64 BE log index> -> <start> <end>; NULL until the first delete */
    rocksdb_column_family_handle_t *deletes;
    rocksdb_writebatch_t *batch;
    rocksdb_writeoptions_t *write_options;
    rocksdb_readoptions_t *read_options;
    rocksdb_iterator_t *puts_iter, *deletes_iter;
    bool puts_sought;
    bool has_puts;
    osync__buf_t key; /* of the deletes family */

    wide_delete_t *wide; /* in memory always */
    size_t n_wide, cap_wide;
};

/* RocksDB's error text becomes ours. */
static int db_error(const osync__window_t *w, char *text, osync_error_t *err) {
    osync__err(err, OSYNC_EIO, "scratch database %s: %s", w->dir, text);
    rocksdb_free(text);
    return OSYNC_EIO;
}

int osync__window_new(osync__window_t **out, const osync_table_t *table, const char *dir, size_t memory,
                      osync_error_t *err) {
    osync__window_t *w = osync__calloc(1, sizeof *w);
    char *copy = osync__strdup(dir);
    if (!w || !copy) {
        osync__free(w);
        osync__free(copy);
        return osync__err(err, OSYNC_ENOMEM, "window: out of memory");
    }
    w->table = table;
    w->dir = copy;
    w->memory = memory;
    *out = w;
    return 0;
}

static void free_memory(osync__window_t *w) {
    osync__keymap_free(&w->puts);
    osync__keymap_free(&w->pks);
    osync__free(w->pk_deletes);
    w->pk_deletes = NULL;
    w->n_pk_deletes = w->cap_pk_deletes = 0;
}

void osync__window_free(osync__window_t *w) {
    if (!w) return;
    free_memory(w);
    if (w->puts_iter) rocksdb_iter_destroy(w->puts_iter);
    if (w->deletes_iter) rocksdb_iter_destroy(w->deletes_iter);
    if (w->batch) rocksdb_writebatch_destroy(w->batch);
    if (w->deletes) rocksdb_column_family_handle_destroy(w->deletes);
    if (w->db) rocksdb_close(w->db);
    if (w->write_options) rocksdb_writeoptions_destroy(w->write_options);
    if (w->read_options) rocksdb_readoptions_destroy(w->read_options);
    if (w->options) rocksdb_options_destroy(w->options);
    if (w->delete_options) rocksdb_options_destroy(w->delete_options);
    if (w->table_options) rocksdb_block_based_options_destroy(w->table_options);
    if (w->cache) rocksdb_cache_destroy(w->cache);
    if (w->comparator) rocksdb_comparator_destroy(w->comparator);
    if (w->options) {
        osync_error_t err = {0};
        if (osync__rmtree(w->dir, &err)) osync__log(OSYNC_LOG_WARN, "scratch database: %s", err.message);
    }
    osync__buf_free(&w->key);
    osync__free(w->wide);
    osync__free(w->dir);
    osync__free(w);
}

static rocksdb_options_t *new_options(osync__window_t *w) {
    rocksdb_options_t *o = rocksdb_options_create();
    rocksdb_options_set_create_if_missing(o, 1);
    rocksdb_options_set_write_buffer_size(o, WRITE_BUFFER);
    rocksdb_options_set_max_write_buffer_number(o, 2);
    rocksdb_options_set_max_open_files(o, 64);
    rocksdb_options_set_max_file_opening_threads(o, 1); /* else each open starts, and ends, 16 of them */
    rocksdb_options_set_keep_log_file_num(o, 1);
    /* With the disk full, the second line of RocksDB's own log would end the process: Debian leaves assertions on. */
    rocksdb_options_set_info_log_level(o, FATAL_LEVEL);
    rocksdb_options_set_manifest_preallocation_size(o, PREALLOCATE);
    rocksdb_options_set_stats_dump_period_sec(o, 0); /* nobody looks at them */
    rocksdb_options_set_stats_persist_period_sec(o, 0);
    rocksdb_options_set_block_based_table_factory(o, w->table_options);
    return o;
}

/* Makes the database. It can be lost at any time (the log makes it again), so nothing of it is synced. */
static int open_db(osync__window_t *w, osync_error_t *err) {
    int rc = osync__rmtree(w->dir, err);
    if (!rc) rc = osync__mkdirs(w->dir, err);
    if (rc) return rc;
    w->comparator = osync__key_comparator();
    w->cache = rocksdb_cache_create_lru(CACHE);
    w->table_options = rocksdb_block_based_options_create();
    rocksdb_block_based_options_set_block_cache(w->table_options, w->cache);
    w->options = new_options(w);
    w->delete_options = new_options(w);
    rocksdb_options_set_comparator(w->options, w->comparator);
    w->write_options = rocksdb_writeoptions_create();
    rocksdb_writeoptions_disable_WAL(w->write_options, 1);
    w->read_options = rocksdb_readoptions_create();
    w->batch = rocksdb_writebatch_create();

    char *text = NULL;
    w->db = rocksdb_open(w->options, w->dir, &text);
    return text ? db_error(w, text, err) : 0;
}

static int flush_batch(osync__window_t *w, osync_error_t *err) {
    char *text = NULL;
    rocksdb_write(w->db, w->write_options, w->batch, &text);
    if (text) return db_error(w, text, err);
    rocksdb_writebatch_clear(w->batch);
    return 0;
}

static int flush_full_batch(osync__window_t *w, osync_error_t *err) {
    return rocksdb_writebatch_count(w->batch) < BATCH ? 0 : flush_batch(w, err);
}

static int db_put(osync__window_t *w, const void *key, size_t len, uint64_t index, osync_error_t *err) {
    uint8_t value[8];
    osync__put_u64le(value, index);
    rocksdb_writebatch_put(w->batch, key, len, (const char *)value, sizeof value);
    w->has_puts = true;
    return flush_full_batch(w, err);
}

static void put_be(uint8_t *p, uint64_t v, int bytes) {
    for (int i = bytes - 1; i >= 0; i--, v >>= 8) p[i] = (uint8_t)v;
}

static uint64_t get_u64be(const uint8_t *p) {
    uint64_t v = 0;
    for (int i = 0; i < 8; i++) v = v << 8 | p[i];
    return v;
}

/* The deletes family's key of (pk, index): its length first, so that the deletes of one pk stand together and in log
 * order. */
static int delete_key(osync__window_t *w, const void *pk, size_t pk_len, uint64_t index, osync_error_t *err) {
    uint8_t number[8];
    if (pk_len > UINT32_MAX) return osync__err(err, OSYNC_ETOOBIG, "a key of %zu bytes", pk_len);
    w->key.len = 0;
    put_be(number, pk_len, 4);
    int rc = osync__buf_append(&w->key, number, 4);
    if (!rc) rc = osync__buf_append(&w->key, pk, pk_len);
    put_be(number, index, 8);
    if (!rc) rc = osync__buf_append(&w->key, number, 8);
    return rc ? osync__err(err, rc, "window: out of memory") : 0;
}

static int add_wide(osync__window_t *w, uint64_t index, uint64_t start, uint64_t end, osync_error_t *err) {
    if (w->n_wide == MAX_WIDE_DELETES)
        return osync__err(err, OSYNC_ETOOBIG, "the window holds more than %d deletes without a key", MAX_WIDE_DELETES);
    if (w->n_wide == w->cap_wide) {
        size_t cap = w->cap_wide ? w->cap_wide * 2 : 16;
        wide_delete_t *p = osync__realloc(w->wide, cap * sizeof *p);
        if (!p) return osync__err(err, OSYNC_ENOMEM, "window: out of memory");
        w->wide = p;
        w->cap_wide = cap;
    }
    w->wide[w->n_wide++] = (wide_delete_t){.index = index, .start = start, .end = end};
    return 0;
}

static int db_delete(osync__window_t *w, const void *pk, size_t pk_len, const pk_delete_t *d, osync_error_t *err) {
    uint8_t value[16];
    int rc = delete_key(w, pk, pk_len, d->index, err);
    if (rc) return rc;
    if (!w->deletes) {
        char *text = NULL;
        w->deletes = rocksdb_create_column_family(w->db, w->delete_options, "deletes", &text);
        if (text) return db_error(w, text, err);
    }
    osync__put_u64le(value, d->start);
    osync__put_u64le(value + 8, d->end);
    rocksdb_writebatch_put_cf(w->batch, w->deletes, (const char *)w->key.data, w->key.len, (const char *)value,
                              sizeof value);
    return flush_full_batch(w, err);
}

static bool memory_is_full(const osync__window_t *w) {
    return osync__keymap_bytes(&w->puts) + osync__keymap_bytes(&w->pks) + w->n_pk_deletes * sizeof *w->pk_deletes >
           w->memory;
}

/* Everything goes from memory to the scratch database. */
static int spill(osync__window_t *w, osync_error_t *err) {
    int rc = open_db(w, err);
    for (size_t i = 0; !rc && i < w->puts.n; i++) {
        size_t len;
        const uint8_t *key = osync__keymap_key(&w->puts, i, &len);
        rc = db_put(w, key, len, w->puts.nodes[i].value, err);
    }
    for (size_t i = 0; !rc && i < w->pks.n; i++) {
        size_t len;
        const uint8_t *pk = osync__keymap_key(&w->pks, i, &len);
        for (uint64_t d = w->pks.nodes[i].value; !rc && d > 0; d = w->pk_deletes[d - 1].earlier)
            rc = db_delete(w, pk, len, &w->pk_deletes[d - 1], err);
    }
    if (!rc) free_memory(w);
    return rc;
}

int osync__window_put(osync__window_t *w, const void *key, size_t len, uint64_t index, osync_error_t *err) {
    if (w->db) return db_put(w, key, len, index, err);
    uint64_t *last = osync__keymap_add(&w->puts, key, len);
    if (!last) return osync__err(err, OSYNC_ENOMEM, "window: out of memory");
    *last = index;
    return memory_is_full(w) ? spill(w, err) : 0;
}

int osync__window_delete(osync__window_t *w, const void *pk, size_t pk_len, uint64_t start, uint64_t end,
                         uint64_t index, osync_error_t *err) {
    pk_delete_t d = {.index = index, .start = start, .end = end};
    if (!pk) return add_wide(w, index, start, end, err);
    if (w->db) return db_delete(w, pk, pk_len, &d, err);
    if (w->n_pk_deletes == w->cap_pk_deletes) {
        size_t cap = w->cap_pk_deletes ? w->cap_pk_deletes * 2 : 16;
        pk_delete_t *p = osync__reallocarray(w->pk_deletes, cap, sizeof *p);
        if (!p) return osync__err(err, OSYNC_ENOMEM, "window: out of memory");
        w->pk_deletes = p;
        w->cap_pk_deletes = cap;
    }
    uint64_t *last = osync__keymap_add(&w->pks, pk, pk_len);
    if (!last) return osync__err(err, OSYNC_ENOMEM, "window: out of memory");
    d.earlier = *last;
    w->pk_deletes[w->n_pk_deletes++] = d;
    *last = w->n_pk_deletes;
    return memory_is_full(w) ? spill(w, err) : 0;
}

int osync__window_ready(osync__window_t *w, osync_error_t *err) {
    if (!w->db) return 0;
    int rc = flush_batch(w, err);
    if (rc) return rc;
    w->puts_iter = rocksdb_create_iterator(w->db, w->read_options);
    if (w->deletes) w->deletes_iter = rocksdb_create_iterator_cf(w->db, w->read_options, w->deletes);
    return 0;
}

static int iter_error(const osync__window_t *w, const rocksdb_iterator_t *it, osync_error_t *err) {
    char *text = NULL;
    rocksdb_iter_get_error(it, &text);
    return text ? db_error(w, text, err) : 0;
}

static bool in_range(uint64_t ts, uint64_t start, uint64_t end) {
    return start >= ts && ts > end;
}

int osync__window_deletes(osync__window_t *w, const void *pk, size_t pk_len, uint64_t ts, uint64_t after, bool *deleted,
                          osync_error_t *err) {
    *deleted = false;
    for (size_t i = 0; i < w->n_wide && !*deleted; i++)
        *deleted = w->wide[i].index > after && in_range(ts, w->wide[i].start, w->wide[i].end);
    if (*deleted) return 0;
    const uint64_t *last = osync__keymap_find(&w->pks, pk, pk_len);
    for (uint64_t i = last ? *last : 0; i > 0 && w->pk_deletes[i - 1].index > after; i = w->pk_deletes[i - 1].earlier) {
        *deleted = in_range(ts, w->pk_deletes[i - 1].start, w->pk_deletes[i - 1].end);
        if (*deleted) return 0;
    }
    if (!w->deletes) return 0;

    int rc = delete_key(w, pk, pk_len, after, err);
    if (rc) return rc;
    rocksdb_iterator_t *it = w->deletes_iter;
    size_t prefix = 4 + pk_len;
    for (rocksdb_iter_seek(it, (const char *)w->key.data, w->key.len); rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
        size_t klen, vlen;
        const char *k = rocksdb_iter_key(it, &klen);
        const char *v = rocksdb_iter_value(it, &vlen);
        if (klen != prefix + 8 || memcmp(k, w->key.data, prefix) != 0 || vlen != 16) break;
        if (get_u64be((const uint8_t *)k + prefix) > after &&
            in_range(ts, osync__get_u64le((const uint8_t *)v), osync__get_u64le((const uint8_t *)v + 8))) {
            *deleted = true;
            return 0;
        }
    }
    return iter_error(w, it, err);
}

int osync__window_covers(osync__window_t *w, const void *key, size_t len, size_t pk_len, uint64_t ts, bool *covers,
                         osync_error_t *err) {
    if (!w->has_puts) return osync__window_touches(w, key, len, pk_len, ts, covers, err);
    *covers = false;
    rocksdb_iterator_t *it = w->puts_iter;
    if (!w->puts_sought) {
        rocksdb_iter_seek(it, key, len);
        w->puts_sought = true;
    }
    for (; rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
        size_t klen;
        const char *k = rocksdb_iter_key(it, &klen);
        int order = osync__key_compare(k, klen, key, len);
        if (order >= 0) {
            *covers = order == 0;
            break;
        }
    }
    int rc = rocksdb_iter_valid(it) ? 0 : iter_error(w, it, err);
    return rc || *covers ? rc : osync__window_deletes(w, key, pk_len, ts, 0, covers, err);
}

/* The log index of the key's last put in the window; 0 if it has none. */
static int last_put(osync__window_t *w, const void *key, size_t len, uint64_t *index, osync_error_t *err) {
    char *text = NULL;
    const uint64_t *held = osync__keymap_find(&w->puts, key, len);
    *index = held ? *held : 0;
    if (held || !w->has_puts) return 0;
    rocksdb_pinnableslice_t *slice = rocksdb_get_pinned(w->db, w->read_options, key, len, &text);
    if (text) return db_error(w, text, err);
    if (!slice) return 0;
    size_t vlen;
    const char *v = rocksdb_pinnableslice_value(slice, &vlen);
    if (vlen == 8) *index = osync__get_u64le((const uint8_t *)v);
    rocksdb_pinnableslice_destroy(slice);
    return 0;
}

int osync__window_touches(osync__window_t *w, const void *key, size_t len, size_t pk_len, uint64_t ts, bool *touches,
                          osync_error_t *err) {
    uint64_t put;
    int rc = last_put(w, key, len, &put, err);
    *touches = put > 0;
    if (rc || *touches) return rc;
    return osync__window_deletes(w, key, pk_len, ts, 0, touches, err);
}

int osync__window_is_last(osync__window_t *w, const void *key, size_t len, size_t pk_len, uint64_t ts, uint64_t index,
                          bool *last, osync_error_t *err) {
    uint64_t put;
    bool deleted = false;
    int rc = last_put(w, key, len, &put, err);
    if (!rc && put == index) rc = osync__window_deletes(w, key, pk_len, ts, index, &deleted, err);
    *last = put == index && !deleted;
    return rc;
}
