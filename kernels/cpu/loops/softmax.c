#include <math.h>

#include "kernels/cpu/loops/lanes.h"
#include "kernels/cpu/loops/math.h"
#include "kernels/cpu/loops/parts.h"
#include "kernels/cpu/loops/random.h"

static float greatest_of(const float *x, int64_t n)
{
    lanes greatest = lanes_of(-INFINITY);
    for (int64_t i = 0; i < n; i += LANES)
        greatest = lanes_max(greatest, lanes_load_to(x, i, n, false, -INFINITY));
    return lanes_greatest(greatest);
}

static void zero_behind(float *x, int64_t n, int64_t padded)
{
    memset(x + n, 0, (size_t)(padded - n) * sizeof *x);
}

static float exponentials(float *s, int64_t n, int64_t padded, float scale, struct running_sum *run)
{
    float before = run->greatest, greatest = scale * greatest_of(s, n);
    greatest = greatest < before ? before : greatest;
    lanes sums = {0};
    for (int64_t i = 0; i < n; i += LANES) {
        lanes e = exp_lanes(lanes_load_to(s, i, n, false, -INFINITY) * scale - greatest);
        sums += e;
        lanes_store_to(s, i, n, e, false);
    }
    zero_behind(s, n, padded);
    float factor = expf(before - greatest);
    *run = (struct running_sum){greatest, run->sum * factor + lanes_sum(sums)};
    return factor;
}

static float softmax(float *s, int64_t n, int64_t padded, float scale)
{
    struct running_sum run = {-INFINITY, 0};
    exponentials(s, n, padded, scale, &run);
    float inverse = 1 / run.sum;
    for (int64_t i = 0; i < n; i += LANES)
        lanes_store_to(s, i, n, lanes_load_to(s, i, n, false, 0) * inverse, false);
    return run.greatest + logf(run.sum);
}

static void probabilities(float *s, int64_t n, int64_t padded, float scale, float log_sum)
{
    for (int64_t i = 0; i < n; i += LANES)
        lanes_store_to(s, i, n, exp_lanes(lanes_load_to(s, i, n, false, 0) * scale - log_sum), false);
    zero_behind(s, n, padded);
}

static void score_gradients(float *ds, const float *p, const float *dp, int64_t n, int64_t padded, float scale, float average)
{
    for (int64_t i = 0; i < n; i += LANES) {
        lanes d = scale * lanes_load_to(p, i, n, false, 0) * (lanes_load_to(dp, i, n, false, 0) - average);
        lanes_store_to(ds, i, n, d, false);
    }
    zero_behind(ds, n, padded);
}

static void dropout_factors(float *y, const float *x, int64_t n, const struct dropout *d, uint64_t first)
{
    uint32_t words[RANDOM_WORDS + 4], threshold = dropout_threshold(d->rate);
    float scale = (float)dropout_scale(d->rate);
    int64_t begin = (int64_t)(first % 4); /* the element's place among the words of its counter */
    for (int64_t i = -begin; i < n; i += RANDOM_WORDS) {
        random_words(words, d->key, d->step, (first + (uint64_t)(i + begin)) / 4);
        for (int64_t w = i < 0 ? -i : 0; w < RANDOM_WORDS && i + w < n; w++)
            y[i + w] = x[i + w] * (words[w] >= threshold ? scale : 0);
    }
}

static float dot(const float *a, const float *b, int64_t n)
{
    lanes sum = {0};
    for (int64_t i = 0; i < n; i += LANES)
        sum += lanes_load_to(a, i, n, false, 0) * lanes_load_to(b, i, n, false, 0);
    return lanes_sum(sum);
}

static void running_sum(struct running_sum *run, const float *x, int64_t n)
{
    float greatest = greatest_of(x, n);
    if (greatest > run->greatest) {
        run->sum *= expf(run->greatest - greatest);
        run->greatest = greatest;
    }
    lanes sums = {0};
    for (int64_t i = 0; i < n; i += LANES)
        sums += exp_lanes(lanes_load_to(x, i, n, false, -INFINITY) - run->greatest);
    run->sum += lanes_sum(sums);
}

INLINE void softmax_gradient(void *d_logits, const float *logits, int64_t n, float log_sum, float scale, bool half)
{
    for (int64_t i = 0; i < n; i += LANES)
        lanes_store_to(d_logits, i, n, scale * exp_lanes(lanes_load_to(logits, i, n, false, 0) - log_sum), half);
}

static void softmax_gradient_f32(void *d_logits, const float *logits, int64_t n, float log_sum, float scale)
{
    softmax_gradient(d_logits, logits, n, log_sum, scale, false);
}

static void softmax_gradient_bf16(void *d_logits, const float *logits, int64_t n, float log_sum, float scale)
{
    softmax_gradient(d_logits, logits, n, log_sum, scale, true);
}

void PART(softmax)(struct cpu_loops *loops)
{
    loops->exponentials = exponentials;
    loops->softmax = softmax;
    loops->probabilities = probabilities;
    loops->score_gradients = score_gradients;
    loops->dropout_factors = dropout_factors;
    loops->dot = dot;
    loops->running_sum = running_sum;
    loops->act[0].softmax_gradient = softmax_gradient_f32;
    loops->act[1].softmax_gradient = softmax_gradient_bf16;
}
