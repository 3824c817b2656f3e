/* What both daemons do around their one object: the loop, signals, the log, systemd's readiness. */
#ifndef OSYNC_DAEMONS_DAEMON_H
#define OSYNC_DAEMONS_DAEMON_H

#include <uv.h>

#include "osync/log.h"

typedef struct daemon {
    uv_loop_t loop;
    uv_signal_t sigterm, sigint;
    void (*stop)(
        struct daemon *d); /* SIGTERM or SIGINT: begin an orderly end; the loop ends when all handles are closed */
} daemon_t;

/* "debug", "info", "warn", "error" (as glog's "warning" too); OSYNC_LOG_INFO for anything else. */
osync_log_level_t daemon_log_level(const char *name);
int daemon_init(daemon_t *d, void (*stop)(daemon_t *d));
/* Begins an orderly end, as a signal does. */
void daemon_stop(daemon_t *d);
/* Tells systemd, if it is there, that the daemon serves ("READY=1") or ends ("STOPPING=1"). */
void daemon_notify(const char *state);
/* Runs the loop until everything is closed, then frees it. Exit status. */
int daemon_run(daemon_t *d);

#endif
