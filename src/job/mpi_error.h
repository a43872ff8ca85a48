/* A failing MPI call as an error of this thread. */
#ifndef JOB_MPI_ERROR_H
#define JOB_MPI_ERROR_H

#include <mpi.h>

#include "base/error.h"

/* CAIRN_OK for MPI_SUCCESS; else CAIRN_EMPI with WHAT and MPI's own text for CODE. */
cairn_err mpi_check(int code, const char *what);

#define TRY_MPI(call) TRY(mpi_check((call), #call))

#endif
