/* What table descriptions and the row codec promise: each row of the golden tables decodes to what was written, and
 * bytes that aren't a row are refused and never read beyond their end (the sanitizers watch). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <snappy-c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "format/row.h"
#include "golden_rows.h"
#include "row_builder.h"

enum {
    BOOL = OPENMLDB__TYPE__DATA_TYPE__kBool,
    SMALLINT = OPENMLDB__TYPE__DATA_TYPE__kSmallInt,
    INT = OPENMLDB__TYPE__DATA_TYPE__kInt,
    BIGINT = OPENMLDB__TYPE__DATA_TYPE__kBigInt,
    FLOAT = OPENMLDB__TYPE__DATA_TYPE__kFloat,
    DOUBLE = OPENMLDB__TYPE__DATA_TYPE__kDouble,
    DATE = OPENMLDB__TYPE__DATA_TYPE__kDate,
    TIMESTAMP = OPENMLDB__TYPE__DATA_TYPE__kTimestamp,
    VARCHAR = OPENMLDB__TYPE__DATA_TYPE__kVarchar,
    STRING = OPENMLDB__TYPE__DATA_TYPE__kString
};

/* --- golden tables --- */

static double number_of(const json_t *v) {
    if (!json_is_string(v)) return json_number_value(v);
    const char *s = json_string_value(v);
    return strcmp(s, "NaN") == 0 ? (double)NAN : *s == '-' ? -(double)INFINITY : (double)INFINITY;
}

static void check_value(const osync__row_t *row, const osync__column_t *column, size_t i, const json_t *want) {
    size_t len = 0, want_len = 0;
    int y = 0, m = 0, d = 0;
    if (!want || json_is_null(want)) {
        assert_true(osync__row_is_null(row, i));
        return;
    }
    assert_false(osync__row_is_null(row, i));
    double number = number_of(want);
    switch (column->type) {
    case BOOL:
        assert_int_equal(osync__row_int(row, i, BOOL), json_is_true(want));
        break;
    case FLOAT:
        assert_true(isnan(number) ? isnan(osync__row_float(row, i)) : osync__row_float(row, i) == (float)number);
        break;
    case DOUBLE:
        assert_true(isnan(number) ? isnan(osync__row_double(row, i)) : osync__row_double(row, i) == number);
        break;
    case DATE:
        assert_int_equal(sscanf(json_string_value(want), "%d-%d-%d", &y, &m, &d), 3);
        assert_int_equal(osync__row_int(row, i, DATE), (y - 1900) << 16 | (m - 1) << 8 | d);
        break;
    case VARCHAR:
    case STRING: {
        const uint8_t *s = osync__row_string(row, i, &len);
        if (json_is_object(want)) {
            uint8_t *bytes = bytes_of_hex(json_string_value(json_object_get(want, "hex")), &want_len);
            assert_int_equal(len, want_len);
            assert_memory_equal(s, bytes, len);
            free(bytes);
        } else {
            assert_int_equal(len, json_string_length(want));
            assert_memory_equal(s, json_string_value(want), len);
        }
        break;
    }
    default:
        assert_true(json_is_integer(want));
        assert_true(osync__row_int(row, i, column->type) == json_integer_value(want));
    }
}

static void check_golden_row(const osync_table_t *table, const uint8_t *value, size_t len, const json_t *entry,
                             void *arg) {
    osync_error_t err = {0};
    osync__row_t row = {0};
    size_t size = 0, i = 0;
    json_t *dim = NULL;
    unsigned *widths = arg;
    assert_int_equal(osync__row_size(value, len, &size, &err), 0);
    assert_int_equal(size, len);
    if (osync__row_open(&row, table, value, len, &err)) fail_msg("%s: %s", table->name, err.message);
    widths[row.address_size]++;
    const json_t *want = json_object_get(entry, "row");
    assert_true(json_object_size(want) > 0);
    for (size_t c = 0; c < table->n_columns; c++)
        check_value(&row, &table->columns[c], c, json_object_get(want, table->columns[c].name));
    json_array_foreach(json_object_get(entry, "dims"), i, dim) {
        if (json_integer_value(json_object_get(dim, "idx")) != 0) continue;
        uint64_t ts = 0;
        uint64_t put_time = (uint64_t)json_integer_value(json_object_get(entry, "put_time"));
        assert_int_equal(osync__row_base_ts(table, value, len, put_time, &ts, &err), 0);
        assert_true(ts == (uint64_t)json_integer_value(json_object_get(dim, "ts")));
    }
}

static void golden_rows_decode(void **state) {
    (void)state;
    unsigned widths[5] = {0};
    assert_true(each_golden_row(check_golden_row, widths) > 500);
    assert_true(widths[1] > 0 && widths[2] > 0 && widths[3] > 0);
}

static void golden_tables_are_understood(void **state) {
    (void)state;
    osync_table_t *t = load_case("case1_simple");
    assert_int_equal(t->tid, 1);
    assert_string_equal(t->db, "db1");
    assert_int_equal(t->n_columns, 12);
    assert_string_equal(t->base_cf, "idx0");
    assert_string_equal(t->ts_name, "ts");
    assert_int_equal(t->ts_column, 11);
    assert_false(t->multi_ts || t->snappy);
    osync_table_free(t);

    t = load_case("case2a_inner_each_own_ts");
    assert_false(t->multi_ts);
    osync_table_free(t);

    t = load_case("case2b_inner_many_ts");
    assert_true(t->multi_ts);
    assert_int_equal(t->ts_col_id, 3);
    osync_table_free(t);

    t = load_case("case2h_first_index_is_second_ts");
    assert_true(t->multi_ts);
    assert_int_equal(t->ts_col_id, 4);
    osync_table_free(t);

    t = load_case("case2d_no_ts_col");
    assert_int_equal(t->ts_column, OSYNC__AUTO_TS);
    assert_true(t->ts_col_id == OSYNC__AUTO_TS_COL_ID);
    assert_string_equal(t->ts_name, "");
    osync_table_free(t);

    t = load_case("case2g_absorlat");
    assert_int_equal(t->ttl.type, OPENMLDB__TYPE__TTLTYPE__kAbsOrLat);
    assert_true(t->ttl.lat == 2 && t->ttl.abs_ms > UINT64_C(20) * 364 * 86400000);
    osync_table_free(t);

    t = load_case("case8_row_snappy");
    assert_true(t->snappy);
    osync_table_free(t);

    t = load_case("case9_added_columns");
    assert_int_equal(t->n_base_columns, 12);
    assert_int_equal(t->n_columns, 14);
    assert_int_equal(t->layouts[1].n_columns, 12);
    assert_int_equal(t->layouts[2].n_columns, 13);
    assert_int_equal(t->layouts[3].n_columns, 14);
    assert_int_equal(t->layouts[4].n_columns, 0);
    osync_table_free(t);

    char folder[1024]; /* both messages tell the same */
    (void)snprintf(folder, sizeof folder, "%s/case10_partitions", golden());
    t = load_table(folder, "table_info.pb");
    osync_table_t *meta = load_table(folder, "table_meta.pb");
    assert_int_equal(t->tid, meta->tid);
    assert_int_equal(t->n_columns, meta->n_columns);
    assert_string_equal(t->base_cf, meta->base_cf);
    assert_int_equal(t->ts_column, meta->ts_column);
    osync_table_free(meta);
    osync_table_free(t);
}

/* --- hostile rows --- */

/* Reads everything there is in an opened row. */
static uint64_t read_all(const osync_table_t *table, const osync__row_t *row) {
    uint64_t sum = 0;
    for (size_t i = 0; i < table->n_columns; i++) {
        size_t len = 0;
        int type = table->columns[i].type;
        if (osync__row_is_null(row, i)) continue;
        if (type == STRING || type == VARCHAR) {
            const uint8_t *s = osync__row_string(row, i, &len);
            for (size_t k = 0; k < len; k++) sum += s[k];
        } else {
            sum += (uint64_t)osync__row_int(row, i, type);
        }
    }
    return sum;
}

static void open_hostile(const osync_table_t *table, const uint8_t *data, size_t len, size_t *opened) {
    osync_error_t err = {0};
    osync__row_t row = {0};
    uint8_t *copy = malloc(len ? len : 1);
    assert_non_null(copy);
    memcpy(copy, data, len);
    int rc = osync__row_open(&row, table, copy, len, &err);
    if (rc) {
        assert_true(rc == OSYNC_ECORRUPT || rc == OSYNC_ESCHEMA);
        assert_int_equal(err.code, rc);
        assert_true(err.message[0]);
    } else {
        (*opened)++;
        (void)read_all(table, &row);
    }
    free(copy);
}

static void break_row(const osync_table_t *table, const uint8_t *value, size_t len, const json_t *entry, void *arg) {
    size_t *opened = arg;
    (void)entry;
    if (len > 160) return; /* enough of them are short */
    uint8_t *copy = malloc(len);
    assert_non_null(copy);
    for (size_t n = 0; n < len; n++) { /* cut off, as it is and with a size field that agrees */
        size_t before = *opened;
        open_hostile(table, value, n, opened);
        assert_int_equal(*opened, before);
        memcpy(copy, value, len);
        if (n >= 6) osync__put_u32le(copy + 2, (uint32_t)n);
        open_hostile(table, copy, n, opened);
    }
    static const uint8_t flips[] = {0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff};
    for (size_t i = 0; i < len; i++)
        for (size_t f = 0; f < sizeof flips; f++) {
            memcpy(copy, value, len);
            copy[i] ^= flips[f];
            open_hostile(table, copy, len, opened);
        }
    free(copy);
}

static void broken_rows_are_refused(void **state) {
    (void)state;
    size_t opened = 0;
    assert_true(each_golden_row(break_row, &opened) > 500);
    assert_true(opened > 0); /* a flipped digit is still a row */
}

static void each_check_says_what_is_wrong(void **state) {
    (void)state;
    static const int types[] = {INT, STRING, STRING};
    const row_value_t values[] = {{.bits = 7}, {.text = "ab", .text_len = 2}, {.text = "cde", .text_len = 3}};
    osync_table_t *table = NULL;
    osync_error_t err = {0};
    osync__row_t row = {0};
    size_t len = 0;
    assert_int_equal(row_table(&table, types, 3, 0, &err), 0);
    uint8_t *good = row_build(types, values, 3, 1, &len);
    uint8_t bad[64];
    assert_true(len < sizeof bad);
    assert_int_equal(osync__row_open(&row, table, good, len, &err), 0);
    const size_t addresses = 6 + 1 + 4;
    const struct {
        size_t at;
        uint8_t value;
        int code;
        const char *text;
    } cases[] = {
        {0, 2, OSYNC_ECORRUPT, "format version 2"},
        {1, 9, OSYNC_ESCHEMA, "schema version 9"},
        {2, (uint8_t)(len + 1), OSYNC_ECORRUPT, "size field"},
        {2, (uint8_t)(len - 1), OSYNC_ECORRUPT, "size field"},
        {2, 6, OSYNC_ECORRUPT, "size field"},
        {addresses, (uint8_t)(addresses + 1), OSYNC_ECORRUPT, "column c01"}, /* into the address table */
        {addresses, (uint8_t)(len - 2), OSYNC_ECORRUPT, "column c01"},       /* behind the next one */
        {addresses + 1, (uint8_t)(len + 1), OSYNC_ECORRUPT, "column c01"},   /* beyond the end */
        {addresses + 1, (uint8_t)(addresses), OSYNC_ECORRUPT, "column c01"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        memcpy(bad, good, len);
        bad[cases[i].at] = cases[i].value;
        assert_int_equal(osync__row_open(&row, table, bad, len, &err), cases[i].code);
        if (!strstr(err.message, cases[i].text)) fail_msg("case %zu: %s", i, err.message);
    }
    /* The address of a NULL string may be anything. */
    memcpy(bad, good, len);
    bad[6] = 1u << 2;
    bad[addresses + 1] = (uint8_t)len;
    assert_int_equal(osync__row_open(&row, table, bad, len, &err), 0);
    bad[6] = 1u << 1;
    bad[addresses] = 0xff;
    bad[addresses + 1] = (uint8_t)(len - 3);
    assert_int_equal(osync__row_open(&row, table, bad, len, &err), 0);
    size_t text_len = 0;
    assert_memory_equal(osync__row_string(&row, 2, &text_len), "cde", 3);
    assert_int_equal(text_len, 3);
    free(good);
    osync_table_free(table);
}

static void addresses_of_every_width(void **state) {
    (void)state;
    static const int types[] = {STRING, BIGINT, VARCHAR, STRING};
    static const size_t totals[] = {100, 255, 261, 65535, 65541, 0xffffff, 0x1000006, 0x1000100};
    static const unsigned widths[] = {1, 1, 2, 2, 3, 3, 4, 4};
    osync_table_t *table = NULL;
    osync_error_t err = {0};
    assert_int_equal(row_table(&table, types, 4, 0, &err), 0);
    for (size_t i = 0; i < sizeof totals / sizeof totals[0]; i++) {
        size_t middle = totals[i] - (6 + 1 + 8 + 3 * widths[i]) - 5, len = 0, n = 0;
        char *text = malloc(middle);
        assert_non_null(text);
        memset(text, 'm', middle);
        const row_value_t values[] = {{.text = "ab", .text_len = 2},
                                      {.bits = 5},
                                      {.text = text, .text_len = middle},
                                      {.text = "xyz", .text_len = 3}};
        osync__row_t row = {0};
        uint8_t *data = row_build(types, values, 4, 1, &len);
        assert_int_equal(len, totals[i]);
        assert_int_equal(osync__row_open(&row, table, data, len, &err), 0);
        assert_int_equal(row.address_size, widths[i]);
        assert_memory_equal(osync__row_string(&row, 0, &n), "ab", 2);
        assert_int_equal(n, 2);
        const uint8_t *s = osync__row_string(&row, 2, &n);
        assert_int_equal(n, middle);
        assert_memory_equal(s, text, middle);
        assert_memory_equal(osync__row_string(&row, 3, &n), "xyz", 3);
        assert_int_equal(n, 3);
        free(data);
        free(text);
    }
    osync_table_free(table);
}

static void ts_column_must_make_sense(void **state) {
    (void)state;
    osync_table_t *t = load_case("case2h_first_index_is_second_ts");
    int types[ROW_MAX_COLUMNS];
    row_value_t values[ROW_MAX_COLUMNS] = {{0}};
    osync_error_t err = {0};
    uint64_t ts = 0;
    size_t len = 0;
    assert_true(t->n_columns <= ROW_MAX_COLUMNS);
    for (size_t i = 0; i < t->n_columns; i++) {
        types[i] = t->columns[i].type;
        values[i].null = true;
    }
    for (int k = 0; k < 3; k++) {
        values[t->ts_column].null = k == 0;
        values[t->ts_column].bits = k == 1 ? UINT64_MAX : 77;
        uint8_t *row = row_build(types, values, t->n_columns, 1, &len);
        int rc = osync__row_base_ts(t, row, len, 1, &ts, &err);
        assert_int_equal(rc, k < 2 ? OSYNC_ECORRUPT : 0);
        if (k == 0) assert_non_null(strstr(err.message, "NULL"));
        if (k == 1) assert_non_null(strstr(err.message, "negative"));
        if (k == 2) assert_true(ts == 77);
        free(row);
    }
    osync_table_free(t);
}

static void snappy_values(void **state) {
    (void)state;
    static const int types[] = {STRING};
    char raw[1000], packed[2000];
    size_t packed_len = sizeof packed, out_len = 0;
    const uint8_t *out = NULL;
    osync_table_t *table = NULL;
    osync_error_t err = {0};
    osync__buf_t scratch = {0};
    memset(raw, 'r', sizeof raw);
    assert_int_equal(row_table(&table, types, 1, 0, &err), 0);
    assert_int_equal(osync__row_uncompress(table, raw, sizeof raw, 10, &scratch, &out, &out_len, &err), 0);
    assert_ptr_equal(out, raw); /* a table that isn't compressed */
    assert_int_equal(out_len, sizeof raw);

    table->snappy = true;
    assert_int_equal(snappy_compress(raw, sizeof raw, packed, &packed_len), SNAPPY_OK);
    for (int again = 0; again < 2; again++) {
        assert_int_equal(osync__row_uncompress(table, packed, packed_len, sizeof raw, &scratch, &out, &out_len, &err),
                         0);
        assert_int_equal(out_len, sizeof raw);
        assert_memory_equal(out, raw, sizeof raw);
    }
    assert_int_equal(osync__row_uncompress(table, packed, packed_len, sizeof raw - 1, &scratch, &out, &out_len, &err),
                     OSYNC_ETOOBIG);
    for (size_t n = 0; n < packed_len; n++) {
        uint8_t *cut = malloc(n ? n : 1);
        assert_non_null(cut);
        memcpy(cut, packed, n);
        assert_int_equal(osync__row_uncompress(table, cut, n, sizeof raw, &scratch, &out, &out_len, &err),
                         OSYNC_ECORRUPT);
        free(cut);
    }
    static const uint8_t huge[] = {0xff, 0xff, 0xff, 0xff, 0x0f, 0}; /* says it has 4 GiB */
    assert_int_equal(osync__row_uncompress(table, huge, sizeof huge, 1 << 20, &scratch, &out, &out_len, &err),
                     OSYNC_ETOOBIG);
    osync__buf_free(&scratch);
    osync_table_free(table);
}

/* --- descriptions --- */

static void ttl_rules(void **state) {
    (void)state;
    enum { ABS = 1, REL, LAT, AND, OR };
    static const struct {
        int type;
        uint64_t abs_ms, lat, now, ts, k;
        bool expired;
    } cases[] = {
        {ABS, 100, 0, 1000, 900, 1, true},  {ABS, 100, 0, 1000, 901, 1, false},   {ABS, 0, 0, 1000, 0, 1, false},
        {ABS, 100, 1, 1000, 950, 9, false}, {REL, 100, 0, 1000, 900, 1, true},    {ABS, 2000, 0, 1000, 0, 1, false},
        {ABS, 1000, 0, 1000, 0, 1, false},  {ABS, UINT64_MAX, 0, 5, 0, 1, false}, {LAT, 100, 2, 1000, 0, 2, false},
        {LAT, 0, 2, 1000, 5000, 3, true},   {LAT, 0, 0, 1000, 0, 99, false},      {LAT, 0, 2, 1000, 0, 0, false},
        {AND, 100, 2, 1000, 900, 3, true},  {AND, 100, 2, 1000, 900, 2, false},   {AND, 100, 2, 1000, 901, 3, false},
        {AND, 0, 2, 1000, 0, 3, false},     {AND, 100, 0, 1000, 0, 3, false},     {AND, 100, 2, 1000, 900, 0, false},
        {OR, 100, 2, 1000, 900, 1, true},   {OR, 100, 2, 1000, 901, 3, true},     {OR, 100, 2, 1000, 901, 2, false},
        {OR, 0, 2, 1000, 0, 3, true},       {OR, 100, 0, 1000, 900, 99, true},    {OR, 0, 0, 1000, 0, 99, false},
        {OR, 100, 2, 1000, 900, 0, true},   {OR, 100, 2, 1000, 901, 0, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        osync__ttl_t ttl = {.type = cases[i].type, .abs_ms = cases[i].abs_ms, .lat = cases[i].lat};
        if (osync__ttl_expired(&ttl, cases[i].now, cases[i].ts, cases[i].k) != cases[i].expired)
            fail_msg("TTL case %zu", i);
    }
}

typedef struct description {
    Openmldb__Nameserver__TableInfo info;
    Openmldb__Common__ColumnDesc columns[3], *column_pointers[3];
    Openmldb__Common__ColumnKey keys[2], *key_pointers[2];
    Openmldb__Common__TTLSt ttl;
    Openmldb__Common__VersionPair pairs[8], *pair_pointers[8];
    char names[6][8];
    char *key_columns[2][2];
} description_t;

static char *set_name(description_t *d, size_t i, const char *name) {
    (void)snprintf(d->names[i], sizeof d->names[i], "%s", name);
    return d->names[i];
}

/* Table t: k STRING, ts TIMESTAMP, and v INT added later; one index "by_k" over k and ts. */
static void describe(description_t *d) {
    static const int types[] = {STRING, TIMESTAMP, INT};
    static const char *const names[] = {"k", "ts", "v"};
    memset(d, 0, sizeof *d);
    d->info = (Openmldb__Nameserver__TableInfo)OPENMLDB__NAMESERVER__TABLE_INFO__INIT;
    for (size_t i = 0; i < 3; i++) {
        d->columns[i] = (Openmldb__Common__ColumnDesc)OPENMLDB__COMMON__COLUMN_DESC__INIT;
        d->columns[i].name = set_name(d, i, names[i]);
        d->columns[i].has_data_type = 1;
        d->columns[i].data_type = (Openmldb__Type__DataType)types[i];
        d->column_pointers[i] = &d->columns[i];
    }
    d->info.name = set_name(d, 3, "t");
    d->info.n_column_desc = 2;
    d->info.column_desc = d->column_pointers;
    d->info.n_added_column_desc = 1;
    d->info.added_column_desc = d->column_pointers + 2;
    for (size_t i = 0; i < 2; i++) {
        d->keys[i] = (Openmldb__Common__ColumnKey)OPENMLDB__COMMON__COLUMN_KEY__INIT;
        d->keys[i].index_name = set_name(d, 4 + i, i ? "other" : "by_k");
        d->keys[i].ts_name = d->names[1];
        d->key_columns[i][0] = d->names[0];
        d->key_columns[i][1] = d->names[2];
        d->keys[i].n_col_name = 1;
        d->keys[i].col_name = d->key_columns[i];
        d->key_pointers[i] = &d->keys[i];
    }
    d->info.n_column_key = 1;
    d->info.column_key = d->key_pointers;
    d->ttl = (Openmldb__Common__TTLSt)OPENMLDB__COMMON__TTLST__INIT;
    for (size_t i = 0; i < 8; i++) {
        d->pairs[i] = (Openmldb__Common__VersionPair)OPENMLDB__COMMON__VERSION_PAIR__INIT;
        d->pairs[i].has_id = d->pairs[i].has_field_count = 1;
        d->pair_pointers[i] = &d->pairs[i];
    }
    d->info.schema_versions = d->pair_pointers;
}

static osync_table_t *accept(description_t *d) {
    osync_table_t *table = NULL;
    osync_error_t err = {0};
    if (osync__table_from_info(&table, &d->info, &err)) fail_msg("%s", err.message);
    return table;
}

static void refuse(description_t *d, int code, const char *text) {
    osync_table_t *table = NULL;
    osync_error_t err = {0};
    assert_int_equal(osync__table_from_info(&table, &d->info, &err), code);
    assert_null(table);
    if (!strstr(err.message, text)) fail_msg("\"%s\" doesn't say \"%s\"", err.message, text);
}

static void descriptions_are_checked(void **state) {
    (void)state;
    description_t d;
    describe(&d);
    osync_table_free(accept(&d));
    d.columns[2].data_type = OPENMLDB__TYPE__DATA_TYPE__kArray;
    refuse(&d, OSYNC_ENOTSUP, "column v");
    d.columns[2].data_type = OPENMLDB__TYPE__DATA_TYPE__kMap;
    refuse(&d, OSYNC_ENOTSUP, "column v");
    d.columns[2].data_type = (Openmldb__Type__DataType)99;
    refuse(&d, OSYNC_ENOTSUP, "type 99");
    d.columns[2].has_data_type = 0;
    refuse(&d, OSYNC_EINVAL, "column v");
    Openmldb__Common__TableColumnSchema schema = OPENMLDB__COMMON__TABLE_COLUMN_SCHEMA__INIT;
    schema.has_type = 1;
    schema.type = OPENMLDB__TYPE__DATA_TYPE__kDouble;
    d.columns[2].schema = &schema; /* the newer place of the type */
    osync_table_t *table = accept(&d);
    assert_int_equal(table->columns[2].type, DOUBLE);
    osync_table_free(table);

    describe(&d);
    d.columns[1].data_type = OPENMLDB__TYPE__DATA_TYPE__kInt;
    refuse(&d, OSYNC_EINVAL, "ts column ts");
    describe(&d);
    (void)set_name(&d, 1, "other");
    d.keys[0].ts_name = d.names[3];
    refuse(&d, OSYNC_EINVAL, "ts column t");
    describe(&d);
    d.info.n_column_desc = 0;
    refuse(&d, OSYNC_EINVAL, "no columns");
    describe(&d);
    (void)set_name(&d, 4, "default");
    refuse(&d, OSYNC_EINVAL, "index 0");
    (void)set_name(&d, 4, "");
    refuse(&d, OSYNC_EINVAL, "index 0");
    describe(&d);
    d.info.compress_type = (Openmldb__Type__CompressType)7;
    refuse(&d, OSYNC_ENOTSUP, "compression type 7");
    describe(&d);
    d.keys[0].ttl = &d.ttl;
    d.ttl.ttl_type = (Openmldb__Type__TTLType)9;
    refuse(&d, OSYNC_ENOTSUP, "TTL type 9");
    d.ttl.ttl_type = OPENMLDB__TYPE__TTLTYPE__kAbsAndLat;
    d.ttl.abs_ttl = UINT64_MAX;
    d.ttl.lat_ttl = 3;
    table = accept(&d);
    assert_true(table->ttl.abs_ms == UINT64_MAX && table->ttl.lat == 3);
    osync_table_free(table);

    osync_error_t err = {0};
    assert_int_equal(osync_table_from_info(&table, "\xff\xff\xff", 3, &err), OSYNC_ECORRUPT);
    assert_int_equal(osync_table_from_meta(&table, "\xff\xff\xff", 3, &err), OSYNC_ECORRUPT);
    osync_table_free(NULL);
}

static void indexes_are_grouped(void **state) {
    (void)state;
    description_t d;
    describe(&d);
    d.info.n_column_key = 0;
    osync_table_t *table = accept(&d);
    assert_string_equal(table->base_cf, "idx0");
    assert_int_equal(table->ts_column, OSYNC__AUTO_TS);
    assert_false(table->multi_ts);
    osync_table_free(table);

    describe(&d);
    d.info.n_column_key = 2; /* the same column */
    d.keys[1].flag = 1;      /* deleted, and counts nevertheless */
    table = accept(&d);
    assert_string_equal(table->base_cf, "by_k");
    assert_true(table->multi_ts);
    assert_int_equal(table->n_siblings, 1);
    assert_string_equal(table->siblings[0], "other");
    assert_int_equal(table->ts_col_id, 1);
    osync_table_free(table);

    d.keys[1].n_col_name = 2; /* k|v| is another group */
    table = accept(&d);
    assert_false(table->multi_ts);
    osync_table_free(table);

    d.keys[0].n_col_name = 2;
    table = accept(&d);
    assert_true(table->multi_ts);
    osync_table_free(table);

    d.key_columns[0][0] = d.names[2]; /* the order of the columns matters */
    d.key_columns[0][1] = d.names[0];
    table = accept(&d);
    assert_false(table->multi_ts);
    osync_table_free(table);

    d.keys[0].n_col_name = d.keys[1].n_col_name = 0; /* the names of the indexes, then */
    table = accept(&d);
    assert_false(table->multi_ts);
    osync_table_free(table);
}

static void schema_versions_are_checked(void **state) {
    (void)state;
    static const int32_t pairs[][2] = {{1, 3}, {2, 3}, {3, 1}, {4, 4}, {0, 3}, {256, 3}, {-1, 3}, {255, 2}};
    description_t d;
    describe(&d);
    d.info.n_schema_versions = 8;
    for (size_t i = 0; i < 8; i++) {
        d.pairs[i].id = pairs[i][0];
        d.pairs[i].field_count = pairs[i][1];
    }
    osync_table_t *table = accept(&d);
    for (size_t v = 0; v <= OSYNC__MAX_VERSION; v++)
        assert_int_equal(table->layouts[v].n_columns, v == 1 || v == 255 ? 2 : v == 2 ? 3 : 0);
    osync_table_free(table);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_rows_decode),
        cmocka_unit_test(golden_tables_are_understood),
        cmocka_unit_test(broken_rows_are_refused),
        cmocka_unit_test(each_check_says_what_is_wrong),
        cmocka_unit_test(addresses_of_every_width),
        cmocka_unit_test(ts_column_must_make_sense),
        cmocka_unit_test(snappy_values),
        cmocka_unit_test(ttl_rules),
        cmocka_unit_test(descriptions_are_checked),
        cmocka_unit_test(indexes_are_grouped),
        cmocka_unit_test(schema_versions_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
