/* Attention as graphs of operations that cuDNN's fused engines know. */
#ifndef CUDA_ATTENTION_GRAPHS_H
#define CUDA_ATTENTION_GRAPHS_H

#include "kernels/cuda/cudnn.h"

#if HAVE_CUDNN
extern "C" {
#include "kernels/backend.h"
}

/* What a run is given: arrays, and the scalars that the graphs multiply by or put in the place of what is not seen. */
enum attention_array {
    ARRAY_QUERY = 1,
    ARRAY_KEY,
    ARRAY_VALUE,
    ARRAY_OUT,
    ARRAY_LOG_SUM,
    ARRAY_D_OUT,
    ARRAY_D_QUERY,
    ARRAY_D_KEY,
    ARRAY_D_VALUE,
    ARRAY_DELTA, /* [batch, heads, context] of float32, written and read within the backward pass */
    SCALAR_SCALE, /* of the scores */
    SCALAR_HIDDEN, /* -infinity */
    SCALAR_ONE
};

void attention_graph_forward(struct cudnn_plan *, const struct attention_desc *);
void attention_graph_backward(struct cudnn_plan *, const struct attention_desc *);
#endif

#endif
