#include "plan/plan.h"

#include <stdlib.h>
#include <string.h>

#include "base/least.h"

const struct plan_constraints plan_unconstrained = {.zero = -1, .sequence = -1, .recompute = -1, .schedule = -1, .zero_most = 3};

int64_t plan_memory_limit(const struct machine *m)
{
    return (int64_t)((m->gpu->memory_gib - m->software->reserved_gib) * (double)(1 << 30));
}

cairn_err plan_check_machine(const struct machine *m)
{
    if (m->nodes < 1 || m->gpus_per_node < 1 || (int64_t)m->nodes * m->gpus_per_node > 1 << 20)
        return FAIL(CAIRN_ECONFIG, "a plan is for 1 to %d GPUs, not %d nodes of %d", 1 << 20, m->nodes, m->gpus_per_node);
    if (m->gpu->tflops[m->type] <= 0)
        return FAIL(CAIRN_ECONFIG, "a %s has no products of %s", m->gpu->name, plan_type_names[m->type]);
    return CAIRN_OK;
}

static void rate(const struct plan_model *model, const struct machine *machine, struct plan *p)
{
    int64_t samples = p->layout.microbatches * p->layout.samples;
    double gpu_seconds = p->time.total * machine_gpus(machine);
    p->model_flops = plan_model_operations(model, samples) / gpu_seconds;
    p->hardware_flops = plan_hardware_operations(model, samples, p->layout.recompute, machine->software->recomputes_qkv) / gpu_seconds;
}

cairn_err plan_of(const struct plan_model *model, const struct plan_layout *layout, const struct machine *machine, struct plan *out)
{
    const struct memory_rules rules = {machine->type, machine->software, 0, 0};
    *out = (struct plan){.layout = *layout, .memory = memory_of_layout(model, layout, &rules)};
    TRY(step_time_of(model, layout, machine, &out->time));
    rate(model, machine, out);
    return CAIRN_OK;
}

/* ---- the search ---- */

struct search {
    const struct plan_model *model;
    const struct machine *machine;
    const struct plan_constraints *wanted;
    int64_t batch;
    struct memory_rules rules;
    int64_t limit;
    int most;
    struct plan_result *out;
    struct plan candidate;     /* the best variant of the axes and microbatch at hand */
    bool has_candidate;
};

static struct plan_reason *reason(struct search *s, enum plan_refusal kind, int tensor)
{
    struct plan_result *r = s->out;
    for (int i = 0; i < r->reason_count; i++)
        if (r->reasons[i].kind == kind && r->reasons[i].tensor == tensor)
            return &r->reasons[i];
    if (r->reason_count == PLAN_REASONS_MAX) /* the last one takes what has no room of its own */
        return &r->reasons[PLAN_REASONS_MAX - 1];
    r->reasons[r->reason_count] = (struct plan_reason){.kind = kind, .tensor = tensor};
    return &r->reasons[r->reason_count++];
}

static void refuse_memory(struct search *s, const struct plan_layout *l, int64_t missing)
{
    struct plan_reason *r = reason(s, REFUSED_MEMORY, 0);
    if (r->count++ == 0 || missing < r->missing) {
        r->missing = missing;
        r->nearest = *l;
    }
}

/* Keeps the best in order. */
static void keep(struct search *s)
{
    struct plan_result *r = s->out;
    int at = r->count;
    while (at > 0 && s->candidate.time.total < r->best[at - 1].time.total)
        at--;
    if (r->count == s->most)
        reason(s, REFUSED_RANK, 0)->count++;
    if (at >= s->most)
        return;
    int moved = (r->count < s->most ? r->count : s->most - 1) - at;
    memmove(&r->best[at + 1], &r->best[at], (size_t)moved * sizeof *r->best);
    r->best[at] = s->candidate;
    r->count += r->count < s->most;
}

/* Faster, or as fast and smaller. */
static bool better(const struct plan *a, const struct plan *b)
{
    if (a->time.total != b->time.total)
        return a->time.total < b->time.total;
    return plan_memory_total(&a->memory) < plan_memory_total(&b->memory);
}

static void judge(struct search *s, const struct plan_layout *l, const struct block_time *block, const struct block_time *head)
{
    struct plan p = {.layout = *l, .memory = memory_of_layout(s->model, l, &s->rules)};
    int64_t missing = plan_memory_total(&p.memory) - s->limit;
    s->out->tried++;
    if (missing > 0) {
        refuse_memory(s, l, missing);
        return;
    }
    p.time = step_time_estimate(s->model, l, s->machine, block, head);
    if (s->has_candidate)
        reason(s, REFUSED_SLOWER, 0)->count++;
    if (!s->has_candidate || better(&p, &s->candidate))
        s->candidate = p;
    s->has_candidate = true;
}

static bool may(int wanted, int value)
{
    return wanted < 0 || wanted == value;
}

static void try_zero(struct search *s, struct plan_layout *l, const struct block_time *block, const struct block_time *head)
{
    int most = s->wanted->zero > s->wanted->zero_most ? s->wanted->zero : s->wanted->zero_most;
    for (l->zero = 0; l->zero <= (l->axes.data > 1 ? most : 0); l->zero++)
        if (may(s->wanted->zero, l->zero) || (s->wanted->zero > 0 && l->axes.data == 1))
            judge(s, l, block, head);
}

/* What is looked at of an axis. */
struct range {
    int64_t first, last;
};

/* What is given, whatever it is; else from FIRST to LAST. */
static struct range range_of(int64_t wanted, int64_t first, int64_t last)
{
    return wanted ? (struct range){wanted, wanted} : (struct range){first, last};
}

/* More chunks than these shorten the wait of no pipeline by much. */
enum { CHUNKS_MOST = 16 };

/* One chunk a stage: 1F1B and zero bubble (GPipe takes as long as 1F1B and more memory); several: interleaved. */
static void try_schedules(struct search *s, struct plan_layout *l, const struct block_time *block, const struct block_time *head)
{
    static const enum config_schedule singles[] = {CONFIG_1F1B, CONFIG_ZERO_BUBBLE, CONFIG_GPIPE};
    int64_t stage_layers = s->model->layers / l->axes.pipeline;
    int pipelined = l->axes.pipeline > 1 ? 2 : 1;
    if (s->wanted->axes.chunks <= 1) {
        l->axes.chunks = 1;
        for (int i = 0; i < 3; i++)
            if (s->wanted->schedule < 0 ? i < pipelined : (int)singles[i] == s->wanted->schedule) {
                l->schedule = singles[i];
                try_zero(s, l, block, head);
            }
    }
    if (pipelined == 1 || s->wanted->axes.chunks == 1 || !may(s->wanted->schedule, CONFIG_INTERLEAVED))
        return;
    l->schedule = CONFIG_INTERLEAVED;
    const struct range chunks = range_of(s->wanted->axes.chunks, 2, CHUNKS_MOST);
    for (l->axes.chunks = (int)chunks.first; l->axes.chunks <= stage_layers && l->axes.chunks <= chunks.last; l->axes.chunks++)
        if (stage_layers % l->axes.chunks == 0 || s->wanted->axes.chunks != 0)
            try_zero(s, l, block, head);
    l->axes.chunks = 1;
}

/* All variants of the axes and microbatch of L; the best one is a candidate. */
static void try_variants(struct search *s, struct plan_layout *l)
{
    s->has_candidate = false;
    l->zero = 0;
    s->rules.gradient_slots = memory_gradient_slots(l, s->machine->software);
    l->zero = 2;
    s->rules.sharded_slots = memory_gradient_slots(l, s->machine->software);
    for (int sequence = 0; sequence <= (l->axes.tensor > 1); sequence++)
        for (int recompute = RECOMPUTE_NONE; recompute <= RECOMPUTE_BLOCK; recompute++) {
            if (!(may(s->wanted->sequence, sequence) || l->axes.tensor == 1) || !may(s->wanted->recompute, recompute))
                continue;
            l->sequence = sequence;
            l->recompute = (enum config_recompute)recompute;
            struct block_time block = block_time_of(s->model, l, s->machine), head = block_time_of_head(s->model, l, s->machine);
            try_schedules(s, l, &block, &head);
        }
    if (s->has_candidate)
        keep(s);
}

/* Microbatches of so many samples are worth a look: larger ones make no product faster. */
enum { SAMPLES_MOST = 512 };

static void try_batches(struct search *s, struct plan_layout *l)
{
    const struct range samples = range_of(s->wanted->samples, 1, SAMPLES_MOST);
    for (l->samples = samples.first; l->samples <= s->batch && l->samples <= samples.last; l->samples++) {
        if (s->batch % l->samples != 0)
            continue;
        l->microbatches = s->batch / l->samples;
        if (l->microbatches < l->axes.data)
            reason(s, REFUSED_BATCH, 0)->count++;
        else
            try_variants(s, l);
    }
}

static bool fits_axis(int wanted, int64_t value)
{
    return wanted == 0 || wanted == value;
}

/* Groups of the data axis that share a block's experts, as many to each. */
static void try_experts(struct search *s, struct plan_layout *l)
{
    int64_t experts = s->model->experts > 0 ? s->model->experts : 1;
    const struct range groups = range_of(s->wanted->axes.expert, 1, least(experts, l->axes.data));
    for (int64_t e = groups.first; e <= groups.last; e++)
        if (experts % e == 0 && l->axes.data % e == 0) {
            l->axes.expert = (int)e;
            try_batches(s, l);
        }
    l->axes.expert = 1;
}

/* Stages, and what is left for data. */
static void try_pipelines(struct search *s, struct plan_layout *l)
{
    int64_t left = machine_gpus(s->machine) / (l->axes.tensor * l->axes.context);
    for (int stages = 1; stages <= left && stages <= s->model->layers; stages++) {
        if (left % stages != 0 || !fits_axis(s->wanted->axes.pipeline, stages) || !fits_axis(s->wanted->axes.data, left / stages))
            continue;
        l->axes.pipeline = stages;
        l->axes.data = (int)(left / stages);
        bool crosses = l->axes.tensor > s->machine->gpus_per_node || s->machine->gpus_per_node % l->axes.tensor != 0;
        if (crosses && s->wanted->axes.tensor == 0)
            reason(s, REFUSED_NODE, l->axes.tensor)->count++;
        else if (s->model->heads % l->axes.tensor != 0 && s->wanted->axes.tensor == 0)
            reason(s, REFUSED_HEADS, l->axes.tensor)->count++;
        else
            try_experts(s, l);
    }
}

/* Pieces of a sequence below this many tokens are not worth a ring. */
enum { CONTEXT_LEAST = 4096 };

static void try_all(struct search *s)
{
    int64_t gpus = machine_gpus(s->machine), pieces = s->model->context / CONTEXT_LEAST;
    const struct layout *wanted = &s->wanted->axes;
    const struct range tensor = range_of(wanted->tensor, 1, least(s->model->heads, 16 * s->machine->gpus_per_node));
    const struct range context = range_of(wanted->context, 1, pieces > 1 ? pieces : 1);
    struct plan_layout l = {.axes = {.expert = 1, .chunks = 1}, .modes = s->wanted->modes};
    for (int64_t t = tensor.first; t <= tensor.last && t <= gpus; t++)
        for (int64_t c = context.first; c <= context.last && c <= gpus / t; c *= 2) {
            if (gpus % (t * c) != 0)
                continue;
            l.axes.tensor = (int)t;
            l.axes.context = (int)c;
            try_pipelines(s, &l);
        }
}

/* By formula uneven stages are a little wrong: so many times the layouts that are asked for have their schedule run. */
enum { CANDIDATES = 2 };

static int faster_first(const void *a, const void *b)
{
    return better(a, b) ? -1 : better(b, a);
}

/* Runs the schedules of the best by formula, and leaves the best by that. */
static cairn_err run_best(struct search *s, int most)
{
    struct plan_result *r = s->out;
    for (int i = 0; i < r->count; i++) {
        const struct plan_layout layout = r->best[i].layout;
        TRY(plan_of(s->model, &layout, s->machine, &r->best[i]));
    }
    qsort(r->best, (size_t)r->count, sizeof *r->best, faster_first);
    if (r->count > most) {
        reason(s, REFUSED_RANK, 0)->count += r->count - most;
        r->count = most;
    }
    return CAIRN_OK;
}

cairn_err plan_best(const struct plan_model *model, int64_t batch, const struct machine *machine, const struct plan_constraints *constraints,
                    int most, struct plan_result *out)
{
    *out = (struct plan_result){0};
    TRY(plan_check_machine(machine));
    struct search s = {.model = model, .machine = machine, .wanted = constraints, .batch = batch, .most = most, .out = out,
                       .rules = {machine->type, machine->software, 0, 0}, .limit = plan_memory_limit(machine)};
    s.most = CANDIDATES * most;
    out->best = calloc((size_t)s.most, sizeof *out->best);
    if (!out->best)
        return FAIL(CAIRN_ENOMEM, "no memory for plans");
    try_all(&s);
    cairn_err err = run_best(&s, most);
    if (err != CAIRN_OK)
        plan_result_free(out);
    return err;
}

void plan_result_free(struct plan_result *result)
{
    free(result->best);
    *result = (struct plan_result){0};
}
