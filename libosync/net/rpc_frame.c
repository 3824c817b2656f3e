/* Frames and messages of baidu_std as bytes; see rpc_frame.h. */
#include "net/rpc_frame.h"

#include <snappy-c.h>
#include <stdbool.h>
#include <string.h>
#define ZLIB_CONST
#include <zlib.h>

#include "base/alloc.h"
#include "base/error.h"
#include "rpc_meta.pb-c.h"

enum {
    READ_CHUNK = 64 << 10,
    MAX_NESTING = 100,       /* messages within messages, as protobuf's own parsers have it */
    MAX_FIELDS = 1 << 18,    /* of one message: a field costs far more memory than its two bytes on the wire */
    INFLATE_STEP = 64 << 10, /* room made for inflated bytes at a time */
};

static void put_u32be(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static uint32_t get_u32be(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | (uint32_t)p[3];
}

void osync__frames_alloc(osync__frames_t *f, uv_buf_t *room) {
    size_t step = READ_CHUNK;
    *room = uv_buf_init(NULL, 0);
    if (f->want > READ_CHUNK && f->want > f->in.len) {
        size_t rest = f->want - f->in.len;
        if (f->in.len > step) step = f->in.len; /* grows with what has really come, not with what the head promises */
        if (step > rest) step = rest;
        /* It becomes the request's memory, and no more than that. */
        if (f->in.len + step == f->want && f->in.cap < f->want) {
            uint8_t *data = osync__realloc(f->in.data, f->want);
            if (!data) return;
            f->in.data = data;
            f->in.cap = f->want;
        }
    }
    if (osync__buf_reserve(&f->in, step)) return;
    *room = uv_buf_init((char *)f->in.data + f->in.len, (unsigned)step);
}

void osync__frames_fed(osync__frames_t *f, size_t n) {
    f->in.len += n;
}

int osync__frames_next(osync__frames_t *f, uint64_t max_body, osync__frame_t *out, osync_error_t *err) {
    *out = (osync__frame_t){0};
    size_t have = f->in.len - f->off;
    const uint8_t *p = f->in.data ? f->in.data + f->off : NULL;
    f->want = 0;
    if (have == 0) {
        osync__frames_free(f); /* an idle connection holds no buffer */
        return 0;
    }
    if (memcmp(p, "PRPC", have < 4 ? have : 4) != 0)
        return osync__err(err, OSYNC_ECORRUPT, "a frame doesn't begin with \"PRPC\"");
    if (have < OSYNC__FRAME_HEAD) {
        osync__buf_consume(&f->in, f->off);
        f->off = 0;
        return 0;
    }
    uint32_t body = get_u32be(p + 4);
    uint32_t meta = get_u32be(p + 8);
    if (body > max_body)
        return osync__err(err, OSYNC_ETOOBIG, "a frame of %u bytes exceeds the limit of %llu", body,
                          (unsigned long long)max_body);
    if (meta > body)
        return osync__err(err, OSYNC_ECORRUPT, "a frame of %u bytes claims %u bytes of meta data", body, meta);
    size_t total = (size_t)OSYNC__FRAME_HEAD + body;
    if (have < total) {
        if (f->off) osync__buf_consume(&f->in, f->off);
        f->off = 0;
        f->want = total;
        return 0;
    }
    if (f->off == 0 && have == total) {
        out->data = f->in.data;
        f->in = (osync__buf_t){0};
    } else {
        out->data = osync__malloc(total);
        if (!out->data) return osync__err(err, OSYNC_ENOMEM, "out of memory for a frame of %u bytes", body);
        memcpy(out->data, p, total);
        f->off += total;
    }
    out->meta = out->data + OSYNC__FRAME_HEAD;
    out->meta_len = meta;
    out->payload = out->meta + meta;
    out->payload_len = body - meta;
    return 1;
}

void osync__frames_free(osync__frames_t *f) {
    osync__buf_free(&f->in);
    *f = (osync__frames_t){0};
}

int osync__message_append(osync__buf_t *out, const ProtobufCMessage *message) {
    size_t len = protobuf_c_message_get_packed_size(message);
    int rc = osync__buf_reserve(out, len);
    if (rc) return rc;
    if (len) out->len += protobuf_c_message_pack(message, out->data + out->len);
    return 0;
}

/* Head and meta; the body is meta plus `payload_len` bytes that the caller appends. */
static int append_head(osync__buf_t *out, const Brpc__Policy__RpcMeta *meta, uint64_t payload_len) {
    size_t meta_len = protobuf_c_message_get_packed_size(&meta->base);
    if (payload_len > (uint64_t)INT32_MAX || meta_len > (size_t)INT32_MAX - payload_len) return OSYNC_ETOOBIG;
    int rc = osync__buf_reserve(out, OSYNC__FRAME_HEAD + meta_len);
    if (rc) return rc;
    uint8_t *p = out->data + out->len;
    memcpy(p, "PRPC", 4);
    put_u32be(p + 4, (uint32_t)(meta_len + payload_len));
    put_u32be(p + 8, (uint32_t)meta_len);
    protobuf_c_message_pack(&meta->base, p + OSYNC__FRAME_HEAD);
    out->len += OSYNC__FRAME_HEAD + meta_len;
    return 0;
}

static char *unconst(const char *s) {
    union {
        const char *from;
        char *to;
    } u = {.from = s}; /* protobuf-c's structs have no const; packing doesn't write */
    return u.to;
}

int osync__frame_request(osync__buf_t *out, const char *service, const char *method, int64_t log_id,
                         int64_t correlation_id, const char *auth, size_t message_len, size_t attachment_len) {
    Brpc__Policy__RpcRequestMeta request = BRPC__POLICY__RPC_REQUEST_META__INIT;
    request.service_name = unconst(service);
    request.method_name = unconst(method);
    request.has_log_id = true;
    request.log_id = log_id;
    Brpc__Policy__RpcMeta meta = BRPC__POLICY__RPC_META__INIT;
    meta.request = &request;
    meta.has_compress_type = true;
    meta.has_correlation_id = true;
    meta.correlation_id = correlation_id;
    if (attachment_len > (size_t)INT32_MAX || message_len > (size_t)INT32_MAX) return OSYNC_ETOOBIG;
    if (attachment_len) {
        meta.has_attachment_size = true;
        meta.attachment_size = (int32_t)attachment_len;
    }
    if (auth) {
        meta.has_authentication_data = true;
        meta.authentication_data.data = (uint8_t *)unconst(auth);
        meta.authentication_data.len = strlen(auth);
    }
    return append_head(out, &meta, (uint64_t)message_len + attachment_len);
}

int osync__frame_response(osync__buf_t *out, int64_t correlation_id, int code, const char *text,
                          const ProtobufCMessage *message) {
    Brpc__Policy__RpcResponseMeta response = BRPC__POLICY__RPC_RESPONSE_META__INIT;
    response.has_error_code = true;
    response.error_code = code;
    if (code) response.error_text = unconst(text);
    Brpc__Policy__RpcMeta meta = BRPC__POLICY__RPC_META__INIT;
    meta.response = &response;
    meta.has_compress_type = true;
    meta.has_correlation_id = true;
    meta.correlation_id = correlation_id;
    if (code) message = NULL;
    int rc = append_head(out, &meta, message ? protobuf_c_message_get_packed_size(message) : 0);
    if (rc == 0 && message) rc = osync__message_append(out, message);
    return rc;
}

/* ---- messages from a stranger ---- */

static bool skip_varint(const uint8_t **p, const uint8_t *end, uint64_t *value) {
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 70 && *p < end; shift += 7) {
        uint8_t byte = *(*p)++;
        if (shift < 64) v |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) {
            *value = v;
            return true;
        }
    }
    return false;
}

/* protobuf-c recurses as deep as the bytes say and keeps every field; this looks first. */
static bool within_limits(const ProtobufCMessageDescriptor *type, const uint8_t *p, size_t len, unsigned nesting,
                          size_t *fields) {
    const uint8_t *end = p + len;
    if (nesting > MAX_NESTING) return false;
    while (p < end) {
        uint64_t key;
        uint64_t n;
        if (++*fields > MAX_FIELDS || !skip_varint(&p, end, &key)) return false;
        switch (key & 7) {
        case 0:
            if (!skip_varint(&p, end, &n)) return false;
            n = 0;
            break;
        case 1:
            n = 8;
            break;
        case 2: {
            if (!skip_varint(&p, end, &n) || n > (size_t)(end - p)) return false;
            const ProtobufCFieldDescriptor *field =
                key >> 3 <= UINT32_MAX ? protobuf_c_message_descriptor_get_field(type, (unsigned)(key >> 3)) : NULL;
            if (field && field->type == PROTOBUF_C_TYPE_MESSAGE &&
                !within_limits(field->descriptor, p, (size_t)n, nesting + 1, fields))
                return false;
            break;
        }
        case 5:
            n = 4;
            break;
        default:
            return false; /* groups: protobuf-c doesn't know them either */
        }
        if (n > (size_t)(end - p)) return false;
        p += n;
    }
    return true;
}

ProtobufCMessage *osync__message_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t len) {
    static const uint8_t nothing;
    size_t fields = 0;
    if (!data) data = &nothing;
    if (!within_limits(type, data, len, 0, &fields)) return NULL;
    return protobuf_c_message_unpack(type, &osync__protobuf_allocator, len, data);
}

/* ---- compression ---- */

const char *osync__compress_name(int type) {
    switch (type) {
    case OSYNC__COMPRESS_NONE:
        return "none";
    case OSYNC__COMPRESS_SNAPPY:
        return "snappy";
    case OSYNC__COMPRESS_GZIP:
        return "gzip";
    case OSYNC__COMPRESS_ZLIB:
        return "zlib";
    default:
        return "unknown";
    }
}

static int inflate_all(int window_bits, const uint8_t *data, size_t len, uint64_t limit, osync__buf_t *out) {
    z_stream z = {0};
    int rc = OSYNC_ECORRUPT;
    if (len > UINT32_MAX) return OSYNC_ETOOBIG;
    if (inflateInit2(&z, window_bits) != Z_OK) return OSYNC_ENOMEM;
    z.next_in = data;
    z.avail_in = (uInt)len;
    for (;;) {
        if (osync__buf_reserve(out, INFLATE_STEP)) {
            rc = OSYNC_ENOMEM;
            goto done;
        }
        z.next_out = out->data + out->len;
        z.avail_out = INFLATE_STEP;
        int zrc = inflate(&z, Z_NO_FLUSH);
        out->len += INFLATE_STEP - z.avail_out;
        if (out->len > limit) {
            rc = OSYNC_ETOOBIG;
            goto done;
        }
        if (zrc == Z_STREAM_END) {
            rc = 0;
            goto done;
        }
        if (zrc != Z_OK || (z.avail_in == 0 && z.avail_out != 0)) goto done; /* broken, or it ends too early */
    }
done:
    inflateEnd(&z);
    return rc;
}

int osync__decompress(int type, const uint8_t *data, size_t len, uint64_t limit, osync__buf_t *out) {
    if (type == OSYNC__COMPRESS_GZIP) return inflate_all(15 + 16, data, len, limit, out);
    if (type == OSYNC__COMPRESS_ZLIB) return inflate_all(15, data, len, limit, out);
    if (type != OSYNC__COMPRESS_SNAPPY) return OSYNC_ENOTSUP;
    size_t size;
    if (snappy_uncompressed_length((const char *)data, len, &size) != SNAPPY_OK) return OSYNC_ECORRUPT;
    /* 64 bytes of output need at least three of input (a copy element): a larger claim is a lie, and costs nothing. */
    if (size > limit || size / 64 > len) return OSYNC_ETOOBIG;
    int rc = osync__buf_reserve(out, size + 1);
    if (rc) return rc;
    if (snappy_uncompress((const char *)data, len, (char *)out->data + out->len, &size) != SNAPPY_OK)
        return OSYNC_ECORRUPT;
    out->len += size;
    return 0;
}
