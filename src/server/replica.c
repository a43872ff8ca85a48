#include "server/replica.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io/loader.h"
#include "server/whole.h"
#include "train/partial_sums.h"
#include "train/validation.h"

/* A bucket's way through a share. */
struct bucket_state {
    struct tree_stack stack;
    int64_t added;
};

struct replica {
    const struct config *config;
    struct backend *backend;
    struct dataset *train, *validation;
    struct replica_options options;
    struct graph *graph;
    void *parameters;    /* act */
    void **slots;        /* partial sums, acc */
    int slot_count;
    struct bucket_state *buckets;
    double *squares;
    int64_t first, count; /* the share that is computed */
    struct loader *loader;
    int64_t loader_first, loader_count, loader_step; /* what it gives next */
};

static size_t parameter_bytes(const struct replica *r)
{
    return (size_t)graph_parameter_elements(r->graph) * dtype_size(r->backend->act);
}

static size_t gradient_bytes(const struct replica *r)
{
    return (size_t)graph_gradient_elements(r->graph) * dtype_size(r->backend->acc);
}

static void *at(const struct replica *r, void *vector, int64_t element)
{
    return (char *)vector + (size_t)element * dtype_size(r->backend->acc);
}

/* ---- the graph's hooks ---- */

static cairn_err gradient_begin(void *context, int bucket, void **gradient)
{
    struct replica *r = context;
    struct bucket_state *b = &r->buckets[bucket];
    if (b->added == 0)
        tree_begin(&b->stack, r->options.joined ? r->count : r->config->batch.microbatches);
    *gradient = at(r, r->slots[b->stack.count], graph_bucket_at(r->graph, bucket)->offset);
    return CAIRN_OK;
}

static cairn_err gradient_ready(void *context, int bucket)
{
    struct replica *r = context;
    struct bucket_state *b = &r->buckets[bucket];
    const struct graph_bucket *g = graph_bucket_at(r->graph, bucket);
    partial_sums_push(r->backend, &b->stack, r->slots, g->offset, g->elements, (r->options.joined ? 0 : r->first) + b->added);
    if (++b->added < r->count || r->options.joined)
        return CAIRN_OK;
    for (int i = 0; i < b->stack.count; i++)
        TRY(r->options.hooks.partial(r->options.hooks.context, bucket, b->stack.node[i], at(r, r->slots[i], g->offset)));
    return CAIRN_OK;
}

static cairn_err progress(void *context)
{
    struct replica *r = context;
    return r->options.hooks.progress(r->options.hooks.context);
}

/* ---- opening ---- */

static cairn_err allocate(struct replica *r)
{
    int64_t most = 0;
    for (int b = 0; b < graph_bucket_count(r->graph); b++)
        most = graph_bucket_at(r->graph, b)->elements > most ? graph_bucket_at(r->graph, b)->elements : most;
    r->parameters = r->backend->table->alloc(r->backend, parameter_bytes(r));
    r->slots = calloc(TREE_MAX_NODES, sizeof *r->slots);
    r->buckets = calloc((size_t)graph_bucket_count(r->graph) + 1, sizeof *r->buckets);
    r->squares = calloc((size_t)(most / NORM_CHUNK) + 2, sizeof *r->squares);
    if (!r->parameters || !r->slots || !r->buckets || !r->squares)
        return FAIL(CAIRN_ENOMEM, "no memory for %.1f MB of parameters", (double)parameter_bytes(r) * 1e-6);
    TRY(graph_allocate(r->graph, 1, NULL));
    const struct graph_hooks hooks = {.context = r, .gradient_begin = gradient_begin, .gradient_ready = gradient_ready, .progress = progress};
    graph_bind_parameters(r->graph, r->parameters);
    graph_set_hooks(r->graph, &hooks);
    return CAIRN_OK;
}

cairn_err replica_open(struct backend *backend, const struct config *config, struct dataset *train, struct dataset *validation,
                       const struct replica_options *options, struct replica **out)
{
    struct replica *r = calloc(1, sizeof *r);
    if (!r)
        return FAIL(CAIRN_ENOMEM, "no memory for the model");
    *r = (struct replica){.config = config, .backend = backend, .train = train, .validation = validation, .options = *options};
    cairn_err err;
    TRY_GOTO(err, whole_graph(backend, config, dataset_vocabulary(train), &r->graph), failed);
    TRY_GOTO(err, allocate(r), failed);
    *out = r;
    return CAIRN_OK;
failed:
    replica_close(r);
    return err;
}

void replica_close(struct replica *r)
{
    if (!r)
        return;
    if (r->loader)
        loader_close(r->loader);
    for (int i = 0; i < r->slot_count; i++)
        r->backend->table->free(r->backend, r->slots[i], gradient_bytes(r));
    if (r->parameters)
        r->backend->table->free(r->backend, r->parameters, parameter_bytes(r));
    graph_free(r->graph);
    free(r->slots);
    free(r->buckets);
    free(r->squares);
    free(r);
}

const struct graph *replica_graph(const struct replica *r)
{
    return r->graph;
}

int64_t replica_memory(const struct replica *r)
{
    return (int64_t)(parameter_bytes(r) + (size_t)r->slot_count * gradient_bytes(r) + graph_slot_bytes(r->graph) + graph_scratch_bytes(r->graph));
}

void replica_set_parameters(struct replica *r, int bucket, int64_t begin, int64_t length, const void *elements)
{
    size_t act = dtype_size(r->backend->act);
    char *to = (char *)r->parameters + (size_t)(graph_bucket_at(r->graph, bucket)->offset + begin) * act;
    memcpy(to, elements, (size_t)length * act);
}

/* ---- a share ---- */

/* As many vectors as the share's partial sums need at once. */
static cairn_err make_slots(struct replica *r)
{
    struct tree_node nodes[TREE_MAX_NODES];
    int held;
    tree_partials(r->options.joined ? r->count : r->config->batch.microbatches, r->options.joined ? 0 : r->first, r->count, nodes, &held);
    for (; r->slot_count < held; r->slot_count++) {
        r->slots[r->slot_count] = r->backend->table->alloc(r->backend, gradient_bytes(r));
        if (!r->slots[r->slot_count])
            return FAIL(CAIRN_ENOMEM, "no memory for %d gradients of %.1f MB", held, (double)gradient_bytes(r) * 1e-6);
    }
    return CAIRN_OK;
}

/* The reader goes on as long as steps follow one another with the same share. */
static cairn_err make_loader(struct replica *r, int64_t step)
{
    const struct config *c = r->config;
    if (r->loader && r->loader_step == step && r->loader_first == r->first && r->loader_count == r->count)
        return CAIRN_OK;
    if (r->loader)
        loader_close(r->loader);
    r->loader = NULL;
    const struct loader_options options = {.split = SPLIT_TRAIN, .seed = c->seed, .context = c->model.context, .samples = c->batch.samples,
                                           .microbatches = c->batch.microbatches, .first = r->first, .count = r->count, .step = step,
                                           .prefetch = c->data.prefetch};
    TRY(loader_open(r->train, &options, &r->loader));
    r->loader_first = r->first;
    r->loader_count = r->count;
    return CAIRN_OK;
}

/* One gradient out of a share's sums: a tied parameter's uses joined, its norm. */
static cairn_err finish_joined(struct replica *r, double *norm)
{
    struct exact_sum total = {0};
    for (int b = 0; b < graph_bucket_count(r->graph); b++) {
        const struct graph_bucket *g = graph_bucket_at(r->graph, b);
        if (g->lookup_of < 0)
            continue;
        void *main = at(r, r->slots[0], graph_bucket_at(r->graph, g->lookup_of)->offset);
        r->backend->table->add(r->backend, main, main, at(r, r->slots[0], g->offset), g->elements);
    }
    for (int i = 0; i < graph_parameter_count(r->graph); i++) {
        const struct parameter *p = graph_parameter_at(r->graph, i);
        partial_sums_squares(r->backend, at(r, r->slots[0], p->offset), p->elements, r->squares, &total);
    }
    exact_sum_normalize(&total);
    *norm = sqrt(exact_sum_round(&total));
    for (int b = 0; b < graph_bucket_count(r->graph); b++) {
        const struct graph_bucket *g = graph_bucket_at(r->graph, b);
        if (g->lookup_of < 0)
            TRY(r->options.hooks.partial(r->options.hooks.context, b, (struct tree_node){0, 0}, at(r, r->slots[0], g->offset)));
    }
    return CAIRN_OK;
}

cairn_err replica_train(struct replica *r, int64_t step, int64_t first, int64_t count, double *losses, double *norm, double *waited)
{
    const struct config *c = r->config;
    double summed = (double)(r->options.joined ? count : c->batch.microbatches);
    r->first = first;
    r->count = count;
    TRY(make_slots(r));
    TRY(make_loader(r, step));
    for (int b = 0; b < graph_bucket_count(r->graph); b++)
        r->buckets[b].added = 0;
    for (int64_t i = 0; i < count; i++) {
        struct graph_pass pass = {.step = step, .microbatch = first + i,
                                  .loss_scale = 1 / ((double)(c->batch.samples * c->model.context) * summed)};
        TRY(loader_next(r->loader, &pass.inputs, &pass.targets));
        TRY(graph_forward_backward(r->graph, &pass));
        losses[i] = graph_mean_loss(r->graph);
    }
    r->loader_step = step + 1;
    *waited = loader_waited(r->loader);
    *norm = 0;
    return r->options.joined ? finish_joined(r, norm) : CAIRN_OK;
}

cairn_err replica_validate(struct replica *r, int64_t first, int64_t count, double *losses)
{
    return validation_losses(r->validation, r->graph, r->config->batch.samples, r->config->model.context, first, count, losses);
}
