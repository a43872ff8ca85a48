/* The training loop. */
#include <math.h>
#include <stdio.h>

#include "base/clock.h"
#include "job/mpi_error.h"
#include "train/learning_rate.h"
#include "train/optimizer.h"
#include "train/trainer.h"
#include "train/validation.h"

/* Forward and backward of this rank's microbatches; their losses go behind this rank's stop flag in OWN. */
static cairn_err run_microbatches(struct trainer *t, double *own)
{
    const struct config *c = t->config;
    double rows = (double)(c->batch.samples * c->model.context);
    double scale = 1 / (rows * (double)c->batch.microbatches);
    for (int64_t i = 0; i < t->count; i++) {
        const int32_t *inputs, *targets;
        TRY(loader_next(t->loader, &inputs, &targets));
        const struct graph_pass pass = {.step = t->step, .microbatch = t->first + i, .inputs = inputs, .targets = targets,
                                        .loss_scale = scale};
        TRY(graph_forward_backward(t->graph, &pass, gradient_slot(t->gradient)));
        own[1 + i] = graph_mean_loss(t->graph);
        gradient_add(t->gradient);
    }
    return CAIRN_OK;
}

/* Every rank learns all losses and whether any was asked to stop. The mean is taken in the microbatches' order. */
static cairn_err share_losses(struct trainer *t, double *loss, bool *stop)
{
    TRY(mpi_check(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, t->losses, t->loss_counts, t->loss_begins, MPI_DOUBLE, t->mesh->world),
                  "gathering losses"));
    double sum = 0;
    *stop = false;
    for (int r = 0; r < t->mesh->size; r++) {
        *stop = *stop || t->losses[t->loss_begins[r]] != 0;
        for (int i = 1; i < t->loss_counts[r]; i++)
            sum += t->losses[t->loss_begins[r] + i];
    }
    *loss = sum / (double)t->config->batch.microbatches;
    return CAIRN_OK;
}

/* All that comes before the update: *GRADIENT, its norm, the loss, whether to stop. */
static cairn_err compute(struct trainer *t, const void **gradient, struct metrics_step *m, bool *stop)
{
    double *own = t->losses + t->first + t->mesh->rank;
    TRY(run_microbatches(t, own));
    double begin = clock_seconds();
    TRY(gradient_finish(t->gradient, gradient, &m->gradient_norm));
    own[0] = job_stop_requested(t->job); /* as late as can be: the step may be long, and the time short */
    TRY(share_losses(t, &m->loss, stop));
    m->reduce_seconds = clock_seconds() - begin;
    return CAIRN_OK;
}

static cairn_err run_step(struct trainer *t, struct metrics_step *m, bool *stop)
{
    double begin = clock_seconds();
    const void *gradient;
    cairn_err err = compute(t, &gradient, m, stop);
    if (err) {
        t->failed_alone = true;
        return error_context(err, "step %lld", (long long)t->step);
    }
    if (!isfinite(m->loss) || !isfinite(m->gradient_norm))
        return FAIL(CAIRN_EINVAL, "step %lld: loss %g, gradient norm %g: the training has diverged; weights of the checkpoint before "
                    "are kept; a lower optimizer.learning_rate or more warm-up may help", (long long)t->step, m->loss, m->gradient_norm);
    m->learning_rate = learning_rate_at(t->config, t->step);
    optimizer_update(t->config, &t->weights, gradient, m->gradient_norm, t->step);
    m->step = ++t->step;
    m->seconds = clock_seconds() - begin;
    m->data_seconds = loader_waited(t->loader);
    m->bytes_sent = gradient_bytes_sent(t->gradient);
    m->tokens = t->config->batch.microbatches * t->config->batch.samples * t->config->model.context;
    return CAIRN_OK;
}

static cairn_err validate(struct trainer *t)
{
    double loss, begin = clock_seconds();
    int64_t tokens;
    job_phase(t->job, "validate", t->step, 0);
    const struct config *c = t->config;
    TRY(validation_loss(t->mesh, t->validation_data, t->graph, c->validation.microbatches, c->batch.samples, c->model.context, &loss,
                        &tokens));
    if (t->metrics)
        metrics_validation(t->metrics, t->step, loss, clock_seconds() - begin);
    return CAIRN_OK;
}

cairn_err trainer_run(struct trainer *t, bool *stopped)
{
    const struct config *c = t->config;
    *stopped = false;
    while (t->step < c->steps && !*stopped) {
        struct metrics_step m;
        job_phase(t->job, "step", t->step, 0);
        TRY(run_step(t, &m, stopped));
        if (t->metrics)
            metrics_step(t->metrics, &m);
        bool last = t->step == c->steps, validation = c->validation.every && (t->step % c->validation.every == 0 || last);
        if (validation && !*stopped)
            TRY(validate(t));
        if ((c->checkpoint.every && t->step % c->checkpoint.every == 0) || last || *stopped)
            TRY(trainer_save(t));
        if (validation && *stopped) /* there may be no time for it */
            TRY(validate(t));
    }
    if (t->step == c->steps && t->committed != t->step)
        TRY(trainer_save(t));
    *stopped = *stopped && t->step < c->steps;
    return CAIRN_OK;
}
