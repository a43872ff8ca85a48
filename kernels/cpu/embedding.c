#include <string.h>

#include "kernels/cpu/cpu.h"

/* Columns summed at once on the stack. */
enum { COLUMNS = 1024 };

static void embedding_forward(struct backend *b, void *y, const int32_t *tokens, const void *token_table, const void *position_table,
                              int64_t rows, int64_t context, int64_t width)
{
    struct cpu *cpu = cpu_of(b);
#pragma omp parallel for num_threads(b->threads) schedule(static)
    for (int64_t r = 0; r < rows; r++)
        cpu->act->add_rows(cpu_at_mutable(cpu, y, r * width), cpu_at(cpu, token_table, tokens[r] * width),
                           cpu_at(cpu, position_table, r % context * width), width);
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

/* A token's first row finds the others by comparing: rows^2 / 2 comparisons of 4 bytes, some thousandths of the products
 * over the same rows, need no memory, no sorting and no agreement between threads. */
static void embedding_backward(struct backend *b, void *d_token, void *d_position, const void *dy, const int32_t *tokens, int64_t rows,
                               int64_t context, int64_t width, int64_t vocabulary)
{
    (void)vocabulary;
    struct cpu *cpu = cpu_of(b);
#pragma omp parallel num_threads(b->threads)
    {
#pragma omp for schedule(static) nowait
        for (int64_t p = 0; p < context; p++) {
            float *sum = (float *)d_position + p * width;
            memset(sum, 0, (size_t)width * sizeof *sum);
            for (int64_t r = p; r < rows; r += context)
                cpu->act->accumulate(sum, cpu_at(cpu, dy, r * width), width);
        }
#pragma omp for schedule(dynamic, 8)
        for (int64_t r = 0; r < rows; r++)
            if (!occurs_before(tokens, r))
                add_token_rows(cpu, (float *)d_token + tokens[r] * width, dy, tokens, r, rows, width);
    }
}

void embedding_fill(struct backend_table *table)
{
    table->embedding_forward = embedding_forward;
    table->embedding_backward = embedding_backward;
}
