/* The gradients of a weight and a bias from one call (matmul_run_d_bias) against the reference in float64, whichever way the biases' are found; and
 * that the way, like an algorithm, is kept. On a GPU, or where there is none as the processor runs the same kernels (tests/cuda_on_cpu). */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "kernels_support.h"

struct sizes {
    int64_t m, n, k;
};

static struct backend *open_timed(enum dtype act)
{
    struct backend *b = open_cuda(act);
    b->timed_products = true;
    return b;
}

static bool emulated(struct backend *b)
{
    return strstr(b->table->signature(b), "CUDA on the processor") != NULL;
}

static struct matmul_desc desc_of(struct sizes s, bool accumulate)
{
    return (struct matmul_desc){.m = s.m, .n = s.n, .k = s.k, .transpose_a = true, .c_is_acc = true, .accumulate = accumulate};
}

/* One product, and what it found; by a backend without matmul_run_d_bias with bias_backward. */
struct gradients {
    struct backend *b;
    struct sizes sizes;
    struct matmul *plan;
    void *dy, *x;
    double *weight, *bias; /* results; freed by forget */
};

static struct gradients plan_gradients(struct backend *b, struct sizes s, bool accumulate)
{
    struct gradients g = {.b = b, .sizes = s};
    struct matmul_desc desc = desc_of(s, accumulate);
    double *dy = random_values(s.m * s.k, 1, 1), *x = random_values(s.n * s.k, 2, 1);
    g.dy = make_array(b, b->act, dy, s.m * s.k);
    g.x = make_array(b, b->act, x, s.n * s.k);
    desc.d_bias = b->table->matmul_run_d_bias != NULL;
    cr_assert_eq(b->table->matmul_create(b, &desc, &g.plan), CAIRN_OK, "%s", cairn_err_message());
    free(dy);
    free(x);
    return g;
}

/* OFFSET: elements that d_bias lies behind an array's beginning; what is before and behind it stays. */
static void find_gradients(struct gradients *g, bool accumulate, int64_t offset)
{
    struct backend *b = g->b;
    struct sizes s = g->sizes;
    double *before = random_values(s.m * s.n, 3, 1);
    int64_t room = offset + s.m + 1;
    void *weight = make_array(b, b->acc, accumulate ? before : NULL, s.m * s.n), *bias = make_array(b, b->acc, NULL, room);
    void *at = (char *)bias + array_bytes(b->acc, offset);
    if (b->table->matmul_run_d_bias) {
        b->table->matmul_run_d_bias(g->plan, weight, at, g->dy, g->x);
    } else {
        b->table->matmul_run(g->plan, weight, g->dy, g->x, NULL);
        b->table->bias_backward(b, at, g->dy, s.k, s.m);
    }
    double *all = array_values(b, b->acc, bias, room);
    cr_assert_eq(b->table->finish(b), CAIRN_OK, "%s", cairn_err_message());
    for (int64_t i = 0; i < room; i++)
        cr_assert((i >= offset && i < offset + s.m) || all[i] != all[i], "element %d beside the bias' gradient was written", (int)i);
    free(g->weight);
    free(g->bias);
    g->weight = array_values(b, b->acc, weight, s.m * s.n);
    g->bias = malloc((size_t)s.m * sizeof *g->bias);
    memcpy(g->bias, all + offset, (size_t)s.m * sizeof *g->bias);
    free(all);
    free(before);
    free_array(b, b->acc, weight, s.m * s.n);
    free_array(b, b->acc, bias, room);
}

static void forget(struct gradients *g)
{
    g->b->table->matmul_destroy(g->plan);
    free_array(g->b, g->b->act, g->dy, g->sizes.m * g->sizes.k);
    free_array(g->b, g->b->act, g->x, g->sizes.n * g->sizes.k);
    free(g->weight);
    free(g->bias);
}

static void compare(struct backend *cuda, struct sizes s, bool accumulate, int64_t offset, double tolerance)
{
    struct backend *reference = open_backend("reference", DTYPE_F64, 1, NULL);
    struct gradients got = plan_gradients(cuda, s, accumulate), expected = plan_gradients(reference, s, accumulate);
    find_gradients(&got, accumulate, offset);
    find_gradients(&expected, accumulate, 0);
    double of_weight = relative_error(got.weight, expected.weight, s.m * s.n), of_bias = relative_error(got.bias, expected.bias, s.m);
    cr_expect_lt(of_weight, tolerance, "%d x %d x %d: the weight's gradient is off by %g", (int)s.m, (int)s.n, (int)s.k, of_weight);
    cr_expect_lt(of_bias, tolerance, "%d x %d x %d: the bias' gradient is off by %g", (int)s.m, (int)s.n, (int)s.k, of_bias);
    forget(&got);
    forget(&expected);
    reference->table->close(reference);
}

/* Inputs are such that bfloat16 holds them, and results of float32: one tolerance for both types. */
static const double TOLERANCE = 1e-5;
static const enum dtype types[] = {DTYPE_F32, DTYPE_BF16};
/* Where m is a multiple of 4 a bias' gradient is aligned to 16 bytes, and the library is asked for it. The last has k split, by the emulation too. */
static const struct sizes sizes[] = {{1, 1, 1}, {4, 1, 3}, {7, 5, 65}, {12, 33, 1}, {68, 48, 129}, {130, 7, 40}, {16, 8, 301}, {16, 8, 384}};
enum { SIZES = sizeof sizes / sizeof *sizes };

static void compare_all(bool timed)
{
    for (int t = 0; t < 2; t++) {
        struct backend *cuda = open_cuda(types[t]);
        cuda->timed_products = timed;
        for (int i = 0; i < SIZES; i++)
            for (int accumulate = 0; accumulate < 2; accumulate++) {
                compare(cuda, sizes[i], accumulate, 0, TOLERANCE);
                compare(cuda, sizes[i], accumulate, 1, TOLERANCE);
            }
        cuda->table->close(cuda);
    }
}

Test(d_bias, is_right) { compare_all(false); }
Test(d_bias, is_right_where_ways_are_timed) { compare_all(true); }

/* Of no effect on a GPU, whose library does as it does. */
Test(d_bias, is_right_where_the_library_refuses)
{
    setenv("CUDA_ON_CPU_NO_BGRAD", "1", 1);
    compare_all(false);
}

/* Of what is not rounded, by the kernel's own bits. */
Test(d_bias, is_of_what_float8_rounds)
{
    struct sizes s = {32, 48, 64};
    struct backend *b = open_cuda(DTYPE_BF16);
    struct gradients g = plan_gradients(b, s, false);
    struct matmul_desc desc = desc_of(s, false);
    desc.d_bias = true;
    desc.float8_a = FLOAT8_E5M2;
    desc.float8_b = FLOAT8_E4M3;
    b->table->matmul_destroy(g.plan);
    g.plan = NULL;
    if (b->table->matmul_create(b, &desc, &g.plan) == CAIRN_EUNSUPPORTED)
        cr_skip_test("%s", cairn_err_message());
    cr_assert_not_null(g.plan, "%s", cairn_err_message());
    find_gradients(&g, false, 0);
    void *sums = make_array(b, b->acc, NULL, s.m);
    b->table->bias_backward(b, sums, g.dy, s.k, s.m);
    double *expected = array_values(b, b->acc, sums, s.m);
    cr_expect(memcmp(g.bias, expected, (size_t)s.m * sizeof *expected) == 0);
    free(expected);
    free_array(b, b->acc, sums, s.m);
    forget(&g);
    b->table->close(b);
}

/* In the bits, where k is long enough to be split. */
Test(d_bias, repeats)
{
    enum { RUNS = 4 };
    struct sizes s = {64, 48, 5120};
    for (int t = 0; t < 2; t++) {
        struct backend *b = open_cuda(types[t]);
        struct gradients g = plan_gradients(b, s, false);
        double *first = malloc((size_t)s.m * sizeof *first);
        find_gradients(&g, false, 0);
        memcpy(first, g.bias, (size_t)s.m * sizeof *first);
        for (int i = 1; i < RUNS; i++) {
            find_gradients(&g, false, 0);
            cr_expect(memcmp(first, g.bias, (size_t)s.m * sizeof *first) == 0, "other bits in run %d", i);
        }
        free(first);
        forget(&g);
        b->table->close(b);
    }
}

/* ---- which way, and that it is kept ---- */

/* Of which the emulation finds a product soon, and the sums of its own kernel late. */
static const struct sizes kept = {64, 4, 2001};

/* The choice for the bias' gradient of the backend's only such product; NULL where there is none. */
static const struct product_choice *choice_of(struct backend *b)
{
    const struct product_choice *list;
    int count = b->table->choices(b, &list);
    for (int i = 0; i < count; i++)
        if (strstr(list[i].product, " dbias"))
            return &list[i];
    return NULL;
}

static bool is_apart(const struct product_choice *choice)
{
    static const struct product_choice none;
    return memcmp(choice->algorithm, none.algorithm, sizeof none.algorithm) == 0;
}

/* What a backend in an environment finds, and its choices. */
struct found {
    struct product_choice list[8];
    int count;
    bool apart, timed;
    double bias[64];
};

/* TOLD: choices before the product is planned, or if LATE after it; NULL: none. */
static struct found find(bool timed, const struct found *told, bool late)
{
    struct found f = {.count = 0};
    struct backend *b = timed ? open_timed(DTYPE_F32) : open_cuda(DTYPE_F32);
    if (told && !late)
        cr_assert_eq(b->table->choose(b, told->list, told->count), CAIRN_OK);
    struct gradients g = plan_gradients(b, kept, false);
    if (told && late)
        cr_assert_eq(b->table->choose(b, told->list, told->count), CAIRN_OK);
    find_gradients(&g, false, 0);
    memcpy(f.bias, g.bias, sizeof f.bias);
    const struct product_choice *list, *choice = choice_of(b);
    cr_assert_not_null(choice, "the way is not among the choices");
    f.apart = is_apart(choice);
    f.timed = choice->timed;
    f.count = b->table->choices(b, &list);
    cr_assert_leq(f.count, 8);
    memcpy(f.list, list, (size_t)f.count * sizeof *list);
    forget(&g);
    b->table->close(b);
    return f;
}

static bool same_bits(const struct found *a, const struct found *b)
{
    return memcmp(a->bias, b->bias, sizeof a->bias) == 0;
}

static void skip_on_gpus(void)
{
    struct backend *b = open_cuda(DTYPE_F32);
    bool here = emulated(b);
    b->table->close(b);
    if (!here)
        cr_skip_test("a GPU's library cannot be told to refuse, or to be slow");
}

Test(d_bias, goes_the_way_that_is_there)
{
    skip_on_gpus();
    struct found joint = find(false, NULL, false);
    cr_expect(!joint.apart && !joint.timed, "the library has an algorithm, and is not asked");
    setenv("CUDA_ON_CPU_NO_BGRAD", "1", 1);
    struct found refused = find(false, NULL, false), timed = find(true, NULL, false);
    cr_expect(refused.apart && timed.apart && !timed.timed, "what the library refuses was not tried");
    cr_expect(!same_bits(&joint, &refused), "the two ways cannot be told apart");
}

Test(d_bias, goes_the_faster_way)
{
    skip_on_gpus();
    struct found fast = find(true, NULL, false);
    cr_expect(!fast.apart && fast.timed);
    setenv("CUDA_ON_CPU_SLOW_BGRAD", "60", 1);
    struct found slow = find(true, NULL, false), untimed = find(false, NULL, false);
    cr_expect(slow.apart && slow.timed, "the slower way is taken");
    cr_expect(!untimed.apart, "nobody asked for times");
}

/* Other choices than those that would be found here. */
static void check_told(const struct found *told, bool timed)
{
    for (int late = 0; late < 2; late++) {
        struct found f = find(timed, told, late);
        cr_expect(f.apart == told->apart && same_bits(&f, told), "choices told %s the plan are not followed", late ? "after" : "before");
    }
}

Test(d_bias, goes_the_way_that_is_told)
{
    skip_on_gpus();
    struct found joint = find(false, NULL, false);
    setenv("CUDA_ON_CPU_SLOW_BGRAD", "60", 1);
    struct found apart = find(true, NULL, false);
    cr_assert(apart.apart && !joint.apart);
    check_told(&joint, true);
    check_told(&apart, false);
}

/* A run whose library had the algorithm goes on with one that has not. */
Test(d_bias, told_of_what_is_not_there)
{
    skip_on_gpus();
    struct found joint = find(false, NULL, false);
    setenv("CUDA_ON_CPU_NO_BGRAD", "1", 1);
    struct found apart = find(false, NULL, false);
    for (int late = 0; late < 2; late++) {
        struct found f = find(false, &joint, late);
        cr_expect(same_bits(&f, &apart));
    }
}

Test(d_bias, goes_with_a_weights_gradient_alone)
{
    struct backend *b = open_cuda(DTYPE_F32);
    struct matmul *plan;
    struct matmul_desc right = desc_of(sizes[1], false), wrong[] = {right, right, right};
    wrong[0].transpose_a = false;
    wrong[1].c_is_acc = false;
    wrong[2].bias = true;
    for (int i = 0; i < 3; i++) {
        wrong[i].d_bias = true;
        cr_expect_eq(b->table->matmul_create(b, &wrong[i], &plan), CAIRN_EINVAL);
        cr_expect_null(plan);
    }
    b->table->close(b);
}
