/* Errors and bytes that all ranks of a communicator share. */
#ifndef CKPT_AGREE_H
#define CKPT_AGREE_H

#include <mpi.h>
#include <stddef.h>

#include "base/error.h"

/* A failing MPI call as an error of this thread. */
#define TRY_MPI(call)                                              \
    do {                                                           \
        int try_mpi_ = (call);                                     \
        if (try_mpi_ != MPI_SUCCESS)                               \
            return FAIL(CAIRN_EMPI, "%s: code %d", #call, try_mpi_); \
    } while (0)

/* Collective. CAIRN_OK if ERR is that on every rank; else every rank returns the code of the lowest rank that failed, with its
 * message. Damage found in a file (CAIRN_ECORRUPT) yields to any other failure: what could not be read may well be sound. */
cairn_err comm_agree(MPI_Comm comm, cairn_err err);

/* MPI_Bcast of any number of bytes. */
cairn_err comm_broadcast(MPI_Comm comm, void *data, size_t bytes, int root);

#endif
