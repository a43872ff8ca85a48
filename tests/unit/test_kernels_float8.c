/* Numbers of 8 bits (kernels/float8.h), and products of what is rounded to them: cuda against the reference, and against products of what is not
 * rounded. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/float8.h"
#include "kernels_support.h"

static const enum float8 types[] = {FLOAT8_E4M3, FLOAT8_E5M2};

/* ---- numbers ---- */

/* What the paper's first table says of both types. */
Test(float8, limits)
{
    cr_expect_eq(float8_to(FLOAT8_E4M3, 0x7e), 448);
    cr_expect_eq(float8_to(FLOAT8_E4M3, 0x08), 0x1p-6); /* the least normal number, and the least of all */
    cr_expect_eq(float8_to(FLOAT8_E4M3, 0x01), 0x1p-9);
    cr_expect_eq(float8_to(FLOAT8_E5M2, 0x7b), 57344);
    cr_expect_eq(float8_to(FLOAT8_E5M2, 0x04), 0x1p-14);
    cr_expect_eq(float8_to(FLOAT8_E5M2, 0x01), 0x1p-16);
    cr_expect_eq(float8_to(FLOAT8_E5M2, 0x7c), (double)INFINITY);
    cr_expect_eq(float8_to(FLOAT8_E5M2, 0xfc), -(double)INFINITY);
    for (int bits = 0x7d; bits <= 0x7f; bits++)
        cr_expect(isnan(float8_to(FLOAT8_E5M2, (uint8_t)bits)));
    cr_expect(isnan(float8_to(FLOAT8_E4M3, 0x7f)) && isnan(float8_to(FLOAT8_E4M3, 0xff)));
    for (int t = 0; t < 2; t++) {
        cr_expect_eq(float8_to(types[t], float8_most_bits(types[t])), float8_most(types[t]));
        cr_expect_eq(float8_from(types[t], (double)INFINITY), float8_most_bits(types[t]), "infinities become the largest finite number");
        cr_expect_eq(float8_from(types[t], -1e300), 0x80 | float8_most_bits(types[t]));
        cr_expect_eq(float8_from(types[t], (double)NAN), FLOAT8_NAN);
        cr_expect_eq(float8_from(types[t], -0.0), 0x80);
    }
}

/* Each number is itself again; between two neighbours the nearer one is taken, and half way the even one. */
static void check_neighbours(enum float8 type, uint8_t bits)
{
    double low = float8_to(type, bits), high = float8_to(type, (uint8_t)(bits + 1)), middle = (low + high) / 2;
    uint8_t even = bits % 2 == 0 ? bits : (uint8_t)(bits + 1);
    cr_assert_eq(float8_from(type, low), bits);
    cr_assert_eq(float8_from(type, -low), 0x80 | bits);
    cr_assert_lt(low, high);
    cr_assert_eq(float8_from(type, middle), even, "half way from %g to %g", low, high);
    cr_assert_eq(float8_from(type, -middle), 0x80 | even);
    cr_assert_eq(float8_from(type, nextafter(middle, low)), bits);
    cr_assert_eq(float8_from(type, nextafter(middle, high)), bits + 1);
}

Test(float8, rounds_to_the_nearest)
{
    for (int t = 0; t < 2; t++)
        for (int bits = 0; bits < float8_most_bits(types[t]); bits++)
            check_neighbours(types[t], (uint8_t)bits);
}

Test(float8, scales_are_the_greatest_powers_of_two)
{
    for (int t = 0; t < 2; t++) {
        double most = float8_most(types[t]);
        for (double x = 0x1p-40; x < 0x1p120; x *= 1.37) {
            double scale = float8_scale(types[t], x);
            int exponent;
            cr_assert_eq(frexp(scale, &exponent), 0.5, "%g is no power of two", scale);
            cr_assert(x * scale <= most && x * scale > most / 2, "%g times %g", x, scale);
        }
        cr_expect_eq(float8_scale(types[t], most), 1);
        cr_expect_eq(float8_scale(types[t], nextafter(most, INFINITY)), 0.5);
        cr_expect_eq(float8_scale(types[t], 0), 1);
        cr_expect_eq(float8_scale(types[t], 1e-300), 0x1p63);
        cr_expect(isnan(float8_scale(types[t], (double)INFINITY)) && isnan(float8_scale(types[t], (double)NAN)));
    }
}

/* ---- products ---- */

struct arrays {
    struct matmul_desc desc;
    double *a, *b, *bias, *c, *inner; /* what they hold before */
};

/* Rows of some hundred are more than a block of each kernel takes; others leave a part of one empty. */
static const int64_t shapes[][3] = {{16, 16, 16}, {48, 80, 112}, {208, 16, 16}, {16, 336, 48}, {80, 48, 656}, {144, 272, 176}};
enum { SHAPES = sizeof shapes / sizeof *shapes, FORMS = 6 };

/* A linear layer's products, plain and with what may go with them. */
static const struct matmul_desc forms[FORMS] = {
    {.transpose_b = true, .bias = true, .float8_a = FLOAT8_E4M3, .float8_b = FLOAT8_E4M3},
    {.float8_a = FLOAT8_E5M2, .float8_b = FLOAT8_E4M3},
    {.transpose_a = true, .c_is_acc = true, .float8_a = FLOAT8_E5M2, .float8_b = FLOAT8_E4M3},
    {.accumulate = true, .bias = true, .float8_a = FLOAT8_E5M2, .float8_b = FLOAT8_E4M3},
    {.transpose_a = true, .transpose_b = true, .c_is_acc = true, .accumulate = true, .bias = true, .float8_a = FLOAT8_E4M3, .float8_b = FLOAT8_E5M2},
    {.transpose_a = true, .float8_a = FLOAT8_E4M3, .float8_b = FLOAT8_E4M3},
};

static struct arrays make_arrays(const int64_t *shape, struct matmul_desc desc)
{
    desc.m = shape[0];
    desc.n = shape[1];
    desc.k = shape[2];
    return (struct arrays){desc, random_values(desc.m * desc.k, 1, 3), random_values(desc.k * desc.n, 2, 0.02), random_values(desc.n, 3, 1),
                           desc.accumulate ? random_values(desc.m * desc.n, 4, 1) : NULL, random_values(desc.m * desc.n, 5, 1)};
}

static void free_arrays(struct arrays *x)
{
    double *all[] = {x->a, x->b, x->bias, x->c, x->inner};
    for (int i = 0; i < 5; i++)
        free(all[i]);
}

/* Skips the test where the GPU is an older one. */
static struct backend *open_float8(void)
{
    const struct backend_options options = {.act = DTYPE_BF16, .float8 = true};
    struct backend *b = open_cuda(DTYPE_BF16);
    b->table->close(b);
    if (backend_open("cuda", &options, &b) != CAIRN_OK)
        cr_skip_test("%s", cairn_err_message());
    return b;
}

static struct matmul *plan(struct backend *b, const struct matmul_desc *d)
{
    struct matmul *matmul;
    cr_assert_eq(b->table->matmul_create(b, d, &matmul), CAIRN_OK, "%s", cairn_err_message());
    return matmul;
}

/* The result, freed by free; in *INNER, where the product goes through GELU, what it goes through. */
static double *run(struct backend *b, struct matmul *matmul, const struct arrays *x, double **inner)
{
    const struct matmul_desc *d = &x->desc;
    int64_t n = d->m * d->n;
    enum dtype type = d->c_is_acc ? b->acc : b->act;
    void *a = make_array(b, b->act, x->a, d->m * d->k), *b2 = make_array(b, b->act, x->b, d->k * d->n), *bias = make_array(b, b->act, x->bias, d->n);
    void *c = make_array(b, type, x->c, n), *middle = make_array(b, b->act, d->gelu == MATMUL_D_GELU ? x->inner : NULL, n);
    if (d->gelu == MATMUL_PLAIN)
        b->table->matmul_run(matmul, c, a, b2, d->bias ? bias : NULL);
    else
        b->table->matmul_run_gelu(matmul, c, middle, a, b2, d->bias ? bias : NULL);
    double *values = array_values(b, type, c, n);
    if (inner)
        *inner = array_values(b, b->act, middle, n);
    cr_assert_eq(b->table->finish(b), CAIRN_OK, "%s", cairn_err_message());
    free_array(b, b->act, a, d->m * d->k);
    free_array(b, b->act, b2, d->k * d->n);
    free_array(b, b->act, bias, d->n);
    free_array(b, type, c, n);
    free_array(b, b->act, middle, n);
    return values;
}

static double *multiply(struct backend *b, const struct arrays *x, double **inner)
{
    struct matmul *matmul = plan(b, &x->desc);
    double *values = run(b, matmul, x, inner);
    b->table->matmul_destroy(matmul);
    return values;
}

/* What rounding may add to a sum of K products, as a share of the sum of their sizes: half a unit in each operand's last place, a normal
 * number's size being at most 2^-(bits + 1) of it. */
static double most_error(const struct matmul_desc *d)
{
    double a = ldexp(1, -float8_fraction_bits(d->float8_a) - 1), b = ldexp(1, -float8_fraction_bits(d->float8_b) - 1);
    return a + b + a * b;
}

/* As above for numbers below the normal ones, whose error is half the least of all: that of an operand whose greatest is GREATEST. */
static double least_error(enum float8 type, const double *x, int64_t n)
{
    double greatest = 0;
    for (int64_t i = 0; i < n; i++)
        greatest = fmax(greatest, fabs(x[i]));
    return float8_to(type, 1) / 2 / float8_scale(type, greatest);
}

/* Every element of the reference's rounded product is as near to the unrounded one as the types promise. */
static void check_bound(const struct arrays *x, const double *rounded, const double *exact)
{
    const struct matmul_desc *d = &x->desc;
    double least_a = least_error(d->float8_a, x->a, d->m * d->k), least_b = least_error(d->float8_b, x->b, d->k * d->n), furthest = 0;
    for (int64_t i = 0; i < d->m; i++)
        for (int64_t j = 0; j < d->n; j++) {
            double bound = 0;
            for (int64_t l = 0; l < d->k; l++) {
                double p = fabs(x->a[d->transpose_a ? l * d->m + i : i * d->k + l]), q = fabs(x->b[d->transpose_b ? j * d->k + l : l * d->n + j]);
                bound += p * q * most_error(d) + 1.2 * (p * least_b + q * least_a) + least_a * least_b;
            }
            double error = fabs(rounded[i * d->n + j] - exact[i * d->n + j]);
            furthest = fmax(furthest, error);
            cr_assert_leq(error, bound * (1 + 1e-12), "element %d, %d", (int)i, (int)j);
        }
    cr_assert_gt(furthest, 0, "nothing was rounded");
}

Test(float8, reference_is_within_the_bound)
{
    struct backend *reference = open_backend("reference", DTYPE_F64, 1, NULL);
    for (int i = 0; i < SHAPES * FORMS; i++) {
        struct arrays x = make_arrays(shapes[i / FORMS], forms[i % FORMS]), plain = x;
        plain.desc.float8_a = plain.desc.float8_b = FLOAT8_NONE;
        double *rounded = multiply(reference, &x, NULL), *exact = multiply(reference, &plain, NULL);
        check_bound(&x, rounded, exact);
        free(rounded);
        free(exact);
        free_arrays(&x);
    }
    reference->table->close(reference);
}

static void compare(struct backend *cuda, struct backend *reference, const struct arrays *x, double tolerance)
{
    const struct matmul_desc *d = &x->desc;
    double *inner, *expected_inner, *got = multiply(cuda, x, &inner), *expected = multiply(reference, x, &expected_inner);
    double error = relative_error(got, expected, d->m * d->n);
    cr_expect_lt(error, tolerance, "%d x %d x %d, transposed %d %d: relative error %g", (int)d->m, (int)d->n, (int)d->k, d->transpose_a,
                 d->transpose_b, error);
    if (d->gelu == MATMUL_GELU)
        cr_expect_lt(relative_error(inner, expected_inner, d->m * d->n), tolerance, "what goes through GELU");
    free(got);
    free(expected);
    free(inner);
    free(expected_inner);
}

static bool is_emulated(struct backend *cuda)
{
    return strstr(cuda->table->signature(cuda), "CUDA on the processor") != NULL;
}

/* Both round to the same numbers of 8 bits, so that what is left is the sum's rounding: to bfloat16 at most 2^-9 of each, or float32's of
 * gradients of weights, which fast sums of the emulation would not keep. A GPU's tensor cores keep about 14 bits of any sum for some while
 * (DeepSeek-V3's report, arXiv 2412.19437). */
static double tolerance_of(struct backend *cuda, const struct matmul_desc *d)
{
    double rounding = d->c_is_acc ? 1e-6 : d->accumulate ? 0x1p-8 : 0x1p-9;
    return is_emulated(cuda) ? rounding : rounding + 0x1p-10;
}

Test(float8, cuda_is_the_reference)
{
    struct backend *cuda = open_float8(), *reference = open_backend("reference", DTYPE_F64, 1, NULL);
    for (int i = 0; i < SHAPES * FORMS; i++) {
        struct arrays x = make_arrays(shapes[i / FORMS], forms[i % FORMS]);
        compare(cuda, reference, &x, tolerance_of(cuda, &x.desc));
        free_arrays(&x);
    }
    reference->table->close(reference);
    cuda->table->close(cuda);
}

Test(float8, gelu_goes_with_it)
{
    struct backend *cuda = open_float8(), *reference = open_backend("reference", DTYPE_F64, 1, NULL);
    for (int i = 0; i < 2; i++) {
        struct matmul_desc d = forms[i];
        d.gelu = i == 0 ? MATMUL_GELU : MATMUL_D_GELU;
        struct arrays x = make_arrays(shapes[5], d);
        compare(cuda, reference, &x, 0x1p-7);
        free_arrays(&x);
    }
    reference->table->close(reference);
    cuda->table->close(cuda);
}

/* Nothing is rounded: the product is that without the types. */
Test(float8, other_sides_are_as_without)
{
    static const int64_t odd[][3] = {{17, 32, 32}, {32, 40, 32}, {32, 32, 24}, {1, 16, 16}};
    struct backend *all[] = {open_float8(), open_backend("reference", DTYPE_F64, 1, NULL)};
    for (int i = 0; i < 4 * 2; i++) {
        struct arrays x = make_arrays(odd[i / 2], forms[0]), plain = x;
        plain.desc.float8_a = plain.desc.float8_b = FLOAT8_NONE;
        double *got = multiply(all[i % 2], &x, NULL), *expected = multiply(all[i % 2], &plain, NULL);
        for (int64_t j = 0; j < x.desc.m * x.desc.n; j++)
            cr_assert_eq(got[j], expected[j]);
        free(got);
        free(expected);
        free_arrays(&x);
    }
    for (int i = 0; i < 2; i++)
        all[i]->table->close(all[i]);
}

/* One element of an operand is VALUE. */
static void check_special(struct backend *b, double value, bool of_b, const struct matmul_desc *form)
{
    struct arrays x = make_arrays(shapes[1], *form);
    double *operand = of_b ? x.b : x.a;
    operand[77] = value;
    double *got = multiply(b, &x, NULL);
    for (int64_t i = 0; i < x.desc.m * x.desc.n; i++)
        cr_assert(isnan(got[i]), "element %d is %g for an operand with %g", (int)i, got[i], value);
    free(got);
    free_arrays(&x);
}

Test(float8, what_is_not_finite_is_seen)
{
    struct backend *all[] = {open_float8(), open_backend("reference", DTYPE_F64, 1, NULL)};
    for (int i = 0; i < 2; i++) {
        for (int f = 0; f < 3; f++) {
            check_special(all[i], (double)NAN, false, &forms[f]);
            check_special(all[i], (double)INFINITY, true, &forms[f]);
            check_special(all[i], -(double)INFINITY, false, &forms[f]);
            check_special(all[i], -(double)NAN, true, &forms[f]);
        }
        all[i]->table->close(all[i]);
    }
}

static void scale_all(double *x, int64_t n, double by)
{
    for (int64_t i = 0; i < n; i++)
        x[i] *= by;
}

/* The greatest is found wherever it is: else it would become a smaller number. */
Test(float8, every_element_counts)
{
    struct backend *cuda = open_float8(), *reference = open_backend("reference", DTYPE_F64, 1, NULL);
    struct arrays x = make_arrays(shapes[1], forms[1]);
    int64_t n[2] = {x.desc.m * x.desc.k, x.desc.k * x.desc.n};
    double *operands[2] = {x.a, x.b};
    for (int64_t i = 0; i < 2 * 16; i++)
        for (int o = 0; o < 2; o++) {
            int64_t at = i < 16 ? i : n[o] - 1 - (i - 16);
            double before = operands[o][at];
            operands[o][at] = i % 3 == 0 ? 1000 : -1000;
            compare(cuda, reference, &x, tolerance_of(cuda, &x.desc));
            operands[o][at] = before;
        }
    free_arrays(&x);
    reference->table->close(reference);
    cuda->table->close(cuda);
}

/* Powers of two change the scales alone, and the results by as much. */
Test(float8, sizes_do_not_matter)
{
    struct backend *cuda = open_float8();
    for (int f = 0; f < 3; f++) {
        struct arrays x = make_arrays(shapes[5], forms[f]);
        memset(x.bias, 0, (size_t)x.desc.n * sizeof *x.bias);
        double *before = multiply(cuda, &x, NULL);
        scale_all(x.a, x.desc.m * x.desc.k, 0x1p-30);
        scale_all(x.b, x.desc.k * x.desc.n, 0x1p50);
        double *after = multiply(cuda, &x, NULL);
        for (int64_t i = 0; i < x.desc.m * x.desc.n; i++)
            cr_assert_eq(after[i], before[i] * 0x1p20, "form %d, element %d", f, (int)i);
        free(after);
        scale_all(x.a, x.desc.m * x.desc.k, 0);
        after = multiply(cuda, &x, NULL);
        for (int64_t i = 0; i < x.desc.m * x.desc.n; i++)
            cr_assert_eq(after[i], 0, "form %d, element %d", f, (int)i);
        free(before);
        free(after);
        free_arrays(&x);
    }
    cuda->table->close(cuda);
}

/* Below the greatest scale: what is lost then, both lose. */
Test(float8, scales_have_an_end)
{
    struct backend *cuda = open_float8(), *reference = open_backend("reference", DTYPE_F64, 1, NULL);
    for (int f = 0; f < 3; f++) {
        struct arrays x = make_arrays(shapes[1], forms[f]);
        memset(x.bias, 0, (size_t)x.desc.n * sizeof *x.bias);
        scale_all(x.a, x.desc.m * x.desc.k, f == 0 ? 0x1p-69 : 0x1p-77);
        compare(cuda, reference, &x, tolerance_of(cuda, &x.desc));
        free_arrays(&x);
    }
    reference->table->close(reference);
    cuda->table->close(cuda);
}

/* Products of other types and larger ones are planned before the first one runs. */
Test(float8, plans_stand_beside_others)
{
    struct matmul_desc desc = {.transpose_b = true, .float8_a = FLOAT8_E4M3, .float8_b = FLOAT8_E4M3};
    struct backend *cuda = open_float8(), *reference = open_backend("reference", DTYPE_F64, 1, NULL);
    struct arrays x[4] = {make_arrays(shapes[1], desc), make_arrays(shapes[1], desc), make_arrays(shapes[1], desc), make_arrays(shapes[5], desc)};
    struct matmul *plans[4];
    x[1].desc.float8_a = FLOAT8_E5M2;
    x[2].desc.float8_a = x[2].desc.float8_b = FLOAT8_NONE;
    for (int i = 0; i < 4; i++)
        plans[i] = plan(cuda, &x[i].desc);
    for (int i = 0; i < 4; i++) {
        double *got = run(cuda, plans[i], &x[i], NULL), *expected = multiply(reference, &x[i], NULL);
        cr_expect_lt(relative_error(got, expected, x[i].desc.m * x[i].desc.n), tolerance_of(cuda, &x[i].desc), "product %d", i);
        free(got);
        free(expected);
        free_arrays(&x[i]);
        cuda->table->matmul_destroy(plans[i]);
    }
    reference->table->close(reference);
    cuda->table->close(cuda);
}

/* The products of a backward pass: inputs[m,k] = dy w, weights[n,k] = dy^T x. BETWEEN: NULL, or a product of the first one's shape. */
static void backward(struct backend *b, struct matmul *const plans[2], const struct arrays *x, struct matmul *between, double *results[2])
{
    const struct matmul_desc *d = &x->desc;
    int64_t m = d->m, n = d->n, k = d->k;
    void *dy = make_array(b, b->act, x->c, m * n), *w = make_array(b, b->act, x->b, k * n), *in = make_array(b, b->act, x->a, m * k);
    void *dx = make_array(b, b->act, NULL, m * k), *dw = make_array(b, b->acc, NULL, n * k);
    b->table->matmul_run(plans[0], dx, dy, w, NULL);
    if (between) /* what was kept is of no use then */
        b->table->matmul_run(between, in, dx, w, NULL);
    b->table->matmul_run(plans[1], dw, dy, in, NULL);
    results[0] = array_values(b, b->act, dx, m * k);
    results[1] = array_values(b, b->acc, dw, n * k);
    cr_assert_eq(b->table->finish(b), CAIRN_OK, "%s", cairn_err_message());
    void *arrays[] = {dy, w, in, dx};
    int64_t sizes[] = {m * n, k * n, m * k, m * k};
    for (int i = 0; i < 4; i++)
        free_array(b, b->act, arrays[i], sizes[i]);
    free_array(b, b->acc, dw, n * k);
}

enum between { NOTHING, ONE_THAT_KEEPS, ONE_THAT_DOES_NOT };

/* Whether the second product is told that it has the first one's gradient changes nothing, nor what comes between them. */
static void check_kept(struct backend *cuda, const int64_t *shape, enum between between)
{
    struct arrays x = make_arrays(shape, (struct matmul_desc){.accumulate = true}); /* whose c is the gradient */
    double *results[2][2];
    int64_t m = shape[0], n = shape[1], k = shape[2];
    for (int kept = 0; kept < 2; kept++) {
        struct matmul_desc input = {.m = m, .n = k, .k = n, .float8_a = FLOAT8_E5M2, .float8_b = FLOAT8_E4M3, .keeps_a = between == ONE_THAT_KEEPS};
        struct matmul *other = plan(cuda, &input);
        input.keeps_a = kept;
        struct matmul *plans[2] = {
            plan(cuda, &input),
            plan(cuda, &(struct matmul_desc){.m = n, .n = k, .k = m, .transpose_a = true, .c_is_acc = true, .float8_a = FLOAT8_E5M2,
                                             .float8_b = FLOAT8_E4M3, .a_is_kept = kept})};
        backward(cuda, plans, &x, between == NOTHING ? NULL : other, results[kept]);
        for (int i = 0; i < 2; i++)
            cuda->table->matmul_destroy(plans[i]);
        cuda->table->matmul_destroy(other);
    }
    for (int i = 0; i < 2; i++) {
        cr_assert(memcmp(results[0][i], results[1][i], (size_t)(i == 0 ? m * k : n * k) * sizeof(double)) == 0, "%d x %d x %d, product %d", (int)m,
                  (int)n, (int)k, i);
        free(results[0][i]);
        free(results[1][i]);
    }
    free_arrays(&x);
}

Test(float8, a_gradient_is_kept)
{
    struct backend *cuda = open_float8();
    for (int i = 0; i < SHAPES; i++)
        check_kept(cuda, shapes[i], NOTHING);
    check_kept(cuda, (const int64_t[]){48, 80, 80}, ONE_THAT_KEEPS);
    check_kept(cuda, (const int64_t[]){48, 80, 80}, ONE_THAT_DOES_NOT);
    cuda->table->close(cuda);
}

/* ---- what is refused ---- */

static void expect_refused(struct backend *b, struct matmul_desc d, cairn_err err, const char *text)
{
    struct matmul *matmul;
    d.m = d.n = d.k = 32;
    cr_expect_eq(b->table->matmul_create(b, &d, &matmul), err);
    cr_expect_null(matmul);
    cr_expect_not_null(strstr(cairn_err_message(), text), "%s", cairn_err_message());
}

Test(float8, refusals)
{
    const struct matmul_desc both = {.float8_a = FLOAT8_E5M2, .float8_b = FLOAT8_E5M2};
    struct backend_options options = {.act = DTYPE_F32, .instruction_set = "auto", .float8 = true};
    struct backend *cuda = open_cuda(DTYPE_F32), *b = open_backend("cpu", DTYPE_BF16, 1, "auto");
    expect_refused(cuda, forms[0], CAIRN_EUNSUPPORTED, "float8 goes with bfloat16");
    expect_refused(b, forms[0], CAIRN_EUNSUPPORTED, "float8");
    cuda->table->close(cuda);
    b->table->close(b);
    cuda = open_cuda(DTYPE_BF16);
    cr_expect_null(strstr(cuda->table->signature(cuda), "float8"));
    expect_refused(cuda, both, CAIRN_EINVAL, "no such types");
    cuda->table->close(cuda);
    static const char *const names[] = {"cuda", "cpu", "reference"};
    for (int i = 0; i < 3; i++)
        cr_expect_eq(backend_open(names[i], &options, &b), CAIRN_EUNSUPPORTED, "%s", names[i]);
}

/* No array of a graph begins elsewhere. */
Test(float8, wants_aligned_arrays)
{
    enum { SIDE = 32 };
    for (int which = 0; which < 3; which++) {
        struct backend *cuda = open_float8();
        const struct matmul_desc desc = {.m = SIDE, .n = SIDE, .k = SIDE, .float8_a = FLOAT8_E4M3, .float8_b = FLOAT8_E4M3};
        struct matmul *matmul = plan(cuda, &desc);
        char *arrays[3];
        for (int i = 0; i < 3; i++)
            arrays[i] = cuda->table->alloc(cuda, array_bytes(DTYPE_BF16, SIDE * SIDE) + 8);
        cuda->table->matmul_run(matmul, arrays[0], arrays[1], arrays[2], NULL);
        cr_expect_eq(cuda->table->finish(cuda), CAIRN_OK, "%s", cairn_err_message());
        cuda->table->matmul_run(matmul, arrays[0] + (which == 0 ? 8 : 0), arrays[1] + (which == 1 ? 8 : 0), arrays[2] + (which == 2 ? 8 : 0), NULL);
        cr_expect_eq(cuda->table->finish(cuda), CAIRN_EDEVICE, "array %d", which);
        for (int i = 0; i < 3; i++)
            cuda->table->free(cuda, arrays[i], array_bytes(DTYPE_BF16, SIDE * SIDE) + 8);
        cuda->table->matmul_destroy(matmul);
        cuda->table->close(cuda);
    }
}

Test(float8, capability)
{
    struct backend_options options = {.act = DTYPE_BF16, .instruction_set = "auto", .float8 = true};
    struct backend *b = open_cuda(DTYPE_BF16);
    bool emulated = is_emulated(b);
    b->table->close(b);
    if (!emulated)
        cr_skip_test("a GPU cannot be told to be an older one");
    cr_assert_eq(backend_open("cuda", &options, &b), CAIRN_OK, "%s", cairn_err_message());
    cr_expect(b->float8 && strstr(b->table->signature(b), " float8"), "%s", b->table->signature(b));
    b->table->close(b);
    setenv("CUDA_ON_CPU_CAPABILITY", "89", 1);
    cr_expect_eq(backend_open("cuda", &options, &b), CAIRN_EUNSUPPORTED);
    cr_expect_not_null(strstr(cairn_err_message(), "capability 9.0 or later"), "%s", cairn_err_message());
    b = open_cuda(DTYPE_BF16);
    expect_refused(b, forms[0], CAIRN_EUNSUPPORTED, "has 8.9");
    b->table->close(b);
    setenv("CUDA_ON_CPU_CAPABILITY", "120", 1);
    setenv("CUDA_ON_CPU_CODE", "80", 1); /* of PTX, which a newer GPU runs */
    cr_expect_eq(backend_open("cuda", &options, &b), CAIRN_EUNSUPPORTED);
    cr_expect_not_null(strstr(cairn_err_message(), "--with-cuda-arch=120"), "%s", cairn_err_message());
}
