/* Sync points as the scheduler sees them (opaque but for display), a subtask's state, and small helpers. */
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "scheduler/internal.h"

/* More of a key than this says nothing to a reader of an error message. */
enum { MAX_TEXT_PK = 1024 };

int osync__sched_set(char **to, const char *from) {
    char *copy = from ? osync__strdup(from) : NULL;
    if (from && !copy) return OSYNC_ENOMEM;
    osync__free(*to);
    *to = copy;
    return 0;
}

int osync__sched_point_pack(osync__buf_t *out, const Openmldb__Datasync__SyncPoint *point) {
    size_t len = openmldb__datasync__sync_point__get_packed_size(point);
    out->len = 0;
    if (osync__buf_reserve(out, len)) return OSYNC_ENOMEM;
    out->len = openmldb__datasync__sync_point__pack(point, out->data);
    return 0;
}

Openmldb__Datasync__SyncPoint *osync__sched_point_unpack(const void *data, size_t len) {
    return openmldb__datasync__sync_point__unpack(&osync__protobuf_allocator, len, data);
}

static int escape(osync__buf_t *out, const uint8_t *data, size_t len) {
    static const char from[] = "\a\b\f\n\r\t\v\\\"'", to[] = "abfnrtv\\\"'";
    int rc = 0;
    for (size_t i = 0; i < len && i < MAX_TEXT_PK && !rc; i++) {
        const char *at = data[i] ? strchr(from, data[i]) : NULL;
        if (at)
            rc = osync__buf_printf(out, "\\%c", to[at - from]);
        else if (data[i] < 0x20 || data[i] >= 0x7f)
            rc = osync__buf_printf(out, "\\%03o", (unsigned)data[i]);
        else
            rc = osync__buf_append(out, data + i, 1);
    }
    if (!rc && len > MAX_TEXT_PK) rc = osync__buf_printf(out, "...");
    return rc;
}

int osync__sched_point_text(osync__buf_t *out, const Openmldb__Datasync__SyncPoint *p) {
    int rc = osync__buf_printf(out, "type: %s\n",
                               p->type == OPENMLDB__DATASYNC__SYNC_TYPE__kBINLOG ? "kBINLOG" : "kSNAPSHOT");
    if (!rc && p->has_pk) {
        rc = osync__buf_printf(out, "pk: \"");
        if (!rc) rc = escape(out, p->pk.data, p->pk.len);
        if (!rc) rc = osync__buf_printf(out, "\"\n");
    }
    if (!rc && p->has_ts) rc = osync__buf_printf(out, "ts: %llu\n", (unsigned long long)p->ts);
    if (!rc && p->has_offset) rc = osync__buf_printf(out, "offset: %llu\n", (unsigned long long)p->offset);
    return rc;
}

const char *osync__sched_status_name(Osync__Scheduler__Status status) {
    switch (status) {
    case OSYNC__SCHEDULER__STATUS__INIT:
        return "INIT";
    case OSYNC__SCHEDULER__STATUS__RUNNING:
        return "RUNNING";
    case OSYNC__SCHEDULER__STATUS__REASSIGNING:
        return "REASSIGNING";
    case OSYNC__SCHEDULER__STATUS__SUCCESS:
        return "SUCCESS";
    default:
        return "FAILED";
    }
}

void osync__sched_sub_state(osync__sub_t *sub, Osync__Scheduler__Status status, Osync__Scheduler__Cause cause,
                            const char *reason) {
    bool changed = sub->status != status || sub->cause != cause;
    bool failed_otherwise =
        status == OSYNC__SCHEDULER__STATUS__FAILED && (!sub->reason || !reason || strcmp(sub->reason, reason) != 0);
    sub->status = status;
    sub->cause = cause;
    if (osync__sched_set(&sub->reason, reason)) osync__sched_set(&sub->reason, NULL);
    if (changed || failed_otherwise) {
        bool failed = status == OSYNC__SCHEDULER__STATUS__FAILED;
        osync__log(failed ? OSYNC_LOG_WARN : OSYNC_LOG_INFO, "task %s.%s tid %u pid %u: %s%s%s", sub->task->db,
                   sub->task->name, sub->task->tid, sub->pid, osync__sched_status_name(status), reason ? ": " : "",
                   reason ? reason : "");
        osync__sched_record_put(&sub->record);
    }
}

void osync__sched_sub_waits(osync__sub_t *sub, const char *what) {
    if (sub->status != OSYNC__SCHEDULER__STATUS__FAILED && sub->status != OSYNC__SCHEDULER__STATUS__SUCCESS)
        osync__sched_sub_state(sub, sub->status, sub->cause, what);
}

void osync__sched_reply_general(osync__rpc_call_t *call, int code, const char *msg) {
    Openmldb__Datasync__GeneralResponse response = OPENMLDB__DATASYNC__GENERAL_RESPONSE__INIT;
    char text[] = "";
    response.has_code = 1;
    response.code = code;
    osync__buf_t b = {0};
    if (msg && osync__buf_append(&b, msg, strlen(msg) + 1) == 0)
        response.msg = (char *)b.data;
    else if (msg)
        response.msg = text;
    osync__rpc_reply(call, &response.base);
    osync__buf_free(&b);
}
