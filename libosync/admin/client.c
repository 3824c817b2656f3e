/* The admin client: each call is one request over HTTP (points: two), whose answer is judged and handed on as it came.
 * What the answers hold besides a code and a message isn't known here. */
#include "osync/client.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/config.h"
#include "base/error.h"
#include "net/http_client.h"

enum {
    TIMEOUT_MS = 120000,
    LONG_TIMEOUT_MS = 24 * 3600 * 1000,
    MAX_SCHEDULER = 300, /* characters: the longest host name has 253 */
};
#define SERVICE "openmldb.datasync.SyncTool"

typedef struct call {
    osync_client_t *client;
    osync__http_call_t *http;
    bool changes; /* something: then it matters whether a request that got no answer was carried out */
    osync_client_cb cb;
    void *arg;
    struct call *prev, *next;
} call_t;

struct osync_client {
    osync__curl_t *curl;
    char *scheduler;
    uint32_t timeout_ms, long_timeout_ms;
    call_t *calls; /* under way */
    bool closing;
    void (*closed_cb)(void *arg);
    void *closed_arg;
};

/* ---- the client ---- */

void osync_client_config_init(osync_client_config_t *config, size_t size) {
    static const osync_client_config_t defaults = {.timeout_ms = TIMEOUT_MS, .long_timeout_ms = LONG_TIMEOUT_MS};
    osync__config_init(config, size, &defaults, sizeof defaults);
}

/* Whether it is host:port, with nothing in it that means something in a URL. */
static bool is_host_port(const char *text) {
    const char *colon = text ? strrchr(text, ':') : NULL;
    size_t len = colon ? (size_t)(colon - text) : 0;
    if (len == 0 || strlen(text) > MAX_SCHEDULER || strpbrk(text, "/\\?#@%\"<> ")) return false;
    for (const char *c = text; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 127) return false;
    bool bracketed = len > 2 && *text == '[' && colon[-1] == ']';
    if (!bracketed && strcspn(text, ":[]") < len) return false;
    size_t digits = strspn(colon + 1, "0123456789");
    unsigned long port = strtoul(colon + 1, NULL, 10);
    return digits > 0 && !colon[1 + digits] && port > 0 && port <= 65535;
}

int osync_client_new(osync_client_t **out, uv_loop_t *loop, const osync_client_config_t *config, osync_error_t *err) {
    osync_client_config_t own;
    osync_client_t *client = NULL;
    *out = NULL;
    osync_client_config_init(&own, sizeof own);
    int rc = osync__config_take(&own, sizeof own, config, "osync_client_config_init", err);
    if (rc) goto done;
    if (!is_host_port(own.scheduler)) {
        rc = osync__err(err, OSYNC_ECONFIG, "the scheduler's address '%.300s' isn't host:port, as 127.0.0.1:8848",
                        own.scheduler ? own.scheduler : "");
        goto done;
    }
    client = osync__calloc(1, sizeof *client);
    if (client) client->scheduler = osync__strdup(own.scheduler);
    if (!client || !client->scheduler) {
        rc = osync__err(err, OSYNC_ENOMEM, "out of memory for a client");
        goto done;
    }
    client->timeout_ms = own.timeout_ms;
    client->long_timeout_ms = own.long_timeout_ms;
    rc = osync__curl_new(loop, &client->curl, err);
    if (rc) goto done;
    *out = client;
    client = NULL;
done:
    if (client) osync__free(client->scheduler);
    osync__free(client);
    return rc;
}

static void on_closed(void *arg) {
    osync_client_t *client = arg;
    void (*cb)(void *) = client->closed_cb;
    void *closed_arg = client->closed_arg;
    osync_error_t err = {0};
    osync__err(&err, OSYNC_ECANCELED, "the client was closed before the answer came");
    while (client->calls) {
        call_t *call = client->calls;
        DL_DELETE(client->calls, call);
        call->cb(call->arg, err.code, NULL, 0, &err);
        osync__free(call);
    }
    osync__free(client->scheduler);
    osync__free(client);
    if (cb) cb(closed_arg);
}

void osync_client_close(osync_client_t *client, void (*cb)(void *arg), void *arg) {
    if (!client) return;
    client->closing = true;
    client->closed_cb = cb;
    client->closed_arg = arg;
    call_t *call;
    DL_FOREACH(client->calls, call) osync__http_cancel(call->http);
    osync__curl_close(client->curl, on_closed, client);
}

/* ---- answers ---- */

/* Ends a call: it may close the client. */
static void finish(call_t *call, const char *json, size_t len, const osync_error_t *err) {
    DL_DELETE(call->client->calls, call);
    call->cb(call->arg, err->code, json, len, err);
    osync__free(call);
}

/* Every answer is an object; a refusal has a code, in itself or in its `response`. NULL: it isn't an answer, and nobody
 * knows what has been done. The caller gives the reference back. */
static json_t *judge(const call_t *call, const char *text, size_t len, osync_error_t *err) {
    const char *scheduler = call->client->scheduler;
    int nonsense = call->changes ? OSYNC_EUNKNOWN : OSYNC_ERPC;
    json_error_t why;
    json_t *root = json_loadb(text, len, 0, &why);
    if (!json_is_object(root)) {
        if (root)
            osync__err(err, nonsense, "%s answered with JSON that isn't an object", scheduler);
        else
            osync__err(err, nonsense, "%s answered with what isn't JSON: %s", scheduler, why.text);
        json_decref(root);
        return NULL;
    }
    const json_t *response = json_object_get(root, "response");
    if (!json_is_object(response)) response = root;
    const json_t *code = json_object_get(response, "code");
    const char *msg = json_string_value(json_object_get(response, "msg"));
    if (code && (!json_is_integer(code) || json_integer_value(code) != 0))
        osync__err(err, OSYNC_ERPC, "%s", msg && *msg ? msg : "the scheduler has refused, and doesn't say why");
    return root;
}

static void on_answer(void *arg, int status, const char *body, size_t len, const osync_error_t *http_err) {
    call_t *call = arg;
    osync_error_t err = {0};
    json_t *root = NULL;
    if (status) err = *http_err;
    if (status == OSYNC_EUNKNOWN && !call->changes) err.code = OSYNC_ECONN;
    if (!status) root = judge(call, body, len, &err);
    finish(call, root ? body : NULL, root ? len : 0, &err);
    json_decref(root);
}

/* ---- requests ---- */

typedef enum request_flags {
    CHANGES = 1, /* something at the scheduler */
    SLOW = 2,    /* it looks at many files first */
} request_flags_t;

static int nomem(osync_error_t *err) {
    return osync__err(err, OSYNC_ENOMEM, "out of memory for a request");
}

static int text_append(const char *data, size_t len, void *arg) {
    return osync__buf_append(arg, data, len) ? -1 : 0;
}

/* Sends `message` to `method`, or asks for the page if that is NULL. */
static int send_request(call_t *call, const char *method, const json_t *message, uint32_t timeout_ms, osync__http_cb cb,
                        osync_error_t *err) {
    const osync_client_t *client = call->client;
    osync__buf_t text = {0};
    char *url = method ? osync__format("http://%s/" SERVICE "/%s", client->scheduler, method)
                       : osync__format("http://%s/status?format=json", client->scheduler);
    int rc = url ? 0 : nomem(err);
    if (!rc && method &&
        (json_dump_callback(message, text_append, &text, JSON_COMPACT) || osync__buf_append(&text, "", 1)))
        rc = nomem(err);
    if (!rc)
        rc = osync__http_call(client->curl, url, method ? (const char *)text.data : NULL, timeout_ms, cb, call,
                              &call->http, err);
    osync__free(url);
    osync__buf_free(&text);
    return rc;
}

/* A call of `method`, of which `message` isn't there if `rc` says so; its reference is taken. */
static int begin(int rc, osync_client_t *client, const char *method, json_t *message, unsigned flags,
                 osync_client_cb cb, void *arg, osync_error_t *err) {
    call_t *call = NULL;
    if (!rc && client->closing) rc = osync__err(err, OSYNC_ECLOSED, "the client is closed");
    if (rc) goto done;
    call = osync__malloc(sizeof *call);
    if (!call) {
        rc = nomem(err);
        goto done;
    }
    *call = (call_t){.client = client, .changes = flags & CHANGES, .cb = cb, .arg = arg};
    rc = send_request(call, method, message, flags & SLOW ? client->long_timeout_ms : client->timeout_ms, on_answer,
                      err);
    if (rc) goto done;
    DL_APPEND(client->calls, call);
    call = NULL;
done:
    osync__free(call);
    json_decref(message);
    return rc;
}

static int put(json_t *message, const char *key, json_t *value, osync_error_t *err) {
    return json_object_set_new(message, key, value) ? nomem(err) : 0;
}

/* `what`: how the caller calls it. */
static int put_text(json_t *message, const char *key, const char *what, const char *text, osync_error_t *err) {
    if (!text || !*text) return osync__err(err, OSYNC_EINVAL, "the %s is missing", what);
    json_t *value = json_string(text);
    return value ? put(message, key, value, err) : osync__err(err, OSYNC_EINVAL, "the %s isn't UTF-8 text", what);
}

/* The message of every call that is about one table. The caller gives the reference back, also on failure. */
static int table_message(json_t **out, const char *db, const char *table, osync_error_t *err) {
    *out = json_object();
    int rc = *out ? put_text(*out, "db", "database", db, err) : nomem(err);
    return rc ? rc : put_text(*out, "name", "table", table, err);
}

void osync_create_options_init(osync_create_options_t *options, size_t size) {
    static const osync_create_options_t defaults = {.mode = OSYNC_MODE_FULL};
    osync__config_init(options, size, &defaults, sizeof defaults);
}

/* What osync_client_points gave, without what a scheduler doesn't take. */
static int put_points(json_t *message, const char *text, osync_error_t *err) {
    static const char *const keys[] = {"pid", "point", "exact"};
    json_error_t why = {0};
    json_t *given = text ? json_loads(text, 0, &why) : NULL, *points = json_array(), *point;
    size_t i;
    int rc = points ? 0 : nomem(err);
    if (!rc && !json_is_array(given))
        rc = osync__err(err, OSYNC_EINVAL, "the points aren't a JSON array, as osync_client_points gives it%s%s",
                        *why.text ? ": " : "", why.text);
    json_array_foreach(given, i, point) {
        json_t *taken = json_object();
        if (!rc && json_array_append_new(points, taken)) rc = nomem(err);
        for (size_t k = 0; k < sizeof keys / sizeof *keys && !rc; k++)
            if (json_object_get(point, keys[k]))
                rc = put(taken, keys[k], json_incref(json_object_get(point, keys[k])), err);
    }
    if (!rc) rc = put(message, "points", json_incref(points), err);
    json_decref(points);
    json_decref(given);
    return rc;
}

static int put_options(json_t *message, const osync_create_options_t *o, osync_error_t *err) {
    static const char *const starts[] = {
        [OSYNC_START_DEFAULT] = NULL,
        [OSYNC_START_APPEND] = "kStartAppend",
        [OSYNC_START_RESTART] = "kStartRestart",
        [OSYNC_START_CONTINUE] = "kStartContinue",
        [OSYNC_START_POINTS] = "kStartAtPoints",
    };
    unsigned mode = (unsigned)o->mode, start = (unsigned)o->start;
    if (mode > OSYNC_MODE_CONTINUOUS) return osync__err(err, OSYNC_EINVAL, "there is no mode %u", mode);
    if (start >= sizeof starts / sizeof *starts) return osync__err(err, OSYNC_EINVAL, "there is no start %u", start);
    uint64_t start_ts = mode == OSYNC_MODE_INCREMENTAL ? o->start_ts : 0;
    if (start_ts > INT64_MAX) return osync__err(err, OSYNC_EINVAL, "start_ts is larger than any timestamp");
    int rc = put(message, "mode", json_integer((json_int_t)mode), err);
    if (!rc) rc = put(message, "start_ts", json_integer((json_int_t)start_ts), err);
    if (!rc) rc = put_text(message, "dest", "destination", o->dest, err);
    if (!rc && starts[start]) rc = put_text(message, "start", "start", starts[start], err);
    if (!rc && start == OSYNC_START_POINTS) rc = put_points(message, o->points, err);
    if (!rc && o->task_id) rc = put_text(message, "task_id", "task's id", o->task_id, err);
    return rc;
}

int osync_client_create(osync_client_t *client, const char *db, const char *table,
                        const osync_create_options_t *options, osync_client_cb cb, void *arg, osync_error_t *err) {
    osync_create_options_t own;
    json_t *message = NULL;
    osync_create_options_init(&own, sizeof own);
    int rc = osync__config_take(&own, sizeof own, options, "osync_create_options_init", err);
    if (!rc) rc = table_message(&message, db, table, err);
    if (!rc) rc = put_options(message, &own, err);
    return begin(rc, client, "CreateSyncTask", message, own.start ? CHANGES | SLOW : CHANGES, cb, arg, err);
}

int osync_client_delete(osync_client_t *client, const char *db, const char *table, osync_client_cb cb, void *arg,
                        osync_error_t *err) {
    json_t *message = NULL;
    int rc = table_message(&message, db, table, err);
    return begin(rc, client, "DeleteSyncTask", message, CHANGES, cb, arg, err);
}

int osync_client_retry(osync_client_t *client, const char *db, const char *table, osync_client_cb cb, void *arg,
                       osync_error_t *err) {
    json_t *message = NULL;
    int rc = table_message(&message, db, table, err);
    return begin(rc, client, "RetrySyncTask", message, CHANGES, cb, arg, err);
}

int osync_client_verify(osync_client_t *client, const char *db, const char *table, const char *dest, bool quick,
                        osync_client_cb cb, void *arg, osync_error_t *err) {
    json_t *message = NULL;
    int rc = table_message(&message, db, table, err);
    if (!rc) rc = put_text(message, "dest", "destination", dest, err);
    if (!rc && quick) rc = put(message, "quick", json_true(), err);
    return begin(rc, client, "VerifySyncTask", message, SLOW, cb, arg, err);
}

int osync_client_recover(osync_client_t *client, const char *db, const char *table, const char *dest,
                         const char *task_id, bool start_over, osync_client_cb cb, void *arg, osync_error_t *err) {
    json_t *message = NULL;
    int rc = table_message(&message, db, table, err);
    if (!rc) rc = put_text(message, "dest", "destination", dest, err);
    if (!rc && task_id) rc = put_text(message, "task_id", "task's id", task_id, err);
    if (!rc && start_over) rc = put(message, "start_over", json_true(), err);
    return begin(rc, client, "RecoverSyncTask", message, CHANGES | SLOW, cb, arg, err);
}

int osync_client_status(osync_client_t *client, osync_client_cb cb, void *arg, osync_error_t *err) {
    return begin(0, client, NULL, NULL, 0, cb, arg, err);
}

static int ask(osync_client_t *client, const char *method, osync_client_cb cb, void *arg, osync_error_t *err) {
    json_t *message = json_object();
    return begin(message ? 0 : nomem(err), client, method, message, 0, cb, arg, err);
}

int osync_client_task_status(osync_client_t *client, osync_client_cb cb, void *arg, osync_error_t *err) {
    return ask(client, "TaskStatus", cb, arg, err);
}

int osync_client_collectors(osync_client_t *client, osync_client_cb cb, void *arg, osync_error_t *err) {
    return ask(client, "Collectors", cb, arg, err);
}

/* ---- points: the page says which tasks are the table's, TaskStatus where they stand ---- */

typedef struct points {
    osync_client_t *client;
    osync_client_cb cb;
    void *arg;
    char *db, *table;
    json_t *tids; /* of the table's tasks: as keys */
} points_t;

static void points_free(points_t *p) {
    osync__free(p->db);
    osync__free(p->table);
    json_decref(p->tids);
    osync__free(p);
}

/* Ends the call with `err`: it may close the client. */
static void points_failed(points_t *p, const osync_error_t *err) {
    p->cb(p->arg, err->code, NULL, 0, err);
    points_free(p);
}

static bool is_text(const json_t *value, const char *text) {
    return json_is_string(value) && !strcmp(json_string_value(value), text);
}

static void key_of(json_int_t number, char key[32]) {
    (void)snprintf(key, 32, "%" JSON_INTEGER_FORMAT, number);
}

static int compare_pids(const void *a, const void *b) {
    json_int_t x = json_integer_value(json_object_get(*(json_t *const *)a, "pid"));
    json_int_t y = json_integer_value(json_object_get(*(json_t *const *)b, "pid"));
    return (x > y) - (x < y);
}

/* One partition's point, if it is the table's: appended to `sorted`. */
static int add_point(const points_t *p, const json_t *task, const json_t *exact, json_t **sorted, size_t *n,
                     osync_error_t *err) {
    const json_t *progress = json_object_get(task, "progress");
    json_int_t pid = json_integer_value(json_object_get(progress, "pid"));
    json_t *point = json_object_get(progress, "syncPoint");
    char tid[32];
    key_of(json_integer_value(json_object_get(progress, "tid")), tid);
    if (!json_object_get(p->tids, tid)) return 0;
    if (!json_string_length(exact))
        return osync__err(err, OSYNC_EAGAIN,
                          "the committed point of partition %" JSON_INTEGER_FORMAT " isn't known yet", pid);
    point = point ? json_incref(point) : json_object();
    sorted[*n] = json_pack("{s:I, s:o, s:s}", "pid", pid, "point", point, "exact", json_string_value(exact));
    if (!sorted[*n]) return nomem(err);
    ++*n;
    return 0;
}

static void on_points(void *arg, int status, const char *json, size_t len, const osync_error_t *given) {
    points_t *p = arg;
    osync_error_t err = {0};
    osync__buf_t text = {0};
    json_t **sorted = NULL, *out = NULL;
    size_t n = 0;
    json_t *answer = status ? NULL : json_loadb(json, len, 0, NULL);
    const json_t *tasks = json_object_get(answer, "task"), *exact = json_object_get(answer, "points");
    size_t n_tasks = json_array_size(tasks);
    if (status) err = *given;
    if (err.code) goto done;
    sorted = osync__calloc(n_tasks + 1, sizeof *sorted);
    out = json_array();
    if (!answer || !sorted || !out) {
        nomem(&err);
        goto done;
    }
    for (size_t i = 0; i < n_tasks && !err.code; i++)
        (void)add_point(p, json_array_get(tasks, i), json_array_get(exact, i), sorted, &n, &err);
    if (err.code) goto done;
    if (n == 0) {
        osync__err(&err, OSYNC_ENOENT, "table %s.%s has no sync task", p->db, p->table);
        goto done;
    }
    qsort(sorted, n, sizeof *sorted, compare_pids);
    for (size_t i = 0; i < n; i++)
        if (json_array_append(out, sorted[i])) nomem(&err);
    if (!err.code && (json_dump_callback(out, text_append, &text, JSON_COMPACT) || osync__buf_append(&text, "", 1)))
        nomem(&err);
done:
    if (err.code)
        p->cb(p->arg, err.code, NULL, 0, &err);
    else
        p->cb(p->arg, 0, (const char *)text.data, text.len - 1, &err);
    for (size_t i = 0; i < n; i++) json_decref(sorted[i]);
    osync__free(sorted);
    json_decref(out);
    json_decref(answer);
    osync__buf_free(&text);
    points_free(p);
}

static void on_page(void *arg, int status, const char *json, size_t len, const osync_error_t *given) {
    points_t *p = arg;
    osync_error_t err = {0};
    json_t *page = status ? NULL : json_loadb(json, len, 0, NULL), *message = NULL, *task;
    size_t i;
    int rc = status;
    if (status)
        err = *given;
    else if (!page)
        rc = nomem(&err);
    json_array_foreach(json_object_get(page, "tasks"), i, task) {
        char tid[32];
        if (!is_text(json_object_get(task, "db"), p->db) || !is_text(json_object_get(task, "table"), p->table))
            continue;
        key_of(json_integer_value(json_object_get(task, "tid")), tid);
        if (json_object_set_new(p->tids, tid, json_true())) rc = nomem(&err);
    }
    if (!rc && json_object_size(p->tids) == 0)
        rc = json_is_false(json_object_get(page, "ready"))
                 ? osync__err(&err, OSYNC_EAGAIN, "the scheduler hasn't read its checkpoint yet")
                 : osync__err(&err, OSYNC_ENOENT, "table %s.%s has no sync task", p->db, p->table);
    json_decref(page);
    if (!rc) {
        message = json_pack("{s:b}", "points", 1);
        if (!message) rc = nomem(&err);
        rc = begin(rc, p->client, "TaskStatus", message, 0, on_points, p, &err);
    }
    if (rc) points_failed(p, &err);
}

int osync_client_points(osync_client_t *client, const char *db, const char *table, osync_client_cb cb, void *arg,
                        osync_error_t *err) {
    points_t *p = NULL;
    json_t *checked = NULL;
    int rc = table_message(&checked, db, table, err);
    json_decref(checked);
    if (rc) return rc;
    p = osync__malloc(sizeof *p);
    if (!p) return nomem(err);
    *p = (points_t){.client = client, .cb = cb, .arg = arg};
    p->db = osync__strdup(db);
    p->table = osync__strdup(table);
    p->tids = json_object();
    rc = p->db && p->table && p->tids ? osync_client_status(client, on_page, p, err) : nomem(err);
    if (rc) points_free(p);
    return rc;
}
