#include "collector/feed.h"

#include <stdio.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/sys.h"
#include "collector/original.h"
#include "data_sync.pb-c.h"

enum {
    FILL_MS = 1000,          /* a pack that has rows goes out after this time although it isn't full */
    FILL_CHECK = 64,         /* rows between two looks at the clock */
    MESSAGE_OVERHEAD = 4096, /* bytes of a SendData besides its rows, points and token */
    KEY_SHOWN = 64,          /* bytes of a key in a message */
};

void osync__pack_clear(osync__pack_t *p) {
    osync__buf_free(&p->rows);
    osync__buf_free(&p->next);
    *p = (osync__pack_t){0};
}

int osync__feed_init(osync__feed_t *f, const osync_collector_config_t *config, const char *dir,
                     const volatile int *cancel) {
    f->config = config;
    f->cancel = cancel;
    f->links.dir = dir;
    f->binlog_dir = osync__format("%s/binlog", dir);
    f->data_dir = osync__format("%s/snapshot/data", dir);
    f->scratch_dir = osync__format("%s/scratch", dir);
    return f->binlog_dir && f->data_dir && f->scratch_dir ? 0 : OSYNC_ENOMEM;
}

void osync__feed_free(osync__feed_t *f) {
    osync__pack_clear(&f->pack);
    osync_table_free(f->table);
    osync__buf_free(&f->from);
    osync__free(f->binlog_dir);
    osync__free(f->data_dir);
    osync__free(f->scratch_dir);
}

void osync__feed_close(osync__feed_t *f) {
    osync_reader_close(f->reader);
    f->reader = NULL;
}

/* wait_ms: how much longer a fresh snapshot has to be let alone, so that everything that was applied before it is in
 * the log. */
static uint64_t settle_time(const osync__feed_t *f, uint64_t made_ms) {
    uint64_t settle = f->config->snapshot_settle_ms;
    uint64_t now = osync__wall_ms(), waited = osync__mono_ms() - f->link_seen;
    uint64_t age = now > made_ms ? now - made_ms : 0;
    /* Whatever the wall clock says, it was made before it was linked. */
    if (waited > age) age = waited;
    return age < settle ? settle - age : 0;
}

int osync__feed_open(osync__feed_t *f, osync_error_t *err) {
    osync_reader_config_t config;
    char name[256], *sdb = NULL;
    uint64_t made_ms;
    osync__manifest_t manifest = {0};
    Openmldb__Datasync__SyncPoint *p =
        openmldb__datasync__sync_point__unpack(&osync__protobuf_allocator, f->from.len, f->from.data);
    if (!p) return osync__err(err, OSYNC_ENOMEM, "out of memory");
    bool traverses = p->type == OPENMLDB__DATASYNC__SYNC_TYPE__kSNAPSHOT;
    bool begins = traverses && !p->has_pk && !p->has_offset && p->n_ranges == 0;
    int rc = osync__original_inside(p) ? osync__original_point(&f->links, p, &f->from, err) : 0;
    openmldb__datasync__sync_point__free_unpacked(p, &osync__protobuf_allocator);
    if (rc) return rc;
    f->wait_ms = 0;
    if (traverses && access(f->data_dir, F_OK)) {
        rc = osync__links_snapshot(&f->links, err);
        f->link_seen = osync__mono_ms();
    }
    if (rc) return rc;
    rc = osync__links_snapshot_info(&f->links, name, sizeof name, &made_ms, err);
    bool snapshot = rc == 0;
    if (rc && (rc != OSYNC_ENOENT)) return rc;
    if (snapshot && traverses && !f->memory) f->wait_ms = settle_time(f, made_ms);
    if (f->wait_ms > 0) return 0;
    rc = osync__links_binlog(&f->links, err);
    if (!rc && snapshot && f->memory) rc = osync__links_manifest(&f->links, &manifest, err);
    if (rc) return rc;
    if (snapshot && f->memory && !(sdb = osync__format("%s/%s", f->data_dir, name)))
        return osync__err(err, OSYNC_ENOMEM, "out of memory");
    osync_reader_config_init(&config, sizeof config);
    config.binlog_dir = f->binlog_dir;
    config.snapshot_dir = snapshot && !f->memory ? f->data_dir : sdb;
    config.snapshot_offset = manifest.offset;
    config.snapshot_count = manifest.count;
    config.snapshot_name = snapshot ? name : NULL;
    config.scratch_dir = f->scratch_dir;
    config.start_ts = f->start_ts;
    config.point = f->from.data;
    config.point_len = f->from.len;
    config.cancel = f->cancel;
    config.pauses = true;
    rc = osync_reader_open(&f->reader, f->table, &config, err);
    if (begins && !f->relinked && (rc == OSYNC_ENOENT || rc == OSYNC_ECORRUPT || rc == OSYNC_EIO)) {
        /* A collector of the original doesn't link it in one step; and nothing of it was sent. */
        osync_error_t why = *err;
        f->relinked = true;
        rc = osync__links_drop_snapshot(&f->links, err);
        if (!rc) rc = osync__err(err, OSYNC_EAGAIN, "the snapshot is linked anew: %s", why.message);
    }
    if (!rc) osync_reader_progress(f->reader, &f->progress);
    osync__links_measure(&f->links);
    osync__free(sdb);
    return rc;
}

static int too_large(const osync__feed_t *f, const osync_reader_row_t *row, uint64_t limit, osync_error_t *err) {
    char hex[2 * KEY_SHOWN + 1] = "";
    const uint8_t *pk = row->pk;
    for (size_t i = 0; i < row->pk_len && i < KEY_SHOWN; i++) (void)snprintf(hex + 2 * i, 3, "%02x", pk[i]);
    return osync__err(err, OSYNC_ETOOBIG,
                      "the row with key %s%s (hex), ts %llu has %zu bytes, and a message can carry %llu: raise "
                      "max_body_size (%llu) here and at the scheduler",
                      hex, row->pk_len > KEY_SHOWN ? "..." : "", (unsigned long long)row->ts, row->value_len,
                      (unsigned long long)limit, (unsigned long long)f->config->max_body_size);
}

static int read_rows(osync__feed_t *f, osync_error_t *err) {
    const osync_collector_config_t *config = f->config;
    osync__pack_t *p = &f->pack;
    osync_reader_row_t row;
    uint64_t until = osync__mono_ms() + FILL_MS;
    uint64_t most = f->rows_at_most > 0 ? f->rows_at_most : UINT64_MAX;
    while (p->count < most) {
        int rc = osync_reader_next(f->reader, &row, err);
        if (rc == OSYNC_EOF && f->full) {
            /* A full sync ends here, unless the log has gone on in a new file. */
            rc = osync__links_binlog(&f->links, err);
            if (!rc) rc = osync_reader_next(f->reader, &row, err);
        }
        if (rc == OSYNC_EOF) {
            f->met_end = true;
            return 0;
        }
        if (rc == OSYNC_EAGAIN) { /* many rows were left out; others want the worker too */
            if (osync__mono_ms() > until) return 0;
            continue;
        }
        if (rc) return rc;
        uint64_t overhead = MESSAGE_OVERHEAD + 2 * f->from.len + 2 * row.pk_len + f->token_len;
        uint64_t limit = config->max_body_size > overhead ? config->max_body_size - overhead : 0;
        if (p->count > 0 &&
            (p->rows.len + row.value_len > config->max_pack_size || p->rows.len + row.value_len > limit)) {
            osync_reader_unread(f->reader);
            return 0;
        }
        if (row.value_len > limit) return too_large(f, &row, limit, err);
        if (p->count == 0 && row.value_len > f->room) {
            f->needs = row.value_len;
            osync_reader_unread(f->reader);
            return 0;
        }
        if (osync__buf_append(&p->rows, row.value, row.value_len))
            return osync__err(err, OSYNC_ENOMEM, "out of memory for a pack of rows");
        p->count++;
        if (p->count % FILL_CHECK == 0 && osync__mono_ms() > until) return 0;
    }
    return 0;
}

int osync__feed_fill(osync__feed_t *f, osync_error_t *err) {
    const void *point = NULL;
    size_t len = 0;
    f->met_end = false;
    f->needs = 0;
    int rc = 0;
    if (f->look_for_files) {
        rc = osync__links_binlog(&f->links, err);
        osync__links_measure(&f->links);
    }
    if (!rc) rc = read_rows(f, err);
    if (!rc) rc = osync_reader_point(f->reader, &point, &len, err);
    if (!rc && osync__buf_append(&f->pack.next, point, len)) rc = osync__err(err, OSYNC_ENOMEM, "out of memory");
    if (!rc) osync_reader_progress(f->reader, &f->progress);
    if (rc) osync__feed_close(f);
    return rc;
}
