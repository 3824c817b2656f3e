/* What OpenMLDB's own collector leaves in a partition's folder, where ours goes on: its task.progress and its links
 * have the same names and places, but its sync points don't say which snapshot they are in. Blocks; reads only. */
#ifndef OSYNC_COLLECTOR_ORIGINAL_H
#define OSYNC_COLLECTOR_ORIGINAL_H

#include <stdbool.h>

#include "base/buf.h"
#include "collector/links.h"
#include "data_sync.pb-c.h"
#include "osync/error.h"

/* It stands inside a traverse that the original has begun. */
bool osync__original_inside(const Openmldb__Datasync__SyncPoint *point);

/* OSYNC_ENOTSUP unless the snapshot that this traverse reads is the one that is linked: the folder's own stored task
 * (a file of that name) stands in a traverse of the original too. */
int osync__original_check(const osync__links_t *links, const char *progress, osync_error_t *err);

/* Makes of its point one for the reader: what was sent before it has the seam that the original gives it, MANIFEST's
 * offset; what follows is read as any snapshot is. */
int osync__original_point(const osync__links_t *links, const Openmldb__Datasync__SyncPoint *point, osync__buf_t *out,
                          osync_error_t *err);

#endif
