/* All activation memory planned once. Every tensor has memory of its own from its first to its last use, or in two such stretches if it
 * is computed again; tensors whose lives do not meet share memory. Largest first, each at the lowest place that is free during its
 * life. Those that live from one phase to another lie in the microbatch's slot, the others in the scratch memory. */
#include "graph/graph_internal.h"

#include <stdlib.h>

enum { ARENA_ALIGN = 64 }; /* bytes: a cache line, and a vector of 512 bits */

/* The tensor's memory is used at step WHEN; MADE: by a step that computes it again. */
static void use(struct graph *g, tensor_id id, int when, bool made_again)
{
    id = tensor_owner(g, id);
    if (id < 0 || g->tensors[id].role == ROLE_PARAMETER)
        return;
    struct interval *life = g->tensors[id].life;
    int which = made_again || life[1].first >= 0;
    if (life[which].first < 0)
        life[which].first = when;
    life[which].last = when;
}

static void use_backward(struct graph *g, const struct op *op, const struct step *s, int when)
{
    unsigned reads = s->kind == STEP_BACKWARD_INPUT ? op->class->input_reads : op->class->weight_reads;
    if (reads & READS_X)
        use(g, op->x, when, false);
    if (reads & READS_Y)
        use(g, op->y, when, false);
    for (int k = 0; k < OP_STATISTICS && (reads & READS_STATISTICS); k++)
        use(g, op->statistic[k], when, false);
    if (op->y >= 0)
        use(g, g->tensors[op->y].gradient, when, false);
    for (int k = op->forward_work; k < OP_WORK && s->kind == STEP_BACKWARD_INPUT; k++)
        use(g, op->work[k], when, false);
    if (op->gelu_before >= 0 && s->kind == STEP_BACKWARD_INPUT) {
        tensor_id inner = g->ops[op->gelu_before].x;
        use(g, inner, when, false);
        use(g, g->tensors[inner].gradient, when, false);
    }
    const tensor_id given[] = {op->x, op->h};
    for (int k = 0; k < 2 && s->kind == STEP_BACKWARD_INPUT; k++)
        if (given[k] >= 0)
            use(g, g->tensors[given[k]].gradient, when, false);
}

static void use_in_step(struct graph *g, const struct step *s, int when)
{
    const struct op *op = &g->ops[s->op];
    if (s->kind != STEP_FORWARD) {
        use_backward(g, op, s, when);
        return;
    }
    use(g, op->x, when, false);
    use(g, op->h, when, false);
    use(g, op->y, when, s->again);
    if (op->gelu_behind >= 0)
        use(g, g->ops[op->gelu_behind].y, when, s->again);
    if (op->sum_before >= 0) {
        use(g, g->ops[op->sum_before].x, when, false);
        use(g, g->ops[op->sum_before].h, when, false);
    }
    for (int k = 0; k < op->forward_work; k++)
        use(g, op->work[k], when, s->again);
    for (int k = 0; k < OP_STATISTICS; k++)
        use(g, op->statistic[k], when, s->again);
}

static void find_lives(struct graph *g)
{
    for (int s = 0; s < g->step_count - 1; s++)
        use_in_step(g, &g->steps[s], s);
    int forward_end = g->phase_begin[1] - 1, backward_end = g->phase_begin[2] - 1;
    if (!g->options.training && g->op_count > 0 && g->ops[g->op_count - 1].y >= 0)
        use(g, g->ops[g->op_count - 1].y, forward_end, false);
    /* What the caller reads after a phase. An evaluation runs the forward phase alone, then leaves losses. */
    use(g, g->losses, g->options.training ? backward_end : forward_end, false);
    if (g->options.training && g->stage_input >= 0)
        use(g, g->tensors[g->stage_input].gradient, backward_end, false);
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

static bool intervals_meet(struct interval a, struct interval b)
{
    return a.first >= 0 && b.first >= 0 && a.first <= b.last && b.first <= a.last;
}

static bool lives_meet(const struct tensor *a, const struct tensor *b)
{
    return intervals_meet(a->life[0], b->life[0]) || intervals_meet(a->life[0], b->life[1]) ||
           intervals_meet(a->life[1], b->life[0]) || intervals_meet(a->life[1], b->life[1]);
}

/* The lowest offset at which T overlaps none of the COUNT tensors already placed. */
static int64_t lowest_place(const struct graph *g, const struct tensor *t, const int *placed, int count)
{
    int64_t offset = 0;
    for (int moved = 1; moved;) {
        moved = 0;
        for (int i = 0; i < count; i++) {
            const struct tensor *other = &g->tensors[placed[i]];
            if (other->in_slot == t->in_slot && offset < other->offset + tensor_bytes(other) &&
                other->offset < offset + tensor_bytes(t) && lives_meet(t, other)) {
                offset = other->offset + tensor_bytes(other);
                moved = 1;
            }
        }
    }
    return offset;
}

static bool crosses_phases(const struct graph *g, struct interval life)
{
    bool crosses = false;
    for (int phase = 1; phase < 3; phase++)
        crosses = crosses || (life.first >= 0 && life.first < g->phase_begin[phase] && life.last >= g->phase_begin[phase]);
    return crosses;
}

cairn_err graph_plan_memory(struct graph *g)
{
    find_lives(g);
    int *order = malloc((size_t)(g->tensor_count + 1) * sizeof *order);
    if (!order)
        return FAIL(CAIRN_ENOMEM, "no memory to plan the activations");
    int count = 0;
    for (int i = 0; i < g->tensor_count; i++) {
        struct tensor *t = &g->tensors[i];
        t->in_slot = crosses_phases(g, t->life[0]) || crosses_phases(g, t->life[1]);
        if (t->life[0].first >= 0 || t->life[1].first >= 0)
            order[count++] = i;
    }
    sorted_graph = g;
    qsort(order, (size_t)count, sizeof *order, larger_first);
    g->slot_bytes = g->scratch_bytes = ARENA_ALIGN;
    for (int i = 0; i < count; i++) {
        struct tensor *t = &g->tensors[order[i]];
        t->offset = lowest_place(g, t, order, i);
        size_t end = (size_t)(t->offset + tensor_bytes(t)), *region = t->in_slot ? &g->slot_bytes : &g->scratch_bytes;
        if (end > *region)
            *region = end;
    }
    free(order);
    return CAIRN_OK;
}
