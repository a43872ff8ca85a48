/* A model cut into pieces, computed again, or with its weights' gradients apart gives the same bits as in one piece. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/philox.h"
#include "kernels_support.h"
#include "model/gpt.h"

enum { SAMPLES = 2, CONTEXT = 8, ROWS = SAMPLES * CONTEXT, VOCABULARY = 29, PIECES_MAX = 3, MICROBATCHES = 3 };

static const struct gpt model = {.layers = 4, .width = 12, .heads = 3, .vocabulary = VOCABULARY, .tied = true, .dropout = 0.25f};

struct pieces {
    struct backend *backend;
    int count;
    struct graph *graphs[PIECES_MAX];
    float *parameters[PIECES_MAX], *gradients[PIECES_MAX][MICROBATCHES];
    double loss[MICROBATCHES];
};

/* A value that depends on the parameter's name and place alone. */
static float value_at(const struct parameter *p, int64_t i)
{
    uint32_t word[4], hash = 2166136261u;
    for (const char *c = p->name; *c; c++)
        hash = (hash ^ (uint32_t)*c) * 16777619u;
    philox4x32(philox_key_make(hash, STREAM_WEIGHTS, 0), 0, (uint64_t)i, word);
    return p->init.constant + 0.2f * (philox_uniform(word[0]) - 0.5f);
}

static void open_pieces(struct pieces *p, const char *backend, int count, int recompute, bool split)
{
    const struct backend_options options = {.act = DTYPE_F32, .threads = 1, .instruction_set = "auto"};
    const struct graph_options shape = {.samples = SAMPLES, .context = CONTEXT, .training = true, .seed = 5, .recompute = recompute,
                                        .split_backward = split};
    *p = (struct pieces){.count = count};
    cr_assert_eq(backend_open(backend, &options, &p->backend), CAIRN_OK);
    for (int k = 0; k < count; k++) {
        const struct gpt_piece piece = gpt_piece_of(&model, CONTEXT, count, k);
        struct graph *g = p->graphs[k] = graph_new(p->backend, &shape);
        gpt_declare(g, &model, &piece, CONTEXT, true, NULL, NULL);
        cr_assert_eq(graph_finish(g), CAIRN_OK, "%s", cairn_err_message());
        cr_assert_eq(graph_allocate(g, MICROBATCHES, NULL), CAIRN_OK);
        p->parameters[k] = calloc((size_t)graph_parameter_elements(g), sizeof(float));
        for (int i = 0; i < graph_parameter_count(g); i++)
            for (int64_t e = 0; e < graph_parameter_at(g, i)->elements; e++)
                p->parameters[k][graph_parameter_at(g, i)->offset + e] = value_at(graph_parameter_at(g, i), e);
        graph_bind_parameters(g, p->parameters[k]);
        for (int m = 0; m < MICROBATCHES; m++)
            p->gradients[k][m] = calloc((size_t)graph_gradient_elements(g), sizeof(float));
    }
}

static void close_pieces(struct pieces *p)
{
    for (int k = 0; k < p->count; k++) {
        graph_free(p->graphs[k]);
        free(p->parameters[k]);
        for (int m = 0; m < MICROBATCHES; m++)
            free(p->gradients[k][m]);
    }
    p->backend->table->close(p->backend);
}

/* A flat vector for the gradients of a graph. */
struct place {
    struct graph *graph;
    char *gradient;
    size_t size; /* of an element */
};

static cairn_err gradient_begin(void *context, int bucket, void **gradient)
{
    const struct place *p = context;
    *gradient = p->gradient + (size_t)graph_bucket_at(p->graph, bucket)->offset * p->size;
    return CAIRN_OK;
}

static int32_t tokens[MICROBATCHES][ROWS + 1];

static void run(struct pieces *p, int k, enum graph_phase phase, int m)
{
    struct place place = {p->graphs[k], (char *)p->gradients[k][m], sizeof(float)};
    const struct graph_hooks hooks = {.context = &place, .gradient_begin = gradient_begin};
    const struct graph_pass pass = {.slot = m, .step = 3, .microbatch = m, .inputs = tokens[m], .targets = tokens[m] + 1, .loss_scale = 0.5};
    graph_set_hooks(p->graphs[k], &hooks);
    cr_assert_eq(graph_run(p->graphs[k], phase, &pass), CAIRN_OK);
}

/* Activations to the next piece after a forward phase, their gradients to the one before after a backward phase. */
static void pass_on(struct pieces *p, int k, enum graph_phase phase, int m)
{
    int to = phase == GRAPH_FORWARD ? k + 1 : k - 1;
    if (to < 0 || to >= p->count || phase == GRAPH_WEIGHTS)
        return;
    struct graph_boundary a = graph_boundary(p->graphs[k], m), b = graph_boundary(p->graphs[to], m);
    if (phase == GRAPH_FORWARD)
        memcpy(b.input, a.output, a.output_bytes);
    else
        memcpy(b.output_gradient, a.input_gradient, a.input_bytes);
}

/* All forward phases, then backward, then weights: all microbatches are on their way at once. */
static void train(struct pieces *p)
{
    for (int m = 0; m < MICROBATCHES; m++)
        for (int i = 0; i <= ROWS; i++)
            tokens[m][i] = (7 * i + 11 * m) % VOCABULARY;
    for (int m = 0; m < MICROBATCHES; m++)
        for (int k = 0; k < p->count; k++) {
            run(p, k, GRAPH_FORWARD, m);
            pass_on(p, k, GRAPH_FORWARD, m);
        }
    for (int m = 0; m < MICROBATCHES; m++)
        for (int k = p->count - 1; k >= 0; k--) {
            run(p, k, GRAPH_BACKWARD, m);
            if (k == p->count - 1)
                p->loss[m] = graph_mean_loss(p->graphs[k]);
            pass_on(p, k, GRAPH_BACKWARD, m);
        }
    for (int m = 0; m < MICROBATCHES; m++)
        for (int k = 0; k < p->count; k++)
            run(p, k, GRAPH_WEIGHTS, m);
}

/* The gradient of parameter NAME in P, of its use as lookup table if LOOKUP; NULL: P's pieces have none. */
static const float *find(const struct pieces *p, int m, const char *name, bool lookup)
{
    for (int k = 0; k < p->count; k++)
        for (int i = 0; i < graph_parameter_count(p->graphs[k]); i++) {
            const struct parameter *q = graph_parameter_at(p->graphs[k], i);
            if (strcmp(q->name, name) != 0)
                continue;
            if (!lookup && (p->count == 1 || k == p->count - 1 || strcmp(name, "token_embedding") != 0))
                return p->gradients[k][m] + q->offset;
            if (lookup)
                return p->gradients[k][m] + (q->lookup >= 0 ? graph_bucket_at(p->graphs[k], q->lookup)->offset : q->offset);
        }
    return NULL;
}

static void compare(const struct pieces *a, const struct pieces *b, const char *what)
{
    for (int m = 0; m < MICROBATCHES; m++) {
        cr_expect(a->loss[m] == b->loss[m], "%s: losses %.9g and %.9g", what, a->loss[m], b->loss[m]);
        for (int i = 0; i < graph_parameter_count(a->graphs[0]); i++) {
            const struct parameter *q = graph_parameter_at(a->graphs[0], i);
            for (int lookup = 0; lookup <= (strcmp(q->name, "token_embedding") == 0); lookup++)
                cr_expect(memcmp(find(a, m, q->name, lookup), find(b, m, q->name, lookup), (size_t)q->elements * sizeof(float)) == 0,
                          "%s: gradient of %s of microbatch %d differs", what, q->name, m);
        }
    }
}

static void check_all(const char *backend)
{
    struct pieces whole, other;
    size_t slot_bytes[3];
    open_pieces(&whole, backend, 1, GRAPH_RECOMPUTE_NONE, false);
    train(&whole);
    for (int count = 1; count <= PIECES_MAX; count++)
        for (int recompute = GRAPH_RECOMPUTE_NONE; recompute <= GRAPH_RECOMPUTE_BLOCK; recompute++)
            for (int split = 0; split < 2; split++) {
                char what[96];
                snprintf(what, sizeof what, "%s, %d pieces, recompute %d, split %d", backend, count, recompute, split);
                open_pieces(&other, backend, count, recompute, split);
                train(&other);
                compare(&whole, &other, what);
                if (count == 1 && !split)
                    slot_bytes[recompute] = graph_slot_bytes(other.graphs[0]);
                close_pieces(&other);
            }
    cr_expect(slot_bytes[1] < slot_bytes[0] && slot_bytes[2] < slot_bytes[1] / 2, "slots of %zu, %zu and %zu bytes", slot_bytes[0],
              slot_bytes[1], slot_bytes[2]);
    close_pieces(&whole);
}

Test(graph, reference_same_bits_however_it_is_cut)
{
    check_all("reference");
}

Test(graph, cpu_same_bits_however_it_is_cut)
{
    check_all("cpu");
}

/* ---- a block of experts within a model, in float64, against central differences ---- */

static double loss_of(struct graph *g)
{
    const struct graph_pass pass = {.step = 3, .inputs = tokens[0], .targets = tokens[0] + 1, .loss_scale = 1};
    cr_assert_eq(graph_run(g, GRAPH_EVALUATE, &pass), CAIRN_OK);
    double sum;
    cr_assert_eq(graph_sum_losses(g, ROWS, &sum), CAIRN_OK);
    return sum;
}

static struct backend *open_float64(void)
{
    const struct backend_options options = {.act = DTYPE_F64, .threads = 1, .instruction_set = "auto"};
    struct backend *backend;
    cr_assert_eq(backend_open("reference", &options, &backend), CAIRN_OK);
    return backend;
}

/* Of a graph in float64 that is declared and no more. */
static void check_differences(struct graph *g)
{
    cr_assert(graph_finish(g) == CAIRN_OK && graph_allocate(g, 1, NULL) == CAIRN_OK, "%s", cairn_err_message());
    double *values = calloc((size_t)graph_parameter_elements(g), sizeof *values), *gradient = calloc((size_t)graph_gradient_elements(g), sizeof *values);
    for (int i = 0; i < graph_parameter_count(g); i++)
        for (int64_t e = 0; e < graph_parameter_at(g, i)->elements; e++)
            values[graph_parameter_at(g, i)->offset + e] = 5 * (double)value_at(graph_parameter_at(g, i), e);
    for (int i = 0; i <= ROWS; i++)
        tokens[0][i] = 7 * i % VOCABULARY;
    graph_bind_parameters(g, values);
    const struct graph_pass pass = {.step = 3, .inputs = tokens[0], .targets = tokens[0] + 1, .loss_scale = 1};
    struct place place = {g, (char *)gradient, sizeof *gradient};
    const struct graph_hooks hooks = {.context = &place, .gradient_begin = gradient_begin};
    graph_set_hooks(g, &hooks);
    cr_assert_eq(graph_forward_backward(g, &pass), CAIRN_OK);
    for (int i = 0; i < graph_parameter_count(g); i++) {
        const struct parameter *p = graph_parameter_at(g, i);
        for (int64_t e = 0; e < p->elements; e += 1 + p->elements / 7) {
            double *x = &values[p->offset + e], at = *x;
            *x = at + 1e-6;
            double above = loss_of(g);
            *x = at - 1e-6;
            double below = loss_of(g), expected = (above - below) / 2e-6;
            *x = at;
            cr_expect_float_eq(gradient[p->offset + e], expected, 1e-6 * (1 + fabs(expected)), "%s[%lld]: %.9g, by differences %.9g", p->name,
                               (long long)e, gradient[p->offset + e], expected);
        }
    }
    free(values);
    free(gradient);
}

Test(graph, experts_gradients_are_differences)
{
    const struct gpt moe = {.layers = 1, .width = 6, .heads = 2, .vocabulary = VOCABULARY, .experts = 3, .choices = 2, .capacity_factor = 0.8};
    const struct graph_options shape = {.samples = SAMPLES, .context = CONTEXT, .training = true};
    const struct gpt_piece whole = gpt_piece_of(&moe, CONTEXT, 1, 0);
    struct backend *backend = open_float64();
    struct graph *g = graph_new(backend, &shape);
    gpt_declare(g, &moe, &whole, CONTEXT, true, NULL, NULL);
    check_differences(g);
    graph_free(g);
    backend->table->close(backend);
}

/* ---- RMS norms and SwiGLU, which no model has yet: blocks of a gated MLP each ---- */

enum { GATED_BLOCKS = 2, GATED_WIDTH = 7, GATED_HIDDEN = 5 };

static tensor_id gated_parameter(struct graph *g, int block, const char *name, int64_t rows, int64_t width)
{
    struct parameter_desc desc = {.name = name, .dims = rows > 0 ? 2 : 1, .shape = {rows > 0 ? rows : width, rows > 0 ? width : 0}, .split = -1,
                                  .init = {.constant = rows > 0 ? 0 : 1}, .vector = rows == 0};
    char numbered[64];
    snprintf(numbered, sizeof numbered, "block.%d.%s", block, name);
    if (block >= 0)
        desc.name = numbered;
    return graph_parameter(g, &desc);
}

static void declare_gated(struct graph *g)
{
    tensor_id x = graph_embedding(g, gated_parameter(g, -1, "token_embedding", VOCABULARY, GATED_WIDTH),
                                  gated_parameter(g, -1, "position_embedding", CONTEXT, GATED_WIDTH));
    for (int block = 0; block < GATED_BLOCKS; block++) {
        graph_segment_begin(g, GRAPH_RECOMPUTE_BLOCK);
        tensor_id normal = graph_rms_norm(g, x, gated_parameter(g, block, "norm.gain", 0, GATED_WIDTH), 1e-5);
        tensor_id inner = graph_linear(g, normal, gated_parameter(g, block, "expand.weight", 2 * GATED_HIDDEN, GATED_WIDTH), -1);
        tensor_id h = graph_linear(g, graph_swiglu(g, inner), gated_parameter(g, block, "contract.weight", GATED_WIDTH, GATED_HIDDEN), -1);
        x = graph_residual(g, x, h, 0);
        graph_segment_end(g);
    }
    x = graph_rms_norm(g, x, gated_parameter(g, -1, "final_norm.gain", 0, GATED_WIDTH), 1e-5);
    graph_classifier(g, x, gated_parameter(g, -1, "head.weight", VOCABULARY, GATED_WIDTH));
}

Test(graph, gated_gradients_are_differences)
{
    const struct graph_options shape = {.samples = SAMPLES, .context = CONTEXT, .training = true};
    struct backend *backend = open_float64();
    struct graph *g = graph_new(backend, &shape);
    declare_gated(g);
    check_differences(g);
    graph_free(g);
    backend->table->close(backend);
}

/* The gradients of one pass; freed by free. */
static double *gated_gradients(struct backend *b, int recompute, bool split, int64_t *count)
{
    const struct graph_options shape = {.samples = SAMPLES, .context = CONTEXT, .training = true, .recompute = recompute, .split_backward = split};
    const struct graph_pass pass = {.step = 3, .inputs = tokens[0], .targets = tokens[0] + 1, .loss_scale = 1};
    struct graph *g = graph_new(b, &shape);
    declare_gated(g);
    cr_assert(graph_finish(g) == CAIRN_OK && graph_allocate(g, 1, NULL) == CAIRN_OK, "%s", cairn_err_message());
    int64_t n = graph_parameter_elements(g);
    *count = graph_gradient_elements(g);
    double *values = calloc((size_t)n, sizeof *values);
    for (int i = 0; i < graph_parameter_count(g); i++)
        for (int64_t e = 0; e < graph_parameter_at(g, i)->elements; e++)
            values[graph_parameter_at(g, i)->offset + e] = (double)bf16_to_float(bf16_from_float(5 * value_at(graph_parameter_at(g, i), e)));
    for (int i = 0; i <= ROWS; i++)
        tokens[0][i] = 7 * i % VOCABULARY;
    void *parameters = make_array(b, b->act, values, n), *gradient = b->table->alloc(b, array_bytes(b->acc, *count));
    struct place place = {g, gradient, dtype_size(b->acc)};
    const struct graph_hooks hooks = {.context = &place, .gradient_begin = gradient_begin};
    graph_bind_parameters(g, parameters);
    graph_set_hooks(g, &hooks);
    cr_assert_eq(graph_forward_backward(g, &pass), CAIRN_OK);
    free(values);
    values = array_values(b, b->acc, gradient, *count);
    cr_assert_eq(b->table->finish(b), CAIRN_OK, "%s", cairn_err_message());
    graph_free(g);
    free_array(b, b->act, parameters, n);
    b->table->free(b, gradient, array_bytes(b->acc, *count));
    return values;
}

/* However it is computed: the same bits, near those of the reference in float64. */
static void check_gated(struct backend *b, double tolerance)
{
    struct backend *reference = open_float64();
    int64_t count;
    double *expected = gated_gradients(reference, GRAPH_RECOMPUTE_NONE, false, &count);
    double *first = gated_gradients(b, GRAPH_RECOMPUTE_NONE, false, &count), error = relative_error(first, expected, count);
    cr_expect_lt(error, tolerance, "%s: relative error %g", b->table->name, error);
    for (int way = 1; way < 4; way++) {
        double *again = gated_gradients(b, way % 2 ? GRAPH_RECOMPUTE_BLOCK : GRAPH_RECOMPUTE_NONE, way / 2, &count);
        cr_expect(memcmp(again, first, (size_t)count * sizeof *again) == 0, "%s: other bits where %s", b->table->name,
                  way == 1 ? "blocks are computed again" : "the weights' gradients are apart");
        free(again);
    }
    free(first);
    free(expected);
    b->table->close(b);
    reference->table->close(reference);
}

Test(graph, gated_on_cpu) { check_gated(open_backend("cpu", DTYPE_F32, 2, NULL), 1e-5); }
Test(graph, gated_on_cuda) { check_gated(open_cuda(DTYPE_F32), 1e-5); }
Test(graph, gated_on_cuda_in_bfloat16) { check_gated(open_cuda(DTYPE_BF16), 5e-2); }

/* A norm and the residual before it are one kernel of a device, and so are a norm's gradients. */
Test(graph, gated_kernels_are_joined)
{
    struct backend *b = open_cuda(DTYPE_F32);
    int64_t count, lost;
    int norms = 0, gradients = 0;
    cr_assert_eq(b->table->spans_open(b, 1000), CAIRN_OK, "%s", cairn_err_message());
    free(gated_gradients(b, GRAPH_RECOMPUTE_NONE, false, &count));
    const struct backend_span *spans = b->table->spans_take(b, &count, &lost);
    for (int64_t i = 0; i < count; i++) {
        norms += strcmp(spans[i].name, "RMS norm") == 0;
        gradients += strcmp(spans[i].name, "RMS norm's gradients") == 0;
        cr_expect_str_neq(spans[i].name, "a sum", "a residual is added up apart");
        cr_expect_str_neq(spans[i].name, "RMS norm's gradient", "a gradient is found apart");
    }
    cr_expect(norms == GATED_BLOCKS + 1 && gradients == GATED_BLOCKS + 1 && lost == 0, "%d norms, %d of their gradients", norms, gradients);
    b->table->close(b);
}

Test(graph, swiglu_wants_two_halves)
{
    struct backend *backend = open_float64();
    struct graph *g = graph_new(backend, &(struct graph_options){.samples = 1, .context = 2});
    graph_stage_output(g, graph_swiglu(g, graph_stage_input(g, 7)));
    cr_expect_eq(graph_finish(g), CAIRN_EINVAL);
    cr_expect_str_eq(cairn_err_message(), "SwiGLU: a width of 7 has no two halves");
    graph_free(g);
    backend->table->close(backend);
}

Test(graph, pieces_are_cut_by_cost)
{
    const struct gpt even = {.layers = 24, .width = 1024, .heads = 16, .vocabulary = 256};
    const struct gpt heavy = {.layers = 24, .width = 256, .heads = 4, .vocabulary = 50257};
    for (int count = 1; count <= 8; count++) {
        int64_t next = 0;
        for (int k = 0; k < count; k++) {
            struct gpt_piece p = gpt_piece_of(&heavy, 1024, count, k);
            cr_assert(p.first == next && p.count >= 1 && p.begins == (k == 0) && p.ends == (k == count - 1));
            next += p.count;
        }
        cr_assert_eq(next, 24);
    }
    cr_assert_eq(gpt_piece_of(&even, 1024, 4, 3).count, 6, "a light head takes no block away");
    /* A head of 50257 x 256 costs as much as 12 blocks. */
    cr_assert_eq(gpt_piece_of(&heavy, 1024, 2, 1).count, 6);
    cr_assert_eq(gpt_piece_of(&heavy, 1024, 4, 3).count, 1);
}
