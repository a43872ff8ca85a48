/* MPI's calls, with failures as errors of this thread, and its blocking ones as calls that let others run while they wait: MPI libraries
 * spin, and where a machine has more ranks than cores those who wait keep the cores from those they wait for (a barrier of 8 ranks
 * on 2 cores took 61 ms, and takes 9). All arguments are MPI's; WHAT says in messages what failed. */
#ifndef JOB_MPI_CALLS_H
#define JOB_MPI_CALLS_H

#include <mpi.h>

#include "base/error.h"

/* CAIRN_OK for MPI_SUCCESS; else CAIRN_EMPI with WHAT and MPI's own text for CODE. */
cairn_err mpi_check(int code, const char *what);

#define TRY_MPI(call) TRY(mpi_check((call), #call))

/* Until COUNT requests are complete. After a failure some may not be. */
cairn_err mpi_wait(MPI_Request *requests, int count, const char *what);

cairn_err mpi_barrier(MPI_Comm comm, const char *what);
cairn_err mpi_broadcast(void *data, int count, MPI_Datatype type, int root, MPI_Comm comm, const char *what);
cairn_err mpi_allreduce(const void *in, void *out, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm, const char *what);
cairn_err mpi_allgather(const void *in, int count, MPI_Datatype type, void *out, MPI_Comm comm, const char *what); /* COUNT of each */
cairn_err mpi_gatherv(const void *in, int bytes, void *out, const int *sizes, const int *starts, int root, MPI_Comm comm,
                      const char *what); /* bytes */
cairn_err mpi_send(const void *data, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm, const char *what);
cairn_err mpi_receive(void *data, int count, MPI_Datatype type, int from, int tag, MPI_Comm comm, const char *what);

#endif
