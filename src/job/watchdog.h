/* The rule by which a rank is taken for hung, as pure functions of a clock that the caller reads, and the thread that applies it. */
#ifndef JOB_WATCHDOG_H
#define JOB_WATCHDOG_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct hang_rule {
    double factor;  /* a phase this many times its median is a hang ... */
    double seconds; /* ... but never before so many seconds */
};

enum {
    PHASE_KINDS = 16,   /* names told apart; phases beyond have no median of their own */
    PHASE_FIRST = 3,    /* so many of a kind have to end before their median counts */
    PHASE_HISTORY = 63, /* newest durations of a phase kept; odd, so that the median is one of them */
};

/* What is known of one kind of phase. */
struct phase_history {
    const char *name;
    double seconds[PHASE_HISTORY];
    int64_t count; /* ever */
};

struct phase_watch {
    struct phase_history kinds[PHASE_KINDS];
    const char *name; /* of the current phase; NULL: none */
    int64_t step;
    double begin, limit; /* its own limit; 0: by the rule */
    double last_look;    /* of phase_watch_look; 0: none yet */
};

/* A phase begins at NOW; the one before it ends. */
void phase_watch_enter(struct phase_watch *w, const char *name, int64_t step, double limit, double now);

/* Median of the newest durations of phase NAME; 0 if none has ended. */
double phase_watch_median(const struct phase_watch *w, const char *name);

/* Seconds that the current phase may last. The first ones of a kind may be slow (libraries plan, files are read for the first
 * time) and have a fixed limit of ten minutes, or the rule's if that is longer. */
double phase_watch_limit(const struct phase_watch *w, struct hang_rule rule);

/* Called every PERIOD seconds or so. True when the current phase is a hang; *SECONDS is how long it has lasted. A look that
 * comes far too late means that the whole process stood still (SIGSTOP, a suspended job): that time does not count. */
bool phase_watch_look(struct phase_watch *w, struct hang_rule rule, double period, double now, double *seconds);

/* The current or last phase, where the rank stands and why it is taken for a hang, as one line. */
void phase_watch_describe(const struct phase_watch *w, struct hang_rule rule, int rank, const char *host, double seconds, char *out,
                          size_t size);

/* ---- the thread ---- */

struct job;

struct watchdog {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct phase_watch watch;
    struct job *job;
    struct hang_rule rule;
    double heartbeat_seconds;
    char servers[512]; /* told with each heartbeat; empty: none */
    bool running, stopping;
    pthread_t thread;
};

cairn_err watchdog_start(struct watchdog *w, struct job *job, double heartbeat_seconds, struct hang_rule rule);

/* Does nothing unless it runs. */
void watchdog_phase(struct watchdog *w, const char *name, int64_t step, double limit);

/* Tells SERVERS (job/heartbeat.h) with each heartbeat from now on, if it runs. */
void watchdog_servers(struct watchdog *w, const char *servers);

/* No hang is declared after this; returns when the thread has ended. */
void watchdog_stop(struct watchdog *w);

/* The current phase's name and step (NULL and 0 if none). */
const char *watchdog_where(struct watchdog *w, int64_t *step);

#endif
