#include "base/pool.h"

#include <pthread.h>
#include <stdbool.h>
#include <time.h>

#include "base/alloc.h"
#include "base/error.h"

struct osync__pool {
    uv_async_t async;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    osync__job_t *first, **last;             /* to do; under the lock */
    osync__job_t *finished, **finished_last; /* done, not yet told to the loop; under the lock */
    bool stop;                               /* under the lock */
    size_t under_way;                        /* loop thread only */
    unsigned threads;
    void (*closed)(void *arg);
    void *closed_arg;
    pthread_t thread[];
};

/* Of this thread, in ns. */
static uint64_t cpu_time(void) {
    struct timespec t = {0};
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void *worker(void *arg) {
    osync__pool_t *p = arg;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->first && !p->stop) pthread_cond_wait(&p->wake, &p->lock);
        osync__job_t *job = p->first;
        if (!job) break;
        p->first = job->next;
        if (!p->first) p->last = &p->first;
        pthread_mutex_unlock(&p->lock);
        uint64_t before = cpu_time();
        job->work(job);
        job->cpu_ns = cpu_time() - before;
        pthread_mutex_lock(&p->lock);
        job->next = NULL;
        *p->finished_last = job;
        p->finished_last = &job->next;
        uv_async_send(&p->async);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static void pool_free(uv_handle_t *h) {
    osync__pool_t *p = h->data;
    void (*closed)(void *) = p->closed;
    void *arg = p->closed_arg;
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->wake);
    osync__free(p);
    if (closed) closed(arg);
}

static void end_if_idle(osync__pool_t *p) {
    if (!p->stop || p->under_way > 0 || uv_is_closing((uv_handle_t *)&p->async)) return;
    for (unsigned i = 0; i < p->threads; i++) pthread_join(p->thread[i], NULL);
    uv_close((uv_handle_t *)&p->async, pool_free);
}

static void on_async(uv_async_t *a) {
    osync__pool_t *p = a->data;
    pthread_mutex_lock(&p->lock);
    osync__job_t *job = p->finished;
    p->finished = NULL;
    p->finished_last = &p->finished;
    pthread_mutex_unlock(&p->lock);
    while (job) {
        osync__job_t *next = job->next;
        if (--p->under_way == 0 && !p->stop) uv_unref((uv_handle_t *)&p->async);
        job->done(job); /* may submit more, and may close the pool */
        job = next;
    }
    end_if_idle(p);
}

int osync__pool_new(uv_loop_t *loop, unsigned threads, osync__pool_t **out, osync_error_t *err) {
    osync__pool_t *p = osync__calloc(1, sizeof *p + threads * sizeof p->thread[0]);
    if (!p) return osync__err(err, OSYNC_ENOMEM, "worker pool: out of memory");
    int rc = uv_async_init(loop, &p->async, on_async);
    if (rc) {
        osync__free(p);
        return osync__err(err, OSYNC_EIO, "worker pool: %s", uv_strerror(rc));
    }
    p->async.data = p;
    uv_unref((uv_handle_t *)&p->async);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    p->last = &p->first;
    p->finished_last = &p->finished;
    for (; p->threads < threads; p->threads++) {
        rc = pthread_create(&p->thread[p->threads], NULL, worker, p);
        if (rc) {
            osync__err_errno(err, rc, "worker pool: thread %u of %u", p->threads + 1, threads);
            osync__pool_close(p, NULL, NULL);
            return OSYNC_EIO;
        }
    }
    *out = p;
    return 0;
}

void osync__pool_submit(osync__pool_t *pool, osync__job_t *job) {
    job->next = NULL;
    if (pool->under_way++ == 0) uv_ref((uv_handle_t *)&pool->async);
    pthread_mutex_lock(&pool->lock);
    *pool->last = job;
    pool->last = &job->next;
    pthread_cond_signal(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

void osync__pool_close(osync__pool_t *pool, void (*closed)(void *arg), void *arg) {
    pool->closed = closed;
    pool->closed_arg = arg;
    uv_ref((uv_handle_t *)&pool->async);
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    end_if_idle(pool);
}
