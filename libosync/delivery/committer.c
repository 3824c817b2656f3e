/* Steps 4 and 5: a staged file is prepared in the store, published by a rename, and committed in the store. The prepare
 * is where a stale owner is refused; what it says is all that recovery needs. */
#include <string.h>

#include "base/error.h"
#include "delivery/internal.h"

static void committed(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status) {
        osync__trouble(d, status, err);
        return;
    }
    d->state = OSYNC__READY;
    osync__committed(d);
    if (d->state != OSYNC__READY) return;
    bool adopted = d->adopting;
    osync__forget_staged(d);
    if (adopted) osync__answer_append(d, 0, NULL);
    osync__answer_flush(d, 0, NULL);
    osync__pump(d);
}

int osync__apply_prepared(osync__delivery_t *d) {
    osync__record_t *r = &d->rec;
    if (osync__buf_set(&r->point, r->prepared.end.data, r->prepared.end.len)) return OSYNC_ENOMEM;
    r->next = r->prepared.n + 1;
    r->rows += r->prepared.rows;
    r->bytes += r->prepared.bytes;
    r->files++;
    r->has_prepared = false;
    return 0;
}

static void out_of_memory(osync__delivery_t *d) {
    osync_error_t err;
    osync__err(&err, OSYNC_ENOMEM, "a record: out of memory");
    osync__trouble(d, err.code, &err);
}

static void published(osync__delivery_t *d, int status, const osync_error_t *err) {
    /* A3, A5: "refused" may be the second answer to a request that was done, and no answer says nothing. Looking at the
     * names now wouldn't help either: the rename may still be under way. So: recovery, which fences first. */
    if (status)
        osync__trouble(d, status, err);
    else if (osync__apply_prepared(d))
        out_of_memory(d);
    else
        osync__store_put(d, OSYNC__FP_commit_cas, committed);
}

static void prepared(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status) {
        osync__trouble(d, status, err);
        return;
    }
    /* A6: the sink's rename never overwrites, and never goes into a folder of that name. */
    osync__path_final(d, d->rec.prepared.n);
    osync__path_keep(d);
    osync__path_staged(d);
    osync__sink_rename(d, OSYNC__FP_publish_rename, published);
}

void osync__commit_staged(osync__delivery_t *d) {
    osync__prepared_t *p = &d->rec.prepared;
    p->n = d->rec.next;
    memcpy(p->incarnation, d->rec.incarnation, sizeof p->incarnation);
    memcpy(p->attempt, d->attempt, sizeof p->attempt);
    p->file_id = d->file_id;
    p->rows = d->staged_rows;
    p->bytes = d->staged_bytes;
    d->rec.has_prepared = true;
    if (osync__buf_set(&p->end, d->end.data, d->end.len))
        out_of_memory(d);
    else
        osync__store_put(d, OSYNC__FP_prepare_cas, prepared);
}

void osync__commit_point(osync__delivery_t *d) {
    d->state = OSYNC__WORKING;
    if (osync__buf_set(&d->rec.point, d->end.data, d->end.len))
        out_of_memory(d);
    else
        osync__store_put(d, OSYNC__FP_point_cas, committed);
}
