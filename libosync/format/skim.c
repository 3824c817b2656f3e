#include "format/skim.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    STRETCH = 2 << 20,  /* bytes that are looked at and read ahead as one */
    PASSING = 64 << 10, /* a read of less is a look at a place, and the little that it brings in may stay */
};

void osync__skim_begin(osync__skim_t *s, int fd) {
    *s = (osync__skim_t){.fd = fd};
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM); /* the kernel's own reading ahead would blur what was cached */
}

static void advise(const osync__skim_t *s, uint64_t from, uint64_t to, int advice) {
    if (to > from) (void)posix_fadvise(s->fd, (off_t)from, (off_t)(to - from), advice);
}

osync__cached_t osync__skim_look(int fd, uint64_t at) {
    uint8_t byte;
    struct iovec v = {.iov_base = &byte, .iov_len = 1};
    ssize_t n = preadv2(fd, &v, 1, (off_t)at, RWF_NOWAIT);
    return n == 0 ? OSYNC__NOTHING : n < 0 && errno == EAGAIN ? OSYNC__ON_DISK : OSYNC__CACHED;
}

/* Is most of it on the disk alone? Asked at three places. The first bytes are no witness: who looked at a file's
 * beginning has left them in the cache. */
static bool is_cold(const osync__skim_t *s, uint64_t from, uint64_t to) {
    int seen[3] = {0};
    for (uint64_t i = 1; i <= 3; i++) seen[osync__skim_look(s->fd, from + (to - from) / 4 * i)]++;
    return seen[OSYNC__ON_DISK] > seen[OSYNC__CACHED];
}

/* The stretches move on so that `at` is in the first one. */
static void go_to(osync__skim_t *s, uint64_t at) {
    if (at >= s->to && at < s->end) {
        s->from = s->to;
        s->to = s->end;
        s->here_cold = s->next_cold;
    } else {
        osync__skim_end(s);
        s->from = at;
        s->to = at + STRETCH;
        s->here_cold = is_cold(s, s->from, s->to);
        if (s->here_cold) advise(s, s->from, s->to, POSIX_FADV_WILLNEED);
    }
    s->end = s->to + STRETCH;
    s->next_cold = is_cold(s, s->to, s->end);
    if (s->next_cold) advise(s, s->to, s->end, POSIX_FADV_WILLNEED);
}

int osync__skim_read(osync__skim_t *s, uint64_t at, uint8_t *to, size_t size, size_t *got) {
    bool inside = at >= s->from && at < s->to;
    if (!inside && size >= PASSING) {
        go_to(s, at);
        inside = true;
    }
    *got = 0;
    while (*got < size) {
        ssize_t n = pread(s->fd, to + *got, size - *got, (off_t)(at + *got));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -errno;
        if (n == 0) break;
        *got += (size_t)n;
    }
    uint64_t last = at + *got < s->to ? at + *got : s->to;
    /* From the stretch's beginning: the cache's pieces are large, and go only as a whole. */
    if (inside && s->here_cold) advise(s, s->from, last, POSIX_FADV_DONTNEED);
    return 0;
}

void osync__skim_end(osync__skim_t *s) {
    if (s->here_cold) advise(s, s->from, s->to, POSIX_FADV_DONTNEED);
    if (s->next_cold) advise(s, s->to, s->end, POSIX_FADV_DONTNEED);
    s->here_cold = s->next_cold = false;
    s->from = s->to = s->end = 0;
}
