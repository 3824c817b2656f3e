/* The life of a task: CreateSyncTask, DeleteSyncTask, and its end. What its subtasks do in between is in assign.c and
 * send.c. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "base/error.h"
#include "base/sys.h"
#include "format/table.h"
#include "scheduler/internal.h"

/* A CreateSyncTask that isn't answered yet. */
struct create {
    osync_scheduler_t *s;
    osync__rpc_call_t *call;
    char *db, *name, *dest;
    int mode; /* -1: not given */
    bool has_start_ts;
    uint64_t start_ts;
    osync__task_t *task; /* from the moment on that its tid is reserved */
    void *info;          /* the TableInfo */
    size_t info_len;
    size_t waiting_for; /* subtasks whose AddSyncTask isn't answered */
    uint64_t deadline;
    bool stored; /* the task's record is */
    char *error; /* the first; the task is taken back */
};

/* ---- schema ---- */

int osync__sched_schema_new(osync__schema_t **out, const void *info, size_t len, const char *zone, osync_error_t *err) {
    osync__schema_t *schema = calloc(1, sizeof *schema);
    if (!schema || osync__sched_set(&schema->timezone, zone)) {
        free(schema);
        return osync__err(err, OSYNC_ENOMEM, "table description: out of memory");
    }
    int rc = osync_table_from_info(&schema->table, info, len, err);
    if (rc) {
        free(schema->timezone);
        free(schema);
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
    free(schema->timezone);
    free(schema);
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

static int pack_task(void *owner, osync__buf_t *out) {
    const osync__task_t *t = owner;
    Osync__Scheduler__TaskRecord r = OSYNC__SCHEDULER__TASK_RECORD__INIT;
    r.task_id = (char *)(uintptr_t)t->id;
    r.tid = t->tid;
    r.db = t->db;
    r.name = t->name;
    r.mode = (uint32_t)t->mode;
    r.has_start_ts = t->has_start_ts;
    r.start_ts = t->start_ts;
    r.dest = t->dest;
    r.target = t->target;
    r.csv_timezone = t->timezone;
    r.has_created_ms = 1;
    r.created_ms = t->created_ms;
    r.has_removing = t->state == OSYNC__TASK_REMOVING;
    r.removing = r.has_removing;
    r.pids = malloc(t->n_subs * sizeof *r.pids);
    if (!r.pids) return OSYNC_ENOMEM;
    r.n_pids = t->n_subs;
    for (size_t i = 0; i < t->n_subs; i++) r.pids[i] = t->subs[i].pid;
    size_t len = osync__scheduler__task_record__get_packed_size(&r);
    int rc = osync__buf_reserve(out, len);
    if (!rc) out->len = osync__scheduler__task_record__pack(&r, out->data);
    free(r.pids);
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

static void create_stored(osync__task_t *task);

static void task_settled(void *owner) {
    osync__task_t *t = owner;
    if (t->state == OSYNC__TASK_CREATING && osync__sched_record_idle(&t->record))
        create_stored(t);
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
    osync__task_t *t = calloc(1, sizeof *t);
    uint32_t *pids = malloc(r->n_pids * sizeof *pids);
    if (t) t->subs = calloc(r->n_pids, sizeof *t->subs);
    if (!t || !pids || !t->subs) goto nomem;
    t->s = s;
    t->state = r->removing ? OSYNC__TASK_REMOVING : OSYNC__TASK_ACTIVE;
    memcpy(t->id, r->task_id, 37);
    t->tid = r->tid;
    t->mode = (int)r->mode;
    t->has_start_ts = r->has_start_ts;
    t->start_ts = r->start_ts;
    t->created_ms = r->created_ms;
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
            free(pids);
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
    free(pids);
    HASH_ADD(hh, s->tasks, tid, sizeof t->tid, t);
    s->n_subs += t->n_subs;
    *out = t;
    return 0;
nomem:
    free(pids);
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
        osync__buf_free(&sub->end);
        osync__buf_free(&sub->last_start);
        free(sub->tablet);
        free(sub->des_endpoint);
        free(sub->collector);
        free(sub->reason);
        free(sub->failed_collector);
        free(sub->place_tablet);
        free(sub->place_collector);
        free(sub->place_error);
    }
    if (t->sink) osync__sinks_put(t->s->sinks, t->sink);
    osync__sched_schema_unref(t->schema);
    osync__sched_record_free(&t->record);
    free(t->subs);
    free(t->db);
    free(t->name);
    free(t->dest);
    free(t->target);
    free(t->timezone);
    free(t);
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
    if (sub->delivery && !sub->delivery_ending && !osync__sched_work_must_wait(sub)) {
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
        free(w);
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

static void on_create_taken_back(void *arg, const char *pending);

static void add_waiter(osync__task_t *t, osync__removed_cb cb, void *arg) {
    osync__waiter_t *w = calloc(1, sizeof *w);
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
        free(w);
    }
}

void osync__sched_task_remove(osync__task_t *t, const char *why, osync__removed_cb cb, void *arg) {
    if (cb) add_waiter(t, cb, arg);
    if (t->state == OSYNC__TASK_REMOVING) return;
    osync__log(OSYNC_LOG_INFO, "task %s.%s tid %u: ends: %s", t->db, t->name, t->tid, why);
    t->state = OSYNC__TASK_REMOVING;
    osync__sched_task_hold(t);
    struct create *c = t->create;
    if (c) { /* whoever asked for the task is told when it is gone again */
        osync__sched_set(&c->error, why);
        t->create = NULL;
        c->task = NULL;
        add_waiter(t, on_create_taken_back, c);
    }
    for (size_t i = 0; i < t->n_subs; i++) {
        osync__sub_t *sub = &t->subs[i];
        osync__sched_work_abandon(sub);
        if (sub->handout == OSYNC__HANDOUT_QUEUED) DL_DELETE(t->s->calls, sub);
        if (sub->handout == OSYNC__HANDOUT_CALLING)
            osync__rpc_cancel(t->s->client, sub->rpc_id);
        else
            sub->handout = OSYNC__HANDOUT_NONE;
    }
    if (t->record.exists || !osync__sched_record_idle(&t->record)) osync__sched_record_put(&t->record);
    osync__sched_task_drop(t);
}

/* ---- CreateSyncTask ---- */

static void create_free(struct create *c) {
    osync_scheduler_t *s = c->s;
    if (c->task) c->task->create = NULL;
    s->n_creates--;
    free(c->db);
    free(c->name);
    free(c->dest);
    free(c->info);
    free(c->error);
    free(c);
    osync__sched_drop(s);
}

static void create_reply(struct create *c, int code, const char *msg) {
    if (c->call) {
        if (code) osync__log(OSYNC_LOG_WARN, "create %s.%s: refused: %s", c->db, c->name, msg);
        osync__sched_reply_general(c->call, code, msg);
    }
    c->call = NULL;
}

/* Without waiting for anything. */
static void create_refuse(struct create *c, const char *msg) {
    create_reply(c, -1, msg);
    create_free(c);
}

static void on_create_taken_back(void *arg, const char *pending) {
    struct create *c = arg;
    create_reply(c, -1, c->error ? c->error : "out of memory");
    create_free(c);
}

/* What was begun is taken back, then the caller is told. */
static void create_fail(struct create *c, const char *msg) {
    osync__sched_task_remove(c->task, msg, NULL, NULL);
}

void osync__sched_create_handed_out(osync__sub_t *sub, const char *error) {
    struct create *c = sub->task->create;
    if (!c) return;
    if (error) {
        create_fail(c, error);
        return;
    }
    if (--c->waiting_for > 0) return;
    osync__task_t *t = c->task;
    t->state = OSYNC__TASK_ACTIVE;
    osync__log(OSYNC_LOG_INFO, "task %s.%s tid %u: created, %zu partitions, mode %d, dest %s", t->db, t->name, t->tid,
               t->n_subs, t->mode, t->target);
    create_reply(c, 0, NULL);
    create_free(c);
}

/* The scheduler closes: whoever waits is told, though the task stays as it is. */
void osync__sched_task_closing(osync__task_t *t) {
    struct create *c = t->create;
    if (c) create_refuse(c, "the scheduler is stopping");
    while (t->waiters) {
        osync__waiter_t *w = t->waiters;
        LL_DELETE(t->waiters, w);
        w->cb(w->arg, "the scheduler is stopping");
        free(w);
    }
}

void osync__sched_create_tick(osync__task_t *task) {
    struct create *c = task->create;
    if (!c || task->state != OSYNC__TASK_CREATING || c->deadline == 0) return;
    const char *why = NULL;
    bool given_up = osync__mono_ms() >= c->deadline;
    for (size_t i = 0; i < task->n_subs; i++) {
        osync__sub_t *sub = &task->subs[i];
        if (!sub->ready && sub->reason && !why) why = sub->reason;
        if (sub->cause == OSYNC__SCHEDULER__CAUSE__DESTINATION) given_up = true;
    }
    if (!given_up) return;
    osync__buf_t b = {0};
    osync__buf_printf(&b, "java.lang.IllegalStateException: create hdfs tunnel failed: %s",
                      why ? why : "the partitions could not be handed out in time");
    /* A destination that doesn't answer would keep the caller waiting for the removal as well. */
    create_refuse(c, b.data ? (const char *)b.data : "out of memory");
    osync__buf_free(&b);
    osync__sched_task_remove(task, "it could not be created in time", NULL, NULL);
}

static void create_stored(osync__task_t *task) {
    struct create *c = task->create;
    osync_error_t err = {0};
    if (!c || c->stored) return; /* a later write of the record */
    c->stored = true;
    c->waiting_for = task->n_subs;
    if (osync__sched_task_attach(task, &err)) {
        create_fail(c, err.message);
        return;
    }
    osync__sched_task_hold(task);
    for (size_t i = 0; i < task->n_subs && task->state == OSYNC__TASK_CREATING; i++)
        osync__sched_hand_out(&task->subs[i]);
    osync__sched_task_drop(task);
}

static void on_create_dir(void *arg, int status, const osync_error_t *err) {
    osync__task_t *t = arg;
    struct create *c = t->create;
    if (t->state == OSYNC__TASK_CREATING && !t->s->closing && c) {
        if (status) {
            osync__buf_t b = {0};
            osync__buf_printf(&b, "java.lang.IllegalStateException: create hdfs tunnel failed: %s: %s", t->target,
                              err ? err->message : osync_strerror(status));
            create_fail(c, b.data ? (const char *)b.data : "create hdfs tunnel failed");
            osync__buf_free(&b);
        } else {
            c->deadline = osync__mono_ms() + OSYNC__CREATE_DEADLINE_MS;
            osync__sched_record_put(&t->record);
        }
    }
    osync__sched_task_drop(t);
}

static void on_create_placed(osync__task_t *t, int status, const osync_error_t *err) {
    struct create *c = t->create;
    osync_error_t own = {0};
    if (t->state != OSYNC__TASK_CREATING || t->s->closing || !c) return;
    if (status) {
        create_fail(c, err->message);
        return;
    }
    for (size_t i = 0; i < t->n_subs; i++) {
        if (t->subs[i].place_error) {
            create_fail(c, t->subs[i].place_error);
            return;
        }
    }
    if (osync__sinks_get(t->s->sinks, t->target, &t->sink, &t->path, &own)) {
        create_fail(c, own.message);
        return;
    }
    osync__sched_task_hold(t);
    int rc = t->sink->ops->mkdirs(t->sink, t->path, on_create_dir, t);
    if (rc) on_create_dir(t, rc, NULL);
}

static void on_create_table(void *arg, int status, const void *data, size_t len, const osync_error_t *err) {
    struct create *c = arg;
    osync_scheduler_t *s = c->s;
    osync_error_t own = {0};
    char *target = NULL;
    osync__task_t *old = NULL, *t = NULL;
    Openmldb__Nameserver__TableInfo *info = NULL;
    Osync__Scheduler__TaskRecord record = OSYNC__SCHEDULER__TASK_RECORD__INIT;
    char id[37];
    const char *refusal = NULL;
    if (s->closing) {
        create_refuse(c, "the scheduler is stopping");
        return;
    }
    if (status == OSYNC_ENOENT) {
        osync__err(&own, status, "table %s.%s doesn't exist", c->db, c->name);
        refusal = own.message;
        goto done;
    }
    if (status) {
        osync__err(&own, status, "ZooKeeper can't be asked for table %s.%s: %s", c->db, c->name,
                   err ? err->message : osync_strerror(status));
        refusal = own.message;
        goto done;
    }
    info = openmldb__nameserver__table_info__unpack(NULL, len, data);
    if (!info) {
        refusal = "the table's TableInfo in ZooKeeper can't be parsed";
        goto done;
    }
    if (info->storage_mode != OPENMLDB__COMMON__STORAGE_MODE__kSSD &&
        info->storage_mode != OPENMLDB__COMMON__STORAGE_MODE__kHDD) {
        refusal = "java.lang.IllegalArgumentException: only SSD and HDD are supported";
        goto done;
    }
    HASH_FIND(hh, s->tasks, &info->tid, sizeof info->tid, old);
    if (old) {
        refusal = old->state == OSYNC__TASK_REMOVING
                      ? "the table's former sync task is still being removed (see /status), try again later"
                      : "sync task already exists(creating or created)";
        goto done;
    }
    if (c->mode < 0) {
        refusal = "java.lang.IllegalStateException: mode is required";
        goto done;
    }
    if (!*c->dest) {
        refusal = "java.lang.IllegalArgumentException: Can not create a Path from an empty string";
        goto done;
    }
    if (osync__dest_resolve(s->sinks, c->dest, &target, &own)) {
        refusal = own.message;
        goto done;
    }
    size_t dest_len = strlen(c->dest);
    while (dest_len > 1 && c->dest[dest_len - 1] == '/') c->dest[--dest_len] = '\0';
    record.pids = calloc(info->n_table_partition + 1, sizeof *record.pids);
    if (!record.pids) {
        refusal = "out of memory";
        goto done;
    }
    for (size_t i = 0; i < info->n_table_partition; i++) record.pids[record.n_pids++] = info->table_partition[i]->pid;
    osync__random_uuid(id);
    record.task_id = id;
    record.tid = info->tid;
    record.db = c->db;
    record.name = c->name;
    record.mode = (uint32_t)c->mode;
    record.has_start_ts = c->has_start_ts;
    record.start_ts = c->start_ts;
    record.dest = c->dest;
    record.target = target;
    record.csv_timezone = s->timezone;
    record.created_ms = osync__wall_ms();
    if (osync__sched_task_new(&t, s, &record, &own)) {
        refusal = own.message;
        goto done;
    }
    t->state = OSYNC__TASK_CREATING;
    t->create = c;
    c->task = t;
    for (size_t i = 0; i < t->n_subs; i++) t->subs[i].placing = true;
    osync__sched_task_hold(t);
    /* A table whose rows could never be understood is refused at once. */
    if (osync__sched_schema_new(&t->schema, data, len, t->timezone, &own))
        create_fail(c, own.message);
    else if (osync__sched_place(t, data, len, on_create_placed))
        create_fail(c, "out of memory");
    osync__sched_task_drop(t);
done:
    free(record.pids);
    free(target);
    if (info) openmldb__nameserver__table_info__free_unpacked(info, NULL);
    if (refusal) create_refuse(c, refusal);
}

static const char too_long[] = "the names of the database and of the table must have at most 1024 bytes";

static bool name_is_short(const char *name) {
    return !name || strlen(name) <= OSYNC__MAX_NAME;
}

void osync__sched_on_create(osync__rpc_call_t *call, void *arg) {
    osync_scheduler_t *s = arg;
    const Openmldb__Datasync__CreateSyncTaskRequest *r =
        (const Openmldb__Datasync__CreateSyncTaskRequest *)osync__rpc_request(call);
    if (!s->loaded) {
        osync__sched_reply_general(call, -1, s->load_error);
        return;
    }
    if (s->n_creates >= OSYNC__MAX_CREATES) {
        osync__sched_reply_general(call, -1, "too many CreateSyncTask requests at once, try again");
        return;
    }
    if (!name_is_short(r->db) || !name_is_short(r->name)) {
        osync__sched_reply_general(call, -1, too_long);
        return;
    }
    struct create *c = calloc(1, sizeof *c);
    if (!c) {
        osync__sched_reply_general(call, -1, "out of memory");
        return;
    }
    c->s = s;
    c->call = call;
    s->n_creates++;
    osync__sched_hold(s);
    c->mode = r->has_mode && r->mode >= 0 && r->mode <= 2 ? (int)r->mode : -1;
    c->has_start_ts = r->has_start_ts;
    c->start_ts = r->start_ts;
    if (osync__sched_set(&c->db, r->db ? r->db : "") || osync__sched_set(&c->name, r->name ? r->name : "") ||
        osync__sched_set(&c->dest, r->dest ? r->dest : "")) {
        create_refuse(c, "out of memory");
        return;
    }
    int rc = s->catalog->ops->find(s->catalog, c->db, c->name, on_create_table, c);
    if (rc) on_create_table(c, rc, NULL, 0, NULL);
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
    osync__sched_reply_general(d->call, code, msg);
    s->n_deletes--;
    free(d->db);
    free(d->name);
    free(d->pending);
    free(d);
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
        delete_end(d, 0, NULL); /* as the original: there is a table, and no task of it */
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

void osync__sched_on_delete(osync__rpc_call_t *call, void *arg) {
    osync_scheduler_t *s = arg;
    const Openmldb__Datasync__DeleteSyncTaskRequest *r =
        (const Openmldb__Datasync__DeleteSyncTaskRequest *)osync__rpc_request(call);
    if (!s->loaded) {
        osync__sched_reply_general(call, -1, s->load_error);
        return;
    }
    if (!name_is_short(r->db) || !name_is_short(r->name)) {
        osync__sched_reply_general(call, -1, too_long);
        return;
    }
    if (s->n_deletes >= OSYNC__MAX_DELETES) {
        osync__sched_reply_general(call, -1, "too many DeleteSyncTask requests at once, try again");
        return;
    }
    delete_t *d = calloc(1, sizeof *d);
    if (!d || osync__sched_set(&d->db, r->db ? r->db : "") || osync__sched_set(&d->name, r->name ? r->name : "")) {
        if (d) free(d->db);
        free(d);
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
