/* Configuration of the daemons: gflags files, Java properties, the command line. */
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

#include "../../daemons/options.h"

typedef struct settings {
    const char *name, *path;
    uint64_t bytes;
    uint32_t count, wait_ms, period_ms;
    int port;
    bool on;
} settings_t;

#define F(field) offsetof(settings_t, field)
static const option_t table[] = {
    {"name", OPTION_STRING, F(name), 0, 0, 0, "a name"},
    {"the_path", OPTION_STRING, F(path), 0, 0, 0, "a path"},
    {"max.bytes", OPTION_BYTES, F(bytes), 1, 1ULL << 40, 0, "bytes"},
    {"count", OPTION_COUNT, F(count), 1, 256, 0, "a count"},
    {"wait_ms", OPTION_MS, F(wait_ms), 0, 0, 1, "a time"},
    {"period", OPTION_MS, F(period_ms), 10, 0, 1000, "a time in seconds"},
    {"port", OPTION_PORT, F(port), 0, 65535, 0, "a port"},
    {"on", OPTION_BOOL, F(on), 0, 0, 0, "a switch"},
    {"enable_old", OPTION_UNUSED, 0, 0, 0, 0, "there is nothing to enable"},
    {NULL, OPTION_UNUSED, 0, 0, 0, 0, NULL},
};

typedef struct fixture {
    settings_t s;
    options_t o;
    osync_error_t err;
    char dir[32], path[40], said[1024];
    int rc;
} fixture_t;

static void start(fixture_t *f) {
    *f = (fixture_t){.dir = "/tmp/osync-options-XXXXXX"};
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->path, sizeof f->path, "%s/file", f->dir);
    f->o = (options_t){
        .table = table, .others = "role zk_log_level v", .others_reason = "it is another's", .target = &f->s};
}

static void stop(fixture_t *f) {
    options_free(&f->o);
    (void)unlink(f->path);
    (void)rmdir(f->dir);
}

/* Reads a file of that text; f->said is what it prints meanwhile. */
static int read_file(fixture_t *f, int (*read_it)(options_t *, const char *, osync_error_t *), const char *text) {
    FILE *file = fopen(f->path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    char name[40];
    snprintf(name, sizeof name, "%s/said", f->dir);
    int to = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600), was = dup(STDERR_FILENO);
    assert_true(to >= 0 && was >= 0);
    fflush(stderr);
    dup2(to, STDERR_FILENO);
    f->rc = read_it(&f->o, f->path, &f->err);
    fflush(stderr);
    dup2(was, STDERR_FILENO);
    ssize_t n = pread(to, f->said, sizeof f->said - 1, 0);
    f->said[n > 0 ? n : 0] = 0;
    close(to);
    close(was);
    unlink(name);
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
    assert_int_equal(read_file(&f, options_read_flags,
                               "# a comment\n\n  --name=a=b\n-count=7\n--the_path=/x\r\n--the-path=/y z \n"
                               "--max.bytes=2M\n--wait_ms=5\n--period=3\n--port=8848\n--on\n"),
                     0);
    assert_string_equal(f.s.name, "a=b");
    assert_string_equal(f.s.path, "/y z");
    assert_int_equal(f.s.bytes, 2 << 20);
    assert_int_equal(f.s.count, 7);
    assert_int_equal(f.s.wait_ms, 5);
    assert_int_equal(f.s.period_ms, 3000);
    assert_int_equal(f.s.port, 8848);
    assert_true(f.s.on);
    assert_string_equal(f.said, "");
    static const struct {
        const char *line;
        bool on;
    } switches[] = {{"--noon", false}, {"--on=1", true},    {"--on=F", false}, {"--on=Yes", true},
                    {"--on=n", false}, {"--on=TRUE", true}, {"--on=0", false}};
    for (size_t i = 0; i < sizeof switches / sizeof *switches; i++) {
        f.s.on = !switches[i].on;
        assert_int_equal(read_file(&f, options_read_flags, switches[i].line), 0);
        assert_int_equal(f.s.on, switches[i].on);
    }
    stop(&f);
}

static void flags_files_with_mistakes(void **state) {
    (void)state;
    fixture_t f;
    start(&f);
    read_file(&f, options_read_flags, "--name=x\n\n# two\n--countt=7\n--port=1\n");
    says(&f, ", line 4: unknown key 'countt'; did you mean 'count'?");
    assert_int_equal(f.s.port, 0); /* nothing behind it is read */
    read_file(&f, options_read_flags, "--coun=7\n");
    says(&f, ", line 1: unknown key 'coun'; did you mean 'count'?");
    read_file(&f, options_read_flags, "name=x\n");
    says(&f, ", line 1: 'name=x' is not of the form --key=value");
    read_file(&f, options_read_flags, "--name\n");
    says(&f, ", line 1: name needs a value: name=...");
    read_file(&f, options_read_flags, "--noname\n");
    says(&f, ", line 1: unknown key 'noname'; did you mean 'name'?");
    read_file(&f, options_read_flags, "--count=0\n");
    says(&f, ", line 1: count: 0 is out of range: 1 to 256");
    read_file(&f, options_read_flags, "--count=\n");
    says(&f, ", line 1: count: '' is not a number");
    read_file(&f, options_read_flags, "--on=maybe\n");
    says(&f, ", line 1: on: 'maybe' is neither true nor false");
    read_file(&f, options_read_flags, "--max.bytes=99999999999999999999\n");
    says(&f, ", line 1: max.bytes: '99999999999999999999' is not a number of bytes (with K, M or G)");
    read_file(&f, options_read_flags, "--period=3h\n--period=9\n--period=3d\n");
    says(&f, ", line 3: period: '3d' is not a time (with ms, s, m or h)");
    stop(&f);
}

static void what_has_no_meaning_is_said(void **state) {
    (void)state;
    fixture_t f;
    char want[1024];
    start(&f);
    assert_int_equal(read_file(&f, options_read_flags,
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
    read_file(&f, options_read_flags, "--rol=tablet\n"); /* the beginning of a name is not the name */
    assert_int_equal(f.rc, OSYNC_ECONFIG);
    read_file(&f, options_read_flags, "--=tablet\n");
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
        if (read_file(&f, options_read_properties, cases[i].text)) fail_msg("%zu: %s", i, f.err.message);
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
    read_file(&f, options_read_properties, "name=x\\\n  y\n\nperiod=\\\n soon\n");
    says(&f, ", line 4: period: 'soon' is not a time (with ms, s, m or h)");
    read_file(&f, options_read_properties, "max.byte=1\n");
    says(&f, ", line 1: unknown key 'max.byte'; did you mean 'max.bytes'?");
    read_file(&f, options_read_properties, "name=\\u12g4\n");
    says(&f, ", line 1: \\u must be followed by four hex digits");
    read_file(&f, options_read_properties, "name=\\u0000\n");
    says(&f, ", line 1: \\u0000 has no place in a key or a value");
    read_file(&f, options_read_properties, "name=\\u12");
    says(&f, ", line 1: \\u must be followed by four hex digits");
    f.rc = options_read_properties(&f.o, "/nonexistent/file", &f.err);
    assert_int_equal(f.rc, OSYNC_ECONFIG);
    assert_string_equal(f.err.message, "/nonexistent/file: No such file or directory");
    stop(&f);
}

static void required_keys(void **state) {
    (void)state;
    fixture_t f;
    start(&f);
    f.o.source = "command line";
    f.rc = options_require(&f.o, "name", &f.err);
    assert_int_equal(f.rc, OSYNC_ECONFIG);
    assert_int_equal(options_set(&f.o, "name", "", &f.err), 0);
    assert_int_equal(options_require(&f.o, "name", &f.err), OSYNC_ECONFIG);
    assert_string_equal(f.err.message, "name is not set: set it in the configuration file or on the command line");
    assert_int_equal(options_set(&f.o, "name", "x", &f.err), 0);
    assert_int_equal(options_require(&f.o, "name", &f.err), 0);
    stop(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flags_files),
        cmocka_unit_test(flags_files_with_mistakes),
        cmocka_unit_test(what_has_no_meaning_is_said),
        cmocka_unit_test(properties_files),
        cmocka_unit_test(properties_files_with_mistakes),
        cmocka_unit_test(required_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
