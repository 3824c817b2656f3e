/* One partition: asks the table source where the files are, links them, has rows read on a worker (feed.c) and sends
 * them to its scheduler.
 *
 * Two lanes run side by side. The work lane has at most one job on a pool at a time (link, open, fill a pack, store
 * what is committed), so that the reader and the links are never touched by two threads. The send lane has at most one
 * SendData under way. Between them are at most two packs. New binlog files are linked also while nobody takes packs,
 * since the tablet purges them whether they are read or not. Whatever ends a task waits until both lanes are empty;
 * nothing else is shared with other tasks. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/failpoint.h"
#include "base/sys.h"
#include "collector/ask.h"
#include "collector/feed.h"
#include "collector/internal.h"
#include "collector/links.h"
#include "collector/original.h"
#include "osync/reader.h"
#include "osync/table.h"

enum {
    MAX_PACKS = 2,
    BACKOFF_MIN_MS = 200,
    BACKOFF_MAX_MS = 5000,
    MISSING_TRIES = 3, /* in a row, that files the reader needs are gone */
    SCHEMA_TRIES = 10, /* in a row, that the source's schema doesn't know a row's version */
};

typedef enum stage { ASK_FILES, ASK_META, LINK, RUN } stage_t;

struct osync__task {
    const osync__task_env_t *env;
    osync__partition_t *partition;
    Openmldb__Datasync__AddSyncTaskRequest *request; /* sync_point is set only while it is being stored */
    osync__rpc_call_t *call;                         /* AddSyncTask that waits for its answer */
    bool handed_out;                                 /* by AddSyncTask, in contrast to a stored one */
    bool fresh;                                      /* starts at the beginning: nothing in the folder is of use */
    bool ready;                                      /* takes part in sending */
    bool linked;
    char *dir, *progress_path, *hold_path;
    char *snapshot_source, *binlog_source;
    osync__ask_t ask;

    stage_t stage;
    const char *state;
    osync_error_t problem;        /* of the work lane; code 0: none */
    osync_error_t link_problem;   /* of linking while nothing is read */
    osync_error_t commit_problem; /* of storing what is committed */
    osync_error_t send_problem;   /* of the send lane */
    bool failed;
    bool give_up; /* the links are to go; why: */
    char *give_up_why;
    bool gave_up; /* they have gone, and nothing is linked any more */

    /* serialized SyncPoints */
    osync__buf_t point;     /* accepted by the scheduler */
    osync__buf_t committed; /* stored in task.progress, or about to be */
    bool want_commit;

    /* work lane */
    osync__job_t job;
    void (*job_done)(osync__task_t *t, int rc, osync_error_t *err);
    int (*job_work)(osync__task_t *t, osync_error_t *err);
    int job_rc;
    osync_error_t job_err;
    bool busy;
    volatile int cancel;
    uv_timer_t work_timer;
    uint64_t wait_until, commit_at; /* monotonic ms; 0: now */
    uint64_t poll_at;            /* a change of the tablet's files may go unnoticed: then they are looked at anyway */
    uint32_t delay;              /* last backoff */
    int missing, unknown_schema; /* in a row */
    uv_fs_event_t watch;
    bool watch_told;
    bool idle;          /* the log's end was met */
    bool dirty;         /* something has changed since: look again */
    bool want_files;    /* there may be new files to link */
    bool finished_read; /* the pack that ends a full sync is made */
    bool discard;       /* the reader, and what is being read, is of no use any more */

    /* of the job under way; the loop's thread leaves them alone while busy */
    osync__feed_t feed;
    osync__buf_t job_bytes; /* what task.progress is to hold */

    /* send lane */
    osync__pack_t packs[MAX_PACKS];
    size_t n_packs;
    uv_timer_t send_timer;
    uint64_t send_id;
    bool sending;   /* a call is open */
    bool pack_sent; /* the open SendData carries packs[0] */
    bool report_now;
    uint64_t send_at, last_sent;
    uint32_t send_delay;
    uint64_t rows_sent;
    osync_reader_progress_t progress;
    uint64_t link_files, link_bytes, pinned_bytes;

    /* end */
    bool ending, remove, cleaned, removed;
    unsigned open_handles;
};

static void pump(osync__task_t *t);
static void send_next(osync__task_t *t);

/* ---- small things ---- */

static bool is_original(const osync__task_t *t) {
    return !t->request->osync;
}

static bool same(const osync__buf_t *a, const osync__buf_t *b) {
    return a->len == b->len && (a->len == 0 || !memcmp(a->data, b->data, a->len));
}

static int assign(osync__buf_t *to, const void *data, size_t len) {
    to->len = 0;
    return osync__buf_append(to, data, len);
}

static int pack_point(osync__buf_t *to, const Openmldb__Datasync__SyncPoint *p) {
    size_t len = openmldb__datasync__sync_point__get_packed_size(p);
    to->len = 0;
    int rc = osync__buf_reserve(to, len);
    if (!rc) to->len = openmldb__datasync__sync_point__pack(p, to->data);
    return rc;
}

static Openmldb__Datasync__SyncPoint *unpack_point(const osync__buf_t *b) {
    return openmldb__datasync__sync_point__unpack(&osync__protobuf_allocator, b->len, b->data);
}

static void move(osync__buf_t *to, osync__buf_t *from) {
    osync__buf_free(to);
    *to = *from;
    *from = (osync__buf_t){0};
}

static void drop_packs(osync__task_t *t) {
    for (size_t i = 0; i < t->n_packs; i++) osync__pack_clear(&t->packs[i]);
    t->n_packs = 0;
    t->finished_read = false;
}

static uint32_t longer(uint32_t delay) {
    if (delay < BACKOFF_MIN_MS) return BACKOFF_MIN_MS;
    return delay >= BACKOFF_MAX_MS / 2 ? BACKOFF_MAX_MS : delay * 2;
}

static const char *name_of(const osync__task_t *t, char out[32]) {
    (void)snprintf(out, 32, "task %u-%u", t->request->tid, t->request->pid);
    return out;
}

#define LOG(t, level, ...) log_task(t, OSYNC_LOG_##level, __VA_ARGS__)
static void log_task(const osync__task_t *t, osync_log_level_t level, const char *fmt, ...) OSYNC_PRINTF(3, 4);
static void log_task(const osync__task_t *t, osync_log_level_t level, const char *fmt, ...) {
    char line[1400], name[32];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    osync__log(level, "collector: %s: %s", name_of(t, name), line);
}

/* A fault that mends itself or not; logged when it is a new one. */
static void note(const osync__task_t *t, osync_error_t *problem, const osync_error_t *err) {
    if (problem->code != err->code || strcmp(problem->message, err->message)) LOG(t, WARN, "%s", err->message);
    *problem = *err;
}

static void set_problem(osync__task_t *t, const osync_error_t *err) {
    note(t, &t->problem, err);
}

static void clear(osync_error_t *problem) {
    *problem = (osync_error_t){0};
}

/* Where the next pack begins. */
static const osync__buf_t *end_of_packs(const osync__task_t *t) {
    return t->n_packs > 0 ? &t->packs[t->n_packs - 1].next : &t->point;
}

/* It can't go on by itself. Links stay, but for the budget of disk space: a new hand-out may still need them. */
static void fail(osync__task_t *t, const osync_error_t *err) {
    LOG(t, ERROR, "failed: %s", err->message);
    t->problem = *err;
    t->failed = true;
    t->state = "failed";
    t->report_now = true;
}

/* The reader looks at it from a worker. */
static void set_cancel(osync__task_t *t, int cancel) {
    __atomic_store_n(&t->cancel, cancel, __ATOMIC_RELAXED);
}

static void back_off(osync__task_t *t) {
    t->delay = longer(t->delay);
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

/* ---- work lane: jobs ---- */

static void on_work(osync__job_t *job) {
    osync__task_t *t = job->arg;
    t->job_rc = t->job_work(t, &t->job_err);
}

static void on_work_done(osync__job_t *job) {
    osync__task_t *t = job->arg;
    t->busy = false;
    t->link_files = t->feed.links.files;
    t->link_bytes = t->feed.links.bytes;
    t->pinned_bytes = t->feed.links.pinned;
    t->job_done(t, t->job_rc, &t->job_err);
    pump(t);
}

static void start_job_on(osync__pool_t *pool, osync__task_t *t, int (*work)(osync__task_t *, osync_error_t *),
                         void (*done)(osync__task_t *, int, osync_error_t *)) {
    t->busy = true;
    t->job_work = work;
    t->job_done = done;
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
    Openmldb__Datasync__SyncPoint *p = unpack_point(&t->committed);
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
    note(t, &t->commit_problem, err);
    t->want_commit = true;
    t->commit_at = osync__mono_ms() + BACKOFF_MAX_MS;
}

/* ---- set-up: TabletServer, links ---- */

static void setup_failed(osync__task_t *t, const osync_error_t *err) {
    if (t->call) {
        LOG(t, WARN, "not taken: %s", err->message);
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
        t->stage = ASK_META;
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
        t->stage = t->linked ? RUN : LINK;
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
    int rc = t->stage == ASK_FILES ? osync__ask_files(&t->ask, &partition, on_files, t, &err)
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
    if (status || (events & UV_RENAME)) t->want_files = true;
    if (t->idle || t->want_files) pump(t);
}

static void start_watch(osync__task_t *t) {
    if (uv_is_active((uv_handle_t *)&t->watch)) return;
    int rc = uv_fs_event_start(&t->watch, on_watch, t->binlog_source, 0);
    if (rc && !t->watch_told)
        LOG(t, WARN, "can't watch %s (%s; see fs.inotify.max_user_watches): looking every %u ms instead",
            t->binlog_source, uv_strerror(rc), t->env->config->heartbeat_ms);
    t->watch_told = rc != 0;
}

static void looked_at_source(osync__task_t *t) {
    t->want_files = false;
    t->poll_at = osync__mono_ms() + t->env->config->heartbeat_ms;
}

static int link_more_work(osync__task_t *t, osync_error_t *err) {
    int rc = osync__links_binlog(&t->feed.links, err);
    osync__links_measure(&t->feed.links);
    return rc;
}

/* The next pack, whose making looks for files too, decides what follows from an error. */
static void link_more_done(osync__task_t *t, int rc, osync_error_t *err) {
    if (rc)
        note(t, &t->link_problem, err);
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
            t->stage = ASK_FILES; /* the table may be elsewhere by then */
        } else {
            fail(t, err);
        }
        return;
    }
    t->linked = true;
    t->stage = RUN;
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
    LOG(t, INFO, "taken for %s: %llu files linked", t->request->des_endpoint, (unsigned long long)t->link_files);
    send_next(t);
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
    if (t->stage != LINK)
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
    t->discard = false;
    t->feed.rows_at_most = 0;
    t->idle = false;
    t->dirty = true;
}

/* The reader is closed. */
static void read_failed(osync__task_t *t, int rc, osync_error_t *err) {
    if (t->ending || t->discard || t->give_up) return; /* what comes is decided elsewhere */
    if (rc == OSYNC_ESCHEMA && t->unknown_schema++ < SCHEMA_TRIES) {
        t->stage = ASK_META;
        set_problem(t, err);
        if (t->unknown_schema > 1) back_off(t);
        return;
    }
    if (rc == OSYNC_ENOENT && t->missing++ < MISSING_TRIES) {
        t->stage = ASK_FILES; /* the table may be elsewhere, or gone: the source knows */
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
    t->delay = 0;
    t->missing = t->unknown_schema = 0;
    clear(&t->problem);
    clear(&t->link_problem);
    t->progress = t->feed.progress;
    t->state = t->progress.traversing ? "traversing" : "following";
    t->idle = t->feed.met_end;
    /* No rows and no progress; or progress that an original scheduler doesn't expect, in the middle of rows that are
     * left out: the reader stands where it stands. */
    if (p->count == 0 && !finished && (same(&p->next, end_of_packs(t)) || (is_original(t) && !t->feed.met_end))) {
        osync__pack_clear(p);
        return;
    }
    p->finished = t->finished_read = finished;
    t->packs[t->n_packs++] = *p;
    *p = (osync__pack_t){0};
    send_next(t);
}

/* ---- end ---- */

static void free_task(osync__task_t *t) {
    drop_packs(t);
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
    if (rc) LOG(t, ERROR, "its folder can't be removed: %s", err->message);
}

static void go_to_end(osync__task_t *t) {
    if (t->ask.open || t->sending) return;
    if (!t->cleaned || t->removed != t->remove) {
        t->cleaned = true;
        t->removed = t->remove;
        if (t->feed.reader || t->remove) {
            start_job(t, end_work, end_done);
            return;
        }
    }
    uv_handle_t *handles[] = {(uv_handle_t *)&t->work_timer, (uv_handle_t *)&t->send_timer, (uv_handle_t *)&t->watch};
    for (size_t i = 0; i < 3; i++)
        if (!uv_is_closing(handles[i])) uv_close(handles[i], on_handle_closed);
}

void osync__task_end(osync__task_t *t, bool remove) {
    t->remove |= remove;
    if (!t->ending) {
        t->ending = true;
        set_cancel(t, 1);
        answer(t, -1, "the collector gives this task up: it is replaced by a newer one, or the collector is closing");
        uv_timer_stop(&t->work_timer);
        uv_timer_stop(&t->send_timer);
        uv_fs_event_stop(&t->watch);
        osync__ask_cancel(&t->ask);
        if (t->sending) osync__rpc_cancel(t->env->client, t->send_id);
    }
    pump(t);
}

/* ---- the budget of disk space ---- */

/* What of the log is still needed and can't be linked again; in `out`, after ": ". */
static void say_missing(const osync__task_t *t, char *out, size_t size) {
    osync_error_t err = {0};
    uint64_t first = 0, last = 0;
    Openmldb__Datasync__SyncPoint *p = unpack_point(&t->feed.from);
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
    if (!t->sending) drop_packs(t);
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
    set_cancel(t, 1);
    pump(t);
    return true;
}

/* ---- work lane: what comes next ---- */

static void on_work_timer(uv_timer_t *timer) {
    pump(timer->data);
}

static void read_on(osync__task_t *t) {
    osync_error_t memory;
    if (t->n_packs == MAX_PACKS || t->finished_read) return;
    if (!t->feed.reader) {
        const osync__buf_t *from = end_of_packs(t);
        if (assign(&t->feed.from, from->data, from->len)) {
            osync__err(&memory, OSYNC_ENOMEM, "out of memory");
            set_problem(t, &memory);
            back_off(t);
            return;
        }
        t->state = "replaying";
        set_cancel(t, 0);
        looked_at_source(t);
        start_job_on(t->env->long_pool, t, open_work, open_done);
        return;
    }
    if (t->idle && !t->dirty && !t->want_files) return;
    t->feed.look_for_files = t->want_files;
    if (t->want_files) looked_at_source(t);
    t->idle = t->dirty = false;
    start_job(t, fill_work, fill_done);
}

/* Starts what the work lane has to do next, or sets the timer for it. */
static void pump(osync__task_t *t) {
    uint64_t now = osync__mono_ms(), wake = UINT64_MAX;
    if (t->busy) return;
    if (t->ending) {
        go_to_end(t);
        return;
    }
    if (t->want_commit && t->stage == RUN) {
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
        if (assign(&t->feed.from, t->committed.data, t->committed.len)) t->feed.from.len = 0;
        start_job(t, give_up_work, give_up_done);
        return;
    }
    if (t->discard) {
        start_job(t, close_work, close_done);
        return;
    }
    if (t->stage == RUN && !t->gave_up && now >= t->poll_at) {
        t->dirty = t->want_files = true;
        start_watch(t);
    }
    if (!t->failed && now >= t->wait_until) {
        if (t->stage == RUN)
            read_on(t);
        else
            set_up(t);
    }
    if (t->ending) { /* since the source was asked */
        if (!t->busy) go_to_end(t);
        return;
    }
    /* The budget wants to know. (An answer of the source changes what the job looks at.) */
    if (!t->busy && !t->ask.open && t->stage != RUN && !t->handed_out && now >= t->poll_at) {
        t->poll_at = now + t->env->config->heartbeat_ms;
        start_job(t, measure_work, measure_done);
    }
    if (!t->busy && t->stage == RUN && t->want_files && !t->gave_up) {
        /* Nothing can be read now, but the tablet may purge. */
        looked_at_source(t);
        start_job(t, link_more_work, link_more_done);
    }
    if (!t->busy) {
        if (!t->failed && t->wait_until > now && t->wait_until < wake) wake = t->wait_until;
        if (!t->handed_out && !t->gave_up && !t->ask.open && t->poll_at < wake) wake = t->poll_at;
        if (wake != UINT64_MAX) uv_timer_start(&t->work_timer, on_work_timer, wake > now ? wake - now : 0, 0);
    }
    if (t->report_now) send_next(t);
}

void osync__task_go_on(osync__task_t *task) {
    pump(task);
}

/* ---- send lane ---- */

static void on_send_timer(uv_timer_t *timer) {
    send_next(timer->data);
}

static void accept_pack(osync__task_t *t) {
    osync__pack_t *p = &t->packs[0];
    t->rows_sent += p->count;
    move(&t->point, &p->next);
    osync__pack_clear(p);
    t->packs[0] = t->packs[1];
    t->packs[1] = (osync__pack_t){0};
    t->n_packs--;
}

static void set_committed(osync__task_t *t, const osync__buf_t *point) {
    if (same(point, &t->committed)) return;
    if (assign(&t->committed, point->data, point->len)) return; /* it will be told again */
    t->want_commit = true;
    t->commit_at = 0;
}

static void rewind_to(osync__task_t *t, const osync__buf_t *point) {
    if (assign(&t->point, point->data, point->len)) return; /* it will be told again */
    LOG(t, INFO, "the scheduler wants the rows again from an earlier point");
    drop_packs(t);
    t->discard = true;
    set_cancel(t, 1);
}

/* An answer came. Returns true if the same request must be sent again after a while. */
static bool take_answer(osync__task_t *t, const Openmldb__Datasync__SendDataResponse *r) {
    osync__buf_t point = {0};
    bool again = false;
    int code = r->response->code;
    if (r->delete_task) {
        /* A reply to a task that was replaced never comes here: its call was canceled. While a newer one is being set
         * up, the folder is that one's. */
        LOG(t, INFO, "deleted by the scheduler: %s", r->response->msg ? r->response->msg : "no reason given");
        osync__task_end(t, !t->partition->incoming);
        return false;
    }
    /* A collector of the original that had this task before may not have kept the word of it. */
    if (r->committed_point || r->resume_point) t->request->has_osync = t->request->osync = 1;
    if (r->committed_point && !pack_point(&point, r->committed_point)) set_committed(t, &point);
    if (r->resume_point) {
        if (!pack_point(&point, r->resume_point)) rewind_to(t, &point);
    } else if (code != 0) {
        osync_error_t err;
        osync__err(&err, OSYNC_EAGAIN, "the scheduler %s doesn't take data now: %s", t->request->des_endpoint,
                   r->response->msg ? r->response->msg : "no reason given");
        note(t, &t->send_problem, &err);
        again = true;
    } else if (t->pack_sent) {
        bool finished = t->packs[0].finished;
        if (is_original(t)) set_committed(t, &t->packs[0].next);
        accept_pack(t);
        if (finished) {
            LOG(t, INFO, "finished: %llu rows", (unsigned long long)t->rows_sent);
            osync__task_end(t, !t->partition->incoming);
        }
    }
    osync__buf_free(&point);
    return again;
}

static void on_sent(void *arg, int status, const ProtobufCMessage *message, const osync_error_t *rpc_err) {
    osync__task_t *t = arg;
    OSYNC__AFTER(send_data);
    t->sending = false;
    if (t->ending) {
        pump(t);
        return;
    }
    bool again = true;
    if (status) {
        osync_error_t err;
        osync__err_wrap(&err, rpc_err, "SendData to the scheduler %s", t->request->des_endpoint);
        note(t, &t->send_problem, &err);
    } else {
        again = take_answer(t, (const Openmldb__Datasync__SendDataResponse *)(const void *)message);
    }
    if (t->ending) return;
    if (t->gave_up) drop_packs(t); /* so that what is sent next says so */
    if (again) {
        t->send_delay = longer(t->send_delay);
        t->send_at = osync__mono_ms() + t->send_delay;
    } else {
        t->send_delay = 0;
        t->send_at = 0;
        clear(&t->send_problem);
    }
    send_next(t);
    pump(t);
}

static void report_reason(const osync__task_t *t, char *out, size_t size) {
    uint64_t now = osync__mono_ms();
    const osync_error_t *problem = t->problem.code        ? &t->problem
                                   : t->link_problem.code ? &t->link_problem
                                                          : &t->commit_problem;
    if (problem->code)
        (void)snprintf(out, size, "%s", problem->message);
    else if (!strcmp(t->state, "waiting"))
        (void)snprintf(out, size,
                       "the snapshot is too young to be read: everything that was put before it must be in the log; "
                       "waits %llu s more",
                       (unsigned long long)(t->wait_until > now ? (t->wait_until - now + 999) / 1000 : 0));
    else
        out[0] = 0;
}

static void send_request(osync__task_t *t, const osync__pack_t *p) {
    osync_error_t err = {0};
    char reason[sizeof t->problem.message], state[16], token[1] = "";
    Openmldb__Datasync__SendDataRequest r = OPENMLDB__DATASYNC__SEND_DATA_REQUEST__INIT;
    Openmldb__Datasync__CollectorReport report = OPENMLDB__DATASYNC__COLLECTOR_REPORT__INIT;
    r.start_point = unpack_point(&t->point);
    r.next_point = unpack_point(p ? &p->next : &t->point);
    int rc = OSYNC_ENOMEM;
    if (r.start_point && r.next_point) {
        report_reason(t, reason, sizeof reason);
        (void)snprintf(state, sizeof state, "%s", t->state);
        report.state = state;
        if (reason[0]) report.reason = reason;
        report.has_failed = 1;
        report.failed = t->failed && !p; /* rows that were read before it are good */
        report.has_snapshot_rows = report.has_log_tail = 1;
        report.snapshot_rows = t->progress.snapshot_rows;
        report.log_tail = t->progress.tail;
        r.has_tid = r.has_pid = r.has_count = r.has_finished = 1;
        r.tid = t->request->tid;
        r.pid = t->request->pid;
        r.count = p ? p->count : 0;
        r.finished = p && p->finished;
        r.token = t->request->token ? t->request->token : token;
        r.report = &report;
        OSYNC__BEFORE(send_data);
        rc = osync__rpc_call(t->env->client, t->request->des_endpoint, "openmldb.datasync.SyncTool", "SendData",
                             &r.base, p ? p->rows.data : NULL, p ? p->rows.len : 0,
                             &openmldb__datasync__send_data_response__descriptor, t->env->config->request_timeout_ms,
                             on_sent, t, &t->send_id, &err);
    } else {
        osync__err(&err, rc, "out of memory");
    }
    if (r.start_point) openmldb__datasync__sync_point__free_unpacked(r.start_point, &osync__protobuf_allocator);
    if (r.next_point) openmldb__datasync__sync_point__free_unpacked(r.next_point, &osync__protobuf_allocator);
    t->last_sent = osync__mono_ms();
    if (!p) t->report_now = false;
    if (rc) {
        osync__err_wrap(&err, &err, "SendData to the scheduler %s", t->request->des_endpoint);
        note(t, &t->send_problem, &err);
        t->send_delay = longer(t->send_delay);
        t->send_at = osync__mono_ms() + t->send_delay;
        uv_timer_start(&t->send_timer, on_send_timer, t->send_delay, 0);
        return;
    }
    t->sending = true;
    t->pack_sent = p != NULL;
}

static void send_next(osync__task_t *t) {
    if (t->ending || t->sending || !t->ready) return;
    uint64_t now = osync__mono_ms();
    uint64_t due = t->last_sent + t->env->config->heartbeat_ms;
    if (t->n_packs > 0 || t->report_now) due = now;
    if (due < t->send_at) due = t->send_at;
    if (now < due)
        uv_timer_start(&t->send_timer, on_send_timer, due - now, 0);
    else
        send_request(t, t->n_packs > 0 ? &t->packs[0] : NULL);
}

/* ---- the task ---- */

const char *osync__task_token(const osync__task_t *t) {
    return t->request->token ? t->request->token : "";
}

osync__partition_t *osync__task_partition(const osync__task_t *t) {
    return t->partition;
}

bool osync__task_replaceable(const osync__task_t *t) {
    return !t->ready && !t->busy && t->stage != LINK;
}

static void show_point(const osync__buf_t *b, char *out, size_t size) {
    Openmldb__Datasync__SyncPoint *p = unpack_point(b);
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
    *out = (osync__task_status_t){
        .tid = t->request->tid,
        .pid = t->request->pid,
        .state = t->state,
        .reason = t->problem.code          ? t->problem.message
                  : t->link_problem.code   ? t->link_problem.message
                  : t->commit_problem.code ? t->commit_problem.message
                  : t->send_problem.code   ? t->send_problem.message
                                           : "",
        .scheduler = t->request->des_endpoint,
        .tablet = t->request->tablet_endpoint ? t->request->tablet_endpoint : "",
        .failed = t->failed,
        .rows_sent = t->rows_sent,
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
    int rc = pack_point(&t->committed, p);
    if (!rc) rc = assign(&t->point, t->committed.data, t->committed.len);
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
    uv_timer_init(env->loop, &t->work_timer);
    uv_timer_init(env->loop, &t->send_timer);
    uv_fs_event_init(env->loop, &t->watch);
    t->work_timer.data = t->send_timer.data = t->watch.data = t;
    t->open_handles = 3;
    t->call = call;
    *out = t;
    return 0;
}
