/* Who am I among the ranks of this job: start-up through PMIx (with the PMI bridge for an MPI that does not know it),
 * the MPI launcher, or alone; signals, time left, and the way out.
 *
 * All MPI calls of a process come from the thread that opened the job. */
#ifndef JOB_JOB_H
#define JOB_JOB_H

#include <mpi.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/exit_code.h"

enum launch_path {
    LAUNCH_ALONE,       /* one rank, no launcher */
    LAUNCH_PMIX,        /* PMIx, and the MPI library speaks it by itself */
    LAUNCH_PMIX_BRIDGE, /* PMIx, with our PMI-1 bridge under the MPI library */
    LAUNCH_PMI,         /* srun --mpi=pmi2 or another launcher that the MPI library speaks by itself */
    LAUNCH_MPIEXEC,     /* the MPI library's own mpiexec */
};

struct job;

/* Finds out how this process was started, initialises PMIx and MPI, opens a connection to every other rank (an all-to-all and a
 * barrier: half-open connections make UCX 1.13 hang in MPI_Finalize, openucx/ucx#8738), and logs ranks, nodes and
 * launch path once, from rank 0. Fails with CAIRN_ECONFIG if a launcher says N tasks and MPI says 1, with the mend in the message of
 * the first task; the message of the others is empty, and they say nothing. */
cairn_err job_open(struct job **out);

int job_rank(const struct job *job);
int job_size(const struct job *job);
int job_node(const struct job *job);       /* index of this rank's node, 0.. in order of their lowest ranks */
int job_nodes(const struct job *job);
int job_local_rank(const struct job *job); /* among the ranks of its node */
int job_local_size(const struct job *job);
int job_node_of(const struct job *job, int rank);
const char *job_host(const struct job *job);
enum launch_path job_launch_path(const struct job *job);
const char *launch_path_name(enum launch_path path);
MPI_Comm job_comm(const struct job *job);  /* all ranks, in their order; errors return */

/* Whether every rank shall stop at the next agreed point: SIGUSR1 or SIGTERM came to this rank. A flag; nothing else
 * happens in the handler. */
bool job_stop_requested(const struct job *job);
bool job_asked_to_end(const struct job *job); /* it was SIGTERM */
const char *job_stop_reason(const struct job *job); /* "SIGUSR1 (time limit near)", "SIGTERM (preempted or cancelled)" */

/* Fences that the PMI bridge has made so far, the same number whatever the count of ranks; -1 without the bridge. */
int job_fences(const struct job *job);

/* Seconds until the allocation ends, asked of Slurm at most once a minute, from rank 0 alone; negative on the other ranks and
 * when not known or unlimited. Never waits: until Slurm's first answer it is not known. */
double job_seconds_left(struct job *job);

/* ---- the watchdog: a thread per rank ----
 * It sends a heartbeat to the supervisor (job/heartbeat.h) and watches that the rank goes on: a phase that lasts longer
 * than max(hang_seconds, hang_factor * median duration of that phase so far; ten minutes before there is a median) is a hang: it logs where the rank stands and
 * aborts the job step. */
cairn_err job_watchdog_start(struct job *job, double heartbeat_seconds, double hang_factor, double hang_seconds);

/* The rank enters phase NAME (static string: "step", "restore", "checkpoint", "validate", ...) of training step STEP.
 * Cheap: a few stores under a lock that is almost never held. Each call ends the phase before it. Phases whose length is not
 * known ahead are given their own limit in seconds by LIMIT > 0 (0: by the rule above). NAME NULL: none, nothing is watched.
 * Without a watchdog it does nothing. */
void job_phase(struct job *job, const char *name, int64_t step, double limit);

/* The number that the supervisor knows this process by: its rank, or that of a worker of its own (server/roles.h). */
int job_number(const struct job *job);

/* Tells the supervisor, now and with each heartbeat, what workers need to reach the servers; see job/heartbeat.h. */
void job_report_servers(struct job *job, const char *servers);

/* Say on the supervisor's channel that the run goes on from checkpoint STEP (0: from the start), and that checkpoint STEP is committed;
 * see job/heartbeat.h. */
void job_report_restored(struct job *job, int64_t step);
void job_report_committed(struct job *job, int64_t step);

/* ---- the ways out ---- */

/* Leaves with CODE after all ranks met (a PMIx fence or MPI barrier): MPI and PMIx are finalized under a time
 * limit of a few seconds each; what is not done then is left undone, since nothing of the job depends on it any more. */
_Noreturn void job_leave(struct job *job, int code);

/* The same, and tells the supervisor REASON: an error that all ranks know of. One rank's word is enough; NULL or "" on the others. */
_Noreturn void job_leave_because(struct job *job, int code, const char *reason);

/* Ends the whole job step now from this rank: tells the supervisor REASON, aborts through PMIx or MPI, and leaves with
 * CODE however those behave. From any thread. */
_Noreturn void job_abort(struct job *job, int code, const char *reason);

#endif
