/* Errors and bytes that all ranks of a communicator share. */
#ifndef MESH_COMM_H
#define MESH_COMM_H

#include <mpi.h>
#include <stddef.h>

#include "base/error.h"

/* Collective. CAIRN_OK if ERR is that on every rank (one 1-int all-reduce); else every rank returns the code of the lowest rank
 * that failed, with its message, "rank R on HOST: " in front of it unless R is 0: whichever rank tells it, one is enough. Damage found in a file (CAIRN_ECORRUPT) yields to any other failure: what could not be read
 * may well be sound. */
cairn_err comm_agree(MPI_Comm comm, cairn_err err);

/* From rank ROOT, any number of bytes. */
cairn_err comm_broadcast(MPI_Comm comm, void *data, size_t bytes, int root);

#endif
