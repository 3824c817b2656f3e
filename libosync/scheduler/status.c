/* What the scheduler shows of itself: TaskStatus as OpenMLDB's helper reads it, and a page for people and for
 * monitoring. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "scheduler/internal.h"

/* ---- TaskStatus ---- */

typedef struct clear {
    osync_scheduler_t *s;
    osync__rpc_call_t *call;
    size_t waiting_for;
    bool pending; /* not everything is gone yet */
} clear_t;

static void reply_code(osync__rpc_call_t *call, int code, char *msg) {
    Openmldb__Datasync__GeneralResponse general = OPENMLDB__DATASYNC__GENERAL_RESPONSE__INIT;
    Openmldb__Datasync__TaskStatusResponse r = OPENMLDB__DATASYNC__TASK_STATUS_RESPONSE__INIT;
    general.has_code = 1;
    general.code = code;
    general.msg = msg;
    r.response = &general;
    osync__rpc_reply(call, &r.base);
}

static void on_cleared(void *arg, const char *pending) {
    clear_t *c = arg;
    char text[] = "no more rows are taken, and the removal of all tasks goes on by itself, but it isn't done yet";
    c->pending = c->pending || pending;
    if (--c->waiting_for > 0) return;
    osync_scheduler_t *s = c->s;
    reply_code(c->call, c->pending ? -1 : 0, c->pending ? text : NULL);
    s->n_deletes--;
    osync__free(c);
    osync__sched_drop(s);
}

static void clear_all(osync_scheduler_t *s, osync__rpc_call_t *call) {
    clear_t *c = s->n_deletes < OSYNC__MAX_DELETES ? osync__calloc(1, sizeof *c) : NULL;
    if (!c) {
        char text[] = "too many requests to delete at once, try again";
        reply_code(call, -1, text);
        return;
    }
    c->s = s;
    c->call = call;
    c->waiting_for = 1;
    s->n_deletes++;
    osync__sched_hold(s);
    osync__task_t *t, *next;
    HASH_ITER(hh, s->tasks, t, next) {
        c->waiting_for++;
        osync__sched_task_remove(t, "clear_all", on_cleared, c);
    }
    on_cleared(c, NULL);
}

/* The memory of one entry of the answer. */
typedef struct entry {
    Openmldb__Datasync__Task task;
    Openmldb__Datasync__AddSyncTaskRequest progress;
    Openmldb__Datasync__SyncPoint point;
    Openmldb__Datasync__SyncPoint *parsed; /* owns the pk of `point` */
    char *info;
} entry_t;

/* The committed point's bytes, in hex. */
static char *exact_point(const osync__sub_t *sub) {
    osync__buf_t b = {0};
    size_t len = 0;
    const uint8_t *point = sub->known && sub->delivery ? osync__delivery_point(sub->delivery, &len) : NULL;
    int rc = 0;
    for (size_t i = 0; i < len && !rc; i++) rc = osync__buf_printf(&b, "%02x", (unsigned)point[i]);
    if (!rc) rc = osync__buf_append(&b, "", 1);
    if (rc) osync__buf_free(&b);
    return (char *)b.data;
}

static int fill(entry_t *e, osync__sub_t *sub) {
    osync__task_t *t = sub->task;
    osync__buf_t info = {0};
    openmldb__datasync__task__init(&e->task);
    openmldb__datasync__add_sync_task_request__init(&e->progress);
    openmldb__datasync__sync_point__init(&e->point);
    e->progress.has_tid = e->progress.has_pid = e->progress.has_mode = 1;
    e->progress.tid = t->tid;
    e->progress.pid = sub->pid;
    e->progress.mode = (Openmldb__Datasync__SyncMode)t->mode;
    e->progress.has_start_ts = t->has_start_ts;
    e->progress.start_ts = t->start_ts;
    e->progress.tablet_endpoint = sub->tablet;
    e->progress.des_endpoint = sub->des_endpoint;
    if (*sub->token) e->progress.token = sub->token;
    e->progress.dest = t->dest;
    e->task.progress = &e->progress;
    e->task.data_collector = sub->collector;
    e->task.has_count = 1; /* 0 until the checkpoint has been read */
    e->task.status = (char *)(uintptr_t)osync__sched_status_name(sub->status);
    if (sub->known && sub->delivery) {
        osync__delivery_totals_t totals = {0};
        size_t len;
        const void *point = osync__delivery_point(sub->delivery, &len);
        e->parsed = osync__sched_point_unpack(point, len);
        if (e->parsed) { /* without our additions */
            e->point.type = e->parsed->type;
            e->point.has_pk = e->parsed->has_pk;
            e->point.pk = e->parsed->pk;
            e->point.has_ts = e->parsed->has_ts;
            e->point.ts = e->parsed->ts;
            e->point.has_offset = e->parsed->has_offset;
            e->point.offset = e->parsed->offset;
            e->progress.sync_point = &e->point;
        }
        osync__delivery_totals(sub->delivery, &totals);
        e->task.count = totals.rows;
    }
    int rc = osync__buf_printf(&info, "lastUpdateTime=%" PRIu64 ";progressPath=%s", sub->seen_ms, t->s->store_path);
    if (!rc && sub->reason && *sub->reason) {
        rc = osync__buf_printf(&info, ";reason=");
        size_t from = info.len;
        if (!rc) rc = osync__buf_append(&info, sub->reason, strlen(sub->reason));
        for (size_t i = from; i < info.len; i++) { /* the helper splits at these */
            if (info.data[i] == ';')
                info.data[i] = ',';
            else if (info.data[i] == '=')
                info.data[i] = ':';
        }
    }
    if (!rc) rc = osync__buf_append(&info, "", 1);
    e->info = (char *)info.data;
    return rc;
}

void osync__sched_on_status(osync__rpc_call_t *call, void *arg) {
    osync_scheduler_t *s = arg;
    const Openmldb__Datasync__TaskStatusRequest *r =
        (const Openmldb__Datasync__TaskStatusRequest *)osync__rpc_request(call);
    Openmldb__Datasync__GeneralResponse general = OPENMLDB__DATASYNC__GENERAL_RESPONSE__INIT;
    Openmldb__Datasync__TaskStatusResponse response = OPENMLDB__DATASYNC__TASK_STATUS_RESPONSE__INIT;
    entry_t *entries = NULL;
    char nomem[] = "out of memory";
    size_t n = 0;
    int rc = 0;
    if (!s->loaded) {
        reply_code(call, -1, s->load_error);
        return;
    }
    if (r->clear_all) {
        clear_all(s, call);
        return;
    }
    entries = osync__calloc(s->n_subs + 1, sizeof *entries);
    response.task = osync__calloc(s->n_subs + 1, sizeof *response.task);
    response.readableinfo = osync__calloc(s->n_subs + 1, sizeof *response.readableinfo);
    if (r->points) response.points = osync__calloc(s->n_subs + 1, sizeof *response.points);
    if (!entries || !response.task || !response.readableinfo || (r->points && !response.points)) rc = OSYNC_ENOMEM;
    for (osync__task_t *t = s->tasks; t && !rc; t = t->hh.next) {
        if (t->state == OSYNC__TASK_REMOVING) continue;
        for (size_t i = 0; i < t->n_subs && !rc; i++) {
            rc = fill(&entries[n], &t->subs[i]);
            response.task[n] = &entries[n].task;
            response.readableinfo[n] = entries[n].info;
            if (r->points && !rc) {
                response.points[n] = exact_point(&t->subs[i]);
                if (!response.points[n]) rc = OSYNC_ENOMEM;
            }
            n++;
        }
    }
    if (r->points) response.n_points = n;
    general.has_code = 1;
    response.response = &general;
    response.n_task = response.n_readableinfo = n;
    if (rc)
        reply_code(call, -1, nomem);
    else
        osync__rpc_reply(call, &response.base);
    for (size_t i = 0; i < n; i++) {
        if (entries[i].parsed)
            openmldb__datasync__sync_point__free_unpacked(entries[i].parsed, &osync__protobuf_allocator);
        osync__free(entries[i].info);
        if (response.points) osync__free(response.points[i]);
    }
    osync__free(entries);
    osync__free(response.task);
    osync__free(response.readableinfo);
    osync__free(response.points);
}

/* ---- the page ---- */

static const char *state_name(osync__task_state_t state) {
    return state == OSYNC__TASK_CREATING ? "creating" : state == OSYNC__TASK_ACTIVE ? "active" : "being removed";
}

static json_t *text_or_null(const char *text) {
    json_t *value = text && *text ? json_string(text) : NULL;
    return value ? value : json_null();
}

static const char *data_path(const osync__sub_t *sub) {
    return sub->direct ? "direct" : "proxy";
}

/* With what the collector has staged. What it has reported is delivery's. */
static void get_totals(const osync__sub_t *sub, osync__delivery_totals_t *out) {
    *out = (osync__delivery_totals_t){0};
    if (sub->known && sub->delivery) osync__delivery_totals(sub->delivery, out);
    out->staged_rows += sub->direct_rows;
    out->staged_bytes += sub->direct_bytes;
}

static json_t *sub_object(const osync__sub_t *sub) {
    osync__delivery_totals_t totals;
    get_totals(sub, &totals);
    json_t *held = json_array();
    for (const osync__hold_t *h = sub->held; h; h = h->next)
        json_array_append_new(held, json_pack("{s:s, s:o, s:I, s:I, s:I, s:o}", "collector", h->collector, "tablet",
                                              text_or_null(h->tablet), "first_entry", (json_int_t)h->first_entry,
                                              "last_entry", (json_int_t)h->last_entry, "pinned_bytes",
                                              (json_int_t)h->pinned_bytes, "error", text_or_null(h->error)));
    return json_pack("{s:I, s:s, s:o, s:o, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:o, s:o, s:I, s:o}", "pid",
                     (json_int_t)sub->pid, "status", osync__sched_status_name(sub->status), "reason",
                     text_or_null(sub->reason), "phase", text_or_null(sub->phase), "destination_ready", (int)sub->ready,
                     "rows", (json_int_t)totals.rows, "bytes", (json_int_t)totals.bytes, "files",
                     (json_int_t)totals.files, "staged_rows", (json_int_t)totals.staged_rows, "staged_bytes",
                     (json_int_t)totals.staged_bytes, "snapshot_rows", (json_int_t)sub->snapshot_rows, "log_tail",
                     (json_int_t)sub->log_tail, "data_path", data_path(sub), "collector", text_or_null(sub->collector),
                     "tablet", text_or_null(sub->tablet), "last_update_ms", (json_int_t)sub->seen_ms, "held_by", held);
}

static void import_object(void *arg, const char *folder, const char *why) {
    json_array_append_new(arg, json_pack("{s:s, s:o}", "folder", folder, "reason", text_or_null(why)));
}

static void import_line(void *arg, const char *folder, const char *why) {
    (void)osync__buf_printf(arg, "\n%s: not taken over yet: %s\n", folder, why);
}

static json_t *page_object(const osync_scheduler_t *s) {
    json_t *tasks = json_array();
    for (const osync__task_t *t = s->tasks; t; t = t->hh.next) {
        json_t *subs = json_array();
        for (size_t i = 0; i < t->n_subs; i++) json_array_append_new(subs, sub_object(&t->subs[i]));
        json_array_append_new(tasks, json_pack("{s:s, s:s, s:s, s:I, s:i, s:s, s:s, s:I, s:o}", "task_id", t->id, "db",
                                               t->db, "table", t->name, "tid", (json_int_t)t->tid, "mode", t->mode,
                                               "state", state_name(t->state), "dest", t->target, "created_ms",
                                               (json_int_t)t->created_ms, "partitions", subs));
    }
    json_t *imports = json_array();
    osync__sched_import_each(s, import_object, imports);
    return json_pack("{s:b, s:s, s:o, s:o}", "ready", (int)s->loaded, "checkpoint", s->store_path, "tasks", tasks,
                     "not_taken_over", imports);
}

static int page_text(const osync_scheduler_t *s, osync__buf_t *out) {
    int rc = osync__buf_printf(out, "osync-syncd: %s, %u tasks, checkpoint %s\n", s->loaded ? "ready" : s->load_error,
                               HASH_COUNT(s->tasks), s->store_path);
    for (const osync__task_t *t = s->tasks; t && !rc; t = t->hh.next) {
        rc = osync__buf_printf(out, "\n%s.%s tid %u, mode %d, %s, to %s\n  task %s\n", t->db, t->name, t->tid, t->mode,
                               state_name(t->state), t->target, t->id);
        for (size_t i = 0; i < t->n_subs && !rc; i++) {
            const osync__sub_t *sub = &t->subs[i];
            osync__delivery_totals_t totals;
            get_totals(sub, &totals);
            rc = osync__buf_printf(out,
                                   "  partition %u: %s%s%s, rows %" PRIu64 " committed %" PRIu64
                                   " staged (%s), files %" PRIu64 ", collector %s, last update %" PRIu64 "\n",
                                   sub->pid, osync__sched_status_name(sub->status), *sub->phase ? " " : "", sub->phase,
                                   totals.rows, totals.staged_rows, data_path(sub), totals.files,
                                   sub->collector ? sub->collector : "-", sub->seen_ms);
            if (!rc && sub->reason && *sub->reason) rc = osync__buf_printf(out, "    reason: %s\n", sub->reason);
            for (const osync__hold_t *h = sub->held; h && !rc; h = h->next)
                rc =
                    osync__buf_printf(out, "    log held by %s: entries %" PRIu64 " to %" PRIu64 "%s%s\n", h->collector,
                                      h->first_entry, h->last_entry, h->error ? ", " : "", h->error ? h->error : "");
        }
    }
    osync__sched_import_each(s, import_line, out);
    return rc;
}

void osync__sched_on_page(osync__rpc_call_t *call, void *arg) {
    static const char nomem[] = "out of memory\n";
    osync_scheduler_t *s = arg;
    if (strstr(osync__rpc_query(call), "format=json")) {
        json_t *page = page_object(s);
        osync__rpc_reply_json(call, page);
        return;
    }
    osync__buf_t out = {0};
    if (page_text(s, &out))
        osync__rpc_reply_http(call, 500, "text/plain", nomem, sizeof nomem - 1);
    else
        osync__rpc_reply_http(call, 200, "text/plain; charset=utf-8", out.data, out.len);
    osync__buf_free(&out);
}
