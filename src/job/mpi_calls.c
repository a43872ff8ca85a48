#include "job/mpi_calls.h"

#include <sched.h>

cairn_err mpi_check(int code, const char *what)
{
    if (code == MPI_SUCCESS)
        return CAIRN_OK;
    char text[MPI_MAX_ERROR_STRING] = "unknown error";
    int length;
    MPI_Error_string(code, text, &length);
    return FAIL(CAIRN_EMPI, "%s: %s", what, text);
}

cairn_err mpi_wait(MPI_Request *requests, int count, const char *what)
{
    for (int done = 0; done < count;) {
        int complete;
        TRY(mpi_check(MPI_Test(&requests[done], &complete, MPI_STATUS_IGNORE), what));
        done += complete;
        if (!complete)
            sched_yield();
    }
    return CAIRN_OK;
}

/* Waits for what a call that returned CODE has begun. */
static cairn_err finish(int code, MPI_Request *request, const char *what)
{
    TRY(mpi_check(code, what));
    return mpi_wait(request, 1, what);
}

cairn_err mpi_barrier(MPI_Comm comm, const char *what)
{
    MPI_Request request;
    return finish(MPI_Ibarrier(comm, &request), &request, what);
}

cairn_err mpi_broadcast(void *data, int count, MPI_Datatype type, int root, MPI_Comm comm, const char *what)
{
    MPI_Request request;
    return finish(MPI_Ibcast(data, count, type, root, comm, &request), &request, what);
}

cairn_err mpi_allreduce(const void *in, void *out, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm, const char *what)
{
    MPI_Request request;
    return finish(MPI_Iallreduce(in, out, count, type, op, comm, &request), &request, what);
}

cairn_err mpi_allgather(const void *in, int count, MPI_Datatype type, void *out, MPI_Comm comm, const char *what)
{
    MPI_Request request;
    return finish(MPI_Iallgather(in, count, type, out, count, type, comm, &request), &request, what);
}

cairn_err mpi_gatherv(const void *in, int bytes, void *out, const int *sizes, const int *starts, int root, MPI_Comm comm, const char *what)
{
    MPI_Request request;
    return finish(MPI_Igatherv(in, bytes, MPI_BYTE, out, sizes, starts, MPI_BYTE, root, comm, &request), &request, what);
}

cairn_err mpi_send(const void *data, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm, const char *what)
{
    MPI_Request request;
    return finish(MPI_Isend(data, count, type, to, tag, comm, &request), &request, what);
}

cairn_err mpi_receive(void *data, int count, MPI_Datatype type, int from, int tag, MPI_Comm comm, const char *what)
{
    MPI_Request request;
    return finish(MPI_Irecv(data, count, type, from, tag, comm, &request), &request, what);
}
