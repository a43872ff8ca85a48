/* The backward pass on tensor cores: one kernel whose blocks have 128 keys, 16 or 32 a warp, and meet all queries that see them;
 * one whose blocks have 128 queries, 32 a warp, and meet all keys that they see. Both turn each product's result in registers to
 * the left side of the next: scores' rows are keys in the first, queries in the second. */
#include "kernels/cuda/attention_tensor.h"

/* ---- keys and values ---- */

/* QUERIES of a tile, STEP of them at once. */
template <int SIZE> struct key_shape {
    static constexpr int m = SIZE <= 64 ? 2 : 1, warps = SIZE <= 64 ? 4 : 8, threads = warps * WARP, keys = warps * m * 16;
    static constexpr int queries = 64, step = 32, n = step / 8;
};

template <int SIZE> struct key_tiles {
    typedef key_shape<SIZE> shape;
    bf16 key[shape::keys][row_pitch<SIZE>], value[shape::keys][row_pitch<SIZE>];
    bf16 query[2][shape::queries][row_pitch<SIZE>], d_out[2][shape::queries][row_pitch<SIZE>];
    float log_sum[2][shape::queries], delta[2][shape::queries];
};

/* Begins to copy those of a tile of queries from QUERY. */
template <int SIZE>
static __device__ __forceinline__ void load_statistics(key_tiles<SIZE> *t, int side, const struct statistics &s, int head,
                                                       int query)
{
    constexpr int chunks = key_shape<SIZE>::queries / 4;
    int thread = threadIdx.x, at = thread % chunks * 4;
    int64_t from = static_cast<int64_t>(head) * s.pitch + query + at;
    if (thread < chunks)
        copy_async_16(t->log_sum[side] + at, s.log_sum + from);
    else if (thread < 2 * chunks)
        copy_async_16(t->delta[side] + at, s.delta + from);
}

/* Scores' transpose to probabilities: rows are keys from KEY, columns queries from QUERY. */
template <int M, int N>
static __device__ __forceinline__ void find_probabilities(float (&c)[M][N][4], const float *log_sum, const struct meeting &m,
                                                          int query, int key)
{
    int lane = lane_number();
    float scale = m.scale * BASE2_OF_E;
    bool hidden = query + m.shift < key + M * 16 - 1; /* some are */
#pragma unroll
    for (int n = 0; n < N; n++) {
        float2 two = *reinterpret_cast<const float2 *>(log_sum + n * 8 + lane % 4 * 2);
        const float of[2] = {two.x, two.y};
#pragma unroll
        for (int i = 0; i < M; i++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                c[i][n][e] = exp2_fast(fmaf(c[i][n][e], scale, -of[e % 2]));
    }
    if (!hidden)
        return;
#pragma unroll
    for (int i = 0; i < M; i++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int before = key + i * 16 + half * 8 + lane / 4 - m.shift - query - lane % 4 * 2; /* columns that do not see the key */
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int e = 0; e < 2; e++)
                    if (8 * n + e < before)
                        c[i][n][2 * half + e] = 0;
        }
    }
}

/* DP = P (DP - DELTA), gradients of scores that are not scaled yet; KEPT: dropout's words. */
template <int M, int N, bool DROPOUT>
static __device__ __forceinline__ void turn_columns(float (&dp)[M][N][4], const float (&p)[M][N][4], const float *delta,
                                                    const uint32_t (&kept)[M], float keep_scale)
{
    int lane = lane_number();
#pragma unroll
    for (int n = 0; n < N; n++) {
        float2 two = *reinterpret_cast<const float2 *>(delta + n * 8 + lane % 4 * 2);
        const float of[2] = {two.x, two.y};
#pragma unroll
        for (int i = 0; i < M; i++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                float x = dp[i][n][e];
                if constexpr (DROPOUT)
                    x = kept[i] >> (4 * n + e) & 1 ? x * keep_scale : 0;
                dp[i][n][e] = p[i][n][e] * (x - of[e % 2]);
            }
        }
    }
}

/* A warp's sums. */
template <int M, int SIZE> struct key_sums {
    float key[M][SIZE / 8][4], value[M][SIZE / 8][4];
};

/* A warp's keys, from KEY, meet STEP queries from QUERY, which is number AT of the tile on SIDE. */
template <int SIZE, bool DROPOUT, bool HELD>
static __device__ __forceinline__ void meet_queries(key_sums<key_shape<SIZE>::m, SIZE> *sums,
                                                    left_rows<key_shape<SIZE>::m, SIZE, HELD> &key_rows,
                                                    left_rows<key_shape<SIZE>::m, SIZE, HELD> &value_rows, const key_tiles<SIZE> *t,
                                                    int side, int at, const struct meeting &m, const struct dropped &d, int query,
                                                    int key)
{
    constexpr int M = key_shape<SIZE>::m, N = key_shape<SIZE>::n;
    float p[M][N][4], dp[M][N][4];
    uint32_t left[M][N / 2][4], kept[M];
    multiply_turned(p, key_rows, t->query[side][at]);
    find_probabilities(p, t->log_sum[side] + at, m, query, key);
    if constexpr (DROPOUT) {
        float met[M][N][4];
#pragma unroll
        for (int i = 0; i < M; i++) {
            kept[i] = kept_by_columns<N>(m, d, query, key + i * 16);
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    met[i][n][e] = p[i][n][e];
            drop(met[i], kept[i]);
        }
        to_left(left, met);
    } else {
        to_left(left, p);
    }
    multiply_rows<M, N / 2, SIZE>(sums->value, left, t->d_out[side][at]);
    multiply_turned(dp, value_rows, t->d_out[side][at]);
    turn_columns<M, N, DROPOUT>(dp, p, t->delta[side] + at, kept, m.keep_scale);
    to_left(left, dp);
    multiply_rows<M, N / 2, SIZE>(sums->key, left, t->query[side][at]);
}

template <int M, int SIZE>
static __device__ __forceinline__ void end_gradients(float (&c)[M][SIZE / 8][4], float factor, void *array, bool add,
                                                     const struct range &r, int parts, int part, const struct meeting &m, int head,
                                                     int row, bf16 *stage)
{
    int size = static_cast<int>(m.desc.head_size);
    scale(c, factor);
    if (!add) {
        store_rows<M, SIZE>(vectors_of(m.desc, head, static_cast<bf16 *>(array), r, parts, part).from(row), c, stage, size);
        return;
    }
    each_pair(vectors_of(m.desc, head, static_cast<float *>(array), r, parts, part).from(row), c, size,
              [](float2 *at, float a, float b) { *at = make_float2(at->x + a, at->y + b); });
}

template <int SIZE, bool DROPOUT>
__global__ void __launch_bounds__(key_shape<SIZE>::threads)
    tensor_backward_key(struct meeting m, const void *d_out_array, struct statistics s, struct gradients g, int tiles)
{
    typedef key_shape<SIZE> shape;
    key_tiles<SIZE> *t = dynamic_shared<key_tiles<SIZE>>();
    if (DROPOUT)
        dropout_at_moment(&m.dropout);
    int head = static_cast<int>(blockIdx.x / tiles);
    int first = static_cast<int>(blockIdx.x % tiles) * shape::keys, own = warp_number() * shape::m * 16;
    int size = static_cast<int>(m.desc.head_size), key = first + own;
    int begin = first > m.shift ? (first - m.shift) / shape::queries * shape::queries : 0; /* the first that see any of the keys */
    vectors<const bf16> query = queries_of<bf16>(m, head);
    vectors<const bf16> d_out = vectors_of(m.desc, head, static_cast<const bf16 *>(d_out_array), m.query, 1, 0);
    if (begin >= m.query.count)
        return;
    load_tile<SIZE, shape::keys, shape::threads>(t->key[0], keys_of<bf16>(m, head).from(first), size);
    load_tile<SIZE, shape::keys, shape::threads>(t->value[0], values_of<bf16>(m, head).from(first), size);
    load_tile<SIZE, shape::queries, shape::threads>(t->query[0][0], query.from(begin), size);
    load_tile<SIZE, shape::queries, shape::threads>(t->d_out[0][0], d_out.from(begin), size);
    load_statistics(t, 0, s, head, begin);
    copy_async_commit();

    key_sums<shape::m, SIZE> sums;
    left_rows<shape::m, SIZE, false> key_rows, value_rows; /* not held: nothing is read yet */
    key_rows.begin(t->key[own]);
    value_rows.begin(t->value[own]);
    struct dropped d = dropped_of(m, head);
    clear(sums.key);
    clear(sums.value);
    for (int q = begin, side = 0; q < m.query.count; q += shape::queries, side ^= 1) {
        copy_async_wait<0>();
        __syncthreads();
        if (q + shape::queries < m.query.count) {
            load_tile<SIZE, shape::queries, shape::threads>(t->query[side ^ 1][0], query.from(q + shape::queries), size);
            load_tile<SIZE, shape::queries, shape::threads>(t->d_out[side ^ 1][0], d_out.from(q + shape::queries), size);
            load_statistics(t, side ^ 1, s, head, q + shape::queries);
            copy_async_commit();
        }
#pragma unroll 1
        for (int at = 0; at < shape::queries; at += shape::step) {
            int last = q + at + shape::step - 1;
            if (last + m.shift >= key && q + at < m.query.count && key < m.key.count)
                meet_queries<SIZE, DROPOUT>(&sums, key_rows, value_rows, t, side, at, m, d, q + at, key);
        }
    }
    end_gradients<shape::m, SIZE>(sums.key, m.scale, g.d_kv, g.add, m.key, m.key_parts, m.key_parts - 2, m, head, key, t->key[own]);
    end_gradients<shape::m, SIZE>(sums.value, m.keep_scale, g.d_kv, g.add, m.key, m.key_parts, m.key_parts - 1, m, head, key,
                                  t->value[own]);
}

/* ---- queries ---- */

/* KEYS of a tile, STEP of them at once; tiles of long heads are shorter, so that two blocks share a multiprocessor. */
template <int SIZE> struct query_shape {
    static constexpr int m = 2, warps = 4, threads = warps * WARP, queries = warps * m * 16;
    static constexpr int keys = SIZE <= 64 ? 64 : 32, step = 32, n = step / 8;
};

template <int SIZE> struct query_tiles {
    typedef query_shape<SIZE> shape;
    bf16 query[shape::queries][row_pitch<SIZE>], d_out[shape::queries][row_pitch<SIZE>];
    bf16 key[2][shape::keys][row_pitch<SIZE>], value[2][shape::keys][row_pitch<SIZE>];
};

/* Of a lane's rows, [m][half]. */
template <int M> struct row_statistics {
    float log_sum[M][2], delta[M][2];
};

/* Scores to probabilities: rows are queries from QUERY, columns keys from KEY. */
template <int M, int N>
static __device__ __forceinline__ void find_probabilities(float (&c)[M][N][4], const struct row_statistics<M> &s,
                                                          const struct meeting &m, int query, int key)
{
    float scale = m.scale * BASE2_OF_E;
    bool hidden = keys_seen(m, query) < key + N * 8; /* some are */
#pragma unroll
    for (int i = 0; i < M; i++) {
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                c[i][n][e] = exp2_fast(fmaf(c[i][n][e], scale, -s.log_sum[i][e / 2]));
    }
    if (hidden)
        hide_later(c, m, query, key, 0);
}

/* A warp's queries, from QUERY, meet STEP keys from KEY, whose rows are KEY_ROWS and VALUE_ROWS. */
template <int SIZE, bool DROPOUT, bool HELD>
static __device__ __forceinline__ void meet_keys(float (&sums)[query_shape<SIZE>::m][SIZE / 8][4],
                                                 left_rows<query_shape<SIZE>::m, SIZE, HELD> &query_rows,
                                                 left_rows<query_shape<SIZE>::m, SIZE, HELD> &d_out_rows, const bf16 *key_rows,
                                                 const bf16 *value_rows, const row_statistics<query_shape<SIZE>::m> &s,
                                                 const struct meeting &m, const struct dropped &d, int query, int key)
{
    constexpr int M = query_shape<SIZE>::m, N = query_shape<SIZE>::n;
    float p[M][N][4], dp[M][N][4];
    uint32_t left[M][N / 2][4];
    multiply_turned(p, query_rows, key_rows);
    multiply_turned(dp, d_out_rows, value_rows);
    find_probabilities(p, s, m, query, key);
#pragma unroll
    for (int i = 0; i < M; i++) {
        if constexpr (DROPOUT)
            drop(dp[i], kept_by_rows<N>(m, d, query + i * 16, key));
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                dp[i][n][e] =
                    p[i][n][e] * (DROPOUT ? fmaf(dp[i][n][e], m.keep_scale, -s.delta[i][e / 2]) : dp[i][n][e] - s.delta[i][e / 2]);
    }
    to_left(left, dp);
    multiply_rows<M, N / 2, SIZE>(sums, left, key_rows);
}

template <int SIZE, bool DROPOUT>
__global__ void __launch_bounds__(query_shape<SIZE>::threads)
    tensor_backward_query(struct meeting m, const void *d_out_array, struct statistics s, struct gradients g, int tiles)
{
    typedef query_shape<SIZE> shape;
    query_tiles<SIZE> *t = dynamic_shared<query_tiles<SIZE>>();
    if (DROPOUT)
        dropout_at_moment(&m.dropout);
    int head = static_cast<int>(blockIdx.x / tiles);
    int first = (tiles - 1 - static_cast<int>(blockIdx.x % tiles)) * shape::queries, own = warp_number() * shape::m * 16;
    int size = static_cast<int>(m.desc.head_size), query = first + own;
    int last = (first + shape::queries < m.query.count ? first + shape::queries : m.query.count) - 1, keys = keys_seen(m, last);
    vectors<const bf16> key = keys_of<bf16>(m, head), value = values_of<bf16>(m, head);
    if (keys == 0)
        return;
    load_tile<SIZE, shape::queries, shape::threads>(t->query[0], queries_of<bf16>(m, head).from(first), size);
    load_tile<SIZE, shape::queries, shape::threads>(
        t->d_out[0], vectors_of(m.desc, head, static_cast<const bf16 *>(d_out_array), m.query, 1, 0).from(first), size);
    load_tile<SIZE, shape::keys, shape::threads>(t->key[0][0], key, size);
    load_tile<SIZE, shape::keys, shape::threads>(t->value[0][0], value, size);
    copy_async_commit();

    float sums[shape::m][SIZE / 8][4];
    left_rows<shape::m, SIZE, SIZE <= 64> query_rows, d_out_rows;
    struct row_statistics<shape::m> of_rows;
    struct dropped d = dropped_of(m, head);
    int seen = query < m.query.count ? keys_seen(m, query + shape::m * 16 - 1) : 0; /* what any of the warp's queries sees */
    clear(sums);
#pragma unroll
    for (int i = 0; i < 2 * shape::m; i++) {
        int64_t number = static_cast<int64_t>(head) * s.pitch + query + i * 8 + lane_number() / 4;
        of_rows.log_sum[i / 2][i % 2] = s.log_sum[number];
        of_rows.delta[i / 2][i % 2] = s.delta[number];
    }
    for (int k = 0, side = 0; k < keys; k += shape::keys, side ^= 1) {
        copy_async_wait<0>();
        __syncthreads();
        if (k == 0) {
            query_rows.begin(t->query[own]);
            d_out_rows.begin(t->d_out[own]);
        }
        if (k + shape::keys < keys) {
            load_tile<SIZE, shape::keys, shape::threads>(t->key[side ^ 1][0], key.from(k + shape::keys), size);
            load_tile<SIZE, shape::keys, shape::threads>(t->value[side ^ 1][0], value.from(k + shape::keys), size);
            copy_async_commit();
        }
#pragma unroll 1
        for (int at = 0; at < shape::keys && k + at < seen; at += shape::step)
            meet_keys<SIZE, DROPOUT>(sums, query_rows, d_out_rows, t->key[side][at], t->value[side][at], of_rows, m, d, query,
                                     k + at);
    }
    end_gradients<shape::m, SIZE>(sums, m.scale, g.d_query, g.add, m.query, g.add ? 1 : 3, 0, m, head, query, t->query[own]);
}

size_t attention_tensor_backward_shared(int64_t head_size)
{
    size_t keys = head_size <= 64 ? sizeof(key_tiles<64>) : sizeof(key_tiles<128>);
    size_t queries = head_size <= 64 ? sizeof(query_tiles<64>) : sizeof(query_tiles<128>);
    return keys > queries ? keys : queries;
}

template <int SIZE>
static void begin(struct cuda *cuda, const struct meeting *m, const void *d_out, const struct statistics *s,
                  const struct gradients *g)
{
    unsigned heads = static_cast<unsigned>(m->desc.batch * m->desc.heads);
    unsigned key_blocks = blocks_of(m->key.count, key_shape<SIZE>::keys),
             query_blocks = blocks_of(m->query.count, query_shape<SIZE>::queries);
    launch(cuda, "the gradients of attention's keys",
           m->threshold != 0 ? tensor_backward_key<SIZE, true> : tensor_backward_key<SIZE, false>, dim3(key_blocks * heads),
           dim3(key_shape<SIZE>::threads), sizeof(key_tiles<SIZE>), *m, d_out, *s, *g, static_cast<int>(key_blocks));
    launch(cuda, "the gradients of attention's queries",
           m->threshold != 0 ? tensor_backward_query<SIZE, true> : tensor_backward_query<SIZE, false>, dim3(query_blocks * heads),
           dim3(query_shape<SIZE>::threads), sizeof(query_tiles<SIZE>), *m, d_out, *s, *g, static_cast<int>(query_blocks));
}

void attention_tensor_backward(struct cuda *cuda, const struct meeting *m, const void *d_out, const struct statistics *s,
                               const struct gradients *g)
{
    if (m->desc.head_size <= 64)
        begin<64>(cuda, m, d_out, s, g);
    else
        begin<128>(cuda, m, d_out, s, g);
}
