/* ZooKeeper on a uv loop. The client library's own threads only copy what they bring into a queue; everything else
 * happens on the loop. Opening a session (it looks host names up) and closing one (it waits for the server) block, so a
 * worker does them.
 *
 * It is not a cache and holds no watches: who calls it says what to read and when. */
#include "zk/zk.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>
#include <zookeeper/zookeeper.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/failpoint.h"
#include "base/pool.h"

enum {
    REOPEN_DELAY_MS = 1000,
    MAX_DATA = 1024 * 1024, /* a server drops the connection on anything larger */
    MAX_STEPS = 200,        /* requests one call may take; only a path that others keep removing needs so many */
};

/* One session's handle. The library's thread writes `state` under the lock; the rest belongs to whoever opens or closes
 * it. */
typedef struct session {
    osync__zk_t *zk;
    zhandle_t *zh;
    int state;
    int64_t id;
    bool told; /* `state` is news to the loop */
} session_t;

typedef enum kind { GET, LIST, CREATE, SET, REMOVE, REGISTER } kind_t;

/* What the next answer of a call means. */
typedef enum step { THE_CALL, MAKE_PARENT, LOOK_AT_OLD, REMOVE_OLD } step_t;

typedef struct call {
    osync__zk_t *zk;
    kind_t kind;
    step_t step;
    unsigned steps;
    union {
        osync__zk_cb done;
        osync__zk_get_cb get;
        osync__zk_list_cb list;
    } cb;
    void *arg;
    char *path;
    size_t made; /* MAKE_PARENT: length of the parent's path that is being made */
    void *data;  /* of a create, set or register */
    size_t len;
    bool ephemeral;
    /* the answer */
    int rc;
    void *answer;
    size_t answer_len;
    char **names;
    size_t n_names;
    struct Stat stat;
    struct call *next;
    struct call *older, *newer; /* in `open` */
    bool in_flight;             /* the library has it */
    bool waits;                 /* for the first connection */
} call_t;

struct osync__zk {
    uv_async_t async;
    uv_timer_t timer;
    uv_timer_t patience; /* calls wait so long for the first connection, and then fail as they do later */
    osync__pool_t *pool;
    osync__job_t job; /* opens or closes a session; one at a time */
    bool busy;
    int open_handles; /* of uv */
    char *cluster, *auth_schema, *cert;
    int session_timeout_ms;
    void (*on_session)(void *arg, bool connected);
    void *arg;
    session_t *session; /* NULL while there is none */
    bool connected;
    bool begun; /* no call waits for the first connection any more */
    bool closing;
    bool reopen_later; /* after the session that is being closed */
    void (*closed)(void *arg);
    void *closed_arg;
    call_t *open; /* calls whose callback hasn't come */
    pthread_mutex_t lock;
    call_t *first, **last; /* answers that the loop hasn't seen; under the lock */
};

static void begin_open(osync__zk_t *zk);
static void begin_open_later(osync__zk_t *zk);
static void go_on_closing(osync__zk_t *zk);
static void deliver_rest(osync__zk_t *zk);
static void request(call_t *call, step_t step);

/* ---- on the library's threads ---- */

static void on_log(const char *message) {
    /* It repeats what the calls return, so nothing here is an error of ours. */
    osync_log_level_t level = OSYNC_LOG_DEBUG;
    if (strstr(message, ":ZOO_ERROR@") || strstr(message, ":ZOO_WARN@")) level = OSYNC_LOG_INFO;
    osync__log(level, "zookeeper client: %s", message);
}

static void on_event(zhandle_t *zh, int type, int state, const char *path, void *ctx) {
    session_t *s = ctx;
    if (type != ZOO_SESSION_EVENT) return;
    const clientid_t *id = zoo_client_id(zh);
    pthread_mutex_lock(&s->zk->lock);
    s->state = state;
    s->told = true;
    if (state == ZOO_CONNECTED_STATE && id) s->id = id->client_id;
    pthread_mutex_unlock(&s->zk->lock);
    uv_async_send(&s->zk->async);
}

static void queue_answer(call_t *call, int rc) {
    osync__zk_t *zk = call->zk;
    call->rc = rc;
    call->next = NULL;
    pthread_mutex_lock(&zk->lock);
    *zk->last = call;
    zk->last = &call->next;
    pthread_mutex_unlock(&zk->lock);
    uv_async_send(&zk->async);
}

static void on_void(int rc, const void *data) {
    queue_answer((call_t *)(uintptr_t)data, rc);
}

static void on_string(int rc, const char *value, const void *data) {
    queue_answer((call_t *)(uintptr_t)data, rc);
}

static void on_stat(int rc, const struct Stat *stat, const void *data) {
    queue_answer((call_t *)(uintptr_t)data, rc);
}

static void on_data(int rc, const char *value, int len, const struct Stat *stat, const void *data) {
    call_t *call = (call_t *)(uintptr_t)data;
    osync__free(call->answer);
    call->answer = NULL;
    call->answer_len = 0;
    if (rc == ZOK) {
        call->answer_len = len > 0 ? (size_t)len : 0;
        call->answer = osync__malloc(call->answer_len + 1);
        if (call->answer && call->answer_len) memcpy(call->answer, value, call->answer_len);
        if (!call->answer) rc = ZSYSTEMERROR;
        if (stat) call->stat = *stat;
    }
    queue_answer(call, rc);
}

static void on_names(int rc, const struct String_vector *names, const void *data) {
    call_t *call = (call_t *)(uintptr_t)data;
    if (rc == ZOK && names && names->count > 0) {
        call->names = osync__calloc((size_t)names->count, sizeof *call->names);
        if (!call->names) rc = ZSYSTEMERROR;
        for (int i = 0; i < names->count && rc == ZOK; i++) {
            call->names[i] = osync__strdup(names->data[i]);
            if (!call->names[i]) rc = ZSYSTEMERROR;
            call->n_names++;
        }
    }
    queue_answer(call, rc);
}

/* ---- on a worker ---- */

static void work_open(osync__job_t *job) {
    session_t *s = job->arg;
    osync__zk_t *zk = s->zk;
    s->zh = zookeeper_init2(zk->cluster, on_event, zk->session_timeout_ms, NULL, s, 0, on_log);
    /* The library sends it first thing on every connection of this session, so it must be told again for each session
     * only. */
    if (s->zh && zk->cert[0]) zoo_add_auth(s->zh, zk->auth_schema, zk->cert, (int)strlen(zk->cert), NULL, NULL);
}

static void work_close(osync__job_t *job) {
    session_t *s = job->arg;
    /* Answers every open call with ZCLOSING and joins the library's threads: nothing comes from this session
     * afterwards. */
    zookeeper_close(s->zh);
}

/* ---- on the loop ---- */

static int code_of(int rc) {
    switch (rc) {
    case ZOK:
        return 0;
    case ZNONODE:
        return OSYNC_ENOENT;
    case ZNODEEXISTS:
        return OSYNC_EEXIST;
    case ZCONNECTIONLOSS:
    case ZOPERATIONTIMEOUT:
    case ZSESSIONEXPIRED:
    case ZSESSIONMOVED:
    case ZINVALIDSTATE:
    case ZCLOSING:
        return OSYNC_ECONN;
    case ZNOAUTH:
    case ZAUTHFAILED:
        return OSYNC_EPERM;
    case ZBADARGUMENTS:
    case ZINVALIDACL:
        return OSYNC_EINVAL;
    case ZBADVERSION:
    case ZNOTEMPTY:
        return OSYNC_ECONFLICT;
    default:
        return OSYNC_EIO;
    }
}

static void free_call(call_t *call) {
    if (!call) return;
    for (size_t i = 0; i < call->n_names; i++) osync__free(call->names[i]);
    osync__free(call->names);
    osync__free(call->answer);
    osync__free(call->data);
    osync__free(call->path);
    osync__free(call);
}

static void finish(call_t *call, int status, osync_error_t *err) {
    bool ok = status == 0;
    DL_DELETE2(call->zk->open, call, older, newer);
    if (ok) *err = (osync_error_t){0};
    switch (call->kind) {
    case GET:
        call->cb.get(call->arg, status, ok ? call->answer : NULL, ok ? call->answer_len : 0, err);
        break;
    case LIST:
        call->cb.list(call->arg, status, ok ? (const char *const *)call->names : NULL, ok ? call->n_names : 0, err);
        break;
    default:
        call->cb.done(call->arg, status, err);
    }
    free_call(call);
}

static void finish_rc(call_t *call, int rc) {
    static const char *const verbs[] = {"read", "list", "create", "write", "remove", "register"};
    osync_error_t err = {0};
    int status = code_of(rc);
    if (status)
        osync__err(&err, status, "ZooKeeper at %s: can't %s %s: %s", call->zk->cluster, verbs[call->kind], call->path,
                   zerror(rc));
    finish(call, status, &err);
}

/* The length of the parent of the first `len` bytes of the path; 0 for a child of the root. */
static size_t parent_of(const char *path, size_t len) {
    while (len > 0 && path[len - 1] != '/') len--;
    return len > 0 ? len - 1 : 0;
}

static void on_old_node(call_t *call) {
    osync_error_t err = {0};
    const osync__zk_t *zk = call->zk;
    bool same = call->answer_len == call->len && (!call->len || !memcmp(call->answer, call->data, call->len));
    if (zk->session && same && call->stat.ephemeralOwner == zk->session->id) {
        finish_rc(call, ZOK); /* an earlier attempt whose answer was lost */
    } else if (!same || call->stat.ephemeralOwner == 0) {
        osync__err(&err, OSYNC_EEXIST, "ZooKeeper at %s: can't register %s: %s", zk->cluster, call->path,
                   same ? "the node exists and is not ephemeral; remove it"
                        : "the node exists with other data; another owner uses this name");
        finish(call, OSYNC_EEXIST, &err);
    } else {
        osync__log(OSYNC_LOG_INFO, "zookeeper: %s is left over from session 0x%llx, taking it over", call->path,
                   (unsigned long long)call->stat.ephemeralOwner);
        request(call, REMOVE_OLD);
    }
}

static void on_answer(call_t *call) {
    bool makes = call->kind == CREATE || call->kind == REGISTER;
    int rc = call->rc;
    switch (call->step) {
    case THE_CALL:
        if (makes) OSYNC__AFTER(zk_create);
        if (makes && rc == ZNONODE && (call->made = parent_of(call->path, strlen(call->path))) > 0)
            request(call, MAKE_PARENT);
        else if (call->kind == REGISTER && rc == ZNODEEXISTS)
            request(call, LOOK_AT_OLD);
        else
            finish_rc(call, rc);
        break;
    case MAKE_PARENT:
        OSYNC__AFTER(zk_parent);
        if (rc == ZNONODE && (call->made = parent_of(call->path, call->made)) > 0) {
            request(call, MAKE_PARENT);
        } else if (rc == ZOK || rc == ZNODEEXISTS) {
            /* Down again, to the next part of the path. */
            size_t end = call->made + 1 + strcspn(call->path + call->made + 1, "/");
            call->made = end;
            request(call, call->path[end] ? MAKE_PARENT : THE_CALL);
        } else {
            finish_rc(call, rc);
        }
        break;
    case LOOK_AT_OLD:
        if (rc == ZOK)
            on_old_node(call);
        else if (rc == ZNONODE)
            request(call, THE_CALL);
        else
            finish_rc(call, rc);
        break;
    case REMOVE_OLD:
        OSYNC__AFTER(zk_take_over);
        /* ZBADVERSION: somebody wrote it since; look again. */
        if (rc == ZOK || rc == ZNONODE || rc == ZBADVERSION)
            request(call, THE_CALL);
        else
            finish_rc(call, rc);
        break;
    }
}

static void request(call_t *call, step_t step) {
    osync__zk_t *zk = call->zk;
    call->step = step;
    if (!zk->connected && !zk->begun) {
        call->waits = true;
        return;
    }
    if (!zk->connected || ++call->steps > MAX_STEPS) {
        queue_answer(call, zk->connected ? ZOPERATIONTIMEOUT : ZCONNECTIONLOSS);
        return;
    }
    zhandle_t *zh = zk->session->zh;
    const struct ACL_vector *acl = zk->cert[0] ? &ZOO_CREATOR_ALL_ACL : &ZOO_OPEN_ACL_UNSAFE;
    int flags = call->ephemeral ? ZOO_EPHEMERAL : 0;
    const char *data = call->data;
    int rc;
    if (step == MAKE_PARENT) {
        char cut = call->path[call->made];
        call->path[call->made] = '\0';
        OSYNC__BEFORE(zk_parent);
        rc = zoo_acreate(zh, call->path, "", 0, acl, 0, on_string, call);
        call->path[call->made] = cut;
    } else if (step == LOOK_AT_OLD) {
        rc = zoo_aget(zh, call->path, 0, on_data, call);
    } else if (step == REMOVE_OLD) {
        OSYNC__BEFORE(zk_take_over);
        rc = zoo_adelete(zh, call->path, call->stat.version, on_void, call);
    } else if (call->kind == GET) {
        rc = zoo_aget(zh, call->path, 0, on_data, call);
    } else if (call->kind == LIST) {
        rc = zoo_aget_children(zh, call->path, 0, on_names, call);
    } else if (call->kind == SET) {
        rc = zoo_aset(zh, call->path, data, (int)call->len, -1, on_stat, call);
    } else if (call->kind == REMOVE) {
        rc = zoo_adelete(zh, call->path, -1, on_void, call);
    } else {
        OSYNC__BEFORE(zk_create);
        rc = zoo_acreate(zh, call->path, data, (int)call->len, acl, flags, on_string, call);
    }
    call->in_flight = rc == ZOK;
    if (rc != ZOK) queue_answer(call, rc);
}

/* The first connection stands, or should: whoever calls right after the start needn't try again. */
static void begin_calls(osync__zk_t *zk) {
    call_t *call, *next;
    zk->begun = true;
    uv_timer_stop(&zk->patience);
    DL_FOREACH_SAFE2(zk->open, call, next, newer) {
        if (!call->waits) continue;
        call->waits = false;
        request(call, call->step);
    }
}

static void on_patience(uv_timer_t *timer) {
    begin_calls(timer->data);
}

static void set_connected(osync__zk_t *zk, bool connected) {
    if (zk->connected == connected) return;
    zk->connected = connected;
    if (!zk->begun) begin_calls(zk);
    if (!zk->closing && zk->on_session) zk->on_session(zk->arg, connected);
}

static void on_session_closed(osync__job_t *job) {
    session_t *s = job->arg;
    osync__zk_t *zk = s->zk;
    osync__free(s);
    deliver_rest(zk); /* before the next session, whose calls are in flight again */
    zk->busy = false;
    if (zk->closing) {
        go_on_closing(zk);
    } else if (zk->reopen_later) {
        begin_open_later(zk);
    } else {
        begin_open(zk);
    }
}

static void begin_close(osync__zk_t *zk) {
    zk->job = (osync__job_t){.work = work_close, .done = on_session_closed, .arg = zk->session};
    zk->session = NULL;
    zk->busy = true;
    osync__pool_submit(zk->pool, &zk->job);
}

static void on_timer(uv_timer_t *timer) {
    osync__zk_t *zk = timer->data;
    if (zk->closing)
        go_on_closing(zk);
    else
        begin_open(zk);
}

static void begin_open_later(osync__zk_t *zk) {
    uv_timer_start(&zk->timer, on_timer, REOPEN_DELAY_MS, 0);
}

static void on_session_opened(osync__job_t *job) {
    session_t *s = job->arg;
    osync__zk_t *zk = s->zk;
    zk->busy = false;
    if (s->zh) {
        zk->session = s;
        uv_async_send(&zk->async); /* it may be connected already */
    } else {
        osync__log(OSYNC_LOG_WARN,
                   "zookeeper: can't begin a session with %s (a host name that isn't known?), trying again",
                   zk->cluster);
        osync__free(s);
        if (!zk->closing) begin_open_later(zk);
    }
    if (zk->closing) go_on_closing(zk);
}

static void begin_open(osync__zk_t *zk) {
    session_t *s = osync__calloc(1, sizeof *s);
    if (!s) {
        begin_open_later(zk);
        return;
    }
    s->zk = zk;
    zk->job = (osync__job_t){.work = work_open, .done = on_session_opened, .arg = s};
    zk->busy = true;
    osync__pool_submit(zk->pool, &zk->job);
}

static void look_at_session(osync__zk_t *zk) {
    session_t *s = zk->session;
    if (!s) return;
    pthread_mutex_lock(&zk->lock);
    int state = s->told ? s->state : 0;
    s->told = false;
    pthread_mutex_unlock(&zk->lock);
    if (state == 0) return;
    if (state == ZOO_CONNECTED_STATE) {
        osync__log(OSYNC_LOG_INFO, "zookeeper: connected to %s, session 0x%llx", zk->cluster,
                   (unsigned long long)s->id);
        set_connected(zk, true);
    } else if (state == ZOO_EXPIRED_SESSION_STATE || state == ZOO_AUTH_FAILED_STATE) {
        bool refused = state == ZOO_AUTH_FAILED_STATE;
        osync__log(refused ? OSYNC_LOG_ERROR : OSYNC_LOG_WARN, "zookeeper: %s %s",
                   refused ? "the credentials were refused by" : "the session has expired at", zk->cluster);
        zk->reopen_later = refused;
        begin_close(zk);
        set_connected(zk, false);
    } else {
        if (zk->connected) osync__log(OSYNC_LOG_WARN, "zookeeper: lost the connection to %s", zk->cluster);
        set_connected(zk, false);
    }
}

static void answered(call_t *call) {
    call->in_flight = false;
    if (call->zk->closing) {
        osync_error_t err = {0};
        osync__err(&err, OSYNC_ECANCELED, "ZooKeeper at %s: %s: canceled, the client is closing", call->zk->cluster,
                   call->path);
        finish(call, OSYNC_ECANCELED, &err);
    } else {
        on_answer(call);
    }
}

static void deliver(osync__zk_t *zk) {
    pthread_mutex_lock(&zk->lock);
    call_t *call = zk->first;
    zk->first = NULL;
    zk->last = &zk->first;
    pthread_mutex_unlock(&zk->lock);
    while (call) {
        call_t *next = call->next;
        answered(call);
        call = next;
    }
}

/* What a closed session has left behind. zookeeper_close means to answer every open call, but its completion thread may
 * end before it has brought all of them. */
static void deliver_rest(osync__zk_t *zk) {
    call_t *lost = NULL, *call, *next;
    deliver(zk);
    /* Collected first, since a callback may begin another call. */
    DL_FOREACH_SAFE2(zk->open, call, next, newer) {
        if (!call->in_flight) continue;
        call->rc = ZCLOSING;
        LL_APPEND(lost, call);
    }
    LL_FOREACH_SAFE(lost, call, next) {
        answered(call);
    }
}

static void on_async(uv_async_t *async) {
    osync__zk_t *zk = async->data;
    if (!zk->closing) look_at_session(zk);
    deliver(zk);
}

/* ---- the end ---- */

static void free_zk(osync__zk_t *zk) {
    pthread_mutex_destroy(&zk->lock);
    osync__free(zk->cluster);
    osync__free(zk->auth_schema);
    osync__free(zk->cert);
    osync__free(zk);
}

static void on_uv_closed(uv_handle_t *handle) {
    osync__zk_t *zk = handle->data;
    if (--zk->open_handles > 0) return;
    void (*closed)(void *) = zk->closed;
    void *arg = zk->closed_arg;
    free_zk(zk);
    if (closed) closed(arg);
}

static void on_pool_closed(void *arg) {
    osync__zk_t *zk = arg;
    uv_close((uv_handle_t *)&zk->async, on_uv_closed);
    uv_close((uv_handle_t *)&zk->timer, on_uv_closed);
    uv_close((uv_handle_t *)&zk->patience, on_uv_closed);
}

static void go_on_closing(osync__zk_t *zk) {
    if (zk->busy) return;
    if (zk->session) {
        begin_close(zk);
        return;
    }
    deliver(zk);
    osync__pool_close(zk->pool, on_pool_closed, zk);
}

void osync__zk_close(osync__zk_t *zk, void (*cb)(void *arg), void *arg) {
    if (zk->closing) return;
    zk->closing = true;
    zk->connected = false;
    zk->closed = cb;
    zk->closed_arg = arg;
    uv_timer_stop(&zk->timer);
    begin_calls(zk);
    if (zk->busy) return; /* the end of the job goes on */
    if (zk->session)
        begin_close(zk);
    else
        uv_timer_start(&zk->timer, on_timer, 0, 0); /* no callback comes from inside this call */
}

/* ---- the calls ---- */

int osync__zk_new(uv_loop_t *loop, const osync__zk_config_t *config, osync__zk_t **out, osync_error_t *err) {
    if (!config->cluster || !config->cluster[0])
        return osync__err(err, OSYNC_EINVAL, "ZooKeeper: no address given; it is \"host:port,host:port\"");
    if (config->session_timeout_ms == 0 || config->session_timeout_ms > INT32_MAX)
        return osync__err(err, OSYNC_EINVAL, "ZooKeeper at %s: a session timeout of %u ms makes no sense",
                          config->cluster, config->session_timeout_ms);
    osync__zk_t *zk = osync__calloc(1, sizeof *zk);
    if (!zk) return osync__err(err, OSYNC_ENOMEM, "ZooKeeper: out of memory");
    int rc = 0;
    zk->last = &zk->first;
    pthread_mutex_init(&zk->lock, NULL);
    zk->on_session = config->on_session;
    zk->arg = config->arg;
    zk->session_timeout_ms = (int)config->session_timeout_ms;
    zk->cluster = osync__strdup(config->cluster);
    zk->auth_schema = osync__strdup(config->auth_schema ? config->auth_schema : "digest");
    zk->cert = osync__strdup(config->cert ? config->cert : "");
    if (!zk->cluster || !zk->auth_schema || !zk->cert) {
        rc = osync__err(err, OSYNC_ENOMEM, "ZooKeeper: out of memory");
        goto fail;
    }
    rc = osync__pool_new(loop, 1, &zk->pool, err);
    if (rc) goto fail;
    int uv_rc = uv_async_init(loop, &zk->async, on_async);
    if (uv_rc) {
        osync__pool_close(zk->pool, NULL, NULL);
        rc = osync__err(err, OSYNC_EIO, "ZooKeeper: %s", uv_strerror(uv_rc));
        goto fail;
    }
    uv_timer_init(loop, &zk->timer);
    uv_timer_init(loop, &zk->patience);
    zk->async.data = zk->timer.data = zk->patience.data = zk;
    zk->open_handles = 3;
    uv_timer_start(&zk->patience, on_patience, config->session_timeout_ms, 0);
    begin_open(zk);
    *out = zk;
    return 0;
fail:
    free_zk(zk);
    return rc;
}

bool osync__zk_connected(const osync__zk_t *zk) {
    return zk->connected;
}

static call_t *new_call(osync__zk_t *zk, kind_t kind, const char *path, const void *data, size_t len, void *arg) {
    call_t *call = osync__calloc(1, sizeof *call);
    if (!call) return NULL;
    call->zk = zk;
    call->kind = kind;
    call->arg = arg;
    call->path = osync__strdup(path);
    call->data = osync__malloc(len + 1);
    call->len = len;
    if (!call->path || !call->data) {
        free_call(call);
        return NULL;
    }
    if (len) memcpy(call->data, data, len);
    DL_APPEND2(zk->open, call, older, newer);
    return call;
}

int osync__zk_get(osync__zk_t *zk, const char *path, osync__zk_get_cb cb, void *arg) {
    if (zk->closing) return OSYNC_ECLOSED;
    call_t *call = new_call(zk, GET, path, NULL, 0, arg);
    if (!call) return OSYNC_ENOMEM;
    call->cb.get = cb;
    request(call, THE_CALL);
    return 0;
}

int osync__zk_list(osync__zk_t *zk, const char *path, osync__zk_list_cb cb, void *arg) {
    if (zk->closing) return OSYNC_ECLOSED;
    call_t *call = new_call(zk, LIST, path, NULL, 0, arg);
    if (!call) return OSYNC_ENOMEM;
    call->cb.list = cb;
    request(call, THE_CALL);
    return 0;
}

static int start(osync__zk_t *zk, kind_t kind, const char *path, const void *data, size_t len, bool ephemeral,
                 osync__zk_cb cb, void *arg) {
    if (zk->closing) return OSYNC_ECLOSED;
    if (len > MAX_DATA) return OSYNC_ETOOBIG;
    call_t *call = new_call(zk, kind, path, data, len, arg);
    if (!call) return OSYNC_ENOMEM;
    call->cb.done = cb;
    call->ephemeral = ephemeral;
    request(call, THE_CALL);
    return 0;
}

int osync__zk_create(osync__zk_t *zk, const char *path, const void *data, size_t len, bool ephemeral, osync__zk_cb cb,
                     void *arg) {
    return start(zk, CREATE, path, data, len, ephemeral, cb, arg);
}

int osync__zk_set(osync__zk_t *zk, const char *path, const void *data, size_t len, osync__zk_cb cb, void *arg) {
    return start(zk, SET, path, data, len, false, cb, arg);
}

int osync__zk_remove(osync__zk_t *zk, const char *path, osync__zk_cb cb, void *arg) {
    return start(zk, REMOVE, path, NULL, 0, false, cb, arg);
}

int osync__zk_register(osync__zk_t *zk, const char *path, const void *data, size_t len, osync__zk_cb cb, void *arg) {
    return start(zk, REGISTER, path, data, len, true, cb, arg);
}

int osync__zk_local_address(const osync__zk_t *zk, char *out, size_t size) {
    struct sockaddr_storage peer = {0}, own = {0};
    socklen_t len = sizeof peer;
    int rc = OSYNC_ECONN, fd = -1;
    if (!zk->connected || !zookeeper_get_connected_host(zk->session->zh, (struct sockaddr *)&peer, &len)) goto done;
    /* The library keeps its socket to itself. A datagram socket that is connected to the same peer sends nothing and
     * gets the same local address from the routing table. */
    fd = socket(peer.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&peer, len)) goto done;
    len = sizeof own;
    if (getsockname(fd, (struct sockaddr *)&own, &len)) goto done;
    const void *address = own.ss_family == AF_INET6 ? (const void *)&((const struct sockaddr_in6 *)&own)->sin6_addr
                                                    : (const void *)&((const struct sockaddr_in *)&own)->sin_addr;
    if (!inet_ntop(own.ss_family, address, out, (socklen_t)size)) goto done;
    rc = 0;
done:
    if (fd >= 0) close(fd);
    return rc;
}
