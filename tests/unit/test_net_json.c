/* Messages from and to JSON: what the Java side and bRPC really wrote, and the rules of bRPC's json2pb. */
#include "net_peer.h"

#include "data_sync.pb-c.h"
#include "nameserver.pb-c.h"
#include "net/json.h"

static void to_json(const ProtobufCMessage *message, osync__json_style_t style, osync__buf_t *out) {
    *out = (osync__buf_t){0};
    assert_int_equal(osync__message_to_json(message, style, out), 0);
}

static void assert_json(const ProtobufCMessage *message, osync__json_style_t style, const char *want) {
    osync__buf_t got;
    to_json(message, style, &got);
    assert_bytes(got.data, got.len, want, strlen(want));
    osync__buf_free(&got);
}

static Openmldb__Datasync__AddSyncTaskRequest *parse(const char *json) {
    ProtobufCMessage *m;
    osync_error_t err = {0};
    if (osync__json_to_message(&openmldb__datasync__add_sync_task_request__descriptor, json, strlen(json), &m, &err))
        fail_msg("%s: %s", json, err.message);
    return (Openmldb__Datasync__AddSyncTaskRequest *)m;
}

static void drop(Openmldb__Datasync__AddSyncTaskRequest *r) {
    protobuf_c_message_free_unpacked(&r->base, NULL);
}

static void assert_refused(const ProtobufCMessageDescriptor *type, const char *json, const char *text) {
    ProtobufCMessage *m;
    osync_error_t err = {0};
    assert_int_equal(osync__json_to_message(type, json, strlen(json), &m, &err), OSYNC_EINVAL);
    assert_null(m);
    if (!strstr(err.message, text)) fail_msg("%s: got \"%s\", want \"%s\"", json, err.message, text);
    assert_int_equal(osync__json_to_message(type, json, strlen(json), &m, NULL), OSYNC_EINVAL);
}

static void writes_what_the_java_side_writes(void **state) {
    static const struct {
        const char *name;
        const ProtobufCMessageDescriptor *type;
    } cases[] = {
        {"01_status_empty", &openmldb__datasync__task_status_response__descriptor},
        {"02_create_t_all", &openmldb__datasync__general_response__descriptor},
        {"03_create_exists", &openmldb__datasync__general_response__descriptor},
        {"07_create_no_collector", &openmldb__datasync__general_response__descriptor}, /* can\u0027t */
        {"12_status_init", &openmldb__datasync__task_status_response__descriptor},
        {"13_status_running", &openmldb__datasync__task_status_response__descriptor},
        {"14_status_after_finished", &openmldb__datasync__task_status_response__descriptor},
        {"31_create_t_2p_mode2", &openmldb__datasync__general_response__descriptor},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        osync__buf_t file, out;
        char path[128];
        ProtobufCMessage *m;
        osync_error_t err = {0};
        snprintf(path, sizeof path, "fixtures/synctool/http/%s_01_resp.bin", cases[i].name);
        load_fixture(path, &file);
        const char *body = strstr((char *)file.data, "\r\n\r\n") + 4;
        size_t len = file.len - (size_t)(body - (char *)file.data);
        if (osync__json_to_message(cases[i].type, body, len, &m, &err)) fail_msg("%s: %s", path, err.message);
        to_json(m, OSYNC__JSON_JAVA, &out);
        assert_bytes(out.data, out.len, body, len);
        osync__buf_free(&out);
        /* the other form means the same */
        ProtobufCMessage *again;
        osync__buf_t a = {0}, b = {0};
        to_json(m, OSYNC__JSON_BRPC, &out);
        assert_int_equal(osync__json_to_message(cases[i].type, out.data, out.len, &again, &err), 0);
        assert_int_equal(osync__message_append(&a, m), 0);
        assert_int_equal(osync__message_append(&b, again), 0);
        assert_bytes(a.data, a.len, b.data, b.len);
        osync__buf_free(&a);
        osync__buf_free(&b);
        osync__buf_free(&out);
        osync__buf_free(&file);
        protobuf_c_message_free_unpacked(m, NULL);
        protobuf_c_message_free_unpacked(again, NULL);
    }
}

static void styles_differ_in_names_numbers_and_spaces(void **state) {
    Openmldb__Datasync__AddSyncTaskRequest r = OPENMLDB__DATASYNC__ADD_SYNC_TASK_REQUEST__INIT;
    Openmldb__Datasync__SyncPoint point = OPENMLDB__DATASYNC__SYNC_POINT__INIT;
    assert_json(&r.base, OSYNC__JSON_BRPC, "{}");
    assert_json(&r.base, OSYNC__JSON_JAVA, "{\n}");
    point.type = OPENMLDB__DATASYNC__SYNC_TYPE__kBINLOG;
    point.has_pk = true;
    point.pk.data = (uint8_t *)(uintptr_t) "k<'\"\\\n\x01\xc3\xa9";
    point.pk.len = 9;
    point.has_ts = true;
    point.ts = UINT64_MAX;
    r.has_tid = true;
    r.tid = UINT32_MAX;
    r.has_start_ts = true;
    r.start_ts = 5;
    r.sync_point = &point;
    r.has_osync = true;
    assert_json(&r.base, OSYNC__JSON_BRPC,
                "{\"tid\":4294967295,\"start_ts\":5,\"sync_point\":{\"type\":\"kBINLOG\","
                "\"pk\":\"k<'\\\"\\\\\\n\\u0001\xc3\xa9\",\"ts\":18446744073709551615},\"osync\":false}");
    assert_json(
        &r.base, OSYNC__JSON_JAVA,
        "{\n  \"tid\": 4294967295,\n  \"startTs\": \"5\",\n  \"syncPoint\": {\n    \"type\": \"kBINLOG\",\n"
        "    \"pk\": \"k\\u003c\\u0027\\\"\\\\\\n\\u0001\xc3\xa9\",\n    \"ts\": \"18446744073709551615\"\n  },\n"
        "  \"osync\": false\n}");
    point.pk.data = (uint8_t *)(uintptr_t) "\xff\xfe";
    point.pk.len = 2;
    point.has_ts = false;
    assert_json(&point.base, OSYNC__JSON_BRPC, "{\"type\":\"kBINLOG\",\"pk\":\"//4=\"}");
    point.pk.len = 0;
    assert_json(&point.base, OSYNC__JSON_BRPC, "{\"type\":\"kBINLOG\",\"pk\":\"\"}");
    point.type = (Openmldb__Datasync__SyncType)9;
    point.has_pk = false;
    assert_json(&point.base, OSYNC__JSON_BRPC, "{\"type\":9}");

    Openmldb__Datasync__GeneralResponse g = OPENMLDB__DATASYNC__GENERAL_RESPONSE__INIT;
    g.has_code = true;
    g.code = -1;
    g.msg = (char *)(uintptr_t) "why send a same task?";
    assert_json(&g.base, OSYNC__JSON_BRPC, "{\"code\":-1,\"msg\":\"why send a same task?\"}");
    g.msg = (char *)(uintptr_t) "a\xff\xc3";
    assert_json(&g.base, OSYNC__JSON_BRPC, "{\"code\":-1,\"msg\":\"a\xef\xbf\xbd\xef\xbf\xbd\"}");
}

static void repeated_fields_and_defaults(void **state) {
    Openmldb__Nameserver__TableInfo t = OPENMLDB__NAMESERVER__TABLE_INFO__INIT;
    char *keys[] = {(char *)(uintptr_t) "a", (char *)(uintptr_t) "b"};
    assert_json(&t.base, OSYNC__JSON_BRPC, "{}"); /* values that are only defaults aren't set */
    t.n_partition_key = 2;
    t.partition_key = keys;
    assert_json(&t.base, OSYNC__JSON_BRPC, "{\"partition_key\":[\"a\",\"b\"]}");
    assert_json(&t.base, OSYNC__JSON_JAVA, "{\n  \"partitionKey\": [\"a\", \"b\"]\n}");
    ProtobufCMessage *m;
    static const char json[] =
        "{\"db\":\"x\",\"partition_key\":[\"a\",\"b\"],\"table_partition\":[{\"pid\":3},{\"pid\":4}],\"tid\":1}";
    assert_int_equal(
        osync__json_to_message(&openmldb__nameserver__table_info__descriptor, json, strlen(json), &m, NULL), 0);
    Openmldb__Nameserver__TableInfo *info = (Openmldb__Nameserver__TableInfo *)m;
    assert_string_equal(info->db, "x");
    assert_int_equal(info->n_table_partition, 2);
    assert_int_equal(info->table_partition[1]->pid, 4);
    protobuf_c_message_free_unpacked(m, NULL);
}

static void reads_both_names_and_both_forms_of_numbers(void **state) {
    Openmldb__Datasync__AddSyncTaskRequest *r =
        parse("{\"tid\":7,\"mode\":\"kFullAndContinuous\",\"startTs\":\"1700000000000\",\"sync_point\":{\"type\":1,"
              "\"pk\":\"k\\u0000\xc3\xa9\","
              "\"offset\":18446744073709551615},\"tabletEndpoint\":\"a\",\"des_endpoint\":\"b\",\"nosuch\":{\"x\":[1,{}"
              "]},\"dest\":null}");
    assert_int_equal(r->tid, 7);
    assert_int_equal(r->mode, OPENMLDB__DATASYNC__SYNC_MODE__kFullAndContinuous);
    assert_true(r->has_start_ts && r->start_ts == 1700000000000);
    assert_int_equal(r->sync_point->type, OPENMLDB__DATASYNC__SYNC_TYPE__kBINLOG);
    assert_true(r->sync_point->has_offset && r->sync_point->offset == UINT64_MAX);
    assert_bytes(r->sync_point->pk.data, r->sync_point->pk.len, "k\0\xc3\xa9", 4);
    assert_string_equal(r->tablet_endpoint, "a");
    assert_string_equal(r->des_endpoint, "b");
    assert_null(r->dest);
    assert_false(r->has_pid);
    drop(r);
    r = parse("{\"start_ts\":1,\"startTs\":2,\"tid\":1,\"tid\":2}"); /* the original name; the last of two */
    assert_int_equal(r->start_ts, 1);
    assert_int_equal(r->tid, 2);
    drop(r);
    r = parse(" {\n} ");
    drop(r);
}

static void a_wrong_type_leaves_an_optional_scalar_unset(void **state) {
    static const char *const cases[] = {
        "{\"tid\":\"abc\"}",  "{\"tid\":\"1\"}",       "{\"tid\":-1}",          "{\"tid\":4294967296}",
        "{\"tid\":1.5}",      "{\"tid\":true}",        "{\"tid\":{}}",          "{\"mode\":\"kNope\"}",
        "{\"mode\":9}",       "{\"mode\":[]}",         "{\"start_ts\":\"x\"}",  "{\"start_ts\":\"\"}",
        "{\"start_ts\":-1}",  "{\"start_ts\":\"-1\"}", "{\"start_ts\":\" 1\"}", "{\"start_ts\":18446744073709551616}",
        "{\"start_ts\":1e3}", "{\"token\":5}",         "{\"osync\":1}",         "{\"osync\":\"true\"}",
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Openmldb__Datasync__AddSyncTaskRequest *r = parse(cases[i]);
        if (protobuf_c_message_get_packed_size(&r->base) != 0) fail_msg("%s was taken", cases[i]);
        drop(r);
    }
    Openmldb__Datasync__AddSyncTaskRequest *r = parse("{\"tid\":\"abc\",\"pid\":3}");
    assert_int_equal(r->pid, 3);
    drop(r);
}

static void what_is_an_error(void **state) {
    const ProtobufCMessageDescriptor *add = &openmldb__datasync__add_sync_task_request__descriptor;
    const ProtobufCMessageDescriptor *table = &openmldb__nameserver__table_info__descriptor;
    assert_refused(add, "{\"tid\":1,", "Invalid json: ");
    assert_refused(add, "{\"tid\":1,", "[AddSyncTaskRequest]");
    assert_refused(add, "", "Invalid json: ");
    assert_refused(add, "{\"tid\":1}x", "Invalid json: ");
    assert_refused(add, "{\"tid\":01234567890123456789}", "Invalid json: ");
    assert_refused(add, "{\"dest\":\"\xff\"}", "Invalid json: ");
    assert_refused(add, "[1,2]", "The input is not a json object [AddSyncTaskRequest]");
    assert_refused(add, "5", "The input is not a json object");
    assert_refused(add, "{\"sync_point\":{}}", "Missing required field: openmldb.datasync.SyncPoint.type");
    assert_refused(add, "{\"sync_point\":{\"type\":null}}", "Missing required field: openmldb.datasync.SyncPoint.type");
    assert_refused(add, "{\"sync_point\":{\"type\":\"kNope\"}}", "`openmldb.datasync.SyncPoint.type'");
    assert_refused(add, "{\"sync_point\":{\"type\":7}}", "`openmldb.datasync.SyncPoint.type'");
    assert_refused(add, "{\"sync_point\":5}", "The input is not a json object [SyncPoint]");
    assert_refused(add, "{\"dest\":\"a\\u0000b\"}", "zero byte");
    assert_refused(table, "{\"partition_key\":\"a\"}", "repeated field `openmldb.nameserver.TableInfo.partition_key'");
    assert_refused(table, "{\"partition_key\":[\"a\",5]}",
                   "repeated field `openmldb.nameserver.TableInfo.partition_key'");
    assert_refused(table, "{\"partition_key\":[null]}", "repeated field");
    assert_refused(table, "{\"table_partition\":[{\"pid\":1},{}]}",
                   "Missing required field: openmldb.nameserver.TablePartition.pid");
}

static void nesting_is_limited(void **state) {
    for (int depth = 99; depth <= 101; depth++) { /* below the top object */
        osync__buf_t json = {0};
        ProtobufCMessage *m = NULL;
        assert_int_equal(osync__buf_append(&json, "{\"x\":", 5), 0);
        for (int i = 0; i < depth; i++) assert_int_equal(osync__buf_append(&json, "[", 1), 0);
        for (int i = 0; i < depth; i++) assert_int_equal(osync__buf_append(&json, "]", 1), 0);
        assert_int_equal(osync__buf_append(&json, "}", 1), 0);
        int rc =
            osync__json_to_message(&openmldb__datasync__general_response__descriptor, json.data, json.len, &m, NULL);
        assert_int_equal(rc, depth == 99 ? 0 : OSYNC_EINVAL);
        if (m) protobuf_c_message_free_unpacked(m, NULL);
        osync__buf_free(&json);
    }
    char *deep = malloc(1000000);
    ProtobufCMessage *m;
    memset(deep, '[', 1000000);
    assert_int_equal(osync__json_to_message(&openmldb__datasync__general_response__descriptor, deep, 1000000, &m, NULL),
                     OSYNC_EINVAL);
    free(deep);
}

/* What is parsed from damaged JSON can be written and read again. */
static void hostile_json_does_no_harm(void **state) {
    unsigned seed = 42;
    osync__buf_t file;
    load_fixture("fixtures/synctool/http/13_status_running_01_resp.bin", &file);
    const char *body = strstr((char *)file.data, "\r\n\r\n") + 4;
    size_t len = file.len - (size_t)(body - (char *)file.data);
    int taken = 0;
    for (int round = 0; round < 3000; round++) {
        char *bad = malloc(len); /* exactly as long, so that a read beyond it is seen */
        ProtobufCMessage *m, *again;
        osync__buf_t out;
        memcpy(bad, body, len);
        for (int i = 1 + rand_r(&seed) % 3; i > 0; i--)
            bad[(size_t)rand_r(&seed) % len] = "{}[]\",:0129ae-\\ \xff"[(size_t)rand_r(&seed) % 17];
        size_t n = rand_r(&seed) % 8 ? len : (size_t)rand_r(&seed) % len;
        if (osync__json_to_message(&openmldb__datasync__task_status_response__descriptor, bad, n, &m, NULL) == 0) {
            taken++;
            to_json(m, OSYNC__JSON_BRPC, &out);
            assert_int_equal(osync__json_to_message(m->descriptor, out.data, out.len, &again, NULL), 0);
            protobuf_c_message_free_unpacked(m, NULL);
            protobuf_c_message_free_unpacked(again, NULL);
            osync__buf_free(&out);
        }
        free(bad);
    }
    assert_in_range(taken, 100, 2900);
    osync__buf_free(&file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_what_the_java_side_writes),
        cmocka_unit_test(styles_differ_in_names_numbers_and_spaces),
        cmocka_unit_test(repeated_fields_and_defaults),
        cmocka_unit_test(reads_both_names_and_both_forms_of_numbers),
        cmocka_unit_test(a_wrong_type_leaves_an_optional_scalar_unset),
        cmocka_unit_test(what_is_an_error),
        cmocka_unit_test(nesting_is_limited),
        cmocka_unit_test(hostile_json_does_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
