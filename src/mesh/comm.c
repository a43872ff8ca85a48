#include "mesh/comm.h"

#include <stdio.h>

#include "job/mpi_calls.h"

/* MPI counts are ints: larger broadcasts go in pieces of this many bytes, a multiple of every element size. */
enum { BROADCAST_BYTES = 256 << 20 };

/* What a failed rank tells the others: a message is as long as base/error.c keeps one. */
struct failure {
    cairn_err code;
    char message[4096];
};

/* Where it happened, unless on rank 0, who is the one that users look at. */
static void describe(struct failure *f, int rank)
{
    char host[MPI_MAX_PROCESSOR_NAME] = "?";
    int length;
    if (rank == 0) {
        snprintf(f->message, sizeof f->message, "%s", cairn_err_message());
        return;
    }
    MPI_Get_processor_name(host, &length);
    snprintf(f->message, sizeof f->message, "rank %d on %s: %s", rank, host, cairn_err_message());
}

cairn_err comm_agree(MPI_Comm comm, cairn_err err)
{
    int rank, size, first;
    TRY_MPI(MPI_Comm_rank(comm, &rank));
    TRY_MPI(MPI_Comm_size(comm, &size));
    int mine = err == CAIRN_OK ? 2 * size : err == CAIRN_ECORRUPT ? size + rank : rank;
    TRY(mpi_allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, comm, "agreeing"));
    if (first == 2 * size)
        return CAIRN_OK;
    struct failure failure = {.code = err};
    if (mine == first)
        describe(&failure, rank);
    TRY(mpi_broadcast(&failure, sizeof failure, MPI_BYTE, first % size, comm, "telling a failure"));
    return FAIL(failure.code, "%s", failure.message);
}

cairn_err comm_broadcast(MPI_Comm comm, void *data, size_t bytes, int root)
{
    for (size_t done = 0; done < bytes; done += BROADCAST_BYTES) {
        size_t n = bytes - done < BROADCAST_BYTES ? bytes - done : BROADCAST_BYTES;
        TRY(mpi_broadcast((char *)data + done, (int)n, MPI_BYTE, root, comm, "broadcast"));
    }
    return CAIRN_OK;
}
