/* osync-dump: prints what a collector would send for one partition, from its files alone. It is also an example of how
 * to embed the reader: everything here goes through the public headers. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "osync/csv.h"
#include "osync/reader.h"
#include "osync/version.h"

static const char usage[] =
    "osync-dump --meta FILE --partition DIR [options]\n"
    "Prints the rows of one partition of an OpenMLDB table from its snapshot/ and binlog/ folders in DIR.\n"
    "  --meta FILE       the table's serialized api::TableMeta\n"
    "  --phase PHASE     all (default): what a full sync delivers; snapshot: the traverse of the base index;\n"
    "                    binlog: every put with a dimension of index 0 in the retained log\n"
    "  --base auto       (default) the window begins at the newest log file that provably began before the snapshot\n"
    "  --base oldest     trust that the oldest retained entry precedes the snapshot (copied files)\n"
    "  --from N          binlog: first log index wanted\n"
    "  --start-ts N      only rows whose base index ts is at least N\n"
    "  --format FORMAT   csv (default) or jsonl\n"
    "  --timezone ZONE   of timestamps in CSV: an IANA name, or UTC; default: the machine's\n"
    "  --scratch DIR     where the window's scratch database is made; default: TMPDIR or /tmp\n"
    "  --version, --help\n"
    "Exit status: 0, or 1 with a message on standard error.\n";

typedef struct dump {
    const char *meta, *partition, *scratch, *zone;
    osync_reader_config_t reader;
    bool jsonl;
    osync_table_t *table;
    osync_csv_t *csv;
} dump_t;

static int fail(const char *message) {
    fflush(stdout);
    fprintf(stderr, "osync-dump: %s\n", message);
    return EXIT_FAILURE;
}

/* Reads a file of at most `limit` bytes; NULL with errno set, or EFBIG. The caller frees it. */
static char *read_file(const char *path, size_t limit, size_t *len) {
    FILE *f = fopen(path, "re");
    char *data = f ? malloc(limit + 1) : NULL;
    if (data) {
        *len = fread(data, 1, limit + 1, f);
        if (ferror(f) || *len > limit) {
            if (!ferror(f)) errno = EFBIG;
            free(data);
            data = NULL;
        } else {
            data[*len] = 0;
        }
    }
    int e = errno;
    if (f) fclose(f);
    errno = e;
    return data;
}

static void print_hex(const char *name, const void *data, size_t len) {
    const unsigned char *p = data;
    printf(",\"%s\":\"", name);
    for (size_t i = 0; i < len; i++) printf("%02x", p[i]);
    putchar('"');
}

static int print_row(dump_t *d, const osync_reader_row_t *row, osync_error_t *err) {
    if (d->jsonl) {
        if (row->phase == OSYNC_PHASE_SNAPSHOT)
            printf("{\"phase\":\"snapshot\"");
        else
            printf("{\"phase\":\"binlog\",\"offset\":%" PRIu64, row->offset);
        print_hex("pk_hex", row->pk, row->pk_len);
        printf(",\"ts\":%" PRIu64, row->ts);
        print_hex("value_hex", row->value, row->value_len);
        puts("}");
        return 0;
    }
    int rc = osync_csv_add(d->csv, row->value, row->value_len, err);
    if (rc) return rc;
    size_t len;
    const char *text = osync_csv_data(d->csv, &len);
    fwrite(text, 1, len, stdout);
    osync_csv_reset(d->csv);
    return 0;
}

static int print_rows(dump_t *d, osync_error_t *err) {
    osync_reader_t *reader;
    osync_reader_row_t row;
    int rc = osync_reader_open(&reader, d->table, &d->reader, err);
    if (rc) return rc;
    if (d->jsonl && d->reader.phase == OSYNC_PHASE_ALL) {
        uint64_t base, tail;
        osync_reader_window(reader, &base, &tail);
        printf("{\"phase\":\"window\",\"base\":%" PRIu64 ",\"tail\":%" PRIu64 "}\n", base, tail);
    }
    while (!rc && !ferror(stdout)) {
        rc = osync_reader_next(reader, &row, err);
        if (!rc) rc = print_row(d, &row, err);
    }
    osync_reader_close(reader);
    return rc == OSYNC_EOF ? 0 : rc;
}

/* Finds the snapshot that DIR/snapshot/MANIFEST names. Without a MANIFEST there is none. */
static int find_snapshot(const char *partition, char **dir, char **name, osync_reader_config_t *reader,
                         osync_error_t *err) {
    char *path = NULL;
    osync_snapshot_name_t found;
    if (asprintf(&path, "%s/snapshot", partition) < 0) return OSYNC_ENOMEM;
    int rc = osync_snapshot_name(&found, path, err);
    if (!rc && (!(*name = strdup(found.name)) || asprintf(dir, "%s/%s", path, found.name) < 0)) rc = OSYNC_ENOMEM;
    if (!rc) {
        reader->snapshot_offset = found.offset;
        reader->snapshot_count = found.count;
    }
    free(path);
    return rc == OSYNC_ENOENT ? 0 : rc;
}

static int run(dump_t *d) {
    osync_error_t err = {0};
    osync_csv_config_t csv;
    char *snapshot_dir = NULL, *snapshot_name = NULL, *binlog_dir = NULL, *scratch = NULL, message[1200];
    size_t len = 0;
    struct stat st;
    int rc = EXIT_FAILURE;
    char *meta = read_file(d->meta, 16 << 20, &len);
    if (!meta) {
        snprintf(message, sizeof message, "%s: %s", d->meta, strerror(errno));
        return fail(message);
    }
    if (osync_table_from_meta(&d->table, meta, len, &err)) {
        snprintf(message, sizeof message, "%s: %s", d->meta, err.message);
        fail(message);
        goto done;
    }
    int missing = stat(d->partition, &st) ? errno : S_ISDIR(st.st_mode) ? 0 : ENOTDIR;
    if (missing) {
        snprintf(message, sizeof message, "%s: %s", d->partition, strerror(missing));
        fail(message);
        goto done;
    }
    osync_csv_config_init(&csv, sizeof csv);
    csv.timezone = d->zone;
    if (osync_csv_new(&d->csv, d->table, &csv, &err) ||
        find_snapshot(d->partition, &snapshot_dir, &snapshot_name, &d->reader, &err)) {
        fail(err.message);
        goto done;
    }
    if (asprintf(&binlog_dir, "%s/binlog", d->partition) < 0) {
        fail("out of memory");
        binlog_dir = NULL;
        goto done;
    }
    if (!snapshot_dir && stat(binlog_dir, &st))
        fprintf(stderr, "osync-dump: %s has neither snapshot/MANIFEST nor binlog/: no rows\n", d->partition);
    if (d->reader.phase == OSYNC_PHASE_SNAPSHOT && !snapshot_dir) { /* no snapshot: no rows */
        rc = EXIT_SUCCESS;
        goto done;
    }
    if (asprintf(&scratch, "%s/osync-dump-XXXXXX", d->scratch) < 0 || !mkdtemp(scratch)) {
        snprintf(message, sizeof message, "scratch folder %s: %s", scratch ? scratch : "", strerror(errno));
        fail(message);
        free(scratch);
        scratch = NULL;
        goto done;
    }
    d->reader.binlog_dir = binlog_dir;
    d->reader.snapshot_dir = snapshot_dir;
    d->reader.snapshot_name = snapshot_name;
    d->reader.scratch_dir = scratch;
    if (print_rows(d, &err))
        fail(err.message);
    else if (fflush(stdout) || ferror(stdout))
        fail("writing to standard output failed");
    else
        rc = EXIT_SUCCESS;
done:
    if (scratch) rmdir(scratch);
    free(scratch);
    free(binlog_dir);
    free(snapshot_dir);
    free(snapshot_name);
    osync_csv_free(d->csv);
    osync_table_free(d->table);
    free(meta);
    return rc;
}

static volatile int canceled;

static void on_signal(int signum) {
    (void)signum;
    canceled = 1;
}

static bool parse_number(const char *text, uint64_t *out) {
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    *out = v;
    return text[0] >= '0' && text[0] <= '9' && !*end && !errno;
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"meta", required_argument, NULL, 'm'},    {"partition", required_argument, NULL, 'p'},
        {"phase", required_argument, NULL, 'a'},   {"base", required_argument, NULL, 'b'},
        {"from", required_argument, NULL, 'n'},    {"start-ts", required_argument, NULL, 't'},
        {"format", required_argument, NULL, 'f'},  {"timezone", required_argument, NULL, 'z'},
        {"scratch", required_argument, NULL, 's'}, {"version", no_argument, NULL, 'v'},
        {"help", no_argument, NULL, 'h'},          {NULL, 0, NULL, 0},
    };
    dump_t d = {.scratch = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp"};
    bool ok = true;
    int c, which = 0;
    osync_reader_config_init(&d.reader, sizeof d.reader);
    while (ok && (c = getopt_long(argc, argv, "", options, &which)) != -1) {
        switch (c) {
        case 'm':
            d.meta = optarg;
            break;
        case 'p':
            d.partition = optarg;
            break;
        case 'a':
            if (!strcmp(optarg, "all"))
                d.reader.phase = OSYNC_PHASE_ALL;
            else if (!strcmp(optarg, "snapshot"))
                d.reader.phase = OSYNC_PHASE_SNAPSHOT;
            else if (!strcmp(optarg, "binlog"))
                d.reader.phase = OSYNC_PHASE_BINLOG;
            else
                ok = false;
            break;
        case 'b':
            if (!strcmp(optarg, "auto"))
                d.reader.base = OSYNC_BASE_AUTO;
            else if (!strcmp(optarg, "oldest"))
                d.reader.base = OSYNC_BASE_OLDEST;
            else
                ok = false;
            break;
        case 'n':
            ok = parse_number(optarg, &d.reader.from);
            break;
        case 't':
            ok = parse_number(optarg, &d.reader.start_ts);
            break;
        case 'f':
            d.jsonl = !strcmp(optarg, "jsonl");
            ok = d.jsonl || !strcmp(optarg, "csv");
            break;
        case 'z':
            d.zone = optarg;
            break;
        case 's':
            d.scratch = optarg;
            break;
        case 'v':
            puts(osync_version());
            return EXIT_SUCCESS;
        case 'h':
            fputs(usage, stdout);
            return EXIT_SUCCESS;
        default: /* getopt has said what is wrong */
            return EXIT_FAILURE;
        }
    }
    if (!ok) {
        fprintf(stderr, "osync-dump: --%s can't be '%s': see --help\n", options[which].name, optarg);
        return EXIT_FAILURE;
    }
    if (!d.meta || !d.partition) return fail("--meta and --partition are required: see --help");
    if (d.reader.from && d.reader.phase != OSYNC_PHASE_BINLOG) return fail("--from needs --phase binlog");
    if (optind < argc) {
        fprintf(stderr, "osync-dump: '%s' is not an option: see --help\n", argv[optind]);
        return EXIT_FAILURE;
    }
    signal(SIGPIPE, SIG_IGN); /* as an error of writing it leaves no scratch folder behind */
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    d.reader.cancel = &canceled;
    return run(&d);
}
