/* Host names and their addresses. Knows nothing of collectors. */
#include "scheduler/hosts.h"

#include <netdb.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "base/sys.h"
#include "osync/error.h"

enum { MAX_ADDRESSES = 16, MAX_NAMES = 4096, FRESH_MS = 60000 };

typedef struct address {
    uint8_t bytes[16]; /* IPv4 as ::ffff:a.b.c.d; loopback always as ::1 */
} address_t;

typedef struct host {
    char name[OSYNC__HOST_SIZE];
    address_t addresses[MAX_ADDRESSES];
    size_t n;
    uint64_t at_ms;
    UT_hash_handle hh;
} host_t;

struct osync__hosts {
    uv_loop_t *loop;
    host_t *known;
    size_t open; /* look-ups under way */
    bool closing;
    void (*closed)(void *arg);
    void *closed_arg;
};

typedef struct batch {
    size_t open;
    void (*cb)(void *arg);
    void *arg;
} batch_t;

typedef struct query {
    uv_getaddrinfo_t req;
    osync__hosts_t *hosts;
    batch_t *batch;
    char name[OSYNC__HOST_SIZE];
} query_t;

void osync__host_of(const char *endpoint, char out[OSYNC__HOST_SIZE]) {
    const char *colon = strrchr(endpoint, ':');
    size_t len = colon ? (size_t)(colon - endpoint) : strlen(endpoint);
    if (len >= 2 && endpoint[0] == '[' && endpoint[len - 1] == ']') {
        endpoint++;
        len -= 2;
    }
    if (len >= OSYNC__HOST_SIZE) len = OSYNC__HOST_SIZE - 1;
    memcpy(out, endpoint, len);
    out[len] = '\0';
}

static address_t address_v4(const uint8_t ip[4]) {
    static const uint8_t loopback[4] = {127, 0, 0, 1};
    address_t a = {{0}};
    if (memcmp(ip, loopback, 4) == 0) {
        a.bytes[15] = 1;
    } else {
        a.bytes[10] = a.bytes[11] = 0xff;
        memcpy(a.bytes + 12, ip, 4);
    }
    return a;
}

static address_t address_v6(const uint8_t ip[16]) {
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    address_t a;
    if (memcmp(ip, mapped, 12) == 0) return address_v4(ip + 12);
    memcpy(a.bytes, ip, 16);
    return a;
}

static bool literal(const char *name, address_t *out) {
    uint8_t ip[16];
    if (uv_inet_pton(AF_INET, name, ip) == 0) {
        *out = address_v4(ip);
        return true;
    }
    if (uv_inet_pton(AF_INET6, name, ip) == 0) {
        *out = address_v6(ip);
        return true;
    }
    return false;
}

static const address_t *addresses_of(const osync__hosts_t *hosts, const char *name, address_t *own, size_t *n) {
    *n = 0;
    if (literal(name, own)) {
        *n = 1;
        return own;
    }
    host_t *h = NULL;
    HASH_FIND_STR(hosts->known, name, h);
    if (!h) return NULL;
    *n = h->n;
    return h->addresses;
}

bool osync__hosts_same(const osync__hosts_t *hosts, const char *a, const char *b) {
    if (strcasecmp(a, b) == 0) return true;
    address_t own_a, own_b;
    size_t n_a, n_b;
    const address_t *as = addresses_of(hosts, a, &own_a, &n_a);
    const address_t *bs = addresses_of(hosts, b, &own_b, &n_b);
    for (size_t i = 0; i < n_a; i++)
        for (size_t j = 0; j < n_b; j++)
            if (memcmp(as[i].bytes, bs[j].bytes, 16) == 0) return true;
    return false;
}

int osync__hosts_new(uv_loop_t *loop, osync__hosts_t **out) {
    *out = osync__calloc(1, sizeof **out);
    if (!*out) return OSYNC_ENOMEM;
    (*out)->loop = loop;
    return 0;
}

static void forget_old(osync__hosts_t *hosts, uint64_t now) {
    host_t *h, *next;
    HASH_ITER(hh, hosts->known, h, next) {
        if (now - h->at_ms < FRESH_MS && HASH_COUNT(hosts->known) < MAX_NAMES) continue;
        HASH_DEL(hosts->known, h);
        osync__free(h);
    }
}

static void end_if_idle(osync__hosts_t *hosts) {
    if (!hosts->closing || hosts->open > 0) return;
    host_t *h, *next;
    HASH_ITER(hh, hosts->known, h, next) {
        HASH_DEL(hosts->known, h);
        osync__free(h);
    }
    void (*closed)(void *) = hosts->closed;
    void *arg = hosts->closed_arg;
    osync__free(hosts);
    closed(arg);
}

static void on_addresses(uv_getaddrinfo_t *req, int status, struct addrinfo *res) {
    query_t *q = req->data;
    osync__hosts_t *hosts = q->hosts;
    uint64_t now = osync__mono_ms();
    host_t *h = NULL;
    HASH_FIND_STR(hosts->known, q->name, h);
    if (!h) {
        if (HASH_COUNT(hosts->known) >= MAX_NAMES) forget_old(hosts, now);
        h = osync__calloc(1, sizeof *h);
        if (h) {
            memcpy(h->name, q->name, sizeof h->name);
            HASH_ADD_STR(hosts->known, name, h);
            if (!h->hh.tbl) {
                osync__free(h);
                h = NULL;
            }
        }
    }
    if (h) {
        h->n = 0;
        h->at_ms = now;
        for (struct addrinfo *ai = status == 0 ? res : NULL; ai && h->n < MAX_ADDRESSES; ai = ai->ai_next) {
            if (ai->ai_family == AF_INET) {
                struct sockaddr_in in;
                memcpy(&in, ai->ai_addr, sizeof in);
                h->addresses[h->n++] = address_v4((const uint8_t *)&in.sin_addr);
            } else if (ai->ai_family == AF_INET6) {
                struct sockaddr_in6 in6;
                memcpy(&in6, ai->ai_addr, sizeof in6);
                h->addresses[h->n++] = address_v6((const uint8_t *)&in6.sin6_addr);
            }
        }
    }
    if (res) uv_freeaddrinfo(res);
    batch_t *b = q->batch;
    osync__free(q);
    if (--b->open == 0) {
        b->cb(b->arg);
        osync__free(b);
    }
    hosts->open--;
    end_if_idle(hosts);
}

int osync__hosts_lookup(osync__hosts_t *hosts, const char *const *names, size_t n, void (*cb)(void *arg), void *arg) {
    static const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    uint64_t now = osync__mono_ms();
    batch_t *b = osync__calloc(1, sizeof *b);
    if (!b) return OSYNC_ENOMEM;
    b->cb = cb;
    b->arg = arg;
    for (size_t i = 0; i < n; i++) {
        address_t own;
        host_t *h = NULL;
        bool asked = false;
        size_t len = strlen(names[i]);
        if (len == 0 || len >= OSYNC__HOST_SIZE || literal(names[i], &own)) continue;
        HASH_FIND_STR(hosts->known, names[i], h);
        if (h && now - h->at_ms < FRESH_MS) continue;
        for (size_t j = 0; j < i && !asked; j++) asked = strcmp(names[i], names[j]) == 0;
        if (asked) continue;
        query_t *q = osync__calloc(1, sizeof *q);
        if (!q) break; /* what isn't looked up equals itself only */
        memcpy(q->name, names[i], len + 1);
        q->hosts = hosts;
        q->batch = b;
        q->req.data = q;
        if (uv_getaddrinfo(hosts->loop, &q->req, on_addresses, q->name, NULL, &hints)) {
            osync__free(q);
            continue;
        }
        b->open++;
        hosts->open++;
    }
    if (b->open > 0) return 0;
    osync__free(b);
    return 1;
}

void osync__hosts_close(osync__hosts_t *hosts, void (*cb)(void *arg), void *arg) {
    hosts->closing = true;
    hosts->closed = cb;
    hosts->closed_arg = arg;
    end_if_idle(hosts);
}
