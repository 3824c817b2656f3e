/* The keys of each daemon: the tables, and the struct that they fill. */
#ifndef OSYNC_CONFIG_KEYS_H
#define OSYNC_CONFIG_KEYS_H

#include "config/options.h"
#include "osync/collector.h"
#include "osync/scheduler.h"

typedef struct osync__settings {
    osync_collector_config_t collector;
    osync_scheduler_config_t scheduler;
    const char *log_level;
} osync__settings_t;

extern const osync__option_t osync__collector_keys[];
/* Names with a space between. */
extern const char osync__collector_other_keys[];
extern const osync__option_t osync__scheduler_keys[];

#endif
