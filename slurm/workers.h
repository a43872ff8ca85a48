/* A parameter server's workers: each a process of its own (under Slurm a step of its own on one node), so that one that dies takes
 * nobody along. It is started again while the servers go on, on any healthy node that has room. */
#ifndef SLURM_WORKERS_H
#define SLURM_WORKERS_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/config.h"
#include "slurm/allocation.h"
#include "slurm/command.h"
#include "slurm/output.h"

/* What servers and workers find in their environment. */
#define WORKERS_COUNT "CAIRN_WORKERS"   /* servers: how many workers come */
#define WORKERS_NUMBER "CAIRN_WORKER"   /* workers: which of them, from 0 */
#define WORKERS_SERVERS "CAIRN_SERVERS" /* workers: what the servers have told; has a secret in it */

enum worker_state {
    WORKER_DUE,  /* to be started */
    WORKER_RUNS,
    WORKER_LEFT, /* in order */
    WORKER_LOST  /* for the rest of this launch */
};

struct worker {
    int number;
    enum worker_state state;
    pid_t pid;                /* of the process, or of the srun in front of it */
    struct output output;
    char node[64];
    char step_id[32];         /* JOB.STEP, as it tells it; empty before */
    double begun, seen;       /* when it was started and heard last; 0: never */
    int64_t first_step, step; /* that it has said to train; -1: none */
    bool goes;                /* is among those that are being ended */
    int leave_code;           /* that it said to leave with; -1: it did not */
    char reason[512];         /* why it ends, in its own words */
    int fruitless;            /* lives in a row, up to now, in which it did no step */
    double due;               /* WORKER_DUE: not before */
};

/* What happens; all may be NULL. */
struct workers_observer {
    void *context;
    void (*started)(void *context, const struct worker *worker);
    /* WHY as the end of a sentence; AGAIN: it will be started again. */
    void (*lost)(void *context, const struct worker *worker, const char *why, bool again);
};

struct workers {
    const struct config *config;
    struct allocation *allocation;
    char *const *program;
    char mark[160];
    bool calm;                /* OMP_WAIT_POLICY=passive for them */
    int count;
    struct worker *worker;
    char *servers;            /* that they are to find; NULL: these do not listen yet */
    bool ending;              /* the servers leave: none is started again */
    double controller_away;   /* slurmctld did not answer, and is not asked again before; 0: it did */
    struct workers_observer observer;
    struct pollfd *poll;      /* for workers_wait */
};

/* COUNT workers that run PROGRAM (ends with NULL, kept as is) with MARK (sweep.h) in their environment. None is started yet. */
cairn_err workers_open(struct workers *out, const struct config *config, struct allocation *allocation, int count, const char *mark,
                       bool calm, char *const *program);

/* The servers listen, and told SERVERS; the newest word counts. */
void workers_call(struct workers *workers, const char *servers);

/* Waits until OUTPUT or a worker's output has something, MILLISECONDS at most. Works without workers too. */
void workers_wait(struct workers *workers, int output, int milliseconds);

/* Takes in what workers say, notices those that have ended, starts those that are due. To be called often. */
void workers_tend(struct workers *workers);

/* The running one that has been silent longest, and for how long; NULL: none runs. */
struct worker *workers_most_silent(const struct workers *workers, double *silence);

/* Ends WORKER, which hangs: WHY as the end of a sentence. It is started again as one that has died is. */
void workers_end(struct workers *workers, struct worker *worker, const char *why);

/* Those on nodes that are not healthy are lost; they come back on others where there is room. */
void workers_leave_nodes(struct workers *workers);

/* The newest step that a running one has told to be at; -1: none. */
int64_t workers_step(const struct workers *workers);

int workers_running(const struct workers *workers);

/* The last of them that was lost, if all are lost and none has left in order; else NULL. */
const struct worker *workers_all_lost(const struct workers *workers);

/* Adds the ids of the steps of all that run. */
void workers_add_steps(const struct workers *workers, struct command *command);

/* Kills what runs, on this machine; other nodes' tasks end by their steps' cancelling. */
void workers_kill(struct workers *workers);

void workers_free(struct workers *workers);

#endif
