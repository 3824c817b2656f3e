/* The list of collectors: who is registered in ZooKeeper, who has been given what, and when each was last heard of.
 * Nothing that decides depends on it: a partition's own silence does that (assign.c).
 *
 * A collector without work sends nothing by itself. So each that is registered is asked when the list is: to release a
 * hold that nobody has, which one of ours answers, and which one of the original says that it doesn't know. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/sys.h"
#include "scheduler/internal.h"

enum {
    MAX_SEEN = 4096,
    MAX_LISTS = 16,               /* requests at once */
    LISTED_MS = 24 * 3600 * 1000, /* one that has gone since is listed for so long */
    PROBE_MS = 1000,              /* a collector that is stopped doesn't keep the list for longer */
};

struct osync__seen {
    char *endpoint;
    osync__kind_t kind;
    uint64_t ms;
    UT_hash_handle hh;
};

/* ---- what is known ---- */

static void seen_free(osync_scheduler_t *s, osync__seen_t *seen) {
    HASH_DEL(s->seen, seen);
    osync__free(seen->endpoint);
    osync__free(seen);
}

static void forget_oldest(osync_scheduler_t *s) {
    osync__seen_t *oldest = s->seen;
    for (osync__seen_t *x = s->seen; x; x = x->hh.next)
        if (x->ms < oldest->ms) oldest = x;
    if (oldest) seen_free(s, oldest);
}

void osync__sched_seen(osync_scheduler_t *s, const char *endpoint, osync__kind_t kind) {
    osync__seen_t *x = NULL;
    if (!endpoint) return;
    HASH_FIND_STR(s->seen, endpoint, x);
    if (!x) {
        if (HASH_COUNT(s->seen) >= MAX_SEEN) forget_oldest(s);
        x = osync__calloc(1, sizeof *x);
        if (x) x->endpoint = osync__strdup(endpoint);
        if (!x || !x->endpoint) {
            osync__free(x);
            return;
        }
        HASH_ADD_KEYPTR(hh, s->seen, x->endpoint, strlen(x->endpoint), x);
        if (!x->hh.tbl) {
            osync__free(x->endpoint);
            osync__free(x);
            return;
        }
    }
    if (kind) x->kind = kind;
    x->ms = osync__wall_ms();
}

void osync__sched_seen_free(osync_scheduler_t *s) {
    osync__seen_t *x, *next;
    HASH_ITER(hh, s->seen, x, next) seen_free(s, x);
}

osync__kind_t osync__sched_kind(int status, const osync_error_t *err) {
    if (!status) return OSYNC__KIND_OSYNC;
    if (status == OSYNC_ERPC && err && (strstr(err->message, "[E1001]") || strstr(err->message, "[E1002]")))
        return OSYNC__KIND_ORIGINAL;
    return OSYNC__KIND_UNKNOWN;
}

/* ---- one list ---- */

typedef struct item {
    char *endpoint;
    bool registered;
    char **tasks, **holds;
    size_t n_tasks, n_holds;
    char host[OSYNC__HOST_SIZE];
    UT_hash_handle hh;
} item_t;

typedef struct list {
    osync_scheduler_t *s;
    osync__rpc_call_t *call;
    item_t *items;
    item_t *next; /* to be asked */
    size_t asked; /* calls under way */
    bool asking;
    int rc;
    char fault[1100]; /* why it isn't known who is registered; "": it is */
} list_t;

typedef struct probe {
    list_t *list;
    item_t *item;
} probe_t;

static void texts_free(char **texts, size_t n) {
    for (size_t i = 0; i < n; i++) osync__free(texts[i]);
    osync__free(texts);
}

static void list_free(list_t *l) {
    osync_scheduler_t *s = l->s;
    item_t *x, *next;
    HASH_ITER(hh, l->items, x, next) {
        HASH_DEL(l->items, x);
        texts_free(x->tasks, x->n_tasks);
        texts_free(x->holds, x->n_holds);
        osync__free(x->endpoint);
        osync__free(x);
    }
    osync__free(l);
    s->n_lists--;
    osync__sched_drop(s);
}

static item_t *item_of(list_t *l, const char *endpoint) {
    item_t *x = NULL;
    HASH_FIND_STR(l->items, endpoint, x);
    if (x) return x;
    x = osync__calloc(1, sizeof *x);
    if (x) x->endpoint = osync__strdup(endpoint);
    if (x && x->endpoint) {
        osync__host_of(endpoint, x->host);
        HASH_ADD_KEYPTR(hh, l->items, x->endpoint, strlen(x->endpoint), x);
        if (x->hh.tbl) return x;
        osync__free(x->endpoint);
    }
    osync__free(x);
    l->rc = OSYNC_ENOMEM;
    return NULL;
}

static void add_partition(list_t *l, char ***texts, size_t *n, const osync__sub_t *sub) {
    char text[32];
    if ((*n & (*n - 1)) == 0) { /* full at each power of two */
        char **more = osync__realloc(*texts, (*n ? *n * 2 : 1) * sizeof **texts);
        if (!more) {
            l->rc = OSYNC_ENOMEM;
            return;
        }
        *texts = more;
    }
    snprintf(text, sizeof text, "%" PRIu32 "-%" PRIu32, sub->task->tid, sub->pid);
    (*texts)[*n] = osync__strdup(text);
    if ((*texts)[*n])
        (*n)++;
    else
        l->rc = OSYNC_ENOMEM;
}

static void add_partitions(list_t *l) {
    for (const osync__task_t *t = l->s->tasks; t && !l->rc; t = t->hh.next) {
        if (t->state == OSYNC__TASK_REMOVING) continue;
        for (size_t i = 0; i < t->n_subs && !l->rc; i++) {
            const osync__sub_t *sub = &t->subs[i];
            bool has_it = sub->collector && sub->status != OSYNC__SCHEDULER__STATUS__SUCCESS;
            item_t *x = has_it ? item_of(l, sub->collector) : NULL;
            if (x) add_partition(l, &x->tasks, &x->n_tasks, sub);
            for (const osync__hold_t *h = sub->held; h && !l->rc; h = h->next) {
                if (h->error || h->last_entry == 0) continue; /* it keeps nothing */
                x = item_of(l, h->collector);
                if (x) add_partition(l, &x->holds, &x->n_holds, sub);
            }
        }
    }
}

static void add_seen(list_t *l) {
    uint64_t now = osync__wall_ms();
    for (const osync__seen_t *x = l->s->seen; x && !l->rc; x = x->hh.next)
        if (x->ms + LISTED_MS > now) (void)item_of(l, x->endpoint);
}

static int by_endpoint(const item_t *a, const item_t *b) {
    return strcmp(a->endpoint, b->endpoint);
}

static void show(const list_t *l, const item_t *x, Openmldb__Datasync__CollectorInfo *out) {
    static const char *const kinds[] = {
        [OSYNC__KIND_UNKNOWN] = NULL, [OSYNC__KIND_OSYNC] = "osync", [OSYNC__KIND_ORIGINAL] = "original"};
    osync__seen_t *seen = NULL;
    openmldb__datasync__collector_info__init(out);
    HASH_FIND_STR(l->s->seen, x->endpoint, seen);
    out->endpoint = x->endpoint;
    out->host = (char *)(uintptr_t)x->host;
    out->has_registered = !*l->fault;
    out->registered = x->registered;
    out->kind = seen ? (char *)(uintptr_t)kinds[seen->kind] : NULL;
    out->has_last_seen = seen != NULL;
    out->last_seen = seen ? seen->ms : 0;
    out->tasks = x->tasks;
    out->n_tasks = x->n_tasks;
    out->holds = x->holds;
    out->n_holds = x->n_holds;
}

static void answer(osync__rpc_call_t *call, int code, const char *msg, Openmldb__Datasync__CollectorInfo **infos,
                   size_t n) {
    Openmldb__Datasync__GeneralResponse general = OPENMLDB__DATASYNC__GENERAL_RESPONSE__INIT;
    Openmldb__Datasync__CollectorsResponse r = OPENMLDB__DATASYNC__COLLECTORS_RESPONSE__INIT;
    general.has_code = 1;
    general.code = code;
    general.msg = (char *)(uintptr_t)msg;
    r.response = &general;
    r.collectors = infos;
    r.n_collectors = n;
    osync__rpc_reply(call, &r.base);
}

static void finish(list_t *l) {
    add_partitions(l);
    add_seen(l);
    HASH_SORT(l->items, by_endpoint);
    size_t n = 0, room = HASH_COUNT(l->items) + 1;
    Openmldb__Datasync__CollectorInfo *infos = osync__calloc(room, sizeof *infos),
                                      **list = osync__calloc(room, sizeof *list);
    if (!infos || !list) l->rc = OSYNC_ENOMEM;
    for (const item_t *x = l->items; x && !l->rc; x = x->hh.next) {
        show(l, x, &infos[n]);
        list[n] = &infos[n];
        n++;
    }
    if (l->rc)
        answer(l->call, -1, "out of memory", NULL, 0);
    else
        answer(l->call, *l->fault ? -1 : 0, *l->fault ? l->fault : NULL, list, n);
    osync__free(infos);
    osync__free(list);
    list_free(l);
}

/* ---- who answers ---- */

static void ask_next(list_t *l);

static void on_probed(void *arg, int status, const ProtobufCMessage *response, const osync_error_t *err) {
    probe_t *p = arg;
    list_t *l = p->list;
    osync__kind_t kind = osync__sched_kind(status, err);
    if (kind) osync__sched_seen(l->s, p->item->endpoint, kind);
    osync__free(p);
    l->asked--;
    ask_next(l);
}

static void ask(list_t *l, item_t *x) {
    osync_scheduler_t *s = l->s;
    osync_error_t err = {0};
    char none[] = "";
    Openmldb__Datasync__HoldLogRequest r = OPENMLDB__DATASYNC__HOLD_LOG_REQUEST__INIT;
    r.has_tid = r.has_pid = r.has_release = r.release = 1; /* tid 0: no table has it */
    r.task_id = r.tablet_endpoint = none;
    probe_t *p = osync__calloc(1, sizeof *p);
    if (!p) return;
    *p = (probe_t){.list = l, .item = x};
    uint32_t timeout = s->request_timeout_ms < PROBE_MS ? s->request_timeout_ms : PROBE_MS;
    l->asked++;
    int rc = osync__rpc_call(s->client, x->endpoint, "DataCollector", "HoldLog", &r.base, NULL, 0,
                             &openmldb__datasync__hold_log_response__descriptor, timeout, on_probed, p, NULL, &err);
    if (rc) on_probed(p, rc, NULL, &err);
}

static void ask_next(list_t *l) {
    if (l->asking) return; /* a call that ended at once */
    l->asking = true;
    while (l->next && l->asked < OSYNC__MAX_ADDS && !l->s->closing) {
        item_t *x = l->next;
        l->next = x->hh.next;
        ask(l, x);
    }
    l->asking = false;
    if (l->asked == 0) finish(l);
}

static void on_registered(void *arg, int status, const char *const *names, size_t n, const osync_error_t *err) {
    list_t *l = arg;
    if (status)
        snprintf(l->fault, sizeof l->fault, "who is registered isn't known, ZooKeeper can't be asked: %s",
                 err ? err->message : osync_strerror(status));
    for (size_t i = 0; i < n && !status; i++) {
        item_t *x = item_of(l, names[i]);
        if (x) x->registered = true;
    }
    l->next = l->items;
    ask_next(l);
}

void osync__sched_on_collectors(osync__rpc_call_t *call, void *arg) {
    osync_scheduler_t *s = arg;
    if (!s->loaded || s->closing) {
        answer(call, -1, s->load_error, NULL, 0);
        return;
    }
    list_t *l = s->n_lists < MAX_LISTS ? osync__calloc(1, sizeof *l) : NULL;
    if (!l) {
        answer(call, -1, "too many lists of collectors at once, try again", NULL, 0);
        return;
    }
    l->s = s;
    l->call = call;
    s->n_lists++;
    osync__sched_hold(s);
    int rc = s->catalog->ops->collectors(s->catalog, on_registered, l);
    if (rc) on_registered(l, rc, NULL, 0, NULL);
}
