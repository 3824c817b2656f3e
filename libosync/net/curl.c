/* libcurl's multi interface driven by a uv loop: one uv_poll_t for each socket that libcurl wants watched, one
 * uv_timer_t for its timeouts, one uv_idle_t for what is due at once. Nothing here knows HTTP; the easy handles, their
 * options and their memory belong to the callers. */
#include "net/curl.h"

#include <stdbool.h>
#include <utlist.h>

#include "base/alloc.h"
#include "base/error.h"

typedef struct transfer {
    CURL *easy;
    osync__curl_cb cb;
    void *arg;
    CURLcode failed; /* a resume could not go on; the timer's next turn reports it */
    struct transfer *prev, *next;
} transfer_t;

typedef struct watched_socket {
    uv_poll_t poll;
    osync__curl_t *curl;
    curl_socket_t fd;
    int events; /* what libcurl wants to know about it */
} watched_socket_t;

struct osync__curl {
    uv_loop_t *loop;
    CURLM *multi;
    uv_timer_t timer;
    uv_idle_t at_once; /* runs in the next turn of the loop, which looks at all sockets, too: nothing starves */
    transfer_t *transfers;
    unsigned failed;   /* transfers whose `failed` is set */
    unsigned dispatch; /* how deep inside libcurl or a callback the loop's thread is */
    unsigned handles;  /* uv handles that are not closed yet */
    bool closing;
    void (*closed_cb)(void *arg);
    void *closed_arg;
};

static void begin_close(osync__curl_t *curl);

static transfer_t *transfer_of(CURL *easy) {
    transfer_t *t = NULL;
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&t);
    return t;
}

static void finish(osync__curl_t *curl, transfer_t *t, CURLcode result) {
    CURL *easy = t->easy;
    osync__curl_cb cb = t->cb;
    void *arg = t->arg;
    curl_multi_remove_handle(curl->multi, easy);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, NULL);
    DL_DELETE(curl->transfers, t);
    if (t->failed) curl->failed--;
    osync__free(t);
    cb(arg, easy, result);
}

/* Runs libcurl, then tells everybody whose transfer has ended. Callbacks may start, cancel and resume transfers and
 * close `curl`. */
static void act(osync__curl_t *curl, curl_socket_t fd, int events) {
    int running;
    int left;
    CURLMsg *msg;
    curl->dispatch++;
    curl_multi_socket_action(curl->multi, fd, events, &running);
    while ((msg = curl_multi_info_read(curl->multi, &left))) {
        if (msg->msg != CURLMSG_DONE) continue;
        CURLcode result = msg->data.result; /* `msg` goes with the handle */
        transfer_t *t = transfer_of(msg->easy_handle);
        if (t) finish(curl, t, t->failed ? t->failed : result);
    }
    while (curl->failed) {
        transfer_t *t = curl->transfers;
        while (!t->failed) t = t->next;
        finish(curl, t, t->failed);
    }
    curl->dispatch--;
    if (curl->closing && curl->dispatch == 0) begin_close(curl);
}

static void on_timer(uv_timer_t *timer) {
    act(timer->data, CURL_SOCKET_TIMEOUT, 0);
}

static void on_at_once(uv_idle_t *idle) {
    uv_idle_stop(idle);
    act(idle->data, CURL_SOCKET_TIMEOUT, 0);
}

static void on_poll(uv_poll_t *poll, int status, int events) {
    watched_socket_t *s = poll->data;
    int flags = 0;
    if (status < 0) {
        /* The peer has reset the connection. What it answered before that (a server that refuses an upload doesn't read
         * it to its end) may still be there to read; told of an error, libcurl wouldn't look. libuv has stopped
         * watching. */
        flags |= CURL_CSELECT_IN;
        uv_poll_start(poll, s->events, on_poll);
    }
    if (events & UV_READABLE) flags |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE) flags |= CURL_CSELECT_OUT;
    act(s->curl, s->fd, flags);
}

static void handle_closed(osync__curl_t *curl) {
    if (--curl->handles) return;
    void (*cb)(void *arg) = curl->closed_cb;
    void *arg = curl->closed_arg;
    osync__free(curl);
    curl_global_cleanup();
    if (cb) cb(arg);
}

static void on_own_closed(uv_handle_t *handle) {
    handle_closed(handle->data);
}

static void on_poll_closed(uv_handle_t *handle) {
    watched_socket_t *s = handle->data;
    osync__curl_t *curl = s->curl;
    osync__free(s);
    handle_closed(curl);
}

/* libcurl's wish about one socket. It says CURL_POLL_REMOVE before it closes the descriptor. */
static int on_curl_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *assigned) {
    osync__curl_t *curl = arg;
    watched_socket_t *s = assigned;
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (!s) return 0;
        uv_poll_stop(&s->poll);
        uv_close((uv_handle_t *)&s->poll, on_poll_closed);
        curl_multi_assign(curl->multi, fd, NULL);
        return 0;
    }
    if (!s) {
        s = osync__calloc(1, sizeof *s);
        if (!s) return -1;
        s->curl = curl;
        s->fd = fd;
        s->poll.data = s;
        if (uv_poll_init_socket(curl->loop, &s->poll, fd)) {
            osync__free(s);
            return -1;
        }
        curl->handles++;
        curl_multi_assign(curl->multi, fd, s);
    }
    int events = 0;
    if (what == CURL_POLL_IN || what == CURL_POLL_INOUT) events |= UV_READABLE;
    if (what == CURL_POLL_OUT || what == CURL_POLL_INOUT) events |= UV_WRITABLE;
    s->events = events;
    return uv_poll_start(&s->poll, events, on_poll) ? -1 : 0;
}

static int on_curl_timer(CURLM *multi, long timeout_ms, void *arg) {
    osync__curl_t *curl = arg;
    (void)multi;
    if (curl->closing) return 0;
    uv_timer_stop(&curl->timer);
    if (timeout_ms > 0) uv_timer_start(&curl->timer, on_timer, (uint64_t)timeout_ms, 0);
    if (timeout_ms == 0) uv_idle_start(&curl->at_once, on_at_once); /* not taken back: one turn too many is no harm */
    return 0;
}

int osync__curl_new(uv_loop_t *loop, osync__curl_t **out, osync_error_t *err) {
    *out = NULL;
    CURLcode rc = curl_global_init(CURL_GLOBAL_DEFAULT);
    if (rc) return osync__err(err, OSYNC_EIO, "libcurl cannot be initialised: %s", curl_easy_strerror(rc));
    osync__curl_t *curl = osync__calloc(1, sizeof *curl);
    if (curl) curl->multi = curl_multi_init();
    if (!curl || !curl->multi) {
        osync__free(curl);
        curl_global_cleanup();
        return osync__err(err, OSYNC_ENOMEM, "out of memory for a libcurl multi handle");
    }
    curl->loop = loop;
    uv_timer_init(loop, &curl->timer);
    uv_idle_init(loop, &curl->at_once);
    curl->timer.data = curl->at_once.data = curl;
    curl->handles = 2;
    curl_multi_setopt(curl->multi, CURLMOPT_SOCKETFUNCTION, on_curl_socket);
    curl_multi_setopt(curl->multi, CURLMOPT_SOCKETDATA, curl);
    curl_multi_setopt(curl->multi, CURLMOPT_TIMERFUNCTION, on_curl_timer);
    curl_multi_setopt(curl->multi, CURLMOPT_TIMERDATA, curl);
    *out = curl;
    return 0;
}

int osync__curl_start(osync__curl_t *curl, CURL *easy, osync__curl_cb cb, void *arg, osync_error_t *err) {
    if (curl->closing) return osync__err(err, OSYNC_ECLOSED, "the HTTP client is closed");
    transfer_t *t = osync__calloc(1, sizeof *t);
    if (!t) return osync__err(err, OSYNC_ENOMEM, "out of memory for an HTTP transfer");
    t->easy = easy;
    t->cb = cb;
    t->arg = arg;
    curl_easy_setopt(easy, CURLOPT_PRIVATE, t);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L); /* the process's signals are the embedder's */
    CURLMcode rc = curl_multi_add_handle(curl->multi, easy);
    if (rc) {
        curl_easy_setopt(easy, CURLOPT_PRIVATE, NULL);
        osync__free(t);
        return osync__err(err, OSYNC_EIO, "libcurl did not take an HTTP transfer: %s", curl_multi_strerror(rc));
    }
    DL_APPEND(curl->transfers, t);
    return 0;
}

void osync__curl_cancel(osync__curl_t *curl, CURL *easy) {
    transfer_t *t = transfer_of(easy);
    if (!t) return;
    curl_multi_remove_handle(curl->multi, easy);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, NULL);
    DL_DELETE(curl->transfers, t);
    if (t->failed) curl->failed--;
    osync__free(t);
}

void osync__curl_resume(osync__curl_t *curl, CURL *easy) {
    transfer_t *t = transfer_of(easy);
    if (!t || t->failed) return;
    /* It may call the write callback with what was held back, and the callback may refuse it. */
    curl->dispatch++;
    CURLcode rc = curl_easy_pause(easy, CURLPAUSE_CONT);
    curl->dispatch--;
    if (rc) {
        t->failed = rc;
        curl->failed++;
    }
    (void)on_curl_timer(curl->multi, 0, curl);
}

/* Cleaning up the multi handle closes the kept connections, which gives their uv_poll_t back through on_curl_socket. */
static void begin_close(osync__curl_t *curl) {
    curl_multi_cleanup(curl->multi);
    curl->multi = NULL;
    uv_close((uv_handle_t *)&curl->timer, on_own_closed);
    uv_close((uv_handle_t *)&curl->at_once, on_own_closed);
}

void osync__curl_close(osync__curl_t *curl, void (*cb)(void *arg), void *arg) {
    curl->closing = true;
    curl->closed_cb = cb;
    curl->closed_arg = arg;
    if (curl->dispatch == 0) begin_close(curl);
}
