/* Makes up rows: the same for the same seed and id, but for a BIGINT column "put_ms", which is the time of the put. */
#ifndef TABLET_GENERATE_H
#define TABLET_GENERATE_H

#include "disk_table.h"

typedef struct generator {
    disk_table_t *table;
    cell_t *cells;
    char *text; /* what the string cells point into */
    uint64_t seed;
    uint64_t next_id;
    uint64_t left;
    uint64_t now; /* of the slice that is put, wall clock */
    uint64_t keys;
    uint32_t payload_bytes;
    int version;
    size_t n; /* columns of the version */
} generator_t;

/* OSYNC_EINVAL if the table has no BIGINT column `id`. */
int generator_open(generator_t *g, disk_table_t *table, uint64_t rows, uint64_t seed, uint64_t first_id, uint64_t keys,
                   uint32_t payload_bytes, osync_error_t *err);
/* Puts up to `most` rows and flushes them. */
int generator_run(generator_t *g, uint64_t most, osync_error_t *err);
void generator_close(generator_t *g);

#endif
