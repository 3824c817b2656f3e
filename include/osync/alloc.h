/* The allocator hook. Without one, libosync uses malloc, calloc, realloc and free. */
#ifndef OSYNC_ALLOC_H
#define OSYNC_ALLOC_H

#include <stddef.h>

#include "osync/export.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef void *(*osync_malloc_fn)(size_t size);
typedef void *(*osync_calloc_fn)(size_t n, size_t size);
typedef void *(*osync_realloc_fn)(void *p, size_t size);
typedef void (*osync_free_fn)(void *p);

/* Sets the process-wide functions for the memory that libosync asks for itself; they are called from any thread, have
 * the contract of their namesakes of C, and a failure is OSYNC_ENOMEM. Call it before anything else of libosync.
 * OSYNC_EINVAL: one of them is NULL, and nothing is changed. The libraries below (libuv, libcurl, jansson, SQLite,
 * RocksDB, libzookeeper) have hooks of their own, which are the process's and which libosync leaves alone. */
OSYNC_API int osync_alloc_set(osync_malloc_fn malloc_fn, osync_calloc_fn calloc_fn, osync_realloc_fn realloc_fn,
                              osync_free_fn free_fn);

#ifdef __cplusplus
}
#endif
#endif
