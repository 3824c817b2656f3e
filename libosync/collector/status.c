/* GET /status of the collector: what it does now, as text or JSON. */
#include <jansson.h>
#include <string.h>

#include "base/alloc.h"
#include "collector/internal.h"
#include "osync/version.h"

static const char *data_path(const osync__task_status_t *s) {
    return s->direct ? "direct" : "proxy";
}

static json_t *task_json(const osync__task_status_t *s) {
    return json_pack("{s:I, s:I, s:s, s:b, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
                     "tid", (json_int_t)s->tid, "pid", (json_int_t)s->pid, "state", s->state, "failed", s->failed,
                     "reason", s->reason, "tablet", s->tablet, "scheduler", s->scheduler, "point", s->point,
                     "committed", s->committed, "data_path", data_path(s), "staged_rows", (json_int_t)s->staged_rows,
                     "staged_bytes", (json_int_t)s->staged_bytes, "rows_sent", (json_int_t)s->rows_sent,
                     "snapshot_rows", (json_int_t)s->snapshot_rows, "log_tail", (json_int_t)s->log_tail, "linked_files",
                     (json_int_t)s->link_files, "linked_bytes", (json_int_t)s->link_bytes, "pinned_bytes",
                     (json_int_t)s->pinned_bytes);
}

static json_t *hold_json(const osync__hold_status_t *s) {
    return json_pack("{s:I, s:I, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "tid", (json_int_t)s->tid, "pid",
                     (json_int_t)s->pid, "task", s->task_id, "tablet", s->tablet, "reason", s->reason, "first_entry",
                     (json_int_t)s->first, "last_entry", (json_int_t)s->last, "linked_files", (json_int_t)s->link_files,
                     "linked_bytes", (json_int_t)s->link_bytes, "pinned_bytes", (json_int_t)s->pinned_bytes,
                     "expires_ms", (json_int_t)s->expires_ms);
}

static void reply_json(osync__rpc_call_t *call, const osync__status_page_t *page) {
    osync__task_status_t s;
    osync__hold_status_t held;
    json_t *tasks = json_array(), *holds = json_array();
    uint64_t linked = 0;
    for (const osync__partition_t *p = page->partitions; p; p = p->hh.next) {
        const osync__task_t *t = p->active ? p->active : p->incoming;
        if (p->hold) {
            osync__hold_status(p->hold, &held);
            linked += held.link_bytes;
            json_t *hold = hold_json(&held);
            if (!hold) hold = json_pack("{s:I, s:I}", "tid", (json_int_t)held.tid, "pid", (json_int_t)held.pid);
            json_array_append_new(holds, hold);
        }
        if (!t) continue;
        osync__task_status(t, &s);
        linked += s.link_bytes;
        json_t *task = task_json(&s);
        /* A reason may hold a peer's bytes that are no UTF-8. */
        if (!task)
            task = json_pack("{s:I, s:I, s:s}", "tid", (json_int_t)s.tid, "pid", (json_int_t)s.pid, "state", s.state);
        json_array_append_new(tasks, task);
    }
    json_t *all = json_pack(
        "{s:s, s:s, s:I, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "version", OSYNC_VERSION,
        "endpoint", page->endpoint, "uptime_ms", (json_int_t)page->uptime_ms, "registered", page->registered,
        "linked_bytes", (json_int_t)linked, "pinned_bytes", (json_int_t)page->pinned_bytes, "max_pinned_bytes",
        (json_int_t)page->config->max_pinned_bytes, "free_bytes", (json_int_t)page->free_bytes, "disk_bytes",
        (json_int_t)page->disk_bytes, "min_free_percent", (json_int_t)page->config->min_free_percent, "bytes_in_flight",
        (json_int_t)page->bytes_in_flight, "max_bytes_in_flight", (json_int_t)page->config->max_bytes_in_flight,
        "traverses", (json_int_t)page->traverses, "max_traverses", (json_int_t)page->config->max_traverses, "tasks",
        tasks, "holds", holds);
    osync__rpc_reply_json(call, all);
}

static int print_task(osync__buf_t *b, const osync__task_status_t *s) {
    return osync__buf_printf(
        b,
        "\n[%u-%u]\nstate: %s\nreason: %s\ntablet: %s\nscheduler: %s\naccepted: %s\ncommitted: %s\nrows_sent: %llu\n"
        "data_path: %s (%llu rows, %llu bytes staged)\n"
        "snapshot_rows (estimate): %llu\nlog_tail: %llu\nlinks: %llu files, %llu bytes (%llu that only they keep)\n",
        s->tid, s->pid, s->state, s->reason[0] ? s->reason : "-", s->tablet, s->scheduler, s->point, s->committed,
        (unsigned long long)s->rows_sent, data_path(s), (unsigned long long)s->staged_rows,
        (unsigned long long)s->staged_bytes, (unsigned long long)s->snapshot_rows, (unsigned long long)s->log_tail,
        (unsigned long long)s->link_files, (unsigned long long)s->link_bytes, (unsigned long long)s->pinned_bytes);
}

static int print_hold(osync__buf_t *b, const osync__hold_status_t *s) {
    return osync__buf_printf(b,
                             "\n[hold %u-%u]\nreason: %s\ntablet: %s\ntask: %s\nentries: %llu to %llu\n"
                             "links: %llu files, %llu bytes (%llu that only they keep)\nexpires: in %llu s\n",
                             s->tid, s->pid, s->reason[0] ? s->reason : "-", s->tablet, s->task_id,
                             (unsigned long long)s->first, (unsigned long long)s->last,
                             (unsigned long long)s->link_files, (unsigned long long)s->link_bytes,
                             (unsigned long long)s->pinned_bytes, (unsigned long long)(s->expires_ms / 1000));
}

static int print_disk(osync__buf_t *b, const osync__status_page_t *page) {
    unsigned long long most = page->config->max_pinned_bytes;
    int rc = osync__buf_printf(b, "pinned: %llu bytes that the TabletServer has deleted",
                               (unsigned long long)page->pinned_bytes);
    if (!rc && most > 0) rc = osync__buf_printf(b, " (max_pinned_bytes %llu)", most);
    if (!rc && page->disk_known)
        rc = osync__buf_printf(b, "\nfree: %llu of %llu bytes of the file system (min_free_percent %u)",
                               (unsigned long long)page->free_bytes, (unsigned long long)page->disk_bytes,
                               page->config->min_free_percent);
    return rc ? rc : osync__buf_printf(b, "\n");
}

static int print_limits(osync__buf_t *b, const osync__status_page_t *page) {
    const osync_collector_config_t *config = page->config;
    return osync__buf_printf(
        b, "in flight: %llu bytes of rows (max_bytes_in_flight %llu)\ntraverses: %llu snapshots (max_traverses %u)\n",
        (unsigned long long)page->bytes_in_flight, (unsigned long long)config->max_bytes_in_flight,
        (unsigned long long)page->traverses, config->max_traverses);
}

static void reply_text(osync__rpc_call_t *call, const osync__status_page_t *page) {
    osync__task_status_t s;
    osync__hold_status_t held;
    osync__buf_t b = {0};
    size_t tasks = 0, holds = 0;
    for (const osync__partition_t *p = page->partitions; p; p = p->hh.next) {
        tasks += p->active || p->incoming;
        holds += p->hold != NULL;
    }
    int rc = osync__buf_printf(
        &b, "version: %s\nendpoint: %s\nuptime: %llu s\nregistered: %s\ntasks: %zu\nholds: %zu\n", OSYNC_VERSION,
        page->endpoint, (unsigned long long)(page->uptime_ms / 1000), page->registered ? "yes" : "no", tasks, holds);
    if (!rc) rc = print_disk(&b, page);
    if (!rc) rc = print_limits(&b, page);
    for (const osync__partition_t *p = page->partitions; !rc && p; p = p->hh.next) {
        const osync__task_t *t = p->active ? p->active : p->incoming;
        if (p->hold) {
            osync__hold_status(p->hold, &held);
            rc = print_hold(&b, &held);
        }
        if (!t || rc) continue;
        osync__task_status(t, &s);
        rc = print_task(&b, &s);
    }
    if (rc)
        osync__rpc_reply_http(call, 500, "text/plain", "out of memory\n", 14);
    else
        osync__rpc_reply_http(call, 200, "text/plain", b.data, b.len);
    osync__buf_free(&b);
}

void osync__status_reply(osync__rpc_call_t *call, const osync__status_page_t *page) {
    if (strstr(osync__rpc_query(call), "format=json"))
        reply_json(call, page);
    else
        reply_text(call, page);
}
