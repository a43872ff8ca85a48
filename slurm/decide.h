/* What to do when a launch has ended: a table, without any doing. */
#ifndef SLURM_DECIDE_H
#define SLURM_DECIDE_H

#include <stdbool.h>
#include <stddef.h>

enum ending {
    ENDING_DONE,       /* exit code 0 */
    ENDING_STOPPED,    /* exit code 75: at a checkpoint, on a signal to the supervisor or to a rank */
    ENDING_USAGE,      /* exit code 2: bad usage or config */
    ENDING_FAILED,     /* another exit code, a signal, an abort */
    ENDING_SILENT,     /* a rank said nothing for too long, its node is fine */
    ENDING_NODE_LOST,  /* a node does not answer */
    ENDING_NO_START,   /* the launcher could not start the ranks */
    ENDING_NO_CONTROLLER, /* the same, since slurmctld was away */
    ENDING_TOO_FEW,    /* not begun: the layout needs more ranks than fit on the healthy nodes */
    ENDING_COUNT
};

const char *ending_name(enum ending ending);

enum action {
    ACTION_FINISH,     /* all done */
    ACTION_RESTART,    /* again, here, on the nodes that are left */
    ACTION_REQUEUE,    /* again, in another allocation; without Slurm: leave with the code that asks for it */
    ACTION_LEAVE,      /* leave with the code that asks to be started again; Slurm requeues or cancels by itself */
    ACTION_FAIL,       /* starting again would not help */
    ACTION_HOLD        /* keeps failing: requeue held, with the reason; without Slurm: fail */
};

const char *action_name(enum action action);

enum stop_cause { STOP_NONE, STOP_TIME_LIMIT, STOP_TERMINATED, STOP_USER };

struct situation {
    enum ending ending;
    enum stop_cause stop;         /* what the supervisor was asked */
    long without_progress;        /* launches in a row that failed or stopped with no newer checkpoint, this one included */
    long max_restarts;
    bool committed_here;          /* a newer checkpoint since the supervisor began, in this allocation */
    int same_failure;             /* launches in a row that failed at the same step with the same text, this one included */
    const char *short_of;         /* why the ranks that healthy nodes can hold are too few; NULL or empty: they are not */
    bool first_start;             /* nobody has launched ranks of this job before, and no node of it is lost */
    bool controller_lost;         /* slurmctld was waited for in vain */
    bool record_lost;             /* events.jsonl cannot be written: the next turn would not know how often there was no progress */
    double seconds_left;          /* of the allocation, where the ranks stopped unasked; negative: not known */
};

/* How many seconds ranks that are asked to stop may take for their checkpoint, in an allocation that ends in LEFT seconds (negative:
 * not known): what follows, the requeue above all, is to be done before Slurm kills the job. */
double decide_stop_seconds(double left);

/* How many seconds all of Slurm's commands of a requeue or a hold may take together, in an allocation that ends in LEFT seconds
 * (negative: not known). */
double decide_command_seconds(double left);

/* The action, and its reason as a sentence for people in REASON. */
enum action decide(const struct situation *situation, char *reason, size_t size);

#endif
