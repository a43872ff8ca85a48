#include "train/stage.h"

#include <stdlib.h>
#include <string.h>

#include "base/trace.h"
#include "train/gradient.h"
#include "train/stage_messages.h"

struct stage {
    struct mesh *mesh;
    struct backend *backend;
    struct stage_options options;
    struct schedule_desc schedule;
    int count;                /* pieces */
    struct gpt_piece *pieces;
    struct graph **graphs;
    int reader;               /* the piece that reads tokens; -1 */
    struct action *actions;
    int64_t action_count;
    int64_t *slots;           /* of each piece */
    void *scratch;
    size_t scratch_bytes;
    struct graph_columns columns; /* of each sequence, this rank's */
    int32_t *tokens;          /* [slots of the reader][inputs, targets][rows] */
    struct messages *messages;
    /* A step's losses by row, kept until its end: nothing waits for a device before that. NULL where the model does not end. */
    char *losses, *losses_there;   /* [passes][rows] (acc), the backend's; and downloaded */
    int64_t *losses_of;       /* which microbatch each is of */
    int64_t passes, losses_kept;
};

static cairn_err build(struct stage *s, int index)
{
    const struct stage_options *o = &s->options;
    const struct graph_options options = {
        .samples = o->samples, .context = o->context, .training = true, .join_lookups = o->microbatches == 1 && s->schedule.stages == 1,
        .seed = o->seed, .recompute = o->recompute, .split_backward = s->schedule.stages > 1 && o->schedule == SCHEDULE_ZERO_BUBBLE,
        .tensor = &s->mesh->tensor, .sequence = o->sequence, .columns = &s->mesh->context, .experts = &s->mesh->expert};
    int all = s->schedule.stages * s->schedule.chunks;
    s->pieces[index] = gpt_piece_of(&o->gpt, o->context, all, schedule_global_chunk(&s->schedule, s->mesh->place.pipeline, index));
    if (s->pieces[index].begins || s->pieces[index].ends)
        s->reader = index;
    s->graphs[index] = graph_new(s->backend, &options);
    if (!s->graphs[index])
        return FAIL(CAIRN_ENOMEM, "no memory for the graph");
    gpt_declare(s->graphs[index], &o->gpt, &s->pieces[index], o->context, true, NULL, NULL);
    return error_context(graph_finish(s->graphs[index]), "building the model");
}

cairn_err stage_open(struct mesh *mesh, struct backend *backend, const struct stage_options *options, struct stage **out)
{
    struct stage *s = calloc(1, sizeof *s);
    if (!s)
        return FAIL(CAIRN_ENOMEM, "no memory for the model");
    *s = (struct stage){.mesh = mesh, .backend = backend, .options = *options, .count = mesh->layout.chunks, .reader = -1};
    s->schedule = (struct schedule_desc){options->schedule, mesh->layout.pipeline, mesh->layout.chunks, options->microbatches};
    s->columns = graph_columns_of(options->context, mesh->context.size, mesh->context.rank);
    s->pieces = calloc((size_t)s->count, sizeof *s->pieces);
    s->graphs = calloc((size_t)s->count, sizeof *s->graphs);
    s->slots = calloc((size_t)s->count, sizeof *s->slots);
    cairn_err err = s->pieces && s->graphs && s->slots ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for the model");
    for (int i = 0; i < s->count && !err; i++)
        err = build(s, i);
    if (err)
        stage_close(s);
    else
        *out = s;
    return err;
}

/* Of a microbatch, on this rank. */
static int64_t rows_of(const struct stage *s)
{
    return s->options.samples * s->columns.count;
}

static size_t losses_bytes(const struct stage *s, int64_t microbatches)
{
    return (size_t)(microbatches * rows_of(s)) * dtype_size(s->backend->acc);
}

void stage_close(struct stage *s)
{
    if (!s)
        return;
    for (int i = 0; s->graphs && i < s->count; i++)
        graph_free(s->graphs[i]);
    if (s->scratch)
        s->backend->table->free(s->backend, s->scratch, s->scratch_bytes);
    if (s->losses)
        s->backend->table->free(s->backend, s->losses, losses_bytes(s, s->passes));
    messages_close(s->messages);
    free(s->losses_there);
    free(s->losses_of);
    free(s->pieces);
    free(s->graphs);
    free(s->slots);
    free(s->actions);
    free(s->tokens);
    free(s);
}

int stage_pieces(const struct stage *s)
{
    return s->count;
}

struct graph *const *stage_graphs(const struct stage *s)
{
    return s->graphs;
}

bool stage_reads(const struct stage *s)
{
    return s->reader >= 0;
}

bool stage_tells_losses(const struct stage *s)
{
    return s->pieces[s->count - 1].ends && s->mesh->place.tensor == 0;
}

static cairn_err open_losses(struct stage *s, int64_t passes)
{
    s->passes = passes;
    if (!s->pieces[s->count - 1].ends)
        return CAIRN_OK;
    s->losses = s->backend->table->alloc(s->backend, losses_bytes(s, passes));
    s->losses_there = malloc(losses_bytes(s, passes));
    s->losses_of = calloc((size_t)passes, sizeof *s->losses_of);
    return s->losses && s->losses_there && s->losses_of ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for losses");
}

cairn_err stage_prepare(struct stage *s, int64_t passes)
{
    int stage = s->mesh->place.pipeline;
    s->schedule.microbatches = passes;
    TRY(schedule_make(&s->schedule, stage, &s->actions, &s->action_count));
    for (int i = 0; i < s->count; i++)
        if (graph_scratch_bytes(s->graphs[i]) > s->scratch_bytes)
            s->scratch_bytes = graph_scratch_bytes(s->graphs[i]);
    s->scratch = s->backend->table->alloc(s->backend, s->scratch_bytes);
    if (!s->scratch)
        return FAIL(CAIRN_ENOMEM, "no memory for %.1f MB of activations", (double)s->scratch_bytes * 1e-6);
    for (int i = 0; i < s->count; i++) {
        s->slots[i] = schedule_slots(&s->schedule, stage, i);
        TRY(graph_allocate(s->graphs[i], (int)s->slots[i], s->scratch));
    }
    if (s->reader >= 0) {
        s->tokens = calloc((size_t)(s->slots[s->reader] * 2 * rows_of(s)), sizeof *s->tokens);
        if (!s->tokens)
            return FAIL(CAIRN_ENOMEM, "no memory for the tokens");
    }
    TRY(open_losses(s, passes));
    struct graph_boundary b = graph_boundary(s->graphs[0], 0);
    size_t bytes = b.input_bytes > b.output_bytes ? b.input_bytes : b.output_bytes;
    return messages_open(&s->mesh->pipeline, s->backend, bytes, s->count > 1 ? s->schedule.stages + 2 : 2, &s->messages);
}

int64_t stage_activation_memory(const struct stage *s)
{
    int64_t bytes = (int64_t)s->scratch_bytes;
    for (int i = 0; i < s->count; i++)
        bytes += s->slots[i] * (int64_t)graph_slot_bytes(s->graphs[i]);
    return bytes;
}

/* ---- running ---- */

struct step_run {
    struct stage *stage;
    struct gradient *gradient;
    struct loader *loader;
    int64_t step;
    double loss_scale;
};

/* Where the reader keeps the tokens of a slot. */
static int32_t *tokens_of(const struct stage *s, int slot, bool targets)
{
    return s->tokens + (2 * slot + targets) * rows_of(s);
}

/* This rank's columns of FROM, [samples, context]. */
static void take_columns(const struct stage *s, int32_t *to, const int32_t *from)
{
    for (int64_t i = 0; i < s->options.samples; i++, from += s->options.context)
        for (int r = 0; r < s->columns.runs; to += s->columns.run[r++].length)
            memcpy(to, from + s->columns.run[r].first, (size_t)s->columns.run[r].length * sizeof *to);
}

static cairn_err load(struct step_run *r, int slot)
{
    const int32_t *inputs, *targets;
    TRY(loader_next(r->loader, &inputs, &targets));
    take_columns(r->stage, tokens_of(r->stage, slot, false), inputs);
    take_columns(r->stage, tokens_of(r->stage, slot, true), targets);
    return CAIRN_OK;
}

static const char *const message_names[2][2] = {{"receive backward", "receive forward"}, {"send backward", "send forward"}};
static const char *const phase_names[] = {"forward", "backward", "weights", "evaluate"}; /* by enum graph_phase */

static void keep_losses(struct stage *s, int64_t microbatch)
{
    graph_keep_losses(s->graphs[s->count - 1], s->losses + losses_bytes(s, s->losses_kept));
    s->losses_of[s->losses_kept++] = microbatch;
}

void stage_take_losses(struct stage *s, double *losses)
{
    if (s->losses_kept == 0)
        return;
    s->backend->table->download(s->backend, s->losses_there, s->losses, losses_bytes(s, s->losses_kept));
    for (int64_t i = 0; i < s->losses_kept; i++)
        losses[s->losses_of[i]] = graph_mean_of(s->graphs[s->count - 1], s->losses_there + losses_bytes(s, i));
    s->losses_kept = 0;
}

/* MICROBATCH: what the trace calls it by; -1: by none. */
static cairn_err run_phase(struct stage *s, int piece, enum graph_phase phase, const struct graph_pass *pass, int64_t microbatch)
{
    if (pass->idle)
        return graph_run(s->graphs[piece], phase, pass);
    uint64_t begun = trace_begin();
    backend_range_begin(s->backend, phase_names[phase], microbatch);
    cairn_err err = graph_run(s->graphs[piece], phase, pass);
    backend_range_end(s->backend);
    trace_end(begun, TRACE_COMPUTE, phase_names[phase], microbatch);
    return err;
}

static cairn_err compute(struct step_run *r, const struct action *a, enum graph_phase phase)
{
    struct stage *s = r->stage;
    bool reads = a->chunk == s->reader;
    struct graph_pass pass = {.slot = a->slot, .step = r->step, .microbatch = gradient_microbatch(r->gradient, a->microbatch),
                              .loss_scale = r->loss_scale};
    pass.idle = pass.microbatch < 0;
    if (reads && phase == GRAPH_FORWARD && !pass.idle)
        TRY(load(r, a->slot));
    if (reads) {
        pass.inputs = tokens_of(s, a->slot, false);
        pass.targets = tokens_of(s, a->slot, true);
    }
    TRY(run_phase(s, a->chunk, phase, &pass, pass.microbatch));
    if (phase == GRAPH_BACKWARD && s->pieces[a->chunk].ends && !pass.idle)
        keep_losses(s, pass.microbatch);
    return CAIRN_OK;
}

static cairn_err pass_message(struct stage *s, const struct action *a, bool forward, bool send)
{
    struct graph_boundary b = graph_boundary(s->graphs[a->chunk], a->slot);
    enum ring_direction direction = forward ? RING_FORWARD : RING_BACKWARD;
    if (send)
        return messages_send(s->messages, direction, a->peer, forward ? b.output : b.input_gradient, forward ? b.output_bytes : b.input_bytes);
    return messages_receive(s->messages, direction, a->peer, forward ? b.input : b.output_gradient, forward ? b.input_bytes : b.output_bytes);
}

/* A message to or from another stage. */
static cairn_err exchange(struct step_run *r, const struct action *a)
{
    struct stage *s = r->stage;
    int64_t microbatch = gradient_microbatch(r->gradient, a->microbatch);
    if (microbatch < 0)
        return CAIRN_OK; /* idle on all stages */
    bool forward = a->kind == ACTION_SEND_FORWARD || a->kind == ACTION_RECEIVE_FORWARD;
    bool send = a->kind == ACTION_SEND_FORWARD || a->kind == ACTION_SEND_BACKWARD;
    uint64_t begun = trace_begin();
    backend_range_begin(s->backend, message_names[send][forward], microbatch);
    cairn_err err = pass_message(s, a, forward, send);
    backend_range_end(s->backend);
    trace_end(begun, TRACE_COMMUNICATION, message_names[send][forward], microbatch);
    return err;
}

static cairn_err act(struct step_run *r, const struct action *a)
{
    switch (a->kind) {
    case ACTION_FORWARD: return compute(r, a, GRAPH_FORWARD);
    case ACTION_BACKWARD:
    case ACTION_BACKWARD_INPUT: return compute(r, a, GRAPH_BACKWARD);
    case ACTION_BACKWARD_WEIGHT: return compute(r, a, GRAPH_WEIGHTS);
    case ACTION_SEND_FORWARD:
    case ACTION_RECEIVE_FORWARD:
    case ACTION_SEND_BACKWARD:
    case ACTION_RECEIVE_BACKWARD: return exchange(r, a);
    case ACTION_REDUCE: /* begins bucket by bucket, as each is ready: train/gradient.c */
    case ACTION_UPDATE: break;
    }
    return CAIRN_OK;
}

cairn_err stage_run(struct stage *s, struct gradient *gradient, struct loader *loader, int64_t step, double loss_scale)
{
    struct step_run r = {s, gradient, loader, step, loss_scale};
    for (int64_t i = 0; i < s->action_count; i++)
        TRY(act(&r, &s->actions[i]));
    return CAIRN_OK;
}

struct graph_experts_use stage_take_experts_use(struct stage *s)
{
    struct graph_experts_use all = {0};
    for (int i = 0; i < s->count; i++) {
        const struct graph_experts_use use = graph_take_experts_use(s->graphs[i]);
        all.dropped += use.dropped;
        all.greatest += use.greatest;
    }
    return all;
}

cairn_err stage_evaluate(struct stage *s, const int32_t *inputs, const int32_t *targets, int64_t samples, bool idle, double *loss)
{
    int stages = s->schedule.stages, stage = s->mesh->place.pipeline;
    struct graph_pass pass = {.idle = idle};
    if (s->reader >= 0 && !idle) {
        pass.inputs = tokens_of(s, 0, false);
        pass.targets = tokens_of(s, 0, true);
        take_columns(s, tokens_of(s, 0, false), inputs);
        take_columns(s, tokens_of(s, 0, true), targets);
    }
    for (int i = 0; i < s->count; i++) {
        struct graph_boundary b = graph_boundary(s->graphs[i], 0);
        if (!s->pieces[i].begins && !idle)
            TRY(messages_receive(s->messages, RING_FORWARD, (stage + stages - 1) % stages, b.input, b.input_bytes));
        TRY(run_phase(s, i, GRAPH_EVALUATE, &pass, -1));
        if (!s->pieces[i].ends && !idle)
            TRY(messages_send(s->messages, RING_FORWARD, (stage + 1) % stages, b.output, b.output_bytes));
        else if (!idle)
            TRY(graph_sum_losses(s->graphs[i], samples * s->columns.count, loss));
    }
    return CAIRN_OK;
}
