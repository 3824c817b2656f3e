/* Counts the rows of CSV text as osync_csv_add writes it, and tells whether it is such text at all: ASCII, each row a
 * line of its own, quotes closed before its end. The values themselves aren't looked at. Any thread. */
#ifndef OSYNC_FORMAT_CSV_COUNT_H
#define OSYNC_FORMAT_CSV_COUNT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zero-initialised: nothing counted yet. */
typedef struct osync__csv_count {
    uint64_t rows;
    bool in_row, in_string, escaped; /* where the text has stopped */
    bool bad;                        /* something that is never written; `rows` says how many rows came before it */
} osync__csv_count_t;

/* Goes on with the next bytes of the text; they may be cut anywhere. */
void osync__csv_count_add(osync__csv_count_t *count, const void *data, size_t len);

#endif
