/* The ways out. Both run under a guard: a thread that ends the process when a step of leaving takes too long, since neither a
 * finished job nor a failed one may be held up by a library that hangs at its end (UCX 1.13: openucx/ucx#8738). */
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "job/heartbeat.h"
#include "job/job_private.h"
#include "job/mpi_calls.h"

/* Seconds. The other ranks may still be writing their last lines when this one wants to leave; what comes after takes
 * milliseconds when it works. */
static const double meet_limit = 60, finalize_limit = 2, abort_limit = 3, read_limit = 0.5;

struct guard {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct job *job;
    const char *doing;  /* for the message; NULL: say nothing */
    double deadline;    /* clock_seconds */
    int code;
};

static struct guard guard = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void tell_launcher(const struct job *job, const char *line)
{
    ssize_t ignored = write(job->pmi_fd, line, strlen(line));
    (void)ignored;
}

/* What MPI_Finalize would have said last. Waits for the answer: mpiexec must know before this process is gone. */
static void finalize_launcher(const struct job *job)
{
    tell_launcher(job, "cmd=finalize\n");
    struct pollfd answer = {.fd = job->pmi_fd, .events = POLLIN};
    poll(&answer, 1, (int)(finalize_limit * 1000));
}

static void *finalize_pmix(void *arg)
{
    pmix_client_finalize();
    _exit(((struct guard *)arg)->code);
}

/* Slurm and mpiexec kill the other ranks when one leaves without a finalize of theirs, so that is still tried: PMIx's in a
 * thread that may hang. One rank tells of it: the others have most likely met the same. */
static _Noreturn void leave_undone(struct guard *g)
{
    if (g->doing && g->job->rank == 0)
        log_info("%s took too long; left without it", g->doing);
    pthread_t thread;
    if (g->doing && g->job->pmix && thread_start(&thread, finalize_pmix, g) == 0)
        sleep((unsigned)finalize_limit);
    if (g->job->path == LAUNCH_MPIEXEC)
        finalize_launcher(g->job);
    _exit(g->code);
}

static void *stand_guard(void *arg)
{
    struct guard *g = arg;
    pthread_mutex_lock(&g->lock);
    while (clock_seconds() < g->deadline)
        condition_wait_until(&g->changed, &g->lock, g->deadline);
    leave_undone(g);
}

static void guard_limit(const char *doing, double seconds)
{
    pthread_mutex_lock(&guard.lock);
    guard.doing = doing;
    guard.deadline = clock_seconds() + seconds;
    pthread_cond_signal(&guard.changed);
    pthread_mutex_unlock(&guard.lock);
}

/* False if there can be no guard. */
static bool guard_start(struct job *job, int code, const char *doing, double seconds)
{
    condition_init(&guard.changed);
    guard.job = job;
    guard.code = code;
    guard.doing = doing;
    guard.deadline = clock_seconds() + seconds;
    pthread_t thread;
    return thread_start(&thread, stand_guard, &guard) == 0;
}

/* One way out is enough: a second thread that wants to leave waits for the first. */
static void claim_way_out(void)
{
    static atomic_flag leaving = ATOMIC_FLAG_INIT;
    while (atomic_flag_test_and_set(&leaving))
        pause();
}

static void meet_others(struct job *job)
{
    if (job->size == 1)
        return;
    cairn_err err = CAIRN_OK;
    if (job->pmix)
        err = pmix_client_fence(job->pmix);
    else
        err = mpi_barrier(job->comm, "waiting for the other ranks");
    if (err)
        log_warning("leaving: %s", cairn_err_message());
}

void job_leave(struct job *job, int code)
{
    job_leave_because(job, code, NULL);
}

void job_leave_because(struct job *job, int code, const char *reason)
{
    watchdog_stop(&job->watchdog);
    claim_way_out();
    bool guarded = guard_start(job, code, "waiting for the other ranks to leave", meet_limit);
    fflush(NULL);
    meet_others(job);
    char text[sizeof((struct heartbeat *)NULL)->text];
    snprintf(text, sizeof text, "%d%s%s", code, reason && *reason ? " " : "", reason ? reason : "");
    heartbeat_send(HEARTBEAT_LEAVE, job->number, job->host, 0, NULL, text);
    if (!guarded)
        _exit(code);
    guard_limit("MPI_Finalize", finalize_limit);
    if (job->mpi_started_here)
        MPI_Finalize();
    guard_limit("PMIx_Finalize", finalize_limit);
    if (job->pmix)
        pmix_client_finalize();
    _exit(code);
}

/* At an abort mpiexec ends without reading what is left in its pipes: the line that says why was lost now and then. No event tells that a pipe
 * is empty. */
static void wait_until_read(int fd)
{
    static const struct timespec a_while = {.tv_nsec = 1000000};
    struct stat file;
    int unread;
    double end = clock_seconds() + read_limit;
    if (fstat(fd, &file) != 0 || !S_ISFIFO(file.st_mode))
        return;
    while (ioctl(fd, FIONREAD, &unread) == 0 && unread > 0 && clock_seconds() < end)
        nanosleep(&a_while, NULL);
}

/* MPICH's own MPI_Abort ends the process by exit(), whose handlers hang or crash when another thread is inside the library. */
static void abort_launcher(const struct job *job, int code)
{
    char line[64];
    wait_until_read(STDERR_FILENO);
    snprintf(line, sizeof line, "cmd=abort exitcode=%d\n", code);
    tell_launcher(job, line);
}

void job_abort(struct job *job, int code, const char *reason)
{
    claim_way_out();
    if (code == EXIT_CODE_DONE)
        code = EXIT_CODE_FAILED;
    int64_t step;
    const char *phase = watchdog_where(&job->watchdog, &step);
    bool guarded = guard_start(job, code, NULL, abort_limit);
    heartbeat_send(HEARTBEAT_ABORT, job->number, job->host, step, phase, reason);
    if (job->pmix)
        pmix_client_abort(code, reason);
    else if (job->pmi_fd >= 0)
        abort_launcher(job, code);
    else if (guarded && job->size > 1)
        MPI_Abort(job->comm, code);
    _exit(code);
}
