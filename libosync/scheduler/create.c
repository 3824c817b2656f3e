/* How a task begins: CreateSyncTask in its five ways to begin, and RecoverSyncTask, which takes a task up again from
 * the labels of its files. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/failpoint.h"
#include "base/sys.h"
#include "format/table.h"
#include "scheduler/earlier.h"
#include "scheduler/internal.h"

/* How many names a message lists. */
enum { MAX_NAMED = 8 };

/* A CreateSyncTask or RecoverSyncTask that isn't answered yet. */
struct create {
    osync_scheduler_t *s;
    osync__rpc_call_t *call;
    char *db, *name, *dest;
    int mode; /* -1: not given */
    bool has_start_ts;
    uint64_t start_ts;
    Openmldb__Datasync__CreateStart start;
    bool recover, start_over;
    char *task_id; /* of the earlier task that is to be continued; NULL: the only one */
    Osync__Scheduler__StartPoint *points;
    size_t n_points;
    char *target;
    osync_sink_t *sink;  /* while earlier files are looked for before there is a task */
    osync__task_t *task; /* from the moment on that its tid is reserved */
    void *info;          /* the TableInfo */
    size_t info_len;
    size_t waiting_for; /* subtasks whose AddSyncTask isn't answered */
    uint64_t deadline;
    bool removed; /* earlier files */
    bool stored;  /* the task's record is */
    char *note;   /* goes with code 0 */
    char *error;  /* the first; the task is taken back */
};

/* ---- answers ---- */

static void create_free(struct create *c) {
    osync_scheduler_t *s = c->s;
    if (c->task) c->task->create = NULL;
    if (c->sink) osync__sinks_put(s->sinks, c->sink);
    s->n_creates--;
    for (size_t i = 0; i < c->n_points; i++) osync__free(c->points[i].point.data);
    osync__free(c->points);
    osync__free(c->db);
    osync__free(c->name);
    osync__free(c->dest);
    osync__free(c->task_id);
    osync__free(c->target);
    osync__free(c->info);
    osync__free(c->note);
    osync__free(c->error);
    osync__free(c);
    osync__sched_drop(s);
}

static void create_reply(struct create *c, int code, const char *msg) {
    osync__buf_t text = {0};
    if (!c->call) return;
    if (code) {
        osync__log(OSYNC_LOG_WARN, "%s %s.%s: refused: %s", c->recover ? "recover" : "create", c->db, c->name, msg);
        if (c->removed &&
            osync__buf_printf(&text, "%s (the earlier files of the table were removed before that)", msg) == 0 &&
            osync__buf_append(&text, "", 1) == 0)
            msg = (const char *)text.data;
    }
    OSYNC__BEFORE(create_answer);
    osync__sched_reply_general(c->call, code, msg);
    OSYNC__AFTER(create_answer);
    c->call = NULL;
    osync__buf_free(&text);
}

/* Without waiting for anything. */
static void create_refuse(struct create *c, const char *msg) {
    create_reply(c, -1, msg);
    create_free(c);
}

static void on_create_taken_back(void *arg, const char *pending) {
    struct create *c = arg;
    create_refuse(c, c->error ? c->error : "out of memory");
}

void osync__sched_create_ends(osync__task_t *t, const char *why) {
    struct create *c = t->create;
    if (!c) return;
    osync__sched_set(&c->error, why);
    t->create = NULL;
    c->task = NULL;
    osync__sched_task_wait(t, on_create_taken_back, c);
}

/* What was begun is taken back, then the caller is told. */
static void create_fail(struct create *c, const char *msg) {
    osync__sched_task_remove(c->task, msg, NULL, NULL);
}

static void create_fail_dest(struct create *c, int status, const osync_error_t *err) {
    osync__buf_t b = {0};
    osync__buf_printf(&b, "java.lang.IllegalStateException: create hdfs tunnel failed: %s: %s", c->task->target,
                      err ? err->message : osync_strerror(status));
    create_fail(c, b.data ? (const char *)b.data : "create hdfs tunnel failed");
    osync__buf_free(&b);
}

static void create_done(struct create *c) {
    osync__task_t *t = c->task;
    t->state = OSYNC__TASK_ACTIVE;
    osync__log(OSYNC_LOG_INFO, "task %s.%s tid %u: %s, task id %s, %zu partitions, mode %d, dest %s", t->db, t->name,
               t->tid, t->rebuild ? "goes on from its files" : "created", t->id, t->n_subs, t->mode, t->target);
    osync__sched_end_rebuild(t);
    create_reply(c, 0, c->note);
    create_free(c);
}

void osync__sched_create_handed_out(osync__sub_t *sub, const char *error) {
    struct create *c = sub->task->create;
    if (!c) return;
    if (error)
        create_fail(c, error);
    else if (--c->waiting_for == 0)
        create_done(c);
}

void osync__sched_create_closing(osync__task_t *t) {
    if (t->create) create_refuse(t->create, "the scheduler is stopping");
}

void osync__sched_create_tick(osync__task_t *task) {
    struct create *c = task->create;
    if (!c || task->state != OSYNC__TASK_CREATING || c->deadline == 0) return;
    const char *why = NULL;
    bool given_up = osync__mono_ms() >= c->deadline, doomed = false;
    for (size_t i = 0; i < task->n_subs; i++) {
        osync__sub_t *sub = &task->subs[i];
        if (!sub->ready && sub->reason && !why) why = sub->reason;
        if (sub->cause == OSYNC__SCHEDULER__CAUSE__DESTINATION) given_up = doomed = true;
    }
    if (!given_up) return;
    /* To look for many partitions' newest files among many files may take longer: that goes on. */
    if (task->recovers && !doomed) {
        create_done(c);
        return;
    }
    osync__buf_t b = {0};
    osync__buf_printf(&b, "java.lang.IllegalStateException: create hdfs tunnel failed: %s",
                      why ? why : "the partitions could not be handed out in time");
    /* A destination that doesn't answer would keep the caller waiting for the removal as well. */
    create_refuse(c, b.data ? (const char *)b.data : "out of memory");
    osync__buf_free(&b);
    osync__sched_task_remove(task, "it could not be created in time", NULL, NULL);
}

/* ---- the task is stored, then handed out ---- */

void osync__sched_create_stored(osync__task_t *task) {
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
    for (size_t i = 0; i < task->n_subs && task->state == OSYNC__TASK_CREATING; i++) {
        osync__sub_t *sub = &task->subs[i];
        if (!sub->place_error) {
            osync__sched_hand_out(sub);
            continue;
        }
        osync__sched_sub_state(sub, OSYNC__SCHEDULER__STATUS__REASSIGNING, OSYNC__SCHEDULER__CAUSE__ASSIGNMENT,
                               sub->place_error);
        osync__sched_create_handed_out(sub, NULL);
    }
    osync__sched_task_drop(task);
}

static void store(struct create *c) {
    c->deadline = osync__mono_ms() + OSYNC__CREATE_DEADLINE_MS;
    osync__sched_record_put(&c->task->record);
}

/* ---- earlier files, of a new task ---- */

/* "<id> (<n> files), ..." */
static int list_tasks(osync__buf_t *out, const osync__earlier_t *found) {
    size_t n = 0;
    int rc = 0;
    for (const osync__earlier_task_t *t = found->tasks; t && !rc; t = t->hh.next) {
        if (!t->ours) continue;
        if (n++ == MAX_NAMED) return osync__buf_printf(out, ", ...");
        rc = osync__buf_printf(out, "%s%s (%" PRIu64 " files)", n > 1 ? ", " : "", t->id, t->files);
    }
    return rc;
}

static int warn(struct create *c, const osync__earlier_t *found) {
    osync__buf_t b = {0};
    int rc = osync__buf_printf(&b, "warning: %s holds %" PRIu64 " files of %s.%s already, of %s ", c->task->target,
                               found->ours_files, c->db, c->name,
                               found->n_ours == 1 ? "the earlier sync task" : "earlier sync tasks");
    if (!rc) rc = list_tasks(&b, found);
    if (!rc)
        rc = osync__buf_printf(&b,
                               "; this task writes all its rows beside them, so that rows can be there twice. Unless "
                               "that is meant (--append), delete it now and create it with --restart (removes what is "
                               "there first) or with --continue --task <id> (goes on where an earlier task has ended)");
    if (!rc) rc = osync__buf_append(&b, "", 1);
    if (!rc) rc = osync__sched_set(&c->note, (const char *)b.data);
    if (!rc) osync__log(OSYNC_LOG_WARN, "create %s.%s: %s", c->db, c->name, c->note);
    osync__buf_free(&b);
    return rc;
}

static bool goes_on(const osync__task_t *t) {
    return t->state == OSYNC__TASK_CREATING && !t->s->closing && t->create;
}

static void on_earlier_beside(void *arg, int status, osync__earlier_t *found, const osync_error_t *err) {
    osync__task_t *t = arg;
    if (goes_on(t)) {
        if (status)
            create_fail_dest(t->create, status, err);
        else if (found->n_ours > 0 && warn(t->create, found))
            create_fail(t->create, "out of memory");
        else
            store(t->create);
    }
    osync__earlier_free(found);
    osync__sched_task_drop(t);
}

static void on_restarted(osync__task_t *t, int status, const char *left, const osync_error_t *err) {
    if (!goes_on(t)) return;
    struct create *c = t->create;
    c->removed = true;
    if (status)
        create_fail_dest(c, status, err);
    else if (left && osync__sched_set(&c->note, left))
        create_fail(c, "out of memory");
    else
        store(c);
}

static void on_create_dir(void *arg, int status, const osync_error_t *err) {
    osync__task_t *t = arg;
    struct create *c = t->create;
    int rc = 0;
    if (!goes_on(t)) {
        osync__sched_task_drop(t);
        return;
    }
    if (status) {
        create_fail_dest(c, status, err);
    } else if (t->rebuild || c->start == OPENMLDB__DATASYNC__CREATE_START__kStartAppend ||
               c->start == OPENMLDB__DATASYNC__CREATE_START__kStartAtPoints) {
        store(c);
    } else if (c->start == OPENMLDB__DATASYNC__CREATE_START__kStartRestart) {
        rc = osync__sched_restart(t, on_restarted);
    } else {
        osync__sched_task_hold(t);
        rc = osync__earlier_find(t->sink, t->path, t->db, t->name, 0, on_earlier_beside, t);
        if (rc) osync__sched_task_drop(t);
    }
    if (rc) create_fail_dest(c, rc, NULL);
    osync__sched_task_drop(t);
}

/* ---- the task is made ---- */

static void on_create_placed(osync__task_t *t, int status, const osync_error_t *err) {
    struct create *c = t->create;
    osync_error_t own = {0};
    if (!goes_on(t)) return;
    if (status) {
        create_fail(c, err->message);
        return;
    }
    for (size_t i = 0; i < t->n_subs; i++) {
        if (t->subs[i].place_error && !t->recovers) {
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

/* Appends a sentence with the partitions that `missing` tells. */
static bool name_missing(osync__buf_t *out, const uint32_t *pids, size_t n, const char *what,
                         bool (*missing)(const void *arg, uint32_t pid), const void *arg) {
    size_t named = 0;
    for (size_t i = 0; i < n; i++) {
        if (!missing(arg, pids[i])) continue;
        if (named == 0) (void)osync__buf_printf(out, "%s", what);
        if (named < MAX_NAMED) (void)osync__buf_printf(out, "%s%" PRIu32, named > 0 ? ", " : " ", pids[i]);
        if (named++ == MAX_NAMED) (void)osync__buf_printf(out, ", ...");
    }
    return named > 0;
}

static int compare_points(const void *a, const void *b) {
    const Osync__Scheduler__StartPoint *x = a, *y = b;
    return x->pid < y->pid ? -1 : x->pid > y->pid;
}

static bool no_point(const void *arg, uint32_t pid) {
    const struct create *c = arg;
    Osync__Scheduler__StartPoint wanted = {.pid = pid};
    return !bsearch(&wanted, c->points, c->n_points, sizeof *c->points, compare_points);
}

/* NULL: they are one for each partition. Else why not, in *text. */
static const char *check_points(struct create *c, const uint32_t *pids, size_t n, osync__buf_t *text) {
    qsort(c->points, c->n_points, sizeof *c->points, compare_points);
    bool bad = name_missing(text, pids, n, "a point is needed for each partition; there is none for", no_point, c);
    for (size_t i = 1; i < c->n_points && !bad; i++) {
        bad = c->points[i].pid == c->points[i - 1].pid;
        if (bad) (void)osync__buf_printf(text, "there are two points for partition %" PRIu32, c->points[i].pid);
    }
    for (size_t i = 0; i < c->n_points && !bad; i++) { /* the first that is too many is soon found */
        bool known = false;
        for (size_t j = 0; j < n && !known; j++) known = pids[j] == c->points[i].pid;
        bad = !known;
        if (bad)
            (void)osync__buf_printf(text, "there is a point for partition %" PRIu32 ", which the table doesn't have",
                                    c->points[i].pid);
    }
    if (!bad) return NULL;
    return osync__buf_append(text, "", 1) == 0 ? (const char *)text->data : "out of memory";
}

/* `from`: the record of the earlier task that goes on, or NULL. A refusal is returned, in *text or for good. */
static const char *make_task(struct create *c, const Osync__Scheduler__TaskRecord *from, osync__buf_t *text) {
    osync_scheduler_t *s = c->s;
    osync_error_t own = {0};
    osync__task_t *t = NULL;
    Osync__Scheduler__TaskRecord record = OSYNC__SCHEDULER__TASK_RECORD__INIT;
    Osync__Scheduler__StartPoint **start = NULL;
    char id[37];
    const char *refusal = NULL;
    Openmldb__Nameserver__TableInfo *info =
        openmldb__nameserver__table_info__unpack(&osync__protobuf_allocator, c->info_len, c->info);
    if (!info) return "out of memory";
    record.pids = osync__calloc(info->n_table_partition + 1, sizeof *record.pids);
    start = osync__calloc(c->n_points + 1, sizeof *start);
    if (!record.pids || !start) {
        refusal = "out of memory";
        goto done;
    }
    for (size_t i = 0; i < info->n_table_partition; i++) record.pids[record.n_pids++] = info->table_partition[i]->pid;
    if (c->start == OPENMLDB__DATASYNC__CREATE_START__kStartAtPoints) {
        refusal = check_points(c, record.pids, record.n_pids, text);
        if (refusal) goto done;
    }
    for (size_t i = 0; i < c->n_points; i++) start[i] = &c->points[i];
    record.start = start;
    record.n_start = c->n_points;
    osync__random_uuid(id);
    record.task_id = from ? from->task_id : id;
    record.has_rebuild = record.rebuild = from != NULL;
    record.has_start_over = record.start_over = c->start_over;
    record.tid = info->tid;
    record.db = c->db;
    record.name = c->name;
    record.mode = c->recover ? from->mode : (uint32_t)c->mode;
    record.has_start_ts = c->recover ? from->has_start_ts : c->has_start_ts;
    record.start_ts = c->recover ? from->start_ts : c->start_ts;
    record.dest = c->dest;
    record.target = c->target;
    record.csv_timezone = c->recover ? from->csv_timezone : s->timezone;
    record.has_created_ms = 1;
    record.created_ms = osync__wall_ms();
    if (osync__scheduler__task_record__get_packed_size(&record) > OSYNC__MAX_RECORD) {
        refusal = "the points are too large for the checkpoint";
        goto done;
    }
    if (osync__sched_task_new(&t, s, &record, &own)) {
        refusal = osync__buf_printf(text, "%s", own.message) == 0 && osync__buf_append(text, "", 1) == 0
                      ? (const char *)text->data
                      : "out of memory";
        goto done;
    }
    t->state = OSYNC__TASK_CREATING;
    t->create = c;
    t->recovers = c->recover;
    c->task = t;
    for (size_t i = 0; i < t->n_subs; i++) t->subs[i].placing = true;
    osync__sched_task_hold(t);
    /* A table whose rows could never be understood is refused at once. */
    if (osync__sched_schema_new(&t->schema, c->info, c->info_len, t->timezone, &own))
        create_fail(c, own.message);
    else if (osync__sched_place(t, c->info, c->info_len, on_create_placed))
        create_fail(c, "out of memory");
    osync__sched_task_drop(t);
done:
    osync__free(start);
    osync__free(record.pids);
    openmldb__nameserver__table_info__free_unpacked(info, &osync__protobuf_allocator);
    return refusal;
}

/* ---- an earlier task that goes on ---- */

const osync__task_t *osync__sched_task_of_id(const osync_scheduler_t *s, const char *id) {
    const osync__task_t *t = s->tasks;
    while (t && strcmp(t->id, id) != 0) t = t->hh.next;
    return t;
}

typedef struct parts {
    const osync__earlier_t *found;
    const char *id;
} parts_t;

static bool no_file(const void *arg, uint32_t pid) {
    const parts_t *p = arg;
    return !osync__earlier_part(p->found, p->id, pid);
}

/* The one that is meant; NULL: why there is none is in *text. */
static const osync__earlier_task_t *choose(const struct create *c, const osync__earlier_t *found, osync__buf_t *text) {
    const osync__earlier_task_t *chosen = NULL;
    if (found->n_ours == 0) {
        (void)osync__buf_printf(text,
                                "%s holds no file whose label says that it is of %s.%s: there is nothing to go on from",
                                c->target, c->db, c->name);
        return NULL;
    }
    for (const osync__earlier_task_t *t = found->tasks; t; t = t->hh.next)
        if (t->ours && (!c->task_id || strcmp(c->task_id, t->id) == 0)) chosen = t;
    if (chosen && (c->task_id || found->n_ours == 1)) return chosen;
    (void)osync__buf_printf(text, "%s holds files of %s%s of %s.%s: ", c->target,
                            c->task_id ? "no task " : "several tasks", c->task_id ? c->task_id : "", c->db, c->name);
    if (c->task_id) (void)osync__buf_printf(text, "there are ");
    (void)list_tasks(text, found);
    if (!c->task_id) (void)osync__buf_printf(text, "; choose one with --task");
    return NULL;
}

/* False: why it can't go on is in *text. */
static bool can_go_on(const struct create *c, const osync__earlier_t *found, const osync__earlier_task_t *chosen,
                      osync__buf_t *text) {
    const Osync__Scheduler__TaskRecord *r = chosen->record;
    const osync__task_t *here = osync__sched_task_of_id(c->s, chosen->id);
    Openmldb__Nameserver__TableInfo *info = NULL;
    uint32_t *pids = NULL;
    size_t n = r->has_partitions ? r->partitions : r->n_pids;
    bool fine = false, same = false;
    if (here) {
        (void)osync__buf_printf(text, "task %s is still here (tid %u): delete it first", chosen->id, here->tid);
        goto done;
    }
    info = openmldb__nameserver__table_info__unpack(&osync__protobuf_allocator, c->info_len, c->info);
    pids = info ? osync__calloc(info->n_table_partition + 1, sizeof *pids) : NULL;
    if (!pids) {
        (void)osync__buf_printf(text, "out of memory");
        goto done;
    }
    if (r->tid != info->tid) {
        (void)osync__buf_printf(text,
                                "the files of task %s are of a former table %s.%s (tid %u, now %u): its log has "
                                "nothing to do with the present one's; create the task with --append or --restart",
                                chosen->id, c->db, c->name, r->tid, info->tid);
        goto done;
    }
    same = n == info->n_table_partition;
    for (size_t i = 0; i < info->n_table_partition; i++) {
        pids[i] = info->table_partition[i]->pid;
        bool known = r->has_partitions && pids[i] < r->partitions;
        for (size_t j = 0; j < r->n_pids && !known; j++) known = r->pids[j] == pids[i];
        same = same && known;
    }
    if (!same) {
        (void)osync__buf_printf(text, "task %s has %zu partitions, the table has %zu others: they don't go together",
                                chosen->id, n, info->n_table_partition);
        goto done;
    }
    parts_t parts = {.found = found, .id = chosen->id};
    if (!c->start_over &&
        name_missing(text, pids, info->n_table_partition, "there is no file of partition", no_file, &parts)) {
        (void)osync__buf_printf(text,
                                " of task %s in %s, so that nothing says how far it has come. If no row of it was ever "
                                "delivered, or its rows may come again: recover with --start-over",
                                chosen->id, c->target);
        goto done;
    }
    fine = true;
done:
    osync__free(pids);
    if (info) openmldb__nameserver__table_info__free_unpacked(info, &osync__protobuf_allocator);
    return fine;
}

static void on_earlier_goes_on(void *arg, int status, osync__earlier_t *found, const osync_error_t *err) {
    struct create *c = arg;
    osync__buf_t text = {0};
    const char *refusal = NULL;
    osync__sinks_put(c->s->sinks, c->sink);
    c->sink = NULL;
    if (c->s->closing) {
        refusal = "the scheduler is stopping";
    } else if (status) {
        (void)osync__buf_printf(&text, "%s can't be looked through: %s", c->target, err->message);
    } else {
        const osync__earlier_task_t *chosen = choose(c, found, &text);
        if (chosen && can_go_on(c, found, chosen, &text)) {
            if (c->recover) {
                osync__buf_t note = {0};
                if (osync__buf_printf(&note, "task %s goes on, mode %" PRIu32, chosen->id, chosen->record->mode) ||
                    osync__buf_append(&note, "", 1) || osync__sched_set(&c->note, (const char *)note.data))
                    refusal = "out of memory";
                osync__buf_free(&note);
            }
            if (!refusal) refusal = make_task(c, chosen->record, &text);
            if (!refusal) goto done; /* the task has it now, or has ended with it */
        }
    }
    if (!refusal) refusal = osync__buf_append(&text, "", 1) == 0 ? (const char *)text.data : "out of memory";
    create_refuse(c, refusal);
done:
    osync__earlier_free(found);
    osync__buf_free(&text);
}

/* ---- the request ---- */

static void on_create_table(void *arg, int status, const void *data, size_t len, const osync_error_t *err) {
    struct create *c = arg;
    osync_scheduler_t *s = c->s;
    osync_error_t own = {0};
    osync__buf_t text = {0};
    osync__task_t *old = NULL;
    Openmldb__Nameserver__TableInfo *info = NULL;
    const char *refusal = NULL, *path = NULL;
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
    info = openmldb__nameserver__table_info__unpack(&osync__protobuf_allocator, len, data);
    if (!info) {
        refusal = "the table's TableInfo in ZooKeeper can't be parsed";
        goto done;
    }
    /* Whether a collector can read a memory table, its answer to AddSyncTask tells. */
    if (info->storage_mode == OPENMLDB__COMMON__STORAGE_MODE__kUnknown) {
        refusal = "the table's storage mode in ZooKeeper is kUnknown: only kMemory, kSSD and kHDD are known";
        goto done;
    }
    HASH_FIND(hh, s->tasks, &info->tid, sizeof info->tid, old);
    if (old) {
        refusal = old->state == OSYNC__TASK_REMOVING
                      ? "the table's former sync task is still being removed (see /status), try again later"
                      : "sync task already exists(creating or created)";
        goto done;
    }
    if (osync__sched_import_waits(s, info->tid, own.message, sizeof own.message)) {
        refusal = own.message;
        goto done;
    }
    if (c->mode < 0 && !c->recover) {
        refusal = "java.lang.IllegalStateException: mode is required";
        goto done;
    }
    if (!*c->dest) {
        refusal = "java.lang.IllegalArgumentException: Can not create a Path from an empty string";
        goto done;
    }
    if (osync__dest_resolve(s->sinks, c->dest, &c->target, &own)) {
        refusal = own.message;
        goto done;
    }
    size_t dest_len = strlen(c->dest);
    while (dest_len > 1 && c->dest[dest_len - 1] == '/') c->dest[--dest_len] = '\0';
    c->info = osync__malloc(len + 1);
    if (!c->info) {
        refusal = "out of memory";
        goto done;
    }
    if (len) memcpy(c->info, data, len);
    c->info_len = len;
    if (!c->recover && c->start != OPENMLDB__DATASYNC__CREATE_START__kStartContinue) {
        refusal = make_task(c, NULL, &text);
        goto done;
    }
    int rc = osync__sinks_get(s->sinks, c->target, &c->sink, &path, &own);
    if (!rc) rc = osync__earlier_find(c->sink, path, c->db, c->name, OSYNC__EARLIER_RECORDS, on_earlier_goes_on, c);
    if (rc) refusal = own.code ? own.message : osync_strerror(rc);
done:
    if (info) openmldb__nameserver__table_info__free_unpacked(info, &osync__protobuf_allocator);
    if (refusal) create_refuse(c, refusal);
    osync__buf_free(&text);
}

static struct create *create_new(osync__rpc_call_t *call, osync_scheduler_t *s, const char *db, const char *name,
                                 const char *dest, const char *task_id) {
    struct create *c = NULL;
    const char *refusal = NULL;
    if (!s->loaded)
        refusal = s->load_error;
    else if (s->n_creates >= OSYNC__MAX_CREATES)
        refusal = "too many CreateSyncTask requests at once, try again";
    else
        refusal = osync__sched_name_fault(db, name);
    if (!refusal) c = osync__calloc(1, sizeof *c);
    if (!c) {
        osync__sched_reply_general(call, -1, refusal ? refusal : "out of memory");
        return NULL;
    }
    c->s = s;
    c->call = call;
    s->n_creates++;
    osync__sched_hold(s);
    if (osync__sched_set(&c->db, db) || osync__sched_set(&c->name, name) ||
        osync__sched_set(&c->dest, dest ? dest : "") ||
        osync__sched_set(&c->task_id, task_id && *task_id ? task_id : NULL)) {
        create_refuse(c, "out of memory");
        return NULL;
    }
    return c;
}

static void create_begin(struct create *c) {
    osync_scheduler_t *s = c->s;
    int rc = s->catalog->ops->find(s->catalog, c->db, c->name, on_create_table, c);
    if (rc) on_create_table(c, rc, NULL, 0, NULL);
}

static int from_hex(const char *hex, osync__buf_t *out) {
    size_t len = strlen(hex);
    if (len % 2 != 0 || strspn(hex, "0123456789abcdefABCDEF") != len) return OSYNC_EINVAL;
    for (size_t i = 0; i < len; i += 2) {
        char byte[3] = {hex[i], hex[i + 1], '\0'};
        uint8_t value = (uint8_t)strtoul(byte, NULL, 16);
        if (osync__buf_append(out, &value, 1)) return OSYNC_ENOMEM;
    }
    return 0;
}

/* A refusal, or NULL. */
static const char *take_points(struct create *c, const Openmldb__Datasync__CreateSyncTaskRequest *r) {
    if (r->n_points > OSYNC__MAX_SUBTASKS) return "too many points";
    c->points = osync__calloc(r->n_points + 1, sizeof *c->points);
    if (!c->points) return "out of memory";
    for (size_t i = 0; i < r->n_points; i++) {
        const Openmldb__Datasync__PartitionPoint *from = r->points[i];
        Osync__Scheduler__StartPoint *to = &c->points[i];
        Openmldb__Datasync__SyncPoint *parsed = NULL;
        osync__buf_t b = {0};
        int rc = OSYNC_EINVAL;
        osync__scheduler__start_point__init(to);
        to->pid = from->pid;
        if (from->exact && *from->exact)
            rc = from_hex(from->exact, &b);
        else if (from->point)
            rc = osync__sched_point_pack(&b, from->point);
        if (!rc) parsed = osync__sched_point_unpack(b.data, b.len);
        if (!rc && (!parsed || b.len == 0)) rc = OSYNC_EINVAL;
        if (parsed) openmldb__datasync__sync_point__free_unpacked(parsed, &osync__protobuf_allocator);
        if (rc) {
            osync__buf_free(&b);
            return rc == OSYNC_ENOMEM ? "out of memory" : "a point is missing or can't be parsed";
        }
        to->point = (ProtobufCBinaryData){b.len, b.data}; /* of malloc, freed with c */
        c->n_points++;
    }
    return NULL;
}

void osync__sched_on_create(osync__rpc_call_t *call, void *arg) {
    const Openmldb__Datasync__CreateSyncTaskRequest *r =
        (const Openmldb__Datasync__CreateSyncTaskRequest *)osync__rpc_request(call);
    struct create *c = create_new(call, arg, r->db, r->name, r->dest, r->task_id);
    const char *refusal = NULL;
    if (!c) return;
    c->mode = r->has_mode && r->mode >= 0 && r->mode <= 2 ? (int)r->mode : -1;
    c->has_start_ts = r->has_start_ts;
    c->start_ts = r->start_ts;
    c->start = r->has_start ? r->start : OPENMLDB__DATASYNC__CREATE_START__kStartWarn;
    bool at_points = c->start == OPENMLDB__DATASYNC__CREATE_START__kStartAtPoints;
    if (c->task_id && c->start != OPENMLDB__DATASYNC__CREATE_START__kStartContinue)
        refusal = "a task id is only of use to continue that task";
    else if (r->n_points > 0 && !at_points)
        refusal = "points are only of use to a task that begins at them";
    else if (at_points)
        refusal = take_points(c, r);
    if (refusal)
        create_refuse(c, refusal);
    else
        create_begin(c);
}

void osync__sched_on_recover(osync__rpc_call_t *call, void *arg) {
    const Openmldb__Datasync__RecoverSyncTaskRequest *r =
        (const Openmldb__Datasync__RecoverSyncTaskRequest *)osync__rpc_request(call);
    struct create *c = create_new(call, arg, r->db, r->name, r->dest, r->task_id);
    if (!c) return;
    c->recover = true;
    c->mode = -1;
    c->start_over = r->start_over;
    create_begin(c);
}
