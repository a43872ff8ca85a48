#include "train/trainer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/folder_lock.h"
#include "base/make_folders.h"
#include "base/log.h"
#include "base/trace.h"
#include "job/threads.h"
#include "model/gpt.h"
#include "train/automatic.h"
#include "train/choices.h"
#include "train/device.h"
#include "train/device_spans.h"
#include "train/links.h"
#include "train/numerics.h"
#include "train/parallel.h"
#include "train/trainer_arrays.h"
#include "train/tracing.h"

int trainer_threads(const struct config *config, int local_ranks)
{
    const char *given = getenv("SLURM_CPUS_PER_TASK");
    if (config->threads > 0)
        return (int)config->threads;
    return threads_of_rank(given ? atoi(given) : 0, threads_bound(), threads_online(), local_ranks);
}

void trainer_model(const struct config *config, int64_t vocabulary, struct gpt *out)
{
    *out = (struct gpt){.layers = config->model.layers, .width = config->model.width, .heads = config->model.heads,
                        .vocabulary = config->model.vocabulary ? config->model.vocabulary : vocabulary,
                        .tied = config->model.tied, .dropout = (float)config->model.dropout, .experts = config->model.experts,
                        .choices = config->model.expert_choices, .capacity_factor = config->model.capacity_factor,
                        .balance = config->model.balance_loss, .z = config->model.router_z_loss};
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

/* The run's folder and its lock: rank 0's work. */
static cairn_err open_folder(struct trainer *t)
{
    if (asprintf(&t->checkpoints, "%s/checkpoints", t->config->run_dir) < 0)
        return FAIL(CAIRN_ENOMEM, "no memory for the run's folder");
    if (t->mesh->rank != 0)
        return CAIRN_OK;
    TRY(make_folders(t->checkpoints));
    return folder_lock(t->config->run_dir, &t->lock);
}

/* The merged config, in the run's folder too; what was chosen is as good as given from then on. */
static cairn_err keep_config(struct trainer *t)
{
    char path[4096];
    t->config_text = config_to_yaml(t->config);
    if (!t->config_text)
        return FAIL(CAIRN_ENOMEM, "no memory for the config");
    t->chosen.parallel.automatic = NULL;
    snprintf(path, sizeof path, "%s/config.yaml", t->config->run_dir);
    if (t->mesh->rank != 0 || holds_text(path, t->config_text)) /* a full disk stops no restart */
        return CAIRN_OK;
    return write_text(path, t->config_text);
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
    t->losses = calloc((size_t)t->config->batch.microbatches + TOLD, sizeof *t->losses);
    return t->losses ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for losses");
}

int64_t trainer_vocabulary(const struct trainer *t)
{
    return t->config->model.vocabulary ? t->config->model.vocabulary : dataset_vocabulary(t->dataset);
}

/* The pieces' graphs, weights and gradients: this rank's memory. Collective where it succeeds up to there on all. */
static cairn_err open_state(struct trainer *t)
{
    const struct config *c = t->config;
    const struct weights_sharing sharing = {.replicas = t->mesh->replicas.size, .replica = t->mesh->replicas.rank,
                                            .expert_replicas = t->mesh->expert_replicas.size, .expert_replica = t->mesh->expert_replicas.rank,
                                            .zero = (int)c->parallel.zero};
    struct gradient_options options = {.microbatches = c->batch.microbatches, .zero = (int)c->parallel.zero,
                                             .fast = c->parallel.reduce == REDUCE_FAST, .overlap = c->parallel.overlap,
                                             .compress = {.kind = (enum compress_kind)c->parallel.compress, .ratio = c->parallel.compress_ratio,
                                                          .rank = (int)c->parallel.compress_rank, .seed = (uint64_t)c->seed}};
    int pieces = stage_pieces(t->stage);
    t->weights = calloc((size_t)pieces, sizeof *t->weights);
    cairn_err err = t->weights ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for the weights");
    for (int i = 0; i < pieces && !err; i++, t->weights_count += !err)
        err = weights_open(t->backend, stage_graphs(t->stage)[i], true, &sharing, &t->weights[i]);
    TRY(mesh_agree(t->mesh, err));
    if (c->parallel.sync == SYNC_LOCAL) {
        TRY(local_steps_open(t->mesh, c, pieces, t->weights, &t->local));
        options.alone = local_steps_alone(t->local);
    }
    TRY(gradient_open(t->mesh, t->backend, &options, pieces, stage_graphs(t->stage), t->weights, &t->gradient));
    TRY(stage_prepare(t->stage, gradient_passes(t->gradient)));
    return trainer_list_arrays(t);
}

int64_t trainer_state_memory(const struct trainer *t)
{
    int64_t bytes = 0;
    for (int i = 0; i < t->weights_count; i++)
        bytes += weights_memory(&t->weights[i]);
    return bytes;
}

char *trainer_model_text(const struct trainer *t, char *out, size_t size)
{
    struct gpt m;
    trainer_model(t->config, dataset_vocabulary(t->dataset), &m);
    snprintf(out, size, "gpt: %lld layers, width %lld, %lld heads, vocabulary %lld: %.2f M parameters", (long long)m.layers, (long long)m.width,
             (long long)m.heads, (long long)m.vocabulary, (double)gpt_parameter_count(&m, t->config->model.context) * 1e-6);
    return out;
}

static cairn_err open_model(struct trainer *t)
{
    const struct config *c = t->config;
    struct stage_options options = {.samples = c->batch.samples, .context = c->model.context, .microbatches = c->batch.microbatches,
                                    .seed = (uint64_t)c->seed, .schedule = (enum schedule_kind)c->parallel.schedule,
                                    .recompute = c->parallel.recompute, .sequence = c->parallel.sequence};
    trainer_model(c, dataset_vocabulary(t->dataset), &options.gpt);
    TRY(choices_load(t->mesh, t->backend, c->run_dir));
    TRY(mesh_agree(t->mesh, stage_open(t->mesh, t->backend, &options, &t->stage)));
    TRY(choices_agree(t->mesh, t->backend, c->run_dir));
    TRY(mesh_agree(t->mesh, open_state(t)));
    if (t->mesh->rank == 0) {
        char model[256], layout[LAYOUT_TEXT_SIZE];
        log_info("%s; a rank: %.0f MB state, %.0f MB gradients, %.0f MB activations; %s; %s", trainer_model_text(t, model, sizeof model),
                 (double)trainer_state_memory(t) * 1e-6, (double)gradient_memory(t->gradient) * 1e-6,
                 (double)stage_activation_memory(t->stage) * 1e-6, layout_text(&t->mesh->layout, layout),
                 t->backend->table->signature(t->backend));
    }
    return CAIRN_OK;
}

cairn_err trainer_open_metrics(struct trainer *t)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/metrics.jsonl", t->config->run_dir);
    return metrics_open(path, t->config->log.every, t->config->steps, &t->metrics);
}

static cairn_err open_loader(struct trainer *t)
{
    const struct config *c = t->config;
    int64_t first = gradient_microbatch(t->gradient, 0), passes = gradient_passes(t->gradient);
    struct loader_options options = {.split = SPLIT_TRAIN, .seed = c->seed, .context = c->model.context, .samples = c->batch.samples,
                                     .microbatches = c->batch.microbatches, .first = first, .count = passes, .step = t->step,
                                     .prefetch = c->data.prefetch};
    if (gradient_microbatch(t->gradient, passes - 1) < 0)
        options.count--;
    if (options.count > 1)
        options.stride = gradient_microbatch(t->gradient, 1) - first;
    if (stage_reads(t->stage))
        TRY(loader_open(t->dataset, &options, &t->loader));
    return t->mesh->rank == 0 ? trainer_open_metrics(t) : CAIRN_OK;
}

static cairn_err arrange(struct trainer *t)
{
    struct layout layout;
    TRY(mesh_agree(t->mesh, parallel_layout(t->config, trainer_vocabulary(t), t->mesh->size, &layout)));
    TRY(mesh_agree(t->mesh, mesh_arrange(t->mesh, &layout)));
    return links_open(t->config, t->mesh, t->backend);
}

/* While a rank waits for others, gradients go on their way. */
static void set_progress(struct mesh *mesh, struct gradient *gradient)
{
    struct group *groups[] = {&mesh->tensor, &mesh->context, &mesh->pipeline, &mesh->expert};
    for (int i = 0; i < 4; i++) {
        groups[i]->progress = gradient_progress;
        groups[i]->progress_context = gradient;
    }
}

cairn_err trainer_open_run(struct trainer *t, struct job *job, struct mesh *mesh, const struct config *config)
{
    *t = (struct trainer){.config = config, .job = job, .mesh = mesh, .committed = -1, .lock = -1};
    job_phase(job, "open", 0, 0); /* from here on a rank that waits for one that is stuck in a file ends by the watchdog */
    TRY(mesh_agree(mesh, open_folder(t)));
    TRY(tracing_open(mesh, t->config));
    TRY(mesh_agree(mesh, dataset_open(mesh->world, t->config->data.path, &t->dataset)));
    TRY(mesh_agree(mesh, check_data(t)));
    TRY(numerics_open(t));
    TRY(mesh_agree(mesh, device_check(t->config, t->backend)));
    TRY(automatic_layout(t));
    return mesh_agree(mesh, keep_config(t));
}

cairn_err trainer_open(struct trainer *t, struct job *job, struct mesh *mesh, const struct config *config)
{
    TRY(trainer_open_run(t, job, mesh, config));
    TRY(arrange(t));
    if (t->config->validation.every)
        TRY(mesh_agree(mesh, dataset_open(mesh->world, t->config->data.path, &t->validation_data)));
    TRY(mesh_agree(mesh, open_losses(t)));
    TRY(open_model(t));
    TRY(numerics_compare(t));
    set_progress(mesh, t->gradient);
    TRY(trainer_restore(t));
    TRY(mesh_agree(mesh, device_spans_open(t->backend)));
    return mesh_agree(mesh, open_loader(t));
}

void trainer_close(struct trainer *t)
{
    metrics_close(t->metrics);
    if (t->loader)
        loader_close(t->loader);
    gradient_close(t->gradient);
    local_steps_close(t->local);
    for (int i = 0; i < t->weights_count; i++)
        weights_close(&t->weights[i]);
    free(t->weights);
    stage_close(t->stage);
    if (t->dataset)
        dataset_close(t->dataset);
    if (t->validation_data)
        dataset_close(t->validation_data);
    if (t->mesh)
        links_close(t->mesh);
    if (t->backend)
        t->backend->table->close(t->backend);
    trace_close();
    free(t->shards);
    free(t->standard);
    free(t->losses);
    free(t->config_text);
    free(t->checkpoints);
    if (t->lock >= 0)
        close(t->lock);
}
