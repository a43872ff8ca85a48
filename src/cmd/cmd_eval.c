/* cairn eval: a checkpoint's loss on a dataset's validation split. */
#include <math.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/exit_code.h"
#include "cmd/command.h"
#include "job/job.h"
#include "train/restored_model.h"
#include "train/validation.h"

struct result {
    int64_t step, tokens;
    double loss, seconds;
};

static cairn_err evaluate(struct mesh *mesh, const struct job *job, int argc, char **argv, long microbatches, struct result *result)
{
    struct restored_model m;
    TRY(restored_model_open(mesh, job, argv[1], argc - 2, argv + 2, 0, true, &m));
    const struct config *c = &m.config;
    struct dataset *dataset;
    cairn_err err = mesh_agree(mesh, dataset_open(mesh->world, c->data.path, &dataset));
    if (err)
        goto close_model;
    int64_t samples = dataset_samples(dataset, SPLIT_VALIDATION, c->model.context);
    if (samples < 1) {
        err = FAIL(CAIRN_ECONFIG, "%s has no validation sample of %lld tokens", c->data.path, (long long)c->model.context);
        goto close_dataset;
    }
    if (dataset_vocabulary(dataset) > m.vocabulary) {
        err = FAIL(CAIRN_ECONFIG, "the tokens of %s go up to %lld, the model's to %lld", c->data.path,
                   (long long)dataset_vocabulary(dataset) - 1, (long long)m.vocabulary - 1);
        goto close_dataset;
    }
    double begin = clock_seconds();
    const struct validation_model model = {.graph = m.graph, .replica = mesh->rank, .replicas = mesh->size, .tells = true};
    err = validation_loss(mesh, dataset, &model, microbatches > 0 ? microbatches : samples, c->batch.samples, c->model.context,
                          &result->loss, &result->tokens);
    result->seconds = clock_seconds() - begin;
    result->step = m.step;
close_dataset:
    dataset_close(dataset);
close_model:
    restored_model_close(&m);
    return err;
}

static void show(const struct result *r, bool json)
{
    if (json)
        printf("{\"step\": %lld, \"loss\": %.9g, \"perplexity\": %.9g, \"bits_per_token\": %.9g, \"tokens\": %lld, \"seconds\": %.3f}\n",
               (long long)r->step, r->loss, exp(r->loss), r->loss / log(2), (long long)r->tokens, r->seconds);
    else
        printf("step %lld: loss %.4f, perplexity %.3f, %.3f bits a token, over %lld tokens (%.1f s)\n", (long long)r->step, r->loss,
               exp(r->loss), r->loss / log(2), (long long)r->tokens, r->seconds);
}

int cmd_eval(int argc, char **argv)
{
    bool json = false;
    long microbatches = 0;
    const struct option_spec options[] = {{'j', "json", OPTION_FLAG, &json, NULL, "print one JSON object"},
                                          {'m', "microbatches", OPTION_INT, &microbatches, "N", "only the first N microbatches (0: all)"},
                                          {0}};
    const struct command_spec spec = {"cairn eval CHECKPOINT [options] [key=value ...]",
                                      "Prints the loss of the model in CHECKPOINT (its folder, or a run's folder: the newest) on the\n"
                                      "validation split of the dataset it was trained on, or of data.path=FILE. Runs on any number of ranks.",
                                      options, NULL};
    int exit_code;
    if (!command_begin(&spec, &argc, argv, &exit_code))
        return exit_code;
    if (argc < 2)
        return command_usage_failed(&spec, "no checkpoint given");
    struct job *job;
    struct mesh *mesh;
    struct result result;
    cairn_err err = job_open(&job);
    if (err)
        return command_failed(err);
    err = mesh_open(job, &mesh);
    if (!err)
        err = evaluate(mesh, job, argc, argv, microbatches, &result);
    exit_code = EXIT_CODE_DONE;
    if (err)
        exit_code = job_rank(job) == 0 ? command_failed(err) : EXIT_CODE_FAILED;
    else if (job_rank(job) == 0)
        show(&result, json);
    job_leave(job, exit_code);
}
