/* Reads a file from front to back without a trace in the page cache: what others have there stays there, what only this
 * reading has brought in goes again. Reads ahead where the disk has to be asked. */
#ifndef OSYNC_FORMAT_SKIM_H
#define OSYNC_FORMAT_SKIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct osync__skim {
    int fd;
    bool here_cold, next_cold; /* of the stretch that is being read, and of the one behind it: wasn't cached before */
    uint64_t from, to, end;    /* the stretch and the next one: [from, to), [to, end) */
} osync__skim_t;

/* Whether the byte at `at` is in the page cache; where the system can't tell, it is taken for cached. NOTHING: the file
 * ends before it. */
typedef enum osync__cached { OSYNC__NOTHING, OSYNC__CACHED, OSYNC__ON_DISK } osync__cached_t;
osync__cached_t osync__skim_look(int fd, uint64_t at);

/* `fd` stays the caller's. */
void osync__skim_begin(osync__skim_t *skim, int fd);
/* As many bytes at `at` as there are, at most `size`. Negative: an errno. */
int osync__skim_read(osync__skim_t *skim, uint64_t at, uint8_t *to, size_t size, size_t *got);
/* Nothing more is read for now; also before the file is closed. */
void osync__skim_end(osync__skim_t *skim);

#endif
