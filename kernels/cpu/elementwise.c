#include "base/least.h"
#include "kernels/cpu/cpu.h"

/* Elements of one piece: a few times what a thread costs to hand over, and a multiple of all lanes' and random words'
 * counts, so that the pieces' ends change no result. */
enum { PIECE = 1 << 14 };

/* Runs the statement BODY for each piece, with AT its first element and COUNT how many it has. */
#define FOR_PIECES(cpu, n, at, count, body)                                                                        \
    do {                                                                                                           \
        _Pragma("omp parallel for num_threads((cpu)->base.threads) schedule(static) if ((n) > PIECE)")             \
        for (int64_t at = 0; at < (n); at += PIECE) {                                                              \
            int64_t count = (n) - at < PIECE ? (n) - at : PIECE;                                                   \
            body;                                                                                                  \
        }                                                                                                          \
    } while (0)

static void gelu_forward(struct backend *b, void *y, const void *x, int64_t n)
{
    struct cpu *cpu = cpu_of(b);
    FOR_PIECES(cpu, n, at, count, cpu->act->gelu_forward(cpu_at_mutable(cpu, y, at), cpu_at(cpu, x, at), count));
}

static void gelu_backward(struct backend *b, void *dx, const void *dy, const void *x, int64_t n)
{
    struct cpu *cpu = cpu_of(b);
    FOR_PIECES(cpu, n, at, count,
               cpu->act->gelu_backward(cpu_at_mutable(cpu, dx, at), cpu_at(cpu, dy, at), cpu_at(cpu, x, at), count));
}

/* Rows of one piece. */
static int64_t rows_of_piece(int64_t width)
{
    return width < PIECE ? PIECE / width : 1;
}

static void swiglu_forward(struct backend *b, void *y, const void *x, int64_t rows, int64_t width)
{
    struct cpu *cpu = cpu_of(b);
    int64_t some = rows_of_piece(width);
#pragma omp parallel for num_threads(b->threads) schedule(static) if (rows > some)
    for (int64_t r = 0; r < rows; r += some)
        cpu->act->swiglu_forward(cpu_at_mutable(cpu, y, r * width), cpu_at(cpu, x, 2 * r * width), least(some, rows - r), width);
}

static void swiglu_backward(struct backend *b, void *dx, const void *dy, const void *x, int64_t rows, int64_t width)
{
    struct cpu *cpu = cpu_of(b);
    int64_t some = rows_of_piece(width);
#pragma omp parallel for num_threads(b->threads) schedule(static) if (rows > some)
    for (int64_t r = 0; r < rows; r += some)
        cpu->act->swiglu_backward(cpu_at_mutable(cpu, dx, 2 * r * width), cpu_at(cpu, dy, r * width), cpu_at(cpu, x, 2 * r * width),
                                  least(some, rows - r), width);
}

static void add_dropout_forward(struct backend *b, void *y, const void *x, const void *h, int64_t n, const struct dropout *d)
{
    struct cpu *cpu = cpu_of(b);
    FOR_PIECES(cpu, n, at, count,
               cpu->act->add_dropout(cpu_at_mutable(cpu, y, at), x != NULL ? cpu_at(cpu, x, at) : NULL, cpu_at(cpu, h, at), count,
                                     d, d->first + (uint64_t)at));
}

static void dropout_backward(struct backend *b, void *dh, const void *dy, int64_t n, const struct dropout *d)
{
    add_dropout_forward(b, dh, NULL, dy, n, d);
}

static void add(struct backend *backend, void *sum_, const void *a_, const void *b_, int64_t n)
{
    struct cpu *cpu = cpu_of(backend);
    float *sum = sum_;
    const float *a = a_, *b = b_;
    FOR_PIECES(cpu, n, at, count, cpu->loops.add(sum + at, a + at, b + at, count));
}

static void add_act(struct backend *backend, void *sum, const void *a, const void *b, int64_t n)
{
    struct cpu *cpu = cpu_of(backend);
    FOR_PIECES(cpu, n, at, count,
               cpu->act->add_rows(cpu_at_mutable(cpu, sum, at), cpu_at(cpu, a, at), cpu_at(cpu, b, at), count));
}

static void sum_squares_of(struct cpu *cpu, double *sums, const float *x, int64_t n)
{
#pragma omp parallel for num_threads(cpu->base.threads) schedule(static)
    for (int64_t at = 0; at < n; at += NORM_CHUNK)
        sums[at / NORM_CHUNK] = cpu->loops.sum_squares(x + at, n - at < NORM_CHUNK ? n - at : NORM_CHUNK);
}

static void sum_squares(struct backend *b, const struct squares_run *runs, int count)
{
    for (int i = 0; i < count; i++)
        sum_squares_of(cpu_of(b), runs[i].sums, runs[i].x, runs[i].n);
}

/* Elements AT.., COUNT of them. */
static struct adamw_run part_of_run(const struct cpu *cpu, const struct adamw_run *r, int64_t at, int64_t count)
{
    struct adamw_run part = *r;
    part.master = (float *)r->master + at;
    part.moment1 = (float *)r->moment1 + at;
    part.moment2 = (float *)r->moment2 + at;
    part.gradient = (const float *)r->gradient + at;
    part.compute = cpu->half && r->compute != NULL ? (uint16_t *)r->compute + at : NULL;
    part.n = count;
    part.first += (uint64_t)at;
    return part;
}

static void update_run(struct cpu *cpu, const struct adamw_run *r, const struct adamw *options)
{
    int64_t n = r->n;
    FOR_PIECES(cpu, n, at, count, {
        const struct adamw_run part = part_of_run(cpu, r, at, count);
        cpu->loops.adamw(&part, options);
    });
}

static void adamw(struct backend *b, const struct adamw_run *runs, int count, const struct adamw *options)
{
    for (int i = 0; i < count; i++)
        update_run(cpu_of(b), &runs[i], options);
}

static void round_run(struct cpu *cpu, const struct adamw_run *r, bool stochastic, int64_t step)
{
    const float *master = r->master;
    int64_t n = r->n;
    if (stochastic && cpu->half)
        FOR_PIECES(cpu, n, at, count,
                   cpu->loops.round_stochastically((uint16_t *)r->compute + at, master + at, count, r->key, (uint64_t)step,
                                                   r->first + (uint64_t)at));
    else
        FOR_PIECES(cpu, n, at, count, cpu->act->from_float(cpu_at_mutable(cpu, r->compute, at), master + at, count));
}

static void round_weights(struct backend *b, const struct adamw_run *runs, int count, bool stochastic, int64_t step)
{
    for (int i = 0; i < count; i++)
        if (runs[i].compute != NULL)
            round_run(cpu_of(b), &runs[i], stochastic, step);
}

void elementwise_fill(struct backend_table *table)
{
    table->gelu_forward = gelu_forward;
    table->gelu_backward = gelu_backward;
    table->swiglu_forward = swiglu_forward;
    table->swiglu_backward = swiglu_backward;
    table->add_dropout_forward = add_dropout_forward;
    table->dropout_backward = dropout_backward;
    table->add = add;
    table->add_act = add_act;
    table->sum_squares = sum_squares;
    table->adamw = adamw;
    table->round_weights = round_weights;
}
