/* osync-syncd: parses the configuration, makes a loop, makes one scheduler, runs. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "daemon.h"
#include "options.h"
#include "osync/scheduler.h"

typedef struct settings {
    osync_scheduler_config_t c;
    const char *log_level;
    const char *export_dir; /* NULL: not asked for */
} settings_t;

typedef struct syncd {
    daemon_t daemon;
    settings_t settings;
    osync_scheduler_t *scheduler;
    bool exported;
    int export_status;
    osync_error_t export_error;
} syncd_t;

#define C(field) offsetof(settings_t, c.field)
static const option_t table[] = {
    {"server.host", OPTION_STRING, C(host), 0, 0, 0, "address to listen on; 0.0.0.0 is all"},
    {"server.port", OPTION_PORT, C(port), 0, 65535, 0, "port to listen on; 0 picks a free one"},
    {"server.advertised_endpoint", OPTION_STRING, C(advertised_endpoint), 0, 0, 0,
     "host:port that collectors send to; by default server.host and server.port, or with 0.0.0.0 the address used "
     "towards ZooKeeper"},
    {"zookeeper.cluster", OPTION_STRING, C(zk_cluster), 0, 0, 0, "ZooKeeper's host:port,host:port,..."},
    {"zookeeper.root_path", OPTION_STRING, C(zk_root_path), 0, 0, 0, "OpenMLDB's root node"},
    {"zookeeper.cert", OPTION_STRING, C(zk_cert), 0, 0, 0, "ZooKeeper digest authentication, user:password"},
    {"zookeeper.session_timeout", OPTION_MS, C(zk_session_timeout_ms), 100, 600000, 1, "ZooKeeper session"},
    {"sync_task.progress_path", OPTION_STRING, C(state_dir), 0, 0, 0, "folder that holds the checkpoint"},
    {"sync_task.check_period", OPTION_MS, C(check_period_ms), 10, 0, 1000,
     "a collector that is silent for twice as long is replaced; a bare number is seconds"},
    {"sync_task.hold_period", OPTION_MS, C(hold_period_ms), 10, 0, 1000,
     "how often collectors that could take over are asked to hold the log; by default 30 s, or three check "
     "periods, if that is longer; a bare number is seconds"},
    {"request.timeout", OPTION_MS, C(request_timeout_ms), 1, 0, 1000,
     "of requests to collectors; a bare number is seconds"},
    {"server.max_body_size", OPTION_BYTES, C(max_body_size), 1 << 20, 1ULL << 31, 0, "largest RPC message"},
    {"hadoop.conf.dir", OPTION_STRING, C(hadoop_conf_dir), 0, 0, 0,
     "folder of core-site.xml and hdfs-site.xml; by default the environment's HADOOP_CONF_DIR"},
    {"hadoop.user", OPTION_STRING, C(hadoop_user), 0, 0, 0,
     "user name on HDFS; by default HADOOP_USER_NAME, else the process's"},
    {"default.fs", OPTION_STRING, C(default_fs), 0, 0, 0,
     "where a dest without a scheme goes (hdfs://..., file:///); by default fs.defaultFS of the Hadoop configuration"},
    {"csv.timezone", OPTION_STRING, C(csv_timezone), 0, 0, 0,
     "time zone of timestamps in CSV (Asia/Shanghai); by default the machine's"},
    {"roll.size", OPTION_BYTES, C(roll_bytes), 1, 0, 0, "a file is committed when it holds as much"},
    {"roll.interval", OPTION_MS, C(roll_interval_ms), 10, 0, 1000,
     "and this long after its first row at the latest; a bare number is seconds"},
    {"server.worker_threads", OPTION_COUNT, C(worker_threads), 1, 256, 0, "threads that encode"},
    {"log.level", OPTION_STRING, offsetof(settings_t, log_level), 0, 0, 0, "debug, info, warn or error"},
    {"server.io_threads", OPTION_UNUSED, 0, 0, 0, 0, "connections are served by one loop"},
    {"user", OPTION_UNUSED, 0, 0, 0, 0, "tables are found in ZooKeeper, without a login"},
    {"password", OPTION_UNUSED, 0, 0, 0, 0, "tables are found in ZooKeeper, without a login"},
    {"data.cache_path", OPTION_UNUSED, 0, 0, 0, 0, "nothing is cached on disk"},
    {"flink.slots", OPTION_UNUSED, 0, 0, 0, 0, "there is no Flink"},
    {NULL, OPTION_UNUSED, 0, 0, 0, 0, NULL},
};

static int read_options(options_t *o, int argc, char **argv, const char **bad, osync_error_t *err) {
    const char *path = NULL;
    settings_t *settings = o->target;
    int rc = 0;
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--export-progress")) settings->export_dir = i + 1 < argc ? argv[i + 1] : "";
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "-c")) path = i + 1 < argc ? argv[i + 1] : "";
    FILE *f = path ? NULL : fopen("conf/synctool.properties", "re");
    if (f) {
        fclose(f);
        path = "conf/synctool.properties";
    }
    if (path) rc = options_read_properties(o, path, err);
    o->source = "command line";
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
        rc = options_set(o, key, eq + 1, err);
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
    int rc = osync_scheduler_export_progress(&s->daemon.loop, s->settings.c.state_dir, s->settings.export_dir,
                                             on_exported, s, err);
    if (rc) return rc;
    while (!s->exported) uv_run(&s->daemon.loop, UV_RUN_ONCE);
    s->daemon.done = true;
    if (s->export_status) *err = s->export_error;
    return s->export_status;
}

static int start(daemon_t *d, osync_error_t *err) {
    syncd_t *s = (syncd_t *)d;
    if (s->settings.export_dir) return export_progress(s, err);
    int rc = osync_scheduler_new(&s->scheduler, &d->loop, &s->settings.c, err);
    return rc ? rc : osync_scheduler_start(s->scheduler, err);
}

static void stop(daemon_t *d) {
    syncd_t *s = (syncd_t *)d;
    if (s->scheduler) osync_scheduler_close(s->scheduler, NULL, NULL);
}

int main(int argc, char **argv) {
    static const char *const required[] = {"zookeeper.cluster", "sync_task.progress_path", NULL};
    static const daemon_program_t program = {
        .name = "osync-syncd",
        .usage =
            "osync-syncd [-c FILE] [key=value ...]\n"
            "Schedules the synchronisation of OpenMLDB tables and writes their rows to HDFS.\n"
            "  -c FILE    reads synctool.properties (default: conf/synctool.properties, if it is there)\n"
            "  --export-progress DIR\n"
            "             writes the tasks' progress as OpenMLDB's SyncTool keeps it, gives them up, and ends; for\n"
            "             a daemon that is stopped\n",
        .required = required,
        .bad_argument = "key=value",
        .read = read_options,
        .start = start,
        .stop = stop,
    };
    syncd_t d = {.settings.log_level = "info"};
    osync_scheduler_config_init(&d.settings.c, sizeof d.settings.c);
    d.settings.c.port = 8848; /* as in OpenMLDB's configuration */
    options_t o = {.table = table, .target = &d.settings};
    return daemon_main(&d.daemon, &program, &o, &d.settings.log_level, argc, argv);
}
