/* Writes the tasks of a checkpoint as OpenMLDB's SyncTool keeps them: <tid>/<pid>.progress, each a varint length and an
 * AddSyncTaskRequest (docs/formats.md, SyncTool). The way here is import.c. It is done without a scheduler, at once, on
 * the loop's thread: the one who asks has nothing else to do. */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/failpoint.h"
#include "base/sys.h"
#include "data_sync.pb-c.h"
#include "delivery/record.h"
#include "osync/checkpoint.h"
#include "osync/scheduler.h"
#include "scheduler/scheduler.pb-c.h"

enum { MAX_EXISTING = 1 << 20 }; /* bytes of a file that may be there already */

typedef struct export {
    osync_checkpoint_t *store;
    char *state_dir, *path, *dir;
    size_t tasks;
    int rc;
    osync_error_t err;
    osync_scheduler_export_cb cb;
    void *arg;
}
export_t;

typedef struct entries {
    const osync_checkpoint_entry_t *list;
    size_t n;
} entries_t;

static void export_free(export_t *x) {
    osync__free(x->state_dir);
    osync__free(x->path);
    osync__free(x->dir);
    osync__free(x);
}

static int no_memory(osync_error_t *err) {
    return osync__err(err, OSYNC_ENOMEM, "out of memory");
}

static int compare_keys(const void *key, const void *entry) {
    return strcmp(key, ((const osync_checkpoint_entry_t *)entry)->key);
}

static const osync_checkpoint_entry_t *find(const entries_t *all, const char *kind, const char *id, uint32_t pid) {
    char key[80];
    (void)snprintf(key, sizeof key, "%s/%s/%" PRIu32, kind, id, pid);
    return bsearch(key, all->list, all->n, sizeof *all->list, compare_keys);
}

static const Osync__Scheduler__StartPoint *start_of(const Osync__Scheduler__TaskRecord *t, uint32_t pid) {
    for (size_t i = 0; i < t->n_start; i++)
        if (t->start[i]->pid == pid) return t->start[i];
    return NULL;
}

/* ---- one partition ---- */

/* The committed point, or where it begins. */
static int point_of(const entries_t *all, const Osync__Scheduler__TaskRecord *t, uint32_t pid, osync__buf_t *out,
                    osync_error_t *err) {
    const osync_checkpoint_entry_t *e = find(all, "part", t->task_id, pid);
    const Osync__Scheduler__StartPoint *start = start_of(t, pid);
    static const uint8_t beginning[] = {0x08, 0x00}; /* {kSNAPSHOT} */
    osync__record_t r = {0};
    int rc = e ? osync__record_unpack(&r, e->value, e->len, t->task_id, pid, err) : 0;
    bool open = e ? r.has_prepared || r.rebuilding : t->rebuild;
    if (!rc && open)
        rc = osync__err(err, OSYNC_EAGAIN,
                        "how far partition %" PRIu32 " of %s.%s has come is only known when its destination has been "
                        "asked, since the scheduler ended in the middle of a step: start osync-syncd, stop it when its "
                        "/status shows the destination ready, and export again",
                        pid, t->db, t->name);
    else if (!rc && e && r.point.len > 0)
        rc = osync__buf_append(out, r.point.data, r.point.len);
    else if (!rc && start)
        rc = osync__buf_append(out, start->point.data, start->point.len);
    else if (!rc)
        rc = osync__buf_append(out, beginning, sizeof beginning);
    if (rc == OSYNC_ENOMEM) osync__err(err, rc, "out of memory");
    osync__record_free(&r);
    return rc;
}

static int with_length(const Openmldb__Datasync__AddSyncTaskRequest *r, osync__buf_t *out) {
    size_t len = openmldb__datasync__add_sync_task_request__get_packed_size(r), left = len;
    if (osync__buf_reserve(out, len + 10)) return OSYNC_ENOMEM;
    for (; left >= 0x80; left >>= 7) out->data[out->len++] = (uint8_t)(left | 0x80);
    out->data[out->len++] = (uint8_t)left;
    out->len += openmldb__datasync__add_sync_task_request__pack(r, out->data + out->len);
    return 0;
}

/* A file that is there already must be the same one. */
static int write_once(const char *path, const osync__buf_t *bytes, osync_error_t *err) {
    osync__buf_t old = {0};
    int rc = osync__read_file(path, MAX_EXISTING, &old, err);
    if (rc == OSYNC_ENOENT)
        rc = osync__write_file(path, bytes->data, bytes->len, err);
    else if (!rc && !osync__buf_equal(&old, bytes))
        rc = osync__err(err, OSYNC_EEXIST, "%s is there already, and another one: export into another folder", path);
    osync__buf_free(&old);
    return rc;
}

static int export_part(export_t *x, const entries_t *all, const Osync__Scheduler__TaskRecord *t, uint32_t pid) {
    const osync_checkpoint_entry_t *e = find(all, "sub", t->task_id, pid);
    const Osync__Scheduler__StartPoint *start = start_of(t, pid);
    Osync__Scheduler__SubtaskRecord *sub =
        e ? osync__scheduler__subtask_record__unpack(&osync__protobuf_allocator, e->len, e->value) : NULL;
    Openmldb__Datasync__AddSyncTaskRequest r = OPENMLDB__DATASYNC__ADD_SYNC_TASK_REQUEST__INIT;
    osync__buf_t point = {0}, bytes = {0};
    char *path = NULL;
    bool finished = sub ? sub->status == OSYNC__SCHEDULER__STATUS__SUCCESS : start && start->finished;
    int rc = e && !sub ? osync__err(&x->err, OSYNC_ECORRUPT, "%s: record %s can't be parsed", x->path, e->key) : 0;
    if (!rc) rc = point_of(all, t, pid, &point, &x->err);
    if (rc) goto done;
    r.has_tid = r.has_pid = r.has_mode = 1;
    r.tid = t->tid;
    r.pid = pid;
    r.mode = (Openmldb__Datasync__SyncMode)t->mode;
    r.has_start_ts = t->has_start_ts;
    r.start_ts = t->start_ts;
    r.sync_point = openmldb__datasync__sync_point__unpack(&osync__protobuf_allocator, point.len, point.data);
    r.tablet_endpoint = sub ? sub->tablet_endpoint : start ? start->tablet_endpoint : NULL;
    r.des_endpoint = sub ? sub->des_endpoint : start ? start->des_endpoint : NULL;
    r.token = sub ? sub->token : start ? start->token : NULL;
    if (!r.token || !*r.token) r.token = t->task_id; /* nobody has this one, so that it is handed out anew */
    r.dest = t->dest;
    if (!r.sync_point || with_length(&r, &bytes)) {
        rc = osync__err(&x->err, OSYNC_ECORRUPT, "%s: the point of partition %" PRIu32 " of %s.%s can't be parsed",
                        x->path, pid, t->db, t->name);
        goto done;
    }
    path = finished ? osync__format("%s/%" PRIu32 "/%" PRIu32 ".progress.finished.%" PRIu64, x->dir, t->tid, pid,
                                    t->created_ms)
                    : osync__format("%s/%" PRIu32 "/%" PRIu32 ".progress", x->dir, t->tid, pid);
    rc = path ? write_once(path, &bytes, &x->err) : no_memory(&x->err);
done:
    if (r.sync_point) openmldb__datasync__sync_point__free_unpacked(r.sync_point, &osync__protobuf_allocator);
    if (sub) osync__scheduler__subtask_record__free_unpacked(sub, &osync__protobuf_allocator);
    osync__buf_free(&point);
    osync__buf_free(&bytes);
    osync__free(path);
    return rc;
}

/* ---- all of it ---- */

static int export_task(export_t *x, const entries_t *all, const Osync__Scheduler__TaskRecord *t) {
    if (t->removing) {
        osync__log(OSYNC_LOG_WARN, "the task of %s.%s is about to be removed, and isn't exported", t->db, t->name);
        return 0;
    }
    char *folder = osync__format("%s/%" PRIu32, x->dir, t->tid);
    int rc = folder ? osync__mkdirs(folder, &x->err) : no_memory(&x->err);
    for (size_t i = 0; i < t->n_pids && !rc; i++) rc = export_part(x, all, t, t->pids[i]);
    if (!rc) osync__log(OSYNC_LOG_INFO, "%s.%s: %zu partitions exported to %s", t->db, t->name, t->n_pids, folder);
    osync__free(folder);
    return rc;
}

static void on_closed(void *arg) {
    export_t *x = arg;
    char *to = osync__format("%s.exported.%" PRIu64, x->path, osync__wall_ms());
    char *wal = osync__format("%s-wal", x->path);
    if (!x->rc && (!to || !wal)) x->rc = no_memory(&x->err);
    if (!x->rc && access(wal, F_OK) == 0)
        x->rc = osync__err(&x->err, OSYNC_EIO, "%s is there, though the database was closed: export again", wal);
    if (!x->rc) {
        OSYNC__BEFORE(export_rename);
        if (rename(x->path, to)) x->rc = osync__err_errno(&x->err, errno, "rename %s to %s", x->path, to);
        OSYNC__AFTER(export_rename);
    }
    if (!x->rc) {
        OSYNC__BEFORE(export_dirsync);
        x->rc = osync__fsync_dir(x->state_dir, &x->err);
        OSYNC__AFTER(export_dirsync);
    }
    if (!x->rc)
        osync__log(OSYNC_LOG_INFO,
                   "%zu tasks are in %s now, and not osync-syncd's any more: its checkpoint is called %s. Started with "
                   "that folder as its sync_task.progress_path, it takes them up again",
                   x->tasks, x->dir, to);
    osync__free(to);
    osync__free(wal);
    x->cb(x->arg, x->rc, x->rc ? &x->err : NULL);
    export_free(x);
}

static void on_list(void *arg, int status, const osync_checkpoint_entry_t *list, size_t n, const osync_error_t *err) {
    export_t *x = arg;
    const entries_t all = {list, status ? 0 : n};
    char *dest = NULL;
    bool dests_differ = false;
    if (status) x->rc = osync__err(&x->err, status, "%s", err ? err->message : osync_strerror(status));
    for (size_t i = 0; i < all.n && !x->rc; i++) {
        if (strncmp(list[i].key, "task/", 5) != 0) continue;
        Osync__Scheduler__TaskRecord *t =
            osync__scheduler__task_record__unpack(&osync__protobuf_allocator, list[i].len, list[i].value);
        x->rc = t ? export_task(x, &all, t)
                  : osync__err(&x->err, OSYNC_ECORRUPT, "%s: record %s can't be parsed", x->path, list[i].key);
        if (t && !t->removing) {
            x->tasks++;
            dests_differ |= dest && strcmp(dest, t->dest) != 0;
            if (!dest) dest = osync__strdup(t->dest);
        }
        if (t) osync__scheduler__task_record__free_unpacked(t, &osync__protobuf_allocator);
    }
    if (!x->rc && dests_differ)
        osync__log(OSYNC_LOG_WARN,
                   "the tasks have different destinations: OpenMLDB's SyncTool starts only if all that it finds have "
                   "the same one, so leave it one folder of %s, or those of one destination",
                   x->dir);
    osync__free(dest);
    x->store->ops->close(x->store, on_closed, x);
}

int osync_scheduler_export_progress(uv_loop_t *loop, const char *state_dir, const char *dir,
                                    osync_scheduler_export_cb cb, void *arg, osync_error_t *err) {
    export_t *x = osync__calloc(1, sizeof *x);
    int rc = OSYNC_ENOMEM;
    if (!x) return osync__err(err, rc, "out of memory");
    if (!state_dir || !*state_dir || !dir || !*dir) {
        rc = osync__err(err, OSYNC_ECONFIG, "export: the folder of the state and the one to write to are required");
        goto fail;
    }
    x->cb = cb;
    x->arg = arg;
    x->state_dir = osync__strdup(state_dir);
    x->dir = osync__strdup(dir);
    if (!x->state_dir || !x->dir) {
        osync__err(err, rc, "out of memory");
        goto fail;
    }
    x->path = osync__format("%s/checkpoint.db", state_dir);
    rc = x->path ? 0 : no_memory(err);
    if (!rc && access(x->path, F_OK))
        rc = osync__err_errno(err, errno, "there is no checkpoint to export: %s", x->path);
    if (!rc) rc = osync_sqlite_checkpoint_new(&x->store, loop, x->path, err);
    if (rc) goto fail;
    x->rc = x->store->ops->list(x->store, "", on_list, x);
    if (x->rc) {
        osync__err(&x->err, x->rc, "%s: %s", x->path, osync_strerror(x->rc));
        x->store->ops->close(x->store, on_closed, x);
    }
    return 0;
fail:
    export_free(x);
    return rc;
}
