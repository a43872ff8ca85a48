/* The training loop. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/trace.h"
#include "job/mpi_calls.h"
#include "train/device_spans.h"
#include "train/learning_rate.h"
#include "train/optimizer.h"
#include "train/tracing.h"
#include "train/trainer.h"
#include "train/validation.h"

/* In the order of metrics_step. */
static void count_bytes(const struct mesh *m, int64_t sent[MESH_GROUPS])
{
    const struct group *groups[MESH_GROUPS] = {&m->tensor, &m->context, &m->pipeline, &m->replicas, &m->expert, &m->expert_replicas};
    for (int i = 0; i < MESH_GROUPS; i++)
        sent[i] = groups[i]->bytes_sent;
}

/* What this rank has sent since it was told the last time. */
static void tell_bytes(struct trainer *t, double *sent)
{
    int64_t now[MESH_GROUPS];
    count_bytes(t->mesh, now);
    for (int i = 0; i < MESH_GROUPS; i++)
        sent[i] = (double)(now[i] - t->sent[i]);
    memcpy(t->sent, now, sizeof now);
}

static void tell_experts(struct trainer *t, double *told)
{
    const struct graph_experts_use use = stage_take_experts_use(t->stage);
    told[TOLD_DROPPED] = (double)use.dropped;
    told[TOLD_GREATEST] = (double)use.greatest;
}

/* The greatest loads of all blocks and microbatches, as multiples of even ones, have this mean. */
static void read_experts(const struct config *c, const double *told, struct metrics_step *m)
{
    double tokens = (double)(c->batch.microbatches * c->batch.samples * c->model.context);
    m->expert_choices = tokens * (double)(c->model.layers * c->model.expert_choices);
    m->expert_dropped = told[TOLD_DROPPED];
    m->expert_load = told[TOLD_GREATEST] * (double)c->model.experts / m->expert_choices;
}

/* Every rank learns all losses, and what all tell; each loss is told by one rank, so that the sum is exact. The mean is taken in the
 * microbatches' order. */
static cairn_err share_losses(struct trainer *t, struct metrics_step *m, bool *stop)
{
    int count = (int)t->config->batch.microbatches;
    uint64_t begun = trace_begin();
    backend_range_begin(t->backend, "losses", -1);
    cairn_err err = mpi_allreduce(MPI_IN_PLACE, t->losses, count + TOLD, MPI_DOUBLE, MPI_SUM, t->mesh->world, "gathering losses");
    backend_range_end(t->backend);
    trace_end(begun, TRACE_COMMUNICATION, "losses", t->step);
    TRY(err);
    double sum = 0;
    for (int i = 0; i < count; i++)
        sum += t->losses[i];
    m->loss = sum / count;
    const double *told = t->losses + count;
    *stop = told[TOLD_STOP] != 0;
    memcpy(m->sent, told + TOLD_SENT, sizeof m->sent);
    if (t->config->model.experts > 0)
        read_experts(t->config, told, m);
    return CAIRN_OK;
}

/* What is left of the sums over ranks, and the norm. */
static cairn_err finish_gradient(struct trainer *t, struct metrics_step *m)
{
    backend_range_begin(t->backend, "gradient", -1);
    cairn_err err = gradient_finish(t->gradient, &m->gradient_norm);
    backend_range_end(t->backend);
    return err;
}

/* All that comes before the update: the gradient, its norm, the loss, whether to stop. */
static cairn_err compute(struct trainer *t, struct metrics_step *m, bool *stop)
{
    const struct config *c = t->config;
    int64_t count = c->batch.microbatches;
    int64_t joined = t->local ? local_steps_microbatches(t->local) : count; /* in one gradient */
    double scale = 1 / ((double)(c->batch.samples * c->model.context) * (double)joined);
    memset(t->losses, 0, (size_t)count * sizeof *t->losses);
    TRY(stage_run(t->stage, t->gradient, t->loader, t->step, scale));
    double begin = clock_seconds();
    TRY(finish_gradient(t, m));
    stage_take_losses(t->stage, t->losses);
    TRY(t->backend->table->finish(t->backend));
    device_spans_take(t->backend);
    if (!stage_tells_losses(t->stage))
        memset(t->losses, 0, (size_t)count * sizeof *t->losses);
    double *told = t->losses + count;
    told[TOLD_STOP] = job_stop_requested(t->job); /* as late as can be: the step may be long, and the time short */
    told[TOLD_NO_NORM] = !isfinite(m->gradient_norm); /* replicas that train alone have each their own */
    tell_experts(t, told);
    tell_bytes(t, told + TOLD_SENT);
    TRY(share_losses(t, m, stop));
    m->reduce_seconds = clock_seconds() - begin;
    return CAIRN_OK;
}

static int64_t bytes_sent(const struct mesh *mesh)
{
    int64_t sent[MESH_GROUPS], sum = 0;
    count_bytes(mesh, sent);
    for (int i = 0; i < MESH_GROUPS; i++)
        sum += sent[i];
    return sum;
}

/* Weights from gradients, and to those ranks that have them from others. */
static cairn_err update(struct trainer *t, const struct metrics_step *m)
{
    const struct optimizer_step step = {m->learning_rate, m->gradient_norm, t->step + 1 + t->extra_updates};
    uint64_t begun = trace_begin();
    backend_range_begin(t->backend, "update", -1);
    for (int i = 0; i < t->weights_count; i++)
        optimizer_update(t->config, &t->weights[i], t->gradient, i, &step);
    backend_range_end(t->backend);
    trace_end(begun, TRACE_COMPUTE, "update", t->step);
    backend_range_begin(t->backend, "parameters", -1);
    cairn_err err = gradient_share_parameters(t->gradient);
    if (!err && t->local)
        err = local_steps_join(t->local, t->step + 1, step.number);
    backend_range_end(t->backend);
    return err;
}

static cairn_err alone(struct trainer *t, cairn_err err)
{
    t->failed_alone = true;
    return error_context(err, "step %lld", (long long)t->step);
}

static cairn_err run_step(struct trainer *t, struct metrics_step *m, bool *stop)
{
    double begin = clock_seconds();
    int64_t sent = bytes_sent(t->mesh);
    cairn_err err = compute(t, m, stop);
    if (err)
        return alone(t, err);
    if (!isfinite(m->loss) || t->losses[t->config->batch.microbatches + TOLD_NO_NORM] > 0)
        return FAIL(CAIRN_EINVAL, "step %lld: loss %g, gradient norm %g: the training has diverged; weights of the checkpoint before "
                    "are kept; a lower optimizer.learning_rate or more warm-up may help", (long long)t->step, m->loss, m->gradient_norm);
    m->learning_rate = learning_rate_at(t->config, t->step);
    err = update(t, m);
    if (err)
        return alone(t, err);
    m->step = ++t->step;
    m->seconds = clock_seconds() - begin;
    m->data_seconds = t->loader ? loader_waited(t->loader) : 0;
    m->bytes_sent = bytes_sent(t->mesh) - sent;
    m->tokens = t->config->batch.microbatches * t->config->batch.samples * t->config->model.context;
    return CAIRN_OK;
}

static cairn_err run_step_in_range(struct trainer *t, struct metrics_step *m, bool *stop)
{
    backend_range_begin(t->backend, "step", t->step);
    cairn_err err = run_step(t, m, stop);
    backend_range_end(t->backend);
    return err;
}

static cairn_err validate(struct trainer *t)
{
    double loss, begin = clock_seconds();
    int64_t tokens;
    job_phase(t->job, "validate", t->step, 0);
    const struct config *c = t->config;
    const struct validation_model model = {.stage = t->stage, .replica = t->mesh->place.data, .replicas = t->mesh->layout.data,
                                           .tells = stage_tells_losses(t->stage)};
    backend_range_begin(t->backend, "validation", -1);
    cairn_err err = validation_loss(t->mesh, t->validation_data, &model, c->validation.microbatches, c->batch.samples, c->model.context, &loss,
                                    &tokens);
    backend_range_end(t->backend);
    TRY(err);
    device_spans_take(t->backend);
    if (t->metrics)
        metrics_validation(t->metrics, t->step, loss, clock_seconds() - begin);
    return CAIRN_OK;
}

cairn_err trainer_tell_memory(struct trainer *t)
{
    struct rusage usage = {0};
    long own, most;
    getrusage(RUSAGE_SELF, &usage);
    own = usage.ru_maxrss; /* KiB, libraries and all */
    TRY(mpi_allreduce(&own, &most, 1, MPI_LONG, MPI_MAX, t->mesh->world, "comparing memory"));
    if (t->mesh->rank == 0)
        log_info("peak memory of a rank: %.0f MB", (double)most * 1024e-6);
    return CAIRN_OK;
}

cairn_err trainer_run(struct trainer *t, bool *stopped)
{
    const struct config *c = t->config;
    *stopped = false;
    while (t->step < c->steps && !*stopped) {
        struct metrics_step m = {0};
        job_phase(t->job, "step", t->step, 0);
        TRY(run_step_in_range(t, &m, stopped));
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
    TRY(gradient_wait(t->gradient)); /* parameters that were to be ready for a next step */
    TRY(trainer_tell_memory(t));
    device_spans_take(t->backend);
    return tracing_join(t->mesh, c);
}
