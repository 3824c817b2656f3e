/* The bytes of baidu_std, without sockets: cutting a stream into frames, making frames, and reading messages from bytes
 * that a stranger sent. Shared by rpc_server.c and rpc_client.c. */
#ifndef OSYNC_NET_RPC_FRAME_H
#define OSYNC_NET_RPC_FRAME_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "base/buf.h"
#include "osync/error.h"

#define OSYNC__RPC_DEFAULT_MAX_BODY ((uint64_t)64 << 20) /* bRPC's max_body_size */

enum { OSYNC__FRAME_HEAD = 12 }; /* "PRPC", body size, meta size */

/* One whole frame. `data` is malloc'ed and the receiver's to free; the others point into it. */
typedef struct osync__frame {
    uint8_t *data;
    const uint8_t *meta;
    size_t meta_len;
    const uint8_t *payload;
    size_t payload_len;
} osync__frame_t;

/* A stream that is being cut. Zero-initialised is empty and valid. */
typedef struct osync__frames {
    osync__buf_t in;
    size_t off;  /* bytes of `in` that are used up */
    size_t want; /* whole size of the frame at the front, once its head is there */
} osync__frames_t;

/* Room for the next read; its length is 0 if there is no memory. A large frame gets a buffer that ends with it, so that
 * it needs no copy. */
void osync__frames_alloc(osync__frames_t *f, uv_buf_t *room);
/* That many bytes were read into the room. */
void osync__frames_fed(osync__frames_t *f, size_t n);
/* 1: *out is the next frame. 0: it isn't complete. Negative: the stream is broken for good. */
int osync__frames_next(osync__frames_t *f, uint64_t max_body, osync__frame_t *out, osync_error_t *err);
void osync__frames_free(osync__frames_t *f);

/* Appends a request's head and meta; `message_len` bytes of message and `attachment_len` of attachment must follow. */
int osync__frame_request(osync__buf_t *out, const char *service, const char *method, int64_t log_id,
                         int64_t correlation_id, const char *auth, size_t message_len, size_t attachment_len);
/* Appends a whole answer; with a code there is no message. */
int osync__frame_response(osync__buf_t *out, int64_t correlation_id, int code, const char *text,
                          const ProtobufCMessage *message);

int osync__message_append(osync__buf_t *out, const ProtobufCMessage *message);
/* Like protobuf_c_message_unpack, for hostile bytes: nesting and the number of fields are limited. NULL: malformed, or
 * a required field is missing. */
ProtobufCMessage *osync__message_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t len);

/* bRPC's compress types. */
enum { OSYNC__COMPRESS_NONE = 0, OSYNC__COMPRESS_SNAPPY = 1, OSYNC__COMPRESS_GZIP = 2, OSYNC__COMPRESS_ZLIB = 3 };
/* "none", "snappy", ..., "unknown". */
const char *osync__compress_name(int type);
/* Inflates to at most `limit` bytes. OSYNC_ENOTSUP: unknown type (or none). */
int osync__decompress(int type, const uint8_t *data, size_t len, uint64_t limit, osync__buf_t *out);

#endif
