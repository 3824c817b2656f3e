/* What the CSV encoder promises: byte for byte what OpenMLDB's SyncTool (on JDK 17) wrote for the same rows, in any
 * time zone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "format/row.h"
#include "format/timezone.h"
#include "osync/csv.h"
#include "row_builder.h"

enum {
    BOOL = OPENMLDB__TYPE__DATA_TYPE__kBool,
    INT = OPENMLDB__TYPE__DATA_TYPE__kInt,
    BIGINT = OPENMLDB__TYPE__DATA_TYPE__kBigInt,
    FLOAT = OPENMLDB__TYPE__DATA_TYPE__kFloat,
    DOUBLE = OPENMLDB__TYPE__DATA_TYPE__kDouble,
    DATE = OPENMLDB__TYPE__DATA_TYPE__kDate,
    TIMESTAMP = OPENMLDB__TYPE__DATA_TYPE__kTimestamp,
    STRING = OPENMLDB__TYPE__DATA_TYPE__kString
};

static osync__buf_t read_all(const char *path) {
    osync__buf_t b = {0};
    osync_error_t err = {0};
    if (osync__read_file(path, 1 << 20, &b, &err)) fail_msg("%s", err.message);
    return b;
}

static osync_table_t *captured_table(void) {
    osync_table_t *table = NULL;
    osync_error_t err = {0};
    osync__buf_t b = read_all("fixtures/synctool/tables/10_t_all.pb");
    if (osync_table_from_info(&table, b.data, b.len, &err)) fail_msg("%s", err.message);
    osync__buf_free(&b);
    return table;
}

static osync_csv_t *new_csv(const osync_table_t *table, const char *zone) {
    osync_csv_config_t config;
    osync_csv_t *csv = NULL;
    osync_error_t err = {0};
    osync_csv_config_init(&config, sizeof config);
    config.timezone = zone;
    if (osync_csv_new(&csv, table, &config, &err)) fail_msg("%s", err.message);
    return csv;
}

/* --- captures --- */

static void check_capture(const osync_table_t *table, const char *name, const char *zone, size_t most_rows) {
    char path[256];
    osync_error_t err = {0};
    osync_csv_t *csv = new_csv(table, zone);
    (void)snprintf(path, sizeof path, "fixtures/synctool/%s.att.bin", name);
    osync__buf_t rows = read_all(path);
    (void)snprintf(path, sizeof path, "fixtures/synctool/%s.csv", name);
    osync__buf_t want = read_all(path);
    size_t n = 0;
    for (size_t at = 0, size = 0; at < rows.len && n < most_rows; at += size, n++) {
        assert_int_equal(osync__row_size(rows.data + at, rows.len - at, &size, &err), 0);
        if (osync_csv_add(csv, rows.data + at, size, &err)) fail_msg("%s: row %zu: %s", name, n, err.message);
    }
    size_t len = 0, line = 1, begin = 0;
    const char *got = osync_csv_data(csv, &len);
    for (size_t i = 0; i < len && i < want.len; i++) {
        if (got[i] != (char)want.data[i])
            fail_msg("%s line %zu is %.*s, not %.*s", name, line, (int)strcspn(got + begin, "\n"), got + begin,
                     (int)strcspn((char *)want.data + begin, "\n"), (char *)want.data + begin);
        if (got[i] == '\n') {
            line++;
            begin = i + 1;
        }
    }
    assert_int_equal(len, want.len);
    assert_true(n > 0);
    osync__buf_free(&rows);
    osync__buf_free(&want);
    osync_csv_free(csv);
}

static void as_synctool_wrote_it(void **state) {
    (void)state;
    static const char *const parts[] = {"basic", "dates", "timestamps", "dst"};
    osync_table_t *table = captured_table();
    check_capture(table, "senddata/01_basic", "UTC", SIZE_MAX);
    check_capture(table, "senddata/02_strings", "UTC", SIZE_MAX);
    check_capture(table, "senddata/03_badutf8", "UTC", SIZE_MAX);
    check_capture(table, "senddata/04_numbers", "UTC", SIZE_MAX);
    check_capture(table, "senddata/05_dates", "UTC", SIZE_MAX);
    check_capture(table, "senddata/06_timestamps", "UTC", SIZE_MAX);
    check_capture(table, "senddata/15_count_too_small", "UTC", 1); /* its count said one row */
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        char name[128];
        (void)snprintf(name, sizeof name, "senddata_tz_Asia_Shanghai/%s", parts[i]);
        check_capture(table, name, "Asia/Shanghai", SIZE_MAX);
        (void)snprintf(name, sizeof name, "senddata_tz_America_New_York/%s", parts[i]);
        check_capture(table, name, "America/New_York", SIZE_MAX);
    }
    osync_table_free(table);
}

/* --- single values --- */

/* The text of one value of a table with one column, without the line's end. */
static char *text_of(const char *zone, int type, row_value_t value) {
    osync_table_t *table = NULL;
    osync_error_t err = {0};
    size_t row_len = 0, len = 0;
    assert_int_equal(row_table(&table, &type, 1, 0, &err), 0);
    osync_csv_t *csv = new_csv(table, zone);
    uint8_t *row = row_build(&type, &value, 1, 1, &row_len);
    if (osync_csv_add(csv, row, row_len, &err)) fail_msg("%s", err.message);
    const char *data = osync_csv_data(csv, &len);
    assert_true(len > 0 && data[len - 1] == '\n');
    char *out = strndup(data, len - 1);
    assert_non_null(out);
    free(row);
    osync_csv_free(csv);
    osync_table_free(table);
    return out;
}

static void check_bits(const char *zone, int type, uint64_t bits, const char *want) {
    char *got = text_of(zone, type, (row_value_t){.bits = bits});
    assert_string_equal(got, want);
    free(got);
}

static void check_double(double v, const char *want) {
    uint64_t bits = 0;
    memcpy(&bits, &v, sizeof bits);
    check_bits("UTC", DOUBLE, bits, want);
}

static void check_float(float v, const char *want) {
    uint32_t bits = 0;
    memcpy(&bits, &v, sizeof bits);
    check_bits("UTC", FLOAT, bits, want);
}

static void floats_as_java_prints_them(void **state) { /* each checked with JDK 17 */
    (void)state;
    check_double(1e23, "9.999999999999999E22");
    check_double(8.41e21, "8.409999999999999E21"); /* 8.41e21 is half way between two doubles */
    check_double(2e23, "1.9999999999999998E23");
    check_double(4.9406564584124654e-324, "4.9E-324");
    check_double(9.8813129168249309e-324, "1.0E-323");
    check_double(1e-322, "1.0E-322");
    check_double(2.2250738585072014e-308, "2.2250738585072014E-308");
    check_double(1.7976931348623157e308, "1.7976931348623157E308");
    check_double(9007199254740993.0, "9.007199254740992E15");
    check_double(123456789.125, "1.23456789125E8");
    check_double(-0.001, "-0.001");
    check_double(0.00099999999999999, "9.9999999999999E-4");
    check_double(9999999.999, "9999999.999");
    check_double(1e-5, "1.0E-5");
    check_double(5e-11, "5.0E-11");
    check_double(2.3851136372966235e25, "2.3851136372966234E25"); /* Java's arithmetic overflows */
    check_double(1e-70, "1.0E-70");
    check_double(0.1 + 0.7, "0.7999999999999999");
    check_float(1.17549435e-38f, "1.17549435E-38");
    check_float(3.3e10f, "3.29999995E10");
    check_float(9.949e-44f, "1.0E-43");
    check_float(9.809e-45f, "9.8E-45");
    check_float(4.4012345e25f, "4.4012344E25");
    check_float(16777216.0f, "1.6777216E7");
    check_float(0.3f, "0.3");
    check_float(-1e-10f, "-1.0E-10");
}

static void integers(void **state) {
    (void)state;
    check_bits("UTC", BIGINT, (uint64_t)INT64_MIN, "-9223372036854775808");
    check_bits("UTC", BIGINT, INT64_MAX, "9223372036854775807");
    uint64_t v = 1;
    for (int digits = 1; digits <= 18; digits++, v *= 10) { /* around each power of ten */
        char want[32];
        for (int d = -1; d <= 1; d++) {
            (void)snprintf(want, sizeof want, "%lld", (long long)v + d);
            check_bits("UTC", BIGINT, v + (uint64_t)(int64_t)d, want);
            (void)snprintf(want, sizeof want, "%lld", -((long long)v + d));
            check_bits("UTC", BIGINT, 0 - (v + (uint64_t)(int64_t)d), want);
        }
    }
    check_bits("UTC", INT, 0x80000000u, "-2147483648");
    check_bits("UTC", BOOL, 1, "true");
    check_bits("UTC", BOOL, 2, "true");
    check_bits("UTC", BOOL, 0, "false");
    char *got = text_of("UTC", INT, (row_value_t){.null = true});
    assert_string_equal(got, "null");
    free(got);
}

static void strings(void **state) {
    (void)state;
#define FFFD "\\uFFFD"
    static const struct {
        const char *bytes, *want;
        size_t len;
    } cases[] = {
#define CASE(bytes, want) {bytes, want, sizeof(bytes) - 1}
        CASE("", ""),
        CASE("plain, text; with 'quotes' and \x7f", "plain, text; with 'quotes' and \x7f"),
        CASE("\"\\/\b\t\n\f\r", "\\\"\\\\\\/\\b\\t\\n\\f\\r"),
        CASE("\0\x01\x0b\x0e\x1f", "\\u0000\\u0001\\u000B\\u000E\\u001F"),
        CASE("\xc2\x80\xc3\xa9\xe4\xb8\xad\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf",
             "\\u0080\\u00E9\\u4E2D\\uFFFF\\uD800\\uDC00\\uDBFF\\uDFFF"),
        CASE("\x80"
             "a\xbf",
             FFFD "a" FFFD),
        CASE("\xc0\xaf\xc1\xbf", FFFD FFFD FFFD FFFD), /* longer than needed */
        CASE("\xe0\x9f\xbf\xf0\x8f\xbf\xbf", FFFD FFFD FFFD FFFD FFFD FFFD FFFD),
        CASE("\xf4\x90\x80\x80\xf5\x80\xff", FFFD FFFD FFFD FFFD FFFD FFFD FFFD),          /* beyond U+10FFFF */
        CASE("\xed\xa0\x80z\xed\xbf\xbf", FFFD "z" FFFD),                                  /* surrogates */
        CASE("\xe4\xb8z\xf0\x9f\x98z\xf0\x9fz\xc3z", FFFD "z" FFFD "z" FFFD "z" FFFD "z"), /* cut off */
        CASE("\xf0\x9f\x98", FFFD),
        CASE("\xed\xa0", FFFD),
        CASE("\xc3", FFFD),
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *got = text_of("UTC", STRING, (row_value_t){.text = cases[i].bytes, .text_len = cases[i].len});
        size_t len = strlen(got);
        assert_true(len >= 2 && got[0] == '"' && got[len - 1] == '"');
        got[len - 1] = 0;
        if (strcmp(got + 1, cases[i].want) != 0) fail_msg("string %zu is %s, not %s", i, got + 1, cases[i].want);
        free(got);
    }
}

/* Long strings are looked at eight bytes at a time: what a byte becomes doesn't depend on where it is. */
static void every_byte_at_every_place(void **state) {
    (void)state;
    for (unsigned byte = 0; byte < 256; byte++) {
        char alone = (char)byte;
        char *one = text_of("UTC", STRING, (row_value_t){.text = &alone, .text_len = 1});
        one[strlen(one) - 1] = 0;
        for (int place = 0; place < 20; place++) {
            char text[20], want[64];
            memset(text, 'x', sizeof text);
            text[place] = alone;
            (void)snprintf(want, sizeof want, "\"%.*s%s%.*s\"", place, "xxxxxxxxxxxxxxxxxxxx", one + 1, 19 - place,
                           "xxxxxxxxxxxxxxxxxxxx");
            char *got = text_of("UTC", STRING, (row_value_t){.text = text, .text_len = sizeof text});
            assert_string_equal(got, want);
            free(got);
        }
        free(one);
    }
}

static void added_columns_are_null_in_older_rows(void **state) {
    (void)state;
    static const int types[] = {INT, STRING, BIGINT, STRING};
    const row_value_t values[] = {{.bits = 1}, {.text = "a", .text_len = 1}, {.bits = 3}, {.text = "d", .text_len = 1}};
    osync_table_t *table = NULL;
    osync_error_t err = {0};
    size_t len = 0;
    assert_int_equal(row_table(&table, types, 4, 2, &err), 0);
    osync_csv_t *csv = new_csv(table, "UTC");
    for (size_t n = 2; n <= 4; n++) {
        uint8_t *row = row_build(types, values, n, (uint8_t)(n - 1), &len);
        assert_int_equal(osync_csv_add(csv, row, len, &err), 0);
        free(row);
    }
    /* A row that isn't one leaves the text alone. */
    uint8_t *row = row_build(types, values, 4, 9, &len);
    assert_int_equal(osync_csv_add(csv, row, len, &err), OSYNC_ESCHEMA);
    assert_int_equal(osync_csv_add(csv, row, len - 1, &err), OSYNC_ECORRUPT);
    assert_int_equal(osync_csv_add(csv, row, 0, &err), OSYNC_ECORRUPT);
    free(row);
    osync__buf_t bad = read_all("fixtures/synctool/senddata/16_err_row_size_field.att.bin");
    assert_int_equal(osync_csv_add(csv, bad.data, bad.len, &err), OSYNC_ECORRUPT);
    osync__buf_free(&bad);
    static const char want[] = "1,\"a\",null,null\n1,\"a\",3,null\n1,\"a\",3,\"d\"\n";
    const char *data = osync_csv_data(csv, &len);
    assert_int_equal(len, sizeof want - 1);
    assert_memory_equal(data, want, len);
    osync_csv_reset(csv);
    (void)osync_csv_data(csv, &len);
    assert_int_equal(len, 0);
    osync_csv_free(csv);
    osync_csv_free(NULL);
    osync_table_free(table);
}

/* --- time zones --- */

static uint64_t ms_of(int64_t seconds) {
    return (uint64_t)(seconds * 1000);
}

static void zones_by_transitions_and_by_rule(void **state) {
    (void)state;
    check_bits("Europe/Berlin", TIMESTAMP, ms_of(1679792399), "2023-03-26 01:59:59.0");
    check_bits("Europe/Berlin", TIMESTAMP, ms_of(1679792400), "2023-03-26 03:00:00.0");
    /* far behind the last transition that a file could have */
    check_bits("Europe/Berlin", TIMESTAMP, ms_of(5375638800), "2140-05-07 03:00:00.0");
    check_bits("Europe/Berlin", TIMESTAMP, ms_of(5365270800 - 1), "2140-01-08 01:59:59.0");
    check_bits("Australia/Sydney", TIMESTAMP, ms_of(5365270800), "2140-01-08 12:00:00.0");
    check_bits("Australia/Sydney", TIMESTAMP, ms_of(5375638800), "2140-05-07 11:00:00.0");
    check_bits("Asia/Kolkata", TIMESTAMP, ms_of(1700000000), "2023-11-15 03:43:20.0");
    /* before 1900 Java has today's standard time */
    check_bits("Europe/Berlin", TIMESTAMP, ms_of(-2208988801), "1900-01-01 00:59:59.0");
    check_bits("Europe/Dublin", TIMESTAMP, ms_of(-2208988801), "1899-12-31 23:59:59.0");
}

static void unknown_zones_are_refused(void **state) {
    (void)state;
    static const char *const names[] = {"Mars/Olympus", "",         "/etc/localtime", "../zoneinfo/UTC",
                                        "Europe",       "zone.tab", "Europe/Berlin "};
    osync_table_t *table = captured_table();
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        osync_csv_config_t config;
        osync_csv_t *csv = NULL;
        osync_error_t err = {0};
        osync_csv_config_init(&config, sizeof config);
        config.timezone = names[i];
        assert_int_equal(osync_csv_new(&csv, table, &config, &err), OSYNC_ECONFIG);
        assert_null(csv);
        if (!strstr(err.message, names[i])) fail_msg("\"%s\" doesn't name \"%s\"", err.message, names[i]);
    }
    osync_table_free(table);
}

static void check_tz(const char *tz, int64_t t, int32_t offset) {
    osync__timezone_t *zone = NULL;
    osync_error_t err = {0};
    assert_int_equal(setenv("TZ", tz, 1), 0);
    if (osync__timezone_load(&zone, NULL, &err)) fail_msg("%s", err.message);
    osync__tz_span_t span = osync__timezone_at(zone, t);
    assert_int_equal(span.offset, offset);
    assert_true(span.from <= t && t < span.until);
    osync__timezone_free(zone);
}

static void machines_zone(void **state) {
    (void)state;
    const int64_t january = 1704067200, july = 1719792000; /* 2024 */
    osync__timezone_t *zone = NULL;
    osync_error_t err = {0};
    check_tz("Asia/Shanghai", july, 8 * 3600);
    check_tz(":America/New_York", july, -4 * 3600);
    check_tz("/usr/share/zoneinfo/America/New_York", january, -5 * 3600);
    check_tz("UTC", july, 0);
    check_tz("", july, 0);
    check_tz("CST-8", july, 8 * 3600);
    check_tz("EST5EDT,M3.2.0,M11.1.0", july, -4 * 3600);
    check_tz("EST5EDT,M3.2.0,M11.1.0", january, -5 * 3600);
    check_tz("<+1030>-10:30<+11>-11,M10.1.0,M4.1.0", january, 11 * 3600);
    check_tz("<-02>2<-01>,M3.5.0/-1,M10.5.0/0", july, -3600);
    check_tz("XXX3EDT4,0/0,J365/23", january + 12345, -4 * 3600); /* summer all the year */
    /* March 1st with and without a leap day before it: J60 is always March 1st, 60 only in a leap year */
    check_tz("AAA0BBB,J60/0,J300", 1709251200, 3600); /* 2024-03-01 */
    check_tz("AAA0BBB,J60/0,J300", 1709251200 - 1, 0);
    check_tz("AAA0BBB,59/0,J300", 1709164800, 3600); /* 2024-02-29 */
    check_tz("AAA0BBB,59/0,J300", 1709164800 - 1, 0);
    static const char *const bad[] = {"Nowhere/Town", "ABC5DEF",      "EST5EDT,M3.2.0", "EST5EDT,M13.1.0,M11.1.0",
                                      "EST25x",       "/no/such/file"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(setenv("TZ", bad[i], 1), 0);
        assert_int_equal(osync__timezone_load(&zone, NULL, &err), OSYNC_ECONFIG);
        if (!strstr(err.message, bad[i])) fail_msg("\"%s\" doesn't name \"%s\"", err.message, bad[i]);
    }
    /* Another machine can be told a name, but neither a rule nor a file. */
    static const struct {
        const char *tz, *name;
    } names[] = {{"Asia/Shanghai", "Asia/Shanghai"},
                 {":Europe/Dublin", "Europe/Dublin"},
                 {"UTC", "UTC"},
                 {"", "UTC"},
                 {"CST-8", NULL},
                 {"/usr/share/zoneinfo/Asia/Shanghai", NULL},
                 {"Nowhere/Town", NULL},
                 {"../zoneinfo/UTC", NULL}};
    char name[64];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        assert_int_equal(setenv("TZ", names[i].tz, 1), 0);
        assert_int_equal(osync__timezone_name(name, sizeof name), names[i].name ? 0 : OSYNC_ENOENT);
        if (names[i].name) assert_string_equal(name, names[i].name);
    }
    assert_int_equal(setenv("TZ", "Asia/Shanghai", 1), 0);
    assert_int_equal(osync__timezone_name(name, 4), OSYNC_ENOENT);
    assert_int_equal(unsetenv("TZ"), 0);
    assert_int_equal(osync__timezone_load(&zone, NULL, &err), 0);
    osync__timezone_free(zone);
}

/* A span must say the same as each second in it, and end where the offset changes. */
static void spans_meet(void **state) {
    (void)state;
    static const char *const names[] = {"Europe/Berlin", "Australia/Lord_Howe", "Africa/Casablanca",
                                        "America/Sao_Paulo", "Europe/Dublin"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        osync__timezone_t *zone = NULL;
        osync_error_t err = {0};
        if (osync__timezone_load(&zone, names[i], &err)) fail_msg("%s", err.message);
        size_t n = 0;
        osync__tz_span_t before = osync__timezone_at(zone, INT64_MIN);
        while (before.until < INT64_C(7258118400) && n < 2000) { /* 2200 */
            osync__tz_span_t next = osync__timezone_at(zone, before.until);
            assert_true(next.from == before.until && next.until > next.from);
            osync__tz_span_t last = osync__timezone_at(zone, next.until - 1);
            assert_true(last.from == next.from && last.until == next.until && last.offset == next.offset);
            before = next;
            n++;
        }
        assert_true(n > 10 && n < 2000);
        osync__timezone_free(zone);
    }
}

static void broken_zone_files_are_refused(void **state) {
    (void)state;
    char path[] = "/tmp/osync_test_zone_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    osync__buf_t good = read_all("/usr/share/zoneinfo/Europe/Berlin");
    assert_int_equal(setenv("TZ", path, 1), 0);
    for (size_t i = 0; i < 2 * good.len; i++) {
        osync__timezone_t *zone = NULL;
        osync_error_t err = {0};
        size_t len = i < good.len ? i : good.len;
        if (i >= good.len) good.data[i - good.len] ^= 0xff;
        assert_int_equal(pwrite(fd, good.data, len, 0), (ssize_t)len);
        assert_int_equal(ftruncate(fd, (off_t)len), 0);
        if (i >= good.len) good.data[i - good.len] ^= 0xff;
        int rc = osync__timezone_load(&zone, NULL, &err);
        if (i < good.len) assert_int_equal(rc, OSYNC_ECONFIG);
        if (rc)
            assert_non_null(strstr(err.message, path));
        else
            for (int64_t t = -3000000000; t < 6000000000; t += 200000000) (void)osync__timezone_at(zone, t);
        osync__timezone_free(zone);
    }
    assert_int_equal(unsetenv("TZ"), 0);
    osync__buf_free(&good);
    (void)close(fd);
    (void)unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_synctool_wrote_it),
        cmocka_unit_test(floats_as_java_prints_them),
        cmocka_unit_test(integers),
        cmocka_unit_test(strings),
        cmocka_unit_test(every_byte_at_every_place),
        cmocka_unit_test(added_columns_are_null_in_older_rows),
        cmocka_unit_test(zones_by_transitions_and_by_rule),
        cmocka_unit_test(unknown_zones_are_refused),
        cmocka_unit_test(machines_zone),
        cmocka_unit_test(spans_meet),
        cmocka_unit_test(broken_zone_files_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
