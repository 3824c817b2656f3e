/* What stands behind osync_table_t: the schema of every version, and the base index. */
#ifndef OSYNC_FORMAT_TABLE_H
#define OSYNC_FORMAT_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nameserver.pb-c.h"
#include "osync/table.h"
#include "tablet.pb-c.h"

enum { OSYNC__AUTO_TS = -1, OSYNC__MAX_VERSION = 255 };
#define OSYNC__AUTO_TS_COL_ID UINT32_MAX

typedef struct osync__column {
    char *name;
    int type; /* OPENMLDB__TYPE__DATA_TYPE__... */
} osync__column_t;

/* Where the fields of a row with a given number of columns are. */
typedef struct osync__layout {
    size_t n_columns; /* 0: there is no such version */
    size_t n_strings;
    size_t strings_at; /* offset of the string address table (S in docs/formats.md) */
    uint32_t *at;      /* a column: offset of the fixed field, or the string's number */
} osync__layout_t;

typedef struct osync__ttl {
    int type; /* OPENMLDB__TYPE__TTLTYPE__... */
    uint64_t abs_ms;
    uint64_t lat;
} osync__ttl_t;

struct osync_table {
    unsigned shares; /* owners besides the first */
    uint32_t tid;
    char *db, *name;
    size_t n_columns; /* column_desc, then added_column_desc */
    size_t n_base_columns;
    osync__column_t *columns;
    osync__layout_t layouts[OSYNC__MAX_VERSION + 1]; /* by schema version; [0] is empty */
    bool snappy;                                     /* compress_type kSnappy */
    int storage_mode;
    /* index 0 */
    char *base_cf;   /* column family: the first index of the base index's group */
    bool multi_ts;   /* its keys hold a ts column id */
    char **siblings; /* the other indexes of its group; one that has a column family of its own was added at run time */
    size_t n_siblings;
    uint32_t ts_col_id;
    int ts_column; /* number of the ts column, or OSYNC__AUTO_TS */
    char *ts_name; /* "" if auto */
    osync__ttl_t ttl;
};

/* One more owner: osync_table_free is to be called once more. */
osync_table_t *osync__table_share(osync_table_t *table);

int osync__table_from_meta(osync_table_t **out, const Openmldb__Api__TableMeta *meta, osync_error_t *err);
int osync__table_from_info(osync_table_t **out, const Openmldb__Nameserver__TableInfo *info, osync_error_t *err);

/* Expiry of a row with base index ts `ts` that is the k-th (1 is newest) of its pk; k 0: its place isn't known, so that
 * rules that count rows say "not expired". */
bool osync__ttl_expired(const osync__ttl_t *ttl, uint64_t now_ms, uint64_t ts, uint64_t k);

#endif
