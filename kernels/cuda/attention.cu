/* Attention's plans, and which kernels do the work. As in Dao et al., "FlashAttention" (arXiv 2205.14135) and Dao,
 * "FlashAttention-2" (arXiv 2307.08691), scores are never in memory: tiles of queries meet tiles of keys with a running softmax,
 * and the backward pass computes them again. It has one kernel for the gradients of keys and values and one for those of queries:
 * seven products for five, but each sum is one block's, in one order. */
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_cudnn.h"

#include <cmath>
#include <cstdlib>

static void attention_destroy(struct attention *a)
{
    if (a == NULL)
        return;
    memory_free(&a->cuda->base, a->statistics, a->statistics_bytes);
    free(a);
}

static bool fits_tensor_cores(const struct cuda *cuda, int64_t head_size)
{
    return cuda->base.act == DTYPE_BF16 && head_size <= TENSOR_HEAD_MOST && head_size % TENSOR_HEAD_MULTIPLE == 0 &&
           attention_tensor_shared(head_size) <= cuda->shared_most &&
           attention_tensor_backward_shared(head_size) <= cuda->shared_most;
}

static int64_t pitch_of(int64_t columns)
{
    return (columns + STATISTICS_MULTIPLE - 1) / STATISTICS_MULTIPLE * STATISTICS_MULTIPLE;
}

static cairn_err attention_create(struct backend *b, const struct attention_desc *desc, struct attention **attention)
{
    *attention = NULL;
    struct attention *a = static_cast<struct attention *>(calloc(1, sizeof *a));
    if (a == NULL)
        return FAIL(CAIRN_ENOMEM, "no memory for attention's plan");
    a->cuda = cuda_of(b);
    a->desc = *desc;
    a->tensor = fits_tensor_cores(a->cuda, desc->head_size);
    int64_t columns = desc->columns > 0 ? desc->columns : desc->context;
    a->statistics_bytes = static_cast<size_t>(2 * desc->batch * desc->heads * pitch_of(columns)) * sizeof(float);
    a->statistics = static_cast<float *>(memory_alloc(b, a->statistics_bytes));
    cairn_err err = a->statistics != NULL ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for attention's workspace");
    if (err == CAIRN_OK)
        err = attention_cudnn_create(a->cuda, desc, &a->cudnn);
    if (err != CAIRN_OK) {
        attention_destroy(a);
        return err;
    }
    *attention = a;
    return CAIRN_OK;
}

struct meeting attention_meeting(const struct attention *a, const struct range *query, const struct range *key, const void *qkv,
                                 const void *kv, const struct dropout *dropout)
{
    struct meeting m = {};
    m.desc = a->desc;
    m.dropout = *dropout;
    m.query = *query;
    m.key = *key;
    m.qkv = qkv;
    m.kv = kv != NULL ? kv : qkv;
    m.key_parts = kv != NULL ? 2 : 3;
    m.shift = static_cast<int>(query->position - key->position);
    m.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(a->desc.head_size)));
    m.keep_scale = static_cast<float>(dropout_scale(dropout->rate));
    m.threshold = dropout_threshold(dropout->rate);
    return m;
}

static bool aligned(const void *p)
{
    return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

void attention_meet_forward(struct attention *a, const struct meeting *m, const struct forward_results *results)
{
    if (a->tensor && aligned(m->qkv) && aligned(m->kv) && aligned(results->out) && aligned(results->running))
        attention_tensor_forward(a->cuda, m, results);
    else
        attention_plain_forward(a->cuda, m, results);
}

/* Threads that take one query's product. */
enum { DELTA_THREADS = 256, DELTA_LANES = 8 };

/* x . y of SIZE elements by DELTA_LANES lanes, of which this is LANE; WIDE: 16 bytes at once. */
template <typename T, bool WIDE> static __device__ __forceinline__ float lanes_dot(const T *x, const T *y, int size, int lane)
{
    float sum = 0;
    if constexpr (WIDE) {
        constexpr int step = vector16<T>::count;
        for (int i = lane * step; i < size; i += DELTA_LANES * step) {
            vector16<T> a = load16(x + i), b = load16(y + i);
#pragma unroll
            for (int k = 0; k < step; k++)
                sum = fmaf(to_float(a.v[k]), to_float(b.v[k]), sum);
        }
    } else {
        for (int i = lane; i < size; i += DELTA_LANES)
            sum = fmaf(to_float(x[i]), to_float(y[i]), sum);
    }
    return sum;
}

/* PITCH places of each head of a sequence, BLOCKS blocks a sequence, in the order of queries, each one's heads side by side as in
 * out. */
template <typename T, bool WIDE>
__global__ void statistics_kernel(float *log_sum, float *delta, struct meeting m, struct backward_inputs in, int pitch, int blocks)
{
    int place = static_cast<int>(blockIdx.x % blocks) * (DELTA_THREADS / DELTA_LANES) + threadIdx.x / DELTA_LANES;
    int heads = static_cast<int>(m.desc.heads), lane = threadIdx.x % DELTA_LANES;
    int query = place / heads, head = static_cast<int>(blockIdx.x / blocks) * heads + place % heads;
    float sum = 0;
    if (query < m.query.count) {
        int64_t at = vector_at(m.desc, head, m.query.columns, m.query.first + query, 1, 0);
        sum = lanes_dot<T, WIDE>(static_cast<const T *>(in.d_out) + at, static_cast<const T *>(in.out) + at,
                                 static_cast<int>(m.desc.head_size), lane);
    }
#pragma unroll
    for (int lanes = DELTA_LANES / 2; lanes > 0; lanes /= 2)
        sum += __shfl_xor_sync(WHOLE_WARP, sum, lanes);
    if (query < pitch && lane == 0) {
        int64_t to = static_cast<int64_t>(head) * pitch + query;
        log_sum[to] = query < m.query.count ? in.log_sum[statistic_at(m, head, query)] * BASE2_OF_E : INFINITY;
        delta[to] = sum;
    }
}

template <typename T>
static struct statistics find_statistics(struct attention *a, const struct meeting *m, const struct backward_inputs *in)
{
    int64_t pitch = pitch_of(m->query.count);
    unsigned blocks = blocks_of(pitch * a->desc.heads, DELTA_THREADS / DELTA_LANES);
    bool wide = a->desc.head_size % vector16<T>::count == 0 && aligned(in->d_out) && aligned(in->out);
    float *log_sum = a->statistics, *delta = log_sum + a->desc.batch * a->desc.heads * pitch;
    launch(a->cuda, "attention's delta", wide ? statistics_kernel<T, true> : statistics_kernel<T, false>,
           dim3(blocks * static_cast<unsigned>(a->desc.batch)), dim3(DELTA_THREADS), 0, log_sum, delta, *m, *in,
           static_cast<int>(pitch), static_cast<int>(blocks));
    return {log_sum, delta, static_cast<int>(pitch)};
}

void attention_meet_backward(struct attention *a, const struct meeting *m, const struct backward_inputs *in,
                             const struct gradients *results)
{
    bool narrow = a->cuda->base.act == DTYPE_BF16;
    struct statistics s = narrow ? find_statistics<bf16>(a, m, in) : find_statistics<float>(a, m, in);
    if (a->tensor && aligned(m->qkv) && aligned(m->kv) && aligned(in->d_out) && aligned(results->d_query) && aligned(results->d_kv))
        attention_tensor_backward(a->cuda, m, in->d_out, &s, results);
    else
        attention_plain_backward(a->cuda, m, in->d_out, &s, results);
}

static struct meeting whole(const struct attention *a, const void *qkv, const struct dropout *dropout)
{
    struct range all = {a->desc.context, 0, 0, static_cast<int>(a->desc.context)};
    return attention_meeting(a, &all, &all, qkv, NULL, dropout);
}

static bool may_take_cudnn(const struct attention *a, const void *out, const void *log_sum, const void *qkv)
{
    return a->cudnn != NULL && aligned(out) && aligned(log_sum) && aligned(qkv);
}

static void attention_forward(struct attention *a, void *out, void *log_sum, const void *qkv, const struct dropout *dropout)
{
    if (may_take_cudnn(a, out, log_sum, qkv)) {
        attention_cudnn_forward(a->cuda, a->cudnn, out, static_cast<float *>(log_sum), qkv);
        return;
    }
    struct meeting m = whole(a, qkv, dropout);
    struct forward_results results = {out, static_cast<float *>(log_sum), NULL};
    attention_meet_forward(a, &m, &results);
}

static void attention_backward(struct attention *a, void *d_qkv, const void *d_out, const void *out, const void *qkv,
                               const void *log_sum, const struct dropout *dropout)
{
    if (may_take_cudnn(a, out, log_sum, qkv) && aligned(d_qkv) && aligned(d_out)) {
        attention_cudnn_backward(a->cuda, a->cudnn, d_qkv, d_out, out, qkv, static_cast<const float *>(log_sum));
        return;
    }
    struct meeting m = whole(a, qkv, dropout);
    struct backward_inputs in = {d_out, out, static_cast<const float *>(log_sum)};
    struct gradients results = {d_qkv, d_qkv, false};
    attention_meet_backward(a, &m, &in, &results);
}

void attention_fill(struct backend_table *table)
{
    table->attention_create = attention_create;
    table->attention_forward = attention_forward;
    table->attention_backward = attention_backward;
    table->attention_destroy = attention_destroy;
}
