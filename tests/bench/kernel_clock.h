/* A backend's table of kernels with a clock around each: what was called with which shape, how long it took, and the least
 * that it had to move and to compute. One backend a program, from one thread. */
#ifndef BENCH_KERNEL_CLOCK_H
#define BENCH_KERNEL_CLOCK_H

#include "kernels/backend.h"

#define KERNEL_LIST(X)                                                                                                  \
    X(matmul_run) X(matmul_run_gelu) X(matmul_run_d_bias) X(embedding_forward) X(embedding_backward) X(layer_norm_forward) \
    X(layer_norm_backward_input) \
    X(layer_norm_backward_weight) X(residual_layer_norm_forward) X(layer_norm_backward) \
    X(rms_norm_forward) X(rms_norm_backward_input) X(rms_norm_backward_weight) X(residual_rms_norm_forward) X(rms_norm_backward)        \
    X(bias_backward) X(gelu_forward) X(gelu_backward) X(swiglu_forward) X(swiglu_backward) X(add_dropout_forward)                       \
    X(dropout_backward) X(attention_forward) X(attention_backward) X(classifier_loss) X(classifier_loss_and_gradients)  \
    X(add) X(add_act) X(sum_squares) X(adamw) X(round_weights)                                                         \
    X(router_forward) X(router_place) X(router_backward_input) X(router_backward_weight) X(dispatch)                    \
    X(dispatch_backward) X(combine) X(combine_backward)

#define KERNEL_ENUM(name) KERNEL_##name,
enum kernel { KERNEL_LIST(KERNEL_ENUM) KERNELS };

/* Bytes that a call must read and write at least once, and the additions and multiplications of its products. What else is
 * computed (exp, square roots, sums) counts as nothing. */
struct kernel_work {
    double read, written, flops;
};

/* The calls of one kernel with one shape. */
struct kernel_line {
    enum kernel kernel;
    char shape[48];
    struct kernel_work work;
    double *seconds; /* of each call */
    int count, room;
    bool in_step;
};

enum kernel_clock_mode {
    CLOCK_OFF,
    CLOCK_STEP, /* of a training step */
    CLOCK_REST, /* of what no step calls: only kernels that CLOCK_STEP never met */
};

const char *kernel_name(enum kernel kernel);
enum kernel kernel_find(const char *name); /* KERNELS if there is none */

/* Puts the clock into B, before any plan is made; its own table is put back by kernel_clock_detach. */
void kernel_clock_attach(struct backend *b);
void kernel_clock_detach(struct backend *b);
/* Waits for a device's calls. */
void kernel_clock_set(enum kernel_clock_mode mode);

/* In the order of the first calls. Valid until the next call of a kernel. False where the memory to record ended. */
bool kernel_clock_lines(struct kernel_line **lines, int *count);

#endif
