/* How many threads a rank takes where the config leaves them open. */
#ifndef JOB_THREADS_H
#define JOB_THREADS_H

/* What Slurm gave its task (GIVEN; 0: not told), else the BOUND cores that it may run on, else, when those are all of the node's ONLINE
 * ones, its share among RANKS of the node; at least 1. */
int threads_of_rank(int given, int bound, int online, int ranks);

/* Of this process. */
int threads_bound(void);
int threads_online(void);

#endif
