/* One JSON request over HTTP and its answer; see http_client.h. */
#include "net/http_client.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "net/json.h"

enum {
    MAX_ANSWER = 64 << 20,
    MAX_ERROR_TEXT = 600, /* of a server's own words in our message */
    HTTP_OK = 200,
};

struct osync__http_call {
    osync__curl_t *curl;
    CURL *easy;
    struct curl_slist *headers;
    char *url;
    const ProtobufCMessageDescriptor *response;
    osync__buf_t request;
    osync__buf_t answer;
    bool too_big;
    osync__rpc_cb cb;
    void *arg;
    char why[CURL_ERROR_SIZE];
};

static void call_free(osync__http_call_t *call) {
    if (call->easy) curl_easy_cleanup(call->easy);
    curl_slist_free_all(call->headers);
    osync__buf_free(&call->request);
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

static void on_done(void *arg, CURL *easy, CURLcode result) {
    osync__http_call_t *call = arg;
    ProtobufCMessage *response = NULL;
    osync_error_t err = {0};
    osync_error_t why = {0};
    long status = 0;
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    if (call->too_big)
        osync__err(&err, OSYNC_ETOOBIG, "%s: the answer is larger than %d bytes", call->url, MAX_ANSWER);
    else if (result != CURLE_OK)
        osync__err(&err, result == CURLE_OPERATION_TIMEDOUT ? OSYNC_ETIMEOUT : OSYNC_ECONN, "%s: %s", call->url,
                   *call->why ? call->why : curl_easy_strerror(result));
    else if (status != HTTP_OK)
        refused(call, status, &err);
    else if (osync__json_to_message(call->response, call->answer.data, call->answer.len, &response, &why))
        osync__err(&err, OSYNC_ERPC, "%s answered with what isn't a %s: %s", call->url, call->response->name,
                   why.message);
    call->cb(call->arg, err.code, response, &err);
    if (response) protobuf_c_message_free_unpacked(response, &osync__protobuf_allocator);
    call_free(call);
}

int osync__http_call(osync__curl_t *curl, const char *url, const ProtobufCMessage *request,
                     const ProtobufCMessageDescriptor *response, uint32_t timeout_ms, osync__rpc_cb cb, void *arg,
                     osync__http_call_t **out, osync_error_t *err) {
    osync__http_call_t *call = osync__calloc(1, sizeof *call);
    struct curl_slist *more = NULL;
    int rc = OSYNC_ENOMEM;
    if (out) *out = NULL;
    if (!call) goto done;
    call->curl = curl;
    call->response = response;
    call->cb = cb;
    call->arg = arg;
    call->url = osync__strdup(url);
    call->easy = curl_easy_init();
    if (!call->url || !call->easy || osync__message_to_json(request, OSYNC__JSON_BRPC, &call->request)) goto done;
    call->headers = curl_slist_append(NULL, "Content-Type: application/json");
    if (call->headers) more = curl_slist_append(call->headers, "Expect:"); /* no waiting for "100 Continue" */
    if (!more) goto done;
    curl_easy_setopt(call->easy, CURLOPT_URL, url);
    curl_easy_setopt(call->easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(call->easy, CURLOPT_HTTPHEADER, call->headers);
    curl_easy_setopt(call->easy, CURLOPT_POSTFIELDS, call->request.data);
    curl_easy_setopt(call->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->request.len);
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
