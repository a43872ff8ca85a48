/* The loss on the validation split: always the same samples, the first ones of the split. */
#ifndef TRAIN_VALIDATION_H
#define TRAIN_VALIDATION_H

#include "graph/graph.h"
#include "io/dataset.h"
#include "mesh/mesh.h"

/* Collective. The mean loss of GRAPH over MICROBATCHES microbatches of SAMPLES samples of CONTEXT tokens, shared among the ranks;
 * a split that is shorter is used again from its begin. The bits do not depend on the number of ranks. */
cairn_err validation_loss(struct mesh *mesh, struct dataset *dataset, struct graph *graph, int64_t microbatches, int64_t samples,
                          int64_t context, double *loss);

#endif
