/* The model on a worker: parameters pulled from the servers, gradients of a share of a step's microbatches. */
#ifndef SERVER_REPLICA_H
#define SERVER_REPLICA_H

#include "base/config.h"
#include "graph/graph.h"
#include "io/dataset.h"
#include "mesh/tree.h"

struct replica;

struct replica_hooks {
    void *context;
    /* A bucket's partial sum over the microbatches of NODE, ELEMENTS (acc) of the whole bucket, which are only lent. With options.joined
     * the mean over the share, of parameters' own buckets, after the backward pass; else as soon as it is complete. */
    cairn_err (*partial)(void *context, int bucket, struct tree_node node, const void *elements);
    cairn_err (*progress)(void *context); /* again and again while it computes */
};

struct replica_options {
    bool joined; /* one gradient for the whole share, with its norm; else partial sums along the step's tree */
    struct replica_hooks hooks;
};

/* TRAIN and VALIDATION (NULL: none) are two handles of the dataset, which stay the caller's. */
cairn_err replica_open(struct backend *backend, const struct config *config, struct dataset *train, struct dataset *validation,
                       const struct replica_options *options, struct replica **out);
void replica_close(struct replica *replica);

const struct graph *replica_graph(const struct replica *replica);
int64_t replica_memory(const struct replica *replica);

/* ELEMENTS (act) of a bucket, from its element BEGIN on. */
void replica_set_parameters(struct replica *replica, int bucket, int64_t begin, int64_t length, const void *elements);

/* Microbatches FIRST..FIRST+COUNT-1 of STEP, forward and backward: each one's LOSSES, and, where joined, the gradient's NORM. *WAITED are the
 * seconds it waited for data. */
cairn_err replica_train(struct replica *replica, int64_t step, int64_t first, int64_t count, double *losses, double *norm, double *waited);

/* The sums of losses of so many microbatches of the validation. */
cairn_err replica_validate(struct replica *replica, int64_t first, int64_t count, double *losses);

#endif
