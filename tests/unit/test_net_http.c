/* HTTP on the server's port: what bRPC answered to captured requests, keep-alive, pipelining, limits, pages, the Java
 * side's JSON. */
#include "net_peer.h"

#include <zlib.h>

#include "data_sync.pb-c.h"
#include "net/json.h"
#include "net/rpc.h"
#include "osync/version.h"

enum { MAX_BODY = 100000 };

typedef struct fixture {
    uv_loop_t loop;
    osync__rpc_server_t *server;
    int port;
    ProtobufCMessage *answer; /* NULL: keep the call */
    osync__rpc_call_t *kept;
    size_t n_handled;
    uint32_t tid;
    char dest[64];
    char query[64];
} fixture_t;

static void handle(osync__rpc_call_t *call, void *arg) {
    fixture_t *f = arg;
    f->n_handled++;
    snprintf(f->query, sizeof f->query, "%s", osync__rpc_query(call));
    if (osync__rpc_request(call)->descriptor == &openmldb__datasync__add_sync_task_request__descriptor) {
        const Openmldb__Datasync__AddSyncTaskRequest *r =
            (const Openmldb__Datasync__AddSyncTaskRequest *)osync__rpc_request(call);
        f->tid = r->tid;
        snprintf(f->dest, sizeof f->dest, "%s", r->dest ? r->dest : "");
    }
    if (f->answer)
        osync__rpc_reply(call, f->answer);
    else
        f->kept = call;
}

static void page(osync__rpc_call_t *call, void *arg) {
    fixture_t *f = arg;
    size_t len;
    const uint8_t *body = osync__rpc_attachment(call, &len);
    char text[256];
    int n = snprintf(text, sizeof text, "query=%s body=%.*s", osync__rpc_query(call), (int)len, (const char *)body);
    f->n_handled++;
    assert_null(osync__rpc_request(call));
    osync__rpc_reply_http(call, 200, "text/html", text, (size_t)n);
}

static const osync__rpc_method_t methods[] = {
    {"openmldb.datasync.DataCollector", "AddSyncTask", &openmldb__datasync__add_sync_task_request__descriptor,
     &openmldb__datasync__general_response__descriptor, handle},
    {"openmldb.datasync.SyncTool", "TaskStatus", &openmldb__datasync__task_status_request__descriptor,
     &openmldb__datasync__task_status_response__descriptor, handle},
    {"openmldb.datasync.SyncTool", "CreateSyncTask", &openmldb__datasync__create_sync_task_request__descriptor,
     &openmldb__datasync__general_response__descriptor, handle},
    {"openmldb.datasync.Test", "Point", &openmldb__datasync__sync_point__descriptor,
     &openmldb__datasync__general_response__descriptor, handle},
};
static const osync__rpc_page_t pages[] = {{"/page", page}, {"/a/b", page}};

static void start(fixture_t *f, osync__json_style_t style) {
    osync_error_t err = {0};
    memset(f, 0, sizeof *f);
    assert_int_equal(uv_loop_init(&f->loop), 0);
    osync__rpc_server_config_t config = {.host = "127.0.0.1",
                                         .max_body_size = MAX_BODY,
                                         .json_style = style,
                                         .methods = methods,
                                         .n_methods = 4,
                                         .pages = pages,
                                         .n_pages = 2,
                                         .arg = f};
    if (osync__rpc_server_new(&f->loop, &config, &f->server, &err)) fail_msg("%s", err.message);
    f->port = osync__rpc_server_port(f->server);
}

static void stop(fixture_t *f) {
    osync__rpc_server_close(f->server, NULL, NULL);
    loop_end(&f->loop);
}

static char *text_of(const void *data, size_t len) {
    char *text = malloc(len + 1);
    memcpy(text, data, len);
    text[len] = '\0';
    return text;
}

/* Waits for one whole answer and takes it out; its head and body as strings to be freed. */
static void take_answer(peer_t *p, char **head, char **body) {
    char *text = NULL;
    const char *end;
    for (size_t n = 1;; n = p->in.len + 1) {
        assert_true(peer_wait(p, n));
        free(text);
        text = text_of(p->in.data, p->in.len);
        if ((end = strstr(text, "\r\n\r\n"))) break;
    }
    size_t head_len = (size_t)(end - text) + 4;
    const char *length = strstr(text, "Content-Length: ");
    size_t body_len = length && length < end ? strtoul(length + 16, NULL, 10) : 0;
    free(text);
    assert_true(peer_wait(p, head_len + body_len));
    *head = text_of(p->in.data, head_len);
    *body = text_of(p->in.data + head_len, body_len);
    osync__buf_consume(&p->in, head_len + body_len);
}

/* Sends text and compares the status line's code and the body. */
static void expect(peer_t *p, const char *request, int status, const char *body) {
    char *head, *got;
    peer_send(p, request, strlen(request));
    take_answer(p, &head, &got);
    if (atoi(head + 9) != status) fail_msg("want %d, got %s%s", status, head, got);
    if (body) assert_string_equal(got, body);
    free(head);
    free(got);
}

static void expect_error(peer_t *p, const char *request, int status, int code, const char *text) {
    char *head, *got;
    char header[64];
    peer_send(p, request, strlen(request));
    take_answer(p, &head, &got);
    if (atoi(head + 9) != status) fail_msg("want %d, got %s%s", status, head, got);
    snprintf(header, sizeof header, "x-bd-error-code: %d\r\n", code);
    assert_non_null(strstr(head, header));
    assert_non_null(strstr(head, "Content-Type: text/plain\r\n"));
    if (!strstr(got, text)) fail_msg("want %s, got %s", text, got);
    free(head);
    free(got);
}

/* ---- what was captured ---- */

static const char *const captured[] = {
    "chunked",
    "conn_close",
    "expect_100",
    "get_method_no_body",
    "get_with_query",
    "health",
    "http10_close",
    "post_bad_json",
    "post_content_type_charset",
    "post_empty_body",
    "post_empty_object",
    "post_json_bad_enum",
    "post_json_bad_table",
    "post_json_enum_names_full_service_name",
    "post_json_int64_as_string",
    "post_json_missing_required",
    "post_json_ok_short_service_name",
    "post_json_same_token_again",
    "post_json_tablet_down",
    "post_json_unknown_field",
    "post_json_wrong_type",
    "post_no_content_type",
    "post_not_an_object",
    "post_proto_content_type_garbage",
    "post_wrong_content_type_text",
    "put_method",
    "root",
    "service_only",
    "status",
    "unknown_method",
    "unknown_service",
    "vars",
    "version",
};

static void replace_once(char **text, const char *from, const char *to) {
    char *at = strstr(*text, from);
    if (!at) return;
    size_t size = strlen(*text) + strlen(to) + 1;
    char *out = malloc(size);
    snprintf(out, size, "%.*s%s%s", (int)(at - *text), *text, to, at + strlen(from));
    free(*text);
    *text = out;
}

/* Cuts the line "Content-Length: ..." out. */
static void drop_length(char *head) {
    char *at = strstr(head, "Content-Length: ");
    assert_non_null(at);
    char *next = strstr(at, "\r\n") + 2;
    memmove(at, next, strlen(next) + 1);
}

static void answers_captured_requests_as_brpc_did(void **state) {
    fixture_t f;
    start(&f, OSYNC__JSON_BRPC);
    for (size_t i = 0; i < sizeof captured / sizeof *captured; i++) {
        osync__buf_t request, response;
        char path[128], ours[64];
        char *head, *body;
        peer_t p;
        snprintf(path, sizeof path, "fixtures/wire/http/%s.request.txt", captured[i]);
        load_fixture(path, &request);
        snprintf(path, sizeof path, "fixtures/wire/http/%s.response.txt", captured[i]);
        load_fixture(path, &response);
        char *want_head = (char *)response.data;
        char *want_body = strdup(strstr(want_head, "\r\n\r\n") + 4);
        strstr(want_head, "\r\n\r\n")[4] = '\0';
        bool ok = strncmp(want_head + 9, "200", 3) == 0 && want_body[0] == '{';
        if (ok)
            assert_int_equal(osync__json_to_message(&openmldb__datasync__general_response__descriptor, want_body,
                                                    strlen(want_body), &f.answer, NULL),
                             0);
        f.n_handled = 0;
        peer_connect(&p, &f.loop, f.port);
        peer_send(&p, request.data, request.len);
        take_answer(&p, &head, &body);
        assert_int_equal(f.n_handled, ok ? 1 : 0);
        snprintf(ours, sizeof ours, "[127.0.0.1:%d]", f.port);
        replace_once(&body, ours, "[127.0.0.1:9888]");
        drop_length(head);
        drop_length(want_head);
        assert_string_equal(head, want_head);
        if (strcmp(captured[i], "version") == 0) {
            assert_string_equal(body, osync_version());
        } else if (strcmp(captured[i], "post_bad_json") == 0) { /* each parser has its own words for it */
            size_t n = (size_t)(strstr(want_body, "Missing a name") - want_body);
            assert_memory_equal(body, want_body, n);
            assert_non_null(strstr(body, " [AddSyncTaskRequest]"));
        } else {
            assert_string_equal(body, want_body);
        }
        /* HTTP/1.1 connections stay open unless one side says otherwise */
        if (strstr(want_head, "close") || strncmp(want_head, "HTTP/1.0", 8) == 0)
            peer_wait_eof(&p);
        else
            expect(&p, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n", 200, "OK");
        assert_int_equal(p.in.len, 0);
        peer_close(&p);
        if (ok) protobuf_c_message_free_unpacked(f.answer, NULL);
        f.answer = NULL;
        free(head);
        free(body);
        free(want_body);
        osync__buf_free(&request);
        osync__buf_free(&response);
    }
    stop(&f);
}

static void the_java_sides_requests_get_its_json(void **state) {
    static const struct {
        const char *request, *response;
        const ProtobufCMessageDescriptor *type;
    } cases[] = {
        {"01_status_empty", "13_status_running", &openmldb__datasync__task_status_response__descriptor},
        {"01_status_empty", "01_status_empty", &openmldb__datasync__task_status_response__descriptor},
        {"02_create_t_all", "02_create_t_all", &openmldb__datasync__general_response__descriptor},
        {"09_create_mode1", "03_create_exists", &openmldb__datasync__general_response__descriptor},
        {"11_create_without_mode", "07_create_no_collector", &openmldb__datasync__general_response__descriptor},
    };
    fixture_t f;
    peer_t p;
    start(&f, OSYNC__JSON_JAVA);
    peer_connect(&p, &f.loop, f.port);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        osync__buf_t request, response;
        char path[128];
        snprintf(path, sizeof path, "fixtures/synctool/http/%s_01_req.bin", cases[i].request);
        load_fixture(path, &request);
        snprintf(path, sizeof path, "fixtures/synctool/http/%s_01_resp.bin", cases[i].response);
        load_fixture(path, &response);
        const char *want = strstr((char *)response.data, "\r\n\r\n") + 4;
        assert_int_equal(osync__json_to_message(cases[i].type, want, strlen(want), &f.answer, NULL), 0);
        char *head, *body;
        peer_send(&p, request.data, request.len);
        take_answer(&p, &head, &body);
        assert_memory_equal(head, "HTTP/1.1 200 OK\r\n", 17);
        assert_non_null(strstr(head, "Content-Type: application/json\r\n"));
        assert_string_equal(body, want);
        free(head);
        free(body);
        protobuf_c_message_free_unpacked(f.answer, NULL);
        f.answer = NULL;
        osync__buf_free(&request);
        osync__buf_free(&response);
    }
    /* The original swallows what it cannot parse; this must not. */
    expect_error(
        &p,
        "POST /SyncTool/CreateSyncTask HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 6\r\n\r\n{\"db\":",
        400, 1003, "Fail to parse http body as openmldb.datasync.CreateSyncTaskRequest, Invalid json: ");
    peer_close(&p);
    stop(&f);
}

static const Openmldb__Datasync__GeneralResponse empty = OPENMLDB__DATASYNC__GENERAL_RESPONSE__INIT;

static ProtobufCMessage *empty_answer(void) {
    return (ProtobufCMessage *)(uintptr_t)&empty;
}

static void requests_may_come_in_any_pieces(void **state) {
    static const char request[] = "POST /DataCollector/AddSyncTask HTTP/1.1\r\nContent-Type: application/json\r\n"
                                  "Transfer-Encoding: chunked\r\n\r\n5\r\n{\"tid\r\n7\r\n\":1234}\r\n0\r\n\r\n";
    fixture_t f;
    peer_t p;
    start(&f, OSYNC__JSON_BRPC);
    f.answer = empty_answer();
    peer_connect(&p, &f.loop, f.port);
    for (size_t cut = 1; cut < sizeof request - 1; cut++) {
        f.tid = 0;
        peer_send(&p, request, cut);
        for (int i = 0; i < 3; i++) peer_turn(&p);
        expect(&p, request + cut, 200, "{}");
        assert_int_equal(f.tid, 1234);
    }
    peer_close(&p);
    stop(&f);
}

static void pipelined_requests_are_answered_in_order(void **state) {
    enum { N = 200 };
    fixture_t f;
    peer_t p;
    osync__buf_t all = {0};
    start(&f, OSYNC__JSON_BRPC);
    peer_connect(&p, &f.loop, f.port);
    for (int i = 0; i < N; i++) {
        char body[32];
        int n = snprintf(body, sizeof body, "{\"tid\":%d}", i);
        osync__buf_printf(&all, "POST /DataCollector/AddSyncTask HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s", n, body);
        osync__buf_printf(&all, "GET /page?%d HTTP/1.1\r\n\r\n", i);
    }
    peer_send(&p, all.data, all.len);
    for (int i = 0; i < N; i++) {
        char want[64];
        while (!f.kept) peer_turn(&p); /* answered later, one after the other */
        assert_int_equal(f.tid, i);
        assert_int_equal(f.n_handled, 2 * i + 1);
        Openmldb__Datasync__GeneralResponse general = OPENMLDB__DATASYNC__GENERAL_RESPONSE__INIT;
        general.has_code = true;
        general.code = i;
        osync__rpc_call_t *call = f.kept;
        f.kept = NULL;
        osync__rpc_reply(call, &general.base);
        snprintf(want, sizeof want, "{\"code\":%d}", i);
        expect(&p, "", 200, want);
        snprintf(want, sizeof want, "query=%d body=", i);
        expect(&p, "", 200, want);
    }
    osync__buf_free(&all);
    peer_close(&p);
    stop(&f);
}

static void paths_and_pages(void **state) {
    fixture_t f;
    peer_t p;
    start(&f, OSYNC__JSON_BRPC);
    f.answer = empty_answer();
    peer_connect(&p, &f.loop, f.port);
    expect(&p, "GET /page HTTP/1.1\r\n\r\n", 200, "query= body=");
    expect(&p, "POST /a/b?x=1&y#z HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 200, "query=x=1&y body=abc");
    expect(&p, "GET http://host:1/page?q HTTP/1.1\r\n\r\n", 200, "query=q body=");
    expect_error(&p, "GET /page/ HTTP/1.1\r\n\r\n", 404, 1002, "Fail to find method on `/page/'");
    expect_error(&p, "GET http://host:1 HTTP/1.1\r\n\r\n", 404, 1002, "Fail to find method on `/'");
    expect_error(&p, "OPTIONS * HTTP/1.1\r\n\r\n", 404, 1002, "Fail to find method on `*'");
    expect(&p, "GET /DataCollector/AddSyncTask/more/of/it?a=b HTTP/1.1\r\n\r\n", 200, "{}");
    assert_string_equal(f.query, "a=b");
    expect(&p, "GET //openmldb.datasync.DataCollector//AddSyncTask HTTP/1.1\r\n\r\n", 200, "{}");
    expect_error(&p, "GET /datacollector/AddSyncTask HTTP/1.1\r\n\r\n", 404, 1002, "Fail to find method on");
    expect_error(&p, "GET /openmldb.datasync.SyncTool HTTP/1.1\r\n\r\n", 404, 1002,
                 "Missing method name for service=SyncTool. Available methods are: \n\n"
                 "rpc TaskStatus (TaskStatusRequest) returns (TaskStatusResponse);\n"
                 "rpc CreateSyncTask (CreateSyncTaskRequest) returns (GeneralResponse);\n");
    /* a body that the method doesn't ask for is no harm; one that is missing may be */
    expect_error(&p, "GET /Test/Point HTTP/1.1\r\n\r\n", 400, 1003,
                 "openmldb.datasync.SyncPoint needs to be created from a non-empty json, it has required fields.");
    peer_close(&p);
    stop(&f);
}

static void head_has_no_body(void **state) {
    fixture_t f;
    peer_t p;
    start(&f, OSYNC__JSON_BRPC);
    peer_connect(&p, &f.loop, f.port);
    static const char want[] =
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\nconnection: close\r\n\r\n";
    static const char request[] = "HEAD /health HTTP/1.1\r\nConnection: close\r\n\r\n";
    peer_send(&p, request, sizeof request - 1);
    peer_wait_eof(&p);
    assert_bytes(p.in.data, p.in.len, want, sizeof want - 1);
    peer_close(&p);
    stop(&f);
}

static void protobuf_bodies_and_content_types(void **state) {
    fixture_t f;
    peer_t p;
    Openmldb__Datasync__GeneralResponse general = OPENMLDB__DATASYNC__GENERAL_RESPONSE__INIT;
    general.has_code = true;
    general.code = 5;
    start(&f, OSYNC__JSON_BRPC);
    f.answer = &general.base;
    peer_connect(&p, &f.loop, f.port);
    static const char *const types[] = {"application/proto", "application/x-protobuf; v=1", "Application/Proto"};
    for (int i = 0; i < 3; i++) {
        char request[256];
        char *head, *body;
        int n = snprintf(
            request, sizeof request,
            "POST /DataCollector/AddSyncTask HTTP/1.1\r\nContent-Type: %s\r\nContent-Length: 2\r\n\r\n\x08\x4d",
            types[i]);
        f.tid = 0;
        peer_send(&p, request, (size_t)n);
        take_answer(&p, &head, &body);
        assert_int_equal(f.tid, 0x4d);
        assert_string_equal(body, "\x08\x05");
        assert_non_null(strstr(head, types[i]));
        free(head);
        free(body);
    }
    expect(
        &p,
        "POST /DataCollector/AddSyncTask HTTP/1.1\r\nContent-Type: application/protocol\r\nContent-Length: 2\r\n\r\n{}",
        200, "{\"code\":5}");
    peer_close(&p);
    stop(&f);
}

static size_t gzip(const char *text, size_t len, uint8_t *out, size_t size) {
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (Bytef *)(uintptr_t)text;
    z.avail_in = (uInt)len;
    z.next_out = out;
    z.avail_out = (uInt)size;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return z.total_out;
}

static void send_encoded(peer_t *p, const char *encoding, const void *body, size_t len) {
    char head[256];
    int n = snprintf(head, sizeof head,
                     "POST /DataCollector/AddSyncTask HTTP/1.1\r\nContent-Encoding: %s\r\nContent-Length: %zu\r\n\r\n",
                     encoding, len);
    peer_send(p, head, (size_t)n);
    peer_send(p, body, len);
}

static void gzip_bodies_are_inflated_within_the_limit(void **state) {
    fixture_t f;
    peer_t p;
    uint8_t packed[4096];
    char *bomb = malloc(2 * MAX_BODY);
    start(&f, OSYNC__JSON_BRPC);
    f.answer = empty_answer();
    peer_connect(&p, &f.loop, f.port);
    send_encoded(&p, "gzip", packed, gzip("{\"dest\":\"/x\"}", 13, packed, sizeof packed));
    expect(&p, "", 200, "{}");
    assert_string_equal(f.dest, "/x");
    memset(bomb, ' ', 2 * MAX_BODY);
    memcpy(bomb + 2 * MAX_BODY - 2, "{}", 2);
    send_encoded(&p, "gzip", packed, gzip(bomb, 2 * MAX_BODY, packed, sizeof packed));
    expect_error(&p, "", 400, 1003, "larger than max_body_size");
    send_encoded(&p, "gzip", "{}", 2);
    expect_error(&p, "", 400, 1003, "Fail to un-gzip request body");
    send_encoded(&p, "br", "{}", 2);
    expect_error(&p, "", 400, 1003, "isn't gzip");
    send_encoded(&p, "identity", "{}", 2);
    expect(&p, "", 200, "{}");
    free(bomb);
    peer_close(&p);
    stop(&f);
}

static void too_large_is_closed_or_refused(void **state) {
    fixture_t f;
    peer_t p;
    osync__buf_t out = {0};
    start(&f, OSYNC__JSON_BRPC);
    f.answer = empty_answer();
    /* by the length that is announced; nothing of the body is waited for */
    peer_connect(&p, &f.loop, f.port);
    static const char announced[] = "POST /DataCollector/AddSyncTask HTTP/1.1\r\nContent-Length: 100001\r\n\r\n";
    peer_send(&p, announced, sizeof announced - 1);
    peer_wait_eof(&p);
    assert_int_equal(p.in.len, 0);
    peer_close(&p);
    /* by what comes in chunks */
    peer_connect(&p, &f.loop, f.port);
    osync__buf_printf(&out, "POST /DataCollector/AddSyncTask HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 12; i++) osync__buf_printf(&out, "2710\r\n%10000d\r\n", 1);
    peer_send(&p, out.data, out.len);
    peer_wait_eof(&p);
    assert_int_equal(p.in.len, 0);
    peer_close(&p);
    osync__buf_free(&out);
    /* the largest body that is taken */
    peer_connect(&p, &f.loop, f.port);
    osync__buf_printf(&out, "POST /DataCollector/AddSyncTask HTTP/1.1\r\nContent-Length: 100000\r\n\r\n%99998s{}", "");
    peer_send(&p, out.data, out.len);
    expect(&p, "", 200, "{}");
    peer_close(&p);
    osync__buf_free(&out);
    /* a URL, and headers */
    for (int i = 0; i < 2; i++) {
        peer_connect(&p, &f.loop, f.port);
        osync__buf_printf(&out, "GET /");
        for (int k = 0; k < (i ? 1 : 9000); k++) osync__buf_append(&out, "x", 1);
        osync__buf_printf(&out, " HTTP/1.1\r\n");
        for (int k = 0; i && k < 3000; k++) osync__buf_printf(&out, "X-Header-%d: %020d\r\n", k, k);
        osync__buf_printf(&out, "\r\n");
        peer_send(&p, out.data, out.len);
        expect_error(&p, "", 400, 1003, "Fail to parse the http request");
        peer_wait_eof(&p);
        peer_close(&p);
        osync__buf_free(&out);
    }
    stop(&f);
}

static void what_is_not_http_is_refused_and_closed(void **state) {
    static const char *const cases[] = {
        "GET /health HTTP/9.9.9\r\n\r\n",
        "GET /health\r\nX\r\n\r\n",
        "POST /health HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /health HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "POST /health HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "CONNECT host:1 HTTP/1.1\r\n\r\n",
        "GET /health HTTP/1.1\r\nBad Header\r\n\r\n",
    };
    fixture_t f;
    start(&f, OSYNC__JSON_BRPC);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        peer_t p;
        peer_connect(&p, &f.loop, f.port);
        expect_error(&p, cases[i], 400, 1003, "Fail to parse the http request");
        peer_wait_eof(&p);
        peer_close(&p);
    }
    stop(&f);
}

static void an_offer_to_upgrade_is_not_taken_up(void **state) {
    fixture_t f;
    peer_t p;
    start(&f, OSYNC__JSON_BRPC);
    f.answer = empty_answer();
    peer_connect(&p, &f.loop, f.port);
    for (int i = 0; i < 2; i++) {
        expect(&p,
               "POST /DataCollector/AddSyncTask HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: "
               "h2c\r\nHTTP2-Settings: x\r\n"
               "Content-Length: 9\r\n\r\n{\"tid\":8}",
               200, "{}");
        assert_int_equal(f.tid, 8);
        expect(&p, "GET /health HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 200, "OK");
    }
    peer_close(&p);
    stop(&f);
}

static void a_client_may_wait_for_leave_to_send(void **state) {
    static const char head[] =
        "POST /DataCollector/AddSyncTask HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n";
    static const char leave[] = "HTTP/1.1 100 Continue\r\n\r\n";
    fixture_t f;
    peer_t p;
    start(&f, OSYNC__JSON_BRPC);
    f.answer = empty_answer();
    peer_connect(&p, &f.loop, f.port);
    for (int i = 0; i < 2; i++) {
        peer_send(&p, head, sizeof head - 1);
        assert_true(peer_wait(&p, sizeof leave - 1));
        assert_bytes(p.in.data, p.in.len, leave, sizeof leave - 1);
        p.in.len = 0;
        expect(&p, "{\"tid\":9}", 200, "{}");
    }
    peer_close(&p);
    stop(&f);
}

static void http10_may_ask_to_stay(void **state) {
    fixture_t f;
    peer_t p;
    char *head, *body;
    start(&f, OSYNC__JSON_BRPC);
    peer_connect(&p, &f.loop, f.port);
    static const char request[] = "GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    for (int i = 0; i < 2; i++) {
        peer_send(&p, request, sizeof request - 1);
        take_answer(&p, &head, &body);
        assert_string_equal(
            head, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\nconnection: keep-alive\r\n\r\n");
        free(head);
        free(body);
    }
    peer_close(&p);
    stop(&f);
}

static void error_codes_have_their_http_status(void **state) {
    static const struct {
        int code, status;
    } cases[] = {{1001, 404}, {1002, 404}, {1003, 400}, {1004, 401}, {1008, 504},
                 {2001, 500}, {2003, 503}, {2004, 503}, {-1, 500}};
    fixture_t f;
    peer_t p;
    start(&f, OSYNC__JSON_BRPC);
    peer_connect(&p, &f.loop, f.port);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[64];
        static const char request[] = "GET /DataCollector/AddSyncTask HTTP/1.1\r\n\r\n";
        peer_send(&p, request, sizeof request - 1);
        while (!f.kept) peer_turn(&p);
        osync__rpc_fail(f.kept, cases[i].code, "because");
        f.kept = NULL;
        snprintf(text, sizeof text, "[127.0.0.1:%d][E%d]because", f.port, cases[i].code);
        expect_error(&p, "", cases[i].status, cases[i].code, text);
    }
    peer_close(&p);
    stop(&f);
}

static void calls_outlive_their_connection(void **state) {
    fixture_t f;
    peer_t p;
    start(&f, OSYNC__JSON_BRPC);
    peer_connect(&p, &f.loop, f.port);
    static const char request[] = "GET /DataCollector/AddSyncTask?q HTTP/1.1\r\n\r\n";
    peer_send(&p, request, sizeof request - 1);
    while (!f.kept) peer_turn(&p);
    stop(&f);
    assert_string_equal(osync__rpc_query(f.kept), "q");
    osync__rpc_reply(f.kept, &empty.base);
    peer_wait_eof(&p);
    peer_close(&p);
}

static void hostile_requests_do_no_harm(void **state) {
    fixture_t f;
    unsigned seed = 7;
    start(&f, OSYNC__JSON_BRPC);
    f.answer = empty_answer();
    for (int round = 0; round < 3000; round++) {
        osync__buf_t request;
        char path[128];
        peer_t p;
        snprintf(path, sizeof path, "fixtures/wire/http/%s.request.txt",
                 captured[(size_t)rand_r(&seed) % (sizeof captured / sizeof *captured)]);
        load_fixture(path, &request);
        for (int i = 1 + rand_r(&seed) % 6; i > 0; i--)
            request.data[(size_t)rand_r(&seed) % request.len] =
                rand_r(&seed) % 2 ? (uint8_t)rand_r(&seed) : (uint8_t) " \r\n:/0,chunked{"[(size_t)rand_r(&seed) % 16];
        if (rand_r(&seed) % 3 == 0) assert_int_equal(osync__buf_append(&request, request.data, request.len / 2), 0);
        peer_connect(&p, &f.loop, f.port);
        peer_send(&p, request.data, request.len);
        shutdown(p.fd, SHUT_WR);
        peer_wait_eof(&p);
        peer_close(&p);
        osync__buf_free(&request);
    }
    peer_t p;
    peer_connect(&p, &f.loop, f.port);
    expect(&p, "GET /health HTTP/1.1\r\n\r\n", 200, "OK");
    peer_close(&p);
    stop(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_captured_requests_as_brpc_did),
        cmocka_unit_test(the_java_sides_requests_get_its_json),
        cmocka_unit_test(requests_may_come_in_any_pieces),
        cmocka_unit_test(pipelined_requests_are_answered_in_order),
        cmocka_unit_test(paths_and_pages),
        cmocka_unit_test(head_has_no_body),
        cmocka_unit_test(protobuf_bodies_and_content_types),
        cmocka_unit_test(gzip_bodies_are_inflated_within_the_limit),
        cmocka_unit_test(too_large_is_closed_or_refused),
        cmocka_unit_test(what_is_not_http_is_refused_and_closed),
        cmocka_unit_test(an_offer_to_upgrade_is_not_taken_up),
        cmocka_unit_test(a_client_may_wait_for_leave_to_send),
        cmocka_unit_test(http10_may_ask_to_stay),
        cmocka_unit_test(error_codes_have_their_http_status),
        cmocka_unit_test(calls_outlive_their_connection),
        cmocka_unit_test(hostile_requests_do_no_harm),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
