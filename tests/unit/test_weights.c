/* Where an update's random numbers come from: of a parameter's name and its elements' positions, whoever holds them. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/gpt.h"
#include "train/weights.h"

static const struct gpt model = {.layers = 1, .width = 8, .heads = 2, .vocabulary = 29, .tied = true};

struct opened {
    struct backend *backend;
    struct graph *graph;
    struct weights weights;
    struct parameter *parameters; /* a copy, to be changed */
};

static void open_weights(struct opened *o)
{
    const struct backend_options options = {.act = DTYPE_BF16, .threads = 1, .instruction_set = "auto"};
    const struct graph_options shape = {.samples = 1, .context = 4, .training = true};
    const struct gpt_piece whole = gpt_piece_of(&model, 4, 1, 0);
    cr_assert_eq(backend_open("cpu", &options, &o->backend), CAIRN_OK, "%s", cairn_err_message());
    o->graph = graph_new(o->backend, &shape);
    gpt_declare(o->graph, &model, &whole, 4, true, NULL, NULL);
    cr_assert_eq(graph_finish(o->graph), CAIRN_OK, "%s", cairn_err_message());
    cr_assert_eq(weights_open(o->backend, o->graph, true, NULL, &o->weights), CAIRN_OK, "%s", cairn_err_message());
    size_t bytes = (size_t)o->weights.count * sizeof *o->parameters;
    o->parameters = memcpy(malloc(bytes), o->weights.parameters, bytes);
    o->weights.parameters = o->parameters;
}

static void close_weights(struct opened *o)
{
    weights_close(&o->weights);
    graph_free(o->graph);
    free(o->parameters);
    o->backend->table->close(o->backend);
}

/* Of all buckets, in w.runs. */
static int list_runs(struct weights *w, uint64_t seed)
{
    int count = 0;
    for (int b = 0; b < graph_bucket_count(w->graph); b++)
        if (graph_bucket_at(w->graph, b)->lookup_of < 0)
            count = weights_runs(w, b, seed, count);
    return count;
}

static bool same_key(struct philox_key a, struct philox_key b)
{
    return a.k[0] == b.k[0] && a.k[1] == b.k[1];
}

Test(weights, each_parameter_has_its_key)
{
    struct opened o;
    open_weights(&o);
    struct weights *w = &o.weights;
    int count = list_runs(w, 1);
    cr_assert_eq(count, w->count);
    struct philox_key *keys = calloc((size_t)count, sizeof *keys);
    for (int i = 0; i < count; i++) {
        keys[i] = w->runs[i].key;
        cr_expect_eq(w->runs[i].first, 0);
        for (int k = 0; k < i; k++)
            cr_expect(!same_key(keys[i], keys[k]), "two parameters have one key");
    }
    list_runs(w, 1);
    cr_expect(same_key(w->runs[0].key, keys[0]), "the key of a parameter changes");
    list_runs(w, 2);
    cr_expect(!same_key(w->runs[0].key, keys[0]), "another seed gives the same key");
    free(keys);
    close_weights(&o);
}

/* As if parameter 0 were the slab FIRST.. of EXTENT of an array of SHAPE. */
static uint64_t position_of_slab(struct opened *o, const int64_t shape[3], const int64_t first[3], const int64_t extent[3])
{
    struct parameter *p = &o->parameters[0];
    p->dims = 3;
    for (int d = 0; d < 3; d++) {
        p->shape[d] = shape[d];
        p->first[d] = first[d];
        p->extent[d] = extent[d];
    }
    int count = list_runs(&o->weights, 1);
    for (int i = 0; i < count; i++)
        if (o->weights.runs[i].master == (float *)o->weights.master + p->offset)
            return o->weights.runs[i].first;
    cr_assert_fail("the parameter is in no run");
    return 0;
}

/* Rows, and experts, keep their positions in the whole array; columns follow those of the ranks before. */
Test(weights, slabs_have_positions_of_their_own)
{
    struct opened o;
    open_weights(&o);
    cr_expect_eq(position_of_slab(&o, (int64_t[]){6, 5, 7}, (int64_t[]){0, 0, 0}, (int64_t[]){6, 5, 7}), 0);
    cr_expect_eq(position_of_slab(&o, (int64_t[]){6, 5, 7}, (int64_t[]){2, 0, 0}, (int64_t[]){3, 5, 7}), 2 * 5 * 7);
    cr_expect_eq(position_of_slab(&o, (int64_t[]){6, 5, 7}, (int64_t[]){0, 3, 0}, (int64_t[]){6, 2, 7}), 3 * 6 * 7);
    cr_expect_eq(position_of_slab(&o, (int64_t[]){6, 5, 7}, (int64_t[]){0, 0, 4}, (int64_t[]){6, 5, 3}), 4 * 6 * 5);
    cr_expect_eq(position_of_slab(&o, (int64_t[]){6, 5, 7}, (int64_t[]){2, 3, 0}, (int64_t[]){3, 2, 7}), 3 * 6 * 7 + 2 * 2 * 7);
    cr_expect_eq(position_of_slab(&o, (int64_t[]){6, 5, 7}, (int64_t[]){2, 0, 4}, (int64_t[]){3, 5, 3}), 4 * 6 * 5 + 2 * 5 * 3);
    close_weights(&o);
}
