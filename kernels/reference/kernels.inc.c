/* Compiled once for each REAL; TABLE is the table's name. Sums are taken in double and rounded to REAL at the end. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/attention_span.h"
#include "kernels/dropout.h"
#include "kernels/host_memory.h"
#include "kernels/reference/reference.h"

#include "kernels/reference/norm.inc.c"
#include "kernels/reference/attention.inc.c"
#include "kernels/reference/classifier.inc.c"
#include "kernels/reference/embedding.inc.c"
#include "kernels/reference/experts.inc.c"

struct matmul {
    struct backend *backend;
    struct matmul_desc desc;
    double *a, *b; /* as the product reads them; of one allocation */
};

static cairn_err matmul_create(struct backend *b, const struct matmul_desc *d, struct matmul **matmul)
{
    *matmul = malloc(sizeof **matmul);
    double *values = malloc((size_t)((d->m + d->n) * d->k) * sizeof *values);
    if (*matmul == NULL || values == NULL) {
        free(*matmul);
        free(values);
        *matmul = NULL;
        return FAIL(CAIRN_ENOMEM, "no memory for a product's plan");
    }
    **matmul = (struct matmul){b, *d, values, values + d->m * d->k};
    return CAIRN_OK;
}

/* As TYPE has them. */
static void take_operand(double *to, const REAL *from, int64_t n, enum float8 type)
{
    double greatest = 0, scale = 1;
    for (int64_t i = 0; i < n; i++) {
        to[i] = (double)from[i];
        greatest = isfinite(to[i]) ? fmax(greatest, fabs(to[i])) : INFINITY;
    }
    if (type != FLOAT8_NONE)
        scale = float8_scale(type, greatest);
    for (int64_t i = 0; i < n && type != FLOAT8_NONE; i++)
        to[i] = float8_to(type, float8_from(type, to[i] * scale)) / scale;
}

static void matmul_run(struct matmul *matmul, void *c_, const void *a_, const void *b_, const void *bias_)
{
    const struct matmul_desc *d = &matmul->desc;
    REAL *c = c_;
    const REAL *bias = bias_;
    const double *a = matmul->a, *b = matmul->b;
    take_operand(matmul->a, a_, d->m * d->k, matmul_is_float8(d) ? d->float8_a : FLOAT8_NONE);
    take_operand(matmul->b, b_, d->n * d->k, matmul_is_float8(d) ? d->float8_b : FLOAT8_NONE);
    for (int64_t i = 0; i < d->m; i++) {
        for (int64_t j = 0; j < d->n; j++) {
            double sum = d->bias ? (double)bias[j] : 0;
            for (int64_t l = 0; l < d->k; l++)
                sum += (d->transpose_a ? a[l * d->m + i] : a[i * d->k + l]) * (d->transpose_b ? b[j * d->k + l] : b[l * d->n + j]);
            if (d->accumulate)
                sum += (double)c[i * d->n + j];
            c[i * d->n + j] = (REAL)sum;
        }
    }
}

static void gelu_forward(struct backend *b, void *y, const void *x, int64_t n);
static void gelu_backward(struct backend *b, void *dx, const void *dy, const void *x, int64_t n);

static void matmul_run_gelu(struct matmul *matmul, void *c, void *inner, const void *a, const void *b, const void *bias)
{
    const struct matmul_desc *d = &matmul->desc;
    bool forward = d->gelu == MATMUL_GELU;
    matmul_run(matmul, forward ? inner : c, a, b, bias);
    if (forward)
        gelu_forward(matmul->backend, c, inner, d->m * d->n);
    else
        gelu_backward(matmul->backend, c, c, inner, d->m * d->n);
}

static void matmul_destroy(struct matmul *matmul)
{
    if (matmul != NULL)
        free(matmul->a);
    free(matmul);
}

static void bias_backward(struct backend *b, void *d_bias_, const void *dy_, int64_t rows, int64_t width)
{
    (void)b;
    REAL *d_bias = d_bias_;
    const REAL *dy = dy_;
    for (int64_t i = 0; i < width; i++) {
        double sum = 0;
        for (int64_t r = 0; r < rows; r++)
            sum += (double)dy[r * width + i];
        d_bias[i] = (REAL)sum;
    }
}

/* sqrt(2 / pi) and the cubic term's factor of the tanh form. */
#define GELU_SCALE 0.79788456080286535588
#define GELU_CUBIC 0.044715

static void gelu_forward(struct backend *b, void *y_, const void *x_, int64_t n)
{
    (void)b;
    REAL *y = y_;
    const REAL *x = x_;
    for (int64_t i = 0; i < n; i++) {
        double v = (double)x[i];
        y[i] = (REAL)(0.5 * v * (1 + tanh(GELU_SCALE * (v + GELU_CUBIC * v * v * v))));
    }
}

static void gelu_backward(struct backend *b, void *dx_, const void *dy_, const void *x_, int64_t n)
{
    (void)b;
    REAL *dx = dx_;
    const REAL *dy = dy_, *x = x_;
    for (int64_t i = 0; i < n; i++) {
        double v = (double)x[i];
        double t = tanh(GELU_SCALE * (v + GELU_CUBIC * v * v * v));
        double dt = (1 - t * t) * GELU_SCALE * (1 + 3 * GELU_CUBIC * v * v);
        dx[i] = (REAL)((double)dy[i] * (0.5 * (1 + t) + 0.5 * v * dt));
    }
}

static void swiglu_forward(struct backend *b, void *y_, const void *x_, int64_t rows, int64_t width)
{
    (void)b;
    REAL *y = y_;
    const REAL *x = x_;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < width; i++) {
            double gate = (double)x[2 * r * width + i], up = (double)x[(2 * r + 1) * width + i];
            y[r * width + i] = (REAL)(gate / (1 + exp(-gate)) * up);
        }
}

static void swiglu_backward(struct backend *b, void *dx_, const void *dy_, const void *x_, int64_t rows, int64_t width)
{
    (void)b;
    REAL *dx = dx_;
    const REAL *dy = dy_, *x = x_;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < width; i++) {
            double gate = (double)x[2 * r * width + i], up = (double)x[(2 * r + 1) * width + i], d = (double)dy[r * width + i];
            double sigmoid = 1 / (1 + exp(-gate));
            dx[2 * r * width + i] = (REAL)(d * up * (sigmoid + gate * sigmoid * (1 - sigmoid)));
            dx[(2 * r + 1) * width + i] = (REAL)(d * gate * sigmoid);
        }
}

static double dropout_factor(const struct dropout *d, uint64_t element)
{
    if (d->rate == 0)
        return 1;
    return dropout_keeps(d, d->first + element) ? dropout_scale(d->rate) : 0;
}

static void add_dropout_forward(struct backend *b, void *y_, const void *x_, const void *h_, int64_t n, const struct dropout *d)
{
    (void)b;
    REAL *y = y_;
    const REAL *x = x_, *h = h_;
    for (int64_t i = 0; i < n; i++)
        y[i] = (REAL)((x != NULL ? (double)x[i] : 0) + dropout_factor(d, (uint64_t)i) * (double)h[i]);
}

static void dropout_backward(struct backend *b, void *dh_, const void *dy_, int64_t n, const struct dropout *d)
{
    (void)b;
    REAL *dh = dh_;
    const REAL *dy = dy_;
    for (int64_t i = 0; i < n; i++)
        dh[i] = (REAL)(dropout_factor(d, (uint64_t)i) * (double)dy[i]);
}

static void add(struct backend *backend, void *sum_, const void *a_, const void *b_, int64_t n)
{
    (void)backend;
    REAL *sum = sum_;
    const REAL *a = a_, *b = b_;
    for (int64_t i = 0; i < n; i++)
        sum[i] = a[i] + b[i];
}

static void sum_squares(struct backend *b, const struct squares_run *runs, int count)
{
    (void)b;
    for (const struct squares_run *r = runs; r < runs + count; r++) {
        const REAL *x = r->x;
        for (int64_t chunk = 0; chunk * NORM_CHUNK < r->n; chunk++) {
            double sum = 0;
            for (int64_t i = chunk * NORM_CHUNK; i < r->n && i < (chunk + 1) * NORM_CHUNK; i++)
                sum += (double)x[i] * (double)x[i];
            r->sums[chunk] = sum;
        }
    }
}

static void update_run(const struct adamw_run *r, const struct adamw *o)
{
    REAL *master = r->master, *moment1 = r->moment1, *moment2 = r->moment2;
    const REAL *gradient = r->gradient;
    double decay = r->decays ? (double)o->weight_decay : 0, beta1 = (double)o->beta1, beta2 = (double)o->beta2;
    double correction1 = 1 - pow(beta1, (double)o->step), correction2 = 1 - pow(beta2, (double)o->step);
    for (int64_t i = 0; i < r->n; i++) {
        double g = (double)gradient[i] * (double)o->gradient_scale;
        double m1 = beta1 * (double)moment1[i] + (1 - beta1) * g;
        double m2 = beta2 * (double)moment2[i] + (1 - beta2) * g * g;
        double w = (double)master[i];
        w -= (double)o->learning_rate * decay * w;
        w -= (double)o->learning_rate * (m1 / correction1) / (sqrt(m2 / correction2) + (double)o->epsilon);
        moment1[i] = (REAL)m1;
        moment2[i] = (REAL)m2;
        master[i] = (REAL)w;
        if (r->compute != NULL)
            ((REAL *)r->compute)[i] = (REAL)w;
    }
}

static void adamw(struct backend *b, const struct adamw_run *runs, int count, const struct adamw *o)
{
    (void)b;
    for (int i = 0; i < count; i++)
        update_run(&runs[i], o);
}

/* act and acc are one type */
static void round_weights(struct backend *b, const struct adamw_run *runs, int count, bool stochastic, int64_t step)
{
    (void)b, (void)stochastic, (void)step;
    for (int i = 0; i < count; i++)
        if (runs[i].compute != NULL)
            memcpy(runs[i].compute, runs[i].master, (size_t)runs[i].n * sizeof(REAL));
}

const struct backend_table TABLE = {
    .name = "reference",
    HOST_MEMORY_TABLE,
    .close = reference_close,
    .alloc = reference_alloc,
    .free = reference_free,
    .signature = reference_signature,
    .matmul_create = matmul_create,
    .matmul_run = matmul_run,
    .matmul_run_gelu = matmul_run_gelu,
    .matmul_destroy = matmul_destroy,
    .embedding_forward = embedding_forward,
    .embedding_backward = embedding_backward,
    .layer_norm_forward = layer_norm_forward,
    .layer_norm_backward_input = layer_norm_backward_input,
    .layer_norm_backward_weight = layer_norm_backward_weight,
    .rms_norm_forward = rms_norm_forward,
    .rms_norm_backward_input = rms_norm_backward_input,
    .rms_norm_backward_weight = rms_norm_backward_weight,
    .bias_backward = bias_backward,
    .gelu_forward = gelu_forward,
    .gelu_backward = gelu_backward,
    .swiglu_forward = swiglu_forward,
    .swiglu_backward = swiglu_backward,
    .add_dropout_forward = add_dropout_forward,
    .dropout_backward = dropout_backward,
    .attention_create = attention_create,
    .attention_forward = attention_forward,
    .attention_backward = attention_backward,
    .attention_keys_values = attention_keys_values,
    .attention_pieces_begin = attention_pieces_begin,
    .attention_piece_forward = attention_piece_forward,
    .attention_pieces_end = attention_pieces_end,
    .attention_pieces_backward_begin = attention_pieces_backward_begin,
    .attention_piece_backward = attention_piece_backward,
    .attention_pieces_backward_end = attention_pieces_backward_end,
    .attention_destroy = attention_destroy,
    .classifier_create = classifier_create,
    .classifier_loss = classifier_loss,
    .classifier_loss_and_gradients = classifier_loss_and_gradients,
    .classifier_blocks = classifier_blocks,
    .classifier_block_logits = classifier_block_logits,
    .classifier_join = classifier_join,
    .classifier_block_finish = classifier_block_finish,
    .classifier_destroy = classifier_destroy,
    .add = add,
    .add_act = add, /* act and acc are one type */
    .sum_squares = sum_squares,
    .adamw = adamw,
    .round_weights = round_weights,
    .router_create = router_create,
    .router_forward = router_forward,
    .router_place = router_place,
    .router_backward_input = router_backward_input,
    .router_backward_weight = router_backward_weight,
    .router_destroy = router_destroy,
    .dispatch = dispatch,
    .dispatch_backward = dispatch_backward,
    .combine = combine,
    .combine_backward = combine_backward,
};
