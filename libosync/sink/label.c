/* A label cut into parts that fit extended attributes, and the check of a sink's paths. Which attributes and how:
 * internal.h. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "sink/internal.h"

unsigned osync__label_parts(size_t len) {
    return (unsigned)((len + 1 + OSYNC__LABEL_PART_SIZE - 1) / OSYNC__LABEL_PART_SIZE); /* + 1: the count */
}

void osync__label_name(unsigned i, char name[OSYNC__LABEL_NAME_SIZE]) {
    if (i == 0)
        (void)snprintf(name, OSYNC__LABEL_NAME_SIZE, "%s", OSYNC__LABEL_ATTR);
    else
        (void)snprintf(name, OSYNC__LABEL_NAME_SIZE, "%s.%u", OSYNC__LABEL_ATTR, i);
}

int osync__label_part(const void *label, size_t len, unsigned i, char name[OSYNC__LABEL_NAME_SIZE], osync__buf_t *out) {
    const size_t first = OSYNC__LABEL_PART_SIZE - 1; /* bytes of the label in part 0 */
    size_t from = i == 0 ? 0 : first + (i - 1) * (size_t)OSYNC__LABEL_PART_SIZE;
    size_t n = i == 0 ? first : OSYNC__LABEL_PART_SIZE;
    if (n > len - from) n = len - from;
    osync__label_name(i, name);
    uint8_t count = (uint8_t)osync__label_parts(len);
    int rc = i == 0 ? osync__buf_append(out, &count, 1) : 0;
    return rc || n == 0 ? rc : osync__buf_append(out, (const uint8_t *)label + from, n);
}

int osync__sink_check_path(const char *path, osync_error_t *err) {
    if (path[0] != '/') return osync__err(err, OSYNC_EINVAL, "path \"%s\" is not absolute", path);
    if (path[1] == 0) return 0;
    for (const char *p = path; *p;) {
        const char *name = p + 1;
        size_t n = strcspn(name, "/");
        if (n == 0 || (n == 1 && name[0] == '.') || (n == 2 && name[0] == '.' && name[1] == '.'))
            return osync__err(err, OSYNC_EINVAL, "path \"%s\" has an empty name, \".\" or \"..\" in it", path);
        p = name + n;
    }
    return 0;
}
