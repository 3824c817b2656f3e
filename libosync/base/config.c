#include "base/config.h"

#include <stdint.h>
#include <string.h>

#include "base/error.h"

enum { LARGEST = 64 << 10 }; /* no option struct comes near */

void osync__config_init(void *config, size_t size, const void *defaults, size_t own_size) {
    if (size < sizeof size) return;
    memset(config, 0, size);
    memcpy(config, defaults, size < own_size ? size : own_size);
    memcpy(config, &size, sizeof size);
}

int osync__config_take(void *own, size_t own_size, const void *config, const char *init, osync_error_t *err) {
    if (!config) return 0;
    size_t size;
    memcpy(&size, config, sizeof size);
    if (size <= sizeof size || size > LARGEST)
        return osync__err(err, OSYNC_EINVAL, "the configuration isn't filled in: call %s first", init);
    const uint8_t *bytes = config;
    for (size_t i = own_size; i < size; i++)
        if (bytes[i])
            return osync__err(err, OSYNC_ENOTSUP,
                              "the configuration sets a member that this version of libosync doesn't have: the program "
                              "was built with a newer one");
    memcpy(own, config, size < own_size ? size : own_size);
    memcpy(own, &own_size, sizeof own_size);
    return 0;
}
