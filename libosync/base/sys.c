#include "base/sys.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <isa-l/crc.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/error.h"
#include "base/failpoint.h"

static uint64_t clock_ms(clockid_t id) {
    struct timespec ts;
    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

uint64_t osync__wall_ms(void) {
    return clock_ms(CLOCK_REALTIME);
}

uint64_t osync__mono_ms(void) {
    return clock_ms(CLOCK_MONOTONIC);
}

static void random_bytes(uint8_t *out, size_t len) {
    while (len > 0) {
        ssize_t n = getrandom(out, len, 0);
        if (n > 0) {
            out += n;
            len -= (size_t)n;
        }
    }
}

void osync__random_hex(char *out, size_t bytes) {
    static const char digits[] = "0123456789abcdef";
    const uint8_t *from = (const uint8_t *)out + bytes; /* the second half: never behind what is written */
    random_bytes((uint8_t *)out + bytes, bytes);
    for (size_t i = 0; i < bytes; i++) {
        uint8_t b = from[i];
        *out++ = digits[b >> 4];
        *out++ = digits[b & 15];
    }
    *out = 0;
}

bool osync__is_id(const char *s) {
    return s && strlen(s) == OSYNC__ID_SIZE - 1 && strspn(s, "0123456789abcdef") == OSYNC__ID_SIZE - 1;
}

void osync__random_uuid(char out[37]) {
    uint8_t b[16];
    random_bytes(b, sizeof b);
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40); /* RFC 4122 version 4 */
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    (void)snprintf(out, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2],
                   b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

/* isa-l leaves the upper halves of the vector registers in use, with which all SSE code that runs afterwards is slow:
 * RocksDB's checksums take four times as long. */
#if defined(__x86_64__)
__attribute__((target("avx"))) static void clear_upper_halves(void) {
    _mm256_zeroupper();
}
#endif

uint32_t osync__crc32c(uint32_t crc, const void *data, size_t len) {
    const uint8_t *p = data;
    uint32_t state = ~crc;
    while (len > 0) { /* isa-l counts in int, and takes the buffer as not const */
        int n = len > 1 << 30 ? 1 << 30 : (int)len;
        state = crc32_iscsi((unsigned char *)(uintptr_t)p, n, state);
        p += n;
        len -= (size_t)n;
    }
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx")) clear_upper_halves();
#endif
    return ~state;
}

int osync__read_file(const char *path, size_t limit, osync__buf_t *out, osync_error_t *err) {
    int rc = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return osync__err_errno(err, errno, "open %s", path);
    for (;;) {
        rc = osync__buf_reserve(out, 64 * 1024);
        if (rc) {
            rc = osync__err(err, rc, "read %s: out of memory", path);
            break;
        }
        ssize_t n = read(fd, out->data + out->len, out->cap - out->len - 1);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            rc = osync__err_errno(err, errno, "read %s", path);
            break;
        }
        if (n == 0) {
            out->data[out->len] = 0;
            break;
        }
        out->len += (size_t)n;
        if (out->len > limit) {
            rc = osync__err(err, OSYNC_ETOOBIG, "%s is larger than the limit of %zu bytes", path, limit);
            break;
        }
    }
    close(fd);
    return rc;
}

static int dir_of(const char *path, char *dir, size_t size) {
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    if (n >= size) return -1;
    if (!slash) {
        (void)snprintf(dir, size, ".");
    } else {
        memcpy(dir, path, n);
        dir[n] = 0;
        if (n == 0) (void)snprintf(dir, size, "/");
    }
    return 0;
}

int osync__fsync_dir(const char *path, osync_error_t *err) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return osync__err_errno(err, errno, "open %s", path);
    int rc = fsync(fd) ? osync__err_errno(err, errno, "fsync %s", path) : 0;
    close(fd);
    return rc;
}

int osync__write_file(const char *path, const void *data, size_t len, osync_error_t *err) {
    char tmp[4096], dir[4096];
    if ((size_t)snprintf(tmp, sizeof tmp, "%s.tmp", path) >= sizeof tmp || dir_of(path, dir, sizeof dir))
        return osync__err(err, OSYNC_ETOOBIG, "path is too long: %s", path);
    OSYNC__BEFORE(file_write);
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) return osync__err_errno(err, errno, "create %s", tmp);
    const uint8_t *p = data;
    int rc = 0;
    while (len > 0 && !rc) {
        ssize_t n = write(fd, p, len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            rc = osync__err_errno(err, errno, "write %s", tmp);
        } else {
            p += n;
            len -= (size_t)n;
        }
    }
    OSYNC__AFTER(file_write);
    OSYNC__BEFORE(file_fsync);
    if (!rc && fsync(fd)) rc = osync__err_errno(err, errno, "fsync %s", tmp);
    OSYNC__AFTER(file_fsync);
    if (close(fd) && !rc) rc = osync__err_errno(err, errno, "close %s", tmp);
    OSYNC__BEFORE(file_rename);
    if (!rc && rename(tmp, path)) rc = osync__err_errno(err, errno, "rename %s to %s", tmp, path);
    OSYNC__AFTER(file_rename);
    if (rc) {
        (void)unlink(tmp);
        return rc;
    }
    OSYNC__BEFORE(file_dirsync);
    rc = osync__fsync_dir(dir, err);
    OSYNC__AFTER(file_dirsync);
    return rc;
}

int osync__mkdirs(const char *path, osync_error_t *err) {
    char p[4096];
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof p) return osync__err(err, OSYNC_EINVAL, "bad path: %s", path);
    memcpy(p, path, n + 1);
    /* Mostly all of it is there, or all but the last. */
    if (mkdir(path, 0755) == 0) return 0;
    for (size_t i = errno == ENOENT ? 1 : n; i <= n; i++) {
        if (p[i] != '/' && p[i] != 0) continue;
        char c = p[i];
        p[i] = 0;
        if (mkdir(p, 0755) && errno != EEXIST) return osync__err_errno(err, errno, "mkdir %s", p);
        p[i] = c;
    }
    struct stat st;
    if (stat(path, &st)) return osync__err_errno(err, errno, "stat %s", path);
    if (!S_ISDIR(st.st_mode)) return osync__err(err, OSYNC_EEXIST, "%s is not a folder", path);
    return 0;
}

static int rmtree_at(int parent, const char *name, const char *shown, osync_error_t *err) {
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT) return 0;
    if (errno != EISDIR && errno != EPERM) return osync__err_errno(err, errno, "remove %s/%s", shown, name);
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT ? 0 : osync__err_errno(err, errno, "open %s/%s", shown, name);
    DIR *d = fdopendir(fd);
    if (!d) {
        int e = errno;
        close(fd);
        return osync__err_errno(err, e, "open %s/%s", shown, name);
    }
    int rc = 0;
    struct dirent *e;
    while (!rc && (e = readdir(d)))
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) rc = rmtree_at(fd, e->d_name, name, err);
    closedir(d);
    if (!rc && unlinkat(parent, name, AT_REMOVEDIR) && errno != ENOENT)
        rc = osync__err_errno(err, errno, "remove %s/%s", shown, name);
    return rc;
}

int osync__rmtree(const char *path, osync_error_t *err) {
    return rmtree_at(AT_FDCWD, path, ".", err);
}
