/* Filling error objects, and writing to the log hook. */
#ifndef OSYNC_BASE_ERROR_H
#define OSYNC_BASE_ERROR_H

#include "osync/error.h"
#include "osync/log.h"

/* Fills `err` (which may be NULL) and returns `code`, so that a function can end with `return osync__err(...)`. */
int osync__err(osync_error_t *err, int code, const char *fmt, ...) OSYNC_PRINTF(3, 4);

/* The same from an errno value: picks the code and appends ": <strerror>". */
int osync__err_errno(osync_error_t *err, int errnum, const char *fmt, ...) OSYNC_PRINTF(3, 4);

/* Copies `from` to `to` (which may be NULL) with "<context>: " before its message; returns its code. */
int osync__err_wrap(osync_error_t *to, const osync_error_t *from, const char *fmt, ...) OSYNC_PRINTF(3, 4);

void osync__log(osync_log_level_t level, const char *fmt, ...) OSYNC_PRINTF(2, 3);

#endif
