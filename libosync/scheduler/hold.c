/* HoldLog: collectors beside a partition's followers, and further ones beside its leader, are asked, again and again,
 * to keep links of its log, so that the log that a fail-over or a take-over needs is there even if that TabletServer
 * has removed it. Nothing depends on the answers: a collector of the original doesn't know the call, and a hold that
 * isn't asked for again expires.
 *
 * What is held is only known in memory. A scheduler that starts again asks again; one that never comes back lets the
 * holds expire. */
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/failpoint.h"
#include "base/sys.h"
#include "scheduler/internal.h"

struct osync__hold_call {
    osync_scheduler_t *s;
    char *collector, *tablet;
    uint32_t tid, pid;
    char task_id[37];
    osync__buf_t point;
    bool release;
    osync__hold_call_t *prev, *next;
};

struct hold_unknown {
    char *collector;
    uint64_t until_mono;
    UT_hash_handle hh;
};

static void call_next(osync_scheduler_t *s);

/* ---- collectors that don't know the call ---- */

static bool is_unknown(osync_scheduler_t *s, const char *collector) {
    struct hold_unknown *u = NULL;
    HASH_FIND_STR(s->hold_unknown, collector, u);
    if (!u) return false;
    if (osync__mono_ms() < u->until_mono) return true;
    HASH_DEL(s->hold_unknown, u);
    osync__free(u->collector);
    osync__free(u);
    return false;
}

static void is_unknown_now(osync_scheduler_t *s, const char *collector) {
    struct hold_unknown *u = osync__calloc(1, sizeof *u);
    if (u) u->collector = osync__strdup(collector);
    if (!u || !u->collector || is_unknown(s, collector)) {
        if (u) osync__free(u->collector);
        osync__free(u);
        return;
    }
    u->until_mono = osync__mono_ms() + OSYNC__HOLD_UNKNOWN_MS;
    HASH_ADD_KEYPTR(hh, s->hold_unknown, u->collector, strlen(u->collector), u);
    if (!u->hh.tbl) {
        osync__free(u->collector);
        osync__free(u);
        return;
    }
    osync__log(OSYNC_LOG_INFO, "collector %s can't hold logs for a fail-over: it doesn't know HoldLog", collector);
}

/* ---- calls ---- */

static void call_free(osync__hold_call_t *c) {
    osync__buf_free(&c->point);
    osync__free(c->collector);
    osync__free(c->tablet);
    osync__free(c);
}

/* The subtask that a call was made for, if it is there still. */
static osync__sub_t *sub_of(const osync__hold_call_t *c) {
    osync__task_t *t = NULL;
    HASH_FIND(hh, c->s->tasks, &c->tid, sizeof c->tid, t);
    return t && strcmp(t->id, c->task_id) == 0 && t->state == OSYNC__TASK_ACTIVE ? osync__sched_task_sub(t, c->pid)
                                                                                 : NULL;
}

osync__hold_t *osync__sched_hold_of(const osync__sub_t *sub, const char *collector) {
    osync__hold_t *h = sub->held;
    while (h && strcmp(h->collector, collector) != 0) h = h->next;
    return h;
}

static void take_answer(const osync__hold_call_t *c, int status, const Openmldb__Datasync__HoldLogResponse *r,
                        const osync_error_t *err) {
    osync__sub_t *sub = c->release ? NULL : sub_of(c);
    if (!sub) return;
    osync__task_t *t = sub->task;
    osync__hold_t *h = osync__sched_hold_of(sub, c->collector);
    bool refused = !status && r->response && r->response->code != 0;
    if (t->hold_calls > 0 && --t->hold_calls == 0) t->holding = false;
    if (!h) return;
    h->first_entry = status || refused ? 0 : r->first_entry;
    h->last_entry = status || refused ? 0 : r->last_entry;
    h->pinned_bytes = status || refused ? 0 : r->pinned_bytes;
    const char *why = status ? (err ? err->message : osync_strerror(status)) : refused ? r->response->msg : NULL;
    if (refused && !why) why = "refused";
    osync__sched_set(&h->error, why);
}

static void on_held(void *arg, int status, const ProtobufCMessage *response, const osync_error_t *err) {
    osync__hold_call_t *c = arg;
    osync_scheduler_t *s = c->s;
    OSYNC__AFTER(hold_log);
    s->hold_calling--;
    if (!s->closing) {
        osync__kind_t kind = osync__sched_kind(status, err);
        if (kind) osync__sched_seen(s, c->collector, kind);
        if (kind == OSYNC__KIND_ORIGINAL) is_unknown_now(s, c->collector);
        take_answer(c, status, (const Openmldb__Datasync__HoldLogResponse *)response, err);
    }
    call_free(c);
    call_next(s);
    osync__sched_drop(s);
}

static void call(osync__hold_call_t *c) {
    osync_scheduler_t *s = c->s;
    osync_error_t err = {0};
    Openmldb__Datasync__HoldLogRequest r = OPENMLDB__DATASYNC__HOLD_LOG_REQUEST__INIT;
    r.has_tid = r.has_pid = 1;
    r.tid = c->tid;
    r.pid = c->pid;
    r.task_id = c->task_id;
    r.tablet_endpoint = c->tablet;
    r.has_release = r.release = c->release;
    if (c->point.len > 0) r.committed = osync__sched_point_unpack(c->point.data, c->point.len);
    s->hold_calling++;
    osync__sched_hold(s);
    OSYNC__BEFORE(hold_log);
    int rc = osync__rpc_call(s->client, c->collector, "DataCollector", "HoldLog", &r.base, NULL, 0,
                             &openmldb__datasync__hold_log_response__descriptor, s->request_timeout_ms, on_held, c,
                             NULL, &err);
    if (r.committed) openmldb__datasync__sync_point__free_unpacked(r.committed, &osync__protobuf_allocator);
    if (rc) on_held(c, rc, NULL, &err);
}

static void call_next(osync_scheduler_t *s) {
    if (s->hold_going) return; /* a call that ended at once */
    s->hold_going = true;
    while (s->hold_queue && s->hold_calling < OSYNC__MAX_ADDS && !s->closing) {
        osync__hold_call_t *c = s->hold_queue;
        DL_DELETE(s->hold_queue, c);
        call(c);
    }
    s->hold_going = false;
}

/* Puts a call into the queue. */
static bool ask(osync__sub_t *sub, const osync__hold_t *h, bool release) {
    osync_scheduler_t *s = sub->task->s;
    size_t len = 0;
    const void *point = sub->known && sub->delivery ? osync__delivery_point(sub->delivery, &len) : NULL;
    osync__hold_call_t *c = s->closing ? NULL : osync__calloc(1, sizeof *c);
    if (!c) return false;
    *c = (osync__hold_call_t){.s = s,
                              .collector = osync__strdup(h->collector),
                              .tablet = osync__strdup(h->tablet),
                              .tid = sub->task->tid,
                              .pid = sub->pid,
                              .release = release};
    memcpy(c->task_id, sub->task->id, sizeof c->task_id);
    if (!c->collector || !c->tablet || (point && osync__buf_set(&c->point, point, len))) {
        call_free(c);
        return false;
    }
    DL_APPEND(s->hold_queue, c);
    return true;
}

/* ---- who is to hold ---- */

static void hold_free(osync__hold_t *h) {
    osync__free(h->collector);
    osync__free(h->tablet);
    osync__free(h->error);
    osync__free(h);
}

void osync__sched_hold_free(osync__sub_t *sub) {
    osync__hold_t *h, *next;
    LL_FOREACH_SAFE(sub->held, h, next) hold_free(h);
    sub->held = NULL;
}

void osync__sched_hold_release(osync__sub_t *sub) {
    osync__hold_t *h;
    LL_FOREACH(sub->held, h)(void) ask(sub, h, true);
    osync__sched_hold_free(sub);
    call_next(sub->task->s);
}

/* The collector that reads has the log anyway. */
static void on_replica(osync__sub_t *sub, const char *tablet, const char *collector) {
    if (sub->status == OSYNC__SCHEDULER__STATUS__SUCCESS || !sub->known) return;
    if (sub->collector && strcmp(sub->collector, collector) == 0) return;
    osync__hold_t *h = osync__sched_hold_of(sub, collector);
    if (!h) {
        h = osync__calloc(1, sizeof *h);
        if (!h) return;
        h->collector = osync__strdup(collector);
        if (!h->collector) {
            osync__free(h);
            return;
        }
        LL_PREPEND(sub->held, h);
    }
    if (h->seen) return; /* beside several: it keeps the log of the first */
    if (!h->tablet || strcmp(h->tablet, tablet) != 0) osync__sched_set(&h->tablet, tablet);
    h->seen = h->tablet != NULL;
}

static void on_replicas(osync__task_t *t, int status, const osync__place_t *found) {
    osync_scheduler_t *s = t->s;
    s->hold_tasks--;
    if (status || s->closing || t->state != OSYNC__TASK_ACTIVE) { /* what can't be asked says nothing */
        t->holding = false;
        return;
    }
    for (size_t i = 0; i < t->n_subs; i++) {
        osync__hold_t *h;
        LL_FOREACH(t->subs[i].held, h) h->seen = false;
    }
    osync__sched_replicas_each(found, on_replica);
    for (size_t i = 0; i < t->n_subs; i++) {
        osync__sub_t *sub = &t->subs[i];
        osync__hold_t *h, *next;
        LL_FOREACH_SAFE(sub->held, h, next) {
            if (!h->seen) {
                /* One that has the partition now took the links over with it. */
                bool has_it = sub->collector && strcmp(sub->collector, h->collector) == 0;
                /* One that isn't registered may be back soon: what it keeps expires, if it isn't. */
                if (!has_it && h->tablet && osync__sched_replicas_have(found, h->collector)) (void)ask(sub, h, true);
                LL_DELETE(sub->held, h);
                hold_free(h);
            } else if (!is_unknown(s, h->collector) && ask(sub, h, false)) {
                t->hold_calls++;
            }
        }
    }
    t->holding = t->hold_calls > 0;
    call_next(s);
}

void osync__sched_hold_tick(osync__task_t *t, uint64_t now) {
    osync_scheduler_t *s = t->s;
    if (t->state != OSYNC__TASK_ACTIVE || t->holding || s->hold_tasks >= OSYNC__HOLD_TASKS) return;
    if (t->held_mono != 0 && now - t->held_mono < s->hold_period_ms) return;
    t->held_mono = now;
    for (size_t i = 0; i < t->n_subs; i++) t->subs[i].look = true;
    t->holding = true;
    s->hold_tasks++;
    if (osync__sched_replicas(t, on_replicas)) {
        t->holding = false;
        s->hold_tasks--;
    }
}

void osync__sched_hold_close(osync_scheduler_t *s) {
    osync__hold_call_t *c, *next;
    struct hold_unknown *u, *next_u;
    DL_FOREACH_SAFE(s->hold_queue, c, next) call_free(c);
    s->hold_queue = NULL;
    HASH_ITER(hh, s->hold_unknown, u, next_u) {
        HASH_DEL(s->hold_unknown, u);
        osync__free(u->collector);
        osync__free(u);
    }
}
