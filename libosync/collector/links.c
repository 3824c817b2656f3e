/* Hard links of one partition's files. Why the order and the checks are as they are: docs/delivery.md, reading, and
 * docs/formats.md, "How a snapshot is made". */
#include "collector/links.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/failpoint.h"
#include "base/sys.h"
#include "collector/lineage.h"
#include "format/binlog.h"
#include "format/snapshot.h"

enum {
    SNAPSHOT_TRIES = 10, /* a snapshot is replaced at most once a minute; more means that something else is wrong */
    SNAPSHOT_PAUSE_US = 20000,
    MANIFEST_LIMIT = 64 << 10, /* bytes of a MANIFEST */
    LOG_DIGITS = 8,            /* of a binlog file's number, at least */
    LOG_DIGITS_MAX = 10,
};

typedef char path_t[PATH_MAX];

static int path_of(path_t out, osync_error_t *err, const char *fmt, ...) OSYNC_PRINTF(3, 4);
static int path_of(path_t out, osync_error_t *err, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(out, PATH_MAX, fmt, ap);
    va_end(ap);
    if (n >= 0 && n < PATH_MAX) return 0;
    return osync__err(err, OSYNC_ETOOBIG, "a path below a folder of %d bytes would be too long: %.200s...", n, out);
}

/* NNNNNNNN.log */
static bool log_number(const char *name, uint64_t *number) {
    size_t digits = strspn(name, "0123456789");
    if (digits < LOG_DIGITS || digits > LOG_DIGITS_MAX || strcmp(name + digits, ".log")) return false;
    *number = strtoull(name, NULL, 10);
    return true;
}

static bool same_file(const struct stat *a, const struct stat *b) {
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

static int link_error(int errnum, const char *from, const char *to, osync_error_t *err) {
    if (errnum == EXDEV)
        return osync__err(err, OSYNC_EXDEV,
                          "Invalid cross-device link: '%s' -> '%s': the collector's data folder must be on the file "
                          "system of the TabletServer's data",
                          from, to);
    if (errnum == EPERM || errnum == EACCES)
        return osync__err(err, OSYNC_EPERM,
                          "link '%s' -> '%s': %s: the collector must run as the TabletServer's user (see "
                          "fs.protected_hardlinks)",
                          from, to, strerror(errnum));
    return osync__err_errno(err, errnum, "link '%s' -> '%s'", from, to);
}

/* Without a file to try it with, different device numbers are proof enough that links will fail. */
static int check_device(const char *source, const char *dir, osync_error_t *err) {
    struct stat a, b;
    if (stat(source, &a) || stat(dir, &b)) return 0; /* whoever opens them says what is wrong */
    return a.st_dev == b.st_dev ? 0 : link_error(EXDEV, source, dir, err);
}

/* ---- binlog ---- */

static int recreated(const char *source, const char *what, osync_error_t *err) {
    return osync__err(err, OSYNC_EDIVERGED, "the partition was re-created on the TabletServer: %s in %s", what, source);
}

/* Highest number among the files that are held; false: none. */
static bool highest_held(const char *dir, uint64_t *highest) {
    bool any = false;
    uint64_t number;
    DIR *d = opendir(dir);
    if (!d) return false;
    for (struct dirent *e; (e = readdir(d));)
        if (log_number(e->d_name, &number) && (!any || number > *highest)) {
            *highest = number;
            any = true;
        }
    closedir(d);
    return any;
}

static int make_link(osync__failpoint_t point, const char *from, const char *to) {
    OSYNC__BEFORE_POINT(point);
    int rc = link(from, to) ? errno : 0;
    OSYNC__AFTER_POINT(point);
    return rc;
}

static int make_dirs(osync__failpoint_t point, const char *path, osync_error_t *err) {
    OSYNC__BEFORE_POINT(point);
    int rc = osync__mkdirs(path, err);
    OSYNC__AFTER_POINT(point);
    return rc;
}

static int remove_tree(osync__failpoint_t point, const char *path, osync_error_t *err) {
    OSYNC__BEFORE_POINT(point);
    int rc = osync__rmtree(path, err);
    OSYNC__AFTER_POINT(point);
    return rc;
}

static int sync_dir(osync__failpoint_t point, const char *path, osync_error_t *err) {
    OSYNC__BEFORE_POINT(point);
    int rc = osync__fsync_dir(path, err);
    OSYNC__AFTER_POINT(point);
    return rc;
}

static int rename_to(osync__failpoint_t point, const char *from, const char *to, osync_error_t *err) {
    OSYNC__BEFORE_POINT(point);
    int rc = rename(from, to) ? osync__err_errno(err, errno, "rename %s to %s", from, to) : 0;
    OSYNC__AFTER_POINT(point);
    return rc;
}

/* Links one file (*made), or checks that the link that is there is the same file. */
static int link_log(const char *source, const char *dir, const char *name, bool *made, osync_error_t *err) {
    path_t from, to;
    struct stat a, b;
    char what[NAME_MAX + 64];
    int errnum = EEXIST;
    int rc = path_of(from, err, "%s/%s", source, name);
    if (!rc) rc = path_of(to, err, "%s/%s", dir, name);
    if (rc) return rc;
    if (lstat(from, &a)) return errno == ENOENT ? 0 : osync__err_errno(err, errno, "stat %s", from); /* purged */
    if (!S_ISREG(a.st_mode)) return 0;
    if (lstat(to, &b) == 0) {
        if (same_file(&a, &b)) return 0;
    } else if (errno != ENOENT) {
        return osync__err_errno(err, errno, "stat %s", to);
    } else {
        errnum = make_link(OSYNC__FP_log_link, from, to);
    }
    if (errnum == 0) *made = true;
    if (errnum == 0 || errnum == ENOENT) return 0; /* ENOENT: purged just now */
    if (errnum != EEXIST) return link_error(errnum, from, to, err);
    (void)snprintf(what, sizeof what, "%s is another file than the one linked earlier", name);
    return recreated(source, what, err);
}

int osync__links_binlog(osync__links_t *l, osync_error_t *err) {
    path_t dir;
    uint64_t number, newest = 0, held = 0;
    bool any = false, made = false;
    int rc = path_of(dir, err, "%s/binlog", l->dir);
    if (!rc) rc = make_dirs(OSYNC__FP_binlog_mkdirs, dir, err);
    if (!rc) rc = check_device(l->binlog_source, dir, err);
    if (rc) return rc;
    DIR *d = opendir(l->binlog_source);
    if (!d) return osync__err_errno(err, errno, "open the TabletServer's binlog folder %s", l->binlog_source);
    for (;;) {
        errno = 0;
        struct dirent *e = readdir(d);
        if (!e) {
            if (errno) rc = osync__err_errno(err, errno, "read the folder %s", l->binlog_source);
            break;
        }
        if (!log_number(e->d_name, &number)) continue;
        if (!any || number > newest) newest = number;
        any = true;
        if (number < l->lowest) continue;
        rc = link_log(l->binlog_source, dir, e->d_name, &made, err);
        if (rc) break;
    }
    closedir(d);
    if (!rc && made) rc = sync_dir(OSYNC__FP_binlog_dirsync, dir, err);
    /* The tablet never deletes its newest file, so that its numbers only go back if it began anew. */
    if (!rc && highest_held(dir, &held) && (!any || newest < held)) {
        char what[128];
        (void)snprintf(what, sizeof what, "file %08llu.log, linked earlier, is newer than all",
                       (unsigned long long)held);
        rc = recreated(l->binlog_source, what, err);
    }
    return rc;
}

/* ---- snapshot ---- */

static int link_folder(const char *source, const char *dir, osync_error_t *err) {
    path_t from, to;
    struct stat st;
    int rc = 0, errnum;
    DIR *d = opendir(source);
    if (!d) return osync__err_errno(err, errno, "open the snapshot folder %s", source);
    while (!rc) {
        errno = 0;
        struct dirent *e = readdir(d);
        if (!e) {
            if (errno) rc = osync__err_errno(err, errno, "read the folder %s", source);
            break;
        }
        rc = path_of(from, err, "%s/%s", source, e->d_name);
        if (!rc) rc = path_of(to, err, "%s/%s", dir, e->d_name);
        if (rc) break;
        if (lstat(from, &st))
            rc = osync__err_errno(err, errno, "stat %s", from);
        else if (S_ISREG(st.st_mode) && (errnum = make_link(OSYNC__FP_checkpoint_link, from, to)) != 0)
            rc = link_error(errnum, from, to, err);
    }
    closedir(d);
    return rc;
}

static int link_sdb(const char *source, const char *dir, const char *name, osync_error_t *err) {
    path_t to;
    int rc = path_of(to, err, "%s/%s", dir, name);
    int errnum = rc ? 0 : make_link(OSYNC__FP_checkpoint_link, source, to);
    return errnum ? link_error(errnum, source, to, err) : rc;
}

/* One try into `tmp`. *again: the tablet has put another snapshot in the place of this one, so that what was linked may
 * not be whole. That is so if MANIFEST or the folder isn't the same file at the end: the tablet replaces MANIFEST, or
 * moves the folder away, before it deletes anything. Holding both keeps their inode numbers from being used again. */
static int try_snapshot(osync__links_t *l, const char *tmp, bool *none, bool *again, osync_error_t *err) {
    path_t manifest, copy, folder, data;
    osync__buf_t text = {0};
    osync__manifest_t m;
    struct stat held, now, folder_held, folder_now;
    int fd = -1, errnum;
    int rc = path_of(manifest, err, "%s/MANIFEST", l->snapshot_source);
    if (!rc) rc = path_of(copy, err, "%s/MANIFEST", tmp);
    if (!rc) rc = path_of(data, err, "%s/data", tmp);
    if (!rc) rc = osync__rmtree(tmp, err);
    if (!rc) rc = make_dirs(OSYNC__FP_snapshot_mkdirs, data, err);
    if (rc) goto done;
    *again = *none = false;
    errnum = make_link(OSYNC__FP_manifest_link, manifest, copy);
    if (errnum) {
        rc = link_error(errnum, manifest, copy, err);
        if (rc != OSYNC_ENOENT) goto done;
        /* The kernel says so too when the file is replaced between finding and linking it. */
        *again = stat(manifest, &now) == 0;
        *none = !*again && errno == ENOENT;
        if (*none) rc = 0;
        goto done;
    }
    rc = osync__read_file(copy, MANIFEST_LIMIT, &text, err);
    if (!rc) rc = osync__manifest_parse((const char *)text.data, text.len, &m, err);
    if (rc) {
        if (err) osync__err_wrap(err, err, "%s", manifest);
        goto done;
    }
    rc = path_of(folder, err, "%s/%s", l->snapshot_source, m.name);
    if (rc) goto done;
    if (l->hook) l->hook(l->hook_arg);
    fd = open(folder, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &folder_held))
        rc = osync__err_errno(err, errno, "open the snapshot %s", folder);
    else if (S_ISREG(folder_held.st_mode)) /* of a memory table */
        rc = link_sdb(folder, data, m.name, err);
    else
        rc = link_folder(folder, data, err);
    *again = stat(copy, &held) || stat(manifest, &now) || !same_file(&held, &now) || fd < 0 ||
             fstat(fd, &folder_held) || stat(folder, &folder_now) || !same_file(&folder_held, &folder_now);
    if (rc && rc != OSYNC_ENOENT) *again = false; /* no replacement explains it */
    if (!rc && *again)
        rc = osync__err(err, OSYNC_EAGAIN, "the snapshot %s was replaced while it was being linked", folder);
done:
    if (fd >= 0) close(fd);
    osync__buf_free(&text);
    return rc;
}

int osync__links_snapshot(osync__links_t *l, osync_error_t *err) {
    path_t tmp, final, data;
    bool none = false, again = true;
    int rc = path_of(tmp, err, "%s/snapshot.tmp", l->dir);
    if (!rc) rc = path_of(final, err, "%s/snapshot", l->dir);
    if (!rc) rc = path_of(data, err, "%s/data", tmp);
    if (rc) return rc;
    for (int i = 0; again && i < SNAPSHOT_TRIES; i++) {
        if (i > 1)
            (void)usleep(SNAPSHOT_PAUSE_US); /* the second try finds the replacement; more than that is unusual */
        rc = try_snapshot(l, tmp, &none, &again, err);
    }
    if (rc && again && err) osync__err_wrap(err, err, "given up after %d tries", SNAPSHOT_TRIES);
    if (!rc) rc = osync__links_drop_snapshot(l, err);
    if (!rc && !none) {
        rc = sync_dir(OSYNC__FP_snapshot_fsync, data, err);
        if (!rc) rc = osync__fsync_dir(tmp, err);
        if (!rc) rc = rename_to(OSYNC__FP_snapshot_rename, tmp, final, err);
        if (!rc) rc = sync_dir(OSYNC__FP_snapshot_dirsync, l->dir, err);
    }
    if (rc || none) (void)osync__rmtree(tmp, NULL);
    return rc;
}

int osync__links_manifest(const osync__links_t *l, osync__manifest_t *out, osync_error_t *err) {
    path_t path;
    osync__buf_t text = {0};
    int rc = path_of(path, err, "%s/snapshot/MANIFEST", l->dir);
    if (!rc) rc = osync__read_file(path, MANIFEST_LIMIT, &text, err);
    if (!rc) rc = osync__manifest_parse((const char *)text.data, text.len, out, err);
    osync__buf_free(&text);
    return rc;
}

int osync__links_snapshot_info(const osync__links_t *l, char *name, size_t size, uint64_t *made_ms,
                               osync_error_t *err) {
    static const char *const dated[] = {"MANIFEST", "data/CURRENT"};
    path_t path;
    osync__manifest_t m;
    struct stat st;
    *made_ms = 0;
    int rc = osync__links_manifest(l, &m, err);
    if (rc) return rc;
    if ((size_t)snprintf(name, size, "%s", m.name) >= size)
        return osync__err(err, OSYNC_ETOOBIG, "the snapshot in %s: a name of %zu bytes", l->dir, strlen(m.name));
    /* A checkpoint made in the minute of the one before takes its folder's name, and MANIFEST is written after that. So
     * the later of the two is when it was made. */
    for (size_t i = 0; i < sizeof dated / sizeof dated[0]; i++) {
        rc = path_of(path, err, "%s/snapshot/%s", l->dir, dated[i]);
        if (rc) return rc;
        if (stat(path, &st)) continue; /* a reader that misses CURRENT says so */
        uint64_t ms = st.st_mtime > 0 ? (uint64_t)st.st_mtime * 1000 + (uint64_t)st.st_mtim.tv_nsec / 1000000 : 0;
        if (ms > *made_ms) *made_ms = ms;
    }
    return 0;
}

int osync__links_drop_snapshot(osync__links_t *l, osync_error_t *err) {
    path_t final, old;
    struct stat st;
    int rc = path_of(final, err, "%s/snapshot", l->dir);
    if (!rc) rc = path_of(old, err, "%s/snapshot.old", l->dir);
    if (!rc) rc = osync__rmtree(old, err);
    /* Out of the way in one step: what is called snapshot/ is complete, whenever the process ends. */
    if (rc || (lstat(final, &st) && errno == ENOENT)) return rc;
    rc = rename_to(OSYNC__FP_snapshot_drop, final, old, err);
    return rc ? rc : remove_tree(OSYNC__FP_snapshot_remove, old, err);
}

/* ---- all ---- */

static int binlog_again(osync__links_t *l, osync_error_t *err) {
    int rc = osync__links_binlog(l, err);
    if (rc && err) osync__err_wrap(err, err, "hardlink binlog failed");
    return rc;
}

static int link_all(osync__links_t *l, bool snapshot, osync_error_t *err) {
    path_t path;
    struct stat st;
    int rc = binlog_again(l, err);
    if (!rc) rc = path_of(path, err, "%s/snapshot", l->dir);
    if (rc || !snapshot || stat(path, &st) == 0) return rc;
    rc = check_device(l->snapshot_source, l->dir, err);
    if (!rc) rc = osync__links_snapshot(l, err);
    if (rc && err) osync__err_wrap(err, err, "create snapshot env failed");
    /* What was logged while the snapshot was linked belongs to it too. */
    return rc ? rc : binlog_again(l, err);
}

int osync__links_all(osync__links_t *l, bool snapshot, bool relink, osync_error_t *err) {
    path_t path;
    int rc = path_of(path, err, "%s/binlog", l->dir);
    if (!rc) rc = link_all(l, snapshot, err);
    if (rc == OSYNC_EDIVERGED && relink) {
        l->lowest = 0;
        rc = remove_tree(OSYNC__FP_relink_remove, path, err);
        if (!rc) rc = osync__links_drop_snapshot(l, err);
        if (!rc) rc = link_all(l, snapshot, err);
    }
    osync__links_measure(l);
    return rc;
}

/* The place behind the lowest entry whose file is still needed; 0: all files are. The base's own entry is, since its
 * term and checksum tell whether the log is still the same. */
static osync__position_t lowest_place(const Openmldb__Datasync__SyncPoint *p) {
    bool follows = p->type == OPENMLDB__DATASYNC__SYNC_TYPE__kBINLOG;
    osync__position_t lowest = {0};
    if (follows)
        lowest = (osync__position_t){
            .next = p->offset > 0 ? p->offset : 1, .term = p->last_term, .crc = p->last_crc, .known = p->has_last_crc};
    for (size_t i = 0; i < p->n_ranges; i++) {
        const Openmldb__Datasync__SyncRange *g = p->ranges[i];
        if (lowest.next > 0 && g->window_base >= lowest.next - 1) continue;
        lowest = (osync__position_t){
            .next = g->window_base + 1, .term = g->base_term, .crc = g->base_crc, .known = g->has_base_crc};
    }
    return lowest;
}

/* A traverse that goes on in another snapshot than the point speaks of may have an older base. */
static bool other_snapshot(const osync__links_t *l, const Openmldb__Datasync__SyncPoint *p) {
    char id[OSYNC__SNAPSHOT_ID];
    path_t data, sdb;
    osync__manifest_t m;
    if (p->type != OPENMLDB__DATASYNC__SYNC_TYPE__kSNAPSHOT || !p->snapshot_id) return false;
    if (path_of(data, NULL, "%s/snapshot/data", l->dir)) return true;
    if (osync__snapshot_id(data, id, NULL) == 0) return strcmp(id, p->snapshot_id) != 0;
    return osync__links_manifest(l, &m, NULL) || path_of(sdb, NULL, "%s/%s", data, m.name) ||
           osync__file_id(sdb, id, NULL) || strcmp(id, p->snapshot_id) != 0;
}

int osync__links_release(osync__links_t *l, const Openmldb__Datasync__SyncPoint *committed, osync_error_t *err) {
    path_t dir;
    osync__binlog_t *log = NULL;
    const osync__log_file_t *files;
    size_t n, keep = 0;
    osync__position_t lowest = lowest_place(committed);
    osync__verdict_t verdict = OSYNC__LOG_SAME;
    osync_error_t why = {0};
    uint64_t entry = lowest.next > 0 ? lowest.next - 1 : 0;
    int rc = 0;
    if (committed->type == OPENMLDB__DATASYNC__SYNC_TYPE__kBINLOG) rc = osync__links_drop_snapshot(l, err);
    if (!rc && entry > 0 && !other_snapshot(l, committed)) {
        rc = path_of(dir, err, "%s/binlog", l->dir);
        if (!rc) rc = osync__binlog_open(&log, dir, err);
        if (rc) goto done;
        n = osync__binlog_files(log, &files);
        for (size_t i = 0; i < n; i++)
            if (files[i].has_entry && files[i].first <= entry) keep = i;
        /* Whatever else can be wrong with the log, whoever reads it says so. */
        if (keep > 0 && (osync__log_compare(log, &lowest, &verdict, &why, &why) || verdict != OSYNC__LOG_SAME))
            keep = 0;
        n = osync__binlog_files(log, &files); /* comparing may have listed the folder again */
        if (keep >= n) keep = 0;
        if (keep > 0) l->lowest = files[keep].number;
        for (size_t i = 0; i < keep; i++) {
            OSYNC__BEFORE(log_unlink);
            if (unlink(files[i].path) && errno != ENOENT) rc = osync__err_errno(err, errno, "unlink %s", files[i].path);
            OSYNC__AFTER(log_unlink);
        }
    }
done:
    osync__binlog_close(log);
    osync__links_measure(l);
    return rc;
}

int osync__links_drop(osync__links_t *l, osync_error_t *err) {
    path_t path;
    int rc = osync__links_drop_snapshot(l, err);
    if (!rc) rc = path_of(path, err, "%s/binlog", l->dir);
    if (!rc) rc = remove_tree(OSYNC__FP_links_drop, path, err);
    osync__links_measure(l);
    return rc;
}

static int entries_of(const char *dir, uint64_t *first, uint64_t *last, osync_error_t *err) {
    osync__binlog_t *log = NULL;
    const osync__log_file_t *files;
    *first = *last = 0;
    int rc = osync__binlog_open(&log, dir, err);
    if (!rc) rc = osync__binlog_tail(log, last, err);
    if (!rc)
        for (size_t i = osync__binlog_files(log, &files); i-- > 0;)
            if (files[i].has_entry) *first = files[i].first;
    osync__binlog_close(log);
    return rc;
}

int osync__links_entries(const osync__links_t *l, uint64_t *first, uint64_t *last, osync_error_t *err) {
    path_t dir;
    int rc = path_of(dir, err, "%s/binlog", l->dir);
    return rc ? rc : entries_of(dir, first, last, err);
}

int osync__links_missing(const osync__links_t *l, const Openmldb__Datasync__SyncPoint *committed, uint64_t *first,
                         uint64_t *last, osync_error_t *err) {
    uint64_t oldest = 0, newest, next = lowest_place(committed).next, need = next > 1 ? next - 1 : next;
    *first = *last = 0;
    if (need == 0) return 0;
    int rc = entries_of(l->binlog_source, &oldest, &newest, err);
    if (rc || (oldest > 0 && oldest <= need)) return rc;
    *first = need;
    *last = oldest > 0 ? oldest - 1 : UINT64_MAX;
    return 0;
}

/* Whether the tablet has deleted it. Of a log file that other links keep too, as another collector's do, its folder
 * tells. */
static bool is_pinned(const osync__links_t *l, const char *folder, const char *name, const struct stat *held) {
    path_t path;
    struct stat now;
    if (held->st_nlink == 1) return true;
    if (!l->binlog_source || strcmp(folder, "binlog") != 0) return false;
    if (path_of(path, NULL, "%s/%s", l->binlog_source, name)) return false;
    return stat(path, &now) ? errno == ENOENT : !same_file(&now, held);
}

static void measure(osync__links_t *l, const char *folder) {
    path_t path;
    struct stat st;
    if (path_of(path, NULL, "%s/%s", l->dir, folder)) return;
    DIR *d = opendir(path);
    if (!d) return;
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_type == DT_DIR) continue;
        if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode)) continue;
        l->files++;
        l->bytes += (uint64_t)st.st_size;
        if (is_pinned(l, folder, e->d_name, &st)) l->pinned += (uint64_t)st.st_size;
    }
    closedir(d);
}

void osync__links_measure(osync__links_t *l) {
    l->files = l->bytes = l->pinned = 0;
    measure(l, "binlog");
    measure(l, "snapshot");
    measure(l, "snapshot/data");
}
