#include "train/validation.h"

#include <stdlib.h>

#include "job/mpi_error.h"

struct job_of_rank {
    struct dataset *dataset;
    struct graph *graph;
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

/* Every SIZE-th microbatch from RANK on. */
static cairn_err run_own(const struct job_of_rank *j, int rank, int size, int64_t microbatches, double *losses)
{
    for (int64_t i = rank; i < microbatches; i += size) {
        TRY(read_microbatch(j, i));
        TRY(graph_forward(j->graph, j->inputs, j->targets));
        losses[i] = graph_sum_losses(j->graph, present(j, i) * j->context);
    }
    return CAIRN_OK;
}

cairn_err validation_loss(struct mesh *mesh, struct dataset *dataset, struct graph *graph, int64_t microbatches, int64_t samples,
                          int64_t context, double *loss, int64_t *tokens)
{
    struct job_of_rank j = {dataset, graph, samples, context, dataset_samples(dataset, SPLIT_VALIDATION, context), NULL, NULL, NULL};
    int64_t all = (j.available + samples - 1) / samples;
    microbatches = microbatches < all ? microbatches : all;
    *tokens = (microbatches < all ? microbatches * samples : j.available) * context;
    double *losses = calloc((size_t)microbatches, sizeof *losses);
    int64_t rows = samples * context;
    j.inputs = malloc((size_t)(2 * rows + context + 1) * sizeof *j.inputs);
    cairn_err err = losses && j.inputs ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory to validate");
    if (!err) {
        j.targets = j.inputs + rows;
        j.tokens = j.targets + rows;
        err = run_own(&j, mesh->rank, mesh->size, microbatches, losses);
    }
    err = mesh_agree(mesh, err);
    /* Each loss is on one rank and zero on the others: their sum is exact in any order. */
    if (!err)
        err = mpi_check(MPI_Allreduce(MPI_IN_PLACE, losses, (int)microbatches, MPI_DOUBLE, MPI_SUM, mesh->world),
                        "gathering validation losses");
    *loss = 0;
    for (int64_t i = 0; i < microbatches && !err; i++)
        *loss += losses[i] / (double)*tokens;
    free(losses);
    free(j.inputs);
    return err;
}
