/* The update of a step. */
#ifndef TRAIN_OPTIMIZER_H
#define TRAIN_OPTIMIZER_H

#include "base/config.h"
#include "train/weights.h"

/* AdamW with CONFIG's settings at STEP (counted from 0): GRADIENT is flat like the weights, NORM its 2-norm before clipping.
 * Clipping multiplies by min(1, clip_norm / (norm + 1e-6)); weight decay is for matrices alone. */
void optimizer_update(const struct config *config, struct weights *weights, const void *gradient, double norm, int64_t step);

#endif
