/* What the binlog reader promises: every entry once, in order, and nothing that can't be read is passed over. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <dlfcn.h>
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
#include "format/binlog.h"

enum { BLOCK = 4096, HEADER = 7, FULL = 1, FIRST, MIDDLE, LAST, END };

/* ---- a log in the making ---- */

static void add_physical(osync__buf_t *log, unsigned type, const void *data, size_t len) {
    uint8_t h[HEADER] = {0};
    h[4] = (uint8_t)len;
    h[5] = (uint8_t)(len >> 8);
    h[6] = (uint8_t)type;
    uint32_t crc = osync__crc32c(osync__crc32c(0, h + 6, 1), data, len);
    osync__put_u32le(h, (crc >> 15 | crc << 17) + 0xa282ead8u);
    assert_int_equal(osync__buf_append(log, h, sizeof h), 0);
    assert_int_equal(osync__buf_append(log, data, len), 0);
}

static void fill_block(osync__buf_t *log) {
    static const uint8_t zeros[HEADER];
    size_t left = BLOCK - log->len % BLOCK;
    if (left < HEADER) assert_int_equal(osync__buf_append(log, zeros, left), 0);
}

static void add_record(osync__buf_t *log, const void *data, size_t len) {
    const uint8_t *p = data;
    bool first = true;
    do {
        fill_block(log);
        size_t room = BLOCK - log->len % BLOCK - HEADER;
        size_t n = len < room ? len : room;
        bool last = n == len;
        add_physical(log, first ? (last ? FULL : FIRST) : last ? LAST : MIDDLE, p, n);
        p += n;
        len -= n;
        first = false;
    } while (len > 0);
}

static void add_end(osync__buf_t *log) {
    fill_block(log);
    add_physical(log, END, "", 0);
}

/* The entry with that index: its value's length and bytes follow from the index. */
static size_t value_size(uint64_t index) {
    return index % 7 == 0 ? 9000 : index % 5 == 0 ? 4000 + index % 97 : index % 60;
}

static void make_entry(uint64_t index, osync__buf_t *out) {
    static uint8_t value[9000];
    Openmldb__Api__LogEntry e = OPENMLDB__API__LOG_ENTRY__INIT;
    size_t n = value_size(index);
    for (size_t i = 0; i < n; i++) value[i] = (uint8_t)(index * 31 + i);
    e.has_term = e.has_log_index = e.has_value = e.has_ts = 1;
    e.term = index / 10 + 1;
    e.log_index = index;
    e.value.data = value;
    e.value.len = n;
    e.ts = 1700000000000 + index;
    out->len = 0;
    assert_int_equal(osync__buf_reserve(out, openmldb__api__log_entry__get_packed_size(&e)), 0);
    out->len = openmldb__api__log_entry__pack(&e, out->data);
}

static void add_entries(osync__buf_t *log, uint64_t from, uint64_t to) {
    osync__buf_t e = {0};
    for (uint64_t i = from; i <= to; i++) {
        make_entry(i, &e);
        add_record(log, e.data, e.len);
    }
    osync__buf_free(&e);
}

static char dir[] = "/tmp/osync-binlog-XXXXXX";
static char path[128];

static const char *file_path(const char *name) {
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void write_file(const char *name, const osync__buf_t *log, size_t len) {
    int fd = open(file_path(name), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, log->data ? log->data : (const void *)"", len), (ssize_t)len);
    close(fd);
}

static void append_file(const char *name, const void *data, size_t len) {
    int fd = open(file_path(name), O_WRONLY | O_CREAT | O_APPEND, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, len), (ssize_t)len);
    close(fd);
}

/* Writes file `number` with entries from..to, and an end-of-file record if `closed`. */
static size_t write_entries(unsigned number, uint64_t from, uint64_t to, bool closed) {
    char name[32];
    osync__buf_t log = {0};
    add_entries(&log, from, to);
    if (closed) add_end(&log);
    (void)snprintf(name, sizeof name, "%08u.log", number);
    write_file(name, &log, log.len);
    size_t len = log.len;
    osync__buf_free(&log);
    return len;
}

static int setup(void **state) {
    (void)state;
    memcpy(dir + sizeof dir - 7, "XXXXXX", 6);
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    return osync__rmtree(dir, NULL);
}

/* Something that happens just before the reader lists a folder. */
static void (*before_listing)(void);

DIR *opendir(const char *name) {
    DIR *(*real)(const char *) = NULL;
    void *symbol = dlsym(RTLD_NEXT, "opendir");
    memcpy(&real, &symbol, sizeof real);
    void (*hook)(void) = before_listing;
    before_listing = NULL;
    if (hook) hook();
    return real(name);
}

/* ---- reading ---- */

static osync__binlog_t *open_log(const char *folder) {
    osync__binlog_t *log;
    osync_error_t err = {0};
    int rc = osync__binlog_open(&log, folder, &err);
    if (rc) fail_msg("open %s: %s", folder, err.message);
    return log;
}

static osync__binlog_t *open_at(uint64_t index) {
    osync__binlog_t *log = open_log(dir);
    osync_error_t err = {0};
    if (osync__binlog_seek(log, index, &err)) fail_msg("seek %llu: %s", (unsigned long long)index, err.message);
    return log;
}

static void expect_entry(osync__binlog_t *log, uint64_t index) {
    osync__log_record_t r;
    osync_error_t err = {0};
    osync__buf_t e = {0};
    int rc = osync__binlog_next(log, &r, &err);
    if (rc) fail_msg("entry %llu: %s: %s", (unsigned long long)index, osync_err_name(rc), err.message);
    make_entry(index, &e);
    assert_int_equal(r.log_index, index);
    assert_int_equal(r.term, index / 10 + 1);
    assert_int_equal(r.len, e.len);
    assert_memory_equal(r.payload, e.data, e.len);
    assert_int_equal(r.crc, osync__crc32c(0, e.data, e.len));
    osync__buf_free(&e);
}

static void expect_entries(osync__binlog_t *log, uint64_t from, uint64_t to) {
    for (uint64_t i = from; i <= to; i++) expect_entry(log, i);
}

/* The next call answers `code` (and again, since nothing is passed over), with these words. */
static void expect_error(osync__binlog_t *log, int code, const char *a, const char *b) {
    for (int i = 0; i < 2; i++) {
        osync__log_record_t r;
        osync_error_t err = {0};
        int rc = osync__binlog_next(log, &r, &err);
        if (rc != code) fail_msg("%s instead of %s: %s", osync_err_name(rc), osync_err_name(code), err.message);
        if (a && !strstr(err.message, a)) fail_msg("\"%s\" isn't in: %s", a, err.message);
        if (b && !strstr(err.message, b)) fail_msg("\"%s\" isn't in: %s", b, err.message);
    }
}

static uint64_t tail_of(osync__binlog_t *log) {
    uint64_t index = 12345;
    osync_error_t err = {0};
    if (osync__binlog_tail(log, &index, &err)) fail_msg("tail: %s", err.message);
    return index;
}

/* ---- OpenMLDB's own logs ---- */

static const char *golden(const char *name) {
    static char p[1024];
    const char *top = getenv("OSYNC_GOLDEN");
    assert_non_null(top);
    (void)snprintf(p, sizeof p, "%s/%s", top, name);
    return p;
}

static int hex_equal(const char *hex, const uint8_t *p, size_t len) {
    static const char digits[] = "0123456789abcdef";
    if (strlen(hex) != 2 * len) return 0;
    for (size_t i = 0; i < len; i++)
        if (hex[2 * i] != digits[p[i] >> 4] || hex[2 * i + 1] != digits[p[i] & 15]) return 0;
    return 1;
}

/* Reads operations (puts and deletes) from expected.jsonl and the same from the log, until the list ends. */
static void expect_golden(osync__binlog_t *log, const char *expected, uint64_t to, bool compressed) {
    FILE *f = fopen(golden(expected), "r");
    assert_non_null(f);
    char *line = NULL;
    size_t size = 0;
    uint64_t seen = 0;
    while (seen < to && getline(&line, &size, f) > 0) {
        json_t *o = json_loads(line, JSON_ALLOW_NUL, NULL);
        assert_non_null(o);
        const char *op = json_string_value(json_object_get(o, "op"));
        if (strcmp(op, "put") == 0 || strcmp(op, "delete") == 0) {
            osync__log_record_t r;
            osync_error_t err = {0};
            if (osync__binlog_next(log, &r, &err))
                fail_msg("%s after %llu: %s", expected, (unsigned long long)seen, err.message);
            Openmldb__Api__LogEntry *e = openmldb__api__log_entry__unpack(NULL, r.len, r.payload);
            assert_non_null(e);
            seen = (uint64_t)json_integer_value(json_object_get(o, "offset"));
            assert_int_equal(r.log_index, seen);
            assert_int_equal(e->log_index, seen);
            assert_int_equal(e->term, r.term);
            bool is_delete = e->has_method_type && e->method_type == OPENMLDB__API__METHOD_TYPE__kDelete;
            assert_int_equal(is_delete, strcmp(op, "delete") == 0);
            if (!is_delete && !compressed)
                assert_true(hex_equal(json_string_value(json_object_get(o, "value_hex")), e->value.data, e->value.len));
            openmldb__api__log_entry__free_unpacked(e, NULL);
        }
        json_decref(o);
    }
    assert_true(to == UINT64_MAX || seen == to);
    free(line);
    fclose(f);
}

static void golden_logs(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"case1_simple/db/1_0", "case1_simple/expected.jsonl"},
        {"case1_hdd/db/11_0", "case1_hdd/expected.jsonl"},
        {"case2a_inner_each_own_ts/db/21_0", "case2a_inner_each_own_ts/expected.jsonl"},
        {"case3_snapshot_binlog_rolled/db/3_0", "case3_snapshot_binlog_rolled/expected.jsonl"},
        {"case3b_delete_all_keys/db/31_0", "case3b_delete_all_keys/expected.jsonl"},
        {"case4a_empty/db/41_0", "case4a_empty/expected.jsonl"},
        {"case4b_binlog_only/db/42_0", "case4b_binlog_only/expected.jsonl"},
        {"case7_broken_binlog/db/7_0", "case7_broken_binlog/expected.jsonl"},
        {"case7_sst_off/db/71_0", "case7_sst_off/expected.jsonl"},
        {"case8_row_snappy/db/8_0", "case8_row_snappy/expected.jsonl"},
        {"case9_added_columns/db/9_0", "case9_added_columns/expected.jsonl"},
        {"case10_partitions/db/10_0", "case10_partitions/expected_p0.jsonl"},
        {"case10_partitions/db/10_3", "case10_partitions/expected_p3.jsonl"},
        {"case11_seam_overlap/db/301_0", "case11_seam_overlap/expected.jsonl"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char folder[600];
        (void)snprintf(folder, sizeof folder, "%s/binlog", cases[i][0]);
        osync__binlog_t *log = open_log(golden(folder));
        expect_golden(log, cases[i][1], UINT64_MAX, strstr(folder, "snappy") != NULL);
        expect_error(log, OSYNC_EOF, NULL, NULL);
        osync__binlog_close(log);
    }
}

/* The damaged copies of case7: 30 entries in file 0, 20 in file 1. */
static void golden_damage(void **state) {
    (void)state;
    static const struct {
        const char *name;
        uint64_t entries;
        int code;
        const char *a, *b;
    } variants[] = {
        {"db", 50, OSYNC_EOF, NULL, NULL},
        {"truncated_last", 49, OSYNC_EOF, NULL, NULL},
        {"truncated_header", 49, OSYNC_EOF, NULL, NULL},
        {"truncated_middle_file", 29, OSYNC_EGAP, "entries 30 to 30 are missing between file 00000000.log",
         "00000001.log at offset 0"},
        {"no_eof_mark", 50, OSYNC_EOF, NULL, NULL},
        {"payload_flip", 10, OSYNC_ECORRUPT, "checksum", "00000000.log, offset 996:"},
        {"length_bad", 10, OSYNC_ECORRUPT, "length", "00000000.log, offset 996:"},
        {"type_bad", 10, OSYNC_ECORRUPT, "type", "00000000.log, offset 996:"},
        {"zero_block", 10, OSYNC_ECORRUPT, "zeros", "00000000.log, offset 996:"},
    };
    for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++) {
        char folder[600];
        (void)snprintf(folder, sizeof folder, "case7_broken_binlog/%s/7_0/binlog", variants[i].name);
        osync__binlog_t *log = open_log(golden(folder));
        expect_golden(log, "case7_broken_binlog/expected.jsonl", variants[i].entries, false);
        expect_error(log, variants[i].code, variants[i].a, variants[i].b);
        osync__binlog_close(log);
    }
}

/* ---- the format ---- */

/* The bytes of formats, computed by hand: a put, a delete, and the end-of-file record. */
static void worked_example(void **state) {
    (void)state;
    static const uint8_t bytes[] = {
        0x37, 0xd3, 0xfb, 0x03, 0x32, 0x00, 0x01, 0x08, 0x01, 0x10, 0x01, 0x1a, 0x00, 0x22, 0x19, 0x01, 0x01, 0x19,
        0x00, 0x00, 0x00, 0xfa, 0x2a, 0x00, 0x00, 0x00, 0,    0,    0,    0,    0,    0,    0,    0,    0x14, 0x68,
        0x65, 0x6c, 0x6c, 0x6f, 0x28, 0xfb, 0xd8, 0xd0, 0xfa, 0xf6, 0x30, 0x32, 0x08, 0x0a, 0x04, 0x6b, 0x65, 0x79,
        0x31, 0x10, 0x00, 0x49, 0x09, 0x25, 0x3b, 0x10, 0x00, 0x01, 0x08, 0x01, 0x10, 0x02, 0x32, 0x08, 0x0a, 0x04,
        0x6b, 0x65, 0x79, 0x31, 0x10, 0x00, 0x38, 0x02, 0xf0, 0xb9, 0x1d, 0x31, 0x00, 0x00, 0x05};
    osync__log_record_t r;
    append_file("00000000.log", bytes, sizeof bytes);
    osync__binlog_t *log = open_at(1);
    assert_int_equal(osync__binlog_next(log, &r, NULL), 0);
    assert_int_equal(r.log_index, 1);
    assert_int_equal(r.term, 1);
    assert_int_equal(r.len, 50);
    assert_int_equal(r.at, 0);
    assert_int_equal(osync__binlog_next(log, &r, NULL), 0);
    assert_int_equal(r.log_index, 2);
    assert_int_equal(r.len, 16);
    assert_int_equal(r.at, 57);
    expect_error(log, OSYNC_EOF, NULL, NULL);
    osync__binlog_close(log);
}

/* Every place where a record can begin or end in a block, zero-length first fragments and filled ends among them. */
static void block_borders(void **state) {
    (void)state;
    osync__buf_t e = {0}, filler = {0};
    make_entry(2, &e);
    for (size_t left = 0; left <= 80; left++) {
        osync__buf_t log = {0};
        Openmldb__Api__LogEntry first = OPENMLDB__API__LOG_ENTRY__INIT;
        static uint8_t value[BLOCK];
        first.has_log_index = first.has_value = first.has_term = 1;
        first.log_index = 1;
        first.term = 1;
        first.value.data = value;
        first.value.len = BLOCK - HEADER - 7 - left; /* 2 bytes for term and index each, 3 around the value */
        filler.len = 0;
        assert_int_equal(osync__buf_reserve(&filler, openmldb__api__log_entry__get_packed_size(&first)), 0);
        filler.len = openmldb__api__log_entry__pack(&first, filler.data);
        add_record(&log, filler.data, filler.len);
        assert_int_equal(log.len, BLOCK - left);
        add_record(&log, e.data, e.len);
        add_end(&log);
        write_file("00000000.log", &log, log.len);
        osync__binlog_t *reader = open_at(1);
        osync__log_record_t r;
        assert_int_equal(osync__binlog_next(reader, &r, NULL), 0);
        assert_int_equal(r.len, filler.len);
        expect_entry(reader, 2);
        expect_error(reader, OSYNC_EOF, NULL, NULL);
        assert_int_equal(tail_of(reader), 2);
        osync__binlog_close(reader);
        osync__buf_free(&log);
    }
    osync__buf_free(&e);
    osync__buf_free(&filler);
}

/* A file that grows byte by byte, is rolled twice, and whose successors are there while empty: each entry exactly once.
 */
static void growing(void **state) {
    (void)state;
    static const char *const names[] = {"00000000.log", "00000001.log", "00000005.log"};
    osync__binlog_t *log = open_at(1);
    uint64_t next = 1, last_of[] = {8, 12, 16};
    expect_error(log, OSYNC_EOF, NULL, NULL);
    for (size_t f = 0; f < 3; f++) {
        osync__buf_t bytes = {0};
        uint64_t begin = f ? last_of[f - 1] + 1 : 1;
        size_t end_of[64] = {0}, n = 0;
        for (uint64_t i = begin; i <= last_of[f]; i++) {
            add_entries(&bytes, i, i);
            end_of[n++] = bytes.len;
        }
        if (f == 0) add_end(&bytes); /* the second one is not closed, as after a crash */
        write_file(names[f], &bytes, 0);
        int fd = open(file_path(names[f]), O_WRONLY | O_APPEND);
        assert_true(fd >= 0);
        for (size_t i = 0; i < bytes.len; i++) {
            assert_int_equal(write(fd, bytes.data + i, 1), 1);
            if (i + 1 == end_of[next - begin]) expect_entry(log, next++);
            osync__log_record_t r;
            assert_int_equal(osync__binlog_next(log, &r, NULL), OSYNC_EOF);
        }
        close(fd);
        assert_int_equal(next, last_of[f] + 1);
        assert_int_equal(tail_of(log), last_of[f]);
        osync__buf_free(&bytes);
    }
    osync__binlog_close(log);
}

static void append_and_roll(void) {
    osync__buf_t all = {0};
    add_entries(&all, 1, 4);
    add_end(&all);
    write_file("00000000.log", &all, all.len);
    osync__buf_free(&all);
    write_entries(1, 5, 6, false);
}

/* Between the look at a file's end and the listing that shows a later file, an entry may be written. */
static void roll_race(void **state) {
    (void)state;
    write_entries(0, 1, 3, false);
    osync__binlog_t *log = open_at(1);
    expect_entries(log, 1, 3);
    before_listing = append_and_roll;
    expect_entries(log, 4, 6);
    assert_null(before_listing);
    expect_error(log, OSYNC_EOF, NULL, NULL);
    osync__binlog_close(log);
}

static void seeking(void **state) {
    (void)state;
    write_entries(3, 11, 20, true);
    write_entries(4, 21, 30, false);
    write_entries(7, 31, 45, true);
    osync__binlog_t *log = open_log(dir);
    const osync__log_file_t *files;
    assert_int_equal(osync__binlog_files(log, &files), 3);
    assert_int_equal(files[1].number, 4);
    assert_true(files[1].has_entry);
    assert_int_equal(files[1].first, 21);
    assert_int_equal(tail_of(log), 45);
    for (uint64_t i = 11; i <= 45; i++) { /* among them the last of each file and the first */
        assert_int_equal(osync__binlog_seek(log, i, NULL), 0);
        expect_entries(log, i, 45);
        expect_error(log, OSYNC_EOF, NULL, NULL);
    }
    assert_int_equal(osync__binlog_seek(log, 0, NULL), 0);
    expect_entries(log, 11, 30);
    osync_error_t err = {0};
    assert_int_equal(osync__binlog_seek(log, 10, &err), OSYNC_EGAP); /* the hole right before the oldest entry */
    assert_non_null(strstr(err.message, "entry 10 is wanted"));
    assert_non_null(strstr(err.message, "begins with 11"));
    assert_int_equal(osync__binlog_seek(log, 1, &err), OSYNC_EGAP);
    /* beyond the tail: waits there */
    assert_int_equal(osync__binlog_seek(log, 48, NULL), 0);
    expect_error(log, OSYNC_EOF, NULL, NULL);
    write_entries(8, 46, 47, true);
    expect_error(log, OSYNC_EOF, NULL, NULL);
    write_entries(9, 48, 50, false);
    expect_entries(log, 48, 50);
    expect_error(log, OSYNC_EOF, NULL, NULL);
    osync__binlog_close(log);
}

/* An empty log may begin anywhere, but not behind what is wanted. */
static void seek_in_empty(void **state) {
    (void)state;
    osync__buf_t none = {0};
    osync__binlog_t *log = open_at(5);
    assert_int_equal(tail_of(log), 0);
    expect_error(log, OSYNC_EOF, NULL, NULL);
    write_file("00000002.log", &none, 0);
    expect_error(log, OSYNC_EOF, NULL, NULL);
    assert_int_equal(tail_of(log), 0);
    write_entries(2, 6, 8, false);
    expect_error(log, OSYNC_EGAP, "entry 5 is wanted", "goes on with 6");
    osync__binlog_close(log);
    log = open_log("/nonexistent/folder");
    expect_error(log, OSYNC_EOF, NULL, NULL);
    osync__binlog_close(log);
}

/* A file that was empty when it was first seen fills later; the list notices. */
static void fills_later(void **state) {
    (void)state;
    osync__buf_t none = {0};
    const osync__log_file_t *files;
    write_entries(0, 1, 3, true);
    write_file("00000001.log", &none, 0);
    osync__binlog_t *log = open_at(1);
    expect_entries(log, 1, 3);
    expect_error(log, OSYNC_EOF, NULL, NULL);
    assert_int_equal(osync__binlog_files(log, &files), 2);
    assert_false(files[1].has_entry);
    write_entries(1, 4, 6, false);
    expect_entries(log, 4, 6);
    assert_int_equal(osync__binlog_refresh(log, NULL), 0);
    assert_int_equal(osync__binlog_files(log, &files), 2);
    assert_true(files[1].has_entry);
    assert_int_equal(files[1].first, 4);
    assert_int_equal(osync__binlog_seek(log, 5, NULL), 0);
    expect_entries(log, 5, 6);
    osync__binlog_close(log);
}

static void file_names(void **state) {
    (void)state;
    const osync__log_file_t *files;
    osync__buf_t bytes = {0};
    add_entries(&bytes, 1, 2);
    write_file("9.log", &bytes, bytes.len); /* numbers are compared, not texts */
    bytes.len = 0;
    add_entries(&bytes, 3, 4);
    write_file("0000010.log", &bytes, bytes.len);
    bytes.len = 0;
    add_entries(&bytes, 5, 6);
    write_file("4294967295.log", &bytes, bytes.len);
    static const char *const others[] = {"4294967296.log", "99999999999999999999999.log",
                                         "a.log",          ".log",
                                         "1.log.tmp",      "00000011.txt",
                                         "-1.log",         "00000012",
                                         "0x1.log"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) write_file(others[i], &bytes, bytes.len);
    assert_int_equal(mkdir(file_path("00000012.log"), 0755), 0);
    osync__binlog_t *log = open_at(1);
    assert_int_equal(osync__binlog_files(log, &files), 3);
    assert_int_equal(files[0].number, 9);
    assert_int_equal(files[2].number, UINT32_MAX);
    expect_entries(log, 1, 6);
    expect_error(log, OSYNC_EOF, NULL, NULL);
    osync__binlog_close(log);
    write_file("00000009.log", &bytes, bytes.len);
    osync_error_t err = {0};
    assert_int_equal(osync__binlog_open(&log, dir, &err), OSYNC_ECORRUPT);
    assert_non_null(strstr(err.message, "the same number"));
    osync__buf_free(&bytes);
}

/* ---- ends, torn and otherwise ---- */

static void zero_tail(void **state) {
    (void)state;
    static const uint8_t zeros[3 * BLOCK];
    size_t len = write_entries(0, 1, 3, false);
    append_file("00000000.log", zeros, sizeof zeros);
    osync__binlog_t *log = open_at(1);
    expect_entries(log, 1, 3);
    expect_error(log, OSYNC_EOF, NULL, NULL);
    assert_int_equal(tail_of(log), 3);
    /* the zeros turn into data */
    osync__buf_t bytes = {0};
    add_entries(&bytes, 1, 6);
    add_end(&bytes);
    write_file("00000000.log", &bytes, bytes.len);
    expect_entries(log, 4, 6);
    /* a hole: the file goes on behind the zeros */
    bytes.len = 0;
    add_entries(&bytes, 1, 3);
    assert_int_equal(osync__buf_append(&bytes, zeros, 2 * BLOCK - bytes.len % BLOCK), 0);
    add_entries(&bytes, 4, 4);
    write_file("00000000.log", &bytes, bytes.len);
    char where[64];
    (void)snprintf(where, sizeof where, "00000000.log, offset %zu:", len);
    assert_int_equal(osync__binlog_seek(log, 1, NULL), 0);
    expect_entries(log, 1, 3);
    expect_error(log, OSYNC_ECORRUPT, where, "zeros");
    osync__binlog_close(log);
    osync__buf_free(&bytes);
}

/* After a crash the tablet writes the end-of-file record over the torn entry, and what stands behind it is garbage. */
static void end_then_garbage(void **state) {
    (void)state;
    osync__buf_t bytes = {0};
    add_entries(&bytes, 1, 6);
    size_t kept = bytes.len;
    add_entries(&bytes, 7, 7); /* of several blocks */
    size_t torn = bytes.len - 10;
    osync__buf_t mark = {0};
    add_physical(&mark, END, "", 0);
    write_file("00000000.log", &bytes, torn);
    osync__binlog_t *log = open_at(1);
    expect_entries(log, 1, 6);
    expect_error(log, OSYNC_EOF, NULL, NULL);
    memcpy(bytes.data + kept, mark.data, mark.len);
    write_file("00000000.log", &bytes, torn);
    expect_error(log, OSYNC_EOF, NULL, NULL);
    assert_int_equal(tail_of(log), 6);
    write_entries(1, 7, 9, false);
    expect_entries(log, 7, 9);
    memset(bytes.data + kept + mark.len, 0xa5, torn - kept - mark.len);
    write_file("00000000.log", &bytes, torn);
    assert_int_equal(osync__binlog_seek(log, 1, NULL), 0);
    expect_entries(log, 1, 9);
    expect_error(log, OSYNC_EOF, NULL, NULL);
    assert_int_equal(unlink(file_path("00000001.log")), 0);
    assert_int_equal(tail_of(log), 6); /* the look from behind isn't fooled by the garbage */
    osync__binlog_close(log);
    osync__buf_free(&mark);
    osync__buf_free(&bytes);
}

/* Each cut of a file that has a successor: nothing is missing if the whole last entry is there, else the gap is told.
 */
static void torn_before_another(void **state) {
    (void)state;
    osync__buf_t bytes = {0};
    add_entries(&bytes, 1, 6);
    size_t before = bytes.len;
    add_entries(&bytes, 7, 7);
    size_t after = bytes.len;
    write_entries(1, 8, 9, false);
    for (size_t cut = before; cut <= after; cut += cut + 40 < after && cut > before + 40 ? 37 : 1) {
        write_file("00000000.log", &bytes, cut);
        osync__binlog_t *log = open_at(1);
        expect_entries(log, 1, 6);
        if (cut == after)
            expect_entries(log, 7, 9);
        else
            expect_error(log, OSYNC_EGAP, "entries 7 to 7 are missing between file 00000000.log", "00000001.log");
        osync__binlog_close(log);
    }
    osync__buf_free(&bytes);
}

static void indexes(void **state) {
    (void)state;
    osync__buf_t bytes = {0};
    add_entries(&bytes, 1, 3);
    size_t at = bytes.len;
    char where[64];
    (void)snprintf(where, sizeof where, "offset %zu", at);
    add_entries(&bytes, 6, 6);
    write_file("00000000.log", &bytes, bytes.len);
    osync__binlog_t *log = open_at(1);
    expect_entries(log, 1, 3);
    expect_error(log, OSYNC_EGAP, "entries 4 to 5 are missing", where);
    bytes.len = at;
    add_entries(&bytes, 3, 3);
    write_file("00000000.log", &bytes, bytes.len);
    assert_int_equal(osync__binlog_seek(log, 1, NULL), 0);
    expect_entries(log, 1, 3);
    expect_error(log, OSYNC_EDIVERGED, "log index 3 comes after 3", where);
    /* a later file that goes back */
    write_entries(0, 1, 5, true);
    write_entries(1, 4, 8, true);
    assert_int_equal(osync__binlog_seek(log, 2, NULL), 0);
    expect_entries(log, 2, 5);
    expect_error(log, OSYNC_EDIVERGED, "log index 4 comes after 5", "00000001.log");
    osync__binlog_close(log);
    osync__buf_free(&bytes);
}

/* Good checksums around what isn't a LogEntry, and fragments in an order that no writer makes. */
static void hostile_records(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t len;
        const char *words;
    } entries[] = {
        {"", 0, "log_index"},
        {"\x08\x01", 2, "log_index"},                                     /* a term only */
        {"\x10\x00", 2, "log_index"},                                     /* 0 */
        {"\x10", 1, "LogEntry"},                                          /* cut short */
        {"\x10\x80", 2, "LogEntry"},                                      /* cut short in a number */
        {"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 11, "LogEntry"}, /* more than 64 bits */
        {"\x12\x01\x01", 3, "LogEntry"},                                  /* log_index as bytes */
        {"\x10\x01\x22\x05\x61", 5, "LogEntry"},                          /* a value that reaches beyond the end */
        {"\x10\x01\x22\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 13, "LogEntry"},
        {"\x10\x01\x03", 3, "LogEntry"}, /* a group */
        {"\x10\x01\x00", 3, "LogEntry"}, /* field 0 */
        {"\x10\x01\x2d\x01", 4, "LogEntry"},
    };
    static const struct {
        unsigned types[3];
        const char *words;
    } orders[] = {{{MIDDLE, LAST, 0}, "order"},    {{LAST, FULL, 0}, "order"},      {{FIRST, FULL, 0}, "order"},
                  {{FIRST, FIRST, LAST}, "order"}, {{FIRST, MIDDLE, END}, "order"}, {{6, 0, 0}, "type"}};
    for (size_t i = 0; i < sizeof entries / sizeof entries[0] + sizeof orders / sizeof orders[0]; i++) {
        size_t n = sizeof entries / sizeof entries[0];
        osync__buf_t bytes = {0};
        add_entries(&bytes, 1, 3);
        if (i < n) add_record(&bytes, entries[i].bytes, entries[i].len);
        for (size_t t = 0; i >= n && t < 3 && orders[i - n].types[t]; t++)
            add_physical(&bytes, orders[i - n].types[t], "\x10\x04", orders[i - n].types[t] == END ? 0 : 2);
        write_file("00000000.log", &bytes, bytes.len); /* the last record of the last file: all its bytes are there */
        osync__binlog_t *log = open_at(2);
        expect_entries(log, 2, 3);
        expect_error(log, OSYNC_ECORRUPT, i < n ? entries[i].words : orders[i - n].words, "00000000.log, offset ");
        osync__binlog_close(log);
        osync__buf_free(&bytes);
    }
}

/* Any one byte changed: the entries up to it, then an end or an error, never another entry. */
static void flips(void **state) {
    (void)state;
    osync__buf_t first = {0}, second = {0};
    add_entries(&first, 1, 5);
    add_end(&first);
    add_entries(&second, 6, 8);
    uint64_t ended_early = 0;
    write_file("00000001.log", &second, second.len);
    for (size_t at = 0; at < first.len + second.len; at++) {
        osync__buf_t *b = at < first.len ? &first : &second;
        size_t i = at < first.len ? at : at - first.len;
        const char *name = at < first.len ? "00000000.log" : "00000001.log";
        uint8_t mask = (uint8_t)(1u << at % 8);
        b->data[i] ^= at % 3 ? mask : 0xff;
        write_file(name, b, b->len);
        osync__binlog_t *log = open_log(dir);
        osync__log_record_t r;
        osync__buf_t e = {0};
        uint64_t n = 0;
        int rc;
        while ((rc = osync__binlog_next(log, &r, NULL)) == 0) {
            make_entry(++n, &e);
            assert_int_equal(r.log_index, n);
            assert_int_equal(r.len, e.len);
            assert_memory_equal(r.payload, e.data, e.len);
        }
        osync__buf_free(&e);
        assert_true(rc == OSYNC_EOF || rc == OSYNC_ECORRUPT || rc == OSYNC_EGAP);
        if (rc == OSYNC_EOF && n < 8) ended_early++;
        /* An end, not an error, is only possible where a length reaches beyond the last file's end. */
        if (rc == OSYNC_EOF && n < 8) assert_true(at >= first.len);
        assert_true(n < 8 || at < first.len); /* each byte of the second file counts */
        osync__binlog_close(log);
        b->data[i] ^= at % 3 ? mask : 0xff;
        write_file(name, b, b->len);
    }
    assert_true(ended_early < 20);
    osync__buf_free(&first);
    osync__buf_free(&second);
}

/* An unreadable old file doesn't stop who reads newer ones, and is an error for who needs it. */
static void damaged_old_file(void **state) {
    (void)state;
    osync__buf_t bytes = {0};
    add_entries(&bytes, 1, 3);
    bytes.data[10] ^= 1;
    write_file("00000000.log", &bytes, bytes.len);
    write_entries(1, 4, 6, true);
    osync__binlog_t *log = open_log(dir);
    osync_error_t err = {0};
    assert_int_equal(osync__binlog_seek(log, 5, NULL), 0);
    expect_entries(log, 5, 6);
    assert_int_equal(osync__binlog_seek(log, 2, &err), OSYNC_ECORRUPT);
    assert_non_null(strstr(err.message, "00000000.log, offset 0:"));
    assert_int_equal(osync__binlog_seek(log, 0, NULL), 0);
    expect_error(log, OSYNC_ECORRUPT, "00000000.log, offset 0:", "checksum");
    osync__binlog_close(log);
    osync__buf_free(&bytes);
}

static void shortened(void **state) {
    (void)state;
    write_entries(0, 1, 5, false);
    osync__binlog_t *log = open_at(1);
    expect_entries(log, 1, 5);
    assert_int_equal(truncate(file_path("00000000.log"), 20), 0);
    expect_error(log, OSYNC_ECORRUPT, "shorter", "00000000.log");
    osync__binlog_close(log);
}

/* From the middle of a file, and the tail of one: as found by reading all of it. */
static void near_end(void **state) {
    (void)state;
    enum { N = 400 };
    osync__buf_t bytes = {0};
    static uint64_t begin[N + 2];
    for (uint64_t i = 1; i <= N; i++) {
        fill_block(&bytes);
        begin[i] = bytes.len;
        add_entries(&bytes, i, i);
    }
    write_file("00000003.log", &bytes, bytes.len);
    write_entries(4, N + 1, N + 3, false);
    osync__binlog_t *log = open_log(dir);
    for (uint64_t span = 0; span < bytes.len + BLOCK; span += span < 3 * BLOCK ? 100 : 7919) {
        osync__log_record_t r;
        assert_int_equal(osync__binlog_seek_near_end(log, 3, span, NULL), 0);
        assert_int_equal(osync__binlog_next(log, &r, NULL), 0);
        assert_int_equal(r.file, 3);
        assert_true(r.log_index >= 1 && r.log_index <= N);
        assert_int_equal(r.at, begin[r.log_index]);
        uint64_t start = span >= bytes.len ? 0 : bytes.len - span;
        if (span >=
            4 * BLOCK) { /* a record begins in so many bytes: the first after the next block's beginning is taken */
            assert_true(r.at >= start);
            assert_true(r.log_index == 1 || begin[r.log_index - 1] < (start + BLOCK - 1) / BLOCK * BLOCK);
        }
        expect_entries(log, r.log_index + 1, N + 3);
        expect_error(log, OSYNC_EOF, NULL, NULL);
    }
    osync_error_t err = {0};
    assert_int_equal(osync__binlog_seek_near_end(log, 9, 100, &err), OSYNC_ENOENT);
    /* tail of a file that is cut anywhere in its last records, while the position stays where it is */
    assert_int_equal(unlink(file_path("00000004.log")), 0);
    assert_int_equal(osync__binlog_seek(log, 100, NULL), 0);
    expect_entries(log, 100, 110);
    for (uint64_t i = 300; i < N; i += 9) {
        write_file("00000003.log", &bytes, begin[i] + 3);
        assert_int_equal(tail_of(log), i - 1);
    }
    expect_entries(log, 111, 120);
    osync__binlog_close(log);
    osync__buf_free(&bytes);
}

/* An entry of several MiB, larger than any buffer, followed and found from behind. */
static void large_entry(void **state) {
    (void)state;
    enum { SIZE = 5 << 20 };
    Openmldb__Api__LogEntry e = OPENMLDB__API__LOG_ENTRY__INIT;
    osync__buf_t payload = {0}, bytes = {0};
    uint8_t *value = malloc(SIZE);
    assert_non_null(value);
    for (size_t i = 0; i < SIZE; i++) value[i] = (uint8_t)(i * 2654435761u >> 13);
    e.has_log_index = e.has_value = 1;
    e.log_index = 4;
    e.value.data = value;
    e.value.len = SIZE;
    assert_int_equal(osync__buf_reserve(&payload, SIZE + 100), 0);
    payload.len = openmldb__api__log_entry__pack(&e, payload.data);
    add_entries(&bytes, 1, 3);
    add_record(&bytes, payload.data, payload.len);
    write_file("00000000.log", &bytes, bytes.len - 1);
    osync__binlog_t *log = open_at(1);
    osync__log_record_t r;
    expect_entries(log, 1, 3);
    expect_error(log, OSYNC_EOF, NULL, NULL);
    assert_int_equal(tail_of(log), 3);
    append_file("00000000.log", bytes.data + bytes.len - 1, 1);
    assert_int_equal(osync__binlog_next(log, &r, NULL), 0);
    assert_int_equal(r.log_index, 4);
    assert_int_equal(r.len, payload.len);
    assert_memory_equal(r.payload, payload.data, payload.len);
    assert_int_equal(tail_of(log), 4);
    assert_int_equal(osync__binlog_seek_near_end(log, 0, 1000, NULL), 0);
    assert_int_equal(osync__binlog_next(log, &r, NULL), 0);
    assert_int_equal(r.log_index, 1); /* none begins in the last 1000 bytes, nor in any block but the first */
    osync__binlog_close(log);
    osync__buf_free(&payload);
    osync__buf_free(&bytes);
    free(value);
}

/* ---- entries ---- */

static uint64_t random_number(void) {
    static uint64_t x = 88172645463325252u;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x;
}

static ProtobufCBinaryData some_bytes(uint8_t *storage) {
    size_t len = random_number() % 12;
    for (size_t i = 0; i < len; i++) storage[i] = (uint8_t)random_number();
    return (ProtobufCBinaryData){.data = storage, .len = len};
}

/* Any fields, with any values. */
static void random_entry(osync__buf_t *out) {
    Openmldb__Api__LogEntry e = OPENMLDB__API__LOG_ENTRY__INIT;
    Openmldb__Api__Dimension dims[3], *dim_list[3];
    Openmldb__Api__TSDimension ts_dims[2], *ts_list[2];
    uint8_t storage[8][12];
    char name[] = "col";
    unsigned has = (unsigned)random_number();
    e.has_term = has & 1;
    e.term = random_number() >> random_number() % 64;
    e.has_log_index = has >> 1 & 1;
    e.log_index = random_number() >> random_number() % 64;
    e.has_pk = has >> 2 & 1;
    e.pk = some_bytes(storage[0]);
    e.has_value = has >> 3 & 1;
    e.value = some_bytes(storage[1]);
    e.has_ts = has >> 4 & 1;
    e.ts = random_number() >> random_number() % 64;
    e.has_method_type = has >> 5 & 1;
    e.method_type = has >> 6 & 1 ? OPENMLDB__API__METHOD_TYPE__kDelete : OPENMLDB__API__METHOD_TYPE__kPut;
    e.has_end_ts = has >> 7 & 1;
    e.end_ts = random_number();
    e.ts_name = has >> 8 & 1 ? name : NULL;
    e.n_dimensions = random_number() % 4;
    e.dimensions = dim_list;
    for (size_t i = 0; i < e.n_dimensions; i++) {
        openmldb__api__dimension__init(&dims[i]);
        dims[i].has_key = random_number() % 4 > 0;
        dims[i].key = some_bytes(storage[2 + i]);
        dims[i].has_idx = random_number() % 4 > 0;
        dims[i].idx = (uint32_t)(random_number() % 3);
        dim_list[i] = &dims[i];
    }
    e.n_ts_dimensions = random_number() % 3;
    e.ts_dimensions = ts_list;
    for (size_t i = 0; i < e.n_ts_dimensions; i++) {
        openmldb__api__tsdimension__init(&ts_dims[i]);
        ts_dims[i].has_ts = ts_dims[i].has_idx = 1;
        ts_dims[i].ts = random_number();
        ts_list[i] = &ts_dims[i];
    }
    out->len = 0;
    assert_int_equal(osync__buf_reserve(out, openmldb__api__log_entry__get_packed_size(&e) + 1), 0);
    out->len = openmldb__api__log_entry__pack(&e, out->data);
}

static void expect_bytes(osync__span_t span, bool there, const void *data, size_t len) {
    assert_int_equal(span.data != NULL, there);
    if (!there) return;
    assert_int_equal(span.len, len);
    if (len > 0) assert_memory_equal(span.data, data, len);
}

/* The same as the parser that protoc-c made. */
static void expect_same(const osync__log_entry_t *e, const Openmldb__Api__LogEntry *m) {
    assert_int_equal(e->term, m->has_term ? m->term : 0);
    assert_int_equal(e->log_index, m->has_log_index ? m->log_index : 0);
    assert_int_equal(e->is_delete, m->has_method_type && m->method_type == OPENMLDB__API__METHOD_TYPE__kDelete);
    assert_int_equal(e->has_ts, m->has_ts);
    assert_int_equal(e->ts, m->has_ts ? m->ts : 0);
    assert_int_equal(e->has_end_ts, m->has_end_ts);
    assert_int_equal(e->end_ts, m->has_end_ts ? m->end_ts : 0);
    expect_bytes(e->pk, m->has_pk, m->pk.data, m->pk.len);
    expect_bytes(e->value, m->has_value, m->value.data, m->value.len);
    /* In C a string ends with its first NUL. */
    assert_int_equal(e->ts_name.data != NULL, m->ts_name != NULL);
    if (m->ts_name) expect_bytes(e->ts_name, true, m->ts_name, e->ts_name.len);
    assert_int_equal(e->has_dimensions, m->n_dimensions > 0);
    const Openmldb__Api__Dimension *base = NULL;
    for (size_t i = 0; i < m->n_dimensions && !base; i++)
        if (!m->dimensions[i]->has_idx || m->dimensions[i]->idx == 0) base = m->dimensions[i];
    expect_bytes(e->base_key, base != NULL, base ? base->key.data : NULL, base ? base->key.len : 0);
}

/* Bytes of which protoc-c's parser makes nothing are never an entry; those that it parses are one, with the same
 * fields, but for numbers of more than 64 bits and heads of more than 32, which it cuts off. */
static void entries_as_protobuf_has_them(void **state) {
    enum { ENTRIES = 20000, CHANGES = 10 };
    osync__buf_t bytes = {0};
    size_t good = 0, bad = 0, stricter = 0;
    (void)state;
    for (int i = 0; i < ENTRIES; i++) {
        random_entry(&bytes);
        for (int change = 0; change <= CHANGES; change++) {
            osync__log_entry_t e;
            size_t len = bytes.len;
            /* Memory of exactly that size: what is read beyond it is found. */
            uint8_t *copy = malloc(len + 1);
            assert_non_null(copy);
            if (len > 0) memcpy(copy, bytes.data, len);
            if (change > 0 && len > 0) copy[random_number() % len] = (uint8_t)random_number();
            if (change > 7) len = random_number() % (len + 1);
            uint8_t *exact = malloc(len ? len : 1);
            assert_non_null(exact);
            memcpy(exact, copy, len);
            Openmldb__Api__LogEntry *m = openmldb__api__log_entry__unpack(NULL, len, exact);
            bool taken = osync__log_entry_scan(&e, exact, len) && e.well_formed;
            if (m && taken)
                expect_same(&e, m);
            else if (taken)
                fail_msg("entry %d, change %d: taken, and protobuf refuses it", i, change);
            good += taken;
            bad += !m;
            stricter += m && !taken;
            if (change == 0) assert_true(taken);
            if (m) openmldb__api__log_entry__free_unpacked(m, NULL);
            free(exact);
            free(copy);
        }
    }
    osync__buf_free(&bytes);
    print_message("%zu entries taken, %zu refused, %zu of what protobuf takes\n", good, bad, stricter);
    assert_true(good > 2 * ENTRIES && bad > ENTRIES && stricter < ENTRIES / 10);
}

/* ---- the page cache ---- */

/* Bytes of a file that are cached. */
static size_t cached_bytes(const char *name) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), n = 0;
    struct stat st;
    int fd = open(file_path(name), O_RDONLY);
    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    size_t pages = ((size_t)st.st_size + page - 1) / page;
    unsigned char *resident = malloc(pages);
    void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    assert_true(resident && map != MAP_FAILED);
    assert_int_equal(mincore(map, (size_t)st.st_size, resident), 0);
    for (size_t i = 0; i < pages; i++) n += resident[i] & 1;
    munmap(map, (size_t)st.st_size);
    free(resident);
    close(fd);
    return n * page;
}

/* What wasn't cached isn't afterwards, and what was still is. (On a file system in memory all is, always.) */
static void leaves_the_page_cache_alone(void **state) {
    enum { ENTRIES = 10000, SPARE = 3 << 20 }; /* what is being read ahead when it ends may stay */
    (void)state;
    size_t size = write_entries(0, 1, ENTRIES, true);
    assert_true(size > 5 * SPARE);
    int fd = open(file_path("00000000.log"), O_RDWR);
    assert_true(fd >= 0 && fsync(fd) == 0);
    for (int warm = 0; warm < 2; warm++) {
        if (warm) {
            osync__buf_t all = {0};
            assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_NORMAL), 0);
            assert_int_equal(osync__read_file(file_path("00000000.log"), size, &all, NULL), 0);
            osync__buf_free(&all);
        } else {
            assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
        }
        size_t before = cached_bytes("00000000.log");
        osync__binlog_t *log = open_at(1);
        expect_entries(log, 1, ENTRIES);
        expect_error(log, OSYNC_EOF, NULL, NULL);
        osync__binlog_close(log);
        size_t after = cached_bytes("00000000.log");
        if (after > before + SPARE || after + SPARE < before)
            fail_msg("%s: %zu bytes were cached, and %zu are", warm ? "warm" : "cold", before, after);
        /* Nor if it is left in the middle. */
        log = open_at(1);
        expect_entries(log, 1, ENTRIES / 2);
        osync__binlog_close(log);
        after = cached_bytes("00000000.log");
        if (after > before + SPARE || after + SPARE < before)
            fail_msg("%s, half of it: %zu bytes were cached, and %zu are", warm ? "warm" : "cold", before, after);
    }
    close(fd);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_logs),
        cmocka_unit_test(golden_damage),
        cmocka_unit_test_setup_teardown(worked_example, setup, teardown),
        cmocka_unit_test_setup_teardown(block_borders, setup, teardown),
        cmocka_unit_test_setup_teardown(growing, setup, teardown),
        cmocka_unit_test_setup_teardown(roll_race, setup, teardown),
        cmocka_unit_test_setup_teardown(seeking, setup, teardown),
        cmocka_unit_test_setup_teardown(seek_in_empty, setup, teardown),
        cmocka_unit_test_setup_teardown(fills_later, setup, teardown),
        cmocka_unit_test_setup_teardown(file_names, setup, teardown),
        cmocka_unit_test_setup_teardown(zero_tail, setup, teardown),
        cmocka_unit_test_setup_teardown(end_then_garbage, setup, teardown),
        cmocka_unit_test_setup_teardown(torn_before_another, setup, teardown),
        cmocka_unit_test_setup_teardown(indexes, setup, teardown),
        cmocka_unit_test_setup_teardown(hostile_records, setup, teardown),
        cmocka_unit_test_setup_teardown(flips, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged_old_file, setup, teardown),
        cmocka_unit_test_setup_teardown(shortened, setup, teardown),
        cmocka_unit_test_setup_teardown(near_end, setup, teardown),
        cmocka_unit_test_setup_teardown(large_entry, setup, teardown),
        cmocka_unit_test(entries_as_protobuf_has_them),
        cmocka_unit_test_setup_teardown(leaves_the_page_cache_alone, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
