/* Memory. Every allocation of libosync's own comes from here, so that osync_alloc_set reaches all of it; what another
 * library returns is freed as that library says. */
#ifndef OSYNC_BASE_ALLOC_H
#define OSYNC_BASE_ALLOC_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>

void *osync__malloc(size_t size);
void *osync__calloc(size_t n, size_t size);
void *osync__realloc(void *p, size_t size);
/* NULL if n * size overflows. */
void *osync__reallocarray(void *p, size_t n, size_t size);
char *osync__strdup(const char *s);
char *osync__strndup(const char *s, size_t n);
void osync__free(void *p);

/* For unpacking, and for freeing what was unpacked. */
extern ProtobufCAllocator osync__protobuf_allocator;

/* The same for one unpacking, of which protobuf-c says NULL for want of memory as well as for bytes that don't parse:
 * `no_memory` tells which it was. */
typedef struct osync__unpacking {
    ProtobufCAllocator allocator;
    bool no_memory;
} osync__unpacking_t;

ProtobufCAllocator *osync__unpacking_init(osync__unpacking_t *u);

#endif
