/* What the sinks share: the check of a path, and the form in which a label is kept in extended attributes. */
#ifndef OSYNC_SINK_INTERNAL_H
#define OSYNC_SINK_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "osync/sink.h"

/* A label is kept in one attribute if it fits, else in several: `user.osync.label`, `user.osync.label.1`,
 * `user.osync.label.2`... The first byte of the first one is the number of parts; it is written last, so where it is,
 * all parts are. */
#define OSYNC__LABEL_ATTR      "user.osync.label"
#define OSYNC__LABEL_PART_SIZE 12288u  /* HDFS allows 16 KiB of name and value, btrfs a little less than 16 KiB */
#define OSYNC__LABEL_LIMIT     147456u /* the interface's promise: two positions of a stream, and 16 KiB */
#define OSYNC__LABEL_MAX_PARTS 13u     /* enough for the limit and the count; HDFS allows 32 attributes */
#define OSYNC__LABEL_NAME_SIZE 32u

/* Number of parts of a label of `len` bytes. */
unsigned osync__label_parts(size_t len);
/* Name and value of part i; `out` is appended to. */
int osync__label_part(const void *label, size_t len, unsigned i, char name[OSYNC__LABEL_NAME_SIZE], osync__buf_t *out);
/* The name alone. */
void osync__label_name(unsigned i, char name[OSYNC__LABEL_NAME_SIZE]);

#define OSYNC__READ_LIMIT (8u << 20) /* bytes of one read */

/* Of a sink that osync_webhdfs_sink_new made: the NameNodes that it asks ("host:port" of their HTTP servers), and the
 * user it comes as. They are the sink's. */
void osync__webhdfs_where(const osync_sink_t *sink, char *const **addresses, size_t *n, const char **user);

/* A path that every sink accepts: absolute, without empty, "." or ".." names and without a trailing slash ("/" itself
 * is fine). */
int osync__sink_check_path(const char *path, osync_error_t *err);

#endif
