#include "expert_rows.h"

#include <stdlib.h>
#include <string.h>

void *bench_values(struct backend *b, enum dtype type, int64_t n)
{
    size_t size = dtype_size(type);
    void *p = b->table->alloc(b, (size_t)n * size);
    char *values = malloc((size_t)n * size); /* of the processor */
    uint32_t word = 12345;
    for (int64_t i = 0; values != NULL && i < n; i++) {
        word = word * 1664525u + 1013904223u; /* the generator of Press et al., "Numerical Recipes", 2nd edition, section 7.1 */
        float v = (float)(word >> 8) * 0x1p-24f - 0.5f;
        uint16_t half = bf16_from_float(v);
        memcpy(values + (size_t)i * size, type == DTYPE_BF16 ? (void *)&half : (void *)&v, size);
    }
    if (p != NULL && values != NULL)
        b->table->upload(b, p, values, (size_t)n * size);
    if (p != NULL && values == NULL) {
        b->table->free(b, p, (size_t)n * size);
        p = NULL;
    }
    free(values);
    return p;
}

static cairn_err open_array(struct expert_rows *e, void **p, enum dtype type, int64_t n)
{
    *p = bench_values(e->b, type, n);
    if (*p == NULL)
        return FAIL(CAIRN_ENOMEM, "no memory for %lld elements of a router's rows", (long long)n);
    e->arrays[e->count].p = *p;
    e->arrays[e->count++].bytes = (size_t)n * dtype_size(type);
    return CAIRN_OK;
}

cairn_err expert_rows_open(struct expert_rows *e, struct backend *b, const struct router_desc *d)
{
    enum dtype act = b->act, acc = b->acc;
    int64_t x = d->rows * d->width, weight = d->experts * d->width, packed = weight * d->capacity, chosen = d->rows * d->choices;
    *e = (struct expert_rows){.b = b, .d = *d};
    const struct {
        void **p;
        enum dtype type;
        int64_t n;
    } all[] = {
        {&e->x, act, x}, {&e->y, act, x}, {&e->weight, act, weight},
        {&e->packed, act, packed}, {&e->out, act, packed}, {&e->d_packed, act, packed},
        {&e->d_gate, acc, chosen}, {&e->d_logits, acc, d->rows * d->experts}, {&e->d_weight, acc, weight},
        {(void **)&e->routing.expert, DTYPE_I32, chosen}, {(void **)&e->routing.place, DTYPE_I32, chosen},
        {(void **)&e->routing.load, DTYPE_I32, d->experts}, {(void **)&e->routing.taken, DTYPE_I32, d->experts},
        {&e->routing.gate, acc, chosen}, {&e->routing.probability, acc, d->rows * d->experts}, {&e->routing.log_sum, acc, d->rows}, {&e->routing.losses, acc, 2},
    };
    _Static_assert(sizeof all / sizeof *all <= EXPERT_ARRAYS, "more arrays than are kept");
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        TRY(open_array(e, all[i].p, all[i].type, all[i].n));
    TRY(b->table->router_create(b, d, &e->router));
    b->table->router_forward(e->router, &e->routing, e->x, e->weight);
    b->table->router_place(e->router, &e->routing, NULL);
    return CAIRN_OK;
}

void expert_rows_close(struct expert_rows *e)
{
    if (e->b == NULL)
        return;
    if (e->router != NULL)
        e->b->table->router_destroy(e->router);
    for (int i = 0; i < e->count; i++)
        e->b->table->free(e->b, e->arrays[i].p, e->arrays[i].bytes);
}

void expert_rows_run(struct expert_rows *e)
{
    const struct backend_table *t = e->b->table;
    const struct router_scales scales = {.balance = 0.01, .z = 0.001};
    t->router_forward(e->router, &e->routing, e->x, e->weight);
    t->router_place(e->router, &e->routing, NULL);
    t->dispatch(e->router, e->packed, e->x, &e->routing);
    t->combine(e->router, e->y, e->packed, &e->routing);
    t->combine_backward(e->router, e->d_packed, e->d_gate, e->y, e->packed, &e->routing);
    t->dispatch_backward(e->router, e->y, e->d_packed, &e->routing, false);
    t->router_backward_input(e->router, e->d_logits, e->y, e->d_gate, &e->routing, e->weight, &scales, true);
    t->router_backward_weight(e->router, e->d_weight, e->d_logits, e->x);
}
