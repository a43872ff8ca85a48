/* Declaring a graph, and what it came to. */
#include "graph/graph_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/least.h"

struct graph *graph_new(struct backend *backend, const struct graph_options *options)
{
    struct graph *g = calloc(1, sizeof *g);
    if (!g)
        return NULL;
    g->backend = backend;
    g->staging.backend = backend;
    g->options = *options;
    g->columns = graph_columns_of(options->context, options->columns ? options->columns->size : 1,
                                  options->columns ? options->columns->rank : 0);
    g->rows = options->samples * g->columns.count;
    g->losses = g->stage_input = g->stage_output = g->segment = -1;
    return g;
}

static size_t tokens_bytes(const struct graph *g)
{
    return (size_t)(g->slot_count * 2 * g->rows) * sizeof *g->tokens;
}

static void release_memory(struct graph *g)
{
    const struct backend_table *table = g->backend->table;
    graph_forget_recorded(g);
    if (g->slots)
        table->free(g->backend, g->slots, (size_t)g->slot_count * g->slot_bytes);
    if (g->scratch && g->own_scratch)
        table->free(g->backend, g->scratch, g->scratch_bytes);
    if (g->tokens)
        table->free(g->backend, g->tokens, tokens_bytes(g));
    if (g->moments)
        table->free(g->backend, g->moments, (size_t)g->slot_count * sizeof *g->moments);
    g->slots = g->scratch = NULL;
    g->tokens = NULL;
    g->moments = NULL;
}

void graph_free(struct graph *g)
{
    if (!g)
        return;
    for (int i = 0; i < g->op_count; i++)
        if (g->ops[i].class->release)
            g->ops[i].class->release(g, &g->ops[i]);
    release_memory(g);
    free(g->tensors);
    free(g->ops);
    free(g->parameters);
    free(g->buckets);
    free(g->steps);
    free(g->events);
    free(g->bucket_parameters);
    free(g->bucket_gradients);
    free(g->shares);
    free(g->told);
    if (g->positions)
        g->backend->table->free(g->backend, g->positions, (size_t)g->columns.count * sizeof *g->positions);
    if (g->join)
        g->backend->table->free(g->backend, g->join, g->join_bytes);
    staging_close(&g->staging);
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

bool graph_grow(struct graph *g, void **array, int count, int *room, size_t size)
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
    if (g->error || !graph_grow(g, (void **)&g->tensors, g->tensor_count, &g->tensor_room, sizeof *g->tensors))
        return -1;
    g->tensors[g->tensor_count] = (struct tensor){.role = role, .dtype = dtype, .rows = rows, .width = width, .parameter = -1,
                                                  .alias = -1, .gradient = -1, .producer = -1, .life = {{-1, -1}, {-1, -1}}};
    return g->tensor_count++;
}

struct op *graph_add_op(struct graph *g, const struct op_class *class)
{
    if (g->error || !graph_grow(g, (void **)&g->ops, g->op_count, &g->op_room, sizeof *g->ops))
        return NULL;
    struct op *op = &g->ops[g->op_count++];
    *op = (struct op){.class = class, .unit = g->unit, .segment = g->segment, .x = -1, .h = -1, .y = -1, .weight = -1, .bias = -1,
                       .gelu_behind = -1, .gelu_before = -1, .sum_before = -1};
    for (int i = 0; i < OP_PARAMETERS - 2; i++)
        op->more[i] = -1;
    for (int i = 0; i < OP_STATISTICS; i++)
        op->statistic[i] = -1;
    for (int i = 0; i < OP_WORK; i++)
        op->work[i] = -1;
    return op;
}

void graph_unit(struct graph *g, int number)
{
    g->unit = number;
    g->dropouts_in_unit = 0;
}

void graph_segment_begin(struct graph *g, enum graph_recompute kind)
{
    bool asked = kind == GRAPH_GATHER_AGAIN ? graph_shares_rows(g) : (int)kind == g->options.recompute;
    bool wanted = g->options.training && kind != GRAPH_RECOMPUTE_NONE && asked;
    if (g->segment_depth > 0 || wanted)
        g->segment_depth++;
    if (g->segment_depth == 1 && wanted)
        g->segment = g->segment_count++;
}

void graph_segment_end(struct graph *g)
{
    if (g->segment_depth > 0 && --g->segment_depth == 0)
        g->segment = -1;
}

/* Of dimension I this rank has COUNT from FIRST on. */
static void take_part(struct graph *g, struct parameter *p, int i, int64_t first, int64_t count)
{
    p->first[i] = first;
    p->extent[i] = count;
    if (count < 1 || first < 0 || first + count > p->shape[i])
        graph_mistake(g, "parameter %s: %lld from %lld on lie outside dimension %d", p->name, (long long)count, (long long)first, i);
}

/* The slab of DESC in P; false: DESC is a mistake. */
static bool take_slab(struct graph *g, const struct parameter_desc *desc, struct parameter *p)
{
    for (int i = 0; i < desc->dims; i++) {
        if (desc->shape[i] < 1)
            graph_mistake(g, "parameter %s: dimension %d is %lld", desc->name, i, (long long)desc->shape[i]);
        p->shape[i] = p->extent[i] = desc->shape[i];
        if (i == desc->split)
            take_part(g, p, i, desc->first, desc->count);
        else if (i == 0 && desc->of_expert)
            take_part(g, p, i, desc->first_expert, desc->experts);
        p->elements *= p->extent[i];
    }
    p->divided = desc->split >= 0 && p->extent[desc->split] < p->shape[desc->split];
    for (int i = 0; i < g->parameter_count; i++)
        if (strcmp(g->parameters[i].name, p->name) == 0)
            graph_mistake(g, "parameter %s is declared twice", desc->name);
    return !g->error;
}

tensor_id graph_parameter(struct graph *g, const struct parameter_desc *desc)
{
    if (g->error || !graph_grow(g, (void **)&g->parameters, g->parameter_count, &g->parameter_room, sizeof *g->parameters))
        return -1;
    struct parameter p = {.dims = desc->dims, .elements = 1, .init = desc->init, .vector = desc->vector, .shared = desc->shared, .of_expert = desc->of_expert,
                          .lookup = -1};
    snprintf(p.name, sizeof p.name, "%s", desc->name);
    if (!take_slab(g, desc, &p))
        return -1;
    int64_t width = desc->vector ? p.elements : p.extent[desc->dims - 1];
    tensor_id id = graph_add_tensor(g, ROLE_PARAMETER, g->backend->act, p.elements / width, width);
    if (id < 0)
        return -1;
    g->tensors[id].parameter = g->parameter_count;
    g->parameters[g->parameter_count++] = p;
    return id;
}

static cairn_err prepare_ops(struct graph *g)
{
    for (int i = 0; i < g->op_count; i++)
        if (g->ops[i].class->prepare)
            TRY_CONTEXT(g->ops[i].class->prepare(g, &g->ops[i]), "preparing %s", g->ops[i].class->name);
    return CAIRN_OK;
}

cairn_err graph_finish(struct graph *g)
{
    TRY(graph_place_columns(g));
    if (!g->error)
        TRY(graph_place_parameters(g));
    if (!g->error && g->options.training)
        graph_derive_backward(g);
    if (g->error)
        return FAIL(g->error, "%s", g->error_message);
    if (!g->backend->table->host_memory) {
        graph_join_gelus(g);
        graph_join_residuals(g);
    }
    TRY(graph_list_steps(g));
    TRY(graph_make_buckets(g));
    TRY(graph_prepare_recording(g));
    TRY(graph_plan_memory(g));
    return prepare_ops(g);
}

cairn_err graph_allocate(struct graph *g, int slots, void *scratch)
{
    const struct backend_table *table = g->backend->table;
    release_memory(g);
    g->slot_count = slots;
    g->own_scratch = !scratch;
    g->slots = table->alloc(g->backend, (size_t)slots * g->slot_bytes);
    g->scratch = scratch ? scratch : table->alloc(g->backend, g->scratch_bytes);
    if (!table->host_memory)
        g->tokens = table->alloc(g->backend, tokens_bytes(g));
    if (table->record_begin)
        g->moments = table->alloc(g->backend, (size_t)slots * sizeof *g->moments);
    if (!g->slots || !g->scratch || (!g->tokens && !table->host_memory) || (!g->moments && table->record_begin))
        return FAIL(CAIRN_ENOMEM, "no memory for %.1f MB of activations",
                    ((double)slots * (double)g->slot_bytes + (double)g->scratch_bytes) * 1e-6);
    g->slot = g->slots;
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

int graph_bucket_count(const struct graph *g)
{
    return g->bucket_count;
}

const struct graph_bucket *graph_bucket_at(const struct graph *g, int index)
{
    return &g->buckets[index];
}

int64_t graph_parameter_elements(const struct graph *g)
{
    return g->parameter_elements;
}

int64_t graph_gradient_elements(const struct graph *g)
{
    return g->gradient_elements;
}

size_t graph_slot_bytes(const struct graph *g)
{
    return g->slot_bytes;
}

size_t graph_scratch_bytes(const struct graph *g)
{
    return g->scratch_bytes;
}

const void *graph_losses(const struct graph *g)
{
    return tensor_data(g, g->losses);
}

const void *graph_tensor_data(const struct graph *g, tensor_id tensor)
{
    return tensor_data(g, tensor);
}

int64_t graph_rows(const struct graph *g)
{
    return g->rows;
}

static size_t losses_bytes(const struct graph *g, int64_t rows)
{
    return (size_t)rows * dtype_size(g->backend->acc);
}

/* Begins with SUM, so that pieces are summed in one order. */
static double add_losses(const struct graph *g, double sum, const void *losses, int64_t rows)
{
    for (int64_t r = 0; r < rows; r++)
        sum += g->backend->acc == DTYPE_F64 ? ((const double *)losses)[r] : (double)((const float *)losses)[r];
    return sum;
}

static double sum_losses(const struct graph *g, int64_t rows)
{
    enum { PIECE = 4096 };
    double piece[PIECE], sum = 0;
    const char *losses = graph_losses(g);
    for (int64_t r = 0; r < rows; r += PIECE) {
        int64_t count = least(PIECE, rows - r);
        g->backend->table->download(g->backend, piece, losses + losses_bytes(g, r), losses_bytes(g, count));
        sum = add_losses(g, sum, piece, count);
    }
    return sum;
}

cairn_err graph_sum_losses(const struct graph *g, int64_t rows, double *sum)
{
    *sum = sum_losses(g, rows);
    return g->backend->table->finish(g->backend);
}

double graph_mean_of(const struct graph *g, const void *losses)
{
    return add_losses(g, 0, losses, g->rows) / (double)(g->options.samples * g->options.context);
}

double graph_mean_loss(const struct graph *g)
{
    return sum_losses(g, g->rows) / (double)(g->options.samples * g->options.context);
}

void graph_keep_losses(const struct graph *g, void *losses)
{
    g->backend->table->copy(g->backend, losses, graph_losses(g), losses_bytes(g, g->rows));
}

/* SIZE is what the tensor takes; NULL where there is none. */
static void *boundary_data(struct graph *g, tensor_id x, size_t *size)
{
    *size = 0;
    if (x < 0)
        return NULL;
    *size = (size_t)(g->tensors[x].rows * g->tensors[x].width) * dtype_size(g->tensors[x].dtype);
    return tensor_data(g, x);
}

struct graph_boundary graph_boundary(struct graph *g, int slot)
{
    struct graph_boundary b = {0};
    size_t size;
    g->slot = g->slots + (size_t)slot * g->slot_bytes;
    b.input = boundary_data(g, g->stage_input, &b.input_bytes);
    b.output = boundary_data(g, g->stage_output, &b.output_bytes);
    if (g->options.training && g->stage_input >= 0)
        b.input_gradient = boundary_data(g, g->tensors[g->stage_input].gradient, &size);
    if (g->options.training && g->stage_output >= 0)
        b.output_gradient = boundary_data(g, g->tensors[g->stage_output].gradient, &size);
    return b;
}
