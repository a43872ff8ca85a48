/* A mixture of experts: what the router decides, in cases done by hand; gradients against central differences; backends, types and
 * numbers of threads against each other. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "experts_block.h"
#include "kernels/expert_mlp.h"
#include "kernels_support.h"

static const struct {
    const char *name;
    enum dtype act;
} backends[] = {{"reference", DTYPE_F64}, {"reference", DTYPE_F32}, {"cpu", DTYPE_F32}, {"cpu", DTYPE_BF16}};
enum { BACKENDS = sizeof backends / sizeof *backends };

/* ---- cases done by hand: the router's weight is the unit matrix, so that x is the logits ---- */

enum { HAND_MAX = 8 };

/* As wide as there are experts, which give back what they get. */
static void run_logits(struct backend *b, const struct block *k, const double *logits, struct block_results *results)
{
    int64_t experts = k->router.experts;
    double x[HAND_MAX * HAND_MAX], unit[HAND_MAX * HAND_MAX] = {0}, dy[HAND_MAX * HAND_MAX] = {0}, none[1] = {0};
    memcpy(x, logits, (size_t)(k->router.rows * experts) * sizeof *x);
    for (int64_t e = 0; e < experts; e++)
        unit[e * experts + e] = 1;
    double *inputs[INPUTS] = {x, dy, unit, none, none, none, none};
    block_run(b, k, inputs, results);
}

typedef void check_results(const struct block_results *results, const char *label);

static void check_logits(struct backend *b, const struct block *k, const double *logits, check_results *check)
{
    struct block_results r;
    char label[64];
    snprintf(label, sizeof label, "%s %s", b->table->name, dtype_name(b->act));
    run_logits(b, k, logits, &r);
    check(&r, label);
    block_results_free(&r);
    b->table->close(b);
}

/* Runs CHECK on what every backend makes of the logits. */
static void in_every_backend(const struct block *k, const double *logits, check_results *check)
{
    for (int i = 0; i < BACKENDS; i++)
        check_logits(open_backend(backends[i].name, backends[i].act, 2, NULL), k, logits, check);
    check_logits(open_cuda(DTYPE_F32), k, logits, check);
    check_logits(open_cuda(DTYPE_BF16), k, logits, check);
}

static void expect_integers(const struct block_results *r, enum block_result which, const int *expected, int n, const char *label)
{
    for (int i = 0; i < n; i++)
        cr_expect_eq((int)r->values[which][i], expected[i], "%s: %s[%d] is %d, expected %d", label, block_result_name(which), i,
                     (int)r->values[which][i], expected[i]);
}

static void expect_near(double got, double expected, double bound, const char *what, const char *label)
{
    cr_expect(fabs(got - expected) <= bound, "%s: %s is %.9g, expected %.9g", label, what, got, expected);
}

/* A bfloat16 has 8 bits of precision; statistics, gates and losses are of acc. */
static double act_bound(const char *label)
{
    return strstr(label, "bfloat16") ? 1.0 / 128 : 1e-6;
}

static const double order_logits[9] = {3, 2, 0, 2, 3, 0, 3, 2, 0};

/* Row 0 gets both its choices, rows 1 and 2 their first ones alone. */
static void check_order(const struct block_results *r, const char *label)
{
    static const int expert[6] = {0, 1, 1, 0, 0, 1}, place[6] = {0, 3, 2, -1, 1, -1}, load[3] = {3, 3, 0};
    double first = 1 / (1 + exp(-1));
    expect_integers(r, RESULT_EXPERT, expert, 6, label);
    expect_integers(r, RESULT_PLACE, place, 6, label);
    expect_integers(r, RESULT_LOAD, load, 3, label);
    for (int i = 0; i < 9; i++) {
        double gate = i < 3 ? 1 : first;
        expect_near(r->values[RESULT_Y][i], gate * order_logits[i], 3 * act_bound(label), "y", label);
    }
    expect_near(r->values[RESULT_GATE][0], first, 1e-6, "gate", label);
    expect_near(r->values[RESULT_GATE][1], 1 - first, 1e-6, "gate", label);
}

/* All rows' first choices come before second ones; expert 2 gets nothing. */
Test(routing, takes_first_choices_first)
{
    struct block k = block_make(3, 3, 3, 2, 1.0, 0);
    cr_assert_eq(k.router.capacity, 2);
    in_every_backend(&k, order_logits, check_order);
}

static void check_ties(const struct block_results *r, const char *label)
{
    static const int expert[9] = {0, 1, 2, 1, 2, 0, 3, 0, 1};
    expect_integers(r, RESULT_EXPERT, expert, 9, label);
    expect_near(r->values[RESULT_GATE][0], 1.0 / 3, 1e-6, "gate of three equal ones", label);
}

Test(routing, ties_go_to_the_lower_expert)
{
    static const double logits[12] = {0, 0, 0, 0, 1, 5, 5, 1, 2, 2, 2, 7};
    struct block k = block_make(3, 4, 4, 3, 4.0, 0);
    in_every_backend(&k, logits, check_ties);
}

/* Logits are logarithms of probabilities, shifted: probabilities of expert 0: .9 .8 .6 .3, log sums 1, 0, 0, -2. Three of four
 * rows choose expert 0: 2 (3/4 * .65 + 1/4 * .35) = 1.15; (1 + 0 + 0 + 4) / 4 = 1.25. Inputs of bfloat16 are rounded. */
static void check_losses(const struct block_results *r, const char *label)
{
    expect_near(r->values[RESULT_LOSSES][0], 1.15, act_bound(label), "balance loss", label);
    expect_near(r->values[RESULT_LOSSES][1], 1.25, 2 * act_bound(label), "z loss", label);
    expect_near(r->values[RESULT_GATE][0], 0.9, act_bound(label), "gate of one choice", label);
}

Test(routing, losses_of_a_case_done_by_hand)
{
    static const double p[4] = {0.9, 0.8, 0.6, 0.3}, shift[4] = {1, 0, 0, -2};
    double logits[8];
    for (int r = 0; r < 4; r++) {
        logits[2 * r] = log(p[r]) + shift[r];
        logits[2 * r + 1] = log(1 - p[r]) + shift[r];
    }
    struct block k = block_make(4, 2, 2, 1, 1.0, 0);
    in_every_backend(&k, logits, check_losses);
}

static void check_even(const struct block_results *r, const char *label)
{
    expect_near(r->values[RESULT_LOSSES][0], 1, 1e-6, "balance loss of even load", label);
}

Test(routing, balance_of_even_load_is_one)
{
    static const double logits[16] = {4, 0, 0, 0, 0, 4, 0, 0, 0, 0, 4, 0, 0, 0, 0, 4};
    struct block k = block_make(4, 4, 4, 1, 1.0, 0);
    in_every_backend(&k, logits, check_even);
}

/* A row of NaN still has experts; the other rows are as they were. */
static void check_nan(const struct block_results *r, const char *label)
{
    static const int expert[6] = {1, 0, 0, 1, 2, 1};
    expect_integers(r, RESULT_EXPERT, expert, 6, label);
    cr_expect(isnan(r->values[RESULT_Y][3]), "%s: a row of NaN gives %g", label, r->values[RESULT_Y][3]);
    cr_expect_not(isnan(r->values[RESULT_Y][0]) || isnan(r->values[RESULT_Y][6]), "%s: a row of NaN spoils others", label);
}

Test(routing, a_row_of_nan_keeps_to_itself)
{
    const double logits[9] = {1, 2, 0, (double)NAN, (double)NAN, (double)NAN, 0, 1, 2};
    struct block k = block_make(3, 3, 3, 2, 3.0, 0);
    in_every_backend(&k, logits, check_nan);
}

Test(routing, capacity)
{
    cr_expect_eq(router_capacity(1.25, 512, 8, 1), 80);
    cr_expect_eq(router_capacity(1.0, 7, 2, 1), 4, "a part of a row is a row");
    cr_expect_eq(router_capacity(1.1, 100, 10, 1), 11, "rounding of 1.1 is no row");
    cr_expect_eq(router_capacity(0.5, 16, 4, 2), 4);
    cr_expect_eq(router_capacity(1e-9, 16, 4, 2), 1);
    cr_expect_eq(router_capacity(8, 16, 4, 2), 16, "no more than there are rows");
}

Test(routing, counts_what_is_dropped)
{
    int32_t expert[9] = {0, 0, 1, 0, 0, 1, 0, 0, 0}, place[9], load[3], taken[3];
    struct router_desc d = {.rows = 9, .experts = 3, .choices = 1, .capacity = 3};
    struct routing r = {.expert = expert, .place = place, .load = load, .taken = taken};
    routing_place(&d, &r, NULL);
    cr_expect(load[0] == 7 && load[1] == 2 && load[2] == 0);
    cr_expect(taken[0] == 3 && taken[1] == 2 && taken[2] == 0);
    cr_expect_eq(routing_dropped(&d, &r), 4);
}

enum { SHARED_ROWS = 30, SHARED_EXPERTS = 4, SHARED_CHOICES = 2, RUNS = 4 };
static const int run_lengths[RUNS] = {8, 7, 6, 9}, run_ranks[RUNS] = {0, 1, 1, 0};

/* Of EXPERT, all rows' choices, those of the runs of RANK. */
static struct router_desc take_rows(struct router_desc d, const int32_t *expert, int rank, int32_t *own)
{
    d.rows = 0;
    for (int i = 0, row = 0; i < RUNS; row += run_lengths[i++])
        if (run_ranks[i] == rank) {
            memcpy(own + d.rows * d.choices, expert + row * d.choices, (size_t)(run_lengths[i] * d.choices) * sizeof *own);
            d.rows += run_lengths[i];
        }
    return d;
}

/* What RANK finds of its rows: which of all choices are taken. */
static void place_shared(struct router_desc d, const int32_t *expert, int rank, bool *takes, int32_t *load)
{
    int32_t own[SHARED_ROWS * SHARED_CHOICES], place[SHARED_ROWS * SHARED_CHOICES], taken[SHARED_EXPERTS], most[SHARED_EXPERTS] = {0};
    struct routing whole = {.expert = (int32_t *)expert}, r = {.expert = own, .place = place, .load = load, .taken = taken};
    int32_t counts[SHARED_CHOICES * SHARED_EXPERTS];
    int64_t capacity = d.capacity;
    memset(load, 0, SHARED_EXPERTS * sizeof *load);
    for (int c = 0; c < SHARED_CHOICES; c++)
        for (int i = 0, row = 0; i < RUNS; row += run_lengths[i++]) {
            routing_count(&d, &whole, row, run_lengths[i], counts);
            routing_deal(&d, capacity, counts + c * SHARED_EXPERTS, load, run_ranks[i] == rank ? most : NULL);
        }
    d = take_rows(d, expert, rank, own);
    routing_place(&d, &r, most);
    for (int i = 0, row = 0, at = 0; i < RUNS; row += run_lengths[i++])
        for (int k = 0; run_ranks[i] == rank && k < run_lengths[i] * SHARED_CHOICES; k++)
            takes[row * SHARED_CHOICES + k] = place[at++] >= 0;
    cr_expect_eq(memcmp(taken, most, sizeof taken), 0, "rank %d places as many as it may", rank);
}

/* Two ranks with runs of a microbatch's rows each take the rows that one would that has all. */
Test(routing, rows_that_ranks_share_are_taken_as_whole_ones)
{
    int32_t expert[SHARED_ROWS * SHARED_CHOICES], place[SHARED_ROWS * SHARED_CHOICES], load[SHARED_EXPERTS], taken[SHARED_EXPERTS];
    struct router_desc d = {.rows = SHARED_ROWS, .experts = SHARED_EXPERTS, .choices = SHARED_CHOICES};
    struct routing r = {.expert = expert, .place = place, .load = load, .taken = taken};
    for (int row = 0; row < SHARED_ROWS; row++) {
        expert[2 * row] = row * row % 5 % SHARED_EXPERTS;
        expert[2 * row + 1] = (expert[2 * row] + 1 + row % 3) % SHARED_EXPERTS;
    }
    for (d.capacity = 1; d.capacity <= SHARED_ROWS; d.capacity++) {
        bool takes[SHARED_ROWS * SHARED_CHOICES];
        routing_place(&d, &r, NULL);
        for (int rank = 0; rank < 2; rank++) {
            int32_t load_there[SHARED_EXPERTS];
            place_shared(d, expert, rank, takes, load_there);
            cr_expect_eq(memcmp(load_there, load, sizeof load), 0, "rank %d counts another load", rank);
        }
        for (int i = 0; i < SHARED_ROWS * SHARED_CHOICES; i++)
            cr_expect_eq(takes[i], place[i] >= 0, "capacity %d, choice %d of row %d", (int)d.capacity, i % 2, i / 2);
    }
}

/* ---- gradients of the reference in float64 ---- */

/* What the gradients are of, and whether the rows still choose as in EXPERTS: else the difference is of two functions. */
static double objective(struct backend *b, const struct block *k, double *const inputs[INPUTS], const double *experts)
{
    struct block_results r;
    block_run(b, k, inputs, &r);
    double sum = k->scales.balance * r.values[RESULT_LOSSES][0] + k->scales.z * r.values[RESULT_LOSSES][1];
    for (int64_t i = 0; i < block_result_size(k, RESULT_Y); i++)
        sum += r.values[RESULT_Y][i] * inputs[INPUT_DY][i];
    cr_assert_eq(memcmp(r.values[RESULT_EXPERT], experts, (size_t)block_result_size(k, RESULT_EXPERT) * sizeof *experts), 0,
                 "a row is too near a tie");
    block_results_free(&r);
    return sum;
}

static void check_gradient(struct backend *b, const struct block *k, double *const inputs[INPUTS], const struct block_results *r,
                           enum block_input which, enum block_result gradient)
{
    int64_t n = block_input_size(k, which);
    double *expected = calloc((size_t)n + 1, sizeof *expected);
    for (int64_t i = 0; i < n; i++) {
        double at = inputs[which][i];
        inputs[which][i] = at + 1e-5;
        double above = objective(b, k, inputs, r->values[RESULT_EXPERT]);
        inputs[which][i] = at - 1e-5;
        double below = objective(b, k, inputs, r->values[RESULT_EXPERT]);
        inputs[which][i] = at;
        expected[i] = (above - below) / 2e-5;
    }
    double error = relative_error(r->values[gradient], expected, n);
    cr_expect_lt(error, 1e-7, "%s, %d choices of %d experts, capacity %d: relative error %g", block_result_name(gradient),
                 (int)k->router.choices, (int)k->router.experts, (int)k->router.capacity, error);
    free(expected);
}

static void check_gradients(struct block k, uint64_t seed, bool drops)
{
    struct backend *b = open_backend("reference", DTYPE_F64, 1, NULL);
    double *inputs[INPUTS], taken = 0;
    struct block_results r;
    block_inputs_make(&k, inputs, seed);
    block_run(b, &k, inputs, &r);
    for (int64_t i = 0; i < block_result_size(&k, RESULT_PLACE); i++)
        taken += r.values[RESULT_PLACE][i] >= 0;
    cr_expect_eq(taken < (double)block_result_size(&k, RESULT_PLACE), drops, "%g choices are taken", taken);
    check_gradient(b, &k, inputs, &r, INPUT_X, RESULT_D_X);
    check_gradient(b, &k, inputs, &r, INPUT_ROUTER, RESULT_D_ROUTER);
    check_gradient(b, &k, inputs, &r, INPUT_EXPAND, RESULT_D_EXPAND);
    check_gradient(b, &k, inputs, &r, INPUT_EXPAND_BIAS, RESULT_D_EXPAND_BIAS);
    check_gradient(b, &k, inputs, &r, INPUT_CONTRACT, RESULT_D_CONTRACT);
    check_gradient(b, &k, inputs, &r, INPUT_CONTRACT_BIAS, RESULT_D_CONTRACT_BIAS);
    block_results_free(&r);
    block_inputs_free(inputs);
    b->table->close(b);
}

Test(gradients, one_choice) { check_gradients(block_make(9, 5, 4, 1, 4.0, 6), 1, false); }
Test(gradients, one_choice_dropping) { check_gradients(block_make(9, 5, 4, 1, 0.7, 6), 1, true); }
Test(gradients, two_choices) { check_gradients(block_make(9, 5, 4, 2, 2.0, 6), 1, false); }
Test(gradients, two_choices_dropping) { check_gradients(block_make(9, 5, 4, 2, 0.7, 6), 1, true); }
Test(gradients, as_many_choices_as_experts) { check_gradients(block_make(7, 5, 3, 3, 1.0, 4), 1, false); }
Test(gradients, one_expert) { check_gradients(block_make(7, 5, 1, 1, 0.5, 4), 1, true); }

/* ---- the cpu backend against the reference ---- */

static const enum block_result decisions[] = {RESULT_EXPERT, RESULT_PLACE, RESULT_LOAD, RESULT_TAKEN};

static void expect_same_decisions(const struct block *k, const struct block_results *got, const struct block_results *expected)
{
    for (size_t i = 0; i < sizeof decisions / sizeof *decisions; i++)
        cr_expect_eq(memcmp(got->values[decisions[i]], expected->values[decisions[i]],
                            (size_t)block_result_size(k, decisions[i]) * sizeof(double)), 0,
                     "%s differ", block_result_name(decisions[i]));
}

static void expect_close(const struct block *k, const struct block_results *got, const struct block_results *expected, double tolerance,
                         const char *label)
{
    expect_same_decisions(k, got, expected);
    for (int i = 0; i < RESULTS; i++) {
        double error = relative_error(got->values[i], expected->values[i], block_result_size(k, (enum block_result)i));
        cr_expect_lt(error, tolerance, "%s of %d rows of %d, %d of %d experts, capacity %d: relative error %g (%s)",
                     block_result_name((enum block_result)i), (int)k->router.rows, (int)k->router.width, (int)k->router.choices,
                     (int)k->router.experts, (int)k->router.capacity, error, label);
    }
}

/* Tails of lanes, of the router's blocks of rows and of its strips of columns; experts without rows; more than 16 experts. */
static void compare_all(struct backend *cpu, double tolerance)
{
    const struct block blocks[] = {
        block_make(130, 65, 8, 2, 1.25, 33), block_make(130, 768, 5, 1, 1.0, 7), block_make(3, 7, 8, 2, 1.0, 16),
        block_make(1, 1, 1, 1, 1.0, 1),      block_make(49, 63, 37, 4, 0.5, 5),  block_make(257, 16, 4, 4, 1.0, 16),
    };
    struct backend *reference = open_backend("reference", DTYPE_F64, 1, NULL);
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) {
        double *inputs[INPUTS];
        struct block_results got, expected;
        block_inputs_make(&blocks[i], inputs, 5 + i);
        block_run(cpu, &blocks[i], inputs, &got);
        block_run(reference, &blocks[i], inputs, &expected);
        expect_close(&blocks[i], &got, &expected, tolerance, cpu->table->signature(cpu));
        block_results_free(&got);
        block_results_free(&expected);
        block_inputs_free(inputs);
    }
    reference->table->close(reference);
    cpu->table->close(cpu);
}

Test(cpu, float32_baseline) { compare_all(open_backend("cpu", DTYPE_F32, 2, "baseline"), 1e-5); }
Test(cpu, float32_v3) { compare_all(open_backend("cpu", DTYPE_F32, 2, "v3"), 1e-5); }
Test(cpu, float32_auto) { compare_all(open_backend("cpu", DTYPE_F32, 2, "auto"), 1e-5); }
Test(cpu, bfloat16_baseline) { compare_all(open_backend("cpu", DTYPE_BF16, 2, "baseline"), 1e-2); }
Test(cpu, bfloat16_auto) { compare_all(open_backend("cpu", DTYPE_BF16, 2, "auto"), 1e-2); }
Test(cuda, float32) { compare_all(open_cuda(DTYPE_F32), 1e-5); }
Test(cuda, bfloat16) { compare_all(open_cuda(DTYPE_BF16), 1e-2); }
Test(reference, float32_is_near_float64) { compare_all(open_backend("reference", DTYPE_F32, 1, NULL), 1e-6); }

/* Experts that give back what they get: the library's products may depend on the number of threads. */
static void compare_threads(enum dtype act, struct block k)
{
    struct backend *one = open_backend("cpu", act, 1, NULL), *three = open_backend("cpu", act, 3, NULL);
    double *inputs[INPUTS];
    struct block_results a, b;
    block_inputs_make(&k, inputs, 3);
    block_run(one, &k, inputs, &a);
    block_run(three, &k, inputs, &b);
    for (int i = 0; i < RESULTS; i++)
        cr_expect_eq(memcmp(a.values[i], b.values[i], (size_t)block_result_size(&k, (enum block_result)i) * sizeof(double)), 0,
                     "%s: bits differ between 1 and 3 threads (%s)", block_result_name((enum block_result)i), dtype_name(act));
    block_results_free(&a);
    block_results_free(&b);
    block_inputs_free(inputs);
    one->table->close(one);
    three->table->close(three);
}

Test(cpu, bits_do_not_depend_on_threads)
{
    compare_threads(DTYPE_F32, block_make(301, 193, 12, 2, 1.1, 0));
    compare_threads(DTYPE_F32, block_make(301, 193, 12, 1, 1.1, 0));
    compare_threads(DTYPE_BF16, block_make(301, 193, 12, 2, 1.1, 0));
}

/* ---- the experts' MLPs ---- */

/* All rows choose one expert: the others' gradients are zeros, not what was there. */
Test(experts, those_without_rows_get_no_gradient)
{
    for (int i = 0; i < BACKENDS; i++) {
        struct backend *b = open_backend(backends[i].name, backends[i].act, 2, NULL);
        struct block k = block_make(12, 5, 3, 1, 0.5, 4);
        double *inputs[INPUTS];
        struct block_results r;
        block_inputs_make(&k, inputs, 2);
        for (int row = 1; row < 12; row++)
            memcpy(inputs[INPUT_X] + 5 * row, inputs[INPUT_X], 5 * sizeof(double));
        block_run(b, &k, inputs, &r);
        int chosen = (int)r.values[RESULT_EXPERT][0];
        for (int e = 0; e < 3; e++) {
            double sum = 0;
            for (int j = 0; j < 20; j++)
                sum += fabs(r.values[RESULT_D_EXPAND][20 * e + j]) + fabs(r.values[RESULT_D_CONTRACT][20 * e + j]);
            for (int j = 0; j < 4; j++)
                sum += fabs(r.values[RESULT_D_EXPAND_BIAS][4 * e + j]);
            for (int j = 0; j < 5; j++)
                sum += fabs(r.values[RESULT_D_CONTRACT_BIAS][5 * e + j]);
            cr_expect(e == chosen ? sum > 0 : sum == 0, "%s: expert %d, the chosen one being %d, has gradients of %g",
                      backends[i].name, e, chosen, sum);
        }
        block_results_free(&r);
        block_inputs_free(inputs);
        b->table->close(b);
    }
}

/* Products over whole capacities and over the rows that are there give the same values: unused places are zeros. */
Test(experts, whole_capacities_give_the_same)
{
    for (int i = 0; i < BACKENDS; i++) {
        struct backend *b = open_backend(backends[i].name, backends[i].act, 2, NULL);
        struct block counted = block_make(90, 33, 6, 2, 1.5, 17), whole = counted;
        double *inputs[INPUTS];
        struct block_results r, w;
        whole.whole = true;
        block_inputs_make(&counted, inputs, 4);
        block_run(b, &counted, inputs, &r);
        block_run(b, &whole, inputs, &w);
        expect_close(&counted, &w, &r, b->act == DTYPE_BF16 ? 1e-2 : 1e-6, backends[i].name);
        block_results_free(&r);
        block_results_free(&w);
        block_inputs_free(inputs);
        b->table->close(b);
    }
}

enum { ALL = 4, CAPACITY = 9, WIDTH = 5, HIDDEN = 6, SOURCES = 2, ROW_VALUES = ALL * CAPACITY * WIDTH, WEIGHTS = WIDTH * HIDDEN };
static const int32_t source_counts[SOURCES][ALL] = {{9, 0, 4, 1}, {3, 7, 0, 9}};

/* Rows of all sources and experts as [SOURCES][ALL][CAPACITY][WIDTH], zeros behind the counts; the weights of all experts. */
struct mlp_case {
    struct backend *b;
    double *x, *dy, *expand, *expand_bias, *contract, *contract_bias;
};

/* Gradients of COUNT experts: expand, contract, then both biases. */
enum { OF_EXPERT = 2 * WEIGHTS + HIDDEN + WIDTH };
struct mlp_results {
    double y[SOURCES * ROW_VALUES], dx[SOURCES * ROW_VALUES], gradients[ALL * OF_EXPERT];
};

static double *packed_values(uint64_t seed)
{
    double *x = random_values(SOURCES * ROW_VALUES, seed, 1);
    for (int i = 0; i < SOURCES * ROW_VALUES; i++) {
        int expert = i / (CAPACITY * WIDTH), row = i / WIDTH % CAPACITY;
        if (row >= source_counts[expert / ALL][expert % ALL])
            x[i] = 0;
    }
    return x;
}

static struct mlp_case mlp_case_make(struct backend *b)
{
    return (struct mlp_case){
        b, packed_values(1), packed_values(2), random_values(ALL * WEIGHTS, 3, 0.5), random_values(ALL * HIDDEN, 4, 0.5),
        random_values(ALL * WEIGHTS, 5, 0.5), random_values(ALL * WIDTH, 6, 0.5),
    };
}

static void mlp_case_free(struct mlp_case *c)
{
    double *arrays[] = {c->x, c->dy, c->expand, c->expand_bias, c->contract, c->contract_bias};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
}

static void take_values(struct backend *b, enum dtype type, void *p, double *to, int64_t n)
{
    double *values = array_values(b, type, p, n);
    memcpy(to, values, (size_t)n * sizeof *to);
    free(values);
    free_array(b, type, p, n);
}

/* One source's rows through experts FIRST..FIRST+COUNT-1, its gradients added to G if ADD. */
static void run_source(const struct mlp_case *c, struct expert_mlp *mlp, const struct expert_weights *w, const struct expert_gradients *g,
                       int source, int first, int count, bool add, struct mlp_results *r)
{
    struct backend *b = c->b;
    int64_t at = (source * ALL + first) * CAPACITY * WIDTH, n = (int64_t)count * CAPACITY * WIDTH, inner = (int64_t)count * CAPACITY * HIDDEN;
    void *x = make_array(b, b->act, c->x + at, n), *dy = make_array(b, b->act, c->dy + at, n);
    void *y = make_array(b, b->act, NULL, n), *dx = make_array(b, b->act, NULL, n);
    void *h = make_array(b, b->act, NULL, inner), *active = make_array(b, b->act, NULL, inner), *dh = make_array(b, b->act, NULL, inner);
    const int32_t *counts = source_counts[source] + first;
    expert_mlp_forward(mlp, y, h, active, x, w, counts);
    expert_mlp_backward_input(mlp, dx, dh, dy, h, w, counts);
    expert_mlp_backward_weight(mlp, g, dh, dy, x, active, counts, add);
    take_values(b, b->act, y, r->y + at, n);
    take_values(b, b->act, dx, r->dx + at, n);
    free_array(b, b->act, x, n);
    free_array(b, b->act, dy, n);
    free_array(b, b->act, h, inner);
    free_array(b, b->act, active, inner);
    free_array(b, b->act, dh, inner);
}

/* Sources FROM to UNTIL - 1 through experts FIRST..FIRST+COUNT-1. */
static void run_slice(const struct mlp_case *c, int from, int until, int first, int count, struct mlp_results *r)
{
    struct backend *b = c->b;
    struct expert_mlp_desc desc = {.experts = count, .capacity = CAPACITY, .width = WIDTH, .hidden = HIDDEN};
    int64_t n = (int64_t)count * WEIGHTS;
    double *values[4] = {c->expand + first * WEIGHTS, c->contract + first * WEIGHTS, c->expand_bias + first * HIDDEN,
                         c->contract_bias + first * WIDTH};
    const int64_t sizes[4] = {n, n, (int64_t)count * HIDDEN, (int64_t)count * WIDTH}, whole[4] = {WEIGHTS, WEIGHTS, HIDDEN, WIDTH};
    void *w[4], *g[4];
    for (int i = 0; i < 4; i++) {
        w[i] = make_array(b, b->act, values[i], sizes[i]);
        g[i] = make_array(b, b->acc, NULL, sizes[i]);
    }
    struct expert_weights weights = {w[0], w[2], w[1], w[3]};
    struct expert_gradients gradients = {g[0], g[2], g[1], g[3]};
    struct expert_mlp *mlp;
    cr_assert_eq(expert_mlp_create(b, &desc, &mlp), CAIRN_OK, "%s", cairn_err_message());
    for (int source = from; source < until; source++)
        run_source(c, mlp, &weights, &gradients, source, first, count, source > from, r);
    expert_mlp_destroy(mlp);
    double *to = r->gradients;
    for (int i = 0; i < 4; to += ALL * whole[i], i++) {
        take_values(b, b->acc, g[i], to + first * whole[i], sizes[i]);
        free_array(b, b->act, w[i], sizes[i]);
    }
}

/* Rows that a count holds; the others are undefined. */
static void expect_same_rows(const double *got, const double *expected, const char *what)
{
    for (int i = 0; i < SOURCES * ROW_VALUES; i++) {
        int expert = i / (CAPACITY * WIDTH), row = i / WIDTH % CAPACITY;
        if (row < source_counts[expert / ALL][expert % ALL])
            cr_expect(got[i] == expected[i], "%s: expert %d, row %d: %g and %g", what, expert, row, got[i], expected[i]);
    }
}

/* Experts divided among ranks, 1 and 3, give the bits of all on one rank; gradients of sources one by one sum to those added up. */
static void check_slices(struct backend *b)
{
    const char *name = b->table->name;
    struct mlp_case c = mlp_case_make(b);
    struct mlp_results *whole = calloc(4, sizeof *whole), *slices = whole + 1, *one = whole + 2, *two = whole + 3;
    run_slice(&c, 0, SOURCES, 0, ALL, whole);
    run_slice(&c, 0, SOURCES, 0, 1, slices);
    run_slice(&c, 0, SOURCES, 1, 3, slices);
    expect_same_rows(slices->y, whole->y, "y");
    expect_same_rows(slices->dx, whole->dx, "dx");
    cr_expect_eq(memcmp(slices->gradients, whole->gradients, sizeof whole->gradients), 0, "%s: gradients of slices differ", name);
    run_slice(&c, 0, 1, 0, ALL, one);
    run_slice(&c, 1, 2, 0, ALL, two);
    for (int i = 0; i < ALL * OF_EXPERT; i++)
        one->gradients[i] += two->gradients[i];
    cr_expect_lt(relative_error(one->gradients, whole->gradients, ALL * OF_EXPERT), 1e-6, "%s: sources do not add up", name);
    free(whole);
    c.b->table->close(c.b);
    mlp_case_free(&c);
}

Test(experts, slices_give_the_bits_of_the_whole)
{
    check_slices(open_backend("reference", DTYPE_F64, 1, NULL));
    check_slices(open_backend("cpu", DTYPE_F32, 1, NULL));
    check_slices(open_backend("cpu", DTYPE_BF16, 1, NULL));
}

Test(experts, slices_give_the_bits_of_the_whole_on_a_gpu)
{
    check_slices(open_cuda(DTYPE_F32));
    check_slices(open_cuda(DTYPE_BF16));
}
