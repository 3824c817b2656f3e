/* Where a partition can be worked on: its leader's machine, or its followers', from the table's TableInfo, and the
 * collectors there. */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "format/table.h"
#include "scheduler/internal.h"

enum { NAMES_AT_ONCE = 16 };

/* One tablet, and the host to look for. */
typedef struct want {
    osync__sub_t *sub;
    char *tablet; /* NULL: none, sub->place_error says why */
    char host[OSYNC__HOST_SIZE];
    osync__place_t *place;
} want_t;

struct osync__place {
    osync__task_t *task;
    osync__place_cb cb; /* of leaders */
    osync__replicas_cb replicas_cb;
    want_t *wants;
    size_t n;
    char **collectors;
    size_t n_collectors;
    size_t next_name, open_names;
    int status;
    osync_error_t err;
};

static void place_end(osync__place_t *p) {
    osync__task_t *t = p->task;
    if (p->replicas_cb) {
        p->replicas_cb(t, p->status, p);
    } else {
        t->placing = false;
        p->cb(t, p->status, p->status ? &p->err : NULL);
    }
    for (size_t i = 0; i < p->n; i++) osync__free(p->wants[i].tablet);
    for (size_t i = 0; i < p->n_collectors; i++) osync__free(p->collectors[i]);
    osync__free(p->collectors);
    osync__free(p->wants);
    osync__free(p);
    osync__sched_task_drop(t);
}

static void place_failed(osync__place_t *p, int status, const osync_error_t *err, const char *what) {
    p->status = status;
    osync__err(&p->err, status, "%s: %s", what, err ? err->message : osync_strerror(status));
    place_end(p);
}

static bool collector_is_on(const osync__place_t *p, size_t i, const char *host) {
    char own[OSYNC__HOST_SIZE];
    osync__host_of(p->collectors[i], own);
    return osync__hosts_same(p->task->s->hosts, own, host);
}

/* How many subtasks of ours a collector has. */
static size_t load_of(const osync_scheduler_t *s, const char *collector) {
    size_t n = 0;
    for (const osync__task_t *t = s->tasks; t; t = t->hh.next) {
        if (t->state == OSYNC__TASK_REMOVING) continue;
        for (size_t i = 0; i < t->n_subs; i++) {
            const osync__sub_t *sub = &t->subs[i];
            if (sub->status != OSYNC__SCHEDULER__STATUS__SUCCESS && sub->status != OSYNC__SCHEDULER__STATUS__FAILED &&
                sub->collector && strcmp(sub->collector, collector) == 0)
                n++;
        }
    }
    return n;
}

static void no_place(osync__sub_t *sub, bool waits, const char *text) {
    sub->place_waits = waits;
    if (osync__sched_set(&sub->place_error, text)) sub->place_away = true;
}

/* How much speaks against a collector: it is the one that could not take the partition last time, or it can't link the
 * log. */
static int doubt(const osync__sub_t *sub, const char *collector) {
    if (sub->failed_collector && strcmp(sub->failed_collector, collector) == 0) return 2;
    const osync__hold_t *h = osync__sched_hold_of(sub, collector);
    return h && h->error ? 1 : 0;
}

static void choose(osync__place_t *p) {
    osync__task_t *t = p->task;
    char text[1024];
    size_t *loads = osync__calloc(p->n_collectors + 1, sizeof *loads);
    if (!loads) {
        place_failed(p, OSYNC_ENOMEM, NULL, "choosing a collector");
        return;
    }
    for (size_t i = 0; i < p->n_collectors; i++) loads[i] = load_of(t->s, p->collectors[i]);
    for (size_t w = 0; w < p->n; w++) {
        want_t *want = &p->wants[w];
        osync__sub_t *sub = want->sub;
        size_t best = p->n_collectors;
        int best_doubt = 0;
        if (!want->tablet) continue;
        for (size_t i = 0; i < p->n_collectors; i++) {
            if (!collector_is_on(p, i, want->host)) continue;
            int own = doubt(sub, p->collectors[i]);
            if (best == p->n_collectors || own < best_doubt || (own == best_doubt && loads[i] < loads[best])) {
                best = i;
                best_doubt = own;
            }
        }
        if (best == p->n_collectors) {
            if (p->n_collectors == 0)
                snprintf(text, sizeof text, "java.lang.RuntimeException: can't find data collectors in zk");
            else
                snprintf(text, sizeof text, "java.lang.RuntimeException: can't find living data collector in host: %s",
                         want->host);
            no_place(sub, true, text);
            continue;
        }
        loads[best]++;
        if (osync__sched_set(&sub->place_collector, p->collectors[best]) ||
            osync__sched_set(&sub->place_tablet, want->tablet))
            sub->place_away = true;
    }
    osync__free(loads);
    place_end(p);
}

static void on_hosts(void *arg) {
    osync__place_t *p = arg;
    if (p->task->s->closing)
        place_failed(p, OSYNC_ECANCELED, NULL, "looking for a collector");
    else if (p->replicas_cb)
        place_end(p);
    else
        choose(p);
}

/* Names are only looked up if equal text doesn't settle it. */
static void look_up_hosts(osync__place_t *p) {
    size_t n = 0;
    const char **names = osync__calloc(p->n + p->n_collectors + 1, sizeof *names);
    char(*hosts)[OSYNC__HOST_SIZE] = osync__calloc(p->n_collectors + 1, sizeof *hosts);
    int rc = 1;
    if (!names || !hosts) goto done;
    for (size_t i = 0; i < p->n_collectors; i++) osync__host_of(p->collectors[i], hosts[i]);
    for (size_t w = 0; w < p->n; w++) {
        want_t *want = &p->wants[w];
        bool seen = !want->tablet;
        for (size_t i = 0; i < p->n_collectors && !seen; i++) seen = strcmp(hosts[i], want->host) == 0;
        for (size_t i = 0; i < n && !seen; i++) seen = strcmp(names[i], want->host) == 0;
        if (!seen) names[n++] = want->host;
    }
    if (n > 0) {
        for (size_t i = 0; i < p->n_collectors; i++) names[n++] = hosts[i];
        rc = osync__hosts_lookup(p->task->s->hosts, names, n, on_hosts, p);
    }
done:
    osync__free(names);
    osync__free(hosts);
    if (rc != 0) on_hosts(p);
}

static void ask_names(osync__place_t *p);

static void on_name(void *arg, int status, const char *endpoint, const osync_error_t *err) {
    want_t *want = arg;
    osync__place_t *p = want->place;
    p->open_names--;
    if (status && !p->status) {
        p->status = status;
        osync__err(&p->err, status, "ZooKeeper can't be asked for the address of %s: %s", want->tablet,
                   err ? err->message : osync_strerror(status));
    } else if (!status && osync__sched_set(&want->tablet, endpoint)) {
        p->status = osync__err(&p->err, OSYNC_ENOMEM, "out of memory");
    }
    if (want->tablet) osync__host_of(want->tablet, want->host);
    ask_names(p);
}

/* A leader that isn't "host:port" is a server name (use_name). */
static void ask_names(osync__place_t *p) {
    osync__catalog_t *c = p->task->s->catalog;
    while (!p->status && p->next_name < p->n && p->open_names < NAMES_AT_ONCE) {
        want_t *want = &p->wants[p->next_name++];
        if (!want->tablet || strchr(want->tablet, ':')) continue;
        p->open_names++;
        int rc = p->task->s->closing ? OSYNC_ECANCELED : c->ops->resolve(c, want->tablet, on_name, want);
        if (rc) {
            p->open_names--;
            p->status = osync__err(&p->err, rc, "ZooKeeper can't be asked for the address of %s: %s", want->tablet,
                                   osync_strerror(rc));
        }
    }
    if (p->open_names > 0) return;
    if (!p->status && p->task->s->closing)
        p->status = osync__err(&p->err, OSYNC_ECANCELED, "the scheduler is stopping");
    if (p->status)
        place_end(p);
    else
        look_up_hosts(p);
}

static void on_collectors(void *arg, int status, const char *const *names, size_t n, const osync_error_t *err) {
    osync__place_t *p = arg;
    if (status) {
        place_failed(p, status, err, "ZooKeeper can't be asked for the collectors");
        return;
    }
    p->collectors = osync__calloc(n + 1, sizeof *p->collectors);
    for (size_t i = 0; p->collectors && i < n; i++) {
        p->collectors[i] = osync__strdup(names[i]);
        if (!p->collectors[i]) break;
        p->n_collectors++;
    }
    if (p->n_collectors < n || !p->collectors) {
        place_failed(p, OSYNC_ENOMEM, NULL, "the list of collectors");
        return;
    }
    ask_names(p);
}

/* The one leader that is alive. */
static void find_leader(want_t *want, const Openmldb__Nameserver__TableInfo *info) {
    const Openmldb__Nameserver__TablePartition *partition = NULL;
    const Openmldb__Nameserver__PartitionMeta *leader = NULL, *dead = NULL;
    osync__sub_t *sub = want->sub;
    char text[1024] = "";
    size_t leaders = 0;
    for (size_t i = 0; i < info->n_table_partition && !partition; i++)
        if (info->table_partition[i]->pid == sub->pid) partition = info->table_partition[i];
    for (size_t i = 0; partition && i < partition->n_partition_meta; i++) {
        const Openmldb__Nameserver__PartitionMeta *m = partition->partition_meta[i];
        if (m->is_leader && m->is_alive) {
            leader = m;
            leaders++;
        } else if (m->is_leader) {
            dead = m;
        }
    }
    if (!partition)
        snprintf(text, sizeof text, "the table has no partition %u any more", sub->pid);
    else if (leaders > 1)
        snprintf(text, sizeof text, "partition %u has %zu leaders in ZooKeeper", sub->pid, leaders);
    else if (!leader && dead)
        snprintf(text, sizeof text, "the leader of partition %u, %s, isn't alive", sub->pid, dead->endpoint);
    else if (!leader)
        snprintf(text, sizeof text, "java.util.NoSuchElementException"); /* the original's whole text */
    if (*text) {
        no_place(sub, partition != NULL, text);
        return;
    }
    want->tablet = osync__strdup(leader->endpoint);
    if (want->tablet)
        osync__host_of(want->tablet, want->host);
    else
        sub->place_away = true;
}

/* All that are alive, followers first. */
static int find_replicas(osync__place_t *p, const Openmldb__Nameserver__TableInfo *info) {
    size_t room = 0;
    for (size_t i = 0; i < info->n_table_partition; i++) room += info->table_partition[i]->n_partition_meta;
    p->wants = osync__calloc(room + 1, sizeof *p->wants);
    if (!p->wants) return OSYNC_ENOMEM;
    for (int leaders = 0; leaders < 2; leaders++) {
        for (size_t i = 0; i < info->n_table_partition; i++) {
            const Openmldb__Nameserver__TablePartition *partition = info->table_partition[i];
            osync__sub_t *sub = osync__sched_task_sub(p->task, partition->pid);
            for (size_t m = 0; sub && m < partition->n_partition_meta; m++) {
                const Openmldb__Nameserver__PartitionMeta *meta = partition->partition_meta[m];
                if (!meta->is_alive || (meta->is_leader != 0) != (leaders == 1)) continue;
                want_t *want = &p->wants[p->n++];
                *want = (want_t){.sub = sub, .place = p, .tablet = osync__strdup(meta->endpoint)};
                if (!want->tablet) return OSYNC_ENOMEM;
                osync__host_of(want->tablet, want->host);
            }
        }
    }
    return 0;
}

static void on_table(void *arg, int status, const void *data, size_t len, const osync_error_t *err) {
    osync__place_t *p = arg;
    osync__task_t *t = p->task;
    osync_scheduler_t *s = t->s;
    Openmldb__Nameserver__TableInfo *info = NULL;
    osync__schema_t *schema = NULL;
    if (status == OSYNC_ENOENT) {
        char text[512];
        snprintf(text, sizeof text, "table %s.%s (tid %u) doesn't exist any more", t->db, t->name, t->tid);
        p->status = osync__err(&p->err, OSYNC_ENOENT, "%s", text);
        place_end(p);
        return;
    }
    if (status) {
        place_failed(p, status, err, "ZooKeeper can't be asked for the table");
        return;
    }
    info = openmldb__nameserver__table_info__unpack(&osync__protobuf_allocator, len, data);
    if (!info) {
        place_failed(p, OSYNC_ECORRUPT, NULL, "the table's TableInfo in ZooKeeper");
        return;
    }
    int rc = 0;
    if (p->replicas_cb) rc = find_replicas(p, info);
    for (size_t i = 0; i < p->n && !p->replicas_cb; i++) find_leader(&p->wants[i], info);
    openmldb__nameserver__table_info__free_unpacked(info, &osync__protobuf_allocator);
    if (osync__sched_schema_new(&schema, data, len, t->timezone, NULL) == 0) {
        if (!t->schema || schema->n_columns > t->schema->n_columns) {
            osync__sched_schema_unref(t->schema);
            t->schema = schema;
        } else {
            osync__sched_schema_unref(schema);
        }
    }
    if (!rc) rc = s->closing ? OSYNC_ECANCELED : s->catalog->ops->collectors(s->catalog, on_collectors, p);
    if (rc) place_failed(p, rc, NULL, "ZooKeeper can't be asked for the collectors");
}

int osync__sched_place(osync__task_t *task, const void *info, size_t len, osync__place_cb cb) {
    osync__place_t *p = osync__calloc(1, sizeof *p);
    if (p) p->wants = osync__calloc(task->n_subs, sizeof *p->wants);
    if (!p || !p->wants) {
        osync__free(p);
        return OSYNC_ENOMEM;
    }
    p->task = task;
    p->cb = cb;
    for (size_t i = 0; i < task->n_subs; i++) {
        osync__sub_t *sub = &task->subs[i];
        osync__sched_set(&sub->place_error, NULL);
        sub->place_away = false;
        if (!sub->placing) continue;
        p->wants[p->n].sub = sub;
        p->wants[p->n++].place = p;
    }
    task->placing = true;
    osync__sched_task_hold(task);
    if (info) {
        on_table(p, 0, info, len, NULL);
        return 0;
    }
    int rc = task->s->catalog->ops->get(task->s->catalog, task->tid, on_table, p);
    if (rc) on_table(p, rc, NULL, 0, NULL);
    return 0;
}

int osync__sched_replicas(osync__task_t *task, osync__replicas_cb cb) {
    osync__place_t *p = osync__calloc(1, sizeof *p);
    if (!p) return OSYNC_ENOMEM;
    p->task = task;
    p->replicas_cb = cb;
    osync__sched_task_hold(task);
    int rc = task->s->catalog->ops->get(task->s->catalog, task->tid, on_table, p);
    if (rc) on_table(p, rc, NULL, 0, NULL);
    return 0;
}

void osync__sched_replicas_each(const osync__place_t *p, osync__replica_cb each) {
    for (size_t w = 0; w < p->n; w++)
        for (size_t i = 0; i < p->n_collectors; i++)
            if (collector_is_on(p, i, p->wants[w].host)) each(p->wants[w].sub, p->wants[w].tablet, p->collectors[i]);
}

bool osync__sched_replicas_have(const osync__place_t *p, const char *collector) {
    for (size_t i = 0; i < p->n_collectors; i++)
        if (strcmp(p->collectors[i], collector) == 0) return true;
    return false;
}
