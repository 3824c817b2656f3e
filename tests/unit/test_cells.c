/* What osync/row.h promises, by the public headers alone: each golden row gives the values that were written, the same
 * that its line of CSV shows; what isn't a row is refused as the CSV encoder refuses it, and is never read beyond its
 * end (the sanitizers watch). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <math.h>
#include <time.h>

#include "golden_rows.h"
#include "osync/csv.h"
#include "osync/row.h"
#include "row_builder.h"

static osync_cell_t *new_cells(size_t n) {
    osync_cell_t *cells = malloc(n * sizeof *cells);
    assert_non_null(cells);
    memset(cells, 0xa5, n * sizeof *cells); /* whatever was there before */
    return cells;
}

static osync_csv_t *new_csv(const osync_table_t *table) {
    osync_csv_config_t config;
    osync_csv_t *csv = NULL;
    osync_error_t err = {0};
    osync_csv_config_init(&config, sizeof config);
    config.timezone = "UTC";
    if (osync_csv_new(&csv, table, &config, &err)) fail_msg("%s", err.message);
    return csv;
}

/* --- values --- */

static bool is_text(osync_type_t type) {
    return type == OSYNC_TYPE_VARCHAR || type == OSYNC_TYPE_STRING;
}

static bool same_number(double a, double b) {
    return (isnan(a) && isnan(b)) || (a == b && signbit(a) == signbit(b));
}

/* jansson takes -0 for 0. */
static bool is_number(double a, const json_t *v, bool is_float) {
    double b = json_is_string(v) ? strtod(json_string_value(v), NULL) : json_number_value(v); /* "NaN", "-Infinity" */
    if (is_float) b = (double)(float)b;
    return a == b || (isnan(a) && isnan(b));
}

/* Against the value that was put. */
static void check_written(const osync_cell_t *cell, osync_type_t type, const json_t *want) {
    int y = 0, m = 0, d = 0;
    if (!want || json_is_null(want)) {
        assert_true(cell->null);
        return;
    }
    assert_false(cell->null);
    if (json_is_object(want)) {
        size_t len = 0;
        uint8_t *bytes = bytes_of_hex(json_string_value(json_object_get(want, "hex")), &len);
        assert_true(is_text(type));
        assert_int_equal(cell->as.text.len, len);
        assert_memory_equal(cell->as.text.data, bytes, len);
        free(bytes);
    } else if (is_text(type)) {
        assert_int_equal(cell->as.text.len, json_string_length(want));
        assert_memory_equal(cell->as.text.data, json_string_value(want), cell->as.text.len);
    } else if (type == OSYNC_TYPE_FLOAT || type == OSYNC_TYPE_DOUBLE) {
        assert_true(is_number(cell->as.f64, want, type == OSYNC_TYPE_FLOAT));
    } else if (type == OSYNC_TYPE_DATE) {
        assert_int_equal(sscanf(json_string_value(want), "%d-%d-%d", &y, &m, &d), 3);
        assert_true(cell->as.i64 == ((y - 1900) << 16 | (m - 1) << 8 | d));
    } else if (type == OSYNC_TYPE_BOOL) {
        assert_true(cell->as.i64 == json_is_true(want));
    } else {
        assert_true(json_is_integer(want));
        assert_true(cell->as.i64 == json_integer_value(want));
    }
}

/* --- CSV --- */

/* The end of the field at p: the comma or the newline behind it. */
static char *field_end(char *p) {
    bool in_string = false;
    for (; in_string || (*p != ',' && *p != '\n'); p++) {
        if (*p == '\\')
            p++;
        else if (*p == '"')
            in_string = !in_string;
    }
    return p;
}

static bool same_time(const osync_cell_t *cell, const char *field) {
    char text[64];
    struct tm tm = {0};
    time_t s = cell->as.i64 / 1000;
    assert_non_null(gmtime_r(&s, &tm));
    assert_int_equal(strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &tm), 19);
    double fraction = strtod(field + 19, NULL);
    return strncmp(text, field, 19) == 0 && (int64_t)(fraction * 1000 + 0.5) == cell->as.i64 % 1000;
}

/* Against the field of the row's line. */
static void check_shown(const osync_cell_t *cell, osync_type_t type, const char *field) {
    const int64_t year_9999 = INT64_C(253370764800000);
    char text[64] = "";
    if (cell->null) {
        assert_string_equal(field, "null");
        return;
    }
    switch (type) {
    case OSYNC_TYPE_VARCHAR:
    case OSYNC_TYPE_STRING: {
        json_t *bytes = json_stringn(cell->as.text.data, cell->as.text.len); /* NULL: it isn't UTF-8 */
        json_t *shown = json_loads(field, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        assert_non_null(shown);
        assert_true(bytes ? json_equal(bytes, shown) : strstr(field, "\\uFFFD") != NULL);
        json_decref(bytes);
        json_decref(shown);
        return;
    }
    case OSYNC_TYPE_BOOL:
        assert_string_equal(field, cell->as.i64 ? "true" : "false");
        return;
    case OSYNC_TYPE_FLOAT:
        assert_true(same_number(cell->as.f64, (double)strtof(field, NULL)));
        return;
    case OSYNC_TYPE_DOUBLE:
        assert_true(same_number(cell->as.f64, strtod(field, NULL)));
        return;
    case OSYNC_TYPE_DATE:
        (void)snprintf(text, sizeof text, "%04d-%02d-%02d", 1900 + (int)(cell->as.i64 >> 16),
                       1 + (int)(cell->as.i64 >> 8 & 0xff), (int)(cell->as.i64 & 0xff));
        assert_string_equal(field, text);
        return;
    case OSYNC_TYPE_TIMESTAMP:
        if (cell->as.i64 >= 0 && cell->as.i64 < year_9999) assert_true(same_time(cell, field));
        return;
    default:
        (void)snprintf(text, sizeof text, "%" PRId64, cell->as.i64);
        assert_string_equal(field, text);
    }
}

static void check_line(const osync_table_t *table, const osync_cell_t *cells, const uint8_t *value, size_t len) {
    osync_error_t err = {0};
    osync_csv_t *csv = new_csv(table);
    if (osync_csv_add(csv, value, len, &err)) fail_msg("%s", err.message);
    size_t line_len = 0, n = osync_table_columns(table);
    const char *line = osync_csv_data(csv, &line_len);
    char *copy = strndup(line, line_len), *p = copy;
    assert_non_null(copy);
    for (size_t i = 0; i < n; i++) {
        char *end = field_end(p);
        assert_int_equal(*end, i + 1 < n ? ',' : '\n');
        *end = 0;
        check_shown(&cells[i], osync_table_column_type(table, i), p);
        p = end + 1;
    }
    assert_ptr_equal(p, copy + line_len);
    free(copy);
    osync_csv_free(csv);
}

static void check_row(const osync_table_t *table, const uint8_t *value, size_t len, const json_t *entry, void *arg) {
    size_t n = osync_table_columns(table), *seen = arg;
    osync_error_t err = {0};
    osync_cell_t *cells = new_cells(n);
    if (osync_row_cells(cells, n, table, value, len, &err)) fail_msg("%s", err.message);
    for (size_t i = 0; i < n; i++) {
        osync_type_t type = osync_table_column_type(table, i);
        assert_true(type < 16);
        check_written(&cells[i], type,
                      json_object_get(json_object_get(entry, "row"), osync_table_column_name(table, i)));
        seen[type] += !cells[i].null;
        seen[0] += cells[i].null;
        if (cells[i].null || !is_text(type)) continue;
        const uint8_t *text = (const uint8_t *)cells[i].as.text.data; /* in the row, not a copy */
        assert_true(text >= value && text + cells[i].as.text.len <= value + len);
    }
    check_line(table, cells, value, len);
    free(cells);
}

static void golden_rows_give_what_was_written(void **state) {
    (void)state;
    size_t seen[16] = {0};
    assert_true(each_golden_row(check_row, seen) > 500);
    static const osync_type_t types[] = {OSYNC_TYPE_BOOL,    OSYNC_TYPE_SMALLINT, OSYNC_TYPE_INT,  OSYNC_TYPE_BIGINT,
                                         OSYNC_TYPE_FLOAT,   OSYNC_TYPE_DOUBLE,   OSYNC_TYPE_DATE, OSYNC_TYPE_TIMESTAMP,
                                         OSYNC_TYPE_VARCHAR, OSYNC_TYPE_STRING};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) assert_true(seen[types[i]] > 0);
    assert_true(seen[0] > 0);
}

static void extremes(void **state) {
    (void)state;
    static const int types[] = {OSYNC_TYPE_BOOL,   OSYNC_TYPE_SMALLINT, OSYNC_TYPE_INT,  OSYNC_TYPE_BIGINT,
                                OSYNC_TYPE_DOUBLE, OSYNC_TYPE_FLOAT,    OSYNC_TYPE_DATE, OSYNC_TYPE_TIMESTAMP};
    enum { N = sizeof types / sizeof types[0] };
    const uint64_t low[N] = {2, 0x8000, 0x80000000, UINT64_C(1) << 63, UINT64_C(1) << 63, 1u << 31, 101, UINT64_MAX};
    const int64_t want[N] = {1, INT16_MIN, INT32_MIN, INT64_MIN, 0, 0, 101, -1};
    row_value_t values[N] = {{0}};
    osync_table_t *table = NULL;
    osync_error_t err = {0};
    osync_cell_t cells[N];
    size_t len = 0;
    for (size_t i = 0; i < N; i++) values[i].bits = low[i];
    assert_int_equal(row_table(&table, types, N, 0, &err), 0);
    uint8_t *row = row_build(types, values, N, 1, &len);
    assert_int_equal(osync_row_cells(cells, N, table, row, len, &err), 0);
    for (size_t i = 0; i < N; i++) {
        assert_false(cells[i].null);
        if (types[i] == OSYNC_TYPE_DOUBLE || types[i] == OSYNC_TYPE_FLOAT)
            assert_true(same_number(cells[i].as.f64, -0.0));
        else
            assert_true(cells[i].as.i64 == want[i]);
    }
    free(row);
    osync_table_free(table);
}

/* --- descriptions --- */

static void columns_in_their_order(void **state) {
    (void)state;
    osync_table_t *t = load_case("case9_added_columns");
    assert_string_equal(osync_table_db(t), "db1");
    assert_true(*osync_table_name(t));
    assert_int_equal(osync_table_tid(t), 9);
    size_t n = osync_table_columns(t);
    assert_int_equal(n, 14);
    for (size_t i = 0; i < n; i++) assert_true(*osync_table_column_name(t, i));
    assert_null(osync_table_column_name(t, n));
    assert_null(osync_table_column_name(t, SIZE_MAX));
    assert_int_equal(osync_table_column_type(t, n), 0);
    assert_int_equal(osync_table_column_type(t, SIZE_MAX), 0);
    osync_table_free(t);
}

static void columns_that_the_row_does_not_have(void **state) {
    (void)state;
    static const int types[] = {OSYNC_TYPE_INT, OSYNC_TYPE_STRING, OSYNC_TYPE_BIGINT, OSYNC_TYPE_STRING};
    const row_value_t values[] = {{.bits = 7}, {.text = "", .text_len = 0}, {.bits = 9}, {.text = "z", .text_len = 1}};
    osync_table_t *table = NULL;
    osync_error_t err = {0};
    size_t len = 0;
    assert_int_equal(row_table(&table, types, 4, 2, &err), 0);
    for (uint8_t version = 1; version <= 3; version++) {
        osync_cell_t *cells = new_cells(4);
        uint8_t *row = row_build(types, values, version + 1u, version, &len);
        assert_int_equal(osync_row_cells(cells, 4, table, row, len, &err), 0);
        assert_true(!cells[0].null && cells[0].as.i64 == 7);
        assert_true(!cells[1].null && cells[1].as.text.len == 0); /* empty isn't NULL */
        assert_int_equal(cells[2].null, version < 2);
        assert_int_equal(cells[3].null, version < 3);
        free(row);
        free(cells);
    }
    osync_table_free(table);
}

static void room_for_another_table(void **state) {
    (void)state;
    static const int types[] = {OSYNC_TYPE_INT, OSYNC_TYPE_INT};
    const row_value_t values[] = {{.bits = 7}, {.bits = 8}};
    osync_table_t *table = NULL;
    osync_error_t err = {0};
    osync_cell_t cells[3];
    size_t len = 0;
    assert_int_equal(row_table(&table, types, 2, 0, &err), 0);
    uint8_t *row = row_build(types, values, 2, 1, &len);
    assert_int_equal(osync_row_cells(cells, 3, table, row, len, &err), OSYNC_EINVAL);
    assert_non_null(strstr(err.message, "t1 has 2 columns"));
    assert_int_equal(osync_row_cells(cells, 1, table, row, len, NULL), OSYNC_EINVAL);
    assert_int_equal(osync_row_cells(NULL, 0, table, row, len, &err), OSYNC_EINVAL);
    free(row);
    osync_table_free(table);
}

/* --- hostile rows --- */

static uint64_t read_all(const osync_table_t *table, const osync_cell_t *cells) {
    uint64_t sum = 0;
    for (size_t i = 0; i < osync_table_columns(table); i++) {
        if (cells[i].null) continue;
        if (!is_text(osync_table_column_type(table, i)))
            sum += (uint64_t)cells[i].as.i64;
        else
            for (size_t k = 0; k < cells[i].as.text.len; k++) sum += (unsigned char)cells[i].as.text.data[k];
    }
    return sum;
}

typedef struct hostile {
    size_t taken, refused;
} hostile_t;

/* An error, the same as the encoder's, or cells that can be read; then the encoder takes it too. */
static void try_row(hostile_t *h, osync_csv_t *csv, const osync_table_t *table, const uint8_t *data, size_t len) {
    osync_error_t err = {0};
    size_t n = osync_table_columns(table);
    osync_cell_t *cells = new_cells(n), *before = new_cells(n);
    uint8_t *copy = malloc(len ? len : 1);
    assert_non_null(copy);
    memcpy(copy, data, len);
    int rc = osync_row_cells(cells, n, table, copy, len, &err);
    assert_int_equal(osync_csv_add(csv, copy, len, NULL), rc);
    osync_csv_reset(csv);
    if (rc) {
        assert_true(rc == OSYNC_ECORRUPT || rc == OSYNC_ESCHEMA);
        assert_int_equal(err.code, rc);
        assert_true(err.message[0]);
        assert_memory_equal(cells, before, n * sizeof *cells);
        h->refused++;
    } else {
        (void)read_all(table, cells);
        h->taken++;
    }
    free(copy);
    free(before);
    free(cells);
}

static void break_row(const osync_table_t *table, const uint8_t *value, size_t len, const json_t *entry, void *arg) {
    (void)entry;
    if (len > 120) return; /* enough of them are short */
    osync_csv_t *csv = new_csv(table);
    uint8_t *copy = malloc(len);
    assert_non_null(copy);
    for (size_t n = 0; n < len; n++) { /* cut off, as it is and with a size field that agrees */
        memcpy(copy, value, len);
        try_row(arg, csv, table, copy, n);
        if (n >= 6) osync__put_u32le(copy + 2, (uint32_t)n);
        try_row(arg, csv, table, copy, n);
    }
    for (size_t i = 0; i < len; i++) {
        memcpy(copy, value, len);
        for (unsigned bit = 1; bit < 0x100; bit <<= 3) {
            copy[i] = (uint8_t)(value[i] ^ bit);
            try_row(arg, csv, table, copy, len);
        }
    }
    free(copy);
    osync_csv_free(csv);
}

static void broken_rows_are_refused(void **state) {
    (void)state;
    hostile_t h = {0};
    assert_true(each_golden_row(break_row, &h) > 500);
    assert_true(h.taken > 0 && h.refused > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_rows_give_what_was_written),
        cmocka_unit_test(extremes),
        cmocka_unit_test(columns_in_their_order),
        cmocka_unit_test(columns_that_the_row_does_not_have),
        cmocka_unit_test(room_for_another_table),
        cmocka_unit_test(broken_rows_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
