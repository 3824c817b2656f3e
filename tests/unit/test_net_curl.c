/* libcurl on the loop, and single requests on top of it, against a server in the same loop and against a peer that
 * misbehaves. */
#include "net_peer.h"

#include "data_sync.pb-c.h"
#include "net/http_client.h"
#include "net/rpc.h"

enum { BIG = 8 << 20, MANY = 100 };

typedef struct fixture {
    uv_loop_t loop;
    osync__curl_t *curl;
    osync__rpc_server_t *server;
    char base[64]; /* "http://127.0.0.1:port" */
    osync__rpc_call_t *kept;
    bool keep;
    bool closed;
    uint32_t tid;
} fixture_t;

static void handle(osync__rpc_call_t *call, void *arg) {
    fixture_t *f = arg;
    const Openmldb__Datasync__AddSyncTaskRequest *r =
        (const Openmldb__Datasync__AddSyncTaskRequest *)osync__rpc_request(call);
    Openmldb__Datasync__GeneralResponse general = OPENMLDB__DATASYNC__GENERAL_RESPONSE__INIT;
    f->tid = r->tid;
    if (f->keep) {
        f->kept = call;
        return;
    }
    if (r->pid == 1) {
        osync__rpc_fail(call, OSYNC__BRPC_EINTERNAL, "it broke");
        return;
    }
    general.has_code = true;
    general.code = -1;
    general.msg = (char *)(uintptr_t) "why send a same task?";
    osync__rpc_reply(call, &general.base);
}

static void page(osync__rpc_call_t *call, void *arg) {
    osync__rpc_reply_http(call, 200, "text/plain", osync__rpc_query(call), strlen(osync__rpc_query(call)));
}

static void big(osync__rpc_call_t *call, void *arg) {
    char *body = malloc(BIG);
    memset(body, 'b', BIG);
    osync__rpc_reply_http(call, 200, "text/plain", body, BIG);
    free(body);
}

static void plain_error(osync__rpc_call_t *call, void *arg) {
    osync__rpc_reply_http(call, 503, "text/plain", "come back later\n", 16);
}

static const osync__rpc_method_t methods[] = {{"openmldb.datasync.DataCollector", "AddSyncTask",
                                               &openmldb__datasync__add_sync_task_request__descriptor,
                                               &openmldb__datasync__general_response__descriptor, handle}};
static const osync__rpc_page_t pages[] = {{"/page", page}, {"/big", big}, {"/error", plain_error}};

static void start(fixture_t *f) {
    osync_error_t err = {0};
    memset(f, 0, sizeof *f);
    assert_int_equal(uv_loop_init(&f->loop), 0);
    if (osync__curl_new(&f->loop, &f->curl, &err)) fail_msg("%s", err.message);
    osync__rpc_server_config_t config = {.host = "127.0.0.1",
                                         .json_style = OSYNC__JSON_BRPC,
                                         .methods = methods,
                                         .n_methods = 1,
                                         .pages = pages,
                                         .n_pages = 3,
                                         .arg = f};
    if (osync__rpc_server_new(&f->loop, &config, &f->server, &err)) fail_msg("%s", err.message);
    snprintf(f->base, sizeof f->base, "http://127.0.0.1:%d", osync__rpc_server_port(f->server));
}

static void on_closed(void *arg) {
    ((fixture_t *)arg)->closed = true;
}

static void stop(fixture_t *f) {
    osync__curl_close(f->curl, on_closed, f);
    osync__rpc_server_close(f->server, NULL, NULL);
    loop_end(&f->loop);
    assert_true(f->closed);
}

typedef struct transfer {
    fixture_t *f;
    CURL *easy;
    char url[128];
    size_t got;
    char first[32];
    int done;
    CURLcode result;
    size_t pause_at; /* bytes; 0: never */
    bool paused;
    bool refuse; /* the write callback fails once it goes on */
} transfer_t;

static size_t on_data(char *data, size_t size, size_t n, void *arg) {
    transfer_t *t = arg;
    if (t->pause_at && t->got >= t->pause_at) {
        t->pause_at = 0;
        t->paused = true;
        return CURL_WRITEFUNC_PAUSE;
    }
    if (t->refuse && t->paused) return 0;
    if (t->got == 0) snprintf(t->first, sizeof t->first, "%.*s", (int)(size * n), data);
    t->got += size * n;
    return size * n;
}

static void on_done(void *arg, CURL *easy, CURLcode result) {
    transfer_t *t = arg;
    assert_ptr_equal(t->easy, easy);
    t->done++;
    t->result = result;
    curl_easy_cleanup(easy);
    t->easy = NULL;
}

static void begin(fixture_t *f, transfer_t *t, const char *path) {
    osync_error_t err = {0};
    t->f = f;
    t->easy = curl_easy_init();
    snprintf(t->url, sizeof t->url, "%s%s", f->base, path);
    curl_easy_setopt(t->easy, CURLOPT_URL, t->url);
    curl_easy_setopt(t->easy, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(t->easy, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(t->easy, CURLOPT_WRITEDATA, t);
    if (osync__curl_start(f->curl, t->easy, on_done, t, &err)) fail_msg("%s", err.message);
    assert_int_equal(t->done, 0);
}

/* Runs the loop until *flag is n. */
static void until(fixture_t *f, const int *flag, int n) {
    uint64_t end = osync__mono_ms() + DEADLINE_MS;
    while (*flag < n) {
        uv_run(&f->loop, UV_RUN_ONCE);
        assert_true(osync__mono_ms() < end);
    }
    assert_int_equal(*flag, n);
}

static void many_transfers_at_once(void **state) {
    fixture_t f;
    static transfer_t t[MANY];
    memset(t, 0, sizeof t);
    start(&f);
    for (int round = 0; round < 2; round++) { /* the second time over connections that are open already */
        for (int i = 0; i < MANY; i++) {
            char path[32];
            t[i].got = 0;
            snprintf(path, sizeof path, "/page?number%d", i);
            t[i].done = 0;
            begin(&f, &t[i], path);
        }
        for (int i = 0; i < MANY; i++) {
            char want[32];
            until(&f, &t[i].done, 1);
            assert_int_equal(t[i].result, CURLE_OK);
            snprintf(want, sizeof want, "number%d", i);
            assert_string_equal(t[i].first, want);
        }
    }
    stop(&f);
    for (int i = 0; i < MANY; i++) assert_int_equal(t[i].done, 1);
}

static void failures_come_by_the_callback_only(void **state) {
    fixture_t f;
    transfer_t t[3] = {0};
    start(&f);
    char base[64];
    memcpy(base, f.base, sizeof base);
    snprintf(f.base, sizeof f.base, "http://127.0.0.1:1");
    begin(&f, &t[0], "/");
    snprintf(f.base, sizeof f.base, "http://no.such.host.invalid");
    begin(&f, &t[1], "/");
    snprintf(f.base, sizeof f.base, "nosuchscheme://x");
    begin(&f, &t[2], "/");
    for (int i = 0; i < 3; i++) until(&f, &t[i].done, 1);
    assert_int_equal(t[0].result, CURLE_COULDNT_CONNECT);
    assert_int_equal(t[1].result, CURLE_COULDNT_RESOLVE_HOST);
    assert_int_equal(t[2].result, CURLE_UNSUPPORTED_PROTOCOL);
    memcpy(f.base, base, sizeof base);
    stop(&f);
}

static void a_canceled_transfer_is_not_heard_of_again(void **state) {
    fixture_t f;
    transfer_t t[3] = {0};
    start(&f);
    for (int i = 0; i < 3; i++) begin(&f, &t[i], "/big");
    CURL *easy = t[0].easy; /* before it has begun */
    osync__curl_cancel(f.curl, easy);
    curl_easy_cleanup(easy);
    while (t[1].got == 0) uv_run(&f.loop, UV_RUN_ONCE);
    easy = t[1].easy; /* in the middle */
    osync__curl_cancel(f.curl, easy);
    osync__curl_cancel(f.curl, easy); /* it isn't there any more */
    curl_easy_cleanup(easy);
    until(&f, &t[2].done, 1);
    assert_int_equal(t[2].got, BIG);
    stop(&f);
    assert_int_equal(t[0].done, 0);
    assert_int_equal(t[1].done, 0);
}

typedef struct chain {
    transfer_t t; /* first, as the callbacks get it */
    transfer_t other;
    transfer_t next;
} chain_t;

static void on_done_chain(void *arg, CURL *easy, CURLcode result) {
    chain_t *c = arg;
    fixture_t *f = c->t.f;
    on_done(&c->t, easy, result);
    CURL *other = c->other.easy;
    osync__curl_cancel(f->curl, other);
    curl_easy_cleanup(other);
    begin(f, &c->next, "/page?next");
}

static void a_callback_may_cancel_and_start_others(void **state) {
    fixture_t f;
    chain_t c = {0};
    osync_error_t err = {0};
    start(&f);
    begin(&f, &c.other, "/big");
    begin(&f, &c.t, "/page?first");
    osync__curl_cancel(f.curl, c.t.easy);
    assert_int_equal(osync__curl_start(f.curl, c.t.easy, on_done_chain, &c, &err), 0);
    until(&f, &c.next.done, 1);
    assert_string_equal(c.next.first, "next");
    assert_int_equal(c.t.done, 1);
    stop(&f);
    assert_int_equal(c.other.done, 0);
}

static void a_paused_transfer_waits_for_resume(void **state) {
    fixture_t f;
    start(&f);
    for (int refuse = 0; refuse < 2; refuse++) {
        transfer_t t = {.pause_at = 100000, .refuse = refuse == 1};
        begin(&f, &t, "/big");
        while (!t.paused) uv_run(&f.loop, UV_RUN_ONCE);
        size_t got = t.got;
        for (int i = 0; i < 200; i++) uv_run(&f.loop, UV_RUN_NOWAIT);
        assert_int_equal(t.got, got);
        assert_int_equal(t.done, 0);
        osync__curl_resume(f.curl, t.easy);
        assert_int_equal(t.done, 0);
        until(&f, &t.done, 1);
        assert_int_equal(t.result, refuse ? CURLE_WRITE_ERROR : CURLE_OK);
        if (!refuse) assert_int_equal(t.got, BIG);
    }
    stop(&f);
}

static void close_on_done(void *arg, CURL *easy, CURLcode result) {
    transfer_t *t = arg;
    on_done(t, easy, result);
    osync__curl_close(t->f->curl, on_closed, t->f);
    osync__rpc_server_close(t->f->server, NULL, NULL);
    assert_false(t->f->closed);
}

static void a_callback_may_close(void **state) {
    fixture_t f;
    transfer_t t = {0};
    start(&f);
    begin(&f, &t, "/page?x");
    osync__curl_cancel(f.curl, t.easy);
    assert_int_equal(osync__curl_start(f.curl, t.easy, close_on_done, &t, NULL), 0);
    loop_end(&f.loop);
    assert_true(f.closed);
    assert_int_equal(t.done, 1);
}

/* ---- calls ---- */

typedef struct result {
    int n;
    int status;
    char message[1020];
    char body[128];
} result_t;

static void on_result(void *arg, int status, const char *body, size_t len, const osync_error_t *err) {
    result_t *r = arg;
    r->n++;
    r->status = status;
    assert_int_equal(status != 0, body == NULL);
    if (body) {
        assert_int_equal(strlen(body), len);
        snprintf(r->body, sizeof r->body, "%s", body);
    }
    snprintf(r->message, sizeof r->message, "%s", status ? err->message : "");
}

/* `pid` -1: GET. */
static void call(fixture_t *f, const char *path, int pid, uint32_t timeout_ms, result_t *r, osync__http_call_t **out) {
    osync_error_t err = {0};
    *r = (result_t){0};
    char url[128], request[64];
    snprintf(url, sizeof url, "%s%s", f->base, path);
    snprintf(request, sizeof request, "{\"tid\": 7, \"pid\": %d}", pid);
    if (osync__http_call(f->curl, url, pid < 0 ? NULL : request, timeout_ms, on_result, r, out, &err))
        fail_msg("%s", err.message);
    assert_int_equal(r->n, 0);
}

static void calls_are_answered(void **state) {
    fixture_t f;
    result_t r;
    start(&f);
    call(&f, "/DataCollector/AddSyncTask", 0, 10000, &r, NULL);
    until(&f, &r.n, 1);
    assert_int_equal(r.status, 0);
    assert_string_equal(r.body, "{\"code\":-1,\"msg\":\"why send a same task?\"}");
    assert_int_equal(f.tid, 7);
    call(&f, "/page?a=b", -1, 10000, &r, NULL);
    until(&f, &r.n, 1);
    assert_int_equal(r.status, 0);
    assert_string_equal(r.body, "a=b");
    call(&f, "/page", -1, 10000, &r, NULL); /* nothing */
    until(&f, &r.n, 1);
    assert_int_equal(r.status, 0);
    assert_string_equal(r.body, "");
    stop(&f);
}

static void refusals_carry_the_servers_words(void **state) {
    fixture_t f;
    result_t r;
    char want[128];
    start(&f);
    call(&f, "/DataCollector/AddSyncTask", 1, 0, &r, NULL);
    until(&f, &r.n, 1);
    assert_int_equal(r.status, OSYNC_ERPC);
    snprintf(want, sizeof want, "[E2001][%s][E2001]it broke", f.base + 7);
    assert_string_equal(r.message, want);
    call(&f, "/DataCollector/Nope", 0, 0, &r, NULL);
    until(&f, &r.n, 1);
    assert_memory_equal(r.message, "[E1002]", 7);
    call(&f, "/error", 0, 0, &r, NULL);
    until(&f, &r.n, 1);
    assert_int_equal(r.status, OSYNC_ERPC);
    snprintf(want, sizeof want, "%s/error answered with HTTP status 503: come back later", f.base);
    assert_string_equal(r.message, want);
    stop(&f);
}

static void no_answer_and_nobody_there(void **state) {
    fixture_t f;
    result_t r;
    osync__http_call_t *open;
    char base[64];
    start(&f);
    f.keep = true;
    call(&f, "/DataCollector/AddSyncTask", 0, 100, &r, NULL);
    until(&f, &r.n, 1);
    assert_int_equal(r.status, OSYNC_ETIMEOUT);
    assert_non_null(strstr(r.message, f.base));
    osync__rpc_fail(f.kept, 2001, "");
    f.kept = NULL;

    call(&f, "/DataCollector/AddSyncTask", 0, 0, &r, &open);
    while (!f.kept) uv_run(&f.loop, UV_RUN_ONCE);
    osync__http_cancel(open);
    osync__rpc_fail(f.kept, 2001, "");

    memcpy(base, f.base, sizeof base);
    snprintf(f.base, sizeof f.base, "http://127.0.0.1:1");
    result_t refused;
    call(&f, "/", 0, 0, &refused, NULL);
    until(&f, &refused.n, 1);
    assert_int_equal(refused.status, OSYNC_ECONN);
    assert_non_null(strstr(refused.message, "http://127.0.0.1:1/"));
    memcpy(f.base, base, sizeof base);
    stop(&f);
    assert_int_equal(r.n, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_transfers_at_once),
        cmocka_unit_test(failures_come_by_the_callback_only),
        cmocka_unit_test(a_canceled_transfer_is_not_heard_of_again),
        cmocka_unit_test(a_callback_may_cancel_and_start_others),
        cmocka_unit_test(a_paused_transfer_waits_for_resume),
        cmocka_unit_test(a_callback_may_close),
        cmocka_unit_test(calls_are_answered),
        cmocka_unit_test(refusals_carry_the_servers_words),
        cmocka_unit_test(no_answer_and_nobody_there),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
