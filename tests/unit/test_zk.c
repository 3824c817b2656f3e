/* zk/zk.h against a real ZooKeeper, which tests/e2e/test_zk.py starts: OSYNC_TEST_ZK is its address, OSYNC_TEST_ZK_DIR
 * its folder, and OSYNC_TEST_ZK_RESTART the command that kills and restarts it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "zk/zk.h"

enum { SESSION_MS = 4000, WAIT_MS = 30000 };

/* ZooKeeper's library may leave behind what it owes to calls that are open when it is closed. */
const char *__lsan_default_suppressions(void);
__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void) {
    return "leak:libzookeeper_mt";
}

static const char *env(const char *name) {
    const char *value = getenv(name);
    if (!value || !*value)
        fail_msg("%s is not set: this program needs a ZooKeeper, run it with \"pytest tests/e2e/test_zk.py\"", name);
    return value;
}

/* One client on a loop of its own, and what came of its last call. */
typedef struct client {
    uv_loop_t loop;
    uv_timer_t timer;
    bool late;
    osync__zk_t *zk;
    int began, lost; /* on_session calls */
    int calls;       /* callbacks so far */
    int status;
    osync_error_t err;
    char data[256];
    size_t len;
    char names[256]; /* "a,b," */
    bool closed;
} client_t;

static void on_session(void *arg, bool connected) {
    client_t *c = arg;
    if (connected)
        c->began++;
    else
        c->lost++;
}

static void on_late(uv_timer_t *timer) {
    client_t *c = timer->data;
    c->late = true;
}

#define WAIT_FOR(c, condition)                                                                                         \
    do {                                                                                                               \
        (c)->late = false;                                                                                             \
        uv_timer_start(&(c)->timer, on_late, WAIT_MS, 0);                                                              \
        while (!(condition) && !(c)->late) uv_run(&(c)->loop, UV_RUN_ONCE);                                            \
        uv_timer_stop(&(c)->timer);                                                                                    \
        if (!(condition)) fail_msg("waited in vain for %s", #condition);                                               \
    } while (0)

static void begin_at(client_t *c, const char *cluster, const char *cert, uint32_t timeout_ms) {
    *c = (client_t){0};
    assert_int_equal(uv_loop_init(&c->loop), 0);
    uv_timer_init(&c->loop, &c->timer);
    c->timer.data = c;
    osync__zk_config_t config = {.cluster = cluster,
                                 .session_timeout_ms = timeout_ms,
                                 .auth_schema = "digest",
                                 .cert = cert,
                                 .on_session = on_session,
                                 .arg = c};
    assert_int_equal(osync__zk_new(&c->loop, &config, &c->zk, &c->err), 0);
    assert_false(osync__zk_connected(c->zk));
}

static void begin(client_t *c, const char *cert) {
    begin_at(c, env("OSYNC_TEST_ZK"), cert, SESSION_MS);
    WAIT_FOR(c, c->began == 1);
    assert_true(osync__zk_connected(c->zk));
}

static void on_closed(void *arg) {
    client_t *c = arg;
    c->closed = true;
}

/* What is left of the loop must be nothing: everything that zk made is gone. */
static void end(client_t *c) {
    osync__zk_close(c->zk, on_closed, c);
    assert_false(c->closed);
    WAIT_FOR(c, c->closed);
    uv_close((uv_handle_t *)&c->timer, NULL);
    uv_run(&c->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&c->loop), 0);
}

static void note(client_t *c, int status, const osync_error_t *err) {
    c->calls++;
    c->status = status;
    c->err = *err;
    assert_int_equal(err->code, status);
}

static void on_done(void *arg, int status, const osync_error_t *err) {
    note(arg, status, err);
}

static void on_data(void *arg, int status, const void *data, size_t len, const osync_error_t *err) {
    client_t *c = arg;
    note(c, status, err);
    assert_true(len < sizeof c->data);
    c->len = len;
    if (len) memcpy(c->data, data, len);
    c->data[len] = '\0';
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void on_names(void *arg, int status, const char *const *names, size_t n, const osync_error_t *err) {
    client_t *c = arg;
    const char *sorted[16];
    note(c, status, err);
    assert_true(n <= 16);
    for (size_t i = 0; i < n; i++) sorted[i] = names[i];
    qsort(sorted, n, sizeof *sorted, by_name);
    c->names[0] = '\0';
    for (size_t i = 0; i < n; i++) {
        strcat(c->names, sorted[i]);
        strcat(c->names, ",");
    }
}

/* Runs one call to its end: its callback comes once, and not from inside the call. */
#define RUN(c, call)                                                                                                   \
    ({                                                                                                                 \
        int calls_ = (c)->calls;                                                                                       \
        assert_int_equal((call), 0);                                                                                   \
        assert_int_equal((c)->calls, calls_);                                                                          \
        WAIT_FOR((c), (c)->calls != calls_);                                                                           \
        assert_int_equal((c)->calls, calls_ + 1);                                                                      \
        (c)->status;                                                                                                   \
    })

static int get(client_t *c, const char *path) {
    return RUN(c, osync__zk_get(c->zk, path, on_data, c));
}
static int list(client_t *c, const char *path) {
    return RUN(c, osync__zk_list(c->zk, path, on_names, c));
}
static int create(client_t *c, const char *path, const char *data, bool ephemeral) {
    return RUN(c, osync__zk_create(c->zk, path, data, strlen(data), ephemeral, on_done, c));
}
static int set(client_t *c, const char *path, const char *data) {
    return RUN(c, osync__zk_set(c->zk, path, data, strlen(data), on_done, c));
}
static int remove_node(client_t *c, const char *path) {
    return RUN(c, osync__zk_remove(c->zk, path, on_done, c));
}
static int reg(client_t *c, const char *path, const char *data) {
    return RUN(c, osync__zk_register(c->zk, path, data, strlen(data), on_done, c));
}

static void test_nodes(void **state) {
    client_t c;
    begin(&c, NULL);
    assert_int_equal(get(&c, "/nodes"), OSYNC_ENOENT);
    assert_non_null(strstr(c.err.message, "/nodes"));
    assert_int_equal(list(&c, "/nodes"), OSYNC_ENOENT);
    assert_int_equal(set(&c, "/nodes", "x"), OSYNC_ENOENT);
    assert_int_equal(remove_node(&c, "/nodes"), OSYNC_ENOENT);

    assert_int_equal(create(&c, "/nodes/deep/er/one", "first", false), 0);
    assert_int_equal(create(&c, "/nodes/deep/er/one", "other", false), OSYNC_EEXIST);
    assert_int_equal(create(&c, "/nodes/deep/two", "", false), 0);
    assert_int_equal(get(&c, "/nodes/deep/er/one"), 0);
    assert_string_equal(c.data, "first");
    assert_int_equal(get(&c, "/nodes/deep"), 0);
    assert_int_equal(c.len, 0);
    assert_int_equal(list(&c, "/nodes/deep"), 0);
    assert_string_equal(c.names, "er,two,");
    assert_int_equal(list(&c, "/nodes/deep/two"), 0);
    assert_string_equal(c.names, "");

    assert_int_equal(RUN(&c, osync__zk_set(c.zk, "/nodes/deep/two", "a\0b", 3, on_done, &c)), 0);
    assert_int_equal(get(&c, "/nodes/deep/two"), 0);
    assert_int_equal(c.len, 3);
    assert_memory_equal(c.data, "a\0b", 3);

    assert_int_equal(remove_node(&c, "/nodes/deep"), OSYNC_ECONFLICT);
    assert_int_equal(remove_node(&c, "/nodes/deep/two"), 0);
    assert_int_equal(get(&c, "/nodes/deep/two"), OSYNC_ENOENT);

    assert_int_equal(get(&c, "no-slash"), OSYNC_EINVAL);
    assert_int_equal(create(&c, "/nodes//x", "", false), OSYNC_EINVAL);
    assert_int_equal(osync__zk_set(c.zk, "/nodes", "", (1 << 20) + 1, on_done, &c), OSYNC_ETOOBIG);
    char address[64];
    assert_int_equal(osync__zk_local_address(c.zk, address, sizeof address), 0);
    assert_string_equal(address, "127.0.0.1");
    assert_int_equal(osync__zk_local_address(c.zk, address, 3), OSYNC_ECONN);
    end(&c);
}

static void test_many_calls_in_flight(void **state) {
    client_t c;
    begin(&c, NULL);
    assert_int_equal(create(&c, "/many", "m", false), 0);
    int before = c.calls;
    for (int i = 0; i < 1000; i++) assert_int_equal(osync__zk_get(c.zk, "/many", on_data, &c), 0);
    WAIT_FOR(&c, c.calls == before + 1000);
    assert_int_equal(c.status, 0);
    end(&c);
}

static void test_ephemeral_ends_with_its_client(void **state) {
    client_t a, b;
    begin(&a, NULL);
    begin(&b, NULL);
    assert_int_equal(create(&a, "/eph/gone", "x", true), 0);
    assert_int_equal(get(&b, "/eph/gone"), 0);
    end(&a);
    assert_int_equal(get(&b, "/eph/gone"), OSYNC_ENOENT);
    end(&b);
}

static void test_register(void **state) {
    client_t a, b;
    begin(&a, NULL);
    begin(&b, NULL);
    assert_int_equal(reg(&a, "/reg/host:1", "host:1"), 0);
    assert_int_equal(reg(&a, "/reg/host:1", "host:1"), 0); /* its own already */
    /* A new process of the same owner while the old session still counts as alive. */
    assert_int_equal(reg(&b, "/reg/host:1", "host:1"), 0);
    end(&a);
    assert_int_equal(get(&b, "/reg/host:1"), 0); /* b's now, so it doesn't go with a */
    assert_string_equal(b.data, "host:1");

    begin(&a, NULL);
    assert_int_equal(reg(&a, "/reg/host:1", "host:2"), OSYNC_EEXIST);
    assert_non_null(strstr(a.err.message, "other data"));
    assert_int_equal(create(&a, "/reg/fixed", "f", false), 0);
    assert_int_equal(reg(&a, "/reg/fixed", "f"), OSYNC_EEXIST);
    assert_non_null(strstr(a.err.message, "not ephemeral"));
    assert_int_equal(get(&a, "/reg/host:1"), 0);
    assert_string_equal(a.data, "host:1");
    end(&a);
    end(&b);
}

static void on_exit_status(uv_process_t *process, int64_t status, int signal_number) {
    int *out = process->data;
    *out = status || signal_number ? 1 : 0;
    uv_close((uv_handle_t *)process, NULL);
}

static void test_server_restart_keeps_the_session(void **state) {
    client_t c;
    int restarted = -1;
    uv_process_t process = {.data = &restarted};
    const char *argv[] = {"/bin/sh", "-c", env("OSYNC_TEST_ZK_RESTART"), NULL};
    uv_process_options_t options = {.file = argv[0], .args = (char **)(uintptr_t)argv, .exit_cb = on_exit_status};
    begin(&c, NULL);
    assert_int_equal(reg(&c, "/restart/me", "me"), 0);
    /* The loop runs meanwhile: a connection that is lost and found again while nobody looks is no news. */
    assert_int_equal(uv_spawn(&c.loop, &process, &options), 0);
    WAIT_FOR(&c, restarted >= 0);
    assert_int_equal(restarted, 0);
    WAIT_FOR(&c, c.lost == 1 && c.began == 2);
    assert_int_equal(reg(&c, "/restart/me", "me"), 0);
    assert_int_equal(get(&c, "/restart/me"), 0);
    end(&c);
}

/* Until the server counts no session any more. */
static void wait_until_no_session(const struct sockaddr_in *server) {
    for (int i = 0; i < 300; i++) {
        static char answer[65536];
        size_t len = 0;
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (const struct sockaddr *)server, sizeof *server) || write(fd, "cons", 4) != 4) _exit(1);
        for (ssize_t n; len < sizeof answer - 1 && (n = read(fd, answer + len, sizeof answer - 1 - len)) > 0;)
            len += (size_t)n;
        answer[len] = '\0';
        close(fd);
        if (!strstr(answer, "sid=")) return;
        usleep(50000);
    }
    _exit(2);
}

static struct sockaddr_in server_address(void) {
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    in.sin_port = htons((uint16_t)atoi(strchr(env("OSYNC_TEST_ZK"), ':') + 1));
    return in;
}

/* This process sleeps through its own session, as a swapped-out or suspended one does. */
static void lose_the_session(void) {
    struct sockaddr_in server = server_address();
    pid_t self = getpid(), child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        kill(self, SIGSTOP);
        wait_until_no_session(&server);
        kill(self, SIGCONT);
        _exit(0);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void test_expiry_begins_a_new_session_with_auth(void **state) {
    client_t c, stranger;
    begin_at(&c, env("OSYNC_TEST_ZK"), "osync:secret", 1000);
    WAIT_FOR(&c, c.began == 1);
    assert_int_equal(reg(&c, "/auth/me", "me"), 0);
    assert_int_equal(create(&c, "/auth/fixed", "f", false), 0);

    lose_the_session();
    WAIT_FOR(&c, c.lost == 1 && c.began == 2);
    assert_int_equal(get(&c, "/auth/me"), OSYNC_ENOENT);
    assert_int_equal(get(&c, "/auth/fixed"), 0); /* only the owner may read it */
    assert_int_equal(reg(&c, "/auth/me", "me"), 0);
    assert_int_equal(get(&c, "/auth/me"), 0);

    begin(&stranger, NULL);
    assert_int_equal(get(&stranger, "/auth/me"), OSYNC_EPERM);
    assert_int_equal(create(&stranger, "/auth/x", "x", false), OSYNC_EPERM);
    end(&stranger);
    begin(&stranger, "osync:wrong");
    assert_int_equal(get(&stranger, "/auth/me"), OSYNC_EPERM);
    end(&stranger);
    end(&c);
}

static pid_t server_pid(void) {
    char path[4096];
    snprintf(path, sizeof path, "%s/pid", env("OSYNC_TEST_ZK_DIR"));
    FILE *f = fopen(path, "r");
    int pid = 0;
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%d", &pid), 1);
    fclose(f);
    return pid;
}

static void resume_server(void) {
    kill(server_pid(), SIGCONT);
}

static bool all_threads_stopped(pid_t pid) {
    char path[128], state = 0;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    bool all = true;
    assert_non_null(tasks);
    for (struct dirent *e; (e = readdir(tasks));) {
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/stat", pid, e->d_name);
        FILE *f = fopen(path, "r");
        if (f && fscanf(f, "%*d (%*[^)]) %c", &state) == 1 && state != 'T') all = false;
        if (f) fclose(f);
    }
    closedir(tasks);
    return all;
}

/* A signal reaches each thread when it gets to run, so the server may answer for a moment longer. */
static void pause_server(void) {
    kill(server_pid(), SIGSTOP);
    while (!all_threads_stopped(server_pid())) usleep(1000);
}

static void test_silent_server_is_a_lost_connection(void **state) {
    client_t c;
    begin(&c, NULL);
    assert_int_equal(create(&c, "/silent", "", false), 0);
    pause_server();
    int status = get(&c, "/silent");
    resume_server();
    assert_int_equal(status, OSYNC_ECONN);
    WAIT_FOR(&c, osync__zk_connected(c.zk));
    assert_int_equal(get(&c, "/silent"), 0);
    end(&c);
}

static void test_calls_wait_for_the_first_connection(void **state) {
    client_t c;
    begin_at(&c, env("OSYNC_TEST_ZK"), NULL, SESSION_MS);
    osync__zk_create(c.zk, "/osync-test-early", "x", 1, true, on_done, &c);
    osync__zk_get(c.zk, "/osync-test-early", on_data, &c);
    assert_int_equal(c.calls, 0);
    WAIT_FOR(&c, c.calls == 2);
    assert_int_equal(c.status, 0);
    assert_string_equal(c.data, "x");
    end(&c);
}

static void test_close_cancels_calls_that_wait(void **state) {
    client_t c;
    begin_at(&c, "127.0.0.1:1", NULL, SESSION_MS);
    osync__zk_get(c.zk, "/", on_data, &c);
    osync__zk_create(c.zk, "/x", "x", 1, true, on_done, &c);
    end(&c);
    assert_int_equal(c.calls, 2);
    assert_int_equal(c.status, OSYNC_ECANCELED);
}

static void test_close_cancels_open_calls(void **state) {
    client_t c;
    begin(&c, NULL);
    pause_server();
    int before = c.calls;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(osync__zk_get(c.zk, "/", on_data, &c), 0);
        assert_int_equal(osync__zk_list(c.zk, "/", on_names, &c), 0);
        assert_int_equal(osync__zk_register(c.zk, "/cancel/me", "me", 2, on_done, &c), 0);
    }
    osync__zk_close(c.zk, on_closed, &c);
    int refused = osync__zk_get(c.zk, "/", on_data, &c);
    assert_false(osync__zk_connected(c.zk));
    assert_int_equal(c.calls, before);
    WAIT_FOR(&c, c.closed);
    resume_server();
    assert_int_equal(refused, OSYNC_ECLOSED);
    assert_int_equal(c.calls, before + 9);
    assert_int_equal(c.status, OSYNC_ECANCELED);
    assert_int_equal(c.lost, 0); /* the owner asked for it, so it isn't told */
    uv_close((uv_handle_t *)&c.timer, NULL);
    uv_run(&c.loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&c.loop), 0);
}

static void test_without_a_server(void **state) {
    client_t c;
    /* Port 1 refuses; the other name is reserved for never being known. */
    const char *const clusters[] = {"127.0.0.1:1", "nowhere.invalid:2181"};
    for (int i = 0; i < 2; i++) {
        begin_at(&c, clusters[i], NULL, SESSION_MS);
        assert_int_equal(get(&c, "/"), OSYNC_ECONN);
        assert_int_equal(reg(&c, "/x", "x"), OSYNC_ECONN);
        char address[64];
        assert_int_equal(osync__zk_local_address(c.zk, address, sizeof address), OSYNC_ECONN);
        end(&c);
        begin_at(&c, clusters[i], NULL, SESSION_MS);
        end(&c); /* while it is still opening */
        assert_int_equal(c.began, 0);
    }
    begin_at(&c, env("OSYNC_TEST_ZK"), NULL, SESSION_MS);
    end(&c);
    osync__zk_config_t config = {.cluster = "", .session_timeout_ms = SESSION_MS};
    assert_int_equal(osync__zk_new(&c.loop, &config, &c.zk, &c.err), OSYNC_EINVAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nodes),
        cmocka_unit_test(test_many_calls_in_flight),
        cmocka_unit_test(test_ephemeral_ends_with_its_client),
        cmocka_unit_test(test_register),
        cmocka_unit_test(test_server_restart_keeps_the_session),
        cmocka_unit_test(test_expiry_begins_a_new_session_with_auth),
        cmocka_unit_test(test_silent_server_is_a_lost_connection),
        cmocka_unit_test(test_calls_wait_for_the_first_connection),
        cmocka_unit_test(test_close_cancels_calls_that_wait),
        cmocka_unit_test(test_close_cancels_open_calls),
        cmocka_unit_test(test_without_a_server),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
