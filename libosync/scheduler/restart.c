/* CreateSyncTask with kStartRestart: the files of earlier tasks of the same table are removed before the new task is
 * stored. Each file is removed only if its own label names the table and its own name names the task; what somebody
 * else put there under such a name is left, and said.
 *
 * First goes the earlier task's folder below _osync: from then on nothing that was staged there can be published. Then
 * its files. Then the destination is looked through again, until nothing is found. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/failpoint.h"
#include "scheduler/earlier.h"
#include "scheduler/internal.h"

enum { AT_ONCE = 16, MAX_ROUNDS = 3 };

typedef struct lane lane_t;

typedef struct restart {
    osync__task_t *task;
    osync__restart_cb cb;
    osync__earlier_t *found;
    const osync__earlier_task_t *folder; /* the next whose staged files go */
    size_t next_file;
    unsigned round;
    uint64_t removed, left;
    char an_example[OSYNC__EARLIER_PATH];
    lane_t *lanes;
    size_t busy;
    int status;
    osync_error_t err;
} restart_t;

/* One file at a time. */
struct lane {
    restart_t *restart;
    osync__earlier_file_t file;
    char path[OSYNC__EARLIER_PATH];
};

static void restart_end(restart_t *r) {
    osync__task_t *t = r->task;
    osync__buf_t text = {0};
    int rc = 0;
    if (r->left > 0)
        rc = osync__buf_printf(&text,
                               "warning: %" PRIu64 " files with names of earlier sync tasks of this table were left, "
                               "since their labels don't say that they are of it, for instance %s",
                               r->left, r->an_example);
    if (!rc) rc = osync__buf_append(&text, "", 1);
    if (!r->status && rc) r->status = osync__err(&r->err, rc, "out of memory");
    if (r->removed > 0)
        osync__log(OSYNC_LOG_INFO, "create %s.%s: %" PRIu64 " earlier files were removed from %s", t->db, t->name,
                   r->removed, t->target);
    r->cb(t, r->status, r->left > 0 && text.data ? (const char *)text.data : NULL, r->status ? &r->err : NULL);
    osync__buf_free(&text);
    osync__earlier_free(r->found);
    osync__free(r->lanes);
    osync__free(r);
    osync__sched_task_drop(t);
}

static bool stops(restart_t *r) {
    const osync__task_t *t = r->task;
    if (!r->status && (t->state != OSYNC__TASK_CREATING || t->s->closing))
        r->status = osync__err(&r->err, OSYNC_ECANCELED, "canceled");
    return r->status != 0;
}

static void failed(restart_t *r, int status, const osync_error_t *err, const char *path) {
    if (r->status) return;
    r->status = status;
    osync__err(&r->err, status, "an earlier file can't be removed: %s", err ? err->message : path);
}

/* ---- files ---- */

static void look(restart_t *r);
static void go_on(lane_t *lane);

static void on_removed(void *arg, int status, const osync_error_t *err) {
    lane_t *lane = arg;
    OSYNC__AFTER(earlier_remove);
    if (status)
        failed(lane->restart, status, err, lane->path);
    else
        lane->restart->removed++;
    go_on(lane);
}

static void on_file_label(void *arg, int status, const void *label, size_t len, const osync_error_t *err) {
    lane_t *lane = arg;
    restart_t *r = lane->restart;
    const osync__task_t *t = r->task;
    const osync__earlier_part_t *part = lane->file.part;
    if (status && status != OSYNC_ENOENT) {
        failed(r, status, err, lane->path);
        go_on(lane);
        return;
    }
    Osync__Scheduler__TaskRecord *record =
        status ? NULL : osync__earlier_record(label, len, part->key.id, part->key.pid, lane->file.n);
    bool ours = record && strcmp(record->db, t->db) == 0 && strcmp(record->name, t->name) == 0;
    if (record) osync__scheduler__task_record__free_unpacked(record, &osync__protobuf_allocator);
    if (!ours) {
        r->left++;
        memcpy(r->an_example, lane->path, sizeof r->an_example);
        go_on(lane);
        return;
    }
    OSYNC__BEFORE(earlier_remove);
    int rc = t->sink->ops->remove(t->sink, lane->path, false, on_removed, lane);
    if (rc) on_removed(lane, rc, NULL);
}

/* The lane's next file; the last lane looks whether there is more. */
static void go_on(lane_t *lane) {
    restart_t *r = lane->restart;
    while (!stops(r) && r->next_file < r->found->n_files) {
        lane->file = r->found->files[r->next_file++];
        osync__earlier_path(lane->path, r->task->path, lane->file.part->key.id, lane->file.part->key.pid, lane->file.n);
        int rc = r->task->sink->ops->get_label(r->task->sink, lane->path, on_file_label, lane);
        if (!rc) return;
        failed(r, rc, NULL, lane->path);
    }
    if (--r->busy > 0) return;
    osync__earlier_free(r->found);
    r->found = NULL;
    if (stops(r))
        restart_end(r);
    else
        look(r);
}

/* ---- staged files ---- */

static void remove_folders(restart_t *r);

static void on_folder_removed(void *arg, int status, const osync_error_t *err) {
    restart_t *r = arg;
    OSYNC__AFTER(earlier_unstage);
    if (status) failed(r, status, err, "below _osync");
    r->folder = r->folder->hh.next;
    remove_folders(r);
}

static void remove_folders(restart_t *r) {
    const osync__task_t *t = r->task;
    char path[OSYNC__EARLIER_PATH];
    while (r->folder && !r->folder->ours) r->folder = r->folder->hh.next;
    if (r->folder && !stops(r)) {
        const osync__task_t *here = osync__sched_task_of_id(t->s, r->folder->id);
        if (here) {
            osync__err(&r->err, OSYNC_ECONFLICT,
                       "task %s of the same table (tid %u) still writes there: delete it first", here->id, here->tid);
            r->status = r->err.code;
            restart_end(r);
            return;
        }
        snprintf(path, sizeof path, "%s/_osync/%s", t->path, r->folder->id);
        OSYNC__BEFORE(earlier_unstage);
        int rc = t->sink->ops->remove(t->sink, path, true, on_folder_removed, r);
        if (!rc) return;
        failed(r, rc, NULL, path);
    }
    if (stops(r)) {
        restart_end(r);
        return;
    }
    r->busy = AT_ONCE;
    r->next_file = 0;
    r->left = 0; /* counted anew in each round */
    for (size_t i = 0; i < AT_ONCE; i++) {
        r->lanes[i].restart = r;
        go_on(&r->lanes[i]);
    }
}

static void on_found(void *arg, int status, osync__earlier_t *found, const osync_error_t *err) {
    restart_t *r = arg;
    r->found = found;
    if (status) failed(r, status, err, r->task->path);
    if (!stops(r) && found->n_ours > 0 && r->round == MAX_ROUNDS) {
        osync__err(&r->err, OSYNC_ECONFLICT,
                   "%" PRIu64 " files of %s.%s are there after all of them were removed %d times: another scheduler "
                   "still writes them",
                   found->ours_files, r->task->db, r->task->name, MAX_ROUNDS);
        r->status = r->err.code;
    }
    if (stops(r) || found->n_ours == 0) {
        restart_end(r);
        return;
    }
    r->round++;
    r->folder = found->tasks;
    remove_folders(r);
}

static void look(restart_t *r) {
    const osync__task_t *t = r->task;
    int rc = osync__earlier_find(t->sink, t->path, t->db, t->name, OSYNC__EARLIER_FILES, on_found, r);
    if (rc) on_found(r, rc, NULL, NULL);
}

int osync__sched_restart(osync__task_t *task, osync__restart_cb cb) {
    restart_t *r = osync__calloc(1, sizeof *r);
    if (r) r->lanes = osync__calloc(AT_ONCE, sizeof *r->lanes);
    if (!r || !r->lanes) {
        osync__free(r);
        return OSYNC_ENOMEM;
    }
    r->task = task;
    r->cb = cb;
    osync__sched_task_hold(task);
    look(r);
    return 0;
}
