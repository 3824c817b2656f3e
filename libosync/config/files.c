/* Files of assignments: gflags' and Java's; see options.h. */
#include <ctype.h>
#include <stdbool.h>
#include <string.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/sys.h"
#include "config/options.h"

enum { FILE_LIMIT = 1 << 20 }; /* bytes of one */

static char *trim(char *s) {
    while (isspace((unsigned char)*s)) s++;
    char *end = s + strlen(s);
    while (end > s && isspace((unsigned char)end[-1])) *--end = 0;
    return s;
}

static int at_line(const char *path, unsigned line, const osync_error_t *cause, osync_error_t *err) {
    return osync__err_wrap(err, cause, "%s, line %u", path, line);
}

/* A file's text, of which lines are taken one by one, in place. */
typedef struct text {
    osync__buf_t bytes;
    char *next, *end;
    unsigned line; /* number of the one that was taken last */
} text_t;

static int read_text(const char *path, text_t *t, osync_error_t *err) {
    osync_error_t cause = {0};
    if (osync__read_file(path, FILE_LIMIT, &t->bytes, &cause))
        return osync__err(err, OSYNC_ECONFIG, "%s", cause.message);
    t->next = (char *)t->bytes.data;
    t->end = t->next + t->bytes.len;
    return 0;
}

/* NULL: there are no more. */
static char *next_line(text_t *t) {
    char *line = t->next;
    if (line == t->end) return NULL;
    char *end = memchr(line, '\n', (size_t)(t->end - line));
    t->next = end ? end + 1 : t->end;
    if (end) *end = 0;
    t->line++;
    return line;
}

int osync__options_read_flags(osync__options_t *o, const char *path, osync_error_t *err) {
    osync_error_t cause = {0};
    text_t text = {0};
    char *s;
    int rc = read_text(path, &text, err);
    while (!rc && (s = next_line(&text))) {
        s = trim(s);
        if (!*s || *s == '#') continue;
        if (*s != '-') rc = osync__err(&cause, OSYNC_ECONFIG, "'%.900s' is not of the form --key=value", s);
        while (*s == '-') s++;
        char *eq = strchr(s, '=');
        if (eq) *eq = 0;
        if (!rc) rc = osync__options_set(o, trim(s), eq ? trim(eq + 1) : NULL, path, &cause);
        if (rc) at_line(path, text.line, &cause, err);
    }
    osync__buf_free(&text.bytes);
    return rc;
}

static size_t trailing_backslashes(const char *s, size_t len) {
    size_t n = 0;
    while (n < len && s[len - 1 - n] == '\\') n++;
    return n;
}

/* One logical line of a properties file: `\` at the end continues it. NULL: there are no more. *first: the number of
 * its first physical line. */
static char *logical_line(text_t *t, unsigned *first) {
    char *line = next_line(t), *to = line, *part = line;
    *first = t->line;
    while (part) {
        while (isspace((unsigned char)*part)) part++;
        size_t len = strlen(part);
        while (len > 0 && part[len - 1] == '\r') len--;
        bool comment = to == line && (*part == '#' || *part == '!');
        bool more = !comment && trailing_backslashes(part, len) % 2 == 1;
        if (more) len--;
        memmove(to, part, len);
        to += len;
        *to = 0;
        part = more ? next_line(t) : NULL;
    }
    return line;
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
                if (!isxdigit(c)) return osync__err(err, OSYNC_ECONFIG, "\\u must be followed by four hex digits");
                unit = unit * 16 + (isdigit(c) ? (unsigned)c - '0' : (unsigned)tolower(c) - 'a' + 10);
            }
            if (!unit) return osync__err(err, OSYNC_ECONFIG, "\\u0000 has no place in a key or a value");
            out = put_unit(out, unit);
        } else {
            *out++ = *s;
        }
    }
    *out = 0;
    return 0;
}

int osync__options_read_properties(osync__options_t *o, const char *path, osync_error_t *err) {
    osync_error_t cause = {0};
    text_t text = {0};
    unsigned first = 0;
    char *line;
    int rc = read_text(path, &text, err);
    while (!rc && (line = logical_line(&text, &first))) {
        char *key = trim(line), *end = key;
        if (!*key || *key == '#' || *key == '!') continue;
        while (*end && !strchr("=: \t\f", *end)) end += *end == '\\' && end[1] ? 2 : 1;
        char *value = end;
        while (isspace((unsigned char)*value)) value++;
        if (*value == '=' || *value == ':') value++;
        value = trim(value);
        *end = 0;
        rc = unescape(key, &cause);
        if (!rc) rc = unescape(value, &cause);
        if (!rc) rc = osync__options_set(o, key, value, path, &cause);
        if (rc) at_line(path, first, &cause, err);
    }
    osync__buf_free(&text.bytes);
    return rc;
}
