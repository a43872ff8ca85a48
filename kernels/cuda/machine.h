/* What only a GPU has, beyond what cuda_runtime.h declares for every compiler: one function for each PTX instruction that kernels use.
 * tests/cuda_on_cpu has a header of the same name with the same functions for the processor. */
#ifndef CUDA_MACHINE_H
#define CUDA_MACHINE_H

#include <cuda_runtime.h>

#include <cstdint>

/* The block's dynamic shared memory, 16-byte aligned. */
template <typename T> __device__ __forceinline__ T *dynamic_shared()
{
    extern __shared__ __align__(128) unsigned char dynamic_shared_bytes[];
    return reinterpret_cast<T *>(dynamic_shared_bytes);
}

/* 16 bytes from device memory to shared memory behind the thread's back; zeros instead of what is beyond BYTES (0 or 16).
 * All threads that copied commit and wait, then the block meets at __syncthreads. Needs sm_80. */
__device__ __forceinline__ void copy_async_16(void *shared, const void *global, int bytes = 16)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((uint32_t)__cvta_generic_to_shared(shared)), "l"(global),
                 "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void copy_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until all but the thread's last PENDING groups are there. */
template <int PENDING> __device__ __forceinline__ void copy_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

/* Four 8x8 matrices of 16-bit elements from shared memory to the fragments of a warp: lane l gives the address of row l % 8 of matrix
 * l / 8 (16 bytes, aligned) and receives of each matrix row l / 4, columns 2 * (l % 4) and the next. */
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void *shared_row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(shared_row)));
}

/* The same, each matrix transposed: column l / 4, rows 2 * (l % 4) and the next. */
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&to)[4], const void *shared_row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(shared_row)));
}

/* c[16,8] += a[16,16] b[16,8] by a warp's tensor cores: a and b of bfloat16, c of float32. Fragments as PTX's
 * mma.m16n8k16 has them (PTX ISA, "Matrix Fragments for mma.m16n8k16"): with g = lane / 4, t = lane % 4,
 * a[0] row g, columns 2t, 2t+1; a[1] row g + 8; a[2], a[3] the same rows, columns + 8;
 * b[0] rows 2t, 2t+1 of column g; b[1] rows + 8; c[0], c[1] row g, columns 2t, 2t+1; c[2], c[3] row g + 8. */
__device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* 2^x; results under 2^-126 are zero. */
__device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Both rounded to bfloat16, FIRST in the low half. */
__device__ __forceinline__ uint32_t pack_bf16(float first, float second)
{
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(second), "f"(first));
    return packed;
}

/* Both to float8 E4M3, FIRST in the low one of two bytes: the nearest, of two as near the even one, infinities the largest finite number, NaN 0x7f
 * (PTX ISA, "cvt"). Needs sm_89; older code has none and is never to come here. */
__device__ __forceinline__ uint32_t pack_e4m3(float first, float second)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    uint16_t packed;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(packed) : "f"(second), "f"(first));
    return packed;
#else
    __trap();
    return static_cast<uint32_t>(first + second);
#endif
}

/* The same to E5M2. */
__device__ __forceinline__ uint32_t pack_e5m2(float first, float second)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    uint16_t packed;
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(packed) : "f"(second), "f"(first));
    return packed;
#else
    __trap();
    return static_cast<uint32_t>(first + second);
#endif
}

#endif
