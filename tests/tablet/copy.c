#include "copy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "tablet_control.pb-c.h"

enum { TIMEOUT_MS = 2000, BATCH_BYTES = 1 << 20 };

#define CONTROL "osync.test.TestTablet"

typedef struct asked {
    osync__rpc_client_t *client;
    partition_t *p;
    char leader[300];
} asked_t;

/* ---- the follower ---- */

static bool still_follows(const asked_t *a) {
    return a->p->leader && !strcmp(a->p->leader, a->leader) && !a->p->paused;
}

static void done(asked_t *a, int rc, const osync_error_t *err) {
    if (rc && rc != OSYNC_ECANCELED && rc != OSYNC_ECONN && rc != OSYNC_ETIMEOUT && rc != OSYNC_EAGAIN)
        fprintf(stderr, "osync-test-tablet: copy of %d_%u from %s: %s\n", a->p->table->meta->tid, a->p->pid, a->leader,
                err->message);
    a->p->asking = false;
    free(a);
}

static void on_snapshot(void *arg, int status, const ProtobufCMessage *message, const osync_error_t *rpc_err) {
    asked_t *a = arg;
    const Osync__Test__CopyReply *r = (const void *)message;
    osync_error_t err = {0};
    int rc = status;
    if (status) {
        err = *rpc_err;
    } else if (r->code) {
        rc = osync__err(&err, OSYNC_EAGAIN, "%s", r->msg);
    } else if (still_follows(a)) {
        entry_id_t last = {.index = r->last_index, .term = r->last_term, .crc = r->last_crc};
        rc = partition_replace(a->p, r->folder, r->name, &last, &err);
        a->p->copies++;
    }
    done(a, rc, &err);
}

static int ask_snapshot(asked_t *a, osync_error_t *err) {
    Osync__Test__CopyRequest q = OSYNC__TEST__COPY_REQUEST__INIT;
    q.has_tid = q.has_pid = 1;
    q.tid = (uint32_t)a->p->table->meta->tid;
    q.pid = a->p->pid;
    return osync__rpc_call(a->client, a->leader, CONTROL, "Copy", &q.base, NULL, 0,
                           &osync__test__copy_reply__descriptor, TIMEOUT_MS, on_snapshot, a, NULL, err);
}

static void on_entries(void *arg, int status, const ProtobufCMessage *message, const osync_error_t *rpc_err) {
    asked_t *a = arg;
    const Osync__Test__FetchReply *r = (const void *)message;
    osync_error_t err = {0};
    int rc = status;
    if (status) {
        err = *rpc_err;
    } else if (r->code) {
        rc = osync__err(&err, OSYNC_EAGAIN, "%s", r->msg);
    } else if (still_follows(a)) {
        for (size_t i = 0; rc == 0 && i < r->n_entries; i++)
            rc = partition_append(a->p, r->entries[i].data, r->entries[i].len, &err);
        if (rc == 0 && r->n_entries) rc = disk_table_flush(a->p->table, &err);
        if (rc == 0 && r->mismatch) {
            rc = ask_snapshot(a, &err);
            if (rc == 0) return;
        }
    }
    done(a, rc, &err);
}

void copy_ask(osync__rpc_client_t *client, partition_t *p) {
    Osync__Test__FetchRequest q = OSYNC__TEST__FETCH_REQUEST__INIT;
    osync_error_t err = {0};
    if (!p->leader || p->paused || p->asking) return;
    asked_t *a = calloc(1, sizeof *a);
    if (!a) return;
    *a = (asked_t){.client = client, .p = p};
    snprintf(a->leader, sizeof a->leader, "%s", p->leader);
    q.has_tid = q.has_pid = q.has_last_index = q.has_last_term = q.has_last_crc = q.has_hold_back = 1;
    q.tid = (uint32_t)p->table->meta->tid;
    q.pid = p->pid;
    q.last_index = p->last.index;
    q.last_term = p->last.term;
    q.last_crc = p->last.crc;
    q.hold_back = p->hold_back;
    p->asking = true;
    int rc = osync__rpc_call(client, a->leader, CONTROL, "Fetch", &q.base, NULL, 0,
                             &osync__test__fetch_reply__descriptor, TIMEOUT_MS, on_entries, a, NULL, &err);
    if (rc) done(a, rc, &err);
}

/* ---- the leader ---- */

static int check(const partition_t *p, osync_error_t *err) {
    if (!p) return osync__err(err, OSYNC_ENOENT, "there is no such partition here");
    return p->leader ? osync__err(err, OSYNC_EAGAIN, "it isn't led here but by %s", p->leader) : 0;
}

static int add_entry(void *arg, const void *payload, size_t len) {
    Osync__Test__FetchReply *r = arg;
    ProtobufCBinaryData *entries = realloc(r->entries, (r->n_entries + 1) * sizeof *entries);
    if (!entries) return OSYNC_ENOMEM;
    r->entries = entries;
    uint8_t *data = malloc(len + 1);
    if (!data) return OSYNC_ENOMEM;
    memcpy(data, payload, len);
    entries[r->n_entries++] = (ProtobufCBinaryData){.data = data, .len = len};
    return 0;
}

void copy_serve_entries(osync__rpc_call_t *call, partition_t *p) {
    const Osync__Test__FetchRequest *q = (const void *)osync__rpc_request(call);
    Osync__Test__FetchReply r = OSYNC__TEST__FETCH_REPLY__INIT;
    osync_error_t err = {0};
    bool match = true;
    int rc = check(p, &err);
    if (rc == 0) {
        entry_id_t last = {.index = q->last_index, .term = q->last_term, .crc = q->last_crc};
        uint64_t until = p->last.index > q->hold_back ? p->last.index - q->hold_back : 0;
        rc = partition_entries(p, &last, until, BATCH_BYTES, &match, add_entry, &r, &err);
        r.has_term = 1;
        r.term = p->term;
    }
    r.has_code = r.has_mismatch = 1;
    r.mismatch = !match;
    r.code = rc ? -1 : 0;
    if (rc) r.msg = err.message;
    osync__rpc_reply(call, &r.base);
    for (size_t i = 0; i < r.n_entries; i++) free(r.entries[i].data);
    free(r.entries);
}

void copy_serve_snapshot(osync__rpc_call_t *call, partition_t *p) {
    Osync__Test__CopyReply r = OSYNC__TEST__COPY_REPLY__INIT;
    osync_error_t err = {0};
    char name[256], folder[4096];
    int rc = check(p, &err);
    if (rc == 0) rc = partition_snapshot(p, 0, NULL, &err);
    if (rc == 0) rc = partition_snapshot_name(p, name, sizeof name, &err);
    if (rc == 0) {
        snprintf(folder, sizeof folder, "%s/snapshot/%s", p->dir, name);
        r.folder = folder;
        r.name = name;
        r.has_last_index = r.has_last_term = r.has_last_crc = 1;
        r.last_index = p->last.index;
        r.last_term = p->last.term;
        r.last_crc = p->last.crc;
    }
    r.has_code = 1;
    r.code = rc ? -1 : 0;
    if (rc) r.msg = err.message;
    osync__rpc_reply(call, &r.base);
}
