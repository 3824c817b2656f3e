/* One listening port that speaks baidu_std ("PRPC") and HTTP/1.1 with JSON, and a client for baidu_std. The formats and
 * what is answered to bad input: docs/formats.md, RPC. Loop thread only.
 *
 * libuv writes to sockets without MSG_NOSIGNAL: a process that uses this ignores SIGPIPE, as every libuv program does.
 */
#ifndef OSYNC_NET_RPC_H
#define OSYNC_NET_RPC_H

#include <jansson.h>
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "osync/error.h"

/* bRPC's error codes. */
enum {
    OSYNC__BRPC_ENOSERVICE = 1001,
    OSYNC__BRPC_ENOMETHOD = 1002,
    OSYNC__BRPC_EREQUEST = 1003,
    OSYNC__BRPC_ERPCAUTH = 1004,
    OSYNC__BRPC_ERPCTIMEDOUT = 1008,
    OSYNC__BRPC_EFAILEDSOCKET = 1009,
    OSYNC__BRPC_EHTTP = 1010,
    OSYNC__BRPC_EOVERCROWDED = 1011,
    OSYNC__BRPC_EINTERNAL = 2001,
    OSYNC__BRPC_ERESPONSE = 2002,
    OSYNC__BRPC_ELOGOFF = 2003,
    OSYNC__BRPC_ELIMIT = 2004,
};

/* ---- server ---- */

typedef struct osync__rpc_server osync__rpc_server_t;
typedef struct osync__rpc_call osync__rpc_call_t; /* one request that waits for its answer */

typedef struct osync__rpc_method {
    const char *service; /* full name: "openmldb.datasync.DataCollector"; the short name is accepted too */
    const char *method;
    const ProtobufCMessageDescriptor *request;
    const ProtobufCMessageDescriptor *response;
    /* Must end in exactly one osync__rpc_reply or osync__rpc_fail for `call`, at once or later. */
    void (*handle)(osync__rpc_call_t *call, void *arg);
} osync__rpc_method_t;

typedef struct osync__rpc_page {
    const char *path;                                   /* "/status" */
    void (*handle)(osync__rpc_call_t *call, void *arg); /* ends in osync__rpc_reply_http */
} osync__rpc_page_t;

typedef enum osync__json_style {
    OSYNC__JSON_BRPC, /* bRPC's: compact, original names, 64-bit numbers as numbers */
    OSYNC__JSON_JAVA, /* protobuf-java's JsonFormat: two spaces of indent, lowerCamelCase, 64-bit numbers as strings */
} osync__json_style_t;

typedef struct osync__rpc_server_config {
    const char *host;       /* NULL: every address of the machine */
    int port;               /* 0 picks a free one */
    uint64_t max_body_size; /* of a frame's body and of an HTTP body, compressed or not; 0: bRPC's 64 MiB */
    /* Bytes of the requests of one connection that aren't answered: it isn't read beyond that, so that nothing on it is
     * heard of. 0, or less than max_body_size: that */
    uint64_t max_held;
    osync__json_style_t json_style;
    const osync__rpc_method_t *methods; /* borrowed while the server lives */
    size_t n_methods;
    const osync__rpc_page_t *pages; /* borrowed while the server lives */
    size_t n_pages;
    void *arg; /* given to every handler */
} osync__rpc_server_config_t;

/* Binds and listens. */
int osync__rpc_server_new(uv_loop_t *loop, const osync__rpc_server_config_t *config, osync__rpc_server_t **out,
                          osync_error_t *err);
int osync__rpc_server_port(const osync__rpc_server_t *server);
/* Closes the listener and every connection; `cb` after the last of them. Calls that are still open stay valid, also
 * after `cb`, until they are answered (it goes nowhere). */
void osync__rpc_server_close(osync__rpc_server_t *server, void (*cb)(void *arg), void *arg);

/* Valid until the call is answered. For a page there is no request, and the attachment is the HTTP body. */
const ProtobufCMessage *osync__rpc_request(const osync__rpc_call_t *call);
const uint8_t *osync__rpc_attachment(const osync__rpc_call_t *call, size_t *len);
/* The attachment isn't needed any more, though the call isn't answered: its memory goes. */
void osync__rpc_drop_attachment(osync__rpc_call_t *call);
/* "ip:port" of the other side. */
const char *osync__rpc_peer(const osync__rpc_call_t *call);
/* HTTP only: the query string after '?', "" if none. */
const char *osync__rpc_query(const osync__rpc_call_t *call);

void osync__rpc_reply(osync__rpc_call_t *call, const ProtobufCMessage *response);
/* An error of the RPC layer: code is one of OSYNC__BRPC_E.... */
void osync__rpc_fail(osync__rpc_call_t *call, int code, const char *text);
void osync__rpc_reply_http(osync__rpc_call_t *call, int status, const char *content_type, const void *body, size_t len);
/* The same with `page`, whose reference it takes; NULL: it couldn't be made, for want of memory. */
void osync__rpc_reply_json(osync__rpc_call_t *call, json_t *page);

/* ---- client ---- */

typedef struct osync__rpc_client osync__rpc_client_t;

/* `response` is NULL unless status is 0, and valid during the callback only. For an error of the RPC layer status is
 * OSYNC_ERPC and the message reads "[E<code>]<text>". */
typedef void (*osync__rpc_cb)(void *arg, int status, const ProtobufCMessage *response, const osync_error_t *err);

typedef struct osync__rpc_client_config {
    uint64_t max_body_size;      /* of an answer; 0: bRPC's 64 MiB */
    uint32_t connect_timeout_ms; /* 0: 2000 */
    const char *auth;            /* authentication_data of each connection's first request; NULL: none */
} osync__rpc_client_config_t;

int osync__rpc_client_new(uv_loop_t *loop, const osync__rpc_client_config_t *config, osync__rpc_client_t **out,
                          osync_error_t *err);
/* Sends a request over the one connection to `endpoint` ("host:port", made when there is none, kept open, many requests
 * in flight; one without an attachment overtakes those that wait with one). Never sent twice. `service` goes out as it
 * is. The attachment must stay as it is until the callback or osync__rpc_cancel. A non-zero return: the callback is
 * never called; else exactly once, never from inside the call. `*id` (may be NULL) can cancel it. timeout_ms 0 is none;
 * what hasn't begun to go out by then never does. OSYNC_EAGAIN: too many messages wait to be sent to the endpoint
 * already. OSYNC_ECONN, in the callback: the connection could not be made or was lost, so that the request may or may
 * not have been carried out. */
int osync__rpc_call(osync__rpc_client_t *client, const char *endpoint, const char *service, const char *method,
                    const ProtobufCMessage *request, const void *attachment, size_t attachment_len,
                    const ProtobufCMessageDescriptor *response, uint32_t timeout_ms, osync__rpc_cb cb, void *arg,
                    uint64_t *id, osync_error_t *err);
/* Its callback comes (soon, not from inside) with OSYNC_ECANCELED; an id that is done is ignored. */
void osync__rpc_cancel(osync__rpc_client_t *client, uint64_t id);
/* Every open call's callback comes with OSYNC_ECANCELED, then `cb`. */
void osync__rpc_client_close(osync__rpc_client_t *client, void (*cb)(void *arg), void *arg);

#endif
