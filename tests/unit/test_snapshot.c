/* MANIFEST, the order and form of keys, and checkpoints as OpenMLDB's own storage code wrote them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/sys.h"
#include "format/row.h"
#include "format/snapshot.h"

/* ---- MANIFEST ---- */

static int parse(const char *text, osync__manifest_t *m, osync_error_t *err) {
    *err = (osync_error_t){0};
    return osync__manifest_parse(text, strlen(text), m, err);
}

static void manifest_good(void **state) {
    (void)state;
    osync__manifest_t m;
    osync_error_t err;
    static const char *const texts[] = {
        "offset: 1000\nname: \"202304111600\"\ncount: 12\nterm: 3\n",
        "term:3 count:12 name:'202304111600' offset:1000",
        "# made by hand\r\n\r\nname :  \"2023\" '04' # in two lines\n  \"111600\"\n offset:0x3E8, count: 014; term: 3",
        "name: \"\\062\\x3023\\060411\\x31\\66\\x30\\60\" offset: 1000 term: 3 count: 12",
        "later { a: 1 b < c: \"}\" > d: [1, -2.5e+3, inf] }\noffset: 1000 x: -1 y: [kA, kB] z: \"\\n\" u: 1.5f name: "
        "\"202304111600\""
        "term: 3 count: 12",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        if (parse(texts[i], &m, &err)) fail_msg("%s: %s", texts[i], err.message);
        assert_int_equal(m.offset, 1000);
        assert_int_equal(m.count, 12);
        assert_int_equal(m.term, 3);
        assert_string_equal(m.name, "202304111600");
    }
    assert_int_equal(parse("name: \"a\" offset: 18446744073709551615", &m, &err), 0);
    assert_true(m.offset == UINT64_MAX);
    assert_int_equal(m.count, 0);
}

static void manifest_bad(void **state) {
    (void)state;
    osync__manifest_t m;
    osync_error_t err;
    static const char *const texts[][2] = {
        {"", "no name"},
        {"offset: 1", "no name"},
        {"name: \"\"", "no name"},
        {"name: \".\"", "plain file name"},
        {"name: \"..\"", "plain file name"},
        {"name: \"../x\"", "plain file name"},
        {"name: \"a/b\"", "plain file name"},
        {"name: \"a\\057b\"", "plain file name"},
        {"name: \"a\\x2fb\"", "plain file name"},
        {"name: \"a\\0b\"", "plain file name"},
        {"name: \"a\\nb\"", "plain file name"},
        {"name: \"\xff\"", "plain file name"},
        {"name: \"a", "doesn't end"},
        {"name: \"a\nb\"", "doesn't end"},
        {"name: \"a\\", "doesn't end"},
        {"name: \"a\\q\"", "escape"},
        {"name: \"\\777\"", "escape"},
        {"name: \"\\x\"", "escape"},
        {"name: a", "string"},
        {"name \"a\"", "':'"},
        {"name: \"a\" name: \"b\"", "twice"},
        {"offset: 1 offset: 1", "twice"},
        {"offset: -1", "value was expected"},
        {"offset: 12a", "number"},
        {"offset: 09", "number"},
        {"offset: 18446744073709551616", "too large"},
        {"offset: 0x10000000000000000", "too large"},
        {"offset: \"1\"", "value was expected"},
        {"offset:", "value was expected"},
        {"name: \"a\"\n\n}", "line 3"},
        {"x { y: 1", "no end"},
        {"x: }", "isn't open"},
        {"x 1", "':'"},
        {"x: @", "no place"},
        {"{{{{", "expected"},
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        if (parse(texts[i][0], &m, &err) != OSYNC_ECORRUPT) fail_msg("accepted: %s", texts[i][0]);
        if (!strstr(err.message, texts[i][1]))
            fail_msg("%s: \"%s\" isn't in: %s", texts[i][0], texts[i][1], err.message);
    }
    char text[512];
    (void)snprintf(text, sizeof text, "name: \"%0255d\"", 1);
    assert_int_equal(parse(text, &m, &err), 0);
    assert_int_equal(strlen(m.name), 255);
    (void)snprintf(text, sizeof text, "name: \"%0256d\"", 1);
    assert_int_equal(parse(text, &m, &err), OSYNC_ECORRUPT);
    (void)snprintf(text, sizeof text, "x: %0*d", 100, 0);
    memset(text + 3, '[', 100);
    assert_int_equal(parse(text, &m, &err), OSYNC_ECORRUPT);
    assert_non_null(strstr(err.message, "nested"));
    /* Every prefix, without a byte behind it, and every byte changed: parsed or refused, and never a name that leaves
     * the folder. */
    static const char whole[] = "offset: 0x10 name: \"2\\x30\\062\" '3' # c\n x { a: [1] } count: 3 term: 4";
    for (size_t n = 0; n < sizeof whole; n++) {
        char *copy = malloc(n ? n : 1);
        assert_non_null(copy);
        memcpy(copy, whole, n);
        (void)osync__manifest_parse(copy, n, &m, NULL);
        for (int c = 0; n > 0 && c < 256; c++) {
            copy[n - 1] = (char)c;
            if (osync__manifest_parse(copy, n, &m, NULL) == 0)
                assert_true(m.name[0] && !strchr(m.name, '/') && strcmp(m.name, "..") != 0);
        }
        free(copy);
    }
}

/* ---- keys ---- */

static const uint64_t STAMP = 1681200000123;

static void key_form(void **state) {
    (void)state;
    static const uint8_t wanted[3][16] = {
        {0x6b, 0x65, 0x79, 0x31, 0x7b, 0x2c, 0x54, 0x6f, 0x87, 0x01},
        {0x6b, 0x65, 0x79, 0x31, 0x02, 0x00, 0x00, 0x00, 0x7b, 0x2c, 0x54, 0x6f, 0x87, 0x01},
        {0x6b, 0x65, 0x79, 0x31, 0xff, 0xff, 0xff, 0xff, 0x7b, 0x2c, 0x54, 0x6f, 0x87, 0x01}};
    for (int i = 0; i < 3; i++) {
        osync_table_t table = {.multi_ts = i > 0, .ts_col_id = i == 1 ? 2 : OSYNC__AUTO_TS_COL_ID, .n_columns = 4};
        osync_table_t other = {.multi_ts = i > 0, .ts_col_id = 3, .n_columns = 4};
        osync__buf_t key = {0};
        osync_error_t err = {0};
        size_t pk_len = 0;
        uint64_t ts = 0;
        bool is_other = true;
        assert_int_equal(osync__key_encode(&table, "key1", 4, STAMP, &key), 0);
        assert_int_equal(key.len, i ? 16 : 12);
        assert_memory_equal(key.data, wanted[i], key.len);
        assert_int_equal(osync__key_decode(&table, key.data, key.len, &pk_len, &ts, &is_other, &err), 0);
        assert_int_equal(pk_len, 4);
        assert_int_equal(ts, STAMP);
        assert_false(is_other);
        assert_int_equal(osync__key_decode(&other, key.data, key.len, &pk_len, &ts, &is_other, &err), 0);
        assert_int_equal(is_other, i > 0);
        size_t least = i ? 12 : 8;
        assert_int_equal(osync__key_decode(&table, key.data + key.len - least, least, &pk_len, &ts, &is_other, &err),
                         0);
        assert_int_equal(pk_len, 0);
        assert_int_equal(osync__key_decode(&table, key.data, least - 1, &pk_len, &ts, &is_other, &err), OSYNC_ECORRUPT);
        osync__buf_free(&key);
    }
    /* keys of the short form, read as the long one, aren't just another column's */
    osync_table_t multi = {.multi_ts = true, .ts_col_id = 1, .n_columns = 4};
    osync_error_t err = {0};
    size_t pk_len;
    uint64_t ts;
    bool is_other;
    assert_int_equal(osync__key_decode(&multi, wanted[0], 12, &pk_len, &ts, &is_other, &err), OSYNC_ECORRUPT);
}

static void key_order(void **state) {
    (void)state;
    static const struct {
        const char *pk;
        uint64_t ts;
    } sorted[] = {{"", 5},  {"", 0},   {"a", UINT64_MAX}, {"a", 1ull << 63}, {"a", 256},  {"a", 255}, {"a", 1},
                  {"a", 0}, {"ab", 3}, {"b", 5},          {"\x7f", 1},       {"\x80", 9}, {"\xff", 0}};
    enum { N = sizeof sorted / sizeof sorted[0] };
    osync_table_t table = {0};
    osync__buf_t keys[N] = {{0}};
    for (size_t i = 0; i < N; i++)
        assert_int_equal(osync__key_encode(&table, sorted[i].pk, strlen(sorted[i].pk), sorted[i].ts, &keys[i]), 0);
    for (size_t i = 0; i < N; i++)
        for (size_t k = 0; k < N; k++)
            assert_int_equal(osync__key_compare(keys[i].data, keys[i].len, keys[k].data, keys[k].len),
                             i < k ? -1 : i > k);
    /* shorter than a ts: like an empty prefix and ts 0 */
    assert_int_equal(osync__key_compare("abc", 3, keys[1].data, keys[1].len), 0);
    assert_int_equal(osync__key_compare("abc", 3, keys[2].data, keys[2].len), -1);
    assert_int_equal(osync__key_compare("", 0, "zzz", 3), 0);
    for (size_t i = 0; i < N; i++) osync__buf_free(&keys[i]);
    /* with a column id, a key that is longer may come first */
    table = (osync_table_t){.multi_ts = true, .ts_col_id = OSYNC__AUTO_TS_COL_ID};
    osync__buf_t a = {0}, ab = {0};
    assert_int_equal(osync__key_encode(&table, "a", 1, 1, &a), 0);
    assert_int_equal(osync__key_encode(&table, "ab", 2, 1, &ab), 0);
    assert_int_equal(osync__key_compare(ab.data, ab.len, a.data, a.len), -1);
    osync__buf_free(&a);
    osync__buf_free(&ab);
}

/* ---- checkpoints ---- */

static const char *golden(const char *format, ...) __attribute__((format(printf, 1, 2)));
static const char *golden(const char *format, ...) {
    static char p[4][1024];
    static unsigned n;
    const char *top = getenv("OSYNC_GOLDEN");
    assert_non_null(top);
    char *out = p[n++ % 4];
    int len = snprintf(out, sizeof p[0], "%s/", top);
    va_list ap;
    va_start(ap, format);
    (void)vsnprintf(out + len, sizeof p[0] - (size_t)len, format, ap);
    va_end(ap);
    return out;
}

static osync_table_t *table_of(const char *name, const char *meta) {
    osync__buf_t b = {0};
    osync_error_t err = {0};
    osync_table_t *table = NULL;
    int rc = osync__read_file(golden("%s/%s", name, meta), 1 << 20, &b, &err);
    if (!rc) rc = osync_table_from_meta(&table, b.data, b.len, &err);
    if (rc) fail_msg("%s: %s", name, err.message);
    osync__buf_free(&b);
    return table;
}

/* The checkpoint's folder, by its MANIFEST. */
static void folder_of(const char *db, char *out, size_t size, osync__manifest_t *m) {
    osync__buf_t b = {0};
    osync_error_t err = {0};
    int rc = osync__read_file(golden("%s/snapshot/MANIFEST", db), 1 << 16, &b, &err);
    if (!rc) rc = osync__manifest_parse((const char *)b.data, b.len, m, &err);
    if (rc) fail_msg("%s: %s", db, err.message);
    (void)snprintf(out, size, "%s", golden("%s/snapshot/%s", db, m->name));
    osync__buf_free(&b);
}

static osync__snapshot_t *open_snapshot(const osync_table_t *table, const char *dir) {
    osync__snapshot_t *s;
    osync_error_t err = {0};
    if (osync__snapshot_open(&s, table, dir, &err)) fail_msg("%s", err.message);
    return s;
}

static bool hex_equal(const char *hex, const uint8_t *p, size_t len) {
    static const char digits[] = "0123456789abcdef";
    if (strlen(hex) != 2 * len) return false;
    for (size_t i = 0; i < len; i++)
        if (hex[2 * i] != digits[p[i] >> 4] || hex[2 * i + 1] != digits[p[i] & 15]) return false;
    return true;
}

static const struct {
    const char *name, *db, *meta, *dump;
} cases[] = {
    {"case1_simple", "db/1_0", "table_meta.pb", "snapshot_collector"},
    {"case1_hdd", "db/11_0", "table_meta.pb", "snapshot_collector"},
    {"case2a_inner_each_own_ts", "db/21_0", "table_meta.pb", "snapshot_collector"},
    {"case2b_inner_many_ts", "db/22_0", "table_meta.pb", "snapshot_collector"},
    {"case2h_first_index_is_second_ts", "db/28_0", "table_meta.pb", "snapshot_collector"},
    {"case2d_no_ts_col", "db/24_0", "table_meta.pb", "snapshot_collector"},
    {"case3_snapshot_binlog_rolled", "db/3_0", "table_meta.pb", "snapshot_collector"},
    {"case3b_delete_all_keys", "db/31_0", "table_meta.pb", "snapshot_collector"},
    {"case4c_empty_snapshot", "db/43_0", "table_meta.pb", "snapshot_collector"},
    {"case6_newer_snapshot", "db_n/6_0", "table_meta.pb", "snapshot_collector_n"},
    {"case6_newer_snapshot", "db/6_0", "table_meta.pb", "snapshot_collector"},
    {"case7_sst_off", "db/71_0", "table_meta.pb", "snapshot_collector"},
    {"case7_sst_default_with_snappy", "db/71_0", "table_meta.pb", "snapshot_collector"},
    {"case7_sst_zlib", "db/71_0", "table_meta.pb", "snapshot_collector"},
    {"case8_row_snappy", "db/8_0", "table_meta.pb", "snapshot_collector"},
    {"case9_added_columns", "db/9_0", "table_meta.pb", "snapshot_collector"},
    {"case10_partitions", "db/10_0", "table_meta_p0.pb", "snapshot_collector_p0"},
    {"case10_partitions", "db/10_1", "table_meta_p1.pb", "snapshot_collector_p1"},
    {"case10_partitions", "db/10_2", "table_meta_p2.pb", "snapshot_collector_p2"},
    {"case10_partitions", "db/10_3", "table_meta_p3.pb", "snapshot_collector_p3"},
    {"case11_seam_overlap", "db/301_0", "table_meta.pb", "snapshot_collector"},
};

/* The same entries in the same order as OpenMLDB's own traverse gives, and each found by its key and by seeking to it.
 */
static void traverse(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char dir[1024], db[256];
        osync__manifest_t m;
        osync_table_t *table = table_of(cases[i].name, cases[i].meta);
        (void)snprintf(db, sizeof db, "%s/%s", cases[i].name, cases[i].db);
        folder_of(db, dir, sizeof dir, &m);
        osync__snapshot_t *s = open_snapshot(table, dir), *second = open_snapshot(table, dir);
        assert_int_equal(osync__snapshot_multi_ts(s), table->multi_ts);
        FILE *f = fopen(golden("%s/dump/%s.jsonl", cases[i].name, cases[i].dump), "r");
        assert_non_null(f);
        char *line = NULL;
        size_t size = 0, n = 0;
        osync__buf_t key = {0}, value = {0}, plain = {0};
        osync__entry_t e, again;
        osync_error_t err = {0};
        assert_int_equal(osync__snapshot_seek(s, NULL, 0, NULL), 0);
        while (getline(&line, &size, f) > 0) {
            json_t *o = json_loads(line, JSON_ALLOW_NUL, NULL);
            assert_non_null(o);
            if (osync__snapshot_next(s, &e, &err)) fail_msg("%s, row %zu: %s", cases[i].name, n, err.message);
            json_t *pk = json_object_get(o, "pk");
            const uint8_t *row;
            size_t row_len;
            if (json_is_string(pk)) {
                assert_int_equal(e.pk_len, json_string_length(pk));
                assert_memory_equal(e.key, json_string_value(pk), e.pk_len);
            } else {
                assert_true(hex_equal(json_string_value(json_object_get(pk, "hex")), e.key, e.pk_len));
            }
            assert_true(e.ts == (uint64_t)json_integer_value(json_object_get(o, "ts")));
            plain.len = 0;
            assert_int_equal(osync__row_uncompress(table, e.value, e.value_len, 1 << 24, &plain, &row, &row_len, &err),
                             0);
            assert_true(hex_equal(json_string_value(json_object_get(o, "value_hex")), row, row_len));
            key.len = value.len = 0;
            assert_int_equal(osync__key_encode(table, e.key, e.pk_len, e.ts, &key), 0);
            assert_int_equal(key.len, e.key_len);
            assert_memory_equal(key.data, e.key, key.len);
            assert_int_equal(osync__snapshot_get(s, key.data, key.len, &value, &err), 0);
            assert_int_equal(value.len, e.value_len);
            assert_memory_equal(value.data, e.value, value.len);
            if (n % 50 == 0) {
                assert_int_equal(osync__snapshot_seek(second, key.data, key.len, &err), 0);
                assert_int_equal(osync__snapshot_next(second, &again, &err), 0);
                assert_int_equal(again.key_len, e.key_len);
                assert_memory_equal(again.key, e.key, e.key_len);
            }
            n++;
            json_decref(o);
        }
        assert_int_equal(osync__snapshot_next(s, &e, &err), OSYNC_EOF);
        assert_int_equal(osync__snapshot_next(s, &e, &err), OSYNC_EOF);
        key.len = value.len = 0;
        assert_int_equal(osync__key_encode(table, "no such key", 11, 1, &key), 0);
        assert_int_equal(osync__snapshot_get(s, key.data, key.len, &value, &err), OSYNC_ENOENT);
        if (n > 0) {
            assert_true(osync__snapshot_estimate(s) > 0);
            assert_int_equal(osync__snapshot_seek(s, NULL, 0, NULL), 0); /* back to the first */
            assert_int_equal(osync__snapshot_next(s, &e, &err), 0);
        }
        osync__buf_free(&key);
        osync__buf_free(&value);
        osync__buf_free(&plain);
        free(line);
        fclose(f);
        osync__snapshot_close(s);
        osync__snapshot_close(second);
        osync_table_free(table);
    }
}

/* Expired rows are in the checkpoint: they are its reader's business. */
static void expired_rows_are_there(void **state) {
    (void)state;
    static const char *const names[][2] = {{"case2e_abs_ttl", "db/25_0"},
                                           {"case2f_absandlat", "db/26_0"},
                                           {"case2g_absorlat", "db/27_0"},
                                           {"case2c_latest_first_index", "db/23_0"}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char dir[1024], db[256];
        osync__manifest_t m;
        osync__entry_t e;
        size_t n = 0;
        osync_table_t *table = table_of(names[i][0], "table_meta.pb");
        (void)snprintf(db, sizeof db, "%s/%s", names[i][0], names[i][1]);
        folder_of(db, dir, sizeof dir, &m);
        osync__snapshot_t *s = open_snapshot(table, dir);
        while (osync__snapshot_next(s, &e, NULL) == 0) n++; /* without a seek: from the first on */
        assert_int_equal(n, m.count);                       /* each key put once in these cases */
        osync__snapshot_close(s);
        osync_table_free(table);
    }
}

/* ---- folders of our own ---- */

static char dir[] = "/tmp/osync-snapshot-XXXXXX";

static int setup(void **state) {
    (void)state;
    memcpy(dir + sizeof dir - 7, "XXXXXX", 6);
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    return osync__rmtree(dir, NULL);
}

static void copy_folder(const char *from, const char *to) {
    osync_error_t err = {0};
    assert_int_equal(osync__mkdirs(to, &err), 0);
    DIR *d = opendir(from);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        char a[2048], b[2048];
        osync__buf_t bytes = {0};
        if (e->d_name[0] == '.') continue;
        (void)snprintf(a, sizeof a, "%s/%s", from, e->d_name);
        (void)snprintf(b, sizeof b, "%s/%s", to, e->d_name);
        assert_int_equal(osync__read_file(a, 1 << 26, &bytes, &err), 0);
        assert_int_equal(osync__write_file(b, bytes.data ? bytes.data : (const void *)"", bytes.len, &err), 0);
        osync__buf_free(&bytes);
    }
    closedir(d);
}

/* Names, sizes, inodes and times of all files. */
static void listing(const char *folder, osync__buf_t *out) {
    struct dirent **names = NULL;
    int n = scandir(folder, &names, NULL, alphasort);
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        char p[2048];
        struct stat st;
        (void)snprintf(p, sizeof p, "%s/%s", folder, names[i]->d_name);
        assert_int_equal(stat(p, &st), 0);
        if (strcmp(names[i]->d_name, "..") != 0)
            (void)osync__buf_printf(out, "%s %lld %llu %lld.%ld\n", names[i]->d_name, (long long)st.st_size,
                                    (unsigned long long)st.st_ino, (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
        free(names[i]);
    }
    free(names);
}

static void leaves_folder_alone(void **state) {
    (void)state;
    char from[1024];
    osync__manifest_t m;
    osync__buf_t before = {0}, after = {0};
    osync__entry_t e;
    osync_table_t *table = table_of("case2b_inner_many_ts", "table_meta.pb");
    folder_of("case2b_inner_many_ts/db/22_0", from, sizeof from, &m);
    copy_folder(from, dir);
    listing(dir, &before);
    osync__snapshot_t *s = open_snapshot(table, dir);
    while (osync__snapshot_next(s, &e, NULL) == 0) {
    }
    osync__snapshot_close(s);
    listing(dir, &after);
    assert_string_equal((const char *)before.data, (const char *)after.data);
    osync__buf_free(&before);
    osync__buf_free(&after);
    osync_table_free(table);
}

/* Reads everything; the error that comes before the end, or 0. */
static int read_all(const osync_table_t *table, osync_error_t *err) {
    osync__snapshot_t *s;
    osync__entry_t e;
    int rc = osync__snapshot_open(&s, table, dir, err);
    if (rc) return rc;
    do {
        rc = osync__snapshot_next(s, &e, err);
    } while (rc == 0);
    osync__snapshot_close(s);
    return rc == OSYNC_EOF ? 0 : rc;
}

static void damaged(void **state) {
    (void)state;
    char from[1024], sst[1100];
    osync__manifest_t m;
    osync_error_t err = {0};
    osync__buf_t bytes = {0};
    osync_table_t *table = table_of("case7_sst_off", "table_meta.pb");
    folder_of("case7_sst_off/db/71_0", from, sizeof from, &m);
    copy_folder(from, dir);
    assert_int_equal(read_all(table, &err), 0);
    (void)snprintf(sst, sizeof sst, "%s/000010.sst", dir);
    assert_int_equal(osync__read_file(sst, 1 << 26, &bytes, &err), 0);
    bytes.data[bytes.len / 3] ^= 1; /* in a data block */
    assert_int_equal(osync__write_file(sst, bytes.data, bytes.len, &err), 0);
    assert_int_equal(read_all(table, &err), OSYNC_ECORRUPT);
    assert_non_null(strstr(err.message, dir));
    assert_int_equal(osync__write_file(sst, bytes.data, bytes.len - 100, &err), 0);
    assert_int_equal(read_all(table, &err), OSYNC_ECORRUPT);
    assert_non_null(strstr(err.message, dir));
    assert_int_equal(unlink(sst), 0);
    assert_true(read_all(table, &err) != 0);
    assert_non_null(strstr(err.message, "000010."));
    osync__buf_free(&bytes);
    assert_int_equal(osync__rmtree(dir, NULL), 0);
    assert_int_equal(read_all(table, &err), OSYNC_ENOENT); /* deleted by the tablet meanwhile */
    assert_non_null(strstr(err.message, dir));
    osync_table_free(table);
}

static void wrong_table(void **state) {
    (void)state;
    char from[1024];
    osync__manifest_t m;
    osync_error_t err = {0};
    osync__snapshot_t *s;
    osync_table_t *table = table_of("case1_simple", "table_meta.pb");
    folder_of("case2a_inner_each_own_ts/db/21_0", from, sizeof from, &m);
    assert_int_equal(osync__snapshot_open(&s, table, from, &err), OSYNC_EINVAL);
    assert_null(s);
    assert_non_null(strstr(err.message, table->base_cf));
    assert_non_null(strstr(err.message, "\"default\", \"")); /* and those that are there */
    assert_non_null(strstr(err.message, from));
    osync_table_free(table);
}

/* A checkpoint of a table whose second index was added at run time: it has a column family of its own, and the keys of
 * the base index have no ts column id, though the description says that both share one. */
static void index_added_at_run_time(void **state) {
    (void)state;
    osync_table_t *table = table_of("case2b_inner_many_ts", "table_meta.pb");
    assert_true(table->multi_ts);
    assert_int_equal(table->n_siblings, 1);
    char *failure = NULL;
    const char *names[] = {"default", table->base_cf, table->siblings[0]};
    rocksdb_comparator_t *order = osync__key_comparator();
    rocksdb_options_t *plain = rocksdb_options_create(), *ordered = rocksdb_options_create();
    rocksdb_options_set_create_if_missing(plain, 1);
    rocksdb_options_set_create_missing_column_families(plain, 1);
    rocksdb_options_set_comparator(ordered, order);
    const rocksdb_options_t *options[] = {plain, ordered, ordered};
    rocksdb_column_family_handle_t *handles[3];
    rocksdb_writeoptions_t *write = rocksdb_writeoptions_create();
    rocksdb_t *db = rocksdb_open_column_families(plain, dir, 3, names, options, handles, &failure);
    if (failure) fail_msg("%s", failure);
    osync_table_t shorter = *table;
    shorter.multi_ts = false;
    osync__buf_t key = {0}, value = {0};
    static const struct {
        const char *pk;
        uint64_t ts;
    } rows[] = {{"a", 256}, {"a", 9}, {"a", 1}, {"ab", 3}, {"b", 5}};
    for (size_t i = 0; i < 5; i++) {
        key.len = 0;
        assert_int_equal(osync__key_encode(&shorter, rows[4 - i].pk, strlen(rows[4 - i].pk), rows[4 - i].ts, &key), 0);
        rocksdb_put_cf(db, write, handles[1], (const char *)key.data, key.len, "v", 1, &failure);
        assert_null(failure);
    }
    for (size_t i = 0; i < 3; i++) rocksdb_column_family_handle_destroy(handles[i]);
    rocksdb_close(db);
    rocksdb_writeoptions_destroy(write);

    osync__snapshot_t *s = open_snapshot(table, dir);
    osync__entry_t e;
    assert_false(osync__snapshot_multi_ts(s));
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(osync__snapshot_next(s, &e, NULL), 0);
        assert_int_equal(e.pk_len, strlen(rows[i].pk));
        assert_memory_equal(e.key, rows[i].pk, e.pk_len);
        assert_int_equal(e.ts, rows[i].ts);
    }
    assert_int_equal(osync__snapshot_next(s, &e, NULL), OSYNC_EOF);
    assert_int_equal(osync__snapshot_get(s, key.data, key.len, &value, NULL), 0);
    osync__snapshot_close(s);
    rocksdb_options_destroy(plain);
    rocksdb_options_destroy(ordered);
    rocksdb_comparator_destroy(order);
    osync__buf_free(&key);
    osync__buf_free(&value);
    osync_table_free(table);
}

/* ---- the page cache ---- */

enum { LARGE_ROWS = 16000, LARGE_VALUE = 1000 };

/* A checkpoint of that many rows, in a few files of level 0. */
static void make_large(const osync_table_t *table, const char *folder) {
    char *failure = NULL, value[LARGE_VALUE];
    osync__buf_t key = {0};
    uint64_t x = 88172645463325252u;
    rocksdb_options_t *options = rocksdb_options_create(), *base_options = rocksdb_options_create();
    rocksdb_comparator_t *comparator = osync__key_comparator();
    rocksdb_options_set_create_if_missing(options, 1);
    rocksdb_options_set_disable_auto_compactions(base_options, 1);
    rocksdb_options_set_comparator(base_options, comparator);
    rocksdb_t *db = rocksdb_open(options, folder, &failure);
    assert_null(failure);
    rocksdb_column_family_handle_t *cf = rocksdb_create_column_family(db, base_options, table->base_cf, &failure);
    assert_null(failure);
    rocksdb_writeoptions_t *write = rocksdb_writeoptions_create();
    rocksdb_writeoptions_disable_WAL(write, 1);
    rocksdb_flushoptions_t *flush = rocksdb_flushoptions_create();
    for (size_t i = 0; i < LARGE_ROWS; i++) {
        char pk[16];
        for (size_t n = 0; n < LARGE_VALUE; n++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            value[n] = (char)x;
        }
        int n = snprintf(pk, sizeof pk, "k%zu", i * 7919 % LARGE_ROWS);
        key.len = 0;
        assert_int_equal(osync__key_encode(table, pk, (size_t)n, i, &key), 0);
        rocksdb_put_cf(db, write, cf, (const char *)key.data, key.len, value, sizeof value, &failure);
        assert_null(failure);
        if (i % (LARGE_ROWS / 4) == LARGE_ROWS / 4 - 1) rocksdb_flush_cf(db, flush, cf, &failure);
        assert_null(failure);
    }
    rocksdb_column_family_handle_destroy(cf);
    rocksdb_close(db);
    rocksdb_flushoptions_destroy(flush);
    rocksdb_writeoptions_destroy(write);
    rocksdb_options_destroy(options);
    rocksdb_options_destroy(base_options);
    rocksdb_comparator_destroy(comparator);
    osync__buf_free(&key);
}

/* Bytes of its .sst files that are cached. `change`: first puts everything in the cache (1), or nothing (-1). */
static size_t cached_bytes(const char *folder, int change) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), cached = 0;
    DIR *d = opendir(folder);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        struct stat st;
        osync__buf_t all = {0};
        if (!strstr(e->d_name, ".sst")) continue;
        int fd = openat(dirfd(d), e->d_name, O_RDONLY);
        assert_true(fd >= 0 && fstat(fd, &st) == 0);
        size_t size = (size_t)st.st_size, pages = (size + page - 1) / page;
        assert_int_equal(osync__buf_reserve(&all, size), 0);
        if (change > 0) assert_int_equal(pread(fd, all.data, size, 0), st.st_size);
        if (change < 0) {
            assert_int_equal(fsync(fd), 0);
            assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
        }
        void *map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
        assert_true(map != MAP_FAILED);
        assert_int_equal(mincore(map, size, all.data), 0);
        for (size_t i = 0; i < pages; i++) cached += page * (all.data[i] & 1);
        munmap(map, size);
        osync__buf_free(&all);
        close(fd);
    }
    closedir(d);
    return cached;
}

/* What wasn't cached isn't afterwards, and what was still is; the entries are the same. (On a file system in memory all
 * is, always.) */
static void leaves_the_page_cache_alone(void **state) {
    enum { SPARE = 1 << 20 };
    char folder[128];
    uint32_t sums[2] = {0};
    (void)state;
    osync_table_t *table = table_of("case1_simple", "table_meta.pb");
    (void)snprintf(folder, sizeof folder, "%s/large", dir);
    make_large(table, folder);
    assert_true(cached_bytes(folder, 1) > 12 * SPARE);
    for (int warm = 0; warm < 2; warm++) {
        osync__entry_t e;
        size_t rows = 0, before = cached_bytes(folder, warm ? 1 : -1);
        osync__snapshot_t *s = open_snapshot(table, folder);
        while (osync__snapshot_next(s, &e, NULL) == 0) {
            sums[warm] = osync__crc32c(osync__crc32c(sums[warm], e.key, e.key_len), e.value, e.value_len);
            rows++;
        }
        osync__snapshot_close(s);
        assert_int_equal(rows, LARGE_ROWS);
        size_t after = cached_bytes(folder, 0);
        if (after > before + SPARE || after + SPARE < before)
            fail_msg("%s: %zu bytes were cached, and %zu are", warm ? "warm" : "cold", before, after);
    }
    assert_int_equal(sums[0], sums[1]);
    osync_table_free(table);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(manifest_good),
        cmocka_unit_test(manifest_bad),
        cmocka_unit_test(key_form),
        cmocka_unit_test(key_order),
        cmocka_unit_test(traverse),
        cmocka_unit_test(expired_rows_are_there),
        cmocka_unit_test_setup_teardown(leaves_folder_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged, setup, teardown),
        cmocka_unit_test(wrong_table),
        cmocka_unit_test_setup_teardown(index_added_at_run_time, setup, teardown),
        cmocka_unit_test_setup_teardown(leaves_the_page_cache_alone, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
