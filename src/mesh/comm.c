#include "mesh/comm.h"

#include <stdio.h>

#include "job/mpi_error.h"

/* MPI counts are ints: larger broadcasts go in pieces of this many bytes, a multiple of every element size. */
enum { BROADCAST_BYTES = 256 << 20 };

/* What a failed rank tells the others: a message is as long as base/error.c keeps one. */
struct failure {
    cairn_err code;
    char message[4096];
};

cairn_err comm_agree(MPI_Comm comm, cairn_err err)
{
    int rank, size, first;
    TRY_MPI(MPI_Comm_rank(comm, &rank));
    TRY_MPI(MPI_Comm_size(comm, &size));
    int mine = err == CAIRN_OK ? 2 * size : err == CAIRN_ECORRUPT ? size + rank : rank;
    TRY_MPI(MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, comm));
    if (first == 2 * size)
        return CAIRN_OK;
    struct failure failure = {.code = err};
    if (mine == first)
        snprintf(failure.message, sizeof failure.message, "%s", cairn_err_message());
    TRY_MPI(MPI_Bcast(&failure, sizeof failure, MPI_BYTE, first % size, comm));
    return FAIL(failure.code, "%s", failure.message);
}

cairn_err comm_broadcast(MPI_Comm comm, void *data, size_t bytes, int root)
{
    for (size_t done = 0; done < bytes; done += BROADCAST_BYTES) {
        size_t n = bytes - done < BROADCAST_BYTES ? bytes - done : BROADCAST_BYTES;
        TRY_MPI(MPI_Bcast((char *)data + done, (int)n, MPI_BYTE, root, comm));
    }
    return CAIRN_OK;
}
