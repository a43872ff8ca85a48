#include "train/trainer_arrays.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "train/compressed.h"

struct checkpoint_group trainer_group(const struct trainer *t)
{
    return (struct checkpoint_group){.comm = t->mesh->world, .node_of = t->mesh->node_of};
}

cairn_err trainer_list_arrays(struct trainer *t)
{
    const struct compressed *compressed = t->gradient ? gradient_compressed(t->gradient) : NULL;
    for (int i = 0; i < t->weights_count; i++)
        t->standard_count += weights_shard_count(&t->weights[i]);
    int room = LOCAL_SHARDS * t->standard_count + (compressed ? compressed_shard_count(compressed) : 0);
    t->standard = calloc((size_t)t->standard_count + 1, sizeof *t->standard);
    t->shards = calloc((size_t)room + 1, sizeof *t->shards);
    if (!t->standard || !t->shards)
        return FAIL(CAIRN_ENOMEM, "no memory for the list of arrays");
    struct shard *next = t->standard;
    for (int i = 0; i < t->weights_count; next += weights_shard_count(&t->weights[i++]))
        weights_shards(&t->weights[i], next);
    if (t->local)
        return local_steps_shards(t->local, t->standard, t->standard_count, t->shards, &t->must_count, &t->shard_count);
    memcpy(t->shards, t->standard, (size_t)t->standard_count * sizeof *t->shards);
    t->shard_count = t->must_count = t->standard_count;
    if (compressed) {
        compressed_shards(compressed, t->shards + t->must_count);
        t->shard_count += compressed_shard_count(compressed);
    }
    return CAIRN_OK;
}

/* ---- restoring ---- */

static cairn_err read_list(struct trainer *t, struct checkpoint_facts *facts, const struct shard *shards, int count)
{
    struct checkpoint_group group = trainer_group(t);
    return mesh_agree(t->mesh, checkpoint_restore(&group, t->checkpoints, facts, shards, count));
}

/* The weights alone, of a checkpoint of replicas that trained alone. */
static cairn_err read_weights(struct trainer *t, struct checkpoint_facts *facts)
{
    struct shard *weights = calloc((size_t)t->standard_count + 1, sizeof *weights);
    int count = 0;
    TRY(mesh_agree(t->mesh, weights ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for the list of arrays")));
    for (int i = 0; i < t->standard_count; i++)
        if (strncmp(t->standard[i].name, "weights/", strlen("weights/")) == 0)
            weights[count++] = t->standard[i];
    cairn_err err = read_list(t, facts, weights, count);
    free(weights);
    return err;
}

/* -1: the checkpoint is not of replicas that train alone. */
static int64_t joined_step(const struct checkpoint_facts *facts)
{
    json_t *extra = facts->extra ? json_loads(facts->extra, 0, NULL) : NULL, *step = json_object_get(extra, TRAINER_JOINED);
    int64_t joined = json_is_integer(step) ? (int64_t)json_integer_value(step) : -1;
    json_decref(extra);
    return joined;
}

static void forget_moments(struct trainer *t)
{
    for (int i = 0; i < t->weights_count; i++) {
        const struct weights *w = &t->weights[i];
        size_t bytes = (size_t)w->own_elements * dtype_size(w->backend->acc);
        w->backend->table->zero(w->backend, w->moment1, bytes);
        w->backend->table->zero(w->backend, w->moment2, bytes);
    }
}

/* Of replicas that trained alone, and were others, only what they joined last serves. */
static cairn_err take_joined(struct trainer *t, const struct checkpoint_facts *facts, enum local_start start, const char *why, int64_t *step)
{
    *step = joined_step(facts);
    if (*step < 0)
        return FAIL(CAIRN_ECONFIG, "the checkpoint of step %lld has no moments", (long long)facts->step);
    forget_moments(t);
    if (t->local)
        local_steps_restart(t->local, start, *step);
    if (t->mesh->rank == 0)
        log_warning("the replicas of the checkpoint of step %lld trained alone, and these are others (%s): goes back to step %lld, where "
                    "weights were joined last; moments begin from zero", (long long)facts->step, why, (long long)*step);
    return CAIRN_OK;
}

static cairn_err read_local(struct trainer *t, struct checkpoint_facts *facts, const char *why, int64_t *step)
{
    cairn_err err = read_list(t, facts, t->standard, t->standard_count);
    *step = facts->step;
    if (!err) {
        local_steps_restart(t->local, LOCAL_FROM_WEIGHTS, facts->step);
        if (t->mesh->rank == 0)
            log_info("replicas train alone from here on, all from the same weights and moments");
        return CAIRN_OK;
    }
    if (err == CAIRN_ECONFIG) {
        err = read_list(t, facts, t->shards, t->must_count);
        if (!err)
            return take_joined(t, facts, LOCAL_FROM_JOINED, why, step);
    }
    if (err != CAIRN_ECONFIG)
        return err;
    TRY(read_weights(t, facts));
    return take_joined(t, facts, LOCAL_FROM_WEIGHTS, why, step);
}

static cairn_err read_bulk(struct trainer *t, struct checkpoint_facts *facts, const char *why, int64_t *step)
{
    struct compressed *compressed = t->gradient ? gradient_compressed(t->gradient) : NULL;
    if (compressed) {
        cairn_err err = read_list(t, facts, t->shards, t->must_count);
        compressed_forget(compressed);
        *step = facts->step;
        if (!err && t->mesh->rank == 0)
            log_warning("what parallel.compress had not sent yet is lost, it begins anew from zero: %s", why);
        if (err != CAIRN_ECONFIG)
            return err;
    }
    TRY(read_weights(t, facts));
    return take_joined(t, facts, LOCAL_FROM_WEIGHTS, why, step);
}

cairn_err trainer_read_arrays(struct trainer *t, struct checkpoint_facts *facts, int64_t *step)
{
    char why[512];
    cairn_err err = read_list(t, facts, t->shards, t->shard_count);
    *step = facts->step;
    if (!err && t->local)
        local_steps_restart(t->local, LOCAL_EXACTLY, joined_step(facts));
    if (err != CAIRN_ECONFIG)
        return err;
    snprintf(why, sizeof why, "%s", cairn_err_message());
    return t->local ? read_local(t, facts, why, step) : read_bulk(t, facts, why, step);
}
