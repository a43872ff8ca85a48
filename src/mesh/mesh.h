/* The ranks of a training and what they say to each other: the collectives on host memory that need no canonical order.
 * All are called by every rank, from the thread that opened the job. */
#ifndef MESH_MESH_H
#define MESH_MESH_H

#include <mpi.h>
#include <stdint.h>

#include "base/error.h"
#include "job/job.h"
#include "mesh/group.h"
#include "mesh/layout.h"

enum { MESH_GROUPS = 6 };

struct mesh {
    MPI_Comm world; /* of this mesh alone; errors return */
    int rank, size;
    int node, nodes;
    const int *node_of; /* of each rank; the mesh's */
    const char *host;   /* of this rank; the job's */

    /* Since mesh_arrange: the layout, and this rank's groups. Ranks of a group differ in its axis alone. */
    struct layout layout;
    struct layout_place place;
    struct group tensor, context, pipeline; /* by their axis: a rank of the pipeline's group is a stage */
    struct group replicas; /* those that hold the same parameters: context pieces of the data axis, number context * data + data's */
    struct group expert; /* neighbours on the data axis that share each block's experts */
    struct group expert_replicas; /* those that hold the same experts */
    MPI_Comm comms[MESH_GROUPS];
};

/* Collective. JOB must live longer than the mesh. */
cairn_err mesh_open(struct job *job, struct mesh **out);

/* Collective. The ranks of MESH that give the same COLOR, in their order, as a mesh of their own; not arranged. */
cairn_err mesh_split(struct mesh *mesh, int color, struct mesh **out);

/* Collective, once: makes the groups of LAYOUT, which fits (layout_fit). */
cairn_err mesh_arrange(struct mesh *mesh, const struct layout *layout);

/* What mesh_arrange took; mesh_close does it too. */
void mesh_disband(struct mesh *mesh);

/* All ranks copies of the model. */
struct layout mesh_plain_layout(int ranks);

/* Collective. NULL is fine. */
void mesh_close(struct mesh *mesh);

/* comm_agree (mesh/comm.h) */
cairn_err mesh_agree(struct mesh *mesh, cairn_err err);

/* BYTES at DATA of rank ROOT to every rank; any size. */
cairn_err mesh_broadcast(struct mesh *mesh, void *data, int64_t bytes, int root);

cairn_err mesh_barrier(struct mesh *mesh);

#endif
