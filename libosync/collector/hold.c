/* One partition beside a follower: its log is linked, so that it is still there if the leader moves here and the
 * TabletServer has purged it by then. No snapshot, no reading of rows, and no promise: a hold is given up first when
 * the disk fills.
 *
 * It lives as long as a scheduler asks for it again and again, and survives a restart. Its folder is the one that a
 * task of the partition has, so that a hand-out finds the links there. One thing is under way at a time: a question
 * to the table source, or a job on the pool. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/failpoint.h"
#include "base/sys.h"
#include "collector/ask.h"
#include "collector/internal.h"
#include "collector/links.h"

struct osync__hold {
    const osync__task_env_t *env;
    osync__partition_t *partition;
    Openmldb__Datasync__HoldLogRequest *request;
    osync__rpc_call_t *call; /* HoldLog that waits for its answer */
    char *dir, *progress_path, *binlog_source;
    uint64_t refreshed; /* monotonic ms */
    uint64_t expire_ms; /* after `refreshed` */
    uint64_t check_at;
    uv_timer_t timer;
    osync_error_t problem; /* code 0: none */
    osync__ask_t question;
    bool ask;      /* where the files are */
    bool unstored; /* a HoldLog came since hold.progress was written */
    bool busy;
    bool ending, remove, removed;

    osync__job_t job;
    int job_rc;
    osync_error_t job_err;
    /* of the job while busy */
    osync__links_t links;
    osync__buf_t bytes;  /* the request */
    osync__buf_t stored; /* what hold.progress holds */
    bool store;
    uint64_t first, last;

    uint64_t known_first, known_last, files, link_bytes, pinned;
};

static void go_on(osync__hold_t *h);
static void link_log(osync__hold_t *h);

static void note(osync__hold_t *h, const osync_error_t *err) {
    if (err->code && strcmp(h->problem.message, err->message))
        osync__log(OSYNC_LOG_WARN, "collector: hold %u-%u: %s", h->request->tid, h->request->pid, err->message);
    h->problem = *err;
}

static void answer(osync__hold_t *h) {
    osync__hold_status_t s;
    if (!h->call) return;
    osync__hold_status(h, &s);
    osync__hold_answer(h->call, h->problem.code ? -1 : 0, h->problem.code ? h->problem.message : NULL, &s);
    h->call = NULL;
}

/* ---- the source ---- */

static void on_files(void *arg, int rc, osync_error_t *err) {
    osync__hold_t *h = arg;
    if (!h->ending) {
        if (rc) {
            note(h, err);
            answer(h);
        } else {
            osync__free(h->binlog_source);
            h->binlog_source = h->question.binlog_dir;
            h->question.binlog_dir = NULL;
        }
        if (!rc || !h->binlog_source) link_log(h);
    }
    go_on(h);
}

static void ask_source(osync__hold_t *h) {
    osync_error_t err = {0};
    osync_source_partition_t partition = {
        .tid = h->request->tid,
        .pid = h->request->pid,
        .tablet = h->request->tablet_endpoint ? h->request->tablet_endpoint : "",
    };
    h->ask = false;
    if (!osync__ask_files(&h->question, &partition, on_files, h, &err) || h->ending) return;
    note(h, &err);
    answer(h);
}

/* ---- the links ---- */

/* Also tells, by its time, when the hold was last asked for. */
static int store(osync__hold_t *h, osync_error_t *err) {
    bool same = h->stored.len == h->bytes.len && !memcmp(h->stored.data, h->bytes.data, h->bytes.len);
    if (same && !utimensat(AT_FDCWD, h->progress_path, NULL, 0)) return 0;
    int rc = osync__write_file(h->progress_path, h->bytes.data, h->bytes.len, err);
    h->stored.len = 0;
    if (!rc && osync__buf_append(&h->stored, h->bytes.data, h->bytes.len))
        rc = osync__err(err, OSYNC_ENOMEM, "out of memory");
    return rc;
}

static int link_work(osync__hold_t *h, osync_error_t *err) {
    Openmldb__Datasync__HoldLogRequest *r =
        openmldb__datasync__hold_log_request__unpack(&osync__protobuf_allocator, h->bytes.len, h->bytes.data);
    if (!r) return osync__err(err, OSYNC_ENOMEM, "out of memory");
    if (!h->links.binlog_source) { /* the source hasn't answered since the start: only the budget wants to know */
        osync__links_measure(&h->links);
        openmldb__datasync__hold_log_request__free_unpacked(r, &osync__protobuf_allocator);
        return 0;
    }
    int rc = osync__task_dir_make(h->dir, err);
    if (!rc && h->store) rc = store(h, err);
    /* Of a partition that was re-created, the new log is what a fail-over needs. */
    if (!rc) rc = osync__links_all(&h->links, false, true, err);
    if (!rc && r->committed) rc = osync__links_release(&h->links, r->committed, err);
    if (!rc) rc = osync__links_entries(&h->links, &h->first, &h->last, err);
    openmldb__datasync__hold_log_request__free_unpacked(r, &osync__protobuf_allocator);
    return rc;
}

static void on_work(osync__job_t *job) {
    osync__hold_t *h = job->arg;
    h->job_err = (osync_error_t){0};
    if (h->removed)
        h->job_rc = osync__task_dir_remove(h->dir, &h->job_err);
    else
        h->job_rc = link_work(h, &h->job_err);
}

static void on_work_done(osync__job_t *job) {
    osync__hold_t *h = job->arg;
    h->busy = false;
    h->known_first = h->first;
    h->known_last = h->last;
    h->files = h->links.files;
    h->link_bytes = h->links.bytes;
    h->pinned = h->links.pinned;
    if (h->store && h->job_rc) h->unstored = true; /* again, the next time */
    if (h->links.binlog_source || h->removed) note(h, &h->job_err);
    if (!h->ending && !h->ask) answer(h);
    go_on(h);
}

static void start_job(osync__hold_t *h) {
    h->busy = true;
    h->job = (osync__job_t){.work = on_work, .done = on_work_done, .arg = h};
    osync__pool_submit(h->env->pool, &h->job);
}

static int pack(const osync__hold_t *h, osync__buf_t *to) {
    to->len = 0;
    int rc = osync__buf_reserve(to, openmldb__datasync__hold_log_request__get_packed_size(h->request));
    if (!rc) to->len = openmldb__datasync__hold_log_request__pack(h->request, to->data);
    return rc;
}

static void link_log(osync__hold_t *h) {
    uint64_t lowest = h->links.lowest;
    h->links = (osync__links_t){.binlog_source = h->binlog_source, .dir = h->dir, .lowest = lowest};
    if (pack(h, &h->bytes)) return; /* the next time */
    h->store = h->unstored && h->binlog_source;
    if (h->store) h->unstored = false;
    h->check_at = osync__mono_ms() + h->env->config->heartbeat_ms;
    start_job(h);
}

/* ---- the end ---- */

static void free_hold(osync__hold_t *h) {
    openmldb__datasync__hold_log_request__free_unpacked(h->request, &osync__protobuf_allocator);
    osync__buf_free(&h->bytes);
    osync__buf_free(&h->stored);
    osync__free(h->dir);
    osync__free(h->progress_path);
    osync__free(h->binlog_source);
    osync__ask_clear(&h->question);
    osync__free(h);
}

static void on_timer_closed(uv_handle_t *handle) {
    osync__hold_t *h = handle->data;
    answer(h);
    h->env->hold_ended(h);
    free_hold(h);
}

static void go_to_end(osync__hold_t *h) {
    if (h->remove && !h->removed) {
        h->removed = true;
        start_job(h);
    } else if (!uv_is_closing((uv_handle_t *)&h->timer)) {
        uv_close((uv_handle_t *)&h->timer, on_timer_closed);
    }
}

void osync__hold_end(osync__hold_t *h, bool remove, osync__rpc_call_t *call) {
    if (!h->ending) {
        h->ending = true;
        uv_timer_stop(&h->timer);
        osync__ask_cancel(&h->question);
    }
    h->remove |= remove;
    answer(h);
    h->call = call;
    if (call) h->problem = (osync_error_t){0};
    go_on(h);
}

/* ---- what comes next ---- */

static void on_timer(uv_timer_t *timer) {
    go_on(timer->data);
}

static void go_on(osync__hold_t *h) {
    uint64_t now = osync__mono_ms();
    if (h->question.open || h->busy) return;
    if (!h->ending && now >= h->refreshed + h->expire_ms) {
        osync__log(OSYNC_LOG_INFO, "collector: hold %u-%u: no scheduler asks for it any more: removed", h->request->tid,
                   h->request->pid);
        h->ending = h->remove = true;
    }
    if (h->ending) {
        go_to_end(h);
        return;
    }
    if (h->ask || (now >= h->check_at && !h->binlog_source)) {
        h->check_at = now + h->env->config->heartbeat_ms;
        ask_source(h);
    } else if (now >= h->check_at) {
        link_log(h);
    }
    if (h->question.open || h->busy) return;
    if (h->ending) { /* since the source was asked */
        go_to_end(h);
        return;
    }
    uint64_t wake = h->refreshed + h->expire_ms;
    if (h->check_at < wake) wake = h->check_at;
    uv_timer_start(&h->timer, on_timer, wake > now ? wake - now : 0, 0);
}

void osync__hold_refresh(osync__hold_t *h, Openmldb__Datasync__HoldLogRequest *request, osync__rpc_call_t *call) {
    answer(h); /* an earlier one that still waits: its scheduler has given it up */
    openmldb__datasync__hold_log_request__free_unpacked(h->request, &osync__protobuf_allocator);
    h->request = request;
    h->call = call;
    h->refreshed = osync__mono_ms();
    h->expire_ms = h->env->config->hold_expire_ms;
    h->ask = h->unstored = true;
    go_on(h);
}

int osync__hold_new(osync__hold_t **out, const osync__task_env_t *env, osync__partition_t *partition,
                    Openmldb__Datasync__HoldLogRequest *request, osync__rpc_call_t *call, uint64_t age_ms,
                    osync_error_t *err) {
    osync__hold_t *h = osync__calloc(1, sizeof *h);
    if (!h) {
        openmldb__datasync__hold_log_request__free_unpacked(request, &osync__protobuf_allocator);
        return osync__err(err, OSYNC_ENOMEM, "out of memory");
    }
    h->env = env;
    h->partition = partition;
    h->request = request;
    h->question.source = env->source;
    h->dir = osync__task_dir(env->config->data_dir, partition->key);
    h->progress_path = h->dir ? osync__format("%s/%s", h->dir, OSYNC__HOLD_PROGRESS) : NULL;
    if (!h->progress_path || (!call && pack(h, &h->stored))) {
        free_hold(h);
        return osync__err(err, OSYNC_ENOMEM, "out of memory");
    }
    h->call = call;
    h->refreshed = osync__mono_ms();
    h->expire_ms = env->config->hold_expire_ms > age_ms ? env->config->hold_expire_ms - age_ms : 0;
    h->ask = true;
    h->unstored = call != NULL;
    uv_timer_init(env->loop, &h->timer);
    h->timer.data = h;
    *out = h;
    go_on(h);
    return 0;
}

osync__partition_t *osync__hold_partition(const osync__hold_t *h) {
    return h->partition;
}

const char *osync__hold_task(const osync__hold_t *h) {
    return h->request->task_id ? h->request->task_id : "";
}

void osync__hold_status(const osync__hold_t *h, osync__hold_status_t *out) {
    uint64_t age = osync__mono_ms() - h->refreshed;
    *out = (osync__hold_status_t){
        .tid = h->request->tid,
        .pid = h->request->pid,
        .task_id = osync__hold_task(h),
        .tablet = h->request->tablet_endpoint ? h->request->tablet_endpoint : "",
        .reason = h->problem.code ? h->problem.message : "",
        .first = h->known_first,
        .last = h->known_last,
        .link_files = h->files,
        .link_bytes = h->link_bytes,
        .pinned_bytes = h->pinned,
        .expires_ms = h->expire_ms > age ? h->expire_ms - age : 0,
    };
}

void osync__hold_answer(osync__rpc_call_t *call, int code, const char *message, const osync__hold_status_t *status) {
    char text[sizeof((osync_error_t *)0)->message];
    Openmldb__Datasync__HoldLogResponse r = OPENMLDB__DATASYNC__HOLD_LOG_RESPONSE__INIT;
    Openmldb__Datasync__GeneralResponse g = OPENMLDB__DATASYNC__GENERAL_RESPONSE__INIT;
    g.has_code = 1;
    g.code = code;
    (void)snprintf(text, sizeof text, "%s", message ? message : "");
    if (message) g.msg = text;
    r.response = &g;
    r.has_first_entry = r.has_last_entry = r.has_pinned_bytes = 1;
    if (status) {
        r.first_entry = status->first;
        r.last_entry = status->last;
        r.pinned_bytes = status->pinned_bytes;
    }
    OSYNC__BEFORE(hold_answer);
    osync__rpc_reply(call, &r.base);
    OSYNC__AFTER(hold_answer);
}
