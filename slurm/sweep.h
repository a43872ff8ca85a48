/* Processes of an earlier launch that are still there: a node whose launcher was killed may run its ranks on. Two sets
 * of ranks must never write to one run's folder. */
#ifndef SLURM_SWEEP_H
#define SLURM_SWEEP_H

#include <stdbool.h>

/* The mark that a launch's processes carry in their environment: NAME=JOB.NUMBER. */
#define SWEEP_MARK "CAIRN_LAUNCH"

/* Kills, on this machine, every process of any launch of JOB and waits until they are gone, at most SECONDS.
 * Returns how many are left, -1 when /proc cannot be read. */
int sweep_kill(const char *job, double seconds);

/* Whether a process of rank RANK of any launch of JOB is on this machine, be it stopped or stuck. */
bool sweep_has_rank(const char *job, int rank);

#endif
