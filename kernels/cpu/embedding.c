#include <string.h>

#include "kernels/cpu/cpu.h"

/* Columns summed at once on the stack. */
enum { COLUMNS = 1024 };

/* The token's row of the table, -1 where the table is without it. */
static int64_t table_row(const struct embedding_desc *d, int32_t token)
{
    int64_t row = token - d->token_first;
    return row >= 0 && row < d->token_count ? row : -1;
}

static int64_t position_of(const struct embedding_desc *d, int64_t column)
{
    return d->positions != NULL ? d->positions[column] : column;
}

static void embed_row(struct cpu *cpu, void *y, const void *token, const void *position, int64_t width)
{
    size_t bytes = dtype_size(cpu->base.act) * (size_t)width;
    if (token != NULL && position != NULL)
        cpu->act->add_rows(y, token, position, width);
    else if (token != NULL || position != NULL)
        memcpy(y, token != NULL ? token : position, bytes);
    else
        memset(y, 0, bytes);
}

static void embedding_forward(struct backend *b, void *y, const int32_t *tokens, const void *token_table, const void *position_table,
                              const struct embedding_desc *d)
{
    struct cpu *cpu = cpu_of(b);
#pragma omp parallel for num_threads(b->threads) schedule(static)
    for (int64_t r = 0; r < d->rows; r++) {
        int64_t row = table_row(d, tokens[r]);
        const void *token = row >= 0 ? cpu_at(cpu, token_table, row * d->width) : NULL, *position = NULL;
        if (position_table != NULL)
            position = cpu_at(cpu, position_table, position_of(d, r % d->context) * d->width);
        embed_row(cpu, cpu_at_mutable(cpu, y, r * d->width), token, position, d->width);
    }
}

static bool occurs_before(const int32_t *tokens, int64_t row)
{
    for (int64_t r = row - 1; r >= 0; r--)
        if (tokens[r] == tokens[row])
            return true;
    return false;
}

/* Adds to TARGET the sum of dy's rows of the token that occurs first in row FIRST, taken in their order. */
static void add_token_rows(struct cpu *cpu, float *target, const void *dy, const int32_t *tokens, int64_t first, int64_t rows,
                           int64_t width)
{
    float sum[COLUMNS];
    for (int64_t begin = 0; begin < width; begin += COLUMNS) {
        int64_t count = width - begin < COLUMNS ? width - begin : COLUMNS;
        memset(sum, 0, (size_t)count * sizeof *sum);
        for (int64_t r = first; r < rows; r++)
            if (tokens[r] == tokens[first])
                cpu->act->accumulate(sum, cpu_at(cpu, dy, r * width + begin), count);
        cpu->loops.add(target + begin, target + begin, sum, count);
    }
}

/* Called by all threads of a team. */
static void position_gradients(struct cpu *cpu, float *d_position, const void *dy, const struct embedding_desc *d)
{
#pragma omp for schedule(static)
    for (int64_t p = 0; p < d->position_count; p++)
        memset(d_position + p * d->width, 0, (size_t)d->width * sizeof *d_position);
#pragma omp for schedule(static) nowait
    for (int64_t column = 0; column < d->context; column++)
        for (int64_t r = column; r < d->rows; r += d->context)
            cpu->act->accumulate(d_position + position_of(d, column) * d->width, cpu_at(cpu, dy, r * d->width), d->width);
}

/* A token's first row finds the others by comparing: rows^2 / 2 comparisons of 4 bytes, some thousandths of the products
 * over the same rows, need no memory, no sorting and no agreement between threads. */
static void embedding_backward(struct backend *b, void *d_token, void *d_position, const void *dy, const int32_t *tokens,
                               const struct embedding_desc *d)
{
    struct cpu *cpu = cpu_of(b);
#pragma omp parallel num_threads(b->threads)
    {
        if (d_position != NULL)
            position_gradients(cpu, d_position, dy, d);
#pragma omp for schedule(dynamic, 8)
        for (int64_t r = 0; r < d->rows; r++) {
            int64_t row = table_row(d, tokens[r]);
            if (row >= 0 && !occurs_before(tokens, r))
                add_token_rows(cpu, (float *)d_token + row * d->width, dy, tokens, r, d->rows, d->width);
        }
    }
}

void embedding_fill(struct backend_table *table)
{
    table->embedding_forward = embedding_forward;
    table->embedding_backward = embedding_backward;
}
