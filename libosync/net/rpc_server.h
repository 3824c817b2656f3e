/* What rpc_server.c (the port, its connections, baidu_std) and http.c (HTTP on such a connection) share. */
#ifndef OSYNC_NET_RPC_SERVER_H
#define OSYNC_NET_RPC_SERVER_H

#include <stdbool.h>

#include "net/rpc.h"
#include "net/rpc_frame.h"

typedef struct osync__http osync__http_t;

typedef enum osync__conn_protocol { OSYNC__CONN_UNKNOWN, OSYNC__CONN_PRPC, OSYNC__CONN_HTTP } osync__conn_protocol_t;

/* Where a connection goes from here. */
typedef enum osync__conn_state {
    OSYNC__CONN_OPEN,
    OSYNC__CONN_GARBAGE, /* speaks nothing we know: not read, not answered, closed after a while */
    OSYNC__CONN_ENDING,  /* closes once its last answer is written and the other side has closed, or after a while */
    OSYNC__CONN_CLOSING, /* uv_close is under way; memory lives until its callbacks */
} osync__conn_state_t;

typedef struct osync__conn {
    osync__rpc_server_t *server;
    uv_tcp_t tcp;
    uv_timer_t timer;
    unsigned handles;
    osync__conn_protocol_t protocol;
    osync__conn_state_t state;
    char peer[64];
    char local[64];
    osync__frames_t frames;   /* what was read and not handled yet, HTTP's bytes too */
    osync__http_t *http;      /* only for HTTP */
    osync__rpc_call_t *calls; /* given to handlers, not answered yet */
    unsigned n_calls;
    uint64_t held;      /* bytes of the requests of those calls */
    uint64_t unsent;    /* memory of answers that the socket hasn't taken */
    uint64_t buffered;  /* bytes that were read and not handled, or written and not sent, as the server has counted */
    uint64_t served_ms; /* when the last whole request came; 0: none has */
    bool pumping;
    bool reading;
    bool wants_pump;
    struct osync__conn *prev, *next;
} osync__conn_t;

struct osync__rpc_call {
    osync__rpc_server_t *server;       /* NULL once it is closed */
    osync__conn_t *conn;               /* NULL once the connection is gone */
    const osync__rpc_method_t *method; /* NULL for a page */
    ProtobufCMessage *request;
    uint8_t *data; /* owns what `attachment` points into */
    const uint8_t *attachment;
    size_t attachment_len;
    uint64_t held;
    int64_t correlation_id;
    bool http;
    bool proto; /* HTTP: the message is protobuf's binary form, not JSON */
    char *query;
    char peer[64];
    struct osync__rpc_call *prev, *next;
};

/* ---- rpc_server.c ---- */
const osync__rpc_server_config_t *osync__server_config(const osync__rpc_server_t *server);
/* Finds a method by full or short service name. NULL: *code and `text` say why, as bRPC does. */
const osync__rpc_method_t *osync__server_find(const osync__rpc_server_t *server, const char *service,
                                              const char *method, int *code, char *text, size_t text_size);
/* The last component of a full service name. */
const char *osync__short_service(const char *service);
/* An open call on `conn`; NULL without memory. */
osync__rpc_call_t *osync__call_new(osync__conn_t *conn);
/* The call keeps so many bytes of its request in memory. */
void osync__call_hold(osync__rpc_call_t *call, uint64_t bytes);
/* True if a request of so many bytes can't be worked on now. */
bool osync__server_crowded(osync__rpc_server_t *server, uint64_t more);
/* Takes the call off its connection and frees it. */
void osync__call_end(osync__rpc_call_t *call);
/* Sends and frees the buffer. */
void osync__conn_write(osync__conn_t *conn, osync__buf_t *bytes);
/* Lets what was written go out, then closes. */
void osync__conn_end(osync__conn_t *conn);
void osync__conn_close(osync__conn_t *conn);

/* ---- http.c ---- */
int osync__http_new(osync__conn_t *conn);
void osync__http_free(osync__http_t *http);
/* Handles bytes of conn->frames. True: there may be more to do with what is there. */
bool osync__http_step(osync__conn_t *conn);
/* Bytes of the request that is being read. */
size_t osync__http_buffered(const osync__http_t *http);
/* True in the middle of a request. */
bool osync__http_partial(const osync__conn_t *conn);
void osync__http_reply(osync__rpc_call_t *call, const ProtobufCMessage *response);
void osync__http_fail(osync__conn_t *conn, int code, const char *text);
void osync__http_send(osync__conn_t *conn, int status, const char *content_type, int code, const void *body,
                      size_t len);

#endif
