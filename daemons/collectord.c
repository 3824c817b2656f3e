/* osync-collectord: parses flags, makes a loop, makes one collector, runs. */
#include <malloc.h>
#include <stdbool.h>
#include <string.h>

#include "daemon.h"
#include "osync/collector.h"

typedef struct collectord {
    daemon_t daemon;
    osync_collector_t *collector;
} collectord_t;

static int read_options(daemon_t *d, int argc, char **argv, const char **bad, osync_error_t *err) {
    int rc = 0;
    for (int pass = 0; pass < 2; pass++) { /* the file first, so that the command line wins */
        for (int i = 1; !rc && i < argc; i++) {
            char key[128];
            const char *arg = argv[i], *eq = strchr(arg, '=');
            while (*arg == '-') arg++;
            size_t len = eq ? (size_t)(eq - arg) : strlen(arg);
            if (argv[i][0] != '-' || len >= sizeof key) {
                *bad = argv[i];
                return OSYNC_ECONFIG;
            }
            memcpy(key, arg, len);
            key[len] = 0;
            bool file = !strcmp(key, "flagfile");
            if (pass == 0 && file) rc = osync_config_read(d->config, eq ? eq + 1 : "", err);
            if (pass == 1 && !file) rc = osync_config_set(d->config, key, eq ? eq + 1 : NULL, "command line", err);
        }
    }
    return rc;
}

static int start(daemon_t *d, osync_error_t *err) {
    collectord_t *c = (collectord_t *)d;
    int rc = osync_collector_new(&c->collector, &d->loop, osync_config_collector(d->config), err);
    return rc ? rc : osync_collector_start(c->collector, err);
}

static void stop(daemon_t *d) {
    collectord_t *c = (collectord_t *)d;
    if (c->collector) osync_collector_close(c->collector, NULL, NULL);
}

int main(int argc, char **argv) {
    static const daemon_program_t program = {
        .name = "osync-collectord",
        .usage = "osync-collectord [--flagfile=FILE] [--key=value ...]\n"
                 "Reads the partitions of this machine's TabletServers and sends their rows to osync-syncd.\n",
        .kind = OSYNC_CONFIG_COLLECTOR,
        .bad_argument = "--key=value",
        .read = read_options,
        .start = start,
        .stop = stop,
    };
    collectord_t d = {0};
    /* What is read on one thread is freed on another: each of glibc's heaps, one a thread, would keep some of it. */
    (void)mallopt(M_ARENA_MAX, 2);
    return daemon_main(&d.daemon, &program, argc, argv);
}
