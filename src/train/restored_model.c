#include "train/restored_model.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ckpt/checkpoint.h"
#include "model/gpt.h"
#include "train/device.h"
#include "train/optimizer.h"
#include "train/trainer.h"

/* What the config leaves to the dataset stands in the checkpoint's extra facts. */
static cairn_err read_extra(struct restored_model *m, const char *extra)
{
    json_t *facts = json_loads(extra ? extra : "", 0, NULL);
    json_t *vocabulary = json_object_get(facts, "vocabulary");
    const char *tokenizer = json_string_value(json_object_get(facts, "tokenizer"));
    bool ok = json_is_integer(vocabulary) && tokenizer;
    if (ok) {
        m->vocabulary = json_integer_value(vocabulary);
        snprintf(m->tokenizer, sizeof m->tokenizer, "%s", tokenizer);
    }
    json_decref(facts);
    return ok ? CAIRN_OK : FAIL(CAIRN_EFORMAT, "the checkpoint does not tell vocabulary and tokenizer: not made by cairn train");
}

static cairn_err build(struct restored_model *m, int64_t samples, bool classify)
{
    const struct config *c = &m->config;
    const struct graph_options options = {.samples = samples ? samples : c->batch.samples, .context = c->model.context};
    struct gpt gpt;
    trainer_model(c, m->vocabulary, &gpt);
    m->vocabulary = gpt.vocabulary;
    m->graph = graph_new(m->backend, &options);
    if (!m->graph)
        return FAIL(CAIRN_ENOMEM, "no memory for the graph");
    const struct gpt_piece whole = gpt_piece_of(&gpt, c->model.context, 1, 0);
    gpt_declare(m->graph, &gpt, &whole, c->model.context, classify, &m->hidden, &m->head);
    TRY(graph_finish(m->graph));
    TRY(graph_allocate(m->graph, 1, NULL));
    TRY(weights_open(m->backend, m->graph, false, NULL, &m->weights));
    graph_bind_parameters(m->graph, m->weights.compute);
    return CAIRN_OK;
}

/* UPDATES: that the weights have had. */
static cairn_err load(struct restored_model *m, struct mesh *mesh, const char *path, int64_t updates)
{
    const struct weights_rounding rounding = optimizer_rounding(&m->config, updates);
    int count = weights_shard_count(&m->weights);
    struct shard *shards = calloc((size_t)count, sizeof *shards);
    struct checkpoint_group group = {.comm = mesh->world, .node_of = mesh->node_of};
    TRY(mesh_agree(mesh, shards ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for the list of arrays")));
    weights_shards(&m->weights, shards);
    cairn_err err = checkpoint_load(&group, path, shards, count);
    free(shards);
    if (!err)
        weights_refresh(&m->weights, &rounding);
    return err;
}

cairn_err restored_model_open(struct mesh *mesh, const struct job *job, const char *path, int override_count, char *const *overrides,
                              int64_t samples, bool classify, struct restored_model *m)
{
    *m = (struct restored_model){0};
    struct checkpoint_facts facts = {0};
    char found[4096] = "";
    /* One rank looks: a run that goes on may commit another between two looks. */
    TRY(mesh_agree(mesh, mesh->rank == 0 ? checkpoint_find(path, found, sizeof found) : CAIRN_OK));
    TRY(mesh_broadcast(mesh, found, sizeof found, 0));
    TRY(mesh_agree(mesh, checkpoint_read_facts(found, &facts)));
    m->step = facts.step;
    int64_t updates = trainer_updates(&facts);
    cairn_err err = config_load(&m->config, found, facts.config, override_count, overrides);
    bool have_config = err == CAIRN_OK;
    if (!err)
        err = read_extra(m, facts.extra);
    checkpoint_facts_free(&facts);
    err = mesh_agree(mesh, err);
    m->config.algorithms = ALGORITHMS_FIRST; /* a few passes are over sooner than products are tried */
    if (!err)
        err = device_open(&m->config, mesh, job, trainer_threads(&m->config, job_local_size(job)), &m->backend);
    if (!err)
        err = mesh_agree(mesh, build(m, samples, classify));
    if (!err)
        err = mesh_agree(mesh, load(m, mesh, found, updates));
    if (err && have_config)
        restored_model_close(m);
    return err;
}

void restored_model_close(struct restored_model *m)
{
    if (m->weights.backend)
        weights_close(&m->weights);
    graph_free(m->graph);
    if (m->backend)
        m->backend->table->close(m->backend);
    config_free(&m->config);
}
