/* Handing partitions out to collectors (AddSyncTask), and again when one is silent. A hand-out always has a new token,
 * which is stored before it is sent. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/failpoint.h"
#include "base/sys.h"
#include "scheduler/internal.h"

/* ---- handing out ---- */

/* Where the collectors send to. */
static int endpoint_of(osync_scheduler_t *s, char out[512], osync_error_t *err) {
    char host[OSYNC__HOST_SIZE], port[16];
    const char *given = s->advertised && *s->advertised ? s->advertised : NULL;
    snprintf(port, sizeof port, "%d", osync_scheduler_port(s));
    if (given) {
        const char *colon = strrchr(given, ':');
        osync__host_of(given, host);
        if (colon && colon[1]) snprintf(port, sizeof port, "%.15s", colon + 1);
    } else {
        snprintf(host, sizeof host, "%s", s->host ? s->host : "");
    }
    if (!*host || strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0) {
        int rc = s->catalog->ops->local_address(s->catalog, host, sizeof host);
        if (rc)
            return osync__err(err, rc,
                              "this machine's address isn't known before ZooKeeper is connected (or set server.host)");
    }
    snprintf(out, 512, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
    return 0;
}

static void call_next(osync_scheduler_t *s);

/* `waits`: waiting can mend it. */
static void handed_out(osync__sub_t *sub, const char *error, bool waits) {
    osync__task_t *t = sub->task;
    sub->handout = OSYNC__HANDOUT_NONE;
    if (t->state == OSYNC__TASK_REMOVING) return;
    sub->seen_mono = osync__mono_ms();
    if (error)
        osync__sched_set(&sub->failed_collector, sub->collector);
    else
        osync__sched_set(&sub->failed_collector, NULL);
    if (!error) sub->seen_ms = osync__wall_ms();
    if (error && (t->state == OSYNC__TASK_ACTIVE || t->recovers))
        osync__sched_sub_state(sub, waits ? OSYNC__SCHEDULER__STATUS__REASSIGNING : OSYNC__SCHEDULER__STATUS__FAILED,
                               OSYNC__SCHEDULER__CAUSE__ASSIGNMENT, error);
    if (t->state == OSYNC__TASK_CREATING) {
        osync__sched_create_handed_out(sub, t->recovers ? NULL : error);
        return;
    }
    if (error) return;
    if (sub->status != OSYNC__SCHEDULER__STATUS__SUCCESS && !sub->heard) {
        char text[1200];
        snprintf(text, sizeof text, "handed to collector %s, which hasn't sent anything to %s yet", sub->collector,
                 sub->des_endpoint);
        osync__sched_sub_state(sub, OSYNC__SCHEDULER__STATUS__RUNNING, OSYNC__SCHEDULER__CAUSE__NOTHING, text);
    }
}

static void on_added(void *arg, int status, const ProtobufCMessage *response, const osync_error_t *err) {
    osync__sub_t *sub = arg;
    osync__task_t *t = sub->task;
    osync_scheduler_t *s = t->s;
    osync__buf_t text = {0};
    OSYNC__AFTER(add_task);
    s->calling--;
    sub->handout = OSYNC__HANDOUT_NONE;
    if (s->closing) {
        osync__sched_task_drop(t);
        return;
    }
    const Openmldb__Datasync__GeneralResponse *r = (const Openmldb__Datasync__GeneralResponse *)response;
    if (!status) osync__sched_seen(s, sub->collector, OSYNC__KIND_UNKNOWN);
    if (sub->heard) { /* it has begun, whatever became of the answer */
        handed_out(sub, NULL, false);
    } else if (status) {
        osync__buf_printf(&text, "AddSyncTask of tid %u pid %u to collector %s: %s", t->tid, sub->pid,
                          sub->collector ? sub->collector : "", err ? err->message : osync_strerror(status));
        handed_out(sub, text.data ? (const char *)text.data : "out of memory", true);
    } else if (r->code != 0) {
        osync__buf_printf(&text, "java.lang.RuntimeException: add sync task failed, code: %d, msg: %s", r->code,
                          r->msg ? r->msg : "");
        handed_out(sub, text.data ? (const char *)text.data : "out of memory", false);
    } else {
        handed_out(sub, NULL, false);
    }
    osync__buf_free(&text);
    call_next(s);
    osync__sched_task_drop(t);
}

static void call(osync__sub_t *sub) {
    osync__task_t *t = sub->task;
    osync_scheduler_t *s = t->s;
    osync_error_t err = {0};
    int rc = OSYNC_ECORRUPT;
    size_t len;
    const void *point = osync__delivery_point(sub->delivery, &len);
    Openmldb__Datasync__AddSyncTaskRequest r = OPENMLDB__DATASYNC__ADD_SYNC_TASK_REQUEST__INIT;
    r.has_tid = r.has_pid = r.has_mode = r.has_osync = 1;
    r.tid = t->tid;
    r.pid = sub->pid;
    r.mode = (Openmldb__Datasync__SyncMode)t->mode;
    r.has_start_ts = t->has_start_ts;
    r.start_ts = t->start_ts;
    r.sync_point = osync__sched_point_unpack(point, len);
    r.tablet_endpoint = sub->tablet;
    r.des_endpoint = sub->des_endpoint;
    r.token = sub->token;
    r.dest = t->dest;
    r.osync = 1;
    r.has_direct = r.direct = osync__sched_direct_fault(t) == NULL;
    sub->handout = OSYNC__HANDOUT_CALLING;
    s->calling++;
    osync__sched_task_hold(t);
    OSYNC__BEFORE(add_task);
    if (r.sync_point)
        rc = osync__rpc_call(s->client, sub->collector, "DataCollector", "AddSyncTask", &r.base, NULL, 0,
                             &openmldb__datasync__general_response__descriptor, s->request_timeout_ms, on_added, sub,
                             &sub->rpc_id, &err);
    else
        osync__err(&err, rc, "the stored sync point can't be parsed");
    if (r.sync_point) openmldb__datasync__sync_point__free_unpacked(r.sync_point, &osync__protobuf_allocator);
    if (rc) on_added(sub, rc, NULL, &err);
}

static void call_next(osync_scheduler_t *s) {
    if (s->calls_going) return; /* a call that ended at once */
    s->calls_going = true;
    while (s->calls && s->calling < OSYNC__MAX_ADDS && !s->closing) {
        osync__sub_t *sub = s->calls;
        DL_DELETE(s->calls, sub);
        call(sub);
    }
    s->calls_going = false;
}

void osync__sched_hand_out_go_on(osync__sub_t *sub) {
    osync_scheduler_t *s = sub->task->s;
    if (sub->task->state == OSYNC__TASK_REMOVING || s->closing) return;
    if (sub->handout == OSYNC__HANDOUT_SAVING && osync__sched_record_idle(&sub->record)) {
        size_t len = 0;
        osync__delivery_totals_t totals = {0};
        const void *point = NULL;
        sub->handout = OSYNC__HANDOUT_READY;
        if (sub->ready) {
            osync__delivery_totals(sub->delivery, &totals);
            point = osync__delivery_point(sub->delivery, &len);
            /* Rows that were taken from the former collector but not committed are read again by the next one. */
            if (totals.staged_rows > 0 || totals.staged_bytes > 0 || len != sub->end.len ||
                memcmp(point, sub->end.data, len) != 0) {
                sub->ready = false;
                osync__delivery_rewind(sub->delivery);
            }
        }
    }
    if (sub->handout == OSYNC__HANDOUT_READY && sub->ready) {
        sub->handout = OSYNC__HANDOUT_QUEUED;
        DL_APPEND(s->calls, sub);
        call_next(s);
    }
}

void osync__sched_hand_out(osync__sub_t *sub) {
    osync__task_t *t = sub->task;
    char endpoint[512];
    osync_error_t err = {0};
    if (sub->handout != OSYNC__HANDOUT_NONE || sub->work) return;
    if (endpoint_of(t->s, endpoint, &err) || osync__sched_set(&sub->des_endpoint, endpoint) ||
        osync__sched_set(&sub->tablet, sub->place_tablet) || osync__sched_set(&sub->collector, sub->place_collector)) {
        const char *why = err.code ? err.message : "out of memory";
        if (t->state == OSYNC__TASK_CREATING)
            osync__sched_create_handed_out(sub, why);
        else
            osync__sched_sub_waits(sub, why); /* the next check tries again */
        return;
    }
    osync__random_uuid(sub->token);
    sub->heard = sub->put_off = sub->retry = false;
    sub->phase[0] = '\0';
    sub->direct = false;
    sub->direct_rows = sub->direct_bytes = 0;
    sub->adopt_failures = 0;
    sub->proxy_until = 0;
    sub->last_start.len = 0;
    sub->handout = OSYNC__HANDOUT_SAVING;
    osync__sched_record_put(&sub->record);
}

/* ---- reassigning ---- */

/* A collector of ours that was put off waits before it sends again. */
bool osync__sched_silent(const osync__sub_t *sub, uint64_t now) {
    uint64_t patience = 2 * (uint64_t)sub->task->s->check_period_ms + (sub->put_off ? OSYNC__PUT_OFF_MS : 0);
    return now > sub->seen_mono && now - sub->seen_mono > patience;
}

/* While the destination isn't ready nobody could go on, and it is that which the status says. */
static bool may_hand_out(const osync__sub_t *sub) {
    return !sub->work && sub->handout == OSYNC__HANDOUT_NONE && sub->ready &&
           sub->status != OSYNC__SCHEDULER__STATUS__SUCCESS && sub->cause != OSYNC__SCHEDULER__CAUSE__DESTINATION;
}

static bool is_due(const osync__sub_t *sub, uint64_t now) {
    return sub->retry || sub->cause == OSYNC__SCHEDULER__CAUSE__ASSIGNMENT || osync__sched_silent(sub, now);
}

/* A collector that lives, beside a TabletServer that doesn't lead any more, gets nothing new, or late: the new leader's
 * takes its place, if there is one. */
static void follow_leader(osync__sub_t *sub) {
    char text[1200];
    if (sub->place_error || sub->place_away || !sub->tablet) return;
    sub->look = false;
    if (strcmp(sub->tablet, sub->place_tablet) == 0) return;
    snprintf(text, sizeof text, "its leader has moved from %s to %s", sub->tablet, sub->place_tablet);
    osync__sched_sub_state(sub, OSYNC__SCHEDULER__STATUS__REASSIGNING, OSYNC__SCHEDULER__CAUSE__NOTHING, text);
    osync__sched_hand_out(sub);
}

static void on_reassign_placed(osync__task_t *t, int status, const osync_error_t *err) {
    char text[1200];
    if (t->state != OSYNC__TASK_ACTIVE || t->s->closing) return;
    for (size_t i = 0; i < t->n_subs; i++) {
        osync__sub_t *sub = &t->subs[i];
        if (!sub->placing) continue;
        sub->placing = false;
        if (!may_hand_out(sub)) continue;
        if (!is_due(sub, osync__mono_ms())) {
            if (sub->look && !status) follow_leader(sub);
            continue;
        }
        if (status && status != OSYNC_ENOENT) { /* not to be able to ask says nothing about the partition */
            snprintf(text, sizeof text, "waits for ZooKeeper: %s", err->message);
            osync__sched_sub_waits(sub, text);
        } else if (status) {
            osync__sched_sub_state(sub, OSYNC__SCHEDULER__STATUS__FAILED, OSYNC__SCHEDULER__CAUSE__ASSIGNMENT,
                                   err->message);
        } else if (sub->place_error && sub->place_waits) {
            snprintf(text, sizeof text, "waits for a leader with a collector: %s", sub->place_error);
            osync__sched_sub_state(sub, OSYNC__SCHEDULER__STATUS__REASSIGNING, OSYNC__SCHEDULER__CAUSE__ASSIGNMENT,
                                   text);
        } else if (sub->place_error) {
            osync__sched_sub_state(sub, OSYNC__SCHEDULER__STATUS__FAILED, OSYNC__SCHEDULER__CAUSE__ASSIGNMENT,
                                   sub->place_error);
        } else if (!sub->place_away) {
            osync__sched_hand_out(sub);
        }
    }
}

void osync__sched_reassign(osync__task_t *task) {
    uint64_t now = osync__mono_ms();
    size_t n = 0;
    if (task->placing || task->state != OSYNC__TASK_ACTIVE) return;
    for (size_t i = 0; i < task->n_subs; i++) {
        osync__sub_t *sub = &task->subs[i];
        sub->placing = false;
        if (!may_hand_out(sub) || (!is_due(sub, now) && !sub->look)) continue;
        bool silent = is_due(sub, now) && !sub->retry && sub->cause != OSYNC__SCHEDULER__CAUSE__ASSIGNMENT;
        if (silent &&
            (sub->status == OSYNC__SCHEDULER__STATUS__INIT || sub->status == OSYNC__SCHEDULER__STATUS__RUNNING)) {
            char text[1200];
            snprintf(text, sizeof text, "collector %s was silent for %" PRIu64 " ms%s%s",
                     sub->collector ? sub->collector : "(none)", now - sub->seen_mono,
                     sub->heard || !sub->des_endpoint ? "" : "; can it reach this scheduler at ",
                     sub->heard || !sub->des_endpoint ? "" : sub->des_endpoint);
            osync__sched_sub_state(sub, OSYNC__SCHEDULER__STATUS__REASSIGNING, OSYNC__SCHEDULER__CAUSE__NOTHING, text);
        }
        if (silent) osync__sched_set(&sub->failed_collector, sub->collector);
        sub->placing = true;
        n++;
    }
    if (n > 0) osync__sched_place(task, NULL, 0, on_reassign_placed);
}

/* ---- RetrySyncTask ---- */

void osync__sched_on_retry(osync__rpc_call_t *call, void *arg) {
    osync_scheduler_t *s = arg;
    const Openmldb__Datasync__RetrySyncTaskRequest *r =
        (const Openmldb__Datasync__RetrySyncTaskRequest *)osync__rpc_request(call);
    osync__buf_t text = {0};
    osync__task_t *t, *next;
    size_t n = 0, tasks = 0;
    int rc = 0;
    if (!s->loaded) {
        osync__sched_reply_general(call, -1, s->load_error);
        return;
    }
    HASH_ITER(hh, s->tasks, t, next) {
        if (!r->db || !r->name || strcmp(t->db, r->db) != 0 || strcmp(t->name, r->name) != 0 ||
            t->state != OSYNC__TASK_ACTIVE)
            continue;
        tasks++;
        osync__sched_task_hold(t);
        for (size_t i = 0; i < t->n_subs; i++) {
            osync__sub_t *sub = &t->subs[i];
            if (sub->status != OSYNC__SCHEDULER__STATUS__FAILED) continue;
            if (!rc) rc = osync__buf_printf(&text, "%s%" PRIu32, n == 0 ? "starts again: partition " : ", ", sub->pid);
            n++;
            if (sub->cause == OSYNC__SCHEDULER__CAUSE__DESTINATION) osync__sched_delivery_restart(sub);
            sub->retry = true;
            osync__sched_sub_state(sub, OSYNC__SCHEDULER__STATUS__REASSIGNING, OSYNC__SCHEDULER__CAUSE__NOTHING,
                                   "starts again from the committed point, as retry asked for");
        }
        osync__sched_reassign(t);
        osync__sched_task_drop(t);
    }
    if (tasks == 0)
        rc = osync__buf_printf(&text, "table %s.%s has no sync task", r->db ? r->db : "", r->name ? r->name : "");
    else if (n == 0)
        rc = osync__buf_printf(&text, "no partition is FAILED");
    if (!rc) rc = osync__buf_append(&text, "", 1);
    osync__sched_reply_general(call, tasks == 0 ? -1 : 0, rc ? "out of memory" : (const char *)text.data);
    osync__buf_free(&text);
}
