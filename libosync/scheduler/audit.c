/* The steps of an audit: list the destination, then for each file, in the order of task, partition and number: label,
 * length, content. What is compared with what is in check_file and end_partition.
 *
 * A file need not begin exactly where the one before it ends: the committed point also moves on when rows are left out
 * (expired ones, say) and there is nothing to write. It never moves back, and the totals in the labels tell whether
 * there was a file in between. */
#include "scheduler/audit.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/hash.h"
#include "data_sync.pb-c.h"
#include "delivery/record.h"
#include "format/csv_count.h"
#include "scheduler/earlier.h"

enum {
    READ_BYTES = 4 << 20, /* at once */
    MAX_TRIES = 8,        /* of one call that waiting may mend */
    FIRST_PAUSE_MS = 100,
    LAST_PAUSE_MS = 1000,
    MAX_PROBLEMS = 20, /* named of one partition; all are counted */
    MAX_NAMED = 20,    /* names that mean nothing */
    MAX_COPIES = 10000,
    ID_LEN = 36,
};

typedef enum whose { NOT_KNOWN, OURS, OTHERS } whose_t;

/* A task that has files. */
typedef struct task {
    char id[ID_LEN + 1];
    whose_t whose;
    bool has_record;
    uint32_t mode;
    uint64_t created_ms;
    UT_hash_handle hh;
} task_t;

typedef struct file {
    task_t *task;
    uint32_t pid;
    uint64_t n;
} file_t;

/* What the checkpoint store has of a partition. */
typedef struct known {
    struct known_key {
        char id[40];
        uint32_t pid;
    } key;
    osync__record_t rec;
    bool seen;
    UT_hash_handle hh;
} known_t;

/* Where a partition's files begin and end. */
typedef struct seam {
    const task_t *task;
    uint32_t pid;
    uint64_t first;
    osync__buf_t start, end;
} seam_t;

/* The partition that is being looked at. */
typedef struct partition {
    const known_t *known;
    bool any;
    uint64_t first, last; /* numbers of files */
    uint64_t files, rows, bytes, holes, wrong, vanished, jumps;
    size_t problems;
    bool has_end; /* of the file before this one */
    osync__buf_t start, end;
    bool has_totals;
    uint64_t total_rows, total_bytes, total_files;
    bool moved_on;
} partition_t;

struct osync__audit {
    osync__audit_config_t c;
    char *dest, *db, *name;
    uv_timer_t timer;
    void (*again)(osync__audit_t *a);
    unsigned tries;
    bool canceled;
    osync__audit_result_t r, before; /* `before`: the present task */
    size_t cap_lines;

    task_t *tasks;
    known_t *known;
    file_t *files;
    size_t n_files, cap_files, at;
    char **copies; /* names that begin like a file of a task, but aren't one */
    size_t n_copies, cap_copies;
    uint64_t n_strange, others_files;
    seam_t *seams;
    size_t n_seams, cap_seams;

    const task_t *task;
    partition_t p;

    /* the file that is being looked at */
    char path[OSYNC__EARLIER_PATH];
    osync__label_t label;
    bool has_label;
    const char *no_label; /* why */
    osync_sink_stat_t stat;
    uint64_t offset;
    osync__csv_count_t count;
    osync__buf_t chunk;
    osync__job_t job;
};

/* ---- the report ---- */

static void out_of_memory(osync__audit_t *a) {
    if (a->r.status == 0) a->r.status = osync__err(&a->r.err, OSYNC_ENOMEM, "out of memory");
}

static void OSYNC_PRINTF(2, 0) add_line(osync__audit_t *a, const char *fmt, va_list ap) {
    char text[2048];
    (void)vsnprintf(text, sizeof text, fmt, ap);
    if (a->r.n_lines == a->cap_lines) {
        size_t cap = a->cap_lines ? 2 * a->cap_lines : 64;
        char **more = osync__realloc(a->r.lines, cap * sizeof *more);
        if (!more) {
            out_of_memory(a);
            return;
        }
        a->r.lines = more;
        a->cap_lines = cap;
    }
    char *line = osync__strdup(text);
    if (line)
        a->r.lines[a->r.n_lines++] = line;
    else
        out_of_memory(a);
}

static void OSYNC_PRINTF(2, 3) say(osync__audit_t *a, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    add_line(a, fmt, ap);
    va_end(ap);
}

/* Something that is wrong in this partition; only so many are named. */
static void OSYNC_PRINTF(2, 3) problem(osync__audit_t *a, const char *fmt, ...) {
    va_list ap;
    if (a->p.problems++ >= MAX_PROBLEMS) return;
    va_start(ap, fmt);
    add_line(a, fmt, ap);
    va_end(ap);
}

static const char *base_name(const char *path) {
    return strrchr(path, '/') + 1;
}

/* ---- the frame ---- */

static void audit_clean(osync__audit_t *a) {
    task_t *t, *next_task;
    known_t *k, *next_known;
    HASH_ITER(hh, a->tasks, t, next_task) {
        HASH_DEL(a->tasks, t);
        osync__free(t);
    }
    HASH_ITER(hh, a->known, k, next_known) {
        HASH_DEL(a->known, k);
        osync__record_free(&k->rec);
        osync__free(k);
    }
    for (size_t i = 0; i < a->n_seams; i++) {
        osync__buf_free(&a->seams[i].start);
        osync__buf_free(&a->seams[i].end);
    }
    for (size_t i = 0; i < a->n_copies; i++) osync__free(a->copies[i]);
    for (size_t i = 0; i < a->r.n_lines; i++) osync__free(a->r.lines[i]);
    osync__free(a->r.lines);
    osync__free(a->copies);
    osync__free(a->seams);
    osync__free(a->files);
    osync__buf_free(&a->p.start);
    osync__buf_free(&a->p.end);
    osync__buf_free(&a->chunk);
    osync__label_free(&a->label);
    osync__free(a->dest);
    osync__free(a->db);
    osync__free(a->name);
    osync__free(a);
}

static void on_timer_closed(uv_handle_t *handle) {
    audit_clean(handle->data);
}

static void finish(osync__audit_t *a) {
    a->c.done(a->c.arg, &a->r);
    uv_close((uv_handle_t *)&a->timer, on_timer_closed);
}

static void fail(osync__audit_t *a, int status, const osync_error_t *err) {
    osync_error_t own = {.code = status};
    if (err) own = *err;
    if (!err) osync__err(&own, status, "%s", osync_strerror(status));
    a->r.status = status;
    a->r.err = own;
    finish(a);
}

static void on_again(uv_timer_t *timer) {
    osync__audit_t *a = timer->data;
    if (a->canceled)
        fail(a, OSYNC_ECANCELED, NULL);
    else
        a->again(a);
}

/* True if an answer can be used: success, or one of the two codes that are an answer too (0: none). Else the call is
 * tried again after a pause, or the audit has ended. */
static bool usable(osync__audit_t *a, int status, const osync_error_t *err, int fine, int fine_too,
                   void (*again)(osync__audit_t *a)) {
    if (a->r.status) {
        finish(a);
    } else if (a->canceled) {
        fail(a, OSYNC_ECANCELED, NULL);
    } else if (status == 0 || status == fine || status == fine_too) {
        a->tries = 0;
        return true;
    } else if (!osync_err_retriable(status) || ++a->tries >= MAX_TRIES) {
        fail(a, status, err);
    } else {
        uint64_t pause = (uint64_t)FIRST_PAUSE_MS << (a->tries - 1);
        a->again = again;
        uv_timer_start(&a->timer, on_again, pause < LAST_PAUSE_MS ? pause : LAST_PAUSE_MS, 0);
    }
    return false;
}

/* A call that could not even be begun. Its callback must not come from inside, so the timer brings it. */
static void begun(osync__audit_t *a, int rc, void (*again)(osync__audit_t *a)) {
    if (rc == 0) return;
    a->again = again;
    if (!osync_err_retriable(rc) || ++a->tries >= MAX_TRIES)
        fail(a, rc, NULL);
    else
        uv_timer_start(&a->timer, on_again, LAST_PAUSE_MS, 0);
}

/* ---- partitions and tasks ---- */

/* From one sync point to another one. */
typedef enum step { SAME, FORTH, BACK, NO_POINT } step_t;

static step_t step_of(const osync__buf_t *from, const osync__buf_t *to) {
    Openmldb__Datasync__SyncPoint *f = NULL, *t = NULL;
    step_t step = FORTH;
    if (osync__buf_equal(from, to)) return SAME;
    f = openmldb__datasync__sync_point__unpack(&osync__protobuf_allocator, from->len, from->data);
    t = openmldb__datasync__sync_point__unpack(&osync__protobuf_allocator, to->len, to->data);
    if (!f || !t)
        step = NO_POINT;
    else if (f->type != OPENMLDB__DATASYNC__SYNC_TYPE__kBINLOG)
        step = FORTH; /* in a traverse only the reader knows its order */
    else if (t->type != OPENMLDB__DATASYNC__SYNC_TYPE__kBINLOG)
        step = BACK;
    else if (t->offset < f->offset &&
             t->last_term <= f->last_term) /* a new leader may have lost the log's last entries */
        step = BACK;
    if (f) openmldb__datasync__sync_point__free_unpacked(f, &osync__protobuf_allocator);
    if (t) openmldb__datasync__sync_point__free_unpacked(t, &osync__protobuf_allocator);
    return step;
}

static void hole(osync__audit_t *a, uint32_t pid, uint64_t from, uint64_t until, const char *rows) {
    char first[OSYNC__EARLIER_PATH], last[OSYNC__EARLIER_PATH];
    uint64_t n = until - from;
    osync__earlier_path(first, "", a->task->id, pid, from);
    osync__earlier_path(last, "", a->task->id, pid, until - 1);
    a->p.holes += n;
    if (n == 1)
        problem(a, "    hole: %s is missing%s", first + 1, rows);
    else
        problem(a, "    hole: %s to %s are missing (%" PRIu64 " files)%s", first + 1, last + 1, n, rows);
}

static void keep_seam(osync__audit_t *a, uint32_t pid) {
    seam_t *s;
    if (!a->p.has_end || HASH_COUNT(a->tasks) < 2) return;
    if (a->n_seams == a->cap_seams) {
        size_t cap = a->cap_seams ? 2 * a->cap_seams : 64;
        s = osync__realloc(a->seams, cap * sizeof *s);
        if (!s) {
            out_of_memory(a);
            return;
        }
        a->seams = s;
        a->cap_seams = cap;
    }
    s = &a->seams[a->n_seams++];
    *s = (seam_t){.task = a->task, .pid = pid, .first = a->p.first, .start = a->p.start, .end = a->p.end};
    a->p.start = a->p.end = (osync__buf_t){0};
}

static void end_partition(osync__audit_t *a, uint32_t pid) {
    partition_t *p = &a->p;
    const osync__record_t *rec = p->known ? &p->known->rec : NULL;
    char removed[96] = "", summary[96] = "nothing is missing";
    if (rec && p->any && p->last + 1 < rec->next)
        hole(a, pid, p->last + 1, rec->next, ": the checkpoint says that they are committed");
    if (p->problems > MAX_PROBLEMS) say(a, "    and %zu more like these", p->problems - MAX_PROBLEMS);
    if (p->vanished) say(a, "    note: %" PRIu64 " files were removed while this ran", p->vanished);
    if (p->jumps)
        say(a,
            "    note: %" PRIu64 " files begin behind the end of the file before them: no rows were written in between",
            p->jumps);
    if (p->moved_on) say(a, "    note: the committed point has moved on behind the newest file, without rows");
    if (p->first > 0)
        (void)snprintf(removed, sizeof removed, "; %" PRIu64 " older ones were removed by a consumer", p->first);
    if (p->holes || p->wrong)
        (void)snprintf(summary, sizeof summary, "%" PRIu64 " files are missing, %" PRIu64 " are wrong", p->holes,
                       p->wrong);
    if (p->any)
        say(a,
            "  partition %" PRIu32 ": files %" PRIu64 " to %" PRIu64 "%s; %" PRIu64 " files, %" PRIu64 " rows, %" PRIu64
            " bytes: %s",
            pid, p->first, p->last, removed, p->files, p->rows, p->bytes, summary);
    else if (p->wrong)
        say(a, "  partition %" PRIu32 ": %s", pid, summary);
    a->r.files += p->files;
    a->r.rows += p->rows;
    a->r.bytes += p->bytes;
    a->r.holes += p->holes;
    a->r.wrong += p->wrong;
    keep_seam(a, pid);
    osync__buf_free(&p->start);
    osync__buf_free(&p->end);
    *p = (partition_t){0};
}

static void begin_partition(osync__audit_t *a, const file_t *f) {
    struct known_key key = {.pid = f->pid};
    known_t *k = NULL;
    (void)snprintf(key.id, sizeof key.id, "%s", f->task->id);
    HASH_FIND(hh, a->known, &key, sizeof key, k);
    if (k) k->seen = true;
    a->p.known = k && !k->rec.rebuilding ? k : NULL;
}

static void begin_task(osync__audit_t *a, const task_t *t) {
    a->task = t;
    a->before = a->r;
}

/* The lines since the task began, moved one down, with its name before them. */
static void end_task(osync__audit_t *a) {
    const task_t *t = a->task;
    char when[64] = "";
    size_t at = a->before.n_lines, n = a->r.n_lines;
    struct tm tm;
    time_t seconds = (time_t)(t->created_ms / 1000);
    a->task = NULL;
    if (t->has_record && gmtime_r(&seconds, &tm)) (void)strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S UTC", &tm);
    if (t->has_record)
        say(a, "task %s: mode %" PRIu32 ", created %s", t->id, t->mode, when);
    else
        say(a, "task %s%s", t->id, t->whose == OURS ? "" : ": no file has a label of libosync");
    if (a->r.n_lines == n) return; /* out of memory */
    char *line = a->r.lines[n];
    memmove(&a->r.lines[at + 1], &a->r.lines[at], (n - at) * sizeof *a->r.lines);
    a->r.lines[at] = line;
}

/* It is another table's: what was said of it is taken back. */
static void forget_task(osync__audit_t *a) {
    while (a->r.n_lines > a->before.n_lines) osync__free(a->r.lines[--a->r.n_lines]);
    a->r.files = a->before.files;
    a->r.rows = a->before.rows;
    a->r.bytes = a->before.bytes;
    a->r.holes = a->before.holes;
    a->r.wrong = a->before.wrong;
    osync__buf_free(&a->p.start);
    osync__buf_free(&a->p.end);
    a->p = (partition_t){0};
    a->task = NULL;
}

/* ---- one file ---- */

static void next_file(osync__audit_t *a);

static void file_end(osync__audit_t *a) {
    osync__label_free(&a->label);
    a->at++;
    next_file(a);
}

/* It was listed and isn't there any more. Whoever takes files away begins with the oldest ones, which were perhaps
 * there when they were looked at: this is no hole. */
static void file_vanished(osync__audit_t *a) {
    partition_t *p = &a->p;
    p->vanished++;
    if (p->any) p->last = a->files[a->at].n;
    p->has_end = p->has_totals = false;
    file_end(a);
}

static void missing_before(osync__audit_t *a, const file_t *f) {
    const partition_t *p = &a->p;
    const osync__label_t *l = &a->label;
    char rows[64] = "";
    if (a->has_label && l->has_totals && p->has_totals && l->total_rows >= p->total_rows + l->rows)
        (void)snprintf(rows, sizeof rows, ", with %" PRIu64 " rows", l->total_rows - p->total_rows - l->rows);
    hole(a, f->pid, p->last + 1, f->n, rows);
}

/* All that is known of the file, against its name, its label, the file before it, and the checkpoint. */
static void check_file(osync__audit_t *a) {
    partition_t *p = &a->p;
    const file_t *f = &a->files[a->at];
    const osync__label_t *l = &a->label;
    const osync__record_t *rec = p->known ? &p->known->rec : NULL;
    const char *name = base_name(a->path);
    step_t step = SAME;
    bool follows = p->any && f->n == p->last + 1, sound = a->has_label, counted = sound && !a->c.quick;
    if (p->any && !follows) missing_before(a, f);
    size_t before = p->problems;
    if (!p->any) p->first = f->n;
    if (a->stat.is_dir) problem(a, "    wrong: %s is a folder", name);
    if (!sound) problem(a, "    wrong: %s %s", name, a->no_label);
    if (sound && (strcmp(l->task_id, f->task->id) != 0 || l->pid != f->pid || l->n != f->n)) {
        problem(a, "    wrong: %s has the label of part-%s-%05" PRIu32 "-%010" PRIu64 ".csv", name, l->task_id, l->pid,
                l->n);
        sound = false;
    }
    if (a->has_label && !a->stat.is_dir && a->stat.length != l->bytes)
        problem(a, "    wrong: %s has %" PRIu64 " bytes, and its label says %" PRIu64, name, a->stat.length, l->bytes);
    if (counted && !a->stat.is_dir) {
        if (a->offset < a->stat.length)
            problem(a, "    wrong: %s ends after %" PRIu64 " of %" PRIu64 " bytes", name, a->offset, a->stat.length);
        else if (a->count.bad)
            problem(a, "    wrong: %s: what comes after %" PRIu64 " rows is not CSV as it is written", name,
                    a->count.rows);
        else if (a->count.in_row)
            problem(a, "    wrong: %s ends in the middle of a row, after %" PRIu64 " rows", name, a->count.rows);
        if (a->count.rows != l->rows)
            problem(a, "    wrong: %s has %" PRIu64 " rows, and its label says %" PRIu64, name, a->count.rows, l->rows);
    }
    if (sound && follows && p->has_end) step = step_of(&p->end, &l->start);
    p->jumps += step == FORTH;
    if (step == BACK)
        problem(a, "    wrong: %s begins before the end of the file before it: rows may be in both", name);
    if (step == NO_POINT || (sound && step_of(&l->start, &l->end) == NO_POINT))
        problem(a, "    wrong: the label of %s doesn't say where it begins and ends", name);
    if (sound && l->has_totals && (f->n == 0 || (follows && p->has_totals)) &&
        (l->total_rows != p->total_rows + l->rows || l->total_bytes != p->total_bytes + l->bytes ||
         l->total_files != p->total_files + 1))
        problem(a,
                "    wrong: %s: with it the partition has %" PRIu64 " rows, %" PRIu64 " bytes and %" PRIu64
                " files by its label, and by the files before it %" PRIu64 ", %" PRIu64 " and %" PRIu64,
                name, l->total_rows, l->total_bytes, l->total_files, p->total_rows + l->rows, p->total_bytes + l->bytes,
                p->total_files + 1);
    if (sound && rec && f->n + 1 == rec->next) {
        step = step_of(&l->end, &rec->point);
        p->moved_on = step == FORTH;
        if (step == BACK || step == NO_POINT)
            problem(a, "    wrong: %s ends behind the committed point of the checkpoint", name);
        if (l->has_totals &&
            (l->total_rows != rec->rows || l->total_bytes != rec->bytes || l->total_files != rec->files))
            problem(a,
                    "    wrong: %s: with it the partition has %" PRIu64 " rows, %" PRIu64 " bytes and %" PRIu64
                    " files by its label, and by the checkpoint %" PRIu64 ", %" PRIu64 " and %" PRIu64,
                    name, l->total_rows, l->total_bytes, l->total_files, rec->rows, rec->bytes, rec->files);
    }
    p->wrong += p->problems > before;
    p->any = true;
    p->last = f->n;
    p->files += !a->stat.is_dir;
    p->rows += counted ? a->count.rows : a->has_label ? l->rows : 0;
    p->bytes += a->stat.length;
    p->has_end = sound;
    p->has_totals = sound && l->has_totals;
    p->total_rows = l->total_rows;
    p->total_bytes = l->total_bytes;
    p->total_files = l->total_files;
    if (sound && (osync__buf_set(&p->end, l->end.data, l->end.len) ||
                  (f->n == p->first && osync__buf_set(&p->start, l->start.data, l->start.len))))
        out_of_memory(a);
    file_end(a);
}

static void read_more(osync__audit_t *a);

static void count_work(osync__job_t *job) {
    osync__audit_t *a = job->arg;
    osync__csv_count_add(&a->count, a->chunk.data, a->chunk.len);
}

static void count_done(osync__job_t *job) {
    osync__audit_t *a = job->arg;
    if (!usable(a, 0, NULL, 0, 0, read_more)) return;
    a->offset += a->chunk.len;
    read_more(a);
}

static void on_bytes(void *arg, int status, const void *data, size_t len, const osync_error_t *err) {
    osync__audit_t *a = arg;
    if (!usable(a, status, err, OSYNC_ENOENT, 0, read_more)) return;
    if (status) {
        file_vanished(a);
        return;
    }
    a->chunk.len = 0;
    if (len == 0) { /* it has become shorter */
        check_file(a);
    } else if (osync__buf_append(&a->chunk, data, len)) {
        fail(a, OSYNC_ENOMEM, NULL);
    } else {
        a->job = (osync__job_t){.work = count_work, .done = count_done, .arg = a};
        osync__pool_submit(a->c.pool, &a->job);
    }
}

static void read_more(osync__audit_t *a) {
    if (a->offset >= a->stat.length)
        check_file(a);
    else
        begun(a, a->c.sink->ops->read(a->c.sink, a->path, a->offset, READ_BYTES, on_bytes, a), read_more);
}

static void look_at_length(osync__audit_t *a);

static void on_stat(void *arg, int status, const osync_sink_stat_t *stat, const osync_error_t *err) {
    osync__audit_t *a = arg;
    if (!usable(a, status, err, OSYNC_ENOENT, 0, look_at_length)) return;
    if (status) {
        file_vanished(a);
        return;
    }
    a->stat = *stat;
    if (a->has_label && !a->c.quick && !a->stat.is_dir)
        read_more(a);
    else
        check_file(a);
}

static void look_at_length(osync__audit_t *a) {
    begun(a, a->c.sink->ops->stat(a->c.sink, a->path, on_stat, a), look_at_length);
}

/* Whose table's the task is: by its record in the label, or by the label's text. */
static whose_t whose_is(const osync__audit_t *a, const osync__label_t *l, task_t *t) {
    const char *text = l->text.data ? (const char *)l->text.data : "";
    size_t n = strlen(a->db);
    bool ours = strncmp(text, a->db, n) == 0 && text[n] == '.' && strcmp(text + n + 1, a->name) == 0;
    Osync__Scheduler__TaskRecord *r =
        l->task.len ? osync__scheduler__task_record__unpack(&osync__protobuf_allocator, l->task.len, l->task.data)
                    : NULL;
    if (!r) return ours ? OURS : OTHERS;
    ours = strcmp(r->db, a->db) == 0 && strcmp(r->name, a->name) == 0;
    if (ours && (!t->has_record || r->created_ms > t->created_ms)) {
        t->has_record = true;
        t->mode = r->mode;
        t->created_ms = r->created_ms;
    }
    osync__scheduler__task_record__free_unpacked(r, &osync__protobuf_allocator);
    return ours ? OURS : OTHERS;
}

static void look_at_label(osync__audit_t *a);

static void on_label(void *arg, int status, const void *label, size_t len, const osync_error_t *err) {
    osync__audit_t *a = arg;
    task_t *t = a->files[a->at].task;
    if (!usable(a, status, err, OSYNC_ENOENT, OSYNC_ECORRUPT, look_at_label)) return;
    a->no_label = status == OSYNC_ENOENT ? "has no label" : "has a label that isn't one of libosync";
    a->has_label = status == 0 && osync__label_unpack(&a->label, label, len) == 0;
    if (a->has_label && strcmp(a->label.task_id, t->id) == 0) {
        whose_t whose = whose_is(a, &a->label, t);
        if (t->whose == NOT_KNOWN) t->whose = whose;
        if (t->whose == OTHERS) {
            forget_task(a);
            a->others_files++;
            file_end(a);
            return;
        }
        if (whose == OTHERS) { /* its other files are ours */
            a->has_label = false;
            a->no_label = "has a label that names another table";
        }
    }
    look_at_length(a);
}

static void look_at_label(osync__audit_t *a) {
    const file_t *f = &a->files[a->at];
    osync__earlier_path(a->path, a->dest, f->task->id, f->pid, f->n);
    begun(a, a->c.sink->ops->get_label(a->c.sink, a->path, on_label, a), look_at_label);
}

static void end_of_files(osync__audit_t *a);

static void next_file(osync__audit_t *a) {
    for (;; a->at++) {
        const file_t *f = a->at < a->n_files ? &a->files[a->at] : NULL,
                     *last = a->at ? f ? f - 1 : &a->files[a->at - 1] : NULL;
        if (a->task && last && (!f || f->task != last->task || f->pid != last->pid)) {
            end_partition(a, last->pid);
            if (!f || f->task != last->task) end_task(a);
            if (f && a->task) begin_partition(a, f);
        }
        if (!f) {
            end_of_files(a);
            return;
        }
        if (f->task->whose == OTHERS) {
            a->others_files++;
            continue;
        }
        if (!a->task) {
            begin_task(a, f->task);
            begin_partition(a, f);
        }
        a->offset = 0;
        a->count = (osync__csv_count_t){0};
        a->stat = (osync_sink_stat_t){0};
        look_at_label(a);
        return;
    }
}

/* ---- the end ---- */

static int compare_seams(const void *x, const void *y) {
    const seam_t *a = x, *b = y;
    if (a->pid != b->pid) return a->pid < b->pid ? -1 : 1;
    if (a->task->created_ms != b->task->created_ms) return a->task->created_ms < b->task->created_ms ? -1 : 1;
    return strcmp(a->task->id, b->task->id);
}

/* Where one ends the other begins, or behind that, both in the log. (Every point of a log is behind a traverse.) */
static bool follows_on(const seam_t *a, const seam_t *b) {
    step_t step = step_of(&a->end, &b->start);
    return step == SAME || (step == FORTH && step_of(&b->start, &a->end) == BACK);
}

/* Several tasks of the table: which of them go on where another one has ended. */
static void tell_overlaps(osync__audit_t *a) {
    uint64_t continued = 0, apart = 0;
    const seam_t *first_apart = NULL;
    if (a->n_seams) qsort(a->seams, a->n_seams, sizeof *a->seams, compare_seams);
    for (size_t i = 0; i < a->n_seams; i++) {
        bool oldest = i == 0 || a->seams[i - 1].pid != a->seams[i].pid, goes_on = false;
        for (size_t k = 0; k < a->n_seams && !goes_on && !oldest; k++)
            goes_on = k != i && a->seams[k].pid == a->seams[i].pid && follows_on(&a->seams[k], &a->seams[i]);
        if (oldest) continue;
        if (goes_on) continued++;
        if (!goes_on && !first_apart) first_apart = &a->seams[i];
        apart += !goes_on;
    }
    if (continued) say(a, "note: %" PRIu64 " partitions go on where an earlier task has ended", continued);
    if (apart)
        say(a,
            "note: there are files of several sync tasks, and in %" PRIu64 " cases (as in partition %" PRIu32
            " of task %s) one doesn't begin where another one ends: rows may be in the files of both",
            apart, first_apart->pid, first_apart->task->id);
}

/* Partitions of which the checkpoint says that there were files. */
static void tell_empty(osync__audit_t *a) {
    for (known_t *k = a->known; k; k = k->hh.next)
        if (!k->seen && k->rec.next > 0)
            say(a,
                "note: task %s, partition %" PRIu32 ": all %" PRIu64 " files, with %" PRIu64
                " rows, were removed by a consumer",
                k->key.id, k->key.pid, k->rec.next, k->rec.rows);
}

static void tell_copies(osync__audit_t *a) {
    uint64_t copies = 0;
    for (size_t i = 0; i < a->n_copies; i++) {
        char id[ID_LEN + 1];
        task_t *t = NULL;
        (void)snprintf(id, sizeof id, "%s", a->copies[i] + 5);
        HASH_FIND_STR(a->tasks, id, t);
        if (t && t->whose == OTHERS) continue;
        if (!t || t->whose != OURS) {
            a->n_strange++;
            continue;
        }
        a->r.wrong++;
        if (copies++ < MAX_PROBLEMS)
            say(a, "wrong: %s has the name of no file of this task, but a reader of the folder would read it",
                a->copies[i]);
    }
    if (copies > MAX_PROBLEMS) say(a, "and %" PRIu64 " more like these", copies - MAX_PROBLEMS);
}

static void look_for_leftovers(osync__audit_t *a);

static void on_leftovers(void *arg, int status, const char *const *names, size_t n, const osync_error_t *err) {
    osync__audit_t *a = arg;
    size_t found = 0;
    if (!usable(a, status, err, OSYNC_ENOENT, 0, look_for_leftovers)) return;
    for (size_t i = 0; i < n && !status; i++) {
        if (a->c.has_task && a->c.has_task(a->c.arg, names[i])) continue;
        if (found++ < MAX_NAMED)
            say(a,
                "leftover: %.900s/_osync/%.100s, of a task that this scheduler doesn't have: if no other one has it, "
                "it can be removed",
                a->dest, names[i]);
    }
    if (found > MAX_NAMED) say(a, "and %zu more like these", found - MAX_NAMED);
    say(a,
        "%" PRIu64 " files, %" PRIu64 " rows, %" PRIu64 " bytes; %" PRIu64 " files are missing, %" PRIu64
        " are wrong%s",
        a->r.files, a->r.rows, a->r.bytes, a->r.holes, a->r.wrong, a->c.quick ? " (their content was not read)" : "");
    finish(a);
}

static void look_for_leftovers(osync__audit_t *a) {
    (void)snprintf(a->path, sizeof a->path, "%s/_osync", a->dest);
    begun(a, a->c.sink->ops->list(a->c.sink, a->path, on_leftovers, a), look_for_leftovers);
}

static void end_of_files(osync__audit_t *a) {
    tell_empty(a);
    tell_overlaps(a);
    tell_copies(a);
    if (a->others_files) say(a, "note: %" PRIu64 " files are of other tables", a->others_files);
    if (a->n_strange) say(a, "note: %" PRIu64 " names are not of files of libosync", a->n_strange);
    look_for_leftovers(a);
}

/* ---- the beginning ---- */

static bool begins_like_ours(const char *name) {
    return strncmp(name, "part-", 5) == 0 && strspn(name + 5, "0123456789abcdef-") >= ID_LEN;
}

static int add_copy(osync__audit_t *a, const char *name) {
    if (a->n_copies == a->cap_copies) {
        size_t cap = a->cap_copies ? 2 * a->cap_copies : 16;
        char **more = osync__realloc(a->copies, cap * sizeof *more);
        if (!more) return OSYNC_ENOMEM;
        a->copies = more;
        a->cap_copies = cap;
    }
    a->copies[a->n_copies] = osync__strdup(name);
    return a->copies[a->n_copies++] ? 0 : OSYNC_ENOMEM;
}

static int add_name(osync__audit_t *a, const char *name) {
    char id[ID_LEN + 1] = "";
    uint32_t pid = 0;
    uint64_t n = 0;
    task_t *t = NULL;
    if (name[0] == '_' || name[0] == '.') return 0; /* readers don't see it */
    if (!osync__earlier_parse(name, id, &pid, &n)) {
        if (begins_like_ours(name) && a->n_copies < MAX_COPIES) return add_copy(a, name);
        if (a->n_strange++ < MAX_NAMED) say(a, "note: %.200s is not a file of libosync", name);
        return 0;
    }
    HASH_FIND_STR(a->tasks, id, t);
    if (!t) {
        t = osync__calloc(1, sizeof *t);
        if (!t) return OSYNC_ENOMEM;
        memcpy(t->id, id, sizeof t->id);
        HASH_ADD_STR(a->tasks, id, t);
        if (!t->hh.tbl) {
            osync__free(t);
            return OSYNC_ENOMEM;
        }
    }
    if (a->n_files == a->cap_files) {
        size_t cap = a->cap_files ? 2 * a->cap_files : 256;
        file_t *more = osync__realloc(a->files, cap * sizeof *more);
        if (!more) return OSYNC_ENOMEM;
        a->files = more;
        a->cap_files = cap;
    }
    a->files[a->n_files++] = (file_t){.task = t, .pid = pid, .n = n};
    return 0;
}

static int compare_files(const void *x, const void *y) {
    const file_t *a = x, *b = y;
    int by_task = a->task == b->task ? 0 : strcmp(a->task->id, b->task->id);
    if (by_task) return by_task;
    if (a->pid != b->pid) return a->pid < b->pid ? -1 : 1;
    return a->n < b->n ? -1 : a->n > b->n;
}

static void look_at_dest(osync__audit_t *a);

static void on_names(void *arg, int status, const char *const *names, size_t n, const osync_error_t *err) {
    osync__audit_t *a = arg;
    int rc = 0;
    if (!usable(a, status, err, OSYNC_ENOENT, 0, look_at_dest)) return;
    for (size_t i = 0; i < n && !status && !rc; i++) rc = add_name(a, names[i]);
    if (rc) {
        fail(a, rc, NULL);
        return;
    }
    if (status) say(a, "note: there is no folder %.900s", a->dest);
    if (a->n_files) qsort(a->files, a->n_files, sizeof *a->files, compare_files);
    next_file(a);
}

static void look_at_dest(osync__audit_t *a) {
    begun(a, a->c.sink->ops->list(a->c.sink, a->dest, on_names, a), look_at_dest);
}

/* ---- interface ---- */

int osync__audit_new(const osync__audit_config_t *config, osync__audit_t **out) {
    osync__audit_t *a = osync__calloc(1, sizeof *a);
    if (!a) return OSYNC_ENOMEM;
    a->c = *config;
    a->dest = osync__strdup(config->dest);
    a->db = osync__strdup(config->db);
    a->name = osync__strdup(config->name);
    if (!a->dest || !a->db || !a->name) {
        audit_clean(a);
        return OSYNC_ENOMEM;
    }
    *out = a;
    return 0;
}

int osync__audit_know(osync__audit_t *a, const char *task_id, uint32_t pid, const void *record, size_t len,
                      osync_error_t *err) {
    known_t *k = osync__calloc(1, sizeof *k);
    if (!k) return osync__err(err, OSYNC_ENOMEM, "out of memory");
    (void)snprintf(k->key.id, sizeof k->key.id, "%s", task_id);
    k->key.pid = pid;
    int rc = osync__record_unpack(&k->rec, record, len, task_id, pid, err);
    if (rc) {
        osync__record_free(&k->rec);
        osync__free(k);
        return rc;
    }
    HASH_ADD(hh, a->known, key, sizeof k->key, k);
    if (k->hh.tbl) return 0;
    osync__record_free(&k->rec);
    osync__free(k);
    return osync__err(err, OSYNC_ENOMEM, "out of memory");
}

void osync__audit_run(osync__audit_t *a) {
    uv_timer_init(a->c.loop, &a->timer);
    a->timer.data = a;
    a->again = look_at_dest;
    uv_timer_start(&a->timer, on_again, 0, 0);
}

void osync__audit_cancel(osync__audit_t *a) {
    a->canceled = true;
    if (uv_is_active((uv_handle_t *)&a->timer)) uv_timer_start(&a->timer, on_again, 0, 0);
}

void osync__audit_free(osync__audit_t *a) {
    audit_clean(a);
}
