#include "train/optimizer.h"

#include <math.h>

#include "train/shares.h"

static const double clip_epsilon = 1e-6; /* a gradient of zero is not divided by */

/* The parameters of one bucket. */
static void update_bucket(struct adamw adamw, double decay, const struct weights *w, int bucket, const char *gradient)
{
    const struct weights_own own = weights_own(w, bucket);
    size_t acc = dtype_size(w->backend->acc), act = dtype_size(w->backend->act);
    for (int i = 0; i < w->count; i++) {
        const struct parameter *p = &w->parameters[i];
        int64_t first, count = p->bucket == bucket ? share_of_parameter(p, own.offset, own.elements, &first) : 0;
        if (count == 0)
            continue;
        size_t at = (size_t)(p->offset + first - own.offset);
        adamw.weight_decay = p->vector ? 0 : decay;
        w->backend->table->adamw(w->backend, (char *)own.master + at * acc, (char *)own.moment1 + at * acc, (char *)own.moment2 + at * acc,
                                 own.compute == own.master ? NULL : (char *)own.compute + at * act, gradient + at * acc, count, &adamw);
    }
}

void optimizer_apply(const struct config *c, struct weights *w, const struct optimizer_step *step, optimizer_gradient *gradient,
                     const void *context)
{
    struct adamw adamw = {.learning_rate = step->learning_rate, .beta1 = c->optimizer.beta1, .beta2 = c->optimizer.beta2,
                          .epsilon = c->optimizer.epsilon, .gradient_scale = 1, .step = step->number};
    if (c->optimizer.clip_norm > 0)
        adamw.gradient_scale = fmin(1, c->optimizer.clip_norm / (step->norm + clip_epsilon));
    for (int b = 0; b < graph_bucket_count(w->graph); b++)
        if (graph_bucket_at(w->graph, b)->lookup_of < 0)
            update_bucket(adamw, c->optimizer.weight_decay, w, b, gradient(context, b));
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
