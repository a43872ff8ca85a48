/* A program that ends in every way there is; tests/ranks/leave.t and tests/slurm/job.t look at how its launcher sees it.
 *   leave CODE             all ranks leave with CODE
 *   leave hang-finalize    all leave with 0, but MPI_Finalize never returns; rank 1 is the last to go
 *   leave abort            rank 1 aborts with 3 while the others wait for it
 *   leave abort-thread     the same from another thread, while rank 1 itself waits inside the MPI library
 *   leave mpi-abort        rank 1 calls MPI_Abort with 4
 *   leave hang             rank 1 stands still in a phase of one second, under the watchdog
 *   leave die              rank 1 is killed while the others wait for it
 *   leave die-early        rank 1 is killed before MPI starts
 *   leave stop             ranks leave with 75 once one of them was told to stop
 *   leave time             rank 0 prints the seconds that Slurm leaves it */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "job/job.h"

static bool finalize_hangs;

/* Stands still for a second more than MPI_Finalize is given, so that the others are gone first. */
static void leave_last(void)
{
    pid_t self = getpid();
    if (fork() == 0) {
        sleep(3);
        kill(self, SIGCONT);
        _exit(0);
    }
    raise(SIGSTOP);
}

/* In front of the MPI library's own. */
int MPI_Finalize(void)
{
    int rank;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (finalize_hangs && rank == 1)
        leave_last();
    while (finalize_hangs)
        pause();
    return PMPI_Finalize();
}

static void die(void)
{
    raise(SIGKILL);
}

static void *abort_from_thread(void *job)
{
    job_abort(job, 3, "rank 1 gives up");
}

static void *end_otherwise(struct job *job, const char *mode)
{
    pthread_t thread;
    if (strcmp(mode, "abort") == 0)
        abort_from_thread(job);
    if (strcmp(mode, "abort-thread") == 0)
        return pthread_create(&thread, NULL, abort_from_thread, job) ? job : NULL;
    if (strcmp(mode, "mpi-abort") == 0)
        MPI_Abort(MPI_COMM_WORLD, 4);
    if (strcmp(mode, "die") == 0)
        die();
    if (strcmp(mode, "hang") == 0)
        for (;;)
            pause();
    return NULL;
}

static void wait_for_stop(struct job *job)
{
    int mine = 0, any = 0;
    while (!any) {
        mine = job_stop_requested(job);
        MPI_Allreduce(&mine, &any, 1, MPI_INT, MPI_MAX, job_comm(job));
        usleep(10000);
    }
    if (mine)
        log_info("stopped by %s", job_stop_reason(job));
    job_leave(job, EXIT_CODE_RESTART);
}

static void print_time_left(struct job *job)
{
    double begin = clock_seconds(), left = -1;
    while (job_rank(job) == 0 && left < 0 && clock_seconds() - begin < 20) {
        left = job_seconds_left(job);
        usleep(10000);
    }
    if (job_rank(job) == 0)
        printf("%.0f seconds left\n", left);
    job_leave(job, 0);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "0", *rank = getenv("PMIX_RANK") ? getenv("PMIX_RANK") : getenv("PMI_RANK");
    struct job *job;
    if (strcmp(mode, "die-early") == 0 && rank && strcmp(rank, "1") == 0)
        die();
    if (job_open(&job) != CAIRN_OK) {
        if (*cairn_err_message())
            log_error("%s", cairn_err_message());
        return EXIT_CODE_FAILED;
    }
    char *end;
    long code = strtol(mode, &end, 10);
    if (*end == '\0')
        job_leave(job, (int)code);
    if (strcmp(mode, "stop") == 0)
        wait_for_stop(job);
    if (strcmp(mode, "time") == 0)
        print_time_left(job);
    finalize_hangs = strcmp(mode, "hang-finalize") == 0;
    if (finalize_hangs)
        job_leave(job, 0);
    if (job_watchdog_start(job, 0.2, 10, 30) != CAIRN_OK)
        return EXIT_CODE_FAILED;
    bool alone = strcmp(mode, "hang") == 0 && job_rank(job) == 1;
    job_phase(job, "step", 1234, alone ? 1 : 0);
    if (job_rank(job) == 1)
        end_otherwise(job, mode);
    int value = 0;
    MPI_Bcast(&value, 1, MPI_INT, 1, job_comm(job)); /* rank 1 never gets here, or waits beside the others */
    MPI_Barrier(job_comm(job));
    for (;;)
        pause();
}
