#include "train/local_steps.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/trace.h"
#include "job/mpi_calls.h"
#include "mesh/collective.h"
#include "mesh/tree.h"
#include "train/optimizer.h"

static const double usual_rates[] = {1, 0.7}; /* by enum config_outer; the latter is DiLoCo's */

/* Of a piece's weights: as joined last, and the outer momentum. */
struct outer {
    char *joined, *momentum;
};

struct local_steps {
    struct mesh *mesh;
    const struct config *config;
    struct weights *weights;
    struct outer *outers;
    int count;
    int64_t microbatches, joined;
    MPI_Comm self;
    struct group self_group;
    struct gradient_alone alone;
};

static size_t bytes_of(const struct weights *w)
{
    return (size_t)w->own_elements * dtype_size(w->backend->acc);
}

static bool has_momentum(const struct local_steps *l)
{
    return l->config->parallel.outer == OUTER_NESTEROV;
}

static cairn_err allocate(struct local_steps *l)
{
    l->outers = calloc((size_t)l->count + 1, sizeof *l->outers);
    bool memory = l->outers != NULL;
    for (int i = 0; i < l->count && memory; i++) {
        struct outer *o = &l->outers[i];
        o->joined = calloc(bytes_of(&l->weights[i]) + 1, 1);
        o->momentum = has_momentum(l) ? calloc(bytes_of(&l->weights[i]) + 1, 1) : NULL;
        memory = o->joined && (o->momentum || !has_momentum(l));
    }
    return memory ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for the weights that replicas joined last");
}

static cairn_err open_groups(struct local_steps *l)
{
    struct mesh *m = l->mesh;
    TRY(mpi_check(MPI_Comm_dup(MPI_COMM_SELF, &l->self), "making a replica's communicators"));
    TRY(group_open(&l->self_group, l->self, 0));
    TRY(mpi_check(MPI_Comm_split(m->world, m->place.data, m->rank, &l->alone.replica), "making a replica's communicators"));
    MPI_Comm_set_errhandler(l->alone.replica, MPI_ERRORS_RETURN);
    l->alone.self = &l->self_group;
    return CAIRN_OK;
}

cairn_err local_steps_open(struct mesh *mesh, const struct config *config, int count, struct weights *weights, struct local_steps **out)
{
    struct local_steps *l = calloc(1, sizeof *l);
    if (!l)
        return FAIL(CAIRN_ENOMEM, "no memory for local steps");
    *l = (struct local_steps){.mesh = mesh, .config = config, .weights = weights, .count = count, .self = MPI_COMM_NULL,
                              .alone = {.replica = MPI_COMM_NULL}};
    int64_t first;
    tree_share(config->batch.microbatches, mesh->layout.data, mesh->place.data, &first, &l->microbatches);
    cairn_err err;
    TRY_GOTO(err, allocate(l), failed);
    TRY_GOTO(err, open_groups(l), failed);
    *out = l;
    return CAIRN_OK;
failed:
    local_steps_close(l);
    return err;
}

void local_steps_close(struct local_steps *l)
{
    if (!l)
        return;
    group_close(&l->self_group);
    if (l->self != MPI_COMM_NULL)
        MPI_Comm_free(&l->self);
    if (l->alone.replica != MPI_COMM_NULL)
        MPI_Comm_free(&l->alone.replica);
    for (int i = 0; l->outers && i < l->count; i++) {
        free(l->outers[i].joined);
        free(l->outers[i].momentum);
    }
    free(l->outers);
    free(l);
}

const struct gradient_alone *local_steps_alone(const struct local_steps *l)
{
    return &l->alone;
}

int64_t local_steps_microbatches(const struct local_steps *l)
{
    return l->microbatches;
}

int64_t local_steps_joined(const struct local_steps *l)
{
    return l->joined;
}

/* ---- joining ---- */

static double get(const void *vector, int64_t i, enum dtype dtype)
{
    return dtype == DTYPE_F64 ? ((const double *)vector)[i] : (double)((const float *)vector)[i];
}

static void set(void *vector, int64_t i, enum dtype dtype, double x)
{
    if (dtype == DTYPE_F64)
        ((double *)vector)[i] = x;
    else
        ((float *)vector)[i] = (float)x;
}

/* The mean of all replicas' weights: of one replica, its own to the bit. */
static cairn_err average(struct local_steps *l, struct weights *w)
{
    double weight = (double)l->microbatches / (double)l->config->batch.microbatches;
    enum dtype acc = w->backend->acc;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < w->own_elements; i++)
        set(w->master, i, acc, weight * get(w->master, i, acc));
    return group_all_reduce(&l->mesh->replicas, w->master, w->own_elements, acc);
}

/* From the weights joined last towards the mean, which MASTER is. */
static void step_outer(const struct local_steps *l, struct weights *w, struct outer *o)
{
    const struct config *c = l->config;
    double rate = c->parallel.outer_rate > 0 ? c->parallel.outer_rate : usual_rates[c->parallel.outer], keep = c->parallel.outer_momentum;
    bool nesterov = has_momentum(l);
    enum dtype acc = w->backend->acc;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < w->own_elements; i++) {
        double before = get(o->joined, i, acc), delta = before - get(w->master, i, acc);
        if (nesterov) {
            set(o->momentum, i, acc, keep * get(o->momentum, i, acc) + delta);
            delta += keep * get(o->momentum, i, acc);
        }
        if (nesterov || rate != 1) /* the mean itself, to the bit */
            set(w->master, i, acc, before - rate * delta);
    }
    memcpy(o->joined, w->master, bytes_of(w));
}

cairn_err local_steps_join(struct local_steps *l, int64_t step, int64_t update)
{
    const struct weights_rounding rounding = optimizer_rounding(l->config, update);
    if (step % l->config->parallel.local_steps != 0 && step != l->config->steps)
        return CAIRN_OK;
    uint64_t begun = trace_begin();
    for (int i = 0; i < l->count; i++) {
        TRY(average(l, &l->weights[i]));
        step_outer(l, &l->weights[i], &l->outers[i]);
        weights_refresh(&l->weights[i], &rounding);
    }
    trace_end(begun, TRACE_COMMUNICATION, "joining weights", step);
    l->joined = step;
    return CAIRN_OK;
}

void local_steps_restart(struct local_steps *l, enum local_start start, int64_t joined)
{
    l->joined = joined;
    for (int i = 0; i < l->count && start != LOCAL_EXACTLY; i++) {
        struct weights *w = &l->weights[i];
        struct outer *o = &l->outers[i];
        if (start == LOCAL_FROM_JOINED)
            memcpy(w->master, o->joined, bytes_of(w));
        else
            memcpy(o->joined, w->master, bytes_of(w));
        if (start == LOCAL_FROM_WEIGHTS && o->momentum)
            memset(o->momentum, 0, bytes_of(w));
    }
}

/* ---- checkpoints ---- */

static cairn_err name_shard(struct shard *s, const char *group, const char *name)
{
    int length = snprintf(s->name, sizeof s->name, "%s/%s", group, name);
    if (length < 0 || length >= (int)sizeof s->name)
        return FAIL(CAIRN_EINVAL, "the name of array %s is too long to be kept for each replica", name);
    return CAIRN_OK;
}

/* Adds what all replicas have alike of array S, which lies in a piece's master weights. */
static cairn_err add_alike(const struct local_steps *l, const struct shard *s, const char *name, struct shard *out, int *count)
{
    for (int i = 0; i < l->count; i++) {
        const char *master = l->weights[i].master, *data = s->data;
        if (data < master || data >= master + bytes_of(&l->weights[i]))
            continue;
        out[*count] = *s;
        out[(*count)++].data = l->outers[i].joined + (data - master);
        if (!has_momentum(l))
            continue;
        out[*count] = *s;
        out[*count].data = l->outers[i].momentum + (data - master);
        TRY(name_shard(&out[(*count)++], "outer/momentum", name));
    }
    return CAIRN_OK;
}

static cairn_err add_own(const struct local_steps *l, const struct shard *s, struct shard *out)
{
    *out = *s;
    out->dims = s->dims + 1;
    out->shape[0] = l->mesh->layout.data;
    out->offset[0] = l->mesh->place.data;
    out->extent[0] = 1;
    for (int d = 0; d < s->dims; d++) {
        out->shape[d + 1] = s->shape[d];
        out->offset[d + 1] = s->offset[d];
        out->extent[d + 1] = s->extent[d];
    }
    return name_shard(out, "local", s->name);
}

cairn_err local_steps_shards(const struct local_steps *l, const struct shard *standard, int count, struct shard *shards, int *alike, int *all)
{
    static const char weights[] = "weights/";
    size_t length = strlen(weights);
    *alike = 0;
    for (int i = 0; i < count; i++)
        if (strncmp(standard[i].name, weights, length) == 0)
            TRY(add_alike(l, &standard[i], standard[i].name + length, shards, alike));
    *all = *alike;
    for (int i = 0; i < count; i++) {
        if (standard[i].dims == SHARD_MAX_DIMS)
            return FAIL(CAIRN_EINVAL, "array %s has too many dimensions to be kept for each replica", standard[i].name);
        TRY(add_own(l, &standard[i], &shards[(*all)++]));
    }
    return CAIRN_OK;
}
