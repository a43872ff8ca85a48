/* Vectors of gradients and weights. */
#include "kernels/cuda/map.h"
#include "kernels/rounding.h"

#include <cmath>

static void add(struct backend *b, void *sum, const void *first, const void *second, int64_t n)
{
    map(cuda_of(b), "a sum of gradients",
        map_values<float, sum_of_two>{static_cast<float *>(sum), static_cast<const float *>(first),
                                      static_cast<const float *>(second)}, n);
}

/* Runs that a kernel is told of at once, with the parts that they are cut into: part N of all is of the last run whose FIRST is N or
 * less. They go along as the kernel's parameter, so that nothing has to be uploaded before. */
template <typename Run, int ROOM> struct batch {
    static constexpr int room = ROOM;
    Run runs[ROOM];
    unsigned first[ROOM];
    int count;
    int64_t parts;

    __device__ __forceinline__ int find(int64_t part) const
    {
        int low = 0, high = count;
        while (high - low > 1) {
            int middle = (low + high) / 2;
            if (first[middle] <= part)
                low = middle;
            else
                high = middle;
        }
        return low;
    }
};

/* Calls START for batches of RUNS, cut into parts of PART elements. */
template <typename Batch, typename Run, typename Start> static void in_batches(const Run *runs, int count, int64_t part, Start start)
{
    Batch b;
    for (int i = 0; i < count;) {
        b.count = 0;
        b.parts = 0;
        for (; i < count && b.count < Batch::room; i++) {
            if (runs[i].n == 0)
                continue;
            b.runs[b.count] = runs[i];
            b.first[b.count++] = static_cast<unsigned>(b.parts);
            b.parts += (runs[i].n + part - 1) / part;
        }
        if (b.count > 0)
            start(b);
    }
}

/* An update's constants, taken from struct adamw once: all else is done in float. */
struct adamw_constants {
    float beta1, one_less_beta1, beta2, one_less_beta2, gradient_scale;
    float decay;            /* 1 - learning rate * weight decay */
    float step;             /* learning rate / (1 - beta1^step) */
    float root_correction2; /* 1 / sqrt(1 - beta2^step) */
    float epsilon;
};

enum { UPDATE_THREADS = 256, UPDATE_ROUNDS = 4 };
static constexpr int64_t UPDATE_PART = UPDATE_THREADS * UPDATE_ROUNDS * PACK<float>;

/* What an adamw_run has, in fewer bytes. */
struct update_run {
    float *master, *moment1, *moment2;
    bf16 *compute;
    const float *gradient;
    uint64_t n : 63, decays : 1;
    struct philox_key key;
    uint64_t position; /* of element 0 */

    update_run() = default;
    update_run(const struct adamw_run &r)
        : master(static_cast<float *>(r.master)), moment1(static_cast<float *>(r.moment1)), moment2(static_cast<float *>(r.moment2)),
          compute(static_cast<bf16 *>(r.compute)), gradient(static_cast<const float *>(r.gradient)), n(static_cast<uint64_t>(r.n)),
          decays(r.decays), key(r.key), position(r.first)
    {
    }
};

/* The parameters of a kernel: 4 KiB with any driver; near 32 KiB since CUDA 12.1, which a driver that CUDA 13 takes is. */
static constexpr size_t PARAMETER_BYTES = CUDART_VERSION >= 13000 ? 32764 : 4096;

/* The batch that fits beside OTHERS bytes. */
template <typename Run, size_t OTHERS>
using batch_beside = batch<Run, static_cast<int>((PARAMETER_BYTES - OTHERS - 2 * sizeof(int64_t)) / (sizeof(Run) + sizeof(unsigned)))>;
typedef batch_beside<update_run, 64> update_batch;

static __device__ __forceinline__ bool begins_aligned(const void *p, int bytes)
{
    return reinterpret_cast<uintptr_t>(p) % static_cast<unsigned>(bytes) == 0;
}

/* Rounds V to elements AT.. of a run's weights. N is 1, or a pack whose halves are of the same four words. */
template <bool STOCHASTIC, int N>
static __device__ __forceinline__ void store_weights(const update_run &r, uint64_t step, int64_t at, const float (&v)[N])
{
    if constexpr (STOCHASTIC) {
        uint64_t position = r.position + static_cast<uint64_t>(at);
        unsigned half = static_cast<unsigned>(position % 8), bits[N];
        uint32_t words[4];
        philox4x32(r.key, step, position / 8, words);
#pragma unroll
        for (int i = 0; i < N; i++)
            bits[i] = rounding_stochastic(__float_as_uint(v[i]), rounding_half(words, (N == 1 ? half : half & 4) + i));
        pack<bf16, N> x;
#pragma unroll
        for (int i = 0; i < N; i += 2)
            x.w[i / 2] = bits[i] | (i + 1 < N ? bits[i + 1] << 16 : 0);
        join(reinterpret_cast<typename pack<bf16, N>::access_word *>(r.compute + at), x.w);
    } else {
        store_pack<N>(r.compute + at, v);
    }
}

template <bool STOCHASTIC> struct adamw_work {
    struct adamw_constants c;
    uint64_t number; /* of the update */

    static __device__ __forceinline__ bool aligned(const update_run &r)
    {
        return begins_aligned(r.master, 16) && begins_aligned(r.moment1, 16) && begins_aligned(r.moment2, 16) &&
               begins_aligned(r.gradient, 16) && begins_aligned(r.compute, 8) && (!STOCHASTIC || r.position % PACK<float> == 0);
    }

    /* Elements at AT.. of a run, N of them. */
    template <int N> __device__ __forceinline__ void run(const update_run &r, int64_t at) const
    {
        pack<float, N> old = load_pack<N>(r.master + at), old1 = load_pack<N>(r.moment1 + at), old2 = load_pack<N>(r.moment2 + at);
        pack<float, N> gradient = load_pack<N>(r.gradient + at);
        float w[N], m1[N], m2[N], decay = r.decays ? c.decay : 1.0f;
#pragma unroll
        for (int i = 0; i < N; i++) {
            float g = gradient.at(i) * c.gradient_scale;
            m1[i] = c.beta1 * old1.at(i) + c.one_less_beta1 * g;
            m2[i] = c.beta2 * old2.at(i) + c.one_less_beta2 * (g * g);
            w[i] = old.at(i) * decay - c.step * m1[i] / (sqrtf(m2[i]) * c.root_correction2 + c.epsilon);
        }
        store_pack<N>(r.moment1 + at, m1);
        store_pack<N>(r.moment2 + at, m2);
        store_pack<N>(r.master + at, w);
        if (r.compute != nullptr)
            store_weights<STOCHASTIC, N>(r, number, at, w);
    }
};

template <bool STOCHASTIC> struct rounding_work {
    uint64_t number;

    static __device__ __forceinline__ bool aligned(const update_run &r)
    {
        return begins_aligned(r.master, 16) && begins_aligned(r.compute, 8) && (!STOCHASTIC || r.position % PACK<float> == 0);
    }

    template <int N> __device__ __forceinline__ void run(const update_run &r, int64_t at) const
    {
        pack<float, N> x = load_pack<N>(r.master + at);
        float w[N];
#pragma unroll
        for (int i = 0; i < N; i++)
            w[i] = x.at(i);
        store_weights<STOCHASTIC, N>(r, number, at, w);
    }
};

static_assert(sizeof(update_batch) + sizeof(adamw_work<true>) <= PARAMETER_BYTES, "a kernel's parameters");

template <typename Work>
static __global__ void __launch_bounds__(UPDATE_THREADS) update_kernel(const __grid_constant__ update_batch batch, const Work work)
{
    constexpr int N = PACK<float>;
    int run = batch.find(blockIdx.x);
    const update_run r = batch.runs[run];
    int64_t n = static_cast<int64_t>(r.n), begin = static_cast<int64_t>(blockIdx.x - batch.first[run]) * UPDATE_PART;
    int64_t end = begin + UPDATE_PART < n ? begin + UPDATE_PART : n;
    int64_t packs_end = Work::aligned(r) ? begin + (end - begin) / N * N : begin;
    for (int64_t at = begin + static_cast<int64_t>(threadIdx.x) * N; at < packs_end; at += UPDATE_THREADS * N)
        work.template run<N>(r, at);
    for (int64_t at = packs_end + threadIdx.x; at < end; at += UPDATE_THREADS)
        work.template run<1>(r, at);
}

template <typename Work>
static void start_updates(struct backend *b, const char *name, const struct adamw_run *runs, int count, const Work &work)
{
    in_batches<update_batch>(runs, count, UPDATE_PART, [&](update_batch &batch) {
        for (int i = 0; i < batch.count && b->act != DTYPE_BF16; i++)
            batch.runs[i].compute = nullptr;
        launch(cuda_of(b), name, update_kernel<Work>, dim3(static_cast<unsigned>(batch.parts)), dim3(UPDATE_THREADS), 0, batch, work);
    });
}

static void adamw(struct backend *b, const struct adamw_run *runs, int count, const struct adamw *o)
{
    struct adamw_constants c = {};
    c.beta1 = static_cast<float>(o->beta1);
    c.one_less_beta1 = static_cast<float>(1 - o->beta1);
    c.beta2 = static_cast<float>(o->beta2);
    c.one_less_beta2 = static_cast<float>(1 - o->beta2);
    c.gradient_scale = static_cast<float>(o->gradient_scale);
    c.decay = static_cast<float>(1 - o->learning_rate * o->weight_decay);
    c.step = static_cast<float>(o->learning_rate / (1 - pow(o->beta1, static_cast<double>(o->step))));
    c.root_correction2 = static_cast<float>(1 / sqrt(1 - pow(o->beta2, static_cast<double>(o->step))));
    c.epsilon = static_cast<float>(o->epsilon);
    uint64_t number = static_cast<uint64_t>(o->step);
    if (o->stochastic)
        start_updates(b, "AdamW", runs, count, adamw_work<true>{c, number});
    else
        start_updates(b, "AdamW", runs, count, adamw_work<false>{c, number});
}

static void round_weights(struct backend *b, const struct adamw_run *runs, int count, bool stochastic, int64_t step)
{
    uint64_t number = static_cast<uint64_t>(step);
    for (int i = 0; i < count && b->act != DTYPE_BF16; i++)
        if (runs[i].compute != nullptr)
            b->table->copy(b, runs[i].compute, runs[i].master, static_cast<size_t>(runs[i].n) * sizeof(float));
    if (b->act == DTYPE_BF16 && stochastic)
        start_updates(b, "rounding", runs, count, rounding_work<true>{number});
    else if (b->act == DTYPE_BF16)
        start_updates(b, "rounding", runs, count, rounding_work<false>{number});
}

/* A warp takes a chunk: lane l packs l, l + 32, ... whether they can be loaded as packs or not, so that the order of the sum is
 * one wherever the chunk lies. */
constexpr int CHUNKS = 8, CHUNK_PACKS = NORM_CHUNK / (WARP * PACK<float>);
static_assert(NORM_CHUNK % (WARP * PACK<float>) == 0, "a chunk is whole packs of a warp");

typedef batch_beside<struct squares_run, 16> squares_batch;
static_assert(sizeof(squares_batch) <= PARAMETER_BYTES, "a kernel's parameters");

static __global__ void __launch_bounds__(CHUNKS *WARP) sum_squares_kernel(const __grid_constant__ squares_batch batch)
{
    int64_t chunk = static_cast<int64_t>(blockIdx.x) * CHUNKS + threadIdx.x / WARP;
    int lane = threadIdx.x % WARP;
    if (chunk >= batch.parts)
        return;
    int run = batch.find(chunk);
    const struct squares_run r = batch.runs[run];
    chunk -= batch.first[run];
    int64_t begin = chunk * NORM_CHUNK;
    const float *x = static_cast<const float *>(r.x) + begin;
    int size = r.n - begin < NORM_CHUNK ? static_cast<int>(r.n - begin) : static_cast<int>(NORM_CHUNK);
    pack<float, PACK<float>> v[CHUNK_PACKS];
    if (begins_aligned(x, 16) && size == NORM_CHUNK) {
#pragma unroll
        for (int i = 0; i < CHUNK_PACKS; i++)
            v[i] = load_columns<true, PACK<float>>(x, (i * WARP + lane) * PACK<float>, size);
    } else {
#pragma unroll
        for (int i = 0; i < CHUNK_PACKS; i++)
            v[i] = load_columns<false, PACK<float>>(x, (i * WARP + lane) * PACK<float>, size);
    }
    double sum = 0;
#pragma unroll
    for (int i = 0; i < CHUNK_PACKS; i++)
        for (int j = 0; j < PACK<float>; j++)
            sum += static_cast<double>(v[i].at(j)) * static_cast<double>(v[i].at(j));
    sum = warp_reduce<sum_of>(sum);
    if (lane == 0)
        r.sums[chunk] = sum;
}

static void sum_squares(struct backend *b, const struct squares_run *runs, int count)
{
    in_batches<squares_batch>(runs, count, NORM_CHUNK, [&](squares_batch &batch) {
        launch(cuda_of(b), "sums of squares", sum_squares_kernel, dim3(blocks_of(batch.parts, CHUNKS)), dim3(CHUNKS * WARP), 0, batch);
    });
}

void update_fill(struct backend_table *t)
{
    t->add = add;
    t->adamw = adamw;
    t->round_weights = round_weights;
    t->sum_squares = sum_squares;
}
