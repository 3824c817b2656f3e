/* A partition's binlog: a folder of NNNNNNNN.log files (docs/formats.md, binlog). Reads only, checks every checksum,
 * and never skips anything: what can't be read is an error with file and offset. Blocking calls. */
#ifndef OSYNC_FORMAT_BINLOG_H
#define OSYNC_FORMAT_BINLOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "format/log_entry.h"
#include "osync/error.h"
#include "tablet.pb-c.h"

typedef struct osync__binlog osync__binlog_t;

/* Limit of one entry's serialized size. */
#define OSYNC__BINLOG_MAX_ENTRY (256u << 20)

typedef struct osync__log_record {
    const uint8_t *payload; /* the serialized LogEntry, valid until the next call */
    size_t len;
    uint32_t file;      /* the file's number */
    uint64_t at;        /* offset of the record's first header in the file */
    uint64_t log_index; /* as in `entry`, never 0 */
    uint64_t term;
    uint32_t crc;             /* crc32c of the payload; only a binlog's next record has it */
    osync__log_entry_t entry; /* what the payload says */
} osync__log_record_t;

/* What a fragment's head holds of its type byte and the payload behind it: LevelDB's masked crc32c. */
uint32_t osync__log_crc(const uint8_t *typed, size_t len);
/* Fills in entry, log_index and term from the payload. False: it isn't a LogEntry. */
bool osync__log_record_scan(osync__log_record_t *record);

typedef struct osync__log_file {
    uint32_t number;
    char path[4096];
    bool has_entry; /* its first record is complete */
    uint64_t first; /* log index of its first entry, if has_entry */
    uint64_t term;  /* the term of that entry */
} osync__log_file_t;

/* Lists the folder; a folder that isn't there is an empty binlog. Without a seek, reading begins with the oldest entry.
 */
int osync__binlog_open(osync__binlog_t **out, const char *dir, osync_error_t *err);
void osync__binlog_close(osync__binlog_t *log);

/* Lists the folder again and fills in what has changed (new files, files that were empty). */
int osync__binlog_refresh(osync__binlog_t *log, osync_error_t *err);
/* By number, ascending; valid until the list is made anew, which every other call here may do. */
size_t osync__binlog_files(const osync__binlog_t *log, const osync__log_file_t **files);

/* The oldest entry's log index; 0: there is none. Of the list as it is. */
uint64_t osync__binlog_oldest(const osync__binlog_t *log);
/* The next osync__binlog_next gives entry `index`: opens the newest file whose first entry is <= index and skips what
 * comes before. Index 0: the oldest retained entry. OSYNC_EGAP if the log begins later than `index` (the message names
 * both). An index beyond the tail is fine: it waits there. */
int osync__binlog_seek(osync__binlog_t *log, uint64_t index, osync_error_t *err);
/* Goes to the first record that begins in the last max_bytes of that file, or further before its end if none begins
 * there (at a block's beginning, from where the next beginning of a record is looked for). Continuity is checked from
 * its second record on. A file without a complete record: osync__binlog_next goes on as at its end. OSYNC_ENOENT: no
 * such file. */
int osync__binlog_seek_near_end(osync__binlog_t *log, uint32_t file, uint64_t max_bytes, osync_error_t *err);
/* The next record. OSYNC_EOF: nothing more for now (torn tail or end of the last file). OSYNC_EGAP: log_index jumps
 * ahead. OSYNC_EDIVERGED: it goes back or repeats. OSYNC_ECORRUPT: bad checksum, type, length, or an entry that doesn't
 * parse; names file and offset. Goes from file to file by itself, and notices new files when it reaches the end
 * (osync__binlog_refresh).
 * After an error, and after OSYNC_EOF, the position is where it was: asked again, it gives what stands there then. A
 * file that ends without its end-of-file record is left for good once a later file exists; whether anything is missing,
 * the indexes tell. A torn record is never an error by itself. OSYNC_ETOOBIG: an entry above OSYNC__BINLOG_MAX_ENTRY.
 */
int osync__binlog_next(osync__binlog_t *log, osync__log_record_t *record, osync_error_t *err);

/* Reads the last complete entry's log_index without moving the position; 0 if the log is empty. */
int osync__binlog_tail(osync__binlog_t *log, uint64_t *index, osync_error_t *err);
/* The same, and the entry's term. */
int osync__binlog_newest(osync__binlog_t *log, uint64_t *index, uint64_t *term, osync_error_t *err);

#endif
