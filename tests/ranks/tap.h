/* TAP from a program of several ranks: every rank checks, all agree, rank 0 prints one line for all. */
#ifndef RANKS_TAP_H
#define RANKS_TAP_H

#include <mpi.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int tap_tests, tap_failures;

/* Answers --ranks: how many ranks this test is to be started with (tests/ranks/launch). RANKS, a macro before the
 * #include, unless the environment's CAIRN_TEST_RANKS says otherwise. */
static inline bool tap_asked_for_ranks(int argc, char **argv, int ranks)
{
    if (argc < 2 || strcmp(argv[1], "--ranks") != 0)
        return false;
    const char *other = getenv("CAIRN_TEST_RANKS");
    printf("%d\n", other && *other ? atoi(other) : ranks);
    return true;
}

/* Collective: ok only if GOOD on every rank of COMM. Returns what all agreed on. */
static inline bool tap_ok(MPI_Comm comm, bool good, const char *what)
{
    int rank, mine = good, all = 0;
    MPI_Comm_rank(comm, &rank);
    MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_MIN, comm);
    int bad = good ? -1 : rank, worst;
    MPI_Allreduce(&bad, &worst, 1, MPI_INT, MPI_MAX, comm);
    tap_tests++;
    tap_failures += !all;
    if (rank == 0) {
        printf("%sok %d - %s\n", all ? "" : "not ", tap_tests, what);
        if (!all)
            printf("# failed on rank %d\n", worst);
        fflush(stdout);
    }
    return all;
}

/* Prints the plan; the exit code of the test. */
static inline int tap_done(int rank)
{
    if (rank == 0) {
        printf("1..%d\n", tap_tests);
        fflush(stdout);
    }
    return tap_failures > 0;
}

#endif
