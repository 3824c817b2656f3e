#include "base/error.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "osync/version.h"

const char *osync_version(void) {
    return OSYNC_VERSION;
}

const char *osync_strerror(int code) {
    switch (code) {
    case 0:
        return "success";
    case OSYNC_EOF:
        return "end of data";
#define X(name, value, text, retriable)                                                                                \
    case value:                                                                                                        \
        return text;
        OSYNC_ERROR_MAP(X)
#undef X
    default:
        return "unknown error";
    }
}

const char *osync_err_name(int code) {
    switch (code) {
    case 0:
        return "OSYNC_OK";
    case OSYNC_EOF:
        return "OSYNC_EOF";
#define X(name, value, text, retriable)                                                                                \
    case value:                                                                                                        \
        return "OSYNC_" #name;
        OSYNC_ERROR_MAP(X)
#undef X
    default:
        return "OSYNC_?";
    }
}

bool osync_err_retriable(int code) {
    switch (code) {
#define X(name, value, text, retriable)                                                                                \
    case value:                                                                                                        \
        return retriable;
        OSYNC_ERROR_MAP(X)
#undef X
    default:
        return false;
    }
}

int osync__err(osync_error_t *err, int code, const char *fmt, ...) {
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        err->code = code;
        (void)vsnprintf(err->message, sizeof err->message, fmt, ap);
        va_end(ap);
    }
    return code;
}

static int code_of_errno(int errnum) {
    switch (errnum) {
    case ENOMEM:
        return OSYNC_ENOMEM;
    case ENOENT:
    case ENOTDIR:
        return OSYNC_ENOENT;
    case EEXIST:
    case ENOTEMPTY:
        return OSYNC_EEXIST;
    case EXDEV:
        return OSYNC_EXDEV;
    case EACCES:
    case EPERM:
    case EROFS:
        return OSYNC_EPERM;
    case ENOSPC:
    case EDQUOT:
        return OSYNC_ENOSPC;
    case ENOTSUP:
    case ENOSYS:
        return OSYNC_ENOTSUP;
    case ETIMEDOUT:
        return OSYNC_ETIMEOUT;
    case ECONNREFUSED:
    case ECONNRESET:
    case EPIPE:
    case EHOSTUNREACH:
    case ENETUNREACH:
        return OSYNC_ECONN;
    default:
        return OSYNC_EIO;
    }
}

int osync__err_errno(osync_error_t *err, int errnum, const char *fmt, ...) {
    int code = code_of_errno(errnum);
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        err->code = code;
        int n = vsnprintf(err->message, sizeof err->message, fmt, ap);
        va_end(ap);
        if (n > 0 && (size_t)n < sizeof err->message) {
            char text[128];
            const char *t = strerror_r(errnum, text, sizeof text);
            (void)snprintf(err->message + n, sizeof err->message - (size_t)n, ": %s", t);
        }
    }
    return code;
}

int osync__err_wrap(osync_error_t *to, const osync_error_t *from, const char *fmt, ...) {
    osync_error_t cause = *from; /* `to` may be `from` */
    if (to) {
        va_list ap;
        va_start(ap, fmt);
        to->code = cause.code;
        int n = vsnprintf(to->message, sizeof to->message, fmt, ap);
        va_end(ap);
        if (n > 0 && (size_t)n + 3 < sizeof to->message) {
            size_t room = sizeof to->message - (size_t)n;
            (void)snprintf(to->message + n, room, ": %.*s", (int)(room - 3), cause.message);
        }
    }
    return cause.code;
}

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static osync_log_cb log_cb;
static void *log_arg;
static osync_log_level_t log_least = OSYNC_LOG_INFO;

void osync_log_set(osync_log_cb cb, void *arg, osync_log_level_t least) {
    pthread_mutex_lock(&log_lock);
    log_cb = cb;
    log_arg = arg;
    log_least = least;
    pthread_mutex_unlock(&log_lock);
}

void osync__log(osync_log_level_t level, const char *fmt, ...) {
    char line[2048];
    pthread_mutex_lock(&log_lock);
    if (log_cb && level >= log_least) {
        va_list ap;
        va_start(ap, fmt);
        (void)vsnprintf(line, sizeof line, fmt, ap);
        va_end(ap);
        for (char *p = line; *p; p++)
            if (*p == '\n' || *p == '\r') *p = ' '; /* one line, whatever a peer sent */
        log_cb(level, line, log_arg);
    }
    pthread_mutex_unlock(&log_lock);
}

void osync_log_stderr(osync_log_level_t level, const char *message, void *arg) {
    static const char *const names[] = {"DEBUG", "INFO", "WARN", "ERROR"};
    struct timespec ts;
    struct tm tm;
    (void)arg;
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    fprintf(stderr, "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ %s %s\n", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday,
            tm.tm_hour, tm.tm_min, tm.tm_sec, ts.tv_nsec / 1000000, names[level], message);
}
