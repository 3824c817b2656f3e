/* Whether two host names mean the same machine: equal text, or a common address. Names are looked up by uv_getaddrinfo
 * and kept for a while. Loop thread only. */
#ifndef OSYNC_SCHEDULER_HOSTS_H
#define OSYNC_SCHEDULER_HOSTS_H

#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

typedef struct osync__hosts osync__hosts_t;

enum { OSYNC__HOST_SIZE = 256 };

/* The host of "host:port": what stands before the last ':', without the brackets of an IPv6 address. */
void osync__host_of(const char *endpoint, char out[OSYNC__HOST_SIZE]);

int osync__hosts_new(uv_loop_t *loop, osync__hosts_t **out);
/* Looks up what isn't known yet. 0: `cb` comes later, exactly once; 1: all is known, `cb` doesn't come; negative: an
 * error. A name that has no address is no error: it equals itself only. */
int osync__hosts_lookup(osync__hosts_t *hosts, const char *const *names, size_t n, void (*cb)(void *arg), void *arg);
/* By what is known now. The loopback addresses 127.0.0.1 and ::1 are one machine; other addresses of 127.0.0.0/8
 * aren't. */
bool osync__hosts_same(const osync__hosts_t *hosts, const char *a, const char *b);
/* Look-ups that are under way still call back first. */
void osync__hosts_close(osync__hosts_t *hosts, void (*cb)(void *arg), void *arg);

#endif
