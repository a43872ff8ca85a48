/* The arrays of a training's checkpoints: which there are, and what of an older one serves. */
#ifndef TRAIN_TRAINER_ARRAYS_H
#define TRAIN_TRAINER_ARRAYS_H

#include "ckpt/checkpoint.h"
#include "train/trainer.h"

/* Among a checkpoint's extra facts, of replicas that train alone: the step at which their weights were joined last. */
#define TRAINER_JOINED "joined_step"
/* Likewise: the name of the backend, and where it is the processor's its threads a rank. */
#define TRAINER_DEVICE "device"
#define TRAINER_THREADS "threads"

struct checkpoint_group trainer_group(const struct trainer *trainer);

/* Fills TRAINER's lists of arrays. */
cairn_err trainer_list_arrays(struct trainer *trainer);

/* Collective. Fills the arrays from the newest valid checkpoint; *STEP is that of their weights. What belongs to one replica alone
 * does not outlive a change of their number, or of how they work together: what is lost then is told. */
cairn_err trainer_read_arrays(struct trainer *trainer, struct checkpoint_facts *facts, int64_t *step);

#endif
