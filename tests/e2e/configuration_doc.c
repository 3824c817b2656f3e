/* Prints docs/configuration.md from the library's own tables of keys. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <osync/config.h>

static const char head[] =
    "# Configuration\n"
    "\n"
    "Every key of both daemons, from the table that the programs themselves use (`--help` prints it, too). What "
    "OpenMLDB's\n"
    "own tools make of the same keys: [migration.md](migration.md#configuration). A process that embeds a collector or "
    "a\n"
    "scheduler reads the same files with `osync/config.h`.\n"
    "\n"
    "The command line wins over the file, and of several values the last counts. An unknown key is an error that names "
    "the\n"
    "file, the line and the nearest known key. Types:\n"
    "\n"
    "| type | form |\n"
    "|---|---|\n"
    "| text | any; a path counts from the working folder |\n"
    "| port, count | digits |\n"
    "| bytes | digits, and K, M or G (2^10, 2^20, 2^30) |\n"
    "| time | digits, and ms, s, m or h; without one of these it is what the column \"range\" says |\n";

/* A cell of a table: what Markdown would take for something else is escaped. */
static void put(const char *text) {
    for (; *text; text++) {
        if (strchr("|*<`", *text)) putchar('\\');
        putchar(*text);
    }
}

static void put_time(uint64_t ms) {
    static const struct {
        const char *name;
        uint64_t ms;
    } units[] = {{"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}};
    size_t i = 0;
    while (i < 3 && (ms < units[i].ms || ms % units[i].ms)) i++;
    printf("%" PRIu64 "%s", ms / units[i].ms, units[i].name);
}

static void put_bytes(uint64_t bytes) {
    static const char *const units[] = {"", "K", "M", "G"};
    size_t i = 0;
    while (i < 3 && bytes && bytes % 1024 == 0) bytes /= 1024, i++;
    printf("%" PRIu64 "%s", bytes, units[i]);
}

static void put_number(const osync_config_key_t *key, uint64_t number) {
    if (!strcmp(key->type, "time"))
        put_time(number);
    else if (!strcmp(key->type, "bytes"))
        put_bytes(number);
    else
        printf("%" PRIu64, number);
}

static void put_range(const osync_config_key_t *key) {
    if (!key->max) return;
    if (key->max < UINT32_MAX) {
        put_number(key, key->min);
        printf(" to ");
        put_number(key, key->max);
    } else if (key->min) {
        printf("at least ");
        put_number(key, key->min);
    }
    if (key->unit_ms) printf("%sa bare number: %s", key->min ? "; " : "", key->unit_ms == 1000 ? "s" : "ms");
}

static void put_initial(const osync_config_key_t *key) {
    uint64_t number;
    if (key->required) {
        printf("must be set");
    } else if (key->max && sscanf(key->initial, "%" SCNu64, &number) == 1) {
        if (number >= key->min) put_number(key, number); /* 0: it depends on others, as the text says */
    } else if (*key->initial) {
        printf("`%s`", key->initial);
    }
}

static int keys_of(osync_config_kind_t kind, const char *title, const char *text) {
    osync_config_t *config;
    osync_config_key_t key = {.size = sizeof key};
    if (osync_config_new(&config, kind, NULL)) return 1;
    printf("\n## %s\n\n%s\n\n| key | type | default | range | meaning |\n|---|---|---|---|---|\n", title, text);
    for (size_t i = 0; !osync_config_key(config, i, &key); i++) {
        if (key.unused) continue;
        printf("| `%s` | %s | ", key.name, key.type);
        put_initial(&key);
        printf(" | ");
        put_range(&key);
        printf(" | ");
        put(key.help);
        printf(" |\n");
    }
    printf("\nAccepted, since OpenMLDB's files have them, with a line in the log and without any effect:\n\n"
           "| key | why |\n|---|---|\n");
    for (size_t i = 0; !osync_config_key(config, i, &key); i++) {
        if (!key.unused) continue;
        printf("| `%s` | ", key.name);
        put(key.help);
        printf(" |\n");
    }
    if (kind == OSYNC_CONFIG_COLLECTOR)
        printf("\nThe same goes for the flags of OpenMLDB's other programs, of gflags and of glog.\n");
    osync_config_free(config);
    return 0;
}

int main(void) {
    printf("%s", head);
    return keys_of(
               OSYNC_CONFIG_COLLECTOR, "conf/data_collector.flags",
               "Of osync-collectord: `--key=value`, a line each, or on the command line; `--flagfile=FILE` names the "
               "file. `#` begins\na comment.") ||
           keys_of(
               OSYNC_CONFIG_SCHEDULER, "conf/synctool.properties",
               "Of osync-syncd: `key=value` as in Java's properties files, or on the command line; `-c FILE` names the "
               "file.");
}
