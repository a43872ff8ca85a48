#include "train/compressed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/trace.h"
#include "mesh/tree.h"

/* What a pack's name may take of an array's. */
enum { PACK_NAME_SIZE = SHARD_NAME_SIZE - 32 };

/* Some of a bucket's parameters, one after another. */
struct pack {
    const struct graph *graph;
    int piece, bucket, id; /* the compressor's number of it */
    bool whole;            /* those that every tensor rank has; else those that they share */
    int64_t elements;
    char name[PACK_NAME_SIZE];
    float *gradient; /* of its bucket, since it was asked for last */
};

struct compressed {
    struct mesh *mesh;
    struct compressor *compressor;
    struct pack *packs;
    int count;
    int64_t most; /* elements of the largest */
    float *values;
    int *queue;   /* packs that were asked for, in that order */
    int queued, summed;
    bool busy;    /* the first that is not summed is on its way */
    uint64_t begun;
};

static bool holds(const struct pack *k, const struct parameter *p)
{
    return p->bucket == k->bucket && p->divided != k->whole;
}

/* The name is the same on all ranks that have the same of the same parameters, and on no others. */
static cairn_err name_pack(const struct mesh *m, struct pack *k, const struct parameter *first)
{
    char tensor[40] = "";
    const char *end = !first->shared || m->layout.pipeline == 1 ? "" : m->place.pipeline == 0 ? "first." : "last.";
    if (!k->whole)
        snprintf(tensor, sizeof tensor, "%d.of.%d.", m->place.tensor, m->layout.tensor);
    int length = snprintf(k->name, sizeof k->name, "%s%s%s", tensor, end, first->name);
    if (length < 0 || length >= (int)sizeof k->name)
        return FAIL(CAIRN_EINVAL, "the name of parameter %s is too long to keep what compression leaves of it", first->name);
    return CAIRN_OK;
}

static cairn_err add_pack(struct compressed *c, const struct graph *graph, int piece, int bucket, bool whole)
{
    struct pack k = {.graph = graph, .piece = piece, .bucket = bucket, .whole = whole};
    int all = graph_parameter_count(graph), count = 0;
    struct compress_tensor *tensors = calloc((size_t)all + 1, sizeof *tensors);
    cairn_err err = tensors ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for compression");
    for (int i = 0; i < all && !err; i++) {
        const struct parameter *p = graph_parameter_at(graph, i);
        if (!holds(&k, p) || p->elements == 0)
            continue;
        if (count == 0)
            err = name_pack(c->mesh, &k, p);
        int64_t rows = p->vector || p->dims == 1 ? 1 : p->elements / p->extent[p->dims - 1];
        tensors[count++] = (struct compress_tensor){rows, p->elements / rows};
        k.elements += p->elements;
    }
    if (!err && count)
        err = compressor_add_bucket(c->compressor, tensors, count, &k.id);
    free(tensors);
    if (!err && count) {
        c->packs[c->count++] = k;
        c->most = k.elements > c->most ? k.elements : c->most;
    }
    return err;
}

static cairn_err add_packs(struct compressed *c, int count, struct graph *const *graphs)
{
    int buckets = 0;
    for (int p = 0; p < count; p++)
        buckets += graph_bucket_count(graphs[p]);
    c->packs = calloc(2 * (size_t)buckets + 1, sizeof *c->packs);
    if (!c->packs)
        return FAIL(CAIRN_ENOMEM, "no memory for compression");
    for (int p = 0; p < count; p++)
        for (int b = 0; b < graph_bucket_count(graphs[p]); b++)
            for (int whole = 0; whole < 2 && graph_bucket_at(graphs[p], b)->lookup_of < 0; whole++)
                TRY(add_pack(c, graphs[p], p, b, whole));
    c->values = malloc(((size_t)c->most + 1) * sizeof *c->values);
    c->queue = calloc((size_t)c->count + 1, sizeof *c->queue);
    return c->values && c->queue ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for compression");
}

cairn_err compressed_open(struct mesh *mesh, const struct compress_options *options, int count, struct graph *const *graphs,
                          struct compressed **out)
{
    struct compressed *c = calloc(1, sizeof *c);
    if (!c)
        return FAIL(CAIRN_ENOMEM, "no memory for compression");
    c->mesh = mesh;
    cairn_err err;
    TRY_GOTO(err, compressor_create(&mesh->replicas, options, &c->compressor), failed);
    TRY_GOTO(err, add_packs(c, count, graphs), failed);
    *out = c;
    return CAIRN_OK;
failed:
    compressed_close(c);
    return err;
}

void compressed_close(struct compressed *c)
{
    if (!c)
        return;
    compressor_destroy(c->compressor);
    free(c->packs);
    free(c->values);
    free(c->queue);
    free(c);
}

/* Between a bucket, which has gaps, and a pack, which has none. */
static void copy(const struct compressed *c, const struct pack *k, float *bucket, bool back)
{
    int64_t begin = graph_bucket_at(k->graph, k->bucket)->offset;
    float *packed = c->values;
    for (int i = 0; i < graph_parameter_count(k->graph); i++) {
        const struct parameter *p = graph_parameter_at(k->graph, i);
        if (!holds(k, p))
            continue;
        float *there = bucket + p->offset - begin;
        memcpy(back ? there : packed, back ? packed : there, (size_t)p->elements * sizeof *packed);
        packed += p->elements;
    }
}

cairn_err compressed_start(struct compressed *c, int piece, int bucket, float *gradient)
{
    for (int i = 0; i < c->count; i++) {
        struct pack *k = &c->packs[i];
        if (k->piece != piece || k->bucket != bucket)
            continue;
        k->gradient = gradient;
        c->queue[c->queued++] = i;
    }
    return compressed_progress(c);
}

static cairn_err start_next(struct compressed *c)
{
    const struct pack *k = &c->packs[c->queue[c->summed]];
    c->begun = trace_begin();
    c->busy = true;
    copy(c, k, k->gradient, false);
    return compress_start(c->compressor, k->id, c->values);
}

cairn_err compressed_progress(struct compressed *c)
{
    while (c->summed < c->queued) {
        bool done;
        if (!c->busy)
            TRY(start_next(c));
        TRY(compress_progress(c->compressor, &done));
        if (!done)
            return CAIRN_OK;
        const struct pack *k = &c->packs[c->queue[c->summed++]];
        copy(c, k, k->gradient, true);
        trace_end(c->begun, TRACE_COMMUNICATION, "compressed sum", k->bucket);
        c->busy = false;
    }
    return CAIRN_OK;
}

cairn_err compressed_wait(struct compressed *c)
{
    TRY(compressed_progress(c));
    while (c->summed < c->queued) {
        TRY(group_idle(&c->mesh->replicas));
        TRY(compressed_progress(c));
    }
    c->queued = c->summed = 0;
    return CAIRN_OK;
}

void compressed_forget(struct compressed *c)
{
    compressor_forget(c->compressor);
}

int64_t compressed_memory(const struct compressed *c)
{
    int64_t elements = c->most;
    for (int i = 0; i < c->count; i++)
        for (int n = 0; n < COMPRESS_STATES; n++)
            elements += compressor_state(c->compressor, c->packs[i].id, n).count;
    return elements * (int64_t)sizeof(float) + compressor_room(c->compressor);
}

/* ---- checkpoints ---- */

int compressed_shard_count(const struct compressed *c)
{
    int count = 0;
    for (int i = 0; i < c->count; i++)
        for (int n = 0; n < COMPRESS_STATES; n++)
            count += compressor_state(c->compressor, c->packs[i].id, n).count > 0;
    return count;
}

static struct shard shard_of(const struct compressed *c, const struct pack *k, const struct compress_state *state)
{
    const struct group *replicas = &c->mesh->replicas;
    struct shard s = {.dtype = DTYPE_F32, .dims = 1, .shape = {k->elements}, .extent = {state->count}, .data = state->data};
    snprintf(s.name, sizeof s.name, "compress/%s/%s", state->name, k->name);
    if (state->alike) {
        s.shape[0] = state->count;
    } else if (state->share) {
        int64_t count;
        tree_share(k->elements, replicas->size, replicas->rank, &s.offset[0], &count);
    } else { /* each replica has its own */
        s.dims = 2;
        s.shape[1] = s.extent[1] = state->count;
        s.shape[0] = replicas->size;
        s.offset[0] = replicas->rank;
        s.extent[0] = 1;
    }
    return s;
}

void compressed_shards(const struct compressed *c, struct shard *shards)
{
    for (int i = 0; i < c->count; i++)
        for (int n = 0; n < COMPRESS_STATES; n++) {
            struct compress_state state = compressor_state(c->compressor, c->packs[i].id, n);
            if (state.count > 0)
                *shards++ = shard_of(c, &c->packs[i], &state);
        }
}
