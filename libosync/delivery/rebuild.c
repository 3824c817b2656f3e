/* What recovery does more if the store was lost. The record is made again, marked `rebuilding`, from what the sink
 * holds: first a claim goes into the partition's folder, so that an owner who still has the lost store, or a copy of
 * it, stops by himself; then everybody is fenced (A8); and only then the newest file is looked for. Its label says
 * where to go on. The order of fence and look is the point: a rename of a former owner that comes after the look would
 * take a slot that was seen to be free. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/sys.h"
#include "delivery/internal.h"

static void claim_there(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status) {
        osync__trouble(d, status, err);
        return;
    }
    d->claim_made = true;
    osync__go_on(d);
}

static void claim_refused(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (d->cause.code == OSYNC_EEXIST) { /* an earlier try was done */
        osync__path_claim(d);
        osync__sink_barrier(d, OSYNC__FP_claim_barrier, claim_there);
        return;
    }
    if (d->cause.code == OSYNC_ENOENT) d->unused = false; /* the folder is gone: only another incarnation makes it */
    osync__trouble(d, d->cause.code, &d->cause);
}

static void claim_finished(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (!status) {
        claim_there(d, 0, NULL);
        return;
    }
    d->cause = *err;
    if (d->file)
        osync__sink_abort(d, claim_refused);
    else
        claim_refused(d, 0, NULL);
}

static void claim_created(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status)
        claim_finished(d, status, err);
    else
        osync__sink_finish(d, OSYNC__FP_claim_finish, claim_finished);
}

static void claim_stored(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status)
        osync__trouble(d, status, err);
    else
        osync__claim(d);
}

/* A claim begins with its number: one more than the largest that is there. Of two that are chosen at the same time, the
 * random rest decides. */
static void claims_listed(osync__delivery_t *d, int status, const osync_error_t *err) {
    char number[9] = "";
    unsigned long newest = 0;
    osync_error_t own;
    if (status && status != OSYNC_ENOENT) {
        osync__trouble(d, status, err);
        return;
    }
    for (size_t i = 0; i < d->n_found; i++) {
        if (!d->found[i].is_claim) continue;
        memcpy(number, d->found[i].id, 8);
        unsigned long n = strtoul(number, NULL, 16);
        if (n > newest) newest = n;
    }
    if (newest >= UINT32_MAX) {
        osync__path_folder(d, 0);
        osync__err(&own, OSYNC_ETOOBIG, "%s holds a claim with the largest number there is: remove %08lx*.rebuilt",
                   d->path, newest);
        osync__doom(d, &own);
        return;
    }
    osync__random_hex(d->rec.claim, OSYNC__ID_BYTES);
    (void)snprintf(number, sizeof number, "%08lx", newest + 1);
    memcpy(d->rec.claim, number, 8);
    osync__store_put(d, OSYNC__FP_others_cas, claim_stored);
}

void osync__claim(osync__delivery_t *d) {
    if (!d->rec.claim[0]) {
        osync__path_folder(d, 0);
        osync__sink_list(d, claims_listed);
        return;
    }
    osync__path_claim(d);
    osync__sink_create(d, OSYNC__FP_claim_create, claim_created);
}

static void rebuilt(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status) {
        osync__trouble(d, status, err);
        return;
    }
    osync__committed(d);
    if (d->state == OSYNC__RECOVERING && !d->file) osync__look_at_slot(d);
}

static void durable(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status) {
        osync__trouble(d, status, err);
        return;
    }
    d->rec.rebuilding = false;
    osync__store_put(d, OSYNC__FP_rebuilt_cas, rebuilt);
}

static void unusable(osync__delivery_t *d, const char *why) {
    osync_error_t own;
    osync__path_newest(d);
    osync__err(&own, OSYNC_EEXIST,
               "%s is the newest file of %s, but %s: it doesn't say where to go on. Move it away if it isn't one of "
               "its files, else put it back as it was",
               d->path, d->title, why);
    osync__doom(d, &own);
}

static void newest_labelled(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status == OSYNC_ENOENT) {
        unusable(d, "has no label of ours");
        return;
    }
    if (status) {
        osync__trouble(d, status, err);
        return;
    }
    osync_error_t own;
    osync__label_t label = {0};
    bool ours = false;
    int rc = osync__read_label(d, d->newest, &label, &ours);
    bool no_points = label.no_points;
    if (!rc && ours && !no_points) {
        d->rec.files = d->newest; /* in case that the label is too old to say the totals */
        rc = osync__take_label(d, &label);
    }
    osync__label_free(&label);
    if (rc) {
        osync__err(&own, rc, "a label: out of memory");
        osync__trouble(d, rc, &own);
    } else if (!ours) {
        unusable(d, "its label is that of another file");
    } else if (no_points) {
        unusable(d, "its label has no position, which was too big for the sink's labels");
    } else {
        osync__path_newest(d);
        osync__sink_barrier(d, OSYNC__FP_rebuilt_barrier, durable); /* A12: never commit on a read */
    }
}

static void newest_seen(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status)
        osync__trouble(d, status, err);
    else if (d->stat.is_dir)
        unusable(d, "is a folder");
    else
        osync__sink_get_label(d, newest_labelled);
}

static void files_listed(osync__delivery_t *d, int status, const osync_error_t *err) {
    osync_error_t own;
    if (status) {
        osync__trouble(d, status, err);
    } else if (d->has_newest) {
        osync__path_newest(d);
        osync__sink_stat(d, newest_seen);
    } else if (d->c.start_over) {
        osync__path_claim(d);
        osync__sink_barrier(d, OSYNC__FP_rebuilt_barrier, durable);
    } else {
        osync__err(&own, OSYNC_ENOENT,
                   "partition %" PRIu32
                   " of task %s has no record, and no file in %s that says where it ended: recover "
                   "it with --start-over to begin again with its first row (rows that were taken away from there come "
                   "again)",
                   d->c.pid, d->task_id, d->dest);
        osync__doom(d, &own); /* A11 */
    }
}

void osync__rebuild(osync__delivery_t *d) {
    osync__sink_list_files(d, files_listed);
}
