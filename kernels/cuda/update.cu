/* Vectors of gradients and weights. */
#include "kernels/cuda/map.h"

#include <cmath>

static void add(struct backend *b, void *sum, const void *first, const void *second, int64_t n)
{
    map(cuda_of(b), "a sum of gradients",
        map_values<float, sum_of_two>{static_cast<float *>(sum), static_cast<const float *>(first),
                                      static_cast<const float *>(second)}, n);
}

struct rounding {
    bf16 *y;
    const float *x;

    static constexpr int count = PACK<float>, each = 4;
    template <int N> struct inputs {
        pack<float, N> x;
    };

    bool aligned(int64_t at) const { return pack_aligned<count>(y + at) && pack_aligned<count>(x + at); }

    template <int N> __device__ __forceinline__ inputs<N> load(int64_t at) const { return {load_pack<N>(x + at)}; }

    template <int N> __device__ __forceinline__ void store(int64_t at, const inputs<N> &in) const
    {
        float out[N];
#pragma unroll
        for (int i = 0; i < N; i++)
            out[i] = in.x.at(i);
        store_pack<N>(y + at, out);
    }
};

static void convert_to_act(struct backend *b, void *act, const void *acc, int64_t n)
{
    if (b->act == DTYPE_BF16)
        map(cuda_of(b), "rounding", rounding{static_cast<bf16 *>(act), static_cast<const float *>(acc)}, n);
    else if (act != acc)
        b->table->copy(b, act, acc, static_cast<size_t>(n) * sizeof(float));
}

/* Runs that a kernel is told of at once, with the parts that they are cut into: part N of all is of the last run whose FIRST is N or
 * less. They go along as the kernel's parameter, so that nothing has to be uploaded before. */
template <typename Run, int ROOM> struct batch {
    int64_t first[ROOM];
    Run runs[ROOM];
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
template <int ROOM, typename Run, typename Start> static void in_batches(const Run *runs, int count, int64_t part, Start start)
{
    batch<Run, ROOM> b;
    for (int i = 0; i < count;) {
        b.count = 0;
        b.parts = 0;
        for (; i < count && b.count < ROOM; i++) {
            if (runs[i].n == 0)
                continue;
            b.runs[b.count] = runs[i];
            b.first[b.count++] = b.parts;
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
/* Parameters of a kernel have 4 KiB on any GPU with any driver. */
typedef batch<struct adamw_run, 60> update_batch;
static_assert(sizeof(update_batch) + sizeof(struct adamw_constants) <= 4096, "a kernel's parameters");

/* Elements at AT.. of a run, N of them. */
template <int N>
static __device__ __forceinline__ void update(const struct adamw_run &r, const struct adamw_constants &c, int64_t at)
{
    float *master = static_cast<float *>(r.master) + at, *moment1 = static_cast<float *>(r.moment1) + at;
    float *moment2 = static_cast<float *>(r.moment2) + at;
    pack<float, N> old = load_pack<N>(master), old1 = load_pack<N>(moment1), old2 = load_pack<N>(moment2);
    pack<float, N> gradient = load_pack<N>(static_cast<const float *>(r.gradient) + at);
    float w[N], m1[N], m2[N], decay = r.decays ? c.decay : 1.0f;
#pragma unroll
    for (int i = 0; i < N; i++) {
        float g = gradient.at(i) * c.gradient_scale;
        m1[i] = c.beta1 * old1.at(i) + c.one_less_beta1 * g;
        m2[i] = c.beta2 * old2.at(i) + c.one_less_beta2 * (g * g);
        w[i] = old.at(i) * decay - c.step * m1[i] / (sqrtf(m2[i]) * c.root_correction2 + c.epsilon);
    }
    store_pack<N>(moment1, m1);
    store_pack<N>(moment2, m2);
    store_pack<N>(master, w);
    if (r.compute != nullptr)
        store_pack<N>(static_cast<bf16 *>(r.compute) + at, w);
}

static __device__ __forceinline__ bool begins_aligned(const void *p, int bytes)
{
    return reinterpret_cast<uintptr_t>(p) % static_cast<unsigned>(bytes) == 0;
}

static __global__ void __launch_bounds__(UPDATE_THREADS) adamw_kernel(const __grid_constant__ update_batch batch,
                                                                      const struct adamw_constants constants)
{
    constexpr int N = PACK<float>;
    int run = batch.find(blockIdx.x);
    const struct adamw_run r = batch.runs[run];
    int64_t begin = (static_cast<int64_t>(blockIdx.x) - batch.first[run]) * UPDATE_PART;
    int64_t end = begin + UPDATE_PART < r.n ? begin + UPDATE_PART : r.n;
    bool aligned = begins_aligned(r.master, 16) && begins_aligned(r.moment1, 16) && begins_aligned(r.moment2, 16) &&
                   begins_aligned(r.gradient, 16) && begins_aligned(r.compute, 8);
    int64_t packs_end = aligned ? begin + (end - begin) / N * N : begin;
    for (int64_t at = begin + static_cast<int64_t>(threadIdx.x) * N; at < packs_end; at += UPDATE_THREADS * N)
        update<N>(r, constants, at);
    for (int64_t at = packs_end + threadIdx.x; at < end; at += UPDATE_THREADS)
        update<1>(r, constants, at);
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
    in_batches<60>(runs, count, UPDATE_PART, [&](update_batch &batch) {
        for (int i = 0; i < batch.count && b->act != DTYPE_BF16; i++)
            batch.runs[i].compute = nullptr;
        launch(cuda_of(b), "AdamW", adamw_kernel, dim3(static_cast<unsigned>(batch.parts)), dim3(UPDATE_THREADS), 0, batch, c);
    });
}

/* A warp takes a chunk: lane l packs l, l + 32, ... whether they can be loaded as packs or not, so that the order of the sum is
 * one wherever the chunk lies. */
constexpr int CHUNKS = 8, CHUNK_PACKS = NORM_CHUNK / (WARP * PACK<float>);
static_assert(NORM_CHUNK % (WARP * PACK<float>) == 0, "a chunk is whole packs of a warp");

typedef batch<struct squares_run, 120> squares_batch;
static_assert(sizeof(squares_batch) <= 4096, "a kernel's parameters");

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
    in_batches<120>(runs, count, NORM_CHUNK, [&](squares_batch &batch) {
        launch(cuda_of(b), "sums of squares", sum_squares_kernel, dim3(blocks_of(batch.parts, CHUNKS)), dim3(CHUNKS * WARP), 0, batch);
    });
}

void update_fill(struct backend_table *t)
{
    t->add = add;
    t->convert_to_act = convert_to_act;
    t->adamw = adamw;
    t->sum_squares = sum_squares;
}
