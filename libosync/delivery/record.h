/* A partition's record in the checkpoint store, and the label of a file, as plain structs and as bytes. */
#ifndef OSYNC_DELIVERY_RECORD_H
#define OSYNC_DELIVERY_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/sys.h"
#include "osync/error.h"

/* A UUID, or a stream's name. */
enum { OSYNC__TASK_ID_SIZE = 101 };

typedef struct osync__prepared {
    uint64_t n;
    char incarnation[OSYNC__ID_SIZE];
    char attempt[OSYNC__ID_SIZE];
    uint64_t file_id;
    osync__buf_t end;
    uint64_t rows, bytes;
} osync__prepared_t;

typedef struct osync__former {
    char incarnation[OSYNC__ID_SIZE];
    bool blocked; /* see delivery.proto */
    bool fenced;  /* by this take-over; not stored */
} osync__former_t;

typedef struct osync__record {
    char incarnation[OSYNC__ID_SIZE]; /* "": nobody has owned it yet */
    char owner[OSYNC__ID_SIZE];
    uint64_t generation;
    uint64_t next;
    osync__buf_t point;
    uint64_t rows, bytes, files;
    bool has_prepared;
    osync__prepared_t prepared;
    osync__former_t *former;
    size_t n_former;
    bool rebuilding;            /* see delivery.proto */
    char claim[OSYNC__ID_SIZE]; /* "": this record was never rebuilt, or hasn't chosen one yet */
} osync__record_t;

typedef struct osync__label {
    char task_id[OSYNC__TASK_ID_SIZE];
    uint32_t pid;
    uint64_t n;
    char attempt[OSYNC__ID_SIZE];
    bool no_points; /* they didn't fit: start and end are empty */
    osync__buf_t start, end;
    uint64_t rows, bytes;
    osync__buf_t text; /* the config's label_text, with its final 0 */
    osync__buf_t task; /* the config's task_info */
    bool has_totals;
    uint64_t total_rows, total_bytes, total_files; /* of the partition up to this file and with it */
} osync__label_t;

void osync__record_free(osync__record_t *r);
/* Replaces *out. */
int osync__record_pack(const osync__record_t *r, const char *task_id, uint32_t pid, osync__buf_t *out);
/* Into an empty record. OSYNC_ECORRUPT: not a record; OSYNC_EINVAL: of another task or partition. */
int osync__record_unpack(osync__record_t *r, const void *data, size_t len, const char *task_id, uint32_t pid,
                         osync_error_t *err);
int osync__record_add_former(osync__record_t *r, const char *incarnation);

/* Replaces *out. */
int osync__label_pack(const osync__label_t *l, osync__buf_t *out);
/* Into an empty label; osync__label_free also after a failure. OSYNC_ECORRUPT: not a label of ours. Fields that an
 * older label doesn't have are empty. */
int osync__label_unpack(osync__label_t *l, const void *data, size_t len);
void osync__label_free(osync__label_t *l);

#endif
