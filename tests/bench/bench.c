/* osync-bench: the measured halves of tests/bench/run.py, each as a command of its own that does its work once and
 * prints one line of JSON: bytes, rows, seconds, CPU seconds. What they are compared with is here as well: the same
 * bytes read with as little as possible. It links libosync's own static libraries, and is never installed. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <rocksdb/c.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/sys.h"
#include "format/snapshot.h"
#include "format/table.h"
#include "osync/csv.h"
#include "osync/reader.h"
#include "osync/sink.h"
#include "osync/stream.h"

enum { PACK = 1 << 20, READ = 1 << 20, ENCODE_BYTES = 64 << 20, ENCODE_FLUSH = 1 << 20 };

typedef struct result {
    uint64_t bytes, rows;
} result_t;

static _Noreturn void die(const char *what, const char *why) {
    fprintf(stderr, "osync-bench: %s: %s\n", what, why);
    exit(1);
}

static void must(int rc, const char *what, const osync_error_t *err) {
    if (rc) die(what, err->message);
}

static double seconds(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static osync_table_t *table_of(const char *path) {
    osync_error_t err = {0};
    osync__buf_t bytes = {0};
    osync_table_t *table = NULL;
    must(osync__read_file(path, 16 << 20, &bytes, &err), "description", &err);
    must(osync_table_from_meta(&table, bytes.data, bytes.len, &err), "description", &err);
    osync__buf_free(&bytes);
    return table;
}

/* ---- reading ---- */

static osync_reader_t *open_reader(const osync_table_t *table, const char *partition, osync_phase_t phase) {
    char snapshot[4096], binlog[4096], dir[4096], scratch[4096];
    osync_error_t err = {0};
    osync_snapshot_name_t name;
    osync_reader_config_t config;
    osync_reader_t *reader = NULL;
    (void)snprintf(dir, sizeof dir, "%s/snapshot", partition);
    (void)snprintf(binlog, sizeof binlog, "%s/binlog", partition);
    (void)snprintf(scratch, sizeof scratch, "%s/scratch", partition);
    must(osync_snapshot_name(&name, dir, &err), dir, &err);
    if ((size_t)snprintf(snapshot, sizeof snapshot, "%s/%s", dir, name.name) >= sizeof snapshot) die(dir, "too long");
    osync_reader_config_init(&config, sizeof config);
    config.phase = phase;
    config.base = OSYNC_BASE_OLDEST;
    config.binlog_dir = binlog;
    config.scratch_dir = scratch;
    if (phase != OSYNC_PHASE_BINLOG) {
        config.snapshot_dir = snapshot;
        config.snapshot_name = name.name;
        config.snapshot_offset = name.offset;
        config.snapshot_count = name.count;
    }
    must(osync_reader_open(&reader, table, &config, &err), partition, &err);
    return reader;
}

/* Rows into packs, as the collector does. */
static result_t pack_rows(osync_reader_t *reader, bool snapshot_only) {
    osync_error_t err = {0};
    osync__buf_t pack = {0};
    osync_reader_row_t row;
    result_t r = {0};
    int rc;
    while ((rc = osync_reader_next(reader, &row, &err)) == 0) {
        if (snapshot_only && row.phase != OSYNC_PHASE_SNAPSHOT) break;
        if (pack.len + row.value_len > PACK) pack.len = 0;
        if (osync__buf_append(&pack, row.value, row.value_len)) die("pack", "out of memory");
        r.bytes += row.value_len;
        r.rows++;
    }
    if (rc && rc != OSYNC_EOF) die("read", err.message);
    osync__buf_free(&pack);
    osync_reader_close(reader);
    return r;
}

static result_t scan(const osync_table_t *table, const char *partition) {
    return pack_rows(open_reader(table, partition, OSYNC_PHASE_ALL), true);
}

static result_t binlog(const osync_table_t *table, const char *partition) {
    return pack_rows(open_reader(table, partition, OSYNC_PHASE_BINLOG), false);
}

/* ---- what reading is compared with ---- */

/* RocksDB's C API on the base index, with one copy of each value. */
static result_t scan_rocksdb(const osync_table_t *table, const char *partition) {
    char dir[4096], *error = NULL;
    osync_error_t err = {0};
    osync_snapshot_name_t name;
    size_t n = 0;
    result_t r = {0};
    (void)snprintf(dir, sizeof dir, "%s/snapshot", partition);
    must(osync_snapshot_name(&name, dir, &err), dir, &err);
    (void)snprintf(dir, sizeof dir, "%s/snapshot/%s", partition, name.name);
    rocksdb_options_t *options = rocksdb_options_create();
    rocksdb_comparator_t *comparator = osync__key_comparator();
    rocksdb_options_set_comparator(options, comparator);
    char **families = rocksdb_list_column_families(options, dir, &n, &error);
    if (error) die(dir, error);
    const rocksdb_options_t **all = calloc(n, sizeof *all);
    rocksdb_options_t *plain = rocksdb_options_create();
    rocksdb_column_family_handle_t **handles = calloc(n, sizeof(rocksdb_column_family_handle_t *));
    size_t base = n;
    if (!all || !handles) die(dir, "out of memory");
    for (size_t i = 0; i < n; i++) {
        all[i] = strcmp(families[i], "default") == 0 ? plain : options;
        if (strcmp(families[i], table->base_cf) == 0) base = i;
    }
    if (base == n) die(dir, "the base index has no column family");
    rocksdb_t *db = rocksdb_open_for_read_only_column_families(
        plain, dir, (int)n, (const char *const *)families, (const rocksdb_options_t *const *)all, handles, 0, &error);
    if (error) die(dir, error);
    rocksdb_readoptions_t *read = rocksdb_readoptions_create();
    rocksdb_readoptions_set_readahead_size(read, 2 << 20);
    rocksdb_readoptions_set_fill_cache(read, 0);
    rocksdb_iterator_t *it = rocksdb_create_iterator_cf(db, read, handles[base]);
    osync__buf_t pack = {0};
    for (rocksdb_iter_seek_to_first(it); rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
        size_t len;
        const char *value = rocksdb_iter_value(it, &len);
        if (pack.len + len > PACK) pack.len = 0;
        if (osync__buf_append(&pack, value, len)) die("pack", "out of memory");
        r.bytes += len;
        r.rows++;
    }
    rocksdb_iter_get_error(it, &error);
    if (error) die(dir, error);
    osync__buf_free(&pack);
    rocksdb_iter_destroy(it);
    rocksdb_readoptions_destroy(read);
    for (size_t i = 0; i < n; i++) rocksdb_column_family_handle_destroy(handles[i]);
    rocksdb_close(db);
    rocksdb_list_column_families_destroy(families, n);
    rocksdb_options_destroy(options);
    rocksdb_options_destroy(plain);
    rocksdb_comparator_destroy(comparator);
    free(all);
    free(handles);
    return r;
}

/* The log's files, each byte read once and checked with CRC32C. `rows` stays 0: nothing is understood. */
static result_t binlog_crc(const char *partition) {
    char dir[4096], path[8192];
    uint8_t *block = malloc(READ);
    uint32_t crc = 0;
    result_t r = {0};
    (void)snprintf(dir, sizeof dir, "%s/binlog", partition);
    DIR *d = opendir(dir);
    if (!d || !block) die(dir, strerror(errno));
    for (struct dirent *e; (e = readdir(d));) {
        if (!strstr(e->d_name, ".log")) continue;
        (void)snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n;
        if (fd < 0) die(path, strerror(errno));
        while ((n = read(fd, block, READ)) > 0) {
            crc = osync__crc32c(crc, block, (size_t)n);
            r.bytes += (uint64_t)n;
        }
        close(fd);
    }
    closedir(d);
    free(block);
    if (crc == 1) fputs("a rare checksum\n", stderr); /* so that it is computed */
    return r;
}

/* ---- encoding ---- */

typedef struct rows {
    osync__buf_t data;
    uint32_t *len;
    size_t n, cap;
} rows_t;

static rows_t some_rows(const osync_table_t *table, const char *partition) {
    osync_reader_t *reader = open_reader(table, partition, OSYNC_PHASE_ALL);
    osync_error_t err = {0};
    osync_reader_row_t row;
    rows_t rows = {0};
    while (rows.data.len < ENCODE_BYTES && osync_reader_next(reader, &row, &err) == 0) {
        if (rows.n == rows.cap) {
            rows.cap = rows.cap ? 2 * rows.cap : 4096;
            rows.len = realloc(rows.len, rows.cap * sizeof *rows.len);
            if (!rows.len) die("rows", "out of memory");
        }
        if (osync__buf_append(&rows.data, row.value, row.value_len)) die("rows", "out of memory");
        rows.len[rows.n++] = (uint32_t)row.value_len;
    }
    osync_reader_close(reader);
    if (rows.n == 0) die(partition, "holds no rows");
    return rows;
}

/* bytes: of CSV. */
static result_t encode(const osync_table_t *table, const rows_t *rows) {
    osync_error_t err = {0};
    osync_csv_t *csv = NULL;
    result_t r = {0};
    size_t len;
    osync_csv_config_t config;
    osync_csv_config_init(&config, sizeof config);
    config.timezone = "UTC";
    must(osync_csv_new(&csv, table, &config, &err), "encoder", &err);
    const uint8_t *p = rows->data.data;
    for (size_t i = 0; i < rows->n; p += rows->len[i++]) {
        must(osync_csv_add(csv, p, rows->len[i], &err), "encode", &err);
        osync_csv_data(csv, &len);
        if (len < ENCODE_FLUSH) continue;
        r.bytes += len;
        osync_csv_reset(csv);
    }
    osync_csv_data(csv, &len);
    r.bytes += len;
    r.rows = rows->n;
    osync_csv_free(csv);
    return r;
}

/* The same rows copied. */
static result_t copy(const rows_t *rows) {
    osync__buf_t pack = {0};
    result_t r = {0};
    const uint8_t *p = rows->data.data;
    for (size_t i = 0; i < rows->n; p += rows->len[i++]) {
        if (pack.len + rows->len[i] > PACK) pack.len = 0;
        if (osync__buf_append(&pack, p, rows->len[i])) die("copy", "out of memory");
        r.bytes += rows->len[i];
    }
    r.rows = rows->n;
    osync__buf_free(&pack);
    return r;
}

/* ---- files through the sink's interface alone ---- */

typedef struct upload {
    osync_sink_t *sink;
    osync_sink_file_t *file;
    char path[4096];
    const uint8_t *block;
    uint64_t left;
    unsigned *open; /* how many are not finished */
} upload_t;

static void sink_or_die(int status, const osync_error_t *err) {
    if (status) die("sink", err ? err->message : osync_strerror(status));
}

static void upload_finished(void *arg, int status, const osync_error_t *err) {
    upload_t *u = arg;
    sink_or_die(status, err);
    if (--*u->open == 0) u->sink->ops->close(u->sink, NULL, NULL);
}

static void upload_on(void *arg, int status, const osync_error_t *err) {
    upload_t *u = arg;
    sink_or_die(status, err);
    size_t len = u->left < PACK ? (size_t)u->left : PACK;
    u->left -= len;
    sink_or_die(len ? u->sink->ops->write(u->file, u->block, len, upload_on, u)
                    : u->sink->ops->finish(u->file, upload_finished, u),
                NULL);
}

typedef struct uploads {
    upload_t *each;
    unsigned n, open;
} uploads_t;

static void uploads_begin(void *arg, int status, const osync_error_t *err) {
    uploads_t *all = arg;
    sink_or_die(status, err);
    for (unsigned i = 0; i < all->n; i++) {
        upload_t *u = &all->each[i];
        sink_or_die(u->sink->ops->create(u->sink, u->path, &u->file, upload_on, u), NULL);
    }
}

/* `n` new files of `each` bytes at a time in `folder`. */
static result_t uploads(const char *conf, const char *folder, uint64_t each, unsigned n) {
    uv_loop_t loop;
    osync_error_t err = {0};
    osync_sink_t *sink = NULL;
    osync_webhdfs_config_t config;
    uint8_t *block = malloc(PACK);
    uploads_t all = {.each = calloc(n, sizeof *all.each), .n = n, .open = n};
    if (!block || !all.each || uv_loop_init(&loop)) die("sink", "out of memory");
    signal(SIGPIPE, SIG_IGN);
    memset(block, 'x', PACK);
    osync_webhdfs_config_init(&config, sizeof config);
    config.hadoop_conf_dir = conf;
    must(osync_webhdfs_sink_new(&sink, &loop, &config, &err), folder, &err);
    for (unsigned i = 0; i < n; i++) {
        upload_t *u = &all.each[i];
        *u = (upload_t){.sink = sink, .block = block, .left = each, .open = &all.open};
        (void)snprintf(u->path, sizeof u->path, "%s/f%u", folder, i);
    }
    sink_or_die(sink->ops->mkdirs(sink, folder, uploads_begin, &all), NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_loop_close(&loop);
    free(all.each);
    free(block);
    return (result_t){.bytes = each * n};
}

/* ---- streams ---- */

typedef struct writer {
    osync_stream_t *stream;
    const uint8_t *block;
    uint64_t left;
} writer_t;

static void done_or_die(int status, const osync_error_t *err) {
    if (status) die("stream", err ? err->message : osync_strerror(status));
}

static void on_committed(void *arg, int status, const osync_error_t *err) {
    writer_t *w = arg;
    done_or_die(status, err);
    osync_stream_close(w->stream, NULL, NULL);
}

static void write_on(void *arg, int status, const osync_error_t *err) {
    writer_t *w = arg;
    done_or_die(status, err);
    size_t len = w->left < PACK ? (size_t)w->left : PACK;
    w->left -= len;
    done_or_die(len ? osync_stream_append(w->stream, w->block, len, 1, &w->left, sizeof w->left, write_on, w)
                    : osync_stream_commit(w->stream, on_committed, w),
                NULL);
}

static void on_ready(void *arg, const void *position, size_t len) {
    (void)position;
    (void)len;
    write_on(arg, 0, NULL);
}

/* Each stream puts `each` bytes in one file below `dest`. */
static result_t streams(const char *conf, const char *dest, const char *state, uint64_t each, unsigned n) {
    uv_loop_t loop;
    osync_error_t err = {0};
    uint8_t *block = malloc(PACK);
    writer_t *writers = calloc(n, sizeof *writers);
    if (!block || !writers || uv_loop_init(&loop)) die("stream", "out of memory");
    signal(SIGPIPE, SIG_IGN);
    memset(block, 'x', PACK);
    for (unsigned i = 0; i < n; i++) {
        char name[32], file[4096];
        osync_stream_config_t config;
        (void)snprintf(name, sizeof name, "s%u", i);
        (void)snprintf(file, sizeof file, "%s/bench-%ld-%u.db", state, (long)getpid(), i);
        osync_stream_config_init(&config, sizeof config);
        config.dest = dest;
        config.name = name;
        config.state = file;
        config.hadoop_conf_dir = conf;
        config.roll_bytes = UINT64_MAX;
        config.roll_interval_ms = 3600 * 1000;
        config.on_ready = on_ready;
        config.arg = &writers[i];
        writers[i].block = block;
        writers[i].left = each;
        must(osync_stream_open(&writers[i].stream, &loop, &config, &err), dest, &err);
    }
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_loop_close(&loop);
    free(writers);
    free(block);
    return (result_t){.bytes = each * n};
}

int main(int argc, char **argv) {
    static const char usage[] =
        "osync-bench scan|scan-rocksdb|binlog|binlog-crc|encode|encode-copy TABLE_META PARTITION\n"
        "osync-bench sink HADOOP_CONF_DIR FOLDER BYTES FILES\n"
        "osync-bench stream HADOOP_CONF_DIR DEST STATE_FOLDER BYTES STREAMS\n";
    const char *what = argc > 1 ? argv[1] : "";
    bool sink = strcmp(what, "sink") == 0, stream = strcmp(what, "stream") == 0;
    if (argc != (stream ? 7 : sink ? 6 : 4)) {
        fputs(usage, stderr);
        return 2;
    }
    const char *partition = argv[3];
    osync_table_t *table = sink || stream ? NULL : table_of(argv[2]);
    rows_t rows = {0};
    if (strncmp(what, "encode", 6) == 0) rows = some_rows(table, partition);
    double wall = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    result_t r = {0};
    if (stream) {
        r = streams(argv[2], argv[3], argv[4], strtoull(argv[5], NULL, 10), (unsigned)strtoul(argv[6], NULL, 10));
    } else if (sink) {
        r = uploads(argv[2], argv[3], strtoull(argv[4], NULL, 10), (unsigned)strtoul(argv[5], NULL, 10));
    } else if (strcmp(what, "scan") == 0) {
        r = scan(table, partition);
    } else if (strcmp(what, "scan-rocksdb") == 0) {
        r = scan_rocksdb(table, partition);
    } else if (strcmp(what, "binlog") == 0) {
        r = binlog(table, partition);
    } else if (strcmp(what, "binlog-crc") == 0) {
        r = binlog_crc(partition);
    } else if (strcmp(what, "encode") == 0) {
        r = encode(table, &rows);
    } else if (strcmp(what, "encode-copy") == 0) {
        r = copy(&rows);
    } else {
        fputs(usage, stderr);
        return 2;
    }
    wall = seconds(CLOCK_MONOTONIC) - wall;
    cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    struct rusage usage_now;
    getrusage(RUSAGE_SELF, &usage_now);
    printf("{\"bytes\":%" PRIu64 ",\"rows\":%" PRIu64 ",\"seconds\":%.6f,\"cpu\":%.6f,\"peak_kib\":%ld}\n", r.bytes,
           r.rows, wall, cpu, usage_now.ru_maxrss);
    free(rows.len);
    osync__buf_free(&rows.data);
    osync_table_free(table);
    return 0;
}
