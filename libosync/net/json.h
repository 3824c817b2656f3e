/* Protobuf messages from and to JSON, as bRPC's json2pb and protobuf-java's JsonFormat do it (docs/formats.md, RPC).
 *
 * Where the two leave a choice: of keys that stand twice the last counts; of a field's original and its lowerCamelCase
 * name the original does. `bytes` fields hold text (OpenMLDB's index keys are `string` in its own messages): they are
 * written as text if they are UTF-8, else as base64, and read as text. In `string` fields, bytes that aren't UTF-8 are
 * written as U+FFFD. */
#ifndef OSYNC_NET_JSON_H
#define OSYNC_NET_JSON_H

#include <protobuf-c/protobuf-c.h>

#include "base/buf.h"
#include "net/rpc.h"

/* Parses; both original and lowerCamelCase names are known, unknown keys are ignored, 64-bit integers may be strings. A
 * value of the wrong type leaves an optional number, enumeration or string unset and is an error elsewhere. The caller
 * frees *out with protobuf_c_message_free_unpacked. */
int osync__json_to_message(const ProtobufCMessageDescriptor *type, const void *json, size_t len, ProtobufCMessage **out,
                           osync_error_t *err);
/* Appends. In style BRPC there are no spaces, names are the original ones and 64-bit integers numbers; in style JAVA
 * two spaces of indent, lowerCamelCase and strings. Only fields that are set; enumerations by name. */
int osync__message_to_json(const ProtobufCMessage *message, osync__json_style_t style, osync__buf_t *out);

#endif
