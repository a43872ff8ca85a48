/* The classifier, whole or over a slice of the vocabulary. */
#include "graph/graph_internal.h"

#include <stdlib.h>

#define KERNEL(g) ((g)->backend->table)

/* What tensor ranks tell each other of a row: kernels/backend.h, classifier_block_logits and classifier_join. */
enum { STATS = 3, JOINED = 2 };

void graph_classifier(struct graph *g, tensor_id x, tensor_id weight)
{
    if (!graph_is_activation(g, x, "classifier"))
        return;
    int64_t vocabulary = weight < 0 ? 0 : g->tensors[weight].rows;
    if (!graph_is_parameter(g, weight, vocabulary, g->tensors[x].width, "classifier"))
        return;
    if (g->losses >= 0)
        graph_mistake(g, "a graph has one classifier");
    struct op *op = graph_add_op(g, &op_classifier);
    if (!op)
        return;
    struct op *before = g->tensors[x].producer < 0 ? NULL : &g->ops[g->tensors[x].producer];
    if (before && before->class == &op_rows_gather && before->segment >= 0)
        before->late = true;
    op->x = x;
    op->weight = weight;
    op->statistic[0] = g->losses = graph_statistic(g, op, g->rows);
}

static cairn_err classifier_prepare(struct graph *g, struct op *op)
{
    const struct parameter *table = parameter_of(g, op->weight);
    int64_t size = graph_tensor_size(g), most = (table->shape[0] + size - 1) / size, rows;
    const struct classifier_desc desc = {.rows = g->rows, .width = g->tensors[op->x].width, .vocabulary = table->extent[0],
                                         .word_first = table->first[0], .vocabulary_most = size > 1 ? most : 0};
    TRY(KERNEL(g)->classifier_create(g->backend, &desc, &op->classifier));
    if (size == 1)
        return CAIRN_OK;
    KERNEL(g)->classifier_blocks(op->classifier, &rows);
    g->join_bytes = (size_t)(rows * (STATS * size + JOINED)) * dtype_size(g->backend->acc);
    g->join = KERNEL(g)->alloc(g->backend, g->join_bytes);
    g->shares = g->shares ? g->shares : calloc(2 * (size_t)size, sizeof *g->shares);
    return g->join && g->shares ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for %zu bytes of the classifier", g->join_bytes);
}

/* Block by block: logits of the own words, what all ranks found of the rows joined, then losses and gradients (DX NULL: none). */
static void run_slices(struct graph *g, struct op *op, void *losses, void *dx, void *d_weight)
{
    struct group *group = g->options.tensor;
    const void *x = tensor_data(g, op->x), *weight = parameter_data(g, op->weight);
    size_t size = dtype_size(g->backend->acc);
    int64_t most, blocks = KERNEL(g)->classifier_blocks(op->classifier, &most), *begins = g->shares, *counts = g->shares + group->size;
    char *stats = g->join, *joined = stats + (size_t)(most * STATS * group->size) * size;
    for (int64_t b = 0; b < blocks && !g->run_error; b++) {
        int64_t rows = b < blocks - 1 ? most : g->rows - b * most;
        for (int r = 0; r < group->size; r++) {
            begins[r] = r * rows * STATS;
            counts[r] = rows * STATS;
        }
        KERNEL(g)->classifier_block_logits(op->classifier, b, stats + (size_t)begins[group->rank] * size, x, weight, g->targets, dx != NULL);
        graph_note(g, staged_all_gather(&g->staging, group, stats, begins, counts, g->backend->acc));
        KERNEL(g)->classifier_join(g->backend, joined, stats, group->size, rows);
        KERNEL(g)->classifier_block_finish(op->classifier, b, losses, dx, d_weight, joined, x, weight, g->targets, g->loss_scale);
    }
}

static void classifier_forward(struct graph *g, struct op *op)
{
    void *losses = tensor_data(g, op->statistic[0]);
    if (graph_tensor_size(g) > 1)
        run_slices(g, op, losses, NULL, NULL);
    else
        KERNEL(g)->classifier_loss(op->classifier, losses, tensor_data(g, op->x), parameter_data(g, op->weight), g->targets);
}

/* Logits are never kept, so the losses are made along with the gradients. */
static void classifier_backward(struct graph *g, struct op *op)
{
    void *losses = tensor_data(g, op->statistic[0]), *dx = gradient_of(g, op->x), *d_weight = parameter_gradient(g, op->weight, false);
    if (graph_tensor_size(g) > 1)
        run_slices(g, op, losses, dx, d_weight);
    else
        KERNEL(g)->classifier_loss_and_gradients(op->classifier, losses, dx, d_weight, tensor_data(g, op->x),
                                                 parameter_data(g, op->weight), g->targets, g->loss_scale);
}

static void classifier_release(struct graph *g, struct op *op)
{
    if (op->classifier)
        KERNEL(g)->classifier_destroy(op->classifier);
}

const struct op_class op_classifier = {.name = "classifier", .input_reads = READS_X | READS_STATISTICS, .backward_only = true, .weights_with_input = true,
                                       .prepare = classifier_prepare, .forward = classifier_forward,
                                       .backward_input = classifier_backward, .release = classifier_release};
