#include "train/numerics.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "ckpt/checkpoint.h"
#include "job/mpi_calls.h"
#include "kernels/plugin.h"
#include "train/device.h"
#include "train/trainer_arrays.h"

/* What the newest checkpoint was made with; what it does not tell, or there is none of, is zero. */
struct before {
    int threads;
    char device[16];
};

static void read_before(const struct trainer *t, struct before *b)
{
    struct checkpoint_facts facts = {0};
    if (trainer_newest_facts(t, &facts) != CAIRN_OK)
        return;
    json_t *extra = facts.extra ? json_loads(facts.extra, 0, NULL) : NULL;
    json_int_t threads = json_integer_value(json_object_get(extra, TRAINER_THREADS));
    const char *device = json_string_value(json_object_get(extra, TRAINER_DEVICE));
    b->threads = threads > 0 && threads <= 4096 ? (int)threads : 0;
    snprintf(b->device, sizeof b->device, "%s", device ? device : "");
    json_decref(extra);
    checkpoint_facts_free(&facts);
}

/* auto chooses at a fresh start: a run whose GPU failed does not go on on processors unseen, nor with other last bits. */
static enum config_device choose_device(const struct trainer *t, const struct before *b)
{
    if (t->config->device != DEVICE_AUTO)
        return (enum config_device)t->config->device;
    if (strcmp(b->device, "cuda") == 0)
        return DEVICE_CUDA;
    if (strcmp(b->device, "cpu") != 0)
        return DEVICE_AUTO;
    if (t->mesh->rank == 0 && plugin_is_there("cuda"))
        log_info("device: auto keeps to processors, which the checkpoint was made on; device: cuda would go on on GPUs");
    return DEVICE_CPU;
}

static cairn_err open_device(struct trainer *t, const struct before *b, int threads)
{
    struct config config = *t->config;
    config.device = choose_device(t, b);
    cairn_err err = device_open(&config, t->mesh, t->job, threads, &t->backend);
    if (err && config.device != t->config->device)
        return error_context(err, config.device == DEVICE_CUDA ? "the checkpoint was made on GPUs, and device: auto keeps to them (device: cpu goes on on processors)"
                                                               : "the checkpoint was made on processors, and device: auto keeps to them (device: cuda goes on on GPUs)");
    return err;
}

static cairn_err choose_threads(const struct trainer *t, int before, int *threads)
{
    int own = trainer_threads(t->config, job_local_size(t->job));
    *threads = own;
    if (t->config->threads > 0)
        return CAIRN_OK;
    TRY(mpi_allreduce(&own, threads, 1, MPI_INT, MPI_MIN, t->mesh->world, "counting threads"));
    if (before > 0 && before != *threads && t->mesh->rank == 0)
        log_info("%d thread%s a rank, as the checkpoint was made with, for the same bits (%d would fit); set threads to change it",
                 before, before == 1 ? "" : "s", *threads);
    *threads = before > 0 ? before : *threads;
    return CAIRN_OK;
}

/* Rank 0's signature beside this rank's: the first rank that differs says so. */
cairn_err numerics_compare(const struct trainer *t)
{
    char first[256];
    const char *own = t->backend->table->signature(t->backend);
    snprintf(first, sizeof first, "%s", own);
    TRY(mesh_broadcast(t->mesh, first, sizeof first, 0));
    int differs = strcmp(first, own) != 0 ? t->mesh->rank : t->mesh->size, lowest;
    TRY(mpi_allreduce(&differs, &lowest, 1, MPI_INT, MPI_MIN, t->mesh->world, "comparing numerics"));
    if (lowest == t->mesh->rank)
        log_warning("ranks differ in their numerics: %s here, %s on rank 0; the last bits depend on which rank computed what%s",
                    own, first, t->backend->table->host_memory ? "; instruction_set can bring them together" : "");
    return CAIRN_OK;
}

cairn_err numerics_open(struct trainer *t)
{
    int threads;
    struct before before = {0};
    if (t->mesh->rank == 0)
        read_before(t, &before);
    TRY(mesh_broadcast(t->mesh, &before, sizeof before, 0));
    TRY(choose_threads(t, before.threads, &threads));
    TRY(open_device(t, &before, threads));
    t->threads = t->backend->threads;
    return CAIRN_OK;
}
