/* Every kernel of a backend beside its own bound, as it runs in a training step. See tests/bench/README.md.
 *
 * The steps are real ones, of Cairn's own graph, gradient and optimizer, with a clock around each kernel: what is called how
 * often with which shape, and what is in the cache by then, are the step's own. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attention_split.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/options.h"
#include "expert_rows.h"
#include "gated_rows.h"
#include "kernel_clock.h"
#include "machine_rates.h"
#include "model/gpt.h"
#include "train/gradient.h"
#include "train/learning_rate.h"
#include "train/optimizer.h"

enum { VOCABULARY = 50257, TOKEN_STRIDE = 7919, ROUNDS_MAX = 1000, THREADS_MAX = 1024, BAD_INPUT = 2 };

/* Where a bound is that of reading, the bytes written are at most a quarter of all. */
static const double reading_share = 0.75;

static const struct bench_case {
    const char *name;
    int64_t samples, context;
    struct gpt gpt;
} cases[] = { /* of tests/bench/step.sh */
    {"124m", 4, 64, {.layers = 12, .width = 768, .heads = 12, .vocabulary = VOCABULARY, .tied = true}},
    {"small", 8, 256, {.layers = 6, .width = 384, .heads = 6, .vocabulary = VOCABULARY, .tied = true}},
    {"tiny", 2, 32, {.layers = 2, .width = 64, .heads = 1, .vocabulary = 512, .tied = true}}, /* only tries this out */
    {"124m-gpu", 32, 1024, {.layers = 12, .width = 768, .heads = 12, .vocabulary = VOCABULARY, .tied = true}}, /* of tests/gpu/step */
    {"1.5b-gpu", 8, 1024, {.layers = 48, .width = 1600, .heads = 25, .vocabulary = VOCABULARY, .tied = true}},
};

struct choices {
    const struct bench_case *bench_case;
    const char *backend;
    enum dtype act;
    bool float8; /* linear layers, beside bfloat16 */
    long threads, rounds;
    enum kernel kernel; /* KERNELS: all */
    bool split;         /* attention over split sequences instead of steps */
    bool stochastic;    /* rounding of weights */
};

struct bench {
    struct choices choices;
    struct mesh mesh; /* of this process alone */
    struct config config;
    struct backend *backend;
    struct machine_rates *rates;
    struct graph *graph;
    struct weights weights;
    struct gradient *gradient;
    struct expert_rows experts;
    struct gated_rows gated;
    int32_t *inputs, *targets;
    double *step_seconds;
    int64_t step;
};

/* ---- the model ---- */

/* No token occurs twice: every row of the table that the kernels read is another one. */
static cairn_err make_tokens(struct bench *b)
{
    int64_t rows = b->choices.bench_case->samples * b->choices.bench_case->context;
    b->inputs = calloc((size_t)rows, sizeof *b->inputs);
    b->targets = calloc((size_t)rows, sizeof *b->targets);
    b->step_seconds = calloc((size_t)b->choices.rounds, sizeof *b->step_seconds);
    if (!b->inputs || !b->targets || !b->step_seconds)
        return FAIL(CAIRN_ENOMEM, "no memory for the tokens");
    int64_t words = b->choices.bench_case->gpt.vocabulary;
    for (int64_t r = 0; r < rows; r++) {
        b->inputs[r] = (int32_t)(r * TOKEN_STRIDE % words);
        b->targets[r] = (int32_t)((r + 1) * TOKEN_STRIDE % words);
    }
    return CAIRN_OK;
}

static cairn_err open_model(struct bench *b)
{
    const struct bench_case *c = b->choices.bench_case;
    const struct graph_options options = {.samples = c->samples, .context = c->context, .training = true, .join_lookups = true, .seed = 1};
    b->graph = graph_new(b->backend, &options);
    if (!b->graph)
        return FAIL(CAIRN_ENOMEM, "no memory for the graph");
    const struct gpt_piece whole = gpt_piece_of(&c->gpt, c->context, 1, 0);
    gpt_declare(b->graph, &c->gpt, &whole, c->context, true, NULL, NULL);
    TRY_CONTEXT(graph_finish(b->graph), "building the model");
    TRY(graph_allocate(b->graph, 1, NULL));
    TRY(weights_open(b->backend, b->graph, true, NULL, &b->weights));
    const struct gradient_options sums = {.microbatches = 1, .overlap = true};
    const struct layout one = mesh_plain_layout(1);
    TRY(mesh_arrange(&b->mesh, &one));
    TRY(gradient_open(&b->mesh, b->backend, &sums, 1, &b->graph, &b->weights, &b->gradient));
    TRY(weights_initialize(&b->weights, &(struct weights_rounding){.seed = 1}));
    return make_tokens(b);
}

/* No case has experts: a router of the Switch Transformer's capacity and of two choices, for as many rows as a case has. */
static cairn_err open_experts(struct bench *b)
{
    const struct bench_case *c = b->choices.bench_case;
    struct router_desc d = {.rows = c->samples * c->context, .width = c->gpt.width, .experts = 8, .choices = 2};
    d.capacity = router_capacity(1.25, d.rows, d.experts, d.choices);
    return expert_rows_open(&b->experts, b->backend, &d);
}

static cairn_err open_bench(struct bench *b)
{
    const struct choices *c = &b->choices;
    const struct backend_options options = {.act = c->act, .threads = (int)c->threads, .instruction_set = "auto", .timed_products = true,
                                            .float8 = c->float8};
    b->mesh = (struct mesh){.world = MPI_COMM_SELF, .size = 1, .nodes = 1};
    b->config.steps = 1000;
    b->config.optimizer.learning_rate = 1e-4;
    b->config.optimizer.beta1 = 0.9;
    b->config.optimizer.beta2 = 0.95;
    b->config.optimizer.epsilon = 1e-8;
    b->config.optimizer.weight_decay = 0.1;
    b->config.optimizer.clip_norm = 1;
    b->config.optimizer.rounding = c->stochastic ? ROUNDING_STOCHASTIC : ROUNDING_NEAREST;
    TRY(backend_open(b->choices.backend, &options, &b->backend));
    TRY(machine_rates_open(b->backend, gpt_parameter_count(&c->bench_case->gpt, c->bench_case->context), &b->rates));
    kernel_clock_attach(b->backend);
    TRY(open_experts(b));
    TRY(gated_rows_open(&b->gated, b->backend, c->bench_case->samples * c->bench_case->context, c->bench_case->gpt.width));
    return open_model(b);
}

static void close_bench(struct bench *b)
{
    gradient_close(b->gradient);
    mesh_disband(&b->mesh);
    if (b->weights.backend)
        weights_close(&b->weights);
    graph_free(b->graph);
    expert_rows_close(&b->experts);
    gated_rows_close(&b->gated);
    if (b->rates)
        kernel_clock_detach(b->backend);
    machine_rates_close(b->rates);
    if (b->backend)
        b->backend->table->close(b->backend);
    free(b->inputs);
    free(b->targets);
    free(b->step_seconds);
}

/* ---- running ---- */

/* As src/train does it for one microbatch on one rank. */
static cairn_err run_step(struct bench *b, double *seconds)
{
    double norm, begin = clock_seconds();
    double scale = 1 / (double)(b->choices.bench_case->samples * b->choices.bench_case->context);
    const struct graph_pass pass = {.step = b->step, .inputs = b->inputs, .targets = b->targets, .loss_scale = scale};
    TRY(graph_forward_backward(b->graph, &pass));
    TRY(gradient_finish(b->gradient, &norm));
    const struct optimizer_step update = {learning_rate_at(&b->config, b->step), norm, b->step + 1};
    optimizer_update(&b->config, &b->weights, b->gradient, 0, &update);
    TRY(b->backend->table->finish(b->backend));
    b->step++;
    *seconds = clock_seconds() - begin;
    return CAIRN_OK;
}

/* The kernels of validation, of several microbatches, of sums over tensor ranks, of restoring, of experts and of gated MLPs. */
static cairn_err run_rest(struct bench *b)
{
    const struct backend_table *table = b->backend->table;
    float *vector = machine_rates_vector(b->rates);
    TRY(graph_forward(b->graph, b->inputs, b->targets));
    table->add(b->backend, vector, vector, b->weights.master, b->weights.elements);
    const struct weights_rounding rounding = optimizer_rounding(&b->config, b->step);
    if (b->weights.compute != b->weights.master)
        weights_refresh(&b->weights, &rounding);
    table->add_act(b->backend, vector, vector, b->weights.compute, b->weights.elements);
    expert_rows_run(&b->experts);
    gated_rows_run(&b->gated);
    return table->finish(b->backend);
}

static cairn_err run_rounds(struct bench *b)
{
    double first; /* plans and workspaces meet their memory; not a time to keep */
    TRY(run_step(b, &first));
    for (long round = 0; round < b->choices.rounds; round++) {
        TRY(machine_rates_measure(b->rates));
        kernel_clock_set(CLOCK_STEP);
        TRY(run_step(b, &b->step_seconds[round]));
        kernel_clock_set(CLOCK_REST);
        TRY(run_rest(b));
        kernel_clock_set(CLOCK_OFF);
    }
    return CAIRN_OK;
}

/* ---- printing ---- */

struct bound {
    double seconds;
    const char *by;
};

static struct bound bound_of(const struct kernel_work *w, const struct machine_speed *speed)
{
    double bytes = w->read + w->written;
    double memory = bytes / (w->read >= reading_share * bytes ? speed->read : speed->copy), products = w->flops / speed->products;
    return products > memory ? (struct bound){products, "products"} : (struct bound){memory, "memory"};
}

struct line_times {
    double calls; /* in a step */
    double seconds, least; /* the median and the shortest call */
    struct bound bound;
};

static struct line_times times_of(struct kernel_line *line, const struct machine_speed *speed, long rounds)
{
    double middle = median(line->seconds, line->count); /* sorts them */
    return (struct line_times){.calls = line->in_step ? (double)line->count / (double)rounds : 0,
                               .seconds = middle,
                               .least = line->seconds[0],
                               .bound = bound_of(&line->work, speed)};
}

static void print_head(const struct bench *b, const struct machine_speed *speed)
{
    const struct bench_case *c = b->choices.bench_case;
    printf("# %s: %lld layers, width %lld, %lld heads, vocabulary %lld, %lld samples of %lld; %ld rounds; %s\n", c->name,
           (long long)c->gpt.layers, (long long)c->gpt.width, (long long)c->gpt.heads, (long long)c->gpt.vocabulary,
           (long long)c->samples, (long long)c->context, b->choices.rounds, b->backend->table->signature(b->backend));
    printf("# medians (and the best): copy %.2f (%.2f) GB/s, read %.2f (%.2f) GB/s, %s %.1f (%.1f) GFLOP/s\n", speed->copy * 1e-9,
           speed->best_copy * 1e-9, speed->read * 1e-9, speed->best_read * 1e-9, speed->products_by, speed->products * 1e-9,
           speed->best_products * 1e-9);
    printf("%-29s %-28s %5s %10s %10s %10s %-8s %8s %6s\n", "# kernel", "shape", "calls", "ms", "least ms", "bound ms", "bound by",
           "of bound", "share");
}

static void print_line(const struct kernel_line *line, const struct line_times *t, double sum)
{
    printf("%-29s %-28s %5.0f %10.4f %10.4f %10.4f %-8s %7.1f%% %5.1f%%\n", kernel_name(line->kernel), line->shape, t->calls,
           t->seconds * 1e3, t->least * 1e3, t->bound.seconds * 1e3, t->bound.by, 100 * t->bound.seconds / t->seconds,
           100 * t->calls * t->seconds / sum);
}

static cairn_err print_all(struct bench *b)
{
    struct kernel_line *lines;
    struct machine_speed speed = machine_rates_speed(b->rates);
    int count;
    double sum = 0, least = 0, bounds = 0, calls = 0;
    if (!kernel_clock_lines(&lines, &count))
        return FAIL(CAIRN_ENOMEM, "no room for all the kernels' shapes or times");
    for (int i = 0; i < count; i++) {
        struct line_times t = times_of(&lines[i], &speed, b->choices.rounds);
        calls += t.calls;
        sum += t.calls * t.seconds;
        least += t.calls * t.least;
        bounds += t.calls * t.bound.seconds;
    }
    print_head(b, &speed);
    for (int i = 0; i < count; i++) {
        struct line_times t = times_of(&lines[i], &speed, b->choices.rounds);
        if (b->choices.kernel == KERNELS || b->choices.kernel == lines[i].kernel)
            print_line(&lines[i], &t, sum);
    }
    printf("%-29s %-28s %5.0f %10.4f %10.4f %10.4f %-8s %7.1f%% (a whole step, with what is between kernels: %.4f)\n",
           "sum over a step", b->choices.bench_case->name, calls, sum * 1e3, least * 1e3, bounds * 1e3, "", 100 * bounds / sum,
           1e3 * median(b->step_seconds, (int)b->choices.rounds));
    return CAIRN_OK;
}

/* ---- the command line ---- */

static cairn_err choose_case(const char *name, const struct bench_case **out)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (strcmp(cases[i].name, name) == 0) {
            *out = &cases[i];
            return CAIRN_OK;
        }
    return FAIL(CAIRN_ECONFIG, "--case: expected 124m, small, tiny, 124m-gpu or 1.5b-gpu, found '%s'", name);
}

static cairn_err choose_kernel(const char *name, enum kernel *out)
{
    char all[1024] = "";
    *out = name ? kernel_find(name) : KERNELS;
    if (!name || *out != KERNELS)
        return CAIRN_OK;
    for (int i = 0; i < KERNELS; i++)
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", i ? ", " : "", kernel_name((enum kernel)i));
    return FAIL(CAIRN_ECONFIG, "--kernel: no kernel '%s'; there are %s", name, all);
}

static cairn_err check(const struct choices *c, const char *precision, int arguments, char **argv)
{
    if (arguments > 1)
        return FAIL(CAIRN_ECONFIG, "unexpected argument '%s'", argv[1]);
    if (strcmp(precision, "float32") != 0 && strcmp(precision, "bfloat16") != 0 && strcmp(precision, "float8") != 0)
        return FAIL(CAIRN_ECONFIG, "--precision: expected float32, bfloat16 or float8, found '%s'", precision);
    if (c->threads < 0 || c->threads > THREADS_MAX)
        return FAIL(CAIRN_ECONFIG, "--threads: expected a number from 0 to %d, found %ld", THREADS_MAX, c->threads);
    if (c->rounds < 1 || c->rounds > ROUNDS_MAX)
        return FAIL(CAIRN_ECONFIG, "--rounds: expected a number from 1 to %d, found %ld", ROUNDS_MAX, c->rounds);
    return CAIRN_OK;
}

static cairn_err read_choices(int argc, char **argv, struct choices *c, bool *help)
{
    const char *bench_case = "124m", *precision = "float32", *kernel = NULL;
    const struct option_spec options[] = {
        {0, "case", OPTION_STRING, &bench_case, "NAME", "124m, small, tiny, or a GPU's: 124m-gpu, 1.5b-gpu (124m)"},
        {0, "backend", OPTION_STRING, &c->backend, "NAME", "cpu, reference or cuda (cpu)"},
        {0, "precision", OPTION_STRING, &precision, "TYPE", "float32, bfloat16, or float8: bfloat16 with linear layers in float8 (float32)"},
        {0, "threads", OPTION_INT, &c->threads, "N", "threads; 0: as many as may be used (2)"},
        {0, "rounds", OPTION_INT, &c->rounds, "N", "timed steps (5)"},
        {0, "kernel", OPTION_STRING, &kernel, "NAME", "print this one alone; the whole step runs all the same"},
        {0, "stochastic", OPTION_FLAG, &c->stochastic, NULL, "weights are rounded to bfloat16 stochastically"},
        {0, "split", OPTION_FLAG, &c->split, NULL, "no steps: attention over sequences that two ranks share, by whole ones"},
        {0, NULL, OPTION_FLAG, NULL, NULL, NULL},
    };
    const struct command_spec spec = {"bench_kernels [options]", "Times every kernel of a backend beside its own bound.",
                                      options, NULL};
    TRY(options_parse(&spec, &argc, argv, help));
    if (*help) {
        options_help(&spec, stdout);
        return CAIRN_OK;
    }
    TRY(check(c, precision, argc, argv));
    TRY(choose_case(bench_case, &c->bench_case));
    c->float8 = strcmp(precision, "float8") == 0;
    c->act = strcmp(precision, "float32") == 0 ? DTYPE_F32 : DTYPE_BF16;
    return choose_kernel(kernel, &c->kernel);
}

/* The case's own attention, and that of as many tokens in longer sequences. */
static cairn_err run_split(struct bench *b)
{
    const struct bench_case *c = b->choices.bench_case;
    const struct backend_options options = {.act = b->choices.act, .threads = (int)b->choices.threads, .instruction_set = "auto",
                                            .timed_products = true};
    TRY(backend_open(b->choices.backend, &options, &b->backend));
    printf("# attention over sequences split over 2 ranks, the work of both, by that over whole ones; %ld rounds; %s\n",
           b->choices.rounds, b->backend->table->signature(b->backend));
    for (int longer = 1; longer <= 16; longer *= 4) {
        const struct attention_desc desc = {.batch = (c->samples + longer - 1) / longer, .context = c->context * longer,
                                            .heads = c->gpt.heads, .head_size = c->gpt.width / c->gpt.heads};
        struct split_times t;
        TRY(attention_split_measure(b->backend, &desc, b->choices.rounds, &t));
        printf("%lldx%lld, %lld heads of %lld: forward %.4f / %.4f ms = %.3f, backward %.4f / %.4f ms = %.3f\n", (long long)desc.batch,
               (long long)desc.context, (long long)desc.heads, (long long)desc.head_size, t.split_forward * 1e3, t.whole_forward * 1e3,
               t.split_forward / t.whole_forward, t.split_backward * 1e3, t.whole_backward * 1e3, t.split_backward / t.whole_backward);
    }
    return CAIRN_OK;
}

static cairn_err run_bench(struct bench *b)
{
    if (b->choices.split)
        return run_split(b);
    TRY(open_bench(b));
    TRY(run_rounds(b));
    return print_all(b);
}

int main(int argc, char **argv)
{
    struct bench b = {.choices = {.backend = "cpu", .threads = 2, .rounds = 5}};
    bool help = false;
    if (read_choices(argc, argv, &b.choices, &help) != CAIRN_OK) {
        log_error("%s", cairn_err_message());
        return BAD_INPUT;
    }
    if (help)
        return 0;
    MPI_Init(NULL, NULL); /* the gradient's sum over ranks, here of one */
    cairn_err err = run_bench(&b);
    if (err)
        log_error("%s", cairn_err_message());
    close_bench(&b);
    MPI_Finalize();
    return err != CAIRN_OK;
}
