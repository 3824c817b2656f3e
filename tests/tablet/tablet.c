/* osync-test-tablet: a small real TabletServer for tests and examples. It keeps disk tables in OpenMLDB's layout,
 * answers the two calls a collector makes, stands in ZooKeeper, and is driven by the service of tablet_control.proto on
 * the same port. It leads its partitions, or copies those that another one leads (copy.h); who does which it is told by
 * the test, which is the nameserver, and reads in ZooKeeper when it starts again. It has no garbage collection of
 * expired rows and no queries. Everything runs on one loop. */
#include <dirent.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "base/error.h"
#include "base/sys.h"
#include "copy.h"
#include "disk_table.h"
#include "generate.h"
#include "net/rpc.h"
#include "table_info.h"
#include "tablet_control.pb-c.h"
#include "zk/zk.h"

enum {
    TABLE_NOT_EXIST = 100,
    SLICE_ROWS = 5000,
    RATE_TICK_MS = 10,
    COPY_TICK_MS = 10,
    MAX_BODY = 512 << 20,
    ZK_SESSION_MS = 4000
};

typedef struct tablet tablet_t;

/* One table's TableInfo on its way to ZooKeeper: it is read, changed and written. `call` is answered when it is there.
 */
typedef struct publish {
    tablet_t *tablet;
    disk_table_t *table;
    osync__rpc_call_t *call;
    bool start; /* what is there says who leads, and isn't written again */
    info_change_t change;
    char path[512];
    osync__buf_t info;
    struct publish *next;
} publish_t;

typedef struct generate_job {
    generator_t generator;
    osync__rpc_call_t *call; /* answered at the end; NULL with a rate */
    uint32_t rate;
    uint64_t began, done;
    struct generate_job *next;
} generate_job_t;

struct tablet {
    uv_loop_t loop;
    uv_signal_t sigterm, sigint;
    uv_timer_t timer, copy_timer;
    osync__rpc_server_t *server;
    osync__rpc_client_t *client;
    osync__zk_t *zk;
    char *host, *root, *zk_cluster, *zk_root, *zk_cert;
    int port;
    uint64_t binlog_max_bytes;
    tablet_clock_t clock;
    char endpoint[300];
    disk_table_t **tables;
    size_t n_tables;
    publish_t *publishing;
    generate_job_t *jobs;
    bool announced, ending;
};

static disk_table_t *find_table(tablet_t *t, uint32_t tid) {
    for (size_t i = 0; i < t->n_tables; i++)
        if ((uint32_t)t->tables[i]->meta->tid == tid) return t->tables[i];
    return NULL;
}

static void reply_with(osync__rpc_call_t *call, int rc, const osync_error_t *err, Osync__Test__Reply *r) {
    osync_error_t copy = *err;
    r->has_code = 1;
    r->code = rc ? -1 : 0;
    if (rc && !copy.message[0]) osync__err(&copy, rc, "%s", osync_strerror(rc));
    if (rc) r->msg = copy.message;
    osync__rpc_reply(call, &r->base);
}

static void reply(osync__rpc_call_t *call, int rc, const osync_error_t *err) {
    Osync__Test__Reply r = OSYNC__TEST__REPLY__INIT;
    reply_with(call, rc, err, &r);
}

/* Answers with places of entries; n of them are known. */
static void reply_placed(osync__rpc_call_t *call, int rc, const osync_error_t *err, Osync__Test__EntryPlace *places,
                         size_t n) {
    Osync__Test__Reply r = OSYNC__TEST__REPLY__INIT;
    r.placed = calloc(n + 1, sizeof(void *));
    for (size_t i = 0; r.placed && i < n; i++) r.placed[r.n_placed++] = &places[i];
    reply_with(call, rc, err, &r);
    free(r.placed);
}

static Osync__Test__EntryPlace place_of(uint32_t pid, uint64_t index) {
    Osync__Test__EntryPlace place = OSYNC__TEST__ENTRY_PLACE__INIT;
    place.has_pid = place.has_log_index = 1;
    place.pid = pid;
    place.log_index = index;
    return place;
}

/* The last entry of each log of the table, or of `pid`. */
static void reply_ends(osync__rpc_call_t *call, const disk_table_t *table, const uint32_t *pid) {
    size_t n = 0;
    Osync__Test__EntryPlace *places = calloc(table->n_partitions + 1, sizeof *places);
    for (size_t i = 0; places && i < table->n_partitions; i++)
        if (!pid || *pid == i) places[n++] = place_of((uint32_t)i, table->partitions[i].last.index);
    reply_placed(call, places ? 0 : OSYNC_ENOMEM, &(osync_error_t){0}, places, n);
    free(places);
}

static int no_table(osync_error_t *err, uint32_t tid) {
    return osync__err(err, OSYNC_ENOENT, "there is no table %u here", tid);
}

static int add_table(tablet_t *t, disk_table_t *table) {
    disk_table_t **tables = realloc(t->tables, (t->n_tables + 1) * sizeof *tables);
    if (!tables) return OSYNC_ENOMEM;
    t->tables = tables;
    tables[t->n_tables++] = table;
    return 0;
}

/* ---- ZooKeeper ---- */

static void announce(tablet_t *t) {
    if (t->announced) return;
    t->announced = true;
    printf("ready %d\n", t->port);
    fflush(stdout);
}

static void publish_step(publish_t *p);

static void publish_done(publish_t *p, int status, const osync_error_t *err) {
    tablet_t *t = p->tablet;
    LL_DELETE(t->publishing, p);
    if (status == 0) p->table->announced = true;
    if (p->call) {
        Osync__Test__Reply r = OSYNC__TEST__REPLY__INIT;
        if (status == 0 && p->change.lead)
            reply_ends(p->call, p->table, p->change.one ? &p->change.pid : NULL);
        else
            reply_with(p->call, status, err, &r);
    }
    for (size_t i = 0; i < p->change.n_dead; i++) free(p->change.dead[i]);
    free(p->change.dead);
    free(p->change.endpoint);
    osync__buf_free(&p->info);
    free(p);
    if (t->publishing)
        publish_step(t->publishing);
    else if (status == 0)
        announce(t);
}

static void on_notified(void *arg, int status, const osync_error_t *err) {
    publish_done(arg, status, err);
}

static void on_notify_read(void *arg, int status, const void *data, size_t len, const osync_error_t *err) {
    publish_t *p = arg;
    tablet_t *t = p->tablet;
    char path[512], text[32] = "";
    snprintf(path, sizeof path, "%s/table/notify", t->zk_root);
    if (status && status != OSYNC_ENOENT) {
        publish_done(p, status, err);
        return;
    }
    if (len < sizeof text && len) memcpy(text, data, len);
    int n = snprintf(text, sizeof text, "%lld", atoll(text) + 1);
    int rc = status ? osync__zk_create(t->zk, path, text, (size_t)n, false, on_notified, p)
                    : osync__zk_set(t->zk, path, text, (size_t)n, on_notified, p);
    if (rc) publish_done(p, rc, &(osync_error_t){.code = rc});
}

static void on_info_written(void *arg, int status, const osync_error_t *err) {
    publish_t *p = arg;
    char path[512];
    int rc = status;
    if (status == 0) {
        snprintf(path, sizeof path, "%s/table/notify", p->tablet->zk_root);
        rc = osync__zk_get(p->tablet->zk, path, on_notify_read, p);
    }
    if (rc) publish_done(p, rc, status ? err : &(osync_error_t){.code = rc});
}

static void on_info_read(void *arg, int status, const void *data, size_t len, const osync_error_t *read_err) {
    publish_t *p = arg;
    tablet_t *t = p->tablet;
    osync_error_t err = {0};
    bool named = false, leads = false;
    if (status && status != OSYNC_ENOENT) {
        publish_done(p, status, read_err);
        return;
    }
    int rc = 0;
    if (status == 0 && p->start) rc = table_info_adopt(p->table, t->endpoint, data, len, &named, &err);
    for (size_t i = 0; i < p->table->n_partitions; i++) leads |= !p->table->partitions[i].leader;
    if (rc || named || !leads) { /* a leader writes it */
        publish_done(p, rc, &err);
        return;
    }
    rc = table_info_make(p->table, t->endpoint, data, status ? 0 : len, &p->change, &p->info, &err);
    if (rc == 0)
        rc = status ? osync__zk_create(t->zk, p->path, p->info.data, p->info.len, false, on_info_written, p)
                    : osync__zk_set(t->zk, p->path, p->info.data, p->info.len, on_info_written, p);
    if (rc) publish_done(p, rc, &err);
}

static void publish_step(publish_t *p) {
    int rc = osync__zk_get(p->tablet->zk, p->path, on_info_read, p);
    if (rc) publish_done(p, rc, &(osync_error_t){.code = rc});
}

/* Brings the table's TableInfo up to date and tells those who watch; then answers `call` (which may be NULL). Takes
 * what `change` has. */
static void publish(tablet_t *t, disk_table_t *table, osync__rpc_call_t *call, bool at_start, info_change_t change) {
    publish_t *p = calloc(1, sizeof *p);
    if (!p) {
        if (call) reply(call, OSYNC_ENOMEM, &(osync_error_t){0});
        return;
    }
    *p = (publish_t){.tablet = t, .table = table, .call = call, .start = at_start, .change = change};
    snprintf(p->path, sizeof p->path, "%s/table/db_table_data/%d", t->zk_root, table->meta->tid);
    bool idle = !t->publishing;
    LL_APPEND(t->publishing, p);
    if (!t->zk)
        publish_done(p, 0, &(osync_error_t){0});
    else if (idle)
        publish_step(p);
}

static void on_session(void *arg, bool connected) {
    tablet_t *t = arg;
    if (!connected) return;
    for (size_t i = 0; !t->announced && i < t->n_tables; i++) publish(t, t->tables[i], NULL, true, (info_change_t){0});
    if (t->n_tables == 0) announce(t);
}

/* ---- openmldb.api.TabletServer ---- */

static void fill_status(const partition_t *p, Openmldb__Api__TableStatus *s) {
    const Openmldb__Api__TableMeta *m = p->table->meta;
    openmldb__api__table_status__init(s);
    s->has_tid = s->has_pid = s->has_offset = s->has_mode = s->has_state = s->has_is_expire = 1;
    s->tid = (uint32_t)m->tid;
    s->pid = p->pid;
    s->offset = p->last.index;
    s->mode = p->leader ? OPENMLDB__API__TABLE_MODE__kTableFollower : OPENMLDB__API__TABLE_MODE__kTableLeader;
    s->state = OPENMLDB__API__TABLE_STATE__kTableNormal;
    s->name = m->name;
    s->has_record_cnt = s->has_compress_type = s->has_storage_mode = 1;
    s->record_cnt = p->base_puts;
    s->compress_type = m->compress_type;
    s->storage_mode = m->storage_mode;
    /* A memory table is kept on disk here too, but as at OpenMLDB nobody is told where. */
    if (m->storage_mode == OPENMLDB__COMMON__STORAGE_MODE__kMemory) return;
    if (asprintf(&s->snapshot_path, "%s/snapshot/", p->dir) < 0) s->snapshot_path = NULL;
    if (asprintf(&s->binlog_path, "%s/binlog/", p->dir) < 0) s->binlog_path = NULL;
}

static void get_table_status(osync__rpc_call_t *call, void *arg) {
    tablet_t *t = arg;
    const Openmldb__Api__GetTableStatusRequest *q = (const void *)osync__rpc_request(call);
    Openmldb__Api__GetTableStatusResponse r = OPENMLDB__API__GET_TABLE_STATUS_RESPONSE__INIT;
    size_t most = 0;
    for (size_t i = 0; i < t->n_tables; i++) most += t->tables[i]->n_partitions;
    Openmldb__Api__TableStatus *status = calloc(most + 1, sizeof *status);
    r.all_table_status = calloc(most + 1, sizeof(void *));
    /* Before it is known who leads there are no tables, as at OpenMLDB before they are loaded. */
    for (size_t i = 0; status && r.all_table_status && t->announced && i < t->n_tables; i++) {
        const disk_table_t *table = t->tables[i];
        if (q->has_tid && q->tid != (uint32_t)table->meta->tid) continue;
        for (size_t j = 0; j < table->n_partitions; j++) {
            if (q->has_pid && q->pid != j) continue;
            fill_status(&table->partitions[j], &status[r.n_all_table_status]);
            r.all_table_status[r.n_all_table_status] = &status[r.n_all_table_status];
            r.n_all_table_status++;
        }
    }
    r.has_code = 1;
    osync__rpc_reply(call, &r.base);
    for (size_t i = 0; i < r.n_all_table_status; i++) {
        free(status[i].snapshot_path);
        free(status[i].binlog_path);
    }
    free(status);
    free(r.all_table_status);
}

static void get_table_schema(osync__rpc_call_t *call, void *arg) {
    tablet_t *t = arg;
    const Openmldb__Api__GetTableSchemaRequest *q = (const void *)osync__rpc_request(call);
    Openmldb__Api__GetTableSchemaResponse r = OPENMLDB__API__GET_TABLE_SCHEMA_RESPONSE__INIT;
    Openmldb__Api__TableMeta meta;
    char missing[] = "table does not exist", ok[] = "ok";
    const disk_table_t *table = q->tid >= 0 ? find_table(t, (uint32_t)q->tid) : NULL;
    r.has_code = 1;
    if (!table || q->pid < 0 || (size_t)q->pid >= table->n_partitions) {
        r.code = TABLE_NOT_EXIST;
        r.msg = missing;
    } else {
        meta = *table->meta;
        meta.has_pid = 1;
        meta.pid = q->pid;
        r.msg = ok;
        r.table_meta = &meta;
    }
    osync__rpc_reply(call, &r.base);
}

/* ---- the control service ---- */

/* A copy of `asked` with what a tablet adds. */
static Openmldb__Api__TableMeta *complete_meta(tablet_t *t, const Osync__Test__CreateTableRequest *q) {
    Openmldb__Api__TableMeta m = *q->meta, *copy = NULL;
    size_t partitions = q->partitions, n = q->n_followers + 1;
    Openmldb__Common__PartitionMeta *replicas = calloc(n, sizeof *replicas), **list = calloc(n, sizeof(void *));
    Openmldb__Common__TablePartition *parts = calloc(partitions, sizeof *parts);
    m.table_partition = calloc(partitions, sizeof(void *));
    uint8_t *bytes = NULL;
    if (!replicas || !list || !parts || !m.table_partition) goto done;
    for (size_t i = 0; i < n; i++) {
        openmldb__common__partition_meta__init(&replicas[i]);
        replicas[i].endpoint = i > 0 ? q->followers[i - 1] : q->leader ? q->leader : t->endpoint;
        replicas[i].has_is_leader = replicas[i].has_is_alive = replicas[i].is_alive = 1;
        replicas[i].is_leader = i == 0;
        list[i] = &replicas[i];
    }
    for (size_t i = 0; i < partitions; i++) {
        openmldb__common__table_partition__init(&parts[i]);
        parts[i].has_pid = 1;
        parts[i].pid = (uint32_t)i;
        parts[i].n_partition_meta = n;
        parts[i].partition_meta = list;
        m.table_partition[i] = &parts[i];
    }
    m.n_table_partition = partitions;
    m.has_pid = m.has_seg_cnt = m.has_mode = m.has_term = m.has_format_version = m.has_key_entry_max_height = 1;
    m.pid = 0;
    m.seg_cnt = 8;
    m.mode = OPENMLDB__API__TABLE_MODE__kTableLeader;
    m.term = 1;
    m.format_version = 1;
    m.key_entry_max_height = 8;
    size_t len = openmldb__api__table_meta__get_packed_size(&m);
    bytes = malloc(len + 1);
    if (!bytes) goto done;
    openmldb__api__table_meta__pack(&m, bytes);
    copy = openmldb__api__table_meta__unpack(NULL, len, bytes);
done:
    free(replicas);
    free(list);
    free(parts);
    free(m.table_partition);
    free(bytes);
    return copy;
}

static void create_table(osync__rpc_call_t *call, void *arg) {
    tablet_t *t = arg;
    const Osync__Test__CreateTableRequest *q = (const void *)osync__rpc_request(call);
    osync_error_t err = {0};
    disk_table_t *table = NULL;
    int rc = 0;
    if (!q->meta || !q->meta->has_tid || q->meta->tid < 0 || !q->meta->name || !q->meta->db || !q->partitions)
        rc = osync__err(&err, OSYNC_EINVAL, "meta with tid, db and name, and partitions of at least 1, are wanted");
    else if ((table = find_table(t, (uint32_t)q->meta->tid)) && table->announced)
        rc = osync__err(&err, OSYNC_EEXIST, "table %d exists", q->meta->tid);
    if (rc == 0 && table) { /* made before, but ZooKeeper couldn't be told */
        publish(t, table, call, false, (info_change_t){0});
        return;
    }
    if (rc == 0) {
        Openmldb__Api__TableMeta *meta = complete_meta(t, q);
        rc = meta ? disk_table_open(&table, t->root, meta, q->partitions, t->binlog_max_bytes, &t->clock, &err)
                  : OSYNC_ENOMEM;
    }
    if (rc == 0) rc = table_info_adopt_meta(table, t->endpoint);
    if (rc == 0) rc = add_table(t, table);
    if (rc)
        reply(call, rc, &err);
    else
        publish(t, table, call, false, (info_change_t){0});
}

static void put(osync__rpc_call_t *call, void *arg) {
    const Osync__Test__PutRequest *q = (const void *)osync__rpc_request(call);
    osync_error_t err = {0};
    disk_table_t *table = find_table(arg, q->tid);
    int version = !table ? 0 : q->has_version ? q->version : disk_table_version(table);
    size_t n = table ? disk_table_version_columns(table, version) : 0;
    int rc = table ? 0 : no_table(&err, q->tid);
    if (rc == 0 && n == 0) rc = osync__err(&err, OSYNC_EINVAL, "there is no schema version %d", version);
    cell_t *cells = calloc(n + 1, sizeof *cells);
    Osync__Test__EntryPlace *places = calloc(q->n_rows + 1, sizeof *places);
    size_t n_places = 0;
    if (!cells || !places) rc = OSYNC_ENOMEM;
    uint64_t now = osync__wall_ms();
    for (size_t i = 0; rc == 0 && i < q->n_rows; i++) {
        json_error_t bad;
        json_t *row = json_loads(q->rows[i], JSON_ALLOW_NUL, &bad);
        if (!row) rc = osync__err(&err, OSYNC_EINVAL, "row %zu is not JSON: %s", i, bad.text);
        if (rc == 0) rc = cells_from_json(table->columns, n, row, cells, &err);
        uint32_t pid = 0;
        uint64_t index = 0, put_time = q->has_put_time ? q->put_time + i : now;
        if (rc == 0) rc = disk_table_put(table, cells, n, version, put_time, &pid, &index, &err);
        if (rc == 0) places[n_places++] = place_of(pid, index);
        cells_free(cells, n);
        memset(cells, 0, n * sizeof *cells);
        json_decref(row);
    }
    free(cells);
    if (table) {
        int flushed = disk_table_flush(table, rc ? NULL : &err);
        if (rc == 0) rc = flushed;
    }
    reply_placed(call, rc, &err, places, n_places);
    free(places);
}

static void delete_rows(osync__rpc_call_t *call, void *arg) {
    const Osync__Test__DeleteRequest *q = (const void *)osync__rpc_request(call);
    osync_error_t err = {0};
    disk_table_t *table = find_table(arg, q->tid);
    int rc = table ? 0 : no_table(&err, q->tid);
    if (rc == 0 && q->has_pid && q->pid >= table->n_partitions)
        rc = osync__err(&err, OSYNC_ENOENT, "table %u has no partition %u", q->tid, q->pid);
    uint32_t pid = q->pid;
    if (rc == 0 && q->key) pid = key_partition(q->key, strlen(q->key), (uint32_t)table->n_partitions);
    if (rc == 0)
        rc = disk_table_delete(table, q->index, q->key, q->has_pid ? &q->pid : NULL,
                               q->has_start_ts ? &q->start_ts : NULL, q->has_end_ts ? &q->end_ts : NULL, q->ts_name,
                               &err);
    if (rc == 0)
        reply_ends(call, table, q->key || q->has_pid ? &pid : NULL);
    else
        reply(call, rc, &err);
}

static void add_column(osync__rpc_call_t *call, void *arg) {
    tablet_t *t = arg;
    const Osync__Test__AddColumnRequest *q = (const void *)osync__rpc_request(call);
    osync_error_t err = {0};
    disk_table_t *table = find_table(t, q->tid);
    int rc = table ? 0 : no_table(&err, q->tid);
    if (rc == 0 && !q->column) rc = osync__err(&err, OSYNC_EINVAL, "a column is wanted");
    if (rc == 0) rc = disk_table_add_column(table, q->column, &err);
    if (rc)
        reply(call, rc, &err);
    else
        publish(t, table, call, false, (info_change_t){0});
}

typedef Osync__Test__PartitionRequest partition_request_t;

static int do_snapshot(partition_t *p, const partition_request_t *q, osync_error_t *err) {
    return partition_snapshot(p, q->offset_skew, q->compression, err);
}
static int do_roll(partition_t *p, const partition_request_t *q, osync_error_t *err) {
    return log_writer_roll(&p->log, err);
}
static int do_purge(partition_t *p, const partition_request_t *q, osync_error_t *err) {
    return log_writer_purge(&p->log, p->snapshot_offset, err);
}

static void for_partitions(osync__rpc_call_t *call, tablet_t *t,
                           int (*act)(partition_t *, const partition_request_t *, osync_error_t *)) {
    const partition_request_t *q = (const void *)osync__rpc_request(call);
    osync_error_t err = {0};
    disk_table_t *table = find_table(t, q->tid);
    int rc = table ? 0 : no_table(&err, q->tid);
    if (rc == 0 && q->has_pid && q->pid >= table->n_partitions)
        rc = osync__err(&err, OSYNC_ENOENT, "table %u has no partition %u", q->tid, q->pid);
    for (size_t i = 0; rc == 0 && i < table->n_partitions; i++)
        if (!q->has_pid || q->pid == i) rc = act(&table->partitions[i], q, &err);
    reply(call, rc, &err);
}

static void make_snapshot(osync__rpc_call_t *call, void *arg) {
    for_partitions(call, arg, do_snapshot);
}
static void roll(osync__rpc_call_t *call, void *arg) {
    for_partitions(call, arg, do_roll);
}
static void purge(osync__rpc_call_t *call, void *arg) {
    for_partitions(call, arg, do_purge);
}

/* ---- who leads ---- */

static void change_leader(osync__rpc_call_t *call, void *arg) {
    tablet_t *t = arg;
    const Osync__Test__ChangeLeaderRequest *q = (const void *)osync__rpc_request(call);
    osync_error_t err = {0};
    disk_table_t *table = find_table(t, q->tid);
    info_change_t change = {.lead = true, .one = q->has_pid, .pid = q->pid, .term = q->term};
    int rc = table ? 0 : no_table(&err, q->tid);
    if (rc == 0) change.dead = calloc(q->n_dead + 1, sizeof *change.dead);
    for (size_t i = 0; change.dead && i < q->n_dead; i++)
        if ((change.dead[change.n_dead] = strdup(q->dead[i]))) change.n_dead++;
    for (size_t i = 0; rc == 0 && i < table->n_partitions; i++) {
        partition_t *p = &table->partitions[i];
        if (q->has_pid && q->pid != i) continue;
        free(p->leader);
        p->leader = NULL;
        p->term = q->term;
    }
    if (rc)
        reply(call, rc, &err);
    else
        publish(t, table, call, false, change);
}

static void follow(osync__rpc_call_t *call, void *arg) {
    const Osync__Test__FollowRequest *q = (const void *)osync__rpc_request(call);
    osync_error_t err = {0};
    disk_table_t *table = find_table(arg, q->tid);
    int rc = table ? 0 : no_table(&err, q->tid);
    for (size_t i = 0; rc == 0 && i < table->n_partitions; i++) {
        partition_t *p = &table->partitions[i];
        if (q->has_pid && q->pid != i) continue;
        if (q->leader) {
            free(p->leader);
            p->leader = strdup(q->leader);
            if (!p->leader) rc = OSYNC_ENOMEM;
        }
        p->paused = q->paused;
        p->hold_back = q->hold_back;
    }
    reply(call, rc, &err);
}

static void alive(osync__rpc_call_t *call, void *arg) {
    tablet_t *t = arg;
    const Osync__Test__AliveRequest *q = (const void *)osync__rpc_request(call);
    osync_error_t err = {0};
    disk_table_t *table = find_table(t, q->tid);
    info_change_t change = {.endpoint = strdup(q->endpoint ? q->endpoint : ""), .alive = q->alive};
    if (table) {
        publish(t, table, call, false, change);
    } else {
        free(change.endpoint);
        reply(call, no_table(&err, q->tid), &err);
    }
}

static partition_t *find_partition(tablet_t *t, uint32_t tid, uint32_t pid) {
    disk_table_t *table = t->announced ? find_table(t, tid) : NULL;
    return table && pid < table->n_partitions ? &table->partitions[pid] : NULL;
}

static void fetch(osync__rpc_call_t *call, void *arg) {
    const Osync__Test__FetchRequest *q = (const void *)osync__rpc_request(call);
    copy_serve_entries(call, find_partition(arg, q->tid, q->pid));
}

static void copy(osync__rpc_call_t *call, void *arg) {
    const Osync__Test__CopyRequest *q = (const void *)osync__rpc_request(call);
    copy_serve_snapshot(call, find_partition(arg, q->tid, q->pid));
}

static void on_copy_tick(uv_timer_t *timer) {
    tablet_t *t = timer->data;
    for (size_t i = 0; t->announced && i < t->n_tables; i++)
        for (size_t j = 0; j < t->tables[i]->n_partitions; j++) copy_ask(t->client, &t->tables[i]->partitions[j]);
}

static void stats(osync__rpc_call_t *call, void *arg) {
    const Osync__Test__StatsRequest *q = (const void *)osync__rpc_request(call);
    Osync__Test__StatsReply r = OSYNC__TEST__STATS_REPLY__INIT;
    osync_error_t err = {0};
    const disk_table_t *table = find_table(arg, q->tid);
    size_t n = table ? table->n_partitions : 0;
    Osync__Test__PartitionStats *parts = calloc(n + 1, sizeof *parts);
    r.partitions = calloc(n + 1, sizeof(void *));
    r.has_code = 1;
    if (!table || !parts || !r.partitions) {
        no_table(&err, q->tid);
        r.code = -1;
        r.msg = err.message;
    } else {
        r.has_generating = r.has_generated = 1;
        r.generating = table->generating;
        r.generated = table->generated;
        r.n_partitions = n;
        for (size_t i = 0; i < n; i++) {
            const partition_t *p = &table->partitions[i];
            osync__test__partition_stats__init(&parts[i]);
            parts[i].has_pid = parts[i].has_puts = parts[i].has_base_puts = parts[i].has_last_log_index = 1;
            parts[i].pid = p->pid;
            parts[i].puts = p->puts;
            parts[i].base_puts = p->base_puts;
            parts[i].last_log_index = p->last.index;
            parts[i].leader = p->leader;
            parts[i].has_copies = parts[i].has_last_term = 1;
            parts[i].last_term = p->last.term;
            parts[i].copies = p->copies;
            parts[i].has_binlog_file = p->log.n_files > 0;
            parts[i].binlog_file = p->log.n_files ? p->log.files[p->log.n_files - 1].number : 0;
            r.partitions[i] = &parts[i];
        }
    }
    osync__rpc_reply(call, &r.base);
    free(parts);
    free(r.partitions);
}

static void job_done(tablet_t *t, generate_job_t *job, int rc, const osync_error_t *err) {
    LL_DELETE(t->jobs, job);
    if (job->call)
        reply(job->call, rc, err);
    else
        job->generator.table->generating = false;
    if (rc && !job->call) fprintf(stderr, "osync-test-tablet: generate: %s\n", err->message);
    generator_close(&job->generator);
    free(job);
}

static void on_tick(uv_timer_t *timer) {
    tablet_t *t = timer->data;
    generate_job_t *job, *next;
    bool in_haste = false;
    LL_FOREACH_SAFE(t->jobs, job, next) {
        osync_error_t err = {0};
        uint64_t rows = SLICE_ROWS, left = job->generator.left;
        if (job->rate) rows = (osync__mono_ms() - job->began) * job->rate / 1000 - job->done;
        int rc = generator_run(&job->generator, rows, &err);
        job->done += left - job->generator.left;
        if (job->rate) job->generator.table->generated = job->done;
        if (!job->rate) in_haste = true;
        if (rc || job->generator.left == 0) job_done(t, job, rc, &err);
    }
    if (t->jobs) uv_timer_start(&t->timer, on_tick, in_haste ? 0 : RATE_TICK_MS, 0);
}

static void generate(osync__rpc_call_t *call, void *arg) {
    tablet_t *t = arg;
    const Osync__Test__GenerateRequest *q = (const void *)osync__rpc_request(call);
    osync_error_t err = {0};
    disk_table_t *table = find_table(t, q->tid);
    int rc = table ? 0 : no_table(&err, q->tid);
    generate_job_t *job = calloc(1, sizeof *job);
    if (rc == 0 && !job) rc = OSYNC_ENOMEM;
    if (rc == 0 && q->rate_per_s && table->generating)
        rc = osync__err(&err, OSYNC_EEXIST, "a Generate with a rate is running for table %u", q->tid);
    if (rc == 0)
        rc = generator_open(&job->generator, table, q->rows, q->seed, q->has_first_id ? q->first_id : table->next_id,
                            q->keys, q->payload_bytes, &err);
    if (rc) {
        if (job) generator_close(&job->generator);
        free(job);
        reply(call, rc, &err);
        return;
    }
    job->rate = q->rate_per_s;
    job->began = osync__mono_ms();
    LL_APPEND(t->jobs, job);
    uv_timer_start(&t->timer, on_tick, 0, 0);
    if (job->rate) {
        table->generating = true;
        table->generated = 0;
        reply(call, 0, &err);
    } else {
        job->call = call;
    }
}

#define API     "openmldb.api.TabletServer"
#define CONTROL "osync.test.TestTablet"
static const osync__rpc_method_t methods[] = {
    {API, "GetTableStatus", &openmldb__api__get_table_status_request__descriptor,
     &openmldb__api__get_table_status_response__descriptor, get_table_status},
    {API, "GetTableSchema", &openmldb__api__get_table_schema_request__descriptor,
     &openmldb__api__get_table_schema_response__descriptor, get_table_schema},
    {CONTROL, "CreateTable", &osync__test__create_table_request__descriptor, &osync__test__reply__descriptor,
     create_table},
    {CONTROL, "Put", &osync__test__put_request__descriptor, &osync__test__reply__descriptor, put},
    {CONTROL, "Delete", &osync__test__delete_request__descriptor, &osync__test__reply__descriptor, delete_rows},
    {CONTROL, "AddColumn", &osync__test__add_column_request__descriptor, &osync__test__reply__descriptor, add_column},
    {CONTROL, "MakeSnapshot", &osync__test__partition_request__descriptor, &osync__test__reply__descriptor,
     make_snapshot},
    {CONTROL, "Roll", &osync__test__partition_request__descriptor, &osync__test__reply__descriptor, roll},
    {CONTROL, "Purge", &osync__test__partition_request__descriptor, &osync__test__reply__descriptor, purge},
    {CONTROL, "Generate", &osync__test__generate_request__descriptor, &osync__test__reply__descriptor, generate},
    {CONTROL, "Stats", &osync__test__stats_request__descriptor, &osync__test__stats_reply__descriptor, stats},
    {CONTROL, "ChangeLeader", &osync__test__change_leader_request__descriptor, &osync__test__reply__descriptor,
     change_leader},
    {CONTROL, "Follow", &osync__test__follow_request__descriptor, &osync__test__reply__descriptor, follow},
    {CONTROL, "Alive", &osync__test__alive_request__descriptor, &osync__test__reply__descriptor, alive},
    {CONTROL, "Fetch", &osync__test__fetch_request__descriptor, &osync__test__fetch_reply__descriptor, fetch},
    {CONTROL, "Copy", &osync__test__copy_request__descriptor, &osync__test__copy_reply__descriptor, copy},
};

/* ---- the process ---- */

static int load_table(tablet_t *t, const char *folder, osync_error_t *err) {
    char path[4096];
    osync__buf_t bytes = {0};
    disk_table_t *table = NULL;
    snprintf(path, sizeof path, "%s/%s/table_meta.pb", t->root, folder);
    int rc = osync__read_file(path, 16 << 20, &bytes, err);
    if (rc == 0) {
        Openmldb__Api__TableMeta *meta = openmldb__api__table_meta__unpack(NULL, bytes.len, bytes.data);
        rc = meta ? disk_table_open(&table, t->root, meta, meta->n_table_partition, t->binlog_max_bytes, &t->clock, err)
                  : osync__err(err, OSYNC_ECORRUPT, "%s is not a TableMeta", path);
    }
    osync__buf_free(&bytes);
    return rc ? rc : add_table(t, table);
}

static int load_tables(tablet_t *t, osync_error_t *err) {
    DIR *dir = opendir(t->root);
    if (!dir) return osync__err(err, OSYNC_EIO, "can't open %s", t->root);
    int rc = 0;
    for (struct dirent *e; rc == 0 && (e = readdir(dir));) {
        size_t len = strlen(e->d_name);
        if (len > 2 && !strcmp(e->d_name + len - 2, "_0")) rc = load_table(t, e->d_name, err);
    }
    closedir(dir);
    return rc;
}

static void on_zk_closed(void *arg) {
    tablet_t *t = arg;
    uv_close((uv_handle_t *)&t->sigterm, NULL);
    uv_close((uv_handle_t *)&t->sigint, NULL);
    uv_close((uv_handle_t *)&t->timer, NULL);
    uv_close((uv_handle_t *)&t->copy_timer, NULL);
}

static void on_server_closed(void *arg) {
    tablet_t *t = arg;
    if (t->zk)
        osync__zk_close(t->zk, on_zk_closed, t);
    else
        on_zk_closed(t);
}

static void on_client_closed(void *arg) {
    tablet_t *t = arg;
    if (t->server)
        osync__rpc_server_close(t->server, on_server_closed, t);
    else
        on_server_closed(t);
}

static void end(tablet_t *t) {
    if (t->ending) return;
    t->ending = true;
    generate_job_t *job, *next;
    osync_error_t err = {0};
    osync__err(&err, OSYNC_ECANCELED, "the server ends");
    LL_FOREACH_SAFE(t->jobs, job, next) {
        job_done(t, job, OSYNC_ECANCELED, &err);
    }
    uv_timer_stop(&t->copy_timer);
    if (t->client)
        osync__rpc_client_close(t->client, on_client_closed, t);
    else
        on_client_closed(t);
}

static void on_signal(uv_signal_t *handle, int number) {
    end(handle->data);
}

static int start(tablet_t *t, osync_error_t *err) {
    int rc = osync__mkdirs(t->root, err);
    char *real = rc ? NULL : realpath(t->root, NULL);
    if (rc == 0 && !real) rc = osync__err(err, OSYNC_EIO, "can't find %s", t->root);
    if (rc) return rc;
    free(t->root);
    t->root = real;
    rc = load_tables(t, err);
    if (rc) return rc;
    osync__rpc_server_config_t config = {.host = t->host,
                                         .port = t->port,
                                         .max_body_size = MAX_BODY,
                                         .json_style = OSYNC__JSON_BRPC,
                                         .methods = methods,
                                         .n_methods = sizeof methods / sizeof *methods,
                                         .arg = t};
    rc = osync__rpc_server_new(&t->loop, &config, &t->server, err);
    if (rc) return rc;
    t->port = osync__rpc_server_port(t->server);
    snprintf(t->endpoint, sizeof t->endpoint, "%s:%d", t->host, t->port);
    osync__rpc_client_config_t client = {.max_body_size = MAX_BODY};
    rc = osync__rpc_client_new(&t->loop, &client, &t->client, err);
    for (size_t i = 0; rc == 0 && i < t->n_tables; i++) rc = table_info_adopt_meta(t->tables[i], t->endpoint);
    if (rc) return rc;
    uv_timer_start(&t->copy_timer, on_copy_tick, COPY_TICK_MS, COPY_TICK_MS);
    if (!t->zk_cluster) {
        announce(t);
        return 0;
    }
    osync__zk_config_t zk = {.cluster = t->zk_cluster,
                             .session_timeout_ms = ZK_SESSION_MS,
                             .auth_schema = "digest",
                             .cert = t->zk_cert,
                             .on_session = on_session,
                             .arg = t};
    return osync__zk_new(&t->loop, &zk, &t->zk, err);
}

static const char usage[] =
    "osync-test-tablet --endpoint HOST:PORT --root DIR (--zk HOST:PORT [--zk-root /openmldb] [--zk-cert USER:PASSWORD] "
    "| --no-zk)\n"
    "                  [--binlog-max-bytes N] [--clock REAL_MS:VIRTUAL_MS:SPEED]\n"
    "A TabletServer for tests. Port 0 picks a free one; \"ready PORT\" is printed when it listens.\n";

static char *take(char **at, const char *value) {
    free(*at);
    *at = strdup(value);
    return *at;
}

static int parse(tablet_t *t, int argc, char **argv) {
    static const struct option options[] = {{"endpoint", required_argument, NULL, 'e'},
                                            {"root", required_argument, NULL, 'r'},
                                            {"zk", required_argument, NULL, 'z'},
                                            {"zk-root", required_argument, NULL, 'p'},
                                            {"zk-cert", required_argument, NULL, 'c'},
                                            {"no-zk", no_argument, NULL, 'n'},
                                            {"binlog-max-bytes", required_argument, NULL, 'b'},
                                            {"clock", required_argument, NULL, 'k'},
                                            {0}};
    bool no_zk = false;
    char *colon;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (o) {
        case 'e':
            colon = strrchr(take(&t->host, optarg), ':');
            if (!colon) return -1;
            *colon = '\0';
            t->port = atoi(colon + 1);
            break;
        case 'r':
            take(&t->root, optarg);
            break;
        case 'z':
            take(&t->zk_cluster, optarg);
            break;
        case 'p':
            take(&t->zk_root, optarg);
            break;
        case 'c':
            take(&t->zk_cert, optarg);
            break;
        case 'n':
            no_zk = true;
            break;
        case 'b':
            t->binlog_max_bytes = strtoull(optarg, NULL, 10);
            break;
        case 'k':
            if (sscanf(optarg, "%" SCNu64 ":%" SCNu64 ":%" SCNu64, &t->clock.real, &t->clock.virtual,
                       &t->clock.speed) != 3)
                return -1;
            break;
        default:
            return -1;
        }
    }
    return optind == argc && t->host && t->root && t->zk_root && no_zk == !t->zk_cluster ? 0 : -1;
}

int main(int argc, char **argv) {
    tablet_t t = {.binlog_max_bytes = (uint64_t)4096 << 20, .zk_root = strdup("/openmldb")};
    osync_error_t err = {0};
    if (parse(&t, argc, argv)) {
        fputs(usage, stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    osync_log_set(osync_log_stderr, NULL, OSYNC_LOG_WARN);
    uv_loop_init(&t.loop);
    uv_timer_init(&t.loop, &t.timer);
    uv_timer_init(&t.loop, &t.copy_timer);
    t.copy_timer.data = &t;
    uv_signal_init(&t.loop, &t.sigterm);
    uv_signal_init(&t.loop, &t.sigint);
    t.timer.data = t.sigterm.data = t.sigint.data = &t;
    uv_signal_start(&t.sigterm, on_signal, SIGTERM);
    uv_signal_start(&t.sigint, on_signal, SIGINT);
    int rc = start(&t, &err);
    if (rc) {
        fprintf(stderr, "osync-test-tablet: %s\n", err.message);
        end(&t);
    }
    uv_run(&t.loop, UV_RUN_DEFAULT);
    for (size_t i = 0; i < t.n_tables; i++) disk_table_close(t.tables[i]);
    uv_loop_close(&t.loop);
    free(t.tables);
    free(t.host);
    free(t.root);
    free(t.zk_cluster);
    free(t.zk_root);
    free(t.zk_cert);
    return rc ? 1 : 0;
}
