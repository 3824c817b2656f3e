/* What the files of delivery share: the object, its calls to sink and store, and the steps that lead from one file to
 * the next.
 *
 *   delivery.c   the interface: append, adopt, flush, rewind, close; what to do next when nothing is under way
 *   calls.c      one call to the sink or the store at a time, and the names of things
 *   stager.c     steps 2 and 3: a staged, labelled, checked file
 *   committer.c  steps 4 and 5: prepare, publish, commit
 *   recovery.c   steps 0, 1, 6, 7: take-over, fence, decide, clean; and the removal of a partition
 *   rebuild.c    what recovery does more if the store was lost: the claim, and the newest file's label
 *   stream.c     the same for embedders (osync/stream.h); it only uses the interface
 *
 * The protocol's one simplification: a step goes on only after plain success. Everything else goes to osync__trouble,
 * which leads back to the committed point through a new incarnation. */
#ifndef OSYNC_DELIVERY_INTERNAL_H
#define OSYNC_DELIVERY_INTERNAL_H

#include "base/failpoint.h"
#include "delivery/delivery.h"
#include "delivery/record.h"

enum {
    OSYNC__MAX_DEST = 2048, /* so that every path below it fits in OSYNC__PATH_SIZE */
    OSYNC__PATH_SIZE = 2560,
    OSYNC__FILE_NAME_SIZE = 192, /* of a final name */
};

enum osync__delivery_state {
    OSYNC__NEW,
    OSYNC__RECOVERING, /* steps 0, 1, 6; or waiting to try them again */
    OSYNC__READY,      /* nothing under way */
    OSYNC__WORKING,    /* steps 2 to 5 */
    OSYNC__FAILED,     /* a permanent failure */
};

/* What follows when the call under way is answered. `err` is not NULL if status isn't 0. */
typedef void (*osync__step)(osync__delivery_t *d, int status, const osync_error_t *err);

/* An entry of the partition's folder. */
typedef struct osync__found {
    char id[OSYNC__ID_SIZE];
    bool is_claim; /* else an incarnation, fenced or not */
} osync__found_t;

typedef struct osync__waiter {
    osync__delivery_cb cb;
    void *arg;
    struct osync__waiter *next;
} osync__waiter_t;

struct osync__delivery {
    osync__delivery_config_t c; /* its strings are the ones below */
    char *key, *dest, *task_id, *label_text, *suffix;
    char *title; /* for messages: "task x, partition 3", "stream x" */
    osync__buf_t task_info;
    enum osync__delivery_state state;

    /* The call under way. */
    osync__step next;
    osync__failpoint_t fp; /* its name; OSYNC__FAILPOINTS: it changes nothing */
    unsigned calls;        /* 1, or 2 while a write is being aborted */
    bool writing;
    char path[OSYNC__PATH_SIZE], path2[OSYNC__PATH_SIZE];
    osync_sink_stat_t stat;
    osync__buf_t got; /* a value, a label */
    osync__found_t *found;
    size_t n_found;
    bool has_newest; /* of the partition's committed files, found by listing */
    uint64_t newest;
    char newest_name[OSYNC__FILE_NAME_SIZE]; /* a stream's suffix may have been another */

    /* The store. The record is changed in memory first; if storing it fails, it is read again before anything else. */
    osync__record_t rec;
    osync__buf_t stored; /* what the store holds, as far as is known; empty: nothing */
    osync__buf_t tried;  /* what the compare-and-set under way wants to put there */
    char owner[OSYNC__ID_SIZE];
    bool owned;                       /* the store has held our name: if it holds another's, that one has taken over */
    char incarnation[OSYNC__ID_SIZE]; /* the last that was taken; rec's, if storing it was successful */
    bool unused;                      /* nobody has staged anything in it yet: it needs no fence */
    char granted[OSYNC__ID_SIZE];     /* the stager whose it is; "": nobody's */
    bool made;                        /* its folder is there; never made again (step 1) */
    bool listed;                      /* by this incarnation: nobody else is on the sink that the record doesn't know */
    bool claim_made;                  /* our claim is on the sink */
    bool probed;
    bool probing; /* for all that share c.probed */
    bool erasing; /* the record's removal was tried */
    size_t at;    /* of a loop over rec.former */

    /* Committed, as the caller knows it. */
    osync__buf_t point;
    uint64_t rows, bytes, files;
    bool was_ready;

    /* In work. */
    osync_sink_file_t *file; /* open */
    bool staged;             /* there is a staged file, open or ended */
    bool adopting;           /* it is a stager's, and the append that brought it is answered when it is committed */
    char attempt[OSYNC__ID_SIZE];
    osync__buf_t end; /* of what was appended */
    uint64_t staged_rows, staged_bytes, file_id;
    osync__buf_t label;
    bool short_labels; /* without points */
    bool told_short;   /* it was logged */
    bool roll_due;

    /* The caller's open calls. */
    struct {
        osync__delivery_cb cb; /* NULL: none */
        void *arg;
        const void *data;
        size_t len;
        uint64_t rows;
        osync__buf_t end;
        uint64_t bytes; /* of a stager's file; 0: it isn't one */
        char attempt[OSYNC__ID_SIZE];
    } append;
    osync__waiter_t *flush;
    bool rewind, regrant, removing, closing;
    void (*closed)(void *arg);
    void *closed_arg;
    unsigned open_handles;

    uv_timer_t wake; /* a turn of the loop, or a pause before the next recovery */
    uv_timer_t roll;
    unsigned pauses; /* since the last commit: each is longer */
    bool doomed;
    osync_error_t reason; /* of the trouble */
    osync_error_t cause;  /* of a refusal that is looked into */
};

/* calls.c: each call that changes something outside has the name of its step, `fp` */
void osync__sink_mkdirs(osync__delivery_t *d, osync__failpoint_t fp, osync__step next);
void osync__sink_create(osync__delivery_t *d, osync__failpoint_t fp, osync__step next);
void osync__sink_write(osync__delivery_t *d, osync__failpoint_t fp, const void *data, size_t len, osync__step next);
void osync__sink_finish(osync__delivery_t *d, osync__failpoint_t fp, osync__step next);
void osync__sink_abort(osync__delivery_t *d, osync__step next);
void osync__sink_stat(osync__delivery_t *d, osync__step next);
void osync__sink_set_label(osync__delivery_t *d, osync__failpoint_t fp, osync__step next);
void osync__sink_get_label(osync__delivery_t *d, osync__step next);
void osync__sink_rename(osync__delivery_t *d, osync__failpoint_t fp, osync__step next);
void osync__sink_remove(osync__delivery_t *d, osync__failpoint_t fp, bool recursive, osync__step next);
void osync__sink_list(osync__delivery_t *d, osync__step next);       /* the partition's folder: d->found */
void osync__sink_list_files(osync__delivery_t *d, osync__step next); /* the destination: d->newest */
void osync__sink_barrier(osync__delivery_t *d, osync__failpoint_t fp, osync__step next);
void osync__store_get(osync__delivery_t *d, osync__step next);
/* Puts d->rec into the store, or removes it from there. On success d->stored is what it holds. */
void osync__store_put(osync__delivery_t *d, osync__failpoint_t fp, osync__step next);
void osync__store_remove(osync__delivery_t *d, osync__failpoint_t fp, osync__step next);

/* Fill d->path. */
void osync__path_folder(osync__delivery_t *d, int up); /* up 0: the partition's, 1: the task's, 2: _osync */
void osync__path_incarnation(osync__delivery_t *d, const char *incarnation);
void osync__path_tomb(osync__delivery_t *d, const char *incarnation);
void osync__path_staged(osync__delivery_t *d);
void osync__path_entombed(osync__delivery_t *d, const osync__prepared_t *p);
void osync__path_claim(osync__delivery_t *d);
void osync__path_final(osync__delivery_t *d, uint64_t n);
void osync__path_newest(osync__delivery_t *d);
/* The folder of this incarnation, with a 0 at its end. */
int osync__folder_text(const osync__delivery_t *d, osync__buf_t *out);
/* d->path to d->path2. */
void osync__path_keep(osync__delivery_t *d);

/* delivery.c */
void osync__pump(osync__delivery_t *d);
void osync__kick(osync__delivery_t *d);
void osync__start_roll(osync__delivery_t *d);
/* The one way out of everything that isn't plain success. */
void osync__trouble(osync__delivery_t *d, int status, const osync_error_t *err);
/* The same for a failure that nothing will mend. */
void osync__doom(osync__delivery_t *d, const osync_error_t *err);
/* Forgets what is staged: the end is the committed point again. */
void osync__forget_staged(osync__delivery_t *d);
/* rec holds a new committed point, and so does the store: tells the caller. */
void osync__committed(osync__delivery_t *d);
void osync__answer_append(osync__delivery_t *d, int status, const osync_error_t *err);
void osync__answer_flush(osync__delivery_t *d, int status, const osync_error_t *err);
void osync__ready(osync__delivery_t *d);
void osync__finish_close(osync__delivery_t *d);

/* stager.c */
void osync__stage_append(osync__delivery_t *d);
void osync__stage_adopt(osync__delivery_t *d);
void osync__stage_end(osync__delivery_t *d);
void osync__stage_drop(osync__delivery_t *d);

/* committer.c */
void osync__commit_staged(osync__delivery_t *d);
void osync__commit_point(osync__delivery_t *d);
/* Turns the prepared file of rec into a committed one, in memory. */
int osync__apply_prepared(osync__delivery_t *d);

int osync__label_file(osync__delivery_t *d); /* d->label, of what is staged */

/* recovery.c */
void osync__recover(osync__delivery_t *d);
/* After the take-over: claim, fence, look for others. */
void osync__go_on(osync__delivery_t *d);
void osync__look_at_slot(osync__delivery_t *d);
/* d->got is the label of file n, d->stat what it belongs to. If it is ours, it goes into *l, and *ours is true. */
int osync__read_label(osync__delivery_t *d, uint64_t n, osync__label_t *l, bool *ours);
/* In memory, the file of this label is the newest committed one. */
int osync__take_label(osync__delivery_t *d, const osync__label_t *l);

/* rebuild.c */
void osync__claim(osync__delivery_t *d);
void osync__rebuild(osync__delivery_t *d);

#endif
