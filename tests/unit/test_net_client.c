/* The client of baidu_std: its bytes, and what its callers are told whatever the other side does. */
#include "net_peer.h"

#include "data_sync.pb-c.h"
#include "net/rpc.h"
#include "tablet.pb-c.h"

enum { MAX_CALLS = 1000 };

typedef struct result {
    int n; /* callbacks */
    int status;
    osync_error_t err;
    int32_t code; /* of the GeneralResponse */
    char msg[64];
} result_t;

typedef struct fixture {
    uv_loop_t loop;
    osync__rpc_client_t *client;
    int listener;
    char endpoint[64];
    bool closed;
} fixture_t;

static void on_result(void *arg, int status, const ProtobufCMessage *response, const osync_error_t *err) {
    result_t *r = arg;
    r->n++;
    r->status = status;
    assert_int_equal(status != 0, response == NULL);
    if (response && response->descriptor == &openmldb__datasync__general_response__descriptor) {
        const Openmldb__Datasync__GeneralResponse *general = (const Openmldb__Datasync__GeneralResponse *)response;
        r->code = general->code;
        snprintf(r->msg, sizeof r->msg, "%s", general->msg ? general->msg : "");
    }
    if (status) {
        r->err = *err;
        assert_int_equal(err->code, status);
    }
}

static void start(fixture_t *f, const char *auth, uint64_t max_body, uint32_t connect_timeout_ms) {
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t len = sizeof at;
    osync_error_t err = {0};
    memset(f, 0, sizeof *f);
    assert_int_equal(uv_loop_init(&f->loop), 0);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    f->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(f->listener, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(f->listener, 16), 0);
    assert_int_equal(getsockname(f->listener, (struct sockaddr *)&at, &len), 0);
    snprintf(f->endpoint, sizeof f->endpoint, "127.0.0.1:%d", ntohs(at.sin_port));
    osync__rpc_client_config_t config = {
        .auth = auth, .max_body_size = max_body, .connect_timeout_ms = connect_timeout_ms};
    if (osync__rpc_client_new(&f->loop, &config, &f->client, &err)) fail_msg("%s", err.message);
}

static void on_closed(void *arg) {
    ((fixture_t *)arg)->closed = true;
}

static void stop(fixture_t *f) {
    osync__rpc_client_close(f->client, on_closed, f);
    assert_false(f->closed);
    close(f->listener);
    loop_end(&f->loop);
    assert_true(f->closed);
}

static void accept_peer(fixture_t *f, peer_t *p) {
    struct pollfd fd = {.fd = f->listener, .events = POLLIN};
    uint64_t end = osync__mono_ms() + DEADLINE_MS;
    while (poll(&fd, 1, 0) == 0) {
        uv_run(&f->loop, UV_RUN_NOWAIT);
        assert_true(osync__mono_ms() < end);
    }
    peer_open(p, &f->loop, accept(f->listener, NULL, NULL));
}

static void wait_result(fixture_t *f, const result_t *r, int n) {
    uint64_t end = osync__mono_ms() + DEADLINE_MS;
    while (r->n < n) {
        uv_run(&f->loop, UV_RUN_NOWAIT);
        struct pollfd fd = {.fd = uv_backend_fd(&f->loop), .events = POLLIN};
        (void)poll(&fd, 1, 1);
        assert_true(osync__mono_ms() < end);
    }
    assert_int_equal(r->n, n);
}

static int call(fixture_t *f, const char *endpoint, uint32_t timeout_ms, result_t *r, uint64_t *id,
                osync_error_t *err) {
    Openmldb__Datasync__AddSyncTaskRequest request = OPENMLDB__DATASYNC__ADD_SYNC_TASK_REQUEST__INIT;
    return osync__rpc_call(f->client, endpoint, "DataCollector", "AddSyncTask", &request.base, NULL, 0,
                           &openmldb__datasync__general_response__descriptor, timeout_ms, on_result, r, id, err);
}

static void must_call(fixture_t *f, uint32_t timeout_ms, result_t *r, uint64_t *id) {
    osync_error_t err = {0};
    if (call(f, f->endpoint, timeout_ms, r, id, &err)) fail_msg("%s", err.message);
    assert_int_equal(r->n, 0);
}

static int64_t id_of(const osync__buf_t *frame) {
    Brpc__Policy__RpcMeta *meta = frame_meta(frame);
    int64_t id = meta->correlation_id;
    protobuf_c_message_free_unpacked(&meta->base, NULL);
    return id;
}

static int64_t take_request(peer_t *p) {
    osync__buf_t frame;
    assert_true(peer_frame(p, &frame));
    int64_t id = id_of(&frame);
    osync__buf_free(&frame);
    return id;
}

static void answer(peer_t *p, int64_t id, int32_t code) {
    osync__buf_t out = {0};
    Openmldb__Datasync__GeneralResponse general = OPENMLDB__DATASYNC__GENERAL_RESPONSE__INIT;
    general.has_code = true;
    general.code = code;
    assert_int_equal(osync__frame_response(&out, id, 0, NULL, &general.base), 0);
    peer_send(p, out.data, out.len);
    osync__buf_free(&out);
}

/* ---- bytes ---- */

/* The frame with another correlation id, everything else as it was. */
static void with_id(const osync__buf_t *frame, int64_t id, osync__buf_t *out) {
    Brpc__Policy__RpcMeta *meta = frame_meta(frame);
    size_t head = 12 + frame_meta_size(frame->data);
    meta->correlation_id = id;
    *out = (osync__buf_t){0};
    make_frame(out, meta, frame->data + head, frame->len - head);
    protobuf_c_message_free_unpacked(&meta->base, NULL);
}

static void assert_request_is(peer_t *p, const char *path) {
    osync__buf_t want, got, renumbered;
    load_fixture(path, &want);
    assert_true(peer_frame(p, &got));
    with_id(&got, id_of(&want), &renumbered);
    assert_bytes(renumbered.data, renumbered.len, want.data, want.len);
    osync__buf_free(&want);
    osync__buf_free(&got);
    osync__buf_free(&renumbered);
}

static void get_table_status(fixture_t *f, uint32_t tid, result_t *r) {
    Openmldb__Api__GetTableStatusRequest request = OPENMLDB__API__GET_TABLE_STATUS_REQUEST__INIT;
    osync_error_t err = {0};
    request.has_tid = request.has_pid = request.has_need_schema = true;
    request.tid = tid;
    if (osync__rpc_call(f->client, f->endpoint, "openmldb.api.TabletServer", "GetTableStatus", &request.base, NULL, 0,
                        &openmldb__api__get_table_status_response__descriptor, 0, on_result, r, NULL, &err))
        fail_msg("%s", err.message);
}

static void requests_are_what_the_collector_sends(void **state) {
    fixture_t f;
    peer_t p;
    result_t r[3] = {0};
    start(&f, "sdefault", 0, 0);
    get_table_status(&f, 1, &r[0]); /* log_id 0, with authentication */
    get_table_status(&f, 3, &r[1]); /* log_id 1, without */
    accept_peer(&f, &p);
    assert_request_is(&p, "fixtures/wire/GetTableStatus.first_on_connection.req.bin");
    assert_request_is(&p, "fixtures/wire/GetTableStatus.req.bin");

    Openmldb__Api__GetTableSchemaRequest request = OPENMLDB__API__GET_TABLE_SCHEMA_REQUEST__INIT;
    request.has_tid = request.has_pid = true;
    request.tid = 3;
    assert_int_equal(osync__rpc_call(f.client, f.endpoint, "openmldb.api.TabletServer", "GetTableSchema", &request.base,
                                     NULL, 0, &openmldb__api__get_table_schema_response__descriptor, 0, on_result,
                                     &r[2], NULL, NULL),
                     0);
    assert_request_is(&p, "fixtures/wire/GetTableSchema.req.bin");
    stop(&f);
    for (int i = 0; i < 3; i++) assert_int_equal(r[i].status, OSYNC_ECANCELED);
    peer_close(&p);
}

static void send_data_is_what_the_collector_sends(void **state) {
    static const char *const names[] = {"SendData.snapshot", "SendData.binlog", "SendData.empty",
                                        "SendData.full_finished"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        fixture_t f;
        peer_t p;
        result_t r = {0};
        osync__buf_t want;
        char path[128];
        snprintf(path, sizeof path, "fixtures/wire/%s.req.bin", names[i]);
        load_fixture(path, &want);
        Brpc__Policy__RpcMeta *meta = frame_meta(&want);
        size_t attachment_len = meta->has_attachment_size ? (size_t)meta->attachment_size : 0;
        size_t head = 12 + frame_meta_size(want.data);
        ProtobufCMessage *request = protobuf_c_message_unpack(&openmldb__datasync__send_data_request__descriptor, NULL,
                                                              want.len - head - attachment_len, want.data + head);
        assert_non_null(request);
        start(&f, "sdefault", 0, 0);
        assert_int_equal(osync__rpc_call(f.client, f.endpoint, "openmldb.datasync.SyncTool", "SendData", request,
                                         want.data + want.len - attachment_len, attachment_len,
                                         &openmldb__datasync__send_data_response__descriptor, 0, on_result, &r, NULL,
                                         NULL),
                         0);
        accept_peer(&f, &p);
        assert_request_is(&p, path);
        stop(&f);
        peer_close(&p);
        protobuf_c_message_free_unpacked(request, NULL);
        protobuf_c_message_free_unpacked(&meta->base, NULL);
        osync__buf_free(&want);
    }
}

static void captured_answers_are_understood(void **state) {
    static const struct {
        const char *name;
        int32_t code;
        const char *msg;
    } cases[] = {{"AddSyncTask", 0, ""},
                 {"AddSyncTask.same_token", -1, "why send a same task?"},
                 {"AddSyncTask.unknown_table", -1, "table status is not valid: "}};
    fixture_t f;
    peer_t p;
    start(&f, NULL, 0, 0);
    for (size_t i = 0; i < 3; i++) {
        result_t r = {0};
        osync__buf_t resp, renumbered;
        char path[128];
        snprintf(path, sizeof path, "fixtures/wire/%s.resp.bin", cases[i].name);
        load_fixture(path, &resp);
        must_call(&f, 0, &r, NULL);
        if (i == 0) accept_peer(&f, &p);
        with_id(&resp, take_request(&p), &renumbered);
        for (size_t k = 0; k < renumbered.len; k++) { /* byte by byte */
            assert_int_equal(r.n, 0);
            peer_send(&p, renumbered.data + k, 1);
            uv_run(&f.loop, UV_RUN_NOWAIT);
        }
        wait_result(&f, &r, 1);
        assert_int_equal(r.status, 0);
        assert_int_equal(r.code, cases[i].code);
        assert_string_equal(r.msg, cases[i].msg);
        osync__buf_free(&resp);
        osync__buf_free(&renumbered);
    }
    stop(&f);
    peer_close(&p);
}

typedef struct again {
    int n;
    osync__buf_t bytes; /* the answer, encoded again */
} again_t;

static void on_again(void *arg, int status, const ProtobufCMessage *response, const osync_error_t *err) {
    again_t *a = arg;
    if (status) fail_msg("%s", err->message);
    assert_int_equal(osync__message_append(&a->bytes, response), 0);
    a->n++;
}

/* Of bRPC's and of brpc-java's servers; each is encoded again to the same bytes. */
static void captured_answers_lose_nothing(void **state) {
    static const struct {
        const char *name;
        const ProtobufCMessageDescriptor *response;
    } cases[] = {
        {"wire/GetTableSchema.resp", &openmldb__api__get_table_schema_response__descriptor},
        {"wire/GetTableStatus.first_on_connection.resp", &openmldb__api__get_table_status_response__descriptor},
        {"wire/GetTableStatus.resp", &openmldb__api__get_table_status_response__descriptor},
        {"wire/GetTableStatus.unknown_table.resp", &openmldb__api__get_table_status_response__descriptor},
        {"wire/SendData.snapshot.resp", &openmldb__datasync__send_data_response__descriptor},
        {"wire/SendData.binlog.resp", &openmldb__datasync__send_data_response__descriptor},
        {"wire/SendData.empty.resp", &openmldb__datasync__send_data_response__descriptor},
        {"wire/SendData.full_finished.resp", &openmldb__datasync__send_data_response__descriptor},
        {"synctool/senddata/01_basic.resp", &openmldb__datasync__send_data_response__descriptor},
        {"synctool/senddata/10_err_bad_token.resp", &openmldb__datasync__send_data_response__descriptor},
        {"synctool/senddata/11_err_start_mismatch.resp", &openmldb__datasync__send_data_response__descriptor},
        {"synctool/senddata/12_err_unknown_tid.resp", &openmldb__datasync__send_data_response__descriptor},
        {"synctool/senddata/13_err_unknown_pid.resp", &openmldb__datasync__send_data_response__descriptor},
        {"synctool/senddata/14_err_count_too_big.resp", &openmldb__datasync__send_data_response__descriptor},
        {"synctool/senddata/17_err_attachment_missing.resp", &openmldb__datasync__send_data_response__descriptor},
        {"synctool/senddata/18_finished.resp", &openmldb__datasync__send_data_response__descriptor},
        {"synctool/senddata/19_err_after_finished.resp", &openmldb__datasync__send_data_response__descriptor},
        {"synctool/frames/0011_AddSyncTask_resp", &openmldb__datasync__general_response__descriptor},
        {"synctool/frames/0014_AddSyncTask_resp", &openmldb__datasync__general_response__descriptor},
    };
    Openmldb__Datasync__TaskStatusRequest request = OPENMLDB__DATASYNC__TASK_STATUS_REQUEST__INIT;
    fixture_t f;
    peer_t p;
    start(&f, NULL, 0, 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        again_t a = {0};
        osync__buf_t resp, renumbered;
        osync_error_t err = {0};
        char path[128];
        snprintf(path, sizeof path, "fixtures/%s.bin", cases[i].name);
        load_fixture(path, &resp);
        if (osync__rpc_call(f.client, f.endpoint, "S", "M", &request.base, NULL, 0, cases[i].response, 0, on_again, &a,
                            NULL, &err))
            fail_msg("%s", err.message);
        if (i == 0) accept_peer(&f, &p);
        with_id(&resp, take_request(&p), &renumbered);
        peer_send(&p, renumbered.data, renumbered.len);
        while (a.n == 0) peer_turn(&p);
        size_t head = 12 + frame_meta_size(resp.data);
        assert_bytes(a.bytes.data, a.bytes.len, resp.data + head, resp.len - head);
        osync__buf_free(&a.bytes);
        osync__buf_free(&resp);
        osync__buf_free(&renumbered);
    }
    stop(&f);
    peer_close(&p);
}

/* ---- many calls, large calls, to a real server ---- */

typedef struct served {
    fixture_t f;
    osync__rpc_server_t *server;
    osync__rpc_call_t *kept[MAX_CALLS];
    size_t n_kept;
    bool keep;
    uint32_t crc;
    size_t len;
} served_t;

static void serve(osync__rpc_call_t *call_, void *arg) {
    served_t *s = arg;
    const uint8_t *attachment = osync__rpc_attachment(call_, &s->len);
    s->crc = osync__crc32c(0, attachment, s->len);
    if (s->keep) {
        s->kept[s->n_kept++] = call_;
        return;
    }
    Openmldb__Datasync__GeneralResponse general = OPENMLDB__DATASYNC__GENERAL_RESPONSE__INIT;
    osync__rpc_reply(call_, &general.base);
}

static const osync__rpc_method_t served_methods[] = {{"openmldb.datasync.DataCollector", "AddSyncTask",
                                                      &openmldb__datasync__add_sync_task_request__descriptor,
                                                      &openmldb__datasync__general_response__descriptor, serve}};

static void start_served(served_t *s, const char *host) {
    osync_error_t err = {0};
    memset(s, 0, sizeof *s);
    start(&s->f, "sdefault", 0, 0);
    osync__rpc_server_config_t config = {.host = host, .methods = served_methods, .n_methods = 1, .arg = s};
    if (osync__rpc_server_new(&s->f.loop, &config, &s->server, &err)) fail_msg("%s", err.message);
    snprintf(s->f.endpoint, sizeof s->f.endpoint, strchr(host, ':') ? "[%s]:%d" : "%s:%d", host,
             osync__rpc_server_port(s->server));
}

static void stop_served(served_t *s) {
    osync__rpc_server_close(s->server, NULL, NULL);
    stop(&s->f);
}

static void a_thousand_calls_in_flight_answered_in_reverse(void **state) {
    static served_t s;
    static result_t r[MAX_CALLS];
    start_served(&s, "127.0.0.1");
    s.keep = true;
    for (int i = 0; i < MAX_CALLS; i++) must_call(&s.f, 10000, &r[i], NULL);
    while (s.n_kept < MAX_CALLS) uv_run(&s.f.loop, UV_RUN_ONCE);
    for (int i = MAX_CALLS - 1; i >= 0; i--) {
        Openmldb__Datasync__GeneralResponse general = OPENMLDB__DATASYNC__GENERAL_RESPONSE__INIT;
        general.has_code = true;
        general.code = i;
        osync__rpc_reply(s.kept[i], &general.base);
    }
    for (int i = 0; i < MAX_CALLS; i++) {
        wait_result(&s.f, &r[i], 1);
        assert_int_equal(r[i].status, 0);
        assert_int_equal(r[i].code, i);
    }
    stop_served(&s);
}

static void large_attachments_arrive_whole(void **state) {
    static served_t s;
    Openmldb__Datasync__AddSyncTaskRequest request = OPENMLDB__DATASYNC__ADD_SYNC_TASK_REQUEST__INIT;
    size_t len = ((size_t)64 << 20) - 1000;
    uint8_t *rows = malloc(len);
    for (size_t i = 0; i < len; i++) rows[i] = (uint8_t)(i * 2654435761u >> 13);
    uint32_t crc = osync__crc32c(0, rows, len);
    start_served(&s, "127.0.0.1");
    for (int i = 0; i < 3; i++) { /* while it connects, and on an open connection */
        result_t r = {0};
        uint8_t *copy = malloc(len);
        memcpy(copy, rows, len);
        assert_int_equal(osync__rpc_call(s.f.client, s.f.endpoint, "DataCollector", "AddSyncTask", &request.base, copy,
                                         len, &openmldb__datasync__general_response__descriptor, 30000, on_result, &r,
                                         NULL, NULL),
                         0);
        s.crc = 0;
        wait_result(&s.f, &r, 1);
        memset(copy, 0, len); /* it is the caller's again */
        free(copy);
        assert_int_equal(r.status, 0);
        assert_int_equal(s.len, len);
        assert_int_equal(s.crc, crc);
    }
    free(rows);
    stop_served(&s);
}

static void names_and_ipv6_addresses_are_endpoints(void **state) {
    static served_t s;
    result_t r = {0}, r6 = {0};
    char endpoint[64];
    start_served(&s, "127.0.0.1");
    snprintf(endpoint, sizeof endpoint, "localhost:%d", osync__rpc_server_port(s.server));
    assert_int_equal(call(&s.f, endpoint, 10000, &r, NULL, NULL), 0);
    wait_result(&s.f, &r, 1);
    assert_int_equal(r.status, 0); /* by its IPv4 address, whatever stands first */
    stop_served(&s);

    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    bool has_ipv6 = fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0;
    if (fd >= 0) close(fd);
    if (!has_ipv6) return; /* a machine without it has nothing to promise here */
    start_served(&s, "::1");
    assert_int_equal(call(&s.f, s.f.endpoint, 10000, &r6, NULL, NULL), 0);
    wait_result(&s.f, &r6, 1);
    assert_int_equal(r6.status, 0);
    stop_served(&s);
}

/* ---- what goes wrong ---- */

static void bad_endpoints_are_refused_at_once(void **state) {
    static const char *const bad[] = {"",           "host",     "host:",  ":80",   "host:0",
                                      "host:65536", "host:80x", "::1:80", "[]:80", "host:-1"};
    fixture_t f;
    result_t r = {0};
    start(&f, NULL, 0, 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        osync_error_t err = {0};
        assert_int_equal(call(&f, bad[i], 0, &r, NULL, &err), OSYNC_EINVAL);
        assert_non_null(strstr(err.message, bad[i]));
    }
    stop(&f);
    assert_int_equal(r.n, 0);
}

static void nobody_there_is_said_with_the_endpoint(void **state) {
    fixture_t f;
    result_t r[2] = {0};
    start(&f, NULL, 0, 0);
    close(f.listener); /* the port is free now */
    must_call(&f, 0, &r[0], NULL);
    must_call(&f, 0, &r[1], NULL);
    wait_result(&f, &r[0], 1);
    wait_result(&f, &r[1], 1);
    assert_int_equal(r[0].status, OSYNC_ECONN);
    assert_int_equal(r[1].status, OSYNC_ECONN);
    assert_non_null(strstr(r[0].err.message, f.endpoint));
    assert_non_null(strstr(r[0].err.message, "connection refused"));
    r[0].n = 0;
    assert_int_equal(call(&f, "no.such.host.invalid:80", 0, &r[0], NULL, NULL), 0);
    wait_result(&f, &r[0], 1);
    assert_int_equal(r[0].status, OSYNC_ECONN);
    assert_non_null(strstr(r[0].err.message, "no.such.host.invalid:80"));
    f.listener = -1;
    stop(&f);
}

/* A listener whose queue is full answers no SYN. */
static void connecting_takes_no_longer_than_its_limit(void **state) {
    fixture_t f;
    int fill[64];
    result_t r = {0};
    start(&f, NULL, 0, 300);
    assert_int_equal(listen(f.listener, 0), 0);
    struct sockaddr_in to;
    socklen_t len = sizeof to;
    assert_int_equal(getsockname(f.listener, (struct sockaddr *)&to, &len), 0);
    for (int i = 0; i < 64; i++) {
        fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void)connect(fill[i], (struct sockaddr *)&to, sizeof to);
    }
    uint64_t begun = osync__mono_ms();
    must_call(&f, 0, &r, NULL);
    wait_result(&f, &r, 1);
    assert_int_equal(r.status, OSYNC_ECONN);
    assert_non_null(strstr(r.err.message, "300 ms"));
    assert_in_range(osync__mono_ms() - begun, 250, 5000);
    for (int i = 0; i < 64; i++) close(fill[i]);
    stop(&f);
}

static void errors_of_the_rpc_layer_carry_code_and_text(void **state) {
    fixture_t f;
    peer_t p;
    result_t r = {0};
    osync__buf_t out = {0};
    start(&f, NULL, 0, 0);
    must_call(&f, 0, &r, NULL);
    accept_peer(&f, &p);
    assert_int_equal(osync__frame_response(&out, take_request(&p), 1001, "Fail to find service=DataCollector", NULL),
                     0);
    peer_send(&p, out.data, out.len);
    wait_result(&f, &r, 1);
    assert_int_equal(r.status, OSYNC_ERPC);
    assert_string_equal(r.err.message, "[E1001]Fail to find service=DataCollector");
    osync__buf_free(&out);
    stop(&f);
    peer_close(&p);
}

static void a_call_times_out_and_its_late_answer_is_ignored(void **state) {
    fixture_t f;
    peer_t p;
    result_t r[2] = {0};
    start(&f, NULL, 0, 0);
    must_call(&f, 100, &r[0], NULL);
    accept_peer(&f, &p);
    int64_t first = take_request(&p);
    wait_result(&f, &r[0], 1);
    assert_int_equal(r[0].status, OSYNC_ETIMEOUT);
    assert_non_null(strstr(r[0].err.message, f.endpoint));
    assert_non_null(strstr(r[0].err.message, "AddSyncTask"));
    must_call(&f, 10000, &r[1], NULL); /* on the same connection */
    int64_t second = take_request(&p);
    answer(&p, first, 1);
    answer(&p, 123456, 2); /* nobody's */
    answer(&p, second, 3);
    wait_result(&f, &r[1], 1);
    assert_int_equal(r[1].status, 0);
    assert_int_equal(r[1].code, 3);
    assert_int_equal(r[0].n, 1);
    stop(&f);
    peer_close(&p);
}

static void a_call_can_be_canceled(void **state) {
    fixture_t f;
    peer_t p;
    result_t r[3] = {0};
    uint64_t id[3];
    osync__buf_t frame;
    start(&f, "sdefault", 0, 0);
    must_call(&f, 0, &r[0], &id[0]);
    osync__rpc_cancel(f.client, id[0]); /* before it is sent: it never is */
    assert_int_equal(r[0].n, 0);
    must_call(&f, 0, &r[1], &id[1]);
    must_call(&f, 0, &r[2], &id[2]);
    accept_peer(&f, &p);
    assert_true(peer_frame(&p, &frame));
    Brpc__Policy__RpcMeta *meta = frame_meta(&frame);
    assert_int_equal(meta->correlation_id, (int64_t)id[1]);
    assert_int_equal(meta->request->log_id, 0);
    assert_true(meta->has_authentication_data);
    protobuf_c_message_free_unpacked(&meta->base, NULL);
    osync__buf_free(&frame);
    assert_int_equal(take_request(&p), (int64_t)id[2]);
    osync__rpc_cancel(f.client, id[1]);
    answer(&p, (int64_t)id[1], 1);
    answer(&p, (int64_t)id[2], 2);
    wait_result(&f, &r[2], 1);
    osync__rpc_cancel(f.client, id[2]); /* it is over */
    osync__rpc_cancel(f.client, 99999);
    wait_result(&f, &r[0], 1);
    wait_result(&f, &r[1], 1);
    assert_int_equal(r[0].status, OSYNC_ECANCELED);
    assert_int_equal(r[1].status, OSYNC_ECANCELED);
    assert_int_equal(r[2].status, 0);
    stop(&f);
    assert_int_equal(r[2].n, 1);
    peer_close(&p);
}

static void a_lost_connection_fails_its_calls_and_the_next_call_makes_a_new_one(void **state) {
    fixture_t f;
    peer_t p;
    result_t r[3] = {0};
    osync__buf_t frame;
    start(&f, "sdefault", 0, 0);
    must_call(&f, 0, &r[0], NULL);
    must_call(&f, 0, &r[1], NULL);
    accept_peer(&f, &p);
    take_request(&p);
    take_request(&p);
    peer_close(&p);
    wait_result(&f, &r[0], 1);
    wait_result(&f, &r[1], 1);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(r[i].status, OSYNC_ECONN);
        assert_non_null(strstr(r[i].err.message, f.endpoint));
    }
    must_call(&f, 0, &r[2], NULL);
    accept_peer(&f, &p);
    assert_true(peer_frame(&p, &frame)); /* only the new one: nothing is sent twice */
    Brpc__Policy__RpcMeta *meta = frame_meta(&frame);
    assert_int_equal(meta->request->log_id, 0);
    assert_true(meta->has_authentication_data);
    answer(&p, meta->correlation_id, 5);
    protobuf_c_message_free_unpacked(&meta->base, NULL);
    osync__buf_free(&frame);
    wait_result(&f, &r[2], 1);
    assert_int_equal(r[2].code, 5);
    assert_int_equal(p.in.len, 0);
    stop(&f);
    peer_close(&p);
}

static void broken_answers_break_the_connection_or_the_call(void **state) {
    static const struct {
        const char *bytes;
        size_t len;
    } breaks[] = {
        {"HTTP/1.1 400 Bad Request\r\n\r\n", 28},
        {"PRPC\0\0\0\x04\0\0\0\x05xxxx", 16},
        {"PRPC\0\0\0\x03\0\0\0\x03\xff\xff\xff", 15},
        {"PRPC\0\0\x10\x01\0\0\0\x05", 12}, /* larger than the client takes */
    };
    fixture_t f;
    peer_t p;
    start(&f, NULL, 4096, 0);
    for (size_t i = 0; i < sizeof breaks / sizeof *breaks; i++) {
        result_t r = {0};
        must_call(&f, 0, &r, NULL);
        accept_peer(&f, &p);
        take_request(&p);
        peer_send(&p, breaks[i].bytes, breaks[i].len);
        wait_result(&f, &r, 1);
        assert_int_equal(r.status, OSYNC_ECONN);
        assert_non_null(strstr(r.err.message, f.endpoint));
        peer_wait_eof(&p);
        peer_close(&p);
    }
    /* an answer that isn't the message, one whose attachment is too long, one that isn't compressed as it says */
    for (int i = 0; i < 3; i++) {
        result_t r = {0};
        osync__buf_t out = {0};
        must_call(&f, 0, &r, NULL);
        if (i == 0) accept_peer(&f, &p);
        Brpc__Policy__RpcMeta meta = BRPC__POLICY__RPC_META__INIT;
        meta.has_correlation_id = true;
        meta.correlation_id = take_request(&p);
        meta.has_attachment_size = i == 1;
        meta.attachment_size = 4;
        meta.has_compress_type = i == 2;
        meta.compress_type = 2;
        make_frame(&out, &meta, "\xff\xff\xff", 3);
        peer_send(&p, out.data, out.len);
        wait_result(&f, &r, 1);
        assert_int_equal(r.status, OSYNC_ERPC);
        assert_memory_equal(r.err.message, "[E2002]", 7);
        osync__buf_free(&out);
    }
    stop(&f);
    peer_close(&p);
}

static void an_answers_attachment_is_not_part_of_its_message(void **state) {
    fixture_t f;
    peer_t p;
    result_t r = {0};
    osync__buf_t out = {0};
    start(&f, NULL, 0, 0);
    must_call(&f, 0, &r, NULL);
    accept_peer(&f, &p);
    Brpc__Policy__RpcMeta meta = BRPC__POLICY__RPC_META__INIT;
    meta.has_correlation_id = true;
    meta.correlation_id = take_request(&p);
    meta.has_attachment_size = true;
    meta.attachment_size = 5;
    make_frame(&out, &meta, "\x08\x09\xff\xff\xff\xff\xff", 7);
    peer_send(&p, out.data, out.len);
    wait_result(&f, &r, 1);
    assert_int_equal(r.status, 0);
    assert_int_equal(r.code, 9);
    osync__buf_free(&out);
    stop(&f);
    peer_close(&p);
}

/* A call of so many bytes of rows. */
static void call_with_rows(fixture_t *f, const uint8_t *rows, size_t len, uint32_t timeout_ms, result_t *r,
                           uint64_t *id) {
    Openmldb__Datasync__AddSyncTaskRequest request = OPENMLDB__DATASYNC__ADD_SYNC_TASK_REQUEST__INIT;
    osync_error_t err = {0};
    if (osync__rpc_call(f->client, f->endpoint, "DataCollector", "AddSyncTask", &request.base, rows, len,
                        &openmldb__datasync__general_response__descriptor, timeout_ms, on_result, r, id, &err))
        fail_msg("%s", err.message);
}

static void a_peer_that_reads_nothing_is_overcrowded(void **state) {
    fixture_t f;
    peer_t p;
    static result_t r[20];
    memset(r, 0, sizeof r);
    Openmldb__Datasync__AddSyncTaskRequest request = OPENMLDB__DATASYNC__ADD_SYNC_TASK_REQUEST__INIT;
    size_t len = 16 << 20;
    char *text = malloc(len);
    memset(text, 'x', len);
    text[len - 1] = '\0';
    request.dest = text;
    osync_error_t err = {0};
    start(&f, NULL, 0, 0);
    must_call(&f, 0, &r[0], NULL);
    accept_peer(&f, &p);
    int rc = 0;
    int n = 1;
    for (; n < 20 && rc == 0; n++) {
        rc = osync__rpc_call(f.client, f.endpoint, "DataCollector", "AddSyncTask", &request.base, NULL, 0,
                             &openmldb__datasync__general_response__descriptor, 0, on_result, &r[n], NULL, &err);
    }
    assert_int_equal(rc, OSYNC_EAGAIN);
    assert_memory_equal(err.message, "[E1011]", 7);
    assert_in_range(n, 4, 10);
    stop(&f);
    assert_int_equal(r[n - 1].n, 0);
    for (int i = 0; i < n - 1; i++) assert_int_equal(r[i].status, OSYNC_ECANCELED);
    free(text);
    peer_close(&p);
}

/* The other side takes nothing for a while: rows wait where they are, are no reason to refuse a call, and don't hold up
 * what is short. */
static void rows_wait_without_a_copy_and_let_the_short_pass(void **state) {
    enum { N = 40 };
    fixture_t f;
    peer_t p;
    static result_t r[N], begin, sign;
    memset(r, 0, sizeof r);
    begin = sign = (result_t){0};
    size_t len = 16 << 20;
    uint8_t *rows = calloc(1, len);
    uint64_t first = 0;
    start(&f, NULL, 0, 0);
    must_call(&f, 0, &begin, NULL);
    accept_peer(&f, &p);
    take_request(&p);
    for (int i = 0; i < N; i++) call_with_rows(&f, rows, len, 0, &r[i], i == 0 ? &first : NULL);
    must_call(&f, 0, &sign, NULL);
    osync__buf_t frame;
    assert_true(peer_frame(&p, &frame)); /* begun before it */
    assert_true(frame.len > len);
    assert_int_equal(id_of(&frame), (int64_t)first);
    osync__buf_free(&frame);
    assert_true(peer_frame(&p, &frame));
    assert_true(frame.len < 1000);
    answer(&p, id_of(&frame), 5);
    osync__buf_free(&frame);
    wait_result(&f, &sign, 1);
    assert_int_equal(sign.code, 5);
    stop(&f);
    free(rows);
    peer_close(&p);
}

/* A call that is over before its rows have gone out: what has begun ends as it was, the rest is never sent, and the
 * memory is the caller's at once. */
static void what_is_over_before_it_is_sent_is_not_sent(void **state) {
    enum { N = 6 };
    fixture_t f;
    peer_t p;
    static result_t r[N], last;
    memset(r, 0, sizeof r);
    last = (result_t){0};
    size_t len = 16 << 20;
    uint8_t *rows[N];
    uint64_t id[N];
    start(&f, NULL, 0, 0);
    must_call(&f, 0, &last, NULL);
    accept_peer(&f, &p);
    take_request(&p);
    for (int i = 0; i < N; i++) {
        rows[i] = malloc(len);
        memset(rows[i], 'a' + i, len);
        call_with_rows(&f, rows[i], len, i < N / 2 ? 20 : 0, &r[i], &id[i]);
    }
    osync__rpc_cancel(f.client, id[N - 1]);
    memset(rows[N - 1], 0, len);
    free(rows[N - 1]);
    for (int i = 0; i < N / 2; i++) {
        wait_result(&f, &r[i], 1);
        assert_int_equal(r[i].status, OSYNC_ETIMEOUT);
        memset(rows[i], 0, len);
        free(rows[i]);
    }
    /* The first was being written. */
    for (int i = 0; i < N - 1; i = i ? i + 1 : N / 2) {
        osync__buf_t frame;
        assert_true(peer_frame(&p, &frame));
        assert_int_equal(id_of(&frame), (int64_t)id[i]);
        for (size_t n = frame.len - len; n < frame.len; n++)
            if (frame.data[n] != 'a' + i) fail_msg("byte %zu of request %d is %d", n, i, frame.data[n]);
        if (i > 0) answer(&p, id_of(&frame), i);
        osync__buf_free(&frame);
    }
    for (int i = N / 2; i < N - 1; i++) {
        wait_result(&f, &r[i], 1);
        assert_int_equal(r[i].code, i);
        free(rows[i]);
    }
    assert_int_equal(r[N - 1].status, OSYNC_ECANCELED);
    stop(&f);
    peer_close(&p);
}

/* ---- closing ---- */

static void closing_cancels_every_call(void **state) {
    fixture_t f;
    peer_t p;
    result_t r[3] = {0};
    osync_error_t err = {0};
    start(&f, NULL, 0, 0);
    must_call(&f, 10000, &r[0], NULL);
    accept_peer(&f, &p);
    take_request(&p);
    assert_int_equal(call(&f, "127.0.0.1:1", 0, &r[1], NULL, NULL), 0);             /* connecting */
    assert_int_equal(call(&f, "no.such.host.invalid:80", 0, &r[2], NULL, NULL), 0); /* looking up */
    osync__rpc_client_close(f.client, on_closed, &f);
    for (int i = 0; i < 3; i++) assert_int_equal(r[i].n, 0);
    assert_int_equal(call(&f, f.endpoint, 0, &r[0], NULL, &err), OSYNC_ECLOSED);
    loop_end(&f.loop);
    assert_true(f.closed);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(r[i].n, 1);
        assert_int_equal(r[i].status, OSYNC_ECANCELED);
    }
    close(f.listener);
    peer_close(&p);
}

typedef struct closer {
    fixture_t *f;
    result_t r;
} closer_t;

static void close_on_result(void *arg, int status, const ProtobufCMessage *response, const osync_error_t *err) {
    closer_t *c = arg;
    c->r.n++;
    osync__rpc_client_close(c->f->client, on_closed, c->f);
    assert_false(c->f->closed);
}

static void a_callback_may_close_the_client(void **state) {
    fixture_t f;
    peer_t p;
    closer_t c = {.f = &f};
    result_t other = {0};
    Openmldb__Datasync__AddSyncTaskRequest request = OPENMLDB__DATASYNC__ADD_SYNC_TASK_REQUEST__INIT;
    start(&f, NULL, 0, 0);
    assert_int_equal(osync__rpc_call(f.client, f.endpoint, "DataCollector", "AddSyncTask", &request.base, NULL, 0,
                                     &openmldb__datasync__general_response__descriptor, 0, close_on_result, &c, NULL,
                                     NULL),
                     0);
    must_call(&f, 0, &other, NULL);
    accept_peer(&f, &p);
    int64_t first = take_request(&p);
    int64_t second = take_request(&p);
    answer(&p, first, 0);
    answer(&p, second, 0);
    loop_end(&f.loop);
    assert_true(f.closed);
    assert_int_equal(c.r.n, 1);
    assert_int_equal(other.n, 1);
    assert_int_equal(other.status, OSYNC_ECANCELED);
    close(f.listener);
    peer_close(&p);
}

/* Answers with random bytes changed: the call ends in some way, once, and the client lives. */
static void hostile_answers_do_no_harm(void **state) {
    fixture_t f;
    peer_t p = {.fd = -1};
    unsigned seed = 4711;
    osync__buf_t good;
    load_fixture("fixtures/wire/AddSyncTask.same_token.resp.bin", &good);
    start(&f, NULL, 1 << 20, 0);
    for (int round = 0; round < 2000; round++) {
        result_t r = {0};
        osync__buf_t bad;
        must_call(&f, 0, &r, NULL);
        if (p.fd < 0) accept_peer(&f, &p);
        with_id(&good, take_request(&p), &bad);
        for (int i = 1 + rand_r(&seed) % 4; i > 0; i--)
            bad.data[(size_t)rand_r(&seed) % bad.len] = (uint8_t)rand_r(&seed);
        peer_send(&p, bad.data, bad.len);
        shutdown(p.fd, SHUT_WR);
        peer_wait_eof(&p); /* the client has noticed: the next call makes a new connection */
        peer_close(&p);
        p.fd = -1;
        wait_result(&f, &r, 1);
        osync__buf_free(&bad);
    }
    osync__buf_free(&good);
    stop(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_are_what_the_collector_sends),
        cmocka_unit_test(send_data_is_what_the_collector_sends),
        cmocka_unit_test(captured_answers_are_understood),
        cmocka_unit_test(captured_answers_lose_nothing),
        cmocka_unit_test(a_thousand_calls_in_flight_answered_in_reverse),
        cmocka_unit_test(large_attachments_arrive_whole),
        cmocka_unit_test(names_and_ipv6_addresses_are_endpoints),
        cmocka_unit_test(bad_endpoints_are_refused_at_once),
        cmocka_unit_test(nobody_there_is_said_with_the_endpoint),
        cmocka_unit_test(connecting_takes_no_longer_than_its_limit),
        cmocka_unit_test(errors_of_the_rpc_layer_carry_code_and_text),
        cmocka_unit_test(a_call_times_out_and_its_late_answer_is_ignored),
        cmocka_unit_test(a_call_can_be_canceled),
        cmocka_unit_test(a_lost_connection_fails_its_calls_and_the_next_call_makes_a_new_one),
        cmocka_unit_test(broken_answers_break_the_connection_or_the_call),
        cmocka_unit_test(an_answers_attachment_is_not_part_of_its_message),
        cmocka_unit_test(a_peer_that_reads_nothing_is_overcrowded),
        cmocka_unit_test(rows_wait_without_a_copy_and_let_the_short_pass),
        cmocka_unit_test(what_is_over_before_it_is_sent_is_not_sent),
        cmocka_unit_test(closing_cancels_every_call),
        cmocka_unit_test(a_callback_may_close_the_client),
        cmocka_unit_test(hostile_answers_do_no_harm),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
