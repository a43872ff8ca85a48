#include "train/automatic.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "ckpt/checkpoint.h"
#include "job/memory.h"
#include "job/mpi_calls.h"
#include "plan/automatic.h"
#include "train/device.h"

/* Bytes that this rank may take; GPUs that ranks share are shared by all of a node. */
static int64_t own_memory(const struct trainer *t, int sharing)
{
    const struct backend *b = t->backend;
    int64_t bytes = t->config->parallel.memory * 1000000;
    if (bytes == 0)
        bytes = b->table->host_memory ? memory_of_node() / job_local_size(t->job) : b->free_memory / (sharing > 0 ? job_local_size(t->job) : 1);
    return bytes > 0 ? bytes : INT64_MAX;
}

/* Whether GPUs will be linked (train/links.c), as far as can be told before: the library is there. */
static bool may_be_linked(const struct trainer *t, int sharing)
{
    const struct backend *b = t->backend;
    unsigned char id[LINK_ID_BYTES];
    const enum config_links links = (enum config_links)t->config->parallel.links;
    if (!b->table->link_id || links == LINKS_HOST || (sharing > 0 && links == LINKS_AUTO))
        return false;
    return b->table->link_id(t->backend, id) == CAIRN_OK;
}

/* What all ranks know of the machine: the fewest ranks on a node, the least memory of a rank, whether all GPUs may be linked. */
static cairn_err count_machine(const struct trainer *t, struct planned_ranks *out)
{
    const struct backend *b = t->backend;
    int sharing = 0;
    bool mine;
    if (!b->table->host_memory)
        TRY(device_count_sharing(t->mesh, b, &sharing, &mine));
    int64_t own[] = {job_local_size(t->job), own_memory(t, sharing), may_be_linked(t, sharing)}, least[3];
    TRY(mpi_allreduce(own, least, 3, MPI_INT64_T, MPI_MIN, t->mesh->world, "comparing memory"));
    *out = (struct planned_ranks){.ranks = t->mesh->size, .node_ranks = (int)least[0], .threads = b->threads, .memory = least[1],
                                  .device = b->table->host_memory ? NULL : b->device,
                                  .device_memory = b->memory, .linked = least[2]};
    return CAIRN_OK;
}

/* What the planner cannot judge. */
static cairn_err check_modes(const struct config *c)
{
    if (c->parallel.sync == SYNC_SERVER)
        return FAIL(CAIRN_ECONFIG, "parallel: auto does not plan parameter servers; with parallel.sync server give the layout");
    return CAIRN_OK;
}

/* The config of the newest checkpoint's run. False: there is none, or it cannot be read, which is told. */
static bool config_before(const struct trainer *t, struct config *before)
{
    struct checkpoint_facts facts = {0};
    cairn_err err = trainer_newest_facts(t, &facts);
    if (err == CAIRN_ENOTFOUND)
        return false;
    if (!err && !facts.config)
        err = FAIL(CAIRN_ECORRUPT, "it holds no config");
    if (!err)
        err = config_load(before, "the checkpoint's config", facts.config, 0, NULL);
    checkpoint_facts_free(&facts);
    if (err)
        log_warning("parallel: auto does not know the checkpoint's layout, another one may change the last bits: %s", cairn_err_message());
    return err == CAIRN_OK;
}

/* Whether as many copies as in the run BEFORE are part of the result, as the tensor, context and expert axes always are. An expert group sums
 * what its members' microbatches of one pass give, and which these are depends on the number of copies. */
static bool copies_change_sums(const struct config *c, const struct config *before)
{
    return before->parallel.expert > 1 || c->parallel.sync == SYNC_LOCAL || c->parallel.compress != CONFIG_COMPRESS_NONE || c->parallel.reduce == REDUCE_FAST;
}

/* The axes of the checkpoint's run that change sums, where they are to be chosen. Whether there are any. */
static bool keep_sums(const struct trainer *t, struct plan_constraints *w)
{
    struct config before;
    if (!config_before(t, &before))
        return false;
    w->axes.tensor = w->axes.tensor ? w->axes.tensor : (int)before.parallel.tensor;
    w->axes.context = w->axes.context ? w->axes.context : (int)before.parallel.context;
    w->axes.expert = w->axes.expert ? w->axes.expert : (int)before.parallel.expert;
    if (w->sequence < 0 && before.parallel.tensor > 1)
        w->sequence = before.parallel.sequence;
    if (w->axes.data == 0 && copies_change_sums(t->config, &before))
        w->axes.data = (int)before.parallel.data;
    config_free(&before);
    return true;
}

static cairn_err refuse(const struct plan_result *result, const struct machine *m)
{
    char text[PLAN_LAYOUT_TEXT_SIZE];
    for (int i = 0; i < result->reason_count; i++) {
        const struct plan_reason *r = &result->reasons[i];
        if (r->kind == REFUSED_MEMORY)
            return FAIL(CAIRN_ECONFIG, "parallel: auto finds no layout of %d ranks that fits the %.0f MB of a rank: the nearest (%s) needs %.1f MB "
                        "more", machine_gpus(m), m->gpu->memory_gib * (double)(1 << 30) * 1e-6, plan_layout_text(&r->nearest, text),
                        (double)r->missing * 1e-6);
    }
    return FAIL(CAIRN_ECONFIG, "parallel: auto finds no layout of %d ranks that fits this model and batch", machine_gpus(m));
}

/* With what libraries take. */
static double megabytes(const struct plan *p, const struct machine *m)
{
    return (double)plan_memory_total(&p->memory) * 1e-6 + m->software->reserved_gib * (double)(1 << 30) * 1e-6;
}

static void tell(const struct plan_result *result, const struct machine *m)
{
    char text[PLAN_LAYOUT_TEXT_SIZE];
    const struct plan *best = &result->best[0], *next = &result->best[1];
    int64_t large = 0;
    for (int i = 0; i < result->reason_count; i++)
        large += result->reasons[i].kind == REFUSED_MEMORY ? result->reasons[i].count : 0;
    log_info("parallel: auto chose %s: by plan %.0f of %.0f MB a rank and %.3g s a step; %lld layouts were judged, %lld need more memory",
             plan_layout_text(&best->layout, text), megabytes(best, m), m->gpu->memory_gib * (double)(1 << 30) * 1e-6, best->time.total, (long long)result->tried, (long long)large);
    if (result->count > 1)
        log_info("next best: %s: %.0f MB, %.3g s", plan_layout_text(&next->layout, text), megabytes(next, m), next->time.total);
}

/* The best two, of those that keep the checkpoint's sums if any does. */
static cairn_err search(const struct trainer *t, const struct plan_model *model, const struct machine *m, bool linked, struct plan_result *result)
{
    const struct config *c = t->config;
    struct plan_constraints free = plan_constraints_of(c);
    if (!t->backend->table->host_memory && !linked && free.zero_most > 1)
        free.zero_most = 1; /* train/gradient.c */
    struct plan_constraints kept = free;
    int64_t batch = c->batch.microbatches * c->batch.samples;
    if (keep_sums(t, &kept)) {
        TRY(plan_best(model, batch, m, &kept, 2, result));
        if (result->count == 0 && kept.axes.data != free.axes.data) {
            log_warning("parallel: auto finds no layout of %d ranks with the checkpoint's data %d: other numbers of copies change the result",
                        machine_gpus(m), kept.axes.data);
            kept.axes.data = free.axes.data;
            plan_result_free(result);
            TRY(plan_best(model, batch, m, &kept, 2, result));
        }
        if (result->count > 0)
            return CAIRN_OK;
        char axes[LAYOUT_TEXT_SIZE];
        log_warning("parallel: auto finds no layout of %d ranks with the checkpoint's %s: others change the last bits", machine_gpus(m),
                    layout_sums_text(&kept.axes, axes));
        plan_result_free(result);
    }
    return plan_best(model, batch, m, &free, 2, result);
}

/* Rank 0's choice. */
static cairn_err choose(const struct trainer *t, struct planned_ranks *ranks, struct plan_layout *out)
{
    struct config named = *t->config;
    struct plan_model model;
    struct planned_machine machine;
    struct plan_result result;
    struct hardware *hardware;
    const char *site = getenv("CAIRN_HARDWARE");
    named.model.vocabulary = trainer_vocabulary(t);
    TRY_CONTEXT(plan_model_of(&named, &model), "parallel: auto");
    TRY_CONTEXT(plan_type_of(t->config, &ranks->type), "parallel: auto");
    TRY(hardware_open(site && *site ? site : NULL, &hardware));
    cairn_err err = planned_machine_of(hardware, &named, ranks, &machine);
    hardware_close(hardware);
    TRY(err);
    if (machine.stands_in)
        log_warning("parallel: auto plans for '%s' as for an %s without NVLink: the hardware table lacks it (CAIRN_HARDWARE=FILE describes others)", ranks->device,
                    machine.gpu.name);
    TRY(search(t, &model, &machine.machine, ranks->linked, &result));
    if (result.count > 0) {
        *out = result.best[0].layout;
        tell(&result, &machine.machine);
    } else {
        err = refuse(&result, &machine.machine);
    }
    plan_result_free(&result);
    return err;
}

cairn_err automatic_layout(struct trainer *t)
{
    struct planned_ranks ranks;
    struct plan_layout layout = {0};
    if (!config_chooses(t->config, NULL))
        return CAIRN_OK;
    TRY(mesh_agree(t->mesh, check_modes(t->config)));
    TRY(count_machine(t, &ranks));
    TRY(mesh_agree(t->mesh, t->mesh->rank == 0 ? choose(t, &ranks, &layout) : CAIRN_OK));
    TRY(mesh_broadcast(t->mesh, &layout, sizeof layout, 0));
    t->chosen = *t->config;
    plan_take(&t->chosen, &layout);
    t->config = &t->chosen;
    return CAIRN_OK;
}
