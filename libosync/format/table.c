/* Makes a table's description from OpenMLDB's messages, and checks that it makes sense, so that the row codec can trust
 * every number in it. TableMeta and TableInfo are two messages with the same parts; both go through `source`. */
#include "format/table.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

enum { MAX_COLUMNS = 1 << 16, HEADER_SIZE = 6, MS_PER_MINUTE = 60000, BASE_VERSION = 1 };

typedef struct source {
    int64_t tid;
    const char *db, *name;
    int compress_type;
    int storage_mode;
    size_t n_columns, n_added, n_keys, n_versions;
    Openmldb__Common__ColumnDesc **columns, **added;
    Openmldb__Common__ColumnKey **keys;
    Openmldb__Common__VersionPair **versions;
} source_t;

/* The bytes a column takes in the fixed area; 0: a string. */
static size_t fixed_size(int type) {
    switch (type) {
    case OPENMLDB__TYPE__DATA_TYPE__kBool:
        return 1;
    case OPENMLDB__TYPE__DATA_TYPE__kSmallInt:
        return 2;
    case OPENMLDB__TYPE__DATA_TYPE__kInt:
    case OPENMLDB__TYPE__DATA_TYPE__kFloat:
    case OPENMLDB__TYPE__DATA_TYPE__kDate:
        return 4;
    case OPENMLDB__TYPE__DATA_TYPE__kBigInt:
    case OPENMLDB__TYPE__DATA_TYPE__kDouble:
    case OPENMLDB__TYPE__DATA_TYPE__kTimestamp:
        return 8;
    default:
        return 0;
    }
}

static int add_column(osync_table_t *table, const Openmldb__Common__ColumnDesc *desc, osync_error_t *err) {
    osync__column_t *column = &table->columns[table->n_columns];
    int type = 0;
    if (desc->has_data_type)
        type = (int)desc->data_type;
    else if (desc->schema && desc->schema->has_type)
        type = (int)desc->schema->type;
    if (!desc->name || !*desc->name)
        return osync__err(err, OSYNC_EINVAL, "table %s.%s: column %zu has no name", table->db, table->name,
                          table->n_columns);
    switch (type) {
    case OPENMLDB__TYPE__DATA_TYPE__kVarchar:
    case OPENMLDB__TYPE__DATA_TYPE__kString:
        break;
    case OPENMLDB__TYPE__DATA_TYPE__kArray:
    case OPENMLDB__TYPE__DATA_TYPE__kMap:
        return osync__err(err, OSYNC_ENOTSUP, "table %s.%s: column %s is %s, which the row format has no form for",
                          table->db, table->name, desc->name,
                          type == OPENMLDB__TYPE__DATA_TYPE__kArray ? "an array" : "a map");
    case 0:
        return osync__err(err, OSYNC_EINVAL, "table %s.%s: column %s has no type", table->db, table->name, desc->name);
    default:
        if (fixed_size(type) == 0)
            return osync__err(err, OSYNC_ENOTSUP, "table %s.%s: column %s has the unknown type %d", table->db,
                              table->name, desc->name, type);
    }
    column->name = osync__strdup(desc->name);
    if (!column->name)
        return osync__err(err, OSYNC_ENOMEM, "out of memory for the columns of table %s.%s", table->db, table->name);
    column->type = type;
    table->n_columns++;
    return 0;
}

static int make_layout(osync_table_t *table, size_t version, size_t n_columns) {
    osync__layout_t layout = {0};
    layout.at = osync__calloc(n_columns, sizeof *layout.at);
    if (!layout.at) return OSYNC_ENOMEM;
    size_t at = HEADER_SIZE + (n_columns + 7) / 8;
    for (size_t i = 0; i < n_columns; i++) {
        size_t size = fixed_size(table->columns[i].type);
        /* MAX_COLUMNS keeps both far below 2^32. */
        layout.at[i] = (uint32_t)(size ? at : layout.n_strings++);
        at += size;
    }
    layout.n_columns = n_columns;
    layout.strings_at = at;
    osync__free(table->layouts[version].at); /* of two pairs with the same id the last one counts */
    table->layouts[version] = layout;
    return 0;
}

static int make_layouts(osync_table_t *table, const source_t *s, osync_error_t *err) {
    int rc = make_layout(table, BASE_VERSION, table->n_base_columns);
    for (size_t i = 0; !rc && i < s->n_versions; i++) {
        const Openmldb__Common__VersionPair *pair = s->versions[i];
        if (!pair->has_id || !pair->has_field_count || pair->id <= BASE_VERSION || pair->id > OSYNC__MAX_VERSION)
            continue;
        if (pair->field_count < 0 || (size_t)pair->field_count < table->n_base_columns ||
            (size_t)pair->field_count > table->n_columns)
            continue; /* as OpenMLDB does */
        rc = make_layout(table, (size_t)pair->id, (size_t)pair->field_count);
    }
    if (rc) return osync__err(err, rc, "out of memory for the schema versions of table %s.%s", table->db, table->name);
    return 0;
}

/* Indexes with the same key columns in the same order share one column family. Their names are joined with '|' and
 * compared, as OpenMLDB does: one column has no '|' behind it, several have one behind each. */
static char *group_of(const Openmldb__Common__ColumnKey *key) {
    if (key->n_col_name == 0) return osync__strdup(key->index_name ? key->index_name : "");
    if (key->n_col_name == 1) return osync__strdup(key->col_name[0]);
    size_t size = 1;
    for (size_t i = 0; i < key->n_col_name; i++) size += strlen(key->col_name[i]) + 1;
    char *group = osync__malloc(size);
    char *p = group;
    for (size_t i = 0; group && i < key->n_col_name; i++) {
        p = stpcpy(p, key->col_name[i]);
        *p++ = '|';
        *p = 0;
    }
    return group;
}

static int find_base_family(osync_table_t *table, const source_t *s, osync_error_t *err) {
    int rc = 0;
    const char *name = s->n_keys ? s->keys[0]->index_name : "idx0";
    char *base = NULL;
    if (!name || !*name || strcmp(name, "default") == 0) {
        rc = osync__err(err, OSYNC_EINVAL, "table %s.%s: index 0 %s, so its column family can't be found", table->db,
                        table->name, name && *name ? "is called \"default\", RocksDB's own name" : "has no name");
        goto done;
    }
    table->base_cf = osync__strdup(name); /* index 0 is the first of its group */
    if (!table->base_cf) goto no_memory;
    if (s->n_keys == 0) goto done;
    base = group_of(s->keys[0]);
    if (!base) goto no_memory;
    table->siblings = osync__calloc(s->n_keys, sizeof *table->siblings);
    if (!table->siblings) goto no_memory;
    for (size_t i = 1; i < s->n_keys; i++) { /* a deleted index still counts */
        char *other = group_of(s->keys[i]);
        if (!other) goto no_memory;
        bool same = strcmp(base, other) == 0;
        osync__free(other);
        if (!same) continue;
        table->multi_ts = true;
        table->siblings[table->n_siblings] = osync__strdup(s->keys[i]->index_name ? s->keys[i]->index_name : "");
        if (!table->siblings[table->n_siblings++]) goto no_memory;
    }
done:
    osync__free(base);
    return rc;
no_memory:
    osync__free(base);
    return osync__err(err, OSYNC_ENOMEM, "out of memory for the indexes of table %s.%s", table->db, table->name);
}

static int find_ts_column(osync_table_t *table, const source_t *s, osync_error_t *err) {
    const char *name = s->n_keys && s->keys[0]->ts_name ? s->keys[0]->ts_name : "";
    table->ts_column = OSYNC__AUTO_TS;
    table->ts_col_id = OSYNC__AUTO_TS_COL_ID;
    table->ts_name = osync__strdup(name);
    if (!table->ts_name)
        return osync__err(err, OSYNC_ENOMEM, "out of memory for the indexes of table %s.%s", table->db, table->name);
    if (!*name) return 0;
    for (size_t i = 0; i < table->n_columns; i++) {
        if (strcmp(table->columns[i].name, name) != 0) continue;
        int type = table->columns[i].type;
        if (type != OPENMLDB__TYPE__DATA_TYPE__kBigInt && type != OPENMLDB__TYPE__DATA_TYPE__kTimestamp)
            return osync__err(err, OSYNC_EINVAL,
                              "table %s.%s: index %s has the ts column %s, which is neither BIGINT nor TIMESTAMP",
                              table->db, table->name, table->base_cf, name);
        table->ts_column = (int)i;
        table->ts_col_id = (uint32_t)i;
        return 0;
    }
    return osync__err(err, OSYNC_EINVAL, "table %s.%s: index %s has the ts column %s, which the table doesn't have",
                      table->db, table->name, table->base_cf, name);
}

static int read_ttl(osync_table_t *table, const source_t *s, osync_error_t *err) {
    const Openmldb__Common__TTLSt *ttl = s->n_keys ? s->keys[0]->ttl : NULL;
    table->ttl.type = OPENMLDB__TYPE__TTLTYPE__kAbsoluteTime;
    if (!ttl) return 0;
    table->ttl.type = (int)ttl->ttl_type;
    table->ttl.abs_ms = ttl->abs_ttl > UINT64_MAX / MS_PER_MINUTE ? UINT64_MAX : ttl->abs_ttl * MS_PER_MINUTE;
    table->ttl.lat = ttl->lat_ttl;
    if (table->ttl.type < OPENMLDB__TYPE__TTLTYPE__kAbsoluteTime ||
        table->ttl.type > OPENMLDB__TYPE__TTLTYPE__kAbsOrLat)
        return osync__err(err, OSYNC_ENOTSUP, "table %s.%s: index %s has the unknown TTL type %d", table->db,
                          table->name, table->base_cf, table->ttl.type);
    return 0;
}

static int make_table(osync_table_t **out, const source_t *s, osync_error_t *err) {
    int rc = 0;
    *out = NULL;
    osync_table_t *table = osync__calloc(1, sizeof *table);
    if (!table) return osync__err(err, OSYNC_ENOMEM, "out of memory for a table");
    table->db = osync__strdup(s->db ? s->db : "");
    table->name = osync__strdup(s->name ? s->name : "");
    if (!table->db || !table->name) {
        rc = osync__err(err, OSYNC_ENOMEM, "out of memory for a table");
        goto done;
    }
    if (s->tid < 0) {
        rc = osync__err(err, OSYNC_EINVAL, "table %s.%s has the id %lld", table->db, table->name, (long long)s->tid);
        goto done;
    }
    table->tid = (uint32_t)s->tid;
    table->storage_mode = s->storage_mode;
    if (s->compress_type != OPENMLDB__TYPE__COMPRESS_TYPE__kNoCompress &&
        s->compress_type != OPENMLDB__TYPE__COMPRESS_TYPE__kSnappy) {
        rc = osync__err(err, OSYNC_ENOTSUP, "table %s.%s has the unknown compression type %d", table->db, table->name,
                        s->compress_type);
        goto done;
    }
    table->snappy = s->compress_type == OPENMLDB__TYPE__COMPRESS_TYPE__kSnappy;
    if (s->n_columns == 0) {
        rc = osync__err(err, OSYNC_EINVAL, "table %s.%s has no columns", table->db, table->name);
        goto done;
    }
    if (s->n_columns > MAX_COLUMNS || s->n_added > MAX_COLUMNS - s->n_columns) {
        rc =
            osync__err(err, OSYNC_ETOOBIG, "table %s.%s has more than %d columns", table->db, table->name, MAX_COLUMNS);
        goto done;
    }
    table->columns = osync__calloc(s->n_columns + s->n_added, sizeof *table->columns);
    if (!table->columns) {
        rc = osync__err(err, OSYNC_ENOMEM, "out of memory for the columns of table %s.%s", table->db, table->name);
        goto done;
    }
    for (size_t i = 0; !rc && i < s->n_columns; i++) rc = add_column(table, s->columns[i], err);
    table->n_base_columns = table->n_columns;
    for (size_t i = 0; !rc && i < s->n_added; i++) rc = add_column(table, s->added[i], err);
    if (!rc) rc = make_layouts(table, s, err);
    if (!rc) rc = find_base_family(table, s, err);
    if (!rc) rc = find_ts_column(table, s, err);
    if (!rc) rc = read_ttl(table, s, err);
done:
    if (rc)
        osync_table_free(table);
    else
        *out = table;
    return rc;
}

int osync__table_from_meta(osync_table_t **out, const Openmldb__Api__TableMeta *meta, osync_error_t *err) {
    source_t s = {.tid = meta->tid,
                  .db = meta->db,
                  .name = meta->name,
                  .compress_type = (int)meta->compress_type,
                  .storage_mode = (int)meta->storage_mode,
                  .n_columns = meta->n_column_desc,
                  .columns = meta->column_desc,
                  .n_added = meta->n_added_column_desc,
                  .added = meta->added_column_desc,
                  .n_keys = meta->n_column_key,
                  .keys = meta->column_key,
                  .n_versions = meta->n_schema_versions,
                  .versions = meta->schema_versions};
    return make_table(out, &s, err);
}

int osync__table_from_info(osync_table_t **out, const Openmldb__Nameserver__TableInfo *info, osync_error_t *err) {
    source_t s = {.tid = info->tid,
                  .db = info->db,
                  .name = info->name,
                  .compress_type = (int)info->compress_type,
                  .storage_mode = (int)info->storage_mode,
                  .n_columns = info->n_column_desc,
                  .columns = info->column_desc,
                  .n_added = info->n_added_column_desc,
                  .added = info->added_column_desc,
                  .n_keys = info->n_column_key,
                  .keys = info->column_key,
                  .n_versions = info->n_schema_versions,
                  .versions = info->schema_versions};
    return make_table(out, &s, err);
}

int osync_table_from_meta(osync_table_t **out, const void *meta, size_t len, osync_error_t *err) {
    *out = NULL;
    osync__unpacking_t u;
    Openmldb__Api__TableMeta *m = openmldb__api__table_meta__unpack(osync__unpacking_init(&u), len, meta);
    if (!m && u.no_memory) return osync__err(err, OSYNC_ENOMEM, "out of memory for a table's description");
    if (!m) return osync__err(err, OSYNC_ECORRUPT, "these %zu bytes aren't an openmldb.api.TableMeta", len);
    int rc = osync__table_from_meta(out, m, err);
    openmldb__api__table_meta__free_unpacked(m, &osync__protobuf_allocator);
    return rc;
}

int osync_table_from_info(osync_table_t **out, const void *info, size_t len, osync_error_t *err) {
    *out = NULL;
    osync__unpacking_t u;
    Openmldb__Nameserver__TableInfo *m = openmldb__nameserver__table_info__unpack(osync__unpacking_init(&u), len, info);
    if (!m && u.no_memory) return osync__err(err, OSYNC_ENOMEM, "out of memory for a table's description");
    if (!m) return osync__err(err, OSYNC_ECORRUPT, "these %zu bytes aren't an openmldb.nameserver.TableInfo", len);
    int rc = osync__table_from_info(out, m, err);
    openmldb__nameserver__table_info__free_unpacked(m, &osync__protobuf_allocator);
    return rc;
}

osync_table_t *osync__table_share(osync_table_t *table) {
    __atomic_add_fetch(&table->shares, 1, __ATOMIC_RELAXED);
    return table;
}

void osync_table_free(osync_table_t *table) {
    if (!table || __atomic_fetch_sub(&table->shares, 1, __ATOMIC_ACQ_REL) > 0) return;
    for (size_t i = 0; table->columns && i < table->n_columns; i++) osync__free(table->columns[i].name);
    for (size_t v = 0; v <= OSYNC__MAX_VERSION; v++) osync__free(table->layouts[v].at);
    osync__free(table->columns);
    osync__free(table->db);
    osync__free(table->name);
    osync__free(table->base_cf);
    for (size_t i = 0; i < table->n_siblings; i++) osync__free(table->siblings[i]);
    osync__free(table->siblings);
    osync__free(table->ts_name);
    osync__free(table);
}

bool osync__ttl_expired(const osync__ttl_t *ttl, uint64_t now_ms, uint64_t ts, uint64_t k) {
    /* A TTL longer than the time since 1970 expires nothing. */
    bool by_time = ttl->abs_ms != 0 && now_ms > ttl->abs_ms && ts <= now_ms - ttl->abs_ms;
    bool by_count = ttl->lat != 0 && k > ttl->lat;
    switch (ttl->type) {
    case OPENMLDB__TYPE__TTLTYPE__kLatestTime:
        return by_count;
    case OPENMLDB__TYPE__TTLTYPE__kAbsAndLat:
        return by_time && by_count;
    case OPENMLDB__TYPE__TTLTYPE__kAbsOrLat:
        return by_time || by_count;
    default:
        return by_time;
    }
}
