/* The checkpoint interface: a small durable map from keys to values whose every change is a compare-and-set, so that of
 * two owners one is refused. libosync brings one in SQLite; an embedder may bring another.
 *
 * Keys are '/'-separated ASCII paths of at most 512 bytes ("part/<task>/<pid>"); values are blobs of at most 1 MiB.
 *
 * Callbacks: if a call returns non-zero, its callback is never called. Otherwise it is called exactly once, on the
 * loop's thread, never from inside the call. Values are valid during the callback only. */
#ifndef OSYNC_CHECKPOINT_H
#define OSYNC_CHECKPOINT_H

#include <stddef.h>
#include <uv.h>

#include "osync/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct osync_checkpoint osync_checkpoint_t;

typedef struct osync_checkpoint_entry {
    const char *key;
    const void *value;
    size_t len;
} osync_checkpoint_entry_t;

typedef void (*osync_checkpoint_cb)(void *arg, int status, const osync_error_t *err);
typedef void (*osync_checkpoint_get_cb)(void *arg, int status, const void *value, size_t len, const osync_error_t *err);
typedef void (*osync_checkpoint_list_cb)(void *arg, int status, const osync_checkpoint_entry_t *entries, size_t n,
                                         const osync_error_t *err);

typedef struct osync_checkpoint_ops {
    size_t size; /* sizeof(osync_checkpoint_ops_t) */
    /* OSYNC_ENOENT if there is no such key. */
    int (*get)(osync_checkpoint_t *store, const char *key, osync_checkpoint_get_cb cb, void *arg);
    /* Sets the key to `value` if it holds exactly `expected` now (expected NULL: if it doesn't exist; value NULL:
     * removes it). 0: done and durable. OSYNC_ECONFLICT: it holds something else, nothing was changed. Everything else:
     * unknown. Both buffers are copied. */
    int (*cas)(osync_checkpoint_t *store, const char *key, const void *expected, size_t expected_len, const void *value,
               size_t len, osync_checkpoint_cb cb, void *arg);
    /* All entries whose key begins with `prefix`, in key order. */
    int (*list)(osync_checkpoint_t *store, const char *prefix, osync_checkpoint_list_cb cb, void *arg);
    /* Finishes what is under way (its callbacks come first), then frees the store. */
    void (*close)(osync_checkpoint_t *store, void (*cb)(void *arg), void *arg);
} osync_checkpoint_ops_t;

/* The head of every store; an implementation embeds it as its first member. */
struct osync_checkpoint {
    const osync_checkpoint_ops_t *ops;
};

/* A SQLite file, made with its folder if it isn't there, opened for this process alone (OSYNC_ECONFLICT if another one
 * has it; OSYNC_ENOTSUP if another version wrote it). Blocks while it opens; later calls work on a thread of the
 * store's own. ops->close frees *out. */
OSYNC_API int osync_sqlite_checkpoint_new(osync_checkpoint_t **out, uv_loop_t *loop, const char *path,
                                          osync_error_t *err);

#ifdef __cplusplus
}
#endif
#endif
