#include "plan/block_time.h"

#include <math.h>

#include "plan/experts.h"
#include "plan/kernel_time.h"
#include "plan/link_time.h"

/* What the functions below share. */
struct work {
    const struct plan_model *model;
    const struct plan_layout *layout;
    const struct machine *machine;
    double rows;    /* tokens of a microbatch on this rank */
    double width;
    double size;    /* of a number */
    double tensor;  /* ranks of the tensor group */
    double parts;   /* that what the tensor group repeats is divided in */
};

static struct work work_of(const struct plan_model *m, const struct plan_layout *l, const struct machine *machine)
{
    return (struct work){.model = m, .layout = l, .machine = machine,
                         .rows = (double)l->samples * (double)m->context / l->axes.context, .width = (double)m->width,
                         .size = plan_type_size(machine->type), .tensor = l->axes.tensor,
                         .parts = l->sequence ? l->axes.tensor : 1};
}

static double product(const struct work *w, double m, double n, double k)
{
    const struct product_shape s = {.m = m, .n = n, .k = k, .count = 1, .result_bytes = (int)w->size};
    return kernel_product_seconds(w->machine->gpu, w->machine->type, &s);
}

/* NUMBERS read or written by LAUNCHES kernels. */
static double stream(const struct work *w, double numbers, double launches)
{
    return kernel_stream_seconds(w->machine->gpu, numbers * w->size, launches);
}

/* Microbatches of a replica. */
static double local_microbatches(const struct plan_layout *l)
{
    return ceil((double)l->microbatches / l->axes.data);
}

/* The way of a microbatch's gradient of N weights into the step's sum. */
static double sum_gradient(const struct work *w, double n)
{
    const struct hardware_software *software = w->machine->software;
    const struct hardware_gpu *gpu = w->machine->gpu;
    double count = local_microbatches(w->layout);
    if (software->fused_sums)
        return 0;
    if (software->gradient_vectors != 1) /* N vectors take N - 1 additions: two read, one written */
        return kernel_stream_seconds(gpu, 12 * n, 1) * (count - 1) / count;
    return kernel_stream_seconds(gpu, (w->size + 8) * n, 1);
}

/* The gradient of a weight [out, in], and its way into the step's sum. */
static double weight_gradient(const struct work *w, double out, double in)
{
    const struct hardware_software *software = w->machine->software;
    struct product_shape s = {.m = out, .n = in, .k = w->rows, .count = 1, .result_bytes = 4, .adds = software->fused_sums};
    if (!software->fused_sums && software->gradient_vectors == 1)
        s.result_bytes = (int)w->size;
    return kernel_product_seconds(w->machine->gpu, w->machine->type, &s) + sum_gradient(w, out * in);
}

/* A linear layer [out, in], forward, for inputs and for weights. */
static void add_linear(const struct work *w, double in, double out, struct block_time *t)
{
    t->forward += product(w, w->rows, out, in);
    t->backward_input += product(w, w->rows, in, out);
    t->backward_weight += weight_gradient(w, out, in) + stream(w, w->rows * out, 1); /* the bias reads the gradient again */
}

/* ---- attention ---- */

static void add_fused_attention(const struct work *w, struct block_time *t, double *forward)
{
    const struct attention_shape s = {.rows = w->rows, .context = (double)w->model->context, .width = w->width / w->tensor,
                                      .head_size = w->width / (double)w->model->heads,
                                      .flash = (int)w->machine->software->flash};
    *forward = kernel_attention_forward(w->machine->gpu, w->machine->type, &s);
    t->forward += *forward;
    t->backward_input += kernel_attention_backward(w->machine->gpu, w->machine->type, &s);
}

/* Scores in memory: two batched products forward and four backward, and what the softmax and dropout read and write of them. Masks have
 * a byte a score. */
static void add_stored_attention(const struct work *w, struct block_time *t, double *forward)
{
    const struct hardware_gpu *gpu = w->machine->gpu;
    enum plan_type type = w->machine->type;
    double heads = (double)w->layout->samples * ceil((double)w->model->heads / w->tensor), head = w->width / (double)w->model->heads;
    double context = (double)w->model->context, queries = context / w->layout->axes.context, scores = heads * queries * context;
    const struct product_shape of_scores = {queries, context, head, heads, (int)w->size, false};
    const struct product_shape of_values = {queries, head, context, heads, (int)w->size, false};
    const struct product_shape of_keys = {context, head, queries, heads, (int)w->size, false};
    bool dropout = w->model->dropout;
    *forward = kernel_product_seconds(gpu, type, &of_scores) + kernel_product_seconds(gpu, type, &of_values);
    *forward += kernel_stream_seconds(gpu, scores * (2 * w->size + (dropout ? 2 * w->size + 1 : 0)), dropout ? 2 : 1);
    *forward += stream(w, 8 * w->rows * w->width / w->tensor, 3); /* heads are moved apart and together */
    t->forward += *forward;
    t->backward_input += kernel_product_seconds(gpu, type, &of_scores) + kernel_product_seconds(gpu, type, &of_values) +
                         2 * kernel_product_seconds(gpu, type, &of_keys);
    t->backward_input += kernel_stream_seconds(gpu, scores * (3 * w->size + (dropout ? 2 * w->size + 1 : 0)), dropout ? 2 : 1);
    t->backward_input += stream(w, 8 * w->rows * w->width / w->tensor, 3);
}

/* Keys and values go round the context group under attention's computation; what is longer than that shows. */
static double ring_seconds(const struct work *w, double computing, double vectors)
{
    int context = w->layout->axes.context;
    if (context == 1)
        return 0;
    double bytes = vectors * w->rows * w->width / w->tensor * w->size;
    double moving = (context - 1) * link_send_seconds(w->machine, w->layout->axes.tensor, bytes);
    return fmax(0, moving - computing * (context - 1) / context);
}

static void add_attention(const struct work *w, struct block_time *t, double *forward)
{
    double before = t->backward_input;
    if (w->machine->software->flash > 0)
        add_fused_attention(w, t, forward);
    else
        add_stored_attention(w, t, forward);
    t->backward_input += ring_seconds(w, t->backward_input - before, 4); /* their gradients too */
    double ring = ring_seconds(w, *forward, 2);
    t->forward += ring;
    *forward += ring;
}

/* ---- what only moves numbers ---- */

static void add_norm(const struct work *w, struct block_time *t)
{
    double n = w->rows * w->width / w->parts;
    t->forward += stream(w, 2 * n, 1);
    t->backward_input += stream(w, 4 * n, 1); /* the gradient it adds to is read too */
    t->backward_weight += stream(w, 2 * n, 1);
}

static void add_residual(const struct work *w, struct block_time *t)
{
    double n = w->rows * w->width / w->parts;
    double mask = w->model->dropout && w->machine->software->keeps_masks ? n / w->size : 0;
    t->forward += stream(w, 3 * n + mask, 1);
    t->backward_input += stream(w, 2 * n + mask, 1);
}

static void add_gelu(const struct work *w, struct block_time *t)
{
    double n = 4 * w->rows * w->width / w->tensor;
    t->forward += stream(w, 2 * n, 1);
    t->backward_input += stream(w, 3 * n, 1);
}

/* One all-reduce of a microbatch's activations in the tensor group, or the reduce-scatter and all-gather that sequence makes of it. */
static double tensor_exchange(const struct work *w)
{
    struct link_group group = link_group_of(w->machine, w->layout->axes.tensor, 1);
    return link_reduce_seconds(w->machine, &group, w->rows * w->width * w->size) * (1 - w->machine->software->tensor_overlap);
}

/* ---- experts: each rank has as many rows of each source for each of its experts as if the router spread them evenly ---- */

/* The products of all sources' rows, expert by expert and source by source: as many as there are experts, whoever has them. Gradients of
 * weights are made in one go with those of inputs, also where the backward pass is cut in two (graph/ops_experts.c). */
static void add_expert_products(const struct work *w, const struct plan_experts *e, struct block_time *t)
{
    double count = (double)w->model->experts, rows = plan_experts_product_rows(w->model, w->layout), c = w->width, h = (double)e->hidden;
    const struct hardware_gpu *gpu = w->machine->gpu;
    const struct product_shape s = {.m = h, .n = c, .k = rows, .count = 1, .result_bytes = 4, .adds = w->layout->axes.expert > 1};
    double pass = product(w, rows, h, c) + product(w, rows, c, h);
    t->forward += count * (pass + stream(w, 2 * rows * h, 1));
    t->backward_input += count * (pass + stream(w, 3 * rows * h, 1));
    t->backward_input += count * (2 * kernel_product_seconds(gpu, w->machine->type, &s) + stream(w, rows * (h + c), 2)); /* biases */
    t->backward_input += sum_gradient(w, (double)plan_experts_parameters(w->model, w->layout));
}

/* The router's products and probabilities; rows packed for the experts, with zeros behind them, and their results added up; backwards the
 * same the other way, and the gates' gradients. */
static void add_routing(const struct work *w, const struct plan_experts *e, struct block_time *t)
{
    double experts = (double)w->model->experts, c = w->width, whole = (double)e->packed * c;
    double taken = fmin((double)(e->rows * w->model->choices), (double)e->packed) * c;
    double probabilities = 4 * w->rows * experts;
    t->forward += product(w, w->rows, experts, c) + kernel_stream_seconds(w->machine->gpu, 2 * probabilities, 2);
    t->forward += stream(w, taken + whole, 1) + stream(w, taken + w->rows * c, 1);
    t->backward_input += stream(w, taken + whole + w->rows * c, 1) + stream(w, taken + 2 * w->rows * c, 1);
    t->backward_input += kernel_stream_seconds(w->machine->gpu, 3 * probabilities, 1) + product(w, w->rows, c, experts);
    t->backward_input += weight_gradient(w, experts, c);
}

/* An all-to-all of packed rows, at the whole capacity: each rank of the expert group sends every other its experts' part. */
static double expert_exchange(const struct work *w, const struct plan_experts *e)
{
    const struct layout *a = &w->layout->axes;
    struct link_group group = link_group_of(w->machine, a->expert, a->tensor * a->context);
    return a->expert == 1 ? 0 : link_direct_seconds(w->machine, &group, (double)e->packed * w->width * w->size);
}

static void add_experts(const struct work *w, struct block_time *t)
{
    const struct plan_experts e = plan_experts_of(w->model, w->layout);
    add_routing(w, &e, t);
    add_expert_products(w, &e, t);
    t->expert_forward = t->expert_backward = 2 * expert_exchange(w, &e); /* to the experts and back */
}

static void add_mlp(const struct work *w, struct block_time *t)
{
    double c = w->width;
    add_linear(w, c, 4 * c / w->tensor, t);
    add_gelu(w, t);
    add_linear(w, 4 * c / w->tensor, c, t);
}

struct block_time block_time_of(const struct plan_model *m, const struct plan_layout *l, const struct machine *machine)
{
    struct work w = work_of(m, l, machine);
    struct block_time t = {0};
    double c = w.width, attention, exchange = tensor_exchange(&w);
    add_norm(&w, &t);
    add_linear(&w, c, 3 * c / w.tensor, &t);
    double before = t.forward;
    add_attention(&w, &t, &attention);
    add_linear(&w, c / w.tensor, c, &t);
    add_residual(&w, &t);
    add_norm(&w, &t);
    if (m->experts > 0)
        add_experts(&w, &t);
    else
        add_mlp(&w, &t);
    add_residual(&w, &t);
    t.tensor_forward = t.tensor_backward = 2 * exchange; /* attention's and the MLP's */
    if (l->recompute == RECOMPUTE_BLOCK) {
        t.again = t.forward;
        t.tensor_again = t.tensor_forward;
        t.expert_again = t.expert_forward;
    } else if (l->recompute == RECOMPUTE_ATTENTION) {
        t.again = attention + (machine->software->recomputes_qkv ? before : 0);
        if (machine->software->recomputes_qkv && l->sequence) /* the norm's result is gathered again */
            t.tensor_again = exchange / 2;
    }
    return t;
}

struct block_time block_time_of_head(const struct plan_model *m, const struct plan_layout *l, const struct machine *machine)
{
    struct work w = work_of(m, l, machine);
    struct block_time t = {0};
    double words = ceil((double)m->vocabulary / w.tensor), logits = w.rows * words;
    add_norm(&w, &t);
    t.forward += product(&w, w.rows, words, w.width);
    t.backward_input += product(&w, w.rows, w.width, words);
    t.backward_weight += weight_gradient(&w, words, w.width);
    /* Logits written, read twice for the sums and the gradients, gradients written; kept ones are widened to float32 and back. */
    t.forward += kernel_stream_seconds(machine->gpu, logits * (machine->software->keeps_logits ? w.size + 12 : 2 * w.size), 2);
    t.backward_input += kernel_stream_seconds(machine->gpu, logits * (machine->software->keeps_logits ? w.size + 8 : w.size), 2);
    t.tensor_forward = t.tensor_backward = tensor_exchange(&w); /* the embedding's, too */
    return t;
}
