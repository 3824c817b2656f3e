#include "base/alloc.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "osync/alloc.h"
#include "osync/error.h"

static osync_malloc_fn do_malloc = malloc;
static osync_calloc_fn do_calloc = calloc;
static osync_realloc_fn do_realloc = realloc;
static osync_free_fn do_free = free;

int osync_alloc_set(osync_malloc_fn malloc_fn, osync_calloc_fn calloc_fn, osync_realloc_fn realloc_fn,
                    osync_free_fn free_fn) {
    if (!malloc_fn || !calloc_fn || !realloc_fn || !free_fn) return OSYNC_EINVAL;
    do_malloc = malloc_fn;
    do_calloc = calloc_fn;
    do_realloc = realloc_fn;
    do_free = free_fn;
    return 0;
}

void *osync__malloc(size_t size) {
    return do_malloc(size);
}

void *osync__calloc(size_t n, size_t size) {
    return do_calloc(n, size);
}

void *osync__realloc(void *p, size_t size) {
    return do_realloc(p, size);
}

void *osync__reallocarray(void *p, size_t n, size_t size) {
    return size > 0 && n > SIZE_MAX / size ? NULL : do_realloc(p, n * size);
}

char *osync__strdup(const char *s) {
    return osync__strndup(s, strlen(s));
}

char *osync__strndup(const char *s, size_t n) {
    size_t len = strnlen(s, n);
    char *out = do_malloc(len + 1);
    if (!out) return NULL;
    memcpy(out, s, len);
    out[len] = 0;
    return out;
}

void osync__free(void *p) {
    if (p) do_free(p);
}

static void *protobuf_alloc(void *arg, size_t size) {
    (void)arg;
    return do_malloc(size);
}

static void protobuf_free(void *arg, void *p) {
    (void)arg;
    if (p) do_free(p);
}

static void *unpacking_alloc(void *arg, size_t size) {
    osync__unpacking_t *u = arg;
    void *p = do_malloc(size);
    if (!p) u->no_memory = true;
    return p;
}

ProtobufCAllocator *osync__unpacking_init(osync__unpacking_t *u) {
    *u = (osync__unpacking_t){
        .allocator = {.alloc = unpacking_alloc, .free = protobuf_free, .allocator_data = u},
    };
    return &u->allocator;
}

ProtobufCAllocator osync__protobuf_allocator = {.alloc = protobuf_alloc, .free = protobuf_free};
