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

/* Makes an error common. CAIRN_OK if ERR is CAIRN_OK on every rank (one 1-int all-reduce); else every rank returns the code of
 * the lowest failed rank and has its message, with "rank R on HOST: " in front when R is not 0. An error is thus told by
 * one rank, whichever that is. */
cairn_err mesh_agree(struct mesh *mesh, cairn_err err);

/* BYTES at DATA of rank ROOT to every rank; any size. */
cairn_err mesh_broadcast(struct mesh *mesh, void *data, int64_t bytes, int root);

cairn_err mesh_barrier(struct mesh *mesh);

#endif
