/* Configuration by names: the keys of osync-collectord and osync-syncd, from gflags files, Java properties files and
 * single assignments, for a process that embeds one of them and shall be configured like it.
 *
 *     osync_config_new(&config, OSYNC_CONFIG_COLLECTOR, &err);
 *     osync_config_read(config, "conf/data_collector.flags", &err);
 *     osync_config_set(config, "collector_datadir", "/data/osync", "command line", &err);
 *     osync_config_check(config, &err);
 *     osync_collector_new(&collector, loop, osync_config_collector(config), &err);
 *     osync_config_free(config);
 *
 * One table is the only source of names, types, ranges, defaults and help (docs/configuration.md is made of it). Keys
 * that OpenMLDB's files have and that mean nothing here are accepted; the log says so, with the reason. Used by one
 * thread at a time. */
#ifndef OSYNC_CONFIG_H
#define OSYNC_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "osync/collector.h"
#include "osync/error.h"
#include "osync/log.h"
#include "osync/scheduler.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct osync_config osync_config_t;

typedef enum osync_config_kind {
    OSYNC_CONFIG_COLLECTOR, /* data_collector.flags: --key=value */
    OSYNC_CONFIG_SCHEDULER, /* synctool.properties: key=value */
} osync_config_kind_t;

/* The caller frees *out. */
OSYNC_API int osync_config_new(osync_config_t **out, osync_config_kind_t kind, osync_error_t *err);
/* Also frees the strings that osync_config_collector and osync_config_scheduler point to. NULL is fine. */
OSYNC_API void osync_config_free(osync_config_t *config);

/* Reads a file: a collector's is a gflags file (`--key=value`, `--flag`, `--noflag`, '#'), a scheduler's a Java
 * properties file (`key=value`, `key: value`, '#', '!', Java's escapes). OSYNC_ECONFIG names file, line, key and, for
 * one that isn't known, the nearest that is. What was read before the fault stays set. */
OSYNC_API int osync_config_read(osync_config_t *config, const char *path, osync_error_t *err);
/* One assignment. `value` NULL: a flag without a value. `source` is what the log calls the place ("command line"; NULL:
 * "configuration"). OSYNC_ECONFIG as above, without a place. */
OSYNC_API int osync_config_set(osync_config_t *config, const char *key, const char *value, const char *source,
                               osync_error_t *err);
/* A value as text, as it stands in --help; "" if it isn't set, or has no meaning here; NULL: it isn't one of the keys
 * that osync_config_key lists. Valid until the next call on `config`. */
OSYNC_API const char *osync_config_get(osync_config_t *config, const char *key);
/* OSYNC_ECONFIG names the first key that must be set and isn't. */
OSYNC_API int osync_config_check(const osync_config_t *config, osync_error_t *err);

/* One key of the table; strings are static but for `initial`. */
typedef struct osync_config_key {
    size_t size; /* sizeof(osync_config_key_t), set by the caller */
    const char *name;
    const char *type;    /* "text", "port", "count", "bytes" (with K, M or G), "time" (with ms, s, m or h), or "" */
    const char *initial; /* the value before anything is set */
    const char *help;
    uint64_t min, max; /* of a port, a count, bytes, or milliseconds */
    uint32_t unit_ms;  /* of a time: what a bare number counts, 1 or 1000 */
    bool required;
    bool unused; /* accepted, since OpenMLDB's files have it, and without a meaning here: `help` says why */
} osync_config_key_t;
/* Key i, in the order of --help; OSYNC_ENOENT: there are no more. `initial` is valid until the next call on `config`.
 * (A collector accepts about a hundred more without a meaning, of OpenMLDB's other programs, gflags and glog.) */
OSYNC_API int osync_config_key(osync_config_t *config, size_t i, osync_config_key_t *out);

/* What is set so far, for osync_collector_new or osync_scheduler_new (copy the struct to set what has no key, as a
 * source or a checkpoint); valid until the next call on `config`. NULL: it is of the other kind. */
OSYNC_API const osync_collector_config_t *osync_config_collector(osync_config_t *config);
OSYNC_API const osync_scheduler_config_t *osync_config_scheduler(osync_config_t *config);
/* The level that the key for logging says: for osync_log_set. A name that isn't known is info. */
OSYNC_API osync_log_level_t osync_config_log_level(const osync_config_t *config);

#ifdef __cplusplus
}
#endif
#endif
