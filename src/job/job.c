#include "job/job_private.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "job/crash.h"
#include "job/heartbeat.h"
#include "job/launch.h"
#include "job/mpi_calls.h"

/* Ranks that one rank opens connections to at the same time. */
enum { CONNECT_AT_ONCE = 64 };

static volatile sig_atomic_t stop_signal;

static void remember_signal(int number)
{
    stop_signal = number;
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = remember_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

bool job_stop_requested(const struct job *job)
{
    (void)job;
    return stop_signal != 0;
}

bool job_asked_to_end(const struct job *job)
{
    (void)job;
    return stop_signal == SIGTERM;
}

const char *job_stop_reason(const struct job *job)
{
    (void)job;
    switch (stop_signal) {
    case SIGUSR1: return "SIGUSR1 (time limit near)";
    case SIGTERM: return "SIGTERM (preempted or cancelled)";
    default: return NULL;
    }
}

/* An abort that the MPI library asks for (MPI_Abort, or a fatal error of its own). */
static void abort_from_mpi(void *context, int exitcode)
{
    (void)context;
    pmix_client_abort(exitcode, "the MPI library aborted");
    _exit(exitcode ? exitcode : EXIT_CODE_FAILED);
}

static cairn_err start_pmix(struct job *job)
{
    TRY(pmix_client_open(&job->pmix));
    if (job->path != LAUNCH_PMIX_BRIDGE)
        return CAIRN_OK;
    struct pmi_exchange exchange = pmix_client_exchange(job->pmix);
    return pmi_bridge_open(pmix_client_name(job->pmix), pmix_client_rank(job->pmix), pmix_client_size(job->pmix),
                           pmix_client_node_of(job->pmix), &exchange, abort_from_mpi, &job->bridge);
}

static cairn_err start_mpi(struct job *job)
{
    int started, provided;
    MPI_Initialized(&started);
    if (!started) {
        TRY(mpi_check(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread"));
        job->mpi_started_here = true;
        MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN); /* MPICH reports requests' errors there, whatever their communicator */
    }
    crash_at_once();
    catch_signals(); /* MPICH takes SIGUSR1 for news of dead ranks, and a lone one then starts an mpiexec to ask for them */
    if (job->bridge)
        pmi_bridge_hide();
    TRY(mpi_check(MPI_Comm_dup(MPI_COMM_WORLD, &job->comm), "copying MPI_COMM_WORLD"));
    MPI_Comm_set_errhandler(job->comm, MPI_ERRORS_RETURN);
    MPI_Comm_rank(job->comm, &job->rank);
    MPI_Comm_size(job->comm, &job->size);
    job->number = launch_is_own_worker() ? launch_own_number() : job->rank;
    return CAIRN_OK;
}

/* A launcher that says N ranks and an MPI library that says 1: each rank would train alone over the others' files. Only the
 * first has a message. */
static cairn_err check_size(const struct job *job)
{
    int task = 0, tasks = job->pmix ? pmix_client_size(job->pmix) : job->path == LAUNCH_ALONE ? launch_slurm_tasks(&task) : 0;
    if (job->pmix)
        task = pmix_client_rank(job->pmix);
    if (tasks == 0 || tasks == job->size)
        return CAIRN_OK;
    if (task != 0)
        return FAIL(CAIRN_ECONFIG, "%s", "");
    return FAIL(CAIRN_ECONFIG,
                "the launcher started %d tasks, but MPI knows of %d rank%s: start with srun --mpi=pmix (or --mpi=pmi2), or with the "
                "mpiexec of the MPI library that cairn was built with",
                tasks, job->size, job->size == 1 ? " in each" : "s");
}

/* Nodes are what the MPI library takes for one: the ranks that share memory. */
static cairn_err find_nodes(struct job *job)
{
    MPI_Comm local;
    TRY(mpi_check(MPI_Comm_split_type(job->comm, MPI_COMM_TYPE_SHARED, job->rank, MPI_INFO_NULL, &local),
                  "finding the ranks of this node"));
    MPI_Comm_rank(local, &job->local_rank);
    MPI_Comm_size(local, &job->local_size);
    int lowest = job->rank;
    cairn_err err = mpi_broadcast(&lowest, 1, MPI_INT, 0, local, "finding the ranks of this node");
    MPI_Comm_free(&local);
    TRY(err);
    job->node_of = malloc((size_t)job->size * sizeof *job->node_of);
    if (!job->node_of)
        return FAIL(CAIRN_ENOMEM, "no memory for the nodes of %d ranks", job->size);
    TRY(mpi_allgather(&lowest, 1, MPI_INT, job->node_of, job->comm, "exchanging the ranks' nodes"));
    for (int r = 0; r < job->size; r++)
        job->node_of[r] = job->node_of[r] == r ? job->nodes++ : job->node_of[job->node_of[r]];
    job->node = job->node_of[job->rank];
    return CAIRN_OK;
}

/* Exchanges a number with the ranks at distances FIRST..LAST-1, both ways, all at once: one after the other would wait for the
 * slowest rank each time. */
static cairn_err exchange_numbers(struct job *job, int first, int last, int *theirs)
{
    MPI_Request requests[2 * CONNECT_AT_ONCE];
    int count = 0;
    for (int distance = first; distance < last; distance++) {
        int from = (job->rank - distance + job->size) % job->size, to = (job->rank + distance) % job->size;
        TRY_MPI(MPI_Irecv(&theirs[distance - first], 1, MPI_INT, from, 0, job->comm, &requests[count++]));
        TRY_MPI(MPI_Isend(&job->rank, 1, MPI_INT, to, 0, job->comm, &requests[count++]));
    }
    return mpi_wait(requests, count, "connecting the ranks");
}

/* Opens a connection to every rank, both ways, pair by pair: an all-to-all of a few bytes would not do, MPI libraries forward
 * those over some of the ranks. */
static cairn_err connect_all(struct job *job)
{
    int theirs[CONNECT_AT_ONCE];
    for (int first = 1; first < job->size; first += CONNECT_AT_ONCE) {
        int last = first + CONNECT_AT_ONCE < job->size ? first + CONNECT_AT_ONCE : job->size;
        TRY(exchange_numbers(job, first, last, theirs));
        for (int distance = first; distance < last; distance++) {
            int from = (job->rank - distance + job->size) % job->size;
            if (theirs[distance - first] != from)
                return FAIL(CAIRN_EMPI, "connecting the ranks: rank %d answers as rank %d", from, theirs[distance - first]);
        }
    }
    return mpi_barrier(job->comm, "connecting the ranks");
}

static void log_start(struct job *job, double seconds)
{
    if (launch_is_own_worker())
        log_set_worker(job->number, job->host);
    else if (job->size > 1)
        log_set_rank(job->rank, job->host);
    if (job->rank != 0 || launch_is_own_worker())
        return;
    char fences[32] = "";
    if (job->bridge)
        snprintf(fences, sizeof fences, " (%d fences)", pmi_bridge_fences(job->bridge));
    log_info("%d rank%s on %d node%s, launched: %s%s, connected in %.1f s", job->size, job->size > 1 ? "s" : "", job->nodes,
             job->nodes > 1 ? "s" : "", launch_path_name(job->path), fences, seconds);
}

/* After a failed start. With other ranks in it nothing is finalized, since that could wait for them for ever: the launcher sees this
 * process end without it and ends the others. */
static void job_discard(struct job *job)
{
    if (job->size > 1)
        return;
    if (job->mpi_started_here)
        MPI_Finalize();
    pmi_bridge_close(job->bridge);
    if (job->pmix)
        pmix_client_finalize();
    free(job->node_of);
    free(job);
}

/* The launcher's descriptor, for job_abort. Read before the bridge sets its own. */
static int launcher_pmi_fd(void)
{
    const char *fd = getenv("PMI_FD");
    return fd && *fd ? atoi(fd) : -1;
}

cairn_err job_open(struct job **out)
{
    double begin = clock_seconds();
    struct job *job = calloc(1, sizeof *job);
    if (!job)
        return FAIL(CAIRN_ENOMEM, "no memory for the job");
    cairn_err err;
    job->comm = MPI_COMM_NULL;
    if (launch_is_own_worker())
        launch_detach();
    job->path = launch_discover();
    job->pmi_fd = launcher_pmi_fd();
    launch_host(job->path, job->host, sizeof job->host);
    catch_signals();
    if (job->path == LAUNCH_PMIX || job->path == LAUNCH_PMIX_BRIDGE)
        TRY_GOTO(err, start_pmix(job), failed);
    TRY_GOTO(err, start_mpi(job), failed);
    TRY_GOTO(err, check_size(job), failed);
    TRY_GOTO(err, find_nodes(job), failed);
    TRY_GOTO(err, connect_all(job), failed);
    if (job->rank == 0 && !launch_is_own_worker())
        job->time_left = time_left_open();
    log_start(job, clock_seconds() - begin);
    *out = job;
    return CAIRN_OK;
failed:
    job_discard(job);
    return err;
}

int job_rank(const struct job *job)
{
    return job->rank;
}

int job_size(const struct job *job)
{
    return job->size;
}

int job_node(const struct job *job)
{
    return job->node;
}

int job_nodes(const struct job *job)
{
    return job->nodes;
}

int job_local_rank(const struct job *job)
{
    return job->local_rank;
}

int job_local_size(const struct job *job)
{
    return job->local_size;
}

int job_node_of(const struct job *job, int rank)
{
    return job->node_of[rank];
}

const char *job_host(const struct job *job)
{
    return job->host;
}

enum launch_path job_launch_path(const struct job *job)
{
    return job->path;
}

MPI_Comm job_comm(const struct job *job)
{
    return job->comm;
}

int job_fences(const struct job *job)
{
    return job->bridge ? pmi_bridge_fences(job->bridge) : -1;
}

double job_seconds_left(struct job *job)
{
    return job->time_left ? time_left_seconds(job->time_left) : -1;
}

cairn_err job_watchdog_start(struct job *job, double heartbeat_seconds, double hang_factor, double hang_seconds)
{
    return watchdog_start(&job->watchdog, job, heartbeat_seconds, (struct hang_rule){hang_factor, hang_seconds});
}

void job_phase(struct job *job, const char *name, int64_t step, double limit)
{
    watchdog_phase(&job->watchdog, name, step, limit);
}

void job_report_restored(struct job *job, int64_t step)
{
    heartbeat_send(HEARTBEAT_RESTORE, job->number, job->host, step, "restore", "");
}

void job_report_committed(struct job *job, int64_t step)
{
    heartbeat_send(HEARTBEAT_COMMIT, job->number, job->host, step, "checkpoint", "");
}

void job_report_servers(struct job *job, const char *servers)
{
    heartbeat_send(HEARTBEAT_SERVERS, job->number, job->host, 0, "serve", servers);
    watchdog_servers(&job->watchdog, servers);
}

int job_number(const struct job *job)
{
    return job->number;
}
