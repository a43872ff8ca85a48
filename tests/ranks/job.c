/* Starting up, agreeing, leaving: run under every launcher. TAP from rank 0. --ranks: how many ranks the harness starts.
 * --quick: only the start-up, as a program does that is soon done (prints seconds to the first collective). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "job/job.h"
#include "mesh/mesh.h"

enum { RANKS = 4 };

static int checks, failures;

static void check(struct mesh *m, bool ok, const char *what)
{
    int all = ok;
    MPI_Allreduce(MPI_IN_PLACE, &all, 1, MPI_INT, MPI_MIN, m->world);
    failures += !all;
    if (m->rank == 0)
        printf("%s %d - %s\n", all ? "ok" : "not ok", ++checks, what);
}

/* A rank's part of a node's shared memory is seen by its neighbours there. */
static bool shares_memory(struct job *job, struct mesh *m)
{
    MPI_Comm local;
    MPI_Win window;
    int *own, *first, unit;
    MPI_Aint size;
    MPI_Comm_split(m->world, m->node, m->rank, &local);
    MPI_Win_allocate_shared(sizeof *own, sizeof *own, MPI_INFO_NULL, local, &own, &window);
    MPI_Win_fence(0, window);
    *own = 1000 + m->rank;
    MPI_Win_fence(0, window);
    MPI_Win_shared_query(window, 0, &size, &unit, &first);
    int lowest = m->rank, seen = *first;
    MPI_Bcast(&lowest, 1, MPI_INT, 0, local);
    MPI_Win_fence(0, window);
    MPI_Win_free(&window);
    int count;
    MPI_Comm_size(local, &count);
    MPI_Comm_free(&local);
    return seen == 1000 + lowest && count == job_local_size(job);
}

static void test_agreement(struct mesh *m)
{
    check(m, mesh_agree(m, CAIRN_OK) == CAIRN_OK, "agreement on success");
    int last = m->size - 1;
    cairn_err err = m->rank == last ? FAIL(CAIRN_ENOSPACE, "disk %d is full", 7) : CAIRN_OK;
    err = mesh_agree(m, err);
    char expected[64];
    snprintf(expected, sizeof expected, last ? "rank %d: disk 7 is full" : "disk 7 is full", last);
    check(m, err == CAIRN_ENOSPACE && strcmp(cairn_err_message(), expected) == 0, "agreement on one rank's failure");
    char text[8] = "";
    if (m->rank == last)
        strcpy(text, "hello");
    check(m, mesh_broadcast(m, text, sizeof text, last) == CAIRN_OK && strcmp(text, "hello") == 0, "broadcast from the last rank");
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--ranks") == 0) {
        printf("%d\n", RANKS);
        return 0;
    }
    bool quick = argc > 1 && strcmp(argv[1], "--quick") == 0;
    double begin = clock_seconds();
    struct job *job;
    struct mesh *m;
    if (job_open(&job) || mesh_open(job, &m)) {
        if (*cairn_err_message())
            fprintf(stderr, "%s\n", cairn_err_message());
        return EXIT_CODE_FAILED;
    }
    if (quick) {
        if (m->rank == 0)
            printf("%d ranks on %d nodes: %.3f s to the first collective\n", m->size, m->nodes, clock_seconds() - begin);
        job_leave(job, 0);
    }
    int sum = 0, one = 1;
    MPI_Allreduce(&one, &sum, 1, MPI_INT, MPI_SUM, m->world);
    const char *expected = getenv("EXPECT_RANKS"), *nodes = getenv("EXPECT_NODES");
    check(m, sum == (expected ? atoi(expected) : RANKS), "as many ranks as were started");
    check(m, job_nodes(job) == (nodes ? atoi(nodes) : 1), "as many nodes as were given");
    check(m, m->node_of[m->rank] == m->node && m->node < m->nodes, "a rank knows its node");
    check(m, shares_memory(job, m), "ranks of a node share memory");
    test_agreement(m);
    check(m, job_watchdog_start(job, 0.05, 20, 10) == CAIRN_OK, "the watchdog starts");
    job_phase(job, "step", 1, 0);
    job_phase(job, "step", 2, 0);
    if (m->rank == 0)
        printf("1..%d\n", checks);
    job_leave(job, failures != 0);
}
