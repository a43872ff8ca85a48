/* The reference backend's gradients, in float64, against central differences of its own forward passes. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels_support.h"

/* A function of the inputs, each an array of doubles, to one array: what a forward pass is. */
enum { INPUTS_MAX = 3 };

struct forward {
    void (*run)(struct backend *, double *y, double *const *inputs, const void *context);
    const void *context;
    int64_t output;
    int64_t inputs[INPUTS_MAX];
    int count;
};

static double weighted_output(struct backend *b, const struct forward *f, double *const *inputs, const double *dy)
{
    double *y = calloc((size_t)f->output, sizeof *y), sum = 0;
    f->run(b, y, inputs, f->context);
    for (int64_t i = 0; i < f->output; i++)
        sum += y[i] * dy[i];
    free(y);
    return sum;
}

/* GRADIENT of the sum of dy * y by input WHICH, against differences over twice 1e-5. */
static void check_gradient(struct backend *b, const struct forward *f, double *const *inputs, const double *dy, int which,
                           const double *gradient, const char *name)
{
    int64_t n = f->inputs[which];
    double *expected = malloc((size_t)n * sizeof *expected);
    for (int64_t i = 0; i < n; i++) {
        double at = inputs[which][i];
        inputs[which][i] = at + 1e-5;
        double above = weighted_output(b, f, inputs, dy);
        inputs[which][i] = at - 1e-5;
        double below = weighted_output(b, f, inputs, dy);
        inputs[which][i] = at;
        expected[i] = (above - below) / 2e-5;
    }
    double error = relative_error(gradient, expected, n);
    cr_expect_lt(error, 1e-7, "%s by input %d: relative error %g", name, which, error);
    free(expected);
}

/* Random inputs and output gradient for F; freed by free_inputs. */
static double *make_inputs(const struct forward *f, double **inputs)
{
    for (int i = 0; i < f->count; i++)
        inputs[i] = random_values(f->inputs[i], (uint64_t)i + 1, 1);
    return random_values(f->output, 99, 1);
}

static void free_inputs(const struct forward *f, double **inputs, double *dy)
{
    for (int i = 0; i < f->count; i++)
        free(inputs[i]);
    free(dy);
}

static struct backend *reference(void)
{
    return open_backend("reference", DTYPE_F64, 1, NULL);
}

/* ---- products: each of a linear layer's three ---- */

static void product(struct backend *b, double *y, const double *a, const double *c, const double *bias, struct matmul_desc d)
{
    struct matmul *matmul;
    d.bias = bias != NULL;
    cr_assert_eq(b->table->matmul_create(b, &d, &matmul), CAIRN_OK);
    b->table->matmul_run(matmul, y, a, c, bias);
    b->table->matmul_destroy(matmul);
}

enum { M = 3, N = 4, K = 5 };

static void linear(struct backend *b, double *y, double *const *in, const void *context)
{
    (void)context;
    product(b, y, in[0], in[1], in[2], (struct matmul_desc){.m = M, .n = N, .k = K, .transpose_b = true});
}

Test(gradients, linear)
{
    struct backend *b = reference();
    struct forward f = {linear, NULL, M * N, {M * K, N * K, N}, 3};
    double *in[INPUTS_MAX], *dy = make_inputs(&f, in), dx[M * K], dw[N * K], d_bias[N];
    product(b, dx, dy, in[1], NULL, (struct matmul_desc){.m = M, .n = K, .k = N});
    product(b, dw, dy, in[0], NULL, (struct matmul_desc){.m = N, .n = K, .k = M, .transpose_a = true, .c_is_acc = true});
    b->table->bias_backward(b, d_bias, dy, M, N);
    check_gradient(b, &f, in, dy, 0, dx, "linear");
    check_gradient(b, &f, in, dy, 1, dw, "linear");
    check_gradient(b, &f, in, dy, 2, d_bias, "linear");
    double twice[M * K];
    memcpy(twice, dx, sizeof dx);
    product(b, twice, dy, in[1], NULL, (struct matmul_desc){.m = M, .n = K, .k = N, .accumulate = true});
    for (int i = 0; i < M * K; i++)
        cr_assert_float_eq(twice[i], 2 * dx[i], 1e-14);
    free_inputs(&f, in, dy);
    b->table->close(b);
}

/* ---- embedding ---- */

static const int32_t tokens[6] = {2, 0, 2, 3, 2, 0}, columns[3] = {4, 0, 3};
static const struct embedding_desc whole_table = {.rows = 6, .width = K, .context = 3, .token_count = 5, .position_count = 3};
static const struct embedding_desc part_of_table = {.rows = 6, .width = K, .context = 3, .token_first = 1, .token_count = 2,
                                                    .position_count = 5, .positions = columns};

static void embed(struct backend *b, double *y, double *const *in, const void *context)
{
    b->table->embedding_forward(b, y, tokens, in[0], in[1], context);
}

static void check_embedding(const struct embedding_desc *d)
{
    struct backend *b = reference();
    struct forward f = {embed, d, 6 * K, {d->token_count * K, d->position_count * K}, 2};
    double *in[INPUTS_MAX], *dy = make_inputs(&f, in), d_token[5 * K] = {0}, d_position[5 * K];
    b->table->embedding_backward(b, d_token, d_position, dy, tokens, d);
    check_gradient(b, &f, in, dy, 0, d_token, "embedding");
    check_gradient(b, &f, in, dy, 1, d_position, "embedding");
    free_inputs(&f, in, dy);
    b->table->close(b);
}

Test(gradients, embedding) { check_embedding(&whole_table); }
Test(gradients, embedding_of_a_slice) { check_embedding(&part_of_table); }

/* ---- layer norm ---- */

static void norm(struct backend *b, double *y, double *const *in, const void *context)
{
    (void)context;
    double mean[M], rstd[M];
    b->table->layer_norm_forward(b, y, mean, rstd, in[0], in[1], in[2], M, N, 1e-3);
}

Test(gradients, layer_norm)
{
    struct backend *b = reference();
    struct forward f = {norm, NULL, M * N, {M * N, N, N}, 3};
    double *in[INPUTS_MAX], *dy = make_inputs(&f, in);
    double y[M * N], mean[M], rstd[M], dx[M * N], added[M * N], d_gain[N], d_bias[N];
    b->table->layer_norm_forward(b, y, mean, rstd, in[0], in[1], in[2], M, N, 1e-3);
    b->table->layer_norm_backward_input(b, dx, dy, in[0], in[1], mean, rstd, M, N, false);
    b->table->layer_norm_backward_weight(b, d_gain, d_bias, dy, in[0], mean, rstd, M, N);
    check_gradient(b, &f, in, dy, 0, dx, "layer norm");
    check_gradient(b, &f, in, dy, 1, d_gain, "layer norm");
    check_gradient(b, &f, in, dy, 2, d_bias, "layer norm");
    memcpy(added, y, sizeof y);
    b->table->layer_norm_backward_input(b, added, dy, in[0], in[1], mean, rstd, M, N, true);
    for (int i = 0; i < M * N; i++)
        cr_assert_float_eq(added[i], y[i] + dx[i], 1e-14);
    free_inputs(&f, in, dy);
    b->table->close(b);
}

/* ---- RMS norm ---- */

static void rms_norm(struct backend *b, double *y, double *const *in, const void *context)
{
    (void)context;
    double rstd[M];
    b->table->rms_norm_forward(b, y, rstd, in[0], in[1], M, N, 1e-3);
}

Test(gradients, rms_norm)
{
    struct backend *b = reference();
    struct forward f = {rms_norm, NULL, M * N, {M * N, N}, 2};
    double *in[INPUTS_MAX], *dy = make_inputs(&f, in), y[M * N], rstd[M], dx[M * N], added[M * N], d_gain[N];
    b->table->rms_norm_forward(b, y, rstd, in[0], in[1], M, N, 1e-3);
    b->table->rms_norm_backward_input(b, dx, dy, in[0], in[1], rstd, M, N, false);
    b->table->rms_norm_backward_weight(b, d_gain, dy, in[0], rstd, M, N);
    check_gradient(b, &f, in, dy, 0, dx, "RMS norm");
    check_gradient(b, &f, in, dy, 1, d_gain, "RMS norm");
    memcpy(added, y, sizeof y);
    b->table->rms_norm_backward_input(b, added, dy, in[0], in[1], rstd, M, N, true);
    for (int i = 0; i < M * N; i++)
        cr_assert_float_eq(added[i], y[i] + dx[i], 1e-14);
    free_inputs(&f, in, dy);
    b->table->close(b);
}

/* ---- GELU, SwiGLU, residual and dropout ---- */

static void gelu(struct backend *b, double *y, double *const *in, const void *context)
{
    (void)context;
    b->table->gelu_forward(b, y, in[0], M * N);
}

Test(gradients, gelu)
{
    struct backend *b = reference();
    struct forward f = {gelu, NULL, M * N, {M * N}, 1};
    double *in[INPUTS_MAX], *dy = make_inputs(&f, in), dx[M * N];
    b->table->gelu_backward(b, dx, dy, in[0], M * N);
    check_gradient(b, &f, in, dy, 0, dx, "gelu");
    free_inputs(&f, in, dy);
    b->table->close(b);
}

static void swiglu(struct backend *b, double *y, double *const *in, const void *context)
{
    (void)context;
    b->table->swiglu_forward(b, y, in[0], M, N);
}

Test(gradients, swiglu)
{
    struct backend *b = reference();
    struct forward f = {swiglu, NULL, M * N, {M * 2 * N}, 1};
    double *in[INPUTS_MAX], *dy = make_inputs(&f, in), dx[M * 2 * N];
    b->table->swiglu_backward(b, dx, dy, in[0], M, N);
    check_gradient(b, &f, in, dy, 0, dx, "SwiGLU");
    free_inputs(&f, in, dy);
    b->table->close(b);
}

static void residual(struct backend *b, double *y, double *const *in, const void *context)
{
    b->table->add_dropout_forward(b, y, in[0], in[1], M * N, context);
}

Test(gradients, dropout)
{
    struct backend *b = reference();
    struct dropout d = {.rate = 0.4f, .key = philox_key_make(1, STREAM_DROPOUT, 0), .step = 2, .first = 8};
    struct forward f = {residual, &d, M * N, {M * N, M * N}, 2};
    double *in[INPUTS_MAX], *dy = make_inputs(&f, in), dh[M * N];
    b->table->dropout_backward(b, dh, dy, M * N, &d);
    check_gradient(b, &f, in, dy, 0, dy, "residual");
    check_gradient(b, &f, in, dy, 1, dh, "dropout");
    free_inputs(&f, in, dy);
    b->table->close(b);
}

/* ---- attention ---- */

static const struct attention_desc attention_shape = {.batch = 2, .context = 5, .heads = 2, .head_size = 3, .dropout_rate = 0.4f};
enum { ATTENTION_OUT = 2 * 5 * 2 * 3, ATTENTION_SUMS = 2 * 2 * 5 };

static void attend(struct backend *b, double *y, double *const *in, const void *context)
{
    struct attention *a;
    double log_sum[ATTENTION_SUMS];
    cr_assert_eq(b->table->attention_create(b, &attention_shape, &a), CAIRN_OK);
    b->table->attention_forward(a, y, log_sum, in[0], context);
    b->table->attention_destroy(a);
}

static void check_attention(float rate)
{
    struct backend *b = reference();
    struct dropout d = {.rate = rate, .key = philox_key_make(1, STREAM_DROPOUT, 0), .step = 2, .first = 8};
    struct forward f = {attend, &d, ATTENTION_OUT, {3 * ATTENTION_OUT}, 1};
    double *in[INPUTS_MAX], *dy = make_inputs(&f, in);
    double out[ATTENTION_OUT], log_sum[ATTENTION_SUMS], d_qkv[3 * ATTENTION_OUT];
    struct attention *a;
    cr_assert_eq(b->table->attention_create(b, &attention_shape, &a), CAIRN_OK);
    b->table->attention_forward(a, out, log_sum, in[0], &d);
    b->table->attention_backward(a, d_qkv, dy, out, in[0], log_sum, &d);
    b->table->attention_destroy(a);
    check_gradient(b, &f, in, dy, 0, d_qkv, "attention");
    free_inputs(&f, in, dy);
    b->table->close(b);
}

Test(gradients, attention) { check_attention(0); }
Test(gradients, attention_with_dropout) { check_attention(0.4f); }

/* ---- classifier: its output is the losses, each weighted alike ---- */

static const int32_t targets[M] = {1, 6, 1};
static const struct classifier_desc classifier_shape = {.rows = M, .width = K, .vocabulary = 7};

static void classify(struct backend *b, double *y, double *const *in, const void *context)
{
    (void)context;
    struct classifier *c;
    cr_assert_eq(b->table->classifier_create(b, &classifier_shape, &c), CAIRN_OK);
    b->table->classifier_loss(c, y, in[0], in[1], targets);
    b->table->classifier_destroy(c);
}

Test(gradients, classifier)
{
    struct backend *b = reference();
    struct forward f = {classify, NULL, M, {M * K, 7 * K}, 2};
    double *in[INPUTS_MAX], *dy = make_inputs(&f, in), losses[M], plain[M], dx[M * K], dw[7 * K];
    for (int i = 0; i < M; i++)
        dy[i] = 0.3;
    struct classifier *c;
    cr_assert_eq(b->table->classifier_create(b, &classifier_shape, &c), CAIRN_OK);
    b->table->classifier_loss_and_gradients(c, losses, dx, dw, in[0], in[1], targets, 0.3);
    b->table->classifier_loss(c, plain, in[0], in[1], targets);
    b->table->classifier_destroy(c);
    cr_expect_eq(memcmp(losses, plain, sizeof losses), 0);
    check_gradient(b, &f, in, dy, 0, dx, "classifier");
    check_gradient(b, &f, in, dy, 1, dw, "classifier");
    free_inputs(&f, in, dy);
    b->table->close(b);
}
