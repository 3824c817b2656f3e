/* The row codec: a checked view of one encoded row (docs/formats.md, row codec). */
#ifndef OSYNC_FORMAT_ROW_H
#define OSYNC_FORMAT_ROW_H

#include "base/buf.h"
#include "format/table.h"

typedef struct osync__row {
    const uint8_t *data;
    size_t size;
    const osync__layout_t *layout;
    unsigned address_size; /* of a string: 1 to 4 */
} osync__row_t;

/* The size that the row at `data` claims, or OSYNC_ECORRUPT if `len` bytes can't hold a row of it. Splits packed rows.
 */
int osync__row_size(const void *data, size_t len, size_t *size, osync_error_t *err);

/* Checks the whole row (header, version, bitmap, string addresses) and fills `row`, which borrows `data`. */
int osync__row_open(osync__row_t *row, const osync_table_t *table, const void *data, size_t len, osync_error_t *err);

/* Columns beyond the row's own version are NULL. */
bool osync__row_is_null(const osync__row_t *row, size_t column);
/* For BOOL, SMALLINT, INT, BIGINT, DATE, TIMESTAMP. */
int64_t osync__row_int(const osync__row_t *row, size_t column, int type);
float osync__row_float(const osync__row_t *row, size_t column);
double osync__row_double(const osync__row_t *row, size_t column);
const uint8_t *osync__row_string(const osync__row_t *row, size_t column, size_t *len);

/* The base index ts of an uncompressed value: the ts column's, or `auto_ts` if the index has none. OSYNC_ECORRUPT if
 * the ts column is NULL or negative. */
int osync__row_base_ts(const osync_table_t *table, const void *value, size_t len, uint64_t auto_ts, uint64_t *ts,
                       osync_error_t *err);

/* Undoes the table's compression: *out points into `value` if there is none, else into `scratch`. A value that would
 * inflate to more than `limit` bytes is OSYNC_ETOOBIG. */
int osync__row_uncompress(const osync_table_t *table, const void *value, size_t len, size_t limit,
                          osync__buf_t *scratch, const uint8_t **out, size_t *out_len, osync_error_t *err);

#endif
