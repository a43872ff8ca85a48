#include "mesh/mesh.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* MPI counts are ints: larger broadcasts go in pieces of this many bytes. */
enum { BROADCAST_PIECE = 1 << 30 };

/* What a failed rank tells the others: a message is as long as base/error.c keeps one. */
struct failure {
    cairn_err code;
    char host[64];
    char message[4096];
};

static cairn_err mpi_failed(int code, const char *what)
{
    char text[MPI_MAX_ERROR_STRING] = "unknown error";
    int length;
    MPI_Error_string(code, text, &length);
    return FAIL(CAIRN_EMPI, "%s: %s", what, text);
}

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
    int code = MPI_Comm_dup(job_comm(job), &mesh->world);
    if (code) {
        free(node_of);
        free(mesh);
        return mpi_failed(code, "making the mesh's communicator");
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

/* The lowest failed rank tells all others why. */
static cairn_err take_failure(struct mesh *mesh, cairn_err err, int failed)
{
    struct failure failure = {0};
    if (mesh->rank == failed) {
        failure.code = err;
        snprintf(failure.host, sizeof failure.host, "%s", mesh->host);
        snprintf(failure.message, sizeof failure.message, "%s", cairn_err_message());
    }
    int code = MPI_Bcast(&failure, sizeof failure, MPI_BYTE, failed, mesh->world);
    if (code)
        return mpi_failed(code, "learning the error of another rank");
    error_set(failure.code, "%s", failure.message);
    return failed ? error_context(failure.code, "rank %d on %s", failed, failure.host) : failure.code;
}

cairn_err mesh_agree(struct mesh *mesh, cairn_err err)
{
    int failed = err ? mesh->rank : mesh->size, lowest = 0;
    int code = MPI_Allreduce(&failed, &lowest, 1, MPI_INT, MPI_MIN, mesh->world);
    if (code)
        return mpi_failed(code, "asking the other ranks for their errors");
    return lowest == mesh->size ? CAIRN_OK : take_failure(mesh, err, lowest);
}

cairn_err mesh_broadcast(struct mesh *mesh, void *data, int64_t bytes, int root)
{
    char *at = data;
    while (bytes > 0) {
        int piece = bytes < BROADCAST_PIECE ? (int)bytes : BROADCAST_PIECE;
        int code = MPI_Bcast(at, piece, MPI_BYTE, root, mesh->world);
        if (code)
            return mpi_failed(code, "broadcast");
        at += piece;
        bytes -= piece;
    }
    return CAIRN_OK;
}

cairn_err mesh_barrier(struct mesh *mesh)
{
    int code = MPI_Barrier(mesh->world);
    return code ? mpi_failed(code, "barrier") : CAIRN_OK;
}
