/* Functions of one thread that CUDA has in every translation unit: arithmetic, bits, loads and stores, atomics on integers (none
 * on floats: Cairn's sums have an order). */
#ifndef CUDA_ON_CPU_INTRINSICS_H
#define CUDA_ON_CPU_INTRINSICS_H

#include "vector_types.h"

#include <math.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <type_traits>

template <typename A, typename B>
    requires(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>)
inline std::common_type_t<A, B> min(A a, B b)
{
    std::common_type_t<A, B> x = a, y = b;
    if constexpr (std::is_floating_point_v<decltype(x)>)
        return fmin(x, y);
    else
        return y < x ? y : x;
}

template <typename A, typename B>
    requires(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>)
inline std::common_type_t<A, B> max(A a, B b)
{
    std::common_type_t<A, B> x = a, y = b;
    if constexpr (std::is_floating_point_v<decltype(x)>)
        return fmax(x, y);
    else
        return x < y ? y : x;
}

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __saturatef(float x) { return x > 0.0f ? fminf(x, 1.0f) : 0.0f; }
inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return powf(10.0f, x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __log10f(float x) { return log10f(x); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanf(float x) { return tanf(x); }
inline float __tanhf(float x) { return tanhf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __frsqrt_rn(float x) { return static_cast<float>(1.0 / sqrt(static_cast<double>(x))); }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }

/* Never joined into a fused multiply-add. */
#define CUDA_ON_CPU_APART __attribute__((optimize("fp-contract=off"), noinline))
CUDA_ON_CPU_APART inline float __fadd_rn(float x, float y) { return x + y; }
CUDA_ON_CPU_APART inline float __fsub_rn(float x, float y) { return x - y; }
CUDA_ON_CPU_APART inline float __fmul_rn(float x, float y) { return x * y; }
CUDA_ON_CPU_APART inline double __dadd_rn(double x, double y) { return x + y; }
CUDA_ON_CPU_APART inline double __dsub_rn(double x, double y) { return x - y; }
CUDA_ON_CPU_APART inline double __dmul_rn(double x, double y) { return x * y; }
inline double __ddiv_rn(double x, double y) { return x / y; }
inline double __dsqrt_rn(double x) { return sqrt(x); }

template <typename To, typename From> inline To cuda_on_cpu_bits(From from)
{
    static_assert(sizeof(To) == sizeof from);
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

/* Conversions saturate; NaN becomes 0. */
template <typename To, typename From> inline To cuda_on_cpu_saturate(From x)
{
    if (x != x)
        return 0;
    constexpr To lowest = std::is_signed_v<To> ? static_cast<To>(static_cast<To>(1) << (8 * sizeof(To) - 1)) : 0;
    constexpr To greatest = static_cast<To>(~lowest);
    if (x <= static_cast<From>(lowest))
        return lowest;
    return x >= static_cast<From>(greatest) ? greatest : static_cast<To>(x);
}

inline float __uint_as_float(unsigned x) { return cuda_on_cpu_bits<float>(x); }
inline float __int_as_float(int x) { return cuda_on_cpu_bits<float>(x); }
inline unsigned __float_as_uint(float x) { return cuda_on_cpu_bits<unsigned>(x); }
inline int __float_as_int(float x) { return cuda_on_cpu_bits<int>(x); }
inline double __longlong_as_double(long long x) { return cuda_on_cpu_bits<double>(x); }
inline long long __double_as_longlong(double x) { return cuda_on_cpu_bits<long long>(x); }
inline int __float2int_rn(float x) { return cuda_on_cpu_saturate<int>(rintf(x)); }
inline int __float2int_rz(float x) { return cuda_on_cpu_saturate<int>(truncf(x)); }
inline int __float2int_rd(float x) { return cuda_on_cpu_saturate<int>(floorf(x)); }
inline int __float2int_ru(float x) { return cuda_on_cpu_saturate<int>(ceilf(x)); }
inline unsigned __float2uint_rn(float x) { return cuda_on_cpu_saturate<unsigned>(rintf(x)); }
inline unsigned __float2uint_rz(float x) { return cuda_on_cpu_saturate<unsigned>(truncf(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline unsigned __umulhi(unsigned x, unsigned y) { return static_cast<unsigned>(static_cast<unsigned long long>(x) * y >> 32); }
inline int __mulhi(int x, int y) { return static_cast<int>(static_cast<long long>(x) * y >> 32); }
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y)
{
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(x) * y >> 64);
}
inline unsigned __brev(unsigned x)
{
    unsigned y = 0;
    for (int i = 0; i < 32; i++)
        y |= (x >> i & 1) << (31 - i);
    return y;
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector)
{
    unsigned long long both = static_cast<unsigned long long>(y) << 32 | x;
    unsigned z = 0;
    for (int i = 0; i < 4; i++) {
        unsigned choice = selector >> 4 * i & 15, byte = static_cast<unsigned>(both >> 8 * (choice & 7)) & 255;
        z |= (choice & 8 ? (byte & 128 ? 255u : 0u) : byte) << 8 * i;
    }
    return z;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by)
{
    return static_cast<unsigned>((static_cast<unsigned long long>(high) << 32 | low) << (by & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by)
{
    return static_cast<unsigned>((static_cast<unsigned long long>(high) << 32 | low) >> (by & 31));
}

#define CUDA_ON_CPU_LOAD(name) template <typename T> inline T name(const T *p) { return *p; }
#define CUDA_ON_CPU_STORE(name) template <typename T> inline void name(T *p, std::type_identity_t<T> x) { *p = x; }
CUDA_ON_CPU_LOAD(__ldg)
CUDA_ON_CPU_LOAD(__ldcg)
CUDA_ON_CPU_LOAD(__ldca)
CUDA_ON_CPU_LOAD(__ldcs)
CUDA_ON_CPU_LOAD(__ldlu)
CUDA_ON_CPU_LOAD(__ldcv)
CUDA_ON_CPU_STORE(__stwb)
CUDA_ON_CPU_STORE(__stcg)
CUDA_ON_CPU_STORE(__stcs)
CUDA_ON_CPU_STORE(__stwt)

/* One thread runs at a time, so that plain steps are atomic. */
template <typename T>
concept cuda_on_cpu_integer = std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, unsigned long long>;
#define CUDA_ON_CPU_ATOMIC(name, after)                                                                             \
    template <cuda_on_cpu_integer T> inline T name(T *p, std::type_identity_t<T> x)                                 \
    {                                                                                                               \
        T old = *p;                                                                                                 \
        *p = after;                                                                                                 \
        return old;                                                                                                 \
    }
CUDA_ON_CPU_ATOMIC(atomicAdd, static_cast<T>(static_cast<std::make_unsigned_t<T>>(old) + static_cast<std::make_unsigned_t<T>>(x)))
CUDA_ON_CPU_ATOMIC(atomicSub, static_cast<T>(static_cast<std::make_unsigned_t<T>>(old) - static_cast<std::make_unsigned_t<T>>(x)))
CUDA_ON_CPU_ATOMIC(atomicMax, old < x ? x : old)
CUDA_ON_CPU_ATOMIC(atomicMin, x < old ? x : old)
CUDA_ON_CPU_ATOMIC(atomicExch, x)
CUDA_ON_CPU_ATOMIC(atomicOr, old | x)
CUDA_ON_CPU_ATOMIC(atomicAnd, old & x)
CUDA_ON_CPU_ATOMIC(atomicXor, old ^ x)
CUDA_ON_CPU_ATOMIC(atomicInc, old >= x ? 0 : old + 1)
template <cuda_on_cpu_integer T> inline T atomicCAS(T *p, std::type_identity_t<T> expected, std::type_identity_t<T> x)
{
    T old = *p;
    if (old == expected)
        *p = x;
    return old;
}

inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void __nanosleep(unsigned) {}
inline long long clock64() { return static_cast<long long>(clock()); }
[[noreturn]] inline void __trap() { abort(); }

#endif
