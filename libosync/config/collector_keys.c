/* The keys of osync-collectord. */
#include <stddef.h>

#include "config/keys.h"

#define C(field) offsetof(osync__settings_t, collector.field)
const osync__option_t osync__collector_keys[] = {
    OSYNC__STRING("endpoint", C(endpoint),
                  "host:port to listen on and to register in ZooKeeper; the host is the TabletServer's"),
    OSYNC__REQUIRED("zk_cluster", C(zk_cluster), "ZooKeeper's host:port,host:port,..."),
    OSYNC__STRING("zk_root_path", C(zk_root_path), "OpenMLDB's root node"),
    OSYNC__MS("zk_session_timeout", C(zk_session_timeout_ms), 100, 600000, 1, "ZooKeeper session"),
    OSYNC__STRING("zk_auth_schema", C(zk_auth_schema), "ZooKeeper authentication scheme"),
    OSYNC__STRING("zk_cert", C(zk_cert), "ZooKeeper authentication, user:password"),
    OSYNC__STRING("collector_datadir", C(data_dir),
                  "folder for links and progress; on the file system of the TabletServer's data"),
    OSYNC__STRING(
        "db_root_path", C(db_root_path),
        "the TabletServer's own db_root_path, the folders of its memory tables; without it these are refused"),
    OSYNC__BYTES("max_pack_size", C(max_pack_size), 1, 1ULL << 30, "rows of one SendData; a larger row goes alone"),
    OSYNC__BYTES("max_body_size", C(max_body_size), 1 << 20, 1ULL << 31, "largest RPC message"),
    OSYNC__MS("request_timeout_ms", C(request_timeout_ms), 1, 0, 1, "of every RPC"),
    OSYNC__MS("sync_task_long_interval_ms", C(heartbeat_ms), 10, 0, 1,
              "longest time without a message to the scheduler"),
    OSYNC__MS("snapshot_settle_ms", C(snapshot_settle_ms), 0, 0, 1,
              "how old a snapshot has to be before it is read (docs/delivery.md)"),
    OSYNC__BYTES("max_pinned_bytes", C(max_pinned_bytes), 0, 0,
                 "what links may keep of files that the TabletServer has deleted; 0: no limit (docs/delivery.md)"),
    OSYNC__COUNT("min_free_percent", C(min_free_percent), 0, 100,
                 "of the file system: with less free, links give up what the TabletServer has deleted; 0: never"),
    OSYNC__MS("hold_expire_ms", C(hold_expire_ms), 1, 0, 1,
              "how long a follower's log is held after the scheduler has last asked for it"),
    OSYNC__BYTES("max_bytes_in_flight", C(max_bytes_in_flight), 1, 0,
                 "rows that are read but not yet taken, of all partitions together"),
    OSYNC__COUNT("max_traverses", C(max_traverses), 1, 0, "snapshots that are read at the same time"),
    OSYNC__BYTES("max_read_rate", C(max_read_rate), 0, 0,
                 "bytes a second that are read from snapshots and logs; 0: no limit"),
    OSYNC__COUNT("max_cpu_percent", C(max_cpu_percent), 0, 25600, "of one core, for reading and encoding; 0: no limit"),
    OSYNC__STRING("data_path", C(data_path),
                  "who writes staged files: auto (this collector, if the scheduler says that it may) or proxy (the "
                  "scheduler)"),
    OSYNC__STRING("hadoop_conf_dir", C(hadoop_conf_dir),
                  "folder of core-site.xml and hdfs-site.xml, for writing staged files; by default the environment's "
                  "HADOOP_CONF_DIR"),
    OSYNC__STRING("hadoop_user", C(hadoop_user), "user name on HDFS; by default the scheduler's"),
    OSYNC__COUNT("task_thread_pool_size", C(worker_threads), 1, 256, "threads that read"),
    OSYNC__STRING("log_level", offsetof(osync__settings_t, log_level), "debug, info, warn or error"),
    OSYNC__UNUSED("flagfile", "it is given on the command line"),
    OSYNC__UNUSED("openmldb_log_dir", "the log goes to standard error"),
    OSYNC__UNUSED("glog_dir", "the log goes to standard error"),
    OSYNC__UNUSED("glog_level", "see log_level"),
    OSYNC__UNUSED("log_dir", "the log goes to standard error"),
    OSYNC__UNUSED("max_log_file_size", "the log goes to standard error"),
    OSYNC__UNUSED("keep_log_file_num", "the log goes to standard error"),
    OSYNC__UNUSED("enable_status_service", "/status is always served"),
    OSYNC__UNUSED("thread_pool_size", "RPCs are served by one loop"),
    OSYNC__UNUSED("sync_task_short_interval_ms", "answers pace the sender"),
    OSYNC__UNUSED("zk_keep_alive_check_interval", "the connection is watched all the time"),
    OSYNC__UNUSED("socket_max_unwritten_bytes", "one pack a partition is under way at a time"),
    OSYNC__UNUSED("max_traverse_cnt", "a snapshot is always read to its end"),
    OSYNC__UNUSED("binlog_enable_crc", "checksums are always checked"),
    OSYNC__UNUSED("binlog_name_length", "names of any length are understood"),
    OSYNC__UNUSED("block_cache_mb", "a snapshot is read once, in order"),
    OSYNC__UNUSED("write_buffer_mb", "snapshots are not written"),
    OSYNC__UNUSED("block_cache_shardbits", "a snapshot is read once, in order"),
    OSYNC__UNUSED("disable_wal", "snapshots are not written"),
    OSYNC__OPTIONS_END,
};

/* OpenMLDB's collector knows the flags of all of OpenMLDB's programs, of gflags, glog and bRPC, and a file of an
 * installation may have any of them. */
const char osync__collector_other_keys[] =
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
