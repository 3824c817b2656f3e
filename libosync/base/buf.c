#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "osync/error.h"

int osync__buf_reserve(osync__buf_t *b, size_t more) {
    if (more > SIZE_MAX / 2 - b->len) return OSYNC_ENOMEM;
    size_t need = b->len + more;
    if (need <= b->cap) return 0;
    size_t cap = b->cap ? b->cap : 256;
    while (cap < need) cap *= 2;
    uint8_t *p = osync__realloc(b->data, cap);
    if (!p) return OSYNC_ENOMEM;
    b->data = p;
    b->cap = cap;
    return 0;
}

int osync__buf_append(osync__buf_t *b, const void *data, size_t len) {
    if (len == 0) return 0;
    int rc = osync__buf_reserve(b, len);
    if (rc) return rc;
    memcpy(b->data + b->len, data, len);
    b->len += len;
    return 0;
}

int osync__buf_set(osync__buf_t *b, const void *data, size_t len) {
    b->len = 0;
    return osync__buf_append(b, data, len);
}

bool osync__buf_equal(const osync__buf_t *a, const osync__buf_t *b) {
    return a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len) == 0);
}

int osync__buf_printf(osync__buf_t *b, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0) return OSYNC_EINVAL;
    int rc = osync__buf_reserve(b, (size_t)n + 1);
    if (rc) return rc;
    va_start(ap, fmt);
    (void)vsnprintf((char *)b->data + b->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
    return 0;
}

void osync__buf_consume(osync__buf_t *b, size_t n) {
    if (n >= b->len) {
        b->len = 0;
        return;
    }
    memmove(b->data, b->data + n, b->len - n);
    b->len -= n;
}

void osync__buf_free(osync__buf_t *b) {
    osync__free(b->data);
    *b = (osync__buf_t){0};
}

char *osync__format(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *out = n < 0 ? NULL : osync__malloc((size_t)n + 1);
    if (!out) return NULL;
    va_start(ap, fmt);
    (void)vsnprintf(out, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return out;
}
