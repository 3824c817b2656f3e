/* Rows to CSV, byte for byte as OpenMLDB's SyncTool writes it (docs/formats.md).
 *
 * One line a row: columns in the table's order (the base columns, then the added ones), separated by ',', ended by
 * '\n'; NULL is `null`, strings are JSON-escaped in double quotes, floats as Java (JDK 8 to 18) prints them, a
 * timestamp as `YYYY-MM-DD HH:MM:SS.f` in the encoder's time zone. An encoder is used by one thread at a time. */
#ifndef OSYNC_CSV_H
#define OSYNC_CSV_H

#include <stddef.h>

#include "osync/table.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct osync_csv osync_csv_t;

typedef struct osync_csv_config {
    size_t size;          /* sizeof(osync_csv_config_t), set by osync_csv_config_init */
    const char *timezone; /* IANA name ("Asia/Shanghai"), "UTC", or NULL: the machine's zone. Borrowed during _new. */
} osync_csv_config_t;

/* `size`: sizeof *config. Sets it, and the zone to the machine's. */
OSYNC_API void osync_csv_config_init(osync_csv_config_t *config, size_t size);
/* `table` is borrowed and must outlive the encoder; `config` NULL is the default. The caller owns *out: osync_csv_free;
 * NULL on failure. An unknown zone is OSYNC_ECONFIG. */
OSYNC_API int osync_csv_new(osync_csv_t **out, const osync_table_t *table, const osync_csv_config_t *config,
                            osync_error_t *err);
/* NULL is fine. */
OSYNC_API void osync_csv_free(osync_csv_t *csv);

/* Appends one encoded row (already decompressed) as a line. On an error nothing is appended: OSYNC_ECORRUPT,
 * OSYNC_ESCHEMA (the row's schema version isn't in the table's description), OSYNC_ENOMEM. */
OSYNC_API int osync_csv_add(osync_csv_t *csv, const void *row, size_t len, osync_error_t *err);
/* What was appended since the last reset, *len bytes without a NUL behind them; never NULL. Valid until the next call
 * on the encoder that isn't this one. */
OSYNC_API const char *osync_csv_data(const osync_csv_t *csv, size_t *len);
/* Forgets the text, keeps the memory. */
OSYNC_API void osync_csv_reset(osync_csv_t *csv);

#ifdef __cplusplus
}
#endif
#endif
