#include "collector/budget.h"

#include <utlist.h>

#include "base/sys.h"

enum { PERCENT = 100 };

#define NS_PER_MS 1000000u
#define NS_PER_S  1e9
/* What was not used may be made up for: timers are late by a millisecond or two. */
#define CREDIT_NS (50u * NS_PER_MS)

static bool keeps_pace(const osync__budget_t *b) {
    return b->max_read_rate > 0 || b->max_cpu_percent > 0;
}

static uint64_t cost(const osync__budget_t *b, uint64_t read_bytes, uint64_t cpu_ns) {
    double reading = b->max_read_rate > 0 ? (double)read_bytes * NS_PER_S / (double)b->max_read_rate : 0;
    double working = b->max_cpu_percent > 0 ? (double)cpu_ns * PERCENT / b->max_cpu_percent : 0;
    return (uint64_t)(reading > working ? reading : working);
}

/* Jobs at a time. What a job costs is known when it is done, so that more of them than cores that may be used would go
 * far beyond the limit. */
static bool may_start(const osync__budget_t *b) {
    return b->max_cpu_percent == 0 || b->under_way < (b->max_cpu_percent + PERCENT - 1) / PERCENT;
}

static bool fits(const osync__budget_t *b, uint64_t amount) {
    return amount == 0 || (b->used <= b->limit && amount <= b->limit - b->used);
}

static void pay(osync__budget_t *b, uint64_t ns) {
    uint64_t now = uv_hrtime(), oldest = now > CREDIT_NS ? now - CREDIT_NS : 0;
    b->ready_ns = (b->ready_ns > oldest ? b->ready_ns : oldest) + ns;
}

static void serve(osync__budget_t *b, osync__holder_t *h, uint64_t amount) {
    if (!fits(b, amount)) b->beyond = h;
    b->used += amount;
    h->held += amount;
    if (!keeps_pace(b)) return;
    h->paced = true;
    h->foreseen = amount;
    b->under_way++;
    pay(b, cost(b, amount, 0));
}

/* Who is next, NULL: nobody now. What is held may be held for long by somebody whose scheduler is away; so who has
 * nothing at all needn't wait for that, one at a time. */
static osync__holder_t *next_of(const osync__budget_t *b) {
    if (!b->line || !may_start(b)) return NULL;
    if (fits(b, b->line->wanted)) return b->line;
    if (!b->one_beyond || b->beyond) return NULL;
    for (osync__holder_t *h = b->line; h; h = h->next)
        if (h->held == 0) return h;
    return NULL;
}

static void go_on(osync__budget_t *b);

static void on_timer(uv_timer_t *timer) {
    go_on(timer->data);
}

static void go_on(osync__budget_t *b) {
    osync__holder_t *h;
    while ((h = next_of(b)) != NULL) {
        uint64_t now = keeps_pace(b) ? uv_hrtime() : 0;
        if (b->ready_ns > now) {
            uv_timer_start(&b->timer, on_timer, (b->ready_ns - now + NS_PER_MS - 1) / NS_PER_MS, 0);
            return;
        }
        DL_DELETE(b->line, h);
        h->waits = false;
        serve(b, h, h->wanted);
        if (h != b->asking) h->turn(h->arg);
    }
}

void osync__budget_init(osync__budget_t *b, uv_loop_t *loop) {
    if (!loop) return;
    uv_timer_init(loop, &b->timer);
    b->timer.data = b;
}

void osync__budget_close(osync__budget_t *b, uv_close_cb closed, void *arg) {
    b->timer.data = arg;
    uv_close((uv_handle_t *)&b->timer, closed);
}

bool osync__budget_take(osync__budget_t *b, osync__holder_t *h, uint64_t amount) {
    h->wanted = amount;
    h->waits = true;
    h->since = osync__mono_ms();
    DL_APPEND(b->line, h);
    b->asking = h;
    go_on(b);
    b->asking = NULL;
    return !h->waits;
}

void osync__budget_charge(osync__budget_t *b, osync__holder_t *h, uint64_t amount) {
    b->used += amount;
    h->held += amount;
}

void osync__budget_give(osync__budget_t *b, osync__holder_t *h, uint64_t amount) {
    b->used -= amount;
    h->held -= amount;
    if (b->beyond && (b->used <= b->limit || b->beyond->held == 0)) b->beyond = NULL;
    go_on(b);
}

void osync__budget_leave(osync__budget_t *b, osync__holder_t *h) {
    if (!h->waits) return;
    DL_DELETE(b->line, h);
    h->waits = false;
    go_on(b);
}

void osync__budget_done(osync__budget_t *b, osync__holder_t *h, uint64_t read_bytes, uint64_t cpu_ns) {
    if (!h->paced) return;
    uint64_t paid = cost(b, h->foreseen, 0), due = cost(b, read_bytes, cpu_ns);
    h->paced = false;
    b->under_way--;
    if (due >= paid)
        pay(b, due - paid);
    else
        b->ready_ns -= b->ready_ns > paid - due ? paid - due : b->ready_ns;
    go_on(b);
}

void osync__budget_spent(osync__budget_t *b, uint64_t read_bytes, uint64_t cpu_ns) {
    if (keeps_pace(b)) pay(b, cost(b, read_bytes, cpu_ns));
}

uint64_t osync__budget_waited(const osync__budget_t *b) {
    return b->line ? osync__mono_ms() - b->line->since : 0;
}
