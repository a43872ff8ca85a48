/* The layout of a training whose config leaves it to the planner. */
#ifndef TRAIN_AUTOMATIC_H
#define TRAIN_AUTOMATIC_H

#include "train/trainer.h"

/* Collective. What t->config has the planner choose is chosen into t->chosen, for the backend's threads and the ranks and memory that
 * there are; t->config is that one from then on, and rank 0 tells. Where a checkpoint is gone on from, its tensor,
 * context and expert axes and the sharing of rows are kept if they fit: others would change the last bits. CAIRN_ECONFIG, on all ranks, where
 * nothing fits. */
cairn_err automatic_layout(struct trainer *t);

#endif
