/* Operations that a device does together with a neighbour, which saves it a pass over memory. */
#include "graph/graph_internal.h"

/* The one op that reads X; NULL: there are none or several. */
static struct op *reader_of(struct graph *g, tensor_id x)
{
    struct op *reader = NULL;
    for (int i = 0; i < g->op_count; i++) {
        if (g->ops[i].x != x && g->ops[i].h != x)
            continue;
        if (reader)
            return NULL;
        reader = &g->ops[i];
    }
    return reader;
}

void graph_join_gelus(struct graph *g)
{
    for (int i = 0; i < g->op_count; i++) {
        struct op *gelu = &g->ops[i];
        if (gelu->class != &op_gelu || g->tensors[gelu->x].alias >= 0 || g->tensors[gelu->x].producer < 0)
            continue;
        struct op *before = &g->ops[g->tensors[gelu->x].producer], *behind = reader_of(g, gelu->y);
        if (before->class == &op_linear && before->segment == gelu->segment) {
            before->gelu_behind = i;
            gelu->in_product = true;
        }
        if (g->options.training && behind && behind->class == &op_linear && behind->segment == gelu->segment && !behind->add_x) {
            behind->gelu_before = i;
            gelu->gradient_in_product = true;
        }
    }
}

static bool can_add(const struct graph *g, const struct op *norm)
{
    const struct backend_table *t = g->backend->table;
    return norm->class == &op_layer_norm ? t->residual_layer_norm_forward != NULL
                                         : norm->class == &op_rms_norm && t->residual_rms_norm_forward != NULL;
}

/* A norm adds up the residual before it. Nothing that is computed again is joined: it may be one of the two alone. */
void graph_join_residuals(struct graph *g)
{
    for (int i = 1; i < g->op_count; i++) {
        struct op *norm = &g->ops[i], *sum = &g->ops[i - 1];
        if (!can_add(g, norm) || sum->class != &op_residual || norm->x != sum->y || sum->x < 0 || norm->segment >= 0 ||
            sum->segment >= 0 || op_is_late(norm))
            continue;
        norm->sum_before = i - 1;
        sum->in_norm = true;
    }
}

bool graph_norm_adds(const struct graph *g, const struct op *sum)
{
    return sum->in_norm && graph_active_dropout(g, sum).rate == 0;
}
