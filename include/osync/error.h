/* Error codes and the error object that every fallible call of libosync fills.
 *
 * Functions return 0 or a negative OSYNC_E... code. Where a call takes an `osync_error_t *err`, err may be NULL; on
 * failure it holds the code and one sentence that names the thing, what went wrong and, where there is one, the cause
 * in its own words (an errno text, a RemoteException, a ZooKeeper code); on success it is left alone. A callback's
 * `err` has the same code as its status. Later versions may bring more codes. All functions here are thread-safe. */
#ifndef OSYNC_ERROR_H
#define OSYNC_ERROR_H

#include <stdbool.h>
#include <stdint.h>

#include "osync/export.h"

#ifdef __cplusplus
extern "C" {
#endif

/* name, value, text, retriable: waiting or trying again can mend it */
#define OSYNC_ERROR_MAP(X)                                                                                             \
    X(ENOMEM, -1, "out of memory", true)                                                                               \
    X(EINVAL, -2, "invalid argument", false)                                                                           \
    X(EIO, -3, "input/output error", true)                                                                             \
    X(ENOENT, -4, "not found", false)                                                                                  \
    X(EEXIST, -5, "already exists", false)                                                                             \
    X(ECORRUPT, -6, "data is corrupt", false)                                                                          \
    X(ETOOBIG, -7, "a limit was exceeded", false)                                                                      \
    X(ETIMEOUT, -8, "timed out", true)                                                                                 \
    X(ECONN, -9, "connection failed", true)                                                                            \
    X(ERPC, -10, "the peer answered with an error", true)                                                              \
    X(ECANCELED, -11, "canceled", false)                                                                               \
    X(ECONFLICT, -12, "another owner has changed it", false)                                                           \
    X(EXDEV, -13, "Invalid cross-device link", false)                                                                  \
    X(ENOTSUP, -14, "not supported", false)                                                                            \
    X(ESCHEMA, -15, "unknown schema version", true)                                                                    \
    X(EGAP, -16, "the log does not hold what is needed", false)                                                        \
    X(EDIVERGED, -17, "the log has diverged", false)                                                                   \
    X(EAGAIN, -18, "not now, try again", true)                                                                         \
    X(EPERM, -19, "permission denied", false)                                                                          \
    X(ENOSPC, -20, "no space left", true)                                                                              \
    X(ECONFIG, -21, "the configuration is wrong", false)                                                               \
    X(EUNKNOWN, -22, "the outcome is unknown", true)                                                                   \
    X(ECLOSED, -23, "closed", false)

#define OSYNC_ERROR_ENUM(name, value, text, retriable) OSYNC_##name = (value),
/* OSYNC_EOF is no error: a reader has nothing more. */
enum osync_errno { OSYNC_OK = 0, OSYNC_ERROR_MAP(OSYNC_ERROR_ENUM) OSYNC_EOF = -1000 };
#undef OSYNC_ERROR_ENUM

typedef struct osync_error {
    int code;           /* 0 or OSYNC_E... */
    char message[1020]; /* UTF-8, always terminated, never ends with a newline */
} osync_error_t;

/* Text of a code ("not found"). Never NULL; static storage. */
OSYNC_API const char *osync_strerror(int code);
/* Name of a code ("OSYNC_ENOENT"). Never NULL; static storage. */
OSYNC_API const char *osync_err_name(int code);
/* True if waiting or trying again may mend an error of this code. */
OSYNC_API bool osync_err_retriable(int code);

#ifdef __cplusplus
}
#endif
#endif
