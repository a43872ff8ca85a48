#include "cmd/plan_print.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/duration.h"
#include "plan/checkpoint_interval.h"

static const double gb = 1e9;

static double share_of_peak(const struct plan_request *r, double flops)
{
    return 100 * flops / (r->machine.gpu->tflops[r->machine.type] * 1e12);
}

/* Restarting takes reading the state back, which is no slower than writing it, and starting the ranks. */
static const double start_seconds = 120;

struct checkpoint_times {
    double bytes, write, mtbf, interval, loss;
    int64_t steps; /* the interval in steps, one at least */
};

static struct checkpoint_times checkpoint_times_of(const struct plan_request *r, const struct plan *p)
{
    struct checkpoint_times t = {.bytes = 12 * (double)plan_parameters(&r->model)}; /* master weights and two moments, float32 */
    t.write = t.bytes / (r->write_gb_s * gb * r->machine.nodes);
    t.mtbf = r->mtbf_hours * 3600 / r->machine.nodes;
    t.interval = checkpoint_interval_daly(t.write, t.mtbf);
    t.steps = (int64_t)fmax(1, round(t.interval / p->time.total));
    t.loss = checkpoint_interval_loss(t.interval, t.write, start_seconds + t.write, t.mtbf);
    return t;
}

/* ---- for people ---- */

void plan_print_request(const struct plan_request *r)
{
    const struct machine *m = &r->machine;
    printf("%.3g B parameters, %lld samples of %lld tokens a step; %d nodes x %d %s, %s, %s, as %s trains\n",
           (double)plan_parameters(&r->model) / 1e9, (long long)r->batch, (long long)r->model.context, m->nodes, m->gpus_per_node,
           m->gpu->name, m->network->name, plan_type_names[m->type], m->software->name);
}

static void print_row(const struct plan_request *r, const struct plan *p)
{
    static const char *const schedules[] = {"gpipe", "1f1b", "interl.", "zero-b."}, *const recomputes[] = {"none", "attn", "block"};
    const struct plan_layout *l = &p->layout;
    char stages[32];
    snprintf(stages, sizeof stages, l->axes.chunks > 1 ? "%d x %d" : "%d", l->axes.pipeline, l->axes.chunks);
    printf("%6d %4d%s %4d %4d %8s %-7s %6lld %4d %-6s %7.1f %10.4g %8.1f %5.1f %8.1f\n", l->axes.data, l->axes.tensor, l->sequence ? "s" : " ",
           l->axes.context, l->axes.expert, stages, l->axes.pipeline > 1 ? schedules[l->schedule] : "-", (long long)l->samples, l->zero,
           recomputes[l->recompute], (double)plan_memory_total(&p->memory) / gb, p->time.total, p->model_flops / 1e12,
           share_of_peak(r, p->model_flops), p->hardware_flops / 1e12);
}

void plan_print_best(const struct plan_request *r, const struct plan_result *result)
{
    if (result->count == 0) {
        printf("No layout fits.\n");
        return;
    }
    printf("\n  data tensor ctx  exp   stages sched.  microb zero recomp  GB/GPU     step s  Tflop/s %%peak hardware\n");
    for (int i = 0; i < result->count; i++)
        print_row(r, &result->best[i]);
}

static void print_reason(const struct plan_request *r, const struct plan_reason *reason)
{
    char text[PLAN_LAYOUT_TEXT_SIZE];
    printf("  %lld ", (long long)reason->count);
    switch (reason->kind) {
    case REFUSED_NODE: printf("(axes): tensor %d would cross nodes of %d GPUs\n", reason->tensor, r->machine.gpus_per_node); break;
    case REFUSED_HEADS: printf("(axes): tensor %d does not divide %lld heads\n", reason->tensor, (long long)r->model.heads); break;
    case REFUSED_BATCH: printf("(axes): fewer microbatches than data-parallel replicas\n"); break;
    case REFUSED_MEMORY:
        printf("do not fit in a GPU's memory (the nearest by %.3g GB: %s)\n", (double)reason->missing / gb, plan_layout_text(&reason->nearest, text));
        break;
    case REFUSED_SLOWER: printf("are slower than another schedule, zero, recompute or sequence for the same axes and microbatch\n"); break;
    case REFUSED_RANK: printf("(axes): fit, but are slower than those shown\n"); break;
    case REFUSAL_KINDS: break;
    }
}

void plan_print_reasons(const struct plan_request *r, const struct plan_result *result)
{
    printf("\n%lld layouts judged. Why the others lost:\n", (long long)result->tried);
    for (int kind = 0; kind < REFUSAL_KINDS; kind++)
        for (int i = 0; i < result->reason_count; i++)
            if ((int)result->reasons[i].kind == kind)
                print_reason(r, &result->reasons[i]);
}

static void print_part(const char *name, double seconds, double total)
{
    if (seconds > 0)
        printf("  %-34s %10.4g s  %5.1f %%\n", name, seconds, 100 * seconds / total);
}

void plan_print_one(const struct plan_request *r, const struct plan *p)
{
    char text[PLAN_LAYOUT_TEXT_SIZE];
    const struct plan_memory *m = &p->memory;
    const struct step_time *t = &p->time;
    int64_t missing = plan_memory_total(m) - plan_memory_limit(&r->machine);
    printf("\n%s\n\nmemory of the rank that needs the most, GB:\n", plan_layout_text(&p->layout, text));
    printf("  parameters %.2f, gradients %.2f, optimizer %.2f, activations %.2f, buffers %.2f: %.2f of %.2f%s\n", (double)m->parameters / gb,
           (double)m->gradients / gb, (double)m->optimizer / gb, (double)m->activations / gb, (double)m->buffers / gb,
           (double)plan_memory_total(m) / gb, (double)plan_memory_limit(&r->machine) / gb, missing > 0 ? ": DOES NOT FIT" : "");
    printf("\nstep: %.4g s\n", t->total);
    print_part("computing", t->computing, t->total);
    print_part("tensor group's exchanges", t->tensor, t->total);
    print_part("experts' exchanges", t->expert, t->total);
    print_part("waiting for other stages", t->bubble, t->total);
    print_part("sending between stages", t->sending, t->total);
    print_part("data group's exchanges", t->data, t->total);
    print_part("optimizer", t->optimizer, t->total);
    printf("\nmodel %.1f Tflop/s a GPU, %.1f %% of peak; with recomputation %.1f, %.1f %%; %.0f tokens/s\n", p->model_flops / 1e12,
           share_of_peak(r, p->model_flops), p->hardware_flops / 1e12, share_of_peak(r, p->hardware_flops),
           (double)(r->batch * r->model.context) / t->total);
}

void plan_print_checkpoints(const struct plan_request *r, const struct plan *p)
{
    struct checkpoint_times t = checkpoint_times_of(r, p);
    printf("\ncheckpoints: %.4g GB, written in %.3g s at %.3g GB/s a node; one node in %d fails every %.3g h: write one every %.0f s, "
           "checkpoint.every=%lld; %.2f %% of the time is lost\n", t.bytes / gb, t.write, r->write_gb_s, r->machine.nodes, t.mtbf / 3600, t.interval,
           (long long)t.steps, 100 * t.loss);
}

/* ---- for programs ---- */

static json_t *layout_json(const struct plan_layout *l)
{
    static const char *const schedules[] = {"gpipe", "1f1b", "interleaved", "zero-bubble"}, *const recomputes[] = {"none", "attention", "block"};
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:s, s:I, s:I, s:i, s:b, s:s}", "data", l->axes.data, "tensor", l->axes.tensor, "context",
                     l->axes.context, "pipeline", l->axes.pipeline, "chunks", l->axes.chunks, "expert", l->axes.expert,
                     "schedule", schedules[l->schedule], "microbatches", (json_int_t)l->microbatches, "samples",
                     (json_int_t)l->samples, "zero", l->zero, "sequence", (int)l->sequence, "recompute", recomputes[l->recompute]);
}

static json_t *one_json(const struct plan_request *r, const struct plan *p)
{
    const struct plan_memory *m = &p->memory;
    const struct step_time *t = &p->time;
    json_t *memory = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "parameters", (json_int_t)m->parameters, "gradients",
                               (json_int_t)m->gradients, "optimizer", (json_int_t)m->optimizer, "activations", (json_int_t)m->activations,
                               "buffers", (json_int_t)m->buffers, "total", (json_int_t)plan_memory_total(m), "limit",
                               (json_int_t)plan_memory_limit(&r->machine), "fits", plan_memory_total(m) <= plan_memory_limit(&r->machine));
    json_t *seconds = json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "step", t->total, "computing", t->computing, "tensor", t->tensor,
                                "expert", t->expert, "bubble", t->bubble, "sending", t->sending, "data", t->data, "optimizer", t->optimizer);
    return json_pack("{s:o, s:o, s:o, s:f, s:f, s:f, s:f, s:f}", "layout", layout_json(&p->layout), "memory_bytes", memory, "seconds", seconds,
                     "model_flops_per_gpu", p->model_flops, "model_percent_of_peak", share_of_peak(r, p->model_flops), "hardware_flops_per_gpu",
                     p->hardware_flops, "hardware_percent_of_peak", share_of_peak(r, p->hardware_flops), "tokens_per_second",
                     (double)(r->batch * r->model.context) / t->total);
}

static json_t *request_json(const struct plan_request *r)
{
    const struct machine *m = &r->machine;
    return json_pack("{s:I, s:I, s:I, s:i, s:i, s:s, s:s, s:s, s:s}", "parameters", (json_int_t)plan_parameters(&r->model), "batch_samples",
                     (json_int_t)r->batch, "context", (json_int_t)r->model.context, "nodes", m->nodes, "gpus_per_node", m->gpus_per_node, "gpu",
                     m->gpu->name, "network", m->network->name, "software", m->software->name, "precision", plan_type_names[m->type]);
}

static json_t *checkpoints_json(const struct plan_request *r, const struct plan *p)
{
    struct checkpoint_times t = checkpoint_times_of(r, p);
    return json_pack("{s:f, s:f, s:f, s:f, s:I, s:f}", "bytes", t.bytes, "write_seconds", t.write, "mtbf_seconds", t.mtbf, "interval_seconds",
                     t.interval, "interval_steps", (json_int_t)t.steps, "lost_share", t.loss);
}

static json_t *reason_json(const struct plan_reason *reason)
{
    static const char *const names[] = {"tensor crosses nodes", "tensor does not divide heads", "fewer microbatches than replicas",
                                        "does not fit in memory", "slower than a variant", "slower than those listed"};
    json_t *o = json_pack("{s:s, s:I}", "reason", names[reason->kind], "count", (json_int_t)reason->count);
    if (o && reason->tensor)
        json_object_set_new(o, "tensor", json_integer(reason->tensor));
    if (o && reason->kind == REFUSED_MEMORY) {
        json_object_set_new(o, "missing_bytes", json_integer(reason->missing));
        json_object_set_new(o, "nearest", layout_json(&reason->nearest));
    }
    return o;
}

json_t *plan_json(const struct plan_request *r, const struct plan_result *result)
{
    json_t *plans = json_array(), *reasons = json_array();
    for (int i = 0; i < result->count; i++)
        json_array_append_new(plans, one_json(r, &result->best[i]));
    for (int i = 0; i < result->reason_count; i++)
        json_array_append_new(reasons, reason_json(&result->reasons[i]));
    return json_pack("{s:o, s:I, s:o, s:o, s:o}", "request", request_json(r), "judged", (json_int_t)result->tried, "plans", plans, "lost", reasons,
                     "checkpoints", result->count ? checkpoints_json(r, &result->best[0]) : json_null());
}

json_t *plan_json_one(const struct plan_request *r, const struct plan *p)
{
    return json_pack("{s:o, s:o, s:o}", "request", request_json(r), "plan", one_json(r, p), "checkpoints", checkpoints_json(r, p));
}
