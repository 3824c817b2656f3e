/* Assignments of single keys of a table; see options.h. */
#include "config/options.h"

#include <ctype.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/error.h"

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

/* Whether `key` is the first `len` characters of `name`. No key differs from another only in dashes and underscores. */
static bool is_name(const char *key, const char *name, size_t len) {
    for (size_t i = 0; i < len; i++)
        if (key[i] != name[i] && !(key[i] == '-' && name[i] == '_')) return false;
    return !key[len];
}

const osync__option_t *osync__options_find(const osync__options_t *o, const char *key) {
    for (const osync__option_t *t = o->table; t->key; t++)
        if (is_name(key, t->key, strlen(t->key))) return t;
    return NULL;
}

static bool is_other(const osync__options_t *o, const char *key) {
    const char *name = o->others ? o->others : "";
    for (size_t len; *name; name += len + (name[len] == ' ')) {
        len = strcspn(name, " ");
        if (is_name(key, name, len)) return true;
    }
    return false;
}

static int unknown(const osync__options_t *o, const char *key, osync_error_t *err) {
    const osync__option_t *best = o->table;
    for (const osync__option_t *t = o->table; t->key; t++)
        if (distance(key, t->key) < distance(key, best->key)) best = t;
    return osync__err(err, OSYNC_ECONFIG, "unknown key '%s'; did you mean '%s'?", key, best->key);
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

static int set_string(osync__options_t *o, void *field, const char *value, osync_error_t *err) {
    char *copy = osync__strdup(value);
    char **strings = osync__reallocarray(o->strings, o->n_strings + 1, sizeof *strings);
    if (strings) o->strings = strings;
    if (!copy || !strings) {
        osync__free(copy);
        return osync__err(err, OSYNC_ENOMEM, "out of memory for the configuration");
    }
    o->strings[o->n_strings++] = copy;
    memcpy(field, &copy, sizeof copy);
    return 0;
}

static int set_number(const osync__option_t *t, void *field, const char *value, osync_error_t *err) {
    static const char *const byte_suffixes[] = {"", "k", "m", "g", NULL}, *const no_suffix[] = {"", NULL};
    static const char *const time_suffixes[] = {"", "ms", "s", "m", "h", NULL};
    static const unsigned long long byte_factors[] = {1, 1ULL << 10, 1ULL << 20, 1ULL << 30};
    const unsigned long long time_factors[] = {t->unit_ms, 1, 1000, 60000, 3600000}, one = 1;
    unsigned long long v;
    bool ok = false;
    const char *what = "a number", *unit = "";
    if (t->type == OSYNC__OPTION_BYTES) {
        what = "a number of bytes (with K, M or G)";
        unit = " bytes";
        ok = parse_number(value, byte_suffixes, byte_factors, &v);
    } else if (t->type == OSYNC__OPTION_MS) {
        what = "a time (with ms, s, m or h)";
        unit = " ms";
        ok = parse_number(value, time_suffixes, time_factors, &v);
    } else {
        ok = parse_number(value, no_suffix, &one, &v);
    }
    if (!ok) return osync__err(err, OSYNC_ECONFIG, "%s: '%s' is not %s", t->key, value, what);
    if (v < t->min || v > t->max)
        return osync__err(err, OSYNC_ECONFIG, "%s: %s is out of range: %llu to %llu%s", t->key, value, t->min, t->max,
                          unit);
    if (t->type == OSYNC__OPTION_BYTES)
        *(uint64_t *)field = v;
    else if (t->type == OSYNC__OPTION_PORT)
        *(int *)field = (int)v;
    else
        *(uint32_t *)field = (uint32_t)v;
    return 0;
}

int osync__options_set(osync__options_t *o, const char *key, const char *value, const char *source,
                       osync_error_t *err) {
    const osync__option_t *t = osync__options_find(o, key);
    bool other = !t && is_other(o, key);
    if (!t && !other && !value && !strncmp(key, "no", 2)) { /* --noflag: only of keys without a meaning */
        t = osync__options_find(o, key + 2);
        if (t && t->type != OSYNC__OPTION_UNUSED) t = NULL;
        other = !t && is_other(o, key + 2);
        if (t || other) key += 2;
    }
    if (!t && !other) return unknown(o, key, err);
    if (other || t->type == OSYNC__OPTION_UNUSED) {
        osync__log(OSYNC_LOG_INFO, "%s: %s has no meaning here (%s)", source, key, other ? o->others_reason : t->help);
        return 0;
    }
    if (!value) return osync__err(err, OSYNC_ECONFIG, "%s needs a value: %s=...", t->key, t->key);
    void *field = (char *)o->target + t->offset;
    return t->type == OSYNC__OPTION_STRING ? set_string(o, field, value, err) : set_number(t, field, value, err);
}

int osync__options_check(const osync__options_t *o, osync_error_t *err) {
    for (const osync__option_t *t = o->table; t->key; t++) {
        const char *value = NULL;
        if (!t->required) continue;
        memcpy(&value, (const char *)o->target + t->offset, sizeof value);
        if (!value || !*value)
            return osync__err(err, OSYNC_ECONFIG,
                              "%s is not set: set it in the configuration file or on the command line", t->key);
    }
    return 0;
}

void osync__options_free(osync__options_t *o) {
    for (size_t i = 0; i < o->n_strings; i++) osync__free(o->strings[i]);
    osync__free(o->strings);
    o->strings = NULL;
    o->n_strings = 0;
}
