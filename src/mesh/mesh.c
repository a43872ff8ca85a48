#include "mesh/mesh.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MESSAGE_SIZE = 2048, PIECE = 1 << 30 };

cairn_err mesh_open(struct job *job, struct mesh **out)
{
    struct mesh *m = calloc(1, sizeof *m);
    int *node_of = malloc((size_t)job_size(job) * sizeof *node_of);
    if (!m || !node_of) {
        free(m);
        free(node_of);
        return FAIL(CAIRN_ENOMEM, "no memory for the mesh");
    }
    for (int r = 0; r < job_size(job); r++)
        node_of[r] = job_node_of(job, r);
    *m = (struct mesh){.world = job_comm(job), .rank = job_rank(job), .size = job_size(job), .node = job_node(job),
                       .nodes = job_nodes(job), .node_of = node_of};
    *out = m;
    return CAIRN_OK;
}

void mesh_close(struct mesh *m)
{
    if (!m)
        return;
    free((int *)m->node_of);
    free(m);
}

cairn_err mesh_agree(struct mesh *m, cairn_err err)
{
    int mine = err ? m->rank : m->size, lowest = m->size;
    if (MPI_Allreduce(&mine, &lowest, 1, MPI_INT, MPI_MIN, m->world) != MPI_SUCCESS)
        return FAIL(CAIRN_EMPI, "cannot agree on an error: a rank is gone");
    if (lowest == m->size)
        return CAIRN_OK;
    struct {
        int code;
        char text[MESSAGE_SIZE];
    } told = {err, ""};
    if (m->rank == lowest)
        snprintf(told.text, sizeof told.text, "%s", cairn_err_message());
    if (MPI_Bcast(&told, (int)sizeof told, MPI_BYTE, lowest, m->world) != MPI_SUCCESS)
        return FAIL(CAIRN_EMPI, "cannot agree on an error: a rank is gone");
    if (lowest == 0)
        return FAIL(told.code, "%s", told.text);
    return FAIL(told.code, "rank %d: %s", lowest, told.text);
}

cairn_err mesh_broadcast(struct mesh *m, void *data, int64_t bytes, int root)
{
    for (int64_t done = 0; done < bytes; done += PIECE) {
        int64_t n = bytes - done < PIECE ? bytes - done : PIECE;
        if (MPI_Bcast((char *)data + done, (int)n, MPI_BYTE, root, m->world) != MPI_SUCCESS)
            return FAIL(CAIRN_EMPI, "a broadcast failed");
    }
    return CAIRN_OK;
}
