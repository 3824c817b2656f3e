/* Floating-point numbers as Java prints them. */
#ifndef OSYNC_FORMAT_JAVA_FLOAT_H
#define OSYNC_FORMAT_JAVA_FLOAT_H

#include <stddef.h>

enum { OSYNC__JAVA_FLOAT_MAX = 32 }; /* no text is longer */

/* Write the text of Double.toString or Float.toString, without a NUL, and return its length. They don't depend on the
 * locale. */
size_t osync__java_double(char *out, double v);
size_t osync__java_float(char *out, float v);

#endif
