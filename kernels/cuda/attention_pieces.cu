/* Attention where sequences are split: each segment of queries meets each of the keys that it sees, one after the other, with a
 * running softmax. */
#include "kernels/cuda/attention.h"

enum { PIECES_THREADS = 256, PIECES_WARPS = PIECES_THREADS / WARP };

/* Whether rows of WIDTH elements of T begin at 16-byte boundaries in both arrays. */
template <typename T> static bool by_vectors(int64_t width, const void *a, const void *b)
{
    return width % vector16<T>::count == 0 && (reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b)) % 16 == 0;
}

/* A block for each row; V is a vector or an element, WIDTH of which are a query's. */
template <typename V> __global__ void keys_values_kernel(V *kv, const V *qkv, int64_t width)
{
    V *to = kv + 2 * blockIdx.x * width;
    const V *from = qkv + (3 * blockIdx.x + 1) * width;
    for (int64_t i = threadIdx.x; i < 2 * width; i += PIECES_THREADS)
        to[i] = from[i];
}

template <typename V> static void copy_keys_values(struct cuda *cuda, void *kv, const void *qkv, int64_t rows, int64_t width)
{
    launch(cuda, "attention's keys and values", keys_values_kernel<V>, dim3(static_cast<unsigned>(rows)), dim3(PIECES_THREADS), 0,
           static_cast<V *>(kv), static_cast<const V *>(qkv), width);
}

static void attention_keys_values(struct attention *a, void *kv, const void *qkv, int64_t columns)
{
    int64_t rows = a->desc.batch * columns, width = a->desc.heads * a->desc.head_size;
    bool narrow = a->cuda->base.act == DTYPE_BF16;
    if (narrow ? by_vectors<bf16>(width, kv, qkv) : by_vectors<float>(width, kv, qkv))
        copy_keys_values<uint4>(a->cuda, kv, qkv, rows, width / (narrow ? vector16<bf16>::count : vector16<float>::count));
    else if (narrow)
        copy_keys_values<bf16>(a->cuda, kv, qkv, rows, width);
    else
        copy_keys_values<float>(a->cuda, kv, qkv, rows, width);
}

/* Calls MEET of each segment of queries and each of keys that any of its queries sees. */
template <typename Function>
static void each_meeting(const struct attention *a, const struct attention_piece *piece, const void *qkv, const void *kv,
                         const struct dropout *dropout, Function meet)
{
    struct range query = {span_columns(&piece->query), 0, 0, 0};
    for (int i = 0; i < piece->query.segments; i++, query.first += query.count) {
        query.position = piece->query.segment[i].position;
        query.count = static_cast<int>(piece->query.segment[i].length);
        struct range key = {span_columns(&piece->key), 0, 0, 0};
        for (int j = 0; j < piece->key.segments; j++, key.first += key.count) {
            key.position = piece->key.segment[j].position;
            key.count = static_cast<int>(piece->key.segment[j].length);
            if (query.count == 0 || segment_seen(&piece->key, j, query.position + query.count - 1) == 0)
                continue;
            struct meeting m = attention_meeting(a, &query, &key, qkv, kv, dropout);
            meet(&m);
        }
    }
}

/* ---- forward ---- */

/* The row of running that the calling thread's warp has. */
static __device__ __forceinline__ unsigned row_number()
{
    return blockIdx.x * PIECES_WARPS + threadIdx.x / WARP;
}

static __global__ void begin_kernel(float *running, unsigned rows, int size)
{
    unsigned r = row_number();
    if (r >= rows)
        return;
    float *row = running + static_cast<int64_t>(r) * (size + 2);
    for (int i = threadIdx.x % WARP; i < size + 2; i += WARP)
        row[i] = i == size ? -INFINITY : 0;
}

static void attention_pieces_begin(struct attention *a, void *running, int64_t columns)
{
    int64_t rows = a->desc.batch * a->desc.heads * columns;
    launch(a->cuda, "the beginning of attention by pieces", begin_kernel, dim3(blocks_of(rows, PIECES_WARPS)), dim3(PIECES_THREADS),
           0, static_cast<float *>(running), static_cast<unsigned>(rows), static_cast<int>(a->desc.head_size));
}

static void attention_piece_forward(struct attention *a, void *running, const void *qkv, const void *kv,
                                    const struct attention_piece *piece, const struct dropout *dropout)
{
    struct forward_results results = {NULL, NULL, static_cast<float *>(running)};
    each_meeting(a, piece, qkv, kv, dropout, [&](const struct meeting *m) { attention_meet_forward(a, m, &results); });
}

/* HEADS and COLUMNS say where a row belongs in out. */
template <typename T>
__global__ void end_kernel(T *out, float *log_sum, const float *running, unsigned rows, unsigned heads, unsigned columns, int size)
{
    unsigned r = row_number(), head = r / columns;
    if (r >= rows)
        return;
    const float *row = running + static_cast<int64_t>(r) * (size + 2);
    T *y = out + ((static_cast<int64_t>(head / heads) * columns + r % columns) * heads + head % heads) * size;
    float sum = row[size + 1];
    for (int i = threadIdx.x % WARP; i < size; i += WARP)
        y[i] = from_float<T>(row[i] / sum);
    if (threadIdx.x % WARP == 0)
        log_sum[r] = row[size] + logf(sum);
}

template <typename T> static void end_pieces(struct attention *a, void *out, void *log_sum, const void *running, int64_t columns)
{
    int64_t rows = a->desc.batch * a->desc.heads * columns;
    launch(a->cuda, "the end of attention by pieces", end_kernel<T>, dim3(blocks_of(rows, PIECES_WARPS)), dim3(PIECES_THREADS), 0,
           static_cast<T *>(out), static_cast<float *>(log_sum), static_cast<const float *>(running), static_cast<unsigned>(rows),
           static_cast<unsigned>(a->desc.heads), static_cast<unsigned>(columns), static_cast<int>(a->desc.head_size));
}

static void attention_pieces_end(struct attention *a, void *out, void *log_sum, const void *running, int64_t columns)
{
    if (a->cuda->base.act == DTYPE_BF16)
        end_pieces<bf16>(a, out, log_sum, running, columns);
    else
        end_pieces<float>(a, out, log_sum, running, columns);
}

/* ---- backward ---- */

static void attention_pieces_backward_begin(struct attention *a, void *d_query, void *d_kv, int64_t columns)
{
    struct backend *b = &a->cuda->base;
    size_t bytes = static_cast<size_t>(a->desc.batch * columns * a->desc.heads * a->desc.head_size) * sizeof(float);
    b->table->zero(b, d_query, bytes);
    b->table->zero(b, d_kv, 2 * bytes);
}

static void attention_piece_backward(struct attention *a, void *d_query, void *d_kv, const void *d_out, const void *out,
                                     const void *qkv, const void *kv, const void *log_sum, const struct attention_piece *piece,
                                     const struct dropout *dropout)
{
    struct backward_inputs in = {d_out, out, static_cast<const float *>(log_sum)};
    struct gradients results = {d_query, d_kv, true};
    each_meeting(a, piece, qkv, kv, dropout, [&](const struct meeting *m) { attention_meet_backward(a, m, &in, &results); });
}

/* A block for each row, COUNT elements at once: 1, or as many as a vector has of T. */
template <typename T, int COUNT> __global__ void round_kernel(T *d_qkv, const float *d_query, const float *d_kv, int64_t width)
{
    int64_t row = blockIdx.x;
    for (int64_t i = threadIdx.x * COUNT; i < 3 * width; i += PIECES_THREADS * COUNT) {
        const float *from = i < width ? d_query + row * width + i : d_kv + (2 * row - 1) * width + i;
        T *to = d_qkv + 3 * row * width + i;
        if constexpr (COUNT == 1) {
            *to = from_float<T>(*from);
        } else {
            vector16<T> rounded;
#pragma unroll
            for (int k = 0; k < COUNT; k += vector16<float>::count) {
                vector16<float> x = load16(from + k);
#pragma unroll
                for (int j = 0; j < vector16<float>::count; j++)
                    rounded.v[k + j] = from_float<T>(x.v[j]);
            }
            store16(to, rounded);
        }
    }
}

template <typename T>
static void round_gradients(struct attention *a, void *d_qkv, const void *d_query, const void *d_kv, int64_t columns)
{
    int64_t width = a->desc.heads * a->desc.head_size;
    bool wide = by_vectors<T>(width, d_qkv, d_query) && by_vectors<T>(width, d_qkv, d_kv);
    launch(a->cuda, "the rounding of attention's gradients", wide ? round_kernel<T, vector16<T>::count> : round_kernel<T, 1>,
           dim3(static_cast<unsigned>(a->desc.batch * columns)), dim3(PIECES_THREADS), 0, static_cast<T *>(d_qkv),
           static_cast<const float *>(d_query), static_cast<const float *>(d_kv), width);
}

static void attention_pieces_backward_end(struct attention *a, void *d_qkv, const void *d_query, const void *d_kv, int64_t columns)
{
    if (a->cuda->base.act == DTYPE_BF16)
        round_gradients<bf16>(a, d_qkv, d_query, d_kv, columns);
    else
        round_gradients<float>(a, d_qkv, d_query, d_kv, columns);
}

void attention_pieces_fill(struct backend_table *table)
{
    table->attention_keys_values = attention_keys_values;
    table->attention_pieces_begin = attention_pieces_begin;
    table->attention_piece_forward = attention_piece_forward;
    table->attention_pieces_end = attention_pieces_end;
    table->attention_pieces_backward_begin = attention_pieces_backward_begin;
    table->attention_piece_backward = attention_piece_backward;
    table->attention_pieces_backward_end = attention_pieces_backward_end;
}
