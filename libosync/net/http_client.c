/* One request over HTTP and its answer; see http_client.h. */
#include "net/http_client.h"

#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/error.h"

enum {
    MAX_ANSWER = 64 << 20,
    MAX_ERROR_TEXT = 600, /* of a server's own words in our message */
    CONNECT_TIMEOUT_MS = 10000,
    /* An answer may take a day. A machine that is gone is noticed nevertheless: it is asked when the connection was
     * silent for a while. */
    KEEPALIVE_IDLE_S = 60,
    KEEPALIVE_INTERVAL_S = 15,
    HTTP_OK = 200,
};

struct osync__http_call {
    osync__curl_t *curl;
    CURL *easy;
    struct curl_slist *headers;
    char *url;
    osync__buf_t answer;
    bool too_big;
    osync__http_cb cb;
    void *arg;
    char why[CURL_ERROR_SIZE];
};

static void call_free(osync__http_call_t *call) {
    if (call->easy) curl_easy_cleanup(call->easy);
    curl_slist_free_all(call->headers);
    osync__buf_free(&call->answer);
    osync__free(call->url);
    osync__free(call);
}

static size_t on_body(char *data, size_t size, size_t n, void *arg) {
    osync__http_call_t *call = arg;
    size_t len = size * n;
    call->too_big = len > MAX_ANSWER - call->answer.len;
    return !call->too_big && osync__buf_append(&call->answer, data, len) == 0 ? len : 0;
}

/* The server's own words: its bRPC code, if there is one, and what the body says. */
static void refused(const osync__http_call_t *call, long status, osync_error_t *err) {
    struct curl_header *code = NULL;
    const char *text = call->answer.data ? (const char *)call->answer.data : "";
    int len = (int)(call->answer.len < MAX_ERROR_TEXT ? call->answer.len : MAX_ERROR_TEXT);
    while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == '\r')) len--;
    if (curl_easy_header(call->easy, "x-bd-error-code", 0, CURLH_HEADER, -1, &code) == CURLHE_OK)
        osync__err(err, OSYNC_ERPC, "[E%.12s]%.*s", code->value, len, text);
    else
        osync__err(err, OSYNC_ERPC, "%s answered with HTTP status %ld: %.*s", call->url, status, len, text);
}

static void broken(const osync__http_call_t *call, CURLcode result, osync_error_t *err) {
    long sent = 0; /* bytes of the request */
    curl_easy_getinfo(call->easy, CURLINFO_REQUEST_SIZE, &sent);
    int code = sent == 0 ? OSYNC_ECONN : result == CURLE_OPERATION_TIMEDOUT ? OSYNC_ETIMEOUT : OSYNC_EUNKNOWN;
    osync__err(err, code, "%s: %s", call->url, *call->why ? call->why : curl_easy_strerror(result));
}

static void on_done(void *arg, CURL *easy, CURLcode result) {
    osync__http_call_t *call = arg;
    osync_error_t err = {0};
    long status = 0;
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    if (call->too_big)
        osync__err(&err, OSYNC_ETOOBIG, "%s: the answer is larger than %d bytes", call->url, MAX_ANSWER);
    else if (result != CURLE_OK)
        broken(call, result, &err);
    else if (status != HTTP_OK)
        refused(call, status, &err);
    else if (osync__buf_append(&call->answer, "", 1))
        osync__err(&err, OSYNC_ENOMEM, "out of memory for an answer of %s", call->url);
    call->cb(call->arg, err.code, err.code ? NULL : (const char *)call->answer.data,
             err.code ? 0 : call->answer.len - 1, &err);
    call_free(call);
}

int osync__http_call(osync__curl_t *curl, const char *url, const char *json, uint32_t timeout_ms, osync__http_cb cb,
                     void *arg, osync__http_call_t **out, osync_error_t *err) {
    osync__http_call_t *call = osync__calloc(1, sizeof *call);
    struct curl_slist *more = NULL;
    int rc = OSYNC_ENOMEM;
    if (out) *out = NULL;
    if (!call) goto done;
    call->curl = curl;
    call->cb = cb;
    call->arg = arg;
    call->url = osync__strdup(url);
    call->easy = curl_easy_init();
    if (!call->url || !call->easy) goto done;
    curl_easy_setopt(call->easy, CURLOPT_URL, url);
    curl_easy_setopt(call->easy, CURLOPT_PROTOCOLS_STR, "http,https");
    if (json) {
        call->headers = curl_slist_append(NULL, "Content-Type: application/json");
        if (call->headers) more = curl_slist_append(call->headers, "Expect:"); /* no waiting for "100 Continue" */
        if (!more || curl_easy_setopt(call->easy, CURLOPT_COPYPOSTFIELDS, json)) goto done;
        curl_easy_setopt(call->easy, CURLOPT_HTTPHEADER, call->headers);
    }
    /* On a kept connection that turns out to be dead, libcurl sends a request again. */
    curl_easy_setopt(call->easy, CURLOPT_FRESH_CONNECT, 1L);
    curl_easy_setopt(call->easy, CURLOPT_FORBID_REUSE, 1L);
    curl_easy_setopt(call->easy, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS);
    curl_easy_setopt(call->easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(call->easy, CURLOPT_TCP_KEEPIDLE, (long)KEEPALIVE_IDLE_S);
    curl_easy_setopt(call->easy, CURLOPT_TCP_KEEPINTVL, (long)KEEPALIVE_INTERVAL_S);
    curl_easy_setopt(call->easy, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
    curl_easy_setopt(call->easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(call->easy, CURLOPT_WRITEDATA, call);
    curl_easy_setopt(call->easy, CURLOPT_NOPROXY, "*"); /* the servers of a cluster are reached directly */
    curl_easy_setopt(call->easy, CURLOPT_ERRORBUFFER, call->why);
    rc = osync__curl_start(curl, call->easy, on_done, call, err);
    if (rc == 0 && out) *out = call;
    if (rc == 0) call = NULL;
done:
    if (rc == OSYNC_ENOMEM) osync__err(err, rc, "out of memory for a call of %s", url);
    if (call) call_free(call);
    return rc;
}

void osync__http_cancel(osync__http_call_t *call) {
    osync__curl_cancel(call->curl, call->easy);
    call_free(call);
}
