/* Rows to CSV text. The place for a whole row is made before its first byte is written, so that the writers of the
 * single values only move a pointer. */
#include "osync/csv.h"

#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/config.h"
#include "base/error.h"
#include "format/csv_count.h"
#include "format/java_float.h"
#include "format/row.h"
#include "format/timezone.h"

enum {
    DIGITS_MAX = 20, /* of 64 bits */
    FIXED_MAX = 40,  /* a value that isn't a string, and its comma */
    ESCAPED_MAX = 6, /* what one byte of a string can become: \u00E9 */
    QUOTES = 2,
    DAY_SECONDS = 86400,
    MS = 1000
};
#define GREGORIAN_DAYS  INT64_C(-141427) /* 1582-10-15, the first day of the Gregorian calendar */
#define GREGORIAN_BEGIN (GREGORIAN_DAYS * DAY_SECONDS)

typedef struct date {
    int64_t year; /* 0 is 1 BC */
    int month, day;
} date_t;

struct osync_csv {
    const osync_table_t *table;
    osync__timezone_t *tz;
    osync__tz_span_t span; /* of the timestamp before: the next one is nearly always in it too */
    int64_t days;          /* likewise its day, */
    date_t date;           /* and what day that is */
    osync__buf_t buf;
};

/* --- numbers --- */

static const char two_digits[] =
    "00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748495051"
    "525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";

/* Copies more than the digits, but not more than FIXED_MAX: a copy of a fixed size is the cheaper one. */
static char *put_u64(char *p, uint64_t v) {
    char text[2 * DIGITS_MAX] = {0};
    char *end = text + DIGITS_MAX, *s = end;
    while (v >= 100) {
        s -= 2;
        memcpy(s, two_digits + v % 100 * 2, 2);
        v /= 100;
    }
    if (v >= 10) {
        s -= 2;
        memcpy(s, two_digits + v * 2, 2);
    } else {
        *--s = (char)('0' + v);
    }
    memcpy(p, s, DIGITS_MAX);
    return p + (end - s);
}

static char *put_i64(char *p, int64_t v) {
    if (v >= 0) return put_u64(p, (uint64_t)v);
    *p++ = '-';
    return put_u64(p, 0 - (uint64_t)v);
}

static char *put_2(char *p, int v) {
    memcpy(p, two_digits + v * 2, 2);
    return p + 2;
}

/* --- dates --- */

/* In the Julian calendar, which Java uses for days before the Gregorian one began. */
static int64_t julian_days(int64_t year, int month, int day) {
    int64_t y = year - (month <= 2); /* years begin in March, so that the leap day is a year's last */
    int64_t cycle = (y >= 0 ? y : y - 3) / 4;
    int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return cycle * 1461 + (y - cycle * 4) * 365 + of_year - 719470;
}

static date_t date_of_days(int64_t days) {
    date_t out = {0};
    int64_t of_year = 0;
    if (days >= GREGORIAN_DAYS) {
        int64_t z = days + 719468, era = z / 146097, d = z % 146097;
        int64_t of_era = (d - d / 1460 + d / 36524 - d / 146096) / 365;
        of_year = d - (365 * of_era + of_era / 4 - of_era / 100);
        out.year = era * 400 + of_era;
    } else {
        int64_t z = days + 719470, cycle = (z >= 0 ? z : z - 1460) / 1461, d = z - cycle * 1461;
        int64_t of_cycle = (d - d / 1460) / 365;
        of_year = d - of_cycle * 365;
        out.year = cycle * 4 + of_cycle;
    }
    int64_t m = (5 * of_year + 2) / 153; /* 0 is March */
    out.day = (int)(of_year - (153 * m + 2) / 5) + 1;
    out.month = (int)(m < 10 ? m + 3 : m - 9);
    out.year += out.month <= 2;
    return out;
}

/* Java shows the year of its era and doesn't say which. */
static int64_t year_of_era(int64_t year) {
    return year > 0 ? year : 1 - year;
}

static char *put_month_and_day(char *p, const date_t *d) {
    *p++ = '-';
    p = put_2(p, d->month);
    *p++ = '-';
    return put_2(p, d->day);
}

static char *put_year_4(char *p, int64_t year) {
    int y = (int)(year % 10000);
    return put_2(put_2(p, y / 100), y % 100);
}

static char *put_date(char *p, int64_t packed) {
    static const uint8_t month_days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int32_t v = (int32_t)packed;
    int day = v & 0xff, month = (v >> 8 & 0xff) + 1;
    int year = (v - (v & 0xffff)) / 0x10000 + 1900;
    date_t d = {.year = year, .month = month, .day = day};
    if (year < 1900 || month > 12 || day < 1 || day > month_days[month - 1]) {
        /* Java is lenient: month 13 is the next January, and day 0 the last one of the month before. */
        year += (month - 1) / 12;
        month = (month - 1) % 12 + 1;
        int64_t days = osync__days_from_date(year, month, 1) + day - 1;
        if (days < GREGORIAN_DAYS) days = julian_days(year, month, 1) + day - 1;
        d = date_of_days(days);
        d.year = year_of_era(d.year);
    }
    return put_month_and_day(put_year_4(p, d.year), &d); /* of a longer year Java shows the last four digits */
}

static char *put_timestamp(osync_csv_t *csv, char *p, int64_t ms) {
    int64_t t = ms / MS;
    int fraction = (int)(ms % MS);
    if (fraction < 0) {
        fraction += MS;
        t--;
        /* In Java the milliseconds of that second overflow to the end of time. */
        if (t < INT64_MIN / MS) t = INT64_MAX / MS;
    }
    if (t < csv->span.from || t >= csv->span.until) csv->span = osync__timezone_at(csv->tz, t);
    t += csv->span.offset;
    int64_t days = t / DAY_SECONDS;
    int second = (int)(t % DAY_SECONDS);
    if (second < 0) {
        second += DAY_SECONDS;
        days--;
    }
    if (days != csv->days || csv->date.day == 0) {
        csv->days = days;
        csv->date = date_of_days(days);
        csv->date.year = year_of_era(csv->date.year);
    }
    date_t d = csv->date;
    p = d.year <= 9999 ? put_year_4(p, d.year) : put_i64(p, d.year);
    p = put_month_and_day(p, &d);
    *p++ = ' ';
    p = put_2(p, second / 3600);
    *p++ = ':';
    p = put_2(p, second / 60 % 60);
    *p++ = ':';
    p = put_2(p, second % 60);
    *p++ = '.';
    *p++ = (char)('0' + fraction / 100);
    if (fraction % 100) *p++ = (char)('0' + fraction / 10 % 10);
    if (fraction % 10) *p++ = (char)('0' + fraction % 10);
    return p;
}

/* --- strings --- */

/* What ASCII bytes become: 0 stays as it is, 'u' is \u00XX, others have a backslash before them. Bytes from 0x80 on are
 * marked too, so that a run of plain text ends there. */
static const char escapes[256] = {
#define U8 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u'
    U8, 'b', 't', 'n', 'u', 'f', 'r', 'u', 'u', U8, U8, ['"'] = '"', ['/'] = '/', ['\\'] = '\\', [0x80] = U8, U8, U8,
    U8, U8,  U8,  U8,  U8,  U8,  U8,  U8,  U8,  U8, U8, U8,          U8,
#undef U8
};

/* Whether one of eight bytes is marked in `escapes`. */
static bool any_escaped(uint64_t eight) {
    const uint64_t ones = UINT64_C(0x0101010101010101), high = ones * 0x80;
    uint64_t quote = eight ^ ones * '"', slash = eight ^ ones * '/', backslash = eight ^ ones * '\\';
    /* x - ones has the high bit of a byte that is 0, and not of any other if all those below aren't 0 either: whether
     * there is one is exact. Likewise with 0x20 and what is less. */
    uint64_t zero = ((quote - ones) & ~quote) | ((slash - ones) & ~slash) | ((backslash - ones) & ~backslash);
    return ((zero | ((eight - ones * 0x20) & ~eight) | eight) & high) != 0;
}

static char *put_unicode(char *p, uint32_t unit) {
    static const char hex[] = "0123456789ABCDEF";
    *p++ = '\\';
    *p++ = 'u';
    for (int shift = 12; shift >= 0; shift -= 4) *p++ = hex[unit >> shift & 15];
    return p;
}

static bool continues(uint8_t byte) {
    return (byte & 0xc0) == 0x80;
}

/* Decodes one character at s < end; returns how many bytes it takes. What isn't UTF-8 is U+FFFD, one for the longest
 * beginning of a character that is there. As in Java, an encoded surrogate is one such beginning of three bytes. */
static size_t decode(const uint8_t *s, const uint8_t *end, uint32_t *out) {
    size_t left = (size_t)(end - s), need = 0;
    uint8_t lowest = 0x80, highest = 0xbf; /* of the second byte */
    uint32_t c = s[0];
    *out = 0xfffd;
    if (c < 0xc2 || c > 0xf4) return 1;
    if (c < 0xe0) {
        need = 2;
        c &= 0x1f;
    } else if (c < 0xf0) {
        need = 3;
        if (c == 0xe0) lowest = 0xa0;
        c &= 0x0f;
    } else {
        need = 4;
        if (c == 0xf0) lowest = 0x90;
        if (c == 0xf4) highest = 0x8f;
        c &= 0x07;
    }
    if (left < 2 || s[1] < lowest || s[1] > highest) return 1;
    c = c << 6 | (s[1] & 0x3f);
    for (size_t i = 2; i < need; i++) {
        if (i >= left || !continues(s[i])) return i;
        c = c << 6 | (s[i] & 0x3f);
    }
    if (c < 0xd800 || c > 0xdfff) *out = c;
    return need;
}

static char *put_string(char *p, const uint8_t *s, size_t len) {
    const uint8_t *end = s + len;
    *p++ = '"';
    while (s < end) {
        for (uint64_t eight; end - s >= 8; s += 8, p += 8) {
            memcpy(&eight, s, 8);
            if (any_escaped(eight)) break;
            memcpy(p, &eight, 8);
        }
        while (s < end && !escapes[*s]) *p++ = (char)*s++;
        if (s == end) break;
        if (*s >= 0x80) {
            uint32_t c = 0;
            s += decode(s, end, &c);
            if (c > 0xffff) {
                p = put_unicode(p, 0xd800 + ((c - 0x10000) >> 10));
                c = 0xdc00 + ((c - 0x10000) & 0x3ff);
            }
            p = put_unicode(p, c);
        } else if (escapes[*s] == 'u') {
            p = put_unicode(p, *s++);
        } else {
            *p++ = '\\';
            *p++ = escapes[*s++];
        }
    }
    *p++ = '"';
    return p;
}

/* --- counting --- */

void osync__csv_count_add(osync__csv_count_t *count, const void *data, size_t len) {
    const uint8_t *p = data, *end = p + len;
    while (p < end && !count->bad) {
        uint8_t c = *p++;
        if (count->escaped) {
            count->escaped = false;
            count->bad = c < 0x20 || c >= 0x80;
        } else if (c == '\n') {
            count->bad = count->in_string || !count->in_row;
            count->rows += !count->bad;
            count->in_row = false;
        } else if (c < 0x20 || c >= 0x80) {
            count->bad = true;
        } else {
            count->in_row = true;
            if (c == '"') count->in_string = !count->in_string;
            count->escaped = c == '\\' && count->in_string;
        }
    }
}

/* --- rows --- */

static char *put_text(char *p, const char *text, size_t len) {
    memcpy(p, text, len);
    return p + len;
}

static char *put_column(osync_csv_t *csv, char *p, const osync__row_t *row, size_t column) {
    int type = csv->table->columns[column].type;
    size_t len = 0;
    const uint8_t *s = NULL;
    if (osync__row_is_null(row, column)) return put_text(p, "null", 4);
    switch (type) {
    case OPENMLDB__TYPE__DATA_TYPE__kVarchar:
    case OPENMLDB__TYPE__DATA_TYPE__kString:
        s = osync__row_string(row, column, &len);
        return put_string(p, s, len);
    case OPENMLDB__TYPE__DATA_TYPE__kBool:
        return osync__row_int(row, column, type) ? put_text(p, "true", 4) : put_text(p, "false", 5);
    case OPENMLDB__TYPE__DATA_TYPE__kFloat:
        return p + osync__java_float(p, osync__row_float(row, column));
    case OPENMLDB__TYPE__DATA_TYPE__kDouble:
        return p + osync__java_double(p, osync__row_double(row, column));
    case OPENMLDB__TYPE__DATA_TYPE__kDate:
        return put_date(p, osync__row_int(row, column, type));
    case OPENMLDB__TYPE__DATA_TYPE__kTimestamp:
        return put_timestamp(csv, p, osync__row_int(row, column, type));
    default:
        return put_i64(p, osync__row_int(row, column, type));
    }
}

void osync_csv_config_init(osync_csv_config_t *config, size_t size) {
    osync__config_init(config, size, &(osync_csv_config_t){0}, sizeof *config);
}

int osync_csv_new(osync_csv_t **out, const osync_table_t *table, const osync_csv_config_t *config, osync_error_t *err) {
    osync_csv_config_t own = {0};
    *out = NULL;
    int rc = osync__config_take(&own, sizeof own, config, "osync_csv_config_init", err);
    if (rc) return rc;
    osync_csv_t *csv = osync__calloc(1, sizeof *csv);
    if (!csv) return osync__err(err, OSYNC_ENOMEM, "out of memory for a CSV encoder");
    csv->table = table;
    rc = osync__timezone_load(&csv->tz, own.timezone, err);
    if (!rc && osync__buf_reserve(&csv->buf, 1)) rc = osync__err(err, OSYNC_ENOMEM, "out of memory for a CSV encoder");
    if (rc)
        osync_csv_free(csv);
    else
        *out = csv;
    return rc;
}

void osync_csv_free(osync_csv_t *csv) {
    if (!csv) return;
    osync__timezone_free(csv->tz);
    osync__buf_free(&csv->buf);
    osync__free(csv);
}

int osync_csv_add(osync_csv_t *csv, const void *data, size_t len, osync_error_t *err) {
    osync__row_t row = {0};
    const osync_table_t *table = csv->table;
    int rc = osync__row_open(&row, table, data, len, err);
    if (rc) return rc;
    /* A checked row is less than 4 GiB and has less than 2^17 columns: this can't overflow. */
    uint64_t most = (uint64_t)len * ESCAPED_MAX + (uint64_t)table->n_columns * (FIXED_MAX + QUOTES);
    if (most > SIZE_MAX || osync__buf_reserve(&csv->buf, (size_t)most))
        return osync__err(err, OSYNC_ENOMEM, "table %s.%s: out of memory for the text of a row of %zu bytes", table->db,
                          table->name, len);
    char *begin = (char *)csv->buf.data + csv->buf.len, *p = begin;
    for (size_t i = 0; i < table->n_columns; i++) {
        p = put_column(csv, p, &row, i);
        *p++ = ',';
    }
    p[-1] = '\n';
    csv->buf.len += (size_t)(p - begin);
    return 0;
}

const char *osync_csv_data(const osync_csv_t *csv, size_t *len) {
    *len = csv->buf.len;
    return (const char *)csv->buf.data;
}

void osync_csv_reset(osync_csv_t *csv) {
    csv->buf.len = 0;
}
