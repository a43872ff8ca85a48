/* The state of training: master weights and AdamW's moments, flat vectors in the order of names, and the copy that kernels read. */
#ifndef TRAIN_WEIGHTS_H
#define TRAIN_WEIGHTS_H

#include "graph/graph.h"
#include "tensor/shard.h"

struct weights {
    struct backend *backend;
    int count;                     /* parameters */
    const struct parameter *parameters;
    int64_t elements;              /* of each flat vector */
    void *master;                  /* acc */
    void *moment1, *moment2;       /* acc; NULL without an optimizer */
    void *compute;                 /* act; master itself where act is acc */
};

/* Room for GRAPH's parameters; zero. The parameters' descriptions are the graph's: it must outlive the weights. */
cairn_err weights_open(struct backend *backend, const struct graph *graph, bool with_moments, struct weights *out);
void weights_close(struct weights *weights);

/* First values: element i of a parameter is constant + deviation * normal(seed, name, i), whatever holds it. */
void weights_initialize(struct weights *weights, uint64_t seed);

/* Rounds the master weights into the compute copy; needed after weights were set from outside. */
void weights_refresh(struct weights *weights);

/* One shard a parameter ("weights/NAME"), and two moments each ("moment1/NAME", "moment2/NAME") where there are: replica REPLICA of
 * REPLICAS. SHARDS has room for weights_shard_count. */
int weights_shard_count(const struct weights *weights);
void weights_shards(const struct weights *weights, int replica, int replicas, struct shard *shards);

#endif
