#include "kernels/expert_mlp.h"

#include <stdlib.h>

#include "base/least.h"
#include "kernels/backend.h"

/* Plans for so many numbers of rows: each multiple of capacity / SIZES. */
enum { SIZES = 16 };

enum product { EXPAND, CONTRACT, D_ACTIVE, D_X, D_EXPAND, D_CONTRACT, D_EXPAND_ADD, D_CONTRACT_ADD, PRODUCTS };

struct expert_mlp {
    struct backend *b;
    struct expert_mlp_desc desc;
    struct matmul *plans[SIZES][PRODUCTS];
    void *d_active; /* act [capacity, hidden], of one expert */
    void *d_bias;   /* acc [the longer of width and hidden]: what is added to the biases' gradients */
};

static size_t d_active_bytes(const struct expert_mlp *m)
{
    return (size_t)(m->desc.capacity * m->desc.hidden) * dtype_size(m->b->act);
}

static size_t d_bias_bytes(const struct expert_mlp *m)
{
    return (size_t)(m->desc.width + m->desc.hidden) * dtype_size(m->b->acc);
}

void expert_mlp_destroy(struct expert_mlp *m)
{
    if (m == NULL)
        return;
    const struct backend_table *t = m->b->table;
    for (int size = 0; size < SIZES; size++)
        for (int p = 0; p < PRODUCTS; p++)
            if (m->plans[size][p] != NULL)
                t->matmul_destroy(m->plans[size][p]);
    if (m->d_active != NULL)
        t->free(m->b, m->d_active, d_active_bytes(m));
    if (m->d_bias != NULL)
        t->free(m->b, m->d_bias, d_bias_bytes(m));
    free(m);
}

/* Rows of the plans of SIZE, 0 to SIZES - 1. */
static int64_t rows_of(const struct expert_mlp *m, int64_t size)
{
    return (m->desc.capacity * (size + 1) + SIZES - 1) / SIZES;
}

/* The smallest plans that hold COUNT rows, 1 or more. */
static int64_t size_of(const struct expert_mlp *m, int64_t count)
{
    return (count * SIZES + m->desc.capacity - 1) / m->desc.capacity - 1;
}

static cairn_err create_plans(struct expert_mlp *m, int64_t size)
{
    int64_t rows = rows_of(m, size), width = m->desc.width, hidden = m->desc.hidden;
    bool d_bias = m->b->table->matmul_run_d_bias != NULL;
    const struct matmul_desc descs[PRODUCTS] = {
        [EXPAND] = {.m = rows, .n = hidden, .k = width, .transpose_b = true, .bias = true},
        [CONTRACT] = {.m = rows, .n = width, .k = hidden, .transpose_b = true, .bias = !m->desc.adds_no_bias},
        [D_ACTIVE] = {.m = rows, .n = hidden, .k = width},
        [D_X] = {.m = rows, .n = width, .k = hidden},
        [D_EXPAND] = {.m = hidden, .n = width, .k = rows, .transpose_a = true, .c_is_acc = true, .d_bias = d_bias},
        [D_CONTRACT] = {.m = width, .n = hidden, .k = rows, .transpose_a = true, .c_is_acc = true, .d_bias = d_bias},
        [D_EXPAND_ADD] = {.m = hidden, .n = width, .k = rows, .transpose_a = true, .c_is_acc = true, .accumulate = true, .d_bias = d_bias},
        [D_CONTRACT_ADD] = {.m = width, .n = hidden, .k = rows, .transpose_a = true, .c_is_acc = true, .accumulate = true, .d_bias = d_bias},
    };
    for (int p = 0; p < PRODUCTS; p++)
        TRY(m->b->table->matmul_create(m->b, &descs[p], &m->plans[size][p]));
    return CAIRN_OK;
}

cairn_err expert_mlp_create(struct backend *b, const struct expert_mlp_desc *desc, struct expert_mlp **out)
{
    *out = NULL;
    struct expert_mlp *m = calloc(1, sizeof *m);
    if (m == NULL)
        return FAIL(CAIRN_ENOMEM, "no memory for the experts' plans");
    m->b = b;
    m->desc = *desc;
    cairn_err err = CAIRN_OK;
    m->d_active = b->table->alloc(b, d_active_bytes(m));
    m->d_bias = b->table->alloc(b, d_bias_bytes(m));
    if (m->d_active == NULL || m->d_bias == NULL)
        TRY_GOTO(err, FAIL(CAIRN_ENOMEM, "no memory for the experts' workspace of %zu bytes", d_active_bytes(m) + d_bias_bytes(m)),
                 failed);
    for (int64_t size = desc->whole ? SIZES - 1 : 0; size < SIZES; size++)
        TRY_GOTO(err, create_plans(m, size), failed);
    *out = m;
    return CAIRN_OK;
failed:
    expert_mlp_destroy(m);
    return err;
}

/* Element I of an array of TYPE. */
static const void *at(enum dtype type, const void *p, int64_t i)
{
    return (const char *)p + (size_t)i * dtype_size(type);
}

static void *at_mutable(enum dtype type, void *p, int64_t i)
{
    return (char *)p + (size_t)i * dtype_size(type);
}

/* One expert's part of everything. */
struct expert {
    int64_t number;
    struct matmul *const *plans; /* NULL: it has no rows */
    int64_t rows;                /* of the plans */
    int64_t narrow, wide;        /* where its packed rows begin, of width and of hidden elements */
    int64_t weight;              /* where its matrices begin */
};

static struct expert expert_of(const struct expert_mlp *m, int64_t e, const int32_t *counts)
{
    const struct expert_mlp_desc *d = &m->desc;
    int64_t count = counts != NULL ? least(counts[e], d->capacity) : d->capacity;
    struct expert expert = {.number = e, .narrow = e * d->capacity * d->width, .wide = e * d->capacity * d->hidden,
                            .weight = e * d->hidden * d->width};
    if (count > 0) {
        expert.plans = m->plans[size_of(m, count)];
        expert.rows = rows_of(m, size_of(m, count));
    }
    return expert;
}

void expert_mlp_forward(struct expert_mlp *m, void *y, void *inner, void *active, const void *x, const struct expert_weights *w,
                        const int32_t *counts)
{
    const struct backend_table *t = m->b->table;
    const struct expert_mlp_desc *d = &m->desc;
    enum dtype act = m->b->act;
    for (int64_t i = 0; i < d->experts; i++) {
        struct expert e = expert_of(m, i, counts);
        if (e.plans == NULL)
            continue;
        t->matmul_run(e.plans[EXPAND], at_mutable(act, inner, e.wide), at(act, x, e.narrow), at(act, w->expand, e.weight),
                      at(act, w->expand_bias, i * d->hidden));
        t->gelu_forward(m->b, at_mutable(act, active, e.wide), at(act, inner, e.wide), e.rows * d->hidden);
        t->matmul_run(e.plans[CONTRACT], at_mutable(act, y, e.narrow), at(act, active, e.wide), at(act, w->contract, e.weight),
                      d->adds_no_bias ? NULL : at(act, w->contract_bias, i * d->width));
    }
}

void expert_mlp_backward_input(struct expert_mlp *m, void *dx, void *d_inner, const void *dy, const void *inner,
                               const struct expert_weights *w, const int32_t *counts)
{
    const struct backend_table *t = m->b->table;
    enum dtype act = m->b->act;
    for (int64_t i = 0; i < m->desc.experts; i++) {
        struct expert e = expert_of(m, i, counts);
        if (e.plans == NULL)
            continue;
        t->matmul_run(e.plans[D_ACTIVE], m->d_active, at(act, dy, e.narrow), at(act, w->contract, e.weight), NULL);
        t->gelu_backward(m->b, at_mutable(act, d_inner, e.wide), m->d_active, at(act, inner, e.wide), e.rows * m->desc.hidden);
        t->matmul_run(e.plans[D_X], at_mutable(act, dx, e.narrow), at(act, d_inner, e.wide), at(act, w->expand, e.weight), NULL);
    }
}

/* Of one of the two layers: d_weight (+)= dy^T x and d_bias[width] (+)= sum over rows of dy. */
static void layer_backward_weight(struct expert_mlp *m, struct matmul *plan, void *d_weight, void *d_bias, const void *dy, const void *x,
                                  int64_t rows, int64_t width, bool add)
{
    const struct backend_table *t = m->b->table;
    void *sums = add ? m->d_bias : d_bias;
    if (t->matmul_run_d_bias != NULL) {
        t->matmul_run_d_bias(plan, d_weight, sums, dy, x);
    } else {
        t->matmul_run(plan, d_weight, dy, x, NULL);
        t->bias_backward(m->b, sums, dy, rows, width);
    }
    if (add)
        t->add(m->b, d_bias, d_bias, m->d_bias, width);
}

/* The gradients of an expert without rows: sums over no rows, which bias_backward makes zeros of in any backend's memory. */
static void clear(struct expert_mlp *m, const struct expert_gradients *g, const struct expert *e)
{
    const struct expert_mlp_desc *d = &m->desc;
    const struct backend_table *t = m->b->table;
    enum dtype acc = m->b->acc;
    t->bias_backward(m->b, at_mutable(acc, g->expand, e->weight), NULL, 0, d->hidden * d->width);
    t->bias_backward(m->b, at_mutable(acc, g->contract, e->weight), NULL, 0, d->hidden * d->width);
    t->bias_backward(m->b, at_mutable(acc, g->expand_bias, e->number * d->hidden), NULL, 0, d->hidden);
    t->bias_backward(m->b, at_mutable(acc, g->contract_bias, e->number * d->width), NULL, 0, d->width);
}

void expert_mlp_backward_weight(struct expert_mlp *m, const struct expert_gradients *g, const void *d_inner, const void *dy,
                                const void *x, const void *active, const int32_t *counts, bool add)
{
    const struct expert_mlp_desc *d = &m->desc;
    enum dtype act = m->b->act, acc = m->b->acc;
    for (int64_t i = 0; i < d->experts; i++) {
        struct expert e = expert_of(m, i, counts);
        if (e.plans == NULL && !add)
            clear(m, g, &e);
        if (e.plans == NULL)
            continue;
        layer_backward_weight(m, e.plans[add ? D_EXPAND_ADD : D_EXPAND], at_mutable(acc, g->expand, e.weight),
                              at_mutable(acc, g->expand_bias, i * d->hidden), at(act, d_inner, e.wide), at(act, x, e.narrow), e.rows, d->hidden, add);
        layer_backward_weight(m, e.plans[add ? D_CONTRACT_ADD : D_CONTRACT], at_mutable(acc, g->contract, e.weight),
                              at_mutable(acc, g->contract_bias, i * d->width), at(act, dy, e.narrow), at(act, active, e.wide), e.rows, d->width, add);
    }
}
