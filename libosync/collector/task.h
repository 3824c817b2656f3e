/* What the work lane (task.c: link, read, store what is committed) and the send lane (send.c: SendData) of one
 * partition know of each other. Nobody else looks inside. Loop thread only, unless said otherwise. */
#ifndef OSYNC_COLLECTOR_TASK_H
#define OSYNC_COLLECTOR_TASK_H

#include "base/error.h"
#include "collector/ask.h"
#include "collector/direct.h"
#include "collector/feed.h"
#include "collector/internal.h"
#include "osync/reader.h"

enum { MAX_PACKS = 2 };

typedef enum osync__task_step { ASK_FILES, ASK_META, LINK, RUN } osync__task_step_t;

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

    osync__task_step_t step;
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
    bool job_reads; /* the job opens the reader or fills a pack */
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

    /* what others wait for */
    osync__holder_t reading; /* bytes of the rows that it has read */
    osync__holder_t place;   /* of a snapshot that is open */
    bool served;             /* it may read: `room` is its own, and a job may start */
    uint64_t room;           /* bytes for the pack that is read now, or next */
    uint64_t read_bytes;     /* of the job under way */
    uint64_t moved_at;       /* monotonic ms when it last got further */
    bool gave_way;           /* to others; it reads again when its scheduler answers as it should */

    /* send lane */
    osync__pack_t packs[MAX_PACKS];
    size_t n_packs;
    uv_timer_t send_timer;
    uint64_t send_id;
    bool sending;   /* a call is open */
    bool pack_sent; /* the open SendData carries packs[0] */
    bool file_sent; /* it reports direct.file */
    osync__direct_t direct;
    bool report_now;
    uint64_t send_at, last_sent;
    uint32_t send_delay;
    uint32_t patience_ms; /* for the answer to rows, if more than request_timeout_ms */
    uint64_t rows_sent;
    osync_reader_progress_t progress;
    uint64_t link_files, link_bytes, pinned_bytes;

    /* end */
    bool ending, remove, cleaned, removed;
    unsigned open_handles;
};

/* ---- send lane: send.c ---- */

/* Sends what is next, if it is time for it, or sets the timer for it. */
void osync__task_send_next(osync__task_t *t);

/* ---- what both lanes use: task.c (the work lane goes on by osync__task_go_on) ---- */

/* Serialized SyncPoints. pack, set: 0 or OSYNC_ENOMEM; unpack: NULL if there is no memory. */
int osync__point_pack(osync__buf_t *to, const Openmldb__Datasync__SyncPoint *p);
Openmldb__Datasync__SyncPoint *osync__point_unpack(const osync__buf_t *b);

bool osync__task_is_original(const osync__task_t *t); /* the scheduler */
void osync__task_drop_packs(osync__task_t *t);
/* packs[0] is somebody else's now. */
void osync__task_shift_packs(osync__task_t *t);
/* Rows that were read can't be encoded: their schema isn't known here, or they are damaged. */
void osync__task_rows_failed(osync__task_t *t, osync_error_t *err);
/* The reason while it waits for its turn to open its reader, else NULL. */
const char *osync__task_waits_for(const osync__task_t *t);
/* The reader looks at it from a worker. */
void osync__task_set_cancel(osync__task_t *t, int cancel);
/* The backoff that follows `delay`; milliseconds. */
uint32_t osync__task_longer(uint32_t delay);
/* A fault that mends itself or not; logged when it is a new one. */
void osync__task_note(const osync__task_t *t, osync_error_t *problem, const osync_error_t *err);

#define TASK_LOG(t, level, ...) osync__task_log(t, OSYNC_LOG_##level, __VA_ARGS__)
void osync__task_log(const osync__task_t *t, osync_log_level_t level, const char *fmt, ...) OSYNC_PRINTF(3, 4);

#endif
