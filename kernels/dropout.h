/* What all backends must agree on about dropout (backend.h defines it). */
#ifndef KERNELS_DROPOUT_H
#define KERNELS_DROPOUT_H

#include "base/device_code.h"
#include "kernels/backend.h"

DEVICE_CODE static inline uint32_t dropout_threshold(float rate)
{
    return (uint32_t)((double)rate * 0x1p32);
}

DEVICE_CODE static inline double dropout_scale(float rate)
{
    return 1.0 / (1.0 - (double)rate);
}

/* What a kernel of a device does first. */
DEVICE_CODE static inline void dropout_at_moment(struct dropout *d)
{
    if (!d->moment)
        return;
    d->step += d->moment->step;
    d->first += d->stride * d->moment->microbatch;
    d->moment = NULL;
}

/* Whether the whole batch's element ELEMENT is kept. */
DEVICE_CODE static inline bool dropout_keeps(const struct dropout *d, uint64_t element)
{
    uint32_t words[4];
    philox4x32(d->key, d->step, element / 4, words);
    return words[element % 4] >= dropout_threshold(d->rate);
}

/* The whole batch's number of a head's first probability; HEAD is b * heads + h of these heads. */
DEVICE_CODE static inline uint64_t dropout_head(const struct attention_desc *d, int64_t head)
{
    int64_t all = d->heads_all != 0 ? d->heads_all : d->heads;
    return (uint64_t)((head / d->heads * all + d->head_first + head % d->heads) * d->context * d->context);
}

#endif
