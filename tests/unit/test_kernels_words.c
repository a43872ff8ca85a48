/* The classifier over slices of the vocabulary, unevenly split, against the whole. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "kernels_support.h"

enum { SLICES_MAX = 3 };

/* Slice s has the words firsts[s]..firsts[s + 1] - 1. */
struct split {
    int64_t rows, width;
    int slices;
    int64_t firsts[SLICES_MAX + 1];
};

static int64_t vocabulary_of(const struct split *s)
{
    return s->firsts[s->slices];
}

struct arrays {
    const struct split *split;
    double *x_values, *weight_values;
    int32_t *targets;
    void *x, *weight, *losses;
    void *dx[SLICES_MAX], *d_weight; /* dx of each slice; d_weight of all, one after the other */
};

static struct arrays arrays_make(struct backend *b, const struct split *s)
{
    int64_t n = s->rows * s->width, of_weight = vocabulary_of(s) * s->width;
    struct arrays a = {.split = s, .x_values = random_values(n, 1, 1), .weight_values = random_values(of_weight, 2, 1)};
    int32_t *targets = malloc((size_t)s->rows * sizeof *targets);
    for (int64_t r = 0; r < s->rows; r++)
        targets[r] = (int32_t)((r * r * 7 + 3 * r) % vocabulary_of(s));
    a.targets = make_integers(b, targets, s->rows);
    free(targets);
    a.x = make_array(b, b->act, a.x_values, n);
    a.weight = make_array(b, b->act, a.weight_values, of_weight);
    a.losses = make_array(b, b->acc, NULL, s->rows);
    for (int i = 0; i < SLICES_MAX; i++)
        a.dx[i] = make_array(b, b->act, NULL, n);
    a.d_weight = make_array(b, b->acc, NULL, of_weight);
    return a;
}

static void arrays_free(struct backend *b, struct arrays *a)
{
    const struct split *s = a->split;
    int64_t n = s->rows * s->width, of_weight = vocabulary_of(s) * s->width;
    free_array(b, b->act, a->x, n);
    free_array(b, b->act, a->weight, of_weight);
    free_array(b, b->acc, a->losses, s->rows);
    for (int i = 0; i < SLICES_MAX; i++)
        free_array(b, b->act, a->dx[i], n);
    free_array(b, b->acc, a->d_weight, of_weight);
    free_array(b, DTYPE_I32, a->targets, s->rows);
    free(a->x_values);
    free(a->weight_values);
}

static void *at(enum dtype type, void *p, int64_t element)
{
    return (char *)p + array_bytes(type, element);
}

struct slice {
    struct classifier *classifier;
    void *weight, *d_weight;
};

static void open_slices(struct backend *b, const struct arrays *a, struct slice *slices)
{
    const struct split *s = a->split;
    int64_t most = 0;
    for (int i = 0; i < s->slices; i++)
        most = s->firsts[i + 1] - s->firsts[i] > most ? s->firsts[i + 1] - s->firsts[i] : most;
    for (int i = 0; i < s->slices; i++) {
        struct classifier_desc desc = {.rows = s->rows, .width = s->width, .vocabulary = s->firsts[i + 1] - s->firsts[i],
                                       .word_first = s->firsts[i], .vocabulary_most = most};
        cr_assert_eq(b->table->classifier_create(b, &desc, &slices[i].classifier), CAIRN_OK, "%s", cairn_err_message());
        slices[i].weight = at(b->act, a->weight, s->firsts[i] * s->width);
        slices[i].d_weight = at(b->acc, a->d_weight, s->firsts[i] * s->width);
    }
}

/* What ranks do, each with its slice, by turns. GRADIENTS false: losses alone. */
static void run_slices(struct backend *b, struct arrays *a, bool gradients)
{
    const struct split *s = a->split;
    const struct backend_table *t = b->table;
    struct slice slices[SLICES_MAX];
    int64_t most, rows;
    free_array(b, b->acc, a->losses, s->rows);
    a->losses = make_array(b, b->acc, NULL, s->rows);
    open_slices(b, a, slices);
    int64_t blocks = t->classifier_blocks(slices[0].classifier, &most);
    void *stats = make_array(b, b->acc, NULL, SLICES_MAX * 3 * most), *joined = make_array(b, b->acc, NULL, 2 * most);
    for (int64_t block = 0; block < blocks; block++) {
        rows = block == blocks - 1 ? s->rows - block * most : most;
        for (int i = 0; i < s->slices; i++) {
            cr_assert_eq(t->classifier_blocks(slices[i].classifier, &most), blocks);
            t->classifier_block_logits(slices[i].classifier, block, at(b->acc, stats, 3 * rows * i), a->x, slices[i].weight,
                                       a->targets, gradients);
        }
        t->classifier_join(b, joined, stats, s->slices, rows);
        for (int i = 0; i < s->slices; i++)
            t->classifier_block_finish(slices[i].classifier, block, a->losses, gradients ? a->dx[i] : NULL, slices[i].d_weight, joined,
                                       a->x, slices[i].weight, a->targets, 1.0 / 64);
    }
    for (int i = 0; i < s->slices; i++)
        t->classifier_destroy(slices[i].classifier);
    free_array(b, b->acc, stats, SLICES_MAX * 3 * most);
    free_array(b, b->acc, joined, 2 * most);
}

static void run_whole(struct backend *b, struct arrays *a)
{
    const struct split *s = a->split;
    struct classifier_desc desc = {.rows = s->rows, .width = s->width, .vocabulary = vocabulary_of(s)};
    struct classifier *c;
    cr_assert_eq(b->table->classifier_create(b, &desc, &c), CAIRN_OK, "%s", cairn_err_message());
    b->table->classifier_loss_and_gradients(c, a->losses, a->dx[0], a->d_weight, a->x, a->weight, a->targets, 1.0 / 64);
    b->table->classifier_destroy(c);
}

/* Losses, dx and d_weight; dx added over slices. */
struct results {
    int64_t sizes[3];
    double *values[3];
};

static struct results results_of(struct backend *b, const struct arrays *a)
{
    const struct split *s = a->split;
    struct results r = {{s->rows, s->rows * s->width, vocabulary_of(s) * s->width}, {NULL}};
    r.values[0] = array_values(b, b->acc, a->losses, r.sizes[0]);
    r.values[1] = array_values(b, b->act, a->dx[0], r.sizes[1]);
    for (int i = 1; i < s->slices; i++) {
        double *more = array_values(b, b->act, a->dx[i], r.sizes[1]);
        for (int64_t e = 0; e < r.sizes[1]; e++)
            r.values[1][e] += more[e];
        free(more);
    }
    r.values[2] = array_values(b, b->acc, a->d_weight, r.sizes[2]);
    return r;
}

static void compare(const struct results *got, const struct results *expected, double tolerance, const struct backend *b)
{
    static const char *const names[] = {"losses", "dx", "d_weight"};
    for (int i = 0; i < 3; i++) {
        double error = relative_error(got->values[i], expected->values[i], got->sizes[i]);
        cr_expect(tolerance == 0 ? error == 0 : error < tolerance, "%s: relative error %g (%s, %s)", names[i], error, b->table->name,
                  dtype_name(b->act));
    }
}

static void results_free(struct results *r)
{
    for (int i = 0; i < 3; i++)
        free(r->values[i]);
}

/* Slices of SPLIT against the whole, by gradients and by losses alone. */
static void check_split_on(struct backend *b, struct split split, double tolerance)
{
    struct split one = {.rows = split.rows, .width = split.width, .slices = 1, .firsts = {0, vocabulary_of(&split)}};
    struct arrays of_whole = arrays_make(b, &one), of_slices = arrays_make(b, &split);
    run_whole(b, &of_whole);
    run_slices(b, &of_slices, true);
    struct results whole = results_of(b, &of_whole), slices = results_of(b, &of_slices);
    compare(&slices, &whole, tolerance, b);
    run_slices(b, &of_slices, false);
    double *losses = array_values(b, b->acc, of_slices.losses, split.rows);
    cr_expect_eq(memcmp(losses, slices.values[0], (size_t)split.rows * sizeof *losses), 0, "losses without gradients differ");
    free(losses);
    results_free(&whole);
    results_free(&slices);
    arrays_free(b, &of_whole);
    arrays_free(b, &of_slices);
    b->table->close(b);
}

static void check_split(const char *name, enum dtype act, struct split split, double tolerance)
{
    check_split_on(open_backend(name, act, 2, NULL), split, tolerance);
}

static const struct split thirds = {.rows = 37, .width = 65, .slices = 3, .firsts = {0, 100, 101, 257}};
static const struct split one_slice = {.rows = 37, .width = 65, .slices = 1, .firsts = {0, 257}};
/* Several blocks of rows, and parts of the vocabulary. */
static const struct split large = {.rows = 1100, .width = 33, .slices = 3, .firsts = {0, 1100, 1900, 2503}};

Test(words, of_one_slice_are_the_whole_s_bits)
{
    check_split("reference", DTYPE_F64, one_slice, 0);
    check_split("cpu", DTYPE_F32, one_slice, 0);
    check_split("cpu", DTYPE_BF16, one_slice, 0);
    check_split("reference", DTYPE_F32, one_slice, 1e-6); /* joins in float32 what the whole keeps in float64 */
}

Test(words, of_three_slices_give_the_whole)
{
    check_split("reference", DTYPE_F64, thirds, 1e-12);
    check_split("reference", DTYPE_F32, thirds, 1e-6);
    check_split("cpu", DTYPE_F32, thirds, 1e-6);
    check_split("cpu", DTYPE_BF16, thirds, 1e-2);
    check_split("cpu", DTYPE_F32, large, 1e-6);
}

Test(words, on_a_gpu)
{
    check_split_on(open_cuda(DTYPE_F32), one_slice, 0);
    check_split_on(open_cuda(DTYPE_BF16), one_slice, 0);
    check_split_on(open_cuda(DTYPE_F32), thirds, 1e-6);
    check_split_on(open_cuda(DTYPE_BF16), thirds, 1e-2);
    check_split_on(open_cuda(DTYPE_F32), large, 1e-6);
}

/* Losses by slices, their sum weighted by 1 / 64, against central differences of x and weight. */
static double *differences(struct backend *b, struct arrays *a, void *input, int64_t n)
{
    double *expected = calloc((size_t)n, sizeof *expected), *x = input;
    for (int64_t i = 0; i < n; i++) {
        double value = x[i];
        for (int side = -1; side <= 1; side += 2) {
            x[i] = value + side * 1e-5;
            run_slices(b, a, false);
            for (int64_t r = 0; r < a->split->rows; r++)
                expected[i] += side * ((double *)a->losses)[r] / 64 / 2e-5;
        }
        x[i] = value;
    }
    return expected;
}

Test(words, gradients)
{
    static const struct split split = {.rows = 19, .width = 3, .slices = 3, .firsts = {0, 3, 4, 9}};
    struct backend *b = open_backend("reference", DTYPE_F64, 1, NULL);
    struct arrays a = arrays_make(b, &split);
    run_slices(b, &a, true);
    struct results got = results_of(b, &a);
    double *by_x = differences(b, &a, a.x, got.sizes[1]), *by_weight = differences(b, &a, a.weight, got.sizes[2]);
    cr_expect_lt(relative_error(got.values[1], by_x, got.sizes[1]), 1e-7);
    cr_expect_lt(relative_error(got.values[2], by_weight, got.sizes[2]), 1e-7);
    free(by_x);
    free(by_weight);
    results_free(&got);
    arrays_free(b, &a);
    b->table->close(b);
}
