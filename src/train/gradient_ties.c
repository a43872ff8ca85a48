/* Parameters with two uses, as a lookup table and as a linear layer: their gradients are summed apart and joined when both are there. In a
 * pipeline the uses are at its two ends. */
#include <stdlib.h>

#include "base/trace.h"
#include "job/mpi_calls.h"
#include "mesh/device_ring.h"
#include "train/gradient_private.h"

enum { ENDS_TAG = 2 }; /* stages' messages have 0 and 1 (train/stage.c) */

bool gradient_is_joined_later(const struct gradient *g, const struct sum *s)
{
    const struct piece *p = &g->pieces[s->piece];
    if (s->lookup >= 0 || s->of_lookup)
        return true;
    for (int i = 0; i < graph_parameter_count(p->graph) && g->mesh->layout.pipeline > 1; i++) {
        const struct parameter *q = graph_parameter_at(p->graph, i);
        if (q->bucket == s->bucket && q->shared)
            return true;
    }
    return false;
}

static cairn_err exchange_ends(const struct gradient *g, int other, const void *own, void *theirs, int length)
{
    static const char what[] = "exchanging the tied weights' gradient";
    MPI_Datatype type = group_mpi_type(g->backend->acc);
    MPI_Comm comm = g->mesh->pipeline.comm;
    MPI_Request requests[2];
    TRY(mpi_check(MPI_Irecv(theirs, length, type, other, ENDS_TAG, comm, &requests[0]), what));
    TRY(mpi_check(MPI_Isend(own, length, type, other, ENDS_TAG, comm, &requests[1]), what));
    return mpi_wait(requests, 2, what);
}

/* By way of the processors; THERE is the backend's. */
static cairn_err join_on_hosts(struct gradient *g, void *there, int64_t length, int other)
{
    const struct backend_table *table = g->backend->table;
    size_t bytes = (size_t)length * dtype_size(g->backend->acc);
    bool host = table->host_memory;
    char *theirs = malloc((host ? 1 : 2) * bytes + 1), *own = there;
    if (!theirs)
        return FAIL(CAIRN_ENOMEM, "no memory for the tied weights' gradient");
    if (!host)
        table->download(g->backend, own = theirs + bytes, there, bytes);
    cairn_err err = exchange_ends(g, other, own, theirs, (int)length);
    if (!err && other == 0)
        gradient_add_on_host(g, own, own, theirs, length);
    else if (!err)
        gradient_add_on_host(g, own, theirs, own, length);
    if (!err && !host)
        table->upload(g->backend, there, own, bytes);
    free(theirs);
    return err;
}

/* A parameter at both ends of the pipeline: the last stage's use first, then the first's. Its stages are partners, of equal shares. */
static cairn_err join_ends(struct gradient *g, const struct sum *s)
{
    struct mesh *m = g->mesh;
    int last = m->layout.pipeline - 1, other = m->place.pipeline == 0 ? last : 0;
    int64_t length = g->compressed ? s->elements : s->own_length; /* a compressed sum is whole on every replica */
    int64_t bytes = length * (int64_t)dtype_size(g->backend->acc);
    void *there = g->compressed ? gradient_at(g, g->slots[0], s->offset) : gradient_own_sum(g, s);
    uint64_t begun = trace_begin();
    m->pipeline.bytes_sent += bytes;
    m->pipeline.bytes_received += bytes;
    cairn_err err = m->pipeline.ring ? device_ring_join_ends(&m->pipeline, there, length) : join_on_hosts(g, there, length, other);
    trace_end(begun, TRACE_COMMUNICATION, "tied weights", -1);
    return err;
}

cairn_err gradient_join_uses(struct gradient *g)
{
    for (int i = 0; i < g->sum_count; i++) {
        struct sum *s = &g->sums[i];
        if (s->lookup >= 0 && !g->compressed)
            g->backend->table->add(g->backend, gradient_own_sum(g, s), gradient_own_sum(g, s), gradient_own_sum(g, &g->sums[s->lookup]),
                                   s->own_length);
        else if (s->lookup < 0 && !s->of_lookup && gradient_is_joined_later(g, s))
            TRY(join_ends(g, s));
    }
    return CAIRN_OK;
}
