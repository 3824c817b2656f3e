#include "collector/stage.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/failpoint.h"
#include "base/sys.h"
#include "format/row.h"
#include "format/table.h"
#include "osync/csv.h"

enum {
    SLOTS = 2,
    IDLE_CSV_BYTES = 64 << 10, /* an encoder that had more in it isn't kept while nothing is written, */
    IDLE_MS = 200,             /* for longer than this */
};

/* One pack on its way into a file. */
typedef struct slot {
    osync__job_t job;
    osync__pack_t pack; /* its rows are freed as soon as they are encoded */
    osync_table_t *table;
    osync_csv_t *csv; /* made for csv_table, and kept for the next pack */
    osync_table_t *csv_table;
    const char *timezone;
    size_t len; /* of the CSV */
    bool encoded;
    int status;
    osync_error_t err;
} slot_t;

struct osync__stage {
    osync__stage_config_t c;
    char *folder, *timezone;
    slot_t slots[SLOTS];
    unsigned first, n;
    unsigned jobs; /* under way on the pool */
    uv_timer_t roll, idle;
    unsigned timers; /* that aren't closed */
    bool roll_due;

    osync_sink_file_t *file; /* while something is to be written to it */
    char *path;
    bool begun;          /* `now` is a file that may be there */
    bool busy;           /* a call of the sink is open */
    bool whole;          /* `now` can be taken out */
    osync__staged_t now; /* what is written, or whole */
    size_t columns;      /* of the file */

    osync__stage_failure_t failure;
    osync_error_t err;
    bool closing, aborting, aborted;
    void (*closed)(void *arg);
    void *closed_arg;
};

static void step(osync__stage_t *s);

void osync__staged_clear(osync__staged_t *f) {
    osync__buf_free(&f->next);
    *f = (osync__staged_t){0};
}

/* ---- the end ---- */

static void drop_csv(slot_t *p) {
    osync_csv_free(p->csv);
    if (p->csv_table) osync_table_free(p->csv_table);
    p->csv = NULL;
    p->csv_table = NULL;
}

static void empty_slot(slot_t *p) {
    osync__pack_clear(&p->pack);
    osync_table_free(p->table);
    p->table = NULL;
    p->len = 0;
    p->encoded = false;
}

static void on_timer_closed(uv_handle_t *h) {
    osync__stage_t *s = h->data;
    if (--s->timers > 0) return;
    for (unsigned i = 0; i < SLOTS; i++) {
        empty_slot(&s->slots[i]);
        drop_csv(&s->slots[i]);
    }
    if (s->begun) osync__place_remove(s->c.place, s->path);
    osync__place_put(s->c.place);
    void (*closed)(void *) = s->closed;
    void *arg = s->closed_arg;
    osync__staged_clear(&s->now);
    osync__free(s->folder);
    osync__free(s->timezone);
    osync__free(s->path);
    osync__free(s);
    closed(arg);
}

static void on_aborted(void *arg, int status, const osync_error_t *err) {
    osync__stage_t *s = arg;
    s->file = NULL;
    s->aborting = false;
    step(s);
}

/* Waits for the jobs and the sink's callbacks, which come at once. */
static void go_to_end(osync__stage_t *s) {
    if (s->file && !s->aborted) {
        s->aborting = s->aborted = true;
        s->file->sink->ops->abort(s->file, on_aborted, s);
    }
    if (s->aborting || s->busy || s->jobs > 0 || uv_is_closing((uv_handle_t *)&s->roll)) return;
    uv_close((uv_handle_t *)&s->roll, on_timer_closed);
    uv_close((uv_handle_t *)&s->idle, on_timer_closed);
}

void osync__stage_close(osync__stage_t *s, void (*closed)(void *arg), void *arg) {
    s->closing = true;
    s->closed = closed;
    s->closed_arg = arg;
    uv_timer_stop(&s->roll);
    uv_timer_stop(&s->idle);
    step(s);
}

/* ---- encoding ---- */

/* On a worker. */
static void encode(osync__job_t *job) {
    slot_t *p = (slot_t *)(void *)job;
    const uint8_t *row = p->pack.rows.data;
    size_t left = p->pack.rows.len, size = 0;
    if (p->csv && p->csv_table != p->table) drop_csv(p);
    if (!p->csv) {
        osync_csv_config_t config;
        osync_csv_config_init(&config, sizeof config);
        config.timezone = p->timezone;
        p->status = osync_csv_new(&p->csv, p->table, &config, &p->err);
        if (!p->status) p->csv_table = osync__table_share(p->table);
    } else {
        osync_csv_reset(p->csv);
    }
    for (; !p->status && left > 0; row += size, left -= size) {
        p->status = osync__row_size(row, left, &size, &p->err);
        if (!p->status) p->status = osync_csv_add(p->csv, row, size, &p->err);
    }
    if (!p->status) (void)osync_csv_data(p->csv, &p->len);
    osync__buf_free(&p->pack.rows);
}

static void on_encoded(osync__job_t *job) {
    osync__stage_t *s = job->arg;
    slot_t *p = (slot_t *)(void *)job;
    s->jobs--;
    if (s->c.budget) osync__budget_spent(s->c.budget, 0, job->cpu_ns);
    p->encoded = true;
    step(s);
    if (!s->closing) s->c.changed(s->c.arg);
}

bool osync__stage_has_room(const osync__stage_t *s) {
    return s->n < SLOTS && !s->failure && !s->closing;
}

void osync__stage_add(osync__stage_t *s, osync__pack_t *pack, osync_table_t *table) {
    slot_t *p = &s->slots[(s->first + s->n++) % SLOTS];
    p->pack = *pack;
    *pack = (osync__pack_t){0};
    p->table = osync__table_share(table);
    p->timezone = s->timezone;
    p->status = 0;
    if (p->pack.count == 0) {
        p->encoded = true;
        step(s);
        return;
    }
    p->job = (osync__job_t){.work = encode, .done = on_encoded, .arg = s};
    s->jobs++;
    osync__pool_submit(s->c.pool, &p->job);
}

const osync__buf_t *osync__stage_point(const osync__stage_t *s) {
    if (s->n > 0) return &s->slots[(s->first + s->n - 1) % SLOTS].pack.next;
    return s->now.next.len > 0 ? &s->now.next : NULL;
}

void osync__stage_size(const osync__stage_t *s, osync__stage_size_t *out) {
    *out = (osync__stage_size_t){.rows = s->now.rows, .bytes = s->now.bytes};
    for (unsigned i = 0; i < s->n; i++) {
        const slot_t *p = &s->slots[(s->first + i) % SLOTS];
        out->memory += p->encoded ? p->len : p->pack.rows.len;
    }
}

/* ---- writing ---- */

static void fail(osync__stage_t *s, osync__stage_failure_t failure, const osync_error_t *err) {
    s->failure = failure;
    s->err = *err;
}

osync__stage_failure_t osync__stage_failed(const osync__stage_t *s, osync_error_t *err) {
    if (s->failure) *err = s->err;
    return s->failure;
}

static slot_t *head(osync__stage_t *s) {
    return s->n > 0 && s->slots[s->first].encoded ? &s->slots[s->first] : NULL;
}

/* Memory of a burst isn't kept while nothing comes. */
static void on_idle(uv_timer_t *timer) {
    osync__stage_t *s = timer->data;
    for (unsigned i = 0; i < SLOTS && s->n == 0; i++) {
        slot_t *p = &s->slots[i];
        size_t len = 0;
        if (p->csv) (void)osync_csv_data(p->csv, &len);
        if (len > IDLE_CSV_BYTES) drop_csv(p);
    }
}

/* The pack's rows are in the file: so is its point. */
static void pass_head(osync__stage_t *s) {
    slot_t *p = &s->slots[s->first];
    osync__buf_free(&s->now.next);
    s->now.next = p->pack.next;
    p->pack.next = (osync__buf_t){0};
    s->now.finished = p->pack.finished;
    s->now.rows += p->pack.count;
    s->now.bytes += p->len;
    empty_slot(p);
    s->first = (s->first + 1) % SLOTS;
    s->n--;
    if (s->n == 0) uv_timer_start(&s->idle, on_idle, IDLE_MS, 0);
}

/* Returns false if nobody is interested in what has become of it. */
static bool came(osync__stage_t *s, int status, const osync_error_t *err) {
    s->busy = false;
    if (status && !s->failure && !s->closing) {
        osync_error_t own;
        osync__err(&own, status, "%s: %s", s->path, err ? err->message : osync_strerror(status));
        fail(s, OSYNC__STAGE_SINK, &own);
    }
    return !status && !s->closing;
}

static void go_on(osync__stage_t *s) {
    step(s);
    if (!s->closing) s->c.changed(s->c.arg);
}

static void begun(osync__stage_t *s, int rc) {
    osync_error_t err;
    s->busy = rc == 0;
    if (!rc) return;
    osync__err(&err, rc, "%s: %s", s->path, osync_strerror(rc));
    fail(s, OSYNC__STAGE_SINK, &err);
}

static void on_roll(uv_timer_t *timer) {
    osync__stage_t *s = timer->data;
    s->roll_due = true;
    go_on(s);
}

static void on_written(void *arg, int status, const osync_error_t *err) {
    osync__stage_t *s = arg;
    OSYNC__AFTER(direct_write);
    if (came(s, status, err)) {
        if (s->now.rows == 0) uv_timer_start(&s->roll, on_roll, s->c.roll_interval_ms, 0);
        pass_head(s);
    }
    go_on(s);
}

static void write_head(osync__stage_t *s) {
    size_t len;
    const char *data = osync_csv_data(head(s)->csv, &len);
    OSYNC__BEFORE(direct_write);
    begun(s, s->file->sink->ops->write(s->file, data, len, on_written, s));
}

static void on_created(void *arg, int status, const osync_error_t *err) {
    osync__stage_t *s = arg;
    OSYNC__AFTER(direct_create);
    if (came(s, status, err)) write_head(s);
    go_on(s);
}

static void create(osync__stage_t *s) {
    osync_sink_t *sink = osync__place_sink(s->c.place);
    osync__staged_clear(&s->now);
    osync__random_hex(s->now.attempt, OSYNC__ID_BYTES);
    osync__free(s->path);
    s->path = osync__format("%s/%s", s->folder, s->now.attempt);
    if (!s->path) {
        osync_error_t err;
        osync__err(&err, OSYNC_ENOMEM, "out of memory");
        fail(s, OSYNC__STAGE_SINK, &err);
        return;
    }
    s->columns = head(s)->table->n_columns;
    s->begun = true;
    OSYNC__BEFORE(direct_create);
    begun(s, sink->ops->create(sink, s->path, &s->file, on_created, s));
}

static void on_finished(void *arg, int status, const osync_error_t *err) {
    osync__stage_t *s = arg;
    OSYNC__AFTER(direct_finish);
    s->file = NULL;
    if (came(s, status, err)) s->whole = true;
    go_on(s);
}

static void finish(osync__stage_t *s) {
    uv_timer_stop(&s->roll);
    s->roll_due = false;
    OSYNC__BEFORE(direct_finish);
    begun(s, s->file->sink->ops->finish(s->file, on_finished, s));
}

static bool must_end(osync__stage_t *s) {
    const slot_t *p = head(s);
    if (s->now.rows == 0) return false;
    if (s->now.bytes >= s->c.roll_bytes || s->now.finished || s->roll_due) return true;
    return p && p->pack.count > 0 && (p->status || p->table->n_columns != s->columns);
}

/* What comes next. */
static void step(osync__stage_t *s) {
    if (s->closing) {
        go_to_end(s);
        return;
    }
    while (!s->busy && !s->failure && !s->whole) {
        slot_t *p = head(s);
        if (s->file && must_end(s)) {
            finish(s);
            return;
        }
        if (!p) return;
        if (p->pack.count == 0) {
            pass_head(s);
            s->whole = !s->file;
        } else if (p->status) {
            fail(s, OSYNC__STAGE_ENCODER, &p->err);
        } else if (s->file) {
            write_head(s);
        } else {
            create(s);
        }
    }
}

void osync__stage_flush(osync__stage_t *s) {
    if (s->n > 0 || s->file) s->roll_due = true;
    step(s);
}

bool osync__stage_take(osync__stage_t *s, osync__staged_t *out) {
    if (!s->whole || s->closing) return false;
    *out = s->now;
    s->now = (osync__staged_t){0};
    s->whole = s->begun = false;
    step(s);
    return true;
}

int osync__stage_new(const osync__stage_config_t *config, osync__stage_t **out) {
    osync__stage_t *s = osync__calloc(1, sizeof *s);
    if (!s) return OSYNC_ENOMEM;
    s->c = *config;
    s->folder = osync__strdup(config->folder);
    s->timezone = config->timezone ? osync__strdup(config->timezone) : NULL;
    if (!s->folder || (config->timezone && !s->timezone)) {
        osync__free(s->folder);
        osync__free(s->timezone);
        osync__free(s);
        return OSYNC_ENOMEM;
    }
    osync__place_share(config->place);
    uv_timer_init(config->loop, &s->roll);
    uv_timer_init(config->loop, &s->idle);
    s->roll.data = s->idle.data = s;
    s->timers = 2;
    *out = s;
    return 0;
}
