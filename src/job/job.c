#include "job/job.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "job/heartbeat.h"
#include "job/launch.h"
#include "job/pmi_bridge.h"
#include "job/watchdog.h"

/* What may hang at the end is waited for so long, in seconds; the job's results are safe by then. */
enum { LEAVE_SECONDS = 10, ABORT_SECONDS = 3 };

struct job {
    enum launch_path path;
    struct pmix_client *pmix;   /* NULL without PMIx */
    struct pmi_bridge *bridge;  /* NULL without */
    int rank, size;
    int *node_of;               /* by rank */
    int nodes, local_rank, local_size;
    char host[64];
    struct watchdog *watchdog;
    double asked_time_left, ends_at; /* monotonic seconds; 0: not asked yet, not known */
};

static volatile sig_atomic_t stop_signal;

static void note_stop(int signal_number)
{
    stop_signal = signal_number;
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = note_stop, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

static void bridge_abort(void *context, int code)
{
    job_abort(context, code ? code : EXIT_CODE_FAILED, "the MPI library asked for the end of the job");
}

/* MPI up, on whichever path the environment shows. */
static cairn_err start_mpi(struct job *job)
{
    char version[MPI_MAX_LIBRARY_VERSION_STRING];
    int length, provided;
    MPI_Get_library_version(version, &length);
    job->path = launch_detect(version);
    if (job->path == LAUNCH_PMIX || job->path == LAUNCH_PMIX_BRIDGE)
        TRY(pmix_client_open(&job->pmix));
    if (job->path == LAUNCH_PMIX_BRIDGE)
        TRY(pmi_bridge_start(job->pmix, bridge_abort, job, &job->bridge));
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS)
        return FAIL(CAIRN_EMPI, "MPI_Init failed");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &job->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &job->size);
    return CAIRN_OK;
}

/* Never go on as N lonely copies. Only one of them tells; the others' message is empty. */
static cairn_err check_size(const struct job *job)
{
    int tasks = job->pmix ? pmix_client_size(job->pmix) : launch_slurm_tasks();
    if (job->size > 1 || tasks <= 1)
        return CAIRN_OK;
    if (launch_slurm_task() != 0)
        return FAIL(CAIRN_EPEER, "%s", "");
    return FAIL(CAIRN_ECONFIG, "srun started %d tasks, but the MPI library sees one rank: start with 'srun --mpi=pmix' or 'srun --mpi=pmi2' "
                "('srun --mpi=list' shows what this Slurm has)", tasks);
}

/* Nodes as MPI sees them (ranks that can share memory), numbered by their lowest rank. */
static cairn_err map_nodes(struct job *job)
{
    MPI_Comm local;
    int lowest = job->rank;
    job->node_of = malloc((size_t)job->size * sizeof *job->node_of);
    if (!job->node_of)
        return FAIL(CAIRN_ENOMEM, "no memory for the map of nodes");
    if (MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &local) != MPI_SUCCESS)
        return FAIL(CAIRN_EMPI, "cannot tell which ranks share a node");
    MPI_Comm_rank(local, &job->local_rank);
    MPI_Comm_size(local, &job->local_size);
    MPI_Bcast(&lowest, 1, MPI_INT, 0, local);
    MPI_Comm_free(&local);
    MPI_Allgather(&lowest, 1, MPI_INT, job->node_of, 1, MPI_INT, MPI_COMM_WORLD);
    for (int r = 0; r < job->size; r++) /* a node's lowest rank comes first, and knows its number by then */
        job->node_of[r] = job->node_of[r] == r ? job->nodes++ : job->node_of[job->node_of[r]];
    return CAIRN_OK;
}

/* Opens a connection to every rank: with UCX 1.13 over TCP, connections still half open at MPI_Finalize make it hang. */
static cairn_err connect_all(const struct job *job)
{
    int *out = calloc((size_t)job->size * 2, sizeof *out);
    if (!out)
        return FAIL(CAIRN_ENOMEM, "no memory to connect");
    int code = MPI_Alltoall(out, 1, MPI_INT, out + job->size, 1, MPI_INT, MPI_COMM_WORLD);
    free(out);
    if (code == MPI_SUCCESS)
        code = MPI_Barrier(MPI_COMM_WORLD);
    return code == MPI_SUCCESS ? CAIRN_OK : FAIL(CAIRN_EMPI, "cannot connect to all ranks");
}

cairn_err job_open(struct job **out)
{
    struct job *job = calloc(1, sizeof *job);
    if (!job)
        return FAIL(CAIRN_ENOMEM, "no memory for the job");
    gethostname(job->host, sizeof job->host - 1);
    catch_signals();
    double begin = clock_seconds();
    TRY(start_mpi(job)); /* a job that does not start has nothing to give back */
    TRY(check_size(job));
    TRY(map_nodes(job));
    TRY(connect_all(job));
    if (job->size > 1)
        log_set_rank(job->rank, job->host);
    if (job->rank == 0)
        log_info("%d rank%s on %d node%s, started by %s, in %.2f s", job->size, job->size > 1 ? "s" : "", job->nodes,
                 job->nodes > 1 ? "s" : "", launch_path_name(job->path), clock_seconds() - begin);
    *out = job;
    return CAIRN_OK;
}

int job_rank(const struct job *job) { return job->rank; }
int job_size(const struct job *job) { return job->size; }
int job_node(const struct job *job) { return job->node_of[job->rank]; }
int job_nodes(const struct job *job) { return job->nodes; }
int job_local_rank(const struct job *job) { return job->local_rank; }
int job_local_size(const struct job *job) { return job->local_size; }
int job_node_of(const struct job *job, int rank) { return job->node_of[rank]; }
const char *job_host(const struct job *job) { return job->host; }
enum launch_path job_launch_path(const struct job *job) { return job->path; }

MPI_Comm job_comm(const struct job *job)
{
    (void)job;
    return MPI_COMM_WORLD;
}

bool job_stop_requested(const struct job *job)
{
    (void)job;
    return stop_signal != 0;
}

const char *job_stop_reason(const struct job *job)
{
    (void)job;
    switch (stop_signal) {
    case SIGUSR1: return "SIGUSR1 (the time limit is near)";
    case SIGTERM: return "SIGTERM (preempted or cancelled)";
    default: return NULL;
    }
}

/* ---- time left ---- */

/* Slurm's form D-HH:MM:SS, HH:MM:SS or MM:SS; negative for anything else (UNLIMITED, INVALID). */
static double parse_time_left(const char *text)
{
    long part[4] = {0}, count = 0;
    const char *at = text;
    while (count < 4 && *at >= '0' && *at <= '9') {
        char *end;
        part[count++] = strtol(at, &end, 10);
        at = *end ? end + 1 : end;
    }
    if (count < 2)
        return -1;
    double seconds = 0;
    static const double units[] = {1, 60, 3600, 86400};
    for (long i = 0; i < count; i++)
        seconds += (double)part[i] * units[count - 1 - i];
    return seconds;
}

double job_seconds_left(struct job *job)
{
    const char *id = getenv("SLURM_JOB_ID");
    double now = clock_seconds();
    if (id && (job->asked_time_left == 0 || now - job->asked_time_left > 60)) { /* the limit can be changed while the job runs */
        char command[128], text[64] = "";
        snprintf(command, sizeof command, "timeout 5 squeue --noheader --jobs=%.20s --format=%%L 2>/dev/null", id);
        FILE *f = popen(command, "r");
        if (f) {
            if (!fgets(text, sizeof text, f))
                text[0] = 0;
            pclose(f);
        }
        double left = parse_time_left(text);
        job->asked_time_left = now;
        job->ends_at = left < 0 ? 0 : now + left;
    }
    return job->ends_at > 0 ? job->ends_at - now : -1;
}

/* ---- watchdog ---- */

static void on_hang(void *context, const char *report)
{
    log_error("%s", report);
    job_abort(context, EXIT_CODE_FAILED, report);
}

cairn_err job_watchdog_start(struct job *job, double heartbeat_seconds, double hang_factor, double hang_seconds)
{
    const struct watchdog_options options = {.rank = job->rank, .host = job->host, .heartbeat_seconds = heartbeat_seconds,
                                             .hang_factor = hang_factor, .hang_seconds = hang_seconds, .hang = on_hang,
                                             .context = job};
    return watchdog_start(&options, &job->watchdog);
}

void job_phase(struct job *job, const char *name, int64_t step, double limit)
{
    if (job->watchdog)
        watchdog_phase(job->watchdog, name, step, limit);
}

static void say(struct job *job, enum heartbeat_kind kind, int64_t step, const char *text)
{
    const char *phase = "start";
    int64_t at = 0;
    if (job->watchdog)
        watchdog_where(job->watchdog, &phase, &at);
    heartbeat_send(kind, job->rank, job->host, step >= 0 ? step : at, phase, text);
}

void job_report_committed(struct job *job, int64_t step)
{
    say(job, HEARTBEAT_COMMIT, step, NULL);
}

/* ---- the ways out ---- */

struct deadline {
    int seconds, code;
};

static void *leave_late(void *argument)
{
    struct deadline d = *(struct deadline *)argument;
    struct timespec wait = {.tv_sec = d.seconds};
    while (nanosleep(&wait, &wait)) {
    }
    _exit(d.code);
}

/* From now on this process ends with CODE after SECONDS whatever it is doing. */
static void set_deadline(struct deadline *d)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, leave_late, d) == 0)
        pthread_detach(thread);
    else
        alarm((unsigned)d->seconds); /* no thread left: SIGALRM ends it */
}

_Noreturn void job_leave(struct job *job, int code)
{
    static struct deadline deadline;
    char text[16];
    snprintf(text, sizeof text, "%d", code);
    fflush(NULL);
    deadline = (struct deadline){LEAVE_SECONDS, code};
    set_deadline(&deadline);
    if (job->watchdog)
        watchdog_phase(job->watchdog, "leave", 0, 2 * LEAVE_SECONDS);
    if (job->pmix)
        pmix_client_exchange(job->pmix); /* all are done before any takes its connections down */
    else
        MPI_Barrier(MPI_COMM_WORLD);
    say(job, HEARTBEAT_LEAVE, -1, text);
    MPI_Finalize();
    if (job->pmix)
        pmix_client_close(job->pmix);
    _exit(code);
}

_Noreturn void job_abort(struct job *job, int code, const char *reason)
{
    static struct deadline deadline;
    deadline = (struct deadline){ABORT_SECONDS, code};
    set_deadline(&deadline);
    fflush(NULL);
    say(job, HEARTBEAT_ABORT, -1, reason);
    if (job->pmix)
        pmix_client_abort(job->pmix, code, reason);
    else
        MPI_Abort(MPI_COMM_WORLD, code);
    _exit(code);
}
