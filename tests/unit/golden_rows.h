/* The rows of the golden tables (fixtures/README.md), for tests: include it behind cmocka.h. */
#ifndef TESTS_GOLDEN_ROWS_H
#define TESTS_GOLDEN_ROWS_H

#include <glob.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/sys.h"
#include "osync/table.h"

static inline const char *golden(void) {
    const char *path = getenv("OSYNC_GOLDEN");
    if (!path) fail_msg("OSYNC_GOLDEN isn't set: run the test with meson test");
    return path;
}

static inline osync_table_t *load_table(const char *folder, const char *file) {
    char path[2048];
    osync__buf_t b = {0};
    osync_error_t err = {0};
    osync_table_t *table = NULL;
    (void)snprintf(path, sizeof path, "%s/%s", folder, file);
    assert_int_equal(osync__read_file(path, 1 << 20, &b, &err), 0);
    int rc = strcmp(file, "table_info.pb") == 0 ? osync_table_from_info(&table, b.data, b.len, &err)
                                                : osync_table_from_meta(&table, b.data, b.len, &err);
    if (rc) fail_msg("%s: %s", path, err.message);
    osync__buf_free(&b);
    return table;
}

static inline osync_table_t *load_case(const char *name) {
    char folder[1024];
    (void)snprintf(folder, sizeof folder, "%s/%s", golden(), name);
    return load_table(folder, "table_meta.pb");
}

static inline uint8_t unhex(const char *p) {
    unsigned v = 0;
    assert_int_equal(sscanf(p, "%2x", &v), 1);
    return (uint8_t)v;
}

/* An exactly sized copy, so that a read beyond it is noticed. */
static inline uint8_t *bytes_of_hex(const char *hex, size_t *len) {
    *len = strlen(hex) / 2;
    uint8_t *out = malloc(*len ? *len : 1);
    assert_non_null(out);
    for (size_t i = 0; i < *len; i++) out[i] = unhex(hex + 2 * i);
    return out;
}

typedef void (*row_cb)(const osync_table_t *table, const uint8_t *value, size_t len, const json_t *entry, void *arg);

/* Calls cb for each put of each table; returns how many there were. */
static inline size_t each_golden_row(row_cb cb, void *arg) {
    char pattern[1024];
    glob_t files = {0};
    size_t n = 0;
    (void)snprintf(pattern, sizeof pattern, "%s/case*/expected*.jsonl", golden());
    assert_int_equal(glob(pattern, 0, NULL, &files), 0);
    for (size_t i = 0; i < files.gl_pathc; i++) {
        char *folder = strdup(files.gl_pathv[i]), *line = NULL;
        size_t size = 0;
        assert_non_null(folder);
        *strrchr(folder, '/') = 0;
        osync_table_t *table = load_table(folder, "table_meta.pb");
        FILE *f = fopen(files.gl_pathv[i], "r");
        assert_non_null(f);
        while (getline(&line, &size, f) > 0) {
            json_error_t json_err;
            json_t *entry = json_loads(line, JSON_ALLOW_NUL, &json_err);
            if (!entry) fail_msg("%s: %s", files.gl_pathv[i], json_err.text);
            const char *hex = json_string_value(json_object_get(entry, "value_hex"));
            if (hex) {
                size_t len = 0;
                uint8_t *value = bytes_of_hex(hex, &len);
                cb(table, value, len, entry, arg);
                free(value);
                n++;
            }
            json_decref(entry);
        }
        free(line);
        (void)fclose(f);
        osync_table_free(table);
        free(folder);
    }
    globfree(&files);
    return n;
}

#endif
