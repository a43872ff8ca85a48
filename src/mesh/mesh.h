/* The ranks of a training and what they say to each other: the collectives on host memory that need no canonical order.
 * All are called by every rank, from the thread that opened the job. */
#ifndef MESH_MESH_H
#define MESH_MESH_H

#include <mpi.h>
#include <stdint.h>

#include "base/error.h"
#include "job/job.h"

struct mesh {
    MPI_Comm world; /* of this mesh alone; errors return */
    int rank, size;
    int node, nodes;
    const int *node_of; /* of each rank; the mesh's */
    const char *host;   /* of this rank; the job's */
};

/* Collective. JOB must live longer than the mesh. */
cairn_err mesh_open(struct job *job, struct mesh **out);

/* Collective. NULL is fine. */
void mesh_close(struct mesh *mesh);

/* comm_agree (mesh/comm.h) */
cairn_err mesh_agree(struct mesh *mesh, cairn_err err);

/* BYTES at DATA of rank ROOT to every rank; any size. */
cairn_err mesh_broadcast(struct mesh *mesh, void *data, int64_t bytes, int root);

cairn_err mesh_barrier(struct mesh *mesh);

#endif
