/* A table's description: columns, schema versions, indexes, TTL, compression; what is needed to understand its rows.
 *
 * Made from OpenMLDB's api::TableMeta (what GetTableSchema answers) or nameserver::TableInfo (what stands in
 * ZooKeeper). Immutable once made, so any number of threads may use one at the same time. Its columns: osync/row.h. */
#ifndef OSYNC_TABLE_H
#define OSYNC_TABLE_H

#include <stddef.h>

#include "osync/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct osync_table osync_table_t;

/* Parses serialized api::TableMeta, which isn't needed afterwards. The caller owns *out: osync_table_free; NULL on
 * failure. Fails with OSYNC_ECORRUPT (not a TableMeta), OSYNC_EINVAL (a column or index that makes no sense, named),
 * OSYNC_ENOTSUP (a type of column, compression or TTL that isn't known, or a column type without a row form),
 * OSYNC_ETOOBIG (more than 65536 columns), OSYNC_ENOMEM. */
OSYNC_API int osync_table_from_meta(osync_table_t **out, const void *meta, size_t len, osync_error_t *err);
/* The same from serialized nameserver::TableInfo. */
OSYNC_API int osync_table_from_info(osync_table_t **out, const void *info, size_t len, osync_error_t *err);
/* No encoder, reader or name may use it any more. NULL is fine. */
OSYNC_API void osync_table_free(osync_table_t *table);

#ifdef __cplusplus
}
#endif
#endif
