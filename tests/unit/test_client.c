/* The admin client against a peer that answers as the test says: right, wrong, half, too much, or not at all. */
#include "net_peer.h"

#include <jansson.h>

#include "osync/client.h"

enum { HUGE_ANSWER = (64 << 20) + 1, MAX_BODY = 4096 };

typedef struct fixture {
    uv_loop_t loop;
    osync_client_t *client;
    int listener;
    char address[32];
    bool closed;
} fixture_t;

typedef struct result {
    int n;
    int status;
    char message[1020];
    char json[MAX_BODY];
    bool has_json;
    fixture_t *close; /* the callback closes the client */
    bool before_close_cb;
    fixture_t *f;
} result_t;

static void on_closed(void *arg) {
    ((fixture_t *)arg)->closed = true;
}

static void close_client(fixture_t *f) {
    osync_client_close(f->client, on_closed, f);
    f->client = NULL;
}

static void on_answer(void *arg, int status, const char *json, size_t len, const osync_error_t *err) {
    result_t *r = arg;
    r->n++;
    r->status = status;
    assert_int_equal(err->code, status);
    snprintf(r->message, sizeof r->message, "%s", err->message);
    r->has_json = json;
    if (json) {
        assert_int_equal(json[len], 0);
        snprintf(r->json, sizeof r->json, "%s", json);
    }
    if (r->f) r->before_close_cb = !r->f->closed;
    if (r->close) close_client(r->close);
}

static void start_with(fixture_t *f, uint32_t timeout_ms) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    osync_client_config_t config;
    osync_error_t err = {0};
    *f = (fixture_t){.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
    assert_int_equal(bind(f->listener, (struct sockaddr *)&at, len), 0);
    assert_int_equal(listen(f->listener, 16), 0);
    assert_int_equal(getsockname(f->listener, (struct sockaddr *)&at, &len), 0);
    snprintf(f->address, sizeof f->address, "127.0.0.1:%d", ntohs(at.sin_port));
    assert_int_equal(uv_loop_init(&f->loop), 0);
    osync_client_config_init(&config, sizeof config);
    config.scheduler = f->address;
    config.timeout_ms = timeout_ms;
    if (osync_client_new(&f->client, &f->loop, &config, &err)) fail_msg("%s", err.message);
}

static void start(fixture_t *f) {
    start_with(f, DEADLINE_MS);
}

static void stop(fixture_t *f) {
    if (f->client) close_client(f);
    loop_end(&f->loop);
    assert_true(f->closed);
    close(f->listener);
}

/* Waits for the client's next connection. */
static void take_connection(fixture_t *f, peer_t *p) {
    uint64_t end = osync__mono_ms() + DEADLINE_MS;
    int fd;
    while ((fd = accept(f->listener, NULL, NULL)) < 0) {
        uv_run(&f->loop, UV_RUN_NOWAIT);
        struct pollfd fds[2] = {{.fd = f->listener, .events = POLLIN},
                                {.fd = uv_backend_fd(&f->loop), .events = POLLIN}};
        (void)poll(fds, 2, 1);
        assert_true(osync__mono_ms() < end);
    }
    peer_open(p, &f->loop, fd);
}

/* Reads a whole request: its first line without the version, and its body. */
static void take_request(peer_t *p, char line[256], char body[MAX_BODY]) {
    size_t have = 0, length = 0;
    const char *blank;
    do {
        assert_true(peer_wait(p, have + 1));
        have = p->in.len;
        assert_int_equal(osync__buf_append(&p->in, "", 1), 0);
        p->in.len--;
        blank = strstr((char *)p->in.data, "\r\n\r\n");
    } while (!blank);
    const char *text = (char *)p->in.data, *field = strstr(text, "Content-Length: ");
    snprintf(line, 256, "%.*s", (int)(strstr(text, " HTTP/1.1\r\n") - text), text);
    if (field && field < blank) length = strtoul(field + 16, NULL, 10);
    assert_true(length < MAX_BODY);
    size_t head = (size_t)(blank - text) + 4;
    assert_true(peer_wait(p, head + length));
    memcpy(body, p->in.data + head, length);
    body[length] = 0;
}

static void until(fixture_t *f, const result_t *r) {
    uint64_t end = osync__mono_ms() + DEADLINE_MS;
    while (!r->n) {
        uv_run(&f->loop, UV_RUN_NOWAIT);
        struct pollfd fd = {.fd = uv_backend_fd(&f->loop), .events = POLLIN};
        if (!r->n) (void)poll(&fd, 1, 1);
        assert_true(osync__mono_ms() < end);
    }
    assert_int_equal(r->n, 1);
}

static void answer(peer_t *p, const char *json) {
    char text[MAX_BODY];
    int n = snprintf(text, sizeof text,
                     "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s", strlen(json),
                     json);
    peer_send(p, text, (size_t)n);
}

/* Takes a request and gives that answer; what was asked must be as expected. */
static void exchange(fixture_t *f, const char *want_line, const char *want_body, const char *json) {
    peer_t p;
    char line[256], body[MAX_BODY];
    take_connection(f, &p);
    take_request(&p, line, body);
    assert_string_equal(line, want_line);
    json_t *got = json_loads(body, 0, NULL), *want = json_loads(want_body, 0, NULL);
    if (!json_equal(got, want) && (got || want || *body)) fail_msg("%s isn't %s", body, want_body);
    json_decref(got);
    json_decref(want);
    answer(&p, json);
    peer_wait_eof(&p); /* never used again */
    peer_close(&p);
}

#define ok(call)                                                                                                       \
    do {                                                                                                               \
        osync_error_t err_ = {0};                                                                                      \
        r = (result_t){0};                                                                                             \
        if (call) fail_msg("%s", err_.message);                                                                        \
        assert_int_equal(r.n, 0);                                                                                      \
    } while (0)

#define POST(method) "POST /openmldb.datasync.SyncTool/" method

static void requests_are_as_the_helpers(void **state) {
    fixture_t f;
    result_t r;
    osync_create_options_t o;
    start(&f);
    osync_create_options_init(&o, sizeof o);
    o.dest = "/t";

    ok(osync_client_create(f.client, "db", "t", &o, on_answer, &r, &err_));
    exchange(&f, POST("CreateSyncTask"), "{\"db\":\"db\",\"name\":\"t\",\"mode\":0,\"start_ts\":0,\"dest\":\"/t\"}",
             "{\"code\": 0,  \"msg\": \"\"}");
    until(&f, &r);
    assert_int_equal(r.status, 0);
    assert_string_equal(r.json, "{\"code\": 0,  \"msg\": \"\"}"); /* as it came */

    o.mode = OSYNC_MODE_INCREMENTAL;
    o.start_ts = 1700000000000;
    o.start = OSYNC_START_CONTINUE;
    o.task_id = "x";
    ok(osync_client_create(f.client, "db", "\xc3\xa9\"", &o, on_answer, &r, &err_));
    exchange(&f, POST("CreateSyncTask"),
             "{\"db\":\"db\",\"name\":\"\xc3\xa9\\\"\",\"mode\":1,\"start_ts\":1700000000000,\"dest\":\"/t\","
             "\"start\":\"kStartContinue\",\"task_id\":\"x\"}",
             "{}");
    until(&f, &r);
    assert_int_equal(r.status, 0);

    o.mode = OSYNC_MODE_CONTINUOUS; /* its start_ts means nothing */
    o.start = OSYNC_START_POINTS;
    o.task_id = NULL;
    o.points = "[{\"pid\":0,\"point\":{\"type\":\"kBINLOG\"},\"exact\":\"08\",\"note\":1},{\"pid\":1}]";
    ok(osync_client_create(f.client, "db", "t", &o, on_answer, &r, &err_));
    exchange(&f, POST("CreateSyncTask"),
             "{\"db\":\"db\",\"name\":\"t\",\"mode\":2,\"start_ts\":0,\"dest\":\"/t\",\"start\":\"kStartAtPoints\","
             "\"points\":[{\"pid\":0,\"point\":{\"type\":\"kBINLOG\"},\"exact\":\"08\"},{\"pid\":1}]}",
             "{}");
    until(&f, &r);

    ok(osync_client_delete(f.client, "db", "t", on_answer, &r, &err_));
    exchange(&f, POST("DeleteSyncTask"), "{\"db\":\"db\",\"name\":\"t\"}", "{\"code\":0}");
    until(&f, &r);
    ok(osync_client_retry(f.client, "db", "t", on_answer, &r, &err_));
    exchange(&f, POST("RetrySyncTask"), "{\"db\":\"db\",\"name\":\"t\"}", "{\"code\":0}");
    until(&f, &r);
    ok(osync_client_verify(f.client, "db", "t", "/t", true, on_answer, &r, &err_));
    exchange(&f, POST("VerifySyncTask"), "{\"db\":\"db\",\"name\":\"t\",\"dest\":\"/t\",\"quick\":true}", "{}");
    until(&f, &r);
    ok(osync_client_recover(f.client, "db", "t", "/t", "x", true, on_answer, &r, &err_));
    exchange(&f, POST("RecoverSyncTask"),
             "{\"db\":\"db\",\"name\":\"t\",\"dest\":\"/t\",\"task_id\":\"x\",\"start_over\":true}", "{}");
    until(&f, &r);
    ok(osync_client_task_status(f.client, on_answer, &r, &err_));
    exchange(&f, POST("TaskStatus"), "{}", "{\"response\":{\"code\":0}}");
    until(&f, &r);
    assert_int_equal(r.status, 0);
    ok(osync_client_collectors(f.client, on_answer, &r, &err_));
    exchange(&f, POST("Collectors"), "{}", "{}");
    until(&f, &r);
    ok(osync_client_status(f.client, on_answer, &r, &err_));
    exchange(&f, "GET /status?format=json", "", "{\"tasks\":[]}");
    until(&f, &r);
    assert_int_equal(r.status, 0);
    assert_string_equal(r.json, "{\"tasks\":[]}");
    stop(&f);
}

static void several_at_once(void **state) {
    fixture_t f;
    result_t r[3] = {0};
    peer_t p[3];
    char line[256], body[MAX_BODY];
    osync_error_t err = {0};
    start(&f);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(osync_client_delete(f.client, "db",
                                             i == 0   ? "a"
                                             : i == 1 ? "b"
                                                      : "c",
                                             on_answer, &r[i], &err),
                         0);
        take_connection(&f, &p[i]);
        take_request(&p[i], line, body);
    }
    for (int i = 2; i >= 0; i--) { /* in another order */
        char json[32];
        snprintf(json, sizeof json, "{\"code\":0,\"n\":%d}", i);
        answer(&p[i], json);
        until(&f, &r[i]);
        assert_string_equal(r[i].json, json);
        peer_close(&p[i]);
    }
    stop(&f);
}

static void refusals(void **state) {
    static const struct {
        const char *json, *message;
    } cases[] = {
        {"{\"code\":-1,\"msg\":\"why send a same task?\"}", "why send a same task?"},
        {"{\"response\":{\"code\":-1,\"msg\":\"2 files are missing\"},\"report\":[\"a\"]}", "2 files are missing"},
        {"{\"response\":{\"code\":7}}", "the scheduler has refused, and doesn't say why"},
        {"{\"code\":\"no\",\"msg\":null}", "the scheduler has refused, and doesn't say why"},
    };
    fixture_t f;
    result_t r;
    start(&f);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ok(osync_client_verify(f.client, "db", "t", "/t", false, on_answer, &r, &err_));
        exchange(&f, POST("VerifySyncTask"), "{\"db\":\"db\",\"name\":\"t\",\"dest\":\"/t\"}", cases[i].json);
        until(&f, &r);
        assert_int_equal(r.status, OSYNC_ERPC);
        assert_string_equal(r.message, cases[i].message);
        assert_string_equal(r.json, cases[i].json);
    }
    stop(&f);
}

/* One delete (or status), for which the peer sends `bytes` and closes. */
static void one(fixture_t *f, result_t *r, bool changes, const char *bytes) {
    peer_t p;
    char line[256], body[MAX_BODY];
    osync_error_t err = {0};
    *r = (result_t){0};
    int rc = changes ? osync_client_delete(f->client, "db", "t", on_answer, r, &err)
                     : osync_client_status(f->client, on_answer, r, &err);
    if (rc) fail_msg("%s", err.message);
    take_connection(f, &p);
    take_request(&p, line, body);
    peer_send(&p, bytes, strlen(bytes));
    peer_close(&p);
    until(f, r);
    assert_false(r->has_json);
}

static void nonsense(void **state) {
    static const char *const heads[] = {"HTTP/1.1 200 OK\r\n\r\n",
                                        "HTTP/1.0 200 OK\r\ncontent-type: text/html\r\n\r\n"};
    static const char *const bodies[] = {
        "", "<html>", "[1]", "null", "{\"code\":0", "{\"code\":0} more", "{\"\xff\":1}"};
    fixture_t f;
    result_t r;
    char text[256];
    start(&f);
    for (size_t i = 0; i < 2; i++) {
        for (size_t k = 0; k < sizeof bodies / sizeof *bodies; k++) {
            snprintf(text, sizeof text, "%s%s", heads[i], bodies[k]);
            one(&f, &r, true, text);
            assert_int_equal(r.status, OSYNC_EUNKNOWN);
            assert_non_null(strstr(r.message, f.address));
            one(&f, &r, false, text);
            assert_int_equal(r.status, OSYNC_ERPC);
        }
    }
    one(&f, &r, true, "HTTP/1.1 500 No\r\nx-bd-error-code: 2001\r\ncontent-length: 5\r\n\r\nit is");
    assert_int_equal(r.status, OSYNC_ERPC);
    assert_string_equal(r.message, "[E2001]it is");
    one(&f, &r, true, "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n");
    assert_int_equal(r.status, OSYNC_ERPC);
    assert_non_null(strstr(r.message, "HTTP status 302"));
    stop(&f);
}

static void an_answer_that_breaks_off(void **state) {
    static const char *const halves[] = {"", "HTTP/1.1 20", "HTTP/1.1 200 OK\r\ncontent-le",
                                         "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{\"code\":0}",
                                         "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\n{\"code\""};
    fixture_t f;
    result_t r;
    start(&f);
    for (size_t i = 0; i < sizeof halves / sizeof *halves; i++) {
        one(&f, &r, true, halves[i]);
        if (r.status != OSYNC_EUNKNOWN) fail_msg("%zu: %s", i, r.message);
        assert_non_null(strstr(r.message, f.address));
        one(&f, &r, false, halves[i]);
        assert_true(r.status == OSYNC_ECONN || r.status == OSYNC_ERPC); /* it doesn't matter whether it was done */
    }
    stop(&f);
}

static void no_answer(void **state) {
    fixture_t f;
    result_t r;
    peer_t p;
    char line[256], body[MAX_BODY];
    start_with(&f, 500);
    ok(osync_client_delete(f.client, "db", "t", on_answer, &r, &err_));
    take_connection(&f, &p);
    take_request(&p, line, body);
    until(&f, &r);
    assert_int_equal(r.status, OSYNC_ETIMEOUT);
    peer_close(&p);
    close(f.listener);
    ok(osync_client_delete(f.client, "db", "t", on_answer, &r, &err_));
    until(&f, &r);
    assert_int_equal(r.status, OSYNC_ECONN);
    assert_non_null(strstr(r.message, f.address));
    f.listener = -1;
    stop(&f);
}

static void an_answer_that_is_too_large(void **state) {
    fixture_t f;
    result_t r;
    peer_t p;
    char line[256], body[MAX_BODY], head[64];
    char *blank = malloc(HUGE_ANSWER);
    memset(blank, ' ', HUGE_ANSWER);
    for (int over = 0; over < 2; over++) {
        start(&f);
        ok(osync_client_status(f.client, on_answer, &r, &err_));
        take_connection(&f, &p);
        take_request(&p, line, body);
        size_t len = (size_t)HUGE_ANSWER - !over;
        int n = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\ncontent-length: %zu\r\n\r\n", len);
        memcpy(blank, "{}", 2);
        peer_send(&p, head, (size_t)n);
        peer_send(&p, blank, len);
        until(&f, &r);
        assert_int_equal(r.status, over ? OSYNC_ETOOBIG : 0);
        peer_close(&p);
        stop(&f);
    }
    free(blank);
}

static void closed_in_flight(void **state) {
    fixture_t f;
    result_t r[3] = {0};
    peer_t p;
    osync_error_t err = {0};
    start(&f);
    for (int i = 0; i < 3; i++) r[i].f = &f;
    assert_int_equal(osync_client_delete(f.client, "db", "t", on_answer, &r[0], &err), 0);
    take_connection(&f, &p);
    assert_int_equal(osync_client_points(f.client, "db", "t", on_answer, &r[1], &err), 0);
    assert_int_equal(osync_client_status(f.client, on_answer, &r[2], &err), 0); /* nothing was sent yet */
    close_client(&f);
    assert_int_equal(r[0].n + r[1].n + r[2].n, 0); /* not from inside */
    stop(&f);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(r[i].n, 1);
        assert_int_equal(r[i].status, OSYNC_ECANCELED);
        assert_true(r[i].before_close_cb);
    }
    peer_close(&p);
}

static void closed_from_a_callback(void **state) {
    fixture_t f;
    result_t r, open = {0};
    osync_error_t err = {0};
    start(&f);
    assert_int_equal(osync_client_status(f.client, on_answer, &open, &err), 0);
    peer_t p;
    take_connection(&f, &p);
    ok(osync_client_delete(f.client, "db", "t", on_answer, &r, &err_));
    r.close = &f;
    exchange(&f, POST("DeleteSyncTask"), "{\"db\":\"db\",\"name\":\"t\"}", "{\"code\":0}");
    until(&f, &r);
    stop(&f);
    assert_int_equal(open.n, 1);
    assert_int_equal(open.status, OSYNC_ECANCELED);
    peer_close(&p);

    start(&f); /* from the last callback of a call of two requests, with nothing else open */
    ok(osync_client_points(f.client, "db", "t", on_answer, &r, &err_));
    r.close = &f;
    exchange(&f, "GET /status?format=json", "", "{\"tasks\":[]}");
    until(&f, &r);
    assert_int_equal(r.status, OSYNC_ENOENT);
    stop(&f);
}

static const char page[] = "{\"ready\":true,\"tasks\":[{\"db\":\"db\",\"table\":\"t\",\"tid\":7},"
                           "{\"db\":\"db\",\"table\":\"u\",\"tid\":8}]}";

static void the_points_of_a_table(void **state) {
    static const struct {
        const char *answer, *points;
        int status;
        const char *message;
    } cases[] = {
        {"{\"response\":{\"code\":0},\"task\":["
         "{\"progress\":{\"tid\":7,\"pid\":1,\"syncPoint\":{\"type\":\"kBINLOG\",\"offset\":\"9\"}}},"
         "{\"progress\":{\"tid\":8,\"pid\":0,\"syncPoint\":{\"type\":\"kSNAPSHOT\"}}},"
         "{\"progress\":{\"tid\":7,\"pid\":0}}],\"points\":[\"0801\",\"\",\"0800\"]}",
         "[{\"pid\":0,\"point\":{},\"exact\":\"0800\"},"
         "{\"pid\":1,\"point\":{\"type\":\"kBINLOG\",\"offset\":\"9\"},\"exact\":\"0801\"}]",
         0, ""},
        {"{\"response\":{\"code\":0},\"task\":[{\"progress\":{\"tid\":7,\"pid\":3}}],\"points\":[\"\"]}", NULL,
         OSYNC_EAGAIN, "the committed point of partition 3 isn't known yet"},
        {"{\"response\":{\"code\":0}}", NULL, OSYNC_ENOENT, "table db.t has no sync task"},
        {"{\"response\":{\"code\":0},\"task\":[1,{\"progress\":[]},{\"progress\":{\"tid\":\"7\"}}],\"points\":7}", NULL,
         OSYNC_ENOENT, "table db.t has no sync task"},
        {"{\"response\":{\"code\":-1,\"msg\":\"not yet\"}}", NULL, OSYNC_ERPC, "not yet"},
    };
    fixture_t f;
    result_t r;
    start(&f);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ok(osync_client_points(f.client, "db", "t", on_answer, &r, &err_));
        exchange(&f, "GET /status?format=json", "", page);
        exchange(&f, POST("TaskStatus"), "{\"points\":true}", cases[i].answer);
        until(&f, &r);
        assert_int_equal(r.status, cases[i].status);
        assert_string_equal(r.message, cases[i].message);
        assert_int_equal(r.has_json, cases[i].points != NULL);
        if (cases[i].points) assert_string_equal(r.json, cases[i].points);
    }
    ok(osync_client_points(f.client, "db", "x", on_answer, &r, &err_));
    exchange(&f, "GET /status?format=json", "", page);
    until(&f, &r);
    assert_int_equal(r.status, OSYNC_ENOENT);
    ok(osync_client_points(f.client, "db", "x", on_answer, &r, &err_));
    exchange(&f, "GET /status?format=json", "", "{\"ready\":false,\"tasks\":[]}");
    until(&f, &r);
    assert_int_equal(r.status, OSYNC_EAGAIN);
    ok(osync_client_points(f.client, "db", "t", on_answer, &r, &err_));
    exchange(&f, "GET /status?format=json", "", page);
    peer_t p;
    take_connection(&f, &p);
    peer_close(&p); /* the second request has no answer */
    until(&f, &r);
    assert_int_equal(r.status, OSYNC_ECONN);
    stop(&f);
}

static void bad_arguments(void **state) {
    fixture_t f;
    osync_error_t err = {0};
    osync_create_options_t o;
    result_t r = {0};
    start(&f);
#define refused(code, words, call)                                                                                     \
    do {                                                                                                               \
        assert_int_equal(call, code);                                                                                  \
        assert_string_equal(err.message, words);                                                                       \
    } while (0)
    refused(OSYNC_EINVAL, "the database is missing", osync_client_delete(f.client, NULL, "t", on_answer, &r, &err));
    refused(OSYNC_EINVAL, "the table is missing", osync_client_retry(f.client, "db", "", on_answer, &r, &err));
    refused(OSYNC_EINVAL, "the table isn't UTF-8 text",
            osync_client_points(f.client, "db", "\xff", on_answer, &r, &err));
    refused(OSYNC_EINVAL, "the destination is missing",
            osync_client_verify(f.client, "db", "t", NULL, false, on_answer, &r, &err));
    refused(OSYNC_EINVAL, "the task's id is missing",
            osync_client_recover(f.client, "db", "t", "/t", "", false, on_answer, &r, &err));
    memset(&o, 0, sizeof o);
    refused(OSYNC_EINVAL, "the configuration isn't filled in: call osync_create_options_init first",
            osync_client_create(f.client, "db", "t", &o, on_answer, &r, &err));
    osync_create_options_init(&o, sizeof o);
    refused(OSYNC_EINVAL, "the destination is missing",
            osync_client_create(f.client, "db", "t", &o, on_answer, &r, &err));
    o.dest = "/t";
    o.mode = (osync_mode_t)3;
    refused(OSYNC_EINVAL, "there is no mode 3", osync_client_create(f.client, "db", "t", &o, on_answer, &r, &err));
    o.mode = OSYNC_MODE_FULL;
    o.start = (osync_create_start_t)5;
    refused(OSYNC_EINVAL, "there is no start 5", osync_client_create(f.client, "db", "t", &o, on_answer, &r, &err));
    o.start = OSYNC_START_POINTS;
    refused(OSYNC_EINVAL, "the points aren't a JSON array, as osync_client_points gives it",
            osync_client_create(f.client, "db", "t", &o, on_answer, &r, &err));
    o.points = "{}";
    refused(OSYNC_EINVAL, "the points aren't a JSON array, as osync_client_points gives it",
            osync_client_create(f.client, "db", "t", &o, on_answer, &r, &err));
    o.start = OSYNC_START_DEFAULT;
    o.mode = OSYNC_MODE_INCREMENTAL;
    o.start_ts = UINT64_MAX;
    refused(OSYNC_EINVAL, "start_ts is larger than any timestamp",
            osync_client_create(f.client, "db", "t", &o, on_answer, &r, &err));
    assert_int_equal(osync_client_delete(f.client, "db", NULL, on_answer, &r, NULL), OSYNC_EINVAL);
    stop(&f);
    assert_int_equal(r.n, 0);
}

static void addresses(void **state) {
    static const char *const good[] = {"127.0.0.1:8848", "a-b.c_d:1", "[::1]:65535"};
    static const char *const bad[] = {NULL,
                                      "",
                                      "host",
                                      "host:",
                                      ":1",
                                      "host:0",
                                      "host:65536",
                                      "host:1x",
                                      "::1:8848",
                                      "http://host:1",
                                      "a/b:1",
                                      "user@h:1",
                                      "h?x:1",
                                      "[]:1",
                                      "h ost:1",
                                      "host:-1",
                                      "h\r\n:1",
                                      "[::1]8848:1",
                                      "host:99999999999999999999"};
    uv_loop_t loop;
    osync_client_config_t config;
    osync_error_t err = {0};
    osync_client_t *client;
    assert_int_equal(uv_loop_init(&loop), 0);
    osync_client_config_init(&config, sizeof config);
    assert_int_equal(config.timeout_ms, 120000);
    assert_int_equal(config.long_timeout_ms, 86400000);
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        config.scheduler = good[i];
        if (osync_client_new(&client, &loop, &config, &err)) fail_msg("%s", err.message);
        osync_client_close(client, NULL, NULL);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        config.scheduler = bad[i];
        if (osync_client_new(&client, &loop, &config, &err) != OSYNC_ECONFIG) fail_msg("%s", bad[i]);
        assert_null(client);
    }
    assert_int_equal(osync_client_new(&client, &loop, NULL, &err), OSYNC_ECONFIG);
    loop_end(&loop);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_are_as_the_helpers),
        cmocka_unit_test(several_at_once),
        cmocka_unit_test(refusals),
        cmocka_unit_test(nonsense),
        cmocka_unit_test(an_answer_that_breaks_off),
        cmocka_unit_test(no_answer),
        cmocka_unit_test(an_answer_that_is_too_large),
        cmocka_unit_test(closed_in_flight),
        cmocka_unit_test(closed_from_a_callback),
        cmocka_unit_test(the_points_of_a_table),
        cmocka_unit_test(bad_arguments),
        cmocka_unit_test(addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
