/* The job and the mesh as every rank sees them. Started by mpiexec, by srun or alone; with the environment's
 * CAIRN_EXPECT_PATH and CAIRN_EXPECT_NODE_OF ("0,0,1,1") it also checks how it was started and where its ranks run.
 * --quick: only the start-up, as a program does that is soon done. */
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "job/job.h"
#include "mesh/mesh.h"
#include "tests/ranks/tap.h"

enum { RANKS = 4 };

static bool nodes_as_expected(const struct job *job)
{
    const char *list = getenv("CAIRN_EXPECT_NODE_OF");
    for (int r = 0; list && r < job_size(job); r++) {
        char *end;
        if (strtol(list, &end, 10) != job_node_of(job, r))
            return false;
        list = *end ? end + 1 : end;
    }
    return true;
}

static void check_place(struct job *job)
{
    MPI_Comm comm = job_comm(job);
    int rank, size;
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &size);
    const char *want = getenv("CAIRN_TEST_RANKS"), *path = getenv("CAIRN_EXPECT_PATH");
    tap_ok(rank == job_rank(job) && size == job_size(job), "rank and size are MPI's");
    tap_ok(!want || atoi(want) == size, "as many ranks as were started");
    tap_ok(!path || strcmp(path, launch_path_name(job_launch_path(job))) == 0, "started by the path expected");
    tap_ok(nodes_as_expected(job), "every rank on the node expected");
    int local = 0, before = 0, highest = -1;
    bool ordered = true;
    for (int r = 0; r < size; r++) {
        ordered = ordered && job_node_of(job, r) <= highest + 1;
        highest = job_node_of(job, r) > highest ? job_node_of(job, r) : highest;
        local += job_node_of(job, r) == job_node(job);
        before += r < rank && job_node_of(job, r) == job_node(job);
    }
    tap_ok(ordered && highest + 1 == job_nodes(job), "nodes are numbered in the order of their lowest ranks");
    tap_ok(local == job_local_size(job) && before == job_local_rank(job), "local rank and size fit the node map");
    tap_ok(*job_host(job) != '\0' && !strchr(job_host(job), ' '), "the host has a name");
}

/* Ranks that the job puts on one node really see each other's memory, and the others' values never. */
static void check_shared_memory(struct job *job)
{
    MPI_Comm comm = job_comm(job), local;
    MPI_Comm_split(comm, job_node(job), job_rank(job), &local);
    MPI_Win window;
    int *mine, rank, size;
    MPI_Comm_rank(local, &rank);
    MPI_Comm_size(local, &size);
    bool good = MPI_Win_allocate_shared(sizeof *mine, sizeof *mine, MPI_INFO_NULL, local, &mine, &window) == MPI_SUCCESS;
    if (tap_ok(good, "ranks of a node share a window")) {
        *mine = 1000 + job_rank(job);
        MPI_Win_fence(0, window);
        MPI_Barrier(local);
        int expected = 0;
        for (int r = 0, l = 0; r < job_size(job); r++) {
            if (job_node_of(job, r) != job_node(job))
                continue;
            MPI_Aint bytes;
            int unit, *theirs;
            MPI_Win_shared_query(window, l++, &bytes, &unit, &theirs);
            expected += *theirs == 1000 + r;
        }
        MPI_Win_fence(0, window);
        tap_ok(expected == size, "and read what the others of the node wrote there");
        MPI_Win_free(&window);
    }
    MPI_Comm_free(&local);
}

/* A message that is too long fails the request; the program goes on. */
static void check_request_errors(struct job *job)
{
    char sent[16] = "longer than room", room[4];
    MPI_Request requests[2];
    MPI_Irecv(room, sizeof room, MPI_CHAR, job_rank(job), 0, job_comm(job), &requests[0]);
    MPI_Isend(sent, sizeof sent, MPI_CHAR, job_rank(job), 0, job_comm(job), &requests[1]);
    MPI_Status statuses[2];
    int error = MPI_Waitall(2, requests, statuses);
    tap_ok(error != MPI_SUCCESS, "a request's error is returned");
}

static void check_agreement(struct mesh *mesh)
{
    tap_ok(mesh_agree(mesh, CAIRN_OK) == CAIRN_OK, "no error agrees on none");
    cairn_err err = mesh->rank == mesh->size - 1 ? FAIL(CAIRN_ENOSPACE, "the disk of %d is full", mesh->rank) : CAIRN_OK;
    err = mesh_agree(mesh, err);
    char want[128];
    snprintf(want, sizeof want, "the disk of %d is full", mesh->size - 1);
    tap_ok(err == CAIRN_ENOSPACE && strstr(cairn_err_message(), want), "the last rank's error is everybody's");
    tap_ok(mesh->size == 1 || strstr(cairn_err_message(), "rank ") == cairn_err_message(), "and names the rank");
    err = mesh_agree(mesh, FAIL(mesh->rank == 0 ? CAIRN_EFORMAT : CAIRN_ENOMEM, "rank 0 is %s", mesh->rank == 0 ? "wrong" : "not I"));
    tap_ok(err == CAIRN_EFORMAT && strcmp(cairn_err_message(), "rank 0 is wrong") == 0,
           "of several errors the lowest rank's is told, rank 0's without a mark");
    err = mesh_agree(mesh, mesh->rank == 0 ? FAIL(CAIRN_ECORRUPT, "damaged") : FAIL(CAIRN_ESYS, "cannot be read"));
    tap_ok(err == (mesh->size == 1 ? CAIRN_ECORRUPT : CAIRN_ESYS), "damage yields to what could not be read");
}

static void check_broadcast(struct mesh *mesh)
{
    char text[4000];
    memset(text, mesh->rank == mesh->size - 1 ? 'x' : '-', sizeof text);
    cairn_err err = mesh_broadcast(mesh, text, sizeof text, mesh->size - 1);
    size_t same = 0;
    while (same < sizeof text && text[same] == 'x')
        same++;
    tap_ok(err == CAIRN_OK && same == sizeof text, "a broadcast reaches all");
    tap_ok(mesh_barrier(mesh) == CAIRN_OK, "a barrier returns");
}

/* A crash in malloc ends the process, where UCX's handler of it would wait for malloc's lock. */
static void check_crash(void)
{
    static const int crashes[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
    unsigned long long caught = ~0ULL;
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        sscanf(line, "SigCgt: %llx", &caught);
    if (status)
        fclose(status);
#ifdef __SANITIZE_ADDRESS__
    caught &= ~(1ULL << (SIGSEGV - 1) | 1ULL << (SIGBUS - 1) | 1ULL << (SIGFPE - 1)); /* its reports are wanted */
#endif
    bool none = true;
    for (size_t i = 0; i < sizeof crashes / sizeof crashes[0]; i++)
        none = none && !(caught >> (crashes[i] - 1) & 1);
    tap_ok(none, "crashes are left to the kernel");
}

int main(int argc, char **argv)
{
    if (tap_asked_for_ranks(argc, argv, RANKS))
        return 0;
    double begin = clock_seconds();
    struct job *job;
    struct mesh *mesh;
    if (job_open(&job) != CAIRN_OK) {
        if (*cairn_err_message())
            log_error("%s", cairn_err_message());
        return EXIT_CODE_FAILED;
    }
    if (argc > 1 && strcmp(argv[1], "--quick") == 0) {
        int one = 1, sum = 0;
        MPI_Allreduce(&one, &sum, 1, MPI_INT, MPI_SUM, job_comm(job));
        if (job_rank(job) == 0)
            printf("%d ranks on %d nodes: %.3f s to the first collective, %d fences\n", sum, job_nodes(job), clock_seconds() - begin,
                   job_fences(job));
        job_leave(job, sum != job_size(job));
    }
    check_place(job);
    check_crash();
    check_shared_memory(job);
    check_request_errors(job);
    if (tap_ok(mesh_open(job, &mesh) == CAIRN_OK, "the mesh opens")) {
        check_agreement(mesh);
        check_broadcast(mesh);
        mesh_close(mesh);
    }
    job_leave(job, tap_done());
}
