/* TAP from a program of several ranks: every rank checks, all agree, rank 0 prints one line for all. */
#ifndef RANKS_TAP_H
#define RANKS_TAP_H

#include <mpi.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cairn/error.h>

static int tap_tests, tap_failures;

/* Answers --ranks: how many RANKS this test is to be started with (tests/ranks/launch), unless the environment's
 * CAIRN_TEST_RANKS says otherwise. */
static inline bool tap_asked_for_ranks(int argc, char **argv, int ranks)
{
    if (argc < 2 || strcmp(argv[1], "--ranks") != 0)
        return false;
    const char *other = getenv("CAIRN_TEST_RANKS");
    printf("%d\n", other && *other ? atoi(other) : ranks);
    return true;
}

static inline int tap_rank(void)
{
    int rank;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return rank;
}

static inline void tap_bail_out(const char *why)
{
    printf("Bail out! %s\n", why);
    fflush(stdout);
    MPI_Abort(MPI_COMM_WORLD, 1);
}

/* Starts MPI, of which there must be RANKS ranks; returns this one's number. */
static inline int tap_begin(int argc, char **argv, int ranks)
{
    int size;
    MPI_Init(&argc, &argv);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (size != ranks)
        tap_bail_out("started with another number of ranks than --ranks tells");
    return tap_rank();
}

/* Collective: ok only if GOOD on every rank; each where it is not tells its error. Returns what all agreed on. */
static inline bool tap_ok(bool good, const char *format, ...) __attribute__((format(printf, 2, 3)));

static inline bool tap_ok(bool good, const char *format, ...)
{
    char name[512];
    int mine = good, all = 0, done = 0, rank = tap_rank();
    MPI_Request agreed;
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    MPI_Iallreduce(&mine, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD, &agreed);
    while (MPI_Test(&agreed, &done, MPI_STATUS_IGNORE) == MPI_SUCCESS && !done)
        sched_yield(); /* a rank that only waits leaves its core to those that test */
    if (!good)
        fprintf(stderr, "# rank %d: %s: %s\n", rank, name, cairn_err_message());
    tap_tests++;
    tap_failures += !all;
    if (rank == 0) {
        printf("%sok %d - %s\n", all ? "" : "not ", tap_tests, name);
        fflush(stdout);
    }
    return all;
}

/* Collective: what is not tested here, and why. */
static inline void tap_skip(const char *why)
{
    tap_tests++;
    if (tap_rank() == 0)
        printf("ok %d # SKIP %s\n", tap_tests, why);
}

/* Collective: a new folder for the test NAME, its path of at most SIZE bytes on every rank. */
static inline void tap_folder(const char *name, char *path, int size)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(path, (size_t)size, "%s/cairn-%s-XXXXXX", tmp && *tmp ? tmp : "/tmp", name);
    if (tap_rank() == 0 && !mkdtemp(path))
        tap_bail_out("no temporary folder can be made");
    MPI_Bcast(path, size, MPI_BYTE, 0, MPI_COMM_WORLD);
}

/* Collective: a shell command, by rank 0 alone. The other ranks wait for it. */
static inline void tap_shell(const char *format, ...) __attribute__((format(printf, 1, 2)));

static inline void tap_shell(const char *format, ...)
{
    char command[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    if (tap_rank() == 0 && system(command) != 0)
        fprintf(stderr, "# failed: %s\n", command);
    MPI_Barrier(MPI_COMM_WORLD);
}

/* Prints the plan; the exit code of the test. */
static inline int tap_done(void)
{
    if (tap_rank() == 0) {
        printf("1..%d\n", tap_tests);
        fflush(stdout);
    }
    return tap_failures > 0;
}

/* The same, and ends MPI. */
static inline int tap_end(void)
{
    int code = tap_done();
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Finalize();
    return code;
}

#endif
