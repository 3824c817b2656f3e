/* The server's port and baidu_std: frames captured from the real collector, bad input, pipelining, limits, hostile
 * bytes. */
#include "net_peer.h"

#include <snappy-c.h>
#include <zlib.h>

#include "data_sync.pb-c.h"
#include "net/rpc.h"
#include "tablet.pb-c.h"

enum { MAX_BODY = 1 << 20 };

typedef struct fixture {
    uv_loop_t loop;
    osync__rpc_server_t *server;
    int port;
    bool closed;
    const ProtobufCMessage *answer; /* to every request; NULL: keep the call */
    osync__rpc_call_t *kept[8192];
    size_t n_kept;
    size_t n_handled;
    size_t attachment_len; /* of the last request */
    uint32_t attachment_crc;
    uint32_t tid;         /* of the last SendData */
    osync__buf_t message; /* the last request's message, encoded again */
} fixture_t;

static void handle(osync__rpc_call_t *call, void *arg) {
    fixture_t *f = arg;
    const uint8_t *attachment = osync__rpc_attachment(call, &f->attachment_len);
    f->attachment_crc = osync__crc32c(0, attachment, f->attachment_len);
    f->n_handled++;
    f->message.len = 0;
    assert_int_equal(osync__message_append(&f->message, osync__rpc_request(call)), 0);
    assert_memory_equal(osync__rpc_peer(call), "127.0.0.1:", 10);
    if (osync__rpc_request(call)->descriptor == &openmldb__datasync__send_data_request__descriptor)
        f->tid = ((const Openmldb__Datasync__SendDataRequest *)osync__rpc_request(call))->tid;
    if (f->answer) {
        osync__rpc_reply(call, f->answer);
        return;
    }
    assert_true(f->n_kept < 8192);
    f->kept[f->n_kept++] = call;
}

static const osync__rpc_method_t methods[] = {
    {"openmldb.datasync.DataCollector", "AddSyncTask", &openmldb__datasync__add_sync_task_request__descriptor,
     &openmldb__datasync__general_response__descriptor, handle},
    {"openmldb.datasync.SyncTool", "SendData", &openmldb__datasync__send_data_request__descriptor,
     &openmldb__datasync__send_data_response__descriptor, handle},
    {"openmldb.api.TabletServer", "GetTableStatus", &openmldb__api__get_table_status_request__descriptor,
     &openmldb__api__get_table_status_response__descriptor, handle},
    {"openmldb.api.TabletServer", "GetTableSchema", &openmldb__api__get_table_schema_request__descriptor,
     &openmldb__api__get_table_schema_response__descriptor, handle},
};

static void on_closed(void *arg) {
    ((fixture_t *)arg)->closed = true;
}

static void start_held(fixture_t *f, uint64_t max_body, uint64_t max_held) {
    osync_error_t err = {0};
    memset(f, 0, sizeof *f);
    assert_int_equal(uv_loop_init(&f->loop), 0);
    osync__rpc_server_config_t config = {.host = "127.0.0.1",
                                         .max_body_size = max_body,
                                         .max_held = max_held,
                                         .methods = methods,
                                         .n_methods = 4,
                                         .arg = f};
    if (osync__rpc_server_new(&f->loop, &config, &f->server, &err)) fail_msg("%s", err.message);
    f->port = osync__rpc_server_port(f->server);
}

static void start(fixture_t *f, uint64_t max_body) {
    start_held(f, max_body, 0);
}

static void stop(fixture_t *f) {
    osync__rpc_server_close(f->server, on_closed, f);
    loop_end(&f->loop);
    assert_true(f->closed);
    osync__buf_free(&f->message);
}

static const Openmldb__Datasync__GeneralResponse empty = OPENMLDB__DATASYNC__GENERAL_RESPONSE__INIT;

static void send_data_frame(osync__buf_t *out, int64_t cid, const char *service, const char *method, int compress,
                            int32_t attachment_size, const void *payload, size_t len) {
    Brpc__Policy__RpcMeta meta = BRPC__POLICY__RPC_META__INIT;
    Brpc__Policy__RpcRequestMeta request = BRPC__POLICY__RPC_REQUEST_META__INIT;
    request.service_name = (char *)(uintptr_t)service;
    request.method_name = (char *)(uintptr_t)method;
    meta.request = &request;
    meta.has_correlation_id = true;
    meta.correlation_id = cid;
    meta.has_compress_type = true;
    meta.compress_type = compress;
    meta.has_attachment_size = attachment_size != 0;
    meta.attachment_size = attachment_size;
    make_frame(out, &meta, payload, len);
}

/* ---- what was captured ---- */

static const struct {
    const char *name;
    const ProtobufCMessageDescriptor *response;
    size_t attachment_len;
} captured[] = {
    {"wire/AddSyncTask", &openmldb__datasync__general_response__descriptor, 0},
    {"wire/AddSyncTask.same_token", &openmldb__datasync__general_response__descriptor, 0},
    {"wire/AddSyncTask.unknown_table", &openmldb__datasync__general_response__descriptor, 0},
    {"wire/GetTableSchema", &openmldb__api__get_table_schema_response__descriptor, 0},
    {"wire/GetTableStatus.first_on_connection", &openmldb__api__get_table_status_response__descriptor, 0},
    {"wire/GetTableStatus", &openmldb__api__get_table_status_response__descriptor, 0},
    {"wire/GetTableStatus.unknown_table", &openmldb__api__get_table_status_response__descriptor, 0},
    {"wire/SendData.snapshot", &openmldb__datasync__send_data_response__descriptor, 6670},
    {"wire/SendData.binlog", &openmldb__datasync__send_data_response__descriptor, 4997},
    {"wire/SendData.empty", &openmldb__datasync__send_data_response__descriptor, 0},
    {"wire/SendData.full_finished", &openmldb__datasync__send_data_response__descriptor, 362206},
    {"synctool/senddata/01_basic", &openmldb__datasync__send_data_response__descriptor, 114},
    {"synctool/senddata/02_strings", &openmldb__datasync__send_data_response__descriptor, 72534},
    {"synctool/senddata/03_badutf8", &openmldb__datasync__send_data_response__descriptor, 315},
    {"synctool/senddata/04_numbers", &openmldb__datasync__send_data_response__descriptor, 2107},
    {"synctool/senddata/05_dates", &openmldb__datasync__send_data_response__descriptor, 588},
    {"synctool/senddata/06_timestamps", &openmldb__datasync__send_data_response__descriptor, 1176},
    {"synctool/senddata/07_count0_point_moves", &openmldb__datasync__send_data_response__descriptor, 0},
    {"synctool/senddata/08_count0_same_point", &openmldb__datasync__send_data_response__descriptor, 0},
    {"synctool/senddata/09_binlog_point", &openmldb__datasync__send_data_response__descriptor, 114},
    {"synctool/senddata/10_err_bad_token", &openmldb__datasync__send_data_response__descriptor, 114},
    {"synctool/senddata/11_err_start_mismatch", &openmldb__datasync__send_data_response__descriptor, 114},
    {"synctool/senddata/12_err_unknown_tid", &openmldb__datasync__send_data_response__descriptor, 114},
    {"synctool/senddata/13_err_unknown_pid", &openmldb__datasync__send_data_response__descriptor, 114},
    {"synctool/senddata/14_err_count_too_big", &openmldb__datasync__send_data_response__descriptor, 114},
    {"synctool/senddata/15_count_too_small", &openmldb__datasync__send_data_response__descriptor, 114},
    {"synctool/senddata/16_err_row_size_field", &openmldb__datasync__send_data_response__descriptor, 59},
    {"synctool/senddata/17_err_attachment_missing", &openmldb__datasync__send_data_response__descriptor, 0},
    {"synctool/senddata/18_finished", &openmldb__datasync__send_data_response__descriptor, 114},
    {"synctool/senddata/19_err_after_finished", &openmldb__datasync__send_data_response__descriptor, 114},
};

/* Decoded, encoded again to the same bytes, and answered as captured. */
static void answers_captured_requests_byte_for_byte(void **state) {
    fixture_t f;
    peer_t p;
    start(&f, MAX_BODY);
    peer_connect(&p, &f.loop, f.port);
    for (size_t i = 0; i < sizeof captured / sizeof *captured; i++) {
        osync__buf_t req, resp;
        char path[128];
        snprintf(path, sizeof path, "fixtures/%s.req.bin", captured[i].name);
        load_fixture(path, &req);
        snprintf(path, sizeof path, "fixtures/%s.resp.bin", captured[i].name);
        load_fixture(path, &resp);
        size_t head = 12 + frame_meta_size(resp.data);
        ProtobufCMessage *answer =
            protobuf_c_message_unpack(captured[i].response, NULL, resp.len - head, resp.data + head);
        assert_non_null(answer);
        f.answer = answer;
        peer_send(&p, req.data, req.len);
        assert_true(peer_wait(&p, resp.len));
        assert_bytes(p.in.data, p.in.len, resp.data, resp.len);
        assert_int_equal(f.attachment_len, captured[i].attachment_len);
        assert_int_equal(f.attachment_crc, osync__crc32c(0, req.data + req.len - f.attachment_len, f.attachment_len));
        head = 12 + frame_meta_size(req.data);
        assert_bytes(f.message.data, f.message.len, req.data + head, req.len - head - f.attachment_len);
        osync__buf_consume(&p.in, resp.len);
        protobuf_c_message_free_unpacked(answer, NULL);
        osync__buf_free(&req);
        osync__buf_free(&resp);
    }
    peer_close(&p);
    stop(&f);
}

/* What came with the HTTP request that caused it is in the meta data of brpc-java's AddSyncTask, as field 7, which in
 * bRPC is something else. */
static void requests_of_the_java_side_are_understood(void **state) {
    static const char *const names[] = {"0011", "0012", "0013", "0014"};
    fixture_t f;
    peer_t p;
    start(&f, MAX_BODY);
    peer_connect(&p, &f.loop, f.port);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        osync__buf_t req, want, resp;
        char path[128];
        snprintf(path, sizeof path, "fixtures/synctool/frames/%s_AddSyncTask_req.bin", names[i]);
        load_fixture(path, &req);
        snprintf(path, sizeof path, "fixtures/synctool/frames/%s_AddSyncTask_resp.bin", names[i]);
        load_fixture(path, &want);
        size_t head = 12 + frame_meta_size(want.data);
        ProtobufCMessage *answer = protobuf_c_message_unpack(&openmldb__datasync__general_response__descriptor, NULL,
                                                             want.len - head, want.data + head);
        assert_non_null(answer);
        f.answer = answer;
        peer_send(&p, req.data, req.len);
        assert_true(peer_frame(&p, &resp));
        Brpc__Policy__RpcMeta *meta = frame_meta(&resp);
        assert_int_equal(meta->correlation_id, i);
        assert_int_equal(meta->response->error_code, 0);
        size_t ours = 12 + frame_meta_size(resp.data);
        assert_bytes(resp.data + ours, resp.len - ours, want.data + head, want.len - head);
        head = 12 + frame_meta_size(req.data);
        assert_bytes(f.message.data, f.message.len, req.data + head, req.len - head);
        protobuf_c_message_free_unpacked(&meta->base, NULL);
        protobuf_c_message_free_unpacked(answer, NULL);
        osync__buf_free(&req);
        osync__buf_free(&want);
        osync__buf_free(&resp);
    }
    peer_close(&p);
    stop(&f);
}

/* Fields that a newer OpenMLDB may add are there when a message is encoded again, inner messages' too. */
static void unknown_fields_are_kept(void **state) {
    /* tid; sync_point {type, field 99 = 7}; field 20 = "x"; field 21 = 5 as 8 bytes; field 22 = 6 as 4 bytes */
    static const uint8_t request[] = "\x08\x06\x2a\x05\x08\x01\x98\x06\x07\xa2\x01\x01x"
                                     "\xa9\x01\x05\0\0\0\0\0\0\0\xb5\x01\x06\0\0\0";
    fixture_t f;
    peer_t p;
    osync__buf_t req = {0}, resp;
    start(&f, MAX_BODY);
    f.answer = &empty.base;
    peer_connect(&p, &f.loop, f.port);
    send_data_frame(&req, 1, "DataCollector", "AddSyncTask", 0, 0, request, sizeof request - 1);
    peer_send(&p, req.data, req.len);
    assert_true(peer_frame(&p, &resp));
    assert_bytes(f.message.data, f.message.len, request, sizeof request - 1);
    osync__buf_free(&req);
    osync__buf_free(&resp);
    peer_close(&p);
    stop(&f);
}

static void frames_may_come_in_any_pieces(void **state) {
    fixture_t f;
    peer_t p;
    osync__buf_t req, resp;
    load_fixture("fixtures/wire/AddSyncTask.req.bin", &req);
    load_fixture("fixtures/wire/AddSyncTask.resp.bin", &resp);
    start(&f, MAX_BODY);
    f.answer = &empty.base;
    peer_connect(&p, &f.loop, f.port);
    for (size_t cut = 1; cut < req.len; cut++) {
        peer_send(&p, req.data, cut);
        for (int i = 0; i < 3; i++) peer_turn(&p);
        peer_send(&p, req.data + cut, req.len - cut);
        assert_true(peer_wait(&p, resp.len));
        assert_bytes(p.in.data, p.in.len, resp.data, resp.len);
        p.in.len = 0;
    }
    peer_close(&p);
    peer_connect(&p, &f.loop, f.port);
    for (size_t i = 0; i < req.len; i++) {
        peer_send(&p, req.data + i, 1);
        peer_turn(&p);
    }
    assert_true(peer_wait(&p, resp.len));
    assert_bytes(p.in.data, p.in.len, resp.data, resp.len);
    peer_close(&p);
    stop(&f);
    osync__buf_free(&req);
    osync__buf_free(&resp);
}

static void short_service_name_is_the_last_component_and_case_matters(void **state) {
    static const struct {
        const char *service, *method;
        int code;
        const char *text;
    } cases[] = {
        {"DataCollector", "AddSyncTask", 0, NULL},
        {"openmldb.datasync.DataCollector", "AddSyncTask", 0, NULL},
        {"Foo", "AddSyncTask", 1001, "Fail to find service=Foo"},
        {"datacollector", "AddSyncTask", 1001, "Fail to find service=datacollector"},
        {"datasync.DataCollector", "AddSyncTask", 1002, "Fail to find method=datasync.DataCollector/AddSyncTask"},
        {"openmldb.Foo", "Bar", 1002, "Fail to find method=openmldb.Foo/Bar"},
        {"DataCollector", "addSyncTask", 1002, "Fail to find method=DataCollector/addSyncTask"},
        {"", "", 1001, "Fail to find service="},
    };
    fixture_t f;
    peer_t p;
    start(&f, MAX_BODY);
    f.answer = &empty.base;
    peer_connect(&p, &f.loop, f.port);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        osync__buf_t req = {0}, resp;
        send_data_frame(&req, (int64_t)i - 3, cases[i].service, cases[i].method, 0, 0, NULL, 0);
        peer_send(&p, req.data, req.len);
        assert_true(peer_frame(&p, &resp));
        Brpc__Policy__RpcMeta *meta = frame_meta(&resp);
        assert_int_equal(meta->correlation_id, (int64_t)i - 3);
        assert_true(meta->response->has_error_code);
        assert_int_equal(meta->response->error_code, cases[i].code);
        if (cases[i].text)
            assert_string_equal(meta->response->error_text, cases[i].text);
        else
            assert_null(meta->response->error_text);
        assert_int_equal(resp.len, 12 + frame_meta_size(resp.data)); /* no payload */
        protobuf_c_message_free_unpacked(&meta->base, NULL);
        osync__buf_free(&req);
        osync__buf_free(&resp);
    }
    peer_close(&p);
    stop(&f);
}

static void error_answer_is_the_worked_example(void **state) {
    static const uint8_t want[] = "PRPC\0\0\0\x23\0\0\0\x23\x12\x1d\x08\xe9\x07\x12\x18"
                                  "Fail to find service=Foo\x18\0\x20\x07";
    fixture_t f;
    peer_t p;
    osync__buf_t req = {0};
    start(&f, MAX_BODY);
    peer_connect(&p, &f.loop, f.port);
    send_data_frame(&req, 7, "Foo", "Bar", 0, 0, NULL, 0);
    peer_send(&p, req.data, req.len);
    assert_true(peer_wait(&p, sizeof want - 1));
    assert_bytes(p.in.data, p.in.len, want, sizeof want - 1);
    osync__buf_free(&req);
    peer_close(&p);
    stop(&f);
}

/* Sends one SendData and returns the error code of its answer; the text in *text, to be freed. */
static int send_data(fixture_t *f, int compress, int32_t attachment_size, const void *payload, size_t len,
                     char **text) {
    peer_t p;
    osync__buf_t req = {0}, resp;
    peer_connect(&p, &f->loop, f->port);
    send_data_frame(&req, 1, "SyncTool", "SendData", compress, attachment_size, payload, len);
    peer_send(&p, req.data, req.len);
    assert_true(peer_frame(&p, &resp));
    Brpc__Policy__RpcMeta *meta = frame_meta(&resp);
    int code = meta->response->error_code;
    if (text) *text = meta->response->error_text ? strdup(meta->response->error_text) : NULL;
    assert_int_equal(meta->compress_type, 0);
    protobuf_c_message_free_unpacked(&meta->base, NULL);
    osync__buf_free(&req);
    osync__buf_free(&resp);
    peer_close(&p);
    return code;
}

static void bad_requests_are_refused_with_1003(void **state) {
    Openmldb__Datasync__GeneralResponse general = OPENMLDB__DATASYNC__GENERAL_RESPONSE__INIT;
    Openmldb__Datasync__SendDataResponse answer = OPENMLDB__DATASYNC__SEND_DATA_RESPONSE__INIT;
    fixture_t f;
    char *text;
    start(&f, MAX_BODY);
    answer.response = &general;
    f.answer = &answer.base;
    assert_int_equal(send_data(&f, 0, 0, "\x08\x06", 2, NULL), 0);
    assert_int_equal(send_data(&f, 0, 3, "\x08\x06xyz", 5, NULL), 0);

    assert_int_equal(send_data(&f, 0, 6, "\x08\x06xyz", 5, &text), 1003);
    assert_string_equal(text, "attachment_size=6 is larger than request_size=5");
    free(text);
    assert_int_equal(send_data(&f, 0, -1, "\x08\x06xyz", 5, NULL), 1003);

    assert_int_equal(send_data(&f, 0, 0, "\xff\xff\xff", 3, &text), 1003);
    assert_string_equal(text, "Fail to parse request message, CompressType=none, request_size=3");
    free(text);
    /* start_point without its required type */
    assert_int_equal(send_data(&f, 0, 0, "\x1a\x02\x20\x01", 4, &text), 1003);
    assert_memory_equal(text, "Fail to parse request", 21);
    free(text);
    assert_int_equal(send_data(&f, 4, 0, "\x08\x06", 2, &text), 1003);
    assert_string_equal(text, "Fail to parse request message, CompressType=unknown, request_size=2");
    free(text);
    /* not what the compress type says */
    for (int type = 1; type <= 3; type++) assert_int_equal(send_data(&f, type, 0, "\x08\x06", 2, NULL), 1003);
    assert_int_equal(f.n_handled, 2);
    stop(&f);
}

static size_t deflate_all(int window_bits, const void *data, size_t len, uint8_t *out, size_t size) {
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, window_bits, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (Bytef *)(uintptr_t)data;
    z.avail_in = (uInt)len;
    z.next_out = out;
    z.avail_out = (uInt)size;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return z.total_out;
}

static void compression_is_of_the_message_only_and_limited(void **state) {
    Openmldb__Datasync__GeneralResponse general = OPENMLDB__DATASYNC__GENERAL_RESPONSE__INIT;
    Openmldb__Datasync__SendDataResponse answer = OPENMLDB__DATASYNC__SEND_DATA_RESPONSE__INIT;
    Openmldb__Datasync__SendDataRequest request = OPENMLDB__DATASYNC__SEND_DATA_REQUEST__INIT;
    fixture_t f;
    static const char rows[] = "attachment, never compressed";
    start(&f, MAX_BODY);
    answer.response = &general;
    f.answer = &answer.base;
    /* one that fits, and one that only is small while it is compressed */
    for (int round = 0; round < 2; round++) {
        size_t token_len = round ? 2 * MAX_BODY : 1000;
        osync__buf_t plain = {0};
        request.token = malloc(token_len + 1);
        memset(request.token, 'a', token_len);
        request.token[token_len] = '\0';
        request.has_tid = true;
        request.tid = 77;
        assert_int_equal(osync__message_append(&plain, &request.base), 0);
        for (int type = 1; type <= 3; type++) {
            uint8_t *packed = malloc(plain.len * 2 + 1000);
            size_t len = plain.len * 2 + 900;
            if (type == 1)
                assert_int_equal(snappy_compress((char *)plain.data, plain.len, (char *)packed, &len), SNAPPY_OK);
            else
                len = deflate_all(type == 2 ? 31 : 15, plain.data, plain.len, packed, len);
            memcpy(packed + len, rows, sizeof rows);
            f.tid = 0;
            int code = send_data(&f, type, sizeof rows, packed, len + sizeof rows, NULL);
            if (round == 0) {
                assert_int_equal(code, 0);
                assert_int_equal(f.tid, 77);
                assert_int_equal(f.attachment_len, sizeof rows);
                assert_int_equal(f.attachment_crc, osync__crc32c(0, rows, sizeof rows));
            } else {
                assert_int_equal(code, 1003);
            }
            free(packed);
        }
        free(request.token);
        osync__buf_free(&plain);
    }
    stop(&f);
}

static void broken_streams_are_closed_without_an_answer(void **state) {
    static const struct {
        const char *bytes;
        size_t len;
    } cases[] = {
        {"PRPC\xff\xff\xff\xff\0\0\0\x05", 12},         /* larger than max_body_size */
        {"PRPC\0\x10\0\x01\0\0\0\x05", 12},             /* by one byte */
        {"PRPC\0\0\0\x04\0\0\0\x05xxxx", 16},           /* meta longer than the body */
        {"PRPC\0\0\0\x03\0\0\0\x03\xff\xff\xff", 15},   /* meta data that cannot be parsed */
        {"PRPC\0\0\0\x04\0\0\0\x04\x0a\x02\x12\0", 16}, /* meta data without its required names */
        {"PRPC\0\0\0\0\0\0\0\0PRPX", 16},               /* the second frame isn't one */
    };
    fixture_t f;
    peer_t p;
    start(&f, MAX_BODY);
    f.answer = &empty.base;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        peer_connect(&p, &f.loop, f.port);
        peer_send(&p, cases[i].bytes, cases[i].len);
        peer_wait_eof(&p);
        if (i < 5) assert_int_equal(p.in.len, 0);
        peer_close(&p);
    }
    assert_int_equal(f.n_handled, 0);
    stop(&f);
}

static void garbage_is_not_answered_and_closed_after_a_while(void **state) {
    static const char *const cases[] = {"\1\2garbage not http\r\n\r\n", "HELO there\r\n\r\n", "PRP"};
    fixture_t f;
    peer_t p[3];
    start(&f, MAX_BODY);
    uint64_t begun = osync__mono_ms();
    for (size_t i = 0; i < 3; i++) {
        peer_connect(&p[i], &f.loop, f.port);
        peer_send(&p[i], cases[i], strlen(cases[i]));
    }
    for (size_t i = 0; i < 3; i++) {
        peer_wait_eof(&p[i]);
        assert_int_equal(p[i].in.len, 0);
        peer_close(&p[i]);
    }
    assert_in_range(osync__mono_ms() - begun, 2000, 20000);
    stop(&f);
}

static void pipelined_calls_are_answered_in_any_order(void **state) {
    enum { N = 1000 };
    fixture_t f;
    peer_t p;
    osync__buf_t req = {0};
    start(&f, MAX_BODY);
    peer_connect(&p, &f.loop, f.port);
    for (int i = 0; i < N; i++) send_data_frame(&req, i, "DataCollector", "AddSyncTask", 0, 0, "\x08\x01", 2);
    peer_send(&p, req.data, req.len);
    while (f.n_kept < N) peer_turn(&p);
    for (int i = N - 1; i >= 0; i--) osync__rpc_reply(f.kept[i], &empty.base);
    for (int i = N - 1; i >= 0; i--) {
        osync__buf_t resp;
        assert_true(peer_frame(&p, &resp));
        Brpc__Policy__RpcMeta *meta = frame_meta(&resp);
        assert_int_equal(meta->correlation_id, i);
        protobuf_c_message_free_unpacked(&meta->base, NULL);
        osync__buf_free(&resp);
    }
    osync__buf_free(&req);
    peer_close(&p);
    stop(&f);
}

/* Sends requests that each hold a quarter of a body's limit, and answers whenever no more come; returns how many were
 * open at most. */
static size_t most_open(uint64_t max_held, bool drop) {
    enum { N = 40 };
    fixture_t f;
    peer_t p;
    osync__buf_t req = {0};
    uint8_t *payload = calloc(1, MAX_BODY / 4);
    start_held(&f, MAX_BODY, max_held);
    peer_connect(&p, &f.loop, f.port);
    send_data_frame(&req, 1, "SyncTool", "SendData", 0, MAX_BODY / 4, payload, MAX_BODY / 4);
    Openmldb__Datasync__GeneralResponse general = OPENMLDB__DATASYNC__GENERAL_RESPONSE__INIT;
    Openmldb__Datasync__SendDataResponse answer = OPENMLDB__DATASYNC__SEND_DATA_RESPONSE__INIT;
    answer.response = &general;
    size_t sent = 0;
    size_t most = 0;
    size_t total = req.len * N;
    size_t answered = 0;
    while (answered < N) {
        ssize_t n = 1;
        while (sent < total && n > 0) {
            size_t at = sent % req.len;
            n = send(p.fd, req.data + at, req.len - at, MSG_NOSIGNAL);
            if (n > 0) sent += (size_t)n;
        }
        size_t before = f.n_kept;
        for (int i = 0; i < 50; i++) peer_turn(&p);
        if (f.n_kept > most) most = f.n_kept;
        if (f.n_kept == before) { /* it has come to rest: answer all */
            for (size_t i = 0; i < f.n_kept; i++) osync__rpc_reply(f.kept[i], &answer.base);
            answered += f.n_kept;
            f.n_kept = 0;
        }
        for (size_t i = before; drop && i < f.n_kept; i++) {
            osync__rpc_drop_attachment(f.kept[i]);
            size_t len;
            assert_null(osync__rpc_attachment(f.kept[i], &len));
            assert_int_equal(len, 0);
        }
    }
    free(payload);
    osync__buf_free(&req);
    peer_close(&p);
    stop(&f);
    return most;
}

/* The server stops to read when what the open requests hold exceeds the limit, and goes on when they are answered, or
 * hold less. */
static void a_connection_with_too_much_in_flight_is_not_read_further(void **state) {
    assert_in_range(most_open(0, false), 1, 5);
    assert_in_range(most_open(1, false), 1, 5); /* one body fits in any case */
    assert_in_range(most_open(2 * MAX_BODY, false), 6, 9);
    assert_in_range(most_open(0, true), 10, 40);
}

static void a_connection_that_does_not_read_its_answers_is_not_read_further(void **state) {
    enum { N = 4000 };
    fixture_t f;
    peer_t p;
    osync__buf_t req = {0};
    start(&f, MAX_BODY);
    Openmldb__Datasync__GeneralResponse big = OPENMLDB__DATASYNC__GENERAL_RESPONSE__INIT;
    big.msg = malloc(64 << 10);
    memset(big.msg, 'x', (64 << 10) - 1);
    big.msg[(64 << 10) - 1] = '\0';
    f.answer = &big.base;
    peer_connect(&p, &f.loop, f.port);
    for (int i = 0; i < N; i++) send_data_frame(&req, i, "DataCollector", "AddSyncTask", 0, 0, "\x08\x01", 2);
    peer_send(&p, req.data, req.len);
    size_t before;
    do { /* until it has come to rest */
        before = f.n_handled;
        for (int i = 0; i < 100; i++) uv_run(&f.loop, UV_RUN_NOWAIT);
    } while (f.n_handled != before);
    assert_true(f.n_handled < N / 2); /* 16 MiB are 256 answers, and the sockets hold some more */
    size_t got = 0;
    while (got < N) {
        osync__buf_t resp;
        assert_true(peer_frame(&p, &resp));
        osync__buf_free(&resp);
        got++;
    }
    assert_int_equal(f.n_handled, N);
    free(big.msg);
    osync__buf_free(&req);
    peer_close(&p);
    stop(&f);
}

static void calls_outlive_their_connection_and_server(void **state) {
    fixture_t f;
    peer_t p, q;
    osync__buf_t req;
    start(&f, MAX_BODY);
    load_fixture("fixtures/wire/SendData.snapshot.req.bin", &req);
    peer_connect(&p, &f.loop, f.port);
    peer_connect(&q, &f.loop, f.port);
    peer_send(&p, req.data, req.len);
    peer_send(&q, req.data, req.len);
    while (f.n_kept < 2) peer_turn(&p);
    peer_close(&p);
    for (int i = 0; i < 20; i++) peer_turn(&q);
    stop(&f);
    peer_wait_eof(&q);
    peer_close(&q);
    for (size_t i = 0; i < 2; i++) {
        size_t len;
        const uint8_t *rows = osync__rpc_attachment(f.kept[i], &len);
        assert_bytes(rows, len, req.data + req.len - 6670, 6670);
        assert_int_equal(((const Openmldb__Datasync__SendDataRequest *)osync__rpc_request(f.kept[i]))->tid, 3);
    }
    osync__rpc_reply(f.kept[0], &empty.base);
    osync__rpc_fail(f.kept[1], OSYNC__BRPC_EINTERNAL, "too late");
    osync__buf_free(&req);
}

static void a_handlers_answer_must_be_whole(void **state) {
    Openmldb__Datasync__SendDataResponse incomplete = OPENMLDB__DATASYNC__SEND_DATA_RESPONSE__INIT;
    fixture_t f;
    char *text;
    start(&f, MAX_BODY);
    f.answer = &incomplete.base;
    assert_int_equal(send_data(&f, 0, 0, "\x08\x06", 2, &text), 2002);
    assert_memory_equal(text, "Missing required fields in response", 35);
    free(text);
    f.answer = &empty.base; /* of another method */
    assert_int_equal(send_data(&f, 0, 0, "\x08\x06", 2, NULL), 2001);
    stop(&f);
}

static void the_largest_body_is_taken_and_one_byte_more_is_not(void **state) {
    Openmldb__Datasync__GeneralResponse general = OPENMLDB__DATASYNC__GENERAL_RESPONSE__INIT;
    Openmldb__Datasync__SendDataResponse answer = OPENMLDB__DATASYNC__SEND_DATA_RESPONSE__INIT;
    fixture_t f;
    start(&f, 0); /* 64 MiB */
    answer.response = &general;
    f.answer = &answer.base;
    for (size_t more = 0; more < 2; more++) {
        peer_t p;
        osync__buf_t req = {0};
        send_data_frame(&req, 1, "SyncTool", "SendData", 0, 64 << 20, "", 0);
        size_t meta = frame_meta_size(req.data);
        osync__buf_free(&req);
        size_t len = ((size_t)64 << 20) - meta + more;
        uint8_t *payload = malloc(len);
        memset(payload, 'r', len);
        send_data_frame(&req, 1, "SyncTool", "SendData", 0, (int32_t)len, payload, len);
        assert_int_equal(frame_meta_size(req.data), meta);
        peer_connect(&p, &f.loop, f.port);
        peer_send(&p, req.data, req.len);
        if (more) {
            peer_wait_eof(&p);
        } else {
            osync__buf_t resp;
            assert_true(peer_frame(&p, &resp));
            osync__buf_free(&resp);
            assert_int_equal(f.attachment_len, len);
            assert_int_equal(f.attachment_crc, osync__crc32c(0, payload, len));
        }
        peer_close(&p);
        free(payload);
        osync__buf_free(&req);
    }
    assert_int_equal(f.n_handled, 1);
    stop(&f);
}

/* A message within a message within ...: what a recursive type allows must not become a recursion as deep. */
static void deep_nesting_and_floods_of_fields_are_refused(void **state) {
    osync__buf_t body = {0};
    enum { DEPTH = 50000 };
    uint8_t *deep = malloc(DEPTH * 8);
    size_t at = DEPTH * 8;
    size_t len = 0;
    for (int i = 0; i < DEPTH; i++) { /* from the inside: common.TableColumnSchema.type_fields is field 3 */
        uint8_t head[8];
        size_t n = 0;
        head[n++] = 0x1a;
        size_t v = len;
        do {
            head[n++] = (uint8_t)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
            v >>= 7;
        } while (v);
        at -= n;
        memcpy(deep + at, head, n);
        len += n;
    }
    assert_null(osync__message_unpack(&openmldb__common__table_column_schema__descriptor, deep + at, len));
    free(deep);
    for (int i = 0; i < 5 << 20; i++) assert_int_equal(osync__buf_append(&body, "\x12\0", 2), 0);
    assert_null(osync__message_unpack(&openmldb__datasync__task_status_response__descriptor, body.data, body.len));
    body.len = 2000;
    ProtobufCMessage *few =
        osync__message_unpack(&openmldb__datasync__task_status_response__descriptor, body.data, body.len);
    assert_non_null(few);
    assert_int_equal(((Openmldb__Datasync__TaskStatusResponse *)few)->n_task, 1000);
    protobuf_c_message_free_unpacked(few, NULL);
    osync__buf_free(&body);
}

/* Valid frames with random bytes changed, cut and repeated: nothing but an answer or a close may come of it. */
static void hostile_frames_do_no_harm(void **state) {
    fixture_t f;
    unsigned seed = 20231107;
    osync__buf_t good[sizeof captured / sizeof *captured];
    start(&f, 64 << 10);
    for (size_t i = 0; i < sizeof captured / sizeof *captured; i++) {
        char path[128];
        snprintf(path, sizeof path, "fixtures/%s.req.bin", captured[i].name);
        load_fixture(path, &good[i]);
    }
    for (int round = 0; round < 4000; round++) {
        const osync__buf_t *from = &good[(size_t)rand_r(&seed) % (sizeof captured / sizeof *captured)];
        osync__buf_t bad = {0};
        peer_t p;
        assert_int_equal(osync__buf_append(&bad, from->data, from->len), 0);
        int changes = 1 + rand_r(&seed) % 8;
        for (int i = 0; i < changes; i++) {
            size_t within = rand_r(&seed) % 2 ? (bad.len < 100 ? bad.len : 100) : bad.len;
            bad.data[(size_t)rand_r(&seed) % within] = (uint8_t)rand_r(&seed);
        }
        if (rand_r(&seed) % 4 == 0)
            bad.len = (size_t)rand_r(&seed) % bad.len;
        else if (rand_r(&seed) % 4 == 0)
            assert_int_equal(osync__buf_append(&bad, from->data, from->len), 0);
        peer_connect(&p, &f.loop, f.port);
        peer_send(&p, bad.data, bad.len);
        shutdown(p.fd, SHUT_WR);
        for (int i = 0; i < 3; i++) peer_turn(&p);
        while (f.n_kept) osync__rpc_fail(f.kept[--f.n_kept], OSYNC__BRPC_EINTERNAL, "no");
        peer_wait_eof(&p);
        peer_close(&p);
        osync__buf_free(&bad);
    }
    while (f.n_kept) osync__rpc_fail(f.kept[--f.n_kept], OSYNC__BRPC_EINTERNAL, "no");
    /* and it still works */
    f.answer = &empty.base;
    peer_t p;
    osync__buf_t resp;
    peer_connect(&p, &f.loop, f.port);
    peer_send(&p, good[0].data, good[0].len);
    assert_true(peer_frame(&p, &resp));
    osync__buf_free(&resp);
    peer_close(&p);
    for (size_t i = 0; i < sizeof captured / sizeof *captured; i++) osync__buf_free(&good[i]);
    stop(&f);
}

static void a_port_in_use_is_an_error_that_names_it(void **state) {
    fixture_t f;
    osync__rpc_server_t *second;
    osync_error_t err = {0};
    char name[32];
    start(&f, MAX_BODY);
    osync__rpc_server_config_t config = {.host = "127.0.0.1", .port = f.port};
    assert_int_equal(osync__rpc_server_new(&f.loop, &config, &second, &err), OSYNC_EEXIST);
    snprintf(name, sizeof name, "127.0.0.1:%d", f.port);
    assert_non_null(strstr(err.message, name));
    assert_null(second);
    config.host = "no.such.host.invalid";
    assert_int_equal(osync__rpc_server_new(&f.loop, &config, &second, &err), OSYNC_ECONFIG);
    stop(&f);
}

static void connections_are_limited(void **state) {
    enum { N = 1030 };
    fixture_t f;
    static peer_t p[N];
    osync__buf_t req, resp;
    load_fixture("fixtures/wire/AddSyncTask.req.bin", &req);
    start(&f, MAX_BODY);
    f.answer = &empty.base;
    for (int i = 0; i < N; i++) {
        peer_connect(&p[i], &f.loop, f.port);
        uv_run(&f.loop, UV_RUN_NOWAIT);
        if (i > 0) continue;
        peer_send(&p[0], req.data, req.len);
        assert_true(peer_frame(&p[0], &resp));
        osync__buf_free(&resp);
    }
    for (int i = 1; i < 6; i++) { /* those that were there first and asked for nothing have made room */
        peer_wait_eof(&p[i]);
        assert_int_equal(p[i].in.len, 0);
    }
    for (int i = 0; i < N; i += N - 1) { /* who asks is served, old or new */
        peer_send(&p[i], req.data, req.len);
        assert_true(peer_frame(&p[i], &resp));
        osync__buf_free(&resp);
    }
    for (int i = 0; i < N; i++) peer_close(&p[i]);
    osync__buf_free(&req);
    stop(&f);
}

static void frames_that_are_left_half_make_room(void **state) {
    enum { N = 60 }; /* together more than the bound of 32 MiB */
    fixture_t f;
    static peer_t p[N];
    osync__buf_t req, resp;
    uint8_t *half = calloc(1, MAX_BODY);
    assert_non_null(half);
    memcpy(half, "PRPC\0\x10\0\0\0\0\0\1", 12); /* a body of 1 MiB, all but its last 12 bytes */
    load_fixture("fixtures/wire/AddSyncTask.req.bin", &req);
    start(&f, MAX_BODY);
    f.answer = &empty.base;
    for (int i = 0; i < N; i++) {
        peer_connect(&p[i], &f.loop, f.port);
        if (i == 1) { /* one that works, and idles now */
            peer_send(&p[i], req.data, req.len);
            assert_true(peer_frame(&p[i], &resp));
            osync__buf_free(&resp);
        } else {
            peer_send(&p[i], half, MAX_BODY);
        }
        for (int turn = 0; turn < 4; turn++) uv_run(&f.loop, UV_RUN_NOWAIT);
    }
    peer_wait_eof(&p[0]);
    for (int i = 1; i < N; i += N - 2) { /* the working one, and the newest, whose frame goes on */
        if (i > 1) peer_send(&p[i], half + 12, 12);
        peer_send(&p[1], req.data, req.len);
        assert_true(peer_frame(&p[1], &resp));
        osync__buf_free(&resp);
    }
    for (int i = 0; i < N; i++) peer_close(&p[i]);
    free(half);
    osync__buf_free(&req);
    stop(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_captured_requests_byte_for_byte),
        cmocka_unit_test(requests_of_the_java_side_are_understood),
        cmocka_unit_test(unknown_fields_are_kept),
        cmocka_unit_test(frames_may_come_in_any_pieces),
        cmocka_unit_test(short_service_name_is_the_last_component_and_case_matters),
        cmocka_unit_test(error_answer_is_the_worked_example),
        cmocka_unit_test(bad_requests_are_refused_with_1003),
        cmocka_unit_test(compression_is_of_the_message_only_and_limited),
        cmocka_unit_test(broken_streams_are_closed_without_an_answer),
        cmocka_unit_test(garbage_is_not_answered_and_closed_after_a_while),
        cmocka_unit_test(pipelined_calls_are_answered_in_any_order),
        cmocka_unit_test(a_connection_with_too_much_in_flight_is_not_read_further),
        cmocka_unit_test(a_connection_that_does_not_read_its_answers_is_not_read_further),
        cmocka_unit_test(calls_outlive_their_connection_and_server),
        cmocka_unit_test(a_handlers_answer_must_be_whole),
        cmocka_unit_test(the_largest_body_is_taken_and_one_byte_more_is_not),
        cmocka_unit_test(deep_nesting_and_floods_of_fields_are_refused),
        cmocka_unit_test(hostile_frames_do_no_harm),
        cmocka_unit_test(a_port_in_use_is_an_error_that_names_it),
        cmocka_unit_test(connections_are_limited),
        cmocka_unit_test(frames_that_are_left_half_make_room),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
