#include "train/gradient.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/least.h"
#include "job/mpi_error.h"
#include "mesh/reduce.h"

/* A chunk of one parameter, whose sum of squares is one term of the norm (kernels/backend.h: NORM_CHUNK). */
struct chunk {
    int64_t offset, length;
    int64_t lookup; /* offset of the same elements where lookups are summed apart; -1 */
};

struct gradient {
    struct mesh *mesh;
    struct backend *backend;
    struct group group;
    int64_t bytes_told;
    struct reducer *reducer;
    int64_t elements;            /* with lookups */
    int slot_count;
    void **slots;                /* held partial sums first, in the order of the stack; then free ones */
    int64_t microbatches, first;
    struct tree_stack stack;
    int64_t added;               /* of this step */
    struct chunk *chunks;
    int64_t chunk_count;
    int64_t own_first, own_count;/* this rank's chunks */
    double *sums;                /* by chunk */
    int *sum_counts, *sum_begins;/* of each rank's chunks, for gathering */
    struct reduce_ranges main, *lookups;
    int lookup_count; /* bucket 0 is the main one; then these */
};

static void add(void *context, void *sum, const void *a, const void *b, int64_t n)
{
    struct backend *backend = context;
    backend->table->add(backend, sum, a, b, n);
}

static cairn_err list_chunks(struct gradient *t, const struct graph *graph)
{
    int64_t count = 0;
    for (int i = 0; i < graph_parameter_count(graph); i++)
        count += (graph_parameter_at(graph, i)->elements + NORM_CHUNK - 1) / NORM_CHUNK;
    t->chunks = calloc((size_t)count, sizeof *t->chunks);
    t->sums = calloc((size_t)count, sizeof *t->sums);
    if (!t->chunks || !t->sums)
        return FAIL(CAIRN_ENOMEM, "no memory for the gradient's chunks");
    for (int i = 0; i < graph_parameter_count(graph); i++) {
        const struct parameter *p = graph_parameter_at(graph, i);
        for (int64_t at = 0; at < p->elements; at += NORM_CHUNK) {
            int64_t left = p->elements - at;
            t->chunks[t->chunk_count++] = (struct chunk){.offset = p->offset + at, .length = left < NORM_CHUNK ? left : NORM_CHUNK,
                                                         .lookup = p->lookup < 0 ? -1 : graph_bucket_at(graph, p->lookup)->offset + at};
        }
    }
    return CAIRN_OK;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* The ranges of elements that the ranks own: whole chunks, and the lookups of the same elements. */
static cairn_err share_elements(struct gradient *t, const struct graph *graph)
{
    int ranks = t->mesh->size;
    int parameters = graph_parameter_count(graph);
    int64_t *room = calloc((size_t)ranks * 2 * (size_t)(parameters + 1), sizeof *room);
    t->lookups = calloc((size_t)parameters, sizeof *t->lookups);
    t->sum_counts = calloc((size_t)ranks * 2, sizeof *t->sum_counts);
    t->main = (struct reduce_ranges){room, room ? room + ranks : NULL};
    if (!room || !t->lookups || !t->sum_counts)
        return FAIL(CAIRN_ENOMEM, "no memory for the gradient's ranges");
    t->sum_begins = t->sum_counts + ranks;
    for (int r = 0; r < ranks; r++) {
        int64_t first, count;
        tree_share(t->chunk_count, ranks, r, &first, &count);
        t->sum_begins[r] = (int)first;
        t->sum_counts[r] = (int)count;
        if (count) {
            const struct chunk *last = &t->chunks[first + count - 1];
            t->main.begin[r] = t->chunks[first].offset;
            t->main.length[r] = last->offset + last->length - t->chunks[first].offset;
        }
    }
    t->own_first = t->sum_begins[t->mesh->rank];
    t->own_count = t->sum_counts[t->mesh->rank];
    for (int i = 0; i < parameters; i++) {
        const struct parameter *p = graph_parameter_at(graph, i);
        if (p->lookup < 0)
            continue;
        int64_t *begin = room + 2 * ranks * (t->lookup_count + 1);
        struct reduce_ranges *l = &t->lookups[t->lookup_count++];
        *l = (struct reduce_ranges){begin, begin + ranks};
        for (int r = 0; r < ranks; r++) {
            int64_t from = most(t->main.begin[r], p->offset);
            int64_t to = least(t->main.begin[r] + t->main.length[r], p->offset + p->elements);
            l->begin[r] = from - p->offset + graph_bucket_at(graph, p->lookup)->offset;
            l->length[r] = most(to - from, 0);
        }
    }
    return CAIRN_OK;
}

static cairn_err add_buckets(struct gradient *t)
{
    int bucket;
    TRY(reducer_add_bucket(t->reducer, &t->main, &bucket));
    for (int i = 0; i < t->lookup_count; i++)
        TRY(reducer_add_bucket(t->reducer, &t->lookups[i], &bucket));
    return CAIRN_OK;
}

cairn_err gradient_open(struct mesh *mesh, struct backend *backend, const struct graph *graph, int64_t microbatches,
                        struct gradient **out)
{
    struct gradient *t = calloc(1, sizeof *t);
    if (!t)
        return FAIL(CAIRN_ENOMEM, "no memory for the gradient");
    *t = (struct gradient){.mesh = mesh, .backend = backend, .elements = graph_gradient_elements(graph), .microbatches = microbatches};
    cairn_err err;
    const struct reducer_options options = {.leaves = {.leaves = microbatches}, .dtype = backend->acc, .add = add, .add_context = backend};
    TRY_GOTO(err, group_open(&t->group, mesh->world, 0), failed);
    TRY_GOTO(err, reducer_create(&t->group, &options, &t->reducer), failed);
    TRY_GOTO(err, list_chunks(t, graph), failed);
    TRY_GOTO(err, share_elements(t, graph), failed);
    TRY_GOTO(err, add_buckets(t), failed);
    struct tree_node nodes[TREE_MAX_NODES];
    int64_t count;
    tree_share(microbatches, mesh->size, mesh->rank, &t->first, &count);
    tree_partials(microbatches, t->first, count, nodes, &t->slot_count);
    t->slots = calloc((size_t)t->slot_count, sizeof *t->slots);
    size_t bytes = (size_t)t->elements * dtype_size(backend->acc);
    for (int i = 0; i < t->slot_count; i++)
        if (!t->slots || !(t->slots[i] = backend->table->alloc(backend, bytes))) {
            err = FAIL(CAIRN_ENOMEM, "no memory for %d gradients of %.1f MB", t->slot_count, (double)bytes * 1e-6);
            goto failed;
        }
    tree_begin(&t->stack, microbatches);
    *out = t;
    return CAIRN_OK;
failed:
    gradient_close(t);
    return err;
}

void gradient_close(struct gradient *t)
{
    if (!t)
        return;
    for (int i = 0; t->slots && i < t->slot_count; i++)
        if (t->slots[i])
            t->backend->table->free(t->backend, t->slots[i], (size_t)t->elements * dtype_size(t->backend->acc));
    reducer_destroy(t->reducer);
    group_close(&t->group);
    free(t->slots);
    free(t->chunks);
    free(t->sums);
    free(t->main.begin);
    free(t->lookups);
    free(t->sum_counts);
    free(t);
}

void *gradient_slot(struct gradient *t)
{
    return t->slots[t->stack.count];
}

void gradient_add(struct gradient *t)
{
    int left;
    tree_push(&t->stack, (struct tree_node){0, t->first + t->added++});
    while (tree_join(&t->stack, &left))
        add(t->backend, t->slots[left], t->slots[left], t->slots[left + 1], t->elements);
}

static void *at(const struct gradient *t, int64_t offset)
{
    return (char *)t->slots[0] + (size_t)offset * dtype_size(t->backend->acc);
}

/* Joins the lookups of this rank's chunks, and sums their squares. */
static void finish_own(struct gradient *t)
{
    for (int64_t i = t->own_first; i < t->own_first + t->own_count; i++) {
        const struct chunk *c = &t->chunks[i];
        if (c->lookup >= 0)
            add(t->backend, at(t, c->offset), at(t, c->offset), at(t, c->lookup), c->length);
    }
    for (int64_t i = t->own_first; i < t->own_first + t->own_count;) {
        /* Chunks that follow one another in a parameter are one call. */
        int64_t n = 1, length = t->chunks[i].length;
        while (i + n < t->own_first + t->own_count && t->chunks[i + n - 1].length == NORM_CHUNK &&
               t->chunks[i + n].offset == t->chunks[i + n - 1].offset + NORM_CHUNK)
            length += t->chunks[i + n++].length;
        t->backend->table->sum_squares(t->backend, t->sums + i, at(t, t->chunks[i].offset), length);
        i += n;
    }
}

cairn_err gradient_finish(struct gradient *t, const void **sum, double *norm)
{
    t->stack.count = 0;
    t->added = 0;
    for (int bucket = 0; bucket <= t->lookup_count; bucket++)
        TRY(reduce_start(t->reducer, bucket, t->slots, false));
    TRY(reduce_wait_all(t->reducer));
    finish_own(t);
    if (t->mesh->size > 1) {
        TRY(gather_start(t->reducer, 0, t->slots[0], t->backend->acc));
        TRY(gather_wait(t->reducer, 0));
        TRY(mpi_check(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, t->sums, t->sum_counts, t->sum_begins, MPI_DOUBLE, t->mesh->world),
                      "gathering the gradient's norm"));
    }
    double squares = 0;
    for (int64_t i = 0; i < t->chunk_count; i++)
        squares += t->sums[i];
    *norm = sqrt(squares);
    *sum = t->slots[0];
    return CAIRN_OK;
}

int64_t gradient_memory(const struct gradient *t)
{
    return t->slot_count * t->elements * (int64_t)dtype_size(t->backend->acc);
}

int64_t gradient_bytes_sent(struct gradient *t)
{
    int64_t bytes = t->group.bytes_sent - t->bytes_told;
    t->bytes_told = t->group.bytes_sent;
    return bytes;
}
