/* Rows that are each kept in registers by a warp or, where they are wide, by a block. */
#ifndef CUDA_NORM_ROWS_H
#define CUDA_NORM_ROWS_H

#include "kernels/cuda/pack.h"

constexpr int ROW_WARPS = 8; /* of a block whose warps take a row each */
constexpr int KEPT = 4;      /* packs of a row that a thread keeps; more would leave too few warps room for their registers */
constexpr int BLOCK_THREADS_MOST = 384; /* with room for their registers */

/* The threads that take a row together. */
template <bool BLOCK> struct row_team {
    int member, members;
    float *between;

    __device__ __forceinline__ float sum(float x) const
    {
        return BLOCK ? block_reduce<sum_of>(x, between, 0.0f) : warp_reduce<sum_of>(x);
    }
};

/* What a thread has of a row, or of the part of one that is too wide for a block's registers. */
template <typename T> struct row_part {
    pack<T, PACK<T>> v[KEPT];

    template <bool ALIGNED, bool BLOCK>
    __device__ __forceinline__ void load(const T *row, int begin, int width, const row_team<BLOCK> &team)
    {
#pragma unroll
        for (int i = 0; i < KEPT; i++)
            v[i] = load_columns<ALIGNED, PACK<T>>(row, begin + (i * team.members + team.member) * PACK<T>, width);
    }
};

template <typename Job, bool BLOCK, bool ALIGNED>
static __global__ void __launch_bounds__(BLOCK ? BLOCK_THREADS_MOST : ROW_WARPS *WARP) row_kernel(Job job)
{
    __shared__ float between[WARP];
    int64_t row = blockIdx.x;
    row_team<BLOCK> team = {static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x), between};
    if (!BLOCK) {
        row = row * ROW_WARPS + threadIdx.x / WARP;
        team.member = threadIdx.x % WARP;
        team.members = WARP;
    }
    if (row < job.rows)
        job.template run<BLOCK, ALIGNED>(row, team);
}

template <typename Job, bool ALIGNED> static void launch_rows(struct cuda *cuda, const char *what, const Job &job)
{
    int per_warp = KEPT * WARP * PACK<typename Job::type>;
    if (job.width <= per_warp) {
        launch(cuda, what, row_kernel<Job, false, ALIGNED>, dim3(blocks_of(job.rows, ROW_WARPS)), dim3(ROW_WARPS * WARP), 0, job);
        return;
    }
    unsigned threads = blocks_of(job.width, per_warp) * WARP;
    threads = threads < BLOCK_THREADS_MOST ? threads : BLOCK_THREADS_MOST;
    launch(cuda, what, row_kernel<Job, true, ALIGNED>, dim3(static_cast<unsigned>(job.rows)), dim3(threads), 0, job);
}

/* Of a thread's element I of a row whose part begins at BEGIN. */
template <int N, bool BLOCK> static __device__ __forceinline__ int column_of(int begin, int i, const row_team<BLOCK> &team)
{
    return begin + (i / N * team.members + team.member) * N + i % N;
}

/* FIRST and SECOND[width] from partial sums [parts][2][width]; without SECOND from [parts][width]. norm.cu */
void norm_join_columns(struct cuda *, void *first, void *second, const float *partial, int64_t parts, int64_t width);

/* The gradients of bias and gain, of rows of any width; without d_bias an RMS norm's, which has no mean. norm.cu */
void norm_wide_columns(struct backend *, void *d_bias, void *d_gain, const void *dy, const void *x, const void *mean, const void *rstd,
                       int64_t rows, int64_t width);

/* norm_backward.cu */
void norm_backward_fill(struct backend_table *);

#endif
