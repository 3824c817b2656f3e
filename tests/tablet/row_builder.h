/* OpenMLDB's row encoder and index keys, for the test TabletServer only: libosync itself just reads rows. */
#ifndef TABLET_ROW_BUILDER_H
#define TABLET_ROW_BUILDER_H

#include <jansson.h>

#include "base/buf.h"
#include "common.pb-c.h"
#include "osync/error.h"

typedef struct cell {
    bool null;
    int64_t i; /* BOOL to BIGINT, DATE (packed), TIMESTAMP */
    double d;
    const char *str;
    size_t len;
    char *owned; /* what str points into, if it is the cell's own */
} cell_t;

/* Appends one encoded row. */
int row_build(Openmldb__Common__ColumnDesc *const *columns, size_t n, int version, const cell_t *cells,
              osync__buf_t *out, osync_error_t *err);

/* Fills n cells from a JSON object; they borrow from it. cells_free is due in any case. */
int cells_from_json(Openmldb__Common__ColumnDesc *const *columns, size_t n, json_t *row, cell_t *cells,
                    osync_error_t *err);
void cells_free(cell_t *cells, size_t n);

/* Appends one column's part of an index key. */
int key_append(const Openmldb__Common__ColumnDesc *column, const cell_t *cell, osync__buf_t *out, osync_error_t *err);
/* Which partition a key belongs to. */
uint32_t key_partition(const void *key, size_t len, uint32_t partitions);

#endif
