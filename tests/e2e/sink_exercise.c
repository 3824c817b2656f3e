/* The WebHDFS sink against the HDFS of HADOOP_CONF_DIR, one scenario a run: `sink_exercise SCENARIO`.
 * tests/e2e/test_sink_hdfs.py starts it and looks at the files from outside. Exits 0 if everything was as promised,
 * else says what wasn't. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "osync/sink.h"

#define CHUNK ((size_t)1 << 20)

static uv_loop_t loop;
static osync_sink_t *sink;

/* What the last callback said. */
static struct {
    int done, status;
    char message[1100];
    osync_sink_stat_t stat;
    size_t n_names, len;
    char names[4000][64];
    unsigned char label[1 << 16];
    unsigned char *bytes; /* of a read */
} last;

static void got(void *arg, int status, const osync_error_t *err) {
    (void)arg;
    last.done = 1;
    last.status = status;
    (void)snprintf(last.message, sizeof last.message, "%s", err ? err->message : "success");
    uv_stop(&loop);
}

static void got_stat(void *arg, int status, const osync_sink_stat_t *stat, const osync_error_t *err) {
    got(arg, status, err);
    if (stat) last.stat = *stat;
}

static void got_label(void *arg, int status, const void *label, size_t len, const osync_error_t *err) {
    got(arg, status, err);
    last.len = len;
    if (len) memcpy(last.label, label, len);
}

static void got_list(void *arg, int status, const char *const *names, size_t n, const osync_error_t *err) {
    got(arg, status, err);
    last.n_names = n;
    for (size_t i = 0; i < n && i < 4000; i++) (void)snprintf(last.names[i], sizeof last.names[i], "%s", names[i]);
}

static void got_read(void *arg, int status, const void *data, size_t len, const osync_error_t *err) {
    got(arg, status, err);
    last.len = len;
    free(last.bytes);
    last.bytes = len ? malloc(len) : NULL;
    if (last.bytes) memcpy(last.bytes, data, len);
}

static int wait_for(int rc) {
    if (rc) {
        (void)snprintf(last.message, sizeof last.message, "%s", osync_strerror(rc));
        return rc;
    }
    while (!last.done) uv_run(&loop, UV_RUN_DEFAULT);
    return last.status;
}

#define CALL(op, ...)        (last.done = 0, wait_for(sink->ops->op(sink, __VA_ARGS__, got, NULL)))
#define STAT(path)           (last.done = 0, wait_for(sink->ops->stat(sink, path, got_stat, NULL)))
#define LIST(path)           (last.done = 0, wait_for(sink->ops->list(sink, path, got_list, NULL)))
#define LABEL(path)          (last.done = 0, wait_for(sink->ops->get_label(sink, path, got_label, NULL)))
#define READ(path, at, n)    (last.done = 0, wait_for(sink->ops->read(sink, path, at, n, got_read, NULL)))
#define WRITE(file, data, n) (last.done = 0, wait_for(sink->ops->write(file, data, n, got, NULL)))
#define FINISH(file)         (last.done = 0, wait_for(sink->ops->finish(file, got, NULL)))
#define ABORT(file)          (last.done = 0, sink->ops->abort(file, got, NULL), wait_for(0))

static void check(int line, const char *what, int ok) {
    if (ok) return;
    fprintf(stderr, "sink_exercise.c:%d: not so: %s (last: %s, %s)\n", line, what, osync_err_name(last.status),
            last.message);
    exit(1);
}
#define IS(status, call) check(__LINE__, #call " is " #status, (call) == (status))
#define TRUE(what)       check(__LINE__, #what, (what))

static int put(const char *path, const char *text) {
    osync_sink_file_t *f;
    int rc = CALL(create, path, &f);
    if (!rc) rc = WRITE(f, text, strlen(text));
    int end = FINISH(f);
    return rc ? rc : end;
}

/* A put that must be refused. A DataNode that refuses closes the connection without reading what was sent, and if that
 * meets a send before its answer was read, all that is known is that the connection broke (which delivery takes for
 * "unknown"). */
static int put_refused(const char *path, const char *text) {
    int rc = put(path, text);
    for (int i = 0; i < 50 && rc == OSYNC_ECONN; i++) rc = put(path, text);
    return rc;
}

/* 300 MiB through one file; what is resident must not grow with it. */
static void stream(void) {
    struct rusage before, after;
    osync_sink_file_t *f;
    char *chunk = malloc(CHUNK);
    IS(0, CALL(mkdirs, "/stream"));
    IS(0, CALL(create, "/stream/big", &f));
    for (int i = 0; i < 300; i++) {
        memset(chunk, i, CHUNK);
        if (i == 20) getrusage(RUSAGE_SELF, &before);
        IS(0, WRITE(f, chunk, CHUNK));
    }
    getrusage(RUSAGE_SELF, &after);
    IS(0, FINISH(f));
    IS(0, STAT("/stream/big"));
    TRUE(last.stat.length == 300 * CHUNK);
    for (size_t i = 0; i < 300; i += 8) { /* and back */
        size_t n = 300 - i < 8 ? 300 - i : 8;
        IS(0, READ("/stream/big", i * CHUNK, 8 * CHUNK));
        TRUE(last.len == n * CHUNK);
        for (size_t k = 0; k < n; k++) TRUE(last.bytes[k * CHUNK] == (unsigned char)(i + k));
    }
    printf("resident grew by %ld KiB from 20 to 300 MiB, %ld MiB in all\n", after.ru_maxrss - before.ru_maxrss,
           after.ru_maxrss / 1024);
    TRUE(after.ru_maxrss - before.ru_maxrss < 16 * 1024);
    free(chunk);
}

static void promises(void) {
    static unsigned char label[1 << 16];
    static const char odd[] = "/p/ö %+&=;#?'\"x\\y";
    osync_sink_file_t *f;
    char path[128], *chunk = calloc(1, CHUNK);
    for (size_t i = 0; i < sizeof label; i++) label[i] = (unsigned char)(i * 31 >> 3);
    IS(0, CALL(remove, "/p", true));
    IS(0, CALL(mkdirs, "/p/i1"));
    IS(0, CALL(mkdirs, "/p/i1"));
    IS(0, put("/p/i1/t", "hello\n"));
    IS(OSYNC_EEXIST, put_refused("/p/i1/t", "again"));
    IS(OSYNC_ENOENT, put_refused("/p/none/t", "x")); /* parents are never made */
    IS(OSYNC_ENOENT, STAT("/p/none"));
    IS(OSYNC_ENOENT, LABEL("/p/i1/t"));
    IS(0, CALL(set_label, "/p/i1/t", label, sizeof label));
    IS(0, CALL(barrier, "/p/i1/t"));
    IS(0, STAT("/p/i1/t"));
    unsigned long long id = last.stat.file_id;
    TRUE(last.stat.length == 6 && !last.stat.is_dir && id > 0);
    IS(0, CALL(rename, "/p/i1/t", "/p/final"));
    IS(0, LABEL("/p/final"));
    TRUE(last.len == sizeof label && memcmp(last.label, label, sizeof label) == 0);
    IS(0, STAT("/p/final"));
    TRUE(last.stat.file_id == id);
    (void)snprintf(path, sizeof path, "/.reserved/.inodes/%llu", id);
    IS(0, STAT(path));
    TRUE(last.stat.file_id == id);
    IS(OSYNC_ENOENT, CALL(rename, "/p/i1/t", "/p/final")); /* source missing */
    IS(0, READ("/p/final", 0, CHUNK));
    TRUE(last.len == 6 && memcmp(last.bytes, "hello\n", 6) == 0);
    IS(0, READ("/p/final", 2, 3));
    TRUE(last.len == 3 && memcmp(last.bytes, "llo", 3) == 0);
    IS(0, READ("/p/final", 6, 3)); /* its end */
    TRUE(last.len == 0);
    IS(0, READ("/p/final", 1000, 3));
    TRUE(last.len == 0);
    IS(OSYNC_ENOENT, READ("/p/none", 0, 3));
    IS(OSYNC_ENOENT, READ("/p", 0, 3));
    IS(0, put("/p/i1/empty", ""));
    IS(0, READ("/p/i1/empty", 0, 3));
    TRUE(last.len == 0);
    IS(0, CALL(remove, "/p/i1/empty", false));
    IS(0, put("/p/i1/t2", "two"));
    IS(0, CALL(set_label, "/p/i1/t2", "short", 5));
    IS(0, LABEL("/p/i1/t2"));
    TRUE(last.len == 5 && memcmp(last.label, "short", 5) == 0);
    IS(OSYNC_EEXIST, CALL(rename, "/p/i1/t2", "/p/final"));
    IS(0, CALL(mkdirs, "/p/folder"));
    IS(OSYNC_EEXIST, CALL(rename, "/p/i1/t2", "/p/folder")); /* never into a folder */
    IS(OSYNC_ENOENT, CALL(rename, "/p/i1/t2", "/p/none/x"));
    IS(OSYNC_EINVAL, CALL(mkdirs, "/p/a:b"));
    /* the fence */
    IS(0, CALL(create, "/p/i1/running", &f));
    for (int i = 0; i < 16; i++) IS(0, WRITE(f, chunk, CHUNK)); /* more than sockets hold: the DataNode has it open */
    IS(0, CALL(rename, "/p/i1", "/p/i1.fenced"));
    IS(OSYNC_ENOENT, CALL(rename, "/p/i1/t2", "/p/stolen"));
    IS(OSYNC_ENOENT, CALL(set_label, "/p/i1/t2", "x", 1));
    IS(OSYNC_ENOENT, CALL(barrier, "/p/i1"));
    IS(OSYNC_ENOENT, put_refused("/p/i1/t3", "x"));
    (void)FINISH(f); /* it may end well, in the tomb; its path shows that it isn't staged */
    IS(OSYNC_ENOENT, STAT("/p/i1/running"));
    IS(0, put("/p/i1", "")); /* a file in its place keeps a late MKDIRS out */
    TRUE(CALL(mkdirs, "/p/i1") != 0);
    IS(OSYNC_ENOENT, put_refused("/p/i1/t4", "x"));
    IS(0, LIST("/p/i1.fenced"));
    TRUE(last.n_names == 2 && strcmp(last.names[0], "running") == 0 && strcmp(last.names[1], "t2") == 0);
    IS(OSYNC_ENOENT, LIST("/p/final"));
    IS(OSYNC_ENOENT, LIST("/p/none"));
    IS(OSYNC_EEXIST, CALL(remove, "/p/i1.fenced", false));
    IS(0, CALL(remove, "/p/i1.fenced", true));
    IS(0, CALL(remove, "/p/i1.fenced", true));
    IS(OSYNC_ENOENT, STAT("/p/i1.fenced"));
    /* names that need encoding */
    IS(0, CALL(mkdirs, odd));
    (void)snprintf(path, sizeof path, "%s/%s", odd, odd + 3);
    IS(0, put(path, "odd"));
    IS(0, STAT(path));
    TRUE(last.stat.length == 3);
    IS(0, READ(path, 1, 2));
    TRUE(last.len == 2 && memcmp(last.bytes, "dd", 2) == 0);
    IS(0, LIST(odd));
    TRUE(last.n_names == 1 && strcmp(last.names[0], odd + 3) == 0);
    (void)snprintf(path, sizeof path, "%s/t", odd);
    IS(0, put(path, "t"));
    IS(0, CALL(rename, path, "/p/ö +%25"));
    IS(0, STAT("/p/ö +%25"));
    free(chunk);
}

/* A folder of several pages. */
static void many(void) {
    char path[64];
    IS(0, CALL(mkdirs, "/many"));
    for (int i = 0; i < 2500; i++) {
        (void)snprintf(path, sizeof path, "/many/%s%04d", i % 7 ? "" : "é", i);
        IS(0, CALL(mkdirs, path));
    }
    IS(0, LIST("/many"));
    TRUE(last.n_names == 2500);
    for (size_t i = 1; i < last.n_names; i++) TRUE(strcmp(last.names[i - 1], last.names[i]) < 0);
    IS(0, CALL(remove, "/many", true));
}

/* Says "writing", and then goes on until the write fails, as it must when the DataNode is killed. */
static void killed(void) {
    osync_sink_file_t *f;
    char *chunk = calloc(1, CHUNK);
    int status = 0;
    IS(0, CALL(mkdirs, "/killed"));
    IS(0, CALL(create, "/killed/f", &f));
    for (int i = 0; i < 4 && !status; i++) status = WRITE(f, chunk, CHUNK);
    TRUE(status == 0);
    printf("writing\n");
    fflush(stdout);
    while (!status) status = WRITE(f, chunk, CHUNK);
    printf("%s: %s\n", osync_err_name(status), last.message);
    TRUE(status != OSYNC_ENOENT && status != OSYNC_EEXIST && osync_err_retriable(status));
    IS(status, FINISH(f));
    free(chunk);
}

static void closed(void *arg) {
    *(int *)arg = 1;
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } scenarios[] = {{"stream", stream}, {"promises", promises}, {"many", many}, {"killed", killed}};
    osync_webhdfs_config_t config;
    osync_error_t err;
    int done = 0;
    uv_loop_init(&loop);
    osync_webhdfs_config_init(&config, sizeof config);
    config.user = "root";
    config.request_timeout_ms = 20000;
    if (osync_webhdfs_sink_new(&sink, &loop, &config, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    for (size_t i = 0; argc == 2 && i < sizeof scenarios / sizeof scenarios[0]; i++)
        if (strcmp(argv[1], scenarios[i].name) == 0) scenarios[i].run();
    sink->ops->close(sink, closed, &done);
    while (uv_run(&loop, UV_RUN_DEFAULT)) {
    }
    TRUE(done);
    TRUE(uv_loop_close(&loop) == 0);
    return 0;
}
