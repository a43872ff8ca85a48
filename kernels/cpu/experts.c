/* Mixture of experts. The router's products are own loops, not the library's: which experts a row gets hangs on the bits of
 * its logits, and those may not depend on the number of threads. */
#include <float.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/least.h"
#include "kernels/cpu/cpu.h"

/* Rows of one piece of the logits: a multiple of the product's rows (6), few enough to stay in a second-level cache. */
enum { ROWS = 24 };
/* The weights' gradients are made in strips of so many columns, from so many rows at a time: 32 KiB of x. */
enum { STRIP = 64, STRIP_ROWS = 128 };

struct router {
    struct cpu *cpu;
    struct router_desc desc;
    int64_t experts, width;      /* padded */
    float *weight_turned;        /* [width][experts] */
    float *weight;               /* [experts][width] */
    float *probability_sums;     /* [experts] */
    float *threads;              /* workspaces of floats, thread_floats each */
    int64_t thread_floats;
    struct weighted_row *rows;   /* [threads][rows_stride] */
    int64_t rows_stride;         /* choices + 1, padded so that threads share no cache line */
    float *memory;
    size_t memory_bytes;
};

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static void router_destroy(struct router *router)
{
    if (router == NULL)
        return;
    memory_free(&router->cpu->base, router->memory, router->memory_bytes);
    free(router->rows);
    free(router);
}

static cairn_err create_workspace(struct router *router)
{
    const struct router_desc *d = &router->desc;
    int64_t threads = router->cpu->base.threads, weights = router->experts * router->width;
    router->thread_floats = most(ROWS * router->width + (ROWS + 1) * router->experts, (STRIP_ROWS + d->experts) * STRIP);
    router->memory_bytes = (size_t)(2 * weights + router->experts + threads * router->thread_floats) * sizeof(float);
    router->memory = memory_alloc(&router->cpu->base, router->memory_bytes);
    router->rows_stride = cpu_pad(d->choices + 1);
    router->rows = calloc((size_t)(threads * router->rows_stride), sizeof *router->rows);
    if (router->memory == NULL || router->rows == NULL)
        return FAIL(CAIRN_ENOMEM, "no memory for a router's workspace of %zu bytes", router->memory_bytes);
    router->weight_turned = router->memory;
    router->weight = router->weight_turned + weights;
    router->probability_sums = router->weight + weights;
    router->threads = router->probability_sums + router->experts;
    return CAIRN_OK;
}

static cairn_err router_create(struct backend *b, const struct router_desc *desc, struct router **out)
{
    *out = NULL;
    struct router *router = calloc(1, sizeof *router);
    if (router == NULL)
        return FAIL(CAIRN_ENOMEM, "no memory for a router's plan");
    router->cpu = cpu_of(b);
    router->desc = *desc;
    router->experts = cpu_pad(desc->experts);
    router->width = cpu_pad(desc->width);
    cairn_err err;
    TRY_GOTO(err, create_workspace(router), failed);
    *out = router;
    return CAIRN_OK;
failed:
    router_destroy(router);
    return err;
}

static float *thread_floats(const struct router *router)
{
    return router->threads + omp_get_thread_num() * router->thread_floats;
}

static struct weighted_row *thread_rows(const struct router *router)
{
    return router->rows + omp_get_thread_num() * router->rows_stride;
}

/* ---- the router ---- */

/* The greatest logit again and again, each taken out of LEFT, which has room for all. A NaN counts as the least number, so
 * that each row has all its choices. */
static void choose(const struct router_desc *d, int32_t *chosen, float *left, const float *logits)
{
    for (int64_t e = 0; e < d->experts; e++)
        left[e] = logits[e] >= -FLT_MAX ? logits[e] : -FLT_MAX;
    for (int64_t c = 0; c < d->choices; c++) {
        int64_t best = 0;
        for (int64_t e = 1; e < d->experts; e++)
            best = left[e] > left[best] ? e : best;
        left[best] = -INFINITY;
        chosen[c] = (int32_t)best;
    }
}

/* Row R, whose LOGITS, padded, become probabilities in place. Padding that counts nothing spares softmax a tail. */
static void route_row(const struct router *router, const struct routing *routing, float *logits, float *left, int64_t r)
{
    const struct router_desc *d = &router->desc;
    int32_t *chosen = routing->expert + r * d->choices;
    float *gate = (float *)routing->gate + r * d->choices, sum = 0;
    choose(d, chosen, left, logits);
    for (int64_t e = d->experts; e < router->experts; e++)
        logits[e] = -INFINITY;
    ((float *)routing->log_sum)[r] = router->cpu->loops.softmax(logits, router->experts, router->experts, 1);
    for (int64_t c = 0; c < d->choices; c++)
        sum += logits[chosen[c]];
    for (int64_t c = 0; c < d->choices; c++)
        gate[c] = d->choices > 1 ? logits[chosen[c]] / sum : logits[chosen[c]];
    memcpy((float *)routing->probability + r * d->experts, logits, (size_t)d->experts * sizeof *logits);
}

static void route_rows(const struct router *router, const struct routing *routing, const void *x, int64_t first, int64_t rows)
{
    const struct router_desc *d = &router->desc;
    struct cpu *cpu = router->cpu;
    float *logits = thread_floats(router), *left = logits + ROWS * router->experts, *wide = left + router->experts;
    if (cpu->half)
        cpu->act->to_float(wide, cpu_at(cpu, x, first * d->width), rows * d->width);
    struct small_product p = {
        .c = logits, .ldc = router->experts, .m = rows,
        .a = cpu->half ? wide : (const float *)x + first * d->width, .a_row = d->width, .a_column = 1, .k = d->width,
        .b = router->weight_turned, .ldb = router->experts, .n = router->experts,
    };
    cpu->loops.product(&p);
    for (int64_t r = 0; r < rows; r++)
        route_row(router, routing, logits + r * router->experts, left, first + r);
}

static void find_losses(struct router *router, const struct routing *routing)
{
    const struct router_desc *d = &router->desc;
    const float *log_sum = routing->log_sum;
    double balance = 0, z = 0, rows = (double)router_rows_all(d);
    router->cpu->loops.act[0].column_sums(router->probability_sums, NULL, routing->probability, NULL, NULL, NULL, d->rows,
                                          d->experts, 0, d->experts);
    for (int64_t e = 0; e < d->experts; e++)
        balance += (double)routing->load[e] / (rows * (double)d->choices) * ((double)router->probability_sums[e] / rows);
    for (int64_t r = 0; r < d->rows; r++)
        z += (double)log_sum[r] * (double)log_sum[r];
    ((float *)routing->losses)[0] = (float)((double)d->experts * balance);
    ((float *)routing->losses)[1] = (float)(z / rows);
}

static void router_forward(struct router *router, const struct routing *routing, const void *x, const void *weight)
{
    const struct router_desc *d = &router->desc;
    router->cpu->act->pack_transposed(router->weight_turned, router->experts, weight, d->width, d->experts, d->width);
#pragma omp parallel for num_threads(router->cpu->base.threads) schedule(static)
    for (int64_t r = 0; r < d->rows; r += ROWS)
        route_rows(router, routing, x, r, least(ROWS, d->rows - r));
}

static void router_place(struct router *router, const struct routing *routing, const int32_t *most)
{
    routing_place(&router->desc, routing, most);
    find_losses(router, routing);
}

/* Of the softmax over the chosen for several choices, of all for one, whose gate is a probability itself. */
static void add_gate_gradients(const struct router_desc *d, float *d_logits, const float *d_gate, const struct routing *routing,
                               int64_t r)
{
    const int32_t *chosen = routing->expert + r * d->choices;
    const float *gate = (const float *)routing->gate + r * d->choices, *p = (const float *)routing->probability + r * d->experts;
    float average = 0;
    for (int64_t c = 0; c < d->choices; c++)
        average += gate[c] * d_gate[c];
    if (d->choices == 1) {
        for (int64_t e = 0; e < d->experts; e++)
            d_logits[e] -= p[e] * average;
        d_logits[chosen[0]] += average;
        return;
    }
    for (int64_t c = 0; c < d->choices; c++)
        d_logits[chosen[c]] += gate[c] * (d_gate[c] - average);
}

static void row_logits_backward(const struct router_desc *d, float *d_logits, const float *d_gate, const struct routing *routing,
                                const struct router_scales *scales, int64_t r)
{
    const float *p = (const float *)routing->probability + r * d->experts;
    float rows = (float)router_rows_all(d), average = 0;
    float per_load = (float)scales->balance * (float)d->experts / (rows * (float)d->choices * rows);
    float by_log_sum = (float)scales->z * 2 * ((const float *)routing->log_sum)[r] / rows;
    for (int64_t e = 0; e < d->experts; e++)
        average += p[e] * (per_load * (float)routing->load[e]);
    for (int64_t e = 0; e < d->experts; e++)
        d_logits[e] = p[e] * (per_load * (float)routing->load[e] - average + by_log_sum);
    add_gate_gradients(d, d_logits, d_gate, routing, r);
}

/* dx (+)= d_logits weight, for some rows. */
static void rows_backward(const struct router *router, const float *d_logits, void *dx, int64_t rows, bool add_to_dx)
{
    const struct router_desc *d = &router->desc;
    struct cpu *cpu = router->cpu;
    struct small_product p = {
        .c = thread_floats(router), .ldc = router->width, .m = rows,
        .a = d_logits, .a_row = d->experts, .a_column = 1, .k = d->experts,
        .b = router->weight, .ldb = router->width, .n = router->width,
    };
    cpu->loops.product(&p);
    for (int64_t r = 0; r < rows; r++) {
        void *row = cpu_at_mutable(cpu, dx, r * d->width);
        if (add_to_dx)
            cpu->act->accumulate(p.c + r * p.ldc, row, d->width);
        cpu->act->from_float(row, p.c + r * p.ldc, d->width);
    }
}

static void router_backward_input(struct router *router, void *d_logits_, void *dx, const void *d_gate, const struct routing *routing,
                                  const void *weight, const struct router_scales *scales, bool add_to_dx)
{
    const struct router_desc *d = &router->desc;
    struct cpu *cpu = router->cpu;
    float *d_logits = d_logits_;
    cpu->act->pack(router->weight, router->width, weight, d->width, d->experts, d->width);
#pragma omp parallel for num_threads(cpu->base.threads) schedule(static)
    for (int64_t first = 0; first < d->rows; first += ROWS) {
        int64_t rows = least(ROWS, d->rows - first);
        for (int64_t r = first; r < first + rows; r++)
            row_logits_backward(d, d_logits + r * d->experts, (const float *)d_gate + r * d->choices, routing, scales, r);
        if (dx != NULL)
            rows_backward(router, d_logits + first * d->experts, cpu_at_mutable(cpu, dx, first * d->width), rows, add_to_dx);
    }
}

/* Each strip of columns walks down all rows: an element's sum has one order, whoever takes it. */
static void strip_backward(const struct router *router, float *d_weight, const float *d_logits, const void *x, int64_t begin)
{
    const struct router_desc *d = &router->desc;
    struct cpu *cpu = router->cpu;
    int64_t columns = least(STRIP, d->width - begin);
    float *sums = thread_floats(router), *strip = sums + d->experts * STRIP;
    for (int64_t r = 0; r < d->rows; r += STRIP_ROWS) {
        int64_t rows = least(STRIP_ROWS, d->rows - r);
        cpu->act->pack(strip, STRIP, cpu_at(cpu, x, r * d->width + begin), d->width, rows, columns);
        struct small_product p = {
            .c = sums, .ldc = STRIP, .m = d->experts,
            .a = d_logits + r * d->experts, .a_row = 1, .a_column = d->experts, .k = rows,
            .b = strip, .ldb = STRIP, .n = cpu_pad(columns), .accumulate = r > 0,
        };
        cpu->loops.product(&p);
    }
    for (int64_t e = 0; e < d->experts; e++)
        memcpy(d_weight + e * d->width + begin, sums + e * STRIP, (size_t)columns * sizeof *sums);
}

static void router_backward_weight(struct router *router, void *d_weight, const void *d_logits, const void *x)
{
#pragma omp parallel for num_threads(router->cpu->base.threads) schedule(static)
    for (int64_t begin = 0; begin < router->desc.width; begin += STRIP)
        strip_backward(router, d_weight, d_logits, x, begin);
}

/* ---- packed rows ---- */

/* Zeros in the packed rows that no choice has. Called by all threads. */
static void clear_rest(const struct router *router, const struct routing *routing, void *packed)
{
    const struct router_desc *d = &router->desc;
    size_t row_bytes = (size_t)d->width * (router->cpu->half ? 2 : 4);
#pragma omp for schedule(static) nowait
    for (int64_t e = 0; e < d->experts; e++) {
        int64_t taken = routing->taken[e];
        memset(cpu_at_mutable(router->cpu, packed, (e * d->capacity + taken) * d->width), 0, (size_t)(d->capacity - taken) * row_bytes);
    }
}

static void dispatch(struct router *router, void *packed, const void *x, const struct routing *routing)
{
    const struct router_desc *d = &router->desc;
    struct cpu *cpu = router->cpu;
    size_t row_bytes = (size_t)d->width * (cpu->half ? 2 : 4);
#pragma omp parallel num_threads(cpu->base.threads)
    {
#pragma omp for schedule(static) nowait
        for (int64_t r = 0; r < d->rows; r++)
            for (int64_t c = r * d->choices; c < (r + 1) * d->choices; c++)
                if (routing->place[c] >= 0)
                    memcpy(cpu_at_mutable(cpu, packed, routing->place[c] * d->width), cpu_at(cpu, x, r * d->width), row_bytes);
        clear_rest(router, routing, packed);
    }
}

/* y (+)= sum over a row's choices of gate * packed row; GATE NULL: of the packed rows. */
static void sum_choices(const struct router *router, void *y, const void *packed, const float *gate, const int32_t *place, bool add_to_y)
{
    const struct router_desc *d = &router->desc;
    struct cpu *cpu = router->cpu;
#pragma omp parallel for num_threads(cpu->base.threads) schedule(static)
    for (int64_t r = 0; r < d->rows; r++) {
        struct weighted_row *rows = thread_rows(router);
        void *sum = cpu_at_mutable(cpu, y, r * d->width);
        int64_t count = 0;
        if (add_to_y)
            rows[count++] = (struct weighted_row){sum, 1};
        for (int64_t c = r * d->choices; c < (r + 1) * d->choices; c++)
            if (place[c] >= 0)
                rows[count++] = (struct weighted_row){cpu_at(cpu, packed, place[c] * d->width), gate != NULL ? gate[c] : 1};
        cpu->act->weighted_sum(sum, rows, count, d->width);
    }
}

static void dispatch_backward(struct router *router, void *dx, const void *d_packed, const struct routing *routing, bool add_to_dx)
{
    sum_choices(router, dx, d_packed, NULL, routing->place, add_to_dx);
}

static void combine(struct router *router, void *y, const void *packed, const struct routing *routing)
{
    sum_choices(router, y, packed, routing->gate, routing->place, false);
}

static void choice_backward(const struct router *router, void *d_packed, float *d_gate, const void *dy, const void *packed,
                            const struct routing *routing, int64_t c)
{
    const struct router_desc *d = &router->desc;
    struct cpu *cpu = router->cpu;
    d_gate[c] = 0;
    if (routing->place[c] < 0)
        return;
    int64_t at = routing->place[c] * d->width;
    struct weighted_row row = {cpu_at(cpu, dy, c / d->choices * d->width), ((const float *)routing->gate)[c]};
    d_gate[c] = cpu->act->row_product(row.x, cpu_at(cpu, packed, at), d->width);
    cpu->act->weighted_sum(cpu_at_mutable(cpu, d_packed, at), &row, 1, d->width);
}

static void combine_backward(struct router *router, void *d_packed, void *d_gate, const void *dy, const void *packed,
                             const struct routing *routing)
{
    const struct router_desc *d = &router->desc;
#pragma omp parallel num_threads(router->cpu->base.threads)
    {
#pragma omp for schedule(static) nowait
        for (int64_t r = 0; r < d->rows; r++)
            for (int64_t c = r * d->choices; c < (r + 1) * d->choices; c++)
                choice_backward(router, d_packed, d_gate, dy, packed, routing, c);
        clear_rest(router, routing, d_packed);
    }
}

void experts_fill(struct backend_table *table)
{
    table->router_create = router_create;
    table->router_forward = router_forward;
    table->router_place = router_place;
    table->router_backward_input = router_backward_input;
    table->router_backward_weight = router_backward_weight;
    table->router_destroy = router_destroy;
    table->dispatch = dispatch;
    table->dispatch_backward = dispatch_backward;
    table->combine = combine;
    table->combine_backward = combine_backward;
}
