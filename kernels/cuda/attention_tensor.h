/* What the passes on tensor cores share. A warp holds 16 M rows of a tile; its products' results are fragments of
 * mma.m16n8k16 (machine.h): with g = lane / 4 and t = lane % 4, elements 0, 1 of c[m][n] are row 16 m + g, columns
 * 8 n + 2 t and the next, elements 2, 3 the same of row + 8. Heads are padded with zeros to SIZE elements, 64 or 128. */
#ifndef CUDA_ATTENTION_TENSOR_H
#define CUDA_ATTENTION_TENSOR_H

#include "kernels/cuda/attention.h"

/* Rows in shared memory are 16 bytes longer, so that 8 of them begin in different banks. */
template <int SIZE> constexpr int row_pitch = SIZE + 8;

__device__ __forceinline__ int lane_number()
{
    return threadIdx.x % WARP;
}

/* The warp's number, known to be the same in all lanes. */
__device__ __forceinline__ int warp_number()
{
    return __shfl_sync(WHOLE_WARP, static_cast<int>(threadIdx.x / WARP), 0);
}

/* Begins to copy ROWS vectors; zeros beyond their count and length. */
template <int SIZE, int ROWS, int THREADS>
__device__ __forceinline__ void load_tile(bf16 *to, const vectors<const bf16> &x, int length)
{
    constexpr int chunks = SIZE / 8, high = THREADS / chunks;
    int row = threadIdx.x / chunks, column = threadIdx.x % chunks * 8;
#pragma unroll
    for (int i = 0; i < ROWS; i += high) {
        bool there = row + i < x.count && column < length;
        copy_async_16(to + (row + i) * row_pitch<SIZE> + column, there ? x.row(row + i) + column : x.at, there ? 16 : 0);
    }
}

/* 16 M rows in shared memory as a product's left side; HELD in registers from the beginning, or read whenever they are needed. */
template <int M, int SIZE, bool HELD> struct left_rows {
    static constexpr int held = HELD ? SIZE / 16 : 1;
    const bf16 *at;
    uint32_t fragments[held][M][4];

    __device__ __forceinline__ void load(int to, int k)
    {
#pragma unroll
        for (int m = 0; m < M; m++)
            load_matrices(fragments[to][m], at + m * 16 * row_pitch<SIZE> + k * 16);
    }
    __device__ __forceinline__ void begin(const bf16 *rows)
    {
        at = rows + lane_number() % 16 * row_pitch<SIZE> + lane_number() / 16 * 8;
        if constexpr (HELD) {
#pragma unroll
            for (int k = 0; k < held; k++)
                load(k, k);
        }
    }
    __device__ __forceinline__ const uint32_t (&of(int k))[M][4]
    {
        if constexpr (!HELD)
            load(0, k);
        return fragments[HELD ? k : 0];
    }
};

template <int M, int N> __device__ __forceinline__ void clear(float (&c)[M][N][4])
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                c[m][n][e] = 0;
}

/* c = left by the transpose of 8 N rows at RIGHT. */
template <int M, int N, int SIZE, bool HELD>
__device__ __forceinline__ void multiply_turned(float (&c)[M][N][4], left_rows<M, SIZE, HELD> &left, const bf16 *right)
{
    int lane = lane_number();
    right += (lane / 16 * 8 + lane % 8) * row_pitch<SIZE> + lane / 8 % 2 * 8;
    clear(c);
#pragma unroll
    for (int k = 0; k < SIZE / 16; k++) {
        const uint32_t(&a)[M][4] = left.of(k);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t two[4];
            load_matrices(two, right + n * 8 * row_pitch<SIZE> + k * 16);
            const uint32_t b0[2] = {two[0], two[1]}, b1[2] = {two[2], two[3]};
#pragma unroll
            for (int m = 0; m < M; m++) {
                multiply_add(c[m][n], a[m], b0);
                multiply_add(c[m][n + 1], a[m], b1);
            }
        }
    }
}

/* c += A by 16 K rows at RIGHT. */
template <int M, int K, int SIZE>
__device__ __forceinline__ void multiply_rows(float (&c)[M][SIZE / 8][4], const uint32_t (&a)[M][K][4], const bf16 *right)
{
    right += lane_number() % 16 * row_pitch<SIZE> + lane_number() / 16 * 8;
#pragma unroll
    for (int k = 0; k < K; k++) {
#pragma unroll
        for (int n = 0; n < SIZE / 8; n += 2) {
            uint32_t two[4];
            load_matrices_transposed(two, right + k * 16 * row_pitch<SIZE> + n * 8);
            const uint32_t b0[2] = {two[0], two[1]}, b1[2] = {two[2], two[3]};
#pragma unroll
            for (int m = 0; m < M; m++) {
                multiply_add(c[m][n], a[m][k], b0);
                multiply_add(c[m][n + 1], a[m][k], b1);
            }
        }
    }
}

/* A product's result as the left side of the next. */
template <int M, int N> __device__ __forceinline__ void to_left(uint32_t (&a)[M][N / 2][4], const float (&c)[M][N][4])
{
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int k = 0; k < N / 2; k++) {
            a[m][k][0] = pack_bf16(c[m][2 * k][0], c[m][2 * k][1]);
            a[m][k][1] = pack_bf16(c[m][2 * k][2], c[m][2 * k][3]);
            a[m][k][2] = pack_bf16(c[m][2 * k + 1][0], c[m][2 * k + 1][1]);
            a[m][k][3] = pack_bf16(c[m][2 * k + 1][2], c[m][2 * k + 1][3]);
        }
    }
}

template <int M, int N> __device__ __forceinline__ void scale(float (&c)[M][N][4], float factor)
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                c[m][n][e] *= factor;
}

/* C to vectors of LENGTH elements, by way of STAGE, the warp's own rows of shared memory, so that lanes write 16 bytes each. */
template <int M, int SIZE>
__device__ __forceinline__ void store_rows(const vectors<bf16> &to, const float (&c)[M][SIZE / 8][4], bf16 *stage, int length)
{
    constexpr int chunks = SIZE / 8;
    int lane = lane_number();
    __syncwarp();
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int n = 0; n < chunks; n++) {
            bf16 *at = stage + (m * 16 + lane / 4) * row_pitch<SIZE> + n * 8 + lane % 4 * 2;
            *reinterpret_cast<uint32_t *>(at) = pack_bf16(c[m][n][0], c[m][n][1]);
            *reinterpret_cast<uint32_t *>(at + 8 * row_pitch<SIZE>) = pack_bf16(c[m][n][2], c[m][n][3]);
        }
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 16 * M * chunks; i += WARP) {
        int row = (i + lane) / chunks, column = (i + lane) % chunks * 8;
        if (row < to.count && column < length)
            store16(to.row(row) + column, load16(stage + row * row_pitch<SIZE> + column));
    }
}

/* Calls FUNCTION with each pair of C's elements and the two floats that are theirs in vectors of LENGTH. */
template <int M, int N, typename Function>
__device__ __forceinline__ void each_pair(const vectors<float> &to, float (&c)[M][N][4], int length, Function function)
{
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = m * 16 + half * 8 + lane_number() / 4;
#pragma unroll
            for (int n = 0; n < N; n++) {
                int column = n * 8 + lane_number() % 4 * 2;
                if (row < to.count && column < length)
                    function(reinterpret_cast<float2 *>(to.row(row) + column), c[m][n][2 * half], c[m][n][2 * half + 1]);
            }
        }
    }
}

/* ---- dropout: bit 4 n + e of a word is element e of fragment n, at most 8 of them ---- */

/* FIRST: dropout_first of the head. QUADS: four consecutive keys from a multiple of 4 are one number's four words. */
struct dropped {
    uint64_t first;
    bool quads;
};

__device__ __forceinline__ struct dropped dropped_of(const struct meeting &m, int head)
{
    uint64_t first = dropout_first(m, head);
    return {first, first % 4 == 0 && m.desc.context % 4 == 0};
}

__device__ __forceinline__ uint64_t dropout_element(const struct meeting &m, const struct dropped &d, int query, int key)
{
    return d.first + static_cast<uint64_t>(query * m.desc.context + key);
}

__device__ __forceinline__ uint32_t dropout_bit(const struct meeting &m, const struct dropped &d, int query, int key)
{
    uint64_t element = dropout_element(m, d, query, key);
    return dropout_bits(m, element / 4) >> element % 4 & 1;
}

/* Of 16 queries from QUERY, the rows, and 8 N keys from KEY. Two neighbouring lanes need the same four keys of two rows: each
 * finds one row's. */
template <int N>
__device__ __forceinline__ uint32_t kept_by_rows(const struct meeting &m, const struct dropped &d, int query, int key)
{
    int lane = lane_number(), odd = lane % 2;
    uint32_t own = 0;
    if (d.quads) {
        uint64_t block = dropout_element(m, d, query + lane / 4 + 8 * odd, key + lane % 4 / 2 * 4) / 4;
#pragma unroll
        for (int n = 0; n < N; n++)
            own |= dropout_bits(m, block + 2 * n) << 4 * n;
        uint32_t other = __shfl_xor_sync(WHOLE_WARP, own, 1);
        return odd ? (own & 0xccccccccu) | (other & 0xccccccccu) >> 2 : (own & 0x33333333u) | (other & 0x33333333u) << 2;
    }
#pragma unroll 1
    for (int i = 0; i < 4 * N; i++)
        own |= dropout_bit(m, d, query + lane / 4 + i % 4 / 2 * 8, key + i / 4 * 8 + lane % 4 * 2 + i % 2) << i;
    return own;
}

/* Of 16 keys from KEY, the rows, and 8 N queries from QUERY. Four lanes need the same four keys of each element of a fragment:
 * each finds one element's. */
template <int N>
__device__ __forceinline__ uint32_t kept_by_columns(const struct meeting &m, const struct dropped &d, int query, int key)
{
    int lane = lane_number(), place = lane / 4 % 4;
    uint32_t own = 0, kept = 0;
    if (d.quads) {
        uint64_t block = dropout_element(m, d, query + lane % 4 * 2 + place % 2, key + place / 2 * 8 + lane / 16 * 4) / 4;
#pragma unroll
        for (int n = 0; n < N; n++)
            own |= dropout_bits(m, block + static_cast<uint64_t>(n * 2 * m.desc.context)) << 4 * n;
#pragma unroll
        for (int e = 0; e < 4; e++)
            kept |= (__shfl_sync(WHOLE_WARP, own, (lane & ~12) | e << 2) >> place & 0x11111111u) << e;
        return kept;
    }
#pragma unroll 1
    for (int i = 0; i < 4 * N; i++)
        own |= dropout_bit(m, d, query + i / 4 * 8 + lane % 4 * 2 + i % 2, key + lane / 4 + i % 4 / 2 * 8) << i;
    return own;
}

/* Dropped elements to zero. */
template <int N> __device__ __forceinline__ void drop(float (&c)[N][4], uint32_t kept)
{
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            c[n][e] = kept >> (4 * n + e) & 1 ? c[n][e] : 0;
}

/* Of the scores of queries from QUERY, rows, and keys from KEY, columns, those that a query does not see become HIDDEN. */
template <int M, int N>
__device__ __forceinline__ void hide_later(float (&scores)[M][N][4], const struct meeting &m, int query, int key, float hidden)
{
    int lane = lane_number();
#pragma unroll
    for (int i = 0; i < M; i++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int seen = keys_seen(m, query + i * 16 + half * 8 + lane / 4) - key - lane % 4 * 2;
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int e = 0; e < 2; e++)
                    if (8 * n + e >= seen)
                        scores[i][n][2 * half + e] = hidden;
        }
    }
}

#endif
