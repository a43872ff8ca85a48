/* The router forward. Its products are own kernels, not the library's: which experts a row gets hangs on the bits of its logits, and
 * those may not depend on the GPU. */
#include <math.h>

#include "kernels/cuda/experts.h"

/* Of the logits, a warp takes so many rows and experts at a time: as many sums as it has lanes. */
static constexpr int LOGIT_ROWS = 4, LOGIT_EXPERTS = 8;
/* Places are counted for so many rows at a time. */
static constexpr int PLACE_ROWS = 256;
/* Sums for the losses are made of parts of at least so many rows, at most so many parts. */
static constexpr int LOSS_ROWS = 64, LOSS_PARTS_MOST = 64;

/* Of 32 sums of which every lane has a part, lane i gets the i-th. */
static __device__ __forceinline__ float sum_for_lane(float (&x)[WARP], int lane)
{
#pragma unroll
    for (int step = 1; step < WARP; step *= 2) {
        const int half = WARP / 2 / step;
        bool upper = lane & half;
#pragma unroll
        for (int i = 0; i < half; i++) {
            float away = upper ? x[i] : x[i + half], kept = upper ? x[i + half] : x[i];
            x[i] = kept + __shfl_xor_sync(WHOLE_WARP, away, half);
        }
    }
    return x[0];
}

/* ---- the router forward ---- */

/* LOGIT_ROWS logits of LOGIT_EXPERTS experts, one for each lane. Rows and experts behind the last are the last again. */
template <typename T, int COUNT>
static __device__ __forceinline__ float logit_of_lane(const struct router_view &v, const T *x, const T *weight, int64_t row, int expert)
{
    float sums[WARP] = {};
#pragma unroll 1
    for (int64_t k = lane_number() * COUNT; k < v.width; k += WARP * COUNT) {
        float a[LOGIT_ROWS][COUNT], b[COUNT];
#pragma unroll
        for (int r = 0; r < LOGIT_ROWS; r++)
            load_floats(a[r], x + least(row + r, v.rows - 1) * v.width + k);
#pragma unroll
        for (int e = 0; e < LOGIT_EXPERTS; e++) {
            load_floats(b, weight + least(expert + e, v.experts - 1) * v.width + k);
#pragma unroll
            for (int r = 0; r < LOGIT_ROWS; r++)
#pragma unroll
                for (int i = 0; i < COUNT; i++)
                    sums[r * LOGIT_EXPERTS + e] = fmaf(a[r][i], b[i], sums[r * LOGIT_EXPERTS + e]);
        }
    }
    return sum_for_lane(sums, lane_number());
}

/* A NaN comes last, so that each row has all its choices. */
struct candidate {
    float logit;
    int expert;
};

static __device__ __forceinline__ bool comes_before(struct candidate a, struct candidate b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.expert < b.expert);
}

/* The first of all experts that come behind the one chosen BEFORE; every lane has it. */
static __device__ __forceinline__ struct candidate choose_next(const float *logits, int experts, struct candidate before)
{
    struct candidate best = {-INFINITY, experts};
    for (int e = lane_number(); e < experts; e += WARP) {
        struct candidate next = {isnan(logits[e]) ? -INFINITY : logits[e], e};
        if (comes_before(before, next) && comes_before(next, best))
            best = next;
    }
#pragma unroll
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) {
        struct candidate other = {__shfl_xor_sync(WHOLE_WARP, best.logit, lanes), __shfl_xor_sync(WHOLE_WARP, best.expert, lanes)};
        if (comes_before(other, best))
            best = other;
    }
    return best;
}

/* The row's choices and their gates. SUM: of exp(logit - GREATEST) over all experts. */
static __device__ __forceinline__ void choose_row(const struct router_view &v, const float *logits, int64_t row, float greatest, float sum)
{
    int32_t *expert = v.expert + row * v.choices;
    float *gate = v.gate + row * v.choices, of_all = 0;
    struct candidate chosen = {INFINITY, -1};
    for (int c = 0; c < v.choices; c++) {
        chosen = choose_next(logits, v.experts, chosen);
        float share = expf(logits[chosen.expert] - greatest);
        of_all += share;
        if (lane_number() == 0) {
            expert[c] = chosen.expert;
            gate[c] = share;
        }
    }
    if (lane_number() == 0)
        for (int c = 0; c < v.choices; c++)
            gate[c] /= v.choices > 1 ? of_all : sum;
}

/* What is decided about one row, whose logits become probabilities in place. */
static __device__ __forceinline__ void route_row(const struct router_view &v, int64_t row)
{
    float *logits = v.probability + row * v.experts, greatest = -INFINITY, sum = 0;
    for (int e = lane_number(); e < v.experts; e += WARP)
        greatest = fmaxf(greatest, logits[e]);
    greatest = warp_reduce<greatest_of>(greatest);
    for (int e = lane_number(); e < v.experts; e += WARP)
        sum += expf(logits[e] - greatest);
    sum = warp_reduce<sum_of>(sum);
    choose_row(v, logits, row, greatest, sum);
    if (lane_number() == 0)
        v.log_sum[row] = greatest + logf(sum);
    __syncwarp();
    for (int e = lane_number(); e < v.experts; e += WARP)
        logits[e] = expf(logits[e] - greatest) / sum;
}

template <typename T, int COUNT>
static __global__ void __launch_bounds__(WARPS_THREADS, 2) route_rows(struct router_view v, const T *x, const T *weight)
{
    int64_t row = warp_number() * LOGIT_ROWS, own = row + lane_number() / LOGIT_EXPERTS;
    if (row >= v.rows)
        return;
    for (int e = 0; e < v.experts; e += LOGIT_EXPERTS) {
        float logit = logit_of_lane<T, COUNT>(v, x, weight, row, e);
        int expert = e + lane_number() % LOGIT_EXPERTS;
        if (own < v.rows && expert < v.experts)
            v.probability[own * v.experts + expert] = logit;
    }
    __syncwarp();
    for (int r = 0; r < LOGIT_ROWS && row + r < v.rows; r++)
        route_row(v, row + r);
}

/* ---- places ---- */

/* The order in which experts take rows: all first choices, then all second ones, each in pieces of PLACE_ROWS rows. BEFORE[experts]
 * [pieces] has for each piece how many chose the expert in it, then in all pieces before it. */
static __device__ __forceinline__ int expert_of(const struct router_view &v, int64_t row)
{
    return row < v.rows ? v.expert[row * v.choices + blockIdx.y] : -1;
}

static __device__ __forceinline__ int64_t piece_number()
{
    return static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x;
}

static __global__ void __launch_bounds__(PLACE_ROWS) count_pieces(struct router_view v, int32_t *before)
{
    int *counts = dynamic_shared<int>();
    int64_t pieces = static_cast<int64_t>(gridDim.x) * gridDim.y;
    int expert = expert_of(v, static_cast<int64_t>(blockIdx.x) * PLACE_ROWS + threadIdx.x);
    for (int e = static_cast<int>(threadIdx.x); e < v.experts; e += PLACE_ROWS)
        counts[e] = 0;
    __syncthreads();
    if (expert >= 0)
        atomicAdd(&counts[expert], 1);
    __syncthreads();
    for (int e = static_cast<int>(threadIdx.x); e < v.experts; e += PLACE_ROWS)
        before[e * pieces + piece_number()] = counts[e];
}

/* The sum of X over the threads before this one; *ALL: over all. SUMS[32] is shared memory. */
static __device__ int sum_before(int x, int *sums, int *all)
{
    int warp = static_cast<int>(threadIdx.x) / WARP, lane = lane_number(), sum = x;
    for (int lanes = 1; lanes < WARP; lanes *= 2) {
        int other = __shfl_up_sync(WHOLE_WARP, sum, lanes);
        sum += lane >= lanes ? other : 0;
    }
    if (lane == WARP - 1)
        sums[warp] = sum;
    __syncthreads();
    int earlier = 0, total = 0;
    for (int w = 0; w < static_cast<int>(blockDim.x) / WARP; w++) {
        earlier += w < warp ? sums[w] : 0;
        total += sums[w];
    }
    *all = total;
    return earlier + sum - x;
}

/* A block for each expert; each thread has a run of pieces. MOST: as router_place has it. */
static __global__ void __launch_bounds__(PLACE_ROWS) sum_pieces(struct router_view v, int32_t *before_, int64_t pieces, const int32_t *most)
{
    __shared__ int sums[WARP];
    int expert = static_cast<int>(blockIdx.x), count = 0, all;
    int32_t *before = before_ + expert * pieces;
    int64_t run = (pieces + PLACE_ROWS - 1) / PLACE_ROWS, first = threadIdx.x * run, end = least(first + run, pieces);
    for (int64_t p = first; p < end; p++)
        count += before[p];
    int sum = sum_before(count, sums, &all);
    for (int64_t p = first; p < end; p++) {
        int here = before[p];
        before[p] = sum;
        sum += here;
    }
    if (threadIdx.x > 0)
        return;
    v.taken[expert] = static_cast<int32_t>(least(all, most != NULL ? least(most[expert], v.capacity) : v.capacity));
    if (most == NULL)
        v.load[expert] = all;
}

/* A thread for each choice counts those of its piece that come before it. */
static __global__ void __launch_bounds__(PLACE_ROWS) place_pieces(struct router_view v, const int32_t *before)
{
    __shared__ int experts[PLACE_ROWS];
    int64_t row = static_cast<int64_t>(blockIdx.x) * PLACE_ROWS + threadIdx.x, pieces = static_cast<int64_t>(gridDim.x) * gridDim.y;
    int expert = expert_of(v, row), number = 0;
    experts[threadIdx.x] = expert;
    __syncthreads();
    if (expert < 0)
        return;
    for (int i = 0; i < static_cast<int>(threadIdx.x); i++)
        number += experts[i] == expert;
    number += before[expert * pieces + piece_number()];
    v.place[row * v.choices + blockIdx.y] = number < v.taken[expert] ? static_cast<int32_t>(expert * v.capacity + number) : -1;
}

/* ---- losses ---- */

/* Of one part of the rows: PROBABILITIES[part][experts] and SQUARES[part], of the log sums. A block has 32 experts. */
static __global__ void __launch_bounds__(WARPS_THREADS) sum_losses(struct router_view v, float *probabilities, float *squares,
                                                                   int64_t part_rows)
{
    __shared__ float sums[WARPS][WARP], between[WARP];
    int warp = static_cast<int>(threadIdx.x) / WARP, expert = static_cast<int>(blockIdx.y) * WARP + lane_number();
    int64_t first = blockIdx.x * part_rows, end = least(first + part_rows, v.rows);
    float sum = 0, square = 0;
    for (int64_t r = first + warp; expert < v.experts && r < end; r += WARPS)
        sum += v.probability[r * v.experts + expert];
    for (int64_t r = first + threadIdx.x; r < end; r += WARPS_THREADS)
        square += v.log_sum[r] * v.log_sum[r];
    sums[warp][lane_number()] = sum;
    square = block_reduce<sum_of>(square, between, 0.0f);
    if (threadIdx.x == 0 && blockIdx.y == 0)
        squares[blockIdx.x] = square;
    if (warp > 0 || expert >= v.experts)
        return;
    for (int w = 1; w < WARPS; w++)
        sum += sums[w][lane_number()];
    probabilities[static_cast<int64_t>(blockIdx.x) * v.experts + expert] = sum;
}

/* One block joins the parts. ROWS: of the whole microbatch. */
static __global__ void __launch_bounds__(WARPS_THREADS) join_losses(struct router_view v, const float *probabilities, const float *squares,
                                                                    int parts, float rows)
{
    __shared__ float between[WARP];
    float balance = 0, square = 0;
    for (int e = static_cast<int>(threadIdx.x); e < v.experts; e += WARPS_THREADS) {
        float sum = 0;
        for (int p = 0; p < parts; p++)
            sum += probabilities[p * v.experts + e];
        balance += static_cast<float>(v.load[e]) / (rows * static_cast<float>(v.choices)) * (sum / rows);
    }
    for (int p = static_cast<int>(threadIdx.x); p < parts; p += WARPS_THREADS)
        square += squares[p];
    balance = block_reduce<sum_of>(balance, between, 0.0f);
    square = block_reduce<sum_of>(square, between, 0.0f);
    if (threadIdx.x > 0)
        return;
    v.losses[0] = static_cast<float>(v.experts) * balance;
    v.losses[1] = square / rows;
}

/* ---- the table's functions ---- */

static int64_t pieces_of(const struct router_desc *d)
{
    return parts_of(d->rows, PLACE_ROWS) * d->choices;
}

cairn_err router_check(const struct router_desc *d)
{
    static constexpr int64_t SHARED_BYTES = 48 << 10;
    const int64_t room = SCRATCH_BYTES / sizeof(float), counts = sizeof(int);
    if (d->experts * pieces_of(d) > room || (d->experts + 1) * LOSS_PARTS_MOST > room || d->experts * counts > SHARED_BYTES)
        return FAIL(CAIRN_EUNSUPPORTED, "the cuda backend's workspace is too small for %lld choices of %lld experts for %lld rows",
                    static_cast<long long>(d->choices), static_cast<long long>(d->experts), static_cast<long long>(d->rows));
    return CAIRN_OK;
}

void router_forward(struct router *router, const struct routing *routing, const void *x, const void *weight)
{
    struct router_view v = view_of(router, routing);
    with_type(router, x, weight, NULL, [&]<typename T, int COUNT>() {
        launch_warps(router->cuda, parts_of(v.rows, LOGIT_ROWS), "a router", route_rows<T, COUNT>, v, static_cast<const T *>(x),
                     static_cast<const T *>(weight));
    });
}

static void find_losses(const struct router *router, const struct router_view &v)
{
    int64_t share = parts_of(v.rows, LOSS_PARTS_MOST), part_rows = share > LOSS_ROWS ? share : LOSS_ROWS;
    int64_t parts = parts_of(v.rows, part_rows);
    float *probabilities = static_cast<float *>(router->cuda->scratch), *squares = probabilities + parts * v.experts;
    launch(router->cuda, "a router's losses", sum_losses, dim3(static_cast<unsigned>(parts), blocks_of(v.experts, WARP)),
           dim3(WARPS_THREADS), 0, v, probabilities, squares, part_rows);
    launch(router->cuda, "a router's losses joined", join_losses, dim3(1), dim3(WARPS_THREADS), 0, v, probabilities, squares,
           static_cast<int>(parts), static_cast<float>(router_rows_all(&router->desc)));
}

void router_place(struct router *router, const struct routing *routing, const int32_t *most)
{
    struct cuda *cuda = router->cuda;
    struct router_view v = view_of(router, routing);
    int32_t *before = static_cast<int32_t *>(cuda->scratch);
    dim3 pieces(blocks_of(v.rows, PLACE_ROWS), static_cast<unsigned>(v.choices));
    launch(cuda, "choices counted", count_pieces, pieces, dim3(PLACE_ROWS), static_cast<size_t>(v.experts) * sizeof(int), v, before);
    launch(cuda, "choices summed", sum_pieces, dim3(static_cast<unsigned>(v.experts)), dim3(PLACE_ROWS), 0, v, before,
           pieces_of(&router->desc), most);
    launch(cuda, "choices placed", place_pieces, pieces, dim3(PLACE_ROWS), 0, v, before);
    find_losses(router, v);
}
