/* Layer norm's and RMS norm's gradients. */
#include "kernels/cuda/norm_rows.h"

/* With n = (x - mean) rstd and g = dy gain: dx = rstd (g - average(g) - n average(g n)), averages over the row. Not CENTERED, RMS norm's:
 * the mean and average(g) are 0. */
template <typename T, bool CENTERED> struct norm_backward {
    typedef T type;
    T *dx;
    const T *dy, *x, *gain;
    const float *mean, *rstd;
    int64_t rows;
    int width;
    bool add;

    __device__ __forceinline__ float mean_of(int64_t row) const { return CENTERED ? mean[row] : 0.0f; }

    template <bool BLOCK> __device__ __forceinline__ float average(float sum, const row_team<BLOCK> &team) const
    {
        return team.sum(sum) / static_cast<float>(width);
    }

    /* What a thread's elements add to the sums over the row. */
    template <bool ALIGNED, bool BLOCK>
    __device__ __forceinline__ void add_sums(float &sum_g, float &sum_gn, const row_part<T> &d_out, const row_part<T> &in, int begin,
                                             float m, float s, const row_team<BLOCK> &team) const
    {
        constexpr int N = PACK<T>;
#pragma unroll
        for (int i = 0; i < KEPT; i++) {
            pack<T, N> w = load_columns<ALIGNED, N>(gain, column_of<N>(begin, i * N, team), width);
#pragma unroll
            for (int j = 0; j < N; j++) {
                float d = d_out.v[i].at(j), g = __fmul_rn(d, w.at(j));
                sum_g += g;
                sum_gn = fmaf(g, __fmul_rn(in.v[i].at(j) - m, s), sum_gn);
            }
        }
    }

    template <bool BLOCK, bool ALIGNED> __device__ __forceinline__ void run(int64_t row, const row_team<BLOCK> &team) const
    {
        int part = BLOCK ? team.members * KEPT * PACK<T> : width; /* of the row that is kept at once */
        row_part<T> d_out, in, before = {};
        float m = mean_of(row), s = rstd[row], sum_g = 0, sum_gn = 0;
        for (int begin = 0; begin < width; begin += part) {
            d_out.template load<ALIGNED>(dy + row * width, begin, width, team);
            in.template load<ALIGNED>(x + row * width, begin, width, team);
            if (add && part >= width)
                before.template load<ALIGNED>(dx + row * width, begin, width, team);
            add_sums<ALIGNED>(sum_g, sum_gn, d_out, in, begin, m, s, team);
        }
        float average_g = CENTERED ? average(sum_g, team) : 0.0f, average_gn = average(sum_gn, team);
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
        float m = mean_of(row), s = rstd[row];
        T *to = dx + row * width;
#pragma unroll
        for (int i = 0; i < KEPT; i++) {
            int c = column_of<N>(begin, i * N, team);
            pack<T, N> w = load_columns<ALIGNED, N>(gain, c, width);
            float out[N];
#pragma unroll
            for (int j = 0; j < N; j++) {
                float g = __fmul_rn(d_out.v[i].at(j), w.at(j)), n = __fmul_rn(in.v[i].at(j) - m, s);
                out[j] = fmaf(s, fmaf(-n, average_gn, g - average_g), before.v[i].at(j)); /* zeros where dx is not added to */
            }
            store_columns<ALIGNED, N>(to, c, width, out);
        }
    }
};

/* ---- gain's and bias' of rows that a warp keeps, with the input's or without: what is read for one is there for the other. The bits are the same both
 * ways, as schedules and ways to share memory take one or the other: so nothing above is left to the compiler to fuse ---- */

/* The rows are cut into about so many parts, by the shape alone: two turns for GPUs of 132 multiprocessors, which hold a block each (188 registers). */
constexpr int PARTS = 264;

template <typename T, bool CENTERED> struct norm_gradients {
    norm_backward<T, CENTERED> input;
    float *partial; /* [parts][2][width]: of dy, then of dy n; RMS norm's [parts][width]: of dy n */
    int64_t part_rows;
};

/* A thread's elements of all rows of its warp. */
template <typename T, bool CENTERED> struct column_sums {
    float bias[KEPT * PACK<T>], gain[KEPT * PACK<T>];

    __device__ __forceinline__ void add(const row_part<T> &d_out, const row_part<T> &in, float m, float s)
    {
        constexpr int N = PACK<T>;
#pragma unroll
        for (int i = 0; i < KEPT * N; i++) {
            float d = d_out.v[i / N].at(i % N);
            if (CENTERED)
                bias[i] += d;
            gain[i] = fmaf(d, __fmul_rn(in.v[i / N].at(i % N) - m, s), gain[i]);
        }
    }
};

template <bool INPUT, bool ALIGNED, typename T, bool CENTERED>
static __device__ __forceinline__ void take_row(const norm_backward<T, CENTERED> &job, int64_t row, const row_team<false> &team,
                                                column_sums<T, CENTERED> &sums)
{
    row_part<T> d_out, in, before = {};
    float m = job.mean_of(row), s = job.rstd[row], sum_g = 0, sum_gn = 0;
    d_out.template load<ALIGNED>(job.dy + row * job.width, 0, job.width, team);
    in.template load<ALIGNED>(job.x + row * job.width, 0, job.width, team);
    if (INPUT && job.add)
        before.template load<ALIGNED>(job.dx + row * job.width, 0, job.width, team);
    sums.add(d_out, in, m, s);
    if (!INPUT)
        return;
    job.template add_sums<ALIGNED>(sum_g, sum_gn, d_out, in, 0, m, s, team);
    float average_g = CENTERED ? job.average(sum_g, team) : 0.0f, average_gn = job.average(sum_gn, team);
    job.template store<ALIGNED>(row, d_out, in, before, 0, average_g, average_gn, team);
}

template <typename T, bool CENTERED, bool INPUT, bool ALIGNED>
static __global__ void __launch_bounds__(ROW_WARPS *WARP) gradients_kernel(struct norm_gradients<T, CENTERED> job)
{
    constexpr int N = PACK<T>, COLUMNS = KEPT * WARP * N, SUMS = CENTERED ? 2 : 1;
    __shared__ float joined[SUMS][COLUMNS];
    int warp = threadIdx.x / WARP, width = job.input.width;
    int64_t begin = blockIdx.x * job.part_rows, end = begin + job.part_rows < job.input.rows ? begin + job.part_rows : job.input.rows;
    row_team<false> team = {static_cast<int>(threadIdx.x) % WARP, WARP, nullptr};
    column_sums<T, CENTERED> sums = {};
    for (int64_t row = begin + warp; row < end; row += ROW_WARPS)
        take_row<INPUT, ALIGNED>(job.input, row, team, sums);
    for (int w = 0; w < ROW_WARPS; w++) { /* one after the other, so that the order of sums is one */
        if (warp == w) {
#pragma unroll
            for (int i = 0; i < KEPT * N; i++) {
                int c = column_of<N>(0, i, team);
                if (CENTERED)
                    joined[0][c] = (w > 0 ? joined[0][c] : 0.0f) + sums.bias[i];
                joined[SUMS - 1][c] = (w > 0 ? joined[SUMS - 1][c] : 0.0f) + sums.gain[i];
            }
        }
        __syncthreads();
    }
    for (int i = threadIdx.x; i < SUMS * width; i += ROW_WARPS * WARP)
        job.partial[static_cast<int64_t>(blockIdx.x) * SUMS * width + i] = joined[i / width][i % width];
}

/* Whether a warp keeps a row. */
static bool is_narrow(const struct backend *b, int64_t width)
{
    return width <= KEPT * WARP * 16 / static_cast<int64_t>(dtype_size(b->act));
}

/* ---- the table's; without a mean and d_bias they are RMS norm's ---- */

struct gradients_call {
    void *dx, *d_gain, *d_bias; /* dx NULL: the others alone; d_gain NULL: dx alone */
    const void *dy, *x, *gain, *mean, *rstd;
    int64_t rows, width;
    bool add;
};

template <typename T, bool CENTERED> static norm_backward<T, CENTERED> job_of(const struct gradients_call &c)
{
    return {static_cast<T *>(c.dx), static_cast<const T *>(c.dy), static_cast<const T *>(c.x), static_cast<const T *>(c.gain),
            static_cast<const float *>(c.mean), static_cast<const float *>(c.rstd), c.rows, static_cast<int>(c.width), c.add};
}

template <typename T, bool CENTERED> static bool is_aligned(const norm_backward<T, CENTERED> &job)
{
    return rows_aligned(job.dx, job.width) && rows_aligned(job.dy, job.width) && rows_aligned(job.x, job.width) &&
           rows_aligned(job.gain, job.width);
}

template <bool INPUT, typename T, bool CENTERED>
static void start_gradients(struct cuda *cuda, const norm_backward<T, CENTERED> &input, void *d_gain, void *d_bias)
{
    int64_t parts = input.rows < PARTS * ROW_WARPS ? blocks_of(input.rows, ROW_WARPS) : PARTS;
    struct norm_gradients<T, CENTERED> job = {input, static_cast<float *>(cuda->scratch), (input.rows + parts - 1) / parts};
    unsigned blocks = blocks_of(input.rows, job.part_rows);
    launch(cuda, CENTERED ? "layer norm's gradients" : "RMS norm's gradients",
           is_aligned(input) ? gradients_kernel<T, CENTERED, INPUT, true> : gradients_kernel<T, CENTERED, INPUT, false>, dim3(blocks),
           dim3(ROW_WARPS * WARP), 0, job);
    norm_join_columns(cuda, CENTERED ? d_bias : d_gain, CENTERED ? d_gain : nullptr, job.partial, blocks, input.width);
}

template <typename T, bool CENTERED> static void start_input(struct cuda *cuda, const norm_backward<T, CENTERED> &job)
{
    const char *what = CENTERED ? "layer norm's gradient" : "RMS norm's gradient";
    if (is_aligned(job))
        launch_rows<norm_backward<T, CENTERED>, true>(cuda, what, job);
    else
        launch_rows<norm_backward<T, CENTERED>, false>(cuda, what, job);
}

template <typename T, bool CENTERED> static void backward_of(struct backend *b, const struct gradients_call &c)
{
    norm_backward<T, CENTERED> job = job_of<T, CENTERED>(c);
    if (c.d_gain == nullptr) {
        start_input(cuda_of(b), job);
    } else if (!is_narrow(b, c.width)) {
        norm_wide_columns(b, c.d_bias, c.d_gain, c.dy, c.x, c.mean, c.rstd, c.rows, c.width);
        if (c.dx != nullptr)
            start_input(cuda_of(b), job);
    } else if (c.dx != nullptr) {
        start_gradients<true>(cuda_of(b), job, c.d_gain, c.d_bias);
    } else {
        start_gradients<false>(cuda_of(b), job, c.d_gain, c.d_bias);
    }
}

template <bool CENTERED> static void backward(struct backend *b, const struct gradients_call &call)
{
    if (b->act == DTYPE_BF16)
        backward_of<bf16, CENTERED>(b, call);
    else
        backward_of<float, CENTERED>(b, call);
}

static void layer_norm_backward_input(struct backend *b, void *dx, const void *dy, const void *x, const void *gain, const void *mean,
                                      const void *rstd, int64_t rows, int64_t width, bool add_to_dx)
{
    backward<true>(b, {dx, nullptr, nullptr, dy, x, gain, mean, rstd, rows, width, add_to_dx});
}

static void layer_norm_backward_weight(struct backend *b, void *d_gain, void *d_bias, const void *dy, const void *x, const void *mean,
                                       const void *rstd, int64_t rows, int64_t width)
{
    backward<true>(b, {nullptr, d_gain, d_bias, dy, x, nullptr, mean, rstd, rows, width, false});
}

static void layer_norm_backward(struct backend *b, void *dx, void *d_gain, void *d_bias, const void *dy, const void *x, const void *gain,
                                const void *mean, const void *rstd, int64_t rows, int64_t width, bool add_to_dx)
{
    backward<true>(b, {dx, d_gain, d_bias, dy, x, gain, mean, rstd, rows, width, add_to_dx});
}

static void rms_norm_backward_input(struct backend *b, void *dx, const void *dy, const void *x, const void *gain, const void *rstd,
                                    int64_t rows, int64_t width, bool add_to_dx)
{
    backward<false>(b, {dx, nullptr, nullptr, dy, x, gain, nullptr, rstd, rows, width, add_to_dx});
}

static void rms_norm_backward_weight(struct backend *b, void *d_gain, const void *dy, const void *x, const void *rstd, int64_t rows,
                                     int64_t width)
{
    backward<false>(b, {nullptr, d_gain, nullptr, dy, x, nullptr, nullptr, rstd, rows, width, false});
}

static void rms_norm_backward(struct backend *b, void *dx, void *d_gain, const void *dy, const void *x, const void *gain, const void *rstd,
                              int64_t rows, int64_t width, bool add_to_dx)
{
    backward<false>(b, {dx, d_gain, nullptr, dy, x, gain, nullptr, rstd, rows, width, add_to_dx});
}

void norm_backward_fill(struct backend_table *t)
{
    t->layer_norm_backward_input = layer_norm_backward_input;
    t->layer_norm_backward_weight = layer_norm_backward_weight;
    t->layer_norm_backward = layer_norm_backward;
    t->rms_norm_backward_input = rms_norm_backward_input;
    t->rms_norm_backward_weight = rms_norm_backward_weight;
    t->rms_norm_backward = rms_norm_backward;
}
