#include "base/least.h"
#include "kernels/cpu/cpu.h"

/* Rows of one piece of work, and columns below which a column sum is not split further: one cache line of bfloat16. */
enum { ROWS = 16, COLUMNS = 32 };

static void layer_norm_forward(struct backend *b, void *y, void *mean, void *rstd, const void *x, const void *gain, const void *bias,
                               int64_t rows, int64_t width, double epsilon)
{
    struct cpu *cpu = cpu_of(b);
#pragma omp parallel for num_threads(b->threads) schedule(static)
    for (int64_t r = 0; r < rows; r += ROWS)
        cpu->act->layer_norm_forward(cpu_at_mutable(cpu, y, r * width), (float *)mean + r, (float *)rstd + r,
                                     cpu_at(cpu, x, r * width), gain, bias, least(ROWS, rows - r), width, (float)epsilon);
}

static void layer_norm_backward_input(struct backend *b, void *dx, const void *dy, const void *x, const void *gain, const void *mean,
                                      const void *rstd, int64_t rows, int64_t width, bool add_to_dx)
{
    struct cpu *cpu = cpu_of(b);
#pragma omp parallel for num_threads(b->threads) schedule(static)
    for (int64_t r = 0; r < rows; r += ROWS)
        cpu->act->layer_norm_backward_input(cpu_at_mutable(cpu, dx, r * width), cpu_at(cpu, dy, r * width),
                                            cpu_at(cpu, x, r * width), gain, (const float *)mean + r, (const float *)rstd + r,
                                            least(ROWS, rows - r), width, add_to_dx);
}

/* Each thread takes a strip of columns and walks down all rows: a column's sum has one order, whoever takes it. */
static void column_sums(struct cpu *cpu, float *d_bias, float *d_gain, const void *dy, const void *x, const float *mean,
                        const float *rstd, int64_t rows, int64_t width)
{
    int64_t threads = cpu->base.threads;
    int64_t strip = ((width + threads - 1) / threads + COLUMNS - 1) / COLUMNS * COLUMNS;
#pragma omp parallel for num_threads(cpu->base.threads) schedule(static)
    for (int64_t begin = 0; begin < width; begin += strip)
        cpu->act->column_sums(d_bias, d_gain, dy, x, mean, rstd, rows, width, begin, least(begin + strip, width));
}

static void layer_norm_backward_weight(struct backend *b, void *d_gain, void *d_bias, const void *dy, const void *x, const void *mean,
                                       const void *rstd, int64_t rows, int64_t width)
{
    column_sums(cpu_of(b), d_bias, d_gain, dy, x, mean, rstd, rows, width);
}

static void rms_norm_forward(struct backend *b, void *y, void *rstd, const void *x, const void *gain, int64_t rows, int64_t width,
                             double epsilon)
{
    struct cpu *cpu = cpu_of(b);
#pragma omp parallel for num_threads(b->threads) schedule(static)
    for (int64_t r = 0; r < rows; r += ROWS)
        cpu->act->rms_norm_forward(cpu_at_mutable(cpu, y, r * width), (float *)rstd + r, cpu_at(cpu, x, r * width), gain,
                                   least(ROWS, rows - r), width, (float)epsilon);
}

static void rms_norm_backward_input(struct backend *b, void *dx, const void *dy, const void *x, const void *gain, const void *rstd,
                                    int64_t rows, int64_t width, bool add_to_dx)
{
    struct cpu *cpu = cpu_of(b);
#pragma omp parallel for num_threads(b->threads) schedule(static)
    for (int64_t r = 0; r < rows; r += ROWS)
        cpu->act->rms_norm_backward_input(cpu_at_mutable(cpu, dx, r * width), cpu_at(cpu, dy, r * width), cpu_at(cpu, x, r * width),
                                          gain, (const float *)rstd + r, least(ROWS, rows - r), width, add_to_dx);
}

static void rms_norm_backward_weight(struct backend *b, void *d_gain, const void *dy, const void *x, const void *rstd, int64_t rows,
                                     int64_t width)
{
    column_sums(cpu_of(b), NULL, d_gain, dy, x, NULL, rstd, rows, width);
}

static void bias_backward(struct backend *b, void *d_bias, const void *dy, int64_t rows, int64_t width)
{
    column_sums(cpu_of(b), d_bias, NULL, dy, NULL, NULL, NULL, rows, width);
}

void norm_fill(struct backend_table *table)
{
    table->layer_norm_forward = layer_norm_forward;
    table->layer_norm_backward_input = layer_norm_backward_input;
    table->layer_norm_backward_weight = layer_norm_backward_weight;
    table->rms_norm_forward = rms_norm_forward;
    table->rms_norm_backward_input = rms_norm_backward_input;
    table->rms_norm_backward_weight = rms_norm_backward_weight;
    table->bias_backward = bias_backward;
}
