/* Reads TZif files (RFC 8536, version 2 and later) and answers which offset from UTC holds at a moment: by the file's
 * transitions, after the last one by the POSIX rule in its footer. It isn't a general time library: abbreviations,
 * leap seconds and local time to UTC aren't here.
 *
 * Two habits of Java's zones are kept, because the text of a timestamp has to be the same as SyncTool's: before 1900 a
 * zone has its present standard time, and in the last year that 64-bit milliseconds reach there is no summer time. */
#include "format/timezone.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/sys.h"

#define ZONEINFO        "/usr/share/zoneinfo"
#define LOCALTIME       "/etc/localtime"
#define MAX_FILE        ((size_t)1 << 20)
#define MAX_NAME        255
#define YEAR_1900       INT64_C(-2208988800)
#define LAST_YEAR_BEGIN INT64_C(9223372017129600) /* 292278994-01-01 */
#define DAY             86400

enum { HEADER = 44, TRANSITION_V1 = 5, TTINFO = 6, LEAP_V1 = 8, TRANSITION = 8 };

/* One half of a POSIX rule: when the year's change comes, in local time before the change. */
typedef struct rule {
    enum { MONTH_WEEK_DAY, JULIAN, ZERO_BASED } kind;
    int month, week, day;
    int32_t time;
} rule_t;

typedef struct posix {
    int32_t std, dst; /* seconds east of UTC; the same if there is no summer time */
    bool has_dst;
    rule_t to_dst, to_std;
} posix_t;

struct osync__timezone {
    size_t n;        /* transitions */
    int64_t *at;     /* ascending */
    int32_t *offset; /* from at[i] on */
    int32_t first;   /* before at[0] */
    bool has_posix;
    posix_t posix;
    int32_t raw; /* standard time of today */
};

static int64_t floor_div(int64_t a, int64_t b) {
    return a / b - (a % b < 0);
}

int64_t osync__days_from_date(int64_t year, int month, int day) {
    /* Years begin in March here, so that the leap day is a year's last. */
    int64_t y = year - (month <= 2);
    int64_t era = floor_div(y, 400);
    int64_t of_era = y - era * 400;
    int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

int64_t osync__year_of_days(int64_t days) {
    int64_t z = days + 719468;
    int64_t era = floor_div(z, 146097);
    int64_t d = z - era * 146097;
    int64_t of_era = (d - d / 1460 + d / 36524 - d / 146096) / 365;
    int64_t of_year = d - (365 * of_era + of_era / 4 - of_era / 100);
    return of_era + era * 400 + (of_year >= 306); /* January and February */
}

/* --- the POSIX rule --- */

static bool parse_int(const char **p, int max, int *out) {
    int v = 0;
    if (!isdigit((unsigned char)**p)) return false;
    for (; isdigit((unsigned char)**p); (*p)++) {
        v = v * 10 + (**p - '0');
        if (v > max) return false;
    }
    *out = v;
    return true;
}

/* [+-]hh[:mm[:ss]] */
static bool parse_time(const char **p, int max_hours, int32_t *out) {
    int sign = 1, h = 0, m = 0, s = 0;
    if (**p == '+' || **p == '-') sign = *(*p)++ == '-' ? -1 : 1;
    if (!parse_int(p, max_hours, &h)) return false;
    if (**p == ':') {
        (*p)++;
        if (!parse_int(p, 59, &m)) return false;
        if (**p == ':') {
            (*p)++;
            if (!parse_int(p, 59, &s)) return false;
        }
    }
    *out = sign * (h * 3600 + m * 60 + s);
    return true;
}

static bool skip_abbreviation(const char **p) {
    const char *begin = *p;
    if (**p == '<') {
        while (**p && **p != '>') (*p)++;
        if (**p != '>') return false;
        (*p)++;
        return *p - begin >= 3;
    }
    while (isalpha((unsigned char)**p)) (*p)++;
    return *p - begin >= 3;
}

static bool parse_rule(const char **p, rule_t *r) {
    if (**p == 'M') {
        r->kind = MONTH_WEEK_DAY;
        (*p)++;
        if (!parse_int(p, 12, &r->month) || r->month < 1 || *(*p)++ != '.') return false;
        if (!parse_int(p, 5, &r->week) || r->week < 1 || *(*p)++ != '.') return false;
        if (!parse_int(p, 6, &r->day)) return false;
    } else if (**p == 'J') {
        r->kind = JULIAN;
        (*p)++;
        if (!parse_int(p, 365, &r->day) || r->day < 1) return false;
    } else {
        r->kind = ZERO_BASED;
        if (!parse_int(p, 365, &r->day)) return false;
    }
    r->time = 2 * 3600;
    if (**p == '/') {
        (*p)++;
        return parse_time(p, 167, &r->time);
    }
    return true;
}

/* std offset [dst [offset] , start[/time] , end[/time]]; POSIX counts offsets west of UTC. */
static bool parse_posix(const char *s, posix_t *out) {
    posix_t x = {0};
    if (!skip_abbreviation(&s) || !parse_time(&s, 24, &x.std)) return false;
    x.std = -x.std;
    x.dst = x.std;
    if (*s) {
        x.has_dst = true;
        if (!skip_abbreviation(&s)) return false;
        x.dst = x.std + 3600;
        if (*s != ',') {
            if (!parse_time(&s, 24, &x.dst)) return false;
            x.dst = -x.dst;
        }
        if (*s++ != ',' || !parse_rule(&s, &x.to_dst)) return false;
        if (*s++ != ',' || !parse_rule(&s, &x.to_std)) return false;
        if (*s) return false;
    }
    *out = x;
    return true;
}

static bool is_leap(int64_t y) {
    return (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
}

/* When the rule's change comes in a year, in seconds since the epoch, where `offset` holds before it. */
static int64_t rule_at(const rule_t *r, int64_t year, int32_t offset) {
    static const int month_days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int64_t day = 0;
    if (r->kind == MONTH_WEEK_DAY) {
        int64_t first = osync__days_from_date(year, r->month, 1);
        int64_t weekday = ((first + 4) % 7 + 7) % 7; /* 1970-01-01 is a Thursday */
        int64_t in_month = (r->day - weekday + 7) % 7 + (r->week - 1) * 7;
        int len = month_days[r->month - 1] + (r->month == 2 && is_leap(year));
        while (in_month >= len) in_month -= 7; /* week 5 is the last one */
        day = first + in_month;
    } else {
        day = osync__days_from_date(year, 1, 1) + r->day;
        if (r->kind == JULIAN)
            day -= !(is_leap(year) && r->day >= 60); /* J1 is the first, and February 29th has no number */
    }
    return day * DAY + r->time - offset;
}

static osync__tz_span_t posix_at(const posix_t *x, int64_t t) {
    osync__tz_span_t span = {INT64_MIN, INT64_MAX, x->std};
    if (!x->has_dst) return span;
    int64_t year = osync__year_of_days(floor_div(t + x->std, DAY));
    /* The change before t and the one after it are among those of three years. */
    for (int64_t y = year - 1; y <= year + 1; y++) {
        int64_t to_dst = rule_at(&x->to_dst, y, x->std), to_std = rule_at(&x->to_std, y, x->dst);
        if (to_dst <= t && to_dst >= span.from) span.from = to_dst, span.offset = x->dst;
        if (to_dst > t && to_dst < span.until) span.until = to_dst;
        if (to_std <= t && to_std > span.from) span.from = to_std, span.offset = x->std;
        if (to_std > t && to_std < span.until) span.until = to_std;
    }
    return span;
}

/* --- the file --- */

static uint32_t get_u32be(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static int32_t to_i32(uint32_t v) {
    return v <= INT32_MAX ? (int32_t)v : -(int32_t)(UINT32_MAX - v) - 1;
}

static int64_t get_i64be(const uint8_t *p) {
    return (int64_t)to_i32(get_u32be(p)) * (INT64_C(1) << 32) + (int64_t)get_u32be(p + 4);
}

typedef struct header {
    size_t isut, isstd, leap, time, type, chars;
} header_t;

/* False if this isn't a TZif header with version 2 or later. */
static bool parse_header(const uint8_t *p, size_t len, header_t *h) {
    if (len < HEADER || memcmp(p, "TZif", 4) != 0 || p[4] < '2') return false;
    h->isut = get_u32be(p + 20);
    h->isstd = get_u32be(p + 24);
    h->leap = get_u32be(p + 28);
    h->time = get_u32be(p + 32);
    h->type = get_u32be(p + 36);
    h->chars = get_u32be(p + 40);
    /* No larger count fits into a file of our limit, and the sums below can't overflow. */
    return h->isut <= MAX_FILE && h->isstd <= MAX_FILE && h->leap <= MAX_FILE && h->time <= MAX_FILE &&
           h->type <= MAX_FILE && h->chars <= MAX_FILE;
}

static int parse_tzif(osync__timezone_t *tz, const uint8_t *p, size_t len, const char *path, osync_error_t *err) {
    header_t h = {0};
    if (!parse_header(p, len, &h)) goto bad;
    /* The first block has 32-bit times; the second says the same with 64 bits. */
    size_t v1 = HEADER + h.time * TRANSITION_V1 + h.type * TTINFO + h.chars + h.leap * LEAP_V1 + h.isstd + h.isut;
    if (v1 > len) goto bad;
    p += v1;
    len -= v1;
    if (!parse_header(p, len, &h)) goto bad;
    if (h.leap)
        return osync__err(err, OSYNC_ECONFIG, "time zone file %s counts leap seconds; use a zone that doesn't", path);
    size_t body = h.time * (TRANSITION + 1) + h.type * TTINFO + h.chars + h.isstd + h.isut;
    if (body > len - HEADER || h.type == 0) goto bad;
    const uint8_t *times = p + HEADER, *types = times + h.time * TRANSITION, *infos = types + h.time;

    tz->at = osync__calloc(h.time + 1, sizeof *tz->at);
    tz->offset = osync__calloc(h.time + 1, sizeof *tz->offset);
    if (!tz->at || !tz->offset) return osync__err(err, OSYNC_ENOMEM, "out of memory for time zone file %s", path);
    tz->n = h.time;
    for (size_t i = 0; i < h.time; i++) {
        tz->at[i] = get_i64be(times + i * TRANSITION);
        if (types[i] >= h.type || (i > 0 && tz->at[i] <= tz->at[i - 1])) goto bad;
        tz->offset[i] = to_i32(get_u32be(infos + types[i] * TTINFO));
        if (tz->offset[i] <= -2 * DAY || tz->offset[i] >= 2 * DAY) goto bad;
    }
    tz->first = to_i32(get_u32be(infos));
    if (tz->first <= -2 * DAY || tz->first >= 2 * DAY) goto bad;
    tz->raw = tz->n ? tz->offset[tz->n - 1] : tz->first;

    const char *footer = (const char *)p + HEADER + body;
    size_t footer_len = len - HEADER - body;
    const char *end = footer_len > 1 && footer[0] == '\n' ? memchr(footer + 1, '\n', footer_len - 1) : NULL;
    if (!end) goto bad;
    size_t rule_len = (size_t)(end - footer) - 1;
    if (rule_len) {
        char rule[128];
        if (rule_len >= sizeof rule) goto bad;
        memcpy(rule, footer + 1, rule_len);
        rule[rule_len] = 0;
        if (!parse_posix(rule, &tz->posix)) goto bad;
        tz->has_posix = true;
    }
    return 0;
bad:
    return osync__err(err, OSYNC_ECONFIG, "%s isn't a valid time zone file (TZif, version 2 or later)", path);
}

static bool name_is_safe(const char *name) {
    size_t len = strlen(name);
    if (len == 0 || len > MAX_NAME || name[0] == '/' || strstr(name, "..")) return false;
    return strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+-/.") == len;
}

/* *found is false if there is no such file. */
static int load_file(osync__timezone_t *tz, const char *path, bool *found, osync_error_t *err) {
    osync__buf_t content = {0};
    osync_error_t cause = {0};
    int rc = osync__read_file(path, MAX_FILE, &content, &cause);
    *found = rc != OSYNC_ENOENT;
    if (rc == OSYNC_ENOENT) {
        rc = 0;
    } else if (rc) {
        if (rc != OSYNC_ENOMEM) cause.code = OSYNC_ECONFIG;
        rc = osync__err_wrap(err, &cause, "time zone file");
    } else {
        rc = parse_tzif(tz, content.data, content.len, path, err);
    }
    osync__buf_free(&content);
    return rc;
}

static int load_named(osync__timezone_t *tz, const char *name, bool *found, osync_error_t *err) {
    char path[sizeof ZONEINFO + MAX_NAME + 1] = ZONEINFO "/";
    *found = false;
    if (!name_is_safe(name)) return 0;
    memcpy(path + sizeof ZONEINFO, name, strlen(name) + 1);
    return load_file(tz, path, found, err);
}

static int load_machine(osync__timezone_t *tz, osync_error_t *err) {
    const char *env = getenv("TZ");
    bool found = false;
    int rc = 0;
    if (!env) return load_file(tz, LOCALTIME, &found, err); /* without the file it is UTC, as everywhere */
    if (*env == ':') env++;
    if (*env == 0 || strcmp(env, "UTC") == 0) return 0;
    rc = *env == '/' ? load_file(tz, env, &found, err) : load_named(tz, env, &found, err);
    if (rc || found) return rc;
    if (parse_posix(env, &tz->posix)) {
        tz->has_posix = true;
        return 0;
    }
    return osync__err(err, OSYNC_ECONFIG,
                      "unknown time zone \"%s\" in the environment's TZ: it is neither in %s nor a POSIX rule", env,
                      ZONEINFO);
}

int osync__timezone_load(osync__timezone_t **out, const char *name, osync_error_t *err) {
    int rc = 0;
    bool found = true;
    *out = NULL;
    osync__timezone_t *tz = osync__calloc(1, sizeof *tz);
    if (!tz) return osync__err(err, OSYNC_ENOMEM, "out of memory for a time zone");
    if (!name) {
        rc = load_machine(tz, err);
    } else if (strcmp(name, "UTC") != 0) { /* needs no file, so that it works without tzdata */
        rc = load_named(tz, name, &found, err);
        if (!rc && !found)
            rc = osync__err(err, OSYNC_ECONFIG,
                            "unknown time zone \"%s\": give the name of a zone in %s (is tzdata installed?)", name,
                            ZONEINFO);
    }
    if (rc) {
        osync__timezone_free(tz);
        return rc;
    }
    /* Standard time is the smaller one also where the file calls winter the exception (Europe/Dublin). */
    if (tz->has_posix) tz->raw = tz->posix.std < tz->posix.dst ? tz->posix.std : tz->posix.dst;
    *out = tz;
    return 0;
}

int osync__timezone_name(char *out, size_t size) {
    char link[256] = "";
    const char *name = getenv("TZ");
    if (name && *name == ':') name++;
    if (name && *name == 0) name = "UTC";
    if (!name) {
        ssize_t len = readlink(LOCALTIME, link, sizeof link - 1);
        if (len < 0 && errno != ENOENT) return OSYNC_ENOENT;
        link[len < 0 ? 0 : len] = 0;
        const char *zone = strstr(link, "/zoneinfo/");
        name = len < 0 ? "UTC" : zone ? zone + strlen("/zoneinfo/") : "";
    }
    char path[sizeof ZONEINFO + MAX_NAME + 1] = ZONEINFO "/";
    if (!name_is_safe(name) || strlen(name) >= size) return OSYNC_ENOENT;
    memcpy(path + sizeof ZONEINFO, name, strlen(name) + 1);
    if (strcmp(name, "UTC") != 0 && access(path, R_OK) != 0) return OSYNC_ENOENT;
    memcpy(out, name, strlen(name) + 1);
    return 0;
}

void osync__timezone_free(osync__timezone_t *tz) {
    if (!tz) return;
    osync__free(tz->at);
    osync__free(tz->offset);
    osync__free(tz);
}

osync__tz_span_t osync__timezone_at(const osync__timezone_t *tz, int64_t t) {
    osync__tz_span_t span = {0};
    if (t < YEAR_1900) return (osync__tz_span_t){INT64_MIN, YEAR_1900, tz->raw};
    if (t >= LAST_YEAR_BEGIN) return (osync__tz_span_t){LAST_YEAR_BEGIN, INT64_MAX, tz->raw};
    if (tz->n == 0 || t >= tz->at[tz->n - 1]) {
        span = tz->has_posix ? posix_at(&tz->posix, t)
                             : (osync__tz_span_t){INT64_MIN, INT64_MAX, tz->n ? tz->offset[tz->n - 1] : tz->first};
        if (tz->n && span.from < tz->at[tz->n - 1]) span.from = tz->at[tz->n - 1];
    } else {
        size_t lo = 0, hi = tz->n; /* the first transition after t */
        while (lo < hi) {
            size_t mid = lo + (hi - lo) / 2;
            if (tz->at[mid] > t)
                hi = mid;
            else
                lo = mid + 1;
        }
        span.from = lo ? tz->at[lo - 1] : INT64_MIN;
        span.until = tz->at[lo];
        span.offset = lo ? tz->offset[lo - 1] : tz->first;
    }
    if (span.from < YEAR_1900) span.from = YEAR_1900;
    if (span.until > LAST_YEAR_BEGIN) span.until = LAST_YEAR_BEGIN;
    return span;
}
