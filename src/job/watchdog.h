/* The thread that says this rank lives, and that notices when it does not go on (job.h tells the rule). */
#ifndef JOB_WATCHDOG_H
#define JOB_WATCHDOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct watchdog;

enum { WATCHDOG_HISTORY = 64 }; /* durations of a phase that the median is taken over */

struct watchdog_options {
    int rank;
    const char *host; /* outlives the watchdog */
    double heartbeat_seconds, hang_factor, hang_seconds;
    void (*hang)(void *context, const char *report); /* called once, from the thread */
    void *context;
};

cairn_err watchdog_start(const struct watchdog_options *options, struct watchdog **out);
void watchdog_stop(struct watchdog *watchdog);
void watchdog_phase(struct watchdog *watchdog, const char *name, int64_t step, double limit);
void watchdog_where(struct watchdog *watchdog, const char **phase, int64_t *step);

/* The rule: how long a phase may last whose last COUNT durations (in any order) are given. */
double watchdog_limit(const double *durations, int count, double hang_factor, double hang_seconds);

#endif
