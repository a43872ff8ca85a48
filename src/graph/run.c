/* Running a graph's phases. */
#include "graph/graph_internal.h"

void graph_bind_parameters(struct graph *g, const void *parameters)
{
    for (int b = 0; b < g->bucket_count; b++)
        if (g->buckets[b].lookup_of < 0)
            g->bucket_parameters[b] = (const char *)parameters + (size_t)g->buckets[b].offset * dtype_size(g->backend->act);
}

void graph_set_hooks(struct graph *g, const struct graph_hooks *hooks)
{
    graph_forget_recorded(g);
    g->hooks = *hooks;
}

/* Lookup tables' gradients are added to: the region begins as zero. */
static void clear_lookup(struct graph *g, int bucket)
{
    for (int i = 0; i < g->op_count; i++)
        if (g->ops[i].clears_lookup && gradient_bucket(g, g->ops[i].weight, true) == bucket)
            g->backend->table->zero(g->backend, parameter_gradient(g, g->ops[i].weight, true),
                                    (size_t)parameter_of(g, g->ops[i].weight)->elements * dtype_size(g->backend->acc));
}

static cairn_err handle(struct graph *g, const struct event *e)
{
    const struct graph_hooks *h = &g->hooks;
    switch (e->kind) {
    case EVENT_ACQUIRE:
        return h->parameters_acquire ? h->parameters_acquire(h->context, e->bucket, &g->bucket_parameters[e->bucket]) : CAIRN_OK;
    case EVENT_BEGIN:
        if (h->gradient_begin)
            TRY(h->gradient_begin(h->context, e->bucket, &g->bucket_gradients[e->bucket]));
        if (!g->idle)
            clear_lookup(g, e->bucket);
        return CAIRN_OK;
    case EVENT_RELEASE: return h->parameters_release ? h->parameters_release(h->context, e->bucket) : CAIRN_OK;
    case EVENT_READY: return h->gradient_ready ? h->gradient_ready(h->context, e->bucket) : CAIRN_OK;
    }
    return CAIRN_OK;
}

static cairn_err handle_all(struct graph *g, int first, int end)
{
    for (int e = first; e < end; e++)
        TRY(handle(g, &g->events[e]));
    return CAIRN_OK;
}

static void run_kernels(struct graph *g, struct op *op, enum step_kind kind)
{
    backend_range_begin(g->backend, op->class->name, -1);
    if (kind == STEP_FORWARD)
        op->class->forward(g, op);
    else if (kind == STEP_BACKWARD_INPUT)
        op->class->backward_input(g, op);
    else
        op->class->backward_weight(g, op);
    backend_range_end(g->backend);
}

static void run_kernels_of(struct graph *g, int first, int end)
{
    for (int s = first; s < end; s++) {
        struct op *op = &g->ops[g->steps[s].op];
        if (!g->idle || op->class->across_replicas)
            run_kernels(g, op, g->steps[s].kind);
    }
}

static cairn_err run_steps(struct graph *g, int first, int end)
{
    for (int s = first, next; s < end; s = next) {
        int recorded = graph_recorded_end(g, s, end);
        next = recorded > s + 1 ? recorded : s + 1;
        for (int k = s; k < next; k++)
            TRY(handle_all(g, g->steps[k].before, g->steps[k].after));
        if (recorded > s + 1)
            graph_run_recorded(g, s, next, run_kernels_of);
        else
            run_kernels_of(g, s, next);
        if (g->run_error)
            return g->run_error;
        for (int k = s; k < next; k++)
            TRY(handle_all(g, g->steps[k].after, g->steps[k + 1].before));
        if (g->hooks.progress)
            TRY(g->hooks.progress(g->hooks.context));
    }
    return CAIRN_OK;
}

static void run_late(struct graph *g, struct op *op)
{
    if (!g->idle)
        run_kernels(g, op, STEP_FORWARD);
}

/* What the forward phase of training leaves to the backward one. */
static cairn_err evaluate_losses(struct graph *g)
{
    for (int i = 0; i < g->op_count; i++) {
        struct op *op = &g->ops[i];
        if (!op_is_late(op) || (!g->targets && !g->idle))
            continue;
        if (op->weight < 0) {
            run_late(g, op);
            continue;
        }
        struct event e = {.kind = EVENT_ACQUIRE, .bucket = parameter_of(g, op->weight)->bucket};
        TRY(handle(g, &e));
        run_late(g, op);
        e.kind = EVENT_RELEASE;
        TRY(handle(g, &e));
    }
    return g->run_error;
}

/* The dropout masks of a pass's microbatch: positions follow from the op's own count of elements. Where calls are recorded, step and microbatch
 * lie in the device's memory. */
static void place_dropout(struct graph *g, struct op *op, const struct graph_pass *pass)
{
    int64_t elements = g->options.samples * g->options.context * g->tensors[op->y].width;
    if (op->class == &op_attention || op->class == &op_ring_attention)
        elements = g->options.samples * op->heads * g->options.context * g->options.context;
    struct dropout *d = &op->dropout;
    d->stride = (uint64_t)((elements + 3) / 4 * 4);
    d->moment = g->moments ? g->moments + pass->slot : NULL;
    d->step = g->moments ? 0 : (uint64_t)pass->step;
    d->first = g->moments ? 0 : d->stride * (uint64_t)pass->microbatch;
}

static void place_dropouts(struct graph *g, enum graph_phase phase, const struct graph_pass *pass)
{
    const struct dropout_moment moment = {(uint64_t)pass->step, (uint64_t)pass->microbatch};
    bool any = false;
    for (int i = 0; i < g->op_count && g->dropping; i++) {
        if (g->ops[i].rate > 0)
            place_dropout(g, &g->ops[i], pass);
        any = any || g->ops[i].rate > 0;
    }
    if (any && g->moments && phase == GRAPH_FORWARD && !pass->idle)
        g->backend->table->upload(g->backend, g->moments + pass->slot, &moment, sizeof moment);
}

/* To a device they go once, at a microbatch's first phase. */
static const int32_t *place_tokens(struct graph *g, const int32_t *tokens, int32_t *place, bool first)
{
    if (!tokens || g->backend->table->host_memory)
        return tokens;
    if (first)
        g->backend->table->upload(g->backend, place, tokens, (size_t)g->rows * sizeof *tokens);
    return place;
}

static void take_tokens(struct graph *g, enum graph_phase phase, const struct graph_pass *pass)
{
    bool first = (phase == GRAPH_FORWARD || phase == GRAPH_EVALUATE) && !pass->idle;
    int32_t *place = g->tokens ? g->tokens + 2 * pass->slot * g->rows : NULL;
    g->inputs = place_tokens(g, pass->inputs, place, first);
    g->targets = place_tokens(g, pass->targets, place ? place + g->rows : NULL, first);
}

cairn_err graph_run(struct graph *g, enum graph_phase phase, const struct graph_pass *pass)
{
    g->slot = g->slots + (size_t)pass->slot * g->slot_bytes;
    take_tokens(g, phase, pass);
    g->loss_scale = pass->loss_scale;
    g->dropping = phase != GRAPH_EVALUATE;
    g->idle = pass->idle;
    g->run_error = CAIRN_OK;
    place_dropouts(g, phase, pass);
    if (phase != GRAPH_EVALUATE)
        return run_steps(g, g->phase_begin[phase], g->phase_begin[phase + 1]);
    int end = g->phase_begin[1];
    if (!g->options.training && end > 0 && g->ops[g->steps[end - 1].op].class->backward_only)
        end--;
    TRY(run_steps(g, 0, end));
    return evaluate_losses(g);
}

cairn_err graph_forward(struct graph *g, const int32_t *inputs, const int32_t *targets)
{
    const struct graph_pass pass = {.inputs = inputs, .targets = targets};
    return graph_run(g, GRAPH_EVALUATE, &pass);
}

cairn_err graph_forward_backward(struct graph *g, const struct graph_pass *pass)
{
    TRY(graph_run(g, GRAPH_FORWARD, pass));
    TRY(graph_run(g, GRAPH_BACKWARD, pass));
    return graph_run(g, GRAPH_WEIGHTS, pass);
}
