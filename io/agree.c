#include "io/agree.h"

#include <stdio.h>

struct verdict {
    int code;
    char message[4096];
};

cairn_err ranks_agree(MPI_Comm comm, cairn_err err)
{
    int rank, size, first;
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &size);
    int mine = err == CAIRN_OK ? size : rank;
    if (MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, comm) != MPI_SUCCESS)
        return FAIL(CAIRN_EMPI, "agreeing on an error failed");
    if (first == size)
        return CAIRN_OK;
    struct verdict verdict = {.code = err};
    if (rank == first)
        snprintf(verdict.message, sizeof verdict.message, "%s", cairn_err_message());
    if (MPI_Bcast(&verdict, sizeof verdict, MPI_BYTE, first, comm) != MPI_SUCCESS)
        return FAIL(CAIRN_EMPI, "agreeing on an error failed");
    return FAIL(verdict.code, "%s", verdict.message);
}
