#include "gated_rows.h"

#include "expert_rows.h"

static cairn_err open_array(struct gated_rows *r, void **p, enum dtype type, int64_t n)
{
    *p = bench_values(r->b, type, n);
    if (*p == NULL)
        return FAIL(CAIRN_ENOMEM, "no memory for %lld elements of a gated MLP's rows", (long long)n);
    r->arrays[r->count].p = *p;
    r->arrays[r->count++].bytes = (size_t)n * dtype_size(type);
    return CAIRN_OK;
}

cairn_err gated_rows_open(struct gated_rows *r, struct backend *b, int64_t rows, int64_t width)
{
    *r = (struct gated_rows){.b = b, .rows = rows, .width = width, .hidden = (8 * width / 3 + 7) / 8 * 8};
    const struct {
        void **p;
        enum dtype type;
        int64_t n;
    } all[] = {
        {&r->x, b->act, rows * width}, {&r->h, b->act, rows * width}, {&r->sum, b->act, rows * width}, {&r->y, b->act, rows * width},
        {&r->gain, b->act, width}, {&r->rstd, b->acc, rows}, {&r->d_gain, b->acc, width},
        {&r->inner, b->act, 2 * rows * r->hidden}, {&r->d_inner, b->act, 2 * rows * r->hidden}, {&r->active, b->act, rows * r->hidden},
    };
    _Static_assert(sizeof all / sizeof *all <= GATED_ARRAYS, "more arrays than are kept");
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        TRY(open_array(r, all[i].p, all[i].type, all[i].n));
    return CAIRN_OK;
}

void gated_rows_close(struct gated_rows *r)
{
    for (int i = 0; i < r->count; i++)
        r->b->table->free(r->b, r->arrays[i].p, r->arrays[i].bytes);
}

void gated_rows_run(struct gated_rows *r)
{
    const struct backend_table *t = r->b->table;
    const double epsilon = 1e-5;
    t->rms_norm_forward(r->b, r->y, r->rstd, r->x, r->gain, r->rows, r->width, epsilon);
    if (t->residual_rms_norm_forward)
        t->residual_rms_norm_forward(r->b, r->sum, r->y, r->rstd, r->x, r->h, r->gain, r->rows, r->width, epsilon);
    t->swiglu_forward(r->b, r->active, r->inner, r->rows, r->hidden);
    t->swiglu_backward(r->b, r->d_inner, r->active, r->inner, r->rows, r->hidden);
    t->rms_norm_backward_input(r->b, r->sum, r->y, r->x, r->gain, r->rstd, r->rows, r->width, true);
    t->rms_norm_backward_weight(r->b, r->d_gain, r->y, r->x, r->rstd, r->rows, r->width);
    if (t->rms_norm_backward)
        t->rms_norm_backward(r->b, r->sum, r->d_gain, r->y, r->x, r->gain, r->rstd, r->rows, r->width, true);
}
