/* osync-collectord: parses flags, makes a loop, makes one collector, runs. */
#include <stdbool.h>
#include <string.h>

#include "daemon.h"
#include "options.h"
#include "osync/collector.h"

typedef struct settings {
    osync_collector_config_t c;
    const char *log_level;
} settings_t;

typedef struct collectord {
    daemon_t daemon;
    settings_t settings;
    osync_collector_t *collector;
} collectord_t;

#define C(field) offsetof(settings_t, c.field)
static const option_t table[] = {
    {"endpoint", OPTION_STRING, C(endpoint), 0, 0, 0,
     "host:port to listen on and to register in ZooKeeper; the host is the TabletServer's"},
    {"zk_cluster", OPTION_STRING, C(zk_cluster), 0, 0, 0, "ZooKeeper's host:port,host:port,..."},
    {"zk_root_path", OPTION_STRING, C(zk_root_path), 0, 0, 0, "OpenMLDB's root node"},
    {"zk_session_timeout", OPTION_MS, C(zk_session_timeout_ms), 100, 600000, 1, "ZooKeeper session"},
    {"zk_auth_schema", OPTION_STRING, C(zk_auth_schema), 0, 0, 0, "ZooKeeper authentication scheme"},
    {"zk_cert", OPTION_STRING, C(zk_cert), 0, 0, 0, "ZooKeeper authentication, user:password"},
    {"collector_datadir", OPTION_STRING, C(data_dir), 0, 0, 0,
     "folder for links and progress; on the file system of the TabletServer's data"},
    {"db_root_path", OPTION_STRING, C(db_root_path), 0, 0, 0,
     "the TabletServer's own db_root_path, the folders of its memory tables; without it these are refused"},
    {"max_pack_size", OPTION_BYTES, C(max_pack_size), 1, 1ULL << 30, 0,
     "rows of one SendData; a larger row goes alone"},
    {"max_body_size", OPTION_BYTES, C(max_body_size), 1 << 20, 1ULL << 31, 0, "largest RPC message"},
    {"request_timeout_ms", OPTION_MS, C(request_timeout_ms), 1, 0, 1, "of every RPC"},
    {"sync_task_long_interval_ms", OPTION_MS, C(heartbeat_ms), 10, 0, 1,
     "longest time without a message to the scheduler"},
    {"snapshot_settle_ms", OPTION_MS, C(snapshot_settle_ms), 0, 0, 1,
     "how old a snapshot has to be before it is read (docs/delivery.md)"},
    {"max_pinned_bytes", OPTION_BYTES, C(max_pinned_bytes), 0, 0, 0,
     "what links may keep of files that the TabletServer has deleted; 0: no limit (docs/delivery.md)"},
    {"min_free_percent", OPTION_COUNT, C(min_free_percent), 0, 100, 0,
     "of the file system: with less free, links give up what the TabletServer has deleted; 0: never"},
    {"hold_expire_ms", OPTION_MS, C(hold_expire_ms), 1, 0, 1,
     "how long a follower's log is held after the scheduler has last asked for it"},
    {"task_thread_pool_size", OPTION_COUNT, C(worker_threads), 1, 256, 0, "threads that read"},
    {"log_level", OPTION_STRING, offsetof(settings_t, log_level), 0, 0, 0, "debug, info, warn or error"},
    {"flagfile", OPTION_UNUSED, 0, 0, 0, 0, "it is given on the command line"},
    {"openmldb_log_dir", OPTION_UNUSED, 0, 0, 0, 0, "the log goes to standard error"},
    {"glog_dir", OPTION_UNUSED, 0, 0, 0, 0, "the log goes to standard error"},
    {"glog_level", OPTION_UNUSED, 0, 0, 0, 0, "see log_level"},
    {"log_dir", OPTION_UNUSED, 0, 0, 0, 0, "the log goes to standard error"},
    {"max_log_file_size", OPTION_UNUSED, 0, 0, 0, 0, "the log goes to standard error"},
    {"keep_log_file_num", OPTION_UNUSED, 0, 0, 0, 0, "the log goes to standard error"},
    {"enable_status_service", OPTION_UNUSED, 0, 0, 0, 0, "/status is always served"},
    {"thread_pool_size", OPTION_UNUSED, 0, 0, 0, 0, "RPCs are served by one loop"},
    {"sync_task_short_interval_ms", OPTION_UNUSED, 0, 0, 0, 0, "answers pace the sender"},
    {"zk_keep_alive_check_interval", OPTION_UNUSED, 0, 0, 0, 0, "the connection is watched all the time"},
    {"socket_max_unwritten_bytes", OPTION_UNUSED, 0, 0, 0, 0, "one pack a partition is under way at a time"},
    {"max_traverse_cnt", OPTION_UNUSED, 0, 0, 0, 0, "a snapshot is always read to its end"},
    {"binlog_enable_crc", OPTION_UNUSED, 0, 0, 0, 0, "checksums are always checked"},
    {"binlog_name_length", OPTION_UNUSED, 0, 0, 0, 0, "names of any length are understood"},
    {"block_cache_mb", OPTION_UNUSED, 0, 0, 0, 0, "a snapshot is read once, in order"},
    {"write_buffer_mb", OPTION_UNUSED, 0, 0, 0, 0, "snapshots are not written"},
    {"block_cache_shardbits", OPTION_UNUSED, 0, 0, 0, 0, "a snapshot is read once, in order"},
    {"disable_wal", OPTION_UNUSED, 0, 0, 0, 0, "snapshots are not written"},
    {NULL, OPTION_UNUSED, 0, 0, 0, 0, NULL},
};

/* OpenMLDB's collector knows the flags of all of OpenMLDB's programs, of gflags, glog and bRPC, and a file of an
 * installation may have any of them. */
static const char others[] =
    "absolute_default_skiplist_height absolute_ttl_max alsologtostderr auto_failover binlog_coffee_time "
    "binlog_delete_interval binlog_match_logoffset_interval binlog_notify_on_put binlog_single_file_max_size "
    "binlog_sync_batch_size binlog_sync_to_disk_interval binlog_sync_wait_time bthread_concurrency bucket_size "
    "check_binlog_sync_progress_delta cmd colorlogtostderr data_dir database defer_close_second disk_gc_interval "
    "enable_distsql enable_localtablet file_compression fromenv gc_deleted_pk_version_delta gc_interval "
    "gc_on_table_recover_count gc_pool_size gc_safe_offset get_concurrency_limit get_memory_stat_interval "
    "get_replica_status_interval get_table_diskused_interval get_table_status_interval get_task_status_interval "
    "go_back_max_try_cnt hdd_root_path health_check_interval host idle_timeout_second interactive io_pool_size "
    "key_entry_max_height latest_default_skiplist_height latest_ttl_max load_index_max_wait_time load_table_batch "
    "load_table_queue_size load_table_thread_num log_link log_prefix logbuflevel logbufsecs logtostderr "
    "make_snapshot_check_interval make_snapshot_max_deleted_keys make_snapshot_offline_interval "
    "make_snapshot_threshold_offset make_snapshot_time max_col_display_length max_connection_pool_size "
    "max_log_size max_memory_mb max_op_num max_traverse_key_cnt mem_release_rate minloglevel "
    "name_server_op_execute_timeout name_server_task_concurrency name_server_task_concurrency_for_replica_cluster "
    "name_server_task_max_concurrency name_server_task_pool_size name_server_task_wait_time nameserver "
    "partition_num password port preview_default_limit preview_limit_max_num put_concurrency_limit "
    "put_slow_log_threshold query_slow_log_threshold recycle_bin_enabled recycle_bin_hdd_root_path "
    "recycle_bin_root_path recycle_bin_ssd_root_path recycle_ttl replica_num request_max_retry request_sleep_time "
    "request_timeout retry_send_file_wait_time_ms role scan_max_bytes_size scan_reserve_size send_file_max_try "
    "skip_grant_tables skiplist_max_height snapshot_compression snapshot_pool_size snapshot_ttl_check_interval "
    "snapshot_ttl_time socket_recv_buffer_size socket_send_buffer_size ssd_root_path stderrthreshold "
    "stop_logging_if_full_disk stream_bandwidth_limit stream_block_size stream_close_wait_time_ms "
    "sync_deploy_stats_timeout sync_job_timeout system_table_replica_num tablet tablet_heartbeat_timeout "
    "tablet_offline_check_interval task_check_interval task_pool_size traverse_cnt_limit tryfromenv undefok "
    "use_name user v verify_compression vmodule zk_log_file zk_log_level";

static int read_options(options_t *o, int argc, char **argv, const char **bad, osync_error_t *err) {
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
            if (pass == 0 && file) rc = options_read_flags(o, eq ? eq + 1 : "", err);
            if (pass == 1 && !file) {
                o->source = "command line";
                rc = options_set(o, key, eq ? eq + 1 : NULL, err);
            }
        }
    }
    return rc;
}

static int start(daemon_t *d, osync_error_t *err) {
    collectord_t *c = (collectord_t *)d;
    int rc = osync_collector_new(&c->collector, &d->loop, &c->settings.c, err);
    return rc ? rc : osync_collector_start(c->collector, err);
}

static void stop(daemon_t *d) {
    collectord_t *c = (collectord_t *)d;
    if (c->collector) osync_collector_close(c->collector, NULL, NULL);
}

int main(int argc, char **argv) {
    static const char *const required[] = {"zk_cluster", NULL};
    static const daemon_program_t program = {
        .name = "osync-collectord",
        .usage = "osync-collectord [--flagfile=FILE] [--key=value ...]\n"
                 "Reads the partitions of this machine's TabletServers and sends their rows to osync-syncd.\n",
        .required = required,
        .bad_argument = "--key=value",
        .read = read_options,
        .start = start,
        .stop = stop,
    };
    collectord_t d = {.settings.log_level = "info"};
    osync_collector_config_init(&d.settings.c, sizeof d.settings.c);
    options_t o = {.table = table,
                   .others = others,
                   .others_reason = "it is for other programs of OpenMLDB, or for libraries that aren't used",
                   .target = &d.settings};
    return daemon_main(&d.daemon, &program, &o, &d.settings.log_level, argc, argv);
}
