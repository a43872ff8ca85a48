/* Declaring a graph, and running it. */
#include "graph/graph_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct graph *graph_new(struct backend *backend, const struct graph_options *options)
{
    struct graph *g = calloc(1, sizeof *g);
    if (!g)
        return NULL;
    g->backend = backend;
    g->options = *options;
    g->rows = options->samples * options->context;
    g->losses = -1;
    return g;
}

void graph_free(struct graph *g)
{
    if (!g)
        return;
    for (int i = 0; i < g->op_count; i++)
        if (g->ops[i].class->release)
            g->ops[i].class->release(g, &g->ops[i]);
    if (g->arena)
        g->backend->table->free(g->backend, g->arena, g->arena_bytes);
    free(g->tensors);
    free(g->ops);
    free(g->parameters);
    free(g);
}

void graph_mistake(struct graph *g, const char *format, ...)
{
    if (g->error)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(g->error_message, sizeof g->error_message, format, args);
    va_end(args);
    g->error = CAIRN_EINVAL;
}

/* Makes room for one more element of an array; false (and the graph's error) when there is no memory. */
static bool grow(struct graph *g, void **array, int count, int *room, size_t size)
{
    if (count < *room)
        return true;
    int wanted = *room ? 2 * *room : 64;
    void *more = realloc(*array, (size_t)wanted * size);
    if (!more) {
        graph_mistake(g, "no memory for the graph");
        g->error = CAIRN_ENOMEM;
        return false;
    }
    *array = more;
    *room = wanted;
    return true;
}

tensor_id graph_add_tensor(struct graph *g, enum tensor_role role, enum dtype dtype, int64_t rows, int64_t width)
{
    if (g->error || !grow(g, (void **)&g->tensors, g->tensor_count, &g->tensor_room, sizeof *g->tensors))
        return -1;
    g->tensors[g->tensor_count] = (struct tensor){.role = role, .dtype = dtype, .rows = rows, .width = width, .parameter = -1,
                                                  .alias = -1, .gradient = -1, .first_use = -1, .last_use = -1};
    return g->tensor_count++;
}

struct op *graph_add_op(struct graph *g, const struct op_class *class)
{
    if (g->error || !grow(g, (void **)&g->ops, g->op_count, &g->op_room, sizeof *g->ops))
        return NULL;
    struct op *op = &g->ops[g->op_count];
    *op = (struct op){.class = class, .number = g->op_count, .x = -1, .h = -1, .y = -1, .weight = -1, .bias = -1,
                      .statistic = {-1, -1}};
    g->op_count++;
    return op;
}

tensor_id graph_parameter(struct graph *g, const char *name, int dims, const int64_t *shape, struct parameter_init init)
{
    if (g->error || !grow(g, (void **)&g->parameters, g->parameter_count, &g->parameter_room, sizeof *g->parameters))
        return -1;
    struct parameter p = {.dims = dims, .elements = 1, .init = init, .decays = dims >= 2, .lookup = -1};
    snprintf(p.name, sizeof p.name, "%s", name);
    for (int i = 0; i < dims; i++) {
        if (shape[i] < 1)
            graph_mistake(g, "parameter %s: dimension %d is %lld", name, i, (long long)shape[i]);
        p.shape[i] = shape[i];
        p.elements *= shape[i];
    }
    for (int i = 0; i < g->parameter_count; i++)
        if (strcmp(g->parameters[i].name, p.name) == 0)
            graph_mistake(g, "parameter %s is declared twice", name);
    int64_t rows = dims > 1 ? shape[0] : 1;
    tensor_id id = graph_add_tensor(g, ROLE_PARAMETER, g->backend->act, rows, p.elements / (rows ? rows : 1));
    if (id < 0)
        return -1;
    g->tensors[id].parameter = g->parameter_count;
    g->parameters[g->parameter_count++] = p;
    return id;
}

/* ---- finishing ---- */

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct parameter *)a)->name, ((const struct parameter *)b)->name);
}

static int64_t aligned(int64_t elements)
{
    return (elements + PARAMETER_ALIGN - 1) / PARAMETER_ALIGN * PARAMETER_ALIGN;
}

/* Sorts the parameters by name and gives each its place in the flat vector. */
static cairn_err place_parameters(struct graph *g)
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
    for (int i = 0; i < g->parameter_count; i++) {
        g->parameters[i].offset = g->parameter_elements;
        g->parameter_elements += aligned(g->parameters[i].elements);
    }
    return CAIRN_OK;
}

/* A parameter that is a lookup table in one op and a matrix in another gets a second region in the gradient vector. */
static void place_lookups(struct graph *g)
{
    g->gradient_elements = g->parameter_elements;
    if (g->options.join_lookups)
        return;
    for (int i = 0; i < g->op_count; i++)
        for (int j = 0; j < g->op_count && g->ops[i].is_lookup; j++) {
            struct parameter *p = &g->parameters[g->tensors[g->ops[i].weight].parameter];
            if (j == i || g->ops[j].weight != g->ops[i].weight || p->lookup >= 0)
                continue;
            p->lookup = g->gradient_elements;
            g->gradient_elements += aligned(p->elements);
        }
}

/* A table whose uses are joined at once shares its region with the op that overwrites it; any other region has to be cleared. */
static void mark_lookups(struct graph *g)
{
    for (int i = 0; i < g->op_count; i++) {
        struct op *op = &g->ops[i];
        op->clears_lookup = op->is_lookup;
        for (int j = 0; j < g->op_count && op->is_lookup; j++)
            if (j != i && g->ops[j].weight == op->weight && g->parameters[g->tensors[op->weight].parameter].lookup < 0)
                op->clears_lookup = false;
    }
}

cairn_err graph_finish(struct graph *g)
{
    if (g->error)
        return FAIL(g->error, "%s", g->error_message);
    TRY(place_parameters(g));
    place_lookups(g);
    mark_lookups(g);
    if (g->options.training)
        graph_derive_backward(g);
    if (g->error)
        return FAIL(g->error, "%s", g->error_message);
    TRY(graph_plan_arena(g, &g->arena_bytes));
    g->arena = g->backend->table->alloc(g->backend, g->arena_bytes);
    if (!g->arena)
        return FAIL(CAIRN_ENOMEM, "no memory for %.1f MB of activations", (double)g->arena_bytes * 1e-6);
    for (int i = 0; i < g->tensor_count; i++) {
        struct tensor *t = &g->tensors[i];
        while (t->alias >= 0)
            t = &g->tensors[t->alias];
        if (t->role != ROLE_PARAMETER)
            g->tensors[i].data = (char *)g->arena + t->offset;
    }
    for (int i = 0; i < g->op_count; i++)
        if (g->ops[i].class->prepare)
            TRY_CONTEXT(g->ops[i].class->prepare(g, &g->ops[i]), "preparing %s", g->ops[i].class->name);
    return CAIRN_OK;
}

/* ---- facts ---- */

int graph_parameter_count(const struct graph *g)
{
    return g->parameter_count;
}

const struct parameter *graph_parameter_at(const struct graph *g, int index)
{
    return &g->parameters[index];
}

int64_t graph_parameter_elements(const struct graph *g)
{
    return g->parameter_elements;
}

int64_t graph_gradient_elements(const struct graph *g)
{
    return g->gradient_elements;
}

size_t graph_arena_bytes(const struct graph *g)
{
    return g->arena_bytes;
}

const void *graph_losses(const struct graph *g)
{
    return g->tensors[g->losses].data;
}

const void *graph_tensor_data(const struct graph *g, tensor_id tensor)
{
    return g->tensors[tensor].data;
}

double graph_sum_losses(const struct graph *g, int64_t rows)
{
    const void *losses = graph_losses(g);
    double sum = 0;
    for (int64_t r = 0; r < rows; r++)
        sum += g->backend->acc == DTYPE_F64 ? ((const double *)losses)[r] : (double)((const float *)losses)[r];
    return sum;
}

double graph_mean_loss(const struct graph *g)
{
    return graph_sum_losses(g, g->rows) / (double)g->rows;
}

/* ---- running ---- */

void graph_bind_parameters(struct graph *g, const void *parameters)
{
    g->parameter_data = parameters;
}

void graph_forward(struct graph *g, const int32_t *inputs, const int32_t *targets)
{
    g->inputs = inputs;
    g->targets = targets;
    g->gradient_data = NULL; /* the classifier computes losses alone */
    g->dropping = false;
    for (int i = 0; i < g->op_count; i++)
        if (targets || g->ops[i].class != &op_classifier)
            g->ops[i].class->forward(g, &g->ops[i]);
}

/* Lookup tables' gradients are added to; where no other op overwrites the region first, it is cleared here. */
static void clear_lookups(struct graph *g)
{
    for (int i = 0; i < g->op_count; i++)
        if (g->ops[i].clears_lookup) {
            int64_t elements = g->parameters[g->tensors[g->ops[i].weight].parameter].elements;
            memset(parameter_gradient(g, g->ops[i].weight, true), 0, (size_t)elements * dtype_size(g->backend->acc));
        }
}

/* The dropout masks of microbatch MICROBATCH of STEP: positions follow from the op's own count of elements. */
static void place_dropout(struct graph *g, struct op *op, int64_t step, int64_t microbatch)
{
    int64_t elements = op->class == &op_attention
                           ? g->options.samples * op->heads * g->options.context * g->options.context
                           : g->tensors[op->y].rows * g->tensors[op->y].width;
    op->dropout.step = (uint64_t)step;
    op->dropout.first = (uint64_t)((elements + 3) / 4 * 4) * (uint64_t)microbatch;
}

void graph_forward_backward(struct graph *g, const int32_t *inputs, const int32_t *targets, int64_t step, int64_t microbatch,
                            double loss_scale, void *gradient)
{
    g->inputs = inputs;
    g->targets = targets;
    g->gradient_data = gradient;
    g->loss_scale = loss_scale;
    g->dropping = true;
    clear_lookups(g);
    for (int i = 0; i < g->op_count; i++) {
        struct op *op = &g->ops[i];
        if (op->rate > 0)
            place_dropout(g, op, step, microbatch);
        op->class->forward(g, op);
    }
    for (int i = g->op_count - 1; i >= 0; i--) {
        struct op *op = &g->ops[i];
        if (op->class->backward_input)
            op->class->backward_input(g, op);
        if (op->class->backward_weight)
            op->class->backward_weight(g, op);
    }
}
