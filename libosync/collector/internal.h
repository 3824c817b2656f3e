/* What collector.c (the port, ZooKeeper, the set of tasks, the budget of disk space), task.c (one partition that is
 * read) and hold.c (one whose log is only kept) know of each other. Loop thread only, unless said otherwise. */
#ifndef OSYNC_COLLECTOR_INTERNAL_H
#define OSYNC_COLLECTOR_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/buf.h"
#include "base/hash.h"
#include "base/pool.h"
#include "collector/budget.h"
#include "collector/places.h"
#include "data_sync.pb-c.h"
#include "net/rpc.h"
#include "osync/collector.h"

typedef struct osync__task osync__task_t;
typedef struct osync__hold osync__hold_t;

/* One partition. While a new task is set up, the one it replaces goes on until the source has answered. It is held or
 * has tasks, but for a hand-out that isn't linked yet. */
typedef struct osync__partition {
    uint64_t key; /* tid << 32 | pid */
    osync_collector_t *collector;
    osync__task_t *active;
    osync__task_t *incoming;
    osync__hold_t *hold;
    unsigned users; /* of its folder that are not freed yet: these three, and those that are ending */
    bool untaken;   /* a hand-out has come to nothing, so that what is stored may have to be taken up again */
    UT_hash_handle hh;
} osync__partition_t;

/* What tasks share. */
typedef struct osync__task_env {
    uv_loop_t *loop;
    osync__pool_t *pool; /* for jobs of about a second at most */
    osync__pool_t
        *long_pool; /* for opening readers, whose replay may take minutes: links and packs don't wait for it */
    osync__rpc_client_t *client;
    osync_source_t *source;
    osync__places_t *places; /* where they write themselves */
    const osync_collector_config_t *config;
    osync__budget_t *reading;   /* bytes in flight, and the pace of reading */
    osync__budget_t *traverses; /* snapshots that are open */
    /* A handed-out task is set up, and takes the place of the active one, which has ended. */
    void (*ready)(osync__task_t *task);
    /* The task has ended and is freed after this returns. `untaken`: it was handed out and never set up, so that a task
     * before it may still be stored in the folder. */
    void (*ended)(osync__task_t *task, bool untaken);
    void (*hold_ended)(osync__hold_t *hold); /* likewise */
} osync__task_env_t;

/* Takes `request` in any case. `call`: the AddSyncTask to answer; NULL: a stored task, which tries again until it
 * succeeds. */
int osync__task_new(osync__task_t **out, const osync__task_env_t *env, osync__partition_t *partition,
                    Openmldb__Datasync__AddSyncTaskRequest *request, osync__rpc_call_t *call, osync_error_t *err);
/* Something that it waits for has happened: go on. */
void osync__task_go_on(osync__task_t *task);
/* Ends it: open calls are answered or canceled, the worker's job is waited for, then `ended` is called. `remove`: its
 * folder goes too. */
void osync__task_end(osync__task_t *task, bool remove);

const char *osync__task_token(const osync__task_t *task);
osync__partition_t *osync__task_partition(const osync__task_t *task);
/* True until the source has answered: its place can be taken by a newer one. */
bool osync__task_replaceable(const osync__task_t *task);

typedef struct osync__task_status {
    uint32_t tid, pid;
    const char *state, *reason, *scheduler, *tablet; /* valid until the loop goes on */
    bool failed;
    bool direct; /* it writes staged files itself */
    uint64_t staged_rows, staged_bytes;
    char point[128], committed[128];
    uint64_t rows_sent, log_tail, snapshot_rows, link_files, link_bytes, pinned_bytes;
} osync__task_status_t;

void osync__task_status(const osync__task_t *task, osync__task_status_t *out);

/* Bytes of files that only its links keep, as they were last counted. */
uint64_t osync__task_pinned(const osync__task_t *task);
/* Its links go, and it is FAILED until it is handed out anew; `why` begins the reason. False: it is about to end, or
 * has no links, so that nothing is done. */
bool osync__task_give_up(osync__task_t *task, const char *why);
/* How long nothing of it has moved while it has a snapshot open (`place`), or else rows in flight that it can read
 * again; in ms. 0: it has none. */
uint64_t osync__task_stalled(const osync__task_t *task, bool place);
/* Gives that up, and waits in line again. */
void osync__task_yield(osync__task_t *task, bool place);

/* ---- holds ---- */

/* Takes `request` in any case, and begins. `call`: the HoldLog to answer; NULL: a stored hold, last asked for age_ms
 * ago. */
int osync__hold_new(osync__hold_t **out, const osync__task_env_t *env, osync__partition_t *partition,
                    Openmldb__Datasync__HoldLogRequest *request, osync__rpc_call_t *call, uint64_t age_ms,
                    osync_error_t *err);
/* HoldLog once more. Takes `request` in any case. */
void osync__hold_refresh(osync__hold_t *hold, Openmldb__Datasync__HoldLogRequest *request, osync__rpc_call_t *call);
/* Ends it; what it waits for and does is waited for, then `hold_ended` is called. `remove`: the folder goes too. `call`
 * (may be NULL): a HoldLog that is answered then. */
void osync__hold_end(osync__hold_t *hold, bool remove, osync__rpc_call_t *call);

osync__partition_t *osync__hold_partition(const osync__hold_t *hold);
const char *osync__hold_task(const osync__hold_t *hold);

typedef struct osync__hold_status {
    uint32_t tid, pid;
    const char *task_id, *tablet, *reason; /* valid until the loop goes on */
    uint64_t first, last;                  /* log entries */
    uint64_t link_files, link_bytes, pinned_bytes, expires_ms;
} osync__hold_status_t;

void osync__hold_status(const osync__hold_t *hold, osync__hold_status_t *out);
/* Answers HoldLog; status NULL: nothing is held. */
void osync__hold_answer(osync__rpc_call_t *call, int code, const char *message, const osync__hold_status_t *status);

/* ---- folders ---- */

/* <data_dir>/<tid>-<pid>, the caller's to free; NULL: out of memory. And the files in it: the AddSyncTask or the
 * HoldLog that it is for. */
char *osync__task_dir(const char *data_dir, uint64_t key);
#define OSYNC__TASK_PROGRESS "task.progress"
enum { OSYNC__PROGRESS_LIMIT = 16 << 20 }; /* bytes of one */
#define OSYNC__HOLD_PROGRESS "hold.progress"
/* Makes it, if it isn't there, as a durable step. Blocks. */
int osync__task_dir_make(const char *dir, osync_error_t *err);
/* Removes it. Blocks. */
int osync__task_dir_remove(const char *dir, osync_error_t *err);

/* Answers AddSyncTask. */
void osync__answer(osync__rpc_call_t *call, int code, const char *message);

/* GET /status: text, or JSON with ?format=json. */
typedef struct osync__status_page {
    const char *endpoint;
    uint64_t uptime_ms;
    bool registered;
    const osync_collector_config_t *config;
    uint64_t pinned_bytes, bytes_in_flight, traverses;
    bool disk_known;
    uint64_t free_bytes, disk_bytes;
    const osync__partition_t *partitions; /* a uthash */
} osync__status_page_t;
void osync__status_reply(osync__rpc_call_t *call, const osync__status_page_t *page);

#endif
