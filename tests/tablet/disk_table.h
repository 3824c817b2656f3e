/* One table of the test TabletServer: for each partition a RocksDB, a binlog and snapshots, in OpenMLDB's layout. A
 * memory table has a RocksDB too, which OpenMLDB's hasn't and nobody reads; its snapshots are made by
 * memory_snapshot.h.
 *
 * A partition is led here, and takes puts, or is a copy that gets its leader's entries.
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

/* One entry of the log, so that another copy of it can be told from it. */
typedef struct entry_id {
    uint64_t index, term;
    uint32_t crc; /* crc32c of the payload */
} entry_id_t;

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
    entry_id_t last;     /* of the log */
    uint64_t term;       /* of the entries that are put here */
    char *leader;        /* endpoint of the TabletServer that leads it; NULL: this one */
    bool paused, asking; /* of a copy: takes nothing; waits for an answer of its leader */
    uint64_t hold_back;  /* of a copy: stays this many entries behind */
    uint64_t copies;     /* how often it was made anew from its leader's snapshot */
    log_cursor_t served; /* how far a follower has been given entries, the last of which is served_last */
    entry_id_t served_last;
    uint64_t counter; /* OpenMLDB's operation counter, which becomes MANIFEST's offset */
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
    tablet_clock_t clock;
    bool announced; /* in ZooKeeper, if there is one */
};

/* Makes a table's folders below `root`, or opens what is there. `meta` is kept and freed. */
int disk_table_open(disk_table_t **out, const char *root, Openmldb__Api__TableMeta *meta, size_t partitions,
                    uint64_t binlog_max_bytes, const tablet_clock_t *clock, osync_error_t *err);
void disk_table_close(disk_table_t *table);

/* Puts one row; the version's columns are the first n. Reaches the files with disk_table_flush. *pid, *index (may be
 * NULL): which entry it is of the partition that its key of index 0 belongs to. OSYNC_ECONFLICT: another TabletServer
 * leads a partition that the row belongs to, and nothing has happened. */
int disk_table_put(disk_table_t *table, const cell_t *cells, size_t n, int version, uint64_t put_time, uint32_t *pid,
                   uint64_t *index, osync_error_t *err);
int disk_table_flush(disk_table_t *table, osync_error_t *err);
/* key NULL: every key of the indexes on ts_name (NULL: those without a ts column), of partition *pid (NULL: of all).
 * start_ts, end_ts NULL: not bounded. OSYNC_ECONFLICT: as for disk_table_put. */
int disk_table_delete(disk_table_t *table, uint32_t index, const char *key, const uint32_t *pid,
                      const uint64_t *start_ts, const uint64_t *end_ts, const char *ts_name, osync_error_t *err);
int disk_table_add_column(disk_table_t *table, const Openmldb__Common__ColumnDesc *column, osync_error_t *err);
/* The newest schema version, and how many columns a version has (0: there is none). */
int disk_table_version(const disk_table_t *table);
size_t disk_table_version_columns(const disk_table_t *table, int version);

/* The ts of each index that the entry, a put, has a dimension of. */
int disk_table_entry_ts(disk_table_t *table, const Openmldb__Api__LogEntry *e, uint64_t *ts, osync_error_t *err);

/* compression: of a memory table's snapshot: "zlib" or "snappy"; NULL: none. */
int partition_snapshot(partition_t *p, int64_t offset_skew, const char *compression, osync_error_t *err);
/* The snapshot's folder; "" if there is none. */
int partition_snapshot_name(const partition_t *p, char *out, size_t size, osync_error_t *err);

/* ---- copies ---- */

/* For a follower whose last entry is `last`: gives the payloads behind it, up to entry `until`, about `most` bytes of
 * them. *match false: this log has no such entry (any more), so that the copy has to be made anew. */
int partition_entries(partition_t *p, const entry_id_t *last, uint64_t until, size_t most, bool *match,
                      int (*take)(void *arg, const void *payload, size_t len), void *arg, osync_error_t *err);
/* Appends a leader's next entry to the log, then applies it. */
int partition_append(partition_t *p, const void *payload, size_t len, osync_error_t *err);
/* Throws everything away and begins with the leader's snapshot `name` in its folder `from`, which was made when its
 * last entry was `last`. */
int partition_replace(partition_t *p, const char *from, const char *name, const entry_id_t *last, osync_error_t *err);

#endif
