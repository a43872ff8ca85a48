/* Tokens to vectors, and their gradients: rows are sorted by token, in their order within each, and those of one token are summed by
 * a warp, or by a block where they are many. */
#include "kernels/cuda/pack.h"

extern "C" {
#include "base/least.h"
}

constexpr int ROW_WARPS = 8; /* of a block whose warps take a row, or a token, each */
constexpr int HELD = 4;      /* packs of a row that a thread takes at once */

/* ---- forward ---- */

template <typename T> struct embedding_rows {
    T *y;
    const int32_t *tokens;
    const T *token_table, *position_table; /* the latter NULL: none */
    struct embedding_desc d;
};

template <typename T, bool ALIGNED>
static __global__ void __launch_bounds__(ROW_WARPS *WARP) forward_kernel(struct embedding_rows<T> job)
{
    constexpr int N = PACK<T>;
    int64_t r = static_cast<int64_t>(blockIdx.x) * ROW_WARPS + threadIdx.x / WARP;
    if (r >= job.d.rows)
        return;
    int width = static_cast<int>(job.d.width), lane = threadIdx.x % WARP;
    int64_t token = job.tokens[r] - job.d.token_first, position = r % job.d.context;
    if (job.d.positions != nullptr)
        position = job.d.positions[position];
    /* No columns of a row that is not there: zeros. */
    int token_width = token >= 0 && token < job.d.token_count ? width : 0;
    int position_width = job.position_table != nullptr ? width : 0;
    for (int begin = 0; begin < width; begin += HELD * WARP * N) {
        pack<T, N> a[HELD], b[HELD];
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            int column = begin + (i * WARP + lane) * N;
            a[i] = load_columns<ALIGNED, N>(job.token_table + token * width, column, token_width);
            b[i] = load_columns<ALIGNED, N>(job.position_table + position * width, column, position_width);
        }
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            float y[N];
#pragma unroll
            for (int j = 0; j < N; j++)
                y[j] = a[i].at(j) + b[i].at(j);
            store_columns<ALIGNED, N>(job.y + r * width, begin + (i * WARP + lane) * N, width, y);
        }
    }
}

template <typename T>
static void forward(struct cuda *cuda, void *y, const int32_t *tokens, const void *token_table, const void *position_table,
                    const struct embedding_desc *d)
{
    struct embedding_rows<T> job = {static_cast<T *>(y), tokens, static_cast<const T *>(token_table),
                                    static_cast<const T *>(position_table), *d};
    dim3 grid(blocks_of(d->rows, ROW_WARPS)), block(ROW_WARPS * WARP);
    if (rows_aligned(job.y, d->width) && rows_aligned(job.token_table, d->width) && rows_aligned(job.position_table, d->width))
        launch(cuda, "the embedding", forward_kernel<T, true>, grid, block, 0, job);
    else
        launch(cuda, "the embedding", forward_kernel<T, false>, grid, block, 0, job);
}

static void embedding_forward(struct backend *b, void *y, const int32_t *tokens, const void *token_table, const void *position_table,
                              const struct embedding_desc *d)
{
    if (b->act == DTYPE_BF16)
        forward<bf16>(cuda_of(b), y, tokens, token_table, position_table, d);
    else
        forward<float>(cuda_of(b), y, tokens, token_table, position_table, d);
}

/* ---- rows sorted by token: from the lowest digits of the token's row to the highest, each time stable ---- */

constexpr int DIGIT_BITS = 8, DIGITS = 1 << DIGIT_BITS;
constexpr int SORT_WARPS = 8, TURNS = 8;                  /* each warp takes 32 pairs in a turn */
constexpr int WARP_PAIRS = TURNS * WARP, TILE = SORT_WARPS * WARP_PAIRS;
constexpr int SCAN_THREADS = 1024;
static_assert(SORT_WARPS * WARP == DIGITS, "a thread of a block has a digit");

/* A row of the table, token_count for that of another rank, above the number of the row of dy. */
typedef unsigned long long pair;

static __device__ __forceinline__ int64_t pair_key(pair p) { return static_cast<int64_t>(p >> 32); }
static __device__ __forceinline__ int64_t pair_row(pair p) { return static_cast<int64_t>(p & 0xffffffffu); }

/* What lies in scratch. */
struct token_sort {
    pair *pairs, *other;
    int *counts; /* [DIGITS][tiles] of a digit in a tile; then where the tile's go */
    int *many;   /* how many tokens have many rows; then, of each, where its rows begin */
    int rows, tiles;
};

/* Rows of one call that are sorted at once. Those of more would be added one part after the other. */
constexpr int64_t SORT_ROWS_MOST = (int64_t)1 << 21;

static __global__ void __launch_bounds__(DIGITS) pairs_kernel(struct token_sort sort, const int32_t *tokens, int64_t token_first,
                                                              int64_t token_count)
{
    int64_t i = static_cast<int64_t>(blockIdx.x) * DIGITS + threadIdx.x;
    if (i == 0)
        sort.many[0] = 0;
    if (i >= sort.rows)
        return;
    int64_t key = tokens[i] - token_first;
    if (key < 0 || key > token_count)
        key = token_count;
    sort.pairs[i] = static_cast<pair>(key) << 32 | static_cast<pair>(i);
}

static __device__ __forceinline__ int digit_of(pair p, int shift)
{
    return static_cast<int>(p >> (32 + shift)) & (DIGITS - 1);
}

static __global__ void __launch_bounds__(DIGITS) count_kernel(struct token_sort sort, int shift)
{
    __shared__ int count[DIGITS];
    count[threadIdx.x] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < TILE; i += DIGITS)
        if (static_cast<int>(blockIdx.x) * TILE + i < sort.rows)
            atomicAdd(&count[digit_of(sort.pairs[blockIdx.x * TILE + i], shift)], 1);
    __syncthreads();
    sort.counts[threadIdx.x * sort.tiles + blockIdx.x] = count[threadIdx.x];
}

/* The sum of X over the threads before this one, of SCAN_THREADS; BETWEEN[32] is shared. */
static __device__ __forceinline__ int sum_before(int x, int *between)
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, sum = x;
    for (int lanes = 1; lanes < WARP; lanes *= 2) {
        int lower = __shfl_up_sync(WHOLE_WARP, sum, lanes);
        sum += lane >= lanes ? lower : 0;
    }
    if (lane == WARP - 1)
        between[warp] = sum;
    __syncthreads();
    int before = 0;
    for (int w = 0; w < warp; w++)
        before += between[w];
    return before + sum - x;
}

/* Counts to where each begins: one block, each thread a run of them. */
static __global__ void __launch_bounds__(SCAN_THREADS) scan_kernel(struct token_sort sort)
{
    __shared__ int between[WARP];
    int count = DIGITS * sort.tiles, each = (count + SCAN_THREADS - 1) / SCAN_THREADS, sum = 0;
    int begin = static_cast<int>(threadIdx.x) * each, end = begin + each < count ? begin + each : count;
    for (int i = begin; i < end; i++)
        sum += sort.counts[i];
    sum = sum_before(sum, between);
    for (int i = begin; i < end; i++) {
        int here = sort.counts[i];
        sort.counts[i] = sum;
        sum += here;
    }
}

/* The lanes that have the same digit. Lanes without a pair have digit DIGITS. */
static __device__ __forceinline__ unsigned same_digit(int digit)
{
    unsigned same = WHOLE_WARP;
#pragma unroll
    for (int bit = 0; bit <= DIGIT_BITS; bit++) {
        unsigned set = __ballot_sync(WHOLE_WARP, digit >> bit & 1);
        same &= digit >> bit & 1 ? set : ~set;
    }
    return same;
}

/* A pair goes behind those of its digit in earlier tiles, earlier warps' and earlier ones of its own warp. */
static __global__ void __launch_bounds__(DIGITS) move_kernel(struct token_sort sort, int shift)
{
    __shared__ int place[SORT_WARPS][DIGITS + 1];
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, rank[TURNS];
    int first = blockIdx.x * TILE + warp * WARP_PAIRS + lane;
    pair mine[TURNS];
    for (int i = lane; i <= DIGITS; i += WARP)
        place[warp][i] = 0;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        bool has = first + i * WARP < sort.rows;
        mine[i] = has ? sort.pairs[first + i * WARP] : 0;
        int digit = has ? digit_of(mine[i], shift) : DIGITS;
        unsigned same = same_digit(digit);
        int before = __popc(same & ((1u << lane) - 1));
        rank[i] = place[warp][digit] + before;
        __syncwarp();
        if (before == 0)
            place[warp][digit] += __popc(same);
        __syncwarp();
    }
    __syncthreads();
    int next = sort.counts[threadIdx.x * sort.tiles + blockIdx.x];
    for (int w = 0; w < SORT_WARPS; w++) {
        int count = place[w][threadIdx.x];
        place[w][threadIdx.x] = next;
        next += count;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < TURNS; i++)
        if (first + i * WARP < sort.rows)
            sort.other[place[warp][digit_of(mine[i], shift)] + rank[i]] = mine[i];
}

/* Leaves the sorted pairs in sort.pairs. */
static void sort_rows(struct cuda *cuda, struct token_sort *sort, const int32_t *tokens, const struct embedding_desc *d)
{
    static const char what[] = "the sorting of tokens";
    launch(cuda, what, pairs_kernel, dim3(blocks_of(sort->rows, DIGITS)), dim3(DIGITS), 0, *sort, tokens, d->token_first,
           d->token_count);
    for (int shift = 0; d->token_count >> shift > 0; shift += DIGIT_BITS) {
        dim3 grid(static_cast<unsigned>(sort->tiles)), block(DIGITS);
        launch(cuda, what, count_kernel, grid, block, 0, *sort, shift);
        launch(cuda, what, scan_kernel, dim3(1), dim3(SCAN_THREADS), 0, *sort);
        launch(cuda, what, move_kernel, grid, block, 0, *sort, shift);
        pair *sorted = sort->other;
        sort->other = sort->pairs;
        sort->pairs = sorted;
    }
}

/* ---- the sums of each token's rows ---- */

constexpr int FEW = WARP;        /* rows of a token that a warp sums alone */
constexpr int MANY_WARPS = 16;   /* of a block that sums the rows of a token with more */
constexpr int MANY_BLOCKS = 512; /* that take such tokens in turn */
constexpr int MANY_ROWS = 8;     /* rows that a thread loads at once */

template <typename T> struct token_job {
    float *d_token;
    const T *dy;
    struct token_sort sort;
    int64_t token_count;
    int width;
};

/* Adds a pack's sums to the row of d_token. */
template <bool ALIGNED, int N>
static __device__ __forceinline__ void add_to_row(float *row, int column, int width, const float (&sum)[N])
{
    constexpr int M = PACK<float>;
#pragma unroll
    for (int i = 0; i < N; i += M) {
        pack<float, M> before = load_columns<ALIGNED, M>(row, column + i, width);
        float v[M];
#pragma unroll
        for (int j = 0; j < M; j++)
            v[j] = before.at(j) + sum[i + j];
        store_columns<ALIGNED, M>(row, column + i, width, v);
    }
}

/* HELD packs of a row, as sums. */
template <typename T> struct held_sums {
    static constexpr int N = PACK<T>;
    float v[HELD][N];

    template <bool ALIGNED> __device__ __forceinline__ void load_and_add(const T *row, int begin, int width)
    {
        pack<T, N> x[HELD];
#pragma unroll
        for (int i = 0; i < HELD; i++)
            x[i] = load_columns<ALIGNED, N>(row, begin + i * WARP * N, width);
#pragma unroll
        for (int i = 0; i < HELD * N; i++)
            v[i / N][i % N] += x[i / N].at(i % N);
    }
};

/* The warp whose pair is the first of its token sums the token's rows where they are few, else leaves them to many_kernel. */
template <typename T, bool ALIGNED> static __global__ void __launch_bounds__(ROW_WARPS *WARP) few_kernel(struct token_job<T> job)
{
    constexpr int N = PACK<T>;
    int at = blockIdx.x * ROW_WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (at >= job.sort.rows)
        return;
    int64_t key = pair_key(job.sort.pairs[at]);
    if (key == job.token_count || (at > 0 && pair_key(job.sort.pairs[at - 1]) == key))
        return;
    pair mine = at + lane < job.sort.rows ? job.sort.pairs[at + lane] : ~0ull;
    int count = __popc(__ballot_sync(WHOLE_WARP, pair_key(mine) == key)), row = static_cast<int>(pair_row(mine));
    if (count == FEW && at + FEW < job.sort.rows && pair_key(job.sort.pairs[at + FEW]) == key) {
        if (lane == 0)
            job.sort.many[1 + atomicAdd(job.sort.many, 1)] = at;
        return;
    }
    for (int first = lane * N; first - lane * N < job.width; first += HELD * WARP * N) {
        held_sums<T> sums = {};
#pragma unroll 2
        for (int i = 0; i < count; i++) {
            int64_t r = __shfl_sync(WHOLE_WARP, row, i);
            sums.template load_and_add<ALIGNED>(job.dy + r * job.width, first, job.width);
        }
#pragma unroll
        for (int i = 0; i < HELD; i++)
            add_to_row<ALIGNED>(job.d_token + key * job.width, first + i * WARP * N, job.width, sums.v[i]);
    }
}

/* How many pairs from AT on have KEY: the first that has another is looked for by 32 steps at once. Called by a whole warp. */
static __device__ __forceinline__ int count_rows(const struct token_sort &sort, int at, int64_t key)
{
    int begin = at, end = sort.rows, lane = threadIdx.x % WARP; /* the first other one is in begin + 1..end */
    while (end - begin > 1) {
        int step = (end - begin - 1 + WARP - 1) / WARP, probe = begin + step * (lane + 1);
        bool same = probe < end && pair_key(sort.pairs[probe]) == key;
        int steps = __popc(__ballot_sync(WHOLE_WARP, same));
        int last = begin + step * (steps + 1);
        begin += step * steps;
        end = last < end ? last : end;
    }
    return end - at;
}

/* Adds to SUM what the thread has of MANY_ROWS sorted rows from FIRST on; ALL: all are before END. */
template <bool ALL, bool ALIGNED, typename T>
static __device__ __forceinline__ void add_many(const struct token_job<T> &job, float (&sum)[PACK<T>], int first, int end, int column)
{
    constexpr int N = PACK<T>;
    pack<T, N> x[MANY_ROWS];
    int row = static_cast<int>(pair_row(job.sort.pairs[least(first + threadIdx.x % MANY_ROWS, end - 1)]));
#pragma unroll
    for (int i = 0; i < MANY_ROWS; i++) {
        int64_t r = __shfl_sync(WHOLE_WARP, row, i);
        x[i] = load_columns<ALIGNED, N>(job.dy + r * job.width, column, ALL || first + i < end ? job.width : 0);
    }
#pragma unroll
    for (int i = 0; i < MANY_ROWS; i++)
#pragma unroll
        for (int j = 0; j < N; j++)
            sum[j] += x[i].at(j);
}

/* A block has 32 packs of the columns (blockIdx.y says which); each warp sums one run of a token's rows, then their sums are added. */
template <typename T, bool ALIGNED> static __global__ void __launch_bounds__(MANY_WARPS *WARP) many_kernel(struct token_job<T> job)
{
    constexpr int N = PACK<T>;
    __shared__ float sums[MANY_WARPS][N][WARP];
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, column = (blockIdx.y * WARP + lane) * N;
    for (int number = blockIdx.x; number < job.sort.many[0]; number += gridDim.x) {
        int at = job.sort.many[1 + number];
        int64_t key = pair_key(job.sort.pairs[at]);
        int count = count_rows(job.sort, at, key), run = (count + MANY_WARPS - 1) / MANY_WARPS;
        int first = at + warp * run, end = static_cast<int>(least(first + run, at + count));
        float sum[N] = {};
        for (; first + MANY_ROWS <= end; first += MANY_ROWS)
            add_many<true, ALIGNED>(job, sum, first, end, column);
        if (first < end)
            add_many<false, ALIGNED>(job, sum, first, end, column);
#pragma unroll
        for (int i = 0; i < N; i++)
            sums[warp][i][lane] = sum[i];
        __syncthreads();
        if (warp == 0) {
#pragma unroll
            for (int i = 0; i < N; i++) {
                sum[i] = 0;
                for (int w = 0; w < MANY_WARPS; w++)
                    sum[i] += sums[w][i][lane];
            }
            add_to_row<ALIGNED>(job.d_token + key * job.width, column, job.width, sum);
        }
        __syncthreads();
    }
}

template <typename T, bool ALIGNED> static void sum_tokens(struct cuda *cuda, const struct token_job<T> &job)
{
    static const char what[] = "the embedding's gradient";
    launch(cuda, what, few_kernel<T, ALIGNED>, dim3(blocks_of(job.sort.rows, ROW_WARPS)), dim3(ROW_WARPS * WARP), 0, job);
    unsigned most = static_cast<unsigned>(least(job.sort.rows / (FEW + 1), MANY_BLOCKS));
    launch(cuda, what, many_kernel<T, ALIGNED>, dim3(most, blocks_of(job.width, WARP * PACK<T>)), dim3(MANY_WARPS * WARP), 0, job);
}

/* The scratch memory, cut up for ROWS rows. */
static struct token_sort sort_of(struct cuda *cuda, int64_t rows)
{
    struct token_sort sort = {};
    sort.rows = static_cast<int>(rows);
    sort.tiles = static_cast<int>(blocks_of(rows, TILE));
    sort.pairs = static_cast<pair *>(cuda->scratch);
    sort.other = sort.pairs + rows;
    sort.counts = reinterpret_cast<int *>(sort.other + rows);
    sort.many = sort.counts + DIGITS * sort.tiles;
    return sort;
}
static_assert(SORT_ROWS_MOST * (2 * sizeof(pair) + sizeof(int)) + (SORT_ROWS_MOST / TILE + 1) * DIGITS * sizeof(int) <=
                  SCRATCH_BYTES,
              "what is sorted is in scratch");

template <typename T>
static void token_gradients(struct cuda *cuda, float *d_token, const T *dy, const int32_t *tokens, const struct embedding_desc *d)
{
    for (int64_t first = 0; first < d->rows; first += SORT_ROWS_MOST) {
        struct token_job<T> job = {d_token, dy + first * d->width, sort_of(cuda, least(d->rows - first, SORT_ROWS_MOST)),
                                   d->token_count, static_cast<int>(d->width)};
        sort_rows(cuda, &job.sort, tokens + first, d);
        if (rows_aligned(dy, d->width) && rows_aligned(d_token, d->width))
            sum_tokens<T, true>(cuda, job);
        else
            sum_tokens<T, false>(cuda, job);
    }
}

/* ---- the sums of each position's rows ---- */

constexpr int POSITION_THREADS = 256, POSITION_ROWS = 8; /* rows that a thread loads at once */

template <typename T> struct position_job {
    float *d_position;
    const T *dy;
    struct embedding_desc d;
    int packs; /* of a row */
};

/* Adds to SUM the pack at AT of the rows FIRST, FIRST + context, ... (POSITION_ROWS of them; ALL: all are there). */
template <bool ALL, bool ALIGNED, typename T>
static __device__ __forceinline__ void add_column(const struct position_job<T> &job, float (&sum)[PACK<T>], int64_t first, int at,
                                                  int width)
{
    constexpr int N = PACK<T>;
    pack<T, N> x[POSITION_ROWS];
#pragma unroll
    for (int i = 0; i < POSITION_ROWS; i++) {
        int64_t r = first + i * job.d.context;
        x[i] = load_columns<ALIGNED, N>(job.dy + r * width, at, ALL || r < job.d.rows ? width : 0);
    }
#pragma unroll
    for (int i = 0; i < POSITION_ROWS; i++)
#pragma unroll
        for (int j = 0; j < N; j++)
            sum[j] += x[i].at(j);
}

/* A thread has a pack of a column's rows. */
template <typename T, bool ALIGNED>
static __global__ void __launch_bounds__(POSITION_THREADS) position_kernel(struct position_job<T> job)
{
    constexpr int N = PACK<T>;
    int64_t number = static_cast<int64_t>(blockIdx.x) * POSITION_THREADS + threadIdx.x, column = number / job.packs, r = column;
    int at = static_cast<int>(number % job.packs) * N, width = static_cast<int>(job.d.width);
    if (column >= job.d.context || at >= width)
        return;
    int64_t position = job.d.positions != nullptr ? job.d.positions[column] : column;
    float sum[N] = {};
    for (; r + (POSITION_ROWS - 1) * job.d.context < job.d.rows; r += POSITION_ROWS * job.d.context)
        add_column<true, ALIGNED>(job, sum, r, at, width);
    if (r < job.d.rows)
        add_column<false, ALIGNED>(job, sum, r, at, width);
    add_to_row<ALIGNED>(job.d_position + position * width, at, width, sum); /* of zeros */
}

template <typename T>
static void position_gradients(struct cuda *cuda, float *d_position, const T *dy, const struct embedding_desc *d)
{
    struct position_job<T> job = {d_position, dy, *d, static_cast<int>(blocks_of(d->width, PACK<T>))};
    dim3 grid(blocks_of(d->context * job.packs, POSITION_THREADS)), block(POSITION_THREADS);
    cuda->base.table->zero(&cuda->base, d_position, static_cast<size_t>(d->position_count * d->width) * sizeof(float));
    if (rows_aligned(dy, d->width) && rows_aligned(d_position, d->width))
        launch(cuda, "the positions' gradient", position_kernel<T, true>, grid, block, 0, job);
    else
        launch(cuda, "the positions' gradient", position_kernel<T, false>, grid, block, 0, job);
}

template <typename T>
static void backward(struct cuda *cuda, void *d_token, void *d_position, const void *dy, const int32_t *tokens,
                     const struct embedding_desc *d)
{
    if (d_position != nullptr)
        position_gradients(cuda, static_cast<float *>(d_position), static_cast<const T *>(dy), d);
    token_gradients(cuda, static_cast<float *>(d_token), static_cast<const T *>(dy), tokens, d);
}

static void embedding_backward(struct backend *b, void *d_token, void *d_position, const void *dy, const int32_t *tokens,
                               const struct embedding_desc *d)
{
    if (b->act == DTYPE_BF16)
        backward<bf16>(cuda_of(b), d_token, d_position, dy, tokens, d);
    else
        backward<float>(cuda_of(b), d_token, d_position, dy, tokens, d);
}

void embedding_fill(struct backend_table *t)
{
    t->embedding_forward = embedding_forward;
    t->embedding_backward = embedding_backward;
}
