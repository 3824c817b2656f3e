/* The listening port: its connections, telling baidu_std from HTTP by the first bytes, baidu_std requests and their
 * answers. What a request means is the handlers' business; HTTP is in http.c.
 *
 * Whoever reaches the port may send anything. Connections and their memory are bounded for all of them together; where
 * a bound is met, the connection whose last whole request is the longest ago makes room, so that those who only hold
 * what they have got give way to those who work. */
#include "net/rpc_server.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <utlist.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/sys.h"
#include "rpc_meta.pb-c.h"

enum {
    MAX_CONNECTIONS = 1024, /* at most, and at most half of the files that the process may open */
    MAX_CALLS = 4096,       /* open on one baidu_std connection; beyond it isn't read further */
    AT_ONCE = 32,           /* requests of one connection that are handled before the others have their turn */
    MAX_UNSENT = 16 << 20,  /* bytes of answers that the other side doesn't read; beyond it isn't read further */
    BACKLOG = 511,          /* of listen(2) */
    GARBAGE_MS = 3000,      /* how long a connection that speaks nothing we know stays */
    PARTIAL_MS = 60 * 1000, /* without a byte in the middle of a request */
    ENDING_MS = 2000,       /* for the other side to close after its last answer */
    KEEPALIVE_S = 60,       /* finds peers that are gone without a word */
    MAX_BODIES = 4,         /* bodies of the largest size in memory: twice as many, see max_buffered */
    MIN_BUFFERED = 32 << 20,
    CALL_COST = 512,      /* bytes that an open call takes beside those of its request */
    QUIET_MS = 10 * 1000, /* between two messages about a bound that is met */
};

struct osync__rpc_server {
    osync__rpc_server_config_t config;
    uv_loop_t *loop;
    uv_tcp_t listener;
    uv_async_t kick; /* pumps the connections that want it, outside of whatever call made them want it */
    unsigned handles;
    int port;
    osync__conn_t *conns;
    unsigned n_conns; /* in the list */
    unsigned n_open;  /* of these, not closing */
    unsigned max_conns;
    uint64_t max_buffered, max_held; /* of the next two */
    uint64_t buffered;               /* bytes of requests that aren't complete and of answers that aren't sent */
    uint64_t held;                   /* bytes of requests that are being answered, also when their connection is gone */
    uint64_t warned_ms;
    osync__rpc_call_t *orphans; /* calls whose connection is gone */
    bool closing;
    void (*closed_cb)(void *arg);
    void *closed_arg;
};

typedef struct write_req {
    uv_write_t req;
    osync__buf_t bytes;
    uint64_t cost; /* bytes of memory */
} write_req_t;

static void pump(osync__conn_t *conn);

const osync__rpc_server_config_t *osync__server_config(const osync__rpc_server_t *server) {
    return &server->config;
}

const char *osync__short_service(const char *service) {
    const char *dot = strrchr(service, '.');
    return dot ? dot + 1 : service;
}

const osync__rpc_method_t *osync__server_find(const osync__rpc_server_t *server, const char *service,
                                              const char *method, int *code, char *text, size_t text_size) {
    bool is_short = !strchr(service, '.');
    bool known = false;
    for (size_t i = 0; i < server->config.n_methods; i++) {
        const osync__rpc_method_t *m = &server->config.methods[i];
        if (strcmp(is_short ? osync__short_service(m->service) : m->service, service) != 0) continue;
        known = true;
        if (strcmp(m->method, method) == 0) return m;
    }
    if (is_short && !known) {
        *code = OSYNC__BRPC_ENOSERVICE;
        (void)snprintf(text, text_size, "Fail to find service=%s", service);
    } else {
        *code = OSYNC__BRPC_ENOMETHOD;
        (void)snprintf(text, text_size, "Fail to find method=%s/%s", service, method);
    }
    return NULL;
}

/* ---- calls ---- */

osync__rpc_call_t *osync__call_new(osync__conn_t *conn) {
    osync__rpc_call_t *call = osync__calloc(1, sizeof *call);
    if (!call) return NULL;
    call->conn = conn;
    call->server = conn->server;
    memcpy(call->peer, conn->peer, sizeof call->peer);
    DL_APPEND(conn->calls, call);
    conn->n_calls++;
    osync__call_hold(call, CALL_COST);
    return call;
}

void osync__call_hold(osync__rpc_call_t *call, uint64_t bytes) {
    call->held += bytes;
    call->conn->held += bytes;
    call->server->held += bytes;
}

/* Takes it off its connection. */
static void call_detach(osync__rpc_call_t *call) {
    osync__conn_t *conn = call->conn;
    DL_DELETE(conn->calls, call);
    conn->n_calls--;
    conn->held -= call->held;
    call->conn = NULL;
}

/* Less of its requests is held: it may be read on. */
static void go_on(osync__conn_t *conn) {
    if (conn->reading || conn->pumping || conn->state == OSYNC__CONN_CLOSING) return;
    conn->wants_pump = true;
    uv_async_send(&conn->server->kick);
}

void osync__call_end(osync__rpc_call_t *call) {
    osync__conn_t *conn = call->conn;
    if (call->server) call->server->held -= call->held;
    if (conn) {
        call_detach(call);
        go_on(conn);
    } else if (call->server) {
        DL_DELETE(call->server->orphans, call);
    }
    if (call->request) protobuf_c_message_free_unpacked(call->request, &osync__protobuf_allocator);
    osync__free(call->data);
    osync__free(call->query);
    osync__free(call);
}

const ProtobufCMessage *osync__rpc_request(const osync__rpc_call_t *call) {
    return call->request;
}

const uint8_t *osync__rpc_attachment(const osync__rpc_call_t *call, size_t *len) {
    *len = call->attachment_len;
    return call->attachment;
}

void osync__rpc_drop_attachment(osync__rpc_call_t *call) {
    uint64_t gone = call->attachment_len;
    osync__free(call->data);
    call->data = NULL;
    call->attachment = NULL;
    call->attachment_len = 0;
    call->held -= gone;
    if (call->server) call->server->held -= gone;
    if (!call->conn) return;
    call->conn->held -= gone;
    go_on(call->conn);
}

const char *osync__rpc_peer(const osync__rpc_call_t *call) {
    return call->peer;
}

const char *osync__rpc_query(const osync__rpc_call_t *call) {
    return call->query ? call->query : "";
}

static void send_response(osync__conn_t *conn, int64_t correlation_id, int code, const char *text,
                          const ProtobufCMessage *response) {
    osync__buf_t out = {0};
    if (osync__frame_response(&out, correlation_id, code, text, response)) {
        osync__buf_free(&out);
        osync__log(OSYNC_LOG_ERROR, "out of memory for an answer to %s: closing the connection", conn->peer);
        osync__conn_close(conn);
        return;
    }
    osync__conn_write(conn, &out);
}

void osync__rpc_fail(osync__rpc_call_t *call, int code, const char *text) {
    osync__conn_t *conn = call->conn;
    if (conn && call->http)
        osync__http_fail(conn, code, text);
    else if (conn)
        send_response(conn, call->correlation_id, code, text, NULL);
    osync__call_end(call);
}

void osync__rpc_reply(osync__rpc_call_t *call, const ProtobufCMessage *response) {
    osync__conn_t *conn = call->conn;
    if (conn && (!call->method || response->descriptor != call->method->response)) {
        osync__log(OSYNC_LOG_ERROR, "a handler answered with a %s where that isn't the answer",
                   response->descriptor->name);
        osync__rpc_fail(call, OSYNC__BRPC_EINTERNAL, "The server's handler gave an answer of the wrong type");
        return;
    }
    if (conn && !protobuf_c_message_check(response)) {
        char text[256];
        (void)snprintf(text, sizeof text, "Missing required fields in response: %s", response->descriptor->name);
        osync__rpc_fail(call, OSYNC__BRPC_ERESPONSE, text);
        return;
    }
    if (conn && call->http)
        osync__http_reply(call, response);
    else if (conn)
        send_response(conn, call->correlation_id, 0, NULL, response);
    osync__call_end(call);
}

void osync__rpc_reply_http(osync__rpc_call_t *call, int status, const char *content_type, const void *body,
                           size_t len) {
    if (call->conn && !call->http) {
        osync__rpc_fail(call, OSYNC__BRPC_EINTERNAL, "The server's handler gave a page to a baidu_std request");
        return;
    }
    if (call->conn) osync__http_send(call->conn, status, content_type, 0, body, len);
    osync__call_end(call);
}

static int append_text(const char *text, size_t len, void *out) {
    return osync__buf_append(out, text, len) ? -1 : 0;
}

void osync__rpc_reply_json(osync__rpc_call_t *call, json_t *page) {
    static const char nomem[] = "out of memory\n";
    osync__buf_t text = {0};
    if (page && !json_dump_callback(page, append_text, &text, JSON_INDENT(2)))
        osync__rpc_reply_http(call, 200, "application/json", text.data, text.len);
    else
        osync__rpc_reply_http(call, 500, "text/plain", nomem, sizeof nomem - 1);
    osync__buf_free(&text);
    json_decref(page);
}

/* ---- a baidu_std request ---- */

static void handle_frame(osync__conn_t *conn, osync__frame_t *frame) {
    osync__rpc_server_t *server = conn->server;
    osync__rpc_call_t *call = NULL;
    osync__buf_t inflated = {0};
    const osync__rpc_method_t *method = NULL;
    char text[512];
    int code = 0;
    Brpc__Policy__RpcMeta *meta = (Brpc__Policy__RpcMeta *)osync__message_unpack(&brpc__policy__rpc_meta__descriptor,
                                                                                 frame->meta, frame->meta_len);
    if (!meta) {
        osync__log(OSYNC_LOG_WARN, "%s sent a frame whose meta data cannot be parsed: closing the connection",
                   conn->peer);
        osync__conn_close(conn);
        goto done;
    }
    int64_t correlation_id = meta->has_correlation_id ? meta->correlation_id : 0;
    method = osync__server_find(server, meta->request ? meta->request->service_name : "",
                                meta->request ? meta->request->method_name : "", &code, text, sizeof text);
    if (!method) goto failed;
    uint64_t held = OSYNC__FRAME_HEAD + (uint64_t)frame->meta_len + frame->payload_len;
    if (osync__server_crowded(server, held)) {
        code = OSYNC__BRPC_ELIMIT;
        (void)snprintf(text, sizeof text, "Reached server's limit of requests in memory, try again later");
        goto failed;
    }

    size_t attachment_len = 0;
    if (meta->has_attachment_size) {
        if (meta->attachment_size < 0 || (size_t)meta->attachment_size > frame->payload_len) {
            code = OSYNC__BRPC_EREQUEST;
            (void)snprintf(text, sizeof text, "attachment_size=%d is larger than request_size=%zu",
                           meta->attachment_size, frame->payload_len);
            goto failed;
        }
        attachment_len = (size_t)meta->attachment_size;
    }
    const uint8_t *message = frame->payload;
    size_t message_len = frame->payload_len - attachment_len;
    int compress = meta->has_compress_type ? meta->compress_type : OSYNC__COMPRESS_NONE;
    ProtobufCMessage *request = NULL;
    if (compress == OSYNC__COMPRESS_NONE) {
        request = osync__message_unpack(method->request, message, message_len);
    } else if (osync__decompress(compress, message, message_len, server->config.max_body_size, &inflated) == 0) {
        request = osync__message_unpack(method->request, inflated.data, inflated.len);
    }
    if (!request) {
        code = OSYNC__BRPC_EREQUEST;
        (void)snprintf(text, sizeof text, "Fail to parse request message, CompressType=%s, request_size=%zu",
                       osync__compress_name(compress), frame->payload_len);
        goto failed;
    }
    call = osync__call_new(conn);
    if (!call) {
        protobuf_c_message_free_unpacked(request, &osync__protobuf_allocator);
        osync__conn_close(conn);
        goto done;
    }
    call->method = method;
    call->request = request;
    call->correlation_id = correlation_id;
    if (attachment_len) {
        call->data = frame->data;
        frame->data = NULL;
        call->attachment = message + message_len;
        call->attachment_len = attachment_len;
    }
    osync__call_hold(call, held);
    goto done;
failed:
    send_response(conn, correlation_id, code, text, NULL);
done:
    if (meta) protobuf_c_message_free_unpacked(&meta->base, &osync__protobuf_allocator);
    osync__buf_free(&inflated);
    osync__free(frame->data);
    /* The last thing, since the handler may answer and so free the call. */
    if (call) method->handle(call, server->config.arg);
}

/* ---- bounds ---- */

static bool worth_a_warning(osync__rpc_server_t *server) {
    uint64_t now = osync__mono_ms();
    if (server->warned_ms && now - server->warned_ms < QUIET_MS) return false;
    server->warned_ms = now;
    return true;
}

bool osync__server_crowded(osync__rpc_server_t *server, uint64_t more) {
    if (server->held == 0 || (server->held <= server->max_held && more <= server->max_held - server->held))
        return false;
    if (worth_a_warning(server))
        osync__log(OSYNC_LOG_WARN, "port %d: %llu bytes of requests are being worked on: a new one is refused",
                   server->port, (unsigned long long)server->held);
    return true;
}

/* The one to make room: one that never sent a whole request, else the one that did so the longest ago. Where memory is
 * short it isn't one with much less than an even share of it, else one that waits for an answer is no candidate. */
static osync__conn_t *stalest(const osync__rpc_server_t *server, bool memory) {
    osync__conn_t *conn, *found = NULL;
    uint64_t share = server->n_open ? server->buffered / server->n_open / 2 : 0;
    DL_FOREACH(server->conns, conn) { /* the oldest first */
        if (conn->state == OSYNC__CONN_CLOSING || (memory ? conn->buffered <= share : conn->n_calls > 0)) continue;
        if (!found || conn->served_ms < found->served_ms) found = conn;
    }
    return found;
}

/* Counts what a connection has in memory, and makes room if all have too much. May close any connection. */
static void account(osync__conn_t *conn) {
    osync__rpc_server_t *server = conn->server;
    if (conn->state == OSYNC__CONN_CLOSING) return;
    uint64_t now = conn->frames.in.cap + conn->unsent;
    if (conn->http) now += osync__http_buffered(conn->http);
    server->buffered += now - conn->buffered;
    conn->buffered = now;
    while (server->buffered > server->max_buffered) {
        osync__conn_t *victim = stalest(server, true);
        if (!victim) return;
        if (worth_a_warning(server))
            osync__log(OSYNC_LOG_WARN, "port %d: connections hold %llu bytes: the one of %s, with %llu, is closed",
                       server->port, (unsigned long long)server->buffered, victim->peer,
                       (unsigned long long)victim->buffered);
        osync__conn_close(victim);
        if (victim == conn || victim->pumping) return; /* its buffers are in use */
        osync__frames_free(&victim->frames);
        osync__http_free(victim->http);
        victim->http = NULL;
    }
}

/* ---- connections ---- */

static void server_handle_closed(osync__rpc_server_t *server) {
    if (server->handles || server->n_conns) return;
    void (*cb)(void *arg) = server->closed_cb;
    void *arg = server->closed_arg;
    osync__free(server);
    if (cb) cb(arg);
}

static void on_conn_handle_closed(uv_handle_t *handle) {
    osync__conn_t *conn = handle->data;
    if (--conn->handles) return;
    osync__rpc_server_t *server = conn->server;
    DL_DELETE(server->conns, conn);
    server->n_conns--;
    osync__http_free(conn->http);
    osync__frames_free(&conn->frames);
    osync__free(conn);
    if (server->closing) server_handle_closed(server);
}

void osync__conn_close(osync__conn_t *conn) {
    if (conn->state == OSYNC__CONN_CLOSING) return;
    conn->state = OSYNC__CONN_CLOSING;
    conn->server->n_open--;
    conn->server->buffered -= conn->buffered;
    conn->buffered = 0;
    while (conn->calls) {
        osync__rpc_call_t *call = conn->calls;
        call_detach(call);
        DL_APPEND(conn->server->orphans, call);
    }
    uv_close((uv_handle_t *)&conn->tcp, on_conn_handle_closed);
    uv_close((uv_handle_t *)&conn->timer, on_conn_handle_closed);
}

static void on_timer(uv_timer_t *timer) {
    osync__conn_t *conn = timer->data;
    osync__log(OSYNC_LOG_DEBUG, "closing the connection of %s: nothing usable came from it in time", conn->peer);
    osync__conn_close(conn);
}

/* Everything is written. Closing at once, with bytes of the other side unread, would reset the connection and could
 * destroy the answer on its way. */
static void on_shutdown(uv_shutdown_t *req, int status) {
    osync__conn_t *conn = req->data;
    osync__free(req);
    if (conn->state == OSYNC__CONN_CLOSING) return;
    if (status < 0)
        osync__conn_close(conn);
    else
        uv_timer_start(&conn->timer, on_timer, ENDING_MS, 0);
}

void osync__conn_end(osync__conn_t *conn) {
    if (conn->state != OSYNC__CONN_OPEN) return;
    uv_shutdown_t *req = osync__malloc(sizeof *req);
    if (req) req->data = conn;
    if (!req || uv_shutdown(req, (uv_stream_t *)&conn->tcp, on_shutdown)) {
        osync__free(req);
        osync__conn_close(conn);
        return;
    }
    conn->state = OSYNC__CONN_ENDING;
    uv_timer_start(&conn->timer, on_timer, PARTIAL_MS, 0);
}

static void on_write(uv_write_t *req, int status) {
    write_req_t *w = (write_req_t *)req;
    osync__conn_t *conn = req->data;
    conn->unsent -= w->cost;
    osync__buf_free(&w->bytes);
    osync__free(w);
    if (conn->state == OSYNC__CONN_CLOSING) return;
    if (status < 0)
        osync__conn_close(conn);
    else
        pump(conn);
}

void osync__conn_write(osync__conn_t *conn, osync__buf_t *bytes) {
    uv_stream_t *stream = (uv_stream_t *)&conn->tcp;
    write_req_t *w = NULL;
    size_t sent = 0;
    if (conn->state == OSYNC__CONN_CLOSING) goto done;
    if (uv_stream_get_write_queue_size(stream) == 0) {
        uv_buf_t buf = uv_buf_init((char *)bytes->data, (unsigned)bytes->len);
        int n = uv_try_write(stream, &buf, 1);
        if (n > 0) sent = (size_t)n;
        if (sent == bytes->len) goto done;
    }
    w = osync__calloc(1, sizeof *w);
    if (!w) {
        osync__conn_close(conn);
        goto done;
    }
    w->req.data = conn;
    w->bytes = *bytes;
    w->cost = sizeof *w + w->bytes.cap;
    conn->unsent += w->cost;
    *bytes = (osync__buf_t){0};
    uv_buf_t rest = uv_buf_init((char *)w->bytes.data + sent, (unsigned)(w->bytes.len - sent));
    if (uv_write(&w->req, stream, &rest, 1, on_write)) {
        conn->unsent -= w->cost;
        osync__buf_free(&w->bytes);
        osync__free(w);
        osync__conn_close(conn);
    }
    account(conn);
done:
    osync__buf_free(bytes);
}

static bool full(const osync__conn_t *conn) {
    /* HTTP/1.1 answers come in the order of their requests: one at a time is simplest. */
    unsigned max_calls = conn->protocol == OSYNC__CONN_HTTP ? 1 : MAX_CALLS;
    return conn->n_calls >= max_calls || conn->held > conn->server->config.max_held || conn->unsent > MAX_UNSENT;
}

/* True once the protocol is known. */
static bool detect(osync__conn_t *conn) {
    const uint8_t *p = conn->frames.in.data;
    size_t n = conn->frames.in.len;
    if (n == 0) return false;
    if (memcmp(p, "PRPC", n < 4 ? n : 4) == 0) {
        if (n < 4) return false;
        conn->protocol = OSYNC__CONN_PRPC;
        return true;
    }
    if (p[0] < 'A' || p[0] > 'Z') { /* no HTTP method begins so */
        conn->state = OSYNC__CONN_GARBAGE;
        return false;
    }
    if (osync__http_new(conn)) {
        osync__conn_close(conn);
        return false;
    }
    conn->protocol = OSYNC__CONN_HTTP;
    return true;
}

/* Handles what was read. True: there may be more to do. */
static bool step(osync__conn_t *conn) {
    osync__frame_t frame;
    osync_error_t err = {0};
    switch (conn->protocol) {
    case OSYNC__CONN_UNKNOWN:
        return detect(conn);
    case OSYNC__CONN_HTTP:
        return osync__http_step(conn);
    case OSYNC__CONN_PRPC:
        break;
    }
    int rc = osync__frames_next(&conn->frames, conn->server->config.max_body_size, &frame, &err);
    if (rc == 0) return false;
    if (rc < 0) {
        osync__log(OSYNC_LOG_WARN, "closing the connection of %s: %s", conn->peer, err.message);
        osync__conn_close(conn);
        return false;
    }
    conn->served_ms = osync__mono_ms();
    handle_frame(conn, &frame);
    return true;
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
    osync__conn_t *conn = handle->data;
    (void)suggested;
    if (conn->state != OSYNC__CONN_OPEN) osync__frames_free(&conn->frames);
    osync__frames_alloc(&conn->frames, buf);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
    osync__conn_t *conn = stream->data;
    (void)buf;
    if (n == 0) return;
    if (n < 0) {
        osync__conn_close(conn);
        return;
    }
    if (conn->state != OSYNC__CONN_OPEN) return;
    osync__frames_fed(&conn->frames, (size_t)n);
    pump(conn);
}

static bool partial(const osync__conn_t *conn) {
    return conn->frames.in.len > conn->frames.off || (conn->protocol == OSYNC__CONN_HTTP && osync__http_partial(conn));
}

static void pump(osync__conn_t *conn) {
    if (conn->pumping) return;
    conn->pumping = true;
    conn->wants_pump = false;
    unsigned n = 0;
    while (conn->state == OSYNC__CONN_OPEN && !full(conn) && n < AT_ONCE && step(conn)) n++;
    if (n == AT_ONCE) { /* the others' turn */
        conn->wants_pump = true;
        uv_async_send(&conn->server->kick);
    }
    conn->pumping = false;
    account(conn);
    if (conn->state == OSYNC__CONN_CLOSING) return;

    /* Garbage is read on, into nothing, only to see the other side's close. */
    bool read = conn->state != OSYNC__CONN_OPEN || (!full(conn) && !conn->wants_pump);
    if (read && !conn->reading && uv_read_start((uv_stream_t *)&conn->tcp, on_alloc, on_read)) {
        osync__conn_close(conn);
        return;
    }
    if (!read && conn->reading) uv_read_stop((uv_stream_t *)&conn->tcp);
    conn->reading = read;

    if (conn->state == OSYNC__CONN_OPEN) {
        if (read && partial(conn))
            uv_timer_start(&conn->timer, on_timer, conn->protocol == OSYNC__CONN_UNKNOWN ? GARBAGE_MS : PARTIAL_MS, 0);
        else
            uv_timer_stop(&conn->timer);
    } else if (conn->state == OSYNC__CONN_GARBAGE && !uv_is_active((uv_handle_t *)&conn->timer)) {
        uv_timer_start(&conn->timer, on_timer, GARBAGE_MS, 0);
    }
}

static void on_kick(uv_async_t *async) {
    osync__rpc_server_t *server = async->data;
    osync__conn_t *conn;
    DL_FOREACH(server->conns, conn) { /* connections leave the list in their close callbacks only */
        if (conn->wants_pump && conn->state != OSYNC__CONN_CLOSING) pump(conn);
    }
}

static void name_of(const struct sockaddr_storage *addr, char *out, size_t size) {
    char ip[INET6_ADDRSTRLEN] = "?";
    if (addr->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)addr;
        uv_ip6_name(in6, ip, sizeof ip);
        (void)snprintf(out, size, "[%s]:%d", ip, ntohs(in6->sin6_port));
    } else {
        const struct sockaddr_in *in4 = (const struct sockaddr_in *)addr;
        uv_ip4_name(in4, ip, sizeof ip);
        (void)snprintf(out, size, "%s:%d", ip, ntohs(in4->sin_port));
    }
}

static void on_connection(uv_stream_t *stream, int status) {
    osync__rpc_server_t *server = stream->data;
    if (status < 0) {
        osync__log(OSYNC_LOG_WARN, "a connection to port %d could not be accepted: %s", server->port,
                   uv_strerror(status));
        return;
    }
    osync__conn_t *conn = osync__calloc(1, sizeof *conn);
    if (!conn) return;
    conn->server = server;
    uv_tcp_init(server->loop, &conn->tcp);
    uv_timer_init(server->loop, &conn->timer);
    conn->tcp.data = conn;
    conn->timer.data = conn;
    conn->handles = 2;
    DL_APPEND(server->conns, conn);
    server->n_conns++;
    server->n_open++;
    struct sockaddr_storage addr = {0};
    int len = sizeof addr;
    if (uv_accept(stream, (uv_stream_t *)&conn->tcp)) goto refuse;
    if (server->n_open > server->max_conns) {
        osync__conn_t *victim = stalest(server, false);
        if (worth_a_warning(server))
            osync__log(OSYNC_LOG_WARN, "port %d has its %u connections: the stalest is closed for a new one",
                       server->port, server->max_conns);
        osync__conn_close(victim); /* at worst the new one itself */
        if (victim == conn) return;
    }
    if (uv_tcp_getpeername(&conn->tcp, (struct sockaddr *)&addr, &len)) goto refuse;
    name_of(&addr, conn->peer, sizeof conn->peer);
    len = sizeof addr;
    if (uv_tcp_getsockname(&conn->tcp, (struct sockaddr *)&addr, &len)) goto refuse;
    name_of(&addr, conn->local, sizeof conn->local);
    uv_tcp_nodelay(&conn->tcp, 1);
    uv_tcp_keepalive(&conn->tcp, 1, KEEPALIVE_S);
    pump(conn); /* begins to read */
    return;
refuse:
    osync__conn_close(conn);
}

static void on_server_handle_closed(uv_handle_t *handle) {
    osync__rpc_server_t *server = handle->data;
    server->handles--;
    server_handle_closed(server);
}

int osync__rpc_server_new(uv_loop_t *loop, const osync__rpc_server_config_t *config, osync__rpc_server_t **out,
                          osync_error_t *err) {
    *out = NULL;
    const char *host = config->host ? config->host : "0.0.0.0";
    osync__rpc_server_t *server = osync__calloc(1, sizeof *server);
    if (!server) return osync__err(err, OSYNC_ENOMEM, "out of memory for the server on %s:%d", host, config->port);
    server->config = *config;
    server->config.host = NULL; /* not borrowed */
    if (server->config.max_body_size == 0) server->config.max_body_size = OSYNC__RPC_DEFAULT_MAX_BODY;
    server->loop = loop;
    server->max_buffered = MAX_BODIES * server->config.max_body_size;
    if (server->max_buffered < MIN_BUFFERED) server->max_buffered = MIN_BUFFERED;
    if (server->config.max_held < server->config.max_body_size) server->config.max_held = server->config.max_body_size;
    /* No connection can have it all. */
    server->max_held = server->config.max_held < UINT64_MAX / 2 ? 2 * server->config.max_held : UINT64_MAX;
    if (server->max_held < server->max_buffered) server->max_held = server->max_buffered;
    struct rlimit files = {0};
    server->max_conns = MAX_CONNECTIONS;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur / 2 < MAX_CONNECTIONS)
        server->max_conns = (unsigned)(files.rlim_cur / 2);

    char port[16];
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    uv_getaddrinfo_t lookup = {0};
    (void)snprintf(port, sizeof port, "%d", config->port);
    int rc = uv_getaddrinfo(loop, &lookup, NULL, host, port, &hints);
    if (rc) {
        osync__free(server);
        return osync__err(err, OSYNC_ECONFIG, "%s cannot be listened on: the name isn't known: %s", host,
                          uv_strerror(rc));
    }
    rc = uv_async_init(loop, &server->kick, on_kick);
    if (rc) {
        uv_freeaddrinfo(lookup.addrinfo);
        osync__free(server);
        return osync__err(err, OSYNC_EIO, "the server on %s:%d cannot start: %s", host, config->port, uv_strerror(rc));
    }
    uv_tcp_init(loop, &server->listener);
    server->kick.data = server;
    server->listener.data = server;
    server->handles = 2;
    rc = uv_tcp_bind(&server->listener, lookup.addrinfo->ai_addr, 0);
    uv_freeaddrinfo(lookup.addrinfo);
    if (rc == 0) rc = uv_listen((uv_stream_t *)&server->listener, BACKLOG, on_connection);
    struct sockaddr_storage addr = {0};
    int len = sizeof addr;
    if (rc == 0) rc = uv_tcp_getsockname(&server->listener, (struct sockaddr *)&addr, &len);
    if (rc) {
        osync__rpc_server_close(server, NULL, NULL); /* frees it on the loop's next turn */
        return osync__err(err, rc == UV_EADDRINUSE ? OSYNC_EEXIST : OSYNC_EIO, "%s:%d cannot be listened on: %s", host,
                          config->port, uv_strerror(rc));
    }
    server->port = ntohs(addr.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&addr)->sin6_port
                                                    : ((struct sockaddr_in *)&addr)->sin_port);
    *out = server;
    return 0;
}

int osync__rpc_server_port(const osync__rpc_server_t *server) {
    return server->port;
}

void osync__rpc_server_close(osync__rpc_server_t *server, void (*cb)(void *arg), void *arg) {
    osync__conn_t *conn;
    server->closing = true;
    server->closed_cb = cb;
    server->closed_arg = arg;
    DL_FOREACH(server->conns, conn) osync__conn_close(conn);
    while (server->orphans) { /* they may outlive the server */
        osync__rpc_call_t *call = server->orphans;
        DL_DELETE(server->orphans, call);
        call->server = NULL;
    }
    uv_close((uv_handle_t *)&server->listener, on_server_handle_closed);
    uv_close((uv_handle_t *)&server->kick, on_server_handle_closed);
}
