/* Context parallelism: ranks share each sequence. Attention alone needs the others' columns: keys and values go round a ring of ranks
 * (Liu et al., arXiv 2310.01889), each rank's queries meet them one after the other. A rank holds an early and a late run of columns, so
 * that the causal mask leaves all the same work. */
#include "graph/graph_internal.h"

#include <stdlib.h>

#include "mesh/tree.h"

#define KERNEL(g) ((g)->backend->table)

struct graph_columns graph_columns_of(int64_t context, int ranks, int rank)
{
    struct graph_columns c = {.count = context, .runs = 1, .run = {{0, context}}};
    if (ranks == 1)
        return c;
    c.runs = 2;
    tree_share(context, 2 * ranks, rank, &c.run[0].first, &c.run[0].length);
    tree_share(context, 2 * ranks, 2 * ranks - 1 - rank, &c.run[1].first, &c.run[1].length);
    c.count = c.run[0].length + c.run[1].length;
    return c;
}

cairn_err graph_place_columns(struct graph *g)
{
    if (g->columns.runs == 1)
        return CAIRN_OK;
    size_t bytes = (size_t)g->columns.count * sizeof *g->positions;
    int32_t *positions = malloc(bytes), *next = positions;
    g->positions = KERNEL(g)->alloc(g->backend, bytes);
    if (!positions || !g->positions) {
        free(positions);
        return FAIL(CAIRN_ENOMEM, "no memory for positions");
    }
    for (int r = 0; r < g->columns.runs; r++)
        for (int64_t i = 0; i < g->columns.run[r].length; i++)
            *next++ = (int32_t)(g->columns.run[r].first + i);
    KERNEL(g)->upload(g->backend, g->positions, positions, bytes);
    free(positions);
    return CAIRN_OK;
}

int64_t graph_row_run(const struct graph *g, int64_t first, int64_t count, int64_t *place)
{
    int64_t share;
    graph_row_share(g, &share);
    int64_t row = first + share, sample = row / g->columns.count, column = row % g->columns.count;
    if (g->columns.runs == 1) {
        *place = row;
        return count;
    }
    int r = column >= g->columns.run[0].length;
    int64_t inside = r ? column - g->columns.run[0].length : column, left = g->columns.run[r].length - inside;
    *place = sample * g->options.context + g->columns.run[r].first + inside;
    return left < count ? left : count;
}

/* ---- the ring ---- */

enum { RUNNING, KV_A, KV_B, FORWARD_WORK, D_QUERY = FORWARD_WORK, B_KV_A, B_KV_B, D_KV_A, D_KV_B };

static struct graph_columns columns_of_rank(const struct graph *g, int rank)
{
    return graph_columns_of(g->options.context, g->options.columns->size, rank);
}

/* Elements of the keys and values of RANK. */
static int64_t kv_elements(const struct graph *g, const struct op *op, int rank)
{
    return g->options.samples * columns_of_rank(g, rank).count * 2 * g->tensors[op->y].width;
}

static int64_t most_columns(const struct graph *g)
{
    int64_t most = 0;
    for (int r = 0; r < g->options.columns->size; r++)
        most = columns_of_rank(g, r).count > most ? columns_of_rank(g, r).count : most;
    return most;
}

void graph_ring_work(struct graph *g, struct op *op, int64_t heads, int64_t size)
{
    enum dtype act = g->backend->act, acc = g->backend->acc;
    int64_t rows = g->rows, most = g->options.samples * most_columns(g), width = heads * size;
    const struct {
        enum dtype dtype;
        int64_t rows, width;
    } work[] = {{acc, rows * heads, size + 2}, {act, most, 2 * width}, {act, most, 2 * width}, {acc, rows, width},
                {act, most, 2 * width}, {act, most, 2 * width}, {acc, most, 2 * width}, {acc, most, 2 * width}};
    op->forward_work = FORWARD_WORK;
    for (int i = 0; i < (g->options.training ? 8 : FORWARD_WORK); i++) {
        op->work[i] = graph_add_tensor(g, ROLE_STATISTIC, work[i].dtype, work[i].rows, work[i].width);
        if (op->work[i] >= 0)
            g->tensors[op->work[i]].producer = (int)(op - g->ops);
    }
}

static struct attention_span span_of(const struct graph *g, int rank)
{
    struct graph_columns c = columns_of_rank(g, rank);
    struct attention_span s = {.segments = c.runs};
    for (int r = 0; r < c.runs; r++) {
        s.segment[r].position = c.run[r].first;
        s.segment[r].length = c.run[r].length;
    }
    return s;
}

/* Whose keys and values are here after SHIFT shifts. */
static int owner_after(const struct group *ring, int shift)
{
    return (ring->rank - shift % ring->size + ring->size) % ring->size;
}

static cairn_err ring_prepare(struct graph *g, struct op *op)
{
    int64_t first, own = graph_tensor_share(g, op->heads, &first);
    const struct attention_desc desc = {.batch = g->options.samples, .context = g->options.context, .heads = own,
                                        .head_size = g->tensors[op->y].width / own, .heads_all = op->heads, .head_first = first,
                                        .columns = most_columns(g), .dropout_rate = op->rate};
    return KERNEL(g)->attention_create(g->backend, &desc, &op->attention);
}

static void ring_forward(struct graph *g, struct op *op)
{
    struct group *ring = g->options.columns;
    struct dropout d = graph_active_dropout(g, op);
    struct attention_piece piece = {.query = span_of(g, ring->rank)};
    void *running = tensor_data(g, op->work[RUNNING]), *here = tensor_data(g, op->work[KV_A]), *next = tensor_data(g, op->work[KV_B]);
    const void *qkv = tensor_data(g, op->x);
    KERNEL(g)->attention_keys_values(op->attention, here, qkv, g->columns.count);
    KERNEL(g)->attention_pieces_begin(op->attention, running, g->columns.count);
    for (int s = 0; s < ring->size && !g->run_error; s++) {
        struct staged_shift shift;
        int owner = owner_after(ring, s), coming = owner_after(ring, s + 1);
        bool last = s == ring->size - 1;
        if (!last)
            graph_note(g, staged_shift_start(&g->staging, ring, &shift, here, kv_elements(g, op, owner), next, kv_elements(g, op, coming), g->backend->act));
        piece.key = span_of(g, owner);
        KERNEL(g)->attention_piece_forward(op->attention, running, qkv, here, &piece, &d);
        if (!last && !g->run_error)
            graph_note(g, staged_shift_finish(&g->staging, ring, &shift));
        void *used = here;
        here = next;
        next = used;
    }
    KERNEL(g)->attention_pieces_end(op->attention, tensor_data(g, op->y), tensor_data(g, op->statistic[0]), running, g->columns.count);
}

/* The gradients of keys and values go round with them, and home. A rank begins with its neighbour's, for which it waits, and ends with
 * its own: to begin with its own would send the gradients one shift more. */
static void ring_backward(struct graph *g, struct op *op)
{
    struct group *ring = g->options.columns;
    struct attention_piece piece = {.query = span_of(g, ring->rank)};
    void *d_query = tensor_data(g, op->work[D_QUERY]), *here = tensor_data(g, op->work[B_KV_A]), *next = tensor_data(g, op->work[B_KV_B]);
    void *d_here = tensor_data(g, op->work[D_KV_A]), *d_next = tensor_data(g, op->work[D_KV_B]), *used;
    const void *qkv = tensor_data(g, op->x);
    int64_t first = kv_elements(g, op, owner_after(ring, 1));
    KERNEL(g)->attention_keys_values(op->attention, next, qkv, g->columns.count);
    KERNEL(g)->attention_pieces_backward_begin(op->attention, d_query, d_here, g->columns.count);
    KERNEL(g)->zero(g->backend, d_here, (size_t)first * dtype_size(g->backend->acc)); /* the neighbour may have more columns */
    if (ring->size > 1)
        graph_note(g, staged_shift(&g->staging, ring, next, kv_elements(g, op, ring->rank), here, first, g->backend->act));
    for (int s = 1; s <= ring->size && !g->run_error; s++) {
        struct staged_shift shift;
        int owner = owner_after(ring, s), coming = owner_after(ring, s + 1);
        int64_t out = kv_elements(g, op, owner), in = kv_elements(g, op, coming);
        bool last = s == ring->size, ahead = s + 1 < ring->size;
        if (last)
            KERNEL(g)->attention_keys_values(op->attention, here, qkv, g->columns.count);
        if (ahead)
            graph_note(g, staged_shift_start(&g->staging, ring, &shift, here, out, next, in, g->backend->act));
        piece.key = span_of(g, owner);
        KERNEL(g)->attention_piece_backward(op->attention, d_query, d_here, gradient_of(g, op->y), tensor_data(g, op->y), qkv, here,
                                            tensor_data(g, op->statistic[0]), &piece, &op->dropout);
        if (ahead && !g->run_error)
            graph_note(g, staged_shift_finish(&g->staging, ring, &shift));
        if (ahead)
            used = here, here = next, next = used;
        if (last || g->run_error)
            break;
        graph_note(g, staged_shift(&g->staging, ring, d_here, out, d_next, in, g->backend->acc));
        used = d_here, d_here = d_next, d_next = used;
    }
    KERNEL(g)->attention_pieces_backward_end(op->attention, gradient_of(g, op->x), d_query, d_here, g->columns.count);
}

static void ring_release(struct graph *g, struct op *op)
{
    if (op->attention)
        KERNEL(g)->attention_destroy(op->attention);
}

const struct op_class op_ring_attention = {.name = "attention", .exchanges = true, .input_reads = READS_X | READS_Y | READS_STATISTICS,
                                           .prepare = ring_prepare, .forward = ring_forward, .backward_input = ring_backward,
                                           .release = ring_release};
