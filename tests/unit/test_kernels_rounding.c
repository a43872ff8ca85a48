/* Stochastic rounding of weights: the same bits in every backend, however the elements are cut into runs, and unbiased. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/plugin.h"
#include "kernels/rounding.h"
#include "kernels_support.h"

enum { STEP = 7, BACKENDS = 5, BEHIND = 32 };

static const struct philox_key key = {{0x12345678, 0x9abcdef0}};

/* NULL where there is none. */
static struct backend *open_number(int number)
{
    static const char *const sets[] = {"baseline", "v3", "auto"};
    if (number < 3)
        return open_backend("cpu", DTYPE_BF16, 2, sets[number]);
    if (number == 3)
        return open_backend("cpu", DTYPE_BF16, 1, "auto");
    return plugin_is_there("cuda") ? open_backend("cuda", DTYPE_BF16, 1, NULL) : NULL;
}

static void close_backend(struct backend *b)
{
    cr_assert_eq(b->table->finish(b), CAIRN_OK, "%s", cairn_err_message());
    b->table->close(b);
}

static float float_of(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Numbers of all sizes and signs with all their bits, in their midst those that have rules of their own. */
static float *make_values(int64_t n)
{
    static const uint32_t edges[] = {0x00000000, 0x80000000, 0x7f800000, 0xff800000, 0x7f800001, 0x7fffffff, 0xffffffff, 0xffc00001,
                                     0x7f7fffff, 0xff7fffff, 0x7f7f0000, 0x7f7f0001, 0x00000001, 0x80000001, 0x007fffff, 0x0000ffff,
                                     0x00010000, 0x3f80ffff, 0x3f800000, 0xbf7fffff};
    enum { EDGES = sizeof edges / sizeof *edges };
    float *values = malloc((size_t)n * sizeof *values);
    for (int64_t i = 0; i < n; i++) {
        uint32_t word[4];
        philox4x32((struct philox_key){{1, 2}}, 3, (uint64_t)i, word);
        values[i] = float_of(i % 3 == 1 ? edges[i / 3 % EDGES] : 0x30000000u + (word[0] & 0x9fffffffu));
    }
    return values;
}

/* As backend.h says it. */
static uint32_t half_at(uint64_t step, uint64_t position)
{
    uint32_t word[4];
    philox4x32(key, step, position / 8, word);
    uint32_t w = word[position % 8 / 2];
    return position % 2 == 0 ? w & 0xffff : w >> 16;
}

/* The two neighbours' upper one, if the dropped bits and the random ones together are 1 or more, but not infinity. */
static void check_rounded(const struct backend *b, float value, uint16_t got, uint64_t position)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t lower = bits >> 16, upper = lower + 1, expected = lower;
    if (isnan(value)) {
        cr_assert(isnan(bf16_to_float(got)), "%s, position %llu: NaN becomes %#x", b->table->name, (unsigned long long)position, got);
        return;
    }
    if (isfinite(value) && (double)(bits & 0xffff) / 65536 + (double)half_at(STEP, position) / 65536 >= 1 && (upper & 0x7fff) != 0x7f80)
        expected = upper;
    cr_assert_eq(got, expected, "%s, position %llu: %a becomes %#x, not %#x", b->table->name, (unsigned long long)position, (double)value,
                 got, expected);
}

/* The arrays of an update of N weights, on the backend; behind COMPUTE there are more elements, which nothing may change. */
struct arrays {
    struct backend *b;
    int64_t n;
    float *master, *moment1, *moment2, *gradient;
    uint16_t *compute;
};

static float *put(struct backend *b, const float *values, int64_t n)
{
    float *there = b->table->alloc(b, (size_t)n * sizeof *there);
    cr_assert_not_null(there);
    b->table->upload(b, there, values, (size_t)n * sizeof *there);
    return there;
}

static const uint16_t behind[BEHIND] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17};

static struct arrays open_arrays(struct backend *b, const float *values, int64_t n)
{
    float *zeros = calloc((size_t)n, sizeof *zeros), *gradient = calloc((size_t)n, sizeof *gradient);
    for (int64_t i = 0; i < n; i++)
        gradient[i] = (float)(i % 11 - 5) * 0.3f;
    struct arrays a = {b, n, put(b, values, n), put(b, zeros, n), put(b, zeros, n), put(b, gradient, n),
                       b->table->alloc(b, (size_t)(n + BEHIND) * sizeof *a.compute)};
    b->table->upload(b, a.compute + n, behind, sizeof behind);
    free(zeros);
    free(gradient);
    return a;
}

static void close_arrays(struct arrays *a)
{
    void *vectors[] = {a->master, a->moment1, a->moment2, a->gradient};
    for (int i = 0; i < 4; i++)
        a->b->table->free(a->b, vectors[i], (size_t)a->n * sizeof(float));
    a->b->table->free(a->b, a->compute, (size_t)(a->n + BEHIND) * sizeof *a->compute);
}

/* Cut into COUNT runs of odd lengths, element 0 being at FIRST. */
static void make_runs(const struct arrays *a, uint64_t first, struct adamw_run *runs, int count)
{
    int64_t begin = 0;
    for (int i = 0; i < count; i++) {
        int64_t end = i + 1 == count ? a->n : (a->n * (i + 1) / count) | 1;
        end = end < a->n ? end : a->n;
        runs[i] = (struct adamw_run){.master = a->master + begin, .moment1 = a->moment1 + begin, .moment2 = a->moment2 + begin,
                                     .gradient = a->gradient + begin, .compute = a->compute + begin, .n = end - begin, .decays = i % 2,
                                     .key = key, .first = first + (uint64_t)begin};
        begin = end;
    }
}

static void *downloaded(struct backend *b, const void *from, size_t bytes)
{
    void *here = malloc(bytes);
    b->table->download(b, here, from, bytes);
    return here;
}

/* More than a GPU's kernel takes at once, too. */
enum { RUNS_MOST = 500 };

/* What an update, or a rounding alone, leaves of VALUES. */
static void check_runs(struct backend *b, const float *values, int64_t n, uint64_t first, int count, bool update)
{
    struct adamw_run runs[RUNS_MOST];
    struct adamw o = {.learning_rate = 0.01, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .weight_decay = 0.1, .gradient_scale = 0.5,
                      .step = STEP, .stochastic = true};
    struct arrays a = open_arrays(b, values, n);
    make_runs(&a, first, runs, count);
    if (update)
        b->table->adamw(b, runs, count, &o);
    else
        b->table->round_weights(b, runs, count, true, STEP);
    float *master = downloaded(b, a.master, (size_t)n * sizeof *master);
    uint16_t *compute = downloaded(b, a.compute, (size_t)(n + BEHIND) * sizeof *compute);
    cr_expect(memcmp(compute + n, behind, sizeof behind) == 0, "%s: what lies behind %d weights is changed", b->table->name, (int)n);
    cr_expect(update || memcmp(master, values, (size_t)n * sizeof *master) == 0, "%s: rounding changes the master weights", b->table->name);
    for (int64_t i = 0; i < n; i++)
        check_rounded(b, master[i], compute[i], first + (uint64_t)i);
    if (update) { /* is else the same */
        struct arrays nearest = open_arrays(b, values, n);
        o.stochastic = false;
        make_runs(&nearest, first, runs, count);
        b->table->adamw(b, runs, count, &o);
        float *other = downloaded(b, nearest.master, (size_t)n * sizeof *other);
        cr_expect(memcmp(master, other, (size_t)n * sizeof *other) == 0, "%s: rounding changes the master weights", b->table->name);
        free(other);
        close_arrays(&nearest);
    }
    free(master);
    free(compute);
    close_arrays(&a);
}

Test(rounding, bits_follow_the_contract_in_every_backend)
{
    static const int64_t sizes[] = {1, 15, 16, 17, 511, 512, 530, 40001};
    static const uint64_t firsts[] = {0, 1, 4, 7, 8, ((uint64_t)1 << 36) + 5}; /* the counter's second word is used too */
    float *values = make_values(40001);
    for (int i = 0; i < BACKENDS; i++) {
        struct backend *b = open_number(i);
        for (int k = 0; b && k < 8 * 6; k++) {
            check_runs(b, values, sizes[k / 6], firsts[k % 6], 1, true);
            check_runs(b, values, sizes[k / 6], firsts[k % 6], 1, false);
        }
        if (b)
            close_backend(b);
    }
    free(values);
}

Test(rounding, bits_do_not_depend_on_runs)
{
    float *values = make_values(40001);
    for (int i = 0; i < BACKENDS; i++) {
        struct backend *b = open_number(i);
        for (int count = 2; b && count <= RUNS_MOST; count += RUNS_MOST - 2) {
            check_runs(b, values, 40001, 16, count, true);
            check_runs(b, values, 40001, 16, count, false);
            check_runs(b, values, 333, 3, count, true);
        }
        if (b)
            close_backend(b);
    }
    free(values);
}

Test(rounding, to_nearest_is_as_ever)
{
    enum { N = 5003 };
    float *values = make_values(N);
    for (int i = 0; i < BACKENDS; i++) {
        struct backend *b = open_number(i);
        if (!b)
            continue;
        struct adamw_run runs[3];
        struct arrays a = open_arrays(b, values, N);
        make_runs(&a, 5, runs, 3);
        b->table->round_weights(b, runs, 3, false, STEP);
        uint16_t *compute = downloaded(b, a.compute, N * sizeof *compute);
        for (int k = 0; k < N; k++)
            cr_assert(isnan(values[k]) ? isnan(bf16_to_float(compute[k])) : compute[k] == bf16_from_float(values[k]),
                      "%s, element %d: %a becomes %#x", b->table->name, k, (double)values[k], compute[k]);
        free(compute);
        close_arrays(&a);
        close_backend(b);
    }
    free(values);
}

/* Of all 65536 halves, as many round away from zero as the dropped bits count: the mean is the value itself. */
Test(rounding, all_halves_have_the_value_as_mean)
{
    static const uint32_t numbers[] = {0x3f800001, 0x3f808000, 0xc2aaffff, 0x00001234, 0x80003fff, 0x42424242, 0x3f810000};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        uint32_t away = 0;
        for (uint32_t half = 0; half < 65536; half++) {
            uint32_t got = rounding_stochastic(numbers[i], half) - (numbers[i] >> 16);
            cr_assert_leq(got, 1, "%#x with %#x is rounded to no neighbour", numbers[i], half);
            away += got;
        }
        cr_expect_eq(away, numbers[i] & 0xffff, "%#x is rounded away from zero %u times of 65536", numbers[i], away);
    }
}

/* How many of N elements of VALUE are rounded up at STEP with KEYS; each element in UPS counts how often it was. */
static int64_t count_up(struct backend *b, const struct arrays *a, struct philox_key keys, int64_t step, int *ups, float value)
{
    struct adamw_run run = {.master = a->master, .compute = a->compute, .n = a->n, .key = keys};
    int64_t count = 0;
    b->table->round_weights(b, &run, 1, true, step);
    uint16_t *compute = downloaded(b, a->compute, (size_t)a->n * sizeof *compute);
    for (int64_t i = 0; i < a->n; i++) {
        int up = bf16_to_float(compute[i]) > value;
        ups[i] += up;
        count += up;
    }
    free(compute);
    return count;
}

/* A number 0.3 of the way from one bfloat16 to the next. Of n roundings n p are up on average, with a variance of n p (1 - p); five times
 * its root is passed once in a million such tests. Elements, steps and keys all must count as independent: sums over each have such bounds. */
Test(rounding, is_unbiased)
{
    enum { N = 1 << 14, STEPS = 20 };
    const float value = float_of(0x3f800000 + 19661);
    const double p = 19661.0 / 65536, one = 5 * sqrt(N * p * (1 - p));
    float *values = malloc(N * sizeof *values);
    int *ups = calloc(N, sizeof *ups);
    for (int i = 0; i < N; i++)
        values[i] = value;
    struct backend *b = open_backend("cpu", DTYPE_BF16, 1, NULL);
    struct arrays a = open_arrays(b, values, N);
    for (int step = 0; step < STEPS; step++) {
        int64_t up = count_up(b, &a, step % 2 ? key : (struct philox_key){{9, 9}}, step / 2, ups, value);
        cr_expect_lt(fabs((double)up - N * p), one, "step %d: %d of %d are rounded up, not about %g", step, (int)up, N, N * p);
    }
    /* The variance over elements of their sums over steps is as of independent ones: STEPS p (1 - p), whose estimate of N has a standard
     * deviation of about that times sqrt(2 / N). */
    double variance = 0, expected = STEPS * p * (1 - p);
    for (int i = 0; i < N; i++)
        variance += (ups[i] - STEPS * p) * (ups[i] - STEPS * p) / N;
    cr_expect_lt(fabs(variance - expected), 5 * expected * sqrt(2.0 / N), "variance over steps %g, expected %g", variance, expected);
    close_arrays(&a);
    close_backend(b);
    free(values);
    free(ups);
}
