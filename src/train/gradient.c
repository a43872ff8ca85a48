#include "train/gradient.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/exact_sum.h"
#include "base/trace.h"
#include "job/mpi_calls.h"
#include "train/gradient_private.h"
#include "train/partial_sums.h"
#include "train/shares.h"

/* With rounds, so many buckets may be on their way while the next is written. */
enum { BUFFERS = 3 };

static void add(const struct gradient *g, void *sum, const void *a, const void *b, int64_t n)
{
    g->backend->table->add(g->backend, sum, a, b, n);
}

/* ---- opening ---- */

static cairn_err list_sums(struct gradient *g)
{
    for (int p = 0; p < g->piece_count; p++)
        g->sum_count += graph_bucket_count(g->pieces[p].graph);
    g->sums = calloc((size_t)g->sum_count + 1, sizeof *g->sums);
    if (!g->sums)
        return FAIL(CAIRN_ENOMEM, "no memory for the gradient's buckets");
    int64_t base = 0;
    for (int p = 0, n = 0; p < g->piece_count; p++) {
        struct piece *piece = &g->pieces[p];
        piece->first_sum = n;
        for (int b = 0; b < graph_bucket_count(piece->graph); b++) {
            const struct graph_bucket *bucket = graph_bucket_at(piece->graph, b);
            struct sum *s = &g->sums[n++];
            *s = (struct sum){.piece = p, .bucket = b, .offset = base + bucket->offset, .elements = bucket->elements, .lookup = -1,
                              .of_lookup = bucket->lookup_of >= 0};
            s->holders = g->expert.group && bucket_is_of_expert(piece->graph, b) ? &g->expert : &g->dense;
            share_of_bucket(piece->graph, b, s->holders->group->size, s->holders->group->rank, &s->own_begin, &s->own_length);
            if (s->of_lookup)
                sum_of(piece, bucket->lookup_of)->lookup = n - 1;
            g->buffer_elements = s->elements > g->buffer_elements ? s->elements : g->buffer_elements;
        }
        base += graph_gradient_elements(piece->graph);
    }
    g->elements = base;
    return CAIRN_OK;
}

/* DATA holders on the data axis share LEAVES a context part: holder (context c, data d) adds part c of those of d; all parts 0 come first
 * in the tree. */
static cairn_err open_holders(struct gradient *g, struct holders *h, struct group *group, int data, int64_t leaves)
{
    int64_t *first = calloc(2 * (size_t)group->size, sizeof *first);
    if (!first)
        return FAIL(CAIRN_ENOMEM, "no memory for the plan of the sums");
    int64_t *count = first + group->size;
    for (int r = 0; r < group->size; r++) {
        int64_t begin;
        tree_share(leaves, data, r % data, &begin, &count[r]);
        first[r] = r / data * leaves + begin;
        if (g->rounds) { /* one of each at a time */
            first[r] = r / data * leaves + r % data;
            count[r] = (leaves - r % data + data - 1) / data;
        }
    }
    *h = (struct holders){.group = group, .leaves = leaves * (group->size / data), .first = first[group->rank],
                          .stride = g->rounds ? data : 1, .count = count[group->rank]};
    g->passes = count[0] > g->passes ? count[0] : g->passes;
    const struct reducer_options options = {
        .leaves = {.leaves = h->leaves, .stride = h->stride, .first = first, .count = count}, .dtype = g->backend->acc,
        .add = gradient_add_exchanged, .add_context = g, .rounds = g->rounds, .fast = g->options.fast,
        .device = g->staged || g->backend->table->host_memory ? NULL : g->backend};
    cairn_err err = reducer_create(group, &options, &h->reducer);
    free(first);
    return err;
}

static cairn_err open_reducers(struct gradient *g)
{
    struct mesh *m = g->mesh;
    if (g->options.alone) {
        int64_t own;
        tree_share(g->options.microbatches, m->layout.data, m->place.data, &g->first_microbatch, &own);
        g->passes = (g->options.microbatches + m->layout.data - 1) / m->layout.data;
        return open_holders(g, &g->dense, g->options.alone->self, 1, own);
    }
    TRY(open_holders(g, &g->dense, &m->replicas, m->layout.data, g->options.microbatches));
    if (!g->expert.group)
        return CAIRN_OK;
    /* In the last pass some ranks may be idle: a group has it if any of its ranks does. */
    int64_t data = m->layout.data, expert = m->layout.expert, all = g->options.microbatches;
    int64_t passes = all / data * (data / expert) + (all % data + expert - 1) / expert;
    return open_holders(g, &g->expert, &m->expert_replicas, (int)(data / expert), passes);
}

static cairn_err add_buckets(struct gradient *g)
{
    int replicas = g->mesh->replicas.size;
    int64_t *room = calloc(2 * (size_t)replicas, sizeof *room);
    if (!room)
        return FAIL(CAIRN_ENOMEM, "no memory for the gradient's ranges");
    const struct reduce_ranges ranges = {room, room + replicas};
    cairn_err err = CAIRN_OK;
    for (int i = 0; i < g->sum_count && !err; i++) {
        struct sum *s = &g->sums[i];
        int holders = s->holders->group->size;
        for (int r = 0; r < holders; r++)
            share_of_bucket(g->pieces[s->piece].graph, s->bucket, holders, r, &ranges.begin[r], &ranges.length[r]);
        err = reducer_add_bucket(s->holders->reducer, &ranges, &s->id);
    }
    free(room);
    return err;
}

/* How many gradients of all its passes HOLDERS' rank keeps apart at once. */
static int slots_of(const struct gradient *g, const struct holders *h)
{
    struct tree_node nodes[TREE_MAX_NODES];
    int held = 0;
    if (g->options.fast)
        return h->count > 1 ? 2 : 1; /* the sum, and what is added to it */
    tree_partials(h->leaves, h->first, h->count, nodes, &held);
    return held;
}

static int parameters_of(const struct gradient *g)
{
    int count = 0;
    for (int p = 0; p < g->piece_count; p++)
        count += graph_parameter_count(g->pieces[p].graph);
    return count;
}

/* Chunks of all parameters, and one to begin and one to end each share. */
static int64_t squares_of(const struct gradient *g)
{
    int64_t chunks = 1;
    for (int p = 0; p < g->piece_count; p++)
        chunks += graph_parameter_elements(g->pieces[p].graph) / NORM_CHUNK + 2 * graph_parameter_count(g->pieces[p].graph);
    return chunks;
}

static cairn_err allocate(struct gradient *g)
{
    const struct backend_table *table = g->backend->table;
    int64_t elements = g->rounds ? g->buffer_elements : g->elements;
    const struct holders *all[] = {&g->dense, &g->expert};
    g->slot_count = g->rounds ? BUFFERS : 0;
    for (int i = 0; i < 2 && !g->rounds; i++) {
        int slots = all[i]->group ? slots_of(g, all[i]) : 0;
        g->slot_count = slots > g->slot_count ? slots : g->slot_count;
    }
    g->slots = calloc((size_t)g->slot_count, sizeof *g->slots);
    g->buffer_of = calloc((size_t)g->slot_count, sizeof *g->buffer_of);
    g->squares_room = squares_of(g);
    g->squares = table->alloc(g->backend, (size_t)g->squares_room * sizeof *g->squares);
    g->squares_there = calloc((size_t)g->squares_room, sizeof *g->squares_there);
    g->squares_runs = calloc((size_t)parameters_of(g) + 1, sizeof *g->squares_runs);
    g->total = calloc(1, sizeof *g->total);
    bool memory = g->slots && g->buffer_of && g->squares && g->squares_there && g->squares_runs && g->total;
    for (int i = 0; i < g->slot_count && memory; i++) {
        g->buffer_of[i] = -1;
        g->slots[i] = table->alloc(g->backend, (size_t)elements * dtype_size(g->backend->acc));
        memory = g->slots[i] != NULL;
    }
    if (!memory)
        return FAIL(CAIRN_ENOMEM, "no memory for %d gradients of %.1f MB", g->slot_count,
                    (double)elements * (double)dtype_size(g->backend->acc) * 1e-6);
    return CAIRN_OK;
}

static cairn_err gradient_begin(void *context, int bucket, void **gradient); /* the graphs' hooks, below */
static cairn_err gradient_ready(void *context, int bucket);
static cairn_err piece_progress(void *context);

static cairn_err open_pieces(struct gradient *g, int count, struct graph *const *graphs, struct weights *weights)
{
    g->pieces = calloc((size_t)count, sizeof *g->pieces);
    if (!g->pieces)
        return FAIL(CAIRN_ENOMEM, "no memory for the gradient");
    g->piece_count = count;
    for (int p = 0; p < count; p++) {
        g->pieces[p] = (struct piece){.gradient = g, .graph = graphs[p], .weights = &weights[p]};
        if (g->options.zero < 3)
            graph_bind_parameters(graphs[p], weights[p].compute);
    }
    return CAIRN_OK;
}

/* Whether what a bucket has become is on its way while the backward pass goes on. */
static bool leaves_early(const struct gradient *g)
{
    return g->rounds || (g->options.overlap && (g->compressed || g->dense.group->size > 1 || (g->expert.group && g->expert.group->size > 1)));
}

static void set_hooks(struct gradient *g)
{
    for (int p = 0; p < g->piece_count; p++) {
        const struct graph_hooks hooks = {.context = &g->pieces[p], .gradient_begin = gradient_begin, .gradient_ready = gradient_ready,
                                          .ready_may_wait = !leaves_early(g),
                                          .parameters_acquire = g->options.zero ? parameters_acquire : NULL,
                                          .parameters_release = g->options.zero == 3 ? parameters_release : NULL,
                                          .progress = piece_progress};
        graph_set_hooks(g->pieces[p].graph, &hooks);
    }
}

/* Its ranks' devices exchange by way of the processors. */
static bool is_unlinked(const struct group *group)
{
    return group && group->size > 1 && !group->device;
}

cairn_err gradient_open(struct mesh *mesh, struct backend *backend, const struct gradient_options *options, int count,
                        struct graph *const *graphs, struct weights *weights, struct gradient **out)
{
    struct gradient *g = calloc(1, sizeof *g);
    if (!g)
        return FAIL(CAIRN_ENOMEM, "no memory for the gradient");
    *g = (struct gradient){.mesh = mesh, .backend = backend, .options = *options, .rounds = options->zero >= 2};
    cairn_err err;
    TRY_GOTO(err, open_pieces(g, count, graphs, weights), failed);
    g->dense.group = options->alone ? options->alone->self : &mesh->replicas; /* list_sums asks for their sizes */
    g->expert.group = mesh->layout.expert > 1 ? &mesh->expert_replicas : NULL;
    TRY_GOTO(err, list_sums(g), failed);
    g->staged = !backend->table->host_memory && (is_unlinked(g->dense.group) || is_unlinked(g->expert.group));
    if (g->staged && g->rounds)
        TRY_GOTO(err, FAIL(CAIRN_EUNSUPPORTED, "parallel.zero %d on the GPUs of several ranks needs NCCL between them (parallel.links); zero 1 does not", options->zero), failed);
    TRY_GOTO(err, open_reducers(g), failed);
    TRY_GOTO(err, add_buckets(g), failed);
    TRY_GOTO(err, allocate(g), failed);
    TRY_GOTO(err, gradient_open_staging(g), failed);
    TRY_GOTO(err, parameters_open(g), failed);
    if (options->compress.kind != COMPRESS_NONE)
        TRY_GOTO(err, compressed_open(mesh, &options->compress, count, graphs, &g->compressed), failed);
    set_hooks(g);
    *out = g;
    return CAIRN_OK;
failed:
    gradient_close(g);
    return err;
}

void gradient_close(struct gradient *g)
{
    if (!g)
        return;
    size_t bytes = (size_t)(g->rounds ? g->buffer_elements : g->elements) * dtype_size(g->backend->acc);
    for (int i = 0; g->slots && i < g->slot_count; i++)
        if (g->slots[i])
            g->backend->table->free(g->backend, g->slots[i], bytes);
    if (g->squares)
        g->backend->table->free(g->backend, g->squares, (size_t)g->squares_room * sizeof *g->squares);
    parameters_close(g);
    gradient_close_staging(g);
    compressed_close(g->compressed);
    reducer_destroy(g->dense.reducer);
    reducer_destroy(g->expert.reducer);
    free(g->pieces);
    free(g->sums);
    free(g->slots);
    free(g->buffer_of);
    free(g->squares_there);
    free(g->squares_runs);
    free(g->total);
    free(g);
}

int64_t gradient_passes(const struct gradient *g)
{
    return g->passes;
}

int64_t gradient_microbatch(const struct gradient *g, int64_t pass)
{
    if (pass >= g->dense.count)
        return -1;
    return (g->first_microbatch + g->dense.first + pass * g->dense.stride) % g->options.microbatches;
}

cairn_err gradient_progress(void *gradient)
{
    const struct gradient *g = gradient;
    TRY(reduce_progress(g->dense.reducer));
    if (g->compressed)
        TRY(compressed_progress(g->compressed));
    return g->expert.reducer ? reduce_progress(g->expert.reducer) : CAIRN_OK;
}

static cairn_err piece_progress(void *context)
{
    return gradient_progress(((struct piece *)context)->gradient);
}

int64_t gradient_memory(const struct gradient *g)
{
    int64_t bytes = g->slot_count * (g->rounds ? g->buffer_elements : g->elements) * (int64_t)dtype_size(g->backend->acc);
    bytes += g->expert.reducer ? reducer_memory(g->expert.reducer) : 0;
    bytes += g->compressed ? compressed_memory(g->compressed) : 0;
    return bytes + reducer_memory(g->dense.reducer) + parameters_memory(g) + gradient_staging_memory(g);
}

/* ---- a microbatch's gradients ---- */

/* A buffer for sum S, the longest unused one; its last exchange may have to end first. */
static cairn_err take_buffer(struct gradient *g, struct sum *s)
{
    int i = g->next_buffer++ % g->slot_count;
    if (g->buffer_of[i] >= 0)
        TRY(reduce_wait(g->sums[g->buffer_of[i]].holders->reducer, g->sums[g->buffer_of[i]].id));
    g->buffer_of[i] = (int)(s - g->sums);
    s->buffer = g->slots[i];
    return CAIRN_OK;
}

static cairn_err gradient_begin(void *context, int bucket, void **gradient)
{
    struct piece *p = context;
    struct gradient *g = p->gradient;
    struct sum *s = sum_of(p, bucket);
    if (s->added == 0)
        tree_begin(&s->stack, s->holders->leaves);
    if (g->rounds) {
        TRY(take_buffer(g, s));
        *gradient = s->buffer;
    } else if (s->added >= s->holders->count) {
        *gradient = NULL;
    } else {
        int slot = g->options.fast ? s->added > 0 : s->stack.count;
        *gradient = gradient_at(g, g->slots[slot], s->offset);
    }
    return CAIRN_OK;
}

/* Adds up what this rank holds of a sum; the order does not matter, as long as it is always the same. */
static void *join_own(struct gradient *g, const struct sum *s)
{
    void *own = gradient_at(g, g->slots[0], s->offset);
    for (int k = 1; k < s->stack.count; k++)
        add(g, own, own, gradient_at(g, g->slots[k], s->offset), s->elements);
    return own;
}

/* This rank's partial sums and, of a tied parameter, its uses become one before they are compressed: error feedback is for what is
 * sent. Of two uses the one that is complete first waits for the other. */
static cairn_err start_compressed(struct gradient *g, struct sum *s)
{
    struct sum *main = s->of_lookup ? sum_of(&g->pieces[s->piece], graph_bucket_at(g->pieces[s->piece].graph, s->bucket)->lookup_of) : s;
    struct sum *lookup = main->lookup >= 0 ? &g->sums[main->lookup] : NULL;
    if (main->started || main->added < main->holders->count || (lookup && lookup->added < lookup->holders->count))
        return CAIRN_OK;
    void *own = join_own(g, main);
    if (lookup) {
        add(g, own, own, join_own(g, lookup), main->elements);
        lookup->started = true;
    }
    main->started = true;
    return compressed_start(g->compressed, main->piece, main->bucket, own);
}

/* The last exchange of a step. */
static cairn_err start(struct gradient *g, struct sum *s)
{
    void *partials[TREE_MAX_NODES];
    if (g->compressed)
        return start_compressed(g, s);
    int count = g->options.fast ? 1 : s->stack.count;
    gradient_stage_out(g, s, count, 0, s->elements);
    for (int i = 0; i < count; i++)
        partials[i] = gradient_exchanged(g, i, s->offset);
    s->started = true;
    return reduce_start(s->holders->reducer, s->id, partials, g->options.zero == 0 && !gradient_is_joined_later(g, s));
}

/* Adds what was written last to the microbatches before. */
static void join(struct gradient *g, struct sum *s)
{
    if (g->options.fast) {
        void *all = gradient_at(g, g->slots[0], s->offset);
        if (s->added > 0)
            add(g, all, all, gradient_at(g, g->slots[1], s->offset), s->elements);
        return;
    }
    partial_sums_push(g->backend, &s->stack, g->slots, s->offset, s->elements, s->holders->first + s->added);
}

/* The pass that a sum is started after: this rank's last microbatch. Between devices one that all have: what is computed later waits behind
 * what others have not begun yet, and they may wait for that. */
static int64_t last_pass(const struct gradient *g, const struct sum *s)
{
    return s->holders->group->device ? g->passes : s->holders->count;
}

static cairn_err gradient_ready(void *context, int bucket)
{
    struct piece *p = context;
    struct gradient *g = p->gradient;
    struct sum *s = sum_of(p, bucket);
    if (g->rounds) {
        bool idle = s->added++ >= s->holders->count;
        if (idle && g->options.fast)
            g->backend->table->zero(g->backend, s->buffer, (size_t)s->elements * dtype_size(g->backend->acc));
        TRY(reduce_wait(s->holders->reducer, s->id)); /* the round before */
        TRY(reduce_start(s->holders->reducer, s->id, idle && !g->options.fast ? NULL : &s->buffer, false));
        return gradient_progress(g);
    }
    if (s->added < s->holders->count)
        join(g, s);
    s->added++;
    if (s->added == last_pass(g, s) && g->options.overlap)
        TRY(start(g, s));
    return gradient_progress(g);
}

/* ---- the end of a step ---- */

void *gradient_own_sum(const struct gradient *g, const struct sum *s)
{
    return g->rounds ? reduce_shard(s->holders->reducer, s->id) : gradient_at(g, g->slots[0], s->offset + s->own_begin);
}

/* Whether this rank counts parameter Q for the norm: of equal copies, one does. */
static bool counts(const struct gradient *g, const struct parameter *q)
{
    if (q->shared && g->mesh->layout.pipeline > 1 && g->mesh->place.pipeline == 0)
        return false;
    return q->divided || g->mesh->place.tensor == 0;
}

/* Adds the sum's parameters to the runs; *CHUNKS is how many all of them have. */
static int list_squares(struct gradient *g, const struct sum *s, int runs, int64_t *chunks)
{
    const struct piece *p = &g->pieces[s->piece];
    int64_t begin = graph_bucket_at(p->graph, s->bucket)->offset + s->own_begin;
    for (int i = 0; i < graph_parameter_count(p->graph) && !s->of_lookup; i++) {
        const struct parameter *q = graph_parameter_at(p->graph, i);
        int64_t first, count = share_of_parameter(q, begin, s->own_length, &first);
        if (q->bucket != s->bucket || count == 0 || !counts(g, q))
            continue;
        g->squares_runs[runs++] = (struct squares_run){.sums = g->squares + *chunks, .n = count,
                                                       .x = gradient_at(g, gradient_own_sum(g, s), q->offset + first - begin)};
        *chunks += (count + NORM_CHUNK - 1) / NORM_CHUNK;
    }
    return runs;
}

static cairn_err find_norm(struct gradient *g, double *norm)
{
    int64_t chunks = 0;
    int runs = 0;
    *g->total = (struct exact_sum){0};
    for (int i = 0; i < g->sum_count; i++)
        runs = list_squares(g, &g->sums[i], runs, &chunks);
    g->backend->table->sum_squares(g->backend, g->squares_runs, runs);
    g->backend->table->download(g->backend, g->squares_there, g->squares, (size_t)chunks * sizeof *g->squares);
    exact_sum_add(g->total, g->squares_there, chunks);
    exact_sum_normalize(g->total);
    uint64_t begun = trace_begin();
    MPI_Comm whole = g->options.alone ? g->options.alone->replica : g->mesh->world;
    TRY(mpi_allreduce(MPI_IN_PLACE, g->total->words, EXACT_SUM_WORDS, MPI_INT64_T, MPI_SUM, whole, "adding up the gradient's norm"));
    trace_end(begun, TRACE_COMMUNICATION, "norm", -1);
    exact_sum_normalize(g->total);
    *norm = sqrt(exact_sum_round(g->total));
    return CAIRN_OK;
}

cairn_err gradient_wait(struct gradient *g)
{
    TRY(reduce_wait_all(g->dense.reducer));
    return g->expert.reducer ? reduce_wait_all(g->expert.reducer) : CAIRN_OK;
}

static cairn_err start_rest(struct gradient *g)
{
    for (int i = 0; i < g->sum_count && !g->rounds; i++)
        if (!g->sums[i].started)
            TRY(start(g, &g->sums[i]));
    return g->compressed ? compressed_wait(g->compressed) : CAIRN_OK;
}

static void stage_in(struct gradient *g, const struct sum *s, bool whole)
{
    if (whole)
        gradient_stage_in(g, s, 0, s->elements);
    else
        gradient_stage_in(g, s, s->own_begin, s->own_length);
}

/* Whether every replica gets all of the sum, but not before it was changed. */
static bool is_gathered_last(const struct gradient *g, const struct sum *s)
{
    return g->options.zero == 0 && !g->compressed && !s->of_lookup && gradient_is_joined_later(g, s);
}

cairn_err gradient_finish(struct gradient *g, double *norm)
{
    TRY(start_rest(g));
    TRY(gradient_wait(g));
    for (int i = 0; i < g->sum_count && g->staged; i++)
        stage_in(g, &g->sums[i], g->options.zero == 0 && !gradient_is_joined_later(g, &g->sums[i]));
    TRY(gradient_join_uses(g));
    backend_range_begin(g->backend, "norm", -1);
    cairn_err err = find_norm(g, norm);
    backend_range_end(g->backend);
    TRY(err);
    for (int i = 0; i < g->sum_count; i++) {
        struct sum *s = &g->sums[i];
        s->added = 0;
        s->started = false;
        if (!is_gathered_last(g, s))
            continue;
        gradient_stage_out(g, s, 1, s->own_begin, s->own_length);
        TRY(gather_start(s->holders->reducer, s->id, gradient_exchanged(g, 0, s->offset), g->backend->acc));
    }
    for (int i = 0; i < g->slot_count; i++)
        g->buffer_of[i] = -1;
    TRY(gradient_wait(g));
    for (int i = 0; i < g->sum_count && g->staged; i++)
        if (is_gathered_last(g, &g->sums[i]))
            stage_in(g, &g->sums[i], true);
    return CAIRN_OK;
}

struct compressed *gradient_compressed(const struct gradient *g)
{
    return g->compressed;
}

const void *gradient_own(const struct gradient *g, int piece, int bucket)
{
    const struct sum *s = &g->sums[g->pieces[piece].first_sum + bucket];
    return g->options.zero == 0 ? gradient_at(g, g->slots[0], s->offset) : gradient_own_sum(g, s);
}
