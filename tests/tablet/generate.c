#include "generate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/sys.h"

enum { KEY_ROOM = 32, MAX_PAYLOAD = 256 << 20 };
static const uint64_t base_ts = 1700000000000;
static const uint64_t default_keys = 1000;

static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

int generator_open(generator_t *g, disk_table_t *t, uint64_t rows, uint64_t seed, uint64_t first_id, uint64_t keys,
                   uint32_t payload_bytes, osync_error_t *err) {
    bool has_id = false;
    for (size_t i = 0; i < t->n_columns; i++)
        if (!strcmp(t->columns[i]->name, "id") && t->columns[i]->data_type == OPENMLDB__TYPE__DATA_TYPE__kBigInt)
            has_id = true;
    if (!has_id) return osync__err(err, OSYNC_EINVAL, "table %d has no BIGINT column \"id\"", t->meta->tid);
    if (payload_bytes > MAX_PAYLOAD)
        return osync__err(err, OSYNC_EINVAL, "payload_bytes %u is too much", payload_bytes);
    *g = (generator_t){.table = t, .left = rows, .seed = seed, .keys = keys, .payload_bytes = payload_bytes};
    g->next_id = first_id;
    g->version = disk_table_version(t);
    g->n = disk_table_version_columns(t, g->version);
    /* Without a ts column rows of one key and one millisecond would overwrite each other. */
    if (!keys && t->indexes[0].ts_column >= 0) g->keys = default_keys;
    g->cells = calloc(g->n, sizeof *g->cells);
    g->text = malloc(g->n * KEY_ROOM + payload_bytes + 1);
    return g->cells && g->text ? 0 : osync__err(err, OSYNC_ENOMEM, "out of memory");
}

void generator_close(generator_t *g) {
    free(g->cells);
    free(g->text);
    *g = (generator_t){0};
}

static bool in_key(const disk_table_t *t, size_t column) {
    for (size_t i = 0; i < t->n_indexes; i++)
        for (size_t c = 0; c < t->indexes[i].key->n_col_name; c++)
            if (t->indexes[i].columns[c] == column) return true;
    return false;
}

static bool is_ts(const disk_table_t *t, size_t column) {
    for (size_t i = 0; i < t->n_indexes; i++)
        if (t->indexes[i].ts_column == (int)column) return true;
    return false;
}

static void fill_text(char *out, uint32_t len, uint64_t h) {
    for (uint32_t i = 0; i < len; i += 8) {
        h = mix(h);
        for (uint32_t j = 0; j < 8 && i + j < len; j++) out[i + j] = (char)('a' + (h >> (8 * j) & 0xff) % 26);
    }
}

static void fill_cell(generator_t *g, size_t i, uint64_t id, bool *payload_done) {
    const disk_table_t *t = g->table;
    const Openmldb__Common__ColumnDesc *column = t->columns[i];
    uint64_t h = mix(g->seed ^ mix(id * 64 + i));
    cell_t *cell = &g->cells[i];
    *cell = (cell_t){0};
    bool key = in_key(t, i), ts = is_ts(t, i);
    bool always = !strcmp(column->name, "id") || !strcmp(column->name, "put_ms");
    if (!key && !ts && !column->not_null && !always && h % 17 == 0) {
        cell->null = true;
        return;
    }
    uint64_t number = g->keys ? mix(g->seed ^ mix(id)) % g->keys : id; /* the key's */
    switch (column->data_type) {
    case OPENMLDB__TYPE__DATA_TYPE__kBool:
        cell->i = (int64_t)(h & 1);
        break;
    case OPENMLDB__TYPE__DATA_TYPE__kSmallInt:
        cell->i = (int64_t)((key ? number : h) % 30000);
        break;
    case OPENMLDB__TYPE__DATA_TYPE__kInt:
        cell->i = (int64_t)((key ? number : h) % INT32_MAX);
        break;
    case OPENMLDB__TYPE__DATA_TYPE__kBigInt:
    case OPENMLDB__TYPE__DATA_TYPE__kTimestamp:
        if (!strcmp(column->name, "id"))
            cell->i = (int64_t)id;
        else if (!strcmp(column->name, "put_ms"))
            cell->i = (int64_t)g->now;
        else
            cell->i = (int64_t)(ts ? base_ts + id : key ? number : base_ts + h % base_ts);
        break;
    case OPENMLDB__TYPE__DATA_TYPE__kDate:
        cell->i = (int64_t)((h % 200) << 16 | ((h >> 8) % 12) << 8 | ((h >> 16) % 28 + 1));
        break;
    case OPENMLDB__TYPE__DATA_TYPE__kFloat:
    case OPENMLDB__TYPE__DATA_TYPE__kDouble:
        cell->d = (double)(h % 100000) / 4;
        break;
    default: {
        char *text = g->text + i * KEY_ROOM;
        cell->str = text;
        cell->len =
            (size_t)snprintf(text, KEY_ROOM, "%c%llu", key ? 'k' : 'v', (unsigned long long)(key ? number : h % 100));
        if (key || *payload_done || !g->payload_bytes) break;
        *payload_done = true;
        cell->str = g->text + g->n * KEY_ROOM;
        cell->len = g->payload_bytes;
        fill_text(g->text + g->n * KEY_ROOM, g->payload_bytes, h);
    }
    }
}

int generator_run(generator_t *g, uint64_t most, osync_error_t *err) {
    int rc = 0;
    uint64_t now = g->now = osync__wall_ms();
    for (; rc == 0 && most > 0 && g->left > 0; most--, g->left--, g->next_id++) {
        bool payload_done = false;
        for (size_t i = 0; i < g->n; i++) fill_cell(g, i, g->next_id, &payload_done);
        rc = disk_table_put(g->table, g->cells, g->n, g->version, now, NULL, NULL, err);
    }
    int flushed = disk_table_flush(g->table, rc ? NULL : err);
    if (g->table->next_id < g->next_id) g->table->next_id = g->next_id;
    return rc ? rc : flushed;
}
