/* The sink of HDFS, by WebHDFS: HTTP requests to a NameNode, and a streaming PUT to a DataNode for each file being
 * written. All on the loop's thread. It knows nothing of delivery; what its answers mean for delivery is in sink.h.
 *
 * Nothing is ever sent twice. libcurl sends a request again by itself when a kept connection turns out to be dead, and
 * that request may have been carried out; so every mutation gets a fresh connection, where libcurl has no reason to. A
 * mutation goes to another NameNode only if the first one certainly did not act: it was never reached, or it said that
 * it is a standby.
 *
 * A redirect is never followed. CREATE and OPEN ask for the DataNode's address in the answer's body, and what comes is
 * used only if it is the same operation on our path; a CREATE must neither overwrite nor make parents. */
#include <curl/curl.h>
#include <inttypes.h>
#include <jansson.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/config.h"
#include "base/error.h"
#include "base/failpoint.h"
#include "base/sys.h"
#include "net/curl.h"
#include "sink/hadoop_conf.h"
#include "sink/internal.h"

#define PREFIX                     "/webhdfs/v1"
#define BARRIER_ATTR               "user.osync.barrier"
#define ANSWER_LIMIT               (16u << 20)  /* bytes of one answer: a listing comes in pages of some hundred KiB */
#define LIST_LIMIT                 (4u << 20)   /* names of one folder; HDFS's own default limit is 1 Mi */
#define UPLOAD_BUFFER_MAX          (256L << 10) /* libcurl's, for each file being written */
#define UPLOAD_BUFFER_MIN          (16L << 10)  /* libcurl's own limit */
#define UPLOAD_BUFFERS             (8L << 20)   /* what they share as long as none gets less than the least */
#define ANSWER_BUFFER              (4L << 10)   /* libcurl's for the answer to an upload: a few lines */
#define DEFAULT_CONNECT_TIMEOUT_MS 10000u
#define DEFAULT_REQUEST_TIMEOUT_MS 60000u

typedef struct web_sink web_sink_t;
typedef struct web_file web_file_t;

typedef enum kind {
    MKDIRS,
    LOCATE, /* the first step of CREATE: which DataNode */
    STAT,
    SET_LABEL,
    GET_LABEL,
    RENAME,
    REMOVE,
    LIST,
    BARRIER,
    READ, /* first which DataNode, then the bytes from there */
} kind_t;

static const struct {
    const char *op, *method;
    bool mutation;
    osync__failpoint_t fp; /* of a mutation */
} kinds[] = {
    [MKDIRS] = {"MKDIRS", "PUT", true, OSYNC__FP_web_mkdirs},
    [LOCATE] = {.op = "CREATE", .method = "PUT"},
    [STAT] = {.op = "GETFILESTATUS", .method = "GET"},
    [SET_LABEL] = {"SETXATTR", "PUT", true, OSYNC__FP_web_setxattr},
    [GET_LABEL] = {.op = "GETXATTRS", .method = "GET"},
    [RENAME] = {"RENAME", "PUT", true, OSYNC__FP_web_rename},
    [REMOVE] = {"DELETE", "DELETE", true, OSYNC__FP_web_delete},
    [LIST] = {.op = "LISTSTATUS_BATCH", .method = "GET"},
    [BARRIER] = {"SETXATTR", "PUT", true, OSYNC__FP_web_barrier},
    [READ] = {.op = "OPEN", .method = "GET"},
};

/* One exchange's easy handle and what came back. */
typedef struct exchange {
    CURL *easy;
    struct curl_slist *headers;
    osync__buf_t answer;
    bool too_big;
    char text[CURL_ERROR_SIZE];
} exchange_t;

/* One call of the interface; it may need several requests (a label in parts, a listing in pages, another NameNode). */
typedef struct call {
    web_sink_t *sink;
    kind_t kind;
    exchange_t x;
    char *path, *to; /* one allocation, owned by `path` */
    bool recursive;
    size_t address; /* index of the NameNode that was asked */
    size_t tries;   /* NameNodes asked for the present request */
    osync__buf_t label;
    unsigned part; /* of the label, the next to set is part - 1 */
    char **names;
    size_t n_names, cap_names;
    web_file_t *file; /* LOCATE */
    uint64_t offset;  /* READ, and how much */
    size_t length;
    bool located; /* the DataNode is asked */

    osync_sink_cb cb;
    osync_sink_stat_cb stat_cb;
    osync_sink_list_cb list_cb;
    osync_sink_label_cb label_cb;
    osync_sink_read_cb read_cb;
    void *arg;
    osync_sink_stat_t stat;
    struct call *prev, *next;
} call_t;

/* A file being written. */
struct web_file {
    osync_sink_file_t head;
    char *path;
    call_t *locate; /* under way */
    exchange_t x;   /* the PUT to the DataNode */
    bool streaming; /* it is under way */
    bool asked;     /* libcurl has sent the head */
    bool paused;    /* libcurl waits for data */
    bool end;       /* no more data will come */
    bool stored;    /* 201 came */
    const uint8_t *data;
    size_t left;
    uint64_t progress_ms; /* when the DataNode last took something, or was first asked to */
    osync_error_t failed; /* code 0, or why the file is lost */

    /* The outstanding call: create, write or finish. */
    bool busy, done, finishing;
    osync_sink_cb cb;
    void *arg;

    bool aborted;
    osync_sink_cb abort_cb;
    void *abort_arg;

    bool ready; /* is in the sink's `ready` list: something is to be told */
    web_file_t *prev, *next;
    struct web_file *ready_next;
};

struct web_sink {
    osync_sink_t head;
    osync__curl_t *curl;
    char **addresses; /* host:port of each NameNode */
    size_t n_addresses, current;
    char *user;
    uint32_t connect_timeout_ms, request_timeout_ms;
    call_t *calls;
    web_file_t *files;
    web_file_t *ready, **ready_last;
    uv_timer_t later; /* carries what is in `ready`, and the end, to the callbacks */
    uv_timer_t tick;  /* looks for files without progress */
    unsigned handles;
    bool closing;
    void (*close_cb)(void *arg);
    void *close_arg;
};

/* ---- URLs ---- */

static int encode(osync__buf_t *out, const char *text, const char *keep) {
    static const char digits[] = "0123456789ABCDEF";
    int rc = 0;
    for (const char *p = text; *p && !rc; p++) {
        unsigned char c = (unsigned char)*p;
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("-._~", c) ||
                     strchr(keep, c);
        char code[3] = {'%', digits[c >> 4], digits[c & 15]};
        rc = plain ? osync__buf_append(out, p, 1) : osync__buf_append(out, code, sizeof code);
    }
    return rc;
}

static int add_text(osync__buf_t *out, const char *text) {
    return osync__buf_append(out, text, strlen(text));
}

static int call_url(call_t *c, osync__buf_t *url) {
    static const char digits[] = "0123456789abcdef";
    osync__buf_t part = {0};
    char name[OSYNC__LABEL_NAME_SIZE];
    web_sink_t *s = c->sink;
    int rc = osync__buf_printf(url, "http://%s" PREFIX, s->addresses[c->address]);
    if (!rc) rc = encode(url, c->path, "/");
    if (!rc) rc = osync__buf_printf(url, "?op=%s&user.name=", kinds[c->kind].op);
    if (!rc) rc = encode(url, s->user, "");
    if (rc) return rc;
    switch (c->kind) {
    case MKDIRS:
    case STAT:
        break;
    case LOCATE:
        rc = add_text(url, "&noredirect=true&overwrite=false&createparent=false");
        break;
    case SET_LABEL:
        rc = osync__label_part(c->label.data, c->label.len, c->part - 1, name, &part);
        if (!rc) rc = osync__buf_printf(url, "&flag=CREATE,REPLACE&xattr.name=%s&xattr.value=0x", name);
        for (size_t i = 0; i < part.len && !rc; i++) {
            char hex[2] = {digits[part.data[i] >> 4], digits[part.data[i] & 15]};
            rc = osync__buf_append(url, hex, sizeof hex);
        }
        break;
    case GET_LABEL:
        rc = add_text(url, "&encoding=HEX");
        break;
    case RENAME:
        rc = add_text(url, "&renameoptions=NONE&destination=");
        if (!rc) rc = encode(url, c->to, "/");
        break;
    case REMOVE:
        rc = add_text(url, c->recursive ? "&recursive=true" : "&recursive=false");
        break;
    case LIST:
        if (c->n_names == 0) break;
        rc = add_text(url, "&startAfter=");
        if (!rc) rc = encode(url, c->names[c->n_names - 1], "");
        break;
    case BARRIER:
        rc = add_text(url, "&flag=CREATE,REPLACE&xattr.name=" BARRIER_ATTR "&xattr.value=0x01");
        break;
    case READ:
        rc = osync__buf_printf(url, "&noredirect=true&offset=%" PRIu64 "&length=%zu", c->offset, c->length);
        break;
    }
    osync__buf_free(&part);
    return rc ? rc : osync__buf_append(url, "", 1);
}

/* ---- one exchange ---- */

static size_t on_answer(char *data, size_t size, size_t n, void *arg) {
    exchange_t *x = arg;
    if (x->answer.len + size * n > ANSWER_LIMIT || osync__buf_append(&x->answer, data, size * n)) {
        x->too_big = true;
        return 0;
    }
    return size * n;
}

static void exchange_end(exchange_t *x) {
    if (x->easy) curl_easy_cleanup(x->easy);
    curl_slist_free_all(x->headers);
    osync__buf_free(&x->answer);
    *x = (exchange_t){0};
}

static int exchange_begin(exchange_t *x, const web_sink_t *s, const char *url, bool fresh) {
    exchange_end(x);
    x->easy = curl_easy_init();
    if (!x->easy) return OSYNC_ENOMEM;
    curl_easy_setopt(x->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(x->easy, CURLOPT_PROTOCOLS_STR, "http");
    curl_easy_setopt(x->easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(x->easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(x->easy, CURLOPT_PROXY, ""); /* whatever the environment says: a proxy may send a request twice */
    curl_easy_setopt(x->easy, CURLOPT_CONNECTTIMEOUT_MS, (long)s->connect_timeout_ms);
    /* A name that is still being resolved when its time is over is left to its thread: joining that would stop the
     * loop for as long as the name server is silent. */
    curl_easy_setopt(x->easy, CURLOPT_QUICK_EXIT, 1L);
    curl_easy_setopt(x->easy, CURLOPT_WRITEFUNCTION, on_answer);
    curl_easy_setopt(x->easy, CURLOPT_WRITEDATA, x);
    curl_easy_setopt(x->easy, CURLOPT_ERRORBUFFER, x->text);
    if (fresh) {
        curl_easy_setopt(x->easy, CURLOPT_FRESH_CONNECT, 1L);
        curl_easy_setopt(x->easy, CURLOPT_FORBID_REUSE, 1L);
    }
    return curl_easy_setopt(x->easy, CURLOPT_URL, url) ? OSYNC_ENOMEM : 0;
}

static long http_status(const exchange_t *x) {
    long status = 0;
    curl_easy_getinfo(x->easy, CURLINFO_RESPONSE_CODE, &status);
    return status;
}

/* True if the request certainly never reached a server. */
static bool never_sent(const exchange_t *x, CURLcode result) {
    curl_off_t connected = 0;
    if (result == CURLE_COULDNT_RESOLVE_HOST || result == CURLE_COULDNT_CONNECT) return true;
    curl_easy_getinfo(x->easy, CURLINFO_CONNECT_TIME_T, &connected);
    return result == CURLE_OPERATION_TIMEDOUT && connected == 0;
}

static int transport_code(const exchange_t *x, CURLcode result) {
    if (x->too_big) return OSYNC_EUNKNOWN; /* no WebHDFS server answers so much: another one is there for the moment */
    if (result == CURLE_OPERATION_TIMEDOUT) return OSYNC_ETIMEOUT;
    return result == CURLE_OUT_OF_MEMORY ? OSYNC_ENOMEM : OSYNC_ECONN;
}

static int transport_error(const exchange_t *x, CURLcode result, const char *what, osync_error_t *err) {
    int code = transport_code(x, result);
    if (x->too_big) return osync__err(err, code, "%s: the answer is longer than %u bytes", what, ANSWER_LIMIT);
    return osync__err(err, code, "%s: %s", what, x->text[0] ? x->text : curl_easy_strerror(result));
}

/* The answer as a JSON object, or NULL. */
static json_t *answer_json(const exchange_t *x) {
    json_t *j =
        x->answer.len ? json_loadb((const char *)x->answer.data, x->answer.len, JSON_REJECT_DUPLICATES, NULL) : NULL;
    if (json_is_object(j)) return j;
    json_decref(j);
    return NULL;
}

/* Which code a RemoteException stands for. ENOENT and EEXIST are promises (sink.h), so they need HDFS's own word for it
 * and nothing less; a bare 404 may come from anything that listens on that port. EINVAL, ENOTSUP and ETOOBIG are for
 * what waiting doesn't mend; what isn't known is EIO. */
static int exception_code(const char *name, const char *message) {
    static const struct {
        const char *name;
        int code;
    } map[] = {
        {"FileNotFoundException", OSYNC_ENOENT},
        {"ParentNotDirectoryException", OSYNC_ENOENT},
        {"FileAlreadyExistsException", OSYNC_EEXIST},
        {"PathIsNotEmptyDirectoryException", OSYNC_EEXIST},
        {"AccessControlException", OSYNC_EPERM},
        {"AuthorizationException", OSYNC_EPERM},
        {"SecurityException", OSYNC_EPERM},
        {"StandbyException", OSYNC_EAGAIN},
        {"SafeModeException", OSYNC_EAGAIN},
        {"RetriableException", OSYNC_EAGAIN},
        {"RetryStartFileException", OSYNC_EAGAIN},
        {"InvalidPathException", OSYNC_EINVAL},
        {"UnsupportedOperationException", OSYNC_ENOTSUP},
    };
    if (strstr(message, "XAttr is too big") || strstr(message, "Cannot add additional XAttr")) return OSYNC_ETOOBIG;
    if (strstr(message, "Support for XAttrs has been disabled")) return OSYNC_ENOTSUP;
    if (strstr(message, "must both be directories")) return OSYNC_EEXIST; /* a file renamed to a folder's name */
    if (strstr(message, "Failed to find datanode")) return OSYNC_EAGAIN;  /* just after the NameNode's start */
    /* A DataNode that can't resolve the NameNode's name calls that an illegal argument. */
    if (strstr(message, "UnknownHostException")) return OSYNC_EAGAIN;
    /* So older versions say to plain users that a part of the path is a file. */
    if (strcmp(name, "AccessControlException") == 0 && strstr(message, "is not a directory")) return OSYNC_ENOENT;
    for (size_t i = 0; i < sizeof map / sizeof map[0]; i++)
        if (strcmp(name, map[i].name) == 0) return map[i].code;
    if (strstr(name, "Quota") || strstr(name, "MaxDirectoryItems")) return OSYNC_ENOSPC;
    if (strstr(name, "PathComponentTooLong")) return OSYNC_ETOOBIG;
    if (strstr(name, "IllegalArgument")) return OSYNC_EINVAL;
    return OSYNC_EIO;
}

/* An answer that is not the success of the operation. */
static int refusal(const exchange_t *x, const char *what, osync_error_t *err) {
    long status = http_status(x);
    int rc = 0;
    json_t *j = answer_json(x), *remote = json_object_get(j, "RemoteException");
    const char *name = json_string_value(json_object_get(remote, "exception"));
    const char *message = json_string_value(json_object_get(remote, "message"));
    if (!message) message = ""; /* it may be null */
    if (name && status >= 400) {
        int code = exception_code(name, message);
        if (status == 401) code = OSYNC_EPERM;
        rc =
            osync__err(err, code, "%s: HTTP %ld, %s: %.*s", what, status, name, (int)strcspn(message, "\r\n"), message);
    } else if (status >= 300 && status < 400) {
        rc = osync__err(err, OSYNC_EUNKNOWN,
                        "%s: HTTP %ld, a redirect, which is not followed; is this the HTTP address of a NameNode?",
                        what, status);
    } else if (status == 401 || status == 403) {
        rc = osync__err(err, OSYNC_EPERM, "%s: HTTP %ld without a RemoteException", what, status);
    } else if (status == 413 || status == 414 || status == 431) {
        rc = osync__err(err, OSYNC_ETOOBIG, "%s: HTTP %ld, the request is too long for this server", what, status);
    } else if (status == 429 || status >= 500) {
        rc = osync__err(err, OSYNC_EAGAIN, "%s: HTTP %ld without a RemoteException", what, status);
    } else {
        rc = osync__err(err, OSYNC_EUNKNOWN, "%s: HTTP %ld with an answer that is not WebHDFS's: \"%.*s\"", what,
                        status, (int)(x->answer.len < 80 ? x->answer.len : 80),
                        x->answer.len ? (const char *)x->answer.data : "");
    }
    json_decref(j);
    return rc;
}

static bool is_standby(const exchange_t *x) {
    if (http_status(x) < 400) return false;
    json_t *j = answer_json(x);
    const char *name = json_string_value(json_object_get(json_object_get(j, "RemoteException"), "exception"));
    bool yes = name && strcmp(name, "StandbyException") == 0;
    json_decref(j);
    return yes;
}

/* ---- calls ---- */

static void file_located(web_file_t *f, const char *url, const osync_error_t *err);
static void on_call_done(void *arg, CURL *easy, CURLcode result);

static void call_free(call_t *c) {
    exchange_end(&c->x);
    for (size_t i = 0; i < c->n_names; i++) osync__free(c->names[i]);
    osync__free(c->names);
    osync__buf_free(&c->label);
    osync__free(c->path);
    osync__free(c);
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The end of a call: tells the caller. The sink may be closed, but not gone, when the callback returns. */
static void call_end(call_t *c, int status, const osync_error_t *e) {
    const osync_error_t *err = status ? e : NULL;
    DL_DELETE(c->sink->calls, c);
    if (c->cb) c->cb(c->arg, status, err);
    if (c->stat_cb) c->stat_cb(c->arg, status, status ? NULL : &c->stat, err);
    if (c->label_cb) c->label_cb(c->arg, status, status ? NULL : c->label.data, status ? 0 : c->label.len, err);
    if (c->list_cb) {
        if (!status && c->n_names) qsort(c->names, c->n_names, sizeof *c->names, compare_names);
        c->list_cb(c->arg, status, status ? NULL : (const char *const *)c->names, status ? 0 : c->n_names, err);
    }
    if (c->read_cb) c->read_cb(c->arg, status, status ? NULL : c->x.answer.data, status ? 0 : c->x.answer.len, err);
    call_free(c);
}

/* Who was asked, as "host:port"; "" if nobody was. */
static void host_of(const exchange_t *x, char host[128]) {
    char *url = NULL;
    if (x->easy) curl_easy_getinfo(x->easy, CURLINFO_EFFECTIVE_URL, &url);
    bool known = url && strncmp(url, "http://", 7) == 0;
    (void)snprintf(host, 128, "%.*s", known ? (int)strcspn(url + 7, "/") : 0, known ? url + 7 : "");
}

/* "RENAME /a to /b on host:9870" */
static void call_name(const call_t *c, char what[512]) {
    char host[128];
    host_of(&c->x, host);
    (void)snprintf(what, 512, "%s %.200s%s%.200s on %.60s", kinds[c->kind].op, c->path, c->to ? " to " : "",
                   c->to ? c->to : "", host);
}

static int call_send(call_t *c, osync_error_t *err) {
    web_sink_t *s = c->sink;
    osync__buf_t url = {0};
    c->address = s->current;
    c->tries++;
    int rc = call_url(c, &url);
    if (!rc) rc = exchange_begin(&c->x, s, (const char *)url.data, kinds[c->kind].mutation);
    osync__buf_free(&url);
    if (rc) return osync__err(err, rc, "%s %.200s: out of memory", kinds[c->kind].op, c->path);
    curl_easy_setopt(c->x.easy, CURLOPT_CUSTOMREQUEST, kinds[c->kind].method);
    curl_easy_setopt(c->x.easy, CURLOPT_TIMEOUT_MS, (long)s->request_timeout_ms);
    if (kinds[c->kind].mutation) OSYNC__BEFORE_POINT(kinds[c->kind].fp);
    return osync__curl_start(s->curl, c->x.easy, on_call_done, c, err);
}

/* The second step of a READ. A transfer may last; what it may not is stand still. */
static int call_send_read(call_t *c, const char *url, osync_error_t *err) {
    web_sink_t *s = c->sink;
    c->located = true;
    if (exchange_begin(&c->x, s, url, true))
        return osync__err(err, OSYNC_ENOMEM, "OPEN %.200s: out of memory", c->path);
    curl_easy_setopt(c->x.easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(c->x.easy, CURLOPT_LOW_SPEED_TIME, (long)(s->request_timeout_ms / 1000 + 1));
    return osync__curl_start(s->curl, c->x.easy, on_call_done, c, err);
}

/* Checks that `location` is a CREATE of our path, or an OPEN of it from `offset` on, and nothing else, and gives the
 * URL to use. */
static int check_location(const call_t *c, const char *location, osync__buf_t *out, osync_error_t *err) {
    const char *path = c->path;
    char offset_text[32];
    CURLU *u = curl_url();
    char *scheme = NULL, *host = NULL, *port = NULL, *decoded = NULL, *query = NULL, *user = NULL, *save = NULL,
         *copy = NULL;
    unsigned op = 0, overwrite = 0, parent = 0, offset = 0, bad = 0;
    int rc = 0;
    if (!u || curl_url_set(u, CURLUPART_URL, location, 0) || curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) ||
        curl_url_get(u, CURLUPART_HOST, &host, 0) || curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) ||
        curl_url_get(u, CURLUPART_PATH, &decoded, CURLU_URLDECODE) || curl_url_get(u, CURLUPART_QUERY, &query, 0)) {
        rc = osync__err(err, OSYNC_EUNKNOWN, "it is not a URL with a path and a query");
        goto done;
    }
    if (strcmp(scheme, "http") != 0) {
        rc = osync__err(err, OSYNC_ENOTSUP, "its scheme is %s, and only http is supported", scheme);
        goto done;
    }
    if (curl_url_get(u, CURLUPART_USER, &user, 0) != CURLUE_NO_USER) {
        rc = osync__err(err, OSYNC_EUNKNOWN, "it names a user");
        goto done;
    }
    if (strncmp(decoded, PREFIX, strlen(PREFIX)) != 0 || strcmp(decoded + strlen(PREFIX), path) != 0) {
        rc = osync__err(err, OSYNC_EUNKNOWN, "it leads to another path");
        goto done;
    }
    (void)snprintf(offset_text, sizeof offset_text, "%" PRIu64, c->offset);
    copy = osync__strdup(query);
    for (char *p = copy ? strtok_r(copy, "&", &save) : NULL; p; p = strtok_r(NULL, "&", &save)) {
        if (strncasecmp(p, "op=", 3) == 0) strcasecmp(p + 3, kinds[c->kind].op) == 0 ? op++ : bad++;
        if (strncasecmp(p, "overwrite=", 10) == 0) strcasecmp(p + 10, "false") == 0 ? overwrite++ : bad++;
        if (strncasecmp(p, "createparent=", 13) == 0) strcasecmp(p + 13, "false") == 0 ? parent++ : bad++;
        if (strncasecmp(p, "offset=", 7) == 0) strcmp(p + 7, offset_text) == 0 ? offset++ : bad++;
    }
    if (c->kind == READ && (op != 1 || (c->offset > 0 && offset != 1) || bad)) {
        rc = osync__err(err, OSYNC_EUNKNOWN, "it lacks op=OPEN or offset=%s", offset_text);
        goto done;
    }
    if (c->kind == LOCATE && (op != 1 || overwrite != 1 || parent != 1 || bad)) {
        rc = osync__err(err, OSYNC_EUNKNOWN, "it lacks op=CREATE, overwrite=false or createparent=false");
        goto done;
    }
    /* The NameNode doesn't encode every letter of the path; our own encoding is right. */
    rc = osync__buf_printf(out, "http://%s:%s" PREFIX, host, port);
    if (!rc) rc = encode(out, path, "/");
    if (!rc) rc = osync__buf_printf(out, "?%s", query);
    if (!rc) rc = osync__buf_append(out, "", 1);
    if (rc) rc = osync__err(err, rc, "out of memory");
done:
    osync__free(copy);
    curl_free(scheme);
    curl_free(host);
    curl_free(port);
    curl_free(decoded);
    curl_free(query);
    curl_free(user);
    curl_url_cleanup(u);
    return rc;
}

static int unexpected(const exchange_t *x, const char *what, osync_error_t *err) {
    return osync__err(err, OSYNC_EUNKNOWN, "%s: HTTP %ld with an answer that is cut off or not WebHDFS's: \"%.*s\"",
                      what, http_status(x), (int)(x->answer.len < 80 ? x->answer.len : 80),
                      x->answer.len ? (const char *)x->answer.data : "");
}

static int take_location(call_t *c, const char *what, osync__buf_t *url, osync_error_t *err) {
    json_t *j = answer_json(&c->x);
    const char *location = json_string_value(json_object_get(j, "Location"));
    char *redirect =
        NULL; /* a server that doesn't know `noredirect` puts it into the header; not followed, but checked alike */
    if (!location && http_status(&c->x) == 307) curl_easy_getinfo(c->x.easy, CURLINFO_REDIRECT_URL, &redirect);
    if (!location) location = redirect;
    int rc = location ? check_location(c, location, url, err) : unexpected(&c->x, what, err);
    if (rc && location) {
        osync_error_t cause = {.code = rc};
        if (err) cause = *err;
        rc =
            osync__err(err, rc, "%s: the answered Location <%.200s> is refused: %.200s", what, location, cause.message);
    }
    json_decref(j);
    return rc;
}

static int take_stat(call_t *c, const char *what, osync_error_t *err) {
    json_t *j = answer_json(&c->x);
    json_int_t length = -1, id = -1;
    const char *type = NULL;
    int rc = json_unpack(j, "{s:{s:I, s:I, s:s}}", "FileStatus", "length", &length, "fileId", &id, "type", &type);
    if (rc || length < 0 || id < 0 || !type) {
        rc = unexpected(&c->x, what, err);
    } else {
        c->stat = (osync_sink_stat_t){
            .is_dir = strcmp(type, "DIRECTORY") == 0, .length = (uint64_t)length, .file_id = (uint64_t)id};
    }
    json_decref(j);
    return rc;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Appends the bytes of "0x..." to `out`. */
static int unhex(const char *text, osync__buf_t *out) {
    size_t n = strlen(text);
    if (n < 2 || n % 2 || text[0] != '0' || (text[1] != 'x' && text[1] != 'X')) return OSYNC_ECORRUPT;
    for (const char *p = text + 2; *p; p += 2) {
        int hi = hex_digit(p[0]), lo = hex_digit(p[1]);
        if (hi < 0 || lo < 0) return OSYNC_ECORRUPT;
        uint8_t b = (uint8_t)(hi << 4 | lo);
        int rc = osync__buf_append(out, &b, 1);
        if (rc) return rc;
    }
    return 0;
}

static const char *attr_value(json_t *attrs, const char *name) {
    size_t i;
    json_t *a;
    json_array_foreach(attrs, i, a) {
        const char *n = json_string_value(json_object_get(a, "name"));
        if (n && strcmp(n, name) == 0) return json_string_value(json_object_get(a, "value"));
    }
    return NULL;
}

static int take_label(call_t *c, const char *what, osync_error_t *err) {
    json_t *j = answer_json(&c->x), *attrs = json_object_get(j, "XAttrs");
    char name[OSYNC__LABEL_NAME_SIZE];
    int rc = json_is_array(attrs) ? 0 : unexpected(&c->x, what, err);
    unsigned parts = 1;
    for (unsigned i = 0; i < parts && !rc; i++) {
        osync__label_name(i, name);
        const char *value = attr_value(attrs, name);
        if (!value && i == 0) {
            rc = osync__err(err, OSYNC_ENOENT, "%s: it has no label", what);
            break;
        }
        rc = value ? unhex(value, &c->label) : OSYNC_ECORRUPT;
        if (!rc && i == 0) {
            parts = c->label.len ? c->label.data[0] : 0;
            if (parts == 0 || parts > OSYNC__LABEL_MAX_PARTS) rc = OSYNC_ECORRUPT;
        }
        if (rc) rc = osync__err(err, rc, "%s: the attribute %s is missing or not one of ours", what, name);
    }
    if (!rc) osync__buf_consume(&c->label, 1);
    json_decref(j);
    return rc;
}

/* One page of names. *more: there are others behind it. */
static int take_names(call_t *c, const char *what, bool *more, osync_error_t *err) {
    json_t *j = answer_json(&c->x), *rows = NULL, *row;
    json_int_t remaining = -1;
    size_t i;
    int rc = json_unpack(j, "{s:{s:{s:{s:o}}, s:I}}", "DirectoryListing", "partialListing", "FileStatuses",
                         "FileStatus", &rows, "remainingEntries", &remaining);
    if (rc || !json_is_array(rows) || remaining < 0 || (remaining > 0 && json_array_size(rows) == 0)) {
        rc = unexpected(&c->x, what, err);
        goto done;
    }
    json_array_foreach(rows, i, row) {
        const char *name = json_string_value(json_object_get(row, "pathSuffix"));
        if (name && !*name && c->n_names == 0) { /* a file lists itself */
            rc = osync__err(err, OSYNC_ENOENT, "%s: it is not a folder", what);
            goto done;
        }
        bool again = name && c->n_names && strcmp(name, c->names[c->n_names - 1]) == 0;
        if (!name || !*name || again || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
            rc = unexpected(&c->x, what, err);
            goto done;
        }
        if (c->n_names == LIST_LIMIT) {
            rc = osync__err(err, OSYNC_ETOOBIG, "%s: more than %u names", what, LIST_LIMIT);
            goto done;
        }
        if (c->n_names == c->cap_names) {
            size_t cap = c->cap_names ? 2 * c->cap_names : 64;
            char **bigger = osync__realloc(c->names, cap * sizeof *bigger);
            if (!bigger) {
                rc = osync__err(err, OSYNC_ENOMEM, "%s: out of memory", what);
                goto done;
            }
            c->names = bigger;
            c->cap_names = cap;
        }
        c->names[c->n_names] = osync__strdup(name);
        if (!c->names[c->n_names]) {
            rc = osync__err(err, OSYNC_ENOMEM, "%s: out of memory", what);
            goto done;
        }
        c->n_names++;
    }
    *more = remaining > 0;
done:
    json_decref(j);
    return rc;
}

/* An answer {"boolean":...}: its value; an error if it is anything else. */
static int take_boolean(call_t *c, const char *what, bool *out, osync_error_t *err) {
    json_t *j = answer_json(&c->x), *b = json_object_get(j, "boolean");
    int rc = json_is_boolean(b) ? 0 : unexpected(&c->x, what, err);
    *out = json_is_true(b);
    json_decref(j);
    return rc;
}

/* An answer without a body: a page of something that isn't WebHDFS is no success. */
static int take_nothing(call_t *c, const char *what, osync_error_t *err) {
    return c->x.answer.len ? unexpected(&c->x, what, err) : 0;
}

/* The bytes of a READ. Where neither a length nor chunks were announced, the connection's end is no proof that these
 * are all of them. */
static int take_bytes(call_t *c, const char *what, osync_error_t *err) {
    struct curl_header *header;
    curl_off_t length = -1;
    if (c->x.answer.len > c->length)
        return osync__err(err, OSYNC_EUNKNOWN, "%s: more than the %zu bytes that were asked for", what, c->length);
    curl_easy_getinfo(c->x.easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
    if (length < 0 && c->x.answer.len < c->length &&
        curl_easy_header(c->x.easy, "Transfer-Encoding", 0, CURLH_HEADER, -1, &header))
        return osync__err(err, OSYNC_EUNKNOWN, "%s: %zu bytes and no sign whether they are all", what, c->x.answer.len);
    return 0;
}

/* What the NameNode says of an offset that isn't below the file's length. */
static bool is_end_of_file(const call_t *c) {
    if (c->kind != READ || http_status(&c->x) < 400) return false;
    json_t *j = answer_json(&c->x);
    const char *message = json_string_value(json_object_get(json_object_get(j, "RemoteException"), "message"));
    bool yes = message && strncmp(message, "Offset=", 7) == 0 && strstr(message, " out of the range [0, ");
    json_decref(j);
    return yes;
}

/* The answer of a success. *again: the call needs another request. */
static int take_answer(call_t *c, const char *what, osync__buf_t *url, bool *again, osync_error_t *err) {
    bool yes = false;
    int rc = 0;
    switch (c->kind) {
    case LOCATE:
        return take_location(c, what, url, err);
    case READ:
        return c->located ? take_bytes(c, what, err) : take_location(c, what, url, err);
    case STAT:
        return take_stat(c, what, err);
    case GET_LABEL:
        return take_label(c, what, err);
    case LIST:
        return take_names(c, what, again, err);
    case SET_LABEL:
        *again = --c->part > 0;
        return take_nothing(c, what, err);
    case BARRIER:
        return take_nothing(c, what, err);
    case REMOVE: /* false: it wasn't there */
        return take_boolean(c, what, &yes, err);
    case MKDIRS:
        rc = take_boolean(c, what, &yes, err);
        return rc || yes ? rc : osync__err(err, OSYNC_EUNKNOWN, "%s: answered false", what);
    case RENAME:
        /* With renameoptions a success has no body. A server that ignores the option answers {"boolean":...}, and its
         * true may mean that the file was moved into a folder of that name. */
        return take_nothing(c, what, err);
    }
    return rc;
}

static void on_call_done(void *arg, CURL *easy, CURLcode result) {
    call_t *c = arg;
    web_sink_t *s = c->sink;
    char what[512];
    osync__buf_t url = {0};
    osync_error_t err = {0};
    bool again = false;
    int rc = 0;
    (void)easy;
    if (kinds[c->kind].mutation) OSYNC__AFTER_POINT(kinds[c->kind].fp);
    call_name(c, what);
    bool not_sent = result && never_sent(&c->x, result), standby = !result && is_standby(&c->x);
    if (s->n_addresses > 1 && !c->located && (result || standby)) {
        /* All later calls ask the next NameNode, and so does this one if nothing was done here. Except a barrier: what
         * it is to confirm was read from a NameNode that isn't the active one. */
        if (c->address == s->current) s->current = (s->current + 1) % s->n_addresses;
        if ((not_sent || standby) && c->tries < s->n_addresses && c->kind != BARRIER) {
            rc = call_send(c, &err);
            if (!rc) return;
            goto end;
        }
    }
    if (result)
        rc = transport_error(&c->x, result, what, &err);
    else if (http_status(&c->x) == 200 ||
             ((c->kind == LOCATE || (c->kind == READ && !c->located)) && http_status(&c->x) == 307))
        rc = take_answer(c, what, &url, &again, &err);
    else if (is_end_of_file(c))
        c->x.answer.len = 0;
    else
        rc = refusal(&c->x, what, &err);
    if (!rc && url.len && c->kind == READ) {
        rc = call_send_read(c, (const char *)url.data, &err);
        if (!rc) goto end_of_step;
    }
    if (!rc && again) {
        c->tries = 0;
        rc = call_send(c, &err);
        if (!rc) return;
    }
end:
    if (c->file) {
        web_file_t *f = c->file;
        f->locate = NULL;
        DL_DELETE(s->calls, c);
        call_free(c);
        file_located(f, rc ? NULL : (const char *)url.data, &err);
    } else {
        call_end(c, rc, &err);
    }
end_of_step:
    osync__buf_free(&url);
}

static int call_new(osync_sink_t *sink, kind_t kind, const char *path, const char *to, call_t **out) {
    web_sink_t *s = (web_sink_t *)sink;
    if (s->closing) return OSYNC_ECLOSED;
    if (osync__sink_check_path(path, NULL) || (to && osync__sink_check_path(to, NULL))) return OSYNC_EINVAL;
    call_t *c = osync__calloc(1, sizeof *c);
    if (!c) return OSYNC_ENOMEM;
    size_t n = strlen(path) + 1, m = to ? strlen(to) + 1 : 0;
    c->path = osync__malloc(n + m);
    if (!c->path) {
        osync__free(c);
        return OSYNC_ENOMEM;
    }
    memcpy(c->path, path, n);
    if (to) c->to = memcpy(c->path + n, to, m);
    c->sink = s;
    c->kind = kind;
    *out = c;
    return 0;
}

static int call_start(call_t *c, void *arg) {
    c->arg = arg;
    int rc = call_send(c, NULL);
    if (rc)
        call_free(c);
    else
        DL_APPEND(c->sink->calls, c);
    return rc;
}

static int start_plain(osync_sink_t *sink, kind_t kind, const char *path, const char *to, bool recursive,
                       osync_sink_cb cb, void *arg) {
    call_t *c;
    int rc = call_new(sink, kind, path, to, &c);
    if (rc) return rc;
    c->recursive = recursive;
    c->cb = cb;
    return call_start(c, arg);
}

static int web_mkdirs(osync_sink_t *sink, const char *path, osync_sink_cb cb, void *arg) {
    return start_plain(sink, MKDIRS, path, NULL, false, cb, arg);
}

static int web_rename(osync_sink_t *sink, const char *from, const char *to, osync_sink_cb cb, void *arg) {
    return start_plain(sink, RENAME, from, to, false, cb, arg);
}

static int web_remove(osync_sink_t *sink, const char *path, bool recursive, osync_sink_cb cb, void *arg) {
    return start_plain(sink, REMOVE, path, NULL, recursive, cb, arg);
}

static int web_barrier(osync_sink_t *sink, const char *path, osync_sink_cb cb, void *arg) {
    return start_plain(sink, BARRIER, path, NULL, false, cb, arg);
}

static int web_stat(osync_sink_t *sink, const char *path, osync_sink_stat_cb cb, void *arg) {
    call_t *c;
    int rc = call_new(sink, STAT, path, NULL, &c);
    if (rc) return rc;
    c->stat_cb = cb;
    return call_start(c, arg);
}

static int web_list(osync_sink_t *sink, const char *path, osync_sink_list_cb cb, void *arg) {
    call_t *c;
    int rc = call_new(sink, LIST, path, NULL, &c);
    if (rc) return rc;
    c->list_cb = cb;
    return call_start(c, arg);
}

static int web_get_label(osync_sink_t *sink, const char *path, osync_sink_label_cb cb, void *arg) {
    call_t *c;
    int rc = call_new(sink, GET_LABEL, path, NULL, &c);
    if (rc) return rc;
    c->label_cb = cb;
    return call_start(c, arg);
}

static int web_read(osync_sink_t *sink, const char *path, uint64_t offset, size_t len, osync_sink_read_cb cb,
                    void *arg) {
    call_t *c;
    if (len == 0 || len > OSYNC__READ_LIMIT || offset > INT64_MAX - OSYNC__READ_LIMIT) return OSYNC_EINVAL;
    int rc = call_new(sink, READ, path, NULL, &c);
    if (rc) return rc;
    c->offset = offset;
    c->length = len;
    c->read_cb = cb;
    return call_start(c, arg);
}

static int web_set_label(osync_sink_t *sink, const char *path, const void *label, size_t len, osync_sink_cb cb,
                         void *arg) {
    call_t *c;
    if (len > OSYNC__LABEL_LIMIT) return OSYNC_ETOOBIG;
    int rc = call_new(sink, SET_LABEL, path, NULL, &c);
    if (rc) return rc;
    if (len && osync__buf_append(&c->label, label, len)) {
        call_free(c);
        return OSYNC_ENOMEM;
    }
    c->part = osync__label_parts(len);
    c->cb = cb;
    return call_start(c, arg);
}

/* ---- files ---- */

static void on_later(uv_timer_t *timer);

/* Something is to be told about the file: soon, from the loop. */
static void file_ready(web_file_t *f) {
    web_sink_t *s = (web_sink_t *)f->head.sink;
    if (f->ready) return;
    f->ready = true;
    f->ready_next = NULL;
    *s->ready_last = f;
    s->ready_last = &f->ready_next;
    uv_timer_start(&s->later, on_later, 0, 0);
}

static void file_op_done(web_file_t *f) {
    if (!f->busy) return;
    f->done = true;
    file_ready(f);
}

static void file_fail(web_file_t *f, const osync_error_t *err) {
    f->failed = *err;
    file_op_done(f);
}

static void file_free(web_file_t *f) {
    exchange_end(&f->x);
    osync__free(f->path);
    osync__free(f);
}

/* libcurl asks for bytes to send. */
static size_t on_read(char *to, size_t size, size_t n, void *arg) {
    web_file_t *f = arg;
    size_t room = size * n;
    if (!f->asked) OSYNC__AFTER(web_create);
    f->asked = true;
    if (f->left == 0) {
        if (f->end) return 0;
        f->paused = true;
        return CURL_READFUNC_PAUSE;
    }
    if (room > f->left) room = f->left;
    memcpy(to, f->data, room);
    f->data += room;
    f->left -= room;
    f->progress_ms = osync__mono_ms();
    if (f->left == 0) {
        OSYNC__AFTER(web_write);
        file_op_done(f);
    }
    return room;
}

static void file_name(const web_file_t *f, char what[512]) {
    char host[128];
    host_of(&f->x, host);
    (void)snprintf(what, 512, "write %.300s on %.100s", f->path, host);
}

static void on_stream_done(void *arg, CURL *easy, CURLcode result) {
    web_file_t *f = arg;
    char what[512];
    osync_error_t err = {0};
    (void)easy;
    f->streaming = false;
    if (f->finishing) OSYNC__AFTER(web_finish);
    file_name(f, what);
    if (result)
        transport_error(&f->x, result, what, &err);
    else if (http_status(&f->x) != 201)
        refusal(&f->x, what, &err);
    else if (!f->end || f->left)
        osync__err(&err, OSYNC_EUNKNOWN, "%s: HTTP 201 came before the end of the data", what);
    else
        f->stored = true;
    if (f->stored)
        file_op_done(f);
    else
        file_fail(f, &err);
}

/* Few files get large buffers, for fewer system calls; a thousand open ones don't cost memory accordingly. */
static long upload_buffer(const web_sink_t *s) {
    const web_file_t *f;
    long files;
    DL_COUNT(s->files, f, files);
    long size = UPLOAD_BUFFERS / (files ? files : 1);
    if (size > UPLOAD_BUFFER_MAX) return UPLOAD_BUFFER_MAX;
    return size < UPLOAD_BUFFER_MIN ? UPLOAD_BUFFER_MIN : size;
}

static int stream_begin(web_file_t *f, const char *url, osync_error_t *err) {
    web_sink_t *s = (web_sink_t *)f->head.sink;
    if (exchange_begin(&f->x, s, url, true)) goto no_memory;
    /* The DataNode makes the file when the request's head arrives, so there is nothing to wait for before sending the
     * body. */
    f->x.headers = curl_slist_append(NULL, "Expect:");
    if (!f->x.headers) goto no_memory;
    struct curl_slist *more = curl_slist_append(f->x.headers, "Content-Type: application/octet-stream");
    if (!more) goto no_memory;
    curl_easy_setopt(f->x.easy, CURLOPT_HTTPHEADER, f->x.headers);
    curl_easy_setopt(f->x.easy, CURLOPT_UPLOAD, 1L);
    curl_easy_setopt(f->x.easy, CURLOPT_UPLOAD_BUFFERSIZE, upload_buffer(s));
    curl_easy_setopt(f->x.easy, CURLOPT_BUFFERSIZE, ANSWER_BUFFER);
    curl_easy_setopt(f->x.easy, CURLOPT_READFUNCTION, on_read);
    curl_easy_setopt(f->x.easy, CURLOPT_READDATA, f);
    OSYNC__BEFORE(web_create);
    int rc = osync__curl_start(s->curl, f->x.easy, on_stream_done, f, err);
    f->streaming = rc == 0;
    f->progress_ms = osync__mono_ms();
    return rc;
no_memory:
    return osync__err(err, OSYNC_ENOMEM, "write %.200s: out of memory", f->path);
}

static void file_located(web_file_t *f, const char *url, const osync_error_t *err) {
    osync_error_t e;
    if (!url)
        file_fail(f, err);
    else if (stream_begin(f, url, &e))
        file_fail(f, &e);
    else
        file_op_done(f);
}

/* The timer that looks for files without progress runs while there are such that don't wait for their callers. */
static void on_tick(uv_timer_t *timer) {
    web_sink_t *s = timer->data;
    web_file_t *f;
    bool any = false;
    osync_error_t err;
    char what[512];
    uint64_t now = osync__mono_ms();
    DL_FOREACH(s->files, f) {
        any = any || f->busy;
        if (!f->streaming || !f->busy || f->done || now - f->progress_ms < s->request_timeout_ms) continue;
        file_name(f, what);
        osync__curl_cancel(s->curl, f->x.easy);
        f->streaming = false;
        osync__err(&err, OSYNC_ETIMEOUT, "%s: no progress for %u ms", what, s->request_timeout_ms);
        file_fail(f, &err);
    }
    if (!any) uv_timer_stop(timer);
}

static void start_tick(web_sink_t *s) {
    uint64_t period = s->request_timeout_ms / 4 + 1;
    if (period > 1000) period = 1000;
    if (!uv_is_active((uv_handle_t *)&s->tick)) uv_timer_start(&s->tick, on_tick, period, period);
}

static int web_create(osync_sink_t *sink, const char *path, osync_sink_file_t **out, osync_sink_cb cb, void *arg) {
    web_sink_t *s = (web_sink_t *)sink;
    call_t *c;
    int rc = call_new(sink, LOCATE, path, NULL, &c);
    if (rc) return rc;
    web_file_t *f = osync__calloc(1, sizeof *f);
    if (f) f->path = osync__strdup(path);
    if (!f || !f->path) {
        osync__free(f);
        call_free(c);
        return OSYNC_ENOMEM;
    }
    c->file = f;
    rc = call_start(c, NULL);
    if (rc) {
        file_free(f);
        return rc;
    }
    f->head.sink = sink;
    f->locate = c;
    f->busy = true;
    f->cb = cb;
    f->arg = arg;
    DL_APPEND(s->files, f);
    start_tick(s);
    *out = &f->head;
    return 0;
}

static int file_begin_op(web_file_t *f, osync_sink_cb cb, void *arg) {
    if (((web_sink_t *)f->head.sink)->closing) return OSYNC_ECLOSED;
    if (f->busy || f->end || f->aborted) return OSYNC_EINVAL;
    f->busy = true;
    f->done = false;
    f->cb = cb;
    f->arg = arg;
    f->progress_ms = osync__mono_ms();
    start_tick((web_sink_t *)f->head.sink);
    return 0;
}

static void file_go_on(web_file_t *f) {
    if (!f->streaming) {
        file_op_done(f); /* with the failure that ended the stream */
    } else if (f->paused) {
        f->paused = false;
        osync__curl_resume(((web_sink_t *)f->head.sink)->curl, f->x.easy);
    }
}

static int web_write(osync_sink_file_t *file, const void *data, size_t len, osync_sink_cb cb, void *arg) {
    web_file_t *f = (web_file_t *)file;
    int rc = file_begin_op(f, cb, arg);
    if (rc) return rc;
    if (len == 0) {
        file_op_done(f);
        return 0;
    }
    f->data = data;
    f->left = len;
    OSYNC__BEFORE(web_write);
    file_go_on(f);
    return 0;
}

static int web_finish(osync_sink_file_t *file, osync_sink_cb cb, void *arg) {
    web_file_t *f = (web_file_t *)file;
    int rc = file_begin_op(f, cb, arg);
    if (rc) return rc;
    f->end = f->finishing = true;
    OSYNC__BEFORE(web_finish);
    file_go_on(f);
    return 0;
}

/* Ends what the file has under way on the network. */
static void file_stop(web_file_t *f) {
    web_sink_t *s = (web_sink_t *)f->head.sink;
    if (f->locate) {
        osync__curl_cancel(s->curl, f->locate->x.easy);
        DL_DELETE(s->calls, f->locate);
        call_free(f->locate);
        f->locate = NULL;
    }
    if (f->streaming) osync__curl_cancel(s->curl, f->x.easy);
    f->streaming = false;
    f->left = 0;
}

static void web_abort(osync_sink_file_t *file, osync_sink_cb cb, void *arg) {
    web_file_t *f = (web_file_t *)file;
    f->aborted = true;
    f->abort_cb = cb;
    f->abort_arg = arg;
    file_stop(f);
    if (!((web_sink_t *)file->sink)->closing) file_ready(f); /* else it is answered when the sink is freed */
}

/* Tells what is to be told about one file, and frees it if it has come to its end. */
static void file_tell(web_sink_t *s, web_file_t *f) {
    bool told = f->busy && (f->done || f->aborted || s->closing), last = f->aborted || f->finishing;
    osync_sink_cb cb = f->cb, abort_cb = f->abort_cb;
    void *arg = f->arg, *abort_arg = f->abort_arg;
    osync_error_t err = f->failed;
    if (s->closing)
        osync__err(&err, OSYNC_ECANCELED, "write %.300s: the sink was closed", f->path);
    else if (f->aborted)
        osync__err(&err, OSYNC_ECANCELED, "write %.300s: aborted", f->path);
    if (told) f->busy = f->done = false;
    if (last) {
        DL_DELETE(s->files, f);
        file_free(f);
    }
    if (told && cb) cb(arg, err.code, err.code ? &err : NULL);
    if (abort_cb) abort_cb(abort_arg, 0, NULL);
}

/* ---- the end of the sink ---- */

static void free_sink(web_sink_t *s) {
    web_file_t *f, *tmp;
    DL_FOREACH_SAFE(s->files, f, tmp) { /* kept until here, because their callers may still abort them */
        osync_sink_cb abort_cb = f->abort_cb;
        void *abort_arg = f->abort_arg;
        file_free(f);
        if (abort_cb) abort_cb(abort_arg, 0, NULL);
    }
    void (*cb)(void *) = s->close_cb;
    void *arg = s->close_arg;
    osync__hadoop_addresses_free(s->addresses, s->n_addresses);
    osync__free(s->user);
    osync__free(s);
    if (cb) cb(arg);
}

static void on_handle_closed(uv_handle_t *handle) {
    web_sink_t *s = handle->data;
    if (--s->handles == 0) free_sink(s);
}

static void on_curl_closed(void *arg) {
    web_sink_t *s = arg;
    uv_close((uv_handle_t *)&s->later, on_handle_closed);
    uv_close((uv_handle_t *)&s->tick, on_handle_closed);
}

static void end_everything(web_sink_t *s) {
    osync_error_t err;
    osync__err(&err, OSYNC_ECANCELED, "the sink was closed");
    while (s->calls) call_end(s->calls, OSYNC_ECANCELED, &err);
    web_file_t *f, *tmp;
    DL_FOREACH_SAFE(s->files, f, tmp) {
        exchange_end(&f->x);
        if (f->busy) file_tell(s, f);
    }
    osync__curl_close(s->curl, on_curl_closed, s);
}

static void on_later(uv_timer_t *timer) {
    web_sink_t *s = timer->data;
    web_file_t *todo = s->ready;
    s->ready = NULL; /* what becomes ready meanwhile is for the next turn, so that the loop goes round */
    s->ready_last = &s->ready;
    while (todo && !s->closing) {
        web_file_t *f = todo;
        todo = f->ready_next;
        f->ready = false;
        file_tell(s, f);
    }
    if (s->closing) {
        uv_timer_stop(timer); /* a close from inside one of the callbacks above has started it again */
        end_everything(s);
    }
}

static void web_close(osync_sink_t *sink, void (*cb)(void *arg), void *arg) {
    web_sink_t *s = (web_sink_t *)sink;
    web_file_t *f;
    call_t *c;
    s->closing = true;
    s->close_cb = cb;
    s->close_arg = arg;
    DL_FOREACH(s->files, f) {
        file_stop(f);
    }
    DL_FOREACH(s->calls, c) {
        osync__curl_cancel(s->curl, c->x.easy);
    }
    uv_timer_stop(&s->tick);
    uv_timer_start(&s->later, on_later, 0, 0);
}

static const osync_sink_ops_t web_ops = {
    .size = sizeof web_ops,
    .mkdirs = web_mkdirs,
    .create = web_create,
    .write = web_write,
    .finish = web_finish,
    .abort = web_abort,
    .stat = web_stat,
    .set_label = web_set_label,
    .get_label = web_get_label,
    .rename = web_rename,
    .remove = web_remove,
    .list = web_list,
    .barrier = web_barrier,
    .read = web_read,
    .close = web_close,
};

static const osync_webhdfs_config_t defaults = {
    .connect_timeout_ms = DEFAULT_CONNECT_TIMEOUT_MS,
    .request_timeout_ms = DEFAULT_REQUEST_TIMEOUT_MS,
};

void osync_webhdfs_config_init(osync_webhdfs_config_t *config, size_t size) {
    osync__config_init(config, size, &defaults, sizeof defaults);
}

void osync__webhdfs_where(const osync_sink_t *sink, char *const **addresses, size_t *n, const char **user) {
    const web_sink_t *s = (const web_sink_t *)sink;
    *addresses = s->addresses;
    *n = s->n_addresses;
    *user = s->user;
}

static char *default_user(void) {
    const char *name = getenv("HADOOP_USER_NAME");
    struct passwd pw, *found = NULL;
    char room[4096];
    if (name && *name) return osync__strdup(name);
    if (getpwuid_r(geteuid(), &pw, room, sizeof room, &found) == 0 && found) return osync__strdup(pw.pw_name);
    return osync__strdup("osync");
}

int osync_webhdfs_sink_new(osync_sink_t **out, uv_loop_t *loop, const osync_webhdfs_config_t *config,
                           osync_error_t *err) {
    osync_webhdfs_config_t own = defaults;
    int rc = osync__config_take(&own, sizeof own, config, "osync_webhdfs_config_init", err);
    if (rc) return rc;
    rc = OSYNC_ENOMEM;
    web_sink_t *s = osync__calloc(1, sizeof *s);
    if (!s) goto fail;
    s->head.ops = &web_ops;
    s->ready_last = &s->ready;
    s->connect_timeout_ms = own.connect_timeout_ms;
    s->request_timeout_ms = own.request_timeout_ms;
    s->user = own.user && *own.user ? osync__strdup(own.user) : default_user();
    if (!s->user) goto fail;
    if (own.address) {
        if (osync__hadoop_http_addresses(own.address, &s->addresses, &s->n_addresses)) goto fail;
    } else {
        rc = osync__hadoop_namenodes(own.hadoop_conf_dir, own.authority, &s->addresses, &s->n_addresses, err);
        if (rc) goto fail_said;
    }
    for (size_t i = 0; i < s->n_addresses; i++) {
        if (s->addresses[i][0] != ':' && !strpbrk(s->addresses[i], "/?#@\\% \t\r\n")) continue;
        rc = osync__err(err, OSYNC_ECONFIG, "\"%.200s\" is not the host:port of a NameNode", s->addresses[i]);
        goto fail_said;
    }
    rc = osync__curl_new(loop, &s->curl, err);
    if (rc) goto fail_said;
    uv_timer_init(loop, &s->later);
    uv_timer_init(loop, &s->tick);
    s->later.data = s->tick.data = s;
    s->handles = 2;
    *out = &s->head;
    return 0;
fail:
    rc = osync__err(err, OSYNC_ENOMEM, "WebHDFS sink: out of memory");
fail_said:
    if (s) {
        osync__hadoop_addresses_free(s->addresses, s->n_addresses);
        osync__free(s->user);
        osync__free(s);
    }
    return rc;
}
