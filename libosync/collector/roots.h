/* Where a TabletServer has a memory table's files: GetTableStatus doesn't say, so the folder is derived from the
 * TabletServer's own flag and has to prove itself (docs/delivery.md, memory tables). Blocking calls. */
#ifndef OSYNC_COLLECTOR_ROOTS_H
#define OSYNC_COLLECTOR_ROOTS_H

#include <stdint.h>

#include "osync/error.h"

/* Finds the partition's folder below one of the roots ("a,b,..."); *dir is absolute, without a '/' at the end, and the
 * caller's to free. *tail: the last entry of its log, which must be at least `offset`. OSYNC_ECONFIG: no root is given.
 * OSYNC_EAGAIN: there is no such folder, there are several, or it is another partition's. */
int osync__roots_find(const char *roots, uint32_t tid, uint32_t pid, uint64_t offset, char **dir, uint64_t *tail,
                      osync_error_t *err);

/* The error of a log that ends with entry `tail` where the TabletServer's ends with `offset`, which can't be the same
 * one. Returns OSYNC_EAGAIN. */
int osync__roots_mismatch(const char *log, uint64_t tail, uint64_t offset, osync_error_t *err);

/* What to say if there is no root. */
#define OSYNC__ROOTS_MISSING                                                                                           \
    "storage_mode is kMemory, and of a memory table no TabletServer tells where its files are: --db_root_path must "   \
    "name the TabletServer's own db_root_path"

#endif
