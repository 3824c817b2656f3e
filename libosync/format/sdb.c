/* A memory table's snapshot. Plain, it is LevelDB's log format as in the binlog; compressed, each block of the log is 1
 * MiB, its record heads are two bytes longer, and a frame of its own holds it.
 *
 * The binlog's reader can't be used: that one follows files that grow, and this one must find a whole file. */
#include "format/sdb.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <snappy-c.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/sys.h"
#include "format/skim.h"

enum {
    PLAIN_BLOCK = 4096,
    PLAIN_HEADER = 7, /* u32le masked crc, u16le length, u8 type */
    FRAME_BLOCK = 1 << 20,
    FRAME_HEADER = 9,    /* u32le masked crc, u32le length, u8 type */
    FRAME_HEAD = 64,     /* u32le compressed length, u8 algorithm, zeros */
    FRAME_MAX = 2 << 20, /* bytes of a compressed block: more than both algorithms make of what can't be compressed */
    KEEP_SIZE = 4 << 20, /* an assembled entry larger than this gives its memory back before the next one */
};
enum { ZLIB = 1, SNAPPY = 2 };
enum { TYPE_FULL = 1, TYPE_FIRST, TYPE_MIDDLE, TYPE_LAST, TYPE_END };

struct osync__sdb {
    char *path;
    int fd;
    osync__skim_t file;
    bool framed;
    size_t block, header;
    uint64_t next_at; /* offset of what is read next */
    uint64_t at;      /* offset of `data`; of its frame, if framed */
    uint8_t *data;    /* FRAME_BLOCK bytes: one block, or many plain ones */
    size_t len, pos;
    osync__buf_t packed, assembled;
    uint64_t last; /* log index */
    bool ended;
};

static int corrupt(const osync__sdb_t *s, uint64_t at, osync_error_t *err, const char *what) {
    return osync__err(err, OSYNC_ECORRUPT, "memory-table snapshot %s, %s %" PRIu64 ": %s", s->path,
                      s->framed ? "frame at offset" : "offset", at, what);
}

static int read_at(osync__sdb_t *s, uint64_t at, uint8_t *to, size_t size, size_t *got, osync_error_t *err) {
    int failed = osync__skim_read(&s->file, at, to, size, got);
    if (failed)
        return osync__err_errno(err, -failed, "read memory-table snapshot %s at offset %" PRIu64, s->path, at + *got);
    return 0;
}

static bool all_zero(const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (p[i]) return false;
    return true;
}

static int inflate_block(osync__sdb_t *s, unsigned algorithm, osync_error_t *err) {
    size_t size = FRAME_BLOCK;
    bool good;
    if (algorithm == ZLIB) {
        uLongf inflated = FRAME_BLOCK;
        good = uncompress(s->data, &inflated, s->packed.data, s->packed.len) == Z_OK;
        size = inflated;
    } else {
        const char *packed = (const char *)s->packed.data;
        good = snappy_uncompressed_length(packed, s->packed.len, &size) == SNAPPY_OK && size == FRAME_BLOCK &&
               snappy_uncompress(packed, s->packed.len, (char *)s->data, &size) == SNAPPY_OK;
    }
    if (good && size == FRAME_BLOCK) return 0;
    return corrupt(s, s->at, err, "the frame doesn't inflate to a block of 1 MiB");
}

static int read_frame(osync__sdb_t *s, osync_error_t *err) {
    uint8_t head[FRAME_HEAD];
    size_t got;
    int rc = read_at(s, s->at, head, sizeof head, &got, err);
    if (rc || got == 0) return rc;
    size_t size = osync__get_u32le(head);
    unsigned algorithm = head[4];
    if (got < sizeof head) return corrupt(s, s->at, err, "the file ends in the frame's head");
    if (algorithm != ZLIB && algorithm != SNAPPY)
        return corrupt(s, s->at, err, "the frame is compressed neither by zlib nor by snappy");
    if (size == 0 || size > FRAME_MAX || !all_zero(head + 5, sizeof head - 5))
        return corrupt(s, s->at, err, "this isn't a frame's head");
    s->packed.len = 0;
    if (osync__buf_reserve(&s->packed, size)) return osync__err(err, OSYNC_ENOMEM, "read %s: out of memory", s->path);
    rc = read_at(s, s->at + sizeof head, s->packed.data, size, &got, err);
    if (rc) return rc;
    if (got < size) return corrupt(s, s->at, err, "the file ends in the frame");
    s->packed.len = size;
    s->next_at = s->at + sizeof head + size;
    rc = inflate_block(s, algorithm, err);
    if (!rc) s->len = FRAME_BLOCK;
    return rc;
}

static int read_more(osync__sdb_t *s, osync_error_t *err) {
    s->at = s->next_at;
    s->len = s->pos = 0;
    int rc;
    if (s->framed) {
        rc = read_frame(s, err);
    } else {
        rc = read_at(s, s->at, s->data, FRAME_BLOCK, &s->len, err);
        s->next_at = s->at + s->len;
    }
    if (!rc && s->len == 0) rc = corrupt(s, s->at, err, "the file ends without its end record");
    return rc;
}

static uint64_t offset_of(const osync__sdb_t *s) {
    return s->framed ? s->at : s->at + s->pos;
}

/* The fragment at s->pos: its type and its bytes. */
static int read_fragment(osync__sdb_t *s, unsigned *type, const uint8_t **bytes, size_t *len, osync_error_t *err) {
    for (;;) {
        int rc = s->pos >= s->len ? read_more(s, err) : 0;
        if (rc) return rc;
        size_t left = s->block - s->pos % s->block;
        if (left >= s->header) break;
        s->pos += left; /* too little for a head; what fills it means nothing */
    }
    const uint8_t *p = s->data + s->pos;
    size_t there = s->len - s->pos, left = s->block - s->pos % s->block;
    if (there < s->header) return corrupt(s, offset_of(s), err, "the file ends in a record");
    *len = s->framed ? osync__get_u32le(p + 4) : osync__get_u16le(p + 4);
    *type = p[s->header - 1];
    *bytes = p + s->header;
    if (*type < TYPE_FULL || *type > TYPE_END) return corrupt(s, offset_of(s), err, "the record has an unknown type");
    if (*len > left - s->header) return corrupt(s, offset_of(s), err, "the record's length reaches beyond its block");
    if (*len > there - s->header) return corrupt(s, offset_of(s), err, "the file ends in a record");
    if (osync__get_u32le(p) != osync__log_crc(*bytes - 1, *len + 1))
        return corrupt(s, offset_of(s), err, "the record's checksum is wrong");
    return 0;
}

int osync__sdb_open(osync__sdb_t **out, const char *path, osync_error_t *err) {
    struct stat st;
    int rc = 0;
    osync__sdb_t *s = osync__calloc(1, sizeof *s);
    if (!s) return osync__err(err, OSYNC_ENOMEM, "open %s: out of memory", path);
    s->path = osync__strdup(path);
    s->data = osync__malloc(FRAME_BLOCK);
    s->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (s->fd < 0)
        rc = osync__err_errno(err, errno, "open memory-table snapshot %s", path);
    else if (!s->path || !s->data)
        rc = osync__err(err, OSYNC_ENOMEM, "open %s: out of memory", path);
    else if (fstat(s->fd, &st))
        rc = osync__err_errno(err, errno, "stat memory-table snapshot %s", path);
    else if (!S_ISREG(st.st_mode))
        rc = osync__err(err, OSYNC_EINVAL, "memory-table snapshot %s is not a regular file", path);
    if (rc) {
        osync__sdb_close(s);
        return rc;
    }
    osync__skim_begin(&s->file, s->fd);
    const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    s->framed = strstr(name, ".zlib") || strstr(name, ".snappy");
    s->block = s->framed ? FRAME_BLOCK : PLAIN_BLOCK;
    s->header = s->framed ? FRAME_HEADER : PLAIN_HEADER;
    *out = s;
    return 0;
}

void osync__sdb_close(osync__sdb_t *s) {
    if (!s) return;
    if (s->fd >= 0) {
        osync__skim_end(&s->file);
        close(s->fd);
    }
    osync__buf_free(&s->packed);
    osync__buf_free(&s->assembled);
    osync__free(s->data);
    osync__free(s->path);
    osync__free(s);
}

int osync__sdb_next(osync__sdb_t *s, osync__log_record_t *record, osync_error_t *err) {
    uint64_t begin = 0;
    bool inside = false;
    if (s->ended) return OSYNC_EOF;
    if (s->assembled.cap > KEEP_SIZE) osync__buf_free(&s->assembled);
    s->assembled.len = 0;
    for (;;) {
        const uint8_t *bytes = NULL;
        unsigned type = 0;
        size_t len = 0;
        int rc = read_fragment(s, &type, &bytes, &len, err);
        if (rc) return rc;
        uint64_t here = offset_of(s);
        bool begins = type == TYPE_FULL || type == TYPE_FIRST;
        if (type == TYPE_END && len == 0 && !inside) {
            s->ended = true;
            return OSYNC_EOF;
        }
        if (begins == inside || type == TYPE_END)
            return corrupt(s, here, err, "a fragment of a record is out of order");
        if (begins) begin = here;
        if (type != TYPE_FULL) {
            if (s->assembled.len + len > OSYNC__BINLOG_MAX_ENTRY)
                return osync__err(err, OSYNC_ETOOBIG,
                                  "memory-table snapshot %s, offset %" PRIu64
                                  ": the entry is larger than the limit of %u bytes",
                                  s->path, begin, OSYNC__BINLOG_MAX_ENTRY);
            if (osync__buf_append(&s->assembled, bytes, len))
                return osync__err(err, OSYNC_ENOMEM, "read %s: out of memory", s->path);
        }
        s->pos += s->header + len;
        inside = type == TYPE_FIRST || type == TYPE_MIDDLE;
        if (inside) continue;
        record->payload = type == TYPE_FULL ? bytes : s->assembled.data;
        record->len = type == TYPE_FULL ? len : s->assembled.len;
        record->file = OSYNC__SDB_FILE;
        record->at = begin;
        if (!osync__log_record_scan(record)) return corrupt(s, begin, err, "the record isn't a LogEntry");
        if (record->log_index <= s->last)
            return corrupt(s, begin, err,
                           record->log_index ? "the log indexes don't ascend" : "the LogEntry has no log_index");
        s->last = record->log_index;
        return 0;
    }
}
