/* Which sinks the tasks of a collector write to. What is written there is stage.c's business. */
#include "collector/places.h"

#include <string.h>
#include <utlist.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/failpoint.h"
#include "sink/sinks.h"

struct osync__place {
    osync__places_t *places;
    char *key; /* target, user and NameNodes */
    osync__sinks_t *sinks;
    osync_sink_t *sink;
    unsigned users;
    osync__place_t *next;
};

struct osync__places {
    uv_loop_t *loop;
    const osync_collector_config_t *config;
    osync__place_t *all; /* that are in use */
    unsigned open;       /* those, and the ones that are being closed */
    bool closing;
    void (*closed)(void *arg);
    void *closed_arg;
};

int osync__places_new(uv_loop_t *loop, const osync_collector_config_t *config, osync__places_t **out) {
    osync__places_t *p = osync__calloc(1, sizeof *p);
    if (!p) return OSYNC_ENOMEM;
    p->loop = loop;
    p->config = config;
    *out = p;
    return 0;
}

static void end_if_empty(osync__places_t *p) {
    if (!p->closing || p->open > 0) return;
    void (*closed)(void *) = p->closed;
    void *arg = p->closed_arg;
    osync__free(p);
    closed(arg);
}

void osync__places_close(osync__places_t *p, void (*cb)(void *arg), void *arg) {
    osync__place_t *place;
    p->closing = true;
    p->closed = cb;
    p->closed_arg = arg;
    LL_FOREACH(p->all, place) {
        osync__sinks_cancel(place->sinks);
    }
    end_if_empty(p);
}

static void on_closed(void *arg) {
    osync__place_t *place = arg;
    osync__places_t *p = place->places;
    osync__free(place->key);
    osync__free(place);
    p->open--;
    end_if_empty(p);
}

void osync__place_put(osync__place_t *place) {
    if (!place || --place->users > 0) return;
    LL_DELETE(place->places->all, place);
    if (place->sink) osync__sinks_put(place->sinks, place->sink);
    osync__sinks_close(place->sinks, on_closed, place);
}

osync__place_t *osync__place_share(osync__place_t *place) {
    place->users++;
    return place;
}

osync_sink_t *osync__place_sink(const osync__place_t *place) {
    return place->sink;
}

static int make_sink(osync__place_t *place, const char *target, osync_error_t *err) {
    char *url = osync__format("%s/_", target), *checked = NULL;
    const char *path;
    int rc =
        url ? osync__dest_resolve(place->sinks, url, &checked, err) : osync__err(err, OSYNC_ENOMEM, "out of memory");
    if (!rc) rc = osync__sinks_get(place->sinks, checked, &place->sink, &path, err);
    osync__free(url);
    osync__free(checked);
    return rc;
}

int osync__places_get(osync__places_t *p, const char *target, const char *user, const char *namenodes,
                      osync__place_t **out, osync_error_t *err) {
    const osync_collector_config_t *c = p->config;
    osync__sinks_config_t config = {
        .hadoop_conf_dir = c->hadoop_conf_dir,
        .hadoop_user = c->hadoop_user && *c->hadoop_user ? c->hadoop_user : user,
        .namenodes = namenodes,
        .make = c->make_sink,
        .make_arg = c->make_sink_arg,
    };
    osync__place_t *place = NULL;
    const char *authority = strstr(target, "://");
    if (!authority || strchr(authority + 3, '/'))
        return osync__err(err, OSYNC_EINVAL, "\"%.200s\" isn't a file system (scheme://authority)", target);
    char *key =
        osync__format("%s\n%s\n%s", target, config.hadoop_user ? config.hadoop_user : "", namenodes ? namenodes : "");
    if (!key) goto no_memory;
    LL_FOREACH(p->all, place) {
        if (!strcmp(place->key, key)) {
            osync__free(key);
            *out = osync__place_share(place);
            return 0;
        }
    }
    place = osync__calloc(1, sizeof *place);
    if (!place || osync__sinks_new(p->loop, &config, &place->sinks)) goto no_memory;
    place->places = p;
    place->key = key;
    place->users = 1;
    LL_PREPEND(p->all, place);
    p->open++;
    int rc = make_sink(place, target, err);
    if (rc)
        osync__place_put(place);
    else
        *out = place;
    return rc;
no_memory:
    osync__free(place);
    osync__free(key);
    return osync__err(err, OSYNC_ENOMEM, "out of memory");
}

static void on_removed(void *arg, int status, const osync_error_t *err) {
    OSYNC__AFTER(stage_remove);
    osync__place_put(arg);
}

void osync__place_remove(osync__place_t *place, const char *path) {
    if (place->places->closing) return;
    osync__place_share(place);
    OSYNC__BEFORE(stage_remove);
    if (place->sink->ops->remove(place->sink, path, false, on_removed, place)) osync__place_put(place);
}
