#include "collector/original.h"

#include <stdio.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/sys.h"
#include "collector/internal.h"
#include "format/snapshot.h"

bool osync__original_inside(const Openmldb__Datasync__SyncPoint *p) {
    return p->type == OPENMLDB__DATASYNC__SYNC_TYPE__kSNAPSHOT && p->has_pk && p->n_ranges == 0 && !p->snapshot_id;
}

int osync__original_check(const osync__links_t *links, const char *progress, osync_error_t *err) {
    osync__buf_t bytes = {0};
    osync__manifest_t manifest;
    Openmldb__Datasync__AddSyncTaskRequest *r = NULL;
    bool same = osync__links_manifest(links, &manifest, NULL) == 0 &&
                osync__read_file(progress, OSYNC__PROGRESS_LIMIT, &bytes, NULL) == 0;
    if (same) r = openmldb__datasync__add_sync_task_request__unpack(&osync__protobuf_allocator, bytes.len, bytes.data);
    same = r && r->sync_point && osync__original_inside(r->sync_point);
    if (r) openmldb__datasync__add_sync_task_request__free_unpacked(r, &osync__protobuf_allocator);
    osync__buf_free(&bytes);
    if (same) return 0;
    return osync__err(
        err, OSYNC_ENOTSUP,
        "OpenMLDB's collector was in the middle of a snapshot, and only the links in its own folder are of "
        "that snapshot: going on in another one would leave rows out. Start a collector with that "
        "folder (--collector_datadir, where it was), or begin anew with `create --restart`");
}

int osync__original_point(const osync__links_t *links, const Openmldb__Datasync__SyncPoint *point, osync__buf_t *out,
                          osync_error_t *err) {
    Openmldb__Datasync__SyncPoint p = *point;
    Openmldb__Datasync__SyncRange range = OPENMLDB__DATASYNC__SYNC_RANGE__INIT, *ranges[] = {&range};
    osync__manifest_t manifest;
    uint64_t first, last;
    int rc = osync__links_manifest(links, &manifest, err);
    if (!rc) rc = osync__links_entries(links, &first, &last, err);
    if (rc) return rc;
    /* After deletes without a key MANIFEST's offset runs ahead of the log: what isn't logged yet is in no snapshot. */
    uint64_t seam = manifest.offset < last ? manifest.offset : last;
    range.has_window_base = range.has_window_tail = 1;
    range.window_base = range.window_tail = seam;
    p.ranges = ranges;
    p.n_ranges = 1;
    out->len = 0;
    size_t len = openmldb__datasync__sync_point__get_packed_size(&p);
    if (osync__buf_reserve(out, len)) return osync__err(err, OSYNC_ENOMEM, "out of memory");
    out->len = openmldb__datasync__sync_point__pack(&p, out->data);
    osync__log(OSYNC_LOG_WARN,
               "going on in the snapshot that OpenMLDB's collector was in: for the keys before this point its seam "
               "counts, log entry %llu; for those behind it our own",
               (unsigned long long)seam);
    return 0;
}
