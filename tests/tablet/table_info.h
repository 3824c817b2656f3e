/* A table's TableInfo in ZooKeeper, which says who leads each partition. The nameserver writes it at OpenMLDB; here the
 * test TabletServers do, told by a test, which is the nameserver. No ZooKeeper in here. */
#ifndef TABLET_TABLE_INFO_H
#define TABLET_TABLE_INFO_H

#include "disk_table.h"

/* What is to change; all 0: nothing. */
typedef struct info_change {
    bool lead; /* this TabletServer leads `pid`, or all partitions, with `term`; replicas in `dead` aren't alive */
    bool one;
    uint32_t pid;
    uint64_t term;
    char **dead;
    size_t n_dead;
    char *endpoint; /* is alive, or not */
    bool alive;
} info_change_t;

/* Makes the TableInfo out of the one that is there (len 0: none; then the table's meta says who leads) and the change.
 */
int table_info_make(const disk_table_t *table, const char *own, const void *old, size_t len,
                    const info_change_t *change, osync__buf_t *out, osync_error_t *err);
/* Sets leader and term of each partition from a TableInfo. *named: `own` is in it, else nothing is set. */
int table_info_adopt(disk_table_t *table, const char *own, const void *data, size_t len, bool *named,
                     osync_error_t *err);
/* The same from the table's meta. */
int table_info_adopt_meta(disk_table_t *table, const char *own);

#endif
