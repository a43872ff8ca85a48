/* Attention, one head of one sequence after the other, each by one thread. A block of queries at a time meets all keys up
 * to its last: their scores stay in the cache and are never in memory for the whole batch, as in Dao et al.,
 * "FlashAttention" (arXiv 2205.14135), but with whole rows, so that nothing is scaled again. */
#include "kernels/cpu/attention.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/least.h"
#include "kernels/dropout.h"

static void attention_destroy(struct attention *a)
{
    if (a == NULL)
        return;
    memory_free(&a->cpu->base, a->memory, a->memory_bytes);
    free(a->threads);
    free(a);
}

static void divide_memory(struct attention *a)
{
    float *next = a->memory;
    for (int t = 0; t < a->cpu->base.threads; t++) {
        struct head_workspace *w = &a->threads[t];
        float **whole[] = {&w->query, &w->key, &w->value, &w->key_turned, &w->value_turned, &w->d_out, &w->d_key, &w->d_value};
        float **block[] = {&w->rows, &w->out}, **scores[] = {&w->scores, &w->gradients};
        for (size_t i = 0; i < sizeof whole / sizeof *whole; i++, next += a->columns * a->size)
            *whole[i] = next;
        for (size_t i = 0; i < sizeof block / sizeof *block; i++, next += QUERIES * a->size)
            *block[i] = next;
        for (size_t i = 0; i < sizeof scores / sizeof *scores; i++, next += QUERIES * a->columns)
            *scores[i] = next;
    }
}

static cairn_err attention_create(struct backend *b, const struct attention_desc *desc, struct attention **attention)
{
    *attention = NULL;
    struct attention *a = calloc(1, sizeof *a);
    if (a == NULL)
        return FAIL(CAIRN_ENOMEM, "no memory for attention's plan");
    a->cpu = cpu_of(b);
    a->desc = *desc;
    a->whole = (struct attention_piece){{1, {{0, desc->context}}}, {1, {{0, desc->context}}}};
    a->columns = cpu_pad(desc->columns > 0 ? desc->columns : desc->context);
    a->size = cpu_pad(desc->head_size);
    a->scale = (float)(1 / sqrt((double)desc->head_size));
    size_t floats = (size_t)(8 * a->columns * a->size + 2 * QUERIES * a->size + 2 * QUERIES * a->columns);
    a->memory_bytes = (size_t)b->threads * floats * sizeof(float);
    a->threads = calloc((size_t)b->threads, sizeof *a->threads);
    a->memory = memory_alloc(b, a->memory_bytes);
    if (a->threads == NULL || a->memory == NULL) {
        attention_destroy(a);
        return FAIL(CAIRN_ENOMEM, "no memory for attention's workspace");
    }
    divide_memory(a);
    *attention = a;
    return CAIRN_OK;
}

static struct vectors vectors_of(const struct attention_desc *d, int64_t number, int64_t columns, int parts, int part)
{
    int64_t b = number / d->heads, h = number % d->heads, all = d->heads * d->head_size;
    return (struct vectors){(b * columns * parts + part) * all + h * d->head_size, parts * all};
}

struct meeting attention_meeting(const struct attention *a, const struct attention_piece *piece, const struct dropout *dropout,
                                 const void *qkv, const void *kv)
{
    struct meeting m = {.a = a, .piece = piece, .dropout = dropout, .qkv = qkv, .kv = kv != NULL ? kv : qkv};
    m.queries = span_columns(&piece->query);
    while (m.begin < m.queries && span_seen(&piece->key, span_position(&piece->query, m.begin)) == 0)
        m.begin++;
    if (m.begin < m.queries)
        m.keys = span_seen(&piece->key, span_position(&piece->query, m.queries - 1));
    m.stride = cpu_pad(m.keys);
    return m;
}

struct meeting attention_head(const struct meeting *all, int64_t number)
{
    struct meeting m = *all;
    const struct attention_desc *d = &m.a->desc;
    int parts = m.kv == m.qkv ? 3 : 2;
    int64_t keys = span_columns(&m.piece->key);
    m.w = &m.a->threads[omp_get_thread_num()];
    m.number = number;
    m.query = vectors_of(d, number, m.queries, 3, 0);
    m.key = vectors_of(d, number, keys, parts, parts - 2);
    m.value = vectors_of(d, number, keys, parts, parts - 1);
    m.out = vectors_of(d, number, m.queries, 1, 0);
    return m;
}

struct block attention_block(const struct meeting *m, int64_t first)
{
    int64_t rows = least(QUERIES, m->queries - first);
    int64_t keys = span_seen(&m->piece->key, span_position(&m->piece->query, first + rows - 1));
    return (struct block){first, rows, keys, cpu_pad(keys)};
}

int64_t attention_seen(const struct meeting *m, const struct block *k, int64_t r)
{
    return span_seen(&m->piece->key, span_position(&m->piece->query, k->first + r));
}

/* Vectors FIRST..END-1 of X to the same rows of TO. */
static void pack(const struct meeting *m, float *to, const void *x, struct vectors v, int64_t first, int64_t end)
{
    const struct attention *a = m->a;
    a->cpu->act->pack(to + first * a->size, a->size, cpu_at(a->cpu, x, v.first + first * v.stride), v.stride, end - first,
                      a->desc.head_size);
}

static void pack_turned(const struct meeting *m, float *to, const void *x, struct vectors v)
{
    const struct cpu *cpu = m->a->cpu;
    cpu->act->pack_transposed(to, m->stride, cpu_at(cpu, x, v.first), v.stride, m->keys, m->a->desc.head_size);
}

void attention_pack_forward(const struct meeting *m)
{
    pack(m, m->w->query, m->qkv, m->query, m->begin, m->queries);
    pack_turned(m, m->w->key_turned, m->kv, m->key);
    pack(m, m->w->value, m->kv, m->value, 0, m->keys);
}

void attention_pack_backward(const struct meeting *m, const void *d_out)
{
    const struct head_workspace *w = m->w;
    size_t bytes = (size_t)(m->keys * m->a->size) * sizeof(float);
    pack(m, w->query, m->qkv, m->query, m->begin, m->queries);
    pack(m, w->key, m->kv, m->key, 0, m->keys);
    pack_turned(m, w->key_turned, m->kv, m->key);
    pack_turned(m, w->value_turned, m->kv, m->value);
    pack(m, w->d_out, d_out, m->out, m->begin, m->queries);
    memset(w->d_key, 0, bytes);
    memset(w->d_value, 0, bytes);
}

void attention_unpack(const struct meeting *m, void *x, struct vectors v, int64_t first, const float *from, int64_t count)
{
    const struct attention *a = m->a;
    a->cpu->act->unpack(cpu_at_mutable(a->cpu, x, v.first + first * v.stride), v.stride, from, a->size, count, a->desc.head_size);
}

static void multiply(const struct meeting *m, const struct small_product *p)
{
    m->a->cpu->loops.product(p);
}

/* C = A, the block's rows of queries or of d_out, by keys or values TURNED. */
static void multiply_turned(const struct meeting *m, const struct block *k, float *c, const float *a, const float *turned)
{
    multiply(m, &(struct small_product){.c = c, .ldc = m->stride, .a = a + k->first * m->a->size, .a_row = m->a->size, .a_column = 1,
                                        .b = turned, .ldb = m->stride, .m = k->rows, .n = k->padded_keys, .k = m->a->desc.head_size});
}

/* w->out = A, of scores' form, by keys or values. */
static void multiply_rows(const struct meeting *m, const struct block *k, const float *a, const float *b)
{
    multiply(m, &(struct small_product){.c = m->w->out, .ldc = m->a->size, .a = a, .a_row = m->stride, .a_column = 1, .b = b,
                                        .ldb = m->a->size, .m = k->rows, .n = m->a->size, .k = k->keys});
}

/* C += the transpose of A, of scores' form, by the block's rows of queries or of d_out. */
static void add_transposed(const struct meeting *m, const struct block *k, float *c, const float *a, const float *b)
{
    multiply(m, &(struct small_product){.c = c, .ldc = m->a->size, .a = a, .a_row = 1, .a_column = m->stride,
                                        .b = b + k->first * m->a->size, .ldb = m->a->size, .m = k->keys, .n = m->a->size,
                                        .k = k->rows, .accumulate = true});
}

void attention_scores(const struct meeting *m, const struct block *k)
{
    multiply_turned(m, k, m->w->scores, m->w->query, m->w->key_turned);
}

void attention_values(const struct meeting *m, const struct block *k)
{
    multiply_rows(m, k, m->w->scores, m->w->value);
}

static void drop_row(const struct meeting *m, int64_t position, float *row)
{
    const struct attention_span *keys = &m->piece->key;
    uint64_t first = m->dropout->first + dropout_head(&m->a->desc, m->number) + (uint64_t)(position * m->a->desc.context);
    int64_t column = 0;
    for (int i = 0; i < keys->segments; i++) {
        m->a->cpu->loops.dropout_factors(row + column, row + column, segment_seen(keys, i, position), m->dropout,
                                         first + (uint64_t)keys->segment[i].position);
        column += keys->segment[i].length;
    }
}

void attention_drop(const struct meeting *m, const struct block *k, float *rows)
{
    if (m->dropout->rate == 0)
        return;
    for (int64_t r = 0; r < k->rows; r++)
        drop_row(m, span_position(&m->piece->query, k->first + r), rows + r * m->stride);
}

static void block_forward(const struct meeting *m, const struct block *k, float *log_sum)
{
    const struct attention *a = m->a;
    attention_scores(m, k);
    for (int64_t r = 0; r < k->rows; r++)
        log_sum[k->first + r] = a->cpu->loops.softmax(m->w->scores + r * m->stride, attention_seen(m, k, r), k->padded_keys, a->scale);
    attention_drop(m, k, m->w->scores);
    attention_values(m, k);
}

static void attention_forward(struct attention *a, void *out, void *log_sum, const void *qkv, const struct dropout *dropout)
{
    const struct meeting all = attention_meeting(a, &a->whole, dropout, qkv, NULL);
#pragma omp parallel for num_threads(a->cpu->base.threads) schedule(dynamic)
    for (int64_t number = 0; number < a->desc.batch * a->desc.heads; number++) {
        const struct meeting m = attention_head(&all, number);
        attention_pack_forward(&m);
        for (int64_t first = 0; first < m.queries; first += QUERIES) {
            struct block k = attention_block(&m, first);
            block_forward(&m, &k, (float *)log_sum + number * m.queries);
            attention_unpack(&m, out, m.out, first, m.w->out, k.rows);
        }
    }
}

/* The block's rows of probabilities' gradients, turned into scores' gradients; then probabilities as they met the values.
 * Uses that the sum over keys of p dp is d_out . out, dropped or not. */
static void block_score_gradients(const struct meeting *m, const struct block *k, const float *log_sum)
{
    const struct attention *a = m->a;
    const struct head_workspace *w = m->w;
    const struct cpu_loops *loops = &a->cpu->loops;
    attention_drop(m, k, w->gradients);
    for (int64_t r = 0; r < k->rows; r++) {
        int64_t query = k->first + r, seen = attention_seen(m, k, r);
        float *p = w->scores + r * m->stride, *dp = w->gradients + r * m->stride;
        float average = loops->dot(w->d_out + query * a->size, w->rows + r * a->size, a->size);
        loops->probabilities(p, seen, k->padded_keys, a->scale, log_sum[query]);
        loops->score_gradients(dp, p, dp, seen, k->padded_keys, a->scale, average);
    }
    attention_drop(m, k, w->scores);
}

void attention_block_backward(const struct meeting *m, const struct block *k, const void *out, const float *log_sum)
{
    const struct attention *a = m->a;
    const struct head_workspace *w = m->w;
    a->cpu->act->pack(w->rows, a->size, cpu_at(a->cpu, out, m->out.first + k->first * m->out.stride), m->out.stride, k->rows,
                      a->desc.head_size);
    attention_scores(m, k);
    multiply_turned(m, k, w->gradients, w->d_out, w->value_turned);
    block_score_gradients(m, k, log_sum);
    add_transposed(m, k, w->d_value, w->scores, w->d_out);
    add_transposed(m, k, w->d_key, w->gradients, w->query);
    multiply_rows(m, k, w->gradients, w->key);
}

static void attention_backward(struct attention *a, void *d_qkv, const void *d_out, const void *out, const void *qkv,
                               const void *log_sum, const struct dropout *dropout)
{
    const struct meeting all = attention_meeting(a, &a->whole, dropout, qkv, NULL);
#pragma omp parallel for num_threads(a->cpu->base.threads) schedule(dynamic)
    for (int64_t number = 0; number < a->desc.batch * a->desc.heads; number++) {
        const struct meeting m = attention_head(&all, number);
        attention_pack_backward(&m, d_out);
        for (int64_t first = 0; first < m.queries; first += QUERIES) {
            struct block k = attention_block(&m, first);
            attention_block_backward(&m, &k, out, (const float *)log_sum + number * m.queries);
            attention_unpack(&m, d_qkv, m.query, first, m.w->out, k.rows);
        }
        attention_unpack(&m, d_qkv, m.key, 0, m.w->d_key, m.keys);
        attention_unpack(&m, d_qkv, m.value, 0, m.w->d_value, m.keys);
    }
}

void attention_fill(struct backend_table *table)
{
    table->attention_create = attention_create;
    table->attention_forward = attention_forward;
    table->attention_backward = attention_backward;
    table->attention_destroy = attention_destroy;
}
