/* Element types. */
#ifndef TENSOR_DTYPE_H
#define TENSOR_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum dtype {
    DTYPE_F32,
    DTYPE_BF16, /* the upper half of a float32; stored as uint16_t */
    DTYPE_F64,
    DTYPE_I32,
};

static inline size_t dtype_size(enum dtype t)
{
    switch (t) {
    case DTYPE_BF16: return 2;
    case DTYPE_F64: return 8;
    case DTYPE_F32:
    case DTYPE_I32: break;
    }
    return 4;
}

static inline const char *dtype_name(enum dtype t)
{
    switch (t) {
    case DTYPE_F32: return "float32";
    case DTYPE_BF16: return "bfloat16";
    case DTYPE_F64: return "float64";
    case DTYPE_I32: break;
    }
    return "int32";
}

/* Round to nearest, ties to even; a NaN stays a NaN. */
static inline uint16_t bf16_from_float(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

static inline float bf16_to_float(uint16_t b)
{
    uint32_t u = (uint32_t)b << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

#endif
