/* A mixture of experts in the place of a block's MLP (kernels/experts.h, kernels/expert_mlp.h). The ranks of an expert group hold some of
 * the experts each: rows go to them packed by expert, and come back, by two exchanges of all with all.
 *
 * Tensor ranks route the same rows alike, and each has a part of every expert's hidden columns, so that what they combine is summed
 * behind. Ranks that share sequences route each their own rows, and tell each other what these chose: an expert takes as many as of the
 * whole microbatch. */
#include "graph/graph_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/least.h"
#include "kernels/expert_mlp.h"
#include "kernels/experts.h"

#define KERNEL(g) ((g)->backend->table)

/* What the forward step keeps. Blocks of packed rows are [experts][capacity][...] where they are made, [sources][own experts][capacity]
 * [...] where the experts are. */
enum { EXPERT, PLACE, LOAD, TAKEN, GATE, PROBABILITY, LOG_SUM, LOSSES, RECEIVED, INNER, ACTIVE, RETURNED, COUNTS, KEPT };
enum { PACKED, RESULT, MOST, FORWARD_WORK, D_PACKED = FORWARD_WORK, D_RESULT, D_INNER, D_RECEIVED, D_RETURNED, D_GATE, D_LOGITS, ALL_WORK };
enum { ROUTER, EXPAND, EXPAND_BIAS, CONTRACT, CONTRACT_BIAS };

_Static_assert((int)KEPT <= (int)OP_STATISTICS && (int)ALL_WORK <= (int)OP_WORK && (int)CONTRACT_BIAS < (int)OP_PARAMETERS,
               "room in struct op");

struct experts {
    struct graph_experts_desc desc;
    struct router_desc routing;
    struct router *router;
    struct expert_mlp *mlp;
    int64_t own, sources;            /* experts here; ranks that send rows */
    int64_t hidden;                  /* of each expert, here */
    int64_t rows_all, capacity_all;  /* of the microbatch */
    int64_t *shares;                 /* begins and counts of an exchange */
    /* in the processor's memory */
    int32_t *chosen;                 /* of the rows: which experts; NULL unless ranks share sequences */
    int32_t *all_chosen;             /* [ranks][samples][runs][choices][experts]: how many; likewise */
    int32_t *load, *most;            /* by expert */
    /* Load and taken of the passes since they were counted last, [KEPT_USES][2][experts]: the backend's, and downloaded. */
    int32_t *uses, *uses_there;
    int use_count;
};

/* Passes whose routing is kept: so many are counted at once, and a device is waited for as seldom. */
enum { KEPT_USES = 64 };

static struct group *group_of(const struct graph *g)
{
    return g->options.experts && g->options.experts->size > 1 ? g->options.experts : NULL;
}

/* The runs of rows that all ranks have which share sequences: so many of each sample. */
static int64_t runs_of(const struct graph *g)
{
    return g->options.samples * g->columns.runs * (g->options.columns ? g->options.columns->size : 1);
}

static tensor_id make(struct graph *g, struct op *op, enum dtype dtype, int64_t rows, int64_t width)
{
    tensor_id id = graph_add_tensor(g, ROLE_STATISTIC, dtype, rows, width);
    if (id >= 0)
        g->tensors[id].producer = (int)(op - g->ops);
    return id;
}

static void make_memory(struct graph *g, struct op *op, const struct experts *e, int64_t width)
{
    enum dtype act = g->backend->act, acc = g->backend->acc;
    int64_t rows = g->rows, k = e->desc.choices, all = e->desc.experts, packed = all * e->routing.capacity;
    int64_t held = e->sources * e->own * e->routing.capacity, hidden = e->hidden;
    const struct {
        enum dtype dtype;
        int64_t rows, width;
    } kept[KEPT] = {{DTYPE_I32, rows, k}, {DTYPE_I32, rows, k}, {DTYPE_I32, all, 1}, {DTYPE_I32, all, 1}, {acc, rows, k}, {acc, rows, all},
                    {acc, rows, 1}, {acc, 2, 1}, {act, held, width}, {act, held, hidden}, {act, held, hidden}, {act, packed, width},
                    {DTYPE_I32, e->sources * e->own, 1}},
      work[ALL_WORK] = {{act, packed, width}, {act, held, width}, {DTYPE_I32, all, 1}, {act, packed, width},
                        {act, held, width}, {act, held, hidden}, {act, held, width}, {act, packed, width}, {acc, rows, k}, {acc, rows, all}};
    for (int i = 0; i < KEPT; i++)
        op->statistic[i] = make(g, op, kept[i].dtype, kept[i].rows, kept[i].width);
    op->forward_work = FORWARD_WORK;
    for (int i = 0; i < (g->options.training ? ALL_WORK : FORWARD_WORK); i++)
        op->work[i] = make(g, op, work[i].dtype, work[i].rows, work[i].width);
}

static bool check(struct graph *g, tensor_id x, const tensor_id *p, const struct graph_experts_desc *d, int64_t own, int64_t hidden)
{
    int64_t width = g->tensors[x].width;
    return graph_is_parameter(g, p[ROUTER], d->experts, width, "experts") &&
           graph_is_parameter(g, p[EXPAND], own * hidden, width, "experts") &&
           graph_is_parameter(g, p[EXPAND_BIAS], 1, own * hidden, "experts") &&
           graph_is_parameter(g, p[CONTRACT], own * width, hidden, "experts") &&
           graph_is_parameter(g, p[CONTRACT_BIAS], 1, own * width, "experts");
}

int64_t graph_expert_share(const struct graph *g, int64_t experts, int64_t *first)
{
    const struct group *group = group_of(g);
    *first = group ? experts / group->size * group->rank : 0;
    return group ? experts / group->size : experts;
}

tensor_id graph_experts(struct graph *g, tensor_id x, const tensor_id parameters[5], const struct graph_experts_desc *desc)
{
    int64_t first, own = graph_expert_share(g, desc->experts, &first), hidden = graph_tensor_share(g, desc->hidden, &first);
    if (!graph_is_activation(g, x, "experts") || !check(g, x, parameters, desc, own, hidden))
        return -1;
    struct op *op = graph_add_op(g, &op_experts);
    struct experts *e = op ? calloc(1, sizeof *e) : NULL;
    if (!e) {
        graph_mistake(g, "no memory for the experts");
        return -1;
    }
    int64_t width = g->tensors[x].width;
    *e = (struct experts){.desc = *desc, .own = own, .hidden = hidden, .sources = group_of(g) ? group_of(g)->size : 1,
                          .rows_all = g->options.samples * g->options.context};
    e->capacity_all = router_capacity(desc->capacity_factor, e->rows_all, desc->experts, desc->choices);
    e->routing = (struct router_desc){.rows = g->rows, .rows_all = e->rows_all, .width = width, .experts = desc->experts,
                                      .choices = desc->choices, .capacity = least(e->capacity_all, g->rows)};
    op->experts = e;
    op->x = x;
    op->weight = parameters[ROUTER];
    op->bias = parameters[EXPAND];
    for (int i = 0; i < 3; i++)
        op->more[i] = parameters[EXPAND_BIAS + i];
    make_memory(g, op, e, width);
    return graph_result(g, op, g->rows, width);
}

static size_t uses_bytes(const struct experts *e, int count)
{
    return (size_t)(count * 2 * e->desc.experts) * sizeof *e->uses;
}

static cairn_err take_memory(struct graph *g, struct experts *e)
{
    int64_t parts = g->options.columns && g->options.columns->size > e->sources ? g->options.columns->size : e->sources;
    bool shared = e->rows_all > g->rows;
    e->shares = calloc(2 * (size_t)parts, sizeof *e->shares);
    e->load = calloc(2 * (size_t)e->desc.experts, sizeof *e->load);
    e->uses = KERNEL(g)->alloc(g->backend, uses_bytes(e, KEPT_USES));
    e->uses_there = malloc(uses_bytes(e, KEPT_USES));
    bool ok = e->shares && e->load && e->uses && e->uses_there;
    if (ok)
        e->most = e->load + e->desc.experts;
    if (shared) {
        e->chosen = calloc((size_t)(g->rows * e->desc.choices), sizeof *e->chosen);
        e->all_chosen = calloc((size_t)(runs_of(g) * e->desc.choices * e->desc.experts), sizeof *e->all_chosen);
        ok = ok && e->chosen && e->all_chosen;
    }
    return ok ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for the experts");
}

static cairn_err experts_prepare(struct graph *g, struct op *op)
{
    struct experts *e = op->experts;
    const struct expert_mlp_desc mlp = {.experts = e->own, .capacity = e->routing.capacity, .width = g->tensors[op->x].width,
                                        .hidden = e->hidden, .adds_no_bias = graph_tensor_rank(g) != 0,
                                        .whole = !KERNEL(g)->host_memory};
    TRY(take_memory(g, e));
    TRY(KERNEL(g)->router_create(g->backend, &e->routing, &e->router));
    return expert_mlp_create(g->backend, &mlp, &e->mlp);
}

static void experts_release(struct graph *g, struct op *op)
{
    struct experts *e = op->experts;
    if (!e)
        return;
    if (e->router)
        KERNEL(g)->router_destroy(e->router);
    expert_mlp_destroy(e->mlp);
    free(e->shares);
    free(e->chosen);
    free(e->all_chosen);
    free(e->load);
    if (e->uses)
        KERNEL(g)->free(g->backend, e->uses, uses_bytes(e, KEPT_USES));
    free(e->uses_there);
    free(e);
}

static struct routing routing_of(const struct graph *g, const struct op *op)
{
    return (struct routing){.expert = tensor_data(g, op->statistic[EXPERT]), .place = tensor_data(g, op->statistic[PLACE]),
                            .load = tensor_data(g, op->statistic[LOAD]), .taken = tensor_data(g, op->statistic[TAKEN]),
                            .gate = tensor_data(g, op->statistic[GATE]), .probability = tensor_data(g, op->statistic[PROBABILITY]), .log_sum = tensor_data(g, op->statistic[LOG_SUM]),
                            .losses = tensor_data(g, op->statistic[LOSSES])};
}

/* Each rank's block of FROM, ELEMENTS each, to that rank, whose block is at the same place of TO. */
static void exchange(struct graph *g, const struct experts *e, const void *from, void *to, int64_t elements, enum dtype dtype)
{
    struct group *group = group_of(g);
    if (!group) {
        if (from != to)
            KERNEL(g)->copy(g->backend, to, from, (size_t)elements * dtype_size(dtype));
        return;
    }
    int64_t *begins = e->shares, *counts = e->shares + group->size;
    for (int r = 0; r < group->size; r++) {
        begins[r] = r * elements;
        counts[r] = elements;
    }
    graph_note(g, staged_all_to_all(&g->staging, group, from, to, begins, counts, dtype));
}

static void clear(struct graph *g, tensor_id id)
{
    const struct tensor *t = &g->tensors[id];
    KERNEL(g)->zero(g->backend, tensor_data(g, id), (size_t)(t->rows * t->width) * dtype_size(t->dtype));
}

/* What an idle rank sends is computed with where its counts are not known. */
static void clear_unread(struct graph *g, tensor_id packed)
{
    if (!KERNEL(g)->host_memory)
        clear(g, packed);
}

/* All ranks' counts of what the rows of each of their runs chose. */
static void gather_choices(struct graph *g, const struct experts *e, const struct routing *r)
{
    const struct routing chosen = {.expert = e->chosen};
    struct group *ring = g->options.columns;
    int64_t *begins = e->shares, *counts = e->shares + ring->size;
    int64_t a_run = e->desc.choices * e->desc.experts, a_rank = g->options.samples * g->columns.runs * a_run;
    int32_t *next = e->all_chosen + ring->rank * a_rank;
    KERNEL(g)->download(g->backend, e->chosen, r->expert, (size_t)(g->rows * e->desc.choices) * sizeof *e->chosen);
    if (e->chosen[0] < 0) { /* what a device that failed gives: no expert that there is */
        graph_note(g, KERNEL(g)->finish(g->backend));
        return;
    }
    for (int64_t s = 0, row = 0; s < g->options.samples; s++)
        for (int i = 0; i < g->columns.runs; row += g->columns.run[i++].length, next += a_run)
            routing_count(&e->routing, &chosen, row, g->columns.run[i].length, next);
    for (int p = 0; p < ring->size; p++) {
        begins[p] = p * a_rank;
        counts[p] = a_rank;
    }
    graph_note(g, group_all_gather(ring, e->all_chosen, begins, counts, DTYPE_I32));
}

/* Where ranks share sequences: the load, and how many of the rows here each expert takes. The early runs of a sequence are in the order
 * of the ranks, the late ones against it (graph_columns_of). */
static const int32_t *share_choices(struct graph *g, struct op *op, const struct routing *r)
{
    const struct experts *e = op->experts;
    const struct group *ring = g->options.columns;
    int64_t experts = e->desc.experts, a_run = e->desc.choices * experts;
    int32_t *most = tensor_data(g, op->work[MOST]);
    size_t bytes = (size_t)experts * sizeof *e->load;
    gather_choices(g, e, r);
    memset(e->load, 0, bytes);
    memset(e->most, 0, bytes);
    for (int64_t c = 0; c < e->desc.choices; c++)
        for (int64_t s = 0; s < g->options.samples; s++)
            for (int i = 0; i < 2 * ring->size; i++) {
                int late = i >= ring->size, rank = late ? 2 * ring->size - 1 - i : i;
                int64_t run = (rank * g->options.samples + s) * g->columns.runs + late;
                routing_deal(&e->routing, e->capacity_all, e->all_chosen + run * a_run + c * experts, e->load,
                             rank == ring->rank ? e->most : NULL);
            }
    KERNEL(g)->upload(g->backend, r->load, e->load, bytes);
    KERNEL(g)->upload(g->backend, most, e->most, bytes);
    return most;
}

static void route(struct graph *g, struct op *op, const struct routing *r)
{
    const struct experts *e = op->experts;
    KERNEL(g)->router_forward(e->router, r, tensor_data(g, op->x), parameter_data(g, op->weight));
    KERNEL(g)->router_place(e->router, r, e->rows_all > g->rows ? share_choices(g, op, r) : NULL);
}

/* The rows that each expert here has of each source, kept for the backward pass. A device would have to be waited for to know them: its
 * experts run over whole capacities, where what no row fills is zero. */
static const int32_t *share_counts(struct graph *g, struct op *op, const struct routing *r)
{
    const struct experts *e = op->experts;
    if (!KERNEL(g)->host_memory)
        return NULL;
    int32_t *counts = tensor_data(g, op->statistic[COUNTS]);
    exchange(g, e, r->taken, counts, e->own, DTYPE_I32);
    return counts;
}

static const int32_t *counts_of(const struct experts *e, const int32_t *counts, int64_t source)
{
    return counts ? counts + source * e->own : NULL;
}

static char *part(const struct graph *g, tensor_id id, int64_t source, int64_t sources)
{
    const struct tensor *t = &g->tensors[id];
    return (char *)tensor_data(g, id) + (size_t)(source * (t->rows / sources) * t->width) * dtype_size(t->dtype);
}

static struct expert_weights weights_of(struct graph *g, const struct op *op)
{
    return (struct expert_weights){.expand = parameter_data(g, op->bias), .expand_bias = parameter_data(g, op->more[0]),
                                   .contract = parameter_data(g, op->more[1]), .contract_bias = parameter_data(g, op->more[2])};
}

static void experts_forward(struct graph *g, struct op *op)
{
    const struct experts *e = op->experts;
    const struct routing r = routing_of(g, op);
    const struct expert_weights weights = weights_of(g, op);
    int64_t block = e->own * e->routing.capacity * e->routing.width;
    if (g->idle) {
        clear(g, op->statistic[TAKEN]);
        clear_unread(g, op->work[PACKED]);
    } else
        route(g, op, &r);
    const int32_t *counts = share_counts(g, op, &r);
    if (!g->idle)
        KERNEL(g)->dispatch(e->router, tensor_data(g, op->work[PACKED]), tensor_data(g, op->x), &r);
    exchange(g, e, tensor_data(g, op->work[PACKED]), tensor_data(g, op->statistic[RECEIVED]), block, g->backend->act);
    for (int64_t s = 0; s < e->sources; s++)
        expert_mlp_forward(e->mlp, part(g, op->work[RESULT], s, e->sources), part(g, op->statistic[INNER], s, e->sources),
                           part(g, op->statistic[ACTIVE], s, e->sources), part(g, op->statistic[RECEIVED], s, e->sources), &weights,
                           counts_of(e, counts, s));
    exchange(g, e, tensor_data(g, op->work[RESULT]), tensor_data(g, op->statistic[RETURNED]), block, g->backend->act);
    if (!g->idle)
        KERNEL(g)->combine(e->router, tensor_data(g, op->y), tensor_data(g, op->statistic[RETURNED]), &r);
}

/* The experts' own gradients, source by source. */
static void backward_experts(struct graph *g, struct op *op)
{
    const struct experts *e = op->experts;
    const struct expert_weights weights = weights_of(g, op);
    const struct expert_gradients gradients = {
        .expand = parameter_gradient(g, op->bias, false), .expand_bias = parameter_gradient(g, op->more[0], false),
        .contract = parameter_gradient(g, op->more[1], false), .contract_bias = parameter_gradient(g, op->more[2], false)};
    const int32_t *counts = KERNEL(g)->host_memory ? tensor_data(g, op->statistic[COUNTS]) : NULL;
    for (int64_t s = 0; s < e->sources; s++) {
        char *d_inner = part(g, op->work[D_INNER], s, e->sources), *dy = part(g, op->work[D_RESULT], s, e->sources);
        expert_mlp_backward_input(e->mlp, part(g, op->work[D_RECEIVED], s, e->sources), d_inner, dy,
                                  part(g, op->statistic[INNER], s, e->sources), &weights, counts_of(e, counts, s));
        expert_mlp_backward_weight(e->mlp, &gradients, d_inner, dy, part(g, op->statistic[RECEIVED], s, e->sources),
                                   part(g, op->statistic[ACTIVE], s, e->sources), counts_of(e, counts, s), s > 0);
    }
}

/* The gates', of which tensor ranks have each the part of their hidden columns; and to the experts what they combined. */
static void backward_combine(struct graph *g, struct op *op, const struct routing *r)
{
    const struct experts *e = op->experts;
    void *d_gate = tensor_data(g, op->work[D_GATE]);
    KERNEL(g)->combine_backward(e->router, tensor_data(g, op->work[D_PACKED]), d_gate, gradient_of(g, op->y),
                                tensor_data(g, op->statistic[RETURNED]), r);
    if (graph_tensor_size(g) > 1)
        graph_note(g, staged_all_reduce(&g->staging, g->options.tensor, d_gate, e->routing.rows * e->routing.choices, g->backend->acc));
}

/* Tensor ranks find the same of the router, and their gradients of x are summed: one of them adds the router's. */
static void backward_router(struct graph *g, struct op *op, const struct routing *r)
{
    const struct experts *e = op->experts;
    /* The loss is a mean over all rows of a step; the routers' losses are means over a microbatch's rows. */
    double share = g->loss_scale * (double)e->rows_all;
    const struct router_scales scales = {.balance = e->desc.balance * share, .z = e->desc.z * share};
    void *d_logits = tensor_data(g, op->work[D_LOGITS]), *dx = gradient_of(g, op->x);
    KERNEL(g)->dispatch_backward(e->router, dx, tensor_data(g, op->work[D_RETURNED]), r, op->add_x);
    KERNEL(g)->router_backward_input(e->router, d_logits, graph_tensor_rank(g) == 0 ? dx : NULL, tensor_data(g, op->work[D_GATE]), r,
                                     parameter_data(g, op->weight), &scales, true);
    KERNEL(g)->router_backward_weight(e->router, parameter_gradient(g, op->weight, false), d_logits, tensor_data(g, op->x));
}

/* Tensor ranks decide the same, ranks that share sequences know the same load: one of them counts it. */
static void count_uses(struct graph *g, struct experts *e)
{
    int64_t experts = e->desc.experts;
    KERNEL(g)->download(g->backend, e->uses_there, e->uses, uses_bytes(e, e->use_count));
    for (int k = 0; k < e->use_count; k++) {
        const int32_t *load = e->uses_there + 2 * k * experts;
        const struct routing known = {.taken = e->uses_there + (2 * k + 1) * experts};
        int32_t greatest = 0;
        g->experts_use.dropped += routing_dropped(&e->routing, &known);
        for (int64_t i = 0; i < experts; i++)
            greatest = load[i] > greatest ? load[i] : greatest;
        g->experts_use.greatest += g->options.columns && g->options.columns->rank != 0 ? 0 : greatest;
    }
    e->use_count = 0;
}

static void keep_use(struct graph *g, struct experts *e, const struct routing *r)
{
    size_t half = uses_bytes(e, 1) / 2;
    if (graph_tensor_rank(g) != 0)
        return;
    if (e->use_count == KEPT_USES)
        count_uses(g, e);
    char *to = (char *)e->uses + uses_bytes(e, e->use_count++);
    KERNEL(g)->copy(g->backend, to, r->load, half);
    KERNEL(g)->copy(g->backend, to + half, r->taken, half);
}

struct graph_experts_use graph_take_experts_use(struct graph *g)
{
    for (int i = 0; i < g->op_count; i++)
        if (g->ops[i].experts && g->ops[i].experts->use_count > 0)
            count_uses(g, g->ops[i].experts);
    struct graph_experts_use use = g->experts_use;
    g->experts_use = (struct graph_experts_use){0};
    return use;
}

/* An idle rank's experts may have rows of the others in its group. If these are idle too, no gradient is wanted. */
static void experts_backward(struct graph *g, struct op *op)
{
    const struct experts *e = op->experts;
    const struct routing r = routing_of(g, op);
    int64_t block = e->own * e->routing.capacity * e->routing.width;
    if (g->idle)
        clear_unread(g, op->work[D_PACKED]);
    else
        backward_combine(g, op, &r);
    exchange(g, e, tensor_data(g, op->work[D_PACKED]), tensor_data(g, op->work[D_RESULT]), block, g->backend->act);
    if (parameter_gradient(g, op->bias, false))
        backward_experts(g, op);
    exchange(g, e, tensor_data(g, op->work[D_RECEIVED]), tensor_data(g, op->work[D_RETURNED]), block, g->backend->act);
    if (!g->idle) {
        backward_router(g, op, &r);
        keep_use(g, op->experts, &r);
    }
}

const struct op_class op_experts = {.name = "experts", .exchanges = true, .input_reads = READS_X | READS_STATISTICS, .adds_to_gradient = true,
                                    .weights_with_input = true, .across_replicas = true, .prepare = experts_prepare,
                                    .forward = experts_forward, .backward_input = experts_backward, .release = experts_release};
