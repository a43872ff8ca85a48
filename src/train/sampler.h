/* Choosing the next token from logits. */
#ifndef TRAIN_SAMPLER_H
#define TRAIN_SAMPLER_H

#include <stdint.h>

#include "base/error.h"

struct sampler_options {
    double temperature; /* 0: always the likeliest token */
    int64_t top_k;      /* only among the K likeliest; 0: among all */
    uint64_t seed;
};

/* The token that follows, for position POSITION of the text: a function of logits, options and position alone. SCRATCH has room
 * for VOCABULARY numbers. */
int64_t sampler_choose(const struct sampler_options *options, const float *logits, int64_t vocabulary, int64_t position,
                       double *scratch);

#endif
