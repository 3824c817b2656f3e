/* The scheduler object: its configuration, the tasks that it finds in the checkpoint, the periodic check, and its
 * orderly end. */
#include "osync/scheduler.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/config.h"
#include "base/error.h"
#include "base/sys.h"
#include "format/timezone.h"
#include "scheduler/internal.h"

enum {
    TICK_MS = 1000,
    CLOSE_GRACE_MS = 2000, /* for the sinks' calls under way to end by themselves */
};

static const osync__rpc_method_t methods[] = {
    {"openmldb.datasync.SyncTool", "CreateSyncTask", &openmldb__datasync__create_sync_task_request__descriptor,
     &openmldb__datasync__general_response__descriptor, osync__sched_on_create},
    {"openmldb.datasync.SyncTool", "DeleteSyncTask", &openmldb__datasync__delete_sync_task_request__descriptor,
     &openmldb__datasync__general_response__descriptor, osync__sched_on_delete},
    {"openmldb.datasync.SyncTool", "TaskStatus", &openmldb__datasync__task_status_request__descriptor,
     &openmldb__datasync__task_status_response__descriptor, osync__sched_on_status},
    {"openmldb.datasync.SyncTool", "SendData", &openmldb__datasync__send_data_request__descriptor,
     &openmldb__datasync__send_data_response__descriptor, osync__sched_on_send},
    {"openmldb.datasync.SyncTool", "RetrySyncTask", &openmldb__datasync__retry_sync_task_request__descriptor,
     &openmldb__datasync__general_response__descriptor, osync__sched_on_retry},
    {"openmldb.datasync.SyncTool", "RecoverSyncTask", &openmldb__datasync__recover_sync_task_request__descriptor,
     &openmldb__datasync__general_response__descriptor, osync__sched_on_recover},
    {"openmldb.datasync.SyncTool", "VerifySyncTask", &openmldb__datasync__verify_sync_task_request__descriptor,
     &openmldb__datasync__verify_sync_task_response__descriptor, osync__sched_on_verify},
    {"openmldb.datasync.SyncTool", "Collectors", &openmldb__datasync__collectors_request__descriptor,
     &openmldb__datasync__collectors_response__descriptor, osync__sched_on_collectors},
};
static const osync__rpc_page_t pages[] = {{"/status", osync__sched_on_page}, {"/", osync__sched_on_page}};

static const osync_scheduler_config_t defaults = {
    .host = "0.0.0.0",
    .zk_root_path = "/openmldb",
    .zk_cert = "",
    .zk_session_timeout_ms = 5000,
    .check_period_ms = 10000,
    .request_timeout_ms = 5000,
    .max_body_size = 64u << 20,
    .roll_bytes = 128u << 20,
    .roll_interval_ms = 60000,
    .worker_threads = 4,
    .data_path = "auto",
    .max_bytes_in_flight = 64u << 20,
    .max_bytes_waiting = 64u << 20,
};

void osync_scheduler_config_init(osync_scheduler_config_t *config, size_t size) {
    osync__config_init(config, size, &defaults, sizeof defaults);
}

/* ---- deliveries ---- */

static void on_commit(void *arg, const void *point, size_t len) {
    osync__sub_t *sub = arg;
    sub->known = true;
}

/* What the store had lost is in it again, of every partition. */
void osync__sched_end_rebuild(osync__task_t *t) {
    if (!t->rebuild || t->state != OSYNC__TASK_ACTIVE) return;
    for (size_t i = 0; i < t->n_subs; i++)
        if (!t->subs[i].known) return;
    t->rebuild = t->start_over = false;
    osync__sched_record_put(&t->record);
}

static void on_rewind(void *arg, bool ready, bool permanent, const osync_error_t *err) {
    osync__sub_t *sub = arg;
    osync__task_t *t = sub->task;
    bool finished = sub->status == OSYNC__SCHEDULER__STATUS__SUCCESS;
    sub->ready = false;
    if (t->state == OSYNC__TASK_REMOVING || t->s->closing) return;
    if (!ready) {
        char text[1100];
        snprintf(text, sizeof text, "destination: %s", err->message);
        if (permanent && !finished)
            osync__sched_sub_state(sub, OSYNC__SCHEDULER__STATUS__FAILED, OSYNC__SCHEDULER__CAUSE__DESTINATION, text);
        else
            osync__sched_sub_waits(sub, text);
        return;
    }
    size_t len;
    const void *point = osync__delivery_point(sub->delivery, &len);
    sub->last_start.len = 0;
    if (osync__buf_set(&sub->end, point, len)) {
        osync__log(OSYNC_LOG_ERROR, "task %s pid %u: out of memory", t->id, sub->pid);
        return; /* a point that isn't known takes no rows */
    }
    sub->ready = sub->known = true;
    if (*sub->token) sub->seen_mono = osync__mono_ms(); /* the collector was kept waiting */
    if (sub->cause == OSYNC__SCHEDULER__CAUSE__DESTINATION)
        osync__sched_sub_state(sub, OSYNC__SCHEDULER__STATUS__RUNNING, OSYNC__SCHEDULER__CAUSE__NOTHING, NULL);
    else if (sub->cause == OSYNC__SCHEDULER__CAUSE__NOTHING && sub->status != OSYNC__SCHEDULER__STATUS__REASSIGNING)
        osync__sched_set(&sub->reason, NULL);
    osync__sched_end_rebuild(t);
    osync__sched_hand_out_go_on(sub);
    if (sub->retry) osync__sched_reassign(t);
}

static int attach_sub(osync__sub_t *sub, osync_error_t *err) {
    osync__task_t *t = sub->task;
    osync_scheduler_t *s = t->s;
    osync__buf_t first = {0}, label = {0}, info = {0};
    Openmldb__Datasync__SyncPoint beginning = OPENMLDB__DATASYNC__SYNC_POINT__INIT;
    char key[80];
    int rc = OSYNC_ENOMEM;
    beginning.type = OPENMLDB__DATASYNC__SYNC_TYPE__kSNAPSHOT;
    snprintf(key, sizeof key, "part/%s/%u", t->id, sub->pid);
    if (sub->first.len > 0 ? osync__buf_set(&first, sub->first.data, sub->first.len)
                           : osync__sched_point_pack(&first, &beginning)) {
        osync__err(err, rc, "task %s: out of memory", t->id);
        goto done;
    }
    if (osync__sched_task_info(t, &info) || osync__buf_printf(&label, "%s.%s", t->db, t->name) ||
        osync__buf_append(&label, "", 1)) {
        osync__err(err, rc, "task %s: out of memory", t->id);
        goto done;
    }
    osync__delivery_config_t config = {.loop = s->loop,
                                       .sink = t->sink,
                                       .store = s->store,
                                       .key = key,
                                       .dest = t->path,
                                       .task_id = t->id,
                                       .pid = sub->pid,
                                       .label_text = (const char *)label.data,
                                       .roll_bytes = s->roll_bytes,
                                       .roll_interval_ms = s->roll_interval_ms,
                                       .first_point = first.data,
                                       .first_point_len = first.len,
                                       .task_info = info.data,
                                       .task_info_len = info.len,
                                       .rebuild = t->rebuild,
                                       .start_over = t->start_over,
                                       .probed = &t->probed,
                                       .on_commit = on_commit,
                                       .on_rewind = on_rewind,
                                       .arg = sub};
    rc = osync__delivery_new(&config, &sub->delivery, err);
    if (rc)
        sub->delivery = NULL;
    else if (t->state != OSYNC__TASK_REMOVING)
        osync__delivery_start(sub->delivery);
done:
    osync__buf_free(&first);
    osync__buf_free(&label);
    osync__buf_free(&info);
    return rc;
}

int osync__sched_task_attach(osync__task_t *t, osync_error_t *err) {
    int rc = 0;
    if (!t->sink) rc = osync__sinks_get(t->s->sinks, t->target, &t->sink, &t->path, err);
    for (size_t i = 0; i < t->n_subs && !rc; i++) {
        osync__sub_t *sub = &t->subs[i];
        if (!sub->delivery && !sub->delivery_gone) rc = attach_sub(sub, err);
    }
    return rc;
}

static void on_delivery_restarts(void *arg) {
    osync__sub_t *sub = arg;
    osync__task_t *t = sub->task;
    osync_error_t err = {0};
    sub->delivery = NULL;
    sub->delivery_closing = false;
    if (!t->s->closing && attach_sub(sub, &err)) /* the next check tries again */
        osync__sched_sub_waits(sub, err.message);
    osync__sched_task_drop(t);
}

void osync__sched_delivery_restart(osync__sub_t *sub) {
    sub->ready = sub->known = false;
    if (!sub->delivery || sub->delivery_closing || sub->delivery_ending) return;
    sub->delivery_closing = true;
    osync__sched_task_hold(sub->task);
    osync__delivery_close(sub->delivery, on_delivery_restarts, sub);
}

/* Tries, and shows why it can't be done. */
static void attach(osync__task_t *t) {
    osync_error_t err = {0};
    if (osync__sched_task_attach(t, &err) == 0) return;
    if (t->state == OSYNC__TASK_REMOVING) {
        osync__log(OSYNC_LOG_WARN, "task %s.%s can't be removed yet: %s", t->db, t->name, err.message);
        return;
    }
    for (size_t i = 0; i < t->n_subs; i++) {
        osync__sub_t *sub = &t->subs[i];
        if (sub->delivery || sub->status == OSYNC__SCHEDULER__STATUS__SUCCESS) continue;
        if (osync_err_retriable(err.code))
            osync__sched_sub_waits(sub, err.message);
        else
            osync__sched_sub_state(sub, OSYNC__SCHEDULER__STATUS__FAILED, OSYNC__SCHEDULER__CAUSE__DESTINATION,
                                   err.message);
    }
}

/* ---- stored tasks ---- */

static void load_failed(osync_scheduler_t *s, const char *why) {
    s->loading = false;
    snprintf(s->load_error, sizeof s->load_error,
             "the scheduler isn't ready: its stored tasks can't be read from %.200s: %.200s", s->store_path, why);
    osync__log(OSYNC_LOG_ERROR, "%s", s->load_error);
}

static int load_sub(osync_scheduler_t *s, const osync_checkpoint_entry_t *e) {
    char id[37];
    unsigned pid;
    int used = 0;
    if (sscanf(e->key, "sub/%36[^/]/%u%n", id, &pid, &used) != 2 || e->key[used]) return OSYNC_ECORRUPT;
    osync__task_t *t = s->tasks;
    while (t && strcmp(t->id, id) != 0) t = t->hh.next;
    osync__sub_t *sub = t ? osync__sched_task_sub(t, pid) : NULL;
    if (!sub) {
        osync__log(OSYNC_LOG_WARN, "%s: record %s belongs to no task", s->store_path, e->key);
        return 0;
    }
    Osync__Scheduler__SubtaskRecord *r =
        osync__scheduler__subtask_record__unpack(&osync__protobuf_allocator, e->len, e->value);
    if (!r || strlen(r->token) > 36) {
        if (r) osync__scheduler__subtask_record__free_unpacked(r, &osync__protobuf_allocator);
        return OSYNC_ECORRUPT;
    }
    snprintf(sub->token, sizeof sub->token, "%s", r->token);
    sub->status = r->status;
    sub->cause = r->cause;
    int rc = osync__sched_set(&sub->tablet, r->tablet_endpoint);
    if (!rc) rc = osync__sched_set(&sub->des_endpoint, r->des_endpoint);
    if (!rc) rc = osync__sched_set(&sub->collector, r->collector);
    if (!rc) rc = osync__sched_set(&sub->reason, r->reason);
    if (!rc) rc = osync__sched_record_loaded(&sub->record, e->value, e->len);
    osync__scheduler__subtask_record__free_unpacked(r, &osync__protobuf_allocator);
    return rc;
}

static void forget_all(osync_scheduler_t *s) {
    osync__task_t *t, *next;
    osync__sched_import_free(s);
    HASH_ITER(hh, s->tasks, t, next) osync__sched_task_free(t);
}

static void on_subs(void *arg, int status, const osync_checkpoint_entry_t *entries, size_t n,
                    const osync_error_t *err) {
    osync_scheduler_t *s = arg;
    osync_error_t own = {0};
    const char *bad = status ? (err ? err->message : osync_strerror(status)) : NULL;
    for (size_t i = 0; i < n && !bad && !status; i++)
        if (load_sub(s, &entries[i])) bad = entries[i].key;
    /* Before anybody is told that there is no such task. */
    if (!bad && s->state_dir && osync__sched_import_find(s, &own)) bad = own.message;
    if (bad || s->closing) {
        forget_all(s);
        if (bad) load_failed(s, bad);
        goto done;
    }
    s->loading = false;
    s->loaded = true;
    s->checked_mono = osync__mono_ms();
    osync__log(OSYNC_LOG_INFO, "%s: %u tasks taken up", s->store_path, HASH_COUNT(s->tasks));
    osync__sched_import_go_on(s);
    osync__task_t *t, *next;
    HASH_ITER(hh, s->tasks, t, next) {
        osync__sched_task_hold(t);
        attach(t);
        for (size_t i = 0; i < t->n_subs; i++) /* one that was never handed out needn't be waited for */
            if (!*t->subs[i].token) t->subs[i].seen_mono = s->checked_mono - 2 * (uint64_t)s->check_period_ms - 1;
        osync__sched_task_drop(t); /* goes on with a removal */
    }
done:
    osync__sched_drop(s);
}

static void on_tasks(void *arg, int status, const osync_checkpoint_entry_t *entries, size_t n,
                     const osync_error_t *err) {
    osync_scheduler_t *s = arg;
    osync_error_t own = {0};
    const char *bad = status ? (err ? err->message : osync_strerror(status)) : NULL;
    for (size_t i = 0; i < n && !bad && !status; i++) {
        Osync__Scheduler__TaskRecord *r =
            osync__scheduler__task_record__unpack(&osync__protobuf_allocator, entries[i].len, entries[i].value);
        osync__task_t *t = NULL;
        if (!r)
            bad = entries[i].key;
        else if (osync__sched_task_new(&t, s, r, &own))
            bad = own.message;
        else if (osync__sched_record_loaded(&t->record, entries[i].value, entries[i].len))
            bad = "out of memory";
        if (r) osync__scheduler__task_record__free_unpacked(r, &osync__protobuf_allocator);
    }
    if (!bad && !s->closing) {
        osync__sched_hold(s);
        int rc = s->store->ops->list(s->store, "sub/", on_subs, s);
        if (rc) {
            s->holds--;
            bad = osync_strerror(rc);
        }
    }
    if (bad || s->closing) forget_all(s);
    if (bad) load_failed(s, bad);
    osync__sched_drop(s);
}

static void load(osync_scheduler_t *s) {
    s->loading = true;
    osync__sched_hold(s);
    int rc = s->store->ops->list(s->store, "task/", on_tasks, s);
    if (rc) {
        s->holds--;
        load_failed(s, osync_strerror(rc));
    }
}

/* ---- the check ---- */

static bool all_success(const osync__task_t *t) {
    for (size_t i = 0; i < t->n_subs; i++)
        if (t->subs[i].status != OSYNC__SCHEDULER__STATUS__SUCCESS) return false;
    return true;
}

static void on_tick(uv_timer_t *timer) {
    osync_scheduler_t *s = timer->data;
    if (!s->loaded) {
        if (!s->loading) load(s);
        return;
    }
    uint64_t now = osync__mono_ms();
    bool check = now - s->checked_mono >= s->check_period_ms;
    if (check) s->checked_mono = now;
    if (check) osync__sched_import_go_on(s);
    osync__task_t *t, *next;
    HASH_ITER(hh, s->tasks, t, next) {
        osync__sched_task_hold(t);
        osync__sched_record_retry(&t->record);
        for (size_t i = 0; i < t->n_subs; i++) osync__sched_record_retry(&t->subs[i].record);
        osync__sched_create_tick(t);
        osync__sched_remove_tick(t);
        osync__sched_hold_tick(t, now);
        if (t->state == OSYNC__TASK_REMOVING && check && t->record.exists && !t->record.removing) attach(t);
        if (t->state == OSYNC__TASK_ACTIVE && check) {
            attach(t);
            if (all_success(t))
                osync__sched_task_remove(t, "all partitions are done", NULL, NULL);
            else
                osync__sched_reassign(t);
        }
        osync__sched_task_drop(t);
    }
}

/* ---- the object ---- */

static void scheduler_free(osync_scheduler_t *s) {
    osync__sched_seen_free(s);
    osync__free(s->host);
    osync__free(s->advertised);
    osync__free(s->zk_cluster);
    osync__free(s->zk_root);
    osync__free(s->zk_cert);
    osync__free(s->state_dir);
    osync__free(s->timezone);
    osync__free(s->store_path);
    osync__free((void *)(uintptr_t)s->sinks_config.hadoop_conf_dir);
    osync__free((void *)(uintptr_t)s->sinks_config.hadoop_user);
    osync__free((void *)(uintptr_t)s->sinks_config.default_fs);
    osync__free(s);
}

static int copy(const char **to, const char *from) {
    char *own = NULL;
    int rc = osync__sched_set(&own, from && *from ? from : NULL);
    *to = own;
    return rc;
}

int osync__scheduler_new(osync_scheduler_t **out, uv_loop_t *loop, const osync_scheduler_config_t *config,
                         const osync__scheduler_parts_t *parts, osync_error_t *err) {
    osync_scheduler_config_t own = defaults, *c = &own;
    int rc = osync__config_take(&own, sizeof own, config, "osync_scheduler_config_init", err);
    if (rc) return rc;
    bool has_dir = c->state_dir && *c->state_dir;
    if (!has_dir && !c->checkpoint) return osync__err(err, OSYNC_ECONFIG, "scheduler: state_dir is required");
    if (c->check_period_ms == 0 || c->worker_threads == 0 || c->roll_bytes == 0 || c->request_timeout_ms == 0)
        return osync__err(err, OSYNC_ECONFIG,
                          "scheduler: check period, request timeout, worker threads and roll size must be above 0");
    if (c->checkpoint && c->checkpoint->ops->size < sizeof(osync_checkpoint_ops_t))
        return osync__err(err, OSYNC_ECONFIG, "scheduler: checkpoint->ops->size isn't sizeof(osync_checkpoint_ops_t)");
    if (c->port < 0 || c->port > 65535)
        return osync__err(err, OSYNC_ECONFIG, "scheduler: port %d is out of range", c->port);
    if (!(parts && parts->catalog) && (!c->zk_cluster || !*c->zk_cluster))
        return osync__err(err, OSYNC_ECONFIG, "scheduler: zk_cluster is required");
    if (c->max_bytes_in_flight == 0 || c->max_bytes_waiting == 0)
        return osync__err(err, OSYNC_ECONFIG, "scheduler: max_bytes_in_flight and max_bytes_waiting must be above 0");
    bool direct = c->data_path && strcmp(c->data_path, "direct") == 0;
    bool proxy = c->data_path && strcmp(c->data_path, "proxy") == 0;
    if (!direct && !proxy && c->data_path && *c->data_path && strcmp(c->data_path, "auto") != 0)
        return osync__err(err, OSYNC_ECONFIG, "scheduler: data_path is \"%.40s\": it must be auto, direct or proxy",
                          c->data_path);
    osync_scheduler_t *s = osync__calloc(1, sizeof *s);
    if (!s) return osync__err(err, OSYNC_ENOMEM, "scheduler: out of memory");
    osync__buf_t path = {0};
    s->loop = loop;
    s->port = c->port;
    s->zk_session_timeout_ms = c->zk_session_timeout_ms;
    s->check_period_ms = c->check_period_ms;
    s->request_timeout_ms = c->request_timeout_ms;
    s->roll_interval_ms = c->roll_interval_ms;
    s->worker_threads = c->worker_threads;
    s->max_body_size = c->max_body_size;
    s->roll_bytes = c->roll_bytes;
    s->data_path = direct ? OSYNC__DATA_DIRECT : proxy ? OSYNC__DATA_PROXY : OSYNC__DATA_AUTO;
    if (osync__timezone_name(s->zone, sizeof s->zone)) s->zone[0] = 0;
    s->max_work_bytes = c->max_bytes_in_flight;
    s->max_waiting_bytes = c->max_bytes_waiting;
    s->remove_answer_ms = OSYNC__REMOVE_ANSWER_MS;
    s->hold_period_ms = c->hold_period_ms;
    if (s->hold_period_ms == 0)
        s->hold_period_ms =
            c->check_period_ms > OSYNC__HOLD_PERIOD_MS / 3 ? 3 * c->check_period_ms : OSYNC__HOLD_PERIOD_MS;
    snprintf(s->load_error, sizeof s->load_error, "the scheduler is starting: its stored tasks are being read");
    int no_path = c->checkpoint ? osync__buf_printf(&path, "the program's own checkpoint")
                                : osync__buf_printf(&path, "%s/checkpoint.db", c->state_dir);
    if (no_path || osync__buf_append(&path, "", 1) || osync__sched_set(&s->store_path, (const char *)path.data) ||
        osync__sched_set(&s->host, c->host && *c->host ? c->host : "0.0.0.0") ||
        osync__sched_set(&s->advertised, c->advertised_endpoint) || osync__sched_set(&s->zk_cluster, c->zk_cluster) ||
        osync__sched_set(&s->zk_root, c->zk_root_path ? c->zk_root_path : "/openmldb") ||
        osync__sched_set(&s->zk_cert, c->zk_cert) || osync__sched_set(&s->state_dir, has_dir ? c->state_dir : NULL) ||
        osync__sched_set(&s->timezone, c->csv_timezone) || copy(&s->sinks_config.hadoop_conf_dir, c->hadoop_conf_dir) ||
        copy(&s->sinks_config.hadoop_user, c->hadoop_user) || copy(&s->sinks_config.default_fs, c->default_fs)) {
        osync__buf_free(&path);
        scheduler_free(s);
        return osync__err(err, OSYNC_ENOMEM, "scheduler: out of memory");
    }
    osync__buf_free(&path);
    s->store = c->checkpoint;
    s->store_borrowed = c->checkpoint != NULL;
    s->sinks_config.make = c->make_sink;
    s->sinks_config.make_arg = c->make_sink_arg;
    if (parts) s->catalog = parts->catalog;
    *out = s;
    return 0;
}

int osync_scheduler_new(osync_scheduler_t **out, uv_loop_t *loop, const osync_scheduler_config_t *config,
                        osync_error_t *err) {
    return osync__scheduler_new(out, loop, config, NULL, err);
}

int osync_scheduler_start(osync_scheduler_t *s, osync_error_t *err) {
    int rc = s->state_dir ? osync__mkdirs(s->state_dir, err) : 0;
    if (rc) return rc;
    rc = s->store_borrowed ? 0 : osync_sqlite_checkpoint_new(&s->store, s->loop, s->store_path, err);
    if (rc) return rc;
    rc = osync__pool_new(s->loop, s->worker_threads, &s->pool, err);
    if (rc) return rc;
    if (osync__hosts_new(s->loop, &s->hosts) || osync__sinks_new(s->loop, &s->sinks_config, &s->sinks))
        return osync__err(err, OSYNC_ENOMEM, "scheduler: out of memory");
    osync__rpc_client_config_t client = {.max_body_size = s->max_body_size};
    rc = osync__rpc_client_new(s->loop, &client, &s->client, err);
    if (rc) return rc;
    if (!s->catalog) {
        osync__zk_catalog_config_t zk = {.cluster = s->zk_cluster,
                                         .root = s->zk_root,
                                         .cert = s->zk_cert,
                                         .session_timeout_ms = s->zk_session_timeout_ms};
        rc = osync__zk_catalog_new(s->loop, &zk, &s->catalog, err);
        if (rc) return rc;
    }
    /* What is taken in, and one more that is told to come again: never so much that signs of life aren't read. */
    uint64_t most = UINT64_MAX / 4;
    uint64_t work = s->max_work_bytes < most ? s->max_work_bytes : most;
    uint64_t waiting = s->max_waiting_bytes < most ? s->max_waiting_bytes : most;
    osync__rpc_server_config_t server = {.host = s->host,
                                         .port = s->port,
                                         .max_body_size = s->max_body_size,
                                         .max_held = work + waiting + s->max_body_size,
                                         .json_style = OSYNC__JSON_JAVA,
                                         .methods = methods,
                                         .n_methods = sizeof methods / sizeof *methods,
                                         .pages = pages,
                                         .n_pages = sizeof pages / sizeof *pages,
                                         .arg = s};
    rc = osync__rpc_server_new(s->loop, &server, &s->server, err);
    if (rc) return rc;
    rc = uv_timer_init(s->loop, &s->tick);
    if (rc) return osync__err(err, OSYNC_EIO, "scheduler: timer: %s", uv_strerror(rc));
    s->tick.data = s;
    s->tick_open = true;
    uint64_t every = s->check_period_ms < TICK_MS ? s->check_period_ms : TICK_MS;
    uv_timer_start(&s->tick, on_tick, every, every);
    load(s);
    return 0;
}

int osync_scheduler_port(const osync_scheduler_t *s) {
    return s->server ? osync__rpc_server_port(s->server) : s->port;
}

/* ---- the end ---- */

static void on_part_closed(void *arg) {
    osync__sched_drop(arg);
}

static void on_tick_closed(uv_handle_t *handle) {
    osync__sched_drop(handle->data);
}

static void on_delivery_closed(void *arg) {
    osync__sub_t *sub = arg;
    sub->delivery = NULL;
    osync__sched_task_drop(sub->task);
}

/* A destination that doesn't answer is not waited for: what a canceled call has done or not is the next run's to find
 * out, as after a kill. */
static void on_grace(uv_timer_t *timer) {
    osync_scheduler_t *s = timer->data;
    osync__sinks_cancel(s->sinks);
}

/* Everything that could still call back into tasks ends; what waits is told. */
static void close_outside(osync_scheduler_t *s) {
    osync__task_t *t, *next;
    if (s->tick_open) uv_timer_start(&s->tick, on_grace, CLOSE_GRACE_MS, 0);
    if (s->server) {
        osync__sched_hold(s);
        osync__rpc_server_close(s->server, on_part_closed, s);
    }
    if (s->client) {
        osync__sched_hold(s);
        osync__rpc_client_close(s->client, on_part_closed, s);
    }
    if (s->catalog) {
        osync__sched_hold(s);
        s->catalog->ops->close(s->catalog, on_part_closed, s);
    }
    osync__sched_hold_close(s);
    osync__sched_verify_closing(s);
    HASH_ITER(hh, s->tasks, t, next) {
        osync__sched_task_closing(t);
        for (size_t i = 0; i < t->n_subs; i++) {
            osync__sub_t *sub = &t->subs[i];
            osync__sched_work_abandon(sub);
            if (!sub->delivery || sub->delivery_closing) continue;
            /* One that is being removed is given up, and what it held with it: the next run goes on with the removal.
             */
            if (!sub->delivery_ending) osync__sched_task_hold(t);
            osync__delivery_close(sub->delivery, on_delivery_closed, sub);
        }
    }
}

static void next_step(osync_scheduler_t *s) {
    s->holds = 1; /* until the step is over */
    switch (s->closing++) {
    case 1:
        if (s->tick_open) {
            osync__sched_hold(s);
            uv_close((uv_handle_t *)&s->tick, on_tick_closed);
        }
        if (s->hosts) {
            osync__sched_hold(s);
            osync__hosts_close(s->hosts, on_part_closed, s);
        }
        break;
    case 2:
        forget_all(s);
        if (s->sinks) {
            osync__sched_hold(s);
            osync__sinks_close(s->sinks, on_part_closed, s);
        }
        if (s->pool) {
            osync__sched_hold(s);
            osync__pool_close(s->pool, on_part_closed, s);
        }
        break;
    case 3:
        if (s->store && !s->store_borrowed) {
            osync__sched_hold(s);
            s->store->ops->close(s->store, on_part_closed, s);
        }
        break;
    default: {
        void (*closed)(void *) = s->closed;
        void *arg = s->closed_arg;
        scheduler_free(s);
        if (closed) closed(arg);
        return;
    }
    }
    osync__sched_drop(s);
}

void osync__sched_hold(osync_scheduler_t *s) {
    s->holds++;
}

void osync__sched_drop(osync_scheduler_t *s) {
    if (--s->holds == 0 && s->closing) next_step(s);
}

void osync_scheduler_close(osync_scheduler_t *s, void (*cb)(void *arg), void *arg) {
    if (!s || s->closing) return;
    s->closed = cb;
    s->closed_arg = arg;
    s->closing = 1;
    osync__sched_hold(s);
    close_outside(s);
    osync__sched_drop(s);
}
