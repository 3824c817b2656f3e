#include "row_builder.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/sys.h"
#include "type.pb-c.h"

enum { HEADER = 6 };

static bool is_string(int type) {
    return type == OPENMLDB__TYPE__DATA_TYPE__kString || type == OPENMLDB__TYPE__DATA_TYPE__kVarchar;
}

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

static void put_fixed(uint8_t *at, int type, const cell_t *cell) {
    uint64_t bits = (uint64_t)cell->i;
    if (type == OPENMLDB__TYPE__DATA_TYPE__kDouble) {
        memcpy(&bits, &cell->d, sizeof bits);
    } else if (type == OPENMLDB__TYPE__DATA_TYPE__kFloat) {
        float f = (float)cell->d;
        uint32_t word;
        memcpy(&word, &f, sizeof word);
        bits = word;
    }
    for (size_t i = 0; i < fixed_size(type); i++) at[i] = (uint8_t)(bits >> (8 * i));
}

/* Three bytes stand big-endian, all other widths little-endian. */
static void put_address(uint8_t *at, size_t width, size_t value) {
    for (size_t i = 0; i < width; i++) at[width == 3 ? 2 - i : i] = (uint8_t)(value >> (8 * i));
}

int row_build(Openmldb__Common__ColumnDesc *const *columns, size_t n, int version, const cell_t *cells,
              osync__buf_t *out, osync_error_t *err) {
    static const uint64_t limits[] = {0, UINT8_MAX, UINT16_MAX, (1u << 24) - 1, UINT32_MAX};
    size_t bitmap = (n + 7) / 8, strings_at = HEADER + bitmap, strings = 0, bytes = 0, width = 1;
    for (size_t i = 0; i < n; i++) {
        int type = (int)columns[i]->data_type;
        if (cells[i].null && columns[i]->not_null)
            return osync__err(err, OSYNC_EINVAL, "column %s must not be NULL", columns[i]->name);
        if (is_string(type)) {
            strings++;
            bytes += cells[i].null ? 0 : cells[i].len;
        } else if (fixed_size(type)) {
            strings_at += fixed_size(type);
        } else {
            return osync__err(err, OSYNC_ENOTSUP, "column %s: type %d has no row form", columns[i]->name, type);
        }
    }
    while (width < 4 && strings_at + bytes + strings * width > limits[width]) width++;
    size_t size = strings_at + bytes + strings * width;
    if (size > UINT32_MAX) return osync__err(err, OSYNC_ETOOBIG, "a row of %zu bytes is too large", size);
    int rc = osync__buf_reserve(out, size);
    if (rc) return rc;

    uint8_t *row = out->data + out->len;
    memset(row, 0, size);
    row[0] = 1;
    row[1] = (uint8_t)version;
    osync__put_u32le(row + 2, (uint32_t)size);
    memset(row + HEADER, 0xff, bitmap);
    size_t fixed = HEADER + bitmap, address = strings_at, end = strings_at + strings * width;
    for (size_t i = 0; i < n; i++) {
        int type = (int)columns[i]->data_type;
        if (!cells[i].null) row[HEADER + i / 8] = (uint8_t)(row[HEADER + i / 8] & ~(1u << (i % 8)));
        if (is_string(type)) {
            /* OpenMLDB's builder sets the next address with each value, so the first one stays unset under a NULL. */
            if (!cells[i].null || address > strings_at) put_address(row + address, width, end);
            address += width;
            if (!cells[i].null && cells[i].len) {
                memcpy(row + end, cells[i].str, cells[i].len);
                end += cells[i].len;
            }
        } else {
            if (!cells[i].null) put_fixed(row + fixed, type, &cells[i]);
            fixed += fixed_size(type);
        }
    }
    out->len += size;
    return 0;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
}

static int string_cell(const Openmldb__Common__ColumnDesc *column, json_t *value, cell_t *cell, osync_error_t *err) {
    if (json_is_string(value)) {
        cell->str = json_string_value(value);
        cell->len = json_string_length(value);
        return 0;
    }
    const char *hex = json_string_value(json_object_get(value, "hex"));
    if (!hex) return osync__err(err, OSYNC_EINVAL, "column %s: a string or {\"hex\": \"...\"} is wanted", column->name);
    size_t len = strlen(hex) / 2;
    cell->owned = malloc(len + 1);
    if (!cell->owned) return OSYNC_ENOMEM;
    for (size_t i = 0; i < len; i++) {
        int high = hex_digit(hex[2 * i]), low = hex_digit(hex[2 * i + 1]);
        if (high < 0 || low < 0) return osync__err(err, OSYNC_EINVAL, "column %s: bad hex digits", column->name);
        cell->owned[i] = (char)(high * 16 + low);
    }
    cell->str = cell->owned;
    cell->len = len;
    return 0;
}

static int date_cell(const Openmldb__Common__ColumnDesc *column, json_t *value, cell_t *cell, osync_error_t *err) {
    unsigned year, month, day;
    const char *text = json_string_value(value);
    if (!text || sscanf(text, "%4u-%2u-%2u", &year, &month, &day) != 3 || year < 1900)
        return osync__err(err, OSYNC_EINVAL, "column %s: a date \"yyyy-mm-dd\" is wanted", column->name);
    cell->i = (int64_t)((year - 1900) << 16 | (month - 1) << 8 | day);
    return 0;
}

static int float_cell(const Openmldb__Common__ColumnDesc *column, json_t *value, cell_t *cell, osync_error_t *err) {
    const char *text = json_string_value(value);
    if (json_is_number(value))
        cell->d = json_number_value(value);
    else if (text && !strcmp(text, "NaN"))
        cell->d = NAN;
    else if (text && !strcmp(text, "Infinity"))
        cell->d = INFINITY;
    else if (text && !strcmp(text, "-Infinity"))
        cell->d = -INFINITY;
    else
        return osync__err(err, OSYNC_EINVAL, "column %s: a number is wanted", column->name);
    return 0;
}

int cells_from_json(Openmldb__Common__ColumnDesc *const *columns, size_t n, json_t *row, cell_t *cells,
                    osync_error_t *err) {
    memset(cells, 0, n * sizeof *cells);
    size_t found = 0;
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        json_t *value = json_object_get(row, columns[i]->name);
        int type = (int)columns[i]->data_type;
        found += value != NULL;
        if (!value || json_is_null(value)) {
            cells[i].null = true;
        } else if (is_string(type)) {
            rc = string_cell(columns[i], value, &cells[i], err);
        } else if (type == OPENMLDB__TYPE__DATA_TYPE__kDate) {
            rc = date_cell(columns[i], value, &cells[i], err);
        } else if (type == OPENMLDB__TYPE__DATA_TYPE__kFloat || type == OPENMLDB__TYPE__DATA_TYPE__kDouble) {
            rc = float_cell(columns[i], value, &cells[i], err);
        } else if (type == OPENMLDB__TYPE__DATA_TYPE__kBool && json_is_boolean(value)) {
            cells[i].i = json_is_true(value);
        } else if (json_is_integer(value)) {
            cells[i].i = json_integer_value(value);
        } else {
            rc = osync__err(err, OSYNC_EINVAL, "column %s: the value has the wrong type", columns[i]->name);
        }
    }
    if (rc == 0 && found != json_object_size(row))
        rc = osync__err(err, OSYNC_EINVAL, "a row has a column that the schema version doesn't have");
    return rc;
}

void cells_free(cell_t *cells, size_t n) {
    for (size_t i = 0; i < n; i++) free(cells[i].owned);
}

int key_append(const Openmldb__Common__ColumnDesc *column, const cell_t *cell, osync__buf_t *out, osync_error_t *err) {
    int type = (int)column->data_type;
    if (cell->null) return osync__buf_append(out, "!N@U#L$L%", 9);
    if (is_string(type)) {
        if (cell->len == 0) return osync__buf_append(out, "!@#$%", 5);
        return osync__buf_append(out, cell->str, cell->len);
    }
    if (type == OPENMLDB__TYPE__DATA_TYPE__kBool) return osync__buf_printf(out, "%s", cell->i ? "true" : "false");
    if (type == OPENMLDB__TYPE__DATA_TYPE__kFloat || type == OPENMLDB__TYPE__DATA_TYPE__kDouble)
        return osync__err(err, OSYNC_EINVAL, "column %s: a %s can't be part of a key", column->name, "float or double");
    return osync__buf_printf(out, "%lld", (long long)cell->i);
}

/* MurmurHash64A with the seed that OpenMLDB uses. */
static uint64_t murmur64a(const uint8_t *data, size_t len) {
    const uint64_t m = 0xc6a4a7935bd1e995u;
    uint64_t h = 0xe17a1465u ^ (len * m);
    size_t whole = len & ~(size_t)7;
    for (size_t i = 0; i < whole; i += 8) {
        uint64_t k = osync__get_u64le(data + i) * m;
        k ^= k >> 47;
        h = (h ^ (k * m)) * m;
    }
    if (len > whole) {
        uint64_t tail = 0;
        for (size_t i = whole; i < len; i++) tail |= (uint64_t)data[i] << (8 * (i - whole));
        h = (h ^ tail) * m;
    }
    h = (h ^ (h >> 47)) * m;
    return h ^ (h >> 47);
}

uint32_t key_partition(const void *key, size_t len, uint32_t partitions) {
    int64_t hash = (int64_t)murmur64a(key, len);
    uint64_t positive = hash < 0 ? 0 - (uint64_t)hash : (uint64_t)hash;
    return (uint32_t)(positive % partitions);
}
