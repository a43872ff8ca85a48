#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "mesh/compress.h"

Test(compress, rounding_loses_nothing)
{
    srandom(3);
    for (int i = 0; i < 200000; i++) {
        uint32_t bits = (uint32_t)random() << 1 ^ (uint32_t)random();
        float x;
        uint16_t rounded;
        memcpy(&x, &bits, sizeof x);
        float lost = compress_round(x, &rounded);
        if (!isfinite(x)) {
            cr_assert(lost == 0 && isnan(x) == isnan(bf16_to_float(rounded)));
            continue;
        }
        cr_assert(isfinite(bf16_to_float(rounded)), "%a", (double)x);
        cr_assert((double)bf16_to_float(rounded) + (double)lost == (double)x, "%a", (double)x);
    }
    uint16_t rounded;
    float lost = compress_round(-FLT_MAX, &rounded);
    cr_assert(bf16_to_float(rounded) + lost == -FLT_MAX && lost < 0);
}

/* Of K elements: those that fewer than K others go before, by magnitude, then by index. */
static void check_selection(const float *x, int n, int k)
{
    int32_t indices[512];
    int taken = 0;
    compress_select(x, n, k, indices);
    for (int i = 0; i < n; i++) {
        int before = 0;
        for (int j = 0; j < n; j++)
            before += fabsf(x[j]) > fabsf(x[i]) || (fabsf(x[j]) == fabsf(x[i]) && j < i);
        if (before >= k)
            continue;
        cr_assert(taken < k && indices[taken] == i, "%d of %d: element %d is missing", k, n, i);
        taken++;
    }
    cr_assert_eq(taken, k);
}

Test(compress, selects_the_largest_and_of_equal_ones_the_first)
{
    float x[512];
    srandom(9);
    for (int round = 0; round < 60; round++) {
        int n = 1 + (int)(random() % 512);
        for (int i = 0; i < n; i++) /* every third round, many are equal; then many differ in their last bits alone */
            x[i] = round % 3 == 0 ? (float)(random() % 7 - 3) : round % 3 == 1 ? 1 + (float)(random() % 50) * FLT_EPSILON
                                                               : ldexpf((float)random() - 1e9f, (int)(random() % 200) - 150);
        check_selection(x, n, 1 + (int)(random() % n));
        check_selection(x, n, n);
    }
    int32_t index;
    float odd[] = {1, INFINITY, -NAN, 3};
    compress_select(odd, 4, 1, &index);
    cr_assert_eq(index, 2);
    compress_select(odd, 4, 0, NULL);
}

static double inner(const float *a, const float *b, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

Test(compress, columns_become_orthonormal_and_dependent_ones_zero)
{
    enum { N = 40, COUNT = 5 };
    float a[COUNT * N];
    srandom(4);
    for (int i = 0; i < COUNT * N; i++)
        a[i] = (float)random() / (float)RAND_MAX - 0.5f;
    for (int i = 0; i < N; i++)
        a[2 * N + i] = 3 * a[i] - 2 * a[N + i]; /* the third depends on the first two */
    compress_orthonormalize(a, N, COUNT);
    for (int c = 0; c < COUNT; c++)
        for (int k = 0; k < COUNT; k++) {
            double expected = c == k && c != 2;
            cr_assert(fabs(inner(a + c * N, a + k * N, N) - expected) < 1e-5, "columns %d and %d", c, k);
        }
    float zero[6] = {0};
    compress_orthonormalize(zero, 3, 2);
    for (int i = 0; i < 6; i++)
        cr_assert(zero[i] == 0);
}
