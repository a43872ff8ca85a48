/* The ranks as a group that agrees. */
#ifndef MESH_MESH_H
#define MESH_MESH_H

#include <mpi.h>
#include <stdint.h>

#include "base/error.h"
#include "job/job.h"

struct mesh {
    MPI_Comm world;
    int rank, size;
    int node, nodes;
    const int *node_of; /* by rank */
};

cairn_err mesh_open(struct job *job, struct mesh **out);
void mesh_close(struct mesh *mesh);

/* Collective: makes an error common. CAIRN_OK if all ranks give it; else every rank returns the code, and has the message, of the
 * lowest rank that failed, with "rank R: " in front when that is not rank 0. On success one reduction of one number. */
cairn_err mesh_agree(struct mesh *mesh, cairn_err err);

/* Collective. BYTES of DATA from ROOT to all. */
cairn_err mesh_broadcast(struct mesh *mesh, void *data, int64_t bytes, int root);

#endif
