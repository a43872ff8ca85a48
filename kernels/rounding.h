/* What all backends must agree on about stochastic rounding (backend.h defines it). */
#ifndef KERNELS_ROUNDING_H
#define KERNELS_ROUNDING_H

#include <stdint.h>

#include "base/device_code.h"

/* Half H of the eight of four random words. Written so that a device keeps them in registers. */
DEVICE_CODE static inline uint32_t rounding_half(const uint32_t words[4], unsigned h)
{
    uint32_t low = h & 4 ? words[2] : words[0], high = h & 4 ? words[3] : words[1], word = h & 2 ? high : low;
    return h & 1 ? word >> 16 : word & 0xffff;
}

/* The bfloat16 of a float32's BITS and 16 random ones. */
DEVICE_CODE static inline uint32_t rounding_stochastic(uint32_t bits, uint32_t random)
{
    uint32_t size = bits & 0x7fffffff;
    if (size + random >= 0x7f800000)
        return bits >> 16 | (size > 0x7f800000 ? 0x40 : 0); /* of a NaN, whatever is left of it */
    return (bits + random) >> 16;
}

#endif
