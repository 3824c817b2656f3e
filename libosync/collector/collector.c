/* The collector as a whole: its port, its place in ZooKeeper, its data folder, the set of its tasks and holds, and the
 * budget of disk space that they share. What one task does is task.c, what one hold does hold.c. Nothing here waits for
 * anything: every step that can take time is a callback or a task's job. */
#include "osync/collector.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/config.h"
#include "base/error.h"
#include "base/failpoint.h"
#include "base/sys.h"
#include "collector/ask.h"
#include "collector/internal.h"
#include "collector/tablet_source.h"
#include "zk/zk.h"

enum {
    MAX_PARTITIONS = 16384,
    REGISTER_MIN_MS = 200,
    REGISTER_MAX_MS = 5000,
    MAX_THREADS = 256,
};

struct osync_collector {
    uv_loop_t *loop;
    osync_collector_config_t config; /* strings are owned */
    char *strings[10];
    char *endpoint; /* as registered */
    char *register_path;
    int lock;
    osync__rpc_server_t *server;
    osync__rpc_client_t *client;
    osync_source_t *tablet_source; /* NULL: the embedder has one */
    osync__pool_t *pool, *long_pool;
    osync__places_t *places;
    osync__budget_t reading, traverses;
    bool has_budgets;
    osync__zk_t *zk;
    uv_timer_t register_timer;
    uint32_t register_delay;
    bool registered, registering;
    osync__task_env_t env;
    osync__partition_t *partitions;
    size_t n_users;
    uint64_t started_ms;
    uv_timer_t budget_timer;
    uv_fs_t disk;
    bool disk_asked, disk_known, over;
    uint64_t free_bytes, disk_bytes;
    bool closing, parts_closing;
    unsigned to_close;
    void (*closed)(void *arg);
    void *closed_arg;
};

static void close_parts(osync_collector_t *c);

static const osync_collector_config_t defaults = {
    .endpoint = "127.0.0.1:8888",
    .zk_root_path = "/openmldb",
    .zk_auth_schema = "digest",
    .zk_cert = "",
    .zk_session_timeout_ms = 2000,
    .data_dir = "/tmp/openmldb/datacollector",
    .db_root_path = "",
    .max_pack_size = 1 << 20,
    .max_body_size = 64 << 20,
    .request_timeout_ms = 20000,
    .heartbeat_ms = 5000,
    .snapshot_settle_ms = 60000,
    .worker_threads = 4,
    .min_free_percent = 5,
    .hold_expire_ms = 24 * 3600 * 1000,
    .max_bytes_in_flight = 64 << 20,
    .max_traverses = 8,
    .data_path = "auto",
};

void osync_collector_config_init(osync_collector_config_t *config, size_t size) {
    osync__config_init(config, size, &defaults, sizeof defaults);
}

/* ---- partitions ---- */

static osync__partition_t *find_partition(osync_collector_t *c, uint64_t key) {
    osync__partition_t *p = NULL;
    HASH_FIND(hh, c->partitions, &key, sizeof key, p);
    return p;
}

static osync__partition_t *get_partition(osync_collector_t *c, uint64_t key, osync_error_t *err) {
    osync__partition_t *p = find_partition(c, key);
    if (p) return p;
    if (HASH_COUNT(c->partitions) == MAX_PARTITIONS) {
        osync__err(err, OSYNC_ETOOBIG, "this collector has %d tasks and holds, and takes no more", MAX_PARTITIONS);
        return NULL;
    }
    p = osync__calloc(1, sizeof *p);
    if (!p) {
        osync__err(err, OSYNC_ENOMEM, "out of memory");
        return NULL;
    }
    p->key = key;
    p->collector = c;
    HASH_ADD(hh, c->partitions, key, sizeof p->key, p);
    if (!p->hh.tbl) {
        osync__free(p);
        osync__err(err, OSYNC_ENOMEM, "out of memory");
        return NULL;
    }
    return p;
}

static void drop_if_unused(osync__partition_t *p) {
    osync_collector_t *c = p->collector;
    if (p->users > 0) return;
    HASH_DEL(c->partitions, p);
    osync__free(p);
}

static int add_task(osync__task_t **out, osync__partition_t *p, Openmldb__Datasync__AddSyncTaskRequest *request,
                    osync__rpc_call_t *call, osync_error_t *err) {
    int rc = osync__task_new(out, &p->collector->env, p, request, call, err);
    if (rc) return rc;
    p->users++;
    p->collector->n_users++;
    return 0;
}

/* When the file of that name in the partition's folder was written (wall clock, ms); 0: there is none. Not 0 if that
 * can't be told. */
static uint64_t written_ms(const osync_collector_t *c, uint64_t key, const char *name) {
    struct stat st = {0};
    char *dir = osync__task_dir(c->config.data_dir, key);
    char *path = dir ? osync__format("%s/%s", dir, name) : NULL;
    bool none = path && stat(path, &st) && errno == ENOENT;
    osync__free(path);
    osync__free(dir);
    return none ? 0 : st.st_mtime > 0 ? (uint64_t)st.st_mtime * 1000 : 1;
}

static bool has_task(const osync_collector_t *c, uint64_t key) {
    return written_ms(c, key, OSYNC__TASK_PROGRESS) > 0;
}

static bool has_hold(const osync_collector_t *c, uint64_t key) {
    return written_ms(c, key, OSYNC__HOLD_PROGRESS) > 0;
}

static int read_stored(osync_collector_t *c, uint64_t key, const char *name, osync__buf_t *bytes, osync_error_t *err) {
    char *dir = osync__task_dir(c->config.data_dir, key);
    char *path = dir ? osync__format("%s/%s", dir, name) : NULL;
    int rc = path ? osync__read_file(path, OSYNC__PROGRESS_LIMIT, bytes, err)
                  : osync__err(err, OSYNC_ENOMEM, "out of memory");
    osync__free(path);
    osync__free(dir);
    return rc;
}

static int read_task(osync_collector_t *c, uint64_t key, Openmldb__Datasync__AddSyncTaskRequest **out,
                     osync_error_t *err) {
    osync__buf_t bytes = {0};
    *out = NULL;
    int rc = read_stored(c, key, OSYNC__TASK_PROGRESS, &bytes, err);
    Openmldb__Datasync__AddSyncTaskRequest *r =
        rc ? NULL
           : openmldb__datasync__add_sync_task_request__unpack(&osync__protobuf_allocator, bytes.len, bytes.data);
    if (!rc && (!r || !r->sync_point || ((uint64_t)r->tid << 32 | r->pid) != key)) {
        rc = osync__err(err, OSYNC_ECORRUPT, "its %s (%zu bytes) isn't the stored task of its folder",
                        OSYNC__TASK_PROGRESS, bytes.len);
        if (r) openmldb__datasync__add_sync_task_request__free_unpacked(r, &osync__protobuf_allocator);
        r = NULL;
    }
    *out = r;
    osync__buf_free(&bytes);
    return rc;
}

static int read_hold(osync_collector_t *c, uint64_t key, Openmldb__Datasync__HoldLogRequest **out, osync_error_t *err) {
    osync__buf_t bytes = {0};
    *out = NULL;
    int rc = read_stored(c, key, OSYNC__HOLD_PROGRESS, &bytes, err);
    Openmldb__Datasync__HoldLogRequest *r =
        rc ? NULL : openmldb__datasync__hold_log_request__unpack(&osync__protobuf_allocator, bytes.len, bytes.data);
    if (!rc && (!r || ((uint64_t)r->tid << 32 | r->pid) != key)) {
        rc = osync__err(err, OSYNC_ECORRUPT, "its %s (%zu bytes) isn't the stored hold of its folder",
                        OSYNC__HOLD_PROGRESS, bytes.len);
        if (r) openmldb__datasync__hold_log_request__free_unpacked(r, &osync__protobuf_allocator);
        r = NULL;
    }
    *out = r;
    osync__buf_free(&bytes);
    return rc;
}

int osync__task_dir_make(const char *dir, osync_error_t *err) {
    if (access(dir, F_OK) == 0) return 0;
    char *parent = osync__format("%s/..", dir);
    if (!parent) return osync__err(err, OSYNC_ENOMEM, "out of memory");
    OSYNC__BEFORE(folder_mkdirs);
    int rc = osync__mkdirs(dir, err);
    OSYNC__AFTER(folder_mkdirs);
    OSYNC__BEFORE(folder_dirsync);
    if (!rc) rc = osync__fsync_dir(parent, err);
    OSYNC__AFTER(folder_dirsync);
    osync__free(parent);
    return rc;
}

/* First the files that say what it is for: a folder without them is nothing, whenever the process ends. */
int osync__task_dir_remove(const char *dir, osync_error_t *err) {
    static const char *const names[] = {OSYNC__TASK_PROGRESS, OSYNC__HOLD_PROGRESS};
    int rc = 0;
    for (size_t i = 0; !rc && i < sizeof names / sizeof names[0]; i++) {
        char *path = osync__format("%s/%s", dir, names[i]);
        if (!path) return osync__err(err, OSYNC_ENOMEM, "out of memory");
        OSYNC__BEFORE(task_unlink);
        if (unlink(path) && errno != ENOENT) rc = osync__err_errno(err, errno, "unlink %s", path);
        OSYNC__AFTER(task_unlink);
        osync__free(path);
    }
    if (rc) return rc;
    OSYNC__BEFORE(folder_remove);
    rc = osync__rmtree(dir, err);
    OSYNC__AFTER(folder_remove);
    return rc;
}

/* Takes up a stored task. */
static void load_task(osync_collector_t *c, uint64_t key) {
    osync_error_t err;
    Openmldb__Datasync__AddSyncTaskRequest *request = NULL;
    osync__partition_t *p = NULL;
    int rc = read_task(c, key, &request, &err);
    if (!rc) {
        p = get_partition(c, key, &err);
        if (!p) {
            openmldb__datasync__add_sync_task_request__free_unpacked(request, &osync__protobuf_allocator);
            rc = err.code;
        }
    }
    if (!rc) rc = add_task(&p->active, p, request, NULL, &err);
    if (rc) {
        osync__log(OSYNC_LOG_ERROR, "collector: stored task %u-%u isn't taken up, and its folder is kept: %s",
                   (uint32_t)(key >> 32), (uint32_t)key, err.message);
        if (p) drop_if_unused(p);
        return;
    }
    osync__log(OSYNC_LOG_INFO, "collector: stored task %u-%u is taken up", (uint32_t)(key >> 32), (uint32_t)key);
    osync__task_go_on(p->active);
}

static int add_hold(osync__partition_t *p, Openmldb__Datasync__HoldLogRequest *request, osync__rpc_call_t *call,
                    uint64_t age_ms, osync_error_t *err) {
    p->users++; /* at once: a hold begins when it is made, and the source that it asks may close the collector */
    p->collector->n_users++;
    int rc = osync__hold_new(&p->hold, &p->collector->env, p, request, call, age_ms, err);
    if (!rc) return 0;
    p->users--;
    p->collector->n_users--;
    return rc;
}

/* Takes up a stored hold. */
static void load_hold(osync_collector_t *c, uint64_t key) {
    osync_error_t err;
    Openmldb__Datasync__HoldLogRequest *request = NULL;
    osync__partition_t *p = NULL;
    uint64_t now = osync__wall_ms(), asked = written_ms(c, key, OSYNC__HOLD_PROGRESS);
    int rc = read_hold(c, key, &request, &err);
    if (!rc) {
        p = get_partition(c, key, &err);
        if (!p) {
            openmldb__datasync__hold_log_request__free_unpacked(request, &osync__protobuf_allocator);
            rc = err.code;
        }
    }
    if (!rc) rc = add_hold(p, request, NULL, now > asked ? now - asked : 0, &err);
    if (rc) {
        osync__log(OSYNC_LOG_ERROR, "collector: stored hold %u-%u isn't taken up: %s", (uint32_t)(key >> 32),
                   (uint32_t)key, err.message);
        if (p) drop_if_unused(p);
        /* Nothing was promised; what it kept would stay for good. */
        char *dir = rc == OSYNC_ECORRUPT ? osync__task_dir(c->config.data_dir, key) : NULL;
        if (dir) (void)osync__task_dir_remove(dir, NULL);
        osync__free(dir);
    }
}

static void on_ready(osync__task_t *task) {
    osync__partition_t *p = osync__task_partition(task);
    p->active = task;
    p->incoming = NULL;
    p->untaken = false;
}

/* One user less. */
static void user_gone(osync__partition_t *p) {
    osync_collector_t *c = p->collector;
    uint64_t key = p->key;
    p->users--;
    c->n_users--;
    if (p->incoming) osync__task_go_on(p->incoming);
    bool again = p->untaken && !c->closing && p->users == 0;
    drop_if_unused(p);
    if (again && has_task(c, key))
        load_task(c, key);
    else if (again && has_hold(c, key))
        load_hold(c, key);
    if (c->closing && c->n_users == 0) close_parts(c);
}

static void on_ended(osync__task_t *task, bool untaken) {
    osync__partition_t *p = osync__task_partition(task);
    if (p->active == task) p->active = NULL;
    if (p->incoming == task) p->incoming = NULL;
    p->untaken |= untaken;
    user_gone(p);
}

static void on_hold_ended(osync__hold_t *hold) {
    osync__partition_t *p = osync__hold_partition(hold);
    p->hold = NULL;
    user_gone(p);
}

/* ---- requests ---- */

static Openmldb__Datasync__AddSyncTaskRequest *copy_request(const Openmldb__Datasync__AddSyncTaskRequest *r) {
    Openmldb__Datasync__AddSyncTaskRequest *copy = NULL;
    osync__buf_t bytes = {0};
    size_t len = openmldb__datasync__add_sync_task_request__get_packed_size(r);
    if (!osync__buf_reserve(&bytes, len + 1)) {
        bytes.len = openmldb__datasync__add_sync_task_request__pack(r, bytes.data);
        copy = openmldb__datasync__add_sync_task_request__unpack(&osync__protobuf_allocator, bytes.len, bytes.data);
    }
    osync__buf_free(&bytes);
    return copy;
}

static void on_add(osync__rpc_call_t *call, void *arg) {
    osync_collector_t *c = arg;
    osync_error_t err = {0};
    const Openmldb__Datasync__AddSyncTaskRequest *r =
        (const Openmldb__Datasync__AddSyncTaskRequest *)(const void *)osync__rpc_request(call);
    const char *token = r->token ? r->token : "";
    if (c->closing) {
        osync__answer(call, -1, "the collector is closing");
        return;
    }
    osync__partition_t *p = get_partition(c, (uint64_t)r->tid << 32 | r->pid, &err);
    if (!p) {
        osync__answer(call, -1, err.message);
        return;
    }
    if ((p->active && !strcmp(osync__task_token(p->active), token)) ||
        (p->incoming && !strcmp(osync__task_token(p->incoming), token))) {
        osync__answer(call, -1, "why send a same task?");
        return;
    }
    if (p->incoming && !osync__task_replaceable(p->incoming)) {
        osync__answer(call, -1, "another hand-out of this partition is being linked now, try again");
        return;
    }
    osync__task_t *old = p->incoming;
    Openmldb__Datasync__AddSyncTaskRequest *request = copy_request(r);
    int rc = request ? add_task(&p->incoming, p, request, call, &err) : osync__err(&err, OSYNC_ENOMEM, "out of memory");
    if (rc) {
        osync__answer(call, -1, err.message);
        drop_if_unused(p);
        return;
    }
    osync__task_t *task = p->incoming;
    if (old) osync__task_end(old, false);
    osync__task_go_on(task);
}

static Openmldb__Datasync__HoldLogRequest *copy_hold(const Openmldb__Datasync__HoldLogRequest *r) {
    Openmldb__Datasync__HoldLogRequest *copy = NULL;
    osync__buf_t bytes = {0};
    size_t len = openmldb__datasync__hold_log_request__get_packed_size(r);
    if (!osync__buf_reserve(&bytes, len + 1)) {
        bytes.len = openmldb__datasync__hold_log_request__pack(r, bytes.data);
        copy = openmldb__datasync__hold_log_request__unpack(&osync__protobuf_allocator, bytes.len, bytes.data);
    }
    osync__buf_free(&bytes);
    return copy;
}

static void on_hold(osync__rpc_call_t *call, void *arg) {
    osync_collector_t *c = arg;
    osync_error_t err = {0};
    const Openmldb__Datasync__HoldLogRequest *r =
        (const Openmldb__Datasync__HoldLogRequest *)(const void *)osync__rpc_request(call);
    uint64_t key = (uint64_t)r->tid << 32 | r->pid;
    osync__partition_t *p = find_partition(c, key);
    if (c->closing) {
        osync__hold_answer(call, -1, "the collector is closing", NULL);
        return;
    }
    if (p && (!p->hold || p->users > 1)) {
        /* A task has the folder, or is about to; it links more than a hold does. Or it is just being removed: the next
         * request finds it empty. */
        osync__hold_answer(call, 0, NULL, NULL);
        return;
    }
    if (r->release) {
        const char *task = r->task_id ? r->task_id : "";
        if (p && !strcmp(osync__hold_task(p->hold), task)) /* not that of a later task */
            osync__hold_end(p->hold, true, call);
        else
            osync__hold_answer(call, 0, NULL, NULL);
        return;
    }
    Openmldb__Datasync__HoldLogRequest *request = copy_hold(r);
    if (!request) {
        osync__hold_answer(call, -1, "out of memory", NULL);
        return;
    }
    if (p) {
        osync__hold_refresh(p->hold, request, call);
        return;
    }
    p = get_partition(c, key, &err);
    if (!p)
        openmldb__datasync__hold_log_request__free_unpacked(request, &osync__protobuf_allocator);
    else if (!add_hold(p, request, call, 0, &err))
        return;
    else
        drop_if_unused(p);
    osync__hold_answer(call, -1, err.message, NULL);
}

/* ---- the budget of disk space ---- */

static uint64_t all_pinned(const osync_collector_t *c) {
    uint64_t sum = 0;
    for (const osync__partition_t *p = c->partitions; p; p = p->hh.next) {
        osync__hold_status_t s = {0};
        if (p->hold) osync__hold_status(p->hold, &s);
        sum += s.pinned_bytes + (p->active ? osync__task_pinned(p->active) : 0);
    }
    return sum;
}

/* Why something has to be given up, in `out`; false: nothing has to. */
static bool over_budget(const osync_collector_t *c, char *out, size_t size) {
    uint64_t pinned = all_pinned(c), most = c->config.max_pinned_bytes;
    /* Whatever else fills the disk is nothing that giving up links would mend. */
    if (pinned == 0) return false;
    if (most > 0 && pinned > most) {
        (void)snprintf(out, size,
                       "all links of this collector kept %llu bytes that the TabletServer has deleted, and "
                       "--max_pinned_bytes allows %llu",
                       (unsigned long long)pinned, (unsigned long long)most);
        return true;
    }
    uint64_t percent = c->disk_bytes / 100;
    if (c->disk_known && percent > 0 && c->free_bytes < percent * c->config.min_free_percent) {
        (void)snprintf(out, size,
                       "%llu bytes (%llu %%) of the file system of %.200s were free, less than --min_free_percent "
                       "(%u), and all links of this collector kept %llu bytes that the TabletServer has deleted",
                       (unsigned long long)c->free_bytes, (unsigned long long)(c->free_bytes / percent),
                       c->config.data_dir, c->config.min_free_percent, (unsigned long long)pinned);
        return true;
    }
    return false;
}

/* One at a time, the largest first, holds before tasks: whether that was enough is seen the next time. The first time,
 * some may not have been counted yet since the tablet has deleted something. */
static void keep_budget(osync_collector_t *c) {
    char why[700], all[600];
    osync__partition_t *held = NULL, *active = NULL;
    uint64_t most_held = 0, most_active = 0;
    bool was_over = c->over;
    c->over = over_budget(c, all, sizeof all);
    if (!was_over || !c->over) return;
    for (osync__partition_t *p = c->partitions; p; p = p->hh.next) {
        osync__hold_status_t s = {0};
        if (p->hold) osync__hold_status(p->hold, &s);
        if (s.pinned_bytes > most_held) {
            most_held = s.pinned_bytes;
            held = p;
        }
        if (p->active && !p->incoming && osync__task_pinned(p->active) > most_active) {
            most_active = osync__task_pinned(p->active);
            active = p;
        }
    }
    if (held) {
        osync__log(OSYNC_LOG_WARN, "collector: hold %u-%u, which kept %llu bytes, is given up: %s",
                   (uint32_t)(held->key >> 32), (uint32_t)held->key, (unsigned long long)most_held, all);
        osync__hold_end(held->hold, true, NULL);
    } else if (active) {
        (void)snprintf(why, sizeof why, "its links were given up, which kept %llu bytes: %s",
                       (unsigned long long)most_active, all);
        (void)osync__task_give_up(active->active, why);
    }
}

static void on_disk(uv_fs_t *req) {
    osync_collector_t *c = req->data;
    const uv_statfs_t *s = req->ptr;
    c->disk_known = req->result == 0;
    if (c->disk_known) {
        c->free_bytes = s->f_bavail * s->f_bsize;
        c->disk_bytes = s->f_blocks * s->f_bsize;
    }
    uv_fs_req_cleanup(req);
    c->disk_asked = false;
    if (!c->closing) keep_budget(c);
    if (c->closing && c->n_users == 0) close_parts(c);
}

/* Who keeps others waiting and hasn't got any further for a while, since nobody takes its rows, makes room: the one
 * that stands still for longest. */
static void make_room(osync_collector_t *c, const osync__budget_t *line, bool place) {
    osync__task_t *stalled = NULL;
    uint64_t longest = 2 * (uint64_t)c->config.heartbeat_ms;
    if (osync__budget_waited(line) == 0) return;
    for (osync__partition_t *p = c->partitions; p; p = p->hh.next) {
        uint64_t ms = p->active ? osync__task_stalled(p->active, place) : 0;
        if (ms < longest) continue;
        longest = ms;
        stalled = p->active;
    }
    if (stalled) osync__task_yield(stalled, place);
}

static void on_budget_timer(uv_timer_t *timer) {
    osync_collector_t *c = timer->data;
    make_room(c, &c->traverses, true);
    make_room(c, &c->reading, false);
    if (c->disk_asked) return;
    c->disk.data = c;
    c->disk_asked = uv_fs_statfs(c->loop, &c->disk, c->config.data_dir, on_disk) == 0;
}

static void on_status_page(osync__rpc_call_t *call, void *arg) {
    const osync_collector_t *c = arg;
    osync__status_page_t page = {
        .endpoint = c->endpoint,
        .uptime_ms = osync__mono_ms() - c->started_ms,
        .registered = c->registered,
        .config = &c->config,
        .pinned_bytes = all_pinned(c),
        .bytes_in_flight = c->reading.used,
        .traverses = c->traverses.used,
        .disk_known = c->disk_known,
        .free_bytes = c->free_bytes,
        .disk_bytes = c->disk_bytes,
        .partitions = c->partitions,
    };
    osync__status_reply(call, &page);
}

static const osync__rpc_method_t methods[] = {
    {"openmldb.datasync.DataCollector", "AddSyncTask", &openmldb__datasync__add_sync_task_request__descriptor,
     &openmldb__datasync__general_response__descriptor, on_add},
    {"openmldb.datasync.DataCollector", "HoldLog", &openmldb__datasync__hold_log_request__descriptor,
     &openmldb__datasync__hold_log_response__descriptor, on_hold},
};
static const osync__rpc_page_t pages[] = {{"/status", on_status_page}};

/* ---- ZooKeeper ---- */

static void try_register(osync_collector_t *c);

static void on_register_timer(uv_timer_t *timer) {
    try_register(timer->data);
}

static void register_later(osync_collector_t *c) {
    c->register_delay = c->register_delay < REGISTER_MIN_MS        ? REGISTER_MIN_MS
                        : c->register_delay >= REGISTER_MAX_MS / 2 ? REGISTER_MAX_MS
                                                                   : c->register_delay * 2;
    uv_timer_start(&c->register_timer, on_register_timer, c->register_delay, 0);
}

static void on_registered(void *arg, int status, const osync_error_t *err) {
    osync_collector_t *c = arg;
    c->registering = false;
    if (c->closing) return;
    if (status) {
        osync__log(OSYNC_LOG_WARN, "collector: %s can't be registered as %s: %s", c->endpoint, c->register_path,
                   err ? err->message : osync_strerror(status));
        register_later(c);
        return;
    }
    c->registered = true;
    c->register_delay = 0;
    osync__log(OSYNC_LOG_INFO, "collector: registered as %s", c->register_path);
}

static void try_register(osync_collector_t *c) {
    if (c->closing || c->registering || !c->zk || !osync__zk_connected(c->zk)) return; /* on_session comes */
    c->registering = true;
    int rc = osync__zk_register(c->zk, c->register_path, c->endpoint, strlen(c->endpoint), on_registered, c);
    if (rc) {
        c->registering = false;
        osync__log(OSYNC_LOG_WARN, "collector: %s can't be registered: %s", c->endpoint, osync_strerror(rc));
        register_later(c);
    }
}

static void on_session(void *arg, bool connected) {
    osync_collector_t *c = arg;
    if (c->closing) return;
    c->registered = false;
    if (!connected) {
        osync__log(OSYNC_LOG_WARN, "collector: the connection to ZooKeeper %s is lost", c->config.zk_cluster);
        return;
    }
    c->register_delay = 0;
    if (c->registering)
        register_later(c); /* that one was for the former session */
    else
        try_register(c);
}

/* ---- start ---- */

static int lock_data_dir(osync_collector_t *c, osync_error_t *err) {
    const char *dir = c->config.data_dir;
    int rc = osync__mkdirs(dir, err);
    if (rc) return rc;
    char *path = osync__format("%s/lock", dir);
    if (!path) return osync__err(err, OSYNC_ENOMEM, "out of memory");
    c->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (c->lock < 0)
        rc = osync__err_errno(err, errno, "open %s", path);
    else if (flock(c->lock, LOCK_EX | LOCK_NB))
        rc = errno == EWOULDBLOCK ? osync__err(err, OSYNC_ECONFIG,
                                               "data folder %s is in use by another collector: give each its own", dir)
                                  : osync__err_errno(err, errno, "lock %s", path);
    osync__free(path);
    return rc;
}

/* "<tid>-<pid>" */
static bool task_key(const char *name, uint64_t *key) {
    unsigned tid, pid;
    char again[32];
    if (sscanf(name, "%u-%u", &tid, &pid) != 2) return false;
    (void)snprintf(again, sizeof again, "%u-%u", tid, pid);
    *key = (uint64_t)tid << 32 | pid;
    return !strcmp(name, again);
}

/* Removes a folder that holds no progress: it is what a hand-out or a removal left that was cut short. Nobody was told
 * that it holds something. False: it holds progress. */
static bool remove_remnant(const osync_collector_t *c, uint64_t key) {
    osync_error_t err;
    if (has_task(c, key) || has_hold(c, key)) return false;
    char *dir = osync__task_dir(c->config.data_dir, key);
    if (!dir) return false;
    osync__log(OSYNC_LOG_INFO, "collector: %s holds no task: removed", dir);
    OSYNC__BEFORE(remnant_remove);
    if (osync__rmtree(dir, &err)) osync__log(OSYNC_LOG_WARN, "collector: %s", err.message);
    OSYNC__AFTER(remnant_remove);
    osync__free(dir);
    return true;
}

static int load_tasks(osync_collector_t *c, osync_error_t *err) {
    uint64_t key;
    DIR *d = opendir(c->config.data_dir);
    if (!d) return osync__err_errno(err, errno, "open the data folder %s", c->config.data_dir);
    for (struct dirent *e; !c->closing && (e = readdir(d));)
        if (task_key(e->d_name, &key) && !remove_remnant(c, key)) {
            if (has_task(c, key))
                load_task(c, key);
            else
                load_hold(c, key);
        }
    closedir(d);
    return 0;
}

/* "host:port", "[::1]:port" */
static int split_endpoint(const char *endpoint, char *host, size_t size, int *port, osync_error_t *err) {
    const char *colon = strrchr(endpoint, ':');
    char *end = NULL;
    size_t len = colon ? (size_t)(colon - endpoint) : 0;
    unsigned long n = colon ? strtoul(colon + 1, &end, 10) : 0;
    if (!colon || len == 0 || len >= size || end == colon + 1 || *end || n > 65535)
        return osync__err(err, OSYNC_ECONFIG, "endpoint '%s' isn't host:port", endpoint);
    const char *from = endpoint;
    if (from[0] == '[' && len > 2 && from[len - 1] == ']') {
        from++;
        len -= 2;
    }
    memcpy(host, from, len);
    host[len] = 0;
    *port = (int)n;
    return 0;
}

static int listen_on(osync_collector_t *c, osync_error_t *err) {
    char host[256];
    int port = 0;
    int rc = split_endpoint(c->config.endpoint, host, sizeof host, &port, err);
    if (rc) return rc;
    osync__rpc_server_config_t server = {
        .host = host,
        .port = port,
        .max_body_size = c->config.max_body_size,
        .json_style = OSYNC__JSON_BRPC,
        .methods = methods,
        .n_methods = sizeof methods / sizeof methods[0],
        .pages = pages,
        .n_pages = sizeof pages / sizeof pages[0],
        .arg = c,
    };
    rc = osync__rpc_server_new(c->loop, &server, &c->server, err);
    if (rc) return rc;
    c->endpoint = osync__format("%.*s:%d", (int)(strrchr(c->config.endpoint, ':') - c->config.endpoint),
                                c->config.endpoint, osync__rpc_server_port(c->server));
    if (c->endpoint) c->register_path = osync__format("%s/sync_tool/collector/%s", c->config.zk_root_path, c->endpoint);
    return c->register_path ? 0 : osync__err(err, OSYNC_ENOMEM, "out of memory");
}

int osync_collector_start(osync_collector_t *c, osync_error_t *err) {
    c->started_ms = osync__mono_ms();
    int rc = lock_data_dir(c, err);
    if (!rc) rc = listen_on(c, err); /* before it is registered: who finds it can call it */
    if (!rc) {
        osync__rpc_client_config_t client = {.max_body_size = c->config.max_body_size, .auth = "sdefault"};
        rc = osync__rpc_client_new(c->loop, &client, &c->client, err);
    }
    if (!rc) rc = osync__pool_new(c->loop, c->config.worker_threads, &c->pool, err);
    if (!rc) rc = osync__pool_new(c->loop, c->config.worker_threads, &c->long_pool, err);
    if (!rc && osync__places_new(c->loop, &c->config, &c->places)) rc = osync__err(err, OSYNC_ENOMEM, "out of memory");
    if (!rc && !c->config.source) {
        osync__tablet_source_config_t source = {.client = c->client,
                                                .pool = c->pool,
                                                .db_root_path = c->config.db_root_path,
                                                .request_timeout_ms = c->config.request_timeout_ms};
        rc = osync__tablet_source_new(&c->tablet_source, &source, err);
    }
    if (rc) return rc;
    c->env = (osync__task_env_t){.loop = c->loop,
                                 .pool = c->pool,
                                 .long_pool = c->long_pool,
                                 .client = c->client,
                                 .source = c->config.source ? c->config.source : c->tablet_source,
                                 .config = &c->config,
                                 .reading = &c->reading,
                                 .traverses = &c->traverses,
                                 .places = c->places,
                                 .ready = on_ready,
                                 .ended = on_ended,
                                 .hold_ended = on_hold_ended};
    c->reading = (osync__budget_t){.limit = c->config.max_bytes_in_flight,
                                   .one_beyond = true,
                                   .max_read_rate = c->config.max_read_rate,
                                   .max_cpu_percent = c->config.max_cpu_percent};
    c->traverses = (osync__budget_t){.limit = c->config.max_traverses};
    osync__budget_init(&c->reading, c->loop);
    c->has_budgets = true;
    uv_timer_start(&c->budget_timer, on_budget_timer, 0, c->config.heartbeat_ms);
    rc = load_tasks(c, err);
    if (!rc && c->closing) rc = osync__err(err, OSYNC_ECANCELED, "the collector was closed while it started");
    if (rc || !c->config.zk_cluster[0]) return rc;
    osync__zk_config_t zk = {
        .cluster = c->config.zk_cluster,
        .session_timeout_ms = c->config.zk_session_timeout_ms,
        .auth_schema = c->config.zk_auth_schema,
        .cert = c->config.zk_cert,
        .on_session = on_session,
        .arg = c,
    };
    return osync__zk_new(c->loop, &zk, &c->zk, err);
}

int osync_collector_port(const osync_collector_t *c) {
    return c->server ? osync__rpc_server_port(c->server) : 0;
}

/* ---- make and end ---- */

static int check_config(const osync_collector_config_t *c, osync_error_t *err) {
    if (!c->endpoint || !c->data_dir || !c->data_dir[0])
        return osync__err(err, OSYNC_ECONFIG, "collector configuration: endpoint and data_dir must be given");
    if (c->max_pack_size == 0 || c->max_pack_size > c->max_body_size || c->max_body_size > INT32_MAX)
        return osync__err(
            err, OSYNC_ECONFIG,
            "collector configuration: max_pack_size must be from 1 to max_body_size (%llu), and that at most %d",
            (unsigned long long)c->max_body_size, INT32_MAX);
    if (c->worker_threads == 0 || c->worker_threads > MAX_THREADS)
        return osync__err(err, OSYNC_ECONFIG, "collector configuration: worker_threads must be from 1 to %d",
                          MAX_THREADS);
    if (c->heartbeat_ms == 0 || c->request_timeout_ms == 0)
        return osync__err(err, OSYNC_ECONFIG,
                          "collector configuration: heartbeat_ms and request_timeout_ms must not be 0");
    if (c->min_free_percent > 100 || c->hold_expire_ms == 0)
        return osync__err(
            err, OSYNC_ECONFIG,
            "collector configuration: min_free_percent must be from 0 to 100, and hold_expire_ms not be 0");
    if (c->max_bytes_in_flight == 0 || c->max_traverses == 0)
        return osync__err(err, OSYNC_ECONFIG,
                          "collector configuration: max_bytes_in_flight and max_traverses must not be 0");
    if (c->data_path && *c->data_path && strcmp(c->data_path, "auto") != 0 && strcmp(c->data_path, "proxy") != 0)
        return osync__err(err, OSYNC_ECONFIG,
                          "collector configuration: data_path is \"%.40s\": it must be auto or proxy", c->data_path);
    return c->source ? osync__ask_check(c->source, err) : 0;
}

static void free_collector(osync_collector_t *c) {
    for (size_t i = 0; i < sizeof c->strings / sizeof c->strings[0]; i++) osync__free(c->strings[i]);
    osync__free(c->endpoint);
    osync__free(c->register_path);
    osync__tablet_source_free(c->tablet_source);
    if (c->lock >= 0) close(c->lock);
    osync__free(c);
}

int osync_collector_new(osync_collector_t **out, uv_loop_t *loop, const osync_collector_config_t *config,
                        osync_error_t *err) {
    osync_collector_config_t own = defaults;
    int rc = osync__config_take(&own, sizeof own, config, "osync_collector_config_init", err);
    if (!rc) rc = check_config(&own, err);
    if (rc) return rc;
    osync_collector_t *c = osync__calloc(1, sizeof *c);
    if (!c) return osync__err(err, OSYNC_ENOMEM, "out of memory");
    c->loop = loop;
    c->config = own;
    c->lock = -1;
    const char **fields[] = {&c->config.endpoint,       &c->config.zk_cluster, &c->config.zk_root_path,
                             &c->config.zk_auth_schema, &c->config.zk_cert,    &c->config.data_dir,
                             &c->config.db_root_path,   &c->config.data_path,  &c->config.hadoop_conf_dir,
                             &c->config.hadoop_user};
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        c->strings[i] = osync__strdup(*fields[i] ? *fields[i] : "");
        *fields[i] = c->strings[i];
        if (!c->strings[i]) rc = osync__err(err, OSYNC_ENOMEM, "out of memory");
    }
    if (rc) {
        free_collector(c);
        return rc;
    }
    uv_timer_init(loop, &c->register_timer);
    uv_timer_init(loop, &c->budget_timer);
    c->register_timer.data = c->budget_timer.data = c;
    *out = c;
    return 0;
}

static void on_part_closed(void *arg) {
    osync_collector_t *c = arg;
    if (--c->to_close > 0) return;
    void (*closed)(void *) = c->closed;
    void *closed_arg = c->closed_arg;
    free_collector(c);
    if (closed) closed(closed_arg);
}

static void on_timer_closed(uv_handle_t *h) {
    on_part_closed(h->data);
}

/* No task is left that uses them. */
static void close_parts(osync_collector_t *c) {
    if (c->parts_closing || c->disk_asked) return;
    c->parts_closing = true;
    c->to_close = 2u + (c->server ? 1u : 0u) + (c->client ? 1u : 0u) + (c->pool ? 1u : 0u) + (c->long_pool ? 1u : 0u) +
                  (c->zk ? 1u : 0u) + (c->has_budgets ? 1u : 0u) + (c->places ? 1u : 0u);
    if (c->server) osync__rpc_server_close(c->server, on_part_closed, c);
    if (c->client) osync__rpc_client_close(c->client, on_part_closed, c);
    if (c->pool) osync__pool_close(c->pool, on_part_closed, c);
    if (c->long_pool) osync__pool_close(c->long_pool, on_part_closed, c);
    if (c->zk) osync__zk_close(c->zk, on_part_closed, c);
    if (c->places) osync__places_close(c->places, on_part_closed, c);
    if (c->has_budgets) osync__budget_close(&c->reading, on_timer_closed, c);
    uv_close((uv_handle_t *)&c->register_timer, on_timer_closed);
    uv_close((uv_handle_t *)&c->budget_timer, on_timer_closed);
}

void osync_collector_close(osync_collector_t *c, void (*cb)(void *arg), void *arg) {
    osync__partition_t *p, *next;
    if (!c) return;
    c->closing = true;
    c->closed = cb;
    c->closed_arg = arg;
    uv_timer_stop(&c->register_timer);
    uv_timer_stop(&c->budget_timer);
    HASH_ITER(hh, c->partitions, p, next) {
        osync__task_t *active = p->active, *incoming = p->incoming;
        osync__hold_t *hold = p->hold;
        if (incoming) osync__task_end(incoming, false);
        if (active) osync__task_end(active, false);
        if (hold) osync__hold_end(hold, false, NULL);
    }
    if (c->n_users == 0) close_parts(c);
}
