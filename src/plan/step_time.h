/* How long a step takes under a layout: the stages' times along the schedule, and what follows it. */
#ifndef PLAN_STEP_TIME_H
#define PLAN_STEP_TIME_H

#include "plan/block_time.h"

/* Seconds of a step, by what the busiest stage does. */
struct step_time {
    double computing; /* kernels of the microbatches, recomputation among them */
    double tensor;    /* the tensor group's exchanges, as far as they show */
    double expert;    /* those of ranks that share experts */
    double bubble;    /* waiting for other stages */
    double sending;   /* between stages, as far as it takes time from computing */
    double data;      /* the data group's exchanges, as far as they show */
    double optimizer;
    double total;
};

/* By running the schedule's actions in virtual time (schedule_simulate): takes about 0.6 us for each microbatch and piece of the model. */
cairn_err step_time_of(const struct plan_model *model, const struct plan_layout *layout, const struct machine *machine, struct step_time *out);

/* By the schedules' formulas instead, exact for even stages, in less than a microsecond; BLOCK and HEAD are the layout's block_time_of and
 * block_time_of_head, which layouts that differ in schedule or ZeRO alone share. */
struct step_time step_time_estimate(const struct plan_model *model, const struct plan_layout *layout, const struct machine *machine,
                                    const struct block_time *block, const struct block_time *head);

#endif
