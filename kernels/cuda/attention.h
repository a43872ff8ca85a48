/* What attention over whole sequences and by pieces of them share: a range of queries meets a range of keys, in every head. By
 * tensor cores where the type is bfloat16 and the size of heads fits, else by ordinary ones. */
#ifndef CUDA_ATTENTION_H
#define CUDA_ATTENTION_H

#include "kernels/cuda/device.h"

extern "C" {
#include "kernels/attention_span.h"
#include "kernels/dropout.h"
}

#define BASE2_OF_E 1.4426950408889634f
#define E_OF_BASE2 0.6931471805599453f

struct attention {
    struct cuda *cuda;
    struct attention_desc desc;
    const struct attention_cudnn *cudnn; /* whole sequences go through it, if it is not NULL and arrays are aligned */
    bool tensor;       /* heads fit the kernels of tensor cores */
    float *statistics; /* the backward pass's: log_sum, then delta */
    size_t statistics_bytes;
};

/* Columns of each sequence in an array: FIRST.. of COLUMNS; the first is POSITION of the whole sequence, the others follow. */
struct range {
    int64_t columns, first, position;
    int count;
};

struct meeting {
    struct attention_desc desc;
    struct dropout dropout;
    struct range query, key;
    const void *qkv, *kv; /* kv[batch, columns, key_parts, heads, head_size]; may be qkv, then of 3 parts, else of 2 */
    int key_parts;
    int shift;          /* a query sees keys up to its own number + shift */
    float scale;        /* of scores */
    float keep_scale;   /* of probabilities that are not dropped */
    uint32_t threshold; /* dropout's; 0: all are kept */
};

/* Whole sequences: out and log_sum. Pieces: RUNNING, as attention_piece_forward has it. */
struct forward_results {
    void *out;
    float *log_sum, *running;
};

/* Of each head's queries, PITCH floats a head, a multiple of STATISTICS_MULTIPLE: the logarithms of the sums of weights, to base 2;
 * delta, d_out . out, which is the sum over keys of p dp, dropped or not. Beyond the queries infinity and 0: nothing is seen. */
struct statistics {
    const float *log_sum, *delta;
    int pitch;
};
enum { STATISTICS_MULTIPLE = 128 };

struct backward_inputs {
    const void *d_out, *out;
    const float *log_sum;
};

/* Of whole sequences both are d_qkv; of pieces sums that are ADDed to, d_query of one part and d_kv of two. */
struct gradients {
    void *d_query, *d_kv;
    bool add;
};

/* The head's vector of COLUMN in an array [batch, columns, parts, heads, head_size]; HEAD: b * heads + h. */
__device__ __forceinline__ int64_t vector_at(const struct attention_desc &d, int head, int64_t columns, int64_t column, int parts,
                                             int part)
{
    int heads = static_cast<int>(d.heads);
    return (((head / heads * columns + column) * parts + part) * heads + head % heads) * d.head_size;
}

/* From one column's to the next's. */
__device__ __forceinline__ int vector_stride(const struct attention_desc &d, int parts)
{
    return parts * static_cast<int>(d.heads) * static_cast<int>(d.head_size);
}

/* The vectors of a range in one head. */
template <typename T> struct vectors {
    T *at;
    int stride, count;
    __device__ __forceinline__ T *row(int r) const { return at + static_cast<int64_t>(r) * stride; }
    __device__ __forceinline__ vectors from(int r) const { return {row(r), stride, count - r}; }
};

template <typename T>
__device__ __forceinline__ vectors<T> vectors_of(const struct attention_desc &d, int head, T *array, const struct range &r,
                                                 int parts, int part)
{
    return {array + vector_at(d, head, r.columns, r.first, parts, part), vector_stride(d, parts), r.count};
}

/* The three of a meeting. */
template <typename T> __device__ __forceinline__ vectors<const T> queries_of(const struct meeting &m, int head)
{
    return vectors_of(m.desc, head, static_cast<const T *>(m.qkv), m.query, 3, 0);
}

template <typename T> __device__ __forceinline__ vectors<const T> keys_of(const struct meeting &m, int head)
{
    return vectors_of(m.desc, head, static_cast<const T *>(m.kv), m.key, m.key_parts, m.key_parts - 2);
}

template <typename T> __device__ __forceinline__ vectors<const T> values_of(const struct meeting &m, int head)
{
    return vectors_of(m.desc, head, static_cast<const T *>(m.kv), m.key, m.key_parts, m.key_parts - 1);
}

/* How many keys of the range the query sees. */
__device__ __forceinline__ int keys_seen(const struct meeting &m, int query)
{
    int seen = query + m.shift + 1;
    return seen < 0 ? 0 : seen < m.key.count ? seen : m.key.count;
}

/* Where a query's entry of log_sum is, and its row of running. */
__device__ __forceinline__ int64_t statistic_at(const struct meeting &m, int head, int query)
{
    return static_cast<int64_t>(head) * m.query.columns + m.query.first + query;
}

/* The number of the head's first query and key in the dropout's order; that of others: + query * context + key. */
__device__ __forceinline__ uint64_t dropout_first(const struct meeting &m, int head)
{
    return m.dropout.first + dropout_head(&m.desc, head) +
           static_cast<uint64_t>(m.query.position * m.desc.context + m.key.position);
}

/* Bit i: whether element 4 BLOCK + i is kept. */
__device__ __forceinline__ uint32_t dropout_bits(const struct meeting &m, uint64_t block)
{
    uint32_t words[4], bits = 0;
    philox4x32(m.dropout.key, m.dropout.step, block, words);
#pragma unroll
    for (int i = 0; i < 4; i++)
        bits |= static_cast<uint32_t>(words[i] >= m.threshold) << i;
    return bits;
}

/* A meeting of the plan; SCALE and the like filled. */
struct meeting attention_meeting(const struct attention *, const struct range *query, const struct range *key, const void *qkv,
                                 const void *kv, const struct dropout *);
void attention_meet_forward(struct attention *, const struct meeting *, const struct forward_results *);
void attention_meet_backward(struct attention *, const struct meeting *, const struct backward_inputs *, const struct gradients *);

/* ---- on ordinary cores: any type and size ---- */
void attention_plain_forward(struct cuda *, const struct meeting *, const struct forward_results *);
void attention_plain_backward(struct cuda *, const struct meeting *, const void *d_out, const struct statistics *,
                              const struct gradients *);

/* ---- on tensor cores: bfloat16, heads of a multiple of 8 elements up to 128, arrays 16-byte aligned ---- */
enum { TENSOR_HEAD_MOST = 128, TENSOR_HEAD_MULTIPLE = 8 };
/* Bytes of shared memory that the kernels ask for. */
size_t attention_tensor_shared(int64_t head_size);
size_t attention_tensor_backward_shared(int64_t head_size);
void attention_tensor_forward(struct cuda *, const struct meeting *, const struct forward_results *);
void attention_tensor_backward(struct cuda *, const struct meeting *, const void *d_out, const struct statistics *,
                               const struct gradients *);

#endif
