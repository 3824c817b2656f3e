/* The replayed window (docs/delivery.md, reading): what the log says about the keys of (F, E]. A small one is held in
 * memory; a larger one in a scratch RocksDB, so that its size costs disk. Holds keys and log indexes, never values.
 * Blocking calls, one thread at a time. */
#ifndef OSYNC_COLLECTOR_WINDOW_H
#define OSYNC_COLLECTOR_WINDOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/table.h"

typedef struct osync__window osync__window_t;

/* `dir` is made when more than `memory` bytes come, after anything that is there has been removed, and removed by
 * _free. */
int osync__window_new(osync__window_t **out, const osync_table_t *table, const char *dir, size_t memory,
                      osync_error_t *err);
void osync__window_free(osync__window_t *w);

/* The replay, in log order: entry `index` puts `key` (a key of the base index), or deletes the rows of `pk` (NULL: of
 * every pk) with start >= ts > end. */
int osync__window_put(osync__window_t *w, const void *key, size_t len, uint64_t index, osync_error_t *err);
int osync__window_delete(osync__window_t *w, const void *pk, size_t pk_len, uint64_t start, uint64_t end,
                         uint64_t index, osync_error_t *err);
/* After the last entry of the replay, before the first question. */
int osync__window_ready(osync__window_t *w, osync_error_t *err);

/* True if the window puts or deletes the key, so that the traverse leaves it out. Keys must be asked in ascending order
 * (sequential reads). */
int osync__window_covers(osync__window_t *w, const void *key, size_t len, size_t pk_len, uint64_t ts, bool *covers,
                         osync_error_t *err);
/* The same in any order, by look-up. */
int osync__window_touches(osync__window_t *w, const void *key, size_t len, size_t pk_len, uint64_t ts, bool *touches,
                          osync_error_t *err);
/* True if entry `index` is the key's last put in the window and no later delete of the window takes it away. Any order.
 */
int osync__window_is_last(osync__window_t *w, const void *key, size_t len, size_t pk_len, uint64_t ts, uint64_t index,
                          bool *last, osync_error_t *err);
/* True if a delete of the window behind entry `after` takes the row away. Any order. */
int osync__window_deletes(osync__window_t *w, const void *pk, size_t pk_len, uint64_t ts, uint64_t after, bool *deleted,
                          osync_error_t *err);

#endif
