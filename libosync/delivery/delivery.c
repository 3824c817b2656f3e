/* The interface of delivery, and what to do next whenever nothing is under way. The steps themselves are in stager.c,
 * committer.c and recovery.c. */
#include "delivery/delivery.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/sys.h"
#include "delivery/internal.h"

enum { RETRY_MIN_MS = 100, RETRY_MAX_MS = 10000, MAX_SUFFIX = 32 };

static void on_wake(uv_timer_t *t);

/* What waiting can't mend, as far as the sink can tell. A missing permission, a quota and a full disk are mended by
 * somebody while we wait. */
static bool is_permanent(int status) {
    return status == OSYNC_ENOTSUP || status == OSYNC_EINVAL || status == OSYNC_ETOOBIG || status == OSYNC_EXDEV;
}

/* Callers' callbacks */

void osync__answer_append(osync__delivery_t *d, int status, const osync_error_t *err) {
    osync__delivery_cb cb = d->append.cb;
    d->append.cb = NULL;
    if (cb) cb(d->append.arg, status, err);
}

void osync__answer_flush(osync__delivery_t *d, int status, const osync_error_t *err) {
    osync__waiter_t *w = d->flush, *next;
    d->flush = NULL;
    for (; w; w = next) {
        next = w->next;
        w->cb(w->arg, status, err);
        osync__free(w);
    }
}

static void answer_all(osync__delivery_t *d, int status, const osync_error_t *reason) {
    osync_error_t err;
    osync__err(&err, status, "%s: %s", d->title, reason && reason->code ? reason->message : osync_strerror(status));
    osync__answer_append(d, status, &err);
    osync__answer_flush(d, status, &err);
}

void osync__committed(osync__delivery_t *d) {
    if (osync__buf_set(&d->point, d->rec.point.data, d->rec.point.len)) {
        osync_error_t err;
        osync__err(&err, OSYNC_ENOMEM, "out of memory");
        osync__doom(d, &err);
        return;
    }
    d->rows = d->rec.rows;
    d->bytes = d->rec.bytes;
    d->files = d->rec.files;
    d->pauses = 0;
    if (d->was_ready && !d->removing && !d->closing) d->c.on_commit(d->c.arg, d->point.data, d->point.len);
}

/* Trouble */

void osync__forget_staged(osync__delivery_t *d) {
    uv_timer_stop(&d->roll);
    d->roll_due = false;
    d->staged = d->adopting = false;
    d->staged_rows = d->staged_bytes = 0;
    /* Not having room for a copy of the point is noticed when the caller's next start doesn't match. */
    (void)osync__buf_set(&d->end, d->point.data, d->point.len);
}

static uint64_t next_pause(osync__delivery_t *d) {
    uint64_t pause = d->c.retry_min_ms;
    for (unsigned i = 0; i < d->pauses && pause < d->c.retry_max_ms; i++) pause *= 2;
    if (pause > d->c.retry_max_ms) pause = d->c.retry_max_ms;
    d->pauses++;
    char hex[5];
    osync__random_hex(hex, 2);
    uint64_t jitter =
        strtoull(hex, NULL, 16); /* 0 to 65535: partitions that failed together don't come back together */
    return pause - pause * jitter / 2 / 65536;
}

static void retreated(osync__delivery_t *d, int status, const osync_error_t *err) {
    osync__forget_staged(d);
    bool doomed = d->doomed;
    if (doomed) {
        d->doomed = false;
        d->state = OSYNC__FAILED;
        osync__log(OSYNC_LOG_ERROR, "%s stops: %s", d->title, d->reason.message);
    } else {
        uint64_t pause = d->reason.code == OSYNC_ECONFLICT ? 0 : next_pause(d);
        osync__log(OSYNC_LOG_WARN, "%s goes back to its committed point in %llu ms: %s", d->title,
                   (unsigned long long)pause, d->reason.message);
        uv_timer_start(&d->wake, on_wake, pause, 0);
    }
    answer_all(d, OSYNC_EAGAIN, &d->reason);
    if (!d->removing) d->c.on_rewind(d->c.arg, false, doomed, &d->reason);
}

static void retreat(osync__delivery_t *d, const osync_error_t *err, bool doomed) {
    if (err != &d->reason) d->reason = *err;
    d->doomed = doomed;
    d->state = OSYNC__RECOVERING;
    uv_timer_stop(&d->roll);
    if (d->file)
        osync__sink_abort(d, retreated);
    else
        retreated(d, 0, NULL);
}

void osync__trouble(osync__delivery_t *d, int status, const osync_error_t *err) {
    retreat(d, err, is_permanent(status) && !d->removing);
}

void osync__doom(osync__delivery_t *d, const osync_error_t *err) {
    retreat(d, err, !d->removing);
}

void osync__ready(osync__delivery_t *d) {
    osync__forget_staged(d);
    d->state = OSYNC__READY;
    d->rewind = d->regrant = false;
    if (!d->removing) {
        osync_error_t reason = d->reason;
        d->was_ready = true;
        d->reason = (osync_error_t){0};
        answer_all(d, OSYNC_EAGAIN, &reason);
        d->c.on_rewind(d->c.arg, true, false, &reason);
    }
    osync__pump(d);
}

/* What to do next */

static bool is_file_due(const osync__delivery_t *d) {
    return d->flush || d->roll_due || d->staged_bytes >= d->c.roll_bytes;
}

static bool is_adopt_waiting(const osync__delivery_t *d) {
    return d->append.cb && d->append.bytes > 0;
}

static void on_roll(uv_timer_t *t) {
    osync__delivery_t *d = t->data;
    d->roll_due = true;
    osync__kick(d);
}

void osync__start_roll(osync__delivery_t *d) {
    uv_timer_start(&d->roll, on_roll, d->c.roll_interval_ms, 0);
}

static void take_point(osync__delivery_t *d) {
    osync__buf_t former = d->end;
    d->end = d->append.end;
    d->append.end = former;
    if (!d->staged && !d->roll_due && !uv_is_active((uv_handle_t *)&d->roll)) osync__start_roll(d);
    osync__answer_append(d, 0, NULL);
}

static void retired(osync__delivery_t *d, int status, const osync_error_t *err) {
    osync__recover(d);
}

/* Gives this incarnation up, without trouble. */
static void retire(osync__delivery_t *d, int status) {
    d->state = OSYNC__RECOVERING;
    osync__forget_staged(d);
    answer_all(d, status, NULL);
    if (d->file)
        osync__sink_abort(d, retired);
    else
        osync__recover(d);
}

void osync__pump(osync__delivery_t *d) {
    while (d->state == OSYNC__READY && d->calls == 0 && !d->closing) {
        bool moved = !osync__buf_equal(&d->end, &d->point);
        if (d->removing)
            retire(d, OSYNC_ECANCELED);
        else if (d->regrant)
            retire(d, OSYNC_EAGAIN);
        else if (d->rewind)
            osync__stage_drop(d);
        else if (d->staged && (is_file_due(d) || is_adopt_waiting(d)))
            osync__stage_end(d);
        else if (!d->staged && moved && is_file_due(d))
            osync__commit_point(d);
        else if (is_adopt_waiting(d))
            osync__stage_adopt(d);
        else if (d->append.cb && d->append.len == 0)
            take_point(d);
        else if (d->append.cb)
            osync__stage_append(d);
        else if (d->flush)
            osync__answer_flush(d, 0, NULL);
        else
            return;
    }
}

static void on_wake(uv_timer_t *t) {
    osync__delivery_t *d = t->data;
    if (d->closing)
        osync__finish_close(d);
    else if (d->calls > 0)
        return;
    else if (d->state == OSYNC__READY)
        osync__pump(d);
    else if (d->removing)
        retire(d, OSYNC_ECANCELED);
    else if (d->state == OSYNC__RECOVERING)
        osync__recover(d);
    else
        answer_all(d, OSYNC_EAGAIN, &d->reason); /* not started, or failed */
}

/* A turn of the loop later, so that no callback ever comes from inside a call. */
static void wake_now(osync__delivery_t *d) {
    if (d->calls == 0) uv_timer_start(&d->wake, on_wake, 0, 0);
}

void osync__kick(osync__delivery_t *d) {
    if (d->state == OSYNC__READY) wake_now(d);
}

/* Interface */

static void delivery_free(osync__delivery_t *d) {
    if (d->probing) *d->c.probed = false; /* nobody has seen how it ends */
    osync__record_free(&d->rec);
    osync__buf_free(&d->got);
    osync__buf_free(&d->stored);
    osync__buf_free(&d->tried);
    osync__buf_free(&d->point);
    osync__buf_free(&d->end);
    osync__buf_free(&d->label);
    osync__buf_free(&d->append.end);
    osync__free(d->found);
    osync__buf_free(&d->task_info);
    osync__free(d->key);
    osync__free(d->dest);
    osync__free(d->task_id);
    osync__free(d->label_text);
    osync__free(d->suffix);
    osync__free(d->title);
    osync__free((void *)(uintptr_t)d->c.first_point);
    osync__free(d);
}

#define LETTERS_DIGITS "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

static bool is_plain_name(const char *s) {
    size_t n = strspn(s, LETTERS_DIGITS "._-");
    return n > 0 && n < OSYNC__TASK_ID_SIZE && !s[n] && *s != '.' && *s != '_';
}

/* Without a '-', so that the last one of a final name is the one before its number: no two streams, and no number of
 * one, ever share a name. */
static bool is_suffix(const char *s) {
    size_t n = strspn(s, LETTERS_DIGITS ".");
    return !*s || (*s == '.' && n <= MAX_SUFFIX && !s[n]);
}

int osync__delivery_check_names(const char *task_id, const char *suffix, osync_error_t *err) {
    if (!is_plain_name(task_id))
        return osync__err(err, OSYNC_EINVAL,
                          "the name \"%.200s\" can't be part of a file's name: use 1 to %d letters, digits, '.', '_' "
                          "or '-', and no '.' or '_' at its beginning",
                          task_id, OSYNC__TASK_ID_SIZE - 1);
    if (suffix && !is_suffix(suffix))
        return osync__err(err, OSYNC_EINVAL,
                          "the suffix \"%.200s\" can't end a file's name: use a '.' and then up to %d letters, digits "
                          "or '.', or nothing",
                          suffix, MAX_SUFFIX - 1);
    return 0;
}

int osync__delivery_new(const osync__delivery_config_t *config, osync__delivery_t **out, osync_error_t *err) {
    int rc = osync__delivery_check_names(config->task_id, config->suffix, err);
    if (rc) return rc;
    if (strlen(config->dest) > OSYNC__MAX_DEST)
        return osync__err(err, OSYNC_ETOOBIG, "the destination %.60s... is longer than %d bytes", config->dest,
                          OSYNC__MAX_DEST);
    osync__delivery_t *d = osync__calloc(1, sizeof *d);
    if (!d) return osync__err(err, OSYNC_ENOMEM, "task %s: out of memory", config->task_id);
    d->c = *config;
    d->c.first_point = osync__malloc(config->first_point_len + 1);
    d->c.key = d->key = osync__strdup(config->key);
    d->c.dest = d->dest = osync__strdup(config->dest);
    d->c.task_id = d->task_id = osync__strdup(config->task_id);
    d->c.label_text = d->label_text = osync__strdup(config->label_text ? config->label_text : "");
    d->c.suffix = d->suffix = osync__strdup(config->suffix ? config->suffix : "");
    d->title = config->is_stream ? osync__format("stream %s", config->task_id)
                                 : osync__format("task %s, partition %u", config->task_id, config->pid);
    rc = osync__buf_set(&d->task_info, config->task_info, config->task_info_len);
    if (rc || !d->c.first_point || !d->key || !d->dest || !d->task_id || !d->label_text || !d->suffix || !d->title) {
        delivery_free(d);
        return osync__err(err, OSYNC_ENOMEM, "task %s: out of memory", config->task_id);
    }
    if (config->first_point_len)
        memcpy((void *)(uintptr_t)d->c.first_point, config->first_point, config->first_point_len);
    osync__random_hex(d->owner, OSYNC__ID_BYTES);
    if (!d->c.retry_min_ms) d->c.retry_min_ms = RETRY_MIN_MS;
    if (!d->c.retry_max_ms) d->c.retry_max_ms = RETRY_MAX_MS;
    uv_timer_init(config->loop, &d->wake);
    uv_timer_init(config->loop, &d->roll);
    d->wake.data = d->roll.data = d;
    d->open_handles = 2;
    *out = d;
    return 0;
}

void osync__delivery_start(osync__delivery_t *d) {
    if (d->state != OSYNC__NEW || d->removing || d->closing) return;
    d->state = OSYNC__RECOVERING;
    wake_now(d);
}

const void *osync__delivery_point(const osync__delivery_t *d, size_t *len) {
    *len = d->point.len;
    return d->point.data;
}

const void *osync__delivery_end(const osync__delivery_t *d, size_t *len) {
    *len = d->end.len;
    return d->end.data;
}

void osync__delivery_totals(const osync__delivery_t *d, osync__delivery_totals_t *out) {
    *out = (osync__delivery_totals_t){.rows = d->rows,
                                      .bytes = d->bytes,
                                      .files = d->files,
                                      .staged_rows = d->staged_rows,
                                      .staged_bytes = d->staged_bytes};
}

static bool takes(const osync__delivery_t *d) {
    return (d->state == OSYNC__READY || d->state == OSYNC__WORKING) && !d->rewind && !d->regrant;
}

/* A14: rows of an earlier attempt, or of a collector that was replaced, don't start at our end. */
static bool is_next(const osync__delivery_t *d, const void *start, size_t len) {
    return len == d->end.len && (!len || memcmp(start, d->end.data, len) == 0);
}

int osync__delivery_append(osync__delivery_t *d, const void *data, size_t len, uint64_t rows, const void *start,
                           size_t start_len, const void *end, size_t end_len, osync__delivery_cb cb, void *arg) {
    if (d->closing || d->removing) return OSYNC_ECLOSED;
    if (!takes(d)) return OSYNC_EAGAIN;
    if (!cb || d->append.cb || !is_next(d, start, start_len)) return OSYNC_EINVAL;
    if (osync__buf_set(&d->append.end, end, end_len)) return OSYNC_ENOMEM;
    d->append.cb = cb;
    d->append.arg = arg;
    d->append.data = data;
    d->append.len = len;
    d->append.rows = rows;
    d->append.bytes = 0;
    osync__kick(d);
    return 0;
}

int osync__delivery_grant(osync__delivery_t *d, const char *stager, const char **incarnation, osync__buf_t *folder) {
    if (!osync__is_id(stager)) return OSYNC_EINVAL;
    if (d->closing || d->removing || !takes(d)) return OSYNC_EAGAIN;
    if (d->granted[0] && strcmp(d->granted, stager) != 0) return OSYNC_ECONFLICT;
    if (folder && osync__folder_text(d, folder)) return OSYNC_ENOMEM;
    memcpy(d->granted, stager, sizeof d->granted);
    d->unused = false; /* he may have begun: from now on it is fenced as any other */
    *incarnation = d->rec.incarnation;
    return 0;
}

void osync__delivery_regrant(osync__delivery_t *d) {
    if (d->state != OSYNC__READY && d->state != OSYNC__WORKING)
        return; /* a recovery is under way, and takes a new one */
    d->regrant = true;
    d->unused = false;
    osync__kick(d);
}

int osync__delivery_adopt(osync__delivery_t *d, const char *incarnation, const char *attempt, uint64_t bytes,
                          uint64_t rows, const void *start, size_t start_len, const void *end, size_t end_len,
                          osync__delivery_cb cb, void *arg) {
    if (d->closing || d->removing) return OSYNC_ECLOSED;
    if (!takes(d) || !d->granted[0] || strcmp(incarnation, d->rec.incarnation) != 0) return OSYNC_EAGAIN;
    if (!cb || d->append.cb || bytes == 0 || !osync__is_id(attempt) || !is_next(d, start, start_len))
        return OSYNC_EINVAL;
    if (osync__buf_set(&d->append.end, end, end_len)) return OSYNC_ENOMEM;
    d->append.cb = cb;
    d->append.arg = arg;
    d->append.rows = rows;
    d->append.bytes = bytes;
    memcpy(d->append.attempt, attempt, sizeof d->append.attempt);
    osync__kick(d);
    return 0;
}

int osync__delivery_flush(osync__delivery_t *d, osync__delivery_cb cb, void *arg) {
    osync__waiter_t *w = osync__malloc(sizeof *w);
    if (!w) return OSYNC_ENOMEM;
    *w = (osync__waiter_t){.cb = cb, .arg = arg};
    LL_APPEND(d->flush, w);
    if (d->state == OSYNC__READY || d->state == OSYNC__NEW || d->state == OSYNC__FAILED) wake_now(d);
    return 0;
}

void osync__delivery_rewind(osync__delivery_t *d) {
    if (d->state != OSYNC__READY && d->state != OSYNC__WORKING) return; /* a rewind is under way, or nothing will be */
    d->rewind = true;
    osync__kick(d);
}

static void on_handle_closed(uv_handle_t *h) {
    osync__delivery_t *d = h->data;
    if (--d->open_handles > 0) return;
    void (*closed)(void *) = d->closed;
    void *arg = d->closed_arg;
    delivery_free(d);
    if (closed) closed(arg);
}

void osync__finish_close(osync__delivery_t *d) {
    if (d->calls > 0 || uv_is_closing((uv_handle_t *)&d->wake)) return;
    if (d->file) {
        osync__sink_abort(d, NULL);
        return;
    }
    answer_all(d, OSYNC_ECANCELED, NULL);
    uv_close((uv_handle_t *)&d->wake, on_handle_closed);
    uv_close((uv_handle_t *)&d->roll, on_handle_closed);
}

void osync__delivery_close(osync__delivery_t *d, void (*cb)(void *arg), void *arg) {
    d->closing = true;
    d->closed = cb;
    d->closed_arg = arg;
    uv_timer_stop(&d->roll);
    if (d->writing && d->file)
        osync__sink_abort(d, NULL); /* a transfer may last; any other call ends by its own time-out, or with its sink */
    else
        wake_now(d);
}

void osync__delivery_remove(osync__delivery_t *d, void (*cb)(void *arg), void *arg) {
    d->removing = true;
    d->closed = cb;
    d->closed_arg = arg;
    d->listed = false;
    d->incarnation[0] = 0; /* a new one, so that ours is fenced like any other */
    uv_timer_stop(&d->roll);
    wake_now(d);
}
