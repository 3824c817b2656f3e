#include "disk_table.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <snappy-c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/sys.h"
#include "format/row.h"
#include "format/snapshot.h"
#include "memory_snapshot.h"

enum {
    BLOCK_SIZE = 256 * 1024,
    /* OpenMLDB's default is 128 MiB; a test has many small tables. */
    WRITE_BUFFER = 16 * 1024 * 1024,
    BATCH_OPS = 4096,
    MAX_ROW = 512 * 1024 * 1024,
};

static const char meta_name[] = "table_meta.pb";
static const char origin_name[] = "origin"; /* of a copy: the entry before its log */

/* ---- RocksDB ---- */

static int rocks_err(osync_error_t *err, char *text, const char *dir) {
    int rc = osync__err(err, OSYNC_EIO, "RocksDB in %s: %s", dir, text);
    rocksdb_free(text);
    return rc;
}

static void no_destroy(void *state) {}
static char *prefix_of(void *state, const char *key, size_t len, size_t *out_len) {
    *out_len = len < 8 ? 0 : len - 8;
    union {
        const char *from;
        char *to;
    } same = {.from = key};
    return same.to;
}
static unsigned char in_domain(void *state, const char *key, size_t len) {
    return len >= 8;
}
static unsigned char in_range(void *state, const char *key, size_t len) {
    return 1;
}
static const char *prefix_name(void *state) {
    return "KeyTsPrefixTransform";
}

static rocksdb_options_t *index_options(bool hdd, rocksdb_comparator_t *comparator) {
    rocksdb_options_t *o = rocksdb_options_create();
    rocksdb_block_based_table_options_t *table = rocksdb_block_based_options_create();
    rocksdb_block_based_options_set_block_size(table, BLOCK_SIZE);
    rocksdb_block_based_options_set_whole_key_filtering(table, 0);
    rocksdb_block_based_options_set_use_delta_encoding(table, 0);
    rocksdb_options_set_block_based_table_factory(o, table);
    rocksdb_block_based_options_destroy(table);
    rocksdb_options_set_comparator(o, comparator);
    rocksdb_options_set_prefix_extractor(
        o, rocksdb_slicetransform_create(NULL, no_destroy, prefix_of, in_domain, in_range, prefix_name));
    rocksdb_options_set_memtable_prefix_bloom_size_ratio(o, 0.02);
    rocksdb_options_set_compression(o, rocksdb_no_compression);
    rocksdb_options_set_write_buffer_size(o, WRITE_BUFFER);
    rocksdb_options_set_level0_file_num_compaction_trigger(o, hdd ? 10 : 16);
    rocksdb_options_set_level0_slowdown_writes_trigger(o, hdd ? 20 : 32);
    rocksdb_options_set_level0_stop_writes_trigger(o, hdd ? 40 : 64);
    if (hdd) {
        rocksdb_options_set_level_compaction_dynamic_level_bytes(o, 1);
        rocksdb_options_set_optimize_filters_for_hits(o, 1);
    }
    return o;
}

static int open_rocks(partition_t *p, osync_error_t *err) {
    disk_table_t *t = p->table;
    size_t n = t->n_cfs + 1;
    bool hdd = t->meta->storage_mode == OPENMLDB__COMMON__STORAGE_MODE__kHDD;
    char *text = NULL, *path = NULL;
    int rc = OSYNC_ENOMEM;
    rocksdb_options_t *db_options = rocksdb_options_create();
    p->comparator = osync__key_comparator();
    const char **names = calloc(n, sizeof *names);
    const rocksdb_options_t **options = calloc(n, sizeof *options);
    rocksdb_column_family_handle_t **handles = calloc(n, sizeof *handles);
    if (!names || !options || !handles || asprintf(&path, "%s/data", p->dir) < 0) goto done;
    rocksdb_options_set_create_if_missing(db_options, 1);
    rocksdb_options_set_create_missing_column_families(db_options, 1);
    rocksdb_options_set_keep_log_file_num(db_options, 5);
    rocksdb_options_t *index = index_options(hdd, p->comparator);
    names[0] = "default";
    options[0] = db_options;
    for (size_t i = 1; i < n; i++) {
        names[i] = t->cf_names[i - 1];
        options[i] = index;
    }
    p->db = rocksdb_open_column_families(db_options, path, (int)n, names, options, handles, &text);
    rocksdb_options_destroy(index);
    if (text) {
        rc = rocks_err(err, text, path);
        goto done;
    }
    p->default_cf = handles[0];
    memmove(handles, handles + 1, t->n_cfs * sizeof *handles);
    p->cfs = handles;
    handles = NULL;
    p->batch = rocksdb_writebatch_create();
    rc = 0;
done:
    rocksdb_options_destroy(db_options);
    free(names);
    free(options);
    free(handles);
    free(path);
    return rc;
}

static int write_batch(partition_t *p, osync_error_t *err) {
    char *text = NULL;
    if (rocksdb_writebatch_count(p->batch) == 0) return 0;
    rocksdb_writeoptions_t *options = rocksdb_writeoptions_create();
    rocksdb_writeoptions_disable_WAL(options, 1);
    rocksdb_write(p->db, options, p->batch, &text);
    rocksdb_writeoptions_destroy(options);
    rocksdb_writebatch_clear(p->batch);
    return text ? rocks_err(err, text, p->dir) : 0;
}

/* ---- keys and entries ---- */

static int column_number(const disk_table_t *t, const char *name) {
    for (size_t i = 0; i < t->n_columns; i++)
        if (!strcmp(t->columns[i]->name, name)) return (int)i;
    return -1;
}

static int make_key(const disk_index_t *index, const void *pk, size_t len, uint64_t ts, osync__buf_t *out) {
    uint8_t tail[12];
    size_t at = 0;
    if (index->multi_ts) {
        osync__put_u32le(tail, index->ts_col_id);
        at = 4;
    }
    osync__put_u64le(tail + at, ts);
    out->len = 0;
    int rc = osync__buf_append(out, pk, len);
    return rc ? rc : osync__buf_append(out, tail, at + 8);
}

static int delete_range(partition_t *p, const disk_index_t *index, const void *pk, size_t len, uint64_t start,
                        uint64_t end) {
    osync__buf_t from = {0}, to = {0};
    int rc = make_key(index, pk, len, start, &from);
    if (rc == 0) rc = make_key(index, pk, len, end, &to);
    if (rc == 0)
        rocksdb_writebatch_delete_range_cf(p->batch, p->cfs[index->cf], (const char *)from.data, from.len,
                                           (const char *)to.data, to.len);
    osync__buf_free(&from);
    osync__buf_free(&to);
    p->counter++;
    return rc;
}

/* A delete without a key: one range for each key that is there. */
static int delete_all_keys(partition_t *p, const disk_index_t *index, uint64_t start, uint64_t end,
                           osync_error_t *err) {
    osync__buf_t last = {0};
    bool any = false;
    int rc = write_batch(p, err);
    if (rc) return rc;
    rocksdb_readoptions_t *options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_total_order_seek(options, 1);
    rocksdb_iterator_t *it = rocksdb_create_iterator_cf(p->db, options, p->cfs[index->cf]);
    for (rocksdb_iter_seek_to_first(it); rc == 0 && rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
        size_t len, tail = index->multi_ts ? 12 : 8;
        const char *key = rocksdb_iter_key(it, &len);
        if (len < tail) continue;
        if (index->multi_ts && osync__get_u32le((const uint8_t *)key + len - 12) != index->ts_col_id) continue;
        len -= tail;
        if (any && last.len == len && (!len || !memcmp(last.data, key, len))) continue;
        any = true;
        last.len = 0;
        rc = osync__buf_append(&last, key, len);
        if (rc == 0) rc = delete_range(p, index, key, len, start, end);
    }
    rocksdb_iter_destroy(it);
    rocksdb_readoptions_destroy(options);
    osync__buf_free(&last);
    return rc;
}

static int apply_delete(partition_t *p, const Openmldb__Api__LogEntry *e, osync_error_t *err) {
    const disk_table_t *t = p->table;
    uint64_t start = e->has_ts ? e->ts : UINT64_MAX, end = e->has_end_ts ? e->end_ts : 0;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < e->n_dimensions; i++) {
        const Openmldb__Api__Dimension *d = e->dimensions[i];
        if (d->idx >= t->n_indexes) return osync__err(err, OSYNC_ECORRUPT, "a delete of index %u", d->idx);
        rc = delete_range(p, &t->indexes[d->idx], d->key.data, d->key.len, start, end);
    }
    for (size_t i = 0; rc == 0 && e->n_dimensions == 0 && i < t->n_indexes; i++) {
        const char *ts = t->indexes[i].ts_column < 0 ? NULL : t->indexes[i].key->ts_name;
        if (!ts || (e->ts_name && !strcmp(ts, e->ts_name))) rc = delete_all_keys(p, &t->indexes[i], start, end, err);
    }
    return rc;
}

/* ts[i]: of index i, as far as the entry has a dimension of it. */
static int apply_put(partition_t *p, const Openmldb__Api__LogEntry *e, const uint64_t *ts, osync_error_t *err) {
    const disk_table_t *t = p->table;
    osync__buf_t key = {0};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < e->n_dimensions; i++) {
        const Openmldb__Api__Dimension *d = e->dimensions[i];
        const disk_index_t *index = &t->indexes[d->idx];
        rc = make_key(index, d->key.data, d->key.len, ts[d->idx], &key);
        if (rc == 0)
            rocksdb_writebatch_put_cf(p->batch, p->cfs[index->cf], (const char *)key.data, key.len,
                                      (const char *)e->value.data, e->value.len);
        p->base_puts += d->idx == 0;
    }
    osync__buf_free(&key);
    p->puts++;
    p->counter++;
    if (rc == 0 && rocksdb_writebatch_count(p->batch) >= BATCH_OPS) rc = write_batch(p, err);
    return rc;
}

static entry_id_t id_of(const Openmldb__Api__LogEntry *e, const void *payload, size_t len) {
    return (entry_id_t){.index = e->log_index, .term = e->term, .crc = osync__crc32c(0, payload, len)};
}

/* The log first, then RocksDB; `ts` as for apply_put, NULL for a delete. */
static int commit(partition_t *p, Openmldb__Api__LogEntry *e, const uint64_t *ts, osync__buf_t *scratch,
                  osync_error_t *err) {
    e->has_term = e->has_log_index = 1;
    e->term = p->term;
    e->log_index = p->last.index + 1;
    size_t len = openmldb__api__log_entry__get_packed_size(e);
    scratch->len = 0;
    int rc = osync__buf_reserve(scratch, len);
    if (rc) return osync__err(err, rc, "out of memory");
    openmldb__api__log_entry__pack(e, scratch->data);
    rc = log_writer_append(&p->log, e->log_index, scratch->data, len, err);
    if (rc) return rc;
    p->last = id_of(e, scratch->data, len);
    /* Large batches reach RocksDB in the middle of a put, so the log must be ahead of them. */
    if (!ts || rocksdb_writebatch_count(p->batch) + (int)e->n_dimensions >= BATCH_OPS)
        rc = log_writer_flush(&p->log, err);
    if (rc) return rc;
    return ts ? apply_put(p, e, ts, err) : apply_delete(p, e, err);
}

typedef struct replay {
    partition_t *p;
    osync_error_t *err;
} replay_t;

/* Rows that are made up after a restart go on counting. */
static void note_id(disk_table_t *t, const osync__row_t *row) {
    int column = column_number(t, "id");
    if (column < 0 || t->columns[column]->data_type != OPENMLDB__TYPE__DATA_TYPE__kBigInt) return;
    if (osync__row_is_null(row, (size_t)column)) return;
    int64_t id = osync__row_int(row, (size_t)column, OPENMLDB__TYPE__DATA_TYPE__kBigInt);
    if (id >= 0 && (uint64_t)id >= t->next_id) t->next_id = (uint64_t)id + 1;
}

int disk_table_entry_ts(disk_table_t *t, const Openmldb__Api__LogEntry *e, uint64_t *ts, osync_error_t *err) {
    osync__buf_t scratch = {0};
    const uint8_t *bytes;
    size_t len;
    osync__row_t row;
    int rc = osync__row_uncompress(t->schema, e->value.data, e->value.len, MAX_ROW, &scratch, &bytes, &len, err);
    if (rc == 0) rc = osync__row_open(&row, t->schema, bytes, len, err);
    for (size_t i = 0; rc == 0 && i < e->n_dimensions; i++) {
        uint32_t idx = e->dimensions[i]->idx;
        if (idx >= t->n_indexes) {
            rc = osync__err(err, OSYNC_ECORRUPT, "a put with index %u", idx);
            break;
        }
        int column = t->indexes[idx].ts_column;
        ts[idx] = column < 0 ? e->ts : (uint64_t)osync__row_int(&row, (size_t)column, t->schema->columns[column].type);
    }
    if (rc == 0) note_id(t, &row);
    osync__buf_free(&scratch);
    return rc;
}

static int replay_put(partition_t *p, const Openmldb__Api__LogEntry *e, osync_error_t *err) {
    uint64_t *ts = calloc(p->table->n_indexes, sizeof *ts);
    int rc = ts ? disk_table_entry_ts(p->table, e, ts, err) : OSYNC_ENOMEM;
    if (rc == 0) rc = apply_put(p, e, ts, err);
    free(ts);
    return rc;
}

static uint64_t on_entry(void *arg, const void *payload, size_t len) {
    replay_t *r = arg;
    Openmldb__Api__LogEntry *e = openmldb__api__log_entry__unpack(NULL, len, payload);
    if (!e) return 0;
    bool is_delete = e->has_method_type && e->method_type == OPENMLDB__API__METHOD_TYPE__kDelete;
    int rc = is_delete ? apply_delete(r->p, e, r->err) : replay_put(r->p, e, r->err);
    uint64_t index = rc ? 0 : e->log_index;
    if (index) r->p->last = id_of(e, payload, len);
    openmldb__api__log_entry__free_unpacked(e, NULL);
    return index;
}

/* ---- opening ---- */

static int write_meta(const partition_t *p, const char *dir, osync_error_t *err) {
    Openmldb__Api__TableMeta meta = *p->table->meta;
    char *path = NULL;
    meta.has_pid = 1;
    meta.pid = (int32_t)p->pid;
    size_t len = openmldb__api__table_meta__get_packed_size(&meta);
    uint8_t *bytes = malloc(len + 1);
    int rc = OSYNC_ENOMEM;
    if (bytes && asprintf(&path, "%s/%s", dir, meta_name) >= 0) {
        openmldb__api__table_meta__pack(&meta, bytes);
        rc = osync__write_file(path, bytes, len, err);
    }
    free(path);
    free(bytes);
    return rc;
}

static int read_manifest(partition_t *p, osync_error_t *err) {
    osync__buf_t text = {0};
    osync__manifest_t manifest;
    char *path = NULL;
    if (asprintf(&path, "%s/snapshot/MANIFEST", p->dir) < 0) return OSYNC_ENOMEM;
    int rc = osync__read_file(path, 1 << 20, &text, err);
    if (rc == OSYNC_ENOENT) {
        rc = 0;
    } else if (rc == 0) {
        rc = osync__manifest_parse((const char *)text.data, text.len, &manifest, err);
        if (rc == 0) p->snapshot_offset = manifest.offset;
    }
    osync__buf_free(&text);
    free(path);
    return rc;
}

static int read_origin(partition_t *p, osync_error_t *err) {
    osync__buf_t text = {0};
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", p->dir, origin_name);
    int rc = osync__read_file(path, 4096, &text, err);
    if (rc == 0) rc = osync__buf_append(&text, "", 1);
    if (rc == 0 && sscanf((const char *)text.data, "%" SCNu64 " %" SCNu64 " %" SCNu32, &p->last.index, &p->last.term,
                          &p->last.crc) != 3)
        rc = osync__err(err, OSYNC_ECORRUPT, "%s doesn't parse", path);
    osync__buf_free(&text);
    return rc == OSYNC_ENOENT ? 0 : rc;
}

/* Everything below p->dir. */
static int load_partition(partition_t *p, uint64_t max_bytes, osync_error_t *err) {
    static const char *const folders[] = {"data", "snapshot", "binlog"};
    char *path = NULL;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < 3; i++) {
        free(path);
        if (asprintf(&path, "%s/%s", p->dir, folders[i]) < 0) return OSYNC_ENOMEM;
        rc = osync__mkdirs(path, err);
    }
    replay_t replay = {p, err};
    if (rc == 0) rc = read_origin(p, err);
    if (rc == 0) rc = open_rocks(p, err);
    if (rc == 0) rc = log_writer_open(&p->log, path, max_bytes, on_entry, &replay, err);
    if (rc == 0) rc = log_writer_set_clock(&p->log, &p->table->clock, err);
    if (rc == 0) rc = write_batch(p, err);
    if (rc == 0) rc = read_manifest(p, err);
    if (rc == 0) rc = write_meta(p, p->dir, err);
    p->counter = p->last.index; /* as OpenMLDB does on load */
    p->term = p->last.term ? p->last.term : 1;
    free(path);
    return rc;
}

static int open_partition(partition_t *p, const char *root, uint64_t max_bytes, osync_error_t *err) {
    if (asprintf(&p->dir, "%s/%d_%u", root, p->table->meta->tid, p->pid) < 0) return OSYNC_ENOMEM;
    return load_partition(p, max_bytes, err);
}

static void unload_partition(partition_t *p) {
    for (size_t c = 0; p->db && c < p->table->n_cfs; c++) rocksdb_column_family_handle_destroy(p->cfs[c]);
    if (p->db) {
        rocksdb_column_family_handle_destroy(p->default_cf);
        rocksdb_close(p->db);
        rocksdb_writebatch_destroy(p->batch);
    }
    if (p->comparator) rocksdb_comparator_destroy(p->comparator);
    log_writer_close(&p->log);
    free(p->cfs);
    p->db = NULL;
    p->comparator = NULL;
    p->cfs = NULL;
    p->log = (log_writer_t){.fd = -1};
}

/* Indexes with the same key columns, in order, share one inner index. */
static int group_of(const Openmldb__Common__ColumnKey *key, osync__buf_t *out) {
    out->len = 0;
    if (key->n_col_name == 0) return osync__buf_printf(out, "%s", key->index_name);
    if (key->n_col_name == 1) return osync__buf_printf(out, "%s", key->col_name[0]);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < key->n_col_name; i++) rc = osync__buf_printf(out, "%s|", key->col_name[i]);
    return rc;
}

static int fill_index(disk_table_t *t, size_t i, osync_error_t *err) {
    disk_index_t *index = &t->indexes[i];
    const Openmldb__Common__ColumnKey *key = t->meta->column_key[i];
    osync__buf_t own = {0}, other = {0};
    *index = (disk_index_t){.key = key, .cf = t->n_cfs, .ts_column = -1, .ts_col_id = UINT32_MAX};
    index->columns = calloc(key->n_col_name + 1, sizeof *index->columns);
    int rc = index->columns ? group_of(key, &own) : OSYNC_ENOMEM;
    for (size_t c = 0; rc == 0 && c < key->n_col_name; c++) {
        int number = column_number(t, key->col_name[c]);
        if (number < 0) rc = osync__err(err, OSYNC_EINVAL, "index %s: no column %s", key->index_name, key->col_name[c]);
        index->columns[c] = (size_t)number;
    }
    if (rc == 0 && key->ts_name && key->ts_name[0]) {
        index->ts_column = column_number(t, key->ts_name);
        index->ts_col_id = (uint32_t)index->ts_column;
        if (index->ts_column < 0)
            rc = osync__err(err, OSYNC_EINVAL, "index %s: no column %s", key->index_name, key->ts_name);
    }
    for (size_t j = 0; rc == 0 && j < i; j++) {
        rc = group_of(t->indexes[j].key, &other);
        if (rc || other.len != own.len || memcmp(other.data, own.data, own.len)) continue;
        index->cf = t->indexes[j].cf;
        index->multi_ts = t->indexes[j].multi_ts = true;
    }
    if (rc == 0 && index->cf == t->n_cfs) t->cf_names[t->n_cfs++] = key->index_name;
    osync__buf_free(&own);
    osync__buf_free(&other);
    return rc;
}

static int fill_columns(disk_table_t *t, osync_error_t *err) {
    size_t base = t->meta->n_column_desc, n = base + t->meta->n_added_column_desc;
    Openmldb__Common__ColumnDesc **columns = realloc(t->columns, (n + 1) * sizeof *columns);
    if (!columns) return OSYNC_ENOMEM;
    t->columns = columns;
    t->n_columns = n;
    for (size_t i = 0; i < n; i++)
        columns[i] = i < base ? t->meta->column_desc[i] : t->meta->added_column_desc[i - base];
    osync_table_free(t->schema);
    t->schema = NULL;
    return osync__table_from_meta(&t->schema, t->meta, err);
}

int disk_table_open(disk_table_t **out, const char *root, Openmldb__Api__TableMeta *meta, size_t partitions,
                    uint64_t binlog_max_bytes, const tablet_clock_t *clock, osync_error_t *err) {
    disk_table_t *t = calloc(1, sizeof *t);
    int rc = OSYNC_ENOMEM;
    if (!t) {
        openmldb__api__table_meta__free_unpacked(meta, NULL);
        return rc;
    }
    t->meta = meta;
    t->clock = *clock;
    if (!meta->n_column_key || !partitions) {
        rc = osync__err(err, OSYNC_EINVAL, "table %d: no column_key or no partitions", meta->tid);
        goto done;
    }
    t->n_indexes = meta->n_column_key;
    t->indexes = calloc(t->n_indexes, sizeof *t->indexes);
    t->cf_names = calloc(t->n_indexes, sizeof *t->cf_names);
    t->partitions = calloc(partitions, sizeof *t->partitions);
    if (!t->indexes || !t->cf_names || !t->partitions) goto done;
    rc = fill_columns(t, err);
    for (size_t i = 0; rc == 0 && i < t->n_indexes; i++) rc = fill_index(t, i, err);
    for (size_t i = 0; rc == 0 && i < partitions; i++) {
        partition_t *p = &t->partitions[t->n_partitions++];
        *p = (partition_t){.table = t, .pid = (uint32_t)i, .log.fd = -1};
        rc = open_partition(p, root, binlog_max_bytes, err);
    }
done:
    if (rc) {
        disk_table_close(t);
        return rc;
    }
    *out = t;
    return 0;
}

void disk_table_close(disk_table_t *t) {
    if (!t) return;
    for (size_t i = 0; i < t->n_partitions; i++) {
        unload_partition(&t->partitions[i]);
        free(t->partitions[i].leader);
        free(t->partitions[i].dir);
    }
    for (size_t i = 0; t->indexes && i < t->n_indexes; i++) free(t->indexes[i].columns);
    osync_table_free(t->schema);
    openmldb__api__table_meta__free_unpacked(t->meta, NULL);
    free(t->partitions);
    free(t->indexes);
    free(t->cf_names);
    free(t->columns);
    free(t);
}

/* ---- changes ---- */

int disk_table_version(const disk_table_t *t) {
    int newest = 1;
    for (size_t i = 0; i < t->meta->n_schema_versions; i++)
        if (t->meta->schema_versions[i]->id > newest) newest = t->meta->schema_versions[i]->id;
    return newest;
}

size_t disk_table_version_columns(const disk_table_t *t, int version) {
    for (size_t i = 0; i < t->meta->n_schema_versions; i++)
        if (t->meta->schema_versions[i]->id == version) return (size_t)t->meta->schema_versions[i]->field_count;
    return version == 1 ? t->meta->n_column_desc : 0;
}

/* What a put needs besides the row; one allocation for all of it. */
typedef struct put_room {
    osync__buf_t row, packed, entry;
    osync__buf_t *keys; /* by index */
    uint64_t *ts;
    Openmldb__Api__Dimension *dims;
    Openmldb__Api__Dimension **chosen;
} put_room_t;

static int fill_dimension(const disk_table_t *t, size_t i, const cell_t *cells, size_t n, uint64_t put_time,
                          put_room_t *room, osync_error_t *err) {
    const disk_index_t *index = &t->indexes[i];
    int rc = 0;
    for (size_t c = 0; rc == 0 && c < index->key->n_col_name; c++) {
        size_t column = index->columns[c];
        if (c) rc = osync__buf_append(&room->keys[i], "|", 1);
        if (rc == 0) rc = key_append(t->columns[column], &cells[column], &room->keys[i], err);
    }
    if (rc) return rc;
    room->ts[i] = put_time;
    if (index->ts_column >= 0) {
        const cell_t *cell = &cells[index->ts_column];
        if ((size_t)index->ts_column >= n || cell->null || cell->i < 0)
            return osync__err(err, OSYNC_EINVAL, "the ts column %s is NULL or negative", index->key->ts_name);
        room->ts[i] = (uint64_t)cell->i;
    }
    openmldb__api__dimension__init(&room->dims[i]);
    room->dims[i].has_key = room->dims[i].has_idx = 1;
    room->dims[i].key = (ProtobufCBinaryData){room->keys[i].len, room->keys[i].data};
    room->dims[i].idx = (uint32_t)i;
    return 0;
}

static int compress_row(put_room_t *room) {
    size_t size = snappy_max_compressed_length(room->row.len);
    int rc = osync__buf_reserve(&room->packed, size);
    if (rc) return rc;
    snappy_compress((const char *)room->row.data, room->row.len, (char *)room->packed.data, &size);
    room->packed.len = size;
    return 0;
}

static int led_here(const partition_t *p, osync_error_t *err) {
    if (!p->leader) return 0;
    return osync__err(err, OSYNC_ECONFLICT, "partition %u of table %d is led by %s", p->pid, p->table->meta->tid,
                      p->leader);
}

int disk_table_put(disk_table_t *t, const cell_t *cells, size_t n, int version, uint64_t put_time, uint32_t *pid,
                   uint64_t *index, osync_error_t *err) {
    put_room_t room = {0};
    room.keys = calloc(t->n_indexes, sizeof *room.keys);
    room.ts = calloc(t->n_indexes, sizeof *room.ts);
    room.dims = calloc(t->n_indexes, sizeof *room.dims);
    room.chosen = calloc(t->n_indexes, sizeof(void *));
    int rc = room.keys && room.ts && room.dims && room.chosen ? 0 : OSYNC_ENOMEM;
    if (rc == 0) rc = row_build(t->columns, n, version, cells, &room.row, err);
    bool snappy = t->meta->compress_type == OPENMLDB__TYPE__COMPRESS_TYPE__kSnappy;
    if (rc == 0 && snappy) rc = compress_row(&room);
    for (size_t i = 0; rc == 0 && i < t->n_indexes; i++) rc = fill_dimension(t, i, cells, n, put_time, &room, err);
    uint32_t partitions = (uint32_t)t->n_partitions, base = 0;
    if (rc == 0) base = key_partition(room.keys[0].data, room.keys[0].len, partitions);
    for (size_t i = 0; rc == 0 && i < t->n_indexes; i++)
        rc = led_here(&t->partitions[key_partition(room.keys[i].data, room.keys[i].len, partitions)], err);
    for (uint32_t p = 0; rc == 0 && p < partitions; p++) {
        Openmldb__Api__LogEntry e = OPENMLDB__API__LOG_ENTRY__INIT;
        for (size_t i = 0; i < t->n_indexes; i++)
            if (key_partition(room.keys[i].data, room.keys[i].len, partitions) == p)
                room.chosen[e.n_dimensions++] = &room.dims[i];
        if (e.n_dimensions == 0) continue;
        const osync__buf_t *value = snappy ? &room.packed : &room.row;
        e.dimensions = room.chosen;
        e.has_pk = e.has_value = e.has_ts = 1;
        e.value = (ProtobufCBinaryData){value->len, value->data};
        e.ts = put_time;
        rc = commit(&t->partitions[p], &e, room.ts, &room.entry, err);
        if (p == base && pid) *pid = p;
        if (p == base && index) *index = e.log_index;
    }
    for (size_t i = 0; room.keys && i < t->n_indexes; i++) osync__buf_free(&room.keys[i]);
    osync__buf_free(&room.row);
    osync__buf_free(&room.packed);
    osync__buf_free(&room.entry);
    free(room.keys);
    free(room.ts);
    free(room.dims);
    free(room.chosen);
    return rc;
}

int disk_table_flush(disk_table_t *t, osync_error_t *err) {
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < t->n_partitions; i++) {
        rc = log_writer_flush(&t->partitions[i].log, err);
        if (rc == 0) rc = write_batch(&t->partitions[i], err);
    }
    return rc;
}

int disk_table_delete(disk_table_t *t, uint32_t index, const char *key, const uint32_t *pid, const uint64_t *start_ts,
                      const uint64_t *end_ts, const char *ts_name, osync_error_t *err) {
    osync__buf_t scratch = {0};
    Openmldb__Api__Dimension dim = OPENMLDB__API__DIMENSION__INIT, *dims[1] = {&dim};
    Openmldb__Api__LogEntry e = OPENMLDB__API__LOG_ENTRY__INIT;
    uint32_t only = pid ? *pid : UINT32_MAX;
    int rc = 0;
    if (index >= t->n_indexes) return osync__err(err, OSYNC_EINVAL, "there is no index %u", index);
    e.has_method_type = 1;
    e.method_type = OPENMLDB__API__METHOD_TYPE__kDelete;
    osync__buf_t name = {0};
    if (ts_name) rc = osync__buf_append(&name, ts_name, strlen(ts_name) + 1);
    e.ts_name = (char *)name.data;
    if (start_ts) {
        e.has_ts = 1;
        e.ts = *start_ts;
    }
    if (end_ts) {
        e.has_end_ts = 1;
        e.end_ts = *end_ts;
    }
    osync__buf_t pk = {0};
    if (key) {
        rc = osync__buf_append(&pk, key, strlen(key));
        only = key_partition(key, strlen(key), (uint32_t)t->n_partitions);
        dim.has_key = dim.has_idx = 1;
        dim.key = (ProtobufCBinaryData){pk.len, pk.data};
        dim.idx = index;
        e.dimensions = dims;
        e.n_dimensions = 1;
    }
    for (size_t i = 0; rc == 0 && i < t->n_partitions; i++)
        if (only == UINT32_MAX || only == i) rc = led_here(&t->partitions[i], err);
    for (size_t i = 0; rc == 0 && i < t->n_partitions; i++)
        if (only == UINT32_MAX || only == i) rc = commit(&t->partitions[i], &e, NULL, &scratch, err);
    if (rc == 0) rc = disk_table_flush(t, err);
    osync__buf_free(&scratch);
    osync__buf_free(&name);
    osync__buf_free(&pk);
    return rc;
}

static int add_version(Openmldb__Api__TableMeta *meta, int id, int fields) {
    Openmldb__Common__VersionPair **pairs =
        realloc(meta->schema_versions, (meta->n_schema_versions + 1) * sizeof *pairs);
    if (!pairs) return OSYNC_ENOMEM;
    meta->schema_versions = pairs;
    Openmldb__Common__VersionPair *pair = malloc(sizeof *pair);
    if (!pair) return OSYNC_ENOMEM;
    openmldb__common__version_pair__init(pair);
    pair->has_id = pair->has_field_count = 1;
    pair->id = id;
    pair->field_count = fields;
    pairs[meta->n_schema_versions++] = pair;
    return 0;
}

int disk_table_add_column(disk_table_t *t, const Openmldb__Common__ColumnDesc *column, osync_error_t *err) {
    Openmldb__Api__TableMeta *meta = t->meta;
    osync__buf_t bytes = {0};
    if (column_number(t, column->name) >= 0) return osync__err(err, OSYNC_EEXIST, "there is a column %s", column->name);
    int version = disk_table_version(t) + 1, fields = (int)t->n_columns + 1;
    Openmldb__Common__ColumnDesc **added =
        realloc(meta->added_column_desc, (meta->n_added_column_desc + 1) * sizeof(void *));
    if (!added) return OSYNC_ENOMEM;
    meta->added_column_desc = added;
    size_t len = openmldb__common__column_desc__get_packed_size(column);
    int rc = osync__buf_reserve(&bytes, len + 1);
    if (rc == 0) {
        openmldb__common__column_desc__pack(column, bytes.data);
        added[meta->n_added_column_desc] = openmldb__common__column_desc__unpack(NULL, len, bytes.data);
        rc = added[meta->n_added_column_desc] ? 0 : OSYNC_ENOMEM;
    }
    osync__buf_free(&bytes);
    if (rc) return rc;
    meta->n_added_column_desc++;
    if (meta->n_schema_versions == 0) rc = add_version(meta, 1, (int)meta->n_column_desc);
    if (rc == 0) rc = add_version(meta, version, fields);
    if (rc == 0) rc = fill_columns(t, err);
    for (size_t i = 0; rc == 0 && i < t->n_partitions; i++)
        rc = write_meta(&t->partitions[i], t->partitions[i].dir, err);
    return rc;
}

/* ---- snapshots ---- */

static int write_manifest(const partition_t *p, const char *folder, uint64_t offset, const char *name, uint64_t count,
                          osync_error_t *err) {
    char tmp[4096], path[4096], text[512];
    snprintf(tmp, sizeof tmp, "%s/MANIFEST.tmp", folder);
    snprintf(path, sizeof path, "%s/MANIFEST", folder);
    int len = snprintf(text, sizeof text, "offset: %" PRIu64 "\nname: \"%s\"\ncount: %" PRIu64 "\nterm: %" PRIu64 "\n",
                       offset, name, count, p->term);
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    int rc = fd >= 0 && write(fd, text, (size_t)len) == len && fsync(fd) == 0 ? 0 : -1;
    if (fd >= 0) close(fd);
    if (rc == 0) rc = tablet_clock_stamp(&p->table->clock, tmp, err);
    if (rc || rename(tmp, path)) return osync__err_errno(err, errno, "can't write %s", path);
    return 0;
}

int partition_snapshot_name(const partition_t *p, char *out, size_t size, osync_error_t *err) {
    char path[4096];
    osync__buf_t text = {0};
    osync__manifest_t manifest;
    snprintf(path, sizeof path, "%s/snapshot/MANIFEST", p->dir);
    out[0] = '\0';
    int rc = osync__read_file(path, 1 << 20, &text, err);
    if (rc == OSYNC_ENOENT) return 0;
    if (rc == 0) rc = osync__manifest_parse((const char *)text.data, text.len, &manifest, err);
    if (rc == 0) snprintf(out, size, "%s", manifest.name);
    osync__buf_free(&text);
    return rc;
}

static bool is_memory(const partition_t *p) {
    return p->table->meta->storage_mode == OPENMLDB__COMMON__STORAGE_MODE__kMemory;
}

/* As partition_snapshot; the offset is the log's own. */
static int memory_snapshot(partition_t *p, const char *folder, const char *minute, const char *before,
                           const char *compression, osync_error_t *err) {
    char name[128], old[4096];
    uint64_t count = 0;
    /* OpenMLDB appends the suffix twice. */
    if (compression)
        snprintf(name, sizeof name, "%s.sdb.%s.%s", minute, compression, compression);
    else
        snprintf(name, sizeof name, "%s.sdb", minute);
    int rc = memory_snapshot_write(p, folder, before, name, &count, err);
    if (rc == 0) rc = write_manifest(p, folder, p->last.index, name, count, err);
    if (rc) return rc;
    p->snapshot_offset = p->last.index;
    snprintf(old, sizeof old, "%s/%s", folder, before);
    if (before[0] && strcmp(before, name) != 0 && unlink(old)) return osync__err_errno(err, errno, "unlink %s", old);
    return 0;
}

int partition_snapshot(partition_t *p, int64_t offset_skew, const char *compression, osync_error_t *err) {
    char folder[3000], name[64], before[256], final[4096], tmp[3900], bak[4096], old[4096], *text = NULL;
    time_t now = (time_t)(tablet_clock_ms(&p->table->clock) / 1000);
    struct tm local;
    uint64_t count = 0;
    localtime_r(&now, &local);
    strftime(name, sizeof name, "%Y%m%d%H%M", &local);
    snprintf(folder, sizeof folder, "%s/snapshot", p->dir);
    snprintf(final, sizeof final, "%s/%s", folder, name);
    snprintf(tmp, sizeof tmp, "%s/%s.tmp", folder, name);
    snprintf(bak, sizeof bak, "%s/%s.bak", folder, name);
    int rc = disk_table_flush(p->table, err);
    if (rc == 0) rc = partition_snapshot_name(p, before, sizeof before, err);
    if (rc == 0 && is_memory(p)) return memory_snapshot(p, folder, name, before, compression, err);
    if (rc == 0) rc = osync__rmtree(tmp, err);
    if (rc) return rc;
    rocksdb_property_int_cf(p->db, p->cfs[0], "rocksdb.estimate-num-keys", &count);
    uint64_t offset = p->counter + (uint64_t)offset_skew;

    rocksdb_checkpoint_t *checkpoint = rocksdb_checkpoint_object_create(p->db, &text);
    if (!text) rocksdb_checkpoint_create(checkpoint, tmp, 0, &text);
    if (checkpoint) rocksdb_checkpoint_object_destroy(checkpoint);
    if (text) return rocks_err(err, text, p->dir);
    snprintf(old, sizeof old, "%s/CURRENT", tmp);
    rc = tablet_clock_stamp(&p->table->clock, old, err);
    if (rc) return rc;
    if (rename(final, bak) && errno != ENOENT) return osync__err_errno(err, errno, "can't rename %s", final);
    if (rename(tmp, final)) return osync__err_errno(err, errno, "can't rename %s", tmp);
    rc = write_manifest(p, folder, offset, name, count, err);
    if (rc == 0) rc = osync__rmtree(bak, err);
    if (rc == 0 && before[0] && strcmp(before, name) != 0) {
        snprintf(old, sizeof old, "%s/%s", folder, before);
        rc = osync__rmtree(old, err);
    }
    p->snapshot_offset = offset;
    return rc;
}

/* ---- copies ---- */

typedef struct giving {
    partition_t *p;
    uint64_t from, until;
    entry_id_t last; /* seen */
    int (*take)(void *arg, const void *payload, size_t len);
    void *arg;
    int rc;
} giving_t;

static uint64_t give(void *arg, const void *payload, size_t len) {
    giving_t *g = arg;
    Openmldb__Api__LogEntry *e = openmldb__api__log_entry__unpack(NULL, len, payload);
    if (!e) return 0;
    uint64_t index = e->log_index;
    if (index <= g->until) g->last = id_of(e, payload, len);
    openmldb__api__log_entry__free_unpacked(e, NULL);
    if (index >= g->from && index <= g->until && g->take && g->rc == 0) g->rc = g->take(g->arg, payload, len);
    return index;
}

static bool same_entry(const entry_id_t *a, const entry_id_t *b) {
    return a->index == b->index && a->term == b->term && a->crc == b->crc;
}

int partition_entries(partition_t *p, const entry_id_t *last, uint64_t until, size_t most, bool *match,
                      int (*take)(void *arg, const void *payload, size_t len), void *arg, osync_error_t *err) {
    giving_t g = {.p = p, .from = last->index, .until = last->index};
    *match = last->index == 0 || same_entry(last, &p->last) || same_entry(last, &p->served_last);
    if (last->index > p->last.index) return 0;
    if (!*match) {
        log_cursor_t cursor = {0};
        int rc = log_writer_read(&p->log, &cursor, last->index, 1, give, &g, err);
        if (rc) return rc == OSYNC_EGAP ? 0 : rc;
        *match = same_entry(last, &g.last);
        if (!*match) return 0;
    }
    if (until > p->last.index) until = p->last.index;
    if (last->index >= until) return 0;
    g = (giving_t){.p = p, .from = last->index + 1, .until = until, .take = take, .arg = arg};
    int rc = log_writer_read(&p->log, &p->served, last->index + 1, most, give, &g, err);
    if (rc == OSYNC_EGAP) *match = false;
    if (rc) return rc == OSYNC_EGAP ? 0 : rc;
    if (g.last.index >= g.from) p->served_last = g.last;
    if (p->served.next != p->served_last.index + 1) p->served = (log_cursor_t){0};
    return g.rc;
}

int partition_append(partition_t *p, const void *payload, size_t len, osync_error_t *err) {
    replay_t replay = {p, err};
    Openmldb__Api__LogEntry *e = openmldb__api__log_entry__unpack(NULL, len, payload);
    if (!e) return osync__err(err, OSYNC_ECORRUPT, "an entry that doesn't parse");
    uint64_t index = e->log_index;
    if (e->term > p->term) p->term = e->term;
    openmldb__api__log_entry__free_unpacked(e, NULL);
    if (index != p->last.index + 1)
        return osync__err(err, OSYNC_EGAP, "entry %" PRIu64 " doesn't follow %" PRIu64, index, p->last.index);
    int rc = log_writer_append(&p->log, index, payload, len, err);
    if (rc == 0) rc = log_writer_flush(&p->log, err);
    if (rc) return rc;
    return on_entry(&replay, payload, len) ? 0
                                           : osync__err(err, OSYNC_ECORRUPT, "entry %" PRIu64 " isn't usable", index);
}

static int copy_folder(const char *from, const char *to, osync_error_t *err) {
    char source[4096], target[4096];
    osync__buf_t bytes = {0};
    int rc = osync__mkdirs(to, err);
    DIR *dir = rc ? NULL : opendir(from);
    if (rc == 0 && !dir) rc = osync__err_errno(err, errno, "can't open %s", from);
    for (struct dirent *e; rc == 0 && (e = readdir(dir));) {
        if (e->d_name[0] == '.') continue;
        snprintf(source, sizeof source, "%s/%s", from, e->d_name);
        snprintf(target, sizeof target, "%s/%s", to, e->d_name);
        osync__buf_free(&bytes);
        rc = osync__read_file(source, SIZE_MAX, &bytes, err);
        FILE *f = rc ? NULL : fopen(target, "wbe");
        if (rc == 0 && (!f || fwrite(bytes.data, 1, bytes.len, f) != bytes.len))
            rc = osync__err_errno(err, errno, "can't write %s", target);
        if (f && fclose(f) && rc == 0) rc = osync__err_errno(err, errno, "can't write %s", target);
    }
    if (dir) closedir(dir);
    osync__buf_free(&bytes);
    return rc;
}

int partition_replace(partition_t *p, const char *from, const char *name, const entry_id_t *last, osync_error_t *err) {
    char copy[3900], folder[4096], text[128];
    uint64_t max_bytes = p->log.max_bytes;
    if (is_memory(p)) return osync__err(err, OSYNC_ENOTSUP, "memory tables are copied by their log alone here");
    /* First all that is to come, beside what is there: the leader may throw its snapshot away meanwhile. */
    snprintf(copy, sizeof copy, "%s.copy", p->dir);
    int rc = osync__rmtree(copy, err);
    snprintf(folder, sizeof folder, "%s/data", copy);
    if (rc == 0) rc = copy_folder(from, folder, err);
    snprintf(folder, sizeof folder, "%s/snapshot/%s", copy, name);
    if (rc == 0) rc = copy_folder(from, folder, err);
    snprintf(folder, sizeof folder, "%s/snapshot/%s/CURRENT", copy, name);
    if (rc == 0) rc = tablet_clock_stamp(&p->table->clock, folder, err);
    snprintf(folder, sizeof folder, "%s/snapshot", copy);
    if (rc == 0) rc = write_manifest(p, folder, last->index, name, 0, err);
    snprintf(folder, sizeof folder, "%s/%s", copy, origin_name);
    int len = snprintf(text, sizeof text, "%" PRIu64 " %" PRIu64 " %" PRIu32, last->index, last->term, last->crc);
    if (rc == 0) rc = osync__write_file(folder, text, (size_t)len, err);
    if (rc == 0) rc = write_meta(p, copy, err);
    if (rc) return rc;
    uint64_t term = p->term;
    unload_partition(p);
    p->last = p->served_last = (entry_id_t){0};
    p->served = (log_cursor_t){0};
    p->puts = p->base_puts = 0;
    if (renameat2(AT_FDCWD, copy, AT_FDCWD, p->dir, RENAME_EXCHANGE))
        rc = osync__err_errno(err, errno, "can't exchange %s and %s", copy, p->dir);
    if (rc == 0) rc = load_partition(p, max_bytes, err);
    if (rc == 0) rc = osync__rmtree(copy, err);
    if (term > p->term) p->term = term;
    return rc;
}
