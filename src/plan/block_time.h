/* How long one block, and the head, take for one microbatch on one rank: the ops of model/gpt.c by kernel_time.h and link_time.h. */
#ifndef PLAN_BLOCK_TIME_H
#define PLAN_BLOCK_TIME_H

#include "plan/hardware.h"

/* Seconds of a microbatch. The tensor group's exchanges are counted apart, what hides under computation left out; so are those of the ranks
 * that share experts, which hide under nothing. */
struct block_time {
    double forward;
    double backward_input;  /* gradients of activations */
    double backward_weight; /* gradients of parameters, and adding them up */
    double again;           /* what is recomputed */
    double tensor_forward, tensor_backward, tensor_again;
    double expert_forward, expert_backward, expert_again;
};

static inline double block_time_forward(const struct block_time *t)
{
    return t->forward + t->tensor_forward + t->expert_forward;
}

static inline double block_time_backward(const struct block_time *t)
{
    return t->backward_input + t->backward_weight + t->again + t->tensor_backward + t->tensor_again + t->expert_backward + t->expert_again;
}

struct block_time block_time_of(const struct plan_model *model, const struct plan_layout *layout, const struct machine *machine);

/* The final norm, the product with the vocabulary, and the losses. */
struct block_time block_time_of_head(const struct plan_model *model, const struct plan_layout *layout, const struct machine *machine);

#endif
