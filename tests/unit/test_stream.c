/* What osync/stream.h promises: records to files, each once, in order; positions; callbacks; refusals; what is lost and
 * found again. The protocol below, with every fault at every step, is test_delivery.c's; a real HDFS and kills are
 * tests/e2e/test_stream.py's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the five above */
#include <cmocka.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/sys.h"
#include "osync/log.h"
#include "osync/stream.h"

static uv_loop_t loop;
static char tmp[64];

/* Runs the loop until `cond`, which a callback makes true and calls uv_stop, so that the loop doesn't wait for more. */
#define WAIT(cond)                                                                                                     \
    do {                                                                                                               \
        while (!(cond)) assert_true(uv_run(&loop, UV_RUN_ONCE) != 0 || (cond));                                        \
    } while (0)

/* ---- one stream, and what it was told ---- */

typedef struct user {
    osync_stream_config_t c;
    osync_stream_t *stream;
    unsigned ready, trouble, commits;
    bool permanent, closed, in_call;
    osync_error_t err;
    uint8_t position[OSYNC_POSITION_MAX]; /* of the last on_ready or on_commit */
    size_t len;
    const char *close_in; /* the callback that closes the stream */
} user_t;

typedef struct answer {
    user_t *user;
    unsigned calls;
    int status;
    osync_error_t err;
} answer_t;

static void on_closed(void *arg) {
    user_t *u = arg;
    assert_false(u->closed);
    assert_false(u->in_call);
    u->closed = true;
    uv_stop(&loop);
}

static void start_close(user_t *u) {
    u->in_call = true;
    osync_stream_close(u->stream, on_closed, u);
    u->in_call = false;
}

static void close_stream(user_t *u) {
    start_close(u);
    WAIT(u->closed);
}

static bool closes(user_t *u, const char *in) {
    assert_false(u->in_call);
    assert_false(u->closed);
    if (!u->close_in || strcmp(u->close_in, in) != 0) return false;
    start_close(u);
    u->close_in = NULL;
    return true;
}

static void set_position(user_t *u, const void *position, size_t len) {
    assert_true(len <= sizeof u->position);
    if (len) memcpy(u->position, position, len);
    u->len = len;
    size_t same_len;
    const void *same = osync_stream_position(u->stream, &same_len);
    assert_int_equal(same_len, len);
    if (len) assert_memory_equal(same, position, len);
}

static void on_ready(void *arg, const void *position, size_t len) {
    user_t *u = arg;
    set_position(u, position, len);
    u->ready++;
    uv_stop(&loop);
    closes(u, "ready");
}

static void on_trouble(void *arg, bool permanent, const osync_error_t *err) {
    user_t *u = arg;
    assert_int_not_equal(err->code, 0);
    assert_true(err->message[0]);
    u->permanent = permanent;
    u->err = *err;
    u->trouble++;
    uv_stop(&loop);
    closes(u, "trouble");
}

static void on_commit(void *arg, const void *position, size_t len) {
    user_t *u = arg;
    set_position(u, position, len);
    u->commits++;
    uv_stop(&loop);
    closes(u, "commit");
}

static void on_answer(void *arg, int status, const osync_error_t *err) {
    answer_t *a = arg;
    assert_true((status != 0) == (err != NULL));
    a->calls++;
    uv_stop(&loop);
    a->status = status;
    if (err) {
        assert_int_equal(err->code, status);
        assert_non_null(strstr(err->message, a->user->c.name));
        a->err = *err;
    }
    if (status != OSYNC_ECANCELED) closes(a->user, "answer");
}

static const char *in_tmp(const char *name) {
    static char paths[8][256];
    static unsigned next;
    char *p = paths[next++ % 8];
    snprintf(p, sizeof paths[0], "%s/%s", tmp, name);
    return p;
}

static void init(user_t *u, const char *name, const char *state) {
    static char dest[80], states[4][256];
    static unsigned next;
    *u = (user_t){.ready = 0};
    snprintf(dest, sizeof dest, "file://%s/out", tmp);
    osync_stream_config_init(&u->c, sizeof u->c);
    u->c.dest = dest;
    u->c.name = name;
    if (state) u->c.state = memcpy(states[next++ % 4], in_tmp(state), sizeof states[0]);
    u->c.on_ready = on_ready;
    u->c.on_trouble = on_trouble;
    u->c.on_commit = on_commit;
    u->c.arg = u;
}

static void start(user_t *u) {
    osync_error_t err = {0};
    u->ready = u->trouble = u->commits = 0;
    u->closed = false;
    u->in_call = true;
    if (osync_stream_open(&u->stream, &loop, &u->c, &err)) fail_msg("%s", err.message);
    u->in_call = false;
}

static void open_stream(user_t *u) {
    start(u);
    WAIT(u->ready || u->permanent);
    if (u->permanent) fail_msg("%s", u->err.message);
}

static int append_at(user_t *u, answer_t *a, const char *data, const void *position, size_t len) {
    *a = (answer_t){.user = u};
    u->in_call = true;
    int rc = osync_stream_append(u->stream, data, strlen(data), 1, position, len, on_answer, a);
    u->in_call = false;
    return rc;
}

/* One record; its number is the position. */
static void append(user_t *u, const char *data, const char *position) {
    answer_t a;
    assert_int_equal(append_at(u, &a, data, position, strlen(position)), 0);
    WAIT(a.calls);
    assert_int_equal(a.status, 0);
    assert_int_equal(a.calls, 1);
}

static int start_commit(user_t *u, answer_t *a) {
    *a = (answer_t){.user = u};
    u->in_call = true;
    int rc = osync_stream_commit(u->stream, on_answer, a);
    u->in_call = false;
    return rc;
}

static void commit(user_t *u) {
    answer_t a;
    assert_int_equal(start_commit(u, &a), 0);
    WAIT(a.calls);
    if (a.status) fail_msg("%s", a.err.message);
}

static bool stands_at(const user_t *u, const char *position) {
    return u->len == strlen(position) && memcmp(u->position, position, u->len) == 0;
}

/* ---- what is there ---- */

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* "name=content;" of each file a reader sees whose name begins with `prefix`. */
static char *files(const char *prefix) {
    static char text[4096];
    char *names[64];
    size_t n = 0, at = 0;
    DIR *d = opendir(in_tmp("out"));
    text[0] = 0;
    if (!d) return text;
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.' && e->d_name[0] != '_' && strncmp(e->d_name, prefix, strlen(prefix)) == 0) {
            assert_true(n < 64);
            names[n++] = strdup(e->d_name);
        }
    closedir(d);
    qsort(names, n, sizeof *names, by_name);
    for (size_t i = 0; i < n; i++) {
        char path[512];
        osync__buf_t content = {0};
        snprintf(path, sizeof path, "%s/out/%s", tmp, names[i]);
        assert_int_equal(osync__read_file(path, 1000, &content, NULL), 0);
        at += (size_t)snprintf(text + at, sizeof text - at, "%s=%.*s;", names[i], (int)content.len,
                               content.len ? (char *)content.data : "");
        osync__buf_free(&content);
        free(names[i]);
    }
    return text;
}

static void lose(const char *state) {
    char path[300];
    static const char *const ends[] = {"", "-wal", "-shm", "-journal"};
    for (size_t i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s%s", in_tmp(state), ends[i]);
        unlink(path);
    }
}

/* ---- a sink whose faults and labels are the test's ---- */

enum { LABELS = 64 };

static struct {
    const osync_sink_ops_t *real;
    osync_sink_ops_t ops;
    bool down, hold_writes, own_labels;
    size_t label_limit; /* 0: none */
    osync_sink_cb held;
    void *held_arg;
    struct {
        ino_t ino;
        osync__buf_t label;
    } labels[LABELS]; /* as big as on HDFS, whatever the file system below can hold */
    size_t n_labels;
} fake;

typedef struct label_call {
    osync_sink_t *sink;
    char path[512];
    osync__buf_t value;
    bool set;
    osync_sink_cb cb;
    osync_sink_label_cb label_cb;
    void *arg;
} label_call_t;

static void label_turn(void *arg, int status, const osync_sink_stat_t *stat, const osync_error_t *err) {
    label_call_t *c = arg;
    osync_error_t own = {.code = OSYNC_ENOENT, .message = "no label"};
    size_t i = 0;
    while (!status && i < fake.n_labels && fake.labels[i].ino != stat->file_id) i++;
    bool known = !status && i < fake.n_labels;
    if (c->set && !status) {
        assert_true(i < LABELS);
        if (!known) fake.labels[fake.n_labels++].ino = stat->file_id;
        osync__buf_free(&fake.labels[i].label);
        fake.labels[i].label = c->value;
        c->value = (osync__buf_t){0};
    }
    if (c->set)
        c->cb(c->arg, status, err);
    else if (known)
        c->label_cb(c->arg, 0, fake.labels[i].label.data, fake.labels[i].label.len, NULL);
    else
        c->label_cb(c->arg, status ? status : OSYNC_ENOENT, NULL, 0, status ? err : &own);
    osync__buf_free(&c->value);
    free(c);
}

static int label_call(osync_sink_t *sink, const char *path, label_call_t call) {
    label_call_t *c = calloc(1, sizeof *c);
    *c = call;
    snprintf(c->path, sizeof c->path, "%s", path);
    return fake.real->stat(sink, c->path, label_turn, c);
}

static int fake_set_label(osync_sink_t *sink, const char *path, const void *label, size_t len, osync_sink_cb cb,
                          void *arg) {
    if (fake.label_limit && len > fake.label_limit) return OSYNC_ETOOBIG;
    if (!fake.own_labels) return fake.real->set_label(sink, path, label, len, cb, arg);
    label_call_t c = {.set = true, .cb = cb, .arg = arg};
    assert_int_equal(osync__buf_append(&c.value, label, len), 0);
    return label_call(sink, path, c);
}

static int fake_get_label(osync_sink_t *sink, const char *path, osync_sink_label_cb cb, void *arg) {
    if (!fake.own_labels) return fake.real->get_label(sink, path, cb, arg);
    return label_call(sink, path, (label_call_t){.label_cb = cb, .arg = arg});
}

static int fake_write(osync_sink_file_t *file, const void *data, size_t len, osync_sink_cb cb, void *arg) {
    if (fake.down) return OSYNC_EIO;
    if (!fake.hold_writes) return fake.real->write(file, data, len, cb, arg);
    fake.held = cb;
    fake.held_arg = arg;
    uv_stop(&loop);
    return 0;
}

/* The callback of a write that is held comes first. */
static void fake_abort(osync_sink_file_t *file, osync_sink_cb cb, void *arg) {
    osync_error_t err = {.code = OSYNC_ECANCELED, .message = "aborted"};
    osync_sink_cb held = fake.held;
    fake.held = NULL;
    fake.real->abort(file, cb, arg);
    if (held) held(fake.held_arg, OSYNC_ECANCELED, &err);
}

static int fake_mkdirs(osync_sink_t *sink, const char *path, osync_sink_cb cb, void *arg) {
    return fake.down ? OSYNC_ECONN : fake.real->mkdirs(sink, path, cb, arg);
}

static osync_sink_t *new_fake(void) {
    osync_sink_t *sink;
    memset(&fake, 0, sizeof fake);
    assert_int_equal(osync_file_sink_new(&sink, &loop, 1, NULL), 0);
    fake.real = sink->ops;
    fake.ops = *sink->ops;
    fake.ops.set_label = fake_set_label;
    fake.ops.get_label = fake_get_label;
    fake.ops.write = fake_write;
    fake.ops.abort = fake_abort;
    fake.ops.mkdirs = fake_mkdirs;
    sink->ops = &fake.ops;
    return sink;
}

static void on_flag(void *arg) {
    *(bool *)arg = true;
    uv_stop(&loop);
}

static void end_fake(osync_sink_t *sink) {
    bool closed = false;
    sink->ops->close(sink, on_flag, &closed);
    WAIT(closed);
    for (size_t i = 0; i < fake.n_labels; i++) osync__buf_free(&fake.labels[i].label);
}

static void use_fake(user_t *u, osync_sink_t *sink) {
    u->c.sink = sink;
    u->c.dest = in_tmp("out");
}

/* ---- set-up ---- */

static int set_up(void **state) {
    assert_int_equal(uv_loop_init(&loop), 0);
    snprintf(tmp, sizeof tmp, "/tmp/osync-stream-XXXXXX");
    assert_non_null(mkdtemp(tmp));
    return 0;
}

static int tear_down(void **state) {
    osync_log_set(NULL, NULL, OSYNC_LOG_INFO);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    return osync__rmtree(tmp, NULL);
}

/* ---- tests ---- */

static void records_become_files(void **state) {
    user_t u;
    answer_t a, b;
    init(&u, "clicks", "s.db");
    u.c.suffix = ".csv";
    u.c.start = "begin";
    u.c.start_len = 5;
    start(&u);
    assert_int_equal(append_at(&u, &a, "x", "1", 1), OSYNC_EAGAIN); /* not ready yet */
    assert_int_equal(start_commit(&u, &a), OSYNC_EAGAIN);
    size_t len = 1;
    osync_stream_position(u.stream, &len);
    assert_int_equal(len, 0);
    WAIT(u.ready);
    assert_true(stands_at(&u, "begin"));
    commit(&u); /* nothing to do */
    assert_int_equal(u.commits, 0);

    append(&u, "a\n", "1");
    assert_int_equal(append_at(&u, &a, "b\n", "2", 1), 0);
    assert_int_equal(append_at(&u, &b, "c\n", "3", 1), OSYNC_EAGAIN); /* one at a time */
    WAIT(a.calls);
    osync_stream_totals_t t;
    osync_stream_totals(u.stream, &t);
    assert_int_equal(t.pending_records, 2);
    assert_int_equal(t.pending_bytes, 4);
    assert_int_equal(t.files, 0);
    assert_string_equal(files(""), "");
    assert_int_equal(start_commit(&u, &a), 0); /* two at once are one file */
    assert_int_equal(start_commit(&u, &b), 0);
    WAIT(a.calls && b.calls);
    assert_int_equal(a.status, 0);
    assert_int_equal(b.status, 0);
    assert_int_equal(u.commits, 1);
    assert_true(stands_at(&u, "2"));
    assert_string_equal(files(""), "clicks-0000000000.csv=a\nb\n;");
    osync_stream_totals(u.stream, &t);
    assert_int_equal(t.records, 2);
    assert_int_equal(t.bytes, 4);
    assert_int_equal(t.files, 1);
    assert_int_equal(t.pending_records, 0);

    append(&u, "", "7"); /* moves the position only */
    commit(&u);
    assert_true(stands_at(&u, "7"));
    append(&u, "d\n", "8");
    commit(&u);
    append(&u, "gone", "9");
    close_stream(&u);

    init(&u, "clicks", "s.db");
    u.c.suffix = ".csv";
    u.c.start = "begin";
    u.c.start_len = 5;
    open_stream(&u);
    assert_true(stands_at(&u, "8"));
    osync_stream_totals(u.stream, &t);
    assert_int_equal(t.records, 3);
    assert_int_equal(t.files, 2);
    assert_string_equal(files(""), "clicks-0000000000.csv=a\nb\n;clicks-0000000001.csv=d\n;");
    close_stream(&u);
}

static void files_end_by_size_and_by_time(void **state) {
    user_t u;
    init(&u, "s", "s.db");
    u.c.roll_bytes = 4;
    open_stream(&u);
    append(&u, "abc", "1");
    append(&u, "defgh", "2"); /* stays in one piece */
    WAIT(u.commits == 1);
    assert_string_equal(files(""), "s-0000000000=abcdefgh;");
    close_stream(&u);
    init(&u, "s", "s.db");
    u.c.roll_interval_ms = 1;
    open_stream(&u);
    append(&u, "i", "3");
    WAIT(u.commits == 1);
    assert_true(stands_at(&u, "3"));
    append(&u, "", "4");
    WAIT(u.commits == 2);
    assert_true(stands_at(&u, "4"));
    close_stream(&u);
}

static void wrong_configurations_are_named(void **state) {
    static const char long_name[OSYNC_STREAM_NAME_MAX + 2] =
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    user_t u;
    osync_error_t err;
    osync_stream_config_t none = {0};
    u.stream = NULL;
#define REFUSED(code, text, change)                                                                                    \
    do {                                                                                                               \
        init(&u, "s", "s.db");                                                                                         \
        change;                                                                                                        \
        assert_int_equal(osync_stream_open(&u.stream, &loop, &u.c, &err), code);                                       \
        assert_null(u.stream);                                                                                         \
        if (!strstr(err.message, text)) fail_msg("%s", err.message);                                                   \
    } while (0)
    REFUSED(OSYNC_ECONFIG, "dest is required", u.c.dest = NULL);
    REFUSED(OSYNC_ECONFIG, "name is required", u.c.name = "");
    REFUSED(OSYNC_ECONFIG, "state (a file's path) or checkpoint is required", u.c.state = NULL);
    REFUSED(OSYNC_ECONFIG, "on_ready is required", u.c.on_ready = NULL);
    REFUSED(OSYNC_ECONFIG, "roll_bytes", u.c.roll_bytes = 0);
    REFUSED(OSYNC_EINVAL, "1 to 100 letters", u.c.name = long_name);
    REFUSED(OSYNC_EINVAL, "can't be part of a file's name", u.c.name = "a/b");
    REFUSED(OSYNC_EINVAL, "can't be part of a file's name", u.c.name = "_a");
    REFUSED(OSYNC_EINVAL, "can't be part of a file's name", u.c.name = "..");
    REFUSED(OSYNC_EINVAL, "the suffix \"csv\"", u.c.suffix = "csv");
    REFUSED(OSYNC_EINVAL, "the suffix \".a-b\"", u.c.suffix = ".a-b");
    REFUSED(OSYNC_EINVAL, "the suffix", u.c.suffix = "./x");
    REFUSED(OSYNC_EINVAL, "start is NULL", u.c.start_len = 1);
    REFUSED(OSYNC_EINVAL, "start", (u.c.start = u.position, u.c.start_len = OSYNC_POSITION_MAX + 1));
    REFUSED(OSYNC_ENOTSUP, "ftp:// is not supported", u.c.dest = "ftp://x/y");
    REFUSED(OSYNC_EINVAL, "must be an absolute path", u.c.dest = "x");
    REFUSED(OSYNC_EIO, "s.db", (u.c.state = "/proc/s.db"));
    assert_int_equal(osync_stream_open(&u.stream, &loop, &none, &err), OSYNC_EINVAL);
    assert_non_null(strstr(err.message, "osync_stream_config_init"));
    osync_sink_t *sink = new_fake();
    REFUSED(OSYNC_EINVAL, "not absolute", (u.c.sink = sink, u.c.dest = "x"));
    static const osync_sink_ops_t no_sink = {0};
    static const osync_checkpoint_ops_t no_store = {0};
    osync_sink_t empty_sink = {.ops = &no_sink};
    osync_checkpoint_t empty_store = {.ops = &no_store};
    REFUSED(OSYNC_EINVAL, "sizeof(osync_sink_ops_t)", u.c.sink = &empty_sink);
    REFUSED(OSYNC_EINVAL, "sizeof(osync_checkpoint_ops_t)", u.c.checkpoint = &empty_store);
    end_fake(sink);
    osync_stream_close(NULL, NULL, NULL);
    init(&u, &long_name[1], "s.db"); /* the longest */
    open_stream(&u);
    append(&u, "x", "1");
    commit(&u);
    close_stream(&u);
    lose("s.db");
    open_stream(&u);
    assert_true(stands_at(&u, "1"));
    close_stream(&u);
}

static void calls_are_refused_before_they_begin(void **state) {
    user_t u;
    answer_t a;
    static uint8_t big[OSYNC_POSITION_MAX + 1];
    init(&u, "s", "s.db");
    open_stream(&u);
    assert_int_equal(append_at(&u, &a, "x", big, sizeof big), OSYNC_ETOOBIG);
    assert_int_equal(osync_stream_append(u.stream, "x", OSYNC_STREAM_APPEND_MAX + 1u, 1, "1", 1, on_answer, &a),
                     OSYNC_ETOOBIG);
    assert_int_equal(osync_stream_append(u.stream, NULL, 1, 1, "1", 1, on_answer, &a), OSYNC_EINVAL);
    assert_int_equal(osync_stream_append(u.stream, "x", 1, 1, NULL, 1, on_answer, &a), OSYNC_EINVAL);
    assert_int_equal(osync_stream_append(u.stream, "x", 1, 1, "1", 1, NULL, NULL), OSYNC_EINVAL);
    assert_int_equal(osync_stream_commit(u.stream, NULL, NULL), OSYNC_EINVAL);
    append(&u, "y", "1");
    start_close(&u);
    assert_int_equal(append_at(&u, &a, "z", "2", 1), OSYNC_ECLOSED);
    assert_int_equal(start_commit(&u, &a), OSYNC_ECLOSED);
    WAIT(u.closed);
    assert_string_equal(files(""), "");
}

static void a_lost_state_is_found_in_the_files(void **state) {
    user_t u;
    init(&u, "s", "s.db");
    u.c.suffix = ".a";
    u.c.start = "begin";
    u.c.start_len = 5;
    open_stream(&u);
    append(&u, "a", "1");
    commit(&u);
    append(&u, "b", "2");
    commit(&u);
    append(&u, "lost", "3");
    close_stream(&u);
    lose("s.db");
    open_stream(&u);
    assert_true(stands_at(&u, "2"));
    append(&u, "c", "3");
    commit(&u);
    close_stream(&u);
    lose("s.db");
    u.c.suffix = ".b"; /* the newest file has another suffix */
    open_stream(&u);
    assert_true(stands_at(&u, "3"));
    osync_stream_totals_t t;
    osync_stream_totals(u.stream, &t);
    assert_int_equal(t.records, 3);
    assert_int_equal(t.files, 3);
    append(&u, "d", "4");
    commit(&u);
    close_stream(&u);
    assert_string_equal(files(""), "s-0000000000.a=a;s-0000000001.a=b;s-0000000002.a=c;s-0000000003.b=d;");

    /* A file that isn't the stream's, in the place of its newest. */
    lose("s.db");
    assert_int_equal(osync__write_file(in_tmp("out/s-0000000004.b"), "x", 1, NULL), 0);
    start(&u);
    WAIT(u.trouble);
    assert_true(u.permanent);
    assert_int_equal(u.ready, 0);
    assert_int_equal(u.err.code, OSYNC_EEXIST);
    assert_non_null(strstr(u.err.message, "s-0000000004.b is the newest file of stream s"));
    answer_t a;
    assert_int_equal(append_at(&u, &a, "e", "5", 1), OSYNC_EAGAIN);
    close_stream(&u);
    unlink(in_tmp("out/s-0000000004.b"));
    u.permanent = false;
    open_stream(&u);
    assert_true(stands_at(&u, "4"));
    close_stream(&u);
}

/* Names of which one begins with another, and with what a file's name would go on with. */
static void streams_side_by_side(void **state) {
    static const char *const names[] = {"a", "a-0000000000", "a.b", "a-", "part-x"};
    enum { N = sizeof names / sizeof *names };
    static user_t u[N];
    osync_error_t err;
    osync_checkpoint_t *store;
    for (int round = 0; round < 3; round++) {
        assert_int_equal(osync_sqlite_checkpoint_new(&store, &loop, in_tmp("all.db"), &err), 0);
        for (size_t i = 0; i < N; i++) {
            init(&u[i], names[i], NULL);
            u[i].c.checkpoint = store;
            start(&u[i]);
        }
        for (size_t i = 0; i < N; i++) WAIT(u[i].ready);
        for (size_t i = 0; i < N; i++) {
            char number[2] = {(char)('0' + round), 0}, text[40];
            if (round > 0) {
                char before[2] = {(char)('0' + round - 1), 0};
                assert_true(stands_at(&u[i], before));
            }
            snprintf(text, sizeof text, "%s", names[i]);
            append(&u[i], text, number);
            commit(&u[i]);
        }
        for (size_t i = 0; i < N; i++) {
            close_stream(&u[i]);
            assert_int_equal(u[i].trouble, 0);
        }
        bool closed = false;
        store->ops->close(store, on_flag, &closed);
        WAIT(closed);
        if (round == 1) lose("all.db");
    }
    for (size_t i = 0; i < N; i++) {
        char expected[400] = "", prefix[40];
        snprintf(prefix, sizeof prefix, "%s-000000000", names[i]);
        for (int n = 0; n < 3; n++)
            snprintf(expected + strlen(expected), sizeof expected - strlen(expected), "%s%d=%s;", prefix, n, names[i]);
        if (i > 0) assert_string_equal(files(prefix), expected);
    }
}

static void the_first_of_two_owners_stops(void **state) {
    static user_t a, b, c;
    answer_t answer;
    osync_error_t err;
    osync_checkpoint_t *store;
    init(&a, "s", "a.db");
    open_stream(&a);
    append(&a, "a", "1");
    commit(&a);
    c = a; /* a file that another has open */
    c.stream = NULL;
    assert_int_equal(osync_stream_open(&c.stream, &loop, &c.c, &err), OSYNC_ECONFLICT);
    assert_null(c.stream);
    assert_non_null(strstr(err.message, "a.db"));

    init(&b, "s", "b.db"); /* with a checkpoint of its own */
    open_stream(&b);
    assert_true(stands_at(&b, "1"));
    assert_int_equal(append_at(&a, &answer, "twice", "2", 1), 0);
    WAIT(a.permanent);
    assert_int_equal(a.err.code, OSYNC_ECONFLICT);
    assert_non_null(strstr(a.err.message, "opened with another checkpoint"));
    assert_int_equal(answer.calls, 1);
    append(&b, "b", "2");
    commit(&b);
    close_stream(&a);
    close_stream(&b);

    assert_int_equal(osync_sqlite_checkpoint_new(&store, &loop, in_tmp("b.db"), &err), 0);
    init(&a, "s", NULL); /* with the same */
    init(&b, "s", NULL);
    a.c.checkpoint = b.c.checkpoint = store;
    open_stream(&a);
    assert_true(stands_at(&a, "2"));
    assert_int_equal(append_at(&a, &answer, "twice", "3", 1), 0);
    WAIT(answer.calls);
    open_stream(&b);
    assert_true(stands_at(&b, "2"));
    assert_int_equal(start_commit(&a, &answer), 0);
    WAIT(a.permanent);
    assert_int_equal(a.err.code, OSYNC_ECONFLICT);
    assert_non_null(strstr(a.err.message, "another owner has taken stream s over"));
    assert_int_equal(answer.status, OSYNC_EAGAIN);
    append(&b, "c", "3");
    commit(&b);
    close_stream(&a);
    close_stream(&b);
    bool closed = false;
    store->ops->close(store, on_flag, &closed);
    WAIT(closed);
    assert_string_equal(files(""), "s-0000000000=a;s-0000000001=b;s-0000000002=c;");
}

static void trouble_leads_back(void **state) {
    static user_t u;
    answer_t a;
    osync_sink_t *sink = new_fake();
    init(&u, "s", "s.db");
    use_fake(&u, sink);
    fake.down = true;
    start(&u);
    WAIT(u.trouble >= 2); /* again with each try */
    assert_false(u.permanent);
    assert_int_equal(u.err.code, OSYNC_ECONN);
    fake.down = false;
    WAIT(u.ready);
    append(&u, "a", "1");
    commit(&u);
    append(&u, "b", "2");
    fake.down = true;
    unsigned before = u.trouble;
    assert_int_equal(append_at(&u, &a, "c", "3", 1), 0);
    WAIT(a.calls);
    assert_int_equal(a.status, OSYNC_EAGAIN);
    assert_true(u.trouble > before);
    assert_int_equal(append_at(&u, &a, "c", "3", 1), OSYNC_EAGAIN);
    assert_int_equal(start_commit(&u, &a), OSYNC_EAGAIN);
    fake.down = false;
    WAIT(u.ready == 2);
    assert_true(stands_at(&u, "1"));
    append(&u, "B", "2");
    commit(&u);
    assert_string_equal(files(""), "s-0000000000=a;s-0000000001=B;");
    close_stream(&u);
    end_fake(sink);
}

static void a_stream_is_closed_anywhere(void **state) {
    static const char *const places[] = {"ready", "answer", "commit", "trouble"};
    static user_t u;
    answer_t a, b;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char name[2] = {(char)('a' + i), 0};
        osync_sink_t *sink = new_fake();
        init(&u, name, "s.db");
        use_fake(&u, sink);
        u.close_in = places[i];
        start(&u);
        WAIT(u.ready);
        if (i == 0) {
            WAIT(u.closed);
            end_fake(sink);
            continue;
        }
        fake.down = i == 3;
        assert_int_equal(append_at(&u, &a, "x", "1", 1), 0);
        assert_int_equal(start_commit(&u, &b), 0);
        WAIT(u.closed);
        assert_int_equal(a.calls, 1);
        assert_int_equal(b.calls, 1);
        assert_null(u.close_in);
        end_fake(sink);
    }

    init(&u, "s", "s.db"); /* at once */
    start(&u);
    close_stream(&u);
    assert_int_equal(u.ready, 0);

    /* While a record is under way, which the sink doesn't take. */
    osync_sink_t *sink = new_fake();
    init(&u, "s", "s.db");
    use_fake(&u, sink);
    open_stream(&u);
    fake.hold_writes = true;
    assert_int_equal(append_at(&u, &a, "x", "1", 1), 0);
    WAIT(fake.held);
    assert_int_equal(start_commit(&u, &b), 0);
    close_stream(&u);
    assert_int_equal(a.calls, 1);
    assert_int_equal(a.status, OSYNC_ECANCELED);
    assert_int_equal(b.calls, 1);
    assert_int_equal(b.status, OSYNC_ECANCELED);
    end_fake(sink);
    assert_int_equal(u.trouble, 0);
}

static void fill(uint8_t *position, uint8_t seed) {
    for (size_t i = 0; i < OSYNC_POSITION_MAX; i++) position[i] = (uint8_t)(i * 31 + seed);
}

static void positions_of_64_kib(void **state) {
    static user_t u;
    static uint8_t first[OSYNC_POSITION_MAX], second[OSYNC_POSITION_MAX];
    answer_t a;
    osync_sink_t *sink = new_fake();
    fake.own_labels = true;
    fill(first, 1);
    fill(second, 2);
    init(&u, "s", "s.db");
    use_fake(&u, sink);
    u.c.start = first;
    u.c.start_len = sizeof first;
    for (int round = 0; round < 2; round++) { /* with its state, and without */
        open_stream(&u);
        assert_int_equal(u.len, sizeof first);
        assert_memory_equal(u.position, first, sizeof first);
        assert_int_equal(append_at(&u, &a, "x", first, sizeof first), 0);
        WAIT(a.calls);
        commit(&u);
        assert_int_equal(append_at(&u, &a, "y", second, sizeof second), 0);
        WAIT(a.calls);
        commit(&u);
        assert_memory_equal(u.position, second, sizeof second);
        close_stream(&u);
        if (round == 0) lose("s.db");
        open_stream(&u);
        assert_memory_equal(u.position, second, sizeof second);
        assert_int_equal(append_at(&u, &a, "z", first, sizeof first), 0);
        WAIT(a.calls);
        commit(&u);
        close_stream(&u);
    }
    assert_string_equal(files(""), "s-0000000000=x;s-0000000001=y;s-0000000002=z;"
                                   "s-0000000003=x;s-0000000004=y;s-0000000005=z;");
    end_fake(sink);
}

static void keep_warning(osync_log_level_t level, const char *message, void *arg) {
    if (level == OSYNC_LOG_WARN && strstr(message, "must not be lost")) ++*(int *)arg;
}

/* As on ext4. Everything goes on as long as the state isn't lost, and if it is, that is said. */
static void labels_that_cannot_hold_a_position(void **state) {
    static user_t u;
    static uint8_t position[OSYNC_POSITION_MAX];
    int warnings = 0;
    answer_t a;
    osync_sink_t *sink = new_fake();
    fake.label_limit = 4000;
    osync_log_set(keep_warning, &warnings, OSYNC_LOG_WARN);
    init(&u, "s", "s.db");
    use_fake(&u, sink);
    fill(position, 3);
    u.c.start = position;
    u.c.start_len = sizeof position;
    open_stream(&u);
    append(&u, "a", "1");
    commit(&u); /* its label would begin with `start` */
    assert_int_equal(warnings, 1);
    append(&u, "b", "2");
    commit(&u); /* small again */
    assert_int_equal(warnings, 1);
    assert_int_equal(append_at(&u, &a, "c", position, sizeof position), 0);
    WAIT(a.calls);
    commit(&u);
    assert_int_equal(warnings, 1); /* it was said */
    close_stream(&u);
    open_stream(&u);
    assert_int_equal(u.len, sizeof position);
    assert_memory_equal(u.position, position, sizeof position);
    close_stream(&u);
    lose("s.db");
    start(&u);
    WAIT(u.permanent);
    assert_int_equal(u.ready, 0);
    assert_non_null(strstr(u.err.message, "its label has no position"));
    close_stream(&u);
    assert_int_equal(unlink(in_tmp("out/s-0000000002")), 0); /* as the message says, and its record comes again */
    u.permanent = false;
    open_stream(&u);
    assert_true(stands_at(&u, "2"));
    close_stream(&u);
    end_fake(sink);
    assert_string_equal(files(""), "s-0000000000=a;s-0000000001=b;");
}

/* The real file system's answer, whatever it can hold. */
static void big_positions_on_this_file_system(void **state) {
    static user_t u;
    static uint8_t position[OSYNC_POSITION_MAX];
    answer_t a;
    init(&u, "s", "s.db");
    open_stream(&u);
    for (size_t len = 1000; len <= sizeof position; len = len < 40000 ? len + 1900 : len + 8179) {
        fill(position, (uint8_t)len);
        assert_int_equal(append_at(&u, &a, "x", position, len), 0);
        WAIT(a.calls);
        assert_int_equal(a.status, 0);
        commit(&u);
        assert_int_equal(u.len, len);
        assert_memory_equal(u.position, position, len);
    }
    assert_int_equal(u.trouble, 0);
    close_stream(&u);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(records_become_files),
        TEST(files_end_by_size_and_by_time),
        TEST(wrong_configurations_are_named),
        TEST(calls_are_refused_before_they_begin),
        TEST(a_lost_state_is_found_in_the_files),
        TEST(streams_side_by_side),
        TEST(the_first_of_two_owners_stops),
        TEST(trouble_leads_back),
        TEST(a_stream_is_closed_anywhere),
        TEST(positions_of_64_kib),
        TEST(labels_that_cannot_hold_a_position),
        TEST(big_positions_on_this_file_system),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
