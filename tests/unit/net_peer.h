/* For the tests of libosync/net: a plain socket as the other side of a loop that runs in the same thread, fixtures,
 * frames. */
#ifndef OSYNC_TESTS_NET_PEER_H
#define OSYNC_TESTS_NET_PEER_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <uv.h>

#include "base/buf.h"
#include "base/sys.h"
#include "net/rpc_frame.h"
#include "rpc_meta.pb-c.h"

enum { DEADLINE_MS = 30 * 1000 }; /* for what must happen; a test that gets there has failed */

typedef struct peer {
    int fd;
    uv_loop_t *loop;
    osync__buf_t in;
    bool eof;
} peer_t;

static inline void peer_open(peer_t *p, uv_loop_t *loop, int fd) {
    *p = (peer_t){.fd = fd, .loop = loop};
    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)),
                     0); /* pieces go out as they are sent */
    assert_int_equal(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK), 0);
}

static inline void peer_connect(peer_t *p, uv_loop_t *loop, int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    peer_open(p, loop, fd);
}

/* One turn of the loop, and what has come. */
static inline void peer_turn(peer_t *p) {
    uv_run(p->loop, UV_RUN_NOWAIT);
    while (!p->eof) {
        assert_int_equal(osync__buf_reserve(&p->in, 64 << 10), 0);
        ssize_t n = recv(p->fd, p->in.data + p->in.len, 64 << 10, 0);
        if (n > 0)
            p->in.len += (size_t)n;
        else if (n == 0 || errno != EAGAIN)
            p->eof = true;
        else
            break;
    }
}

static inline void pause_briefly(peer_t *p) {
    struct pollfd fds[2] = {{.fd = p->fd, .events = POLLIN}, {.fd = uv_backend_fd(p->loop), .events = POLLIN}};
    (void)poll(fds, p->eof ? 0 : 2, 1);
}

static inline void peer_send(peer_t *p, const void *data, size_t len) {
    uint64_t end = osync__mono_ms() + DEADLINE_MS;
    for (size_t sent = 0; sent < len;) {
        ssize_t n = send(p->fd, (const char *)data + sent, len - sent, MSG_NOSIGNAL);
        if (n > 0)
            sent += (size_t)n;
        else if (errno != EAGAIN)
            return; /* the other side has closed; the test sees it when it reads */
        else
            uv_run(p->loop, UV_RUN_NOWAIT);
        assert_true(osync__mono_ms() < end);
    }
}

/* Waits for n bytes; false if the connection ended before. */
static inline bool peer_wait(peer_t *p, size_t n) {
    uint64_t end = osync__mono_ms() + DEADLINE_MS;
    while (p->in.len < n && !p->eof) {
        peer_turn(p);
        if (p->in.len < n && !p->eof) pause_briefly(p);
        assert_true(osync__mono_ms() < end);
    }
    return p->in.len >= n;
}

static inline void peer_wait_eof(peer_t *p) {
    (void)peer_wait(p, SIZE_MAX);
    assert_true(p->eof);
}

static inline void peer_close(peer_t *p) {
    close(p->fd);
    osync__buf_free(&p->in);
}

static inline void load_fixture(const char *path, osync__buf_t *out) {
    osync_error_t err = {0};
    *out = (osync__buf_t){0};
    if (osync__read_file(path, 8 << 20, out, &err)) fail_msg("%s", err.message);
}

static inline size_t frame_size(const uint8_t *p) {
    return 12 + ((size_t)p[4] << 24 | (size_t)p[5] << 16 | (size_t)p[6] << 8 | p[7]);
}

static inline size_t frame_meta_size(const uint8_t *p) {
    return (size_t)p[8] << 24 | (size_t)p[9] << 16 | (size_t)p[10] << 8 | p[11];
}

/* Waits for a whole frame and takes it out of what came. */
static inline bool peer_frame(peer_t *p, osync__buf_t *out) {
    *out = (osync__buf_t){0};
    if (!peer_wait(p, 12)) return false;
    assert_memory_equal(p->in.data, "PRPC", 4);
    size_t n = frame_size(p->in.data);
    if (!peer_wait(p, n)) return false;
    assert_int_equal(osync__buf_append(out, p->in.data, n), 0);
    osync__buf_consume(&p->in, n);
    return true;
}

static inline Brpc__Policy__RpcMeta *frame_meta(const osync__buf_t *frame) {
    ProtobufCMessage *m = protobuf_c_message_unpack(&brpc__policy__rpc_meta__descriptor, NULL,
                                                    frame_meta_size(frame->data), frame->data + 12);
    assert_non_null(m);
    return (Brpc__Policy__RpcMeta *)m;
}

/* A frame of any meta and payload. */
static inline void make_frame(osync__buf_t *out, const Brpc__Policy__RpcMeta *meta, const void *payload, size_t len) {
    uint8_t head[12] = "PRPC";
    size_t meta_len = protobuf_c_message_get_packed_size(&meta->base);
    for (int i = 0; i < 4; i++) {
        head[4 + i] = (uint8_t)((meta_len + len) >> (24 - 8 * i));
        head[8 + i] = (uint8_t)(meta_len >> (24 - 8 * i));
    }
    assert_int_equal(osync__buf_append(out, head, 12), 0);
    assert_int_equal(osync__message_append(out, &meta->base), 0);
    assert_int_equal(osync__buf_append(out, payload, len), 0);
}

static inline void assert_bytes(const void *got, size_t got_len, const void *want, size_t want_len) {
    if (got_len != want_len || (got_len && memcmp(got, want, got_len) != 0)) {
        fprintf(stderr, "got %zu bytes:\n%.*s\nwant %zu bytes:\n%.*s\n", got_len, (int)got_len, (const char *)got,
                want_len, (int)want_len, (const char *)want);
        assert_int_equal(got_len, want_len);
        assert_memory_equal(got, want, want_len);
    }
}

/* Runs the loop until nothing is left in it, and closes it: a handle that was forgotten fails the test. */
static inline void loop_end(uv_loop_t *loop) {
    uv_run(loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(loop), 0);
}

#endif
