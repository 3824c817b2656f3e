#include "daemon.h"

#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

osync_log_level_t daemon_log_level(const char *name) {
    if (!strcasecmp(name, "debug")) return OSYNC_LOG_DEBUG;
    if (!strcasecmp(name, "warn") || !strcasecmp(name, "warning")) return OSYNC_LOG_WARN;
    if (!strcasecmp(name, "error") || !strcasecmp(name, "fatal")) return OSYNC_LOG_ERROR;
    return OSYNC_LOG_INFO;
}

void daemon_stop(daemon_t *d) {
    uv_close((uv_handle_t *)&d->sigterm, NULL); /* a second signal kills */
    uv_close((uv_handle_t *)&d->sigint, NULL);
    daemon_notify("STOPPING=1");
    d->stop(d);
}

static void on_signal(uv_signal_t *h, int signum) {
    (void)signum;
    daemon_stop(h->data);
}

int daemon_init(daemon_t *d, void (*stop)(daemon_t *d)) {
    memset(d, 0, sizeof *d);
    d->stop = stop;
    signal(SIGPIPE, SIG_IGN);
    int rc = uv_loop_init(&d->loop);
    if (!rc) rc = uv_signal_init(&d->loop, &d->sigterm);
    if (!rc) rc = uv_signal_init(&d->loop, &d->sigint);
    d->sigterm.data = d->sigint.data = d;
    if (!rc) rc = uv_signal_start_oneshot(&d->sigterm, on_signal, SIGTERM);
    if (!rc) rc = uv_signal_start_oneshot(&d->sigint, on_signal, SIGINT);
    if (rc) fprintf(stderr, "loop: %s\n", uv_strerror(rc));
    return rc;
}

void daemon_notify(const char *state) {
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    if (!path || (*path != '/' && *path != '@') || strlen(path) >= sizeof to.sun_path) return;
    memcpy(to.sun_path, path, strlen(path));
    if (*path == '@') to.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return;
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    (void)!sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&to, len);
    close(fd);
}

int daemon_run(daemon_t *d) {
    int rc = uv_run(&d->loop, UV_RUN_DEFAULT);
    if (rc == 0) rc = uv_loop_close(&d->loop);
    return rc ? EXIT_FAILURE : EXIT_SUCCESS;
}
