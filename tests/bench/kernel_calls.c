/* The least that each kernel has to move and to compute. */
#include "kernel_calls.h"

#include <stdlib.h>

/* Calls kernel NAME of the timed table's own; CALL is declared. */
#define TIME(call, name, ...)               \
    struct call *call = clock_begin();       \
    timer.inner->name(__VA_ARGS__);         \
    clock_end(call)

/* ---- products ---- */

cairn_err time_matmul_create(struct backend *b, const struct matmul_desc *desc, struct matmul **out)
{
    cairn_err made = timer.inner->matmul_create(b, desc, out);
    return clock_remember(made, (struct plan){.plan = *out, .matmul = *desc});
}

void time_matmul_run(struct matmul *plan, void *c, const void *a, const void *b, const void *bias)
{
    TIME(call, matmul_run, plan, c, a, b, bias);
    const struct matmul_desc *d = &clock_plan(plan)->matmul;
    double m = (double)d->m, n = (double)d->n, k = (double)d->k, of_c = m * n * (d->c_is_acc ? timer.acc : timer.act);
    struct kernel_work work = {(m * k + k * n + (d->bias ? n : 0)) * timer.act + (d->accumulate ? of_c : 0), of_c, 2 * m * n * k};
    clock_record(KERNEL_matmul_run, call, work, "%lldx%lldx%lld %s%s%s%s%s", (long long)d->m, (long long)d->n, (long long)d->k,
                 d->transpose_a ? "a^T " : "a ", d->transpose_b ? "b^T" : "b", d->bias ? " + bias" : "", d->accumulate ? " + c" : "",
                 matmul_is_float8(d) ? " f8" : "");
}

void time_matmul_run_gelu(struct matmul *plan, void *c, void *inner, const void *a, const void *b, const void *bias)
{
    TIME(call, matmul_run_gelu, plan, c, inner, a, b, bias);
    const struct matmul_desc *d = &clock_plan(plan)->matmul;
    bool forward = d->gelu == MATMUL_GELU;
    double m = (double)d->m, n = (double)d->n, k = (double)d->k, of_c = m * n * timer.act;
    struct kernel_work work = {(m * k + k * n + (d->bias ? n : 0)) * timer.act + (forward ? 0 : of_c), forward ? 2 * of_c : of_c, 2 * m * n * k};
    clock_record(KERNEL_matmul_run_gelu, call, work, "%lldx%lldx%lld %s%s", (long long)d->m, (long long)d->n, (long long)d->k,
                 forward ? "gelu" : "gelu's gradient", matmul_is_float8(d) ? " f8" : "");
}

void time_matmul_run_d_bias(struct matmul *plan, void *c, void *d_bias, const void *a, const void *b)
{
    TIME(call, matmul_run_d_bias, plan, c, d_bias, a, b);
    const struct matmul_desc *d = &clock_plan(plan)->matmul;
    double m = (double)d->m, n = (double)d->n, k = (double)d->k, of_c = m * n * timer.acc;
    struct kernel_work work = {(m * k + k * n) * timer.act + (d->accumulate ? of_c : 0), of_c + m * timer.acc, 2 * m * n * k};
    clock_record(KERNEL_matmul_run_d_bias, call, work, "%lldx%lldx%lld%s%s", (long long)d->m, (long long)d->n, (long long)d->k,
                 d->accumulate ? " + c" : "", matmul_is_float8(d) ? " f8" : "");
}

cairn_err time_attention_create(struct backend *b, const struct attention_desc *desc, struct attention **out)
{
    cairn_err made = timer.inner->attention_create(b, desc, out);
    return clock_remember(made, (struct plan){.plan = *out, .attention = *desc});
}

/* PRODUCTS of queries with the keys up to theirs; of VECTORS as long as the width READ and WRITTEN. */
static void record_attention(enum kernel kernel, struct call *call, const struct attention *plan, int products, int read, int written)
{
    const struct attention_desc *d = &clock_plan(plan)->attention;
    double heads = (double)(d->batch * d->heads), context = (double)d->context, size = (double)d->head_size;
    double vector = heads * context * size * timer.act, log_sum = heads * context * timer.acc;
    bool forward = kernel == KERNEL_attention_forward;
    struct kernel_work work = {read * vector + (forward ? 0 : log_sum), written * vector + (forward ? log_sum : 0),
                               products * 2 * size * context * (context + 1) / 2 * heads};
    clock_record(kernel, call, work, "%lldx%lld, %lld heads of %lld", (long long)d->batch, (long long)d->context, (long long)d->heads,
                 (long long)d->head_size);
}

void time_attention_forward(struct attention *plan, void *out, void *log_sum, const void *qkv, const struct dropout *dropout)
{
    TIME(call, attention_forward, plan, out, log_sum, qkv, dropout);
    record_attention(KERNEL_attention_forward, call, plan, 2, 3, 1);
}

void time_attention_backward(struct attention *plan, void *d_qkv, const void *d_out, const void *out, const void *qkv,
                             const void *log_sum, const struct dropout *dropout)
{
    TIME(call, attention_backward, plan, d_qkv, d_out, out, qkv, log_sum, dropout);
    record_attention(KERNEL_attention_backward, call, plan, 5, 5, 3);
}

cairn_err time_classifier_create(struct backend *b, const struct classifier_desc *desc, struct classifier **out)
{
    cairn_err made = timer.inner->classifier_create(b, desc, out);
    return clock_remember(made, (struct plan){.plan = *out, .classifier = *desc});
}

static void record_classifier(enum kernel kernel, struct call *call, const struct classifier *plan)
{
    const struct classifier_desc *d = &clock_plan(plan)->classifier;
    double rows = (double)d->rows, x = rows * (double)d->width, weight = (double)d->vocabulary * (double)d->width;
    struct kernel_work work = {(x + weight) * timer.act + rows * sizeof(int32_t), rows * timer.acc, 2 * x * (double)d->vocabulary};
    if (kernel == KERNEL_classifier_loss_and_gradients) {
        work.written += x * timer.act + weight * timer.acc;
        work.flops *= 3;
    }
    clock_record(kernel, call, work, "%lldx%lldx%lld", (long long)d->rows, (long long)d->vocabulary, (long long)d->width);
}

void time_classifier_loss(struct classifier *plan, void *losses, const void *x, const void *weight, const int32_t *targets)
{
    TIME(call, classifier_loss, plan, losses, x, weight, targets);
    record_classifier(KERNEL_classifier_loss, call, plan);
}

void time_classifier_loss_and_gradients(struct classifier *plan, void *losses, void *dx, void *d_weight, const void *x,
                                        const void *weight, const int32_t *targets, double scale)
{
    TIME(call, classifier_loss_and_gradients, plan, losses, dx, d_weight, x, weight, targets, scale);
    record_classifier(KERNEL_classifier_loss_and_gradients, call, plan);
}

/* ---- rows ---- */

static void record_rows(enum kernel kernel, struct call *call, int64_t rows, int64_t width, double read, double written)
{
    clock_record(kernel, call, (struct kernel_work){read, written, 0}, "%lldx%lld", (long long)rows, (long long)width);
}

void time_embedding_forward(struct backend *b, void *y, const int32_t *tokens, const void *token_table,
                            const void *position_table, const struct embedding_desc *d)
{
    TIME(call, embedding_forward, b, y, tokens, token_table, position_table, d);
    double x = (double)(d->rows * d->width) * timer.act, positions = (double)(d->context * d->width) * timer.act;
    record_rows(KERNEL_embedding_forward, call, d->rows, d->width, x + positions + (double)d->rows * sizeof *tokens, x);
}

/* Counts a row of the table for each token: the bench's differ. */
void time_embedding_backward(struct backend *b, void *d_token, void *d_position, const void *dy, const int32_t *tokens,
                             const struct embedding_desc *d)
{
    TIME(call, embedding_backward, b, d_token, d_position, dy, tokens, d);
    double x = (double)(d->rows * d->width), positions = (double)(d->position_count * d->width) * timer.acc;
    record_rows(KERNEL_embedding_backward, call, d->rows, d->width, x * (timer.act + timer.acc) + (double)d->rows * sizeof *tokens,
                x * timer.acc + positions);
}

void time_layer_norm_forward(struct backend *b, void *y, void *mean, void *rstd, const void *x, const void *gain,
                             const void *bias, int64_t rows, int64_t width, double epsilon)
{
    TIME(call, layer_norm_forward, b, y, mean, rstd, x, gain, bias, rows, width, epsilon);
    double of_x = (double)(rows * width) * timer.act;
    record_rows(KERNEL_layer_norm_forward, call, rows, width, of_x + 2 * (double)width * timer.act, of_x + 2 * (double)rows * timer.acc);
}

void time_layer_norm_backward_input(struct backend *b, void *dx, const void *dy, const void *x, const void *gain,
                                    const void *mean, const void *rstd, int64_t rows, int64_t width, bool add_to_dx)
{
    TIME(call, layer_norm_backward_input, b, dx, dy, x, gain, mean, rstd, rows, width, add_to_dx);
    double of_x = (double)(rows * width) * timer.act;
    double read = (add_to_dx ? 3 : 2) * of_x + (double)width * timer.act + 2 * (double)rows * timer.acc;
    clock_record(KERNEL_layer_norm_backward_input, call, (struct kernel_work){read, of_x, 0}, "%lldx%lld%s", (long long)rows,
                 (long long)width, add_to_dx ? " + dx" : "");
}

void time_layer_norm_backward_weight(struct backend *b, void *d_gain, void *d_bias, const void *dy, const void *x,
                                     const void *mean, const void *rstd, int64_t rows, int64_t width)
{
    TIME(call, layer_norm_backward_weight, b, d_gain, d_bias, dy, x, mean, rstd, rows, width);
    record_rows(KERNEL_layer_norm_backward_weight, call, rows, width,
                2 * (double)(rows * width) * timer.act + 2 * (double)rows * timer.acc, 2 * (double)width * timer.acc);
}

void time_residual_layer_norm_forward(struct backend *b, void *sum, void *y, void *mean, void *rstd, const void *x, const void *h,
                                      const void *gain, const void *bias, int64_t rows, int64_t width, double epsilon)
{
    TIME(call, residual_layer_norm_forward, b, sum, y, mean, rstd, x, h, gain, bias, rows, width, epsilon);
    double of_x = (double)(rows * width) * timer.act;
    record_rows(KERNEL_residual_layer_norm_forward, call, rows, width, 2 * of_x + 2 * (double)width * timer.act,
                2 * of_x + 2 * (double)rows * timer.acc);
}

void time_layer_norm_backward(struct backend *b, void *dx, void *d_gain, void *d_bias, const void *dy, const void *x,
                              const void *gain, const void *mean, const void *rstd, int64_t rows, int64_t width, bool add_to_dx)
{
    TIME(call, layer_norm_backward, b, dx, d_gain, d_bias, dy, x, gain, mean, rstd, rows, width, add_to_dx);
    double of_x = (double)(rows * width) * timer.act;
    double read = (add_to_dx ? 3 : 2) * of_x + (double)width * timer.act + 2 * (double)rows * timer.acc;
    clock_record(KERNEL_layer_norm_backward, call, (struct kernel_work){read, of_x + 2 * (double)width * timer.acc, 0}, "%lldx%lld%s", (long long)rows,
                 (long long)width, add_to_dx ? " + dx" : "");
}

/* Of arrays as large as x, READ and WRITTEN; of a statistic and a gain likewise. */
static void record_rms_norm(enum kernel kernel, struct call *call, int64_t rows, int64_t width, struct kernel_work large,
                            struct kernel_work small, bool add_to_dx)
{
    double of_x = (double)(rows * width) * timer.act;
    struct kernel_work work = {(large.read + add_to_dx) * of_x + small.read, large.written * of_x + small.written, 0};
    clock_record(kernel, call, work, "%lldx%lld%s", (long long)rows, (long long)width, add_to_dx ? " + dx" : "");
}

void time_rms_norm_forward(struct backend *b, void *y, void *rstd, const void *x, const void *gain, int64_t rows, int64_t width,
                           double epsilon)
{
    TIME(call, rms_norm_forward, b, y, rstd, x, gain, rows, width, epsilon);
    const struct kernel_work small = {(double)width * timer.act, (double)rows * timer.acc, 0};
    record_rms_norm(KERNEL_rms_norm_forward, call, rows, width, (struct kernel_work){1, 1, 0}, small, false);
}

void time_rms_norm_backward_input(struct backend *b, void *dx, const void *dy, const void *x, const void *gain, const void *rstd,
                                  int64_t rows, int64_t width, bool add_to_dx)
{
    TIME(call, rms_norm_backward_input, b, dx, dy, x, gain, rstd, rows, width, add_to_dx);
    const struct kernel_work small = {(double)width * timer.act + (double)rows * timer.acc, 0, 0};
    record_rms_norm(KERNEL_rms_norm_backward_input, call, rows, width, (struct kernel_work){2, 1, 0}, small, add_to_dx);
}

void time_rms_norm_backward_weight(struct backend *b, void *d_gain, const void *dy, const void *x, const void *rstd, int64_t rows,
                                   int64_t width)
{
    TIME(call, rms_norm_backward_weight, b, d_gain, dy, x, rstd, rows, width);
    const struct kernel_work small = {(double)rows * timer.acc, (double)width * timer.acc, 0};
    record_rms_norm(KERNEL_rms_norm_backward_weight, call, rows, width, (struct kernel_work){2, 0, 0}, small, false);
}

void time_residual_rms_norm_forward(struct backend *b, void *sum, void *y, void *rstd, const void *x, const void *h, const void *gain,
                                    int64_t rows, int64_t width, double epsilon)
{
    TIME(call, residual_rms_norm_forward, b, sum, y, rstd, x, h, gain, rows, width, epsilon);
    const struct kernel_work small = {(double)width * timer.act, (double)rows * timer.acc, 0};
    record_rms_norm(KERNEL_residual_rms_norm_forward, call, rows, width, (struct kernel_work){2, 2, 0}, small, false);
}

void time_rms_norm_backward(struct backend *b, void *dx, void *d_gain, const void *dy, const void *x, const void *gain, const void *rstd,
                            int64_t rows, int64_t width, bool add_to_dx)
{
    TIME(call, rms_norm_backward, b, dx, d_gain, dy, x, gain, rstd, rows, width, add_to_dx);
    const struct kernel_work small = {(double)width * timer.act + (double)rows * timer.acc, (double)width * timer.acc, 0};
    record_rms_norm(KERNEL_rms_norm_backward, call, rows, width, (struct kernel_work){2, 1, 0}, small, add_to_dx);
}

void time_bias_backward(struct backend *b, void *d_bias, const void *dy, int64_t rows, int64_t width)
{
    TIME(call, bias_backward, b, d_bias, dy, rows, width);
    record_rows(KERNEL_bias_backward, call, rows, width, (double)(rows * width) * timer.act, (double)width * timer.acc);
}

/* ---- elements ---- */

/* READ and WRITTEN: bytes of an element. */
static void record_elements(enum kernel kernel, struct call *call, int64_t n, double read, double written)
{
    clock_record(kernel, call, (struct kernel_work){read * (double)n, written * (double)n, 0}, "%lld", (long long)n);
}

void time_gelu_forward(struct backend *b, void *y, const void *x, int64_t n)
{
    TIME(call, gelu_forward, b, y, x, n);
    record_elements(KERNEL_gelu_forward, call, n, timer.act, timer.act);
}

void time_gelu_backward(struct backend *b, void *dx, const void *dy, const void *x, int64_t n)
{
    TIME(call, gelu_backward, b, dx, dy, x, n);
    record_elements(KERNEL_gelu_backward, call, n, 2 * timer.act, timer.act);
}

void time_swiglu_forward(struct backend *b, void *y, const void *x, int64_t rows, int64_t width)
{
    TIME(call, swiglu_forward, b, y, x, rows, width);
    double of_y = (double)(rows * width) * timer.act;
    record_rows(KERNEL_swiglu_forward, call, rows, width, 2 * of_y, of_y);
}

void time_swiglu_backward(struct backend *b, void *dx, const void *dy, const void *x, int64_t rows, int64_t width)
{
    TIME(call, swiglu_backward, b, dx, dy, x, rows, width);
    double of_y = (double)(rows * width) * timer.act;
    record_rows(KERNEL_swiglu_backward, call, rows, width, 3 * of_y, 2 * of_y);
}

void time_add_dropout_forward(struct backend *b, void *y, const void *x, const void *h, int64_t n, const struct dropout *d)
{
    TIME(call, add_dropout_forward, b, y, x, h, n, d);
    record_elements(KERNEL_add_dropout_forward, call, n, (x ? 2 : 1) * timer.act, timer.act);
}

void time_dropout_backward(struct backend *b, void *dh, const void *dy, int64_t n, const struct dropout *d)
{
    TIME(call, dropout_backward, b, dh, dy, n, d);
    record_elements(KERNEL_dropout_backward, call, n, timer.act, timer.act);
}

void time_add(struct backend *b, void *sum, const void *x, const void *y, int64_t n)
{
    TIME(call, add, b, sum, x, y, n);
    record_elements(KERNEL_add, call, n, 2 * timer.acc, timer.acc);
}

void time_add_act(struct backend *b, void *sum, const void *x, const void *y, int64_t n)
{
    TIME(call, add_act, b, sum, x, y, n);
    record_elements(KERNEL_add_act, call, n, 2 * timer.act, timer.act);
}

void time_sum_squares(struct backend *b, const struct squares_run *runs, int count)
{
    int64_t n = 0;
    for (int i = 0; i < count; i++)
        n += runs[i].n;
    TIME(call, sum_squares, b, runs, count);
    record_elements(KERNEL_sum_squares, call, n, timer.acc, 0);
}

void time_adamw(struct backend *b, const struct adamw_run *runs, int count, const struct adamw *options)
{
    int64_t n = 0;
    for (int i = 0; i < count; i++)
        n += runs[i].n;
    TIME(call, adamw, b, runs, count, options);
    record_elements(KERNEL_adamw, call, n, 4 * timer.acc, 3 * timer.acc + (count > 0 && runs[0].compute ? timer.act : 0));
}

void time_round_weights(struct backend *b, const struct adamw_run *runs, int count, bool stochastic, int64_t step)
{
    int64_t n = 0;
    for (int i = 0; i < count; i++)
        n += runs[i].compute ? runs[i].n : 0;
    TIME(call, round_weights, b, runs, count, stochastic, step);
    record_elements(KERNEL_round_weights, call, n, timer.acc, timer.act);
}

/* ---- mixture of experts ---- */

cairn_err time_router_create(struct backend *b, const struct router_desc *desc, struct router **out)
{
    cairn_err made = timer.inner->router_create(b, desc, out);
    return clock_remember(made, (struct plan){.plan = *out, .router = *desc, .taken = -1});
}

static void record_router(enum kernel kernel, struct call *call, const struct router_desc *d, struct kernel_work work)
{
    clock_record(kernel, call, work, "%lldx%lld, %lld of %lld", (long long)d->rows, (long long)d->width, (long long)d->choices,
                 (long long)d->experts);
}

/* The router's products: x, weight and logits, each read or written. */
static void record_logits(enum kernel kernel, struct call *call, const struct router *plan, double read_x, double written_x, bool add_to_dx)
{
    const struct router_desc *d = &clock_plan(plan)->router;
    double x = (double)(d->rows * d->width), weight = (double)(d->experts * d->width), logits = (double)(d->rows * d->experts) * timer.acc;
    bool of_weight = kernel == KERNEL_router_backward_weight;
    struct kernel_work work = {(read_x + add_to_dx) * x * timer.act + (of_weight ? logits : weight * timer.act),
                               written_x * x * timer.act + (of_weight ? weight * timer.acc : logits), 2 * x * (double)d->experts};
    record_router(kernel, call, d, work);
}

void time_router_forward(struct router *plan, const struct routing *routing, const void *x, const void *weight)
{
    TIME(call, router_forward, plan, routing, x, weight);
    record_logits(KERNEL_router_forward, call, plan, 1, 0, false);
}

/* Choices become places; the probabilities are summed. */
void time_router_place(struct router *plan, const struct routing *routing, const int32_t *most)
{
    TIME(call, router_place, plan, routing, most);
    const struct router_desc *d = &clock_plan(plan)->router;
    double chosen = (double)(d->rows * d->choices) * sizeof(int32_t), probabilities = (double)(d->rows * (d->experts + 1)) * timer.acc;
    record_router(KERNEL_router_place, call, d, (struct kernel_work){chosen + probabilities, chosen, 0});
}

void time_router_backward_input(struct router *plan, void *d_logits, void *dx, const void *d_gate, const struct routing *routing,
                                const void *weight, const struct router_scales *scales, bool add_to_dx)
{
    TIME(call, router_backward_input, plan, d_logits, dx, d_gate, routing, weight, scales, add_to_dx);
    record_logits(KERNEL_router_backward_input, call, plan, 0, 1, add_to_dx);
}

void time_router_backward_weight(struct router *plan, void *d_weight, const void *d_logits, const void *x)
{
    TIME(call, router_backward_weight, plan, d_weight, d_logits, x);
    record_logits(KERNEL_router_backward_weight, call, plan, 1, 0, false);
}

/* Reads and writes are counted in rows of the block, in rows that experts took, and in places of the packed rows. */
struct moved {
    int rows, taken, places;
};

/* Asked once: the bench routes the same rows each time, and a device would be waited for. */
static int64_t taken_of(struct plan *plan, const struct routing *routing)
{
    const struct router_desc *d = &plan->router;
    size_t bytes = (size_t)d->experts * sizeof(int32_t);
    struct routing copy = {.taken = plan->taken < 0 ? malloc(bytes) : NULL};
    if (copy.taken) {
        timer.inner->download(timer.backend, copy.taken, routing->taken, bytes);
        plan->taken = d->rows * d->choices - routing_dropped(d, &copy);
        free(copy.taken);
    }
    return plan->taken;
}

static void record_moved(enum kernel kernel, struct call *call, const struct router *plan, const struct routing *routing, struct moved read,
                         struct moved written)
{
    const struct router_desc *d = &clock_plan(plan)->router;
    double row = (double)d->width * timer.act, rows = (double)d->rows, places = (double)(d->experts * d->capacity);
    double taken = (double)taken_of(clock_plan(plan), routing);
    record_router(kernel, call, d, (struct kernel_work){(read.rows * rows + read.taken * taken + read.places * places) * row,
                                                           (written.rows * rows + written.taken * taken + written.places * places) * row, 0});
}

void time_dispatch(struct router *plan, void *packed, const void *x, const struct routing *routing)
{
    TIME(call, dispatch, plan, packed, x, routing);
    record_moved(KERNEL_dispatch, call, plan, routing, (struct moved){.rows = 1}, (struct moved){.places = 1});
}

void time_dispatch_backward(struct router *plan, void *dx, const void *d_packed, const struct routing *routing, bool add_to_dx)
{
    TIME(call, dispatch_backward, plan, dx, d_packed, routing, add_to_dx);
    record_moved(KERNEL_dispatch_backward, call, plan, routing, (struct moved){.rows = add_to_dx, .taken = 1}, (struct moved){.rows = 1});
}

void time_combine(struct router *plan, void *y, const void *packed, const struct routing *routing)
{
    TIME(call, combine, plan, y, packed, routing);
    record_moved(KERNEL_combine, call, plan, routing, (struct moved){.taken = 1}, (struct moved){.rows = 1});
}

void time_combine_backward(struct router *plan, void *d_packed, void *d_gate, const void *dy, const void *packed,
                           const struct routing *routing)
{
    TIME(call, combine_backward, plan, d_packed, d_gate, dy, packed, routing);
    record_moved(KERNEL_combine_backward, call, plan, routing, (struct moved){.rows = 1, .taken = 1}, (struct moved){.places = 1});
}
