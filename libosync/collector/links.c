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
#include "base/sys.h"
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

/* Links one file, or checks that the link that is there is the same file. */
static int link_log(const char *source, const char *dir, const char *name, osync_error_t *err) {
    path_t from, to;
    struct stat a, b;
    char what[NAME_MAX + 64];
    int rc = path_of(from, err, "%s/%s", source, name);
    if (!rc) rc = path_of(to, err, "%s/%s", dir, name);
    if (rc) return rc;
    if (lstat(from, &a)) return errno == ENOENT ? 0 : osync__err_errno(err, errno, "stat %s", from); /* purged */
    if (!S_ISREG(a.st_mode)) return 0;
    if (lstat(to, &b) == 0) {
        if (same_file(&a, &b)) return 0;
    } else if (errno != ENOENT) {
        return osync__err_errno(err, errno, "stat %s", to);
    } else if (link(from, to) == 0) {
        return 0;
    } else if (errno != EEXIST) {
        return errno == ENOENT ? 0 : link_error(errno, from, to, err); /* ENOENT: purged just now */
    }
    (void)snprintf(what, sizeof what, "%s is another file than the one linked earlier", name);
    return recreated(source, what, err);
}

int osync__links_binlog(osync__links_t *l, osync_error_t *err) {
    path_t dir;
    uint64_t number, newest = 0, held = 0;
    bool any = false;
    int rc = path_of(dir, err, "%s/binlog", l->dir);
    if (!rc) rc = osync__mkdirs(dir, err);
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
        rc = link_log(l->binlog_source, dir, e->d_name, err);
        if (rc) break;
    }
    closedir(d);
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
    int rc = 0;
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
        else if (S_ISREG(st.st_mode) && link(from, to))
            rc = link_error(errno, from, to, err);
    }
    closedir(d);
    return rc;
}

/* One try into `tmp`. *again: the tablet has put another snapshot in the place of this one, so that what was linked may
 * not be whole. That is so if MANIFEST or the folder isn't the same file at the end: the tablet replaces MANIFEST, or
 * moves the folder away, before it deletes anything. Holding both keeps their inode numbers from being used again. */
static int try_snapshot(osync__links_t *l, const char *tmp, bool *none, bool *again, osync_error_t *err) {
    path_t manifest, copy, folder, data;
    osync__buf_t text = {0};
    osync__manifest_t m;
    struct stat held, now, folder_held, folder_now;
    int fd = -1;
    int rc = path_of(manifest, err, "%s/MANIFEST", l->snapshot_source);
    if (!rc) rc = path_of(copy, err, "%s/MANIFEST", tmp);
    if (!rc) rc = path_of(data, err, "%s/data", tmp);
    if (!rc) rc = osync__rmtree(tmp, err);
    if (!rc) rc = osync__mkdirs(data, err);
    if (rc) goto done;
    *again = *none = false;
    if (link(manifest, copy)) {
        rc = link_error(errno, manifest, copy, err);
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
    fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    rc = fd < 0 ? osync__err_errno(err, errno, "open the snapshot folder %s", folder) : link_folder(folder, data, err);
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
        rc = osync__fsync_dir(data, err);
        if (!rc) rc = osync__fsync_dir(tmp, err);
        if (!rc && rename(tmp, final)) rc = osync__err_errno(err, errno, "rename %s to %s", tmp, final);
        if (!rc) rc = osync__fsync_dir(l->dir, err);
    }
    if (rc || none) (void)osync__rmtree(tmp, NULL);
    return rc;
}

int osync__links_snapshot_info(const osync__links_t *l, char *name, size_t size, uint64_t *made_ms,
                               osync_error_t *err) {
    static const char *const dated[] = {"MANIFEST", "data/CURRENT"};
    path_t path;
    osync__buf_t text = {0};
    osync__manifest_t m;
    struct stat st;
    *made_ms = 0;
    int rc = path_of(path, err, "%s/snapshot/MANIFEST", l->dir);
    if (!rc) rc = osync__read_file(path, MANIFEST_LIMIT, &text, err);
    if (!rc) rc = osync__manifest_parse((const char *)text.data, text.len, &m, err);
    osync__buf_free(&text);
    if (rc) return rc;
    if ((size_t)snprintf(name, size, "%s", m.name) >= size)
        return osync__err(err, OSYNC_ETOOBIG, "%s: a name of %zu bytes", path, strlen(m.name));
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
    int rc = path_of(final, err, "%s/snapshot", l->dir);
    if (!rc) rc = path_of(old, err, "%s/snapshot.old", l->dir);
    if (!rc) rc = osync__rmtree(old, err);
    /* Out of the way in one step: what is called snapshot/ is complete, whenever the process ends. */
    if (!rc && rename(final, old) && errno != ENOENT) rc = osync__err_errno(err, errno, "rename %s to %s", final, old);
    return rc ? rc : osync__rmtree(old, err);
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
        rc = osync__rmtree(path, err);
        if (!rc) rc = osync__links_drop_snapshot(l, err);
        if (!rc) rc = link_all(l, snapshot, err);
    }
    if (!rc) rc = osync__fsync_dir(path, err);
    osync__links_measure(l);
    return rc;
}

/* The lowest entry whose file is still needed; 0: all files are. The base's own entry is, since its term and checksum
 * tell whether the log is still the same. */
static uint64_t lowest_entry(const Openmldb__Datasync__SyncPoint *p) {
    bool follows = p->type == OPENMLDB__DATASYNC__SYNC_TYPE__kBINLOG;
    if (!follows && p->n_ranges == 0) return 0;
    uint64_t lowest = follows ? (p->offset > 0 ? p->offset - 1 : 0) : UINT64_MAX;
    for (size_t i = 0; i < p->n_ranges; i++)
        if (p->ranges[i]->window_base < lowest) lowest = p->ranges[i]->window_base;
    return lowest;
}

int osync__links_release(osync__links_t *l, const Openmldb__Datasync__SyncPoint *committed, osync_error_t *err) {
    path_t dir;
    osync__binlog_t *log = NULL;
    const osync__log_file_t *files;
    size_t n, keep = 0;
    uint64_t entry = lowest_entry(committed);
    int rc = 0;
    if (committed->type == OPENMLDB__DATASYNC__SYNC_TYPE__kBINLOG) rc = osync__links_drop_snapshot(l, err);
    if (!rc && entry > 0) {
        rc = path_of(dir, err, "%s/binlog", l->dir);
        if (!rc) rc = osync__binlog_open(&log, dir, err);
        if (rc) goto done;
        n = osync__binlog_files(log, &files);
        for (size_t i = 0; i < n; i++)
            if (files[i].has_entry && files[i].first <= entry) keep = i;
        if (keep > 0) l->lowest = files[keep].number;
        for (size_t i = 0; i < keep; i++)
            if (unlink(files[i].path) && errno != ENOENT) rc = osync__err_errno(err, errno, "unlink %s", files[i].path);
    }
done:
    osync__binlog_close(log);
    osync__links_measure(l);
    return rc;
}

static void measure(osync__links_t *l, const char *folder) {
    path_t path;
    struct stat st;
    if (path_of(path, NULL, "%s/%s", l->dir, folder)) return;
    DIR *d = opendir(path);
    if (!d) return;
    for (struct dirent *e; (e = readdir(d));) {
        if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode)) continue;
        l->files++;
        l->bytes += (uint64_t)st.st_size;
        if (st.st_nlink == 1) l->pinned += (uint64_t)st.st_size;
    }
    closedir(d);
}

void osync__links_measure(osync__links_t *l) {
    l->files = l->bytes = l->pinned = 0;
    measure(l, "binlog");
    measure(l, "snapshot");
    measure(l, "snapshot/data");
}
