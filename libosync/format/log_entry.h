/* One serialized LogEntry (tablet.proto), gone over without a copy: what the fields are, not what they do to a table.
 * A binlog has one for each row, so that this takes the place of the generated parser. */
#ifndef OSYNC_FORMAT_LOG_ENTRY_H
#define OSYNC_FORMAT_LOG_ENTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the payload; never NULL if the field is there. */
typedef struct osync__span {
    const uint8_t *data;
    size_t len;
} osync__span_t;

typedef struct osync__log_entry {
    uint64_t term, log_index; /* 0: not given */
    /* What follows holds only if every known field, also of the dimensions, has its type. */
    bool well_formed;
    bool is_delete, has_ts, has_end_ts, has_dimensions;
    uint64_t ts, end_ts;
    osync__span_t pk, value, ts_name; /* data NULL: not given */
    osync__span_t base_key;           /* the key of the first dimension of index 0; data NULL: there is none */
} osync__log_entry_t;

/* False: not a serialized message, or term or log_index isn't a number. The spans point into `payload`. */
bool osync__log_entry_scan(osync__log_entry_t *entry, const uint8_t *payload, size_t len);

#endif
