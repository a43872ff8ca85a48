/* For the processor: the functions of kernels/cuda/machine.h, in plain loops. */
#ifndef CUDA_MACHINE_H
#define CUDA_MACHINE_H

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

extern "C" {
#include "kernels/float8.h"
}

template <typename T> inline T *dynamic_shared()
{
    return reinterpret_cast<T *>(::cuda_on_cpu::dynamic_shared);
}

/* Not there before the thread's copy_async_wait; until then the place holds bytes of 0xff. */
inline void copy_async_16(void *shared, const void *global, int bytes = 16)
{
    ::cuda_on_cpu::copy_late(shared, global, bytes);
}

inline void copy_async_commit()
{
    ::cuda_on_cpu::copies_commit();
}

template <int PENDING> inline void copy_async_wait()
{
    ::cuda_on_cpu::copies_wait(PENDING);
}

inline float exp2_fast(float x)
{
    float y = exp2f(x);
    return fabsf(y) < 0x1p-126f ? 0.0f : y;
}

inline uint32_t pack_bf16(float first, float second)
{
    return __bfloat16_as_ushort(__float2bfloat16_rn(first)) |
           static_cast<uint32_t>(__bfloat16_as_ushort(__float2bfloat16_rn(second))) << 16;
}

inline uint32_t pack_e4m3(float first, float second)
{
    return float8_from(FLOAT8_E4M3, first) | static_cast<uint32_t>(float8_from(FLOAT8_E4M3, second)) << 8;
}

inline uint32_t pack_e5m2(float first, float second)
{
    return float8_from(FLOAT8_E5M2, first) | static_cast<uint32_t>(float8_from(FLOAT8_E5M2, second)) << 8;
}

namespace cuda_on_cpu {

struct matrices {
    const uint16_t *row; /* of 8 elements */
    uint32_t *to;        /* [4] */
};

template <bool TRANSPOSED> inline void join_matrices(void *const *given, unsigned)
{
    for (int lane = 0; lane < 32; lane++)
        for (int matrix = 0; matrix < 4; matrix++) {
            uint32_t two = 0;
            for (int i = 0; i < 2; i++) {
                int row = TRANSPOSED ? 2 * (lane % 4) + i : lane / 4, column = TRANSPOSED ? lane / 4 : 2 * (lane % 4) + i;
                two |= static_cast<uint32_t>(static_cast<matrices *>(given[8 * matrix + row])->row[column]) << 16 * i;
            }
            static_cast<matrices *>(given[lane])->to[matrix] = two;
        }
}

template <bool TRANSPOSED> inline void load_four_matrices(uint32_t (&to)[4], const void *row, place at)
{
    if (reinterpret_cast<uintptr_t>(row) % 16)
        die("load_matrices (%s:%d) of a row at %p: not aligned to 16 bytes", at.file, at.line, row);
    uint32_t result[4];
    matrices m = {static_cast<const uint16_t *>(row), result};
    meet_warp(0xffffffffu, join_matrices<TRANSPOSED>, &m, TRANSPOSED ? "load_matrices_transposed" : "load_matrices", at);
    for (int i = 0; i < 4; i++)
        to[i] = result[i];
}

/* A lane's part of a product; see kernels/cuda/machine.h for the layout. */
struct fragments {
    float *c;
    const uint32_t *a, *b;
};

void join_multiply_add(void *const *given, unsigned mask);

} // namespace cuda_on_cpu

inline void load_matrices(uint32_t (&to)[4], const void *shared_row, CUDA_ON_CPU_PLACE)
{
    ::cuda_on_cpu::load_four_matrices<false>(to, shared_row, CUDA_ON_CPU_HERE);
}

inline void load_matrices_transposed(uint32_t (&to)[4], const void *shared_row, CUDA_ON_CPU_PLACE)
{
    ::cuda_on_cpu::load_four_matrices<true>(to, shared_row, CUDA_ON_CPU_HERE);
}

inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CUDA_ON_CPU_PLACE)
{
    ::cuda_on_cpu::fragments f = {c, a, b};
    ::cuda_on_cpu::meet_warp(0xffffffffu, ::cuda_on_cpu::join_multiply_add, &f, "multiply_add", CUDA_ON_CPU_HERE);
}

#endif
