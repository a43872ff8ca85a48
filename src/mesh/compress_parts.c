/* The parts of compression that need no other rank (mesh/compress.h). */
#include <math.h>
#include <string.h>

#include "mesh/compress.h"

enum { LARGEST_BF16 = 0x7f7f, SIGN = 0x8000 };

float compress_round(float x, uint16_t *rounded)
{
    *rounded = bf16_from_float(x);
    if (!isfinite(x))
        return 0;
    if (!isfinite(bf16_to_float(*rounded)))
        *rounded = (uint16_t)((*rounded & SIGN) | LARGEST_BF16);
    return x - bf16_to_float(*rounded); /* a multiple of x's last bit, of no more bits than x: exact */
}

/* Magnitudes of floats are ordered as their bits are. */
static uint32_t magnitude(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x7fffffff;
}

enum { MAGNITUDE_BITS = 31, DIGIT_BITS = 11, DIGITS = 1 << DIGIT_BITS };

/* The Kth largest magnitude, found digit by digit from the highest; *EQUAL: how many elements of this magnitude are among the K. */
static uint32_t kth_magnitude(const float *x, int64_t n, int64_t k, int64_t *equal)
{
    uint32_t found = 0;
    for (int shift = MAGNITUDE_BITS; shift > 0;) {
        int bits = shift < DIGIT_BITS ? shift : DIGIT_BITS;
        int64_t counts[DIGITS] = {0};
        uint32_t above = (uint32_t)((uint64_t)found >> shift), mask = (1u << bits) - 1;
        int higher = shift;
        shift -= bits;
        for (int64_t i = 0; i < n; i++) {
            uint32_t m = magnitude(x[i]);
            if (m >> higher == above)
                counts[m >> shift & mask]++;
        }
        uint32_t digit = mask;
        for (; counts[digit] < k; digit--)
            k -= counts[digit];
        found |= digit << shift;
    }
    *equal = k;
    return found;
}

void compress_select(const float *x, int64_t n, int64_t k, int32_t *indices)
{
    int64_t equal = 0, taken = 0;
    if (k <= 0)
        return;
    uint32_t least = kth_magnitude(x, n, k, &equal);
    for (int64_t i = 0; i < n && taken < k; i++) {
        uint32_t m = magnitude(x[i]);
        if (m > least || (m == least && equal-- > 0))
            indices[taken++] = (int32_t)i;
    }
}

static double dot(const float *a, const float *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

/* Of a column that is nearly a sum of those before, rounding is all that would be left: it is dropped when less than this is. */
static const double least_left = 1e-5;

void compress_orthonormalize(float *columns, int64_t n, int count)
{
    for (int c = 0; c < count; c++) {
        float *column = columns + c * n;
        double before = sqrt(dot(column, column, n));
        for (int k = 0; k < c; k++) {
            const float *other = columns + k * n;
            double along = dot(column, other, n);
            for (int64_t i = 0; i < n; i++)
                column[i] = (float)((double)column[i] - along * (double)other[i]);
        }
        double left = sqrt(dot(column, column, n));
        bool dropped = left <= least_left * before;
        for (int64_t i = 0; i < n; i++)
            column[i] = dropped ? 0 : (float)((double)column[i] / left);
    }
}
