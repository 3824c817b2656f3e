/* The send lane of a task: packs of rows, reports and heartbeats to its scheduler by SendData, one at a time, and what
 * follows from the answers. What is read, and when, is task.c's. */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/failpoint.h"
#include "base/sys.h"
#include "collector/task.h"

enum {
    MAX_PATIENCE = 8, /* times the usual time for an answer */
    BEATS_APART = 20, /* times of heartbeats, in the time from one to the next */
};

static void on_send_timer(uv_timer_t *timer) {
    osync__task_send_next(timer->data);
}

static void move(osync__buf_t *to, osync__buf_t *from) {
    osync__buf_free(to);
    *to = *from;
    *from = (osync__buf_t){0};
}

static void accept_pack(osync__task_t *t) {
    osync__pack_t *p = &t->packs[0];
    t->rows_sent += p->count;
    t->moved_at = osync__mono_ms();
    move(&t->point, &p->next);
    osync__pack_clear(p);
    osync__task_shift_packs(t);
}

static void accept_file(osync__task_t *t) {
    osync__staged_t *file = &t->direct.file;
    t->rows_sent += file->rows;
    t->moved_at = osync__mono_ms();
    move(&t->point, &file->next);
    osync__direct_committed(t);
}

static void set_committed(osync__task_t *t, const osync__buf_t *point) {
    if (osync__buf_equal(point, &t->committed)) return;
    if (osync__buf_set(&t->committed, point->data, point->len)) return; /* it will be told again */
    t->want_commit = true;
    t->commit_at = 0;
}

static void rewind_to(osync__task_t *t, const osync__buf_t *point) {
    if (osync__buf_set(&t->point, point->data, point->len)) return; /* it will be told again */
    TASK_LOG(t, INFO, "the scheduler wants the rows again from an earlier point");
    osync__direct_void(t);
    osync__task_drop_packs(t);
    t->discard = true;
    osync__task_set_cancel(t, 1);
}

static void finish(osync__task_t *t) {
    TASK_LOG(t, INFO, "finished: %llu rows", (unsigned long long)t->rows_sent);
    osync__task_end(t, !t->partition->incoming);
}

/* An answer came. Returns true if the same request must be sent again after a while. */
static bool take_answer(osync__task_t *t, const Openmldb__Datasync__SendDataResponse *r) {
    osync__buf_t point = {0};
    bool again = false;
    int code = r->response->code;
    if (r->delete_task) {
        /* A reply to a task that was replaced never comes here: its call was canceled. While a newer one is being set
         * up, the folder is that one's. */
        TASK_LOG(t, INFO, "deleted by the scheduler: %s", r->response->msg ? r->response->msg : "no reason given");
        osync__task_end(t, !t->partition->incoming);
        return false;
    }
    /* A collector of the original that had this task before may not have kept the word of it. */
    if (r->committed_point || r->resume_point) t->request->has_osync = t->request->osync = 1;
    /* An answer that leaves open whether `point` is right may name a later one: what lies between is still needed. */
    bool known = code == 0 || r->resume_point;
    if (known && r->committed_point && !osync__point_pack(&point, r->committed_point)) set_committed(t, &point);
    if (r->resume_point) {
        if (!osync__point_pack(&point, r->resume_point)) rewind_to(t, &point);
    } else if (code != 0) {
        osync_error_t err;
        osync__err(&err, OSYNC_EAGAIN, "the scheduler %s doesn't take data now: %s", t->request->des_endpoint,
                   r->response->msg ? r->response->msg : "no reason given");
        osync__task_note(t, &t->send_problem, &err);
        again = true;
    } else if (t->pack_sent && t->n_packs > 0) {
        bool finished = t->packs[0].finished;
        if (osync__task_is_original(t)) set_committed(t, &t->packs[0].next);
        accept_pack(t);
        if (finished) finish(t);
    } else if (t->file_sent && t->direct.has_file) {
        bool finished = t->direct.file.finished;
        accept_file(t);
        if (finished) finish(t);
    }
    if (t->direct.asked && !t->ending) osync__direct_answered(t, r->stage, code == 0);
    osync__buf_free(&point);
    return again;
}

/* The answer to rows is late where the destination is slow, and to ask again is to send them again: it is waited for
 * longer then. */
static uint32_t patience(const osync__task_t *t) {
    uint32_t least = t->env->config->request_timeout_ms;
    return t->patience_ms > least ? t->patience_ms : least;
}

static void learn_patience(osync__task_t *t, int status) {
    uint64_t most = (uint64_t)MAX_PATIENCE * t->env->config->request_timeout_ms;
    uint64_t took = osync__mono_ms() - t->last_sent, next = 0;
    if (status == OSYNC_ETIMEOUT)
        next = 2 * (uint64_t)patience(t);
    else if (!status)
        next = 2 * took > t->patience_ms / 2 ? 2 * took : t->patience_ms / 2;
    if (next > most) next = most;
    t->patience_ms = next > UINT32_MAX ? UINT32_MAX : (uint32_t)next;
}

static void on_sent(void *arg, int status, const ProtobufCMessage *message, const osync_error_t *rpc_err) {
    osync__task_t *t = arg;
    OSYNC__AFTER(send_data);
    if (t->file_sent && t->direct.file.bytes > 0) OSYNC__AFTER(send_staged);
    t->sending = false;
    if (t->ending) {
        osync__task_go_on(t);
        return;
    }
    if (t->pack_sent) learn_patience(t, status);
    bool again = true;
    if (status) {
        osync_error_t err;
        osync__err_wrap(&err, rpc_err, "SendData to the scheduler %s", t->request->des_endpoint);
        osync__task_note(t, &t->send_problem, &err);
    } else {
        again = take_answer(t, (const Openmldb__Datasync__SendDataResponse *)(const void *)message);
    }
    if (t->ending) return;
    if (t->gave_up) { /* so that what is sent next says so */
        osync__direct_void(t);
        osync__task_drop_packs(t);
    }
    if (again) {
        t->send_delay = osync__task_longer(t->send_delay);
        t->send_at = osync__mono_ms() + t->send_delay;
    } else {
        t->send_delay = 0;
        t->send_at = 0;
        t->gave_way = false;
        t->send_problem = (osync_error_t){0};
    }
    osync__task_send_next(t);
    osync__task_go_on(t);
}

static void report_reason(const osync__task_t *t, char *out, size_t size) {
    uint64_t now = osync__mono_ms();
    const osync_error_t *problem = t->problem.code        ? &t->problem
                                   : t->link_problem.code ? &t->link_problem
                                                          : &t->commit_problem;
    if (!problem->code) problem = &t->direct.problem;
    if (problem->code)
        (void)snprintf(out, size, "%s", problem->message);
    else if (osync__task_waits_for(t))
        (void)snprintf(out, size, "%s", osync__task_waits_for(t));
    else if (!strcmp(t->state, "waiting"))
        (void)snprintf(out, size,
                       "the snapshot is too young to be read: everything that was put before it must be in the log; "
                       "waits %llu s more",
                       (unsigned long long)(t->wait_until > now ? (t->wait_until - now + 999) / 1000 : 0));
    else
        out[0] = 0;
}

/* Sends the file, the pack or, with both NULL, a report alone. */
static void send_request(osync__task_t *t, const osync__staged_t *file, const osync__pack_t *p) {
    osync_error_t err = {0};
    char reason[sizeof t->problem.message], state[16], token[1] = "";
    Openmldb__Datasync__SendDataRequest r = OPENMLDB__DATASYNC__SEND_DATA_REQUEST__INIT;
    Openmldb__Datasync__CollectorReport report = OPENMLDB__DATASYNC__COLLECTOR_REPORT__INIT;
    Openmldb__Datasync__StagedFile staged = OPENMLDB__DATASYNC__STAGED_FILE__INIT;
    osync__stage_size_t size;
    r.start_point = osync__point_unpack(&t->point);
    r.next_point = osync__point_unpack(file ? &file->next : p ? &p->next : &t->point);
    int rc = OSYNC_ENOMEM;
    if (r.start_point && r.next_point) {
        report_reason(t, reason, sizeof reason);
        (void)snprintf(state, sizeof state, "%s", t->state);
        report.state = state;
        if (reason[0]) report.reason = reason;
        report.has_failed = 1;
        report.failed = t->failed && !p && !osync__direct_has_rows(t); /* rows that were read before it are good */
        report.has_snapshot_rows = report.has_log_tail = 1;
        report.snapshot_rows = t->progress.snapshot_rows;
        report.log_tail = t->progress.tail;
        r.has_tid = r.has_pid = r.has_count = r.has_finished = 1;
        r.tid = t->request->tid;
        r.pid = t->request->pid;
        r.count = file ? file->rows : p ? p->count : 0;
        r.finished = file ? file->finished : p && p->finished;
        r.token = t->request->token ? t->request->token : token;
        r.report = &report;
        t->direct.asked = osync__direct_wants(t) || t->direct.has_file;
        if (t->direct.asked) report.stager = t->direct.stager;
        if (t->direct.stage) {
            osync__stage_size(t->direct.stage, &size);
            report.has_staged_rows = report.has_staged_bytes = 1;
            report.staged_rows = size.rows;
            report.staged_bytes = size.bytes;
        }
        if (file && file->bytes > 0) {
            staged.incarnation = t->direct.grant->incarnation;
            staged.attempt = t->direct.file.attempt;
            staged.has_bytes = 1;
            staged.bytes = file->bytes;
            r.staged = &staged;
            t->direct.sent = true;
            OSYNC__BEFORE(send_staged);
        }
        OSYNC__BEFORE(send_data);
        rc = osync__rpc_call(t->env->client, t->request->des_endpoint, "openmldb.datasync.SyncTool", "SendData",
                             &r.base, p ? p->rows.data : NULL, p ? p->rows.len : 0,
                             &openmldb__datasync__send_data_response__descriptor,
                             p ? patience(t) : t->env->config->request_timeout_ms, on_sent, t, &t->send_id, &err);
    } else {
        osync__err(&err, rc, "out of memory");
    }
    if (r.start_point) openmldb__datasync__sync_point__free_unpacked(r.start_point, &osync__protobuf_allocator);
    if (r.next_point) openmldb__datasync__sync_point__free_unpacked(r.next_point, &osync__protobuf_allocator);
    t->last_sent = osync__mono_ms();
    if (!p && !file) t->report_now = false;
    if (rc) {
        osync__err_wrap(&err, &err, "SendData to the scheduler %s", t->request->des_endpoint);
        osync__task_note(t, &t->send_problem, &err);
        t->send_delay = osync__task_longer(t->send_delay);
        t->send_at = osync__mono_ms() + t->send_delay;
        uv_timer_start(&t->send_timer, on_send_timer, t->send_delay, 0);
        return;
    }
    t->sending = true;
    t->pack_sent = p != NULL;
    t->file_sent = file != NULL;
}

/* Heartbeats of many tasks are sent together, so that they share a wake-up. */
static uint64_t next_beat(const osync__task_t *t) {
    uint64_t due = t->last_sent + t->env->config->heartbeat_ms, grid = t->env->config->heartbeat_ms / BEATS_APART;
    return grid > 0 ? due - due % grid : due;
}

void osync__task_send_next(osync__task_t *t) {
    if (t->ending || !t->ready) return;
    osync__direct_feed(t);
    if (t->sending) return;
    const osync__staged_t *file = t->direct.has_file ? &t->direct.file : NULL;
    const osync__pack_t *pack = !file && osync__direct_leaves_pack(t) ? &t->packs[0] : NULL;
    uint64_t now = osync__mono_ms();
    uint64_t due = next_beat(t), retry_at = t->direct.retry_at;
    if (osync__direct_asks(t) && retry_at < due) due = retry_at;
    if (file || pack || t->report_now) due = now;
    if (due < t->send_at) due = t->send_at;
    if (now >= due)
        send_request(t, file, pack);
    else
        uv_timer_start(&t->send_timer, on_send_timer, (retry_at > now && retry_at < due ? retry_at : due) - now, 0);
}
