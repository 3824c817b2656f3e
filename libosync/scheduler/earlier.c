/* Looking through a destination for the files of earlier tasks. */
#include "scheduler/earlier.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "delivery/record.h"

typedef struct find {
    osync_sink_t *sink;
    char *path, *db, *name;
    int flags;
    osync__earlier_cb cb;
    void *arg;
    osync__earlier_t *found;
    osync__earlier_part_t *at; /* the label of whose newest file is looked at */
    uint64_t n;                /* or of its oldest, if that has none */
} find_t;

bool osync__earlier_parse(const char *name, char id[37], uint32_t *pid, uint64_t *n) {
    char again[128];
    int used = 0;
    if (sscanf(name, "part-%36[0-9a-f-]-%" SCNu32 "-%" SCNu64 ".csv%n", id, pid, n, &used) != 3 || used == 0)
        return false;
    snprintf(again, sizeof again, "part-%s-%05" PRIu32 "-%010" PRIu64 ".csv", id, *pid, *n);
    return strlen(id) == 36 && strcmp(again, name) == 0;
}

void osync__earlier_path(char out[OSYNC__EARLIER_PATH], const char *dest, const char *id, uint32_t pid, uint64_t n) {
    snprintf(out, OSYNC__EARLIER_PATH, "%s/part-%s-%05" PRIu32 "-%010" PRIu64 ".csv", dest, id, pid, n);
}

Osync__Scheduler__TaskRecord *osync__earlier_record(const void *label, size_t len, const char *id, uint32_t pid,
                                                    uint64_t n) {
    osync__label_t l = {0};
    Osync__Scheduler__TaskRecord *r = NULL;
    if (osync__label_unpack(&l, label, len) == 0 && strcmp(l.task_id, id) == 0 && l.pid == pid && l.n == n &&
        l.task.len > 0)
        r = osync__scheduler__task_record__unpack(&osync__protobuf_allocator, l.task.len, l.task.data);
    osync__label_free(&l);
    return r;
}

const osync__earlier_part_t *osync__earlier_part(const osync__earlier_t *found, const char *id, uint32_t pid) {
    struct osync__earlier_key key = {.pid = pid};
    osync__earlier_part_t *part = NULL;
    snprintf(key.id, sizeof key.id, "%s", id);
    HASH_FIND(hh, found->parts, &key, sizeof key, part);
    return part;
}

void osync__earlier_free(osync__earlier_t *found) {
    osync__earlier_task_t *t, *next_task;
    osync__earlier_part_t *p, *next_part;
    if (!found) return;
    HASH_ITER(hh, found->tasks, t, next_task) {
        HASH_DEL(found->tasks, t);
        if (t->record) osync__scheduler__task_record__free_unpacked(t->record, &osync__protobuf_allocator);
        osync__free(t);
    }
    HASH_ITER(hh, found->parts, p, next_part) {
        HASH_DEL(found->parts, p);
        osync__free(p);
    }
    osync__free(found->files);
    osync__free(found);
}

static void find_free(find_t *f) {
    osync__earlier_free(f->found);
    osync__free(f->path);
    osync__free(f->db);
    osync__free(f->name);
    osync__free(f);
}

static void find_end(find_t *f, int status, const osync_error_t *err) {
    osync__earlier_t *found = NULL;
    osync_error_t own;
    if (status && !err) {
        osync__err(&own, status, "%s: %s", f->path, osync_strerror(status));
        err = &own;
    }
    if (!status) {
        size_t kept = 0;
        found = f->found;
        f->found = NULL;
        for (size_t i = 0; i < found->n_files; i++)
            if (found->files[i].part->task->ours) found->files[kept++] = found->files[i];
        found->n_files = kept;
        for (const osync__earlier_task_t *t = found->tasks; t; t = t->hh.next) {
            if (!t->ours) continue;
            found->n_ours++;
            found->ours_files += t->files;
        }
    }
    f->cb(f->arg, status, found, status ? err : NULL);
    find_free(f);
}

static int add(find_t *f, size_t n_names, const char *name) {
    osync__earlier_t *e = f->found;
    struct osync__earlier_key key = {.pid = 0};
    osync__earlier_task_t *t = NULL;
    osync__earlier_part_t *p = NULL;
    uint64_t n;
    char id[37] = "";
    if (!osync__earlier_parse(name, id, &key.pid, &n)) return 0;
    snprintf(key.id, sizeof key.id, "%s", id);
    HASH_FIND_STR(e->tasks, id, t);
    if (!t) {
        t = osync__calloc(1, sizeof *t);
        if (!t) return OSYNC_ENOMEM;
        memcpy(t->id, id, sizeof t->id);
        HASH_ADD_STR(e->tasks, id, t);
        if (!t->hh.tbl) {
            osync__free(t);
            return OSYNC_ENOMEM;
        }
    }
    t->files++;
    HASH_FIND(hh, e->parts, &key, sizeof key, p);
    if (!p) {
        p = osync__calloc(1, sizeof *p);
        if (!p) return OSYNC_ENOMEM;
        p->key = key;
        p->task = t;
        p->newest = p->oldest = n;
        HASH_ADD(hh, e->parts, key, sizeof key, p);
        if (!p->hh.tbl) {
            osync__free(p);
            return OSYNC_ENOMEM;
        }
    }
    if (n > p->newest) p->newest = n;
    if (n < p->oldest) p->oldest = n;
    if (f->flags & OSYNC__EARLIER_FILES) {
        if (!e->files) e->files = osync__calloc(n_names, sizeof *e->files);
        if (!e->files) return OSYNC_ENOMEM;
        e->files[e->n_files++] = (osync__earlier_file_t){.part = p, .n = n};
    }
    return 0;
}

static void look(find_t *f);
static void look_at(find_t *f);

static void on_label(void *arg, int status, const void *label, size_t len, const osync_error_t *err) {
    find_t *f = arg;
    osync__earlier_part_t *p = f->at;
    osync__earlier_task_t *t = p->task;
    if (status && status != OSYNC_ENOENT && status != OSYNC_ENOTSUP) {
        find_end(f, status, err);
        return;
    }
    Osync__Scheduler__TaskRecord *r = status ? NULL : osync__earlier_record(label, len, t->id, p->key.pid, f->n);
    if (r && (strcmp(r->db, f->db) != 0 || strcmp(r->name, f->name) != 0)) {
        t->foreign = true;
    } else if (r) {
        t->ours = true;
        if (!t->record || r->created_ms > t->record->created_ms) {
            Osync__Scheduler__TaskRecord *older = t->record;
            t->record = r;
            r = older;
        }
    }
    bool try_oldest = !r && !t->ours && f->n != p->oldest; /* somebody may have put a file there under the next name */
    if (r) osync__scheduler__task_record__free_unpacked(r, &osync__protobuf_allocator);
    if (try_oldest) {
        f->n = p->oldest;
        look_at(f);
        return;
    }
    f->at = p->hh.next;
    look(f);
}

static void look_at(find_t *f) {
    char path[OSYNC__EARLIER_PATH];
    osync__earlier_path(path, f->path, f->at->task->id, f->at->key.pid, f->n);
    int rc = f->sink->ops->get_label(f->sink, path, on_label, f);
    if (rc) find_end(f, rc, NULL);
}

/* One partition after the other. */
static void look(find_t *f) {
    while (f->at && (f->at->task->foreign || (f->at->task->ours && !(f->flags & OSYNC__EARLIER_RECORDS))))
        f->at = f->at->hh.next;
    if (!f->at) {
        find_end(f, 0, NULL);
        return;
    }
    f->n = f->at->newest;
    look_at(f);
}

static void on_list(void *arg, int status, const char *const *names, size_t n, const osync_error_t *err) {
    find_t *f = arg;
    int rc = status == OSYNC_ENOENT ? 0 : status;
    for (size_t i = 0; i < n && !status && !rc; i++) rc = add(f, n, names[i]);
    if (rc) {
        find_end(f, rc, status ? err : NULL);
        return;
    }
    f->at = f->found->parts;
    look(f);
}

int osync__earlier_find(osync_sink_t *sink, const char *path, const char *db, const char *name, int flags,
                        osync__earlier_cb cb, void *arg) {
    find_t *f = osync__calloc(1, sizeof *f);
    if (!f) return OSYNC_ENOMEM;
    *f = (find_t){.sink = sink,
                  .path = osync__strdup(path),
                  .db = osync__strdup(db),
                  .name = osync__strdup(name),
                  .flags = flags,
                  .cb = cb,
                  .arg = arg,
                  .found = osync__calloc(1, sizeof *f->found)};
    int rc = f->path && f->db && f->name && f->found ? sink->ops->list(sink, path, on_list, f) : OSYNC_ENOMEM;
    if (rc) find_free(f);
    return rc;
}
