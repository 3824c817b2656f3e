#include "table_info.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "nameserver.pb-c.h"

typedef Openmldb__Nameserver__TableInfo info_t;
typedef Openmldb__Nameserver__TablePartition info_partition_t;
typedef Openmldb__Nameserver__PartitionMeta replica_t;

/* ---- from the meta ---- */

static bool meta_leads(const Openmldb__Api__TableMeta *m, size_t i, const char *own, const char **leader) {
    *leader = own;
    if (i >= m->n_table_partition) return true;
    const Openmldb__Common__TablePartition *part = m->table_partition[i];
    for (size_t r = 0; r < part->n_partition_meta; r++)
        if (part->partition_meta[r]->is_leader) *leader = part->partition_meta[r]->endpoint;
    /* Without copies it may have another port by now. */
    if (part->n_partition_meta <= 1) *leader = own;
    return !strcmp(*leader, own);
}

static int set_leader(partition_t *p, const char *leader) {
    free(p->leader);
    p->leader = leader ? strdup(leader) : NULL;
    return leader && !p->leader ? OSYNC_ENOMEM : 0;
}

int table_info_adopt_meta(disk_table_t *t, const char *own) {
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < t->n_partitions; i++) {
        const char *leader;
        bool leads = meta_leads(t->meta, i, own, &leader);
        rc = set_leader(&t->partitions[i], leads ? NULL : leader);
    }
    return rc;
}

static replica_t *new_replica(const char *endpoint, bool leader) {
    replica_t *r = malloc(sizeof *r);
    if (!r) return NULL;
    openmldb__nameserver__partition_meta__init(r);
    r->endpoint = strdup(endpoint);
    r->is_leader = leader;
    r->has_is_alive = r->is_alive = 1;
    if (r->endpoint) return r;
    free(r);
    return NULL;
}

static int add_term(info_partition_t *part, uint64_t term, uint64_t offset) {
    Openmldb__Nameserver__TermPair **pairs = realloc(part->term_offset, (part->n_term_offset + 1) * sizeof *pairs);
    if (!pairs) return OSYNC_ENOMEM;
    part->term_offset = pairs;
    Openmldb__Nameserver__TermPair *pair = malloc(sizeof *pair);
    if (!pair) return OSYNC_ENOMEM;
    openmldb__nameserver__term_pair__init(pair);
    pair->term = term;
    pair->offset = offset;
    pairs[part->n_term_offset++] = pair;
    return 0;
}

/* One partition as the meta has it; freed with the whole message. */
static info_partition_t *new_partition(const disk_table_t *t, size_t i, const char *own) {
    const Openmldb__Api__TableMeta *m = t->meta;
    const Openmldb__Common__TablePartition *part = i < m->n_table_partition ? m->table_partition[i] : NULL;
    size_t n = part && part->n_partition_meta > 1 ? part->n_partition_meta : 1;
    info_partition_t *p = malloc(sizeof *p);
    if (!p) return NULL;
    openmldb__nameserver__table_partition__init(p);
    p->pid = (uint32_t)i;
    p->partition_meta = calloc(n, sizeof(void *));
    for (size_t r = 0; p->partition_meta && r < n; r++) {
        const Openmldb__Common__PartitionMeta *from = n > 1 ? part->partition_meta[r] : NULL;
        replica_t *replica = new_replica(from ? from->endpoint : own, from ? from->is_leader : true);
        if (!replica) break;
        p->partition_meta[p->n_partition_meta++] = replica;
    }
    if (p->n_partition_meta == n && add_term(p, 1, 0) == 0) return p;
    openmldb__nameserver__table_partition__free_unpacked(p, NULL);
    return NULL;
}

static info_t *new_info(const disk_table_t *t, const char *own) {
    info_t *info = malloc(sizeof *info);
    if (!info) return NULL;
    openmldb__nameserver__table_info__init(info);
    info->table_partition = calloc(t->n_partitions, sizeof(void *));
    for (size_t i = 0; info->table_partition && i < t->n_partitions; i++) {
        info->table_partition[i] = new_partition(t, i, own);
        if (!info->table_partition[i]) break;
        info->n_table_partition++;
    }
    if (info->n_table_partition == t->n_partitions) return info;
    openmldb__nameserver__table_info__free_unpacked(info, NULL);
    return NULL;
}

/* ---- changes ---- */

static bool names(const info_t *info, const char *endpoint) {
    for (size_t i = 0; i < info->n_table_partition; i++)
        for (size_t r = 0; r < info->table_partition[i]->n_partition_meta; r++)
            if (!strcmp(info->table_partition[i]->partition_meta[r]->endpoint, endpoint)) return true;
    return false;
}

static int change_leader(const disk_table_t *t, info_partition_t *part, const char *own, const info_change_t *change) {
    for (size_t r = 0; r < part->n_partition_meta; r++) {
        replica_t *replica = part->partition_meta[r];
        replica->is_leader = !strcmp(replica->endpoint, own);
        replica->has_is_alive = replica->is_alive = 1;
        for (size_t d = 0; d < change->n_dead; d++)
            if (!strcmp(replica->endpoint, change->dead[d])) replica->is_alive = 0;
    }
    return add_term(part, change->term, t->partitions[part->pid].last.index + 1);
}

static int apply(const disk_table_t *t, info_t *info, const char *own, const info_change_t *change) {
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < info->n_table_partition; i++) {
        info_partition_t *part = info->table_partition[i];
        if (part->pid >= t->n_partitions) continue;
        if (change->lead && (!change->one || change->pid == part->pid)) rc = change_leader(t, part, own, change);
        for (size_t r = 0; change->endpoint && r < part->n_partition_meta; r++) {
            replica_t *replica = part->partition_meta[r];
            if (strcmp(replica->endpoint, change->endpoint) != 0) continue;
            replica->has_is_alive = 1;
            replica->is_alive = change->alive;
        }
    }
    return rc;
}

int table_info_make(const disk_table_t *t, const char *own, const void *old, size_t len, const info_change_t *change,
                    osync__buf_t *out, osync_error_t *err) {
    const Openmldb__Api__TableMeta *m = t->meta;
    info_t *base = len ? openmldb__nameserver__table_info__unpack(NULL, len, old) : NULL;
    if (len && !base) return osync__err(err, OSYNC_ECORRUPT, "the TableInfo in ZooKeeper doesn't parse");
    if (base && !names(base, own)) {
        openmldb__nameserver__table_info__free_unpacked(base, NULL);
        base = NULL;
    }
    if (!base) base = new_info(t, own);
    int rc = base ? apply(t, base, own, change) : OSYNC_ENOMEM;
    if (rc) {
        openmldb__nameserver__table_info__free_unpacked(base, NULL);
        return osync__err(err, rc, "out of memory");
    }
    info_t info = OPENMLDB__NAMESERVER__TABLE_INFO__INIT;
    info.n_table_partition = base->n_table_partition;
    info.table_partition = base->table_partition;
    info.name = m->name;
    info.db = m->db;
    info.has_seg_cnt = info.has_tid = info.has_partition_num = info.has_replica_num = info.has_compress_type = 1;
    info.seg_cnt = 8;
    info.tid = (uint32_t)m->tid;
    info.partition_num = (uint32_t)t->n_partitions;
    info.replica_num = base->n_table_partition ? (uint32_t)base->table_partition[0]->n_partition_meta : 1;
    info.compress_type = m->compress_type;
    info.n_column_desc = m->n_column_desc;
    info.column_desc = m->column_desc;
    info.n_column_key = m->n_column_key;
    info.column_key = m->column_key;
    info.n_added_column_desc = m->n_added_column_desc;
    info.added_column_desc = m->added_column_desc;
    info.n_schema_versions = m->n_schema_versions;
    info.schema_versions = m->schema_versions;
    info.has_format_version = info.has_storage_mode = 1;
    info.format_version = 1;
    info.storage_mode = m->storage_mode;
    out->len = 0;
    rc = osync__buf_reserve(out, openmldb__nameserver__table_info__get_packed_size(&info) + 1);
    if (rc == 0) out->len = openmldb__nameserver__table_info__pack(&info, out->data);
    openmldb__nameserver__table_info__free_unpacked(base, NULL);
    return rc ? osync__err(err, rc, "out of memory") : 0;
}

int table_info_adopt(disk_table_t *t, const char *own, const void *data, size_t len, bool *named, osync_error_t *err) {
    info_t *info = openmldb__nameserver__table_info__unpack(NULL, len, data);
    int rc = 0;
    *named = info && names(info, own);
    if (!info) return osync__err(err, OSYNC_ECORRUPT, "the TableInfo in ZooKeeper doesn't parse");
    for (size_t i = 0; *named && rc == 0 && i < info->n_table_partition; i++) {
        const info_partition_t *part = info->table_partition[i];
        if (part->pid >= t->n_partitions) continue;
        partition_t *p = &t->partitions[part->pid];
        for (size_t r = 0; rc == 0 && r < part->n_partition_meta; r++) {
            const replica_t *replica = part->partition_meta[r];
            if (replica->is_leader) rc = set_leader(p, strcmp(replica->endpoint, own) ? replica->endpoint : NULL);
        }
        for (size_t k = 0; k < part->n_term_offset; k++)
            if (part->term_offset[k]->term > p->term) p->term = part->term_offset[k]->term;
    }
    openmldb__nameserver__table_info__free_unpacked(info, NULL);
    return rc ? osync__err(err, rc, "out of memory") : 0;
}
