#include "train/optimizer.h"

#include <math.h>

#include "train/shares.h"

static const double clip_epsilon = 1e-6; /* a gradient of zero is not divided by */

/* Adds the parameters of one bucket to RUNS behind the first COUNT; returns how many there are then. */
static int list_bucket(const struct weights *w, int bucket, const char *gradient, struct adamw_run *runs, int count)
{
    const struct weights_own own = weights_own(w, bucket);
    size_t acc = dtype_size(w->backend->acc), act = dtype_size(w->backend->act);
    for (int i = 0; i < w->count; i++) {
        const struct parameter *p = &w->parameters[i];
        int64_t first, n = p->bucket == bucket ? share_of_parameter(p, own.offset, own.elements, &first) : 0;
        if (n == 0)
            continue;
        size_t at = (size_t)(p->offset + first - own.offset);
        runs[count++] = (struct adamw_run){.master = (char *)own.master + at * acc, .moment1 = (char *)own.moment1 + at * acc,
                                           .moment2 = (char *)own.moment2 + at * acc, .gradient = gradient + at * acc, .n = n,
                                           .compute = own.compute == own.master ? NULL : (char *)own.compute + at * act,
                                           .decays = !p->vector};
    }
    return count;
}

void optimizer_apply(const struct config *c, struct weights *w, const struct optimizer_step *step, optimizer_gradient *gradient,
                     const void *context)
{
    struct adamw adamw = {.learning_rate = step->learning_rate, .beta1 = c->optimizer.beta1, .beta2 = c->optimizer.beta2,
                          .epsilon = c->optimizer.epsilon, .weight_decay = c->optimizer.weight_decay, .gradient_scale = 1,
                          .step = step->number};
    int count = 0;
    if (c->optimizer.clip_norm > 0)
        adamw.gradient_scale = fmin(1, c->optimizer.clip_norm / (step->norm + clip_epsilon));
    for (int b = 0; b < graph_bucket_count(w->graph); b++)
        if (graph_bucket_at(w->graph, b)->lookup_of < 0)
            count = list_bucket(w, b, gradient(context, b), w->runs, count);
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
