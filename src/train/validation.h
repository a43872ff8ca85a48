/* The loss on the validation split: always the same samples, the first ones of the split, each once. */
#ifndef TRAIN_VALIDATION_H
#define TRAIN_VALIDATION_H

#include "graph/graph.h"
#include "io/dataset.h"
#include "mesh/mesh.h"

/* Collective. The mean loss of GRAPH over MICROBATCHES microbatches of SAMPLES samples of CONTEXT tokens, or over the split if that
 * is shorter (one sample at least), shared among the ranks; *TOKENS is over how many. The bits do not depend on the number of
 * ranks. */
cairn_err validation_loss(struct mesh *mesh, struct dataset *dataset, struct graph *graph, int64_t microbatches, int64_t samples,
                          int64_t context, double *loss, int64_t *tokens);

#endif
