/* Direct writing, the part that writes: packs of rows become staged files on a sink of the test, which answers one call
 * at a time and fails where it is told to. What is done with the files is test_collector's and tests/e2e's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "base/alloc.h"
#include "base/error.h"
#include "collector/stage.h"
#include "fmt.h"
#include "osync/csv.h"
#include "row_builder.h"

enum { BIGINT = OPENMLDB__TYPE__DATA_TYPE__kBigInt, STRING = OPENMLDB__TYPE__DATA_TYPE__kString };
enum { LONG_MS = 600000, MAX_FILES = 256, PAYLOAD = 40, ROW_BYTES = 45 /* about, as CSV */ };

/* ---- the sink ---- */

typedef struct file {
    osync_sink_file_t head;
    char path[128];
    osync__buf_t data;
    bool whole, aborted, removed;
} file_t;

typedef enum call { NONE, CREATE, WRITE, FINISH } call_t;

typedef struct world {
    osync_sink_t sink;
    uv_loop_t loop;
    uv_timer_t turn;
    osync__pool_t *pool;
    osync_collector_config_t config;
    osync__places_t *places;
    osync__place_t *place;
    osync__stage_t *stage;
    osync_table_t *narrow, *wide;

    file_t files[MAX_FILES];
    size_t n_files;
    call_t open; /* of the sink */
    file_t *file;
    osync_sink_cb cb, abort_cb, remove_cb;
    void *arg, *abort_arg, *remove_arg;
    bool held;          /* nothing is answered */
    int calls, fail_at; /* fail_at: which of them fails, and how */
    int fail_with, made, sinks_closed, removals;
    void (*close_cb)(void *arg);
    void *close_arg;

    int changes, closed;
    /* what was taken out */
    osync__buf_t rows; /* bytes of the files in order */
    uint64_t count;
    char end[32];
    size_t n_taken;
    bool finished;
} world_t;

static void answer(world_t *w, int status) {
    osync_sink_cb cb = w->cb;
    osync_error_t err;
    w->open = NONE;
    if (status) osync__err(&err, status, "as the test wants it");
    cb(w->arg, status, status ? &err : NULL);
}

static void on_turn(uv_timer_t *timer) {
    world_t *w = timer->data;
    if (w->abort_cb) {
        osync_sink_cb cb = w->abort_cb;
        if (w->open) answer(w, OSYNC_ECANCELED);
        w->abort_cb = NULL;
        cb(w->abort_arg, 0, NULL);
    } else if (w->remove_cb && !w->held) {
        osync_sink_cb cb = w->remove_cb;
        w->remove_cb = NULL;
        cb(w->remove_arg, 0, NULL);
    } else if (w->open && !w->held) {
        bool fails = ++w->calls == w->fail_at;
        if (w->open == FINISH && !fails) w->file->whole = true;
        answer(w, fails ? w->fail_with : 0);
    } else if (w->close_cb) {
        void (*cb)(void *) = w->close_cb;
        w->close_cb = NULL;
        if (w->remove_cb) {
            osync_sink_cb removed = w->remove_cb;
            w->remove_cb = NULL;
            removed(w->remove_arg, OSYNC_ECANCELED, NULL);
        }
        w->sinks_closed++;
        cb(w->close_arg);
    }
}

static int begin(world_t *w, call_t what, file_t *f, osync_sink_cb cb, void *arg) {
    assert_int_equal(w->open, NONE);
    assert_false(f->whole || f->aborted);
    w->open = what;
    w->file = f;
    w->cb = cb;
    w->arg = arg;
    return 0;
}

static int fake_create(osync_sink_t *sink, const char *path, osync_sink_file_t **out, osync_sink_cb cb, void *arg) {
    world_t *w = (world_t *)sink;
    assert_true(w->n_files < MAX_FILES);
    for (size_t i = 0; i < w->n_files; i++) assert_string_not_equal(w->files[i].path, path);
    file_t *f = &w->files[w->n_files++];
    f->head.sink = sink;
    (void)snprintf(f->path, sizeof f->path, "%s", path);
    *out = &f->head;
    return begin(w, CREATE, f, cb, arg);
}

static int fake_write(osync_sink_file_t *file, const void *data, size_t len, osync_sink_cb cb, void *arg) {
    assert_true(len > 0);
    assert_int_equal(osync__buf_append(&((file_t *)file)->data, data, len), 0);
    return begin((world_t *)file->sink, WRITE, (file_t *)file, cb, arg);
}

static int fake_finish(osync_sink_file_t *file, osync_sink_cb cb, void *arg) {
    return begin((world_t *)file->sink, FINISH, (file_t *)file, cb, arg);
}

static void fake_abort(osync_sink_file_t *file, osync_sink_cb cb, void *arg) {
    world_t *w = (world_t *)file->sink;
    ((file_t *)file)->aborted = true;
    w->abort_cb = cb;
    w->abort_arg = arg;
}

static int fake_remove(osync_sink_t *sink, const char *path, bool recursive, osync_sink_cb cb, void *arg) {
    world_t *w = (world_t *)sink;
    assert_false(recursive);
    assert_null(w->remove_cb);
    for (size_t i = 0; i < w->n_files; i++)
        if (!strcmp(w->files[i].path, path)) w->files[i].removed = true;
    w->removals++;
    w->remove_cb = cb;
    w->remove_arg = arg;
    return 0;
}

static void fake_close(osync_sink_t *sink, void (*cb)(void *arg), void *arg) {
    world_t *w = (world_t *)sink;
    assert_int_equal(w->open, NONE);
    w->close_cb = cb;
    w->close_arg = arg;
}

static const osync_sink_ops_t fake_ops = {
    .size = sizeof fake_ops,
    .create = fake_create,
    .write = fake_write,
    .finish = fake_finish,
    .abort = fake_abort,
    .remove = fake_remove,
    .close = fake_close,
};

static int make(void *arg, osync_sink_t **out, uv_loop_t *loop, const char *scheme, const char *authority,
                osync_error_t *err) {
    world_t *w = arg;
    w->made++;
    if (strcmp(scheme, "fake")) return osync__err(err, OSYNC_ENOTSUP, "no %s://%s", scheme, authority);
    *out = &w->sink;
    return 0;
}

/* ---- the world ---- */

static int make_world(void **state) {
    static const int types[] = {BIGINT, STRING, BIGINT};
    world_t *w = calloc(1, sizeof *w);
    osync_error_t err = {0};
    if (!w) return -1;
    w->sink.ops = &fake_ops;
    uv_loop_init(&w->loop);
    uv_timer_init(&w->loop, &w->turn);
    w->turn.data = w;
    uv_timer_start(&w->turn, on_turn, 1, 1);
    assert_int_equal(osync__pool_new(&w->loop, 2, &w->pool, &err), 0);
    osync_collector_config_init(&w->config, sizeof w->config);
    w->config.make_sink = make;
    w->config.make_sink_arg = w;
    assert_int_equal(osync__places_new(&w->loop, &w->config, &w->places), 0);
    if (osync__places_get(w->places, "fake://a", NULL, NULL, &w->place, &err)) fail_msg("%s", err.message);
    assert_int_equal(row_table(&w->narrow, types, 2, 0, &err), 0);
    assert_int_equal(row_table(&w->wide, types, 3, 1, &err), 0);
    *state = w;
    return 0;
}

static void on_closed(void *arg) {
    ++*(int *)arg;
}

static void run_until(world_t *w, const int *what, int value) {
    while (*what < value) uv_run(&w->loop, UV_RUN_ONCE);
}

static void on_change(void *arg) {
    ((world_t *)arg)->changes++;
}

static void open_stage(world_t *w, uint64_t roll_bytes, uint32_t roll_ms) {
    osync__stage_config_t config = {.loop = &w->loop,
                                    .pool = w->pool,
                                    .place = w->place,
                                    .folder = "/top/incarnation",
                                    .timezone = "UTC",
                                    .roll_bytes = roll_bytes,
                                    .roll_interval_ms = roll_ms,
                                    .changed = on_change,
                                    .arg = w};
    assert_int_equal(osync__stage_new(&config, &w->stage), 0);
}

static void close_stage(world_t *w) {
    int closed = 0;
    osync__stage_close(w->stage, on_closed, &closed);
    assert_int_equal(closed, 0);
    run_until(w, &closed, 1);
    w->stage = NULL;
}

static int end_world(void **state) {
    world_t *w = *state;
    int closed = 0;
    w->held = false;
    if (w->stage) close_stage(w);
    while (w->remove_cb) uv_run(&w->loop, UV_RUN_ONCE);
    osync__place_put(w->place);
    osync__places_close(w->places, on_closed, &closed);
    osync__pool_close(w->pool, on_closed, &closed);
    run_until(w, &closed, 2);
    assert_int_equal(w->sinks_closed, 1);
    uv_close((uv_handle_t *)&w->turn, NULL);
    uv_run(&w->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&w->loop), 0);
    osync_table_free(w->narrow);
    osync_table_free(w->wide);
    for (size_t i = 0; i < w->n_files; i++) osync__buf_free(&w->files[i].data);
    osync__buf_free(&w->rows);
    free(w);
    return 0;
}

/* ---- packs ---- */

/* Rows with the numbers from `first` on; what they are as CSV is appended to `csv`. */
static osync__pack_t pack_of(osync__buf_t *csv, const osync_table_t *table, uint64_t first, uint64_t count) {
    static const int types[] = {BIGINT, STRING, BIGINT};
    char text[PAYLOAD];
    osync__pack_t p = {.count = count};
    memset(text, 'x', sizeof text);
    for (uint64_t i = first; i < first + count; i++) {
        row_value_t values[] = {{.bits = i}, {.text = text, .text_len = sizeof text}, {.bits = 7}};
        size_t size, n = table->n_columns;
        uint8_t *row = row_build(types, values, n, n == 3 ? 2 : 1, &size);
        assert_int_equal(osync__buf_append(&p.rows, row, size), 0);
        free(row);
        if (csv)
            assert_int_equal(
                osync__buf_printf(csv, "%llu,\"%.*s\"%s\n", (unsigned long long)i, PAYLOAD, text, n == 3 ? ",7" : ""),
                0);
    }
    assert_int_equal(osync__buf_printf(&p.next, "%llu", (unsigned long long)(first + count)), 0);
    return p;
}

/* Takes what is whole; true if there was something. */
static bool take(world_t *w) {
    osync__staged_t f = {0};
    if (!osync__stage_take(w->stage, &f)) return false;
    assert_false(w->finished);
    assert_int_equal(f.rows == 0, f.bytes == 0);
    if (f.bytes > 0) {
        const char *path = fmt("/top/incarnation/%s", f.attempt);
        file_t *file = NULL;
        for (size_t i = 0; i < w->n_files; i++)
            if (!strcmp(w->files[i].path, path)) file = &w->files[i];
        assert_non_null(file);
        assert_true(file->whole && !file->removed);
        assert_int_equal(file->data.len, f.bytes);
        assert_int_equal(osync__buf_append(&w->rows, file->data.data, file->data.len), 0);
    }
    w->count += f.rows;
    w->n_taken++;
    w->finished = f.finished;
    (void)snprintf(w->end, sizeof w->end, "%.*s", (int)f.next.len, (const char *)f.next.data);
    osync__staged_clear(&f);
    return true;
}

/* Gives a pack as soon as it is taken; what is whole meanwhile is taken out. */
static void give(world_t *w, osync__pack_t p, osync_table_t *table) {
    while (!osync__stage_has_room(w->stage)) {
        assert_int_equal(osync__stage_failed(w->stage, &(osync_error_t){0}), OSYNC__STAGE_GOES_ON);
        if (!take(w)) uv_run(&w->loop, UV_RUN_ONCE);
    }
    osync__stage_add(w->stage, &p, table);
    assert_int_equal(p.rows.len, 0);
}

static void wait_taken(world_t *w, size_t n) {
    while (w->n_taken < n)
        if (!take(w)) uv_run(&w->loop, UV_RUN_ONCE);
}

static void wait_failed(world_t *w, osync__stage_failure_t failure, osync_error_t *err) {
    osync__stage_failure_t got;
    while ((got = osync__stage_failed(w->stage, err)) == OSYNC__STAGE_GOES_ON) uv_run(&w->loop, UV_RUN_ONCE);
    assert_int_equal(got, failure);
}

static void expect(const world_t *w, const osync__buf_t *csv, uint64_t count) {
    assert_int_equal(w->count, count);
    assert_int_equal(w->rows.len, csv->len);
    assert_memory_equal(w->rows.data, csv->data, csv->len);
}

/* ---- tests ---- */

/* Whatever sizes packs have, each row is in one file, in order, and a file ends with the pack that fills it. */
static void rows_become_files(void **state) {
    world_t *w = *state;
    osync__buf_t csv = {0};
    uint64_t n = 0;
    unsigned seed = 7;
    open_stage(w, 100 * ROW_BYTES, LONG_MS);
    for (int i = 0; i < 200; i++) {
        seed = seed * 1103515245u + 12345u;
        uint64_t count = (seed >> 16) % 60;
        osync__pack_t p = pack_of(&csv, w->narrow, n, count);
        n += count;
        p.finished = i == 199;
        give(w, p, w->narrow);
    }
    while (!w->finished) wait_taken(w, w->n_taken + 1);
    expect(w, &csv, n);
    assert_string_equal(w->end, fmt("%llu", (unsigned long long)n));
    assert_null(osync__stage_point(w->stage));
    assert_true(w->n_files > 10);
    for (size_t i = 0; i + 1 < w->n_files; i++) {
        assert_true(w->files[i].data.len >= 100 * ROW_BYTES);
        assert_true(w->files[i].data.len < 160 * ROW_BYTES);
    }
    osync__buf_free(&csv);
}

static void interval_ends_a_file(void **state) {
    world_t *w = *state;
    osync__stage_size_t size;
    osync__buf_t csv = {0};
    open_stage(w, UINT64_MAX, 50);
    give(w, pack_of(&csv, w->narrow, 0, 3), w->narrow);
    wait_taken(w, 1);
    give(w, pack_of(&csv, w->narrow, 3, 2), w->narrow);
    for (size.rows = 0; size.rows == 0; osync__stage_size(w->stage, &size)) uv_run(&w->loop, UV_RUN_ONCE);
    assert_int_equal(size.rows, 2);
    assert_int_equal(size.memory, 0);
    wait_taken(w, 2);
    expect(w, &csv, 5);
    osync__buf_free(&csv);
}

/* The next file waits until the one before is taken out; what it waits with is bounded. */
static void one_at_a_time(void **state) {
    world_t *w = *state;
    open_stage(w, 1, LONG_MS);
    for (int i = 0; i < 2; i++) {
        osync__pack_t p = pack_of(NULL, w->narrow, (uint64_t)i, 1);
        osync__stage_add(w->stage, &p, w->narrow);
    }
    while (w->calls < 3 || !osync__stage_has_room(w->stage)) uv_run(&w->loop, UV_RUN_ONCE);
    osync__pack_t p = pack_of(NULL, w->narrow, 2, 1);
    osync__stage_add(w->stage, &p, w->narrow);
    assert_false(osync__stage_has_room(w->stage));
    for (int i = 0; i < 20; i++) uv_run(&w->loop, UV_RUN_ONCE);
    assert_int_equal(w->n_files, 1);
    assert_string_equal((osync__buf_append(&p.next, osync__stage_point(w->stage)->data, 1),
                         osync__buf_append(&p.next, "", 1), (const char *)p.next.data),
                        "3");
    osync__buf_free(&p.next);
    wait_taken(w, 3);
    assert_int_equal(w->n_files, 3);
    assert_int_equal(w->count, 3);
}

static void points_without_rows(void **state) {
    world_t *w = *state;
    osync__buf_t csv = {0};
    open_stage(w, UINT64_MAX, LONG_MS);
    give(w, pack_of(&csv, w->narrow, 10, 0), w->narrow); /* nothing is open: it goes alone */
    wait_taken(w, 1);
    assert_string_equal(w->end, "10");
    assert_int_equal(w->n_files, 0);
    give(w, pack_of(&csv, w->narrow, 10, 4), w->narrow);
    osync__pack_t last = pack_of(&csv, w->narrow, 20, 0); /* goes into the file */
    last.finished = true;
    give(w, last, w->narrow);
    wait_taken(w, 2);
    assert_string_equal(w->end, "20");
    assert_true(w->finished);
    expect(w, &csv, 4);
    osync__buf_free(&csv);
}

/* One file has one schema. Rows of the older one are in the newer one's form as soon as that is known. */
static void other_columns_begin_a_new_file(void **state) {
    world_t *w = *state;
    osync__buf_t csv = {0};
    open_stage(w, UINT64_MAX, 100);
    give(w, pack_of(&csv, w->narrow, 0, 5), w->narrow);
    give(w, pack_of(&csv, w->wide, 5, 5), w->wide);
    wait_taken(w, 2);
    expect(w, &csv, 10);
    assert_int_equal(w->n_files, 2);
    give(w, pack_of(NULL, w->narrow, 10, 1), w->wide);
    wait_taken(w, 3);
    assert_string_equal(strrchr((osync__buf_append(&w->rows, "", 1), (const char *)w->rows.data), ','), ",null\n");
    osync__buf_free(&csv);
}

/* What was good before is a file of its own first. */
static void rows_that_cannot_be_encoded(void **state) {
    world_t *w = *state;
    osync__buf_t csv = {0};
    osync_error_t err;
    open_stage(w, UINT64_MAX, LONG_MS);
    give(w, pack_of(&csv, w->narrow, 0, 5), w->narrow);
    give(w, pack_of(NULL, w->wide, 5, 1), w->narrow); /* the older description doesn't know its version */
    wait_taken(w, 1);
    expect(w, &csv, 5);
    wait_failed(w, OSYNC__STAGE_ENCODER, &err);
    assert_int_equal(err.code, OSYNC_ESCHEMA);
    assert_false(osync__stage_has_room(w->stage));
    close_stage(w);
    assert_int_equal(w->removals, 0);
    osync__buf_free(&csv);
}

/* The file is given up whichever call fails; the ones before it are taken out whole. */
static void every_call_fails_once(void **state) {
    world_t *w = *state;
    static const int how[] = {OSYNC_EIO, OSYNC_ENOENT};
    for (int at = 1; at <= 7; at++) { /* two files: create, write, write, finish; create, write, write */
        osync__buf_t csv = {0};
        osync_error_t err = {0};
        int removals = w->removals, wanted = how[at % 2];
        size_t files = w->n_files;
        w->calls = 0;
        w->fail_at = at;
        w->fail_with = wanted;
        w->count = w->n_taken = w->rows.len = 0;
        open_stage(w, 10 * ROW_BYTES, LONG_MS);
        for (uint64_t i = 0; i < 4 && !osync__stage_failed(w->stage, &err); i++) {
            osync__pack_t p = pack_of(i < 2 && at > 4 ? &csv : NULL, w->narrow, 6 * i, 6);
            while (!osync__stage_has_room(w->stage) && !osync__stage_failed(w->stage, &err))
                if (!take(w)) uv_run(&w->loop, UV_RUN_ONCE);
            if (osync__stage_has_room(w->stage)) osync__stage_add(w->stage, &p, w->narrow);
            osync__pack_clear(&p);
        }
        while (!osync__stage_failed(w->stage, &err))
            if (!take(w)) uv_run(&w->loop, UV_RUN_ONCE);
        assert_int_equal(osync__stage_failed(w->stage, &err), OSYNC__STAGE_SINK);
        assert_int_equal(err.code, wanted);
        assert_non_null(strstr(err.message, "as the test wants it"));
        assert_false(take(w));
        expect(w, &csv, at > 4 ? 12 : 0);
        close_stage(w);
        assert_int_equal(w->removals, removals + 1);
        assert_true(w->files[w->n_files - 1].removed);
        assert_int_equal(w->n_files, files + (at > 4 ? 2 : 1));
        if (at > 4) assert_false(w->files[files].removed);
        while (w->remove_cb) uv_run(&w->loop, UV_RUN_ONCE);
        osync__buf_free(&csv);
    }
}

/* Nothing is waited for that takes as long as a network does; what nobody has been told of is removed, and nothing
 * else.
 */
static void closing_at_any_moment(void **state) {
    world_t *w = *state;
    for (int turns = 0; turns < 40; turns++) {
        int removals = w->removals;
        size_t files = w->n_files;
        w->held = false;
        w->n_taken = 0;
        open_stage(w, 1, LONG_MS);
        for (int i = 0; i < turns; i++) {
            if (i % 3 == 0 && osync__stage_has_room(w->stage)) {
                osync__pack_t p = pack_of(NULL, w->narrow, (uint64_t)i, 2);
                osync__stage_add(w->stage, &p, w->narrow);
            }
            uv_run(&w->loop, UV_RUN_ONCE);
            if (i > 20) (void)take(w);
        }
        w->held = true;
        close_stage(w);
        size_t begun = w->n_files - files;
        assert_int_equal(w->removals - removals, begun - w->n_taken);
        for (size_t i = files; i < w->n_files; i++) assert_int_equal(w->files[i].removed, i >= files + w->n_taken);
        w->held = false;
        while (w->remove_cb) uv_run(&w->loop, UV_RUN_ONCE);
    }
}

/* Tasks that write to the same place share its sink, and only they. */
static void places_are_shared(void **state) {
    world_t *w = *state;
    osync__place_t *same = NULL, *other = NULL;
    osync_error_t err = {0};
    assert_int_equal(osync__places_get(w->places, "fake://a", NULL, NULL, &same, &err), 0);
    assert_ptr_equal(same, w->place);
    assert_int_equal(w->made, 1);
    assert_int_equal(osync__places_get(w->places, "fake://a", "someone", NULL, &other, &err), 0);
    assert_ptr_not_equal(other, same);
    assert_int_equal(w->made, 2);
    osync__place_put(other);
    osync__place_put(same);
    run_until(w, &w->sinks_closed, 1);
    w->sinks_closed = 0;
    static const char *const wrong[] = {"", "fake", "fake://a/b", "fake://a\n", "://", "fake://u@h"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_not_equal(osync__places_get(w->places, wrong[i], NULL, NULL, &other, &err), 0);
    assert_int_equal(w->made, 2);
    assert_int_equal(osync__places_get(w->places, "other://a", NULL, NULL, &other, &err), OSYNC_ENOTSUP);
}

#define T(name) cmocka_unit_test_setup_teardown(name, make_world, end_world)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(rows_become_files),     T(interval_ends_a_file),           T(one_at_a_time),
        T(points_without_rows),   T(other_columns_begin_a_new_file), T(rows_that_cannot_be_encoded),
        T(every_call_fails_once), T(closing_at_any_moment),          T(places_are_shared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
