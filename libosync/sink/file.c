/* The sink of local files. Every call is a job on the sink's own workers; what a job does is plain blocking POSIX. It
 * is not for network file systems: the fence relies on flock.
 *
 * The fence. Delivery stops an old owner, perhaps another process, by renaming its folder. A path is resolved before
 * the kernel takes its locks, so a rename *out of* the folder may have resolved the folder already when the fence
 * comes, and would still succeed after it. So whatever changes the entries of a folder holds a shared flock on it and,
 * with the lock held, makes sure that the path still leads there; renaming a folder takes the exclusive lock. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <utlist.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/failpoint.h"
#include "base/pool.h"
#include "base/sys.h"
#include "sink/internal.h"

#define LOCK_WAIT_MS 10000u /* for a folder's lock: its holders need microseconds, unless the machine is in trouble */
#define LOCK_POLL_US 1000u
#define ATTR_FITS    512u                /* bytes of an attribute that any file system with attributes can hold */
#define ALMOST_FULL  (UINT64_C(1) << 20) /* bytes */
#define WRITE_BACK   (UINT64_C(8) << 20) /* of a file being written, sent to the disk at a time */

typedef struct file_sink file_sink_t;
typedef struct file_out file_out_t;

/* One call. The paths and the kind of callback that it doesn't use are NULL. */
typedef struct op {
    osync__job_t job;
    file_sink_t *sink;
    file_out_t *file; /* of create, write, finish, abort */
    void (*work)(struct op *op);
    char *path, *to; /* one allocation, owned by `path` */
    const void *data;
    size_t len;
    uint8_t *copy;   /* of a label to set */
    uint64_t offset; /* of a read; `len` is how much */
    bool recursive;
    bool skip; /* not to be carried out: canceled before it began */

    osync_sink_cb cb;
    osync_sink_stat_cb stat_cb;
    osync_sink_list_cb list_cb;
    osync_sink_label_cb label_cb;
    osync_sink_read_cb read_cb;
    void *arg;

    int status;
    osync_error_t err;
    osync_sink_stat_t stat;
    char **names;
    size_t n_names, cap_names;
    osync__buf_t label;     /* also what was read */
    struct op *prev, *next; /* in its file's queue */
} op_t;

struct file_out {
    osync_sink_file_t head;
    op_t *queue; /* the first is under way */
    op_t abort;  /* embedded, so that an abort can't fail */
    bool aborted;
    bool ended;    /* finish or abort was called, or the sink was closed */
    bool by_close; /* the sink was closed: freed with it, as the caller may still abort it */
    int fd, dir_fd;
    uint64_t written, sent; /* bytes, and how many of them the disk has been sent */
    osync_error_t failed;   /* code 0, or why the file is lost */
    char *path;
    file_out_t *prev, *next;
};

struct file_sink {
    osync_sink_t head;
    osync__pool_t *pool;
    file_out_t *files;
    size_t under_way; /* calls that have not called back */
    atomic_bool closing;
    void (*close_cb)(void *arg);
    void *close_arg;
};

/* ---- on a worker: helpers ---- */

/* As osync__err_errno, and the few codes that mean something particular to a sink. */
#define FAIL_ERRNO(op, errnum, ...)                                                                                    \
    ((op)->status = sink_errno((errnum), osync__err_errno(&(op)->err, (errnum), __VA_ARGS__), &(op)->err))

static int sink_errno(int errnum, int code, osync_error_t *err) {
    if (errnum == EINVAL || errnum == ENAMETOOLONG || errnum == ELOOP) code = OSYNC_EINVAL;
    err->code = code;
    return code;
}

/* After the change was made, nothing may look like a refusal any more. */
static void now_unknown(op_t *op) {
    if (op->status == OSYNC_ENOENT || op->status == OSYNC_EEXIST) op->status = op->err.code = OSYNC_EIO;
}

static const char *name_of(const char *path) {
    return strrchr(path, '/') + 1;
}

static int parent_of(op_t *op, const char *path, char parent[PATH_MAX]) {
    size_t n = (size_t)(name_of(path) - path);
    if (n > 1) n--;
    if (n >= PATH_MAX) return op->status = osync__err(&op->err, OSYNC_EINVAL, "path is too long: %.200s...", path);
    memcpy(parent, path, n);
    parent[n] = 0;
    return 0;
}

static int lock_folder(op_t *op, int fd, int how, const char *shown) {
    uint64_t deadline = osync__mono_ms() + LOCK_WAIT_MS;
    while (flock(fd, how | LOCK_NB)) {
        int e = errno;
        if (e == EINTR) continue;
        if (e != EWOULDBLOCK) return FAIL_ERRNO(op, e, "lock folder %s", shown);
        if (osync__mono_ms() > deadline)
            return op->status =
                       osync__err(&op->err, OSYNC_EAGAIN, "folder %s stayed locked by another process for %u s", shown,
                                  LOCK_WAIT_MS / 1000);
        usleep(LOCK_POLL_US);
    }
    return 0;
}

/* Opens the folder that holds `path`, with the shared lock. */
static int open_parent(op_t *op, const char *path, int *out) {
    char parent[PATH_MAX];
    struct stat by_fd, by_path;
    if (parent_of(op, path, parent)) return op->status;
    for (;;) {
        int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0) return FAIL_ERRNO(op, errno, "open folder %s", parent);
        if (lock_folder(op, fd, LOCK_SH, parent)) {
            close(fd);
            return op->status;
        }
        bool there = stat(parent, &by_path) == 0;
        if (there && fstat(fd, &by_fd) == 0 && by_fd.st_ino == by_path.st_ino && by_fd.st_dev == by_path.st_dev) {
            *out = fd;
            return 0;
        }
        close(fd); /* renamed meanwhile; another one may be there */
        if (!there) return op->status = osync__err(&op->err, OSYNC_ENOENT, "folder %s was renamed or removed", parent);
    }
}

static int sync_fd(op_t *op, int fd, osync__failpoint_t fp, const char *shown) {
    OSYNC__BEFORE_POINT(fp);
    int rc = fsync(fd) ? FAIL_ERRNO(op, errno, "fsync %s", shown) : 0;
    OSYNC__AFTER_POINT(fp);
    return rc;
}

static int sync_file(op_t *op, int fd, const char *shown) {
    return sync_fd(op, fd, OSYNC__FP_local_fsync, shown);
}

static int sync_folder(op_t *op, int fd, const char *shown) {
    return sync_fd(op, fd, OSYNC__FP_local_dirsync, shown);
}

static int sync_parent(op_t *op, const char *path) {
    char parent[PATH_MAX];
    if (parent_of(op, path, parent)) return op->status;
    OSYNC__BEFORE(local_dirsync);
    op->status = osync__fsync_dir(parent, &op->err);
    OSYNC__AFTER(local_dirsync);
    return op->status;
}

static void close_fd(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

/* ---- on a worker: the operations ---- */

static void work_mkdirs(op_t *op) {
    char path[PATH_MAX];
    size_t n = strlen(op->path);
    struct stat st;
    if (n >= sizeof path) {
        op->status = osync__err(&op->err, OSYNC_EINVAL, "path is too long: %.200s...", op->path);
        return;
    }
    memcpy(path, op->path, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != 0) continue;
        char c = path[i];
        path[i] = 0;
        OSYNC__BEFORE(local_mkdir);
        bool made = mkdir(path, 0755) == 0;
        int e = errno;
        OSYNC__AFTER(local_mkdir);
        if (!made && e != EEXIST) {
            FAIL_ERRNO(op, e, "mkdir %s", path);
            return;
        }
        /* An entry is made durable even if it was there: whoever made it may have died before its own fsync. The
         * folders above those that are ours needn't be open to us, and are older. */
        if (sync_parent(op, path) && (made || c == 0)) {
            now_unknown(op);
            return;
        }
        op->status = 0;
        path[i] = c;
    }
    if (stat(path, &st)) {
        FAIL_ERRNO(op, errno, "stat %s", path);
        now_unknown(op);
    } else if (!S_ISDIR(st.st_mode)) {
        op->status = osync__err(&op->err, OSYNC_EEXIST, "%s is not a folder", path);
    }
}

static void work_create(op_t *op) {
    file_out_t *f = op->file;
    if (open_parent(op, f->path, &f->dir_fd)) return;
    OSYNC__BEFORE(local_open);
    f->fd = openat(f->dir_fd, name_of(f->path), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (f->fd < 0) FAIL_ERRNO(op, errno, "create %s", f->path);
    OSYNC__AFTER(local_open);
    (void)flock(f->dir_fd, LOCK_UN);
}

/* The disk works while rows still come, and no heap of dirty pages waits for the fsync, in which everybody else's would
 * wait with it. It is a hint: only the fsync says that the bytes are there. */
static void start_write_back(file_out_t *f) {
    if (f->written - f->sent < WRITE_BACK) return;
    (void)sync_file_range(f->fd, (off_t)f->sent, (off_t)(f->written - f->sent), SYNC_FILE_RANGE_WRITE);
    f->sent = f->written;
}

static void work_write(op_t *op) {
    const uint8_t *p = op->data;
    size_t left = op->len;
    OSYNC__BEFORE(local_write);
    while (left > 0) {
        ssize_t n = write(op->file->fd, p, left);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            FAIL_ERRNO(op, errno, "write %s", op->file->path);
            break;
        }
        p += n;
        left -= (size_t)n;
        op->file->written += (uint64_t)n;
    }
    OSYNC__AFTER(local_write);
    start_write_back(op->file);
}

static void work_finish(op_t *op) {
    file_out_t *f = op->file;
    /* The folder is the one that the file was made in, wherever that has been moved since: whether the file can be
     * found by its path is for the caller to see, as with HDFS. */
    if (!sync_file(op, f->fd, f->path)) sync_folder(op, f->dir_fd, f->path);
    if (close(f->fd) && !op->status) FAIL_ERRNO(op, errno, "close %s", f->path);
    f->fd = -1;
    close_fd(&f->dir_fd);
}

static void work_abort(op_t *op) {
    close_fd(&op->file->fd);
    close_fd(&op->file->dir_fd);
}

static void work_stat(op_t *op) {
    struct stat st;
    if (lstat(op->path, &st)) {
        FAIL_ERRNO(op, errno, "stat %s", op->path);
        return;
    }
    op->stat = (osync_sink_stat_t){.is_dir = S_ISDIR(st.st_mode),
                                   .length = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0,
                                   .file_id = (uint64_t)st.st_ino};
}

static void fail_attr(op_t *op, int errnum, const char *what) {
    struct statvfs vfs;
    if (errnum == ENOTSUP) {
        op->status = osync__err(&op->err, OSYNC_ENOTSUP, "%s of %s: its file system has no user extended attributes",
                                what, op->path);
        return;
    }
    /* ext4 says "no space" when an attribute doesn't fit its one block, and when there is no block. */
    bool full = errnum == ENOSPC &&
                (op->len < ATTR_FITS || statvfs(op->path, &vfs) || (uint64_t)vfs.f_bavail * vfs.f_frsize < ALMOST_FULL);
    if (errnum == E2BIG || errnum == ERANGE || (errnum == ENOSPC && !full)) {
        op->status = osync__err(&op->err, OSYNC_ETOOBIG,
                                "%s of %s: %zu bytes are more than its file system holds in extended attributes", what,
                                op->path, op->len);
        return;
    }
    FAIL_ERRNO(op, errnum, "%s of %s", what, op->path);
}

/* Parts of a label that doesn't fit take the room of a shorter one. */
static void remove_parts(int fd, unsigned from, unsigned to) {
    char name[OSYNC__LABEL_NAME_SIZE];
    for (unsigned i = from; i < to; i++) {
        osync__label_name(i, name);
        (void)fremovexattr(fd, name);
    }
}

static void work_set_label(op_t *op) {
    osync__buf_t value = {0};
    char name[OSYNC__LABEL_NAME_SIZE];
    int dir_fd = -1, fd = -1;
    if (open_parent(op, op->path, &dir_fd)) return;
    fd = openat(dir_fd, name_of(op->path), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        FAIL_ERRNO(op, errno, "open %s", op->path);
        goto done;
    }
    for (unsigned i = osync__label_parts(op->len); i-- > 0;) {
        value.len = 0;
        if (osync__label_part(op->copy, op->len, i, name, &value)) {
            op->status = osync__err(&op->err, OSYNC_ENOMEM, "label of %s: out of memory", op->path);
            goto done;
        }
        OSYNC__BEFORE(local_setxattr);
        if (fsetxattr(fd, name, value.data, value.len, 0)) fail_attr(op, errno, "set label");
        OSYNC__AFTER(local_setxattr);
        if (op->status) {
            remove_parts(fd, i + 1, osync__label_parts(op->len));
            goto done;
        }
    }
    sync_file(op, fd, op->path);
done:
    osync__buf_free(&value);
    close_fd(&fd);
    close_fd(&dir_fd);
}

static void work_get_label(op_t *op) {
    char name[OSYNC__LABEL_NAME_SIZE];
    uint8_t value[OSYNC__LABEL_PART_SIZE];
    unsigned parts = 1;
    int fd = open(op->path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        FAIL_ERRNO(op, errno, "open %s", op->path);
        return;
    }
    for (unsigned i = 0; i < parts; i++) {
        osync__label_name(i, name);
        ssize_t n = fgetxattr(fd, name, value, sizeof value);
        if (n < 0 && errno == ENODATA && i == 0) {
            op->status = osync__err(&op->err, OSYNC_ENOENT, "%s has no label", op->path);
            break;
        }
        if (n < 0 && errno != ENODATA && errno != ERANGE) {
            fail_attr(op, errno, "get label");
            break;
        }
        if (n < 0 || (i == 0 && (n == 0 || value[0] == 0 || value[0] > OSYNC__LABEL_MAX_PARTS))) {
            op->status =
                osync__err(&op->err, OSYNC_ECORRUPT, "label of %s: attribute %s is not one of ours", op->path, name);
            break;
        }
        if (i == 0) parts = value[0];
        size_t skip = i == 0;
        if (osync__buf_append(&op->label, value + skip, (size_t)n - skip)) {
            op->status = osync__err(&op->err, OSYNC_ENOMEM, "label of %s: out of memory", op->path);
            break;
        }
    }
    close_fd(&fd);
}

static void work_rename(op_t *op) {
    int from_dir = -1, to_dir = -1, folder = -1;
    char parent[PATH_MAX];
    if (open_parent(op, op->path, &from_dir)) return;
    if (parent_of(op, op->to, parent)) goto done;
    to_dir = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (to_dir < 0) {
        FAIL_ERRNO(op, errno, "open folder %s", parent);
        goto done;
    }
    folder = openat(from_dir, name_of(op->path), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder >= 0 && lock_folder(op, folder, LOCK_EX, op->path)) goto done;
    OSYNC__BEFORE(local_rename);
    if (renameat2(from_dir, name_of(op->path), to_dir, name_of(op->to), RENAME_NOREPLACE)) {
        if (errno == EINVAL)
            op->status =
                osync__err(&op->err, OSYNC_ENOTSUP, "rename %s to %s: its file system can't do it without overwriting",
                           op->path, op->to);
        else
            FAIL_ERRNO(op, errno, "rename %s to %s", op->path, op->to);
    }
    OSYNC__AFTER(local_rename);
    if (!op->status && (sync_folder(op, to_dir, parent) || sync_folder(op, from_dir, op->path))) now_unknown(op);
done:
    close_fd(&folder);
    close_fd(&to_dir);
    close_fd(&from_dir);
}

static void work_remove(op_t *op) {
    OSYNC__BEFORE(local_remove);
    if (op->recursive) {
        op->status = osync__rmtree(op->path, &op->err);
        now_unknown(op);
    } else if (unlink(op->path) && !(errno == EISDIR && rmdir(op->path) == 0)) {
        FAIL_ERRNO(op, errno, "remove %s", op->path);
    }
    OSYNC__AFTER(local_remove);
    if (op->status == OSYNC_ENOENT) op->status = 0;
    if (!op->status) sync_parent(op, op->path);
    if (op->status == OSYNC_ENOENT) op->status = 0;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void work_list(op_t *op) {
    struct dirent *e;
    DIR *d = opendir(op->path);
    if (!d) {
        FAIL_ERRNO(op, errno, "list %s", op->path);
        return;
    }
    while (errno = 0, (e = readdir(d))) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (op->n_names == op->cap_names) {
            size_t cap = op->cap_names ? 2 * op->cap_names : 64;
            char **more = osync__realloc(op->names, cap * sizeof *more);
            if (!more) break;
            op->names = more;
            op->cap_names = cap;
        }
        op->names[op->n_names] = osync__strdup(e->d_name);
        if (!op->names[op->n_names]) break;
        op->n_names++;
    }
    if (errno) FAIL_ERRNO(op, errno, "list %s", op->path);
    closedir(d);
    if (op->n_names) qsort(op->names, op->n_names, sizeof *op->names, compare_names);
}

/* fsync of the thing and of its entry: a rename that another process made and that was seen by reading is durable then.
 */
static void work_barrier(op_t *op) {
    int fd = open(op->path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        FAIL_ERRNO(op, errno, "open %s", op->path);
        return;
    }
    if (!sync_file(op, fd, op->path)) sync_parent(op, op->path);
    close_fd(&fd);
}

static void work_read(op_t *op) {
    struct stat st;
    /* Without O_NONBLOCK a pipe of that name would be waited for. */
    int fd = open(op->path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) {
        FAIL_ERRNO(op, errno, "open %s", op->path);
        goto done;
    }
    if (!S_ISREG(st.st_mode)) {
        op->status = osync__err(&op->err, OSYNC_ENOENT, "read %s: it is not a file", op->path);
        goto done;
    }
    if (op->offset >= (uint64_t)st.st_size) goto done;
    if (op->len > (uint64_t)st.st_size - op->offset) op->len = (size_t)((uint64_t)st.st_size - op->offset);
    if (osync__buf_reserve(&op->label, op->len)) {
        op->status = osync__err(&op->err, OSYNC_ENOMEM, "read %s: out of memory", op->path);
        goto done;
    }
    while (op->label.len < op->len) {
        ssize_t n =
            pread(fd, op->label.data + op->label.len, op->len - op->label.len, (off_t)(op->offset + op->label.len));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) FAIL_ERRNO(op, errno, "read %s", op->path);
        if (n <= 0) break; /* 0: it has been cut off meanwhile */
        op->label.len += (size_t)n;
    }
done:
    close_fd(&fd);
}

/* ---- on the loop ---- */

static void op_start(op_t *op);

static void op_release(op_t *op) {
    for (size_t i = 0; i < op->n_names; i++) osync__free(op->names[i]);
    osync__free(op->names);
    osync__free(op->copy);
    osync__free(op->path);
    osync__buf_free(&op->label);
}

static void sink_closed(void *arg) {
    file_sink_t *s = arg;
    file_out_t *f, *tmp;
    DL_FOREACH_SAFE(s->files, f, tmp) {
        osync_sink_cb abort_cb = f->abort.cb;
        void *abort_arg = f->abort.arg;
        close_fd(&f->fd);
        close_fd(&f->dir_fd);
        osync__free(f->path);
        osync__free(f);
        if (abort_cb) abort_cb(abort_arg, 0, NULL);
    }
    void (*cb)(void *) = s->close_cb;
    void *cb_arg = s->close_arg;
    osync__free(s);
    if (cb) cb(cb_arg);
}

/* Tells the caller. Whatever of ours can be freed is free by then, except what the callback is shown. */
static void op_call_back(op_t *op) {
    const osync_error_t *err = op->status ? &op->err : NULL;
    if (op->cb) op->cb(op->arg, op->status, err);
    if (op->stat_cb) op->stat_cb(op->arg, op->status, op->status ? NULL : &op->stat, err);
    if (op->list_cb)
        op->list_cb(op->arg, op->status, op->status ? NULL : (const char *const *)op->names,
                    op->status ? 0 : op->n_names, err);
    if (op->label_cb)
        op->label_cb(op->arg, op->status, op->status ? NULL : op->label.data, op->status ? 0 : op->label.len, err);
    if (op->read_cb)
        op->read_cb(op->arg, op->status, op->status ? NULL : op->label.data, op->status ? 0 : op->label.len, err);
}

static void op_done(osync__job_t *job) {
    op_t *op = job->arg, last;
    file_sink_t *s = op->sink;
    file_out_t *f = op->file;
    bool is_abort = f && op == &f->abort;
    if (is_abort) {
        op->status = 0;
    } else if (s->closing) {
        op->status = osync__err(&op->err, OSYNC_ECANCELED, "the sink was closed");
    } else if (f && f->aborted) {
        op->status = osync__err(&op->err, OSYNC_ECANCELED, "writing %s was aborted", f->path);
    } else if (f && op->status) {
        f->failed = op->err;
    }
    if (f) {
        DL_DELETE(f->queue, op);
        if (f->queue) {
            op_start(f->queue);
        } else if (f->ended && !f->by_close) {
            DL_DELETE(s->files, f);
            if (is_abort) {
                last = *op;
                op = &last;
            } else {
                close_fd(&f->fd); /* a finish that had nothing to do because the file had failed before */
                close_fd(&f->dir_fd);
            }
            osync__free(f->path);
            osync__free(f);
        }
    }
    op_call_back(op);
    op_release(op);
    if (op != &last) osync__free(op);
    /* Counted until here, so that a close from inside the callback comes last. */
    if (--s->under_way == 0 && s->closing) osync__pool_close(s->pool, sink_closed, s);
}

static void op_work(osync__job_t *job) {
    op_t *op = job->arg;
    if (!op->skip && (op->work == work_abort || !op->sink->closing)) op->work(op);
}

static void op_start(op_t *op) {
    file_out_t *f = op->file;
    op->job = (osync__job_t){.work = op_work, .done = op_done, .arg = op};
    if (f && op != &f->abort) {
        if (f->aborted) op->skip = true;
        if (f->failed.code) {
            op->skip = true;
            op->status = f->failed.code;
            op->err = f->failed;
        }
    }
    osync__pool_submit(op->sink->pool, &op->job);
}

static void op_submit(op_t *op) {
    op->sink->under_way++;
    if (!op->file) {
        op_start(op);
        return;
    }
    DL_APPEND(op->file->queue, op);
    if (op->file->queue == op) op_start(op);
}

/* A new operation on a path (and a second one); NULL paths are left out. */
static int op_new(osync_sink_t *sink, void (*work)(op_t *op), const char *path, const char *to, op_t **out) {
    file_sink_t *s = (file_sink_t *)sink;
    if (s->closing) return OSYNC_ECLOSED;
    if ((path && osync__sink_check_path(path, NULL)) || (to && osync__sink_check_path(to, NULL))) return OSYNC_EINVAL;
    op_t *op = osync__calloc(1, sizeof *op);
    if (!op) return OSYNC_ENOMEM;
    op->sink = s;
    op->work = work;
    if (path) {
        size_t n = strlen(path) + 1, m = to ? strlen(to) + 1 : 0;
        op->path = osync__malloc(n + m);
        if (!op->path) {
            osync__free(op);
            return OSYNC_ENOMEM;
        }
        memcpy(op->path, path, n);
        if (to) {
            op->to = op->path + n;
            memcpy(op->to, to, m);
        }
    }
    *out = op;
    return 0;
}

static int submit_plain(osync_sink_t *sink, void (*work)(op_t *op), const char *path, const char *to, bool recursive,
                        osync_sink_cb cb, void *arg) {
    op_t *op;
    int rc = op_new(sink, work, path, to, &op);
    if (rc) return rc;
    op->recursive = recursive;
    op->cb = cb;
    op->arg = arg;
    op_submit(op);
    return 0;
}

static int file_mkdirs(osync_sink_t *sink, const char *path, osync_sink_cb cb, void *arg) {
    return submit_plain(sink, work_mkdirs, path, NULL, false, cb, arg);
}

static int file_rename(osync_sink_t *sink, const char *from, const char *to, osync_sink_cb cb, void *arg) {
    return submit_plain(sink, work_rename, from, to, false, cb, arg);
}

static int file_remove(osync_sink_t *sink, const char *path, bool recursive, osync_sink_cb cb, void *arg) {
    return submit_plain(sink, work_remove, path, NULL, recursive, cb, arg);
}

static int file_barrier(osync_sink_t *sink, const char *path, osync_sink_cb cb, void *arg) {
    return submit_plain(sink, work_barrier, path, NULL, false, cb, arg);
}

static int file_create(osync_sink_t *sink, const char *path, osync_sink_file_t **out, osync_sink_cb cb, void *arg) {
    op_t *op;
    int rc = op_new(sink, work_create, path, NULL, &op);
    if (rc) return rc;
    file_out_t *f = osync__calloc(1, sizeof *f);
    if (!f) {
        op_release(op);
        osync__free(op);
        return OSYNC_ENOMEM;
    }
    f->head.sink = sink;
    f->fd = f->dir_fd = -1;
    f->path = op->path;
    op->path = NULL;
    op->file = f;
    op->cb = cb;
    op->arg = arg;
    DL_APPEND(op->sink->files, f);
    op_submit(op);
    *out = &f->head;
    return 0;
}

static int submit_file(osync_sink_file_t *file, void (*work)(op_t *op), const void *data, size_t len, osync_sink_cb cb,
                       void *arg) {
    file_out_t *f = (file_out_t *)file;
    op_t *op;
    if (f->ended) return OSYNC_EINVAL;
    int rc = op_new(file->sink, work, NULL, NULL, &op);
    if (rc) return rc;
    op->file = f;
    op->data = data;
    op->len = len;
    op->cb = cb;
    op->arg = arg;
    f->ended = work == work_finish;
    op_submit(op);
    return 0;
}

static int file_write(osync_sink_file_t *file, const void *data, size_t len, osync_sink_cb cb, void *arg) {
    return submit_file(file, work_write, data, len, cb, arg);
}

static int file_finish(osync_sink_file_t *file, osync_sink_cb cb, void *arg) {
    return submit_file(file, work_finish, NULL, 0, cb, arg);
}

static void file_abort(osync_sink_file_t *file, osync_sink_cb cb, void *arg) {
    file_out_t *f = (file_out_t *)file;
    if (f->by_close) { /* answered when the sink is freed */
        f->abort.cb = cb;
        f->abort.arg = arg;
        return;
    }
    f->aborted = f->ended = true;
    f->abort = (op_t){.sink = (file_sink_t *)file->sink, .file = f, .work = work_abort, .cb = cb, .arg = arg};
    op_submit(&f->abort);
}

static int file_stat(osync_sink_t *sink, const char *path, osync_sink_stat_cb cb, void *arg) {
    op_t *op;
    int rc = op_new(sink, work_stat, path, NULL, &op);
    if (rc) return rc;
    op->stat_cb = cb;
    op->arg = arg;
    op_submit(op);
    return 0;
}

static int file_set_label(osync_sink_t *sink, const char *path, const void *label, size_t len, osync_sink_cb cb,
                          void *arg) {
    op_t *op;
    if (len > OSYNC__LABEL_LIMIT) return OSYNC_ETOOBIG;
    int rc = op_new(sink, work_set_label, path, NULL, &op);
    if (rc) return rc;
    op->copy = osync__malloc(len ? len : 1);
    if (!op->copy) {
        op_release(op);
        osync__free(op);
        return OSYNC_ENOMEM;
    }
    if (len) memcpy(op->copy, label, len);
    op->len = len;
    op->cb = cb;
    op->arg = arg;
    op_submit(op);
    return 0;
}

static int file_get_label(osync_sink_t *sink, const char *path, osync_sink_label_cb cb, void *arg) {
    op_t *op;
    int rc = op_new(sink, work_get_label, path, NULL, &op);
    if (rc) return rc;
    op->label_cb = cb;
    op->arg = arg;
    op_submit(op);
    return 0;
}

static int file_list(osync_sink_t *sink, const char *path, osync_sink_list_cb cb, void *arg) {
    op_t *op;
    int rc = op_new(sink, work_list, path, NULL, &op);
    if (rc) return rc;
    op->list_cb = cb;
    op->arg = arg;
    op_submit(op);
    return 0;
}

static int file_read(osync_sink_t *sink, const char *path, uint64_t offset, size_t len, osync_sink_read_cb cb,
                     void *arg) {
    op_t *op;
    if (len == 0 || len > OSYNC__READ_LIMIT || offset > INT64_MAX - OSYNC__READ_LIMIT) return OSYNC_EINVAL;
    int rc = op_new(sink, work_read, path, NULL, &op);
    if (rc) return rc;
    op->offset = offset;
    op->len = len;
    op->read_cb = cb;
    op->arg = arg;
    op_submit(op);
    return 0;
}

static void file_close(osync_sink_t *sink, void (*cb)(void *arg), void *arg) {
    file_sink_t *s = (file_sink_t *)sink;
    file_out_t *f;
    s->close_cb = cb;
    s->close_arg = arg;
    s->closing = true;
    DL_FOREACH(s->files, f) {
        if (!f->ended) f->by_close = f->ended = true;
    }
    if (s->under_way == 0) osync__pool_close(s->pool, sink_closed, s);
}

static const osync_sink_ops_t file_ops = {
    .size = sizeof file_ops,
    .mkdirs = file_mkdirs,
    .create = file_create,
    .write = file_write,
    .finish = file_finish,
    .abort = file_abort,
    .stat = file_stat,
    .set_label = file_set_label,
    .get_label = file_get_label,
    .rename = file_rename,
    .remove = file_remove,
    .list = file_list,
    .barrier = file_barrier,
    .read = file_read,
    .close = file_close,
};

int osync_file_sink_new(osync_sink_t **out, uv_loop_t *loop, unsigned threads, osync_error_t *err) {
    if (threads == 0) return osync__err(err, OSYNC_EINVAL, "file sink: at least one worker thread is needed");
    file_sink_t *s = osync__calloc(1, sizeof *s);
    if (!s) return osync__err(err, OSYNC_ENOMEM, "file sink: out of memory");
    s->head.ops = &file_ops;
    int rc = osync__pool_new(loop, threads, &s->pool, err);
    if (rc) {
        osync__free(s);
        return rc;
    }
    *out = &s->head;
    return 0;
}
