/* uthash with libosync's allocator. An element that couldn't be added for want of memory has hh.tbl NULL afterwards. */
#ifndef OSYNC_BASE_HASH_H
#define OSYNC_BASE_HASH_H

#include "base/alloc.h"

#define HASH_NONFATAL_OOM    1
#define uthash_malloc(size)  osync__malloc(size)
#define uthash_free(p, size) osync__free(p)
#include <uthash.h>

#endif
