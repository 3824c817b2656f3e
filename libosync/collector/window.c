#include "collector/window.h"

#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/sys.h"
#include "format/snapshot.h"

enum {
    WRITE_BUFFER = 8 << 20,    /* bytes of one memtable of the scratch database */
    CACHE = 4 << 20,           /* bytes of its block cache */
    PREALLOCATE = 64 << 10,    /* bytes of its MANIFEST; RocksDB would take 4 MiB at once */
    FATAL_LEVEL = 4,           /* rocksdb::InfoLogLevel */
    BATCH = 1000,              /* entries written at once */
    MAX_WIDE_DELETES = 100000, /* deletes without a key are kept in memory, 24 bytes each */
};

/* A delete without a key: it applies to every pk. */
typedef struct wide_delete {
    uint64_t index, start, end;
} wide_delete_t;

struct osync__window {
    const osync_table_t *table;
    char *dir;
    rocksdb_comparator_t *comparator;
    rocksdb_options_t *options, *delete_options;
    rocksdb_block_based_table_options_t *table_options;
    rocksdb_cache_t *cache;
    rocksdb_t *db; /* base index key -> log index of its last put; NULL until the first entry */
    /* <u32 BE pk length> <pk> <u64 BE log index> -> <start> <end>; NULL until the first delete */
    rocksdb_column_family_handle_t *deletes;
    rocksdb_writebatch_t *batch;
    rocksdb_writeoptions_t *write_options;
    rocksdb_readoptions_t *read_options;
    rocksdb_iterator_t *puts_iter, *deletes_iter;
    bool puts_sought;
    uint64_t n_puts, n_deletes;
    wide_delete_t *wide;
    size_t n_wide, cap_wide;
    osync__buf_t key; /* of the deletes family */
};

/* RocksDB's error text becomes ours. */
static int db_error(const osync__window_t *w, char *text, osync_error_t *err) {
    osync__err(err, OSYNC_EIO, "scratch database %s: %s", w->dir, text);
    rocksdb_free(text);
    return OSYNC_EIO;
}

int osync__window_new(osync__window_t **out, const osync_table_t *table, const char *dir, osync_error_t *err) {
    osync__window_t *w = osync__calloc(1, sizeof *w);
    char *copy = osync__strdup(dir);
    if (!w || !copy) {
        osync__free(w);
        osync__free(copy);
        return osync__err(err, OSYNC_ENOMEM, "window: out of memory");
    }
    w->table = table;
    w->dir = copy;
    *out = w;
    return 0;
}

void osync__window_free(osync__window_t *w) {
    if (!w) return;
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

int osync__window_put(osync__window_t *w, const void *key, size_t len, uint64_t index, osync_error_t *err) {
    uint8_t value[8];
    int rc = w->db ? 0 : open_db(w, err);
    if (rc) return rc;
    osync__put_u64le(value, index);
    rocksdb_writebatch_put(w->batch, key, len, (const char *)value, sizeof value);
    w->n_puts++;
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

int osync__window_delete(osync__window_t *w, const void *pk, size_t pk_len, uint64_t start, uint64_t end,
                         uint64_t index, osync_error_t *err) {
    uint8_t value[16];
    if (!pk) return add_wide(w, index, start, end, err);
    int rc = w->db ? 0 : open_db(w, err);
    if (!rc) rc = delete_key(w, pk, pk_len, index, err);
    if (rc) return rc;
    if (!w->deletes) {
        char *text = NULL;
        w->deletes = rocksdb_create_column_family(w->db, w->delete_options, "deletes", &text);
        if (text) return db_error(w, text, err);
    }
    osync__put_u64le(value, start);
    osync__put_u64le(value + 8, end);
    rocksdb_writebatch_put_cf(w->batch, w->deletes, (const char *)w->key.data, w->key.len, (const char *)value,
                              sizeof value);
    w->n_deletes++;
    return flush_full_batch(w, err);
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
    if (*deleted || w->n_deletes == 0) return 0;

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
    *covers = false;
    if (w->n_puts > 0) {
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
        if (rc || *covers) return rc;
    }
    return osync__window_deletes(w, key, pk_len, ts, 0, covers, err);
}

/* The log index of the key's last put in the window; 0 if it has none. */
static int last_put(osync__window_t *w, const void *key, size_t len, uint64_t *index, osync_error_t *err) {
    char *text = NULL;
    *index = 0;
    if (w->n_puts == 0) return 0;
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
