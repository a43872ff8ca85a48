/* Where the supervisor runs: the nodes of a Slurm allocation, or this machine. */
#ifndef SLURM_ALLOCATION_H
#define SLURM_ALLOCATION_H

#include <stdbool.h>

#include "base/config.h"
#include "base/error.h"

struct allocation_node {
    char name[64];
    bool healthy;
    double lost_at;   /* clock_seconds when it was last found not to answer; 0: never */
    int ranks;        /* that the launcher has on it; a parameter server's workers are not counted */
};

struct allocation {
    bool slurm;
    char job_id[96];               /* without Slurm a name that no other supervisor of this machine has */
    struct allocation_node *nodes; /* one, this machine, without Slurm */
    int count;
    char *given_back;              /* names by commas of nodes that are not the job's any more; NULL: none */
    char own[4096];                /* this program, by which nodes are swept; read once: an update renames it */
    long tasks;                    /* on all nodes */
    long tasks_per_node, cpus_per_task; /* cpus_per_task 0: not given */
    double end;                    /* clock_seconds when Slurm ends it, as last told; 0: not known */
    long cpus_per_node;            /* that the job may use, on the node with the fewest; 0: not known */
};

/* Reads the environment of a batch script, and asks scontrol for the list of nodes. */
cairn_err allocation_find(const struct config *config, struct allocation *out);
void allocation_free(struct allocation *allocation);

/* The fewest CPUs that a node has in Slurm's list of them, "8(x2),4" for instance; 0 if it is none. */
long allocation_fewest_cpus(const char *list);

/* Whether slurmctld answers, within some seconds; true without Slurm. */
bool allocation_has_controller(const struct allocation *allocation);

/* Seconds until Slurm ends the allocation; negative when that is not known, or never. Takes a few seconds at most, and notes the end. */
double allocation_seconds_left(struct allocation *allocation);

/* Asks all nodes at once whether a step can run on them, and notes who is healthy; a few seconds at most. Nodes found lost within
 * the last half minute are not asked again. Returns how many nodes that were healthy are not any more, or -1, nothing noted, when
 * slurmctld does not answer, without which no node can be asked, or none answers, this one neither. */
int allocation_probe(struct allocation *allocation);

/* Gives the nodes that are not healthy back to Slurm, so that their death does not end the job: Slurm would requeue it SlurmdTimeout
 * after, or with sbatch --no-kill never requeue it when the batch host dies. Where the site does not allow it, nothing changes. */
void allocation_shrink(struct allocation *allocation);

/* The same by a step that kills what is left there of this job's ranks (sweep.h): a node that answers but cannot be swept clean
 * is not healthy. Without Slurm it sweeps this machine. */
int allocation_sweep(struct allocation *allocation);

/* Whether NODE, which answers, has a process of RANK of this job. True when that cannot be told. */
bool allocation_has_rank(const struct allocation *allocation, const char *node, int rank);

/* Whether a node that is not healthy has a rank on it. */
bool allocation_lost_ranks(const struct allocation *allocation);

int allocation_healthy(const struct allocation *allocation);
struct allocation_node *allocation_node(struct allocation *allocation, const char *name);

/* "node1,node2" of the healthy ones, or of the others, those given back among them; the caller frees. */
char *allocation_list(const struct allocation *allocation, bool healthy);

/* The same of the first COUNT healthy ones. */
char *allocation_first(const struct allocation *allocation, int count);

#endif
