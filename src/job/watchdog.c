#include "job/watchdog.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "job/heartbeat.h"
#include "job/job_private.h"

static const double first_limit = 600;

/* The thread looks this often. A look later than twice this is a process that stood still. */
static const double look_period = 0.5;

/* The history of NAME, or the place for it; NULL when all places are taken. */
static struct phase_history *find_kind(const struct phase_watch *w, const char *name)
{
    for (int i = 0; i < PHASE_KINDS; i++) {
        const struct phase_history *h = &w->kinds[i];
        if (!h->name || strcmp(h->name, name) == 0)
            return (struct phase_history *)h;
    }
    return NULL;
}

void phase_watch_enter(struct phase_watch *w, const char *name, int64_t step, double limit, double now)
{
    struct phase_history *h = w->name ? find_kind(w, w->name) : NULL;
    if (h) {
        h->name = w->name;
        h->seconds[h->count++ % PHASE_HISTORY] = now - w->begin;
    }
    w->name = name;
    w->step = step;
    w->begin = now;
    w->limit = limit;
}

static int compare_seconds(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double phase_watch_median(const struct phase_watch *w, const char *name)
{
    const struct phase_history *h = find_kind(w, name);
    if (!h || !h->name || h->count == 0)
        return 0;
    double sorted[PHASE_HISTORY];
    size_t count = h->count < PHASE_HISTORY ? (size_t)h->count : PHASE_HISTORY;
    memcpy(sorted, h->seconds, count * sizeof sorted[0]);
    qsort(sorted, count, sizeof sorted[0], compare_seconds);
    return sorted[count / 2];
}

double phase_watch_limit(const struct phase_watch *w, struct hang_rule rule)
{
    if (!w->name)
        return INFINITY;
    if (w->limit > 0)
        return w->limit;
    const struct phase_history *h = find_kind(w, w->name);
    double by_rule = fmax(rule.seconds, rule.factor * phase_watch_median(w, w->name));
    return h && h->count >= PHASE_FIRST ? by_rule : fmax(first_limit, by_rule);
}

bool phase_watch_look(struct phase_watch *w, struct hang_rule rule, double period, double now, double *seconds)
{
    double since = w->last_look > 0 ? now - w->last_look : 0;
    w->last_look = now;
    if (since > 2 * period)
        w->begin = fmin(now, w->begin + since - period);
    *seconds = w->name ? now - w->begin : 0;
    return w->name && *seconds > phase_watch_limit(w, rule);
}

void phase_watch_describe(const struct phase_watch *w, struct hang_rule rule, int rank, const char *host, double seconds, char *out,
                          size_t size)
{
    snprintf(out, size, "rank %d on %s is %.1f s in phase %s of step %lld (limit %.1f s, median %.1f s): taken for a hang", rank, host,
             seconds, w->name ? w->name : "none", (long long)w->step, phase_watch_limit(w, rule),
             w->name ? phase_watch_median(w, w->name) : 0);
}

/* Waits until SECONDS from now or the stop; the lock is held. */
static void wait_seconds(struct watchdog *w, double seconds)
{
    double until = clock_seconds() + seconds;
    while (!w->stopping && condition_wait_until(&w->wake, &w->lock, until))
        ;
}

/* Sent without the lock: a full pipe must not hold up the thread that trains. */
static void send_alive(struct watchdog *w)
{
    const char *name = w->watch.name;
    int64_t step = w->watch.step;
    char servers[sizeof w->servers];
    memcpy(servers, w->servers, sizeof servers);
    pthread_mutex_unlock(&w->lock);
    if (servers[0]) /* again and again: without it no worker comes, and a line may be lost or damaged */
        heartbeat_send(HEARTBEAT_SERVERS, w->job->number, w->job->host, step, "serve", servers);
    heartbeat_send(HEARTBEAT_ALIVE, w->job->number, w->job->host, step, name, getenv("SLURM_STEP_ID"));
    pthread_mutex_lock(&w->lock);
}

static void *watch(void *arg)
{
    struct watchdog *w = arg;
    double next_heartbeat = 0, seconds = 0;
    bool hung = false;
    char text[400];
    pthread_mutex_lock(&w->lock);
    while (!w->stopping && !hung) {
        double now = clock_seconds();
        if (now >= next_heartbeat) {
            send_alive(w);
            next_heartbeat = now + w->heartbeat_seconds;
        }
        hung = phase_watch_look(&w->watch, w->rule, look_period, clock_seconds(), &seconds);
        if (hung)
            phase_watch_describe(&w->watch, w->rule, w->job->rank, w->job->host, seconds, text, sizeof text);
        else
            wait_seconds(w, fmin(look_period, fmax(0.01, next_heartbeat - clock_seconds())));
    }
    pthread_mutex_unlock(&w->lock);
    if (hung) {
        log_error("%s; aborting", text);
        job_abort(w->job, EXIT_CODE_FAILED, text);
    }
    return NULL;
}

cairn_err watchdog_start(struct watchdog *w, struct job *job, double heartbeat_seconds, struct hang_rule rule)
{
    w->job = job;
    w->heartbeat_seconds = heartbeat_seconds;
    w->rule = rule;
    pthread_mutex_init(&w->lock, NULL);
    condition_init(&w->wake);
    w->running = true;
    int code = thread_start(&w->thread, watch, w);
    w->running = code == 0;
    return code ? FAIL(CAIRN_ESYS, "cannot start the watchdog: %s", strerror(code)) : CAIRN_OK;
}

void watchdog_phase(struct watchdog *w, const char *name, int64_t step, double limit)
{
    if (!w->running)
        return;
    pthread_mutex_lock(&w->lock);
    phase_watch_enter(&w->watch, name, step, limit, clock_seconds());
    pthread_mutex_unlock(&w->lock);
}

void watchdog_servers(struct watchdog *w, const char *servers)
{
    if (!w->running)
        return;
    pthread_mutex_lock(&w->lock);
    snprintf(w->servers, sizeof w->servers, "%s", servers);
    pthread_mutex_unlock(&w->lock);
}

void watchdog_stop(struct watchdog *w)
{
    if (!w->running)
        return;
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    w->running = false;
}

const char *watchdog_where(struct watchdog *w, int64_t *step)
{
    *step = 0;
    if (!w->running)
        return NULL;
    pthread_mutex_lock(&w->lock);
    const char *name = w->watch.name;
    *step = w->watch.step;
    pthread_mutex_unlock(&w->lock);
    return name;
}
