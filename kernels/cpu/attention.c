/* Attention, one head of one sequence after the other, each by one thread. A block of queries at a time meets all keys up
 * to its last: their scores stay in the cache and are never in memory for the whole batch, as in Dao et al.,
 * "FlashAttention" (arXiv 2205.14135), but with whole rows, so that nothing is scaled again. */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/least.h"
#include "kernels/cpu/cpu.h"
#include "kernels/dropout.h"

/* Queries of a block: a multiple of the product's rows (6); the scores of 24 x 1024 are a tenth of a second-level cache. */
enum { QUERIES = 24, PADDING = 16 };

/* One thread's workspace: matrices of floats, rows padded to lanes. */
struct head_workspace {
    float *query, *key, *value;         /* [context][size] */
    float *key_turned, *value_turned;   /* [size][context] */
    float *d_out, *d_key, *d_value;     /* [context][size] */
    float *rows;                        /* [QUERIES][size] */
    float *out;                         /* [QUERIES][size] */
    float *scores, *gradients;          /* [QUERIES][context] */
};

struct attention {
    struct cpu *cpu;
    struct attention_desc desc;
    int64_t context, size; /* padded */
    float scale;
    struct head_workspace *threads;
    float *memory;
    size_t memory_bytes;
};

static int64_t pad(int64_t n)
{
    return (n + PADDING - 1) / PADDING * PADDING;
}

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
        for (size_t i = 0; i < sizeof whole / sizeof *whole; i++, next += a->context * a->size)
            *whole[i] = next;
        for (size_t i = 0; i < sizeof block / sizeof *block; i++, next += QUERIES * a->size)
            *block[i] = next;
        for (size_t i = 0; i < sizeof scores / sizeof *scores; i++, next += QUERIES * a->context)
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
    a->context = pad(desc->context);
    a->size = pad(desc->head_size);
    a->scale = (float)(1 / sqrt((double)desc->head_size));
    size_t floats = (size_t)(8 * a->context * a->size + 2 * QUERIES * a->size + 2 * QUERIES * a->context);
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

/* One head of one sequence: where its vectors begin, and how far apart they are. */
struct head {
    int64_t number; /* b * heads + h */
    int64_t qkv, qkv_stride, qkv_part; /* elements */
    int64_t out, out_stride;
};

static struct head head_of(const struct attention_desc *d, int64_t number)
{
    int64_t b = number / d->heads, h = number % d->heads, all = d->heads * d->head_size;
    return (struct head){
        .number = number,
        .qkv = b * d->context * 3 * all + h * d->head_size,
        .qkv_stride = 3 * all,
        .qkv_part = all,
        .out = b * d->context * all + h * d->head_size,
        .out_stride = all,
    };
}

/* The queries of one block, and the keys that they see. */
struct block {
    int64_t first, rows, keys, padded_keys;
};

static struct block block_of(const struct attention *a, int64_t first)
{
    int64_t rows = least(QUERIES, a->desc.context - first);
    return (struct block){first, rows, first + rows, pad(first + rows)};
}

static void multiply(const struct attention *a, const struct small_product *p)
{
    a->cpu->loops.product(p);
}

static void apply_dropout(const struct attention *a, const struct head *head, const struct block *k, float *to, const float *from,
                          const struct dropout *dropout)
{
    for (int64_t r = 0; r < k->rows; r++) {
        int64_t query = k->first + r;
        uint64_t element = dropout_head(&a->desc, head->number) + (uint64_t)(query * a->desc.context);
        a->cpu->loops.dropout_factors(to + r * a->context, from + r * a->context, query + 1, dropout, dropout->first + element);
    }
}

static void block_forward(const struct attention *a, const struct head_workspace *w, const struct head *head, const struct block *k,
                          float *log_sum, const struct dropout *dropout)
{
    multiply(a, &(struct small_product){.c = w->scores, .ldc = a->context, .a = w->query + k->first * a->size, .a_row = a->size,
                                        .a_column = 1, .b = w->key_turned, .ldb = a->context, .m = k->rows, .n = k->padded_keys,
                                        .k = a->desc.head_size});
    for (int64_t r = 0; r < k->rows; r++)
        log_sum[k->first + r] = a->cpu->loops.softmax(w->scores + r * a->context, k->first + r + 1, k->padded_keys, a->scale);
    if (dropout->rate > 0)
        apply_dropout(a, head, k, w->scores, w->scores, dropout);
    multiply(a, &(struct small_product){.c = w->out, .ldc = a->size, .a = w->scores, .a_row = a->context, .a_column = 1,
                                        .b = w->value, .ldb = a->size, .m = k->rows, .n = a->size, .k = k->keys});
}

static void head_forward(const struct attention *a, const struct head_workspace *w, int64_t number, void *out, float *log_sum,
                         const void *qkv, const struct dropout *dropout)
{
    const struct cpu *cpu = a->cpu;
    const struct act_loops *act = cpu->act;
    struct head h = head_of(&a->desc, number);
    int64_t rows = a->desc.context, size = a->desc.head_size;
    act->pack(w->query, a->size, cpu_at(cpu, qkv, h.qkv), h.qkv_stride, rows, size);
    act->pack_transposed(w->key_turned, a->context, cpu_at(cpu, qkv, h.qkv + h.qkv_part), h.qkv_stride, rows, size);
    act->pack(w->value, a->size, cpu_at(cpu, qkv, h.qkv + 2 * h.qkv_part), h.qkv_stride, rows, size);
    for (int64_t first = 0; first < rows; first += QUERIES) {
        struct block k = block_of(a, first);
        block_forward(a, w, &h, &k, log_sum + number * rows, dropout);
        act->unpack(cpu_at_mutable(cpu, out, h.out + first * h.out_stride), h.out_stride, w->out, a->size, k.rows, size);
    }
}

static void attention_forward(struct attention *a, void *out, void *log_sum, const void *qkv, const struct dropout *dropout)
{
#pragma omp parallel for num_threads(a->cpu->base.threads) schedule(dynamic)
    for (int64_t number = 0; number < a->desc.batch * a->desc.heads; number++)
        head_forward(a, &a->threads[omp_get_thread_num()], number, out, log_sum, qkv, dropout);
}

/* The block's rows of probabilities' gradients, turned into scores' gradients; then probabilities as they met the values.
 * Uses that the sum over keys of p dp is d_out . out, dropped or not. */
static void block_score_gradients(const struct attention *a, const struct head_workspace *w, const struct head *head,
                                  const struct block *k, const float *log_sum, const struct dropout *dropout)
{
    const struct cpu_loops *loops = &a->cpu->loops;
    if (dropout->rate > 0)
        apply_dropout(a, head, k, w->gradients, w->gradients, dropout);
    for (int64_t r = 0; r < k->rows; r++) {
        int64_t query = k->first + r;
        float *p = w->scores + r * a->context, *dp = w->gradients + r * a->context;
        float average = loops->dot(w->d_out + query * a->size, w->rows + r * a->size, a->size);
        loops->probabilities(p, query + 1, k->padded_keys, a->scale, log_sum[query]);
        loops->score_gradients(dp, p, dp, query + 1, k->padded_keys, a->scale, average);
    }
    if (dropout->rate > 0)
        apply_dropout(a, head, k, w->scores, w->scores, dropout);
}

/* W->rows holds the block's rows of out. Adds to d_key and d_value; leaves d_query in W->out. */
static void block_backward(const struct attention *a, const struct head_workspace *w, const struct head *head, const struct block *k,
                           const float *log_sum, const struct dropout *dropout)
{
    int64_t size = a->desc.head_size;
    const float *query = w->query + k->first * a->size, *d_out = w->d_out + k->first * a->size;
    struct small_product scores = {.c = w->scores, .ldc = a->context, .a = query, .a_row = a->size, .a_column = 1,
                                   .b = w->key_turned, .ldb = a->context, .m = k->rows, .n = k->padded_keys, .k = size};
    multiply(a, &scores);
    scores.c = w->gradients;
    scores.a = d_out;
    scores.b = w->value_turned;
    multiply(a, &scores);
    block_score_gradients(a, w, head, k, log_sum, dropout);
    struct small_product keys = {.c = w->d_value, .ldc = a->size, .a = w->scores, .a_row = 1, .a_column = a->context, .b = d_out,
                                 .ldb = a->size, .m = k->keys, .n = a->size, .k = k->rows, .accumulate = true};
    multiply(a, &keys);
    keys.c = w->d_key;
    keys.a = w->gradients;
    keys.b = query;
    multiply(a, &keys);
    multiply(a, &(struct small_product){.c = w->out, .ldc = a->size, .a = w->gradients, .a_row = a->context, .a_column = 1,
                                        .b = w->key, .ldb = a->size, .m = k->rows, .n = a->size, .k = k->keys});
}

/* What the backward pass of one head reads, in the workspace's form. */
static void pack_head(const struct attention *a, const struct head_workspace *w, const struct head *h, const void *d_out,
                      const void *qkv)
{
    const struct cpu *cpu = a->cpu;
    const struct act_loops *act = cpu->act;
    int64_t rows = a->desc.context, size = a->desc.head_size;
    const void *key = cpu_at(cpu, qkv, h->qkv + h->qkv_part), *value = cpu_at(cpu, qkv, h->qkv + 2 * h->qkv_part);
    act->pack(w->query, a->size, cpu_at(cpu, qkv, h->qkv), h->qkv_stride, rows, size);
    act->pack(w->key, a->size, key, h->qkv_stride, rows, size);
    act->pack_transposed(w->key_turned, a->context, key, h->qkv_stride, rows, size);
    act->pack_transposed(w->value_turned, a->context, value, h->qkv_stride, rows, size);
    act->pack(w->d_out, a->size, cpu_at(cpu, d_out, h->out), h->out_stride, rows, size);
    memset(w->d_key, 0, (size_t)(rows * a->size) * sizeof(float));
    memset(w->d_value, 0, (size_t)(rows * a->size) * sizeof(float));
}

static void head_backward(const struct attention *a, const struct head_workspace *w, int64_t number, void *d_qkv, const void *d_out,
                          const void *out, const void *qkv, const float *log_sum, const struct dropout *dropout)
{
    const struct cpu *cpu = a->cpu;
    const struct act_loops *act = cpu->act;
    struct head h = head_of(&a->desc, number);
    int64_t rows = a->desc.context, size = a->desc.head_size;
    pack_head(a, w, &h, d_out, qkv);
    for (int64_t first = 0; first < rows; first += QUERIES) {
        struct block k = block_of(a, first);
        act->pack(w->rows, a->size, cpu_at(cpu, out, h.out + first * h.out_stride), h.out_stride, k.rows, size);
        block_backward(a, w, &h, &k, log_sum + number * rows, dropout);
        act->unpack(cpu_at_mutable(cpu, d_qkv, h.qkv + first * h.qkv_stride), h.qkv_stride, w->out, a->size, k.rows, size);
    }
    act->unpack(cpu_at_mutable(cpu, d_qkv, h.qkv + h.qkv_part), h.qkv_stride, w->d_key, a->size, rows, size);
    act->unpack(cpu_at_mutable(cpu, d_qkv, h.qkv + 2 * h.qkv_part), h.qkv_stride, w->d_value, a->size, rows, size);
}

static void attention_backward(struct attention *a, void *d_qkv, const void *d_out, const void *out, const void *qkv,
                               const void *log_sum, const struct dropout *dropout)
{
#pragma omp parallel for num_threads(a->cpu->base.threads) schedule(dynamic)
    for (int64_t number = 0; number < a->desc.batch * a->desc.heads; number++)
        head_backward(a, &a->threads[omp_get_thread_num()], number, d_qkv, d_out, out, qkv, log_sum, dropout);
}

void attention_fill(struct backend_table *table)
{
    table->attention_create = attention_create;
    table->attention_forward = attention_forward;
    table->attention_backward = attention_backward;
    table->attention_destroy = attention_destroy;
}
