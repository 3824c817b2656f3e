/* The keys of osync-syncd. */
#include <stddef.h>

#include "config/keys.h"

#define C(field) offsetof(osync__settings_t, scheduler.field)
const osync__option_t osync__scheduler_keys[] = {
    OSYNC__STRING("server.host", C(host), "address to listen on; 0.0.0.0 is all"),
    OSYNC__PORT("server.port", C(port), "port to listen on; 0 picks a free one"),
    OSYNC__STRING(
        "server.advertised_endpoint", C(advertised_endpoint),
        "host:port that collectors send to; by default server.host and server.port, or with 0.0.0.0 the address used "
        "towards ZooKeeper"),
    OSYNC__REQUIRED("zookeeper.cluster", C(zk_cluster), "ZooKeeper's host:port,host:port,..."),
    OSYNC__STRING("zookeeper.root_path", C(zk_root_path), "OpenMLDB's root node"),
    OSYNC__STRING("zookeeper.cert", C(zk_cert), "ZooKeeper digest authentication, user:password"),
    OSYNC__MS("zookeeper.session_timeout", C(zk_session_timeout_ms), 100, 600000, 1, "ZooKeeper session"),
    OSYNC__REQUIRED("sync_task.progress_path", C(state_dir), "folder that holds the checkpoint"),
    OSYNC__MS("sync_task.check_period", C(check_period_ms), 10, 0, 1000,
              "a collector that is silent for twice as long is replaced"),
    OSYNC__MS("sync_task.hold_period", C(hold_period_ms), 10, 0, 1000,
              "how often collectors that could take over are asked to hold the log; by default 30 s, or three check "
              "periods, if that is longer"),
    OSYNC__MS("request.timeout", C(request_timeout_ms), 1, 0, 1000, "of requests to collectors"),
    OSYNC__BYTES("server.max_body_size", C(max_body_size), 1 << 20, 1ULL << 31, "largest RPC message"),
    OSYNC__STRING("hadoop.conf.dir", C(hadoop_conf_dir),
                  "folder of core-site.xml and hdfs-site.xml; by default the environment's HADOOP_CONF_DIR"),
    OSYNC__STRING("hadoop.user", C(hadoop_user), "user name on HDFS; by default HADOOP_USER_NAME, else the process's"),
    OSYNC__STRING("default.fs", C(default_fs),
                  "where a dest without a scheme goes (hdfs://..., file:///); by default fs.defaultFS of the Hadoop "
                  "configuration"),
    OSYNC__STRING("csv.timezone", C(csv_timezone),
                  "time zone of timestamps in CSV (Asia/Shanghai); by default the machine's"),
    OSYNC__BYTES("roll.size", C(roll_bytes), 1, 0, "a file is committed when it holds as much"),
    OSYNC__MS("roll.interval", C(roll_interval_ms), 10, 0, 1000, "and this long after its first row at the latest"),
    OSYNC__STRING("data_path", C(data_path),
                  "who writes staged files: auto (collectors of ours, and the scheduler when they can't), direct (they "
                  "or nobody) or proxy (the scheduler)"),
    OSYNC__BYTES("server.max_bytes_in_flight", C(max_bytes_in_flight), 1, 0,
                 "rows that are worked on at the same time"),
    OSYNC__BYTES("server.max_bytes_waiting", C(max_bytes_waiting), 1, 0,
                 "rows that wait for their turn; beyond it a collector is told to send again"),
    OSYNC__COUNT("server.worker_threads", C(worker_threads), 1, 256, "threads that encode"),
    OSYNC__STRING("log.level", offsetof(osync__settings_t, log_level), "debug, info, warn or error"),
    OSYNC__UNUSED("server.io_threads", "connections are served by one loop"),
    OSYNC__UNUSED("user", "tables are found in ZooKeeper, without a login"),
    OSYNC__UNUSED("password", "tables are found in ZooKeeper, without a login"),
    OSYNC__UNUSED("data.cache_path", "nothing is cached on disk"),
    OSYNC__UNUSED("flink.slots", "there is no Flink"),
    OSYNC__OPTIONS_END,
};
