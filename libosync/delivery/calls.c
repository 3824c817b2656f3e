/* Calls to the sink and the store, one at a time, each with the step that follows it; and the names of things on the
 * sink. Nothing is decided here. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "delivery/internal.h"

#define TOMB  ".fenced"
#define CLAIM ".rebuilt"

static void answered(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (d->fp != OSYNC__FAILPOINTS) OSYNC__AFTER_POINT(d->fp);
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

static void begin(osync__delivery_t *d, osync__failpoint_t fp, osync__step next) {
    if (fp != OSYNC__FAILPOINTS) OSYNC__BEFORE_POINT(fp);
    d->next = next;
    d->fp = fp;
    d->calls++;
}

/* A call that couldn't begin is a call that failed. */
static void begun(osync__delivery_t *d, int rc) {
    if (rc) answered(d, rc, NULL);
}

static void on_done(void *arg, int status, const osync_error_t *err) {
    answered(arg, status, err);
}

void osync__sink_mkdirs(osync__delivery_t *d, osync__failpoint_t fp, osync__step next) {
    begin(d, fp, next);
    begun(d, d->c.sink->ops->mkdirs(d->c.sink, d->path, on_done, d));
}

void osync__sink_create(osync__delivery_t *d, osync__failpoint_t fp, osync__step next) {
    begin(d, fp, next);
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

void osync__sink_write(osync__delivery_t *d, osync__failpoint_t fp, const void *data, size_t len, osync__step next) {
    begin(d, fp, next);
    d->writing = true;
    int rc = d->c.sink->ops->write(d->file, data, len, on_written, d);
    if (rc) d->writing = false;
    begun(d, rc);
}

void osync__sink_finish(osync__delivery_t *d, osync__failpoint_t fp, osync__step next) {
    begin(d, fp, next);
    osync_sink_file_t *file = d->file;
    d->file = NULL;
    int rc = d->c.sink->ops->finish(file, on_done, d);
    if (rc) d->file = file;
    begun(d, rc);
}

void osync__sink_abort(osync__delivery_t *d, osync__step next) {
    begin(d, OSYNC__FAILPOINTS, next);
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
    begin(d, OSYNC__FAILPOINTS, next);
    begun(d, d->c.sink->ops->stat(d->c.sink, d->path, on_stat, d));
}

void osync__sink_set_label(osync__delivery_t *d, osync__failpoint_t fp, osync__step next) {
    begin(d, fp, next);
    begun(d, d->c.sink->ops->set_label(d->c.sink, d->path, d->label.data, d->label.len, on_done, d));
}

static void on_label(void *arg, int status, const void *label, size_t len, const osync_error_t *err) {
    osync__delivery_t *d = arg;
    if (!status) status = osync__buf_set(&d->got, label, len);
    answered(d, status, err);
}

void osync__sink_get_label(osync__delivery_t *d, osync__step next) {
    begin(d, OSYNC__FAILPOINTS, next);
    begun(d, d->c.sink->ops->get_label(d->c.sink, d->path, on_label, d));
}

void osync__sink_rename(osync__delivery_t *d, osync__failpoint_t fp, osync__step next) {
    begin(d, fp, next);
    begun(d, d->c.sink->ops->rename(d->c.sink, d->path, d->path2, on_done, d));
}

void osync__sink_remove(osync__delivery_t *d, osync__failpoint_t fp, bool recursive, osync__step next) {
    begin(d, fp, next);
    begun(d, d->c.sink->ops->remove(d->c.sink, d->path, recursive, on_done, d));
}

/* Keeps the names of incarnations, with or without ".fenced", and of claims, and nothing else. */
static void on_list(void *arg, int status, const char *const *names, size_t n, const osync_error_t *err) {
    osync__delivery_t *d = arg;
    osync__free(d->found);
    d->found = NULL;
    d->n_found = 0;
    if (!status && n > 0) {
        d->found = osync__calloc(n, sizeof *d->found);
        if (!d->found) status = OSYNC_ENOMEM;
    }
    for (size_t i = 0; i < n && !status; i++) {
        size_t len = strspn(names[i], "0123456789abcdef");
        const char *rest = names[i] + len;
        bool is_claim = strcmp(rest, CLAIM) == 0;
        if (len != OSYNC__ID_SIZE - 1 || (*rest && !is_claim && strcmp(rest, TOMB) != 0)) continue;
        memcpy(d->found[d->n_found].id, names[i], len);
        d->found[d->n_found++].is_claim = is_claim;
    }
    answered(d, status, err);
}

void osync__sink_list(osync__delivery_t *d, osync__step next) {
    begin(d, OSYNC__FAILPOINTS, next);
    begun(d, d->c.sink->ops->list(d->c.sink, d->path, on_list, d));
}

static void final_name(const osync__delivery_t *d, uint64_t n, const char *suffix, char name[OSYNC__FILE_NAME_SIZE]) {
    if (d->c.is_stream)
        (void)snprintf(name, OSYNC__FILE_NAME_SIZE, "%s-%010" PRIu64 "%s", d->task_id, n, suffix);
    else
        (void)snprintf(name, OSYNC__FILE_NAME_SIZE, "part-%s-%05" PRIu32 "-%010" PRIu64 ".csv", d->task_id, d->c.pid,
                       n);
}

static void on_files(void *arg, int status, const char *const *names, size_t n, const osync_error_t *err) {
    osync__delivery_t *d = arg;
    char same[OSYNC__FILE_NAME_SIZE];
    final_name(d, 0, "", same);
    size_t prefix = (size_t)(strrchr(same, '-') + 1 - same);
    d->has_newest = false;
    for (size_t i = 0; i < n && !status; i++) {
        if (strncmp(names[i], same, prefix) != 0 || strlen(names[i]) >= sizeof same) continue;
        const char *number = names[i] + prefix, *rest = number + strspn(number, "0123456789");
        if (*rest && *rest != '.') continue;
        uint64_t slot = strtoull(number, NULL, 10);
        final_name(d, slot, rest, same);
        if (strcmp(names[i], same) != 0 || (d->has_newest && slot < d->newest)) continue;
        d->has_newest = true;
        d->newest = slot;
        memcpy(d->newest_name, same, sizeof same);
    }
    answered(d, status, err);
}

void osync__sink_list_files(osync__delivery_t *d, osync__step next) {
    (void)snprintf(d->path, sizeof d->path, "%s", *d->dest ? d->dest : "/");
    begin(d, OSYNC__FAILPOINTS, next);
    begun(d, d->c.sink->ops->list(d->c.sink, d->path, on_files, d));
}

void osync__sink_barrier(osync__delivery_t *d, osync__failpoint_t fp, osync__step next) {
    begin(d, fp, next);
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
    begin(d, OSYNC__FAILPOINTS, next);
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

/* A9: the whole value is compared, with its random incarnation and owner. A number, even of versions, would come again
 * in a store that was lost and rebuilt. */
static int put(osync__delivery_t *d) {
    int rc = osync__record_pack(&d->rec, d->task_id, d->c.pid, &d->tried);
    if (rc) return rc;
    return d->c.store->ops->cas(d->c.store, d->key, d->stored.len ? d->stored.data : NULL, d->stored.len, d->tried.data,
                                d->tried.len, on_put, d);
}

void osync__store_put(osync__delivery_t *d, osync__failpoint_t fp, osync__step next) {
    begin(d, fp, next);
    store_begun(d, put(d));
}

void osync__store_remove(osync__delivery_t *d, osync__failpoint_t fp, osync__step next) {
    begin(d, fp, next);
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
    set_path(d, "%s/_osync/%s/%" PRIu32 "/%s" TOMB, d->dest, d->task_id, d->c.pid, incarnation);
}

void osync__path_staged(osync__delivery_t *d) {
    set_path(d, "%s/_osync/%s/%" PRIu32 "/%s/%s", d->dest, d->task_id, d->c.pid, d->rec.incarnation, d->attempt);
}

void osync__path_entombed(osync__delivery_t *d, const osync__prepared_t *p) {
    set_path(d, "%s/_osync/%s/%" PRIu32 "/%s" TOMB "/%s", d->dest, d->task_id, d->c.pid, p->incarnation, p->attempt);
}

void osync__path_claim(osync__delivery_t *d) {
    set_path(d, "%s/_osync/%s/%" PRIu32 "/%s" CLAIM, d->dest, d->task_id, d->c.pid, d->rec.claim);
}

void osync__path_final(osync__delivery_t *d, uint64_t n) {
    char name[OSYNC__FILE_NAME_SIZE];
    final_name(d, n, d->suffix, name);
    set_path(d, "%s/%s", d->dest, name);
}

void osync__path_newest(osync__delivery_t *d) {
    set_path(d, "%s/%s", d->dest, d->newest_name);
}

int osync__folder_text(const osync__delivery_t *d, osync__buf_t *out) {
    out->len = 0;
    int rc = osync__buf_printf(out, "%s/_osync/%s/%" PRIu32 "/%s", d->dest, d->task_id, d->c.pid, d->rec.incarnation);
    return rc ? rc : osync__buf_append(out, "", 1);
}

void osync__path_keep(osync__delivery_t *d) {
    memcpy(d->path2, d->path, sizeof d->path2);
}
