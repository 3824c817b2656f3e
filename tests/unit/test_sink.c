/* The sinks: local files for real, Hadoop's configuration files, and WebHDFS against a server that follows a script,
 * for what a real HDFS does only on a bad day. Against a real HDFS: tests/e2e/test_sink_hdfs.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above */
#include <arpa/inet.h>
#include <cmocka.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <malloc.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/sys.h"
#include "osync/sink.h"
#include "sink/hadoop_conf.h"
#include "sink/internal.h"

/* ---- waiting for callbacks ---- */

typedef struct result {
    unsigned calls;
    int status;
    osync_error_t err;
    osync_sink_stat_t stat;
    osync__buf_t label;
    char *names[16];
    size_t n_names;
} result_t;

static uv_loop_t loop;
static char tmp[64];

static void got(void *arg, int status, const osync_error_t *err) {
    result_t *r = arg;
    r->calls++;
    r->status = status;
    uv_stop(&loop); /* so that wait_for doesn't wait for more */
    assert_true((status != 0) == (err != NULL));
    if (err) {
        assert_int_equal(err->code, status);
        assert_true(err->message[0]);
        r->err = *err;
    }
}

static void got_stat(void *arg, int status, const osync_sink_stat_t *stat, const osync_error_t *err) {
    got(arg, status, err);
    if (!status) ((result_t *)arg)->stat = *stat;
}

static void got_label(void *arg, int status, const void *label, size_t len, const osync_error_t *err) {
    got(arg, status, err);
    if (!status && len) osync__buf_append(&((result_t *)arg)->label, label, len);
}

static void got_read(void *arg, int status, const void *data, size_t len, const osync_error_t *err) {
    got_label(arg, status, data, len, err);
}

static void got_list(void *arg, int status, const char *const *names, size_t n, const osync_error_t *err) {
    result_t *r = arg;
    got(arg, status, err);
    for (r->n_names = 0; !status && r->n_names < n && r->n_names < 16; r->n_names++)
        r->names[r->n_names] = strdup(names[r->n_names]);
}

static void result_free(result_t *r) {
    for (size_t i = 0; i < r->n_names; i++) free(r->names[i]);
    osync__buf_free(&r->label);
    *r = (result_t){0};
}

/* Runs the loop until the callback has come. */
static int wait_for(int rc, result_t *r) {
    assert_int_equal(rc, 0);
    assert_int_equal(r->calls, 0); /* never from inside the call */
    while (!r->calls) assert_true(uv_run(&loop, UV_RUN_ONCE) || r->calls);
    assert_int_equal(r->calls, 1);
    return r->status;
}

#define CALL(sink, r, op, ...)   (result_free(&(r)), wait_for((sink)->ops->op((sink), __VA_ARGS__, got, &(r)), &(r)))
#define FILE_CALL(f, r, op, ...) (result_free(&(r)), wait_for((f)->sink->ops->op((f), __VA_ARGS__, got, &(r)), &(r)))
#define FINISH(f, r)             (result_free(&(r)), wait_for((f)->sink->ops->finish((f), got, &(r)), &(r)))
#define ABORT(f, r)              (result_free(&(r)), (f)->sink->ops->abort((f), got, &(r)), wait_for(0, &(r)))
#define STAT(sink, r, path)      (result_free(&(r)), wait_for((sink)->ops->stat((sink), path, got_stat, &(r)), &(r)))
#define LIST(sink, r, path)      (result_free(&(r)), wait_for((sink)->ops->list((sink), path, got_list, &(r)), &(r)))
#define LABEL(sink, r, p)        (result_free(&(r)), wait_for((sink)->ops->get_label((sink), p, got_label, &(r)), &(r)))
#define READ(sink, r, p, o, n)   (result_free(&(r)), wait_for((sink)->ops->read((sink), p, o, n, got_read, &(r)), &(r)))

static void closed(void *arg) {
    *(bool *)arg = true;
}

static void close_sink(osync_sink_t *sink) {
    bool done = false;
    sink->ops->close(sink, closed, &done);
    assert_false(done);
    while (uv_run(&loop, UV_RUN_DEFAULT)) {
    } /* canceled calls stop it */
    assert_true(done);
}

static int setup(void **state) {
    (void)state;
    (void)snprintf(tmp, sizeof tmp, "/tmp/test_sink.XXXXXX");
    return !mkdtemp(tmp) || uv_loop_init(&loop);
}

static int teardown(void **state) {
    (void)state;
    int rc = uv_loop_close(&loop); /* busy: a handle was left */
    return osync__rmtree(tmp, NULL) || rc;
}

static const char *in(const char *name) {
    static char paths[4][256];
    static unsigned next;
    char *p = paths[next++ % 4];
    (void)snprintf(p, 256, "%s/%s", tmp, name);
    return p;
}

/* ---- the file sink ---- */

static osync_sink_t *file_sink(void) {
    osync_sink_t *sink = NULL;
    assert_int_equal(osync_file_sink_new(&sink, &loop, 3, NULL), 0);
    return sink;
}

static void put_file(osync_sink_t *sink, const char *path, const char *text) {
    osync_sink_file_t *f = NULL;
    result_t r = {0};
    assert_int_equal(CALL(sink, r, create, path, &f), 0);
    assert_int_equal(FILE_CALL(f, r, write, text, strlen(text)), 0);
    assert_int_equal(FINISH(f, r), 0);
}

static void file_stages_and_publishes(void **state) {
    (void)state;
    osync_sink_t *sink = file_sink();
    osync_sink_file_t *f = NULL;
    result_t r = {0};
    assert_int_equal(CALL(sink, r, create, in("no/such/folder"), &f), OSYNC_ENOENT); /* parents are never made */
    assert_int_equal(FILE_CALL(f, r, write, "x", 1), OSYNC_ENOENT);
    assert_int_equal(FINISH(f, r), OSYNC_ENOENT);
    assert_int_equal(CALL(sink, r, mkdirs, in("a/b/c")), 0);
    assert_int_equal(CALL(sink, r, mkdirs, in("a/b/c")), 0);
    put_file(sink, in("a/b/c/x y%+"), "hello\n");
    assert_int_equal(CALL(sink, r, create, in("a/b/c/x y%+"), &f), OSYNC_EEXIST);
    assert_int_equal(ABORT(f, r), 0);
    assert_int_equal(STAT(sink, r, in("a/b/c/x y%+")), 0);
    uint64_t id = r.stat.file_id;
    assert_int_equal(r.stat.length, 6);
    assert_false(r.stat.is_dir);
    assert_int_equal(STAT(sink, r, in("a/b")), 0);
    assert_true(r.stat.is_dir);
    assert_int_equal(STAT(sink, r, in("a/none")), OSYNC_ENOENT);
    assert_int_equal(CALL(sink, r, rename, in("a/b/c/x y%+"), in("a/final")), 0);
    assert_int_equal(CALL(sink, r, rename, in("a/b/c/x y%+"), in("a/final")), OSYNC_ENOENT); /* source missing */
    put_file(sink, in("a/b/c/2"), "two");
    assert_int_equal(CALL(sink, r, rename, in("a/b/c/2"), in("a/final")), OSYNC_EEXIST);
    assert_int_equal(CALL(sink, r, rename, in("a/b/c/2"), in("a/b")), OSYNC_EEXIST); /* never into a folder */
    assert_int_equal(CALL(sink, r, rename, in("a/b/c/2"), in("none/2")), OSYNC_ENOENT);
    assert_int_equal(STAT(sink, r, in("a/final")), 0);
    assert_int_equal(r.stat.file_id, id);
    assert_int_equal(CALL(sink, r, barrier, in("a/final")), 0);
    assert_int_equal(CALL(sink, r, barrier, in("a/gone")), OSYNC_ENOENT);
    assert_int_equal(CALL(sink, r, mkdirs, in("a/final/x")), OSYNC_ENOENT);
    assert_int_equal(CALL(sink, r, mkdirs, in("a/final")), OSYNC_EEXIST);
    close_sink(sink);
}

/* Takes the place of libc's: remembers whether the folder `synced_path` was synced. */
static char synced_path[256];
static atomic_bool synced;

int fsync(int fd) {
    char link[32], path[256];
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n > 0) path[n] = 0;
    if (n > 0 && strcmp(path, synced_path) == 0) synced = true;
    return (int)syscall(SYS_fsync, fd);
}

/* Folders that are there already may have been made by a process that was killed before its fsync. */
static void file_syncs_folders_it_did_not_make(void **state) {
    (void)state;
    osync_sink_t *sink = file_sink();
    result_t r = {0};
    assert_int_equal(mkdir(in("a"), 0755), 0);
    assert_non_null(realpath(tmp, synced_path));
    synced = false;
    assert_int_equal(CALL(sink, r, mkdirs, in("a/b/c")), 0);
    assert_true(synced);
    synced_path[0] = 0;
    close_sink(sink);
}

static void file_fence_stops_the_old_owner(void **state) {
    (void)state;
    osync_sink_t *sink = file_sink();
    osync_sink_file_t *f = NULL, *g = NULL;
    result_t r = {0};
    assert_int_equal(CALL(sink, r, mkdirs, in("i")), 0);
    put_file(sink, in("i/t1"), "one");
    assert_int_equal(CALL(sink, r, create, in("i/t2"), &f), 0);
    assert_int_equal(CALL(sink, r, rename, in("i"), in("i.fenced")), 0);
    assert_int_equal(CALL(sink, r, rename, in("i/t1"), in("final")), OSYNC_ENOENT);
    assert_int_equal(CALL(sink, r, create, in("i/t3"), &g), OSYNC_ENOENT);
    assert_int_equal(ABORT(g, r), 0);
    assert_int_equal(CALL(sink, r, set_label, in("i/t1"), "l", 1), OSYNC_ENOENT);
    assert_int_equal(FILE_CALL(f, r, write, "two", 3), 0); /* one that runs ends well, but in the tomb */
    assert_int_equal(FINISH(f, r), 0);
    assert_int_equal(LIST(sink, r, in("i.fenced")), 0);
    assert_int_equal(r.n_names, 2);
    assert_string_equal(r.names[0], "t1");
    assert_string_equal(r.names[1], "t2");
    result_free(&r);
    close_sink(sink);
}

/* A rename that is under way keeps the fence waiting, and one that comes after the fence is refused, even if both began
 * before. */
static void file_fence_waits_for_a_rename(void **state) {
    (void)state;
    osync_sink_t *sink = file_sink();
    result_t fence = {0}, r = {0};
    assert_int_equal(CALL(sink, r, mkdirs, in("i")), 0);
    int fd = open(in("i"), O_RDONLY | O_DIRECTORY);
    assert_int_equal(flock(fd, LOCK_SH), 0); /* as a rename of another process would hold it */
    assert_int_equal(sink->ops->rename(sink, in("i"), in("i.fenced"), got, &fence), 0);
    assert_int_equal(STAT(sink, r, in("i")), 0);
    assert_int_equal(fence.calls, 0);
    assert_int_equal(flock(fd, LOCK_UN), 0);
    assert_int_equal(wait_for(0, &fence), 0);
    close(fd);
    close_sink(sink);
}

static void file_labels(void **state) {
    (void)state;
    osync_sink_t *sink = file_sink();
    result_t r = {0};
    char *big = malloc(OSYNC__LABEL_LIMIT + 1);
    for (size_t i = 0; i <= OSYNC__LABEL_LIMIT; i++) big[i] = (char)(i * 7);
    put_file(sink, in("f"), "x");
    assert_int_equal(sink->ops->set_label(sink, in("f"), big, OSYNC__LABEL_LIMIT + 1, got, &r), OSYNC_ETOOBIG);
    if (setxattr(in("f"), "user.probe", "1", 1, 0)) { /* this file system has none: then it must be said */
        assert_int_equal(CALL(sink, r, set_label, in("f"), "label", 5), OSYNC_ENOTSUP);
        assert_non_null(strstr(r.err.message, "extended attributes"));
    } else {
        assert_int_equal(LABEL(sink, r, in("f")), OSYNC_ENOENT);
        assert_int_equal(CALL(sink, r, set_label, in("f"), "a\0b", 3), 0);
        assert_int_equal(CALL(sink, r, rename, in("f"), in("g")), 0);
        assert_int_equal(LABEL(sink, r, in("g")), 0);
        assert_int_equal(r.label.len, 3);
        assert_memory_equal(r.label.data, "a\0b", 3);
        assert_int_equal(CALL(sink, r, set_label, in("g"), "", 0), 0);
        assert_int_equal(LABEL(sink, r, in("g")), 0);
        assert_int_equal(r.label.len, 0);
        /* Whether so much fits is the file system's; if not, the code says that it never will. */
        int rc = CALL(sink, r, set_label, in("g"), big, OSYNC__LABEL_LIMIT);
        if (rc == 0) {
            assert_int_equal(LABEL(sink, r, in("g")), 0);
            assert_int_equal(r.label.len, OSYNC__LABEL_LIMIT);
            assert_memory_equal(r.label.data, big, OSYNC__LABEL_LIMIT);
        } else {
            assert_int_equal(rc, OSYNC_ETOOBIG);
        }
    }
    assert_int_equal(LABEL(sink, r, in("none")), OSYNC_ENOENT);
    result_free(&r);
    free(big);
    close_sink(sink);
}

/* A label that doesn't fit leaves the room as it was: a short one does. */
static void file_labels_of_every_size(void **state) {
    (void)state;
    osync_sink_t *sink = file_sink();
    result_t r = {0};
    char *big = calloc(1, OSYNC__LABEL_LIMIT), name[16];
    for (size_t last = 100; last < 4200; last += 100) { /* bytes of the last part, which is set first */
        size_t len = 2 * OSYNC__LABEL_PART_SIZE + last - 1;
        snprintf(name, sizeof name, "l%zu", last);
        put_file(sink, in(name), "x");
        if (CALL(sink, r, set_label, in(name), big, len)) {
            assert_true(r.status == OSYNC_ETOOBIG || r.status == OSYNC_ENOTSUP);
            if (r.status == OSYNC_ETOOBIG) assert_int_equal(CALL(sink, r, set_label, in(name), big, 900), 0);
        }
    }
    result_free(&r);
    free(big);
    close_sink(sink);
}

static void label_parts_hold_every_byte(void **state) {
    (void)state;
    static const size_t lens[] = {
        0,     1,     OSYNC__LABEL_PART_SIZE - 2, OSYNC__LABEL_PART_SIZE - 1, OSYNC__LABEL_PART_SIZE,
        24575, 24576, OSYNC__LABEL_LIMIT};
    char *label = malloc(OSYNC__LABEL_LIMIT), name[OSYNC__LABEL_NAME_SIZE];
    for (size_t i = 0; i < OSYNC__LABEL_LIMIT; i++) label[i] = (char)(i % 251);
    for (size_t k = 0; k < sizeof lens / sizeof lens[0]; k++) {
        osync__buf_t all = {0};
        unsigned n = osync__label_parts(lens[k]);
        assert_in_range(n, 1, OSYNC__LABEL_MAX_PARTS);
        for (unsigned i = 0; i < n; i++) {
            size_t before = all.len;
            assert_int_equal(osync__label_part(label, lens[k], i, name, &all), 0);
            assert_in_range(all.len - before, 1, OSYNC__LABEL_PART_SIZE);
        }
        assert_int_equal(all.len, lens[k] + 1);
        assert_int_equal(all.data[0], n);
        assert_memory_equal(all.data + 1, label, lens[k]);
        osync__buf_free(&all);
    }
    free(label);
}

static void expect_bytes(result_t *r, const char *text) {
    assert_int_equal(r->label.len, strlen(text));
    if (r->label.len) assert_memory_equal(r->label.data, text, r->label.len);
}

static void file_reads(void **state) {
    (void)state;
    osync_sink_t *sink = file_sink();
    result_t r = {0};
    put_file(sink, in("f"), "0123456789");
    assert_int_equal(READ(sink, r, in("f"), 0, 8u << 20), 0);
    expect_bytes(&r, "0123456789");
    assert_int_equal(READ(sink, r, in("f"), 3, 4), 0);
    expect_bytes(&r, "3456");
    assert_int_equal(READ(sink, r, in("f"), 8, 4), 0);
    expect_bytes(&r, "89");
    assert_int_equal(READ(sink, r, in("f"), 10, 4), 0);
    expect_bytes(&r, "");
    assert_int_equal(READ(sink, r, in("f"), UINT64_C(1) << 60, 4), 0);
    expect_bytes(&r, "");
    assert_int_equal(READ(sink, r, in("none"), 0, 4), OSYNC_ENOENT);
    assert_int_equal(mkdir(in("d"), 0755), 0);
    assert_int_equal(READ(sink, r, in("d"), 0, 4), OSYNC_ENOENT);
    assert_int_equal(mkfifo(in("pipe"), 0600), 0);
    assert_int_equal(READ(sink, r, in("pipe"), 0, 4), OSYNC_ENOENT); /* not waited for */
    result_free(&r);
    assert_int_equal(sink->ops->read(sink, in("f"), 0, (8u << 20) + 1, got_read, &r), OSYNC_EINVAL);
    assert_int_equal(sink->ops->read(sink, in("f"), 0, 0, got_read, &r), OSYNC_EINVAL);
    assert_int_equal(sink->ops->read(sink, in("f"), UINT64_MAX, 4, got_read, &r), OSYNC_EINVAL);
    close_sink(sink);
}

static void file_removes_and_lists(void **state) {
    (void)state;
    osync_sink_t *sink = file_sink();
    result_t r = {0};
    assert_int_equal(CALL(sink, r, mkdirs, in("keep")), 0);
    put_file(sink, in("keep/precious"), "x");
    assert_int_equal(CALL(sink, r, mkdirs, in("d/e")), 0);
    put_file(sink, in("d/b"), "");
    put_file(sink, in("d/a"), "");
    assert_int_equal(symlink(in("keep"), in("d/c")), 0);
    assert_int_equal(LIST(sink, r, in("d")), 0);
    assert_int_equal(r.n_names, 4);
    for (size_t i = 0; i < 3; i++) assert_true(strcmp(r.names[i], r.names[i + 1]) < 0);
    assert_int_equal(LIST(sink, r, in("d/a")), OSYNC_ENOENT);
    assert_int_equal(LIST(sink, r, in("none")), OSYNC_ENOENT);
    assert_int_equal(CALL(sink, r, remove, in("d"), false), OSYNC_EEXIST);
    assert_int_equal(CALL(sink, r, remove, in("d/a"), false), 0);
    assert_int_equal(CALL(sink, r, remove, in("d/e"), false), 0);
    assert_int_equal(CALL(sink, r, remove, in("d"), true), 0);
    assert_int_equal(CALL(sink, r, remove, in("d"), true), 0);
    assert_int_equal(CALL(sink, r, remove, in("d"), false), 0);
    assert_int_equal(STAT(sink, r, in("d")), OSYNC_ENOENT);
    assert_int_equal(STAT(sink, r, in("keep/precious")), 0);
    assert_int_equal(sink->ops->stat(sink, "relative", got_stat, &r), OSYNC_EINVAL);
    assert_int_equal(sink->ops->stat(sink, "/a/../b", got_stat, &r), OSYNC_EINVAL);
    assert_int_equal(sink->ops->mkdirs(sink, "/a//b", got, &r), OSYNC_EINVAL);
    close_sink(sink);
}

static void file_many_at_once(void **state) {
    (void)state;
    enum { FILES = 8, CHUNKS = 50, CHUNK = 10000 };
    osync_sink_t *sinks[2] = {file_sink(), file_sink()};
    osync_sink_file_t *f[FILES];
    result_t r[FILES] = {0};
    char *chunk = malloc(CHUNK), name[32];
    for (int i = 0; i < FILES; i++) {
        (void)snprintf(name, sizeof name, "m%d", i);
        assert_int_equal(CALL(sinks[i % 2], r[i], create, in(name), &f[i]), 0);
    }
    for (int c = 0; c < CHUNKS; c++) {
        memset(chunk, 'a' + c % 26, CHUNK);
        for (int i = 0; i < FILES; i++) {
            r[i] = (result_t){0};
            assert_int_equal(f[i]->sink->ops->write(f[i], chunk, CHUNK, got, &r[i]), 0);
        }
        for (int i = 0; i < FILES; i++) {
            while (!r[i].calls) uv_run(&loop, UV_RUN_ONCE);
            assert_int_equal(r[i].status, 0);
        }
    }
    for (int i = 0; i < FILES; i++) {
        osync__buf_t content = {0};
        assert_int_equal(FINISH(f[i], r[i]), 0);
        (void)snprintf(name, sizeof name, "m%d", i);
        assert_int_equal(osync__read_file(in(name), 1 << 20, &content, NULL), 0);
        assert_int_equal(content.len, CHUNKS * CHUNK);
        for (size_t b = 0; b < content.len; b++) assert_int_equal(content.data[b], 'a' + (int)(b / CHUNK) % 26);
        osync__buf_free(&content);
    }
    free(chunk);
    close_sink(sinks[0]);
    close_sink(sinks[1]);
}

static void abort_when_canceled(void *arg, int status, const osync_error_t *err);
typedef struct aborter {
    osync_sink_file_t *file;
    result_t write, abort;
} aborter_t;
static void abort_when_canceled(void *arg, int status, const osync_error_t *err) {
    aborter_t *a = arg;
    assert_int_equal(a->abort.calls, 0); /* the write's callback comes first */
    got(&a->write, status, err);
    if (a->file) a->file->sink->ops->abort(a->file, got, &a->abort);
}

static void file_abort_and_close_cancel(void **state) {
    (void)state;
    osync_sink_t *sink = file_sink();
    result_t r = {0}, s = {0};
    aborter_t a = {0}, b = {0};
    osync_sink_file_t *idle = NULL;
    assert_int_equal(CALL(sink, r, create, in("x"), &a.file), 0);
    assert_int_equal(a.file->sink->ops->write(a.file, "abc", 3, abort_when_canceled, &a), 0);
    osync_sink_file_t *file = a.file;
    a.file = NULL;
    sink->ops->abort(file, got, &a.abort);
    while (!a.abort.calls) uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(a.write.status, OSYNC_ECANCELED);
    assert_int_equal(a.abort.status, 0);
    /* close: one file with a write under way whose callback aborts it, one idle, one plain call */
    result_free(&r);
    assert_int_equal(CALL(sink, r, create, in("y"), &b.file), 0);
    assert_int_equal(CALL(sink, r, create, in("z"), &idle), 0);
    assert_int_equal(b.file->sink->ops->write(b.file, "abc", 3, abort_when_canceled, &b), 0);
    assert_int_equal(sink->ops->mkdirs(sink, in("dir"), got, &s), 0);
    result_free(&r);
    close_sink(sink);
    assert_int_equal(b.write.calls, 1);
    assert_int_equal(b.write.status, OSYNC_ECANCELED);
    assert_int_equal(b.abort.calls, 1);
    assert_int_equal(s.calls, 1);
    assert_int_equal(s.status, OSYNC_ECANCELED);
}

/* ---- Hadoop's configuration ---- */

static void site(const char *name, const char *body) {
    osync__buf_t b = {0};
    osync__buf_printf(&b, "<?xml version=\"1.0\"?>\n<configuration>\n%s</configuration>\n", body);
    assert_int_equal(osync__write_file(in(name), b.data, b.len, NULL), 0);
    osync__buf_free(&b);
}

#define P(n, v) "<property><name>" n "</name><value>" v "</value></property>\n"

static void check_value(const char *name, const char *value) {
    osync__hadoop_conf_t *conf = NULL;
    char *v = NULL;
    assert_int_equal(osync__hadoop_conf_load(tmp, &conf, NULL), 0);
    assert_int_equal(osync__hadoop_conf_get(conf, name, &v, NULL), 0);
    if (value)
        assert_string_equal(v, value);
    else
        assert_null(v);
    free(v);
    osync__hadoop_conf_free(conf);
}

static void conf_values(void **state) {
    (void)state;
    check_value("a", NULL); /* missing files are fine */
    site("core-site.xml", P("a", "1") P("a", "2") P("b", " x${a}y${c}\n") P("c", "<![CDATA[${a}&]]>&lt;")
                              P("u", "${nobody} ${a}") "<property><name>f</name><value>first</value><final>true</"
                                                       "final><description>d</description></property>"
                                                       "<property><name>empty</name></property>");
    site("hdfs-site.xml", P("f", "second") P("a", "3") P("e", "${env.TEST_SINK_VARIABLE}!"));
    setenv("TEST_SINK_VARIABLE", "out", 1);
    check_value("a", "3");
    check_value("b", "x3y3&<");
    check_value("u", "${nobody} 3");
    check_value("f", "first");
    check_value("e", "out!");
    check_value("empty", "");
    check_value("none", NULL);
}

static void conf_errors(void **state) {
    (void)state;
    osync__hadoop_conf_t *conf = NULL;
    osync_error_t err;
    char *v = NULL;
    site("core-site.xml", P("a", "${b}") P("b", "${a}"));
    assert_int_equal(osync__hadoop_conf_load(tmp, &conf, &err), 0);
    assert_int_equal(osync__hadoop_conf_get(conf, "a", &v, &err), OSYNC_ECONFIG);
    osync__hadoop_conf_free(conf);
    site("hdfs-site.xml", "<property>\n<name>x</nam></property>");
    assert_int_equal(osync__hadoop_conf_load(tmp, &conf, &err), OSYNC_ECONFIG);
    assert_non_null(strstr(err.message, "hdfs-site.xml, line 4"));
    site("hdfs-site.xml", "<xi:include href='x'/>");
    assert_int_equal(osync__hadoop_conf_load(tmp, &conf, &err), OSYNC_ECONFIG);
    assert_int_equal(osync__write_file(in("hdfs-site.xml"), "<html/>", 7, NULL), 0);
    assert_int_equal(osync__hadoop_conf_load(tmp, &conf, &err), OSYNC_ECONFIG);
    static const char laughs[] =
        "<!DOCTYPE c [<!ENTITY a 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'>"
        "<!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;'>"
        "<!ENTITY d '&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;'>"
        "<!ENTITY e '&d;&d;&d;&d;&d;&d;&d;&d;&d;&d;&d;&d;&d;&d;&d;&d;&d;&d;&d;&d;&d;&d;'>]>"
        "<configuration><property><name>x</name><value>&e;</value></property></configuration>";
    assert_int_equal(osync__write_file(in("hdfs-site.xml"), laughs, sizeof laughs - 1, NULL), 0);
    assert_int_not_equal(osync__hadoop_conf_load(tmp, &conf, &err), 0);
    assert_int_equal(osync__hadoop_conf_load(in("nowhere"), &conf, &err), OSYNC_ECONFIG);
    assert_non_null(strstr(err.message, "nowhere"));
}

static void expect_namenodes(const char *authority, const char *list) {
    char **found = NULL, all[512] = "";
    size_t n = 0;
    osync_error_t err = {0};
    int rc = osync__hadoop_namenodes(tmp, authority, &found, &n, &err);
    if (rc) print_error("%s\n", err.message);
    assert_int_equal(rc, 0);
    for (size_t i = 0; i < n; i++) {
        strcat(all, i ? " " : "");
        strcat(all, found[i]);
    }
    assert_string_equal(all, list);
    osync__hadoop_addresses_free(found, n);
}

static void conf_namenodes(void **state) {
    (void)state;
    osync_error_t err;
    char fs[64], **found;
    size_t n;
    assert_int_equal(osync__hadoop_namenodes(tmp, NULL, &found, &n, &err), OSYNC_ECONFIG);
    assert_non_null(strstr(err.message, "fs.defaultFS"));
    assert_int_equal(osync__hadoop_default_fs(tmp, fs, sizeof fs, &err), OSYNC_ECONFIG);
    expect_namenodes("nn.example:9000", "nn.example:9870");
    expect_namenodes("[::1]:9000", "[::1]:9870");
    site("core-site.xml", P("fs.defaultFS", "hdfs://nn1:9000/"));
    expect_namenodes("", "nn1:9870");
    site("hdfs-site.xml", P("dfs.namenode.http-address", "0.0.0.0:50070"));
    expect_namenodes(NULL, "nn1:50070");
    expect_namenodes("other:9000", "other:9870"); /* another cluster: this file says nothing about it */
    site("hdfs-site.xml", P("dfs.namenode.http-address", "web:1") P("dfs.namenode.rpc-address", "rpc"));
    expect_namenodes("rpc:8020", "web:1");
    site("core-site.xml", P("fs.defaultFS", "hdfs://ns1"));
    site("hdfs-site.xml",
         P("dfs.nameservices", "ns0, ns1,ns2") P("dfs.ha.namenodes.ns1", "a,b")
             P("dfs.namenode.http-address.ns1.a", "h1:1") P("dfs.namenode.rpc-address.ns1.b", "h2:8020")
                 P("dfs.namenode.rpc-address.ns0", "h0:8020") P("dfs.namenode.http-address.ns0", "h0:5")
                     P("dfs.ha.namenodes.ns2", "x"));
    expect_namenodes(NULL, "h1:1 h2:9870");
    expect_namenodes("ns1", "h1:1 h2:9870");
    expect_namenodes("ns0", "h0:5");
    expect_namenodes("h0", "h0:5");
    assert_int_equal(osync__hadoop_namenodes(tmp, "ns2", &found, &n, &err), OSYNC_ECONFIG);
    assert_non_null(strstr(err.message, "ns2.x"));
    assert_int_equal(osync__hadoop_default_fs(tmp, fs, sizeof fs, &err), 0);
    assert_string_equal(fs, "hdfs://ns1");
    site("core-site.xml", P("fs.defaultFS", "file:///"));
    assert_int_equal(osync__hadoop_namenodes(tmp, NULL, &found, &n, &err), OSYNC_ECONFIG);
    site("core-site.xml", P("fs.defaultFS", "webhdfs://w:7"));
    expect_namenodes(NULL, "w:7");
    site("core-site.xml", P("hadoop.security.authentication", "kerberos"));
    assert_int_equal(osync__hadoop_namenodes(tmp, "x", &found, &n, &err), OSYNC_ENOTSUP);
}

/* ---- WebHDFS: a server that follows a script ---- */

typedef enum act {
    REPLY,  /* read the head of the request, answer */
    BODY,   /* read the head and a chunked body, answer */
    RESET,  /* read the head, then reset the connection: whether it had an effect nobody knows */
    REFUSE, /* as BODY, then reset the connection */
    HANG,   /* read the head, then wait until the client gives up */
    CUT,    /* answer, announcing more than is sent */
} act_t;

typedef struct step {
    act_t act;
    const char *expect; /* in the request's first line */
    const char *status; /* "200 OK" */
    const char *body;   /* "@" stands for this server's host:port */
} step_t;

typedef struct server {
    int fd;
    char address[32];
    pthread_t thread;
    const step_t *steps;
    size_t n;
    atomic_bool has_body, go, reset; /* of a REFUSE step, which waits for `go` before it answers */
    atomic_size_t seen;
    char wrong[4096];  /* a request that wasn't expected */
    osync__buf_t body; /* of BODY steps, chunk framing taken off */
} server_t;

/* Reads until `end` has been seen; false at the end of the connection. */
static bool read_until(int fd, osync__buf_t *b, const char *end) {
    size_t n = strlen(end);
    while (b->len < n || !memmem(b->data, b->len, end, n)) {
        osync__buf_reserve(b, 65536);
        ssize_t r = read(fd, b->data + b->len, 65536);
        if (r <= 0) return false;
        b->len += (size_t)r;
    }
    return true;
}

static void take_chunks(osync__buf_t *raw, osync__buf_t *out) {
    for (;;) {
        char *line = (char *)raw->data;
        size_t size = strtoul(line, NULL, 16), head = (size_t)(strstr(line, "\r\n") + 2 - line);
        osync__buf_append(out, raw->data + head, size);
        osync__buf_consume(raw, head + size + 2);
        if (size == 0) return;
    }
}

static void serve(server_t *s, int fd) {
    osync__buf_t in_ = {0}, out = {0};
    osync__buf_t body = {0};
    const step_t *step = NULL;
    struct linger now = {.l_onoff = 1, .l_linger = 0};
    if (!read_until(fd, &in_, "\r\n\r\n")) goto done;
    osync__buf_append(&in_, "", 1);
    char *first = (char *)in_.data;
    char *eol = strstr(first, "\r\n");
    step = s->seen < s->n ? &s->steps[s->seen] : NULL;
    s->seen++;
    if (!step || !memmem(first, (size_t)(eol - first), step->expect, strlen(step->expect))) {
        (void)snprintf(s->wrong, sizeof s->wrong, "request %zu: %.*s", s->seen, (int)(eol - first), first);
        goto done;
    }
    if (step->act == HANG) {
        char c[4096];
        while (read(fd, c, sizeof c) > 0) {
        }
        goto done;
    }
    if (step->act == RESET) {
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        goto done;
    }
    if (step->act == BODY || step->act == REFUSE) {
        size_t head = (size_t)(strstr(first, "\r\n\r\n") + 4 - first);
        in_.len--; /* the NUL */
        osync__buf_consume(&in_, head);
        if (!read_until(fd, &in_, "0\r\n\r\n")) goto done;
        osync__buf_append(&in_, "", 1);
        take_chunks(&in_, &s->body);
    }
    if (step->act == REFUSE) {
        s->has_body = true;
        while (!s->go) usleep(100);
    }
    for (const char *p = step->body; *p; p++) {
        if (*p == '@')
            osync__buf_append(&body, s->address, strlen(s->address));
        else
            osync__buf_append(&body, p, 1);
    }
    osync__buf_printf(&out, "HTTP/1.1 %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", step->status,
                      body.len + (step->act == CUT ? 10 : 0));
    if (body.len) osync__buf_append(&out, body.data, body.len);
    for (size_t sent = 0; sent < out.len;) {
        ssize_t w = send(fd, out.data + sent, out.len - sent, MSG_NOSIGNAL);
        if (w <= 0) break;
        sent += (size_t)w;
    }
    if (step->act == REFUSE) setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
done:
    osync__buf_free(&in_);
    osync__buf_free(&out);
    osync__buf_free(&body);
    close(fd);
    if (step && step->act == REFUSE) s->reset = true;
}

static void *run_server(void *arg) {
    server_t *s = arg;
    for (;;) {
        int fd = accept(s->fd, NULL, NULL);
        if (fd < 0) return NULL;
        serve(s, fd);
    }
}

static void server_start(server_t *s, const step_t *steps, size_t n) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    *s = (server_t){.steps = steps, .n = n};
    s->fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(s->fd, (struct sockaddr *)&a, len), 0);
    assert_int_equal(getsockname(s->fd, (struct sockaddr *)&a, &len), 0);
    (void)snprintf(s->address, sizeof s->address, "127.0.0.1:%d", ntohs(a.sin_port));
    assert_int_equal(listen(s->fd, 16), 0);
    assert_int_equal(pthread_create(&s->thread, NULL, run_server, s), 0);
}

/* Every step was asked for, and nothing else. */
static void server_stop(server_t *s) {
    shutdown(s->fd, SHUT_RDWR);
    pthread_join(s->thread, NULL);
    close(s->fd);
    assert_string_equal(s->wrong, "");
    assert_int_equal(s->seen, s->n);
    osync__buf_free(&s->body);
}

static osync_sink_t *web_sink(const char *address, uint32_t timeout_ms) {
    osync_sink_t *sink = NULL;
    osync_webhdfs_config_t config;
    osync_error_t err;
    osync_webhdfs_config_init(&config, sizeof config);
    config.address = address;
    config.user = "alice";
    config.request_timeout_ms = timeout_ms;
    assert_int_equal(osync_webhdfs_sink_new(&sink, &loop, &config, &err), 0);
    return sink;
}

#define REMOTE(exception, message)                                                                                     \
    "{\"RemoteException\":{\"exception\":\"" exception "\",\"javaClassName\":\"x." exception "\",\"message\":" message \
    "}}"
#define TIMEOUT_MS 300u /* of the tests in which the server doesn't answer */

/* Each mutation once against each kind of answer: the class of the status, and that it is sent once. */
static void web_rename_answers(void **state) {
    (void)state;
    static const struct {
        step_t step;
        int status;
        const char *says;
    } cases[] = {
        {{REPLY, "PUT /webhdfs/v1/a%20b%25/%2B%C3%A9?op=RENAME&user.name=alice&renameoptions=NONE&destination=/d%26/f",
          "200 OK", ""},
         0,
         NULL},
        {{REPLY, "RENAME", "404 Not Found", REMOTE("FileNotFoundException", "\"rename source is not found.\"")},
         OSYNC_ENOENT,
         "source is not found"},
        {{REPLY, "RENAME", "403 Forbidden", REMOTE("FileAlreadyExistsException", "\"x exists\\n\\tat org.x\"")},
         OSYNC_EEXIST,
         "x exists"},
        {{REPLY, "RENAME", "403 Forbidden", REMOTE("AccessControlException", "\"Permission denied\"")},
         OSYNC_EPERM,
         "AccessControlException"},
        {{REPLY, "RENAME", "403 Forbidden", REMOTE("StandbyException", "\"state standby\"")},
         OSYNC_EAGAIN,
         "StandbyException"},
        {{REPLY, "RENAME", "403 Forbidden", REMOTE("SafeModeException", "\"in safe mode\"")},
         OSYNC_EAGAIN,
         "safe mode"},
        {{REPLY, "RENAME", "403 Forbidden", REMOTE("EOFException", "null")}, OSYNC_EIO, "EOFException"},
        {{REPLY, "RENAME", "403 Forbidden", REMOTE("NSQuotaExceededException", "\"q\"")}, OSYNC_ENOSPC, "Quota"},
        {{REPLY, "RENAME", "400 Bad Request", REMOTE("InvalidPathException", "\"a:b\"")}, OSYNC_EINVAL, "a:b"},
        {{REPLY, "RENAME", "200 OK", "{\"boolean\":false}"}, OSYNC_EUNKNOWN, "false"},
        {{REPLY, "RENAME", "200 OK", "{\"boolean\":true}"}, OSYNC_EUNKNOWN, NULL}, /* ignored renameoptions */
        {{REPLY, "RENAME", "404 Not Found", "<html>no</html>"}, OSYNC_EUNKNOWN, "404"},
        {{REPLY, "RENAME", "404 Not Found", "{\"RemoteException\":{\"exception\":\"FileNotFoundEx"},
         OSYNC_EUNKNOWN,
         "404"},
        {{REPLY, "RENAME", "403 Forbidden", "no"}, OSYNC_EPERM, "403"},
        {{REPLY, "RENAME", "500 Oops", "no"}, OSYNC_EAGAIN, "500"},
        {{REPLY, "RENAME", "503 Busy", REMOTE("IOException", "\"Too busy\"")}, OSYNC_EIO, "Too busy"},
        {{REPLY, "RENAME", "307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/", ""}, OSYNC_EUNKNOWN, "redirect"},
        {{RESET, "RENAME", "", ""}, OSYNC_ECONN, "RENAME /a b%/+é to /d&/f on 127.0.0.1:"},
        {{CUT, "RENAME", "404 Not Found", REMOTE("FileNotFoundException", "\"x\"")}, OSYNC_ECONN, NULL},
        {{HANG, "RENAME", "", ""}, OSYNC_ETIMEOUT, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        server_t server;
        result_t r = {0};
        server_start(&server, &cases[i].step, 1);
        osync_sink_t *sink = web_sink(server.address, TIMEOUT_MS);
        int status = CALL(sink, r, rename, "/a b%/+é", "/d&/f");
        if (status != cases[i].status) print_error("case %zu: %s\n", i, r.err.message);
        assert_int_equal(status, cases[i].status);
        if (cases[i].says && !strstr(r.err.message, cases[i].says)) fail_msg("case %zu: %s", i, r.err.message);
        assert_null(strstr(r.err.message, "\tat "));
        close_sink(sink);
        server_stop(&server);
    }
}

static void web_other_answers(void **state) {
    (void)state;
    static const step_t steps[] = {
        {REPLY, "PUT /webhdfs/v1/d?op=MKDIRS&", "200 OK", "{\"boolean\":true}"},
        {REPLY, "MKDIRS", "200 OK", "{\"boolean\":false}"},
        {REPLY, "MKDIRS", "200 OK", "{\"boolean\":tr"},
        {REPLY, "DELETE /webhdfs/v1/d?op=DELETE&user.name=alice&recursive=true", "200 OK", "{\"boolean\":false}"},
        {REPLY, "recursive=false", "403 Forbidden", REMOTE("PathIsNotEmptyDirectoryException", "\"not empty\"")},
        {REPLY, "DELETE", "200 OK", "[true]"},
        {REPLY, "GET /webhdfs/v1/f?op=GETFILESTATUS", "200 OK",
         "{\"FileStatus\":{\"length\":7,\"fileId\":9,\"type\":\"FILE\",\"x\":[]}}"},
        {REPLY, "GETFILESTATUS", "200 OK", "{\"FileStatus\":{\"length\":-7,\"fileId\":9,\"type\":\"FILE\"}}"},
        {REPLY, "GETFILESTATUS", "404 Not Found", REMOTE("FileNotFoundException", "\"no\"")},
        {REPLY, "SETXATTR&user.name=alice&flag=CREATE,REPLACE&xattr.name=user.osync.barrier&xattr.value=0x01", "200 OK",
         ""},
        {REPLY, "SETXATTR", "200 OK", "<html>please log in</html>"},
        {REPLY, "xattr.name=user.osync.label&xattr.value=0x01610062 ", "200 OK", ""},
        {REPLY, "SETXATTR", "400 Bad Request",
         REMOTE("HadoopIllegalArgumentException", "\"The XAttr is too big. The maximum\"")},
        {REPLY, "GETXATTRS&user.name=alice&encoding=HEX", "200 OK",
         "{\"XAttrs\":[{\"name\":\"user.z\"},{\"name\":\"user.osync.label\",\"value\":\"0x01610062\"}]}"},
        {REPLY, "GETXATTRS", "200 OK", "{\"XAttrs\":[]}"},
        {REPLY, "GETXATTRS", "200 OK", "{\"XAttrs\":[{\"name\":\"user.osync.label\",\"value\":\"0x0261\"}]}"},
        {REPLY, "GETXATTRS", "200 OK", "{\"XAttrs\":[{\"name\":\"user.osync.label\",\"value\":\"0x016\"}]}"},
    };
    server_t server;
    result_t r = {0};
    server_start(&server, steps, sizeof steps / sizeof steps[0]);
    osync_sink_t *sink = web_sink(server.address, 10000);
    assert_int_equal(CALL(sink, r, mkdirs, "/d"), 0);
    assert_int_equal(CALL(sink, r, mkdirs, "/d"), OSYNC_EUNKNOWN);
    assert_int_equal(CALL(sink, r, mkdirs, "/d"), OSYNC_EUNKNOWN);
    assert_int_equal(CALL(sink, r, remove, "/d", true), 0);
    assert_int_equal(CALL(sink, r, remove, "/d", false), OSYNC_EEXIST);
    assert_int_equal(CALL(sink, r, remove, "/d", false), OSYNC_EUNKNOWN);
    assert_int_equal(STAT(sink, r, "/f"), 0);
    assert_int_equal(r.stat.length, 7);
    assert_int_equal(r.stat.file_id, 9);
    assert_int_equal(STAT(sink, r, "/f"), OSYNC_EUNKNOWN);
    assert_int_equal(STAT(sink, r, "/f"), OSYNC_ENOENT);
    assert_int_equal(CALL(sink, r, barrier, "/f"), 0);
    assert_int_equal(CALL(sink, r, barrier, "/f"), OSYNC_EUNKNOWN);
    assert_int_equal(CALL(sink, r, set_label, "/f", "a\0b", 3), 0);
    assert_int_equal(CALL(sink, r, set_label, "/f", "a", 1), OSYNC_ETOOBIG);
    assert_int_equal(LABEL(sink, r, "/f"), 0);
    assert_int_equal(r.label.len, 3);
    assert_memory_equal(r.label.data, "a\0b", 3);
    assert_int_equal(LABEL(sink, r, "/f"), OSYNC_ENOENT);
    assert_int_equal(LABEL(sink, r, "/f"), OSYNC_ECORRUPT);
    assert_int_equal(LABEL(sink, r, "/f"), OSYNC_ECORRUPT);
    result_free(&r);
    close_sink(sink);
    server_stop(&server);
}

#define PAGE(rows, remaining)                                                                                          \
    "{\"DirectoryListing\":{\"partialListing\":{\"FileStatuses\":{\"FileStatus\":[" rows                               \
    "]}},\"remainingEntries\":" remaining "}}"
#define ROW(name) "{\"pathSuffix\":\"" name "\"}"

static void web_lists_in_pages(void **state) {
    (void)state;
    static const step_t steps[] = {
        {REPLY, "GET /webhdfs/v1/d?op=LISTSTATUS_BATCH&user.name=alice HTTP", "200 OK",
         PAGE(ROW("b") "," ROW("a %"), "2")},
        {REPLY, "&startAfter=a%20%25 ", "200 OK", PAGE(ROW("c"), "0")},
        {REPLY, "LIST", "200 OK", PAGE("", "0")},
        {REPLY, "LIST", "200 OK", PAGE("", "5")}, /* would go on for ever */
        {REPLY, "LIST", "200 OK", PAGE(ROW("x"), "5")},
        {REPLY, "startAfter=x", "200 OK", PAGE(ROW("x"), "5")},
        {REPLY, "LIST", "200 OK", PAGE(ROW("../x"), "0")},
        {REPLY, "LIST", "200 OK", PAGE(ROW(""), "0")}, /* a file */
        {REPLY, "LIST", "200 OK", "{\"DirectoryListing\":[]}"},
    };
    server_t server;
    result_t r = {0};
    server_start(&server, steps, sizeof steps / sizeof steps[0]);
    osync_sink_t *sink = web_sink(server.address, 10000);
    assert_int_equal(LIST(sink, r, "/d"), 0);
    assert_int_equal(r.n_names, 3);
    assert_string_equal(r.names[0], "a %");
    assert_string_equal(r.names[1], "b");
    assert_string_equal(r.names[2], "c");
    assert_int_equal(LIST(sink, r, "/d"), 0);
    assert_int_equal(r.n_names, 0);
    assert_int_equal(LIST(sink, r, "/d"), OSYNC_EUNKNOWN);
    assert_int_equal(LIST(sink, r, "/d"), OSYNC_EUNKNOWN);
    assert_int_equal(LIST(sink, r, "/d"), OSYNC_EUNKNOWN);
    assert_int_equal(LIST(sink, r, "/d"), OSYNC_ENOENT);
    assert_int_equal(LIST(sink, r, "/d"), OSYNC_EUNKNOWN);
    close_sink(sink);
    server_stop(&server);
}

#define OPEN_F         "GET /webhdfs/v1/f%20%C3%A9%2B?op=OPEN&user.name=alice&noredirect=true&offset=5&length=4 "
#define OPEN_AT(query) "{\"Location\":\"http://@/webhdfs/v1/f%20é+?op=OPEN" query "\"}"

static void web_reads(void **state) {
    (void)state;
    static const char data[] = "GET /webhdfs/v1/f%20%C3%A9%2B?op=OPEN&delegation=t%2F&offset=5&length=4 ";
#define AT_5 "&delegation=t%2F&offset=5&length=4"
    static const struct {
        step_t steps[2];
        int status;
        const char *bytes;
    } cases[] = {
        {{{REPLY, OPEN_F, "200 OK", OPEN_AT(AT_5)}, {REPLY, data, "200 OK", "abcd"}}, 0, "abcd"},
        {{{REPLY, OPEN_F, "200 OK", OPEN_AT(AT_5)}, {REPLY, data, "200 OK", "ab"}}, 0, "ab"},
        {{{REPLY, OPEN_F, "200 OK", OPEN_AT(AT_5)}, {REPLY, data, "200 OK", "abcde"}}, OSYNC_EUNKNOWN, NULL},
        {{{REPLY, OPEN_F, "200 OK", OPEN_AT(AT_5)}, {CUT, data, "200 OK", "abcd"}}, OSYNC_ECONN, NULL},
        {{{REPLY, OPEN_F, "200 OK", OPEN_AT(AT_5)}, {RESET, data, "", ""}}, OSYNC_ECONN, NULL},
        {{{REPLY, OPEN_F, "200 OK", OPEN_AT(AT_5)},
          {REPLY, data, "307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/", ""}},
         OSYNC_EUNKNOWN,
         NULL},
        {{{REPLY, OPEN_F, "200 OK", OPEN_AT(AT_5)},
          {REPLY, data, "404 Not Found", REMOTE("FileNotFoundException", "\"gone\"")}},
         OSYNC_ENOENT,
         NULL},
        {{{REPLY, OPEN_F, "307 Temporary Redirect\r\nLocation: http://@/webhdfs/v1/f%20é+?op=OPEN" AT_5, ""},
          {REPLY, data, "200 OK", "abcd"}},
         0,
         "abcd"},
        {{{REPLY, OPEN_F, "200 OK", OPEN_AT("&length=4")}}, OSYNC_EUNKNOWN, NULL},
        {{{REPLY, OPEN_F, "200 OK", OPEN_AT("&offset=0&length=4")}}, OSYNC_EUNKNOWN, NULL},
        {{{REPLY, OPEN_F, "200 OK", OPEN_AT(AT_5 "&op=CREATE")}}, OSYNC_EUNKNOWN, NULL},
        {{{REPLY, OPEN_F, "200 OK", "{\"Location\":\"http://@/webhdfs/v1/other?op=OPEN" AT_5 "\"}"}},
         OSYNC_EUNKNOWN,
         NULL},
        {{{REPLY, OPEN_F, "200 OK", "abcd"}}, OSYNC_EUNKNOWN, NULL},
        {{{REPLY, OPEN_F, "404 Not Found", REMOTE("FileNotFoundException", "\"no\"")}}, OSYNC_ENOENT, NULL},
        {{{REPLY, OPEN_F, "403 Forbidden",
           REMOTE("IOException", "\"Offset=5 out of the range [0, 5); OPEN, path=/f\"")}},
         0,
         ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        server_t server;
        result_t r = {0};
        step_t steps[2] = {cases[i].steps[0], cases[i].steps[1]};
        char moved[512];
        server_start(&server, steps, steps[1].expect ? 2 : 1);
        char *at = strchr(steps[0].status, '@'); /* only bodies are filled in by the server */
        if (at) {
            (void)snprintf(moved, sizeof moved, "%.*s%s%s", (int)(at - steps[0].status), steps[0].status,
                           server.address, at + 1);
            steps[0].status = moved;
        }
        osync_sink_t *sink = web_sink(server.address, 10000);
        int status = READ(sink, r, "/f é+", 5, 4);
        if (status != cases[i].status) print_error("case %zu: %s\n", i, r.err.message);
        assert_int_equal(status, cases[i].status);
        if (cases[i].bytes) expect_bytes(&r, cases[i].bytes);
        result_free(&r);
        close_sink(sink);
        server_stop(&server);
    }
}

/* One call of each kind, on the path "/f". */
static int call_number(osync_sink_t *sink, unsigned kind, result_t *r) {
    osync_sink_file_t *f = NULL;
    switch (kind) {
    case 0:
        return CALL(sink, *r, mkdirs, "/f");
    case 1:
        return STAT(sink, *r, "/f");
    case 2:
        return CALL(sink, *r, set_label, "/f", "label", 5);
    case 3:
        return LABEL(sink, *r, "/f");
    case 4:
        return CALL(sink, *r, rename, "/f", "/g");
    case 5:
        return CALL(sink, *r, remove, "/f", true);
    case 6:
        return LIST(sink, *r, "/f");
    case 7:
        return CALL(sink, *r, barrier, "/f");
    case 8:
        return READ(sink, *r, "/f", 0, 4);
    default: {
        int status = CALL(sink, *r, create, "/f", &f);
        result_t end = {0};
        assert_int_equal(ABORT(f, end), 0);
        result_free(&end);
        return status;
    }
    }
}

/* What waiting mends must be told from what it doesn't, whichever call meets it; and each is sent once. */
static void web_classifies_every_answer_to_every_call(void **state) {
    (void)state;
    static const struct {
        step_t step;
        int status;
    } cases[] = {
        {{REPLY, "/f?op=", "403 Forbidden", REMOTE("SafeModeException", "\"Name node is in safe mode.\"")},
         OSYNC_EAGAIN},
        {{REPLY, "/f?op=", "403 Forbidden", REMOTE("RetriableException", "\"Name node is in safe mode.\"")},
         OSYNC_EAGAIN},
        {{REPLY, "/f?op=", "403 Forbidden", REMOTE("StandbyException", "\"state standby\"")}, OSYNC_EAGAIN},
        {{REPLY, "/f?op=", "403 Forbidden", REMOTE("DSQuotaExceededException", "\"The DiskSpace quota\"")},
         OSYNC_ENOSPC},
        {{REPLY, "/f?op=", "403 Forbidden", REMOTE("QuotaByStorageTypeExceededException", "\"q\"")}, OSYNC_ENOSPC},
        {{REPLY, "/f?op=", "403 Forbidden", REMOTE("FSLimitException$MaxDirectoryItemsExceededException", "\"l\"")},
         OSYNC_ENOSPC},
        {{REPLY, "/f?op=", "403 Forbidden",
          REMOTE("IOException", "\"File /f could only be written to 0 of the 1 minReplication nodes.\"")},
         OSYNC_EIO},
        {{REPLY, "/f?op=", "400 Bad Request",
          REMOTE("IllegalArgumentException", "\"java.net.UnknownHostException: ns1\"")},
         OSYNC_EAGAIN},
        {{REPLY, "/f?op=", "400 Bad Request", REMOTE("IllegalArgumentException", "\"Invalid value\"")}, OSYNC_EINVAL},
        {{REPLY, "/f?op=", "401 Unauthorized", REMOTE("SecurityException", "\"Failed to obtain user\"")}, OSYNC_EPERM},
        {{REPLY, "/f?op=", "403 Forbidden", REMOTE("AccessControlException", "\"Permission denied: user=alice\"")},
         OSYNC_EPERM},
        {{REPLY, "/f?op=", "403 Forbidden", REMOTE("AccessControlException", "\"/f (is not a directory)\"")},
         OSYNC_ENOENT},
        {{REPLY, "/f?op=", "403 Forbidden", REMOTE("ParentNotDirectoryException", "\"/f (is not a directory)\"")},
         OSYNC_ENOENT},
        {{REPLY, "/f?op=", "403 Forbidden", REMOTE("UnsupportedOperationException", "\"no\"")}, OSYNC_ENOTSUP},
        {{REPLY, "/f?op=", "403 Forbidden", REMOTE("OfTomorrowException", "null")}, OSYNC_EIO},
        {{REPLY, "/f?op=", "400 Bad Request", "<html>"}, OSYNC_EUNKNOWN},
        {{REPLY, "/f?op=", "403 Forbidden", "{\"RemoteException\":{\"exception\":\"AccessControlExcep"}, OSYNC_EPERM},
        {{REPLY, "/f?op=", "404 Not Found", ""}, OSYNC_EUNKNOWN},
        {{REPLY, "/f?op=", "429 Slow Down", ""}, OSYNC_EAGAIN},
        {{REPLY, "/f?op=", "500 Oops", REMOTE("NullPointerException", "null")}, OSYNC_EIO},
        {{REPLY, "/f?op=", "502 Bad Gateway", "<html>"}, OSYNC_EAGAIN},
        {{REPLY, "/f?op=", "503 Busy", ""}, OSYNC_EAGAIN},
        {{REPLY, "/f?op=", "201 Created", "x"}, OSYNC_EUNKNOWN},
        {{REPLY, "/f?op=", "301 Moved\r\nLocation: http://127.0.0.1:1/", ""}, OSYNC_EUNKNOWN},
        {{REPLY, "/f?op=", "307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/webhdfs/v1/x", ""}, OSYNC_EUNKNOWN},
        {{REPLY, "/f?op=", "200 OK", "{\"boolean\":"}, OSYNC_EUNKNOWN},
        {{REPLY, "/f?op=", "200 OK", "<html>please log in</html>"}, OSYNC_EUNKNOWN},
        {{CUT, "/f?op=", "200 OK", "{}"}, OSYNC_ECONN},
        {{CUT, "/f?op=", "403 Forbidden", REMOTE("FileAlreadyExistsException", "\"x\"")}, OSYNC_ECONN},
        {{RESET, "/f?op=", "", ""}, OSYNC_ECONN},
        {{HANG, "/f?op=", "", ""}, OSYNC_ETIMEOUT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bool waiting_mends = cases[i].status != OSYNC_EINVAL && cases[i].status != OSYNC_ENOTSUP &&
                             cases[i].status != OSYNC_EPERM && cases[i].status != OSYNC_ENOENT;
        assert_int_equal(osync_err_retriable(cases[i].status), waiting_mends);
        for (unsigned kind = 0; kind < 10; kind++) {
            server_t server;
            result_t r = {0};
            server_start(&server, &cases[i].step, 1);
            osync_sink_t *sink = web_sink(server.address, cases[i].step.act == HANG ? 50 : 10000);
            int status = call_number(sink, kind, &r);
            if (status != cases[i].status) print_error("case %zu, call %u: %s\n", i, kind, r.err.message);
            assert_int_equal(status, cases[i].status);
            result_free(&r);
            close_sink(sink);
            server_stop(&server);
        }
    }
}

/* Of AddressSanitizer's own allocator, if it is there. */
extern size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));

static size_t allocated(void) {
    return __sanitizer_get_current_allocated_bytes ? __sanitizer_get_current_allocated_bytes() : mallinfo2().uordblks;
}

/* An HDFS that is away for long is asked again and again. */
static void web_failures_cost_no_memory(void **state) {
    (void)state;
    enum { ROUNDS = 300, CALLS = 10 };
    result_t r = {0};
    osync_sink_t *sink = web_sink("127.0.0.1:1", 10000);
    size_t after_some = 0;
    for (unsigned i = 0; i < ROUNDS; i++) {
        for (unsigned kind = 0; kind < CALLS; kind++) assert_int_equal(call_number(sink, kind, &r), OSYNC_ECONN);
        if (i == ROUNDS / 3) after_some = allocated();
    }
    assert_in_range(allocated(), 0, after_some + 65536);
    close_sink(sink);
}

#define LOCATE_F                                                                                                       \
    "PUT /webhdfs/v1/f%20%C3%A9%2B?op=CREATE&user.name=alice&noredirect=true&overwrite=false&createparent=false "
#define LOCATION(rest)                                                                                                 \
    "{\"Location\":\"http://@/webhdfs/v1/f%20é+?op=CREATE&overwrite=false&createparent=false" rest "\"}"
#define F "/f é+"

static void web_writes(void **state) {
    (void)state;
    static const step_t steps[] = {
        {REPLY, LOCATE_F, "200 OK", LOCATION("&delegation=t%2F")},
        {BODY, "PUT /webhdfs/v1/f%20%C3%A9%2B?op=CREATE&overwrite=false&createparent=false&delegation=t%2F ",
         "201 Created", ""},
    };
    enum { CHUNK = 300000, CHUNKS = 20 };
    server_t server;
    result_t r = {0};
    osync_sink_file_t *f = NULL;
    char *chunk = malloc(CHUNK);
    server_start(&server, steps, 2);
    osync_sink_t *sink = web_sink(server.address, 10000);
    assert_int_equal(CALL(sink, r, create, F, &f), 0);
    for (int i = 0; i < CHUNKS; i++) {
        memset(chunk, 'a' + i, CHUNK);
        assert_int_equal(FILE_CALL(f, r, write, chunk, CHUNK), 0);
        memset(chunk, 0, CHUNK); /* the caller's again */
    }
    assert_int_equal(FILE_CALL(f, r, write, NULL, 0), 0);
    assert_int_equal(FINISH(f, r), 0);
    assert_int_equal(server.body.len, CHUNK * CHUNKS);
    for (size_t i = 0; i < server.body.len; i++) assert_int_equal(server.body.data[i], 'a' + (int)(i / CHUNK));
    close_sink(sink);
    server_stop(&server);
    free(chunk);
}

/* Of each that is open, libcurl has a buffer: the more there are, the smaller. The DataNode of this test never accepts
 * a connection, so that all of them stay. */
static void web_many_files_share_their_memory(void **state) {
    (void)state;
    enum { FILES = 200, CHUNK = 300000, LIMIT = 32 << 20 };
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    char location[256], *chunk = calloc(1, CHUNK);
    step_t *steps = calloc(FILES + 1, sizeof *steps);
    osync_sink_file_t *files[FILES];
    result_t r = {0}, *written = calloc(FILES, sizeof *written);
    server_t server;
    int datanode = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(datanode, (struct sockaddr *)&a, len), 0);
    assert_int_equal(getsockname(datanode, (struct sockaddr *)&a, &len), 0);
    assert_int_equal(listen(datanode, FILES), 0);
    (void)snprintf(location, sizeof location,
                   "{\"Location\":\"http://127.0.0.1:%d/webhdfs/v1/f?op=CREATE&overwrite=false&createparent=false\"}",
                   ntohs(a.sin_port));
    for (int i = 0; i < FILES; i++) steps[i] = (step_t){REPLY, "op=CREATE", "200 OK", location};
    steps[FILES] = (step_t){REPLY, "op=MKDIRS", "200 OK", "{\"boolean\":true}"};
    server_start(&server, steps, FILES + 1);
    osync_sink_t *sink = web_sink(server.address, 10000);
    size_t before = allocated();
    for (int i = 0; i < FILES; i++) {
        assert_int_equal(CALL(sink, r, create, "/f", &files[i]), 0);
        assert_int_equal(sink->ops->write(files[i], chunk, CHUNK, got, &written[i]), 0);
    }
    assert_int_equal(CALL(sink, r, mkdirs, "/d"), 0); /* by now libcurl has begun to send them all */
    assert_in_range(allocated() - before, FILES * (16 << 10), LIMIT);
    for (int i = 0; i < FILES; i++) assert_int_equal(ABORT(files[i], r), 0);
    close_sink(sink);
    server_stop(&server);
    close(datanode);
    free(chunk);
    free(steps);
    free(written);
}

static void web_refuses_wrong_locations(void **state) {
    (void)state;
    static const struct {
        const char *status, *body;
        int code;
    } cases[] = {
        {"200 OK", "{\"Location\":\"https://@/webhdfs/v1/f%20é+?op=CREATE&overwrite=false&createparent=false\"}",
         OSYNC_ENOTSUP},
        {"200 OK", "{\"Location\":\"file:///webhdfs/v1/f%20é+?op=CREATE&overwrite=false&createparent=false\"}",
         OSYNC_EUNKNOWN},
        {"200 OK", "{\"Location\":\"http://@/webhdfs/v1/other?op=CREATE&overwrite=false&createparent=false\"}",
         OSYNC_EUNKNOWN},
        {"200 OK", "{\"Location\":\"http://@/elsewhere/f%20é+?op=CREATE&overwrite=false&createparent=false\"}",
         OSYNC_EUNKNOWN},
        {"200 OK", "{\"Location\":\"http://@/webhdfs/v1/f%20é+?op=APPEND&overwrite=false&createparent=false\"}",
         OSYNC_EUNKNOWN},
        {"200 OK", "{\"Location\":\"http://@/webhdfs/v1/f%20é+?op=CREATE&overwrite=true&createparent=false\"}",
         OSYNC_EUNKNOWN},
        {"200 OK", LOCATION("&overwrite=true"), OSYNC_EUNKNOWN},
        {"200 OK", "{\"Location\":\"http://@/webhdfs/v1/f%20é+?op=CREATE&overwrite=false\"}", OSYNC_EUNKNOWN},
        {"200 OK", "{\"Location\":\"http://u:p%40@/webhdfs/v1/f%20é+?op=CREATE&overwrite=false&createparent=false\"}",
         OSYNC_EUNKNOWN},
        {"200 OK", "{\"Location\":7}", OSYNC_EUNKNOWN},
        {"200 OK", "{\"Loca", OSYNC_EUNKNOWN},
        {"307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/evil?op=CREATE&overwrite=false&createparent=false", "",
         OSYNC_EUNKNOWN},
        {"403 Forbidden", REMOTE("IOException", "\"Failed to find datanode, suggest to check cluster health.\""),
         OSYNC_EAGAIN},
        {"500 Oops", "", OSYNC_EAGAIN},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        step_t step = {REPLY, LOCATE_F, cases[i].status, cases[i].body};
        server_t server;
        result_t r = {0};
        osync_sink_file_t *f = NULL;
        server_start(&server, &step, 1);
        osync_sink_t *sink = web_sink(server.address, 10000);
        int status = CALL(sink, r, create, F, &f);
        if (status != cases[i].code) print_error("case %zu: %s\n", i, r.err.message);
        assert_int_equal(status, cases[i].code);
        assert_int_equal(FILE_CALL(f, r, write, "x", 1), cases[i].code); /* it stays failed */
        if (i % 2)
            assert_int_equal(FINISH(f, r), cases[i].code);
        else
            assert_int_equal(ABORT(f, r), 0);
        close_sink(sink);
        server_stop(&server);
    }
}

/* A server that ignores `noredirect`: where it leads is used just as well. */
static void web_takes_a_redirect_of_create(void **state) {
    (void)state;
    server_t server, datanode;
    char moved[256];
    result_t r = {0};
    osync_sink_file_t *f = NULL;
    step_t write = {BODY, "PUT /webhdfs/v1/f%20%C3%A9%2B?op=CREATE&overwrite=false&createparent=false&delegation=t%2F ",
                    "201 Created", ""};
    server_start(&datanode, &write, 1);
    (void)snprintf(moved, sizeof moved,
                   "307 Temporary Redirect\r\nLocation: http://%s/webhdfs/v1/f%%20é+?op=CREATE&overwrite=false&"
                   "createparent=false&delegation=t%%2F",
                   datanode.address);
    step_t locate = {REPLY, LOCATE_F, moved, ""};
    server_start(&server, &locate, 1);
    osync_sink_t *sink = web_sink(server.address, 10000);
    assert_int_equal(CALL(sink, r, create, F, &f), 0);
    assert_int_equal(FILE_CALL(f, r, write, "hello", 5), 0);
    assert_int_equal(FINISH(f, r), 0);
    assert_int_equal(datanode.body.len, 5);
    assert_memory_equal(datanode.body.data, "hello", 5);
    close_sink(sink);
    server_stop(&server);
    server_stop(&datanode);
}

/* The NameNode names a DataNode that nobody listens for: that is for waiting, and the NameNode isn't to blame. */
static void web_dead_datanode(void **state) {
    (void)state;
    static const step_t steps[] = {
        {REPLY, LOCATE_F, "200 OK",
         "{\"Location\":\"http://127.0.0.1:1/webhdfs/v1/f%20é+?op=CREATE&overwrite=false&createparent=false\"}"},
        {REPLY, OPEN_F, "200 OK", "{\"Location\":\"http://127.0.0.1:1/webhdfs/v1/f%20é+?op=OPEN&offset=5&length=4\"}"},
        {REPLY, "MKDIRS", "200 OK", "{\"boolean\":true}"},
    };
    server_t server;
    result_t r = {0};
    osync_sink_t *sink = NULL;
    osync_sink_file_t *f = NULL;
    osync_webhdfs_config_t config;
    char xml[512];
    server_start(&server, steps, 3);
    (void)snprintf(xml, sizeof xml,
                   P("dfs.nameservices", "ns") P("dfs.ha.namenodes.ns", "a,b") P("dfs.namenode.http-address.ns.a", "%s")
                       P("dfs.namenode.http-address.ns.b", "127.0.0.1:1"),
                   server.address);
    site("hdfs-site.xml", xml);
    osync_webhdfs_config_init(&config, sizeof config);
    config.authority = "ns";
    config.user = "alice";
    config.hadoop_conf_dir = tmp;
    assert_int_equal(osync_webhdfs_sink_new(&sink, &loop, &config, NULL), 0);
    assert_int_equal(CALL(sink, r, create, F, &f), 0);
    assert_int_equal(FINISH(f, r), OSYNC_ECONN);
    assert_non_null(strstr(r.err.message, "127.0.0.1:1"));
    assert_int_equal(READ(sink, r, F, 5, 4), OSYNC_ECONN);
    assert_non_null(strstr(r.err.message, "127.0.0.1:1"));
    assert_int_equal(CALL(sink, r, mkdirs, "/d"), 0); /* the same NameNode is asked */
    close_sink(sink);
    server_stop(&server);
}

/* Writes until it fails or `limit` bytes are out, then finishes; the first failure. */
static int write_all(osync_sink_t *sink, size_t limit, result_t *r) {
    enum { CHUNK = 1 << 20 };
    osync_sink_file_t *f = NULL;
    char *chunk = calloc(1, CHUNK);
    int status = CALL(sink, *r, create, F, &f);
    for (size_t n = 0; !status && n < limit; n += CHUNK) status = FILE_CALL(f, *r, write, chunk, CHUNK);
    osync_error_t first = r->err;
    int end = FINISH(f, *r);
    if (status) {
        assert_int_equal(end, status); /* a lost file stays lost */
        r->err = first;
    }
    free(chunk);
    return end;
}

static void web_write_faults(void **state) {
    (void)state;
    static const struct {
        step_t step;
        size_t bytes;
        int status;
    } cases[] = {
        {{BODY, "CREATE", "403 Forbidden", REMOTE("FileAlreadyExistsException", "\"f already exists\\n\\tat org\"")},
         100,
         OSYNC_EEXIST},
        {{BODY, "CREATE", "404 Not Found", REMOTE("FileNotFoundException", "\"Parent directory doesn't exist\"")},
         100,
         OSYNC_ENOENT},
        {{BODY, "CREATE", "200 OK", ""}, 100, OSYNC_EUNKNOWN},
        {{BODY, "CREATE", "500 Oops", "broken"}, 100, OSYNC_EAGAIN},
        {{BODY, "CREATE", "307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/", ""}, 100, OSYNC_EUNKNOWN},
        {{RESET, "CREATE", "", ""}, 64 << 20, OSYNC_ECONN},
        {{HANG, "CREATE", "", ""}, 0, OSYNC_ETIMEOUT}, /* takes all, answers nothing */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        step_t steps[2] = {{REPLY, LOCATE_F, "200 OK", LOCATION("")}, cases[i].step};
        server_t server;
        result_t r = {0};
        server_start(&server, steps, 2);
        osync_sink_t *sink = web_sink(server.address, TIMEOUT_MS);
        int status = write_all(sink, cases[i].bytes, &r);
        if (status != cases[i].status) print_error("case %zu: %s\n", i, r.err.message);
        assert_int_equal(status, cases[i].status);
        assert_non_null(strstr(r.err.message, F));
        close_sink(sink);
        server_stop(&server);
    }
}

/* A DataNode that refuses may reset the connection right after its answer; the answer counts. */
static void web_refusal_and_reset(void **state) {
    (void)state;
    step_t steps[2] = {{REPLY, LOCATE_F, "200 OK", LOCATION("")},
                       {REFUSE, "CREATE", "404 Not Found", REMOTE("FileNotFoundException", "\"no parent\"")}};
    server_t server;
    result_t r = {0};
    server_start(&server, steps, 2);
    osync_sink_t *sink = web_sink(server.address, 10000);
    osync_sink_file_t *f = NULL;
    assert_int_equal(CALL(sink, r, create, F, &f), 0);
    assert_int_equal(FILE_CALL(f, r, write, "x", 1), 0);
    result_free(&r);
    assert_int_equal(sink->ops->finish(f, got, &r), 0);
    while (!server.has_body) uv_run(&loop, UV_RUN_NOWAIT);
    server.go = true;
    while (!server.reset) usleep(100); /* answer and reset are there before the loop looks */
    assert_int_equal(wait_for(0, &r), OSYNC_ENOENT);
    close_sink(sink);
    server_stop(&server);
}

/* A success that comes while the data isn't all there yet is none. */
static void web_early_201(void **state) {
    (void)state;
    step_t steps[2] = {{REPLY, LOCATE_F, "200 OK", LOCATION("")}, {REPLY, "CREATE", "201 Created", ""}};
    server_t server;
    result_t r = {0};
    osync_sink_file_t *f = NULL;
    server_start(&server, steps, 2);
    osync_sink_t *sink = web_sink(server.address, 10000);
    assert_int_equal(CALL(sink, r, create, F, &f), 0);
    int status = 0;
    while (!status) status = FILE_CALL(f, r, write, "x", 1);
    assert_true(status == OSYNC_EUNKNOWN || status == OSYNC_ECONN);
    assert_int_equal(FINISH(f, r), status);
    close_sink(sink);
    server_stop(&server);
}

static void web_tries_the_next_namenode(void **state) {
    (void)state;
    static const step_t first[] = {{REPLY, "MKDIRS", "403 Forbidden", REMOTE("StandbyException", "\"state standby\"")},
                                   {REPLY, "RENAME", "200 OK", ""}};
    static const step_t second[] = {
        {REPLY, "MKDIRS", "200 OK", "{\"boolean\":true}"},
        {REPLY, "MKDIRS", "200 OK", "{\"boolean\":true}"}, /* it sticks to this one */
        {REPLY, "barrier", "403 Forbidden", REMOTE("StandbyException", "\"state standby\"")}};
    server_t a, b;
    result_t r = {0};
    osync_sink_t *sink = NULL;
    osync_webhdfs_config_t config;
    char xml[512];
    server_start(&a, first, 2);
    server_start(&b, second, 3);
    (void)snprintf(xml, sizeof xml,
                   P("dfs.nameservices", "ns") P("dfs.ha.namenodes.ns", "z,a,b")
                       P("dfs.namenode.http-address.ns.z", "127.0.0.1:1") P("dfs.namenode.http-address.ns.a", "%s")
                           P("dfs.namenode.http-address.ns.b", "%s"),
                   a.address, b.address);
    site("hdfs-site.xml", xml);
    osync_webhdfs_config_init(&config, sizeof config);
    config.authority = "ns";
    config.hadoop_conf_dir = tmp;
    assert_int_equal(osync_webhdfs_sink_new(&sink, &loop, &config, NULL), 0);
    assert_int_equal(CALL(sink, r, mkdirs, "/d"), 0); /* z refuses the connection, a is a standby */
    assert_int_equal(CALL(sink, r, mkdirs, "/d"), 0);
    /* A barrier must not move on: what it confirms was read from the NameNode that is no longer active. */
    assert_int_equal(CALL(sink, r, barrier, "/d"), OSYNC_EAGAIN);
    assert_int_equal(CALL(sink, r, rename, "/a", "/b"), 0); /* z again, then a */
    server_stop(&a);
    server_stop(&b);
    assert_int_equal(CALL(sink, r, mkdirs, "/d"), OSYNC_ECONN);
    close_sink(sink);
}

/* A NameNode that takes requests and never answers: what it was asked stays unknown, and later calls ask the next. */
static void web_leaves_a_silent_namenode(void **state) {
    (void)state;
    static const step_t first = {HANG, "RENAME", "", ""};
    static const step_t second = {REPLY, "MKDIRS", "200 OK", "{\"boolean\":true}"};
    server_t a, b;
    result_t r = {0};
    osync_sink_t *sink = NULL;
    osync_webhdfs_config_t config;
    char xml[512];
    server_start(&a, &first, 1);
    server_start(&b, &second, 1);
    (void)snprintf(xml, sizeof xml,
                   P("dfs.nameservices", "ns") P("dfs.ha.namenodes.ns", "a,b") P("dfs.namenode.http-address.ns.a", "%s")
                       P("dfs.namenode.http-address.ns.b", "%s"),
                   a.address, b.address);
    site("hdfs-site.xml", xml);
    osync_webhdfs_config_init(&config, sizeof config);
    config.authority = "ns";
    config.hadoop_conf_dir = tmp;
    config.request_timeout_ms = TIMEOUT_MS;
    assert_int_equal(osync_webhdfs_sink_new(&sink, &loop, &config, NULL), 0);
    assert_int_equal(CALL(sink, r, rename, "/a", "/b"), OSYNC_ETIMEOUT); /* never sent to the other one */
    assert_int_equal(CALL(sink, r, mkdirs, "/d"), 0);
    close_sink(sink);
    server_stop(&a);
    server_stop(&b);
}

/* Takes the place of libc's: a name server that is away. */
__attribute__((visibility("default"))) int getaddrinfo(const char *node, const char *service,
                                                       const struct addrinfo *hints, struct addrinfo **out) {
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = NULL;
    if (node && strcmp(node, "slow.test") == 0) {
        usleep(2000000);
        return EAI_AGAIN;
    }
    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    return real(node, service, hints, out);
}

static uint64_t last_beat, longest_gap;

static void on_beat(uv_timer_t *timer) {
    (void)timer;
    uint64_t now = osync__mono_ms();
    if (now - last_beat > longest_gap) longest_gap = now - last_beat;
    last_beat = now;
}

/* The loop goes on while a host's name can't be resolved, also when the time for it is over. */
static void web_slow_name_server_does_not_stop_the_loop(void **state) {
    (void)state;
    uv_timer_t beat;
    result_t r = {0};
    osync_sink_t *sink = NULL;
    osync_webhdfs_config_t config;
    osync_webhdfs_config_init(&config, sizeof config);
    config.address = "slow.test:9870";
    config.connect_timeout_ms = TIMEOUT_MS;
    assert_int_equal(osync_webhdfs_sink_new(&sink, &loop, &config, NULL), 0);
    uv_timer_init(&loop, &beat);
    uv_timer_start(&beat, on_beat, 10, 10);
    last_beat = osync__mono_ms();
    assert_int_equal(CALL(sink, r, mkdirs, "/d"), OSYNC_ETIMEOUT);
    on_beat(&beat);
    uv_close((uv_handle_t *)&beat, NULL);
    close_sink(sink);
    assert_in_range(longest_gap, 0, 1000);
}

static void web_abort_and_close_cancel(void **state) {
    (void)state;
    static const step_t steps[] = {
        {REPLY, LOCATE_F, "200 OK", LOCATION("")}, {HANG, "CREATE", "", ""}, {HANG, "webhdfs", "", ""}};
    server_t server;
    result_t r = {0}, fin = {0}, mk = {0};
    osync_sink_file_t *f = NULL;
    aborter_t b = {0};
    osync_error_t err;
    server_start(&server, steps, 3);
    osync_sink_t *sink = web_sink(server.address, 60000);
    assert_int_equal(CALL(sink, r, create, F, &f), 0);
    assert_int_equal(f->sink->ops->finish(f, got, &fin), 0);
    while (server.seen < 2) uv_run(&loop, UV_RUN_NOWAIT); /* the DataNode has the request */
    assert_int_equal(ABORT(f, r), 0);
    assert_int_equal(fin.calls, 1);
    assert_int_equal(fin.status, OSYNC_ECANCELED);
    /* close: a file that is being located, whose callback aborts it, and a plain call; the server has one of the two
     * requests */
    assert_int_equal(sink->ops->create(sink, F, &b.file, abort_when_canceled, &b), 0);
    assert_int_equal(sink->ops->mkdirs(sink, "/d", got, &mk), 0);
    assert_int_equal(b.file->sink->ops->write(b.file, "x", 1, got, &r), OSYNC_EINVAL); /* one call at a time */
    while (server.seen < 3) uv_run(&loop, UV_RUN_NOWAIT);
    close_sink(sink);
    assert_int_equal(b.write.calls, 1);
    assert_int_equal(b.write.status, OSYNC_ECANCELED);
    assert_int_equal(b.abort.calls, 1);
    assert_int_equal(mk.calls, 1);
    assert_int_equal(mk.status, OSYNC_ECANCELED);
    shutdown(server.fd, SHUT_RDWR);
    pthread_join(server.thread, NULL);
    close(server.fd);
    osync_webhdfs_config_t config;
    osync_webhdfs_config_init(&config, sizeof config);
    config.address = "host/evil?x";
    assert_int_equal(osync_webhdfs_sink_new(&sink, &loop, &config, &err), OSYNC_ECONFIG);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    static const struct CMUnitTest tests[] = {
        T(file_stages_and_publishes),
        T(file_syncs_folders_it_did_not_make),
        T(file_fence_stops_the_old_owner),
        T(file_fence_waits_for_a_rename),
        T(file_labels),
        T(file_labels_of_every_size),
        T(label_parts_hold_every_byte),
        T(file_reads),
        T(file_removes_and_lists),
        T(file_many_at_once),
        T(file_abort_and_close_cancel),
        T(conf_values),
        T(conf_errors),
        T(conf_namenodes),
        T(web_rename_answers),
        T(web_other_answers),
        T(web_lists_in_pages),
        T(web_reads),
        T(web_classifies_every_answer_to_every_call),
        T(web_failures_cost_no_memory),
        T(web_writes),
        T(web_many_files_share_their_memory),
        T(web_refuses_wrong_locations),
        T(web_takes_a_redirect_of_create),
        T(web_dead_datanode),
        T(web_write_faults),
        T(web_refusal_and_reset),
        T(web_early_201),
        T(web_tries_the_next_namenode),
        T(web_leaves_a_silent_namenode),
        T(web_slow_name_server_does_not_stop_the_loop),
        T(web_abort_and_close_cancel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
