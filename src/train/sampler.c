#include "train/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"

static int descending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

static int64_t likeliest(const float *logits, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

/* The K-th largest logit: those below it are not chosen. */
static double threshold_of(const float *logits, int64_t n, int64_t k, double *scratch)
{
    for (int64_t i = 0; i < n; i++)
        scratch[i] = (double)logits[i];
    qsort(scratch, (size_t)n, sizeof *scratch, descending);
    return scratch[k - 1];
}

int64_t sampler_choose(const struct sampler_options *o, const float *logits, int64_t n, int64_t position, double *scratch)
{
    int64_t best = likeliest(logits, n);
    if (o->temperature <= 0)
        return best;
    double lowest = o->top_k > 0 && o->top_k < n ? threshold_of(logits, n, o->top_k, scratch) : -INFINITY;
    double total = 0;
    for (int64_t i = 0; i < n; i++) {
        scratch[i] = (double)logits[i] < lowest ? 0 : exp((double)(logits[i] - logits[best]) / o->temperature);
        total += scratch[i];
    }
    uint32_t word[4];
    philox4x32(philox_key_make(o->seed, STREAM_GENERATE, 0), 0, (uint64_t)position, word);
    double target = (double)philox_uniform(word[0]) * total;
    for (int64_t i = 0; i < n; i++) {
        target -= scratch[i];
        if (target < 0 && scratch[i] > 0)
            return i;
    }
    return best;
}
