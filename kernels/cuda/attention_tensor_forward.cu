/* The forward pass on tensor cores: 128 queries a block, 32 a warp, 64 keys and values at a time, the next 64 on their way. */
#include "kernels/cuda/attention_tensor.h"

enum { WARPS = 4, THREADS = WARPS * WARP, M = 2, QUERIES = WARPS * M * 16, KEYS = 64, N = KEYS / 8 };

template <int SIZE> struct forward_tiles {
    bf16 query[QUERIES][row_pitch<SIZE>], key[2][KEYS][row_pitch<SIZE>], value[2][KEYS][row_pitch<SIZE>];
};

/* A lane's rows, [m][half]: scores are multiplied by log2 e, so that weights are powers of 2. A sum is of the lane's columns. */
template <int SIZE> struct forward_rows {
    float out[M][SIZE / 8][4], greatest[M][2], sum[M][2];
};

/* Scores to weights; what was summed before is scaled to the new greatest. */
template <int SIZE>
static __device__ __forceinline__ void weigh(float (&scores)[M][N][4], struct forward_rows<SIZE> *rows, float scale)
{
#pragma unroll
    for (int i = 0; i < M; i++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float greatest = scores[i][0][2 * half];
#pragma unroll
            for (int n = 0; n < N; n++)
                greatest = fmaxf(greatest, fmaxf(scores[i][n][2 * half], scores[i][n][2 * half + 1]));
            greatest = fmaxf(greatest, __shfl_xor_sync(WHOLE_WARP, greatest, 1));
            greatest = fmaxf(greatest, __shfl_xor_sync(WHOLE_WARP, greatest, 2));
            greatest = fmaxf(rows->greatest[i][half], greatest * scale);
            float base = greatest == -INFINITY ? 0 : greatest; /* a row that sees none of these keys, nor any before */
            if (__any_sync(WHOLE_WARP, greatest != rows->greatest[i][half])) {
                float before = exp2_fast(rows->greatest[i][half] - base);
                rows->sum[i][half] *= before;
#pragma unroll
                for (int n = 0; n < SIZE / 8; n++) {
                    rows->out[i][n][2 * half] *= before;
                    rows->out[i][n][2 * half + 1] *= before;
                }
            }
            rows->greatest[i][half] = greatest;
#pragma unroll
            for (int n = 0; n < N; n++) {
#pragma unroll
                for (int e = 2 * half; e < 2 * half + 2; e++) {
                    scores[i][n][e] = exp2_fast(fmaf(scores[i][n][e], scale, -base));
                    rows->sum[i][half] += scores[i][n][e];
                }
            }
        }
    }
}

/* The state before any key, or RUNNING's. QUERY is the warp's first. */
template <int SIZE>
static __device__ __forceinline__ void begin_rows(struct forward_rows<SIZE> *rows, const struct meeting &m, float *running,
                                                  int head, int query)
{
    int size = static_cast<int>(m.desc.head_size), stride = size + 2;
    clear(rows->out);
#pragma unroll
    for (int i = 0; i < 2 * M; i++) {
        rows->greatest[i / 2][i % 2] = -INFINITY;
        rows->sum[i / 2][i % 2] = 0;
    }
    if (running == NULL)
        return;
    vectors<float> x = {running + statistic_at(m, head, query) * stride, stride, m.query.count - query};
    float factor = 1 / m.keep_scale;
    each_pair(x, rows->out, size, [=](const float2 *at, float &a, float &b) {
        a = at->x * factor;
        b = at->y * factor;
    });
#pragma unroll
    for (int i = 0; i < 2 * M; i++) {
        int row = i * 8 + lane_number() / 4;
        if (row < x.count) {
            rows->greatest[i / 2][i % 2] = x.row(row)[size] * BASE2_OF_E;
            rows->sum[i / 2][i % 2] = lane_number() % 4 == 0 ? x.row(row)[size + 1] : 0;
        }
    }
}

/* Sums of a row's four lanes. */
template <int SIZE> static __device__ __forceinline__ void join_sums(struct forward_rows<SIZE> *rows)
{
#pragma unroll
    for (int i = 0; i < 2 * M; i++) {
        float *sum = &rows->sum[i / 2][i % 2];
        *sum += __shfl_xor_sync(WHOLE_WARP, *sum, 1);
        *sum += __shfl_xor_sync(WHOLE_WARP, *sum, 2);
    }
}

template <int SIZE>
static __device__ __forceinline__ void end_running(struct forward_rows<SIZE> *rows, const struct meeting &m, float *running,
                                                   int head, int query)
{
    int size = static_cast<int>(m.desc.head_size), stride = size + 2;
    vectors<float> x = {running + statistic_at(m, head, query) * stride, stride, m.query.count - query};
    float factor = m.keep_scale;
    each_pair(x, rows->out, size, [=](float2 *at, float &a, float &b) { *at = make_float2(a * factor, b * factor); });
#pragma unroll
    for (int i = 0; i < 2 * M; i++) {
        int row = i * 8 + lane_number() / 4;
        if (row < x.count && lane_number() % 4 == 0) {
            x.row(row)[size] = rows->greatest[i / 2][i % 2] * E_OF_BASE2;
            x.row(row)[size + 1] = rows->sum[i / 2][i % 2];
        }
    }
}

template <int SIZE>
static __device__ __forceinline__ void end_whole(struct forward_rows<SIZE> *rows, const struct meeting &m,
                                                 const struct forward_results &r, int head, int query, bf16 *stage)
{
#pragma unroll
    for (int i = 0; i < M; i++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float factor = m.keep_scale / rows->sum[i][half];
#pragma unroll
            for (int n = 0; n < SIZE / 8; n++) {
                rows->out[i][n][2 * half] *= factor;
                rows->out[i][n][2 * half + 1] *= factor;
            }
            int row = query + i * 16 + half * 8 + lane_number() / 4;
            if (row < m.query.count && lane_number() % 4 == 0)
                r.log_sum[statistic_at(m, head, row)] = rows->greatest[i][half] * E_OF_BASE2 + logf(rows->sum[i][half]);
        }
    }
    vectors<bf16> out = vectors_of(m.desc, head, static_cast<bf16 *>(r.out), m.query, 1, 0).from(query);
    store_rows<M, SIZE>(out, rows->out, stage, static_cast<int>(m.desc.head_size));
}

/* One tile of keys and values; QUERY: the warp's first, KEY: the tile's. */
template <int SIZE, bool DROPOUT, bool HELD>
static __device__ __forceinline__ void meet_tile(struct forward_rows<SIZE> *rows, left_rows<M, SIZE, HELD> &left,
                                                 const bf16 *key_rows, const bf16 *value_rows, const struct meeting &m,
                                                 const struct dropped &d, int query, int key)
{
    float scores[M][N][4];
    uint32_t weights[M][N / 2][4];
    multiply_turned(scores, left, key_rows);
    if (keys_seen(m, query) < key + KEYS)
        hide_later(scores, m, query, key, -INFINITY);
    weigh(scores, rows, m.scale * BASE2_OF_E);
    if constexpr (DROPOUT) {
#pragma unroll
        for (int i = 0; i < M; i++)
            drop(scores[i], kept_by_rows<N>(m, d, query + i * 16, key));
    }
    to_left(weights, scores);
    multiply_rows<M, N / 2, SIZE>(rows->out, weights, value_rows);
}

/* Blocks of one head follow each other, so that its keys and values stay in the cache; those with most to do first. */
template <int SIZE, bool DROPOUT>
__global__ void __launch_bounds__(THREADS) tensor_forward(struct meeting m, struct forward_results r, int tiles)
{
    struct forward_tiles<SIZE> *t = dynamic_shared<struct forward_tiles<SIZE>>();
    if (DROPOUT)
        dropout_at_moment(&m.dropout);
    int head = static_cast<int>(blockIdx.x / tiles);
    int first = (tiles - 1 - static_cast<int>(blockIdx.x % tiles)) * QUERIES, own = warp_number() * M * 16, query = first + own;
    int last = (first + QUERIES < m.query.count ? first + QUERIES : m.query.count) - 1, keys = keys_seen(m, last);
    int size = static_cast<int>(m.desc.head_size);
    vectors<const bf16> key = keys_of<bf16>(m, head), value = values_of<bf16>(m, head);
    if (keys == 0)
        return;
    load_tile<SIZE, QUERIES, THREADS>(t->query[0], queries_of<bf16>(m, head).from(first), size);
    load_tile<SIZE, KEYS, THREADS>(t->key[0][0], key, size);
    load_tile<SIZE, KEYS, THREADS>(t->value[0][0], value, size);
    copy_async_commit();

    struct forward_rows<SIZE> rows;
    left_rows<M, SIZE, SIZE <= 64> left;
    struct dropped d = dropped_of(m, head);
    int seen = query < m.query.count ? keys_seen(m, query + M * 16 - 1) : 0; /* what any of the warp's queries sees */
    begin_rows(&rows, m, r.running, head, query);
    for (int k = 0, side = 0; k < keys; k += KEYS, side ^= 1) {
        copy_async_wait<0>();
        __syncthreads();
        if (k == 0)
            left.begin(t->query[own]);
        if (k + KEYS < keys) {
            load_tile<SIZE, KEYS, THREADS>(t->key[side ^ 1][0], key.from(k + KEYS), size);
            load_tile<SIZE, KEYS, THREADS>(t->value[side ^ 1][0], value.from(k + KEYS), size);
            copy_async_commit();
        }
        if (k < seen)
            meet_tile<SIZE, DROPOUT>(&rows, left, t->key[side][0], t->value[side][0], m, d, query, k);
    }
    join_sums(&rows);
    if (r.running != NULL)
        end_running(&rows, m, r.running, head, query);
    else
        end_whole(&rows, m, r, head, query, t->query[own]);
}

size_t attention_tensor_shared(int64_t head_size)
{
    return head_size <= 64 ? sizeof(struct forward_tiles<64>) : sizeof(struct forward_tiles<128>);
}

template <int SIZE> static void begin(struct cuda *cuda, const struct meeting *m, const struct forward_results *r)
{
    int tiles = static_cast<int>(blocks_of(m->query.count, QUERIES));
    launch(cuda, "attention", m->threshold != 0 ? tensor_forward<SIZE, true> : tensor_forward<SIZE, false>,
           dim3(static_cast<unsigned>(tiles * m->desc.batch * m->desc.heads)), dim3(THREADS), sizeof(struct forward_tiles<SIZE>),
           *m, *r, tiles);
}

void attention_tensor_forward(struct cuda *cuda, const struct meeting *m, const struct forward_results *r)
{
    if (m->desc.head_size <= 64)
        begin<64>(cuda, m, r);
    else
        begin<128>(cuda, m, r);
}
