#include "ckpt/agree.h"

#include <stdio.h>
#include <string.h>

/* Well under the int count that MPI takes, and a multiple of every element size. */
enum { BROADCAST_BYTES = 256 << 20 };

cairn_err comm_broadcast(MPI_Comm comm, void *data, size_t bytes, int root)
{
    for (size_t done = 0; done < bytes; done += BROADCAST_BYTES) {
        size_t n = bytes - done < BROADCAST_BYTES ? bytes - done : BROADCAST_BYTES;
        TRY_MPI(MPI_Bcast((char *)data + done, (int)n, MPI_BYTE, root, comm));
    }
    return CAIRN_OK;
}

cairn_err comm_agree(MPI_Comm comm, cairn_err err)
{
    struct {
        int code;
        char message[4096];
    } told;
    int rank, size;
    TRY_MPI(MPI_Comm_rank(comm, &rank));
    TRY_MPI(MPI_Comm_size(comm, &size));
    int mine = err == CAIRN_OK ? 2 * size : err == CAIRN_ECORRUPT ? size + rank : rank, first;
    TRY_MPI(MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, comm));
    if (first == 2 * size)
        return CAIRN_OK;
    memset(&told, 0, sizeof told);
    told.code = err;
    if (mine == first)
        snprintf(told.message, sizeof told.message, "%s", cairn_err_message());
    TRY_MPI(MPI_Bcast(&told, sizeof told, MPI_BYTE, first % size, comm));
    return FAIL(told.code, "%s", told.message);
}
