#include "job/watchdog.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "job/heartbeat.h"

enum { MAX_PHASES = 12, FIRST_PHASES = 3 };

/* Before there is a median, the first steps may be slow: libraries plan, files are read for the first time. */
static const double first_limit = 600;

struct phase {
    const char *name; /* static strings: told apart by their text */
    double durations[WATCHDOG_HISTORY];
    int64_t ended;
};

struct watchdog {
    struct watchdog_options options;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stopping;
    struct phase phases[MAX_PHASES];
    int phase_count;
    struct phase *now; /* NULL before the first */
    int64_t step;
    double begun, own_limit;
};

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_of(const double *durations, int count)
{
    double sorted[WATCHDOG_HISTORY];
    memcpy(sorted, durations, (size_t)count * sizeof *sorted);
    qsort(sorted, (size_t)count, sizeof *sorted, ascending);
    return sorted[count / 2];
}

double watchdog_limit(const double *durations, int count, double hang_factor, double hang_seconds)
{
    if (count < FIRST_PHASES)
        return first_limit;
    double limit = hang_factor * median_of(durations, count);
    return limit > hang_seconds ? limit : hang_seconds;
}

static int history_count(const struct phase *p)
{
    return p->ended < WATCHDOG_HISTORY ? (int)p->ended : WATCHDOG_HISTORY;
}

/* Under the lock. Fills REPORT and returns true if the current phase has lasted too long. */
static bool is_hang(const struct watchdog *w, double now, char *report, size_t size)
{
    if (!w->now)
        return false;
    int count = history_count(w->now);
    double limit = w->own_limit > 0 ? w->own_limit
                                    : watchdog_limit(w->now->durations, count, w->options.hang_factor, w->options.hang_seconds);
    double lasted = now - w->begun;
    if (lasted <= limit)
        return false;
    snprintf(report, size, "rank %d on %s is %.1f s in phase '%s' of step %lld (limit %.1f s, median %.3f s): taken for a hang",
             w->options.rank, w->options.host, lasted, w->now->name, (long long)w->step, limit,
             count ? median_of(w->now->durations, count) : 0.0);
    return true;
}

static void wait_until(struct watchdog *w, double when)
{
    struct timespec t = {.tv_sec = (time_t)when};
    t.tv_nsec = (long)((when - (double)t.tv_sec) * 1e9);
    pthread_cond_timedwait(&w->wake, &w->lock, &t);
}

static void *run(void *argument)
{
    struct watchdog *w = argument;
    char report[512];
    bool told = false;
    pthread_mutex_lock(&w->lock);
    double next = clock_seconds();
    while (!w->stopping) {
        double now = clock_seconds();
        if (now >= next) {
            const char *phase = w->now ? w->now->name : "start";
            int64_t step = w->step;
            bool hangs = !told && is_hang(w, now, report, sizeof report);
            pthread_mutex_unlock(&w->lock);
            heartbeat_send(HEARTBEAT_ALIVE, w->options.rank, w->options.host, step, phase, getenv("SLURM_STEP_ID"));
            if (hangs) {
                told = true;
                w->options.hang(w->options.context, report);
            }
            pthread_mutex_lock(&w->lock);
            next = now + w->options.heartbeat_seconds;
        }
        if (!w->stopping)
            wait_until(w, next);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

cairn_err watchdog_start(const struct watchdog_options *options, struct watchdog **out)
{
    struct watchdog *w = calloc(1, sizeof *w);
    if (!w)
        return FAIL(CAIRN_ENOMEM, "no memory for the watchdog");
    w->options = *options;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&w->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&w->lock, NULL);
    int code = pthread_create(&w->thread, NULL, run, w);
    if (code) {
        free(w);
        return FAIL(CAIRN_ESYS, "cannot start the watchdog's thread: %s", strerror(code));
    }
    *out = w;
    return CAIRN_OK;
}

void watchdog_stop(struct watchdog *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->wake);
    free(w);
}

static struct phase *phase_of(struct watchdog *w, const char *name)
{
    for (int i = 0; i < w->phase_count; i++)
        if (strcmp(w->phases[i].name, name) == 0)
            return &w->phases[i];
    struct phase *p = &w->phases[w->phase_count < MAX_PHASES ? w->phase_count++ : MAX_PHASES - 1];
    *p = (struct phase){.name = name};
    return p;
}

void watchdog_phase(struct watchdog *w, const char *name, int64_t step, double limit)
{
    double now = clock_seconds();
    pthread_mutex_lock(&w->lock);
    if (w->now)
        w->now->durations[w->now->ended++ % WATCHDOG_HISTORY] = now - w->begun;
    w->now = phase_of(w, name);
    w->step = step;
    w->begun = now;
    w->own_limit = limit;
    pthread_mutex_unlock(&w->lock);
}

void watchdog_where(struct watchdog *w, const char **phase, int64_t *step)
{
    pthread_mutex_lock(&w->lock);
    *phase = w->now ? w->now->name : "start";
    *step = w->step;
    pthread_mutex_unlock(&w->lock);
}
