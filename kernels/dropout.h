/* What all backends must agree on about dropout (backend.h defines it). */
#ifndef KERNELS_DROPOUT_H
#define KERNELS_DROPOUT_H

#include "kernels/backend.h"

static inline uint32_t dropout_threshold(float rate)
{
    return (uint32_t)((double)rate * 0x1p32);
}

static inline double dropout_scale(float rate)
{
    return 1.0 / (1.0 - (double)rate);
}

/* Whether the whole batch's element ELEMENT is kept. */
static inline bool dropout_keeps(const struct dropout *d, uint64_t element)
{
    uint32_t words[4];
    philox4x32(d->key, d->step, element / 4, words);
    return words[element % 4] >= dropout_threshold(d->rate);
}

#endif
