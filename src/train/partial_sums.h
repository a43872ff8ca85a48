/* The sums of a gradient that need no other rank: microbatches joined along the tree as far as they go, squares for the norm. */
#ifndef TRAIN_PARTIAL_SUMS_H
#define TRAIN_PARTIAL_SUMS_H

#include "base/exact_sum.h"
#include "kernels/backend.h"
#include "mesh/tree.h"

/* The gradient of MICROBATCH was written to SLOTS[stack->count], at elements OFFSET.. of that vector, ELEMENTS of them (acc): it is joined
 * to those before, so that SLOTS[i] holds the sum of node i of STACK. */
void partial_sums_push(struct backend *backend, struct tree_stack *stack, void *const *slots, int64_t offset, int64_t elements,
                       int64_t microbatch);

/* Adds the squares of COUNT elements, which begin at a chunk of the norm (NORM_CHUNK), to TOTAL. SQUARES has room for one double a chunk. */
void partial_sums_squares(struct backend *backend, const void *elements, int64_t count, double *squares, struct exact_sum *total);

#endif
