/* Attention where sequences are split: queries meet keys and values piece by piece, with a running softmax. Each block of
 * queries takes a piece's keys at once, so that its sums so far are scaled again once a piece, not once a block of keys. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/attention.h"

static void attention_keys_values(struct attention *a, void *kv, const void *qkv, int64_t columns)
{
    const struct cpu *cpu = a->cpu;
    int64_t width = a->desc.heads * a->desc.head_size;
    size_t bytes = (size_t)(2 * width) * dtype_size(cpu->base.act);
#pragma omp parallel for num_threads(cpu->base.threads) schedule(static)
    for (int64_t r = 0; r < a->desc.batch * columns; r++)
        memcpy(cpu_at_mutable(cpu, kv, 2 * r * width), cpu_at(cpu, qkv, (3 * r + 1) * width), bytes);
}

/* ---- forward ---- */

static void attention_pieces_begin(struct attention *a, void *running, int64_t columns)
{
    int64_t size = a->desc.head_size;
#pragma omp parallel for num_threads(a->cpu->base.threads) schedule(static)
    for (int64_t r = 0; r < a->desc.batch * a->desc.heads * columns; r++) {
        float *row = (float *)running + r * (size + 2);
        memset(row, 0, (size_t)(size + 2) * sizeof *row);
        row[size] = -INFINITY;
    }
}

/* The block's scores to weights, and what the block's sums so far are to be multiplied by. RUNNING is the block's. */
static void block_weights(const struct meeting *m, const struct block *k, float *running, float *factors)
{
    const struct attention *a = m->a;
    int64_t size = a->desc.head_size;
    for (int64_t r = 0; r < k->rows; r++) {
        float *row = running + r * (size + 2);
        struct running_sum run = {row[size], row[size + 1]};
        factors[r] = a->cpu->loops.exponentials(m->w->scores + r * m->stride, attention_seen(m, k, r), k->padded_keys, a->scale, &run);
        row[size] = run.greatest;
        row[size + 1] = run.sum;
    }
}

static void block_forward(const struct meeting *m, const struct block *k, float *running)
{
    int64_t size = m->a->desc.head_size;
    float factors[QUERIES];
    attention_scores(m, k);
    block_weights(m, k, running, factors);
    attention_drop(m, k, m->w->scores);
    attention_values(m, k);
    for (int64_t r = 0; r < k->rows; r++)
        m->a->cpu->loops.scale_add(running + r * (size + 2), factors[r], m->w->out + r * m->a->size, size);
}

static void attention_piece_forward(struct attention *a, void *running, const void *qkv, const void *kv,
                                    const struct attention_piece *piece, const struct dropout *dropout)
{
    const struct meeting all = attention_meeting(a, piece, dropout, qkv, kv);
    if (all.keys == 0)
        return;
#pragma omp parallel for num_threads(a->cpu->base.threads) schedule(dynamic)
    for (int64_t number = 0; number < a->desc.batch * a->desc.heads; number++) {
        const struct meeting m = attention_head(&all, number);
        attention_pack_forward(&m);
        for (int64_t first = m.begin; first < m.queries; first += QUERIES) {
            struct block k = attention_block(&m, first);
            block_forward(&m, &k, (float *)running + (number * m.queries + first) * (a->desc.head_size + 2));
        }
    }
}

static void attention_pieces_end(struct attention *a, void *out, void *log_sum, const void *running, int64_t columns)
{
    const struct cpu *cpu = a->cpu;
    int64_t heads = a->desc.heads, size = a->desc.head_size;
#pragma omp parallel for num_threads(cpu->base.threads) schedule(static)
    for (int64_t number = 0; number < a->desc.batch * heads; number++) {
        for (int64_t column = 0; column < columns; column++) {
            const float *row = (const float *)running + (number * columns + column) * (size + 2);
            int64_t at = ((number / heads * columns + column) * heads + number % heads) * size;
            cpu->act->from_float_scaled(cpu_at_mutable(cpu, out, at), row, 1 / row[size + 1], size);
            ((float *)log_sum)[number * columns + column] = row[size] + logf(row[size + 1]);
        }
    }
}

/* ---- backward ---- */

static void attention_pieces_backward_begin(struct attention *a, void *d_query, void *d_kv, int64_t columns)
{
    int64_t width = a->desc.heads * a->desc.head_size;
    size_t bytes = (size_t)width * sizeof(float);
#pragma omp parallel for num_threads(a->cpu->base.threads) schedule(static)
    for (int64_t r = 0; r < a->desc.batch * columns; r++) {
        memset((float *)d_query + r * width, 0, bytes);
        memset((float *)d_kv + 2 * r * width, 0, 2 * bytes);
    }
}

/* Adds COUNT rows of the workspace to the head's vectors FIRST.. of SUM. */
static void add_rows(const struct meeting *m, float *sum, struct vectors v, int64_t first, const float *rows, int64_t count)
{
    for (int64_t r = 0; r < count; r++) {
        float *at = sum + v.first + (first + r) * v.stride;
        m->a->cpu->loops.add(at, at, rows + r * m->a->size, m->a->desc.head_size);
    }
}

static void attention_piece_backward(struct attention *a, void *d_query, void *d_kv, const void *d_out, const void *out,
                                     const void *qkv, const void *kv, const void *log_sum, const struct attention_piece *piece,
                                     const struct dropout *dropout)
{
    const struct meeting all = attention_meeting(a, piece, dropout, qkv, kv);
    if (all.keys == 0)
        return;
#pragma omp parallel for num_threads(a->cpu->base.threads) schedule(dynamic)
    for (int64_t number = 0; number < a->desc.batch * a->desc.heads; number++) {
        const struct meeting m = attention_head(&all, number);
        attention_pack_backward(&m, d_out);
        for (int64_t first = m.begin; first < m.queries; first += QUERIES) {
            struct block k = attention_block(&m, first);
            attention_block_backward(&m, &k, out, (const float *)log_sum + number * m.queries);
            add_rows(&m, d_query, m.out, first, m.w->out, k.rows);
        }
        add_rows(&m, d_kv, m.key, 0, m.w->d_key, m.keys);
        add_rows(&m, d_kv, m.value, 0, m.w->d_value, m.keys);
    }
}

static void attention_pieces_backward_end(struct attention *a, void *d_qkv, const void *d_query, const void *d_kv, int64_t columns)
{
    const struct cpu *cpu = a->cpu;
    int64_t width = a->desc.heads * a->desc.head_size;
#pragma omp parallel for num_threads(cpu->base.threads) schedule(static)
    for (int64_t r = 0; r < a->desc.batch * columns; r++) {
        cpu->act->from_float(cpu_at_mutable(cpu, d_qkv, 3 * r * width), (const float *)d_query + r * width, width);
        cpu->act->from_float(cpu_at_mutable(cpu, d_qkv, (3 * r + 1) * width), (const float *)d_kv + 2 * r * width, 2 * width);
    }
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
