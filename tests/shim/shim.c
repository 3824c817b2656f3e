/* For tests, by LD_PRELOAD: a disk that is full, and a disk that forgets at a power loss what wasn't made durable. It
 * is not a file system: only the calls that the daemons and their libraries make are known.
 *
 * OSYNC_SHIM_ROOT    folders (absolute, ':' between them) that it is about
 * OSYNC_SHIM_SPACE   a file with one 64-bit number: the bytes that can still be written there; negative: no limit.
 * While it is 0, nothing can be made either. The test changes it at any time. OSYNC_SHIM_SHADOW  a folder on the same
 * file system that describes what is durable: fsync of a file copies its content to data/KEY, fsync of a folder its
 * entries to dirs/KEY. made/KEY: made since the test began. keep/KEY: a link to a file that lost its name. KEY is inode
 * and birth time. A rename becomes durable in both folders at once, as with every journal. The test
 * (tests/e2e/power.py) builds from it what a machine would find after the power came back.
 *
 * fsync is not passed on: what the kernel has survives the death of a process. OSYNC_SHIM_SYNC_MS is how long it takes;
 * without it, no time. */
#undef _FILE_OFFSET_BITS /* else a function and its 64-bit twin would be one name */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

enum { MAX_FDS = 65536, KEY_SIZE = 64, MAX_RENAMES = 4096 };

typedef struct moved {
    char from_dir[KEY_SIZE], to_dir[KEY_SIZE], from[NAME_MAX + 1], to[NAME_MAX + 1], entry[KEY_SIZE + 4];
} moved_t;

static struct {
    const char *roots, *shadow;
    useconds_t sync_us;
    int64_t *space;
    bool ours[MAX_FDS];
    pthread_mutex_t lock;
    moved_t renames[MAX_RENAMES];
    size_t n_renames;
} g = {.lock = PTHREAD_MUTEX_INITIALIZER};

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
    void *f = dlsym(RTLD_NEXT, name);
    if (!f) abort();
    return f;
}

__attribute__((constructor)) static void begin(void) {
    const char *space = getenv("OSYNC_SHIM_SPACE");
    g.shadow = getenv("OSYNC_SHIM_SHADOW");
    if (space) {
        int fd = REAL(open)(space, O_RDWR | O_CLOEXEC);
        g.space = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *g.space, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (g.space == MAP_FAILED) abort(); /* a disk that can't get full would pass every test */
        (void)REAL(close)(fd);
    }
    g.roots = getenv("OSYNC_SHIM_ROOT");
    const char *sync_ms = getenv("OSYNC_SHIM_SYNC_MS");
    if (sync_ms) g.sync_us = 1000 * (useconds_t)strtoul(sync_ms, NULL, 10);
}

/* ---- what it is about ---- */

static bool below_roots(const char *path) {
    for (const char *r = g.roots; r && *r;) {
        size_t n = strcspn(r, ":");
        if (strncmp(path, r, n) == 0 && (path[n] == '/' || path[n] == 0)) return true;
        r += n + (r[n] == ':');
    }
    return false;
}

static bool fd_path(int fd, char path[PATH_MAX]) {
    char link[64];
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    if (n <= 0) return false;
    path[n] = 0;
    return true;
}

/* An absolute path of what a call names. */
static bool whole_path(int dir, const char *path, char out[PATH_MAX]) {
    char base[PATH_MAX];
    if (path[0] == '/') return (size_t)snprintf(out, PATH_MAX, "%s", path) < PATH_MAX;
    if (dir == AT_FDCWD ? !getcwd(base, sizeof base) : !fd_path(dir, base)) return false;
    size_t n = strlen(base), m = strlen(path);
    if (n + m + 2 > PATH_MAX) return false;
    memcpy(out, base, n);
    out[n] = '/';
    memcpy(out + n + 1, path, m + 1);
    return true;
}

static bool is_ours(int dir, const char *path) {
    char whole[PATH_MAX];
    return g.roots && whole_path(dir, path, whole) && below_roots(whole);
}

static bool is_our_fd(int fd) {
    return fd >= 0 && fd < MAX_FDS && g.ours[fd];
}

static void forget_fd(int fd) {
    if (fd >= 0 && fd < MAX_FDS) g.ours[fd] = false;
}

/* ---- space ---- */

/* How many of n bytes there is room for. */
static size_t room_for(size_t n) {
    if (!g.space) return n;
    for (;;) {
        int64_t left = __atomic_load_n(g.space, __ATOMIC_ACQUIRE);
        if (left < 0) return n;
        size_t take = (uint64_t)left < n ? (size_t)left : n;
        if (__atomic_compare_exchange_n(g.space, &left, left - (int64_t)take, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED))
            return take;
    }
}

static bool is_full(void) {
    return g.space && __atomic_load_n(g.space, __ATOMIC_ACQUIRE) == 0;
}

static int no_space(void) {
    errno = ENOSPC;
    return -1;
}

/* ---- the shadow ---- */

static bool key_at(int dir, const char *path, int flags, char key[KEY_SIZE], mode_t *mode) {
    struct statx s;
    if (statx(dir, path, flags | AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME, &s)) return false;
    (void)snprintf(key, KEY_SIZE, "%llu-%lld.%u", (unsigned long long)s.stx_ino, (long long)s.stx_btime.tv_sec,
                   s.stx_btime.tv_nsec);
    if (mode) *mode = s.stx_mode;
    return true;
}

static void shadow_path(char out[PATH_MAX], const char *kind, const char *key) {
    if ((size_t)snprintf(out, PATH_MAX, "%s/%s/%s", g.shadow, kind, key) >= PATH_MAX) abort();
}

static void mark_made(int dir, const char *path) {
    char key[KEY_SIZE], mark[PATH_MAX];
    if (!g.shadow || !key_at(dir, path, 0, key, NULL)) return;
    shadow_path(mark, "made", key);
    int fd = REAL(open)(mark, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0) (void)REAL(close)(fd);
}

/* Before a name goes: its file may be what comes back. */
static void keep(int dir, const char *path) {
    char key[KEY_SIZE], kept[PATH_MAX];
    mode_t mode;
    if (!g.shadow || !is_ours(dir, path) || !key_at(dir, path, 0, key, &mode) || !S_ISREG(mode)) return;
    shadow_path(kept, "keep", key);
    (void)REAL(linkat)(dir, path, AT_FDCWD, kept, 0);
}

static void copy_attrs(int from, int to) {
    char names[4096], value[65536];
    ssize_t n = flistxattr(from, names, sizeof names);
    for (ssize_t at = 0; at < n; at += (ssize_t)strlen(names + at) + 1) {
        if (strncmp(names + at, "user.", 5) != 0) continue;
        ssize_t len = fgetxattr(from, names + at, value, sizeof value);
        if (len >= 0) (void)REAL(fsetxattr)(to, names + at, value, (size_t)len, 0);
    }
}

static void keep_content(int fd, const char *key) {
    char path[PATH_MAX], tmp[PATH_MAX + 8], self[64], data[65536];
    shadow_path(path, "data", key);
    (void)snprintf(tmp, sizeof tmp, "%s.tmp", path);
    (void)snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    int from = REAL(open)(self, O_RDONLY | O_CLOEXEC); /* fd may be for writing only */
    int to = REAL(open)(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (from < 0 || to < 0) abort();
    ssize_t n;
    while ((n = read(from, data, sizeof data)) > 0)
        if (REAL(write)(to, data, (size_t)n) != n) abort();
    copy_attrs(from, to);
    (void)REAL(close)(from);
    (void)REAL(close)(to);
    if (REAL(rename)(tmp, path)) abort();
}

static void put_line(FILE *f, const char *entry, const char *name) {
    (void)fprintf(f, "%s %s\n", entry, name);
}

/* Rewrites the durable entries of a folder: without one name, with another. */
static void change_entries(const char *dir, const char *without, const char *entry, const char *with) {
    char path[PATH_MAX], tmp[PATH_MAX + 8], line[PATH_MAX];
    shadow_path(path, "dirs", dir);
    (void)snprintf(tmp, sizeof tmp, "%s.tmp", path);
    FILE *in = fopen(path, "re"), *out = fopen(tmp, "we");
    if (!out) abort();
    while (in && fgets(line, sizeof line, in)) {
        line[strcspn(line, "\n")] = 0;
        char *name = strchr(line, ' ');
        if (!name) continue;
        *name++ = 0;
        if ((without && strcmp(name, without) == 0) || (with && strcmp(name, with) == 0)) continue;
        put_line(out, line, name);
    }
    if (with) put_line(out, entry, with);
    if (in) (void)fclose(in);
    if (fclose(out) || REAL(rename)(tmp, path)) abort();
}

/* "f" or "d", and the key: what an entry leads to. */
static bool entry_at(int dir, const char *name, char entry[KEY_SIZE + 4]) {
    char key[KEY_SIZE];
    mode_t mode;
    if (!key_at(dir, name, 0, key, &mode)) return false;
    (void)snprintf(entry, KEY_SIZE + 4, "%c%s", S_ISDIR(mode) ? 'd' : 'f', key);
    return true;
}

static void keep_entries(int fd, const char *key) {
    char path[PATH_MAX], tmp[PATH_MAX + 8], entry[KEY_SIZE + 4];
    struct dirent *e;
    int own = REAL(openat)(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = own < 0 ? NULL : fdopendir(own);
    shadow_path(path, "dirs", key);
    (void)snprintf(tmp, sizeof tmp, "%s.tmp", path);
    FILE *out = fopen(tmp, "we");
    if (!d || !out) abort();
    while ((e = readdir(d))) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (entry_at(fd, e->d_name, entry)) put_line(out, entry, e->d_name);
    }
    (void)closedir(d);
    if (fclose(out) || REAL(rename)(tmp, path)) abort();
    for (size_t i = 0; i < g.n_renames;) {
        moved_t *m = &g.renames[i];
        bool from = strcmp(m->from_dir, key) == 0, to = strcmp(m->to_dir, key) == 0;
        if (!from && !to) {
            i++;
            continue;
        }
        if (from && !to) change_entries(m->to_dir, NULL, m->entry, m->to);
        if (to && !from) change_entries(m->from_dir, m->from, NULL, NULL);
        *m = g.renames[--g.n_renames];
    }
}

static int sync_shadow(int fd) {
    char key[KEY_SIZE];
    mode_t mode;
    if (!g.shadow || !key_at(fd, "", AT_EMPTY_PATH, key, &mode)) return 0;
    if (g.sync_us > 0) (void)usleep(g.sync_us);
    (void)pthread_mutex_lock(&g.lock);
    if (S_ISDIR(mode))
        keep_entries(fd, key);
    else if (S_ISREG(mode))
        keep_content(fd, key);
    (void)pthread_mutex_unlock(&g.lock);
    return 0;
}

static const char *split(const char *path, char dir[PATH_MAX]) {
    const char *slash = strrchr(path, '/');
    if (!slash) {
        (void)snprintf(dir, PATH_MAX, ".");
        return path;
    }
    size_t n = slash == path ? 1 : (size_t)(slash - path);
    memcpy(dir, path, n);
    dir[n] = 0;
    return slash + 1;
}

static int move(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    moved_t m;
    char dir[PATH_MAX];
    bool ours = g.roots && g.shadow && is_ours(from_dir, from);
    if (is_full() && is_ours(to_dir, to)) return no_space();
    (void)pthread_mutex_lock(&g.lock);
    if (ours) {
        keep(to_dir, to);
        ours = entry_at(from_dir, from, m.entry);
        (void)snprintf(m.from, sizeof m.from, "%s", split(from, dir));
        ours = ours && key_at(from_dir, dir, 0, m.from_dir, NULL);
        (void)snprintf(m.to, sizeof m.to, "%s", split(to, dir));
        ours = ours && key_at(to_dir, dir, 0, m.to_dir, NULL);
    }
    int rc = REAL(renameat2)(from_dir, from, to_dir, to, flags), e = errno;
    if (!rc && ours) {
        if (g.n_renames == MAX_RENAMES) abort();
        g.renames[g.n_renames++] = m;
    }
    (void)pthread_mutex_unlock(&g.lock);
    errno = e;
    return rc;
}

/* ---- the calls ---- */

static int opened(int fd, int dir, const char *path, bool made) {
    if (fd >= 0 && fd < MAX_FDS) {
        int e = errno;
        g.ours[fd] = is_ours(dir, path);
        if (made) mark_made(dir, path);
        errno = e;
    }
    return fd;
}

static int open_any(int dir, const char *path, int flags, mode_t mode) {
    bool creates = (flags & O_CREAT) && is_ours(dir, path);
    bool there = creates && faccessat(dir, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    if (creates && !there && is_full()) return no_space();
    return opened(REAL(openat)(dir, path, flags, mode), dir, path, creates && !there);
}

#define MODE(flags)                                                                                                    \
    mode_t mode = 0;                                                                                                   \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                                             \
        va_list ap;                                                                                                    \
        va_start(ap, flags);                                                                                           \
        mode = va_arg(ap, mode_t);                                                                                     \
        va_end(ap);                                                                                                    \
    }

EXPORT int open(const char *path, int flags, ...) {
    MODE(flags)
    return open_any(AT_FDCWD, path, flags, mode);
}
EXPORT int open64(const char *path, int flags, ...) {
    MODE(flags)
    return open_any(AT_FDCWD, path, flags, mode);
}
EXPORT int openat(int dir, const char *path, int flags, ...) {
    MODE(flags)
    return open_any(dir, path, flags, mode);
}
EXPORT int openat64(int dir, const char *path, int flags, ...) {
    MODE(flags)
    return open_any(dir, path, flags, mode);
}

EXPORT int close(int fd) {
    forget_fd(fd);
    return REAL(close)(fd);
}
EXPORT int closedir(DIR *d) {
    forget_fd(dirfd(d));
    return REAL(closedir)(d);
}
EXPORT int fclose(FILE *f) {
    forget_fd(fileno(f));
    return REAL(fclose)(f);
}

EXPORT ssize_t write(int fd, const void *data, size_t n) {
    if (is_our_fd(fd) && n > 0 && (n = room_for(n)) == 0) return no_space();
    return REAL(write)(fd, data, n);
}
EXPORT ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    if (is_our_fd(fd) && n > 0 && (n = room_for(n)) == 0) return no_space();
    return REAL(pwrite)(fd, data, n, at);
}
EXPORT ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
    return pwrite(fd, data, n, at);
}
EXPORT int ftruncate(int fd, off_t size) {
    struct stat st;
    if (is_our_fd(fd) && is_full() && fstat(fd, &st) == 0 && size > st.st_size) return no_space();
    return REAL(ftruncate)(fd, size);
}
EXPORT int ftruncate64(int fd, off64_t size) {
    return ftruncate(fd, size);
}
EXPORT int fallocate(int fd, int how, off_t at, off_t n) {
    return is_our_fd(fd) && is_full() ? no_space() : REAL(fallocate)(fd, how, at, n);
}
EXPORT int fallocate64(int fd, int how, off64_t at, off64_t n) {
    return fallocate(fd, how, at, n);
}
EXPORT int posix_fallocate(int fd, off_t at, off_t n) {
    return is_our_fd(fd) && is_full() ? ENOSPC : REAL(posix_fallocate)(fd, at, n);
}
EXPORT int fsetxattr(int fd, const char *name, const void *value, size_t n, int flags) {
    return is_our_fd(fd) && is_full() ? no_space() : REAL(fsetxattr)(fd, name, value, n, flags);
}

EXPORT int fsync(int fd) {
    return is_our_fd(fd) ? sync_shadow(fd) : REAL(fsync)(fd);
}
EXPORT int fdatasync(int fd) {
    return is_our_fd(fd) ? sync_shadow(fd) : REAL(fdatasync)(fd);
}

EXPORT int mkdirat(int dir, const char *path, mode_t mode) {
    if (is_full() && is_ours(dir, path)) return no_space();
    int rc = REAL(mkdirat)(dir, path, mode);
    if (!rc && is_ours(dir, path)) mark_made(dir, path);
    return rc;
}
EXPORT int mkdir(const char *path, mode_t mode) {
    return mkdirat(AT_FDCWD, path, mode);
}
EXPORT int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags) {
    return is_full() && is_ours(to_dir, to) ? no_space() : REAL(linkat)(from_dir, from, to_dir, to, flags);
}
EXPORT int link(const char *from, const char *to) {
    return linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}
EXPORT int unlinkat(int dir, const char *path, int flags) {
    if (!(flags & AT_REMOVEDIR)) keep(dir, path);
    return REAL(unlinkat)(dir, path, flags);
}
EXPORT int unlink(const char *path) {
    return unlinkat(AT_FDCWD, path, 0);
}
EXPORT int rename(const char *from, const char *to) {
    return move(AT_FDCWD, from, AT_FDCWD, to, 0);
}
EXPORT int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    return move(from_dir, from, to_dir, to, 0);
}
EXPORT int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    return move(from_dir, from, to_dir, to, flags);
}
