#include "collector/keymap.h"

#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/alloc.h"
#include "base/sys.h"

enum { FIRST_SLOTS = 256 };

/* Where the search for a key begins is the hash's lower half, the tag its upper. */
static osync__keymap_slot_t *search(const osync__keymap_t *m, uint64_t hash, const void *key, size_t len) {
    uint32_t tag = (uint32_t)(hash >> 32);
    for (size_t i = (size_t)hash & (m->n_slots - 1);; i = (i + 1) & (m->n_slots - 1)) {
        osync__keymap_slot_t *s = &m->slots[i];
        if (s->node == 0) return s;
        if (s->tag != tag) continue;
        const osync__keymap_node_t *n = &m->nodes[s->node - 1];
        if (n->len == len && (len == 0 || memcmp(m->keys.data + n->at, key, len) == 0)) return s;
    }
}

static int grow_slots(osync__keymap_t *m) {
    osync__keymap_t grown = *m;
    grown.n_slots = m->n_slots ? 2 * m->n_slots : FIRST_SLOTS;
    grown.slots = osync__calloc(grown.n_slots, sizeof *grown.slots);
    if (!grown.slots) return OSYNC_ENOMEM;
    for (size_t i = 0; i < m->n; i++) {
        const osync__keymap_node_t *n = &m->nodes[i];
        uint64_t hash = XXH3_64bits_withSeed(m->keys.data + n->at, n->len, m->seed);
        size_t at = (size_t)hash & (grown.n_slots - 1);
        while (grown.slots[at].node > 0) at = (at + 1) & (grown.n_slots - 1);
        grown.slots[at] = (osync__keymap_slot_t){.tag = (uint32_t)(hash >> 32), .node = (uint32_t)i + 1};
    }
    osync__free(m->slots);
    *m = grown;
    return 0;
}

static int grow_nodes(osync__keymap_t *m) {
    size_t cap = m->cap ? 2 * m->cap : FIRST_SLOTS / 2;
    osync__keymap_node_t *p = cap < UINT32_MAX ? osync__reallocarray(m->nodes, cap, sizeof *p) : NULL;
    if (!p) return OSYNC_ENOMEM;
    m->nodes = p;
    m->cap = cap;
    return 0;
}

uint64_t *osync__keymap_add(osync__keymap_t *m, const void *key, size_t len) {
    if (!m->seed) {
        char hex[17];
        osync__random_hex(hex, sizeof hex / 2);
        m->seed = strtoull(hex, NULL, 16) | 1;
    }
    if (len >= UINT32_MAX || (m->n * 4 >= m->n_slots * 3 && grow_slots(m)) || (m->n == m->cap && grow_nodes(m)))
        return NULL;
    uint64_t hash = XXH3_64bits_withSeed(key, len, m->seed);
    osync__keymap_slot_t *s = search(m, hash, key, len);
    if (s->node == 0) {
        size_t at = m->keys.len; /* of an empty key, too, which needs memory to point to */
        if (osync__buf_reserve(&m->keys, len + 1) || osync__buf_append(&m->keys, key, len)) return NULL;
        m->nodes[m->n++] = (osync__keymap_node_t){.at = at, .len = (uint32_t)len};
        *s = (osync__keymap_slot_t){.tag = (uint32_t)(hash >> 32), .node = (uint32_t)m->n};
    }
    return &m->nodes[s->node - 1].value;
}

const uint64_t *osync__keymap_find(const osync__keymap_t *m, const void *key, size_t len) {
    if (m->n == 0) return NULL;
    const osync__keymap_slot_t *s = search(m, XXH3_64bits_withSeed(key, len, m->seed), key, len);
    return s->node ? &m->nodes[s->node - 1].value : NULL;
}

const uint8_t *osync__keymap_key(const osync__keymap_t *m, size_t node, size_t *len) {
    *len = m->nodes[node].len;
    return m->keys.data + m->nodes[node].at;
}

size_t osync__keymap_bytes(const osync__keymap_t *m) {
    return m->keys.len + m->n * sizeof *m->nodes + m->n_slots * sizeof *m->slots;
}

void osync__keymap_free(osync__keymap_t *m) {
    osync__free(m->slots);
    osync__free(m->nodes);
    osync__buf_free(&m->keys);
    *m = (osync__keymap_t){0};
}
