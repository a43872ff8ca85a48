/* A mixture of experts on one rank: moving rows beside a memcpy of the same bytes, and what the experts' products cost over the rows
 * that are there, over whole capacities, and with all sources' rows of an expert joined. See tests/bench/README.md. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/options.h"
#include "expert_rows.h"
#include "kernels/expert_mlp.h"
#include "machine_rates.h"

enum { ROUNDS_MAX = 1000, BAD_INPUT = 2, HIDDEN_FACTOR = 4 };

struct choices {
    long rows, width, experts, choices, sources, threads, rounds;
    double factor;
    enum dtype act;
};

/* Ways to multiply. Joined: an expert's rows of all sources behind each other, as one product. */
enum way { COUNTED, WHOLE, JOINED_COUNTED, JOINED_WHOLE, WAYS };
static const char *const way_names[WAYS] = {"the rows that are there", "whole capacities", "sources joined, rows that are there",
                                            "sources joined, whole"};

enum move { DISPATCH, COMBINE, COMBINE_BACKWARD, DISPATCH_BACKWARD, MOVES };
static const char *const move_names[MOVES] = {"dispatch", "combine", "combine_backward", "dispatch_backward"};

enum pass { FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT, PASSES };

struct bench {
    struct choices c;
    struct backend *b;
    int64_t local; /* experts of this rank */
    struct expert_rows rows; /* of one source, for all experts */
    struct expert_mlp *apart, *joined;
    int32_t *joined_counts;
    void *in, *out, *inner, *active, *d_inner; /* of all sources, for this rank's experts */
    struct expert_weights weights;
    struct expert_gradients gradients;
    double move_seconds[MOVES][ROUNDS_MAX], copy_seconds[MOVES][ROUNDS_MAX], pass_seconds[WAYS][PASSES][ROUNDS_MAX];
};

/* ---- opening ---- */

/* The program keeps them till it ends. */
static cairn_err open_arrays(struct bench *b)
{
    enum dtype act = b->b->act, acc = b->b->acc;
    int64_t width = b->c.width, hidden = HIDDEN_FACTOR * width, weights = b->local * width * hidden;
    int64_t received = b->c.sources * b->local * b->rows.d.capacity;
    const struct {
        void **p;
        enum dtype type;
        int64_t n;
    } all[] = {
        {&b->in, act, received * width}, {&b->out, act, received * width}, {&b->inner, act, received * hidden},
        {&b->active, act, received * hidden}, {&b->d_inner, act, received * hidden},
        {(void **)&b->weights.expand, act, weights}, {(void **)&b->weights.contract, act, weights},
        {(void **)&b->weights.expand_bias, act, b->local * hidden}, {(void **)&b->weights.contract_bias, act, b->local * width},
        {&b->gradients.expand, acc, weights}, {&b->gradients.contract, acc, weights},
        {&b->gradients.expand_bias, acc, b->local * hidden}, {&b->gradients.contract_bias, acc, b->local * width},
        {(void **)&b->joined_counts, DTYPE_I32, b->local},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if ((*all[i].p = bench_values(b->b, all[i].type, all[i].n)) == NULL)
            return FAIL(CAIRN_ENOMEM, "no memory for %lld elements", (long long)all[i].n);
    return CAIRN_OK;
}

static cairn_err open_bench(struct bench *b)
{
    const struct choices *c = &b->c;
    const struct backend_options options = {.act = c->act, .threads = (int)c->threads, .instruction_set = "auto"};
    const struct router_desc d = {.rows = c->rows, .width = c->width, .experts = c->experts, .choices = c->choices,
                                  .capacity = router_capacity(c->factor, c->rows, c->experts, c->choices)};
    b->local = c->experts / c->sources;
    struct expert_mlp_desc mlp = {.experts = b->local, .capacity = d.capacity, .width = c->width, .hidden = HIDDEN_FACTOR * c->width};
    TRY(backend_open("cpu", &options, &b->b));
    TRY(expert_rows_open(&b->rows, b->b, &d));
    TRY(open_arrays(b));
    TRY(expert_mlp_create(b->b, &mlp, &b->apart));
    mlp.capacity *= c->sources;
    TRY(expert_mlp_create(b->b, &mlp, &b->joined));
    for (int64_t e = 0; e < b->local; e++)
        b->joined_counts[e] = (int32_t)(c->sources * b->rows.routing.taken[e]);
    return CAIRN_OK;
}

static void close_bench(struct bench *b)
{
    expert_mlp_destroy(b->apart);
    expert_mlp_destroy(b->joined);
    expert_rows_close(&b->rows);
    if (b->b != NULL)
        b->b->table->close(b->b);
}

/* ---- running ---- */

/* One thread's time is the processor time that it used, so that it can be measured on a busy machine too. */
static double now(const struct bench *b)
{
    struct timespec t;
    clock_gettime(b->b->threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Bytes read and written. */
static double move_bytes(const struct bench *b, enum move move)
{
    const struct router_desc *d = &b->rows.d;
    double row = (double)d->width * (double)dtype_size(b->b->act), rows = (double)d->rows, places = (double)(d->experts * d->capacity);
    double taken = (double)(d->rows * d->choices - routing_dropped(d, &b->rows.routing));
    switch (move) {
    case DISPATCH: return (rows + places) * row;
    case COMBINE:
    case DISPATCH_BACKWARD: return (taken + rows) * row;
    case COMBINE_BACKWARD: return (rows + taken + places) * row;
    case MOVES: break;
    }
    return 0;
}

static double time_move(struct bench *b, enum move move)
{
    const struct backend_table *t = b->b->table;
    struct expert_rows *e = &b->rows;
    double begin = now(b);
    if (move == DISPATCH)
        t->dispatch(e->router, e->packed, e->x, &e->routing);
    else if (move == COMBINE)
        t->combine(e->router, e->y, e->out, &e->routing);
    else if (move == COMBINE_BACKWARD)
        t->combine_backward(e->router, e->d_packed, e->d_gate, e->y, e->out, &e->routing);
    else
        t->dispatch_backward(e->router, e->y, e->d_packed, &e->routing, false);
    return now(b) - begin;
}

/* As many bytes read and written, divided among as many threads. */
static double time_copy(struct bench *b, enum move move)
{
    int64_t threads = b->b->threads, share = (int64_t)(move_bytes(b, move) / 2 / (double)threads);
    double begin = now(b);
#pragma omp parallel for num_threads(b->b->threads) schedule(static)
    for (int64_t t = 0; t < threads; t++)
        memcpy((char *)b->inner + t * share, (char *)b->active + t * share, (size_t)share);
    return now(b) - begin;
}

/* One pass over all sources, or over the sources joined. */
static double time_pass(struct bench *b, enum way way, enum pass pass)
{
    bool joined = way >= JOINED_COUNTED;
    struct expert_mlp *mlp = joined ? b->joined : b->apart;
    const int32_t *counts = way == COUNTED ? b->rows.routing.load : way == JOINED_COUNTED ? b->joined_counts : NULL;
    size_t narrow = (size_t)(b->local * b->rows.d.capacity * b->c.width) * dtype_size(b->b->act), wide = narrow * HIDDEN_FACTOR;
    double begin = now(b);
    for (size_t s = 0; s < (joined ? 1 : (size_t)b->c.sources); s++) {
        char *in = (char *)b->in + s * narrow, *out = (char *)b->out + s * narrow;
        char *inner = (char *)b->inner + s * wide, *active = (char *)b->active + s * wide, *d_inner = (char *)b->d_inner + s * wide;
        if (pass == FORWARD)
            expert_mlp_forward(mlp, out, inner, active, in, &b->weights, counts);
        else if (pass == BACKWARD_INPUT)
            expert_mlp_backward_input(mlp, out, d_inner, in, inner, &b->weights, counts);
        else
            expert_mlp_backward_weight(mlp, &b->gradients, d_inner, out, in, active, counts, s > 0);
    }
    return now(b) - begin;
}

/* The first round is not kept: plans and workspaces meet their memory. */
static void run_rounds(struct bench *b)
{
    for (long round = -1; round < b->c.rounds; round++) {
        for (int m = 0; m < MOVES; m++) {
            double copy = time_copy(b, (enum move)m), move = time_move(b, (enum move)m);
            if (round >= 0) {
                b->copy_seconds[m][round] = copy;
                b->move_seconds[m][round] = move;
            }
        }
        for (int i = 0; i < WAYS * PASSES; i++) {
            double seconds = time_pass(b, (enum way)(i / PASSES), (enum pass)(i % PASSES));
            if (round >= 0)
                b->pass_seconds[i / PASSES][i % PASSES][round] = seconds;
        }
    }
}

/* ---- printing ---- */

static void print_all(struct bench *b)
{
    const struct choices *c = &b->c;
    int rounds = (int)c->rounds;
    printf("# %ld rows of %ld from each of %ld sources, %ld of %ld experts a row, %lld of them here, capacity %lld; %.1f%% of the choices "
           "dropped; %s\n", c->rows, c->width, c->sources, c->choices, c->experts, (long long)b->local, (long long)b->rows.d.capacity,
           100 * (double)routing_dropped(&b->rows.d, &b->rows.routing) / (double)(c->rows * c->choices), b->b->table->signature(b->b));
    printf("%-18s %10s %10s %12s\n", "# rows", "ms", "GB/s", "memcpy GB/s");
    for (int m = 0; m < MOVES; m++) {
        double bytes = move_bytes(b, (enum move)m), seconds = median(b->move_seconds[m], rounds);
        printf("%-18s %10.3f %10.2f %12.2f\n", move_names[m], seconds * 1e3, bytes / seconds * 1e-9,
               bytes / median(b->copy_seconds[m], rounds) * 1e-9);
    }
    printf("%-36s %10s %12s %12s %10s  (ms)\n", "# products over", "forward", "back, inputs", "back, weights", "sum");
    for (int w = 0; w < WAYS; w++) {
        double pass[PASSES];
        for (int p = 0; p < PASSES; p++)
            pass[p] = 1e3 * median(b->pass_seconds[w][p], rounds);
        printf("%-36s %10.2f %12.2f %12.2f %10.2f\n", way_names[w], pass[FORWARD], pass[BACKWARD_INPUT], pass[BACKWARD_WEIGHT],
               pass[FORWARD] + pass[BACKWARD_INPUT] + pass[BACKWARD_WEIGHT]);
    }
}

/* ---- the command line ---- */

static cairn_err check(const struct choices *c, const char *precision, int arguments, char **argv)
{
    if (arguments > 1)
        return FAIL(CAIRN_ECONFIG, "unexpected argument '%s'", argv[1]);
    if (strcmp(precision, "float32") != 0 && strcmp(precision, "bfloat16") != 0)
        return FAIL(CAIRN_ECONFIG, "--precision: expected float32 or bfloat16, found '%s'", precision);
    if (c->rows < 1 || c->width < 1 || c->experts < 1 || c->choices < 1 || c->choices > c->experts || c->factor <= 0)
        return FAIL(CAIRN_ECONFIG, "sizes are 1 or more, and a row chooses no more experts than there are");
    if (c->sources < 1 || c->experts % c->sources != 0)
        return FAIL(CAIRN_ECONFIG, "--sources: %ld does not divide %ld experts", c->sources, c->experts);
    if (c->rounds < 1 || c->rounds > ROUNDS_MAX)
        return FAIL(CAIRN_ECONFIG, "--rounds: expected a number from 1 to %d, found %ld", ROUNDS_MAX, c->rounds);
    return CAIRN_OK;
}

static cairn_err read_choices(int argc, char **argv, struct choices *c, bool *help)
{
    const char *precision = "float32";
    const struct option_spec options[] = {
        {0, "rows", OPTION_INT, &c->rows, "N", "rows of a source (512)"},
        {0, "width", OPTION_INT, &c->width, "N", "of a row; experts are four times as wide inside (768)"},
        {0, "experts", OPTION_INT, &c->experts, "N", "on all ranks (8)"},
        {0, "choices", OPTION_INT, &c->choices, "N", "experts of a row (2)"},
        {0, "factor", OPTION_REAL, &c->factor, "X", "the capacity's factor (1.25)"},
        {0, "sources", OPTION_INT, &c->sources, "N", "ranks that the experts are divided among (4)"},
        {0, "precision", OPTION_STRING, &precision, "TYPE", "float32 or bfloat16 (float32)"},
        {0, "threads", OPTION_INT, &c->threads, "N", "threads; 0: as many as may be used (2)"},
        {0, "rounds", OPTION_INT, &c->rounds, "N", "timed rounds (7)"},
        {0, NULL, OPTION_FLAG, NULL, NULL, NULL},
    };
    const struct command_spec spec = {"bench_experts [options]", "Times the kernels of a mixture of experts on one rank.", options, NULL};
    TRY(options_parse(&spec, &argc, argv, help));
    c->act = strcmp(precision, "bfloat16") == 0 ? DTYPE_BF16 : DTYPE_F32;
    if (*help)
        options_help(&spec, stdout);
    return *help ? CAIRN_OK : check(c, precision, argc, argv);
}

int main(int argc, char **argv)
{
    static struct bench b = {.c = {.rows = 512, .width = 768, .experts = 8, .choices = 2, .factor = 1.25, .sources = 4, .threads = 2,
                                   .rounds = 7}};
    bool help = false;
    if (read_choices(argc, argv, &b.c, &help) != CAIRN_OK) {
        log_error("%s", cairn_err_message());
        return BAD_INPUT;
    }
    if (help)
        return 0;
    cairn_err err = open_bench(&b);
    if (err) {
        log_error("%s", cairn_err_message());
    } else {
        run_rounds(&b);
        print_all(&b);
    }
    close_bench(&b);
    return err != CAIRN_OK;
}
