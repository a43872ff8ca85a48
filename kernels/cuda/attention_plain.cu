/* Attention on ordinary cores, for float32 and for heads that do not fit tensor cores. A block takes 64 queries or 64 keys of one
 * head, 64 elements of a result's vectors at a time: for longer vectors scores are computed again, so that any length is done.
 * A thread has 4 rows and 4 columns of each tile. */
#include "kernels/cuda/attention.h"

enum { TILE = 64, DEPTH = 32, PITCH = TILE + 4, THREADS = 256, EACH = 4, ACROSS = TILE / EACH };

/* What products read: [depth][row] and [depth][column]; and the scores' tile, depth first too. */
struct __align__(16) plain_tiles {
    float left[DEPTH][PITCH], right[DEPTH][PITCH], scores[TILE][PITCH];
};

/* One block's place, and its thread's first row and column of a tile. */
struct plain_place {
    int head, first, row, column;
};

typedef float square[EACH][EACH];

static __device__ __forceinline__ struct plain_place place_of(int tiles)
{
    int thread = threadIdx.x;
    return {static_cast<int>(blockIdx.x / tiles), static_cast<int>(blockIdx.x % tiles) * TILE, thread / ACROSS * EACH,
            thread % ACROSS * EACH};
}

static __device__ __forceinline__ void clear(square &c)
{
#pragma unroll
    for (int i = 0; i < EACH; i++)
#pragma unroll
        for (int j = 0; j < EACH; j++)
            c[i][j] = 0;
}

/* Elements FROM.. of the first TILE vectors to [element][vector]; zeros beyond both ends. Banks: 8 elements x 4 vectors a warp. */
template <typename T>
static __device__ __forceinline__ void load_turned(float (*to)[PITCH], const vectors<const T> &x, int from, int size)
{
    constexpr int wide = 8, high = THREADS / wide, count = TILE * DEPTH / THREADS;
    float v[count];
    int depth = threadIdx.x % wide, row = threadIdx.x / wide;
#pragma unroll
    for (int i = 0; i < count; i++) {
        int r = row + i % (TILE / high) * high, d = depth + i / (TILE / high) * wide;
        v[i] = r < x.count && from + d < size ? to_float(x.row(r)[from + d]) : 0;
    }
#pragma unroll
    for (int i = 0; i < count; i++)
        to[depth + i / (TILE / high) * wide][row + i % (TILE / high) * high] = v[i];
}

/* Elements FROM.. of the first DEPTH vectors to [vector][element]. */
template <typename T>
static __device__ __forceinline__ void load_rows(float (*to)[PITCH], const vectors<const T> &x, int from, int size)
{
    constexpr int high = THREADS / TILE, count = TILE * DEPTH / THREADS;
    float v[count];
    int column = threadIdx.x % TILE, row = threadIdx.x / TILE;
#pragma unroll
    for (int i = 0; i < count; i++) {
        int r = row + i * high;
        v[i] = r < x.count && from + column < size ? to_float(x.row(r)[from + column]) : 0;
    }
#pragma unroll
    for (int i = 0; i < count; i++)
        to[row + i * high][column] = v[i];
}

/* c += the transpose of LEFT by RIGHT. */
static __device__ __forceinline__ void multiply(square &c, const float (*left)[PITCH], const float (*right)[PITCH],
                                                const struct plain_place &at)
{
#pragma unroll 8
    for (int d = 0; d < DEPTH; d++) {
        float4 x = *reinterpret_cast<const float4 *>(&left[d][at.row]), y = *reinterpret_cast<const float4 *>(&right[d][at.column]);
        const float a[EACH] = {x.x, x.y, x.z, x.w}, b[EACH] = {y.x, y.y, y.z, y.w};
#pragma unroll
        for (int i = 0; i < EACH; i++)
#pragma unroll
            for (int j = 0; j < EACH; j++)
                c[i][j] = fmaf(a[i], b[j], c[i][j]);
    }
}

/* c[row][column] = x[row] . y[column] */
template <typename T>
static __device__ __forceinline__ void products(square &c, struct plain_tiles *t, const vectors<const T> &x,
                                                const vectors<const T> &y, int size, const struct plain_place &at)
{
    clear(c);
    for (int from = 0; from < size; from += DEPTH) {
        __syncthreads();
        load_turned(t->left, x, from, size);
        load_turned(t->right, y, from, size);
        __syncthreads();
        multiply(c, t->left, t->right, at);
    }
}

/* The scores' tile to shared memory, by rows or, TURNED, by columns: what add_products sums over comes first. */
static __device__ __forceinline__ void keep_scores(struct plain_tiles *t, const square &c, bool turned,
                                                   const struct plain_place &at)
{
    __syncthreads();
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        if (turned)
            *reinterpret_cast<float4 *>(&t->scores[at.column + i][at.row]) = make_float4(c[0][i], c[1][i], c[2][i], c[3][i]);
        else
            *reinterpret_cast<float4 *>(&t->scores[at.row + i][at.column]) = make_float4(c[i][0], c[i][1], c[i][2], c[i][3]);
    }
}

/* c += the kept scores by elements FROM.. of the vectors Y. */
template <typename T>
static __device__ __forceinline__ void add_products(square &c, struct plain_tiles *t, const vectors<const T> &y, int from, int size,
                                                    const struct plain_place &at)
{
    for (int first = 0; first < TILE; first += DEPTH) {
        __syncthreads();
        load_rows(t->right, y.from(first), from, size);
        __syncthreads();
        multiply(c, t->scores + first, t->right, at);
    }
}

/* What the probabilities of QUERY and keys KEY.. are multiplied by. FIRST: dropout_first of the head. */
static __device__ __forceinline__ void drop_factors(float (&factors)[EACH], const struct meeting &m, uint64_t first, int query,
                                                    int key)
{
    uint32_t bits = 0xf;
    if (m.threshold != 0) {
        uint64_t element = first + static_cast<uint64_t>(query * m.desc.context + key);
        unsigned skip = static_cast<unsigned>(element % 4);
        bits = dropout_bits(m, element / 4);
        if (skip != 0)
            bits = (bits | dropout_bits(m, element / 4 + 1) << 4) >> skip;
    }
#pragma unroll
    for (int j = 0; j < EACH; j++)
        factors[j] = bits >> j & 1 ? m.keep_scale : 0;
}

template <typename Op> static __device__ __forceinline__ float row_reduce(float x)
{
#pragma unroll
    for (int lanes = ACROSS / 2; lanes > 0; lanes /= 2)
        x = Op::join(x, __shfl_xor_sync(WHOLE_WARP, x, lanes));
    return x;
}

/* A thread's rows of the running softmax. */
struct plain_rows {
    float greatest[EACH], sum[EACH];
};

/* Scores to weights, dropped; what was summed before is scaled to the new greatest. */
static __device__ __forceinline__ void weigh(square &c, square &out, struct plain_rows *rows, const struct meeting &m,
                                             uint64_t first, int query, int key)
{
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int seen = keys_seen(m, query + i);
        float greatest = rows->greatest[i], sum = 0, factors[EACH];
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            c[i][j] = key + j < seen ? c[i][j] * m.scale : -INFINITY;
            greatest = fmaxf(greatest, c[i][j]);
        }
        greatest = row_reduce<greatest_of>(greatest);
        float base = greatest == -INFINITY ? 0 : greatest, before = expf(rows->greatest[i] - base);
        drop_factors(factors, m, first, query + i, key);
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            c[i][j] = expf(c[i][j] - base);
            sum += c[i][j];
            c[i][j] *= factors[j];
            out[i][j] *= before;
        }
        rows->greatest[i] = greatest;
        rows->sum[i] = fmaf(rows->sum[i], before, row_reduce<sum_of>(sum));
    }
}

/* The state of a thread's rows before any key, or RUNNING's. FROM: the first element of the vectors. */
static __device__ __forceinline__ void begin_rows(square &out, struct plain_rows *rows, const struct meeting &m,
                                                  const float *running, int from, const struct plain_place &at)
{
    int size = static_cast<int>(m.desc.head_size);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int query = at.first + at.row + i;
        bool there = running != NULL && query < m.query.count;
        const float *row = there ? running + statistic_at(m, at.head, query) * (size + 2) : running;
        rows->greatest[i] = there ? row[size] : -INFINITY;
        rows->sum[i] = there ? row[size + 1] : 0;
#pragma unroll
        for (int j = 0; j < EACH; j++)
            out[i][j] = there && from + at.column + j < size ? row[from + at.column + j] : 0;
    }
}

/* LAST: nothing of the block is read from running any more. */
template <typename T>
static __device__ __forceinline__ void end_rows(const struct forward_results &r, const square &out, const struct plain_rows &rows,
                                                const struct meeting &m, int from, bool last, const struct plain_place &at)
{
    int size = static_cast<int>(m.desc.head_size);
    vectors<T> y = vectors_of(m.desc, at.head, static_cast<T *>(r.out), m.query, 1, 0);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int query = at.first + at.row + i;
        if (query >= m.query.count)
            continue;
        int64_t number = statistic_at(m, at.head, query);
        float *row = r.running + number * (size + 2);
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            int k = from + at.column + j;
            if (k < size && r.running != NULL)
                row[k] = out[i][j];
            else if (k < size)
                y.row(query)[k] = from_float<T>(out[i][j] / rows.sum[i]);
        }
        if (last && at.column == 0 && r.running != NULL) {
            row[size] = rows.greatest[i];
            row[size + 1] = rows.sum[i];
        } else if (last && at.column == 0) {
            r.log_sum[number] = rows.greatest[i] + logf(rows.sum[i]);
        }
    }
}

template <typename T>
__global__ void __launch_bounds__(THREADS) plain_forward(struct meeting m, struct forward_results r, int tiles)
{
    __shared__ struct plain_tiles t;
    struct plain_place at = place_of(tiles);
    if (m.threshold != 0)
        dropout_at_moment(&m.dropout);
    int size = static_cast<int>(m.desc.head_size);
    int last_query = (at.first + TILE < m.query.count ? at.first + TILE : m.query.count) - 1, keys = keys_seen(m, last_query);
    vectors<const T> query = queries_of<T>(m, at.head).from(at.first), key = keys_of<T>(m, at.head),
                     value = values_of<T>(m, at.head);
    uint64_t first = dropout_first(m, at.head);
    for (int from = 0; from < size; from += TILE) {
        square out, c;
        struct plain_rows rows;
        begin_rows(out, &rows, m, r.running, from, at);
        for (int k = 0; k < keys; k += TILE) {
            products(c, &t, query, key.from(k), size, at);
            weigh(c, out, &rows, m, first, at.first + at.row, k + at.column);
            keep_scores(&t, c, true, at);
            add_products(out, &t, value.from(k), from, size, at);
        }
        __syncthreads();
        end_rows<T>(r, out, rows, m, from, from + TILE >= size, at);
    }
}

/* Scores to probabilities as they met the values, dropped, in C, and DP, their gradients, to those of scores, not scaled. */
static __device__ __forceinline__ void turn_gradients(square &c, square &dp, const struct meeting &m, const struct statistics &s,
                                                      uint64_t first, int head, int query, int key)
{
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int seen = keys_seen(m, query + i);
        int64_t number = static_cast<int64_t>(head) * s.pitch + query + i;
        float log_sum = s.log_sum[number], delta = s.delta[number], factors[EACH];
        drop_factors(factors, m, first, query + i, key);
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            float p = key + j < seen ? exp2f(fmaf(c[i][j], m.scale * BASE2_OF_E, -log_sum)) : 0;
            dp[i][j] = p * (dp[i][j] * factors[j] - delta);
            c[i][j] = p * factors[j];
        }
    }
}

/* SCALE times C to, or added to, the vectors TO, whose first is the tile's. */
template <typename T>
static __device__ __forceinline__ void put_gradients(const vectors<T> &to, const square &c, float scale, bool add, int from,
                                                     int size, const struct plain_place &at)
{
#pragma unroll
    for (int i = 0; i < EACH; i++) {
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            int k = from + at.column + j;
            if (at.row + i >= to.count || k >= size)
                continue;
            T *x = to.row(at.row + i) + k;
            *x = from_float<T>(scale * c[i][j] + (add ? to_float(*x) : 0));
        }
    }
}

template <typename T>
static __device__ __forceinline__ void put_tile(void *array, const struct range &r, int parts, int part, const struct meeting &m,
                                                bool add, const square &c, float scale, int from, const struct plain_place &at)
{
    if (add)
        put_gradients(vectors_of(m.desc, at.head, static_cast<float *>(array), r, parts, part).from(at.first), c, scale, true, from,
                      static_cast<int>(m.desc.head_size), at);
    else
        put_gradients(vectors_of(m.desc, at.head, static_cast<T *>(array), r, parts, part).from(at.first), c, scale, false, from,
                      static_cast<int>(m.desc.head_size), at);
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    plain_backward_query(struct meeting m, const void *d_out_array, struct statistics s, struct gradients g, int tiles)
{
    __shared__ struct plain_tiles t;
    struct plain_place at = place_of(tiles);
    if (m.threshold != 0)
        dropout_at_moment(&m.dropout);
    int size = static_cast<int>(m.desc.head_size);
    int last_query = (at.first + TILE < m.query.count ? at.first + TILE : m.query.count) - 1, keys = keys_seen(m, last_query);
    vectors<const T> query = queries_of<T>(m, at.head).from(at.first), key = keys_of<T>(m, at.head),
                     value = values_of<T>(m, at.head);
    vectors<const T> d_out = vectors_of(m.desc, at.head, static_cast<const T *>(d_out_array), m.query, 1, 0).from(at.first);
    uint64_t first = dropout_first(m, at.head);
    for (int from = 0; from < size; from += TILE) {
        square d_query, c, dp;
        clear(d_query);
        for (int k = 0; k < keys; k += TILE) {
            products(c, &t, query, key.from(k), size, at);
            products(dp, &t, d_out, value.from(k), size, at);
            turn_gradients(c, dp, m, s, first, at.head, at.first + at.row, k + at.column);
            keep_scores(&t, dp, true, at);
            add_products(d_query, &t, key.from(k), from, size, at);
        }
        put_tile<T>(g.d_query, m.query, g.add ? 1 : 3, 0, m, g.add, d_query, m.scale, from, at);
    }
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    plain_backward_key(struct meeting m, const void *d_out_array, struct statistics s, struct gradients g, int tiles)
{
    __shared__ struct plain_tiles t;
    struct plain_place at = place_of(tiles);
    if (m.threshold != 0)
        dropout_at_moment(&m.dropout);
    int size = static_cast<int>(m.desc.head_size);
    int begin = at.first > m.shift ? (at.first - m.shift) / TILE * TILE : 0; /* the first queries that see any of the keys */
    vectors<const T> query = queries_of<T>(m, at.head),
                     d_out = vectors_of(m.desc, at.head, static_cast<const T *>(d_out_array), m.query, 1, 0);
    vectors<const T> key = keys_of<T>(m, at.head).from(at.first), value = values_of<T>(m, at.head).from(at.first);
    uint64_t first = dropout_first(m, at.head);
    for (int from = 0; from < size; from += TILE) {
        square d_key, d_value, c, dp;
        clear(d_key);
        clear(d_value);
        for (int q = begin; q < m.query.count; q += TILE) {
            products(c, &t, query.from(q), key, size, at);
            products(dp, &t, d_out.from(q), value, size, at);
            turn_gradients(c, dp, m, s, first, at.head, q + at.row, at.first + at.column);
            keep_scores(&t, c, false, at);
            add_products(d_value, &t, d_out.from(q), from, size, at);
            keep_scores(&t, dp, false, at);
            add_products(d_key, &t, query.from(q), from, size, at);
        }
        put_tile<T>(g.d_kv, m.key, m.key_parts, m.key_parts - 2, m, g.add, d_key, m.scale, from, at);
        put_tile<T>(g.d_kv, m.key, m.key_parts, m.key_parts - 1, m, g.add, d_value, 1, from, at);
    }
}

/* One block for each tile of COUNT columns of each head. */
static dim3 grid_of(const struct meeting *m, int tiles)
{
    return dim3(static_cast<unsigned>(tiles * m->desc.batch * m->desc.heads));
}

void attention_plain_forward(struct cuda *cuda, const struct meeting *m, const struct forward_results *r)
{
    int tiles = static_cast<int>(blocks_of(m->query.count, TILE));
    launch(cuda, "attention", cuda->base.act == DTYPE_BF16 ? plain_forward<bf16> : plain_forward<float>, grid_of(m, tiles),
           dim3(THREADS), 0, *m, *r, tiles);
}

void attention_plain_backward(struct cuda *cuda, const struct meeting *m, const void *d_out, const struct statistics *s,
                              const struct gradients *g)
{
    int tiles = static_cast<int>(blocks_of(m->key.count, TILE));
    bool narrow = cuda->base.act == DTYPE_BF16;
    launch(cuda, "the gradients of attention's keys", narrow ? plain_backward_key<bf16> : plain_backward_key<float>,
           grid_of(m, tiles), dim3(THREADS), 0, *m, d_out, *s, *g, tiles);
    tiles = static_cast<int>(blocks_of(m->query.count, TILE));
    launch(cuda, "the gradients of attention's queries", narrow ? plain_backward_query<bf16> : plain_backward_query<float>,
           grid_of(m, tiles), dim3(THREADS), 0, *m, d_out, *s, *g, tiles);
}
