/* The seam to the operating system: time, randomness, and the few file operations that must be durable. */
#ifndef OSYNC_BASE_SYS_H
#define OSYNC_BASE_SYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "osync/error.h"

/* Milliseconds since the epoch (wall clock), and of a clock that never steps. */
uint64_t osync__wall_ms(void);
uint64_t osync__mono_ms(void);

/* Writes 2*bytes lowercase hex digits of the system's random source and a NUL. Never fails: without randomness the
 * process cannot keep its promises, and it blocks until there is some. */
void osync__random_hex(char *out, size_t bytes);
/* 128 random bits in hex, never used twice: an incarnation, the name of one attempt at a file, a stager. */
enum { OSYNC__ID_BYTES = 16, OSYNC__ID_SIZE = 2 * OSYNC__ID_BYTES + 1 };
/* False for NULL too. */
bool osync__is_id(const char *s);
/* A random UUID in its 36-character form, and a NUL. */
void osync__random_uuid(char out[37]);

/* crc32c (Castagnoli) of `data`, continuing from `crc` (0 to begin). */
uint32_t osync__crc32c(uint32_t crc, const void *data, size_t len);

static inline uint32_t osync__get_u16le(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}
static inline uint32_t osync__get_u32le(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline uint64_t osync__get_u64le(const uint8_t *p) {
    return (uint64_t)osync__get_u32le(p) | (uint64_t)osync__get_u32le(p + 4) << 32;
}
static inline void osync__put_u32le(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> (8 * i));
}
static inline void osync__put_u64le(uint8_t *p, uint64_t v) {
    for (int i = 0; i < 8; i++) p[i] = (uint8_t)(v >> (8 * i));
}

/* Reads a whole file of at most `limit` bytes (else OSYNC_ETOOBIG); a NUL follows the content but isn't counted. */
int osync__read_file(const char *path, size_t limit, osync__buf_t *out, osync_error_t *err);
/* Replaces a file as one durable step: temporary file, fsync, rename, fsync of the folder. */
int osync__write_file(const char *path, const void *data, size_t len, osync_error_t *err);
int osync__fsync_dir(const char *path, osync_error_t *err);
/* mkdir -p. */
int osync__mkdirs(const char *path, osync_error_t *err);
/* rm -rf; a path that isn't there is fine. Doesn't follow symbolic links. */
int osync__rmtree(const char *path, osync_error_t *err);

#endif
