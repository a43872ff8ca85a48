/* Several elements that a thread takes at once. */
#ifndef CUDA_PACK_H
#define CUDA_PACK_H

#include "kernels/cuda/device.h"

/* What one access takes. */
template <int BYTES> struct access { typedef uint4 word; };
template <> struct access<2> { typedef unsigned short word; };
template <> struct access<4> { typedef unsigned int word; };
template <> struct access<8> { typedef uint2 word; };

/* N elements of T, 16 bytes or less, as words until they are used: so a load that depends on a condition is one instruction, and
 * those behind it do not wait for it. */
template <typename T, int N> struct pack {
    typedef typename access<N * sizeof(T)>::word access_word;
    static constexpr int words = N * sizeof(T) < 4 ? 1 : N * sizeof(T) / 4;
    unsigned int w[words];

    __device__ __forceinline__ float at(int i) const
    {
        if (sizeof(T) == 4)
            return __uint_as_float(w[i]);
        return __uint_as_float(i % 2 == 0 ? w[i / 2] << 16 : w[i / 2] & 0xffff0000u);
    }
};

/* How many T have 16 bytes. */
template <typename T> constexpr int PACK = 16 / sizeof(T);

__device__ __forceinline__ void split(unsigned int *w, uint4 x)
{
    w[0] = x.x;
    w[1] = x.y;
    w[2] = x.z;
    w[3] = x.w;
}
__device__ __forceinline__ void split(unsigned int *w, uint2 x)
{
    w[0] = x.x;
    w[1] = x.y;
}
__device__ __forceinline__ void split(unsigned int *w, unsigned int x) { w[0] = x; }

__device__ __forceinline__ void join(uint4 *x, const unsigned int *w) { *x = make_uint4(w[0], w[1], w[2], w[3]); }
__device__ __forceinline__ void join(uint2 *x, const unsigned int *w) { *x = make_uint2(w[0], w[1]); }
__device__ __forceinline__ void join(unsigned int *x, const unsigned int *w) { *x = w[0]; }
__device__ __forceinline__ void join(unsigned short *x, const unsigned int *w) { *x = static_cast<unsigned short>(w[0]); }

template <int N> __device__ __forceinline__ pack<float, N> pack_of(const float (&v)[N], const float *)
{
    pack<float, N> x;
#pragma unroll
    for (int i = 0; i < N; i++)
        x.w[i] = __float_as_uint(v[i]);
    return x;
}
template <int N> __device__ __forceinline__ pack<bf16, N> pack_of(const float (&v)[N], const bf16 *)
{
    pack<bf16, N> x;
#pragma unroll
    for (int i = 0; i < N; i += 2) {
        __nv_bfloat162 two = __floats2bfloat162_rn(v[i], i + 1 < N ? v[i + 1] : 0.0f);
        x.w[i / 2] = static_cast<unsigned int>(__bfloat16_as_ushort(two.y)) << 16 | __bfloat16_as_ushort(two.x);
    }
    return x;
}

/* P is aligned as a pack's bytes. */
template <int N, typename T> __device__ __forceinline__ pack<T, N> load_pack(const T *p)
{
    pack<T, N> x;
    split(x.w, *reinterpret_cast<const typename pack<T, N>::access_word *>(p));
    return x;
}

/* Rounds V to it. */
template <int N, typename T> __device__ __forceinline__ void store_pack(T *p, const float (&v)[N])
{
    join(reinterpret_cast<typename pack<T, N>::access_word *>(p), pack_of(v, p).w);
}

/* Columns COLUMN.. of a row of WIDTH, zeros behind its end. ALIGNED: the row is, and WIDTH is a multiple of N; else elements are
 * taken one by one, but by the same threads, so that no sum depends on where an array happens to lie. */
template <bool ALIGNED, int N, typename T> __device__ __forceinline__ pack<T, N> load_columns(const T *row, int column, int width)
{
    if constexpr (ALIGNED) {
        pack<T, N> x = {};
        if (column < width)
            x = load_pack<N>(row + column);
        return x;
    } else {
        float v[N];
#pragma unroll
        for (int i = 0; i < N; i++)
            v[i] = column + i < width ? to_float(row[column + i]) : 0;
        return pack_of(v, row);
    }
}

template <bool ALIGNED, int N, typename T>
__device__ __forceinline__ void store_columns(T *row, int column, int width, const float (&v)[N])
{
    if constexpr (ALIGNED) {
        if (column < width)
            store_pack<N>(row + column, v);
    } else {
#pragma unroll
        for (int i = 0; i < N; i++)
            if (column + i < width)
                row[column + i] = from_float<T>(v[i]);
    }
}

/* Whether a pack of N may begin at P. */
template <int N, typename T> static inline bool pack_aligned(const T *p)
{
    return reinterpret_cast<uintptr_t>(p) % (N * sizeof(T)) == 0;
}

/* Whether packs of 16 bytes may be taken from all rows of WIDTH elements. */
template <typename T> static inline bool rows_aligned(const T *p, int64_t width)
{
    return width % PACK<T> == 0 && pack_aligned<PACK<T>>(p);
}

#endif
