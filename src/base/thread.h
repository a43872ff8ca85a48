/* Threads beside the one that trains. */
#ifndef BASE_THREAD_H
#define BASE_THREAD_H

#include <pthread.h>
#include <stdbool.h>

/* Starts a thread that takes no signals: those are for the thread that trains. Returns what pthread_create does. */
int thread_start(pthread_t *thread, void *(*run)(void *argument), void *argument);

/* A condition for condition_wait_until. */
void condition_init(pthread_cond_t *condition);

/* Waits, with LOCK held, until clock_seconds() (base/clock.h) is UNTIL at the latest; false when it is. */
bool condition_wait_until(pthread_cond_t *condition, pthread_mutex_t *lock, double until);

#endif
