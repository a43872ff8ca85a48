/* Exponential on lanes. The compilers' vectorised library functions differ by library version; this one does not. */
#ifndef LOOPS_MATH_H
#define LOOPS_MATH_H

#include "kernels/cpu/loops/lanes.h"

/* Below this exp_lanes returns 0, so that products with its result never meet subnormal numbers, on which the machine is
 * a hundred times slower. exp(-80) is 2e-35. */
#define EXP_LEAST (-80.0f)
#define EXP_GREATEST 80.0f /* its inverse is no subnormal number either */

/* About 1 unit in the last place. 2^n times the Taylor series of exp(r), |r| <= ln(2) / 2: the first term left out, r^8/8!,
 * is 5e-9 at most. ln(2) is taken off in two parts, the first with zeros at its end, so that the products are exact. */
INLINE lanes exp_lanes(lanes x)
{
    const float to_integer = 0x1.8p23f; /* adding it leaves the nearest integer in the low bits */
    const float log2_e = 0x1.715476p+0f, ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
    int_lanes nonzero = x > EXP_LEAST;
    x = lanes_min(lanes_max(x, lanes_of(EXP_LEAST)), lanes_of(EXP_GREATEST));
    lanes shifted = x * log2_e + to_integer;
    lanes n = shifted - to_integer;
    lanes r = (x - n * ln2_high) - n * ln2_low;
    lanes p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    int_lanes scale = ((int_lanes)shifted << 23) + (127 << 23);
    return (lanes)(nonzero & (int_lanes)(p * (lanes)scale));
}

#endif
