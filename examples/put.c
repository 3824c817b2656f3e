/* put: lines of a file, or of standard input, to HDFS or a local folder, each exactly once.
 *
 * What embedding a stream (osync/stream.h) takes: the position is the byte offset behind the last whole line, so that
 * after a kill the next run goes on where the committed files end. With -f it follows a file that grows.
 *
 *     cc put.c $(pkg-config --cflags --libs libosync libuv) -o put
 *     ./put -f -s clicks.db -n clicks /var/log/clicks.log hdfs://namenode/warehouse/clicks */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "osync/stream.h"

enum { BUFFER = 1 << 20, LOOK_AGAIN_MS = 200 };

typedef struct put {
    uv_loop_t loop;
    osync_stream_t *stream;
    uv_signal_t term, intr;
    uv_timer_t again;
    uv_fs_t read;
    int fd;
    bool seekable, follow;
    uint64_t piece; /* bytes that are read at once: not more than a file is to hold */
    bool reading;   /* a read is under way */
    bool started, stopping, failed;
    bool stale;       /* what the read under way brings is of no use: go on at `offset` */
    uint64_t offset;  /* of buffer[0] in the input */
    uint64_t skip;    /* bytes of a pipe that are committed already */
    size_t len, line; /* bytes in the buffer, and of them whole lines */
    char buffer[BUFFER];
} put_t;

static void read_more(put_t *p);

static void on_closed(void *arg) {
    put_t *p = arg;
    uv_close((uv_handle_t *)&p->term, NULL);
    uv_close((uv_handle_t *)&p->intr, NULL);
    uv_close((uv_handle_t *)&p->again, NULL);
    if (p->reading) exit(p->failed); /* a read of a pipe that may never end */
}

static void end(put_t *p, const char *message) {
    if (message) fprintf(stderr, "put: %s\n", message);
    p->failed = p->failed || message;
    p->stopping = true;
    osync_stream_close(p->stream, on_closed, p);
}

static void on_committed(void *arg, int status, const osync_error_t *err) {
    put_t *p = arg;
    osync_stream_totals_t t;
    if (status) return; /* on_trouble has said why; on_ready goes on, or this is the end */
    osync_stream_totals(p->stream, &t);
    printf("%" PRIu64 " lines, %" PRIu64 " bytes, %" PRIu64 " files\n", t.records, t.bytes, t.files);
    end(p, NULL);
}

static void finish(put_t *p) {
    int rc = osync_stream_commit(p->stream, on_committed, p);
    if (rc && (rc != OSYNC_EAGAIN || p->stopping)) end(p, "stopped before everything was committed");
}

static void on_taken(void *arg, int status, const osync_error_t *err) {
    put_t *p = arg;
    if (status) return; /* as above */
    p->offset += p->line;
    p->len -= p->line;
    memmove(p->buffer, p->buffer + p->line, p->len);
    if (p->stopping)
        finish(p);
    else
        read_more(p);
}

/* The position is text, so that a person can read it in a checkpoint. */
static void append(put_t *p) {
    char position[24];
    uint64_t lines = 0;
    for (size_t i = 0; i < p->line; i++) lines += p->buffer[i] == '\n';
    if (p->buffer[p->line - 1] != '\n') lines++;
    int n = snprintf(position, sizeof position, "%" PRIu64, p->offset + p->line);
    int rc = osync_stream_append(p->stream, p->buffer, p->line, lines, position, (size_t)n, on_taken, p);
    if (rc && rc != OSYNC_EAGAIN) end(p, osync_strerror(rc));
}

static void on_again(uv_timer_t *timer) {
    read_more(timer->data);
}

static void on_read(uv_fs_t *req) {
    put_t *p = req->data;
    ssize_t n = req->result;
    uv_fs_req_cleanup(req);
    p->reading = false;
    if (p->stopping) return;
    if (p->stale) {
        p->stale = false;
        read_more(p);
        return;
    }
    if (n < 0) {
        end(p, uv_strerror((int)n));
        return;
    }
    p->len += (size_t)n;
    size_t drop = p->skip < p->len ? (size_t)p->skip : p->len;
    p->skip -= drop;
    p->len -= drop;
    memmove(p->buffer, p->buffer + drop, p->len);
    p->line = p->len;
    while (p->line > 0 && p->buffer[p->line - 1] != '\n') p->line--;
    if (n == 0 && !p->follow) p->line = p->len; /* the last line may have no end */
    if (p->line > 0)
        append(p);
    else if (p->len == BUFFER)
        end(p, "a line is longer than 1 MiB");
    else if (n > 0)
        read_more(p);
    else if (p->follow)
        uv_timer_start(&p->again, on_again, LOOK_AGAIN_MS, 0);
    else
        finish(p);
}

static void read_more(put_t *p) {
    size_t room = BUFFER - p->len;
    uv_buf_t piece = uv_buf_init(p->buffer + p->len, (unsigned)(room < p->piece ? room : p->piece));
    p->read.data = p;
    p->reading = true;
    int rc =
        uv_fs_read(&p->loop, &p->read, p->fd, &piece, 1, p->seekable ? (int64_t)(p->offset + p->len) : -1, on_read);
    if (rc) end(p, uv_strerror(rc));
}

/* Also after trouble: what was appended behind `position` is gone. */
static void on_ready(void *arg, const void *position, size_t len) {
    put_t *p = arg;
    char text[24] = "0";
    if (p->stopping) {
        end(p, "stopped before everything was committed");
        return;
    }
    if (p->started && !p->seekable) {
        end(p, "the input can't be read again: start put with the same input once more");
        return;
    }
    if (len > 0 && len < sizeof text) memcpy(text, position, len);
    p->offset = strtoull(text, NULL, 10);
    p->skip = p->seekable ? 0 : p->offset;
    p->len = 0;
    p->started = true;
    uv_timer_stop(&p->again);
    fprintf(stderr, "put: goes on at byte %" PRIu64 "\n", p->offset);
    p->stale = p->reading;
    if (!p->reading) read_more(p);
}

static void on_trouble(void *arg, bool permanent, const osync_error_t *err) {
    put_t *p = arg;
    if (permanent || p->stopping)
        end(p, err->message);
    else
        fprintf(stderr, "put: waiting: %s\n", err->message);
}

/* SIGTERM: commits what was read. */
static void on_signal(uv_signal_t *handle, int number) {
    put_t *p = handle->data;
    bool again = p->stopping;
    p->stopping = true;
    uv_timer_stop(&p->again);
    if (again || !p->started)
        end(p, "stopped");
    else
        finish(p);
}

static int usage(void) {
    fprintf(stderr, "usage: put [-f] [-n NAME] [-s STATE] [-x SUFFIX] [-b BYTES] [-i SECONDS] FILE DEST\n"
                    "  FILE        to read, - is standard input; -f: and to follow as it grows\n"
                    "  DEST        hdfs://host/path, webhdfs://host:port/path, file:///path\n"
                    "  -n NAME     of the stream, in every file's name (put)\n"
                    "  -s STATE    the file that keeps where it stands (./NAME.db)\n"
                    "  -x SUFFIX   of the files' names (.txt)\n"
                    "  -b BYTES    a file is committed when it holds as much (128 MiB), or\n"
                    "  -i SECONDS  as long after its first line (60)\n");
    return 2;
}

int main(int argc, char **argv) {
    static put_t put;
    put_t *p = &put;
    char state[4096] = "";
    osync_error_t err = {0};
    osync_stream_config_t c;
    osync_stream_config_init(&c, sizeof c);
    c.name = "put";
    c.suffix = ".txt";
    for (int o; (o = getopt(argc, argv, "fn:s:x:b:i:")) != -1;) {
        if (o == 'f')
            p->follow = true;
        else if (o == 'n')
            c.name = optarg;
        else if (o == 's')
            c.state = optarg;
        else if (o == 'x')
            c.suffix = optarg;
        else if (o == 'b')
            c.roll_bytes = strtoull(optarg, NULL, 10);
        else if (o == 'i')
            c.roll_interval_ms = (uint32_t)(strtoul(optarg, NULL, 10) * 1000);
        else
            return usage();
    }
    if (argc - optind != 2) return usage();
    const char *file = argv[optind];
    (void)snprintf(state, sizeof state, "%s.db", c.name);
    if (!c.state) c.state = state;
    c.dest = argv[optind + 1];
    p->piece = c.roll_bytes;
    c.on_ready = on_ready;
    c.on_trouble = on_trouble;
    c.arg = p;
    p->fd = strcmp(file, "-") == 0 ? STDIN_FILENO : open(file, O_RDONLY | O_CLOEXEC);
    if (p->fd < 0) {
        fprintf(stderr, "put: %s: %s\n", file, strerror(errno));
        return 1;
    }
    p->seekable = lseek(p->fd, 0, SEEK_CUR) == 0;

    uv_loop_init(&p->loop);
    uv_signal_init(&p->loop, &p->term);
    uv_signal_init(&p->loop, &p->intr);
    uv_timer_init(&p->loop, &p->again);
    p->term.data = p->intr.data = p->again.data = p;
    if (osync_stream_open(&p->stream, &p->loop, &c, &err)) {
        fprintf(stderr, "put: %s\n", err.message);
        p->failed = true;
        on_closed(p);
    } else {
        uv_signal_start(&p->term, on_signal, SIGTERM);
        uv_signal_start(&p->intr, on_signal, SIGINT);
    }
    uv_run(&p->loop, UV_RUN_DEFAULT);
    return p->failed || uv_loop_close(&p->loop) != 0;
}
