/* The row codec: opens one encoded row after checking everything that a read of a column relies on, so that the reads
 * need no checks. It doesn't copy and doesn't allocate. */
#include "format/row.h"

#include <snappy-c.h>
#include <string.h>

#include "base/error.h"
#include "base/sys.h"

enum { FORMAT_VERSION = 1, HEADER_SIZE = 6, BITMAP_AT = 6 };

int osync__row_size(const void *data, size_t len, size_t *size, osync_error_t *err) {
    if (len < HEADER_SIZE)
        return osync__err(err, OSYNC_ECORRUPT, "a row of %zu bytes is shorter than a row's header", len);
    size_t claimed = osync__get_u32le((const uint8_t *)data + 2);
    if (claimed <= HEADER_SIZE)
        return osync__err(err, OSYNC_ECORRUPT, "a row's size field says %zu bytes, which is no more than its header",
                          claimed);
    if (claimed > len)
        return osync__err(err, OSYNC_ECORRUPT, "a row's size field says %zu bytes, but only %zu are there", claimed,
                          len);
    *size = claimed;
    return 0;
}

static unsigned address_size(size_t row_size) {
    return row_size <= UINT8_MAX ? 1 : row_size <= UINT16_MAX ? 2 : row_size <= 0xffffff ? 3 : 4;
}

static size_t get_address(const osync__row_t *row, size_t number) {
    const uint8_t *p = row->data + row->layout->strings_at + number * row->address_size;
    switch (row->address_size) {
    case 1:
        return p[0];
    case 2:
        return osync__get_u16le(p);
    case 3: /* the only one with the most significant byte first */
        return (size_t)p[0] << 16 | (size_t)p[1] << 8 | p[2];
    default:
        return osync__get_u32le(p);
    }
}

static size_t string_end(const osync__row_t *row, size_t number) {
    return number + 1 < row->layout->n_strings ? get_address(row, number + 1) : row->size;
}

static int check_strings(const osync__row_t *row, const osync_table_t *table, osync_error_t *err) {
    const osync__layout_t *layout = row->layout;
    size_t least = layout->strings_at + layout->n_strings * row->address_size;
    for (size_t i = 0; i < layout->n_columns; i++) {
        int type = table->columns[i].type;
        if (type != OPENMLDB__TYPE__DATA_TYPE__kVarchar && type != OPENMLDB__TYPE__DATA_TYPE__kString) continue;
        if (osync__row_is_null(row, i)) continue; /* its own address may be anything */
        size_t begin = get_address(row, layout->at[i]), end = string_end(row, layout->at[i]);
        if (begin < least || end < begin || end > row->size)
            return osync__err(err, OSYNC_ECORRUPT,
                              "table %s.%s: a row's column %s is at bytes %zu to %zu, but must be within %zu to %zu",
                              table->db, table->name, table->columns[i].name, begin, end, least, row->size);
        least = end;
    }
    return 0;
}

/* All but the strings. */
static int open_fixed(osync__row_t *row, const osync_table_t *table, const void *data, size_t len, osync_error_t *err) {
    const uint8_t *p = data;
    size_t size = 0;
    int rc = osync__row_size(data, len, &size, err);
    if (rc) return rc;
    if (size != len)
        return osync__err(err, OSYNC_ECORRUPT, "table %s.%s: a row's size field says %zu bytes, but it has %zu",
                          table->db, table->name, size, len);
    if (p[0] != FORMAT_VERSION)
        return osync__err(
            err, OSYNC_ECORRUPT,
            "table %s.%s: a row has format version %u, but only %d exists (is the value still compressed?)", table->db,
            table->name, p[0], FORMAT_VERSION);
    const osync__layout_t *layout = &table->layouts[p[1]];
    if (layout->n_columns == 0)
        return osync__err(
            err, OSYNC_ESCHEMA,
            "table %s.%s: a row has schema version %u, which the table's description doesn't have (is it up to date?)",
            table->db, table->name, p[1]);
    *row = (osync__row_t){.data = p, .size = size, .layout = layout, .address_size = address_size(size)};
    if (size < layout->strings_at + layout->n_strings * row->address_size)
        return osync__err(err, OSYNC_ECORRUPT,
                          "table %s.%s: a row of %zu bytes is too short for the %zu columns of schema version %u",
                          table->db, table->name, size, layout->n_columns, p[1]);
    return 0;
}

int osync__row_open(osync__row_t *row, const osync_table_t *table, const void *data, size_t len, osync_error_t *err) {
    int rc = open_fixed(row, table, data, len, err);
    return rc ? rc : check_strings(row, table, err);
}

bool osync__row_is_null(const osync__row_t *row, size_t column) {
    return column >= row->layout->n_columns || (row->data[BITMAP_AT + column / 8] >> (column % 8) & 1);
}

static int32_t get_i32(const uint8_t *p) {
    uint32_t v = osync__get_u32le(p);
    int32_t out = 0;
    memcpy(&out, &v, sizeof out);
    return out;
}

int64_t osync__row_int(const osync__row_t *row, size_t column, int type) {
    const uint8_t *p = row->data + row->layout->at[column];
    uint64_t v = 0;
    int64_t out = 0;
    switch (type) {
    case OPENMLDB__TYPE__DATA_TYPE__kBool:
        return p[0] != 0;
    case OPENMLDB__TYPE__DATA_TYPE__kSmallInt:
        out = osync__get_u16le(p);
        return out <= INT16_MAX ? out : out - (INT64_C(1) << 16);
    case OPENMLDB__TYPE__DATA_TYPE__kInt:
    case OPENMLDB__TYPE__DATA_TYPE__kDate:
        return get_i32(p);
    default:
        v = osync__get_u64le(p);
        memcpy(&out, &v, sizeof out);
        return out;
    }
}

float osync__row_float(const osync__row_t *row, size_t column) {
    uint32_t v = osync__get_u32le(row->data + row->layout->at[column]);
    float out = 0;
    memcpy(&out, &v, sizeof out);
    return out;
}

double osync__row_double(const osync__row_t *row, size_t column) {
    uint64_t v = osync__get_u64le(row->data + row->layout->at[column]);
    double out = 0;
    memcpy(&out, &v, sizeof out);
    return out;
}

const uint8_t *osync__row_string(const osync__row_t *row, size_t column, size_t *len) {
    size_t number = row->layout->at[column];
    size_t begin = get_address(row, number);
    *len = string_end(row, number) - begin;
    return row->data + begin;
}

int osync__row_base_ts(const osync_table_t *table, const void *value, size_t len, uint64_t auto_ts, uint64_t *ts,
                       osync_error_t *err) {
    osync__row_t row = {0};
    if (table->ts_column == OSYNC__AUTO_TS) {
        *ts = auto_ts;
        return 0;
    }
    size_t column = (size_t)table->ts_column;
    int rc = open_fixed(&row, table, value, len, err);
    if (rc) return rc;
    if (osync__row_is_null(&row, column))
        return osync__err(err, OSYNC_ECORRUPT, "table %s.%s: a row's ts column %s is NULL", table->db, table->name,
                          table->ts_name);
    int64_t v = osync__row_int(&row, column, table->columns[column].type);
    if (v < 0)
        return osync__err(err, OSYNC_ECORRUPT, "table %s.%s: a row's ts column %s is negative (%lld)", table->db,
                          table->name, table->ts_name, (long long)v);
    *ts = (uint64_t)v;
    return 0;
}

int osync__row_uncompress(const osync_table_t *table, const void *value, size_t len, size_t limit,
                          osync__buf_t *scratch, const uint8_t **out, size_t *out_len, osync_error_t *err) {
    size_t size = 0;
    if (!table->snappy) {
        *out = value;
        *out_len = len;
        return 0;
    }
    if (snappy_uncompressed_length(value, len, &size) != SNAPPY_OK) goto bad;
    if (size > limit)
        return osync__err(err, OSYNC_ETOOBIG, "table %s.%s: a row inflates from %zu to %zu bytes, but the limit is %zu",
                          table->db, table->name, len, size, limit);
    scratch->len = 0;
    if (osync__buf_reserve(scratch, size ? size : 1))
        return osync__err(err, OSYNC_ENOMEM, "table %s.%s: out of memory for a row of %zu bytes", table->db,
                          table->name, size);
    if (snappy_uncompress(value, len, (char *)scratch->data, &size) != SNAPPY_OK) goto bad;
    scratch->len = size;
    *out = scratch->data;
    *out_len = size;
    return 0;
bad:
    return osync__err(err, OSYNC_ECORRUPT,
                      "table %s.%s: a row of %zu bytes isn't valid Snappy data, as the table's compression asks for",
                      table->db, table->name, len);
}
