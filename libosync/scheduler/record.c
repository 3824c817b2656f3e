/* Records in the checkpoint store: each change is a compare-and-set against what is known to be there. A write whose
 * outcome is unknown is followed by a read, and tried again at the scheduler's next tick. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/failpoint.h"
#include "scheduler/internal.h"

void osync__sched_record_init(osync__record_t *r, osync_scheduler_t *s, int (*pack)(void *, osync__buf_t *),
                              void (*settled)(void *), void *owner) {
    *r = (osync__record_t){.s = s, .pack = pack, .settled = settled, .owner = owner};
}

void osync__sched_record_free(osync__record_t *r) {
    osync__buf_free(&r->stored);
    osync__buf_free(&r->writing);
}

int osync__sched_record_loaded(osync__record_t *r, const void *value, size_t len) {
    r->exists = true;
    return osync__buf_set(&r->stored, value, len);
}

bool osync__sched_record_idle(const osync__record_t *r) {
    return !r->busy && !r->dirty;
}

static void write_now(osync__record_t *r);

static void done(osync__record_t *r) {
    r->exists = r->writing.len > 0; /* a record is never empty */
    osync__buf_t tmp = r->stored;
    r->stored = r->writing;
    r->writing = tmp;
    r->failed = false;
    if (r->dirty)
        write_now(r);
    else
        r->settled(r->owner);
}

static void on_get(void *arg, int status, const void *value, size_t len, const osync_error_t *err) {
    osync__record_t *r = arg;
    osync_scheduler_t *s = r->s;
    r->busy = false;
    bool found = status == 0;
    if (found || status == OSYNC_ENOENT) {
        bool wanted = r->writing.len > 0;
        if (found == wanted && (!found || (len == r->writing.len && memcmp(value, r->writing.data, len) == 0))) {
            done(r);
            osync__sched_drop(s);
            return;
        }
        r->exists = found && osync__buf_set(&r->stored, value, len) == 0;
    }
    r->dirty = r->failed = true;
    r->settled(r->owner);
    osync__sched_drop(s);
}

static void on_cas(void *arg, int status, const osync_error_t *err) {
    osync__record_t *r = arg;
    osync_scheduler_t *s = r->s;
    if (r->writing.len > 0)
        OSYNC__AFTER(record_put);
    else
        OSYNC__AFTER(record_remove);
    r->busy = false;
    if (status == 0) {
        done(r);
        osync__sched_drop(s);
        return;
    }
    osync__log(OSYNC_LOG_ERROR, "%s: record %s could not be written, trying again: %s", s->store_path, r->key,
               err ? err->message : osync_strerror(status));
    r->busy = true;
    if (s->closing || s->store->ops->get(s->store, r->key, on_get, r)) {
        r->busy = false;
        r->dirty = r->failed = true;
        r->settled(r->owner);
        osync__sched_drop(s);
    }
}

static void write_now(osync__record_t *r) {
    osync_scheduler_t *s = r->s;
    if (s->closing) return; /* what isn't stored by now is as if it had not happened */
    r->writing.len = 0;
    r->dirty = false;
    if (r->removing && !r->exists) {
        r->settled(r->owner);
        return;
    }
    int rc = r->removing ? 0 : r->pack(r->owner, &r->writing);
    if (!rc && !r->removing && r->exists && osync__buf_equal(&r->writing, &r->stored)) {
        r->settled(r->owner);
        return;
    }
    if (!rc) {
        osync__sched_hold(s);
        r->busy = true;
        if (r->removing)
            OSYNC__BEFORE(record_remove);
        else
            OSYNC__BEFORE(record_put);
        rc = s->store->ops->cas(s->store, r->key, r->exists ? r->stored.data : NULL, r->exists ? r->stored.len : 0,
                                r->removing ? NULL : r->writing.data, r->removing ? 0 : r->writing.len, on_cas, r);
        if (rc) {
            r->busy = false;
            s->holds--; /* nothing can be waiting for it: the scheduler isn't closing */
        }
    }
    if (rc) {
        osync__log(OSYNC_LOG_ERROR, "%s: record %s could not be written, trying again: %s", s->store_path, r->key,
                   osync_strerror(rc));
        r->dirty = r->failed = true;
    }
}

void osync__sched_record_put(osync__record_t *r) {
    r->dirty = true;
    if (!r->busy && !r->failed) write_now(r);
}

void osync__sched_record_remove(osync__record_t *r) {
    r->removing = true;
    osync__sched_record_put(r);
}

void osync__sched_record_retry(osync__record_t *r) {
    if (!r->failed || r->busy) return;
    r->failed = false;
    write_now(r);
}
