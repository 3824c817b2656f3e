/* Columns of a table, and the cells of a row in memory: what a reader gives, taken apart.
 *
 * Nothing is copied: cells point into the row. All functions are thread-safe. */
#ifndef OSYNC_ROW_H
#define OSYNC_ROW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "osync/table.h"

#ifdef __cplusplus
extern "C" {
#endif

/* OpenMLDB's type::DataType, by its numbers. */
typedef enum osync_type {
    OSYNC_TYPE_BOOL = 1,      /* i64: 0 or 1 */
    OSYNC_TYPE_SMALLINT = 2,  /* i64: 16 bits */
    OSYNC_TYPE_INT = 3,       /* i64: 32 bits */
    OSYNC_TYPE_BIGINT = 4,    /* i64 */
    OSYNC_TYPE_FLOAT = 5,     /* f64: a float's value */
    OSYNC_TYPE_DOUBLE = 6,    /* f64 */
    OSYNC_TYPE_DATE = 7,      /* i64: year << 16 | month << 8 | day, with year since 1900 and month from 0 */
    OSYNC_TYPE_TIMESTAMP = 8, /* i64: milliseconds since 1970-01-01 00:00:00 UTC */
    OSYNC_TYPE_VARCHAR = 13,  /* text */
    OSYNC_TYPE_STRING = 14,   /* text */
} osync_type_t;

typedef struct osync_cell {
    bool null; /* also of a column that was added after the row was written */
    union {
        int64_t i64;
        double f64;
        struct {
            const char *data; /* not terminated; may hold any byte */
            size_t len;
        } text;
    } as;
} osync_cell_t;

/* Database and name; "" if the description has none. Valid as long as the table. */
OSYNC_API const char *osync_table_db(const osync_table_t *table);
OSYNC_API const char *osync_table_name(const osync_table_t *table);
OSYNC_API uint32_t osync_table_tid(const osync_table_t *table);

/* Number of columns: the base columns, then the added ones, which is the order of the CSV. */
OSYNC_API size_t osync_table_columns(const osync_table_t *table);
/* Name of column i, valid as long as the table; NULL if there is no such column. */
OSYNC_API const char *osync_table_column_name(const osync_table_t *table, size_t i);
/* Its type; 0 if there is no such column. */
OSYNC_API osync_type_t osync_table_column_type(const osync_table_t *table, size_t i);

/* Takes one encoded row (decompressed: osync_reader_row_t's value) apart into cells[0 .. n-1], one a column. n must be
 * osync_table_columns, else OSYNC_EINVAL. The cells are valid as long as `row`; on failure they are left alone.
 * OSYNC_ECORRUPT; OSYNC_ESCHEMA (its schema version isn't in the table's description). Allocates nothing. */
OSYNC_API int osync_row_cells(osync_cell_t *cells, size_t n, const osync_table_t *table, const void *row, size_t len,
                              osync_error_t *err);

#ifdef __cplusplus
}
#endif
#endif
