/* Takes over what OpenMLDB's SyncTool has left in the folder of the state: <tid>/<pid>.progress, each a varint length
 * and an AddSyncTaskRequest (docs/formats.md, SyncTool), and <pid>.progress.finished.<ms> of partitions that are done.
 * Each table becomes one task, by one write of one record; then its folder gets another name. Until then collectors
 * that send its rows are put off, not told that there is no such task. The way back is export.c. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/failpoint.h"
#include "base/sys.h"
#include "format/table.h"
#include "scheduler/internal.h"

enum { MAX_PROGRESS = 1 << 20 }; /* bytes of one file */

/* One partition, from its file. */
typedef struct part {
    uint32_t pid;
    bool finished;
    uint64_t finished_ms; /* of the file's name */
    Openmldb__Datasync__AddSyncTaskRequest *request;
    osync__buf_t point;
} part_t;

/* One folder. */
struct osync__import {
    osync_scheduler_t *s;
    uint32_t tid;
    char *folder;
    part_t *parts; /* by pid */
    size_t n;
    uint32_t crc; /* of all that was read: tells this state of the folder from another one */
    bool asking;
    osync__task_t *task; /* made of it, and being stored; or stored already, by an earlier run */
    char *why;           /* it can't be taken over now */
    UT_hash_handle hh;
};

static void forget_parts(osync__import_t *i) {
    for (size_t n = 0; n < i->n; n++) {
        if (i->parts[n].request)
            openmldb__datasync__add_sync_task_request__free_unpacked(i->parts[n].request, &osync__protobuf_allocator);
        osync__buf_free(&i->parts[n].point);
    }
    osync__free(i->parts);
    i->parts = NULL;
    i->n = 0;
    i->crc = 0;
}

static void import_free(osync__import_t *i) {
    HASH_DEL(i->s->imports, i);
    if (i->task) i->task->import = NULL;
    forget_parts(i);
    osync__free(i->folder);
    osync__free(i->why);
    osync__free(i);
}

/* What it waits for; logged when it is something new. */
static void waits(osync__import_t *i, const char *why) {
    if (i->why && strcmp(i->why, why) == 0) return;
    osync__log(OSYNC_LOG_ERROR, "%s is not taken over yet: %s", i->folder, why);
    (void)osync__sched_set(&i->why, why);
}

/* ---- files ---- */

/* A number without leading zeros up to `end`, which follows it; NULL: it isn't one. */
static const char *number(const char *text, uint64_t max, uint64_t *out) {
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 19 || (digits > 1 && text[0] == '0')) return NULL;
    *out = strtoull(text, NULL, 10);
    return *out <= max ? text + digits : NULL;
}

/* <pid>.progress, <pid>.progress.finished.<ms> */
static bool progress_name(const char *name, part_t *out) {
    static const char progress[] = ".progress", finished[] = ".finished.";
    uint64_t pid;
    const char *rest = number(name, UINT32_MAX, &pid);
    *out = (part_t){.pid = rest ? (uint32_t)pid : 0};
    if (!rest || strncmp(rest, progress, sizeof progress - 1) != 0) return false;
    rest += sizeof progress - 1;
    if (!*rest) return true;
    if (strncmp(rest, finished, sizeof finished - 1) != 0) return false;
    out->finished = true;
    rest = number(rest + sizeof finished - 1, UINT64_MAX, &out->finished_ms);
    return rest && !*rest;
}

/* What follows the length is all that is in the file. */
static Openmldb__Datasync__AddSyncTaskRequest *parse(const osync__buf_t *b) {
    uint64_t len = 0;
    size_t at = 0;
    do {
        if (at == b->len || at == 5) return NULL;
        len |= (uint64_t)(b->data[at] & 0x7f) << (7 * at);
    } while (b->data[at++] & 0x80);
    if (len != b->len - at) return NULL;
    return openmldb__datasync__add_sync_task_request__unpack(&osync__protobuf_allocator, (size_t)len, b->data + at);
}

static const char *fault_of(const osync__import_t *i, const part_t *p) {
    const Openmldb__Datasync__AddSyncTaskRequest *r = p->request;
    if (!r->has_tid || r->tid != i->tid) return "its tid isn't that of its folder";
    if (r->pid != p->pid) return "its pid isn't that of its name";
    if (!r->has_mode || (int)r->mode < 0 || (int)r->mode > 2) return "it has no mode, or an unknown one";
    if (!r->sync_point) return "it has no sync_point";
    if (!r->token || !*r->token || strlen(r->token) > 36) return "it has no token, or a longer one than a UUID";
    if (!r->dest || !*r->dest) return "it has no dest";
    return NULL;
}

static int read_part(osync__import_t *i, const char *name, part_t *p, osync_error_t *err) {
    osync__buf_t bytes = {0};
    const char *fault = NULL;
    char *path = osync__format("%s/%s", i->folder, name);
    int rc = path ? osync__read_file(path, MAX_PROGRESS, &bytes, err) : osync__err(err, OSYNC_ENOMEM, "out of memory");
    if (rc) goto done;
    p->request = parse(&bytes);
    fault = p->request ? fault_of(i, p) : "it isn't a length and an AddSyncTaskRequest of that length";
    if (fault) {
        rc = osync__err(err, OSYNC_ECORRUPT,
                        "%s (%zu bytes) can't be read: %s. Put a whole copy in its place; or move the folder away and "
                        "create the table's task anew",
                        path, bytes.len, fault);
    } else {
        rc = osync__sched_point_pack(&p->point, p->request->sync_point);
        if (rc) osync__err(err, rc, "out of memory");
        i->crc = osync__crc32c(i->crc, name, strlen(name) + 1);
        i->crc = osync__crc32c(i->crc, bytes.data, bytes.len);
    }
done:
    osync__free(path);
    osync__buf_free(&bytes);
    return rc;
}

static int compare_parts(const void *a, const void *b) {
    const part_t *x = a, *y = b;
    if (x->pid != y->pid) return x->pid < y->pid ? -1 : 1;
    if (x->finished != y->finished) return x->finished ? 1 : -1;
    return x->finished_ms > y->finished_ms ? -1 : x->finished_ms < y->finished_ms; /* the last one counts */
}

/* Lists the partitions that have files. *any: one is under way; what is finished as a whole is history. */
static int list_parts(const char *folder, part_t **out, size_t *n, bool *any, osync_error_t *err) {
    int rc = 0;
    *any = false;
    DIR *d = opendir(folder);
    if (!d && (errno == ENOENT || errno == ENOTDIR)) return 0;
    if (!d) return osync__err_errno(err, errno, "open the folder %s", folder);
    while (!rc) {
        part_t p;
        errno = 0;
        struct dirent *e = readdir(d);
        if (!e) {
            if (errno) rc = osync__err_errno(err, errno, "read the folder %s", folder);
            break;
        }
        if (!progress_name(e->d_name, &p)) continue;
        part_t *more = *n < OSYNC__MAX_SUBTASKS ? osync__realloc(*out, (*n + 1) * sizeof *more) : NULL;
        if (!more) {
            rc = osync__err(err, OSYNC_ENOMEM, "%s: too many files", folder);
            break;
        }
        *out = more;
        more[(*n)++] = p;
        *any |= !p.finished;
    }
    closedir(d);
    if (*n > 0) qsort(*out, *n, sizeof **out, compare_parts);
    size_t kept = 0;
    for (size_t j = 0; j < *n; j++)
        if (kept == 0 || (*out)[kept - 1].pid != (*out)[j].pid) (*out)[kept++] = (*out)[j];
    *n = kept;
    return rc;
}

/* All files of a folder, or none. *any as above. */
static int read_folder(osync__import_t *i, bool *any, osync_error_t *err) {
    forget_parts(i);
    int rc = list_parts(i->folder, &i->parts, &i->n, any, err);
    for (size_t n = 0; n < i->n && !rc; n++) {
        part_t *p = &i->parts[n];
        char name[64];
        if (p->finished)
            (void)snprintf(name, sizeof name, "%" PRIu32 ".progress.finished.%" PRIu64, p->pid, p->finished_ms);
        else
            (void)snprintf(name, sizeof name, "%" PRIu32 ".progress", p->pid);
        rc = read_part(i, name, p, err);
        const Openmldb__Datasync__AddSyncTaskRequest *a = rc ? NULL : i->parts[0].request, *b = p->request;
        if (a && (a->mode != b->mode || a->has_start_ts != b->has_start_ts || a->start_ts != b->start_ts ||
                  strcmp(a->dest, b->dest) != 0))
            rc = osync__err(err, OSYNC_ECORRUPT,
                            "%s/%s can't be of the same task as the files beside it: mode, start_ts or dest differ",
                            i->folder, name);
    }
    if (rc) forget_parts(i);
    return rc;
}

/* ---- the folder gets another name ---- */

static bool set_aside(osync__import_t *i) {
    osync_error_t err = {0};
    char *to = osync__format("%s.imported.%" PRIu64, i->folder, osync__wall_ms());
    int rc = to ? 0 : osync__err(&err, OSYNC_ENOMEM, "out of memory");
    if (!rc) {
        OSYNC__BEFORE(import_rename);
        /* It may be that only its new name wasn't durable yet. */
        if (rename(i->folder, to) && errno != ENOENT) rc = osync__err_errno(&err, errno, "rename it to %s", to);
        OSYNC__AFTER(import_rename);
    }
    if (!rc) {
        OSYNC__BEFORE(import_dirsync);
        rc = osync__fsync_dir(i->s->state_dir, &err);
        OSYNC__AFTER(import_dirsync);
    }
    if (rc)
        waits(i, err.message);
    else
        osync__log(OSYNC_LOG_INFO, "%s is taken over, and called %s now", i->folder, to);
    osync__free(to);
    return rc == 0;
}

bool osync__sched_import_stored(osync__task_t *t) {
    osync__import_t *i = t->import;
    osync_error_t err = {0};
    if (!i) return true;
    if (!t->record.exists || !set_aside(i)) return false;
    import_free(i);
    if (t->state != OSYNC__TASK_CREATING) return true;
    t->state = OSYNC__TASK_ACTIVE;
    osync__log(OSYNC_LOG_INFO, "task %s.%s tid %u: goes on from OpenMLDB's SyncTool, task id %s, %zu partitions", t->db,
               t->name, t->tid, t->id, t->n_subs);
    for (size_t n = 0; n < t->n_subs; n++) t->subs[n].seen_mono = osync__mono_ms();
    if (osync__sched_task_attach(t, &err)) /* the next check tries again */
        osync__log(OSYNC_LOG_WARN, "task %s.%s tid %u: %s", t->db, t->name, t->tid, err.message);
    return true;
}

/* ---- the task ---- */

/* Each partition has a file, and each file a partition. */
static int check_partitions(const osync__import_t *i, const Openmldb__Nameserver__TableInfo *info, osync_error_t *err) {
    for (size_t p = 0; p < info->n_table_partition; p++) {
        part_t wanted = {.pid = info->table_partition[p]->pid};
        bool there = false;
        for (size_t n = 0; n < i->n && !there; n++) there = i->parts[n].pid == wanted.pid;
        if (!there)
            return osync__err(err, OSYNC_ECORRUPT,
                              "there is no progress of partition %" PRIu32
                              " of table %s.%s in it, so that nothing says "
                              "how far that has come: its creation was cut short, or a file is lost. Put it back; or "
                              "move the folder away and create the table's task anew",
                              wanted.pid, info->db, info->name);
    }
    if (i->n == info->n_table_partition) return 0;
    return osync__err(err, OSYNC_ECORRUPT, "it holds progress of %zu partitions, and table %s.%s has %zu", i->n,
                      info->db, info->name, info->n_table_partition);
}

static void fill_start(const part_t *p, Osync__Scheduler__StartPoint *out) {
    osync__scheduler__start_point__init(out);
    out->pid = p->pid;
    out->point = (ProtobufCBinaryData){p->point.len, p->point.data};
    out->token = p->request->token;
    out->tablet_endpoint = p->request->tablet_endpoint;
    out->des_endpoint = p->request->des_endpoint;
    out->has_finished = out->finished = p->finished;
}

static int make_task(osync__import_t *i, const Openmldb__Nameserver__TableInfo *info, const void *data, size_t len,
                     osync_error_t *err) {
    osync_scheduler_t *s = i->s;
    const Openmldb__Datasync__AddSyncTaskRequest *first = i->parts[0].request;
    Osync__Scheduler__TaskRecord r = OSYNC__SCHEDULER__TASK_RECORD__INIT;
    Osync__Scheduler__StartPoint *points = osync__calloc(i->n, sizeof *points),
                                 **start = osync__calloc(i->n, sizeof *start);
    osync__schema_t *schema = NULL;
    osync__task_t *t = NULL;
    char id[37], *target = NULL;
    int rc = check_partitions(i, info, err);
    r.pids = osync__calloc(i->n, sizeof *r.pids);
    if (!rc && (!points || !start || !r.pids)) rc = osync__err(err, OSYNC_ENOMEM, "out of memory");
    if (!rc) rc = osync__dest_resolve(s->sinks, first->dest, &target, err);
    if (!rc) rc = osync__sched_schema_new(&schema, data, len, s->timezone, err);
    if (rc) goto done;
    for (size_t n = 0; n < i->n; n++) {
        r.pids[n] = i->parts[n].pid;
        start[n] = &points[n];
        fill_start(&i->parts[n], &points[n]);
    }
    osync__random_uuid(id);
    r.task_id = id;
    r.tid = i->tid;
    r.db = info->db;
    r.name = info->name;
    r.mode = (uint32_t)first->mode;
    r.has_start_ts = first->has_start_ts;
    r.start_ts = first->start_ts;
    r.dest = first->dest;
    r.target = target;
    r.csv_timezone = s->timezone;
    r.n_pids = r.n_start = i->n;
    r.start = start;
    r.has_created_ms = r.has_imported_crc = 1;
    r.created_ms = osync__wall_ms();
    r.imported_crc = i->crc;
    if (osync__scheduler__task_record__get_packed_size(&r) > OSYNC__MAX_RECORD)
        rc = osync__err(err, OSYNC_ETOOBIG, "its points are too large for the checkpoint");
    if (!rc) rc = osync__sched_task_new(&t, s, &r, err);
    if (rc) goto done;
    t->state = OSYNC__TASK_CREATING;
    t->schema = schema;
    schema = NULL;
    t->import = i;
    i->task = t;
    osync__sched_task_hold(t);
    osync__sched_record_put(&t->record);
    osync__sched_task_drop(t);
done:
    osync__sched_schema_unref(schema);
    osync__free(target);
    osync__free(points);
    osync__free(start);
    osync__free(r.pids);
    return rc;
}

static void on_table(void *arg, int status, const void *data, size_t len, const osync_error_t *err) {
    osync__import_t *i = arg;
    osync_scheduler_t *s = i->s;
    osync_error_t own = {0};
    Openmldb__Nameserver__TableInfo *info = NULL;
    i->asking = false;
    if (s->closing) goto done;
    if (status == OSYNC_ENOENT) {
        osync__err(&own, status,
                   "there is no table with tid %" PRIu32 " in ZooKeeper (%s): if it was dropped, move the folder away",
                   i->tid, s->zk_root ? s->zk_root : "");
    } else if (status) {
        osync__err(&own, status, "ZooKeeper can't be asked for the table with tid %" PRIu32 ": %s", i->tid,
                   err ? err->message : osync_strerror(status));
    } else {
        info = openmldb__nameserver__table_info__unpack(&osync__protobuf_allocator, len, data);
        if (info && info->db && info->name)
            status = make_task(i, info, data, len, &own);
        else
            status = osync__err(&own, OSYNC_ECORRUPT, "the table's TableInfo in ZooKeeper can't be parsed");
    }
    if (status) waits(i, own.message);
done:
    if (info) openmldb__nameserver__table_info__free_unpacked(info, &osync__protobuf_allocator);
    osync__sched_drop(s);
}

static void go_on(osync__import_t *i) {
    osync_scheduler_t *s = i->s;
    osync__task_t *known = NULL;
    osync_error_t err = {0};
    if (i->task) {
        osync__sched_task_hold(i->task); /* its end may have waited for this */
        known = i->task;
        (void)osync__sched_import_stored(known);
        osync__sched_task_drop(known);
        return;
    }
    if (i->asking) return;
    bool any;
    int rc = read_folder(i, &any, &err);
    if (!rc && !any) { /* somebody has moved it away */
        osync__log(OSYNC_LOG_INFO, "%s is gone", i->folder);
        import_free(i);
        return;
    }
    if (rc) {
        waits(i, err.message);
        return;
    }
    HASH_FIND(hh, s->tasks, &i->tid, sizeof i->tid, known);
    if (known && known->has_imported_crc && known->imported_crc == i->crc) {
        /* An earlier run was interrupted before it could rename the folder. */
        i->task = known;
        known->import = i;
        go_on(i);
        return;
    }
    if (known) {
        osync__err(&err, OSYNC_EEXIST,
                   "the checkpoint has a sync task of this table already, %s, which goes on: one of the two is older. "
                   "Move the folder away; or, if SyncTool was the last to write the table's rows, delete that task and "
                   "start again",
                   known->id);
        waits(i, err.message);
        return;
    }
    osync__sched_hold(s);
    i->asking = true;
    rc = s->catalog->ops->get(s->catalog, i->tid, on_table, i);
    if (rc) on_table(i, rc, NULL, 0, NULL);
}

/* ---- all of them ---- */

static int add(osync_scheduler_t *s, const char *name, osync_error_t *err) {
    uint64_t tid;
    const char *rest = number(name, UINT32_MAX, &tid);
    part_t *parts = NULL;
    size_t n = 0;
    bool any = false;
    osync__import_t *i = NULL;
    int rc = 0;
    if (!rest || *rest) return 0;
    char *folder = osync__format("%s/%s", s->state_dir, name);
    if (!folder) goto nomem;
    rc = list_parts(folder, &parts, &n, &any, err);
    if (rc || !any) goto done;
    i = osync__calloc(1, sizeof *i);
    if (!i) goto nomem;
    i->s = s;
    i->tid = (uint32_t)tid;
    HASH_ADD(hh, s->imports, tid, sizeof i->tid, i);
    if (!i->hh.tbl) {
        osync__free(i);
        goto nomem;
    }
    i->folder = folder;
    folder = NULL;
done:
    osync__free(parts);
    osync__free(folder);
    return rc;
nomem:
    rc = osync__err(err, OSYNC_ENOMEM, "%s: out of memory", s->state_dir);
    goto done;
}

int osync__sched_import_find(osync_scheduler_t *s, osync_error_t *err) {
    int rc = 0;
    DIR *d = opendir(s->state_dir);
    if (!d) return osync__err_errno(err, errno, "open the folder %s", s->state_dir);
    for (struct dirent *e; !rc && (e = readdir(d));) rc = add(s, e->d_name, err);
    closedir(d);
    return rc;
}

void osync__sched_import_go_on(osync_scheduler_t *s) {
    osync__import_t *i, *next;
    HASH_ITER(hh, s->imports, i, next) go_on(i);
}

bool osync__sched_import_waits(const osync_scheduler_t *s, uint32_t tid, char *out, size_t size) {
    const osync__import_t *i = NULL;
    HASH_FIND(hh, s->imports, &tid, sizeof tid, i);
    if (!i || i->task) return false;
    (void)snprintf(out, size, "the table's task in %s, of OpenMLDB's SyncTool, is not taken over yet: %s", i->folder,
                   i->why ? i->why : "it is being read");
    return true;
}

void osync__sched_import_each(const osync_scheduler_t *s, void (*each)(void *arg, const char *folder, const char *why),
                              void *arg) {
    for (const osync__import_t *i = s->imports; i; i = i->hh.next) each(arg, i->folder, i->why ? i->why : "");
}

void osync__sched_import_free(osync_scheduler_t *s) {
    osync__import_t *i, *next;
    HASH_ITER(hh, s->imports, i, next) import_free(i);
}
