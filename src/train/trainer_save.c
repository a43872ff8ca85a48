/* Checkpoints of a training run. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/log.h"
#include "base/trace.h"
#include "ckpt/checkpoint.h"
#include "train/device_spans.h"
#include "train/optimizer.h"
#include "train/tracing.h"
#include "train/trainer.h"
#include "train/trainer_arrays.h"

/* A checkpoint or a restore may take this long before the watchdog takes it for a hang, in seconds: a parallel file system under
 * load stalls for minutes. supervise.hang_seconds may say more. */
static const double io_limit_least = 900;

/* Among a checkpoint's extra facts. */
#define EXTRA_UPDATES "extra_updates"

static double io_limit(const struct trainer *t)
{
    return fmax(io_limit_least, t->config->supervise.hang_seconds);
}

/* What a continued run compares itself with: the samples' order depends on all of it. */
static char *describe(const struct trainer *t)
{
    char fingerprint[17];
    snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, dataset_fingerprint(t->dataset));
    json_t *extra = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:s, s:s}", "dataset_fingerprint", fingerprint, "seed", (json_int_t)t->config->seed,
                              "microbatches", (json_int_t)t->config->batch.microbatches, "samples",
                              (json_int_t)t->config->batch.samples, "ranks", (json_int_t)t->mesh->size, "vocabulary", (json_int_t)dataset_vocabulary(t->dataset),
                              "tokenizer", dataset_tokenizer(t->dataset), TRAINER_DEVICE, t->backend->table->name);
    if (extra && t->backend->table->host_memory) /* a device's sums do not depend on them */
        json_object_set_new(extra, TRAINER_THREADS, json_integer(t->threads));
    if (extra && t->extra_updates > 0)
        json_object_set_new(extra, EXTRA_UPDATES, json_integer(t->extra_updates));
    if (extra && t->local)
        json_object_set_new(extra, TRAINER_JOINED, json_integer(local_steps_joined(t->local)));
    char *text = extra ? json_dumps(extra, JSON_SORT_KEYS) : NULL;
    json_decref(extra);
    return text;
}

/* What of the layout decides in which order numbers are summed, as a line; "" where that is the one order of all others. Compression and
 * local steps tell of their copies themselves. */
static void sums_of_layout(const struct trainer *t, char *out, size_t size)
{
    const struct layout *l = &t->mesh->layout;
    bool copies = l->data > 1 && (l->expert > 1 || t->config->parallel.reduce == REDUCE_FAST);
    char axes[LAYOUT_TEXT_SIZE], data[32] = "";
    *out = 0;
    if (copies)
        snprintf(data, sizeof data, ", data %d", l->data);
    if (copies || l->tensor > 1 || l->context > 1)
        snprintf(out, size, "summed over %s%s%s\n", layout_sums_text(l, axes), data,
                 l->tensor > 1 && t->config->parallel.sequence ? ", sequence" : "");
}

static char *signature(const struct trainer *t)
{
    char *text, sums[2 * LAYOUT_TEXT_SIZE];
    sums_of_layout(t, sums, sizeof sums);
    if (asprintf(&text, "cairn %s\n%s\n%s", cairn_version(), t->backend->table->signature(t->backend), sums) < 0)
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
    struct checkpoint_group group = trainer_group(t);
    struct checkpoint_facts facts = {.step = t->step, .config = t->config_text, .signature = signature(t), .extra = describe(t)};
    job_phase(t->job, "checkpoint", t->step, io_limit(t));
    cairn_err err = facts.signature && facts.extra ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for a checkpoint");
    if (!err)
        err = t->backend->table->finish(t->backend); /* of what failed on a device nothing is kept */
    err = mesh_agree(t->mesh, err);
    uint64_t begun = trace_begin();
    backend_range_begin(t->backend, "save", t->step);
    if (!err)
        err = mesh_agree(t->mesh, checkpoint_save(&group, t->checkpoints, &facts, t->shards, t->shard_count));
    backend_range_end(t->backend);
    trace_end(begun, TRACE_CHECKPOINT, "save", t->step);
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
    if (t->mesh->rank == 0) {
        job_report_committed(t->job, t->step);
        if (t->config->checkpoint.keep && checkpoint_prune(t->checkpoints, (int)t->config->checkpoint.keep) != CAIRN_OK)
            log_warning("old checkpoints are not removed: %s", cairn_err_message());
        metrics_checkpoint(t->metrics, t->step, clock_seconds() - begin, state_bytes(t));
    }
    device_spans_take(t->backend);
    tracing_write();
    return mesh_barrier(t->mesh); /* removing may take long: in the next step the others would take that for a hang */
}

/* SIGNATURE in one line. */
static const char *in_a_line(char *signature)
{
    for (char *c = signature; (c = strchr(c, '\n')) != NULL; c++)
        *c = c[1] ? ';' : 0;
    return signature;
}

static void compare_numerics(const struct trainer *t, char *before)
{
    char *now = signature(t);
    if (now && before && strcmp(now, before) != 0)
        log_warning("the checkpoint was made under other numerics (%s), this run has %s: results may differ in the last bits", in_a_line(before),
                    in_a_line(now));
    free(now);
}

static void compare_data(const struct trainer *t, const char *before)
{
    char *extra = describe(t);
    static const char key[] = "dataset_fingerprint";
    json_t *held = before ? json_loads(before, 0, NULL) : NULL, *here = extra ? json_loads(extra, 0, NULL) : NULL;
    if (held && here && !json_equal(json_object_get(held, key), json_object_get(here, key)))
        log_warning("the run goes on with another dataset than its checkpoint was made with: its samples are not those it would have had");
    json_decref(held);
    json_decref(here);
    free(extra);
}

int64_t trainer_updates(const struct checkpoint_facts *facts)
{
    json_t *extra = facts->extra ? json_loads(facts->extra, 0, NULL) : NULL;
    json_int_t updates = json_integer_value(json_object_get(extra, EXTRA_UPDATES));
    json_decref(extra);
    return facts->step + (updates > 0 ? updates : 0);
}

/* Another learning rate may be what its user wants; other heads in the same arrays are another function. */
static cairn_err compare_config(const struct trainer *t, const char *text)
{
    struct config before;
    if (!text || config_load(&before, "the checkpoint's config", text, 0, NULL) != CAIRN_OK) {
        if (t->mesh->rank == 0)
            log_warning("the config is not compared with the checkpoint's: %s", text ? cairn_err_message() : "it holds none");
        return CAIRN_OK;
    }
    int64_t heads = before.model.heads;
    char *changes = config_changes(&before, t->config);
    if (t->mesh->rank == 0 && changes && *changes)
        log_warning("the run goes on with other settings than its checkpoint was made with: %s", changes);
    free(changes);
    config_free(&before);
    if (heads != t->config->model.heads)
        return FAIL(CAIRN_ECONFIG, "model.heads is %lld, but the checkpoint of step %lld was trained with %lld: another model over the same weights",
                    (long long)t->config->model.heads, (long long)t->step, (long long)heads);
    return CAIRN_OK;
}

cairn_err trainer_newest_facts(const struct trainer *t, struct checkpoint_facts *facts)
{
    struct checkpoint_entry *entries = NULL;
    int count = 0;
    bool any = false;
    cairn_err err = CAIRN_OK;
    TRY(checkpoint_list(t->checkpoints, &entries, &count));
    while (count-- > 0 && (!any || err))
        if (entries[count].state == CHECKPOINT_COMPLETE) {
            any = true;
            err = checkpoint_read_facts(entries[count].path, facts);
        }
    free(entries);
    return any ? err : FAIL(CAIRN_ENOTFOUND, "no checkpoint in %s", t->checkpoints);
}

cairn_err trainer_restore(struct trainer *t)
{
    struct checkpoint_facts facts = {0};
    job_phase(t->job, "restore", 0, io_limit(t));
    double begin = clock_seconds();
    uint64_t begun = trace_begin();
    int64_t step = 0;
    cairn_err err = trainer_read_arrays(t, &facts, &step);
    trace_end(begun, TRACE_CHECKPOINT, "restore", facts.step);
    if (err == CAIRN_ENOTFOUND) {
        const struct weights_rounding rounding = optimizer_rounding(t->config, 0);
        err = CAIRN_OK;
        for (int i = 0; i < t->weights_count && !err; i++)
            err = weights_initialize(&t->weights[i], &rounding);
        TRY(mesh_agree(t->mesh, err));
        if (t->local)
            local_steps_restart(t->local, LOCAL_FROM_WEIGHTS, 0);
        if (t->mesh->rank == 0) {
            job_report_restored(t->job, 0);
            log_info("a fresh start: no checkpoint in %s", t->checkpoints);
        }
        return t->gradient ? mesh_agree(t->mesh, gradient_share_parameters(t->gradient)) : CAIRN_OK;
    }
    if (err) {
        checkpoint_facts_free(&facts);
        return err;
    }
    int64_t updates = trainer_updates(&facts);
    const struct weights_rounding rounding = optimizer_rounding(t->config, updates);
    for (int i = 0; i < t->weights_count; i++)
        weights_refresh(&t->weights[i], &rounding);
    if (t->gradient)
        TRY(mesh_agree(t->mesh, gradient_share_parameters(t->gradient)));
    t->step = step;
    t->committed = facts.step;
    t->extra_updates = step == facts.step ? updates - step : 0; /* else moments begin from zero */
    if (t->mesh->rank == 0) {
        job_report_restored(t->job, step);
        log_info("goes on from the checkpoint of step %lld (read in %.2f s)", (long long)facts.step, clock_seconds() - begin);
        compare_numerics(t, facts.signature);
        compare_data(t, facts.extra);
    }
    t->restored = true;
    err = mesh_agree(t->mesh, compare_config(t, facts.config));
    checkpoint_facts_free(&facts);
    return err;
}
