/* Protobuf messages from and to JSON, as bRPC's json2pb and protobuf-java's JsonFormat do it (docs/formats.md, RPC). */
#ifndef OSYNC_NET_JSON_H
#define OSYNC_NET_JSON_H

#include <protobuf-c/protobuf-c.h>

#include "base/buf.h"
#include "net/rpc.h"

/* Parses; both original and lowerCamelCase names are known, unknown keys are ignored, 64-bit integers may be strings. The caller frees
 * *out with protobuf_c_message_free_unpacked. */
int osync__json_to_message(const ProtobufCMessageDescriptor *type, const void *json, size_t len, ProtobufCMessage **out,
                           osync_error_t *err);
int osync__message_to_json(const ProtobufCMessage *message, osync__json_style_t style, osync__buf_t *out);

#endif
