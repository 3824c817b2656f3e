/* One request over HTTP, and its answer as text, on top of net/curl.h: what talks to a server of either side without
 * baidu_std. It knows bRPC's refusals, but nothing of JSON. */
#ifndef OSYNC_NET_HTTP_CLIENT_H
#define OSYNC_NET_HTTP_CLIENT_H

#include "net/curl.h"

typedef struct osync__http_call osync__http_call_t;
/* status 0: `body` is the answer's, `len` bytes and a NUL, valid during the callback only; else it is NULL.
 * OSYNC_ERPC: the server has refused; a bRPC server's words are "[E<code>]<text>". OSYNC_ECONN: the request hasn't
 * gone. OSYNC_EUNKNOWN, OSYNC_ETIMEOUT, OSYNC_ETOOBIG: it has, and the answer is missing. */
typedef void (*osync__http_cb)(void *arg, int status, const char *body, size_t len, const osync_error_t *err);

/* Posts `json` (copied) to `url` ("http://host:port/Service/Method"), or asks for it if that is NULL, over a connection
 * of its own, and never twice. A non-zero return: `cb` is never called; else exactly once, never from inside this call,
 * unless it is canceled. timeout_ms 0 is none. `*call` (may be NULL) can cancel it and is valid until the callback. */
int osync__http_call(osync__curl_t *curl, const char *url, const char *json, uint32_t timeout_ms, osync__http_cb cb,
                     void *arg, osync__http_call_t **call, osync_error_t *err);
/* Its callback never comes. */
void osync__http_cancel(osync__http_call_t *call);

#endif
