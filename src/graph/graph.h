/* The graph of a model's stage: a builder declares operations on tensors; finishing it checks shapes, derives the backward lists
 * and plans all activation memory in one arena. A step then runs lists of kernel calls: no allocation, no shape logic, no lookup.
 *
 * Builders call graph_* in order; the first mistake is kept and returned by graph_finish, so that builders need no checks.
 * Matrices of activations are [rows, width] with rows = samples * context. */
#ifndef GRAPH_GRAPH_H
#define GRAPH_GRAPH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "kernels/backend.h"
#include "tensor/shard.h"

struct graph;

typedef int tensor_id; /* of one graph; negative: none */

/* How a parameter begins. */
struct parameter_init {
    float constant;  /* plus */
    float deviation; /* a normal number times this; 0: the constant alone */
};

/* A parameter: a persistent array with a global name. All parameters, sorted by name, lie in one flat vector; each begins at a
 * multiple of PARAMETER_ALIGN elements, and the gap before the next is zero. */
enum { PARAMETER_ALIGN = 16 };

struct parameter {
    char name[SHARD_NAME_SIZE]; /* without the "weights/" or "moment1/" in front */
    int dims;
    int64_t shape[SHARD_MAX_DIMS];
    int64_t elements;
    struct parameter_init init;
    bool decays;     /* takes weight decay */
    int64_t offset;  /* in the flat vector of parameters and of gradients */
    int64_t lookup;  /* offset in the gradient vector where a tied parameter's use as lookup table is summed apart; -1: not tied */
};

struct graph_options {
    int64_t samples, context; /* of a microbatch */
    bool training;            /* else forward only */
    bool join_lookups;        /* one microbatch a step: a tied parameter's uses may be joined at once */
    uint64_t seed;            /* of dropout */
};

struct graph *graph_new(struct backend *backend, const struct graph_options *options); /* NULL: no memory */
void graph_free(struct graph *graph);

/* ---- declaring ---- */
tensor_id graph_parameter(struct graph *graph, const char *name, int dims, const int64_t *shape, struct parameter_init init);
/* rows of token_table[vocabulary, width] chosen by the input tokens, plus rows of position_table[context, width] */
tensor_id graph_embedding(struct graph *graph, tensor_id token_table, tensor_id position_table);
tensor_id graph_layer_norm(struct graph *graph, tensor_id x, tensor_id gain, tensor_id bias, double epsilon);
/* x weight^T + bias; weight[out, in]; bias may be none (-1) */
tensor_id graph_linear(struct graph *graph, tensor_id x, tensor_id weight, tensor_id bias);
tensor_id graph_attention(struct graph *graph, tensor_id qkv, int64_t heads, float dropout);
tensor_id graph_gelu(struct graph *graph, tensor_id x);
tensor_id graph_dropout(struct graph *graph, tensor_id x, float rate);
tensor_id graph_residual(struct graph *graph, tensor_id x, tensor_id h, float dropout); /* x + dropout(h) */
/* The end of a stage that computes losses against the targets: weight[vocabulary, width]. */
void graph_classifier(struct graph *graph, tensor_id x, tensor_id weight);

cairn_err graph_finish(struct graph *graph);

/* ---- what it came to ---- */
int graph_parameter_count(const struct graph *graph);
const struct parameter *graph_parameter_at(const struct graph *graph, int index); /* in the order of names */
int64_t graph_parameter_elements(const struct graph *graph); /* of the flat vector, gaps included */
int64_t graph_gradient_elements(const struct graph *graph);  /* the same and the lookups apart */
size_t graph_arena_bytes(const struct graph *graph);

/* ---- running ---- */

/* Where the parameters' compute copy is: act elements, flat. Read at every run. */
void graph_bind_parameters(struct graph *graph, const void *parameters);

/* Forward: INPUTS and TARGETS [samples, context]. TARGETS may be NULL where there is no classifier. Dropout acts only in
 * graph_forward_backward. */
void graph_forward(struct graph *graph, const int32_t *inputs, const int32_t *targets);

/* Forward and backward of microbatch MICROBATCH of STEP: gradients of LOSS_SCALE * (sum of losses) into GRADIENT
 * (graph_gradient_elements of acc, overwritten). */
void graph_forward_backward(struct graph *graph, const int32_t *inputs, const int32_t *targets, int64_t step, int64_t microbatch,
                            double loss_scale, void *gradient);

/* After a run with a classifier: the losses of the first ROWS rows, or the mean over all, summed in their order in float64. */
double graph_sum_losses(const struct graph *graph, int64_t rows);
double graph_mean_loss(const struct graph *graph);

/* The losses by row (acc), and a tensor's values (act) until the next run; only inference keeps every last tensor. */
const void *graph_losses(const struct graph *graph);
const void *graph_tensor_data(const struct graph *graph, tensor_id tensor);

#endif
