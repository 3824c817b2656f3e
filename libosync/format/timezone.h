/* Time zones from the system's TZif files: the offset from UTC at a moment. Doesn't read or change the C library's own
 * zone (TZ, tzset), so that zones of several encoders can differ. */
#ifndef OSYNC_FORMAT_TIMEZONE_H
#define OSYNC_FORMAT_TIMEZONE_H

#include <stddef.h>
#include <stdint.h>

#include "osync/error.h"

/* Immutable once loaded: any number of threads may use one at the same time. */
typedef struct osync__timezone osync__timezone_t;

/* An offset and the moments it holds for: from <= t < until, in seconds since the epoch. All zero: holds never. */
typedef struct osync__tz_span {
    int64_t from, until;
    int32_t offset; /* seconds east of UTC */
} osync__tz_span_t;

/* `name` is an IANA name, "UTC", or NULL for the machine's zone: the environment's TZ (a name, a path or a POSIX rule,
 * as in the C library), else /etc/localtime, else UTC. A zone that isn't there is OSYNC_ECONFIG. */
int osync__timezone_load(osync__timezone_t **out, const char *name, osync_error_t *err);
/* NULL is fine. */
void osync__timezone_free(osync__timezone_t *tz);

/* The IANA name of the machine's zone (see above), so that another machine can use the same; OSYNC_ENOENT if it has
 * none: a rule, or a file that isn't the system's. */
int osync__timezone_name(char *out, size_t size);

/* The span that `t` is in. */
osync__tz_span_t osync__timezone_at(const osync__timezone_t *tz, int64_t t);

/* Days since 1970-01-01 of a day in the Gregorian calendar, which also holds for the time before it was made; month is
 * 1 to 12. */
int64_t osync__days_from_date(int64_t year, int month, int day);
/* The year (Gregorian) of a day. */
int64_t osync__year_of_days(int64_t days);

#endif
