#include "daemon.h"

#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "osync/version.h"

/* Tells systemd, if it is there, that the daemon serves ("READY=1") or ends ("STOPPING=1"). */
static void notify(const char *state) {
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

static void end(daemon_t *d) {
    uv_close((uv_handle_t *)&d->sigterm, NULL); /* a second signal kills */
    uv_close((uv_handle_t *)&d->sigint, NULL);
    notify("STOPPING=1");
    d->stop(d);
}

static void on_signal(uv_signal_t *h, int signum) {
    (void)signum;
    end(h->data);
}

/* Connections, files and snapshots take many descriptors; the usual soft limit of 1024 is there for select(2). */
static void raise_file_limit(void) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files)) return;
    files.rlim_cur = files.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &files);
}

static int init_loop(daemon_t *d, osync_error_t *err) {
    signal(SIGPIPE, SIG_IGN);
    raise_file_limit();
    int rc = uv_loop_init(&d->loop);
    if (!rc) rc = uv_signal_init(&d->loop, &d->sigterm);
    if (!rc) rc = uv_signal_init(&d->loop, &d->sigint);
    d->sigterm.data = d->sigint.data = d;
    if (!rc) rc = uv_signal_start_oneshot(&d->sigterm, on_signal, SIGTERM);
    if (!rc) rc = uv_signal_start_oneshot(&d->sigint, on_signal, SIGINT);
    if (!rc) return 0;
    err->code = OSYNC_EIO;
    (void)snprintf(err->message, sizeof err->message, "the loop can't be made: %s", uv_strerror(rc));
    return err->code;
}

static bool is_argument(int argc, char **argv, const char *what) {
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], what)) return true;
    return false;
}

static void print_help(const daemon_program_t *program, osync_config_t *config) {
    osync_config_key_t key = {.size = sizeof key};
    printf("%s  --version  prints the version\n  --help     prints this\n"
           "Keys (default), in the file or on the command line:\n",
           program->usage);
    for (size_t i = 0; !osync_config_key(config, i, &key); i++)
        if (!key.unused)
            printf("  %s (%s)\n      %s%s\n", key.name, key.initial, key.help,
                   key.unit_ms > 1 ? "; a bare number is seconds" : "");
}

int daemon_main(daemon_t *d, const daemon_program_t *program, int argc, char **argv) {
    osync_error_t err = {0};
    const char *bad = NULL;
    bool has_loop = false;
    if (is_argument(argc, argv, "--version")) {
        puts(osync_version());
        return EXIT_SUCCESS;
    }
    osync_log_set(osync_log_stderr, NULL, OSYNC_LOG_INFO);
    int rc = osync_config_new(&d->config, program->kind, &err);
    if (!rc && (is_argument(argc, argv, "--help") || is_argument(argc, argv, "-h"))) {
        print_help(program, d->config);
        osync_config_free(d->config);
        return EXIT_SUCCESS;
    }
    d->stop = program->stop;
    if (!rc) rc = program->read(d, argc, argv, &bad, &err);
    if (!rc) rc = osync_config_check(d->config, &err);
    if (!rc) osync_log_set(osync_log_stderr, NULL, osync_config_log_level(d->config));
    if (!rc) rc = init_loop(d, &err);
    has_loop = !rc;
    if (!rc) rc = program->start(d, &err);
    if (bad)
        fprintf(stderr, "%s: '%s' is not of the form %s\n", program->name, bad, program->bad_argument);
    else if (rc)
        fprintf(stderr, "%s: %s\n", program->name, err.message);
    if ((rc || d->done) && has_loop) end(d); /* what has started has threads, which must end before the process does */
    if (!rc && !d->done) notify("READY=1");
    if (has_loop && (uv_run(&d->loop, UV_RUN_DEFAULT) || uv_loop_close(&d->loop))) rc = OSYNC_EIO;
    osync_config_free(d->config);
    return rc ? EXIT_FAILURE : EXIT_SUCCESS;
}
