/* The logging hook. Without one, the library writes nothing. */
#ifndef OSYNC_LOG_H
#define OSYNC_LOG_H

#include "osync/export.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum osync_log_level { OSYNC_LOG_DEBUG, OSYNC_LOG_INFO, OSYNC_LOG_WARN, OSYNC_LOG_ERROR } osync_log_level_t;

/* `message` is one line without a newline, valid during the call only. May be called from any thread of the library,
 * one call at a time; it mustn't call libosync. */
typedef void (*osync_log_cb)(osync_log_level_t level, const char *message, void *arg);

/* Sets the process-wide hook and the least level that reaches it; cb NULL turns logging off. When it returns, the
 * former hook isn't called any more. Thread-safe, but for the hook itself. */
OSYNC_API void osync_log_set(osync_log_cb cb, void *arg, osync_log_level_t least);

/* A ready-made hook: one line to standard error, with UTC time to the millisecond and the level. `arg` is ignored. */
OSYNC_API void osync_log_stderr(osync_log_level_t level, const char *message, void *arg);

#ifdef __cplusplus
}
#endif
#endif
