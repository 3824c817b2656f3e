#include "collector/ask.h"

#include <limits.h>
#include <stddef.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

enum {
    /* Of the first version; a later one may have more. */
    OPS_SIZE = offsetof(osync_source_ops_t, cancel) + sizeof(((osync_source_ops_t *)0)->cancel),
    FILES_SIZE = offsetof(osync_source_files_t, memory) + sizeof(((osync_source_files_t *)0)->memory),
};

int osync__ask_check(const osync_source_t *source, osync_error_t *err) {
    if (!source->ops || source->ops->size < OPS_SIZE)
        return osync__err(err, OSYNC_ECONFIG,
                          "collector configuration: source->ops must be given, and its size be "
                          "sizeof(osync_source_ops_t)");
    if (!source->ops->files || !source->ops->meta)
        return osync__err(err, OSYNC_ECONFIG, "collector configuration: source->ops needs both files and meta");
    return 0;
}

static int replace(char **to, const char *from) {
    osync__free(*to);
    *to = osync__strdup(from);
    return *to ? 0 : OSYNC_ENOMEM;
}

static int check_path(const char *what, const char *path, osync_error_t *err) {
    if (path && strlen(path) >= PATH_MAX)
        return osync__err(err, OSYNC_ETOOBIG,
                          "the table source answered with a %s of %zu bytes, and a path has at most %d", what,
                          strlen(path), PATH_MAX - 1);
    if (path && path[0] == '/') return 0;
    return osync__err(err, OSYNC_EINVAL, "the table source answered with the %s '%.200s', which isn't an absolute path",
                      what, path ? path : "(NULL)");
}

static int take_files(osync__ask_t *ask, const osync_source_files_t *files, osync_error_t *err) {
    if (!files || files->size < FILES_SIZE)
        return osync__err(err, OSYNC_EINVAL,
                          "the table source answered with %s: it must be an osync_source_files_t whose size is its "
                          "sizeof",
                          files ? "files of a wrong size" : "files NULL");
    int rc = check_path("snapshot_dir", files->snapshot_dir, err);
    if (!rc) rc = check_path("binlog_dir", files->binlog_dir, err);
    if (rc) return rc;
    ask->memory = files->memory;
    if (replace(&ask->snapshot_dir, files->snapshot_dir) || replace(&ask->binlog_dir, files->binlog_dir))
        return osync__err(err, OSYNC_ENOMEM, "out of memory");
    return 0;
}

static int take_meta(osync__ask_t *ask, const void *meta, size_t len, osync_error_t *err) {
    osync_error_t why = {0};
    if (!meta || len == 0)
        return osync__err(err, OSYNC_EINVAL, "the table source answered without a table's description");
    osync_table_free(ask->table);
    ask->table = NULL;
    if (!osync_table_from_meta(&ask->table, meta, len, &why)) return 0;
    return osync__err_wrap(err, &why, "the table's description (TableMeta) can't be used");
}

/* The source's own failure, in its words if it has any. */
static int take_failure(int status, const osync_error_t *why, osync_error_t *err) {
    if (status > 0)
        return osync__err(err, OSYNC_EINVAL, "the table source failed with %d, which is no code of libosync", status);
    return osync__err(err, status, "%s", why && why->message[0] ? why->message : osync_strerror(status));
}

static void finish(osync__ask_t *ask, int rc, osync_error_t *err) {
    ask->open = false;
    ask->done(ask->arg, rc, err);
}

static void on_files(void *arg, int status, const osync_source_files_t *files, const osync_error_t *why) {
    osync__ask_t *ask = arg;
    osync_error_t err = {0};
    finish(ask, status ? take_failure(status, why, &err) : take_files(ask, files, &err), &err);
}

static void on_meta(void *arg, int status, const void *meta, size_t len, const osync_error_t *why) {
    osync__ask_t *ask = arg;
    osync_error_t err = {0};
    finish(ask, status ? take_failure(status, why, &err) : take_meta(ask, meta, len, &err), &err);
}

static void cancel(osync__ask_t *ask) {
    if (ask->source->ops->cancel) ask->source->ops->cancel(ask->source, ask);
}

/* Before and after the source's call, in which everything may be closed: it knows what to cancel only when it has
 * returned. */
static void begin(osync__ask_t *ask, void (*done)(void *, int, osync_error_t *), void *arg) {
    ask->done = done;
    ask->arg = arg;
    ask->open = ask->inside = true;
    ask->canceled = false;
}

static int asked(osync__ask_t *ask, int rc, const char *what, osync_error_t *err) {
    ask->inside = false;
    if (!rc) {
        if (ask->open && ask->canceled) cancel(ask);
        return 0;
    }
    ask->open = false;
    return osync__err(err, rc < 0 ? rc : OSYNC_EINVAL, "the table source can't be asked %s: %s", what,
                      osync_strerror(rc));
}

int osync__ask_files(osync__ask_t *ask, const osync_source_partition_t *partition,
                     void (*done)(void *arg, int rc, osync_error_t *err), void *arg, osync_error_t *err) {
    begin(ask, done, arg);
    return asked(ask, ask->source->ops->files(ask->source, partition, on_files, ask), "where the files are", err);
}

int osync__ask_meta(osync__ask_t *ask, const osync_source_partition_t *partition,
                    void (*done)(void *arg, int rc, osync_error_t *err), void *arg, osync_error_t *err) {
    begin(ask, done, arg);
    return asked(ask, ask->source->ops->meta(ask->source, partition, on_meta, ask), "what the rows look like", err);
}

void osync__ask_cancel(osync__ask_t *ask) {
    if (!ask->open || ask->canceled) return;
    ask->canceled = true;
    if (!ask->inside) cancel(ask);
}

void osync__ask_clear(osync__ask_t *ask) {
    osync__free(ask->snapshot_dir);
    osync__free(ask->binlog_dir);
    osync_table_free(ask->table);
    *ask = (osync__ask_t){.source = ask->source};
}
