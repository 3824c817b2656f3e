/* custom: a sink and a checkpoint of one's own, and a stream on both.
 *
 * The sink passes everything on to another sink, no faster than so many bytes a second. The checkpoint is a plain file
 * that is replaced by a rename. The program puts a few records through them, is interrupted in the middle, goes on, and
 * checks that each record is there once.
 *
 *     cc custom.c $(pkg-config --cflags --libs libosync libuv) -o custom && ./custom FOLDER */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "osync/checkpoint.h"
#include "osync/sink.h"
#include "osync/stream.h"

static int error(osync_error_t *err, int code, const char *what, const char *why) {
    err->code = code;
    (void)snprintf(err->message, sizeof err->message, "%.800s: %s", what, why);
    return code;
}

/* ---- the sink ---- */

typedef struct throttle {
    osync_sink_t head; /* first, so that a pointer to one is a pointer to the other */
    osync_sink_t *inner;
    uv_loop_t *loop;
    uint64_t bytes_per_s, bytes;
    void (*closed)(void *arg);
    void *closed_arg;
} throttle_t;

typedef struct throttled_file {
    osync_sink_file_t head;
    osync_sink_file_t *inner;
    uv_timer_t pause;
    size_t len; /* of the write under way */
    osync_sink_cb write_cb, end_cb;
    void *write_arg, *end_arg;
    int status; /* of the end */
    osync_error_t err;
} throttled_file_t;

static osync_sink_t *inner_of(osync_sink_t *sink) {
    return ((throttle_t *)sink)->inner;
}

static void answer_write(throttled_file_t *f, int status, const osync_error_t *err) {
    osync_sink_cb cb = f->write_cb;
    f->write_cb = NULL;
    if (cb) cb(f->write_arg, status, err);
}

/* The memory of a timer is libuv's until it is closed; the callback of the end comes after that. */
static void on_pause_closed(uv_handle_t *handle) {
    throttled_file_t *f = handle->data, ended = *f;
    free(f);
    if (ended.end_cb) ended.end_cb(ended.end_arg, ended.status, ended.status ? &ended.err : NULL);
}

static void on_ended(void *arg, int status, const osync_error_t *err) {
    throttled_file_t *f = arg;
    osync_error_t canceled;
    /* A write that only waited for its pause was aborted: its callback comes first. */
    if (f->write_cb) answer_write(f, error(&canceled, OSYNC_ECANCELED, "write", "aborted"), &canceled);
    f->status = status;
    if (err) f->err = *err;
    uv_close((uv_handle_t *)&f->pause, on_pause_closed);
}

static int throttle_create(osync_sink_t *sink, const char *path, osync_sink_file_t **out, osync_sink_cb cb, void *arg) {
    throttled_file_t *f = calloc(1, sizeof *f);
    if (!f) return OSYNC_ENOMEM;
    f->head.sink = sink;
    uv_timer_init(((throttle_t *)sink)->loop, &f->pause);
    f->pause.data = f;
    int rc = inner_of(sink)->ops->create(inner_of(sink), path, &f->inner, cb, arg);
    if (rc)
        uv_close((uv_handle_t *)&f->pause, on_pause_closed);
    else
        *out = &f->head;
    return rc;
}

static void on_pause(uv_timer_t *timer) {
    answer_write(timer->data, 0, NULL);
}

static void on_written(void *arg, int status, const osync_error_t *err) {
    throttled_file_t *f = arg;
    throttle_t *t = (throttle_t *)f->head.sink;
    if (status) {
        answer_write(f, status, err);
        return;
    }
    t->bytes += f->len;
    /* The callback is the backpressure: who waits for it writes no faster. */
    uv_timer_start(&f->pause, on_pause, f->len * 1000 / t->bytes_per_s, 0);
}

static int throttle_write(osync_sink_file_t *file, const void *data, size_t len, osync_sink_cb cb, void *arg) {
    throttled_file_t *f = (throttled_file_t *)file;
    int rc = f->inner->sink->ops->write(f->inner, data, len, on_written, f);
    if (rc) return rc;
    f->len = len;
    f->write_cb = cb;
    f->write_arg = arg;
    return 0;
}

static int throttle_finish(osync_sink_file_t *file, osync_sink_cb cb, void *arg) {
    throttled_file_t *f = (throttled_file_t *)file;
    int rc = f->inner->sink->ops->finish(f->inner, on_ended, f);
    if (rc) return rc;
    f->end_cb = cb;
    f->end_arg = arg;
    return 0;
}

static void throttle_abort(osync_sink_file_t *file, osync_sink_cb cb, void *arg) {
    throttled_file_t *f = (throttled_file_t *)file;
    uv_timer_stop(&f->pause);
    f->end_cb = cb;
    f->end_arg = arg;
    f->inner->sink->ops->abort(f->inner, on_ended, f);
}

static int pass_mkdirs(osync_sink_t *sink, const char *path, osync_sink_cb cb, void *arg) {
    return inner_of(sink)->ops->mkdirs(inner_of(sink), path, cb, arg);
}

static int pass_stat(osync_sink_t *sink, const char *path, osync_sink_stat_cb cb, void *arg) {
    return inner_of(sink)->ops->stat(inner_of(sink), path, cb, arg);
}

static int pass_set_label(osync_sink_t *sink, const char *path, const void *label, size_t len, osync_sink_cb cb,
                          void *arg) {
    return inner_of(sink)->ops->set_label(inner_of(sink), path, label, len, cb, arg);
}

static int pass_get_label(osync_sink_t *sink, const char *path, osync_sink_label_cb cb, void *arg) {
    return inner_of(sink)->ops->get_label(inner_of(sink), path, cb, arg);
}

static int pass_rename(osync_sink_t *sink, const char *from, const char *to, osync_sink_cb cb, void *arg) {
    return inner_of(sink)->ops->rename(inner_of(sink), from, to, cb, arg);
}

static int pass_remove(osync_sink_t *sink, const char *path, bool recursive, osync_sink_cb cb, void *arg) {
    return inner_of(sink)->ops->remove(inner_of(sink), path, recursive, cb, arg);
}

static int pass_list(osync_sink_t *sink, const char *path, osync_sink_list_cb cb, void *arg) {
    return inner_of(sink)->ops->list(inner_of(sink), path, cb, arg);
}

static int pass_barrier(osync_sink_t *sink, const char *path, osync_sink_cb cb, void *arg) {
    return inner_of(sink)->ops->barrier(inner_of(sink), path, cb, arg);
}

static int pass_read(osync_sink_t *sink, const char *path, uint64_t offset, size_t len, osync_sink_read_cb cb,
                     void *arg) {
    return inner_of(sink)->ops->read(inner_of(sink), path, offset, len, cb, arg);
}

static void on_inner_closed(void *arg) {
    throttle_t *t = arg, closed = *t;
    free(t);
    closed.closed(closed.closed_arg);
}

/* Every file of it has been finished or aborted: it is closed after the streams that use it. */
static void throttle_close(osync_sink_t *sink, void (*cb)(void *arg), void *arg) {
    throttle_t *t = (throttle_t *)sink;
    t->closed = cb;
    t->closed_arg = arg;
    t->inner->ops->close(t->inner, on_inner_closed, t);
}

static const osync_sink_ops_t throttle_ops = {.size = sizeof throttle_ops,
                                              .mkdirs = pass_mkdirs,
                                              .create = throttle_create,
                                              .write = throttle_write,
                                              .finish = throttle_finish,
                                              .abort = throttle_abort,
                                              .stat = pass_stat,
                                              .set_label = pass_set_label,
                                              .get_label = pass_get_label,
                                              .rename = pass_rename,
                                              .remove = pass_remove,
                                              .list = pass_list,
                                              .barrier = pass_barrier,
                                              .read = pass_read,
                                              .close = throttle_close};

/* Takes `inner` over. */
static int throttle_new(throttle_t **out, uv_loop_t *loop, osync_sink_t *inner, uint64_t bytes_per_s) {
    throttle_t *t = calloc(1, sizeof *t);
    if (!t) return OSYNC_ENOMEM;
    *t = (throttle_t){.head = {&throttle_ops}, .inner = inner, .loop = loop, .bytes_per_s = bytes_per_s};
    *out = t;
    return 0;
}

/* ---- the checkpoint ---- */

/* Keys and values in memory; each change writes all of them to a new file, a line "key hex" for each, and renames it
 * over the old one. It holds a lock for as long as it is open: one owner at a time. */
typedef struct entry {
    char *key;
    unsigned char *value;
    size_t len;
    struct entry *next;
} entry_t;

typedef struct plain_store {
    osync_checkpoint_t head;
    uv_loop_t *loop;
    char path[4096], next_path[4200];
    int lock;
    entry_t *entries; /* in key order */
    size_t calls;     /* that haven't been answered */
    struct call *end; /* kept for the close, which must not fail */
    void (*closed)(void *arg);
    void *closed_arg;
} plain_store_t;

/* A call's answer, in a turn of its own: callbacks never come from inside a call. */
typedef struct call {
    uv_timer_t turn;
    plain_store_t *store;
    char *key; /* of a get, or the prefix of a list */
    osync_checkpoint_cb cas_cb;
    osync_checkpoint_get_cb get_cb;
    osync_checkpoint_list_cb list_cb;
    void *arg;
    int status;
    osync_error_t err;
} call_t;

/* The place of `key` in the list: *at is its entry, or what comes after it, or NULL. */
static entry_t **place(plain_store_t *s, const char *key) {
    entry_t **at = &s->entries;
    while (*at && strcmp((*at)->key, key) < 0) at = &(*at)->next;
    return at;
}

static entry_t *find(plain_store_t *s, const char *key) {
    entry_t *e = *place(s, key);
    return e && strcmp(e->key, key) == 0 ? e : NULL;
}

static void entry_free(entry_t *e) {
    if (e) free(e->key);
    if (e) free(e->value);
    free(e);
}

static entry_t *entry_new(const char *key, const void *value, size_t len) {
    entry_t *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    e->key = strdup(key);
    e->value = malloc(len + 1);
    e->len = len;
    if (e->key && e->value) {
        memcpy(e->value, value, len);
        return e;
    }
    entry_free(e);
    return NULL;
}

static void store_free(plain_store_t *s) {
    for (entry_t *e = s->entries, *next; e; e = next) {
        next = e->next;
        entry_free(e);
    }
    if (s->lock >= 0) close(s->lock);
    free(s->end);
    free(s);
}

static int fsync_folder(const char *path) {
    char copy[4096];
    (void)snprintf(copy, sizeof copy, "%s", path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return -1;
    int rc = fsync(fd);
    close(fd);
    return rc;
}

/* Whether all of it is on the disk. */
static int save(plain_store_t *s, osync_error_t *err) {
    FILE *f = fopen(s->next_path, "we");
    if (!f) return error(err, OSYNC_EIO, s->next_path, strerror(errno));
    for (const entry_t *e = s->entries; e; e = e->next) {
        fprintf(f, "%s ", e->key);
        for (size_t i = 0; i < e->len; i++) fprintf(f, "%02x", e->value[i]);
        fputc('\n', f);
    }
    int rc = fflush(f) || ferror(f) || fsync(fileno(f));
    if (fclose(f) || rc || rename(s->next_path, s->path) || fsync_folder(s->path))
        return error(err, OSYNC_EIO, s->path, strerror(errno));
    return 0;
}

static int load(plain_store_t *s, osync_error_t *err) {
    char *line = NULL;
    size_t size = 0;
    int rc = 0;
    FILE *f = fopen(s->path, "re");
    if (!f) return errno == ENOENT ? 0 : error(err, OSYNC_EIO, s->path, strerror(errno));
    for (ssize_t n; !rc && (n = getline(&line, &size, f)) > 0;) {
        char *hex = strchr(line, ' ');
        if (!hex || line[n - 1] != '\n') {
            rc = error(err, OSYNC_ECORRUPT, s->path, "a line isn't \"key hex\"");
            break;
        }
        *hex++ = 0;
        entry_t *e = entry_new(line, hex, (size_t)(line + n - 1 - hex) / 2);
        for (size_t i = 0; e && i < e->len; i++) {
            char digits[3] = {hex[2 * i], hex[2 * i + 1], 0};
            e->value[i] = (unsigned char)strtoul(digits, NULL, 16);
        }
        if (e) {
            entry_t **at = place(s, line);
            e->next = *at;
            *at = e;
        } else {
            rc = error(err, OSYNC_ENOMEM, s->path, "out of memory");
        }
    }
    free(line);
    (void)fclose(f);
    return rc;
}

static void end_if_idle(plain_store_t *s) {
    if (!s->closed || s->calls > 0) return;
    void (*closed)(void *) = s->closed;
    void *arg = s->closed_arg;
    store_free(s);
    closed(arg);
}

static void on_turn_closed(uv_handle_t *handle) {
    call_t *c = handle->data;
    plain_store_t *s = c->store;
    free(c->key);
    free(c);
    s->calls--;
    end_if_idle(s);
}

static void answer_list(call_t *c) {
    size_t n = 0, prefix = strlen(c->key);
    osync_checkpoint_entry_t *found = NULL;
    for (const entry_t *e = c->store->entries; e; e = e->next) n++;
    found = calloc(n + 1, sizeof *found);
    n = 0;
    for (const entry_t *e = c->store->entries; found && e; e = e->next)
        if (strncmp(e->key, c->key, prefix) == 0) found[n++] = (osync_checkpoint_entry_t){e->key, e->value, e->len};
    if (!found) c->status = error(&c->err, OSYNC_ENOMEM, c->key, "out of memory");
    c->list_cb(c->arg, c->status, found, n, c->status ? &c->err : NULL);
    free(found);
}

static void on_turn(uv_timer_t *timer) {
    call_t *c = timer->data;
    if (c->cas_cb) {
        c->cas_cb(c->arg, c->status, c->status ? &c->err : NULL);
    } else if (c->list_cb) {
        answer_list(c);
    } else {
        const entry_t *e = find(c->store, c->key);
        if (!e) c->status = error(&c->err, OSYNC_ENOENT, c->key, "not found");
        c->get_cb(c->arg, c->status, e ? e->value : NULL, e ? e->len : 0, e ? NULL : &c->err);
    }
    uv_close((uv_handle_t *)&c->turn, on_turn_closed);
}

static call_t *call_new(plain_store_t *s, const char *key, void *arg) {
    call_t *c = calloc(1, sizeof *c);
    if (c) c->key = strdup(key);
    if (!c || !c->key) {
        free(c);
        return NULL;
    }
    c->store = s;
    c->arg = arg;
    uv_timer_init(s->loop, &c->turn);
    c->turn.data = c;
    uv_timer_start(&c->turn, on_turn, 0, 0);
    s->calls++;
    return c;
}

static int store_get(osync_checkpoint_t *store, const char *key, osync_checkpoint_get_cb cb, void *arg) {
    call_t *c = call_new((plain_store_t *)store, key, arg);
    if (!c) return OSYNC_ENOMEM;
    c->get_cb = cb;
    return 0;
}

static int store_list(osync_checkpoint_t *store, const char *prefix, osync_checkpoint_list_cb cb, void *arg) {
    call_t *c = call_new((plain_store_t *)store, prefix, arg);
    if (!c) return OSYNC_ENOMEM;
    c->list_cb = cb;
    return 0;
}

/* The whole change happens here, at once: of two that expect the same value, the second finds another one. */
static int store_cas(osync_checkpoint_t *store, const char *key, const void *expected, size_t expected_len,
                     const void *value, size_t len, osync_checkpoint_cb cb, void *arg) {
    plain_store_t *s = (plain_store_t *)store;
    entry_t **at = place(s, key);
    entry_t *old = find(s, key), *after = old ? old->next : *at, *new = value ? entry_new(key, value, len) : NULL;
    bool equal = expected ? old && old->len == expected_len && memcmp(old->value, expected, expected_len) == 0 : !old;
    call_t *c = value && !new ? NULL : call_new(s, key, arg);
    if (!c) {
        entry_free(new);
        return OSYNC_ENOMEM;
    }
    c->cas_cb = cb;
    if (!equal) {
        c->status = error(&c->err, OSYNC_ECONFLICT, key, "holds another value");
        entry_free(new);
        return 0;
    }
    if (new) new->next = after;
    *at = new ? new : after;
    c->status = save(s, &c->err);
    if (!c->status) {
        entry_free(old);
    } else { /* what is on the disk is unknown, but the next change writes all of what is here */
        *at = old ? old : after;
        entry_free(new);
    }
    return 0;
}

static void store_close(osync_checkpoint_t *store, void (*cb)(void *arg), void *arg) {
    plain_store_t *s = (plain_store_t *)store;
    call_t *c = s->end;
    s->end = NULL;
    s->closed = cb;
    s->closed_arg = arg;
    s->calls++;
    c->store = s;
    c->turn.data = c;
    uv_timer_init(s->loop, &c->turn);
    uv_close((uv_handle_t *)&c->turn, on_turn_closed);
}

static const osync_checkpoint_ops_t store_ops = {
    .size = sizeof store_ops, .get = store_get, .cas = store_cas, .list = store_list, .close = store_close};

static int plain_store_new(plain_store_t **out, uv_loop_t *loop, const char *path, osync_error_t *err) {
    char lock[4200];
    plain_store_t *s = calloc(1, sizeof *s);
    call_t *end = calloc(1, sizeof *end);
    if (!s || !end) {
        free(s);
        free(end);
        return error(err, OSYNC_ENOMEM, path, "out of memory");
    }
    *s = (plain_store_t){.head = {&store_ops}, .loop = loop, .end = end};
    (void)snprintf(s->path, sizeof s->path, "%s", path);
    (void)snprintf(s->next_path, sizeof s->next_path, "%s.next", s->path);
    (void)snprintf(lock, sizeof lock, "%s.lock", s->path);
    s->lock = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    int rc = 0;
    if (s->lock < 0)
        rc = error(err, OSYNC_EIO, lock, strerror(errno));
    else if (flock(s->lock, LOCK_EX | LOCK_NB))
        rc = error(err, OSYNC_ECONFLICT, path, "another process has it open");
    else
        rc = load(s, err);
    if (rc)
        store_free(s);
    else
        *out = s;
    return rc;
}

/* ---- a stream on both ---- */

enum { BYTES_PER_S = 10000, LAST = 40 };

typedef struct program {
    uv_loop_t loop;
    osync_stream_t *stream;
    throttle_t *sink;
    plain_store_t *store;
    int next, last; /* records */
    bool commit;    /* at the last one; else the stream is closed in the middle of a file */
    int began;      /* with this record */
    uint64_t bytes;
    char record[32];
} program_t;

static void die(const char *what) {
    fprintf(stderr, "custom: %s\n", what);
    exit(1);
}

static void on_nothing(void *arg) {}

static void on_stream_closed(void *arg) {
    program_t *p = arg;
    p->bytes = p->sink->bytes;
    p->sink->head.ops->close(&p->sink->head, on_nothing, NULL);
    p->store->head.ops->close(&p->store->head, on_nothing, NULL);
}

static void on_committed(void *arg, int status, const osync_error_t *err) {
    program_t *p = arg;
    if (status) die(err->message);
    osync_stream_close(p->stream, on_stream_closed, p);
}

static void append(program_t *p);

static void on_taken(void *arg, int status, const osync_error_t *err) {
    program_t *p = arg;
    if (status) die(err->message);
    if (p->next < p->last)
        append(p);
    else if (!p->commit)
        osync_stream_close(p->stream, on_stream_closed, p);
    else if (osync_stream_commit(p->stream, on_committed, p))
        die("commit");
}

/* The position is the record's number: here, an int as it is in memory. */
static void append(program_t *p) {
    p->next++;
    int n = snprintf(p->record, sizeof p->record, "record %d\n", p->next);
    if (osync_stream_append(p->stream, p->record, (size_t)n, 1, &p->next, sizeof p->next, on_taken, p)) die("append");
}

static void on_ready(void *arg, const void *position, size_t len) {
    program_t *p = arg;
    p->next = 0;
    if (len == sizeof p->next) memcpy(&p->next, position, len);
    p->began = p->next + 1;
    append(p);
}

static void on_trouble(void *arg, bool permanent, const osync_error_t *err) {
    die(err->message);
}

/* Opens everything, puts records up to `last`, closes everything. */
static void run(program_t *p, const char *folder, int last, bool commit) {
    char out[2048], state[2048];
    osync_error_t err = {0};
    osync_sink_t *files = NULL;
    plain_store_t *second = NULL;
    (void)snprintf(out, sizeof out, "%s/out", folder);
    (void)snprintf(state, sizeof state, "%s/positions", folder);
    p->last = last;
    p->commit = commit;
    uv_loop_init(&p->loop);
    if (osync_file_sink_new(&files, &p->loop, 2, &err) || throttle_new(&p->sink, &p->loop, files, BYTES_PER_S) ||
        plain_store_new(&p->store, &p->loop, state, &err))
        die(err.message);
    if (plain_store_new(&second, &p->loop, state, &err) != OSYNC_ECONFLICT) die("two owners of one checkpoint");
    osync_stream_config_t c;
    osync_stream_config_init(&c, sizeof c);
    c.dest = out;
    c.name = "records";
    c.sink = &p->sink->head;
    c.checkpoint = &p->store->head;
    c.on_ready = on_ready;
    c.on_trouble = on_trouble;
    c.arg = p;
    if (osync_stream_open(&p->stream, &p->loop, &c, &err)) die(err.message);
    uv_run(&p->loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&p->loop)) die("something was left open");
}

static void check(const char *folder) {
    char path[4096], line[64], expected[64];
    int n = 0;
    for (int file = 0; file < 2; file++) {
        (void)snprintf(path, sizeof path, "%s/out/records-%010d", folder, file);
        FILE *f = fopen(path, "re");
        if (!f) die(path);
        while (fgets(line, sizeof line, f)) {
            (void)snprintf(expected, sizeof expected, "record %d\n", ++n);
            if (strcmp(line, expected) != 0) die("a record is lost, or there twice");
        }
        (void)fclose(f);
    }
    if (n != LAST) die("records are missing at the end");
}

int main(int argc, char **argv) {
    static program_t p;
    char folder[1024];
    if (argc != 2 || !realpath(argv[1], folder)) {
        fprintf(stderr, "usage: custom FOLDER (an empty one)\n");
        return 2;
    }
    run(&p, folder, LAST / 2, true);
    if (p.began != 1) die("it did not begin at the beginning");
    run(&p, folder, LAST - 1, false); /* as if it were killed */
    if (p.began != LAST / 2 + 1) die("it did not go on after what was committed");
    uint64_t before = uv_hrtime();
    run(&p, folder, LAST, true);
    if (p.began != LAST / 2 + 1) die("what wasn't committed isn't gone");
    if ((uv_hrtime() - before) / 1000000 + LAST < p.bytes * 1000 / BYTES_PER_S) die("it was too fast");
    check(folder);
    printf("custom: %d records, each once\n", LAST);
    return 0;
}
