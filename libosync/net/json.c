/* Messages and JSON, by protobuf-c's descriptors; see json.h. Parsing is jansson's; writing is done here since no JSON
 * library writes as protobuf-java does. Oneofs, maps and extensions are not known: no message here has any. */
#include "net/json.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

enum {
    MAX_NESTING = 100,    /* objects and arrays within each other, as json2pb has it */
    MAX_VALUES = 1 << 18, /* of one document: a value costs far more memory than its two characters */
    MAX_NAME = 128,       /* of a field, in its lowerCamelCase form */
    LONG_NUMBER = 19,     /* digits from which an integer may not fit a signed 64-bit one */
};

/* "start_ts" to "startTs". */
static void camel_case(const char *name, char *out, size_t size) {
    size_t n = 0;
    bool upper = false;
    for (; *name && n + 1 < size; name++) {
        if (*name == '_') {
            upper = true;
            continue;
        }
        out[n++] = upper && *name >= 'a' && *name <= 'z' ? (char)(*name - 'a' + 'A') : *name;
        upper = false;
    }
    out[n] = '\0';
}

/* ---- writing ---- */

typedef struct writer {
    osync__buf_t *out;
    bool java;
    unsigned indent;
    int rc; /* the first failure; the rest of the writing does nothing */
} writer_t;

static void put(writer_t *w, const void *data, size_t len) {
    if (w->rc == 0) w->rc = osync__buf_append(w->out, data, len);
}

static void put_text(writer_t *w, const char *text) {
    put(w, text, strlen(text));
}

static void new_line(writer_t *w) {
    if (!w->java) return;
    put_text(w, "\n");
    for (unsigned i = 0; i < w->indent; i++) put_text(w, "  ");
}

/* Length of the UTF-8 character at p, 0 if it isn't one. */
static size_t utf8_length(const uint8_t *p, size_t len) {
    if (p[0] < 0x80) return 1;
    size_t n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || n > len) return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) ||
        (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

static bool is_utf8(const uint8_t *p, size_t len) {
    for (size_t n; len; p += n, len -= n) {
        n = utf8_length(p, len);
        if (n == 0) return false;
    }
    return true;
}

static void put_string(writer_t *w, const uint8_t *p, size_t len) {
    put_text(w, "\"");
    while (len && w->rc == 0) {
        size_t n = utf8_length(p, len);
        if (n == 0) {
            put_text(w, "\xef\xbf\xbd");
            n = 1;
        } else if (*p == '"' || *p == '\\') {
            char escaped[2] = {'\\', (char)*p};
            put(w, escaped, 2);
        } else if (*p == '\n') {
            put_text(w, "\\n");
        } else if (*p == '\r') {
            put_text(w, "\\r");
        } else if (*p == '\t') {
            put_text(w, "\\t");
        } else if (*p == '\b') {
            put_text(w, "\\b");
        } else if (*p == '\f') {
            put_text(w, "\\f");
        } else if (*p < 0x20 || (w->java && strchr("<>&='", *p))) { /* JsonFormat's strings are safe within HTML */
            w->rc = w->rc ? w->rc : osync__buf_printf(w->out, w->java ? "\\u%04x" : "\\u%04X", (unsigned)*p);
        } else if (w->java && n == 3 && p[0] == 0xe2 && p[1] == 0x80 && (p[2] == 0xa8 || p[2] == 0xa9)) {
            put_text(w, p[2] == 0xa8 ? "\\u2028" : "\\u2029");
        } else {
            put(w, p, n);
        }
        p += n;
        len -= n;
    }
    put_text(w, "\"");
}

static void put_base64(writer_t *w, const uint8_t *p, size_t len) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    put_text(w, "\"");
    for (size_t i = 0; i < len; i += 3) {
        size_t n = len - i < 3 ? len - i : 3;
        uint32_t v = (uint32_t)p[i] << 16 | (n > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (n > 2 ? p[i + 2] : 0u);
        char quad[4] = {digits[v >> 18], digits[v >> 12 & 63], n > 1 ? digits[v >> 6 & 63] : '=',
                        n > 2 ? digits[v & 63] : '='};
        put(w, quad, 4);
    }
    put_text(w, "\"");
}

static void put_real(writer_t *w, double v, int digits, int max_digits) {
    char text[40];
    if (isnan(v) || isinf(v)) {
        put_text(w, isnan(v) ? "\"NaN\"" : v > 0 ? "\"Infinity\"" : "\"-Infinity\"");
        return;
    }
    /* The fewest digits that give the same number back. */
    for (; digits <= max_digits; digits++) {
        (void)snprintf(text, sizeof text, "%.*g", digits, v);
        double back = strtod(text, NULL);
        if (max_digits < 17 ? (float)back == (float)v : memcmp(&back, &v, sizeof v) == 0) break;
    }
    put_text(w, text);
    if (!strpbrk(text, ".e")) put_text(w, ".0");
}

static void put_message(writer_t *w, const ProtobufCMessage *message);

static void put_integer(writer_t *w, bool wide, bool is_signed, uint64_t v) {
    const char *quote = wide && w->java ? "\"" : "";
    if (w->rc) return;
    if (is_signed)
        w->rc = osync__buf_printf(w->out, "%s%" PRId64 "%s", quote, (int64_t)v, quote);
    else
        w->rc = osync__buf_printf(w->out, "%s%" PRIu64 "%s", quote, v, quote);
}

static void put_value(writer_t *w, const ProtobufCFieldDescriptor *field, const void *value) {
    switch (field->type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        put_integer(w, false, true, (uint64_t)(int64_t) * (const int32_t *)value);
        break;
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        put_integer(w, false, false, *(const uint32_t *)value);
        break;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        put_integer(w, true, true, *(const uint64_t *)value);
        break;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        put_integer(w, true, false, *(const uint64_t *)value);
        break;
    case PROTOBUF_C_TYPE_FLOAT:
        put_real(w, (double)*(const float *)value, 6, 9);
        break;
    case PROTOBUF_C_TYPE_DOUBLE:
        put_real(w, *(const double *)value, 15, 17);
        break;
    case PROTOBUF_C_TYPE_BOOL:
        put_text(w, *(const protobuf_c_boolean *)value ? "true" : "false");
        break;
    case PROTOBUF_C_TYPE_ENUM: {
        int number = *(const int *)value;
        const ProtobufCEnumValue *known = protobuf_c_enum_descriptor_get_value(field->descriptor, number);
        if (known)
            put_string(w, (const uint8_t *)known->name, strlen(known->name));
        else
            put_integer(w, false, true, (uint64_t)(int64_t)number);
        break;
    }
    case PROTOBUF_C_TYPE_STRING: {
        const char *text = *(char *const *)value;
        put_string(w, (const uint8_t *)text, text ? strlen(text) : 0);
        break;
    }
    case PROTOBUF_C_TYPE_BYTES: {
        const ProtobufCBinaryData *bytes = value;
        if (is_utf8(bytes->data, bytes->len))
            put_string(w, bytes->data, bytes->len);
        else
            put_base64(w, bytes->data, bytes->len);
        break;
    }
    case PROTOBUF_C_TYPE_MESSAGE: {
        const ProtobufCMessage *message = *(ProtobufCMessage *const *)value;
        if (message)
            put_message(w, message);
        else
            put_text(w, "{}");
        break;
    }
    }
}

static size_t element_size(ProtobufCType type) {
    switch (type) {
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return 8;
    case PROTOBUF_C_TYPE_BOOL:
        return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    default:
        return 4;
    }
}

static bool is_pointer(const ProtobufCFieldDescriptor *field) {
    return field->type == PROTOBUF_C_TYPE_STRING || field->type == PROTOBUF_C_TYPE_MESSAGE;
}

static bool is_set(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field) {
    const char *base = (const char *)message;
    if (field->label == PROTOBUF_C_LABEL_REQUIRED) return true;
    if (field->label == PROTOBUF_C_LABEL_REPEATED)
        return *(const size_t *)(const void *)(base + field->quantifier_offset) > 0;
    if (is_pointer(field)) {
        const void *p = *(void *const *)(const void *)(base + field->offset);
        return p && p != field->default_value;
    }
    return *(const protobuf_c_boolean *)(const void *)(base + field->quantifier_offset);
}

static void put_message(writer_t *w, const ProtobufCMessage *message) {
    const char *base = (const char *)message;
    bool first = true;
    put_text(w, "{");
    w->indent++;
    for (unsigned i = 0; i < message->descriptor->n_fields && w->rc == 0; i++) {
        const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
        if (!is_set(message, field)) continue;
        if (!first) put_text(w, ",");
        first = false;
        new_line(w);
        char name[MAX_NAME];
        if (w->java) camel_case(field->name, name, sizeof name);
        const char *key = w->java ? name : field->name;
        put_string(w, (const uint8_t *)key, strlen(key));
        put_text(w, w->java ? ": " : ":");
        const void *value = base + field->offset;
        if (field->label != PROTOBUF_C_LABEL_REPEATED) {
            put_value(w, field, value);
            continue;
        }
        size_t n = *(const size_t *)(const void *)(base + field->quantifier_offset);
        const char *elements = *(const char *const *)value;
        put_text(w, "[");
        for (size_t k = 0; k < n && w->rc == 0; k++) {
            if (k) put_text(w, w->java ? ", " : ",");
            put_value(w, field, elements + k * element_size(field->type));
        }
        put_text(w, "]");
    }
    w->indent--;
    if (!first)
        new_line(w);
    else if (w->java)
        put_text(w, "\n");
    put_text(w, "}");
}

int osync__message_to_json(const ProtobufCMessage *message, osync__json_style_t style, osync__buf_t *out) {
    writer_t w = {.out = out, .java = style == OSYNC__JSON_JAVA};
    put_message(&w, message);
    return w.rc;
}

/* ---- parsing ---- */

typedef enum outcome { TAKEN, MISMATCH, FAILED } outcome_t;

static outcome_t take_signed(const json_t *v, int64_t least, int64_t most, bool strings, int64_t *out) {
    if (json_is_integer(v)) {
        *out = json_integer_value(v);
    } else if (strings && json_is_string(v)) {
        const char *text = json_string_value(v);
        char *end;
        errno = 0;
        *out = strtoll(text, &end, 10);
        if (errno || end == text || *end || !(*text == '-' || (*text >= '0' && *text <= '9'))) return MISMATCH;
    } else {
        return MISMATCH;
    }
    return *out >= least && *out <= most ? TAKEN : MISMATCH;
}

static outcome_t take_unsigned(const json_t *v, uint64_t most, bool strings, uint64_t *out) {
    if (json_is_integer(v)) {
        if (json_integer_value(v) < 0) return MISMATCH;
        *out = (uint64_t)json_integer_value(v);
    } else if (strings && json_is_string(v)) {
        const char *text = json_string_value(v);
        char *end;
        errno = 0;
        *out = strtoull(text, &end, 10);
        if (errno || end == text || *end || *text < '0' || *text > '9') return MISMATCH;
    } else {
        return MISMATCH;
    }
    return *out <= most ? TAKEN : MISMATCH;
}

static outcome_t take_real(const json_t *v, double *out) {
    if (json_is_number(v)) {
        *out = json_number_value(v);
        return TAKEN;
    }
    if (!json_is_string(v)) return MISMATCH;
    const char *text = json_string_value(v);
    if (strcmp(text, "NaN") == 0)
        *out = (double)NAN;
    else if (strcmp(text, "Infinity") == 0)
        *out = (double)INFINITY;
    else if (strcmp(text, "-Infinity") == 0)
        *out = -(double)INFINITY;
    else { /* an integer that was too long for jansson */
        char *end;
        *out = strtod(text, &end);
        if (end == text || *end || strspn(text, "-0123456789") != strlen(text)) return MISMATCH;
    }
    return TAKEN;
}

static ProtobufCMessage *take_message(const ProtobufCMessageDescriptor *type, const json_t *object, osync_error_t *err);

/* Puts `v` where `value` points, in the form of the field's type. */
static outcome_t take_value(const ProtobufCFieldDescriptor *field, const json_t *v, void *value, osync_error_t *err) {
    outcome_t outcome = MISMATCH;
    int64_t i;
    uint64_t u;
    double d;
    switch (field->type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        outcome = take_signed(v, INT32_MIN, INT32_MAX, false, &i);
        if (outcome == TAKEN) *(int32_t *)value = (int32_t)i;
        break;
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        outcome = take_unsigned(v, UINT32_MAX, false, &u);
        if (outcome == TAKEN) *(uint32_t *)value = (uint32_t)u;
        break;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        outcome = take_signed(v, INT64_MIN, INT64_MAX, true, &i);
        if (outcome == TAKEN) *(int64_t *)value = i;
        break;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        outcome = take_unsigned(v, UINT64_MAX, true, &u);
        if (outcome == TAKEN) *(uint64_t *)value = u;
        break;
    case PROTOBUF_C_TYPE_FLOAT:
        outcome = take_real(v, &d);
        if (outcome == TAKEN) *(float *)value = (float)d;
        break;
    case PROTOBUF_C_TYPE_DOUBLE:
        outcome = take_real(v, &d);
        if (outcome == TAKEN) *(double *)value = d;
        break;
    case PROTOBUF_C_TYPE_BOOL:
        if (!json_is_boolean(v)) break;
        *(protobuf_c_boolean *)value = json_is_true(v);
        outcome = TAKEN;
        break;
    case PROTOBUF_C_TYPE_ENUM: {
        const ProtobufCEnumValue *known = NULL;
        if (json_is_string(v))
            known = protobuf_c_enum_descriptor_get_value_by_name(field->descriptor, json_string_value(v));
        else if (take_signed(v, INT32_MIN, INT32_MAX, false, &i) == TAKEN)
            known = protobuf_c_enum_descriptor_get_value(field->descriptor, (int)i);
        if (!known) break;
        *(int *)value = known->value;
        outcome = TAKEN;
        break;
    }
    case PROTOBUF_C_TYPE_STRING: {
        if (!json_is_string(v)) break;
        if (strlen(json_string_value(v)) != json_string_length(v)) {
            osync__err(err, OSYNC_EINVAL, "Invalid value for field `%s': a string with a zero byte", field->name);
            outcome = FAILED;
            break;
        }
        char *copy = osync__strdup(json_string_value(v));
        if (copy)
            *(char **)value = copy;
        else
            osync__err(err, OSYNC_ENOMEM, "out of memory");
        outcome = copy ? TAKEN : FAILED;
        break;
    }
    case PROTOBUF_C_TYPE_BYTES: {
        if (!json_is_string(v)) break;
        ProtobufCBinaryData bytes = {.len = json_string_length(v)};
        bytes.data = osync__malloc(bytes.len + 1);
        outcome = FAILED;
        if (!bytes.data) {
            osync__err(err, OSYNC_ENOMEM, "out of memory");
            break;
        }
        memcpy(bytes.data, json_string_value(v), bytes.len + 1);
        *(ProtobufCBinaryData *)value = bytes;
        outcome = TAKEN;
        break;
    }
    case PROTOBUF_C_TYPE_MESSAGE: {
        ProtobufCMessage *message = take_message(field->descriptor, v, err);
        if (message) *(ProtobufCMessage **)value = message;
        outcome = message ? TAKEN : FAILED;
        break;
    }
    }
    return outcome;
}

static int mismatch(const ProtobufCMessageDescriptor *type, const ProtobufCFieldDescriptor *field, osync_error_t *err) {
    return osync__err(err, OSYNC_EINVAL, "Invalid value for %sfield `%s.%s'",
                      field->label == PROTOBUF_C_LABEL_REPEATED ? "repeated " : "", type->name, field->name);
}

static int take_array(const ProtobufCMessageDescriptor *type, const ProtobufCFieldDescriptor *field,
                      const json_t *array, char *base, osync_error_t *err) {
    if (!json_is_array(array)) return mismatch(type, field, err);
    size_t n = json_array_size(array);
    size_t size = element_size(field->type);
    size_t *count = (size_t *)(void *)(base + field->quantifier_offset);
    if (n == 0) return 0;
    char *elements = osync__calloc(n, size);
    if (!elements) return osync__err(err, OSYNC_ENOMEM, "out of memory");
    *(char **)(void *)(base + field->offset) =
        elements; /* the message's from here on; `count` says how much is filled */
    for (size_t i = 0; i < n; i++) {
        switch (take_value(field, json_array_get(array, i), elements + i * size, err)) {
        case TAKEN:
            ++*count;
            break;
        case MISMATCH:
            return mismatch(type, field, err);
        case FAILED:
            return OSYNC_EINVAL;
        }
    }
    return 0;
}

static int take_field(const ProtobufCMessageDescriptor *type, const ProtobufCFieldDescriptor *field,
                      const json_t *object, char *base, osync_error_t *err) {
    char name[MAX_NAME];
    const json_t *v = json_object_get(object, field->name);
    if (!v) {
        camel_case(field->name, name, sizeof name);
        v = json_object_get(object, name);
    }
    if (!v || json_is_null(v)) {
        if (field->label != PROTOBUF_C_LABEL_REQUIRED) return 0;
        return osync__err(err, OSYNC_EINVAL, "Missing required field: %s.%s", type->name, field->name);
    }
    if (field->label == PROTOBUF_C_LABEL_REPEATED) return take_array(type, field, v, base, err);
    switch (take_value(field, v, base + field->offset, err)) {
    case TAKEN:
        if (field->label == PROTOBUF_C_LABEL_OPTIONAL && !is_pointer(field))
            *(protobuf_c_boolean *)(void *)(base + field->quantifier_offset) = true;
        return 0;
    case MISMATCH:
        return field->label == PROTOBUF_C_LABEL_OPTIONAL ? 0 : mismatch(type, field, err);
    default:
        return OSYNC_EINVAL;
    }
}

static ProtobufCMessage *take_message(const ProtobufCMessageDescriptor *type, const json_t *object,
                                      osync_error_t *err) {
    if (!json_is_object(object)) {
        osync__err(err, OSYNC_EINVAL, "The input is not a json object [%s]", type->short_name);
        return NULL;
    }
    ProtobufCMessage *message = osync__malloc(type->sizeof_message);
    if (!message) {
        osync__err(err, OSYNC_ENOMEM, "out of memory");
        return NULL;
    }
    protobuf_c_message_init(type, message);
    for (unsigned i = 0; i < type->n_fields; i++) {
        if (take_field(type, &type->fields[i], object, (char *)message, err)) {
            protobuf_c_message_free_unpacked(message, &osync__protobuf_allocator);
            return NULL;
        }
    }
    return message;
}

static bool too_deep(const json_t *v, unsigned nesting) {
    const json_t *inner;
    size_t i;
    if (json_is_array(v)) {
        if (nesting >= MAX_NESTING) return true;
        for (i = 0; i < json_array_size(v); i++)
            if (too_deep(json_array_get(v, i), nesting + 1)) return true;
    } else if (json_is_object(v)) {
        if (nesting >= MAX_NESTING) return true;
        json_t *object = json_incref((json_t *)(uintptr_t)v); /* jansson's iterators take no const */
        void *it = json_object_iter(object);
        bool deep = false;
        for (; it && !deep; it = json_object_iter_next(object, it)) {
            inner = json_object_iter_value(it);
            deep = too_deep(inner, nesting + 1);
        }
        json_decref(object);
        return deep;
    }
    return false;
}

/* jansson refuses a document that holds an integer beyond a signed 64-bit one, where bRPC writes an uint64 so. Since a
 * string is as good as a number for those, integers of that length are put into quotes. OSYNC_ETOOBIG: more values
 * than any message has. */
static int quote_long_integers(const char *json, size_t len, osync__buf_t *out) {
    bool in_string = false;
    size_t done = 0, values = 1;
    int rc = 0;
    for (size_t i = 0; i < len && rc == 0; i++) {
        if (in_string) {
            if (json[i] == '\\')
                i++;
            else if (json[i] == '"')
                in_string = false;
        } else if (json[i] == '"') {
            in_string = true;
        } else if (json[i] == ',' || json[i] == '[' || json[i] == '{') {
            if (++values > MAX_VALUES) return OSYNC_ETOOBIG;
        } else if (json[i] == '-' || (json[i] >= '0' && json[i] <= '9')) {
            size_t first = i + (json[i] == '-');
            size_t end = first;
            while (end < len && json[end] >= '0' && json[end] <= '9') end++;
            bool real = end < len && (json[end] == '.' || json[end] == 'e' || json[end] == 'E');
            if (end - first >= LONG_NUMBER && !real &&
                json[first] != '0') { /* a leading zero isn't JSON, quoted or not */
                rc = osync__buf_append(out, json + done, i - done);
                if (rc == 0) rc = osync__buf_append(out, "\"", 1);
                if (rc == 0) rc = osync__buf_append(out, json + i, end - i);
                if (rc == 0) rc = osync__buf_append(out, "\"", 1);
                done = end;
            }
            while (real && end < len && strchr("0123456789.eE+-", json[end])) end++;
            i = end > i ? end - 1 : i;
        }
    }
    if (rc == 0) rc = osync__buf_append(out, json + done, len - done);
    return rc;
}

int osync__json_to_message(const ProtobufCMessageDescriptor *type, const void *json, size_t len, ProtobufCMessage **out,
                           osync_error_t *err) {
    osync__buf_t text = {0};
    json_t *root = NULL;
    json_error_t why;
    osync_error_t local = {0};
    int rc = 0;
    if (!err) err = &local;
    err->code = 0;
    *out = NULL;
    rc = quote_long_integers(json, len, &text);
    if (rc == OSYNC_ETOOBIG) {
        rc = osync__err(err, OSYNC_EINVAL, "Invalid json: more than %d values [%s]", MAX_VALUES, type->short_name);
        goto done;
    }
    if (rc) {
        osync__err(err, rc, "out of memory");
        goto done;
    }
    root = json_loadb((const char *)text.data, text.len, JSON_ALLOW_NUL | JSON_DECODE_ANY, &why);
    if (!root) {
        rc = osync__err(err, OSYNC_EINVAL, "Invalid json: %s [%s]", why.text, type->short_name);
        goto done;
    }
    if (too_deep(root, 0)) {
        rc = osync__err(err, OSYNC_EINVAL, "Invalid json: more than %d levels of nesting [%s]", MAX_NESTING,
                        type->short_name);
        goto done;
    }
    *out = take_message(type, root, err);
    if (!*out) rc = err->code ? err->code : OSYNC_EINVAL;
done:
    json_decref(root);
    osync__buf_free(&text);
    return rc;
}
