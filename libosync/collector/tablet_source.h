/* The table source that a collector has by itself: it asks the TabletServer. GetTableStatus says where a disk table's
 * files are, and of a memory table nothing: its folder is looked for below the TabletServer's db_root_path (roots.h),
 * between two GetTableStatus that show that it is the TabletServer's. GetTableSchema says what the rows look like. */
#ifndef OSYNC_COLLECTOR_TABLET_SOURCE_H
#define OSYNC_COLLECTOR_TABLET_SOURCE_H

#include <stdint.h>

#include "base/pool.h"
#include "net/rpc.h"
#include "osync/source.h"

typedef struct osync__tablet_source_config {
    osync__rpc_client_t *client; /* these are borrowed, and outlive every question */
    osync__pool_t *pool;
    const char *db_root_path;
    uint32_t request_timeout_ms;
} osync__tablet_source_config_t;

int osync__tablet_source_new(osync_source_t **out, const osync__tablet_source_config_t *config, osync_error_t *err);
/* NULL is fine. No question may be open. */
void osync__tablet_source_free(osync_source_t *source);

#endif
