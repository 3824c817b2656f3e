#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static int fail(osync_error_t *err, int code, const char *fmt, ...) OSYNC_PRINTF(3, 4);

static int fail(osync_error_t *err, int code, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    err->code = code;
    (void)vsnprintf(err->message, sizeof err->message, fmt, ap);
    va_end(ap);
    return code;
}

/* Levenshtein distance, up to names of 63 characters. */
static size_t distance(const char *a, const char *b) {
    size_t row[64], n = strlen(b);
    if (n > 63 || strlen(a) > 63) return 64;
    for (size_t j = 0; j <= n; j++) row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 1; j <= n; j++) {
            size_t cost = diagonal + (a[i] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < cost) cost = row[j] + 1;
            if (row[j - 1] + 1 < cost) cost = row[j - 1] + 1;
            row[j] = cost;
        }
    }
    return row[n];
}

/* Whether `key` is the first `len` characters of `name`. gflags takes dashes for underscores; no key differs only
 * there. */
static bool is_name(const char *key, const char *name, size_t len) {
    for (size_t i = 0; i < len; i++)
        if (key[i] != name[i] && !(key[i] == '-' && name[i] == '_')) return false;
    return !key[len];
}

static const option_t *find(const options_t *o, const char *key) {
    for (const option_t *t = o->table; t->key; t++)
        if (is_name(key, t->key, strlen(t->key))) return t;
    return NULL;
}

static bool is_other(const options_t *o, const char *key) {
    const char *name = o->others ? o->others : "";
    for (size_t len; *name; name += len + (name[len] == ' ')) {
        len = strcspn(name, " ");
        if (is_name(key, name, len)) return true;
    }
    return false;
}

static int unknown(const options_t *o, const char *key, osync_error_t *err) {
    const option_t *best = o->table;
    for (const option_t *t = o->table; t->key; t++)
        if (distance(key, t->key) < distance(key, best->key)) best = t;
    return fail(err, OSYNC_ECONFIG, "unknown key '%s'; did you mean '%s'?", key, best->key);
}

/* A number with a suffix of the given table ("" first, factor 1 or the key's own unit). */
static bool parse_number(const char *text, const char *const *suffixes, const unsigned long long *factors,
                         unsigned long long *out) {
    char *end;
    if (!isdigit((unsigned char)text[0])) return false;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (errno) return false;
    for (size_t i = 0; suffixes[i]; i++) {
        if (strcasecmp(end, suffixes[i]) != 0) continue;
        return !__builtin_mul_overflow(v, factors[i], out);
    }
    return false;
}

static int set_string(options_t *o, void *field, const char *value, osync_error_t *err) {
    char *copy = strdup(value);
    void **strings = realloc(o->strings, (o->n_strings + 1) * sizeof *strings);
    if (strings) o->strings = strings;
    if (!copy || !strings) {
        free(copy);
        return fail(err, OSYNC_ENOMEM, "out of memory");
    }
    o->strings[o->n_strings++] = copy;
    memcpy(field, &copy, sizeof copy);
    return 0;
}

static int set_number(const option_t *t, void *field, const char *value, osync_error_t *err) {
    static const char *const byte_suffixes[] = {"", "k", "m", "g", NULL}, *const no_suffix[] = {"", NULL};
    static const char *const time_suffixes[] = {"", "ms", "s", "m", "h", NULL};
    static const unsigned long long byte_factors[] = {1, 1ULL << 10, 1ULL << 20, 1ULL << 30};
    const unsigned long long time_factors[] = {t->unit_ms ? t->unit_ms : 1, 1, 1000, 60000, 3600000}, one = 1;
    unsigned long long v, max = t->max;
    bool ok = false;
    const char *what = "a number";
    if (!max) max = t->type == OPTION_BYTES ? UINT64_MAX : t->type == OPTION_PORT ? 65535 : UINT32_MAX;
    if (t->type == OPTION_BYTES) {
        what = "a number of bytes (with K, M or G)";
        ok = parse_number(value, byte_suffixes, byte_factors, &v);
    } else if (t->type == OPTION_MS) {
        what = "a time (with ms, s, m or h)";
        ok = parse_number(value, time_suffixes, time_factors, &v);
    } else {
        ok = parse_number(value, no_suffix, &one, &v);
    }
    if (!ok) return fail(err, OSYNC_ECONFIG, "%s: '%s' is not %s", t->key, value, what);
    if (v < t->min || v > max)
        return fail(err, OSYNC_ECONFIG, "%s: %s is out of range: %llu to %llu%s", t->key, value, t->min, max,
                    t->type == OPTION_MS      ? " ms"
                    : t->type == OPTION_BYTES ? " bytes"
                                              : "");
    if (t->type == OPTION_BYTES)
        *(uint64_t *)field = v;
    else if (t->type == OPTION_PORT)
        *(int *)field = (int)v;
    else
        *(uint32_t *)field = (uint32_t)v;
    return 0;
}

static int set_bool(const option_t *t, void *field, const char *value, osync_error_t *err) {
    static const char *const words[] = {"1", "t", "true", "y", "yes", "0", "f", "false", "n", "no"}; /* as gflags */
    size_t n = sizeof words / sizeof *words, i = 0;
    while (i < n && strcasecmp(value, words[i]) != 0) i++;
    if (i == n) return fail(err, OSYNC_ECONFIG, "%s: '%s' is neither true nor false", t->key, value);
    *(bool *)field = i < n / 2;
    return 0;
}

int options_set(options_t *o, const char *key, const char *value, osync_error_t *err) {
    const option_t *t = find(o, key);
    bool other = !t && is_other(o, key);
    if (!t && !other && !value && !strncmp(key, "no", 2)) { /* --noflag */
        t = find(o, key + 2);
        if (t && t->type != OPTION_BOOL && t->type != OPTION_UNUSED) t = NULL;
        other = !t && is_other(o, key + 2);
        if (t || other) key += 2;
        value = "false";
    }
    if (!t && !other) return unknown(o, key, err);
    if (other || t->type == OPTION_UNUSED) {
        fprintf(stderr, "%s: %s has no meaning here (%s)\n", o->source, key, other ? o->others_reason : t->help);
        return 0;
    }
    void *field = (char *)o->target + t->offset;
    if (t->type == OPTION_BOOL) return set_bool(t, field, value ? value : "true", err);
    if (!value) return fail(err, OSYNC_ECONFIG, "%s needs a value: %s=...", t->key, t->key);
    return t->type == OPTION_STRING ? set_string(o, field, value, err) : set_number(t, field, value, err);
}

int options_require(const options_t *o, const char *key, osync_error_t *err) {
    const char *value = NULL;
    memcpy(&value, (const char *)o->target + find(o, key)->offset, sizeof value);
    if (value && *value) return 0;
    return fail(err, OSYNC_ECONFIG, "%s is not set: set it in the configuration file or on the command line", key);
}

static char *trim(char *s) {
    while (isspace((unsigned char)*s)) s++;
    char *end = s + strlen(s);
    while (end > s && isspace((unsigned char)end[-1])) *--end = 0;
    return s;
}

static int at_line(const char *path, unsigned line, osync_error_t *err) {
    osync_error_t cause = *err;
    return fail(err, cause.code, "%s, line %u: %.900s", path, line, cause.message);
}

static int open_file(const char *path, FILE **f, osync_error_t *err) {
    *f = fopen(path, "re");
    return *f ? 0 : fail(err, OSYNC_ECONFIG, "%s: %s", path, strerror(errno));
}

int options_read_flags(options_t *o, const char *path, osync_error_t *err) {
    char *line = NULL;
    size_t cap = 0;
    unsigned n = 0;
    FILE *f;
    int rc = open_file(path, &f, err);
    if (rc) return rc;
    o->source = path;
    while (!rc && getline(&line, &cap, f) >= 0) {
        char *s = trim(line);
        n++;
        if (!*s || *s == '#') continue;
        if (*s != '-') rc = fail(err, OSYNC_ECONFIG, "'%s' is not of the form --key=value", s);
        while (*s == '-') s++;
        char *eq = strchr(s, '=');
        if (eq) *eq = 0;
        if (!rc) rc = options_set(o, trim(s), eq ? trim(eq + 1) : NULL, err);
        if (rc) at_line(path, n, err);
    }
    free(line);
    fclose(f);
    return rc;
}

static size_t trailing_backslashes(const char *s, size_t len) {
    size_t n = 0;
    while (n < len && s[len - 1 - n] == '\\') n++;
    return n;
}

/* One logical line of a properties file: `\` at the end continues it. *first: the number of its first physical line, 0
 * at the end of the file. */
static int logical_line(FILE *f, char **line, size_t *cap, unsigned *n, unsigned *first, osync_error_t *err) {
    char *part = NULL;
    size_t part_cap = 0, len = 0;
    bool more = true;
    ssize_t got;
    int rc = 0;
    *first = 0;
    while (more && (got = getline(&part, &part_cap, f)) >= 0) {
        ++*n;
        if (!*first) *first = *n;
        while (got > 0 && (part[got - 1] == '\n' || part[got - 1] == '\r')) part[--got] = 0;
        char *s = part;
        while (isspace((unsigned char)*s)) s++;
        size_t add = strlen(s);
        more = (len > 0 || (*s != '#' && *s != '!')) && trailing_backslashes(s, add) % 2 == 1;
        if (more) s[--add] = 0;
        if (len + add + 1 > *cap) {
            char *grown = realloc(*line, (len + add + 1) * 2);
            if (!grown) {
                rc = fail(err, OSYNC_ENOMEM, "out of memory");
                break;
            }
            *line = grown;
            *cap = (len + add + 1) * 2;
        }
        memcpy(*line + len, s, add + 1);
        len += add;
    }
    free(part);
    return rc;
}

/* One UTF-16 unit as UTF-8. */
static char *put_unit(char *to, unsigned unit) {
    if (unit < 0x80) {
        *to++ = (char)unit;
    } else if (unit < 0x800) {
        *to++ = (char)(0xc0 | (unit >> 6));
        *to++ = (char)(0x80 | (unit & 0x3f));
    } else {
        *to++ = (char)(0xe0 | (unit >> 12));
        *to++ = (char)(0x80 | ((unit >> 6) & 0x3f));
        *to++ = (char)(0x80 | (unit & 0x3f));
    }
    return to;
}

/* Java's escapes, in place: \t \n \f \r \uXXXX, and a backslash before anything else means that. */
static int unescape(char *text, osync_error_t *err) {
    static const char from[] = "tnfr", to[] = "\t\n\f\r";
    char *out = text;
    for (const char *s = text; *s; s++) {
        if (*s != '\\') {
            *out++ = *s;
            continue;
        }
        const char *known = *++s ? strchr(from, *s) : NULL;
        if (!*s) break;
        if (known) {
            *out++ = to[known - from];
        } else if (*s == 'u') {
            unsigned unit = 0;
            for (int i = 0; i < 4; i++) {
                unsigned char c = (unsigned char)*++s;
                if (!isxdigit(c)) return fail(err, OSYNC_ECONFIG, "\\u must be followed by four hex digits");
                unit = unit * 16 + (isdigit(c) ? (unsigned)c - '0' : (unsigned)tolower(c) - 'a' + 10);
            }
            if (!unit) return fail(err, OSYNC_ECONFIG, "\\u0000 has no place in a key or a value");
            out = put_unit(out, unit);
        } else {
            *out++ = *s;
        }
    }
    *out = 0;
    return 0;
}

int options_read_properties(options_t *o, const char *path, osync_error_t *err) {
    char *line = NULL;
    size_t cap = 0;
    unsigned n = 0, first = 0;
    FILE *f;
    int rc = open_file(path, &f, err);
    if (rc) return rc;
    o->source = path;
    while (!(rc = logical_line(f, &line, &cap, &n, &first, err)) && first > 0) {
        char *key = trim(line), *end = key;
        if (!*key || *key == '#' || *key == '!') continue;
        while (*end && !strchr("=: \t\f", *end)) end += *end == '\\' && end[1] ? 2 : 1;
        char *value = end;
        while (isspace((unsigned char)*value)) value++;
        if (*value == '=' || *value == ':') value++;
        value = trim(value);
        *end = 0;
        rc = unescape(key, err);
        if (!rc) rc = unescape(value, err);
        if (!rc) rc = options_set(o, key, value, err);
        if (rc) {
            at_line(path, first, err);
            break;
        }
    }
    free(line);
    fclose(f);
    return rc;
}

static void print_value(const option_t *t, const void *field) {
    switch (t->type) {
    case OPTION_STRING: {
        const char *s;
        memcpy(&s, field, sizeof s);
        printf("%s", s ? s : "");
        break;
    }
    case OPTION_BOOL:
        printf("%s", *(const bool *)field ? "true" : "false");
        break;
    case OPTION_PORT:
        printf("%d", *(const int *)field);
        break;
    case OPTION_BYTES:
        printf("%llu", (unsigned long long)*(const uint64_t *)field);
        break;
    case OPTION_MS:
        printf("%ums", *(const uint32_t *)field);
        break;
    case OPTION_COUNT:
        printf("%u", *(const uint32_t *)field);
        break;
    case OPTION_UNUSED:
        break;
    }
}

void options_print_help(const options_t *o) {
    for (const option_t *t = o->table; t->key; t++) {
        if (t->type == OPTION_UNUSED) continue;
        printf("  %s (", t->key);
        print_value(t, (const char *)o->target + t->offset);
        printf(")\n      %s\n", t->help);
    }
}

void options_free(options_t *o) {
    for (size_t i = 0; i < o->n_strings; i++) free(o->strings[i]);
    free(o->strings);
    o->strings = NULL;
    o->n_strings = 0;
}
