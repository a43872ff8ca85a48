#include "train/optimizer.h"

#include <math.h>

#include "train/learning_rate.h"

static const double clip_epsilon = 1e-6; /* a gradient of zero is not divided by */

void optimizer_update(const struct config *c, struct weights *w, const void *gradient, double norm, int64_t step)
{
    struct adamw adamw = {.learning_rate = learning_rate_at(c, step), .beta1 = c->optimizer.beta1, .beta2 = c->optimizer.beta2,
                          .epsilon = c->optimizer.epsilon, .gradient_scale = 1, .step = step + 1};
    if (c->optimizer.clip_norm > 0)
        adamw.gradient_scale = fmin(1, c->optimizer.clip_norm / (norm + clip_epsilon));
    size_t acc = dtype_size(w->backend->acc), act = dtype_size(w->backend->act);
    for (int i = 0; i < w->count; i++) {
        const struct parameter *p = &w->parameters[i];
        size_t at = (size_t)p->offset;
        adamw.weight_decay = p->vector ? 0 : c->optimizer.weight_decay;
        w->backend->table->adamw(w->backend, (char *)w->master + at * acc, (char *)w->moment1 + at * acc,
                                 (char *)w->moment2 + at * acc, w->compute == w->master ? NULL : (char *)w->compute + at * act,
                                 (const char *)gradient + at * acc, p->elements, &adamw);
    }
}
