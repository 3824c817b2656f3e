/* VerifySyncTask: an audit of the committed files of a destination, which also knows what the checkpoint says of the
 * tasks of this scheduler. The audit itself is in audit.c. */
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#include "base/alloc.h"
#include "base/error.h"
#include "scheduler/audit.h"
#include "scheduler/internal.h"

typedef struct osync__verify {
    osync_scheduler_t *s;
    osync__rpc_call_t *call;
    char *target;
    osync_sink_t *sink;
    osync__audit_t *audit; /* NULL: not begun */
    bool running;
    char (*ids)[37]; /* of this scheduler's tasks that write there */
    size_t n_ids, at;
    osync__verify_t *prev, *next;
} verify_t;

static void verify_free(verify_t *v) {
    osync_scheduler_t *s = v->s;
    DL_DELETE(s->verifies, v);
    if (v->audit && !v->running) osync__audit_free(v->audit);
    if (v->sink) osync__sinks_put(s->sinks, v->sink);
    s->n_verifies--;
    osync__free(v->target);
    osync__free(v->ids);
    osync__free(v);
    osync__sched_drop(s);
}

static void answer(osync__rpc_call_t *call, int code, const char *msg, const osync__audit_result_t *result) {
    Openmldb__Datasync__VerifySyncTaskResponse response = OPENMLDB__DATASYNC__VERIFY_SYNC_TASK_RESPONSE__INIT;
    Openmldb__Datasync__GeneralResponse general = OPENMLDB__DATASYNC__GENERAL_RESPONSE__INIT;
    general.has_code = 1;
    general.code = code;
    general.msg = (char *)(uintptr_t)msg;
    response.response = &general;
    if (result) {
        response.n_report = result->n_lines;
        response.report = result->lines;
        response.has_files = response.has_rows = response.has_bytes = response.has_holes = 1;
        response.files = result->files;
        response.rows = result->rows;
        response.bytes = result->bytes;
        response.holes = result->holes;
    }
    osync__rpc_reply(call, &response.base);
}

static void refuse(verify_t *v, const char *why) {
    answer(v->call, -1, why, NULL);
    verify_free(v);
}

static void on_audited(void *arg, const osync__audit_result_t *r) {
    verify_t *v = arg;
    char text[1200] = "";
    if (r->status)
        (void)snprintf(text, sizeof text, "%.120s can't be checked to the end: %.1020s", v->target, r->err.message);
    else if (r->holes || r->wrong)
        (void)snprintf(text, sizeof text, "%llu files are missing, %llu are wrong", (unsigned long long)r->holes,
                       (unsigned long long)r->wrong);
    else if (r->files == 0 && v->n_ids == 0)
        (void)snprintf(text, sizeof text, "%.1000s holds no file of this table", v->target);
    answer(v->call, *text ? -1 : 0, *text ? text : NULL, r);
    verify_free(v); /* the audit frees itself */
}

static bool has_task(void *arg, const char *id) {
    const verify_t *v = arg;
    return osync__sched_task_of_id(v->s, id) != NULL;
}

static void next_records(verify_t *v);

static void on_records(void *arg, int status, const osync_checkpoint_entry_t *entries, size_t n,
                       const osync_error_t *err) {
    verify_t *v = arg;
    osync_error_t own = {0};
    if (status || v->s->closing) {
        refuse(v, v->s->closing ? "the scheduler is stopping" : err ? err->message : osync_strerror(status));
        return;
    }
    for (size_t i = 0; i < n; i++) {
        char id[37];
        unsigned pid;
        int used = 0;
        if (sscanf(entries[i].key, "part/%36[^/]/%u%n", id, &pid, &used) != 2 || entries[i].key[used]) continue;
        if (osync__audit_know(v->audit, id, pid, entries[i].value, entries[i].len, &own)) {
            refuse(v, own.message);
            return;
        }
    }
    v->at++;
    next_records(v);
}

/* What the checkpoint says is read before the destination is listed: what is committed meanwhile is no hole then. */
static void next_records(verify_t *v) {
    char prefix[64];
    if (v->at == v->n_ids) {
        v->running = true;
        osync__audit_run(v->audit);
        return;
    }
    (void)snprintf(prefix, sizeof prefix, "part/%s/", v->ids[v->at]);
    int rc = v->s->store->ops->list(v->s->store, prefix, on_records, v);
    if (rc) refuse(v, osync_strerror(rc));
}

static int own_tasks(verify_t *v, const char *db, const char *name) {
    osync_scheduler_t *s = v->s;
    v->ids = osync__calloc(HASH_COUNT(s->tasks) + 1, sizeof *v->ids);
    if (!v->ids) return OSYNC_ENOMEM;
    for (const osync__task_t *t = s->tasks; t; t = t->hh.next)
        if (t->state == OSYNC__TASK_ACTIVE && strcmp(t->db, db) == 0 && strcmp(t->name, name) == 0 &&
            strcmp(t->target, v->target) == 0)
            (void)snprintf(v->ids[v->n_ids++], sizeof *v->ids, "%s", t->id);
    return 0;
}

/* The destination that is asked for, or that of the table's task. */
static int choose_target(verify_t *v, const Openmldb__Datasync__VerifySyncTaskRequest *r, osync_error_t *err) {
    osync_scheduler_t *s = v->s;
    if (r->dest && *r->dest) return osync__dest_resolve(s->sinks, r->dest, &v->target, err);
    for (const osync__task_t *t = s->tasks; t; t = t->hh.next)
        if (t->state == OSYNC__TASK_ACTIVE && strcmp(t->db, r->db) == 0 && strcmp(t->name, r->name) == 0)
            return osync__sched_set(&v->target, t->target) ? osync__err(err, OSYNC_ENOMEM, "out of memory") : 0;
    return osync__err(err, OSYNC_EINVAL, "there is no sync task of %s.%s here: name the destination", r->db, r->name);
}

void osync__sched_on_verify(osync__rpc_call_t *call, void *arg) {
    osync_scheduler_t *s = arg;
    const Openmldb__Datasync__VerifySyncTaskRequest *r =
        (const Openmldb__Datasync__VerifySyncTaskRequest *)osync__rpc_request(call);
    osync_error_t err = {0};
    const char *path = NULL;
    if (!s->loaded) {
        answer(call, -1, s->load_error, NULL);
        return;
    }
    const char *fault = osync__sched_name_fault(r->db, r->name);
    if (fault) {
        answer(call, -1, fault, NULL);
        return;
    }
    verify_t *v = s->n_verifies < OSYNC__MAX_VERIFIES ? osync__calloc(1, sizeof *v) : NULL;
    if (!v) {
        answer(call, -1, "too many audits at once, try again", NULL);
        return;
    }
    v->s = s;
    v->call = call;
    s->n_verifies++;
    DL_APPEND(s->verifies, v);
    osync__sched_hold(s);
    int rc = choose_target(v, r, &err);
    if (!rc) rc = osync__sinks_get(s->sinks, v->target, &v->sink, &path, &err);
    if (!rc && !v->sink->ops->read && !r->quick)
        rc = osync__err(&err, OSYNC_ENOTSUP, "%s: files can't be read there: ask without their content (quick)",
                        v->target);
    if (!rc) {
        osync__audit_config_t config = {.loop = s->loop,
                                        .pool = s->pool,
                                        .sink = v->sink,
                                        .dest = path,
                                        .db = r->db,
                                        .name = r->name,
                                        .quick = r->has_quick && r->quick,
                                        .has_task = has_task,
                                        .done = on_audited,
                                        .arg = v};
        rc = osync__audit_new(&config, &v->audit);
        if (!rc) rc = own_tasks(v, r->db, r->name);
        if (rc) osync__err(&err, rc, "out of memory");
    }
    if (rc)
        refuse(v, err.message);
    else
        next_records(v);
}

void osync__sched_verify_closing(osync_scheduler_t *s) {
    verify_t *v;
    DL_FOREACH(s->verifies, v) {
        if (v->running) osync__audit_cancel(v->audit);
    }
}
