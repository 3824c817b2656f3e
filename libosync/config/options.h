/* A table of keys, and the struct that it fills: assignments of single keys, and files of them. The table is the only
 * source of names, types, ranges, defaults and help. */
#ifndef OSYNC_CONFIG_OPTIONS_H
#define OSYNC_CONFIG_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "osync/error.h"

typedef enum osync__option_type {
    OSYNC__OPTION_STRING, /* const char * */
    OSYNC__OPTION_PORT,   /* int */
    OSYNC__OPTION_COUNT,  /* uint32_t */
    OSYNC__OPTION_BYTES,  /* uint64_t; a suffix K, M or G multiplies by 2^10, 2^20, 2^30 */
    OSYNC__OPTION_MS,     /* uint32_t milliseconds; suffixes ms, s, m, h; a bare number counts `unit_ms` each */
    OSYNC__OPTION_UNUSED, /* known to the original, without a meaning here: accepted with one line that says so */
} osync__option_type_t;

typedef struct osync__option {
    const char *key;
    osync__option_type_t type;
    size_t offset;               /* of the field in the struct that is filled */
    bool required;               /* a string that must be set */
    unsigned long long min, max; /* of a number, in the field's unit */
    unsigned unit_ms;
    const char *help; /* of OSYNC__OPTION_UNUSED: why */
} osync__option_t;

/* The rows of a table; `max` 0: what the type holds. */
#define OSYNC__STRING(key, offset, help)                                                                               \
    { key, OSYNC__OPTION_STRING, offset, false, 0, 0, 0, help }
#define OSYNC__REQUIRED(key, offset, help)                                                                             \
    { key, OSYNC__OPTION_STRING, offset, true, 0, 0, 0, help }
#define OSYNC__PORT(key, offset, help)                                                                                 \
    { key, OSYNC__OPTION_PORT, offset, false, 0, 65535, 0, help }
#define OSYNC__COUNT(key, offset, min, max, help)                                                                      \
    { key, OSYNC__OPTION_COUNT, offset, false, min, (max) > 0 ? (max) : UINT32_MAX, 0, help }
#define OSYNC__BYTES(key, offset, min, max, help)                                                                      \
    { key, OSYNC__OPTION_BYTES, offset, false, min, (max) > 0 ? (max) : UINT64_MAX, 0, help }
#define OSYNC__MS(key, offset, min, max, unit_ms, help)                                                                \
    { key, OSYNC__OPTION_MS, offset, false, min, (max) > 0 ? (max) : UINT32_MAX, unit_ms, help }
#define OSYNC__UNUSED(key, why)                                                                                        \
    { key, OSYNC__OPTION_UNUSED, 0, false, 0, 0, 0, why }
#define OSYNC__OPTIONS_END OSYNC__UNUSED(NULL, NULL)

typedef struct osync__options {
    const osync__option_t *table; /* ends with OSYNC__OPTIONS_END */
    const char *others;           /* further names, with a space between, that are accepted as unused; may be NULL */
    const char *others_reason;
    void *target;   /* the struct that is filled; it holds the defaults already */
    char **strings; /* every string that was set */
    size_t n_strings;
} osync__options_t;

/* NULL: there is no such key in the table. gflags takes dashes for underscores, and so does this. */
const osync__option_t *osync__options_find(const osync__options_t *o, const char *key);
/* One assignment. `value` NULL is "--flag". `source` is what the line about a key without a meaning calls the place. */
int osync__options_set(osync__options_t *o, const char *key, const char *value, const char *source, osync_error_t *err);
/* An error that names the first key that is required and not set. */
int osync__options_check(const osync__options_t *o, osync_error_t *err);
void osync__options_free(osync__options_t *o);

/* files.c. An error names the file, the line, and of an unknown key the nearest that is known. */

/* A gflags file: `--key=value`, `--flag`, `--noflag`, comments with '#'. */
int osync__options_read_flags(osync__options_t *o, const char *path, osync_error_t *err);
/* A Java properties file: `key=value` or `key: value`, comments with '#' or '!', lines continued by '\', Java's
 * escapes. Unlike Java it leaves out white space at a value's end. */
int osync__options_read_properties(osync__options_t *o, const char *path, osync_error_t *err);

#endif
