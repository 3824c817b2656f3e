/* Keys of any bytes with a number each, in memory: small beside the keys, so that many fit. No key is ever removed. */
#ifndef OSYNC_COLLECTOR_KEYMAP_H
#define OSYNC_COLLECTOR_KEYMAP_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

typedef struct osync__keymap_node {
    size_t at; /* of its key in `keys` */
    uint32_t len;
    uint64_t value;
} osync__keymap_node_t;

typedef struct osync__keymap_slot {
    uint32_t tag;  /* a part of the key's hash that the slot's place doesn't hold */
    uint32_t node; /* 1 + its place in `nodes`; 0: free */
} osync__keymap_slot_t;

/* Zero-initialised is empty and valid. */
typedef struct osync__keymap {
    uint64_t seed; /* of the hash, random: nobody can choose keys that meet */
    osync__buf_t keys;
    osync__keymap_node_t *nodes; /* in the order of their first coming */
    size_t n, cap;
    osync__keymap_slot_t *slots;
    size_t n_slots; /* a power of two, or 0 */
} osync__keymap_t;

/* The key's number, 0 if it is new; valid until the next call. NULL: out of memory. */
uint64_t *osync__keymap_add(osync__keymap_t *map, const void *key, size_t len);
/* NULL: it isn't there. */
const uint64_t *osync__keymap_find(const osync__keymap_t *map, const void *key, size_t len);
const uint8_t *osync__keymap_key(const osync__keymap_t *map, size_t node, size_t *len);
/* Bytes in use. */
size_t osync__keymap_bytes(const osync__keymap_t *map);
void osync__keymap_free(osync__keymap_t *map);

#endif
