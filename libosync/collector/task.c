/* One partition: asks the table source where the files are, links them, has rows read on a worker (feed.c) and sends
 * them to its scheduler (send.c).
 *
 * Two lanes run side by side. The work lane, which is here, has at most one job on a pool at a time (link, open, fill a
 * pack, store what is committed), so that the reader and the links are never touched by two threads. The send lane has
 * at most one SendData under way. Between them are at most two packs. New binlog files are linked also while nobody
 * takes packs, since the tablet purges them whether they are read or not. Whatever ends a task waits until both lanes
 * are empty; nothing else is shared with other tasks. */
#include "collector/task.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/failpoint.h"
#include "base/sys.h"
#include "collector/links.h"
#include "collector/original.h"
#include "osync/table.h"

enum {
    BACKOFF_MIN_MS = 200,
    BACKOFF_MAX_MS = 5000,
    WATCHED_BEATS = 12, /* from look to look while the folder is watched, in heartbeats */
    MISSING_TRIES = 3,  /* in a row, that files the reader needs are gone */
    SCHEMA_TRIES = 10,  /* in a row, that the source's schema doesn't know a row's version */
};

static void pump(osync__task_t *t);

/* ---- small things ---- */

bool osync__task_is_original(const osync__task_t *t) {
    return !t->request->osync;
}

int osync__point_pack(osync__buf_t *to, const Openmldb__Datasync__SyncPoint *p) {
    size_t len = openmldb__datasync__sync_point__get_packed_size(p);
    to->len = 0;
    int rc = osync__buf_reserve(to, len);
    if (!rc) to->len = openmldb__datasync__sync_point__pack(p, to->data);
    return rc;
}

Openmldb__Datasync__SyncPoint *osync__point_unpack(const osync__buf_t *b) {
    return openmldb__datasync__sync_point__unpack(&osync__protobuf_allocator, b->len, b->data);
}

void osync__task_drop_packs(osync__task_t *t) {
    for (size_t i = 0; i < t->n_packs; i++) osync__pack_clear(&t->packs[i]);
    t->n_packs = 0;
    t->finished_read = false;
}

void osync__task_shift_packs(osync__task_t *t) {
    t->packs[0] = t->packs[1];
    t->packs[1] = (osync__pack_t){0};
    t->n_packs--;
}

uint32_t osync__task_longer(uint32_t delay) {
    if (delay < BACKOFF_MIN_MS) return BACKOFF_MIN_MS;
    return delay >= BACKOFF_MAX_MS / 2 ? BACKOFF_MAX_MS : delay * 2;
}

static const char *name_of(const osync__task_t *t, char out[32]) {
    (void)snprintf(out, 32, "task %u-%u", t->request->tid, t->request->pid);
    return out;
}

void osync__task_log(const osync__task_t *t, osync_log_level_t level, const char *fmt, ...) {
    char line[1400], name[32];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    osync__log(level, "collector: %s: %s", name_of(t, name), line);
}

void osync__task_note(const osync__task_t *t, osync_error_t *problem, const osync_error_t *err) {
    if (problem->code != err->code || strcmp(problem->message, err->message)) TASK_LOG(t, WARN, "%s", err->message);
    *problem = *err;
}

static void set_problem(osync__task_t *t, const osync_error_t *err) {
    osync__task_note(t, &t->problem, err);
}

static void clear(osync_error_t *problem) {
    *problem = (osync_error_t){0};
}

/* Where the next pack begins. */
static const osync__buf_t *end_of_packs(const osync__task_t *t) {
    const osync__buf_t *staged = osync__direct_end_point(t);
    return t->n_packs > 0 ? &t->packs[t->n_packs - 1].next : staged ? staged : &t->point;
}

/* It can't go on by itself. Links stay, but for the budget of disk space: a new hand-out may still need them. */
static void fail(osync__task_t *t, const osync_error_t *err) {
    TASK_LOG(t, ERROR, "failed: %s", err->message);
    t->problem = *err;
    t->failed = true;
    t->state = "failed";
    t->report_now = true;
}

void osync__task_set_cancel(osync__task_t *t, int cancel) {
    __atomic_store_n(&t->cancel, cancel, __ATOMIC_RELAXED);
}

static void back_off(osync__task_t *t) {
    t->delay = osync__task_longer(t->delay);
    t->wait_until = osync__mono_ms() + t->delay;
}

void osync__answer(osync__rpc_call_t *call, int code, const char *message) {
    Openmldb__Datasync__GeneralResponse r = OPENMLDB__DATASYNC__GENERAL_RESPONSE__INIT;
    osync__buf_t text = {0};
    r.has_code = 1;
    r.code = code;
    if (message && !osync__buf_append(&text, message, strlen(message) + 1)) r.msg = (char *)text.data;
    OSYNC__BEFORE(add_answer);
    osync__rpc_reply(call, &r.base);
    OSYNC__AFTER(add_answer);
    osync__buf_free(&text);
}

static void answer(osync__task_t *t, int code, const char *message) {
    if (!t->call) return;
    osync__answer(t->call, code, message);
    t->call = NULL;
}

/* ---- what others wait for ---- */

static void on_work_timer(uv_timer_t *timer) {
    pump(timer->data);
}

static void on_turn(void *arg) {
    osync__task_t *t = arg;
    t->served = true;
    t->room = t->reading.wanted;
    t->moved_at = osync__mono_ms();
    if (!t->busy) uv_timer_start(&t->work_timer, on_work_timer, 0, 0);
}

static void on_place(void *arg) {
    osync__task_t *t = arg;
    t->moved_at = osync__mono_ms();
    if (!t->busy) uv_timer_start(&t->work_timer, on_work_timer, 0, 0);
}

/* Whether it may read up to `room` bytes now; else `on_turn` tells. */
static bool may_read(osync__task_t *t, uint64_t room) {
    if (!t->served && !t->reading.waits && osync__budget_take(t->env->reading, &t->reading, room)) {
        t->served = true;
        t->room = room;
    }
    return t->served;
}

static bool may_open(osync__task_t *t) {
    return t->place.held > 0 || (!t->place.waits && osync__budget_take(t->env->traverses, &t->place, 1));
}

static void give_place(osync__task_t *t) {
    osync__budget_leave(t->env->traverses, &t->place);
    if (t->place.held > 0) osync__budget_give(t->env->traverses, &t->place, t->place.held);
}

/* The reader may have been closed, or have come to the snapshot's end. */
static void reader_changed(osync__task_t *t) {
    if (!t->feed.reader || !t->feed.progress.traversing) give_place(t);
}

/* It doesn't read now: it leaves the line, or gives its turn back. */
static void let_others_read(osync__task_t *t) {
    osync__budget_leave(t->env->reading, &t->reading);
    if (t->served) osync__budget_done(t->env->reading, &t->reading, 0, 0);
    t->served = false;
    t->room = 0;
}

/* What it holds is what its packs have become. */
static void settle(osync__task_t *t) {
    uint64_t due = t->room, held = t->reading.held;
    for (size_t i = 0; i < t->n_packs; i++) due += t->packs[i].rows.cap;
    due += osync__direct_memory(t);
    if (due > held) osync__budget_charge(t->env->reading, &t->reading, due - held);
    if (due < held) osync__budget_give(t->env->reading, &t->reading, held - due);
}

const char *osync__task_waits_for(const osync__task_t *t) {
    if (t->place.waits) return "as many snapshots are read now as --max_traverses allows: it waits for its turn";
    if (t->reading.waits && !t->feed.reader)
        return "others read now: it waits for its turn (--max_bytes_in_flight, --max_read_rate, --max_cpu_percent)";
    return NULL;
}

uint64_t osync__task_stalled(const osync__task_t *t, bool place) {
    uint64_t ms = osync__mono_ms() - t->moved_at;
    if (t->ending || t->busy) return 0;
    if (place) return t->place.held > 0 && !t->reading.waits ? ms : 0;
    /* What the scheduler has seen is sent again as it was: one of the original takes nothing else. */
    bool seen = t->sending || t->direct.sent || (osync__task_is_original(t) && t->n_packs > 0);
    return t->reading.held > 0 && !seen ? ms : 0;
}

void osync__task_yield(osync__task_t *t, bool place) {
    TASK_LOG(t, INFO, "nobody takes its rows, and others wait: %s",
             place ? "its snapshot is opened again later" : "they are read again later");
    if (!place) {
        osync__direct_void(t);
        osync__task_drop_packs(t);
    }
    t->discard = t->gave_way = true;
    pump(t);
}

/* ---- work lane: jobs ---- */

/* What this thread has read from files since it began. False: the system doesn't tell. */
static bool bytes_read(uint64_t *out) {
    char text[256];
    unsigned long long n = 0;
    int fd = open("/proc/thread-self/io", O_RDONLY | O_CLOEXEC);
    ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0) close(fd);
    if (len <= 0) return false;
    text[len] = 0;
    if (sscanf(text, "rchar: %llu", &n) != 1) return false;
    *out = n;
    return true;
}

static void on_work(osync__job_t *job) {
    osync__task_t *t = job->arg;
    uint64_t before = 0, after = 0;
    bool known = t->job_reads && t->env->config->max_read_rate > 0 && bytes_read(&before);
    t->job_rc = t->job_work(t, &t->job_err);
    t->read_bytes = known && bytes_read(&after) ? after - before : t->feed.pack.rows.len;
}

static void on_work_done(osync__job_t *job) {
    osync__task_t *t = job->arg;
    t->busy = false;
    if (t->job_reads) {
        t->served = false;
        t->room = 0;
        osync__budget_done(t->env->reading, &t->reading, t->read_bytes, job->cpu_ns);
    }
    t->link_files = t->feed.links.files;
    t->link_bytes = t->feed.links.bytes;
    t->pinned_bytes = t->feed.links.pinned;
    t->job_done(t, t->job_rc, &t->job_err);
    if (t->job_reads) reader_changed(t);
    pump(t);
}

static int open_work(osync__task_t *t, osync_error_t *err);
static int fill_work(osync__task_t *t, osync_error_t *err);

static void start_job_on(osync__pool_t *pool, osync__task_t *t, int (*work)(osync__task_t *, osync_error_t *),
                         void (*done)(osync__task_t *, int, osync_error_t *)) {
    t->busy = true;
    t->job_work = work;
    t->job_done = done;
    t->job_reads = work == open_work || work == fill_work;
    t->job_err = (osync_error_t){0};
    t->job = (osync__job_t){.work = on_work, .done = on_work_done, .arg = t};
    osync__pool_submit(pool, &t->job);
}

static void start_job(osync__task_t *t, int (*work)(osync__task_t *, osync_error_t *),
                      void (*done)(osync__task_t *, int, osync_error_t *)) {
    start_job_on(t->env->pool, t, work, done);
}

/* Serializes the request with `committed` as its sync point into job_bytes. */
static int make_progress(osync__task_t *t) {
    Openmldb__Datasync__SyncPoint *p = osync__point_unpack(&t->committed);
    int rc = OSYNC_ENOMEM;
    if (!p) return rc;
    t->request->sync_point = p;
    size_t len = openmldb__datasync__add_sync_task_request__get_packed_size(t->request);
    t->job_bytes.len = 0;
    rc = osync__buf_reserve(&t->job_bytes, len);
    if (!rc) t->job_bytes.len = openmldb__datasync__add_sync_task_request__pack(t->request, t->job_bytes.data);
    t->request->sync_point = NULL;
    openmldb__datasync__sync_point__free_unpacked(p, &osync__protobuf_allocator);
    return rc;
}

/* Drops links that the stored point (in job_bytes) doesn't need. */
static int release(osync__task_t *t, osync_error_t *err) {
    Openmldb__Datasync__AddSyncTaskRequest *r = openmldb__datasync__add_sync_task_request__unpack(
        &osync__protobuf_allocator, t->job_bytes.len, t->job_bytes.data);
    if (!r || !r->sync_point) {
        if (r) openmldb__datasync__add_sync_task_request__free_unpacked(r, &osync__protobuf_allocator);
        return osync__err(err, OSYNC_ENOMEM, "out of memory");
    }
    int rc = osync__links_release(&t->feed.links, r->sync_point, err);
    openmldb__datasync__add_sync_task_request__free_unpacked(r, &osync__protobuf_allocator);
    return rc;
}

static int commit_work(osync__task_t *t, osync_error_t *err) {
    int rc = osync__write_file(t->progress_path, t->job_bytes.data, t->job_bytes.len, err);
    return rc ? rc : release(t, err);
}

static void commit_done(osync__task_t *t, int rc, osync_error_t *err) {
    if (!rc) {
        clear(&t->commit_problem);
        return;
    }
    /* The older point that is stored still is a right one; only more is kept than needed. */
    osync__task_note(t, &t->commit_problem, err);
    t->want_commit = true;
    t->commit_at = osync__mono_ms() + BACKOFF_MAX_MS;
}

/* ---- set-up: TabletServer, links ---- */

static void setup_failed(osync__task_t *t, const osync_error_t *err) {
    if (t->call) {
        TASK_LOG(t, WARN, "not taken: %s", err->message);
        answer(t, -1, err->message);
        osync__task_end(t, false);
        return;
    }
    set_problem(t, err);
    back_off(t);
}

/* The table source's failure, and an answer that can't be used. */
static void source_failed(osync__task_t *t, const osync_error_t *err) {
    if (t->call || osync_err_retriable(err->code))
        setup_failed(t, err);
    else
        fail(t, err);
}

static void on_files(void *arg, int rc, osync_error_t *err) {
    osync__task_t *t = arg;
    if (t->ending) {
        pump(t);
        return;
    }
    if (rc) {
        source_failed(t, err);
    } else if (t->handed_out && !strchr(t->request->des_endpoint, ':')) {
        osync__err(err, OSYNC_EINVAL, "des_endpoint '%s' isn't host:port", t->request->des_endpoint);
        setup_failed(t, err);
    } else {
        osync__free(t->snapshot_source);
        osync__free(t->binlog_source);
        t->feed.links.snapshot_source = t->snapshot_source = t->ask.snapshot_dir;
        t->feed.links.binlog_source = t->binlog_source = t->ask.binlog_dir;
        t->ask.snapshot_dir = t->ask.binlog_dir = NULL;
        t->feed.memory = t->ask.memory;
        t->step = ASK_META;
    }
    pump(t);
}

static void on_meta(void *arg, int rc, osync_error_t *err) {
    osync__task_t *t = arg;
    if (!t->ending && rc) {
        source_failed(t, err);
    } else if (!t->ending) {
        osync_table_free(t->feed.table);
        t->feed.table = t->ask.table;
        t->ask.table = NULL;
        t->step = t->linked ? RUN : LINK;
    }
    pump(t);
}

static void ask_source(osync__task_t *t) {
    osync_error_t err = {0};
    osync_source_partition_t partition = {
        .tid = t->request->tid,
        .pid = t->request->pid,
        .tablet = t->request->tablet_endpoint ? t->request->tablet_endpoint : "",
    };
    int rc = t->step == ASK_FILES ? osync__ask_files(&t->ask, &partition, on_files, t, &err)
                                  : osync__ask_meta(&t->ask, &partition, on_meta, t, &err);
    if (rc && !t->ending) source_failed(t, &err);
}

/* True if the reader can tell that a log isn't the one that the point comes from. */
static bool verifiable(const Openmldb__Datasync__SyncPoint *p) {
    return p->has_last_crc || (p->n_ranges > 0 && p->ranges[0]->has_base_crc);
}

static int unlink_if_there(const char *path, osync_error_t *err) {
    return unlink(path) && errno != ENOENT ? osync__err_errno(err, errno, "unlink %s", path) : 0;
}

static int link_work(osync__task_t *t, osync_error_t *err) {
    Openmldb__Datasync__AddSyncTaskRequest *r = openmldb__datasync__add_sync_task_request__unpack(
        &osync__protobuf_allocator, t->job_bytes.len, t->job_bytes.data);
    if (!r) return osync__err(err, OSYNC_ENOMEM, "out of memory");
    const Openmldb__Datasync__SyncPoint *p = r->sync_point;
    bool traverses = p->type == OPENMLDB__DATASYNC__SYNC_TYPE__kSNAPSHOT;
    /* Of the task before this one, or of a hold. */
    bool had_progress = access(t->progress_path, F_OK) == 0 || access(t->hold_path, F_OK) == 0;
    int rc = 0;
    if (t->handed_out && t->fresh) {
        rc = osync__task_dir_remove(t->dir, err);
        had_progress = false;
    }
    if (!rc) rc = osync__task_dir_make(t->dir, err);
    if (!rc) rc = osync__rmtree(t->feed.scratch_dir, err); /* left by a process that was killed */
    t->feed.link_seen = osync__mono_ms();
    t->feed.links =
        (osync__links_t){.snapshot_source = t->snapshot_source, .binlog_source = t->binlog_source, .dir = t->dir};
    if (!rc && osync__original_inside(p)) rc = osync__original_check(&t->feed.links, t->progress_path, err);
    if (!rc) rc = osync__links_all(&t->feed.links, traverses, t->handed_out && (t->fresh || verifiable(p)), err);
    if (!rc) rc = osync__links_release(&t->feed.links, p, err);
    if (!rc && t->handed_out) rc = osync__write_file(t->progress_path, t->job_bytes.data, t->job_bytes.len, err);
    if (!rc) {
        OSYNC__BEFORE(hold_unlink);
        rc = unlink_if_there(t->hold_path, err);
        OSYNC__AFTER(hold_unlink);
    }
    if (rc && t->handed_out && !had_progress) (void)osync__rmtree(t->dir, NULL);
    openmldb__datasync__add_sync_task_request__free_unpacked(r, &osync__protobuf_allocator);
    return rc;
}

static void on_watch(uv_fs_event_t *watch, const char *name, int events, int status) {
    osync__task_t *t = watch->data;
    t->dirty = true;
    if (status || (events & UV_RENAME)) {
        t->want_files = true;
        uv_fs_event_stop(watch); /* the folder itself may have been replaced: it begins anew */
    }
    if (t->idle || t->want_files) pump(t);
}

static void start_watch(osync__task_t *t) {
    if (uv_is_active((uv_handle_t *)&t->watch)) return;
    int rc = uv_fs_event_start(&t->watch, on_watch, t->binlog_source, 0);
    if (rc && !t->watch_told)
        TASK_LOG(t, WARN, "can't watch %s (%s; see fs.inotify.max_user_watches): looking every %u ms instead",
                 t->binlog_source, uv_strerror(rc), t->env->config->heartbeat_ms);
    t->watch_told = rc != 0;
}

static void looked_at_source(osync__task_t *t) {
    t->want_files = false;
    t->poll_at = osync__mono_ms() + t->env->config->heartbeat_ms;
}

/* The log's end was met. What happens next is told, so that looking is for what may go unnoticed. */
static void look_rarely(osync__task_t *t) {
    if (!t->progress.traversing && uv_is_active((uv_handle_t *)&t->watch))
        t->poll_at = osync__mono_ms() + WATCHED_BEATS * (uint64_t)t->env->config->heartbeat_ms;
}

static int link_more_work(osync__task_t *t, osync_error_t *err) {
    int rc = osync__links_binlog(&t->feed.links, err);
    osync__links_measure(&t->feed.links);
    return rc;
}

/* The next pack, whose making looks for files too, decides what follows from an error. */
static void link_more_done(osync__task_t *t, int rc, osync_error_t *err) {
    if (rc)
        osync__task_note(t, &t->link_problem, err);
    else
        clear(&t->link_problem);
}

static int measure_work(osync__task_t *t, osync_error_t *err) {
    (void)err;
    osync__links_measure(&t->feed.links);
    return 0;
}

static void measure_done(osync__task_t *t, int rc, osync_error_t *err) {
    (void)t;
    (void)rc;
    (void)err;
}

static void link_done(osync__task_t *t, int rc, osync_error_t *err) {
    if (rc) {
        if (t->handed_out) {
            setup_failed(t, err);
        } else if (osync_err_retriable(rc) || rc == OSYNC_ENOENT) {
            set_problem(t, err);
            back_off(t);
            t->step = ASK_FILES; /* the table may be elsewhere by then */
        } else {
            fail(t, err);
        }
        return;
    }
    t->linked = true;
    t->step = RUN;
    t->delay = 0;
    clear(&t->problem);
    uv_fs_event_stop(&t->watch);
    start_watch(t);
    looked_at_source(t);
    if (!t->handed_out) return;
    t->handed_out = false; /* from here on it is as any stored one */
    t->ready = true;
    t->last_sent = osync__mono_ms();
    t->env->ready(t);
    answer(t, 0, NULL);
    TASK_LOG(t, INFO, "taken for %s: %llu files linked", t->request->des_endpoint, (unsigned long long)t->link_files);
    osync__task_send_next(t);
}

static void link_files(osync__task_t *t) {
    osync_error_t err = {0};
    if (make_progress(t)) {
        osync__err(&err, OSYNC_ENOMEM, "out of memory");
        setup_failed(t, &err);
        return;
    }
    start_job(t, link_work, link_done);
}

static void set_up(osync__task_t *t) {
    osync__partition_t *p = t->partition;
    if (t->ask.open) return;
    t->state = "linking";
    if (t->step != LINK)
        ask_source(t);
    else if (p->active && p->active != t)
        osync__task_end(p->active, false); /* ends first: its folder becomes this task's */
    else if (p->hold)
        osync__hold_end(p->hold, false, NULL); /* likewise */
    else
        link_files(t);
}

/* ---- work lane: reading ---- */

static int open_work(osync__task_t *t, osync_error_t *err) {
    return osync__feed_open(&t->feed, err);
}

static int fill_work(osync__task_t *t, osync_error_t *err) {
    return osync__feed_fill(&t->feed, err);
}

static int close_work(osync__task_t *t, osync_error_t *err) {
    (void)err;
    osync__feed_close(&t->feed);
    return 0;
}

static void close_done(osync__task_t *t, int rc, osync_error_t *err) {
    (void)rc;
    (void)err;
    reader_changed(t);
    t->discard = false;
    t->feed.rows_at_most = 0;
    t->idle = false;
    t->dirty = true;
}

static void schema_unknown(osync__task_t *t, const osync_error_t *err) {
    t->step = ASK_META;
    set_problem(t, err);
    if (t->unknown_schema > 1) back_off(t);
}

void osync__task_rows_failed(osync__task_t *t, osync_error_t *err) {
    if (t->ending || t->give_up || t->failed) return;
    if (err->code == OSYNC_ESCHEMA && t->step == RUN && t->unknown_schema++ < SCHEMA_TRIES)
        schema_unknown(t, err);
    else if (t->step == RUN)
        fail(t, err);
}

/* The reader is closed. */
static void read_failed(osync__task_t *t, int rc, osync_error_t *err) {
    if (t->ending || t->discard || t->give_up) return; /* what comes is decided elsewhere */
    if (rc == OSYNC_ESCHEMA && t->unknown_schema++ < SCHEMA_TRIES) {
        schema_unknown(t, err);
        return;
    }
    if (rc == OSYNC_ENOENT && t->missing++ < MISSING_TRIES) {
        t->step = ASK_FILES; /* the table may be elsewhere, or gone: the source knows */
        t->linked = false;
    } else if (rc == OSYNC_ESCHEMA || !osync_err_retriable(rc)) {
        fail(t, err);
        return;
    }
    set_problem(t, err);
    back_off(t);
}

static void open_done(osync__task_t *t, int rc, osync_error_t *err) {
    if (rc) {
        read_failed(t, rc, err);
        return;
    }
    if (t->feed.wait_ms > 0) {
        t->report_now = true;
        t->state = "waiting";
        t->wait_until = osync__mono_ms() + t->feed.wait_ms;
        return;
    }
    t->progress = t->feed.progress;
    t->idle = false;
    t->dirty = true;
}

static void fill_done(osync__task_t *t, int rc, osync_error_t *err) {
    osync__pack_t *p = &t->feed.pack;
    bool finished = t->feed.met_end && t->feed.full;
    if (rc || t->discard || t->give_up || t->ending) {
        uint64_t good = p->count;
        osync__pack_clear(p);
        if (rc && good > 0 && rc != OSYNC_ECANCELED && t->feed.rows_at_most != good)
            t->feed.rows_at_most = good; /* read again up to there, and send that before the error counts */
        else if (rc)
            read_failed(t, rc, err);
        return;
    }
    t->feed.rows_at_most = 0;
    t->moved_at = osync__mono_ms();
    t->delay = 0;
    t->missing = 0;
    if (!t->direct.grant) t->unknown_schema = 0; /* else only encoding tells */
    clear(&t->problem);
    clear(&t->link_problem);
    t->progress = t->feed.progress;
    t->state = t->progress.traversing ? "traversing" : "following";
    t->idle = t->feed.met_end;
    if (t->idle) look_rarely(t);
    /* No rows and no progress; or there must be more room first; or progress that an original scheduler doesn't expect,
     * in the middle of rows that are left out: the reader stands where it stands. */
    if (p->count == 0 && !finished &&
        (t->feed.needs > 0 || osync__buf_equal(&p->next, end_of_packs(t)) ||
         (osync__task_is_original(t) && !t->feed.met_end))) {
        osync__pack_clear(p);
        return;
    }
    p->finished = t->finished_read = finished;
    t->packs[t->n_packs++] = *p;
    *p = (osync__pack_t){0};
    osync__task_send_next(t);
}

/* ---- end ---- */

static void free_task(osync__task_t *t) {
    osync__task_drop_packs(t);
    osync__feed_free(&t->feed);
    osync__buf_free(&t->point);
    osync__buf_free(&t->committed);
    osync__buf_free(&t->job_bytes);
    osync__ask_clear(&t->ask);
    openmldb__datasync__add_sync_task_request__free_unpacked(t->request, &osync__protobuf_allocator);
    osync__free(t->give_up_why);
    osync__free(t->dir);
    osync__free(t->progress_path);
    osync__free(t->hold_path);
    osync__free(t->snapshot_source);
    osync__free(t->binlog_source);
    osync__free(t);
}

static void on_handle_closed(uv_handle_t *h) {
    osync__task_t *t = h->data;
    if (--t->open_handles > 0) return;
    t->env->ended(t, t->handed_out);
    free_task(t);
}

static int end_work(osync__task_t *t, osync_error_t *err) {
    osync__feed_close(&t->feed);
    if (!t->removed) return 0;
    return osync__task_dir_remove(t->dir, err);
}

static void end_done(osync__task_t *t, int rc, osync_error_t *err) {
    if (rc) TASK_LOG(t, ERROR, "its folder can't be removed: %s", err->message);
}

static void go_to_end(osync__task_t *t) {
    if (t->ask.open || t->sending || t->direct.stages > 0) return;
    if (!t->cleaned || t->removed != t->remove) {
        t->cleaned = true;
        t->removed = t->remove;
        if (t->feed.reader || t->remove) {
            start_job(t, end_work, end_done);
            return;
        }
    }
    osync__task_drop_packs(t);
    give_place(t);
    uv_handle_t *handles[] = {(uv_handle_t *)&t->work_timer, (uv_handle_t *)&t->send_timer, (uv_handle_t *)&t->watch};
    for (size_t i = 0; i < 3; i++)
        if (!uv_is_closing(handles[i])) uv_close(handles[i], on_handle_closed);
}

void osync__task_end(osync__task_t *t, bool remove) {
    t->remove |= remove;
    if (!t->ending) {
        t->ending = true;
        osync__task_set_cancel(t, 1);
        answer(t, -1, "the collector gives this task up: it is replaced by a newer one, or the collector is closing");
        uv_timer_stop(&t->work_timer);
        uv_timer_stop(&t->send_timer);
        uv_fs_event_stop(&t->watch);
        osync__ask_cancel(&t->ask);
        if (t->sending) osync__rpc_cancel(t->env->client, t->send_id);
        osync__direct_end(t);
    }
    pump(t);
}

/* ---- the budget of disk space ---- */

/* What of the log is still needed and can't be linked again; in `out`, after ": ". */
static void say_missing(const osync__task_t *t, char *out, size_t size) {
    osync_error_t err = {0};
    uint64_t first = 0, last = 0;
    Openmldb__Datasync__SyncPoint *p = osync__point_unpack(&t->feed.from);
    int rc = !p                            ? osync__err(&err, OSYNC_ENOMEM, "out of memory")
             : t->feed.links.binlog_source ? osync__links_missing(&t->feed.links, p, &first, &last, &err)
                                           : osync__err(&err, OSYNC_EAGAIN, "it hasn't answered yet");
    if (p) openmldb__datasync__sync_point__free_unpacked(p, &osync__protobuf_allocator);
    if (rc)
        (void)snprintf(out, size,
                       "`retry` goes on if the TabletServer still has the log that is needed (that can't be told now: "
                       "%.300s)",
                       err.message);
    else if (first == 0)
        (void)snprintf(out, size, "the TabletServer still has the log that is needed: `retry` goes on with it");
    else if (last == UINT64_MAX)
        (void)snprintf(out, size,
                       "the TabletServer's log is empty, and entries from %llu on are still needed: `retry` goes on if "
                       "they come back, else only `create --restart` helps, a re-sync from scratch",
                       (unsigned long long)first);
    else
        (void)snprintf(out, size,
                       "the TabletServer has purged entries %llu to %llu of the log, which are still needed: `retry` "
                       "goes on if they come back, else only `create --restart` helps, a re-sync from scratch",
                       (unsigned long long)first, (unsigned long long)last);
}

static int give_up_work(osync__task_t *t, osync_error_t *err) {
    char missing[700];
    osync__feed_close(&t->feed);
    say_missing(t, missing, sizeof missing);
    int rc = osync__links_drop(&t->feed.links, err);
    return rc ? rc : osync__err(err, OSYNC_ENOSPC, "%s", missing);
}

static void give_up_done(osync__task_t *t, int rc, osync_error_t *err) {
    osync_error_t reason = {0};
    t->give_up = t->discard = false;
    if (t->ending) return;
    t->gave_up = true;
    osync__err(&reason, rc, "%s: %s", t->give_up_why, err->message);
    osync__free(t->give_up_why);
    t->give_up_why = NULL;
    if (!t->sending) {
        osync__task_drop_packs(t);
        osync__direct_void(t);
    }
    fail(t, &reason);
}

uint64_t osync__task_pinned(const osync__task_t *t) {
    return t->pinned_bytes;
}

bool osync__task_give_up(osync__task_t *t, const char *why) {
    if (t->ending || t->give_up || t->gave_up || t->handed_out || t->partition->incoming) return false;
    t->give_up_why = osync__strdup(why);
    if (!t->give_up_why) return false; /* the next time */
    t->give_up = true;
    osync__task_set_cancel(t, 1);
    pump(t);
    return true;
}

/* ---- work lane: what comes next ---- */

/* A snapshot will be open. */
static bool will_traverse(const osync__task_t *t) {
    Openmldb__Datasync__SyncPoint *p = osync__point_unpack(end_of_packs(t));
    bool is = p && p->type == OPENMLDB__DATASYNC__SYNC_TYPE__kSNAPSHOT;
    if (p) openmldb__datasync__sync_point__free_unpacked(p, &osync__protobuf_allocator);
    return is;
}

/* False: there is nothing that it could read now; else it reads, or waits in line. */
static bool read_on(osync__task_t *t) {
    osync_error_t memory;
    if (t->n_packs == MAX_PACKS || t->finished_read || t->gave_way) return false;
    if (!t->feed.reader) {
        bool waited = t->place.waits;
        if (will_traverse(t) && !may_open(t)) {
            let_others_read(t);
            t->state = "waiting";
            t->report_now |= !waited;
            return true;
        }
        if (!may_read(t, 0)) {
            t->state = "waiting";
            return true;
        }
        const osync__buf_t *from = end_of_packs(t);
        if (osync__buf_set(&t->feed.from, from->data, from->len)) {
            osync__err(&memory, OSYNC_ENOMEM, "out of memory");
            set_problem(t, &memory);
            back_off(t);
            return false;
        }
        t->state = "replaying";
        osync__task_set_cancel(t, 0);
        looked_at_source(t);
        start_job_on(t->env->long_pool, t, open_work, open_done);
        return true;
    }
    if (t->idle && !t->dirty && !t->want_files) return false;
    uint64_t most = t->env->config->max_pack_size;
    if (!may_read(t, t->feed.needs > most ? t->feed.needs : most)) return true;
    t->feed.room = t->room;
    t->feed.look_for_files = t->want_files;
    if (t->want_files) looked_at_source(t);
    t->idle = t->dirty = false;
    start_job(t, fill_work, fill_done);
    return true;
}

static void work_on(osync__task_t *t) {
    uint64_t now = osync__mono_ms(), wake = UINT64_MAX;
    bool reads = false;
    if (t->ending) {
        let_others_read(t);
        reader_changed(t);
        go_to_end(t);
        return;
    }
    if (t->want_commit && t->step == RUN) {
        if (now >= t->commit_at && !make_progress(t)) {
            t->want_commit = false;
            start_job(t, commit_work, commit_done);
            return;
        }
        if (now >= t->commit_at) t->commit_at = now + BACKOFF_MAX_MS;
        wake = t->commit_at;
    }
    if (t->give_up && !t->ask.open) {
        t->feed.links.binlog_source = t->binlog_source;
        if (osync__buf_set(&t->feed.from, t->committed.data, t->committed.len)) t->feed.from.len = 0;
        start_job(t, give_up_work, give_up_done);
        return;
    }
    if (t->discard) {
        start_job(t, close_work, close_done);
        return;
    }
    if (t->step == RUN && !t->gave_up && now >= t->poll_at) t->dirty = t->want_files = true;
    if (t->step == RUN && !t->gave_up && t->want_files) start_watch(t);
    if (!t->failed && now >= t->wait_until) {
        if (t->step == RUN)
            reads = read_on(t);
        else
            set_up(t);
    }
    if (!reads) {
        let_others_read(t);
        reader_changed(t);
    }
    if (t->ending) { /* since the source was asked */
        if (!t->busy) go_to_end(t);
        return;
    }
    /* The budget wants to know. (An answer of the source changes what the job looks at.) */
    if (!t->busy && !t->ask.open && t->step != RUN && !t->handed_out && now >= t->poll_at) {
        t->poll_at = now + t->env->config->heartbeat_ms;
        start_job(t, measure_work, measure_done);
    }
    if (!t->busy && t->step == RUN && t->want_files && !t->gave_up) {
        /* Nothing can be read now, but the tablet may purge. */
        looked_at_source(t);
        start_job(t, link_more_work, link_more_done);
    }
    if (!t->busy) {
        if (!t->failed && t->wait_until > now && t->wait_until < wake) wake = t->wait_until;
        if (!t->handed_out && !t->gave_up && !t->ask.open && t->poll_at < wake) wake = t->poll_at;
        if (wake != UINT64_MAX) uv_timer_start(&t->work_timer, on_work_timer, wake > now ? wake - now : 0, 0);
    }
    if (t->report_now) osync__task_send_next(t);
}

/* Starts what the work lane has to do next, or sets the timer for it. */
static void pump(osync__task_t *t) {
    if (!t->busy) work_on(t);
    settle(t);
}

void osync__task_go_on(osync__task_t *task) {
    pump(task);
}

/* ---- the task ---- */

const char *osync__task_token(const osync__task_t *t) {
    return t->request->token ? t->request->token : "";
}

osync__partition_t *osync__task_partition(const osync__task_t *t) {
    return t->partition;
}

bool osync__task_replaceable(const osync__task_t *t) {
    return !t->ready && !t->busy && t->step != LINK;
}

static void show_point(const osync__buf_t *b, char *out, size_t size) {
    Openmldb__Datasync__SyncPoint *p = osync__point_unpack(b);
    if (!p)
        (void)snprintf(out, size, "?");
    else if (p->type == OPENMLDB__DATASYNC__SYNC_TYPE__kBINLOG)
        (void)snprintf(out, size, "log entry %llu", (unsigned long long)p->offset);
    else if (!p->has_pk && p->has_offset && p->snapshot_name)
        (void)snprintf(out, size, "snapshot %.32s at log entry %llu", p->snapshot_name, (unsigned long long)p->offset);
    else if (!p->has_pk)
        (void)snprintf(out, size, "the snapshot's beginning");
    else
        (void)snprintf(out, size, "snapshot %.32s at a key of %zu bytes, ts %llu",
                       p->snapshot_name ? p->snapshot_name : "?", p->pk.len, (unsigned long long)p->ts);
    if (p) openmldb__datasync__sync_point__free_unpacked(p, &osync__protobuf_allocator);
}

void osync__task_status(const osync__task_t *t, osync__task_status_t *out) {
    osync__stage_size_t staged = {0};
    if (t->direct.stage) osync__stage_size(t->direct.stage, &staged);
    const char *waits_for = osync__task_waits_for(t);
    *out = (osync__task_status_t){
        .tid = t->request->tid,
        .pid = t->request->pid,
        .state = t->state,
        .reason = t->problem.code          ? t->problem.message
                  : t->link_problem.code   ? t->link_problem.message
                  : t->commit_problem.code ? t->commit_problem.message
                  : t->send_problem.code   ? t->send_problem.message
                  : t->direct.problem.code ? t->direct.problem.message
                  : waits_for              ? waits_for
                                           : "",
        .scheduler = t->request->des_endpoint,
        .tablet = t->request->tablet_endpoint ? t->request->tablet_endpoint : "",
        .failed = t->failed,
        .direct = t->direct.grant != NULL,
        .rows_sent = t->rows_sent,
        .staged_rows = staged.rows,
        .staged_bytes = staged.bytes,
        .log_tail = t->progress.tail,
        .snapshot_rows = t->progress.snapshot_rows,
        .link_files = t->link_files,
        .link_bytes = t->link_bytes,
        .pinned_bytes = t->pinned_bytes,
    };
    show_point(&t->point, out->point, sizeof out->point);
    show_point(&t->committed, out->committed, sizeof out->committed);
}

char *osync__task_dir(const char *data_dir, uint64_t key) {
    return osync__format("%s/%u-%u", data_dir, (uint32_t)(key >> 32), (uint32_t)key);
}

/* Takes the sync point out of the request into the task's own. */
static int take_point(osync__task_t *t) {
    Openmldb__Datasync__SyncPoint *p = t->request->sync_point, beginning = OPENMLDB__DATASYNC__SYNC_POINT__INIT;
    beginning.type = OPENMLDB__DATASYNC__SYNC_TYPE__kSNAPSHOT;
    if (!p) p = &beginning;
    t->fresh = p->type == OPENMLDB__DATASYNC__SYNC_TYPE__kSNAPSHOT && !p->has_pk && p->n_ranges == 0;
    int rc = osync__point_pack(&t->committed, p);
    if (!rc) rc = osync__buf_set(&t->point, t->committed.data, t->committed.len);
    if (t->request->sync_point)
        openmldb__datasync__sync_point__free_unpacked(t->request->sync_point, &osync__protobuf_allocator);
    t->request->sync_point = NULL;
    if (!t->request->des_endpoint) t->request->des_endpoint = osync__strdup("");
    return rc || !t->request->des_endpoint ? OSYNC_ENOMEM : 0;
}

int osync__task_new(osync__task_t **out, const osync__task_env_t *env, osync__partition_t *partition,
                    Openmldb__Datasync__AddSyncTaskRequest *request, osync__rpc_call_t *call, osync_error_t *err) {
    osync__task_t *t = osync__calloc(1, sizeof *t);
    if (!t) {
        openmldb__datasync__add_sync_task_request__free_unpacked(request, &osync__protobuf_allocator);
        return osync__err(err, OSYNC_ENOMEM, "out of memory");
    }
    t->env = env;
    t->partition = partition;
    t->request = request;
    t->ask.source = env->source;
    t->handed_out = call != NULL;
    t->ready = !t->handed_out;
    t->report_now = t->ready; /* a stored task tells its scheduler at once that it is there */
    t->state = "linking";
    osync__random_hex(t->direct.stager, OSYNC__ID_BYTES);
    int rc = take_point(t);
    t->dir = osync__task_dir(env->config->data_dir, partition->key);
    if (t->dir) {
        t->progress_path = osync__format("%s/%s", t->dir, OSYNC__TASK_PROGRESS);
        t->hold_path = osync__format("%s/%s", t->dir, OSYNC__HOLD_PROGRESS);
        rc = rc ? rc : osync__feed_init(&t->feed, env->config, t->dir, &t->cancel);
    }
    if (rc || !t->dir || !t->progress_path || !t->hold_path) {
        free_task(t);
        return osync__err(err, OSYNC_ENOMEM, "out of memory");
    }
    t->feed.full = request->mode == OPENMLDB__DATASYNC__SYNC_MODE__kFull;
    if (request->mode == OPENMLDB__DATASYNC__SYNC_MODE__kIncrementalByTimestamp) t->feed.start_ts = request->start_ts;
    t->feed.token_len = strlen(osync__task_token(t));
    t->reading = (osync__holder_t){.turn = on_turn, .arg = t};
    t->place = (osync__holder_t){.turn = on_place, .arg = t};
    uv_timer_init(env->loop, &t->work_timer);
    uv_timer_init(env->loop, &t->send_timer);
    uv_fs_event_init(env->loop, &t->watch);
    t->work_timer.data = t->send_timer.data = t->watch.data = t;
    t->open_handles = 3;
    t->call = call;
    *out = t;
    return 0;
}
