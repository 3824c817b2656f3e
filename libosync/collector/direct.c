/* Direct writing, the collector's half of its protocol (docs/delivery.md). */
#include "collector/direct.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/sys.h"
#include "collector/task.h"

enum {
    FAILURES = 3,      /* in a row; then rows go in attachments, */
    PROXY_MS = 300000, /* for so long */
};

bool osync__direct_wants(const osync__task_t *t) {
    return t->request->direct && strcmp(t->env->config->data_path, "proxy") != 0 &&
           osync__mono_ms() >= t->direct.proxy_until;
}

bool osync__direct_asks(const osync__task_t *t) {
    return !t->direct.grant && osync__direct_wants(t) && !t->direct.refused;
}

bool osync__direct_leaves_pack(const osync__task_t *t) {
    if (t->n_packs == 0 || osync__direct_asks(t)) return false;
    return !t->direct.grant || (t->packs[0].count == 0 && !osync__direct_has_rows(t));
}

const osync__buf_t *osync__direct_end_point(const osync__task_t *t) {
    const osync__direct_t *d = &t->direct;
    const osync__buf_t *end = d->stage ? osync__stage_point(d->stage) : NULL;
    return !end && d->has_file ? &d->file.next : end;
}

bool osync__direct_has_rows(const osync__task_t *t) {
    return osync__direct_end_point(t) != NULL;
}

uint64_t osync__direct_memory(const osync__task_t *t) {
    osync__stage_size_t size = {0};
    if (t->direct.stage) osync__stage_size(t->direct.stage, &size);
    return size.memory;
}

/* ---- what is void ---- */

static void on_stage_closed(void *arg) {
    osync__task_t *t = arg;
    t->direct.stages--;
    osync__task_go_on(t);
}

static void close_stage(osync__task_t *t) {
    osync__direct_t *d = &t->direct;
    if (!d->stage) return;
    d->stages++;
    osync__stage_close(d->stage, on_stage_closed, t);
    d->stage = NULL;
}

/* What follows on what is left is read again. */
static void read_again(osync__task_t *t) {
    osync__task_drop_packs(t);
    t->discard = true;
    osync__task_set_cancel(t, 1);
}

static void drop_file(osync__task_t *t) {
    osync__direct_t *d = &t->direct;
    if (!d->has_file) return;
    if (!d->sent && d->file.bytes > 0 && d->place) {
        char *path = osync__format("%s/%s", d->grant->folder, d->file.attempt);
        if (path) osync__place_remove(d->place, path);
        osync__free(path);
    }
    osync__staged_clear(&d->file);
    d->has_file = d->sent = false;
}

static void drop_grant(osync__task_t *t) {
    osync__direct_t *d = &t->direct;
    if (d->grant) openmldb__datasync__stage_grant__free_unpacked(d->grant, &osync__protobuf_allocator);
    osync__place_put(d->place);
    d->grant = NULL;
    d->place = NULL;
}

void osync__direct_void(osync__task_t *t) {
    bool had_rows = osync__direct_has_rows(t);
    close_stage(t);
    drop_file(t);
    if (had_rows) read_again(t);
}

void osync__direct_end(osync__task_t *t) {
    close_stage(t);
    drop_file(t);
    drop_grant(t);
}

/* ---- failures ---- */

static void note_problem(osync__task_t *t, const char *why, const char *what_follows) {
    osync_error_t err;
    const osync__direct_t *d = &t->direct;
    osync__err(&err, OSYNC_EIO, "this collector can't write to %.200s: %.600s%s",
               d->grant && d->grant->target ? d->grant->target : "the sink", why, what_follows);
    osync__task_note(t, &t->direct.problem, &err);
}

static void failed(osync__task_t *t, const osync_error_t *err) {
    osync__direct_t *d = &t->direct;
    char why[sizeof err->message];
    (void)snprintf(why, sizeof why, "%s", err->message);
    d->delay = osync__task_longer(d->delay);
    d->retry_at = osync__mono_ms() + d->delay;
    t->report_now = true;
    if (++d->failures < FAILURES || (d->grant && d->grant->required)) {
        note_problem(t, why, "; it tries again");
        return;
    }
    note_problem(t, why, "; its rows go by way of the scheduler");
    /* The next time one failure is enough. */
    d->failures = FAILURES - 1;
    d->delay = 0;
    d->retry_at = 0;
    d->proxy_until = osync__mono_ms() + PROXY_MS;
}

/* The stage has failed: what it held is read again. A file that is whole is as good as before. */
static void stage_failed(osync__task_t *t, osync__stage_failure_t failure, osync_error_t *err) {
    osync__direct_t *d = &t->direct;
    close_stage(t);
    if (failure == OSYNC__STAGE_ENCODER && err->code != OSYNC_ENOMEM && err->code != OSYNC_ECONFIG) {
        read_again(t);
        osync__task_rows_failed(t, err);
        return;
    }
    read_again(t);
    if (err->code == OSYNC_ENOENT && !d->maybe_fenced) {
        /* Nothing is staged before the answer: it has another incarnation, or this was a failure. */
        d->maybe_fenced = true;
        d->problem = *err;
        t->report_now = true;
        return;
    }
    failed(t, err);
}

static void on_stage(void *arg) {
    osync__task_t *t = arg;
    t->moved_at = osync__mono_ms();
    osync__task_send_next(t);
    osync__task_go_on(t);
}

/* ---- the grant ---- */

static bool same_text(const char *a, const char *b) {
    return strcmp(a ? a : "", b ? b : "") == 0;
}

/* What is staged there goes on. */
static bool same_place(const Openmldb__Datasync__StageGrant *a, const Openmldb__Datasync__StageGrant *b) {
    return same_text(a->incarnation, b->incarnation) && same_text(a->folder, b->folder) &&
           same_text(a->target, b->target);
}

static int copy_grant(osync__direct_t *d, const Openmldb__Datasync__StageGrant *g) {
    osync__buf_t b = {0};
    size_t len = openmldb__datasync__stage_grant__get_packed_size(g);
    if (osync__buf_reserve(&b, len)) return OSYNC_ENOMEM;
    openmldb__datasync__stage_grant__pack(g, b.data);
    d->grant = openmldb__datasync__stage_grant__unpack(&osync__protobuf_allocator, len, b.data);
    osync__buf_free(&b);
    return d->grant ? 0 : OSYNC_ENOMEM;
}

static int join(char *const *items, size_t n, osync__buf_t *out) {
    int rc = 0;
    for (size_t i = 0; i < n && !rc; i++) rc = osync__buf_printf(out, "%s%s", i > 0 ? "," : "", items[i]);
    return rc || n == 0 ? rc : osync__buf_append(out, "", 1);
}

static int take_grant(osync__task_t *t, const Openmldb__Datasync__StageGrant *g, osync_error_t *err) {
    osync__direct_t *d = &t->direct;
    osync__buf_t namenodes = {0};
    int rc = copy_grant(d, g);
    if (!rc) rc = join(g->namenodes, g->n_namenodes, &namenodes);
    if (rc)
        (void)osync__err(err, rc, "out of memory");
    else if (!osync__is_id(g->incarnation) || !g->folder || g->folder[0] != '/' || !g->target)
        rc = osync__err(err, OSYNC_EINVAL, "the scheduler names no folder that can be used");
    else
        rc = osync__places_get(t->env->places, g->target, g->user, (const char *)namenodes.data, &d->place, err);
    osync__buf_free(&namenodes);
    return rc;
}

void osync__direct_answered(osync__task_t *t, const Openmldb__Datasync__StageGrant *g, bool taken) {
    osync__direct_t *d = &t->direct;
    osync_error_t err = {0};
    if (!osync__direct_wants(t)) g = NULL; /* since it asked, it has given up */
    bool fenced = d->maybe_fenced;
    err = d->problem;
    if (fenced) d->problem = (osync_error_t){0};
    d->maybe_fenced = false;
    if (g && d->grant && same_place(g, d->grant)) {
        d->grant->required = g->required;
        /* Where there is no other way, the scheduler has to notice: under another name we get another folder. */
        if (fenced && g->required) osync__random_hex(d->stager, OSYNC__ID_BYTES);
        if (fenced) failed(t, &err);
        return;
    }
    osync__direct_void(t);
    drop_grant(t);
    if (!g) {
        d->refused |= taken;
        return;
    }
    d->refused = false;
    if (!take_grant(t, g, &err)) return;
    failed(t, &err);
    drop_grant(t);
}

void osync__direct_committed(osync__task_t *t) {
    osync__direct_t *d = &t->direct;
    osync__staged_clear(&d->file);
    d->has_file = d->sent = false;
    d->failures = 0;
    d->delay = 0;
    d->problem = (osync_error_t){0};
}

/* ---- staging ---- */

static bool has_stage(osync__task_t *t) {
    osync__direct_t *d = &t->direct;
    const Openmldb__Datasync__StageGrant *g = d->grant;
    osync_error_t err;
    if (d->stage) return true;
    osync__stage_config_t config = {
        .loop = t->env->loop,
        .pool = t->env->pool,
        .place = d->place,
        .budget = t->env->reading,
        .folder = g->folder,
        .timezone = g->csv_timezone,
        .roll_bytes = g->roll_bytes,
        .roll_interval_ms = g->roll_interval_ms,
        .changed = on_stage,
        .arg = t,
    };
    int rc = osync__stage_new(&config, &d->stage);
    if (!rc) return true;
    osync__err(&err, rc, "out of memory");
    failed(t, &err);
    return false;
}

void osync__direct_feed(osync__task_t *t) {
    osync__direct_t *d = &t->direct;
    osync_error_t err = {0};
    osync__stage_failure_t failure = d->stage ? osync__stage_failed(d->stage, &err) : OSYNC__STAGE_GOES_ON;
    if (failure) stage_failed(t, failure, &err);
    if (d->grant && !d->has_file && !osync__direct_wants(t)) {
        osync__direct_void(t);
        drop_grant(t);
    }
    if (t->sending && t->pack_sent) return; /* packs[0] is on its way */
    if (!d->grant || d->maybe_fenced || osync__mono_ms() < d->retry_at || !osync__direct_wants(t)) return;
    while (t->n_packs > 0 && (t->packs[0].count > 0 || osync__direct_has_rows(t))) {
        if (!has_stage(t) || !osync__stage_has_room(d->stage)) break;
        osync__stage_add(d->stage, &t->packs[0], t->feed.table);
        osync__task_shift_packs(t);
    }
    if (d->stage && t->failed) osync__stage_flush(d->stage);
    if (d->stage && !d->has_file) d->has_file = osync__stage_take(d->stage, &d->file);
}
