#include "memory_snapshot.h"

#include <errno.h>
#include <snappy-c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/error.h"
#include "base/sys.h"

enum { FULL = 1, FIRST = 2, MIDDLE = 3, LAST = 4, END_OF_FILE = 5 };
enum { FRAME_HEAD = 64, FILLER = 0xee };
#define MAX_FILE ((size_t)8 << 30)

/* The log format inside the file. */
typedef struct form {
    size_t block, header;
    int algorithm; /* 0: none; 1: zlib; 2: snappy */
} form_t;

static form_t form_of(const char *name) {
    int algorithm = strstr(name, ".zlib") ? 1 : strstr(name, ".snappy") ? 2 : 0;
    return algorithm ? (form_t){1 << 20, 9, algorithm} : (form_t){4096, 7, 0};
}

typedef struct deletion {
    uint64_t index, start, end;
    uint32_t idx;
    osync__buf_t key;
} deletion_t;

typedef struct snapshot {
    partition_t *p;
    osync_error_t *err;
    uint64_t from, until;
    deletion_t *deletions;
    size_t n_deletions;
    form_t form;
    osync__buf_t stream; /* of blocks */
    uint64_t count, last;
    uint64_t now;
    bool putting; /* second pass over the log */
    int rc;
} snapshot_t;

static uint32_t masked_crc(const void *type_and_payload, size_t len) {
    uint32_t crc = osync__crc32c(0, type_and_payload, len);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static int fill(osync__buf_t *stream, size_t n, int with) {
    int rc = osync__buf_reserve(stream, n);
    if (rc) return rc;
    memset(stream->data + stream->len, with, n);
    stream->len += n;
    return 0;
}

static int add_fragment(snapshot_t *s, uint8_t type, const uint8_t *data, size_t len) {
    size_t header = s->form.header;
    int rc = osync__buf_reserve(&s->stream, header + len);
    if (rc) return rc;
    uint8_t *p = s->stream.data + s->stream.len;
    p[4] = (uint8_t)len;
    p[5] = (uint8_t)(len >> 8);
    if (header == 9) {
        p[6] = (uint8_t)(len >> 16);
        p[7] = (uint8_t)(len >> 24);
    }
    p[header - 1] = type;
    if (len) memcpy(p + header, data, len);
    osync__put_u32le(p, masked_crc(p + header - 1, len + 1));
    s->stream.len += header + len;
    return 0;
}

/* What is left of a block that has no room for a head. */
static int fill_block(snapshot_t *s) {
    size_t left = s->form.block - s->stream.len % s->form.block;
    return left < s->form.header ? fill(&s->stream, left, s->form.algorithm ? FILLER : 0) : 0;
}

static int add_record(snapshot_t *s, const uint8_t *data, size_t len) {
    bool begin = true, end = false;
    int rc = 0;
    while (!rc && !end) {
        rc = fill_block(s);
        size_t room = s->form.block - s->stream.len % s->form.block - s->form.header;
        size_t part = len < room ? len : room;
        end = part == len;
        if (!rc) rc = add_fragment(s, begin && end ? FULL : begin ? FIRST : end ? LAST : MIDDLE, data, part);
        data += part;
        len -= part;
        begin = false;
    }
    s->count++;
    return rc;
}

/* ---- what a delete does ---- */

static int add_deletion(snapshot_t *s, const Openmldb__Api__LogEntry *e, uint32_t idx, const ProtobufCBinaryData *key) {
    deletion_t *d = realloc(s->deletions, (s->n_deletions + 1) * sizeof *d);
    if (!d) return OSYNC_ENOMEM;
    s->deletions = d;
    d += s->n_deletions++;
    *d = (deletion_t){.index = e->log_index,
                      .start = e->has_ts ? e->ts : UINT64_MAX,
                      .end = e->has_end_ts ? e->end_ts : 0,
                      .idx = idx};
    return key ? osync__buf_append(&d->key, key->len ? key->data : (const uint8_t *)"", key->len) : 0;
}

static int note_delete(snapshot_t *s, const Openmldb__Api__LogEntry *e) {
    const disk_table_t *t = s->p->table;
    int rc = 0;
    for (size_t i = 0; !rc && i < e->n_dimensions; i++)
        rc = add_deletion(s, e, e->dimensions[i]->idx, &e->dimensions[i]->key);
    for (size_t i = 0; !rc && e->n_dimensions == 0 && i < t->n_indexes; i++) {
        const char *ts = t->indexes[i].ts_column < 0 ? NULL : t->indexes[i].key->ts_name;
        if (!ts || (e->ts_name && !strcmp(ts, e->ts_name))) rc = add_deletion(s, e, (uint32_t)i, NULL);
    }
    return rc;
}

static bool deleted(const snapshot_t *s, uint64_t index, const Openmldb__Api__Dimension *dim, uint64_t ts) {
    for (size_t i = 0; i < s->n_deletions; i++) {
        const deletion_t *d = &s->deletions[i];
        bool same_key = !d->key.data || (d->key.len == dim->key.len &&
                                         (dim->key.len == 0 || !memcmp(d->key.data, dim->key.data, dim->key.len)));
        if (d->index > index && d->idx == dim->idx && same_key && d->start >= ts && ts > d->end) return true;
    }
    return false;
}

static bool expired(const snapshot_t *s, uint32_t idx, uint64_t ts) {
    const Openmldb__Common__TTLSt *ttl = s->p->table->indexes[idx].key->ttl;
    bool absolute = ttl && ttl->abs_ttl > 0 &&
                    (ttl->ttl_type == OPENMLDB__TYPE__TTLTYPE__kAbsoluteTime ||
                     ttl->ttl_type == OPENMLDB__TYPE__TTLTYPE__kAbsOrLat);
    return absolute && ts + ttl->abs_ttl * 60000 <= s->now;
}

/* Writes a put, without the dimensions that were deleted, unless nothing of it is left. */
static int keep(snapshot_t *s, Openmldb__Api__LogEntry *e, const void *payload, size_t len) {
    size_t n = e->n_dimensions, left = 0;
    bool all_expired = true;
    osync__buf_t bytes = {0};
    uint64_t *ts = calloc(s->p->table->n_indexes, sizeof *ts);
    Openmldb__Api__Dimension **all = e->dimensions, **some = calloc(n + 1, sizeof(void *));
    int rc = ts && some ? disk_table_entry_ts(s->p->table, e, ts, s->err) : OSYNC_ENOMEM;
    for (size_t i = 0; !rc && i < n; i++) {
        all_expired = all_expired && expired(s, all[i]->idx, ts[all[i]->idx]);
        if (!deleted(s, e->log_index, all[i], ts[all[i]->idx])) some[left++] = all[i];
    }
    if (!rc && left > 0 && !all_expired) {
        if (left < n) {
            e->dimensions = some;
            e->n_dimensions = left;
            len = openmldb__api__log_entry__get_packed_size(e);
            rc = osync__buf_reserve(&bytes, len);
            if (!rc) openmldb__api__log_entry__pack(e, bytes.data);
            payload = bytes.data;
            e->dimensions = all;
            e->n_dimensions = n;
        }
        if (!rc) rc = add_record(s, payload, len);
    }
    osync__buf_free(&bytes);
    free(ts);
    free(some);
    return rc;
}

/* ---- the snapshot before, and the log ---- */

static int unpack_file(const osync__buf_t *file, const form_t *form, osync__buf_t *stream, osync_error_t *err) {
    if (!form->algorithm) return osync__buf_append(stream, file->data, file->len);
    int rc = 0;
    for (size_t at = 0; !rc && at < file->len;) {
        const uint8_t *head = file->data + at;
        size_t size = osync__get_u32le(head), room = form->block;
        uLongf inflated = form->block;
        rc = osync__buf_reserve(stream, room);
        if (rc) break;
        uint8_t *to = stream->data + stream->len;
        bool good = head[4] == 1
                        ? uncompress(to, &inflated, head + FRAME_HEAD, size) == Z_OK
                        : snappy_uncompress((const char *)head + FRAME_HEAD, size, (char *)to, &room) == SNAPPY_OK;
        if (!good) rc = osync__err(err, OSYNC_ECORRUPT, "a frame that doesn't inflate");
        stream->len += form->block;
        at += FRAME_HEAD + size;
    }
    return rc;
}

static int keep_payload(snapshot_t *s, const void *payload, size_t len) {
    Openmldb__Api__LogEntry *e = openmldb__api__log_entry__unpack(NULL, len, payload);
    int rc = e ? keep(s, e, payload, len) : OSYNC_ECORRUPT;
    if (e) openmldb__api__log_entry__free_unpacked(e, NULL);
    return rc;
}

static int keep_before(snapshot_t *s, const char *path) {
    form_t form = form_of(path);
    osync__buf_t file = {0}, stream = {0}, whole = {0};
    bool ended = false;
    int rc = osync__read_file(path, MAX_FILE, &file, s->err);
    if (!rc) rc = unpack_file(&file, &form, &stream, s->err);
    for (size_t at = 0; !rc && !ended;) {
        size_t left = form.block - at % form.block;
        if (left < form.header) at += left;
        const uint8_t *p = stream.data + at;
        if (at + form.header > stream.len) break;
        size_t len = form.header == 9 ? osync__get_u32le(p + 4) : osync__get_u16le(p + 4);
        uint8_t type = p[form.header - 1];
        if (at + form.header + len > stream.len || osync__get_u32le(p) != masked_crc(p + form.header - 1, len + 1))
            break;
        at += form.header + len;
        ended = type == END_OF_FILE;
        if (type == FULL || type == FIRST) whole.len = 0;
        rc = osync__buf_append(&whole, p + form.header, len);
        if (!rc && (type == FULL || type == LAST)) rc = keep_payload(s, whole.data, whole.len);
    }
    if (!rc && !ended) rc = osync__err(s->err, OSYNC_ECORRUPT, "%s isn't whole", path);
    osync__buf_free(&file);
    osync__buf_free(&stream);
    osync__buf_free(&whole);
    return rc;
}

static uint64_t on_logged(void *arg, const void *payload, size_t len) {
    snapshot_t *s = arg;
    Openmldb__Api__LogEntry *e = openmldb__api__log_entry__unpack(NULL, len, payload);
    if (!e) return 0;
    uint64_t index = e->log_index;
    bool is_delete = e->has_method_type && e->method_type == OPENMLDB__API__METHOD_TYPE__kDelete;
    if (!s->rc && index >= s->from && index <= s->until) {
        s->last = index;
        if (is_delete && !s->putting) s->rc = note_delete(s, e);
        if (!is_delete && s->putting) s->rc = keep(s, e, payload, len);
    }
    openmldb__api__log_entry__free_unpacked(e, NULL);
    return index;
}

static int pass(snapshot_t *s, bool putting) {
    log_cursor_t cursor = {0};
    s->putting = putting;
    s->last = s->from - 1;
    while (s->last < s->until) {
        uint64_t before = s->last;
        int rc = log_writer_read(&s->p->log, &cursor, s->last + 1, SIZE_MAX, on_logged, s, s->err);
        if (rc || s->rc) return rc ? rc : s->rc;
        if (s->last == before)
            return osync__err(s->err, OSYNC_EGAP, "the log ends with entry %llu", (unsigned long long)before);
    }
    return 0;
}

static int write_frames(const snapshot_t *s, FILE *f) {
    size_t room = snappy_max_compressed_length(s->form.block), bound = compressBound((uLong)s->form.block);
    uint8_t *packed = malloc(room > bound ? room : bound);
    int rc = packed ? 0 : OSYNC_ENOMEM;
    for (size_t at = 0; !rc && at < s->stream.len; at += s->form.block) {
        uint8_t head[FRAME_HEAD] = {0};
        uLongf deflated = bound;
        size_t size = room;
        if (s->form.algorithm == 1) {
            if (compress(packed, &deflated, s->stream.data + at, s->form.block) != Z_OK) rc = OSYNC_ENOMEM;
            size = deflated;
        } else if (snappy_compress((const char *)s->stream.data + at, s->form.block, (char *)packed, &size)) {
            rc = OSYNC_ENOMEM;
        }
        osync__put_u32le(head, (uint32_t)size);
        head[4] = (uint8_t)s->form.algorithm;
        if (!rc && (fwrite(head, 1, sizeof head, f) != sizeof head || fwrite(packed, 1, size, f) != size))
            rc = OSYNC_EIO;
    }
    free(packed);
    return rc;
}

int memory_snapshot_write(partition_t *p, const char *folder, const char *before, const char *name, uint64_t *count,
                          osync_error_t *err) {
    char path[4096], tmp[4200];
    snapshot_t s = {.p = p,
                    .err = err,
                    .from = p->snapshot_offset + 1,
                    .until = p->last.index,
                    .form = form_of(name),
                    .now = osync__wall_ms()};
    snprintf(path, sizeof path, "%s/%s", folder, before);
    int rc = pass(&s, false);
    if (!rc && *before) rc = keep_before(&s, path);
    if (!rc) rc = pass(&s, true);
    if (!rc) rc = fill_block(&s);
    if (!rc) rc = add_fragment(&s, END_OF_FILE, NULL, 0);
    size_t left = s.form.block - s.stream.len % s.form.block;
    if (!rc && s.form.algorithm && left < s.form.block) rc = fill(&s.stream, left, 0);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    snprintf(tmp, sizeof tmp, "%s.tmp", path);
    FILE *f = rc ? NULL : fopen(tmp, "wbe");
    if (!rc && !f) rc = osync__err_errno(err, errno, "can't make %s", tmp);
    if (!rc && s.form.algorithm) rc = write_frames(&s, f);
    if (!rc && !s.form.algorithm && fwrite(s.stream.data, 1, s.stream.len, f) != s.stream.len) rc = OSYNC_EIO;
    if (f && fclose(f) && !rc) rc = OSYNC_EIO;
    if (!rc && rename(tmp, path)) rc = osync__err_errno(err, errno, "can't rename %s", tmp);
    if (rc && !err->message[0]) osync__err(err, rc, "can't write %s", path);
    *count = s.count;
    for (size_t i = 0; i < s.n_deletions; i++) osync__buf_free(&s.deletions[i].key);
    free(s.deletions);
    osync__buf_free(&s.stream);
    return rc;
}
