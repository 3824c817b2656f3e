/* osync-syncd: parses the configuration, makes a loop, makes one scheduler, runs. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "daemon.h"
#include "osync/scheduler.h"

typedef struct syncd {
    daemon_t daemon;
    osync_scheduler_t *scheduler;
    const char *export_dir; /* NULL: not asked for */
    bool exported;
    int export_status;
    osync_error_t export_error;
} syncd_t;

static int read_options(daemon_t *d, int argc, char **argv, const char **bad, osync_error_t *err) {
    const char *path = NULL;
    syncd_t *s = (syncd_t *)d;
    int rc = 0;
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--export-progress")) s->export_dir = i + 1 < argc ? argv[i + 1] : "";
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "-c")) path = i + 1 < argc ? argv[i + 1] : "";
    FILE *f = path ? NULL : fopen("conf/synctool.properties", "re");
    if (f) {
        fclose(f);
        path = "conf/synctool.properties";
    }
    if (path) rc = osync_config_read(d->config, path, err);
    for (int i = 1; !rc && i < argc; i++) {
        char key[128];
        const char *eq = strchr(argv[i], '=');
        if (!strcmp(argv[i], "-c") || !strcmp(argv[i], "--export-progress")) {
            i++;
            continue;
        }
        if (!eq || (size_t)(eq - argv[i]) >= sizeof key) {
            *bad = argv[i];
            return OSYNC_ECONFIG;
        }
        memcpy(key, argv[i], (size_t)(eq - argv[i]));
        key[eq - argv[i]] = 0;
        rc = osync_config_set(d->config, key, eq + 1, "command line", err);
    }
    return rc;
}

static void on_exported(void *arg, int status, const osync_error_t *err) {
    syncd_t *s = arg;
    s->exported = true;
    s->export_status = status;
    if (status) s->export_error = *err;
}

static int export_progress(syncd_t *s, osync_error_t *err) {
    int rc = osync_scheduler_export_progress(&s->daemon.loop, osync_config_scheduler(s->daemon.config)->state_dir,
                                             s->export_dir, on_exported, s, err);
    if (rc) return rc;
    while (!s->exported) uv_run(&s->daemon.loop, UV_RUN_ONCE);
    s->daemon.done = true;
    if (s->export_status) *err = s->export_error;
    return s->export_status;
}

static int start(daemon_t *d, osync_error_t *err) {
    syncd_t *s = (syncd_t *)d;
    if (s->export_dir) return export_progress(s, err);
    int rc = osync_scheduler_new(&s->scheduler, &d->loop, osync_config_scheduler(d->config), err);
    return rc ? rc : osync_scheduler_start(s->scheduler, err);
}

static void stop(daemon_t *d) {
    syncd_t *s = (syncd_t *)d;
    if (s->scheduler) osync_scheduler_close(s->scheduler, NULL, NULL);
}

int main(int argc, char **argv) {
    static const daemon_program_t program = {
        .name = "osync-syncd",
        .usage =
            "osync-syncd [-c FILE] [key=value ...]\n"
            "Schedules the synchronisation of OpenMLDB tables and writes their rows to HDFS.\n"
            "  -c FILE    reads synctool.properties (default: conf/synctool.properties, if it is there)\n"
            "  --export-progress DIR\n"
            "             writes the tasks' progress as OpenMLDB's SyncTool keeps it, gives them up, and ends; for\n"
            "             a daemon that is stopped\n",
        .kind = OSYNC_CONFIG_SCHEDULER,
        .bad_argument = "key=value",
        .read = read_options,
        .start = start,
        .stop = stop,
    };
    syncd_t d = {0};
    return daemon_main(&d.daemon, &program, argc, argv);
}
