/* sidecar: a process with a loop and tables of its own that has a collector inside.
 *
 * What embedding a collector (osync/collector.h) with a table source (osync/source.h) takes. The tables are disk tables
 * below one folder: <tables>/<tid>_<pid>/{snapshot,binlog} as OpenMLDB writes them, and beside them table_meta.pb, the
 * table's serialized api::TableMeta. No TabletServer is asked about them. The keys are those of osync-collectord.
 *
 *     cc sidecar.c $(pkg-config --cflags --libs libosync libuv) -o sidecar
 *     ./sidecar /data/tables --endpoint=10.0.0.7:9990 --zk_cluster=zk:2181 --collector_datadir=/data/osync */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <uv.h>

#include "osync/collector.h"
#include "osync/config.h"
#include "osync/log.h"

enum { MAX_META = 16 << 20 /* bytes of a table_meta.pb */ };

/* ---- the table source ---- */

/* A question, answered by way of libuv's pool: looking at files may block, and no callback may come from inside the
 * call that asks. */
typedef struct question {
    uv_work_t work;
    struct question *next, **prev;
    osync_source_files_cb files_cb; /* one of the two */
    osync_source_meta_cb meta_cb;
    void *arg;
    osync_error_t err; /* code 0: none */
    char snapshot[PATH_MAX], binlog[PATH_MAX], meta_path[PATH_MAX];
    char *meta;
    size_t meta_len;
} question_t;

typedef struct folder_source {
    osync_source_t head; /* first, so that a pointer to one is a pointer to the other */
    uv_loop_t *loop;
    char tables[PATH_MAX / 2]; /* so that what is below is no longer than PATH_MAX */
    question_t *questions;     /* that are open */
} folder_source_t;

static void fail(question_t *q, const char *what, const char *path) {
    /* Not found is for good, until the partition is handed out anew; anything else is tried again. */
    q->err.code = errno == ENOENT ? OSYNC_ENOENT : OSYNC_EIO;
    (void)snprintf(q->err.message, sizeof q->err.message, "%s %.900s: %s", what, path, strerror(errno));
}

static void find_files(question_t *q) {
    struct stat st;
    if (stat(q->binlog, &st)) fail(q, "no log", q->binlog);
}

/* One that is empty or cut short is none, and the collector says so. */
static void read_meta(question_t *q) {
    FILE *f = fopen(q->meta_path, "rb");
    if (f) q->meta = malloc(MAX_META);
    if (q->meta) q->meta_len = fread(q->meta, 1, MAX_META, f);
    if (!q->meta || ferror(f)) fail(q, "can't read", q->meta_path);
    if (f) fclose(f);
}

static void on_work(uv_work_t *work) {
    question_t *q = work->data;
    if (q->files_cb)
        find_files(q);
    else
        read_meta(q);
}

static void on_worked(uv_work_t *work, int status) {
    question_t *q = work->data;
    osync_source_files_t files = {.size = sizeof files, .snapshot_dir = q->snapshot, .binlog_dir = q->binlog};
    *q->prev = q->next;
    if (q->next) q->next->prev = q->prev;
    if (status == UV_ECANCELED) {
        q->err.code = OSYNC_ECANCELED;
        (void)snprintf(q->err.message, sizeof q->err.message, "canceled");
    }
    int rc = q->err.code;
    if (q->files_cb)
        q->files_cb(q->arg, rc, rc ? NULL : &files, rc ? &q->err : NULL);
    else
        q->meta_cb(q->arg, rc, q->meta, rc ? 0 : q->meta_len, rc ? &q->err : NULL);
    free(q->meta);
    free(q);
}

static int ask(osync_source_t *source, const osync_source_partition_t *p, osync_source_files_cb files_cb,
               osync_source_meta_cb meta_cb, void *arg) {
    folder_source_t *s = (folder_source_t *)source;
    question_t *q = calloc(1, sizeof *q);
    if (!q) return OSYNC_ENOMEM;
    q->files_cb = files_cb;
    q->meta_cb = meta_cb;
    q->arg = arg;
    q->work.data = q;
    (void)snprintf(q->snapshot, sizeof q->snapshot, "%s/%u_%u/snapshot", s->tables, p->tid, p->pid);
    (void)snprintf(q->binlog, sizeof q->binlog, "%s/%u_%u/binlog", s->tables, p->tid, p->pid);
    (void)snprintf(q->meta_path, sizeof q->meta_path, "%s/%u_%u/table_meta.pb", s->tables, p->tid, p->pid);
    if (uv_queue_work(s->loop, &q->work, on_work, on_worked)) {
        free(q);
        return OSYNC_EAGAIN;
    }
    q->next = s->questions;
    q->prev = &s->questions;
    if (q->next) q->next->prev = &q->next;
    s->questions = q;
    return 0;
}

static int source_files(osync_source_t *source, const osync_source_partition_t *p, osync_source_files_cb cb,
                        void *arg) {
    return ask(source, p, cb, NULL, arg);
}

static int source_meta(osync_source_t *source, const osync_source_partition_t *p, osync_source_meta_cb cb, void *arg) {
    return ask(source, p, NULL, cb, arg);
}

/* One that is being worked on comes to its end by itself. */
static void source_cancel(osync_source_t *source, void *arg) {
    for (question_t *q = ((folder_source_t *)source)->questions; q; q = q->next)
        if (q->arg == arg) (void)uv_cancel((uv_req_t *)&q->work);
}

static const osync_source_ops_t source_ops = {
    .size = sizeof(osync_source_ops_t), .files = source_files, .meta = source_meta, .cancel = source_cancel};

/* ---- the process ---- */

typedef struct sidecar {
    uv_loop_t loop;
    uv_signal_t term, intr;
    folder_source_t source;
    osync_collector_t *collector;
} sidecar_t;

/* What is left keeps the loop alive until it has ended, and no longer. */
static void end(sidecar_t *s) {
    uv_close((uv_handle_t *)&s->term, NULL); /* a second signal kills */
    uv_close((uv_handle_t *)&s->intr, NULL);
    if (s->collector) osync_collector_close(s->collector, NULL, NULL);
}

static void on_signal(uv_signal_t *signal, int number) {
    (void)number;
    end(signal->data);
}

static int set_keys(osync_config_t *config, int argc, char **argv, osync_error_t *err) {
    int rc = 0;
    for (int i = 2; !rc && i < argc; i++) {
        char *key = argv[i] + strspn(argv[i], "-"), *value = strchr(key, '=');
        if (value) *value++ = 0;
        rc = osync_config_set(config, key, value, "command line", err);
    }
    return rc ? rc : osync_config_check(config, err);
}

static int start(sidecar_t *s, osync_config_t *config, osync_error_t *err) {
    osync_collector_config_t c = *osync_config_collector(config);
    c.source = &s->source.head;
    int rc = osync_collector_new(&s->collector, &s->loop, &c, err);
    return rc ? rc : osync_collector_start(s->collector, err);
}

int main(int argc, char **argv) {
    static sidecar_t s;
    osync_error_t err = {0};
    osync_config_t *config = NULL;
    char real[PATH_MAX];
    if (argc < 2 || argv[1][0] == '-') {
        bool help = argc == 2 && !strcmp(argv[1], "--help");
        fprintf(help ? stdout : stderr, "usage: sidecar TABLES [--key=value ...], keys as of osync-collectord\n");
        return help ? EXIT_SUCCESS : 2;
    }
    if (!realpath(argv[1], real)) {
        fprintf(stderr, "sidecar: %s: %s\n", argv[1], strerror(errno));
        return 2;
    }
    if (strlen(real) >= sizeof s.source.tables) {
        fprintf(stderr, "sidecar: %s: this path is too long\n", real);
        return 2;
    }
    s.source = (folder_source_t){.head.ops = &source_ops, .loop = &s.loop};
    memcpy(s.source.tables, real, strlen(real));
    signal(SIGPIPE, SIG_IGN); /* libuv writes to sockets that the other side may have closed */
    uv_loop_init(&s.loop);
    uv_signal_init(&s.loop, &s.term);
    uv_signal_init(&s.loop, &s.intr);
    s.term.data = s.intr.data = &s;
    uv_signal_start(&s.term, on_signal, SIGTERM);
    uv_signal_start(&s.intr, on_signal, SIGINT);

    int rc = osync_config_new(&config, OSYNC_CONFIG_COLLECTOR, &err);
    if (!rc) rc = set_keys(config, argc, argv, &err);
    if (!rc) osync_log_set(osync_log_stderr, NULL, osync_config_log_level(config));
    if (!rc) rc = start(&s, config, &err);
    if (rc) {
        fprintf(stderr, "sidecar: %s\n", err.message);
        end(&s);
    }
    osync_config_free(config);
    uv_run(&s.loop, UV_RUN_DEFAULT);
    uv_loop_close(&s.loop);
    return rc ? EXIT_FAILURE : EXIT_SUCCESS;
}
