/* A task's objects and records, DeleteSyncTask, and its end. How it begins is in create.c, what its subtasks do in
 * between in assign.c and send.c. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/failpoint.h"
#include "base/sys.h"
#include "format/table.h"
#include "scheduler/internal.h"

/* ---- schema ---- */

int osync__sched_schema_new(osync__schema_t **out, const void *info, size_t len, const char *zone, osync_error_t *err) {
    osync__schema_t *schema = osync__calloc(1, sizeof *schema);
    if (!schema || osync__sched_set(&schema->timezone, zone)) {
        osync__free(schema);
        return osync__err(err, OSYNC_ENOMEM, "table description: out of memory");
    }
    int rc = osync_table_from_info(&schema->table, info, len, err);
    if (rc) {
        osync__free(schema->timezone);
        osync__free(schema);
        return rc;
    }
    schema->refs = 1;
    schema->n_columns = schema->table->n_columns;
    *out = schema;
    return 0;
}

void osync__sched_schema_unref(osync__schema_t *schema) {
    if (!schema || --schema->refs > 0) return;
    for (size_t i = 0; i < schema->n_idle; i++) osync_csv_free(schema->idle[i]);
    osync_table_free(schema->table);
    osync__free(schema->timezone);
    osync__free(schema);
}

void osync__sched_schema_keep(osync__schema_t *schema, osync_csv_t *csv) {
    size_t len = 0;
    osync_csv_data(csv, &len);
    if (schema->n_idle == OSYNC__MAX_IDLE_CSV || len > OSYNC__MAX_IDLE_CSV_BYTES) {
        osync_csv_free(csv);
        return;
    }
    osync_csv_reset(csv);
    schema->idle[schema->n_idle++] = csv;
}

/* ---- the objects ---- */

/* What record and label have in common. */
static void fill_record(const osync__task_t *t, Osync__Scheduler__TaskRecord *r) {
    osync__scheduler__task_record__init(r);
    r->task_id = (char *)(uintptr_t)t->id;
    r->tid = t->tid;
    r->db = t->db;
    r->name = t->name;
    r->mode = (uint32_t)t->mode;
    r->has_start_ts = t->has_start_ts;
    r->start_ts = t->start_ts;
    r->csv_timezone = t->timezone;
    r->has_created_ms = 1;
    r->created_ms = t->created_ms;
}

static int fill_pids(const osync__task_t *t, Osync__Scheduler__TaskRecord *r) {
    r->pids = osync__malloc(t->n_subs * sizeof *r->pids);
    if (!r->pids) return OSYNC_ENOMEM;
    r->n_pids = t->n_subs;
    for (size_t i = 0; i < t->n_subs; i++) r->pids[i] = t->subs[i].pid;
    return 0;
}

static int fill_start(const osync__task_t *t, Osync__Scheduler__TaskRecord *r, Osync__Scheduler__StartPoint *points) {
    r->start = osync__malloc(t->n_subs * sizeof *r->start);
    if (!r->start) return OSYNC_ENOMEM;
    for (size_t i = 0; i < t->n_subs; i++) {
        const osync__sub_t *sub = &t->subs[i];
        if (sub->first.len == 0) continue;
        Osync__Scheduler__StartPoint *point = &points[r->n_start];
        osync__scheduler__start_point__init(point);
        point->pid = sub->pid;
        point->point = (ProtobufCBinaryData){sub->first.len, sub->first.data};
        if (sub->imported) {
            point->token = (char *)(uintptr_t)sub->token;
            point->tablet_endpoint = sub->tablet;
            point->des_endpoint = sub->des_endpoint;
            point->has_finished = point->finished = sub->status == OSYNC__SCHEDULER__STATUS__SUCCESS;
        }
        r->start[r->n_start++] = point;
    }
    return 0;
}

static int pack_record(const Osync__Scheduler__TaskRecord *r, osync__buf_t *out) {
    size_t len = osync__scheduler__task_record__get_packed_size(r);
    out->len = 0;
    if (osync__buf_reserve(out, len)) return OSYNC_ENOMEM;
    out->len = osync__scheduler__task_record__pack(r, out->data);
    return 0;
}

static int pack_task(void *owner, osync__buf_t *out) {
    const osync__task_t *t = owner;
    Osync__Scheduler__TaskRecord r;
    Osync__Scheduler__StartPoint *points = osync__calloc(t->n_subs, sizeof *points);
    fill_record(t, &r);
    r.dest = t->dest;
    r.target = t->target;
    r.has_removing = r.removing = t->state == OSYNC__TASK_REMOVING;
    r.has_rebuild = r.rebuild = t->rebuild;
    r.has_start_over = r.start_over = t->start_over;
    r.has_imported_crc = t->has_imported_crc;
    r.imported_crc = t->imported_crc;
    int rc = points ? fill_pids(t, &r) : OSYNC_ENOMEM;
    if (!rc) rc = fill_start(t, &r, points);
    if (!rc) rc = pack_record(&r, out);
    osync__free(points);
    osync__free(r.pids);
    osync__free(r.start);
    return rc;
}

/* A label has little room, and is found in the destination: `dest` needn't be in it. */
int osync__sched_task_info(const osync__task_t *t, osync__buf_t *out) {
    Osync__Scheduler__TaskRecord r;
    char nowhere[] = "";
    int rc = 0;
    fill_record(t, &r);
    r.dest = r.target = nowhere;
    if (t->subs[0].pid == 0 && t->subs[t->n_subs - 1].pid == t->n_subs - 1) { /* they are sorted */
        r.has_partitions = 1;
        r.partitions = (uint32_t)t->n_subs;
    } else {
        rc = fill_pids(t, &r);
    }
    if (!rc) rc = pack_record(&r, out);
    osync__free(r.pids);
    return rc;
}

static int pack_sub(void *owner, osync__buf_t *out) {
    const osync__sub_t *sub = owner;
    Osync__Scheduler__SubtaskRecord r = OSYNC__SCHEDULER__SUBTASK_RECORD__INIT;
    r.token = (char *)(uintptr_t)sub->token;
    r.status = sub->status;
    r.tablet_endpoint = sub->tablet;
    r.des_endpoint = sub->des_endpoint;
    r.collector = sub->collector;
    r.has_cause = sub->cause != OSYNC__SCHEDULER__CAUSE__NOTHING;
    r.cause = sub->cause;
    r.reason = sub->cause != OSYNC__SCHEDULER__CAUSE__NOTHING ? sub->reason : NULL;
    size_t len = osync__scheduler__subtask_record__get_packed_size(&r);
    int rc = osync__buf_reserve(out, len);
    if (!rc) out->len = osync__scheduler__subtask_record__pack(&r, out->data);
    return rc;
}

static void task_settled(void *owner) {
    osync__task_t *t = owner;
    if (t->state == OSYNC__TASK_CREATING && osync__sched_record_idle(&t->record) && t->import)
        (void)osync__sched_import_stored(t); /* what fails is tried again at the next check */
    else if (t->state == OSYNC__TASK_CREATING && osync__sched_record_idle(&t->record))
        osync__sched_create_stored(t);
    else
        osync__sched_task_step(t);
}

static void sub_settled(void *owner) {
    osync__sub_t *sub = owner;
    if (sub->task->state != OSYNC__TASK_REMOVING && osync__sched_record_idle(&sub->record)) {
        osync__sched_hand_out_go_on(sub);
        osync__sched_work_go_on(sub);
    }
    osync__sched_task_step(sub->task);
}

static int compare_pids(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

int osync__sched_task_new(osync__task_t **out, osync_scheduler_t *s, const Osync__Scheduler__TaskRecord *r,
                          osync_error_t *err) {
    osync__task_t *old = NULL;
    HASH_FIND(hh, s->tasks, &r->tid, sizeof r->tid, old);
    if (old) return osync__err(err, OSYNC_EEXIST, "task %s: there is another task of tid %u", r->task_id, r->tid);
    if (strlen(r->task_id) != 36) return osync__err(err, OSYNC_ECORRUPT, "task id %s is not a UUID", r->task_id);
    if (r->n_pids == 0) return osync__err(err, OSYNC_EINVAL, "table %s.%s has no partition", r->db, r->name);
    if (HASH_COUNT(s->tasks) >= OSYNC__MAX_TASKS || r->n_pids > OSYNC__MAX_SUBTASKS - s->n_subs)
        return osync__err(err, OSYNC_ETOOBIG, "too many tasks: at most %d tasks with %d partitions together",
                          OSYNC__MAX_TASKS, OSYNC__MAX_SUBTASKS);
    osync__task_t *t = osync__calloc(1, sizeof *t);
    uint32_t *pids = osync__malloc(r->n_pids * sizeof *pids);
    if (t) t->subs = osync__calloc(r->n_pids, sizeof *t->subs);
    if (!t || !pids || !t->subs) goto nomem;
    t->s = s;
    t->state = r->removing ? OSYNC__TASK_REMOVING : OSYNC__TASK_ACTIVE;
    memcpy(t->id, r->task_id, 37);
    t->tid = r->tid;
    t->mode = (int)r->mode;
    t->has_start_ts = r->has_start_ts;
    t->start_ts = r->start_ts;
    t->created_ms = r->created_ms;
    t->rebuild = r->rebuild;
    t->start_over = r->start_over;
    t->has_imported_crc = r->has_imported_crc;
    t->imported_crc = r->imported_crc;
    if (osync__sched_set(&t->db, r->db) || osync__sched_set(&t->name, r->name) || osync__sched_set(&t->dest, r->dest) ||
        osync__sched_set(&t->target, r->target) || osync__sched_set(&t->timezone, r->csv_timezone))
        goto nomem;
    osync__sched_record_init(&t->record, s, pack_task, task_settled, t);
    snprintf(t->record.key, sizeof t->record.key, "task/%s", t->id);
    memcpy(pids, r->pids, r->n_pids * sizeof *pids);
    qsort(pids, r->n_pids, sizeof *pids, compare_pids);
    for (size_t i = 0; i < r->n_pids; i++) {
        if (i > 0 && pids[i] == pids[i - 1]) {
            osync__err(err, OSYNC_EINVAL, "table %s.%s has partition %u twice", r->db, r->name, pids[i]);
            osync__free(pids);
            osync__sched_task_free(t);
            return OSYNC_EINVAL;
        }
        osync__sub_t *sub = &t->subs[t->n_subs++];
        sub->task = t;
        sub->pid = pids[i];
        sub->seen_mono = osync__mono_ms();
        sub->seen_ms = osync__wall_ms();
        osync__sched_record_init(&sub->record, s, pack_sub, sub_settled, sub);
        snprintf(sub->record.key, sizeof sub->record.key, "sub/%s/%u", t->id, sub->pid);
    }
    for (size_t i = 0; i < r->n_start; i++) {
        const Osync__Scheduler__StartPoint *from = r->start[i];
        osync__sub_t *sub = osync__sched_task_sub(t, from->pid);
        if (sub && osync__buf_set(&sub->first, from->point.data, from->point.len)) goto nomem;
        if (!sub || !from->token) continue;
        sub->imported = true;
        sub->status = from->finished ? OSYNC__SCHEDULER__STATUS__SUCCESS : OSYNC__SCHEDULER__STATUS__RUNNING;
        (void)snprintf(sub->token, sizeof sub->token, "%s", from->token);
        if (osync__sched_set(&sub->tablet, from->tablet_endpoint) ||
            osync__sched_set(&sub->des_endpoint, from->des_endpoint))
            goto nomem;
    }
    HASH_ADD(hh, s->tasks, tid, sizeof t->tid, t);
    if (!t->hh.tbl) goto nomem;
    osync__free(pids);
    s->n_subs += t->n_subs;
    *out = t;
    return 0;
nomem:
    osync__free(pids);
    osync__sched_task_free(t);
    return osync__err(err, OSYNC_ENOMEM, "task: out of memory");
}

void osync__sched_task_free(osync__task_t *t) {
    if (!t) return;
    osync__task_t *known = NULL;
    if (t->s) HASH_FIND(hh, t->s->tasks, &t->tid, sizeof t->tid, known);
    if (known == t) {
        HASH_DEL(t->s->tasks, t);
        t->s->n_subs -= t->n_subs;
    }
    for (size_t i = 0; t->subs && i < t->n_subs; i++) {
        osync__sub_t *sub = &t->subs[i];
        osync__sched_record_free(&sub->record);
        osync__sched_hold_free(sub);
        osync__buf_free(&sub->first);
        osync__buf_free(&sub->end);
        osync__buf_free(&sub->last_start);
        osync__free(sub->tablet);
        osync__free(sub->des_endpoint);
        osync__free(sub->collector);
        osync__free(sub->reason);
        osync__free(sub->failed_collector);
        osync__free(sub->place_tablet);
        osync__free(sub->place_collector);
        osync__free(sub->place_error);
    }
    if (t->sink) osync__sinks_put(t->s->sinks, t->sink);
    osync__sched_schema_unref(t->schema);
    osync__sched_record_free(&t->record);
    osync__free(t->subs);
    osync__free(t->db);
    osync__free(t->name);
    osync__free(t->dest);
    osync__free(t->target);
    osync__free(t->timezone);
    osync__free(t);
}

osync__sub_t *osync__sched_task_sub(osync__task_t *task, uint32_t pid) {
    size_t low = 0, high = task->n_subs;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (task->subs[mid].pid < pid)
            low = mid + 1;
        else
            high = mid;
    }
    return low < task->n_subs && task->subs[low].pid == pid ? &task->subs[low] : NULL;
}

void osync__sched_task_hold(osync__task_t *task) {
    task->holds++;
    osync__sched_hold(task->s);
}

void osync__sched_task_drop(osync__task_t *task) {
    osync_scheduler_t *s = task->s;
    task->holds--;
    osync__sched_task_step(task);
    osync__sched_drop(s);
}

/* ---- the end of a task ---- */

static void on_delivery_removed(void *arg) {
    osync__sub_t *sub = arg;
    osync__task_t *t = sub->task;
    sub->delivery = NULL;
    sub->delivery_gone = true;
    osync__sched_task_drop(t);
}

/* One subtask's way to its end; true when nothing is left of it. */
static bool end_sub(osync__sub_t *sub) {
    osync__task_t *t = sub->task;
    if (sub->delivery && !sub->delivery_ending && !sub->delivery_closing && !osync__sched_work_must_wait(sub)) {
        sub->delivery_ending = true;
        osync__sched_task_hold(t);
        osync__delivery_remove(sub->delivery, on_delivery_removed, sub);
    }
    if (sub->delivery) return false;
    /* Without a delivery something may still be on the sink, unless the task never got as far as making one. */
    if (!sub->delivery_gone && t->record.exists) return false;
    return !sub->work && sub->handout != OSYNC__HANDOUT_CALLING;
}

static void end_of_removal(osync__task_t *t) {
    osync__waiter_t *waiters = t->waiters, *w, *next;
    osync__log(OSYNC_LOG_INFO, "task %s.%s tid %u: removed", t->db, t->name, t->tid);
    osync__sched_task_free(t);
    LL_FOREACH_SAFE(waiters, w, next) {
        w->cb(w->arg, NULL);
        osync__free(w);
    }
}

/* True when nothing is left of any subtask. */
static bool remove_step(osync__task_t *t) {
    bool ended = true, gone = true;
    for (size_t i = 0; i < t->n_subs; i++) ended = end_sub(&t->subs[i]) && ended;
    if (!ended) return false;
    for (size_t i = 0; i < t->n_subs; i++) {
        osync__record_t *r = &t->subs[i].record;
        if (!r->removing) osync__sched_record_remove(r);
        gone = gone && !r->exists && osync__sched_record_idle(r);
    }
    if (gone && !t->record.removing) osync__sched_record_remove(&t->record);
    return true;
}

void osync__sched_task_step(osync__task_t *t) {
    if (t->state != OSYNC__TASK_REMOVING || t->s->closing) return;
    /* The record says first that the task is to end, so that a restart goes on with the end and not with the task. */
    if (!osync__sched_record_idle(&t->record)) return;
    /* Nor may a restart take it over once more. */
    if (!osync__sched_import_stored(t)) return;
    if (t->stepping) { /* what a step below brought about is looked at when it is over */
        t->step_again = true;
        return;
    }
    t->stepping = true;
    bool ended;
    do {
        t->step_again = false;
        ended = remove_step(t);
    } while (t->step_again);
    t->stepping = false;
    if (ended && t->holds == 0 && t->record.removing && !t->record.exists && osync__sched_record_idle(&t->record))
        end_of_removal(t);
}

void osync__sched_task_wait(osync__task_t *t, osync__removed_cb cb, void *arg) {
    osync__waiter_t *w = osync__calloc(1, sizeof *w);
    if (!w) {
        cb(arg, "out of memory");
        return;
    }
    w->cb = cb;
    w->arg = arg;
    w->deadline = osync__mono_ms() + t->s->remove_answer_ms;
    LL_APPEND(t->waiters, w);
}

void osync__sched_remove_tick(osync__task_t *t) {
    uint64_t now = osync__mono_ms();
    while (t->waiters && t->waiters->deadline <= now) { /* the first one's is the earliest */
        osync__waiter_t *w = t->waiters;
        LL_DELETE(t->waiters, w);
        w->cb(w->arg, osync__sched_record_idle(&t->record)
                          ? "what is left of it below _osync of its destination can't be removed yet, see the log"
                          : "the checkpoint can't be written, see the log");
        osync__free(w);
    }
}

void osync__sched_task_remove(osync__task_t *t, const char *why, osync__removed_cb cb, void *arg) {
    if (cb) osync__sched_task_wait(t, cb, arg);
    if (t->state == OSYNC__TASK_REMOVING) return;
    osync__log(OSYNC_LOG_INFO, "task %s.%s tid %u: ends: %s", t->db, t->name, t->tid, why);
    t->state = OSYNC__TASK_REMOVING;
    osync__sched_task_hold(t);
    osync__sched_create_ends(t, why);
    for (size_t i = 0; i < t->n_subs; i++) {
        osync__sub_t *sub = &t->subs[i];
        osync__sched_work_abandon(sub);
        osync__sched_hold_release(sub);
        if (sub->handout == OSYNC__HANDOUT_QUEUED) DL_DELETE(t->s->calls, sub);
        if (sub->handout == OSYNC__HANDOUT_CALLING)
            osync__rpc_cancel(t->s->client, sub->rpc_id);
        else
            sub->handout = OSYNC__HANDOUT_NONE;
    }
    if (t->record.exists || !osync__sched_record_idle(&t->record)) osync__sched_record_put(&t->record);
    osync__sched_task_drop(t);
}

/* The scheduler closes: whoever waits is told, though the task stays as it is. */
void osync__sched_task_closing(osync__task_t *t) {
    osync__sched_create_closing(t);
    while (t->waiters) {
        osync__waiter_t *w = t->waiters;
        LL_DELETE(t->waiters, w);
        w->cb(w->arg, "the scheduler is stopping");
        osync__free(w);
    }
}

/* ---- DeleteSyncTask ---- */

typedef struct delete {
    osync_scheduler_t *s;
    osync__rpc_call_t *call;
    char *db, *name;
    size_t waiting_for;
    char *pending; /* why it isn't done */
}
delete_t;

static void delete_end(delete_t *d, int code, const char *msg) {
    osync_scheduler_t *s = d->s;
    OSYNC__BEFORE(delete_answer);
    osync__sched_reply_general(d->call, code, msg);
    OSYNC__AFTER(delete_answer);
    s->n_deletes--;
    osync__free(d->db);
    osync__free(d->name);
    osync__free(d->pending);
    osync__free(d);
    osync__sched_drop(s);
}

static void on_deleted(void *arg, const char *pending) {
    delete_t *d = arg;
    osync_error_t own;
    if (pending && !d->pending) osync__sched_set(&d->pending, pending);
    if (--d->waiting_for > 0) return;
    if (d->pending)
        osync__err(
            &own, OSYNC_EAGAIN,
            "%s.%s: no more rows are taken, and the removal of its sync task goes on by itself, but it isn't done "
            "yet: %s",
            d->db, d->name, d->pending);
    delete_end(d, d->pending ? -1 : 0, d->pending ? own.message : NULL);
}

static void on_delete_table(void *arg, int status, const void *data, size_t len, const osync_error_t *err) {
    delete_t *d = arg;
    osync_error_t own;
    if (status == 0) {
        char why[1400];
        Openmldb__Nameserver__TableInfo *info =
            openmldb__nameserver__table_info__unpack(&osync__protobuf_allocator, len, data);
        bool waits = info && osync__sched_import_waits(d->s, info->tid, why, sizeof why);
        if (info) openmldb__nameserver__table_info__free_unpacked(info, &osync__protobuf_allocator);
        /* As the original if there is none: there is a table, and no task of it. */
        delete_end(d, waits ? -1 : 0, waits ? why : NULL);
        return;
    }
    if (status == OSYNC_ENOENT)
        osync__err(&own, status, "table %s.%s doesn't exist and has no sync task", d->db, d->name);
    else
        osync__err(&own, status,
                   "delete sync task failed: %s.%s has no sync task here, and ZooKeeper can't be asked: %s", d->db,
                   d->name, err ? err->message : osync_strerror(status));
    delete_end(d, -1, own.message);
}

const char *osync__sched_name_fault(const char *db, const char *name) {
    if (!db || !*db || !name || !*name) return "the request names no table: db and name are needed";
    if (strlen(db) > OSYNC__MAX_NAME || strlen(name) > OSYNC__MAX_NAME)
        return "the names of the database and of the table must have at most 1024 bytes";
    return NULL;
}

void osync__sched_on_delete(osync__rpc_call_t *call, void *arg) {
    osync_scheduler_t *s = arg;
    const Openmldb__Datasync__DeleteSyncTaskRequest *r =
        (const Openmldb__Datasync__DeleteSyncTaskRequest *)osync__rpc_request(call);
    if (!s->loaded) {
        osync__sched_reply_general(call, -1, s->load_error);
        return;
    }
    const char *fault = osync__sched_name_fault(r->db, r->name);
    if (fault) {
        osync__sched_reply_general(call, -1, fault);
        return;
    }
    if (s->n_deletes >= OSYNC__MAX_DELETES) {
        osync__sched_reply_general(call, -1, "too many DeleteSyncTask requests at once, try again");
        return;
    }
    delete_t *d = osync__calloc(1, sizeof *d);
    if (!d || osync__sched_set(&d->db, r->db) || osync__sched_set(&d->name, r->name)) {
        if (d) osync__free(d->db);
        osync__free(d);
        osync__sched_reply_general(call, -1, "delete sync task failed");
        return;
    }
    d->s = s;
    d->call = call;
    s->n_deletes++;
    osync__sched_hold(s);
    /* Our own tasks first: a dropped table's task can be deleted. A table that was made again has another tid. */
    d->waiting_for = 1;
    bool found = false;
    osync__task_t *t, *next;
    HASH_ITER(hh, s->tasks, t, next) {
        if (strcmp(t->db, d->db) != 0 || strcmp(t->name, d->name) != 0) continue;
        found = true;
        d->waiting_for++;
        osync__sched_task_remove(t, "DeleteSyncTask", on_deleted, d);
    }
    if (found) {
        on_deleted(d, NULL);
        return;
    }
    int rc = s->catalog->ops->find(s->catalog, d->db, d->name, on_delete_table, d);
    if (rc) on_delete_table(d, rc, NULL, 0, NULL);
}
