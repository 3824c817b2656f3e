/* What both daemons do around their one object: options, the loop, signals, the log, systemd's readiness. */
#ifndef OSYNC_DAEMONS_DAEMON_H
#define OSYNC_DAEMONS_DAEMON_H

#include <stdbool.h>
#include <uv.h>

#include "osync/config.h"

/* The head of a daemon's own struct. */
typedef struct daemon {
    uv_loop_t loop;
    osync_config_t *config;
    uv_signal_t sigterm, sigint;
    void (*stop)(struct daemon *d);
    bool done; /* `start` has done all that there was to do */
} daemon_t;

typedef struct daemon_program {
    const char *name;
    const char *usage; /* what --help prints before the keys */
    osync_config_kind_t kind;
    const char *bad_argument; /* the form that an argument must have */
    /* Reads configuration files and the command line. An argument that isn't understood: *bad, and OSYNC_ECONFIG. */
    int (*read)(daemon_t *d, int argc, char **argv, const char **bad, osync_error_t *err);
    /* Makes the object and starts it. What was made when it fails is closed by `stop`. */
    int (*start)(daemon_t *d, osync_error_t *err);
    /* SIGTERM or SIGINT, or a start that failed: begins an orderly end. The loop ends when all handles are closed. */
    void (*stop)(daemon_t *d);
} daemon_program_t;

/* The whole of main: reads the files and the command line, starts, runs until a signal. Exit status. */
int daemon_main(daemon_t *d, const daemon_program_t *program, int argc, char **argv);

#endif
