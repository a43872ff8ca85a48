#include "train/validation.h"

#include <stdlib.h>

#include "job/mpi_calls.h"

struct job_of_rank {
    struct dataset *dataset;
    const struct validation_model *model;
    int64_t samples, context, available;
    int32_t *inputs, *targets, *tokens;
};

static cairn_err read_microbatch(const struct job_of_rank *j, int64_t number)
{
    for (int64_t r = 0; r < j->samples; r++) {
        int64_t sample = (number * j->samples + r) % j->available;
        TRY(dataset_read(j->dataset, SPLIT_VALIDATION, sample * j->context, j->context + 1, j->tokens));
        for (int64_t i = 0; i < j->context; i++) {
            j->inputs[r * j->context + i] = j->tokens[i];
            j->targets[r * j->context + i] = j->tokens[i + 1];
        }
    }
    return CAIRN_OK;
}

/* How many samples of microbatch NUMBER the split has; the others only fill it. */
static int64_t present(const struct job_of_rank *j, int64_t number)
{
    int64_t left = j->available - number * j->samples;
    return left < j->samples ? left : j->samples;
}

static cairn_err evaluate(const struct job_of_rank *j, int64_t samples, bool idle, double *loss)
{
    if (j->model->stage)
        return stage_evaluate(j->model->stage, j->inputs, j->targets, samples, idle, loss);
    if (idle)
        return CAIRN_OK;
    TRY(graph_forward(j->model->graph, j->inputs, j->targets));
    return graph_sum_losses(j->model->graph, samples * j->context, loss);
}

/* Every REPLICAS-th microbatch from REPLICA on; all replicas run as many, the last perhaps idle. */
static cairn_err run_own(const struct job_of_rank *j, int64_t microbatches, double *losses)
{
    const struct validation_model *m = j->model;
    for (int64_t i = m->replica; i - m->replica < microbatches; i += m->replicas) {
        double loss = 0;
        bool idle = i >= microbatches;
        if (!idle)
            TRY(read_microbatch(j, i));
        TRY(evaluate(j, idle ? 0 : present(j, i), idle, &loss));
        if (!idle && m->tells)
            losses[i] = loss;
    }
    return CAIRN_OK;
}

int64_t validation_extent(struct dataset *dataset, int64_t microbatches, int64_t samples, int64_t context, int64_t *tokens)
{
    int64_t available = dataset_samples(dataset, SPLIT_VALIDATION, context), all = (available + samples - 1) / samples;
    *tokens = (microbatches < all ? microbatches * samples : available) * context;
    return microbatches < all ? microbatches : all;
}

static cairn_err open_buffers(struct job_of_rank *j)
{
    int64_t rows = j->samples * j->context;
    j->inputs = malloc((size_t)(2 * rows + j->context + 1) * sizeof *j->inputs);
    if (!j->inputs)
        return FAIL(CAIRN_ENOMEM, "no memory to validate");
    j->targets = j->inputs + rows;
    j->tokens = j->targets + rows;
    return CAIRN_OK;
}

cairn_err validation_losses(struct dataset *dataset, struct graph *graph, int64_t samples, int64_t context, int64_t first, int64_t count,
                            double *losses)
{
    const struct validation_model model = {.graph = graph};
    struct job_of_rank j = {.dataset = dataset, .model = &model, .samples = samples, .context = context,
                            .available = dataset_samples(dataset, SPLIT_VALIDATION, context)};
    TRY(open_buffers(&j));
    cairn_err err = CAIRN_OK;
    for (int64_t i = 0; i < count && !err; i++) {
        err = read_microbatch(&j, first + i);
        if (!err)
            err = evaluate(&j, present(&j, first + i), false, &losses[i]);
    }
    free(j.inputs);
    return err;
}

cairn_err validation_loss(struct mesh *mesh, struct dataset *dataset, const struct validation_model *model, int64_t microbatches,
                          int64_t samples, int64_t context, double *loss, int64_t *tokens)
{
    struct job_of_rank j = {.dataset = dataset, .model = model, .samples = samples, .context = context,
                            .available = dataset_samples(dataset, SPLIT_VALIDATION, context)};
    microbatches = validation_extent(dataset, microbatches, samples, context, tokens);
    double *losses = calloc((size_t)microbatches, sizeof *losses);
    cairn_err err = losses ? open_buffers(&j) : FAIL(CAIRN_ENOMEM, "no memory to validate");
    if (!err)
        err = run_own(&j, microbatches, losses);
    err = mesh_agree(mesh, err);
    /* Each loss is on one rank and zero on the others: their sum is exact in any order. */
    if (!err)
        err = mpi_allreduce(MPI_IN_PLACE, losses, (int)microbatches, MPI_DOUBLE, MPI_SUM, mesh->world, "gathering validation losses");
    *loss = 0;
    for (int64_t i = 0; i < microbatches && !err; i++)
        *loss += losses[i] / (double)*tokens;
    free(losses);
    free(j.inputs);
    return err;
}
