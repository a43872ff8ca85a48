/* How long a step takes under a layout: the stages' times along the schedule, and what follows it. */
#ifndef PLAN_STEP_TIME_H
#define PLAN_STEP_TIME_H

#include "plan/block_time.h"

/* Seconds of a step, by what the slowest stage does. */
struct step_time {
    double computing; /* kernels of the microbatches, recomputation among them */
    double tensor;    /* the tensor group's exchanges, as far as they show */
    double bubble;    /* waiting for other stages */
    double sending;   /* between stages, as far as it shows */
    double data;      /* the data group's exchanges, as far as they show */
    double optimizer;
    double total;
};

struct step_time step_time_of(const struct plan_model *model, const struct plan_layout *layout, const struct machine *machine);

/* The same when the times of a block and of the head are known, for searches that share them. */
struct step_time step_time_with(const struct plan_model *model, const struct plan_layout *layout, const struct machine *machine,
                                const struct block_time *block, const struct block_time *head);

#endif
