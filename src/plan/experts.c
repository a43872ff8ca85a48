#include "plan/experts.h"

#include <math.h>

#include "base/least.h"
#include "model/gpt.h"
#include "plan/numbers.h"

enum { ACC_SIZE = 4, NUMBER_SIZE = 4 /* of an expert or a place */ };

struct plan_experts plan_experts_of(const struct plan_model *m, const struct plan_layout *l)
{
    struct plan_experts e = {0};
    if (m->experts == 0)
        return e;
    const struct gpt gpt = {.experts = m->experts, .choices = m->choices, .capacity_factor = m->capacity_factor};
    e.own = share(m->experts, l->axes.expert);
    e.hidden = share(4 * m->width, l->axes.tensor);
    e.rows = l->samples * share(m->context, l->axes.context);
    e.capacity = least(gpt_expert_capacity(&gpt, l->samples * m->context), e.rows);
    e.packed = m->experts * e.capacity;
    return e;
}

int64_t plan_experts_parameters(const struct plan_model *m, const struct plan_layout *l)
{
    const struct plan_experts e = plan_experts_of(m, l); /* zeros without experts */
    return e.own * (2 * m->width * e.hidden + e.hidden + m->width);
}

double plan_experts_kept(const struct plan_model *m, const struct plan_layout *l, int size)
{
    const struct plan_experts e = plan_experts_of(m, l);
    double choices = (double)(e.rows * m->choices), rows = (double)e.rows, packed = (double)e.packed;
    double of_router = choices * (2 * NUMBER_SIZE + ACC_SIZE) + rows * (double)(m->experts + 1) * ACC_SIZE;
    double loads = (double)(3 * m->experts) * NUMBER_SIZE + 2 * ACC_SIZE;
    /* received and returned; before and behind the gelu */
    return m->experts == 0 ? 0 : of_router + loads + packed * (double)(2 * m->width + 2 * e.hidden) * size;
}

double plan_experts_passing(const struct plan_model *m, const struct plan_layout *l, int size)
{
    const struct plan_experts e = plan_experts_of(m, l);
    double of_router = (double)(e.rows * (m->choices + m->experts)) * ACC_SIZE; /* gradients of gates and logits */
    return m->experts == 0 ? 0 : of_router + (double)e.packed * (double)(4 * m->width + e.hidden) * size;
}

int64_t plan_experts_workspace(const struct plan_model *m, const struct plan_layout *l, int size)
{
    const struct plan_experts e = plan_experts_of(m, l);
    int64_t of_router = 2 * m->experts * m->width * ACC_SIZE; /* its weight, also turned */
    return m->experts == 0 ? 0 : of_router + e.capacity * e.hidden * size + (m->width + e.hidden) * ACC_SIZE;
}

double plan_experts_product_rows(const struct plan_model *m, const struct plan_layout *l)
{
    enum { SIZES = 16 };
    const struct plan_experts e = plan_experts_of(m, l);
    if (m->experts == 0)
        return 0;
    double even = fmin((double)(e.rows * m->choices) / (double)m->experts, (double)e.capacity), size = (double)e.capacity / SIZES;
    return ceil(ceil(even / size) * size);
}
