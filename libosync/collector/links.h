/* Hard links of one partition's files: what the collector reads stays there although the TabletServer deletes it. Links
 * only, no reading of rows, no decision about sync points beyond "which files does this one need". Blocking calls, one
 * thread at a time.
 *
 * Below `dir`: snapshot/MANIFEST, snapshot/data/ (the checkpoint's files, or a memory table's .sdb),
 * binlog/NNNNNNNN.log. A snapshot/ that is there is complete. */
#ifndef OSYNC_COLLECTOR_LINKS_H
#define OSYNC_COLLECTOR_LINKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "data_sync.pb-c.h"
#include "format/snapshot.h"
#include "osync/error.h"

typedef struct osync__links {
    const char *snapshot_source; /* the tablet's snapshot/ and binlog/; borrowed */
    const char *binlog_source;
    const char *dir;         /* the partition's own folder; borrowed */
    uint64_t lowest;         /* binlog files with a lower number are not linked (any more) */
    uint64_t files, bytes;   /* held, as osync__links_measure saw it */
    uint64_t pinned;         /* of `bytes`: of files that the tablet has deleted */
    void (*hook)(void *arg); /* NULL; called when MANIFEST has been read and its folder isn't linked yet, so that a test
                                can race */
    void *hook_arg;
} osync__links_t;

/* Everything a task needs: binlog, then the snapshot if `snapshot` (and none is held), then the binlog again. `relink`:
 * links of a partition that was re-created since are thrown away and made anew; else that is OSYNC_EDIVERGED.
 * OSYNC_EXDEV: another file system. The partition's folder is made. What is linked is durable. */
int osync__links_all(osync__links_t *links, bool snapshot, bool relink, osync_error_t *err);

/* Links new binlog files. OSYNC_EDIVERGED: a linked file's name now belongs to another file, or the tablet's numbering
 * went back: the partition was re-created. */
int osync__links_binlog(osync__links_t *links, osync_error_t *err);

/* Links the snapshot that MANIFEST names, again if it is replaced meanwhile. No MANIFEST: nothing is linked. */
int osync__links_snapshot(osync__links_t *links, osync_error_t *err);

/* The held snapshot: name, and when it was made at the latest (wall clock); its whole MANIFEST. OSYNC_ENOENT: none is
 * held. */
int osync__links_snapshot_info(const osync__links_t *links, char *name, size_t size, uint64_t *made_ms,
                               osync_error_t *err);
int osync__links_manifest(const osync__links_t *links, osync__manifest_t *out, osync_error_t *err);

int osync__links_drop_snapshot(osync__links_t *links, osync_error_t *err);

/* Drops what nobody needs who goes on from `committed`. Log files are dropped only if log and snapshot that are
 * held are the ones that the point speaks of: a log of a later leader, and another snapshot, may be needed from further
 * back on. */
int osync__links_release(osync__links_t *links, const Openmldb__Datasync__SyncPoint *committed, osync_error_t *err);

/* Drops everything. */
int osync__links_drop(osync__links_t *links, osync_error_t *err);

/* Log entries that are held; 0 and 0: none. */
int osync__links_entries(const osync__links_t *links, uint64_t *first, uint64_t *last, osync_error_t *err);
/* Log entries that who goes on from `committed` needs and that the TabletServer itself has no more; 0 and 0: none. */
int osync__links_missing(const osync__links_t *links, const Openmldb__Datasync__SyncPoint *committed, uint64_t *first,
                         uint64_t *last, osync_error_t *err);

/* Counts what is held. */
void osync__links_measure(osync__links_t *links);

#endif
