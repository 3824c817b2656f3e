/* Disk-table snapshots: the text of MANIFEST, the key form and order, and read-only access to a RocksDB checkpoint.
 *
 * It knows nothing of the binlog, of TTLs or of rows: values are handed on as they are stored. */
#include "format/snapshot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/sys.h"
#include "format/skim.h"

/* ---- MANIFEST: protobuf's text format of api.Manifest ---- */

enum { MAX_NESTING = 32, TS_SIZE = 8, COL_ID_SIZE = 4 };

typedef struct text {
    const char *p, *end;
    unsigned line;
    osync_error_t *err;
} text_t;

static int bad_text(const text_t *t, const char *what) {
    return osync__err(t->err, OSYNC_ECORRUPT, "snapshot MANIFEST, line %u: %s", t->line, what);
}

static void skip_space(text_t *t) {
    while (t->p < t->end) {
        if (*t->p == '#') {
            while (t->p < t->end && *t->p != '\n') t->p++;
        } else if (*t->p == '\n') {
            t->line++;
            t->p++;
        } else if (*t->p == ' ' || (*t->p >= '\t' && *t->p <= '\r')) {
            t->p++;
        } else {
            break;
        }
    }
}

static bool take(text_t *t, char c) {
    skip_space(t);
    if (t->p == t->end || *t->p != c) return false;
    t->p++;
    return true;
}

static bool is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static bool is_scalar(char c) {
    return is_word(c) || c == '.' || c == '+' || c == '-';
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

static int parse_word(text_t *t, const char **word, size_t *len) {
    skip_space(t);
    const char *start = t->p;
    while (t->p < t->end && is_word(*t->p)) t->p++;
    *word = start;
    *len = (size_t)(t->p - start);
    return *len ? 0 : bad_text(t, "a name or a value was expected");
}

/* Decimal, 0x hexadecimal or 0 octal, as the text format has it. */
static int parse_uint(text_t *t, uint64_t *out) {
    const char *s;
    size_t len, i = 0;
    int rc = parse_word(t, &s, &len);
    if (rc) return rc;
    unsigned base = 10;
    if (len > 2 && s[0] == '0' && (s[1] == 'x' || s[1] == 'X')) {
        base = 16;
        i = 2;
    } else if (len > 1 && s[0] == '0') {
        base = 8;
        i = 1;
    }
    uint64_t value = 0;
    for (; i < len; i++) {
        int digit = hex_digit(s[i]);
        if (digit < 0 || (unsigned)digit >= base) return bad_text(t, "a number was expected");
        if (value > (UINT64_MAX - (unsigned)digit) / base) return bad_text(t, "a number is too large");
        value = value * base + (unsigned)digit;
    }
    *out = value;
    return 0;
}

/* The character after a backslash, and more of it for octal and hexadecimal escapes. */
static int parse_escape(text_t *t, char *out) {
    static const char names[] = "abfnrtv\\'\"?", values[] = "\a\b\f\n\r\t\v\\'\"?";
    if (t->p == t->end) return bad_text(t, "a string doesn't end");
    char c = *t->p++;
    const char *name = c ? strchr(names, c) : NULL;
    unsigned value = 0;
    if (name) {
        *out = values[name - names];
        return 0;
    }
    if (c >= '0' && c <= '7') {
        value = (unsigned)(c - '0');
        for (int n = 1; n < 3 && t->p < t->end && *t->p >= '0' && *t->p <= '7'; n++)
            value = value * 8 + (unsigned)(*t->p++ - '0');
    } else if ((c == 'x' || c == 'X') && t->p < t->end && hex_digit(*t->p) >= 0) {
        for (int n = 0; n < 2 && t->p < t->end && hex_digit(*t->p) >= 0; n++)
            value = value * 16 + (unsigned)hex_digit(*t->p++);
    } else {
        return bad_text(t, "a string holds an unknown escape");
    }
    if (value > 255) return bad_text(t, "an escape in a string is too large");
    *out = (char)value;
    return 0;
}

/* One or more adjacent quoted strings, which count as one. `out` NULL: only skipped. */
static int parse_string(text_t *t, char *out, size_t size) {
    size_t len = 0;
    bool any = false;
    for (;;) {
        skip_space(t);
        if (t->p == t->end || (*t->p != '"' && *t->p != '\'')) break;
        any = true;
        char quote = *t->p++;
        for (;;) {
            if (t->p == t->end || *t->p == '\n') return bad_text(t, "a string doesn't end");
            char c = *t->p++;
            if (c == quote) break;
            int rc = c == '\\' ? parse_escape(t, &c) : 0;
            if (rc) return rc;
            if (!out) continue;
            /* The name becomes part of a path, so nothing but a plain file name may get through. */
            if (c < 0x20 || c > 0x7e || c == '/') return bad_text(t, "the snapshot's name is not a plain file name");
            if (len + 1 >= size) return bad_text(t, "the snapshot's name is too long");
            out[len++] = c;
        }
    }
    if (!any) return bad_text(t, "a string was expected");
    if (out) out[len] = 0;
    return 0;
}

/* A value of a field that isn't known here: a scalar, a list, or a message in braces. */
static int skip_value(text_t *t, bool colon) {
    unsigned depth = 0;
    do {
        skip_space(t);
        if (t->p == t->end) return bad_text(t, "a field has no end");
        char c = *t->p;
        if (c == '{' || c == '<' || c == '[') {
            if (++depth > MAX_NESTING) return bad_text(t, "messages are nested too deeply");
            t->p++;
        } else if (c == '}' || c == '>' || c == ']') {
            if (depth-- == 0) return bad_text(t, "a bracket closes what isn't open");
            t->p++;
        } else if (depth == 0 && !colon) {
            return bad_text(t, "a ':' was expected");
        } else if (c == '"' || c == '\'') {
            int rc = parse_string(t, NULL, 0);
            if (rc) return rc;
        } else if (is_scalar(c)) {
            while (t->p < t->end && is_scalar(*t->p)) t->p++;
        } else if (depth > 0 && (c == ':' || c == ',' || c == ';')) {
            t->p++;
        } else {
            return bad_text(t, "a character that has no place there");
        }
    } while (depth > 0);
    return 0;
}

int osync__manifest_parse(const char *text, size_t len, osync__manifest_t *out, osync_error_t *err) {
    text_t t = {.p = text, .end = text + len, .line = 1, .err = err};
    struct {
        const char *name;
        uint64_t *number; /* NULL: the string */
        bool seen;
    } fields[] = {{"offset", &out->offset, false},
                  {"name", NULL, false},
                  {"count", &out->count, false},
                  {"term", &out->term, false}};
    enum { N_FIELDS = sizeof fields / sizeof fields[0] };

    *out = (osync__manifest_t){0};
    for (skip_space(&t); t.p < t.end; skip_space(&t)) {
        const char *word;
        size_t n, i = 0;
        int rc = parse_word(&t, &word, &n);
        if (rc) return rc;
        bool colon = take(&t, ':');
        while (i < N_FIELDS && (strlen(fields[i].name) != n || memcmp(fields[i].name, word, n) != 0)) i++;
        if (i == N_FIELDS) {
            rc = skip_value(&t, colon);
        } else if (!colon) {
            rc = bad_text(&t, "a ':' was expected");
        } else if (fields[i].seen) {
            rc = bad_text(&t, "a field is given twice");
        } else {
            fields[i].seen = true;
            rc = fields[i].number ? parse_uint(&t, fields[i].number) : parse_string(&t, out->name, sizeof out->name);
        }
        if (rc) return rc;
        if (!take(&t, ',')) (void)take(&t, ';');
    }
    if (!out->name[0]) return osync__err(err, OSYNC_ECORRUPT, "snapshot MANIFEST has no name of a snapshot");
    if (strcmp(out->name, ".") == 0 || strcmp(out->name, "..") == 0)
        return osync__err(err, OSYNC_ECORRUPT, "snapshot MANIFEST: the name \"%s\" is not a plain file name",
                          out->name);
    return 0;
}

/* ---- keys ---- */

/* A key too short to hold a ts is never written, but the order has to be total. */
static inline size_t prefix_of(const void *key, size_t len, uint64_t *ts) {
    *ts = 0;
    if (len < TS_SIZE) return 0;
    *ts = osync__get_u64le((const uint8_t *)key + len - TS_SIZE);
    return len - TS_SIZE;
}

static uint64_t get_u64be(const uint8_t *p) {
    uint64_t v = 0;
    for (int i = 0; i < 8; i++) v = v << 8 | p[i];
    return v;
}

/* RocksDB asks several times for each entry, and mostly the first eight bytes tell. */
static inline int compare_keys(const void *a, size_t a_len, const void *b, size_t b_len) {
    uint64_t a_ts, b_ts;
    size_t a_prefix = prefix_of(a, a_len, &a_ts), b_prefix = prefix_of(b, b_len, &b_ts);
    size_t common = a_prefix < b_prefix ? a_prefix : b_prefix;
    int order = 0;
    if (common >= 8) {
        uint64_t a_head = get_u64be(a), b_head = get_u64be(b);
        if (a_head != b_head) return a_head < b_head ? -1 : 1;
        if (common > 8) order = memcmp((const uint8_t *)a + 8, (const uint8_t *)b + 8, common - 8);
    } else if (common > 0) {
        order = memcmp(a, b, common);
    }
    if (order) return order < 0 ? -1 : 1;
    if (a_prefix != b_prefix) return a_prefix < b_prefix ? -1 : 1;
    return a_ts == b_ts ? 0 : a_ts > b_ts ? -1 : 1;
}

int osync__key_compare(const void *a, size_t a_len, const void *b, size_t b_len) {
    return compare_keys(a, a_len, b, b_len);
}

static int compare_cb(void *state, const char *a, size_t a_len, const char *b, size_t b_len) {
    (void)state;
    return compare_keys(a, a_len, b, b_len);
}

static const char *comparator_name(void *state) {
    (void)state;
    return "KeyTSComparator";
}

static void no_state(void *state) {
    (void)state;
}

rocksdb_comparator_t *osync__key_comparator(void) {
    return rocksdb_comparator_create(NULL, no_state, compare_cb, comparator_name);
}

int osync__key_encode(const osync_table_t *table, const void *pk, size_t pk_len, uint64_t ts, osync__buf_t *out) {
    uint8_t tail[COL_ID_SIZE + TS_SIZE];
    size_t n = 0;
    if (pk_len > SIZE_MAX / 4) return OSYNC_ENOMEM;
    int rc = osync__buf_reserve(out, pk_len + sizeof tail);
    if (rc) return rc;
    if (table->multi_ts) {
        osync__put_u32le(tail, table->ts_col_id);
        n = COL_ID_SIZE;
    }
    osync__put_u64le(tail + n, ts);
    rc = osync__buf_append(out, pk, pk_len);
    return rc ? rc : osync__buf_append(out, tail, n + TS_SIZE);
}

int osync__key_decode(const osync_table_t *table, const void *key, size_t len, size_t *pk_len, uint64_t *ts,
                      bool *other, osync_error_t *err) {
    size_t tail = table->multi_ts ? COL_ID_SIZE + TS_SIZE : TS_SIZE;
    if (len < tail)
        return osync__err(err, OSYNC_ECORRUPT,
                          "a key of the base index of %s has %zu bytes, at least %zu were expected",
                          table->name ? table->name : "the table", len, tail);
    *pk_len = len - tail;
    *ts = osync__get_u64le((const uint8_t *)key + len - TS_SIZE);
    *other = false;
    if (!table->multi_ts) return 0;
    uint32_t id = osync__get_u32le((const uint8_t *)key + *pk_len);
    *other = id != table->ts_col_id;
    /* Keys without an id, taken for keys with one, would all look like another column's and be lost without a word. */
    if (*other && id >= table->n_columns && id != OSYNC__AUTO_TS_COL_ID)
        return osync__err(
            err, OSYNC_ECORRUPT,
            "a key of the base index of %s names ts column %u, which the table doesn't have: its keys may have "
            "no column id",
            table->name ? table->name : "the table", id);
    return 0;
}

/* ---- the checkpoint ---- */

/* Memory and open files of one snapshot; a traverse touches each block once, so that a large cache would be of no use.
 */
#define BLOCK_CACHE_SIZE (8u << 20)
/* RocksDB reads ahead for each sorted run on its own: each file of level 0, and each level below it. */
#define READAHEAD_TOTAL (8u << 20)
#define READAHEAD_MOST  (2u << 20)
#define READAHEAD_LEAST (128u << 10)
enum { MAX_OPEN_FILES = 256, FATAL_LEVEL = 4 /* rocksdb::InfoLogLevel */ };
/* What is mostly in the page cache already is read from there, and what isn't past it, so that a tablet's cache stays
 * what it was. "Mostly": MOSTLY of the LOOKS at each file. */
enum { LOOKS = 8, MOSTLY = 7 };

int osync__snapshot_id(const char *dir, char id[OSYNC__SNAPSHOT_ID], osync_error_t *err) {
    char current[4096];
    if ((size_t)snprintf(current, sizeof current, "%s/CURRENT", dir) >= sizeof current)
        return osync__err(err, OSYNC_ETOOBIG, "path is too long: %s", dir);
    return osync__file_id(current, id, err);
}

int osync__file_id(const char *path, char id[OSYNC__SNAPSHOT_ID], osync_error_t *err) {
    struct stat st;
    if (stat(path, &st)) return osync__err_errno(err, errno, "stat %s", path);
    (void)snprintf(id, OSYNC__SNAPSHOT_ID, "%llx-%llx-%llx.%09lx", (unsigned long long)st.st_dev,
                   (unsigned long long)st.st_ino, (unsigned long long)st.st_mtim.tv_sec,
                   (unsigned long)st.st_mtim.tv_nsec);
    return 0;
}

struct osync__snapshot {
    char *dir;
    osync_table_t table; /* a shallow copy, with the key form that this checkpoint has */
    rocksdb_cache_t *cache;
    rocksdb_comparator_t *comparator;
    rocksdb_options_t *options, *base_options;
    rocksdb_readoptions_t *get_options, *traverse_options;
    rocksdb_t *db;
    rocksdb_column_family_handle_t *default_cf, *base_cf;
    rocksdb_iterator_t *cursor;
    bool at_next; /* the cursor already stands on the entry that the next call gives */
};

/* RocksDB gives no code, only a text that begins with the kind of the error. Frees the text. */
static int rocksdb_failed(osync_error_t *err, char *text, const char *dir, const char *doing) {
    static const struct {
        const char *kind;
        int code;
    } kinds[] = {{"Corruption", OSYNC_ECORRUPT},
                 {"Invalid argument", OSYNC_EINVAL},
                 {"Not implemented", OSYNC_ENOTSUP},
                 {"NotFound", OSYNC_ENOENT}};
    int code = OSYNC_EIO;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strncmp(text, kinds[i].kind, strlen(kinds[i].kind)) == 0) code = kinds[i].code;
    if (code == OSYNC_EIO && strstr(text, "No such file or directory")) code = OSYNC_ENOENT;
    code = osync__err(err, code, "%s snapshot %s: %s", doing, dir, text);
    rocksdb_free(text);
    return code;
}

static rocksdb_options_t *make_options(rocksdb_cache_t *cache) {
    rocksdb_options_t *options = rocksdb_options_create();
    rocksdb_block_based_table_options_t *blocks = rocksdb_block_based_options_create();
    rocksdb_block_based_options_set_block_cache(blocks, cache);
    rocksdb_options_set_block_based_table_factory(options, blocks);
    rocksdb_block_based_options_destroy(blocks);
    rocksdb_options_set_max_open_files(options, MAX_OPEN_FILES);
    rocksdb_options_set_max_file_opening_threads(options, 1); /* else each open starts, and ends, 16 of them */
    rocksdb_options_set_create_if_missing(options, 0);
    rocksdb_options_set_paranoid_checks(options, 1);
    /* With the disk full, the second line of RocksDB's own log would end the process: Debian leaves assertions on. */
    rocksdb_options_set_info_log_level(options, FATAL_LEVEL);
    return options;
}

/* True also if nothing can be said. */
static bool is_mostly_cached(const char *dir) {
    uint64_t cached = 0, all = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        const char *dot = strrchr(e->d_name, '.');
        struct stat st;
        if (!dot || strcmp(dot, ".sst") != 0) continue;
        int fd = openat(dirfd(d), e->d_name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0) continue;
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM); /* a look reads one page, and no more */
        uint64_t size = !fstat(fd, &st) && S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
        for (uint64_t i = 0; i < LOOKS; i++) {
            all += size;
            if (osync__skim_look(fd, size / LOOKS * i + size / LOOKS / 2) == OSYNC__CACHED) cached += size;
        }
        close(fd);
    }
    if (d) closedir(d);
    return cached / MOSTLY >= all / LOOKS;
}

/* Looks at the column families that are there: the base index's must be among them. An index that was added at run time
 * has one of its own; until the tablet loads the table again, the base index is then alone in its own, with keys of the
 * short form. */
static int choose_column_family(osync__snapshot_t *s, osync_error_t *err) {
    char *failure = NULL;
    osync__buf_t shown = {0};
    size_t n = 0;
    bool found = false;
    int rc = 0;
    char **names = rocksdb_list_column_families(s->options, s->dir, &n, &failure);
    if (failure) {
        if (names) rocksdb_list_column_families_destroy(names, n); /* an empty list, but an allocated one */
        return rocksdb_failed(err, failure, s->dir, "list the column families of");
    }
    for (size_t i = 0; i < n && !rc; i++) {
        if (strcmp(names[i], s->table.base_cf) == 0) found = true;
        for (size_t k = 0; k < s->table.n_siblings; k++)
            if (strcmp(names[i], s->table.siblings[k]) == 0) s->table.multi_ts = false;
        rc = osync__buf_printf(&shown, "%s\"%s\"", i ? ", " : "", names[i]);
    }
    if (rc)
        rc = osync__err(err, rc, "open snapshot %s: out of memory", s->dir);
    else if (!found)
        rc = osync__err(
            err, OSYNC_EINVAL,
            "snapshot %s has no column family \"%s\" of the base index, only %s: it is not of this table, or "
            "the table's description is not up to date",
            s->dir, s->table.base_cf, shown.data ? (const char *)shown.data : "none");
    rocksdb_list_column_families_destroy(names, n);
    osync__buf_free(&shown);
    return rc;
}

/* Of each sorted run. */
static size_t readahead_size(const osync__snapshot_t *s) {
    char *text = rocksdb_property_value_cf(s->db, s->base_cf, "rocksdb.num-files-at-level0");
    size_t runs = 1 + (text ? (size_t)strtoul(text, NULL, 10) : 0);
    if (text) rocksdb_free(text);
    size_t size = READAHEAD_TOTAL / runs;
    return size > READAHEAD_MOST ? READAHEAD_MOST : size < READAHEAD_LEAST ? READAHEAD_LEAST : size;
}

int osync__snapshot_open(osync__snapshot_t **out, const osync_table_t *table, const char *dir, osync_error_t *err) {
    int rc = 0;
    char *failure = NULL;
    *out = NULL;
    osync__snapshot_t *s = osync__calloc(1, sizeof *s);
    if (!s || !(s->dir = osync__strdup(dir))) {
        rc = osync__err(err, OSYNC_ENOMEM, "open snapshot %s: out of memory", dir);
        goto done;
    }
    s->table = *table;
    s->cache = rocksdb_cache_create_lru(BLOCK_CACHE_SIZE);
    s->comparator = osync__key_comparator();
    s->options = make_options(s->cache);
    s->base_options = make_options(s->cache);
    rocksdb_options_set_comparator(s->base_options, s->comparator);
    s->get_options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_verify_checksums(s->get_options, 1);
    s->traverse_options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_verify_checksums(s->traverse_options, 1);
    rocksdb_readoptions_set_fill_cache(s->traverse_options, 0);

    rc = choose_column_family(s, err);
    if (rc) goto done;
    const char *names[] = {"default", s->table.base_cf};
    const rocksdb_options_t *options[] = {s->options, s->base_options};
    rocksdb_column_family_handle_t *handles[2] = {NULL, NULL};
    for (bool direct = !is_mostly_cached(dir);; direct = false) {
        rocksdb_options_set_use_direct_reads(s->options, direct);
        s->db = rocksdb_open_for_read_only_column_families(s->options, s->dir, 2, names, options, handles, 0, &failure);
        if (!failure || !direct) break;
        rocksdb_free(failure); /* perhaps it is that the file system can't read directly */
        failure = NULL;
    }
    if (failure) {
        rc = rocksdb_failed(err, failure, s->dir, "open");
        goto done;
    }
    s->default_cf = handles[0];
    s->base_cf = handles[1];
    rocksdb_readoptions_set_readahead_size(s->traverse_options, readahead_size(s));
    *out = s;
    s = NULL;
done:
    osync__snapshot_close(s);
    return rc;
}

void osync__snapshot_close(osync__snapshot_t *s) {
    if (!s) return;
    if (s->cursor) rocksdb_iter_destroy(s->cursor);
    if (s->default_cf) rocksdb_column_family_handle_destroy(s->default_cf);
    if (s->base_cf) rocksdb_column_family_handle_destroy(s->base_cf);
    if (s->db) rocksdb_close(s->db);
    if (s->traverse_options) rocksdb_readoptions_destroy(s->traverse_options);
    if (s->get_options) rocksdb_readoptions_destroy(s->get_options);
    if (s->base_options) rocksdb_options_destroy(s->base_options);
    if (s->options) rocksdb_options_destroy(s->options);
    if (s->comparator) rocksdb_comparator_destroy(s->comparator);
    if (s->cache) rocksdb_cache_destroy(s->cache);
    osync__free(s->dir);
    osync__free(s);
}

bool osync__snapshot_multi_ts(const osync__snapshot_t *s) {
    return s->table.multi_ts;
}

uint64_t osync__snapshot_estimate(const osync__snapshot_t *s) {
    uint64_t n = 0;
    return rocksdb_property_int_cf(s->db, s->base_cf, "rocksdb.estimate-num-keys", &n) == 0 ? n : 0;
}

int osync__snapshot_get(osync__snapshot_t *s, const void *key, size_t len, osync__buf_t *value, osync_error_t *err) {
    char *failure = NULL;
    size_t n = 0;
    rocksdb_pinnableslice_t *found = rocksdb_get_pinned_cf(s->db, s->get_options, s->base_cf, key, len, &failure);
    if (failure) return rocksdb_failed(err, failure, s->dir, "look a key up in");
    if (!found) return osync__err(err, OSYNC_ENOENT, "snapshot %s has no such key", s->dir);
    const char *data = rocksdb_pinnableslice_value(found, &n);
    int rc = osync__buf_append(value, data, n);
    rocksdb_pinnableslice_destroy(found);
    return rc ? osync__err(err, rc, "read a value of snapshot %s: out of memory", s->dir) : 0;
}

/* 0 if the cursor stands on an entry, OSYNC_EOF at the end; what RocksDB could not read is not an end. */
static int cursor_status(osync__snapshot_t *s, osync_error_t *err) {
    char *failure = NULL;
    if (rocksdb_iter_valid(s->cursor)) return 0;
    rocksdb_iter_get_error(s->cursor, &failure);
    if (failure) return rocksdb_failed(err, failure, s->dir, "read");
    return OSYNC_EOF;
}

int osync__snapshot_seek(osync__snapshot_t *s, const void *key, size_t len, osync_error_t *err) {
    if (!s->cursor) s->cursor = rocksdb_create_iterator_cf(s->db, s->traverse_options, s->base_cf);
    if (key)
        rocksdb_iter_seek(s->cursor, key, len);
    else
        rocksdb_iter_seek_to_first(s->cursor);
    s->at_next = true;
    int rc = cursor_status(s, err);
    return rc == OSYNC_EOF ? 0 : rc;
}

int osync__snapshot_next(osync__snapshot_t *s, osync__entry_t *entry, osync_error_t *err) {
    int rc = s->cursor ? 0 : osync__snapshot_seek(s, NULL, 0, err);
    for (; !rc; s->at_next = false) {
        bool other = false;
        if (!s->at_next && rocksdb_iter_valid(s->cursor)) rocksdb_iter_next(s->cursor);
        rc = cursor_status(s, err);
        if (rc) break;
        entry->key = (const uint8_t *)rocksdb_iter_key(s->cursor, &entry->key_len);
        rc = osync__key_decode(&s->table, entry->key, entry->key_len, &entry->pk_len, &entry->ts, &other, err);
        if (rc) {
            if (err) (void)osync__err_wrap(err, err, "snapshot %s", s->dir);
            break;
        }
        if (other) continue;
        entry->value = (const uint8_t *)rocksdb_iter_value(s->cursor, &entry->value_len);
        s->at_next = false;
        break;
    }
    return rc;
}
