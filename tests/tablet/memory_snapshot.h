/* Snapshots of memory tables: an .sdb file, made as OpenMLDB makes it, from the snapshot before and the log since then.
 * Its small reader shares nothing with libosync, so that an error there isn't made twice. */
#ifndef TABLET_MEMORY_SNAPSHOT_H
#define TABLET_MEMORY_SNAPSHOT_H

#include "disk_table.h"

/* Writes <folder>/<name>, with all that the log holds up to p->last. `before`: the file of the snapshot before, "" if
 * there is none, which ended with entry p->snapshot_offset. A name with ".zlib" or ".snappy" is compressed. *count:
 * records. */
int memory_snapshot_write(partition_t *p, const char *folder, const char *before, const char *name, uint64_t *count,
                          osync_error_t *err);

#endif
