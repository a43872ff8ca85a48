/* How often to write checkpoints: J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", Future
 * Generation Computer Systems 22 (2006), equation 37. Pure functions. */
#ifndef PLAN_CHECKPOINT_INTERVAL_H
#define PLAN_CHECKPOINT_INTERVAL_H

/* Seconds of work between checkpoints that each take WRITE seconds, when failures come every MTBF seconds on average:
 *   sqrt(2 w M) (1 + sqrt(w / 2M) / 3 + (w / 2M) / 9) - w   for w < 2 M,   else M. */
double checkpoint_interval_daly(double write_seconds, double mtbf_seconds);

/* The share of time that is lost to checkpoints, restarts and work done again, to first order in 1 / MTBF: writing, and for each failure
 * a restart and half an interval. */
double checkpoint_interval_loss(double interval_seconds, double write_seconds, double restart_seconds, double mtbf_seconds);

#endif
