/* The binlog of one partition: LevelDB's log format with blocks of 4096 bytes, an end-of-file record, and a LogEntry in
 * each record.
 *
 * It finds and checks entries; what an entry means (put, delete, dimensions) is its reader's business. */
#include "format/binlog.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/sys.h"
#include "format/skim.h"

enum { BLOCK = 4096, HEADER = 7 };
enum {
    GROWTH = 4,   /* of a read's size, after one that was given whole */
    SHORT = 1024, /* payloads below are so short that their second checksum is dear beside the first */
};
enum { TYPE_FULL = 1, TYPE_FIRST, TYPE_MIDDLE, TYPE_LAST, TYPE_END };
/* What a cursor answers at the end-of-file record; OSYNC_EOF is a file that may go on. */
enum { END_OF_FILE = 1 };

/* How much is read at once: in passing through the log, when its end is looked for, and for a file's first entry. In
 * passing it begins with little, so that who follows the end of many logs needs little memory. */
#define READ_SIZE (256u << 10)
#define TAIL_SIZE (256u << 10)
#define PEEK_SIZE (4u * BLOCK)
/* An assembled entry larger than this gives its memory back before the next one. */
#define KEEP_SIZE (4u << 20)

/* One open file and a place in it. */
typedef struct cursor {
    bool open;
    int fd;
    uint32_t number;
    char *path;
    uint64_t pos;  /* where the next record (or the rest of a block before it) begins */
    uint64_t next; /* behind the record that was read last */
    bool resync;   /* it began in the middle: fragments before the first beginning of a record are passed over */
    osync__skim_t file;
    uint8_t *buf; /* NULL: not needed at the moment */
    size_t size;  /* of buf, and of the next read */
    size_t most;  /* what the size grows to while whole reads are given */
    size_t len;
    uint64_t buf_at;
    osync__buf_t assembled; /* of an entry in several fragments */
    uint32_t crc;           /* of the record's type and payload, if it is in one fragment */
    bool one_fragment;
} cursor_t;

struct osync__binlog {
    char *dir;
    osync__log_file_t *files;
    ino_t *inodes; /* of the files, same order */
    size_t n_files;
    cursor_t cursor;
    uint64_t wanted;    /* entries below are passed over */
    uint64_t expected;  /* index of the next entry; 0: whatever comes */
    uint32_t last_file; /* of the entry before it */
    /* By a payload's length: what its type byte in front of it changes in the checksum; 0: not known yet. */
    uint32_t type_crc[SHORT];
};

/* ---- a cursor ---- */

static void cursor_close(cursor_t *c) {
    if (c->open) {
        osync__skim_end(&c->file);
        close(c->fd);
    }
    osync__free(c->path);
    osync__free(c->buf);
    osync__buf_free(&c->assembled);
    *c = (cursor_t){0};
}

static int cursor_open(cursor_t *c, const char *path, uint32_t number, size_t read_size, osync_error_t *err) {
    struct stat st;
    int rc = 0;
    cursor_close(c);
    c->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (c->fd < 0) return osync__err_errno(err, errno, "open binlog file %s", path);
    c->open = true;
    osync__skim_begin(&c->file, c->fd);
    c->number = number;
    c->size = read_size < PEEK_SIZE ? read_size : PEEK_SIZE;
    c->most = read_size;
    c->path = osync__strdup(path);
    if (!c->path)
        rc = osync__err(err, OSYNC_ENOMEM, "open binlog file %s: out of memory", path);
    else if (fstat(c->fd, &st))
        rc = osync__err_errno(err, errno, "stat binlog file %s", path);
    else if (!S_ISREG(st.st_mode))
        rc = osync__err(err, OSYNC_EINVAL, "binlog file %s is not a regular file", path);
    if (rc) cursor_close(c);
    return rc;
}

static int cursor_size(const cursor_t *c, uint64_t *size, osync_error_t *err) {
    struct stat st;
    if (fstat(c->fd, &st)) return osync__err_errno(err, errno, "stat binlog file %s", c->path);
    *size = (uint64_t)st.st_size;
    return 0;
}

/* Fills the buffer from the block of `at` on. */
static int fill(cursor_t *c, uint64_t at, osync_error_t *err) {
    if (c->buf && c->len == c->size && c->size < c->most && at == c->buf_at + c->len) {
        osync__free(c->buf);
        c->buf = NULL;
        c->size = c->size * GROWTH < c->most ? c->size * GROWTH : c->most;
    }
    c->buf_at = at - at % BLOCK;
    c->len = 0;
    if (!c->buf) c->buf = osync__malloc(c->size);
    if (!c->buf) return osync__err(err, OSYNC_ENOMEM, "read binlog file %s: out of memory", c->path);
    int failed = osync__skim_read(&c->file, c->buf_at, c->buf, c->size, &c->len);
    if (failed)
        return osync__err_errno(err, -failed, "read binlog file %s at offset %" PRIu64, c->path, c->buf_at + c->len);
    return 0;
}

/* What is in the buffer may be old, and the memory isn't needed until something new is there. */
static void forget(cursor_t *c) {
    osync__skim_end(&c->file);
    osync__free(c->buf);
    c->buf = NULL;
    c->len = 0;
    c->size = c->most < PEEK_SIZE ? c->most : PEEK_SIZE;
}

/* The bytes of the file from `at` on: *avail says how many there are, `want` (within one block) or fewer at the file's
 * end. */
static inline int look(cursor_t *c, uint64_t at, size_t want, const uint8_t **bytes, size_t *avail,
                       osync_error_t *err) {
    if (at < c->buf_at || at + want > c->buf_at + c->len) {
        int rc = fill(c, at, err);
        if (rc) return rc;
    }
    size_t skip = (size_t)(at - c->buf_at);
    *avail = c->len <= skip ? 0 : c->len - skip < want ? c->len - skip : want;
    *bytes = c->buf + skip;
    return 0;
}

static bool all_zero(const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (p[i]) return false;
    return true;
}

static int corrupt(const cursor_t *c, uint64_t at, osync_error_t *err, const char *what) {
    return osync__err(err, OSYNC_ECORRUPT, "binlog file %s, offset %" PRIu64 ": %s", c->path, at, what);
}

/* A header of zeros is the end of what was written if nothing but zeros follows (a file system may lengthen a file
 * before its data reach the disk), else a hole. */
static int zeros_follow(cursor_t *c, uint64_t at, osync_error_t *err) {
    c->len = 0;
    for (uint64_t p = at;; p = c->buf_at + c->len) {
        int rc = fill(c, p, err);
        if (rc) return rc;
        size_t skip = (size_t)(p - c->buf_at);
        if (c->len > skip && !all_zero(c->buf + skip, c->len - skip))
            return corrupt(c, at, err, "zeros stand where a record should begin, and data follow");
        if (c->len < c->size) return OSYNC_EOF;
    }
}

static uint32_t masked(uint32_t crc) {
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

uint32_t osync__log_crc(const uint8_t *typed, size_t len) {
    return masked(osync__crc32c(0, typed, len));
}

bool osync__log_record_scan(osync__log_record_t *record) {
    if (!osync__log_entry_scan(&record->entry, record->payload, record->len)) return false;
    record->term = record->entry.term;
    record->log_index = record->entry.log_index;
    return true;
}

/* Reads the record at c->pos, and leaves the place as it is (but for what is passed over when resynchronising). */
static int read_record(cursor_t *c, osync__log_record_t *record, osync_error_t *err) {
    uint64_t pos = c->pos, begin = c->pos;
    bool inside = false;
    if (c->assembled.cap > KEEP_SIZE) osync__buf_free(&c->assembled);
    c->assembled.len = 0;
    for (;;) {
        const uint8_t *p;
        size_t avail, left = BLOCK - (size_t)(pos % BLOCK);
        int rc;
        if (left < HEADER) { /* too little for a header: filled with zeros */
            rc = look(c, pos, left, &p, &avail, err);
            if (rc) return rc;
            if (!all_zero(p, avail)) return corrupt(c, pos, err, "the unused end of a block isn't filled with zeros");
            if (avail < left) return OSYNC_EOF;
            pos += left;
            if (!inside) begin = pos;
            continue;
        }
        rc = look(c, pos, HEADER, &p, &avail, err);
        if (rc) return rc;
        if (avail < HEADER) return OSYNC_EOF;
        if (all_zero(p, HEADER)) return zeros_follow(c, pos, err);
        size_t len = osync__get_u16le(p + 4);
        unsigned type = p[6];
        if (type < TYPE_FULL || type > TYPE_END) return corrupt(c, pos, err, "the record has an unknown type");
        if (len > left - HEADER) return corrupt(c, pos, err, "the record's length reaches beyond its block");
        if (type == TYPE_END && len > 0) return corrupt(c, pos, err, "the end-of-file record has a length");
        rc = look(c, pos, HEADER + len, &p, &avail, err);
        if (rc) return rc;
        if (avail < HEADER + len) return OSYNC_EOF;
        uint32_t crc = osync__crc32c(0, p + HEADER - 1, len + 1);
        if (osync__get_u32le(p) != masked(crc)) return corrupt(c, pos, err, "the record's checksum is wrong");
        if (type == TYPE_END && !inside) return END_OF_FILE;
        bool begins = type == TYPE_FULL || type == TYPE_FIRST;
        if (!begins && !inside && c->resync) {
            pos += HEADER + len;
            c->pos = begin = pos;
            continue;
        }
        if (begins == inside || type == TYPE_END) return corrupt(c, pos, err, "a fragment of a record is out of order");
        if (type != TYPE_FULL) {
            if (c->assembled.len + len > OSYNC__BINLOG_MAX_ENTRY)
                return osync__err(err, OSYNC_ETOOBIG,
                                  "binlog file %s, offset %" PRIu64 ": the entry is larger than the limit of %u bytes",
                                  c->path, begin, OSYNC__BINLOG_MAX_ENTRY);
            if (osync__buf_append(&c->assembled, p + HEADER, len))
                return osync__err(err, OSYNC_ENOMEM, "read binlog file %s: out of memory", c->path);
        }
        pos += HEADER + len;
        if (type == TYPE_FIRST || type == TYPE_MIDDLE) {
            inside = true;
            continue;
        }
        c->one_fragment = type == TYPE_FULL;
        c->crc = crc;
        record->payload = c->one_fragment ? p + HEADER : c->assembled.data;
        record->len = c->one_fragment ? len : c->assembled.len;
        record->file = c->number;
        record->at = begin;
        if (!osync__log_record_scan(record)) return corrupt(c, begin, err, "the record isn't a LogEntry");
        if (record->log_index == 0) return corrupt(c, begin, err, "the LogEntry has no log_index");
        c->next = pos;
        c->resync = false;
        return 0;
    }
}

/* The record at the cursor's place: 0, END_OF_FILE, OSYNC_EOF (nothing complete there yet), or an error. */
static int cursor_read(cursor_t *c, osync__log_record_t *record, osync_error_t *err) {
    int rc = read_record(c, record, err);
    if (rc == OSYNC_ECORRUPT) { /* a tablet that starts again writes over a torn end: only what a second look confirms
                                   is corrupt */
        forget(c);
        rc = read_record(c, record, err);
    }
    if (rc == OSYNC_EOF) {
        uint64_t size = 0;
        forget(c); /* the next look has to go to the file */
        int failed = cursor_size(c, &size, err);
        if (failed) return failed;
        if (size < c->pos) return corrupt(c, c->pos, err, "the file has become shorter than what was read of it");
    }
    return rc;
}

/* Places the cursor on the first record that begins in the last `span` bytes, or further before the end if none begins
 * there. OSYNC_EOF or END_OF_FILE: the file holds no record. */
static int cursor_near_end(cursor_t *c, uint64_t span, osync_error_t *err) {
    osync__log_record_t record;
    uint64_t size = 0;
    int rc = cursor_size(c, &size, err);
    if (rc) return rc;
    for (;;) {
        uint64_t start = span >= size ? 0 : size - span;
        start += (BLOCK - start % BLOCK) % BLOCK; /* only a block's beginning is sure to be a header */
        c->pos = start;
        c->resync = start > 0;
        rc = cursor_read(c, &record, err);
        if (rc == 0) c->pos = record.at;
        /* What stands behind an end-of-file record may be anything, so that even a bad record is only a reason to go
         * further back. */
        if (start == 0 || (rc != OSYNC_EOF && rc != END_OF_FILE && rc != OSYNC_ECORRUPT)) return rc;
        span = span < BLOCK ? BLOCK : span > UINT64_MAX / 2 ? UINT64_MAX : span * 2;
    }
}

/* ---- the folder ---- */

/* "00000012.log": digits of any number, and nothing else. */
static bool number_of(const char *name, uint32_t *number) {
    uint64_t n = 0;
    const char *p = name;
    for (; *p >= '0' && *p <= '9'; p++) {
        n = n * 10 + (uint64_t)(*p - '0');
        if (n > UINT32_MAX) return false;
    }
    *number = (uint32_t)n;
    return p > name && strcmp(p, ".log") == 0;
}

/* Fills in the first entry of a file. *gone: there is no such file any more, or it is no file. */
static int peek(osync__log_file_t *file, bool *gone, osync_error_t *err) {
    cursor_t c = {0};
    osync__log_record_t record;
    int rc = cursor_open(&c, file->path, file->number, PEEK_SIZE, err);
    *gone = rc == OSYNC_ENOENT || rc == OSYNC_EINVAL;
    if (*gone) return 0;
    if (rc) return rc;
    rc = cursor_read(&c, &record, err);
    file->has_entry = rc == 0;
    file->first = rc == 0 ? record.log_index : 0;
    file->term = rc == 0 ? record.term : 0;
    cursor_close(&c);
    return rc == END_OF_FILE || rc == OSYNC_EOF ? 0 : rc;
}

typedef struct listed {
    osync__log_file_t file;
    ino_t inode;
} listed_t;

static int by_number(const void *a, const void *b) {
    uint32_t x = ((const listed_t *)a)->file.number, y = ((const listed_t *)b)->file.number;
    return x < y ? -1 : x > y;
}

static const osync__log_file_t *file_by_number(const osync__binlog_t *log, uint32_t number, size_t *at) {
    for (size_t i = 0; i < log->n_files; i++) {
        if (log->files[i].number != number) continue;
        if (at) *at = i;
        return &log->files[i];
    }
    return NULL;
}

static int list_folder(const osync__binlog_t *log, listed_t **out, size_t *count, osync_error_t *err) {
    listed_t *list = NULL;
    size_t n = 0, cap = 0;
    int rc = 0;
    DIR *d = opendir(log->dir);
    if (!d && errno != ENOENT) return osync__err_errno(err, errno, "list binlog folder %s", log->dir);
    while (d) {
        errno = 0;
        struct dirent *e = readdir(d);
        if (!e && errno) rc = osync__err_errno(err, errno, "list binlog folder %s", log->dir);
        if (!e) break;
        uint32_t number;
        if (!number_of(e->d_name, &number)) continue;
        if (n == cap) {
            size_t more = cap ? cap * 2 : 16;
            listed_t *p = osync__reallocarray(list, more, sizeof *list);
            if (!p) {
                rc = osync__err(err, OSYNC_ENOMEM, "list binlog folder %s: out of memory", log->dir);
                break;
            }
            list = p;
            cap = more;
        }
        osync__log_file_t *f = &list[n].file;
        *f = (osync__log_file_t){.number = number};
        int len = snprintf(f->path, sizeof f->path, "%s/%s", log->dir, e->d_name);
        if (len < 0 || (size_t)len >= sizeof f->path) {
            rc = osync__err(err, OSYNC_ETOOBIG, "the path of binlog file %s/%s is too long", log->dir, e->d_name);
            break;
        }
        list[n++].inode = e->d_ino;
    }
    if (d) closedir(d);
    if (!rc && n > 0) qsort(list, n, sizeof *list, by_number);
    for (size_t i = 1; !rc && i < n; i++)
        if (list[i].file.number == list[i - 1].file.number)
            rc = osync__err(err, OSYNC_ECORRUPT, "binlog files %s and %s have the same number", list[i - 1].file.path,
                            list[i].file.path);
    if (rc) {
        osync__free(list);
        return rc;
    }
    *out = list;
    *count = n;
    return 0;
}

int osync__binlog_refresh(osync__binlog_t *log, osync_error_t *err) {
    listed_t *list = NULL;
    osync__log_file_t *files = NULL;
    ino_t *inodes = NULL;
    size_t n = 0, kept = 0;
    int rc = list_folder(log, &list, &n, err);
    if (rc) return rc;
    files = osync__calloc(n ? n : 1, sizeof *files);
    inodes = osync__calloc(n ? n : 1, sizeof *inodes);
    if (!files || !inodes) {
        rc = osync__err(err, OSYNC_ENOMEM, "list binlog folder %s: out of memory", log->dir);
        goto done;
    }
    for (size_t i = 0; i < n; i++) {
        size_t at;
        bool gone = false;
        const osync__log_file_t *known = file_by_number(log, list[i].file.number, &at);
        if (known && known->has_entry && log->inodes[at] == list[i].inode) {
            list[i].file.has_entry = true;
            list[i].file.first = known->first;
            list[i].file.term = known->term;
        } else {
            rc = peek(&list[i].file, &gone, err);
            /* A bad record is an error for who comes to it: an older file that nobody needs doesn't stop anything. */
            if (rc == OSYNC_ECORRUPT || rc == OSYNC_ETOOBIG) rc = 0;
            if (rc) goto done;
        }
        if (gone) continue;
        files[kept] = list[i].file;
        inodes[kept++] = list[i].inode;
    }
    osync__free(log->files);
    osync__free(log->inodes);
    log->files = files;
    log->inodes = inodes;
    log->n_files = kept;
    files = NULL;
    inodes = NULL;
done:
    osync__free(list);
    osync__free(files);
    osync__free(inodes);
    return rc;
}

size_t osync__binlog_files(const osync__binlog_t *log, const osync__log_file_t **files) {
    *files = log->files;
    return log->n_files;
}

uint64_t osync__binlog_oldest(const osync__binlog_t *log) {
    for (size_t i = 0; i < log->n_files; i++)
        if (log->files[i].has_entry) return log->files[i].first;
    return 0;
}

int osync__binlog_open(osync__binlog_t **out, const char *dir, osync_error_t *err) {
    *out = NULL;
    osync__binlog_t *log = osync__calloc(1, sizeof *log);
    if (log) log->dir = osync__strdup(dir);
    int rc = !log || !log->dir ? osync__err(err, OSYNC_ENOMEM, "open binlog %s: out of memory", dir)
                               : osync__binlog_refresh(log, err);
    if (rc) {
        osync__binlog_close(log);
        return rc;
    }
    *out = log;
    return 0;
}

void osync__binlog_close(osync__binlog_t *log) {
    if (!log) return;
    cursor_close(&log->cursor);
    osync__free(log->files);
    osync__free(log->inodes);
    osync__free(log->dir);
    osync__free(log);
}

/* ---- reading ---- */

static int go_to(osync__binlog_t *log, const osync__log_file_t *file, osync_error_t *err) {
    return cursor_open(&log->cursor, file->path, file->number, READ_SIZE, err);
}

int osync__binlog_seek(osync__binlog_t *log, uint64_t index, osync_error_t *err) {
    const osync__log_file_t *start = NULL, *oldest = NULL;
    if (log->cursor.open && index > 0 && log->expected == index) return 0; /* it stands there */
    int rc = osync__binlog_refresh(log, err);
    if (rc) return rc;
    cursor_close(&log->cursor);
    log->wanted = index;
    log->expected = 0;
    for (size_t i = 0; i < log->n_files; i++) {
        const osync__log_file_t *f = &log->files[i];
        if (!f->has_entry) continue;
        if (!oldest) oldest = f;
        if (f->first <= index) start = f;
    }
    if (!start && index > 0 && oldest) {
        /* A bad record in a file before it is the better answer than a gap. */
        for (osync__log_file_t *f = log->files; f < oldest; f++) {
            bool gone;
            rc = peek(f, &gone, err);
            if (rc) return rc;
        }
        return osync__err(err, OSYNC_EGAP,
                          "entry %" PRIu64 " is wanted, but entries up to %" PRIu64
                          " are gone: the log begins with %" PRIu64 " in %s",
                          index, oldest->first - 1, oldest->first, oldest->path);
    }
    if (!start && log->n_files > 0) start = log->files;
    return start ? go_to(log, start, err) : 0; /* without a file: osync__binlog_next opens the first that appears */
}

int osync__binlog_seek_near_end(osync__binlog_t *log, uint32_t file, uint64_t max_bytes, osync_error_t *err) {
    int rc = osync__binlog_refresh(log, err);
    if (rc) return rc;
    const osync__log_file_t *f = file_by_number(log, file, NULL);
    if (!f) return osync__err(err, OSYNC_ENOENT, "binlog %s has no file with number %" PRIu32, log->dir, file);
    log->wanted = log->expected = 0;
    rc = go_to(log, f, err);
    if (!rc) rc = cursor_near_end(&log->cursor, max_bytes, err);
    return rc == END_OF_FILE || rc == OSYNC_EOF ? 0 : rc;
}

/* Log indexes go up by one from entry to entry, also from file to file. */
static int check_index(const osync__binlog_t *log, const osync__log_record_t *r, osync_error_t *err) {
    const char *path = log->cursor.path;
    if (log->expected == 0) {
        if (log->wanted == 0 || r->log_index <= log->wanted) return 0;
        return osync__err(err, OSYNC_EGAP,
                          "entry %" PRIu64 " is wanted, but entries up to %" PRIu64
                          " are missing: the log goes on with %" PRIu64 " in %s at offset %" PRIu64,
                          log->wanted, r->log_index - 1, r->log_index, path, r->at);
    }
    if (r->log_index == log->expected) return 0;
    if (r->log_index < log->expected)
        return osync__err(err, OSYNC_EDIVERGED,
                          "binlog file %s, offset %" PRIu64 ": log index %" PRIu64 " comes after %" PRIu64
                          " of file %08" PRIu32 ".log",
                          path, r->at, r->log_index, log->expected - 1, log->last_file);
    return osync__err(err, OSYNC_EGAP,
                      "binlog: entries %" PRIu64 " to %" PRIu64 " are missing between file %08" PRIu32
                      ".log and %s at offset %" PRIu64,
                      log->expected, r->log_index - 1, log->last_file, path, r->at);
}

/* The payload's checksum. Of a record in one fragment, the one over type and payload is known already, and the two
 * differ by what depends on the length alone. */
static uint32_t payload_crc(osync__binlog_t *log, const osync__log_record_t *r) {
    static const uint8_t zeros[SHORT], type = TYPE_FULL;
    if (!log->cursor.one_fragment || r->len >= SHORT) return osync__crc32c(0, r->payload, r->len);
    uint32_t *difference = &log->type_crc[r->len];
    if (!*difference)
        *difference = osync__crc32c(0, zeros, r->len) ^ osync__crc32c(osync__crc32c(0, &type, 1), zeros, r->len);
    return log->cursor.crc ^ *difference;
}

int osync__binlog_next(osync__binlog_t *log, osync__log_record_t *record, osync_error_t *err) {
    cursor_t *c = &log->cursor;
    bool final = false; /* a later file exists, so that this one grows no more */
    int rc = 0;
    for (;;) {
        const osync__log_file_t *later = NULL;
        if (c->open) {
            rc = cursor_read(c, record, err);
            if (!rc) rc = check_index(log, record, err);
            if (!rc) {
                c->pos = c->next;
                log->expected = record->log_index + 1;
                log->last_file = c->number;
                if (record->log_index < log->wanted) continue;
                record->crc = payload_crc(log, record);
                return 0;
            }
            if (rc != END_OF_FILE && rc != OSYNC_EOF) return rc;
        }
        int refreshed = osync__binlog_refresh(log, err);
        if (refreshed) return refreshed;
        for (size_t i = 0; i < log->n_files && !later; i++)
            if (!c->open || log->files[i].number > c->number) later = &log->files[i];
        if (!later) return OSYNC_EOF;
        /* The end that was seen may be older than the later file: a record written between the two must not be lost. */
        if (c->open && rc == OSYNC_EOF && !final) {
            final = true;
            continue;
        }
        if (c->open && rc == OSYNC_EOF)
            osync__log(OSYNC_LOG_INFO, "binlog file %s was left open at offset %" PRIu64 "; going on with %s", c->path,
                       c->pos, later->path);
        rc = go_to(log, later, err);
        if (rc) return rc;
        final = false;
    }
}

int osync__binlog_newest(osync__binlog_t *log, uint64_t *index, uint64_t *term, osync_error_t *err) {
    cursor_t c = {0};
    osync__log_record_t record;
    *index = *term = 0;
    int rc = osync__binlog_refresh(log, err);
    for (size_t i = log->n_files; !rc && i-- > 0 && *index == 0;) {
        rc = cursor_open(&c, log->files[i].path, log->files[i].number, TAIL_SIZE, err);
        if (!rc) rc = cursor_near_end(&c, TAIL_SIZE, err);
        while (!rc) {
            rc = cursor_read(&c, &record, err);
            if (rc) break;
            *index = record.log_index;
            *term = record.term;
            c.pos = c.next;
        }
        if (rc == END_OF_FILE || rc == OSYNC_EOF) rc = 0;
    }
    cursor_close(&c);
    if (rc) *index = *term = 0;
    return rc;
}

int osync__binlog_tail(osync__binlog_t *log, uint64_t *index, osync_error_t *err) {
    uint64_t term;
    return osync__binlog_newest(log, index, &term, err);
}
