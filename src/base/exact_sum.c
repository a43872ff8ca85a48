#include "base/exact_sum.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum {
    LIMB_BITS = 32,
    SIGNIFICAND_BITS = DBL_MANT_DIG,
    SMALLEST = DBL_MIN_EXP - DBL_MANT_DIG, /* exponent of the unit: -1074 */
    PLUS_INFINITIES = EXACT_SUM_LIMBS,
    MINUS_INFINITIES,
    NANS
};

static const int64_t limb_mask = ((int64_t)1 << LIMB_BITS) - 1;

/* Each addition changes a limb by less than 2^32, and a normalized limb is below that, so this many leave it within 63 bits. */
static const int64_t most_pending = ((int64_t)1 << 31) - 2;

/* A significand of 53 bits, shifted by up to 31, spans three limbs. */
static void add_finite(int64_t *limbs, uint64_t bits)
{
    int exponent = (int)(bits >> (SIGNIFICAND_BITS - 1) & 0x7ff);
    uint64_t significand = bits & (((uint64_t)1 << (SIGNIFICAND_BITS - 1)) - 1);
    if (exponent)
        significand |= (uint64_t)1 << (SIGNIFICAND_BITS - 1);
    int shift = exponent ? exponent - 1 : 0; /* in units of 2^-1074 */
    int64_t *limb = limbs + shift / LIMB_BITS;
    shift %= LIMB_BITS;
    uint64_t low = significand << shift, high = shift ? significand >> (64 - shift) : 0;
    int64_t sign = bits >> 63 ? -1 : 1;
    limb[0] += sign * (int64_t)(low & (uint64_t)limb_mask);
    limb[1] += sign * (int64_t)(low >> LIMB_BITS);
    limb[2] += sign * (int64_t)high;
}

void exact_sum_add(struct exact_sum *sum, const double *values, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (isfinite(values[i])) {
            uint64_t bits;
            memcpy(&bits, &values[i], sizeof bits);
            add_finite(sum->words, bits);
            if (++sum->pending >= most_pending)
                exact_sum_normalize(sum);
        } else {
            sum->words[isnan(values[i]) ? NANS : values[i] > 0 ? PLUS_INFINITIES : MINUS_INFINITIES]++;
        }
    }
}

void exact_sum_normalize(struct exact_sum *sum)
{
    int64_t carry = 0;
    for (int i = 0; i < EXACT_SUM_LIMBS; i++) {
        int64_t limb = sum->words[i] + carry;
        carry = i < EXACT_SUM_LIMBS - 1 ? (limb - (limb & limb_mask)) / (limb_mask + 1) : 0;
        sum->words[i] = i < EXACT_SUM_LIMBS - 1 ? limb & limb_mask : limb;
    }
    sum->pending = 0;
}

/* LIMBS, normalized, become their magnitude; whether they were below zero, which the last limb tells. */
static bool take_sign(int64_t *limbs)
{
    if (limbs[EXACT_SUM_LIMBS - 1] >= 0)
        return false;
    struct exact_sum negated = {{0}, 0};
    for (int i = 0; i < EXACT_SUM_LIMBS; i++)
        negated.words[i] = -limbs[i];
    exact_sum_normalize(&negated);
    memcpy(limbs, negated.words, EXACT_SUM_LIMBS * sizeof *limbs);
    return true;
}

/* N bits, at most 53, from bit FIRST up. */
static uint64_t bits_from(const int64_t *limbs, int first, int n)
{
    uint64_t value = 0;
    for (int i = first + n - 1; i >= first; i--)
        value = value << 1 | (uint64_t)(limbs[i / LIMB_BITS] >> i % LIMB_BITS & 1);
    return value;
}

static bool any_below(const int64_t *limbs, int bit)
{
    for (int i = 0; i < bit / LIMB_BITS; i++)
        if (limbs[i])
            return true;
    return limbs[bit / LIMB_BITS] & (((int64_t)1 << bit % LIMB_BITS) - 1);
}

/* The double nearest to a magnitude. Its leading 53 bits, or all where it has fewer, are an integer that a double holds. */
static double nearest(const int64_t *limbs)
{
    int top = EXACT_SUM_LIMBS - 1;
    while (top >= 0 && !limbs[top])
        top--;
    if (top < 0)
        return 0;
    int length = top * LIMB_BITS;
    for (int64_t limb = limbs[top]; limb; limb >>= 1)
        length++;
    if (length <= SIGNIFICAND_BITS)
        return ldexp((double)bits_from(limbs, 0, length), SMALLEST);
    int dropped = length - SIGNIFICAND_BITS;
    uint64_t significand = bits_from(limbs, dropped, SIGNIFICAND_BITS);
    bool half = bits_from(limbs, dropped - 1, 1);
    if (half && (significand & 1 || any_below(limbs, dropped - 1)))
        significand++; /* 2^53, if it comes to that, is a double too */
    return ldexp((double)significand, SMALLEST + dropped);
}

double exact_sum_round(const struct exact_sum *sum)
{
    const int64_t *w = sum->words;
    if (w[NANS] || (w[PLUS_INFINITIES] && w[MINUS_INFINITIES]))
        return NAN;
    if (w[PLUS_INFINITIES] || w[MINUS_INFINITIES])
        return w[PLUS_INFINITIES] ? INFINITY : -INFINITY;
    struct exact_sum normal = *sum;
    exact_sum_normalize(&normal);
    bool negative = take_sign(normal.words);
    double magnitude = nearest(normal.words);
    return negative ? -magnitude : magnitude;
}
