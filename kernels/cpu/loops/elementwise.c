#include "kernels/cpu/loops/lanes.h"
#include "kernels/cpu/loops/math.h"
#include "kernels/cpu/loops/parts.h"
#include "kernels/cpu/loops/random.h"

/* x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)) is the tanh form, without the loss of digits of 1 + tanh near -1. */
#define GELU_SCALE (2 * 0.797884560802865356f)
#define GELU_CUBIC 0.044715f

INLINE lanes gelu_exponential(lanes x)
{
    return exp_lanes(-GELU_SCALE * x * (1.0f + GELU_CUBIC * x * x));
}

INLINE void gelu_forward(void *y, const void *x, int64_t n, bool half)
{
    for (int64_t i = 0; i < n; i += LANES) {
        lanes v = lanes_load_to(x, i, n, half, 0);
        lanes_store_to(y, i, n, v / (1.0f + gelu_exponential(v)), half);
    }
}

INLINE void gelu_backward(void *dx, const void *dy, const void *x, int64_t n, bool half)
{
    for (int64_t i = 0; i < n; i += LANES) {
        lanes v = lanes_load_to(x, i, n, half, 0), d = lanes_load_to(dy, i, n, half, 0);
        lanes e = gelu_exponential(v), sigmoid = 1.0f / (1.0f + e);
        /* 1 - sigmoid = e sigmoid, without its loss of digits */
        lanes slope = GELU_SCALE * (1.0f + 3 * GELU_CUBIC * v * v);
        lanes_store_to(dx, i, n, d * sigmoid * (1.0f + v * slope * (e * sigmoid)), half);
    }
}

INLINE void swiglu_forward(void *y, const void *x, int64_t rows, int64_t width, bool half)
{
    for (int64_t r = 0; r < rows; r++) {
        const void *gate = act_at(x, 2 * r * width, half), *up = act_at(gate, width, half);
        void *out = act_at_mutable(y, r * width, half);
        for (int64_t i = 0; i < width; i += LANES) {
            lanes v = lanes_load_to(gate, i, width, half, 0);
            lanes_store_to(out, i, width, v / (1.0f + exp_lanes(-v)) * lanes_load_to(up, i, width, half, 0), half);
        }
    }
}

INLINE void swiglu_backward(void *dx, const void *dy, const void *x, int64_t rows, int64_t width, bool half)
{
    for (int64_t r = 0; r < rows; r++) {
        const void *gate = act_at(x, 2 * r * width, half), *up = act_at(gate, width, half), *d_out = act_at(dy, r * width, half);
        void *d_gate = act_at_mutable(dx, 2 * r * width, half), *d_up = act_at_mutable(d_gate, width, half);
        for (int64_t i = 0; i < width; i += LANES) {
            lanes v = lanes_load_to(gate, i, width, half, 0), d = lanes_load_to(d_out, i, width, half, 0);
            lanes e = exp_lanes(-v), sigmoid = 1.0f / (1.0f + e);
            lanes_store_to(d_up, i, width, d * (v * sigmoid), half);
            d *= lanes_load_to(up, i, width, half, 0);
            lanes_store_to(d_gate, i, width, d * sigmoid * (1.0f + v * (e * sigmoid)), half); /* 1 - sigmoid = e sigmoid */
        }
    }
}

/* Elements at..at+31 of n, their random words given. */
INLINE void add_dropout_words(void *y, const void *x, const void *h, int64_t at, int64_t n, const uint32_t *words, uint32_t threshold,
                              float scale, bool half)
{
    for (int64_t i = at; i < at + RANDOM_WORDS && i < n; i += LANES) {
        lanes v = lanes_load_to(h, i, n, half, 0) * keep_factors(words + (i - at), threshold, scale);
        if (x != NULL)
            v += lanes_load_to(x, i, n, half, 0);
        lanes_store_to(y, i, n, v, half);
    }
}

INLINE void add_dropout(void *y, const void *x, const void *h, int64_t n, const struct dropout *d, uint64_t first, bool half)
{
    uint32_t words[RANDOM_WORDS], threshold = dropout_threshold(d->rate);
    float scale = (float)dropout_scale(d->rate);
    if (d->rate == 0)
        memset(words, 0xff, sizeof words);
    for (int64_t i = 0; i < n; i += RANDOM_WORDS) {
        if (d->rate != 0)
            random_words(words, d->key, d->step, (first + (uint64_t)i) / 4);
        add_dropout_words(y, x, h, i, n, words, threshold, scale, half);
    }
}

INLINE void add_rows(void *y, const void *a, const void *b, int64_t n, bool half)
{
    for (int64_t i = 0; i < n; i += LANES)
        lanes_store_to(y, i, n, lanes_load_to(a, i, n, half, 0) + lanes_load_to(b, i, n, half, 0), half);
}

INLINE void accumulate(float *sum, const void *x, int64_t n, bool half)
{
    for (int64_t i = 0; i < n; i += LANES)
        lanes_store_to(sum, i, n, lanes_load_to(sum, i, n, false, 0) + lanes_load_to(x, i, n, half, 0), false);
}

INLINE void from_float(void *y, const float *x, int64_t n, bool half)
{
    for (int64_t i = 0; i < n; i += LANES)
        lanes_store_to(y, i, n, lanes_load_to(x, i, n, false, 0), half);
}

INLINE void to_float(float *y, const void *x, int64_t n, bool half)
{
    for (int64_t i = 0; i < n; i += LANES)
        lanes_store_to(y, i, n, lanes_load_to(x, i, n, half, 0), false);
}

INLINE void from_float_scaled(void *y, const float *x, float factor, int64_t n, bool half)
{
    for (int64_t i = 0; i < n; i += LANES)
        lanes_store_to(y, i, n, factor * lanes_load_to(x, i, n, false, 0), half);
}

/* The loops for one type of act. */
#define FOR_ACT(type, half) \
    static void gelu_forward_##type(void *y, const void *x, int64_t n) \
    { \
        gelu_forward(y, x, n, half); \
    } \
    static void gelu_backward_##type(void *dx, const void *dy, const void *x, int64_t n) \
    { \
        gelu_backward(dx, dy, x, n, half); \
    } \
    static void swiglu_forward_##type(void *y, const void *x, int64_t rows, int64_t width) \
    { \
        swiglu_forward(y, x, rows, width, half); \
    } \
    static void swiglu_backward_##type(void *dx, const void *dy, const void *x, int64_t rows, int64_t width) \
    { \
        swiglu_backward(dx, dy, x, rows, width, half); \
    } \
    static void add_dropout_##type(void *y, const void *x, const void *h, int64_t n, const struct dropout *d, uint64_t first) \
    { \
        add_dropout(y, x, h, n, d, first, half); \
    } \
    static void add_rows_##type(void *y, const void *a, const void *b, int64_t n) \
    { \
        add_rows(y, a, b, n, half); \
    } \
    static void accumulate_##type(float *sum, const void *x, int64_t n) \
    { \
        accumulate(sum, x, n, half); \
    } \
    static void from_float_##type(void *y, const float *x, int64_t n) \
    { \
        from_float(y, x, n, half); \
    } \
    static void to_float_##type(float *y, const void *x, int64_t n) \
    { \
        to_float(y, x, n, half); \
    } \
    static void from_float_scaled_##type(void *y, const float *x, float factor, int64_t n) \
    { \
        from_float_scaled(y, x, factor, n, half); \
    } \
    static void fill_##type(struct act_loops *act) \
    { \
        act->gelu_forward = gelu_forward_##type; \
        act->gelu_backward = gelu_backward_##type; \
        act->swiglu_forward = swiglu_forward_##type; \
        act->swiglu_backward = swiglu_backward_##type; \
        act->add_dropout = add_dropout_##type; \
        act->add_rows = add_rows_##type; \
        act->accumulate = accumulate_##type; \
        act->from_float = from_float_##type; \
        act->to_float = to_float_##type; \
        act->from_float_scaled = from_float_scaled_##type; \
    }

FOR_ACT(f32, false)
FOR_ACT(bf16, true)

void PART(elementwise)(struct cpu_loops *loops)
{
    fill_f32(&loops->act[0]);
    fill_bf16(&loops->act[1]);
}
