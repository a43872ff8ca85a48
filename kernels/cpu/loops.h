/* The cpu backend's own loops: compiled once for each instruction set (loops/), reached through one table. Each works on
 * a part of a tensor on the calling thread; who calls it splits the tensor. */
#ifndef CPU_LOOPS_H
#define CPU_LOOPS_H

#include "kernels/backend.h"

/* A row of act and what it counts in a sum. */
struct weighted_row {
    const void *x;
    float weight;
};

/* Those that read or write activations; arrays of act are void. */
struct act_loops {
    void (*gelu_forward)(void *y, const void *x, int64_t n);
    void (*gelu_backward)(void *dx, const void *dy, const void *x, int64_t n);
    /* y = x + dropout(h); x may be NULL. FIRST is the position of h[0] in the whole batch's tensor, a multiple of 4. */
    void (*add_dropout)(void *y, const void *x, const void *h, int64_t n, const struct dropout *, uint64_t first);

    /* Rows of X, each its gate, then its up. */
    void (*swiglu_forward)(void *y, const void *x, int64_t rows, int64_t width);
    void (*swiglu_backward)(void *dx, const void *dy, const void *x, int64_t rows, int64_t width);

    void (*layer_norm_forward)(void *y, float *mean, float *rstd, const void *x, const void *gain, const void *bias,
                               int64_t rows, int64_t width, float epsilon);
    void (*layer_norm_backward_input)(void *dx, const void *dy, const void *x, const void *gain, const float *mean,
                                      const float *rstd, int64_t rows, int64_t width, bool add_to_dx);
    void (*rms_norm_forward)(void *y, float *rstd, const void *x, const void *gain, int64_t rows, int64_t width, float epsilon);
    void (*rms_norm_backward_input)(void *dx, const void *dy, const void *x, const void *gain, const float *rstd, int64_t rows,
                                    int64_t width, bool add_to_dx);
    /* d_bias[i] = sum over rows of dy, d_gain[i] = sum of dy * normal for columns BEGIN..END-1; either may be NULL: without d_bias the
     * normal is RMS norm's, and MEAN is not read. */
    void (*column_sums)(float *d_bias, float *d_gain, const void *dy, const void *x, const float *mean, const float *rstd,
                        int64_t rows, int64_t width, int64_t begin, int64_t end);

    /* y = a + b */
    void (*add_rows)(void *y, const void *a, const void *b, int64_t n);
    /* sum += x */
    void (*accumulate)(float *sum, const void *x, int64_t n);
    void (*from_float)(void *y, const float *x, int64_t n);
    void (*to_float)(float *y, const void *x, int64_t n);
    /* y = factor * x */
    void (*from_float_scaled)(void *y, const float *x, float factor, int64_t n);
    /* dlogits = scale * exp(logits - log_sum); may be in place */
    void (*softmax_gradient)(void *d_logits, const float *logits, int64_t n, float log_sum, float scale);
    /* Copies rows of SIZE elements, STRIDE elements apart, to rows of PADDED floats, zeros behind them. */
    void (*pack)(float *packed, int64_t padded, const void *x, int64_t stride, int64_t rows, int64_t size);
    /* The same, transposed: packed[SIZE][padded], zeros behind the rows. */
    void (*pack_transposed)(float *packed, int64_t padded, const void *x, int64_t stride, int64_t rows, int64_t size);
    /* Copies back: rows of SIZE elements, STRIDE apart, from rows of PADDED floats. */
    void (*unpack)(void *x, int64_t stride, const float *packed, int64_t padded, int64_t rows, int64_t size);
    /* y = sum of COUNT rows, in their order; y may be one of them */
    void (*weighted_sum)(void *y, const struct weighted_row *rows, int64_t count, int64_t n);
    float (*row_product)(const void *a, const void *b, int64_t n);
};

/* A small product on one thread: c[m, n] = a b (+ c). Element (i, l) of a is a[i * a_row + l * a_column], one of which is
 * 1; n is a multiple of 16 and rows of b and c are that long at least. */
struct small_product {
    float *c;
    const float *a, *b;
    int64_t ldc, a_row, a_column, ldb, m, n, k;
    bool accumulate;
};

/* The greatest of a row so far, and the sum of the exponentials less it. */
struct running_sum {
    float greatest, sum;
};

struct cpu_loops {
    struct act_loops act[2]; /* float32, bfloat16 */

    void (*product)(const struct small_product *);
    /* Scores s[0..n-1] to exp(scale * s - greatest), in place; zeros up to PADDED. RUN goes on over the scaled scores; returns
     * what sums taken so far are to be multiplied by, the greatest having grown. */
    float (*exponentials)(float *s, int64_t n, int64_t padded, float scale, struct running_sum *run);
    /* Scores s[0..n-1] to probabilities of scale * s, in place; zeros up to PADDED. Returns the log of the sum. */
    float (*softmax)(float *s, int64_t n, int64_t padded, float scale);
    /* s = exp(scale * s - log_sum), zeros from n up to PADDED */
    void (*probabilities)(float *s, int64_t n, int64_t padded, float scale, float log_sum);
    /* ds = scale * p * (dp - average) into ds, zeros from n up to PADDED */
    void (*score_gradients)(float *ds, const float *p, const float *dp, int64_t n, int64_t padded, float scale, float average);
    /* y[i] = x[i] * (0 or the scale of kept elements), element i at FIRST + i of the tensor, any number */
    void (*dropout_factors)(float *y, const float *x, int64_t n, const struct dropout *, uint64_t first);
    float (*dot)(const float *a, const float *b, int64_t n);
    void (*running_sum)(struct running_sum *, const float *x, int64_t n);

    void (*add)(float *sum, const float *a, const float *b, int64_t n);
    /* sum = factor * sum + x */
    void (*scale_add)(float *sum, float factor, const float *x, int64_t n);
    double (*sum_squares)(const float *x, int64_t n);
    /* The run's COMPUTE: bfloat16 or NULL */
    void (*adamw)(const struct adamw_run *, const struct adamw *);
    /* y = x rounded stochastically, x[0] being at FIRST */
    void (*round_stochastically)(uint16_t *y, const float *x, int64_t n, struct philox_key, uint64_t step, uint64_t first);
};

void loops_baseline_fill(struct cpu_loops *);
void loops_v3_fill(struct cpu_loops *);
void loops_v4_fill(struct cpu_loops *);

#endif
