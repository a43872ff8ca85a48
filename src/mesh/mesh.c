#include "mesh/mesh.h"

#include <stdlib.h>

#include "job/mpi_calls.h"
#include "mesh/comm.h"

/* Bytes of other ranks' data that a group's sums hold at a time. */
enum { GROUP_SCRATCH = 4 << 20 };

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
    *mesh = (struct mesh){.world = MPI_COMM_NULL, .rank = job_rank(job), .size = job_size(job), .node = job_node(job),
                          .nodes = job_nodes(job), .node_of = node_of, .host = job_host(job)};
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

/* The nodes of MESH's ranks, numbered from 0 on again. */
static cairn_err number_nodes(struct mesh *mesh, int *node_of, int node)
{
    int first, *lowest = malloc((size_t)mesh->size * sizeof *lowest);
    if (!lowest)
        return FAIL(CAIRN_ENOMEM, "no memory for the mesh of %d ranks", mesh->size);
    cairn_err err = mpi_check(MPI_Allgather(&node, 1, MPI_INT, node_of, 1, MPI_INT, mesh->world), "exchanging the ranks' nodes");
    for (int r = 0; r < mesh->size && !err; r++) {
        for (first = 0; node_of[first] != node_of[r]; first++)
            ;
        lowest[r] = first == r ? mesh->nodes++ : lowest[first];
    }
    for (int r = 0; r < mesh->size && !err; r++)
        node_of[r] = lowest[r];
    free(lowest);
    mesh->node = node_of[mesh->rank];
    return err;
}

cairn_err mesh_split(struct mesh *mesh, int color, struct mesh **out)
{
    struct mesh *m = calloc(1, sizeof *m);
    int *node_of = malloc((size_t)mesh->size * sizeof *node_of);
    cairn_err err = m && node_of ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for the mesh of %d ranks", mesh->size);
    TRY_GOTO(err, mesh_agree(mesh, err), failed);
    *m = (struct mesh){.world = MPI_COMM_NULL, .node_of = node_of, .host = mesh->host};
    TRY_GOTO(err, mpi_check(MPI_Comm_split(mesh->world, color, mesh->rank, &m->world), "making a mesh's communicator"), failed);
    MPI_Comm_set_errhandler(m->world, MPI_ERRORS_RETURN);
    MPI_Comm_rank(m->world, &m->rank);
    MPI_Comm_size(m->world, &m->size);
    TRY_GOTO(err, number_nodes(m, node_of, mesh->node), failed);
    *out = m;
    return CAIRN_OK;
failed:
    free(node_of);
    free(m);
    return err;
}

void mesh_close(struct mesh *mesh)
{
    if (!mesh)
        return;
    mesh_disband(mesh);
    MPI_Comm_free(&mesh->world);
    free((int *)mesh->node_of);
    free(mesh);
}

struct layout mesh_plain_layout(int ranks)
{
    return (struct layout){.data = ranks, .tensor = 1, .context = 1, .pipeline = 1, .chunks = 1, .expert = 1};
}

/* The I-th group: the ranks of COLOR, in the order of KEY. */
static cairn_err open_group(struct mesh *mesh, int i, struct group *group, int color, int key)
{
    TRY(mpi_check(MPI_Comm_split(mesh->world, color, key, &mesh->comms[i]), "making the layout's communicators"));
    MPI_Comm_set_errhandler(mesh->comms[i], MPI_ERRORS_RETURN);
    return group_open(group, mesh->comms[i], GROUP_SCRATCH);
}

cairn_err mesh_arrange(struct mesh *mesh, const struct layout *layout)
{
    struct layout_place p = layout_place_of(layout, mesh->rank), tensor = p, context = p, pipeline = p, replicas = p, expert = p;
    struct layout_place same_expert = p;
    mesh->layout = *layout;
    mesh->place = p;
    for (int i = 0; i < MESH_GROUPS; i++)
        mesh->comms[i] = MPI_COMM_NULL;
    /* A group's color is the rank of the place whose number on the group's own axis is 0. */
    tensor.tensor = context.context = pipeline.pipeline = replicas.data = replicas.context = 0;
    TRY(open_group(mesh, 0, &mesh->tensor, layout_rank_at(layout, tensor), p.tensor));
    TRY(open_group(mesh, 1, &mesh->context, layout_rank_at(layout, context), p.context));
    TRY(open_group(mesh, 2, &mesh->pipeline, layout_rank_at(layout, pipeline), p.pipeline));
    TRY(open_group(mesh, 3, &mesh->replicas, layout_rank_at(layout, replicas), p.context * layout->data + p.data));
    expert.data = p.data / layout->expert * layout->expert;
    same_expert.data = p.data % layout->expert;
    same_expert.context = 0;
    TRY(open_group(mesh, 4, &mesh->expert, layout_rank_at(layout, expert), p.data));
    return open_group(mesh, 5, &mesh->expert_replicas, layout_rank_at(layout, same_expert), p.context * layout->data + p.data);
}

void mesh_disband(struct mesh *mesh)
{
    struct group *groups[] = {&mesh->tensor, &mesh->context, &mesh->pipeline, &mesh->replicas, &mesh->expert, &mesh->expert_replicas};
    if (mesh->layout.data == 0)
        return;
    for (int i = 0; i < MESH_GROUPS; i++) {
        group_close(groups[i]);
        if (mesh->comms[i] != MPI_COMM_NULL)
            MPI_Comm_free(&mesh->comms[i]);
    }
    mesh->layout.data = 0;
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
    return mpi_barrier(mesh->world, "barrier");
}
