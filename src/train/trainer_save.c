/* Checkpoints of a training run. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "ckpt/checkpoint.h"
#include "train/trainer.h"

/* A checkpoint or a restore may take this long before the watchdog takes it for a hang, in seconds: a parallel file system under
 * load stalls for minutes. supervise.hang_seconds may say more. */
static const double io_limit_least = 900;

static double io_limit(const struct trainer *t)
{
    return fmax(io_limit_least, t->config->supervise.hang_seconds);
}

static struct checkpoint_group group_of(const struct trainer *t)
{
    return (struct checkpoint_group){.comm = t->mesh->world, .node_of = t->mesh->node_of};
}

/* What a continued run compares itself with: the samples' order depends on all of it. */
static char *describe(const struct trainer *t)
{
    char fingerprint[17];
    snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, dataset_fingerprint(t->dataset));
    json_t *extra = json_pack("{s:s, s:I, s:I, s:I, s:I, s:i, s:I, s:s}", "dataset_fingerprint", fingerprint, "seed", (json_int_t)t->config->seed,
                              "microbatches", (json_int_t)t->config->batch.microbatches, "samples",
                              (json_int_t)t->config->batch.samples, "ranks", (json_int_t)t->mesh->size, "threads", t->backend->threads, "vocabulary",
                              (json_int_t)dataset_vocabulary(t->dataset), "tokenizer", dataset_tokenizer(t->dataset));
    char *text = extra ? json_dumps(extra, JSON_SORT_KEYS) : NULL;
    json_decref(extra);
    return text;
}

static char *signature(const struct trainer *t)
{
    char *text;
    if (asprintf(&text, "cairn %s\n%s\n", cairn_version(), t->backend->table->signature(t->backend)) < 0)
        return NULL;
    return text;
}

static double state_bytes(const struct trainer *t)
{
    double bytes = 0;
    for (int i = 0; i < t->shard_count; i++)
        bytes += (double)shard_bytes(&t->shards[i]);
    return bytes;
}

cairn_err trainer_save(struct trainer *t)
{
    double begin = clock_seconds();
    struct checkpoint_group group = group_of(t);
    struct checkpoint_facts facts = {.step = t->step, .config = t->config_text, .signature = signature(t), .extra = describe(t)};
    job_phase(t->job, "checkpoint", t->step, io_limit(t));
    cairn_err err = mesh_agree(t->mesh, facts.signature && facts.extra ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for a checkpoint"));
    if (!err)
        err = mesh_agree(t->mesh, checkpoint_save(&group, t->checkpoints, &facts, t->shards, t->shard_count));
    free(facts.signature);
    free(facts.extra);
    if (err == CAIRN_ENOSPACE && t->config->checkpoint.on_full == ON_FULL_CONTINUE && t->step < t->config->steps) {
        if (t->mesh->rank == 0)
            log_warning("checkpoint of step %lld not written (%s); the run goes on, its last checkpoint is of step %lld", (long long)t->step,
                        cairn_err_message(), (long long)t->committed);
        return CAIRN_OK;
    }
    if (err)
        return error_context(err, "checkpoint of step %lld", (long long)t->step);
    t->committed = t->step;
    if (t->mesh->rank != 0)
        return CAIRN_OK;
    job_report_committed(t->job, t->step);
    if (t->config->checkpoint.keep && checkpoint_prune(t->checkpoints, (int)t->config->checkpoint.keep) != CAIRN_OK)
        log_warning("old checkpoints are not removed: %s", cairn_err_message());
    metrics_checkpoint(t->metrics, t->step, clock_seconds() - begin, state_bytes(t));
    return CAIRN_OK;
}

/* Says in one line what makes the bits of the rest differ from those of the run so far. */
static void compare(const struct trainer *t, const struct checkpoint_facts *facts)
{
    char *now = signature(t), *extra = describe(t);
    if (now && facts->signature && strcmp(now, facts->signature) != 0)
        log_warning("the checkpoint was made under other numerics (%.*s), this run has %.*s: results may differ in the last bits",
                    (int)strcspn(strchr(facts->signature, '\n') ? strchr(facts->signature, '\n') + 1 : facts->signature, "\n"),
                    strchr(facts->signature, '\n') ? strchr(facts->signature, '\n') + 1 : facts->signature,
                    (int)strcspn(strchr(now, '\n') + 1, "\n"), strchr(now, '\n') + 1);
    static const char *const keys[] = {"dataset_fingerprint", "seed", "microbatches", "samples"};
    json_t *before = facts->extra ? json_loads(facts->extra, 0, NULL) : NULL, *here = extra ? json_loads(extra, 0, NULL) : NULL;
    for (size_t i = 0; before && here && i < sizeof keys / sizeof keys[0]; i++)
        if (!json_equal(json_object_get(before, keys[i]), json_object_get(here, keys[i])))
            log_warning("the run goes on with another %s than its checkpoint was made with: its samples are not those it would have had",
                        keys[i]);
    json_decref(before);
    json_decref(here);
    free(now);
    free(extra);
}

cairn_err trainer_restore(struct trainer *t)
{
    struct checkpoint_group group = group_of(t);
    struct checkpoint_facts facts = {0};
    job_phase(t->job, "restore", 0, io_limit(t));
    double begin = clock_seconds();
    cairn_err err = mesh_agree(t->mesh, checkpoint_restore(&group, t->checkpoints, &facts, t->shards, t->shard_count));
    if (err == CAIRN_ENOTFOUND) {
        weights_initialize(&t->weights, (uint64_t)t->config->seed);
        if (t->mesh->rank == 0)
            log_info("a fresh start: no checkpoint in %s", t->checkpoints);
        return CAIRN_OK;
    }
    TRY(err);
    weights_refresh(&t->weights);
    t->step = t->committed = facts.step;
    if (t->mesh->rank == 0) {
        log_info("goes on from the checkpoint of step %lld (read in %.2f s)", (long long)facts.step, clock_seconds() - begin);
        compare(t, &facts);
    }
    checkpoint_facts_free(&facts);
    return CAIRN_OK;
}
