#include "train/parallel.h"

struct schedule_desc parallel_schedule(const struct config *c, int64_t microbatches)
{
    return (struct schedule_desc){.kind = (enum schedule_kind)c->parallel.schedule, .stages = (int)c->parallel.pipeline,
                                  .chunks = (int)c->parallel.chunks, .microbatches = microbatches};
}

static cairn_err check_compression(const struct config *c)
{
    if (c->parallel.compress == CONFIG_COMPRESS_NONE)
        return CAIRN_OK;
    if (c->parallel.zero >= 2)
        return FAIL(CAIRN_ECONFIG, "parallel.compress keeps on each rank what it has not sent of the whole gradient, which "
                    "parallel.zero %lld never holds; at most zero 1 goes with it", (long long)c->parallel.zero);
    if (c->parallel.reduce == REDUCE_FAST)
        return FAIL(CAIRN_ECONFIG, "parallel.compress has its own order of sums: parallel.reduce fast does not go with it");
    if (c->parallel.expert > 1)
        return FAIL(CAIRN_ECONFIG, "parallel.compress sums over all copies, and parallel.expert %lld holds each expert on a part of them",
                    (long long)c->parallel.expert);
    if (c->precision == PRECISION_FLOAT64)
        return FAIL(CAIRN_ECONFIG, "parallel.compress is of float32 sums: precision float64 does not go with it");
    return CAIRN_OK;
}

static cairn_err check_local(const struct config *c)
{
    if (c->parallel.sync != SYNC_LOCAL)
        return CAIRN_OK;
    if (c->parallel.zero > 0)
        return FAIL(CAIRN_ECONFIG, "parallel.sync local: each replica has weights and moments of its own, which parallel.zero %lld cannot "
                    "share", (long long)c->parallel.zero);
    if (c->parallel.reduce == REDUCE_FAST || c->parallel.compress != CONFIG_COMPRESS_NONE)
        return FAIL(CAIRN_ECONFIG, "parallel.sync local exchanges weights, not gradients: parallel.%s does not go with it",
                    c->parallel.reduce == REDUCE_FAST ? "reduce fast" : "compress");
    if (c->parallel.expert > 1)
        return FAIL(CAIRN_ECONFIG, "parallel.sync local does not go with parallel.expert %lld: no replica has all experts",
                    (long long)c->parallel.expert);
    if (c->parallel.context > 1)
        return FAIL(CAIRN_ECONFIG, "parallel.sync local does not go with parallel.context %lld: ranks that share sequences would have to "
                    "train together", (long long)c->parallel.context);
    return CAIRN_OK;
}

static cairn_err check_server(const struct config *c)
{
    const struct {
        const char *name;
        bool given;
    } others[] = {{"tensor", c->parallel.tensor > 1}, {"context", c->parallel.context > 1}, {"pipeline", c->parallel.pipeline > 1},
                  {"expert", c->parallel.expert > 1}, {"chunks", c->parallel.chunks > 1}, {"sequence", c->parallel.sequence},
                  {"zero", c->parallel.zero > 0}, {"reduce fast", c->parallel.reduce == REDUCE_FAST},
                  {"compress", c->parallel.compress != CONFIG_COMPRESS_NONE}};
    if (c->parallel.sync != SYNC_SERVER)
        return CAIRN_OK;
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (others[i].given)
            return FAIL(CAIRN_ECONFIG, "parallel.sync server: each worker has the whole model and the servers share its state; "
                        "parallel.%s does not go with it", others[i].name);
    if (c->trace)
        return FAIL(CAIRN_ECONFIG, "parallel.sync server: workers may come and go, and are not traced: trace does not go with it");
    return CAIRN_OK;
}

/* What no layout makes fit. */
static cairn_err check_modes(const struct config *c)
{
    if (c->parallel.chunks > 1 && c->parallel.schedule != CONFIG_INTERLEAVED)
        return FAIL(CAIRN_ECONFIG, "parallel.chunks is %lld: only parallel.schedule interleaved deals several pieces to a stage",
                    (long long)c->parallel.chunks);
    if (c->parallel.schedule == CONFIG_INTERLEAVED && c->parallel.pipeline > 1 && c->parallel.chunks == 1)
        return FAIL(CAIRN_ECONFIG, "parallel.schedule interleaved needs parallel.chunks of at least 2");
    if (c->parallel.expert > 1 && c->model.experts == 0)
        return FAIL(CAIRN_ECONFIG, "parallel.expert is %lld, but model.experts is 0: there are none to share", (long long)c->parallel.expert);
    if (c->parallel.sequence && c->model.dropout > 0 && c->model.width % 4 != 0)
        return FAIL(CAIRN_ECONFIG, "parallel.sequence with model.dropout needs a model.width that 4 divides, not %lld",
                    (long long)c->model.width);
    TRY(check_server(c));
    TRY(check_local(c));
    return check_compression(c);
}

cairn_err parallel_layout(const struct config *c, int64_t vocabulary, int ranks, struct layout *out)
{
    const struct layout_limits limits = {.layers = c->model.layers, .heads = c->model.heads, .vocabulary = vocabulary,
                                         .context = c->model.context, .microbatches = c->batch.microbatches,
                                         .experts = c->model.experts};
    *out = layout_asked(c);
    TRY(check_modes(c));
    TRY(layout_fit(out, ranks, &limits));
    const struct schedule_desc schedule = parallel_schedule(c, (c->batch.microbatches + out->data - 1) / out->data);
    return schedule_check(&schedule);
}
