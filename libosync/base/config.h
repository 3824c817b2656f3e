/* Option structs that may be of another version of libosync's headers than this library: their first member is their
 * size, and new members come at their end. */
#ifndef OSYNC_BASE_CONFIG_H
#define OSYNC_BASE_CONFIG_H

#include <stddef.h>

#include "osync/error.h"

/* The body of an osync_X_config_init: fills the caller's `size` bytes with the beginning of `defaults` (`own_size`
 * bytes), zeroes what is beyond, and sets the struct's own size. */
void osync__config_init(void *config, size_t size, const void *defaults, size_t own_size);

/* Copies a caller's struct over `own`, which holds the defaults (and stays as it is if `config` is NULL). `init` is the
 * name of its initialiser. OSYNC_EINVAL: that hasn't been called. OSYNC_ENOTSUP: it sets a member that only a newer
 * libosync knows. */
int osync__config_take(void *own, size_t own_size, const void *config, const char *init, osync_error_t *err);

#endif
