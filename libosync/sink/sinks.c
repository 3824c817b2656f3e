/* Destinations. Nothing of tasks or streams is known here. */
#include "sink/sinks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <utlist.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/error.h"
#include "sink/hadoop_conf.h"
#include "sink/internal.h"

/* MAX_DEST: delivery takes no longer path either, and says so at create. */
enum { FILE_SINK_THREADS = 4, MAX_DEST = 2048, SCHEME_SIZE = 16 };

typedef struct entry {
    char *fs; /* "scheme://authority" */
    osync_sink_t *sink;
    size_t users;
    osync__sinks_t *sinks;
    struct entry *next;
} entry_t;

struct osync__sinks {
    uv_loop_t *loop;
    char *hadoop_conf_dir, *hadoop_user, *default_fs, *namenodes;
    osync_sink_make make;
    void *make_arg;
    entry_t *entries;
    size_t closing_sinks;
    bool closing;
    void (*closed)(void *arg);
    void *closed_arg;
};

static int copy(char **out, const char *s) {
    *out = s && *s ? osync__strdup(s) : NULL;
    return s && *s && !*out ? OSYNC_ENOMEM : 0;
}

static void sinks_free(osync__sinks_t *s) {
    osync__free(s->hadoop_conf_dir);
    osync__free(s->hadoop_user);
    osync__free(s->default_fs);
    osync__free(s->namenodes);
    osync__free(s);
}

static int make_own(void *arg, osync_sink_t **out, uv_loop_t *loop, const char *scheme, const char *authority,
                    osync_error_t *err) {
    const osync__sinks_t *s = arg;
    if (strcmp(scheme, "file") == 0) return osync_file_sink_new(out, loop, FILE_SINK_THREADS, err);
    osync_webhdfs_config_t config;
    bool web = strcmp(scheme, "webhdfs") == 0, known = true;
    if (!web && s->namenodes) {
        int rc = osync__hadoop_knows(s->hadoop_conf_dir, authority, &known, err);
        if (rc) return rc;
    }
    osync_webhdfs_config_init(&config, sizeof config);
    if (web)
        config.address = authority;
    else if (!known)
        config.address = s->namenodes;
    else
        config.authority = authority;
    config.hadoop_conf_dir = s->hadoop_conf_dir;
    config.user = s->hadoop_user;
    return osync_webhdfs_sink_new(out, loop, &config, err);
}

int osync__sinks_new(uv_loop_t *loop, const osync__sinks_config_t *config, osync__sinks_t **out) {
    osync__sinks_t *s = osync__calloc(1, sizeof *s);
    if (!s) return OSYNC_ENOMEM;
    s->loop = loop;
    s->make = config->make ? config->make : make_own;
    s->make_arg = config->make ? config->make_arg : s;
    if (copy(&s->hadoop_conf_dir, config->hadoop_conf_dir) || copy(&s->hadoop_user, config->hadoop_user) ||
        copy(&s->default_fs, config->default_fs) || copy(&s->namenodes, config->namenodes)) {
        sinks_free(s);
        return OSYNC_ENOMEM;
    }
    *out = s;
    return 0;
}

/* Length of "scheme://authority" at the beginning of a URL; 0 if it doesn't begin with one. */
static size_t fs_length(const char *url) {
    const char *sep = strstr(url, "://");
    if (!sep || memchr(url, '/', (size_t)(sep - url))) return 0;
    return (size_t)(sep + 3 - url) + strcspn(sep + 3, "/");
}

/* Appends a path with each component checked and single slashes; the root is refused. */
static int append_path(osync__buf_t *out, const char *dest, const char *path, osync_error_t *err) {
    if (*path != '/') return osync__err(err, OSYNC_EINVAL, "dest %s: the path must be absolute (begin with '/')", dest);
    size_t components = 0;
    for (const char *p = path; *p;) {
        p += strspn(p, "/");
        size_t len = strcspn(p, "/");
        if (len == 0) break;
        if ((len == 1 && p[0] == '.') || (len == 2 && p[0] == '.' && p[1] == '.'))
            return osync__err(err, OSYNC_EINVAL, "dest %s: '.' and '..' are not allowed in the path", dest);
        if (osync__buf_append(out, "/", 1) || osync__buf_append(out, p, len))
            return osync__err(err, OSYNC_ENOMEM, "dest: out of memory");
        components++;
        p += len;
    }
    if (components == 0) return osync__err(err, OSYNC_EINVAL, "dest %s: the root folder can't be a destination", dest);
    return 0;
}

/* In lower case. Those of others are for a maker of others. */
static bool take_scheme(const osync__sinks_t *s, const char *fs, size_t len, char scheme[SCHEME_SIZE]) {
    if (len == 0 || len >= SCHEME_SIZE) return false;
    for (size_t i = 0; i < len; i++) {
        char c = fs[i] >= 'A' && fs[i] <= 'Z' ? (char)(fs[i] - 'A' + 'a') : fs[i];
        if (!(c >= 'a' && c <= 'z') && (i == 0 || !strchr("0123456789+-.", c))) return false;
        scheme[i] = c;
    }
    scheme[len] = 0;
    return s->make != make_own || strcmp(scheme, "hdfs") == 0 || strcmp(scheme, "webhdfs") == 0 ||
           strcmp(scheme, "file") == 0;
}

int osync__dest_resolve(osync__sinks_t *s, const char *dest, char **target, osync_error_t *err) {
    char scheme[SCHEME_SIZE];
    osync__buf_t out = {0}, fs_buf = {0};
    char *default_fs = NULL;
    const char *url = dest;
    int rc = OSYNC_ENOMEM;
    if (strlen(dest) > MAX_DEST) return osync__err(err, OSYNC_EINVAL, "dest is longer than %d bytes", MAX_DEST);
    for (const char *p = dest; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return osync__err(err, OSYNC_EINVAL, "dest holds a control character");
    size_t len = fs_length(dest);
    const char *path = dest + len;
    bool default_hdfs =
        strncasecmp(dest, "hdfs:///", 8) == 0; /* as in Hadoop: the default file system, if it is HDFS */
    if (len == 0 || default_hdfs) {
        if (*path != '/') {
            rc = osync__err(err, OSYNC_EINVAL,
                            "dest %s: must be an absolute path, or begin with hdfs://, webhdfs:// or file://", dest);
            goto done;
        }
        if (s->default_fs) {
            default_fs = osync__strdup(s->default_fs);
            if (!default_fs) goto nomem;
        } else {
            default_fs = osync__calloc(1, MAX_DEST);
            if (!default_fs) goto nomem;
            rc = osync__hadoop_default_fs(s->hadoop_conf_dir, default_fs, MAX_DEST, err);
            if (rc) {
                osync_error_t cause = {0};
                if (err) cause = *err;
                rc = osync__err(err, OSYNC_ECONFIG,
                                "dest %s has no scheme and there is no default file system: give hdfs://..., or set "
                                "hadoop.conf.dir to a folder whose core-site.xml has fs.defaultFS (%s)",
                                dest, cause.message);
                goto done;
            }
        }
        url = default_fs;
        len = fs_length(url);
        if (len == 0) {
            rc = osync__err(err, OSYNC_ECONFIG,
                            "dest %s: the default file system %s is not a URL like hdfs://host:8020", dest, url);
            goto done;
        }
    }
    if (osync__buf_append(&fs_buf, url, len) || osync__buf_append(&fs_buf, "", 1)) goto nomem;
    char *fs = (char *)fs_buf.data;
    size_t scheme_len = (size_t)(strstr(fs, "://") - fs);
    const char *authority = fs + scheme_len + 3;
    if (!take_scheme(s, fs, scheme_len, scheme)) {
        rc = osync__err(err, OSYNC_ENOTSUP, "dest %s: %.*s:// is not supported: use hdfs://, webhdfs:// or file://",
                        dest, (int)scheme_len, fs);
        goto done;
    }
    if (default_hdfs && strcmp(scheme, "hdfs") != 0) {
        rc = osync__err(err, OSYNC_ECONFIG,
                        "dest %s: the default file system %s isn't HDFS: write hdfs://host:port/path", dest, fs);
        goto done;
    }
    bool local = strcmp(scheme, "file") == 0;
    bool hdfs = strcmp(scheme, "hdfs") == 0 || strcmp(scheme, "webhdfs") == 0;
    if (local && *authority && strcasecmp(authority, "localhost") != 0) {
        rc = osync__err(err, OSYNC_EINVAL, "dest %s: a file:// URL has no host: write file:///path", dest);
        goto done;
    }
    if (hdfs && !*authority) {
        rc = osync__err(err, OSYNC_EINVAL, "dest %s: the host is missing: write %s://host:port/path", dest, scheme);
        goto done;
    }
    if (strchr(authority, '@')) {
        rc = osync__err(err, OSYNC_EINVAL, "dest %s: a user in the URL is not supported", dest);
        goto done;
    }
    if (osync__buf_printf(&out, "%s://%s", scheme, local ? "" : authority)) goto nomem;
    rc = append_path(&out, dest, path, err);
    if (rc) goto done;
    if (osync__buf_append(&out, "", 1)) goto nomem;
    *target = (char *)out.data;
    out = (osync__buf_t){0};
    rc = 0;
    goto done;
nomem:
    rc = osync__err(err, OSYNC_ENOMEM, "dest: out of memory");
done:
    osync__free(default_fs);
    osync__buf_free(&out);
    osync__buf_free(&fs_buf);
    return rc;
}

int osync__sinks_get(osync__sinks_t *s, const char *target, osync_sink_t **out, const char **path, osync_error_t *err) {
    size_t len = fs_length(target);
    entry_t *e;
    LL_FOREACH(s->entries, e) {
        if (strlen(e->fs) == len && strncmp(e->fs, target, len) == 0) break;
    }
    if (!e) {
        char scheme[SCHEME_SIZE];
        e = osync__calloc(1, sizeof *e);
        if (e) e->fs = osync__strndup(target, len);
        if (!e || !e->fs) {
            osync__free(e);
            return osync__err(err, OSYNC_ENOMEM, "sink of %s: out of memory", target);
        }
        size_t scheme_len = (size_t)(strstr(e->fs, "://") - e->fs);
        snprintf(scheme, sizeof scheme, "%.*s", (int)scheme_len, e->fs);
        int rc = s->make(s->make_arg, &e->sink, s->loop, scheme, e->fs + scheme_len + 3, err);
        if (rc) {
            osync__free(e->fs);
            osync__free(e);
            return rc;
        }
        e->sinks = s;
        LL_PREPEND(s->entries, e);
    }
    e->users++;
    *out = e->sink;
    *path = target + len;
    return 0;
}

void osync__sinks_place(const osync__sinks_t *s, const osync_sink_t *sink, osync__sinks_place_t *out) {
    const entry_t *e;
    *out = (osync__sinks_place_t){.fs = ""};
    LL_FOREACH(s->entries, e) {
        if (e->sink != sink) continue;
        out->fs = e->fs;
        if (s->make == make_own && strncmp(e->fs, "file:", 5) != 0)
            osync__webhdfs_where(sink, &out->namenodes, &out->n_namenodes, &out->user);
    }
}

static void end_if_idle(osync__sinks_t *s) {
    if (!s->closing || s->closing_sinks > 0) return;
    void (*closed)(void *) = s->closed;
    void *arg = s->closed_arg;
    sinks_free(s);
    closed(arg);
}

static void on_sink_closed(void *arg) {
    entry_t *e = arg;
    osync__sinks_t *s = e->sinks;
    osync__free(e->fs);
    osync__free(e);
    s->closing_sinks--;
    end_if_idle(s);
}

static void close_entry(osync__sinks_t *s, entry_t *e) {
    LL_DELETE(s->entries, e);
    s->closing_sinks++;
    e->sink->ops->close(e->sink, on_sink_closed, e);
}

void osync__sinks_put(osync__sinks_t *s, osync_sink_t *sink) {
    entry_t *e;
    LL_FOREACH(s->entries, e) {
        if (e->sink == sink) break;
    }
    if (!e || --e->users > 0) return; /* it may have been canceled */
    close_entry(s, e);
}

void osync__sinks_cancel(osync__sinks_t *s) {
    while (s->entries) close_entry(s, s->entries);
}

void osync__sinks_close(osync__sinks_t *s, void (*cb)(void *arg), void *arg) {
    s->closing = true;
    s->closed = cb;
    s->closed_arg = arg;
    end_if_idle(s);
}
