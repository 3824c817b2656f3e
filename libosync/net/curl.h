/* libcurl's multi interface on a uv loop. Loop thread only. */
#ifndef OSYNC_NET_CURL_H
#define OSYNC_NET_CURL_H

#include <curl/curl.h>
#include <uv.h>

#include "osync/error.h"

typedef struct osync__curl osync__curl_t;
/* The transfer has ended; `easy` is out of the multi handle and is the caller's again. */
typedef void (*osync__curl_cb)(void *arg, CURL *easy, CURLcode result);

int osync__curl_new(uv_loop_t *loop, osync__curl_t **out, osync_error_t *err);
/* Starts a transfer; `cb` comes exactly once, never from inside this call, unless it is canceled. CURLOPT_PRIVATE is
 * used by this layer. */
int osync__curl_start(osync__curl_t *curl, CURL *easy, osync__curl_cb cb, void *arg, osync_error_t *err);
/* Takes the transfer out; its callback never comes. Not from inside one of libcurl's callbacks (read, write, header):
 * those return an error instead. */
void osync__curl_cancel(osync__curl_t *curl, CURL *easy);
/* Goes on with a transfer whose read or write callback had paused it. */
void osync__curl_resume(osync__curl_t *curl, CURL *easy);
/* No transfer may be under way. */
void osync__curl_close(osync__curl_t *curl, void (*cb)(void *arg), void *arg);

#endif
