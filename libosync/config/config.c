/* Configuration by names: the tables of both daemons, and what was set of one of them. */
#include "osync/config.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/config.h"
#include "base/error.h"
#include "config/keys.h"

enum { SCHEDULER_PORT = 8848 }; /* as in OpenMLDB's configuration */

struct osync_config {
    osync_config_kind_t kind;
    osync__settings_t initial, set;
    osync__options_t options;
    char text[32]; /* a number, for the caller */
};

static void settings_init(osync__settings_t *s) {
    osync_collector_config_init(&s->collector, sizeof s->collector);
    osync_scheduler_config_init(&s->scheduler, sizeof s->scheduler);
    s->scheduler.port = SCHEDULER_PORT;
    s->log_level = "info";
}

int osync_config_new(osync_config_t **out, osync_config_kind_t kind, osync_error_t *err) {
    *out = NULL;
    if (kind != OSYNC_CONFIG_COLLECTOR && kind != OSYNC_CONFIG_SCHEDULER)
        return osync__err(err, OSYNC_EINVAL, "there is no configuration of kind %d", (int)kind);
    osync_config_t *c = osync__calloc(1, sizeof *c);
    if (!c) return osync__err(err, OSYNC_ENOMEM, "out of memory for a configuration");
    c->kind = kind;
    settings_init(&c->initial);
    c->set = c->initial;
    c->options.target = &c->set;
    if (kind == OSYNC_CONFIG_COLLECTOR) {
        c->options.table = osync__collector_keys;
        c->options.others = osync__collector_other_keys;
        c->options.others_reason = "it is for other programs of OpenMLDB, or for libraries that aren't used";
    } else {
        c->options.table = osync__scheduler_keys;
    }
    *out = c;
    return 0;
}

void osync_config_free(osync_config_t *config) {
    if (!config) return;
    osync__options_free(&config->options);
    osync__free(config);
}

int osync_config_read(osync_config_t *config, const char *path, osync_error_t *err) {
    return config->kind == OSYNC_CONFIG_COLLECTOR ? osync__options_read_flags(&config->options, path, err)
                                                  : osync__options_read_properties(&config->options, path, err);
}

int osync_config_set(osync_config_t *config, const char *key, const char *value, const char *source,
                     osync_error_t *err) {
    return osync__options_set(&config->options, key, value, source ? source : "configuration", err);
}

static const char *value_text(osync_config_t *config, const osync__option_t *o, const osync__settings_t *settings) {
    const void *field = (const char *)settings + o->offset;
    char *to = config->text;
    size_t size = sizeof config->text;
    const char *string = "";
    switch (o->type) {
    case OSYNC__OPTION_STRING:
        memcpy(&string, field, sizeof string);
        return string ? string : "";
    case OSYNC__OPTION_PORT:
        (void)snprintf(to, size, "%d", *(const int *)field);
        return to;
    case OSYNC__OPTION_COUNT:
        (void)snprintf(to, size, "%" PRIu32, *(const uint32_t *)field);
        return to;
    case OSYNC__OPTION_BYTES:
        (void)snprintf(to, size, "%" PRIu64, *(const uint64_t *)field);
        return to;
    case OSYNC__OPTION_MS:
        (void)snprintf(to, size, "%" PRIu32 "ms", *(const uint32_t *)field);
        return to;
    case OSYNC__OPTION_UNUSED:
        break;
    }
    return "";
}

const char *osync_config_get(osync_config_t *config, const char *key) {
    const osync__option_t *o = osync__options_find(&config->options, key);
    return o ? value_text(config, o, &config->set) : NULL;
}

int osync_config_check(const osync_config_t *config, osync_error_t *err) {
    return osync__options_check(&config->options, err);
}

int osync_config_key(osync_config_t *config, size_t i, osync_config_key_t *out) {
    static const char *const types[] = {
        [OSYNC__OPTION_STRING] = "text", [OSYNC__OPTION_PORT] = "port", [OSYNC__OPTION_COUNT] = "count",
        [OSYNC__OPTION_BYTES] = "bytes", [OSYNC__OPTION_MS] = "time",   [OSYNC__OPTION_UNUSED] = "",
    };
    const osync__option_t *o = config->options.table;
    while (o->key && i > 0) o++, i--;
    if (!o->key) return OSYNC_ENOENT;
    const osync_config_key_t own = {
        .name = o->key,
        .type = types[o->type],
        .initial = value_text(config, o, &config->initial),
        .help = o->help,
        .min = o->min,
        .max = o->max,
        .unit_ms = o->unit_ms,
        .required = o->required,
        .unused = o->type == OSYNC__OPTION_UNUSED,
    };
    osync__config_init(out, out->size, &own, sizeof own);
    return 0;
}

const osync_collector_config_t *osync_config_collector(osync_config_t *config) {
    return config->kind == OSYNC_CONFIG_COLLECTOR ? &config->set.collector : NULL;
}

const osync_scheduler_config_t *osync_config_scheduler(osync_config_t *config) {
    return config->kind == OSYNC_CONFIG_SCHEDULER ? &config->set.scheduler : NULL;
}

/* glog's names, too. */
osync_log_level_t osync_config_log_level(const osync_config_t *config) {
    const char *name = config->set.log_level;
    if (!strcasecmp(name, "debug")) return OSYNC_LOG_DEBUG;
    if (!strcasecmp(name, "warn") || !strcasecmp(name, "warning")) return OSYNC_LOG_WARN;
    if (!strcasecmp(name, "error") || !strcasecmp(name, "fatal")) return OSYNC_LOG_ERROR;
    return OSYNC_LOG_INFO;
}
