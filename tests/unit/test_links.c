/* The hard links of a partition: what is linked, what is refused, what is let go. Real folders in /tmp. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/sys.h"
#include "collector/links.h"
#include "fmt.h"
#include "format/binlog.h"

typedef struct world {
    char top[64];
    char snapshot[128], binlog[128], dir[128];
    osync__links_t links;
    int made; /* snapshots that the hook has made */
} world_t;

static void put_file(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

static bool exists(const char *path) {
    return access(path, F_OK) == 0;
}

static bool linked(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_ino == y.st_ino && x.st_dev == y.st_dev;
}

static void put_log(world_t *w, int number) {
    put_file(fmt("%s/%08d.log", w->binlog, number), "log");
}

/* As the tablet does it: the folder, then MANIFEST by rename. */
static void make_snapshot(world_t *w, const char *name) {
    assert_int_equal(osync__mkdirs(fmt("%s/%s", w->snapshot, name), NULL), 0);
    put_file(fmt("%s/%s/CURRENT", w->snapshot, name), name);
    put_file(fmt("%s/%s/000010.sst", w->snapshot, name), name);
    put_file(fmt("%s/MANIFEST.tmp", w->snapshot), fmt("offset: 1\nname: \"%s\"\ncount: 0\nterm: 1\n", name));
    assert_int_equal(rename(fmt("%s/MANIFEST.tmp", w->snapshot), fmt("%s/MANIFEST", w->snapshot)), 0);
}

static int make_world(void **state) {
    world_t *w = calloc(1, sizeof *w);
    (void)snprintf(w->top, sizeof w->top, "/tmp/osync-links-XXXXXX");
    if (!mkdtemp(w->top)) return -1;
    (void)snprintf(w->snapshot, sizeof w->snapshot, "%s/tablet/snapshot/", w->top);
    (void)snprintf(w->binlog, sizeof w->binlog, "%s/tablet/.//binlog/", w->top);
    (void)snprintf(w->dir, sizeof w->dir, "%s/data/1-0", w->top);
    osync__mkdirs(w->snapshot, NULL);
    osync__mkdirs(w->binlog, NULL);
    w->links = (osync__links_t){.snapshot_source = w->snapshot, .binlog_source = w->binlog, .dir = w->dir};
    *state = w;
    return 0;
}

static int drop_world(void **state) {
    world_t *w = *state;
    osync__rmtree(w->top, NULL);
    free(w);
    return 0;
}

static void all(world_t *w) {
    osync_error_t err = {0};
    if (osync__links_all(&w->links, true, false, &err)) fail_msg("%s", err.message);
}

static void links_everything(void **state) {
    world_t *w = *state;
    char name[256];
    uint64_t made;
    put_log(w, 0);
    put_log(w, 1);
    put_file(fmt("%s/00000002.log.tmp", w->binlog), "x");
    put_file(fmt("%s/notes", w->binlog), "x");
    make_snapshot(w, "202611230101");
    all(w);
    assert_true(linked(fmt("%s/00000001.log", w->binlog), fmt("%s/binlog/00000001.log", w->dir)));
    assert_true(linked(fmt("%s/202611230101/000010.sst", w->snapshot), fmt("%s/snapshot/data/000010.sst", w->dir)));
    assert_true(linked(fmt("%s/MANIFEST", w->snapshot), fmt("%s/snapshot/MANIFEST", w->dir)));
    assert_false(exists(fmt("%s/binlog/notes", w->dir)));
    assert_false(exists(fmt("%s/snapshot.tmp", w->dir)));
    assert_int_equal(w->links.files, 5);
    assert_int_equal(w->links.pinned, 0);
    assert_int_equal(osync__links_snapshot_info(&w->links, name, sizeof name, &made, NULL), 0);
    assert_string_equal(name, "202611230101");
    assert_true(made <= osync__wall_ms() && made + 60000 > osync__wall_ms());
    /* A held snapshot stays, whatever the tablet has by then. */
    make_snapshot(w, "202611230202");
    osync__rmtree(fmt("%s/202611230101", w->snapshot), NULL);
    all(w);
    assert_int_equal(osync__links_snapshot_info(&w->links, name, sizeof name, &made, NULL), 0);
    assert_string_equal(name, "202611230101");
    assert_true(w->links.pinned > 0);
}

static void no_snapshot_is_fine(void **state) {
    world_t *w = *state;
    char name[256];
    uint64_t made;
    put_log(w, 0);
    all(w);
    assert_int_equal(osync__links_snapshot_info(&w->links, name, sizeof name, &made, NULL), OSYNC_ENOENT);
    assert_false(exists(fmt("%s/snapshot", w->dir)));
}

/* The count in MANIFEST is an estimate and may be 0 although there are rows. */
static void test_defect_32_count_zero(void **state) {
    world_t *w = *state;
    make_snapshot(w, "202611230101"); /* with count: 0 */
    all(w);
    assert_true(exists(fmt("%s/snapshot/data/CURRENT", w->dir)));
}

static void bad_manifest_is_an_error(void **state) {
    world_t *w = *state;
    osync_error_t err = {0};
    put_file(fmt("%s/MANIFEST", w->snapshot), "name: \"../../etc\"");
    assert_int_equal(osync__links_all(&w->links, true, false, &err), OSYNC_ECORRUPT);
    assert_non_null(strstr(err.message, "create snapshot env failed"));
    assert_false(exists(fmt("%s/snapshot", w->dir)));
    assert_false(exists(fmt("%s/snapshot.tmp", w->dir)));
}

static void missing_binlog_folder_is_an_error(void **state) {
    world_t *w = *state;
    osync_error_t err = {0};
    osync__rmtree(w->binlog, NULL);
    assert_int_equal(osync__links_all(&w->links, true, false, &err), OSYNC_ENOENT);
    assert_non_null(strstr(err.message, "hardlink binlog failed"));
    assert_non_null(strstr(err.message, "binlog/"));
}

static void replace_once(void *arg) {
    world_t *w = arg;
    if (w->made++ > 0) return;
    make_snapshot(w, "202611230202");
    osync__rmtree(fmt("%s/202611230101", w->snapshot), NULL);
}

static void test_defect_61_replaced_while_linking(void **state) {
    world_t *w = *state;
    char name[256];
    uint64_t made;
    make_snapshot(w, "202611230101");
    w->links.hook = replace_once;
    w->links.hook_arg = w;
    all(w);
    assert_int_equal(w->made, 2);
    assert_int_equal(osync__links_snapshot_info(&w->links, name, sizeof name, &made, NULL), 0);
    assert_string_equal(name, "202611230202");
    assert_true(linked(fmt("%s/202611230202/CURRENT", w->snapshot), fmt("%s/snapshot/data/CURRENT", w->dir)));
}

/* The tablet has deleted half of the folder when it is listed, and what is there can be linked without an error. */
static void half_delete(void *arg) {
    world_t *w = arg;
    if (w->made++ > 0) return;
    make_snapshot(w, "202611230202");
    unlink(fmt("%s/202611230101/CURRENT", w->snapshot));
}

static void half_deleted_is_not_taken(void **state) {
    world_t *w = *state;
    make_snapshot(w, "202611230101");
    w->links.hook = half_delete;
    w->links.hook_arg = w;
    all(w);
    assert_true(linked(fmt("%s/202611230202/CURRENT", w->snapshot), fmt("%s/snapshot/data/CURRENT", w->dir)));
}

/* Within the same minute the new checkpoint takes the old one's name. */
static void same_minute(void *arg) {
    world_t *w = arg;
    if (w->made++ > 0) return;
    osync__rmtree(fmt("%s/202611230101", w->snapshot), NULL);
    make_snapshot(w, "202611230101");
}

static void same_minute_replacement(void **state) {
    world_t *w = *state;
    make_snapshot(w, "202611230101");
    w->links.hook = same_minute;
    w->links.hook_arg = w;
    all(w);
    assert_true(linked(fmt("%s/202611230101/CURRENT", w->snapshot), fmt("%s/snapshot/data/CURRENT", w->dir)));
    assert_true(linked(fmt("%s/MANIFEST", w->snapshot), fmt("%s/snapshot/MANIFEST", w->dir)));
}

/* As the tablet does it for a memory table: the file, then MANIFEST by rename, then the file before it goes. */
static void make_sdb(world_t *w, const char *name, const char *before) {
    put_file(fmt("%s/%s.tmp", w->snapshot, name), name);
    assert_int_equal(rename(fmt("%s/%s.tmp", w->snapshot, name), fmt("%s/%s", w->snapshot, name)), 0);
    put_file(fmt("%s/MANIFEST.tmp", w->snapshot), fmt("offset: 7\nname: \"%s\"\ncount: 5\nterm: 1\n", name));
    assert_int_equal(rename(fmt("%s/MANIFEST.tmp", w->snapshot), fmt("%s/MANIFEST", w->snapshot)), 0);
    if (before) unlink(fmt("%s/%s", w->snapshot, before));
}

static void replace_sdb(void *arg) {
    world_t *w = arg;
    if (w->made++ == 0) make_sdb(w, "202611230202.sdb.zlib.zlib", "202611230101.sdb");
}

static void sdb_of_a_memory_table(void **state) {
    world_t *w = *state;
    osync__manifest_t m;
    make_sdb(w, "202611230101.sdb", NULL);
    w->links.hook = replace_sdb;
    w->links.hook_arg = w;
    all(w);
    assert_true(linked(fmt("%s/202611230202.sdb.zlib.zlib", w->snapshot),
                       fmt("%s/snapshot/data/202611230202.sdb.zlib.zlib", w->dir)));
    assert_false(exists(fmt("%s/snapshot/data/202611230101.sdb", w->dir)));
    assert_int_equal(osync__links_manifest(&w->links, &m, NULL), 0);
    assert_string_equal(m.name, "202611230202.sdb.zlib.zlib");
    assert_int_equal(m.offset, 7);
    assert_int_equal(m.count, 5);
}

static void replace_always(void *arg) {
    world_t *w = arg;
    osync__rmtree(fmt("%s/20261123%04d", w->snapshot, w->made++), NULL);
}

static void endless_replacement_is_given_up(void **state) {
    world_t *w = *state;
    osync_error_t err = {0};
    make_snapshot(w, "202611230000");
    w->links.hook = replace_always; /* MANIFEST names a folder that is gone */
    w->links.hook_arg = w;
    assert_int_equal(osync__links_all(&w->links, true, false, &err), OSYNC_ENOENT);
    assert_non_null(strstr(err.message, "tries"));
    assert_non_null(strstr(err.message, "202611230000"));
    assert_false(exists(fmt("%s/snapshot", w->dir)));
}

/* A real race: a thread replaces snapshots as fast as it can. Whatever is linked is whole and of one snapshot. */
typedef struct racer {
    world_t *w;
    atomic_bool stop;
} racer_t;

static void *race(void *arg) {
    racer_t *r = arg;
    for (int i = 1; !atomic_load(&r->stop); i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "2026%08d", i);
        make_snapshot(r->w, name);
        osync__rmtree(fmt("%s/2026%08d", r->w->snapshot, i - 1), NULL);
        /* Slower than the collector's tries, as every tablet is. */
        (void)nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    return NULL;
}

static void racing_replacements(void **state) {
    world_t *w = *state;
    racer_t r = {.w = w};
    pthread_t thread;
    osync__buf_t a = {0}, b = {0};
    char name[256], manifest[256], path[256];
    uint64_t made;
    osync_error_t err = {0};
    make_snapshot(w, "202600000000");
    assert_int_equal(pthread_create(&thread, NULL, race, &r), 0);
    for (int i = 0; i < 200; i++) {
        if (osync__links_snapshot(&w->links, &err)) fail_msg("%s", err.message);
        assert_int_equal(osync__links_snapshot_info(&w->links, name, sizeof name, &made, NULL), 0);
        a.len = b.len = 0;
        (void)snprintf(path, sizeof path, "%s/snapshot/data/CURRENT", w->dir);
        assert_int_equal(osync__read_file(path, 100, &a, NULL), 0);
        (void)snprintf(path, sizeof path, "%s/snapshot/data/000010.sst", w->dir);
        assert_int_equal(osync__read_file(path, 100, &b, NULL), 0);
        (void)snprintf(manifest, sizeof manifest, "%s", (char *)a.data);
        assert_string_equal(manifest, name);
        assert_string_equal((char *)b.data, name);
    }
    atomic_store(&r.stop, true);
    pthread_join(thread, NULL);
    osync__buf_free(&a);
    osync__buf_free(&b);
}

static void empty_file_is_linked(void **state) {
    world_t *w = *state;
    put_file(fmt("%s/00000000.log", w->binlog), "");
    all(w);
    /* Defect 8: it fills later, and the link shows it. */
    put_log(w, 0);
    osync__buf_t b = {0};
    assert_int_equal(osync__read_file(fmt("%s/binlog/00000000.log", w->dir), 100, &b, NULL), 0);
    assert_int_equal(b.len, 3);
    osync__buf_free(&b);
}

static void test_defect_9_recreated_partition(void **state) {
    world_t *w = *state;
    osync_error_t err = {0};
    put_log(w, 0);
    put_log(w, 1);
    all(w);
    unlink(fmt("%s/00000000.log", w->binlog));
    unlink(fmt("%s/00000001.log", w->binlog));
    put_log(w, 0);
    put_log(w, 1);
    assert_int_equal(osync__links_binlog(&w->links, &err), OSYNC_EDIVERGED);
    assert_non_null(strstr(err.message, "the partition was re-created"));
    assert_false(linked(fmt("%s/00000000.log", w->binlog), fmt("%s/binlog/00000000.log", w->dir)));
    /* A task that needs nothing of the old ones takes the new ones. */
    assert_int_equal(osync__links_all(&w->links, true, true, &err), 0);
    assert_true(linked(fmt("%s/00000000.log", w->binlog), fmt("%s/binlog/00000000.log", w->dir)));
    assert_true(linked(fmt("%s/00000001.log", w->binlog), fmt("%s/binlog/00000001.log", w->dir)));
}

static void numbers_that_go_back(void **state) {
    world_t *w = *state;
    osync_error_t err = {0};
    put_log(w, 7);
    all(w);
    w->links.lowest = 7;
    unlink(fmt("%s/00000007.log", w->binlog));
    put_log(w, 0);
    assert_int_equal(osync__links_binlog(&w->links, &err), OSYNC_EDIVERGED);
    assert_non_null(strstr(err.message, "00000007.log"));
    unlink(fmt("%s/00000000.log", w->binlog));
    assert_int_equal(osync__links_binlog(&w->links, &err), OSYNC_EDIVERGED);
}

static void purged_files_stay_linked(void **state) {
    world_t *w = *state;
    put_log(w, 0);
    put_log(w, 1);
    all(w);
    unlink(fmt("%s/00000000.log", w->binlog));
    all(w);
    assert_true(exists(fmt("%s/binlog/00000000.log", w->dir)));
    assert_int_equal(w->links.pinned, 3);
    /* Another collector of the machine has a link too: the tablet hasn't, all the same. */
    assert_int_equal(link(fmt("%s/binlog/00000000.log", w->dir), fmt("%s/others", w->top)), 0);
    all(w);
    assert_int_equal(w->links.pinned, 3);
}

/* Six files as OpenMLDB wrote them. */
static void use_golden_log(world_t *w) {
    const char *golden = getenv("OSYNC_GOLDEN");
    osync__buf_t b = {0};
    assert_non_null(golden);
    for (int i = 0; i < 6; i++) {
        b.len = 0;
        assert_int_equal(osync__read_file(fmt("%s/case3_snapshot_binlog_rolled/db/3_0/binlog/%08d.log", golden, i),
                                          1 << 20, &b, NULL),
                         0);
        assert_int_equal(osync__write_file(fmt("%s/%08d.log", w->binlog, i), b.data, b.len, NULL), 0);
    }
    osync__buf_free(&b);
}

static int held(const world_t *w) {
    int n = 0;
    for (int i = 0; i < 6; i++) n += exists(fmt("%s/binlog/%08d.log", w->dir, i)) << i;
    return n;
}

static void release(world_t *w, const Openmldb__Datasync__SyncPoint *p) {
    osync_error_t err = {0};
    if (osync__links_release(&w->links, p, &err)) fail_msg("%s", err.message);
}

static void release_keeps_what_is_needed(void **state) {
    world_t *w = *state;
    Openmldb__Datasync__SyncPoint p = OPENMLDB__DATASYNC__SYNC_POINT__INIT;
    Openmldb__Datasync__SyncRange a = OPENMLDB__DATASYNC__SYNC_RANGE__INIT, b = OPENMLDB__DATASYNC__SYNC_RANGE__INIT;
    Openmldb__Datasync__SyncRange *ranges[] = {&a, &b};
    use_golden_log(w); /* first entries: 1, 61, 133, 134, 156, 171 */
    make_snapshot(w, "202611230101");
    all(w);
    p.type = OPENMLDB__DATASYNC__SYNC_TYPE__kSNAPSHOT;
    release(w, &p);
    assert_int_equal(held(w), 63);
    assert_true(exists(fmt("%s/snapshot", w->dir)));
    /* A traverse: from the file that holds the least base on. */
    p.n_ranges = 2;
    p.ranges = ranges;
    a.has_window_base = b.has_window_base = 1;
    a.window_base = 132; /* the last entry of file 1 */
    b.window_base = 150;
    release(w, &p);
    assert_int_equal(held(w), 62);
    assert_true(exists(fmt("%s/snapshot", w->dir)));
    /* The log phase with windows: still from the least base on, without the snapshot. */
    p.type = OPENMLDB__DATASYNC__SYNC_TYPE__kBINLOG;
    p.has_offset = 1;
    p.offset = 171;
    release(w, &p);
    assert_int_equal(held(w), 62);
    assert_false(exists(fmt("%s/snapshot", w->dir)));
    /* Without windows: from the entry before the next one on. 170 is the last of file 4. */
    p.n_ranges = 0;
    release(w, &p);
    assert_int_equal(held(w), 48);
    p.offset = 172;
    release(w, &p);
    assert_int_equal(held(w), 32);
    p.offset = 100000;
    release(w, &p);
    assert_int_equal(held(w), 32);
    p.ranges = NULL;
}

/* The point says which entry it follows. If that isn't the one that is held, this is the log of a later leader, and
 * from where on the two are the same isn't known before it is read. */
static void other_log_is_not_released(void **state) {
    world_t *w = *state;
    osync_error_t err = {0};
    osync__binlog_t *log = NULL;
    osync__log_record_t record;
    Openmldb__Datasync__SyncPoint p = OPENMLDB__DATASYNC__SYNC_POINT__INIT;
    use_golden_log(w);
    all(w);
    assert_int_equal(osync__binlog_open(&log, w->binlog, &err), 0);
    assert_int_equal(osync__binlog_seek(log, 171, &err), 0);
    assert_int_equal(osync__binlog_next(log, &record, &err), 0);
    p.type = OPENMLDB__DATASYNC__SYNC_TYPE__kBINLOG;
    p.has_offset = p.has_last_term = p.has_last_crc = 1;
    p.offset = 172;
    p.last_term = record.term;
    p.last_crc = osync__crc32c(0, record.payload, record.len);
    osync__binlog_close(log);
    p.last_term--;
    release(w, &p);
    assert_int_equal(held(w), 63);
    p.last_term += 2;
    release(w, &p);
    assert_int_equal(held(w), 63);
    p.last_term--;
    p.last_crc++;
    release(w, &p);
    assert_int_equal(held(w), 63);
    p.last_crc--;
    p.offset = 100000;
    release(w, &p);
    assert_int_equal(held(w), 63);
    p.offset = 172;
    release(w, &p);
    assert_int_equal(held(w), 32);
}

static void tells_what_the_tablet_lacks(void **state) {
    world_t *w = *state;
    osync_error_t err = {0};
    uint64_t first = 9, last = 9;
    Openmldb__Datasync__SyncPoint p = OPENMLDB__DATASYNC__SYNC_POINT__INIT;
    p.type = OPENMLDB__DATASYNC__SYNC_TYPE__kBINLOG;
    p.has_offset = 1;
    p.offset = 100;
    use_golden_log(w);
    make_snapshot(w, "202611230101");
    all(w);
    assert_int_equal(osync__links_missing(&w->links, &p, &first, &last, &err), 0);
    assert_int_equal(first, 0);
    unlink(fmt("%s/00000000.log", w->binlog));
    assert_int_equal(osync__links_missing(&w->links, &p, &first, &last, &err), 0);
    assert_int_equal(first, 0); /* file 1 begins with 61 */
    unlink(fmt("%s/00000001.log", w->binlog));
    assert_int_equal(osync__links_missing(&w->links, &p, &first, &last, &err), 0);
    assert_int_equal(first, 99);
    assert_int_equal(last, 132);
    assert_int_equal(osync__links_entries(&w->links, &first, &last, &err), 0);
    assert_int_equal(first, 1);
    assert_true(last > 171);
    assert_int_equal(osync__links_drop(&w->links, &err), 0);
    assert_int_equal(held(w), 0);
    assert_false(exists(fmt("%s/snapshot", w->dir)));
    assert_int_equal(w->links.files, 0);
    assert_int_equal(w->links.pinned, 0);
    assert_int_equal(osync__links_entries(&w->links, &first, &last, &err), 0);
    assert_int_equal(last, 0);
    /* Who begins anew needs nothing. */
    p.type = OPENMLDB__DATASYNC__SYNC_TYPE__kSNAPSHOT;
    assert_int_equal(osync__links_missing(&w->links, &p, &first, &last, &err), 0);
    assert_int_equal(first, 0);
}

static void test_defect_43_released_is_not_linked_again(void **state) {
    world_t *w = *state;
    Openmldb__Datasync__SyncPoint p = OPENMLDB__DATASYNC__SYNC_POINT__INIT;
    osync_error_t err = {0};
    use_golden_log(w);
    all(w);
    p.type = OPENMLDB__DATASYNC__SYNC_TYPE__kBINLOG;
    p.has_offset = 1;
    p.offset = 172;
    release(w, &p);
    assert_int_equal(osync__links_binlog(&w->links, &err), 0);
    assert_int_equal(held(w), 32);
}

static void other_file_system_is_refused(void **state) {
    world_t *w = *state;
    char other[] = "/dev/shm/osync-links-XXXXXX";
    char dir[128];
    struct stat a, b;
    osync_error_t err = {0};
    assert_non_null(mkdtemp(other));
    assert_int_equal(stat(other, &a), 0);
    assert_int_equal(stat(w->top, &b), 0);
    assert_true(a.st_dev != b.st_dev); /* or this test says nothing */
    (void)snprintf(dir, sizeof dir, "%s/1-0", other);
    w->links.dir = dir;
    for (int files = 0; files < 2; files++) {
        if (files) put_log(w, 0);
        assert_int_equal(osync__links_all(&w->links, true, false, &err), OSYNC_EXDEV);
        assert_non_null(strstr(err.message, "Invalid cross-device link"));
        assert_non_null(strstr(err.message, w->binlog));
        assert_non_null(strstr(err.message, dir));
    }
    osync__rmtree(other, NULL);
}

#define T(f) cmocka_unit_test_setup_teardown(f, make_world, drop_world)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(links_everything),
        T(no_snapshot_is_fine),
        T(test_defect_32_count_zero),
        T(bad_manifest_is_an_error),
        T(missing_binlog_folder_is_an_error),
        T(test_defect_61_replaced_while_linking),
        T(half_deleted_is_not_taken),
        T(same_minute_replacement),
        T(sdb_of_a_memory_table),
        T(endless_replacement_is_given_up),
        T(racing_replacements),
        T(empty_file_is_linked),
        T(test_defect_9_recreated_partition),
        T(numbers_that_go_back),
        T(purged_files_stay_linked),
        T(release_keeps_what_is_needed),
        T(other_log_is_not_released),
        T(tells_what_the_tablet_lacks),
        T(test_defect_43_released_is_not_linked_again),
        T(other_file_system_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
