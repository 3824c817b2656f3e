#include "format/log_entry.h"

#include "tablet.pb-c.h"

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 }; /* protobuf's wire types */

/* LogEntry's fields, and those of its dimensions. */
enum { TERM = 1, LOG_INDEX, PK, VALUE, TS, DIMENSIONS, METHOD_TYPE, TS_DIMENSIONS, END_TS, TS_NAME };
enum { DIMENSION_KEY = 1, DIMENSION_IDX = 2, TS_DIMENSION_TS = 1, TS_DIMENSION_IDX = 2 };

typedef struct field {
    uint64_t number, wire;
    uint64_t value;      /* VARINT */
    osync__span_t bytes; /* BYTES */
} field_t;

static bool get_varint(const uint8_t **at, const uint8_t *end, uint64_t *out) {
    const uint8_t *p = *at;
    uint64_t value = 0;
    if (p < end && *p < 0x80) {
        *out = *p;
        *at = p + 1;
        return true;
    }
    for (unsigned shift = 0; shift < 64 && p < end; shift += 7) {
        uint8_t b = *p++;
        if (shift == 63 && b > 1) return false;
        value |= (uint64_t)(b & 0x7f) << shift;
        if (b >= 0x80) continue;
        *out = value;
        *at = p;
        return true;
    }
    return false;
}

/* The field at *at; there is at least one byte. */
static bool get_field(const uint8_t **at, const uint8_t *end, field_t *f) {
    uint64_t tag, skip;
    if (!get_varint(at, end, &tag) || tag >> 3 == 0 || tag > UINT32_MAX) return false;
    f->number = tag >> 3;
    f->wire = tag & 7;
    f->value = 0;
    switch (f->wire) {
    case VARINT:
        return get_varint(at, end, &f->value);
    case BYTES:
        if (!get_varint(at, end, &skip)) return false;
        f->bytes = (osync__span_t){.data = *at, .len = (size_t)skip};
        break;
    case FIXED64:
        skip = 8;
        break;
    case FIXED32:
        skip = 4;
        break;
    default: /* groups don't exist in these messages */
        return false;
    }
    if (skip > (uint64_t)(end - *at)) return false;
    *at += skip;
    return true;
}

/* A dimension without an idx is of index 0. */
static bool scan_dimension(osync__span_t message, osync__span_t *key, uint32_t *idx) {
    const uint8_t *p = message.data, *end = p + message.len;
    field_t f;
    *key = (osync__span_t){.data = end};
    *idx = 0;
    while (p < end) {
        if (!get_field(&p, end, &f)) return false;
        if (f.number == DIMENSION_KEY) {
            if (f.wire != BYTES) return false;
            *key = f.bytes;
        } else if (f.number == DIMENSION_IDX) {
            if (f.wire != VARINT) return false;
            *idx = (uint32_t)f.value;
        }
    }
    return true;
}

static bool scan_ts_dimension(osync__span_t message) {
    const uint8_t *p = message.data, *end = p + message.len;
    field_t f;
    while (p < end)
        if (!get_field(&p, end, &f) ||
            ((f.number == TS_DIMENSION_TS || f.number == TS_DIMENSION_IDX) && f.wire != VARINT))
            return false;
    return true;
}

bool osync__log_entry_scan(osync__log_entry_t *e, const uint8_t *payload, size_t len) {
    static const uint8_t wires[] = {
        [TERM] = VARINT,   [LOG_INDEX] = VARINT, [PK] = BYTES,           [VALUE] = BYTES,
        [TS] = VARINT,     [DIMENSIONS] = BYTES, [METHOD_TYPE] = VARINT, [TS_DIMENSIONS] = BYTES,
        [END_TS] = VARINT, [TS_NAME] = BYTES};
    const uint8_t *p = payload, *end = p + len;
    osync__span_t key;
    uint32_t idx;
    *e = (osync__log_entry_t){.well_formed = true};
    while (p < end) {
        field_t f;
        if (!get_field(&p, end, &f)) return false;
        if (f.number > TS_NAME) continue;
        if (f.wire != wires[f.number]) {
            if (f.number <= LOG_INDEX) return false;
            e->well_formed = false;
            continue;
        }
        switch (f.number) {
        case TERM:
            e->term = f.value;
            break;
        case LOG_INDEX:
            e->log_index = f.value;
            break;
        case PK:
            e->pk = f.bytes;
            break;
        case VALUE:
            e->value = f.bytes;
            break;
        case TS:
            e->has_ts = true;
            e->ts = f.value;
            break;
        case DIMENSIONS:
            e->has_dimensions = true;
            if (!scan_dimension(f.bytes, &key, &idx))
                e->well_formed = false;
            else if (idx == 0 && !e->base_key.data)
                e->base_key = key;
            break;
        case METHOD_TYPE:
            e->is_delete = (uint32_t)f.value == OPENMLDB__API__METHOD_TYPE__kDelete;
            break;
        case TS_DIMENSIONS:
            if (!scan_ts_dimension(f.bytes)) e->well_formed = false;
            break;
        case END_TS:
            e->has_end_ts = true;
            e->end_ts = f.value;
            break;
        default:
            e->ts_name = f.bytes;
            break;
        }
    }
    return true;
}
