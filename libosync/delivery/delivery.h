/* The committer of one partition of a table, or of one stream of an embedder (stream.c): puts a stream of bytes on a
 * sink exactly once, in files, by the protocol of docs/delivery.md. Knows nothing of tables or rows: a caller appends
 * chunks, each with the point where it starts and ends (opaque bytes), and learns which point is committed. Only one
 * recovery exists: back to the committed point. Loop thread only. */
#ifndef OSYNC_DELIVERY_DELIVERY_H
#define OSYNC_DELIVERY_DELIVERY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "osync/checkpoint.h"
#include "osync/sink.h"

typedef struct osync__delivery osync__delivery_t;

typedef struct osync__delivery_config {
    uv_loop_t *loop;
    osync_sink_t *sink;        /* borrowed */
    osync_checkpoint_t *store; /* borrowed */
    const char *key;           /* of this partition's record in the store: "part/<task id>/<pid>" */
    const char *dest;          /* the destination folder, absolute within the sink, without a trailing '/' */
    const char *task_id;       /* a UUID, or the stream's name; in every final name */
    uint32_t pid;
    /* A stream, pid 0: its files are called "<task_id>-<n><suffix>" (suffix "", or a '.', then letters, digits, dots),
     * and where a sink's labels can't hold its points, they are left out: what is lost is a lost store's recovery. */
    bool is_stream;
    const char *suffix;
    const char *label_text;    /* goes into every label as it is: one line about the origin ("db.table") */
    uint64_t roll_bytes;       /* a file is ended when it holds as much */
    uint32_t roll_interval_ms; /* and this long after its first byte */
    uint32_t retry_min_ms;     /* the first pause after a failure; it doubles with each until the next commit. 0: 100 */
    uint32_t retry_max_ms;     /* 0: 10000 */
    const void *first_point;   /* where to start if the store has no record yet */
    size_t first_point_len;
    /* Goes into every label as it is: what the owner needs to take the task up again from labels alone. May be empty.
     */
    const void *task_info;
    size_t task_info_len;
    /* The store may have lost the record: if it has none, fence every incarnation that is found on the sink, then go on
     * where the label of the newest committed file ends (A8). Without any such file: a permanent failure, or, with
     * start_over, from first_point. A record that is there is used as it is; a rebuild that was interrupted is ended
     * even without `rebuild`. */
    bool rebuild, start_over;
    /* Shared by all that deliver to this `dest`, and outlives them: one of them has tried out whether the sink can do
     * what is needed there, or is doing it, so the others needn't. NULL: each one does. */
    bool *probed;
    /* A file was committed: everything before `point` is in committed files. */
    void (*on_commit)(void *arg, const void *point, size_t len);
    /* What was appended since the committed point is gone (a failure, or osync__delivery_rewind): the caller must
     * append again from the committed point once `ready` is true. `err` says why. Comes with ready false when trouble
     * begins and with each further try that fails (the reason may be another), then with true when it is over; a
     * permanent failure comes with ready false and permanent true, and nothing goes on by itself after that. Permanent
     * is only what waiting doesn't mend: another owner, a file in the next slot that isn't ours, a removed _osync, a
     * label that is too big for the sink, a sink that can't do what is needed, a damaged record. `err` is never NULL;
     * if there was no trouble (the start, a rewind) its code is 0. */
    void (*on_rewind)(void *arg, bool ready, bool permanent, const osync_error_t *err);
    void *arg;
} osync__delivery_config_t;

typedef void (*osync__delivery_cb)(void *arg, int status, const osync_error_t *err);

/* A task_id and a suffix (may be NULL) that osync__delivery_new takes. */
int osync__delivery_check_names(const char *task_id, const char *suffix, osync_error_t *err);
/* Strings and points are copied. Nothing happens before _start. */
int osync__delivery_new(const osync__delivery_config_t *config, osync__delivery_t **out, osync_error_t *err);
/* Takes the partition over in the store and recovers what a former incarnation left (steps 1 and 6 of the protocol),
 * trying again with backoff as long as it takes; then on_rewind(ready true) comes. */
void osync__delivery_start(osync__delivery_t *d);

/* The committed point and totals; valid after the first on_rewind(ready). */
const void *osync__delivery_point(const osync__delivery_t *d, size_t *len);
/* The end of what was appended, where the next append starts; valid until the next callback. */
const void *osync__delivery_end(const osync__delivery_t *d, size_t *len);
typedef struct osync__delivery_totals {
    uint64_t rows, bytes, files;        /* committed, since the task began */
    uint64_t staged_rows, staged_bytes; /* not yet committed */
} osync__delivery_totals_t;
void osync__delivery_totals(const osync__delivery_t *d, osync__delivery_totals_t *out);

/* Appends `len` bytes that hold `rows` rows, from `start` (which must equal the current end) to `end`. len may be 0:
 * the point moves on without bytes, and is committed with the next file or by itself after the roll interval. `data` is
 * the caller's until `cb`; one append at a time. cb status 0: taken (not yet committed); OSYNC_EAGAIN: not ready, or
 * the staged file was lost: see on_rewind. No chunk is ever split over two files. */
int osync__delivery_append(osync__delivery_t *d, const void *data, size_t len, uint64_t rows, const void *start,
                           size_t start_len, const void *end, size_t end_len, osync__delivery_cb cb, void *arg);
/* Direct writing (docs/delivery.md): somebody else, the stager, writes staged files in the folder of this incarnation.
 * `stager` is his name, 32 hex digits, never given to two. 0: *incarnation (valid until the next callback) is his, and
 * its folder is there; *folder (folder may be NULL) is set to its path, with a 0 at its end. OSYNC_EAGAIN: not ready.
 * OSYNC_ECONFLICT: it is another stager's, see osync__delivery_regrant. OSYNC_EINVAL: not such a name. */
int osync__delivery_grant(osync__delivery_t *d, const char *stager, const char **incarnation, osync__buf_t *folder);
/* Back to the committed point, with a new incarnation that is nobody's: the folder of the former one is fenced, so that
 * whoever had it can't change anything any more. on_rewind(ready true) follows. */
void osync__delivery_regrant(osync__delivery_t *d);
/* As osync__delivery_append, but the chunk is a whole file of `bytes` bytes, more than 0, that the stager has written
 * and ended in the folder that was granted, under the name `attempt` (32 hex digits, used once). It becomes a file of
 * its own, after what was appended. cb status 0: committed; OSYNC_EAGAIN: see on_rewind; the file is as good as gone.
 * Returns OSYNC_EAGAIN if not ready or if `incarnation` isn't the one that is granted now, OSYNC_EINVAL if the call can
 * never be right. */
int osync__delivery_adopt(osync__delivery_t *d, const char *incarnation, const char *attempt, uint64_t bytes,
                          uint64_t rows, const void *start, size_t start_len, const void *end, size_t end_len,
                          osync__delivery_cb cb, void *arg);
/* Commits what is staged now; cb when it is committed (at once if nothing is staged), or OSYNC_EAGAIN. Non-zero
 * (OSYNC_ENOMEM): cb is never called. */
int osync__delivery_flush(osync__delivery_t *d, osync__delivery_cb cb, void *arg);
/* Throws the staged file away: back to the committed point. on_rewind(ready true) follows. */
void osync__delivery_rewind(osync__delivery_t *d);

/* Ends without committing what is staged; open callbacks come first with OSYNC_ECANCELED. What is left on the sink is
 * cleaned by the next start, or by osync__delivery_remove. */
void osync__delivery_close(osync__delivery_t *d, void (*cb)(void *arg), void *arg);
/* Ends the partition for good: fences every incarnation (so that no late request can publish), removes the partition's
 * folder below _osync, then its record. Committed files stay. Tries again with backoff; frees d before cb.
 * osync__delivery_close gives it up, and then cb isn't called. Needs no osync__delivery_start before. */
void osync__delivery_remove(osync__delivery_t *d, void (*cb)(void *arg), void *arg);

#endif
