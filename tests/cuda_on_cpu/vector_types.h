/* CUDA's short vectors, and the words that say where a function or variable lives. */
#ifndef CUDA_ON_CPU_VECTOR_TYPES_H
#define CUDA_ON_CPU_VECTOR_TYPES_H

#define __host__
#define __device__ __attribute__((unused))
#define __global__ __attribute__((unused))
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __align__(n) __attribute__((aligned(n)))
/* thread_local only so that the arrays are found again by shared_memory.cc, which fills them before each block. */
#define __shared__ static thread_local
#define __builtin_assume(x) ((void)0)

/* Kernels look at any memory as vectors. */
#define CUDA_ON_CPU_VECTOR __attribute__((may_alias))

#define CUDA_ON_CPU_VECTORS(type, name, align2, align4)                                                             \
    struct CUDA_ON_CPU_VECTOR name##1 { type x; };                                                                  \
    struct CUDA_ON_CPU_VECTOR __align__(align2) name##2 { type x, y; };                                             \
    struct CUDA_ON_CPU_VECTOR name##3 { type x, y, z; };                                                            \
    struct CUDA_ON_CPU_VECTOR __align__(align4) name##4 { type x, y, z, w; };                                       \
    static inline name##1 make_##name##1(type x) { return {x}; }                                                    \
    static inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                         \
    static inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                              \
    static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }

CUDA_ON_CPU_VECTORS(char, char, 2, 4)
CUDA_ON_CPU_VECTORS(unsigned char, uchar, 2, 4)
CUDA_ON_CPU_VECTORS(short, short, 4, 8)
CUDA_ON_CPU_VECTORS(unsigned short, ushort, 4, 8)
CUDA_ON_CPU_VECTORS(int, int, 8, 16)
CUDA_ON_CPU_VECTORS(unsigned, uint, 8, 16)
CUDA_ON_CPU_VECTORS(long long, longlong, 16, 16)
CUDA_ON_CPU_VECTORS(unsigned long long, ulonglong, 16, 16)
CUDA_ON_CPU_VECTORS(float, float, 8, 16)
CUDA_ON_CPU_VECTORS(double, double, 16, 16)

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};

#endif
