#include "mesh/mesh.h"

#include <stdlib.h>

#include "job/mpi_error.h"
#include "mesh/comm.h"

cairn_err mesh_open(struct job *job, struct mesh **out)
{
    struct mesh *mesh = calloc(1, sizeof *mesh);
    int *node_of = malloc((size_t)job_size(job) * sizeof *node_of);
    if (!mesh || !node_of) {
        free(mesh);
        free(node_of);
        return FAIL(CAIRN_ENOMEM, "no memory for the mesh of %d ranks", job_size(job));
    }
    for (int r = 0; r < job_size(job); r++)
        node_of[r] = job_node_of(job, r);
    *mesh = (struct mesh){MPI_COMM_NULL, job_rank(job), job_size(job), job_node(job), job_nodes(job), node_of, job_host(job)};
    cairn_err err = mpi_check(MPI_Comm_dup(job_comm(job), &mesh->world), "making the mesh's communicator");
    if (err) {
        free(node_of);
        free(mesh);
        return err;
    }
    MPI_Comm_set_errhandler(mesh->world, MPI_ERRORS_RETURN);
    *out = mesh;
    return CAIRN_OK;
}

void mesh_close(struct mesh *mesh)
{
    if (!mesh)
        return;
    MPI_Comm_free(&mesh->world);
    free((int *)mesh->node_of);
    free(mesh);
}

cairn_err mesh_agree(struct mesh *mesh, cairn_err err)
{
    return comm_agree(mesh->world, err);
}

cairn_err mesh_broadcast(struct mesh *mesh, void *data, int64_t bytes, int root)
{
    return comm_broadcast(mesh->world, data, (size_t)bytes, root);
}

cairn_err mesh_barrier(struct mesh *mesh)
{
    return mpi_check(MPI_Barrier(mesh->world), "barrier");
}
