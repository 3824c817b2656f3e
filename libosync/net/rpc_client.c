/* The client side of baidu_std: one connection for each endpoint, many requests in flight on it, answers matched by
 * correlation id. Nothing is sent twice: a call whose connection breaks fails, and the next call makes a new
 * connection. */
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/hash.h"
#include "net/rpc.h"
#include "net/rpc_frame.h"
#include "rpc_meta.pb-c.h"

enum {
    CONNECT_TIMEOUT_MS = 2000,
    KEEPALIVE_S = 60,
    UNACKNOWLEDGED_MS = 30 * 1000,
    MAX_ENDPOINT = 300, /* a DNS name, brackets and a port fit */
    /* Bytes of messages that wait to be written to one endpoint, as bRPC's socket_max_unwritten_bytes; one request may
     * exceed it. Attachments aren't counted: they are the callers' memory, and bounded there. */
    MAX_UNSENT = 64 << 20,
    SLICE = 64 << 10, /* copied when the socket is full, to go out as soon as there is room */
    KEPT_HEAD = 4096, /* room for heads that a connection keeps */
};

typedef struct conn conn_t;

typedef struct call {
    uint64_t id; /* the correlation id */
    osync__rpc_client_t *client;
    conn_t *conn; /* NULL once it is canceled or over */
    const ProtobufCMessageDescriptor *response;
    osync__rpc_cb cb;
    void *arg;
    uv_timer_t timer;
    uint32_t timeout_ms;
    bool canceled;
    char *name;  /* "service/method" */
    bool unsent; /* in the connection's queue, with what is to be written: */
    osync__buf_t message;
    const uint8_t *attachment; /* the caller's */
    size_t attachment_len;
    struct call *q_prev, *q_next; /* in that queue */
    struct call *prev, *next;     /* of the connection, in the order they were made */
    UT_hash_handle hh;            /* of the client, by id, while an answer may come */
} call_t;

typedef enum conn_state { CONNECTING, OPEN, CLOSING } conn_state_t;

struct conn {
    osync__rpc_client_t *client;
    char endpoint[MAX_ENDPOINT];
    conn_state_t state;
    unsigned refs; /* uv handles that are not closed, a name look-up that is under way */
    uv_timer_t timer;
    uv_tcp_t tcp;
    bool tcp_open;
    uv_connect_t connect;
    uv_getaddrinfo_t lookup;
    bool looking_up;
    struct addrinfo *addresses;
    const struct addrinfo *address; /* the one that is tried next */
    int last_failure;               /* a uv error */
    osync__frames_t frames;
    int64_t log_id;
    bool authenticated;
    call_t *calls;
    /* Calls of which nothing is written yet. What is short doesn't wait behind attachments: a sign of life is late
     * else, when the other side takes rows slowly. */
    call_t *short_queue, *long_queue;
    uint64_t unsent; /* bytes of their messages */
    /* The frame that is being written: what is left of its head and message, then of its attachment. */
    osync__buf_t head;
    size_t head_sent;
    const uint8_t *rest;
    size_t rest_len;
    call_t *lender;    /* whose attachment `rest` points into */
    osync__buf_t own;  /* or this, when its call is over */
    bool writing;      /* a slice waits for room in the socket */
    osync_error_t why; /* of CLOSING */
    UT_hash_handle hh; /* of the client, by endpoint, unless CLOSING */
};

struct osync__rpc_client {
    uv_loop_t *loop;
    uint64_t max_body_size;
    uint32_t connect_timeout_ms;
    char *auth;
    uint64_t last_id;
    call_t *calls;
    conn_t *conns;
    unsigned refs;     /* calls and connections that are not freed */
    uv_timer_t closer; /* only a handle whose close callback ends the client outside of everybody's calls */
    bool closing;
    void (*closed_cb)(void *arg);
    void *closed_arg;
};

typedef struct write_req {
    uv_write_t req;
    size_t len;
    uint8_t bytes[SLICE];
} write_req_t;

OSYNC_PRINTF(3, 4) static void conn_fail(conn_t *conn, int code, const char *fmt, ...);

/* ---- the client's end ---- */

static void on_client_closed(uv_handle_t *handle) {
    osync__rpc_client_t *client = handle->data;
    void (*cb)(void *arg) = client->closed_cb;
    void *arg = client->closed_arg;
    osync__free(client->auth);
    osync__free(client);
    if (cb) cb(arg);
}

static void client_unref(osync__rpc_client_t *client) {
    if (--client->refs == 0 && client->closing) uv_close((uv_handle_t *)&client->closer, on_client_closed);
}

/* ---- calls ---- */

static void call_free(call_t *call) {
    if (!call) return;
    osync__buf_free(&call->message);
    osync__free(call->name);
    osync__free(call);
}

static void on_call_closed(uv_handle_t *handle) {
    call_t *call = handle->data;
    osync__rpc_client_t *client = call->client;
    call_free(call);
    client_unref(client);
}

static call_t **queue_of(conn_t *conn, const call_t *call) {
    return call->attachment_len ? &conn->long_queue : &conn->short_queue;
}

static void dequeue(call_t *call) {
    conn_t *conn = call->conn;
    DL_DELETE2(*queue_of(conn, call), call, q_prev, q_next);
    conn->unsent -= call->message.len;
    call->unsent = false;
}

/* The attachment is the caller's again. The rest of a frame must be written all the same. */
static void give_back(conn_t *conn) {
    conn->lender = NULL;
    if (conn->state == CLOSING || conn->rest_len == 0) return;
    if (osync__buf_append(&conn->own, conn->rest, conn->rest_len)) {
        conn->rest_len = 0;
        conn_fail(conn, OSYNC_ENOMEM, "out of memory for the rest of a request to %s", conn->endpoint);
        return;
    }
    conn->rest = conn->own.data;
}

/* No answer can reach it any more. */
static void call_detach(call_t *call) {
    conn_t *conn = call->conn;
    if (!conn) return;
    HASH_DEL(call->client->calls, call);
    DL_DELETE(conn->calls, call);
    if (call->unsent) dequeue(call);
    if (conn->lender == call) give_back(conn);
    call->conn = NULL;
}

static void call_finish(call_t *call, int status, const ProtobufCMessage *response, const osync_error_t *err) {
    call_detach(call);
    uv_close((uv_handle_t *)&call->timer, on_call_closed);
    call->cb(call->arg, status, response, err);
}

static void on_call_timer(uv_timer_t *timer) {
    call_t *call = timer->data;
    osync_error_t err = {0};
    if (call->canceled)
        osync__err(&err, OSYNC_ECANCELED, "the call of %s was canceled", call->name);
    else
        osync__err(&err, OSYNC_ETIMEOUT, "%s: %s was not answered within %" PRIu32 " ms", call->conn->endpoint,
                   call->name, call->timeout_ms);
    call_finish(call, err.code, NULL, &err);
}

/* ---- connections ---- */

static void conn_unref(conn_t *conn) {
    if (--conn->refs) return;
    osync__rpc_client_t *client = conn->client;
    if (conn->addresses) uv_freeaddrinfo(conn->addresses);
    osync__frames_free(&conn->frames);
    osync__buf_free(&conn->head);
    osync__buf_free(&conn->own);
    osync__free(conn);
    client_unref(client);
}

/* The calls fail here, and not where the failure was noticed: that may be inside osync__rpc_call. */
static void on_conn_timer_closed(uv_handle_t *handle) {
    conn_t *conn = handle->data;
    while (conn->calls) call_finish(conn->calls, conn->why.code, NULL, &conn->why);
    conn_unref(conn);
}

static void on_tcp_closed(uv_handle_t *handle) {
    conn_unref(handle->data);
}

static void conn_fail(conn_t *conn, int code, const char *fmt, ...) {
    va_list ap;
    if (conn->state == CLOSING) return;
    va_start(ap, fmt);
    conn->why.code = code;
    (void)vsnprintf(conn->why.message, sizeof conn->why.message, fmt, ap);
    va_end(ap);
    conn->state = CLOSING;
    HASH_DEL(conn->client->conns, conn);
    if (conn->tcp_open) uv_close((uv_handle_t *)&conn->tcp, on_tcp_closed);
    conn->tcp_open = false;
    if (conn->looking_up)
        uv_cancel((uv_req_t *)&conn->lookup); /* if it is too late for that, its callback just comes later */
    uv_close((uv_handle_t *)&conn->timer, on_conn_timer_closed);
}

static void on_connect_timeout(uv_timer_t *timer) {
    conn_t *conn = timer->data;
    conn_fail(conn, OSYNC_ECONN, "%s cannot be connected to: no answer within %" PRIu32 " ms", conn->endpoint,
              conn->client->connect_timeout_ms);
}

/* ---- writing ---- */

static void conn_write(conn_t *conn);

static void on_write(uv_write_t *req, int status) {
    conn_t *conn = req->data;
    osync__free(req);
    conn->writing = false;
    if (status < 0)
        conn_fail(conn, OSYNC_ECONN, "the connection to %s was lost: %s", conn->endpoint, uv_strerror(status));
    else
        conn_write(conn);
}

/* Makes the next frame out of a call. */
static int begin_frame(conn_t *conn, call_t *call) {
    const char *auth = conn->authenticated ? NULL : conn->client->auth;
    const char *method = strchr(call->name, '/') + 1;
    char *service = osync__strndup(call->name, (size_t)(method - call->name) - 1);
    if (!service) return OSYNC_ENOMEM;
    int rc = osync__frame_request(&conn->head, service, method, conn->log_id, (int64_t)call->id, auth,
                                  call->message.len, call->attachment_len);
    osync__free(service);
    if (rc == 0) rc = osync__buf_append(&conn->head, call->message.data, call->message.len);
    if (rc) return rc;
    conn->log_id++;
    conn->authenticated = true;
    conn->rest = call->attachment;
    conn->rest_len = call->attachment_len;
    conn->lender = call->attachment_len ? call : NULL;
    dequeue(call);
    osync__buf_free(&call->message);
    return 0;
}

/* So many bytes of the frame are out of our hands. */
static void advance(conn_t *conn, size_t n) {
    size_t of_head = conn->head.len - conn->head_sent;
    if (of_head > n) of_head = n;
    conn->head_sent += of_head;
    if (n > of_head) conn->rest += n - of_head;
    conn->rest_len -= n - of_head;
    if (conn->head_sent < conn->head.len || conn->rest_len > 0) return;
    conn->head_sent = conn->head.len = 0;
    if (conn->head.cap > KEPT_HEAD) osync__buf_free(&conn->head);
    osync__buf_free(&conn->own);
    conn->lender = NULL;
}

/* libuv keeps what it can't write at once until it is written, and that may be long after the call that lent it is
 * over: so it gets a copy, of no more than what makes it tell us of room in the socket. */
static void write_slice(conn_t *conn) {
    write_req_t *w = osync__malloc(sizeof *w);
    if (!w) {
        conn_fail(conn, OSYNC_ENOMEM, "out of memory for a request to %s", conn->endpoint);
        return;
    }
    size_t of_head = conn->head.len - conn->head_sent;
    if (of_head > SLICE) of_head = SLICE;
    size_t of_rest = conn->rest_len < SLICE - of_head ? conn->rest_len : SLICE - of_head;
    if (of_head) memcpy(w->bytes, conn->head.data + conn->head_sent, of_head);
    if (of_rest) memcpy(w->bytes + of_head, conn->rest, of_rest);
    w->len = of_head + of_rest;
    advance(conn, w->len);
    w->req.data = conn;
    uv_buf_t buf = uv_buf_init((char *)w->bytes, (unsigned)w->len);
    int rc = uv_write(&w->req, (uv_stream_t *)&conn->tcp, &buf, 1, on_write);
    if (rc) {
        osync__free(w);
        conn_fail(conn, OSYNC_ECONN, "the connection to %s was lost: %s", conn->endpoint, uv_strerror(rc));
        return;
    }
    conn->writing = true;
}

/* Writes what the socket takes, directly from the callers' memory. A failure is the connection's. */
static void conn_write(conn_t *conn) {
    while (conn->state == OPEN && !conn->writing) {
        if (conn->head.len == 0 && conn->rest_len == 0) {
            call_t *call = conn->short_queue ? conn->short_queue : conn->long_queue;
            if (!call) return;
            if (begin_frame(conn, call)) {
                conn_fail(conn, OSYNC_ENOMEM, "out of memory for a request to %s", conn->endpoint);
                return;
            }
        }
        union {
            const uint8_t *from;
            char *to;
        } rest = {.from = conn->rest}; /* libuv's buffers have no const; writing doesn't change them */
        uv_buf_t bufs[2] = {
            uv_buf_init((char *)conn->head.data + conn->head_sent, (unsigned)(conn->head.len - conn->head_sent)),
            uv_buf_init(rest.to, (unsigned)conn->rest_len)};
        bool headless = bufs[0].len == 0;
        int n = uv_try_write((uv_stream_t *)&conn->tcp, bufs + headless, headless || bufs[1].len == 0 ? 1 : 2);
        if (n > 0)
            advance(conn, (size_t)n);
        else if (n == UV_EAGAIN)
            write_slice(conn);
        else
            conn_fail(conn, OSYNC_ECONN, "the connection to %s was lost: %s", conn->endpoint, uv_strerror(n));
    }
}

static void handle_frame(conn_t *conn, const osync__frame_t *frame) {
    osync__rpc_client_t *client = conn->client;
    osync__buf_t inflated = {0};
    osync_error_t err = {0};
    ProtobufCMessage *response = NULL;
    call_t *call = NULL;
    Brpc__Policy__RpcMeta *meta = (Brpc__Policy__RpcMeta *)osync__message_unpack(&brpc__policy__rpc_meta__descriptor,
                                                                                 frame->meta, frame->meta_len);
    if (!meta) {
        conn_fail(conn, OSYNC_ECONN, "%s sent a frame whose meta data cannot be parsed", conn->endpoint);
        goto done;
    }
    uint64_t id = meta->has_correlation_id ? (uint64_t)meta->correlation_id : 0;
    HASH_FIND(hh, client->calls, &id, sizeof id, call);
    if (!call || call->conn != conn || call->unsent) { /* timed out or canceled meanwhile, or the peer's invention */
        call = NULL;
        goto done;
    }
    if (meta->response && meta->response->error_code) {
        osync__err(&err, OSYNC_ERPC, "[E%d]%s", meta->response->error_code,
                   meta->response->error_text ? meta->response->error_text : "");
        goto done;
    }
    int32_t attachment_len = meta->has_attachment_size ? meta->attachment_size : 0;
    if (attachment_len < 0 || (size_t)attachment_len > frame->payload_len) {
        osync__err(&err, OSYNC_ERPC, "[E%d]%s answered %s with attachment_size=%d in %zu bytes", OSYNC__BRPC_ERESPONSE,
                   conn->endpoint, call->name, attachment_len, frame->payload_len);
        goto done;
    }
    size_t message_len = frame->payload_len - (size_t)attachment_len;
    int compress = meta->has_compress_type ? meta->compress_type : OSYNC__COMPRESS_NONE;
    if (compress == OSYNC__COMPRESS_NONE)
        response = osync__message_unpack(call->response, frame->payload, message_len);
    else if (osync__decompress(compress, frame->payload, message_len, client->max_body_size, &inflated) == 0)
        response = osync__message_unpack(call->response, inflated.data, inflated.len);
    if (!response)
        osync__err(&err, OSYNC_ERPC, "[E%d]%s answered %s with what isn't a %s (compression: %s)",
                   OSYNC__BRPC_ERESPONSE, conn->endpoint, call->name, call->response->name,
                   osync__compress_name(compress));
done:
    if (meta) protobuf_c_message_free_unpacked(&meta->base, &osync__protobuf_allocator);
    osync__buf_free(&inflated);
    if (call) call_finish(call, err.code, response, &err);
    if (response) protobuf_c_message_free_unpacked(response, &osync__protobuf_allocator);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
    conn_t *conn = handle->data;
    (void)suggested;
    osync__frames_alloc(&conn->frames, buf);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
    conn_t *conn = stream->data;
    osync__frame_t frame;
    osync_error_t err = {0};
    int rc;
    (void)buf;
    if (n == 0) return;
    if (n < 0) {
        if (n == UV_EOF)
            conn_fail(conn, OSYNC_ECONN, "%s has closed the connection", conn->endpoint);
        else
            conn_fail(conn, OSYNC_ECONN, "the connection to %s was lost: %s", conn->endpoint, uv_strerror((int)n));
        return;
    }
    osync__frames_fed(&conn->frames, (size_t)n);
    /* A callback may close the client and with it this connection. */
    while (conn->state == OPEN && (rc = osync__frames_next(&conn->frames, conn->client->max_body_size, &frame, &err))) {
        if (rc < 0) {
            conn_fail(conn, OSYNC_ECONN, "the connection to %s was closed: %s", conn->endpoint, err.message);
            return;
        }
        handle_frame(conn, &frame);
        osync__free(frame.data);
    }
}

static void connect_next(conn_t *conn);

static void on_attempt_closed(uv_handle_t *handle) {
    conn_t *conn = handle->data;
    if (conn->state == CONNECTING) connect_next(conn);
    conn_unref(conn);
}

static void attempt_failed(conn_t *conn, int uvrc) {
    conn->last_failure = uvrc;
    conn->tcp_open = false;
    uv_close((uv_handle_t *)&conn->tcp, on_attempt_closed);
}

static void on_connect(uv_connect_t *req, int status) {
    conn_t *conn = req->data;
    if (conn->state != CONNECTING) return;
    if (status < 0) {
        attempt_failed(conn, status);
        return;
    }
    conn->state = OPEN;
    uv_timer_stop(&conn->timer);
    uv_tcp_nodelay(&conn->tcp, 1);
    uv_tcp_keepalive(&conn->tcp, 1, KEEPALIVE_S);
    /* What the other machine doesn't acknowledge for so long ends the connection: the next call makes a new one instead
     * of waiting behind it for the kernel's quarter of an hour. */
    uv_os_fd_t fd;
    unsigned unacknowledged = UNACKNOWLEDGED_MS;
    if (uv_fileno((uv_handle_t *)&conn->tcp, &fd) == 0)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacknowledged, sizeof unacknowledged);
    int rc = uv_read_start((uv_stream_t *)&conn->tcp, on_alloc, on_read);
    if (rc) conn_fail(conn, OSYNC_ECONN, "the connection to %s cannot be read: %s", conn->endpoint, uv_strerror(rc));
    conn_write(conn);
}

/* Tries the next of the endpoint's addresses. */
static void connect_next(conn_t *conn) {
    if (!conn->address) {
        conn_fail(conn, OSYNC_ECONN, "%s cannot be connected to: %s", conn->endpoint,
                  conn->last_failure ? uv_strerror(conn->last_failure) : "its name has no address");
        return;
    }
    const struct sockaddr *to = conn->address->ai_addr;
    conn->address = conn->address->ai_next;
    uv_tcp_init(conn->client->loop, &conn->tcp);
    conn->tcp.data = conn;
    conn->refs++;
    conn->tcp_open = true;
    conn->connect.data = conn;
    int rc = uv_tcp_connect(&conn->connect, &conn->tcp, to, on_connect);
    if (rc) attempt_failed(conn, rc);
}

static void on_lookup(uv_getaddrinfo_t *req, int status, struct addrinfo *res) {
    conn_t *conn = req->data;
    conn->looking_up = false;
    conn->addresses = res;
    if (conn->state == CONNECTING) {
        if (status < 0) {
            conn_fail(conn, OSYNC_ECONN, "%s cannot be connected to: its name isn't known: %s", conn->endpoint,
                      uv_strerror(status));
        } else {
            conn->address = res;
            connect_next(conn);
        }
    }
    conn_unref(conn);
}

/* "host:port", "[::1]:port". */
static int split_endpoint(const char *endpoint, char *host, size_t size, const char **port, osync_error_t *err) {
    const char *colon = strrchr(endpoint, ':');
    size_t len = colon ? (size_t)(colon - endpoint) : 0;
    bool bracketed = len > 2 && endpoint[0] == '[' && endpoint[len - 1] == ']';
    const char *from = bracketed ? endpoint + 1 : endpoint;
    size_t host_len = bracketed ? len - 2 : len;
    unsigned long number = colon && colon[1] >= '0' && colon[1] <= '9' ? strtoul(colon + 1, NULL, 10) : 0;
    if (host_len == 0 || host_len >= size || strlen(endpoint) >= MAX_ENDPOINT || number == 0 || number > 65535 ||
        strspn(colon + 1, "0123456789") != strlen(colon + 1) || (!bracketed && strcspn(from, ":[]") < host_len))
        return osync__err(err, OSYNC_EINVAL,
                          "\"%s\" isn't an endpoint: it must be host:port, with an IPv6 address in []", endpoint);
    memcpy(host, from, host_len);
    host[host_len] = '\0';
    *port = colon + 1;
    return 0;
}

static int conn_new(osync__rpc_client_t *client, const char *endpoint, conn_t **out, osync_error_t *err) {
    char host[MAX_ENDPOINT];
    const char *port = NULL;
    int rc = split_endpoint(endpoint, host, sizeof host, &port, err);
    if (rc) return rc;
    conn_t *conn = osync__calloc(1, sizeof *conn);
    if (!conn) return osync__err(err, OSYNC_ENOMEM, "out of memory for a connection to %s", endpoint);
    conn->client = client;
    (void)snprintf(conn->endpoint, sizeof conn->endpoint, "%s", endpoint);
    HASH_ADD_STR(client->conns, endpoint, conn);
    if (!conn->hh.tbl) {
        osync__free(conn);
        return osync__err(err, OSYNC_ENOMEM, "out of memory for a connection to %s", endpoint);
    }
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    /* An address needs no look-up and no worker: without a callback this is done at once. */
    bool numeric = uv_getaddrinfo(client->loop, &conn->lookup, NULL, host, port, &hints) == 0;
    if (numeric) {
        conn->addresses = conn->lookup.addrinfo;
        conn->address = conn->addresses;
    } else {
        hints.ai_flags = AI_NUMERICSERV;
        int uvrc = uv_getaddrinfo(client->loop, &conn->lookup, on_lookup, host, port, &hints);
        if (uvrc) {
            HASH_DEL(client->conns, conn);
            osync__free(conn);
            return osync__err(err, OSYNC_ECONN, "%s cannot be connected to: %s", endpoint, uv_strerror(uvrc));
        }
        conn->lookup.data = conn;
        conn->looking_up = true;
        conn->refs++;
    }
    uv_timer_init(client->loop, &conn->timer);
    conn->timer.data = conn;
    conn->refs++;
    client->refs++;
    uv_timer_start(&conn->timer, on_connect_timeout, client->connect_timeout_ms, 0);
    if (numeric) connect_next(conn);
    *out = conn;
    return 0;
}

/* ---- the interface ---- */

int osync__rpc_client_new(uv_loop_t *loop, const osync__rpc_client_config_t *config, osync__rpc_client_t **out,
                          osync_error_t *err) {
    *out = NULL;
    osync__rpc_client_t *client = osync__calloc(1, sizeof *client);
    if (client && config->auth) client->auth = osync__strdup(config->auth);
    if (!client || (config->auth && !client->auth)) {
        osync__free(client);
        return osync__err(err, OSYNC_ENOMEM, "out of memory for an RPC client");
    }
    client->loop = loop;
    client->max_body_size = config->max_body_size ? config->max_body_size : OSYNC__RPC_DEFAULT_MAX_BODY;
    client->connect_timeout_ms = config->connect_timeout_ms ? config->connect_timeout_ms : CONNECT_TIMEOUT_MS;
    uv_timer_init(loop, &client->closer);
    client->closer.data = client;
    *out = client;
    return 0;
}

int osync__rpc_call(osync__rpc_client_t *client, const char *endpoint, const char *service, const char *method,
                    const ProtobufCMessage *request, const void *attachment, size_t attachment_len,
                    const ProtobufCMessageDescriptor *response, uint32_t timeout_ms, osync__rpc_cb cb, void *arg,
                    uint64_t *id, osync_error_t *err) {
    conn_t *conn = NULL;
    call_t *call = NULL;
    int rc = 0;
    if (client->closing) return osync__err(err, OSYNC_ECLOSED, "the RPC client is closed");
    if (attachment_len > (size_t)INT32_MAX - (1 << 20) ||
        protobuf_c_message_get_packed_size(request) > (size_t)INT32_MAX - (1 << 20) - attachment_len)
        return osync__err(err, OSYNC_ETOOBIG, "a request of %s to %s with %zu bytes is larger than a frame can be",
                          method, endpoint, attachment_len);
    HASH_FIND_STR(client->conns, endpoint, conn);
    if (!conn) rc = conn_new(client, endpoint, &conn, err);
    if (rc) return rc;
    if (conn->unsent > MAX_UNSENT)
        return osync__err(err, OSYNC_EAGAIN,
                          "[E%d]The server %s is overcrowded: %" PRIu64 " bytes wait to be sent to it",
                          OSYNC__BRPC_EOVERCROWDED, endpoint, conn->unsent);

    call = osync__calloc(1, sizeof *call);
    if (!call || !(call->name = osync__format("%s/%s", service, method)) ||
        osync__message_append(&call->message, request)) {
        call_free(call);
        return osync__err(err, OSYNC_ENOMEM, "out of memory for a call to %s", endpoint);
    }
    call->id = ++client->last_id;
    call->client = client;
    call->conn = conn;
    call->response = response;
    call->cb = cb;
    call->arg = arg;
    call->timeout_ms = timeout_ms;
    call->attachment = attachment;
    call->attachment_len = attachment_len;
    HASH_ADD(hh, client->calls, id, sizeof call->id, call);
    if (!call->hh.tbl) {
        call_free(call);
        return osync__err(err, OSYNC_ENOMEM, "out of memory for a call to %s", endpoint);
    }
    uv_timer_init(client->loop, &call->timer);
    call->timer.data = call;
    client->refs++;
    DL_APPEND(conn->calls, call);
    if (timeout_ms) uv_timer_start(&call->timer, on_call_timer, timeout_ms, 0);
    if (id) *id = call->id;
    call->unsent = true;
    conn->unsent += call->message.len;
    DL_APPEND2(*queue_of(conn, call), call, q_prev, q_next);
    conn_write(conn);
    return 0;
}

void osync__rpc_cancel(osync__rpc_client_t *client, uint64_t id) {
    call_t *call = NULL;
    HASH_FIND(hh, client->calls, &id, sizeof id, call);
    if (!call) return;
    call_detach(call);
    call->canceled = true;
    uv_timer_start(&call->timer, on_call_timer, 0, 0);
}

void osync__rpc_client_close(osync__rpc_client_t *client, void (*cb)(void *arg), void *arg) {
    conn_t *conn, *next;
    client->closing = true;
    client->closed_cb = cb;
    client->closed_arg = arg;
    client->refs++; /* so that nothing ends in the middle of this */
    HASH_ITER(hh, client->conns, conn, next) {
        conn_fail(conn, OSYNC_ECANCELED, "the call to %s was canceled: the RPC client is closed", conn->endpoint);
    }
    client_unref(client);
}
