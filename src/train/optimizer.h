/* The update of a step. */
#ifndef TRAIN_OPTIMIZER_H
#define TRAIN_OPTIMIZER_H

#include "base/config.h"
#include "train/gradient.h"

struct optimizer_step {
    double learning_rate;
    double norm;    /* of the whole gradient before clipping */
    int64_t number; /* of this update, from 1 on: the moments' bias is corrected by it */
};

/* How CONFIG has weights rounded that have had UPDATE updates. */
struct weights_rounding optimizer_rounding(const struct config *config, int64_t update);

/* The gradient of the own part of a bucket (weights_own), acc. */
typedef const void *optimizer_gradient(const void *context, int bucket);

/* AdamW with CONFIG's settings on this replica's own part of WEIGHTS. Clipping multiplies by min(1, clip_norm / (norm + 1e-6)); weight
 * decay is for matrices alone. */
void optimizer_apply(const struct config *config, struct weights *weights, const struct optimizer_step *step, optimizer_gradient *gradient,
                     const void *context);

/* STEP is for WEIGHTS of piece PIECE of GRADIENT. */
void optimizer_update(const struct config *config, struct weights *weights, const struct gradient *gradient, int piece,
                      const struct optimizer_step *step);

#endif
