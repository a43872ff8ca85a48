#include "plan/step_time.h"

#include <math.h>
#include <stdlib.h>

#include "plan/exchange.h"
#include "plan/kernel_time.h"
#include "plan/link_time.h"
#include "plan/memory.h"
#include "schedule/schedule.h"

/* Work of the host between two steps that no kernel hides: reading a batch, a sum of losses, a line of metrics. */
static const double step_seconds = 2e-3;

struct step {
    const struct plan_model *model;
    const struct plan_layout *layout;
    const struct machine *machine;
    const struct block_time *block, *head;
    double microbatches; /* of a replica */
    struct plan_cut cut;
};

/* ---- pieces and stages ---- */

/* A piece's, or a stage's, times for one microbatch. What is sent to the neighbours and hides under nothing is in both passes. */
struct piece_time {
    double forward, backward_input, backward_weight;
    double tensor, expert, sending; /* of these */
};

/* A piece's result to the next stage, or its gradient back. */
static double send_seconds(const struct step *s)
{
    const struct plan_layout *l = s->layout;
    const struct layout *a = &l->axes;
    if (a->pipeline == 1)
        return 0;
    double bytes = (double)l->samples * (double)s->model->context / a->context * (double)s->model->width * plan_type_size(s->machine->type);
    bool parts = a->tensor > 1 && (l->sequence || s->machine->software->scatters_stages);
    double seconds = link_send_seconds(s->machine, a->tensor * a->context * a->data, parts ? bytes / a->tensor : bytes);
    struct link_group tensor = link_group_of(s->machine, a->tensor, 1);
    return parts && !l->sequence ? seconds + link_scatter_seconds(s->machine, &tensor, bytes) : seconds;
}

static struct piece_time piece_time_of(const struct step *s, int index)
{
    const struct layout *a = &s->layout->axes;
    int count = a->pipeline * a->chunks;
    double layers = (double)plan_cut_layers(&s->cut, index);
    const struct block_time *b = s->block, *h = s->head;
    double shown = (1 - s->machine->software->pipeline_overlap) * send_seconds(s);
    struct piece_time t = {.forward = layers * block_time_forward(b) + shown, .backward_weight = layers * b->backward_weight,
                           .backward_input = layers * (block_time_backward(b) - b->backward_weight) + shown,
                           .tensor = layers * (b->tensor_forward + b->tensor_backward + b->tensor_again),
                           .expert = layers * (b->expert_forward + b->expert_backward + b->expert_again), .sending = 2 * shown};
    if (index == count - 1) {
        t.forward += block_time_forward(h);
        t.backward_input += block_time_backward(h) - h->backward_weight;
        t.backward_weight += h->backward_weight;
        t.tensor += h->tensor_forward + h->tensor_backward;
    }
    return t;
}

static double whole(const struct piece_time *t)
{
    return t->forward + t->backward_input + t->backward_weight;
}

static struct piece_time stage_of(const struct step *s, int stage)
{
    struct piece_time sum = {0};
    for (int chunk = 0; chunk < s->layout->axes.chunks; chunk++) {
        struct piece_time t = piece_time_of(s, chunk * s->layout->axes.pipeline + stage);
        sum = (struct piece_time){sum.forward + t.forward, sum.backward_input + t.backward_input, sum.backward_weight + t.backward_weight,
                                  sum.tensor + t.tensor, sum.expert + t.expert, sum.sending + t.sending};
    }
    return sum;
}

static struct piece_time busiest_stage(const struct step *s)
{
    struct piece_time busiest = {0};
    for (int stage = 0; stage < s->layout->axes.pipeline; stage++) {
        struct piece_time t = stage_of(s, stage);
        if (whole(&t) > whole(&busiest))
            busiest = t;
    }
    return busiest;
}

/* ---- the schedule ---- */

static struct schedule_desc schedule_of(const struct step *s)
{
    const struct plan_layout *l = s->layout;
    return (struct schedule_desc){(enum schedule_kind)l->schedule, l->axes.pipeline, l->axes.chunks, (int64_t)s->microbatches};
}

/* The makespan by formula: the busiest stage works all its microbatches, the others show as they fill and drain. */
static double estimate_makespan(const struct step *s, const struct piece_time *busiest)
{
    struct piece_time average = {0};
    int stages = s->layout->axes.pipeline;
    for (int stage = 0; stage < stages; stage++) {
        struct piece_time t = stage_of(s, stage);
        average.forward += t.forward / stages;
        average.backward_input += t.backward_input / stages;
        average.backward_weight += t.backward_weight / stages;
    }
    struct schedule_desc desc = schedule_of(s);
    double share = schedule_bubble(&desc, average.forward, average.backward_input, average.backward_weight);
    return s->microbatches * (whole(busiest) + share / (1 - share) * whole(&average)) + 2 * (stages - 1) * send_seconds(s);
}

static cairn_err simulate_makespan(const struct step *s, double *makespan)
{
    struct schedule_desc desc = schedule_of(s);
    struct schedule_time time = {0};
    int count = desc.stages * desc.chunks;
    double *room = calloc((size_t)count, 4 * sizeof *room);
    double *forward = room, *input = room + count, *weight = input + count, *send = weight + count;
    if (!room)
        return FAIL(CAIRN_ENOMEM, "no memory for a schedule of %d pieces", count);
    for (int k = 0; k < count; k++) {
        struct piece_time t = piece_time_of(s, k);
        forward[k] = t.forward;
        input[k] = t.backward_input;
        weight[k] = t.backward_weight;
        send[k] = s->machine->software->pipeline_overlap * send_seconds(s); /* the rest is in the passes */
    }
    const struct schedule_cost cost = {.forward = forward, .backward_input = input, .backward_weight = weight, .send = send};
    cairn_err err = schedule_simulate(&desc, &cost, &time, NULL);
    free(room);
    *makespan = time.makespan;
    return err;
}

/* ---- the data group ---- */

/* Ranks that hold the same parameters, those of experts where EXPERT, the layout's axis, is above 1. */
static struct link_group replicas_of(const struct step *s, int expert)
{
    const struct layout *a = &s->layout->axes;
    return link_group_of(s->machine, a->data * a->context / expert, a->tensor * expert);
}

static double scatter_among(const struct step *s, int expert, double bytes)
{
    const struct link_group group = replicas_of(s, expert);
    return s->machine->software->direct_reduce ? link_direct_seconds(s->machine, &group, bytes)
                                               : link_scatter_seconds(s->machine, &group, bytes);
}

/* Of the first stage's parameters, SIZE bytes each. */
static double scatter(const struct step *s, double size)
{
    const struct hardware_software *software = s->machine->software;
    double elements = (double)memory_stage_parameters(s->model, s->layout, software, 0);
    double experts = (double)memory_stage_experts(s->model, s->layout, software, 0);
    int expert = s->layout->axes.expert;
    return expert == 1 ? scatter_among(s, 1, size * elements)
                       : scatter_among(s, 1, size * (elements - experts)) + scatter_among(s, expert, size * experts);
}

/* Exchanges run on processors and memory that computation then lacks: NCCL's 16 to 24 channels of 108 or 132 processors. */
static const double overlap_price = 0.15;

/* What shows of SECONDS of exchange that may pass under WINDOW seconds of computation. */
static double shown(const struct step *s, double seconds, double window)
{
    return seconds - (1 - overlap_price) * fmin(seconds * s->machine->software->data_overlap, window);
}

/* What compression reads and writes of a gradient and of what was not sent, bytes an element: both read and written, and a message. */
static const double compression_bytes = 20;

/* Bucket by bucket, WINDOW seconds of it under the backward pass; a rank sends as much as a ring that scatters R / (R - 1) times that. */
static double compressed_seconds(const struct step *s, double window)
{
    const struct link_group group = replicas_of(s, 1);
    const struct exchange_size e = exchange_compressed(s->model, s->layout, s->machine->software, 0);
    double ring = (double)e.sent * group.ranks / (group.ranks - 1);
    return shown(s, link_scatter_seconds(s->machine, &group, ring), window) +
           kernel_stream_seconds(s->machine->gpu, compression_bytes * (double)e.elements, 10);
}

static void add_data(const struct step *s, const struct piece_time *busiest, struct step_time *out)
{
    const struct plan_layout *l = s->layout;
    if (l->axes.data * l->axes.context == 1)
        return;
    double gradients = scatter(s, 4), weights = scatter(s, plan_type_size(s->machine->type)), times = s->microbatches;
    if (l->modes.local_steps > 0) { /* weights are summed once in so many steps, and nothing hides it */
        const struct link_group group = replicas_of(s, 1);
        double bytes = 4 * (double)memory_stage_parameters(s->model, l, s->machine->software, 0);
        out->data = link_reduce_seconds(s->machine, &group, bytes) / (double)l->modes.local_steps;
        return;
    }
    if (l->modes.compress != CONFIG_COMPRESS_NONE) {
        out->data = compressed_seconds(s, busiest->backward_input + busiest->backward_weight) + (l->zero > 0 ? shown(s, weights, busiest->forward) : 0);
        return;
    }
    switch (l->zero) {
    case 0: out->data = shown(s, 2 * gradients, busiest->backward_input + busiest->backward_weight); break;
    case 1: out->data = shown(s, gradients, busiest->backward_input + busiest->backward_weight) + shown(s, weights, busiest->forward); break;
    case 2: out->data = times * shown(s, gradients, busiest->backward_input + busiest->backward_weight) + shown(s, weights, busiest->forward); break;
    default:
        out->data = times * (shown(s, gradients + weights, busiest->backward_input + busiest->backward_weight) + shown(s, weights, busiest->forward));
        break;
    }
}

static void add_optimizer(const struct step *s, struct step_time *out)
{
    const struct hardware_software *software = s->machine->software;
    const struct layout *a = &s->layout->axes;
    double replicas = s->layout->zero >= 1 ? a->data * a->context : 1, holders = s->layout->zero >= 1 ? replicas / a->expert : 1;
    double experts = (double)memory_stage_experts(s->model, s->layout, software, 0);
    double elements = ((double)memory_stage_parameters(s->model, s->layout, software, 0) - experts) / replicas + experts / holders;
    out->optimizer = kernel_stream_seconds(s->machine->gpu, elements * software->optimizer_bytes, 10);
}

static struct step_time finish(const struct step *s, const struct piece_time *busiest, double makespan)
{
    struct step_time out = {.tensor = s->microbatches * busiest->tensor, .expert = s->microbatches * busiest->expert,
                            .sending = s->microbatches * busiest->sending};
    double busy = s->microbatches * whole(busiest);
    out.computing = busy - out.tensor - out.expert - out.sending;
    out.bubble = fmax(0, makespan - busy);
    add_data(s, busiest, &out);
    add_optimizer(s, &out);
    out.total = busy + out.bubble + out.data + out.optimizer + step_seconds;
    return out;
}

static struct step step_of(const struct plan_model *model, const struct plan_layout *l, const struct machine *machine,
                           const struct block_time *block, const struct block_time *head)
{
    return (struct step){model, l, machine, block, head, ceil((double)l->microbatches / l->axes.data),
                         plan_cut_of(model, l->axes.pipeline * l->axes.chunks, machine->software->even_stages)};
}

struct step_time step_time_estimate(const struct plan_model *model, const struct plan_layout *layout, const struct machine *machine,
                                    const struct block_time *block, const struct block_time *head)
{
    const struct step s = step_of(model, layout, machine, block, head);
    const struct piece_time busiest = busiest_stage(&s);
    return finish(&s, &busiest, estimate_makespan(&s, &busiest));
}

cairn_err step_time_of(const struct plan_model *model, const struct plan_layout *layout, const struct machine *machine, struct step_time *out)
{
    const struct block_time block = block_time_of(model, layout, machine), head = block_time_of_head(model, layout, machine);
    const struct step s = step_of(model, layout, machine, &block, &head);
    const struct piece_time busiest = busiest_stage(&s);
    double makespan = 0;
    TRY(simulate_makespan(&s, &makespan));
    *out = finish(&s, &busiest, makespan);
    return CAIRN_OK;
}
