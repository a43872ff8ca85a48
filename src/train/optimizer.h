/* The update of a step. */
#ifndef TRAIN_OPTIMIZER_H
#define TRAIN_OPTIMIZER_H

#include "base/config.h"
#include "train/gradient.h"

/* AdamW with CONFIG's settings at STEP (counted from 0) on this replica's own part of WEIGHTS, which are of piece PIECE of GRADIENT;
 * NORM is the whole gradient's 2-norm before clipping. Clipping multiplies by min(1, clip_norm / (norm + 1e-6)); weight decay is for
 * matrices alone. */
void optimizer_update(const struct config *config, struct weights *weights, const struct gradient *gradient, int piece, double norm,
                      int64_t step);

#endif
