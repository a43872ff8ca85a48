/* What goes over the links of the data group where it is not every gradient whole: compression (mesh/compress.h) and local steps
 * (train/local_steps.h). Memory beside the gradients, and bytes. Pure functions. */
#ifndef PLAN_EXCHANGE_H
#define PLAN_EXCHANGE_H

#include "plan/memory.h"

/* Of the buckets of a stage, as train/compressed.c packs them. Bytes; sums over all buckets but for MOST and what follows it, SENT aside. */
struct exchange_size {
    int64_t elements; /* of all buckets; numbers, not bytes */
    int64_t state;    /* what is kept from step to step: not sent yet, of the own share, factors */
    int64_t most;     /* the largest pack, in which a bucket has no gaps */
    int64_t sending, receiving, parts; /* room for messages, each as the bucket that needs the most of it */
    int64_t sent;     /* by a rank in a step, on average */
};
struct exchange_size exchange_compressed(const struct plan_model *model, const struct plan_layout *layout,
                                         const struct hardware_software *software, int stage);

/* Kept by a replica that trains alone: the weights joined last and the outer step's momentum. */
int64_t exchange_local_state(const struct plan_layout *layout, int64_t parameters);

#endif
