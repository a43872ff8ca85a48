/* Sixteen lanes of float at once, whatever the instruction set: the compiler splits them into what the machine has, so
 * that sums have one order for every width. Functions take HALF as a constant: bfloat16 or float32 in memory. */
#ifndef LOOPS_LANES_H
#define LOOPS_LANES_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "tensor/dtype.h"

enum { LANES = 16 };

typedef float lanes __attribute__((vector_size(64)));
typedef int32_t int_lanes __attribute__((vector_size(64)));
typedef uint32_t word_lanes __attribute__((vector_size(64)));
typedef uint16_t half_lanes __attribute__((vector_size(32)));

#define INLINE static inline __attribute__((always_inline))

INLINE lanes lanes_of(float x)
{
    return (lanes){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}

/* a where MASK is all ones, b where it is 0. */
INLINE lanes lanes_select(int_lanes mask, lanes a, lanes b)
{
    return (lanes)((mask & (int_lanes)a) | (~mask & (int_lanes)b));
}

INLINE lanes lanes_max(lanes a, lanes b)
{
    return lanes_select(a > b, a, b);
}

INLINE lanes lanes_min(lanes a, lanes b)
{
    return lanes_select(a < b, a, b);
}

/* In one order: halves, quarters, ... */
INLINE float lanes_sum(lanes v)
{
    float x[LANES];
    memcpy(x, &v, sizeof x);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            x[i] += x[i + width];
    return x[0];
}

INLINE float lanes_greatest(lanes v)
{
    float x[LANES];
    memcpy(x, &v, sizeof x);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            x[i] = x[i] > x[i + width] ? x[i] : x[i + width];
    return x[0];
}

INLINE lanes lanes_of_half(half_lanes h)
{
    return (lanes)(__builtin_convertvector(h, word_lanes) << 16);
}

/* As bf16_from_float. */
INLINE half_lanes lanes_to_half(lanes v)
{
    word_lanes u = (word_lanes)v;
    word_lanes nan = (word_lanes)(v != v);
    word_lanes rounded = (u + 0x7fffu + (u >> 16 & 1)) >> 16;
    return __builtin_convertvector((nan & (u >> 16 | 0x40)) | (~nan & rounded), half_lanes);
}

/* As rounding_stochastic (kernels/rounding.h). */
INLINE half_lanes lanes_to_half_by(lanes v, half_lanes random)
{
    word_lanes u = (word_lanes)v, r = __builtin_convertvector(random, word_lanes), size = u & 0x7fffffffu;
    word_lanes nan = (word_lanes)(v != v), kept = (word_lanes)((int_lanes)size >= (int_lanes)(0x7f800000u - r));
    return __builtin_convertvector((kept & (u >> 16 | (nan & 0x40))) | (~kept & (u + r) >> 16), half_lanes);
}

/* Elements i..i+15. */
INLINE lanes lanes_load(const void *p, int64_t i, bool half)
{
    if (half) {
        half_lanes h;
        memcpy(&h, (const uint16_t *)p + i, sizeof h);
        return lanes_of_half(h);
    }
    lanes v;
    memcpy(&v, (const float *)p + i, sizeof v);
    return v;
}

INLINE void lanes_store(void *p, int64_t i, lanes v, bool half)
{
    if (half) {
        half_lanes h = lanes_to_half(v);
        memcpy((uint16_t *)p + i, &h, sizeof h);
    } else {
        memcpy((float *)p + i, &v, sizeof v);
    }
}

/* The first N of them, N below 16; FILL in the other lanes. */
INLINE lanes lanes_load_part(const void *p, int64_t i, int64_t n, bool half, float fill)
{
    float x[LANES];
    for (int l = 0; l < LANES; l++)
        x[l] = l < n ? (half ? bf16_to_float(((const uint16_t *)p)[i + l]) : ((const float *)p)[i + l]) : fill;
    lanes v;
    memcpy(&v, x, sizeof v);
    return v;
}

INLINE void lanes_store_part(void *p, int64_t i, int64_t n, lanes v, bool half)
{
    float x[LANES];
    memcpy(x, &v, sizeof x);
    for (int64_t l = 0; l < n; l++) {
        if (half)
            ((uint16_t *)p)[i + l] = bf16_from_float(x[l]);
        else
            ((float *)p)[i + l] = x[l];
    }
}

/* Whole lanes, or the N - I that are left. */
INLINE lanes lanes_load_to(const void *p, int64_t i, int64_t n, bool half, float fill)
{
    return i + LANES <= n ? lanes_load(p, i, half) : lanes_load_part(p, i, n - i, half, fill);
}

INLINE void lanes_store_to(void *p, int64_t i, int64_t n, lanes v, bool half)
{
    if (i + LANES <= n)
        lanes_store(p, i, v, half);
    else
        lanes_store_part(p, i, n - i, v, half);
}

/* Element i of an array of act. */
INLINE const void *act_at(const void *p, int64_t i, bool half)
{
    return (const char *)p + i * (half ? 2 : 4);
}

INLINE void *act_at_mutable(void *p, int64_t i, bool half)
{
    return (char *)p + i * (half ? 2 : 4);
}

#endif
