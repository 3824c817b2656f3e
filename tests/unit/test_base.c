/* The base: errors, buffers, files, checksums, the worker pool. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/config.h"
#include "base/error.h"
#include "base/pool.h"
#include "base/sys.h"
#include "osync/alloc.h"

static void test_errors(void **state) {
    osync_error_t err = {0}, outer = {0};
    (void)state;
    assert_int_equal(osync__err_errno(&err, ENOENT, "open %s", "/x"), OSYNC_ENOENT);
    assert_string_equal(err.message, "open /x: No such file or directory");
    assert_int_equal(osync__err_wrap(&outer, &err, "table %d", 7), OSYNC_ENOENT);
    assert_string_equal(outer.message, "table 7: open /x: No such file or directory");
    assert_int_equal(osync__err_wrap(&err, &err, "itself"), OSYNC_ENOENT);
    assert_string_equal(err.message, "itself: open /x: No such file or directory");
    assert_string_equal(osync_err_name(OSYNC_EXDEV), "OSYNC_EXDEV");
    assert_string_equal(osync_strerror(OSYNC_EXDEV), "Invalid cross-device link");
    assert_true(osync_err_retriable(OSYNC_ECONN));
    assert_false(osync_err_retriable(OSYNC_ECORRUPT));
    assert_non_null(osync_strerror(12345));

    char longer[3000];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    osync__err(&err, OSYNC_EIO, "%s", longer);
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    osync__err_wrap(&err, &err, "%s", "more");
    assert_memory_equal(err.message, "more: xxx", 9);
}

typedef struct seen {
    int n;
    char last[256];
} seen_t;

static void on_log(osync_log_level_t level, const char *message, void *arg) {
    seen_t *s = arg;
    (void)level;
    s->n++;
    (void)snprintf(s->last, sizeof s->last, "%s", message);
}

static void test_log(void **state) {
    seen_t s = {0};
    (void)state;
    osync_log_set(on_log, &s, OSYNC_LOG_WARN);
    osync__log(OSYNC_LOG_INFO, "not this");
    assert_int_equal(s.n, 0);
    osync__log(OSYNC_LOG_ERROR, "one\nline\r%d", 5);
    assert_string_equal(s.last, "one line 5");
    osync_log_set(NULL, NULL, OSYNC_LOG_INFO);
    osync__log(OSYNC_LOG_ERROR, "nobody");
    assert_int_equal(s.n, 1);
}

static void test_buf(void **state) {
    osync__buf_t b = {0};
    (void)state;
    assert_int_equal(osync__buf_append(&b, "hello ", 6), 0);
    assert_int_equal(osync__buf_printf(&b, "%d-%s", 42, "x"), 0);
    assert_int_equal(b.len, 10);
    assert_memory_equal(b.data, "hello 42-x", 10);
    osync__buf_consume(&b, 6);
    assert_memory_equal(b.data, "42-x", 4);
    osync__buf_consume(&b, 100);
    assert_int_equal(b.len, 0);
    assert_int_equal(osync__buf_reserve(&b, SIZE_MAX - 1), OSYNC_ENOMEM);
    osync__buf_free(&b);
    osync__buf_free(&b);
}

/* An option struct as three versions of the library have it. */
typedef struct older {
    size_t size;
    uint64_t first;
} older_t;
typedef struct present {
    size_t size;
    uint64_t first, second;
} present_t;
typedef struct newer {
    size_t size;
    uint64_t first, second, third;
} newer_t;

static void test_option_structs_of_other_versions(void **state) {
    const present_t defaults = {.first = 1, .second = 2};
    osync_error_t err = {0};
    (void)state;

    struct {
        older_t config;
        uint64_t beyond;
    } program = {.beyond = 99};
    osync__config_init(&program.config, sizeof program.config, &defaults, sizeof defaults);
    assert_int_equal(program.config.size, sizeof program.config);
    assert_int_equal(program.config.first, 1);
    assert_int_equal(program.beyond, 99);
    program.config.first = 11;
    present_t own = defaults;
    assert_int_equal(osync__config_take(&own, sizeof own, &program.config, "x_init", &err), 0);
    assert_int_equal(own.size, sizeof own);
    assert_int_equal(own.first, 11);
    assert_int_equal(own.second, 2);

    newer_t newer;
    memset(&newer, 0xff, sizeof newer);
    osync__config_init(&newer, sizeof newer, &defaults, sizeof defaults);
    assert_int_equal(newer.size, sizeof newer);
    assert_int_equal(newer.second, 2);
    assert_int_equal(newer.third, 0);
    newer.second = 22;
    own = defaults;
    assert_int_equal(osync__config_take(&own, sizeof own, &newer, "x_init", &err), 0);
    assert_int_equal(own.second, 22);
    assert_int_equal(own.size, sizeof own);
    newer.third = 1;
    assert_int_equal(osync__config_take(&own, sizeof own, &newer, "x_init", &err), OSYNC_ENOTSUP);
    assert_non_null(strstr(err.message, "built with a newer one"));

    const present_t zeroed = {0}, absurd = {.size = SIZE_MAX};
    assert_int_equal(osync__config_take(&own, sizeof own, &zeroed, "x_init", &err), OSYNC_EINVAL);
    assert_non_null(strstr(err.message, "call x_init first"));
    assert_int_equal(osync__config_take(&own, sizeof own, &absurd, "x_init", &err), OSYNC_EINVAL);
    own = defaults;
    assert_int_equal(osync__config_take(&own, sizeof own, NULL, "x_init", &err), 0);
    assert_int_equal(own.second, 2);
}

static void test_allocator_is_whole(void **state) {
    (void)state;
    assert_int_equal(osync_alloc_set(malloc, calloc, realloc, NULL), OSYNC_EINVAL);
    assert_int_equal(osync_alloc_set(NULL, calloc, realloc, free), OSYNC_EINVAL);
    assert_int_equal(osync_alloc_set(malloc, calloc, realloc, free), 0);
}

static void test_crc32c(void **state) {
    (void)state;
    assert_int_equal(osync__crc32c(0, "123456789", 9), 0xe3069283); /* the check value of CRC-32C */
    assert_int_equal(osync__crc32c(osync__crc32c(0, "1234", 4), "56789", 5), 0xe3069283);
    assert_int_equal(osync__crc32c(0, "\x05", 1), 0x678c474d); /* a binlog's end-of-file record */
    assert_int_equal(osync__crc32c(0, "", 0), 0);
}

static void test_files(void **state) {
    char dir[] = "/tmp/osync-base-XXXXXX", path[64], link_path[64];
    osync_error_t err = {0};
    osync__buf_t b = {0};
    struct stat st;
    (void)state;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof path, "%s/a/b", dir);
    assert_int_equal(osync__mkdirs(path, &err), 0);
    assert_int_equal(osync__mkdirs(path, &err), 0);
    (void)snprintf(path, sizeof path, "%s/a/b/file", dir);
    assert_int_equal(osync__write_file(path, "first", 5, &err), 0);
    assert_int_equal(osync__write_file(path, "other", 5, &err), 0);
    assert_int_equal(osync__read_file(path, 5, &b, &err), 0);
    assert_string_equal((char *)b.data, "other");
    b.len = 0;
    assert_int_equal(osync__read_file(path, 4, &b, &err), OSYNC_ETOOBIG);
    assert_non_null(strstr(err.message, "file is larger than the limit of 4 bytes"));
    assert_int_equal(osync__mkdirs(path, &err), OSYNC_EEXIST);

    /* A link that leads out is removed, not followed. */
    (void)snprintf(link_path, sizeof link_path, "%s/a/link", dir);
    assert_int_equal(symlink("/tmp", link_path), 0);
    (void)snprintf(path, sizeof path, "%s/a", dir);
    assert_int_equal(osync__rmtree(path, &err), 0);
    assert_int_equal(stat("/tmp", &st), 0);
    assert_int_equal(stat(path, &st), -1);
    assert_int_equal(osync__rmtree(dir, &err), 0);
    assert_int_equal(osync__rmtree(dir, &err), 0);
    osync__buf_free(&b);
}

static void test_random(void **state) {
    char a[33], b[33], uuid[37];
    (void)state;
    osync__random_hex(a, 16);
    osync__random_hex(b, 16);
    assert_int_equal(strlen(a), 32);
    assert_string_not_equal(a, b);
    osync__random_uuid(uuid);
    assert_int_equal(strlen(uuid), 36);
    assert_int_equal(uuid[14], '4');
}

enum { JOBS = 1000 };

typedef struct work {
    osync__job_t job;
    uv_thread_t *loop_thread;
    int worked, done, *finished;
    osync__pool_t *pool;
    struct work *follow; /* submitted from done */
} work_t;

static void on_work(osync__job_t *job) {
    work_t *w = job->arg;
    uv_thread_t self = uv_thread_self();
    w->worked += uv_thread_equal(&self, w->loop_thread) ? 1000 : 1;
}

static void on_done(osync__job_t *job) {
    work_t *w = job->arg;
    uv_thread_t self = uv_thread_self();
    assert_true(uv_thread_equal(&self, w->loop_thread));
    w->done++;
    ++*w->finished;
    if (w->follow) osync__pool_submit(w->pool, &w->follow->job);
}

static void on_closed(void *arg) {
    *(bool *)arg = true;
}

static void test_pool(void **state) {
    uv_loop_t loop;
    uv_thread_t self = uv_thread_self();
    osync__pool_t *pool;
    osync_error_t err = {0};
    bool closed = false;
    int finished = 0;
    (void)state;
    work_t *w = calloc(JOBS, sizeof *w);
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(osync__pool_new(&loop, 3, &pool, &err), 0);
    for (int i = 0; i < JOBS; i++) {
        w[i] = (work_t){.loop_thread = &self, .finished = &finished, .pool = pool};
        w[i].job = (osync__job_t){.work = on_work, .done = on_done, .arg = &w[i]};
    }
    for (int i = 0; i < JOBS / 2; i++) {
        w[i].follow = &w[JOBS / 2 + i];
        osync__pool_submit(pool, &w[i].job);
    }
    uv_run(&loop, UV_RUN_DEFAULT); /* ends when nothing is under way */
    assert_int_equal(finished, JOBS);
    for (int i = 0; i < JOBS; i++) assert_true(w[i].worked == 1 && w[i].done == 1);

    /* What is queued at the close is done first. */
    for (int i = JOBS / 2; i < JOBS; i++) osync__pool_submit(pool, &w[i].job);
    osync__pool_close(pool, on_closed, &closed);
    assert_false(closed);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_true(closed);
    assert_int_equal(finished, JOBS + JOBS / 2);
    assert_int_equal(uv_loop_close(&loop), 0);
    free(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_log),
        cmocka_unit_test(test_buf),
        cmocka_unit_test(test_crc32c),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_pool),
        cmocka_unit_test(test_option_structs_of_other_versions),
        cmocka_unit_test(test_allocator_is_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
