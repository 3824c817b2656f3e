/* Writes a binlog in OpenMLDB's layout. It has a small reader of its own for starting again: it shares none with
 * libosync, so that an error there isn't made twice. */
#ifndef TABLET_LOG_WRITER_H
#define TABLET_LOG_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "osync/error.h"

typedef struct log_file {
    uint32_t number;
    uint64_t first; /* log index of its first entry, 0 if it has none */
} log_file_t;

/* The time that files are to bear: virtual + (wall clock - real) * speed, ms. speed 0: the machine's own. A snapshot's
 * name has whole minutes, so a test that makes one every second wants a minute to be a second. */
typedef struct tablet_clock {
    uint64_t real, virtual, speed;
} tablet_clock_t;

uint64_t tablet_clock_ms(const tablet_clock_t *clock);
/* Gives a file that is complete its time. */
int tablet_clock_stamp(const tablet_clock_t *clock, const char *path, osync_error_t *err);

typedef struct log_writer {
    const tablet_clock_t *clock; /* of files that are ended; borrowed, NULL: the machine's own */
    char *dir;
    int fd; /* -1: the next append begins a file */
    uint64_t size;
    uint64_t max_bytes;
    log_file_t *files; /* by number */
    size_t n_files;
    osync__buf_t pending; /* records that aren't in the file yet */
} log_writer_t;

/* Gives each complete entry that is there, oldest first, to `entry` (which returns its log index, or 0 to refuse it),
 * and ends the last file right behind the last one: a torn tail is written over. */
int log_writer_open(log_writer_t *w, const char *dir, uint64_t max_bytes,
                    uint64_t (*entry)(void *arg, const void *payload, size_t len), void *arg, osync_error_t *err);
/* From now on; the last file, which opening has ended, gets its time too. */
int log_writer_set_clock(log_writer_t *w, const tablet_clock_t *clock, osync_error_t *err);
int log_writer_append(log_writer_t *w, uint64_t log_index, const void *payload, size_t len, osync_error_t *err);
/* Writes what has been appended. */
int log_writer_flush(log_writer_t *w, osync_error_t *err);
/* Ends the current file and begins the next. */
int log_writer_roll(log_writer_t *w, osync_error_t *err);
/* Removes the files that aren't needed with a snapshot at `offset`, as the tablet does: one more than necessary stays.
 */
int log_writer_purge(log_writer_t *w, uint64_t offset, osync_error_t *err);
/* Where a reader that goes through the log stands; all 0: nowhere yet. */
typedef struct log_cursor {
    uint32_t number; /* of the file */
    size_t at;       /* behind the last entry read */
    uint64_t next;   /* log index of the next one */
} log_cursor_t;

/* Gives entries that have been flushed to `entry`, until `most` bytes were given or the log ends. What is given may
 * begin with older entries than `from`. OSYNC_EGAP: the file with `from` isn't there (any more). */
int log_writer_read(log_writer_t *w, log_cursor_t *cursor, uint64_t from, size_t most,
                    uint64_t (*entry)(void *arg, const void *payload, size_t len), void *arg, osync_error_t *err);
void log_writer_close(log_writer_t *w);

#endif
