/* The line before a limited amount: who is served, and when. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <uv.h>

#include "collector/budget.h"

enum { MS = 1000000 };

typedef struct user {
    osync__holder_t h; /* first */
    int turns;
} user_t;

static void on_turn(void *arg) {
    user_t *u = arg;
    u->turns++;
}

static user_t user(void) {
    return (user_t){.h.turn = on_turn};
}

static bool take(osync__budget_t *b, user_t *u, uint64_t amount) {
    u->h.arg = u;
    return osync__budget_take(b, &u->h, amount);
}

static void give(osync__budget_t *b, user_t *u) {
    osync__budget_give(b, &u->h, u->h.held);
}

static void first_come_first_served(void **state) {
    (void)state;
    osync__budget_t b = {.limit = 100};
    user_t a = user(), large = user(), small = user();
    osync__budget_init(&b, NULL);
    assert_true(take(&b, &a, 60));
    assert_false(take(&b, &large, 60));
    assert_false(take(&b, &small, 1)); /* would fit, but it came later */
    assert_int_equal(b.used, 60);
    osync__budget_give(&b, &a.h, 20);
    assert_int_equal(large.turns, 1);
    assert_int_equal(small.turns, 0);
    assert_int_equal(b.used, 100);
    osync__budget_give(&b, &a.h, 40);
    assert_int_equal(small.turns, 1);
    assert_int_equal(small.h.held, 1);
    give(&b, &large);
    give(&b, &small);
    assert_int_equal(b.used, 0);
}

static void who_leaves_lets_others_go_on(void **state) {
    (void)state;
    osync__budget_t b = {.limit = 10};
    user_t a = user(), gone = user(), next = user();
    osync__budget_init(&b, NULL);
    assert_true(take(&b, &a, 5));
    assert_false(take(&b, &gone, 6));
    assert_false(take(&b, &next, 5));
    osync__budget_leave(&b, &gone.h);
    osync__budget_leave(&b, &gone.h); /* is nothing */
    assert_int_equal(next.turns, 1);
    assert_int_equal(gone.turns, 0);
    assert_int_equal(gone.h.held, 0);
    give(&b, &a);
    give(&b, &next);
    assert_int_equal(b.used, 0);
}

static void places_are_never_exceeded(void **state) {
    (void)state;
    osync__budget_t b = {.limit = 1};
    user_t a = user(), c = user();
    osync__budget_init(&b, NULL);
    assert_true(take(&b, &a, 1));
    assert_false(take(&b, &c, 1));
    give(&b, &a);
    assert_int_equal(c.turns, 1);
    give(&b, &c);
}

/* Whoever holds something may do so for long: its scheduler is away. */
static void one_goes_beyond_the_limit_and_no_more(void **state) {
    (void)state;
    osync__budget_t b = {.limit = 10, .one_beyond = true};
    user_t holds = user(), first = user(), second = user();
    osync__budget_init(&b, NULL);
    assert_true(take(&b, &holds, 8));
    assert_false(take(&b, &holds, 8)); /* has something */
    assert_true(take(&b, &first, 8));  /* has nothing, though it came later */
    assert_int_equal(b.used, 16);
    assert_false(take(&b, &second, 8));
    give(&b, &first);
    assert_int_equal(second.turns, 1);
    assert_int_equal(holds.turns, 0);
    assert_false(take(&b, &first, 8));
    give(&b, &holds); /* what `second` holds is within the limit now, and `holds` came before `first` */
    assert_int_equal(holds.turns, 1);
    assert_int_equal(first.turns, 0);
    give(&b, &second);
    assert_int_equal(first.turns, 1);
    assert_int_equal(b.used, 16);
    give(&b, &holds);
    give(&b, &first);
    assert_int_equal(b.used, 0);
}

static void row_of_any_size_gets_through(void **state) {
    (void)state;
    osync__budget_t b = {.limit = 10, .one_beyond = true};
    user_t a = user(), large = user();
    osync__budget_init(&b, NULL);
    assert_true(take(&b, &large, 1000));
    assert_false(take(&b, &a, 1));
    give(&b, &large);
    assert_int_equal(a.turns, 1);
    give(&b, &a);
}

static void what_has_grown_counts(void **state) {
    (void)state;
    osync__budget_t b = {.limit = 10};
    user_t a = user(), next = user();
    osync__budget_init(&b, NULL);
    assert_true(take(&b, &a, 4));
    osync__budget_charge(&b, &a.h, 8);
    assert_false(take(&b, &next, 1));
    osync__budget_give(&b, &a.h, 3);
    assert_int_equal(next.turns, 1);
    give(&b, &a);
    give(&b, &next);
    assert_int_equal(b.used, 0);
}

/* ---- pace ---- */

static void on_closed(uv_handle_t *h) {
    *(bool *)h->data = true;
}

static void end(osync__budget_t *b, uv_loop_t *loop) {
    bool closed = false;
    osync__budget_close(b, on_closed, &closed);
    while (!closed) uv_run(loop, UV_RUN_ONCE);
    assert_int_equal(uv_loop_close(loop), 0);
}

static void wait_turn(uv_loop_t *loop, const user_t *u, int turns) {
    while (u->turns < turns) uv_run(loop, UV_RUN_ONCE);
}

/* Jobs that read `each` bytes and use cpu_ms: how long `n` of them take. */
static uint64_t paced(osync__budget_t *b, int n, uint64_t each, uint64_t cpu_ms) {
    uv_loop_t loop;
    user_t u = user();
    uint64_t before = uv_hrtime();
    assert_int_equal(uv_loop_init(&loop), 0);
    osync__budget_init(b, &loop);
    for (int i = 0; i < n; i++) {
        int turns = u.turns;
        if (!take(b, &u, 100)) wait_turn(&loop, &u, turns + 1);
        osync__budget_done(b, &u.h, each, cpu_ms * MS);
        give(b, &u);
    }
    uint64_t took = (uv_hrtime() - before) / MS;
    end(b, &loop);
    return took;
}

static void reading_keeps_the_rate(void **state) {
    (void)state;
    osync__budget_t b = {.limit = 1000, .max_read_rate = 10000};
    uint64_t took = paced(&b, 11, 300, 0); /* the last one is not waited for: 10 * 300 bytes, less the credit */
    assert_in_range(took, 240, 2000);
}

static void reading_less_than_foreseen_costs_less(void **state) {
    (void)state;
    osync__budget_t b = {.limit = 1000, .max_read_rate = 1000};
    assert_in_range(paced(&b, 11, 10, 0), 40, 600); /* foreseen: 100 ms each */
}

static void working_keeps_the_share(void **state) {
    (void)state;
    osync__budget_t b = {.limit = 1000, .max_cpu_percent = 50};
    assert_in_range(paced(&b, 6, 1 << 20, 20), 140, 2000); /* 5 * 20 ms are 200 ms at half of the time */
}

static void work_beside_it_counts(void **state) {
    (void)state;
    osync__budget_t b = {.limit = 1000, .max_cpu_percent = 100};
    osync__budget_spent(&b, 0, 200 * MS);
    assert_in_range(paced(&b, 1, 0, 0), 140, 2000);
}

/* What a job costs is known at its end. */
static void share_of_a_core_is_one_job_at_a_time(void **state) {
    (void)state;
    osync__budget_t b = {.limit = 1000, .max_cpu_percent = 100};
    uv_loop_t loop;
    user_t one = user(), two = user();
    assert_int_equal(uv_loop_init(&loop), 0);
    osync__budget_init(&b, &loop);
    assert_true(take(&b, &one, 0));
    assert_false(take(&b, &two, 0));
    osync__budget_done(&b, &one.h, 0, 0);
    assert_int_equal(two.turns, 1);
    osync__budget_done(&b, &two.h, 0, 0);
    osync__budget_done(&b, &two.h, 0, 0); /* none is under way: nothing */
    assert_true(take(&b, &one, 0));
    osync__budget_done(&b, &one.h, 0, 0);
    end(&b, &loop);
}

static void who_waits_for_the_pace_can_leave(void **state) {
    (void)state;
    osync__budget_t b = {.limit = 1000, .max_read_rate = 1};
    uv_loop_t loop;
    user_t one = user(), two = user();
    assert_int_equal(uv_loop_init(&loop), 0);
    osync__budget_init(&b, &loop);
    assert_true(take(&b, &one, 100));
    osync__budget_done(&b, &one.h, 1000, 0);
    assert_false(take(&b, &two, 100));
    osync__budget_leave(&b, &two.h);
    give(&b, &one);
    assert_int_equal(two.turns, 0);
    end(&b, &loop);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_come_first_served),
        cmocka_unit_test(who_leaves_lets_others_go_on),
        cmocka_unit_test(places_are_never_exceeded),
        cmocka_unit_test(one_goes_beyond_the_limit_and_no_more),
        cmocka_unit_test(row_of_any_size_gets_through),
        cmocka_unit_test(what_has_grown_counts),
        cmocka_unit_test(reading_keeps_the_rate),
        cmocka_unit_test(reading_less_than_foreseen_costs_less),
        cmocka_unit_test(working_keeps_the_share),
        cmocka_unit_test(work_beside_it_counts),
        cmocka_unit_test(share_of_a_core_is_one_job_at_a_time),
        cmocka_unit_test(who_waits_for_the_pace_can_leave),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
