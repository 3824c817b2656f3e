/* Failpoints: a name for every step that has an effect outside of the process, so that a test can end the process right
 * before or after it. The names are in failpoint.def. Built with -Dfailpoints=true only; else the macros are nothing.
 *
 * OSYNC_FAILPOINT=name:before:3 kills this process (SIGKILL) when it comes to that place for the third time.
 * OSYNC_FAILPOINT_HITS=file counts: the file holds two 64-bit counters a name (before, after), in the order of
 * failpoint.def, in the machine's byte order, and is shared by all processes that name it. Three more numbers behind
 * them arm a place in a process that runs: 1 + its counter's index (0: none), how often the process comes there until
 * it happens, and the signal that it then gets. */
#ifndef OSYNC_BASE_FAILPOINT_H
#define OSYNC_BASE_FAILPOINT_H

#include <stdbool.h>

typedef enum osync__failpoint {
#define F(name, what) OSYNC__FP_##name,
#include "base/failpoint.def"
#undef F
    OSYNC__FAILPOINTS
} osync__failpoint_t;

#ifdef OSYNC_FAILPOINTS
void osync__failpoint(osync__failpoint_t point, bool after);
#define OSYNC__BEFORE_POINT(point) osync__failpoint((point), false)
#define OSYNC__AFTER_POINT(point)  osync__failpoint((point), true)
#else
#define OSYNC__BEFORE_POINT(point) ((void)(point))
#define OSYNC__AFTER_POINT(point)  ((void)(point))
#endif
/* OSYNC__BEFORE(name); the step; OSYNC__AFTER(name). After a step that is answered later: when the answer has come and
 * nothing has been done about it yet. */
#define OSYNC__BEFORE(name) OSYNC__BEFORE_POINT(OSYNC__FP_##name)
#define OSYNC__AFTER(name)  OSYNC__AFTER_POINT(OSYNC__FP_##name)

#endif
