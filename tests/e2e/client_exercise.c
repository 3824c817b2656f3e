/* One call of the admin client, through the public headers alone: `client_exercise HOST:PORT CALL [ARGUMENT ...]`, "-"
 * for an argument that isn't given. Prints the code's name, the error's message and the answer, a line each; the exit
 * status is 0 if there was an answer of the library at all. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <osync/client.h>

static void on_answer(void *arg, int status, const char *json, size_t len, const osync_error_t *err) {
    int *calls = arg;
    ++*calls;
    printf("%s\n%s\n%s\n", osync_err_name(status), err->message, json ? json : "");
    (void)len;
}

int main(int argc, char **argv) {
    const char *a[8] = {0};
    uv_loop_t loop;
    osync_client_config_t config;
    osync_client_t *client = NULL;
    osync_error_t err = {0};
    int calls = 0, rc;
    if (argc < 3 || argc > 11) return 2;
    for (int i = 3; i < argc; i++) a[i - 3] = strcmp(argv[i], "-") ? argv[i] : NULL;
    const char *call = argv[2];
    uv_loop_init(&loop);
    osync_client_config_init(&config, sizeof config);
    config.scheduler = argv[1];
    rc = osync_client_new(&client, &loop, &config, &err);
    if (rc) goto done;
    if (!strcmp(call, "create")) { /* DB TABLE MODE START_TS DEST START TASK_ID POINTS */
        osync_create_options_t o;
        osync_create_options_init(&o, sizeof o);
        o.mode = (osync_mode_t)atoi(a[2] ? a[2] : "0");
        o.start_ts = a[3] ? strtoull(a[3], NULL, 10) : 0;
        o.dest = a[4];
        o.start = (osync_create_start_t)atoi(a[5] ? a[5] : "0");
        o.task_id = a[6];
        o.points = a[7];
        rc = osync_client_create(client, a[0], a[1], &o, on_answer, &calls, &err);
    } else if (!strcmp(call, "delete")) {
        rc = osync_client_delete(client, a[0], a[1], on_answer, &calls, &err);
    } else if (!strcmp(call, "retry")) {
        rc = osync_client_retry(client, a[0], a[1], on_answer, &calls, &err);
    } else if (!strcmp(call, "verify")) { /* DB TABLE DEST QUICK */
        rc = osync_client_verify(client, a[0], a[1], a[2], a[3] != NULL, on_answer, &calls, &err);
    } else if (!strcmp(call, "recover")) { /* DB TABLE DEST TASK_ID START_OVER */
        rc = osync_client_recover(client, a[0], a[1], a[2], a[3], a[4] != NULL, on_answer, &calls, &err);
    } else if (!strcmp(call, "points")) {
        rc = osync_client_points(client, a[0], a[1], on_answer, &calls, &err);
    } else if (!strcmp(call, "status")) {
        rc = osync_client_status(client, on_answer, &calls, &err);
    } else if (!strcmp(call, "task-status")) {
        rc = osync_client_task_status(client, on_answer, &calls, &err);
    } else if (!strcmp(call, "collectors")) {
        rc = osync_client_collectors(client, on_answer, &calls, &err);
    } else {
        rc = 2;
    }
    if (!rc) uv_run(&loop, UV_RUN_DEFAULT);
done:
    if (rc) fprintf(stderr, "%s\n", err.message);
    if (client) osync_client_close(client, NULL, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    return uv_loop_close(&loop) || rc || calls != 1;
}
