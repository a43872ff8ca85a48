#include "plan/step_time.h"

#include <math.h>

#include "plan/kernel_time.h"
#include "plan/link_time.h"
#include "plan/memory.h"

/* Work of the host between two steps that no kernel hides: reading a batch, a sum of losses, a line of metrics. */
static const double step_seconds = 2e-3;

/* A stage's times for one microbatch, all its chunks. */
struct stage_time {
    double forward, backward, backward_weight, tensor;
};

struct step {
    const struct plan_model *model;
    const struct plan_layout *layout;
    const struct machine *machine;
    const struct block_time *block, *head;
    double microbatches; /* of a replica */
};

static struct stage_time stage_time_of(const struct step *s, int stage)
{
    double layers = (double)plan_stage_layers(s->model->layers, &s->layout->axes, stage);
    const struct block_time *b = s->block, *h = s->head;
    struct stage_time t = {layers * block_time_forward(b), layers * block_time_backward(b), layers * b->backward_weight,
                           layers * (b->tensor_forward + b->tensor_backward + b->tensor_again)};
    if (stage == s->layout->axes.pipeline - 1) {
        t.forward += block_time_forward(h);
        t.backward += block_time_backward(h);
        t.backward_weight += h->backward_weight;
        t.tensor += h->tensor_forward + h->tensor_backward;
    }
    return t;
}

static double whole(const struct stage_time *t)
{
    return t->forward + t->backward;
}

/* What a stage waits for while the pipeline fills and drains, because of another stage. Narayanan et al. (SC21), section 2.2, for 1F1B
 * and interleaved; Qi et al. (arXiv 2401.10241), section 2, for zero bubble with 1F1B's memory. */
static double bubble_of(const struct plan_layout *l, const struct stage_time *t)
{
    if (l->schedule == CONFIG_ZERO_BUBBLE)
        return fmax(0, whole(t) - 2 * t->backward_weight);
    return whole(t) / l->axes.chunks;
}

static void add_pipeline(const struct step *s, struct step_time *out, struct stage_time *slowest)
{
    double bubble = 0;
    for (int stage = 0; stage < s->layout->axes.pipeline; stage++) {
        struct stage_time t = stage_time_of(s, stage);
        bubble += bubble_of(s->layout, &t);
        if (stage == 0 || whole(&t) > whole(slowest))
            *slowest = t;
    }
    out->bubble = bubble - bubble_of(s->layout, slowest);
    out->computing = s->microbatches * (whole(slowest) - slowest->tensor);
    out->tensor = s->microbatches * slowest->tensor;
}

/* A chunk's result to the next stage, or its gradient back. */
static double send_seconds(const struct step *s)
{
    const struct plan_layout *l = s->layout;
    const struct layout *a = &l->axes;
    double bytes = (double)l->samples * (double)s->model->context / a->context * (double)s->model->width * plan_type_size(s->machine->type);
    bool parts = a->tensor > 1 && (l->sequence || s->machine->software->scatters_stages);
    double seconds = link_send_seconds(s->machine, a->tensor * a->context * a->data, parts ? bytes / a->tensor : bytes);
    struct link_group tensor = link_group_of(s->machine, a->tensor, 1);
    return parts && !l->sequence ? seconds + link_scatter_seconds(s->machine, &tensor, bytes) : seconds;
}

static void add_sending(const struct step *s, struct step_time *out)
{
    const struct layout *a = &s->layout->axes;
    if (a->pipeline == 1)
        return;
    double one = 2 * send_seconds(s); /* forward and backward */
    out->sending = (a->pipeline - 1) * one + (1 - s->machine->software->pipeline_overlap) * s->microbatches * a->chunks * one;
}

/* ---- the data group ---- */

static double scatter(const struct step *s, double bytes)
{
    const struct layout *a = &s->layout->axes;
    struct link_group group = link_group_of(s->machine, a->data * a->context, a->tensor);
    return s->machine->software->direct_reduce ? link_direct_seconds(s->machine, &group, bytes)
                                               : link_scatter_seconds(s->machine, &group, bytes);
}

/* Exchanges run on processors and memory that computation then lacks: NCCL's 16 to 24 channels of 108 or 132 processors. */
static const double overlap_price = 0.15;

/* What shows of SECONDS of exchange that may pass under WINDOW seconds of computation. */
static double shown(const struct step *s, double seconds, double window)
{
    return seconds - (1 - overlap_price) * fmin(seconds * s->machine->software->data_overlap, window);
}

static void add_data(const struct step *s, const struct stage_time *slowest, struct step_time *out)
{
    const struct plan_layout *l = s->layout;
    if (l->axes.data * l->axes.context == 1)
        return;
    double elements = (double)memory_stage_parameters(s->model, l, 0), size = plan_type_size(s->machine->type);
    double gradients = scatter(s, 4 * elements), weights = scatter(s, size * elements), times = s->microbatches;
    switch (l->zero) {
    case 0: out->data = shown(s, 2 * gradients, slowest->backward); break;
    case 1: out->data = shown(s, gradients, slowest->backward) + shown(s, weights, slowest->forward); break;
    case 2: out->data = times * shown(s, gradients, slowest->backward) + shown(s, weights, slowest->forward); break;
    default:
        out->data = times * (shown(s, gradients + weights, slowest->backward) + shown(s, weights, slowest->forward));
        break;
    }
}

static void add_optimizer(const struct step *s, struct step_time *out)
{
    double elements = (double)memory_stage_parameters(s->model, s->layout, 0) / (s->layout->zero >= 1 ? s->layout->axes.data : 1);
    out->optimizer = kernel_stream_seconds(s->machine->gpu, elements * s->machine->software->optimizer_bytes, 10);
}

struct step_time step_time_with(const struct plan_model *model, const struct plan_layout *layout, const struct machine *machine,
                                const struct block_time *block, const struct block_time *head)
{
    struct step s = {model, layout, machine, block, head, ceil((double)layout->microbatches / layout->axes.data)};
    struct step_time out = {0};
    struct stage_time slowest = {0};
    add_pipeline(&s, &out, &slowest);
    add_sending(&s, &out);
    add_data(&s, &slowest, &out);
    add_optimizer(&s, &out);
    out.total = out.computing + out.tensor + out.bubble + out.sending + out.data + out.optimizer + step_seconds;
    return out;
}

struct step_time step_time_of(const struct plan_model *model, const struct plan_layout *layout, const struct machine *machine)
{
    struct block_time block = block_time_of(model, layout, machine), head = block_time_of_head(model, layout, machine);
    return step_time_with(model, layout, machine, &block, &head);
}
