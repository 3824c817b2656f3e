/* HTTP/1.0 and 1.1 on a connection of rpc_server.c: requests with JSON (or protobuf) bodies for the same methods as
 * baidu_std, and pages. Requests of one connection are handled one after the other. What is answered to what follows
 * bRPC; the JSON's look is the server's setting. Not a web server: no files, no ranges, no TLS. */
#include <http_parser.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/sys.h"
#include "net/json.h"
#include "net/rpc_server.h"
#include "osync/version.h"

enum {
    MAX_HEADERS = 64 << 10, /* bytes of URL, names and values together */
    MAX_URL = 8 << 10,
    MAX_VALUE = 256, /* of the headers that matter here; a longer one is as good as none */
    MAX_NAME = 32,   /* longer than every header name that matters here */
};

struct osync__http {
    http_parser parser;
    osync__conn_t *conn;
    /* the request that is being read */
    osync__buf_t url;
    osync__buf_t body;
    size_t header_bytes;
    char name[MAX_NAME];
    size_t name_len;
    char *value; /* where the current header's value goes; NULL: nowhere */
    size_t value_len;
    char content_type[MAX_VALUE];
    char content_encoding[MAX_VALUE];
    char expect[MAX_VALUE];
    bool in_value;
    bool started;
    bool headers_complete;
    bool complete;
    bool continued; /* "100 Continue" was sent */
    bool too_big;
    /* of the request that is being answered */
    bool keep_alive;
    bool any; /* a request was complete before */
};

static int on_begin(http_parser *parser) {
    osync__http_t *http = parser->data;
    http->url.len = 0;
    http->body.len = 0;
    http->header_bytes = 0;
    http->name_len = 0;
    http->value = NULL;
    http->content_type[0] = http->content_encoding[0] = http->expect[0] = '\0';
    http->in_value = http->headers_complete = http->complete = http->continued = false;
    http->started = true;
    return 0;
}

static int on_url(http_parser *parser, const char *at, size_t len) {
    osync__http_t *http = parser->data;
    if (http->url.len + len > MAX_URL) return -1;
    return osync__buf_append(&http->url, at, len);
}

static bool count_header(osync__http_t *http, size_t len) {
    http->header_bytes += len;
    return http->header_bytes <= MAX_HEADERS;
}

static int on_header_field(http_parser *parser, const char *at, size_t len) {
    osync__http_t *http = parser->data;
    if (!count_header(http, len)) return -1;
    if (http->in_value) http->name_len = 0;
    http->in_value = false;
    if (http->name_len + len < MAX_NAME) memcpy(http->name + http->name_len, at, len);
    http->name_len = http->name_len + len < MAX_NAME ? http->name_len + len : MAX_NAME;
    return 0;
}

static int on_header_value(http_parser *parser, const char *at, size_t len) {
    osync__http_t *http = parser->data;
    if (!count_header(http, len)) return -1;
    if (!http->in_value) {
        http->in_value = true;
        http->value = NULL;
        http->value_len = 0;
        if (http->name_len < MAX_NAME) {
            http->name[http->name_len] = '\0';
            if (strcasecmp(http->name, "Content-Type") == 0)
                http->value = http->content_type;
            else if (strcasecmp(http->name, "Content-Encoding") == 0)
                http->value = http->content_encoding;
            else if (strcasecmp(http->name, "Expect") == 0)
                http->value = http->expect;
        }
    }
    if (!http->value) return 0;
    if (http->value_len + len >= MAX_VALUE) {
        http->value[0] = '\0';
        http->value = NULL;
        return 0;
    }
    memcpy(http->value + http->value_len, at, len);
    http->value_len += len;
    http->value[http->value_len] = '\0';
    return 0;
}

static int on_headers_complete(http_parser *parser) {
    osync__http_t *http = parser->data;
    const osync__rpc_server_config_t *config = osync__server_config(http->conn->server);
    if (parser->method == HTTP_CONNECT) return -1;
    parser->upgrade = 0; /* an offer that is not taken up; the request stays HTTP/1.1 */
    if (parser->content_length != ULLONG_MAX && parser->content_length > config->max_body_size) {
        http->too_big = true;
        return -1;
    }
    http->headers_complete = true;
    return 0;
}

static int on_body(http_parser *parser, const char *at, size_t len) {
    osync__http_t *http = parser->data;
    if (len > osync__server_config(http->conn->server)->max_body_size - http->body.len) {
        http->too_big = true;
        return -1;
    }
    return osync__buf_append(&http->body, at, len);
}

static int on_complete(http_parser *parser) {
    osync__http_t *http = parser->data;
    http->complete = true;
    http->keep_alive = http_should_keep_alive(parser);
    http_parser_pause(parser, 1); /* the next request waits for this one's answer */
    return 0;
}

static const http_parser_settings settings = {
    .on_message_begin = on_begin,
    .on_url = on_url,
    .on_header_field = on_header_field,
    .on_header_value = on_header_value,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_message_complete = on_complete,
};

int osync__http_new(osync__conn_t *conn) {
    osync__http_t *http = osync__calloc(1, sizeof *http);
    if (!http) return OSYNC_ENOMEM;
    http_parser_init(&http->parser, HTTP_REQUEST);
    http->parser.data = http;
    http->conn = conn;
    conn->http = http;
    return 0;
}

void osync__http_free(osync__http_t *http) {
    if (!http) return;
    osync__buf_free(&http->url);
    osync__buf_free(&http->body);
    osync__free(http);
}

size_t osync__http_buffered(const osync__http_t *http) {
    return http->body.cap + http->url.cap;
}

bool osync__http_partial(const osync__conn_t *conn) {
    return conn->http->started && !conn->http->complete;
}

/* ---- answers ---- */

static const char *reason(int status) {
    switch (status) {
    case 200:
        return "OK";
    case 400:
        return "Bad Request";
    case 401:
        return "Unauthorized";
    case 403:
        return "Forbidden";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 409:
        return "Conflict";
    case 500:
        return "Internal Server Error";
    case 503:
        return "Service Unavailable";
    case 504:
        return "Gateway Timeout";
    default:
        return "Unknown";
    }
}

static int status_of(int code) {
    switch (code) {
    case 0:
        return 200;
    case OSYNC__BRPC_ENOSERVICE:
    case OSYNC__BRPC_ENOMETHOD:
        return 404;
    case OSYNC__BRPC_EREQUEST:
        return 400;
    case OSYNC__BRPC_ERPCAUTH:
        return 401;
    case OSYNC__BRPC_ELOGOFF:
    case OSYNC__BRPC_ELIMIT:
        return 503;
    case OSYNC__BRPC_ERPCTIMEDOUT:
        return 504;
    default:
        return 500;
    }
}

void osync__http_send(osync__conn_t *conn, int status, const char *content_type, int code, const void *body,
                      size_t len) {
    osync__http_t *http = conn->http;
    osync__buf_t out = {0};
    bool http10 = http->parser.http_major == 1 && http->parser.http_minor == 0;
    int rc = osync__buf_printf(&out, "HTTP/1.%d %d %s\r\nContent-Length: %zu\r\n", http10 ? 0 : 1, status,
                               reason(status), len);
    if (rc == 0 && content_type && *content_type) rc = osync__buf_printf(&out, "Content-Type: %s\r\n", content_type);
    if (rc == 0 && code) rc = osync__buf_printf(&out, "x-bd-error-code: %d\r\n", code);
    if (rc == 0 && http10 && http->keep_alive) rc = osync__buf_printf(&out, "connection: keep-alive\r\n");
    if (rc == 0 && !http10 && !http->keep_alive) rc = osync__buf_printf(&out, "connection: close\r\n");
    if (rc == 0) rc = osync__buf_append(&out, "\r\n", 2);
    if (rc == 0 && http->parser.method != HTTP_HEAD) rc = osync__buf_append(&out, body, len);
    http->started = http->complete = false;
    osync__buf_free(&http->body);
    if (rc) {
        osync__buf_free(&out);
        osync__conn_close(conn);
        return;
    }
    osync__conn_write(conn, &out);
    if (!http->keep_alive) osync__conn_end(conn);
}

void osync__http_fail(osync__conn_t *conn, int code, const char *text) {
    osync__buf_t body = {0};
    if (osync__buf_printf(&body, "[%s][E%d]%s", conn->local, code, text))
        osync__conn_close(conn);
    else
        osync__http_send(conn, status_of(code), "text/plain", code, body.data, body.len);
    osync__buf_free(&body);
}

void osync__http_reply(osync__rpc_call_t *call, const ProtobufCMessage *response) {
    osync__conn_t *conn = call->conn;
    osync__json_style_t style = osync__server_config(conn->server)->json_style;
    const char *type = conn->http->content_type;
    osync__buf_t body = {0};
    int rc = call->proto ? osync__message_append(&body, response) : osync__message_to_json(response, style, &body);
    if (rc) osync__conn_close(conn);
    /* bRPC answers with the request's own type, or none; the Java side always names one. */
    else
        osync__http_send(conn, 200, !*type && style == OSYNC__JSON_JAVA ? "application/json" : type, 0, body.data,
                         body.len);
    osync__buf_free(&body);
}

/* ---- requests ---- */

static void not_found(osync__conn_t *conn, const char *path) {
    osync__buf_t text = {0};
    if (osync__buf_printf(&text, "Fail to find method on `%s'", path))
        osync__conn_close(conn);
    else
        osync__http_fail(conn, OSYNC__BRPC_ENOMETHOD, (const char *)text.data);
    osync__buf_free(&text);
}

static bool serves(const osync__rpc_method_t *m, const char *service) {
    return strcmp(strchr(service, '.') ? m->service : osync__short_service(m->service), service) == 0;
}

/* "/Service" alone names its methods; false if there is no such service. */
static bool list_methods(osync__conn_t *conn, const char *service) {
    const osync__rpc_server_config_t *config = osync__server_config(conn->server);
    osync__buf_t text = {0};
    int rc = 0;
    for (size_t i = 0; i < config->n_methods && rc == 0; i++) {
        const osync__rpc_method_t *m = &config->methods[i];
        if (!serves(m, service)) continue;
        if (text.len == 0)
            rc = osync__buf_printf(&text, "Missing method name for service=%s. Available methods are: \n\n",
                                   osync__short_service(m->service));
        if (rc == 0)
            rc = osync__buf_printf(&text, "rpc %s (%s) returns (%s);\n", m->method, m->request->short_name,
                                   m->response->short_name);
    }
    bool found = text.len > 0;
    if (rc)
        osync__conn_close(conn);
    else if (found)
        osync__http_fail(conn, OSYNC__BRPC_ENOMETHOD, (const char *)text.data);
    osync__buf_free(&text);
    return found || rc;
}

/* "application/json; charset=utf-8" is "application/json". */
static bool type_is(const char *content_type, const char *type) {
    size_t n = strlen(type);
    return strncasecmp(content_type, type, n) == 0 && strchr("; \t", content_type[n]) != NULL;
}

static bool has_required(const ProtobufCMessageDescriptor *type) {
    for (unsigned i = 0; i < type->n_fields; i++)
        if (type->fields[i].label == PROTOBUF_C_LABEL_REQUIRED) return true;
    return false;
}

/* The body as the method's request; NULL: the error was answered. */
static ProtobufCMessage *parse_body(osync__conn_t *conn, const osync__rpc_method_t *method, const osync__buf_t *body,
                                    bool proto) {
    const ProtobufCMessageDescriptor *type = method->request;
    ProtobufCMessage *request = NULL;
    osync_error_t err = {0};
    char text[sizeof err.message + 512];
    if (body->len == 0 && !proto) {
        if (!has_required(type)) {
            request = osync__message_unpack(type, NULL, 0);
            if (!request) osync__conn_close(conn);
            return request;
        }
        (void)snprintf(text, sizeof text, "%s needs to be created from a non-empty json, it has required fields.",
                       type->name);
    } else if (proto) {
        request = osync__message_unpack(type, body->data, body->len);
        (void)snprintf(text, sizeof text, "Fail to parse http body as %s", type->name);
    } else if (osync__json_to_message(type, body->data, body->len, &request, &err)) {
        (void)snprintf(text, sizeof text, "Fail to parse http body as %s, %s", type->name, err.message);
    }
    if (!request) osync__http_fail(conn, OSYNC__BRPC_EREQUEST, text);
    return request;
}

static void handle_method(osync__conn_t *conn, const osync__rpc_method_t *method, const char *query) {
    osync__http_t *http = conn->http;
    const osync__rpc_server_config_t *config = osync__server_config(conn->server);
    bool proto =
        type_is(http->content_type, "application/proto") || type_is(http->content_type, "application/x-protobuf");
    osync__buf_t body = http->body;
    http->body = (osync__buf_t){0};
    ProtobufCMessage *request = NULL;
    osync__rpc_call_t *call = NULL;
    if (osync__server_crowded(conn->server, body.len)) {
        osync__http_fail(conn, OSYNC__BRPC_ELIMIT, "Reached server's limit of requests in memory, try again later");
        goto done;
    }
    if (*http->content_encoding && strcasecmp(http->content_encoding, "identity") != 0 && body.len) {
        osync__buf_t plain = {0};
        int rc = strcasecmp(http->content_encoding, "gzip") == 0
                     ? osync__decompress(OSYNC__COMPRESS_GZIP, body.data, body.len, config->max_body_size, &plain)
                     : OSYNC_ENOTSUP;
        if (rc) {
            osync__buf_free(&plain);
            osync__http_fail(conn, OSYNC__BRPC_EREQUEST,
                             rc == OSYNC_ENOTSUP   ? "Fail to un-gzip request body: the Content-Encoding isn't gzip"
                             : rc == OSYNC_ETOOBIG ? "Fail to un-gzip request body: it is larger than max_body_size"
                                                   : "Fail to un-gzip request body");
            goto done;
        }
        osync__buf_free(&body);
        body = plain;
    }
    request = parse_body(conn, method, &body, proto);
    if (!request) goto done;
    call = osync__call_new(conn);
    if (call) call->query = osync__strdup(query);
    if (!call || !call->query) {
        if (call) osync__call_end(call);
        call = NULL;
        protobuf_c_message_free_unpacked(request, &osync__protobuf_allocator);
        osync__conn_close(conn);
        goto done;
    }
    call->http = true;
    call->proto = proto;
    call->method = method;
    call->request = request;
    osync__call_hold(call, body.len);
done:
    osync__buf_free(&body);
    if (call) method->handle(call, config->arg);
}

static void handle_page(osync__conn_t *conn, const osync__rpc_page_t *page, const char *query) {
    osync__http_t *http = conn->http;
    osync__rpc_call_t *call = osync__call_new(conn);
    if (call) call->query = osync__strdup(query);
    if (!call || !call->query) {
        if (call) osync__call_end(call);
        osync__conn_close(conn);
        return;
    }
    call->http = true;
    call->data = http->body.data;
    call->attachment = http->body.data;
    call->attachment_len = http->body.len;
    osync__call_hold(call, http->body.len);
    http->body = (osync__buf_t){0};
    page->handle(call, osync__server_config(conn->server)->arg);
}

/* Answers the complete request, or gives it to its handler. */
static void dispatch(osync__conn_t *conn) {
    osync__http_t *http = conn->http;
    const osync__rpc_server_config_t *config = osync__server_config(conn->server);
    struct http_parser_url parts;
    char *url = NULL;
    if (osync__buf_append(&http->url, "", 1)) {
        osync__conn_close(conn);
        return;
    }
    url = (char *)http->url.data; /* stays until the next request, which waits for this one's answer */
    char *path = url;
    if (*url != '/' && strcmp(url, "*") != 0) { /* "http://host/path" */
        http_parser_url_init(&parts);
        bool valid = http_parser_parse_url(url, http->url.len - 1, 0, &parts) == 0;
        static char root[] = "/";
        path = valid && (parts.field_set & 1 << UF_PATH) ? url + parts.field_data[UF_PATH].off : root;
    }
    const char *query = "";
    char *end = strpbrk(path, "?#");
    if (end && *end == '?') {
        query = end + 1;
        char *fragment = strchr(end, '#');
        if (fragment) *fragment = '\0';
    }
    if (end) *end = '\0';

    for (size_t i = 0; i < config->n_pages; i++) {
        if (strcmp(config->pages[i].path, path) == 0) {
            handle_page(conn, &config->pages[i], query);
            return;
        }
    }
    if (strcmp(path, "/health") == 0) {
        osync__http_send(conn, 200, "text/plain", 0, "OK", 2);
        return;
    }
    if (strcmp(path, "/version") == 0) {
        osync__http_send(conn, 200, "text/plain", 0, osync_version(), strlen(osync_version()));
        return;
    }

    char *copy = osync__strdup(path); /* `path` is needed whole for the error's text */
    if (!copy) {
        osync__conn_close(conn);
        return;
    }
    char *rest = NULL;
    const char *service = strtok_r(copy, "/", &rest);
    const char *name = service ? strtok_r(NULL, "/", &rest) : NULL;
    const osync__rpc_method_t *method = NULL;
    for (size_t i = 0; name && i < config->n_methods && !method; i++)
        if (serves(&config->methods[i], service) && strcmp(config->methods[i].method, name) == 0)
            method = &config->methods[i];
    if (method)
        handle_method(conn, method, query);
    else if (!service || name || !list_methods(conn, service))
        not_found(conn, path);
    osync__free(copy);
}

bool osync__http_step(osync__conn_t *conn) {
    osync__http_t *http = conn->http;
    osync__frames_t *in = &conn->frames;
    size_t have = in->in.len - in->off;
    if (have == 0) {
        osync__frames_free(in);
        return false;
    }
    in->off += http_parser_execute(&http->parser, &settings, (const char *)in->in.data + in->off, have);
    enum http_errno why = HTTP_PARSER_ERRNO(&http->parser);
    if (why == HPE_PAUSED) {
        http_parser_pause(&http->parser, 0);
        http->any = true;
        conn->served_ms = osync__mono_ms();
        dispatch(conn);
        return true;
    }
    if (why == HPE_OK) {
        osync__frames_free(in); /* everything is in the parser's hands */
        /* A client that waits for leave to send its body sends none meanwhile. */
        if (http->headers_complete && !http->complete && !http->continued && http->body.len == 0 &&
            strcasecmp(http->expect, "100-continue") == 0) {
            osync__buf_t out = {0};
            http->continued = true;
            if (osync__buf_printf(&out, "HTTP/1.1 100 Continue\r\n\r\n"))
                osync__conn_close(conn);
            else
                osync__conn_write(conn, &out);
        }
        return false;
    }
    osync__log(OSYNC_LOG_WARN, "a request of %s isn't HTTP/1.1, or is too large (%s): closing the connection",
               conn->peer, http_errno_description(why));
    if (http->too_big) {
        osync__conn_close(conn);
    } else if (why == HPE_INVALID_METHOD && !http->any) {
        conn->state = OSYNC__CONN_GARBAGE;
    } else {
        http->keep_alive = false;
        osync__http_fail(conn, OSYNC__BRPC_EREQUEST, "Fail to parse the http request");
    }
    return false;
}
