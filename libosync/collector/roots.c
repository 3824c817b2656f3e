#include "collector/roots.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/sys.h"
#include "format/binlog.h"

enum { META_LIMIT = 16 << 20 };

/* `name: N` among the top-level fields of a protobuf text, which begin their lines. */
static bool field_of(const char *text, const char *name, unsigned long *value) {
    size_t len = strlen(name);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        if (strncmp(line, name, len) != 0 || line[len] != ':') continue;
        *value = strtoul(line + len + 1, NULL, 10);
        return true;
    }
    return false;
}

/* The table's description that the tablet keeps beside the files; an older one may have none. */
static int check_meta(const char *dir, uint32_t tid, uint32_t pid, osync_error_t *err) {
    char path[PATH_MAX];
    osync__buf_t text = {0};
    unsigned long its_tid = tid, its_pid = pid;
    if ((size_t)snprintf(path, sizeof path, "%s/table_meta.txt", dir) >= sizeof path)
        return osync__err(err, OSYNC_ETOOBIG, "path is too long: %s", dir);
    int rc = osync__read_file(path, META_LIMIT, &text, err);
    if (rc == OSYNC_ENOENT) {
        rc = 0;
    } else if (!rc) {
        (void)field_of((const char *)text.data, "tid", &its_tid);
        (void)field_of((const char *)text.data, "pid", &its_pid);
        if (its_tid != tid || its_pid != pid)
            rc = osync__err(err, OSYNC_EAGAIN,
                            "%s is of table %lu, partition %lu: %s isn't the folder of %u_%u; is --db_root_path the "
                            "TabletServer's?",
                            path, its_tid, its_pid, dir, tid, pid);
    }
    osync__buf_free(&text);
    return rc;
}

int osync__roots_mismatch(const char *log, uint64_t tail, uint64_t offset, osync_error_t *err) {
    return osync__err(err, OSYNC_EAGAIN,
                      "the log in %s ends with entry %llu, and the TabletServer's with %llu: another folder is in use; "
                      "is --db_root_path the TabletServer's?",
                      log, (unsigned long long)tail, (unsigned long long)offset);
}

static int check_log(const char *dir, uint64_t offset, uint64_t *tail, osync_error_t *err) {
    char path[PATH_MAX];
    osync__binlog_t *log = NULL;
    if ((size_t)snprintf(path, sizeof path, "%s/binlog", dir) >= sizeof path)
        return osync__err(err, OSYNC_ETOOBIG, "path is too long: %s", dir);
    int rc = osync__binlog_open(&log, path, err);
    if (!rc) rc = osync__binlog_tail(log, tail, err);
    osync__binlog_close(log);
    if (!rc && *tail < offset) rc = osync__roots_mismatch(path, *tail, offset, err);
    return rc;
}

/* The folder below one root; *found NULL: there is none. */
static int look_below(const char *root, size_t len, uint32_t tid, uint32_t pid, char **found, osync_error_t *err) {
    char path[PATH_MAX], real[PATH_MAX];
    struct stat st;
    *found = NULL;
    if (len > sizeof path || (size_t)snprintf(path, sizeof path, "%.*s/%u_%u", (int)len, root, tid, pid) >= sizeof path)
        return osync__err(err, OSYNC_ETOOBIG, "db_root_path: a path is too long");
    if (stat(path, &st)) return errno == ENOENT ? 0 : osync__err_errno(err, errno, "stat %s", path);
    if (!S_ISDIR(st.st_mode)) return 0;
    if (!realpath(path, real)) return osync__err_errno(err, errno, "find %s", path);
    *found = osync__strdup(real);
    return *found ? 0 : osync__err(err, OSYNC_ENOMEM, "out of memory");
}

int osync__roots_find(const char *roots, uint32_t tid, uint32_t pid, uint64_t offset, char **dir, uint64_t *tail,
                      osync_error_t *err) {
    char *found = NULL;
    int rc = 0;
    if (!roots || !*roots) return osync__err(err, OSYNC_ECONFIG, "%s", OSYNC__ROOTS_MISSING);
    for (const char *root = roots; !rc && *root;) {
        char *other = NULL;
        size_t len = strcspn(root, ",");
        if (len > 0) rc = look_below(root, len, tid, pid, &other, err);
        if (found && other && strcmp(found, other) != 0)
            rc = osync__err(err, OSYNC_EAGAIN,
                            "there are both %s and %s, and only one of them is the TabletServer's: name its own "
                            "db_root_path, or move what is left over away",
                            found, other);
        if (!found) {
            found = other;
            other = NULL;
        }
        osync__free(other);
        root += len + (root[len] == ',');
    }
    if (!rc && !found)
        rc = osync__err(err, OSYNC_EAGAIN,
                        "none of the folders of --db_root_path (%s) holds %u_%u: is it the TabletServer's own "
                        "db_root_path, and may this user read it?",
                        roots, tid, pid);
    if (!rc) rc = check_meta(found, tid, pid, err);
    if (!rc) rc = check_log(found, offset, tail, err);
    if (rc) {
        osync__free(found);
        return rc;
    }
    *dir = found;
    return 0;
}
