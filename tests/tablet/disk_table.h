/* One disk table of the test TabletServer: for each partition a RocksDB, a binlog and snapshots, in OpenMLDB's layout.
 *
 * An entry goes to the binlog first and then to RocksDB, which runs without a write-ahead log; at start the whole
 * retained log is applied again. So a killed server never has a row in RocksDB that isn't in the log. OpenMLDB writes
 * the other way round; nobody can tell, since nothing else runs in between. */
#ifndef TABLET_DISK_TABLE_H
#define TABLET_DISK_TABLE_H

#include <rocksdb/c.h>

#include "format/table.h"
#include "log_writer.h"
#include "row_builder.h"
#include "tablet.pb-c.h"

typedef struct disk_index {
    const Openmldb__Common__ColumnKey *key;
    size_t cf;     /* number of its inner index */
    bool multi_ts; /* the inner index has several ts columns */
    uint32_t ts_col_id;
    int ts_column; /* -1: the put time */
    size_t *columns;
} disk_index_t;

typedef struct disk_table disk_table_t;

typedef struct partition {
    disk_table_t *table;
    uint32_t pid;
    char *dir; /* <root>/<tid>_<pid>, absolute */
    rocksdb_t *db;
    rocksdb_column_family_handle_t **cfs; /* by inner index */
    rocksdb_column_family_handle_t *default_cf;
    rocksdb_writebatch_t *batch; /* what the log has and RocksDB doesn't yet */
    rocksdb_comparator_t *comparator;
    log_writer_t log;
    uint64_t last_index; /* of the log */
    uint64_t counter;    /* OpenMLDB's operation counter, which becomes MANIFEST's offset */
    uint64_t snapshot_offset;
    uint64_t puts, base_puts;
} partition_t;

struct disk_table {
    Openmldb__Api__TableMeta *meta; /* pid 0's */
    osync_table_t *schema;
    Openmldb__Common__ColumnDesc **columns; /* with the added ones */
    size_t n_columns;
    disk_index_t *indexes;
    size_t n_indexes;
    const char **cf_names; /* by inner index */
    size_t n_cfs;
    partition_t *partitions;
    size_t n_partitions;
    /* of rows that are made up */
    uint64_t next_id;
    bool generating;
    uint64_t generated;
};

/* Makes a table's folders below `root`, or opens what is there. `meta` is kept and freed. */
int disk_table_open(disk_table_t **out, const char *root, Openmldb__Api__TableMeta *meta, size_t partitions,
                    uint64_t binlog_max_bytes, osync_error_t *err);
void disk_table_close(disk_table_t *table);

/* Puts one row; the version's columns are the first n. Reaches the files with disk_table_flush. */
int disk_table_put(disk_table_t *table, const cell_t *cells, size_t n, int version, uint64_t put_time,
                   osync_error_t *err);
int disk_table_flush(disk_table_t *table, osync_error_t *err);
/* key NULL: every key of the indexes on ts_name (NULL: those without a ts column). start_ts, end_ts NULL: not bounded.
 */
int disk_table_delete(disk_table_t *table, uint32_t index, const char *key, const uint64_t *start_ts,
                      const uint64_t *end_ts, const char *ts_name, osync_error_t *err);
int disk_table_add_column(disk_table_t *table, const Openmldb__Common__ColumnDesc *column, osync_error_t *err);
/* The newest schema version, and how many columns a version has (0: there is none). */
int disk_table_version(const disk_table_t *table);
size_t disk_table_version_columns(const disk_table_t *table, int version);

int partition_snapshot(partition_t *p, int64_t offset_skew, osync_error_t *err);

#endif
