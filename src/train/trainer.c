#include "train/trainer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/folder_lock.h"
#include "base/make_folders.h"
#include "base/log.h"
#include "job/threads.h"
#include "model/gpt.h"
#include "train/numerics.h"

static const char *const device_backends[] = {"cpu", "cpu", "reference"}; /* by enum config_device */
static const enum dtype precision_types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F64}; /* by enum config_precision */

int trainer_threads(const struct config *config, int local_ranks)
{
    const char *given = getenv("SLURM_CPUS_PER_TASK");
    if (config->threads > 0)
        return (int)config->threads;
    return threads_of_rank(given ? atoi(given) : 0, threads_bound(), threads_online(), local_ranks);
}

cairn_err trainer_backend(const struct config *config, int threads, struct backend **out)
{
    struct backend_options options = {.act = precision_types[config->precision], .threads = threads,
                                      .instruction_set = config->instruction_set};
    return backend_open(device_backends[config->device], &options, out);
}

void trainer_model(const struct config *config, int64_t vocabulary, struct gpt *out)
{
    *out = (struct gpt){.layers = config->model.layers, .width = config->model.width, .heads = config->model.heads,
                        .vocabulary = config->model.vocabulary ? config->model.vocabulary : vocabulary,
                        .tied = config->model.tied, .dropout = (float)config->model.dropout};
}

static bool holds_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "r");
    bool same = f != NULL;
    for (; same && *text; text++)
        same = fgetc(f) == (unsigned char)*text;
    same = same && fgetc(f) == EOF;
    if (f)
        fclose(f);
    return same;
}

static cairn_err write_text(const char *path, const char *text)
{
    char temporary[4096];
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    FILE *f = fopen(temporary, "w");
    if (!f)
        return FAIL(error_from_errno(errno), "cannot write %s: %s", temporary, strerror(errno));
    bool ok = fputs(text, f) >= 0;
    ok = fclose(f) == 0 && ok;
    if (!ok || rename(temporary, path))
        return FAIL(error_from_errno(errno), "cannot write %s: %s", path, strerror(errno));
    return CAIRN_OK;
}

/* The run's folder, its lock and the merged config in it: rank 0's work. */
static cairn_err prepare_folder(struct trainer *t)
{
    char path[4096];
    TRY(make_folders(t->checkpoints));
    TRY(folder_lock(t->config->run_dir, &t->lock));
    snprintf(path, sizeof path, "%s/config.yaml", t->config->run_dir);
    return holds_text(path, t->config_text) ? CAIRN_OK : write_text(path, t->config_text); /* a full disk stops no restart */
}

static cairn_err open_folder(struct trainer *t)
{
    t->config_text = config_to_yaml(t->config);
    if (!t->config_text || asprintf(&t->checkpoints, "%s/checkpoints", t->config->run_dir) < 0)
        return FAIL(CAIRN_ENOMEM, "no memory for the run's folder");
    return t->mesh->rank == 0 ? prepare_folder(t) : CAIRN_OK;
}

static cairn_err check_data(const struct trainer *t)
{
    const struct config *c = t->config;
    int64_t vocabulary = dataset_vocabulary(t->dataset);
    if (c->model.vocabulary && c->model.vocabulary < vocabulary)
        return FAIL(CAIRN_ECONFIG, "model.vocabulary is %lld, but the tokens of %s go up to %lld", (long long)c->model.vocabulary,
                    c->data.path, (long long)vocabulary - 1);
    if (dataset_samples(t->dataset, SPLIT_TRAIN, c->model.context) < 1)
        return FAIL(CAIRN_ECONFIG, "%s has %lld training tokens: too few for one sample of model.context %lld", c->data.path,
                    (long long)dataset_tokens(t->dataset, SPLIT_TRAIN), (long long)c->model.context);
    if (c->validation.every && dataset_samples(t->dataset, SPLIT_VALIDATION, c->model.context) < 1)
        return FAIL(CAIRN_ECONFIG, "%s has no validation sample of model.context %lld; set validation.every to 0", c->data.path,
                    (long long)c->model.context);
    return CAIRN_OK;
}

static cairn_err open_losses(struct trainer *t)
{
    int ranks = t->mesh->size;
    int64_t microbatches = t->config->batch.microbatches, first, count;
    t->losses = calloc((size_t)(microbatches + ranks), sizeof *t->losses);
    t->loss_counts = calloc((size_t)ranks * 2, sizeof *t->loss_counts);
    if (!t->losses || !t->loss_counts)
        return FAIL(CAIRN_ENOMEM, "no memory for losses");
    t->loss_begins = t->loss_counts + ranks;
    for (int r = 0; r < ranks; r++) {
        tree_share(microbatches, ranks, r, &first, &count);
        t->loss_begins[r] = (int)first + r;
        t->loss_counts[r] = (int)count + 1;
    }
    return CAIRN_OK;
}

/* The model's graph, weights and gradient buffers: this rank's memory. */
static cairn_err open_model(struct trainer *t)
{
    const struct config *c = t->config;
    const struct graph_options options = {.samples = c->batch.samples, .context = c->model.context, .training = true,
                                          .join_lookups = c->batch.microbatches == 1, .seed = (uint64_t)c->seed};
    struct gpt gpt;
    trainer_model(c, dataset_vocabulary(t->dataset), &gpt);
    t->graph = graph_new(t->backend, &options);
    if (!t->graph)
        return FAIL(CAIRN_ENOMEM, "no memory for the graph");
    const struct gpt_piece whole = gpt_piece_of(&gpt, c->model.context, 1, 0);
    gpt_declare(t->graph, &gpt, &whole, c->model.context, true, NULL, NULL);
    TRY_CONTEXT(graph_finish(t->graph), "building the model");
    TRY(graph_allocate(t->graph, 1, NULL));
    TRY(weights_open(t->backend, t->graph, true, &t->weights));
    TRY(gradient_open(t->mesh, t->backend, t->graph, c->batch.microbatches, &t->gradient));
    graph_bind_parameters(t->graph, t->weights.compute);
    t->shard_count = weights_shard_count(&t->weights);
    t->shards = calloc((size_t)t->shard_count, sizeof *t->shards);
    if (!t->shards)
        return FAIL(CAIRN_ENOMEM, "no memory for the list of arrays");
    weights_shards(&t->weights, t->mesh->rank, t->mesh->size, t->shards);
    if (t->mesh->rank == 0)
        log_info("gpt: %lld layers, width %lld, %lld heads, vocabulary %lld: %.2f M parameters; a rank: %.0f MB state, %.0f MB "
                 "gradients, %.0f MB activations; %s",
                 (long long)gpt.layers, (long long)gpt.width, (long long)gpt.heads, (long long)gpt.vocabulary,
                 (double)gpt_parameter_count(&gpt, c->model.context) * 1e-6,
                 (double)t->weights.elements * 3 * (double)dtype_size(t->backend->acc) * 1e-6,
                 (double)gradient_memory(t->gradient) * 1e-6, (double)(graph_slot_bytes(t->graph) + graph_scratch_bytes(t->graph)) * 1e-6,
                 t->backend->table->signature(t->backend));
    return CAIRN_OK;
}

static cairn_err open_loader(struct trainer *t)
{
    const struct config *c = t->config;
    const struct loader_options options = {.split = SPLIT_TRAIN, .seed = c->seed, .context = c->model.context,
                                           .samples = c->batch.samples, .microbatches = c->batch.microbatches, .first = t->first,
                                           .count = t->count, .step = t->step, .prefetch = c->data.prefetch};
    TRY(loader_open(t->dataset, &options, &t->loader));
    if (t->mesh->rank != 0)
        return CAIRN_OK;
    char path[4096];
    snprintf(path, sizeof path, "%s/metrics.jsonl", c->run_dir);
    return metrics_open(path, c->log.every, c->steps, &t->metrics);
}

cairn_err trainer_open(struct trainer *t, struct job *job, struct mesh *mesh, const struct config *config)
{
    *t = (struct trainer){.config = config, .job = job, .mesh = mesh, .committed = -1, .lock = -1};
    if (mesh->size > config->batch.microbatches)
        return FAIL(CAIRN_ECONFIG, "%d ranks but batch.microbatches is %lld: each rank needs one at least", mesh->size,
                    (long long)config->batch.microbatches);
    tree_share(config->batch.microbatches, mesh->size, mesh->rank, &t->first, &t->count);
    job_phase(job, "open", 0, 0); /* from here on a rank that waits for one that is stuck in a file ends by the watchdog */
    TRY(mesh_agree(mesh, open_folder(t)));
    TRY(mesh_agree(mesh, dataset_open(mesh->world, config->data.path, &t->dataset)));
    TRY(mesh_agree(mesh, check_data(t)));
    if (config->validation.every)
        TRY(mesh_agree(mesh, dataset_open(mesh->world, config->data.path, &t->validation_data)));
    TRY(numerics_open(t));
    TRY(mesh_agree(mesh, open_losses(t)));
    TRY(mesh_agree(mesh, open_model(t)));
    TRY(trainer_restore(t));
    return mesh_agree(mesh, open_loader(t));
}

void trainer_close(struct trainer *t)
{
    metrics_close(t->metrics);
    if (t->loader)
        loader_close(t->loader);
    gradient_close(t->gradient);
    if (t->weights.backend)
        weights_close(&t->weights);
    graph_free(t->graph);
    if (t->dataset)
        dataset_close(t->dataset);
    if (t->validation_data)
        dataset_close(t->validation_data);
    if (t->backend)
        t->backend->table->close(t->backend);
    free(t->shards);
    free(t->losses);
    free(t->loss_counts);
    free(t->config_text);
    free(t->checkpoints);
    if (t->lock >= 0)
        close(t->lock);
}
