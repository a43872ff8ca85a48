#include "train/shares.h"

#include "base/least.h"
#include "mesh/tree.h"

static int64_t chunk_count(const struct parameter *p)
{
    return (p->elements + NORM_CHUNK - 1) / NORM_CHUNK;
}

/* The chunks of the bucket's parameters before chunk CHUNK end where this begins, counted from the bucket's begin. */
static int64_t begin_of_chunk(const struct graph *g, int bucket, int64_t chunk)
{
    const struct graph_bucket *b = graph_bucket_at(g, bucket);
    for (int i = 0; i < graph_parameter_count(g); i++) {
        const struct parameter *p = graph_parameter_at(g, i);
        if (p->bucket != bucket)
            continue;
        if (chunk < chunk_count(p))
            return p->offset - b->offset + chunk * NORM_CHUNK;
        chunk -= chunk_count(p);
    }
    return b->elements;
}

void share_of_bucket(const struct graph *g, int bucket, int replicas, int replica, int64_t *begin, int64_t *length)
{
    int64_t chunks = 0, first, count;
    int main = graph_bucket_at(g, bucket)->lookup_of >= 0 ? graph_bucket_at(g, bucket)->lookup_of : bucket;
    for (int i = 0; i < graph_parameter_count(g); i++)
        if (graph_parameter_at(g, i)->bucket == main)
            chunks += chunk_count(graph_parameter_at(g, i));
    tree_share(chunks, replicas, replica, &first, &count);
    *begin = begin_of_chunk(g, main, first);
    *length = begin_of_chunk(g, main, first + count) - *begin;
}

bool bucket_is_of_expert(const struct graph *g, int bucket)
{
    bool of_expert = false;
    for (int i = 0; i < graph_parameter_count(g); i++)
        of_expert = of_expert || (graph_parameter_at(g, i)->bucket == bucket && graph_parameter_at(g, i)->of_expert);
    return of_expert;
}

int64_t share_of_parameter(const struct parameter *p, int64_t begin, int64_t length, int64_t *first)
{
    int64_t from = begin > p->offset ? begin : p->offset, to = least(begin + length, p->offset + p->elements);
    *first = from - p->offset;
    return to > from ? to - from : 0;
}
