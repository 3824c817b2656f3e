/* Is the log that is there now the one that was read, and if not, up to where is it? "Fail-overs" of docs/delivery.md
 * in code. Knows entries by index, term and checksum only; what they mean, and what follows for rows, is the reader's
 * business.
 *
 * It stands on what a leader's term is: a term has one leader, whose log only grows while it leads, so that two logs
 * that hold an entry with the same index and term are the same up to it. */
#ifndef OSYNC_COLLECTOR_LINEAGE_H
#define OSYNC_COLLECTOR_LINEAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/binlog.h"

enum { OSYNC__MAX_TERMS = 8 };

/* A place in the log: between two entries. */
typedef struct osync__position {
    uint64_t next; /* log index of the entry behind it */
    uint64_t term; /* of entry next-1, with its payload's crc32c; known or not */
    uint32_t crc;
    bool known;
} osync__position_t;

/* Consecutive entries of one term. */
typedef struct osync__stretch {
    uint64_t term, first, last;
} osync__stretch_t;

/* What is remembered of the entries read so far, beside the place. The newest OSYNC__MAX_TERMS of each are kept. */
typedef struct osync__lineage {
    osync__stretch_t earlier[OSYNC__MAX_TERMS]; /* by term, ascending; `first` isn't known */
    size_t n_earlier;
    osync__stretch_t lost[OSYNC__MAX_TERMS]; /* read, and then lost by a fail-over */
    size_t n_lost;
} osync__lineage_t;

/* The place behind a record. */
osync__position_t osync__position_behind(const osync__log_record_t *rec);

/* `rec` is read at `at`. */
void osync__lineage_read(osync__lineage_t *lineage, const osync__position_t *at, const osync__log_record_t *rec);
/* True if this very entry was read before a fail-over lost it: it has come back with a log that was thought dead. */
bool osync__lineage_was_read(const osync__lineage_t *lineage, const osync__log_record_t *rec);
/* What was read up to `at` is given up but for what is before `common`. */
void osync__lineage_cut(osync__lineage_t *lineage, const osync__position_t *at, const osync__position_t *common);

typedef enum osync__verdict {
    OSYNC__LOG_SAME,   /* it holds everything before `at` as it was read (or nothing is known about that) */
    OSYNC__LOG_BEHIND, /* it hasn't come that far: a replica that lags, or that was left behind by a fail-over */
    OSYNC__LOG_PARTED, /* a later leader's log, which lacks what was read last */
} osync__verdict_t;

/* Compares the log with what was read up to `at`. OSYNC_EGAP: what is needed for that is gone. OSYNC_EDIVERGED: what
 * can't be with a term's single leader. For a log that is behind, `why` says how (a sentence). Moves the log's
 * position. */
int osync__log_compare(osync__binlog_t *log, const osync__position_t *at, osync__verdict_t *verdict, osync_error_t *why,
                       osync_error_t *err);
/* Of a log that has parted: the last place that both have. common->next 0: it isn't retained, or not known. */
int osync__log_common(osync__binlog_t *log, const osync__lineage_t *lineage, const osync__position_t *at,
                      const volatile int *cancel, osync__position_t *common, osync_error_t *err);

#endif
