/* Who reads a partition: the leader's machine from the table's TableInfo, a collector on that machine, and the
 * AddSyncTask that hands the partition out. A hand-out always has a new token, which is stored before it is sent. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "base/error.h"
#include "base/sys.h"
#include "format/table.h"
#include "scheduler/internal.h"

enum { NAMES_AT_ONCE = 16 };

/* ---- finding a place ---- */

/* One wanted subtask: its leader, and the host to look for. */
typedef struct want {
    osync__sub_t *sub;
    char *leader; /* NULL: none, sub->place_error says why */
    char host[OSYNC__HOST_SIZE];
    struct place *place;
} want_t;

typedef struct place {
    osync__task_t *task;
    osync__place_cb cb;
    want_t *wants;
    size_t n;
    char **collectors;
    size_t n_collectors;
    size_t next_name, open_names;
    int status;
    osync_error_t err;
} place_t;

static void place_end(place_t *p) {
    osync__task_t *t = p->task;
    t->placing = false;
    p->cb(t, p->status, p->status ? &p->err : NULL);
    for (size_t i = 0; i < p->n; i++) free(p->wants[i].leader);
    for (size_t i = 0; i < p->n_collectors; i++) free(p->collectors[i]);
    free(p->collectors);
    free(p->wants);
    free(p);
    osync__sched_task_drop(t);
}

static void place_failed(place_t *p, int status, const osync_error_t *err, const char *what) {
    p->status = status;
    osync__err(&p->err, status, "%s: %s", what, err ? err->message : osync_strerror(status));
    place_end(p);
}

static bool collector_is_on(const place_t *p, size_t i, const char *host) {
    char own[OSYNC__HOST_SIZE];
    osync__host_of(p->collectors[i], own);
    return osync__hosts_same(p->task->s->hosts, own, host);
}

/* How many subtasks of ours a collector has. */
static size_t load_of(const osync_scheduler_t *s, const char *collector) {
    size_t n = 0;
    for (const osync__task_t *t = s->tasks; t; t = t->hh.next) {
        if (t->state == OSYNC__TASK_REMOVING) continue;
        for (size_t i = 0; i < t->n_subs; i++) {
            const osync__sub_t *sub = &t->subs[i];
            if (sub->status != OSYNC__SCHEDULER__STATUS__SUCCESS && sub->status != OSYNC__SCHEDULER__STATUS__FAILED &&
                sub->collector && strcmp(sub->collector, collector) == 0)
                n++;
        }
    }
    return n;
}

static void choose(place_t *p) {
    osync__task_t *t = p->task;
    char text[1024];
    size_t *loads = calloc(p->n_collectors + 1, sizeof *loads);
    if (!loads) {
        place_failed(p, OSYNC_ENOMEM, NULL, "choosing a collector");
        return;
    }
    for (size_t i = 0; i < p->n_collectors; i++) loads[i] = load_of(t->s, p->collectors[i]);
    for (size_t w = 0; w < p->n; w++) {
        want_t *want = &p->wants[w];
        osync__sub_t *sub = want->sub;
        size_t best = p->n_collectors;
        bool best_failed = false;
        if (!want->leader) continue;
        for (size_t i = 0; i < p->n_collectors; i++) {
            if (!collector_is_on(p, i, want->host)) continue;
            bool failed = sub->failed_collector && strcmp(sub->failed_collector, p->collectors[i]) == 0;
            if (best == p->n_collectors || (best_failed && !failed) ||
                (best_failed == failed && loads[i] < loads[best])) {
                best = i;
                best_failed = failed;
            }
        }
        if (best == p->n_collectors) {
            if (p->n_collectors == 0)
                snprintf(text, sizeof text, "java.lang.RuntimeException: can't find data collectors in zk");
            else
                snprintf(text, sizeof text, "java.lang.RuntimeException: can't find living data collector in host: %s",
                         want->host);
            if (osync__sched_set(&sub->place_error, text)) sub->place_away = true;
            continue;
        }
        loads[best]++;
        if (osync__sched_set(&sub->place_collector, p->collectors[best]) ||
            osync__sched_set(&sub->place_tablet, want->leader))
            sub->place_away = true;
    }
    free(loads);
    place_end(p);
}

static void on_hosts(void *arg) {
    place_t *p = arg;
    if (p->task->s->closing)
        place_failed(p, OSYNC_ECANCELED, NULL, "looking for a collector");
    else
        choose(p);
}

/* Names are only looked up if equal text doesn't settle it. */
static void look_up_hosts(place_t *p) {
    size_t n = 0;
    const char **names = calloc(p->n + p->n_collectors + 1, sizeof *names);
    char(*hosts)[OSYNC__HOST_SIZE] = calloc(p->n_collectors + 1, sizeof *hosts);
    int rc = 1;
    if (!names || !hosts) goto done;
    for (size_t i = 0; i < p->n_collectors; i++) osync__host_of(p->collectors[i], hosts[i]);
    for (size_t w = 0; w < p->n; w++) {
        want_t *want = &p->wants[w];
        bool seen = !want->leader;
        for (size_t i = 0; i < p->n_collectors && !seen; i++) seen = strcmp(hosts[i], want->host) == 0;
        for (size_t i = 0; i < n && !seen; i++) seen = strcmp(names[i], want->host) == 0;
        if (!seen) names[n++] = want->host;
    }
    if (n > 0) {
        for (size_t i = 0; i < p->n_collectors; i++) names[n++] = hosts[i];
        rc = osync__hosts_lookup(p->task->s->hosts, names, n, on_hosts, p);
    }
done:
    free(names);
    free(hosts);
    if (rc != 0) on_hosts(p);
}

static void ask_names(place_t *p);

static void on_name(void *arg, int status, const char *endpoint, const osync_error_t *err) {
    want_t *want = arg;
    place_t *p = want->place;
    p->open_names--;
    if (status && !p->status) {
        p->status = status;
        osync__err(&p->err, status, "ZooKeeper can't be asked for the address of %s: %s", want->leader,
                   err ? err->message : osync_strerror(status));
    } else if (!status && osync__sched_set(&want->leader, endpoint)) {
        p->status = osync__err(&p->err, OSYNC_ENOMEM, "out of memory");
    }
    if (want->leader) osync__host_of(want->leader, want->host);
    ask_names(p);
}

/* A leader that isn't "host:port" is a server name (use_name). */
static void ask_names(place_t *p) {
    osync__catalog_t *c = p->task->s->catalog;
    while (!p->status && p->next_name < p->n && p->open_names < NAMES_AT_ONCE) {
        want_t *want = &p->wants[p->next_name++];
        if (!want->leader || strchr(want->leader, ':')) continue;
        p->open_names++;
        int rc = p->task->s->closing ? OSYNC_ECANCELED : c->ops->resolve(c, want->leader, on_name, want);
        if (rc) {
            p->open_names--;
            p->status = osync__err(&p->err, rc, "ZooKeeper can't be asked for the address of %s: %s", want->leader,
                                   osync_strerror(rc));
        }
    }
    if (p->open_names > 0) return;
    if (!p->status && p->task->s->closing)
        p->status = osync__err(&p->err, OSYNC_ECANCELED, "the scheduler is stopping");
    if (p->status)
        place_end(p);
    else
        look_up_hosts(p);
}

static void on_collectors(void *arg, int status, const char *const *names, size_t n, const osync_error_t *err) {
    place_t *p = arg;
    if (status) {
        place_failed(p, status, err, "ZooKeeper can't be asked for the collectors");
        return;
    }
    p->collectors = calloc(n + 1, sizeof *p->collectors);
    for (size_t i = 0; p->collectors && i < n; i++) {
        p->collectors[i] = strdup(names[i]);
        if (!p->collectors[i]) break;
        p->n_collectors++;
    }
    if (p->n_collectors < n || !p->collectors) {
        place_failed(p, OSYNC_ENOMEM, NULL, "the list of collectors");
        return;
    }
    ask_names(p);
}

/* The one leader that is alive. */
static void find_leader(want_t *want, const Openmldb__Nameserver__TableInfo *info) {
    const Openmldb__Nameserver__TablePartition *partition = NULL;
    const Openmldb__Nameserver__PartitionMeta *leader = NULL, *dead = NULL;
    osync__sub_t *sub = want->sub;
    char text[1024] = "";
    size_t leaders = 0;
    for (size_t i = 0; i < info->n_table_partition && !partition; i++)
        if (info->table_partition[i]->pid == sub->pid) partition = info->table_partition[i];
    for (size_t i = 0; partition && i < partition->n_partition_meta; i++) {
        const Openmldb__Nameserver__PartitionMeta *m = partition->partition_meta[i];
        if (m->is_leader && m->is_alive) {
            leader = m;
            leaders++;
        } else if (m->is_leader) {
            dead = m;
        }
    }
    if (!partition)
        snprintf(text, sizeof text, "the table has no partition %u any more", sub->pid);
    else if (leaders > 1)
        snprintf(text, sizeof text, "partition %u has %zu leaders in ZooKeeper", sub->pid, leaders);
    else if (!leader && dead)
        snprintf(text, sizeof text, "the leader of partition %u, %s, isn't alive", sub->pid, dead->endpoint);
    else if (!leader)
        snprintf(text, sizeof text, "java.util.NoSuchElementException"); /* the original's whole text */
    if (*text) {
        if (osync__sched_set(&sub->place_error, text)) sub->place_away = true;
        return;
    }
    want->leader = strdup(leader->endpoint);
    if (want->leader)
        osync__host_of(want->leader, want->host);
    else
        sub->place_away = true;
}

static void on_table(void *arg, int status, const void *data, size_t len, const osync_error_t *err) {
    place_t *p = arg;
    osync__task_t *t = p->task;
    osync_scheduler_t *s = t->s;
    Openmldb__Nameserver__TableInfo *info = NULL;
    osync__schema_t *schema = NULL;
    if (status == OSYNC_ENOENT) {
        char text[512];
        snprintf(text, sizeof text, "table %s.%s (tid %u) doesn't exist any more", t->db, t->name, t->tid);
        p->status = osync__err(&p->err, OSYNC_ENOENT, "%s", text);
        place_end(p);
        return;
    }
    if (status) {
        place_failed(p, status, err, "ZooKeeper can't be asked for the table");
        return;
    }
    info = openmldb__nameserver__table_info__unpack(NULL, len, data);
    if (!info) {
        place_failed(p, OSYNC_ECORRUPT, NULL, "the table's TableInfo in ZooKeeper");
        return;
    }
    for (size_t i = 0; i < p->n; i++) find_leader(&p->wants[i], info);
    openmldb__nameserver__table_info__free_unpacked(info, NULL);
    if (osync__sched_schema_new(&schema, data, len, t->timezone, NULL) == 0) {
        if (!t->schema || schema->n_columns > t->schema->n_columns) {
            osync__sched_schema_unref(t->schema);
            t->schema = schema;
        } else {
            osync__sched_schema_unref(schema);
        }
    }
    int rc = s->closing ? OSYNC_ECANCELED : s->catalog->ops->collectors(s->catalog, on_collectors, p);
    if (rc) place_failed(p, rc, NULL, "ZooKeeper can't be asked for the collectors");
}

int osync__sched_place(osync__task_t *task, const void *info, size_t len, osync__place_cb cb) {
    place_t *p = calloc(1, sizeof *p);
    if (p) p->wants = calloc(task->n_subs, sizeof *p->wants);
    if (!p || !p->wants) {
        free(p);
        return OSYNC_ENOMEM;
    }
    p->task = task;
    p->cb = cb;
    for (size_t i = 0; i < task->n_subs; i++) {
        osync__sub_t *sub = &task->subs[i];
        osync__sched_set(&sub->place_error, NULL);
        sub->place_away = false;
        if (!sub->placing) continue;
        p->wants[p->n].sub = sub;
        p->wants[p->n++].place = p;
    }
    task->placing = true;
    osync__sched_task_hold(task);
    if (info) {
        on_table(p, 0, info, len, NULL);
        return 0;
    }
    int rc = task->s->catalog->ops->get(task->s->catalog, task->tid, on_table, p);
    if (rc) on_table(p, rc, NULL, 0, NULL);
    return 0;
}

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

static void handed_out(osync__sub_t *sub, const char *error) {
    osync__task_t *t = sub->task;
    sub->handout = OSYNC__HANDOUT_NONE;
    if (t->state == OSYNC__TASK_REMOVING) return;
    sub->seen_mono = osync__mono_ms();
    if (error)
        osync__sched_set(&sub->failed_collector, sub->collector);
    else
        osync__sched_set(&sub->failed_collector, NULL);
    if (t->state == OSYNC__TASK_CREATING) {
        if (!error) sub->seen_ms = osync__wall_ms();
        osync__sched_create_handed_out(sub, error);
        return;
    }
    if (error) {
        osync__sched_sub_state(sub, OSYNC__SCHEDULER__STATUS__FAILED, OSYNC__SCHEDULER__CAUSE__ASSIGNMENT, error);
        return;
    }
    sub->seen_ms = osync__wall_ms();
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
    s->calling--;
    sub->handout = OSYNC__HANDOUT_NONE;
    if (s->closing) {
        osync__sched_task_drop(t);
        return;
    }
    const Openmldb__Datasync__GeneralResponse *r = (const Openmldb__Datasync__GeneralResponse *)response;
    if (sub->heard) { /* it has begun, whatever became of the answer */
        handed_out(sub, NULL);
    } else if (status) {
        osync__buf_printf(&text, "AddSyncTask of tid %u pid %u to collector %s: %s", t->tid, sub->pid,
                          sub->collector ? sub->collector : "", err ? err->message : osync_strerror(status));
        handed_out(sub, text.data ? (const char *)text.data : "out of memory");
    } else if (r->code != 0) {
        osync__buf_printf(&text, "java.lang.RuntimeException: add sync task failed, code: %d, msg: %s", r->code,
                          r->msg ? r->msg : "");
        handed_out(sub, text.data ? (const char *)text.data : "out of memory");
    } else {
        handed_out(sub, NULL);
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
    sub->handout = OSYNC__HANDOUT_CALLING;
    s->calling++;
    osync__sched_task_hold(t);
    if (r.sync_point)
        rc = osync__rpc_call(s->client, sub->collector, "DataCollector", "AddSyncTask", &r.base, NULL, 0,
                             &openmldb__datasync__general_response__descriptor, s->request_timeout_ms, on_added, sub,
                             &sub->rpc_id, &err);
    else
        osync__err(&err, rc, "the stored sync point can't be parsed");
    if (r.sync_point) openmldb__datasync__sync_point__free_unpacked(r.sync_point, NULL);
    if (rc) on_added(sub, rc, NULL, &err);
}

static void call_next(osync_scheduler_t *s) {
    while (s->calls && s->calling < OSYNC__MAX_ADDS && !s->closing) {
        osync__sub_t *sub = s->calls;
        DL_DELETE(s->calls, sub);
        call(sub);
    }
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
            osync__sched_sub_state(sub, sub->status, sub->cause, why); /* the next check tries again */
        return;
    }
    osync__random_uuid(sub->token);
    sub->heard = false;
    sub->last_start.len = 0;
    sub->handout = OSYNC__HANDOUT_SAVING;
    osync__sched_record_put(&sub->record);
}

/* ---- reassigning ---- */

bool osync__sched_silent(const osync__sub_t *sub, uint64_t now) {
    return now - sub->seen_mono > 2 * (uint64_t)sub->task->s->check_period_ms;
}

static void on_reassign_placed(osync__task_t *t, int status, const osync_error_t *err) {
    char text[1200];
    if (t->state != OSYNC__TASK_ACTIVE || t->s->closing) return;
    for (size_t i = 0; i < t->n_subs; i++) {
        osync__sub_t *sub = &t->subs[i];
        if (!sub->placing) continue;
        sub->placing = false;
        if (sub->work || sub->handout != OSYNC__HANDOUT_NONE || sub->status == OSYNC__SCHEDULER__STATUS__SUCCESS)
            continue;
        if (sub->cause != OSYNC__SCHEDULER__CAUSE__ASSIGNMENT && !osync__sched_silent(sub, osync__mono_ms())) continue;
        if (status && status != OSYNC_ENOENT) { /* not to be able to ask says nothing about the partition */
            snprintf(text, sizeof text, "waits for ZooKeeper: %s", err->message);
            osync__sched_sub_state(sub, sub->status, sub->cause, text);
        } else if (status || sub->place_error) {
            osync__sched_sub_state(sub, OSYNC__SCHEDULER__STATUS__FAILED, OSYNC__SCHEDULER__CAUSE__ASSIGNMENT,
                                   status ? err->message : sub->place_error);
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
        if (sub->work || sub->handout != OSYNC__HANDOUT_NONE || !sub->delivery ||
            sub->status == OSYNC__SCHEDULER__STATUS__SUCCESS || sub->cause == OSYNC__SCHEDULER__CAUSE__DESTINATION)
            continue;
        bool again = sub->cause == OSYNC__SCHEDULER__CAUSE__ASSIGNMENT;
        if (!again && !osync__sched_silent(sub, now)) continue;
        if (sub->status == OSYNC__SCHEDULER__STATUS__INIT || sub->status == OSYNC__SCHEDULER__STATUS__RUNNING) {
            char text[1200];
            snprintf(text, sizeof text, "collector %s was silent for %" PRIu64 " ms%s%s",
                     sub->collector ? sub->collector : "(none)", now - sub->seen_mono,
                     sub->heard || !sub->des_endpoint ? "" : "; can it reach this scheduler at ",
                     sub->heard || !sub->des_endpoint ? "" : sub->des_endpoint);
            osync__sched_sub_state(sub, OSYNC__SCHEDULER__STATUS__REASSIGNING, OSYNC__SCHEDULER__CAUSE__NOTHING, text);
        }
        if (!again) osync__sched_set(&sub->failed_collector, sub->collector);
        sub->placing = true;
        n++;
    }
    if (n > 0) osync__sched_place(task, NULL, 0, on_reassign_placed);
}
