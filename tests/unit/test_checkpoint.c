/* What the SQLite checkpoint store promises: compare-and-set, each request its own outcome, one process, durability. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/sys.h"
#include "osync/checkpoint.h"

typedef struct fixture {
    uv_loop_t loop;
    char dir[64], path[128];
    osync_checkpoint_t *store;
} fixture_t;

typedef struct result {
    int calls, status;
    char message[sizeof(osync_error_t)];
    char text[4096]; /* a value, or "key=value;" of each entry */
    size_t len;
} result_t;

static void note(result_t *r, int status, const osync_error_t *err) {
    r->calls++;
    r->status = status;
    assert_int_equal(status == 0, err == NULL);
    if (err) {
        assert_int_equal(err->code, status);
        snprintf(r->message, sizeof r->message, "%s", err->message);
    }
}
static void on_cas(void *arg, int status, const osync_error_t *err) {
    note(arg, status, err);
}
static void on_get(void *arg, int status, const void *value, size_t len, const osync_error_t *err) {
    result_t *r = arg;
    note(r, status, err);
    assert_true(len < sizeof r->text);
    if (len) memcpy(r->text, value, len);
    r->text[len] = 0;
    r->len = len;
}
static void on_list(void *arg, int status, const osync_checkpoint_entry_t *entries, size_t n,
                    const osync_error_t *err) {
    result_t *r = arg;
    note(r, status, err);
    size_t at = 0;
    r->text[0] = 0;
    for (size_t i = 0; i < n; i++)
        at += (size_t)snprintf(r->text + at, sizeof r->text - at, "%s=%.*s;", entries[i].key, (int)entries[i].len,
                               (const char *)entries[i].value);
    r->len = n;
}
static void on_close(void *arg) {
    *(bool *)arg = true;
}

static void open_store(fixture_t *f) {
    osync_error_t err = {0};
    if (osync_sqlite_checkpoint_new(&f->store, &f->loop, f->path, &err)) fail_msg("%s", err.message);
}
static void close_store(fixture_t *f) {
    bool closed = false;
    f->store->ops->close(f->store, on_close, &closed);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_true(closed);
    f->store = NULL;
}
static int setup(void **state) {
    fixture_t *f = calloc(1, sizeof *f);
    assert_non_null(f);
    uv_loop_init(&f->loop);
    snprintf(f->dir, sizeof f->dir, "/tmp/osync-checkpoint-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->path, sizeof f->path, "%s/a/b/checkpoint.db", f->dir);
    open_store(f);
    *state = f;
    return 0;
}
static int teardown(void **state) {
    fixture_t *f = *state;
    if (f->store) close_store(f);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    osync__rmtree(f->dir, NULL);
    free(f);
    return 0;
}

static int cas(fixture_t *f, const char *key, const char *expected, const char *value, result_t *out) {
    result_t local = {0};
    result_t *r = out ? out : &local;
    memset(r, 0, sizeof *r);
    int rc = f->store->ops->cas(f->store, key, expected, expected ? strlen(expected) : 0, value,
                                value ? strlen(value) : 0, on_cas, r);
    assert_int_equal(rc, 0);
    assert_int_equal(r->calls, 0); /* never from inside the call */
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(r->calls, 1);
    return r->status;
}
static const char *get(fixture_t *f, const char *key) {
    static result_t r;
    memset(&r, 0, sizeof r);
    assert_int_equal(f->store->ops->get(f->store, key, on_get, &r), 0);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(r.calls, 1);
    if (r.status == OSYNC_ENOENT) return NULL;
    assert_int_equal(r.status, 0);
    return r.text;
}

static void test_compare_and_set(void **state) {
    fixture_t *f = *state;
    result_t r;
    assert_null(get(f, "k"));
    assert_int_equal(cas(f, "k", "old", "new", NULL), OSYNC_ECONFLICT); /* it isn't there */
    assert_int_equal(cas(f, "k", NULL, "one", NULL), 0);
    assert_int_equal(cas(f, "k", NULL, "two", &r), OSYNC_ECONFLICT);
    assert_non_null(strstr(r.message, "k holds another value"));
    assert_int_equal(cas(f, "k", "on", "two", NULL), OSYNC_ECONFLICT); /* the whole value counts */
    assert_int_equal(cas(f, "k", "onex", "two", NULL), OSYNC_ECONFLICT);
    assert_string_equal(get(f, "k"), "one");
    assert_int_equal(cas(f, "k", "one", "", NULL), 0);
    assert_string_equal(get(f, "k"), "");
    assert_int_equal(cas(f, "k", NULL, "two", NULL), OSYNC_ECONFLICT); /* empty isn't absent */
    assert_int_equal(cas(f, "k", "", "two", NULL), 0);
    assert_int_equal(cas(f, "k", "one", NULL, NULL), OSYNC_ECONFLICT);
    assert_int_equal(cas(f, "k", NULL, NULL, NULL), OSYNC_ECONFLICT);
    assert_string_equal(get(f, "k"), "two");
    assert_int_equal(cas(f, "k", "two", NULL, NULL), 0);
    assert_null(get(f, "k"));
    assert_int_equal(cas(f, "k", NULL, NULL, NULL), 0);
}

static void test_list(void **state) {
    fixture_t *f = *state;
    const char *keys[] = {"part/b/1", "part/a/2", "part/a/10", "parts", "part", "task/a", "part/a0"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        assert_int_equal(cas(f, keys[i], NULL, keys[i] + 1, NULL), 0);
    result_t r = {0};
    f->store->ops->list(f->store, "part/a/", on_list, &r);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_string_equal(r.text, "part/a/10=art/a/10;part/a/2=art/a/2;");
    f->store->ops->list(f->store, "", on_list, &r);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(r.len, 7);
    f->store->ops->list(f->store, "nothing", on_list, &r);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(r.len, 0);
    assert_int_equal(r.status, 0);
}

/* Many at once: of those that expect the same value exactly one wins, in order, whatever transaction they share. */
static void test_group(void **state) {
    fixture_t *f = *state;
    enum { N = 200 };
    static result_t r[N];
    memset(r, 0, sizeof r);
    for (int i = 0; i < N; i++) {
        char key[16], value[16];
        snprintf(key, sizeof key, "k%d", i / 2);
        snprintf(value, sizeof value, "v%d", i);
        assert_int_equal(f->store->ops->cas(f->store, key, NULL, 0, value, strlen(value), on_cas, &r[i]), 0);
        memset(value, 'x', sizeof value); /* it was copied */
    }
    uv_run(&f->loop, UV_RUN_DEFAULT);
    for (int i = 0; i < N; i++) {
        assert_int_equal(r[i].calls, 1);
        assert_int_equal(r[i].status, i % 2 ? OSYNC_ECONFLICT : 0);
    }
    assert_string_equal(get(f, "k7"), "v14");
}

static void test_durable(void **state) {
    fixture_t *f = *state;
    char binary[3] = {0, (char)0xff, 1};
    result_t r = {0};
    f->store->ops->cas(f->store, "bin", NULL, 0, binary, sizeof binary, on_cas, &r);
    close_store(f); /* finishes what is under way */
    assert_int_equal(r.calls, 1);
    assert_int_equal(r.status, 0);
    open_store(f);
    memset(&r, 0, sizeof r);
    f->store->ops->get(f->store, "bin", on_get, &r);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(r.len, 3);
    assert_memory_equal(r.text, binary, 3);
}

/* What was answered with 0 is there after SIGKILL. */
static void test_killed(void **state) {
    fixture_t *f = *state;
    close_store(f);
    pid_t pid = fork();
    if (pid == 0) {
        uv_loop_t loop;
        uv_loop_init(&loop);
        osync_checkpoint_t *s;
        result_t r = {0};
        if (osync_sqlite_checkpoint_new(&s, &loop, f->path, NULL)) _exit(1);
        s->ops->cas(s, "k", NULL, 0, "v", 1, on_cas, &r);
        uv_run(&loop, UV_RUN_DEFAULT);
        if (r.status != 0) _exit(2);
        kill(getpid(), SIGKILL);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    open_store(f);
    assert_string_equal(get(f, "k"), "v");
}

static void test_one_process(void **state) {
    fixture_t *f = *state;
    osync_checkpoint_t *other = NULL;
    osync_error_t err = {0};
    assert_int_equal(osync_sqlite_checkpoint_new(&other, &f->loop, f->path, &err), OSYNC_ECONFLICT);
    assert_non_null(strstr(err.message, f->path));
    pid_t pid = fork();
    if (pid == 0) {
        uv_loop_t loop;
        uv_loop_init(&loop);
        _exit(osync_sqlite_checkpoint_new(&other, &loop, f->path, NULL) == OSYNC_ECONFLICT ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(cas(f, "k", NULL, "v", NULL), 0); /* and the owner isn't disturbed */
}

static void test_wrong_files(void **state) {
    fixture_t *f = *state;
    close_store(f);
    osync_error_t err = {0};
    osync_checkpoint_t *s;
    sqlite3 *db;
    assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
    sqlite3_exec(db, "PRAGMA user_version = 7", NULL, NULL, NULL);
    sqlite3_close(db);
    assert_int_equal(osync_sqlite_checkpoint_new(&s, &f->loop, f->path, &err), OSYNC_ENOTSUP);
    assert_non_null(strstr(err.message, "version 7"));

    char text[5000];
    memset(text, 'x', sizeof text);
    snprintf(f->path, sizeof f->path, "%s/text", f->dir);
    assert_int_equal(osync__write_file(f->path, text, sizeof text, NULL), 0);
    assert_int_equal(osync_sqlite_checkpoint_new(&s, &f->loop, f->path, &err), OSYNC_ECORRUPT);
    assert_non_null(strstr(err.message, f->path));

    char below[192];
    snprintf(below, sizeof below, "%s/checkpoint.db", f->path); /* its folder is a file */
    assert_int_not_equal(osync_sqlite_checkpoint_new(&s, &f->loop, below, &err), 0);
    assert_non_null(strstr(err.message, below));
}

/* A service's folder may lie below one that it can pass, but not read. */
static void test_unreadable_parent(void **state) {
    fixture_t *f = *state;
    char above[160], own[180], path[200];
    snprintf(above, sizeof above, "%s/above", f->dir);
    snprintf(own, sizeof own, "%s/own", above);
    snprintf(path, sizeof path, "%s/checkpoint.db", own);
    assert_int_equal(mkdir(above, 0700) || mkdir(own, 0700), 0);
    if (geteuid() == 0) assert_int_equal(chown(own, 65534, 65534), 0);
    assert_int_equal(chmod(f->dir, 0711) || chmod(above, 0311), 0);
    pid_t pid = fork();
    if (pid == 0) {
        uv_loop_t loop;
        osync_error_t err = {0};
        osync_checkpoint_t *store;
        if (geteuid() == 0 && (setgid(65534) || setuid(65534))) _exit(2);
        uv_loop_init(&loop);
        int rc = osync_sqlite_checkpoint_new(&store, &loop, path, &err);
        if (rc) fprintf(stderr, "%s\n", err.message);
        _exit(rc ? 1 : 0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(chmod(above, 0700), 0);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_limits(void **state) {
    fixture_t *f = *state;
    result_t r = {0};
    char key[600];
    memset(key, 'k', sizeof key);
    key[513] = 0;
    assert_int_equal(f->store->ops->get(f->store, key, on_get, &r), OSYNC_ETOOBIG);
    key[512] = 0;
    assert_int_equal(f->store->ops->get(f->store, key, on_get, &r), 0);
    assert_int_equal(f->store->ops->get(f->store, "", on_get, &r), OSYNC_EINVAL);
    assert_int_equal(f->store->ops->get(f->store, "\xc3\xa4", on_get, &r), OSYNC_EINVAL);
    char *big = calloc(1, 1024 * 1024 + 1);
    assert_non_null(big);
    assert_int_equal(f->store->ops->cas(f->store, "k", NULL, 0, big, 1024 * 1024 + 1, on_cas, &r), OSYNC_ETOOBIG);
    assert_int_equal(f->store->ops->cas(f->store, "k", NULL, 0, big, 1024 * 1024, on_cas, &r), 0);
    free(big);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(r.calls, 2);
    assert_int_equal(r.status, 0);
}

/* A full disk is named, changes nothing, and is over when there is room again. */
static void test_full(void **state) {
    fixture_t *f = *state;
    assert_int_equal(cas(f, "k", NULL, "small", NULL), 0);
    struct result r = {0};
    struct sigaction ignore = {.sa_handler = SIG_IGN}, former;
    sigaction(SIGXFSZ, &ignore, &former);
    struct rlimit old, low;
    getrlimit(RLIMIT_FSIZE, &old);
    low = old;
    low.rlim_cur = 256 * 1024;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    char *big = malloc(1024 * 1024);
    assert_non_null(big);
    memset(big, 'b', 1024 * 1024);
    assert_int_equal(f->store->ops->cas(f->store, "k", "small", 5, big, 1024 * 1024, on_cas, &r), 0);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    setrlimit(RLIMIT_FSIZE, &old);
    sigaction(SIGXFSZ, &former, NULL);
    assert_int_equal(r.calls, 1);
    assert_true(r.status == OSYNC_EIO || r.status == OSYNC_ENOSPC);
    assert_non_null(strstr(r.message, f->path));
    assert_string_equal(get(f, "k"), "small");
    memset(&r, 0, sizeof r);
    assert_int_equal(f->store->ops->cas(f->store, "k", "small", 5, big, 1024 * 1024, on_cas, &r), 0);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(r.status, 0);
    free(big);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_compare_and_set, setup, teardown),
        cmocka_unit_test_setup_teardown(test_list, setup, teardown),
        cmocka_unit_test_setup_teardown(test_group, setup, teardown),
        cmocka_unit_test_setup_teardown(test_durable, setup, teardown),
        cmocka_unit_test_setup_teardown(test_killed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_process, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unreadable_parent, setup, teardown),
        cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
