/* The state of training of a piece of the model: master weights and AdamW's moments in the order of names, and the copy that kernels
 * read. Under ZeRO a replica keeps of the state only its own share of each bucket. */
#ifndef TRAIN_WEIGHTS_H
#define TRAIN_WEIGHTS_H

#include "graph/graph.h"
#include "tensor/shard.h"

/* How the replicas of a piece share its state. */
struct weights_sharing {
    int replicas, replica;
    int expert_replicas, expert_replica; /* of experts; 0 of 0: as of all else */
    int zero; /* 0: all is whole on each; 1, 2: the state is shared; 3: the parameters too */
};

struct weights {
    struct backend *backend;
    const struct graph *graph;
    int count;                     /* parameters */
    const struct parameter *parameters;
    int64_t elements;              /* of the flat vector of parameters */
    struct weights_sharing sharing;
    int64_t own_elements;          /* of it, that this replica keeps state of; all where nothing is shared */
    void *master;                  /* acc; own elements; NULL where they lie in the compute copy */
    void *moment1, *moment2;       /* acc; own elements; NULL without an optimizer */
    void *compute;                 /* act; all elements, with zero 3 the own ones; master itself where nothing is shared and act is acc */
    int64_t *own_begins;           /* by bucket: where its own elements begin in the vectors of own elements */
    struct adamw_run *runs;        /* room for all parameters: what an update changes */
    struct shard_memory memory;    /* where all vectors are, if the processor does not reach them */
};

/* How the compute copy is rounded. */
struct weights_rounding {
    bool stochastic; /* by random numbers of SEED, a parameter's name, the update and an element's position; else to nearest */
    uint64_t seed;
    int64_t update;  /* the number of the last one; 0: there was none */
};

/* This replica's own part of a bucket: ELEMENTS from element OFFSET of the flat vector on. */
struct weights_own {
    int64_t offset, elements;
    void *master, *moment1, *moment2, *compute;
};

/* Room for GRAPH's parameters; zero. SHARING NULL: nothing is shared. The graph must outlive the weights. */
cairn_err weights_open(struct backend *backend, const struct graph *graph, bool with_moments, const struct weights_sharing *sharing,
                       struct weights *out);
void weights_close(struct weights *weights);

struct weights_own weights_own(const struct weights *weights, int bucket);

/* Adds what an update changes of this replica's part of a bucket to RUNS behind the first COUNT, all but gradients; returns how many there
 * are then. Random numbers are SEED's. */
int weights_runs(struct weights *weights, int bucket, uint64_t seed, int count);

/* First values of the own elements: element i of a parameter's whole array is constant + deviation * normal(seed, name, i), whatever
 * holds it. */
cairn_err weights_initialize(struct weights *weights, const struct weights_rounding *rounding);

/* Rounds the own master weights into the compute copy, as the update did; needed after weights were set from outside. */
void weights_refresh(struct weights *weights, const struct weights_rounding *rounding);

/* Bytes of all vectors. */
int64_t weights_memory(const struct weights *weights);

/* weights_shards.c: what checkpoints keep, slabs of "weights/NAME" and, where there are, "moment1/NAME" and "moment2/NAME". SHARDS has
 * room for weights_shard_count; they refer to WEIGHTS, which must stay where it is. */
int weights_shard_count(const struct weights *weights);
void weights_shards(const struct weights *weights, struct shard *shards);

#endif
