#include "train/optimizer.h"

#include <math.h>

static const double clip_epsilon = 1e-6; /* a gradient of zero is not divided by */

struct weights_rounding optimizer_rounding(const struct config *c, int64_t update)
{
    return (struct weights_rounding){c->optimizer.rounding == ROUNDING_STOCHASTIC, (uint64_t)c->seed, update};
}

void optimizer_apply(const struct config *c, struct weights *w, const struct optimizer_step *step, optimizer_gradient *gradient,
                     const void *context)
{
    struct adamw adamw = {.learning_rate = step->learning_rate, .beta1 = c->optimizer.beta1, .beta2 = c->optimizer.beta2,
                          .epsilon = c->optimizer.epsilon, .weight_decay = c->optimizer.weight_decay, .gradient_scale = 1,
                          .step = step->number, .stochastic = c->optimizer.rounding == ROUNDING_STOCHASTIC};
    int count = 0;
    if (c->optimizer.clip_norm > 0)
        adamw.gradient_scale = fmin(1, c->optimizer.clip_norm / (step->norm + clip_epsilon));
    for (int b = 0; b < graph_bucket_count(w->graph); b++) {
        if (graph_bucket_at(w->graph, b)->lookup_of >= 0)
            continue;
        const char *own = gradient(context, b), *master = weights_own(w, b).master;
        int end = weights_runs(w, b, (uint64_t)c->seed, count);
        for (; count < end; count++)
            w->runs[count].gradient = own + ((const char *)w->runs[count].master - master);
    }
    w->backend->table->adamw(w->backend, w->runs, count, &adamw);
}

struct gradient_piece {
    const struct gradient *gradient;
    int piece;
};

static const void *own_gradient(const void *context, int bucket)
{
    const struct gradient_piece *p = context;
    return gradient_own(p->gradient, p->piece, bucket);
}

void optimizer_update(const struct config *c, struct weights *w, const struct gradient *gradient, int piece, const struct optimizer_step *step)
{
    const struct gradient_piece context = {gradient, piece};
    optimizer_apply(c, w, step, own_gradient, &context);
}
