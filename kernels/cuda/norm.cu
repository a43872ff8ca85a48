/* Layer norm and RMS norm, and sums over rows. */
#include "kernels/cuda/norm_rows.h"

/* CENTERED: layer norm; else RMS norm, which has neither mean nor bias. */
template <typename T, bool CENTERED> struct norm_forward {
    typedef T type;
    T *y;
    float *mean, *rstd;
    const T *x, *gain, *bias;
    const T *h; /* NULL, or: x + h is normed, and written to SUM */
    T *sum;
    int64_t rows;
    int width;
    float epsilon;

    template <bool BLOCK, bool ALIGNED> __device__ __forceinline__ void run(int64_t row, const row_team<BLOCK> &team) const
    {
        constexpr int N = PACK<T>;
        const T *in = (h != nullptr ? sum : x) + row * width;
        int part = BLOCK ? team.members * KEPT * N : width; /* of the row that is kept at once */
        row_part<T> kept;
        float total = 0, squares = 0;
        for (int begin = 0; begin < width; begin += part) {
            kept.template load<ALIGNED>(x + row * width, begin, width, team);
            if (h != nullptr)
                add_residual<ALIGNED>(row, kept, begin, team);
#pragma unroll
            for (int i = 0; i < KEPT * N; i++) {
                float v = kept.v[i / N].at(i % N);
                if (CENTERED)
                    total += v;
                else
                    squares += v * v;
            }
        }
        float m = CENTERED ? team.sum(total) / static_cast<float>(width) : 0.0f;
        for (int begin = 0; CENTERED && begin < width; begin += part) {
            if (part < width)
                kept.template load<ALIGNED>(in, begin, width, team);
#pragma unroll
            for (int i = 0; i < KEPT * N; i++) {
                float d = kept.v[i / N].at(i % N) - m;
                squares += column_of<N>(begin, i, team) < width ? d * d : 0;
            }
        }
        float s = 1.0f / sqrtf(team.sum(squares) / static_cast<float>(width) + epsilon);
        for (int begin = 0; begin < width; begin += part) {
            if (part < width)
                kept.template load<ALIGNED>(in, begin, width, team);
            store<ALIGNED>(row, kept, begin, m, s, team);
        }
        if (CENTERED && team.member == 0)
            mean[row] = m;
        if (team.member == 0)
            rstd[row] = s;
    }

    /* Rounded, as the sum is read again; each thread reads what it wrote itself. */
    template <bool ALIGNED, bool BLOCK>
    __device__ __forceinline__ void add_residual(int64_t row, row_part<T> &kept, int begin, const row_team<BLOCK> &team) const
    {
        constexpr int N = PACK<T>;
        row_part<T> added;
        added.template load<ALIGNED>(h + row * width, begin, width, team);
#pragma unroll
        for (int i = 0; i < KEPT; i++) {
            float out[N];
#pragma unroll
            for (int j = 0; j < N; j++)
                out[j] = kept.v[i].at(j) + added.v[i].at(j);
            kept.v[i] = pack_of(out, x);
            store_columns<ALIGNED, N>(sum + row * width, column_of<N>(begin, i * N, team), width, out);
        }
    }

    template <bool ALIGNED, bool BLOCK>
    __device__ __forceinline__ void store(int64_t row, const row_part<T> &kept, int begin, float m, float s,
                                          const row_team<BLOCK> &team) const
    {
        constexpr int N = PACK<T>;
#pragma unroll
        for (int i = 0; i < KEPT; i++) {
            int c = column_of<N>(begin, i * N, team);
            pack<T, N> g = load_columns<ALIGNED, N>(gain, c, width), b = {};
            if (CENTERED)
                b = load_columns<ALIGNED, N>(bias, c, width);
            float out[N];
#pragma unroll
            for (int j = 0; j < N; j++)
                out[j] = CENTERED ? (kept.v[i].at(j) - m) * s * g.at(j) + b.at(j) : kept.v[i].at(j) * s * g.at(j);
            store_columns<ALIGNED, N>(y + row * width, c, width, out);
        }
    }
};

/* x + h and its norm, or that of x where h is NULL. */
struct norm_call {
    void *sum, *y, *mean, *rstd;
    const void *x, *h, *gain, *bias;
    int64_t rows, width;
    double epsilon;
};

template <typename T, bool CENTERED> static void forward_of(struct cuda *cuda, const struct norm_call &c)
{
    norm_forward<T, CENTERED> job = {static_cast<T *>(c.y), static_cast<float *>(c.mean), static_cast<float *>(c.rstd),
                                     static_cast<const T *>(c.x), static_cast<const T *>(c.gain), static_cast<const T *>(c.bias),
                                     static_cast<const T *>(c.h), static_cast<T *>(c.sum), c.rows, static_cast<int>(c.width),
                                     static_cast<float>(c.epsilon)};
    const char *what = CENTERED ? "layer norm" : "RMS norm";
    if (rows_aligned(job.y, c.width) && rows_aligned(job.x, c.width) && rows_aligned(job.gain, c.width) &&
        rows_aligned(job.bias, c.width) && rows_aligned(job.h, c.width) && rows_aligned(job.sum, c.width))
        launch_rows<norm_forward<T, CENTERED>, true>(cuda, what, job);
    else
        launch_rows<norm_forward<T, CENTERED>, false>(cuda, what, job);
}

template <bool CENTERED> static void forward(struct backend *b, const struct norm_call &call)
{
    if (b->act == DTYPE_BF16)
        forward_of<bf16, CENTERED>(cuda_of(b), call);
    else
        forward_of<float, CENTERED>(cuda_of(b), call);
}

static void layer_norm_forward(struct backend *b, void *y, void *mean, void *rstd, const void *x, const void *gain, const void *bias,
                               int64_t rows, int64_t width, double epsilon)
{
    forward<true>(b, {nullptr, y, mean, rstd, x, nullptr, gain, bias, rows, width, epsilon});
}

static void residual_layer_norm_forward(struct backend *b, void *sum, void *y, void *mean, void *rstd, const void *x, const void *h,
                                        const void *gain, const void *bias, int64_t rows, int64_t width, double epsilon)
{
    forward<true>(b, {sum, y, mean, rstd, x, h, gain, bias, rows, width, epsilon});
}

static void rms_norm_forward(struct backend *b, void *y, void *rstd, const void *x, const void *gain, int64_t rows, int64_t width,
                             double epsilon)
{
    forward<false>(b, {nullptr, y, nullptr, rstd, x, nullptr, gain, nullptr, rows, width, epsilon});
}

static void residual_rms_norm_forward(struct backend *b, void *sum, void *y, void *rstd, const void *x, const void *h, const void *gain,
                                      int64_t rows, int64_t width, double epsilon)
{
    forward<false>(b, {sum, y, nullptr, rstd, x, h, gain, nullptr, rows, width, epsilon});
}

/* ---- sums over rows: a block sums part of the rows of a strip of columns, then the parts are joined ---- */

constexpr int SUM_WARPS = 8, SUM_ROWS = 4; /* warps of a block take rows in turn, so many at once */
constexpr int SUM_BLOCKS = 768;            /* about so many in all: several for each multiprocessor, and alike ones */
constexpr int JOIN_WARPS = 32;

/* Sums of dy, of dy n, or of both: GAIN alone is an RMS norm's, without a mean. */
template <typename T> struct column_job {
    float *partial; /* [parts][BIAS + GAIN][width] */
    const T *dy, *x;
    const float *mean, *rstd;
    int64_t rows, part_rows;
    int width;
};

/* Adds to the thread's sums what it has of rows FIRST, FIRST + SUM_WARPS, ... (SUM_ROWS of them; ALL: all are before END). */
template <bool ALL, bool BIAS, bool GAIN, bool ALIGNED, typename T>
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
            m[i] = BIAS && (ALL || row < end) ? job.mean[row] : 0;
            s[i] = ALL || row < end ? job.rstd[row] : 0;
        }
    }
#pragma unroll
    for (int i = 0; i < SUM_ROWS; i++)
#pragma unroll
        for (int j = 0; j < N; j++) {
            float v = d[i].at(j);
            if (BIAS)
                bias[j] += v;
            if (GAIN)
                gain[j] += v * ((in[i].at(j) - m[i]) * s[i]);
        }
}

template <typename T, bool BIAS, bool GAIN, bool ALIGNED>
static __global__ void __launch_bounds__(SUM_WARPS *WARP) columns_kernel(struct column_job<T> job)
{
    constexpr int N = PACK<T>, SUMS = BIAS + GAIN, COLUMNS = WARP * N;
    __shared__ float sums[SUM_WARPS][SUMS][COLUMNS];
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, first_column = blockIdx.x * COLUMNS;
    int64_t begin = blockIdx.y * job.part_rows, end = begin + job.part_rows < job.rows ? begin + job.part_rows : job.rows;
    float bias[N] = {}, gain[N] = {};
    if (first_column + lane * N < job.width) {
        int64_t row = begin + warp;
        for (; row + (SUM_ROWS - 1) * SUM_WARPS < end; row += SUM_WARPS * SUM_ROWS)
            add_rows<true, BIAS, GAIN, ALIGNED>(job, bias, gain, row, end, first_column + lane * N);
        if (row < end)
            add_rows<false, BIAS, GAIN, ALIGNED>(job, bias, gain, row, end, first_column + lane * N);
    }
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (BIAS)
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
static __global__ void __launch_bounds__(JOIN_WARPS *WARP) join_kernel(float *first, float *second, const float *partial, int parts,
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
        first[column] = sum;
    else
        second[column - width] = sum;
}

void norm_join_columns(struct cuda *cuda, void *first, void *second, const float *partial, int64_t parts, int64_t width)
{
    int64_t columns = second != nullptr ? 2 * width : width;
    launch(cuda, "sums over rows", join_kernel, dim3(blocks_of(columns, WARP)), dim3(JOIN_WARPS * WARP), 0, static_cast<float *>(first),
           static_cast<float *>(second), partial, static_cast<int>(parts), static_cast<int>(width), static_cast<int>(columns));
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

template <typename T, bool BIAS, bool GAIN>
static void column_sums(struct backend *b, void *d_bias, void *d_gain, const void *dy, const void *x, const void *mean,
                        const void *rstd, int64_t rows, int64_t width)
{
    struct cuda *cuda = cuda_of(b);
    int64_t columns = (BIAS + GAIN) * width, strips = blocks_of(width, WARP * PACK<T>), parts = parts_of(rows, columns, strips);
    struct column_job<T> job = {static_cast<float *>(cuda->scratch), static_cast<const T *>(dy), static_cast<const T *>(x),
                                static_cast<const float *>(mean), static_cast<const float *>(rstd), rows,
                                (rows + parts - 1) / parts, static_cast<int>(width)};
    dim3 grid(static_cast<unsigned>(strips), static_cast<unsigned>(parts)), block(SUM_WARPS * WARP);
    if (rows_aligned(job.dy, width) && (!GAIN || rows_aligned(job.x, width)))
        launch(cuda, "sums over rows", columns_kernel<T, BIAS, GAIN, true>, grid, block, 0, job);
    else
        launch(cuda, "sums over rows", columns_kernel<T, BIAS, GAIN, false>, grid, block, 0, job);
    norm_join_columns(cuda, BIAS ? d_bias : d_gain, BIAS && GAIN ? d_gain : nullptr, job.partial, parts, width);
}

template <bool BIAS, bool GAIN>
static void sums_of_columns(struct backend *b, void *d_bias, void *d_gain, const void *dy, const void *x, const void *mean,
                            const void *rstd, int64_t rows, int64_t width)
{
    if (b->act == DTYPE_BF16)
        column_sums<bf16, BIAS, GAIN>(b, d_bias, d_gain, dy, x, mean, rstd, rows, width);
    else
        column_sums<float, BIAS, GAIN>(b, d_bias, d_gain, dy, x, mean, rstd, rows, width);
}

void norm_wide_columns(struct backend *b, void *d_bias, void *d_gain, const void *dy, const void *x, const void *mean, const void *rstd,
                       int64_t rows, int64_t width)
{
    if (d_bias != nullptr)
        sums_of_columns<true, true>(b, d_bias, d_gain, dy, x, mean, rstd, rows, width);
    else
        sums_of_columns<false, true>(b, nullptr, d_gain, dy, x, nullptr, rstd, rows, width);
}

void norm_bias_backward(struct backend *b, void *d_bias, const void *dy, int64_t rows, int64_t width)
{
    sums_of_columns<true, false>(b, d_bias, nullptr, dy, nullptr, nullptr, nullptr, rows, width);
}

void norm_fill(struct backend_table *t)
{
    t->layer_norm_forward = layer_norm_forward;
    t->residual_layer_norm_forward = residual_layer_norm_forward;
    t->rms_norm_forward = rms_norm_forward;
    t->residual_rms_norm_forward = residual_rms_norm_forward;
    t->bias_backward = norm_bias_backward;
    norm_backward_fill(t);
}
