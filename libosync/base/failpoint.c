/* What a build for fault tests does at a failpoint: it counts, and ends the process if it is told to. */
#include "base/failpoint.h"

#ifdef OSYNC_FAILPOINTS

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const char *const names[] = {
#define F(name, what) #name,
#include "base/failpoint.def"
#undef F
};

/* Of the process, set up once. */
static struct {
    uint64_t *hits; /* [OSYNC__FAILPOINTS][2], then the armed place, how often it is still passed, and the signal */
    int point;      /* -1: none */
    bool after;
    uint64_t nth, seen;
} fp = {.point = -1};

static void wrong(const char *text) {
    (void)fprintf(stderr, "OSYNC_FAILPOINT or OSYNC_FAILPOINT_HITS: %s\n", text);
    abort(); /* a fault test that makes no fault would pass */
}

static void map_hits(const char *path) {
    const size_t size = sizeof(uint64_t) * (2 * OSYNC__FAILPOINTS + 3);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)size)) wrong("the file can't be made");
    fp.hits = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fp.hits == MAP_FAILED) wrong("the file can't be mapped");
    close(fd);
}

static void set_up(void) {
    char name[64], side[8];
    const char *hits = getenv("OSYNC_FAILPOINT_HITS"), *spec = getenv("OSYNC_FAILPOINT");
    if (hits) map_hits(hits);
    if (!spec) return;
    unsigned long long nth = 0;
    if (sscanf(spec, "%63[^:]:%7[^:]:%llu", name, side, &nth) != 3 || nth == 0) wrong("not name:before|after:number");
    fp.after = strcmp(side, "after") == 0;
    if (!fp.after && strcmp(side, "before") != 0) wrong("neither before nor after");
    for (int i = 0; i < OSYNC__FAILPOINTS; i++)
        if (strcmp(names[i], name) == 0) fp.point = i;
    if (fp.point < 0) wrong("no such name");
    fp.nth = nth;
}

void osync__failpoint(osync__failpoint_t point, bool after) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, set_up);
    if (fp.hits) {
        size_t place = 2 * (size_t)point + after;
        uint64_t *armed = fp.hits + 2 * OSYNC__FAILPOINTS;
        __atomic_add_fetch(&fp.hits[place], 1, __ATOMIC_RELAXED);
        if (__atomic_load_n(&armed[0], __ATOMIC_ACQUIRE) == place + 1 &&
            __atomic_sub_fetch(&armed[1], 1, __ATOMIC_RELAXED) == 0)
            (void)kill(getpid(), (int)armed[2]);
    }
    if ((int)point != fp.point || after != fp.after) return;
    if (__atomic_add_fetch(&fp.seen, 1, __ATOMIC_RELAXED) == fp.nth) (void)kill(getpid(), SIGKILL);
}

#else
typedef int osync__no_failpoints_t; /* a translation unit must not be empty */
#endif
