/* Disk-table snapshots: MANIFEST, the key form and order, and the base index's entries of a RocksDB checkpoint.
 * Blocking calls. */
#ifndef OSYNC_FORMAT_SNAPSHOT_H
#define OSYNC_FORMAT_SNAPSHOT_H

#include <rocksdb/c.h>

#include "base/buf.h"
#include "format/table.h"

typedef struct osync__manifest {
    uint64_t offset, count, term;
    char name[256]; /* of the checkpoint's folder: never with a '/', never "." or ".." */
} osync__manifest_t;

/* Parses text-format api::Manifest; what isn't given is 0. OSYNC_ECORRUPT, with the line: not that, or no name that is
 * a plain file name. */
int osync__manifest_parse(const char *text, size_t len, osync__manifest_t *out, osync_error_t *err);

/* A comparator named KeyTSComparator with the order of docs/formats.md: prefix ascending, ts descending. */
rocksdb_comparator_t *osync__key_comparator(void);

/* Appends the base index's key of (pk, ts): pk, the ts column id if the table's base index has several ts columns, ts.
 */
int osync__key_encode(const osync_table_t *table, const void *pk, size_t pk_len, uint64_t ts, osync__buf_t *out);
/* Splits a key. *other: it belongs to another ts column of the same column family. OSYNC_ECORRUPT if it is too short,
 * or names a ts column that the table doesn't have. */
int osync__key_decode(const osync_table_t *table, const void *key, size_t len, size_t *pk_len, uint64_t *ts,
                      bool *other, osync_error_t *err);
/* The order of the base index's keys, as in the checkpoint. */
int osync__key_compare(const void *a, size_t a_len, const void *b, size_t b_len);

/* What no other checkpoint has: a hard link of its CURRENT shares inode and time with what it was made from. */
enum { OSYNC__SNAPSHOT_ID = 96 };
int osync__snapshot_id(const char *dir, char id[OSYNC__SNAPSHOT_ID], osync_error_t *err);
/* The same of a file: a checkpoint's CURRENT, a memory table's snapshot. */
int osync__file_id(const char *path, char id[OSYNC__SNAPSHOT_ID], osync_error_t *err);

/* A checkpoint, opened read-only: nothing in its folder changes. One thread at a time. */
typedef struct osync__snapshot osync__snapshot_t;

int osync__snapshot_open(osync__snapshot_t **out, const osync_table_t *table, const char *dir, osync_error_t *err);
void osync__snapshot_close(osync__snapshot_t *snapshot);
/* Whether the base index's keys hold a ts column id in this checkpoint. Differs from the table's multi_ts after an
 * index was added at run time; who encodes keys for this snapshot has to use a table with this form. */
bool osync__snapshot_multi_ts(const osync__snapshot_t *snapshot);
/* RocksDB's estimate; 0 may mean "not known". */
uint64_t osync__snapshot_estimate(const osync__snapshot_t *snapshot);
/* One value by its key: 0, or OSYNC_ENOENT. `value` is appended to. */
int osync__snapshot_get(osync__snapshot_t *snapshot, const void *key, size_t len, osync__buf_t *value,
                        osync_error_t *err);

/* The entries of the base index in key order, other ts columns' keys left out. One cursor a snapshot is open at a time.
 */
typedef struct osync__entry {
    const uint8_t *key; /* whole key */
    size_t key_len;
    size_t pk_len;
    uint64_t ts;
    const uint8_t *value; /* as stored: compressed if the table is */
    size_t value_len;
} osync__entry_t;

/* Positions at the first entry at or after `key` (NULL: the first of all). The next call of _next gives that entry. */
int osync__snapshot_seek(osync__snapshot_t *snapshot, const void *key, size_t len, osync_error_t *err);
/* The next entry, valid until the next call; OSYNC_EOF at the end. RocksDB's own errors are errors here. */
int osync__snapshot_next(osync__snapshot_t *snapshot, osync__entry_t *entry, osync_error_t *err);

#endif
