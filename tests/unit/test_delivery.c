/* What delivery promises: whatever fails, whenever, and whoever goes on although he is dead, each byte is published
 * once, in order.
 *
 * Most tests run against a world in memory, a sink and a store whose every request can be refused, be done without an
 * answer, be done late, twice, or never be answered at all. The world writes down every publication, so a consumer's
 * removal hides nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utlist.h>

#include "base/error.h"
#include "base/sys.h"
#include "delivery/delivery.h"
#include "delivery/record.h"

#define TASK  "5f0c7a52-8c4e-4f1e-9a53-0d8f6b1c2d3e"
#define KEY   "part/" TASK "/3"
#define NO_ID "00000000000000000000000000000000"

enum { ROWS = 20, MAX_PLAN = 64, MAX_FILES = 64 };

/* The world */

enum kind {
    MKDIRS,
    CREATE,
    WRITE,
    FINISH,
    ABORT,
    STAT,
    SET_LABEL,
    GET_LABEL,
    RENAME,
    REMOVE,
    LIST,
    BARRIER,
    GET,
    CAS,
    PUT
};

enum outcome {
    FINE,
    REFUSED,     /* not done, and an error says so in vain: it counts as unknown */
    LOST_ANSWER, /* done, no answer */
    LATE,        /* no answer, done later */
    DOUBLE,      /* done, and once more later */
    RESENT,      /* done twice at once; the second answer is the one that is seen */
    DIE,         /* not done; its sender never hears of it */
    DIE_DONE,    /* done; its sender never hears of it */
    DIE_LATE,    /* done later; its sender never hears of it */
    N_OUTCOMES
};

typedef struct node {
    char path[256];
    bool dir, complete, labelled;
    uint64_t id;
    osync__buf_t data, label;
    struct node *prev, *next;
} node_t;

typedef struct world world_t;
typedef struct kept kept_t;
typedef struct request request_t;

typedef struct memory_file {
    osync_sink_file_t head;
    uint64_t id;
    char path[256];
    osync__buf_t all;
    request_t *writing;
} memory_file_t;

struct request {
    enum kind kind;
    world_t *w;
    kept_t *kept;
    char path[256], to[256];
    bool recursive, has_expected, has_value;
    osync__buf_t data, expected;
    uint64_t id; /* of the file written to */
    memory_file_t *file;
    union {
        osync_sink_cb done;
        osync_sink_stat_cb stat;
        osync_sink_list_cb list;
        osync_sink_label_cb label;
        osync_checkpoint_cb cas;
        osync_checkpoint_get_cb get;
    } cb;
    void *arg;
    enum outcome outcome;
    uint64_t due;
    /* The answer. */
    int status;
    osync_sink_stat_t st;
    osync__buf_t result;
    char *names[64];
    size_t n_names;
    request_t *prev, *next;
};

typedef struct fault {
    uint64_t at;
    enum outcome outcome;
    uint64_t delay;
} fault_t;

/* A store. Two, so that an owner can have lost his, or be replaced by one who has another. */
struct kept {
    osync_checkpoint_t store;
    world_t *w;
    osync__buf_t value; /* of KEY */
    bool has_value;
};

/* Wrong worlds, in which a rule of the protocol is broken: the tests must see it. */
enum mutant { SOUND, LATE_FENCE, VERSION_ONLY, STAGER_DELETES };

enum consumer { NOBODY, TAKES_ALL, LEAVES_NEWEST };

struct world {
    osync_sink_t sink;
    kept_t kept, other;
    enum mutant mutant;
    uint64_t deletes_after; /* requests: STAGER_DELETES */
    bool direct;            /* the owners have stagers that write some of the files */
    uv_loop_t loop;
    uv_timer_t turn, tick;
    node_t *nodes;
    uint64_t last_id;
    request_t *queue, *late, *held;
    uint64_t count; /* of requests */
    fault_t plan[MAX_PLAN];
    size_t n_plan;
    uint64_t made[N_OUTCOMES];
    bool dies_publishing;
    const char *dies_fencing;   /* this incarnation */
    enum consumer consumer;     /* takes files away as soon as they are there */
    int fail_kind, fail_status; /* every request of this kind fails so; -1: none */
    const char *fail_path;      /* only those whose path holds this */
    enum kind kinds[4096];
    struct {
        uint64_t n;
        osync__buf_t data;
    } published[MAX_FILES];
    size_t n_published;
};

static world_t *world_of_sink(osync_sink_t *s) {
    return (world_t *)((char *)s - offsetof(world_t, sink));
}

static node_t *find(world_t *w, const char *path) {
    node_t *n;
    DL_FOREACH(w->nodes, n) {
        if (strcmp(n->path, path) == 0) return n;
    }
    return NULL;
}
static node_t *find_id(world_t *w, uint64_t id) {
    node_t *n;
    DL_FOREACH(w->nodes, n) {
        if (n->id == id) return n;
    }
    return NULL;
}
static node_t *add(world_t *w, const char *path, bool dir) {
    node_t *n = calloc(1, sizeof *n);
    assert_non_null(n);
    snprintf(n->path, sizeof n->path, "%s", path);
    n->dir = dir;
    n->id = ++w->last_id;
    DL_APPEND(w->nodes, n);
    return n;
}
static void drop(world_t *w, node_t *n) {
    DL_DELETE(w->nodes, n);
    osync__buf_free(&n->data);
    osync__buf_free(&n->label);
    free(n);
}
static bool is_below(const char *path, const char *dir) {
    size_t n = strlen(dir);
    return strncmp(path, dir, n) == 0 && path[n] == '/';
}
static bool has_parent(world_t *w, const char *path) {
    char dir[256];
    snprintf(dir, sizeof dir, "%s", path);
    *strrchr(dir, '/') = 0;
    if (!*dir) return true;
    node_t *n = find(w, dir);
    return n && n->dir;
}
static void set(osync__buf_t *b, const void *data, size_t len) {
    assert_int_equal(osync__buf_set(b, data, len), 0);
}

/* A name that a reader of /d would take for data appears by a rename of a whole, labelled file only. */
static void published(world_t *w, node_t *n) {
    unsigned pid;
    uint64_t slot;
    int end = 0;
    assert_int_equal(sscanf(n->path, "/d/part-" TASK "-%5u-%10" SCNu64 ".csv%n", &pid, &slot, &end), 2);
    assert_int_equal((size_t)end, strlen(n->path));
    assert_int_equal(pid, 3);
    assert_true(n->complete);
    assert_true(n->labelled);
    osync__label_t l = {0};
    assert_int_equal(osync__label_unpack(&l, n->label.data, n->label.len), 0);
    assert_string_equal(l.task_id, TASK);
    assert_int_equal(l.n, slot);
    assert_int_equal(l.bytes, n->data.len);
    osync__label_free(&l);
    assert_true(w->n_published < MAX_FILES);
    w->published[w->n_published].n = slot;
    set(&w->published[w->n_published++].data, n->data.data, n->data.len);
}

static void consume(world_t *w, node_t *newest) {
    node_t *n, *tmp;
    DL_FOREACH_SAFE(w->nodes, n, tmp) {
        if (strncmp(n->path, "/d/part-", 8) != 0) continue;
        if (w->consumer == TAKES_ALL || (w->consumer == LEAVES_NEWEST && n != newest)) drop(w, n);
    }
}

static int do_rename(world_t *w, const char *from, const char *to) {
    node_t *n = find(w, from), *m;
    if (!n) return OSYNC_ENOENT;
    if (find(w, to)) return OSYNC_EEXIST;
    if (!has_parent(w, to)) return OSYNC_ENOENT;
    DL_FOREACH(w->nodes, m) {
        if (m != n && !is_below(m->path, from)) continue;
        char path[256];
        assert_true((size_t)snprintf(path, sizeof path, "%s%s", to, m->path + strlen(from)) < sizeof path);
        memcpy(m->path, path, sizeof path);
    }
    if (strncmp(to, "/d/", 3) == 0 && !strchr(to + 3, '/')) {
        published(w, n);
        consume(w, n);
    }
    return 0;
}

static int do_mkdirs(world_t *w, const char *path) {
    char p[256];
    snprintf(p, sizeof p, "%s", path);
    for (size_t i = 1; i <= strlen(path); i++) {
        if (path[i] != '/' && path[i] != 0) continue;
        p[i] = 0;
        node_t *n = find(w, p);
        if (n && !n->dir) return OSYNC_EEXIST;
        if (!n) add(w, p, true);
        p[i] = path[i];
    }
    return 0;
}

static int do_remove(world_t *w, const char *path, bool recursive) {
    node_t *n, *tmp;
    DL_FOREACH(w->nodes, n) {
        if (!recursive && is_below(n->path, path)) return OSYNC_EEXIST;
    }
    DL_FOREACH_SAFE(w->nodes, n, tmp) {
        if (strcmp(n->path, path) == 0 || is_below(n->path, path)) drop(w, n);
    }
    return 0;
}

static void do_list(world_t *w, request_t *r) {
    node_t *n;
    for (size_t i = 0; i < r->n_names; i++) free(r->names[i]);
    r->n_names = 0;
    DL_FOREACH(w->nodes, n) {
        if (!is_below(n->path, r->path) || strchr(n->path + strlen(r->path) + 1, '/')) continue;
        assert_true(r->n_names < sizeof r->names / sizeof r->names[0]);
        r->names[r->n_names++] = strdup(n->path + strlen(r->path) + 1);
    }
}

static uint64_t generation_of(const osync__buf_t *value) {
    osync__record_t r = {0};
    assert_int_equal(osync__record_unpack(&r, value->data, value->len, TASK, 3, NULL), 0);
    uint64_t generation = r.generation;
    osync__record_free(&r);
    return generation;
}

static int do_cas(request_t *r) {
    kept_t *k = r->kept;
    bool equal = r->has_expected == k->has_value && (!k->has_value || osync__buf_equal(&k->value, &r->expected));
    if (k->w->mutant == VERSION_ONLY && r->has_expected && k->has_value)
        equal = generation_of(&k->value) == generation_of(&r->expected);
    if (!equal) return OSYNC_ECONFLICT;
    k->has_value = r->has_value;
    set(&k->value, r->data.data, r->data.len);
    return 0;
}

static int do_create(world_t *w, request_t *r) {
    assert_true(strchr(r->path + 3, '/') != NULL); /* nothing is ever created beside the data */
    if (!has_parent(w, r->path)) return OSYNC_ENOENT;
    if (find(w, r->path)) return OSYNC_EEXIST;
    r->id = add(w, r->path, false)->id;
    if (r->file) r->file->id = r->id;
    return 0;
}

static int execute(world_t *w, request_t *r) {
    node_t *n = find(w, r->path);
    if (w->fail_kind == (int)r->kind && (!w->fail_path || strstr(r->path, w->fail_path))) return w->fail_status;
    switch (r->kind) {
    case MKDIRS:
        return do_mkdirs(w, r->path);
    case CREATE:
        return do_create(w, r);
    case PUT: { /* a whole file once more, by somebody between us and the sink */
        int rc = do_create(w, r);
        if (rc) return rc;
        n = find_id(w, r->id);
        set(&n->data, r->data.data, r->data.len);
        n->complete = true;
        return 0;
    }
    case WRITE:
    case FINISH:
        n = find_id(w, r->id);
        if (!n) return OSYNC_ENOENT;
        if (r->kind == WRITE)
            assert_int_equal(osync__buf_append(&n->data, r->data.data, r->data.len), 0);
        else
            n->complete = true;
        return 0;
    case ABORT:
        return 0;
    case STAT:
        if (!n) return OSYNC_ENOENT;
        r->st = (osync_sink_stat_t){.is_dir = n->dir, .length = n->data.len, .file_id = n->id};
        return 0;
    case SET_LABEL:
        if (!n) return OSYNC_ENOENT;
        set(&n->label, r->data.data, r->data.len);
        n->labelled = true;
        return 0;
    case GET_LABEL:
        if (!n || !n->labelled) return OSYNC_ENOENT;
        set(&r->result, n->label.data, n->label.len);
        return 0;
    case RENAME:
        return do_rename(w, r->path, r->to);
    case REMOVE:
        return do_remove(w, r->path, r->recursive);
    case LIST:
        if (!n || !n->dir) return OSYNC_ENOENT;
        do_list(w, r);
        return 0;
    case BARRIER:
        return n ? 0 : OSYNC_ENOENT;
    case GET:
        if (!r->kept->has_value) return OSYNC_ENOENT;
        set(&r->result, r->kept->value.data, r->kept->value.len);
        return 0;
    case CAS:
        return do_cas(r);
    }
    return OSYNC_EINVAL;
}

static void request_free(request_t *r) {
    for (size_t i = 0; i < r->n_names; i++) free(r->names[i]);
    osync__buf_free(&r->data);
    osync__buf_free(&r->expected);
    osync__buf_free(&r->result);
    free(r);
}

static void file_free(memory_file_t *f) {
    osync__buf_free(&f->all);
    free(f);
}

static void answer(request_t *r) {
    osync_error_t err = {0}, *e = NULL;
    if (r->status) {
        osync__err(&err, r->status, "request %d on %s: %s", (int)r->kind, r->path, osync_strerror(r->status));
        e = &err;
    }
    if (r->kind == WRITE && r->file) r->file->writing = NULL;
    if ((r->kind == FINISH || r->kind == ABORT) && r->file) file_free(r->file);
    if (r->kind == STAT)
        r->cb.stat(r->arg, r->status, e ? NULL : &r->st, e);
    else if (r->kind == LIST)
        r->cb.list(r->arg, r->status, (const char *const *)r->names, e ? 0 : r->n_names, e);
    else if (r->kind == GET_LABEL)
        r->cb.label(r->arg, r->status, e ? NULL : r->result.data, r->result.len, e);
    else if (r->kind == GET)
        r->cb.get(r->arg, r->status, e ? NULL : r->result.data, r->result.len, e);
    else
        r->cb.done(r->arg, r->status, e);
    request_free(r);
}

/* A copy that nobody waits for; of the end of a file, the whole file: that is what a proxy would send again. */
static void later(world_t *w, const request_t *r, uint64_t delay, bool whole) {
    request_t *c = calloc(1, sizeof *c);
    assert_non_null(c);
    c->kind = r->kind;
    c->w = w;
    c->kept = r->kept;
    memcpy(c->path, r->path, sizeof c->path);
    memcpy(c->to, r->to, sizeof c->to);
    c->recursive = r->recursive;
    c->has_expected = r->has_expected;
    c->has_value = r->has_value;
    c->id = r->id;
    set(&c->data, r->data.data, r->data.len);
    set(&c->expected, r->expected.data, r->expected.len);
    if (whole && r->kind == FINISH && r->file) {
        c->kind = PUT;
        memcpy(c->path, r->file->path, sizeof c->path);
        set(&c->data, r->file->all.data, r->file->all.len);
    }
    c->due = w->count + delay;
    DL_APPEND(w->late, c);
}

static void run_late(world_t *w, bool all) {
    request_t *r, *tmp;
    DL_FOREACH_SAFE(w->late, r, tmp) {
        if (!all && r->due > w->count) continue;
        DL_DELETE(w->late, r);
        (void)execute(w, r);
        request_free(r);
    }
}

static bool is_id(const char *path) {
    const char *name = strrchr(path, '/') + 1;
    return strlen(path) == strlen("/d/_osync/" TASK "/3/") + 32 && strspn(name, "0123456789abcdef") == 32;
}

static void serve(world_t *w, request_t *r) {
    fault_t f = {.outcome = FINE};
    if (r->kind != ABORT) {
        if (w->count < sizeof w->kinds / sizeof w->kinds[0]) w->kinds[w->count] = r->kind;
        for (size_t i = 0; i < w->n_plan; i++)
            if (w->plan[i].at == w->count) f = w->plan[i];
        w->count++;
        if (r->file) r->id = r->file->id;
    }
    if (w->dies_fencing && r->kind == RENAME && strstr(r->path, w->dies_fencing)) f.outcome = DIE;
    if (w->dies_publishing && r->kind == RENAME && strncmp(r->to, "/d/part-", 8) == 0) f.outcome = DIE;
    /* The bytes of a file are one stream: a part of it can't come late or twice. */
    if (r->kind == WRITE && (f.outcome == DOUBLE || f.outcome == RESENT)) f.outcome = FINE;
    if (r->kind == WRITE && f.outcome == LATE) f.outcome = REFUSED;
    if (r->kind == WRITE && f.outcome == DIE_LATE) f.outcome = DIE;
    bool is_fence = r->kind == RENAME && strstr(r->to, ".fenced"), is_block = r->file && is_id(r->path);
    if (w->mutant == LATE_FENCE && f.outcome == FINE && (is_fence || is_block)) {
        if (is_fence) later(w, r, 40, false); /* answered, and done after the look */
        answer(r);
        run_late(w, false);
        return;
    }
    w->made[f.outcome]++;
    r->outcome = f.outcome;
    if (f.outcome == LATE || f.outcome == DIE_LATE) later(w, r, f.delay, false);
    if (f.outcome == REFUSED)
        r->status = OSYNC_EIO;
    else if (f.outcome == LATE)
        r->status = OSYNC_ETIMEOUT;
    else if (f.outcome != DIE && f.outcome != DIE_LATE)
        r->status = execute(w, r);
    if (f.outcome == LOST_ANSWER) r->status = OSYNC_ECONN;
    if (f.outcome == RESENT && r->kind != CREATE) r->status = execute(w, r);
    if (f.outcome == DOUBLE) later(w, r, f.delay, true);
    if (f.outcome >= DIE)
        DL_APPEND(w->held, r);
    else
        answer(r);
    run_late(w, false);
}

static void on_turn(uv_timer_t *t) {
    world_t *w = t->data;
    request_t *r = w->queue;
    if (!r) return;
    DL_DELETE(w->queue, r);
    uv_timer_start(&w->turn, on_turn, 0, 0);
    serve(w, r);
}

static void on_tick(uv_timer_t *t) {
    (void)t;
}

static request_t *ask(world_t *w, enum kind kind, const char *path, void *arg) {
    request_t *r = calloc(1, sizeof *r);
    assert_non_null(r);
    r->kind = kind;
    r->w = w;
    r->arg = arg;
    assert_true((size_t)snprintf(r->path, sizeof r->path, "%s", path) < sizeof r->path);
    DL_APPEND(w->queue, r);
    uv_timer_start(&w->turn, on_turn, 0, 0);
    return r;
}

static int s_mkdirs(osync_sink_t *s, const char *path, osync_sink_cb cb, void *arg) {
    ask(world_of_sink(s), MKDIRS, path, arg)->cb.done = cb;
    return 0;
}
static int s_create(osync_sink_t *s, const char *path, osync_sink_file_t **out, osync_sink_cb cb, void *arg) {
    memory_file_t *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->head.sink = s;
    snprintf(f->path, sizeof f->path, "%s", path);
    request_t *r = ask(world_of_sink(s), CREATE, path, arg);
    r->cb.done = cb;
    r->file = f;
    *out = &f->head;
    return 0;
}
static int s_write(osync_sink_file_t *file, const void *data, size_t len, osync_sink_cb cb, void *arg) {
    memory_file_t *f = (memory_file_t *)file;
    request_t *r = ask(world_of_sink(file->sink), WRITE, f->path, arg);
    r->cb.done = cb;
    r->file = f;
    assert_null(f->writing);
    f->writing = r;
    set(&r->data, data, len);
    assert_int_equal(osync__buf_append(&f->all, data, len), 0);
    return 0;
}
static int s_finish(osync_sink_file_t *file, osync_sink_cb cb, void *arg) {
    request_t *r = ask(world_of_sink(file->sink), FINISH, ((memory_file_t *)file)->path, arg);
    r->cb.done = cb;
    r->file = (memory_file_t *)file;
    return 0;
}
static void s_abort(osync_sink_file_t *file, osync_sink_cb cb, void *arg) {
    world_t *w = world_of_sink(file->sink);
    memory_file_t *f = (memory_file_t *)file;
    request_t *writing = f->writing;
    if (writing) { /* its callback comes first */
        if (writing->outcome >= DIE) {
            DL_DELETE(w->held, writing);
            DL_PREPEND(w->queue, writing);
        }
        writing->kind = WRITE;
        writing->id = UINT64_MAX;
        writing->file = NULL;
        f->writing = NULL;
    }
    request_t *r = ask(w, ABORT, f->path, arg);
    r->cb.done = cb;
    r->file = f;
}
static int s_stat(osync_sink_t *s, const char *path, osync_sink_stat_cb cb, void *arg) {
    ask(world_of_sink(s), STAT, path, arg)->cb.stat = cb;
    return 0;
}
static int s_set_label(osync_sink_t *s, const char *path, const void *label, size_t len, osync_sink_cb cb, void *arg) {
    request_t *r = ask(world_of_sink(s), SET_LABEL, path, arg);
    r->cb.done = cb;
    set(&r->data, label, len);
    return 0;
}
static int s_get_label(osync_sink_t *s, const char *path, osync_sink_label_cb cb, void *arg) {
    ask(world_of_sink(s), GET_LABEL, path, arg)->cb.label = cb;
    return 0;
}
static int s_rename(osync_sink_t *s, const char *from, const char *to, osync_sink_cb cb, void *arg) {
    request_t *r = ask(world_of_sink(s), RENAME, from, arg);
    r->cb.done = cb;
    snprintf(r->to, sizeof r->to, "%s", to);
    return 0;
}
static int s_remove(osync_sink_t *s, const char *path, bool recursive, osync_sink_cb cb, void *arg) {
    request_t *r = ask(world_of_sink(s), REMOVE, path, arg);
    r->cb.done = cb;
    r->recursive = recursive;
    return 0;
}
static int s_list(osync_sink_t *s, const char *path, osync_sink_list_cb cb, void *arg) {
    ask(world_of_sink(s), LIST, path, arg)->cb.list = cb;
    return 0;
}
static int s_barrier(osync_sink_t *s, const char *path, osync_sink_cb cb, void *arg) {
    ask(world_of_sink(s), BARRIER, path, arg)->cb.done = cb;
    return 0;
}
static int k_get(osync_checkpoint_t *s, const char *key, osync_checkpoint_get_cb cb, void *arg) {
    assert_string_equal(key, KEY);
    request_t *r = ask(((kept_t *)s)->w, GET, "store", arg);
    r->cb.get = cb;
    r->kept = (kept_t *)s;
    return 0;
}
static int k_cas(osync_checkpoint_t *s, const char *key, const void *expected, size_t expected_len, const void *value,
                 size_t len, osync_checkpoint_cb cb, void *arg) {
    assert_string_equal(key, KEY);
    request_t *r = ask(((kept_t *)s)->w, CAS, "store", arg);
    r->cb.cas = cb;
    r->kept = (kept_t *)s;
    r->has_expected = expected != NULL;
    r->has_value = value != NULL;
    set(&r->expected, expected, expected ? expected_len : 0);
    set(&r->data, value, value ? len : 0);
    return 0;
}

static const osync_sink_ops_t memory_sink_ops = {.size = sizeof(osync_sink_ops_t),
                                                 .mkdirs = s_mkdirs,
                                                 .create = s_create,
                                                 .write = s_write,
                                                 .finish = s_finish,
                                                 .abort = s_abort,
                                                 .stat = s_stat,
                                                 .set_label = s_set_label,
                                                 .get_label = s_get_label,
                                                 .rename = s_rename,
                                                 .remove = s_remove,
                                                 .list = s_list,
                                                 .barrier = s_barrier};
static const osync_checkpoint_ops_t memory_store_ops = {
    .size = sizeof(osync_checkpoint_ops_t), .get = k_get, .cas = k_cas};

static world_t *world_new(void) {
    world_t *w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->sink.ops = &memory_sink_ops;
    w->kept = w->other = (kept_t){.store.ops = &memory_store_ops, .w = w};
    w->fail_kind = -1;
    uv_loop_init(&w->loop);
    uv_timer_init(&w->loop, &w->turn);
    uv_timer_init(&w->loop, &w->tick);
    w->turn.data = w->tick.data = w;
    uv_timer_start(&w->tick, on_tick, 1, 1);
    add(w, "/d", true);
    return w;
}
static void world_free(world_t *w) {
    node_t *n, *tmp;
    assert_null(w->queue);
    assert_null(w->held);
    run_late(w, true);
    uv_close((uv_handle_t *)&w->turn, NULL);
    uv_close((uv_handle_t *)&w->tick, NULL);
    uv_run(&w->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&w->loop), 0);
    DL_FOREACH_SAFE(w->nodes, n, tmp) {
        drop(w, n);
    }
    for (size_t i = 0; i < w->n_published; i++) osync__buf_free(&w->published[i].data);
    osync__buf_free(&w->kept.value);
    osync__buf_free(&w->other.value);
    free(w);
}

/* Whoever waits for ever is answered: what he would have heard, or that nothing is known. */
static void release_one(world_t *w, request_t *r, bool unknown) {
    DL_DELETE(w->held, r);
    if (r->outcome == DIE && !unknown) r->status = execute(w, r);
    if (unknown || r->outcome == DIE_LATE) r->status = OSYNC_ETIMEOUT;
    answer(r);
}
static void release(world_t *w, bool unknown) {
    while (w->held) release_one(w, w->held, unknown);
}

/* An owner: appends rows from where he is told to, and commits. With direct writing some rows go in files that his
 * stager writes. In the middle of one a second stager takes the place of the first, who doesn't know. */

typedef struct stager {
    struct owner *o;
    char name[33], incarnation[33], attempt[33], path[256];
    bool busy;
    osync_sink_file_t *file;
    int from, rows;
    osync__buf_t data;
} stager_t;

typedef struct owner {
    osync__delivery_t *d;
    world_t *w;
    stager_t stagers[2];
    int stager;     /* the one that has the partition */
    bool regranted; /* and has asked */
    uint64_t adopted;
    bool ready, failed, appending, flushing, closed, flush_at_end, troubled;
    unsigned rewinds;
    int pos, committed;
    char start[16], end[16], row[32];
    osync_error_t err;
} owner_t;

/* Some rows have no bytes: only the point moves on. */
static size_t row_of(int i, char row[32]) {
    return i % 5 == 3 ? 0 : (size_t)snprintf(row, 32, "row %d\n", i);
}

static int point_of(const void *point, size_t len) {
    char text[16] = "";
    assert_true(len > 0 && len < sizeof text);
    memcpy(text, point, len);
    return atoi(text);
}

static void on_commit(void *arg, const void *point, size_t len) {
    owner_t *o = arg;
    int at = point_of(point, len);
    assert_true(at > o->committed);
    o->committed = at;
}
static void on_rewind(void *arg, bool ready, bool permanent, const osync_error_t *err) {
    owner_t *o = arg;
    assert_non_null(err);
    assert_false(o->failed);
    assert_false(o->appending); /* its callback came before */
    o->ready = ready;
    o->rewinds++;
    if (!ready) {
        assert_int_not_equal(err->code, 0);
    }
    o->troubled = !ready;
    o->failed = permanent;
    if (permanent || !ready) o->err = *err;
    if (ready) {
        size_t len;
        const void *p = osync__delivery_point(o->d, &len);
        o->pos = o->committed = point_of(p, len);
    }
}
static void on_appended(void *arg, int status, const osync_error_t *err) {
    owner_t *o = arg;
    assert_int_equal(status == 0, err == NULL);
    assert_true(status == 0 || status == OSYNC_EAGAIN || status == OSYNC_ECANCELED);
    o->appending = false;
    if (status == 0) o->pos++;
}
static void on_flushed(void *arg, int status, const osync_error_t *err) {
    owner_t *o = arg;
    assert_int_equal(status == 0, err == NULL);
    assert_true(status == 0 || status == OSYNC_EAGAIN || status == OSYNC_ECANCELED);
    o->flushing = false;
}

/* Whatever went wrong: what he has never reported he may remove. */
static void on_voided(void *arg, int status, const osync_error_t *err) {
    ((stager_t *)arg)->busy = false;
}
static void on_stage_aborted(void *arg, int status, const osync_error_t *err) {
    stager_t *s = arg;
    s->file = NULL;
    assert_int_equal(s_remove(&s->o->w->sink, s->path, false, on_voided, s), 0);
}
static void on_adopted(void *arg, int status, const osync_error_t *err) {
    stager_t *s = arg;
    owner_t *o = s->o;
    on_appended(o, status, err);
    s->busy = false;
    if (status) return; /* A13: he doesn't touch it any more */
    o->pos += s->rows - 1;
    assert_int_equal(o->pos, s->from + s->rows);
    assert_int_equal(o->committed, o->pos);
    o->adopted++;
}
static void on_stage_finished(void *arg, int status, const osync_error_t *err) {
    stager_t *s = arg;
    owner_t *o = s->o;
    char start[16], end[16];
    int n = snprintf(start, sizeof start, "%d", s->from), m = snprintf(end, sizeof end, "%d", s->from + s->rows);
    int rc = OSYNC_ECLOSED;
    s->file = NULL;
    if (!status && o->d && !o->appending)
        rc = osync__delivery_adopt(o->d, s->incarnation, s->attempt, s->data.len, (uint64_t)s->rows, start, (size_t)n,
                                   end, (size_t)m, on_adopted, s);
    if (rc) {
        on_stage_aborted(s, 0, NULL);
        return;
    }
    if (o->regranted) assert_ptr_equal(s, &o->stagers[1]);
    o->appending = true;
    if (o->w->mutant == STAGER_DELETES && s->from == 8) {
        request_t r = {.kind = REMOVE, .w = o->w};
        memcpy(r.path, s->path, sizeof r.path);
        later(o->w, &r, o->w->deletes_after, false);
        o->w->mutant = SOUND; /* once */
    }
}
static void on_stage_written(void *arg, int status, const osync_error_t *err) {
    stager_t *s = arg;
    if (status)
        s_abort(s->file, on_stage_aborted, s);
    else
        assert_int_equal(s_finish(s->file, on_stage_finished, s), 0);
}
static bool stage(owner_t *o, int rows);

static void on_stage_created(void *arg, int status, const osync_error_t *err) {
    stager_t *s = arg;
    owner_t *o = s->o;
    if (s->from >= 8 && o->stager == 0 && o->d && o->ready) {
        o->stager = 1;
        (void)stage(o, ROWS);
    }
    if (status == OSYNC_ENOENT) *s->name = 0; /* the folder is gone: under another name he gets another */
    if (status)
        s_abort(s->file, on_stage_aborted, s);
    else
        assert_int_equal(s_write(s->file, s->data.data, s->data.len, on_stage_written, s), 0);
}
/* True if he began something. */
static bool stage(owner_t *o, int rows) {
    stager_t *s = &o->stagers[o->stager];
    osync__buf_t folder = {0};
    const char *incarnation = NULL;
    if (s->busy) return false;
    s->o = o;
    if (!*s->name) osync__random_hex(s->name, 16);
    int rc = osync__delivery_grant(o->d, s->name, &incarnation, &folder);
    if (rc == OSYNC_ECONFLICT) {
        o->regranted = o->stager == 1;
        o->ready = false;
        osync__delivery_regrant(o->d);
    }
    if (rc) {
        osync__buf_free(&folder);
        return rc == OSYNC_ECONFLICT;
    }
    char attempt[33];
    osync__random_hex(attempt, 16);
    memcpy(s->attempt, attempt, sizeof attempt);
    snprintf(s->incarnation, sizeof s->incarnation, "%s", incarnation);
    snprintf(s->path, sizeof s->path, "%s/%s", (const char *)folder.data, attempt);
    osync__buf_free(&folder);
    s->from = o->pos;
    s->rows = rows - s->from < 3 ? rows - s->from : 3;
    s->data.len = 0;
    for (int i = s->from; i < s->from + s->rows; i++) {
        char row[32];
        assert_int_equal(osync__buf_append(&s->data, row, row_of(i, row)), 0);
    }
    s->busy = true;
    assert_int_equal(s_create(&o->w->sink, s->path, &s->file, on_stage_created, s), 0);
    return true;
}
static bool is_gone(owner_t *o) {
    if (!o->closed || o->stagers[0].busy || o->stagers[1].busy) return false;
    for (int i = 0; i < 2; i++) osync__buf_free(&o->stagers[i].data);
    return true;
}

static void on_closed(void *arg) {
    owner_t *o = arg;
    assert_false(o->appending);
    assert_false(o->flushing);
    o->closed = true;
    o->d = NULL;
}

static osync__delivery_config_t config_of(uv_loop_t *loop, osync_sink_t *sink, osync_checkpoint_t *store,
                                          const char *dest, owner_t *o) {
    return (osync__delivery_config_t){.loop = loop,
                                      .sink = sink,
                                      .store = store,
                                      .key = KEY,
                                      .dest = dest,
                                      .task_id = TASK,
                                      .pid = 3,
                                      .label_text = "db.t",
                                      .roll_bytes = 30,
                                      .roll_interval_ms = 1000000,
                                      .retry_min_ms = 1,
                                      .retry_max_ms = 2,
                                      .first_point = "0",
                                      .first_point_len = 1,
                                      .on_commit = on_commit,
                                      .on_rewind = on_rewind,
                                      .arg = o};
}
static void owner_make(owner_t *o, const osync__delivery_config_t *config) {
    osync_error_t err;
    *o = (owner_t){.flush_at_end = true};
    assert_int_equal(osync__delivery_new(config, &o->d, &err), 0);
}
static void owner_start(owner_t *o, world_t *w) {
    osync__delivery_config_t config = config_of(&w->loop, &w->sink, &w->kept.store, "/d", o);
    owner_make(o, &config);
    o->w = w;
    osync__delivery_start(o->d);
}
/* True if he began something. */
static bool drive(owner_t *o, int rows) {
    if (!o->d || !o->ready || o->appending) return false;
    if (o->w && o->w->direct && o->pos < rows && o->pos % 8 < 4) return stage(o, rows);
    if (o->pos < rows) {
        size_t len = row_of(o->pos, o->row);
        int n = snprintf(o->start, sizeof o->start, "%d", o->pos);
        int m = snprintf(o->end, sizeof o->end, "%d", o->pos + 1);
        int rc =
            osync__delivery_append(o->d, o->row, len, len > 0, o->start, (size_t)n, o->end, (size_t)m, on_appended, o);
        assert_true(rc == 0 || rc == OSYNC_EAGAIN);
        o->appending = rc == 0;
        return o->appending;
    }
    if (!o->flushing && o->flush_at_end && o->committed < rows) {
        o->flushing = true;
        osync__delivery_flush(o->d, on_flushed, o);
        return true;
    }
    return false;
}
static bool is_done(const owner_t *o) {
    return o->ready && o->committed == ROWS;
}
static void turn(world_t *w, owner_t *a, owner_t *b) {

    bool begun = a && drive(a, ROWS);
    begun = (b && drive(b, ROWS)) || begun;
    uv_run(&w->loop,
           begun ? UV_RUN_NOWAIT : UV_RUN_ONCE); /* waits for a pause to end only if there is nothing else to do */
}
#define RUN_UNTIL(w, a, b, condition)                                                                                  \
    do {                                                                                                               \
        int limit_ = 4000;                                                                                             \
        while (!(condition) && limit_-- > 0) turn(w, a, b);                                                            \
        if (!(condition)) fail_msg("never: %s", #condition);                                                           \
    } while (0)

static void owner_close(world_t *w, owner_t *o) {
    if (!o->d) return;
    osync__delivery_close(o->d, on_closed, o);
    RUN_UNTIL(w, NULL, NULL, (release(w, true), is_gone(o)));
}

static void expected_of(osync__buf_t *out, int rows) {
    char row[32];
    out->len = 0;
    for (int i = 0; i < rows; i++) {
        size_t n = row_of(i, row);
        assert_int_equal(osync__buf_append(out, row, n), 0);
    }
}

/* Everything that was ever published, in slot order, is the stream; each slot was filled once. */
static bool is_exact(world_t *w, osync__buf_t *all) {
    osync__buf_t expected = {0};
    bool exact = true;
    expected_of(&expected, ROWS);
    for (uint64_t n = 0; n < w->n_published; n++) {
        size_t found = 0;
        for (size_t i = 0; i < w->n_published; i++) {
            if (w->published[i].n != n) continue;
            found++;
            assert_int_equal(osync__buf_append(all, w->published[i].data.data, w->published[i].data.len), 0);
        }
        exact = exact && found == 1;
    }
    exact = exact && osync__buf_equal(&expected, all);
    osync__buf_free(&expected);
    return exact;
}
static void audit(world_t *w) {
    osync__buf_t all = {0};
    if (!is_exact(w, &all))
        fail_msg("%zu files published:\n%.*s", w->n_published, (int)all.len, (const char *)all.data);
    osync__buf_free(&all);
}

static void remove_and_audit(world_t *w, owner_t *o) {
    osync__delivery_remove(o->d, on_closed, o);
    RUN_UNTIL(w, NULL, NULL, is_gone(o));
    run_late(w, true); /* an empty folder may come back by a late request, but nothing is published */
    assert_false(w->kept.has_value);
    audit(w);
}

/* One history: an owner, faults, and a second owner as soon as the first one doesn't get an answer any more. The first
 * may wake up after `wake_after` more requests and goes on as if nothing had happened; 0: he is dead. */
typedef struct history {
    const fault_t *faults;
    size_t n_faults;
    enum consumer consumer;
    uint64_t wake_after;
    bool wake_unknown, direct;
} history_t;

static void play(const history_t *h, uint64_t made[N_OUTCOMES], uint64_t *count, enum kind *kinds) {
    world_t *w = world_new();
    owner_t a = {0}, b = {0};
    w->consumer = h->consumer;
    w->direct = h->direct;
    if (h->n_faults) memcpy(w->plan, h->faults, h->n_faults * sizeof w->plan[0]);
    w->n_plan = h->n_faults;
    owner_start(&a, w);
    uint64_t woken = 0;
    int turns_left = 4000;
    while (!is_done(&a) && !is_done(&b) && turns_left-- > 0) {
        turn(w, &a, &b);
        if (w->held && !b.d) {
            owner_start(&b, w);
            woken = h->wake_after ? w->count + h->wake_after : UINT64_MAX;
        }
        if (w->held && w->count >= woken) release(w, h->wake_unknown);
        if (b.d && a.failed && b.failed) break;
    }
    if (!is_done(&a) && !is_done(&b)) fail_msg("neither is done: first: %s; second: %s", a.err.message, b.err.message);
    if (h->wake_after &&
        b.d) { /* he wakes up now, if he hasn't yet: everybody is at the end, or is told that he isn't the owner */
        release(w, h->wake_unknown);
        RUN_UNTIL(w, &a, &b, (is_done(&a) || a.failed) && (is_done(&b) || b.failed));
    }
    owner_t *last = is_done(&b) && !b.failed ? &b : &a, *other = last == &a ? &b : &a;
    owner_close(w, other);
    run_late(w, true);
    audit(w);
    if (count) *count = w->count;
    if (kinds) memcpy(kinds, w->kinds, sizeof w->kinds);
    w->n_plan = 0;
    remove_and_audit(w, last);
    for (int i = 0; made && i < N_OUTCOMES; i++) made[i] += w->made[i];
    node_t *n;
    if (w->made[LATE] + w->made[DOUBLE] + w->made[DIE_LATE] == 0) {
        DL_FOREACH(w->nodes, n) {
            if (strstr(n->path, "_osync")) fail_msg("left over: %s", n->path);
        }
    }
    world_free(w);
}

static const char *const outcome_names[] = {"fine",   "refused", "lost answer", "late",      "double",
                                            "resent", "died",    "died, done",  "died, late"};

static void print_made(const char *what, uint64_t histories, const uint64_t made[N_OUTCOMES]) {
    printf("%s: %" PRIu64 " histories;", what, histories);
    for (int i = FINE; i < N_OUTCOMES; i++)
        printf(" %s %" PRIu64 "%s", outcome_names[i], made[i], i + 1 < N_OUTCOMES ? "," : "\n");
}

/* Whoever was replaced in the middle of a file isn't heard any more; and all of that happens in these tests. */
static void test_replaced_stager(void **state) {
    world_t *w = world_new();
    owner_t a = {0};
    w->direct = true;
    owner_start(&a, w);
    RUN_UNTIL(w, &a, NULL, is_done(&a));
    assert_true(a.regranted);
    assert_int_equal(a.adopted, 6);
    assert_int_equal(a.rewinds, 2); /* the start, and the new folder */
    remove_and_audit(w, &a);
    world_free(w);
}

/* Every request of a whole run, every outcome, dead or only asleep. */
static void every_step(enum consumer consumer, bool direct) {
    static enum kind kinds[4096];
    uint64_t steps, histories = 0, made[N_OUTCOMES] = {0};
    play(&(history_t){.consumer = consumer, .direct = direct}, made, &steps, kinds);
    uint64_t seen = 0;
    for (uint64_t i = 0; i < steps; i++) seen |= 1u << kinds[i];
    /* A run without trouble takes every step but those of recovery. */
    assert_int_equal(seen, 1u << MKDIRS | 1u << CREATE | 1u << WRITE | 1u << FINISH | 1u << STAT | 1u << SET_LABEL |
                               1u << RENAME | 1u << REMOVE | 1u << LIST | 1u << GET | 1u << CAS);
    for (uint64_t at = 0; at < steps; at++) {
        for (enum outcome o = REFUSED; o < N_OUTCOMES; o++) {
            static const uint64_t delays[] = {1, 6, 15, 1000};
            static const uint64_t wakes[] = {0, 3, 9, 14, 100000};
            bool is_late = o == LATE || o == DOUBLE || o == DIE_LATE;
            for (size_t i = direct && is_late ? 1 : 0; i < (is_late ? 4 : 1); i += 1 + direct) {
                for (size_t j = 0; j < (o >= DIE ? 5 : 1); j += 1 + direct) {
                    fault_t f = {.at = at, .outcome = o, .delay = delays[i]};
                    play(&(history_t){&f, 1, consumer, wakes[j], (at + j) % 2 == 0, direct}, made, NULL, NULL);
                    histories++;
                }
            }
        }
    }
    print_made(direct     ? "every step, direct"
               : consumer ? "every step, with a consumer"
                          : "every step",
               histories, made);
}

/* Every request of a recovery, and of what follows it, after a publication that failed in every way. */
static void every_step_of_recovery(bool direct) {
    static enum kind kinds[4096];
    uint64_t steps, publish = 0, histories = 0, made[N_OUTCOMES] = {0};
    play(&(history_t){.direct = direct}, NULL, &steps, kinds);
    while (kinds[publish] != FINISH || kinds[publish + 4] != RENAME) publish++; /* not the probe's */
    publish += 4;
    for (enum outcome first = REFUSED; first < N_OUTCOMES; first++) {
        for (uint64_t at = publish - 1; at < publish + 40; at++) {
            for (enum outcome second = REFUSED; second < N_OUTCOMES; second++) {
                if (first >= DIE && second >= DIE) continue; /* somebody must live */
                if (direct && (first + at + second) % 2) continue;
                static const uint64_t wakes[] = {0, 12};
                for (size_t i = direct ? 3 : 0; i < 4; i += 3) {
                    fault_t f[2] = {{publish, first, i % 2 ? 20 : 5}, {at, second, i % 2 ? 8 : 50}};
                    if (at == publish) f[1].at = publish + 41;
                    play(&(history_t){f, 2, i == 3 ? TAKES_ALL : NOBODY, wakes[i / 2], i % 2, direct}, made, NULL,
                         NULL);
                    histories++;
                }
            }
        }
    }
    print_made(direct ? "every step of recovery, direct" : "every step of recovery", histories, made);
}
static void test_every_step_of_recovery(void **state) {
    every_step_of_recovery(false);
}
static void test_every_step_of_recovery_direct(void **state) {
    every_step_of_recovery(true);
}

static void test_every_step(void **state) {
    every_step(NOBODY, false);
}
static void test_every_step_consumed(void **state) {
    every_step(TAKES_ALL, false);
}
static void test_every_step_direct(void **state) {
    every_step(TAKES_ALL, true);
}

static uint64_t seed_next(uint64_t *s) {
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

/* Many faults in one history. At most one death, so that somebody lives. */
static void test_soak(void **state) {
    uint64_t made[N_OUTCOMES] = {0};
    const char *text = getenv("OSYNC_SOAK");
    uint64_t histories = text ? strtoull(text, NULL, 10) : 2000;
    for (uint64_t h = 1; h <= histories; h++) {
        uint64_t s = h * 0x9e3779b97f4a7c15u;
        fault_t faults[MAX_PLAN];
        size_t n = 1 + seed_next(&s) % 12;
        bool died = false;
        for (size_t i = 0; i < n; i++) {
            enum outcome o = (enum outcome)(REFUSED + seed_next(&s) % (died ? DIE - REFUSED : N_OUTCOMES - REFUSED));
            died = died || o >= DIE;
            faults[i] = (fault_t){.at = seed_next(&s) % 200, .outcome = o, .delay = 1 + seed_next(&s) % 60};
        }
        bool zombie = seed_next(&s) % 2;
        play(&(history_t){faults, n, seed_next(&s) % 2 ? TAKES_ALL : NOBODY, zombie ? 1 + seed_next(&s) % 120 : 0,
                          seed_next(&s) % 2, h % 2},
             made, NULL, NULL);
    }
    print_made("soak", histories, made);
}

/* The store is lost, or out of reach, at any moment: its files are deleted below a living owner (LOST: his store is the
 * rebuilt one from then on), or another owner begins with an empty one of his own (ELSEWHERE: the first still has his).
 * The new owner rebuilds the record from the labels. */
typedef struct loss {
    enum { LOST, ELSEWHERE } how;
    enum consumer consumer;
    fault_t first;       /* of the first owner; the store is lost right after it. FINE: he just goes on */
    fault_t second;      /* of the new one, counted from there; FINE: none */
    uint64_t wake_after; /* 0: who doesn't get an answer is dead */
    bool wake_unknown, direct;
} loss_t;

static void rebuilder_start(owner_t *o, world_t *w, kept_t *kept) {
    osync__delivery_config_t config = config_of(&w->loop, &w->sink, &kept->store, "/d", o);
    config.rebuild = config.start_over = true;
    owner_make(o, &config);
    o->w = w;
    osync__delivery_start(o->d);
}
static bool is_over(const owner_t *o) {
    return !o->d || o->failed || is_done(o);
}
static owner_t *done_of(owner_t o[3], int from) {
    for (int i = 2; i >= from; i--)
        if (o[i].d && !o[i].failed && is_done(&o[i])) return &o[i];
    return NULL;
}
static void turn_all(world_t *w, owner_t o[3]) {
    bool begun = false;
    for (int i = 0; i < 3; i++) begun = drive(&o[i], ROWS) || begun;
    uv_run(&w->loop, begun ? UV_RUN_NOWAIT : UV_RUN_ONCE);
}
static unsigned held_of(const world_t *w) {
    unsigned n = 0;
    for (const request_t *r = w->held; r; r = r->next) n++;
    return n;
}

/* Returns whether each row was published once. In a sound world it is an error if not. */
static bool play_loss(const loss_t *h, enum mutant mutant, uint64_t made[N_OUTCOMES]) {
    world_t *w = world_new();
    owner_t o[3] = {0}, *last = NULL;
    osync__buf_t all = {0};
    kept_t *kept = h->how == LOST ? &w->kept : &w->other;
    w->consumer = h->consumer;
    w->mutant = mutant;
    w->direct = h->direct;
    w->plan[0] = h->first;
    w->n_plan = 1;
    owner_start(&o[0], w);
    while (w->count <= h->first.at && !is_done(&o[0]) && !w->held) turn(w, &o[0], NULL);
    unsigned dead = held_of(w);
    if (h->how == LOST) w->kept.has_value = false;
    if (h->how == LOST) w->kept.value.len = 0;
    w->plan[0] = h->second;
    w->plan[0].at += w->count;
    uint64_t wake_at = w->count + h->wake_after;
    rebuilder_start(&o[1], w, kept);
    for (int limit = mutant == SOUND ? 4000 : 500; limit >= 0; limit--) {
        if (limit == 0 && mutant == SOUND) fail_msg("somebody neither ends nor is told that he isn't the owner");
        turn_all(w, o);
        if (held_of(w) > dead && !o[2].d) rebuilder_start(&o[2], w, kept);
        /* Whoever wins on a store that was lost is fine, but only the new one can have another. */
        bool decided = done_of(o, 1) || (h->how == LOST && done_of(o, 0) && (o[1].failed || o[2].failed));
        if (decided && !h->wake_after) break;
        if (decided && !w->held && is_over(&o[0]) && is_over(&o[1]) && is_over(&o[2])) break;
        if (w->held && h->wake_after && (decided || w->count >= wake_at)) {
            release(w, h->wake_unknown);
            dead = 0;
        }
    }
    last = done_of(o, 0);
    if (!last && mutant == SOUND)
        fail_msg("nobody is done: %s; %s; %s", o[0].err.message, o[1].err.message, o[2].err.message);
    for (int i = 0; i < 3; i++)
        if (&o[i] != last) owner_close(w, &o[i]);
    run_late(w, true);
    bool exact = is_exact(w, &all) || (!last && w->n_published == 0);
    w->n_plan = 0;
    if (mutant == SOUND) {
        audit(w);
        osync__delivery_remove(last->d, on_closed, last);
        RUN_UNTIL(w, NULL, NULL, is_gone(last));
        assert_false(kept->has_value);
        run_late(w, true);
        audit(w);
    } else if (last) {
        owner_close(w, last);
    }
    node_t *n;
    if (mutant == SOUND && w->made[LATE] + w->made[DOUBLE] + w->made[DIE_LATE] == 0) {
        DL_FOREACH(w->nodes, n) {
            if (strstr(n->path, "_osync")) fail_msg("left over: %s", n->path);
        }
    }
    for (int i = 0; made && i < N_OUTCOMES; i++) made[i] += w->made[i];
    osync__buf_free(&all);
    world_free(w);
    return exact;
}

static uint64_t steps_of_run(enum kind kinds[4096]) {
    uint64_t steps;
    play(&(history_t){0}, NULL, &steps, kinds);
    return steps;
}

static void test_loss_at_every_step(void **state) {
    static enum kind kinds[4096];
    static const uint64_t wakes[] = {0, 8, 25, 100000}, delays[] = {1, 10, 30};
    uint64_t steps = steps_of_run(kinds), histories = 0, made[N_OUTCOMES] = {0};
    for (uint64_t at = 0; at < steps; at++) {
        for (int k = 0; k < 4; k++) {
            loss_t h = {.how = k % 2 ? LOST : ELSEWHERE, .consumer = k < 2 ? NOBODY : LEAVES_NEWEST, .direct = at % 2};
            h.first = (fault_t){.at = at};
            (void)play_loss(&h, SOUND, made);
            histories++;
            for (int o = DIE; o < N_OUTCOMES; o++) {
                for (size_t i = 0; i < 4; i++) {
                    h.first = (fault_t){at, (enum outcome)o, delays[(at + i) % 3]};
                    h.wake_after = wakes[i];
                    h.wake_unknown = (at + i) % 2;
                    (void)play_loss(&h, SOUND, made);
                    histories++;
                }
            }
        }
    }
    print_made("store lost at every step", histories, made);
}

/* Every request of a rebuild, every outcome, while the publication of the owner before it is done, late, or not done.
 */
static void test_every_step_of_rebuild(void **state) {
    static enum kind kinds[4096];
    static const enum outcome firsts[] = {FINE, DIE, DIE_DONE, DIE_LATE};
    uint64_t steps = steps_of_run(kinds), publish = steps, histories = 0, made[N_OUTCOMES] = {0};
    while (kinds[--publish] != RENAME) {
    } /* of the last file */
    for (uint64_t at = 0; at < 45; at++) {
        for (enum outcome second = REFUSED; second < N_OUTCOMES; second++) {
            for (size_t i = 0; i < 16; i++) {
                loss_t h = {.how = i & 1 ? LOST : ELSEWHERE, .consumer = (at + i / 4) % 2 ? NOBODY : LEAVES_NEWEST};
                h.first = (fault_t){publish, firsts[i / 4], 1 + at / 2};
                h.second = (fault_t){at, second, at % 3 ? 4 : 18};
                h.wake_after = i & 2 ? 1 + (at * 7 + i) % 40 : 0;
                h.wake_unknown = at % 2;
                (void)play_loss(&h, SOUND, made);
                histories++;
            }
        }
    }
    print_made("every step of a rebuild", histories, made);
}

static void test_loss_soak(void **state) {
    uint64_t made[N_OUTCOMES] = {0};
    const char *text = getenv("OSYNC_SOAK");
    uint64_t histories = text ? strtoull(text, NULL, 10) : 2000;
    for (uint64_t i = 1; i <= histories; i++) {
        uint64_t s = i * 0x9e3779b97f4a7c15u;
        loss_t h = {.direct = i % 2,
                    .how = seed_next(&s) % 2 ? LOST : ELSEWHERE,
                    .consumer = seed_next(&s) % 2 ? LEAVES_NEWEST : NOBODY,
                    .first = {seed_next(&s) % 50, (enum outcome)(seed_next(&s) % N_OUTCOMES), 1 + seed_next(&s) % 40},
                    .second = {seed_next(&s) % 60, (enum outcome)(seed_next(&s) % N_OUTCOMES), 1 + seed_next(&s) % 40},
                    .wake_after = seed_next(&s) % 2 ? 1 + seed_next(&s) % 100 : 0,
                    .wake_unknown = seed_next(&s) % 2};
        (void)play_loss(&h, SOUND, made);
    }
    print_made("soak with a lost store", histories, made);
}

/* A9: whichever compare-and-set an owner has under way when the store is lost and rebuilt, it is refused when it
 * arrives, and he is told. Returns how many were not. */
static unsigned stale_cas(enum mutant mutant, unsigned *tried) {
    static enum kind kinds[4096];
    uint64_t steps = steps_of_run(kinds);
    unsigned taken = 0;
    for (uint64_t at = 0; at < steps; at++) {
        if (kinds[at] != CAS) continue;
        world_t *w = world_new();
        owner_t a = {0}, b = {0};
        osync__buf_t before = {0};
        w->plan[0] = (fault_t){at, DIE, 0};
        w->n_plan = 1;
        w->mutant = mutant;
        owner_start(&a, w);
        RUN_UNTIL(w, &a, NULL, w->held);
        if (w->kept.has_value) { /* else it is the first, of one who isn't an owner yet */
            (*tried)++;
            w->kept.has_value = false;
            rebuilder_start(&b, w, &w->kept);
            RUN_UNTIL(w, NULL, &b, is_done(&b));
            set(&before, w->kept.value.data, w->kept.value.len);
            release(w, false);
            for (int limit = 300; limit > 0 && !a.failed; limit--) turn(w, &a, NULL);
            if (mutant == SOUND) assert_int_equal(a.err.code, OSYNC_ECONFLICT);
            taken += !osync__buf_equal(&before, &w->kept.value);
        }
        owner_close(w, &a);
        if (b.d) owner_close(w, &b);
        osync__buf_free(&before);
        world_free(w);
    }
    return taken;
}

static void test_stale_cas(void **state) {
    unsigned tried = 0;
    assert_int_equal(stale_cas(SOUND, &tried), 0);
    assert_true(tried >= 7);
}

/* A13: a stager that gives a file up that he has reported, and removes it. */
static unsigned stager_deletes(void) {
    unsigned wrong = 0;
    for (uint64_t delay = 0; delay < 16; delay++) {
        world_t *w = world_new();
        owner_t a = {0};
        osync__buf_t all = {0};
        w->direct = true;
        w->mutant = STAGER_DELETES;
        w->deletes_after = delay;
        owner_start(&a, w);
        RUN_UNTIL(w, &a, NULL, is_done(&a));
        wrong += !is_exact(w, &all);
        owner_close(w, &a);
        osync__buf_free(&all);
        world_free(w);
    }
    return wrong;
}

/* Worlds in which a rule is broken: a fence that is done after the look only, a store that compares versions only, a
 * stager that removes what he has reported. Each must be caught, or the tests above prove nothing. */
static void test_mutants(void **state) {
    unsigned late = 0, version, tried = 0, deletes = stager_deletes();
    for (uint64_t at = 20; at < 50; at++) {
        loss_t h = {.how = ELSEWHERE, .consumer = LEAVES_NEWEST, .first.at = at};
        late += !play_loss(&h, LATE_FENCE, NULL);
    }
    version = stale_cas(VERSION_ONLY, &tried);
    printf("mutants: late fence: wrong in %u of 30 histories; version only: %u of %u stale changes accepted; stager "
           "deletes: wrong in %u of 16\n",
           late, version, tried, deletes);
    assert_int_not_equal(late, 0);
    assert_int_not_equal(version, 0);
    assert_int_not_equal(deletes, 0);
}

/* Whoever still has the store that the other one did without is told, once, and stops; his delete leaves the other's
 * folder alone. */
static void test_replaced(void **state) {
    world_t *w = world_new();
    owner_t a = {0}, b = {0};
    owner_start(&a, w);
    RUN_UNTIL(w, &a, NULL, a.committed > ROWS / 2);
    rebuilder_start(&b, w, &w->other);
    RUN_UNTIL(w, NULL, &b, b.ready);
    assert_true(b.committed >= a.committed);
    RUN_UNTIL(w, &a, NULL, a.failed);
    assert_int_equal(a.err.code, OSYNC_ECONFLICT);
    assert_non_null(strstr(a.err.message, "recovered by another scheduler"));
    osync__delivery_remove(a.d, on_closed, &a);
    RUN_UNTIL(w, NULL, NULL, a.closed);
    assert_false(w->kept.has_value);
    assert_true(w->other.has_value);
    unsigned rewinds = b.rewinds;
    RUN_UNTIL(w, NULL, &b, is_done(&b));
    assert_int_equal(b.rewinds, rewinds); /* he has noticed nothing */
    owner_close(w, &b);
    audit(w);
    world_free(w);
}

/* The old one has listed the folder when the new one was in it, but his claim wasn't; his fence comes late, when the
 * new one has prepared a file. He must not remove what tells whether it was published. */
static void test_replaced_while_fencing(void **state) {
    world_t *w = world_new();
    owner_t first = {0}, a = {0}, b = {0};
    owner_start(&first, w);
    RUN_UNTIL(w, &first, NULL, first.committed > ROWS / 3);
    owner_close(w, &first);
    w->plan[0] = (fault_t){w->count + 5, DIE, 0};
    w->n_plan = 1;
    rebuilder_start(&b, w, &w->other);
    RUN_UNTIL(w, NULL, &b, w->held);
    request_t *claim = w->held;
    assert_non_null(strstr(claim->path, ".rebuilt"));

    osync__record_t r = {0};
    assert_int_equal(osync__record_unpack(&r, w->other.value.data, w->other.value.len, TASK, 3, NULL), 0);
    w->dies_fencing = r.incarnation;
    owner_start(&a, w);
    RUN_UNTIL(w, &a, NULL, w->held->next);
    request_t *fence = w->held->next;
    assert_int_equal(fence->kind, RENAME);
    w->dies_fencing = NULL;

    release_one(w, claim, false);
    w->dies_publishing = true;
    RUN_UNTIL(w, NULL, &b, fence->next);
    w->dies_publishing = false;
    request_t *publish = fence->next;
    release_one(w, fence, false);
    RUN_UNTIL(w, &a, NULL, a.failed);
    assert_int_equal(a.err.code, OSYNC_ECONFLICT);
    release_one(w, publish, false);
    RUN_UNTIL(w, NULL, &b, is_done(&b) || b.failed);
    if (b.failed) fail_msg("%s", b.err.message);
    osync__record_free(&r);
    owner_close(w, &a);
    osync__delivery_remove(b.d, on_closed, &b);
    RUN_UNTIL(w, NULL, NULL, b.closed);
    assert_false(w->other.has_value);
    assert_null(find(w, "/d/_osync"));
    audit(w);
    world_free(w);
}

/* Two recover the same partition at the same time, each with a store of his own, the second after any number of the
 * first one's steps: one goes on to the end, the other is told. */
static void test_two_rebuilds(void **state) {
    unsigned first = 0, second = 0;
    for (int i = 0; i < 24 || (i < 240 && (first == 0 || second == 0)); i++) {
        world_t *w = world_new();
        owner_t former = {0}, a = {0}, b = {0};
        owner_start(&former, w);
        RUN_UNTIL(w, &former, NULL, former.committed > ROWS / 3);
        owner_close(w, &former);
        w->kept.has_value = false;
        rebuilder_start(&a, w, &w->kept);
        for (int head_start = i % 24; head_start > 0; head_start--) turn(w, &a, NULL);
        rebuilder_start(&b, w, &w->other);
        /* (Who has committed all his rows before the other one's claim was there doesn't look any more.) */
        RUN_UNTIL(w, &a, &b, a.failed || b.failed || (is_done(&a) && is_done(&b)));
        owner_t *stays = a.failed ? &b : &a, *goes = a.failed ? &a : &b;
        first += b.failed;
        second += a.failed;
        if (goes->failed) assert_int_equal(goes->err.code, OSYNC_ECONFLICT);
        RUN_UNTIL(w, stays, NULL, is_done(stays) || stays->failed);
        if (stays->failed) fail_msg("%s", stays->err.message);
        owner_close(w, goes);
        owner_close(w, stays);
        audit(w);
        world_free(w);
    }
    printf("two rebuilds side by side: the first goes on %u times, the second %u times\n", first, second);
    /* Who it is, the names of the claims decide, which are random where both were made unseen by the other: mostly the
     * second. */
    assert_true(first + second > 0);
}

/* The totals are the labels'; older files may be gone; a record that is there is used as it is. */
static void test_rebuild(void **state) {
    for (int i = 0; i < 4; i++) {
        bool old_labels = i & 1;
        world_t *w = world_new();
        owner_t a = {0}, b = {0}, c = {0};
        osync__delivery_totals_t before, after;
        w->consumer = i & 2 ? LEAVES_NEWEST : NOBODY;
        owner_start(&a, w);
        RUN_UNTIL(w, &a, NULL, a.committed > ROWS / 2);
        osync__delivery_totals(a.d, &before);
        owner_close(w, &a);
        w->kept.has_value = false;
        for (node_t *n = w->nodes; n && old_labels; n = n->next) { /* they didn't have totals, nor a task's text */
            osync__label_t l = {0};
            if (!n->labelled || osync__label_unpack(&l, n->label.data, n->label.len)) continue;
            l.has_totals = false;
            l.task.len = 0;
            assert_int_equal(osync__label_pack(&l, &n->label), 0);
            osync__label_free(&l);
        }
        rebuilder_start(&b, w, &w->kept);
        RUN_UNTIL(w, NULL, NULL, b.ready);
        osync__delivery_totals(b.d, &after);
        assert_int_equal(before.files, after.files);
        if (!old_labels) assert_int_equal(before.rows, after.rows);
        if (!old_labels) assert_int_equal(before.bytes, after.bytes);
        assert_int_equal(b.committed, a.committed);
        RUN_UNTIL(w, NULL, &b, b.committed > a.committed + 3);
        int committed = b.committed;
        owner_close(w, &b);
        size_t lists = 0;
        uint64_t from = w->count;
        rebuilder_start(&c, w, &w->kept); /* nothing is lost this time */
        RUN_UNTIL(w, NULL, NULL, c.ready);
        for (uint64_t j = from; j < w->count; j++) lists += w->kinds[j] == LIST;
        assert_int_equal(lists, 1); /* the partition's folder, and not the destination */
        assert_int_equal(c.committed, committed);
        RUN_UNTIL(w, NULL, &c, is_done(&c));
        remove_and_audit(w, &c);
        assert_null(find(w, "/d/_osync"));
        world_free(w);
    }
}

/* What the owner gave is in every label, and so are the totals. */
static void test_labels(void **state) {
    world_t *w = world_new();
    owner_t a = {0};
    osync__delivery_config_t config = config_of(&w->loop, &w->sink, &w->kept.store, "/d", &a);
    config.task_info = "\x01\0task";
    config.task_info_len = 6;
    owner_make(&a, &config);
    osync__delivery_start(a.d);
    RUN_UNTIL(w, &a, NULL, is_done(&a));
    uint64_t rows = 0, bytes = 0, files = 0;
    node_t *n;
    DL_FOREACH(w->nodes, n) {
        if (!strstr(n->path, "/part-")) continue;
        osync__label_t l = {0};
        assert_int_equal(osync__label_unpack(&l, n->label.data, n->label.len), 0);
        assert_string_equal((char *)l.text.data, "db.t");
        assert_int_equal(l.task.len, 6);
        assert_memory_equal(l.task.data, "\x01\0task", 6);
        assert_int_equal(strlen(l.attempt), 32);
        assert_true(l.has_totals);
        assert_int_equal(l.total_rows, rows += l.rows);
        assert_int_equal(l.total_bytes, bytes += l.bytes);
        assert_int_equal(l.total_files, ++files);
        assert_int_equal(l.n, files - 1);
        osync__label_free(&l);
    }
    assert_true(files > 3);
    osync__delivery_totals_t t;
    osync__delivery_totals(a.d, &t);
    assert_int_equal(t.rows, rows);
    remove_and_audit(w, &a);
    world_free(w);
}

static void expect_no_rebuild(world_t *w, int code, const char *words) {
    owner_t a = {0};
    osync__delivery_config_t config = config_of(&w->loop, &w->sink, &w->kept.store, "/d", &a);
    config.rebuild = true;
    owner_make(&a, &config);
    osync__delivery_start(a.d);
    RUN_UNTIL(w, &a, NULL, a.failed);
    if (!strstr(a.err.message, words)) fail_msg("%s", a.err.message);
    assert_int_equal(a.err.code, code);
    owner_close(w, &a);
}

/* A11 and foreign files: that nothing says where to go on is an error, and nothing is written before the operator
 * decides. */
static void test_rebuild_refused(void **state) {
    for (int i = 0; i < 6; i++) {
        world_t *w = world_new();
        owner_t a = {0}, b = {0};
        owner_start(&a, w);
        RUN_UNTIL(w, &a, NULL, is_done(&a));
        owner_close(w, &a);
        w->kept.has_value = false;
        uint64_t newest = w->n_published - 1;
        char path[256], next[256];
        snprintf(path, sizeof path, "/d/part-" TASK "-00003-%010" PRIu64 ".csv", newest);
        snprintf(next, sizeof next, "/d/part-" TASK "-00003-%010" PRIu64 ".csv", newest + 7);
        node_t *n = find(w, path), *tmp;
        osync__label_t l = {0};
        assert_non_null(n);
        if (i == 0) {
            add(w, next, true);
            expect_no_rebuild(w, OSYNC_EEXIST, "is a folder");
            drop(w, find(w, next));
        } else if (i == 1) {
            add(w, next, false)->complete = true;
            expect_no_rebuild(w, OSYNC_EEXIST, "has no label of ours");
            drop(w, find(w, next));
        } else if (i == 2) { /* another file's label: a copy */
            node_t *copy = add(w, next, false);
            set(&copy->label, n->label.data, n->label.len);
            copy->labelled = true;
            expect_no_rebuild(w, OSYNC_EEXIST, "its label is that of another file");
            drop(w, copy);
        } else if (i == 3) { /* cut off by somebody */
            n->data.len--;
            expect_no_rebuild(w, OSYNC_EEXIST, "its label is that of another file");
            n->data.len++;
        } else if (i == 4) { /* names that are not quite ours don't matter */
            add(w, "/d/part-" TASK "-00003-99999999999.csv.bak", false);
            add(w, "/d/part-" TASK "-00003-x.csv", false);
            add(w, "/d/part-" TASK "-00003-99.csv", false);
            add(w, "/d/part-" TASK "-00004-0000000099.csv", false);
        } else {
            DL_FOREACH_SAFE(w->nodes, n, tmp) {
                if (strncmp(n->path, "/d/part-", 8) == 0) drop(w, n);
            }
            size_t before = w->n_published;
            expect_no_rebuild(w, OSYNC_ENOENT, "partition 3 of task " TASK);
            expect_no_rebuild(w, OSYNC_ENOENT, "no file in /d");
            expect_no_rebuild(w, OSYNC_ENOENT, "--start-over"); /* the record is there now, and says so again */
            assert_int_equal(w->n_published, before);
            for (size_t k = 0; k < before; k++) osync__buf_free(&w->published[k].data);
            w->n_published = 0; /* they come again, as was said */
        }
        osync__label_free(&l);
        rebuilder_start(&b, w, &w->kept);
        RUN_UNTIL(w, NULL, &b, is_done(&b));
        remove_and_audit(w, &b);
        world_free(w);
    }
}

/* An owner who was asleep from any step on is refused for good, and says so. */
static void test_zombie_is_told(void **state) {
    unsigned told = 0;
    for (uint64_t at = 12; at < 50; at++) {
        world_t *w = world_new();
        owner_t a = {0}, b = {0};
        w->plan[0] = (fault_t){.at = at, .outcome = DIE};
        w->n_plan = 1;
        owner_start(&a, w);
        RUN_UNTIL(w, &a, NULL, w->held);
        owner_start(&b, w);
        RUN_UNTIL(w, NULL, &b, is_done(&b));
        size_t before = w->n_published;
        release(w, false);
        RUN_UNTIL(w, &a, &b, a.failed);
        assert_int_equal(a.err.code, OSYNC_ECONFLICT);
        assert_non_null(strstr(a.err.message, "taken"));
        assert_int_equal(w->n_published, before);
        assert_true(b.ready);
        /* Nothing is done by him any more. */
        uint64_t count = w->count;
        assert_int_equal(osync__delivery_append(a.d, "x", 1, 1, "0", 1, "1", 1, on_appended, &a), OSYNC_EAGAIN);
        a.flushing = true;
        osync__delivery_flush(a.d, on_flushed, &a);
        RUN_UNTIL(w, NULL, NULL, !a.flushing);
        assert_int_equal(w->count, count);
        owner_close(w, &a);
        remove_and_audit(w, &b);
        world_free(w);
        told++;
    }
    assert_int_equal(told, 38);
}

/* A late MKDIRS of a fenced incarnation doesn't bring its folder back, even one that comes between the fence and what
 * is put in its place. */
static void test_no_way_back(void **state) {
    for (int revive = 0; revive < 2; revive++) {
        world_t *w = world_new();
        owner_t a = {0}, b = {0};
        char folder[256];
        osync__record_t r = {0};
        owner_start(&a, w);
        RUN_UNTIL(w, &a, NULL, a.pos == 1);
        assert_int_equal(osync__record_unpack(&r, w->kept.value.data, w->kept.value.len, TASK, 3, NULL), 0);
        snprintf(folder, sizeof folder, "/d/_osync/" TASK "/3/%s", r.incarnation);
        osync__record_free(&r);
        assert_non_null(find(w, folder));
        if (revive) { /* fenced by hand, and back again */
            char tomb[300];
            snprintf(tomb, sizeof tomb, "%s.fenced", folder);
            assert_int_equal(do_rename(w, folder, tomb), 0);
            assert_int_equal(do_mkdirs(w, folder), 0);
        }
        owner_start(&b, w);
        RUN_UNTIL(w, NULL, &b, is_done(&b));
        assert_false(find(w, folder)->dir);
        assert_int_equal(do_mkdirs(w, folder), OSYNC_EEXIST);
        owner_close(w, &a);
        remove_and_audit(w, &b);
        world_free(w);
    }
}

/* The owner closes, rewinds, or removes the partition at every step. */
static void test_close_at_every_step(void **state) {
    for (uint64_t i = 0; i < 260; i++) {
        uint64_t at = i / 2;
        world_t *w = world_new();
        owner_t a = {0}, b = {0};
        w->direct = i % 2;
        owner_start(&a, w);
        RUN_UNTIL(w, &a, NULL, w->count >= at || is_done(&a));
        owner_close(w, &a);
        owner_start(&b, w);
        RUN_UNTIL(w, NULL, &b, is_done(&b));
        remove_and_audit(w, &b);
        world_free(w);
    }
}
static void test_rewind_at_every_step(void **state) {
    for (uint64_t i = 0; i < 260; i++) {
        uint64_t at = i / 2;
        world_t *w = world_new();
        owner_t a = {0};
        w->direct = i % 2;
        owner_start(&a, w);
        RUN_UNTIL(w, &a, NULL, w->count >= at || is_done(&a));
        unsigned rewinds = a.rewinds;
        osync__delivery_rewind(a.d);
        a.ready = false;
        RUN_UNTIL(w, &a, NULL, a.rewinds > rewinds);
        assert_true(a.ready);
        RUN_UNTIL(w, &a, NULL, is_done(&a));
        remove_and_audit(w, &a);
        world_free(w);
    }
}
static void test_remove_at_every_step(void **state) {
    for (uint64_t i = 0; i < 260; i++) {
        uint64_t at = i / 2;
        world_t *w = world_new();
        owner_t a = {0};
        node_t *n;
        w->direct = i % 2;
        owner_start(&a, w);
        RUN_UNTIL(w, &a, NULL, w->count >= at || is_done(&a));
        osync__delivery_remove(a.d, on_closed, &a);
        a.ready = false;
        if (at % 2) { /* and with something that doesn't work at first */
            w->plan[0] = (fault_t){.at = w->count + at % 13, .outcome = REFUSED};
            w->plan[1] = (fault_t){.at = w->count + 1 + at % 7, .outcome = LOST_ANSWER};
            w->n_plan = 2;
        }
        RUN_UNTIL(w, NULL, NULL, is_gone(&a));
        assert_false(w->kept.has_value);
        size_t files = 0;
        DL_FOREACH(w->nodes, n) {
            if (at % 2 == 0 && strstr(n->path, "_osync")) fail_msg("left over: %s", n->path);
            if (strstr(n->path, TASK "/3")) fail_msg("left over: %s", n->path);
            files += strstr(n->path, "/part-") != NULL;
        }
        assert_int_equal(files, w->n_published); /* what was committed stays */
        world_free(w);
    }
}

static void test_remove_without_start(void **state) {
    world_t *w = world_new();
    owner_t a = {0}, b = {0};
    owner_start(&a, w);
    RUN_UNTIL(w, &a, NULL, is_done(&a));
    osync__delivery_config_t config = config_of(&w->loop, &w->sink, &w->kept.store, "/d", &b);
    owner_make(&b, &config);
    osync__delivery_remove(b.d, on_closed, &b);
    RUN_UNTIL(w, NULL, NULL, b.closed);
    assert_false(w->kept.has_value);
    assert_null(find(w, "/d/_osync"));
    owner_close(w, &a);
    audit(w);
    world_free(w);
}

#define STAGER "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define OTHER  "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define NAME   "cccccccccccccccccccccccccccccccc"

static void stage_by_hand(world_t *w, const osync__buf_t *folder, const char *name, const char *text) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", (const char *)folder->data, name);
    node_t *n = add(w, path, false);
    set(&n->data, text, strlen(text));
    n->complete = true;
}

static int adopt(owner_t *o, const char *incarnation, const char *name, uint64_t bytes, const char *start,
                 const char *end) {
    int rc = osync__delivery_adopt(o->d, incarnation, name, bytes, 2, start, strlen(start), end, strlen(end),
                                   on_appended, o);
    o->appending = o->appending || rc == 0;
    return rc;
}

/* What the interface of direct writing promises, one by one. */
static void test_adopt(void **state) {
    world_t *w = world_new();
    owner_t a = {0}, b = {0};
    osync__buf_t folder = {0}, former = {0};
    const char *incarnation = NULL;
    char first[33];
    owner_start(&a, w);
    assert_int_equal(osync__delivery_grant(a.d, STAGER, &incarnation, &folder), OSYNC_EAGAIN);
    RUN_UNTIL(w, NULL, NULL, a.ready);
    assert_int_equal(adopt(&a, NAME, NAME, 12, "0", "2"), OSYNC_EAGAIN); /* it is nobody's yet */
    assert_int_equal(osync__delivery_grant(a.d, "x", &incarnation, &folder), OSYNC_EINVAL);
    assert_int_equal(osync__delivery_grant(a.d, STAGER "a", &incarnation, &folder), OSYNC_EINVAL);
    assert_int_equal(osync__delivery_grant(a.d, STAGER, &incarnation, &folder), 0);
    assert_true(find(w, (const char *)folder.data)->dir);
    assert_string_equal(strrchr((const char *)folder.data, '/') + 1, incarnation);
    memcpy(first, incarnation, sizeof first);
    assert_int_equal(osync__delivery_grant(a.d, OTHER, &incarnation, &former), OSYNC_ECONFLICT);
    assert_int_equal(osync__delivery_grant(a.d, STAGER, &incarnation, &former), 0);
    assert_string_equal(incarnation, first);

    /* rows that were appended before come first, in a file of their own */
    RUN_UNTIL(w, &a, NULL, a.pos == 2);
    stage_by_hand(w, &folder, NAME, "row 2\n");
    assert_int_equal(adopt(&a, first, NAME, 6, "0", "4"), OSYNC_EINVAL); /* A14 */
    assert_int_equal(adopt(&a, OTHER, NAME, 6, "2", "4"), OSYNC_EAGAIN);
    assert_int_equal(adopt(&a, first, "../x", 6, "2", "4"), OSYNC_EINVAL);
    assert_int_equal(adopt(&a, first, NAME, 0, "2", "4"), OSYNC_EINVAL);
    assert_int_equal(adopt(&a, first, NAME, 6, "2", "4"), 0);
    assert_int_equal(adopt(&a, first, NAME, 6, "2", "4"), OSYNC_EINVAL); /* one at a time */
    osync__delivery_totals_t totals;
    osync__delivery_totals(a.d, &totals);
    assert_true(totals.staged_rows == 2 && totals.rows == 0);
    RUN_UNTIL(w, NULL, NULL, !a.appending);
    assert_int_equal(a.committed, 4);
    osync__delivery_totals(a.d, &totals);
    assert_true(totals.files == 2 && totals.rows == 4 && totals.bytes == 18 && totals.staged_bytes == 0);
    a.pos = 4;

    /* another stager gets another folder; what was appended is read again */
    drive(&a, ROWS);
    RUN_UNTIL(w, NULL, NULL, !a.appending);
    assert_int_equal(a.pos, 5);
    a.ready = false;
    osync__delivery_regrant(a.d);
    assert_int_equal(osync__delivery_grant(a.d, OTHER, &incarnation, &folder), OSYNC_EAGAIN);
    RUN_UNTIL(w, NULL, NULL, a.ready);
    assert_int_equal(a.pos, 4);
    set(&former, folder.data, folder.len);
    assert_int_equal(osync__delivery_grant(a.d, OTHER, &incarnation, &folder), 0);
    assert_string_not_equal(incarnation, first);
    assert_false(find(w, (const char *)former.data)->dir);
    assert_int_equal(osync__delivery_grant(a.d, STAGER, &incarnation, &former), OSYNC_ECONFLICT);

    /* who only granted, and staged nothing, is fenced like anybody */
    owner_start(&b, w);
    RUN_UNTIL(w, NULL, &b, is_done(&b));
    assert_false(find(w, (const char *)folder.data)->dir);
    stage_by_hand(w, &folder, NAME, "row 4\nrow 5\n"); /* where no real sink would take it */
    memcpy(first, strrchr((const char *)folder.data, '/') + 1, sizeof first);
    assert_int_equal(adopt(&a, first, NAME, 12, "4", "6"), 0);
    RUN_UNTIL(w, NULL, NULL, a.failed);
    assert_int_equal(a.err.code, OSYNC_ECONFLICT);
    osync__buf_free(&folder);
    osync__buf_free(&former);
    owner_close(w, &a);
    remove_and_audit(w, &b);
    world_free(w);
}

/* A file that was reported and isn't there, or isn't whole, is one that was lost: nothing is published. */
static void test_adopt_what_is_not_there(void **state) {
    for (int i = 0; i < 3; i++) {
        world_t *w = world_new();
        owner_t a = {0};
        osync__buf_t folder = {0};
        const char *incarnation = NULL;
        char first[33];
        owner_start(&a, w);
        RUN_UNTIL(w, NULL, NULL, a.ready);
        assert_int_equal(osync__delivery_grant(a.d, STAGER, &incarnation, &folder), 0);
        memcpy(first, incarnation, sizeof first);
        if (i == 1) stage_by_hand(w, &folder, NAME, "row 0\nrow 1");
        if (i == 2) {
            node_t *n = NULL;
            stage_by_hand(w, &folder, NAME, "");
            DL_FOREACH(w->nodes, n) {
                if (strstr(n->path, NAME)) n->dir = true;
            }
        }
        assert_int_equal(adopt(&a, first, NAME, 12, "0", "2"), 0);
        RUN_UNTIL(w, NULL, NULL, !a.appending);
        RUN_UNTIL(w, NULL, NULL, a.rewinds == 3 && a.ready); /* the start, the trouble, its end */
        assert_int_equal(w->n_published, 0);
        assert_int_equal(osync__delivery_grant(a.d, STAGER, &incarnation, &folder), 0);
        assert_string_not_equal(incarnation, first);
        osync__buf_free(&folder);
        RUN_UNTIL(w, &a, NULL, is_done(&a));
        remove_and_audit(w, &a);
        world_free(w);
    }
}

#define SLOT(n) "/d/part-" TASK "-00003-000000000" #n ".csv"

static void expect_failure(world_t *w, int code, const char *words) {
    owner_t a = {0};
    owner_start(&a, w);
    RUN_UNTIL(w, &a, NULL, a.failed);
    if (!strstr(a.err.message, words)) fail_msg("%s", a.err.message);
    assert_int_equal(a.err.code, code);
    owner_close(w, &a);
    world_free(w);
}

static void test_foreign_file(void **state) {
    world_t *w = world_new();
    add(w, SLOT(1), false)->complete = true;
    expect_failure(w, OSYNC_EEXIST, SLOT(1));
    w = world_new();
    add(w, SLOT(0), true); /* a folder: a rename must not put the file into it */
    expect_failure(w, OSYNC_EEXIST, "is a folder");
    w = world_new();
    node_t *n = add(w, SLOT(0), false);
    osync__buf_t start = {0}, end = {0};
    set(&start, "7", 1);
    set(&end, "9", 1);
    osync__label_t l = {.task_id = TASK, .pid = 3, .attempt = NO_ID, .start = start, .end = end, .rows = 1};
    osync__label_pack(&l, &n->label);
    n->labelled = n->complete = true;
    osync__buf_free(&start);
    osync__buf_free(&end);
    expect_failure(w, OSYNC_EEXIST, "doesn't continue");
}

/* The files describe themselves: a lost store is rebuilt from the labels, and nothing is published twice. */
static void test_lost_store(void **state) {
    for (int keep = 0; keep < 2; keep++) {
        world_t *w = world_new();
        owner_t a = {0}, b = {0};
        osync__buf_t old = {0};
        owner_start(&a, w);
        RUN_UNTIL(w, &a, NULL, a.committed >= ROWS / 2);
        set(&old, w->kept.value.data, w->kept.value.len);
        RUN_UNTIL(w, &a, NULL, is_done(&a));
        osync__delivery_totals_t before, after;
        osync__delivery_totals(a.d, &before);
        owner_close(w, &a);
        w->kept.has_value = keep; /* lost, or put back from a backup */
        set(&w->kept.value, old.data, old.len);
        owner_start(&b, w);
        RUN_UNTIL(w, NULL, &b, is_done(&b));
        osync__delivery_totals(b.d, &after);
        assert_int_equal(before.rows, after.rows);
        assert_int_equal(before.bytes, after.bytes);
        assert_int_equal(before.files, after.files);
        osync__buf_free(&old);
        remove_and_audit(w, &b);
        assert_null(find(w, "/d/_osync"));
        world_free(w);
    }
}

/* The prepared file's fate can't be told any more: that is said, and nothing is guessed. */
static void test_cleaned(void **state) {
    world_t *w = world_new();
    owner_t a = {0};
    owner_start(&a, w);
    RUN_UNTIL(w, &a, NULL, a.pos == 1);
    w->fail_kind = RENAME; /* neither the publication nor the fence is answered with success */
    w->fail_status = OSYNC_ETIMEOUT;
    RUN_UNTIL(w, &a, NULL, a.troubled);
    do_remove(w, "/d/_osync", true);
    w->fail_kind = -1;
    RUN_UNTIL(w, &a, NULL, a.failed);
    assert_int_equal(a.err.code, OSYNC_ENOENT);
    assert_non_null(strstr(a.err.message, "cleaned /d/_osync"));
    assert_int_equal(w->n_published, 0);
    owner_close(w, &a);
    world_free(w);

    /* Dead between prepare and publish. */
    w = world_new();
    owner_t b = {0};
    a = (owner_t){0};
    owner_start(&a, w);
    RUN_UNTIL(w, &a, NULL, a.pos == 1);
    w->dies_publishing = true;
    RUN_UNTIL(w, &a, NULL, w->held);
    w->dies_publishing = false;
    do_remove(w, "/d/_osync", true);
    owner_start(&b, w);
    RUN_UNTIL(w, NULL, &b, b.failed);
    assert_int_equal(b.err.code, OSYNC_ENOENT);
    assert_non_null(strstr(b.err.message, "cleaned /d/_osync"));
    assert_int_equal(w->n_published, 0);
    owner_close(w, &a);
    owner_close(w, &b);
    world_free(w);

    /* Nothing prepared: a new incarnation, and on. */
    w = world_new();
    a = (owner_t){0};
    owner_start(&a, w);
    RUN_UNTIL(w, &a, NULL, a.pos == 1);
    do_remove(w, "/d/_osync", true);
    RUN_UNTIL(w, &a, NULL, is_done(&a));
    remove_and_audit(w, &a);
    world_free(w);
}

static void test_permanent(void **state) {
    world_t *w = world_new();
    w->fail_kind = SET_LABEL;
    w->fail_status = OSYNC_ENOTSUP;
    expect_failure(w, OSYNC_ENOTSUP, "/d can't be used as a destination: labelling a file");
    w = world_new();
    w->fail_kind = RENAME;
    w->fail_status = OSYNC_EXDEV; /* between encryption zones */
    expect_failure(w, OSYNC_EXDEV, "renaming a file");

    /* The probe's label fits, a file's doesn't. */
    w = world_new();
    owner_t a = {0};
    owner_start(&a, w);
    RUN_UNTIL(w, &a, NULL, a.pos == 1);
    w->fail_kind = SET_LABEL;
    w->fail_status = OSYNC_ETOOBIG;
    RUN_UNTIL(w, &a, NULL, a.failed);
    assert_int_equal(a.err.code, OSYNC_ETOOBIG);
    assert_non_null(strstr(a.err.message, "the label of file 0 ("));
    /* A partition that has failed can still be removed. */
    w->fail_kind = -1;
    osync__delivery_remove(a.d, on_closed, &a);
    RUN_UNTIL(w, NULL, NULL, a.closed);
    assert_null(find(w, "/d/_osync"));
    world_free(w);
}

static void prober_start(owner_t *o, world_t *w, kept_t *kept, uint32_t pid, bool *probed) {
    osync__delivery_config_t config = config_of(&w->loop, &w->sink, &kept->store, "/d", o);
    config.pid = pid;
    config.probed = probed;
    owner_make(o, &config);
    osync__delivery_start(o->d);
}

/* Partitions that start together try their sink out once; a probe that fails, or that nobody sees the end of, isn't
 * one. */
static void test_one_probe(void **state) {
    world_t *w = world_new();
    owner_t a = {0}, b = {0};
    bool probed = false;
    unsigned renames = 0;
    prober_start(&a, w, &w->kept, 3, &probed);
    prober_start(&b, w, &w->other, 4, &probed);
    RUN_UNTIL(w, NULL, NULL, a.ready && b.ready);
    assert_true(probed);
    for (uint64_t i = 0; i < w->count; i++) renames += w->kinds[i] == RENAME;
    assert_int_equal(renames, 1);
    owner_close(w, &a);
    owner_close(w, &b);
    world_free(w);

    w = world_new();
    w->fail_kind = SET_LABEL;
    w->fail_status = OSYNC_ENOTSUP;
    probed = false;
    prober_start(&a, w, &w->kept, 3, &probed);
    RUN_UNTIL(w, NULL, NULL, a.failed);
    assert_false(probed);
    uint64_t label = w->count - 1;
    while (w->kinds[label] != SET_LABEL) label--;
    owner_close(w, &a);
    world_free(w);

    w = world_new();
    w->plan[w->n_plan++] = (fault_t){.at = label, .outcome = DIE};
    prober_start(&a, w, &w->kept, 3, &probed);
    RUN_UNTIL(w, NULL, NULL, w->held);
    assert_true(probed);
    owner_close(w, &a);
    assert_false(probed);
    world_free(w);
}

/* What passes is waited out, with one word about it. */
static void test_waited_out(void **state) {
    static const int codes[] = {OSYNC_ENOSPC,   OSYNC_EPERM,    OSYNC_EIO, OSYNC_ECONN,
                                OSYNC_ETIMEOUT, OSYNC_EUNKNOWN, OSYNC_ERPC};
    static const int kinds[] = {MKDIRS, CREATE, WRITE, FINISH, STAT, SET_LABEL, RENAME, LIST, GET, CAS};
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        for (size_t j = 0; j < sizeof kinds / sizeof kinds[0]; j++) {
            world_t *w = world_new();
            owner_t a = {0};
            owner_start(&a, w);
            if (i % 2) RUN_UNTIL(w, &a, NULL, a.pos == 1);
            w->fail_kind = kinds[j];
            w->fail_status = codes[i];
            for (int k = 0; k < 200; k++) turn(w, &a, NULL);
            assert_false(a.failed);
            w->fail_kind = -1;
            RUN_UNTIL(w, &a, NULL, is_done(&a));
            /* However long it lasted, the record doesn't grow. */
            osync__record_t r = {0};
            assert_int_equal(osync__record_unpack(&r, w->kept.value.data, w->kept.value.len, TASK, 3, NULL), 0);
            assert_true(r.n_former <= 3);
            osync__record_free(&r);
            remove_and_audit(w, &a);
            world_free(w);
        }
    }
}

static void append_one(world_t *w, owner_t *o, const char *data) {
    int n = snprintf(o->start, sizeof o->start, "%d", o->pos);
    int m = snprintf(o->end, sizeof o->end, "%d", o->pos + 1);
    assert_int_equal(
        osync__delivery_append(o->d, data, strlen(data), 1, o->start, (size_t)n, o->end, (size_t)m, on_appended, o), 0);
    o->appending = true;
    RUN_UNTIL(w, NULL, NULL, !o->appending);
}

static void test_rolling(void **state) {
    world_t *w = world_new();
    owner_t a = {0};
    osync__delivery_config_t config = config_of(&w->loop, &w->sink, &w->kept.store, "/d", &a);
    config.roll_bytes = 10;
    owner_make(&a, &config);
    osync__delivery_start(a.d);
    RUN_UNTIL(w, NULL, NULL, a.ready);
    osync__delivery_totals_t t;

    append_one(w, &a, "12345");
    append_one(w, &a, "6789");
    osync__delivery_totals(a.d, &t);
    assert_int_equal(t.staged_bytes, 9);
    assert_int_equal(t.staged_rows, 2);
    assert_int_equal(w->n_published, 0);
    append_one(w, &a, "a chunk is never split");
    RUN_UNTIL(w, NULL, NULL, a.committed == 3);
    assert_int_equal(w->n_published, 1);
    assert_int_equal(w->published[0].data.len, 31);

    append_one(w, &a, "a chunk larger than a file goes through");
    RUN_UNTIL(w, NULL, NULL, a.committed == 4);

    append_one(w, &a, "x");
    a.flushing = true;
    osync__delivery_flush(a.d, on_flushed, &a);
    RUN_UNTIL(w, NULL, NULL, !a.flushing);
    assert_int_equal(a.committed, 5);
    assert_int_equal(w->n_published, 3);
    a.flushing = true;
    osync__delivery_flush(a.d, on_flushed, &a); /* nothing to do: at once, but not from inside */
    assert_true(a.flushing);
    RUN_UNTIL(w, NULL, NULL, !a.flushing);
    assert_int_equal(w->n_published, 3);

    append_one(w, &a, ""); /* the point alone */
    a.flushing = true;
    osync__delivery_flush(a.d, on_flushed, &a);
    RUN_UNTIL(w, NULL, NULL, !a.flushing);
    assert_int_equal(a.committed, 6);
    assert_int_equal(w->n_published, 3);

    /* Wrong calls are refused. */
    assert_int_equal(osync__delivery_append(a.d, "x", 1, 1, "5", 1, "6", 1, on_appended, &a), OSYNC_EINVAL);
    osync__delivery_totals(a.d, &t);
    assert_int_equal(t.files, 3);
    assert_int_equal(t.rows, 5);
    assert_int_equal(t.bytes, 31 + 39 + 1);
    owner_close(w, &a);
    world_free(w);
}

static void test_roll_by_time(void **state) {
    world_t *w = world_new();
    owner_t a = {0};
    osync__delivery_config_t config = config_of(&w->loop, &w->sink, &w->kept.store, "/d", &a);
    config.roll_interval_ms = 40;
    config.roll_bytes = 1000;
    owner_make(&a, &config);
    osync__delivery_start(a.d);
    RUN_UNTIL(w, NULL, NULL, a.ready);
    uint64_t start = osync__mono_ms();
    append_one(w, &a, "one");
    append_one(w, &a, "two");
    bool in_time = osync__mono_ms() - start < 40; /* else the machine was too busy, and they may be in two files */
    RUN_UNTIL(w, NULL, NULL, a.committed == 2);
    assert_true(osync__mono_ms() - start >= 35);
    size_t files = w->n_published;
    assert_true(files == 1 || !in_time);
    append_one(w, &a, "");
    RUN_UNTIL(w, NULL, NULL, a.committed == 3);
    assert_int_equal(w->n_published, files);
    owner_close(w, &a);

    owner_t b = {0};
    owner_start(&b, w);
    RUN_UNTIL(w, NULL, NULL, b.ready);
    assert_int_equal(b.pos, 3);
    owner_close(w, &b);
    world_free(w);
}

static void test_bad_config(void **state) {
    owner_t a;
    osync__delivery_t *d;
    osync_error_t err;
    world_t *w = world_new();
    osync__delivery_config_t config = config_of(&w->loop, &w->sink, &w->kept.store, "/d", &a);
    config.task_id = "../x";
    assert_int_equal(osync__delivery_new(&config, &d, &err), OSYNC_EINVAL);
    assert_non_null(strstr(err.message, "../x"));
    char dest[4000];
    memset(dest, 'd', sizeof dest);
    dest[sizeof dest - 1] = 0;
    config.task_id = TASK;
    config.dest = dest;
    assert_int_equal(osync__delivery_new(&config, &d, &err), OSYNC_ETOOBIG);
    world_free(w);
}

/* A record that isn't one, or of another task, is not overwritten. */
static void test_bad_record(void **state) {
    world_t *w = world_new();
    w->kept.has_value = true;
    set(&w->kept.value, "nonsense", 8);
    expect_failure(w, OSYNC_ECORRUPT, "damaged");
    w = world_new();
    osync__record_t r = {.incarnation = "0123456789abcdef0123456789abcdef",
                         .owner = "0123456789abcdef0123456789abcdef"};
    osync__record_pack(&r, "another", 3, &w->kept.value);
    w->kept.has_value = true;
    expect_failure(w, OSYNC_EINVAL, "says task another");
}

/* Real files, real SQLite */

typedef struct real {
    uv_loop_t loop;
    char dir[64], dest[96], db[96];
    osync_sink_t *sink;
    osync_checkpoint_t *store;
    bool rebuild;
    owner_t o;
} real_t;

static void real_open(real_t *r) {
    osync_error_t err = {0};
    uv_loop_init(&r->loop);
    if (osync_file_sink_new(&r->sink, &r->loop, 2, &err) ||
        osync_sqlite_checkpoint_new(&r->store, &r->loop, r->db, &err))
        fail_msg("%s", err.message);
    osync__delivery_config_t config = config_of(&r->loop, r->sink, r->store, r->dest, &r->o);
    config.rebuild = config.start_over = r->rebuild;
    owner_make(&r->o, &config);
    osync__delivery_start(r->o.d);
}
static void real_run(real_t *r, bool *end) {
    while (!*end && !r->o.failed && !is_done(&r->o)) {
        bool begun = drive(&r->o, ROWS);
        uv_run(&r->loop, begun ? UV_RUN_NOWAIT : UV_RUN_ONCE);
    }
    if (r->o.failed) fail_msg("%s", r->o.err.message);
}
static void on_end(void *arg) {
    (void)arg;
}
static void real_close(real_t *r) {
    if (r->o.d) osync__delivery_close(r->o.d, on_closed, &r->o);
    while (!r->o.closed) uv_run(&r->loop, UV_RUN_ONCE);
    r->sink->ops->close(r->sink, on_end, NULL);
    r->store->ops->close(r->store, on_end, NULL);
    uv_run(&r->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&r->loop), 0);
}
static int by_name(const void *a, const void *b) {
    return strcmp(a, b);
}
static void real_audit(real_t *r, bool removed) {
    char names[MAX_FILES][128];
    size_t n = 0;
    DIR *d = opendir(r->dest);
    assert_non_null(d);
    struct dirent *e;
    while ((e = readdir(d))) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (!removed && strcmp(e->d_name, "_osync") == 0) continue;
        assert_true(n < MAX_FILES);
        assert_int_equal(strncmp(e->d_name, "part-" TASK "-00003-", 48), 0);
        snprintf(names[n++], sizeof names[0], "%.120s", e->d_name);
    }
    closedir(d);
    qsort(names, n, sizeof names[0], by_name);
    osync__buf_t all = {0}, expected = {0};
    for (size_t i = 0; i < n; i++) {
        char path[256], name[128];
        osync__buf_t one = {0};
        snprintf(name, sizeof name, "part-" TASK "-00003-%010zu.csv", i);
        assert_string_equal(names[i], name);
        snprintf(path, sizeof path, "%s/%.120s", r->dest, names[i]);
        assert_int_equal(osync__read_file(path, 100000, &one, NULL), 0);
        assert_int_equal(osync__buf_append(&all, one.data, one.len), 0);
        osync__buf_free(&one);
    }
    expected_of(&expected, ROWS);
    if (!osync__buf_equal(&all, &expected)) fail_msg("published:\n%.*s", (int)all.len, (const char *)all.data);
    osync__buf_free(&all);
    osync__buf_free(&expected);
}
static void real_new(real_t *r) {
    *r = (real_t){0};
    snprintf(r->dir, sizeof r->dir, "/tmp/osync-delivery-XXXXXX");
    assert_non_null(mkdtemp(r->dir));
    snprintf(r->dest, sizeof r->dest, "%s/out", r->dir);
    snprintf(r->db, sizeof r->db, "%s/checkpoint.db", r->dir);
    assert_int_equal(osync__mkdirs(r->dest, NULL), 0);
}
static void real_remove(real_t *r) {
    real_audit(r, false);
    osync__delivery_remove(r->o.d, on_closed, &r->o);
    r->o.d = NULL;
    real_close(r);
    real_audit(r, true);
    osync__rmtree(r->dir, NULL);
}

static void test_files(void **state) {
    real_t r;
    bool end = false;
    real_new(&r);
    real_open(&r);
    real_run(&r, &end);
    real_audit(&r, false);
    real_close(&r);
    real_open(&r); /* finds itself at the end */
    real_run(&r, &end);
    real_remove(&r);
}

static void lose_store(const real_t *r) {
    static const char *const ends[] = {"", "-wal", "-shm", "-journal"};
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s%s", r->db, ends[i]);
        (void)unlink(path);
    }
}

/* Killed by SIGKILL, again and again; and all but the files is lost each time. */
static void files_killed(bool lost) {
    real_t r;
    bool end = false;
    unsigned killed = 0;
    uint64_t s = 42;
    real_new(&r);
    r.rebuild = lost;
    for (int i = 0; i < 25; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            real_open(&r);
            real_run(&r, &end);
            _exit(0);
        }
        usleep((useconds_t)(1000 + seed_next(&s) % 40000)); /* any moment will do */
        kill(pid, SIGKILL);
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        killed += WIFSIGNALED(status);
        if (lost) lose_store(&r);
        if (!WIFSIGNALED(status)) { /* it was faster: once more from the beginning */
            assert_int_equal(WEXITSTATUS(status), 0);
            real_audit(&r, false);
            osync__rmtree(r.dir, NULL);
            assert_int_equal(osync__mkdirs(r.dest, NULL), 0);
        }
    }
    printf("real files%s: %u of 25 processes killed before they were done\n", lost ? ", store lost" : "", killed);
    real_open(&r);
    real_run(&r, &end);
    real_remove(&r);
}
static void test_files_killed(void **state) {
    files_killed(false);
}
static void test_files_lost(void **state) {
    files_killed(true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rolling),
        cmocka_unit_test(test_roll_by_time),
        cmocka_unit_test(test_bad_config),
        cmocka_unit_test(test_bad_record),
        cmocka_unit_test(test_permanent),
        cmocka_unit_test(test_one_probe),
        cmocka_unit_test(test_waited_out),
        cmocka_unit_test(test_foreign_file),
        cmocka_unit_test(test_lost_store),
        cmocka_unit_test(test_cleaned),
        cmocka_unit_test(test_zombie_is_told),
        cmocka_unit_test(test_no_way_back),
        cmocka_unit_test(test_close_at_every_step),
        cmocka_unit_test(test_rewind_at_every_step),
        cmocka_unit_test(test_remove_at_every_step),
        cmocka_unit_test(test_remove_without_start),
        cmocka_unit_test(test_every_step),
        cmocka_unit_test(test_every_step_consumed),
        cmocka_unit_test(test_replaced_stager),
        cmocka_unit_test(test_every_step_direct),
        cmocka_unit_test(test_every_step_of_recovery),
        cmocka_unit_test(test_every_step_of_recovery_direct),
        cmocka_unit_test(test_adopt),
        cmocka_unit_test(test_adopt_what_is_not_there),
        cmocka_unit_test(test_soak),
        cmocka_unit_test(test_labels),
        cmocka_unit_test(test_rebuild),
        cmocka_unit_test(test_rebuild_refused),
        cmocka_unit_test(test_replaced),
        cmocka_unit_test(test_replaced_while_fencing),
        cmocka_unit_test(test_two_rebuilds),
        cmocka_unit_test(test_stale_cas),
        cmocka_unit_test(test_loss_at_every_step),
        cmocka_unit_test(test_every_step_of_rebuild),
        cmocka_unit_test(test_loss_soak),
        cmocka_unit_test(test_mutants),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_files_killed),
        cmocka_unit_test(test_files_lost),
    };
    if (getenv("OSYNC_LOG")) osync_log_set(osync_log_stderr, NULL, OSYNC_LOG_DEBUG);
    if (getenv("OSYNC_TEST")) cmocka_set_test_filter(getenv("OSYNC_TEST"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
