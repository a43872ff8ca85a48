/* Warm-up and cosine decay. */
#ifndef TRAIN_LEARNING_RATE_H
#define TRAIN_LEARNING_RATE_H

#include "base/config.h"

/* The rate of STEP, counted from 0: peak * (step + 1) / warmup_steps while warming up, then along a half cosine
 * (Loshchilov and Hutter, arXiv 1608.03983, one period) down to min_learning_rate at decay_steps, and that from then on. */
double learning_rate_at(const struct config *config, int64_t step);

#endif
