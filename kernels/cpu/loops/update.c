#include <math.h>

#include "base/least.h"
#include "kernels/cpu/loops/lanes.h"
#include "kernels/cpu/loops/parts.h"
#include "kernels/cpu/loops/random.h"

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

static struct update update_of(const struct adamw *o, bool decays)
{
    return (struct update){
        .beta1 = (float)o->beta1,
        .one_less_beta1 = (float)(1 - o->beta1),
        .beta2 = (float)o->beta2,
        .one_less_beta2 = (float)(1 - o->beta2),
        .gradient_scale = (float)o->gradient_scale,
        .decay = (float)(1 - o->learning_rate * (decays ? o->weight_decay : 0)),
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

/* Elements that are rounded with random halves found at once, and the words that those of the last lanes need too. */
enum { ROUNDED = 512, ROUNDING_WORDS = ROUNDED / 2 + RANDOM_WORDS };

/* Random halves, at least N, from that of position FIRST on, in memory as backend.h orders them; returns where the first is. */
INLINE const uint16_t *random_halves(uint32_t words[ROUNDING_WORDS], struct philox_key key, uint64_t step, uint64_t first, int64_t n)
{
    int64_t before = (int64_t)(first % 8), end = before + (n + LANES - 1) / LANES * LANES;
    for (int64_t w = 0; 2 * w < end; w += RANDOM_WORDS)
        random_words(words + w, key, step, first / 8 + (uint64_t)w / 4);
    return (const uint16_t *)(const void *)words + before;
}

static void round_stochastically(uint16_t *y, const float *x, int64_t n, struct philox_key key, uint64_t step, uint64_t first)
{
    uint32_t words[ROUNDING_WORDS];
    for (int64_t at = 0; at < n; at += ROUNDED) {
        int64_t end = least(at + ROUNDED, n);
        const uint16_t *random = random_halves(words, key, step, first + (uint64_t)at, end - at);
        for (int64_t i = at; i < end; i += LANES) {
            half_lanes r;
            memcpy(&r, random + (i - at), sizeof r);
            r = lanes_to_half_by(lanes_load_to(x, i, n, false, 0), r);
            if (i + LANES <= n)
                memcpy(y + i, &r, sizeof r);
            else
                memcpy(y + i, &r, (size_t)(n - i) * sizeof *y);
        }
    }
}

/* Elements BEGIN.., N of them; COMPUTE is rounded to nearest, or NULL. */
INLINE void adamw_part(const struct adamw_run *r, int64_t begin, int64_t n, const struct update *u, uint16_t *compute)
{
    float *master = (float *)r->master + begin, *moment1 = (float *)r->moment1 + begin, *moment2 = (float *)r->moment2 + begin;
    const float *gradient = (const float *)r->gradient + begin;
    for (int64_t i = 0; i < n; i += LANES) {
        lanes g = lanes_load_to(gradient, i, n, false, 0) * u->gradient_scale;
        lanes m1 = u->beta1 * lanes_load_to(moment1, i, n, false, 0) + u->one_less_beta1 * g;
        lanes m2 = u->beta2 * lanes_load_to(moment2, i, n, false, 0) + u->one_less_beta2 * (g * g);
        lanes w = lanes_load_to(master, i, n, false, 0) * u->decay;
        w -= u->step * m1 / (lanes_sqrt(m2) * u->root_correction2 + u->epsilon);
        lanes_store_to(moment1, i, n, m1, false);
        lanes_store_to(moment2, i, n, m2, false);
        lanes_store_to(master, i, n, w, false);
        if (compute != NULL)
            lanes_store_to(compute, i, n, w, true);
    }
}

static void adamw(const struct adamw_run *r, const struct adamw *options)
{
    const struct update u = update_of(options, r->decays);
    uint16_t *compute = r->compute;
    if (!options->stochastic || compute == NULL)
        adamw_part(r, 0, r->n, &u, compute);
    else
        for (int64_t at = 0; at < r->n; at += ROUNDED) { /* which the first cache holds until they are rounded */
            int64_t n = least(r->n - at, ROUNDED);
            adamw_part(r, at, n, &u, NULL);
            round_stochastically(compute + at, (const float *)r->master + at, n, r->key, (uint64_t)options->step, r->first + (uint64_t)at);
        }
}

void PART(update)(struct cpu_loops *loops)
{
    loops->add = add;
    loops->scale_add = scale_add;
    loops->sum_squares = sum_squares;
    loops->adamw = adamw;
    loops->round_stochastically = round_stochastically;
}
