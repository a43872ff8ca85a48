/* One launch of the ranks: started, watched, ended. Of a parameter server the ranks are the servers, and the workers come on top. */
#ifndef SLURM_LAUNCH_H
#define SLURM_LAUNCH_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "slurm/allocation.h"
#include "slurm/decide.h"
#include "slurm/output.h"
#include "slurm/ranks.h"
#include "slurm/workers.h"

struct launch_rank {
    double seen;      /* when it was heard last; 0: never */
    char host[64];
    int64_t step;
    char phase[32];
    bool left;        /* said that it leaves, or that it ends the step */
};

struct launch {
    pid_t pid;
    struct output output;     /* the launcher's */
    int ranks, nodes;         /* that the launcher starts, and that these stand on */
    struct launch_rank *rank;
    char step_id[32];         /* JOB.STEP, as the ranks tell it; empty before */
    double begun;
    int64_t first_step;       /* the first training step that a rank entered; -1: none yet */
    int64_t step;             /* the newest */
    int64_t committed;        /* newest checkpoint that was told of in this launch; -1: none */
    char failure[512];        /* what a rank said when it aborted */
    bool aborted;             /* FAILURE is a rank's own word */
    char leave_reason[512];   /* why the ranks left in order, if one said so */
    int leaves, leave_code;   /* ranks that left in order, all having met before, and the code that the last one told */
    double ending_since;      /* when the first rank left or aborted: the launcher is to end soon; 0: none did */
    struct workers workers;   /* none unless the ranks are servers */
};

/* What happens while it runs; all may be NULL. */
struct launch_observer {
    void *context;
    void (*first_step)(void *context, const struct launch *launch);
    void (*restored)(void *context, int64_t step);
    void (*committed)(void *context, const struct launch *launch);
    void (*silent)(void *context, const struct launch *launch, int rank);
    void (*node_lost)(void *context, const struct launch *launch, const char *node);
    struct workers_observer workers;
};

/* Whether RANKS ranks on NODES nodes have more threads on a node than it has cores for them, as far as can be told. */
bool launch_is_crowded(const struct config *config, const struct allocation *allocation, int ranks, int nodes);

/* Starts RANK_PROGRAM (ends with NULL) on the first healthy nodes, with MARK (sweep.h) in its environment, and notes in ALLOCATION where
 * its ranks stand. Workers are started while it is watched, once the servers listen. */
cairn_err launch_start(const struct config *config, struct allocation *allocation, const struct ranks *ranks, const char *mark,
                       char *const *rank_program, struct launch *out);

/* Watches until it ends. STOP is called often; once it returns a cause, the ranks are asked to stop at a checkpoint. Marks nodes
 * that are found dead. Passes the ranks' output on. */
enum ending launch_watch(struct launch *launch, const struct config *config, struct allocation *allocation,
                         enum stop_cause (*stop)(void *context, bool *at_once), const struct launch_observer *observer, int *status);

/* How many ranks have been heard. */
int launch_heard(const struct launch *launch);

/* Makes sure that nothing of it is left, whatever state it is in. */
void launch_end(struct launch *launch, const struct allocation *allocation);

#endif
