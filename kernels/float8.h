/* Numbers of 8 bits, E4M3 and E5M2 (Micikevicius et al., arXiv 2209.05433): a sign, 4 or 5 bits of exponent, 3 or 2 of fraction. Plain
 * conversions; a GPU has instructions for them. */
#ifndef KERNELS_FLOAT8_H
#define KERNELS_FLOAT8_H

#include <math.h>
#include <stdint.h>

/* E4M3 up to 448, without infinities; E5M2 up to 57344, with a wider range and fewer digits. */
enum float8 { FLOAT8_NONE, FLOAT8_E4M3, FLOAT8_E5M2 };

enum { FLOAT8_NAN = 0x7f };

static inline int float8_fraction_bits(enum float8 type)
{
    return type == FLOAT8_E4M3 ? 3 : 2;
}

static inline int float8_bias(enum float8 type)
{
    return type == FLOAT8_E4M3 ? 7 : 15;
}

/* The bits of the largest finite number. */
static inline uint8_t float8_most_bits(enum float8 type)
{
    return type == FLOAT8_E4M3 ? 0x7e : 0x7b;
}

static inline double float8_most(enum float8 type)
{
    return type == FLOAT8_E4M3 ? 448 : 57344;
}

/* The nearest, of two as near the even one; beyond the largest finite number, and of infinities, that one. Of NaN FLOAT8_NAN. */
static inline uint8_t float8_from(enum float8 type, double x)
{
    int exponent = 0, least = 1 - float8_bias(type);
    double size = fabs(x);
    if (isnan(x))
        return FLOAT8_NAN;
    uint8_t sign = (uint8_t)(signbit(x) ? 0x80 : 0);
    if (size >= float8_most(type))
        return (uint8_t)(sign | float8_most_bits(type));
    frexp(size, &exponent);
    exponent = size > 0 && exponent - 1 > least ? exponent - 1 : least;
    double digits = rint(ldexp(size, float8_fraction_bits(type) - exponent)); /* with the leading 1 of a normal number: it carries to the exponent */
    return (uint8_t)(sign | (((exponent - least) << float8_fraction_bits(type)) + (int)digits));
}

static inline double float8_to(enum float8 type, uint8_t bits)
{
    int fraction_bits = float8_fraction_bits(type), size = bits & 0x7f;
    int exponent = size >> fraction_bits, fraction = size & ((1 << fraction_bits) - 1);
    double x;
    if (size > float8_most_bits(type))
        x = type == FLOAT8_E5M2 && fraction == 0 ? (double)INFINITY : (double)NAN;
    else if (exponent == 0)
        x = ldexp(fraction, 1 - float8_bias(type) - fraction_bits);
    else
        x = ldexp(fraction + (1 << fraction_bits), exponent - float8_bias(type) - fraction_bits);
    return bits & 0x80 ? -x : x;
}

/* Of two scales at most that: the product of their inverses is then no denormal number of float32. */
enum { FLOAT8_SCALE_MOST = 63 };

/* What a tensor is multiplied by before it is converted: the greatest power of two, up to 2^FLOAT8_SCALE_MOST, by which GREATEST, its greatest
 * absolute value, is still a finite number; 1 of 0, NaN where GREATEST is not finite, so that what becomes of the tensor is NaN too. */
static inline double float8_scale(enum float8 type, double greatest)
{
    int exponent = 0, most = 0;
    if (!isfinite(greatest))
        return (double)NAN;
    if (greatest == 0)
        return 1;
    double digits = frexp(greatest, &exponent), digits_most = frexp(float8_most(type), &most);
    int power = most - exponent - (digits > digits_most);
    return ldexp(1, power < FLOAT8_SCALE_MOST ? power : FLOAT8_SCALE_MOST);
}

#endif
