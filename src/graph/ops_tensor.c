/* Tensor parallelism (Shoeybi et al., arXiv 1909.08053): where activations that all ranks hold meet products of which each computes a
 * part, and where the parts are summed; with the rows between shared along the sequence as in Korthikanti et al., arXiv 2205.05198. */
#include "graph/graph_internal.h"

#include <stdlib.h>

#include "mesh/tree.h"

int graph_tensor_rank(const struct graph *g)
{
    return g->options.tensor ? g->options.tensor->rank : 0;
}

int graph_tensor_size(const struct graph *g)
{
    return g->options.tensor ? g->options.tensor->size : 1;
}

bool graph_shares_rows(const struct graph *g)
{
    return g->options.sequence && graph_tensor_size(g) > 1;
}

int64_t graph_tensor_share(const struct graph *g, int64_t n, int64_t *first)
{
    int64_t count;
    tree_share(n, graph_tensor_size(g), graph_tensor_rank(g), first, &count);
    return count;
}

int64_t graph_row_share(const struct graph *g, int64_t *first)
{
    *first = 0;
    return graph_shares_rows(g) ? graph_tensor_share(g, g->rows, first) : g->rows;
}

void graph_note(struct graph *g, cairn_err err)
{
    if (err && !g->run_error)
        g->run_error = err;
}

static tensor_id add(struct graph *g, const struct op_class *class, tensor_id x, int64_t rows)
{
    if (!graph_is_activation(g, x, class->name))
        return -1;
    struct op *op = graph_add_op(g, class);
    if (!op)
        return -1;
    op->x = x;
    graph_result(g, op, rows, g->tensors[x].width);
    if (class->in_place && op->y >= 0)
        g->tensors[op->y].alias = x;
    return op->y;
}

tensor_id graph_tensor_enter(struct graph *g, tensor_id x)
{
    if (graph_tensor_size(g) == 1)
        return x;
    return graph_shares_rows(g) ? add(g, &op_rows_gather, x, g->rows) : add(g, &op_tensor_enter, x, g->rows);
}

tensor_id graph_tensor_leave(struct graph *g, tensor_id x)
{
    int64_t first;
    if (graph_tensor_size(g) == 1)
        return x;
    return graph_shares_rows(g) ? add(g, &op_rows_scatter, x, graph_row_share(g, &first)) : add(g, &op_tensor_leave, x, g->rows);
}

/* ---- whole rows on every rank ---- */

static void sum(struct graph *g, tensor_id x)
{
    const struct tensor *t = &g->tensors[x];
    graph_note(g, staged_all_reduce(&g->staging, g->options.tensor, tensor_data(g, x), t->rows * t->width, t->dtype));
}

static void nothing(struct graph *g, struct op *op)
{
    (void)g;
    (void)op;
}

static void leave_forward(struct graph *g, struct op *op)
{
    sum(g, op->y);
}

static void enter_backward(struct graph *g, struct op *op)
{
    sum(g, g->tensors[op->y].gradient);
}

const struct op_class op_tensor_enter = {.name = "tensor enter", .in_place = true, .forward = nothing, .backward_input = enter_backward};
const struct op_class op_tensor_leave = {.name = "tensor leave", .in_place = true, .forward = leave_forward, .backward_input = nothing};

/* ---- rows shared ---- */

/* Each rank's elements in a matrix of all rows and WIDTH. */
static void share_rows(const struct graph *g, int64_t width, int64_t *begins, int64_t *counts)
{
    for (int r = 0; r < graph_tensor_size(g); r++) {
        tree_share(g->rows, graph_tensor_size(g), r, &begins[r], &counts[r]);
        begins[r] *= width;
        counts[r] *= width;
    }
}

/* ALL has the rows of every rank, OWN this one's. */
static void gather(struct graph *g, tensor_id all, tensor_id own)
{
    struct group *group = g->options.tensor;
    int64_t *begins = g->shares, *counts = g->shares + group->size, width = g->tensors[own].width;
    size_t size = dtype_size(g->tensors[own].dtype);
    share_rows(g, width, begins, counts);
    char *whole = tensor_data(g, all);
    g->backend->table->copy(g->backend, whole + (size_t)begins[group->rank] * size, tensor_data(g, own), (size_t)counts[group->rank] * size);
    graph_note(g, staged_all_gather(&g->staging, group, whole, begins, counts, g->tensors[own].dtype));
}

static void scatter(struct graph *g, tensor_id own, tensor_id all)
{
    struct group *group = g->options.tensor;
    int64_t *begins = g->shares, *counts = g->shares + group->size;
    share_rows(g, g->tensors[own].width, begins, counts);
    graph_note(g, staged_reduce_scatter(&g->staging, group, tensor_data(g, own), tensor_data(g, all), begins, counts, g->tensors[own].dtype));
}

static cairn_err rows_prepare(struct graph *g, struct op *op)
{
    (void)op;
    if (!g->shares)
        g->shares = calloc(2 * (size_t)graph_tensor_size(g), sizeof *g->shares);
    return g->shares ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for the shares of rows");
}

static void gather_forward(struct graph *g, struct op *op)
{
    gather(g, op->y, op->x);
}

static void gather_backward(struct graph *g, struct op *op)
{
    scatter(g, g->tensors[op->x].gradient, g->tensors[op->y].gradient);
}

static void scatter_forward(struct graph *g, struct op *op)
{
    scatter(g, op->y, op->x);
}

static void scatter_backward(struct graph *g, struct op *op)
{
    gather(g, g->tensors[op->x].gradient, g->tensors[op->y].gradient);
}

const struct op_class op_rows_gather = {.name = "gather of rows", .prepare = rows_prepare, .forward = gather_forward,
                                        .backward_input = gather_backward};
const struct op_class op_rows_scatter = {.name = "scatter of rows", .prepare = rows_prepare, .forward = scatter_forward,
                                         .backward_input = scatter_backward};

/* ---- gradients of what every rank holds whole, but computes from its own rows ---- */

void graph_sum_over_rows(struct graph *g, void *gradient, int64_t n)
{
    if (graph_shares_rows(g))
        graph_note(g, staged_all_reduce(&g->staging, g->options.tensor, gradient, n, g->backend->acc));
}
