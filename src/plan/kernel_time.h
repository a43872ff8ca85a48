/* How long kernels take on one GPU: pure functions of shapes and of the GPU's row in the hardware table. Seconds. */
#ifndef PLAN_KERNEL_TIME_H
#define PLAN_KERNEL_TIME_H

#include "plan/hardware.h"

/* COUNT products of [m,k] by [k,n] in one launch, their results of RESULT_BYTES an element (read too if ADDS). The longer of two:
 * - tiles of the result dealt to the processors in waves, each tile taking its operations at the sustained rate and a fixed time to
 *   fill and drain, with the tile size and division of k that is fastest;
 * - operands read and results written once. */
struct product_shape {
    double m, n, k;
    double count;
    int result_bytes;
    bool adds;
};
double kernel_product_seconds(const struct hardware_gpu *gpu, enum plan_type type, const struct product_shape *shape);

/* BYTES read and written by LAUNCHES kernels that compute little. */
double kernel_stream_seconds(const struct hardware_gpu *gpu, double bytes, double launches);

/* Fused causal attention: ROWS queries, each over CONTEXT keys of which causality takes half; WIDTH numbers in heads of HEAD_SIZE. */
struct attention_shape {
    double rows, context, width, head_size;
    int flash; /* generation */
};
double kernel_attention_forward(const struct hardware_gpu *gpu, enum plan_type type, const struct attention_shape *shape);
double kernel_attention_backward(const struct hardware_gpu *gpu, enum plan_type type, const struct attention_shape *shape);

#endif
