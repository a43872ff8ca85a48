/* Which activation has which gradient. Ops are walked in reverse; the first op that gives a tensor a gradient overwrites it,
 * later ones add. */
#include "graph/graph_internal.h"

/* The gradient of activation X as op OP writes it; sets *ADDS when it is there already. */
static void give_gradient(struct graph *g, struct op *op, tensor_id x, bool *adds)
{
    struct tensor *t = &g->tensors[x];
    *adds = t->gradient >= 0;
    if (*adds)
        return;
    tensor_id gradient = graph_add_tensor(g, ROLE_GRADIENT, g->backend->act, t->rows, t->width);
    if (gradient < 0)
        graph_mistake(g, "no memory for the gradients of %s", op->class->name);
    else
        g->tensors[x].gradient = gradient;
}

/* The gradient of X is that of the op's result, in the same memory; ops before add to it in place. */
static void share_gradient(struct graph *g, struct op *op, tensor_id x)
{
    if (g->tensors[x].gradient >= 0)
        graph_mistake(g, "%s: its operand has a later use", op->class->name);
    g->tensors[x].gradient = g->tensors[op->y].gradient;
}

/* Without dropout the gradient of h is that of the sum, and needs no copy where the product that made h is the next to run: it is done
 * with it before others add to the sum's. */
static bool needs_no_copy(const struct graph *g, const struct op *op)
{
    const struct op *maker = op - 1;
    return op->rate == 0 && !g->options.split_backward && op > g->ops && maker->class == &op_linear && maker->y == op->h &&
           tensor_owner(g, maker->x) != tensor_owner(g, op->x) && g->tensors[op->h].gradient < 0;
}

static void derive(struct graph *g, struct op *op)
{
    if (op->class == &op_residual) { /* x + dropout(h): h's own copy is made before others add to the sum's */
        bool adds = false;
        if (needs_no_copy(g, op))
            share_gradient(g, op, op->h);
        else
            give_gradient(g, op, op->h, &adds);
        if (adds)
            graph_mistake(g, "residual: its second operand is used elsewhere too");
        if (op->x >= 0)
            share_gradient(g, op, op->x);
    } else if (op->class->in_place) {
        share_gradient(g, op, op->x);
    } else if (op->x >= 0) {
        give_gradient(g, op, op->x, &op->add_x);
    }
    if (op->add_x && !op->class->adds_to_gradient)
        graph_mistake(g, "%s: its input has a later use, and it cannot add to a gradient", op->class->name);
}

void graph_derive_backward(struct graph *g)
{
    for (int i = g->op_count - 1; i >= 0 && !g->error; i--) {
        struct op *op = &g->ops[i];
        if (op->y >= 0 && g->tensors[op->y].gradient < 0)
            graph_mistake(g, "the result of %s (operation %d) is never used", op->class->name, i);
        else
            derive(g, op);
    }
}
