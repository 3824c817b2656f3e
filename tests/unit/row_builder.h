/* Makes encoded rows for tests, from the description of the format (docs/formats.md) and not with the code under test.
 */
#ifndef TESTS_ROW_BUILDER_H
#define TESTS_ROW_BUILDER_H

#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/sys.h"
#include "format/table.h"

enum { ROW_MAX_COLUMNS = 16 };

/* One value; `text` is for strings (NULL there is NULL), `bits` for all else. */
typedef struct row_value {
    bool null;
    uint64_t bits;
    const char *text;
    size_t text_len;
} row_value_t;

static inline size_t row_fixed_size(int type) {
    switch (type) {
    case OPENMLDB__TYPE__DATA_TYPE__kBool:
        return 1;
    case OPENMLDB__TYPE__DATA_TYPE__kSmallInt:
        return 2;
    case OPENMLDB__TYPE__DATA_TYPE__kInt:
    case OPENMLDB__TYPE__DATA_TYPE__kFloat:
    case OPENMLDB__TYPE__DATA_TYPE__kDate:
        return 4;
    case OPENMLDB__TYPE__DATA_TYPE__kVarchar:
    case OPENMLDB__TYPE__DATA_TYPE__kString:
        return 0;
    default:
        return 8;
    }
}

/* The caller owns the bytes: free. */
static inline uint8_t *row_build(const int *types, const row_value_t *values, size_t n, uint8_t version, size_t *size) {
    size_t fixed = 6 + (n + 7) / 8, strings = 0, bytes = 0, width = 1;
    for (size_t i = 0; i < n; i++) {
        size_t s = row_fixed_size(types[i]);
        fixed += s;
        strings += s == 0;
        if (s == 0 && !values[i].null) bytes += values[i].text_len;
    }
    static const size_t most[] = {0, 0xff, 0xffff, 0xffffff, 0xffffffff};
    while (fixed + bytes + strings * width > most[width]) width++;
    *size = fixed + bytes + strings * width;
    uint8_t *row = calloc(1, *size);
    if (!row) abort();
    row[0] = 1;
    row[1] = version;
    osync__put_u32le(row + 2, (uint32_t)*size);
    size_t at = 6 + (n + 7) / 8, address = fixed, end = fixed + strings * width;
    for (size_t i = 0; i < n; i++) {
        size_t s = row_fixed_size(types[i]);
        if (values[i].null) row[6 + i / 8] = (uint8_t)(row[6 + i / 8] | 1u << (i % 8));
        for (size_t b = 0; b < s; b++) row[at + b] = (uint8_t)(values[i].null ? 0 : values[i].bits >> (8 * b));
        at += s;
        if (s) continue;
        for (size_t b = 0; b < width; b++) /* three bytes are big-endian, the others little-endian */
            row[address + (width == 3 ? 2 - b : b)] = (uint8_t)(end >> (8 * b));
        address += width;
        if (values[i].null) continue;
        memcpy(row + end, values[i].text, values[i].text_len);
        end += values[i].text_len;
    }
    return row;
}

/* A TableMeta with columns c0, c1, ... and no index. */
static inline int row_table(osync_table_t **out, const int *types, size_t n, size_t n_added, osync_error_t *err) {
    Openmldb__Api__TableMeta meta = OPENMLDB__API__TABLE_META__INIT;
    Openmldb__Common__ColumnDesc columns[ROW_MAX_COLUMNS], *pointers[ROW_MAX_COLUMNS];
    Openmldb__Common__VersionPair pairs[ROW_MAX_COLUMNS], *pair_pointers[ROW_MAX_COLUMNS];
    char names[ROW_MAX_COLUMNS][8], db[] = "db1", name[] = "t1";
    for (size_t i = 0; i < n; i++) {
        columns[i] = (Openmldb__Common__ColumnDesc)OPENMLDB__COMMON__COLUMN_DESC__INIT;
        names[i][0] = 'c';
        names[i][1] = (char)('0' + i / 10);
        names[i][2] = (char)('0' + i % 10);
        names[i][3] = 0;
        columns[i].name = names[i];
        columns[i].has_data_type = 1;
        columns[i].data_type = (Openmldb__Type__DataType)types[i];
        pointers[i] = &columns[i];
    }
    for (size_t i = 0; i < n_added; i++) {
        pairs[i] = (Openmldb__Common__VersionPair)OPENMLDB__COMMON__VERSION_PAIR__INIT;
        pairs[i].has_id = pairs[i].has_field_count = 1;
        pairs[i].id = (int32_t)i + 2;
        pairs[i].field_count = (int32_t)(n - n_added + i + 1);
        pair_pointers[i] = &pairs[i];
    }
    meta.db = db;
    meta.name = name;
    meta.n_column_desc = n - n_added;
    meta.column_desc = pointers;
    meta.n_added_column_desc = n_added;
    meta.added_column_desc = pointers + (n - n_added);
    meta.n_schema_versions = n_added;
    meta.schema_versions = pair_pointers;
    return osync__table_from_meta(out, &meta, err);
}

#endif
