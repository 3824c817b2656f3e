/* Where a collector writes staged files itself: one sink for each file system, user and list of NameNodes, shared by
 * all tasks that write there, so that connections are kept; it is closed when nobody uses it. Loop thread only. */
#ifndef OSYNC_COLLECTOR_PLACES_H
#define OSYNC_COLLECTOR_PLACES_H

#include <uv.h>

#include "osync/collector.h"

typedef struct osync__places osync__places_t;
typedef struct osync__place osync__place_t;

/* `config` is borrowed: hadoop_conf_dir, hadoop_user, make_sink. */
int osync__places_new(uv_loop_t *loop, const osync_collector_config_t *config, osync__places_t **out);
/* Everything that is under way on the sinks ends with OSYNC_ECANCELED. Only places that a removal uses may be left;
 * `cb` may come from inside the call. */
void osync__places_close(osync__places_t *places, void (*cb)(void *arg), void *arg);

/* The sink of `target` (scheme://authority; none of it is trusted). `user` and `namenodes` ("host:port,host:port") may
 * be NULL: they stand where the collector's own configuration says nothing. osync__place_put gives it back. */
int osync__places_get(osync__places_t *places, const char *target, const char *user, const char *namenodes,
                      osync__place_t **out, osync_error_t *err);
osync__place_t *osync__place_share(osync__place_t *place);
void osync__place_put(osync__place_t *place);

osync_sink_t *osync__place_sink(const osync__place_t *place);
/* Removes a file that nobody was told of, if that is possible; nobody waits for it. */
void osync__place_remove(osync__place_t *place, const char *path);

#endif
