/* Where a piece of a model begins and ends: activations that come from another piece and go to the next. */
#include "graph/graph_internal.h"

tensor_id graph_stage_input(struct graph *g, int64_t width)
{
    if (g->stage_input >= 0 || g->op_count > 0)
        graph_mistake(g, "a piece's input comes first, and once");
    struct op *op = graph_add_op(g, &op_stage_input);
    int64_t first;
    return op ? g->stage_input = graph_result(g, op, graph_row_share(g, &first), width) : -1;
}

void graph_stage_output(struct graph *g, tensor_id x)
{
    if (!graph_is_activation(g, x, "stage output"))
        return;
    struct op *op = graph_add_op(g, &op_stage_output);
    if (op)
        op->x = g->stage_output = x;
}

/* What comes and goes is copied by whoever speaks to the other pieces. */
static void nothing(struct graph *g, struct op *op)
{
    (void)g;
    (void)op;
}

const struct op_class op_stage_input = {.name = "stage input", .forward = nothing};
const struct op_class op_stage_output = {.name = "stage output", .forward = nothing, .backward_input = nothing};
