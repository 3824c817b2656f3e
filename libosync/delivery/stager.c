/* Steps 2 and 3: a file with a name used once, in the folder of this incarnation, with its label, checked by its path.
 * Nothing here is visible to a reader, and nothing of it is known to the store. */
#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "base/sys.h"
#include "delivery/internal.h"

static void written(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status) {
        osync__trouble(d, status, err);
        return;
    }
    if (d->staged_bytes == 0) osync__start_roll(d);
    d->staged_bytes += d->append.len;
    d->staged_rows += d->append.rows;
    osync__buf_t former = d->end;
    d->end = d->append.end;
    d->append.end = former;
    d->state = OSYNC__READY;
    osync__answer_append(d, 0, NULL);
    osync__pump(d);
}

static void created(osync__delivery_t *d, int status, const osync_error_t *err) {
    /* OSYNC_ENOENT: the folder is gone, so another owner has fenced us. It isn't made again; the store will tell. */
    if (status)
        osync__trouble(d, status, err);
    else
        osync__sink_write(d, OSYNC__FP_stage_write, d->append.data, d->append.len, written);
}

void osync__stage_append(osync__delivery_t *d) {
    d->state = OSYNC__WORKING;
    if (d->staged) {
        osync__sink_write(d, OSYNC__FP_stage_write, d->append.data, d->append.len, written);
        return;
    }
    /* A1: a name is sent once. If its answer is lost it is abandoned, and removed with its folder. */
    osync__random_hex(d->attempt, OSYNC__ID_BYTES);
    d->staged = true;
    d->unused = false;
    d->roll_due = false;
    osync__path_staged(d);
    osync__sink_create(d, OSYNC__FP_stage_create, created);
}

/* Neither "finished" nor "labelled" says that the file is where it should be (a fence may have moved it meanwhile), or
 * that it is whole: only a look at its path does. */
static void checked(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status) {
        osync__trouble(d, status, err);
        return;
    }
    if (d->stat.is_dir || d->stat.length != d->staged_bytes) {
        osync_error_t own;
        osync__err(&own, OSYNC_EIO, "%s: %" PRIu64 " bytes were written, but %" PRIu64 " are there", d->path,
                   d->staged_bytes, d->stat.length);
        osync__trouble(d, own.code, &own);
        return;
    }
    d->file_id = d->stat.file_id;
    osync__commit_staged(d);
}

static void set_label(osync__delivery_t *d);

static void labelled(osync__delivery_t *d, int status, const osync_error_t *err) {
    osync_error_t own;
    if (status == OSYNC_ETOOBIG && d->c.is_stream && !d->short_labels) {
        if (!d->told_short)
            osync__log(OSYNC_LOG_WARN,
                       "%s: its files don't say where they end, so its checkpoint must not be lost: positions of %zu "
                       "bytes don't fit into a label there (%s)",
                       d->title, d->end.len, err->message);
        d->told_short = true;
        d->short_labels = true;
        set_label(d);
        return;
    }
    if (status) {
        osync__err_wrap(&own, err,
                        "the label of file %" PRIu64
                        " (%zu bytes, of them %zu for the points where it starts and ends, %zu for the task)",
                        d->rec.next, d->label.len, d->point.len + d->end.len, d->task_info.len);
        osync__trouble(d, status, &own);
        return;
    }
    osync__path_staged(d);
    osync__sink_stat(d, checked);
}

static osync__buf_t view(const void *data, size_t len) {
    return (osync__buf_t){.data = (uint8_t *)(uintptr_t)data, .len = len};
}

int osync__label_file(osync__delivery_t *d) {
    const osync__record_t *r = &d->rec;
    osync__label_t l = {.pid = d->c.pid,
                        .n = r->next,
                        .no_points = d->short_labels,
                        .start = view(d->point.data, d->short_labels ? 0 : d->point.len),
                        .end = view(d->end.data, d->short_labels ? 0 : d->end.len),
                        .rows = d->staged_rows,
                        .bytes = d->staged_bytes,
                        .text = view(d->label_text, strlen(d->label_text) + 1),
                        .task = view(d->task_info.data, d->task_info.len),
                        .has_totals = true,
                        .total_rows = r->rows + d->staged_rows,
                        .total_bytes = r->bytes + d->staged_bytes,
                        .total_files = r->files + 1};
    memcpy(l.task_id, d->task_id, strlen(d->task_id) + 1); /* osync__delivery_new has checked its length */
    memcpy(l.attempt, d->attempt, sizeof l.attempt);
    return osync__label_pack(&l, &d->label);
}

static void set_label(osync__delivery_t *d) {
    osync_error_t own;
    if (osync__label_file(d)) {
        osync__err(&own, OSYNC_ENOMEM, "a label: out of memory");
        osync__trouble(d, own.code, &own);
        return;
    }
    osync__path_staged(d);
    osync__sink_set_label(d, OSYNC__FP_label, labelled);
}

/* From here on a stager's file is one of ours: the same steps, and the same recovery. It has ended it and reported its
 * name, so nobody else touches it (A13); whether it is there, and whole, is seen as with any other. */
void osync__stage_adopt(osync__delivery_t *d) {
    d->state = OSYNC__WORKING;
    memcpy(d->attempt, d->append.attempt, sizeof d->attempt);
    d->staged = d->adopting = true;
    d->roll_due = d->short_labels = false;
    d->staged_rows = d->append.rows;
    d->staged_bytes = d->append.bytes;
    osync__buf_t former = d->end;
    d->end = d->append.end;
    d->append.end = former;
    set_label(d);
}

static void finished(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status)
        osync__trouble(d, status, err);
    else
        set_label(d);
}

void osync__stage_end(osync__delivery_t *d) {
    d->state = OSYNC__WORKING;
    d->short_labels = false;
    osync__sink_finish(d, OSYNC__FP_stage_finish, finished);
}

static void dropped(osync__delivery_t *d, int status, const osync_error_t *err) {
    osync__ready(d); /* if the name is still there, it goes with its folder */
}

static void remove_name(osync__delivery_t *d, int status, const osync_error_t *err) {
    /* A13: a name that no one was told of is the only thing on the sink that may be removed outright. */
    osync__path_staged(d);
    osync__sink_remove(d, OSYNC__FP_drop_remove, false, dropped);
}

void osync__stage_drop(osync__delivery_t *d) {
    d->state = OSYNC__WORKING;
    if (d->file)
        osync__sink_abort(d, remove_name);
    else
        osync__ready(d);
}
