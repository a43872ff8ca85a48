/* Layer norm, and sums over rows. */
#include "kernels/cuda/pack.h"

/* ---- one row after the other, each kept in registers by a warp or, where it is wide, by a block ---- */

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

template <typename T> struct norm_forward {
    typedef T type;
    T *y;
    float *mean, *rstd;
    const T *x, *gain, *bias;
    int64_t rows;
    int width;
    float epsilon;

    template <bool BLOCK, bool ALIGNED> __device__ __forceinline__ void run(int64_t row, const row_team<BLOCK> &team) const
    {
        constexpr int N = PACK<T>;
        const T *in = x + row * width;
        int part = BLOCK ? team.members * KEPT * N : width; /* of the row that is kept at once */
        row_part<T> kept;
        float sum = 0, squares = 0;
        for (int begin = 0; begin < width; begin += part) {
            kept.template load<ALIGNED>(in, begin, width, team);
#pragma unroll
            for (int i = 0; i < KEPT * N; i++)
                sum += kept.v[i / N].at(i % N);
        }
        float m = team.sum(sum) / static_cast<float>(width);
        for (int begin = 0; begin < width; begin += part) {
            if (part < width)
                kept.template load<ALIGNED>(in, begin, width, team);
#pragma unroll
            for (int i = 0; i < KEPT * N; i++) {
                float d = kept.v[i / N].at(i % N) - m;
                squares += column<N>(begin, i, team) < width ? d * d : 0;
            }
        }
        float s = 1.0f / sqrtf(team.sum(squares) / static_cast<float>(width) + epsilon);
        for (int begin = 0; begin < width; begin += part) {
            if (part < width)
                kept.template load<ALIGNED>(in, begin, width, team);
            store<ALIGNED>(row, kept, begin, m, s, team);
        }
        if (team.member == 0) {
            mean[row] = m;
            rstd[row] = s;
        }
    }

    /* Of element I of what a thread has. */
    template <int N, bool BLOCK> static __device__ __forceinline__ int column(int begin, int i, const row_team<BLOCK> &team)
    {
        return begin + (i / N * team.members + team.member) * N + i % N;
    }

    template <bool ALIGNED, bool BLOCK>
    __device__ __forceinline__ void store(int64_t row, const row_part<T> &kept, int begin, float m, float s,
                                          const row_team<BLOCK> &team) const
    {
        constexpr int N = PACK<T>;
#pragma unroll
        for (int i = 0; i < KEPT; i++) {
            int c = column<N>(begin, i * N, team);
            pack<T, N> g = load_columns<ALIGNED, N>(gain, c, width), b = load_columns<ALIGNED, N>(bias, c, width);
            float out[N];
#pragma unroll
            for (int j = 0; j < N; j++)
                out[j] = (kept.v[i].at(j) - m) * s * g.at(j) + b.at(j);
            store_columns<ALIGNED, N>(y + row * width, c, width, out);
        }
    }
};

/* With n = (x - mean) rstd and g = dy gain: dx = rstd (g - average(g) - n average(g n)), averages over the row. */
template <typename T> struct norm_backward {
    typedef T type;
    T *dx;
    const T *dy, *x, *gain;
    const float *mean, *rstd;
    int64_t rows;
    int width;
    bool add;

    template <bool BLOCK, bool ALIGNED> __device__ __forceinline__ void run(int64_t row, const row_team<BLOCK> &team) const
    {
        constexpr int N = PACK<T>;
        int part = BLOCK ? team.members * KEPT * N : width; /* of the row that is kept at once */
        row_part<T> d_out, in, before = {};
        float m = mean[row], s = rstd[row], sum_g = 0, sum_gn = 0;
        for (int begin = 0; begin < width; begin += part) {
            d_out.template load<ALIGNED>(dy + row * width, begin, width, team);
            in.template load<ALIGNED>(x + row * width, begin, width, team);
            if (add && part >= width)
                before.template load<ALIGNED>(dx + row * width, begin, width, team);
#pragma unroll
            for (int i = 0; i < KEPT; i++) {
                pack<T, N> w = load_columns<ALIGNED, N>(gain, begin + (i * team.members + team.member) * N, width);
#pragma unroll
                for (int j = 0; j < N; j++) {
                    float g = d_out.v[i].at(j) * w.at(j);
                    sum_g += g;
                    sum_gn += g * ((in.v[i].at(j) - m) * s);
                }
            }
        }
        float average_g = team.sum(sum_g) / static_cast<float>(width), average_gn = team.sum(sum_gn) / static_cast<float>(width);
        for (int begin = 0; begin < width; begin += part) {
            if (part < width) {
                d_out.template load<ALIGNED>(dy + row * width, begin, width, team);
                in.template load<ALIGNED>(x + row * width, begin, width, team);
                if (add)
                    before.template load<ALIGNED>(dx + row * width, begin, width, team);
            }
            store<ALIGNED>(row, d_out, in, before, begin, average_g, average_gn, team);
        }
    }

    template <bool ALIGNED, bool BLOCK>
    __device__ __forceinline__ void store(int64_t row, const row_part<T> &d_out, const row_part<T> &in,
                                          const row_part<T> &before, int begin, float average_g, float average_gn,
                                          const row_team<BLOCK> &team) const
    {
        constexpr int N = PACK<T>;
        float m = mean[row], s = rstd[row];
        T *to = dx + row * width;
#pragma unroll
        for (int i = 0; i < KEPT; i++) {
            int c = begin + (i * team.members + team.member) * N;
            pack<T, N> w = load_columns<ALIGNED, N>(gain, c, width);
            float out[N];
#pragma unroll
            for (int j = 0; j < N; j++) {
                float g = d_out.v[i].at(j) * w.at(j), n = (in.v[i].at(j) - m) * s;
                out[j] = s * (g - average_g - n * average_gn) + before.v[i].at(j); /* zeros where dx is not added to */
            }
            store_columns<ALIGNED, N>(to, c, width, out);
        }
    }
};

template <typename T>
static void forward(struct cuda *cuda, void *y, void *mean, void *rstd, const void *x, const void *gain, const void *bias, int64_t rows,
                    int64_t width, double epsilon)
{
    norm_forward<T> job = {static_cast<T *>(y), static_cast<float *>(mean), static_cast<float *>(rstd), static_cast<const T *>(x),
                          static_cast<const T *>(gain), static_cast<const T *>(bias), rows, static_cast<int>(width),
                          static_cast<float>(epsilon)};
    if (rows_aligned(job.y, width) && rows_aligned(job.x, width) && rows_aligned(job.gain, width) && rows_aligned(job.bias, width))
        launch_rows<norm_forward<T>, true>(cuda, "layer norm", job);
    else
        launch_rows<norm_forward<T>, false>(cuda, "layer norm", job);
}

static void layer_norm_forward(struct backend *b, void *y, void *mean, void *rstd, const void *x, const void *gain, const void *bias,
                               int64_t rows, int64_t width, double epsilon)
{
    if (b->act == DTYPE_BF16)
        forward<bf16>(cuda_of(b), y, mean, rstd, x, gain, bias, rows, width, epsilon);
    else
        forward<float>(cuda_of(b), y, mean, rstd, x, gain, bias, rows, width, epsilon);
}

template <typename T>
static void backward_input(struct cuda *cuda, void *dx, const void *dy, const void *x, const void *gain, const void *mean,
                           const void *rstd, int64_t rows, int64_t width, bool add)
{
    norm_backward<T> job = {static_cast<T *>(dx), static_cast<const T *>(dy), static_cast<const T *>(x), static_cast<const T *>(gain),
                           static_cast<const float *>(mean), static_cast<const float *>(rstd), rows, static_cast<int>(width), add};
    if (rows_aligned(job.dx, width) && rows_aligned(job.dy, width) && rows_aligned(job.x, width) && rows_aligned(job.gain, width))
        launch_rows<norm_backward<T>, true>(cuda, "layer norm's gradient", job);
    else
        launch_rows<norm_backward<T>, false>(cuda, "layer norm's gradient", job);
}

static void layer_norm_backward_input(struct backend *b, void *dx, const void *dy, const void *x, const void *gain, const void *mean,
                                      const void *rstd, int64_t rows, int64_t width, bool add_to_dx)
{
    if (b->act == DTYPE_BF16)
        backward_input<bf16>(cuda_of(b), dx, dy, x, gain, mean, rstd, rows, width, add_to_dx);
    else
        backward_input<float>(cuda_of(b), dx, dy, x, gain, mean, rstd, rows, width, add_to_dx);
}

/* ---- sums over rows: a block sums part of the rows of a strip of columns, then the parts are joined ---- */

constexpr int SUM_WARPS = 8, SUM_ROWS = 4; /* warps of a block take rows in turn, so many at once */
constexpr int SUM_BLOCKS = 768;            /* about so many in all: several for each multiprocessor, and alike ones */
constexpr int JOIN_WARPS = 32;

template <typename T> struct column_job {
    float *partial; /* [parts][GAIN ? 2 : 1][width]: of dy, then of dy n */
    const T *dy, *x;
    const float *mean, *rstd;
    int64_t rows, part_rows;
    int width;
};

/* Adds to the thread's sums what it has of rows FIRST, FIRST + SUM_WARPS, ... (SUM_ROWS of them; ALL: all are before END). */
template <bool ALL, bool GAIN, bool ALIGNED, typename T>
static __device__ __forceinline__ void add_rows(const struct column_job<T> &job, float (&bias)[PACK<T>], float (&gain)[PACK<T>],
                                         int64_t first, int64_t end, int column)
{
    constexpr int N = PACK<T>;
    pack<T, N> d[SUM_ROWS], in[SUM_ROWS];
    float m[SUM_ROWS], s[SUM_ROWS];
#pragma unroll
    for (int i = 0; i < SUM_ROWS; i++) {
        int64_t row = first + i * SUM_WARPS;
        int width = ALL || row < end ? job.width : 0; /* zeros behind the end */
        d[i] = load_columns<ALIGNED, N>(job.dy + row * job.width, column, width);
        if (GAIN) {
            in[i] = load_columns<ALIGNED, N>(job.x + row * job.width, column, width);
            m[i] = ALL || row < end ? job.mean[row] : 0;
            s[i] = ALL || row < end ? job.rstd[row] : 0;
        }
    }
#pragma unroll
    for (int i = 0; i < SUM_ROWS; i++)
#pragma unroll
        for (int j = 0; j < N; j++) {
            float v = d[i].at(j);
            bias[j] += v;
            if (GAIN)
                gain[j] += v * ((in[i].at(j) - m[i]) * s[i]);
        }
}

template <typename T, bool GAIN, bool ALIGNED>
static __global__ void __launch_bounds__(SUM_WARPS *WARP) columns_kernel(struct column_job<T> job)
{
    constexpr int N = PACK<T>, SUMS = GAIN ? 2 : 1, COLUMNS = WARP * N;
    __shared__ float sums[SUM_WARPS][SUMS][COLUMNS];
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, first_column = blockIdx.x * COLUMNS;
    int64_t begin = blockIdx.y * job.part_rows, end = begin + job.part_rows < job.rows ? begin + job.part_rows : job.rows;
    float bias[N] = {}, gain[N] = {};
    if (first_column + lane * N < job.width) {
        int64_t row = begin + warp;
        for (; row + (SUM_ROWS - 1) * SUM_WARPS < end; row += SUM_WARPS * SUM_ROWS)
            add_rows<true, GAIN, ALIGNED>(job, bias, gain, row, end, first_column + lane * N);
        if (row < end)
            add_rows<false, GAIN, ALIGNED>(job, bias, gain, row, end, first_column + lane * N);
    }
#pragma unroll
    for (int i = 0; i < N; i++) {
        sums[warp][0][lane * N + i] = bias[i];
        if (GAIN)
            sums[warp][SUMS - 1][lane * N + i] = gain[i];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < SUMS * COLUMNS; i += SUM_WARPS * WARP) {
        int which = i / COLUMNS, column = i % COLUMNS;
        float sum = 0;
        for (int w = 0; w < SUM_WARPS; w++)
            sum += sums[w][which][column];
        if (first_column + column < job.width)
            job.partial[(static_cast<int64_t>(blockIdx.y) * SUMS + which) * job.width + first_column + column] = sum;
    }
}

/* A block joins 32 columns, its warps taking the parts in turn. */
static __global__ void __launch_bounds__(JOIN_WARPS *WARP) join_kernel(float *d_bias, float *d_gain, const float *partial, int parts,
                                                                       int width, int columns)
{
    __shared__ float sums[JOIN_WARPS][WARP];
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, column = blockIdx.x * WARP + lane;
    float sum = 0;
#pragma unroll 8
    for (int part = warp; part < parts; part += JOIN_WARPS)
        sum += column < columns ? partial[static_cast<int64_t>(part) * columns + column] : 0;
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || column >= columns)
        return;
    sum = 0;
    for (int w = 0; w < JOIN_WARPS; w++)
        sum += sums[w][lane];
    if (column < width)
        d_bias[column] = sum;
    else
        d_gain[column - width] = sum;
}

/* How many parts the rows are cut into, by the shape alone. */
static int64_t parts_of(int64_t rows, int64_t columns, int64_t strips)
{
    int64_t parts = (SUM_BLOCKS + strips - 1) / strips, most = (rows + SUM_WARPS * SUM_ROWS - 1) / (SUM_WARPS * SUM_ROWS);
    int64_t room = static_cast<int64_t>(SCRATCH_BYTES / sizeof(float)) / columns;
    parts = parts < most ? parts : most;
    parts = parts < room ? parts : room;
    return parts > 1 ? parts : 1;
}

template <typename T, bool GAIN>
static void column_sums(struct backend *b, void *d_bias, void *d_gain, const void *dy, const void *x, const void *mean,
                        const void *rstd, int64_t rows, int64_t width)
{
    struct cuda *cuda = cuda_of(b);
    int64_t columns = GAIN ? 2 * width : width, strips = blocks_of(width, WARP * PACK<T>), parts = parts_of(rows, columns, strips);
    struct column_job<T> job = {static_cast<float *>(cuda->scratch), static_cast<const T *>(dy), static_cast<const T *>(x),
                                static_cast<const float *>(mean), static_cast<const float *>(rstd), rows,
                                (rows + parts - 1) / parts, static_cast<int>(width)};
    dim3 grid(static_cast<unsigned>(strips), static_cast<unsigned>(parts)), block(SUM_WARPS * WARP);
    if (rows_aligned(job.dy, width) && (!GAIN || rows_aligned(job.x, width)))
        launch(cuda, "sums over rows", columns_kernel<T, GAIN, true>, grid, block, 0, job);
    else
        launch(cuda, "sums over rows", columns_kernel<T, GAIN, false>, grid, block, 0, job);
    launch(cuda, "sums over rows", join_kernel, dim3(blocks_of(columns, WARP)), dim3(JOIN_WARPS * WARP), 0,
           static_cast<float *>(d_bias), static_cast<float *>(d_gain), static_cast<const float *>(job.partial),
           static_cast<int>(parts), static_cast<int>(width), static_cast<int>(columns));
}

static void layer_norm_backward_weight(struct backend *b, void *d_gain, void *d_bias, const void *dy, const void *x, const void *mean,
                                       const void *rstd, int64_t rows, int64_t width)
{
    if (b->act == DTYPE_BF16)
        column_sums<bf16, true>(b, d_bias, d_gain, dy, x, mean, rstd, rows, width);
    else
        column_sums<float, true>(b, d_bias, d_gain, dy, x, mean, rstd, rows, width);
}

static void bias_backward(struct backend *b, void *d_bias, const void *dy, int64_t rows, int64_t width)
{
    if (b->act == DTYPE_BF16)
        column_sums<bf16, false>(b, d_bias, nullptr, dy, nullptr, nullptr, nullptr, rows, width);
    else
        column_sums<float, false>(b, d_bias, nullptr, dy, nullptr, nullptr, nullptr, rows, width);
}

void norm_fill(struct backend_table *t)
{
    t->layer_norm_forward = layer_norm_forward;
    t->layer_norm_backward_input = layer_norm_backward_input;
    t->layer_norm_backward_weight = layer_norm_backward_weight;
    t->bias_backward = bias_backward;
}
