/* The stored forms of delivery: nothing but packing and unpacking. */
#include "delivery/record.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "delivery.pb-c.h"

enum { RECORD_VERSION = 1, LABEL_VERSION = 1 };

static bool copy_id(char out[OSYNC__ID_SIZE], const char *id) {
    if (!osync__is_id(id)) return false;
    memcpy(out, id, OSYNC__ID_SIZE);
    return true;
}

static char *unconst(const char *s) {
    return (char *)(uintptr_t)s;
}

static ProtobufCBinaryData view(const osync__buf_t *b) {
    return (ProtobufCBinaryData){.len = b->len, .data = b->data};
}

static int pack(const ProtobufCMessage *m, osync__buf_t *out) {
    out->len = 0;
    size_t n = protobuf_c_message_get_packed_size(m);
    if (osync__buf_reserve(out, n)) return OSYNC_ENOMEM;
    out->len = protobuf_c_message_pack(m, out->data);
    return 0;
}

void osync__record_free(osync__record_t *r) {
    osync__buf_free(&r->point);
    osync__buf_free(&r->prepared.end);
    osync__free(r->former);
    *r = (osync__record_t){0};
}

int osync__record_add_former(osync__record_t *r, const char *incarnation) {
    osync__former_t *more = osync__realloc(r->former, (r->n_former + 1) * sizeof *more);
    if (!more) return OSYNC_ENOMEM;
    r->former = more;
    r->former[r->n_former] = (osync__former_t){0};
    if (!copy_id(r->former[r->n_former].incarnation, incarnation)) return OSYNC_EINVAL;
    r->n_former++;
    return 0;
}

int osync__record_pack(const osync__record_t *r, const char *task_id, uint32_t pid, osync__buf_t *out) {
    Osync__Delivery__Record m = OSYNC__DELIVERY__RECORD__INIT;
    Osync__Delivery__Prepared p = OSYNC__DELIVERY__PREPARED__INIT;
    Osync__Delivery__Former *former = osync__calloc(r->n_former + 1, sizeof *former);
    Osync__Delivery__Former **formers = osync__calloc(r->n_former + 1, sizeof *formers);
    int rc = former && formers ? 0 : OSYNC_ENOMEM;
    if (rc) goto done;
    m.version = RECORD_VERSION;
    m.task_id = unconst(task_id);
    m.pid = pid;
    m.incarnation = unconst(r->incarnation);
    m.owner = unconst(r->owner);
    m.generation = r->generation;
    m.next = r->next;
    m.point = view(&r->point);
    m.rows = r->rows;
    m.bytes = r->bytes;
    m.files = r->files;
    if (r->has_prepared) {
        p.n = r->prepared.n;
        p.incarnation = unconst(r->prepared.incarnation);
        p.attempt = unconst(r->prepared.attempt);
        p.file_id = r->prepared.file_id;
        p.end = view(&r->prepared.end);
        p.rows = r->prepared.rows;
        p.bytes = r->prepared.bytes;
        m.prepared = &p;
    }
    for (size_t i = 0; i < r->n_former; i++) {
        osync__delivery__former__init(&former[i]);
        former[i].incarnation = r->former[i].incarnation;
        former[i].has_blocked = former[i].blocked = r->former[i].blocked;
        formers[i] = &former[i];
    }
    m.n_former = r->n_former;
    m.former = formers;
    if (r->claim[0]) m.claim = unconst(r->claim);
    m.has_rebuilding = m.rebuilding = r->rebuilding;
    rc = pack(&m.base, out);
done:
    osync__free(former);
    osync__free(formers);
    return rc;
}

static int take_prepared(osync__record_t *r, const Osync__Delivery__Prepared *p) {
    osync__prepared_t *to = &r->prepared;
    if (!copy_id(to->incarnation, p->incarnation) || !copy_id(to->attempt, p->attempt)) return OSYNC_ECORRUPT;
    if (osync__buf_set(&to->end, p->end.data, p->end.len)) return OSYNC_ENOMEM;
    to->n = p->n;
    to->file_id = p->file_id;
    to->rows = p->rows;
    to->bytes = p->bytes;
    r->has_prepared = true;
    return 0;
}

int osync__record_unpack(osync__record_t *r, const void *data, size_t len, const char *task_id, uint32_t pid,
                         osync_error_t *err) {
    int rc = 0;
    Osync__Delivery__Record *m = osync__delivery__record__unpack(&osync__protobuf_allocator, len, data);
    if (!m || m->version != RECORD_VERSION || !copy_id(r->incarnation, m->incarnation) ||
        !copy_id(r->owner, m->owner)) {
        rc = osync__err(err, OSYNC_ECORRUPT, "the record of task %s, partition %u in the checkpoint store is %s",
                        task_id, pid, m && m->version != RECORD_VERSION ? "of another version" : "damaged");
        goto done;
    }
    if (strcmp(m->task_id, task_id) != 0 || m->pid != pid) {
        rc = osync__err(err, OSYNC_EINVAL, "the record of task %s, partition %u says task %s, partition %u", task_id,
                        pid, m->task_id, m->pid);
        goto done;
    }
    r->generation = m->generation;
    r->next = m->next;
    r->rows = m->rows;
    r->bytes = m->bytes;
    r->files = m->files;
    rc = osync__buf_set(&r->point, m->point.data, m->point.len);
    if (!rc && m->prepared) rc = take_prepared(r, m->prepared);
    for (size_t i = 0; i < m->n_former && !rc; i++) {
        rc = osync__record_add_former(r, m->former[i]->incarnation);
        if (!rc) r->former[i].blocked = m->former[i]->blocked;
    }
    if (!rc && m->claim && !copy_id(r->claim, m->claim)) rc = OSYNC_ECORRUPT;
    r->rebuilding = m->rebuilding;
    if (rc) osync__err(err, rc, "the record of task %s, partition %u: %s", task_id, pid, osync_strerror(rc));
done:
    if (m) osync__delivery__record__free_unpacked(m, &osync__protobuf_allocator);
    return rc;
}

int osync__label_pack(const osync__label_t *l, osync__buf_t *out) {
    Osync__Delivery__Label m = OSYNC__DELIVERY__LABEL__INIT;
    m.version = LABEL_VERSION;
    m.task_id = unconst(l->task_id);
    m.pid = l->pid;
    m.n = l->n;
    m.attempt = unconst(l->attempt);
    m.start = view(&l->start);
    m.end = view(&l->end);
    m.rows = l->rows;
    m.bytes = l->bytes;
    m.text = (char *)l->text.data;
    m.has_no_points = m.no_points = l->no_points;
    m.has_task = l->task.len > 0;
    m.task = view(&l->task);
    m.has_total_rows = m.has_total_bytes = m.has_total_files = l->has_totals;
    m.total_rows = l->total_rows;
    m.total_bytes = l->total_bytes;
    m.total_files = l->total_files;
    return pack(&m.base, out);
}

int osync__label_unpack(osync__label_t *l, const void *data, size_t len) {
    int rc = 0;
    Osync__Delivery__Label *m = osync__delivery__label__unpack(&osync__protobuf_allocator, len, data);
    if (!m || m->version != LABEL_VERSION || strlen(m->task_id) >= sizeof l->task_id ||
        !copy_id(l->attempt, m->attempt)) {
        rc = OSYNC_ECORRUPT;
        goto done;
    }
    (void)snprintf(l->task_id, sizeof l->task_id, "%s", m->task_id);
    l->pid = m->pid;
    l->n = m->n;
    l->rows = m->rows;
    l->bytes = m->bytes;
    l->no_points = m->no_points;
    l->has_totals = m->has_total_rows && m->has_total_bytes && m->has_total_files;
    l->total_rows = m->total_rows;
    l->total_bytes = m->total_bytes;
    l->total_files = m->total_files;
    const char *text = m->text ? m->text : "";
    rc = osync__buf_set(&l->start, m->start.data, m->start.len);
    if (!rc) rc = osync__buf_set(&l->end, m->end.data, m->end.len);
    if (!rc) rc = osync__buf_set(&l->text, text, strlen(text) + 1);
    if (!rc) rc = osync__buf_set(&l->task, m->task.data, m->task.len);
done:
    if (m) osync__delivery__label__free_unpacked(m, &osync__protobuf_allocator);
    return rc;
}

void osync__label_free(osync__label_t *l) {
    osync__buf_free(&l->start);
    osync__buf_free(&l->end);
    osync__buf_free(&l->text);
    osync__buf_free(&l->task);
    *l = (osync__label_t){0};
}
