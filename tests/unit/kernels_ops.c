#include "kernels_ops.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "kernels_support.h"

enum { ARRAYS_MAX = 16 };

/* The arrays of one run, and where its results go. */
struct run {
    struct backend *b;
    struct results *results;
    struct {
        void *p;
        enum dtype type;
        int64_t n;
    } arrays[ARRAYS_MAX];
    int count, reals;
};

static void *keep(struct run *run, enum dtype type, const double *values, int64_t n)
{
    cr_assert_lt(run->count, ARRAYS_MAX);
    void *p = make_array(run->b, type, values, n);
    run->arrays[run->count].p = p;
    run->arrays[run->count].type = type;
    run->arrays[run->count++].n = n;
    run->reals += type != DTYPE_I32;
    return p;
}

/* An input: its values depend on how many arrays of reals the run has already. */
static void *input(struct run *run, enum dtype type, int64_t n, double scale)
{
    double *values = random_values(n, (uint64_t)run->reals + 77, scale);
    void *p = keep(run, type, values, n);
    free(values);
    return p;
}

static void *output(struct run *run, enum dtype type, int64_t n)
{
    return keep(run, type, NULL, n);
}

/* Takes the array's values as a result. */
static void take(struct run *run, const void *p)
{
    for (int i = 0; i < run->count; i++) {
        if (run->arrays[i].p != p)
            continue;
        struct results *r = run->results;
        cr_assert_lt(r->count, RESULTS_MAX);
        r->values[r->count] = array_values(run->b, run->arrays[i].type, p, run->arrays[i].n);
        r->sizes[r->count++] = run->arrays[i].n;
    }
}

static void end(struct run *run)
{
    for (int i = 0; i < run->count; i++)
        free_array(run->b, run->arrays[i].type, run->arrays[i].p, run->arrays[i].n);
}

void results_free(struct results *r)
{
    for (int i = 0; i < r->count; i++)
        free(r->values[i]);
    r->count = 0;
}

#define BEGIN(run) struct run run = {.b = b, .results = results}
#define T (b->table)

static const struct dropout no_dropout = {0};

static struct dropout some_dropout(void)
{
    return (struct dropout){.rate = 0.25f, .key = philox_key_make(5, STREAM_DROPOUT, 3), .step = 11, .first = 40};
}

static const void *tokens(struct run *run, int64_t n, int64_t vocabulary)
{
    double *values = malloc((size_t)n * sizeof *values);
    for (int64_t i = 0; i < n; i++)
        values[i] = (double)((i * i * 7 + 3 * i) % vocabulary);
    values[n - 1] = (double)vocabulary - 1;
    void *p = keep(run, DTYPE_I32, values, n);
    free(values);
    return p;
}

static void *at(enum dtype type, void *p, int64_t element)
{
    return (char *)p + array_bytes(type, element);
}

static void run_matmul(struct backend *b, struct shape s, struct results *results, struct matmul_desc d)
{
    BEGIN(run);
    d.m = s.rows;
    d.n = s.width;
    d.k = 65;
    void *a = input(&run, b->act, d.m * d.k, 1), *c2 = input(&run, b->act, d.k * d.n, 1), *bias = input(&run, b->act, d.n, 1);
    enum dtype type = d.c_is_acc ? b->acc : b->act;
    void *c = d.accumulate ? input(&run, type, d.m * d.n, 1) : output(&run, type, d.m * d.n);
    struct matmul *matmul;
    cr_assert_eq(T->matmul_create(b, &d, &matmul), CAIRN_OK, "%s", cairn_err_message());
    T->matmul_run(matmul, c, a, c2, d.bias ? bias : NULL);
    T->matmul_destroy(matmul);
    take(&run, c);
    end(&run);
}

static void run_linear_forward(struct backend *b, struct shape s, struct results *results)
{
    run_matmul(b, s, results, (struct matmul_desc){.transpose_b = true, .bias = true});
}

static void run_linear_backward_input(struct backend *b, struct shape s, struct results *results)
{
    run_matmul(b, s, results, (struct matmul_desc){.accumulate = true});
}

static void run_linear_backward_weight(struct backend *b, struct shape s, struct results *results)
{
    run_matmul(b, s, results, (struct matmul_desc){.transpose_a = true, .c_is_acc = true});
}

static void run_all_transposed(struct backend *b, struct shape s, struct results *results)
{
    run_matmul(b, s, results,
               (struct matmul_desc){.transpose_a = true, .transpose_b = true, .bias = true, .c_is_acc = true, .accumulate = true});
}

/* A product and its GELU, and one times GELU's derivative at what the first gave. */
static void run_linear_gelu(struct backend *b, struct shape s, struct results *results)
{
    BEGIN(run);
    struct matmul_desc d = {.m = s.rows, .n = s.width, .k = 65, .transpose_b = true, .bias = true, .gelu = MATMUL_GELU};
    int64_t n = d.m * d.n;
    void *a = input(&run, b->act, d.m * d.k, 1), *w = input(&run, b->act, d.k * d.n, 0.3), *bias = input(&run, b->act, d.n, 1);
    void *c = output(&run, b->act, n), *inner = output(&run, b->act, n), *x = input(&run, b->act, n, 2), *dx = output(&run, b->act, n);
    struct matmul *forward, *backward;
    cr_assert_eq(T->matmul_create(b, &d, &forward), CAIRN_OK, "%s", cairn_err_message());
    T->matmul_run_gelu(forward, c, inner, a, w, bias);
    d.bias = false;
    d.gelu = MATMUL_D_GELU;
    cr_assert_eq(T->matmul_create(b, &d, &backward), CAIRN_OK, "%s", cairn_err_message());
    T->matmul_run_gelu(backward, dx, x, a, w, NULL);
    T->matmul_destroy(forward);
    T->matmul_destroy(backward);
    take(&run, c);
    take(&run, inner);
    take(&run, dx);
    end(&run);
}

static void run_embedding(struct backend *b, struct shape s, struct results *results)
{
    BEGIN(run);
    int64_t vocabulary = 257, context = s.rows % 10 == 0 ? 10 : s.rows;
    const int32_t *words = tokens(&run, s.rows, vocabulary);
    void *table = input(&run, b->act, vocabulary * s.width, 1), *positions = input(&run, b->act, context * s.width, 1);
    void *y = output(&run, b->act, s.rows * s.width), *dy = input(&run, b->act, s.rows * s.width, 1);
    void *d_token = input(&run, b->acc, vocabulary * s.width, 1), *d_position = output(&run, b->acc, context * s.width);
    const struct embedding_desc d = {.rows = s.rows, .width = s.width, .context = context, .token_count = vocabulary,
                                     .position_count = context};
    T->embedding_forward(b, y, words, table, positions, &d);
    T->embedding_backward(b, d_token, d_position, dy, words, &d);
    take(&run, y);
    take(&run, d_token);
    take(&run, d_position);
    end(&run);
}

/* Of the table rows 40..139, of the positions every other one, last and first exchanged. */
static void run_embedding_slice(struct backend *b, struct shape s, struct results *results)
{
    BEGIN(run);
    int64_t context = s.rows % 10 == 0 ? 10 : s.rows;
    const int32_t *words = tokens(&run, s.rows, 257);
    double *columns = malloc((size_t)context * sizeof *columns);
    for (int64_t i = 0; i < context; i++)
        columns[i] = (double)(2 * (context - 1 - i));
    const struct embedding_desc d = {.rows = s.rows, .width = s.width, .context = context, .token_first = 40, .token_count = 100,
                                     .position_count = 2 * context, .positions = keep(&run, DTYPE_I32, columns, context)};
    void *table = input(&run, b->act, d.token_count * s.width, 1), *positions = input(&run, b->act, d.position_count * s.width, 1);
    void *y = output(&run, b->act, s.rows * s.width), *plain = output(&run, b->act, s.rows * s.width);
    void *dy = input(&run, b->act, s.rows * s.width, 1), *d_token = input(&run, b->acc, d.token_count * s.width, 1);
    void *d_position = output(&run, b->acc, d.position_count * s.width);
    T->embedding_forward(b, y, words, table, positions, &d);
    T->embedding_forward(b, plain, words, table, NULL, &d);
    T->embedding_backward(b, d_token, d_position, dy, words, &d);
    take(&run, y);
    take(&run, plain);
    take(&run, d_token);
    take(&run, d_position);
    T->embedding_backward(b, d_token, NULL, dy, words, &d);
    take(&run, d_token);
    free(columns);
    end(&run);
}

static void run_layer_norm(struct backend *b, struct shape s, struct results *results)
{
    BEGIN(run);
    int64_t n = s.rows * s.width;
    void *x = input(&run, b->act, n, 2), *gain = input(&run, b->act, s.width, 1), *bias = input(&run, b->act, s.width, 1);
    void *y = output(&run, b->act, n), *mean = output(&run, b->acc, s.rows), *rstd = output(&run, b->acc, s.rows);
    void *dy = input(&run, b->act, n, 1), *dx = output(&run, b->act, n), *dx2 = input(&run, b->act, n, 1);
    void *d_gain = output(&run, b->acc, s.width), *d_bias = output(&run, b->acc, s.width);
    T->layer_norm_forward(b, y, mean, rstd, x, gain, bias, s.rows, s.width, 1e-2);
    T->layer_norm_backward_input(b, dx, dy, x, gain, mean, rstd, s.rows, s.width, false);
    T->layer_norm_backward_input(b, dx2, dy, x, gain, mean, rstd, s.rows, s.width, true);
    T->layer_norm_backward_weight(b, d_gain, d_bias, dy, x, mean, rstd, s.rows, s.width);
    take(&run, y);
    take(&run, rstd);
    if (s.width > 1) { /* the gradient of one column alone is 0 but for rounding */
        take(&run, dx);
        take(&run, d_gain);
    }
    take(&run, dx2);
    take(&run, d_bias);
    end(&run);
}

/* What devices do at once. */
static void run_norm_of_sum(struct backend *b, struct shape s, struct results *results)
{
    BEGIN(run);
    int64_t n = s.rows * s.width;
    void *x = input(&run, b->act, n, 2), *h = input(&run, b->act, n, 2), *gain = input(&run, b->act, s.width, 1);
    void *bias = input(&run, b->act, s.width, 1), *dy = input(&run, b->act, n, 1), *dx = output(&run, b->act, n), *dx2 = input(&run, b->act, n, 1);
    void *sum = output(&run, b->act, n), *y = output(&run, b->act, n), *mean = output(&run, b->acc, s.rows), *rstd = output(&run, b->acc, s.rows);
    void *d_gain = output(&run, b->acc, s.width), *d_bias = output(&run, b->acc, s.width);
    if (T->residual_layer_norm_forward) {
        T->residual_layer_norm_forward(b, sum, y, mean, rstd, x, h, gain, bias, s.rows, s.width, 1e-2);
    } else {
        T->add_act(b, sum, x, h, n);
        T->layer_norm_forward(b, y, mean, rstd, sum, gain, bias, s.rows, s.width, 1e-2);
    }
    if (T->layer_norm_backward) {
        T->layer_norm_backward(b, dx, d_gain, d_bias, dy, sum, gain, mean, rstd, s.rows, s.width, false);
        T->layer_norm_backward(b, dx2, d_gain, d_bias, dy, sum, gain, mean, rstd, s.rows, s.width, true);
    } else {
        T->layer_norm_backward_input(b, dx, dy, sum, gain, mean, rstd, s.rows, s.width, false);
        T->layer_norm_backward_input(b, dx2, dy, sum, gain, mean, rstd, s.rows, s.width, true);
        T->layer_norm_backward_weight(b, d_gain, d_bias, dy, sum, mean, rstd, s.rows, s.width);
    }
    take(&run, sum);
    take(&run, y);
    if (s.width > 1) { /* the gradient of one column alone is 0 but for rounding */
        take(&run, dx);
        take(&run, d_gain);
    }
    take(&run, dx2);
    take(&run, d_bias);
    end(&run);
}

static void run_rms_norm(struct backend *b, struct shape s, struct results *results)
{
    BEGIN(run);
    int64_t n = s.rows * s.width;
    void *x = input(&run, b->act, n, 2), *gain = input(&run, b->act, s.width, 1), *y = output(&run, b->act, n);
    void *rstd = output(&run, b->acc, s.rows), *dy = input(&run, b->act, n, 1), *dx = output(&run, b->act, n);
    void *dx2 = input(&run, b->act, n, 1), *d_gain = output(&run, b->acc, s.width);
    T->rms_norm_forward(b, y, rstd, x, gain, s.rows, s.width, 1e-2);
    T->rms_norm_backward_input(b, dx, dy, x, gain, rstd, s.rows, s.width, false);
    T->rms_norm_backward_input(b, dx2, dy, x, gain, rstd, s.rows, s.width, true);
    T->rms_norm_backward_weight(b, d_gain, dy, x, rstd, s.rows, s.width);
    take(&run, y);
    take(&run, rstd);
    if (s.width > 1) /* of one column alone little is left of a difference */
        take(&run, dx);
    take(&run, dx2);
    take(&run, d_gain);
    end(&run);
}

/* What devices do at once. */
static void run_rms_norm_of_sum(struct backend *b, struct shape s, struct results *results)
{
    BEGIN(run);
    int64_t n = s.rows * s.width;
    void *x = input(&run, b->act, n, 2), *h = input(&run, b->act, n, 2), *gain = input(&run, b->act, s.width, 1);
    void *dy = input(&run, b->act, n, 1), *dx = output(&run, b->act, n), *dx2 = input(&run, b->act, n, 1);
    void *sum = output(&run, b->act, n), *y = output(&run, b->act, n), *rstd = output(&run, b->acc, s.rows);
    void *d_gain = output(&run, b->acc, s.width), *d_gain2 = output(&run, b->acc, s.width);
    if (T->residual_rms_norm_forward) {
        T->residual_rms_norm_forward(b, sum, y, rstd, x, h, gain, s.rows, s.width, 1e-2);
    } else {
        T->add_act(b, sum, x, h, n);
        T->rms_norm_forward(b, y, rstd, sum, gain, s.rows, s.width, 1e-2);
    }
    if (T->rms_norm_backward) {
        T->rms_norm_backward(b, dx, d_gain, dy, sum, gain, rstd, s.rows, s.width, false);
        T->rms_norm_backward(b, dx2, d_gain2, dy, sum, gain, rstd, s.rows, s.width, true);
    } else {
        T->rms_norm_backward_input(b, dx, dy, sum, gain, rstd, s.rows, s.width, false);
        T->rms_norm_backward_input(b, dx2, dy, sum, gain, rstd, s.rows, s.width, true);
        T->rms_norm_backward_weight(b, d_gain, dy, sum, rstd, s.rows, s.width);
        T->rms_norm_backward_weight(b, d_gain2, dy, sum, rstd, s.rows, s.width);
    }
    take(&run, sum);
    take(&run, y);
    if (s.width > 1) /* of one column alone little is left of a difference */
        take(&run, dx);
    take(&run, dx2);
    take(&run, d_gain);
    take(&run, d_gain2);
    end(&run);
}

static void run_bias_backward(struct backend *b, struct shape s, struct results *results)
{
    BEGIN(run);
    void *dy = input(&run, b->act, s.rows * s.width, 1), *d_bias = output(&run, b->acc, s.width);
    T->bias_backward(b, d_bias, dy, s.rows, s.width);
    take(&run, d_bias);
    end(&run);
}

static void run_gelu(struct backend *b, struct shape s, struct results *results)
{
    BEGIN(run);
    int64_t n = s.rows * s.width;
    void *x = input(&run, b->act, n, 4), *dy = input(&run, b->act, n, 1);
    void *y = output(&run, b->act, n), *dx = output(&run, b->act, n);
    T->gelu_forward(b, y, x, n);
    T->gelu_backward(b, dx, dy, x, n);
    take(&run, y);
    take(&run, dx);
    end(&run);
}

/* All rows, and those from the middle on, which may lie at any address. */
static void run_swiglu(struct backend *b, struct shape s, struct results *results)
{
    BEGIN(run);
    int64_t n = s.rows * s.width, skipped = s.rows / 2;
    void *x = input(&run, b->act, 2 * n, 4), *dy = input(&run, b->act, n, 1), *y = output(&run, b->act, n), *dx = output(&run, b->act, 2 * n);
    void *part = output(&run, b->act, (s.rows - skipped) * s.width);
    T->swiglu_forward(b, y, x, s.rows, s.width);
    T->swiglu_backward(b, dx, dy, x, s.rows, s.width);
    T->swiglu_forward(b, part, at(b->act, x, 2 * skipped * s.width), s.rows - skipped, s.width);
    take(&run, y);
    take(&run, dx);
    take(&run, part);
    end(&run);
}

static void run_dropout(struct backend *b, struct shape s, struct results *results)
{
    BEGIN(run);
    int64_t n = s.rows * s.width;
    struct dropout d = some_dropout();
    void *x = input(&run, b->act, n, 1), *h = input(&run, b->act, n, 1);
    void *y = output(&run, b->act, n), *plain = output(&run, b->act, n), *dh = output(&run, b->act, n);
    T->add_dropout_forward(b, y, x, h, n, &d);
    T->add_dropout_forward(b, plain, x, h, n, &no_dropout);
    T->dropout_backward(b, dh, h, n, &d);
    T->add_dropout_forward(b, x, x, h, n, &d); /* in place */
    T->dropout_backward(b, h, h, n, &d);
    take(&run, y);
    take(&run, plain);
    take(&run, dh);
    take(&run, x);
    take(&run, h);
    end(&run);
}

static void run_attention(struct backend *b, struct shape s, struct results *results, struct dropout dropout)
{
    BEGIN(run);
    struct attention_desc d = {.batch = 2, .context = s.rows, .heads = 3, .head_size = s.width, .dropout_rate = dropout.rate};
    int64_t n = d.batch * d.context * d.heads * d.head_size, sums = d.batch * d.heads * d.context;
    void *qkv = input(&run, b->act, 3 * n, 1), *out = output(&run, b->act, n), *log_sum = output(&run, b->acc, sums);
    void *d_out = input(&run, b->act, n, 1), *d_qkv = output(&run, b->act, 3 * n);
    struct attention *a;
    cr_assert_eq(T->attention_create(b, &d, &a), CAIRN_OK, "%s", cairn_err_message());
    T->attention_forward(a, out, log_sum, qkv, &dropout);
    T->attention_backward(a, d_qkv, d_out, out, qkv, log_sum, &dropout);
    T->attention_destroy(a);
    take(&run, out);
    take(&run, log_sum);
    take(&run, d_qkv);
    end(&run);
}

static void run_attention_plain(struct backend *b, struct shape s, struct results *results)
{
    run_attention(b, s, results, no_dropout);
}

static void run_attention_dropout(struct backend *b, struct shape s, struct results *results)
{
    run_attention(b, s, results, some_dropout());
}

static void run_classifier_of(struct backend *b, int64_t rows, int64_t width, int64_t vocabulary, struct results *results)
{
    BEGIN(run);
    struct classifier_desc d = {.rows = rows, .width = width, .vocabulary = vocabulary};
    const int32_t *targets = tokens(&run, d.rows, d.vocabulary);
    void *x = input(&run, b->act, d.rows * d.width, 1), *weight = input(&run, b->act, d.vocabulary * d.width, 1);
    void *losses = output(&run, b->acc, d.rows), *losses2 = output(&run, b->acc, d.rows);
    void *dx = output(&run, b->act, d.rows * d.width), *d_weight = output(&run, b->acc, d.vocabulary * d.width);
    struct classifier *c;
    cr_assert_eq(T->classifier_create(b, &d, &c), CAIRN_OK, "%s", cairn_err_message());
    T->classifier_loss(c, losses, x, weight, targets);
    T->classifier_loss_and_gradients(c, losses2, dx, d_weight, x, weight, targets, 1.0 / 64);
    T->classifier_destroy(c);
    take(&run, losses);
    take(&run, losses2);
    take(&run, dx);
    take(&run, d_weight);
    end(&run);
}

static void run_classifier(struct backend *b, struct shape s, struct results *results)
{
    run_classifier_of(b, s.rows, s.width, 257, results);
}

/* Several parts of the vocabulary, the last one odd. */
static void run_classifier_words(struct backend *b, struct shape s, struct results *results)
{
    run_classifier_of(b, s.rows, s.width, 50257, results);
}

/* Several blocks of rows, the last one odd. */
static void run_classifier_rows(struct backend *b, struct shape s, struct results *results)
{
    run_classifier_of(b, 1027 + s.rows, s.width, 31, results);
}

static void run_update(struct backend *b, struct shape s, struct results *results)
{
    BEGIN(run);
    int64_t n = s.rows * s.width;
    struct adamw o = {.learning_rate = 0.01, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .weight_decay = 0.1,
                      .gradient_scale = 0.5, .step = 1};
    void *master = input(&run, b->acc, n, 1), *gradient = input(&run, b->acc, n, 1);
    double *zeros = calloc((size_t)n, sizeof *zeros);
    void *m1 = keep(&run, b->acc, zeros, n), *m2 = keep(&run, b->acc, zeros, n), *compute = output(&run, b->act, n);
    free(zeros);
    /* The first row decays, what follows of a third of all does not, and the rest. */
    int64_t firsts[] = {0, s.width, s.width + (n - s.width) / 3, n};
    struct adamw_run runs[3];
    for (int i = 0; i < 3; i++)
        runs[i] = (struct adamw_run){.master = at(b->acc, master, firsts[i]), .moment1 = at(b->acc, m1, firsts[i]),
                                     .moment2 = at(b->acc, m2, firsts[i]), .compute = at(b->act, compute, firsts[i]),
                                     .gradient = at(b->acc, gradient, firsts[i]), .n = firsts[i + 1] - firsts[i], .decays = i != 1};
    for (; o.step <= 3; o.step++)
        T->adamw(b, runs, 3, &o);
    T->round_weights(b, runs, 3, false, 3);
    take(&run, master);
    take(&run, m1);
    take(&run, m2);
    take(&run, compute);
    end(&run);
}

static void run_vectors(struct backend *b, struct shape s, struct results *results)
{
    BEGIN(run);
    int64_t n = s.rows * s.width * 3;
    int64_t chunks = (n + NORM_CHUNK - 1) / NORM_CHUNK;
    void *sums = output(&run, DTYPE_F64, chunks);
    void *a = input(&run, b->acc, n, 1), *c = input(&run, b->acc, n, 1), *sum = output(&run, b->acc, n);
    T->add(b, sum, a, c, n);
    T->add(b, a, a, c, n);
    /* Two arrays at once, parted at a chunk's border. */
    int64_t parted = chunks / 2 * NORM_CHUNK;
    const struct squares_run runs[] = {{sums, sum, parted}, {(double *)sums + chunks / 2, at(b->acc, sum, parted), n - parted}};
    T->sum_squares(b, runs, 2);
    void *x = input(&run, b->act, n, 1), *y = input(&run, b->act, n, 1), *sum_act = output(&run, b->act, n);
    T->add_act(b, sum_act, x, y, n);
    T->add_act(b, x, x, y, n);
    take(&run, sum);
    take(&run, a);
    take(&run, sum_act);
    take(&run, x);
    take(&run, sums);
    end(&run);
}

const struct op ops[] = {
    {"linear forward", run_linear_forward, true, {130, 768}},
    {"linear backward input", run_linear_backward_input, true, {130, 768}},
    {"linear backward weight", run_linear_backward_weight, true, {130, 768}},
    {"product of two transposed", run_all_transposed, true, {130, 768}},
    {"linear through gelu", run_linear_gelu, true, {130, 768}},
    {"embedding", run_embedding, false, {130, 768}},
    {"embedding of a slice", run_embedding_slice, false, {130, 768}},
    {"layer norm", run_layer_norm, false, {130, 1600}},
    {"layer norm of a sum", run_norm_of_sum, false, {130, 1600}},
    {"RMS norm", run_rms_norm, false, {130, 1600}},
    {"RMS norm of a sum", run_rms_norm_of_sum, false, {130, 1600}},
    {"bias backward", run_bias_backward, false, {130, 1600}},
    {"gelu", run_gelu, false, {130, 768}},
    {"SwiGLU", run_swiglu, false, {130, 1600}},
    {"dropout", run_dropout, false, {130, 768}},
    {"attention", run_attention_plain, false, {130, 65}},
    {"attention with dropout", run_attention_dropout, false, {130, 65}},
    {"classifier", run_classifier, true, {130, 65}},
    {"classifier of 50257 words", run_classifier_words, true, {3, 65}},
    {"classifier of many rows", run_classifier_rows, true, {1, 65}},
    {"adamw", run_update, false, {130, 768}},
    {"add and sum of squares", run_vectors, false, {130, 768}},
};
const int op_count = sizeof ops / sizeof *ops;
