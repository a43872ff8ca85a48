#include "train/links.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "mesh/device_link.h"
#include "mesh/device_ring.h"
#include "train/device.h"

/* Ranks come to the call together; what takes longer than this does not work. */
static const double join_seconds = 60, join_seconds_of_a_rank = 0.1;

enum { LINKED_GROUPS = 5 };

/* Those whose ranks all make the same calls in one order; a pipeline's stages do not, and have a ring. */
static void list_groups(struct mesh *m, struct group *groups[LINKED_GROUPS])
{
    groups[0] = &m->tensor;
    groups[1] = &m->context;
    groups[2] = &m->expert;
    groups[3] = &m->replicas;
    groups[4] = &m->expert_replicas;
}

/* NCCL takes two ranks on one GPU of a node for a mistake, unless it is told that they are on two nodes. What this rank exchanges with others of
 * its node then takes the network's way. */
static cairn_err pretend_nodes(const struct mesh *m)
{
    char name[512];
    snprintf(name, sizeof name, "%s-%d", m->host, m->rank);
    return setenv("NCCL_HOSTID", name, 0) == 0 ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for the environment");
}

static bool has_pairs(struct mesh *m)
{
    struct group *groups[LINKED_GROUPS];
    list_groups(m, groups);
    for (int i = 0; i < LINKED_GROUPS; i++)
        if (groups[i]->size > 1)
            return true;
    return m->pipeline.size > 1;
}

/* TIED: a pipeline's first stage and last share a parameter. */
static cairn_err open_all(struct mesh *m, struct backend *b, bool tied)
{
    struct group *groups[LINKED_GROUPS];
    cairn_err err = CAIRN_OK;
    double seconds = join_seconds + m->size * join_seconds_of_a_rank;
    list_groups(m, groups);
    for (int i = 0; i < LINKED_GROUPS && !err; i++) {
        if (groups[i]->size > 1)
            err = device_link_open(groups[i], b, seconds);
        err = mesh_agree(m, err);
    }
    if (!err && m->layout.pipeline > 1)
        err = mesh_agree(m, device_ring_open(&m->pipeline, b, m->layout.chunks > 1, tied, seconds));
    if (err)
        links_close(m);
    return err;
}

/* MPI moves messages on when it is called: what another rank waits for by MPI would stay here while this one waits for its GPU, which by
 * its link waits for that rank. */
static void look_for_messages(void *mesh)
{
    int found;
    MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, ((struct mesh *)mesh)->world, &found, MPI_STATUS_IGNORE);
}

cairn_err links_open(const struct config *c, struct mesh *m, struct backend *b)
{
    int sharing = 0;
    bool mine;
    if (b->table->host_memory || c->parallel.links == LINKS_HOST || !has_pairs(m)) /* every rank has pairs, or none */
        return CAIRN_OK;
    TRY(device_count_sharing(m, b, &sharing, &mine));
    if (sharing > 0 && c->parallel.links == LINKS_AUTO)
        return CAIRN_OK;
    if (sharing > 0)
        TRY(mesh_agree(m, mine ? pretend_nodes(m) : CAIRN_OK));
    cairn_err err = open_all(m, b, c->model.tied);
    if (!err) {
        b->idle = look_for_messages;
        b->idle_context = m;
    }
    if (err && c->parallel.links == LINKS_AUTO && m->rank == 0)
        log_warning("GPUs exchange by way of their hosts, which is slower: %s", cairn_err_message());
    if (!err && m->rank == 0)
        log_info("GPUs exchange by NCCL");
    return err && c->parallel.links == LINKS_AUTO ? CAIRN_OK : err;
}

void links_close(struct mesh *m)
{
    struct group *groups[LINKED_GROUPS];
    list_groups(m, groups);
    for (int i = 0; i < LINKED_GROUPS; i++)
        device_link_close(groups[i]);
    device_ring_close(&m->pipeline);
}
