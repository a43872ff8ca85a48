/* An error of one rank made the error of all. */
#ifndef IO_AGREE_H
#define IO_AGREE_H

#include <mpi.h>

#include "base/error.h"

/* Collective. CAIRN_OK if ERR is that on every rank; else all ranks return the code of the lowest rank that failed, with its
 * message. */
cairn_err ranks_agree(MPI_Comm comm, cairn_err err);

#endif
