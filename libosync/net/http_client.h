/* Calls of protobuf methods over HTTP with JSON, on top of net/curl.h: what a command or a test uses to talk to a
 * server of either side without baidu_std. */
#ifndef OSYNC_NET_HTTP_CLIENT_H
#define OSYNC_NET_HTTP_CLIENT_H

#include "net/curl.h"
#include "net/rpc.h"

typedef struct osync__http_call osync__http_call_t;

/* Posts `request` as JSON (with the original field names) to `url` ("http://host:port/Service/Method") and reads the
 * JSON answer, bRPC's or protobuf-java's. `cb` as in osync__rpc_call: a non-zero return: never; else exactly once,
 * never from inside this call, unless it is canceled. A server's refusal is OSYNC_ERPC, with its error code and text in
 * the message. timeout_ms 0 is none. `*call` (may be NULL) can cancel it and is valid until the callback. */
int osync__http_call(osync__curl_t *curl, const char *url, const ProtobufCMessage *request,
                     const ProtobufCMessageDescriptor *response, uint32_t timeout_ms, osync__rpc_cb cb, void *arg,
                     osync__http_call_t **call, osync_error_t *err);
/* Its callback never comes. */
void osync__http_cancel(osync__http_call_t *call);

#endif
