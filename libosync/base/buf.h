/* A growing byte buffer. Zero-initialised is empty and valid. */
#ifndef OSYNC_BASE_BUF_H
#define OSYNC_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "osync/export.h"

typedef struct osync__buf {
    uint8_t *data;
    size_t len;
    size_t cap;
} osync__buf_t;

/* Make room for `more` bytes after len. All return 0 or OSYNC_ENOMEM. */
int osync__buf_reserve(osync__buf_t *b, size_t more);
int osync__buf_append(osync__buf_t *b, const void *data, size_t len);
/* In the place of what is there, which may be gone after a failure. */
int osync__buf_set(osync__buf_t *b, const void *data, size_t len);
int osync__buf_printf(osync__buf_t *b, const char *fmt, ...) OSYNC_PRINTF(2, 3);
/* Drops the first n bytes. */
void osync__buf_consume(osync__buf_t *b, size_t n);
void osync__buf_free(osync__buf_t *b);
bool osync__buf_equal(const osync__buf_t *a, const osync__buf_t *b);

/* printf into memory of the caller's (osync__free); NULL: out of memory. */
char *osync__format(const char *fmt, ...) OSYNC_PRINTF(1, 2);

#endif
