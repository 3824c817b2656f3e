/* Configuration of a daemon from one table of options: gflags files (--key=value), Java properties files (key=value)
 * and the command line. The table is the only source of names, types, ranges and help. */
#ifndef OSYNC_DAEMONS_OPTIONS_H
#define OSYNC_DAEMONS_OPTIONS_H

#include <stddef.h>

#include "osync/error.h"

typedef enum option_type {
    OPTION_STRING, /* const char * */
    OPTION_BOOL,   /* bool */
    OPTION_PORT,   /* int, 1 to 65535 */
    OPTION_COUNT,  /* uint32_t */
    OPTION_BYTES,  /* uint64_t; a suffix K, M or G multiplies by 2^10, 2^20, 2^30 */
    OPTION_MS,     /* uint32_t milliseconds; suffixes ms, s, m, h; a bare number counts `unit_ms` each */
    OPTION_UNUSED, /* known to the original, without a meaning here: accepted with one line that says so */
} option_type_t;

typedef struct option {
    const char *key;
    option_type_t type;
    size_t offset;               /* of the field in the struct that is filled */
    unsigned long long min, max; /* of a number, in the field's unit; max 0: no limit */
    unsigned unit_ms;
    const char *help; /* for OPTION_UNUSED: why */
} option_t;

typedef struct options {
    const option_t *table; /* ends with key NULL */
    const char *others;    /* further names, with a space between, that are accepted as OPTION_UNUSED; may be NULL */
    const char *others_reason;
    void *target;       /* the struct that is filled; it holds the defaults already */
    const char *source; /* what messages call the place: a file's name, or "command line" */
    void **strings;     /* every string that was set */
    size_t n_strings;
} options_t;

/* A gflags file: `--key=value`, `--flag`, `--noflag`, comments with '#'. An unknown key is an error that names the line
 * and the nearest known key. */
int options_read_flags(options_t *o, const char *path, osync_error_t *err);
/* A Java properties file: `key=value` or `key: value`, comments with '#' or '!', lines continued by '\', Java's
 * escapes. Unlike Java it leaves out white space at a value's end. */
int options_read_properties(options_t *o, const char *path, osync_error_t *err);
/* One assignment, as of the command line. `value` NULL is "--flag". */
int options_set(options_t *o, const char *key, const char *value, osync_error_t *err);
/* An error that names the key if its string is not set. */
int options_require(const options_t *o, const char *key, osync_error_t *err);
/* Prints the table with what the target holds now. */
void options_print_help(const options_t *o);
void options_free(options_t *o);

#endif
