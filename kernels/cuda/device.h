/* Device functions that several kernels use. */
#ifndef CUDA_DEVICE_H
#define CUDA_DEVICE_H

#include "kernels/cuda/cuda.h"

enum { WARP = 32 };
#define WHOLE_WARP 0xffffffffu

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }

template <typename T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) { return __float2bfloat16_rn(x); }

/* 16 bytes of T: what one load or store of a thread takes at most. */
template <typename T> struct __align__(16) vector16 {
    static constexpr int count = 16 / sizeof(T);
    T v[count];
};

template <typename T> __device__ __forceinline__ vector16<T> load16(const T *p)
{
    vector16<T> x;
    *reinterpret_cast<uint4 *>(&x) = *reinterpret_cast<const uint4 *>(p);
    return x;
}

template <typename T> __device__ __forceinline__ void store16(T *p, const vector16<T> &x)
{
    *reinterpret_cast<uint4 *>(p) = *reinterpret_cast<const uint4 *>(&x);
}

struct sum_of {
    template <typename T> static __device__ __forceinline__ T join(T a, T b) { return a + b; }
};
struct greatest_of {
    static __device__ __forceinline__ float join(float a, float b) { return fmaxf(a, b); }
};

/* Of all 32 lanes, in one order; every lane has it. Op: sum_of or greatest_of. */
template <typename Op, typename T> __device__ __forceinline__ T warp_reduce(T x)
{
#pragma unroll
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2)
        x = Op::join(x, __shfl_xor_sync(WHOLE_WARP, x, lanes));
    return x;
}

/* Of all threads of a block of whole warps, 32 at most; every thread has it. BETWEEN[32] is shared memory, free again when all
 * threads have met at the next __syncthreads; this begins with one. NEUTRAL: 0 for sums, -infinity for the greatest. */
template <typename Op, typename T> __device__ __forceinline__ T block_reduce(T x, T *between, T neutral)
{
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
    x = warp_reduce<Op>(x);
    __syncthreads();
    if (lane == 0)
        between[warp] = x;
    __syncthreads();
    return warp_reduce<Op>(lane < warps ? between[lane] : neutral);
}

#endif
