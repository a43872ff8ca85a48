/* Kernels that compute elements from those of the same number. An operation is a struct with pointers and
 *
 *     count                        elements of one pack
 *     each                         packs that a thread loads before it stores the first
 *     inputs<N>                    what it reads for N elements
 *     aligned(at) const            whether packs may begin at element AT, on the host
 *     load<N>(at) const, store<N>(at, inputs<N>) const      N is count or 1
 *     begin()                      what a thread does first; may be left out
 *
 * An output may be an input: a thread reads its elements before it writes them. */
#ifndef CUDA_MAP_H
#define CUDA_MAP_H

#include "kernels/cuda/pack.h"

enum { MAP_THREADS = 256 };

/* Elements 0..head-1, then packs, then what is left; rest: all elements outside of packs. */
struct map_parts {
    int64_t head, packs, rest;
    unsigned pack_blocks;
};

template <typename Op> __global__ void __launch_bounds__(MAP_THREADS) map_kernel(Op op, struct map_parts parts)
{
    if constexpr (requires { op.begin(); })
        op.begin();
    if (blockIdx.x >= parts.pack_blocks) {
        int64_t i = static_cast<int64_t>(blockIdx.x - parts.pack_blocks) * MAP_THREADS + threadIdx.x;
        if (i < parts.rest) {
            int64_t at = i < parts.head ? i : i + parts.packs * Op::count;
            op.template store<1>(at, op.template load<1>(at));
        }
        return;
    }
    int64_t first = static_cast<int64_t>(blockIdx.x) * (MAP_THREADS * Op::each) + threadIdx.x;
    typename Op::template inputs<Op::count> x[Op::each];
#pragma unroll
    for (int i = 0; i < Op::each; i++)
        if (first + i * MAP_THREADS < parts.packs)
            x[i] = op.template load<Op::count>(parts.head + (first + i * MAP_THREADS) * Op::count);
#pragma unroll
    for (int i = 0; i < Op::each; i++)
        if (first + i * MAP_THREADS < parts.packs)
            op.template store<Op::count>(parts.head + (first + i * MAP_THREADS) * Op::count, x[i]);
}

template <typename Op> void map(struct cuda *cuda, const char *what, const Op &op, int64_t n)
{
    struct map_parts parts = {};
    while (parts.head < Op::count && !op.aligned(parts.head))
        parts.head++;
    if (parts.head < Op::count && parts.head <= n)
        parts.packs = (n - parts.head) / Op::count;
    else
        parts.head = 0;
    parts.rest = n - parts.packs * Op::count;
    parts.pack_blocks = blocks_of(parts.packs, MAP_THREADS * Op::each);
    launch(cuda, what, map_kernel<Op>, dim3(parts.pack_blocks + blocks_of(parts.rest, MAP_THREADS)), dim3(MAP_THREADS), 0, op,
           parts);
}

/* y = F::of(a, b) with float arithmetic; b is not read unless F::two. */
template <typename T, typename F> struct map_values {
    T *y;
    const T *a, *b;

    static constexpr int count = PACK<T>, each = 2;
    template <int N> struct inputs {
        pack<T, N> a, b;
    };

    bool aligned(int64_t at) const
    {
        return pack_aligned<count>(y + at) && pack_aligned<count>(a + at) && (!F::two || pack_aligned<count>(b + at));
    }

    template <int N> __device__ __forceinline__ inputs<N> load(int64_t at) const
    {
        inputs<N> x;
        x.a = load_pack<N>(a + at);
        if (F::two)
            x.b = load_pack<N>(b + at);
        return x;
    }

    template <int N> __device__ __forceinline__ void store(int64_t at, const inputs<N> &x) const
    {
        float out[N];
#pragma unroll
        for (int i = 0; i < N; i++)
            out[i] = F::of(x.a.at(i), F::two ? x.b.at(i) : 0);
        store_pack<N>(y + at, out);
    }
};

struct sum_of_two {
    static constexpr bool two = true;
    static __device__ __forceinline__ float of(float a, float b) { return a + b; }
};

#endif
