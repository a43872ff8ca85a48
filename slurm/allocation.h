/* Where the supervisor runs: the nodes of a Slurm allocation, or this machine. */
#ifndef SLURM_ALLOCATION_H
#define SLURM_ALLOCATION_H

#include <stdbool.h>

#include "base/config.h"
#include "base/error.h"

struct allocation_node {
    char name[64];
    bool healthy;
};

struct allocation {
    bool slurm;
    char job_id[32];
    struct allocation_node *nodes; /* one, this machine, without Slurm */
    int count;
    long tasks_per_node, cpus_per_task; /* cpus_per_task 0: not given */
};

/* Reads the environment of a batch script, and asks scontrol for the list of nodes. */
cairn_err allocation_find(const struct config *config, struct allocation *out);
void allocation_free(struct allocation *allocation);

/* Asks all nodes at once whether a step can run on them, and notes who is healthy; a few seconds at most. Returns how many nodes that
 * were healthy are not any more. */
int allocation_probe(struct allocation *allocation);

/* Gives the nodes that are not healthy back to Slurm, so that their death does not end the job: Slurm would requeue it SlurmdTimeout
 * after, or with sbatch --no-kill never requeue it when the batch host dies. Where the site does not allow it, nothing changes. */
void allocation_shrink(struct allocation *allocation);

int allocation_healthy(const struct allocation *allocation);
struct allocation_node *allocation_node(struct allocation *allocation, const char *name);

/* "node1,node2" of the healthy ones, or of the others; the caller frees. */
char *allocation_list(const struct allocation *allocation, bool healthy);

#endif
