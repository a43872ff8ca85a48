/* What a rank has of a block with experts (graph/ops_experts.c, kernels/experts.h): counts and bytes. Pure functions.
 *
 * Rows are packed for all experts at their whole capacity, and as many come from the other ranks of the expert group as go to them: what
 * is kept of a microbatch does not depend on the expert axis. */
#ifndef PLAN_EXPERTS_H
#define PLAN_EXPERTS_H

#include "plan/model.h"

struct plan_experts {
    int64_t own;      /* of each block, here */
    int64_t hidden;   /* columns of each, here */
    int64_t rows;     /* tokens of a microbatch here */
    int64_t capacity; /* of them that an expert takes at most */
    int64_t packed;   /* rows for all experts */
};

/* Of the rank that has the most. All zero for a model without experts. */
struct plan_experts plan_experts_of(const struct plan_model *model, const struct plan_layout *layout);

/* Parameters of a block's experts on a rank; the router's, which all ranks have, are not among them. */
int64_t plan_experts_parameters(const struct plan_model *model, const struct plan_layout *layout);

/* Bytes, with SIZE of an activation, that a block's experts keep of a microbatch for the backward pass, the op's input aside; that the
 * backward pass takes beside them; and of workspaces, whatever the microbatch. */
double plan_experts_kept(const struct plan_model *model, const struct plan_layout *layout, int size);
double plan_experts_passing(const struct plan_model *model, const struct plan_layout *layout, int size);
int64_t plan_experts_workspace(const struct plan_model *model, const struct plan_layout *layout, int size);

/* Rows of an expert's products for the rows of one rank, if these are spread evenly: in sixteenths of the capacity, as plans are made for
 * so many (kernels/expert_mlp.h). */
double plan_experts_product_rows(const struct plan_model *model, const struct plan_layout *layout);

#endif
