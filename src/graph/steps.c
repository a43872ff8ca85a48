/* The list of kernel calls: forward, backward with what is computed again, weights. */
#include "graph/graph_internal.h"

#include <stdlib.h>

static void add_step(struct graph *g, int op, enum step_kind kind, bool again)
{
    if (!graph_grow(g, (void **)&g->steps, g->step_count, &g->step_room, sizeof *g->steps))
        return;
    g->steps[g->step_count++] = (struct step){.op = op, .kind = kind, .again = again};
}

/* Whether the backward pass of OP, or OP computed again, reads the memory of tensor OWNER. */
static bool reads_late(const struct graph *g, const struct op *op, tensor_id owner)
{
    unsigned reads = op->class->input_reads | op->class->weight_reads;
    bool reads_x = (reads & READS_X) || op->segment >= 0, reads_h = op->segment >= 0;
    return (reads_x && tensor_owner(g, op->x) == owner) || (reads_h && tensor_owner(g, op->h) == owner) ||
           ((reads & READS_Y) && tensor_owner(g, op->y) == owner);
}

/* A tensor of a segment that the backward pass needs outside of it is kept, not computed again. */
static bool is_kept(const struct graph *g, tensor_id owner)
{
    int segment = g->ops[g->tensors[owner].producer].segment;
    for (int i = 0; i < g->op_count; i++)
        if (g->ops[i].segment != segment && reads_late(g, &g->ops[i], owner))
            return true;
    return false;
}

/* Marks the tensor's owner if SEGMENT makes it and does not keep it. */
static void want(const struct graph *g, bool *wanted, tensor_id id, int segment)
{
    tensor_id owner = tensor_owner(g, id);
    if (owner < 0 || g->tensors[owner].producer < 0 || g->ops[g->tensors[owner].producer].segment != segment)
        return;
    wanted[owner] = wanted[owner] || !is_kept(g, owner);
}

/* Lists again those operations first..last of a segment whose results its backward pass reads. */
static void list_again(struct graph *g, int first, int last, bool *wanted, bool *again)
{
    int segment = g->ops[first].segment;
    for (int i = first; i <= last; i++) {
        const struct op *op = &g->ops[i];
        unsigned reads = op->class->input_reads | op->class->weight_reads;
        again[i] = false;
        if (reads & READS_X)
            want(g, wanted, op->x, segment);
        if (reads & READS_Y)
            want(g, wanted, op->y, segment);
        if (reads & READS_STATISTICS)
            for (int k = 0; k < OP_STATISTICS; k++)
                want(g, wanted, op->statistic[k], segment);
    }
    for (int i = last; i >= first; i--) {
        const struct op *op = &g->ops[i];
        again[i] = op->y >= 0 && wanted[tensor_owner(g, op->y)];
        for (int k = 0; k < OP_STATISTICS; k++)
            again[i] = again[i] || (op->statistic[k] >= 0 && wanted[op->statistic[k]]);
        if (op->class->backward_only)
            again[i] = false;
        if (again[i]) {
            want(g, wanted, op->x, segment);
            want(g, wanted, op->h, segment);
        }
    }
    for (int i = first; i <= last; i++)
        if (again[i])
            add_step(g, i, STEP_FORWARD, true);
}

static void list_backward(struct graph *g, bool *wanted, bool *again)
{
    for (int i = g->op_count - 1; i >= 0; i--) {
        const struct op *op = &g->ops[i];
        if (op->segment >= 0 && (i == g->op_count - 1 || g->ops[i + 1].segment != op->segment)) {
            int first = i;
            while (first > 0 && g->ops[first - 1].segment == op->segment)
                first--;
            list_again(g, first, i, wanted, again);
        }
        if (op->class->backward_input)
            add_step(g, i, STEP_BACKWARD_INPUT, false);
        if (op->class->backward_weight && !g->options.split_backward)
            add_step(g, i, STEP_BACKWARD_WEIGHT, false);
    }
}

static void list_weights(struct graph *g)
{
    for (int i = g->op_count - 1; i >= 0 && g->options.split_backward; i--)
        if (g->ops[i].class->backward_weight)
            add_step(g, i, STEP_BACKWARD_WEIGHT, false);
}

cairn_err graph_list_steps(struct graph *g)
{
    bool *wanted = calloc((size_t)g->tensor_count + 1, 1), *again = calloc((size_t)g->op_count + 1, 1);
    for (int i = 0; i < g->op_count; i++)
        if (!g->options.training || !op_is_late(&g->ops[i]))
            add_step(g, i, STEP_FORWARD, false);
    g->phase_begin[1] = g->step_count;
    if (g->options.training && wanted && again)
        list_backward(g, wanted, again);
    g->phase_begin[2] = g->step_count;
    if (g->options.training)
        list_weights(g);
    g->phase_begin[3] = g->step_count;
    add_step(g, -1, STEP_FORWARD, false); /* the end of the list */
    bool memory = wanted && again && !g->error;
    free(wanted);
    free(again);
    return memory ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for the graph");
}
