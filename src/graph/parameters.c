/* Places of parameters in the flat vector, the buckets that their gradients are exchanged by, and when a pass needs which. */
#include "graph/graph_internal.h"

#include <stdlib.h>
#include <string.h>

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct parameter *)a)->name, ((const struct parameter *)b)->name);
}

static int64_t aligned(int64_t elements)
{
    return (elements + PARAMETER_ALIGN - 1) / PARAMETER_ALIGN * PARAMETER_ALIGN;
}

/* Sorts the parameters by name; the tensors' indices follow. */
static cairn_err sort_parameters(struct graph *g)
{
    char(*names)[SHARD_NAME_SIZE] = malloc((size_t)(g->parameter_count + 1) * sizeof *names);
    if (!names)
        return FAIL(CAIRN_ENOMEM, "no memory for the graph");
    for (int i = 0; i < g->parameter_count; i++)
        memcpy(names[i], g->parameters[i].name, SHARD_NAME_SIZE);
    qsort(g->parameters, (size_t)g->parameter_count, sizeof *g->parameters, compare_names);
    for (int t = 0; t < g->tensor_count; t++) {
        if (g->tensors[t].role != ROLE_PARAMETER)
            continue;
        struct parameter key;
        memcpy(key.name, names[g->tensors[t].parameter], SHARD_NAME_SIZE);
        struct parameter *found =
            bsearch(&key, g->parameters, (size_t)g->parameter_count, sizeof *g->parameters, compare_names);
        g->tensors[t].parameter = (int)(found - g->parameters);
    }
    free(names);
    return CAIRN_OK;
}

/* Whether OP's weight, a lookup table, is a matrix in another op. */
static bool is_tied(const struct graph *g, const struct op *op)
{
    for (int i = 0; op->is_lookup && i < g->op_count; i++)
        if (&g->ops[i] != op && g->ops[i].weight == op->weight)
            return true;
    return false;
}

cairn_err graph_place_parameters(struct graph *g)
{
    TRY(sort_parameters(g));
    for (int i = 0; i < g->parameter_count; i++) {
        g->parameters[i].offset = g->parameter_elements;
        g->parameter_elements += aligned(g->parameters[i].elements);
    }
    g->gradient_elements = g->parameter_elements;
    for (int i = 0; i < g->op_count; i++) {
        bool tied = is_tied(g, &g->ops[i]);
        /* A table whose uses are joined at once shares its region with the op that overwrites it; any other has to be cleared. */
        g->ops[i].clears_lookup = g->ops[i].is_lookup && !(tied && g->options.join_lookups);
    }
    return CAIRN_OK;
}

/* ---- buckets ---- */

/* When a parameter's gradient is complete: after its last writing step; -1: it has none. */
static int ready_step(struct graph *g, int parameter, bool lookup)
{
    for (int s = g->step_count - 2; s >= 0; s--) {
        const struct op *op = &g->ops[g->steps[s].op];
        if (!op_writes_weights(op, g->steps[s].kind))
            continue;
        bool apart = op->is_lookup && is_tied(g, op) && !g->options.join_lookups;
        for (int k = 0; k < OP_PARAMETERS; k++) {
            tensor_id id = op_parameter(op, k);
            if (id >= 0 && g->tensors[id].parameter == parameter && lookup == (k == 0 && apart))
                return s;
        }
    }
    return -1;
}

/* Whether parameters whose gradients are complete after steps A and B are exchanged together. */
static bool same_bucket(const struct graph *g, int a, int b)
{
    if (a < 0 || b < 0)
        return a < 0 && b < 0;
    return g->ops[g->steps[a].op].unit == g->ops[g->steps[b].op].unit && (a < g->phase_begin[2]) == (b < g->phase_begin[2]);
}

static void fill_buckets(struct graph *g)
{
    int last_ready = -2;
    for (int i = 0; i < g->parameter_count; i++) {
        struct parameter *p = &g->parameters[i];
        int ready = ready_step(g, i, false);
        const struct parameter *before = i > 0 ? &g->parameters[i - 1] : p;
        bool apart = i > 0 && (p->shared || before->shared || p->of_expert != before->of_expert);
        if (g->bucket_count == 0 || apart || !same_bucket(g, ready, last_ready))
            g->buckets[g->bucket_count++] = (struct graph_bucket){.offset = p->offset, .lookup_of = -1};
        last_ready = ready;
        p->bucket = g->bucket_count - 1;
        g->buckets[p->bucket].elements = p->offset + aligned(p->elements) - g->buckets[p->bucket].offset;
    }
    for (int i = 0; i < g->parameter_count; i++) {
        struct parameter *p = &g->parameters[i];
        if (ready_step(g, i, true) < 0)
            continue;
        p->lookup = g->bucket_count;
        g->buckets[g->bucket_count++] =
            (struct graph_bucket){.offset = g->gradient_elements, .elements = aligned(p->elements), .lookup_of = p->bucket};
        g->gradient_elements += aligned(p->elements);
        if (g->buckets[p->bucket].elements != aligned(p->elements))
            graph_mistake(g, "parameter %s is tied, and shares its bucket with others", p->name);
    }
}

/* ---- events ---- */

static bool reads_bucket(struct graph *g, const struct step *step, int bucket)
{
    const struct op *op = &g->ops[step->op];
    bool reads = false;
    for (int k = 0; k < OP_PARAMETERS && step->kind != STEP_BACKWARD_WEIGHT; k++)
        reads = reads || (op_parameter(op, k) >= 0 && parameter_of(g, op_parameter(op, k))->bucket == bucket);
    return reads;
}

static bool writes_bucket(struct graph *g, const struct step *step, int bucket)
{
    const struct op *op = &g->ops[step->op];
    bool writes = false;
    for (int k = 0; k < OP_PARAMETERS && op_writes_weights(op, step->kind); k++) {
        tensor_id id = op_parameter(op, k);
        writes = writes || (id >= 0 && gradient_bucket(g, id, k == 0 && op->is_lookup) == bucket);
    }
    return writes;
}

typedef bool step_test(struct graph *, const struct step *, int bucket);

/* FIRST and LAST around the steps of from..to-1 that concern BUCKET. */
static void add_events(struct graph *g, int from, int to, int bucket, step_test *concerns, enum event_kind first, enum event_kind last)
{
    int a = -1, b = -1;
    for (int s = from; s < to; s++)
        if (concerns(g, &g->steps[s], bucket)) {
            a = a < 0 ? s : a;
            b = s;
        }
    if (a < 0)
        return;
    for (int k = 0; k < 2; k++)
        if (graph_grow(g, (void **)&g->events, g->event_count, &g->event_room, sizeof *g->events))
            g->events[g->event_count++] = (struct event){k ? last : first, k ? b : a, bucket};
}

static int compare_events(const void *a, const void *b)
{
    const struct event *x = a, *y = b;
    if (x->step != y->step)
        return x->step - y->step;
    return x->kind != y->kind ? (int)x->kind - (int)y->kind : x->bucket - y->bucket;
}

static void list_events(struct graph *g)
{
    for (int b = 0; b < g->bucket_count; b++) {
        for (int phase = 0; phase < 3; phase++)
            add_events(g, g->phase_begin[phase], g->phase_begin[phase + 1], b, reads_bucket, EVENT_ACQUIRE, EVENT_RELEASE);
        add_events(g, g->phase_begin[1], g->phase_begin[3], b, writes_bucket, EVENT_BEGIN, EVENT_READY);
    }
    if (g->event_count > 0)
        qsort(g->events, (size_t)g->event_count, sizeof *g->events, compare_events);
    for (int s = 0, e = 0; s < g->step_count; s++) {
        g->steps[s].before = e;
        while (e < g->event_count && g->events[e].step == s && g->events[e].kind <= EVENT_BEGIN)
            e++;
        g->steps[s].after = e;
        while (e < g->event_count && g->events[e].step == s)
            e++;
    }
}

cairn_err graph_make_buckets(struct graph *g)
{
    size_t most = 2 * (size_t)g->parameter_count + 1;
    g->buckets = calloc(most, sizeof *g->buckets);
    if (!g->buckets)
        return FAIL(CAIRN_ENOMEM, "no memory for the graph");
    fill_buckets(g);
    g->bucket_parameters = calloc(most, sizeof *g->bucket_parameters);
    g->bucket_gradients = calloc(most, sizeof *g->bucket_gradients);
    if (!g->bucket_parameters || !g->bucket_gradients)
        return FAIL(CAIRN_ENOMEM, "no memory for the graph");
    list_events(g);
    return g->error ? FAIL(g->error, "%s", g->error_message) : CAIRN_OK;
}
