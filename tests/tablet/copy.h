/* Copies of partitions: how a follower gets its leader's entries, and how a leader gives them. A follower asks for what
 * comes after its last entry. If its leader has no such entry, because it was led by another one meanwhile and got
 * entries that nobody else has, or because the leader's log begins later, it is made anew from a snapshot, as OpenMLDB
 * does. */
#ifndef TABLET_COPY_H
#define TABLET_COPY_H

#include "disk_table.h"
#include "net/rpc.h"

/* Asks once, unless an answer is still awaited. */
void copy_ask(osync__rpc_client_t *client, partition_t *p);
/* A leader's answers; `call` is a FetchRequest or a CopyRequest, p is NULL if there is no such partition. */
void copy_serve_entries(osync__rpc_call_t *call, partition_t *p);
void copy_serve_snapshot(osync__rpc_call_t *call, partition_t *p);

#endif
