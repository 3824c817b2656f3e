/* Calls to the sink and the store, one at a time, each with the step that follows it; and the names of things on the
 * sink. Nothing is decided here. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "delivery/internal.h"

static void answered(osync__delivery_t *d, int status, const osync_error_t *err) {
    d->calls--;
    if (d->closing) {
        osync__finish_close(d);
        return;
    }
    osync_error_t own;
    if (status && !err) {
        osync__err(&own, status, "%s: %s", d->path, osync_strerror(status));
        err = &own;
    }
    d->next(d, status, err);
}

static void begin(osync__delivery_t *d, osync__step next) {
    d->next = next;
    d->calls++;
}

/* A call that couldn't begin is a call that failed. */
static void begun(osync__delivery_t *d, int rc) {
    if (rc) answered(d, rc, NULL);
}

static void on_done(void *arg, int status, const osync_error_t *err) {
    answered(arg, status, err);
}

void osync__sink_mkdirs(osync__delivery_t *d, osync__step next) {
    begin(d, next);
    begun(d, d->c.sink->ops->mkdirs(d->c.sink, d->path, on_done, d));
}

void osync__sink_create(osync__delivery_t *d, osync__step next) {
    begin(d, next);
    d->file = NULL;
    int rc = d->c.sink->ops->create(d->c.sink, d->path, &d->file, on_done, d);
    if (rc) d->file = NULL;
    begun(d, rc);
}

static void on_written(void *arg, int status, const osync_error_t *err) {
    osync__delivery_t *d = arg;
    d->writing = false;
    answered(d, status, err);
}

void osync__sink_write(osync__delivery_t *d, const void *data, size_t len, osync__step next) {
    begin(d, next);
    d->writing = true;
    int rc = d->c.sink->ops->write(d->file, data, len, on_written, d);
    if (rc) d->writing = false;
    begun(d, rc);
}

void osync__sink_finish(osync__delivery_t *d, osync__step next) {
    begin(d, next);
    osync_sink_file_t *file = d->file;
    d->file = NULL;
    int rc = d->c.sink->ops->finish(file, on_done, d);
    if (rc) d->file = file;
    begun(d, rc);
}

void osync__sink_abort(osync__delivery_t *d, osync__step next) {
    begin(d, next);
    osync_sink_file_t *file = d->file;
    d->file = NULL;
    d->c.sink->ops->abort(file, on_done, d);
}

static void on_stat(void *arg, int status, const osync_sink_stat_t *stat, const osync_error_t *err) {
    osync__delivery_t *d = arg;
    if (!status) d->stat = *stat;
    answered(d, status, err);
}

void osync__sink_stat(osync__delivery_t *d, osync__step next) {
    begin(d, next);
    begun(d, d->c.sink->ops->stat(d->c.sink, d->path, on_stat, d));
}

void osync__sink_set_label(osync__delivery_t *d, osync__step next) {
    begin(d, next);
    begun(d, d->c.sink->ops->set_label(d->c.sink, d->path, d->label.data, d->label.len, on_done, d));
}

static void on_label(void *arg, int status, const void *label, size_t len, const osync_error_t *err) {
    osync__delivery_t *d = arg;
    if (!status) status = osync__buf_set(&d->got, label, len);
    answered(d, status, err);
}

void osync__sink_get_label(osync__delivery_t *d, osync__step next) {
    begin(d, next);
    begun(d, d->c.sink->ops->get_label(d->c.sink, d->path, on_label, d));
}

void osync__sink_rename(osync__delivery_t *d, osync__step next) {
    begin(d, next);
    begun(d, d->c.sink->ops->rename(d->c.sink, d->path, d->path2, on_done, d));
}

void osync__sink_remove(osync__delivery_t *d, bool recursive, osync__step next) {
    begin(d, next);
    begun(d, d->c.sink->ops->remove(d->c.sink, d->path, recursive, on_done, d));
}

/* Keeps the names of incarnations, with or without ".fenced", and nothing else. */
static void on_list(void *arg, int status, const char *const *names, size_t n, const osync_error_t *err) {
    osync__delivery_t *d = arg;
    free(d->names);
    d->names = NULL;
    d->n_names = 0;
    if (!status && n > 0) {
        d->names = calloc(n, sizeof *d->names);
        if (!d->names) status = OSYNC_ENOMEM;
    }
    for (size_t i = 0; i < n && !status; i++) {
        size_t len = strspn(names[i], "0123456789abcdef");
        if (len != OSYNC__ID_SIZE - 1 || (names[i][len] && strcmp(names[i] + len, ".fenced") != 0)) continue;
        memcpy(d->names[d->n_names++], names[i], len);
    }
    answered(d, status, err);
}

void osync__sink_list(osync__delivery_t *d, osync__step next) {
    begin(d, next);
    begun(d, d->c.sink->ops->list(d->c.sink, d->path, on_list, d));
}

void osync__sink_barrier(osync__delivery_t *d, osync__step next) {
    begin(d, next);
    begun(d, d->c.sink->ops->barrier(d->c.sink, d->path, on_done, d));
}

static void on_value(void *arg, int status, const void *value, size_t len, const osync_error_t *err) {
    osync__delivery_t *d = arg;
    if (!status) status = osync__buf_set(&d->got, value, len);
    answered(d, status, err);
}

static void store_begun(osync__delivery_t *d, int rc) {
    osync_error_t err;
    if (rc) answered(d, osync__err(&err, rc, "record %s: %s", d->key, osync_strerror(rc)), &err);
}

void osync__store_get(osync__delivery_t *d, osync__step next) {
    begin(d, next);
    store_begun(d, d->c.store->ops->get(d->c.store, d->key, on_value, d));
}

static void on_put(void *arg, int status, const osync_error_t *err) {
    osync__delivery_t *d = arg;
    if (!status) {
        osync__buf_t former = d->stored;
        d->stored = d->tried;
        d->tried = former;
        d->owned = true;
    }
    answered(d, status, err);
}

static int put(osync__delivery_t *d) {
    int rc = osync__record_pack(&d->rec, d->task_id, d->c.pid, &d->tried);
    if (rc) return rc;
    return d->c.store->ops->cas(d->c.store, d->key, d->stored.len ? d->stored.data : NULL, d->stored.len, d->tried.data,
                                d->tried.len, on_put, d);
}

void osync__store_put(osync__delivery_t *d, osync__step next) {
    begin(d, next);
    store_begun(d, put(d));
}

void osync__store_remove(osync__delivery_t *d, osync__step next) {
    begin(d, next);
    store_begun(d, d->c.store->ops->cas(d->c.store, d->key, d->stored.data, d->stored.len, NULL, 0, on_done, d));
}

static void OSYNC_PRINTF(2, 3) set_path(osync__delivery_t *d, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(d->path, sizeof d->path, fmt, ap); /* it fits: osync__delivery_new has checked the length of dest */
    va_end(ap);
}

void osync__path_folder(osync__delivery_t *d, int up) {
    if (up == 2)
        set_path(d, "%s/_osync", d->dest);
    else if (up == 1)
        set_path(d, "%s/_osync/%s", d->dest, d->task_id);
    else
        set_path(d, "%s/_osync/%s/%" PRIu32, d->dest, d->task_id, d->c.pid);
}

void osync__path_incarnation(osync__delivery_t *d, const char *incarnation) {
    set_path(d, "%s/_osync/%s/%" PRIu32 "/%s", d->dest, d->task_id, d->c.pid, incarnation);
}

void osync__path_tomb(osync__delivery_t *d, const char *incarnation) {
    set_path(d, "%s/_osync/%s/%" PRIu32 "/%s.fenced", d->dest, d->task_id, d->c.pid, incarnation);
}

void osync__path_staged(osync__delivery_t *d) {
    set_path(d, "%s/_osync/%s/%" PRIu32 "/%s/%s", d->dest, d->task_id, d->c.pid, d->rec.incarnation, d->attempt);
}

void osync__path_entombed(osync__delivery_t *d, const osync__prepared_t *p) {
    set_path(d, "%s/_osync/%s/%" PRIu32 "/%s.fenced/%s", d->dest, d->task_id, d->c.pid, p->incarnation, p->attempt);
}

void osync__path_final(osync__delivery_t *d, uint64_t n) {
    set_path(d, "%s/part-%s-%05" PRIu32 "-%010" PRIu64 ".csv", d->dest, d->task_id, d->c.pid, n);
}

void osync__path_keep(osync__delivery_t *d) {
    memcpy(d->path2, d->path, sizeof d->path2);
}
