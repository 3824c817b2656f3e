/* The stream: the committer (delivery.h) for embedders, with a sink and a checkpoint of its own if the caller brings
 * none. All that delivers is there; here are the configuration, the contract of the calls, and the end. */
#include "osync/stream.h"

#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/config.h"
#include "base/error.h"
#include "delivery/delivery.h"
#include "delivery/record.h"
#include "sink/internal.h"
#include "sink/sinks.h"

/* How long a closing stream waits for what its sink has under way. What is canceled then is the next owner's to find
 * out, as after a kill. */
enum { CLOSE_GRACE_MS = 2000 };

_Static_assert(OSYNC__TASK_ID_SIZE == OSYNC_STREAM_NAME_MAX + 1, "a name fits into a label, with its final 0");

static const osync_stream_config_t defaults = {.roll_bytes = 128u << 20, .roll_interval_ms = 60000};

struct osync_stream {
    uv_loop_t *loop;
    osync_stream_config_t c; /* of its pointers only the callbacks and `arg` are valid after the open */
    osync__sinks_t *sinks;   /* NULL: the sink is borrowed */
    osync_sink_t *sink;
    osync_checkpoint_t *store; /* NULL: borrowed */
    osync__delivery_t *delivery;
    uv_timer_t grace;
    bool grace_open;
    bool ready, closing;
    osync_stream_cb append_cb; /* NULL: none is under way */
    void *append_arg;
    size_t parts; /* that must be closed before the stream is freed */
    void (*closed)(void *arg);
    void *closed_arg;
};

void osync_stream_config_init(osync_stream_config_t *config, size_t size) {
    osync__config_init(config, size, &defaults, sizeof defaults);
}

/* The end */

static void part_closed(void *arg) {
    osync_stream_t *s = arg;
    if (--s->parts > 0) return;
    void (*closed)(void *) = s->closed;
    void *closed_arg = s->closed_arg;
    osync__free(s);
    if (closed) closed(closed_arg);
}

static void timer_closed(uv_handle_t *handle) {
    part_closed(handle->data);
}

/* Frees the stream: from inside if nothing was opened yet, else when the loop has ended what was. */
static void close_parts(osync_stream_t *s) {
    s->parts = 1;
    if (s->sinks) {
        s->parts++;
        if (s->sink) osync__sinks_put(s->sinks, s->sink);
        osync__sinks_close(s->sinks, part_closed, s);
    }
    if (s->store) {
        s->parts++;
        s->store->ops->close(s->store, part_closed, s);
    }
    if (s->grace_open) {
        s->parts++;
        uv_close((uv_handle_t *)&s->grace, timer_closed);
    }
    part_closed(s);
}

static void delivery_closed(void *arg) {
    close_parts(arg);
}

static void on_grace(uv_timer_t *timer) {
    osync_stream_t *s = timer->data;
    osync__sinks_cancel(s->sinks);
}

void osync_stream_close(osync_stream_t *s, void (*cb)(void *arg), void *arg) {
    if (!s || s->closing) return;
    s->closing = true;
    s->closed = cb;
    s->closed_arg = arg;
    if (s->sinks) uv_timer_start(&s->grace, on_grace, CLOSE_GRACE_MS, 0);
    osync__delivery_close(s->delivery, delivery_closed, s);
}

/* What delivery tells */

static void on_rewind(void *arg, bool ready, bool permanent, const osync_error_t *err) {
    osync_stream_t *s = arg;
    s->ready = ready;
    if (s->closing) return;
    size_t len;
    const void *position = osync__delivery_point(s->delivery, &len);
    if (ready)
        s->c.on_ready(s->c.arg, position, len);
    else if (s->c.on_trouble)
        s->c.on_trouble(s->c.arg, permanent, err);
}

static void on_commit(void *arg, const void *point, size_t len) {
    osync_stream_t *s = arg;
    if (!s->closing && s->c.on_commit) s->c.on_commit(s->c.arg, point, len);
}

/* The open */

static int check(const osync_stream_config_t *c, osync_error_t *err) {
    if (!c->dest || !*c->dest) return osync__err(err, OSYNC_ECONFIG, "stream: dest is required");
    if (!c->name || !*c->name) return osync__err(err, OSYNC_ECONFIG, "stream: name is required");
    int rc = osync__delivery_check_names(c->name, c->suffix, err);
    if (rc) return rc;
    if (!c->checkpoint && (!c->state || !*c->state))
        return osync__err(err, OSYNC_ECONFIG, "stream %s: state (a file's path) or checkpoint is required", c->name);
    if (c->sink && c->sink->ops->size < sizeof(osync_sink_ops_t))
        return osync__err(err, OSYNC_EINVAL, "stream %s: sink->ops->size isn't sizeof(osync_sink_ops_t)", c->name);
    if (c->checkpoint && c->checkpoint->ops->size < sizeof(osync_checkpoint_ops_t))
        return osync__err(err, OSYNC_EINVAL, "stream %s: checkpoint->ops->size isn't sizeof(osync_checkpoint_ops_t)",
                          c->name);
    if (!c->on_ready) return osync__err(err, OSYNC_ECONFIG, "stream %s: on_ready is required", c->name);
    if (c->roll_bytes == 0) return osync__err(err, OSYNC_ECONFIG, "stream %s: roll_bytes must be above 0", c->name);
    if (c->start_len > OSYNC_POSITION_MAX || (c->start_len && !c->start))
        return osync__err(err, OSYNC_EINVAL, "stream %s: start is NULL, or longer than %d bytes", c->name,
                          OSYNC_POSITION_MAX);
    return 0;
}

/* *path is valid as long as *target, which the caller frees, and c->dest. */
static int open_sink(osync_stream_t *s, const osync_stream_config_t *c, char **target, const char **path,
                     osync_error_t *err) {
    if (c->sink) {
        s->sink = c->sink;
        *path = strcmp(c->dest, "/") == 0 ? "" : c->dest;
        return osync__sink_check_path(c->dest, err);
    }
    osync__sinks_config_t config = {.hadoop_conf_dir = c->hadoop_conf_dir, .hadoop_user = c->hadoop_user};
    int rc = osync__sinks_new(s->loop, &config, &s->sinks);
    if (rc) return osync__err(err, rc, "stream %s: out of memory", c->name);
    rc = osync__dest_resolve(s->sinks, c->dest, target, err);
    return rc ? rc : osync__sinks_get(s->sinks, *target, &s->sink, path, err);
}

int osync_stream_open(osync_stream_t **out, uv_loop_t *loop, const osync_stream_config_t *config, osync_error_t *err) {
    osync_stream_config_t c = defaults;
    char *key = NULL, *text = NULL, *target = NULL;
    const char *path = NULL;
    osync_stream_t *s = NULL;
    int rc = osync__config_take(&c, sizeof c, config, "osync_stream_config_init", err);
    if (!rc) rc = check(&c, err);
    if (rc) return rc;
    s = osync__calloc(1, sizeof *s);
    key = osync__format("stream/%s", c.name);
    text = osync__format("stream %s", c.name);
    if (!s || !key || !text) {
        rc = osync__err(err, OSYNC_ENOMEM, "stream %s: out of memory", c.name);
        goto done;
    }
    s->loop = loop;
    s->c = c;
    rc = open_sink(s, &c, &target, &path, err);
    if (!rc && !c.checkpoint) rc = osync_sqlite_checkpoint_new(&s->store, loop, c.state, err);
    if (rc) goto done;
    osync__delivery_config_t d = {.loop = loop,
                                  .sink = s->sink,
                                  .store = c.checkpoint ? c.checkpoint : s->store,
                                  .key = key,
                                  .dest = path,
                                  .task_id = c.name,
                                  .is_stream = true,
                                  .suffix = c.suffix,
                                  .label_text = text,
                                  .roll_bytes = c.roll_bytes,
                                  .roll_interval_ms = c.roll_interval_ms,
                                  .first_point = c.start,
                                  .first_point_len = c.start_len,
                                  /* Without a record it may be lost, or the stream may be new: the files tell. */
                                  .rebuild = true,
                                  .start_over = true,
                                  .on_commit = on_commit,
                                  .on_rewind = on_rewind,
                                  .arg = s};
    rc = osync__delivery_new(&d, &s->delivery, err);
    if (rc) goto done;
    uv_timer_init(loop, &s->grace);
    s->grace.data = s;
    s->grace_open = true;
    osync__delivery_start(s->delivery);
    *out = s;
    s = NULL;
done:
    if (s) close_parts(s);
    osync__free(key);
    osync__free(text);
    osync__free(target);
    return rc;
}

/* Calls */

static void on_appended(void *arg, int status, const osync_error_t *err) {
    osync_stream_t *s = arg;
    osync_stream_cb cb = s->append_cb;
    s->append_cb = NULL;
    cb(s->append_arg, status, err);
}

int osync_stream_append(osync_stream_t *s, const void *data, size_t len, uint64_t records, const void *position,
                        size_t position_len, osync_stream_cb cb, void *arg) {
    if (s->closing) return OSYNC_ECLOSED;
    if (!cb || (len && !data) || (position_len && !position)) return OSYNC_EINVAL;
    if (len > OSYNC_STREAM_APPEND_MAX || position_len > OSYNC_POSITION_MAX) return OSYNC_ETOOBIG;
    if (!s->ready || s->append_cb) return OSYNC_EAGAIN;
    size_t end_len;
    const void *end = osync__delivery_end(s->delivery, &end_len);
    int rc =
        osync__delivery_append(s->delivery, data, len, records, end, end_len, position, position_len, on_appended, s);
    if (rc) return rc;
    s->append_cb = cb;
    s->append_arg = arg;
    return 0;
}

int osync_stream_commit(osync_stream_t *s, osync_stream_cb cb, void *arg) {
    if (s->closing) return OSYNC_ECLOSED;
    if (!cb) return OSYNC_EINVAL;
    if (!s->ready) return OSYNC_EAGAIN;
    return osync__delivery_flush(s->delivery, cb, arg);
}

const void *osync_stream_position(const osync_stream_t *s, size_t *len) {
    return osync__delivery_point(s->delivery, len);
}

void osync_stream_totals(const osync_stream_t *s, osync_stream_totals_t *out) {
    osync__delivery_totals_t t;
    osync__delivery_totals(s->delivery, &t);
    *out = (osync_stream_totals_t){.records = t.rows,
                                   .bytes = t.bytes,
                                   .files = t.files,
                                   .pending_records = t.staged_rows,
                                   .pending_bytes = t.staged_bytes};
}
