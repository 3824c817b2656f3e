/* Configuration by names: gflags files, Java properties, single assignments, on a table of the test's; and the tables
 * of the daemons through the public calls. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "config/options.h"
#include "osync/config.h"

typedef struct settings {
    const char *name, *path;
    uint64_t bytes;
    uint32_t count, wait_ms, period_ms;
    int port;
} settings_t;

#define F(field) offsetof(settings_t, field)
static const osync__option_t table[] = {
    OSYNC__REQUIRED("name", F(name), "a name"),
    OSYNC__STRING("the_path", F(path), "a path"),
    OSYNC__BYTES("max.bytes", F(bytes), 1, 1ULL << 40, "bytes"),
    OSYNC__COUNT("count", F(count), 1, 256, "a count"),
    OSYNC__MS("wait_ms", F(wait_ms), 0, 0, 1, "a time"),
    OSYNC__MS("period", F(period_ms), 10, 0, 1000, "a time in seconds"),
    OSYNC__PORT("port", F(port), "a port"),
    OSYNC__UNUSED("enable_old", "there is nothing to enable"),
    OSYNC__OPTIONS_END,
};

typedef struct fixture {
    settings_t s;
    osync__options_t o;
    osync_error_t err;
    char dir[32], path[40], said[1024];
    int rc;
} fixture_t;

static void on_log(osync_log_level_t level, const char *message, void *arg) {
    fixture_t *f = arg;
    size_t len = strlen(f->said);
    snprintf(f->said + len, sizeof f->said - len, "%s\n", message);
}

static void start(fixture_t *f) {
    *f = (fixture_t){.dir = "/tmp/osync-config-XXXXXX"};
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->path, sizeof f->path, "%s/file", f->dir);
    f->o = (osync__options_t){
        .table = table, .others = "role zk_log_level v", .others_reason = "it is another's", .target = &f->s};
    osync_log_set(on_log, f, OSYNC_LOG_DEBUG);
}

static void stop(fixture_t *f) {
    osync_log_set(NULL, NULL, OSYNC_LOG_INFO);
    osync__options_free(&f->o);
    (void)unlink(f->path);
    (void)rmdir(f->dir);
}

static void write_file(fixture_t *f, const char *text) {
    FILE *file = fopen(f->path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

/* Reads a file of that text; f->said is what is logged meanwhile. */
static int read_file(fixture_t *f, int (*read_it)(osync__options_t *, const char *, osync_error_t *),
                     const char *text) {
    write_file(f, text);
    f->said[0] = 0;
    f->rc = read_it(&f->o, f->path, &f->err);
    return f->rc;
}

#define says(f, words)                                                                                                 \
    do {                                                                                                               \
        char want_[512];                                                                                               \
        snprintf(want_, sizeof want_, "%s" words, (f)->path);                                                          \
        assert_int_equal((f)->rc, OSYNC_ECONFIG);                                                                      \
        assert_string_equal((f)->err.message, want_);                                                                  \
    } while (0)

static void flags_files(void **state) {
    (void)state;
    fixture_t f;
    start(&f);
    assert_int_equal(read_file(&f, osync__options_read_flags,
                               "# a comment\n\n  --name=a=b\n-count=7\n--the_path=/x\r\n--the-path=/y z \n"
                               "--max.bytes=2M\n--wait_ms=5\n--period=3\n--port=8848\n"),
                     0);
    assert_string_equal(f.s.name, "a=b");
    assert_string_equal(f.s.path, "/y z");
    assert_int_equal(f.s.bytes, 2 << 20);
    assert_int_equal(f.s.count, 7);
    assert_int_equal(f.s.wait_ms, 5);
    assert_int_equal(f.s.period_ms, 3000);
    assert_int_equal(f.s.port, 8848);
    assert_string_equal(f.said, "");
    stop(&f);
}

static void flags_files_with_mistakes(void **state) {
    (void)state;
    fixture_t f;
    start(&f);
    read_file(&f, osync__options_read_flags, "--name=x\n\n# two\n--countt=7\n--port=1\n");
    says(&f, ", line 4: unknown key 'countt'; did you mean 'count'?");
    assert_int_equal(f.s.port, 0); /* nothing behind it is read */
    read_file(&f, osync__options_read_flags, "--coun=7\n");
    says(&f, ", line 1: unknown key 'coun'; did you mean 'count'?");
    read_file(&f, osync__options_read_flags, "name=x\n");
    says(&f, ", line 1: 'name=x' is not of the form --key=value");
    read_file(&f, osync__options_read_flags, "--name\n");
    says(&f, ", line 1: name needs a value: name=...");
    read_file(&f, osync__options_read_flags, "--noname\n");
    says(&f, ", line 1: unknown key 'noname'; did you mean 'name'?");
    read_file(&f, osync__options_read_flags, "--count=0\n");
    says(&f, ", line 1: count: 0 is out of range: 1 to 256");
    read_file(&f, osync__options_read_flags, "--count=\n");
    says(&f, ", line 1: count: '' is not a number");
    read_file(&f, osync__options_read_flags, "--max.bytes=99999999999999999999\n");
    says(&f, ", line 1: max.bytes: '99999999999999999999' is not a number of bytes (with K, M or G)");
    read_file(&f, osync__options_read_flags, "--period=3h\n--period=9\n--period=3d\n");
    says(&f, ", line 3: period: '3d' is not a time (with ms, s, m or h)");
    stop(&f);
}

static void what_has_no_meaning_is_said(void **state) {
    (void)state;
    fixture_t f;
    char want[1024];
    start(&f);
    assert_int_equal(read_file(&f, osync__options_read_flags,
                               "--enable_old=true\n--noenable_old\n--role=tablet\n--zk-log-level=3\n--v=1\n"),
                     0);
    snprintf(want, sizeof want,
             "%s: enable_old has no meaning here (there is nothing to enable)\n"
             "%s: enable_old has no meaning here (there is nothing to enable)\n"
             "%s: role has no meaning here (it is another's)\n"
             "%s: zk-log-level has no meaning here (it is another's)\n"
             "%s: v has no meaning here (it is another's)\n",
             f.path, f.path, f.path, f.path, f.path);
    assert_string_equal(f.said, want);
    read_file(&f, osync__options_read_flags, "--rol=tablet\n"); /* the beginning of a name is not the name */
    assert_int_equal(f.rc, OSYNC_ECONFIG);
    read_file(&f, osync__options_read_flags, "--=tablet\n");
    assert_int_equal(f.rc, OSYNC_ECONFIG);
    stop(&f);
}

static void properties_files(void **state) {
    (void)state;
    static const struct {
        const char *text, *name, *path;
    } cases[] = {
        {"name=x", "x", NULL},
        {"name = x \r\nthe_path : /y\n", "x", "/y"},
        {"name x y\n! note\n# note \\\nthe_path=/y", "x y", "/y"}, /* a comment isn't continued */
        {"name=a,\\\n    b,\\\n    c\nthe_path=/y\n", "a,b,c", "/y"},
        {"name=a\\\\\nthe_path=/y\n", "a\\", "/y"}, /* two backslashes are one of the value */
        {"name=a\\\\\\\n  b\n", "a\\b", NULL},
        {"name=127.0.0.1\\:2181\nthe\\_path=a\\=b\\#c\n", "127.0.0.1:2181", "a=b#c"}, /* as Java stores it */
        {"name=\\u00e9\\u4E2D\\t.\n", "\xc3\xa9\xe4\xb8\xad\t.", NULL},
        {"name=a:b=c\n", "a:b=c", NULL},
        {"name=\nthe_path\n", "", ""},
        {"name=x\nname=y\n", "y", NULL},
        {"\\\nname=x\n", "x", NULL},
        {"name=x\\", "x", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture_t f;
        start(&f);
        if (read_file(&f, osync__options_read_properties, cases[i].text)) fail_msg("%zu: %s", i, f.err.message);
        assert_string_equal(f.s.name, cases[i].name);
        if (cases[i].path) assert_string_equal(f.s.path, cases[i].path);
        assert_string_equal(f.said, "");
        stop(&f);
    }
}

static void properties_files_with_mistakes(void **state) {
    (void)state;
    fixture_t f;
    start(&f);
    read_file(&f, osync__options_read_properties, "name=x\\\n  y\n\nperiod=\\\n soon\n");
    says(&f, ", line 4: period: 'soon' is not a time (with ms, s, m or h)");
    read_file(&f, osync__options_read_properties, "max.byte=1\n");
    says(&f, ", line 1: unknown key 'max.byte'; did you mean 'max.bytes'?");
    read_file(&f, osync__options_read_properties, "name=\\u12g4\n");
    says(&f, ", line 1: \\u must be followed by four hex digits");
    read_file(&f, osync__options_read_properties, "name=\\u0000\n");
    says(&f, ", line 1: \\u0000 has no place in a key or a value");
    read_file(&f, osync__options_read_properties, "name=\\u12");
    says(&f, ", line 1: \\u must be followed by four hex digits");
    f.rc = osync__options_read_properties(&f.o, "/nonexistent/file", &f.err);
    assert_int_equal(f.rc, OSYNC_ECONFIG);
    assert_string_equal(f.err.message, "open /nonexistent/file: No such file or directory");
    stop(&f);
}

static void required_keys(void **state) {
    (void)state;
    fixture_t f;
    start(&f);
    assert_int_equal(osync__options_check(&f.o, &f.err), OSYNC_ECONFIG);
    assert_int_equal(osync__options_set(&f.o, "name", "", "here", &f.err), 0);
    assert_int_equal(osync__options_check(&f.o, &f.err), OSYNC_ECONFIG);
    assert_string_equal(f.err.message, "name is not set: set it in the configuration file or on the command line");
    assert_int_equal(osync__options_set(&f.o, "name", "x", "here", &f.err), 0);
    assert_int_equal(osync__options_check(&f.o, &f.err), 0);
    stop(&f);
}

/* ---- the daemons' tables ---- */

static osync_config_t *new_config(osync_config_kind_t kind) {
    osync_config_t *config;
    osync_error_t err = {0};
    if (osync_config_new(&config, kind, &err)) fail_msg("%s", err.message);
    return config;
}

static void a_collectors_configuration(void **state) {
    fixture_t f;
    start(&f);
    osync_config_t *config = new_config(OSYNC_CONFIG_COLLECTOR);
    const osync_collector_config_t *c = osync_config_collector(config);
    osync_collector_config_t initial;
    osync_collector_config_init(&initial, sizeof initial);
    assert_memory_equal(c, &initial, sizeof initial);
    assert_null(osync_config_scheduler(config));
    assert_int_equal(osync_config_check(config, &f.err), OSYNC_ECONFIG);
    assert_string_equal(f.err.message,
                        "zk_cluster is not set: set it in the configuration file or on the command line");

    write_file(&f, "--zk_cluster=a:1,b:2\n--collector_datadir=/data\n--max_pack_size=2M\n--glog_dir=/x\n--use_name\n");
    if (osync_config_read(config, f.path, &f.err)) fail_msg("%s", f.err.message);
    char want[512];
    snprintf(want, sizeof want,
             "%s: glog_dir has no meaning here (the log goes to standard error)\n"
             "%s: use_name has no meaning here (it is for other programs of OpenMLDB, or for libraries that aren't "
             "used)\n",
             f.path, f.path);
    assert_string_equal(f.said, want);
    assert_int_equal(osync_config_set(config, "log-level", "WARNING", NULL, &f.err), 0);
    assert_int_equal(osync_config_check(config, &f.err), 0);
    c = osync_config_collector(config);
    assert_string_equal(c->zk_cluster, "a:1,b:2");
    assert_string_equal(c->data_dir, "/data");
    assert_int_equal(c->max_pack_size, 2 << 20);
    assert_int_equal(osync_config_log_level(config), OSYNC_LOG_WARN);

    assert_string_equal(osync_config_get(config, "zk_cluster"), "a:1,b:2");
    assert_string_equal(osync_config_get(config, "max_pack_size"), "2097152");
    assert_string_equal(osync_config_get(config, "request_timeout_ms"), "20000ms");
    assert_string_equal(osync_config_get(config, "task_thread_pool_size"), "4");
    assert_string_equal(osync_config_get(config, "zk_cert"), "");
    assert_string_equal(osync_config_get(config, "glog_dir"), "");
    assert_null(osync_config_get(config, "server.port"));
    assert_int_equal(osync_config_set(config, "server.port", "1", NULL, NULL), OSYNC_ECONFIG);
    osync_config_free(config);
    stop(&f);
}

static void a_schedulers_configuration(void **state) {
    fixture_t f;
    start(&f);
    osync_config_t *config = new_config(OSYNC_CONFIG_SCHEDULER);
    assert_null(osync_config_collector(config));
    assert_int_equal(osync_config_scheduler(config)->port, 8848);
    write_file(&f, "zookeeper.cluster=a\\:1\nroll.interval : 5\nroll.size=1G\nserver.port=0\n");
    if (osync_config_read(config, f.path, &f.err)) fail_msg("%s", f.err.message);
    assert_int_equal(osync_config_check(config, &f.err), OSYNC_ECONFIG);
    assert_string_equal(f.err.message,
                        "sync_task.progress_path is not set: set it in the configuration file or on the command line");
    assert_int_equal(osync_config_set(config, "sync_task.progress_path", "/state", "command line", &f.err), 0);
    assert_int_equal(osync_config_check(config, &f.err), 0);
    const osync_scheduler_config_t *c = osync_config_scheduler(config);
    assert_string_equal(c->zk_cluster, "a:1");
    assert_string_equal(c->state_dir, "/state");
    assert_int_equal(c->roll_interval_ms, 5000);
    assert_int_equal(c->roll_bytes, 1 << 30);
    assert_string_equal(osync_config_get(config, "server.port"), "0");
    assert_int_equal(osync_config_log_level(config), OSYNC_LOG_INFO);
    write_file(&f, "roll.interval=5\nflink.slot=3\n");
    f.rc = osync_config_read(config, f.path, &f.err);
    says(&f, ", line 2: unknown key 'flink.slot'; did you mean 'flink.slots'?");
    assert_int_equal(osync_config_read(config, f.path, NULL), OSYNC_ECONFIG);
    f.rc = osync_config_read(config, f.dir, &f.err);
    assert_int_equal(f.rc, OSYNC_ECONFIG);
    assert_non_null(strstr(f.err.message, "Is a directory"));
    osync_config_free(config);
    osync_config_free(NULL);
    assert_int_equal(osync_config_new(&config, (osync_config_kind_t)2, &f.err), OSYNC_EINVAL);
    assert_null(config);
    stop(&f);
}

/* What every row of both tables must be: --help, the documentation and the man pages are made of it. */
static void the_tables_of_keys(void **state) {
    static const char *const types[] = {"text", "port", "count", "bytes", "time"};
    for (osync_config_kind_t kind = OSYNC_CONFIG_COLLECTOR; kind <= OSYNC_CONFIG_SCHEDULER; kind++) {
        osync_config_t *config = new_config(kind);
        osync_config_key_t key = {.size = sizeof key};
        osync_error_t err = {0};
        size_t n = 0, required = 0, t;
        for (; !osync_config_key(config, n, &key); n++) {
            assert_int_equal(key.size, sizeof key);
            assert_true(*key.name && *key.help);
            assert_string_equal(osync_config_get(config, key.name), key.initial);
            required += key.required;
            if (key.unused) {
                assert_string_equal(key.type, "");
                assert_int_equal(osync_config_set(config, key.name, NULL, NULL, &err), 0);
                continue;
            }
            for (t = 0; t < 5 && strcmp(types[t], key.type); t++)
                ;
            assert_true(t < 5);
            assert_int_equal(osync_config_set(config, key.name, NULL, NULL, &err), OSYNC_ECONFIG);
            if (t == 0) continue;
            assert_int_equal(key.unit_ms > 0, t == 4);
            assert_true(key.min < key.max);
            if (*key.initial && strcmp(key.initial, "0ms") != 0) /* 0ms: it depends on another */
                assert_int_equal(osync_config_set(config, key.name, key.initial, NULL, &err), 0);
            char number[32];
            for (int k = 0; k < 2; k++) {
                snprintf(number, sizeof number, "%llu%s", (unsigned long long)(k ? key.max : key.min),
                         t == 4 ? "ms" : "");
                if (osync_config_set(config, key.name, number, NULL, &err)) fail_msg("%s", err.message);
                assert_string_equal(osync_config_get(config, key.name), number);
            }
        }
        assert_true(n > 15);
        assert_int_equal(required, kind == OSYNC_CONFIG_COLLECTOR ? 1 : 2);
        assert_int_equal(osync_config_key(config, n + 1, &key), OSYNC_ENOENT);
        struct { /* as an older program has it */
            size_t size;
            const char *name;
            const char *beyond;
        } older = {.size = offsetof(osync_config_key_t, type), .beyond = "kept"};
        assert_int_equal(osync_config_key(config, 0, (osync_config_key_t *)(void *)&older), 0);
        assert_int_equal(older.size, offsetof(osync_config_key_t, type));
        assert_string_equal(older.beyond, "kept");
        osync_config_free(config);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flags_files),
        cmocka_unit_test(flags_files_with_mistakes),
        cmocka_unit_test(what_has_no_meaning_is_said),
        cmocka_unit_test(properties_files),
        cmocka_unit_test(properties_files_with_mistakes),
        cmocka_unit_test(required_keys),
        cmocka_unit_test(a_collectors_configuration),
        cmocka_unit_test(a_schedulers_configuration),
        cmocka_unit_test(the_tables_of_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
