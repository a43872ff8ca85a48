/* The MLPs of the experts that a rank holds, y = gelu(x expand^T + expand_bias) contract^T + contract_bias for each, made of
 * any backend's products. Packed rows are one source's, as dispatch leaves them and an all-to-all delivers them:
 * [experts][capacity][width]. Of S sources there are S such blocks behind each other, and the caller calls once for each:
 * - What is computed of a source's rows has the same bits whether they came from another rank or not, and the weights'
 *   gradients of each source's microbatch stay apart where the caller wants to sum them in one order. Joining an expert's rows
 *   of four sources into one product would save 3 % of the time at a capacity of 640 rows, 6 % at 160, 15 % at 80, 37 % at 40.
 * - An expert's rows of one source lie on the wire as the product wants them: nothing is moved between.
 * Products run over the rows that an expert has, rounded up to sixteenths of the capacity, because plans are made ahead for
 * fixed shapes: with a capacity factor of 1.25 that takes 5 to 18 % less time than whole capacities, with a factor of 2 46 %
 * less. All on one core (AVX-512, float32, nearly even load), by tests/bench/bench_experts. */
#ifndef KERNELS_EXPERT_MLP_H
#define KERNELS_EXPERT_MLP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct backend;

struct expert_mlp_desc {
    int64_t experts, capacity, width, hidden; /* experts: those of this rank; hidden: this rank's, where tensor ranks share it */
    bool whole;                               /* counts will always be NULL: only whole capacities are planned for */
    bool adds_no_bias;                        /* contract_bias is left out of y: of tensor ranks, whose y are summed, one adds it */
};
struct expert_mlp; /* plans; opaque */

/* Of act. */
struct expert_weights {
    const void *expand, *expand_bias;     /* [experts, hidden, width], [experts, hidden] */
    const void *contract, *contract_bias; /* [experts, width, hidden], [experts, width] */
};

/* The same shapes, of acc. */
struct expert_gradients {
    void *expand, *expand_bias, *contract, *contract_bias;
};

/* Fails as the backend's products do, and with CAIRN_ENOMEM. */
cairn_err expert_mlp_create(struct backend *, const struct expert_mlp_desc *, struct expert_mlp **);
void expert_mlp_destroy(struct expert_mlp *);

/* COUNTS[experts]: how many rows each expert has of this source, in the processor's memory; NULL: the whole capacity. Rows of
 * x and dy behind them must be zero (dispatch and combine_backward leave them so); those of outputs behind them are
 * undefined, and an expert without rows writes none. inner and active [experts, capacity, hidden] are kept for the
 * backward passes. */
void expert_mlp_forward(struct expert_mlp *, void *y, void *inner, void *active, const void *x, const struct expert_weights *,
                        const int32_t *counts);
/* d_inner is kept for backward_weight. */
void expert_mlp_backward_input(struct expert_mlp *, void *dx, void *d_inner, const void *dy, const void *inner,
                               const struct expert_weights *, const int32_t *counts);
/* Overwrites the gradients, those of experts without rows by zeros; with ADD adds to them, which is how sources can be summed. */
void expert_mlp_backward_weight(struct expert_mlp *, const struct expert_gradients *, const void *d_inner, const void *dy,
                                const void *x, const void *active, const int32_t *counts, bool add);

#endif
