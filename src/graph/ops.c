/* The operations: how each is declared, prepared and run. */
#include "graph/graph_internal.h"

/* The backend's table, and the backend itself as its first argument. */
#define KERNEL(g) ((g)->backend->table)

/* Each unit of a model has so many numbers for its dropouts' keys. */
enum { DROPOUTS_IN_UNIT = 16 };

bool graph_is_activation(struct graph *g, tensor_id x, const char *op)
{
    if (g->error)
        return false;
    if (x < 0 || g->tensors[x].role != ROLE_ACTIVATION)
        graph_mistake(g, "%s: its input is no activation", op);
    return !g->error;
}

bool graph_is_parameter(struct graph *g, tensor_id p, int64_t rows, int64_t width, const char *op)
{
    if (g->error)
        return false;
    if (p < 0 || g->tensors[p].role != ROLE_PARAMETER)
        graph_mistake(g, "%s: what should be a parameter is none", op);
    else if (g->tensors[p].rows != rows || g->tensors[p].width != width)
        graph_mistake(g, "%s: parameter %s is %lld x %lld, not %lld x %lld", op, g->parameters[g->tensors[p].parameter].name,
                      (long long)g->tensors[p].rows, (long long)g->tensors[p].width, (long long)rows, (long long)width);
    return !g->error;
}

tensor_id graph_result(struct graph *g, struct op *op, int64_t rows, int64_t width)
{
    op->y = graph_add_tensor(g, ROLE_ACTIVATION, g->backend->act, rows, width);
    if (op->y >= 0)
        g->tensors[op->y].producer = (int)(op - g->ops);
    return op->y;
}

tensor_id graph_statistic(struct graph *g, struct op *op, int64_t rows)
{
    tensor_id id = graph_add_tensor(g, ROLE_STATISTIC, g->backend->acc, rows, 1);
    if (id >= 0)
        g->tensors[id].producer = (int)(op - g->ops);
    return id;
}

static int64_t rows_of(const struct graph *g, tensor_id x)
{
    return g->tensors[x].rows;
}

void graph_set_dropout(struct graph *g, struct op *op, float rate)
{
    if (rate < 0 || rate >= 1)
        graph_mistake(g, "%s: dropout %g is not in [0, 1)", op->class->name, (double)rate);
    op->rate = rate;
    op->dropout.rate = rate;
    op->dropout.key = philox_key_make(g->options.seed, STREAM_DROPOUT, (uint32_t)(op->unit * DROPOUTS_IN_UNIT + g->dropouts_in_unit++));
}

struct dropout graph_active_dropout(const struct graph *g, const struct op *op)
{
    struct dropout d = op->dropout;
    if (!g->dropping)
        d.rate = 0;
    return d;
}

/* ---- embedding ---- */

tensor_id graph_embedding(struct graph *g, tensor_id token_table, tensor_id position_table)
{
    if (g->error)
        return -1;
    if (token_table < 0)
        graph_mistake(g, "embedding: no table of tokens");
    int64_t width = g->error ? 0 : g->tensors[token_table].width;
    if (!graph_is_parameter(g, position_table, g->options.context, width, "embedding"))
        return -1;
    struct op *op = graph_add_op(g, &op_embedding);
    if (!op)
        return -1;
    op->weight = token_table;
    op->bias = position_table;
    op->is_lookup = true;
    op->adds_bias = graph_tensor_rank(g) == 0; /* parts are summed: one rank's has the positions */
    return graph_result(g, op, g->rows, width);
}

static struct embedding_desc embedding_of(const struct graph *g, const struct op *op)
{
    const struct parameter *table = &g->parameters[g->tensors[op->weight].parameter];
    return (struct embedding_desc){.rows = g->rows, .width = g->tensors[op->weight].width, .context = g->columns.count, .positions = g->positions,
                                   .token_first = table->first[0], .token_count = table->extent[0],
                                   .position_count = g->tensors[op->bias].rows};
}

static void embedding_forward(struct graph *g, struct op *op)
{
    const struct embedding_desc desc = embedding_of(g, op);
    KERNEL(g)->embedding_forward(g->backend, tensor_data(g, op->y), g->inputs, parameter_data(g, op->weight),
                                 op->adds_bias ? parameter_data(g, op->bias) : NULL, &desc);
}

static void embedding_backward(struct graph *g, struct op *op)
{
    const struct embedding_desc desc = embedding_of(g, op);
    KERNEL(g)->embedding_backward(g->backend, parameter_gradient(g, op->weight, true), parameter_gradient(g, op->bias, false),
                                  gradient_of(g, op->y), g->inputs, &desc);
}

const struct op_class op_embedding = {.name = "embedding", .forward = embedding_forward, .backward_weight = embedding_backward};

/* ---- layer norm ---- */

tensor_id graph_layer_norm(struct graph *g, tensor_id x, tensor_id gain, tensor_id bias, double epsilon)
{
    if (!graph_is_activation(g, x, "layer norm"))
        return -1;
    int64_t width = g->tensors[x].width;
    if (!graph_is_parameter(g, gain, 1, width, "layer norm") || !graph_is_parameter(g, bias, 1, width, "layer norm"))
        return -1;
    struct op *op = graph_add_op(g, &op_layer_norm);
    if (!op)
        return -1;
    op->x = x;
    op->weight = gain;
    op->bias = bias;
    op->epsilon = epsilon;
    op->statistic[0] = graph_statistic(g, op, rows_of(g, x));
    op->statistic[1] = graph_statistic(g, op, rows_of(g, x));
    return graph_result(g, op, rows_of(g, x), width);
}

/* The residual that the norm adds up now; NULL: there is none. */
static const struct op *sum_of_norm(const struct graph *g, const struct op *op)
{
    const struct op *sum = op->sum_before >= 0 ? &g->ops[op->sum_before] : NULL;
    return sum && graph_norm_adds(g, sum) ? sum : NULL;
}

static void layer_norm_forward(struct graph *g, struct op *op)
{
    void *y = tensor_data(g, op->y), *mean = tensor_data(g, op->statistic[0]), *rstd = tensor_data(g, op->statistic[1]), *x = tensor_data(g, op->x);
    const void *gain = parameter_data(g, op->weight), *bias = parameter_data(g, op->bias);
    int64_t rows = rows_of(g, op->x), width = g->tensors[op->x].width;
    const struct op *sum = sum_of_norm(g, op);
    if (sum)
        KERNEL(g)->residual_layer_norm_forward(g->backend, x, y, mean, rstd, tensor_data(g, sum->x), tensor_data(g, sum->h), gain, bias, rows,
                                               width, op->epsilon);
    else
        KERNEL(g)->layer_norm_forward(g->backend, y, mean, rstd, x, gain, bias, rows, width, op->epsilon);
}

/* In the step for weights, which is the next. Not where the gain may be gone by then. */
static bool finds_all_gradients(const struct graph *g, const struct op *op)
{
    bool can = op->class == &op_layer_norm ? KERNEL(g)->layer_norm_backward != NULL : KERNEL(g)->rms_norm_backward != NULL;
    return can && !g->options.split_backward && !g->hooks.parameters_release;
}

static void layer_norm_backward_input(struct graph *g, struct op *op)
{
    if (finds_all_gradients(g, op))
        return;
    KERNEL(g)->layer_norm_backward_input(g->backend, gradient_of(g, op->x), gradient_of(g, op->y), tensor_data(g, op->x),
                                         parameter_data(g, op->weight), tensor_data(g, op->statistic[0]),
                                         tensor_data(g, op->statistic[1]), rows_of(g, op->x), g->tensors[op->x].width, op->add_x);
}

static void layer_norm_backward_weight(struct graph *g, struct op *op)
{
    void *d_gain = parameter_gradient(g, op->weight, false), *d_bias = parameter_gradient(g, op->bias, false);
    const void *dy = gradient_of(g, op->y), *x = tensor_data(g, op->x), *mean = tensor_data(g, op->statistic[0]), *rstd = tensor_data(g, op->statistic[1]);
    int64_t rows = rows_of(g, op->x), width = g->tensors[op->x].width;
    if (finds_all_gradients(g, op))
        KERNEL(g)->layer_norm_backward(g->backend, gradient_of(g, op->x), d_gain, d_bias, dy, x, parameter_data(g, op->weight), mean, rstd, rows,
                                       width, op->add_x);
    else
        KERNEL(g)->layer_norm_backward_weight(g->backend, d_gain, d_bias, dy, x, mean, rstd, rows, width);
    graph_sum_over_rows(g, d_gain, width);
    graph_sum_over_rows(g, d_bias, width);
}

const struct op_class op_layer_norm = {.name = "layer norm", .input_reads = READS_X | READS_STATISTICS,
                                       .weight_reads = READS_X | READS_STATISTICS, .adds_to_gradient = true,
                                       .forward = layer_norm_forward,
                                       .backward_input = layer_norm_backward_input, .backward_weight = layer_norm_backward_weight};

/* ---- RMS norm ---- */

tensor_id graph_rms_norm(struct graph *g, tensor_id x, tensor_id gain, double epsilon)
{
    if (!graph_is_activation(g, x, "RMS norm") || !graph_is_parameter(g, gain, 1, g->tensors[x].width, "RMS norm"))
        return -1;
    int64_t width = g->tensors[x].width;
    struct op *op = graph_add_op(g, &op_rms_norm);
    if (!op)
        return -1;
    op->x = x;
    op->weight = gain;
    op->epsilon = epsilon;
    op->statistic[0] = graph_statistic(g, op, rows_of(g, x));
    return graph_result(g, op, rows_of(g, x), width);
}

static void rms_norm_forward(struct graph *g, struct op *op)
{
    void *y = tensor_data(g, op->y), *rstd = tensor_data(g, op->statistic[0]), *x = tensor_data(g, op->x);
    const void *gain = parameter_data(g, op->weight);
    int64_t rows = rows_of(g, op->x), width = g->tensors[op->x].width;
    const struct op *sum = sum_of_norm(g, op);
    if (sum)
        KERNEL(g)->residual_rms_norm_forward(g->backend, x, y, rstd, tensor_data(g, sum->x), tensor_data(g, sum->h), gain, rows, width,
                                             op->epsilon);
    else
        KERNEL(g)->rms_norm_forward(g->backend, y, rstd, x, gain, rows, width, op->epsilon);
}

static void rms_norm_backward_input(struct graph *g, struct op *op)
{
    if (finds_all_gradients(g, op))
        return;
    KERNEL(g)->rms_norm_backward_input(g->backend, gradient_of(g, op->x), gradient_of(g, op->y), tensor_data(g, op->x),
                                       parameter_data(g, op->weight), tensor_data(g, op->statistic[0]), rows_of(g, op->x),
                                       g->tensors[op->x].width, op->add_x);
}

static void rms_norm_backward_weight(struct graph *g, struct op *op)
{
    void *d_gain = parameter_gradient(g, op->weight, false);
    const void *dy = gradient_of(g, op->y), *x = tensor_data(g, op->x), *rstd = tensor_data(g, op->statistic[0]);
    int64_t rows = rows_of(g, op->x), width = g->tensors[op->x].width;
    if (finds_all_gradients(g, op))
        KERNEL(g)->rms_norm_backward(g->backend, gradient_of(g, op->x), d_gain, dy, x, parameter_data(g, op->weight), rstd, rows, width,
                                     op->add_x);
    else
        KERNEL(g)->rms_norm_backward_weight(g->backend, d_gain, dy, x, rstd, rows, width);
    graph_sum_over_rows(g, d_gain, width);
}

const struct op_class op_rms_norm = {.name = "RMS norm", .input_reads = READS_X | READS_STATISTICS,
                                     .weight_reads = READS_X | READS_STATISTICS, .adds_to_gradient = true,
                                     .forward = rms_norm_forward,
                                     .backward_input = rms_norm_backward_input, .backward_weight = rms_norm_backward_weight};

/* ---- linear ---- */

tensor_id graph_linear(struct graph *g, tensor_id x, tensor_id weight, tensor_id bias)
{
    if (!graph_is_activation(g, x, "linear"))
        return -1;
    int64_t out = weight < 0 ? 0 : g->tensors[weight].rows;
    if (!graph_is_parameter(g, weight, out, g->tensors[x].width, "linear") || (bias >= 0 && !graph_is_parameter(g, bias, 1, out, "linear")))
        return -1;
    struct op *op = graph_add_op(g, &op_linear);
    if (!op)
        return -1;
    op->x = x;
    op->weight = weight;
    op->bias = bias;
    op->adds_bias = bias >= 0;
    return graph_result(g, op, rows_of(g, x), out);
}

tensor_id graph_linear_part(struct graph *g, tensor_id x, tensor_id weight, tensor_id bias)
{
    tensor_id y = graph_linear(g, x, weight, bias);
    if (y >= 0 && graph_tensor_rank(g) != 0)
        g->ops[g->op_count - 1].adds_bias = false;
    return y;
}

/* In float8, gradients have the type of the wider range (Micikevicius et al., arXiv 2209.05433). */
static cairn_err linear_prepare(struct graph *g, struct op *op)
{
    int64_t rows = rows_of(g, op->x), in = g->tensors[op->x].width, out = g->tensors[op->y].width;
    bool gradient_twice = !g->options.split_backward; /* read by the two products of the backward pass, which follow one another */
    enum float8 value = g->backend->float8 ? FLOAT8_E4M3 : FLOAT8_NONE, gradient = g->backend->float8 ? FLOAT8_E5M2 : FLOAT8_NONE;
    const struct matmul_desc forward = {.m = rows, .n = out, .k = in, .transpose_b = true, .bias = op->adds_bias,
                                        .gelu = op->gelu_behind >= 0 ? MATMUL_GELU : MATMUL_PLAIN,
                                        .float8_a = value, .float8_b = value};
    TRY(KERNEL(g)->matmul_create(g->backend, &forward, &op->forward_plan));
    if (!g->options.training)
        return CAIRN_OK;
    const struct matmul_desc input = {.m = rows, .n = in, .k = out, .accumulate = op->add_x,
                                      .gelu = op->gelu_before >= 0 ? MATMUL_D_GELU : MATMUL_PLAIN,
                                      .float8_a = gradient, .float8_b = value, .keeps_a = gradient_twice};
    TRY(KERNEL(g)->matmul_create(g->backend, &input, &op->input_plan));
    const struct matmul_desc of_weight = {.m = out, .n = in, .k = rows, .transpose_a = true, .c_is_acc = true,
                                          .float8_a = gradient, .float8_b = value, .a_is_kept = gradient_twice,
                                          .d_bias = op->bias >= 0 && KERNEL(g)->matmul_run_d_bias != NULL};
    return KERNEL(g)->matmul_create(g->backend, &of_weight, &op->weight_plan);
}

static void linear_forward(struct graph *g, struct op *op)
{
    const void *x = tensor_data(g, op->x), *weight = parameter_data(g, op->weight);
    const void *bias = op->adds_bias ? parameter_data(g, op->bias) : NULL;
    void *y = tensor_data(g, op->y);
    if (op->gelu_behind >= 0)
        KERNEL(g)->matmul_run_gelu(op->forward_plan, tensor_data(g, g->ops[op->gelu_behind].y), y, x, weight, bias);
    else
        KERNEL(g)->matmul_run(op->forward_plan, y, x, weight, bias);
}

static void linear_backward_input(struct graph *g, struct op *op)
{
    const void *dy = gradient_of(g, op->y), *weight = parameter_data(g, op->weight);
    tensor_id inner = op->gelu_before >= 0 ? g->ops[op->gelu_before].x : -1;
    if (inner >= 0)
        KERNEL(g)->matmul_run_gelu(op->input_plan, gradient_of(g, inner), tensor_data(g, inner), dy, weight, NULL);
    else
        KERNEL(g)->matmul_run(op->input_plan, gradient_of(g, op->x), dy, weight, NULL);
}

static void linear_backward_weight(struct graph *g, struct op *op)
{
    const void *dy = gradient_of(g, op->y), *x = tensor_data(g, op->x);
    void *d_weight = parameter_gradient(g, op->weight, false), *d_bias = op->bias >= 0 ? parameter_gradient(g, op->bias, false) : NULL;
    if (d_bias && KERNEL(g)->matmul_run_d_bias) {
        KERNEL(g)->matmul_run_d_bias(op->weight_plan, d_weight, d_bias, dy, x);
        return;
    }
    KERNEL(g)->matmul_run(op->weight_plan, d_weight, dy, x, NULL);
    if (d_bias)
        KERNEL(g)->bias_backward(g->backend, d_bias, dy, rows_of(g, op->y), g->tensors[op->y].width);
}

static void linear_release(struct graph *g, struct op *op)
{
    struct matmul *plans[] = {op->forward_plan, op->input_plan, op->weight_plan};
    for (int i = 0; i < 3; i++)
        if (plans[i])
            KERNEL(g)->matmul_destroy(plans[i]);
}

const struct op_class op_linear = {.name = "linear", .weight_reads = READS_X, .adds_to_gradient = true, .prepare = linear_prepare, .forward = linear_forward,
                                   .backward_input = linear_backward_input, .backward_weight = linear_backward_weight,
                                   .release = linear_release};

/* ---- attention ---- */

tensor_id graph_attention(struct graph *g, tensor_id qkv, int64_t heads, float dropout)
{
    if (!graph_is_activation(g, qkv, "attention"))
        return -1;
    int64_t width = g->tensors[qkv].width / 3, first, own = graph_tensor_share(g, heads, &first);
    if (own < 1 || g->tensors[qkv].width != 3 * width || width % own)
        graph_mistake(g, "attention: %lld heads do not divide a width of %lld", (long long)own, (long long)width);
    bool shared = g->options.columns && g->options.columns->size > 1;
    struct op *op = graph_add_op(g, shared ? &op_ring_attention : &op_attention);
    if (!op)
        return -1;
    op->x = qkv;
    op->heads = heads;
    graph_set_dropout(g, op, dropout);
    op->statistic[0] = graph_statistic(g, op, g->rows * own);
    if (shared)
        graph_ring_work(g, op, own, width / (own > 0 ? own : 1));
    return graph_result(g, op, g->rows, width);
}

static cairn_err attention_prepare(struct graph *g, struct op *op)
{
    int64_t first, own = graph_tensor_share(g, op->heads, &first);
    const struct attention_desc desc = {.batch = g->options.samples, .context = g->options.context, .heads = own,
                                        .head_size = g->tensors[op->y].width / own, .heads_all = op->heads, .head_first = first,
                                        .dropout_rate = op->rate};
    return KERNEL(g)->attention_create(g->backend, &desc, &op->attention);
}

static void attention_forward(struct graph *g, struct op *op)
{
    struct dropout d = graph_active_dropout(g, op);
    KERNEL(g)->attention_forward(op->attention, tensor_data(g, op->y), tensor_data(g, op->statistic[0]), tensor_data(g, op->x), &d);
}

static void attention_backward(struct graph *g, struct op *op)
{
    KERNEL(g)->attention_backward(op->attention, gradient_of(g, op->x), gradient_of(g, op->y), tensor_data(g, op->y),
                                  tensor_data(g, op->x), tensor_data(g, op->statistic[0]), &op->dropout);
}

static void attention_release(struct graph *g, struct op *op)
{
    if (op->attention)
        KERNEL(g)->attention_destroy(op->attention);
}

const struct op_class op_attention = {.name = "attention", .input_reads = READS_X | READS_Y | READS_STATISTICS, .prepare = attention_prepare, .forward = attention_forward,
                                      .backward_input = attention_backward, .release = attention_release};

/* ---- GELU ---- */

tensor_id graph_gelu(struct graph *g, tensor_id x)
{
    if (!graph_is_activation(g, x, "gelu"))
        return -1;
    int64_t width = g->tensors[x].width;
    struct op *op = graph_add_op(g, &op_gelu);
    if (!op)
        return -1;
    op->x = x;
    return graph_result(g, op, rows_of(g, x), width);
}

static int64_t elements(const struct graph *g, tensor_id x)
{
    return g->tensors[x].rows * g->tensors[x].width;
}

static void gelu_forward(struct graph *g, struct op *op)
{
    if (op->in_product)
        return;
    KERNEL(g)->gelu_forward(g->backend, tensor_data(g, op->y), tensor_data(g, op->x), elements(g, op->x));
}

static void gelu_backward(struct graph *g, struct op *op)
{
    if (op->gradient_in_product)
        return;
    KERNEL(g)->gelu_backward(g->backend, gradient_of(g, op->x), gradient_of(g, op->y), tensor_data(g, op->x), elements(g, op->x));
}

const struct op_class op_gelu = {.name = "gelu", .input_reads = READS_X, .forward = gelu_forward, .backward_input = gelu_backward};

/* ---- SwiGLU ---- */

tensor_id graph_swiglu(struct graph *g, tensor_id x)
{
    if (!graph_is_activation(g, x, "SwiGLU"))
        return -1;
    int64_t width = g->tensors[x].width;
    if (width % 2 != 0)
        graph_mistake(g, "SwiGLU: a width of %lld has no two halves", (long long)width);
    struct op *op = graph_add_op(g, &op_swiglu);
    if (!op)
        return -1;
    op->x = x;
    return graph_result(g, op, rows_of(g, x), width / 2);
}

static void swiglu_forward(struct graph *g, struct op *op)
{
    KERNEL(g)->swiglu_forward(g->backend, tensor_data(g, op->y), tensor_data(g, op->x), rows_of(g, op->y), g->tensors[op->y].width);
}

static void swiglu_backward(struct graph *g, struct op *op)
{
    KERNEL(g)->swiglu_backward(g->backend, gradient_of(g, op->x), gradient_of(g, op->y), tensor_data(g, op->x), rows_of(g, op->y),
                               g->tensors[op->y].width);
}

const struct op_class op_swiglu = {.name = "SwiGLU", .input_reads = READS_X, .forward = swiglu_forward, .backward_input = swiglu_backward};

/* ---- residual and dropout ---- */

tensor_id graph_residual(struct graph *g, tensor_id x, tensor_id h, float dropout)
{
    if ((x >= 0 && !graph_is_activation(g, x, "residual")) || !graph_is_activation(g, h, "residual"))
        return -1;
    if (x >= 0 && g->tensors[x].width != g->tensors[h].width)
        graph_mistake(g, "residual: widths %lld and %lld differ", (long long)g->tensors[x].width, (long long)g->tensors[h].width);
    int64_t width = g->error ? 0 : g->tensors[h].width;
    struct op *op = graph_add_op(g, &op_residual);
    if (!op)
        return -1;
    op->x = x;
    op->h = h;
    graph_set_dropout(g, op, dropout);
    if (dropout > 0 && width % 4 != 0 && (graph_shares_rows(g) || g->columns.count < g->options.context))
        graph_mistake(g, "dropout with shared rows needs a model.width that 4 divides, not %lld", (long long)width); /* masks: four at a time */
    return graph_result(g, op, rows_of(g, h), width);
}

tensor_id graph_dropout(struct graph *g, tensor_id x, float rate)
{
    return rate > 0 ? graph_residual(g, -1, x, rate) : x;
}

/* Where masks depend on the rows' places, rows that follow one another in the whole microbatch are one call. */
static void residual_forward(struct graph *g, struct op *op)
{
    struct dropout d = graph_active_dropout(g, op);
    int64_t rows = rows_of(g, op->y), width = g->tensors[op->y].width, place;
    size_t size = dtype_size(g->backend->act);
    char *y = tensor_data(g, op->y), *h = tensor_data(g, op->h), *x = tensor_data(g, op->x);
    if (graph_norm_adds(g, op))
        return;
    for (int64_t r = 0, n; r < rows; r += n) {
        size_t at = (size_t)(r * width) * size;
        n = d.rate > 0 ? graph_row_run(g, r, rows - r, &place) : rows;
        if (d.rate > 0)
            d.first = op->dropout.first + (uint64_t)(place * width);
        KERNEL(g)->add_dropout_forward(g->backend, y + at, x ? x + at : NULL, h + at, n * width, &d);
    }
}

static void residual_backward(struct graph *g, struct op *op)
{
    struct dropout d = op->dropout;
    int64_t rows = rows_of(g, op->y), width = g->tensors[op->y].width, place;
    size_t size = dtype_size(g->backend->act);
    char *dh = gradient_of(g, op->h), *dy = gradient_of(g, op->y);
    for (int64_t r = 0, n; r < rows; r += n) {
        size_t at = (size_t)(r * width) * size;
        n = d.rate > 0 ? graph_row_run(g, r, rows - r, &place) : rows;
        if (d.rate > 0)
            d.first = op->dropout.first + (uint64_t)(place * width);
        KERNEL(g)->dropout_backward(g->backend, dh + at, dy + at, n * width, &d);
    }
}

const struct op_class op_residual = {.name = "residual", .forward = residual_forward, .backward_input = residual_backward};
