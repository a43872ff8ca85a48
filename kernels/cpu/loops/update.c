#include <math.h>

#include "kernels/cpu/loops/lanes.h"
#include "kernels/cpu/loops/parts.h"

typedef double double_lanes __attribute__((vector_size(64)));
typedef float half_width __attribute__((vector_size(32)));

static void add(float *sum, const float *a, const float *b, int64_t n)
{
    for (int64_t i = 0; i < n; i += LANES)
        lanes_store_to(sum, i, n, lanes_load_to(a, i, n, false, 0) + lanes_load_to(b, i, n, false, 0), false);
}

static void scale_add(float *sum, float factor, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += LANES)
        lanes_store_to(sum, i, n, factor * lanes_load_to(sum, i, n, false, 0) + lanes_load_to(x, i, n, false, 0), false);
}

static double sum_squares(const float *x, int64_t n)
{
    double_lanes sums[2] = {{0}, {0}};
    for (int64_t i = 0; i < n; i += LANES) {
        lanes v = lanes_load_to(x, i, n, false, 0);
        half_width part[2];
        memcpy(part, &v, sizeof v);
        for (int h = 0; h < 2; h++) {
            double_lanes d = __builtin_convertvector(part[h], double_lanes);
            sums[h] += d * d;
        }
    }
    double s[LANES];
    memcpy(s, sums, sizeof s);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            s[i] += s[i + width];
    return s[0];
}

/* An update's constants, taken from struct adamw once: all else is done in float. */
struct update {
    float beta1, one_less_beta1, beta2, one_less_beta2, gradient_scale;
    float decay;            /* 1 - learning rate * weight decay */
    float step;             /* learning rate / (1 - beta1^step) */
    float root_correction2; /* 1 / sqrt(1 - beta2^step) */
    float epsilon;
};

static struct update update_of(const struct adamw *o)
{
    return (struct update){
        .beta1 = (float)o->beta1,
        .one_less_beta1 = (float)(1 - o->beta1),
        .beta2 = (float)o->beta2,
        .one_less_beta2 = (float)(1 - o->beta2),
        .gradient_scale = (float)o->gradient_scale,
        .decay = (float)(1 - o->learning_rate * o->weight_decay),
        .step = (float)(o->learning_rate / (1 - pow(o->beta1, (double)o->step))),
        .root_correction2 = (float)(1 / sqrt(1 - pow(o->beta2, (double)o->step))),
        .epsilon = (float)o->epsilon,
    };
}

INLINE lanes lanes_sqrt(lanes v)
{
    float x[LANES];
    memcpy(x, &v, sizeof x);
#pragma omp simd
    for (int l = 0; l < LANES; l++)
        x[l] = sqrtf(x[l]);
    memcpy(&v, x, sizeof v);
    return v;
}

static void adamw(float *master, float *moment1, float *moment2, uint16_t *compute, const float *gradient, int64_t n,
                  const struct adamw *options)
{
    const struct update u = update_of(options);
    for (int64_t i = 0; i < n; i += LANES) {
        lanes g = lanes_load_to(gradient, i, n, false, 0) * u.gradient_scale;
        lanes m1 = u.beta1 * lanes_load_to(moment1, i, n, false, 0) + u.one_less_beta1 * g;
        lanes m2 = u.beta2 * lanes_load_to(moment2, i, n, false, 0) + u.one_less_beta2 * (g * g);
        lanes w = lanes_load_to(master, i, n, false, 0) * u.decay;
        w -= u.step * m1 / (lanes_sqrt(m2) * u.root_correction2 + u.epsilon);
        lanes_store_to(moment1, i, n, m1, false);
        lanes_store_to(moment2, i, n, m2, false);
        lanes_store_to(master, i, n, w, false);
        if (compute != NULL)
            lanes_store_to(compute, i, n, w, true);
    }
}

void PART(update)(struct cpu_loops *loops)
{
    loops->add = add;
    loops->scale_add = scale_add;
    loops->sum_squares = sum_squares;
    loops->adamw = adamw;
}
