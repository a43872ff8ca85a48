#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/exact_sum.h"

static double sum_of(const double *values, int64_t n)
{
    struct exact_sum sum = {{0}, 0};
    exact_sum_add(&sum, values, n);
    return exact_sum_round(&sum);
}

#define SUM(...) sum_of((double[]){__VA_ARGS__}, sizeof((double[]){__VA_ARGS__}) / sizeof(double))

static void expect(double got, double expected)
{
    cr_assert(memcmp(&got, &expected, sizeof got) == 0, "%.17g (%a), not %.17g (%a)", got, got, expected, expected);
}

/* Of a magnitude from 2^-SPREAD to 2^SPREAD, either sign. */
static double some_value(int spread)
{
    double unit = ((double)random() + (double)random() / 2147483648.0) / 2147483648.0 - 0.5;
    return ldexp(unit, (int)(random() % (2 * spread + 1)) - spread);
}

/* The correctly rounded sum by another way: a list of doubles that do not overlap, grown by exact two-sums (J. Shewchuk,
 * "Adaptive precision floating-point arithmetic", 1997), then summed from the largest down. */
static double expansion_sum(const double *values, int64_t n)
{
    double parts[64];
    int count = 0;
    for (int64_t i = 0; i < n; i++) {
        double x = values[i];
        int kept = 0;
        for (int k = 0; k < count; k++) {
            double y = parts[k], a = fabs(x) < fabs(y) ? y : x, b = fabs(x) < fabs(y) ? x : y;
            double high = a + b, low = b - (high - a);
            if (low != 0)
                parts[kept++] = low;
            x = high;
        }
        parts[kept++] = x;
        count = kept;
        cr_assert_lt(count, 64);
    }
    double high = 0, low = 0;
    while (count > 0 && low == 0) {
        double x = high, y = parts[--count];
        high = x + y;
        low = y - (high - x);
    }
    /* A tie that the parts below break: towards them. */
    if (count > 0 && ((low < 0 && parts[count - 1] < 0) || (low > 0 && parts[count - 1] > 0)) && high + 2 * low - high == 2 * low)
        high += 2 * low;
    return high;
}

static void shuffle(double *values, int64_t n)
{
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t k = random() % (i + 1);
        double v = values[i];
        values[i] = values[k];
        values[k] = v;
    }
}

Test(exact_sum, rounds_once_to_nearest_even)
{
    double tiny = DBL_TRUE_MIN, half = DBL_EPSILON / 2;
    expect(SUM(1, half), 1);
    expect(SUM(1, half, tiny), 1 + DBL_EPSILON);
    expect(SUM(1, half, -tiny), 1);
    expect(SUM(1 + DBL_EPSILON, half), 1 + 2 * DBL_EPSILON);
    expect(SUM(-1, -half), -1);
    expect(SUM(-1, -half, -tiny), -1 - DBL_EPSILON);
    expect(SUM(2 - DBL_EPSILON, half), 2);
    expect(SUM(1e100, 1, -1e100), 1);
    expect(SUM(1e308, tiny, -1e308), tiny);
    expect(SUM(1, -1), 0);
    expect(SUM(-0.0), 0);
    expect(sum_of(NULL, 0), 0);
}

Test(exact_sum, holds_the_whole_range)
{
    double tiny = DBL_TRUE_MIN;
    expect(SUM(tiny, tiny, tiny), 3 * tiny);
    expect(SUM(DBL_MIN, -tiny), DBL_MIN - tiny);
    expect(SUM(-DBL_MIN, tiny, tiny), -(DBL_MIN - 2 * tiny));
    expect(SUM(DBL_MAX, DBL_MAX, -DBL_MAX), DBL_MAX);
    expect(SUM(DBL_MAX, DBL_MAX), INFINITY);
    expect(SUM(-DBL_MAX, -DBL_MAX), -INFINITY);
    expect(SUM(DBL_MAX, ldexp(1, 970)), INFINITY);
    expect(SUM(DBL_MAX, ldexp(1, 970), -tiny), DBL_MAX);
}

Test(exact_sum, infinities_and_nan_stay)
{
    expect(SUM(1, INFINITY, -1e300), INFINITY);
    expect(SUM(-INFINITY, 5), -INFINITY);
    expect(SUM(INFINITY, INFINITY), INFINITY);
    cr_assert(isnan(SUM(INFINITY, 1, -INFINITY)));
    cr_assert(isnan(SUM(1, NAN, 2)));
    cr_assert(isnan(SUM(INFINITY, -NAN)));
}

Test(exact_sum, equals_quadruple_precision_where_that_is_exact)
{
    srandom(5);
    for (int round = 0; round < 300; round++) {
        double values[200];
        __float128 sum = 0;
        for (int i = 0; i < 200; i++) { /* a sum from bit 2^-74 to 2^28, of which 113 bits hold all */
            values[i] = i == 0 ? 1 : i % 3 ? some_value(20) : -values[random() % i];
            sum += (__float128)values[i];
        }
        expect(sum_of(values, 200), (double)sum);
    }
}

Test(exact_sum, any_order_gives_the_same_bits)
{
    enum { N = 1000000 };
    double *values = malloc(N * sizeof *values);
    srandom(11);
    for (int i = 0; i < N; i++)
        values[i] = some_value(i % 7 ? 30 : 300);
    for (int i = 1; i < N; i += 3) /* most of the large ones go out again */
        values[i] = -values[i - 1];
    double expected = expansion_sum(values, N);
    expect(sum_of(values, N), expected);
    shuffle(values, N);
    expect(sum_of(values, N), expected);
    free(values);
}

Test(exact_sum, small_sums_in_all_ranges)
{
    srandom(23);
    for (int round = 0; round < 20000; round++) {
        double values[12];
        int n = 1 + round % 12, spread = 1 << round % 10;
        for (int i = 0; i < n; i++)
            values[i] = some_value(spread);
        double expected = expansion_sum(values, n);
        expect(sum_of(values, n), expected == 0 ? 0 : expected);
    }
}

Test(exact_sum, any_split_over_ranks_gives_the_same_bits)
{
    enum { N = 5000 };
    double values[N];
    srandom(31);
    for (int i = 0; i < N; i++)
        values[i] = some_value(400);
    double expected = sum_of(values, N);
    for (int ranks = 1; ranks <= 64; ranks += 1 + ranks / 3) {
        struct exact_sum all = {{0}, 0};
        for (int r = 0; r < ranks; r++) {
            struct exact_sum own = {{0}, 0};
            int first = N * r / ranks;
            exact_sum_add(&own, values + first, N * (r + 1) / ranks - first);
            exact_sum_normalize(&own);
            for (int i = 0; i < EXACT_SUM_WORDS; i++)
                all.words[i] += own.words[i];
        }
        expect(exact_sum_round(&all), expected);
        shuffle(values, N);
    }
}

/* As after 2^31 - 3 additions of the largest values there are for some limbs: the next ones pass the carries on in time. */
Test(exact_sum, carries_are_passed_on_before_a_limb_is_full)
{
    const int64_t additions = ((int64_t)1 << 31) - 3, full = ((int64_t)1 << 32) - 1;
    for (int sign = -1; sign <= 1; sign += 2) {
        struct exact_sum sum = {{0}, additions};
        double value = ldexp((double)full, 34 * 32 - 1074), more[] = {sign * value, sign * value, sign * value};
        sum.words[34] = sign < 0 ? -(additions * full) : additions * full;
        exact_sum_add(&sum, more, 3);
        cr_assert_lt(sum.pending, 4);
        expect(exact_sum_round(&sum), sign * ldexp((double)full * (double)(additions + 3), 34 * 32 - 1074));
    }
}
