/* uthash with libosync's allocator. */
#ifndef OSYNC_BASE_HASH_H
#define OSYNC_BASE_HASH_H

#include "base/alloc.h"

#define uthash_malloc(size)  osync__malloc(size)
#define uthash_free(p, size) osync__free(p)
#include <uthash.h>

#endif
