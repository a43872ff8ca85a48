/* All activation memory planned once: every tensor lives from its first to its last use; tensors whose lives do not meet share
 * memory. Largest first, each at the lowest place that is free during its life. */
#include "graph/graph_internal.h"

#include <stdlib.h>

enum { ARENA_ALIGN = 64 }; /* bytes: a cache line, and a vector of 512 bits */

static tensor_id owner(const struct graph *g, tensor_id id)
{
    while (id >= 0 && g->tensors[id].alias >= 0)
        id = g->tensors[id].alias;
    return id;
}

static void use(struct graph *g, tensor_id id, int when)
{
    id = owner(g, id);
    if (id < 0)
        return;
    struct tensor *t = &g->tensors[id];
    if (t->first_use < 0 || when < t->first_use)
        t->first_use = when;
    if (when > t->last_use)
        t->last_use = when;
}

/* Positions: op i runs forward at i and backward at 2 * ops - 1 - i. */
static void find_lives(struct graph *g)
{
    int end = 2 * g->op_count;
    for (int i = 0; i < g->op_count; i++) {
        const struct op *op = &g->ops[i];
        const tensor_id used[] = {op->x, op->h, op->y, op->statistic[0], op->statistic[1]};
        for (size_t k = 0; k < sizeof used / sizeof used[0]; k++) {
            use(g, used[k], i);
            if (!g->options.training || used[k] < 0)
                continue;
            use(g, used[k], end - 1 - i);
            use(g, g->tensors[used[k]].gradient, end - 1 - i);
        }
        /* The classifier makes its input's gradient already in the forward pass. */
        if (op->class == &op_classifier && g->options.training)
            use(g, g->tensors[op->x].gradient, i);
    }
    if (g->losses >= 0)
        use(g, g->losses, end);
    if (!g->options.training && g->op_count > 0 && g->ops[g->op_count - 1].y >= 0)
        use(g, g->ops[g->op_count - 1].y, end);
}

static int64_t tensor_bytes(const struct tensor *t)
{
    int64_t bytes = t->rows * t->width * (int64_t)dtype_size(t->dtype);
    return (bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
}

static const struct graph *sorted_graph; /* qsort has no context; graphs are finished on one thread */

static int larger_first(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    int64_t bx = tensor_bytes(&sorted_graph->tensors[x]), by = tensor_bytes(&sorted_graph->tensors[y]);
    if (bx != by)
        return bx < by ? 1 : -1;
    return (x > y) - (x < y);
}

static bool lives_meet(const struct tensor *a, const struct tensor *b)
{
    return a->first_use <= b->last_use && b->first_use <= a->last_use;
}

/* The lowest offset at which T overlaps none of the COUNT tensors already placed. */
static int64_t lowest_place(const struct graph *g, const struct tensor *t, const int *placed, int count)
{
    int64_t offset = 0;
    for (int moved = 1; moved;) {
        moved = 0;
        for (int i = 0; i < count; i++) {
            const struct tensor *other = &g->tensors[placed[i]];
            if (lives_meet(t, other) && offset < other->offset + tensor_bytes(other) && other->offset < offset + tensor_bytes(t)) {
                offset = other->offset + tensor_bytes(other);
                moved = 1;
            }
        }
    }
    return offset;
}

cairn_err graph_plan_arena(struct graph *g, size_t *bytes)
{
    find_lives(g);
    int *order = malloc((size_t)(g->tensor_count + 1) * sizeof *order);
    if (!order)
        return FAIL(CAIRN_ENOMEM, "no memory to plan the arena");
    int count = 0;
    for (int i = 0; i < g->tensor_count; i++)
        if (g->tensors[i].role != ROLE_PARAMETER && g->tensors[i].alias < 0 && g->tensors[i].first_use >= 0)
            order[count++] = i;
    sorted_graph = g;
    qsort(order, (size_t)count, sizeof *order, larger_first);
    int64_t end = ARENA_ALIGN;
    for (int i = 0; i < count; i++) {
        struct tensor *t = &g->tensors[order[i]];
        t->offset = lowest_place(g, t, order, i);
        if (t->offset + tensor_bytes(t) > end)
            end = t->offset + tensor_bytes(t);
    }
    free(order);
    *bytes = (size_t)end;
    return CAIRN_OK;
}
