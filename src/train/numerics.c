#include "train/numerics.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "ckpt/checkpoint.h"
#include "job/mpi_calls.h"

/* Of the newest checkpoint; 0: there is none, or it does not tell. */
static int checkpoint_threads(const struct trainer *t)
{
    struct checkpoint_facts facts = {0};
    if (trainer_newest_facts(t, &facts) != CAIRN_OK)
        return 0;
    json_t *extra = facts.extra ? json_loads(facts.extra, 0, NULL) : NULL;
    json_int_t threads = json_integer_value(json_object_get(extra, "threads"));
    json_decref(extra);
    checkpoint_facts_free(&facts);
    return threads > 0 && threads <= 4096 ? (int)threads : 0;
}

static cairn_err choose_threads(const struct trainer *t, int *threads)
{
    int own = trainer_threads(t->config, job_local_size(t->job)), before = 0;
    *threads = own;
    if (t->config->threads > 0)
        return CAIRN_OK;
    TRY(mpi_allreduce(&own, threads, 1, MPI_INT, MPI_MIN, t->mesh->world, "counting threads"));
    if (t->mesh->rank == 0)
        before = checkpoint_threads(t);
    TRY(mesh_broadcast(t->mesh, &before, sizeof before, 0));
    if (before > 0 && before != *threads && t->mesh->rank == 0)
        log_info("%d thread%s a rank, as the checkpoint was made with, for the same bits (%d would fit); set threads to change it",
                 before, before == 1 ? "" : "s", *threads);
    *threads = before > 0 ? before : *threads;
    return CAIRN_OK;
}

/* Rank 0's signature beside this rank's: the first rank that differs says so. */
static cairn_err compare_ranks(const struct trainer *t)
{
    char first[256];
    const char *own = t->backend->table->signature(t->backend);
    snprintf(first, sizeof first, "%s", own);
    TRY(mesh_broadcast(t->mesh, first, sizeof first, 0));
    int differs = strcmp(first, own) != 0 ? t->mesh->rank : t->mesh->size, lowest;
    TRY(mpi_allreduce(&differs, &lowest, 1, MPI_INT, MPI_MIN, t->mesh->world, "comparing numerics"));
    if (lowest == t->mesh->rank)
        log_warning("ranks differ in their numerics: %s here, %s on rank 0; the last bits depend on which rank computed what; "
                    "instruction_set can bring them together", own, first);
    return CAIRN_OK;
}

cairn_err numerics_open(struct trainer *t)
{
    int threads;
    TRY(choose_threads(t, &threads));
    TRY(mesh_agree(t->mesh, trainer_backend(t->config, threads, &t->backend)));
    t->threads = t->backend->threads;
    return compare_ranks(t);
}
