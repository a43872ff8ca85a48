#include <math.h>

#include "kernels/cpu/loops/lanes.h"
#include "kernels/cpu/loops/parts.h"

/* Lanes behind the row's end: where N elements are left, those from N on are set to 0. */
INLINE lanes cut(lanes v, int64_t n)
{
    const int_lanes number = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return n >= LANES ? v : (lanes)((int_lanes)(number < (int32_t)n) & (int_lanes)v);
}

/* A constant of each loop; an RMS norm has neither mean nor bias. */
enum norm { RMS_NORM, LAYER_NORM };

INLINE void norm_forward(void *y, float *mean, float *rstd, const void *x, const void *gain, const void *bias, int64_t rows,
                         int64_t width, float epsilon, enum norm norm, bool half)
{
    for (int64_t r = 0; r < rows; r++) {
        const void *in = act_at(x, r * width, half);
        void *out = act_at_mutable(y, r * width, half);
        lanes sum = {0}, squares = {0};
        for (int64_t i = 0; norm == LAYER_NORM && i < width; i += LANES)
            sum += lanes_load_to(in, i, width, half, 0);
        float m = norm == LAYER_NORM ? lanes_sum(sum) / (float)width : 0;
        for (int64_t i = 0; i < width; i += LANES) {
            lanes d = cut(lanes_load_to(in, i, width, half, 0) - m, width - i);
            squares += d * d;
        }
        float s = 1 / sqrtf(lanes_sum(squares) / (float)width + epsilon);
        for (int64_t i = 0; i < width; i += LANES) {
            lanes normal = (lanes_load_to(in, i, width, half, 0) - m) * s, g = lanes_load_to(gain, i, width, half, 0);
            lanes_store_to(out, i, width, norm == LAYER_NORM ? normal * g + lanes_load_to(bias, i, width, half, 0) : normal * g, half);
        }
        if (norm == LAYER_NORM)
            mean[r] = m;
        rstd[r] = s;
    }
}

INLINE void norm_backward_input(void *dx, const void *dy, const void *x, const void *gain, const float *mean, const float *rstd,
                                int64_t rows, int64_t width, bool add_to_dx, enum norm norm, bool half)
{
    for (int64_t r = 0; r < rows; r++) {
        const void *d_out = act_at(dy, r * width, half), *in = act_at(x, r * width, half);
        void *d_in = act_at_mutable(dx, r * width, half);
        float m = norm == LAYER_NORM ? mean[r] : 0, s = rstd[r];
        lanes sum_g = {0}, sum_gn = {0};
        for (int64_t i = 0; i < width; i += LANES) {
            lanes g = lanes_load_to(d_out, i, width, half, 0) * lanes_load_to(gain, i, width, half, 0);
            sum_g += g;
            sum_gn += g * ((lanes_load_to(in, i, width, half, 0) - m) * s);
        }
        float average_g = norm == LAYER_NORM ? lanes_sum(sum_g) / (float)width : 0, average_gn = lanes_sum(sum_gn) / (float)width;
        for (int64_t i = 0; i < width; i += LANES) {
            lanes g = lanes_load_to(d_out, i, width, half, 0) * lanes_load_to(gain, i, width, half, 0);
            lanes normal = (lanes_load_to(in, i, width, half, 0) - m) * s;
            lanes d = s * (g - average_g - normal * average_gn);
            if (add_to_dx)
                d += lanes_load_to(d_in, i, width, half, 0);
            lanes_store_to(d_in, i, width, d, half);
        }
    }
}

/* Rows added to the column sums at once: they are so many streams that memory is read from. */
enum { ROWS_AT_ONCE = 8 };

/* Adds ROWS rows' elements of sixteen columns (or the N - I left) to the sums, row by row. */
INLINE void column_sums_block(float *d_bias, float *d_gain, const void *dy, const void *x, const float *mean, const float *rstd,
                              int64_t rows, int64_t width, int64_t i, int64_t end, bool half)
{
    lanes bias = {0}, gain = {0};
    if (d_bias != NULL)
        bias = lanes_load_to(d_bias, i, end, false, 0);
    if (d_gain != NULL)
        gain = lanes_load_to(d_gain, i, end, false, 0);
    for (int64_t r = 0; r < rows; r++) {
        lanes d = lanes_load_to(act_at(dy, r * width, half), i, end, half, 0);
        if (d_bias != NULL)
            bias += d;
        if (d_gain != NULL)
            gain += d * ((lanes_load_to(act_at(x, r * width, half), i, end, half, 0) - (d_bias != NULL ? mean[r] : 0)) * rstd[r]);
    }
    if (d_bias != NULL)
        lanes_store_to(d_bias, i, end, bias, false);
    if (d_gain != NULL)
        lanes_store_to(d_gain, i, end, gain, false);
}

INLINE void column_sums(float *d_bias, float *d_gain, const void *dy, const void *x, const float *mean, const float *rstd,
                        int64_t rows, int64_t width, int64_t begin, int64_t end, bool half)
{
    if (d_bias != NULL)
        memset(d_bias + begin, 0, (size_t)(end - begin) * sizeof *d_bias);
    if (d_gain != NULL)
        memset(d_gain + begin, 0, (size_t)(end - begin) * sizeof *d_gain);
    for (int64_t r = 0; r < rows; r += ROWS_AT_ONCE) {
        int64_t some = rows - r < ROWS_AT_ONCE ? rows - r : ROWS_AT_ONCE;
        const void *d = act_at(dy, r * width, half), *in = d_gain != NULL ? act_at(x, r * width, half) : NULL;
        for (int64_t i = begin; i < end; i += LANES) {
            if (d_gain == NULL)
                column_sums_block(d_bias, NULL, d, NULL, NULL, NULL, some, width, i, end, half);
            else if (d_bias == NULL)
                column_sums_block(NULL, d_gain, d, in, NULL, rstd + r, some, width, i, end, half);
            else
                column_sums_block(d_bias, d_gain, d, in, mean + r, rstd + r, some, width, i, end, half);
        }
    }
}

/* The loops for one type of act. */
#define FOR_ACT(type, half) \
    static void layer_norm_forward_##type(void *y, float *mean, float *rstd, const void *x, const void *gain, const void *bias, \
                                          int64_t rows, int64_t width, float epsilon) \
    { \
        norm_forward(y, mean, rstd, x, gain, bias, rows, width, epsilon, LAYER_NORM, half); \
    } \
    static void layer_norm_backward_input_##type(void *dx, const void *dy, const void *x, const void *gain, const float *mean, \
                                                 const float *rstd, int64_t rows, int64_t width, bool add_to_dx) \
    { \
        norm_backward_input(dx, dy, x, gain, mean, rstd, rows, width, add_to_dx, LAYER_NORM, half); \
    } \
    static void rms_norm_forward_##type(void *y, float *rstd, const void *x, const void *gain, int64_t rows, int64_t width, float epsilon) \
    { \
        norm_forward(y, NULL, rstd, x, gain, NULL, rows, width, epsilon, RMS_NORM, half); \
    } \
    static void rms_norm_backward_input_##type(void *dx, const void *dy, const void *x, const void *gain, const float *rstd, \
                                               int64_t rows, int64_t width, bool add_to_dx) \
    { \
        norm_backward_input(dx, dy, x, gain, NULL, rstd, rows, width, add_to_dx, RMS_NORM, half); \
    } \
    static void column_sums_##type(float *d_bias, float *d_gain, const void *dy, const void *x, const float *mean, \
                                   const float *rstd, int64_t rows, int64_t width, int64_t begin, int64_t end) \
    { \
        column_sums(d_bias, d_gain, dy, x, mean, rstd, rows, width, begin, end, half); \
    } \
    static void fill_##type(struct act_loops *act) \
    { \
        act->layer_norm_forward = layer_norm_forward_##type; \
        act->layer_norm_backward_input = layer_norm_backward_input_##type; \
        act->rms_norm_forward = rms_norm_forward_##type; \
        act->rms_norm_backward_input = rms_norm_backward_input_##type; \
        act->column_sums = column_sums_##type; \
    }

FOR_ACT(f32, false)
FOR_ACT(bf16, true)

void PART(norm)(struct cpu_loops *loops)
{
    fill_f32(&loops->act[0]);
    fill_bf16(&loops->act[1]);
}
