/* The loss on the validation split: always the same samples, the first ones of the split, each once. */
#ifndef TRAIN_VALIDATION_H
#define TRAIN_VALIDATION_H

#include "io/dataset.h"
#include "mesh/mesh.h"
#include "train/stage.h"

/* What finds the losses of a microbatch: one of REPLICAS copies of the model, alone or as one of the ranks of a copy. */
struct validation_model {
    struct graph *graph; /* a whole model; or */
    struct stage *stage; /* a part of one */
    int replica, replicas;
    bool tells;          /* of a copy's ranks, one tells its losses */
};

/* How many microbatches of SAMPLES samples of CONTEXT tokens a validation over at most MICROBATCHES has, and *TOKENS. */
int64_t validation_extent(struct dataset *dataset, int64_t microbatches, int64_t samples, int64_t context, int64_t *tokens);

/* The sums of losses of microbatches FIRST..FIRST+COUNT-1 of the split; GRAPH is a whole model's. */
cairn_err validation_losses(struct dataset *dataset, struct graph *graph, int64_t samples, int64_t context, int64_t first, int64_t count,
                            double *losses);

/* Collective over the mesh. The mean loss over MICROBATCHES microbatches of SAMPLES samples of CONTEXT tokens, or over the split if that
 * is shorter (one sample at least), shared among the replicas; *TOKENS is over how many. The bits do not depend on the number of
 * replicas. */
cairn_err validation_loss(struct mesh *mesh, struct dataset *dataset, const struct validation_model *model, int64_t microbatches,
                          int64_t samples, int64_t context, double *loss, int64_t *tokens);

#endif
