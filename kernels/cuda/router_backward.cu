/* The router backward; own kernels too, so that no sum of a small product depends on the GPU. */
#include "kernels/cuda/experts.h"

/* Rows or experts that a thread has sums of; columns of a block, of 16 bytes where they allow it. */
static constexpr int TILE = 8, COLUMN_THREADS_MOST = 128;
/* Gradients of weights are summed in parts of at least so many rows, at most so many parts. */
static constexpr int WEIGHT_ROWS = 64, WEIGHT_PARTS_MOST = 512;

/* What the two losses' gradients need: of the balance for one row of load, of the log sum. */
struct loss_scales {
    float per_load, by_log_sum;
};

/* The gate's share in the gradient of expert E's logit: of the softmax over the chosen for several choices, of all for one, whose gate is
 * a probability P itself. AVERAGE: the sum of gate * d_gate. */
static __device__ float gate_gradient(const struct router_view &v, const float *d_gate, int64_t row, int e, float p, float average)
{
    const int32_t *expert = v.expert + row * v.choices;
    const float *gate = v.gate + row * v.choices;
    if (v.choices == 1)
        return average * ((e == expert[0] ? 1.0f : 0.0f) - p);
    for (int c = 0; c < v.choices; c++)
        if (expert[c] == e)
            return gate[c] * (d_gate[c] - average);
    return 0;
}

/* A warp for each row. */
static __global__ void __launch_bounds__(WARPS_THREADS) logits_backward(struct router_view v, float *d_logits, const float *d_gates,
                                                                        struct loss_scales scales)
{
    int64_t row = warp_number();
    if (row >= v.rows)
        return;
    const float *p = v.probability + row * v.experts, *gate = v.gate + row * v.choices, *d_gate = d_gates + row * v.choices;
    float average = 0, of_gates = 0, by_log_sum = scales.by_log_sum * v.log_sum[row];
    for (int e = lane_number(); e < v.experts; e += WARP)
        average += p[e] * (scales.per_load * static_cast<float>(v.load[e]));
    average = warp_reduce<sum_of>(average);
    for (int c = 0; c < v.choices; c++)
        of_gates += gate[c] * d_gate[c];
    for (int e = lane_number(); e < v.experts; e += WARP)
        d_logits[row * v.experts + e] = p[e] * (scales.per_load * static_cast<float>(v.load[e]) - average + by_log_sum) +
                                        gate_gradient(v, d_gate, row, e, p[e], of_gates);
}

/* dx (+)= d_logits weight: TILE rows of a block, COUNT columns of each thread. */
template <typename T, int COUNT>
static __global__ void __launch_bounds__(COLUMN_THREADS_MOST) input_backward(struct router_view v, T *dx, const float *d_logits,
                                                                             const T *weight, bool add_to_dx)
{
    __shared__ float tile[TILE][WARP];
    int64_t row = static_cast<int64_t>(blockIdx.x) * TILE, column = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * COUNT;
    float sums[TILE][COUNT] = {};
    for (int first = 0; first < v.experts; first += WARP) {
        int experts = static_cast<int>(least(WARP, v.experts - first));
        __syncthreads();
        for (int i = static_cast<int>(threadIdx.x); i < TILE * WARP; i += static_cast<int>(blockDim.x))
            tile[i / WARP][i % WARP] =
                row + i / WARP < v.rows && i % WARP < experts ? d_logits[(row + i / WARP) * v.experts + first + i % WARP] : 0;
        __syncthreads();
#pragma unroll 2
        for (int e = 0; e < (column < v.width ? experts : 0); e++) {
            float w[COUNT];
            load_floats(w, weight + (first + e) * v.width + column);
#pragma unroll
            for (int r = 0; r < TILE; r++)
#pragma unroll
                for (int i = 0; i < COUNT; i++)
                    sums[r][i] = fmaf(tile[r][e], w[i], sums[r][i]);
        }
    }
#pragma unroll
    for (int r = 0; r < TILE; r++) {
        if (row + r >= v.rows || column >= v.width)
            continue;
        T *to = dx + (row + r) * v.width + column;
        float before[COUNT] = {};
        if (add_to_dx)
            load_floats(before, to);
#pragma unroll
        for (int i = 0; i < COUNT; i++)
            before[i] += sums[r][i];
        store_floats(to, before);
    }
}

/* Of one part of the rows, PARTS[part][experts][width] = d_logits^T x: TILE experts of a block, COUNT columns of each thread. */
template <typename T, int COUNT>
static __global__ void __launch_bounds__(COLUMN_THREADS_MOST) weight_backward(struct router_view v, float *parts, const float *d_logits,
                                                                              const T *x, int64_t part_rows)
{
    __shared__ float tile[WARP][TILE];
    int64_t column = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * COUNT, first = blockIdx.x * part_rows;
    int64_t end = least(first + part_rows, v.rows);
    int expert = static_cast<int>(blockIdx.z) * TILE;
    float sums[TILE][COUNT] = {};
    for (int64_t row = first; row < end; row += WARP) {
        int rows = static_cast<int>(least(WARP, end - row));
        __syncthreads();
        for (int i = static_cast<int>(threadIdx.x); i < WARP * TILE; i += static_cast<int>(blockDim.x))
            tile[i / TILE][i % TILE] =
                i / TILE < rows && expert + i % TILE < v.experts ? d_logits[(row + i / TILE) * v.experts + expert + i % TILE] : 0;
        __syncthreads();
#pragma unroll 4
        for (int r = 0; r < (column < v.width ? rows : 0); r++) {
            float a[COUNT];
            load_floats(a, x + (row + r) * v.width + column);
#pragma unroll
            for (int e = 0; e < TILE; e++)
#pragma unroll
                for (int i = 0; i < COUNT; i++)
                    sums[e][i] = fmaf(tile[r][e], a[i], sums[e][i]);
        }
    }
#pragma unroll
    for (int e = 0; e < TILE; e++)
#pragma unroll
        for (int i = 0; i < COUNT; i++)
            if (expert + e < v.experts && column < v.width)
                parts[(static_cast<int64_t>(blockIdx.x) * v.experts + expert + e) * v.width + column + i] = sums[e][i];
}

/* TO[n] = the sum of PARTS[parts][n]: each warp of a block sums a run of the parts, then their sums are joined. */
static __global__ void __launch_bounds__(WARPS_THREADS) join_parts(float *to, const float *parts_, int64_t n, int parts)
{
    __shared__ float sums[WARPS][WARP];
    int warp = static_cast<int>(threadIdx.x) / WARP, run = (parts + WARPS - 1) / WARPS;
    int64_t i = static_cast<int64_t>(blockIdx.x) * WARP + lane_number();
    float sum = 0;
#pragma unroll 8
    for (int p = warp * run; p < (i < n ? static_cast<int>(least((warp + 1) * run, parts)) : 0); p++)
        sum += parts_[p * n + i];
    sums[warp][lane_number()] = sum;
    __syncthreads();
    if (warp > 0 || i >= n)
        return;
    for (int w = 1; w < WARPS; w++)
        sum += sums[w][lane_number()];
    to[i] = sum;
}

/* ---- the table's functions ---- */

cairn_err router_check_backward(const struct router_desc *d)
{
    if (d->experts * d->width > static_cast<int64_t>(SCRATCH_BYTES / sizeof(float)))
        return FAIL(CAIRN_EUNSUPPORTED, "the cuda backend's workspace is too small for a router of %lld experts with width %lld",
                    static_cast<long long>(d->experts), static_cast<long long>(d->width));
    return CAIRN_OK;
}

/* Threads that share a row's columns, whole warps. */
template <int COUNT> static unsigned column_threads(const struct router_view &v)
{
    return static_cast<unsigned>(least(parts_of(parts_of(v.width, COUNT), WARP) * WARP, COLUMN_THREADS_MOST));
}

void router_backward_input(struct router *router, void *d_logits_, void *dx, const void *d_gate, const struct routing *routing,
                           const void *weight, const struct router_scales *scales, bool add_to_dx)
{
    struct cuda *cuda = router->cuda;
    struct router_view v = view_of(router, routing);
    float *d_logits = static_cast<float *>(d_logits_);
    double rows = static_cast<double>(router_rows_all(&router->desc));
    struct loss_scales of_losses = {static_cast<float>(scales->balance * v.experts / (rows * v.choices * rows)),
                                    static_cast<float>(scales->z * 2 / rows)};
    launch_warps(cuda, v.rows, "a router's logits backward", logits_backward, v, d_logits, static_cast<const float *>(d_gate), of_losses);
    if (dx == NULL)
        return;
    with_type(router, dx, weight, NULL, [&]<typename T, int COUNT>() {
        unsigned threads = column_threads<COUNT>(v);
        dim3 grid(blocks_of(v.rows, TILE), blocks_of(v.width, threads * COUNT));
        launch(cuda, "a router's input backward", input_backward<T, COUNT>, grid, dim3(threads), 0, v, static_cast<T *>(dx), d_logits,
               static_cast<const T *>(weight), add_to_dx);
    });
}

void router_backward_weight(struct router *router, void *d_weight, const void *d_logits, const void *x)
{
    struct cuda *cuda = router->cuda;
    const struct routing none = {};
    struct router_view v = view_of(router, &none);
    int64_t n = v.experts * v.width;
    int64_t most = least(least(WEIGHT_PARTS_MOST, parts_of(v.rows, WEIGHT_ROWS)), static_cast<int64_t>(SCRATCH_BYTES / sizeof(float)) / n);
    int64_t part_rows = parts_of(parts_of(v.rows, most), WARP) * WARP;
    float *parts = static_cast<float *>(cuda->scratch);
    with_type(router, x, NULL, NULL, [&]<typename T, int COUNT>() {
        unsigned threads = column_threads<COUNT>(v);
        dim3 grid(blocks_of(v.rows, part_rows), blocks_of(v.width, threads * COUNT), blocks_of(v.experts, TILE));
        launch(cuda, "a router's weight backward", weight_backward<T, COUNT>, grid, dim3(threads), 0, v, parts,
               static_cast<const float *>(d_logits), static_cast<const T *>(x), part_rows);
    });
    launch(cuda, "a router's weight joined", join_parts, dim3(blocks_of(n, WARP)), dim3(WARPS_THREADS), 0, static_cast<float *>(d_weight),
           parts, n, static_cast<int>(parts_of(v.rows, part_rows)));
}
