/* Hadoop configuration files with expat, and the search for the NameNodes of an authority. What and why: hadoop_conf.h.
 */
#include "sink/hadoop_conf.h"

#include <expat.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/sys.h"

#define FILE_LIMIT    (4u << 20)  /* bytes of one XML file */
#define TEXT_LIMIT    (64u << 10) /* bytes of one value, also after replacement */
#define SUBSTITUTIONS 20          /* Hadoop's own limit for one value */
#define RPC_PORT      "8020"      /* of a NameNode, where an authority names none */
#define HTTP_PORT     "9870"

typedef struct property {
    char *name;
    char *value;
    bool final;
    UT_hash_handle hh;
} property_t;

struct osync__hadoop_conf {
    property_t *properties;
};

/* ---- reading a file ---- */

typedef struct reader {
    osync__hadoop_conf_t *conf;
    XML_Parser parser;
    const char *file;
    osync_error_t *err;
    int status;
    unsigned depth;     /* 1: configuration, 2: property, 3: name, value, final */
    osync__buf_t *text; /* where the current element's text goes; NULL: nowhere */
    osync__buf_t name, value, final;
} reader_t;

static int reader_fail(reader_t *r, int code, const char *what) {
    if (!r->status)
        r->status = osync__err(r->err, code, "%s, line %lu: %s", r->file,
                               (unsigned long)XML_GetCurrentLineNumber(r->parser), what);
    XML_StopParser(r->parser, XML_FALSE);
    return r->status;
}

static void on_start(void *arg, const XML_Char *tag, const XML_Char **attrs) {
    reader_t *r = arg;
    (void)attrs;
    r->depth++;
    r->text = NULL;
    if (r->depth == 1 && strcmp(tag, "configuration") != 0)
        reader_fail(r, OSYNC_ECONFIG, "the root element is not <configuration>");
    if (strcmp(tag, "include") == 0 || strcmp(tag, "xi:include") == 0)
        reader_fail(r, OSYNC_ECONFIG, "XInclude is not supported; write the included properties into this file");
    if (r->depth == 2) r->name.len = r->value.len = r->final.len = 0;
    if (r->depth != 3) return;
    if (strcmp(tag, "name") == 0) r->text = &r->name;
    if (strcmp(tag, "value") == 0) r->text = &r->value;
    if (strcmp(tag, "final") == 0) r->text = &r->final;
    if (r->text) r->text->len = 0;
}

static void on_text(void *arg, const XML_Char *text, int len) {
    reader_t *r = arg;
    if (!r->text || len <= 0) return;
    if (r->text->len + (size_t)len > TEXT_LIMIT)
        reader_fail(r, OSYNC_ETOOBIG, "a name or value is longer than 64 KiB");
    else if (osync__buf_append(r->text, text, (size_t)len))
        reader_fail(r, OSYNC_ENOMEM, "out of memory");
}

/* A trimmed copy. */
static char *trimmed(const osync__buf_t *b) {
    size_t from = 0, to = b->len;
    while (from < to && strchr(" \t\r\n", b->data[from])) from++;
    while (to > from && strchr(" \t\r\n", b->data[to - 1])) to--;
    return osync__strndup(from < to ? (const char *)b->data + from : "", to - from);
}

static int put(osync__hadoop_conf_t *conf, char *name, char *value, bool final) {
    property_t *p;
    HASH_FIND_STR(conf->properties, name, p);
    if (p) {
        if (!p->final) {
            osync__free(p->value);
            p->value = value;
            p->final = final;
            value = NULL;
        }
        osync__free(name);
        osync__free(value);
        return 0;
    }
    p = osync__calloc(1, sizeof *p);
    if (!p) {
        osync__free(name);
        osync__free(value);
        return OSYNC_ENOMEM;
    }
    p->name = name;
    p->value = value;
    p->final = final;
    HASH_ADD_KEYPTR(hh, conf->properties, p->name, strlen(p->name), p);
    if (p->hh.tbl) return 0;
    osync__free(name);
    osync__free(value);
    osync__free(p);
    return OSYNC_ENOMEM;
}

static void on_end(void *arg, const XML_Char *tag) {
    reader_t *r = arg;
    r->text = NULL;
    if (r->depth-- != 2 || strcmp(tag, "property") != 0 || r->status) return;
    char *name = trimmed(&r->name), *value = trimmed(&r->value), *final = trimmed(&r->final);
    if (!name || !value || !final) {
        reader_fail(r, OSYNC_ENOMEM, "out of memory");
    } else if (!*name) {
        reader_fail(r, OSYNC_ECONFIG, "a <property> has no <name>");
    } else {
        if (put(r->conf, name, value, strcmp(final, "true") == 0)) reader_fail(r, OSYNC_ENOMEM, "out of memory");
        name = value = NULL;
    }
    osync__free(name);
    osync__free(value);
    osync__free(final);
}

static int read_site(osync__hadoop_conf_t *conf, const char *dir, const char *name, osync_error_t *err) {
    osync__buf_t content = {0};
    reader_t r = {.conf = conf, .err = err};
    char path[4096];
    struct stat st;
    if ((size_t)snprintf(path, sizeof path, "%s/%s", dir, name) >= sizeof path)
        return osync__err(err, OSYNC_ECONFIG, "Hadoop configuration folder: the path is too long: %.200s...", dir);
    if (stat(path, &st)) return 0; /* the folder itself is checked by the caller */
    r.file = path;
    r.status = osync__read_file(path, FILE_LIMIT, &content, err);
    if (r.status) goto done;
    r.parser = XML_ParserCreate(NULL);
    if (!r.parser) {
        r.status = osync__err(err, OSYNC_ENOMEM, "%s: out of memory", path);
        goto done;
    }
    XML_SetUserData(r.parser, &r);
    XML_SetElementHandler(r.parser, on_start, on_end);
    XML_SetCharacterDataHandler(r.parser, on_text);
    if (XML_Parse(r.parser, (const char *)content.data, (int)content.len, 1) != XML_STATUS_OK && !r.status)
        reader_fail(&r, OSYNC_ECONFIG, XML_ErrorString(XML_GetErrorCode(r.parser)));
done:
    if (r.parser) XML_ParserFree(r.parser);
    osync__buf_free(&content);
    osync__buf_free(&r.name);
    osync__buf_free(&r.value);
    osync__buf_free(&r.final);
    return r.status;
}

int osync__hadoop_conf_load(const char *dir, osync__hadoop_conf_t **out, osync_error_t *err) {
    osync__hadoop_conf_t *conf = osync__calloc(1, sizeof *conf);
    struct stat st;
    int rc = 0;
    if (!conf) return osync__err(err, OSYNC_ENOMEM, "Hadoop configuration: out of memory");
    if (!dir || !*dir) dir = getenv("HADOOP_CONF_DIR");
    if (dir && *dir) {
        if (stat(dir, &st) || !S_ISDIR(st.st_mode))
            rc = osync__err(err, OSYNC_ECONFIG,
                            "Hadoop configuration folder %s is not there (hadoop.conf.dir, HADOOP_CONF_DIR)", dir);
        if (!rc) rc = read_site(conf, dir, "core-site.xml", err);
        if (!rc) rc = read_site(conf, dir, "hdfs-site.xml", err);
    }
    if (rc) {
        osync__hadoop_conf_free(conf);
        return rc;
    }
    *out = conf;
    return 0;
}

void osync__hadoop_conf_free(osync__hadoop_conf_t *conf) {
    property_t *p, *tmp;
    if (!conf) return;
    HASH_ITER(hh, conf->properties, p, tmp) {
        HASH_DEL(conf->properties, p);
        osync__free(p->name);
        osync__free(p->value);
        osync__free(p);
    }
    osync__free(conf);
}

static const char *raw(const osync__hadoop_conf_t *conf, const char *name) {
    property_t *p;
    HASH_FIND_STR(conf->properties, name, p);
    return p ? p->value : NULL;
}

/* What ${name} stands for, or NULL: as in Hadoop it then stays as it is written. */
static const char *variable(const osync__hadoop_conf_t *conf, const char *name) {
    return strncmp(name, "env.", 4) == 0 ? getenv(name + 4) : raw(conf, name);
}

int osync__hadoop_conf_get(const osync__hadoop_conf_t *conf, const char *name, char **out, osync_error_t *err) {
    const char *value = raw(conf, name);
    *out = NULL;
    if (!value) return 0;
    char *text = osync__strdup(value);
    for (int i = 0; text; i++) {
        /* The innermost variable that has a value: the last "${" before a "}". */
        char *open = NULL, *close = NULL;
        const char *with = NULL;
        for (char *p = text; *p && !with; p++) {
            if (p[0] == '$' && p[1] == '{') open = p;
            if (*p != '}' || !open) continue;
            close = p;
            *close = 0;
            with = variable(conf, open + 2);
            *close = '}';
            if (!with) open = NULL;
        }
        if (!with) {
            *out = text;
            return 0;
        }
        size_t len = strlen(text) + strlen(with);
        if (i == SUBSTITUTIONS || len > TEXT_LIMIT) {
            osync__free(text);
            return osync__err(err, OSYNC_ECONFIG,
                              "Hadoop configuration: %s = %.200s: its variables lead in a circle or too far", name,
                              value);
        }
        char *next = osync__format("%.*s%s%s", (int)(open - text), text, with, close + 1);
        osync__free(text);
        text = next;
    }
    return osync__err(err, OSYNC_ENOMEM, "Hadoop configuration: out of memory");
}

/* ---- where the NameNodes are ---- */

/* The port's text behind host:port, "" if there is none. */
static const char *port_of(const char *authority) {
    const char *colon = strrchr(authority, ':');
    const char *bracket = strrchr(authority, ']'); /* [::1]:8020 */
    return colon && (!bracket || colon > bracket) ? colon + 1 : "";
}

static int host_len(const char *authority) {
    const char *port = port_of(authority);
    return (int)(*port ? (size_t)(port - 1 - authority) : strlen(authority));
}

static bool same_authority(const char *a, const char *b) {
    const char *pa = port_of(a), *pb = port_of(b);
    int na = host_len(a), nb = host_len(b);
    return na == nb && strncasecmp(a, b, (size_t)na) == 0 && strcmp(*pa ? pa : RPC_PORT, *pb ? pb : RPC_PORT) == 0;
}

typedef struct finder {
    const osync__hadoop_conf_t *conf;
    osync_error_t *err;
    char **found;
    size_t n;
    bool guessed;
} finder_t;

static int add(finder_t *f, const char *address, int len, const char *port) {
    char **more = osync__realloc(f->found, (f->n + 1) * sizeof *more);
    if (!more) return osync__err(f->err, OSYNC_ENOMEM, "Hadoop configuration: out of memory");
    f->found = more;
    f->found[f->n] = osync__format("%.*s%s%s", len, address, port ? ":" : "", port ? port : "");
    if (!f->found[f->n]) return osync__err(f->err, OSYNC_ENOMEM, "Hadoop configuration: out of memory");
    f->n++;
    return 0;
}

static int get(finder_t *f, const char *key, const char *suffix, char **out) {
    char name[1024];
    *out = NULL;
    if ((size_t)snprintf(name, sizeof name, "%s%s%s", key, *suffix ? "." : "", suffix) >= sizeof name)
        return osync__err(f->err, OSYNC_ECONFIG, "Hadoop configuration: the name %.200s... is too long", suffix);
    return osync__hadoop_conf_get(f->conf, name, out, f->err);
}

/* Adds the NameNode whose keys end in `suffix` ("", "ns1" or "ns1.nn1"). `host` (with `len`) is used where the address
 * is not set or is a wildcard. */
static int add_namenode(finder_t *f, const char *suffix, const char *host, int len) {
    char *http = NULL;
    int rc = get(f, "dfs.namenode.http-address", suffix, &http);
    if (rc) return rc;
    const char *port = http && *port_of(http) ? port_of(http) : HTTP_PORT;
    if (http && *http && strncmp(http, "0.0.0.0", 7) != 0)
        rc = add(f, http, host_len(http), port);
    else if (len > 0)
        rc = add(f, host, len, port);
    else
        rc = osync__err(f->err, OSYNC_ECONFIG,
                        "Hadoop configuration: dfs.namenode.http-address.%s and its rpc-address are not set", suffix);
    osync__free(http);
    return rc;
}

/* Adds the NameNode with these keys if it belongs to `authority` by its nameservice's name or its RPC address. */
static int consider(finder_t *f, const char *suffix, bool by_name, const char *authority) {
    char *rpc = NULL;
    int rc = get(f, "dfs.namenode.rpc-address", suffix, &rpc);
    if (!rc && (by_name || (rpc && same_authority(rpc, authority))))
        rc = add_namenode(f, suffix, rpc ? rpc : "", rpc ? host_len(rpc) : 0);
    osync__free(rpc);
    return rc;
}

static int search(finder_t *f, const char *authority) {
    char *services = NULL, *nodes = NULL, *save_ns = NULL, *save_nn = NULL, *fs = NULL;
    char suffix[512];
    int rc = get(f, "dfs.nameservices", "", &services);
    for (char *ns = services ? strtok_r(services, ", \t\r\n", &save_ns) : NULL; ns && !rc;
         ns = strtok_r(NULL, ", \t\r\n", &save_ns)) {
        bool by_name = strcmp(ns, authority) == 0;
        rc = get(f, "dfs.ha.namenodes", ns, &nodes);
        if (!rc && !nodes) rc = consider(f, ns, by_name, authority);
        for (char *nn = nodes ? strtok_r(nodes, ", \t\r\n", &save_nn) : NULL; nn && !rc;
             nn = strtok_r(NULL, ", \t\r\n", &save_nn)) {
            if ((size_t)snprintf(suffix, sizeof suffix, "%s.%s", ns, nn) >= sizeof suffix)
                rc = osync__err(f->err, OSYNC_ECONFIG, "Hadoop configuration: the names %.100s and %.100s are too long",
                                ns, nn);
            else
                rc = consider(f, suffix, by_name, authority);
        }
        osync__free(nodes);
        nodes = NULL;
    }
    if (!rc && f->n == 0) rc = consider(f, "", false, authority);
    if (!rc && f->n == 0) rc = get(f, "fs.defaultFS", "", &fs);
    if (!rc && f->n == 0) {
        size_t n = strlen("hdfs://");
        if (fs && strncmp(fs, "hdfs://", n) == 0) {
            fs[n + strcspn(fs + n, "/")] = 0;
            if (same_authority(fs + n, authority)) rc = add_namenode(f, "", authority, host_len(authority));
        }
    }
    f->guessed = f->n == 0;
    if (!rc && f->n == 0) rc = add(f, authority, host_len(authority), HTTP_PORT);
    osync__free(services);
    osync__free(fs);
    return rc;
}

/* What this client doesn't speak is better said here than guessed from a refused request. */
static int check_supported(finder_t *f) {
    char *policy = NULL, *security = NULL;
    int rc = get(f, "dfs.http.policy", "", &policy);
    if (!rc) rc = get(f, "hadoop.security.authentication", "", &security);
    if (!rc && policy && strcmp(policy, "HTTPS_ONLY") == 0)
        rc = osync__err(f->err, OSYNC_ENOTSUP,
                        "Hadoop configuration: dfs.http.policy is HTTPS_ONLY, and WebHDFS over TLS is not supported");
    if (!rc && security && strcasecmp(security, "simple") != 0)
        rc = osync__err(f->err, OSYNC_ENOTSUP,
                        "Hadoop configuration: hadoop.security.authentication is %s, and only \"simple\" is supported",
                        security);
    osync__free(policy);
    osync__free(security);
    return rc;
}

static int default_fs(const osync__hadoop_conf_t *conf, char **out, osync_error_t *err) {
    int rc = osync__hadoop_conf_get(conf, "fs.defaultFS", out, err);
    if (rc || *out) return rc;
    return osync__err(err, OSYNC_ECONFIG,
                      "fs.defaultFS is not set: name the NameNode in the URL, or set hadoop.conf.dir or "
                      "HADOOP_CONF_DIR to the folder of "
                      "core-site.xml");
}

int osync__hadoop_namenodes(const char *conf_dir, const char *authority, char ***out, size_t *n, osync_error_t *err) {
    osync__hadoop_conf_t *conf = NULL;
    char *fs = NULL;
    finder_t f = {.err = err};
    int rc = osync__hadoop_conf_load(conf_dir, &conf, err);
    if (rc) return rc;
    f.conf = conf;
    rc = check_supported(&f);
    if (rc) goto done;
    if (!authority || !*authority) {
        rc = default_fs(conf, &fs, err);
        if (rc) goto done;
        bool web = strncmp(fs, "webhdfs://", 10) == 0;
        if (!web && strncmp(fs, "hdfs://", 7) != 0) {
            rc = osync__err(err, OSYNC_ECONFIG, "fs.defaultFS is %s, neither hdfs:// nor webhdfs://", fs);
            goto done;
        }
        char *host = fs + (web ? 10 : 7);
        host[strcspn(host, "/")] = 0;
        if (!*host) {
            rc = osync__err(err, OSYNC_ECONFIG, "fs.defaultFS names no NameNode");
            goto done;
        }
        authority = host;
        if (web) {
            rc = add(&f, host, host_len(host), *port_of(host) ? port_of(host) : HTTP_PORT);
            goto done;
        }
    }
    rc = search(&f, authority);
done:
    osync__free(fs);
    osync__hadoop_conf_free(conf);
    if (rc) {
        osync__hadoop_addresses_free(f.found, f.n);
        return rc;
    }
    *out = f.found;
    *n = f.n;
    return 0;
}

int osync__hadoop_knows(const char *conf_dir, const char *authority, bool *known, osync_error_t *err) {
    osync__hadoop_conf_t *conf = NULL;
    finder_t f = {.err = err};
    int rc = osync__hadoop_conf_load(conf_dir, &conf, err);
    if (rc) return rc;
    f.conf = conf;
    rc = search(&f, authority);
    *known = !f.guessed;
    osync__hadoop_conf_free(conf);
    osync__hadoop_addresses_free(f.found, f.n);
    return rc;
}

int osync__hadoop_http_addresses(const char *authorities, char ***out, size_t *n) {
    finder_t f = {0};
    const char *p = authorities;
    int rc = 0;
    do {
        size_t len = strcspn(p, ",");
        char *one = osync__strndup(p, len);
        const char *port = one ? port_of(one) : "";
        rc = one ? add(&f, one, host_len(one), *port ? port : HTTP_PORT) : OSYNC_ENOMEM;
        osync__free(one);
        p += len;
    } while (!rc && *p++);
    if (rc) {
        osync__hadoop_addresses_free(f.found, f.n);
        return rc;
    }
    *out = f.found;
    *n = f.n;
    return 0;
}

void osync__hadoop_addresses_free(char **addresses, size_t n) {
    for (size_t i = 0; i < n; i++) osync__free(addresses[i]);
    osync__free(addresses);
}

int osync__hadoop_default_fs(const char *conf_dir, char *out, size_t size, osync_error_t *err) {
    osync__hadoop_conf_t *conf = NULL;
    char *fs = NULL;
    int rc = osync__hadoop_conf_load(conf_dir, &conf, err);
    if (rc) return rc;
    rc = default_fs(conf, &fs, err);
    if (!rc && (size_t)snprintf(out, size, "%s", fs) >= size)
        rc = osync__err(err, OSYNC_ECONFIG, "fs.defaultFS is too long");
    osync__free(fs);
    osync__hadoop_conf_free(conf);
    return rc;
}
