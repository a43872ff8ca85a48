/* What a run's bits depend on besides its config, made the same on all ranks and, as far as it can be, in all launches. */
#ifndef TRAIN_NUMERICS_H
#define TRAIN_NUMERICS_H

#include "train/trainer.h"

/* Collective. Opens TRAINER's backend. Threads that the config leaves open are as many as the newest checkpoint was made with, else
 * the fewest that any rank would take: a product's sums may be split by threads. */
cairn_err numerics_open(struct trainer *trainer);

/* Collective. Warns when ranks differ in anything but threads; after the model is there, since a backend may only tell a library by then that
 * it computes with. */
cairn_err numerics_compare(const struct trainer *trainer);

#endif
