/* What the scheduler's sources share: its objects, and who does what with them.
 *
 *   scheduler.c  the object: start, stored tasks, the periodic check, close
 *   task.c       the objects of a task, DeleteSyncTask, the end of a task
 *   create.c     CreateSyncTask and RecoverSyncTask
 *   earlier.c    what a destination holds of earlier tasks
 *   restart.c    the removal of that
 *   import.c     tasks that OpenMLDB's SyncTool has left
 *   export.c     the way back
 *   place.c      leader and followers of a partition, and the collectors on their machines
 *   assign.c     handing a partition out, RetrySyncTask
 *   hold.c       collectors beside followers, and beside the one that reads, are asked to keep the log
 *   collectors.c the list of collectors
 *   send.c       SendData
 *   direct.c     which collectors may write staged files themselves
 *   status.c     TaskStatus and the status page
 *   verify.c     VerifySyncTask
 *   audit.c      the audit of a destination's files
 *   record.c     records in the checkpoint store
 *   point.c      sync points, small helpers
 *
 * Everything runs on the loop's thread but the encoding of a pack. */
#ifndef OSYNC_SCHEDULER_INTERNAL_H
#define OSYNC_SCHEDULER_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "base/buf.h"
#include "base/hash.h"
#include "base/pool.h"
#include "data_sync.pb-c.h"
#include "delivery/delivery.h"
#include "net/rpc.h"
#include "osync/checkpoint.h"
#include "osync/csv.h"
#include "osync/scheduler.h"
#include "scheduler/catalog.h"
#include "scheduler/hosts.h"
#include "scheduler/scheduler.pb-c.h"
#include "sink/sinks.h"

enum {
    OSYNC__MAX_TASKS = 10000,
    OSYNC__MAX_SUBTASKS = 100000,      /* of all tasks together */
    OSYNC__MAX_CREATES = 64,           /* CreateSyncTask requests at once */
    OSYNC__MAX_DELETES = 64,           /* DeleteSyncTask and clear_all requests at once */
    OSYNC__MAX_VERIFIES = 4,           /* VerifySyncTask requests at once */
    OSYNC__MAX_NAME = 1024,            /* bytes of a database's or a table's name */
    OSYNC__MAX_ADDS = 64,              /* AddSyncTask calls at once */
    OSYNC__MAX_IDLE_CSV = 4,           /* encoders kept for a table */
    OSYNC__CREATE_DEADLINE_MS = 60000, /* for the destination of a new task to become ready */
    OSYNC__REMOVE_ANSWER_MS = 20000,   /* who waits for the end of a task is told by then that it isn't there yet */
    OSYNC__PUT_OFF_MS = 5000,          /* a collector pauses as long at most after an answer that isn't 0 */
    OSYNC__HOLD_PERIOD_MS = 30000,     /* or three check periods, if that is longer */
    OSYNC__HOLD_UNKNOWN_MS = 600000,   /* before a collector that doesn't know HoldLog is asked again */
    OSYNC__HOLD_TASKS = 4,             /* whose followers are looked for at once */
    OSYNC__MAX_RECORD = 1 << 20,       /* bytes, as the store has it */
    OSYNC__ADOPT_FAILURES = 3,         /* in a row, and the rows go by way of the scheduler */
    OSYNC__PROXY_MS = 300000,          /* for as long */
    OSYNC__ZONE_SIZE = 128,
};
/* An encoder that had to grow beyond this isn't kept. */
#define OSYNC__MAX_IDLE_CSV_BYTES (4u << 20)

typedef struct osync__task osync__task_t;
typedef struct osync__sub osync__sub_t;
typedef struct osync__work osync__work_t;
typedef struct osync__verify osync__verify_t;
typedef struct osync__import osync__import_t;
typedef struct osync__hold osync__hold_t;
typedef struct osync__hold_call osync__hold_call_t;
typedef struct osync__seen osync__seen_t;
typedef struct osync__place osync__place_t;

/* ---- records ---- */

/* One key of the store. What it should hold is made by `pack` when it is written; a write that fails is tried again. */
typedef struct osync__record {
    osync_scheduler_t *s;
    char key[80];
    osync__buf_t stored, writing;
    bool exists;   /* the store holds `stored` */
    bool busy;     /* a call to the store is under way */
    bool dirty;    /* something newer than `writing` is to be written */
    bool failed;   /* the last try failed: the next tick tries again */
    bool removing; /* nothing is to be held */
    int (*pack)(void *owner, osync__buf_t *out);
    void (*settled)(void *owner); /* the store holds what it should; may come from inside osync__record_put */
    void *owner;
} osync__record_t;

void osync__sched_record_init(osync__record_t *r, osync_scheduler_t *s, int (*pack)(void *, osync__buf_t *),
                              void (*settled)(void *), void *owner);
int osync__sched_record_loaded(osync__record_t *r, const void *value, size_t len);
void osync__sched_record_put(osync__record_t *r);
void osync__sched_record_remove(osync__record_t *r);
void osync__sched_record_retry(osync__record_t *r);
bool osync__sched_record_idle(const osync__record_t *r); /* nothing under way, nothing to do */
void osync__sched_record_free(osync__record_t *r);

/* ---- tables ---- */

/* A table's description in one of its versions, and encoders for it. */
typedef struct osync__schema {
    size_t refs;
    osync_table_t *table;
    size_t n_columns;
    char *timezone; /* NULL: the machine's */
    osync_csv_t *idle[OSYNC__MAX_IDLE_CSV];
    size_t n_idle;
} osync__schema_t;

int osync__sched_schema_new(osync__schema_t **out, const void *info, size_t len, const char *timezone,
                            osync_error_t *err);
void osync__sched_schema_unref(osync__schema_t *schema);
/* Gives an encoder back. */
void osync__sched_schema_keep(osync__schema_t *schema, osync_csv_t *csv);

/* ---- subtasks: one partition of a task ---- */

typedef enum osync__handout {
    OSYNC__HANDOUT_NONE,
    OSYNC__HANDOUT_SAVING,  /* the new token is being stored */
    OSYNC__HANDOUT_READY,   /* delivery goes back to the committed point */
    OSYNC__HANDOUT_QUEUED,  /* waits for its turn */
    OSYNC__HANDOUT_CALLING, /* AddSyncTask is under way */
} osync__handout_t;

struct osync__sub {
    osync__task_t *task;
    uint32_t pid;
    Osync__Scheduler__Status status;
    Osync__Scheduler__Cause cause;
    char token[37];
    char *tablet, *des_endpoint, *collector; /* as handed out */
    char *reason;                            /* NULL: nothing to say */
    osync__record_t record;

    osync__delivery_t *delivery;
    bool ready;         /* delivery takes rows; `end` is valid */
    bool known;         /* the committed point is known */
    bool delivery_gone; /* it was removed for good */
    bool delivery_ending;
    bool delivery_closing;   /* a new one takes its place */
    osync__buf_t first;      /* where the partition begins; empty: at the beginning */
    osync__buf_t end;        /* the point up to which rows were taken */
    osync__buf_t last_start; /* where the last accepted request began; empty: not known */
    size_t columns;          /* of the last rows written */
    osync__work_t *work;     /* the request that is being worked on */

    osync__handout_t handout;
    uint64_t rpc_id;
    bool heard;                  /* a SendData with the present token has come */
    bool put_off;                /* its last answer was "not now" */
    bool retry;                  /* RetrySyncTask asked for a new hand-out */
    bool look;                   /* its leader may have moved: the next check looks */
    bool imported;               /* its first token is another scheduler's, see StartPoint */
    uint64_t seen_mono, seen_ms; /* last sign of life */
    char *failed_collector;      /* the one that could not take it last time */
    bool placing;                /* osync__sched_place is to find a place for it */
    char *place_tablet, *place_collector;
    char *place_error; /* why there is none */
    bool place_waits;  /* and waiting can mend that */
    bool place_away;

    osync__hold_t *held; /* where the log is held for a fail-over or a take-over */

    char phase[32]; /* of the collector's last report */
    uint64_t snapshot_rows, log_tail;
    bool direct;                        /* it writes the staged files itself */
    uint64_t direct_rows, direct_bytes; /* of the file that it is writing, as it says */
    unsigned adopt_failures;            /* files in a row that it has written and that could not be committed */
    uint64_t proxy_until;               /* so it isn't let do it before; 0: it is */
    osync__sub_t *prev, *next;          /* in the queue of calls */
};

/* ---- tasks ---- */

typedef enum osync__task_state { OSYNC__TASK_CREATING, OSYNC__TASK_ACTIVE, OSYNC__TASK_REMOVING } osync__task_state_t;

/* `pending` NULL: nothing of the task is left but its committed files. Else it says what keeps the removal, which goes
 * on by itself. */
typedef void (*osync__removed_cb)(void *arg, const char *pending);

typedef struct osync__waiter {
    osync__removed_cb cb;
    void *arg;
    uint64_t deadline;
    struct osync__waiter *next;
} osync__waiter_t;

struct osync__task {
    osync_scheduler_t *s;
    osync__task_state_t state;
    char id[37];
    uint32_t tid;
    char *db, *name;
    int mode;
    bool has_start_ts;
    uint64_t start_ts;
    char *dest, *target, *timezone;
    uint64_t created_ms;
    bool rebuild, start_over; /* see TaskRecord */
    bool recovers;            /* its creation goes on though a partition can't be handed out now */
    bool has_imported_crc;
    uint32_t imported_crc;
    osync__import_t *import; /* what it was made of has its old name yet */
    osync__record_t record;
    osync_sink_t *sink;
    const char *path; /* of dest within the sink */
    bool probed;      /* of all its partitions' deliveries */
    osync__schema_t *schema;
    bool fetching; /* TableInfo is being fetched for `schema_waiters` */
    osync__work_t *schema_waiters;
    osync__sub_t *subs; /* by pid */
    size_t n_subs;
    bool placing;
    bool holding; /* its followers are being looked for, or HoldLog calls are under way */
    size_t hold_calls;
    uint64_t held_mono; /* when it was last begun; 0: never */
    size_t holds;       /* calls under way that come back to this task */
    bool stepping, step_again;
    struct create *create;
    osync__waiter_t *waiters; /* for the end of the removal */
    UT_hash_handle hh;        /* by tid */
};

/* ---- the scheduler ---- */

/* Who writes staged files: see osync_scheduler_config_t. */
typedef enum osync__data_path { OSYNC__DATA_AUTO, OSYNC__DATA_DIRECT, OSYNC__DATA_PROXY } osync__data_path_t;

struct osync_scheduler {
    uv_loop_t *loop;
    /* the configuration */
    char *host, *advertised, *zk_cluster, *zk_root, *zk_cert, *state_dir, *timezone, *store_path;
    int port;
    uint32_t zk_session_timeout_ms, check_period_ms, request_timeout_ms, roll_interval_ms, worker_threads;
    uint64_t max_body_size, roll_bytes;
    osync__sinks_config_t sinks_config; /* strings are owned */

    osync__catalog_t *catalog;
    osync_checkpoint_t *store;
    bool store_borrowed;
    osync__pool_t *pool;
    osync__rpc_client_t *client;
    osync__rpc_server_t *server;
    osync__hosts_t *hosts;
    osync__sinks_t *sinks;
    uv_timer_t tick;
    bool tick_open;

    osync__task_t *tasks;
    size_t n_subs, n_creates, n_deletes, n_verifies;
    osync__verify_t *verifies; /* under way */
    osync__import_t *imports;  /* what isn't taken over yet, by tid */
    bool loading, loaded;
    char load_error[512];
    uint64_t checked_mono, started_mono;

    osync__work_t *queue; /* waits for work_bytes to fall */
    bool queue_going;
    size_t work_bytes, waiting_bytes;
    uint64_t max_work_bytes, max_waiting_bytes; /* of attachments; beyond that the answer is "busy" */
    osync__data_path_t data_path;
    char zone[OSYNC__ZONE_SIZE]; /* name of the machine's time zone; "": it has none */
    uint32_t remove_answer_ms;
    osync__sub_t *calls; /* waits for `calling` to fall */
    size_t calling;
    bool calls_going;

    uint32_t hold_period_ms;
    size_t hold_tasks;
    osync__hold_call_t *hold_queue; /* waits for `hold_calling` to fall */
    size_t hold_calling;
    bool hold_going;
    struct hold_unknown *hold_unknown; /* collectors that don't know HoldLog, by endpoint */
    osync__seen_t *seen;               /* collectors that have been heard of, by endpoint */
    size_t n_lists;                    /* Collectors requests under way */

    size_t holds; /* what must come back before the next step of closing */
    int closing;  /* 0, then the steps */
    void (*closed)(void *arg);
    void *closed_arg;
};

/* What a test replaces; NULL members are the real ones. The scheduler owns the catalog once it is made. */
typedef struct osync__scheduler_parts {
    osync__catalog_t *catalog;
} osync__scheduler_parts_t;

int osync__scheduler_new(osync_scheduler_t **out, uv_loop_t *loop, const osync_scheduler_config_t *config,
                         const osync__scheduler_parts_t *parts, osync_error_t *err);

void osync__sched_hold(osync_scheduler_t *s);
void osync__sched_drop(osync_scheduler_t *s); /* may end in freeing s: the last thing a callback does */

/* scheduler.c */
int osync__sched_task_attach(osync__task_t *task, osync_error_t *err); /* sink and deliveries, if it has none yet */
void osync__sched_end_rebuild(osync__task_t *task);                    /* if every partition is known */
void osync__sched_delivery_restart(osync__sub_t *sub);                 /* a new one for one that has failed */

/* task.c */
int osync__sched_task_new(osync__task_t **out, osync_scheduler_t *s, const Osync__Scheduler__TaskRecord *r,
                          osync_error_t *err);
void osync__sched_task_free(osync__task_t *task);
osync__sub_t *osync__sched_task_sub(osync__task_t *task, uint32_t pid);
void osync__sched_task_hold(osync__task_t *task);
void osync__sched_task_drop(osync__task_t *task); /* may end in freeing the task */
/* Ends a task for good; `cb` (may be NULL) when that is done, or when it takes too long to be waited for. */
void osync__sched_task_remove(osync__task_t *task, const char *why, osync__removed_cb cb, void *arg);
void osync__sched_task_wait(osync__task_t *task, osync__removed_cb cb, void *arg); /* for the end of the removal */
void osync__sched_remove_tick(osync__task_t *task); /* tells those who have waited long enough */
void osync__sched_task_step(osync__task_t *task);   /* goes on with a removal, if there is one; may free the task */
void osync__sched_task_closing(osync__task_t *task);
void osync__sched_on_delete(osync__rpc_call_t *call, void *arg);
/* What is wrong with a request for this table; NULL: nothing. */
const char *osync__sched_name_fault(const char *db, const char *name);
/* What a label holds of the task. */
int osync__sched_task_info(const osync__task_t *task, osync__buf_t *out);

/* create.c */
void osync__sched_create_tick(osync__task_t *task);
void osync__sched_create_stored(osync__task_t *task);
void osync__sched_create_handed_out(osync__sub_t *sub, const char *error); /* error NULL: accepted */
/* The task is being removed: whoever asked for it is told `why` when it is gone. */
void osync__sched_create_ends(osync__task_t *task, const char *why);
void osync__sched_create_closing(osync__task_t *task);
void osync__sched_on_create(osync__rpc_call_t *call, void *arg);
void osync__sched_on_recover(osync__rpc_call_t *call, void *arg);

/* restart.c */
/* `left`: a sentence about files that were left, or NULL. */
typedef void (*osync__restart_cb)(osync__task_t *task, int status, const char *left, const osync_error_t *err);
/* Removes the files of earlier tasks of the same table from the destination of `task`, which is being created. */
int osync__sched_restart(osync__task_t *task, osync__restart_cb cb);
/* The task that has this id, or NULL. */
const osync__task_t *osync__sched_task_of_id(const osync_scheduler_t *s, const char *id);

/* import.c */
/* Looks for what there is in state_dir; nothing is read yet. */
int osync__sched_import_find(osync_scheduler_t *s, osync_error_t *err);
void osync__sched_import_go_on(osync_scheduler_t *s);
/* True: this table's progress is there, but not taken over yet; why is in `out`. */
bool osync__sched_import_waits(const osync_scheduler_t *s, uint32_t tid, char *out, size_t size);
/* The task's record is stored: true if what it was made of has got another name, or needs none. */
bool osync__sched_import_stored(osync__task_t *task);
void osync__sched_import_each(const osync_scheduler_t *s, void (*each)(void *arg, const char *folder, const char *why),
                              void *arg);
void osync__sched_import_free(osync_scheduler_t *s);

/* place.c */
typedef void (*osync__place_cb)(osync__task_t *task, int status, const osync_error_t *err);
/* Finds leader and collector for the subtasks that have `placing` set: they get place_tablet and place_collector, or
 * place_error. `info` is the table's newest TableInfo, or NULL to fetch it. status: 0, OSYNC_ENOENT (no such table), or
 * the catalog can't be asked now. */
int osync__sched_place(osync__task_t *task, const void *info, size_t len, osync__place_cb cb);
/* Finds the followers and leaders that are alive, and the collectors on their machines. status as above. */
typedef void (*osync__replicas_cb)(osync__task_t *task, int status, const osync__place_t *found);
typedef void (*osync__replica_cb)(osync__sub_t *sub, const char *tablet, const char *collector);
int osync__sched_replicas(osync__task_t *task, osync__replicas_cb cb);
/* Each with each collector on its machine, followers first. */
void osync__sched_replicas_each(const osync__place_t *found, osync__replica_cb each);
bool osync__sched_replicas_have(const osync__place_t *found, const char *collector); /* it is registered */

/* assign.c */
/* Gives a placed subtask to its collector, with a new token. */
void osync__sched_hand_out(osync__sub_t *sub);
void osync__sched_hand_out_go_on(osync__sub_t *sub); /* what it waited for may have come */
void osync__sched_reassign(osync__task_t *task); /* the subtasks that are silent, or failed for want of a collector */
bool osync__sched_silent(const osync__sub_t *sub, uint64_t now);
void osync__sched_on_retry(osync__rpc_call_t *call, void *arg);

/* hold.c */
/* A collector that could take over, for one partition. */
struct osync__hold {
    char *collector, *tablet;
    uint64_t first_entry, last_entry, pinned_bytes;
    char *error; /* NULL: it has answered, or not yet */
    bool seen;   /* of use while the replicas are gone through */
    osync__hold_t *next;
};
void osync__sched_hold_tick(osync__task_t *task, uint64_t now);
void osync__sched_hold_release(osync__sub_t *sub); /* everywhere */
void osync__sched_hold_free(osync__sub_t *sub);
osync__hold_t *osync__sched_hold_of(const osync__sub_t *sub, const char *collector); /* or NULL */
void osync__sched_hold_close(osync_scheduler_t *s);

/* collectors.c */
typedef enum osync__kind { OSYNC__KIND_UNKNOWN, OSYNC__KIND_OSYNC, OSYNC__KIND_ORIGINAL } osync__kind_t;
/* A sign of life. endpoint NULL is fine; a kind that isn't known leaves what is known of it. */
void osync__sched_seen(osync_scheduler_t *s, const char *endpoint, osync__kind_t kind);
void osync__sched_seen_free(osync_scheduler_t *s);
/* What the outcome of a HoldLog call says of who was called; UNKNOWN: nothing. */
osync__kind_t osync__sched_kind(int status, const osync_error_t *err);
void osync__sched_on_collectors(osync__rpc_call_t *call, void *arg);

/* send.c */
void osync__sched_on_send(osync__rpc_call_t *call, void *arg);
void osync__sched_work_abandon(osync__sub_t *sub);         /* of a task that ends */
void osync__sched_work_go_on(osync__sub_t *sub);           /* the record has been stored */
bool osync__sched_work_must_wait(const osync__sub_t *sub); /* the work can't be cut short now */

/* direct.c */
/* What keeps collectors of ours from writing staged files of this task themselves; NULL: nothing. */
const char *osync__sched_direct_fault(const osync__task_t *task);
/* Of a request without a staged file: true if the collector asks for a folder that another stager had; then a new one
 * is being made. */
bool osync__sched_direct_ask(osync__sub_t *sub, const Openmldb__Datasync__CollectorReport *report);
/* Fills `grant` for the answer to a request with this report, with `folder` to hold the path. False: there is none. */
bool osync__sched_direct_grant(osync__sub_t *sub, const Openmldb__Datasync__CollectorReport *report,
                               Openmldb__Datasync__StageGrant *grant, osync__buf_t *folder);
/* Whether the folder that a reported file is in is granted to its stager now. */
bool osync__sched_direct_granted(osync__sub_t *sub, const Openmldb__Datasync__SendDataRequest *request);
/* What is wrong with a file that was reported; NULL: nothing. */
const char *osync__sched_direct_check(const Openmldb__Datasync__SendDataRequest *request, size_t attached);
/* A file that a collector has written was committed (0), or not. */
void osync__sched_direct_outcome(osync__sub_t *sub, int status, const osync_error_t *err);

/* status.c */
void osync__sched_on_status(osync__rpc_call_t *call, void *arg);
void osync__sched_on_page(osync__rpc_call_t *call, void *arg);

/* verify.c */
void osync__sched_on_verify(osync__rpc_call_t *call, void *arg);
void osync__sched_verify_closing(osync_scheduler_t *s);

/* point.c */
int osync__sched_point_pack(osync__buf_t *out, const Openmldb__Datasync__SyncPoint *point);
Openmldb__Datasync__SyncPoint *osync__sched_point_unpack(const void *data, size_t len);
/* As protobuf's text format has it, without our additions. */
int osync__sched_point_text(osync__buf_t *out, const Openmldb__Datasync__SyncPoint *point);
int osync__sched_set(char **to, const char *from); /* replaces a string; NULL is fine */
const char *osync__sched_status_name(Osync__Scheduler__Status status);
void osync__sched_sub_state(osync__sub_t *sub, Osync__Scheduler__Status status, Osync__Scheduler__Cause cause,
                            const char *reason);
/* What it waits for, unless it has FAILED: then the reason of that stays. */
void osync__sched_sub_waits(osync__sub_t *sub, const char *what);
void osync__sched_reply_general(osync__rpc_call_t *call, int code, const char *msg);

#endif
