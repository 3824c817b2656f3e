/* The columns of a table and the cells of a row, for programs that want values and not CSV. */
#include <assert.h>

#include "base/error.h"
#include "format/row.h"
#include "format/table.h"
#include "osync/row.h"

#define SAME(ours, theirs)                                                                                             \
    static_assert((int)OSYNC_TYPE_##ours == (int)OPENMLDB__TYPE__DATA_TYPE__##theirs, "OpenMLDB's number")
SAME(BOOL, kBool);
SAME(SMALLINT, kSmallInt);
SAME(INT, kInt);
SAME(BIGINT, kBigInt);
SAME(FLOAT, kFloat);
SAME(DOUBLE, kDouble);
SAME(DATE, kDate);
SAME(TIMESTAMP, kTimestamp);
SAME(VARCHAR, kVarchar);
SAME(STRING, kString);
#undef SAME

const char *osync_table_db(const osync_table_t *table) {
    return table->db;
}

const char *osync_table_name(const osync_table_t *table) {
    return table->name;
}

uint32_t osync_table_tid(const osync_table_t *table) {
    return table->tid;
}

size_t osync_table_columns(const osync_table_t *table) {
    return table->n_columns;
}

const char *osync_table_column_name(const osync_table_t *table, size_t i) {
    return i < table->n_columns ? table->columns[i].name : NULL;
}

osync_type_t osync_table_column_type(const osync_table_t *table, size_t i) {
    return i < table->n_columns ? (osync_type_t)table->columns[i].type : (osync_type_t)0;
}

static osync_cell_t get_cell(const osync_table_t *table, const osync__row_t *row, size_t i) {
    osync_cell_t cell = {0};
    int type = table->columns[i].type;
    if (osync__row_is_null(row, i)) {
        cell.null = true;
        return cell;
    }
    switch (type) {
    case OSYNC_TYPE_VARCHAR:
    case OSYNC_TYPE_STRING:
        cell.as.text.data = (const char *)osync__row_string(row, i, &cell.as.text.len);
        break;
    case OSYNC_TYPE_FLOAT:
        cell.as.f64 = (double)osync__row_float(row, i);
        break;
    case OSYNC_TYPE_DOUBLE:
        cell.as.f64 = osync__row_double(row, i);
        break;
    default:
        cell.as.i64 = osync__row_int(row, i, type);
    }
    return cell;
}

int osync_row_cells(osync_cell_t *cells, size_t n, const osync_table_t *table, const void *data, size_t len,
                    osync_error_t *err) {
    osync__row_t row = {0};
    if (n != table->n_columns)
        return osync__err(err, OSYNC_EINVAL, "table %s.%s has %zu columns, but there is room for the cells of %zu",
                          table->db, table->name, table->n_columns, n);
    int rc = osync__row_open(&row, table, data, len, err);
    for (size_t i = 0; !rc && i < n; i++) cells[i] = get_cell(table, &row, i);
    return rc;
}
