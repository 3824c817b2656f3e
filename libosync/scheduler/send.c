/* SendData: a pack of rows from a collector becomes lines of CSV that delivery takes. One request a partition is worked
 * on at a time, and no partition waits for another's. The rules of the answers are in docs/formats.md (SyncTool) and
 * docs/delivery.md: a repeat of a request is the same request, rows are never taken twice, and a collector that can't
 * rewind is only told "done" about committed rows. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/failpoint.h"
#include "base/sys.h"
#include "format/row.h"
#include "scheduler/internal.h"

/* Of an answer: the collector's task is to go; it is to read again from the end of what was taken. */
enum { DELETE = 1, RESUME = 2 };

#define IGNORABLE "com._4paradigm.openmldb.synctool.IgnorableException: "

typedef enum stage { QUEUED, SCHEMA, ENCODING, TURNING, APPENDING, ADOPTING, FLUSHING, SAVING } stage_t;

struct osync__work {
    osync__job_t job;
    osync__sub_t *sub;
    stage_t stage;
    osync__rpc_call_t *call;   /* owns the attachment */
    osync__rpc_call_t *repeat; /* the same request once more: it is the one that is waited for */
    bool ours, finished, abandoned, refetched;
    uint64_t count;
    const uint8_t *data;
    size_t len;
    uint64_t staged_bytes; /* of a file that the collector has written; 0: there is none */
    char incarnation[OSYNC__ID_SIZE], attempt[OSYNC__ID_SIZE];
    osync__buf_t start, next;
    osync__schema_t *schema;
    osync_csv_t *csv;
    int status; /* of encoding */
    osync_error_t err;
    osync__work_t *q_prev, *q_next; /* in the queue, or among those that wait for the table's description */
};

/* ---- answers ---- */

static void answer(osync__rpc_call_t *call, osync__sub_t *sub, bool ours, int code, const char *msg, int flags) {
    Openmldb__Datasync__GeneralResponse general = OPENMLDB__DATASYNC__GENERAL_RESPONSE__INIT;
    Openmldb__Datasync__SendDataResponse r = OPENMLDB__DATASYNC__SEND_DATA_RESPONSE__INIT;
    Openmldb__Datasync__StageGrant grant;
    osync__buf_t folder = {0};
    char *text = msg ? osync__strdup(msg) : NULL;
    if (ours && sub) sub->put_off = code != 0;
    general.has_code = 1;
    general.code = code;
    general.msg = text;
    r.response = &general;
    r.has_delete_task = r.delete_task = (flags & DELETE) != 0;
    if (ours && sub && sub->known && sub->delivery) {
        size_t len;
        const void *point = osync__delivery_point(sub->delivery, &len);
        r.committed_point = osync__sched_point_unpack(point, len);
    }
    if (ours && sub && (flags & RESUME)) r.resume_point = osync__sched_point_unpack(sub->end.data, sub->end.len);
    const Openmldb__Datasync__SendDataRequest *request =
        (const Openmldb__Datasync__SendDataRequest *)osync__rpc_request(call);
    if (ours && sub && osync__sched_direct_grant(sub, request->report, &grant, &folder)) r.stage = &grant;
    OSYNC__BEFORE(send_answer);
    osync__rpc_reply(call, &r.base);
    OSYNC__AFTER(send_answer);
    if (r.committed_point) openmldb__datasync__sync_point__free_unpacked(r.committed_point, &osync__protobuf_allocator);
    if (r.resume_point) openmldb__datasync__sync_point__free_unpacked(r.resume_point, &osync__protobuf_allocator);
    osync__buf_free(&folder);
    osync__free(text);
}

static void OSYNC_PRINTF(6, 7)
    answerf(osync__rpc_call_t *call, osync__sub_t *sub, bool ours, int code, int flags, const char *fmt, ...) {
    char text[1400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    answer(call, sub, ours, code, text, flags);
}

static void answer_unknown(osync__rpc_call_t *call, uint32_t tid) {
    answerf(call, NULL, false, -1, DELETE, IGNORABLE "can't find sync task, tid: %u", tid);
}

/* ---- the work on one request ---- */

static void queue_go_on(osync_scheduler_t *s);

/* Gives the work back and answers. The scheduler may be freed by this. */
static void finish(osync__work_t *w, int code, const char *msg, int flags) {
    osync__sub_t *sub = w->sub;
    osync__task_t *t = sub->task;
    osync_scheduler_t *s = t->s;
    if (w->abandoned && !s->closing) {
        answer_unknown(w->call, t->tid);
        if (w->repeat) answer_unknown(w->repeat, t->tid);
    } else if (w->abandoned) {
        osync__rpc_fail(w->call, OSYNC__BRPC_ELOGOFF, "Server is stopping");
        if (w->repeat) osync__rpc_fail(w->repeat, OSYNC__BRPC_ELOGOFF, "Server is stopping");
    } else {
        sub->seen_mono = osync__mono_ms(); /* the collector was waiting for us */
        answer(w->call, sub, w->ours, code, msg, flags);
        if (w->repeat) answer(w->repeat, sub, w->ours, code, msg, flags);
    }
    sub->work = NULL;
    if (w->csv) osync__sched_schema_keep(w->schema, w->csv);
    osync__sched_schema_unref(w->schema);
    if (w->stage == QUEUED)
        s->waiting_bytes -= w->len;
    else
        s->work_bytes -= w->len;
    osync__buf_free(&w->start);
    osync__buf_free(&w->next);
    osync__free(w);
    queue_go_on(s);
    osync__sched_task_drop(t);
}

/* Not taken, and to be sent again. */
static void finish_later(osync__work_t *w, int status, const osync_error_t *err, const char *what) {
    char text[1200];
    snprintf(text, sizeof text, "%s: %s", what, err ? err->message : osync_strerror(status));
    if (!w->abandoned) osync__sched_sub_waits(w->sub, text);
    finish(w, -1, text, 0);
}

static void taken(osync__work_t *w) {
    osync__sub_t *sub = w->sub;
    if (sub->status != OSYNC__SCHEDULER__STATUS__RUNNING || sub->cause)
        osync__sched_sub_state(sub, OSYNC__SCHEDULER__STATUS__RUNNING, OSYNC__SCHEDULER__CAUSE__NOTHING, NULL);
}

static void on_flushed(void *arg, int status, const osync_error_t *err) {
    osync__work_t *w = arg;
    osync__sub_t *sub = w->sub;
    if (status || w->abandoned) {
        finish_later(w, status, err, "the rows could not be committed");
        return;
    }
    taken(w);
    if (!w->finished) {
        finish(w, 0, NULL, 0);
        return;
    }
    w->stage = SAVING;
    osync__sched_sub_state(sub, OSYNC__SCHEDULER__STATUS__SUCCESS, OSYNC__SCHEDULER__CAUSE__NOTHING, NULL);
    /* osync__work_go_on answers when the record is stored */
}

void osync__sched_work_go_on(osync__sub_t *sub) {
    osync__work_t *w = sub->work;
    if (w && w->stage == SAVING && !w->abandoned) finish(w, 0, NULL, 0);
}

/* Ends the file; `cb` in any case, perhaps from inside. */
static void end_file(osync__work_t *w, osync__delivery_cb cb) {
    osync_error_t err;
    int rc = osync__delivery_flush(w->sub->delivery, cb, w);
    if (rc) cb(w, osync__err(&err, rc, "the end of a file: %s", osync_strerror(rc)), &err);
}

static void flush(osync__work_t *w) {
    w->stage = FLUSHING;
    end_file(w, on_flushed);
}

static void on_appended(void *arg, int status, const osync_error_t *err) {
    osync__work_t *w = arg;
    osync__sub_t *sub = w->sub;
    if (status || w->abandoned) {
        finish_later(w, status, err, "the rows were not taken");
        return;
    }
    osync__buf_t tmp = sub->last_start;
    sub->last_start = w->start;
    w->start = tmp;
    tmp = sub->end;
    sub->end = w->next;
    w->next = tmp;
    taken(w);
    /* A collector that can't rewind lets go of what it was told is done. */
    if (w->finished || !w->ours)
        flush(w);
    else
        finish(w, 0, NULL, 0);
}

static void append(osync__work_t *w) {
    osync__sub_t *sub = w->sub;
    size_t len = 0;
    const char *data = w->csv ? osync_csv_data(w->csv, &len) : NULL;
    w->stage = APPENDING;
    if (!sub->ready) {
        finish_later(w, OSYNC_EAGAIN, NULL, "the destination isn't ready");
        return;
    }
    /* Nothing moves: only the end is to be committed. */
    if (len == 0 && osync__buf_equal(&w->start, &w->next)) {
        flush(w);
        return;
    }
    int rc = osync__delivery_append(sub->delivery, data, len, w->count, w->start.data, w->start.len, w->next.data,
                                    w->next.len, on_appended, w);
    if (rc) on_appended(w, rc, NULL);
}

static void on_adopted(void *arg, int status, const osync_error_t *err) {
    osync__work_t *w = arg;
    if (!w->abandoned) osync__sched_direct_outcome(w->sub, status, err);
    if (!status) w->sub->columns = 0; /* a file of its own: what comes next begins another */
    on_appended(w, status, err);
}

static void adopt(osync__work_t *w) {
    osync__sub_t *sub = w->sub;
    w->stage = ADOPTING;
    int rc = osync__delivery_adopt(sub->delivery, w->incarnation, w->attempt, w->staged_bytes, w->count, w->start.data,
                                   w->start.len, w->next.data, w->next.len, on_adopted, w);
    if (rc) on_appended(w, rc, NULL);
}

static void on_turned(void *arg, int status, const osync_error_t *err) {
    osync__work_t *w = arg;
    if (status || w->abandoned) {
        finish_later(w, status, err, "the file of the former schema could not be committed");
        return;
    }
    w->sub->columns = w->schema->n_columns;
    append(w);
}

static void fetch_schema(osync__work_t *w);

/* The rows themselves are of no use any more, and what is kept in their place counts. */
static void held_as_csv(osync__work_t *w) {
    osync_scheduler_t *s = w->sub->task->s;
    s->work_bytes -= w->len;
    (void)osync_csv_data(w->csv, &w->len);
    s->work_bytes += w->len;
    w->data = NULL;
    osync__rpc_drop_attachment(w->call);
}

static void on_encoded(osync__job_t *job) {
    osync__work_t *w = job->arg;
    osync__sub_t *sub = w->sub;
    osync__task_t *t = sub->task;
    char text[1300];
    if (w->abandoned) {
        finish(w, -1, NULL, 0);
        return;
    }
    if (w->status == OSYNC_ESCHEMA && !w->refetched) { /* a column was added since we looked */
        w->refetched = true;
        fetch_schema(w);
        return;
    }
    if (w->status == OSYNC_ESCHEMA) {
        finish_later(w, w->status, &w->err, "waits for the table's description");
        return;
    }
    if (w->status == OSYNC_ENOMEM || w->status == OSYNC_ECONFIG) {
        finish_later(w, w->status, &w->err, "the rows could not be encoded");
        return;
    }
    if (w->status) {
        snprintf(text, sizeof text, "tid %u pid %u: %s", t->tid, sub->pid, w->err.message);
        osync__sched_sub_state(sub, OSYNC__SCHEDULER__STATUS__FAILED, OSYNC__SCHEDULER__CAUSE__ROWS, text);
        finish(w, -1, text, 0);
        return;
    }
    held_as_csv(w);
    if (sub->columns != 0 && sub->columns != w->schema->n_columns && sub->ready) {
        w->stage = TURNING; /* one file has one schema */
        end_file(w, on_turned);
        return;
    }
    sub->columns = w->schema->n_columns;
    append(w);
}

/* On a worker. */
static void encode(osync__job_t *job) {
    osync__work_t *w = job->arg;
    const uint8_t *p = w->data;
    size_t left = w->len;
    uint64_t n = 0;
    w->status = 0;
    if (!w->csv) {
        osync_csv_config_t config;
        osync_csv_config_init(&config, sizeof config);
        config.timezone = w->schema->timezone;
        w->status = osync_csv_new(&w->csv, w->schema->table, &config, &w->err);
        if (w->status) w->csv = NULL;
    }
    while (!w->status && left > 0) {
        osync_error_t err;
        size_t size = 0;
        if (n == w->count) {
            w->status =
                osync__err(&w->err, OSYNC_ECORRUPT,
                           "the pack says that it holds %llu rows, but %zu of its %zu bytes are left after them",
                           (unsigned long long)w->count, left, w->len);
            break;
        }
        int rc = osync__row_size(p, left, &size, &err);
        if (!rc) rc = osync_csv_add(w->csv, p, size, &err);
        if (rc) {
            w->status = osync__err(&w->err, rc, "row %llu of %llu in the pack: %s", (unsigned long long)n + 1,
                                   (unsigned long long)w->count, err.message);
        }
        p += size;
        left -= size;
        n++;
    }
    if (!w->status && n != w->count)
        w->status =
            osync__err(&w->err, OSYNC_ECORRUPT, "the pack says that it holds %llu rows, but its %zu bytes hold %llu",
                       (unsigned long long)w->count, w->len, (unsigned long long)n);
}

static void start_encoding(osync__work_t *w) {
    osync__task_t *t = w->sub->task;
    if (w->csv) {
        osync__sched_schema_keep(w->schema, w->csv);
        w->csv = NULL;
    }
    osync__sched_schema_unref(w->schema);
    w->schema = t->schema;
    w->schema->refs++;
    if (w->schema->n_idle > 0) w->csv = w->schema->idle[--w->schema->n_idle];
    w->stage = ENCODING;
    w->job.work = encode;
    w->job.done = on_encoded;
    w->job.arg = w;
    osync__pool_submit(t->s->pool, &w->job);
}

static void on_schema(void *arg, int status, const void *data, size_t len, const osync_error_t *err) {
    osync__task_t *t = arg;
    osync__schema_t *schema = NULL;
    osync_error_t own = {0};
    char text[1200];
    if (!status) status = osync__sched_schema_new(&schema, data, len, t->timezone, &own);
    if (status == OSYNC_ENOENT)
        osync__err(&own, status, "table %s.%s (tid %u) doesn't exist any more", t->db, t->name, t->tid);
    else if (status && !own.code)
        osync__err(&own, status, "ZooKeeper can't be asked for the table: %s",
                   err ? err->message : osync_strerror(status));
    snprintf(text, sizeof text, "%s", own.message);
    /* What ZooKeeper answers may be older than what is known; columns are only ever added. */
    if (schema && t->schema && schema->n_columns < t->schema->n_columns) {
        osync__sched_schema_unref(schema);
    } else if (schema) {
        osync__sched_schema_unref(t->schema);
        t->schema = schema;
    }
    osync__work_t *waiters = t->schema_waiters, *w, *next;
    t->schema_waiters = NULL;
    t->fetching = false;
    DL_FOREACH_SAFE2(waiters, w, next, q_next) {
        if (w->abandoned)
            finish(w, -1, NULL, 0);
        else if (status)
            finish_later(w, status, &own, "waits for the table's description");
        else
            start_encoding(w);
    }
    osync__sched_task_drop(t);
}

static void fetch_schema(osync__work_t *w) {
    osync__task_t *t = w->sub->task;
    w->stage = SCHEMA;
    DL_APPEND2(t->schema_waiters, w, q_prev, q_next);
    if (t->fetching) return;
    t->fetching = true;
    osync__sched_task_hold(t);
    int rc = t->s->catalog->ops->get(t->s->catalog, t->tid, on_schema, t);
    if (rc) on_schema(t, rc, NULL, 0, NULL);
}

static void begin(osync__work_t *w) {
    w->sub->task->s->work_bytes += w->len;
    if (w->staged_bytes > 0)
        adopt(w);
    else if (w->count == 0)
        append(w);
    else if (!w->sub->task->schema)
        fetch_schema(w);
    else
        start_encoding(w);
}

static void queue_go_on(osync_scheduler_t *s) {
    if (s->queue_going) return; /* a work that ended at once */
    s->queue_going = true;
    while (s->queue && !s->closing && (s->work_bytes == 0 || s->work_bytes + s->queue->len <= s->max_work_bytes)) {
        osync__work_t *w = s->queue;
        DL_DELETE2(s->queue, w, q_prev, q_next);
        s->waiting_bytes -= w->len;
        w->stage = SCHEMA;
        begin(w);
    }
    s->queue_going = false;
}

bool osync__sched_work_must_wait(const osync__sub_t *sub) {
    return sub->work && (sub->work->stage == SCHEMA || sub->work->stage == ENCODING || sub->work->stage == SAVING);
}

void osync__sched_work_abandon(osync__sub_t *sub) {
    osync__work_t *w = sub->work;
    if (!w) return;
    w->abandoned = true;
    if (w->stage == QUEUED) {
        DL_DELETE2(sub->task->s->queue, w, q_prev, q_next);
        finish(w, -1, NULL, 0);
    } else if (w->stage == SAVING) {
        finish(w, -1, NULL, 0);
    }
}

/* ---- the request ---- */

static void mismatch(osync__rpc_call_t *call, osync__sub_t *sub, const Openmldb__Datasync__SendDataRequest *r) {
    osync__buf_t text = {0};
    Openmldb__Datasync__SyncPoint *end = osync__sched_point_unpack(sub->end.data, sub->end.len);
    int rc = osync__buf_printf(&text, "java.lang.IllegalArgumentException: start point ");
    if (!rc) rc = osync__sched_point_text(&text, r->start_point);
    if (!rc) rc = osync__buf_printf(&text, " != current point ");
    if (!rc && end) osync__sched_point_text(&text, end);
    answer(call, sub, r->report != NULL, -1, text.data ? (const char *)text.data : "start point != current point",
           r->report ? RESUME : DELETE);
    if (end) openmldb__datasync__sync_point__free_unpacked(end, &osync__protobuf_allocator);
    osync__buf_free(&text);
}

/* What the collector says about itself. */
static void take_report(osync__sub_t *sub, const Openmldb__Datasync__CollectorReport *report) {
    bool by_collector = sub->cause == OSYNC__SCHEDULER__CAUSE__COLLECTOR;
    const char *reason = report->reason && *report->reason ? report->reason : NULL;
    snprintf(sub->phase, sizeof sub->phase, "%s", report->state ? report->state : "");
    sub->snapshot_rows = report->snapshot_rows;
    sub->log_tail = report->log_tail;
    sub->direct = report->stager && !sub->proxy_until && !osync__sched_direct_fault(sub->task);
    sub->direct_rows = sub->direct ? report->staged_rows : 0;
    sub->direct_bytes = sub->direct ? report->staged_bytes : 0;
    if (report->failed) {
        osync__sched_sub_state(sub, OSYNC__SCHEDULER__STATUS__FAILED, OSYNC__SCHEDULER__CAUSE__COLLECTOR,
                               reason ? reason : "the collector reports a failure without a reason");
    } else if (sub->cause == OSYNC__SCHEDULER__CAUSE__NOTHING || sub->cause == OSYNC__SCHEDULER__CAUSE__ASSIGNMENT ||
               by_collector) {
        osync__sched_sub_state(sub, OSYNC__SCHEDULER__STATUS__RUNNING, OSYNC__SCHEDULER__CAUSE__NOTHING, reason);
    }
}

static bool same_file(const osync__work_t *w, const Openmldb__Datasync__StagedFile *f) {
    if (!f) return w->staged_bytes == 0;
    return f->attempt && strcmp(w->attempt, f->attempt) == 0 && f->incarnation &&
           strcmp(w->incarnation, f->incarnation) == 0 && w->staged_bytes == f->bytes;
}

/* The collector that has the partition now has found what it needs. (An original one has, when it sends at all.) */
static bool has_begun(const osync__sub_t *sub) {
    return sub->heard &&
           (!sub->phase[0] || strcmp(sub->phase, "traversing") == 0 || strcmp(sub->phase, "following") == 0);
}

void osync__sched_on_send(osync__rpc_call_t *call, void *arg) {
    osync_scheduler_t *s = arg;
    const Openmldb__Datasync__SendDataRequest *r =
        (const Openmldb__Datasync__SendDataRequest *)osync__rpc_request(call);
    size_t len = 0;
    const uint8_t *data = osync__rpc_attachment(call, &len);
    bool ours = r->report != NULL;
    osync__buf_t start = {0}, next = {0};
    osync__task_t *t = NULL;
    if (!s->loaded || s->closing) {
        answer(call, NULL, ours, -1, s->load_error, 0);
        return;
    }
    HASH_FIND(hh, s->tasks, &r->tid, sizeof r->tid, t);
    char waits[1400];
    if (!t && osync__sched_import_waits(s, r->tid, waits, sizeof waits)) {
        answer(call, NULL, ours, -1, waits, 0);
        return;
    }
    if (!t || t->state == OSYNC__TASK_REMOVING) {
        answer_unknown(call, r->tid);
        return;
    }
    osync__sub_t *sub = osync__sched_task_sub(t, r->pid);
    if (!sub) {
        answerf(call, NULL, false, -1, DELETE, IGNORABLE "can't find sync task, tid: %u, pid: %u", r->tid, r->pid);
        return;
    }
    bool token_matches = r->token && *sub->token && strcmp(r->token, sub->token) == 0;
    if (r->start_point && r->next_point &&
        (osync__sched_point_pack(&start, r->start_point) || osync__sched_point_pack(&next, r->next_point))) {
        answer(call, sub, ours, -1, "out of memory", 0);
        goto done;
    }
    if (sub->status == OSYNC__SCHEDULER__STATUS__SUCCESS && !(sub->work && token_matches)) {
        /* The answer to the last request may have been lost. */
        if (token_matches && r->finished && sub->ready && osync__buf_equal(&next, &sub->end))
            answer(call, sub, ours, 0, NULL, 0);
        else
            answer(call, sub, ours && token_matches, -1,
                   "java.lang.IllegalStateException: task is not init or running, ignore this request. st: SUCCESS",
                   DELETE);
        goto done;
    }
    if (!token_matches) {
        /* Until the next collector reads, the former one keeps its links: it may be handed the partition again, and
         * they may be all that is left of the log. */
        bool replaced = sub->handout == OSYNC__HANDOUT_NONE && has_begun(sub);
        answer(call, NULL, false, -1, IGNORABLE "token not match, ignore this request", replaced ? DELETE : 0);
        goto done;
    }
    sub->heard = true;
    sub->seen_mono = osync__mono_ms();
    sub->seen_ms = osync__wall_ms();
    osync__sched_seen(s, sub->collector, ours ? OSYNC__KIND_OSYNC : OSYNC__KIND_ORIGINAL);
    if (!r->start_point || !r->next_point) {
        answer(call, sub, ours, -1, "start_point and next_point are required", 0);
        goto done;
    }
    if (sub->work) {
        osync__work_t *w = sub->work;
        if (osync__buf_equal(&w->start, &start) && osync__buf_equal(&w->next, &next) && w->count == r->count &&
            w->finished == (r->finished != 0) && same_file(w, r->staged)) {
            if (w->repeat) answer(w->repeat, sub, w->ours, -1, "a repeat of this request has taken its place", 0);
            w->repeat = call;
            osync__rpc_drop_attachment(call); /* the rows are here already */
        } else {
            answer(call, sub, ours, -1, "an earlier request of this partition is still being worked on", 0);
        }
        goto done;
    }
    if (!sub->ready) {
        answerf(call, sub, ours, -1, 0, "the destination of tid %u pid %u isn't ready: %s", r->tid, r->pid,
                sub->reason ? sub->reason : "what an earlier run left is being looked through");
        goto done;
    }
    if (ours && !r->staged && osync__sched_direct_ask(sub, r->report)) {
        answerf(call, sub, ours, -1, 0,
                "the destination of tid %u pid %u isn't ready: a new folder is being made, since another start of the "
                "collector had the one that is there",
                r->tid, r->pid);
        goto done;
    }
    if (ours)
        take_report(sub, r->report);
    else if (sub->cause == OSYNC__SCHEDULER__CAUSE__NOTHING || sub->cause == OSYNC__SCHEDULER__CAUSE__ASSIGNMENT)
        osync__sched_sub_state(sub, OSYNC__SCHEDULER__STATUS__RUNNING, OSYNC__SCHEDULER__CAUSE__NOTHING, NULL);
    uint64_t count = r->count;
    const Openmldb__Datasync__StagedFile *staged = r->staged;
    const char *wrong = staged ? osync__sched_direct_check(r, len) : NULL;
    if (wrong) {
        answerf(call, sub, ours, -1, RESUME, "tid %u pid %u: %s", r->tid, r->pid, wrong);
        goto done;
    }
    bool again = false; /* it has just been taken, and the answer was lost */
    /* A14: what doesn't start at our end is of an attempt that is over. */
    if (!osync__buf_equal(&start, &sub->end)) {
        /* What ends at our end has no row behind it. Where the last request began is forgotten with a restart; a
         * collector that can't rewind would then begin anew. */
        bool last = sub->last_start.len > 0 ? osync__buf_equal(&start, &sub->last_start) : !ours;
        again = last && osync__buf_equal(&next, &sub->end);
        if (!again) {
            mismatch(call, sub, r);
            goto done;
        }
        if (!r->finished && ours) {
            answer(call, sub, ours, 0, NULL, 0);
            goto done;
        }
        /* Its rows are here already; what is left is to be sure that they are committed. */
        if (osync__buf_set(&start, sub->end.data, sub->end.len)) {
            answer(call, sub, ours, -1, "out of memory", 0);
            goto done;
        }
        count = 0;
        data = NULL;
        len = 0;
        staged = NULL;
    }
    if (count > 0 && len == 0 && !staged) {
        answer(call, sub, ours, -1, "java.lang.IllegalStateException: attachment data is null", ours ? 0 : DELETE);
        goto done;
    }
    if (count == 0 && len > 0) {
        char text[200];
        snprintf(text, sizeof text, "tid %u pid %u: the pack says that it holds 0 rows, but it has %zu bytes", r->tid,
                 r->pid, len);
        osync__sched_sub_state(sub, OSYNC__SCHEDULER__STATUS__FAILED, OSYNC__SCHEDULER__CAUSE__ROWS, text);
        answer(call, sub, ours, -1, text, 0);
        goto done;
    }
    if (count == 0 && !r->finished && (ours || !again) && osync__buf_equal(&start, &next)) { /* a sign of life */
        answer(call, sub, ours, 0, NULL, 0);
        goto done;
    }
    if (count > 0 && osync__buf_equal(&start, &next)) {
        answer(call, sub, ours, -1, "the pack has rows, but next_point equals start_point", 0);
        goto done;
    }
    if (staged && !osync__sched_direct_granted(sub, r)) {
        answerf(call, sub, ours, -1, RESUME, "tid %u pid %u: the staged file isn't in the folder that is granted now",
                r->tid, r->pid);
        goto done;
    }
    if (len > 0 && ours && s->data_path == OSYNC__DATA_DIRECT) {
        const char *fault = osync__sched_direct_fault(t);
        char text[400];
        snprintf(text, sizeof text, "data_path is direct, so rows aren't taken in requests: %s",
                 fault ? fault : "the collector must write to the destination itself (its own data_path must be auto)");
        if (!r->report->stager || fault) osync__sched_sub_waits(sub, text);
        answer(call, sub, ours, -1, text, RESUME);
        goto done;
    }
    bool wait = len > 0 && (s->queue || (s->work_bytes > 0 && s->work_bytes + len > s->max_work_bytes));
    if (wait && s->waiting_bytes > 0 && s->waiting_bytes + len > s->max_waiting_bytes) {
        answer(call, sub, ours, -1, "too many rows are waiting to be written, send it again", 0);
        goto done;
    }
    osync__work_t *w = osync__calloc(1, sizeof *w);
    if (!w) {
        answer(call, sub, ours, -1, "out of memory", 0);
        goto done;
    }
    w->sub = sub;
    w->call = call;
    w->ours = ours;
    w->finished = r->finished;
    w->count = count;
    w->data = data;
    w->len = len;
    if (staged) {
        w->staged_bytes = staged->bytes;
        memcpy(w->incarnation, staged->incarnation, sizeof w->incarnation);
        memcpy(w->attempt, staged->attempt, sizeof w->attempt);
    }
    w->start = start;
    w->next = next;
    start = next = (osync__buf_t){0};
    sub->work = w;
    osync__sched_task_hold(t);
    if (wait) {
        w->stage = QUEUED;
        s->waiting_bytes += len;
        DL_APPEND2(s->queue, w, q_prev, q_next);
    } else {
        begin(w);
    }
done:
    osync__buf_free(&start);
    osync__buf_free(&next);
}
