#include "job/mpi_error.h"

cairn_err mpi_check(int code, const char *what)
{
    if (code == MPI_SUCCESS)
        return CAIRN_OK;
    char text[MPI_MAX_ERROR_STRING] = "unknown error";
    int length;
    MPI_Error_string(code, text, &length);
    return FAIL(CAIRN_EMPI, "%s: %s", what, text);
}
