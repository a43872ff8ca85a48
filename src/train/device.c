#include "train/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/log.h"
#include "job/mpi_calls.h"
#include "job/near.h"
#include "kernels/plugin.h"

static const enum dtype precision_types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F64}; /* by enum config_precision */

/* What the config asks for that is done on processors alone; NULL: nothing. */
static const char *not_done_on_gpus(const struct config *c)
{
    const struct {
        const char *name;
        bool given;
    } others[] = {{"parallel.compress", c->parallel.compress != CONFIG_COMPRESS_NONE}, {"parallel.sync local", c->parallel.sync == SYNC_LOCAL},
                  {"parallel.sync server", c->parallel.sync == SYNC_SERVER}};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (others[i].given)
            return others[i].name;
    return NULL;
}

static cairn_err open_named(const struct config *c, const char *name, int local_rank, int threads, struct backend **out)
{
    bool pipeline = c->parallel.pipeline > 1 || config_chooses(c, "pipeline");
    const struct backend_options options = {.act = precision_types[c->precision], .threads = threads,
                                            .instruction_set = c->instruction_set, .device = local_rank,
                                            .float8 = c->float8 == CONFIG_FLOAT8_LINEAR, .waits_for_ranks = pipeline,
                                            .timed_products = c->algorithms == ALGORITHMS_TIMED};
    return backend_open(name, &options, out);
}

/* What is wrong with it whatever GPUs there are. */
static cairn_err check_float8(const struct config *c)
{
    if (c->float8 == CONFIG_FLOAT8_NONE)
        return CAIRN_OK;
    if (c->precision != PRECISION_BFLOAT16)
        return FAIL(CAIRN_ECONFIG, "float8: linear goes with precision: bfloat16 alone");
    if (c->device == DEVICE_CPU || c->device == DEVICE_REFERENCE)
        return FAIL(CAIRN_ECONFIG, "float8: linear needs a GPU; float8: none goes without one");
    return CAIRN_OK;
}

/* Processors have no float8, and other numbers are not taken unasked. */
static cairn_err open_processors(const struct config *c, int threads, const char *why, struct backend **out)
{
    if (c->float8 != CONFIG_FLOAT8_NONE)
        return FAIL(CAIRN_ENODEVICE, "float8: linear needs a GPU, and device: auto has none%s%s", *why ? ": " : "", why);
    return open_named(c, "cpu", 0, threads, out);
}

/* A GPU, *OUT NULL if there is none. That auto takes the processor instead needs no words where no GPU was to be expected: *WHY is empty. */
static void find_gpu(const struct config *c, int local_rank, int threads, struct backend **out, char *why, size_t size)
{
    *out = NULL;
    *why = 0;
    if (c->precision == PRECISION_FLOAT64)
        return;
    if (open_named(c, "cuda", local_rank, threads, out) != CAIRN_OK && plugin_is_there("cuda"))
        snprintf(why, size, "%s", cairn_err_message());
}

cairn_err device_open_alone(const struct config *c, int local_rank, int threads, struct backend **out)
{
    char why[512];
    TRY(check_float8(c));
    switch ((enum config_device)c->device) {
    case DEVICE_CPU: return open_named(c, "cpu", local_rank, threads, out);
    case DEVICE_REFERENCE: return open_named(c, "reference", local_rank, threads, out);
    case DEVICE_CUDA: return open_named(c, "cuda", local_rank, threads, out);
    case DEVICE_AUTO: break;
    }
    *why = 0;
    *out = NULL;
    if (!not_done_on_gpus(c))
        find_gpu(c, local_rank, threads, out, why, sizeof why);
    if (*out)
        return CAIRN_OK;
    if (*why && c->float8 == CONFIG_FLOAT8_NONE)
        log_info("device: auto takes the processor: %s", why);
    return open_processors(c, threads, why, out);
}

/* How many ranks found a GPU, and the lowest one's reason that found none. */
static cairn_err count_found(struct mesh *mesh, bool found, char *why, size_t size, int *all)
{
    int mine[2] = {found, found ? mesh->size : mesh->rank}, lowest;
    TRY(mpi_allreduce(&mine[0], all, 1, MPI_INT, MPI_SUM, mesh->world, "counting GPUs"));
    TRY(mpi_allreduce(&mine[1], &lowest, 1, MPI_INT, MPI_MIN, mesh->world, "counting GPUs"));
    return lowest < mesh->size ? mesh_broadcast(mesh, why, (int64_t)size, lowest) : CAIRN_OK;
}

cairn_err device_count_sharing(struct mesh *mesh, const struct backend *b, int *sharing, bool *mine)
{
    int shares = 0;
    int64_t *keys = calloc((size_t)mesh->size, sizeof *keys);
    TRY(mesh_agree(mesh, keys ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory to compare GPUs")));
    keys[mesh->rank] = (int64_t)XXH3_64bits(b->unit, strlen(b->unit));
    cairn_err err = mpi_allreduce(MPI_IN_PLACE, keys, mesh->size, MPI_INT64_T, MPI_SUM, mesh->world, "comparing GPUs");
    for (int r = 0; r < mesh->rank && !err; r++)
        shares |= keys[r] == keys[mesh->rank] && mesh->node_of[r] == mesh->node_of[mesh->rank];
    free(keys);
    TRY(err);
    *mine = shares;
    return mpi_allreduce(&shares, sharing, 1, MPI_INT, MPI_SUM, mesh->world, "comparing GPUs");
}

static cairn_err take_processors(const struct config *c, struct mesh *mesh, int threads, const char *why, struct backend **out)
{
    if (*out)
        (*out)->table->close(*out);
    *out = NULL;
    return mesh_agree(mesh, open_processors(c, threads, why, out));
}

/* Why no GPUs are taken, of which FOUND ranks have one, for WHY_NOT; empty where none was to be expected. True: that should be mended. */
static bool tell_why(const struct config *c, const struct mesh *mesh, int found, int sharing, const char *why_not, char *text, size_t size)
{
    const char *not_done = not_done_on_gpus(c);
    *text = 0;
    if (not_done && plugin_is_there("cuda"))
        snprintf(text, size, "%s is not done on GPUs yet", not_done);
    else if (sharing > 0)
        snprintf(text, size, "%d of %d ranks would share a GPU with another (device: cuda has them do so)", sharing, mesh->size);
    else if (found > 0)
        snprintf(text, size, "only %d of %d ranks have a GPU%s%s", found, mesh->size, *why_not ? ": " : "", why_not);
    else if (!not_done)
        snprintf(text, size, "%s", why_not);
    return found > 0;
}

static cairn_err open_automatic(const struct config *c, struct mesh *mesh, const struct job *job, int threads, struct backend **out)
{
    char why[512] = "", text[768];
    int found = 0, sharing = 0;
    bool mine;
    *out = NULL;
    if (!not_done_on_gpus(c)) {
        find_gpu(c, job_local_rank(job), threads, out, why, sizeof why);
        TRY(count_found(mesh, *out != NULL, why, sizeof why, &found));
    }
    if (found == mesh->size)
        TRY(device_count_sharing(mesh, *out, &sharing, &mine));
    if (found == mesh->size && sharing == 0)
        return CAIRN_OK;
    bool warn = tell_why(c, mesh, found, sharing, why, text, sizeof text);
    if (mesh->rank == 0 && *text && c->float8 == CONFIG_FLOAT8_NONE)
        (warn ? log_warning : log_info)("device: auto takes processors: %s", text);
    return take_processors(c, mesh, threads, text, out);
}

static cairn_err open_asked(const struct config *c, struct mesh *mesh, const struct job *job, int threads, struct backend **out)
{
    int sharing = 0;
    bool mine;
    TRY(mesh_agree(mesh, device_open_alone(c, job_local_rank(job), threads, out)));
    if (!(*out)->table->host_memory)
        TRY(device_count_sharing(mesh, *out, &sharing, &mine));
    if (sharing > 0 && mesh->rank == 0)
        log_warning("%d of %d ranks share a GPU with another: as many ranks on a node as it has GPUs would be faster", sharing, mesh->size);
    return CAIRN_OK;
}

/* What a rank keeps for its GPU, and copies there, is then in the memory next to it. A node of one NUMA node has nothing to bind to. */
static cairn_err go_near(struct mesh *mesh, const struct backend *b)
{
    int bound = near_bind(b->unit) > 0, all;
    TRY(mpi_allreduce(&bound, &all, 1, MPI_INT, MPI_SUM, mesh->world, "counting ranks near their GPUs"));
    if (mesh->rank == 0 && all > 0)
        log_info("%d of %d ranks bound to the cores near their GPUs", all, mesh->size);
    return CAIRN_OK;
}

cairn_err device_open(const struct config *c, struct mesh *mesh, const struct job *job, int threads, struct backend **out)
{
    TRY(mesh_agree(mesh, check_float8(c)));
    TRY((c->device == DEVICE_AUTO ? open_automatic : open_asked)(c, mesh, job, threads, out));
    return (*out)->table->host_memory ? CAIRN_OK : go_near(mesh, *out);
}

cairn_err device_check(const struct config *c, const struct backend *backend)
{
    const char *name = backend->table->host_memory ? NULL : not_done_on_gpus(c);
    if (c->optimizer.rounding == ROUNDING_STOCHASTIC && backend->act != DTYPE_BF16)
        return FAIL(CAIRN_ECONFIG, "optimizer.rounding stochastic needs precision bfloat16: weights in %s are not rounded",
                    dtype_name(backend->act));
    return name ? FAIL(CAIRN_ECONFIG, "%s is not done on GPUs yet; device: cpu trains with it on processors", name) : CAIRN_OK;
}
