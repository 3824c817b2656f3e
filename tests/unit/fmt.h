/* printf into one of a few buffers, for a path or a text that is used at once. */
#ifndef OSYNC_TESTS_FMT_H
#define OSYNC_TESTS_FMT_H

#include <stdarg.h>
#include <stdio.h>

#include "osync/export.h"

static const char *fmt(const char *f, ...) OSYNC_PRINTF(1, 2);
static const char *fmt(const char *f, ...) {
    static _Thread_local char out[4][1024];
    static _Thread_local int turn;
    va_list ap;
    turn = (turn + 1) % 4;
    va_start(ap, f);
    (void)vsnprintf(out[turn], sizeof out[0], f, ap);
    va_end(ap);
    return out[turn];
}

#endif
