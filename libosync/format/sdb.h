/* A memory table's snapshot: a file of put entries in log order (docs/formats.md, memory-table snapshots), plain, or in
 * frames that zlib or snappy have compressed. Finds and checks entries, as binlog.h does for the log, and never skips
 * anything; what an entry means is its reader's business. Blocking calls. */
#ifndef OSYNC_FORMAT_SDB_H
#define OSYNC_FORMAT_SDB_H

#include "format/binlog.h"

typedef struct osync__sdb osync__sdb_t;

/* What its records have as their file's number. */
#define OSYNC__SDB_FILE UINT32_MAX

/* The file's name says whether it is compressed, as in OpenMLDB. */
int osync__sdb_open(osync__sdb_t **out, const char *path, osync_error_t *err);
void osync__sdb_close(osync__sdb_t *sdb);

/* The next entry, valid until the next call; its `at`, if the file is compressed, is where the
 * frame begins. Log indexes ascend, with gaps. OSYNC_EOF: the end record was reached. OSYNC_ECORRUPT, with path and
 * offset: a bad checksum, type, length or frame, an entry that doesn't parse or is out of order, or a file that ends
 * without its end record. OSYNC_ETOOBIG: an entry above OSYNC__BINLOG_MAX_ENTRY. After an error it can only be closed.
 */
int osync__sdb_next(osync__sdb_t *sdb, osync__log_record_t *record, osync_error_t *err);

#endif
