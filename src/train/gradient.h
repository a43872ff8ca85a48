/* A step's gradient: the microbatches' gradients summed in the tree's order, here and across ranks. */
#ifndef TRAIN_GRADIENT_H
#define TRAIN_GRADIENT_H

#include "graph/graph.h"
#include "mesh/mesh.h"

struct gradient;

/* For GRAPH's parameters, MICROBATCHES a step over all ranks of MESH. All memory is taken here. */
cairn_err gradient_open(struct mesh *mesh, struct backend *backend, const struct graph *graph, int64_t microbatches,
                        struct gradient **out);
void gradient_close(struct gradient *gradient);

/* Where the next of this rank's microbatches writes its gradient; then gradient_add joins it to those before. */
void *gradient_slot(struct gradient *gradient);
void gradient_add(struct gradient *gradient);

/* Collective, after all of the step's microbatches: *SUM is the whole sum on every rank, tied weights' uses joined (flat, in the
 * parameters' order, valid until the next slot is asked for), *NORM its 2-norm. */
cairn_err gradient_finish(struct gradient *gradient, const void **sum, double *norm);

/* Bytes of this rank's buffers; bytes it has sent since the last call. */
int64_t gradient_memory(const struct gradient *gradient);
int64_t gradient_bytes_sent(struct gradient *gradient);

#endif
