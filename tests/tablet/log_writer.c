#include "log_writer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/sys.h"

enum { BLOCK = 4096, HEADER = 7, FULL = 1, FIRST = 2, MIDDLE = 3, LAST = 4, END_OF_FILE = 5 };
#define MAX_FILE ((size_t)8 << 30)

uint64_t tablet_clock_ms(const tablet_clock_t *clock) {
    uint64_t now = osync__wall_ms();
    return clock->speed ? clock->virtual + (now - clock->real) * clock->speed : now;
}

int tablet_clock_stamp(const tablet_clock_t *clock, const char *path, osync_error_t *err) {
    uint64_t ms = clock ? tablet_clock_ms(clock) : 0;
    struct timespec now = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
    if (!clock || !clock->speed || utimensat(AT_FDCWD, path, (struct timespec[]){now, now}, 0) == 0) return 0;
    return osync__err_errno(err, errno, "can't set the time of %s", path);
}

static int path_of(const log_writer_t *w, uint32_t number, char *out, size_t size, osync_error_t *err) {
    int n = snprintf(out, size, "%s/%08u.log", w->dir, number);
    return n > 0 && (size_t)n < size ? 0 : osync__err(err, OSYNC_EINVAL, "the path %s is too long", w->dir);
}

static int add_file(log_writer_t *w, uint32_t number, osync_error_t *err) {
    log_file_t *files = realloc(w->files, (w->n_files + 1) * sizeof *files);
    if (!files) return osync__err(err, OSYNC_ENOMEM, "out of memory");
    w->files = files;
    files[w->n_files++] = (log_file_t){.number = number};
    return 0;
}

static uint32_t masked_crc(uint8_t type, const void *data, size_t len) {
    uint32_t crc = osync__crc32c(osync__crc32c(0, &type, 1), data, len);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

/* One physical record, behind as many zeros as the block's end needs. */
static int add_physical(osync__buf_t *out, uint64_t at, uint8_t type, const void *data, size_t len) {
    static const uint8_t zeros[HEADER];
    size_t left = BLOCK - (size_t)(at % BLOCK);
    int rc = left < HEADER ? osync__buf_append(out, zeros, left) : 0;
    uint8_t header[HEADER];
    osync__put_u32le(header, masked_crc(type, data, len));
    header[4] = (uint8_t)len;
    header[5] = (uint8_t)(len >> 8);
    header[6] = type;
    if (rc == 0) rc = osync__buf_append(out, header, sizeof header);
    if (rc == 0 && len) rc = osync__buf_append(out, data, len);
    return rc;
}

static int add_record(log_writer_t *w, const uint8_t *data, size_t len) {
    bool begin = true;
    int rc;
    do {
        uint64_t at = w->size + w->pending.len;
        size_t left = BLOCK - (size_t)(at % BLOCK);
        if (left < HEADER) left = BLOCK;
        size_t part = len < left - HEADER ? len : left - HEADER;
        bool end = part == len;
        rc = add_physical(&w->pending, at, begin && end ? FULL : begin ? FIRST : end ? LAST : MIDDLE, data, part);
        data += part;
        len -= part;
        begin = false;
    } while (rc == 0 && len > 0);
    return rc;
}

static int write_all(int fd, const uint8_t *data, size_t len, uint64_t at) {
    while (len > 0) {
        ssize_t n = pwrite(fd, data, len, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return -1;
        data += n;
        len -= (size_t)n;
        at += (uint64_t)n;
    }
    return 0;
}

int log_writer_flush(log_writer_t *w, osync_error_t *err) {
    if (w->pending.len == 0) return 0;
    if (write_all(w->fd, w->pending.data, w->pending.len, w->size))
        return osync__err_errno(err, errno, "can't write the binlog in %s", w->dir);
    w->size += w->pending.len;
    w->pending.len = 0;
    return 0;
}

int log_writer_roll(log_writer_t *w, osync_error_t *err) {
    char path[4096];
    int rc;
    if (w->fd >= 0) {
        rc = add_physical(&w->pending, w->size + w->pending.len, END_OF_FILE, NULL, 0);
        if (rc == 0) rc = log_writer_flush(w, err);
        if (rc) return rc;
        close(w->fd);
        w->fd = -1;
        rc = path_of(w, w->files[w->n_files - 1].number, path, sizeof path, err);
        if (rc == 0) rc = tablet_clock_stamp(w->clock, path, err);
        if (rc) return rc;
    }
    uint32_t number = w->n_files ? w->files[w->n_files - 1].number + 1 : 0;
    rc = path_of(w, number, path, sizeof path, err);
    if (rc) return rc;
    w->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (w->fd < 0) return osync__err_errno(err, errno, "can't make %s", path);
    w->size = 0;
    return add_file(w, number, err);
}

int log_writer_append(log_writer_t *w, uint64_t log_index, const void *payload, size_t len, osync_error_t *err) {
    if (w->fd < 0 || w->size + w->pending.len > w->max_bytes) {
        int rc = log_writer_roll(w, err);
        if (rc) return rc;
    }
    log_file_t *file = &w->files[w->n_files - 1];
    if (!file->first) file->first = log_index;
    int rc = add_record(w, payload, len);
    return rc ? osync__err(err, rc, "out of memory") : 0;
}

int log_writer_purge(log_writer_t *w, uint64_t offset, osync_error_t *err) {
    char path[4096];
    size_t holds = 0, gone = 0;
    for (size_t i = 0; i < w->n_files; i++)
        if (w->files[i].first && w->files[i].first <= offset) holds = i;
    if (w->n_files == 0) return 0;
    uint32_t number = w->files[holds].number;
    while (gone < w->n_files && w->files[gone].number + 1 < number) {
        int rc = path_of(w, w->files[gone].number, path, sizeof path, err);
        if (rc) return rc;
        if (unlink(path) && errno != ENOENT) return osync__err_errno(err, errno, "can't remove %s", path);
        gone++;
    }
    w->n_files -= gone;
    memmove(w->files, w->files + gone, w->n_files * sizeof *w->files);
    return 0;
}

/* Who gets entries, and which: until `most` bytes from entry `from` on were given. */
typedef struct taker {
    uint64_t (*entry)(void *arg, const void *payload, size_t len);
    void *arg;
    uint64_t from, last; /* last: given */
    size_t most, given;
} taker_t;

/* Gives each complete entry of a file's bytes, which begin with a block and are looked at from *end on. *end: behind
 * the last of them; *closed: an EOF record follows. */
static int read_entries(const uint8_t *data, size_t len, taker_t *taker, log_file_t *file, size_t *end, bool *closed,
                        osync_error_t *err) {
    osync__buf_t whole = {0};
    bool inside = false;
    size_t at = *end;
    int rc = 0;
    *closed = false;
    while (rc == 0 && taker->given < taker->most) {
        size_t left = BLOCK - at % BLOCK;
        if (left < HEADER) at += left;
        if (at + HEADER > len) break;
        size_t size = osync__get_u16le(data + at + 4);
        uint8_t type = data[at + 6];
        const uint8_t *payload = data + at + HEADER;
        if (size > BLOCK - HEADER || at + HEADER + size > len) break;
        if (osync__get_u32le(data + at) != masked_crc(type, payload, size))
            break; /* a torn tail that was never ended */
        at += HEADER + size;
        if (type == END_OF_FILE) {
            *closed = true;
            break;
        }
        if (type == FULL || type == FIRST) whole.len = 0;
        if (type != FULL && type != FIRST && !inside) break;
        inside = type == FIRST || type == MIDDLE;
        rc = osync__buf_append(&whole, payload, size);
        if (rc == 0 && !inside) {
            uint64_t index = taker->entry(taker->arg, whole.data, whole.len);
            if (index == 0)
                rc = osync__err(err, OSYNC_ECORRUPT, "binlog file %u: a bad entry before byte %zu", file->number, at);
            if (!file->first) file->first = index;
            *end = at;
            taker->last = index;
            if (index >= taker->from) taker->given += whole.len;
        }
    }
    osync__buf_free(&whole);
    return rc;
}

static int by_number(const void *a, const void *b) {
    uint32_t x = ((const log_file_t *)a)->number, y = ((const log_file_t *)b)->number;
    return x < y ? -1 : x > y;
}

static int list_files(log_writer_t *w, osync_error_t *err) {
    DIR *dir = opendir(w->dir);
    if (!dir) return osync__err_errno(err, errno, "can't open %s", w->dir);
    int rc = 0;
    for (struct dirent *e; rc == 0 && (e = readdir(dir));) {
        char *rest;
        unsigned long number = strtoul(e->d_name, &rest, 10);
        if (rest == e->d_name + 8 && !strcmp(rest, ".log")) rc = add_file(w, (uint32_t)number, err);
    }
    closedir(dir);
    if (w->n_files) qsort(w->files, w->n_files, sizeof *w->files, by_number);
    return rc;
}

int log_writer_open(log_writer_t *w, const char *dir, uint64_t max_bytes,
                    uint64_t (*entry)(void *arg, const void *payload, size_t len), void *arg, osync_error_t *err) {
    osync__buf_t bytes = {0}, tail = {0};
    taker_t taker = {.entry = entry, .arg = arg, .most = SIZE_MAX};
    char path[4096];
    *w = (log_writer_t){.fd = -1, .max_bytes = max_bytes, .dir = strdup(dir)};
    if (!w->dir) return osync__err(err, OSYNC_ENOMEM, "out of memory");
    int rc = list_files(w, err);
    for (size_t i = 0; rc == 0 && i < w->n_files; i++) {
        size_t end = 0;
        bool closed = false;
        osync__buf_free(&bytes);
        rc = path_of(w, w->files[i].number, path, sizeof path, err);
        if (rc == 0) rc = osync__read_file(path, MAX_FILE, &bytes, err);
        if (rc == 0) rc = read_entries(bytes.data, bytes.len, &taker, &w->files[i], &end, &closed, err);
        if (rc || closed || i + 1 < w->n_files) continue;
        rc = add_physical(&tail, end, END_OF_FILE, NULL, 0);
        int fd = rc ? -1 : open(path, O_WRONLY | O_CLOEXEC);
        if (rc == 0 && (fd < 0 || write_all(fd, tail.data, tail.len, end)))
            rc = osync__err_errno(err, errno, "can't end %s", path);
        if (fd >= 0) close(fd);
    }
    osync__buf_free(&bytes);
    osync__buf_free(&tail);
    return rc;
}

int log_writer_set_clock(log_writer_t *w, const tablet_clock_t *clock, osync_error_t *err) {
    char path[4096];
    w->clock = clock;
    if (w->n_files == 0) return 0;
    int rc = path_of(w, w->files[w->n_files - 1].number, path, sizeof path, err);
    return rc ? rc : tablet_clock_stamp(clock, path, err);
}

/* The bytes of a file from the block on that holds `at`. */
static int read_tail(const log_writer_t *w, uint32_t number, size_t at, osync__buf_t *out, osync_error_t *err) {
    char path[4096];
    struct stat st;
    ssize_t n = 0;
    out->len = 0;
    int rc = path_of(w, number, path, sizeof path, err);
    if (rc) return rc;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) {
        rc = osync__err_errno(err, errno, "can't open %s", path);
        goto done;
    }
    at -= at % BLOCK;
    size_t size = (size_t)st.st_size > at ? (size_t)st.st_size - at : 0;
    rc = osync__buf_reserve(out, size + 1);
    while (rc == 0 && out->len < size && (n = pread(fd, out->data + out->len, size - out->len, (off_t)(at + out->len))))
        if (n > 0)
            out->len += (size_t)n;
        else if (errno != EINTR)
            rc = osync__err_errno(err, errno, "can't read %s", path);
done:
    if (fd >= 0) close(fd);
    return rc;
}

int log_writer_read(log_writer_t *w, log_cursor_t *cursor, uint64_t from, size_t most,
                    uint64_t (*entry)(void *arg, const void *payload, size_t len), void *arg, osync_error_t *err) {
    osync__buf_t bytes = {0};
    taker_t taker = {.entry = entry, .arg = arg, .from = from, .most = most};
    size_t i = w->n_files;
    int rc = 0;
    if (cursor->next == from)
        for (i = 0; i < w->n_files && w->files[i].number != cursor->number;) i++;
    if (i == w->n_files) {
        *cursor = (log_cursor_t){.next = from};
        for (size_t f = 0; f < w->n_files; f++)
            if (w->files[f].first && w->files[f].first <= from) i = f;
    }
    if (i == w->n_files) return osync__err(err, OSYNC_EGAP, "the log has no entry %llu", (unsigned long long)from);
    for (; rc == 0 && !taker.given && i < w->n_files; i++) {
        size_t block, end;
        bool closed = false;
        if (w->files[i].number != cursor->number) cursor->at = 0;
        cursor->number = w->files[i].number;
        block = cursor->at - cursor->at % BLOCK;
        end = cursor->at - block;
        rc = read_tail(w, cursor->number, cursor->at, &bytes, err);
        if (rc == 0) rc = read_entries(bytes.data, bytes.len, &taker, &w->files[i], &end, &closed, err);
        cursor->at = block + end;
    }
    if (taker.last >= from) cursor->next = taker.last + 1;
    osync__buf_free(&bytes);
    return rc;
}

void log_writer_close(log_writer_t *w) {
    if (w->fd >= 0) close(w->fd);
    osync__buf_free(&w->pending);
    free(w->files);
    free(w->dir);
}
